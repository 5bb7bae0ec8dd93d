package traffic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// made is what a test needs and cannot do without.
func made[T any](made T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return made
	}
}

var (
	client4 = netip.MustParseAddr("10.0.0.1")
	target4 = netip.MustParseAddrPort("10.0.0.2:80")
	target6 = netip.MustParseAddrPort("[fd00::2]:80")
)

// A site is a client and a server, plugged into a switch.
type site struct {
	lan            *network.Switch
	client, server *network.Namespace
}

func build(t testing.TB) site {
	t.Helper()
	suite.Need(t, network.Missing())
	n, err := network.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var s site
	if s.lan, err = n.Switch("lan"); err == nil {
		if s.client, err = s.lan.Host("client", "10.0.0.1/24", "fd00::1/64"); err == nil {
			s.server, err = s.lan.Host("server", "10.0.0.2/24", "fd00::2/64")
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve answers at both addresses, until the end of the test.
func (s site) serve(t testing.TB, handler http.HandlerFunc) {
	t.Helper()
	server := &http.Server{Handler: handler}
	t.Cleanup(func() { server.Close() })
	for _, addr := range []netip.AddrPort{target4, target6} {
		listener, err := s.server.Listen(addr.String())
		if err != nil {
			t.Fatal(err)
		}
		go server.Serve(listener)
	}
}

// pod answers as the lab's pods do.
func pod(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "web-1 server %s\n", r.RemoteAddr)
}

// send begins traffic, which ends with the test if not before.
func (s site) send(t testing.TB, target netip.AddrPort, options Options) *Traffic {
	t.Helper()
	traffic, err := Start(s.client, target, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { traffic.Stop() })
	return traffic
}

// until waits until the record of the traffic is as described.
func until(t *testing.T, traffic *Traffic, what string, is func(*Record) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r := traffic.Record()
		if is(r) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s; the record has %v\n%s", what, r.Reasons(), r.Table())
		}
	}
}

func opened(r *Record) (n int) {
	for _, c := range r.Long {
		if c.Answers > 1 && c.Broke.IsZero() {
			n++
		}
	}
	return n
}

func TestAPulledCableIsSeenAsLongAsItIsOut(t *testing.T) {
	s := build(t)
	s.serve(t, pod)
	traffic := s.send(t, target4, Options{Rate: 100, Timeout: time.Second, Long: 2, Silence: 2 * time.Second})
	until(t, traffic, "answers", func(r *Record) bool { return len(r.Answered()) > 30 && opened(r) == 2 })

	pulled := traffic.Mark("the cable is pulled")
	must(t, s.lan.Pull(s.server))
	until(t, traffic, "failures", func(r *Record) bool { return len(r.Failed()) > 30 && len(r.Broken()) == 2 })

	back := traffic.Mark("it is put back")
	must(t, s.lan.Replug(s.server))
	until(t, traffic, "answers again", func(r *Record) bool {
		_, over := r.Recovery(back)
		return over && len(r.Between(back.At, r.To).Answered()) > 30 && opened(r) == 2
	})
	r := traffic.Stop()
	t.Logf("\n%s%v", r.Table(), r.Reasons())

	// Others use this machine too, so some may have failed earlier.
	if before := r.Between(r.From, pulled.At); len(before.Failed()) > len(before.Answered()) {
		t.Errorf("before, %v of %d failed", before.Reasons(), len(before.Attempts))
	}
	during := r.Between(pulled.At, back.At)
	half := pulled.At.Add(back.At.Sub(pulled.At) / 2)
	if slices.ContainsFunc(during.Answered(), func(a Attempt) bool { return a.Began.After(half) }) {
		t.Error("the pulled cable answers")
	}
	if took, over := r.Recovery(pulled); over || took == 0 {
		t.Errorf("it has recovered after %v", took)
	} else if len(during.Broken()) < 2 {
		t.Errorf("these broke: %+v", during.Broken())
	}
	for why := range r.Reasons() {
		if why != Timeout && why != Unreachable { // the client's kernel begins to look for the server's MAC address anew
			t.Errorf("some are %s", why)
		}
	}
	for _, c := range r.Broken() {
		if c.Longest < 2*time.Second || c.Broke.Sub(c.Last) < 2*time.Second || c.Why != Timeout && c.Why != Unreachable {
			t.Errorf("it broke earlier than it should: %+v", c)
		}
	}
	if got := fmt.Sprint(r.Nodes(), r.Pods(), r.Clients()); got != fmt.Sprintf("[server 100%%] [web-1 100%%] [%s]", client4) {
		t.Errorf("who answered whom: %s", got)
	}
	elements(t, r)
}

func TestAServerThatRefusesIsSeenAtOnce(t *testing.T) {
	s := build(t)
	for _, c := range []struct {
		to   string
		want Class
	}{
		{"10.0.0.2:80", Refused},
		{"[fd00::2]:80", Refused},
		{"10.9.9.9:80", Unreachable}, // there is no route
	} {
		traffic := s.send(t, netip.MustParseAddrPort(c.to), Options{Rate: 100, Timeout: time.Minute, Long: 1})
		until(t, traffic, "failures", func(r *Record) bool { return len(r.Failed()) > 10 && r.Long[0].Why != "" })
		r := traffic.Stop()
		if reasons := r.Reasons(); reasons[c.want] != len(r.Attempts) {
			t.Errorf("%s: %v of %d", c.to, reasons, len(r.Attempts))
		}
		if long := r.Long[0]; len(r.Long) != 1 || long.Why != c.want || !long.Opened.IsZero() || long.Answers != 0 || len(r.Broken()) != 0 {
			t.Errorf("%s: long-lived %+v", c.to, r.Long)
		}
	}
}

func TestAServerWithTwoNamesIsSeenAsTwo(t *testing.T) {
	s := build(t)
	var asked atomic.Int32
	s.serve(t, func(w http.ResponseWriter, r *http.Request) {
		name := string('a' + rune(asked.Add(1)%2))
		fmt.Fprintf(w, "web-%s node-%[1]s %s\n", name, r.RemoteAddr)
	})
	for _, target := range []netip.AddrPort{target4, target6} {
		traffic := s.send(t, target, Options{Rate: 100, Timeout: time.Minute})
		until(t, traffic, "answers", func(r *Record) bool { return len(r.Answered()) >= 50 })
		r := traffic.Stop()
		nodes := r.Nodes()
		if len(r.Failed()) > 0 || len(nodes) != 2 || nodes[0].Answers-nodes[1].Answers > 1 || nodes[1].Answers-nodes[0].Answers > 1 {
			t.Errorf("%s: %v failed, nodes %+v", target, r.Reasons(), nodes)
		}
		if clients := r.Clients(); len(clients) != 1 || clients[0].Is4() != target.Addr().Is4() {
			t.Errorf("%s: it saw %v", target, clients)
		}
		text, _ := elements(t, r)
		for _, name := range []string{">node-a<", ">node-b<"} {
			if !strings.Contains(text, name) {
				t.Errorf("%s: the picture has no %s", target, name)
			}
		}
	}
}

func TestEachKindOfFailureHasItsClass(t *testing.T) {
	s := build(t)
	heard := func(conn net.Conn) { http.ReadRequest(bufio.NewReader(conn)) } // all of it: else Linux would reset the connection
	for i, c := range []struct {
		server string
		does   func(net.Conn)
		want   Class
	}{
		{"throws the connection away", func(conn net.Conn) { heard(conn); conn.(*net.TCPConn).SetLinger(0) }, Reset},
		{"closes it without an answer", heard, Closed},
		{"closes it within an answer", func(conn net.Conn) {
			heard(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nweb")
		}, Closed},
		{"says nothing", func(conn net.Conn) { io.ReadAll(conn) }, Timeout},
		{"is not well", func(conn net.Conn) {
			heard(conn)
			io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}, Other},
		{"says something else", func(conn net.Conn) { heard(conn); io.WriteString(conn, "220 mail\r\n") }, Other},
	} {
		target := netip.AddrPortFrom(target4.Addr(), uint16(1000+i))
		listener := made(s.server.Listen(target.String()))(t)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { defer conn.Close(); c.does(conn) }()
			}
		}()
		traffic := s.send(t, target, Options{Rate: 100, Timeout: 300 * time.Millisecond})
		until(t, traffic, "failures", func(r *Record) bool { return r.Reasons()[c.want] >= 5 })
		for _, a := range traffic.Stop().Attempts {
			// A machine that is too busy for an answer in time is no problem of the class.
			if a.Why != c.want && a.Why != Timeout {
				t.Errorf("the server %s: %+v, want %s", c.server, a, c.want)
				break
			}
		}
	}
}

// If new connections waited for others, the record would show few failures in an outage, because few would have been tried.
func TestNewConnectionsDoNotWaitForThoseThatHang(t *testing.T) {
	s := build(t)
	s.serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	traffic := s.send(t, target4, Options{Rate: 100})
	until(t, traffic, "a failure", func(r *Record) bool { return len(r.Failed()) > 0 })
	r := traffic.Stop()
	underWay := 0
	for _, a := range r.Attempts {
		if a.Began.Before(r.Attempts[0].ended()) {
			underWay++
		}
	}
	if underWay < 20 { // 100 where nothing else runs
		t.Errorf("while the first hung, %d began", underWay)
	}
}

// The dialogue is the server's: here it is a line, for a line.
func TestLongLivedConnectionsBreakWithTheServerAndAreOpenedAnew(t *testing.T) {
	s := build(t)
	const long = 3
	listener := made(s.server.Listen(target4.String()))(t)
	conns := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns <- conn
			go func() {
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					if lines.Text() == "how are you?" {
						fmt.Fprintf(conn, "web-1 server %s\n", conn.RemoteAddr())
					}
				}
			}()
		}
	}()
	lines := func(conn io.ReadWriter) (Answer, error) {
		if _, err := io.WriteString(conn, "how are you?\n"); err != nil {
			return Answer{}, err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return Answer{}, err
		}
		return ParseAnswer(line)
	}
	traffic := s.send(t, target4, Options{Rate: 1, Long: long, Ask: lines, AskAgain: lines, Pause: 20 * time.Millisecond})
	until(t, traffic, "long-lived connections", func(r *Record) bool { return opened(r) == long && len(r.Answered()) > 0 })
	broke := traffic.Mark("the server throws all away")
	for range len(conns) {
		conn := (<-conns).(*net.TCPConn)
		must(t, conn.SetLinger(0))
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	until(t, traffic, "others", func(r *Record) bool { return len(r.Broken()) == long && opened(r) == long })
	r := traffic.Stop()
	for _, c := range r.Broken() {
		if c.Why != Reset || c.Broke.Before(broke.At) || c.Node != "server" || c.Client != client4 {
			t.Errorf("it broke as %+v", c)
		}
	}
	if len(r.Long) != 2*long || len(r.Table()) == 0 || r.Table()[len(r.Table())-1].Broken != long {
		t.Errorf("there were %d\n%s", len(r.Long), r.Table())
	}
}

func TestStopEndsTheRecordAndDoesNotWaitForASilentServer(t *testing.T) {
	s := build(t)
	var asked atomic.Int32
	s.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !r.Close && asked.Add(1) > 1 { // a long-lived connection, again
			<-r.Context().Done()
		}
		pod(w, r)
	})
	traffic := s.send(t, target4, Options{Rate: 1, Long: 1, Pause: time.Millisecond, Silence: 24 * time.Hour})
	until(t, traffic, "silence", func(*Record) bool { return asked.Load() > 1 })
	r := traffic.Stop()
	if len(r.Broken()) > 0 || len(r.Long) != 1 {
		t.Errorf("what Stop ended counts as broken: %+v", r.Long)
	}
	if again := traffic.Stop(); again.To != r.To || len(again.Attempts) != len(r.Attempts) {
		t.Errorf("after Stop, the record goes on: %v, then %v", r.To, again.To)
	}
}

func TestTrafficBeginsOnlyWhereItCan(t *testing.T) {
	s := build(t)
	gone := *s.client
	gone.ID = "lab-without-such-a-name"
	for _, c := range []struct {
		from    *network.Namespace
		to      netip.AddrPort
		options Options
		want    string
	}{
		{&gone, target4, Options{}, "traffic to 10.0.0.2:80: namespace client: open /run/netns/lab-without-such-a-name"},
		{s.client, netip.AddrPort{}, Options{}, "want an address"},
		{s.client, netip.MustParseAddrPort("[fe80::1%lan]:80"), Options{}, "without a zone"},
		{s.client, target4, Options{Rate: -1}, "below zero"},
		{s.client, target4, Options{Silence: -1}, "below zero"},
	} {
		if _, err := Start(c.from, c.to, c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// What the usual traffic costs the machine, with the server's part in it: both run in this process. Kernel threads are not counted.
func BenchmarkTheUsualTraffic(b *testing.B) {
	s := build(b)
	s.serve(b, pod)
	var before, after syscall.Rusage
	began := time.Now()
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	traffic := s.send(b, target4, Options{Long: 10})
	for b.Loop() {
		time.Sleep(5 * time.Millisecond)
	}
	r := traffic.Stop()
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(len(r.Attempts))/time.Since(began).Seconds(), "connections/s")
	b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "%CPU")
	b.ReportMetric(float64(used.Microseconds())/float64(len(r.Attempts)), "µs/connection")
	b.ReportMetric(float64(len(r.Failed())), "failed")
}
