// Package router is the other end of our BGP sessions in the demo and in tests: a router on a loopback address, which speakers dial
// and whose table anybody may read. It is GoBGP's server, and speaks eBGP and iBGP.
//
// GoBGP does some things that a test may stumble over. After a peer ended a session it takes no new one from it for five seconds. A
// stopped router leaves one idle goroutine behind. And the race detector does not like it: graceful restart marks paths, and the session
// that follows writes who its peer is, without a lock against readers such as Table; a router that starts writes rules of best path
// selection that all routers of the process read. None of that does harm here, and the programs under test are processes of their own, so
// tests of graceful restart lose nothing without the race detector.
package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// Options describe a router.
type Options struct {
	Addr            netip.AddrPort // where it listens; port 0: any free one
	ASN             uint32
	RouterID        netip.Addr // IPv4; invalid: its address
	Peers           []Peer
	GracefulRestart bool      // keep the routes of a peer that is gone without a NOTIFICATION (RFC 4724), for as long as the peer asked
	Log             io.Writer // what GoBGP has to say; nil: nothing
	// Serve starts GoBGP's main loop, which never returns and opens the port; nil: any goroutine does. It is for networks, where a
	// thread in some namespace has to. The port must not be 0 then.
	Serve func(loop func())
}

// A Peer is a speaker the router lets in. The router never dials.
type Peer struct {
	Addr netip.Addr
	ASN  uint32 // the router's own: iBGP
}

// A Router is running until Stop.
type Router struct {
	Addr netip.AddrPort // with the port that was chosen
	ASN  uint32

	gracefulRestart bool
	server          *server.BgpServer
	bell            *bell
	stop            func()

	mu    sync.Mutex
	peers map[netip.Addr]Peer
}

// Start returns when the router listens.
func Start(options Options) (*Router, error) {
	if !options.RouterID.IsValid() {
		options.RouterID = options.Addr.Addr()
	}
	if !options.RouterID.Is4() {
		return nil, fmt.Errorf("router %s needs a router ID: its address is none", options.Addr)
	}
	bell := &bell{rung: make(chan struct{})}
	bgp, addr, err := listen(options, bell)
	if err != nil {
		return nil, fmt.Errorf("router %s: %w", options.Addr, err)
	}
	r := &Router{
		Addr:            addr,
		ASN:             options.ASN,
		gracefulRestart: options.GracefulRestart,
		server:          bgp,
		bell:            bell,
		peers:           map[netip.Addr]Peer{},
	}
	r.stop = sync.OnceFunc(func() {
		end(bgp, "")
		bgp.Stop()
		bell.ring()
	})
	for _, peer := range options.Peers {
		if err := r.AddPeer(peer); err != nil {
			r.Stop()
			return nil, err
		}
	}
	return r, nil
}

// listen starts a server at the address. GoBGP takes port 0 for 179, so we choose one; should somebody be faster, another.
func listen(options Options, bell *bell) (*server.BgpServer, netip.AddrPort, error) {
	for {
		addr := options.Addr
		if addr.Port() == 0 {
			listener, err := net.Listen("tcp", addr.String())
			if err != nil {
				return nil, addr, err
			}
			addr = listener.Addr().(*net.TCPAddr).AddrPort()
			if err := listener.Close(); err != nil {
				return nil, addr, err
			}
		}
		bgp := server.NewBgpServer(server.LoggerOption(&logger{to: options.Log, level: log.InfoLevel}), server.TimingHookOption(bell))
		if options.Serve != nil {
			options.Serve(bgp.Serve)
		} else {
			go bgp.Serve() // never returns
		}
		err := bgp.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
			Asn:             options.ASN,
			RouterId:        options.RouterID.String(),
			ListenAddresses: []string{addr.Addr().String()},
			ListenPort:      int32(addr.Port()),
		}})
		if err == nil {
			return bgp, addr, nil
		}
		if options.Addr.Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, addr, err
		}
	}
}

// Stop ends all sessions (NOTIFICATION 6/2, administrative shutdown) and the router. It may be called again.
func (r *Router) Stop() { r.stop() }

// end ends the session with a peer, or with all where addr is empty, and returns when that has happened. GoBGP's own ways to remove
// peers clear what sessions still read from: the race detector notices.
func end(bgp *server.BgpServer, addr string) {
	ctx := context.Background()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for asked := map[string]bool{}; ; <-again.C {
		busy := false
		_ = bgp.ListPeer(ctx, &api.ListPeerRequest{Address: addr}, func(peer *api.Peer) { // never fails
			name := peer.State.NeighborAddress
			if !asked[name] { // an error: what it was last asked still waits to be done
				asked[name] = bgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: name}) == nil
			}
			busy = busy || peer.State.AdminState == api.PeerState_UP || peer.State.SessionState != api.PeerState_IDLE
		})
		if !busy {
			return
		}
	}
}

// AddPeer lets another speaker in.
func (r *Router) AddPeer(peer Peer) error {
	families := []*api.AfiSafi{}
	for _, family := range []*api.Family{ipv4, ipv6} {
		families = append(families, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: family, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: r.gracefulRestart}},
		})
	}
	err := r.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: &api.Peer{
		Conf:            &api.PeerConf{NeighborAddress: peer.Addr.String(), PeerAsn: peer.ASN},
		Transport:       &api.Transport{LocalAddress: r.Addr.Addr().String(), PassiveMode: true},
		GracefulRestart: &api.GracefulRestart{Enabled: r.gracefulRestart, RestartTime: 120},
		AfiSafis:        families,
	}})
	if err != nil {
		return fmt.Errorf("router %s: peer %s: %w", r.Addr, peer.Addr, err)
	}
	r.mu.Lock()
	r.peers[peer.Addr] = peer
	r.mu.Unlock()
	r.bell.ring()
	return nil
}

// RemovePeer ends the session with a speaker, forgets its routes, and does not let it in again until AddPeer. When it returns, all of
// that has happened.
func (r *Router) RemovePeer(addr netip.Addr) error {
	defer r.bell.ring()
	end(r.server, addr.String())
	return r.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: addr.String()})
}

// ResetPeer ends the session with a speaker (NOTIFICATION 6/4, administrative reset) and forgets its routes. When it returns, that has
// happened, and the speaker may return.
func (r *Router) ResetPeer(addr netip.Addr) error {
	r.mu.Lock()
	peer, known := r.peers[addr]
	r.mu.Unlock()
	if !known {
		return fmt.Errorf("router %s: no peer %s", r.Addr, addr)
	}
	if err := r.server.ResetPeer(context.Background(), &api.ResetPeerRequest{Address: addr.String()}); err != nil {
		return err
	}
	// GoBGP alone sometimes keeps the routes: when the speaker closes the connection before GoBGP has noted that it sent a
	// NOTIFICATION, it takes that for the beginning of a graceful restart. A peer that is removed loses them for sure.
	if err := r.RemovePeer(addr); err != nil {
		return err
	}
	return r.AddPeer(peer)
}

// Sessions tells for each peer whether its session is established.
func (r *Router) Sessions() map[netip.Addr]bool {
	up := map[netip.Addr]bool{}
	_ = r.server.ListPeer(context.Background(), &api.ListPeerRequest{}, func(peer *api.Peer) { // fails only after Stop
		addr, err := netip.ParseAddr(peer.State.NeighborAddress)
		if err == nil {
			up[addr] = peer.State.SessionState == api.PeerState_ESTABLISHED
		}
	})
	return up
}

// Wait returns when cond is true of the table. It looks again whenever a route or a session has changed, so cond may ask for Sessions
// too. When ctx ends first, the error has what was waited for and the table as it is.
func (r *Router) Wait(ctx context.Context, what string, cond func([]Path) bool) error {
	// cond may depend on more than this router.
	backstop := time.NewTicker(100 * time.Millisecond)
	defer backstop.Stop()
	for {
		changed := r.bell.next() // before we look, or a change right after would go unheard
		if cond(r.Table()) {
			return nil
		}
		select {
		case <-changed:
		case <-backstop.C:
		case <-ctx.Done():
			return fmt.Errorf("router %s: waited for %s: %w; it has\n%s", r.Addr, what, context.Cause(ctx), r)
		}
	}
}

// A bell rings whenever GoBGP has dealt with something a peer did. GoBGP takes it for a stopwatch: that hook is called after every
// message, where its watch events leave some changes out.
type bell struct {
	mu   sync.Mutex
	rung chan struct{} // closed, and replaced
}

// Observe is called by GoBGP.
func (b *bell) Observe(what server.FSMOperation, _, _ time.Duration) {
	if what != server.FSMMgmtOp { // those are our own calls, to look at the table above all
		b.ring()
	}
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rung)
	b.rung = make(chan struct{})
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rung
}
