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

// A Relation is how a Service that asks for an address stands to one that holds it.
type Relation uint8

// The relations. Two Services that are excluded cannot use one address at once; the others could, and only the first may.
const (
	Fits           Relation = iota
	BothAlone               // excluded: neither has a key
	SamePort                // excluded
	RequestAlone            // the one that asks has no key
	HolderAlone             // the one that holds it has none
	OtherKey                // their keys differ
	OtherPolicy             // their traffic policies do
	OtherSelector           // with the policy Local, their selectors do
	NoSelector              // with the policy Local, neither has one
	OtherReadiness          // one counts pods that are not ready
	OtherNamespace          // their namespaces differ
)

func (r Relation) excludes() bool { return r == BothAlone || r == SamePort }

// relation returns how the request stands to a holder, and the first port that both use.
func relation(holder *tenant, r *Request) (Relation, Port) {
	t := &holder.terms
	if t.Key == "" && r.Key == "" {
		return BothAlone, Port{}
	}
	for _, p := range r.Ports {
		if slices.Contains(t.Ports, p) {
			return SamePort, p
		}
	}
	switch {
	case r.Key == "":
		return RequestAlone, Port{}
	case t.Key == "":
		return HolderAlone, Port{}
	case t.Key != r.Key:
		return OtherKey, Port{}
	case t.Backend != r.Backend && (t.Backend == "" || r.Backend == ""):
		return OtherPolicy, Port{}
	case t.Backend != r.Backend:
		return OtherSelector, Port{}
	case r.Backend == UnknownPods:
		return NoSelector, Port{}
	case t.NotReady != r.NotReady:
		return OtherReadiness, Port{}
	case holder.request.Namespace != r.Namespace:
		return OtherNamespace, Port{}
	}
	return Fits, Port{}
}

// An obstacle is a holder of an address beside whom a request does not fit.
type obstacle struct {
	relation Relation
	port     Port
	holder   *tenant
}

// A scope says which holders count.
type scope uint8

const (
	everybody scope = iota
	// theBlameless leaves out those who share an address against their own terms: they are told.
	theBlameless
)

// obstacle returns the first holder of the address with whom the Service cannot use it, else the first with whom it may not.
// That one is of another namespace does not count where sharing is a fact, or the pool allows it.
func (a *Allocator) obstacle(addr netip.Addr, r *Request, s scope) (worst obstacle) {
	at := a.inUse[addr]
	if at == nil {
		return obstacle{}
	}
	if at.ports != nil && r.Backend != UnknownPods && len(at.groups) == 1 && at.groups[0].group == a.groupAt(a.config.Pool(addr), r.Namespace, r.Terms) {
		for _, p := range r.Ports {
			if t := at.ports[p]; t != nil && t.request.UID != r.UID {
				return obstacle{SamePort, p, t}
			}
		}
		return obstacle{}
	}
	for _, t := range at.holders {
		if t.request.UID == r.UID {
			continue
		}
		is, port := relation(t, r)
		if is.excludes() {
			return obstacle{is, port, t}
		}
		if is != Fits && (worst.relation == Fits || worst.relation == OtherNamespace && is != OtherNamespace) && !(s == theBlameless && t.odds) {
			worst = obstacle{is, port, t}
		}
	}
	return worst
}

// excluded returns who holds the address in a way that the Service cannot use it at once, if anybody does.
func (a *Allocator) excluded(addr netip.Addr, r *Request) Reason {
	if o := a.obstacle(addr, r, everybody); o.relation.excludes() {
		return a.because(addr, r, o)
	}
	return Reason{}
}

// atOdds returns with whom the Service shares the address against its terms. Their namespaces may differ: so they were found.
func (a *Allocator) atOdds(addr netip.Addr, r *Request, s scope) Reason {
	if o := a.obstacle(addr, r, s); o.relation != Fits && o.relation != OtherNamespace && !o.relation.excludes() {
		return a.because(addr, r, o)
	}
	return Reason{}
}

// mayJoin reports whether the Service may hold the address beside those that do.
func (a *Allocator) mayJoin(addr netip.Addr, pool *Pool, r *Request) (obstacle, bool) {
	o := a.obstacle(addr, r, everybody)
	return o, o.relation == Fits || o.relation == OtherNamespace && pool.ShareAcrossNamespaces
}

func (a *Allocator) because(addr netip.Addr, r *Request, o obstacle) Reason {
	why := Reason{Cause: Held, Addr: addr, Relation: o.relation, Port: o.port, Holder: o.holder.request.Service,
		Foreign: o.holder.request.Namespace != r.Namespace}
	if r.Key == "" { // other ports would not help
		why.Relation, why.Port = RequestAlone, Port{}
	}
	if pool := a.config.Pool(addr); pool != nil && o.relation == OtherNamespace {
		why.Pool = pool.Name
	}
	return why
}

// A group are Services that may share an address as far as their terms go, ports aside.
type group struct {
	namespace    string // empty where the pool shares across namespaces
	key, backend string
	notReady     bool
}

func groupOf(namespace string, t Terms) group { return group{namespace, t.Key, t.Backend, t.NotReady} }

func (a *Allocator) groupAt(pool *Pool, namespace string, t Terms) group {
	if pool != nil && pool.ShareAcrossNamespaces {
		namespace = ""
	}
	return groupOf(namespace, t)
}

// An occupied address is what the allocator knows of one in use.
type occupied struct {
	holders []*tenant // who came first stands first
	groups  []headcount
	// ports has each port's user where there are many.
	ports map[Port]*tenant
}

type headcount struct {
	group
	heads int
}

// A company are the addresses of one pool and family that Services of one group hold.
type company struct {
	addrs map[netip.Addr]bool
	used  map[Port]int // on how many of the addresses
}

// list enters a holder of the address under its terms.
func (a *Allocator) list(addr netip.Addr, at *occupied, t *tenant) {
	const many = 4
	pool := a.config.Pool(addr)
	for _, g := range at.groups {
		a.companyOf(g.group, addr).use(t.terms.Ports, 1)
	}
	g := a.groupAt(pool, t.request.Namespace, t.terms)
	if i := slices.IndexFunc(at.groups, func(h headcount) bool { return h.group == g }); i >= 0 {
		at.groups[i].heads++
	} else {
		at.groups = append(at.groups, headcount{g, 1})
		if c := a.companyOf(g, addr); c != nil {
			c.addrs[addr] = true
			for _, holder := range at.holders {
				c.use(holder.terms.Ports, 1)
			}
		}
	}
	switch {
	case at.ports != nil:
		for _, p := range t.terms.Ports {
			at.ports[p] = t
		}
	case len(at.holders) > many:
		at.ports = map[Port]*tenant{}
		for _, holder := range at.holders {
			for _, p := range holder.terms.Ports {
				at.ports[p] = holder
			}
		}
	}
}

// unlist undoes list.
func (a *Allocator) unlist(addr netip.Addr, at *occupied, t *tenant) {
	g := a.groupAt(a.config.Pool(addr), t.request.Namespace, t.terms)
	i := slices.IndexFunc(at.groups, func(h headcount) bool { return h.group == g })
	if at.groups[i].heads--; at.groups[i].heads == 0 {
		if c := a.companyOf(g, addr); c != nil {
			delete(c.addrs, addr)
			for _, holder := range at.holders {
				c.use(holder.terms.Ports, -1)
			}
			if len(c.addrs) == 0 {
				if delete(a.groups[g], a.spotOf(addr)); len(a.groups[g]) == 0 {
					delete(a.groups, g)
					of := kin{g.namespace, g.key}
					if delete(a.kins[of], g); len(a.kins[of]) == 0 {
						delete(a.kins, of)
					}
				}
			}
		}
		at.groups = slices.Delete(at.groups, i, i+1)
	}
	for _, g := range at.groups {
		a.companyOf(g.group, addr).use(t.terms.Ports, -1)
	}
	for _, p := range t.terms.Ports {
		if at.ports[p] == t {
			delete(at.ports, p)
		}
	}
}

// companyOf returns the addresses of the group around that one; nil if it has no key, or the address no pool.
func (a *Allocator) companyOf(g group, addr netip.Addr) *company {
	s := a.spotOf(addr)
	if g.key == "" || s.pool < 0 {
		return nil
	}
	if a.groups[g] == nil {
		a.groups[g] = map[spot]*company{}
		of := kin{g.namespace, g.key}
		if a.kins[of] == nil {
			a.kins[of] = map[group]bool{}
		}
		a.kins[of][g] = true
	}
	c := a.groups[g][s]
	if c == nil {
		c = &company{addrs: map[netip.Addr]bool{}, used: map[Port]int{}}
		a.groups[g][s] = c
	}
	return c
}

func (c *company) use(ports []Port, by int) {
	if c == nil {
		return
	}
	for _, p := range ports {
		if c.used[p] += by; c.used[p] == 0 {
			delete(c.used, p)
		}
	}
}

// A kin are the groups that have one key where it counts.
type kin struct{ namespace, key string }

// apart returns why a Service of the same key is not company for one that gets an address of its own, if its pods are the
// reason. It looks at those of the same pool and family, and not where they are so many that it would take its time.
func (a *Allocator) apart(addr netip.Addr, r *Request) (why Reason) {
	const most = 64
	pool := a.config.Pool(addr)
	if pool == nil {
		return Reason{}
	}
	mine := a.groupAt(pool, r.Namespace, r.Terms)
	if r.Backend != UnknownPods && a.groups[mine][a.spotOf(addr)] != nil {
		return Reason{} // there is company that would do, were its ports others
	}
	groups := a.kins[kin{mine.namespace, mine.key}]
	if len(groups) > most {
		return Reason{}
	}
	for g := range groups {
		c := a.groups[g][a.spotOf(addr)]
		if c == nil || len(c.addrs) > most {
			continue
		}
		for other := range c.addrs {
			if !why.None() && why.Addr.Less(other) {
				continue
			}
			if o := a.obstacle(other, r, everybody); o.relation == OtherPolicy || o.relation == OtherSelector || o.relation == NoSelector {
				why = a.because(other, r, o)
			}
		}
	}
	return why
}

// joinable returns the lowest address of the pool that others hold and that the Service may share with them.
func (a *Allocator) joinable(pool int, f Family, r *Request) (lowest netip.Addr) {
	if r.Key == "" {
		return netip.Addr{}
	}
	p := &a.config.Pools[pool]
	c := a.groups[a.groupAt(p, r.Namespace, r.Terms)][spot{pool, f}]
	if c == nil {
		return netip.Addr{}
	}
	its := 0 // its own ports are not in its way
	for _, addr := range a.Held(r.UID) {
		if c.addrs[addr] {
			its = 1
		}
	}
	for _, port := range r.Ports {
		if c.used[port]-its >= len(c.addrs) {
			return netip.Addr{} // it is in use on all of them
		}
	}
	for addr := range c.addrs {
		if lowest.IsValid() && lowest.Less(addr) {
			continue
		}
		if _, ok := a.mayJoin(addr, p, r); ok {
			lowest = addr
		}
	}
	return lowest
}
