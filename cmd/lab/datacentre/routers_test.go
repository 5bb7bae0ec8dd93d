package datacentre

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// A rack is three nodes and a router that is configured as the documentation says, with a password and TTL security.
type rack struct {
	*Lab
	lan      *network.Switch
	router   network.Router
	nodes    []*Node
	addrs    []netip.Addr // of the nodes
	speakers []*kubernetes.Process
	history  []string // of the sessions
}

func newRack(t *testing.T, word string) *rack {
	t.Helper()
	lab := start(t)
	ctx := t.Context()
	lan := made(lab.Network.Switch("lan"))(t)
	r := &rack{Lab: lab, lan: lan}
	host := made(lan.Host("tor", "10.0.0.1/24", "2001:db8:1::1/64"))(t)
	switch word {
	case "frr":
		config := made(lab.documented(word, "neighbor nodes password open-sesame", "neighbor nodes ttl-security hops 1"))(t)
		r.router = made(host.FRR(ctx, config))(t)
	case "bird":
		config := made(lab.documented(word, `password "open-sesame";`, "ttl security on;"))(t)
		r.router = made(host.BIRD(ctx, config))(t)
	}
	made(lab.API.CoreV1().Secrets("metallb-system").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "metallb-bgp-auth"}, StringData: map[string]string{"tor": "open-sesame\n"},
	}, metav1.CreateOptions{}))(t)
	must(t, lab.Admit(ctx, `
peers:
- {name: tor, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, hold-time: 9s, connect-time: 1s, password-key: tor, ttl-security: true}
address-pools:
- {name: default, cidr: [192.168.10.0/24, "2001:db8:10::/64"], advertisements: [{link-bandwidth: true}]}
- {name: mistake, cidr: [192.168.99.0/24]}
`))
	for i := range 3 {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(11 + i)})
		six := netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", 11+i))
		host := made(lan.Host(fmt.Sprintf("node-%c", 'a'+i), addr.String()+"/24", six.String()+"/64"))(t)
		r.nodes = append(r.nodes, made(lab.AddNode(ctx, host, addr, six))(t))
		r.addrs = append(r.addrs, addr)
		r.speakers = append(r.speakers, made(lab.StartSpeaker(r.nodes[i], nil))(t))
	}
	t.Cleanup(func() {
		for _, p := range r.speakers {
			if strings.Contains(p.Output(), "open-sesame") {
				t.Errorf("%s tells the password", p.Name)
			}
			if t.Failed() {
				t.Logf("the log of %s:\n%s", p.Name, p.Output())
			}
		}
	})
	for _, addr := range r.addrs {
		eventually(t, fmt.Sprintf("a session with %s", addr), func(ctx context.Context) error {
			s, err := r.router.Session(ctx, addr)
			if err == nil && !s.Complete {
				err = fmt.Errorf("it is %+v", s)
			}
			return err
		})
		r.history = append(r.history, made(r.router.Session(ctx, addr))(t).History)
	}
	return r
}

// expose creates a Service whose endpoints are on these nodes, or moves them there.
func (r *rack) expose(t *testing.T, name string, policy corev1.ServiceExternalTrafficPolicy, addrs []string, nodes ...*Node) {
	t.Helper()
	ctx := t.Context()
	slices := r.API.DiscoveryV1().EndpointSlices("default")
	services := r.API.CoreV1().Services("default")
	old, err := services.Get(ctx, name, metav1.GetOptions{})
	exists := err == nil
	if exists {
		for _, ingress := range old.Status.LoadBalancer.Ingress {
			addrs = append(addrs, ingress.IP)
		}
	}
	ready, port := true, int32(80)
	var families []corev1.IPFamily
	for _, addr := range addrs {
		family, kind, pod := corev1.IPv4Protocol, discoveryv1.AddressTypeIPv4, "10.244.0.%d"
		if netip.MustParseAddr(addr).Is6() {
			family, kind, pod = corev1.IPv6Protocol, discoveryv1.AddressTypeIPv6, "fd00:244::%d"
		}
		families = append(families, family)
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name + "-" + strings.ToLower(string(kind)), Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: kind, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		}
		for i, node := range nodes {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf(pod, i+1)}, NodeName: &node.Name, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			})
		}
		if exists {
			made(slices.Update(ctx, slice, metav1.UpdateOptions{}))(t)
		} else {
			made(slices.Create(ctx, slice, metav1.CreateOptions{}))(t)
		}
	}
	if exists {
		return
	}
	both := corev1.IPFamilyPolicyPreferDualStack
	svc := made(services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: port}},
			ExternalTrafficPolicy: policy, IPFamilies: families, IPFamilyPolicy: &both,
		},
	}, metav1.CreateOptions{}))(t)
	for _, addr := range addrs {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr})
	}
	made(services.UpdateStatus(ctx, svc, metav1.UpdateOptions{}))(t)
}

// shares waits until the router's kernel shares what it sends to a prefix between nodes as wanted: "a:3 b:1".
func (r *rack) shares(t *testing.T, prefix, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to send %s to %q", r.router, prefix, want), func(ctx context.Context) error {
		routes, err := r.router.Routes(ctx)
		if err != nil {
			return err
		}
		if got := r.inWords(routes[netip.MustParsePrefix(prefix)]); got != want {
			return fmt.Errorf("it sends to %q", got)
		}
		return nil
	})
}

// inWords writes weights as small numbers: FRR makes percentages of them.
func (r *rack) inWords(hops []network.Hop) string {
	least := 0
	for _, h := range hops {
		if least == 0 || h.Weight < least {
			least = h.Weight
		}
	}
	// 3:2 is 1.5:1, so halves count too.
	unit := float64(least)
	for _, h := range hops {
		if twice := 2 * float64(h.Weight) / float64(least); int(twice+0.25)%2 == 1 {
			unit = float64(least) / 2
		}
	}
	var all []string
	for _, h := range hops {
		all = append(all, fmt.Sprintf("%s:%.0f", r.nodeAt(h.Via), float64(h.Weight)/unit))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// nodeAt returns the last letter of a node's name, by either of its addresses.
func (r *rack) nodeAt(addr netip.Addr) string {
	last := int(addr.As16()[15])
	if addr.Is6() {
		last = int(addr.As16()[14])<<8 | last
		last = last/16*10 + last%16 // 2001:db8:1::11 reads as 11
	}
	if i := last - 11; i >= 0 && i < len(r.nodes) {
		return strings.TrimPrefix(r.nodes[i].Name, "node-")
	}
	return addr.String()
}

func (r *rack) mark(t *testing.T, node *Node, drain string) {
	t.Helper()
	made(r.API.CoreV1().Nodes().Patch(t.Context(), node.Name, types.MergePatchType,
		fmt.Appendf(nil, `{"metadata":{"annotations":{"metallb.universe.tf/drain":%s}}}`, drain), metav1.PatchOptions{}))(t)
}

// What docs/routers.md shows is what a router needs, with sessions that have a password and TTL security.
func TestRoutersThatAreConfiguredAsDocumented(t *testing.T) {
	for _, word := range []string{"frr", "bird"} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			r := newRack(t, word)
			a, b := r.nodes[0], r.nodes[1]

			web, web6, api, solo := "192.168.10.1/32", "2001:db8:10::1/128", "192.168.10.2/32", "192.168.10.3/32"

			// Weights, in both IP versions over one session of IPv4, and none for the policy Cluster.
			r.expose(t, "mistake", cluster, []string{"192.168.99.1"}, a)
			r.expose(t, "web", local, []string{"192.168.10.1", "2001:db8:10::1"}, a, a, a, b)
			r.expose(t, "api", cluster, []string{"192.168.10.2"}, a)
			r.expose(t, "solo", local, []string{"192.168.10.3"}, a)
			r.shares(t, web, "a:3 b:1")
			r.shares(t, web6, "a:3 b:1")
			r.shares(t, api, "a:1 b:1 c:1")
			r.shares(t, solo, "a:1")

			// What no pool of the router's has is not let in.
			routes := made(r.router.Routes(t.Context()))(t)
			if hops, ok := routes[netip.MustParsePrefix("192.168.99.1/32")]; ok {
				t.Errorf("a pool that the router does not know is sent to %v", hops)
			}

			// A drained node loses what others have, and keeps what nobody else has.
			r.mark(t, a, `"maintenance"`)
			r.shares(t, web, "b:1")
			r.shares(t, web6, "b:1")
			r.shares(t, api, "b:1 c:1")
			r.shares(t, solo, "a:1")
			r.mark(t, a, "null")
			r.shares(t, web, "a:3 b:1")
			r.shares(t, web6, "a:3 b:1")
			r.shares(t, api, "a:1 b:1 c:1")

			// A weight that changes is sent when it has stayed.
			recorder := made(r.router.Record())(t)
			before := len(events(t, recorder, 0))
			began := time.Now()
			r.expose(t, "web", local, nil, a, a, a, b, b) // one more
			r.expose(t, "web", local, nil, a, a, a, b)    // and gone again
			r.expose(t, "web", local, nil, a, a, a, b, b) // and there
			r.shares(t, web, "a:3 b:2")
			r.shares(t, web6, "a:3 b:2")
			changes := map[netip.Prefix]int{}
			for _, e := range events(t, recorder, before) {
				changes[e.Prefix]++
				if took := e.At.Sub(began); took < 10*time.Second {
					t.Errorf("%v after a weight changed, the router did already: %v", took, e)
				}
			}
			if n := changes[netip.MustParsePrefix(web)]; n == 0 || n > 2 { // a kernel's route may be removed and added
				t.Errorf("a weight changed once, and the route %d times", n)
			}

			for i, addr := range r.addrs {
				if now := made(r.router.Session(t.Context(), addr))(t); now.History != r.history[i] {
					t.Errorf("the session with %s was %q and is %q", addr, r.history[i], now.History)
				}
			}
			for _, p := range r.speakers {
				if err := p.Err(); err != nil {
					t.Error(err)
				}
				if strings.Contains(p.Output(), "Session is down") {
					t.Errorf("%s lost its session", p.Name)
				}
			}
		})
	}
}
