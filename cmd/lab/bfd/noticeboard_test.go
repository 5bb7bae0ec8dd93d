package bfd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// A noticeboard is as much of an API server as one node's speaker and BFD responder need: a few objects, to watch. Whatever they select
// is all there is.
type noticeboard struct {
	mu      sync.Mutex
	objects map[string][]runtime.Object // by the path of their kind
	changed chan struct{}               // closed, and replaced
	version int
}

const (
	configMaps = "/api/v1/namespaces/metallb-system/configmaps"
	secrets    = "/api/v1/namespaces/metallb-system/secrets"
	nodes      = "/api/v1/nodes"
	services   = "/api/v1/services"
	slicesPath = "/apis/discovery.k8s.io/v1/endpointslices"
)

// newNoticeboard shows a node with Services, whose pods are ready, and a configuration.
func newNoticeboard(config string, many int, addrs ...string) *noticeboard {
	b := &noticeboard{changed: make(chan struct{}), version: 1, objects: map[string][]runtime.Object{secrets: nil}}
	node := &corev1.Node{TypeMeta: kind("v1", "Node"), ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	for _, addr := range addrs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr})
	}
	b.objects[nodes] = []runtime.Object{node}
	yes, name, port := true, "node", int32(80)
	v4, v6 := netip.MustParseAddr("192.168.10.1"), netip.MustParseAddr("fd00:10::1")
	for i := range many {
		web := fmt.Sprint("web", i)
		b.objects[services] = append(b.objects[services], &corev1.Service{
			TypeMeta: kind("v1", "Service"), ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: web, UID: types.UID(web)},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: v4.String()}, {IP: v6.String()}}}},
		})
		v4, v6 = v4.Next(), v6.Next()
		for family, addr := range map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "10.244.0.1", discoveryv1.AddressTypeIPv6: "fd00:244::1"} {
			b.objects[slicesPath] = append(b.objects[slicesPath], &discoveryv1.EndpointSlice{
				TypeMeta:    kind("discovery.k8s.io/v1", "EndpointSlice"),
				ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: web + "-" + string(family), Labels: map[string]string{discoveryv1.LabelServiceName: web}},
				AddressType: family, Ports: []discoveryv1.EndpointPort{{Port: &port}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{addr}, NodeName: &name, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
			})
		}
	}
	b.configure(config)
	return b
}

func kind(version, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: kind}
}

// configure puts another configuration there.
func (b *noticeboard) configure(config string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.version++
	b.objects[configMaps] = []runtime.Object{&corev1.ConfigMap{
		TypeMeta:   kind("v1", "ConfigMap"),
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config-admitted", ResourceVersion: fmt.Sprint(b.version)},
		Data:       map[string]string{"config": config, "hash": fmt.Sprint(b.version)},
	}}
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *noticeboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	objects, known := b.objects[r.URL.Path]
	version := b.version
	b.mu.Unlock()
	if !known {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if r.URL.Query().Get("watch") == "" {
		_ = out.Encode(map[string]any{"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": fmt.Sprint(version)}, "items": objects})
		return
	}
	tell := func(what string, object any) {
		_ = out.Encode(map[string]any{"type": what, "object": object}) // whoever asked is gone if that fails
	}
	for _, o := range objects {
		tell("ADDED", o)
	}
	initial := map[string]any{"resourceVersion": fmt.Sprint(version), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}}
	first := map[string]any{"metadata": initial}
	for path, t := range map[string]metav1.TypeMeta{configMaps: kind("v1", "ConfigMap"), secrets: kind("v1", "Secret"), nodes: kind("v1", "Node"),
		services: kind("v1", "Service"), slicesPath: kind("discovery.k8s.io/v1", "EndpointSlice")} {
		if path == r.URL.Path {
			first["kind"], first["apiVersion"] = t.Kind, t.APIVersion
		}
	}
	tell("BOOKMARK", first)
	for {
		w.(http.Flusher).Flush()
		b.mu.Lock()
		changed, now := b.changed, b.objects[r.URL.Path]
		b.mu.Unlock()
		if !slices.Equal(now, objects) {
			objects = now
			for _, o := range objects {
				tell("MODIFIED", o)
			}
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
