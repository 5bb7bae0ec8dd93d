package datacentre

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// ask runs kubectl metallb as a user on a host of the network, and returns what it prints, what it remarks beside that, and how it ends.
func (l *Lab) ask(ctx context.Context, at *network.Namespace, args ...string) (out, remarks string, code int, err error) {
	binary, err := l.built("kubectl-metallb")
	if err != nil {
		return "", "", 0, err
	}
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", at.ID, binary, "--kubeconfig=" + l.Cluster.Kubeconfig}, args...)...)
	var printed, remarked bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &remarked
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		code, err = ended.ExitCode(), nil
	}
	return printed.String(), remarked.String(), code, err
}

// speakerPod makes an object of the speaker of a node, by which the plugin finds it.
func (l *Lab) speakerPod(t *testing.T, node *Node) {
	t.Helper()
	made(l.API.CoreV1().Pods(configNamespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:   "metallb-speaker-" + node.Name,
			Labels: map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"},
		},
		Spec: corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{{Name: "speaker", Image: "none"}}},
	}, metav1.CreateOptions{}))(t)
}

// A question is asked of a plugin that runs on a host of the network.
type question struct {
	at   *network.Namespace
	args string
	code int
	// Each of these is in what it prints.
	says []string
}

// answers waits until the plugin says the truth.
func (l *Lab) answers(t *testing.T, q question) {
	t.Helper()
	var out, remarks string
	eventually(t, "kubectl metallb "+q.args, func(ctx context.Context) error {
		var code int
		var err error
		if out, remarks, code, err = l.ask(ctx, q.at, strings.Fields(q.args)...); err != nil {
			return err
		}
		for _, words := range q.says {
			if code != q.code || !strings.Contains(out+remarks, words) {
				return fmt.Errorf("exit %d, want %d, and %q in\n%s%s", code, q.code, words, out, remarks)
			}
		}
		return nil
	})
	t.Logf("$ kubectl metallb %s\n%s%sexit %d", q.args, out, remarks, q.code)
}

// sent are the routes that speakers say they have sent, by peer, from what the plugin prints in JSON.
func sent(text string) (map[string][]router.Path, error) {
	var answer struct {
		Routes []struct {
			Peer, Origin  string
			Prefix        netip.Prefix
			NextHop       netip.Addr
			ASPath        []uint32
			LocalPref     *uint32
			Communities   []string
			LinkBandwidth float32
			Sent          bool
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, err
	}
	all := map[string][]router.Path{}
	for _, r := range answer.Routes {
		if !r.Sent {
			return nil, fmt.Errorf("to %s, %s is only intended", r.Peer, r.Prefix)
		}
		path := router.Path{Prefix: r.Prefix, NextHop: r.NextHop, Origin: r.Origin, ASPath: r.ASPath, LocalPref: r.LocalPref, LinkBandwidth: r.LinkBandwidth}
		for _, c := range r.Communities {
			if large, ok := strings.CutPrefix(c, "large:"); ok {
				path.LargeCommunities = append(path.LargeCommunities, large)
			} else {
				path.Communities = append(path.Communities, c)
			}
		}
		all[r.Peer] = append(all[r.Peer], path)
	}
	return all, nil
}

// attributes prints a table so that two can be compared: every attribute of every route. LOCAL_PREF is a router's own where the peer is
// of another AS.
func attributes(paths []router.Path, internal bool) (all []string) {
	number := func(n *uint32) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	for _, p := range paths {
		pref := "its own"
		if internal {
			pref = number(p.LocalPref)
		}
		all = append(all, fmt.Sprintf("%s via %s origin %s path %v pref %s med %s %v %v bandwidth %g", p.Prefix, p.NextHop, p.Origin, p.ASPath, pref, number(p.MED),
			slices.Sorted(slices.Values(p.Communities)), slices.Sorted(slices.Values(p.LargeCommunities)), p.LinkBandwidth))
	}
	slices.Sort(all)
	return all
}

// What speakers say that they have sent is what FRR and BIRD have in their tables, each route with each attribute: to routers of the own
// AS and of others, of both IP versions, with communities of each kind, weights and aggregates, while the node is drained and after it.
func TestRoutersHaveWhatSpeakersSayTheySent(t *testing.T) {
	t.Parallel()
	s := build(t)
	ctx := t.Context()
	routers := map[string]network.Router{
		"frr-other":  s.frr(t, "frr-other", netip.MustParseAddr("10.0.0.1"), 100),
		"bird-other": s.bird(t, "bird-other", netip.MustParseAddr("10.0.0.2"), 200),
		"frr-own":    s.frr(t, "frr-own", netip.MustParseAddr("10.0.0.3"), clusterASN),
		"bird-own":   s.bird(t, "bird-own", netip.MustParseAddr("10.0.0.4"), clusterASN),
	}
	internal := func(peer string) bool { return strings.HasSuffix(peer, "-own") }
	must(t, s.Admit(ctx, `
peers:
- {name: frr-other, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, connect-time: 1s}
- {name: bird-other, peer-address: 10.0.0.2, peer-asn: 200, my-asn: 42, connect-time: 1s}
- {name: frr-own, peer-address: 10.0.0.3, peer-asn: 42, my-asn: 42, connect-time: 1s}
- {name: bird-own, peer-address: 10.0.0.4, peer-asn: 42, my-asn: 42, connect-time: 1s}
communities: {vpn: "1234:1", rack: "large:42:7:9"}
address-pools:
- {name: plain, cidr: [10.100.0.0/24, "fd00:100::/120"]}
- name: marked
  cidr: [10.100.1.0/24, "fd00:100::1:0/120"]
  advertisements: [{localpref: 250, communities: [vpn, rack, no-export], as-path-prepend: 2}]
- name: aggregated
  cidr: [10.100.2.0/24]
  advertisements: [{aggregation-length: 32, peers: [frr-own, bird-other]}, {aggregation-length: 24, localpref: 0}]
- {name: weighted, cidr: [10.100.3.0/24, "fd00:100::3:0/120"], advertisements: [{link-bandwidth: true}]}
`))
	s.speakerPod(t, s.node)
	for name, addrs := range map[string]string{
		"plain": "10.100.0.1 fd00:100::1", "marked": "10.100.1.1 fd00:100::1:1", "aggregated-1": "10.100.2.1", "aggregated-2": "10.100.2.2", "weighted": "10.100.3.1 fd00:100::3:1",
	} {
		service := Service{Name: name, Node: s.node}
		for _, addr := range strings.Fields(addrs) {
			service.Addrs = append(service.Addrs, netip.MustParseAddr(addr))
		}
		must(t, s.Expose(ctx, service))
	}
	// Weights count pods where a Service is Local.
	patch := []byte(`{"spec":{"externalTrafficPolicy":"Local"}}`)
	made(s.API.CoreV1().Services(metav1.NamespaceDefault).Patch(ctx, "weighted", types.MergePatchType, patch, metav1.PatchOptions{}))(t)
	s.speak(t)

	agrees := func(when string, routes int) {
		t.Helper()
		var last string
		eventually(t, when+", routers to have what was sent", func(ctx context.Context) error {
			out, remarks, code, err := s.ask(ctx, s.node.Host, "routes", "--direct", "-o", "json")
			if err != nil || code != 0 {
				return fmt.Errorf("exit %d, %w: %s", code, err, remarks)
			}
			told, err := sent(out)
			if err != nil {
				return err
			}
			last, routes := "", routes
			for peer, r := range routers {
				table, err := r.Table(ctx)
				if err != nil {
					return err
				}
				want, got := attributes(told[peer], internal(peer)), attributes(table, internal(peer))
				if !slices.Equal(got, want) {
					return fmt.Errorf("%s has\n%s\nand was sent\n%s", r, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				routes -= len(got)
				last += fmt.Sprintf("%s:\n%s\n", r, strings.Join(got, "\n"))
			}
			if routes != 0 {
				return fmt.Errorf("%d routes fewer than expected:\n%s", routes, last)
			}
			return nil
		})
		t.Logf("%s:\n%s", when, last)
	}
	agrees("at first", 4*7+2*2)
	mark := func(drain string) {
		t.Helper()
		made(s.API.CoreV1().Nodes().Patch(ctx, s.node.Name, types.MergePatchType,
			fmt.Appendf(nil, `{"metadata":{"annotations":{"metallb.universe.tf/drain":%s}}}`, drain), metav1.PatchOptions{}))(t)
	}
	mark(`"true"`)
	agrees("while the node is drained", 4*7+2*2)
	mark("null")
	must(t, s.API.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, "aggregated-1", metav1.DeleteOptions{}))
	agrees("without one of the Services", 4*7+2)
}
