package speaker

import (
	"math"
	"slices"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A load is what stands behind an offer, for the weights of its prefixes.
type load struct {
	ready int  // endpoints on this node
	even  bool // all nodes are to get the same share
}

// loadOf returns what a Service counts for the weights of prefixes that its address may be announced with.
//
// Routers need a weight from every node or from none. So whether there is one depends only on what all nodes see alike:
// not on the node, on node selectors, or on where the endpoints are.
func loadOf(r *record, found []*endpoints, family int, served bool) load {
	if r.local {
		return load{ready: readyHere(found, family)}
	}
	return load{even: served}
}

// weigh gives those of a prefix's routes that are to carry a weight the number of endpoints behind it that are ready on the
// node, at least 1; or none if a Service behind it has the policy Cluster, because then kube-proxy spreads what arrives
// over the pods of all nodes.
func weigh(routes []loadbalancer.Route, offers []*offer) []loadbalancer.Route {
	if !slices.ContainsFunc(routes, func(r loadbalancer.Route) bool { return r.Weight > 0 }) {
		return routes
	}
	var all load
	for i, o := range offers {
		if i > 0 && o.of == offers[i-1].of {
			continue // several of its addresses may be under one aggregate
		}
		all.ready += o.load.ready
		all.even = all.even || o.load.even
	}
	weight := uint16(min(max(all.ready, 1), math.MaxUint16))
	if all.even {
		weight = 0
	}
	routes = slices.Clone(routes)
	for i := range routes {
		if routes[i].Weight > 0 {
			routes[i].Weight = weight
		}
	}
	return routes
}
