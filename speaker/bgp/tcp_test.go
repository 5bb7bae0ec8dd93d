package bgp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// These tests use real sockets of the loopback interface, and wait for what happens there, never for time to pass.

func TestSessionOverTCP(t *testing.T) {
	r := newRouter(t)
	peer := r.listenTCP(t)
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
	peer := r.listenTCP(t)
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
		peer := r.listenTCP(t)
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

func TestDialSetsTTL(t *testing.T) {
	for _, c := range []struct {
		loopback      string
		level, option int
	}{
		{"127.0.0.1", syscall.IPPROTO_IP, syscall.IP_TTL},
		{"::1", syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS},
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
		})
		if err != nil {
			t.Fatal(err)
		}
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
