package speaker

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Peers returns the routers to which the node speaks, with what depends on the node or on passwords, by their keys, filled
// in, and in words which of them it cannot speak to.
func Peers(config *loadbalancer.Config, node *corev1.Node, passwords map[string]Password) (peers []loadbalancer.Peer, problems []string) {
	for _, p := range config.Peers {
		if !loadbalancer.Selects(p.NodeSelectors, node.Labels) {
			continue
		}
		if p.SourceNodeIP {
			p.SourceAddress = internalIP(node, p.Addr.Is4())
			if !p.SourceAddress.IsValid() {
				problems = append(problems, fmt.Sprintf("peer %s: source-address is node-ip, and node %s has no InternalIP of the peer's IP version", p.Name, node.Name))
				continue
			}
		}
		if p.PasswordKey != "" {
			known := passwords[p.PasswordKey]
			if known.Value == "" {
				if known.Why != "" {
					problems = append(problems, fmt.Sprintf("peer %s: %s", p.Name, known.Why))
				}
				continue // without its password the router would not answer
			}
			p.Password = known.Value
		}
		if !p.RouterID.IsValid() {
			p.RouterID = routerID(node)
		}
		p.NodeIPs = internalIPs(node)
		peers = append(peers, p)
	}
	return peers, problems
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

// internalIP returns the node's first InternalIP of the IP version, or the zero Addr.
func internalIP(node *corev1.Node, is4 bool) netip.Addr {
	for _, addr := range internalIPs(node) {
		if addr.Is4() == is4 {
			return addr
		}
	}
	return netip.Addr{}
}

// routerID is the node's first IPv4 InternalIP. A node without one gets four bytes that follow from its name: a router ID
// must be unique within an AS (RFC 6286), and stay the same over restarts.
func routerID(node *corev1.Node) netip.Addr {
	if addr := internalIP(node, true); addr.IsValid() {
		return addr
	}
	sum := sha256.Sum256([]byte(node.Name))
	sum[0] |= 1 // never 0.0.0.0
	return netip.AddrFrom4([4]byte(sum[:4]))
}
