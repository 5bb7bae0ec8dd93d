package datacentre

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

const (
	local   = corev1.ServiceExternalTrafficPolicyLocal
	cluster = corev1.ServiceExternalTrafficPolicyCluster
)

// startHall brings up a hall for one test. At its end, nothing may have been forbidden, and nobody may have crashed.
func startHall(t *testing.T) *Hall { return hallOf(t, StartHall) }

// hallOf is startHall for a hall that is started otherwise.
func hallOf(t *testing.T, start func(context.Context, io.Writer) (*Hall, error)) *Hall {
	t.Helper()
	needNetwork(t)
	began := time.Now()
	h := made(start(t.Context(), t.Output()))(t)
	t.Logf("the hall came up in %v", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		var ours []*kubernetes.Process
		for _, w := range h.Workers {
			ours = append(ours, w.Speaker, w.Proxy)
			if w.BFD != nil {
				ours = append(ours, w.BFD)
			}
		}
		for _, p := range slices.Concat(ours, h.Controllers, h.Ended) {
			for _, bad := range []string{"DATA RACE", "panic: "} {
				if strings.Contains(p.Output(), bad) {
					t.Errorf("%s: %s", p.Name, bad)
				}
			}
			if t.Failed() {
				lines := strings.Split(p.Output(), "\n")
				t.Logf("the end of the log of %s:\n%s", p.Name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
			}
		}
		nothingForbidden(t, h.Lab, speakerUser, controllerUser, proxyUser)
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// visits are connections of the client, and what came of each.
type visits []Answer

// visit asks an address n times, each time over a new connection.
func (h *Hall) visit(t *testing.T, target netip.AddrPort, n int) (all visits) {
	t.Helper()
	for range n {
		all = append(all, made(h.Get(t.Context(), target))(t))
	}
	return all
}

// count counts visits by something.
func (v visits) count(by func(Answer) string) map[string]int {
	counts := map[string]int{}
	for _, a := range v {
		counts[by(a)]++
	}
	return counts
}

// every lists what visits differ in.
func (v visits) every(by func(Answer) string) string {
	return strings.Join(slices.Sorted(maps.Keys(v.count(by))), " ")
}

func byNode(a Answer) string   { return a.Node }
func byPod(a Answer) string    { return a.Pod }
func byClient(a Answer) string { return a.Client.String() }

// expose creates a Service of the pods with its label app, and returns its addresses, when it has as many as wanted.
func (h *Hall) expose(t *testing.T, app string, addresses int, change func(*corev1.Service)) []netip.Addr {
	t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: app, Annotations: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(PodPort)}},
		},
	}
	if addresses == 2 {
		both := corev1.IPFamilyPolicyRequireDualStack
		svc.Spec.IPFamilyPolicy = &both
	}
	change(svc)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return made(h.Serve(ctx, svc, addresses))(t)
}

// admit writes the user's configuration, and waits until it is in force.
func (h *Hall) admit(t *testing.T, text string) {
	t.Helper()
	must(t, h.Configure(t.Context(), text))
	eventually(t, "the configuration to be admitted", func(ctx context.Context) error {
		stored, err := h.API.CoreV1().ConfigMaps(configNamespace).Get(ctx, configName+"-admitted", metav1.GetOptions{})
		if err == nil && stored.Data["config"] != text {
			err = fmt.Errorf("in force is %q", stored.Data["config"])
		}
		return err
	})
}

// reaches waits until both routers know the ways to an address, and it answers.
func (h *Hall) reaches(t *testing.T, target netip.AddrPort, workers ...*Worker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, h.Reachable(ctx, target, workers...))
}

func tcp(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

func (h *Hall) run(t *testing.T, w *Worker, name, app string) *Pod {
	t.Helper()
	return made(h.RunPod(t.Context(), w, name, map[string]string{"app": app}))(t)
}

// What a client sees of addresses, through real routers, kube-proxy and pods.
func TestAClientReachesServicesThroughRoutersAndNodes(t *testing.T) {
	t.Parallel()
	h := startHall(t)
	a, b, c := h.Workers[0], h.Workers[1], h.Workers[2]
	nodeAddrs := map[string]bool{}
	for _, w := range h.Workers {
		nodeAddrs[w.Addrs.v4.String()], nodeAddrs[w.Addrs.v6.String()] = true, true
	}
	clientAddr := func(target netip.Addr) string {
		if target.Is4() {
			return clientOwn.v4.String()
		}
		return clientOwn.v6.String()
	}

	t.Run("Cluster policy attracts to every node and hides the client", func(t *testing.T) {
		h.run(t, a, "cluster-1", "cluster")
		h.run(t, b, "cluster-2", "cluster")
		for _, addr := range h.expose(t, "cluster", 2, func(*corev1.Service) {}) {
			h.reaches(t, tcp(addr, 80), a, b, c)
			all := h.visit(t, tcp(addr, 80), 100)
			if got := all.every(byPod); got != "cluster-1 cluster-2" {
				t.Errorf("%s: the pods %s answered", addr, got)
			}
			// A node hides the client behind an address of its own: on the LAN for pods of others, towards its own pods for those.
			var others int
			for client, n := range all.count(byClient) {
				if client == clientAddr(addr) {
					t.Errorf("%s: %d times, pods saw the client itself", addr, n)
				}
				if nodeAddrs[client] {
					others += n
				}
			}
			if others == 0 {
				t.Errorf("%s: no node sent anything to another's pod: pods saw %v", addr, all.count(byClient))
			}
		}
	})

	t.Run("Local policy attracts to nodes with pods and keeps the client", func(t *testing.T) {
		h.run(t, a, "local-1", "local")
		h.run(t, b, "local-2", "local")
		last := h.run(t, b, "local-3", "local")
		addrs := h.expose(t, "local", 2, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })
		for _, addr := range addrs {
			h.reaches(t, tcp(addr, 80), a, b)
			all := h.visit(t, tcp(addr, 80), 100)
			if got := all.every(byPod); got != "local-1 local-2 local-3" {
				t.Errorf("%s: the pods %s answered", addr, got)
			}
			if got := all.every(byClient); got != clientAddr(addr) {
				t.Errorf("%s: pods saw the clients %s", addr, got)
			}
		}
		// The conversation is of one pod, whatever happens to others.
		talk := made(h.Converse(t.Context(), tcp(addrs[0], 80)))(t)
		defer talk.Close()
		first := made(talk.Ask(patience))(t)
		must(t, last.SetReady(t.Context(), false))
		other := h.run(t, c, "local-4", "local")
		for _, addr := range addrs {
			h.reaches(t, tcp(addr, 80), a, b, c)
		}
		must(t, other.Delete(t.Context()))
		for _, addr := range addrs {
			h.reaches(t, tcp(addr, 80), a, b)
		}
		if got := h.visit(t, tcp(addrs[0], 80), 50).every(byPod); got != "local-1 local-2" {
			t.Errorf("the pods %s answered, of which only local-1 and local-2 are ready", got)
		}
		must(t, other.Remove(t.Context()))
		if again, err := talk.Ask(patience); err != nil || again != first {
			t.Errorf("it began with %v, and now is with %v: %v", first, again, err)
		}
	})

	t.Run("the last pod serves while it ends", func(t *testing.T) {
		pod := h.run(t, c, "last-1", "last")
		addr := h.expose(t, "last", 1, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })[0]
		h.reaches(t, tcp(addr, 80), c)
		must(t, pod.Delete(t.Context()))
		eventually(t, "the endpoint to terminate", func(ctx context.Context) error {
			ofLast := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=last"}
			endpoints, err := h.API.DiscoveryV1().EndpointSlices("default").List(ctx, ofLast)
			if err != nil {
				return err
			}
			for _, slice := range endpoints.Items {
				for _, e := range slice.Endpoints {
					if *e.Conditions.Terminating && *e.Conditions.Serving {
						return nil
					}
				}
			}
			return fmt.Errorf("there is %v", endpoints.Items)
		})
		if got := h.visit(t, tcp(addr, 80), 50).every(byPod); got != pod.Name {
			t.Errorf("the pods %s answered", got)
		}
		h.reaches(t, tcp(addr, 80), c)
		must(t, pod.Remove(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, h.RouteTo(ctx, addr))
	})

	t.Run("without weights nodes share alike, with weights as their pods are", func(t *testing.T) {
		for i, w := range []*Worker{a, a, b} {
			h.run(t, w, fmt.Sprintf("plain-%d", i+1), "plain")
			h.run(t, w, fmt.Sprintf("heavy-%d", i+1), "heavy")
		}
		plain := h.expose(t, "plain", 1, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })[0]
		heavy := h.expose(t, "heavy", 2, func(svc *corev1.Service) {
			svc.Spec.ExternalTrafficPolicy = local
			svc.Annotations["metallb.universe.tf/address-pool"] = "weighted"
		})
		const n = 900
		for _, c := range []struct {
			name   string
			target netip.Addr
			want   float64 // node-a's part
		}{
			{"without weights", plain, 1. / 2}, {"with weights", heavy[0], 2. / 3}, {"with weights, IPv6", heavy[1], 2. / 3},
		} {
			h.reaches(t, tcp(c.target, 80), a, b)
			// A speaker that saw one pod before the other sends the second weight later.
			for _, tor := range []network.Router{h.TorA, h.TorB} {
				eventually(t, fmt.Sprintf("the weights of %s %s", tor, c.name), func(ctx context.Context) error {
					routes, err := tor.Routes(ctx)
					if err != nil {
						return err
					}
					hops := routes[netip.PrefixFrom(c.target, c.target.BitLen())] // node-a's first; FRR makes percentages of weights
					if len(hops) != 2 {
						return fmt.Errorf("it has %v", hops)
					}
					if part := float64(hops[0].Weight) / float64(hops[0].Weight+hops[1].Weight); part < c.want-0.02 || part > c.want+0.02 {
						return fmt.Errorf("it has %v", hops)
					}
					return nil
				})
			}
			all := h.visit(t, tcp(c.target, 80), n)
			got := float64(all.count(byNode)["node-a"]) / n
			t.Logf("%s: node-a had %.3f of %d connections, pods %v", c.name, got, n, all.count(byPod))
			// Five standard deviations are 0.083 and 0.079; the two expectations are 0.167 apart.
			if got < c.want-0.083 || got > c.want+0.083 {
				t.Errorf("%s: node-a had %.3f of the connections instead of about %.3f", c.name, got, c.want)
			}
		}
	})

	t.Run("a specific address", func(t *testing.T) {
		h.run(t, c, "specific-1", "specific")
		want := netip.MustParseAddr("192.168.10.33")
		if got := h.expose(t, "specific", 1, func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = want.String() })[0]; got != want {
			t.Fatalf("got %s", got)
		}
		h.reaches(t, tcp(want, 80), a, b, c)
		if got := h.visit(t, tcp(want, 80), 20).every(byPod); got != "specific-1" {
			t.Errorf("the pods %s answered", got)
		}
	})

	t.Run("a pool that is for the VPN only is kept from everybody else by the routers, which read its community", func(t *testing.T) {
		pod := h.run(t, a, "sandbox-1", "sandbox")
		fromPool := func(pool string) func(*corev1.Service) {
			return func(svc *corev1.Service) { svc.Annotations["metallb.universe.tf/address-pool"] = pool }
		}
		addr := h.expose(t, "sandbox", 1, fromPool("sandbox"))[0]
		target := tcp(addr, 80)
		eventually(t, "the routers to have the way", func(ctx context.Context) error {
			for _, tor := range []network.Router{h.TorA, h.TorB} {
				if routes, err := tor.Routes(ctx); err != nil || len(routes[prefixOf(addr)]) != 3 {
					return fmt.Errorf("%s has %v, %v", tor, routes[prefixOf(addr)], err)
				}
			}
			return nil
		})
		// Somebody who sits where the VPN ends reaches it.
		eventually(t, "an answer within the VPN", func(ctx context.Context) error {
			answer, err := get(ctx, inside(h.TorA.Namespace), target)
			if err == nil && answer.Pod != pod.Name {
				err = fmt.Errorf("%v answered", answer)
			}
			return err
		})
		// What comes later has reached the client, so this would have, too.
		public := h.expose(t, "public", 1, func(svc *corev1.Service) { svc.Spec.Selector["app"] = "sandbox" })[0]
		h.reaches(t, tcp(public, 80), a, b, c)
		if routes := made(h.Client.Routes(t.Context()))(t); len(routes[prefixOf(addr)]) > 0 {
			t.Errorf("the client has the ways %v", routes[prefixOf(addr)])
		}
		if answer, err := h.Get(t.Context(), target); err == nil {
			t.Errorf("%v answered", answer)
		}
	})

	t.Run("an aggregate and its parts are announced together", func(t *testing.T) {
		h.run(t, b, "parts-1", "parts")
		addr := h.expose(t, "parts", 1, func(svc *corev1.Service) { svc.Annotations["metallb.universe.tf/address-pool"] = "aggregated" })[0]
		h.reaches(t, tcp(addr, 80), a, b, c)
		aggregate := netip.PrefixFrom(addr, 27).Masked()
		for _, r := range []network.Router{h.TorA, h.TorB, h.Client} {
			routes := made(r.Routes(t.Context()))(t)
			if len(routes[aggregate]) == 0 || len(routes[prefixOf(addr)]) == 0 {
				t.Errorf("%s has %v for %s and %v for %s", r, routes[aggregate], aggregate, routes[prefixOf(addr)], addr)
			}
		}
		must(t, h.API.CoreV1().Services("default").Delete(t.Context(), "parts", metav1.DeleteOptions{}))
		eventually(t, "both to go", func(ctx context.Context) error {
			routes, err := h.Client.Routes(ctx)
			if err == nil && len(routes[aggregate])+len(routes[prefixOf(addr)]) > 0 {
				err = fmt.Errorf("the client has %v and %v", routes[aggregate], routes[prefixOf(addr)])
			}
			return err
		})
	})

	t.Run("two Services share an address", func(t *testing.T) {
		shared := func(port int32, addr string) func(*corev1.Service) {
			return func(svc *corev1.Service) {
				svc.Annotations["metallb.universe.tf/allow-shared-ip"] = "front"
				svc.Spec.LoadBalancerIP = addr
				svc.Spec.Ports[0].Port = port
			}
		}
		h.run(t, a, "front-1", "front")
		h.run(t, b, "back-1", "back")
		addr := h.expose(t, "front", 1, shared(80, ""))[0]
		if also := h.expose(t, "back", 1, shared(8443, addr.String()))[0]; also != addr {
			t.Fatalf("the one has %s, the other %s", addr, also)
		}
		for port, pod := range map[uint16]string{80: "front-1", 8443: "back-1"} {
			h.reaches(t, tcp(addr, port), a, b, c)
			if got := h.visit(t, tcp(addr, port), 20).every(byPod); got != pod {
				t.Errorf("port %d: the pods %s answered", port, got)
			}
		}
	})

	t.Run("a second controller manager goes on where the first ended", func(t *testing.T) {
		made(h.StartController(t.Context()))(t)
		first := h.Controllers[0]
		must(t, first.Stop(patience))
		h.run(t, b, "later-1", "later")
		addr := h.expose(t, "later", 1, func(*corev1.Service) {})[0]
		h.reaches(t, tcp(addr, 80), a, b, c)
		if got := h.visit(t, tcp(addr, 80), 20).every(byPod); got != "later-1" {
			t.Errorf("the pods %s answered", got)
		}
	})

	t.Run("a router without cables is left alone until it has them again", func(t *testing.T) {
		pod := h.run(t, a, "two-ways-1", "two-ways")
		target := tcp(h.expose(t, "two-ways", 1, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })[0], 80)
		h.reaches(t, target, a)
		// ways waits until client and node use exactly these routers.
		ways := func(tors ...int) {
			t.Helper()
			eventually(t, fmt.Sprintf("ways over the routers %v", tors), func(ctx context.Context) error {
				routes, err := h.Client.Routes(ctx)
				if err != nil {
					return err
				}
				defaults, err := a.Host.Run(ctx, "ip", "route", "show", "default")
				if err != nil {
					return err
				}
				there := routes[netip.PrefixFrom(target.Addr(), 32)]
				if len(there) != len(tors) || strings.Count(defaults, "via") != len(tors) {
					return fmt.Errorf("the client has %v, the node %s", there, defaults)
				}
				for i, tor := range tors {
					if there[i].Via != torWAN[tor].v4 || !strings.Contains(defaults, "via "+torLAN[tor].v4.String()+" ") {
						return fmt.Errorf("the client has %v, the node %s", there, defaults)
					}
				}
				return nil
			})
		}
		for i, tor := range []*network.Namespace{h.TorA.Namespace, h.TorB.Namespace} {
			began := time.Now()
			must(t, errors.Join(h.WAN.Pull(tor), h.LAN.Pull(tor)))
			ways(1 - i)
			gone := time.Now()
			if got := h.visit(t, target, 50).every(byPod); got != pod.Name {
				t.Errorf("the pods %s answered", got)
			}
			back := time.Now()
			must(t, errors.Join(h.WAN.Replug(tor), h.LAN.Replug(tor)))
			ways(0, 1)
			h.reaches(t, target, a)
			t.Logf("%s: nobody used it any more after %v, and all did again %v after its cables were back", tor.Name,
				gone.Sub(began).Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
		}
	})
}
