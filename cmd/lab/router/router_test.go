package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

var (
	anyPort = netip.MustParseAddrPort("127.0.0.1:0")
	nodeA   = netip.MustParseAddr("127.0.0.11")
	nodeB   = netip.MustParseAddr("127.0.0.12")
	web     = netip.MustParsePrefix("192.168.10.0/32")
)

func start(t *testing.T, options Options) *Router {
	t.Helper()
	r, err := Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

// wait is Wait with a deadline that only a broken router meets.
func wait(t *testing.T, r *Router, what string, cond func([]Path) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Wait(ctx, what, cond); err != nil {
		t.Fatal(err)
	}
}

// table waits until the router prints as wanted, but for its sessions.
func table(t *testing.T, r *Router, want string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	wait(t, r, "\n"+want, func(paths []Path) bool {
		var got strings.Builder
		if err := Print(&got, paths); err != nil {
			t.Fatal(err)
		}
		return got.String() == want
	})
}

// A speaker is a second GoBGP, which only dials.
type speaker struct {
	t   *testing.T
	bgp *server.BgpServer
}

// speak has a speaker at addr keep a session with a router.
func speak(t *testing.T, addr netip.Addr, asn uint32, router netip.AddrPort, routerASN uint32) speaker {
	t.Helper()
	s := speaker{t: t, bgp: server.NewBgpServer(server.LoggerOption(&logger{level: log.PanicLevel}))}
	go s.bgp.Serve()
	err := s.bgp.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{Asn: asn, RouterId: addr.String(), ListenPort: -1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end(s.bgp, "")
		s.bgp.Stop()
	})
	families := []*api.AfiSafi{}
	for _, family := range []*api.Family{ipv4, ipv6} {
		families = append(families, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: family, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		})
	}
	err = s.bgp.AddPeer(t.Context(), &api.AddPeerRequest{Peer: &api.Peer{
		Conf:            &api.PeerConf{NeighborAddress: router.Addr().String(), PeerAsn: routerASN},
		Transport:       &api.Transport{LocalAddress: addr.String(), RemotePort: uint32(router.Port())},
		Timers:          &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1}},
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 120},
		AfiSafis:        families,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s speaker) path(prefix, nextHop string, more ...bgp.PathAttributeInterface) *api.Path {
	s.t.Helper()
	p := netip.MustParsePrefix(prefix)
	var nlri bgp.AddrPrefixInterface = bgp.NewIPAddrPrefix(uint8(p.Bits()), p.Addr().String())
	var hop bgp.PathAttributeInterface = bgp.NewPathAttributeNextHop(nextHop)
	if p.Addr().Is6() {
		nlri = bgp.NewIPv6AddrPrefix(uint8(p.Bits()), p.Addr().String())
		hop = bgp.NewPathAttributeMpReachNLRI(nextHop, []bgp.AddrPrefixInterface{nlri})
	}
	path, err := apiutil.NewPath(nlri, false, append([]bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0), hop}, more...), time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s speaker) announce(prefix, nextHop string, more ...bgp.PathAttributeInterface) {
	s.t.Helper()
	_, err := s.bgp.AddPath(s.t.Context(), &api.AddPathRequest{Path: s.path(prefix, nextHop, more...)})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s speaker) withdraw(prefix, nextHop string) {
	s.t.Helper()
	if err := s.bgp.DeletePath(s.t.Context(), &api.DeletePathRequest{Path: s.path(prefix, nextHop)}); err != nil {
		s.t.Fatal(err)
	}
}

func TestTheTableIsWhatSpeakersOfAnotherASAnnounce(t *testing.T) {
	r := start(t, Options{Addr: anyPort, ASN: 64501, Peers: []Peer{{nodeA, 64500}, {nodeB, 64500}}})
	a, b := speak(t, nodeA, 64500, r.Addr, r.ASN), speak(t, nodeB, 64500, r.Addr, r.ASN)

	a.announce("192.168.10.0/32", "127.0.0.11")
	b.announce("192.168.10.0/32", "127.0.0.12")
	a.announce("192.168.10.1/32", "127.0.0.11",
		bgp.NewPathAttributeCommunities([]uint32{65535<<16 | 65281, 1234<<16 | 1}),
		bgp.NewPathAttributeLargeCommunities([]*bgp.LargeCommunity{bgp.NewLargeCommunity(4200000000, 77, 3)}))
	b.announce("fd00:10::/64", "fd00::12")
	table(t, r, `
PREFIX            NEXT HOPS                AS PATH   LOCAL PREF   COMMUNITIES
192.168.10.0/32   127.0.0.11, 127.0.0.12   64500     -            -
192.168.10.1/32   127.0.0.11               64500     -            65535:65281 1234:1 4200000000:77:3
fd00:10::/64      fd00::12                 64500     -            -
`)
	if got := r.NextHops(web); !slices.Equal(got, []netip.Addr{nodeA, nodeB}) {
		t.Errorf("next hops of %s: %s", web, got)
	}
	if got := r.NextHops(netip.MustParsePrefix("10.0.0.0/8")); len(got) != 0 {
		t.Errorf("next hops of what nobody announced: %s", got)
	}
	if text := r.String(); !strings.HasPrefix(text, "sessions up: 127.0.0.11, 127.0.0.12; down: -\nPREFIX ") {
		t.Errorf("the router prints itself as\n%s", text)
	}
	for _, path := range r.Table() {
		if path.Prefix == web && path.From != path.NextHop {
			t.Errorf("path by %s is from %s", path.NextHop, path.From)
		}
	}

	a.withdraw("192.168.10.0/32", "127.0.0.11")
	a.withdraw("192.168.10.1/32", "127.0.0.11")
	table(t, r, `
PREFIX            NEXT HOPS    AS PATH   LOCAL PREF   COMMUNITIES
192.168.10.0/32   127.0.0.12   64500     -            -
fd00:10::/64      fd00::12     64500     -            -
`)
	r.Stop()
	if paths := r.Table(); len(paths) != 0 {
		t.Errorf("a stopped router has %v", paths)
	}
}

func TestSpeakersOfTheSameASSendALocalPreference(t *testing.T) {
	r := start(t, Options{Addr: anyPort, ASN: 64500, Peers: []Peer{{nodeA, 64500}, {nodeB, 64500}}})
	a, b := speak(t, nodeA, 64500, r.Addr, r.ASN), speak(t, nodeB, 64500, r.Addr, r.ASN)
	a.announce("192.168.10.0/32", "127.0.0.11", bgp.NewPathAttributeLocalPref(200))
	b.announce("192.168.10.0/32", "127.0.0.12", bgp.NewPathAttributeLocalPref(0))
	table(t, r, `
PREFIX            NEXT HOPS    AS PATH   LOCAL PREF   COMMUNITIES
192.168.10.0/32   127.0.0.11   -         200          -
192.168.10.0/32   127.0.0.12   -         0            -
`)
}

func TestAWaitInVainShowsTheTable(t *testing.T) {
	r := start(t, Options{Addr: anyPort, ASN: 64501, Peers: []Peer{{nodeA, 64500}, {nodeB, 64500}}})
	speak(t, nodeA, 64500, r.Addr, r.ASN).announce("192.168.10.0/32", "127.0.0.11")
	wait(t, r, "a route", func(paths []Path) bool { return len(paths) == 1 })

	tooLong := errors.New("that takes too long")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, tooLong)
	defer cancel()
	err := r.Wait(ctx, "both nodes to announce 192.168.10.0/32", func(paths []Path) bool { return len(NextHops(paths, web)) == 2 })
	if !errors.Is(err, tooLong) {
		t.Fatalf("%v", err)
	}
	for _, part := range []string{"both nodes to announce", "up: 127.0.0.11; down: 127.0.0.12", "192.168.10.0/32   127.0.0.11   64500"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%v", part, err)
		}
	}
}

func TestPeersComeAndGo(t *testing.T) {
	r := start(t, Options{Addr: anyPort, ASN: 64501, Peers: []Peer{{nodeA, 64500}}})
	speak(t, nodeA, 64500, r.Addr, r.ASN).announce("192.168.10.0/32", "127.0.0.11")
	speak(t, nodeB, 64500, r.Addr, r.ASN).announce("192.168.10.0/32", "127.0.0.12")
	steps := []struct {
		then string
		do   func() error
		want []netip.Addr
	}{
		{then: "only the peer is let in", do: func() error { return nil }, want: []netip.Addr{nodeA}},
		{then: "another one is added", do: func() error { return r.AddPeer(Peer{nodeB, 64500}) }, want: []netip.Addr{nodeA, nodeB}},
		{then: "the first one is removed", do: func() error { return r.RemovePeer(nodeA) }, want: []netip.Addr{nodeB}},
		{then: "and comes back", do: func() error { return r.AddPeer(Peer{nodeA, 64500}) }, want: []netip.Addr{nodeA, nodeB}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.then, err)
		}
		wait(t, r, step.then, func(paths []Path) bool { return slices.Equal(NextHops(paths, web), step.want) })
	}
	if err := r.AddPeer(Peer{nodeA, 64500}); err == nil {
		t.Error("a peer is added twice")
	}
	for name, do := range map[string]func(netip.Addr) error{"reset": r.ResetPeer, "removed": r.RemovePeer} {
		if err := do(netip.MustParseAddr("127.0.0.13")); err == nil {
			t.Errorf("somebody who is no peer is %s", name)
		}
	}
}

// raceDetector is set by race_test.go. GoBGP v3.37.0 marks paths for graceful restart while others read them.
var raceDetector bool

func TestAResetPeerLosesItsRoutesAndReturns(t *testing.T) {
	r := start(t, Options{Addr: anyPort, ASN: 64501, GracefulRestart: !raceDetector, Peers: []Peer{{nodeA, 64500}}})
	speak(t, nodeA, 64500, r.Addr, r.ASN).announce("192.168.10.0/32", "127.0.0.11")
	wait(t, r, "a route", func(paths []Path) bool { return len(paths) == 1 })
	if err := r.ResetPeer(nodeA); err != nil {
		t.Fatal(err)
	}
	if paths := r.Table(); len(paths) != 0 || r.Sessions()[nodeA] {
		t.Errorf("a peer that was reset has a session, or still routes:\n%s", r)
	}
	wait(t, r, "the next session", func(paths []Path) bool { return len(paths) == 1 && r.Sessions()[nodeA] })
}

func TestASessionCutShort(t *testing.T) {
	for _, test := range []struct {
		then    string
		options Options
		want    string
	}{
		{
			then:    "keeps its routes where graceful restart was agreed on",
			options: Options{GracefulRestart: true},
			want: `
PREFIX            NEXT HOPS            AS PATH   LOCAL PREF   COMMUNITIES
192.168.10.0/32   127.0.0.11 (stale)   64500     -            -
`,
		},
		{
			then: "loses its routes where it was not",
			want: `
PREFIX   NEXT HOPS   AS PATH   LOCAL PREF   COMMUNITIES
`,
		},
	} {
		t.Run(test.then, func(t *testing.T) {
			if test.options.GracefulRestart && raceDetector {
				suite.Need(t, errors.New("the race detector would report GoBGP: run it without -race"))
			}
			test.options.Addr, test.options.ASN, test.options.Peers = anyPort, 64501, []Peer{{nodeA, 64500}}
			r := start(t, test.options)
			wire := lay(t, nodeA, r.Addr)
			speak(t, nodeB, 64500, wire.addr, r.ASN).announce("192.168.10.0/32", "127.0.0.11")
			wait(t, r, "a route", func(paths []Path) bool { return len(paths) == 1 })
			wire.cut()
			wait(t, r, "the end of the session", func([]Path) bool { return !r.Sessions()[nodeA] })
			table(t, r, test.want)
		})
	}
}

// A wire takes what it is sent to a router, which sees it come from another address, until it is cut.
type wire struct {
	addr netip.AddrPort
	cut  func()
}

func lay(t *testing.T, from netip.Addr, to netip.AddrPort) wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var open sync.WaitGroup
	cut := func() {
		cancel()
		listener.Close()
		open.Wait()
	}
	t.Cleanup(cut)
	open.Go(func() {
		for {
			speaker, err := listener.Accept()
			if err != nil {
				return // cut
			}
			dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
			router, err := dialer.DialContext(ctx, "tcp", to.String())
			if err != nil {
				speaker.Close()
				continue
			}
			context.AfterFunc(ctx, func() {
				speaker.Close()
				router.Close()
			})
			for _, pair := range [][2]net.Conn{{speaker, router}, {router, speaker}} {
				open.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // until either end closes
					pair[0].Close()
				})
			}
		}
	})
	return wire{addr: listener.Addr().(*net.TCPAddr).AddrPort(), cut: cut}
}

func TestEveryRouterGetsAPortOfItsOwn(t *testing.T) {
	first := start(t, Options{Addr: anyPort, ASN: 64501})
	second := start(t, Options{Addr: anyPort, ASN: 64502})
	if first.Addr == second.Addr || first.Addr.Port() == 0 {
		t.Errorf("they listen at %s and %s", first.Addr, second.Addr)
	}
	if _, err := Start(Options{Addr: first.Addr, ASN: 64503}); err == nil {
		t.Error("a third one listens where the first one does")
	}
	first.Stop()
	first.Stop()
	start(t, Options{Addr: first.Addr, ASN: 64501}) // the place is free again
}
