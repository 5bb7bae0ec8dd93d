package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// What users may write on a Service, after either prefix.
const (
	AnnotationPool    = "address-pool"
	AnnotationAddress = "loadBalancerIPs"
	AnnotationShare   = "allow-shared-ip"
	// What its routes shall be like.
	AnnotationCommunities = "communities"
	AnnotationAdvertise   = "advertise"
)

// prefixes of annotations mean the same.
var prefixes = []string{"metallb.universe.tf/", "metallb.io/"}

// Request reads what the Service asks for.
func Request(svc *corev1.Service) loadbalancer.Request {
	r := loadbalancer.Request{
		UID:         string(svc.UID),
		Service:     Name(svc),
		Namespace:   svc.Namespace,
		Created:     svc.CreationTimestamp.Unix(),
		Labels:      svc.Labels,
		AllFamilies: svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack,
		Families:    familiesOf(svc),
	}
	pool, _, noPool := Annotation(svc.Annotations, AnnotationPool)
	key, _, noKey := Annotation(svc.Annotations, AnnotationShare)
	addrs, noAddrs := addressesOf(svc)
	r.Pool, r.Terms, r.Addrs, r.Invalid = pool, termsOf(svc, key), addrs, cmp.Or(noPool, noKey, noAddrs)
	for _, addr := range addrs {
		if f := loadbalancer.FamilyOf(addr); r.Invalid == nil && !slices.Contains(r.Families, f) {
			r.Invalid = fmt.Errorf("the Service asks for %s, which is %s, and spec.ipFamilies is %v: change one of the two", addr, f, r.Families)
		}
	}
	return r
}

// familiesOf returns the IP versions that the Service has. The API server has filled them in.
func familiesOf(svc *corev1.Service) (all []loadbalancer.Family) {
	for _, f := range svc.Spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			all = append(all, loadbalancer.IPv4)
		case corev1.IPv6Protocol:
			all = append(all, loadbalancer.IPv6)
		}
	}
	if len(all) == 0 {
		return []loadbalancer.Family{loadbalancer.IPv4}
	}
	return all
}

// termsOf returns what must fit so that the Service can share an address.
func termsOf(svc *corev1.Service, key string) loadbalancer.Terms {
	t := loadbalancer.Terms{Key: key, NotReady: svc.Spec.PublishNotReadyAddresses}
	for _, p := range svc.Spec.Ports {
		port := loadbalancer.Port{Protocol: string(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Number: uint16(p.Port)}
		if !slices.Contains(t.Ports, port) {
			t.Ports = append(t.Ports, port)
		}
	}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		// With Cluster, every node serves every Service. With Local only those do that run its pods.
		if t.Backend = fmt.Sprint("pods ", svc.Spec.Selector); len(svc.Spec.Selector) == 0 { // in an order that depends on nothing
			t.Backend = loadbalancer.UnknownPods
		}
	}
	return t
}

// addressesOf returns the addresses that the Service asks for by name.
func addressesOf(svc *corev1.Service) ([]netip.Addr, error) {
	written, where, err := Annotation(svc.Annotations, AnnotationAddress)
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	if written != "" {
		for text := range strings.SplitSeq(written, ",") {
			addr, err := address("annotation "+where, strings.TrimSpace(text))
			if err != nil {
				return nil, err
			}
			for _, other := range all {
				if other.Is4() == addr.Is4() {
					return nil, fmt.Errorf("annotation %s: %q has two addresses of one IP version: write one of each at most", where, Short(written))
				}
			}
			all = append(all, addr)
		}
	}
	if svc.Spec.LoadBalancerIP == "" {
		return all, nil
	}
	field, err := address("spec.loadBalancerIP", svc.Spec.LoadBalancerIP)
	switch {
	case err != nil:
		return nil, err
	case len(all) == 0:
		return []netip.Addr{field}, nil
	case !slices.Contains(all, field):
		return nil, fmt.Errorf("spec.loadBalancerIP asks for %s, and annotation %s for %s: remove one of the two", field, where, Short(written))
	}
	return all, nil
}

// Communities are the names of those that the Service wants to have added to its routes, and the annotation that says so. The error
// says what is wrong with that; then there are none.
func Communities(svc *corev1.Service) (names []string, where string, err error) {
	written, where, err := Annotation(svc.Annotations, AnnotationCommunities)
	if err != nil || written == "" {
		return nil, where, err
	}
	for name := range strings.SplitSeq(written, ",") {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, where, nil
}

// Advertised reports whether the Service lets its addresses be announced, and which annotation says that it does not. The error says
// what is wrong with that; then it does.
func Advertised(svc *corev1.Service) (yes bool, where string, err error) {
	written, where, err := Annotation(svc.Annotations, AnnotationAdvertise)
	if err != nil || written == "" {
		return true, where, err
	}
	if yes, err = strconv.ParseBool(written); err != nil {
		return true, where, fmt.Errorf("annotation %s: %q is neither true nor false: its addresses are announced", where, Short(written))
	}
	return yes, where, nil
}

// Annotation returns what the user wrote under either prefix, and the annotation's full name.
func Annotation(annotations map[string]string, name string) (found, where string, err error) {
	if len(annotations) == 0 {
		return "", "", nil
	}
	for _, prefix := range prefixes {
		text := strings.TrimSpace(annotations[prefix+name])
		if text == "" {
			continue
		}
		if found != "" && found != text {
			return found, where, fmt.Errorf("annotations %s and %s%s differ: remove one of the two", where, prefix, name)
		}
		if found == "" {
			found, where = text, prefix+name
		}
	}
	return found, where, nil
}

// address reads one address.
func address(where, text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, fmt.Errorf("%s: a comma has no IP address beside it: write one there, or remove the comma", where)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s: %q is not one IP address: write one, or remove it", where, Short(text))
	}
	return addr.Unmap(), nil
}

// mostOfAText is how much of a user's text is quoted to its author.
const mostOfAText = 60

// Short cuts a user's text for a message.
func Short(text string) string { return Cut(text, mostOfAText) }

// Cut cuts a text to so many bytes.
func Cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
