package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A cluster with MetalLB in FRR mode, for Services of one class, as its API server shows it.
var withMetalLB = map[string]string{
	"/apis/metallb.io":         `{"kind": "APIGroup", "name": "metallb.io", "versions": [{"groupVersion": "metallb.io/v1beta2", "version": "v1beta2"}, {"groupVersion": "metallb.io/v1beta1", "version": "v1beta1"}]}`,
	"/apis/metallb.io/v1beta1": `{"kind": "APIResourceList", "resources": [{"name": "ipaddresspools", "namespaced": true, "verbs": ["list"]}, {"name": "bgpadvertisements", "namespaced": true, "verbs": ["list"]}, {"name": "bgppeers", "namespaced": true, "verbs": ["list"]}]}`,
	"/apis/metallb.io/v1beta2": `{"kind": "APIResourceList", "resources": [{"name": "bgppeers", "namespaced": true, "verbs": ["list"]}]}`,
	"/apis/metallb.io/v1beta2/namespaces/metallb-system/bgppeers": `{"apiVersion": "metallb.io/v1beta2", "kind": "BGPPeerList", "items": [
		{"metadata": {"name": "tor", "namespace": "metallb-system", "managedFields": [{}]}, "spec": {"myASN": 4200000001, "peerASN": 64512, "peerAddress": "10.0.0.1", "enableGracefulRestart": true, "peerPort": 179}}]}`,
	"/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools": `{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPoolList", "items": [
		{"metadata": {"name": "default", "namespace": "metallb-system"}, "spec": {"addresses": ["192.168.10.0/24"], "autoAssign": true, "avoidBuggyIPs": false}, "status": {"assignedIPv4": 1}}]}`,
	"/apis/metallb.io/v1beta1/namespaces/metallb-system/bgpadvertisements": `{"apiVersion": "metallb.io/v1beta1", "kind": "BGPAdvertisementList", "items": [{"metadata": {"name": "all", "namespace": "metallb-system"}, "spec": {}}]}`,
	"/apis/apps/v1/namespaces/metallb-system/daemonsets": `{"apiVersion": "apps/v1", "kind": "DaemonSetList", "items": [{"metadata": {"name": "speaker", "namespace": "metallb-system"},
		"spec": {"template": {"spec": {"containers": [{"name": "speaker", "args": ["--port=7472", "--lb-class=example.com/bgp"], "env": [{"name": "METALLB_BGP_TYPE", "value": "frr"}]}]}}}}]}`,
	"/api/v1/namespaces": `{"apiVersion": "v1", "kind": "NamespaceList", "items": []}`,
	"/api/v1/services": `{"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": [
		{"metadata": {"name": "web", "namespace": "shop", "uid": "1"}, "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/bgp", "ipFamilies": ["IPv4"], "externalIPs": ["203.0.113.9"]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.168.10.5"}]}}},
		{"metadata": {"name": "other", "namespace": "shop", "uid": "2"}, "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.168.99.5"}]}}}]}`,
	"/apis/discovery.k8s.io/v1/endpointslices": `{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {}, "items": [{"metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
		"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.5"], "nodeName": "n1", "conditions": {"ready": true, "serving": true}}]}]}`,
	"/api/v1/nodes": `{"apiVersion": "v1", "kind": "NodeList", "metadata": {}, "items": [{"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.11"}]}}]}`,
}

// asking runs a command against an API server with these answers, which refuses one path.
func asking(t *testing.T, answers map[string]string, forbidden, line string) (stdout, stderr string, code int) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, ok := answers[r.URL.Path]
		switch {
		case r.Method != http.MethodGet:
			t.Errorf("it did %s %s", r.Method, r.URL.Path)
		case r.URL.Path == forbidden:
			w.WriteHeader(http.StatusForbidden)
			answer = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}`
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			answer = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`
		}
		_, _ = w.Write([]byte(answer)) // to a client in this process
	}))
	defer server.Close()
	return typed(t, line+" --server="+server.URL, "")
}

// How MetalLB was started is found out: its mode fills in what resources leave out, and its class says which Services are served.
func TestALiveMigrationReadsResourcesProgramsAndServices(t *testing.T) {
	text, said, code := asking(t, withMetalLB, "", "migrate metallb --live --values")
	for _, want := range []string{"# from BGPPeer tor\n", "hold-time: 180s", "my-asn: 4200000001", "loadBalancerClasses: [example.com/bgp]", "port: 7477"} {
		if !strings.Contains(text, want) {
			t.Errorf("the values lack %q:\n%s", want, text)
		}
	}
	for _, want := range []string{"shop/web    keeps 192.168.10.5", "it has no class", "n1    tor   1      -     -      -"} {
		if !strings.Contains(said, want) {
			t.Errorf("the report lacks %q:\n%s", want, said)
		}
	}
	if code != exitChanges {
		t.Errorf("it ends with %d", code)
	}
}

func TestALiveMigrationSaysWhatItMayNotRead(t *testing.T) {
	for forbidden, want := range map[string]string{
		"/apis/metallb.io/v1beta1/namespaces/metallb-system/bgpadvertisements": "cannot list bgpadvertisements.metallb.io in namespace metallb-system: you are not allowed to",
		"/apis/metallb.io": "cannot list metallb.io in the whole cluster: you are not allowed to",
	} {
		text, said, code := asking(t, withMetalLB, forbidden, "migrate metallb --live")
		if text != "" || !strings.Contains(said, want) || code != exitUnknown && code != exitProblem {
			t.Errorf("%s: it ends with %d:\n%s\n%s", forbidden, code, text, said)
		}
	}
	text, said, code := asking(t, withMetalLB, "/api/v1/services", "migrate metallb --live")
	if text == "" || !strings.Contains(said, "cannot list services in the whole cluster") || code != exitUnknown {
		t.Errorf("without Services it ends with %d:\n%s\n%s", code, text, said)
	}
	if _, said, code := asking(t, nil, "", "migrate metallb --live"); code != exitUnknown || !strings.Contains(said, "the cluster has no resources of metallb.io") {
		t.Errorf("without MetalLB it ends with %d: %s", code, said)
	}
}

func TestExternalIPsAreReadFromTheCluster(t *testing.T) {
	text, said, code := asking(t, withMetalLB, "", "migrate external-ips --live")
	if code != exitChanges || text != "" || !strings.Contains(said, "Service shop/web spec.externalIPs: it is a LoadBalancer already") {
		t.Errorf("it ends with %d:\n%s\n%s", code, text, said)
	}
	if _, said, code := asking(t, withMetalLB, "/api/v1/nodes", "migrate external-ips --live"); code != exitUnknown || !strings.Contains(said, "cannot list /api/v1/nodes: you are not allowed to") {
		t.Errorf("it ends with %d: %s", code, said)
	}
}
