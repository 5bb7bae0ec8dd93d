package speaker

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Decisions are what the node tells routers, from what it knows of the cluster and what it remembers: Announcements with time,
// where each change costs what it changes (RFC 4271's Decision Process). They only compute.
type decisions struct {
	world    world
	services map[string]*entry
	slices   map[string]*endpoints // by the slice's namespace/name, also of Services that are not in services
	prefixes map[netip.Prefix]*destination
	// nodes are those of the cluster, and members what they are in the world, by name; none if nobody is ranked.
	nodes   map[string]*corev1.Node
	members []*member
	// strange are the nodes that have to be looked at.
	strange map[string]bool
	// showing counts the Services whose status shows an address, and keepers are those that keep one: mostly none.
	showing map[netip.Addr]int
	keepers map[string]*entry
	wakeups wakeups
	// routes and withheld count what is announced and what is not.
	routes, withheld int

	// dirty are the Services that have to be looked at, and fresh those of them whose slices have to be found first.
	dirty map[string]bool
	fresh []*entry
	// unsettled are the prefixes that have to be looked at.
	unsettled map[netip.Prefix]bool
}

// An entry is what is known and remembered of a Service.
type entry struct {
	*record              // nil: it is gone
	found   []*endpoints // nobody changes the list itself
	linked  bool         // found is complete
	shown   []shown
	kept    []netip.Addr
	places  [2]*standing // by IP version; with the policy Local
	offers  []offer
	told    []Withheld // of what is not announced, what was said last
}

// A move is what becomes of a Service's offers.
type move struct{ from, to []offer }

// A destination is a prefix and all offers that have a part in it, in the order of their Services.
type destination struct {
	offers  []*offer
	refused []*offer
	paced   paced
	// wanted are the routes before pace and drain, and rankings those of their nodes.
	wanted   []loadbalancer.Route
	rankings []ranking
	sent     []loadbalancer.Route
	// asking counts the offers that ask for a route. They agree if all ask for the one that is wanted, and the live ones for asks:
	// then one more of them, or one less, makes no difference, however many there are under an aggregate.
	asking int
	asks   loadbalancer.Asks
	agree  bool
}

// An outcome is what a look at the cluster comes to.
type outcome struct {
	routes  map[netip.Prefix][]loadbalancer.Route // by the prefixes that changed; none: withdrawn
	remarks []remark                              // sorted
}

// A remark is what an operator may want to know of an address: one of these, and why.
type remark struct {
	what int
	Withheld
}

// In the order of logs.
const (
	notAnnouncing   = iota // or for another reason than before
	stillAnnouncing        // kept from now on
	noLongerWithheld
)

func newDecisions() *decisions {
	return &decisions{
		services: map[string]*entry{}, slices: map[string]*endpoints{}, prefixes: map[netip.Prefix]*destination{},
		nodes: map[string]*corev1.Node{}, strange: map[string]bool{},
		showing: map[netip.Addr]int{}, keepers: map[string]*entry{}, dirty: map[string]bool{}, unsettled: map[netip.Prefix]bool{},
	}
}

// setService notes what a Service is like now; nil: it is gone.
func (d *decisions) setService(name string, r *record) {
	e := d.services[name]
	if e == nil {
		if r == nil {
			return
		}
		e = &entry{}
		d.services[name] = e
		d.fresh = append(d.fresh, e)
	}
	if r != nil && reflect.DeepEqual(r, e.record) {
		return // nothing that matters
	}
	if e.record != nil {
		for _, addr := range e.addrs {
			if d.showing[addr]--; d.showing[addr] == 0 {
				delete(d.showing, addr)
			}
		}
		if r == nil || r.uid != e.uid {
			e.shown = nil // it is another Service under the same name
		}
	}
	e.record = r
	d.dirty[name] = true
	if r == nil {
		return
	}
	for _, addr := range r.addrs {
		d.showing[addr]++
		for keeper, k := range d.keepers {
			if slices.Contains(k.kept, addr) {
				d.dirty[keeper] = true
			}
		}
	}
}

// setSlice notes what an EndpointSlice is like now; nil: it is gone. It reports whether that concerns a Service.
func (d *decisions) setSlice(name string, s *endpoints) (concerns bool) {
	was := d.slices[name]
	if s != nil && reflect.DeepEqual(was, s) {
		return d.services[s.service] != nil // nothing that matters
	}
	if was != nil {
		if e := d.services[was.service]; e != nil {
			concerns, d.dirty[was.service] = true, true
			if i := slices.Index(e.found, was); i >= 0 {
				e.found = slices.Concat(e.found[:i], e.found[i+1:])
			}
		}
		delete(d.slices, name)
	}
	if s != nil {
		d.slices[name] = s
		if e := d.services[s.service]; e != nil {
			concerns, d.dirty[s.service] = true, true
			if e.linked {
				e.found = append(slices.Clip(e.found), s)
			}
		}
	}
	return concerns
}

// link finds the slices of Services that are new. An index of all slices would take more memory than the slices themselves.
func (d *decisions) link() {
	if len(d.fresh) > 0 {
		for _, s := range d.slices {
			if e := d.services[s.service]; e != nil && !e.linked {
				e.found = append(e.found, s)
			}
		}
	}
	for _, e := range d.fresh {
		e.linked = true
	}
	d.fresh = nil
}

// setNode notes what a node of the cluster is like now; nil: it is gone. It reports whether that matters.
func (d *decisions) setNode(name string, node *corev1.Node) bool {
	if reflect.DeepEqual(d.nodes[name], node) {
		return false
	}
	if d.nodes[name] = node; node == nil {
		delete(d.nodes, name)
	}
	d.strange[name] = true
	return true
}

// enroll finds what the nodes are that have changed, and the prefixes to which that makes a difference.
func (d *decisions) enroll(now time.Time, everything bool) {
	if !d.world.config.Ranks() {
		for _, m := range d.members {
			d.wakeups.set(subject{node: m.name}, time.Time{})
		}
		d.members = nil
		return
	}
	if everything {
		for name := range d.nodes {
			d.strange[name] = true
		}
	}
	if len(d.strange) == 0 {
		return
	}
	var changes []change
	first := len(d.members) == 0
	for name := range d.strange {
		var c change
		i, known := slices.BinarySearchFunc(d.members, name, func(m *member, name string) int { return cmp.Compare(m.name, name) })
		if known {
			c.was = d.members[i]
			d.members = slices.Delete(d.members, i, i+1)
		}
		var wake time.Time
		if node := d.nodes[name]; node != nil {
			c.is, wake = d.world.memberOf(now, node)
			if known && c.is.equal(c.was) {
				c.is = c.was
			}
			d.members = slices.Insert(d.members, i, c.is)
		}
		d.wakeups.set(subject{node: name}, wake)
		if c.is != c.was {
			changes = append(changes, c)
		}
	}
	d.strange = map[string]bool{}
	for prefix, at := range d.prefixes {
		if first || slices.ContainsFunc(changes, func(c change) bool { return c.matters(prefix, at.rankings) }) {
			d.unsettled[prefix] = true
		}
	}
}

// look decides what becomes of what was noted since the last look, and of what is due.
func (d *decisions) look(now time.Time, w world) (o outcome) {
	everything := !reflect.DeepEqual(d.world, w)
	d.world = w
	d.link()
	for _, due := range d.wakeups.due(now) {
		switch {
		case due.prefix.IsValid():
			d.unsettled[due.prefix] = true
		case due.service != "":
			d.dirty[due.service] = true
		case due.node != "":
			d.strange[due.node] = true
		}
	}
	if everything {
		for name := range d.services {
			d.dirty[name] = true
		}
		for prefix := range d.prefixes {
			d.unsettled[prefix] = true
		}
	}
	d.enroll(now, everything)
	var changed []*entry
	var moved []move
	for _, name := range slices.Sorted(maps.Keys(d.dirty)) {
		e := d.services[name]
		if e == nil {
			continue
		}
		was := e.offers
		o.remarks = append(o.remarks, d.ask(now, name, e)...)
		switch {
		case slices.EqualFunc(was, e.offers, func(a, b offer) bool { return a.equal(&b) }):
			e.offers = was
			continue
		case slices.EqualFunc(was, e.offers, func(a, b offer) bool { return slices.Equal(a.under, b.under) }):
			// As nearly always: each keeps its place among those that have a part in a prefix, however many they are.
			for i := range was {
				d.count(&was[i], -1)
				e.offers[i].refused = was[i].refused
				was[i] = e.offers[i]
				d.count(&was[i], 1)
			}
			e.offers = was
		default:
			moved = append(moved, move{was, e.offers})
		}
		changed = append(changed, e)
	}
	d.dirty = map[string]bool{} // one that was large once would be slow for ever
	// The last first and then the first first: where many have a part in one prefix, none of them has to be moved.
	for _, m := range slices.Backward(moved) {
		for i := range m.from {
			d.part(&m.from[i])
		}
	}
	for _, m := range moved {
		for i := range m.to {
			d.join(&m.to[i])
		}
	}
	o.routes = make(map[netip.Prefix][]loadbalancer.Route, len(d.unsettled))
	for prefix := range d.unsettled {
		if at := d.prefixes[prefix]; at != nil {
			for _, p := range d.settle(now, prefix, at, o.routes) {
				changed = append(changed, d.services[p.Service])
			}
		}
	}
	d.unsettled = map[netip.Prefix]bool{}
	for _, e := range changed {
		d.remark(&o, e)
	}
	slices.SortFunc(o.remarks, func(a, b remark) int {
		return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.Service, b.Service), a.Addr.Compare(b.Addr))
	})
	return o
}

// ask finds what a Service offers now, and returns what it keeps from now on.
func (d *decisions) ask(now time.Time, name string, e *entry) (more []remark) {
	var wake time.Time
	var places [2]*standing
	var kept []netip.Addr
	e.offers = nil
	if e.record == nil {
		delete(d.services, name)
	} else {
		kept, e.shown, wake = d.world.keep(now, e.shown, e.record, func(addr netip.Addr) bool { return d.showing[addr] > 0 })
		if d.world.serves(e.record) {
			var late [2]bool
			for _, addr := range slices.Concat(e.addrs, kept) {
				if family := familyOf(addr); e.local && places[family] == nil {
					places[family] = e.places[family].next(now, e.found, family)
					late[family] = !places[family].until.IsZero()
					wake = earlier(wake, places[family].until)
				}
			}
			e.offers = d.world.offers(e.record, e.found, kept, late)
		}
	}
	if delete(d.keepers, name); len(kept) > 0 {
		d.keepers[name] = e
	}
	for _, addr := range kept {
		if !slices.Contains(e.kept, addr) {
			more = append(more, remark{stillAnnouncing, Withheld{Announced{name, addr}, "it left the status of its Service, and nobody released it: at most " + keptFor.String()}})
		}
	}
	e.kept, e.places = kept, places
	d.wakeups.set(subject{service: name}, wake)
	return more
}

// join gives an offer its part in its prefixes, and part takes it away.
func (d *decisions) join(o *offer) {
	for _, prefix := range o.under {
		at := d.prefixes[prefix]
		if at == nil {
			at = &destination{}
			d.prefixes[prefix] = at
		}
		// Behind those of its Service that are there already.
		i, _ := slices.BinarySearchFunc(at.offers, o, func(p, o *offer) int { return cmp.Or(cmp.Compare(p.Service, o.Service), -1) })
		at.offers = slices.Insert(at.offers, i, o)
	}
	d.count(o, 1)
}

func (d *decisions) part(o *offer) {
	d.count(o, -1)
	for _, prefix := range o.under {
		at := d.prefixes[prefix]
		i, _ := slices.BinarySearchFunc(at.offers, o, func(p, o *offer) int { return cmp.Compare(p.Service, o.Service) })
		i += slices.Index(at.offers[i:], o)
		at.offers = slices.Delete(at.offers, i, i+1)
		at.refused = slices.DeleteFunc(at.refused, func(p *offer) bool { return p == o })
	}
}

// count counts what an offer asks for, by 1 or -1, and notes where that may make a difference.
func (d *decisions) count(o *offer, by int) {
	for _, prefix := range o.under {
		at := d.prefixes[prefix]
		if o.live && (o.asks != at.asks || o.nodes != nil && at.rankings != nil) {
			at.agree = false
		}
		for _, r := range o.routes {
			if r.Prefix == prefix {
				at.asking += by
				at.agree = at.agree && r.Equal(at.wanted[0])
			}
		}
		if !at.agree || at.asking == 0 {
			d.unsettled[prefix] = true
		}
	}
}

// settle finds what routers should be told of a prefix now, and puts it into routes if that is news. It returns the offers that
// are refused now, or were.
func (d *decisions) settle(now time.Time, prefix netip.Prefix, at *destination, routes map[netip.Prefix][]loadbalancer.Route) (touched []*offer) {
	wanted, refused := d.world.settle(prefix, at.offers)
	rankings := d.world.rank(prefix, wanted, at.offers, d.members)
	send, paced := d.world.send(now, at.paced, wanted, at.offers, rankings)
	for _, o := range at.refused {
		o.refused = slices.DeleteFunc(o.refused, func(p netip.Prefix) bool { return p == prefix })
	}
	for _, o := range refused {
		o.refused = append(o.refused, prefix)
	}
	touched = slices.Concat(at.refused, refused)
	if !slices.EqualFunc(send, at.sent, loadbalancer.Route.Equal) {
		routes[prefix] = send
	}
	d.routes += len(send) - len(at.sent)
	at.wanted, at.rankings, at.refused, at.paced, at.sent = wanted, rankings, refused, paced, send
	asks := asked(at.offers)
	at.agree = len(wanted) == 1 && len(refused) == 0 && wanted[0].Weight == 0 && len(asks) == 1 &&
		(rankings == nil || !slices.ContainsFunc(at.offers, func(o *offer) bool { return o.nodes != nil }))
	if at.agree {
		at.asks = asks[0]
	}
	d.wakeups.set(subject{prefix: prefix}, paced.due())
	if len(at.offers) == 0 {
		delete(d.prefixes, prefix)
	}
	return touched
}

// remark adds to the outcome what has changed of what is withheld from a Service.
func (d *decisions) remark(o *outcome, e *entry) {
	var told []Withheld
	for i := range e.offers {
		if why := e.offers[i].withheld(); why != "" {
			told = append(told, Withheld{e.offers[i].Announced, why})
		}
	}
	for _, w := range told {
		if !slices.Contains(e.told, w) {
			o.remarks = append(o.remarks, remark{notAnnouncing, w})
		}
	}
	for _, w := range e.told {
		if !slices.ContainsFunc(told, func(t Withheld) bool { return t.Announced == w.Announced }) {
			o.remarks = append(o.remarks, remark{noLongerWithheld, Withheld{Announced: w.Announced}})
		}
	}
	d.withheld += len(told) - len(e.told)
	e.told = told
}
