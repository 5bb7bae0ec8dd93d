package datacentre

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/loopback"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// A Hall is a whole datacentre in a box: a client on the WAN, two top-of-rack routers between the WAN and the LAN, and on the LAN three
// nodes, on which kube-proxy, our speaker and pods run; and our controller manager. Real packets go from the client to pods and back,
// of both IP versions. Draw draws it.
//
// The routers are configured as docs/routers.md shows, and pass on to the client what they hear from nodes. The client listens to both
// by BGP, with a hold time of 3 s: it forgets a router whose WAN cable is pulled, and a router whose LAN cable is pulled withdraws what
// it knew from nodes. Nodes hear nothing from routers, here as elsewhere; their default routes lead to those routers that answer pings
// (see gateways).
//
// Everyone who has several ways chooses by connection: by addresses and ports.
type Hall struct {
	*Lab
	WAN, LAN *network.Switch
	Client   *network.BIRD
	TorA     *network.FRR
	TorB     *network.BIRD
	Workers  []*Worker

	// Watched is set if routers and nodes watch each other by BFD.
	Watched bool

	Controllers []*kubernetes.Process

	Ended       []*kubernetes.Process // those that Replace has replaced
	controllers int                   // how many controller managers there have ever been

	proxy  string       // path of kube-proxy
	client *http.Client // connects from the client's namespace, each time anew
	quit   context.CancelFunc
	pings  sync.WaitGroup
}

// A Worker is a node that does all that a node does.
type Worker struct {
	*Node
	Addrs   addresses // on the LAN
	Speaker *kubernetes.Process
	Proxy   *kubernetes.Process
	Kubelet *kubernetes.Process // and containerd; nil until StartKubelet
	BFD     *kubernetes.Process // the responder; nil where nobody is watched

	number int // from 1, as in its pods' addresses

	mu      sync.Mutex
	pods    []*Pod
	started int // how many pods there have ever been
}

// addresses are somebody's, of both IP versions.
type addresses struct{ v4, v6 netip.Addr }

func addrs(v4, v6 string) addresses {
	return addresses{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
}

// on writes them with the lengths of their networks.
func (a addresses) on(bits4, bits6 int) []string {
	return []string{netip.PrefixFrom(a.v4, bits4).String(), netip.PrefixFrom(a.v6, bits6).String()}
}

func (a addresses) String() string { return fmt.Sprintf("%s, %s", a.v4, a.v6) }

// Who has which addresses. The nodes' side is the scene of docs/routers.md.
var (
	clientOwn = addrs("203.0.113.7", "2001:db8:3::7") // of the client alone, whichever way its packets go
	clientWAN = addrs("198.51.100.10", "2001:db8:2::10")
	torWAN    = []addresses{addrs("198.51.100.1", "2001:db8:2::1"), addrs("198.51.100.2", "2001:db8:2::2")}
	torLAN    = []addresses{addrs("10.0.0.1", "2001:db8:1::1"), addrs("10.0.0.2", "2001:db8:1::2")}
)

const (
	clientASN = 65000
	// Those of the usage page.
	torASN     = 100
	clusterASN = 42

	// Of all pods, for kube-proxy.
	podNetwork4, podNetwork6 = "10.244.0.0/16", "fd00:244::/48"
)

// pods is the network of the pods of a worker, with the number of one in it.
func (w *Worker) pod(n int) addresses {
	return addrs(fmt.Sprintf("10.244.%d.%d", w.number, n), fmt.Sprintf("fd00:244:%d::%d", w.number, n))
}

// HallConfig is the configuration of a hall: one pool for everybody, and on request one that routers keep from the client by its community,
// one that is announced as a whole too, and one with weights. docs/routers.md shows the network that they are of.
const HallConfig = `peers:
- {name: tor-a, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, hold-time: 9s, connect-time: 1s}
- {name: tor-b, peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42, hold-time: 9s, connect-time: 1s}
communities:
  vpn-only: 1234:1
address-pools:
- name: default
  cidr: [192.168.10.0/26, "2001:db8:10::/65"]
- name: sandbox
  auto-assign: false
  cidr: [192.168.10.64/27]
  advertisements:
  - communities: [vpn-only]
- name: aggregated
  auto-assign: false
  cidr: [192.168.10.96/27]
  advertisements:
  - aggregation-length: 32
  - aggregation-length: 27
- name: weighted
  auto-assign: false
  cidr: [192.168.10.128/25, "2001:db8:10:0:8000::/65"]
  advertisements:
  - link-bandwidth: true
`

// WatchedConfig is the same with BFD. The restart time is short: so long FRR keeps the routes of a node that dies while its speaker is away.
var WatchedConfig = strings.ReplaceAll(HallConfig, "connect-time: 1s", "connect-time: 1s, graceful-restart: {restart-time: 10s}, bfd-profile: usual") +
	"bfd-profiles:\n- {name: usual, receive-interval: 300, transmit-interval: 300}\n"

// Config is the configuration of the hall.
func (h *Hall) Config() string {
	if h.Watched {
		return WatchedConfig
	}
	return HallConfig
}

// StartHall builds a hall and returns when everything in it runs: the routers have sessions with every node and with the client, and
// the configuration is in force. ctx bounds the start only; progress is as in Start.
func StartHall(ctx context.Context, progress io.Writer) (*Hall, error) {
	return newHall(ctx, progress, false)
}

// StartWatchedHall builds a hall like that, in which routers and nodes watch each other by BFD.
func StartWatchedHall(ctx context.Context, progress io.Writer) (*Hall, error) {
	return newHall(ctx, progress, true)
}

func newHall(ctx context.Context, progress io.Writer, watched bool) (*Hall, error) {
	lab, err := Start(ctx, progress)
	if err != nil {
		return nil, err
	}
	return lab.hall(ctx, watched, func(h *Hall) error {
		tasks := []func() error{
			func() error { return h.Configure(ctx, h.Config()) },
			func() error { _, err := h.StartController(ctx); return err },
		}
		for _, w := range h.Workers {
			tasks = append(tasks, func() (err error) {
				w.Speaker, err = h.StartSpeaker(w.Node, nil, "--wait-for-url="+proxyHealth)
				return err
			})
			if watched {
				tasks = append(tasks, func() (err error) { w.BFD, err = h.StartResponder(w.Node); return err })
			}
		}
		if err := together(tasks...); err != nil {
			return err
		}
		return h.settled(ctx)
	})
}

// StartVacantHall builds a hall in whose cluster nothing is ours, and which works as users' clusters do: nodes have kubelets, which have
// imported these archives of images; pods of Deployments and DaemonSets are scheduled, and reach the API server as pods do, by Service
// default/kubernetes. Its routers watch by BFD every node that answers. It returns when the nodes are ready, and the client has sessions
// with the routers.
func StartVacantHall(ctx context.Context, progress io.Writer, archives ...string) (*Hall, error) {
	lab, err := begin(ctx, progress, true)
	if err != nil {
		return nil, err
	}
	return lab.hall(ctx, true, func(h *Hall) error {
		if err := h.serveAPI(ctx); err != nil {
			return fmt.Errorf("let pods reach the API server: %w", err)
		}
		var tasks []func() error
		for _, w := range h.Workers {
			tasks = append(tasks, func() error { return h.StartKubelet(ctx, w, archives...) })
		}
		if err := together(tasks...); err != nil {
			return err
		}
		return kubernetes.Until(ctx, "the client to know the routers", h.clientKnowsRouters)
	})
}

// hall builds what all halls have, and then more.
func (l *Lab) hall(ctx context.Context, watched bool, more func(*Hall) error) (hall *Hall, err error) {
	living, quit := context.WithCancel(context.Background())
	h := &Hall{Lab: l, Watched: watched, quit: quit}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Stop())
		}
	}()
	if h.WAN, err = l.Network.Switch("wan"); err != nil {
		return nil, err
	}
	if h.LAN, err = l.Network.Switch("lan"); err != nil {
		return nil, err
	}
	tasks := []func() error{
		func() error { return h.startClient(ctx) },
		func() error { return h.startTors(ctx) },
		func() (err error) { h.proxy, err = h.build(ctx, kubernetes.Proxy); return err },
	}
	if err := together(tasks...); err != nil {
		return nil, err
	}
	tasks = nil
	for i := range 3 {
		w := &Worker{number: i + 1, Addrs: addrs(fmt.Sprintf("10.0.0.%d", 11+i), fmt.Sprintf("2001:db8:1::%d", 11+i))}
		h.Workers = append(h.Workers, w)
		tasks = append(tasks, func() error { return h.startWorker(ctx, living, w) })
	}
	if err := together(tasks...); err != nil {
		return nil, err
	}
	return h, more(h)
}

// apiServer is a host of the LAN where the API server is reached.
var apiServer = netip.MustParseAddrPort("10.0.0.100:6443")

// serveAPI adds that host, and lets Service default/kubernetes lead to it.
func (h *Hall) serveAPI(ctx context.Context) error {
	host, err := h.LAN.Host("control-plane", netip.PrefixFrom(apiServer.Addr(), 24).String())
	if err != nil {
		return err
	}
	if err := host.Relay(apiServer.String(), h.server); err != nil {
		return err
	}
	for _, w := range h.Workers {
		if err := host.IP("route", "add", netip.PrefixFrom(w.pod(0).v4, 24).String(), "via", w.Addrs.v4.String()); err != nil {
			return err
		}
	}
	name, port, ready := "https", int32(apiServer.Port()), true
	_, err = h.API.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{apiServer.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}, metav1.CreateOptions{})
	return err
}

// together does several things at once.
func together(tasks ...func() error) error {
	errs := make([]error, len(tasks))
	var all sync.WaitGroup
	for i, task := range tasks {
		all.Go(func() { errs[i] = task() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Stop ends everything.
func (h *Hall) Stop() error {
	h.quit()
	h.pings.Wait()
	var errs []error
	for _, c := range h.Controllers {
		errs = append(errs, c.Err(), c.Stop(20*time.Second))
	}
	return errors.Join(append(errs, h.Lab.Stop())...)
}

// share lets a host with several ways to a network choose by the addresses and ports of a connection. All namespaces of a machine have
// the same hash function, so each gets a seed of its own: or those connections that the client sends to a router, because their hash is
// in its half, would all be in the same half of the router's choice (which needs Linux 6.11).
func share(host *network.Namespace, seed int) error {
	for name, value := range map[string]string{
		"net/ipv4/fib_multipath_hash_policy": "1", "net/ipv6/fib_multipath_hash_policy": "1",
		"net/ipv4/fib_multipath_hash_seed": fmt.Sprint(seed),
	} {
		if err := host.Sysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

// startClient starts the client: a host with addresses of its own, which it announces, and BIRD, which learns the ways to Services.
func (h *Hall) startClient(ctx context.Context) error {
	host, err := h.WAN.Host("client", clientWAN.on(24, 64)...)
	if err != nil {
		return err
	}
	if err := errors.Join(host.Addresses("lo", clientOwn.on(32, 128)...), share(host, 1)); err != nil {
		return err
	}
	var config strings.Builder
	fmt.Fprintf(&config, "router id %s;\n", clientWAN.v4)
	for _, family := range []struct {
		name     string
		own, wan netip.Addr
		routers  []netip.Addr
	}{
		{"ipv4", clientOwn.v4, clientWAN.v4, []netip.Addr{torWAN[0].v4, torWAN[1].v4}},
		{"ipv6", clientOwn.v6, clientWAN.v6, []netip.Addr{torWAN[0].v6, torWAN[1].v6}},
	} {
		fmt.Fprintf(&config, `
protocol static {
  %[1]s;
  route %[2]s blackhole;  # the client's own address
}
protocol kernel {
  %[1]s {
    import none;
    export filter { if source != RTS_BGP then reject; krt_prefsrc = %[3]s; accept; };
  };
  merge paths on limit 16;
}
`, family.name, netip.PrefixFrom(family.own, family.own.BitLen()), family.own)
		for i, router := range family.routers {
			fmt.Fprintf(&config, `
protocol bgp tor_%c_%s {
  local %s as %d;
  neighbor %s as %d;
  hold time 3;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  # Without these, BIRD keeps the routes of a router that is silent for two minutes, in the hope that it restarts.
  graceful restart off;
  long lived graceful restart off;
  %[2]s { import all; export where source = RTS_STATIC; };
}
`, 'a'+i, family.name, family.wan, clientASN, router, torASN)
		}
	}
	if h.Client, err = host.BIRD(ctx, config.String()); err != nil {
		return err
	}
	h.client = inside(host)
	return nil
}

// inside connects from a namespace, each time anew: each time from another port.
func inside(ns *network.Namespace) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return ns.Dial(ctx, addr) },
	}}
}

// startTors starts the routers. To what the documentation shows they add the client, who gets what the pools' filters let in.
func (h *Hall) startTors(ctx context.Context) error {
	var hosts []*network.Namespace
	for i := range torLAN {
		host, err := h.LAN.Host(fmt.Sprintf("tor-%c", 'a'+i), torLAN[i].on(24, 64)...)
		if err != nil {
			return err
		}
		if err := errors.Join(h.WAN.Plug(host, torWAN[i].on(24, 64)...), share(host, 2+i)); err != nil {
			return err
		}
		hosts = append(hosts, host)
	}
	var nodes, bfdd [2][]string // what BFD takes: lines for the nodes, and of its own
	if h.Watched {
		nodes = [2][]string{{"neighbor nodes bfd profile quick"}, {"bfd on;"}}
		for i, word := range []string{"frr bfd", "bird bfd"} {
			block, err := h.documented(word)
			if err != nil {
				return err
			}
			bfdd[i] = []string{block}
		}
	}
	frr, err := h.documented("frr", nodes[0]...)
	if err != nil {
		return err
	}
	frr += fmt.Sprintf(`
ip prefix-list client seq 10 permit %[1]s/32
ipv6 prefix-list client-v6 seq 10 permit %[2]s/128
bgp community-list standard vpn-only seq 10 permit 1234:1
route-map to-client deny 10
 match community vpn-only
route-map to-client permit 20
router bgp %[5]d
 neighbor client peer-group
 neighbor client remote-as %[6]d
 neighbor client passive
 neighbor client timers 1 3
 neighbor %[3]s peer-group client
 neighbor %[4]s peer-group client
 address-family ipv4 unicast
  no neighbor %[4]s activate
  neighbor client prefix-list client in
  neighbor client prefix-list pools out
  neighbor client route-map to-client out
 exit-address-family
 address-family ipv6 unicast
  neighbor %[4]s activate
  neighbor client prefix-list client-v6 in
  neighbor client prefix-list pools-v6 out
  neighbor client route-map to-client out
 exit-address-family
`, clientOwn.v4, clientOwn.v6, clientWAN.v4, clientWAN.v6, torASN, clientASN)
	bird, err := h.documented("bird", nodes[1]...)
	if err != nil {
		return err
	}
	bird += strings.Join(bfdd[1], "")
	bird = strings.ReplaceAll(bird, torLAN[0].v4.String(), torLAN[1].v4.String())
	for _, family := range []struct {
		name            string
		own, wan, local netip.Addr
		pool            string
	}{
		{"ipv4", clientOwn.v4, clientWAN.v4, torWAN[1].v4, "192.168.10.0/24+"},
		{"ipv6", clientOwn.v6, clientWAN.v6, torWAN[1].v6, "2001:db8:10::/64+"},
	} {
		bird += fmt.Sprintf(`
protocol bgp client_%s {
  local %s as %d;
  neighbor %s as %d;
  passive on;
  hold time 3;
  error wait time 1, 2;
  %[1]s { import where net = %[6]s; export where net ~ [ %[7]s ] && !((1234, 1) ~ bgp_community); };
}
`, family.name, family.local, torASN, family.wan, clientASN, netip.PrefixFrom(family.own, family.own.BitLen()), family.pool)
	}
	return together(
		func() (err error) { h.TorA, err = hosts[0].FRR(ctx, frr, bfdd[0]...); return err },
		func() (err error) { h.TorB, err = hosts[1].BIRD(ctx, bird); return err },
	)
}

func workerName(number int) string { return fmt.Sprintf("node-%c", 'a'+number-1) }

// startWorker starts a node, and everything on it.
func (h *Hall) startWorker(ctx, living context.Context, w *Worker) error {
	host, err := h.LAN.Host(workerName(w.number), w.Addrs.on(24, 64)...)
	if err != nil {
		return err
	}
	// Of a connection that routers moved here, the node knows nothing. It would begin to track the rest of it as not for a Service,
	// and send a new connection from the same port back to the routers.
	untracked := host.Sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")
	if err := errors.Join(host.Forward(), share(host, 10+w.number), untracked, h.gateways(living, host)); err != nil {
		return err
	}
	for _, other := range h.Workers {
		if other == w {
			continue
		}
		to := other.pod(0)
		if err := errors.Join(
			host.IP("route", "add", netip.PrefixFrom(to.v4, 24).String(), "via", other.Addrs.v4.String()),
			host.IP("route", "add", netip.PrefixFrom(to.v6, 64).String(), "via", other.Addrs.v6.String()),
		); err != nil {
			return err
		}
	}
	if w.Node, err = h.AddNode(ctx, host, w.Addrs.v4, w.Addrs.v6); err != nil {
		return err
	}
	return h.StartProxy(w)
}

// proxyHealth is where kube-proxy says that it has written its rules.
const proxyHealth = "http://127.0.0.1:10256/healthz"

// StartProxy starts the kube-proxy of a node.
func (h *Hall) StartProxy(w *Worker) (err error) {
	name := fmt.Sprintf("kube-proxy-%d", w.number)
	w.Proxy, err = w.Host.Start(kubernetes.Program{
		Name: name, Binary: h.proxy,
		Args: []string{
			"--kubeconfig=" + h.Cluster.KubeconfigOf(proxyUser), "--hostname-override=" + w.Name,
			"--proxy-mode=nftables", "--cluster-cidr=" + podNetwork4 + "," + podNetwork6,
			"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
			// What limits connections is the machine's, and cannot be changed from inside a namespace.
			"--conntrack-max-per-core=0",
		},
		Log: filepath.Join(h.Network.Dir, name+".log"),
	})
	return err
}

// StartController starts our controller manager, on the host's loopback interface. A second one waits for the first to end.
func (h *Hall) StartController(ctx context.Context, more ...string) (*kubernetes.Process, error) {
	const program = "metallb-cloud-controller-manager"
	binary, err := h.built(program)
	if err != nil {
		return nil, err
	}
	port, err := kubernetes.FreePort()
	if err != nil {
		return nil, err
	}
	h.controllers++
	name := fmt.Sprintf("%s-%d", program, h.controllers)
	controller, err := kubernetes.Program{
		Name: name, Binary: binary, Args: append(loopback.ControllerArgs(h.Cluster.KubeconfigOf(controllerUser), port), more...),
		Log: filepath.Join(h.Network.Dir, name+".log"),
	}.Start()
	if err != nil {
		return nil, err
	}
	h.Controllers = append(h.Controllers, controller)
	return controller, controller.Until(ctx, "it serves", func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Replace does after an outage of the API server what a Deployment does: a controller manager that could not renew its Lease for so long
// that it ended gets a successor. It returns when one has renewed the Lease since the call.
func (h *Hall) Replace(ctx context.Context) error {
	began := time.Now()
	return kubernetes.Until(ctx, "a controller manager to lead again", func(ctx context.Context) error {
		for i, c := range h.Controllers {
			if c.Err() == nil {
				continue
			}
			h.Controllers, h.Ended = slices.Delete(h.Controllers, i, i+1), append(h.Ended, c)
			_, err := h.StartController(ctx)
			return errors.Join(fmt.Errorf("%s ended in the outage", c.Name), err)
		}
		lease, err := h.API.CoordinationV1().Leases(configNamespace).Get(ctx, "metallb-controller", metav1.GetOptions{})
		if err == nil && (lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(began)) {
			err = errors.New("nobody has renewed the Lease")
		}
		return err
	})
}

const (
	configNamespace = "metallb-system"
	configName      = "config"
)

// Configure writes the user's configuration. The controller manager decides what becomes of it.
func (h *Hall) Configure(ctx context.Context, text string) error {
	configMaps := h.API.CoreV1().ConfigMaps(configNamespace)
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: configNamespace, Name: configName}, Data: map[string]string{"config": text},
	}
	_, err := configMaps.Update(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
	}
	return err
}

// settled waits until the configuration is in force and everybody has heard everything.
func (h *Hall) settled(ctx context.Context) error {
	return kubernetes.Until(ctx, "everybody to know everybody", func(ctx context.Context) error {
		admitted, err := h.API.CoreV1().ConfigMaps(configNamespace).Get(ctx, configName+"-admitted", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := admitted.Data["config"]; got != h.Config() {
			return fmt.Errorf("in force is\n%s", got)
		}
		var nodes []netip.Addr
		for _, w := range h.Workers {
			nodes = append(nodes, w.Addrs.v4)
		}
		return errors.Join(acquainted(ctx, h.TorA, nodes...), acquainted(ctx, h.TorB, nodes...), h.clientKnowsRouters(ctx), h.watched(ctx))
	})
}

// watched returns an error unless both routers and all nodes hear each other by BFD, where that is so in this hall.
func (h *Hall) watched(ctx context.Context) error {
	if !h.Watched {
		return nil
	}
	frr, err := h.TorA.Show(ctx, "show bfd peers")
	if err != nil {
		return err
	}
	bird, err := h.TorB.Show(ctx, "show", "bfd", "sessions")
	if err != nil {
		return err
	}
	for _, w := range h.Workers {
		if _, node, _ := strings.Cut(frr, "peer "+w.Addrs.v4.String()+" "); !strings.Contains(strings.SplitN(node, "peer ", 2)[0], "Status: up") {
			return fmt.Errorf("%s does not hear %s by BFD:\n%s", h.TorA, w.Name, frr)
		}
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(w.Addrs.v4.String()) + ` +\S+ +Up `).MatchString(bird) {
			return fmt.Errorf("%s does not hear %s by BFD:\n%s", h.TorB, w.Name, bird)
		}
	}
	return nil
}

func (h *Hall) clientKnowsRouters(ctx context.Context) error {
	var errs []error
	for _, tor := range torWAN {
		errs = append(errs, acquainted(ctx, h.Client, tor.v4, tor.v6))
	}
	return errors.Join(errs...)
}

// acquainted returns an error unless a router has complete sessions with these neighbors.
func acquainted(ctx context.Context, router network.Router, neighbors ...netip.Addr) error {
	for _, neighbor := range neighbors {
		if s, err := router.Session(ctx, neighbor); err != nil {
			return err
		} else if !s.Complete {
			return fmt.Errorf("%s has with %s the session %+v", router, neighbor, s)
		}
	}
	return nil
}

// Serve creates a Service in the namespace default, and returns its addresses when it has so many.
func (h *Hall) Serve(ctx context.Context, svc *corev1.Service, addresses int) ([]netip.Addr, error) {
	services := h.API.CoreV1().Services(metav1.NamespaceDefault)
	if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("service %s: %w", svc.Name, err)
	}
	var found []netip.Addr
	err := kubernetes.Until(ctx, fmt.Sprintf("%d addresses of service %s", addresses, svc.Name), func(ctx context.Context) error {
		now, err := services.Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		found = nil
		for _, ingress := range now.Status.LoadBalancer.Ingress {
			addr, err := netip.ParseAddr(ingress.IP)
			if err != nil {
				return err
			}
			found = append(found, addr)
		}
		if len(found) != addresses {
			return fmt.Errorf("it has %v", found)
		}
		return nil
	})
	return found, err
}

// RouteTo waits until the client has ways to an address over both routers, and each of these has ways to exactly these nodes; without
// nodes, until nobody has any.
func (h *Hall) RouteTo(ctx context.Context, addr netip.Addr, nodes ...*Worker) error {
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	pick := func(a addresses) netip.Addr {
		if addr.Is4() {
			return a.v4
		}
		return a.v6
	}
	want := map[network.Router]map[netip.Addr]bool{h.Client: {}, h.TorA: {}, h.TorB: {}}
	for _, w := range nodes {
		want[h.TorA][pick(w.Addrs)], want[h.TorB][pick(w.Addrs)] = true, true
	}
	for _, tor := range torWAN {
		if len(nodes) > 0 {
			want[h.Client][pick(tor)] = true
		}
	}
	return kubernetes.Until(ctx, fmt.Sprintf("ways to %s", addr), func(ctx context.Context) error {
		for router, wanted := range want {
			routes, err := router.Routes(ctx)
			if err != nil {
				return err
			}
			got := map[netip.Addr]bool{}
			for _, hop := range routes[prefix] {
				got[hop.Via] = true
			}
			if !maps.Equal(got, wanted) {
				return fmt.Errorf("%s has %v instead of %v", router, routes[prefix], slices.Collect(maps.Keys(wanted)))
			}
		}
		return nil
	})
}

// Reachable waits until there are ways to a Service as in RouteTo, and pods answer on them.
func (h *Hall) Reachable(ctx context.Context, target netip.AddrPort, nodes ...*Worker) error {
	if err := h.RouteTo(ctx, target.Addr(), nodes...); err != nil {
		return err
	}
	// kube-proxy writes its rules once a second at most, so routes come first. Until then a node sends what it gets to its default
	// router, which sends it to a node, until the TTL is over or another node knows better. So many answers in a row mean that all know.
	answers := 0
	return kubernetes.Until(ctx, fmt.Sprintf("%s to answer", target), func(ctx context.Context) error {
		for ; answers < 100; answers++ {
			if _, err := h.Get(ctx, target); err != nil {
				answers = 0
				return err
			}
		}
		return nil
	})
}
