package loadbalancer

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// waiting are the Services that do not have what they ask for, so that what becomes free costs work for those only that may
// get it. Those that would get the same answer are one class: of a class that gets nothing, one is asked.
type waiting struct {
	classes map[string]*class // by what their members have in common
	// watched has the classes by what they wait for: a netip.Addr, whoever holds it; a *fit or a spot, room in its pools; or a
	// circle, an address that is shared in it.
	watched map[any]map[*class]bool

	queue     queue              // of classes for which something may have changed
	unchecked map[*tenant]bool   // after a new configuration, all may get another answer
	fits      map[string]*fit    // by their pools
	named     map[string]*tenant // who waits, by namespace/name
	pending   int                // members of classes that lack what they must have
}

func newWaiting() waiting {
	return waiting{classes: map[string]*class{}, watched: map[any]map[*class]bool{}, unchecked: map[*tenant]bool{}, fits: map[string]*fit{}, named: map[string]*tenant{}}
}

// A class are Services that wait for the same and would get the same answer. Those that hold addresses have one each, unless
// they only lack the other family.
type class struct {
	likeness string
	rank     rank
	more     bool      // all that they lack is the other family, which they need not have
	members  []*tenant // in the order in which they are served
	uneven   bool      // some were given another reason than the first
	watches  []any
	at       int // in the queue; -1 if it is not there
}

// A rank is who is served first.
type rank uint8

const (
	asksByName rank = iota
	asksForAny
	asksForMore // it has an address of a pool, and would like another
)

// A Change is an answer that became another one while a Service waited.
type Change struct {
	UID   string
	Moved bool // it holds other addresses than before
	Grant
}

// A fit are the pools from which some Services may get any address, in the order in which they are tried.
type fit struct {
	pools    []int
	names    string // in words
	withheld [2]int // of each family
	reserved [2]int
}

// fitOf returns the pools from which the Service may get any address.
func (a *Allocator) fitOf(r *Request) *fit {
	var pools []int
	var key []byte
	for _, i := range a.stock.order {
		p := &a.config.Pools[i]
		if (r.Pool == p.Name || r.Pool == "" && p.AutoAssign) && a.serves(p, r) {
			pools, key = append(pools, i), binary.AppendUvarint(key, uint64(i))
		}
	}
	known := a.fits[string(key)]
	if known == nil {
		known = &fit{pools: pools}
		var names []string
		for _, i := range slices.Sorted(slices.Values(pools)) {
			names = append(names, a.config.Pools[i].Name)
			for f := range known.withheld {
				known.withheld[f] += a.stock.stores[1+i][f].withheld
				known.reserved[f] += a.stock.stores[1+i][f].reserved
			}
		}
		known.names, a.fits[string(key)] = someOf(names), known
	}
	return known
}

// Wait lets a Service wait, with what it asks for by now. It is served when its turn comes. What it cannot use together with an
// older one, it loses at once.
func (a *Allocator) Wait(r Request) {
	t := a.tenant(&r)
	stay, lost := a.tenable(t.addrs, &r)
	t.lost = cmp.Or(t.lost, lost)
	a.hold(t, &r, stay)
	a.join(t, false)
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

// likeness writes down all that the Service's answer depends on, with the pools from which it may get any address: those for
// whom that is the same are one class.
func (a *Allocator) likeness(t *tenant, more bool, from *fit) string {
	r := &t.request
	limited := ""
	if a.config.limits {
		limited = r.Namespace
	}
	switch {
	case len(a.kept(r)) > 0:
		return "only " + r.UID
	case more && r.Key == "":
		// All that matters is that its pool gets an address of the other family.
		return fmt.Sprintf("more %d %d %s %q", a.rank(t), a.config.index(t.addrs[0]), FamilyOf(t.addrs[0]), limited)
	case len(t.addrs) > 0 || r.Invalid != nil || !t.lost.None():
		return "only " + r.UID
	}
	var serves [2]bool // the pools of the addresses serve it
	for i, addr := range r.Addrs {
		pool := a.config.Pool(addr)
		serves[i] = pool != nil && a.serves(pool, r)
	}
	like := fmt.Sprintf("%p %v %v %t %q %v", from, r.Addrs, r.Families, r.AllFamilies, r.Pool, serves)
	if r.Key != "" {
		like += fmt.Sprintf(" %q %q %t %v", r.Key, r.Backend, r.NotReady, r.Ports)
	}
	if r.Key != "" || limited != "" || from == nil || len(from.pools) == 0 { // it is told of its namespace's pools
		like += fmt.Sprintf(" %q", r.Namespace)
	}
	return like
}

// watches returns all that may change the Service's answer.
func (a *Allocator) watches(t *tenant, from *fit) (all []any) {
	r := &t.request
	quota := func(pool int) {
		if pool >= 0 && a.config.Pools[pool].Quotas.of(r.Namespace) > 0 {
			all = append(all, share{pool, r.Namespace})
		}
	}
	named := slices.Concat(r.Addrs, a.kept(r))
	for _, addr := range named {
		all = append(all, addr)
	}
	if from != nil {
		all = append(all, from)
		for _, i := range from.pools {
			quota(i)
		}
	}
	for _, addr := range slices.Concat(named, t.addrs) {
		quota(a.config.index(addr))
	}
	if len(r.Families) > 1 { // one is given beside the other
		for _, addr := range slices.Concat(named, t.addrs) {
			if pool := a.config.index(addr); pool >= 0 {
				all = append(all, spot{pool, IPv4}, spot{pool, IPv6})
			}
		}
	}
	if r.Key != "" {
		all = append(all, circle{r.Namespace, r.Key}, circle{"", r.Key})
	}
	return all
}

func (a *Allocator) rank(t *tenant) rank {
	switch {
	case len(t.request.Addrs) > 0:
		return asksByName
	case slices.ContainsFunc(t.addrs, func(addr netip.Addr) bool { return a.config.Pool(addr) != nil }):
		return asksForMore
	case len(a.reservation(&t.request)) > 0:
		return asksByName
	}
	return asksForAny
}

// join enters the Service into the class where it waits.
func (a *Allocator) join(t *tenant, more bool) {
	a.leave(t)
	var from *fit
	if len(t.request.Addrs) == 0 && !more {
		from = a.fitOf(&t.request)
	}
	like := a.likeness(t, more, from)
	c := a.classes[like]
	if c == nil {
		c = &class{likeness: like, rank: a.rank(t), more: more, watches: a.watches(t, from), at: -1}
		a.classes[like] = c
		for _, key := range c.watches {
			if a.watched[key] == nil {
				a.watched[key] = map[*class]bool{}
			}
			a.watched[key][c] = true
		}
	}
	a.named[t.request.Service] = t
	if t.class, t.rests = c, false; !more {
		a.pending++
	}
	c.uneven = c.uneven || len(c.members) > 0 && !t.why.Same(c.members[0].why)
	i, _ := slices.BinarySearchFunc(c.members, t, byAge)
	c.members = slices.Insert(c.members, i, t)
	a.queue.fix(c)
}

// leave takes the Service out of its class, or from among those that are to be checked.
func (a *Allocator) leave(t *tenant) {
	delete(a.unchecked, t)
	c := t.class
	if c == nil {
		return
	}
	if a.named[t.request.Service] == t {
		delete(a.named, t.request.Service)
	}
	if t.class = nil; !c.more {
		a.pending--
	}
	if len(c.members) == 1 {
		if c.at >= 0 {
			heap.Remove(&a.queue, c.at)
		}
		delete(a.classes, c.likeness)
		for _, key := range c.watches {
			if delete(a.watched[key], c); len(a.watched[key]) == 0 {
				delete(a.watched, key)
			}
		}
	}
	i, _ := slices.BinarySearchFunc(c.members, t, byAge)
	c.members = slices.Delete(c.members, i, i+1)
	a.queue.fix(c)
}

func byAge(t, u *tenant) int { return older(&t.request, &u.request) }

// touch notes that the Service left the address, came to it, or holds it on other terms, and queues who may get another answer.
func (a *Allocator) touch(addr netip.Addr, by *tenant) {
	a.wake(addr)
	holders := a.inUse[addr]
	for _, t := range slices.Clone(holders) {
		beside, _ := relation(&by.request, &t.request)
		before, _ := relation(&holders[0].request, &t.request)
		switch {
		case t == by || t.rests:
		case beside.excludes() && byAge(by, t) < 0 && slices.Contains(holders, by),
			t.class == nil && t != holders[0] && before != NoCause && before != OtherNamespace:
			a.Wait(t.request)
		default:
			a.push(t.class)
		}
	}
	holders = a.inUse[addr]
	i := a.config.index(addr)
	if i >= 0 {
		a.wake(share{i, by.request.Namespace})
	}
	switch {
	case i < 0:
	case len(holders) > 0:
		pool := &a.config.Pools[i]
		for c := range a.watched[circleIn(pool, &holders[0].request)] {
			if _, ok := a.mayJoin(addr, pool, &c.members[0].request); ok {
				a.push(c)
			}
		}
	default:
		a.open(addr)
	}
}

// open queues who waits for any address, if nobody holds this one and the pool hands it out.
func (a *Allocator) open(addr netip.Addr) {
	i := a.config.index(addr)
	if i < 0 || !a.stock.handsOut(&a.config.Pools[i], addr) {
		return
	}
	a.wake(spot{i, FamilyOf(addr)})
	for _, f := range a.fits {
		if len(a.watched[f]) > 0 && slices.Contains(f.pools, i) {
			a.wake(f)
		}
	}
}

// wake queues who waits for this.
func (a *Allocator) wake(watched any) {
	for c := range a.watched[watched] {
		a.push(c)
	}
}

func (a *Allocator) push(c *class) {
	if c != nil && c.at < 0 {
		heap.Push(&a.queue, c)
	}
}

// Yields reports whether others are to be looked at before the Service may be given what is free.
func (a *Allocator) Yields(r Request) bool {
	if len(a.unchecked) > 0 || len(a.queue) == 0 {
		return len(a.unchecked) > 0
	}
	c, t := a.queue[0], &tenant{request: r, addrs: a.Held(r.UID)}
	return cmp.Or(cmp.Compare(c.rank, a.rank(t)), byAge(c.members[0], t)) < 0
}

// Stirs reports whether something happened that Services may have waited for, so that they are to be served.
func (a *Allocator) Stirs() bool { return len(a.queue)+len(a.unchecked) > 0 }

// Serve gives Services that wait what there is for them now: first those that ask for one address, then the older, and last
// those that have one of a pool and would like another or a second. It tells whose answer became another; that another Service
// holds the address by now is none. It goes on while it may, and reports whether there is more to do: then the next call
// continues. In between, Allocate knows no order: a Service that Yields is to Wait.
func (a *Allocator) Serve(may func() bool) (changed []Change, more bool) {
	for t := range a.unchecked {
		delete(a.unchecked, t)
		if a.recheck(t); !may() {
			return nil, a.Stirs()
		}
	}
	for len(a.queue) > 0 {
		c := heap.Pop(&a.queue).(*class)
		t := c.members[0]
		if g := a.decide(&t.request); len(t.addrs)+len(g.Addrs) == 0 && t.lost.None() {
			changed = append(changed, c.tell(g)...)
		} else {
			moved, news := a.settle(t, &t.request, g)
			if moved || news {
				changed = append(changed, Change{t.request.UID, moved, g})
			}
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
func (c *class) tell(g Grant) (changed []Change) {
	if !c.uneven && g.Why.Same(c.members[0].why) {
		return nil
	}
	c.uneven = false
	for _, t := range c.members {
		if !g.Why.Same(t.why) {
			changed = append(changed, Change{t.request.UID, false, g})
		}
		t.why = g.Why
	}
	return changed
}

// recheck looks at a Service after the pools changed: it waits if it is to get another answer, or none.
func (a *Allocator) recheck(t *tenant) {
	g, same := a.Check(t.request)
	if !same || !g.Why.None() || g.More || !t.why.None() || !t.lost.None() {
		a.join(t, same && g.More)
		a.push(t.class)
	}
}

// A queue has the classes that are to be looked at, in the order of their first members.
type queue []*class

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].rank, q[j].rank), byAge(q[i].members[0], q[j].members[0])) < 0
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

// fix puts a class in its place whose first member may be another.
func (q *queue) fix(c *class) {
	if c.at >= 0 {
		heap.Fix(q, c.at)
	}
}
