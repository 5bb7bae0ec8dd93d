package loadbalancer

import (
	"cmp"
	"container/heap"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// waiting are the Services that do not have what they ask for, so that what becomes free costs work for those only that may
// get it. Those that would get the same answer are one class: of a class that gets nothing, one is asked.
type waiting struct {
	classes map[classKey]*class
	// Where the classes are found from what they wait for: an address, a pool, company.
	byAddr  map[netip.Addr]classes
	byPool  [][2]classes // beside what they have or ask for by name: last, those that ask by name
	byFit   [][]*fit     // by pool: those that any of its addresses serves
	byGroup map[group]classes

	queue     queue         // of classes for which something may have changed
	spots     map[spot]bool // where an address became free, and no class was looked for yet
	unchecked []*tenant     // after a new configuration, all may get another answer
	pending   int           // that wait for more than another family

	fits     map[string]*fit
	lists    map[string]*fit
	noSuch   *fit     // of those that ask for a pool that is not there
	relevant []string // keys of the labels that the pools look at
	spaced   bool     // some pool looks at namespaces
	allPools string   // in words
}

type classes map[*class]struct{}

// A class are Services that wait for the same and would get the same answer. Those that hold addresses have one each, unless
// they only lack the other family.
type class struct {
	classKey
	members []*tenant // a heap, the first to be served first
	why     Reason    // that its members were given
	uneven  bool      // some of them were given another, or none
	at      int       // in the queue; -1 if it is not there
	// request and addrs are those that its first member had, by which the class is found.
	request Request
	addrs   []netip.Addr
	from    *fit // nil if it does not wait for any address of its pools
}

// A rank is who is served first.
type rank uint8

const (
	asksByName rank = iota
	asksForAny
	asksForMore // it has an address of a pool, and would like another
)

// A classKey has what the members of a class have in common.
type classKey struct {
	rank     rank
	more     bool   // all that they lack is the other family, which they need not have
	uid      string // of one that is like no other
	addrs    [2]netip.Addr
	serves   [2]bool // the pools of these addresses serve it
	fit      *fit    // nil if it asks for addresses by name
	pool     string
	families [2]Family
	all      bool
	group    group
	ports    string
	beside   int // one more than the index of the pool of which it would have another, or 0
}

// A fit are the pools from which some Services may get any address, in the order in which they are tried.
type fit struct {
	pools   []int
	has     [2]bool // by family
	names   string
	why     Reason // there is none
	classes classes
}

// A Change is an answer that became another one while a Service waited.
type Change struct {
	UID   string
	Moved bool // it holds other addresses than before
	Grant
}

func (w *waiting) reset(config *Config) {
	*w = waiting{
		classes: map[classKey]*class{},
		byAddr:  map[netip.Addr]classes{},
		byPool:  make([][2]classes, len(config.Pools)),
		byFit:   make([][]*fit, len(config.Pools)),
		byGroup: map[group]classes{},
		spots:   map[spot]bool{},
		fits:    map[string]*fit{},
		lists:   map[string]*fit{},
	}
	keys := map[string]bool{}
	var names []string
	for i, p := range config.Pools {
		w.byPool[i] = [2]classes{{}, {}}
		names = append(names, p.Name)
		w.spaced = w.spaced || len(p.Namespaces) > 0
		for _, s := range p.ServiceSelectors {
			for _, e := range s.conditions() {
				keys[e.Key] = true
			}
		}
	}
	for key := range keys {
		w.relevant = append(w.relevant, key)
	}
	slices.Sort(w.relevant)
	w.allPools = someOf(names)
	w.noSuch = &fit{why: Reason{Cause: NoSuchPool, pools: w.allPools}, classes: classes{}}
}

// fitOf returns the pools from which the Service may get any address.
func (a *Allocator) fitOf(r *Request) *fit {
	const most = 4096 // of which each is short
	pool := -1
	if r.Pool != "" {
		if pool = a.stock.named(r.Pool); pool < 0 {
			return a.noSuch
		}
	}
	var room [128]byte
	key := strconv.AppendQuote(room[:0], r.Pool)
	if a.spaced {
		key = strconv.AppendQuote(key, r.Namespace)
	}
	for i, name := range a.relevant {
		if value, ok := r.Labels[name]; ok {
			key = strconv.AppendQuote(strconv.AppendInt(key, int64(i), 10), value)
		}
	}
	f := a.fits[string(key)]
	if f == nil {
		if len(a.fits) == most {
			clear(a.fits)
		}
		f = a.interned(a.fitting(r, pool))
		a.fits[string(key)] = f
	}
	return f
}

func (a *Allocator) fitting(r *Request, pool int) *fit {
	if pool >= 0 {
		if !a.config.Pools[pool].Serves(r.Namespace, r.Labels) {
			return &fit{why: Reason{Cause: PoolNotFor, Pool: r.Pool}}
		}
		return &fit{pools: []int{pool}}
	}
	f := &fit{}
	var automatic []string
	for i := range a.config.Pools {
		if p := &a.config.Pools[i]; p.AutoAssign {
			automatic = append(automatic, p.Name)
		}
	}
	for _, i := range a.stock.order {
		if p := &a.config.Pools[i]; p.AutoAssign && p.Serves(r.Namespace, r.Labels) {
			f.pools = append(f.pools, i)
		}
	}
	switch {
	case len(f.pools) > 0:
	case len(a.config.Pools) == 0:
		f.why = Reason{Cause: NoPools}
	case len(automatic) == 0:
		f.why = Reason{Cause: OnRequestOnly}
	default:
		f.why = Reason{Cause: NoPoolFor, pools: someOf(automatic)}
	}
	return f
}

// interned returns the one fit that has these pools.
func (a *Allocator) interned(f *fit) *fit {
	key := fmt.Sprint(f.pools, f.why.Cause, f.why.Pool)
	if known := a.lists[key]; known != nil {
		return known
	}
	f.classes = classes{}
	a.lists[key] = f
	var names []string
	for _, i := range slices.Sorted(slices.Values(f.pools)) {
		names = append(names, a.config.Pools[i].Name)
		for _, family := range []Family{IPv4, IPv6} {
			f.has[place6(family)] = f.has[place6(family)] || a.stock.has(i, family)
		}
		a.byFit[i] = append(a.byFit[i], f)
	}
	f.names = someOf(names)
	return f
}

// note lets the Service wait if the grant leaves something to wish for, and not otherwise. If it moved all the same, it has its
// turn once more: what it got beside what it has may bring the rest along.
func (a *Allocator) note(t *tenant, g Grant, moved bool) {
	if t.rests = false; !g.Why.None() || g.More {
		a.join(t, g.More, g.Why)
		if moved && !g.Why.None() {
			a.push(t.class)
		}
		return
	}
	a.leave(t)
	if t.why, t.stale = (Reason{}), false; len(t.addrs) == 0 {
		delete(a.services, t.request.UID)
	}
}

// Wait lets a Service wait, with what it asks for by now. It is served when its turn comes.
func (a *Allocator) Wait(r Request) {
	t := a.tenant(&r)
	t.request, t.rests = r, false
	a.join(t, false, t.why)
	a.push(t.class)
}

// Waits reports whether the Service waits for something.
func (a *Allocator) Waits(uid string) bool {
	return a.services[uid] != nil && a.services[uid].class != nil
}

// Rest lets the Service wait no longer. It keeps what it has.
func (a *Allocator) Rest(uid string) {
	if t := a.services[uid]; t != nil {
		a.leave(t)
		if t.rests = true; len(t.addrs) == 0 {
			delete(a.services, uid)
		}
	}
}

// Pending is how many Services do not have what they must have.
func (a *Allocator) Pending() int { return a.pending }

func (a *Allocator) classOf(t *tenant, more bool) classKey {
	r := &t.request
	key := classKey{rank: a.rank(r, t.addrs), more: more}
	if more && r.Key == "" {
		// All that matters is that its pool gets an address of the other family.
		pool, _ := a.config.index(t.addrs[0])
		key.beside, key.families[0] = pool+1, missing(r, t.addrs)
		return key
	}
	if len(t.addrs) > 0 || r.Invalid != nil {
		key.uid = r.UID
		return key
	}
	key.pool, key.all = r.Pool, r.AllFamilies
	copy(key.families[:], r.Families)
	if r.Key != "" {
		key.group = groupOf(r.Namespace, r.Terms)
		key.ports = fmt.Sprint(r.Ports)
	}
	if len(r.Addrs) == 0 {
		key.fit = a.fitOf(r)
	}
	for i, addr := range r.Addrs {
		pool := a.config.Pool(addr)
		key.addrs[i], key.serves[i] = addr, pool != nil && pool.Serves(r.Namespace, r.Labels)
	}
	return key
}

func missing(r *Request, addrs []netip.Addr) Family {
	for _, f := range r.Families {
		if !slices.ContainsFunc(addrs, func(addr netip.Addr) bool { return FamilyOf(addr) == f }) {
			return f
		}
	}
	return 0
}

// join enters the Service into the class where it waits, with the reason that it was given.
func (a *Allocator) join(t *tenant, more bool, why Reason) {
	t.why, t.stale = why, false
	if key := a.classOf(t, more); t.class == nil || t.class.classKey != key || key.uid != "" {
		a.leave(t)
		c := a.classes[key]
		if t.class = c; c == nil {
			c = &class{classKey: key, why: why, at: -1, request: t.request, addrs: t.addrs}
			a.classes[key], t.class = c, c
			a.index(c, true)
		}
		heap.Push((*members)(t.class), t)
		if !more {
			a.pending++
		}
	}
	c := t.class
	c.uneven = c.uneven || !why.Same(c.why)
	if c.at >= 0 {
		heap.Fix(&a.queue, c.at)
	}
}

// leave takes the Service out of its class.
func (a *Allocator) leave(t *tenant) {
	c := t.class
	if c == nil {
		return
	}
	if len(c.members) == 1 {
		if c.at >= 0 {
			heap.Remove(&a.queue, c.at)
		}
		a.index(c, false)
		delete(a.classes, c.classKey)
	}
	heap.Remove((*members)(c), t.at)
	t.class = nil
	if !c.more {
		a.pending--
	}
	if c.at >= 0 {
		heap.Fix(&a.queue, c.at)
	}
}

// index enters a class wherever it may have to be found, or takes it out.
func (a *Allocator) index(c *class, in bool) {
	put := func(all classes) {
		if in {
			all[c] = struct{}{}
		} else {
			delete(all, c)
		}
	}
	r := &c.request
	for _, addr := range r.Addrs {
		if a.byAddr[addr] == nil {
			a.byAddr[addr] = classes{}
		}
		if put(a.byAddr[addr]); len(a.byAddr[addr]) == 0 {
			delete(a.byAddr, addr)
		}
	}
	for _, addr := range slices.Concat(r.Addrs, c.addrs) {
		if i, ok := a.config.index(addr); ok && len(r.Families) > 1 {
			put(a.byPool[i][oneIf(c.rank == asksByName)])
		}
	}
	if len(r.Addrs) == 0 && c.beside == 0 {
		if in {
			c.from = a.fitOf(r)
		}
		put(c.from.classes)
	}
	if r.Key == "" {
		return
	}
	for _, namespace := range []string{r.Namespace, ""} {
		g := groupOf(namespace, r.Terms)
		if a.byGroup[g] == nil {
			a.byGroup[g] = classes{}
		}
		if put(a.byGroup[g]); len(a.byGroup[g]) == 0 {
			delete(a.byGroup, g)
		}
	}
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// touch notes that somebody left the address, came to it, or holds it on other terms, and queues who may have waited for that.
func (a *Allocator) touch(addr netip.Addr) {
	for c := range a.byAddr[addr] {
		a.push(c)
	}
	at := a.inUse[addr]
	if at == nil {
		if s := a.spotOf(addr); len(a.classes) > 0 && s.pool >= 0 && a.stock.handsOut(&a.config.Pools[s.pool], addr) {
			a.spots[s] = true
			for c := range a.byPool[s.pool][1] {
				a.push(c)
			}
		}
		return
	}
	for _, t := range at.holders {
		a.push(t.class)
	}
	if pool := a.config.Pool(addr); pool != nil && len(at.groups) == 1 {
		for c := range a.byGroup[at.groups[0].group] {
			if c.at < 0 {
				if _, ok := a.mayJoin(addr, pool, &c.request); ok {
					a.push(c)
				}
			}
		}
	}
}

func (a *Allocator) push(c *class) {
	if c != nil && c.at < 0 {
		heap.Push(&a.queue, c)
	}
}

// head returns the class whose first member is the first of all for whom something may have changed, or nil.
func (a *Allocator) head() *class {
	// Those who ask by name go before those who take any address, who need not be looked for until then.
	if len(a.queue) == 0 || a.queue[0].rank > asksByName {
		for s := range a.spots {
			for _, f := range a.byFit[s.pool] {
				for c := range f.classes {
					if slices.Contains(c.request.Families, s.family) {
						a.push(c)
					}
				}
			}
			for c := range a.byPool[s.pool][0] {
				if c.beside == 0 || c.families[0] == s.family {
					a.push(c)
				}
			}
		}
		clear(a.spots)
	}
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}

// Yields reports whether others are to be looked at before the Service may be given what is free.
func (a *Allocator) Yields(r Request) bool {
	c := a.head()
	if len(a.unchecked) > 0 || c == nil {
		return len(a.unchecked) > 0
	}
	first := &c.members[0].request
	return first.UID != r.UID && cmp.Or(cmp.Compare(c.rank, a.rank(&r, a.Held(r.UID))), older(first, &r)) < 0
}

func (a *Allocator) rank(r *Request, has []netip.Addr) rank {
	switch {
	case len(r.Addrs) > 0:
		return asksByName
	case slices.ContainsFunc(has, func(addr netip.Addr) bool { return a.config.Pool(addr) != nil }):
		return asksForMore
	}
	return asksForAny
}

// Stirs reports whether something happened that Services may have waited for, so that they are to be served.
func (a *Allocator) Stirs() bool { return len(a.queue)+len(a.spots)+len(a.unchecked) > 0 }

// Serve gives Services that wait what there is for them now: first those that ask for one address, then the older, and last
// those that have one of a pool and would like another or a second. It tells whose answer became another; that another Service
// holds the address by now is none. It goes on while it may, and reports whether there is more to do: then the next call
// continues. In between, Allocate knows no order: a Service that Yields is to Wait.
func (a *Allocator) Serve(may func() bool) (changed []Change, more bool) {
	for len(a.unchecked) > 0 {
		last := len(a.unchecked) - 1
		t := a.unchecked[last]
		a.unchecked = a.unchecked[:last]
		a.recheck(t)
		if !may() {
			return nil, true
		}
	}
	for c := a.head(); c != nil; c = a.head() {
		heap.Pop(&a.queue)
		t := c.members[0]
		before := t.addrs
		g, next := a.decide(&t.request)
		if slices.Equal(before, next.addrs) && len(before) == 0 {
			changed = append(changed, a.tell(c, g)...)
		} else {
			moved := !slices.Equal(before, next.addrs)
			if moved || !g.Why.Same(t.why) {
				changed = append(changed, Change{t.request.UID, moved, g})
			}
			a.hold(t, &t.request, next)
			a.note(t, g, moved)
			if moved && len(c.members) > 0 {
				a.push(c)
			}
		}
		if !may() {
			break
		}
	}
	return changed, a.Stirs()
}

// tell notes that none of the class gets anything, and returns whom that is news to.
func (a *Allocator) tell(c *class, g Grant) (changed []Change) {
	if !c.uneven && g.Why.Same(c.why) {
		return nil
	}
	c.why, c.uneven = g.Why, false
	for _, t := range c.members {
		if !t.why.Same(g.Why) {
			changed = append(changed, Change{t.request.UID, false, g})
		}
		t.why = g.Why
	}
	return changed
}

// recheck looks at a Service after the pools changed: it waits if it is to get another answer, or none.
func (a *Allocator) recheck(t *tenant) {
	if a.services[t.request.UID] != t || t.rests || !t.stale {
		return
	}
	g, same := a.Check(t.request)
	if !same || !g.Why.None() || g.More || !t.why.None() {
		a.join(t, same && g.More, t.why)
		a.push(t.class)
	}
}

// members of a class are in the order in which they are served.
type members class

func (m *members) Len() int { return len(m.members) }
func (m *members) Less(i, j int) bool {
	return older(&m.members[i].request, &m.members[j].request) < 0
}
func (m *members) Swap(i, j int) {
	m.members[i], m.members[j] = m.members[j], m.members[i]
	m.members[i].at, m.members[j].at = i, j
}
func (m *members) Push(t any) {
	t.(*tenant).at = len(m.members)
	m.members = append(m.members, t.(*tenant))
}
func (m *members) Pop() any {
	last := len(m.members) - 1
	t := m.members[last]
	m.members[last] = nil
	m.members = m.members[:last]
	return t
}

// A queue has the classes that are to be looked at, in the order of their first members.
type queue []*class

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].rank, q[j].rank), older(&q[i].members[0].request, &q[j].members[0].request)) < 0
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}
func (q *queue) Push(c any) {
	c.(*class).at = len(*q)
	*q = append(*q, c.(*class))
}
func (q *queue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q, c.at = (*q)[:last], -1
	return c
}
