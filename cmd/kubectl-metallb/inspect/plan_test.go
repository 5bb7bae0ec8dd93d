package inspect

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// runs is how many clusters are made up: 20, or as many as the environment says.
func runs(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("PLAN_RUNS"))
	if err != nil && os.Getenv("PLAN_RUNS") != "" {
		t.Fatal(err)
	}
	return max(n, 20)
}

// For random edits of random clusters, what a plan says is what happens then: a living allocator, which gave the addresses away
// and was never started anew, is given the other text, and routers hear what speakers decide by it.
func TestAPlanIsRight(t *testing.T) {
	first := uint64(time.Now().UnixNano())
	if seed := os.Getenv("PLAN_SEED"); seed != "" {
		var err error
		if first, err = strconv.ParseUint(seed, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	did := map[string]int{}
	for seed := first; seed < first+uint64(runs(t)); seed++ {
		t.Run(fmt.Sprintf("PLAN_SEED=%d", seed), func(t *testing.T) {
			w := newWorld(t, rand.New(rand.NewPCG(seed, 0)))
			w.check(t, did)
		})
	}
	t.Logf("PLAN_SEED=%d: %v", first, did)
}

// A madeUp cluster has a configuration in force, and an allocator that lives.
type madeUp struct {
	*rand.Rand
	before, after string
	snapshot      *Snapshot
	allocator     *loadbalancer.Allocator
}

func newWorld(t *testing.T, r *rand.Rand) *madeUp {
	w := &madeUp{Rand: r, allocator: loadbalancer.NewAllocator()}
	config := w.text(t)
	w.before = config
	w.snapshot = &Snapshot{Taken: time.Unix(1_000_000, 0), Namespace: "metallb-system", ConfigName: "config", Hash: service.Hash(config)}
	w.snapshot.User = &corev1.ConfigMap{Data: map[string]string{service.KeyConfig: config}}
	w.snapshot.Admitted = &corev1.ConfigMap{Data: map[string]string{service.KeyConfig: config, service.KeyHash: service.Hash(config)}}
	for i := range 1 + w.IntN(4) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{"rack": strconv.Itoa(w.IntN(2))}}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.9.0.%d", i)}}
		if w.IntN(6) == 0 {
			node.Annotations = map[string]string{"metallb.io/drain": "true"}
		}
		w.snapshot.Nodes = append(w.snapshot.Nodes, node)
	}
	parsed := must(t, config)
	w.allocator.Configure(parsed, nil)
	w.allocator.Withhold(w.infrastructure())
	for i := range w.IntN(12) {
		w.service(i)
	}
	for more := true; more; {
		_, more = w.allocator.Serve(func() bool { return true })
	}
	for _, svc := range w.snapshot.Services {
		if svc.Spec.LoadBalancerClass == nil {
			svc.Status.LoadBalancer = *service.Status(w.allocator.Held(string(svc.UID)))
		}
	}
	w.after = w.text(t)
	if w.IntN(4) == 0 {
		w.after = strings.Replace(w.before, "hold-time: 90s", "hold-time: 9s", 1) // a small edit
	}
	return w
}

func (w *madeUp) infrastructure() (all []netip.Addr) {
	for _, n := range w.snapshot.Nodes {
		all = append(all, netip.MustParseAddr(n.Status.Addresses[0].Address))
	}
	return all
}

func must(t *testing.T, text string) *loadbalancer.Config {
	t.Helper()
	config, _, err := loadbalancer.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return config
}

// text makes up a configuration.
func (w *madeUp) text(t *testing.T) string {
	for {
		var b strings.Builder
		b.WriteString("peers:\n")
		var names []string
		for i := range 1 + w.IntN(3) {
			name := fmt.Sprintf("tor%d", w.IntN(2)*3+i)
			fmt.Fprintf(&b, "- {name: %s, peer-address: 10.0.0.%d, peer-asn: %d, my-asn: 64512, hold-time: %ds, graceful-restart: %t", name, 250+i, 64511+w.IntN(2), []int{90, 30}[w.IntN(2)], w.IntN(3) > 0)
			if w.IntN(3) == 0 {
				fmt.Fprintf(&b, ", node-selectors: [{match-labels: {rack: '%d'}}]", w.IntN(2))
			}
			b.WriteString("}\n")
			names = append(names, name)
		}
		b.WriteString("address-pools:\n")
		ranges := []string{"192.168.0.0/30", "192.168.1.0/31", "192.168.2.0-192.168.2.4", "10.9.0.0/30"}
		w.Shuffle(len(ranges), func(i, j int) { ranges[i], ranges[j] = ranges[j], ranges[i] })
		for i := range 1 + w.IntN(3) {
			fmt.Fprintf(&b, "- name: p%d\n  cidr: [%s]\n  auto-assign: %t\n", i, ranges[i], w.IntN(4) > 0)
			if w.IntN(5) == 0 {
				b.WriteString("  namespaces: [a]\n")
			}
			if w.IntN(2) == 0 {
				fmt.Fprintf(&b, "  advertisements:\n  - {localpref: %d", 100+w.IntN(2))
				if w.IntN(3) == 0 {
					fmt.Fprintf(&b, ", peers: [%s]", names[w.IntN(len(names))])
				}
				if w.IntN(3) == 0 {
					fmt.Fprintf(&b, ", node-selectors: [{match-labels: {rack: '%d'}}]", w.IntN(2))
				}
				b.WriteString("}\n")
			}
		}
		if _, _, err := loadbalancer.Parse([]byte(b.String())); err == nil {
			return b.String()
		}
	}
}

// service makes up a Service, and lets the allocator serve it.
func (w *madeUp) service(i int) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: []string{"a", "b"}[w.IntN(2)], Name: fmt.Sprintf("s%d", i), UID: types.UID(fmt.Sprint(i)), CreationTimestamp: metav1.Unix(int64(i), 0), Annotations: map[string]string{}}}
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: int32(80 + w.IntN(3)), Protocol: corev1.ProtocolTCP}}, Selector: map[string]string{"app": "x"}}
	switch w.IntN(8) {
	case 0:
		svc.Spec.LoadBalancerIP = fmt.Sprintf("192.168.%d.%d", w.IntN(3), w.IntN(4))
	case 1:
		svc.Annotations["metallb.io/address-pool"] = fmt.Sprintf("p%d", w.IntN(3))
	case 2, 3:
		svc.Annotations["metallb.io/allow-shared-ip"] = "key"
	}
	if w.IntN(3) == 0 {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}, AddressType: discoveryv1.AddressTypeIPv4}
	for j := range w.IntN(3) {
		ready, node := w.IntN(4) > 0, w.snapshot.Nodes[w.IntN(len(w.snapshot.Nodes))].Name
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i, j)}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	if w.IntN(10) == 0 {
		// Another implementation's, which stays as it is.
		class := "example.com/lb"
		svc.Spec.LoadBalancerClass = &class
	} else {
		w.allocator.Allocate(service.Request(svc))
	}
	w.snapshot.Services, w.snapshot.Slices = append(w.snapshot.Services, svc), append(w.snapshot.Slices, slice)
}

// told is what every router hears from every node, by node, router and prefix.
func (w *madeUp) told(config *loadbalancer.Config, held func(uid string) []netip.Addr) map[[3]string]string {
	all := map[[3]string]string{}
	var services []speaker.Service
	for i, svc := range w.snapshot.Services {
		is := *svc
		if svc.Spec.LoadBalancerClass == nil {
			is.Status.LoadBalancer = *service.Status(held(string(svc.UID)))
		}
		services = append(services, speaker.Service{Service: &is, Slices: []*discoveryv1.EndpointSlice{w.snapshot.Slices[i]}})
	}
	for _, node := range w.snapshot.Nodes {
		routes, _ := speaker.Announcements(config, service.Ours{}, node, nil, services)
		for _, p := range config.Peers {
			if !loadbalancer.Selects(p.NodeSelectors, node.Labels) {
				continue
			}
			for _, r := range routes {
				if !r.For(p.Name) {
					continue
				}
				hears := fmt.Sprint("prepend ", r.Prepend, r.Communities, p.MyASN)
				if p.IBGP() {
					hears = fmt.Sprint("pref ", r.LocalPref, r.Communities)
				}
				all[[3]string{node.Name, p.Addr.String(), r.Prefix.String()}] = hears
			}
		}
	}
	return all
}

// sessions are what a node has, by node and router.
func (w *madeUp) sessions(config *loadbalancer.Config) map[[2]string]loadbalancer.Peer {
	all := map[[2]string]loadbalancer.Peer{}
	for _, node := range w.snapshot.Nodes {
		for _, p := range config.Peers {
			if loadbalancer.Selects(p.NodeSelectors, node.Labels) {
				p.RouterID = netip.MustParseAddr(node.Status.Addresses[0].Address)
				all[[2]string{node.Name, p.Addr.String()}] = p
			}
		}
	}
	return all
}

func (w *madeUp) check(t *testing.T, did map[string]int) {
	before, after := must(t, w.before), must(t, w.after)
	was := map[string][]netip.Addr{}
	for _, svc := range w.snapshot.Services {
		was[string(svc.UID)] = w.allocator.Held(string(svc.UID))
	}
	toldBefore := w.told(before, w.allocator.Held)

	plan := Look(w.snapshot).Plan(w.after, nil)

	facts := loadbalancer.Facts{NodesKnown: true, KeysKnown: true, Held: w.allocator.Holdings()}
	for _, n := range w.snapshot.Nodes {
		facts.Nodes = append(facts.Nodes, loadbalancer.Node{Name: n.Name, Labels: n.Labels, InternalIPs: []netip.Addr{netip.MustParseAddr(n.Status.Addresses[0].Address)}})
	}
	verdict := before.Admit(after, facts)
	if plan.Admitted != verdict.Admits() || !plan.Admitted && !slices.Equal(plan.Reasons, verdict.Reasons(plan.Hash)) {
		t.Fatalf("admitted %t %q, and it is %t %q", plan.Admitted, plan.Reasons, verdict.Admits(), verdict.Reasons(plan.Hash))
	}
	did[fmt.Sprintf("admitted %t", plan.Admitted)]++

	// It comes to pass, confirmed or not.
	w.allocator.Configure(after, givenUp(t, verdict.Lost))
	for more := true; more; {
		_, more = w.allocator.Serve(func() bool { return true })
	}
	var services, planned []string
	for _, svc := range w.snapshot.Services {
		if now := w.allocator.Held(string(svc.UID)); !slices.Equal(now, was[string(svc.UID)]) || slices.ContainsFunc(now, func(addr netip.Addr) bool { return before.Pool(addr) != nil && after.Pool(addr) == nil }) {
			services = append(services, fmt.Sprint(service.Name(svc), was[string(svc.UID)], now))
		}
	}
	for _, c := range plan.Services {
		planned = append(planned, fmt.Sprint(c.Service, c.From, c.To))
		did[c.What]++
	}
	equal(t, "Services", planned, services)

	var sessions []string
	planned = nil
	had, has := w.sessions(before), w.sessions(after)
	for key, p := range had {
		if now, ok := has[key]; !ok {
			sessions = append(sessions, fmt.Sprint(key[0], " ", p.Name, " ends"))
		} else if !p.SameSession(now) {
			sessions = append(sessions, fmt.Sprint(key[0], " ", now.Name, " resets"))
		}
	}
	for key, p := range has {
		if _, ok := had[key]; !ok {
			sessions = append(sessions, fmt.Sprint(key[0], " ", p.Name, " begins"))
		}
	}
	for _, c := range plan.Sessions {
		planned = append(planned, fmt.Sprint(c.Node, " ", c.Peer, " ", c.What))
		did["session "+c.What]++
	}
	equal(t, "sessions", planned, sessions)

	hears := func(all map[[3]string]string) map[string]map[string]string { // prefix and node, then router
		by := map[string]map[string]string{}
		for key, text := range all {
			at := key[2] + " " + key[0]
			if by[at] == nil {
				by[at] = map[string]string{}
			}
			by[at][key[1]] = text
		}
		return by
	}
	heard, hear := hears(toldBefore), hears(w.told(after, w.allocator.Held))
	counts := map[string]*PrefixChange{}
	at := func(key string) *PrefixChange {
		prefix, _, _ := strings.Cut(key, " ")
		if counts[prefix] == nil {
			counts[prefix] = &PrefixChange{Prefix: netip.MustParsePrefix(prefix)}
		}
		return counts[prefix]
	}
	for key, text := range heard {
		if hear[key] == nil {
			at(key).Withdrawn++
		} else if !maps.Equal(text, hear[key]) {
			at(key).Changed++
		}
	}
	for key := range hear {
		if heard[key] == nil {
			at(key).Announced++
		}
	}
	var prefixes []string
	planned = nil
	for _, c := range counts {
		prefixes = append(prefixes, fmt.Sprint(*c))
	}
	for _, c := range plan.Prefixes {
		planned = append(planned, fmt.Sprint(c))
		did["prefix"]++
	}
	equal(t, "prefixes", planned, prefixes)
	if t.Failed() {
		t.Logf("before:\n%s\nafter:\n%s", w.before, w.after)
	}
}

func givenUp(t *testing.T, lost []loadbalancer.Holding) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, h := range lost {
		b.Add(h.Addr)
	}
	set, err := b.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func equal(t *testing.T, what string, planned, happened []string) {
	t.Helper()
	slices.Sort(planned)
	slices.Sort(happened)
	if !slices.Equal(planned, happened) {
		t.Errorf("%s:\nplanned  %q\nhappened %q", what, planned, happened)
	}
}
