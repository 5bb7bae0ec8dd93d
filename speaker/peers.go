package speaker

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Peers returns the routers to which the node speaks, with what depends on the node or on passwords, by their keys, filled
// in, those to which it should and cannot, and why in words. before are those to which it spoke until now: where something
// is missing, the session with a router goes on as it was. Of peers that are one router, the first counts.
func Peers(config *loadbalancer.Config, node *corev1.Node, passwords map[string]Password, before []loadbalancer.Peer) (peers, mute []loadbalancer.Peer, problems []string) {
	for _, p := range config.Peers {
		if !loadbalancer.Selects(p.NodeSelectors, node.Labels) {
			continue
		}
		ready, why := complete(&p, node, passwords)
		router := p
		if p.SourceNodeIP {
			router.SourceAddress = netip.Addr{} // whichever it was
		}
		i := slices.IndexFunc(before, router.SameRouter)
		if p.SourceNodeIP && i >= 0 && slices.Contains(p.NodeIPs, before[i].SourceAddress) {
			p.SourceAddress = before[i].SourceAddress // Kubernetes promises no order of addresses
		}
		known := slices.Concat(peers, mute)
		if j := slices.IndexFunc(known, p.SameRouter); j >= 0 {
			problems = append(problems, fmt.Sprintf("peer %s: for node %s it is the same router as peer %s, which counts: keep one, or give them node-selectors that select different nodes",
				p.Name, node.Name, known[j].Name))
			continue
		}
		if !ready {
			if why != "" && i >= 0 {
				why += "; its session goes on as it was"
			}
			if why != "" {
				problems = append(problems, fmt.Sprintf("peer %s: %s", p.Name, why))
			}
			if i < 0 {
				mute = append(mute, p)
				continue
			}
			was := before[i]
			was.Name, was.ConnectTime, was.NodeIPs = p.Name, p.ConnectTime, p.NodeIPs
			p = was
		}
		peers = append(peers, p)
	}
	return peers, mute, problems
}

// complete fills in what depends on the node or on passwords. If something is missing, it is not ready, and why may be
// empty: the Secret has not been read yet.
func complete(p *loadbalancer.Peer, node *corev1.Node, passwords map[string]Password) (ready bool, why string) {
	p.NodeIPs = internalIPs(node)
	if err := p.OfNode(node.Name, node.Annotations); err != nil {
		return false, err.Error()
	}
	if !p.RouterID.IsValid() {
		p.RouterID = routerID(node)
	}
	if p.SourceNodeIP {
		i := slices.IndexFunc(p.NodeIPs, func(addr netip.Addr) bool { return addr.Is4() == p.Addr.Is4() })
		if i < 0 {
			return false, fmt.Sprintf("source-address is node-ip, and node %s has no InternalIP of the peer's IP version", node.Name)
		}
		p.SourceAddress = p.NodeIPs[i]
	}
	if p.PasswordKey != "" {
		known := passwords[p.PasswordKey]
		p.Password = known.Value
		return known.Value != "", known.Why // without its password the router would not answer
	}
	return true, ""
}

// internalIPs returns the node's InternalIPs.
func internalIPs(node *corev1.Node) (all []netip.Addr) {
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			all = append(all, addr.Unmap())
		}
	}
	return all
}

// routerID is the node's lowest IPv4 InternalIP: Kubernetes promises no order. A node without one gets four bytes that follow
// from its name: a router ID must be unique within an AS (RFC 6286), stay the same over restarts, and look like an address of
// a host to routers that check it, from 1.0.0.0 to 126.255.255.255.
func routerID(node *corev1.Node) netip.Addr {
	if all := slices.DeleteFunc(internalIPs(node), netip.Addr.Is6); len(all) > 0 {
		return slices.MinFunc(all, netip.Addr.Compare)
	}
	sum := sha256.Sum256([]byte(node.Name))
	sum[0] = 1 + sum[0]%126
	return netip.AddrFrom4([4]byte(sum[:4]))
}
