// Package bfd shows that BFD does what it is for, with real routers, FRR's bfdd and BIRD, and our programs as they are, in a network of
// its own: a router, a node, and for several hops a router between them.
package bfd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is what a test needs and cannot do without.
func made[T any](made T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return made
	}
}

// What BFD promises with 100 ms and a multiplier of 3, and what the issue of a death may take: a third more.
const (
	detection = 300 * time.Millisecond
	limit     = detection * 13 / 10
	// frrWork is what FRR needs from the end of a BFD session until its routes have left the kernel: its queues wait on purpose.
	frrWork = 200 * time.Millisecond
	kills   = 20
)

// A scene is one router and one node, which has routes to tell.
type scene struct {
	t       *testing.T
	many    int  // routes
	ranges  bool // the router lets in whoever is in the node's network, and knows no node by its address
	kind    string
	v6      bool
	hops    int
	fabric  *network.Switch
	node    *network.Namespace
	router  network.Router
	shell   shell
	routes  *network.Recorder
	board   *noticeboard
	config  string // kubeconfig
	bin     string
	speaker *kubernetes.Process
	bfd     *kubernetes.Process
	late    func() time.Duration // since the cable was pulled
}

// A shell asks a router about BFD.
type shell func(ctx context.Context) (string, error)

func (s *scene) String() string {
	return fmt.Sprintf("%s, IPv%d, %d hops", s.kind, map[bool]int{false: 4, true: 6}[s.v6], s.hops)
}

// Addresses of the scene.
func (s *scene) addrs() (node, router netip.Addr, prefix netip.Prefix) {
	at := func(v4, v6 string) netip.Addr {
		if s.v6 {
			return netip.MustParseAddr(v6)
		}
		return netip.MustParseAddr(v4)
	}
	node, router = at("10.0.0.2", "fd00::2"), at("10.0.0.1", "fd00::1")
	if s.hops > 1 {
		router = at("10.1.0.1", "fd00:1::1")
	}
	service := at("192.168.10.1", "fd00:10::1")
	return node, router, netip.PrefixFrom(service, service.BitLen())
}

// configuration is the admitted one, with the interval of BFD in milliseconds; 0 is no BFD.
func (s *scene) configuration(interval int, more string) string {
	_, router, prefix := s.addrs()
	pool := netip.PrefixFrom(prefix.Addr(), map[bool]int{false: 18, true: 64}[s.v6]).Masked()
	peer := fmt.Sprintf("{name: router, peer-address: %q, peer-asn: 64501, my-asn: 64500, hold-time: 90s, connect-time: 1s%s", router, more)
	if s.hops > 1 {
		peer += ", ebgp-multihop: 5"
	}
	profile := ""
	if interval > 0 {
		peer += ", bfd-profile: quick"
		// BIRD sends what goes over several hops with Linux' usual TTL, 64.
		least := map[string]int{"FRR": 254, "BIRD": 60}[s.kind]
		profile = fmt.Sprintf("bfd-profiles: [{name: quick, receive-interval: %d, transmit-interval: %d, minimum-ttl: %d}]\n", interval, interval, least)
	}
	return fmt.Sprintf("%speers: [%s}]\naddress-pools: [{name: all, cidr: [%q]}]\n", profile, peer, pool)
}

// set builds the scene, without our programs.
func (s *scene) set(t *testing.T) {
	t.Helper()
	suite.Need(t, network.Missing())
	s.t = t
	s.bin = made(filepath.Abs(cmp.Or(os.Getenv("LAB_BIN"), "../../../bin")))(t)
	n := made(network.Start())(t)
	t.Cleanup(func() { must(t, n.Close()) })
	s.fabric = made(n.Switch("fabric"))(t)
	s.node = made(s.fabric.Host("node", "10.0.0.2/24", "fd00::2/64"))(t)
	var at *network.Namespace
	if s.hops == 1 {
		at = made(s.fabric.Host("router", "10.0.0.1/24", "fd00::1/64"))(t)
	} else {
		middle := made(s.fabric.Host("middle", "10.0.0.3/24", "fd00::3/64"))(t)
		at = made(n.Namespace("router"))(t)
		must(t, n.Link(middle, at))
		must(t, middle.Addresses("router", "10.1.0.3/24", "fd00:1::3/64"))
		must(t, at.Addresses("middle", "10.1.0.1/24", "fd00:1::1/64"))
		must(t, middle.Forward())
		must(t, s.node.IP("route", "add", "10.1.0.0/24", "via", "10.0.0.3"))
		must(t, s.node.IP("route", "add", "fd00:1::/64", "via", "fd00::3"))
		must(t, at.IP("route", "add", "10.0.0.0/24", "via", "10.1.0.3"))
		must(t, at.IP("route", "add", "fd00::/64", "via", "fd00:1::3"))
	}
	s.routes = made(at.Record())(t)
	node, router, _ := s.addrs()
	around := netip.PrefixFrom(node, node.BitLen()-8).Masked()
	switch s.kind {
	case "FRR":
		neighbor, group := node.String(), ""
		if s.ranges {
			neighbor, group = "nodes", " neighbor nodes peer-group\n"
		}
		config := fmt.Sprintf(`
router bgp 64501
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 bgp graceful-restart
%[2]s neighbor %[1]s remote-as 64500
 neighbor %[1]s passive
 neighbor %[1]s bfd
 neighbor %[1]s bfd profile quick
`, neighbor, group)
		if s.hops > 1 {
			config += fmt.Sprintf(" neighbor %s ebgp-multihop 5\n neighbor %[1]s update-source %s\n", neighbor, router)
		}
		if s.ranges {
			config += fmt.Sprintf(" bgp listen range %s peer-group nodes\n", around)
		}
		config += fmt.Sprintf(" address-family ipv6 unicast\n  neighbor %s activate\n", neighbor)
		frr := made(at.FRR(t.Context(), config, `
log timestamp precision 6
debug bfd peer
bfd
 profile quick
  detect-multiplier 3
  receive-interval 100
  transmit-interval 100
`))(t)
		s.router, s.shell = frr, func(ctx context.Context) (string, error) { return frr.Show(ctx, "show bfd peers") }
	case "BIRD":
		family, kernel := "ipv4", "protocol kernel { ipv4 { export all; }; }\nprotocol kernel { ipv6 { export all; }; }\n"
		if s.v6 {
			family = "ipv6"
		}
		reach, neighbor := "direct", node.String()
		if s.hops > 1 {
			reach = "multihop 5"
		}
		if s.ranges {
			neighbor = "range " + around.String()
		}
		bird := made(at.BIRD(t.Context(), fmt.Sprintf(`
router id 10.0.0.1;
%s
protocol direct { ipv4; ipv6; }
protocol bfd {
	interface "*" { interval 100 ms; multiplier 3; };
	multihop { interval 100 ms; multiplier 3; };
}
protocol bgp node {
	local %s as 64501;
	neighbor %s as 64500;
	%s;
	passive on;
	bfd on;
	error wait time 1, 2;
	%s { import all; export none; };
}
`, kernel, router, neighbor, reach, family)))(t)
		s.router, s.shell = bird, func(ctx context.Context) (string, error) { return bird.Show(ctx, "show", "bfd", "sessions") }
	}
	s.board = newNoticeboard(s.configuration(100, ""), s.many, "10.0.0.2", "fd00::2")
	listener := made(s.node.Listen("127.0.0.1:6443"))(t)
	server := &http.Server{Handler: s.board}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	s.config = filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(s.config, []byte(`
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "http://127.0.0.1:6443"}}]
contexts: [{name: lab, context: {cluster: lab, user: node}}]
users: [{name: node, user: {}}]
current-context: lab
`), 0o600))
}

// start starts one of our programs on the node.
func (s *scene) start(program string) *kubernetes.Process {
	s.t.Helper()
	binary := filepath.Join(s.bin, program)
	if _, err := os.Stat(binary); err != nil {
		s.t.Fatalf("%v: make race builds it", err)
	}
	return made(s.node.Start(kubernetes.Program{
		Name: program, Binary: binary, Log: filepath.Join(s.t.TempDir(), program+".log"),
		Args: []string{"--kubeconfig", s.config, "--node-name", "node", "--secure-port", "0"},
	}))(s.t)
}

// until waits for something.
func (s *scene) until(what string, problem func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := kubernetes.Until(ctx, what, func(context.Context) error { return problem() }); err != nil {
		show, _ := s.shell(context.Background())
		words := ""
		for _, p := range []*kubernetes.Process{s.speaker, s.bfd} {
			if p != nil {
				words += p.Output()
			}
		}
		s.t.Fatalf("%s: %v\n%s\n%s", s, err, show, words)
	}
}

// up waits until BGP and BFD are up and the route is there.
func (s *scene) up() {
	s.t.Helper()
	node, _, prefix := s.addrs()
	s.until("BGP and BFD are up", func() error {
		table, err := s.router.Table(s.t.Context())
		if err != nil {
			return err
		}
		session, err := s.router.Session(s.t.Context(), node)
		if err != nil {
			return err
		}
		if !session.Up || !session.Complete && s.kind == "FRR" {
			return fmt.Errorf("the session is %+v", session)
		}
		events, err := s.routes.Events(s.t.Context())
		if err != nil {
			return err
		}
		kernel := map[netip.Prefix]bool{}
		for _, e := range events {
			if kernel[e.Prefix] = e.Prefix.Bits() == prefix.Bits(); e.Gone || !kernel[e.Prefix] { // not BIRD's networks
				delete(kernel, e.Prefix)
			}
		}
		if len(kernel) == s.many && len(table) == s.many {
			return s.watched(100)
		}
		return fmt.Errorf("there are %d routes, of %d, and %d in the kernel", len(table), s.many, len(kernel))
	})
}

// watched says what is wrong about the router's BFD session, which is to be up with this interval.
func (s *scene) watched(interval int) error {
	show, err := s.shell(s.t.Context())
	if err != nil {
		return err
	}
	lower := strings.ToLower(show)
	node, _, _ := s.addrs()
	want := []string{node.String(), "status: up", fmt.Sprintf("receive interval: %dms", interval)}
	if s.kind == "BIRD" {
		want = []string{node.String(), " up ", fmt.Sprintf("%.3f", float64(interval)/1000)}
	}
	for _, w := range want {
		if !strings.Contains(lower, w) {
			return fmt.Errorf("BFD has no %q:\n%s", w, show)
		}
	}
	return nil
}

// gone returns how long after a time the route was removed from the router's kernel.
func (s *scene) gone(since time.Time) time.Duration {
	s.t.Helper()
	_, _, prefix := s.addrs()
	var took time.Duration
	s.until("the route is removed", func() error {
		events, err := s.routes.Events(s.t.Context())
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Gone && e.Prefix == prefix && e.At.After(since) {
				took = e.At.Sub(since)
				return nil
			}
		}
		return fmt.Errorf("%d events", len(events))
	})
	return took
}

// pull pulls the node's cable, at once, which a command would not, and returns when.
func (s *scene) pull() (at time.Time) {
	s.t.Helper()
	s.late = lateness()
	must(s.t, s.fabric.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		link, err := unix.NewIfreq(s.node.Name)
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, link)
		}
		if err != nil {
			return err
		}
		link.SetUint16(link.Uint16() &^ unix.IFF_UP)
		at = time.Now()
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, link)
	}))
	return at
}

// lateness returns what tells how late, at the worst, this process got to run until then: the machine was busy, and that is no program's
// fault here.
func lateness() func() time.Duration {
	const nap = 5 * time.Millisecond
	asked, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			began := time.Now()
			select {
			case <-time.After(nap):
				most = max(most, time.Since(began)-nap)
			case <-asked:
				worst <- most
				return
			}
		}
	}()
	return func() time.Duration { close(asked); return <-worst }
}

// demand demands that something after the pull of the cable took so long at most.
func (s *scene) demand(took, most time.Duration) {
	s.t.Helper()
	if late := s.late(); took > most+late {
		s.t.Errorf("%s: it took %v; the limit is %v, and the machine was late by %v", s, took, most, late)
	}
}

// scenes are both routers, one over one hop by IPv4, the other over two by IPv6; with LAB_SCENES=all, each in all four ways.
func scenes(t *testing.T, like scene, test func(*scene)) {
	for _, kind := range []string{"FRR", "BIRD"} {
		for _, hops := range []int{1, 2} {
			for _, v6 := range []bool{false, true} {
				if (v6 != (hops == 2) || v6 != (kind == "BIRD")) && os.Getenv("LAB_SCENES") != "all" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d-hops/v6=%t", kind, hops, v6), func(t *testing.T) {
					suite.Heavy(t)
					s := like
					s.kind, s.hops, s.v6 = kind, hops, v6
					s.set(t)
					test(&s)
				})
			}
		}
	}
}

// fell returns how long after a time FRR's bfdd took the node for dead; BIRD does not say.
func (s *scene) fell(since time.Time) (took time.Duration) {
	s.t.Helper()
	frr, ok := s.router.(*network.FRR)
	if !ok {
		return s.gone(since)
	}
	s.until("bfdd says that it is down", func() error {
		text, err := frr.BFDLog()
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			const layout = "2006/01/02 15:04:05.000000"
			if !strings.Contains(line, "up -> down") {
				continue
			}
			at, err := time.ParseInLocation(layout, line[:len(layout)], time.Local)
			if err == nil && at.After(since) {
				took = at.Sub(since)
				return nil
			}
		}
		return fmt.Errorf("it says\n%s", text)
	})
	return took
}

// The cable of the node is pulled: its router hears nothing any more, and no link goes down.
func TestADeadNodeIsForgottenWithinTheDetectionTime(t *testing.T) {
	scenes(t, scene{many: 1}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		var noticed, forgotten []time.Duration
		for range kills {
			s.up()
			since := s.pull()
			gone := s.gone(since)
			fell := s.fell(since)
			if forgotten, noticed = append(forgotten, gone), append(noticed, fell); s.kind == "FRR" {
				gone -= frrWork
			}
			s.demand(max(gone, fell), limit)
			must(s.t, s.fabric.Replug(s.node))
		}
		s.t.Logf("%s: noticed after %v, routes are gone after %v", s, spread(noticed), spread(forgotten))
	})
}

func spread(all []time.Duration) string {
	slices.Sort(all)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%v to %v, median %v", round(all[0]), round(all[len(all)-1]), round(all[len(all)/2]))
}

// changes returns what happened to routes since a time.
func (s *scene) changes(since time.Time) (all []network.Event) {
	s.t.Helper()
	for _, e := range made(s.routes.Events(s.t.Context()))(s.t) {
		if e.At.After(since) {
			all = append(all, e)
		}
	}
	return all
}

// That is what BFD in a process of its own is for.
func TestARestartOfTheSpeakerIsNoDeath(t *testing.T) {
	scenes(t, scene{many: 5000}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		s.restart()
	})
}

// restart kills the speaker, starts it again, and demands that no route has noticed.
func (s *scene) restart() {
	s.t.Helper()
	s.up()
	since := time.Now()
	s.speaker.Kill()
	<-time.After(2 * time.Second) // longer than any detection time
	s.speaker = s.start("metallb-speaker")
	s.up()
	changed := s.changes(since)
	// FRR installs IPv6 routes over a next hop that is not on a link once more when the session is back, and Linux shows each as one
	// that goes and comes within microseconds. It does so without BFD, too.
	again := s.kind == "FRR" && s.v6 && s.hops > 1 && installedOnceMore(changed)
	s.t.Logf("%s: %d route events", s, len(changed))
	if len(changed) != 0 && !again {
		s.t.Errorf("%s: since %s: %v", s, since.Format("15:04:05.000000"), changed[:min(10, len(changed))])
	}
}

// A router that knows no node by its address, and lets in a network of them, watches each like any other.
func TestNodesOfARangeAreWatchedLikeOthers(t *testing.T) {
	scenes(t, scene{many: 1, ranges: true}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		s.restart()
		took, most := s.gone(s.pull()), limit
		if s.kind == "FRR" {
			most += frrWork
		}
		s.t.Logf("%s: the route is gone after %v", s, took.Round(time.Millisecond))
		s.demand(took, most)
		must(s.t, s.fabric.Replug(s.node))
		s.up()
	})
}

// installedOnceMore reports whether each route that went was back in the next moment, before another went.
func installedOnceMore(changed []network.Event) bool {
	for i, e := range changed {
		if e.Gone && (i+1 == len(changed) || changed[i+1].Gone || changed[i+1].Prefix != e.Prefix) {
			return false
		}
	}
	return true
}

// FRR 8.4 and BIRD 2.0 do not tell "administratively down" from "down", although RFC 5882 §3.2 asks for it. So a stop of the responder
// costs the session, as its death does, and the speaker begins another at once.
func TestAStopOfTheResponderCostsTheSession(t *testing.T) {
	scenes(t, scene{many: 1}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			s.up()
			since := time.Now()
			must(s.t, s.bfd.Signal(how))
			noticed := s.gone(since)
			<-s.bfd.Done()
			s.bfd = s.start("metallb-bfd")
			s.up()
			changed := s.changes(since)
			s.t.Logf("%s: %v: the route is gone after %v, for %v", s, how, noticed.Round(time.Millisecond),
				changed[len(changed)-1].At.Sub(changed[0].At).Round(time.Millisecond))
			if how == syscall.SIGTERM && s.bfd.Err() != nil {
				s.t.Error(s.bfd.Err())
			}
		}
	})
}

func TestOtherTimersAreAgreedWhileTheSessionIsUp(t *testing.T) {
	scenes(t, scene{many: 1}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		s.up()
		since := time.Now()
		for _, interval := range []int{250, 100} {
			s.board.configure(s.configuration(interval, ""))
			s.until("the other timers are in force", func() error { return s.watched(interval) })
		}
		if changed := s.changes(since); len(changed) != 0 {
			s.t.Errorf("%s: %v", s, changed)
		}
		if words := s.bfd.Output(); strings.Contains(words, "BFD session is down") {
			s.t.Errorf("%s: %s", s, words)
		}
	})
}

// The speaker hears from the responder, and leaves a dead router long before the hold time of 90 s.
func TestADeadRouterIsLeftWithinTheDetectionTime(t *testing.T) {
	scenes(t, scene{many: 1}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		s.up()
		s.until("the responder says that BFD is up", func() error {
			if !strings.Contains(s.bfd.Output(), "BFD session is up") {
				return fmt.Errorf("it says %s", s.bfd.Output())
			}
			return nil
		})
		since := s.pull()
		var took time.Duration
		s.until("the speaker leaves the router", func() error {
			for line := range strings.Lines(s.speaker.Output()) {
				const layout = "I0102 15:04:05.000000"
				if !strings.Contains(line, "Session is down") {
					continue
				}
				at, err := time.ParseInLocation(layout, line[:len(layout)], time.Local)
				took = at.AddDate(since.Year(), 0, 0).Sub(since)
				if !strings.Contains(line, "BFD says that the router is dead") {
					err = errors.Join(err, fmt.Errorf("it says %s", line))
				}
				return err
			}
			return errors.New("it does not say so")
		})
		s.t.Logf("%s: the speaker left after %v; the responder has %d MiB", s, took.Round(time.Millisecond), resident(s.t, s.bfd.PID())>>20)
		s.demand(took, limit)
	})
}

// One responder on a node, and one that plays a thousand routers, each at its own address.
func TestAThousandSessionsOfOneResponder(t *testing.T) {
	suite.Heavy(t)
	s := &scene{kind: "BIRD", hops: 1} // of which only the network is used
	s.set(t)
	const sessions, interval = 1000, 300
	farm := made(s.fabric.Host("farm", "10.0.0.9/24", "10.9.255.253/24"))(t)
	must(t, s.node.Addresses("fabric", "10.9.255.254/16"))
	must(t, farm.IP("route", "add", "local", "10.9.0.0/22", "dev", "lo"))
	profile := fmt.Sprintf("bfd-profiles: [{name: quick, receive-interval: %d, transmit-interval: %d}]\npeers:\n", interval, interval)
	ours, theirs := profile, profile
	for i := range sessions {
		at := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		ours += fmt.Sprintf("- {peer-address: %s, peer-asn: 1, my-asn: 2, bfd-profile: quick}\n", at)
		theirs += fmt.Sprintf("- {name: %q, peer-address: 10.9.255.254, source-address: %s, peer-asn: 2, my-asn: 1, bfd-profile: quick}\n", at, at)
	}
	s.board.configure(ours)
	board := newNoticeboard(theirs, 0, "10.0.0.9")
	listener := made(farm.Listen("127.0.0.1:6443"))(t)
	server := &http.Server{Handler: board}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	s.bfd = s.start("metallb-bfd")
	idle := resident(t, s.bfd.PID())
	s.node, s.speaker = farm, nil
	routers := s.start("metallb-bfd")
	s.until("all sessions are up", func() error {
		if n := strings.Count(s.bfd.Output(), "BFD session is up"); n < sessions {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	<-time.After(5 * time.Second) // the timers are agreed
	before, began := processor(t, s.bfd.PID()), time.Now()
	<-time.After(20 * time.Second)
	share := float64(processor(t, s.bfd.PID())-before) / float64(time.Since(began))
	t.Logf("%d sessions at %d ms: %.1f %% of a processor, %d MiB (%d MiB when it began)", sessions, interval, 100*share, resident(t, s.bfd.PID())>>20, idle>>20)
	for _, p := range []*kubernetes.Process{s.bfd, routers} {
		if n := strings.Count(p.Output(), "BFD session is down"); n > 0 {
			t.Errorf("%d sessions went down", n)
		}
	}
	if most := 64 << 20; resident(t, s.bfd.PID()) > most && os.Getenv("LAB_BIN") == "" { // the race detector takes more
		t.Errorf("it takes more than %d bytes", most)
	}
}

// resident is how much memory a process has, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text := string(made(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t))
	_, text, _ = strings.Cut(text, "VmRSS:")
	var kilobytes int
	made(fmt.Sscan(text, &kilobytes))(t)
	return kilobytes << 10
}

// processor is how much time of processors a process has used.
func processor(t *testing.T, pid int) time.Duration {
	t.Helper()
	text := string(made(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))(t))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	var ticks time.Duration
	for _, f := range fields[11:13] { // utime and stime
		var n time.Duration
		made(fmt.Sscan(f, &n))(t)
		ticks += n
	}
	return ticks * 10 * time.Millisecond
}

// The node no longer hears its router, which hears the node: the node says so, and that is the end for both.
func TestACableOfOneDirectionOnlyIsNoCable(t *testing.T) {
	scenes(t, scene{many: 1}, func(s *scene) {
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		s.up()
		_, router, _ := s.addrs()
		family := "ip"
		if s.v6 {
			family = "ip6"
		}
		made(s.node.Run(s.t.Context(), "nft", "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; }"))(s.t)
		since := time.Now()
		made(s.node.Run(s.t.Context(), "nft", fmt.Sprintf("add rule inet deaf input %s saddr %s drop", family, router)))(s.t)
		took := s.gone(since)
		s.t.Logf("%s: the route is gone after %v", s, took.Round(time.Millisecond))
		if took > time.Second {
			s.t.Errorf("%s: that is more than a second", s)
		}
	})
}

// While its speaker is away, a node's routes are those of a graceful restart. BIRD still watches it by BFD then, FRR does not.
func TestANodeThatDiesWhileItsSpeakerRestarts(t *testing.T) {
	scenes(t, scene{many: 1}, func(s *scene) {
		const restart = 10 * time.Second
		s.board.configure(s.configuration(100, ", graceful-restart: {restart-time: 10s}"))
		s.speaker, s.bfd = s.start("metallb-speaker"), s.start("metallb-bfd")
		s.up()
		node, _, _ := s.addrs()
		s.speaker.Kill()
		s.until("the router has seen that the session ended", func() error {
			session, err := s.router.Session(s.t.Context(), node)
			if err == nil && session.Up {
				err = errors.New("it is up")
			}
			return err
		})
		took := s.gone(s.pull())
		s.t.Logf("%s: the route is gone after %v", s, took.Round(time.Millisecond))
		most := limit
		if s.kind == "FRR" {
			most = restart + time.Second
		}
		s.demand(took, most)
	})
}
