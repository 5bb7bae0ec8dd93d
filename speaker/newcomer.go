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

// A standing is what a place was like when the speaker last looked at it.
type standing struct {
	slices []*discoveryv1.EndpointSlice
	ready  bool // an endpoint on this node
	// until is when the place is no newcomer any more, or zero; before is what it was like until it became one.
	until  time.Time
	before Service
}

// newcomers returns the places with the policy Local whose first pod on the node has only just become ready while other nodes
// go on to serve that did before, what each place was like, and when the first of the newcomers is none any more; zero if
// there is none. Where nobody else has served until now, nothing is gained by waiting, and the policy Cluster needs no pod
// here. A place that was not there before is no newcomer: nobody knows since when its pods are ready. last is nil at the
// start, when that is so of all.
func newcomers(now time.Time, last map[place]standing, services []Service, node string) (young map[place]bool, next map[place]standing, wake time.Time) {
	next = make(map[place]standing, len(last))
	for _, svc := range services {
		if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		for _, addr := range svc.addresses() {
			at := placeOf(svc.Service, familyOf(addr))
			if _, done := next[at]; done {
				continue
			}
			was, known := last[at]
			is := standing{slices: svc.Slices, ready: svc.ready(at.family, func(on string) bool { return on == node })}
			if is.ready && was.ready {
				is.until, is.before = was.until, was.before
			} else if is.ready && known {
				is.until, is.before = now.Add(headStart), Service{Slices: was.slices}
			}
			// Is an endpoint ready on a node where one was ready before?
			if now.Before(is.until) && svc.ready(at.family, func(on string) bool {
				return is.before.ready(at.family, func(before string) bool { return before == on })
			}) {
				if young == nil {
					young = map[place]bool{}
				}
				young[at] = true
				wake = earlier(wake, is.until)
			} else {
				is.until, is.before = time.Time{}, Service{}
			}
			next[at] = is
		}
	}
	return young, next, wake
}

// ready reports whether an endpoint of the IP version is ready on such a node; "" stands for one without a node.
func (s Service) ready(family discoveryv1.AddressType, on func(node string) bool) bool {
	for _, slice := range s.Slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			node := ""
			if e.NodeName != nil {
				node = *e.NodeName
			}
			if slice.AddressType == family && or(e.Conditions.Ready, true) && on(node) {
				return true
			}
		}
	}
	return false
}
