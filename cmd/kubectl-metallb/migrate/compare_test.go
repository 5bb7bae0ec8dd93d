package migrate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// room is a cluster with six nodes of all kinds, and a Service at each of these addresses.
func room(services map[string]map[string]string) *inspect.Snapshot {
	s := &inspect.Snapshot{Namespace: "metallb-system", ConfigName: "config"}
	for i, labels := range []map[string]string{{}, {"rack": "a"}, {"rack": "b"}, {"rack": "a", "edge": "yes"}, {"edge": "yes"}, {"rack": "c", "edge": "no"}} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: labels}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.0.%d", 10+i)}}
		s.Nodes = append(s.Nodes, n)
	}
	yes := true
	for _, addr := range sortedKeys(services) {
		name := strings.ReplaceAll(addr, ".", "-")
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: services[addr]}}
		svc.Spec.Type, svc.Spec.IPFamilies = corev1.ServiceTypeLoadBalancer, []corev1.IPFamily{corev1.IPv4Protocol}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
		s.Services = append(s.Services, svc)
		s.Slices = append(s.Slices, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.1"}, NodeName: &s.Nodes[0].Name, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}}},
		})
	}
	return s
}

// Whatever advertisements say, routers hear the same of both: every prefix, with the communities of all advertisements that meet there.
func TestRoutersHearTheSameWhateverAdvertisementsSay(t *testing.T) {
	compared := 0
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for i, asn := range []int{64500, 64501, 64502} {
			fmt.Fprintf(&b, "---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p%d, namespace: m}\nspec: {myASN: 64500, peerASN: %d, peerAddress: 192.0.2.%d", i, asn, i+1)
			if rapid.Bool().Draw(t, "peer on some nodes") {
				b.WriteString(", nodeSelectors: [{matchLabels: {rack: a}}, {matchExpressions: [{key: edge, operator: Exists}]}]")
			}
			b.WriteString("}\n")
		}
		b.WriteString("---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: one, namespace: m, labels: {where: out}}\nspec: {addresses: [203.0.113.0/25]}\n")
		b.WriteString("---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: two, namespace: m}\nspec: {addresses: [198.51.100.5-198.51.100.40]}\n")
		for i := range rapid.IntRange(1, 5).Draw(t, "advertisements") {
			pick := func(what string, all ...string) string { return rapid.SampledFrom(all).Draw(t, what) }
			fmt.Fprintf(&b, "---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: a%d, namespace: m}\nspec: {localPref: %s, %s%s%s%s%scommunities: [%s]}\n", i,
				pick("pref", "100", "100", "100", "100", "100", "100", "100", "100", "100", "200"),
				pick("pools", "", "ipAddressPools: [one], ", "ipAddressPools: [two], ", "ipAddressPoolSelectors: [{matchLabels: {where: out}}], "),
				pick("length", "", "", "aggregationLength: 31, ", "aggregationLength: 28, "),
				pick("peers", "", "", "peers: [p0], ", "peers: [p1, p2], ", "peers: [gone], ", "peers: [p0, gone], "),
				pick("nodes", "", "", "nodeSelectors: [{matchLabels: {rack: a}}], ", "nodeSelectors: [{matchExpressions: [{key: rack, operator: NotIn, values: [a, c]}]}], ",
					"nodeSelectors: [{matchLabels: {edge: 'yes'}}, {matchLabels: {rack: b}}], ", "nodeSelectors: [{matchLabels: {edge: 'yes', rack: a}}], ", "nodeSelectors: [{}], "),
				pick("services", "", "", "serviceSelectors: [{matchLabels: {tier: gold}}], ", "serviceSelectors: [{matchLabels: {tier: gold}}, {matchLabels: {site: x}}], ", "serviceSelectors: [{matchExpressions: [{key: tier, operator: DoesNotExist}]}], "),
				pick("communities", "", "'64500:1'", "'64500:2'", "'64500:2', 'large:64500:1:1'", "'64500:10', '64500:9'"))
		}
		r := Convert([]Source{{"f", []byte(b.String())}}, Options{Mode: "frr"})
		if r.Text == "" {
			// Only what MetalLB refuses as well may be refused.
			if !strings.Contains(b.String(), "localPref: 200") && !(strings.Contains(b.String(), "aggregationLength") && strings.Contains(b.String(), "serviceSelectors")) {
				t.Fatalf("refused: %v\n%s", r.Remarks, b.String())
			}
			return
		}
		compared++
		c := r.Compare(room(map[string]map[string]string{"203.0.113.1": nil, "203.0.113.2": {"tier": "gold"}, "203.0.113.100": {"site": "x"}, "198.51.100.9": {"tier": "gold", "site": "x"}, "198.51.100.40": nil}))
		if len(c.Routers) == 0 {
			t.Fatal("nothing was compared")
		}
		for _, router := range c.Routers {
			if !router.Same() {
				t.Fatalf("%+v\n%s\nbecame\n%s", router, b.String(), r.Text)
			}
		}
	})
	if compared < 10 {
		t.Errorf("only %d sets were compared", compared)
	}
}

func selectorsOf(text string) []loadbalancer.Selector {
	all, _ := objects([]Source{{"f", []byte("{kind: A, metadata: {name: a}, spec: {s: " + text + "}}")}})
	return all[0].spec("s").selectors()
}

func TestNotSelectsWhatTheOtherDoesNot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := selectorsOf(rapid.SampledFrom([]string{
			"[]", "[{}]", "[{matchLabels: {a: x}}]", "[{matchLabels: {a: x, b: y}}]", "[{matchLabels: {a: x}}, {matchLabels: {b: y}}]",
			"[{matchExpressions: [{key: a, operator: NotIn, values: [x]}, {key: b, operator: Exists}]}]", "[{matchExpressions: [{key: a, operator: DoesNotExist}]}, {matchLabels: {a: z}}]",
		}).Draw(t, "selectors"))
		labels := map[string]string{}
		for _, key := range []string{"a", "b"} {
			if v := rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(t, key); v != "" {
				labels[key] = v
			}
		}
		matches := func(s loadbalancer.Selector) bool { return s.Matches(labels) }
		if is := slices.ContainsFunc(or(f), matches); is == slices.ContainsFunc(not(f), matches) {
			t.Fatalf("%v and its opposite %v both say %v of %v", f, not(f), is, labels)
		}
	})
}

// What happens to Services, by the allocator's own word.
func TestServicesKeepMoveWaitOrAreLeftAlone(t *testing.T) {
	set := `
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: p, namespace: m}
spec: {myASN: 64500, peerASN: 64501, peerAddress: 192.0.2.1}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: one, namespace: m}
spec: {addresses: [203.0.113.0/30]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: all, namespace: m}
`
	r := Convert([]Source{{"f", []byte(set)}}, Options{})
	s := room(map[string]map[string]string{"203.0.113.1": nil, "203.0.113.2": nil, "203.0.113.3": nil, "192.168.1.1": nil})
	other := "example.com/other"
	s.Services[0].Spec.LoadBalancerClass = nil        // 192.168.1.1, of layer 2
	s.Services[1].Spec.LoadBalancerIP = "203.0.113.0" // asks for another
	s.Services[2].Spec.LoadBalancerClass = &other     // of somebody else
	s.Services[3].Annotations = map[string]string{"metallb.universe.tf/ip-allocated-from-pool": "one"}
	waiting := s.Services[3].DeepCopy()
	waiting.Name, waiting.UID, waiting.Status = "waiting", "waiting", corev1.ServiceStatus{}
	waiting.Spec.LoadBalancerIP = "203.0.113.3"
	s.Services = append(s.Services, waiting)
	c := r.Compare(s)
	var b strings.Builder
	c.report(page{&b})
	want := `SERVICE           ADDRESS WHY
shop/192-168-1-1  keeps 192.168.1.1                               no pool has it, so that nobody announces it
shop/203-0-113-1  would move from 203.0.113.1 to 203.0.113.0      
shop/203-0-113-2  is left alone                                   its loadBalancerClass is example.com/other
shop/203-0-113-3  keeps 203.0.113.3                               
shop/waiting      would wait                                      address 203.0.113.3 is held by service shop/203-0-113-3: ask for another, or delete that Service
`
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	services, _, _ := strings.Cut(b.String(), "\n\n")
	if squeeze(services) != squeeze(want) {
		t.Errorf("got:\n%s\nwant:\n%s", services, want)
	}
	if c.Same() {
		t.Error("a Service moves, and all is said to be the same")
	}
	if !strings.Contains(fmt.Sprint(r.Remarks), "wrote on 2 of them") {
		t.Errorf("%v", r.Remarks)
	}
}
