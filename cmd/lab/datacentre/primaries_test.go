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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/traffic"
)

// homes waits until the router's kernel sends each prefix to one node, and returns to which.
func (r *rack) homes(t *testing.T, then string, prefixes []string, right func(homes map[string]string) error) (homes map[string]string) {
	t.Helper()
	eventually(t, then, func(ctx context.Context) error {
		routes, err := r.router.Routes(ctx)
		if err != nil {
			return err
		}
		homes = map[string]string{}
		for _, prefix := range prefixes {
			hops := routes[netip.MustParsePrefix(prefix)]
			if len(hops) != 1 {
				return fmt.Errorf("%s goes to %v", prefix, hops)
			}
			homes[prefix] = r.nodeAt(hops[0].Via)
		}
		return right(homes)
	})
	return homes
}

// A router uses the primary of each prefix alone, and the others in its place when it is drained or dead; and nothing becomes of prefixes
// of others.
func TestRoutersSendToPrimariesAndToSparesWhenTheyGo(t *testing.T) {
	for _, word := range []string{"frr", "bird"} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			r := newRack(t, word)
			must(t, r.Admit(t.Context(), `
peers:
- {name: tor, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, hold-time: 9s, connect-time: 1s, password-key: tor, ttl-security: true}
address-pools:
- {name: default, cidr: [192.168.10.0/24, "2001:db8:10::/64"], advertisements: [{primaries: 1}]}
`))
			var prefixes []string
			for i := 1; i <= 12; i++ {
				r.expose(t, fmt.Sprintf("web-%d", i), cluster, []string{fmt.Sprintf("192.168.10.%d", i), fmt.Sprintf("2001:db8:10::%x", i)}, r.nodes[0])
				prefixes = append(prefixes, fmt.Sprintf("192.168.10.%d/32", i), fmt.Sprintf("2001:db8:10::%x/128", i))
			}
			anywhere := func(map[string]string) error { return nil }
			first := r.homes(t, "one way for each prefix", prefixes, anywhere)
			shares := map[string]int{}
			for _, home := range first {
				shares[home]++
			}
			if len(shares) != 3 {
				t.Fatalf("24 prefixes are on the nodes %v", shares)
			}
			recorder := made(r.router.Record())(t)
			// leaves does something to node-a, waits until its prefixes are elsewhere, and looks what became of the others.
			leaves := func(then string, do func()) (homes map[string]string) {
				t.Helper()
				before := len(events(t, recorder, 0))
				do()
				homes = r.homes(t, then, prefixes, func(homes map[string]string) error {
					for prefix, home := range homes {
						if home == "a" {
							return fmt.Errorf("%s is on node-a", prefix)
						}
					}
					return nil
				})
				for prefix, home := range homes {
					if first[prefix] != "a" && first[prefix] != home {
						t.Errorf("%s: %s moved from node-%s to node-%s", then, prefix, first[prefix], home)
					}
				}
				for _, e := range events(t, recorder, before) {
					if home, ours := first[e.Prefix.String()]; ours && home != "a" {
						t.Errorf("%s: %s of node-%s changed: %v", then, e.Prefix, home, e)
					}
				}
				return homes
			}
			back := func(then string) {
				t.Helper()
				r.homes(t, then, prefixes, func(homes map[string]string) error {
					for prefix, home := range homes {
						if home != first[prefix] {
							return fmt.Errorf("%s is on node-%s", prefix, home)
						}
					}
					return nil
				})
			}
			drained := leaves("node-a is drained", func() { r.mark(t, r.nodes[0], `"maintenance"`) })
			r.mark(t, r.nodes[0], "null")
			back("node-a is back")
			cut := leaves("node-a is cut off", func() { must(t, r.lan.Pull(r.nodes[0].Host)) })
			for prefix, home := range cut {
				if drained[prefix] != home {
					t.Errorf("%s went to node-%s when its primary was drained, and to node-%s when it died", prefix, drained[prefix], home)
				}
			}
			must(t, r.lan.Replug(r.nodes[0].Host))
			back("node-a has its cable again")
			for _, p := range r.speakers {
				if err := p.Err(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What Services ask of their routes, and what a client notices of it, through real routers, kube-proxy and pods.
func TestClientsOfServicesThatAskForOtherRoutes(t *testing.T) {
	t.Parallel()
	h := startHall(t)
	const pool, communities = "  cidr: [192.168.10.0/26, \"2001:db8:10::/65\"]\n", "communities:\n"
	h.admit(t, strings.NewReplacer(communities, communities+"  partners: 1234:2\n", pool, pool+`  service-communities: [vpn-only]
  advertisements:
  - service-selectors:
    - match-labels: {audience: partners}
    communities: [partners]
  - client-ip-affinity: true
`).Replace(HallConfig))
	for i, w := range h.Workers {
		h.run(t, w, fmt.Sprintf("sticky-%d", i+1), "sticky")
		h.run(t, w, fmt.Sprintf("free-%d", i+1), "free")
	}
	free := h.expose(t, "free", 1, func(*corev1.Service) {})[0]
	h.reaches(t, tcp(free, 80), h.Workers...)
	tors := []network.Router{h.TorA, h.TorB}
	patch := func(text string) {
		t.Helper()
		made(h.API.CoreV1().Services("default").Patch(t.Context(), "free", types.MergePatchType, []byte(text), metav1.PatchOptions{}))(t)
	}
	// histories are those of all sessions between routers and nodes.
	histories := func() (all []string) {
		t.Helper()
		for _, tor := range tors {
			for _, w := range h.Workers {
				all = append(all, fmt.Sprintf("%s with %s %s", tor, w.Name, made(tor.Session(t.Context(), w.Addrs.v4))(t).History))
			}
		}
		return all
	}
	before := histories()

	t.Run("one with affinity has its client on one pod, whatever the client's ports", func(t *testing.T) {
		sticky := h.expose(t, "sticky", 2, func(svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
		for _, addr := range sticky {
			eventually(t, "both routers to send to one node, and the same", func(ctx context.Context) error {
				var all []string
				for _, tor := range tors {
					routes, err := tor.Routes(ctx)
					if err != nil {
						return err
					}
					for _, hop := range routes[prefixOf(addr)] {
						all = append(all, hop.Via.String())
					}
				}
				if len(all) != 2 || all[0] != all[1] {
					return fmt.Errorf("they send %s to %v", addr, all)
				}
				_, err := h.Get(ctx, tcp(addr, 80))
				return err
			})
			if got := h.visit(t, tcp(addr, 80), 50).every(byPod); strings.Contains(got, " ") {
				t.Errorf("of 50 connections of one client to %s, these pods had some: %s", addr, got)
			}
		}
		if got := h.visit(t, tcp(free, 80), 50).every(byPod); got != "free-1 free-2 free-3" {
			t.Errorf("without affinity, the pods %s had connections", got)
		}
	})

	t.Run("one with a community of its own is kept from the client by routers that read it", func(t *testing.T) {
		patch(`{"metadata":{"annotations":{"metallb.io/communities":"vpn-only"}}}`)
		eventually(t, "the routers to have the ways and the client none", func(ctx context.Context) error {
			for router, ways := range map[network.Router]int{h.TorA: 3, h.TorB: 3, h.Client: 0} {
				if routes, err := router.Routes(ctx); err != nil || len(routes[prefixOf(free)]) != ways {
					return fmt.Errorf("%s has %v: %v", router, routes[prefixOf(free)], err)
				}
			}
			return nil
		})
		if answer, err := h.Get(t.Context(), tcp(free, 80)); err == nil {
			t.Errorf("%v answered", answer)
		}
		patch(`{"metadata":{"annotations":{"metallb.io/communities":null}}}`)
		h.reaches(t, tcp(free, 80), h.Workers...)
	})

	t.Run("one that is moved to another advertisement by its label loses no connection", func(t *testing.T) {
		h.otherPorts(t)
		flow := made(traffic.Start(h.Client.Namespace, tcp(free, 80), traffic.Options{Rate: 50, Timeout: 3 * time.Second, Long: 10}))(t)
		defer flow.Stop()
		// told waits until both routers have the ways over all nodes with exactly these communities.
		told := func(communities ...string) {
			t.Helper()
			eventually(t, fmt.Sprintf("the communities %v", communities), func(ctx context.Context) error {
				for _, tor := range tors {
					paths, err := tor.Table(ctx)
					if err != nil {
						return err
					}
					ways := 0
					for _, path := range paths {
						if path.Prefix != prefixOf(free) {
							continue
						}
						if ways++; !slices.Equal(path.Communities, communities) {
							return fmt.Errorf("%s has %+v", tor, path)
						}
					}
					if ways != len(h.Workers) {
						return fmt.Errorf("%s has %d ways", tor, ways)
					}
				}
				return nil
			})
		}
		told()
		for _, move := range []struct {
			label string
			told  []string
		}{{`"partners"`, []string{"1234:2"}}, {"null", nil}} {
			patch(fmt.Sprintf(`{"metadata":{"labels":{"audience":%s}}}`, move.label))
			told(move.told...)
			wait(quietly)
		}
		record := flow.Stop()
		if failed, broken := record.Failed(), record.Broken(); len(failed)+len(broken) > 0 || len(record.Attempts) == 0 || len(record.Long) != 10 {
			t.Errorf("of %d new connections and %d long ones, these failed: %+v, %+v", len(record.Attempts), len(record.Long), failed, broken)
		}
		t.Logf("%d new connections and %d long ones, and all went well", len(record.Attempts), len(record.Long))
	})

	if after := histories(); !slices.Equal(after, before) {
		t.Errorf("sessions were %q and are %q", before, after)
	}
}
