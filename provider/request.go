package provider

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// What users may write on a Service, after either prefix.
const (
	annotationPool    = "address-pool"
	annotationAddress = "loadBalancerIPs"
)

var annotationPrefixes = []string{"metallb.universe.tf/", "metallb.io/"}

// nameOf returns the Service's namespace/name.
func nameOf(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

// wants reports whether the Service is for this provider and should have an address. The Service comes from our
// informer, which blanks our own class: any class that is left is another implementation's.
func wants(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

// requestOf reads what the Service asks for. The error says what it cannot have.
func requestOf(svc *corev1.Service) (loadbalancer.Request, error) {
	r := loadbalancer.Request{UID: string(svc.UID), Service: nameOf(svc)}
	if len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] == corev1.IPv6Protocol {
		return r, fmt.Errorf("IPv6 is not supported by this version: set spec.ipFamilies to [IPv4]")
	}
	if p := svc.Spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicyRequireDualStack {
		return r, fmt.Errorf("RequireDualStack is not supported by this version: set spec.ipFamilyPolicy to SingleStack")
	}
	pool, _, err := annotation(svc, annotationPool)
	if err != nil {
		return r, err
	}
	wanted, where, err := annotation(svc, annotationAddress)
	if err != nil {
		return r, err
	}
	if r.Addr, err = address("annotation "+where, wanted); err != nil {
		return r, err
	}
	field, err := address("spec.loadBalancerIP", svc.Spec.LoadBalancerIP)
	if err != nil {
		return r, err
	}
	if r.Addr.IsValid() && field.IsValid() && r.Addr != field {
		return r, fmt.Errorf("spec.loadBalancerIP asks for %s, and annotation %s for %s: remove one of the two", field, where, r.Addr)
	}
	if field.IsValid() {
		r.Addr = field
	}
	r.Pool = pool
	return r, nil
}

// annotation returns what the user wrote under either prefix, and the annotation's full name.
func annotation(svc *corev1.Service, name string) (found, where string, err error) {
	if len(svc.Annotations) == 0 {
		return "", "", nil
	}
	for _, prefix := range annotationPrefixes {
		text := strings.TrimSpace(svc.Annotations[prefix+name])
		if text == "" {
			continue
		}
		if found != "" && found != text {
			return "", "", fmt.Errorf("annotations %s and %s%s differ: remove one of the two", where, prefix, name)
		}
		found, where = text, prefix+name
	}
	return found, where, nil
}

// address reads one address, or none from an empty text.
func address(where, text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s: %q is not one IP address: write one, or remove it", where, text)
	}
	return addr.Unmap(), nil
}

// statusAddress returns the address that the Service's status shows, or the zero Addr.
func statusAddress(svc *corev1.Service) netip.Addr {
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(ingress.IP); err == nil {
			return addr.Unmap()
		}
	}
	return netip.Addr{}
}

// statusOf is what the status shows for an address; for the zero Addr, nothing. Without the mode, the API server fills it in,
// and the service controller would patch every Service at every restart.
func statusOf(addr netip.Addr) *corev1.LoadBalancerStatus {
	if !addr.IsValid() {
		return &corev1.LoadBalancerStatus{}
	}
	mode := corev1.LoadBalancerIPModeVIP
	return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: addr.String(), IPMode: &mode}}}
}

// shows reports whether the Service's status shows the address, and nothing else; for the zero Addr, whether it shows none.
func shows(svc *corev1.Service, addr netip.Addr) bool {
	return equality.Semantic.DeepEqual(svc.Status.LoadBalancer.Ingress, statusOf(addr).Ingress)
}
