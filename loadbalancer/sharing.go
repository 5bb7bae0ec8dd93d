package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
)

// Terms say with whom a Service may share an address. Those that share one have the same Key and the same Backend, and no
// port in common.
type Terms struct {
	// Key is the word that the Services agreed on; empty means that the Service wants its addresses for itself.
	Key string
	// Ports are those that the Service uses, each once.
	Ports []Port
	// Backend tells where traffic may go, so that the same nodes can attract it for all who share: empty for the
	// externalTrafficPolicy Cluster; for Local it names the pods.
	Backend string
}

// A Port is one of a Service.
type Port struct {
	Protocol string // TCP, UDP or SCTP
	Number   uint16
}

func (t Terms) equal(u Terms) bool {
	return t.Key == u.Key && t.Backend == u.Backend && slices.Equal(t.Ports, u.Ports)
}

// A group are Services that may share an address as far as their key goes.
type group struct {
	namespace string // empty where the pool shares across namespaces
	key       string
}

func (a *Allocator) groupAt(pool *Pool, namespace, key string) group {
	if pool != nil && pool.ShareAcrossNamespaces {
		namespace = ""
	}
	return group{namespace, key}
}

// list enters the tenant's addresses under its key.
func (a *Allocator) list(t *tenant) {
	if t.terms.Key == "" {
		return
	}
	for _, addr := range t.addrs {
		g := a.groupAt(a.config.Pool(addr), t.namespace, t.terms.Key)
		if a.groups[g] == nil {
			a.groups[g] = map[netip.Addr]bool{}
		}
		a.groups[g][addr] = true
	}
}

// unlist undoes list, except where another holds the address under the same key.
func (a *Allocator) unlist(t *tenant) {
	if t.terms.Key == "" {
		return
	}
	for _, addr := range t.addrs {
		pool := a.config.Pool(addr)
		g := a.groupAt(pool, t.namespace, t.terms.Key)
		if slices.ContainsFunc(a.holders[addr], func(other *tenant) bool {
			return other != t && other.terms.Key != "" && a.groupAt(pool, other.namespace, other.terms.Key) == g
		}) {
			continue
		}
		if delete(a.groups[g], addr); len(a.groups[g]) == 0 {
			delete(a.groups, g)
		}
	}
}

// joinable returns the lowest address of the pool that others hold and that the Service may share with them.
func (a *Allocator) joinable(pool int, f Family, r Request) (lowest netip.Addr) {
	if r.Key == "" {
		return netip.Addr{}
	}
	p := &a.config.Pools[pool]
	for addr := range a.groups[a.groupAt(p, r.Namespace, r.Key)] {
		if FamilyOf(addr) != f || lowest.IsValid() && lowest.Less(addr) || a.config.Pool(addr) != p {
			continue
		}
		if a.join(addr, p, r) == nil {
			lowest = addr
		}
	}
	return lowest
}

// join returns why the Service may not hold the address beside those that do, if so.
func (a *Allocator) join(addr netip.Addr, pool *Pool, r Request) error {
	for _, t := range a.holders[addr] {
		if t.UID == r.UID {
			continue
		}
		err := t.collides(addr, r.Terms)
		if err == nil {
			err = t.differs(addr, r.Terms)
		}
		if err == nil && t.namespace != r.Namespace && !pool.ShareAcrossNamespaces {
			err = fmt.Errorf("address %s is held by service %s of another namespace: ask for another, or set share-across-namespaces of pool %q", addr, t.Service, pool.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collides returns which other Service holds the address in a way that the two cannot use it at once.
func (a *Allocator) collides(addr netip.Addr, r Request) error {
	for _, t := range a.holders[addr] {
		if t.UID == r.UID {
			continue
		}
		if err := t.collides(addr, r.Terms); err != nil {
			return err
		}
	}
	return nil
}

// differs returns with whom the Service shares the address against its terms. Those who do so themselves do not count: they
// are told.
func (a *Allocator) differs(addr netip.Addr, r Request) error {
	for _, t := range a.holders[addr] {
		if t.UID == r.UID || t.odds {
			continue
		}
		if err := t.differs(addr, r.Terms); err != nil {
			return err
		}
	}
	return nil
}

// misfits returns with whom the Service shares the address although their terms differ, whoever is to blame for that.
func (a *Allocator) misfits(addr netip.Addr, r Request) error {
	for _, t := range a.holders[addr] {
		if t.UID == r.UID {
			continue
		}
		if err := t.differs(addr, r.Terms); err != nil {
			return err
		}
	}
	return nil
}

// absolve clears those of the blame who were at odds with a holder of these addresses that left or changed.
func (a *Allocator) absolve(addrs []netip.Addr) {
	for _, addr := range addrs {
		for _, t := range a.holders[addr] {
			if t.odds {
				t.odds = slices.ContainsFunc(t.addrs, func(addr netip.Addr) bool {
					return a.differs(addr, Request{UID: t.UID, Terms: t.terms}) != nil
				})
			}
		}
	}
}

func (t *tenant) collides(addr netip.Addr, terms Terms) error {
	if t.terms.Key == "" && terms.Key == "" {
		return heldBy(addr, t)
	}
	for _, p := range terms.Ports {
		if slices.Contains(t.terms.Ports, p) {
			return fmt.Errorf("address %s is held by service %s, and both use %s port %d: use different ports, or ask for another address", addr, t.Service, p.Protocol, p.Number)
		}
	}
	return nil
}

func (t *tenant) differs(addr netip.Addr, terms Terms) error {
	switch {
	case terms.Key == "":
		return heldBy(addr, t)
	case t.terms.Key == "":
		return fmt.Errorf("address %s is held by service %s, which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip", addr, t.Service)
	case t.terms.Key != terms.Key:
		return fmt.Errorf("address %s is held by service %s, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip", addr, t.Service)
	case t.terms.Backend == terms.Backend:
		return nil
	case t.terms.Backend == "" || terms.Backend == "":
		return fmt.Errorf("address %s is held by service %s, whose externalTrafficPolicy is another: give both the same, or ask for another address", addr, t.Service)
	default:
		return fmt.Errorf("address %s is held by service %s, whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address", addr, t.Service)
	}
}

func heldBy(addr netip.Addr, t *tenant) error {
	return fmt.Errorf("address %s is held by service %s: ask for another, or delete that Service", addr, t.Service)
}
