package speaker

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Decisions are what the node tells routers, from what it knows of the cluster and what it remembers: Announcements with time,
// where each change costs what it changes (RFC 4271's Decision Process). They only compute.
type decisions struct {
	world    world
	services map[string]*entry
	slices   map[string]*endpoints // by the slice's namespace/name, also of Services that are not in services
	prefixes map[netip.Prefix]*destination
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

// A destination is a prefix and all offers that have a part in it, in the order of their Services.
type destination struct {
	offers  []*offer
	refused []*offer
	paced   paced
	sent    []loadbalancer.Route
	// asking counts the offers that ask for a route, and weighing those that ask for one with a weight. They agree if all ask for
	// the one that was sent: then one more of them, or one less, makes no difference, however many there are under an aggregate.
	asking, weighing int
	agree            bool
}

// An outcome is what a look at the cluster comes to.
type outcome struct {
	routes  map[netip.Prefix][]loadbalancer.Route // by the prefixes that changed; none: withdrawn
	remarks []remark                              // sorted
}

// A remark is what an operator may want to know of an address.
type remark struct {
	what
	Withheld
}

// A what says which of its announcements changes; in logs in this order.
type what int

const (
	notAnnouncing what = iota // or for another reason than before
	noLongerWithheld
	stillAnnouncing // kept from now on
)

func newDecisions() *decisions {
	return &decisions{
		services: map[string]*entry{}, slices: map[string]*endpoints{}, prefixes: map[netip.Prefix]*destination{},
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

// look decides what becomes of what was noted since the last look, and of what is due.
func (d *decisions) look(now time.Time, w world) (o outcome) {
	everything := !reflect.DeepEqual(d.world, w)
	d.world = w
	d.link()
	for _, due := range d.wakeups.due(now) {
		if due.prefix.IsValid() {
			d.unsettled[due.prefix] = true
		} else if due.service != "" {
			d.dirty[due.service] = true
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
	var changed []*entry
	var before [][]offer
	for _, name := range slices.Sorted(maps.Keys(d.dirty)) {
		if e := d.services[name]; e != nil {
			was := e.offers
			o.remarks = append(o.remarks, d.ask(now, name, e)...)
			if slices.EqualFunc(was, e.offers, func(a, b offer) bool { return a.equal(&b) }) {
				e.offers = was
				continue
			}
			changed, before = append(changed, e), append(before, was)
		}
	}
	d.dirty = map[string]bool{} // one that was large once would be slow for ever
	// The last first and then the first first: where many have a part in one prefix, none of them has to be moved.
	for i := len(changed) - 1; i >= 0; i-- {
		for j := range before[i] {
			for _, prefix := range before[i][j].under {
				d.part(prefix, &before[i][j])
			}
		}
	}
	for _, e := range changed {
		for i := range e.offers {
			for _, prefix := range e.offers[i].under {
				d.join(prefix, &e.offers[i])
			}
		}
	}
	o.routes = make(map[netip.Prefix][]loadbalancer.Route, len(d.unsettled))
	for prefix := range d.unsettled {
		if at := d.prefixes[prefix]; at != nil {
			for _, p := range d.settle(now, prefix, at, o.routes) {
				changed = append(changed, d.services[p.of.name])
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

// join gives an offer its part in a prefix, and part takes it away.
func (d *decisions) join(prefix netip.Prefix, o *offer) {
	at := d.prefixes[prefix]
	if at == nil {
		at = &destination{}
		d.prefixes[prefix] = at
	}
	// Behind those of its Service that are there already.
	i, _ := slices.BinarySearchFunc(at.offers, o, func(p, o *offer) int { return cmp.Or(p.of.compare(o.of), -1) })
	at.offers = slices.Insert(at.offers, i, o)
	at.count(prefix, o, 1)
	if !at.agree || slices.ContainsFunc(o.routes, func(r loadbalancer.Route) bool { return r.Prefix == prefix && !r.Equal(at.sent[0]) }) {
		d.unsettled[prefix] = true
	}
}

func (d *decisions) part(prefix netip.Prefix, o *offer) {
	at := d.prefixes[prefix]
	i, _ := slices.BinarySearchFunc(at.offers, o, func(p, o *offer) int { return p.of.compare(o.of) })
	i += slices.Index(at.offers[i:], o)
	at.offers = slices.Delete(at.offers, i, i+1)
	at.refused = slices.DeleteFunc(at.refused, func(p *offer) bool { return p == o })
	at.count(prefix, o, -1)
	if !at.agree || at.asking == 0 {
		d.unsettled[prefix] = true
	}
}

// count counts what an offer asks for of the prefix, by 1 or -1.
func (at *destination) count(prefix netip.Prefix, o *offer, by int) {
	for _, r := range o.routes {
		if r.Prefix == prefix {
			at.asking += by
		}
		if r.Prefix == prefix && r.Weight > 0 {
			at.weighing += by
		}
	}
}

// settle finds what routers should be told of a prefix now, and puts it into routes if that is news. It returns the offers that
// are refused now, or were.
func (d *decisions) settle(now time.Time, prefix netip.Prefix, at *destination, routes map[netip.Prefix][]loadbalancer.Route) (touched []*offer) {
	wanted, refused := settle(prefix, at.offers)
	send, paced := pace(now, at.paced, wanted)
	if d.world.drained {
		send = ShutDown(send)
	}
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
	at.refused, at.paced, at.sent = refused, paced, send
	at.agree = len(send) == 1 && len(refused) == 0 && at.weighing == 0 && !d.world.drained
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
			told = append(told, Withheld{e.offers[i].announced(), why})
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
