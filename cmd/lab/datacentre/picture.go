package datacentre

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// Draw draws who is connected with whom, in 110 columns.
func (h *Hall) Draw(to io.Writer) error {
	const column = 36
	line := func(cells ...string) string {
		var b strings.Builder
		for _, cell := range cells {
			fmt.Fprintf(&b, " %-*s", column-1, cell)
		}
		return strings.TrimRight(b.String(), " ") + "\n"
	}
	// A wire is a network, all across the picture.
	wire := func(name, networks string) string {
		label := fmt.Sprintf("== %s: %s ", name, networks)
		return " " + label + strings.Repeat("=", 3*column-2-len(label)) + "\n"
	}
	var b strings.Builder
	b.WriteString(line("client", "its own addresses:"))
	b.WriteString(line(fmt.Sprintf("BIRD, AS %d", clientASN), clientOwn.String()))
	b.WriteString(line("| " + clientWAN.String()))
	b.WriteString(wire("wan", "198.51.100.0/24, 2001:db8:2::/64"))
	b.WriteString(line("| "+torWAN[0].String(), "| "+torWAN[1].String()))
	b.WriteString(line(h.TorA.Name, h.TorB.Name))
	b.WriteString(line(fmt.Sprintf("FRR, AS %d", torASN), fmt.Sprintf("BIRD, AS %d", torASN)))
	b.WriteString(line("| "+torLAN[0].String(), "| "+torLAN[1].String()))
	b.WriteString(wire("lan", "10.0.0.0/24, 2001:db8:1::/64"))
	var cables, names, runs []string
	var pods [][]string
	for i, w := range h.Workers {
		cables, names = append(cables, "| "+w.Addrs.String()), append(names, w.Name)
		runs = append(runs, fmt.Sprintf("kube-proxy, our speaker, AS %d", clusterASN))
		w.mu.Lock()
		for j, p := range w.pods {
			for len(pods) <= j {
				pods = append(pods, make([]string, len(h.Workers)))
			}
			pods[j][i] = fmt.Sprintf("`- %s %s", p.Name, p.Addrs)
		}
		w.mu.Unlock()
	}
	b.WriteString(line(cables...))
	b.WriteString(line(names...))
	b.WriteString(line(runs...))
	for _, row := range pods {
		b.WriteString(line(row...))
	}
	_, err := io.WriteString(to, b.String())
	return err
}

// A Hint is a command line for a person who looks around, as the administrator of everything.
type Hint struct{ Command, What string }

// Hints are for a shell. The first sets what the others need.
func (h *Hall) Hints(service netip.Addr) []Hint {
	in := func(host string) string { return "ip netns exec " + host + " " }
	return []Hint{
		{fmt.Sprintf("export KUBECONFIG=%s PATH=%s:$PATH", kubernetes.Quoted(h.Cluster.Kubeconfig), kubernetes.Quoted(h.Cluster.Binaries.Dir)), ""},
		{"kubectl get services,pods,nodes -o wide", "what the cluster says"},
		{in(h.Client.ID) + "curl -s http://" + service.String() + "/", "which pod answers, on which node, and whom it sees"},
		{in(h.Client.ID) + "ip route", "the client's ways to Services"},
		{in(h.TorA.ID) + "ip route", "tor-a's"},
		{strings.Join(h.TorA.Shell(), " ") + " -c 'show bgp ipv4 unicast'", "what tor-a heard from nodes"},
		{strings.Join(h.TorB.Shell(), " ") + " show route all", "what tor-b heard"},
		{in(h.Workers[0].Host.ID) + "nft list map ip kube-proxy service-ips", "what kube-proxy on node-a does"},
		{fmt.Sprintf("ip -n %s link set tor-a down; sleep 4; ip -n %[1]s link set tor-a up", h.WAN.ID), "tor-a's WAN cable, out and in"},
		{"ls " + h.Network.Dir, "everybody's logs"},
	}
}

// Show runs pods and two Services, draws the hall, and asks each Service ten times. It returns the address of the first.
func Show(ctx context.Context, h *Hall, to io.Writer) (netip.Addr, error) {
	a, b := h.Workers[0], h.Workers[1]
	var tasks []func() error
	for _, pod := range []struct {
		worker    *Worker
		name, app string
	}{{a, "web-1", "web"}, {b, "web-2", "web"}, {a, "shop-1", "shop"}, {a, "shop-2", "shop"}, {b, "shop-3", "shop"}} {
		tasks = append(tasks, func() error {
			_, err := h.RunPod(ctx, pod.worker, pod.name, map[string]string{"app": pod.app})
			return err
		})
	}
	if err := together(tasks...); err != nil {
		return netip.Addr{}, err
	}
	both := corev1.IPFamilyPolicyRequireDualStack
	var first netip.Addr
	var text strings.Builder
	for _, service := range []struct {
		name, pool, says string
		policy           corev1.ServiceExternalTrafficPolicy
		nodes            []*Worker
	}{
		{
			"web", "default", "every node takes connections, and hides the client from the pods",
			corev1.ServiceExternalTrafficPolicyCluster, h.Workers,
		},
		{
			"shop", "weighted", "nodes with pods take connections, in proportion, and pods see the client",
			corev1.ServiceExternalTrafficPolicyLocal, []*Worker{a, b},
		},
	} {
		addrs, err := h.Serve(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: service.name, Annotations: map[string]string{"metallb.universe.tf/address-pool": service.pool}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": service.name},
				Ports:                 []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(PodPort)}},
				ExternalTrafficPolicy: service.policy, IPFamilyPolicy: &both,
			},
		}, 2)
		if err != nil {
			return netip.Addr{}, err
		}
		if !first.IsValid() {
			first = addrs[0]
		}
		fmt.Fprintf(&text, "\nService %s at %s, externalTrafficPolicy %s: %s.\n", service.name, addrs, service.policy, service.says)
		for i, addr := range addrs {
			if err := h.Reachable(ctx, netip.AddrPortFrom(addr, 80), service.nodes...); err != nil {
				return netip.Addr{}, err
			}
			if i > 0 {
				continue
			}
			for range 10 {
				answer, err := h.Get(ctx, netip.AddrPortFrom(addr, 80))
				if err != nil {
					return netip.Addr{}, err
				}
				fmt.Fprintf(&text, "  client$ curl http://%s/\n  %s %s %s\n", addr, answer.Pod, answer.Node, answer.Client)
			}
		}
	}
	fmt.Fprintln(to)
	if err := h.Draw(to); err != nil {
		return netip.Addr{}, err
	}
	_, err := io.WriteString(to, text.String())
	return first, err
}
