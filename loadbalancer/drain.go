package loadbalancer

import (
	"math"
	"slices"
	"strings"
	"time"
)

var withdrawAfter = period{time.Second, math.MaxUint16 * time.Second, true, "0, which is never, or 1s to 65535s"}

var effects = []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}

func (r *reader) drain(v value) (d Drain) {
	f, _ := r.fields(v, drainKeys)
	d.WithdrawAfter = r.seconds(f["withdraw-after"], withdrawAfter, 0)
	const rule = "write the key of a taint or label"
	for item, text := range r.words(f["taints"], rule) {
		text, effect, limited := strings.Cut(text, ":")
		if limited && !slices.Contains(effects, effect) {
			r.wrong(item, "has an effect that no taint has: use NoSchedule, PreferNoSchedule or NoExecute")
			continue
		}
		d.Taints = append(d.Taints, r.mark(item, text, effect, "key, key=value, key:effect or key=value:effect"))
	}
	for item, text := range r.words(f["labels"], rule) {
		d.Labels = append(d.Labels, r.mark(item, text, "", "key or key=value"))
	}
	return d
}

// mark reads a taint or a label as kubectl writes them.
func (r *reader) mark(v value, text, effect, form string) Mark {
	key, val, valued := strings.Cut(text, "=")
	if !isLabelKey(key) || !isLabelValue(val) {
		r.wrong(v, "cannot mark a node: write it as kubectl does, %s", form)
	}
	return Mark{Key: key, Value: val, Any: !valued, Effect: effect}
}
