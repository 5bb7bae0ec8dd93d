package speaker

import (
	"math"
	"slices"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A load is what stands behind an offer, for the weights of its prefixes.
//
// Routers need a weight from every node or from none. So whether there is one depends only on what all nodes see alike:
// not on the node, on node selectors, or on where the endpoints are.
type load struct {
	ready int  // endpoints on this node
	even  bool // all nodes are to get the same share
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
		if i > 0 && o.Service == offers[i-1].Service {
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
