package inspect

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/service"
)

// large is a cluster with so many Services, each with three endpoints, and nodes.
func large(services, nodes int) *Snapshot {
	const text = `
peers:
- {name: tor1, peer-address: 10.0.0.254, peer-asn: 64500, my-asn: 64512}
- {name: tor2, peer-address: 10.0.0.253, peer-asn: 64500, my-asn: 64512}
address-pools: [{name: big, cidr: [10.128.0.0/16]}]
`
	s := &Snapshot{Taken: time.Unix(1_000_000, 0), Namespace: "metallb-system", ConfigName: "config", Hash: service.Hash(text)}
	s.User = &corev1.ConfigMap{Data: map[string]string{service.KeyConfig: text}}
	s.Admitted = &corev1.ConfigMap{Data: map[string]string{service.KeyConfig: text, service.KeyHash: service.Hash(text)}}
	for i := range nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%03d", i)}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.1.0.%d", i)}}
		s.Nodes = append(s.Nodes, node)
		s.Pods = append(s.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: map[string]string{componentLabel: theSpeaker}}, Spec: corev1.PodSpec{NodeName: node.Name}})
	}
	yes := true
	for i := range services {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("web-%05d", i), UID: types.UID(fmt.Sprint(i)), CreationTimestamp: metav1.Unix(int64(i), 0)}}
		svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80}}}
		mode := corev1.LoadBalancerIPModeVIP
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("10.128.%d.%d", i>>8, i&255), IPMode: &mode}}
		if i%4 == 0 {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}, AddressType: discoveryv1.AddressTypeIPv4}
		for j := range 3 {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.244.%d.%d", i>>8, i&255)}, NodeName: &s.Nodes[(i+j)%nodes].Name, Conditions: discoveryv1.EndpointConditions{Ready: &yes},
				TargetRef: &corev1.ObjectReference{UID: types.UID(fmt.Sprintf("%d-%d", i, j))},
			})
		}
		s.Services, s.Slices = append(s.Services, svc), append(s.Slices, slice)
	}
	return s
}

// What status and why compute in a large cluster, without what it takes to read that from an API server.
func BenchmarkALargeCluster(b *testing.B) {
	s := large(10_000, 100)
	run := func(name string, ask func(*View)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask(Look(s))
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapSys-m.HeapReleased)/(1<<20), "MiB-heap")
		})
	}
	run("status", func(v *View) {
		if status := v.Status(); len(status.Nodes) != 100 || status.Services != 10_000 || len(status.Unannounced) > 0 {
			b.Fatal(status.Problems)
		}
	})
	run("why", func(v *View) {
		if why, err := v.Why("shop", "web-05000", ""); err != nil || !why.Announced {
			b.Fatal(why, err)
		}
	})
	run("plan", func(v *View) { v.Plan(s.User.Data[service.KeyConfig]+"# the same\n", nil) })
}
