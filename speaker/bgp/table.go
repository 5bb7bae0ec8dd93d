package bgp

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A table is what all sessions should tell their routers: RFC 4271's Loc-RIB.
type table struct {
	routes map[netip.Prefix][]loadbalancer.Route
	// version counts the changes, and last are the prefixes of the last one: whoever knows the version before need not look at
	// the others.
	version uint64
	last    []netip.Prefix
}

// change changes the routes of some prefixes.
func (t *table) change(changed map[netip.Prefix][]loadbalancer.Route) {
	if len(changed) == 0 {
		return
	}
	t.version, t.last = t.version+1, slices.Collect(maps.Keys(changed))
	for prefix, routes := range changed {
		if t.routes[prefix] = routes; len(routes) == 0 {
			delete(t.routes, prefix)
		}
	}
}

// since returns the prefixes that changed after a version, if they are known.
func (t *table) since(version uint64) (changed []netip.Prefix, ok bool) {
	switch version {
	case t.version:
		return nil, true
	case t.version - 1:
		return t.last, true
	}
	return nil, false
}
