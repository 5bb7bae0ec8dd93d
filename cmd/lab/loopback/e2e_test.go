package loopback

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// start brings up a lab for one test. At its end, nothing that our programs asked for may have been forbidden: they have
// the permissions that we ship.
func start(t testing.TB, o Options) *Lab {
	t.Helper()
	o.Progress = t.Output()
	lab, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		forbidden, err := lab.Requests(context.Background(), 0, func(r kubernetes.Request) bool {
			return r.Code == 403 && (r.User == controllerUser || r.User == speakerUser)
		})
		if err != nil {
			t.Error(err)
		}
		for _, r := range forbidden {
			t.Errorf("forbidden: %v", r)
		}
		for _, p := range lab.processes {
			for _, bad := range []string{"DATA RACE", "panic: "} {
				if strings.Contains(p.Output(), bad) {
					t.Errorf("%s: %s", p.Name, bad)
				}
			}
		}
		if t.Failed() {
			for _, p := range lab.processes {
				t.Logf("log of %s:\n%s", p.Name, p.Output())
			}
		}
		if err := lab.Stop(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quickElection makes a killed leader's Lease expire soon.
var quickElection = []string{"--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s", "--leader-elect-retry-period=500ms"}

// configure puts a text in force.
func configure(t testing.TB, lab *Lab, text string) {
	t.Helper()
	must(t, lab.write(t.Context(), text))
	must(t, lab.Admitted(t.Context(), text))
}

// write writes the user's ConfigMap.
func (l *Lab) write(ctx context.Context, text string) error {
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config"},
		Data:       map[string]string{"config": text},
	}
	configMaps := l.API.CoreV1().ConfigMaps("metallb-system")
	_, err := configMaps.Update(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
	}
	return err
}

// expose creates a Service of type LoadBalancer.
func expose(t *testing.T, lab *Lab, name string, change func(*corev1.Service)) *corev1.Service {
	t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeLoadBalancer,
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Port: 80}},
		},
	}
	if change != nil {
		change(svc)
	}
	created, err := lab.API.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{})
	must(t, err)
	return created
}

func asking(addr string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = addr }
}

func patch(t *testing.T, lab *Lab, service, text string, subresource ...string) {
	t.Helper()
	_, err := lab.API.CoreV1().Services("default").Patch(t.Context(), service, types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}, subresource...)
	must(t, err)
}

func hasAddress(t *testing.T, lab *Lab, service, want string) {
	t.Helper()
	must(t, Until(t.Context(), service+" to have "+want, func(ctx context.Context) error {
		got, err := lab.Address(ctx, "default", service)
		if err == nil && got.String() != want {
			err = fmt.Errorf("it has %s", got)
		}
		return err
	}))
}

func TestTheUsagePageComesTrue(t *testing.T) {
	lab := start(t, Options{})
	must(t, lab.StartAll(t.Context()))
	teller := NewTeller(t.Context(), lab, t.Output())
	for _, step := range Story {
		if !t.Run(step.Title, func(t *testing.T) { must(t, teller.Tell(step)) }) {
			return // the next ones build on it
		}
	}
}

func TestTheUsagePagesConfigurationsAreAdmittedAsPrinted(t *testing.T) {
	lab := start(t, Options{})
	// No speakers: the page's router is not on this machine, and nothing may be sent to its address.
	_, err := lab.StartController(t.Context())
	must(t, err)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(lab.root, "loadbalancer/testdata/admitted/v0.1", name))
		must(t, err)
		return string(text)
	}
	_, err = lab.Kubectl(t.Context(), read("basic.yaml"), "apply", "-f", "-")
	must(t, err)
	expose(t, lab, "simple", nil)
	hasAddress(t, lab, "simple", "192.168.10.0")
	must(t, lab.API.CoreV1().Services("default").Delete(t.Context(), "simple", metav1.DeleteOptions{}))

	// The page leaves out the rest, which nobody means to take away.
	configure(t, lab, "peers: [{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}]\n"+read("ecommerce.yaml"))
	expose(t, lab, "shop", asking("42.176.25.66"))
	hasAddress(t, lab, "shop", "42.176.25.66")
	expose(t, lab, "sandbox", func(svc *corev1.Service) {
		svc.Annotations = map[string]string{"metallb.universe.tf/address-pool": "sandbox"}
	})
	hasAddress(t, lab, "sandbox", "192.168.144.0")
}

// A chronicle is every address that any Service ever showed.
type chronicle struct {
	mu    sync.Mutex
	shown map[types.UID][]string
	names map[types.UID]string
}

func (c *chronicle) note(svc *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[svc.UID] = svc.Name
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if !slices.Contains(c.shown[svc.UID], ingress.IP) {
			c.shown[svc.UID] = append(c.shown[svc.UID], ingress.IP)
		}
	}
}

// keep watches all Services from now on.
func keep(t *testing.T, lab *Lab) *chronicle {
	t.Helper()
	c := &chronicle{shown: map[types.UID][]string{}, names: map[types.UID]string{}}
	w, err := lab.API.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	go func() {
		for event := range w.ResultChan() {
			if svc, ok := event.Object.(*corev1.Service); ok {
				c.note(svc)
			}
		}
	}()
	return c
}

// check reports Services whose address changed, and addresses that two Services showed.
func (c *chronicle) check(t *testing.T) (served int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	holder := map[string]string{}
	for uid, addrs := range c.shown {
		if len(addrs) > 1 {
			t.Errorf("service %s had %v", c.names[uid], addrs)
		}
		for _, addr := range addrs {
			if other, taken := holder[addr]; taken {
				t.Errorf("services %s and %s both had %s", other, c.names[uid], addr)
			}
			holder[addr] = c.names[uid]
		}
	}
	return len(c.shown)
}

func TestAKilledControllerManagerChangesNoAddress(t *testing.T) {
	const services, addresses, kills = 200, 180, 3
	lab := start(t, Options{})
	controller, err := lab.StartController(t.Context(), quickElection...)
	must(t, err)
	configure(t, lab, "address-pools:\n"+
		"- {name: default, cidr: [192.168.10.0-192.168.10.179]}\n"+
		"- {name: last, cidr: [192.168.20.0/24], auto-assign: false}\n")
	seen := keep(t, lab)

	// It is killed while it gives addresses away: after a third of them or so.
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var deadly []int
	for range kills {
		deadly = append(deadly, 20+random.IntN(services-40))
	}
	for i := range services {
		expose(t, lab, fmt.Sprintf("s%03d", i), nil)
		if slices.Contains(deadly, i) {
			controller.Kill()
			controller, err = lab.StartController(t.Context(), quickElection...)
			must(t, err)
		}
	}
	must(t, Until(t.Context(), "as many Services to be served as there are addresses", func(context.Context) error {
		if n := seen.check(t); n != addresses {
			return fmt.Errorf("%d are", n)
		}
		return nil
	}))
	before := statuses(t, lab)
	for name, addr := range before {
		if addr == "" {
			_, err := lab.Event(t.Context(), "default", name, "SyncLoadBalancerFailed", `no free address in pool "default"`)
			must(t, err)
		}
	}

	// Now that all is settled, it is killed once more.
	controller.Kill()
	since, err := lab.Now(t.Context())
	must(t, err)
	_, err = lab.StartController(t.Context(), quickElection...)
	must(t, err)
	// The queue of the service controller is in order: when this one is served, it has looked at all others.
	expose(t, lab, "last", func(svc *corev1.Service) {
		svc.Annotations = map[string]string{"metallb.universe.tf/address-pool": "last"}
	})
	hasAddress(t, lab, "last", "192.168.20.0")

	writes, err := lab.Requests(t.Context(), since, func(r kubernetes.Request) bool {
		return r.User == controllerUser && r.Writes() && r.Resource == "services" && r.Name != "last"
	})
	must(t, err)
	for _, w := range writes {
		t.Errorf("a settled Service was written: %v", w)
	}
	seen.check(t)
	after := statuses(t, lab)
	delete(after, "last")
	served := 0
	for name, addr := range before {
		if after[name] != addr {
			t.Errorf("%s had %q and has %q", name, addr, after[name])
		}
		if addr != "" {
			served++
		}
	}
	if served != addresses || len(after) != services {
		t.Errorf("%d of %d Services are served, instead of %d of %d", served, len(after), addresses, services)
	}

	// An address that becomes free goes to the Service that has waited longest.
	var oldest string
	for name, addr := range before {
		if addr == "" && (oldest == "" || name < oldest) {
			oldest = name
		}
	}
	must(t, lab.API.CoreV1().Services("default").Delete(t.Context(), "s000", metav1.DeleteOptions{}))
	hasAddress(t, lab, oldest, before["s000"])
}

// statuses returns the address that each Service shows; empty if none.
func statuses(t *testing.T, lab *Lab) map[string]string {
	t.Helper()
	list, err := lab.API.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	all := map[string]string{}
	for _, svc := range list.Items {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		all[svc.Name] = ""
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			all[svc.Name] = ingress.IP
		}
	}
	return all
}

func TestALeaderThatIsToldToStopGivesUpItsLease(t *testing.T) {
	// Longer than the test waits for anything: only a Lease that was given up can be taken.
	slow := []string{"--leader-elect-lease-duration=15m", "--leader-elect-renew-deadline=10m", "--leader-elect-retry-period=500ms"}
	lab := start(t, Options{})
	leader, err := lab.StartController(t.Context(), slow...)
	must(t, err)
	configure(t, lab, "address-pools: [{name: default, cidr: [192.168.10.0/24]}]")
	expose(t, lab, "before", nil)
	hasAddress(t, lab, "before", "192.168.10.0")
	_, err = lab.StartController(t.Context(), slow...)
	must(t, err)
	must(t, leader.Stop(patience))
	expose(t, lab, "after", nil)
	hasAddress(t, lab, "after", "192.168.10.1")
	hasAddress(t, lab, "before", "192.168.10.0")
}

func TestAnImpossibleWishKeepsTheWorkingAddress(t *testing.T) {
	lab := start(t, Options{})
	must(t, lab.StartAll(t.Context()))
	configure(t, lab, lab.Peers()+basicPools)
	must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, lab.Nodes[0]))
	expose(t, lab, "other", asking("192.168.10.9"))
	expose(t, lab, "web", asking("192.168.10.8"))
	hasAddress(t, lab, "web", "192.168.10.8")
	must(t, lab.Hops(t.Context(), "192.168.10.8/32", lab.Nodes...))

	for _, wish := range []struct{ patch, warning string }{
		{`{"spec":{"loadBalancerIP":"192.168.10.9"}}`, "address 192.168.10.9 is held by service default/other"},
		{`{"spec":{"loadBalancerIP":"10.1.2.3"}}`, "no pool owns address 10.1.2.3"},
		{`{"spec":{"loadBalancerIP":"ten"}}`, `spec.loadBalancerIP: "ten" is not one IP address`},
		{`{"spec":{"loadBalancerIP":""},"metadata":{"annotations":{"metallb.universe.tf/address-pool":"gold"}}}`, `no pool is named "gold"`},
	} {
		patch(t, lab, "web", wish.patch)
		message, err := lab.Event(t.Context(), "default", "web", "SyncLoadBalancerFailed", wish.warning)
		must(t, err)
		t.Log(message)
		hasAddress(t, lab, "web", "192.168.10.8")
	}
	// Also if somebody empties the status meanwhile.
	patch(t, lab, "web", `{"status":{"loadBalancer":{"ingress":null}}}`, "status")
	hasAddress(t, lab, "web", "192.168.10.8")
	must(t, lab.Hops(t.Context(), "192.168.10.8/32", lab.Nodes...))

	// A wish that can be met moves it, and so does taking the impossible one back: nothing changes then.
	patch(t, lab, "web", `{"spec":{"loadBalancerIP":"192.168.10.10"},"metadata":{"annotations":{"metallb.universe.tf/address-pool":null}}}`)
	hasAddress(t, lab, "web", "192.168.10.10")
	must(t, lab.Hops(t.Context(), "192.168.10.10/32", lab.Nodes...))
	must(t, lab.Hops(t.Context(), "192.168.10.8/32"))
}

func TestAWipedOrEditedStatusIsRepaired(t *testing.T) {
	lab := start(t, Options{})
	_, err := lab.StartController(t.Context())
	must(t, err)
	configure(t, lab, "address-pools: [{name: default, cidr: [192.168.10.0/24]}]")
	expose(t, lab, "web", nil)
	hasAddress(t, lab, "web", "192.168.10.0")
	patch(t, lab, "web", `{"status":{"loadBalancer":{"ingress":null}}}`, "status")
	hasAddress(t, lab, "web", "192.168.10.0")
	patch(t, lab, "web", `{"status":{"loadBalancer":{"ingress":[{"ip":"10.9.9.9"}]}}}`, "status")
	hasAddress(t, lab, "web", "192.168.10.0")

	// A change of the type frees the address, and the way back gets another: the freed one comes last.
	patch(t, lab, "web", `{"spec":{"type":"ClusterIP"}}`)
	must(t, Until(t.Context(), "the finalizer to go", func(ctx context.Context) error {
		svc, err := lab.API.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
		if err == nil && len(svc.Finalizers) > 0 {
			err = fmt.Errorf("there are %v", svc.Finalizers)
		}
		return err
	}))
	patch(t, lab, "web", `{"spec":{"type":"LoadBalancer"}}`)
	hasAddress(t, lab, "web", "192.168.10.1")
}

func TestTheAdmittedCopySurvivesEverything(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	must(t, lab.StartAll(t.Context()))
	good := lab.Peers() + basicPools
	configure(t, lab, good)
	must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, lab.Nodes[0]))
	expose(t, lab, "web", nil)
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", lab.Nodes...))
	configMaps := lab.API.CoreV1().ConfigMaps("metallb-system")

	must(t, configMaps.Delete(t.Context(), "config-admitted", metav1.DeleteOptions{}))
	must(t, lab.Admitted(t.Context(), good))

	stored, err := configMaps.Get(t.Context(), "config-admitted", metav1.GetOptions{})
	must(t, err)
	stored.Data["config"] = "peers: []"
	_, err = configMaps.Update(t.Context(), stored, metav1.UpdateOptions{})
	must(t, err)
	must(t, lab.Admitted(t.Context(), good))
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", lab.Nodes...))

	// The user's text is broken, and then gone, while everything of ours is restarted.
	must(t, lab.write(t.Context(), good+"address-pool: []\n"))
	_, err = lab.Event(t.Context(), "metallb-system", "config", "InvalidConfig", `did you mean "address-pools"?`)
	must(t, err)
	for _, p := range lab.processes {
		p.Kill()
	}
	must(t, configMaps.Delete(t.Context(), "config", metav1.DeleteOptions{}))
	_, err = lab.StartController(t.Context(), quickElection...)
	must(t, err)
	_, err = lab.StartSpeaker(lab.Nodes[0], nil)
	must(t, err)
	must(t, lab.fresh(t.Context(), "192.168.10.0/32"))
	must(t, lab.Admitted(t.Context(), good))
	hasAddress(t, lab, "web", "192.168.10.0")
}

// fresh waits until no path to the prefix is a leftover of a session that ended.
func (l *Lab) fresh(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return l.Router.Wait(ctx, prefix+" to be told again", func(paths []router.Path) bool {
		n := 0
		for _, p := range paths {
			if p.Prefix.String() == prefix {
				n++
				if p.Stale {
					return false
				}
			}
		}
		return n > 0
	})
}

func TestLocalPreferenceIsForIBGPOnly(t *testing.T) {
	hundred := uint32(100)
	for _, c := range []struct {
		name   string
		ibgp   bool
		pref   *uint32
		asPath string
	}{
		{name: "iBGP routes carry local preference 100 and no AS", ibgp: true, pref: &hundred, asPath: "[]"},
		{name: "eBGP routes carry our AS and no local preference", asPath: "[42]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := start(t, Options{IBGP: c.ibgp})
			must(t, lab.StartAll(t.Context()))
			configure(t, lab, lab.Peers()+basicPools)
			must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, lab.Nodes[0]))
			expose(t, lab, "web", nil)
			must(t, lab.Hops(t.Context(), "192.168.10.0/32", lab.Nodes...))
			for _, path := range lab.Router.Table() {
				same := path.LocalPref == nil && c.pref == nil || path.LocalPref != nil && c.pref != nil && *path.LocalPref == *c.pref
				if as := fmt.Sprint(path.ASPath); !same || as != c.asPath {
					t.Errorf("%s from %s has AS path %s and local preference %v", path.Prefix, path.From, as, path.LocalPref)
				}
			}
		})
	}
}

func TestNextHopsAreTheNodesThatThePolicyAndTheEndpointsCallFor(t *testing.T) {
	lab := start(t, Options{})
	must(t, lab.StartAll(t.Context()))
	configure(t, lab, lab.Peers()+basicPools)
	one, two, three := lab.Nodes[0], lab.Nodes[1], lab.Nodes[2]
	expose(t, lab, "web", nil)
	hasAddress(t, lab, "web", "192.168.10.0")

	ctx := t.Context()
	run := func(pod string, node Node) func() error {
		return func() error { return lab.RunPod(ctx, "default", pod, map[string]string{"app": "web"}, node) }
	}
	ready := func(pod string, ready bool) func() error {
		return func() error { return lab.SetReady(ctx, "default", pod, ready) }
	}
	terminate := func(pod string) func() error {
		return func() error { return lab.API.CoreV1().Pods("default").Delete(ctx, pod, metav1.DeleteOptions{}) }
	}
	policy := func(name string) func() error {
		return func() error {
			_, err := lab.API.CoreV1().Services("default").Patch(ctx, "web", types.StrategicMergePatchType,
				[]byte(`{"spec":{"externalTrafficPolicy":"`+name+`"}}`), metav1.PatchOptions{})
			return err
		}
	}
	node := func(name, patch string, subresource ...string) func() error {
		return func() error {
			_, err := lab.API.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subresource...)
			return err
		}
	}
	for _, step := range []struct {
		then string
		do   func() error
		hops []Node
	}{
		{then: "without a pod nobody announces", do: func() error { return nil }},
		{then: "one pod makes every node announce", do: run("a", one), hops: []Node{one, two, three}},
		{then: "a second changes nothing", do: run("b", two), hops: []Node{one, two, three}},
		{then: "Local leaves the nodes with pods", do: policy("Local"), hops: []Node{one, two}},
		{then: "a pod that is not ready is none", do: ready("a", false), hops: []Node{two}},
		{then: "until it is ready again", do: ready("a", true), hops: []Node{one, two}},
		{then: "a pod that terminates is none while another is ready", do: terminate("b"), hops: []Node{one}},
		{then: "when all terminate, those that serve are used", do: terminate("a"), hops: []Node{one, two}},
		{then: "as long as they serve", do: ready("b", false), hops: []Node{one}},
		{then: "Cluster uses the last one from everywhere", do: policy("Cluster"), hops: []Node{one, two, three}},
		{then: "and nobody announces when nobody serves", do: ready("a", false)},
		{then: "a new pod brings everybody back", do: run("c", three), hops: []Node{one, two, three}},
		{then: "a node that is excluded leaves", do: node("node-1", `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`), hops: []Node{two, three}},
		{then: "and returns", do: node("node-1", `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":null}}}`), hops: []Node{one, two, three}},
		{then: "so does one without a network", do: node("node-2", `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}]}}`, "status"), hops: []Node{one, three}},
		{then: "and returns too", do: node("node-2", `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False"}]}}`, "status"), hops: []Node{one, two, three}},
		{then: "cordon is no reason", do: node("node-3", `{"spec":{"unschedulable":true}}`), hops: []Node{one, two, three}},
		{then: "a Service that no longer wants an address has none", do: func() error {
			_, err := lab.API.CoreV1().Services("default").Patch(ctx, "web", types.StrategicMergePatchType,
				[]byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
			return err
		}},
	} {
		t.Log(step.then)
		must(t, step.do())
		if err := lab.Hops(ctx, "192.168.10.0/32", step.hops...); err != nil {
			t.Fatalf("%s: %v", step.then, err)
		}
	}
}

// A badRouter accepts connections and mistreats them.
type badRouter struct {
	net.Listener
	accepted atomic.Int32
}

func newBadRouter(t *testing.T, mistreat func(*net.TCPConn)) *badRouter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	b := &badRouter{Listener: listener}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.accepted.Add(1)
			if tcp, ok := conn.(*net.TCPConn); ok {
				mistreat(tcp)
			}
			conn.Close()
		}
	}()
	return b
}

func TestARouterThatRefusesResetsOrTalksNonsenseIsLoggedOnceAndTriedAgain(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	closed, err := kubernetes.FreePort()
	must(t, err)
	resets := newBadRouter(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 19)) // the header of our OPEN
		_ = c.SetLinger(0)
	})
	nonsense := newBadRouter(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\nThis is not the router that you look for.")
	})
	text := lab.Peers()
	ports := map[string]int{"refuses": closed, "resets": portOf(resets), "talks-nonsense": portOf(nonsense)}
	for name, port := range ports {
		text += fmt.Sprintf("- {name: %s, peer-address: 127.0.0.1, peer-port: %d, peer-asn: 100, my-asn: 42, connect-time: 1s}\n", name, port)
	}
	_, err = lab.StartController(t.Context())
	must(t, err)
	speaker, err := lab.StartSpeaker(lab.Nodes[0], nil)
	must(t, err)
	configure(t, lab, text+basicPools)
	must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, lab.Nodes[0]))
	expose(t, lab, "web", nil)
	// The good router is served all the same.
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", lab.Nodes...))
	must(t, Until(t.Context(), "three attempts", func(context.Context) error {
		if a, b := resets.accepted.Load(), nonsense.accepted.Load(); a < 3 || b < 3 {
			return fmt.Errorf("%d and %d so far", a, b)
		}
		return nil
	}))
	failures := regexp.MustCompile(`(?m)^.*"Session does not come up".*$`).FindAllString(speaker.Output(), -1)
	if len(failures) != len(ports) {
		t.Errorf("%d lines about failures instead of one for each of %d routers:\n%s", len(failures), len(ports), strings.Join(failures, "\n"))
	}
	for _, line := range failures {
		t.Log(line)
	}
}

func portOf(l net.Listener) int {
	if addr, ok := l.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

func TestRoutesOutliveASpeakerThatIsKilledAndEndWithOneThatStops(t *testing.T) {
	suite.Heavy(t)
	lab := start(t, Options{Nodes: 2})
	_, err := lab.StartController(t.Context())
	must(t, err)
	one, two := lab.Nodes[0], lab.Nodes[1]
	first, err := lab.StartSpeaker(one, nil)
	must(t, err)
	_, err = lab.StartSpeaker(two, nil)
	must(t, err)
	configure(t, lab, lab.Peers()+basicPools)
	must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, one))
	expose(t, lab, "web", nil)
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", one, two))

	first.Kill()
	must(t, Until(t.Context(), "the router to notice", func(context.Context) error {
		if lab.Router.Sessions()[one.Addr] {
			return fmt.Errorf("the session is still up")
		}
		return nil
	}))
	if hops := lab.Router.NextHops(netip.MustParsePrefix("192.168.10.0/32")); len(hops) != 2 {
		t.Errorf("the router dropped a route of a speaker that was killed: %v are left", hops)
	}
	first, err = lab.StartSpeaker(one, nil)
	must(t, err)
	must(t, lab.fresh(t.Context(), "192.168.10.0/32"))

	// No Pod tells of a successor: the host may be going down.
	must(t, first.Stop(patience))
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", two))
	if out := first.Output(); !strings.Contains(out, `"Stopping" routes="withdraw"`) {
		t.Errorf("the speaker did not say why it withdrew:\n%s", out)
	}

	// It is told that its routes shall be kept.
	first, err = lab.StartSpeaker(one, nil, "--on-sigterm=keep")
	must(t, err)
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", one, two))
	must(t, first.Signal(syscall.SIGTERM))
	<-first.Done()
	must(t, Until(t.Context(), "the router to notice", func(context.Context) error {
		if lab.Router.Sessions()[one.Addr] {
			return fmt.Errorf("the session is still up")
		}
		return nil
	}))
	if hops := lab.Router.NextHops(netip.MustParsePrefix("192.168.10.0/32")); len(hops) != 2 {
		t.Errorf("the router dropped a route that was to be kept: %v are left", hops)
	}
}

func TestRoutesAreKeptForASuccessor(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	ctx, node := t.Context(), lab.Nodes[0]
	labels := map[string]string{"app": "metallb-speaker"}
	daemonSet, err := lab.API.AppsV1().DaemonSets("metallb-system").Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "metallb-speaker"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "speaker", Image: "none"}}},
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	must(t, lab.RunPod(ctx, "metallb-system", "speaker-x", labels, node))
	pod, err := lab.API.CoreV1().Pods("metallb-system").Get(ctx, "speaker-x", metav1.GetOptions{})
	must(t, err)
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(daemonSet, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
	_, err = lab.API.CoreV1().Pods("metallb-system").Update(ctx, pod, metav1.UpdateOptions{})
	must(t, err)

	speaker, err := lab.StartSpeaker(node, []string{"POD_NAMESPACE=metallb-system", "POD_NAME=speaker-x"})
	must(t, err)
	configure(t, lab, lab.Peers()+basicPools)
	must(t, lab.RunPod(ctx, "default", "web-1", map[string]string{"app": "web"}, node))
	expose(t, lab, "web", nil)
	must(t, lab.Hops(ctx, "192.168.10.0/32", node))

	must(t, lab.API.CoreV1().Pods("metallb-system").Delete(ctx, "speaker-x", metav1.DeleteOptions{}))
	must(t, speaker.Signal(syscall.SIGTERM))
	<-speaker.Done()
	if out := speaker.Output(); !strings.Contains(out, `"Stopping" routes="keep" why="this speaker's Pod is being replaced"`) {
		t.Errorf("the speaker did not find its successor:\n%s", out)
	}
	if hops := lab.Router.NextHops(netip.MustParsePrefix("192.168.10.0/32")); len(hops) != 1 {
		t.Errorf("the router dropped the route")
	}
	_, err = lab.StartSpeaker(node, nil)
	must(t, err)
	must(t, lab.fresh(ctx, "192.168.10.0/32"))
}

func TestServicesOfOthersAreNotTouched(t *testing.T) {
	lab := start(t, Options{})
	_, err := lab.StartController(t.Context())
	must(t, err)
	configure(t, lab, "address-pools: [{name: default, cidr: [192.168.10.0/24]}]")
	class := func(name string) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Spec.LoadBalancerClass = &name
			svc.Finalizers = []string{"service.kubernetes.io/load-balancer-cleanup"}
		}
	}
	expose(t, lab, "theirs", class("example.com/other"))
	expose(t, lab, "ours", func(svc *corev1.Service) { class("metallb.universe.tf/metallb")(svc); svc.Finalizers = nil })
	hasAddress(t, lab, "ours", "192.168.10.0")
	must(t, lab.API.CoreV1().Services("default").Delete(t.Context(), "theirs", metav1.DeleteOptions{}))
	// Once this one is served, the deletion was seen.
	expose(t, lab, "last", nil)
	hasAddress(t, lab, "last", "192.168.10.1")
	writes, err := lab.Requests(t.Context(), 0, func(r kubernetes.Request) bool {
		return r.User == controllerUser && r.Writes() && r.Resource == "services" && r.Name == "theirs"
	})
	must(t, err)
	for _, w := range writes {
		t.Errorf("another implementation's Service was written: %v", w)
	}
	svc, err := lab.API.CoreV1().Services("default").Get(t.Context(), "theirs", metav1.GetOptions{})
	must(t, err)
	if len(svc.Finalizers) != 1 {
		t.Errorf("its finalizers are %v", svc.Finalizers)
	}
	// The other implementation is gone, and the lab goes on.
	svc.Finalizers = nil
	_, err = lab.API.CoreV1().Services("default").Update(t.Context(), svc, metav1.UpdateOptions{})
	must(t, err)
}

func TestEveryServiceCostsTwoWritesAndOneEvent(t *testing.T) {
	suite.Heavy(t)
	lab := start(t, Options{})
	_, err := lab.StartController(t.Context())
	must(t, err)
	configure(t, lab, "address-pools: [{name: default, cidr: [192.168.0.0/16]}]")
	since, err := lab.Now(t.Context())
	must(t, err)
	const services = 50
	for i := range services {
		expose(t, lab, fmt.Sprintf("s%d", i), nil)
	}
	for i := range services {
		_, err := lab.Event(t.Context(), "default", fmt.Sprintf("s%d", i), "IPAllocated", "assigned 192.168.0.")
		must(t, err)
	}
	count := map[string]int{}
	writes, err := lab.Requests(t.Context(), since, func(r kubernetes.Request) bool {
		return r.User == controllerUser && r.Writes() && r.Resource != "leases"
	})
	must(t, err)
	for _, w := range writes {
		count[cmp.Or(w.Resource+"/"+w.Subresource, "")]++
	}
	// The finalizer and the status.
	if count["services/status"] != 2*services || count["events/"] != services {
		t.Errorf("%d Services cost %v", services, count)
	}
}
