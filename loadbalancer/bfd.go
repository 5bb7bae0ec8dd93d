package loadbalancer

import (
	"maps"
	"math"
	"slices"
	"time"

	"gopkg.in/yaml.v3"
)

// bfdProfiles reads the profiles, and returns where each name stands. Earlier releases read none of them: where an admitted text has
// one that is wrong, speakers do without.
func (r *reader) bfdProfiles(list value) (profiles []BFDProfile, names map[string]value) {
	names = map[string]value{}
	if r.tolerant && !list.absent() && list.node.Kind != yaml.SequenceNode {
		r.ignored++
		return nil, names
	}
	for _, item := range r.items(list) {
		sound := len(r.problems)
		profile := r.bfdProfile(item, names)
		if r.tolerant && len(r.problems) > sound {
			r.problems = slices.Delete(r.problems, sound, len(r.problems))
			r.ignored++
			delete(names, profile.Name)
			continue
		}
		profiles = append(profiles, profile)
	}
	return profiles, names
}

func (r *reader) bfdProfile(v value, names map[string]value) BFDProfile {
	f, ok := r.fields(v, bfdProfileKeys)
	if !ok {
		return BFDProfile{}
	}
	r.require(v, f, "name", "give the profile a name")
	interval := func(v value) time.Duration { return time.Duration(r.number(v, 10, 60000, 300)) * time.Millisecond }
	return BFDProfile{
		Name:             r.name(names, "BFD profile", v, f["name"]),
		ReceiveInterval:  interval(f["receive-interval"]),
		TransmitInterval: interval(f["transmit-interval"]),
		DetectMultiplier: uint8(r.number(f["detect-multiplier"], 2, math.MaxUint8, 3)),
		Passive:          r.flag(f["passive-mode"], false),
		MinimumTTL:       uint8(r.number(f["minimum-ttl"], 1, 254, 254)), // as MetalLB and FRR
	}
}

// bfdProfileOf reads which profile a peer has.
func (r *reader) bfdProfileOf(v value, profiles map[string]value) string {
	if r.tolerant && !v.absent() && (v.node.Value == "" || profiles[v.node.Value].absent()) {
		r.ignored++
		return ""
	}
	name, ok := r.text(v)
	if _, known := profiles[name]; ok && !known {
		r.stranger(v, "is the name of no item of bfd-profiles", maps.Keys(profiles), "write one that stands there, or remove the key")
		return ""
	}
	return name
}
