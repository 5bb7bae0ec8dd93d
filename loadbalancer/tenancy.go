package loadbalancer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A Reservation keeps addresses for one Service, whether that exists or not.
type Reservation struct {
	Service string       // namespace/name
	Addrs   []netip.Addr // of the pool, at most one of each family
}

// Quotas say how many distinct addresses of a pool a namespace may hold. One that several of its Services share is one.
type Quotas struct {
	Default    int // of namespaces that are not named; 0 is no limit
	Namespaces map[string]int
}

func (q Quotas) of(namespace string) int { return cmp.Or(q.Namespaces[namespace], q.Default) }

func (q Quotas) any() bool { return q.Default > 0 || len(q.Namespaces) > 0 }

// barred returns why the pool does not give the Service the address, whether somebody holds it or nobody does. Who has it keeps it.
func (a *Allocator) barred(addr netip.Addr, pool *Pool, r *Request) Reason {
	if pool.excludes(addr) {
		return Reason{Cause: Excluded, Addr: addr, Pool: pool.Name}
	}
	if owner := a.config.reserved[addr]; owner != "" && owner != r.Service {
		return Reason{Cause: Reserved, Addr: addr, Pool: pool.Name, Holder: owner, Foreign: !strings.HasPrefix(owner, r.Namespace+"/")}
	}
	if d := a.down.addrs[addr]; d != nil && d.Service != r.Service {
		return Reason{Cause: InHoldDown, Addr: addr, Pool: pool.Name, Holder: d.Service, Foreign: d.share.namespace != r.Namespace}
	}
	return Reason{}
}

// reservation returns the addresses that are reserved for the Service, of those that it can use. Where it asks for none by name,
// they are what it asks for.
func (a *Allocator) reservation(r *Request) (all []netip.Addr) {
	for _, addr := range a.config.reservations[r.Service] {
		if a.isOf(addr, r.Pool) && slices.Contains(r.Families, FamilyOf(addr)) && a.serves(a.config.Pool(addr), r) {
			all = append(all, addr)
		}
	}
	return all
}

// kept are the addresses that are the Service's alone, if it can use them.
func (a *Allocator) kept(r *Request) []netip.Addr {
	return slices.Concat(a.reservation(r), a.keptDown(r))
}

// keptBeside returns the address of the family that the pool keeps for the Service, if it may have it now.
func (a *Allocator) keptBeside(pool int, f Family, r *Request) netip.Addr {
	for _, addr := range a.kept(r) {
		if a.config.index(addr) == pool && FamilyOf(addr) == f && a.mayHold(addr, r).None() {
			return addr
		}
	}
	return netip.Addr{}
}

// Misplaced returns how what the Service holds is at odds with reservations, if it is: it keeps that all the same.
func (a *Allocator) Misplaced(uid string) Reason {
	t := a.services[uid]
	if t == nil {
		return Reason{}
	}
	for _, addr := range t.addrs {
		if pool := a.config.Pool(addr); pool != nil {
			if why := a.barred(addr, pool, &t.request); why.Cause == Reserved {
				why.Cause = HoldsReserved
				return why
			}
		}
		for _, own := range a.config.reservations[t.request.Service] {
			if own != addr && FamilyOf(own) == FamilyOf(addr) {
				return Reason{Cause: HoldsOther, Addr: own, Other: addr, Pool: a.config.Pool(own).Name}
			}
		}
	}
	return Reason{}
}

// Label says which labels a namespace has by now. Its Services that wait may be for other pools by that.
func (a *Allocator) Label(namespace string, labels map[string]string) {
	if maps.Equal(a.namespaces[namespace], labels) {
		return
	}
	if a.namespaces[namespace] = labels; len(labels) == 0 {
		delete(a.namespaces, namespace)
	}
	if !a.config.SelectsNamespaces() {
		return
	}
	for _, t := range a.services {
		if t.request.Namespace == namespace && t.class != nil {
			a.join(t, t.class.more)
			a.push(t.class)
		}
	}
}

func (a *Allocator) serves(p *Pool, r *Request) bool {
	return p.Serves(r.Namespace, a.namespaces[r.Namespace], r.Labels)
}

// A share is what a namespace has of a pool.
type share struct {
	pool      int
	namespace string
}

// count notes that a Service came to hold the address, or is about to leave it, if that is news to its namespace.
func (a *Allocator) count(addr netip.Addr, by *tenant, n int) {
	i := a.config.index(addr)
	beside := func(t *tenant) bool { return t != by && t.request.Namespace == by.request.Namespace }
	if i < 0 || slices.ContainsFunc(a.inUse[addr], beside) {
		return
	}
	s := share{i, by.request.Namespace}
	if a.tally[s] += n; a.tally[s] == 0 {
		delete(a.tally, s)
	}
}

// costs is how many more addresses of the pool the namespace would have by this one, 0 or 1.
func (a *Allocator) costs(i int, addr netip.Addr, r *Request) int {
	ours := func(addr netip.Addr) (n int) {
		for _, t := range a.inUse[addr] {
			if t.request.Namespace == r.Namespace {
				n++
			}
		}
		return n
	}
	d := a.down.addrs[addr]
	if a.config.index(addr) != i || ours(addr) > 0 || d != nil && d.share.namespace == r.Namespace {
		return 0
	}
	if a.config.Pools[i].HoldDown > 0 { // what it leaves counts still
		return 1
	}
	for _, before := range a.Held(r.UID) { // it leaves one for the other, and any of a family that it has no more
		leaves := FamilyOf(before) == FamilyOf(addr) || !slices.Contains(r.Families, FamilyOf(before))
		if leaves && a.config.index(before) == i && ours(before) == 1 {
			return 0
		}
	}
	return 1
}

// overQuota returns why the pool does not give the Service all of these addresses, if it gives the namespace no more.
func (a *Allocator) overQuota(i int, r *Request, addrs ...netip.Addr) Reason {
	pool := &a.config.Pools[i]
	quota, more := pool.Quotas.of(r.Namespace), 0
	if quota == 0 {
		return Reason{}
	}
	for _, addr := range addrs {
		more += a.costs(i, addr, r)
	}
	has := a.tally[share{i, r.Namespace}]
	if more == 0 || has+more <= quota {
		return Reason{}
	}
	return Reason{Cause: OverQuota, Pool: pool.Name, Namespace: r.Namespace, has: has, quota: quota}
}

// A NamespaceUsage is how many distinct addresses of a pool a namespace has, and how many it may; 0 is as many as there are.
type NamespaceUsage struct {
	Pool, Namespace  string
	Addresses, Quota int
}

// Namespaces returns the usage of every namespace that has addresses of a pool, or a quota of its own, by their names.
func (a *Allocator) Namespaces() (all []NamespaceUsage) {
	for s, n := range a.tally {
		pool := &a.config.Pools[s.pool]
		all = append(all, NamespaceUsage{pool.Name, s.namespace, n, pool.Quotas.of(s.namespace)})
	}
	for i := range a.config.Pools {
		pool := &a.config.Pools[i]
		for namespace, quota := range pool.Quotas.Namespaces {
			if a.tally[share{i, namespace}] == 0 {
				all = append(all, NamespaceUsage{pool.Name, namespace, 0, quota})
			}
		}
	}
	slices.SortFunc(all, func(u, v NamespaceUsage) int {
		return cmp.Or(cmp.Compare(u.Pool, v.Pool), cmp.Compare(u.Namespace, v.Namespace))
	})
	return all
}
