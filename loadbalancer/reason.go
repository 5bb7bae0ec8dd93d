package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Reason is why a Service does not have all that it asks for. The zero Reason is none. It is a value that costs nothing to
// make and can be compared; String finds the words, which users read.
type Reason struct {
	Cause Cause
	// Addr is the address in question, of pool Pool; Other is another, of OtherPool.
	Addr, Other     netip.Addr
	Pool, OtherPool string
	Family          Family
	pools           string // some pools, in words

	// Holder is the Service that holds Addr, Relation how the request stands to it, Port the one that both use.
	Holder   string
	Relation Relation
	Port     Port
	// Foreign is set if the Holder is of another namespace than the Service, whose user may not know its name.
	Foreign bool

	// GivenUp is an address that the Service holds and that the operator took away from the pools.
	GivenUp netip.Addr
	text    string // of Invalid
}

// A Cause is the kind of a Reason.
type Cause uint8

// The causes.
const (
	NoCause          Cause = iota
	Invalid                // the request makes no sense
	Held                   // another Service holds the address
	OfNoPool               // no pool owns the address
	OfOtherPool            // the address is of another pool than the one asked for
	OfTwoPools             // the two addresses are of two pools
	NotHandedOut           // the pool avoids the address
	OfInfrastructure       // the address is a router's or a Node's own, or others use it
	AddressNotFor          // the address is of a pool that is not for the Service
	PoolNotFor             // the pool is not for the Service
	NoSuchPool             // no pool has the name
	NoPools                // none is configured
	OnRequestOnly          // no pool hands out addresses without request
	NoPoolFor              // no pool is for the Service
	NoFamily               // no pool has addresses of the family
	NoneFree               // none of the pools has a free address
	NoPairFree             // none of the pools has one of each family
	NoneBeside             // the pool of an address has no free one of the other family
	NoPoolBeside           // no pool owns the address beside which another is wanted
	CameWith               // a Service that asks for a pool came with an address of another
)

// Same reports whether a user who knows one reason learns nothing from the other: that another Service holds the address by
// now is no news.
func (r Reason) Same(s Reason) bool {
	r.Holder, r.Foreign, s.Holder, s.Foreign = "", false, "", false
	return r == s
}

// None reports whether there is no reason.
func (r Reason) None() bool { return r.Cause == NoCause }

// String says what is in the way and what to do. It names no Service of another namespace.
func (r Reason) String() string {
	text := r.words()
	if r.GivenUp.IsValid() {
		text = fmt.Sprintf("address %s belongs to no pool any more and is not announced: %s", r.GivenUp, text)
	}
	return text
}

func (r Reason) words() string {
	pool := show(r.Pool)
	switch r.Cause {
	case Invalid:
		return r.text
	case Held:
		return r.held()
	case OfNoPool:
		return fmt.Sprintf("no pool owns address %s: ask for an address of %s, or add it to a pool", r.Addr, r.pools)
	case OfOtherPool:
		return fmt.Sprintf("address %s belongs to pool %q, and the Service asks for pool %q: change one of the two", r.Addr, pool, show(r.OtherPool))
	case OfTwoPools:
		return fmt.Sprintf("address %s belongs to pool %q, and %s to pool %q: ask for two of one pool", r.Addr, pool, r.Other, show(r.OtherPool))
	case NotHandedOut:
		return fmt.Sprintf("pool %q does not hand out addresses that end in .0 or .255, such as %s: ask for another, or set avoid-buggy-ips to false", pool, r.Addr)
	case OfInfrastructure:
		return fmt.Sprintf("address %s is in use by a router, a Node, or a Service that is not ours: ask for another", r.Addr)
	case AddressNotFor:
		of := "a pool that"
		if pool != "" { // one of the Service's namespace
			of = fmt.Sprintf("pool %q, which", pool)
		}
		return fmt.Sprintf("address %s belongs to %s is not for this Service: ask for another, or change its namespaces or service-selectors", r.Addr, of)
	case PoolNotFor:
		return fmt.Sprintf("pool %q is not for this Service: ask for another, or change its namespaces or service-selectors", pool)
	case NoSuchPool:
		return fmt.Sprintf("no pool is named %q: ask for %s", pool, r.pools)
	case NoPools:
		return "no address pool is configured: add one to address-pools"
	case OnRequestOnly:
		return "no pool hands out addresses without request: annotate the Service with metallb.universe.tf/address-pool"
	case NoPoolFor:
		return fmt.Sprintf("no pool is for this Service: change its labels, or the namespaces or service-selectors of %s", r.pools)
	case NoFamily:
		return fmt.Sprintf("there is no %s address in %s: add some, or change spec.ipFamilies", r.Family, r.pools)
	case NoneFree:
		kind := "address"
		if r.Family == IPv6 {
			kind = "IPv6 address"
		}
		if r.Pool != "" {
			return fmt.Sprintf("pool %q has no free %s: add addresses to it, or delete a Service that holds one", pool, kind)
		}
		return fmt.Sprintf("no free %s in %s: add addresses, or delete a Service that holds one", kind, r.pools)
	case NoPairFree:
		return fmt.Sprintf("no free IPv4 and IPv6 address in %s: add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack", r.pools)
	case NoneBeside:
		return fmt.Sprintf("pool %q has no free %s address beside %s: add some to it, or ask for another pool", pool, r.Family, r.Addr)
	case NoPoolBeside:
		return fmt.Sprintf("no pool owns address %s, and so none has an %s address beside it: add it to a pool that has both", r.Addr, r.Family)
	case CameWith:
		return fmt.Sprintf("the Service asks for pool %q and came with address %s, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again", pool, r.Addr)
	}
	return ""
}

// Apart says with whom the Service does not share, as a remark beside the address that it got.
func (r Reason) Apart() string {
	because := map[Relation]string{
		OtherPolicy:   "its externalTrafficPolicy is another",
		OtherSelector: "with externalTrafficPolicy Local, its selector is another",
		NoSelector:    "with externalTrafficPolicy Local, neither has a selector",
	}[r.Relation]
	return fmt.Sprintf("not shared with %s, because %s", r.by(), because)
}

func (r Reason) by() string {
	if r.Foreign {
		return "a Service of another namespace"
	}
	return "service " + r.Holder
}

func (r Reason) held() string {
	text := fmt.Sprintf("address %s is held by %s", r.Addr, r.by())
	switch r.Relation {
	case SamePort:
		return fmt.Sprintf("%s, and both use %s port %d: use different ports, or ask for another address", text, r.Port.Protocol, r.Port.Number)
	case HolderAlone:
		return text + ", which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip"
	case OtherKey:
		return text + ", which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip"
	case OtherPolicy:
		return text + ", whose externalTrafficPolicy is another: give both the same, or ask for another address"
	case OtherSelector:
		return text + ", whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address"
	case NoSelector:
		return text + ", and with externalTrafficPolicy Local neither has a selector: ask for another, or give both the same selector"
	case OtherReadiness:
		return text + ", whose publishNotReadyAddresses is another: give both the same, or ask for another address"
	case OtherNamespace:
		return fmt.Sprintf("%s: ask for another, or set share-across-namespaces of pool %q", text, show(r.Pool))
	}
	return text + ": ask for another, or delete that Service"
}

// someOf names pools for a text. It names a few only: the operator knows the others.
func someOf(pools []string) string {
	const most = 5
	var all []string
	for _, name := range pools[:min(len(pools), most)] {
		all = append(all, fmt.Sprintf("%q", show(name)))
	}
	switch {
	case len(pools) == 0:
		return "a pool that exists"
	case len(pools) == 1:
		return "pool " + all[0]
	case len(pools) > most:
		all = append(all, "…")
	}
	return "one of the pools " + strings.Join(all, ", ")
}
