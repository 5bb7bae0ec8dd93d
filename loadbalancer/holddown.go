package loadbalancer

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// HeldDown is an address that was freed a short time ago: until then it is for the Service that had it, and for nobody else.
type HeldDown struct {
	Addr    netip.Addr
	Service string        // namespace/name
	Until   time.Duration // since any epoch
}

// mostHeldDown is how many addresses of a pool a namespace without quota keeps from others in this way; the oldest ends first.
const mostHeldDown = 16

// holdDown are the addresses that are held down: by address, and by what their ends are looked up by.
type holdDown struct {
	addrs map[netip.Addr]*heldDown
	by    map[any][]*heldDown // a Service's namespace/name, or a share; in the order in which they were freed
	ends  ends
}

type heldDown struct {
	HeldDown
	share share
	at    int // in ends
}

func newHoldDown() holdDown {
	return holdDown{addrs: map[netip.Addr]*heldDown{}, by: map[any][]*heldDown{}}
}

func (h *holdDown) add(d *heldDown) {
	h.addrs[d.Addr] = d
	for _, key := range []any{d.Service, d.share} {
		h.by[key] = append(h.by[key], d)
	}
	heap.Push(&h.ends, d)
}

func (h *holdDown) remove(d *heldDown) {
	delete(h.addrs, d.Addr)
	for _, key := range []any{d.Service, d.share} {
		h.by[key] = slices.DeleteFunc(h.by[key], func(other *heldDown) bool { return other == d })
		if len(h.by[key]) == 0 {
			delete(h.by, key)
		}
	}
	heap.Remove(&h.ends, d.at)
}

// At says what time it is, since any epoch. What was held down until then is for anybody.
func (a *Allocator) At(now time.Duration) {
	a.now = now
	for len(a.down.ends) > 0 && a.down.ends[0].Until <= now {
		a.end(a.down.ends[0])
	}
}

// NextEnd is when the next address ends to be held down; 0 if none is.
func (a *Allocator) NextEnd() time.Duration {
	if len(a.down.ends) == 0 {
		return 0
	}
	return a.down.ends[0].Until
}

// HeldDown returns the addresses that are held down, those that end first first.
func (a *Allocator) HeldDown() (all []HeldDown) {
	for _, d := range a.down.addrs {
		all = append(all, d.HeldDown)
	}
	slices.SortFunc(all, func(x, y HeldDown) int { return cmp.Or(cmp.Compare(x.Until, y.Until), x.Addr.Compare(y.Addr)) })
	return all
}

// HoldDown keeps addresses from others that were freed before this allocator was told of anything. What somebody holds is
// not free, and a pool without hold-down keeps none.
func (a *Allocator) HoldDown(all []HeldDown) {
	for _, d := range all {
		if a.inUse[d.Addr] == nil && a.down.addrs[d.Addr] == nil {
			a.holdDown(d)
		}
	}
}

// Left is HoldDown for addresses that a Service had and gave up just now.
func (a *Allocator) Left(service string, addrs []netip.Addr) {
	for _, addr := range addrs {
		if pool := a.config.Pool(addr); pool != nil {
			a.HoldDown([]HeldDown{{addr, service, a.now + pool.HoldDown}})
		}
	}
}

// holdDown keeps a free address for who had it, if the pool says so and hands it out at all.
func (a *Allocator) holdDown(d HeldDown) {
	i := a.config.index(d.Addr)
	if i < 0 {
		return
	}
	pool := &a.config.Pools[i]
	d.Until = min(d.Until, a.now+pool.HoldDown)
	if d.Until <= a.now || !a.stock.handsOut(pool, d.Addr) {
		return
	}
	namespace, _, _ := strings.Cut(d.Service, "/")
	s := share{i, namespace}
	a.down.add(&heldDown{HeldDown: d, share: s})
	a.tally[s]++
	a.stock.reshelve(d.Addr)
	if pool.Quotas.of(namespace) == 0 && len(a.down.by[s]) > mostHeldDown {
		a.end(a.down.by[s][0])
	}
	a.rejoin(d.Service)
}

// lift notes that an address is not held down any more.
func (a *Allocator) lift(d *heldDown) {
	a.down.remove(d)
	if a.tally[d.share]--; a.tally[d.share] == 0 {
		delete(a.tally, d.share)
	}
}

// end lets everybody have the address.
func (a *Allocator) end(d *heldDown) {
	a.lift(d)
	a.stock.reshelve(d.Addr)
	a.wake(d.Addr)
	a.wake(d.share)
	a.open(d.Addr)
	a.rejoin(d.Service)
}

// rejoin lets a Service that waits do so for what is kept for it by now.
func (a *Allocator) rejoin(service string) {
	if t := a.named[service]; t != nil {
		a.join(t, t.class.more)
		a.push(t.class)
	}
}

// keptDown returns the addresses that are held down for the Service, of those that it can use, by its families, and the last freed
// first.
func (a *Allocator) keptDown(r *Request) (all []netip.Addr) {
	for _, d := range slices.Backward(a.down.by[r.Service]) {
		if a.isOf(d.Addr, r.Pool) && slices.Contains(r.Families, FamilyOf(d.Addr)) && a.serves(a.config.Pool(d.Addr), r) {
			all = append(all, d.Addr)
		}
	}
	return inOrderOf(r.Families, all)
}

// ends has what is held down, by when that ends.
type ends []*heldDown

func (e ends) Len() int { return len(e) }
func (e ends) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(e[i].Until, e[j].Until), e[i].Addr.Compare(e[j].Addr)) < 0
}
func (e ends) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].at, e[j].at = i, j
}
func (e *ends) Push(d any) {
	d.(*heldDown).at = len(*e)
	*e = append(*e, d.(*heldDown))
}
func (e *ends) Pop() any {
	last := len(*e) - 1
	d := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return d
}
