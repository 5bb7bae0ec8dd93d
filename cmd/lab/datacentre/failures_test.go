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
	// within bounds how long new connections may fail; 0: not at all bounded.
	within time.Duration
}

// quietly is how long traffic flows on after a calamity, so that what it broke late is seen as its doing.
const quietly = 3 * time.Second

func wait(d time.Duration) { <-time.After(d) }

// A drill is a hall with steady traffic to a Service of the policy Local, which has a pod on each of two nodes.
type drill struct {
	*Hall
	t       *testing.T
	addr    netip.Addr
	a, b, c *Worker // pods are on a and b
	second  *Pod    // that on b
	flow    *traffic.Traffic
	away    func(*Worker) // asks about a node whose speaker is away; nil: nobody does
}

func (h *Hall) drill(t *testing.T) *drill {
	t.Helper()
	d := &drill{Hall: h, t: t, a: h.Workers[0], b: h.Workers[1], c: h.Workers[2]}
	h.run(t, d.a, "web-1", "web")
	d.second = h.run(t, d.b, "web-2", "web")
	d.addr = h.expose(t, "web", 1, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })[0]
	h.reaches(t, tcp(d.addr, 80), d.a, d.b)
	// A lost packet is sent again after a second, so a connection may take a while and succeed all the same, as for any client.
	h.otherPorts(t)
	d.flow = made(traffic.Start(h.Client.Namespace, tcp(d.addr, 80), traffic.Options{Rate: 100, Timeout: 3 * time.Second, Long: 10}))(t)
	return d
}

// routed waits until both routers send to exactly these nodes.
func (d *drill) routed(workers ...*Worker) {
	d.t.Helper()
	within, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	must(d.t, d.RouteTo(within, d.addr, workers...))
}

// restart starts the speaker of a node that has ended, or is about to.
func (d *drill) restart(w *Worker, more ...string) {
	d.t.Helper()
	ended(d.t, w.Speaker)
	w.Speaker = made(d.StartSpeaker(w.Node, nil, append(more, "--wait-for-url="+proxyHealth)...))(d.t)
	d.hears(d.t, w)
}

// Speakers crash and return, and are upgraded: all of them, one after the other.
func (d *drill) crashes() {
	for _, w := range d.Workers {
		w.Speaker.Kill()
		d.asked(w)
		d.restart(w, "--on-sigterm=keep")
	}
}

func (d *drill) upgrades() {
	for _, w := range d.Workers {
		must(d.t, w.Speaker.Signal(syscall.SIGTERM))
		d.asked(w)
		d.restart(w)
	}
}

func (d *drill) asked(w *Worker) {
	if d.away != nil && w == d.b {
		d.away(w)
	}
}

// play plays the rows, and reports what the client noticed.
func (d *drill) play(name string, rows []calamity) {
	t := d.t
	for _, row := range rows {
		began := d.flow.Mark(row.what).At
		row.do()
		wait(quietly)
		record := d.flow.Record().Between(began, time.Now())
		failed := record.Failed()
		switch took, over := record.Recovery(traffic.Mark{At: began}); {
		case row.lossless && len(failed) > 0:
			t.Errorf("%s: %d of %d new connections failed, first %+v", row.what, len(failed), len(record.Attempts), failed[0])
		case row.within > 0 && took > row.within:
			t.Errorf("%s: new connections failed for %v", row.what, took)
		case !over:
			t.Errorf("%s: the last new connection failed: %+v", row.what, failed[len(failed)-1])
		}
		if len(record.Attempts) == 0 {
			t.Errorf("%s: there was no traffic", row.what)
		}
	}
	record := d.flow.Stop()
	if got := record.Clients(); len(got) != 1 || got[0] != clientOwn.v4 {
		t.Errorf("pods saw the clients %v", got)
	}
	d.forgiven = made(d.Cluster.Now(t.Context()))(t)

	table := record.Table().String()
	t.Logf("\n%s", table)
	report(t, name+".txt", "What a client noticed, with 100 new connections a second to a Service of the policy Local, and ten long-lived ones:\n\n"+table)
	var picture strings.Builder
	must(t, traffic.SVG(&picture, record))
	report(t, name+".svg", picture.String())
}

// The rows of the failure table: what a client with steady traffic to a Service of the policy Local notices of each, and what the plugin
// says to somebody who asks meanwhile why the Service is reachable, or not.
func TestWhatClientsNoticeOfTheFailureTable(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	h := startHall(t)
	ctx := t.Context()
	d := h.drill(t)
	a, b, c := d.a, d.b, d.c
	// A second controller manager waits for the first to end.
	made(h.StartController(ctx))(t)
	mark := func(w *Worker, drain string) {
		t.Helper()
		made(h.API.CoreV1().Nodes().Patch(ctx, w.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"metadata":{"annotations":{"metallb.universe.tf/drain":%s}}}`, drain), metav1.PatchOptions{}))(t)
	}
	for _, w := range h.Workers {
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
	d.away = refused

	d.play("failures", []calamity{
		{what: "nothing", do: func() {}, lossless: true},
		{what: "rolling update, from node to node", lossless: true, do: func() {
			// Each pod is replaced by one elsewhere, which is ready before, and serves while it terminates: long enough for a connection
			// whose first packet was lost on a busy machine, and came again a second later.
			next := h.run(t, c, "web-3", "web")
			d.routed(a, b, c)
			must(t, d.second.Delete(ctx))
			d.routed(a, c)
			why(c, b, 1, "not announced: externalTrafficPolicy is Local, and no endpoint on node node-b is ready", "withheld: ")
			wait(quietly)
			must(t, d.second.Remove(ctx))
			again := h.run(t, b, "web-4", "web")
			d.routed(a, b, c)
			must(t, next.Delete(ctx))
			d.routed(a, b)
			wait(quietly)
			must(t, next.Remove(ctx))
			d.second = again
		}},
		{what: "every speaker crashes and returns", lossless: true, do: d.crashes},
		{what: "every speaker is upgraded", lossless: true, do: d.upgrades},
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
			d.routed(b)
			why(c, a, 0, "sent: announced", "node node-a is being drained: it is annotated metallb.universe.tf/drain; routers with another path leave it", "path 42 42 42 42 [65535:0]")
			mark(a, "null")
			d.routed(a, b)
		}},
		{what: "a node reboots", within: holdTime, do: func() {
			// Everything is told to end, and nothing is deleted; then the node is gone.
			must(t, b.Speaker.Signal(syscall.SIGTERM))
			ended(t, b.Speaker)
			d.routed(a)
			refused(b)
			must(t, h.LAN.Pull(b.Host))
			why(c, b, 3, "the speaker on node node-b does not answer: ")
			must(t, h.LAN.Replug(b.Host))
			d.restart(b)
			d.routed(a, b)
		}},
		{what: "a node dies", within: 2 * holdTime, do: func() {
			must(t, h.LAN.Pull(b.Host))
			d.routed(a)
			why(c, b, 3, "the speaker on node node-b does not answer: ")
			// To somebody who can still ask it, it says what it knows.
			why(b, b, 1, "no session is up: tor-a (10.0.0.1) is ", "tor-b (10.0.0.2) is ")
		}},
		{what: "and returns", do: func() {
			must(t, h.LAN.Replug(b.Host))
			d.routed(a, b)
		}},
		{what: "a router dies", within: 2 * holdTime, do: func() {
			must(t, errors.Join(h.WAN.Pull(h.TorA.Namespace), h.LAN.Pull(h.TorA.Namespace)))
			d.leftByTheClient()
			why(c, a, 0, "sent: announced", "up: tor-b (10.0.0.2) since ", "down: tor-a (10.0.0.1) is ")
		}},
		{what: "and is back", do: func() {
			must(t, errors.Join(h.WAN.Replug(h.TorA.Namespace), h.LAN.Replug(h.TorA.Namespace)))
			d.routed(a, b)
		}},
	})
}

// leftByTheClient waits until the client uses one router only.
func (d *drill) leftByTheClient() {
	d.t.Helper()
	eventually(d.t, "the client to use the other router", func(ctx context.Context) error {
		routes, err := d.Client.Routes(ctx)
		if err == nil && len(routes[prefixOf(d.addr)]) != 1 {
			err = fmt.Errorf("it has %v", routes[prefixOf(d.addr)])
		}
		return err
	})
}

// What BFD changes of that: a failure is noticed after 0.9 s, by routers that let nodes in by ranges of addresses, as docs/routers.md
// shows.
func TestWhatClientsNoticeOfFailuresWithBFD(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	h := hallOf(t, StartWatchedHall)
	d := h.drill(t)
	a, b := d.a, d.b
	const detection, restartTime = 900 * time.Millisecond, 10 * time.Second // of WatchedConfig
	const soon = 2 * time.Second                                            // with what routers and the client need after that
	again := func() {
		t.Helper()
		d.routed(a, b)
		eventually(t, "everybody to hear everybody", h.watched)
	}
	respond := func(how syscall.Signal) func() {
		return func() {
			t.Helper()
			for _, w := range []*Worker{a, b} {
				must(t, w.BFD.Signal(how))
				ended(t, w.BFD)
				if how == syscall.SIGKILL {
					wait(2 * detection) // kubelet, too, takes longer than that
				}
				w.BFD = made(h.StartResponder(w.Node))(t)
				again()
			}
		}
	}
	cable := func(commands string) {
		t.Helper()
		made(b.Host.Run(t.Context(), "nft", commands))(t)
	}
	oneWay := func(hook string) func() {
		return func() {
			t.Helper()
			cable(`add table netdev cable; add chain netdev cable broken { type filter hook ` + hook + ` device "lan" priority 0; policy drop; }`)
			d.routed(a)
		}
	}
	mended := func() {
		t.Helper()
		cable("delete table netdev cable")
		again()
	}
	die := func() {
		t.Helper()
		must(t, h.LAN.Pull(b.Host))
		d.routed(a)
	}
	back := func() {
		t.Helper()
		must(t, h.LAN.Replug(b.Host))
		again()
	}
	d.play("failures-bfd", []calamity{
		{what: "nothing", do: func() {}, lossless: true},
		{what: "every speaker crashes and returns", lossless: true, do: d.crashes},
		{what: "every speaker is upgraded", lossless: true, do: d.upgrades},
		{what: "BFD responders are upgraded, one by one", within: time.Minute, do: respond(syscall.SIGTERM)},
		{what: "BFD responders crash, one by one", within: time.Minute, do: respond(syscall.SIGKILL)},
		{what: "a node dies", within: soon, do: die},
		{what: "and returns", do: back},
		{what: "a node hears nothing", within: soon, do: oneWay("ingress")},
		{what: "and hears again", do: mended},
		{what: "a node is not heard", within: soon, do: oneWay("egress")},
		{what: "and is heard again", do: mended},
		{what: "a node dies while its speaker restarts", within: restartTime + soon, do: func() {
			b.Speaker.Kill()
			ended(t, b.Speaker)
			die()
		}},
		{what: "and both return", do: func() {
			must(t, h.LAN.Replug(b.Host))
			d.restart(b)
			again()
		}},
		{what: "a router is cut off from the nodes", within: 2 * soon, do: func() {
			must(t, h.LAN.Pull(h.TorA.Namespace))
			d.leftByTheClient()
		}},
		{what: "and is back", do: func() {
			must(t, h.LAN.Replug(h.TorA.Namespace))
			again()
		}},
		{what: "a router dies", within: 2 * holdTime, do: func() { // for the client, whose hold time is 3 s
			left := func(w *Worker) int { return strings.Count(w.Speaker.Output(), "BFD says that the router is dead") }
			before := map[*Worker]int{}
			for _, w := range h.Workers {
				before[w] = left(w)
			}
			since := time.Now()
			must(t, errors.Join(h.WAN.Pull(h.TorA.Namespace), h.LAN.Pull(h.TorA.Namespace)))
			eventually(t, "speakers to leave it", func(context.Context) error {
				for _, w := range h.Workers {
					if left(w) == before[w] {
						return fmt.Errorf("%s does not", w.Name)
					}
				}
				return nil
			})
			if took := time.Since(since); took > soon {
				t.Errorf("the speakers left a dead router after %v", took)
			}
			d.leftByTheClient()
		}},
		{what: "and is back", do: func() {
			must(t, errors.Join(h.WAN.Replug(h.TorA.Namespace), h.LAN.Replug(h.TorA.Namespace)))
			again()
		}},
	})
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
