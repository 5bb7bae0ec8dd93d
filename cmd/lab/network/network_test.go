package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
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

// start makes a network for one test.
func start(t *testing.T) *Network {
	t.Helper()
	suite.Need(t, Missing())
	n := made(Start())(t)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if left := namespaces(t, fmt.Sprintf("lab-%d-", os.Getpid())); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
		if _, err := os.Stat(n.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", n.Dir, err)
		}
	})
	return n
}

// namespaces of this machine whose names begin like this.
func namespaces(t *testing.T, prefix string) []string {
	t.Helper()
	paths, err := filepath.Glob("/run/netns/" + prefix + "*")
	must(t, err)
	return paths
}

// eventually waits until there is no problem any more.
func eventually(t *testing.T, problem func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := problem()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shows waits until a router prints as wanted.
func shows(t *testing.T, what fmt.Stringer, print func() (string, error), want string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	eventually(t, func() error {
		got, err := print()
		if err == nil && got != want {
			err = fmt.Errorf("%s has\n%s\nwant\n%s", what, got, want)
		}
		return err
	})
}

func table(t *testing.T, r Router, want string) {
	t.Helper()
	shows(t, r, func() (string, error) {
		paths, err := r.Table(t.Context())
		var text strings.Builder
		if err == nil {
			err = router.Print(&text, paths)
		}
		return text.String(), err
	}, want)
}

// FRR and GoBGP learn from BIRD, by eBGP and iBGP, of both IP versions.
func TestRoutersOfThreeKindsLearnFromEachOther(t *testing.T) {
	n := start(t)
	lan := made(n.Switch("lan"))(t)
	a := made(lan.Host("frr", "10.0.0.1/24", "fd00::1/64"))(t)
	b := made(lan.Host("bird", "10.0.0.2/24", "fd00::2/64"))(t)
	c := made(lan.Host("gobgp", "10.0.0.3/24"))(t)
	gobgp := made(c.GoBGP(router.Options{
		Addr: netip.MustParseAddrPort("10.0.0.3:179"), ASN: 200, Peers: []router.Peer{{Addr: netip.MustParseAddr("10.0.0.2"), ASN: 200}},
	}))(t)
	frr := made(a.FRR(t.Context(), `
router bgp 100
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.0.0.2 remote-as 200
 neighbor 10.0.0.2 passive
 address-family ipv4 unicast
  maximum-paths 8
  network 10.2.0.0/24 route-map drain
  network 10.2.1.0/24
 exit-address-family
 address-family ipv6 unicast
  neighbor 10.0.0.2 activate
 exit-address-family
route-map drain permit 1
 set community graceful-shutdown
 set large-community 100:7:7
`))(t)
	recorder := made(a.Record())(t)
	bird := made(b.BIRD(t.Context(), `
router id 10.0.0.2;
protocol kernel { ipv4 { export all; }; merge paths on; }
protocol static {
	ipv4;
	route 10.1.0.0/32 via 10.0.0.9 { bgp_community.add((65535,65281)); bgp_large_community.add((200,77,3)); };
	route 10.1.0.1/32 via 10.0.0.8 weight 3 via 10.0.0.9;
}
protocol static { ipv6; route fd00:1::/64 via fd00::9; }
protocol bgp frr {
	local 10.0.0.2 as 200;
	neighbor 10.0.0.1 as 100;
	connect delay time 1;
	ipv4 { import all; export all; };
	ipv6 { import all; export all; };
}
protocol bgp gobgp {
	local 10.0.0.2 as 200;
	neighbor 10.0.0.3 as 200;
	connect delay time 1;
	ipv4 { import all; export all; };
}
`))(t)

	table(t, frr, `
PREFIX        NEXT HOPS   AS PATH   LOCAL PREF   COMMUNITIES
10.1.0.0/32   10.0.0.9    200       -            65535:65281 200:77:3
10.1.0.1/32   10.0.0.2    200       -            -
10.2.0.0/24   0.0.0.0     -         -            65535:0 100:7:7
10.2.1.0/24   0.0.0.0     -         -            -
fd00:1::/64   fd00::9     200       -            -
`)
	table(t, bird, `
PREFIX        NEXT HOPS   AS PATH   LOCAL PREF   COMMUNITIES
10.2.0.0/24   10.0.0.1    100       100          65535:0 100:7:7
10.2.1.0/24   10.0.0.1    100       100          -
`)
	shows(t, gobgp.Router, func() (string, error) { return gobgp.Router.String(), nil }, `
sessions up: 10.0.0.2; down: -
PREFIX        NEXT HOPS   AS PATH   LOCAL PREF   COMMUNITIES
10.1.0.0/32   10.0.0.9    -         100          65535:65281 200:77:3
10.1.0.1/32   10.0.0.2    -         100          -
10.2.0.0/24   10.0.0.1    100       100          65535:0 100:7:7
10.2.1.0/24   10.0.0.1    100       100          -
`)
	kernel(t, frr, `map[10.1.0.0/32:[10.0.0.9*1] 10.1.0.1/32:[10.0.0.2*1] fd00:1::/64:[fd00::9*1]]`)
	kernel(t, bird, `map[10.1.0.0/32:[10.0.0.9*1] 10.1.0.1/32:[10.0.0.8*3 10.0.0.9*1] 10.2.0.0/24:[10.0.0.1*1] 10.2.1.0/24:[10.0.0.1*1]]`)
	for _, end := range []struct {
		of       Router
		neighbor string
	}{{frr, "10.0.0.2"}, {bird, "10.0.0.1"}} {
		session := made(end.of.Session(t.Context(), netip.MustParseAddr(end.neighbor)))(t)
		if !session.Up || !session.Complete || session.Updates+session.Changes == 0 {
			t.Errorf("%s has session %+v", end.of, session)
		}
		if _, err := end.of.Session(t.Context(), netip.MustParseAddr("10.0.0.77")); err == nil {
			t.Errorf("%s knows a neighbor that it does not have", end.of)
		}
	}

	made(bird.Show(t.Context(), "disable", "frr"))(t)
	table(t, frr, `
PREFIX        NEXT HOPS   AS PATH   LOCAL PREF   COMMUNITIES
10.2.0.0/24   0.0.0.0     -         -            65535:0 100:7:7
10.2.1.0/24   0.0.0.0     -         -            -
`)
	eventually(t, func() error {
		var got []string
		for _, e := range made(recorder.Events(t.Context()))(t) {
			_, text, _ := strings.Cut(e.String(), " ")
			got = append(got, text)
		}
		slices.Sort(got)
		want := []string{
			"10.1.0.0/32 by way of [10.0.0.9*1] added or replaced", "10.1.0.0/32 by way of [10.0.0.9*1] removed",
			"10.1.0.1/32 by way of [10.0.0.2*1] added or replaced", "10.1.0.1/32 by way of [10.0.0.2*1] removed",
			"fd00:1::/64 by way of [fd00::9*1] added or replaced", "fd00:1::/64 by way of [fd00::9*1] removed",
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("the recorder has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

// kernel waits until a router's kernel has these routes.
func kernel(t *testing.T, r Router, want string) {
	t.Helper()
	shows(t, r, func() (string, error) {
		routes, err := r.Routes(t.Context())
		return fmt.Sprint(routes), err
	}, want)
}

// Whoever does not hear of his own routes in time stops the whole machine: see netlinkBuffer.
func TestARouterKeepsUpWithItsOwnRoutes(t *testing.T) {
	const routes = 20_000
	ns := made(start(t).Namespace("router"))(t)
	must(t, ns.IP("link", "add", "stub", "type", "bridge"))
	must(t, ns.IP("link", "set", "stub", "up"))
	must(t, ns.Addresses("stub", "10.0.0.1/24"))
	var config strings.Builder
	config.WriteString("router id 10.0.0.1;\nprotocol kernel { ipv4 { export all; }; }\nprotocol static many { ipv4;\n")
	for i := range routes {
		fmt.Fprintf(&config, "route 100.64.%d.%d/32 via 10.0.0.2;\n", i/256, i%256)
	}
	config.WriteString("}\n")
	r := made(ns.BIRD(t.Context(), config.String()))(t)
	has := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if out := made(ns.Run(t.Context(), "ip", "route", "show", "proto", "bird"))(t); strings.Count(out, "\n") != want {
				return fmt.Errorf("the kernel has %d routes, want %d", strings.Count(out, "\n"), want)
			}
			return nil
		})
	}
	has(routes)
	made(r.Show(t.Context(), "disable", "many"))(t)
	has(0)
	if log := r.bird.Output(); strings.Contains(log, "Kernel dropped some netlink messages") {
		t.Errorf("BIRD could not keep up:\n%s", log)
	}
}

func TestTwoHostsOnACableHearEachOther(t *testing.T) {
	n := start(t)
	a, b := made(n.Namespace("a"))(t), made(n.Namespace("b"))(t)
	must(t, n.Link(a, b))
	must(t, a.Addresses("b", "10.0.0.1/30", "fd00::1/64"))
	must(t, b.Addresses("a", "10.0.0.2/30", "fd00::2/64"))
	if links := made(b.Run(t.Context(), "ip", "-brief", "link"))(t); len(strings.Split(strings.TrimSpace(links), "\n")) != 2 {
		t.Errorf("there is more than a loopback interface and a cable:\n%s", links)
	}
	for _, addr := range []string{"10.0.0.2:80", "[fd00::2]:80"} {
		listener := made(b.Listen(addr))(t)
		must(t, a.Do(func() error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			return conn.Close()
		}))
		conn, err := listener.Accept()
		must(t, err)
		must(t, conn.Close())
	}
}

func TestARelayReachesTheHostsLoopback(t *testing.T) {
	n := start(t)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				heard, _ := io.ReadAll(conn) // until the other side has said all
				fmt.Fprintf(conn, "heard %s", heard)
			}()
		}
	}()
	ns := made(n.Namespace("node"))(t)
	addr := server.Addr().String()
	must(t, ns.Relay(addr, addr))
	for range 3 {
		var conn net.Conn
		must(t, ns.Do(func() (err error) { conn, err = net.Dial("tcp", addr); return err }))
		fmt.Fprint(conn, "hello")
		must(t, conn.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		must(t, err)
		if string(answer) != "heard hello" {
			t.Errorf("got %q", answer)
		}
		conn.Close()
	}
}

func TestAllThatAProgramStartedEndsWithItWhenItIsAlone(t *testing.T) {
	n := start(t)
	ns := made(n.Namespace("node"))(t)
	const script = `mount --make-rprivate / && mount -t tmpfs tmpfs "$0" && setsid sleep 3600 & wait; sleep 3600`
	dir := t.TempDir()
	program := made(ns.Start(kubernetes.Program{
		Name: "alone", Binary: "sh", Args: []string{"-c", script, dir}, Log: filepath.Join(n.Dir, "alone.log"), Alone: true,
	}))(t)
	inside := func() []string { return strings.Fields(made(run("ip", "netns", "pids", ns.ID))(t)) }
	must(t, program.Until(t.Context(), "it has a child that mounted something", func(context.Context) error {
		for _, pid := range inside() {
			mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
			if err == nil && pid != fmt.Sprint(program.PID()) && strings.Contains(string(mounts), dir) {
				return nil
			}
		}
		return errors.New("not yet")
	}))
	if mounts := made(os.ReadFile("/proc/self/mountinfo"))(t); strings.Contains(string(mounts), dir) {
		t.Errorf("its mount is everybody's:\n%s", mounts)
	}
	program.Kill()
	if pids := inside(); len(pids) > 0 {
		t.Errorf("the processes %v are left", pids)
	}
}

// The test runs itself as a lab, which starts FRR and is then killed.
func TestNothingOutlivesALabThatIsKilled(t *testing.T) {
	const variable = "LAB_THAT_IS_KILLED"
	if os.Getenv(variable) != "" {
		n := start(t)
		ns := made(n.Namespace("frr"))(t)
		_ = made(ns.FRR(t.Context(), "router bgp 100\n"))(t)
		fmt.Printf("running in %s\n", n.Dir)
		select {}
	}
	start(t) // skips where nothing runs
	lab := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	lab.Env = append(os.Environ(), variable+"=1")
	out, err := lab.StdoutPipe()
	must(t, err)
	must(t, lab.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	dir := strings.TrimPrefix(strings.TrimSpace(line), "running in ")
	prefix := fmt.Sprintf("lab-%d-", lab.Process.Pid)
	running := namespaces(t, prefix)
	if len(running) != 1 {
		t.Fatalf("namespaces %v, output %s", running, line)
	}
	pids, err := run("ip", "netns", "pids", filepath.Base(running[0]))
	must(t, err)
	if len(strings.Fields(pids)) < 2 {
		t.Errorf("zebra and bgpd do not run: %q", pids)
	}
	must(t, lab.Process.Kill())
	_ = lab.Wait() // killed, as it says
	eventually(t, func() error {
		if left := namespaces(t, prefix); len(left) > 0 {
			return fmt.Errorf("%v is left", left)
		}
		for _, pid := range strings.Fields(pids) {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return fmt.Errorf("process %s is left", pid)
			}
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s is left", dir)
		}
		return nil
	})
}

func TestAStartRemovesWhatALabWithoutJanitorLeft(t *testing.T) {
	start(t)
	// No process has a number this high (proc(5), pid_max).
	const left, others = "lab-4194305-1-node", "lab-of-somebody-else"
	for _, name := range []string{left, others} {
		_, err := run("ip", "netns", "add", name)
		must(t, err)
		defer run("ip", "netns", "del", name)
	}
	sleeper, err := kubernetes.Program{
		Name: "sleeper", Binary: "ip", Args: []string{"netns", "exec", left, "sleep", "3600"}, Log: filepath.Join(t.TempDir(), "log"),
	}.Start()
	must(t, err)
	defer sleeper.Kill()
	must(t, sleeper.Until(t.Context(), "run inside", func(context.Context) error {
		if pids, err := run("ip", "netns", "pids", left); err != nil || pids == "" {
			return fmt.Errorf("not yet: %w", err)
		}
		return nil
	}))
	start(t)
	<-sleeper.Done()
	if len(namespaces(t, left)) > 0 {
		t.Error("it is still there")
	}
	if len(namespaces(t, others)) != 1 {
		t.Error("another one is gone")
	}
}
