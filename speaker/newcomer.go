package speaker

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// headStart is what kube-proxy gets before routers send here: twice the pause that it makes between two writes of its
// rules. We hear of a pod at the same time as kube-proxy on this node, and routers are faster than its next write. Packets
// that arrive before it are lost, and the connections with them: the kernel has begun to track them as not for us.
const headStart = 2 * time.Second

// whyLate is why an address is withheld meanwhile.
const whyLate = "externalTrafficPolicy is Local, and a pod on this node has only just become ready: kube-proxy gets 2s to notice, as other nodes have one"

// A place is a Service and an IP version of its endpoints.
type place struct {
	namespace, name string
	family          discoveryv1.AddressType
}

func placeOf(svc *corev1.Service, family discoveryv1.AddressType) place {
	return place{svc.Namespace, svc.Name, family}
}

// newcomers returns the places with the policy Local whose first pod on the node has only just become ready while other nodes
// have one, since when each place could be served from here, and when the first of the newcomers is none any more; zero if
// there is none. Where nobody else serves, nothing is gained by waiting, and the policy Cluster needs no pod here. last is
// nil at the start, when a pod may have been ready for long.
func newcomers(now time.Time, last map[place]time.Time, services []Service, node string) (young map[place]bool, next map[place]time.Time, wake time.Time) {
	next = make(map[place]time.Time, len(last))
	for _, svc := range services {
		if !ours(svc.Service) {
			continue
		}
		local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
		for addr := range addresses(svc.Service) {
			at := placeOf(svc.Service, familyOf(addr))
			if _, done := next[at]; done {
				continue
			}
			here, elsewhere := !local, false
			if local {
				here, elsewhere = svc.ready(node, at.family)
			}
			if !here {
				continue
			}
			since, known := last[at]
			if !known && last != nil {
				since = now
			}
			next[at] = since
			if until := since.Add(headStart); elsewhere && now.Before(until) {
				if young == nil {
					young = map[place]bool{}
				}
				young[at] = true
				wake = earlier(wake, until)
			}
		}
	}
	return young, next, wake
}

// ready reports whether an endpoint of the IP version is ready on the node, and whether one is on another.
func (s Service) ready(node string, family discoveryv1.AddressType) (here, elsewhere bool) {
	for _, slice := range s.Slices {
		if slice.AddressType != family {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !or(e.Conditions.Ready, true) {
				continue
			}
			on := e.NodeName != nil && *e.NodeName == node
			here, elsewhere = here || on, elsewhere || !on
		}
	}
	return here, elsewhere
}
