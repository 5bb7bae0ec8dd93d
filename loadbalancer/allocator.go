package loadbalancer

import (
	"cmp"
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Request is what one Service asks of the allocator.
type Request struct {
	// UID is the Service's: a Service that is deleted and made again under the same name is another one.
	UID string
	// Service is its namespace/name, for errors.
	Service string
	// Addr is the one address that the Service accepts; the zero Addr accepts any.
	Addr netip.Addr
	// Pool is the name of the one pool that the Service accepts; empty accepts any that is handed out without request.
	Pool string
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
// in use.
type Allocator struct {
	config  *Config
	holders map[netip.Addr]Holder
	held    map[string]tenure // by UID: the inverse of holders, changed only by hold and free
	stores  []store           // one for each pool of config
	order   []int             // indices of the pools by priority, then as the operator wrote them
	byName  map[string]int

	// freed holds the list element of each address that was used and is free now, in the store of its pool or, if no pool
	// hands it out, in withheld.
	freed    map[netip.Addr]*list.Element
	withheld *list.List
	clock    uint64 // counts what was freed, so that a new configuration keeps the order
}

// A tenure is how a Service holds its address.
type tenure struct {
	addr netip.Addr
	// pool is what the Service asked for when it last got its address or kept it; asked is false for an adopted one that
	// has not asked yet. An operator who draws the pools anew does not move the Services of the old ones: only asking for
	// another pool than before does.
	pool  string
	asked bool
}

// A store is what a pool has left to hand out.
type store struct {
	// next is the lowest address that may never have been used, in range number span; past the last range, none is left.
	span int
	next netip.Addr
	// freed are the addresses that were used before, longest ago first.
	freed *list.List
}

type freedAddr struct {
	addr netip.Addr
	at   uint64
}

// NewAllocator returns an allocator without pools, in which nothing is held.
func NewAllocator() *Allocator {
	return &Allocator{
		config:   &Config{},
		holders:  map[netip.Addr]Holder{},
		held:     map[string]tenure{},
		freed:    map[netip.Addr]*list.Element{},
		withheld: list.New(),
	}
}

// Configure changes the pools. Every address stays with its holder, also one that no pool owns any more.
func (a *Allocator) Configure(config *Config) {
	var used []freedAddr
	for _, e := range a.freed {
		used = append(used, e.Value.(freedAddr))
	}
	slices.SortFunc(used, func(x, y freedAddr) int { return cmp.Compare(x.at, y.at) })

	a.config = config
	a.stores = make([]store, len(config.Pools))
	a.order = make([]int, len(config.Pools))
	a.byName = make(map[string]int, len(config.Pools))
	for i, pool := range config.Pools {
		a.stores[i] = store{next: pool.Ranges[0].From(), freed: list.New()}
		a.order[i] = i
		a.byName[pool.Name] = i
	}
	slices.SortStableFunc(a.order, func(i, j int) int { return config.Pools[i].Priority - config.Pools[j].Priority })

	a.withheld.Init()
	for _, f := range used {
		a.freed[f.addr] = a.listOf(f.addr).PushBack(f)
	}
}

func (a *Allocator) listOf(addr netip.Addr) *list.List {
	if pool := a.config.Pool(addr); pool != nil && pool.handsOut(addr) {
		return a.stores[a.byName[pool.Name]].freed
	}
	return a.withheld
}

// Held returns the address that the Service holds, or the zero Addr.
func (a *Allocator) Held(uid string) netip.Addr { return a.held[uid].addr }

// Holder returns the Service that holds addr.
func (a *Allocator) Holder(addr netip.Addr) (Holder, bool) {
	h, ok := a.holders[addr]
	return h, ok
}

// Holdings returns every address in use, in the order of the addresses.
func (a *Allocator) Holdings() []Holding {
	all := make([]Holding, 0, len(a.holders))
	for addr, h := range a.holders {
		all = append(all, Holding{h.Service, addr})
	}
	slices.SortFunc(all, func(x, y Holding) int { return x.Addr.Compare(y.Addr) })
	return all
}

// Adopt gives a Service the address that its status shows, also one that no pool owns: it is in use, whatever the
// configuration says. The error says who holds it already; then nothing changes.
func (a *Allocator) Adopt(uid, service string, addr netip.Addr) error {
	if h, taken := a.holders[addr]; taken && h.UID != uid {
		return fmt.Errorf("address %s is held by service %s", addr, h.Service)
	}
	now := a.held[uid]
	if now.addr != addr {
		now = tenure{addr: addr}
	}
	a.hold(Holder{uid, service}, now)
	return nil
}

// Allocate gives the Service an address that meets its request, and returns the pool that owns it. A Service that holds
// such an address keeps it. One that holds another, because it asks for something else than before, gives that up only for
// one that meets the request: on error nothing changes. A Service that was adopted keeps its address also if it asks for
// another pool: nobody remembers whether it did so before. Asking for another again moves it.
func (a *Allocator) Allocate(r Request) (netip.Addr, *Pool, error) {
	addr, err := a.choose(r)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	a.hold(Holder{r.UID, r.Service}, tenure{addr, r.Pool, true})
	return addr, a.config.Pool(addr), nil
}

// Check returns the error that Allocate would return, and changes nothing.
func (a *Allocator) Check(r Request) error {
	_, err := a.choose(r)
	return err
}

// Pool returns the pool that owns addr, or nil.
func (a *Allocator) Pool(addr netip.Addr) *Pool { return a.config.Pool(addr) }

// Release frees the address that the Service holds, and returns it. Without one, it returns the zero Addr.
func (a *Allocator) Release(uid string) netip.Addr {
	t, ok := a.held[uid]
	if ok {
		a.free(uid, t.addr)
	}
	return t.addr
}

func (a *Allocator) hold(h Holder, t tenure) {
	if before, ok := a.held[h.UID]; ok && before.addr != t.addr {
		a.free(h.UID, before.addr)
	}
	a.holders[t.addr] = h
	a.held[h.UID] = t
	if e, ok := a.freed[t.addr]; ok {
		a.listOf(t.addr).Remove(e)
		delete(a.freed, t.addr)
	}
}

func (a *Allocator) free(uid string, addr netip.Addr) {
	delete(a.holders, addr)
	delete(a.held, uid)
	a.clock++
	a.freed[addr] = a.listOf(addr).PushBack(freedAddr{addr, a.clock})
}

// choose finds the address that meets the request. It changes nothing but how far the pools' cursors have come.
func (a *Allocator) choose(r Request) (netip.Addr, error) {
	held := a.held[r.UID]
	if held.addr.IsValid() && (!r.Addr.IsValid() || r.Addr == held.addr) && a.meets(held, r) {
		return held.addr, nil
	}
	if r.Addr.IsValid() {
		return r.Addr, a.mayHold(r)
	}
	if held.addr.IsValid() && !held.asked {
		return netip.Addr{}, fmt.Errorf("the Service asks for pool %q and came with address %s, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again", r.Pool, held.addr)
	}
	if r.Pool != "" {
		i, ok := a.byName[r.Pool]
		if !ok {
			return netip.Addr{}, fmt.Errorf("no pool is named %q: ask for %s", r.Pool, a.poolNames(func(*Pool) bool { return true }))
		}
		if addr, ok := a.take(i); ok {
			return addr, nil
		}
		return netip.Addr{}, fmt.Errorf("pool %q has no free address: add addresses to it, or delete a Service that holds one", r.Pool)
	}
	automatic := 0
	for _, i := range a.order {
		if !a.config.Pools[i].AutoAssign {
			continue
		}
		automatic++
		if addr, ok := a.take(i); ok {
			return addr, nil
		}
	}
	switch {
	case len(a.config.Pools) == 0:
		return netip.Addr{}, fmt.Errorf("no address pool is configured: add one to address-pools")
	case automatic == 0:
		return netip.Addr{}, fmt.Errorf("no pool hands out addresses without request: annotate the Service with metallb.universe.tf/address-pool")
	default:
		return netip.Addr{}, fmt.Errorf("no free address in %s: add addresses, or delete a Service that holds one",
			a.poolNames(func(p *Pool) bool { return p.AutoAssign }))
	}
}

// mayHold returns why the Service cannot have the address it asks for, if so.
func (a *Allocator) mayHold(r Request) error {
	pool := a.config.Pool(r.Addr)
	h, taken := a.holders[r.Addr]
	switch {
	case taken && h.UID != r.UID:
		return fmt.Errorf("address %s is held by service %s: ask for another, or delete that Service", r.Addr, h.Service)
	case pool == nil:
		return fmt.Errorf("no pool owns address %s: ask for an address of %s, or add it to a pool", r.Addr, a.poolNames(func(*Pool) bool { return true }))
	case r.Pool != "" && pool.Name != r.Pool:
		return fmt.Errorf("address %s belongs to pool %q, and the Service asks for pool %q: change one of the two", r.Addr, pool.Name, r.Pool)
	case !pool.handsOut(r.Addr):
		return fmt.Errorf("pool %q does not hand out addresses that end in .0 or .255, such as %s: ask for another, or set avoid-buggy-ips to false", pool.Name, r.Addr)
	}
	return nil
}

// meets reports whether an address that the Service holds is from where it asks for. What it was given on the same request
// before is, whatever has become of the pools since.
func (a *Allocator) meets(held tenure, r Request) bool {
	if r.Pool == "" || held.asked && r.Pool == held.pool {
		return true
	}
	pool := a.config.Pool(held.addr)
	return pool != nil && pool.Name == r.Pool
}

// take returns the address that the pool hands out next, and leaves it there.
func (a *Allocator) take(i int) (netip.Addr, bool) {
	pool, s := &a.config.Pools[i], &a.stores[i]
	for s.span < len(pool.Ranges) {
		if addr := s.next; !a.used(addr) && pool.handsOut(addr) {
			return addr, true
		}
		// Each address is passed at most once, so that the cost is spread over the allocations before.
		if s.next != pool.Ranges[s.span].To() {
			s.next = s.next.Next()
		} else if s.span++; s.span < len(pool.Ranges) {
			s.next = pool.Ranges[s.span].From()
		}
	}
	if e := s.freed.Front(); e != nil {
		return e.Value.(freedAddr).addr, true
	}
	return netip.Addr{}, false
}

func (a *Allocator) used(addr netip.Addr) bool {
	_, held := a.holders[addr]
	_, freed := a.freed[addr]
	return held || freed
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
