package datacentre

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/traffic"
)

// holdTime is that of HallConfig's peers.
const holdTime = 9 * time.Second

// A calamity is a row of the failure table.
type calamity struct {
	what string
	do   func()
	// lossless: no new connection may fail.
	lossless bool
	// within bounds how long new connections may fail, in hold times; 0: not at all bounded.
	within float64
}

// quietly is how long traffic flows on after a calamity, so that what it broke late is seen as its doing.
const quietly = 3 * time.Second

// The rows of the failure table: what a client with steady traffic to a Service of the policy Local notices of each, and what the plugin
// says to somebody who asks meanwhile why the Service is reachable, or not.
func TestWhatClientsNoticeOfTheFailureTable(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	h := startHall(t)
	ctx := t.Context()
	a, b, c := h.Workers[0], h.Workers[1], h.Workers[2]
	h.run(t, a, "web-1", "web")
	second := h.run(t, b, "web-2", "web")
	addr := h.expose(t, "web", 1, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })[0]
	target := tcp(addr, 80)
	h.reaches(t, target, a, b)
	// A second controller manager waits for the first to end.
	made(h.StartController(ctx))(t)

	// A lost packet is sent again after a second, so a connection may take a while and succeed all the same, as for any client.
	h.otherPorts(t)
	flow := made(traffic.Start(h.Client.Namespace, target, traffic.Options{Rate: 100, Timeout: 3 * time.Second, Long: 10}))(t)
	wait := func(d time.Duration) { <-time.After(d) }
	routed := func(workers ...*Worker) {
		t.Helper()
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		must(t, h.RouteTo(within, addr, workers...))
	}
	restart := func(w *Worker, more ...string) {
		t.Helper()
		ended(t, w.Speaker)
		w.Speaker = made(h.StartSpeaker(w.Node, nil, append(more, "--wait-for-url="+proxyHealth)...))(t)
		h.hears(t, w)
	}
	mark := func(w *Worker, drain string) {
		t.Helper()
		made(h.API.CoreV1().Nodes().Patch(ctx, w.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"metadata":{"annotations":{"metallb.universe.tf/drain":%s}}}`, drain), metav1.PatchOptions{}))(t)
	}
	workers := []*Worker{a, b, c}
	for _, w := range workers {
		h.speakerPod(t, w.Node)
	}
	why := func(at *Worker, of *Worker, code int, says ...string) {
		t.Helper()
		h.answers(t, question{at.Host, "why web --direct --node " + of.Name, code, says})
	}
	const sent4 = "to tor-a: 192.168.10.0/32 next hop 10.0.0.1"
	refused := func(w *Worker) {
		t.Helper()
		why(c, w, 3, "intended: announced (as far as could be read)", "the speaker on node "+w.Name+" does not answer: ", "connection refused")
	}

	for _, row := range []calamity{
		{what: "nothing", do: func() {}, lossless: true},
		{what: "rolling update, from node to node", lossless: true, do: func() {
			// Each pod is replaced by one elsewhere, which is ready before, and serves while it terminates: long enough for a connection
			// whose first packet was lost on a busy machine, and came again a second later.
			next := h.run(t, c, "web-3", "web")
			routed(a, b, c)
			must(t, second.Delete(ctx))
			routed(a, c)
			why(c, b, 1, "not announced: externalTrafficPolicy is Local, and no endpoint on node node-b is ready", "withheld: ")
			wait(quietly)
			must(t, second.Remove(ctx))
			again := h.run(t, b, "web-4", "web")
			routed(a, b, c)
			must(t, next.Delete(ctx))
			routed(a, b)
			wait(quietly)
			must(t, next.Remove(ctx))
			second = again
		}},
		{what: "every speaker crashes and returns", lossless: true, do: func() {
			for _, w := range workers {
				w.Speaker.Kill()
				if w == b {
					refused(w)
				}
				restart(w, "--on-sigterm=keep")
			}
		}},
		{what: "every speaker is upgraded", lossless: true, do: func() {
			for _, w := range workers {
				must(t, w.Speaker.Signal(syscall.SIGTERM))
				if w == b {
					refused(w)
				}
				restart(w)
			}
		}},
		{what: "the leading controller manager crashes", lossless: true, do: func() {
			h.Controllers[0].Kill()
			why(c, a, 0, "sent: announced", sent4)
			h.run(t, a, "other-1", "other")
			h.expose(t, "other", 1, func(*corev1.Service) {}) // the next leader serves
		}},
		{what: "the API server is down", lossless: true, do: func() {
			must(t, h.Cluster.StopAPIServer())
			why(c, a, 3, "the API server does not answer")
			wait(quietly)
			must(t, h.Cluster.StartAPIServer(ctx))
			within, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			must(t, h.Replace(within))
		}},
		{what: "the configuration is broken", lossless: true, do: func() {
			must(t, h.Configure(ctx, "peers: []\naddress-pools:\n- {name: default, cidr: [192.168.10.0/33]}\n"))
			eventually(t, "the configuration to be refused", func(ctx context.Context) error {
				stored, err := h.API.CoreV1().ConfigMaps(configNamespace).Get(ctx, configName+"-admitted", metav1.GetOptions{})
				if err == nil && stored.Data["refused"] == "" {
					err = errors.New("it is not")
				}
				return err
			})
			why(c, a, 0, "sent: announced", sent4)
			h.answers(t, question{c.Host, "status", 1, []string{"the text is refused", "192.168.10.0/33"}})
			must(t, h.Configure(ctx, HallConfig))
		}},
		{what: "a node is drained", lossless: true, do: func() {
			mark(a, `"true"`)
			routed(b)
			why(c, a, 0, "sent: announced", "node node-a is being drained: it is annotated metallb.universe.tf/drain; routers with another path leave it", "path 42 42 42 42 [65535:0]")
			mark(a, "null")
			routed(a, b)
		}},
		{what: "a node reboots", within: 1, do: func() {
			// Everything is told to end, and nothing is deleted; then the node is gone.
			must(t, b.Speaker.Signal(syscall.SIGTERM))
			ended(t, b.Speaker)
			routed(a)
			refused(b)
			must(t, h.LAN.Pull(b.Host))
			why(c, b, 3, "the speaker on node node-b does not answer: ")
			must(t, h.LAN.Replug(b.Host))
			restart(b)
			routed(a, b)
		}},
		{what: "a node dies", within: 2, do: func() {
			must(t, h.LAN.Pull(b.Host))
			routed(a)
			why(c, b, 3, "the speaker on node node-b does not answer: ")
			// To somebody who can still ask it, it says what it knows.
			why(b, b, 1, "no session is up: tor-a (10.0.0.1) is ", "tor-b (10.0.0.2) is ")
		}},
		{what: "and returns", do: func() {
			must(t, h.LAN.Replug(b.Host))
			routed(a, b)
		}},
		{what: "a router dies", within: 2, do: func() {
			must(t, errors.Join(h.WAN.Pull(h.TorA.Namespace), h.LAN.Pull(h.TorA.Namespace)))
			eventually(t, "the client to use the other router", func(ctx context.Context) error {
				routes, err := h.Client.Routes(ctx)
				if err == nil && len(routes[prefixOf(addr)]) != 1 {
					err = fmt.Errorf("it has %v", routes[prefixOf(addr)])
				}
				return err
			})
			why(c, a, 0, "sent: announced", "up: tor-b (10.0.0.2) since ", "down: tor-a (10.0.0.1) is ")
		}},
		{what: "and is back", do: func() {
			must(t, errors.Join(h.WAN.Replug(h.TorA.Namespace), h.LAN.Replug(h.TorA.Namespace)))
			routed(a, b)
		}},
	} {
		began := flow.Mark(row.what).At
		row.do()
		wait(quietly)
		record := flow.Record().Between(began, time.Now())
		failed := record.Failed()
		switch took, over := record.Recovery(traffic.Mark{At: began}); {
		case row.lossless && len(failed) > 0:
			t.Errorf("%s: %d of %d new connections failed, first %+v", row.what, len(failed), len(record.Attempts), failed[0])
		case row.within > 0 && took > time.Duration(row.within*float64(holdTime)):
			t.Errorf("%s: new connections failed for %v", row.what, took)
		case !over:
			t.Errorf("%s: the last new connection failed: %+v", row.what, failed[len(failed)-1])
		}
		if len(record.Attempts) == 0 {
			t.Errorf("%s: there was no traffic", row.what)
		}
	}
	record := flow.Stop()
	if got := record.Clients(); len(got) != 1 || got[0] != clientOwn.v4 {
		t.Errorf("pods saw the clients %v", got)
	}
	h.forgiven = made(h.Cluster.Now(ctx))(t)

	table := record.Table().String()
	t.Logf("\n%s", table)
	report(t, "failures.txt", "What a client noticed, with 100 new connections a second to a Service of the policy Local, and ten long-lived ones:\n\n"+table)
	var picture strings.Builder
	must(t, traffic.SVG(&picture, record))
	report(t, "failures.svg", picture.String())
}

// otherPorts lets the client use ports that it has not used yet. A node remembers for two minutes that a connection came before kube-proxy
// had rules for its Service, and sends another one with the same ports back to the routers, too.
func (h *Hall) otherPorts(t *testing.T) {
	t.Helper()
	must(t, h.Client.Namespace.Sysctl("net/ipv4/ip_local_port_range", "10000 30000"))
}

// report keeps a text for people, where LAB_REPORT says.
func report(t *testing.T, name, text string) {
	t.Helper()
	folder := os.Getenv("LAB_REPORT")
	if folder == "" {
		return
	}
	must(t, os.MkdirAll(folder, 0o755))
	must(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
}

func prefixOf(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// hears waits until both routers have everything from a node's speaker.
func (h *Hall) hears(t *testing.T, w *Worker) {
	t.Helper()
	eventually(t, "the routers to hear "+w.Name, func(ctx context.Context) error {
		if !strings.Contains(w.Speaker.Output(), "Began to announce") {
			return errors.New("its speaker has said nothing yet")
		}
		if n := strings.Count(w.Speaker.Output(), "Session is up"); n < 2 {
			return fmt.Errorf("%d sessions are up", n)
		}
		return nil
	})
}
