package bfd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// taken skips the test, or fails it where CI demands that every test runs.
func taken(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("LAB_REQUIRE") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// real returns a Responder on this host's ports, which somebody else may have.
func real(t *testing.T) *Responder {
	t.Helper()
	r, err := New()
	if errors.Is(err, unix.EADDRINUSE) {
		taken(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	t.Cleanup(func() { stop(); <-ended; r.Close() })
	return r
}

// Two sessions of one Responder look at each other, from either end of the loopback interface. The kernel gives and checks TTLs.
func TestSessionsComeUpOverUDP(t *testing.T) {
	r := real(t)
	one, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	peers := []Peer{
		{Name: "a", Router: other, Local: one, Profile: quick},
		{Name: "b", Router: one, Local: other, Profile: quick},
	}
	if loopback := netip.IPv6Loopback(); r.net.near(loopback) {
		peers = append(peers, Peer{Name: "itself", Router: loopback, Local: loopback, Profile: quick})
	}
	r.Update(peers)
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		ups := 0
		for _, s := range r.List() {
			if s.State == Up && s.Detection == 300*ms && s.Port == SingleHop && s.LastError == "" {
				ups++
			}
		}
		if ups == len(peers) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the sessions are %+v, dropped are %v", r.List(), r.Dropped())
		}
	}
}

func TestPacketsComeFromThePortsThatAreForThem(t *testing.T) {
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := (&sockets{}).plug(netip.MustParseAddr("127.0.0.3"), netip.Addr{})
	defer p.close()
	to := uint16(listener.LocalAddr().(*net.UDPAddr).Port)
	var first netip.AddrPort
	for range 3 {
		if err := p.send(to, unhex(up)); err != nil {
			t.Fatal(err)
		}
		n, from, err := listener.ReadFromUDPAddrPort(make([]byte, 100))
		if err != nil || n != 24 || from.Port() < 49152 || first.IsValid() && from != first {
			t.Errorf("%d bytes come from %s after %s, %v", n, from, first, err)
		}
		first = from
	}
}

func TestAPortThatSomebodyHasIsNamed(t *testing.T) {
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(Multihop)})
	if err != nil {
		taken(t, err)
	}
	defer listener.Close()
	r, err := New()
	if err == nil {
		r.Close()
		t.Fatal("it takes a port that somebody has")
	}
	for _, want := range []string{"UDP port 4784", "another program of this node"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}
