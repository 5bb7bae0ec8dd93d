package bgp

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func addrs(list ...string) (all []netip.Addr) {
	for _, text := range list {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestNextHopsAreAddressesThatTheRouterReaches(t *testing.T) {
	eth0 := card{name: "eth0", addrs: addrs("10.0.0.2", "10.0.0.3", "fe80::2", "2001:db8::2", "2001:db8::3")}
	four := card{name: "eth0", addrs: addrs("10.0.0.2")}
	six := card{name: "eth0", addrs: addrs("fe80::2", "2001:db8::2")}
	bare := card{name: "eth0", addrs: addrs("10.0.0.2", "fe80::2")}
	for _, c := range []struct {
		what     string
		local    string
		nodeIPs  []netip.Addr
		card     card
		extended bool
		v4, v6   string // or why not
	}{
		{what: "IPv4, and the node has an IPv6 address there", local: "10.0.0.2", nodeIPs: addrs("10.0.0.3", "2001:db8::3"), card: eth0,
			v4: "10.0.0.2", v6: "2001:db8::3"},
		{what: "IPv4, and the node's IPv6 address is elsewhere", local: "10.0.0.2", nodeIPs: addrs("10.0.0.2", "2001:db8::9"), card: eth0,
			v4: "10.0.0.2", v6: "the session is on interface eth0, and the node has no IPv6 InternalIP there to be the next hop"},
		{what: "IPv4, in a cluster of IPv4", local: "10.0.0.2", nodeIPs: addrs("10.0.0.2"), card: four,
			v4: "10.0.0.2", v6: "the node has no IPv6 InternalIP there"},
		{what: "IPv4, to a router that knows extended next hops, which are IPv6", local: "10.0.0.2", card: four, extended: true,
			v4: "10.0.0.2", v6: "the node has no IPv6 InternalIP there"},
		{what: "IPv6, and the node has an IPv4 address there", local: "2001:db8::2", nodeIPs: addrs("2001:db8::2", "10.0.0.3"), card: eth0, extended: true,
			v4: "10.0.0.3", v6: "2001:db8::2"},
		{what: "IPv6, in a cluster of IPv6", local: "2001:db8::2", nodeIPs: addrs("2001:db8::2"), card: six,
			v4: "the node has no IPv4 InternalIP there", v6: "2001:db8::2"},
		{what: "IPv6, and the router takes it for IPv4 as well", local: "2001:db8::2", nodeIPs: addrs("2001:db8::2"), card: six, extended: true,
			v4: "2001:db8::2", v6: "2001:db8::2"},
		{what: "link-local, and the node's address is there", local: "fe80::2%eth0", nodeIPs: addrs("2001:db8::3", "10.0.0.2"), card: eth0,
			v4: "10.0.0.2", v6: "2001:db8::3"},
		{what: "link-local, and another global address is there", local: "fe80::2%eth0", nodeIPs: addrs("2001:db8:1::9"), card: six, extended: true,
			v4: "2001:db8::2", v6: "2001:db8::2"},
		{what: "link-local, and no global address is there", local: "fe80::2%eth0", nodeIPs: addrs("2001:db8:1::9"), card: bare, extended: true,
			v4: "the node has no IPv4 InternalIP there", v6: "interface eth0 has only link-local addresses of IPv6"},
	} {
		got := nextHops(netip.MustParseAddr(c.local), c.nodeIPs, c.card, c.extended)
		for _, h := range []struct {
			hop
			want string
		}{{got.v4, c.v4}, {got.v6, c.v6}} {
			text := h.addr.String()
			if h.err != nil {
				text = h.err.Error()
			}
			if !strings.Contains(text, h.want) {
				t.Errorf("%s: got %s, want %s", c.what, text, h.want)
			}
		}
	}
}

func TestTheCardOfAnAddressIsFoundOnThisMachine(t *testing.T) {
	if got := cardOf(netip.MustParseAddr("127.0.0.1")); got.err != nil || got.name == "" || len(got.addrs) == 0 {
		t.Errorf("%+v", got)
	}
	if got := cardOf(netip.MustParseAddr("192.0.2.77")); got.err == nil || !strings.Contains(got.err.Error(), "192.0.2.77") {
		t.Errorf("%+v", got)
	}
}

// helloBoth is the OPEN of a router that takes both families.
var helloBoth = msg(1, "04 fbf4 005a 0a000001 14 0212 0104 00010001 0104 00020001 4104 0000fbf4")

func TestAPrefixWithoutANextHopWaitsAndTheOthersDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		table := routes("192.0.2.1/32", "2001:db8::7/128")
		s.Announce([]loadbalancer.Peer{leaf}, table)
		l := r.up(helloBoth)
		l.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2", "END-OF-RIB", "END-OF-RIB IPv6")
		synctest.Wait()
		want := "2001:db8::7/128 cannot be announced: the session is on interface eth0, and the node has no IPv6 InternalIP there to be the next hop"
		if got := s.List()[0]; !got.Up || got.LastError != want {
			t.Errorf("the operator reads %q, want %q", got.LastError, want)
		}
		wantLogged(t,
			`"Cannot send a route" err="`+want+`" peer="leaf" asn=64500`,
			`"Session is up" peer="leaf" asn=64500 families="IPv4 IPv6" routes=1`)

		both := leaf
		both.NodeIPs = []netip.Addr{speakerHops.v6.addr}
		s.Announce([]loadbalancer.Peer{both}, table)
		l.want("announce 2001:db8::7/128 via 2001:db8::2 path 64512")
		s.Announce([]loadbalancer.Peer{both}, table)
		synctest.Wait()
		if got := s.List()[0]; got.LastError != "" || got.Prefixes != 2 {
			t.Errorf("%+v", got)
		}
		s.Announce([]loadbalancer.Peer{leaf}, table)
		l.want("withdraw 2001:db8::7/128")
		l.say(msg(5, "0002 00 01"))
		l.say(msg(5, "0001 00 01"))
		l.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2")
	})
}

func TestAMissingNextHopIsLookedForUntilItComes(t *testing.T) {
	for _, how := range []string{"it waits", "it is told that addresses changed"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(t)
				s := speak(t, map[string]*router{"leaf": r})
				var ready atomic.Bool // duplicate address detection is over
				s.card = func(netip.Addr) card {
					c := card{name: "eth0", addrs: []netip.Addr{speakerHops.v4.addr}}
					if ready.Load() {
						c.addrs = append(c.addrs, speakerHops.v6.addr)
					}
					return c
				}
				both := leaf
				both.NodeIPs = []netip.Addr{speakerHops.v6.addr}
				table := routes("192.0.2.1/32", "2001:db8::7/128")
				s.Announce([]loadbalancer.Peer{both}, table)
				l := r.up(helloBoth)
				l.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2", "END-OF-RIB", "END-OF-RIB IPv6")
				pass(2*lookTime + time.Second)
				ready.Store(true)
				began := time.Now()
				if how != "it waits" {
					s.LookAgain()
				}
				l.want("announce 2001:db8::7/128 via 2001:db8::2 path 64512")
				if took := time.Since(began); took > lookTime || how != "it waits" && took != 0 {
					t.Errorf("it took %v", took)
				}
				// An address that goes while the session is up is no next hop any more.
				ready.Store(false)
				s.LookAgain()
				l.want("withdraw 2001:db8::7/128")
			})
		})
	}
}

func TestAddressesOfThisHostCanBeWatched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(HostUptime).WatchAddresses(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
