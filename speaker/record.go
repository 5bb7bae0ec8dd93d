package speaker

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/metallb/cloud-provider-metallb/service"
)

// What a speaker keeps of Services and EndpointSlices. Most slices of a cluster belong to Services without an address, and are
// kept all the same: an address that comes later needs no request to the API server, which a thousand nodes would send at once.

// The IP versions, as indexes.
const (
	v4 = iota
	v6
	otherFamily
)

var familyNames = []string{v4: "IPv4", v6: "IPv6"}

func familyOf(addr netip.Addr) int {
	if addr.Is6() {
		return v6
	}
	return v4
}

// A record is what is kept of a Service. Nobody changes one.
type record struct {
	name     string // namespace/name
	uid      types.UID
	class    *string
	balanced bool // of type LoadBalancer
	local    bool // externalTrafficPolicy
	dying    bool
	clientIP bool         // sessionAffinity
	silent   string       // the annotation that says that nobody shall announce its addresses
	labels   map[string]string
	// communities are those that it wants to have added to its routes.
	communities []string
	wants    [2]bool      // families
	addrs    []netip.Addr // which its status shows, each once
}

func recordOf(svc *corev1.Service) *record {
	r := &record{
		name: service.Name(svc), uid: svc.UID, class: svc.Spec.LoadBalancerClass,
		balanced: svc.Spec.Type == corev1.ServiceTypeLoadBalancer,
		local:    svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		dying:    svc.DeletionTimestamp != nil,
		clientIP: svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
	}
	r.labels = svc.Labels
	r.communities, _, _ = service.Communities(svc)
	if yes, where, _ := service.Advertised(svc); !yes {
		r.silent = where
	}
	// The API server fills in the families of every Service.
	for family, name := range familyNames {
		r.wants[family] = len(svc.Spec.IPFamilies) == 0 || slices.Contains(svc.Spec.IPFamilies, corev1.IPFamily(name))
	}
	for _, addr := range service.Addresses(svc) {
		if !slices.Contains(r.addrs, addr) {
			r.addrs = append(r.addrs, addr)
		}
	}
	return r
}

// An endpoints is what is kept of an EndpointSlice. Nobody changes one.
type endpoints struct {
	service string // namespace/name
	// ids are who is ready on this node, so many as here says, and then all nodes with a ready endpoint; if none is ready, those
	// with one that serves while it terminates.
	ids             []uint32
	here            int32
	family          int8
	ready           bool // some endpoint is
	last, lastIsOur bool // some endpoint serves while it terminates; on this node
}

// nobody is the ID of an endpoint of which nobody knows who it is. There may be several.
const nobody = 0

var seed = maphash.MakeSeed()

// id makes an ID of a name. Two names with the same ID are very rare, and cost a weight of one too few or a wait of two seconds
// too many.
func id(name string) uint32 { return max(1, uint32(maphash.String(seed, name))) }

// endpointsOf returns what a speaker on the node keeps, and under which key: the slice's namespace/name.
func endpointsOf(slice *discoveryv1.EndpointSlice, node string) (key string, e *endpoints) {
	key = slice.Namespace + "/" + slice.Name
	e = &endpoints{service: slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName], family: otherFamily}
	if strings.HasPrefix(key, e.service) {
		e.service = key[:len(e.service)] // as nearly always: one text for both
	}
	if i := slices.Index(familyNames, string(slice.AddressType)); i >= 0 {
		e.family = int8(i)
	}
	nodes, leaving := make([]uint32, 0, len(slice.Endpoints)), []uint32(nil)
	for i := range slice.Endpoints {
		one := &slice.Endpoints[i]
		on := ptr.Deref(one.NodeName, "")
		// What is not said means what the API says that it does.
		switch {
		case ptr.Deref(one.Conditions.Ready, true):
			e.ready, nodes = true, append(nodes, id(on))
			if on == node {
				e.ids = append(e.ids, identity(one))
			}
		case ptr.Deref(one.Conditions.Serving, true) && ptr.Deref(one.Conditions.Terminating, false):
			e.last, e.lastIsOur, leaving = true, e.lastIsOur || on == node, append(leaving, id(on))
		}
	}
	if !e.ready {
		nodes = leaving
	}
	e.here = int32(len(e.ids))
	slices.Sort(nodes)
	e.ids = slices.Concat(e.ids, slices.Compact(nodes))
	return key, e
}

// identity is the ID of what is behind the endpoint, which its UID tells, or the address of one that somebody wrote by hand.
func identity(e *discoveryv1.Endpoint) uint32 {
	switch {
	case e.TargetRef != nil && e.TargetRef.UID != "":
		return id(string(e.TargetRef.UID))
	case len(e.Addresses) > 0:
		return id(e.Addresses[0])
	}
	return nobody
}

// meets reports whether both have a ready endpoint on one node.
func (e *endpoints) meets(f *endpoints) bool {
	return e.ready && f.ready && slices.ContainsFunc(e.ids[e.here:], func(node uint32) bool { return slices.Contains(f.ids[f.here:], node) })
}

// serving returns the nodes, sorted, that have endpoints of an IP version to which kube-proxy there sends with the policy Local.
func serving(all []*endpoints, family int) []uint32 {
	nodes := []uint32{}
	for _, ready := range []bool{true, false} {
		for _, e := range all {
			if int(e.family) == family && e.ready == ready {
				nodes = append(nodes, e.ids[e.here:]...)
			}
		}
		if len(nodes) > 0 {
			break // what terminates counts only where nothing is ready
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// readyHere counts the endpoints of an IP version that are ready on this node. One that is in several slices, as happens while
// the endpoints of a Service are spread anew, counts once.
func readyHere(all []*endpoints, family int) (n int) {
	seen := map[uint32]bool{}
	for _, e := range all {
		if int(e.family) != family {
			continue
		}
		for _, id := range e.ids[:e.here] {
			if id == nobody || !seen[id] {
				n++
			}
			seen[id] = true
		}
	}
	return n
}
