package loadbalancer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

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
	// Left are the addresses that the Service held before and gave up.
	Left []netip.Addr
	// Conflict is set if it gave one up because another Service holds it that it cannot share it with.
	Conflict Reason
	// Renumbered is set if it gave one up because the operator took that away from the pools.
	Renumbered bool
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
	givenUp *netipx.IPSet

	services map[string]*tenant // by UID: who holds addresses, and who waits
	inUse    map[netip.Addr]*occupied
	groups   map[group]map[spot]*company // of those that pools own, changed only by list and unlist
	kins     map[kin]map[group]bool      // the keys of groups
	held     []Holding                   // one for each tenant and address, in no order
	rows     []*tenant                   // whose each of them is
	stock    *stock
	withheld []netip.Addr // those of Nodes that pools own, in order
	waiting
}

// A tenant is a Service that holds addresses or waits for some.
type tenant struct {
	request Request      // as it asked last
	addrs   []netip.Addr // at most one of each family
	rows    [2]int       // of its addresses in the allocator's list, by family
	terms   Terms        // on which it holds them
	// pool is what the Service asked for when it last got its address or kept it; asked is false for an adopted one that
	// has not asked yet. An operator who draws the pools anew does not move the Services of the old ones: only asking for
	// another pool than before does.
	pool  string
	asked bool
	// key is, likewise, the sharing key that it had then.
	key string
	// odds is set for a tenant that shares an address with others against its terms: it is the one to blame.
	odds bool
	// rests is set for one that wants nothing: it holds what it holds until it is released.
	rests bool

	stale bool   // the pools changed since it was looked at
	why   Reason // it waits for all that it asks for
	class *class // of those that wait for the same; nil if it does not wait
	at    int    // in the class
}

// NewAllocator returns an allocator without pools, in which nothing is held.
func NewAllocator() *Allocator {
	a := &Allocator{
		config:   &Config{},
		givenUp:  &netipx.IPSet{},
		services: map[string]*tenant{},
		inUse:    map[netip.Addr]*occupied{},
		groups:   map[group]map[spot]*company{},
		kins:     map[kin]map[group]bool{},
	}
	a.stock = newStock(func(addr netip.Addr) bool { return a.inUse[addr] != nil })
	a.waiting.reset(a.config)
	return a
}

// Configure changes the pools. Every address stays with its holder, also one that no pool owns any more, until that asks
// again or is served: then those of givenUp that no pool owns are exchanged for others, if there are any.
func (a *Allocator) Configure(config *Config, givenUp *netipx.IPSet) {
	if givenUp == nil {
		givenUp = &netipx.IPSet{}
	}
	a.config, a.givenUp, a.withheld = config, givenUp, a.pooled(config)
	a.stock.configure(config, slices.Collect(maps.Keys(a.inUse)))
	clear(a.groups)
	clear(a.kins)
	for addr, at := range a.inUse {
		holders := at.holders
		*at = occupied{}
		for _, t := range holders {
			at.holders = append(at.holders, t)
			a.list(addr, at, t)
		}
	}
	a.waiting.reset(config)
	for _, t := range a.services {
		if t.class, t.stale = nil, !t.rests; t.stale {
			a.unchecked = append(a.unchecked, t)
		}
	}
}

// Withhold says which addresses are Nodes' own. Like those of routers, they are not handed out while nobody holds them; who
// holds one keeps it: anybody who can write a Node's status could take it away otherwise.
func (a *Allocator) Withhold(nodes []netip.Addr) {
	a.stock.nodes = slices.Clone(nodes)
	if !slices.Equal(a.pooled(a.config), a.withheld) {
		a.Configure(a.config, a.givenUp)
	}
}

// pooled returns the addresses of Nodes that pools own, in order.
func (a *Allocator) pooled(config *Config) []netip.Addr {
	all := slices.DeleteFunc(slices.Clone(a.stock.nodes), func(addr netip.Addr) bool { return config.Pool(addr) == nil })
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
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
	if at := a.inUse[addr]; at != nil {
		for _, t := range at.holders {
			all = append(all, Holder{t.request.UID, t.request.Service})
		}
	}
	return all
}

// InUse returns every address in use and by whom, in no order. It copies a list, and is quick.
func (a *Allocator) InUse() []Holding { return slices.Clone(a.held) }

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
// once; else it does not get it, and the reason says who holds it. If it gets none, nothing changes.
func (a *Allocator) Adopt(r Request, addrs []netip.Addr) (conflict Reason) {
	next := holding{}
	for _, addr := range addrs {
		if slices.ContainsFunc(next.addrs, func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }) {
			continue
		}
		if why := a.excluded(addr, &r); !why.None() {
			if conflict.None() {
				conflict = why
			}
			continue
		}
		next.addrs = append(next.addrs, addr)
		next.odds = next.odds || !a.atOdds(addr, &r, theBlameless).None()
	}
	if len(next.addrs) == 0 {
		return conflict
	}
	t := a.tenant(&r)
	if len(t.addrs) > 0 && !slices.ContainsFunc(next.addrs, func(addr netip.Addr) bool { return !slices.Contains(t.addrs, addr) }) {
		next.pool, next.key, next.asked = t.pool, t.key, t.asked // it is known how it came to these
	}
	a.hold(t, &r, next)
	if t.class != nil {
		a.Wait(r) // for what it may lack now
	}
	return conflict
}

// Allocate gives the Service addresses that meet its request. A Service that holds such addresses keeps them. One that holds
// others, because it asks for something else than before, gives them up only for those that meet the request: a request
// that cannot be met leaves everything as it was, and waits. A Service that was adopted keeps its address also if it asks for
// another pool: nobody remembers whether it did so before. Asking for another again moves it.
//
// The exception is an address that another Service holds and that the two cannot use at once: the one that asks loses it,
// for otherwise one Service's mistake would be the other's outage.
func (a *Allocator) Allocate(r Request) Grant {
	g, next := a.decide(&r)
	t := a.tenant(&r)
	moved := !slices.Equal(t.addrs, next.addrs)
	a.hold(t, &r, next)
	a.note(t, g, moved)
	return g
}

// Check returns what Allocate would, and changes nothing. It also reports whether Allocate would change nothing.
func (a *Allocator) Check(r Request) (g Grant, same bool) {
	g, next := a.decide(&r)
	before := a.services[r.UID]
	if before == nil || len(before.addrs) == 0 {
		return g, len(next.addrs) == 0
	}
	return g, slices.Equal(next.addrs, before.addrs) && before.terms.equal(r.Terms) && next.odds == before.odds
}

// Release forgets the Service, and returns the addresses that it held.
func (a *Allocator) Release(uid string) []netip.Addr {
	t := a.services[uid]
	if t == nil {
		return nil
	}
	a.leave(t)
	delete(a.services, uid)
	t.rests = true
	left := t.addrs
	a.hold(t, &t.request, holding{})
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

// A holding is what a tenant is to hold, and how it comes to it.
type holding struct {
	addrs []netip.Addr
	pool  string
	asked bool
	key   string
	odds  bool
}

// hold makes the tenant hold what the holding says, on the request's terms, instead of what it held before.
func (a *Allocator) hold(t *tenant, r *Request, next holding) {
	before := t.addrs
	same := t.terms.equal(r.Terms)
	for _, addr := range before {
		at := a.inUse[addr]
		switch {
		case !slices.Contains(next.addrs, addr):
			a.unlist(addr, at, t)
			a.strike(t, addr)
			at.holders = slices.DeleteFunc(at.holders, func(other *tenant) bool { return other == t })
			if len(at.holders) == 0 {
				delete(a.inUse, addr)
				a.stock.free(addr)
			}
		case !same:
			a.unlist(addr, at, t)
		}
	}
	t.request, t.terms, t.addrs = *r, r.Terms, next.addrs
	t.pool, t.asked, t.key, t.odds = next.pool, next.asked, next.key, next.odds
	for _, addr := range next.addrs {
		at := a.inUse[addr]
		switch {
		case !slices.Contains(before, addr):
			if at == nil {
				at = &occupied{}
				a.inUse[addr] = at
				a.stock.take(addr)
			}
			at.holders = append(at.holders, t)
			a.list(addr, at, t)
			a.enter(t, addr)
			a.touch(addr)
		case !same:
			a.list(addr, at, t)
			a.touch(addr)
		}
	}
	for _, addr := range before {
		a.absolve(addr)
		if !slices.Contains(next.addrs, addr) {
			a.touch(addr)
		}
	}
}

// enter writes a line into the list of what is held, and strike takes it out.
func (a *Allocator) enter(t *tenant, addr netip.Addr) {
	t.rows[place6(FamilyOf(addr))] = len(a.held)
	a.held, a.rows = append(a.held, Holding{t.request.Service, addr}), append(a.rows, t)
}

func (a *Allocator) strike(t *tenant, addr netip.Addr) {
	row, last := t.rows[place6(FamilyOf(addr))], len(a.held)-1
	a.held[row], a.rows[row] = a.held[last], a.rows[last]
	a.rows[row].rows[place6(FamilyOf(a.held[row].Addr))] = row
	a.rows[last] = nil
	a.held, a.rows = a.held[:last], a.rows[:last]
}

// absolve clears those of the blame who were at odds with a holder of the address that left or changed.
func (a *Allocator) absolve(addr netip.Addr) {
	at := a.inUse[addr]
	if at == nil {
		return
	}
	for _, t := range at.holders {
		if !t.odds {
			continue
		}
		r := t.request
		r.Terms = t.terms
		if t.odds = slices.ContainsFunc(t.addrs, func(addr netip.Addr) bool { return !a.atOdds(addr, &r, theBlameless).None() }); !t.odds {
			a.touch(addr)
		}
	}
}

// decide finds what the Service gets, and how it will hold that. It changes nothing but how far the pools' cursors have come.
func (a *Allocator) decide(r *Request) (Grant, holding) {
	now := a.services[r.UID]
	if now == nil || len(now.addrs) == 0 {
		now = &tenant{}
	}
	addrs, why := a.choose(r, now)
	g := Grant{Why: why}
	if len(addrs) == 0 {
		// It keeps what it has. What it cannot have together with another, it loses.
		for _, addr := range now.addrs {
			if a.obstacle(addr, r, everybody).relation.excludes() {
				continue
			}
			addrs = append(addrs, addr)
			if a.isGivenUp(addr) {
				g.Why.GivenUp = addr
			}
		}
		addrs = inOrderOf(r.Families, addrs)
	}
	next := holding{addrs: addrs, pool: r.Pool, key: r.Key, asked: true}
	if !why.None() {
		next.pool, next.key, next.asked = now.pool, now.key, now.asked
	}
	for _, addr := range addrs {
		if remark := a.atOdds(addr, r, theBlameless); !remark.None() {
			next.odds = true
			if g.Why.None() {
				g.Why = remark
			}
		}
	}
	for _, addr := range now.addrs {
		if slices.Contains(addrs, addr) {
			continue
		}
		g.Left = append(g.Left, addr)
		if g.Conflict.None() {
			g.Conflict = a.excluded(addr, r)
		}
		g.Renumbered = g.Renumbered || a.isGivenUp(addr)
	}
	for _, addr := range addrs {
		if g.Apart.None() && r.Key != "" && a.inUse[addr] == nil {
			g.Apart = a.apart(addr, r)
		}
	}
	g.Addrs = addrs
	g.More = g.Why.None() && a.couldComplete(addrs, r)
	return g, next
}

// choose finds addresses that meet the request, in the order of its families. With a reason, they are those that the Service
// would have had it not changed its key, if any.
func (a *Allocator) choose(r *Request, now *tenant) ([]netip.Addr, Reason) {
	if r.Invalid != nil {
		return nil, Reason{Cause: Invalid, text: r.Invalid.Error()}
	}
	var kept, disliked []netip.Addr
	for _, addr := range now.addrs {
		switch {
		case !slices.Contains(r.Families, FamilyOf(addr)) || a.isGivenUp(addr) || a.obstacle(addr, r, everybody).relation.excludes():
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
		return a.byName(r, kept)
	case len(kept) > 0:
		return a.complete(r, kept)
	default:
		return a.anew(r)
	}
}

// isOf reports whether the pool of that name owns the address. The empty name stands for any pool, and for none.
func (a *Allocator) isOf(addr netip.Addr, name string) bool {
	pool := a.config.Pool(addr)
	return name == "" || pool != nil && pool.Name == name
}

func (a *Allocator) isGivenUp(addr netip.Addr) bool {
	return a.givenUp.Contains(addr) && a.config.Pool(addr) == nil
}

// byName gives the Service the addresses that it asks for, and of its other families what the same pool has. What it has
// already may be of several pools by now: those were drawn anew.
func (a *Allocator) byName(r *Request, kept []netip.Addr) ([]netip.Addr, Reason) {
	moves := false
	for _, want := range r.Addrs {
		if slices.Contains(kept, want) {
			continue
		}
		if why := a.mayHold(want, r); !why.None() {
			return nil, why
		}
		moves = true
	}
	chosen := slices.Clone(r.Addrs)
	for _, want := range chosen[1:] {
		if p, q := a.config.Pool(chosen[0]), a.config.Pool(want); moves && p != q && p != nil && q != nil {
			return nil, Reason{Cause: OfTwoPools, Addr: chosen[0], Pool: p.Name, Other: want, OtherPool: q.Name}
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
		if i, ok := a.config.index(addr); ok {
			pool = i
		}
	}
	for _, f := range r.Families {
		if slices.ContainsFunc(chosen, func(addr netip.Addr) bool { return FamilyOf(addr) == f }) {
			continue
		}
		var more netip.Addr
		serves := pool >= 0 && a.config.Pools[pool].Serves(r.Namespace, r.Labels)
		if serves {
			more = a.pick(pool, f, r)
		}
		switch {
		case more.IsValid():
			chosen = append(chosen, more)
		case r.AllFamilies && pool < 0:
			return nil, Reason{Cause: NoPoolBeside, Addr: chosen[0], Family: f}
		case r.AllFamilies && !serves:
			return nil, Reason{Cause: PoolNotFor, Pool: a.config.Pools[pool].Name}
		case r.AllFamilies:
			return nil, Reason{Cause: NoneBeside, Pool: a.config.Pools[pool].Name, Addr: chosen[0], Family: f}
		}
	}
	return inOrderOf(r.Families, chosen), Reason{}
}

// couldComplete reports whether a family is missing of which the pool of the others has addresses, if none is free now.
func (a *Allocator) couldComplete(addrs []netip.Addr, r *Request) bool {
	if len(addrs) == 0 || len(addrs) >= len(r.Families) {
		return false
	}
	pool, ok := a.config.index(addrs[0])
	return ok && a.config.Pools[pool].Serves(r.Namespace, r.Labels) &&
		!slices.ContainsFunc(r.Families, func(f Family) bool { return !a.stock.has(pool, f) })
}

// inOrderOf sorts addresses; those of other families come last.
func inOrderOf(families []Family, addrs []netip.Addr) []netip.Addr {
	place := func(addr netip.Addr) int {
		if i := slices.Index(families, FamilyOf(addr)); i >= 0 {
			return i
		}
		return len(families)
	}
	slices.SortStableFunc(addrs, func(x, y netip.Addr) int { return place(x) - place(y) })
	return addrs
}

// anew finds addresses for a Service that has none that meet its request.
func (a *Allocator) anew(r *Request) ([]netip.Addr, Reason) {
	fit := a.fitOf(r)
	if why := fit.why; !why.None() {
		why.Pool = r.Pool
		return nil, why
	}
	if a.hasCompany(r) { // which comes first
		for _, i := range fit.pools {
			for _, f := range r.Families {
				if addr := a.joinable(i, f, r); addr.IsValid() {
					if addrs, why := a.complete(r, []netip.Addr{addr}); why.None() {
						return addrs, Reason{}
					}
				}
			}
		}
	}
	// As many families as one pool has; of as many, the more important one.
	for _, i := range fit.pools {
		if addrs := a.pickAll(i, r); len(addrs) == len(r.Families) {
			return addrs, Reason{}
		}
	}
	if !r.AllFamilies {
		for _, f := range r.Families {
			for _, i := range fit.pools {
				if addr := a.pick(i, f, r); addr.IsValid() {
					return []netip.Addr{addr}, Reason{}
				}
			}
		}
	}
	return nil, a.exhausted(r, fit)
}

// hasCompany reports whether some address is shared under the Service's terms.
func (a *Allocator) hasCompany(r *Request) bool {
	g := groupOf(r.Namespace, r.Terms)
	within := a.groups[g] != nil
	g.namespace = ""
	return r.Key != "" && (within || a.groups[g] != nil)
}

// pickAll returns an address of the pool for each family for which it has one.
func (a *Allocator) pickAll(pool int, r *Request) (addrs []netip.Addr) {
	for _, f := range r.Families {
		addr := a.pick(pool, f, r)
		if !addr.IsValid() {
			return nil
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

// pick returns the address of the pool that the Service gets next, and leaves it there.
func (a *Allocator) pick(pool int, f Family, r *Request) netip.Addr {
	if addr := a.joinable(pool, f, r); addr.IsValid() {
		return addr
	}
	return a.stock.next(pool, f)
}

// exhausted says that none of the pools has what the Service asks for.
func (a *Allocator) exhausted(r *Request, fit *fit) Reason {
	if len(r.Families) > 1 && r.AllFamilies {
		return Reason{Cause: NoPairFree, pools: fit.names}
	}
	why := Reason{Cause: NoneFree, Pool: r.Pool, pools: fit.names}
	if !slices.Contains(r.Families, IPv4) {
		why.Family = IPv6
	}
	if !slices.ContainsFunc(r.Families, func(f Family) bool { return fit.has[place6(f)] }) {
		return Reason{Cause: NoFamily, Family: r.Families[0], pools: fit.names}
	}
	if r.Pool != "" {
		why.pools = ""
	}
	return why
}

// mayHold returns why the Service cannot have the address it asks for, if so.
func (a *Allocator) mayHold(addr netip.Addr, r *Request) Reason {
	pool := a.config.Pool(addr)
	if why := a.excluded(addr, r); !why.None() {
		return why
	}
	switch {
	case pool == nil:
		if at := a.inUse[addr]; at != nil {
			for _, t := range at.holders {
				if t.request.UID != r.UID {
					return a.because(addr, r, obstacle{BothAlone, Port{}, t})
				}
			}
		}
		return Reason{Cause: OfNoPool, Addr: addr, pools: a.allPools}
	case r.Pool != "" && pool.Name != r.Pool:
		return Reason{Cause: OfOtherPool, Addr: addr, Pool: pool.Name, OtherPool: r.Pool}
	case !pool.Serves(r.Namespace, r.Labels):
		return Reason{Cause: AddressNotFor, Addr: addr, Pool: pool.Name}
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
