package inspect

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// A Plan is what a text would do, were it written into the user's ConfigMap now.
type Plan struct {
	Hash string `json:"hash"`
	// Admitted is set if it would be admitted, and else Reasons say why not.
	Admitted bool     `json:"admitted"`
	Reasons  []string `json:"reasons"`
	Warnings []string `json:"warnings"`
	// Confirm is the annotation that would let it be admitted, if one would. What follows then is what would happen.
	Confirm string `json:"confirm,omitempty"`

	Services []ServiceChange `json:"services"`
	Sessions []SessionChange `json:"sessions"`
	Prefixes []PrefixChange  `json:"prefixes"`
	Unread   []Unread        `json:"unread,omitempty"`
}

// A ServiceChange is what would become of a Service's addresses.
type ServiceChange struct {
	Service string       `json:"service"`
	What    string       `json:"what"` // loses, moves or is served
	From    []netip.Addr `json:"from"`
	// To may be other addresses of the same pool: the controller manager remembers which were freed last.
	To  []netip.Addr `json:"to"`
	Why string       `json:"why,omitempty"`
}

// What becomes of a Service.
const (
	Loses  = "loses"
	Moves  = "moves"
	Served = "is served"
)

// A SessionChange is what would become of a session.
type SessionChange struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	What string `json:"what"` // begins, resets or ends
	Why  string `json:"why,omitempty"`
}

// What becomes of a session.
const (
	Begins = "begins"
	Resets = "resets"
	Ends   = "ends"
)

// A PrefixChange counts the nodes on which routers would hear something else of a prefix.
type PrefixChange struct {
	Prefix    netip.Prefix `json:"prefix"`
	Announced int          `json:"announced,omitempty"` // nodes that would begin to announce it
	Changed   int          `json:"changed,omitempty"`   // nodes that would announce it otherwise, or to other peers
	Withdrawn int          `json:"withdrawn,omitempty"` // nodes that would withdraw it
}

// Changes reports whether anything would change beside the text.
func (p Plan) Changes() bool { return len(p.Services)+len(p.Sessions)+len(p.Prefixes) > 0 }

// PlanOf tells what a text would do, with the annotations of its own ConfigMap if it is in one, and else with those in the cluster.
func (v *View) PlanOf(t Text) Plan {
	annotations := t.Annotations
	if annotations == nil && v.User != nil {
		annotations = v.User.Annotations
	}
	return v.Plan(t.Text, annotations)
}

// Plan tells what the text would do. by are the annotations that it would come with.
func (v *View) Plan(text string, annotations map[string]string) Plan {
	p := Plan{
		Hash: service.Hash(text), Reasons: []string{}, Warnings: []string{}, Services: []ServiceChange{}, Sessions: []SessionChange{}, Prefixes: []PrefixChange{},
	}
	next, warnings, err := loadbalancer.Parse([]byte(text))
	p.Unread = v.lacks(needsOf(v.Config, needsOf(next, ConfigMaps, Services, EndpointSlices, Nodes)...)...)
	if err != nil {
		var problems loadbalancer.Problems
		if errors.As(err, &problems) {
			for _, problem := range problems {
				p.Reasons = append(p.Reasons, problem.Error())
			}
		} else {
			p.Reasons = append(p.Reasons, err.Error())
		}
		return p
	}
	facts := v.facts()
	verdict := v.Config.Admit(next, facts)
	for _, w := range slices.Concat(warnings, verdict.Warnings) {
		p.Warnings = append(p.Warnings, w.Error())
	}
	against := verdict.But(v.consent(annotations, p.Hash))
	p.Admitted = against.Admits()
	if !p.Admitted {
		p.Reasons = against.Reasons(p.Hash)
		switch {
		case against.But(loadbalancer.Renumber).Admits():
			p.Confirm = "metallb.universe.tf/" + service.AnnotationRenumber + "=" + p.Hash
		case against.But(loadbalancer.Confirm).Admits():
			p.Confirm = "metallb.universe.tf/" + service.AnnotationConfirm + "=" + p.Hash
		default:
			return p // it never would be
		}
	}
	after := v.renumber(next, verdict.Lost, &p)
	v.resession(next, &p)
	v.reroute(next, after, &p)
	return p
}

// consent is what the annotations have consented to of a text.
func (v *View) consent(annotations map[string]string, hash string) (by loadbalancer.Consent) {
	var used []string
	if v.Admitted != nil {
		used = strings.Split(v.Admitted.Data[service.KeyConfirmed], ",")
	}
	for name, level := range map[string]loadbalancer.Consent{service.AnnotationConfirm: loadbalancer.Confirm, service.AnnotationRenumber: loadbalancer.Renumber} {
		if named, _, err := service.Annotation(annotations, name); err == nil && named == hash && !slices.Contains(used, name+"="+hash) {
			by = max(by, level)
		}
	}
	return by
}

// renumber finds what becomes of the Services' addresses, and returns the Services as they would be.
func (v *View) renumber(next *loadbalancer.Config, lost []loadbalancer.Holding, p *Plan) []speaker.Service {
	allocator, _ := v.adopt()
	settle(allocator)
	before := map[string][]netip.Addr{}
	for _, svc := range v.services {
		before[string(svc.UID)] = allocator.Held(string(svc.UID))
	}
	allocator.Configure(next, v.givenUp(lost))
	settle(allocator)
	after := slices.Clone(v.services)
	for i, svc := range v.services {
		if !v.Ours.Serves(svc.Service) {
			continue
		}
		from, to := before[string(svc.UID)], allocator.Held(string(svc.UID))
		if !slices.Equal(from, to) || !service.Shows(svc.Service, to) {
			changed := *svc.Service
			changed.Status.LoadBalancer.Ingress = service.Status(to).Ingress
			after[i].Service = &changed
		}
		strays := func(addr netip.Addr) bool { return v.config().Pool(addr) != nil && next.Pool(addr) == nil }
		c := ServiceChange{Service: service.Name(svc.Service), From: append([]netip.Addr{}, from...), To: append([]netip.Addr{}, to...)}
		switch {
		case len(to) < len(from) || slices.ContainsFunc(to, strays):
			c.What = Loses
			g, _ := allocator.Check(service.Request(svc.Service))
			c.Why = g.Why.String()
			if c.Why == "" {
				c.Why = "no pool owns it any more, and no node would announce it"
			}
		case slices.Equal(from, to):
			continue
		case len(from) == 0 || len(from) < len(to) && !slices.ContainsFunc(from, func(addr netip.Addr) bool { return !slices.Contains(to, addr) }):
			c.What = Served
		default:
			c.What = Moves
		}
		p.Services = append(p.Services, c)
	}
	return after
}

// givenUp are the addresses that are taken away from Services on purpose, with those that the text would.
func (v *View) givenUp(lost []loadbalancer.Holding) *netipx.IPSet {
	var b netipx.IPSetBuilder
	if v.Admitted != nil {
		if set := service.ReadRanges(v.Admitted.Data[service.KeyGivenUp]); set != nil {
			b.AddSet(set)
		}
	}
	for _, h := range lost {
		b.Add(h.Addr)
	}
	set, err := b.IPSet()
	if err != nil { // only an invalid address is an error, and nobody holds one
		return nil
	}
	return set
}

// settle serves all who wait.
func settle(a *loadbalancer.Allocator) {
	for more := true; more; {
		_, more = a.Serve(func() bool { return true })
	}
}

// resession finds the sessions that would begin, end, or be made anew.
func (v *View) resession(next *loadbalancer.Config, p *Plan) {
	for _, node := range v.nodes {
		had, _, _ := speaker.Peers(v.config(), node, v.passwords(v.config()), v.gateways(node.Name), nil, nil)
		has, _, _ := speaker.Peers(next, node, v.passwords(next), v.gateways(node.Name), had, nil)
		// As bgp.Sessions does it.
		left, found := slices.Clone(had), make([]*loadbalancer.Peer, len(has))
		for _, fits := range []func(a, b loadbalancer.Peer) bool{
			func(a, b loadbalancer.Peer) bool { return a.Name == b.Name && a.SameSession(b) },
			loadbalancer.Peer.SameSession,
			loadbalancer.Peer.SameNeighbor,
		} {
			for i, peer := range has {
				at := slices.IndexFunc(left, func(was loadbalancer.Peer) bool { return fits(peer, was) })
				if found[i] == nil && at >= 0 {
					was := left[at]
					found[i], left = &was, slices.Delete(left, at, at+1)
				}
			}
		}
		for _, was := range left {
			p.Sessions = append(p.Sessions, SessionChange{node.Name, was.Name, Ends, "the router forgets the node's routes"})
		}
		for i, peer := range has {
			switch was := found[i]; {
			case was == nil:
				p.Sessions = append(p.Sessions, SessionChange{node.Name, peer.Name, Begins, ""})
			case !was.SameSession(peer) && was.RestartTime > 0 && peer.RestartTime > 0:
				p.Sessions = append(p.Sessions, SessionChange{node.Name, peer.Name, Resets, "graceful restart keeps the routes meanwhile"})
			case !was.SameSession(peer):
				p.Sessions = append(p.Sessions, SessionChange{node.Name, peer.Name, Resets, "the router drops the routes meanwhile: graceful restart is off"})
			}
		}
	}
}

// reroute counts on how many nodes routers would hear something else.
func (v *View) reroute(next *loadbalancer.Config, after []speaker.Service, p *Plan) {
	changes := map[netip.Prefix]*PrefixChange{}
	at := func(prefix netip.Prefix) *PrefixChange {
		if changes[prefix] == nil {
			changes[prefix] = &PrefixChange{Prefix: prefix}
		}
		return changes[prefix]
	}
	type change struct {
		before, then map[netip.Prefix]map[netip.AddrPort]string
	}
	for _, c := range ahead(v.nodes, func(node *corev1.Node) change {
		was := v.now(node)
		then := v.outlook(next, node, after, was.peers)
		if !reflect.DeepEqual(was.peers, then.peers) {
			return change{heard(was, was.routes), heard(then, then.routes)}
		}
		// What is equal is most of it, and need not be written out.
		left, new := unequal(was.routes, then.routes)
		return change{heard(was, left), heard(then, new)}
	}) {
		before, then := c.before, c.then
		for prefix, heard := range before {
			switch now := then[prefix]; {
			case now == nil:
				at(prefix).Withdrawn++
			case !maps.Equal(heard, now):
				at(prefix).Changed++
			}
		}
		for prefix := range then {
			if before[prefix] == nil {
				at(prefix).Announced++
			}
		}
	}
	for _, c := range changes {
		p.Prefixes = append(p.Prefixes, *c)
	}
	slices.SortFunc(p.Prefixes, func(a, b PrefixChange) int { return comparePrefixes(a.Prefix, b.Prefix) })
}

// unequal returns the routes of prefixes that are not the same in both lists, which are in the order of their prefixes.
func unequal(a, b []loadbalancer.Route) (left, right []loadbalancer.Route) {
	group := func(all []loadbalancer.Route) (n int) {
		for n < len(all) && all[n].Prefix == all[0].Prefix {
			n++
		}
		return n
	}
	for len(a)+len(b) > 0 {
		i, j := group(a), group(b)
		switch {
		case i > 0 && (j == 0 || comparePrefixes(a[0].Prefix, b[0].Prefix) < 0):
			left, j = append(left, a[:i]...), 0
		case i == 0 || comparePrefixes(a[0].Prefix, b[0].Prefix) > 0:
			right, i = append(right, b[:j]...), 0
		case !slices.EqualFunc(a[:i], b[:j], loadbalancer.Route.Equal):
			left, right = append(left, a[:i]...), append(right, b[:j]...)
		}
		a, b = a[i:], b[j:]
	}
	return left, right
}

// heard is what each router hears from a node of these routes, by prefix and router, whatever the names of peers are.
func heard(o *outlook, routes []loadbalancer.Route) map[netip.Prefix]map[netip.AddrPort]string {
	all := map[netip.Prefix]map[netip.AddrPort]string{}
	for _, peer := range o.peers {
		for _, r := range routes {
			if !r.For(peer.Name) {
				continue
			}
			if all[r.Prefix] == nil {
				all[r.Prefix] = map[netip.AddrPort]string{}
			}
			w := wire(o.node.Name, peer, r)
			all[r.Prefix][routerOf(peer)] = fmt.Sprint(w.NextHop, " ", w.Attributes())
		}
	}
	return all
}
