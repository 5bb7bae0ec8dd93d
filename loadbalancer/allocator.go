package loadbalancer

import (
	"cmp"
	"container/list"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
)

// A Family is an IP version, 4 or 6.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is4() {
		return IPv4
	}
	return IPv6
}

// index is 0 or 1.
func (f Family) index() int { return int(f-IPv4) / 2 }

// String writes the family as the Kubernetes API does, IPv4 or IPv6.
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// A Request is what one Service asks of the allocator.
type Request struct {
	// UID is the Service's: a Service that is deleted and made again under the same name is another one.
	UID string
	// Service is its namespace/name, for errors.
	Service   string
	Namespace string
	// Created is when the Service was, in seconds since any epoch: of those that want the same, the older goes first.
	Created int64
	// Labels are the Service's: pools may be for some Services only.
	Labels map[string]string
	// Families are those that the Service wants an address of, each once, the more important one first.
	Families []Family
	// AllFamilies is set if the Service wants all of them or none, and not as many as there are.
	AllFamilies bool
	// Addrs are the addresses that the Service accepts and no others: at most one of each of its families.
	Addrs []netip.Addr
	// Pool is the name of the one pool that the Service accepts; empty accepts any that is handed out without request.
	Pool string
	Terms
	// Invalid is why the request cannot be met, whatever the pools are; nil if it makes sense.
	Invalid error
}

// older orders Services that want the same: by creation, then name.
func older(r, s *Request) int {
	return cmp.Or(cmp.Compare(r.Created, s.Created), cmp.Compare(r.Namespace, s.Namespace), cmp.Compare(r.Service, s.Service), cmp.Compare(r.UID, s.UID))
}

// A Grant is what a Service holds after a request, and what came of that.
type Grant struct {
	// Addrs are in the order of the request's families. None is not an error if the Service is to wait.
	Addrs []netip.Addr
	// Why is the reason for which the Service has not all that it asked for.
	Why Reason
	// More is set if the Service has what it must have, and would get another family as well were one free.
	More bool
	// Apart is why the Service got an address of its own although another has the same key: with the externalTrafficPolicy
	// Local, its pods are others.
	Apart Reason
	// Conflict is set if it gave up an address because another Service holds it that it cannot share it with.
	Conflict Reason
	// Renumbered is set if it gave one up because the operator took that away from the pools.
	Renumbered bool

	met bool // the request; the Why may be company that it should not have
}

// A Holder is a Service that holds an address.
type Holder struct {
	UID     string
	Service string // namespace/name
}

// An Allocator is the one truth about which Service holds which address, and which waits for one. Its answers follow from
// what it was told and in which order, and from nothing else. It is not safe for concurrent use.
//
// In each pool it hands out the addresses that were never used, lowest first, then the one freed longest ago, so that an
// address stays unused for as long as possible after a Service gave it up. No call takes longer when more addresses are
// in use; only a Service that shares looks at those that are shared under its key.
type Allocator struct {
	config *Config
	// givenUp are addresses that the operator took away from the pools on purpose: who holds one moves.
	givenUp  *netipx.IPSet
	services map[string]*tenant             // by UID: who holds addresses, and who waits
	inUse    map[netip.Addr][]*tenant       // the older first
	shared   map[company]map[netip.Addr]int // how many of the company hold each address; changed only by enter
	holdings []Holding                      // every address in use and by whom, in no order; a zero one is a vacant place
	vacant   []int                          // places in holdings
	stock    *stock
	tally    map[share]int // of addresses in use, by whose they are
	now      time.Duration // since any epoch
	down     holdDown
	// namespaces has their labels.
	namespaces map[string]map[string]string
	waiting
}

// A tenant is a Service that holds addresses or waits for some.
type tenant struct {
	request Request      // as it asked last
	addrs   []netip.Addr // at most one of each family
	places  [2]int       // in the allocator's holdings, of the address of each family
	// pool is what the Service asked for when it last got its address or kept it; asked is false for an adopted one that
	// has not asked yet. An operator who draws the pools anew does not move the Services of the old ones: only asking for
	// another pool than before does.
	pool  string
	asked bool
	// key is, likewise, the sharing key that it had then.
	key string
	// rests is set for one that wants nothing: it holds what it holds until it is released.
	rests bool

	why   Reason // that it was given for not having all that it asks for
	lost  Reason // why it lost an address to an older one, as long as it was not told
	class *class // of those that wait for the same; nil if it does not wait
}

// NewAllocator returns an allocator without pools, in which nothing is held.
func NewAllocator() *Allocator {
	a := &Allocator{services: map[string]*tenant{}, inUse: map[netip.Addr][]*tenant{}, namespaces: map[string]map[string]string{}, down: newHoldDown()}
	a.stock = &stock{inUse: a.inUse, down: a.down.addrs, freed: map[netip.Addr]*list.Element{}}
	a.Configure(&Config{}, nil)
	return a
}

// Configure changes the pools. Every address stays with its holder, also one that no pool owns any more, until that asks
// again or is served: then those of givenUp that no pool owns are exchanged for others, if there are any.
func (a *Allocator) Configure(config *Config, givenUp *netipx.IPSet) {
	if givenUp == nil {
		givenUp = &netipx.IPSet{}
	}
	before := a.HeldDown()
	a.config, a.givenUp = config, givenUp
	clear(a.down.addrs)
	a.down = holdDown{addrs: a.down.addrs, by: map[any][]*heldDown{}}
	a.stock.configure(config)
	a.shared, a.tally, a.waiting = map[company]map[netip.Addr]int{}, map[share]int{}, newWaiting()
	a.HoldDown(before)
	for addr, holders := range a.inUse {
		seen := map[string]bool{}
		for _, t := range holders {
			if i := config.index(addr); i >= 0 && !seen[t.request.Namespace] {
				seen[t.request.Namespace] = true
				a.tally[share{i, t.request.Namespace}]++
			}
		}
	}
	for _, t := range a.services {
		for _, addr := range t.addrs {
			a.enter(addr, t, 1)
		}
		if t.class = nil; !t.rests {
			a.unchecked[t] = true
		}
	}
}

// Withhold says which addresses others use: Nodes, and Services that are not ours. Like those of routers, they are not handed
// out while nobody holds them; who holds one keeps it: anybody who can write a Node's status could take it away otherwise.
func (a *Allocator) Withhold(addrs []netip.Addr) {
	if a.stock.others = slices.Clone(addrs); !maps.Equal(a.stock.reserved(a.config), a.stock.own) {
		a.Configure(a.config, a.givenUp)
	}
}

// Held returns the addresses that the Service holds.
func (a *Allocator) Held(uid string) []netip.Addr {
	if t := a.services[uid]; t != nil {
		return t.addrs
	}
	return nil
}

// Holders returns the Services that hold addr.
func (a *Allocator) Holders(addr netip.Addr) (all []Holder) {
	for _, t := range a.inUse[addr] {
		all = append(all, Holder{t.request.UID, t.request.Service})
	}
	return all
}

// InUse returns every address in use and by whom, in no order. It only makes a copy, however many there are.
func (a *Allocator) InUse() []Holding {
	return slices.DeleteFunc(slices.Clone(a.holdings), func(h Holding) bool { return !h.Addr.IsValid() })
}

// Holdings returns every address in use and by whom, in the order of the addresses.
func (a *Allocator) Holdings() []Holding {
	all := a.InUse()
	slices.SortFunc(all, func(x, y Holding) int { return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Service, y.Service)) })
	return all
}

// Config returns the configuration that tells which pools there are.
func (a *Allocator) Config() *Config { return a.config }

// Pool returns the pool that owns addr, or nil.
func (a *Allocator) Pool(addr netip.Addr) *Pool { return a.config.Pool(addr) }

// Adopt gives a Service addresses that its status shows, also those that no pool owns: they are in use, whatever the
// configuration says. Of each family it takes the first. It may hold one together with others if they can all use it at
// once; else it does not get it, and the reason says who holds it. If it gets none, nothing changes. If it may not share one, it
// waits to hear so.
func (a *Allocator) Adopt(r Request, addrs []netip.Addr) (conflict Reason) {
	var taken []netip.Addr
	known := true // how it came to these
	for _, addr := range addrs {
		why := a.excluded(addr, &r)
		switch {
		case slices.ContainsFunc(taken, func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }):
		case why.None():
			taken = append(taken, addr)
			known = known && slices.Contains(a.Held(r.UID), addr)
		case conflict.None():
			conflict = why
		}
	}
	if len(taken) > 0 {
		t := a.tenant(&r)
		t.asked = t.asked && known
		waits := t.class != nil || a.unchecked[t]
		a.hold(t, &r, taken)
		if waits || slices.ContainsFunc(taken, func(addr netip.Addr) bool { return !a.atOdds(addr, &r, theOlder).None() }) {
			a.Wait(r) // for what it lacks now
		}
	}
	return conflict
}

// Allocate gives the Service addresses that meet its request. A Service that holds such addresses keeps them. One that holds
// others, because it asks for something else than before, gives them up only for those that meet the request: a request
// that cannot be met leaves everything as it was, and waits. A Service that was adopted keeps its address also if it asks for
// another pool: nobody remembers whether it did so before. Asking for another again moves it.
//
// The exception is an address that two Services hold and cannot use at once: the younger loses it, whichever of them asks. If
// it is the other, it waits for another address and is told when it is served.
func (a *Allocator) Allocate(r Request) Grant {
	g := a.decide(&r)
	a.settle(a.tenant(&r), &r, g)
	return g
}

// Check returns what Allocate would, and changes nothing. It also reports whether Allocate would change nothing.
func (a *Allocator) Check(r Request) (g Grant, same bool) {
	g = a.decide(&r)
	t := a.services[r.UID]
	return g, slices.Equal(g.Addrs, a.Held(r.UID)) && (len(g.Addrs) == 0 || t.request.Terms.equal(r.Terms))
}

// settle gives the Service what was decided, and lets it wait for the rest. If it moved all the same, it has its turn once
// more: what it got beside what it has may bring the rest along.
func (a *Allocator) settle(t *tenant, r *Request, g Grant) (moved, news bool) {
	moved, news = !slices.Equal(t.addrs, g.Addrs) || !t.lost.None(), !g.Why.Same(t.why)
	a.hold(t, r, g.Addrs)
	t.why, t.lost, t.rests = g.Why, Reason{}, false
	if g.met {
		t.asked, t.pool, t.key = true, r.Pool, r.Key
	}
	switch {
	case !g.Why.None() || g.More:
		if a.join(t, g.More); moved && !g.More {
			a.push(t.class)
		}
	case len(t.addrs) == 0:
		delete(a.services, r.UID)
	}
	return moved, news
}

// Release forgets the Service, and returns the addresses that it held.
func (a *Allocator) Release(uid string) (left []netip.Addr) {
	if t := a.services[uid]; t != nil {
		left = t.addrs
		delete(a.services, uid)
		a.hold(t, &t.request, nil)
	}
	return left
}

// tenant returns what is known of the Service that asks, perhaps nothing yet.
func (a *Allocator) tenant(r *Request) *tenant {
	t := a.services[r.UID]
	if t == nil {
		t = &tenant{request: *r}
		a.services[r.UID] = t
	}
	return t
}

// hold makes the tenant hold the addresses on the request's terms, instead of what it held before, and wait for nothing.
func (a *Allocator) hold(t *tenant, r *Request, addrs []netip.Addr) {
	a.leave(t)
	before, same := t.addrs, t.request.Terms.equal(r.Terms)
	if same && slices.Equal(before, addrs) {
		t.request = *r
		return
	}
	for _, addr := range before {
		if a.enter(addr, t, -1); slices.Contains(addrs, addr) {
			continue
		}
		a.count(addr, t, -1)
		place := t.places[FamilyOf(addr).index()]
		a.holdings[place], a.vacant = Holding{}, append(a.vacant, place)
		a.inUse[addr] = slices.DeleteFunc(a.inUse[addr], func(other *tenant) bool { return other == t })
		if len(a.inUse[addr]) == 0 {
			delete(a.inUse, addr)
			a.stock.free(addr)
			a.Left(r.Service, []netip.Addr{addr})
		}
	}
	var ended []*heldDown // by somebody who was found to have it
	t.request, t.addrs = *r, addrs
	for _, addr := range addrs {
		if !slices.Contains(before, addr) {
			if a.inUse[addr] == nil {
				if d := a.down.addrs[addr]; d != nil {
					a.lift(d)
					ended = append(ended, d)
				}
				a.stock.take(addr)
			}
			i, _ := slices.BinarySearchFunc(a.inUse[addr], t, byAge)
			a.inUse[addr] = slices.Insert(a.inUse[addr], i, t)
			a.count(addr, t, 1)
			if len(a.vacant) == 0 {
				a.holdings, a.vacant = append(a.holdings, Holding{}), append(a.vacant, len(a.holdings))
			}
			last := len(a.vacant) - 1
			place := a.vacant[last]
			a.vacant, t.places[FamilyOf(addr).index()], a.holdings[place] = a.vacant[:last], place, Holding{r.Service, addr}
		}
		a.enter(addr, t, 1)
	}
	for _, addr := range slices.Concat(before, addrs) {
		if !same || slices.Contains(before, addr) != slices.Contains(addrs, addr) {
			a.touch(addr, t)
		}
	}
	for _, d := range ended {
		a.wake(d.share)
		a.rejoin(d.Service)
	}
}

// decide finds what the Service gets. It changes nothing but how far the pools' cursors have come.
func (a *Allocator) decide(r *Request) (g Grant) {
	now := a.services[r.UID]
	if now == nil {
		now = &tenant{}
	}
	stay, lost := a.tenable(now.addrs, r)
	// One of a family that it does not have, or not any more, serves nobody.
	stay = slices.DeleteFunc(stay, func(addr netip.Addr) bool { return !slices.Contains(r.Families, FamilyOf(addr)) })
	g.Addrs, g.Why = a.choose(r, now, stay)
	if g.met = g.Why.None(); len(g.Addrs) == 0 {
		g.Addrs = inOrderOf(r.Families, stay) // it keeps what it has
		if i := slices.IndexFunc(stay, a.isGivenUp); i >= 0 {
			g.Why.GivenUp = stay[i]
		}
	}
	for _, addr := range g.Addrs {
		if g.Why.None() {
			g.Why = a.atOdds(addr, r, theOlder)
		}
		if g.Apart.None() && a.inUse[addr] == nil {
			g.Apart = a.apart(addr, r)
		}
	}
	g.Conflict = cmp.Or(now.lost, lost)
	g.Renumbered = slices.ContainsFunc(now.addrs, func(addr netip.Addr) bool { return a.isGivenUp(addr) && !slices.Contains(g.Addrs, addr) })
	g.More = g.Why.None() && a.couldComplete(g.Addrs, r)
	return g
}

// tenable returns those of its addresses that the Service may keep, and why it loses another, if it does.
func (a *Allocator) tenable(addrs []netip.Addr, r *Request) (stay []netip.Addr, lost Reason) {
	for _, addr := range addrs {
		if why := a.excluded(addr, r); why.None() {
			stay = append(stay, addr)
		} else {
			lost = cmp.Or(lost, why)
		}
	}
	return stay, lost
}

// choose finds addresses that meet the request, in the order of its families, and may be some that the Service has. With a reason,
// they are those that the Service would have had it not changed its key, if any.
func (a *Allocator) choose(r *Request, now *tenant, stay []netip.Addr) ([]netip.Addr, Reason) {
	if r.Invalid != nil {
		return nil, Reason{Cause: Invalid, text: r.Invalid.Error()}
	}
	var kept, disliked []netip.Addr
	for _, addr := range stay {
		switch {
		case a.isGivenUp(addr):
			// It cannot stay.
		case slices.ContainsFunc(r.Addrs, func(want netip.Addr) bool { return FamilyOf(want) == FamilyOf(addr) }):
			// It stays if it is the one asked for, also if it is not shared as it should be.
			if slices.Contains(r.Addrs, addr) && (now.asked && r.Pool == now.pool || a.isOf(addr, r.Pool)) {
				kept = append(kept, addr)
			}
		case !now.asked && len(r.Addrs) == 0 && !a.isOf(addr, r.Pool):
			return nil, Reason{Cause: CameWith, Pool: r.Pool, Addr: addr}
		case now.asked && r.Pool != now.pool && !a.isOf(addr, r.Pool):
			// It asks for another pool than before. What it was given on the same request is what it asks for, whatever has
			// become of the pools since.
		case now.asked && r.Key != now.key && !a.atOdds(addr, r, everybody).None():
			// It asks for other company than before.
			disliked = append(disliked, addr)
		default:
			kept = append(kept, addr)
		}
	}
	moved, why := a.find(r, kept)
	for _, addr := range disliked {
		if why.None() && slices.ContainsFunc(moved, func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }) {
			continue
		}
		if stayed, cannot := a.find(r, slices.Concat(kept, disliked)); cannot.None() && slices.Contains(stayed, addr) {
			if why.None() {
				why = a.atOdds(addr, r, everybody)
			}
			return stayed, why // the address that it has is better than none
		}
	}
	return moved, why
}

// find finds addresses beside those that are kept.
func (a *Allocator) find(r *Request, kept []netip.Addr) ([]netip.Addr, Reason) {
	switch {
	case len(r.Addrs) > 0:
		return a.byName(r, r.Addrs, kept)
	case len(kept) > 0:
		return a.complete(r, kept)
	}
	if reserved := a.reservation(r); len(reserved) > 0 {
		return a.byName(r, reserved, nil)
	}
	return a.anew(r)
}

// isOf reports whether the pool of that name owns the address. The empty name stands for any pool, and for none.
func (a *Allocator) isOf(addr netip.Addr, name string) bool {
	pool := a.config.Pool(addr)
	return name == "" || pool != nil && pool.Name == name
}

func (a *Allocator) isGivenUp(addr netip.Addr) bool {
	return a.givenUp.Contains(addr) && a.config.Pool(addr) == nil
}

// byName gives the Service the addresses that it wants, and of its other families what the same pool has. What it has
// already may be of several pools by now: those were drawn anew.
func (a *Allocator) byName(r *Request, wants, kept []netip.Addr) ([]netip.Addr, Reason) {
	moves := false
	for _, want := range wants {
		if slices.Contains(kept, want) {
			continue
		}
		if why := a.mayHold(want, r); !why.None() {
			return nil, why
		}
		moves = true
	}
	chosen := slices.Clone(wants)
	for _, want := range chosen[1:] {
		if p, q := a.config.Pool(chosen[0]), a.config.Pool(want); moves && p != q && p != nil && q != nil {
			return nil, Reason{Cause: OfTwoPools, Addr: chosen[0], Pool: p.Name, Other: want, OtherPool: q.Name}
		}
	}
	for _, want := range wants {
		if i := a.config.index(want); i >= 0 {
			if why := a.overQuota(i, r, wants...); !why.None() {
				return nil, why
			}
		}
	}
	for _, addr := range kept {
		if !slices.Contains(chosen, addr) && (!moves || a.config.Pool(addr) == a.config.Pool(chosen[0])) {
			chosen = append(chosen, addr)
		}
	}
	return a.complete(r, chosen)
}

// complete adds addresses of the families that are missing, from the pool that owns those that are there.
func (a *Allocator) complete(r *Request, chosen []netip.Addr) ([]netip.Addr, Reason) {
	pool := -1
	for _, addr := range chosen {
		if i := a.config.index(addr); i >= 0 {
			pool = i
		}
	}
	for _, f := range r.Families {
		if slices.ContainsFunc(chosen, func(addr netip.Addr) bool { return FamilyOf(addr) == f }) {
			continue
		}
		var more netip.Addr
		var why Reason
		serves := pool >= 0 && a.serves(&a.config.Pools[pool], r)
		if serves {
			if more = a.keptBeside(pool, f, r); !more.IsValid() {
				more = a.joinable(pool, f, r)
			}
			if !more.IsValid() {
				more = a.stock.next(pool, f)
			}
			if more.IsValid() {
				why = a.overQuota(pool, r, append(slices.Clone(chosen), more)...)
			}
		}
		switch {
		case !why.None() && r.AllFamilies:
			return nil, why
		case !why.None():
		case more.IsValid():
			chosen = append(chosen, more)
		case r.AllFamilies && pool < 0:
			return nil, Reason{Cause: NoPoolBeside, Addr: chosen[0], Family: f}
		case r.AllFamilies && !serves:
			return nil, Reason{Cause: PoolNotFor, Pool: a.config.Pools[pool].Name}
		case r.AllFamilies:
			return nil, Reason{Cause: NoneBeside, Pool: a.config.Pools[pool].Name, Addr: chosen[0], Family: f, withheld: a.stock.store(pool, f).withheld, reserved: a.stock.store(pool, f).reserved}
		}
	}
	return inOrderOf(r.Families, chosen), Reason{}
}

// couldComplete reports whether a family is missing of which the pool of the others has addresses, if none is free now.
func (a *Allocator) couldComplete(addrs []netip.Addr, r *Request) bool {
	if len(addrs) == 0 || len(addrs) >= len(r.Families) {
		return false
	}
	pool := a.config.index(addrs[0])
	return pool >= 0 && a.serves(&a.config.Pools[pool], r) &&
		slices.ContainsFunc(r.Families, func(f Family) bool { return f != FamilyOf(addrs[0]) && a.stock.has(pool, f) })
}

// inOrderOf sorts addresses, which are of these families.
func inOrderOf(families []Family, addrs []netip.Addr) []netip.Addr {
	place := func(addr netip.Addr) int { return slices.Index(families, FamilyOf(addr)) }
	slices.SortStableFunc(addrs, func(x, y netip.Addr) int { return place(x) - place(y) })
	return addrs
}

// anew finds addresses for a Service that has none that meet its request.
func (a *Allocator) anew(r *Request) ([]netip.Addr, Reason) {
	for _, addr := range a.keptDown(r) {
		if a.mayHold(addr, r).None() && a.overQuota(a.config.index(addr), r, addr).None() {
			if addrs, why := a.complete(r, []netip.Addr{addr}); why.None() {
				return addrs, Reason{}
			}
		}
	}
	from := a.fitOf(r)
	for _, i := range from.pools { // company comes first
		for _, f := range r.Families {
			if addr := a.joinable(i, f, r); addr.IsValid() && a.overQuota(i, r, addr).None() {
				if addrs, why := a.complete(r, []netip.Addr{addr}); why.None() {
					return addrs, Reason{}
				}
			}
		}
	}
	// As many families as one pool has; of as many, the more important one.
	var firsts [2]netip.Addr // of each family
	for _, i := range from.pools {
		var addrs []netip.Addr
		for j, f := range r.Families {
			if addr := a.stock.next(i, f); addr.IsValid() && a.overQuota(i, r, append(addrs, addr)...).None() {
				addrs = append(addrs, addr)
				firsts[j] = cmp.Or(firsts[j], addr)
			}
		}
		if len(addrs) == len(r.Families) {
			return addrs, Reason{}
		}
	}
	if i := slices.IndexFunc(firsts[:], netip.Addr.IsValid); i >= 0 && !r.AllFamilies {
		return firsts[i : i+1 : i+1], Reason{}
	}
	return nil, a.unmet(r, from)
}

// unmet says that no pool has what the Service asks for.
func (a *Allocator) unmet(r *Request, from *fit) Reason {
	all := a.config.Pools
	why := Reason{Pool: r.Pool, pools: from.names}
	switch {
	case len(from.pools) > 0:
	case r.Pool != "" && !slices.ContainsFunc(all, func(p Pool) bool { return p.Name == r.Pool }):
		return Reason{Cause: NoSuchPool, Pool: r.Pool, pools: a.poolsFor(r, false)}
	case r.Pool != "":
		return Reason{Cause: PoolNotFor, Pool: r.Pool}
	case len(all) == 0:
		return Reason{Cause: NoPools}
	case !slices.ContainsFunc(all, func(p Pool) bool { return p.AutoAssign }):
		return Reason{Cause: OnRequestOnly}
	default:
		return Reason{Cause: NoPoolFor, pools: a.poolsFor(r, true)}
	}
	for _, f := range r.Families {
		why.withheld += from.withheld[f.index()]
		why.reserved += from.reserved[f.index()]
	}
	for _, i := range from.pools {
		var free []netip.Addr
		for _, f := range r.Families {
			if addr := a.stock.next(i, f); addr.IsValid() {
				free = append(free, addr)
			}
		}
		if over := a.overQuota(i, r, free...); !over.None() {
			return over
		}
	}
	switch {
	case len(r.Families) > 1 && r.AllFamilies:
		why.Cause = NoPairFree
	case !slices.ContainsFunc(from.pools, func(i int) bool {
		return slices.ContainsFunc(r.Families, func(f Family) bool { return a.stock.has(i, f) })
	}):
		why.Cause, why.Family = NoFamily, r.Families[0]
	case r.Pool != "":
		why.Cause = PoolFull
	default:
		why.Cause = NoneFree
	}
	if !slices.Contains(r.Families, IPv4) {
		why.Family = IPv6
	}
	return why
}

// poolsFor names the pools that are for the Service's namespace, whatever its labels: its users learn nothing of the others.
func (a *Allocator) poolsFor(r *Request, automatic bool) string {
	var names []string
	for i := range a.config.Pools {
		if p := &a.config.Pools[i]; p.isFor(r.Namespace, a.namespaces[r.Namespace]) && (p.AutoAssign || !automatic) {
			names = append(names, p.Name)
		}
	}
	return someOf(names)
}

// mayHold returns why the Service cannot have the address it asks for, if so.
func (a *Allocator) mayHold(addr netip.Addr, r *Request) Reason {
	pool := a.config.Pool(addr)
	if why := a.excluded(addr, r); !why.None() {
		return why
	}
	switch {
	case pool == nil:
		for _, t := range a.inUse[addr] {
			if t.request.UID != r.UID {
				return a.because(addr, r, obstacle{BothAlone, Port{}, t})
			}
		}
		return Reason{Cause: OfNoPool, Addr: addr, pools: a.poolsFor(r, false)}
	case !pool.isFor(r.Namespace, a.namespaces[r.Namespace]): // its name is not for the namespace's users
		return Reason{Cause: AddressOfOthers, Addr: addr}
	case r.Pool != "" && pool.Name != r.Pool:
		return Reason{Cause: OfOtherPool, Addr: addr, Pool: pool.Name, OtherPool: r.Pool}
	case !a.serves(pool, r):
		return Reason{Cause: AddressNotFor, Addr: addr, Pool: pool.Name}
	}
	if why := a.barred(addr, pool, r); !why.None() {
		return why
	}
	if o, ok := a.mayJoin(addr, pool, r); !ok {
		return a.because(addr, r, o)
	}
	switch {
	case a.inUse[addr] != nil:
	case a.stock.own[addr]:
		return Reason{Cause: OfInfrastructure, Addr: addr}
	case !pool.handsOut(addr):
		return Reason{Cause: NotHandedOut, Addr: addr, Pool: pool.Name}
	}
	return Reason{}
}
