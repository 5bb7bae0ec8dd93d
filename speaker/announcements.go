package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A Service is a Kubernetes Service and where its pods are.
type Service struct {
	*corev1.Service
	Slices []*discoveryv1.EndpointSlice
	// Kept are addresses that left its status a moment ago, and are announced as if they were there; see keep.
	Kept []netip.Addr
}

// addresses are those that the status shows, and those that are kept.
func (s Service) addresses() []netip.Addr { return append(service.Addresses(s.Service), s.Kept...) }

// Announced is an address that a Service has.
type Announced struct {
	Service string // namespace/name
	Addr    netip.Addr
}

// A Withheld is an address that this node does not announce, and why.
type Withheld struct {
	Announced
	Why string
}

// Announcements decides what the node tells routers. The routes are sorted by prefix; no two of them send one prefix to
// one peer. The order of the services does not matter, nor are those looked at that are not ours.
func Announcements(config *loadbalancer.Config, ours service.Ours, node *corev1.Node, services []Service) (routes []loadbalancer.Route, withheld []Withheld) {
	return announcements(config, node, served(ours, services), unfit(node), nil)
}

// served returns the services that are ours, in the order of their names.
func served(ours service.Ours, services []Service) (all []Service) {
	all = make([]Service, 0, len(services))
	for _, svc := range services {
		if ours.Serves(svc.Service) {
			all = append(all, svc)
		}
	}
	slices.SortFunc(all, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// announcements is Announcements of served Services, where somebody else has decided whether the node is fit, and says why
// not, and which places are newcomers.
func announcements(config *loadbalancer.Config, node *corev1.Node, services []Service, unfit string, young map[place]bool) (routes []loadbalancer.Route, withheld []Withheld) {
	byPrefix := make(map[netip.Prefix][]loadbalancer.Route, len(services))
	for _, svc := range services {
		for _, addr := range svc.addresses() {
			why := cmp.Or(dying(svc.Service), unfit)
			if why == "" {
				why = svc.unserved(addr, node.Name)
			}
			if why == "" && young[placeOf(svc.Service, familyOf(addr))] {
				why = whyLate
			}
			if why == "" {
				why = add(byPrefix, config, addr, node)
			}
			if why != "" {
				withheld = append(withheld, Withheld{Announced{service.Name(svc.Service), addr}, why})
			}
		}
	}
	routes = make([]loadbalancer.Route, 0, len(byPrefix))
	for _, some := range byPrefix {
		routes = append(routes, some...)
	}
	slices.SortFunc(routes, func(a, b loadbalancer.Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), slices.Compare(a.Peers, b.Peers))
	})
	weigh(routes, config, services, node.Name)
	return routes, withheld
}

// add puts the routes of an address into the set, or returns why there is none.
func add(byPrefix map[netip.Prefix][]loadbalancer.Route, config *loadbalancer.Config, addr netip.Addr, node *corev1.Node) (why string) {
	pool := config.Pool(addr)
	if pool == nil {
		return "the address belongs to no pool of the admitted configuration"
	}
	routes := config.Routes(addr, node.Labels)
	if len(routes) == 0 {
		return fmt.Sprintf("no advertisement of pool %q selects node %s", pool.Name, node.Name)
	}
	for i, r := range routes {
		there := byPrefix[r.Prefix]
		if there == nil { // as nearly always
			byPrefix[r.Prefix] = routes[i : i+1 : i+1]
			continue
		}
		if slices.ContainsFunc(there, r.Equal) {
			continue // an aggregate that another address has brought
		}
		if i := slices.IndexFunc(there, func(s loadbalancer.Route) bool { return meet(r.Peers, s.Peers) }); i >= 0 {
			why = fmt.Sprintf("another Service's address announces %s as well, with other attributes: give the two pools the same", r.Prefix)
			continue
		}
		byPrefix[r.Prefix] = append(there, r)
	}
	return why
}

// meet reports whether some peer is in both lists, where no names mean all.
func meet(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

func dying(svc *corev1.Service) string {
	if svc.DeletionTimestamp != nil {
		return "the Service is being deleted"
	}
	return ""
}

// unfit returns why no traffic from outside may be sent to the node, if so. Cordon, NotReady and taints are no reasons:
// they say that the node shall not get new pods, not that its pods do not serve.
func unfit(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue {
			return fmt.Sprintf("node %s is NetworkUnavailable", node.Name)
		}
	}
	// As in the standard service controller, "false" takes the label's meaning away.
	if text, ok := node.Labels[corev1.LabelNodeExcludeBalancers]; ok {
		if excluded, err := strconv.ParseBool(text); excluded || err != nil {
			return fmt.Sprintf("node %s is labelled %s", node.Name, corev1.LabelNodeExcludeBalancers)
		}
	}
	return ""
}

// unserved returns why nobody would answer what a router sends to this node, if so.
//
// A pod that is ready in one slice and not in another is ready. A pod that is not ready is enough to withdraw, even while
// it still serves: kube-proxy keeps forwarding to it until it is gone, which is the time that routers need to stop sending
// here. Only when no pod is ready anywhere does kube-proxy use those that serve while they terminate, and so do we. Keep
// in step with kube-proxy's CategorizeEndpoints.
func (s Service) unserved(addr netip.Addr, node string) string {
	family := familyOf(addr)
	var readyHere, readyAnywhere, lastHere, lastAnywhere, others bool
	for _, slice := range s.Slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			here := e.NodeName != nil && *e.NodeName == node
			last := or(e.Conditions.Serving, true) && or(e.Conditions.Terminating, false)
			switch ready := or(e.Conditions.Ready, true); {
			case slice.AddressType != family:
				others = others || ready || last
			case ready:
				readyAnywhere = true
				readyHere = readyHere || here
			case last:
				lastAnywhere = true
				lastHere = lastHere || here
			}
		}
	}
	switch local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal; {
	case !readyAnywhere && !lastAnywhere && others:
		return fmt.Sprintf("no %s endpoint of the Service can serve, on any node, though its others can: do its pods have %[1]s addresses?", family)
	case !readyAnywhere && !lastAnywhere:
		return "no endpoint of the Service can serve, on any node"
	case !local, readyHere, !readyAnywhere && lastHere:
		return ""
	default:
		return fmt.Sprintf("externalTrafficPolicy is Local, and no endpoint on node %s is ready", node)
	}
}

func familyOf(addr netip.Addr) discoveryv1.AddressType {
	if addr.Is6() {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// or returns what the pointer points to, or what the API means by not saying it.
func or(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}
