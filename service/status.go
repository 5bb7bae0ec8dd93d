package service

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Name returns the Service's namespace/name.
func Name(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

// Addresses returns those that the Service's status shows, in its order.
func Addresses(svc *corev1.Service) (all []netip.Addr) {
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(ingress.IP); err == nil {
			all = append(all, addr.Unmap())
		}
	}
	return all
}

// Status is what the status shows for addresses. Without the mode, the API server fills it in, and the service controller
// would patch every Service at every restart.
func Status(addrs []netip.Addr) *corev1.LoadBalancerStatus {
	status := &corev1.LoadBalancerStatus{}
	for _, addr := range addrs {
		mode := corev1.LoadBalancerIPModeVIP
		status.Ingress = append(status.Ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	return status
}

// Shows reports whether the Service's status shows the addresses, and nothing else.
func Shows(svc *corev1.Service, addrs []netip.Addr) bool {
	return SameStatus(svc.Status.LoadBalancer.Ingress, Status(addrs).Ingress)
}

// SameStatus reports whether two statuses show the same.
func SameStatus(a, b []corev1.LoadBalancerIngress) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.LoadBalancerIngress) bool { return reflect.DeepEqual(x, y) })
}

// InWords lists addresses for a text.
func InWords(addrs []netip.Addr) string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return strings.Join(all, " and ")
}
