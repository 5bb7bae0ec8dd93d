package main

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd"
)

// A follower keeps the sessions those that the configuration wants from this node.
type follower struct {
	update func([]bfd.Peer)
	// gateways are the node's, and up reports whether BFD is with a router.
	gateways func() speaker.Gateways
	up       func(loadbalancer.Peer) bool
	begun    bool
	// What was last so.
	peers    []loadbalancer.Peer
	watched  []bfd.Peer
	problems []string
}

func (f *follower) look(config *loadbalancer.Config, node *corev1.Node) {
	peers, watched, problems := watchedBy(config, node, f.gateways(), f.peers, f.up)
	if !slices.Equal(problems, f.problems) {
		for _, p := range problems {
			klog.InfoS("Cannot watch yet", "why", p)
		}
	}
	if !slices.Equal(watched, f.watched) || !f.begun {
		klog.InfoS("Watching routers", "routers", len(watched))
		f.update(watched)
	}
	f.begun, f.peers, f.watched, f.problems = true, peers, watched, problems
}

// watchedBy returns the peers of the node, in the way that its speaker has them, and those routers among them that BFD is to watch.
// before are the peers until now. Passwords are no business of BFD's, so sessions wait for none.
func watchedBy(c *loadbalancer.Config, node *corev1.Node, gateways speaker.Gateways, before []loadbalancer.Peer, up func(loadbalancer.Peer) bool) (peers []loadbalancer.Peer, watched []bfd.Peer, problems []string) {
	open := *c
	open.Peers = slices.Clone(c.Peers)
	for i := range open.Peers {
		open.Peers[i].PasswordKey = ""
	}
	peers, _, problems = speaker.Peers(&open, node, nil, gateways, before, up)
	for _, p := range peers {
		profile, has := c.ProfileOf(p)
		// Of two BGP sessions with one router, over two of its ports, the first one's profile counts: BFD knows no such ports.
		same := func(b bfd.Peer) bool { return b.Router == p.Addr && b.Local == p.SourceAddress }
		if has && !slices.ContainsFunc(watched, same) {
			watched = append(watched, bfd.Peer{Name: p.Name, Router: p.Addr, Local: p.SourceAddress, Profile: profile})
		}
	}
	return peers, watched, problems
}
