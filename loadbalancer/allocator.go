package loadbalancer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

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

// A Grant is what a Service holds after a request, and what came of that.
type Grant struct {
	// Addrs are in the order of the request's families. None is not an error if the Service is to wait.
	Addrs []netip.Addr
	// Why is the reason for which the Service has not all that it asked for; nil if it has.
	Why error
	// More is set if the Service has what it must have, and would get another family as well were one free.
	More bool
	// Left are the addresses that the Service held before and gave up.
	Left []netip.Addr
	// Conflict is set if it gave one up because another Service holds it that it cannot share it with.
	Conflict error
	// Renumbered is set if it gave one up because the operator took that away from the pools.
	Renumbered bool
	// Eased is set if it came to hold less than before, or to share it on other terms: others may now be served.
	Eased bool
}

// A Holder is a Service that holds an address.
type Holder struct {
	UID     string
	Service string // namespace/name
}

// An Allocator is the one truth about which Service holds which address. Its answers follow from what it was told and in
// which order, and from nothing else. It is not safe for concurrent use.
//
// In each pool it hands out the addresses that were never used, lowest first, then the one freed longest ago, so that an
// address stays unused for as long as possible after a Service gave it up. No call takes longer when more addresses are
// in use; only a Service that shares looks at those that are shared under its key.
type Allocator struct {
	config *Config
	// givenUp are addresses that the operator took away from the pools on purpose: who holds one moves.
	givenUp *netipx.IPSet

	holders map[netip.Addr][]*tenant      // who came first stands first
	tenants map[string]*tenant            // by UID: the inverse of holders, changed only by hold and leave
	groups  map[group]map[netip.Addr]bool // addresses that are shared, or may be
	stock   *stock
}

// A tenant is a Service that holds addresses.
type tenant struct {
	Holder
	namespace string
	addrs     []netip.Addr // at most one of each family
	terms     Terms
	// pool is what the Service asked for when it last got its address or kept it; asked is false for an adopted one that
	// has not asked yet. An operator who draws the pools anew does not move the Services of the old ones: only asking for
	// another pool than before does.
	pool  string
	asked bool
	// key is, likewise, the sharing key that it had then.
	key string
	// odds is set for a tenant that shares an address with others against its terms: it is the one to blame.
	odds bool
}

// NewAllocator returns an allocator without pools, in which nothing is held.
func NewAllocator() *Allocator {
	a := &Allocator{
		config:  &Config{},
		givenUp: &netipx.IPSet{},
		holders: map[netip.Addr][]*tenant{},
		tenants: map[string]*tenant{},
		groups:  map[group]map[netip.Addr]bool{},
	}
	a.stock = newStock(func(addr netip.Addr) bool { return len(a.holders[addr]) > 0 })
	return a
}

// Configure changes the pools. Every address stays with its holder, also one that no pool owns any more, until that asks
// again: then those of givenUp that no pool owns are exchanged for others, if there are any.
func (a *Allocator) Configure(config *Config, givenUp *netipx.IPSet) {
	if givenUp == nil {
		givenUp = &netipx.IPSet{}
	}
	a.config, a.givenUp = config, givenUp
	a.stock.configure(config, slices.Collect(maps.Keys(a.holders)))
	clear(a.groups)
	for _, t := range a.tenants {
		a.list(t)
	}
}

// Held returns the addresses that the Service holds.
func (a *Allocator) Held(uid string) []netip.Addr {
	if t := a.tenants[uid]; t != nil {
		return t.addrs
	}
	return nil
}

// Holders returns the Services that hold addr.
func (a *Allocator) Holders(addr netip.Addr) (all []Holder) {
	for _, t := range a.holders[addr] {
		all = append(all, t.Holder)
	}
	return all
}

// Holdings returns every address in use and by whom, in the order of the addresses.
func (a *Allocator) Holdings() []Holding {
	all := make([]Holding, 0, len(a.holders))
	for addr, tenants := range a.holders {
		for _, t := range tenants {
			all = append(all, Holding{t.Service, addr})
		}
	}
	slices.SortFunc(all, func(x, y Holding) int { return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Service, y.Service)) })
	return all
}

// Pool returns the pool that owns addr, or nil.
func (a *Allocator) Pool(addr netip.Addr) *Pool { return a.config.Pool(addr) }

// Adopt gives a Service addresses that its status shows, also those that no pool owns: they are in use, whatever the
// configuration says. Of each family it takes the first. It may hold one together with others if they can all use it at
// once; else it does not get it, and the error says who holds it. If it gets none, nothing changes.
func (a *Allocator) Adopt(r Request, addrs []netip.Addr) error {
	t := &tenant{Holder: Holder{r.UID, r.Service}, namespace: r.Namespace, terms: r.Terms}
	var conflict error
	for _, addr := range addrs {
		if slices.ContainsFunc(t.addrs, func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }) {
			continue
		}
		if err := a.collides(addr, r); err != nil {
			conflict = cmp.Or(conflict, err)
			continue
		}
		t.addrs = append(t.addrs, addr)
		t.odds = t.odds || a.differs(addr, r) != nil
	}
	if len(t.addrs) == 0 {
		return conflict
	}
	now := a.tenants[r.UID]
	if now != nil && !slices.ContainsFunc(t.addrs, func(addr netip.Addr) bool { return !slices.Contains(now.addrs, addr) }) {
		t.pool, t.key, t.asked = now.pool, now.key, now.asked // it is known how it came to these
	}
	a.replace(t)
	return conflict
}

// Allocate gives the Service addresses that meet its request. A Service that holds such addresses keeps them. One that holds
// others, because it asks for something else than before, gives them up only for those that meet the request: a request
// that cannot be met leaves everything as it was. A Service that was adopted keeps its address also if it asks for another
// pool: nobody remembers whether it did so before. Asking for another again moves it.
//
// The exception is an address that another Service holds and that the two cannot use at once: the one that asks loses it,
// for otherwise one Service's mistake would be the other's outage.
func (a *Allocator) Allocate(r Request) Grant {
	g, t := a.decide(r)
	a.replace(t)
	return g
}

// Check returns what Allocate would, and changes nothing. It also reports whether Allocate would change nothing.
func (a *Allocator) Check(r Request) (g Grant, same bool) {
	g, t := a.decide(r)
	before := a.tenants[r.UID]
	if before == nil {
		return g, len(t.addrs) == 0
	}
	return g, slices.Equal(t.addrs, before.addrs) && !g.Eased && t.terms.equal(before.terms) && t.odds == before.odds
}

// Release frees the addresses that the Service holds, and returns them.
func (a *Allocator) Release(uid string) []netip.Addr {
	t := a.tenants[uid]
	if t == nil {
		return nil
	}
	a.leave(t)
	return t.addrs
}

// decide finds what the Service gets, and how it will hold that. It changes nothing but how far the pools' cursors have come.
func (a *Allocator) decide(r Request) (Grant, *tenant) {
	now := a.tenants[r.UID]
	if now == nil {
		now = &tenant{}
	}
	addrs, err := a.choose(r, now)
	g := Grant{Why: err}
	if len(addrs) == 0 {
		// It keeps what it has. What it cannot have together with another, it loses.
		for _, addr := range now.addrs {
			if a.collides(addr, r) != nil {
				continue
			}
			addrs = append(addrs, addr)
			if a.isGivenUp(addr) {
				g.Why = fmt.Errorf("address %s belongs to no pool any more and is not announced: %w", addr, err)
			}
		}
		addrs = inOrderOf(r.Families, addrs)
	}
	t := &tenant{Holder: Holder{r.UID, r.Service}, namespace: r.Namespace, addrs: addrs, terms: r.Terms, pool: r.Pool, key: r.Key, asked: true}
	if err != nil {
		t.pool, t.key, t.asked = now.pool, now.key, now.asked
	}
	for _, addr := range addrs {
		if remark := a.differs(addr, r); remark != nil {
			t.odds = true
			g.Why = cmp.Or(g.Why, remark)
		}
	}
	for _, addr := range now.addrs {
		if slices.Contains(addrs, addr) {
			continue
		}
		g.Left = append(g.Left, addr)
		g.Conflict = cmp.Or(g.Conflict, a.collides(addr, r))
		g.Renumbered = g.Renumbered || a.isGivenUp(addr)
	}
	g.Addrs = addrs
	g.More = g.Why == nil && a.couldComplete(addrs, r)
	g.Eased = len(g.Left) > 0 || len(now.addrs) > 0 && cmp.Or(t.terms.Key, now.terms.Key) != "" && !t.terms.equal(now.terms)
	return g, t
}

// choose finds addresses that meet the request, in the order of its families. With an error, they are those that the Service
// would have had it not changed its key, if any.
func (a *Allocator) choose(r Request, now *tenant) ([]netip.Addr, error) {
	if r.Invalid != nil {
		return nil, r.Invalid
	}
	var kept, disliked []netip.Addr
	for _, addr := range now.addrs {
		switch {
		case !slices.Contains(r.Families, FamilyOf(addr)) || a.isGivenUp(addr) || a.collides(addr, r) != nil:
			// It cannot stay.
		case slices.ContainsFunc(r.Addrs, func(want netip.Addr) bool { return FamilyOf(want) == FamilyOf(addr) }):
			// It stays if it is the one asked for, also if it is not shared as it should be.
			if slices.Contains(r.Addrs, addr) && (now.asked && r.Pool == now.pool || a.isOf(addr, r.Pool)) {
				kept = append(kept, addr)
			}
		case !now.asked && len(r.Addrs) == 0 && !a.isOf(addr, r.Pool):
			return nil, fmt.Errorf("the Service asks for pool %q and came with address %s, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again", r.Pool, addr)
		case now.asked && r.Pool != now.pool && !a.isOf(addr, r.Pool):
			// It asks for another pool than before. What it was given on the same request is what it asks for, whatever has
			// become of the pools since.
		case now.asked && r.Key != now.key && a.misfits(addr, r) != nil:
			// It asks for other company than before.
			disliked = append(disliked, addr)
		default:
			kept = append(kept, addr)
		}
	}
	moved, err := a.find(r, kept)
	for _, addr := range disliked {
		if err == nil && slices.ContainsFunc(moved, func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }) {
			continue
		}
		if stayed, cannot := a.find(r, slices.Concat(kept, disliked)); cannot == nil && slices.Contains(stayed, addr) {
			return stayed, cmp.Or(err, a.misfits(addr, r)) // the address that it has is better than none
		}
	}
	return moved, err
}

// find finds addresses beside those that are kept.
func (a *Allocator) find(r Request, kept []netip.Addr) ([]netip.Addr, error) {
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
func (a *Allocator) byName(r Request, kept []netip.Addr) ([]netip.Addr, error) {
	moves := false
	for _, want := range r.Addrs {
		if slices.Contains(kept, want) {
			continue
		}
		if err := a.mayHold(want, r); err != nil {
			return nil, err
		}
		moves = true
	}
	chosen := slices.Clone(r.Addrs)
	for _, want := range chosen[1:] {
		if p, q := a.config.Pool(chosen[0]), a.config.Pool(want); moves && p != q && p != nil && q != nil {
			return nil, fmt.Errorf("address %s belongs to pool %q, and %s to pool %q: ask for two of one pool", chosen[0], p.Name, want, q.Name)
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
func (a *Allocator) complete(r Request, chosen []netip.Addr) ([]netip.Addr, error) {
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
			return nil, fmt.Errorf("no pool owns address %s, and so none has an %s address beside it: add it to a pool that has both", chosen[0], f)
		case r.AllFamilies && !serves:
			return nil, a.notFor(pool)
		case r.AllFamilies:
			return nil, fmt.Errorf("pool %q has no free %s address beside %s: add some to it, or ask for another pool", a.config.Pools[pool].Name, f, chosen[0])
		}
	}
	return inOrderOf(r.Families, chosen), nil
}

// couldComplete reports whether a family is missing of which the pool of the others has addresses, if none is free now.
func (a *Allocator) couldComplete(addrs []netip.Addr, r Request) bool {
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
func (a *Allocator) anew(r Request) ([]netip.Addr, error) {
	pools, err := a.fitting(r)
	if err != nil {
		return nil, err
	}
	if r.Key != "" { // company first
		for _, i := range pools {
			for _, f := range r.Families {
				if addr := a.joinable(i, f, r); addr.IsValid() {
					if addrs, err := a.complete(r, []netip.Addr{addr}); err == nil {
						return addrs, nil
					}
				}
			}
		}
	}
	// As many families as one pool has; of as many, the more important one.
	for _, i := range pools {
		if addrs := a.pickAll(i, r); len(addrs) == len(r.Families) {
			return addrs, nil
		}
	}
	if !r.AllFamilies {
		for _, f := range r.Families {
			for _, i := range pools {
				if addr := a.pick(i, f, r); addr.IsValid() {
					return []netip.Addr{addr}, nil
				}
			}
		}
	}
	return nil, a.exhausted(r, pools)
}

// pickAll returns an address of the pool for each family for which it has one.
func (a *Allocator) pickAll(pool int, r Request) (addrs []netip.Addr) {
	for _, f := range r.Families {
		if addr := a.pick(pool, f, r); addr.IsValid() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// pick returns the address of the pool that the Service gets next, and leaves it there.
func (a *Allocator) pick(pool int, f Family, r Request) netip.Addr {
	if addr := a.joinable(pool, f, r); addr.IsValid() {
		return addr
	}
	return a.stock.next(pool, f)
}

// fitting returns the pools from which the Service may get any address, in the order in which they are tried.
func (a *Allocator) fitting(r Request) (pools []int, err error) {
	if r.Pool != "" {
		i, ok := a.stock.byName[r.Pool]
		switch {
		case !ok:
			return nil, fmt.Errorf("no pool is named %q: ask for %s", r.Pool, a.poolNames(func(*Pool) bool { return true }))
		case !a.config.Pools[i].Serves(r.Namespace, r.Labels):
			return nil, a.notFor(i)
		}
		return []int{i}, nil
	}
	automatic := false
	for _, i := range a.stock.order {
		if p := &a.config.Pools[i]; p.AutoAssign {
			automatic = true
			if p.Serves(r.Namespace, r.Labels) {
				pools = append(pools, i)
			}
		}
	}
	switch {
	case len(pools) > 0:
		return pools, nil
	case len(a.config.Pools) == 0:
		return nil, fmt.Errorf("no address pool is configured: add one to address-pools")
	case !automatic:
		return nil, fmt.Errorf("no pool hands out addresses without request: annotate the Service with metallb.universe.tf/address-pool")
	default:
		return nil, fmt.Errorf("no pool is for this Service: change its labels, or the namespaces or service-selectors of %s",
			a.poolNames(func(p *Pool) bool { return p.AutoAssign }))
	}
}

func (a *Allocator) notFor(pool int) error {
	return fmt.Errorf("pool %q is not for this Service: ask for another, or change its namespaces or service-selectors", a.config.Pools[pool].Name)
}

// exhausted says that none of the pools has what the Service asks for.
func (a *Allocator) exhausted(r Request, pools []int) error {
	named := a.poolNames(func(p *Pool) bool {
		return slices.ContainsFunc(pools, func(i int) bool { return &a.config.Pools[i] == p })
	})
	if len(r.Families) > 1 && r.AllFamilies {
		return fmt.Errorf("no free IPv4 and IPv6 address in %s: add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack", named)
	}
	kind := "address"
	if !slices.Contains(r.Families, IPv4) {
		kind = "IPv6 address"
	}
	has := func(f Family) bool { return slices.ContainsFunc(pools, func(i int) bool { return a.stock.has(i, f) }) }
	if !slices.ContainsFunc(r.Families, has) {
		return fmt.Errorf("there is no %s address in %s: add some, or change spec.ipFamilies", r.Families[0], named)
	}
	if r.Pool != "" {
		return fmt.Errorf("pool %q has no free %s: add addresses to it, or delete a Service that holds one", r.Pool, kind)
	}
	return fmt.Errorf("no free %s in %s: add addresses, or delete a Service that holds one", kind, named)
}

// mayHold returns why the Service cannot have the address it asks for, if so.
func (a *Allocator) mayHold(addr netip.Addr, r Request) error {
	pool := a.config.Pool(addr)
	if err := a.collides(addr, r); err != nil {
		return err
	}
	switch {
	case pool == nil:
		for _, t := range a.holders[addr] {
			if t.UID != r.UID {
				return heldBy(addr, t)
			}
		}
		return fmt.Errorf("no pool owns address %s: ask for an address of %s, or add it to a pool", addr, a.poolNames(func(*Pool) bool { return true }))
	case r.Pool != "" && pool.Name != r.Pool:
		return fmt.Errorf("address %s belongs to pool %q, and the Service asks for pool %q: change one of the two", addr, pool.Name, r.Pool)
	case !pool.Serves(r.Namespace, r.Labels):
		return fmt.Errorf("address %s belongs to pool %q, which is not for this Service: ask for another, or change its namespaces or service-selectors", addr, pool.Name)
	}
	if err := a.join(addr, pool, r); err != nil {
		return err
	}
	if len(a.holders[addr]) == 0 && !pool.handsOut(addr) {
		return fmt.Errorf("pool %q does not hand out addresses that end in .0 or .255, such as %s: ask for another, or set avoid-buggy-ips to false", pool.Name, addr)
	}
	return nil
}

// replace makes the tenant hold what it says, instead of what the Service held before.
func (a *Allocator) replace(t *tenant) {
	before := a.tenants[t.UID]
	if before != nil {
		a.leaveFor(before, t)
	}
	if len(t.addrs) > 0 {
		a.tenants[t.UID] = t
	}
	for _, addr := range t.addrs {
		if i := slices.Index(a.holders[addr], before); before != nil && i >= 0 {
			a.holders[addr][i] = t
			continue
		}
		if len(a.holders[addr]) == 0 {
			a.stock.take(addr)
		}
		a.holders[addr] = append(a.holders[addr], t)
	}
	a.list(t)
	if before != nil {
		a.absolve(before.addrs)
	}
}

func (a *Allocator) leave(t *tenant) {
	a.leaveFor(t, &tenant{})
	a.absolve(t.addrs)
}

// leaveFor takes the addresses from a tenant, except those that it goes on holding as another.
func (a *Allocator) leaveFor(t, next *tenant) {
	delete(a.tenants, t.UID)
	for _, addr := range t.addrs {
		if !slices.Contains(next.addrs, addr) {
			a.holders[addr] = slices.DeleteFunc(a.holders[addr], func(other *tenant) bool { return other == t })
			if len(a.holders[addr]) == 0 {
				delete(a.holders, addr)
				a.stock.free(addr)
			}
		}
	}
	a.unlist(t)
}

// poolNames lists pools for an error. It names a few only: the operator knows the others.
func (a *Allocator) poolNames(which func(*Pool) bool) string {
	const most = 5
	var all []string
	for i := range a.config.Pools {
		if p := &a.config.Pools[i]; which(p) {
			if len(all) == most {
				all = append(all, "…")
				break
			}
			all = append(all, fmt.Sprintf("%q", p.Name))
		}
	}
	switch len(all) {
	case 0:
		return "a pool that exists"
	case 1:
		return "pool " + all[0]
	default:
		return "one of the pools " + strings.Join(all, ", ")
	}
}
