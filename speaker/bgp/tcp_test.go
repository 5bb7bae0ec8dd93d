package bgp

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// These tests use real sockets of the loopback interface, and wait for what happens there, never for time to pass.

func TestSessionOverTCP(t *testing.T) {
	r := newRouter(t)
	peer := r.listenTCP(t, "127.0.0.1")
	peer.SourceAddress = netip.MustParseAddr("127.0.0.9")
	s := New(HostUptime)
	defer s.Keep()
	s.Announce([]loadbalancer.Peer{peer}, routes("192.0.2.1/32"))
	l := r.up(hello)
	l.want("announce 192.0.2.1/32 path 64512 via 127.0.0.9", "END-OF-RIB")
	if from := l.conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from != peer.SourceAddress {
		t.Errorf("the session comes from %s, want %s", from, peer.SourceAddress)
	}
	s.Announce([]loadbalancer.Peer{peer}, manyRoutes(10_000))
	known := map[string]bool{"192.0.2.1/32": true}
	for len(known) != 10_000 || known["192.0.2.1/32"] {
		u := readUpdate(l.next())
		for _, p := range u.announced {
			known[p] = true
		}
		for _, p := range u.withdrawn {
			delete(known, p)
		}
	}
	s.Withdraw(t.Context(), "bye")
	for len(known) > 0 {
		for _, p := range readUpdate(l.next()).withdrawn {
			delete(known, p)
		}
	}
	l.want("NOTIFICATION 6/2 03627965", "closed")
}

func TestKeepClosesTCPWithoutAWord(t *testing.T) {
	r := newRouter(t)
	peer := r.listenTCP(t, "127.0.0.1")
	s := New(HostUptime)
	s.Announce([]loadbalancer.Peer{peer}, nil)
	l := r.up(hello)
	l.want("END-OF-RIB")
	s.Keep()
	l.want("closed")
}

// Closing a socket whose data nobody read resets the connection; the NOTIFICATION must have arrived by then.
func TestNotificationArrivesAlthoughTheRouterGoesOnTalking(t *testing.T) {
	for range 20 {
		r := newRouter(t)
		r.deafAfter = 1
		peer := r.listenTCP(t, "127.0.0.1")
		s := New(HostUptime)
		s.Announce([]loadbalancer.Peer{peer}, nil)
		l := r.accept()
		l.want("OPEN")
		l.say(bytes.Repeat([]byte("not BGP "), 100_000))
		close(l.ears)
		l.want("NOTIFICATION 1/1", "closed")
		s.Keep()
	}
}

func TestDialSetsTTLAndMarksPackets(t *testing.T) {
	for _, c := range []struct {
		loopback      string
		level, option int
		class         int
	}{
		{"127.0.0.1", syscall.IPPROTO_IP, syscall.IP_TTL, syscall.IP_TOS},
		{"::1", syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS, syscall.IPV6_TCLASS},
	} {
		listener, err := net.Listen("tcp", net.JoinHostPort(c.loopback, "0"))
		if err != nil {
			t.Logf("no address %s here: %v", c.loopback, err)
			continue
		}
		defer listener.Close()
		at := listener.Addr().(*net.TCPAddr).AddrPort()
		conn, err := dial(t.Context(), loadbalancer.Peer{Addr: at.Addr(), Port: at.Port(), TTL: 7})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) {
			if ttl, err := syscall.GetsockoptInt(int(fd), c.level, c.option); ttl != 7 || err != nil {
				t.Errorf("to %s: TTL %d, %v, want 7", c.loopback, ttl, err)
			}
			if class, err := syscall.GetsockoptInt(int(fd), c.level, c.class); class != 0xc0 || err != nil {
				t.Errorf("to %s: traffic class %#x, %v, want 0xc0 (CS6)", c.loopback, class, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// FRR works through its messages later than it sees that a connection was closed, and forgets those that are left then.
func TestTheRouterClosesTheConnectionAfterANotification(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peer := leaf
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	peer.Addr, peer.Port = at.Addr(), at.Port()
	s := New(HostUptime)
	s.Announce([]loadbalancer.Peer{peer}, routes("192.0.2.1/32"))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, b := range [][]byte{hello, keepalive} {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(conn)
	// until reads messages up to one of this type and length.
	until := func(kind byte, length int) {
		t.Helper()
		for {
			header, err := r.Peek(headerLen)
			if err != nil {
				t.Fatal(err)
			}
			got := int(header[16])<<8 + int(header[17])
			is := header[18] == kind && (length == 0 || got == length)
			if _, err := r.Discard(got); err != nil {
				t.Fatal(err)
			}
			if is {
				return
			}
		}
	}
	until(2, updateLen) // End-of-RIB: the session is up
	gone := make(chan struct{})
	go func() {
		s.Withdraw(context.Background(), "bye")
		close(gone)
	}()
	until(3, 0)
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("while the router was still working through what it had been told: %v", err)
	}
	conn.Close()
	<-gone
}

// A guard is a router that accepts connections under conditions.
func guard(t *testing.T, loopback string, conditions func(fd int) error) loadbalancer.Peer {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, socket syscall.RawConn) error {
		var failed error
		err := socket.Control(func(fd uintptr) { failed = conditions(int(fd)) })
		return cmp.Or(err, failed)
	}}
	config.SetMultipathTCP(false) // which excludes TCP MD5
	listener, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	peer := leaf
	peer.Addr, peer.Port = at.Addr(), at.Port()
	return peer
}

// reach reports whether the peer can be dialled, and what the operator reads otherwise. A packet that is not answered is sent
// again after a second, so half of that shows who does not answer.
func reach(t *testing.T, peer loadbalancer.Peer) (bool, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	conn, err := dial(ctx, peer)
	if err != nil {
		return false, newSession(peer, nil).dialError(err).Error()
	}
	conn.Close()
	return true, ""
}

func TestRoutersThatKnowAnotherPasswordDoNotAnswer(t *testing.T) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		router := guard(t, loopback, func(fd int) error {
			// What the speaker's socket needs is what the router's does: its neighbor is at the same address here.
			return prepare(fd, loopback == "::1", loadbalancer.Peer{Addr: netip.MustParseAddr(loopback), Password: "open-sesame"})
		})
		for password, want := range map[loadbalancer.Secret]string{
			"open-sesame":     "",
			"open-sesame-2":   "And is its password for this node the same as ours?",
			"":                "And does it want a password?",
			"another-secret!": "Packets with another one are dropped without a word.",
		} {
			peer := router
			peer.Password = password
			up, said := reach(t, peer)
			if up != (want == "") || !strings.Contains(said, want) || password != "" && strings.Contains(said, string(password)) {
				t.Errorf("with the password %q to %s: reached %v, %q", string(password), loopback, up, said)
			}
		}
	}
}

func TestRoutersThatMayBeFarAwayAreNotHeardWithTTLSecurity(t *testing.T) {
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		for ttl, want := range map[uint8]bool{64: false, 253: false, 254: true, 255: true} {
			peer := guard(t, loopback, func(fd int) error { return prepare(fd, loopback == "::1", loadbalancer.Peer{TTL: ttl}) })
			peer.TTL, peer.MinTTL = 255, 254
			up, said := reach(t, peer)
			if up != want || !up && !strings.Contains(said, "if they arrive with a TTL below 254") {
				t.Errorf("packets from %s with TTL %d: heard %v, %q", loopback, ttl, up, said)
			}
		}
	}
}

func TestSessionsOverIPv6AnnounceBoth(t *testing.T) {
	for _, c := range []struct {
		router string
		hello  []byte
		want   []string
	}{
		{"IPv6", msg(1, "04 fbf4 005a 0a000001 0e 020c 0104 00020001 4104 0000fbf4"),
			[]string{"announce 2001:db8::7/128 via ::1 path 64512", "END-OF-RIB IPv6"}},
		{"both families", msg(1, "04 fbf4 005a 0a000001 14 0212 0104 00010001 0104 00020001 4104 0000fbf4"),
			[]string{"announce 192.0.2.1/32 path 64512 via 127.0.0.1", "announce 2001:db8::7/128 via ::1 path 64512", "END-OF-RIB", "END-OF-RIB IPv6"}},
	} {
		t.Run(c.router, func(t *testing.T) {
			r := newRouter(t)
			peer := r.listenTCP(t, "::1")
			peer.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("127.0.0.1")}
			s := New(HostUptime)
			defer s.Keep()
			s.Announce([]loadbalancer.Peer{peer}, routes("192.0.2.1/32", "2001:db8::7/128"))
			r.up(c.hello).want(c.want...)
		})
	}
}

func TestDialErrorsSayWhatToDo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close() // now nobody listens there
	nobody := leaf
	nobody.Addr, nobody.Port = at.Addr(), at.Port()
	notOurs := nobody
	notOurs.SourceAddress = netip.MustParseAddr("192.0.2.99")
	for _, c := range []struct {
		peer loadbalancer.Peer
		want string
	}{
		{nobody, fmt.Sprintf("%s refuses connections: does BGP run there, and does it know this node as a neighbor?", at)},
		{notOurs, "source-address 192.0.2.99 is not an address of this node"},
	} {
		_, err := dial(context.Background(), c.peer)
		if err == nil {
			t.Errorf("somebody answers where we expect %q", c.want)
			continue
		}
		if got := newSession(c.peer, nil).dialError(err).Error(); got != c.want {
			t.Errorf("the operator reads %q, want %q", got, c.want)
		}
	}
}

func TestHostUptime(t *testing.T) {
	if up := HostUptime(); up <= 0 || up > 100*365*24*time.Hour {
		t.Errorf("the host has been up for %v", up)
	}
}
