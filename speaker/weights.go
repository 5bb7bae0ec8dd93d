package speaker

import (
	"math"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A load is what stands behind a prefix.
type load struct {
	ready int  // endpoints on this node
	even  bool // all nodes are to get the same share
	// counted is the Service that was looked at last: several of its addresses may be under one aggregate.
	counted *corev1.Service
}

// weigh gives the routes that are to carry a weight the number of endpoints behind their prefix that are ready on the
// node, at least 1; or none if a Service behind it has the policy Cluster, because then kube-proxy spreads what arrives
// over the pods of all nodes.
//
// Routers need a weight from every node or from none. So whether there is one depends only on what all nodes see alike:
// not on the node, on node selectors, or on where the endpoints are.
func weigh(routes []loadbalancer.Route, config *loadbalancer.Config, services []Service, node string) {
	loads := make(map[netip.Prefix]*load)
	for _, r := range routes {
		if r.Weight > 0 {
			loads[r.Prefix] = &load{}
		}
	}
	if len(loads) == 0 {
		return
	}
	seen := make(map[string]bool)
	for _, svc := range services {
		if dying(svc.Service) != "" {
			continue
		}
		for _, addr := range svc.addresses() {
			pool := config.Pool(addr)
			if pool == nil {
				continue
			}
			for i := range pool.Advertisements {
				l := loads[pool.Advertisements[i].Prefix(addr)]
				if l == nil || l.counted == svc.Service {
					continue
				}
				l.counted = svc.Service
				if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
					l.ready += svc.readyOn(node, familyOf(addr), seen)
				} else {
					l.even = l.even || svc.unserved(addr, node) == ""
				}
			}
		}
	}
	for i := range routes {
		l := loads[routes[i].Prefix]
		switch {
		case routes[i].Weight == 0:
		case l.even:
			routes[i].Weight = 0
		default:
			routes[i].Weight = uint16(min(max(l.ready, 1), math.MaxUint16))
		}
	}
}

// readyOn counts the endpoints of an IP version that are ready on the node. One that is in several slices, as happens while
// the endpoints of a Service are spread anew, counts once. seen is room to work in.
func (s Service) readyOn(node string, family discoveryv1.AddressType, seen map[string]bool) (n int) {
	clear(seen)
	for _, slice := range s.Slices {
		if slice.AddressType != family {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.NodeName == nil || *e.NodeName != node || !or(e.Conditions.Ready, true) {
				continue
			}
			id := identity(e)
			if id == "" || !seen[id] {
				n++
			}
			seen[id] = true
		}
	}
	return n
}

// identity is the UID of what is behind the endpoint; the address of one that somebody wrote by hand.
func identity(e *discoveryv1.Endpoint) string {
	switch {
	case e.TargetRef != nil && e.TargetRef.UID != "":
		return string(e.TargetRef.UID)
	case len(e.Addresses) > 0:
		return e.Addresses[0]
	}
	return ""
}
