package bgp

import (
	"net/netip"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A table is what all sessions should tell their routers: RFC 4271's Loc-RIB.
type table struct {
	routes map[netip.Prefix][]loadbalancer.Route
	// version counts the changes, and last is the last one: whoever knows the version before need not look at what else there is.
	version uint64
	last    map[netip.Prefix][]loadbalancer.Route
}

// change changes the routes of some prefixes.
func (t *table) change(changed map[netip.Prefix][]loadbalancer.Route) {
	if len(changed) == 0 {
		return
	}
	t.version, t.last = t.version+1, changed
	for prefix, routes := range changed {
		if t.routes[prefix] = routes; len(routes) == 0 {
			delete(t.routes, prefix)
		}
	}
}

// since returns the routes of the prefixes that changed after a version, if they are known, or else of all.
func (t *table) since(version uint64) (news map[netip.Prefix][]loadbalancer.Route, all bool) {
	switch version {
	case t.version:
		return nil, false
	case t.version - 1:
		return t.last, false
	}
	return t.routes, true
}
