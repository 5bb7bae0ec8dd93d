package main

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/speaker/bfd/seam"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// responderTime is how long a BFD responder may be away, as during its upgrade, before it is missed.
const responderTime = 30 * time.Second

// A responder is what a speaker knows of the BFD responder of its node.
type responder struct {
	seam.Client
	there    atomic.Bool
	sessions func() []bgp.Session
}

// newResponder returns what listens to a socket; lost is told of routers that are dead.
func newResponder(socket string, sessions func() []bgp.Session, lost func(router, local netip.Addr)) *responder {
	r := &responder{sessions: sessions}
	r.Client = seam.Client{Name: socket, Down: lost, There: r.there.Store}
	return r
}

// wanted reports whether a peer of this node has a bfd-profile.
func (r *responder) wanted() bool {
	return slices.ContainsFunc(r.sessions(), func(s bgp.Session) bool { return s.BFD })
}

// state is that of BFD with the router of a session, in the words of package report.
func (r *responder) state(s bgp.Session) string {
	word, known := r.Last(s.Addr, s.Source)
	switch {
	case !s.BFD:
		return ""
	case !known:
		return report.BFDUnknown
	case word.Up:
		return report.BFDUp
	case word.AdminDown:
		return report.BFDAdminDown
	}
	return report.BFDDown
}

// follow hears from the responder which routers are dead, until ctx ends, and says when it is missed.
func (r *responder) follow(ctx context.Context) {
	go r.Listen(ctx)
	look := time.NewTicker(responderTime)
	defer look.Stop()
	for missed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		now := r.wanted() && !r.there.Load()
		switch {
		case now && !missed:
			klog.InfoS("No BFD responder runs on this node", "why", "a peer has a bfd-profile, and nobody answers its router: install metallb-bfd, or remove the profile; until then the hold-time counts")
		case missed && !now:
			klog.InfoS("A BFD responder runs on this node, or none is needed any more")
		}
		missed = now
	}
}
