package datacentre

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/traffic"
)

// metallbResources are what MetalLB in the hall is told.
func metallbResources(graceful bool) string {
	var b strings.Builder
	for i, tor := range torLAN {
		fmt.Fprintf(&b, `apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor-%c, namespace: metallb-system}
spec: {myASN: %d, peerASN: %d, peerAddress: %s, holdTime: 9s, connectTime: 1s, enableGracefulRestart: %v}
---
`, 'a'+i, clusterASN, torASN, tor.v4, graceful)
	}
	return b.String() + `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: default, namespace: metallb-system}
spec: {addresses: [192.168.10.0/24]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: default, namespace: metallb-system}
spec: {ipAddressPools: [default]}
`
}

// vacated starts a hall in which nothing of ours runs yet.
func vacated(ctx context.Context, progress io.Writer) (*Hall, error) {
	lab, err := Start(ctx, progress)
	if err != nil {
		return nil, err
	}
	return lab.hall(ctx, false, func(h *Hall) error {
		return kubernetes.Until(ctx, "the client to know the routers", h.clientKnowsRouters)
	})
}

// given creates a Service as MetalLB leaves it: with an address in its status, MetalLB's annotation, and no finalizer.
func (h *Hall) given(t *testing.T, app, addr string, policy corev1.ServiceExternalTrafficPolicy) netip.Addr {
	t.Helper()
	services := h.API.CoreV1().Services(metav1.NamespaceDefault)
	svc := made(services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: app, Annotations: map[string]string{"metallb.universe.tf/ip-allocated-from-pool": "default"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app}, ExternalTrafficPolicy: policy,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(PodPort)}},
		},
	}, metav1.CreateOptions{}))(t)
	made(services.Patch(t.Context(), svc.Name, types.MergePatchType, fmt.Appendf(nil, `{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, addr), metav1.PatchOptions{}, "status"))(t)
	return netip.MustParseAddr(addr)
}

// metallb stands in for MetalLB's speaker on a node: an FRR that announces these addresses, as that of MetalLB's FRR modes does.
func (h *Hall) metallb(t *testing.T, w *Worker, graceful bool, addrs ...netip.Addr) *network.FRR {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "ip prefix-list nothing seq 10 deny any\nrouter bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp network import-check\n", clusterASN, w.Addrs.v4)
	if graceful {
		b.WriteString(" bgp graceful-restart preserve-fw-state\n")
	}
	for _, tor := range torLAN {
		fmt.Fprintf(&b, " neighbor %s remote-as %d\n neighbor %[1]s timers 3 9\n neighbor %[1]s timers connect 1\n", tor.v4, torASN)
		if graceful {
			fmt.Fprintf(&b, " neighbor %s graceful-restart\n", tor.v4)
		} else {
			fmt.Fprintf(&b, " neighbor %s graceful-restart-disable\n", tor.v4)
		}
	}
	b.WriteString(" address-family ipv4 unicast\n")
	for _, addr := range addrs {
		fmt.Fprintf(&b, "  network %s\n", prefixOf(addr))
	}
	for _, tor := range torLAN {
		fmt.Fprintf(&b, "  neighbor %s prefix-list nothing in\n", tor.v4)
	}
	b.WriteString(" exit-address-family\n")
	return made(w.Host.SpeakerFRR(t.Context(), b.String()))(t)
}

// plugin runs a command of the plugin as the administrator.
func (h *Hall) plugin(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	binary := filepath.Join(cmp.Or(os.Getenv("LAB_BIN"), filepath.Join(h.root, "bin")), "kubectl-metallb")
	cmd := exec.CommandContext(t.Context(), binary, append(args, "--kubeconfig="+h.Cluster.Kubeconfig)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// From MetalLB to us and back, node by node, under traffic: no Service changes its address, and nothing is announced anew where
// MetalLB's sessions have graceful restart. Without it, as in its native mode, the node's routes go and come back, and connections over
// other nodes do not notice.
func TestServicesAndRoutersMoveFromMetalLBAndBack(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	for name, graceful := range map[string]bool{"FRR with graceful restart": true, "native, without": false} {
		t.Run(name, func(t *testing.T) { moveAndReturn(t, graceful) })
	}
}

func moveAndReturn(t *testing.T, graceful bool) {
	h := hallOf(t, vacated)
	ctx := t.Context()
	a, b, c := h.Workers[0], h.Workers[1], h.Workers[2]
	h.run(t, a, "web-1", "web")
	h.run(t, b, "web-2", "web")
	h.run(t, c, "shop-1", "shop")
	h.run(t, a, "shop-2", "shop")
	web, shop := h.given(t, "web", "192.168.10.7", local), h.given(t, "shop", "192.168.10.200", cluster)
	standIns := map[*Worker]*network.FRR{a: h.metallb(t, a, graceful, web, shop), b: h.metallb(t, b, graceful, web, shop), c: h.metallb(t, c, graceful, shop)}
	h.reaches(t, tcp(web, 80), a, b)
	h.reaches(t, tcp(shop, 80), a, b, c)

	h.otherPorts(t)
	flows := map[string]*traffic.Traffic{}
	for name, addr := range map[string]netip.Addr{"web": web, "shop": shop} {
		flows[name] = made(traffic.Start(h.Client.Namespace, tcp(addr, 80), traffic.Options{Rate: 50, Timeout: 3 * time.Second, Long: 10}))(t)
	}
	recorders := record(t, h.TorA, h.TorB)
	addresses := func() string {
		all := map[string]string{}
		for _, svc := range made(h.API.CoreV1().Services(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{}))(t).Items {
			if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
				for _, ingress := range svc.Status.LoadBalancer.Ingress {
					all[svc.Name] += ingress.IP + " "
				}
			}
		}
		return fmt.Sprint(all)
	}
	before := addresses()
	step := func(what string, lossless bool, do func()) {
		t.Helper()
		began, seen := time.Now(), map[network.Router]int{}
		for router, recorder := range recorders {
			seen[router] = len(events(t, recorder, 0))
		}
		do()
		<-time.After(quietly)
		for _, name := range slices.Sorted(maps.Keys(flows)) {
			record := flows[name].Record().Between(began, time.Now())
			failed, broken := record.Failed(), record.Broken()
			t.Logf("%s: %s: %d of %d new connections failed, %d of %d long ones broke", what, name, len(failed), len(record.Attempts), len(broken), len(record.Long))
			// That a long one broke is noticed late, perhaps in the next step.
			if lossless && len(failed) > 0 || graceful && len(broken) > 0 {
				t.Errorf("%s: connections to %s failed: new %+v, long %+v", what, name, failed, broken)
			}
			if len(record.Attempts) == 0 {
				t.Errorf("%s: there was no traffic to %s", what, name)
			}
			if took, over := record.Recovery(traffic.Mark{At: began}); !over || took > holdTime {
				t.Errorf("%s: new connections to %s failed for %v", what, name, took)
			}
		}
		if now := addresses(); now != before {
			t.Errorf("%s: Services had %s, and have %s", what, before, now)
		}
		for router, recorder := range recorders {
			if all := events(t, recorder, seen[router]); lossless && len(all) > 0 {
				t.Errorf("%s: %s changed %d routes, first %s", what, router, len(all), all[0])
			}
		}
	}

	folder := t.TempDir()
	resources := filepath.Join(folder, "metallb.yaml")
	must(t, os.WriteFile(resources, []byte(metallbResources(graceful)), 0o600))
	if _, errs, code := h.plugin(t, "dump", filepath.Join(folder, "dump")); code != 0 {
		t.Fatalf("dump ended with %d: %s", code, errs)
	}
	mode := map[bool]string{true: "frr", false: "native"}[graceful]
	text, said, code := h.plugin(t, "migrate", "metallb", resources, "--dump="+filepath.Join(folder, "dump"), "--mode="+mode)
	for _, want := range []string{"keeps 192.168.10.7\n", "keeps 192.168.10.200\n", "node-a  tor-a  2      -     -      -\n", "node-c  tor-b  1      -     -      -\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("the report lacks %q:\n%s", want, said)
		}
	}
	if code != 2 || text == "" { // of the port in FRR mode, and of graceful restart in native mode
		t.Fatalf("migrate ended with %d:\n%s", code, said)
	}

	step("the configuration is judged, and Services are left alone", true, func() {
		must(t, h.Configure(ctx, text))
		made(h.StartController(ctx, "--load-balancer-class-only"))(t)
		eventually(t, "the configuration to be admitted", func(ctx context.Context) error {
			stored, err := h.API.CoreV1().ConfigMaps(configNamespace).Get(ctx, configName+"-admitted", metav1.GetOptions{})
			if err == nil && stored.Data["config"] != text {
				err = fmt.Errorf("in force is %q", stored.Data["config"])
			}
			return err
		})
	})
	served := func(ctx context.Context) error {
		list, err := h.API.CoreV1().Services(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, svc := range list.Items {
			if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && len(svc.Finalizers) == 0 {
				return fmt.Errorf("nobody serves %s yet", svc.Name)
			}
		}
		return nil
	}
	if served(ctx) == nil {
		t.Error("a controller manager for Services with a class has touched one without")
	}
	step("our controller manager takes over the Services", true, func() {
		door := h.Controllers[0]
		must(t, door.Signal(syscall.SIGTERM))
		ended(t, door)
		made(h.StartController(ctx))(t)
		eventually(t, "the Services to be served", served)
	})
	for _, w := range h.Workers {
		step("our speaker takes over "+w.Name, graceful, func() {
			standIns[w].KillBGP()
			// As if its Pod were deleted because the Node lost its label.
			w.Speaker = made(h.StartSpeaker(w.Node, nil, "--on-sigterm=keep", "--wait-for-url="+proxyHealth))(t)
			h.hears(t, w)
		})
	}
	for _, w := range h.Workers {
		step("MetalLB's speaker takes back "+w.Name, graceful, func() {
			must(t, w.Speaker.Signal(syscall.SIGTERM))
			ended(t, w.Speaker)
			must(t, standIns[w].StartBGP(ctx))
			eventually(t, "the routers to know it again", func(ctx context.Context) error {
				for _, router := range []network.Router{h.TorA, h.TorB} {
					if s, err := router.Session(ctx, w.Addrs.v4); err != nil || !s.Up {
						return fmt.Errorf("%s has with %s the session %+v: %v", router, w.Name, s, err)
					}
				}
				return nil
			})
			within, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			must(t, errors.Join(h.RouteTo(within, web, a, b), h.RouteTo(within, shop, a, b, c)))
		})
	}
	step("our controller manager ends", true, func() {
		must(t, h.Controllers[1].Signal(syscall.SIGTERM))
		ended(t, h.Controllers[1])
	})
	for _, flow := range flows {
		flow.Stop()
	}
	// Asked to end, BIRD 2.0.12 waits here for its dynamic neighbors forever: seen after one neighbor had been two programs.
	h.TorB.Kill()
}
