package loadbalancer

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// A stock is what the pools have left to hand out.
type stock struct {
	config *Config
	inUse  map[netip.Addr][]*tenant // the allocator's
	down   map[netip.Addr]*heldDown // the allocator's
	stores [][2]store               // by pool, and by family; the first are of addresses that no pool owns
	// own are addresses that routers and others use, which no pool hands out.
	own    map[netip.Addr]bool
	others []netip.Addr
	order  []int // indices of the pools by priority, then as the operator wrote them

	// freed holds the list element of each address that was used and is free now, in one of the lists of its store.
	freed map[netip.Addr]*list.Element
	clock uint64 // counts what was freed, so that a new configuration keeps the order
}

// A spot is where in the pools an address may be: in one of them, by its index, and of one family.
type spot struct {
	pool   int
	family Family
}

// A store is what a pool has left of one family.
type store struct {
	ranges []netipx.IPRange
	// at is the lowest address that may never have been used, in range number span; past the last range, none is left.
	span int
	at   netip.Addr
	// freed are the addresses that were used before, longest ago first; forgotten is set if there were more. Those that are not
	// handed out are aside, so that nobody has to look past them.
	freed, aside list.List
	forgotten    bool
	used         int // addresses in use
	withheld     int // addresses that it would hand out, were they not in use by others
	reserved     int // addresses that are kept for certain Services, whether these hold them or not
	total        float64
}

type freedAddr struct {
	addr netip.Addr
	at   uint64
}

// mostFreed bounds the memory of which addresses were freed, in each store: enough for an IPv4 network of /16.
const mostFreed = 1 << 16

// configure changes the pools. It does not forget what was used before.
func (s *stock) configure(config *Config) {
	var freed []freedAddr
	for _, e := range s.freed {
		freed = append(freed, e.Value.(freedAddr))
	}
	slices.SortFunc(freed, func(x, y freedAddr) int { return cmp.Compare(x.at, y.at) })

	s.config, s.own = config, s.reserved(config)
	s.stores, s.order = make([][2]store, len(config.Pools)+1), make([]int, len(config.Pools))
	for i, pool := range config.Pools {
		s.order[i] = i
		for _, r := range without(pool.Ranges, pool.Exclude) {
			at := s.store(i, FamilyOf(r.From()))
			at.ranges = append(at.ranges, r)
			at.total += size(r, pool.AvoidBuggyIPs)
			at.rewind()
		}
	}
	slices.SortStableFunc(s.order, func(i, j int) int { return cmp.Compare(config.Pools[i].Priority, config.Pools[j].Priority) })
	for addr := range s.inUse {
		s.storeOf(addr).used++
	}
	for addr := range s.own {
		if config.Pool(addr).handsOut(addr) {
			s.storeOf(addr).withheld++
		}
	}
	for addr := range config.reserved {
		s.storeOf(addr).reserved++
	}
	clear(s.freed)
	for _, f := range freed {
		s.shelve(f)
	}
}

func (s *store) rewind() { s.span, s.at, s.forgotten = 0, s.ranges[0].From(), false }

// handsOut reports whether any Service may be given the address, of that pool.
func (s *stock) handsOut(pool *Pool, addr netip.Addr) bool {
	return pool.handsOut(addr) && !s.own[addr] && s.config.reserved[addr] == "" && s.down[addr] == nil
}

// reserved returns the addresses of routers and others that pools own.
func (s *stock) reserved(config *Config) map[netip.Addr]bool {
	all := slices.Clone(s.others)
	for _, p := range config.Peers {
		all = append(all, p.Addr)
	}
	own := map[netip.Addr]bool{}
	for _, addr := range all {
		if config.Pool(addr) != nil {
			own[addr] = true
		}
	}
	return own
}

func (s *stock) store(pool int, f Family) *store { return &s.stores[1+pool][f.index()] }

// has reports whether the pool owns addresses of the family.
func (s *stock) has(pool int, f Family) bool { return len(s.store(pool, f).ranges) > 0 }

// storeOf returns the store of the pool that owns the address.
func (s *stock) storeOf(addr netip.Addr) *store {
	return s.store(s.config.index(addr), FamilyOf(addr))
}

// take notes that somebody holds the address from now on, and nobody did before.
func (s *stock) take(addr netip.Addr) {
	at := s.storeOf(addr)
	at.used++
	if e, ok := s.freed[addr]; ok {
		at.freed.Remove(e)
		at.aside.Remove(e) // only the list that has it does anything
		delete(s.freed, addr)
	}
}

// free notes that nobody holds the address any more.
func (s *stock) free(addr netip.Addr) {
	s.storeOf(addr).used--
	s.clock++
	s.shelve(freedAddr{addr, s.clock})
}

// reshelve puts a free address behind all others, where it belongs by now.
func (s *stock) reshelve(addr netip.Addr) {
	if e, ok := s.freed[addr]; ok {
		at := s.storeOf(addr)
		at.freed.Remove(e)
		at.aside.Remove(e)
	}
	s.clock++
	s.shelve(freedAddr{addr, s.clock})
}

// shelve puts an address behind those that were freed before.
func (s *stock) shelve(f freedAddr) {
	pool, at := s.config.Pool(f.addr), s.storeOf(f.addr)
	shelf := &at.freed
	if pool != nil && !s.handsOut(pool, f.addr) {
		shelf = &at.aside
	}
	s.freed[f.addr] = shelf.PushBack(f)
	if shelf.Len() > mostFreed {
		delete(s.freed, shelf.Remove(shelf.Front()).(freedAddr).addr)
		at.forgotten = at.forgotten || shelf == &at.freed
	}
}

// next returns the address that the pool hands out next, and leaves it there.
func (s *stock) next(pool int, f Family) netip.Addr {
	p, at := &s.config.Pools[pool], s.store(pool, f)
	for range 2 {
		for at.span < len(at.ranges) {
			if addr := at.at; s.handsOut(p, addr) && s.inUse[addr] == nil && s.freed[addr] == nil {
				return addr
			}
			// Each address is passed once, so that the cost is spread over the allocations before.
			if at.at != at.ranges[at.span].To() {
				at.at = at.at.Next()
			} else if at.span++; at.span < len(at.ranges) {
				at.at = at.ranges[at.span].From()
			}
		}
		if e := at.freed.Front(); e != nil {
			return e.Value.(freedAddr).addr
		}
		if !at.forgotten {
			break
		}
		at.rewind() // what was forgotten is somewhere before
	}
	return netip.Addr{}
}

// Usage is how many addresses a pool has of one family, and how many of them are in use. However many Services share an
// address, it is one.
type Usage struct {
	Pool   string
	Family Family
	// Total leaves out those that the pool avoids. An IPv6 pool may have more than any integer counts.
	Total float64
	InUse int
}

// Usage returns the usage of every pool and of each family that it has addresses of.
func (a *Allocator) Usage() (all []Usage) {
	for i, pool := range a.config.Pools {
		for _, f := range []Family{IPv4, IPv6} {
			if at := a.stock.store(i, f); a.stock.has(i, f) {
				all = append(all, Usage{pool.Name, f, at.total, at.used})
			}
		}
	}
	return all
}

// without returns what is left of ranges, in order.
func without(ranges, exclude []netipx.IPRange) []netipx.IPRange {
	if len(exclude) == 0 {
		return ranges
	}
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		b.AddRange(r)
	}
	for _, r := range exclude {
		b.RemoveRange(r)
	}
	return ipSet(&b).Ranges()
}

// ipSet builds a set of valid ranges: only others are an error.
func ipSet(b *netipx.IPSetBuilder) *netipx.IPSet {
	set, err := b.IPSet()
	if err != nil {
		return &netipx.IPSet{}
	}
	return set
}

// size counts the addresses of a range, without those that are avoided.
func size(r netipx.IPRange, avoid bool) (n float64) {
	for _, p := range r.Prefixes() {
		n += math.Ldexp(1, p.Addr().BitLen()-p.Bits())
	}
	if avoid && r.From().Is4() {
		from, to := r.From().As4(), r.To().As4()
		// Of the addresses below a number, so many end in .0 or .255.
		buggy := func(n uint64) uint64 { return (n+255)/256 + n/256 }
		n -= float64(buggy(uint64(binary.BigEndian.Uint32(to[:]))+1) - buggy(uint64(binary.BigEndian.Uint32(from[:]))))
	}
	return n
}
