package provider

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// What users may write on a Service, after either prefix.
const (
	annotationPool    = "address-pool"
	annotationAddress = "loadBalancerIPs"
	annotationShare   = "allow-shared-ip"
)

var annotationPrefixes = []string{"metallb.universe.tf/", "metallb.io/"}

// nameOf returns the Service's namespace/name.
func nameOf(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

// wants reports whether the Service is for this provider and should have an address. The Service comes from our
// informer, which blanks our own class: any class that is left is another implementation's.
func wants(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

// requestOf reads what the Service asks for.
func requestOf(svc *corev1.Service) loadbalancer.Request {
	r := loadbalancer.Request{
		UID:         string(svc.UID),
		Service:     nameOf(svc),
		Namespace:   svc.Namespace,
		Labels:      svc.Labels,
		AllFamilies: svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack,
		Families:    familiesOf(svc),
	}
	invalid := func(err error) {
		if r.Invalid == nil {
			r.Invalid = err
		}
	}
	var err error
	if r.Pool, _, err = annotation(svc.Annotations, annotationPool); err != nil {
		invalid(err)
	}
	key, _, err := annotation(svc.Annotations, annotationShare)
	if err != nil {
		invalid(err)
	}
	r.Terms = termsOf(svc, key)
	if r.Addrs, err = addressesOf(svc); err != nil {
		invalid(err)
	}
	for _, addr := range r.Addrs {
		if f := loadbalancer.FamilyOf(addr); !slices.Contains(r.Families, f) {
			invalid(fmt.Errorf("the Service asks for %s, which is %s, and spec.ipFamilies is %v: change one of the two", addr, f, r.Families))
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
	t := loadbalancer.Terms{Key: key}
	for _, p := range svc.Spec.Ports {
		port := loadbalancer.Port{Protocol: string(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Number: uint16(p.Port)}
		if !slices.Contains(t.Ports, port) {
			t.Ports = append(t.Ports, port)
		}
	}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		// With Cluster, every node serves every Service. With Local only those do that run its pods.
		t.Backend = "pods " + labels.FormatLabels(svc.Spec.Selector)
	}
	return t
}

// addressesOf returns the addresses that the Service asks for by name.
func addressesOf(svc *corev1.Service) ([]netip.Addr, error) {
	written, where, err := annotation(svc.Annotations, annotationAddress)
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
					return nil, fmt.Errorf("annotation %s: %q has two addresses of one IP version: write one of each at most", where, written)
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
		return nil, fmt.Errorf("spec.loadBalancerIP asks for %s, and annotation %s for %s: remove one of the two", field, where, written)
	}
	return all, nil
}

// annotation returns what the user wrote under either prefix, and the annotation's full name.
func annotation(annotations map[string]string, name string) (found, where string, err error) {
	if len(annotations) == 0 {
		return "", "", nil
	}
	for _, prefix := range annotationPrefixes {
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
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s: %q is not one IP address: write one, or remove it", where, short(text, 60))
	}
	return addr.Unmap(), nil
}

// statusAddresses returns the addresses that the Service's status shows.
func statusAddresses(svc *corev1.Service) (all []netip.Addr) {
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(ingress.IP); err == nil {
			all = append(all, addr.Unmap())
		}
	}
	return all
}

// statusOf is what the status shows for addresses. Without the mode, the API server fills it in, and the service controller
// would patch every Service at every restart.
func statusOf(addrs []netip.Addr) *corev1.LoadBalancerStatus {
	status := &corev1.LoadBalancerStatus{}
	for _, addr := range addrs {
		mode := corev1.LoadBalancerIPModeVIP
		status.Ingress = append(status.Ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	return status
}

// shows reports whether the Service's status shows the addresses, and nothing else.
func shows(svc *corev1.Service, addrs []netip.Addr) bool {
	return equality.Semantic.DeepEqual(svc.Status.LoadBalancer.Ingress, statusOf(addrs).Ingress)
}

// inWords lists addresses for a text.
func inWords(addrs []netip.Addr) string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return strings.Join(all, " and ")
}
