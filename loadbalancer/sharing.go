package loadbalancer

import (
	"net/netip"
	"slices"
)

// Terms say with whom a Service may share an address. Those that share one have the same Key and the same Backend, count the
// same pods, and have no port in common.
type Terms struct {
	// Key is the word that the Services agreed on; empty means that the Service wants its addresses for itself.
	Key string
	// Ports are those that the Service uses, each once.
	Ports []Port
	// Backend tells where traffic may go, so that the same nodes can attract it for all who share: empty for the
	// externalTrafficPolicy Cluster; for Local it names the pods, or is UnknownPods.
	Backend string
	// NotReady is set if pods count that are not ready.
	NotReady bool
}

// UnknownPods is the Backend of a Service with the externalTrafficPolicy Local and no selector. Its endpoints are written by
// hand, so that it shares with no other: a node would attract traffic for both and serve one.
const UnknownPods = "unknown pods"

// A Port is one of a Service.
type Port struct {
	Protocol string // TCP, UDP or SCTP
	Number   uint16
}

func (t Terms) equal(u Terms) bool {
	return t.Key == u.Key && t.Backend == u.Backend && t.NotReady == u.NotReady && slices.Equal(t.Ports, u.Ports)
}

// relation returns how the request stands to a holder, with the first port that both use: NoCause if they may share.
func relation(holder, r *Request) (Cause, Port) {
	if holder.Key == "" && r.Key == "" {
		return BothAlone, Port{}
	}
	for _, p := range r.Ports {
		if slices.Contains(holder.Ports, p) {
			return SamePort, p
		}
	}
	switch {
	case r.Key == "":
		return RequestAlone, Port{}
	case holder.Key == "":
		return HolderAlone, Port{}
	case holder.Key != r.Key:
		return OtherKey, Port{}
	case holder.Backend != r.Backend && (holder.Backend == "" || r.Backend == ""):
		return OtherPolicy, Port{}
	case holder.Backend != r.Backend:
		return OtherSelector, Port{}
	case r.Backend == UnknownPods:
		return NoSelector, Port{}
	case holder.NotReady != r.NotReady:
		return OtherReadiness, Port{}
	case holder.Namespace != r.Namespace:
		return OtherNamespace, Port{}
	}
	return NoCause, Port{}
}

// An obstacle is a holder of an address beside whom a request does not fit.
type obstacle struct {
	relation Cause
	port     Port
	holder   *tenant
}

// A scope says which holders count.
type scope uint8

const (
	everybody scope = iota
	// theOlder are those before whom a Service that holds the address gives way. Of two that cannot use it at once, that is the
	// younger, whichever of them changed; for others, the terms of the oldest count. So a restart, which cannot know who
	// changed, comes to the same end.
	theOlder
)

// obstacle returns the first holder of the address with whom the Service cannot use it, else the first with whom it may not.
// That one is of another namespace does not count where sharing is a fact, or the pool allows it.
func (a *Allocator) obstacle(addr netip.Addr, r *Request, s scope) (worst obstacle) {
	for i, t := range a.inUse[addr] {
		if t.request.UID == r.UID {
			if s == theOlder {
				break
			}
			continue
		}
		is, port := relation(&t.request, r)
		if is.excludes() {
			return obstacle{is, port, t}
		}
		if (s == everybody || i == 0) && is != NoCause && (worst.relation == NoCause || worst.relation == OtherNamespace && is != OtherNamespace) {
			worst = obstacle{is, port, t}
		}
	}
	return worst
}

// excluded returns who holds the address in a way that the Service cannot use it at once, if anybody does.
func (a *Allocator) excluded(addr netip.Addr, r *Request) Reason {
	if o := a.obstacle(addr, r, theOlder); o.relation.excludes() {
		return a.because(addr, r, o)
	}
	return Reason{}
}

// atOdds returns with whom the Service shares the address and may not. Their namespaces may differ: so they were found.
func (a *Allocator) atOdds(addr netip.Addr, r *Request, s scope) Reason {
	if o := a.obstacle(addr, r, s); o.relation != NoCause && o.relation != OtherNamespace && !o.relation.excludes() {
		return a.because(addr, r, o)
	}
	return Reason{}
}

// mayJoin reports whether the Service may hold the address beside those that do.
func (a *Allocator) mayJoin(addr netip.Addr, pool *Pool, r *Request) (obstacle, bool) {
	if !a.barred(addr, pool, r).None() {
		return obstacle{}, false
	}
	o := a.obstacle(addr, r, everybody)
	return o, o.relation == NoCause || o.relation == OtherNamespace && pool.ShareAcrossNamespaces
}

func (a *Allocator) because(addr netip.Addr, r *Request, o obstacle) Reason {
	why := Reason{Cause: o.relation, Addr: addr, Port: o.port, Holder: o.holder.request.Service,
		Foreign: o.holder.request.Namespace != r.Namespace}
	if r.Key == "" && o.relation == SamePort { // other ports would not help
		why.Cause, why.Port = RequestAlone, Port{}
	}
	if pool := a.config.Pool(addr); pool != nil && o.relation == OtherNamespace {
		why.Pool = pool.Name
	}
	return why
}

// A circle are the Services that have one key where it counts: only they share.
type circle struct {
	namespace string // empty where the pool shares across namespaces
	key       string
}

func circleIn(pool *Pool, r *Request) circle {
	if pool.ShareAcrossNamespaces {
		return circle{"", r.Key}
	}
	return circle{r.Namespace, r.Key}
}

// A company are those of a circle who hold addresses of one pool and family.
type company struct {
	circle
	spot
}

// companyAt returns the company that the Service is in at the address; false if it has no key, or the address no pool.
func (a *Allocator) companyAt(addr netip.Addr, r *Request) (company, bool) {
	i := a.config.index(addr)
	if r.Key == "" || i < 0 {
		return company{}, false
	}
	return company{circleIn(&a.config.Pools[i], r), spot{i, FamilyOf(addr)}}, true
}

// enter counts one holder more or less at an address, where others of its circle find it.
func (a *Allocator) enter(addr netip.Addr, holder *tenant, by int) {
	c, ok := a.companyAt(addr, &holder.request)
	if !ok {
		return
	}
	if a.shared[c] == nil {
		a.shared[c] = map[netip.Addr]int{}
	}
	if a.shared[c][addr] += by; a.shared[c][addr] == 0 {
		delete(a.shared[c], addr)
	}
	if len(a.shared[c]) == 0 {
		delete(a.shared, c)
	}
}

// joinable returns the lowest address of the pool that others hold and that the Service may share with them.
func (a *Allocator) joinable(pool int, f Family, r *Request) (lowest netip.Addr) {
	if r.Key == "" {
		return netip.Addr{}
	}
	p := &a.config.Pools[pool]
	for addr := range a.shared[company{circleIn(p, r), spot{pool, f}}] {
		if lowest.IsValid() && lowest.Less(addr) {
			continue
		}
		if _, ok := a.mayJoin(addr, p, r); ok && a.overQuota(pool, r, addr).None() {
			lowest = addr
		}
	}
	return lowest
}

// apart returns why a Service of the same key is not company for one that gets an address of its own, if its pods are the
// reason. It looks at those of the same pool and family, and not where they are so many that it would take its time.
func (a *Allocator) apart(addr netip.Addr, r *Request) (why Reason) {
	const most = 64
	c, ok := a.companyAt(addr, r)
	if !ok || len(a.shared[c]) > most {
		return Reason{}
	}
	for other := range a.shared[c] {
		holder := a.inUse[other][0]
		if r.Backend != UnknownPods && holder.request.Backend == r.Backend {
			return Reason{} // there is company that would do, were its ports others
		}
		o := a.obstacle(other, r, everybody)
		if o.relation != OtherPolicy && o.relation != OtherSelector && o.relation != NoSelector {
			continue
		}
		if why.None() || other.Less(why.Addr) {
			why = a.because(other, r, o)
		}
	}
	return why
}
