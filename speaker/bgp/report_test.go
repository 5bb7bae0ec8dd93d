package bgp

import (
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// inNotation writes a route that is reported in the words of tell, for one prefix.
func inNotation(r report.Route) string {
	words := []string{"announce", r.Prefix.String()}
	via := []string{"via", r.NextHop.String()}
	if r.Prefix.Addr().Is6() {
		words = append(words, via...) // the next hop is in the first attribute
	}
	words = append(words, "path")
	for _, asn := range r.ASPath {
		words = append(words, fmt.Sprint(asn))
	}
	if r.Prefix.Addr().Is4() {
		words = append(words, via...)
	}
	if r.Origin != "IGP" {
		words = append(words, "origin not IGP")
	}
	if r.LocalPref != nil {
		words = append(words, "pref", fmt.Sprint(*r.LocalPref))
	}
	for _, c := range r.Communities {
		words = append(words, "["+c+"]")
	}
	if r.LinkBandwidth != 0 {
		words = append(words, fmt.Sprintf("[0004fc00%08x]", math.Float32bits(r.LinkBandwidth)))
	}
	if r.AS4Path != nil {
		words = append(words, "path4")
		for _, asn := range r.AS4Path {
			words = append(words, fmt.Sprint(asn))
		}
	}
	for _, c := range r.LargeCommunities {
		words = append(words, "["+c+"]")
	}
	return strings.Join(words, " ")
}

// What is reported of each prefix is, attribute by attribute, what the router read off the wire with its own code.
func TestWhatIsReportedIsWhatWasOnTheWire(t *testing.T) {
	both := msg(1, "04 fbf4 005a 0a000001 18 0216 0104 00010001 0104 00020001 4104 0000fbf4 4002 0078")
	old := msg(1, "04 fbf4 001e 0a000001 08 0206 0104 00010001")
	bigger := leaf
	bigger.MyASN = 4_200_000_000
	for _, test := range []struct {
		name  string
		peer  loadbalancer.Peer
		hello []byte
		terms string
	}{
		{"eBGP with both families, by a router that keeps routes", leaf, both,
			`{"families":["IPv4","IPv6"],"holdTime":90,"keepaliveTime":30,"restartTime":120,"fourOctetAS":true,"extendedNextHop":false}`},
		{"iBGP", spine, helloInside,
			`{"families":["IPv4"],"holdTime":90,"keepaliveTime":30,"restartTime":0,"fourOctetAS":true,"extendedNextHop":false}`},
		{"a router that knows only 2-byte AS numbers", bigger, old,
			`{"families":["IPv4"],"holdTime":30,"keepaliveTime":10,"restartTime":0,"fourOctetAS":false,"extendedNextHop":false}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := routes("192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:7::/48")
				table[1].Communities = []loadbalancer.Community{64512<<16 | 1, 0xffff0000}
				table[2].LargeCommunities = []loadbalancer.LargeCommunity{{Global: 64512, Local1: 2, Local2: 3}}
				table[3].Prepend, table[3].LocalPref = 2, 0
				if test.peer.MyASN == 64512 {
					table[5].Weight, table[0].Weight = 3, 1
				}
				r := newRouter(t)
				s := speak(t, map[string]*router{test.peer.Name: r})
				s.Announce([]loadbalancer.Peer{test.peer}, table)
				l := r.up(test.hello)
				var heard, reported []string
				for _, f := range l.untilEndOfRIB() {
					for _, prefix := range readUpdate(f).announced {
						heard = append(heard, "announce "+prefix+" "+readUpdate(f).String())
					}
				}
				synctest.Wait()
				session := s.List()[0]
				var prefixes []netip.Prefix
				for route := range session.Routes() {
					reported, prefixes = append(reported, inNotation(route)), append(prefixes, route.Prefix)
				}
				if !slices.IsSortedFunc(prefixes, netip.Prefix.Compare) {
					t.Errorf("not in order: %v", prefixes)
				}
				slices.Sort(heard)
				slices.Sort(reported)
				if len(heard) < 4 || !slices.Equal(heard, reported) {
					t.Errorf("reported\n\t%s\nand heard\n\t%s", strings.Join(reported, "\n\t"), strings.Join(heard, "\n\t"))
				}
				if terms, err := json.Marshal(session.Terms); err != nil || string(terms) != test.terms {
					t.Errorf("the terms are %s, %v, want %s", terms, err, test.terms)
				}
			})
		})
	}
}

func TestASessionShowsItsStateAndItsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		shows := func(then, want string) {
			t.Helper()
			synctest.Wait()
			l := s.List()[0]
			routes := len(slices.Collect(l.Routes()))
			if got := fmt.Sprintf("%s, %d failed, %d routes, terms %t", l.State, l.Attempts, routes, l.Terms != nil); got != want {
				t.Errorf("%s: %s, want %s", then, got, want)
			}
		}
		r.refuse(errRefused)
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		shows("nobody listens", "Idle, 1 failed, 0 routes, terms false")
		pass(time.Second)
		shows("still nobody", fmt.Sprintf("Idle, %d failed, 0 routes, terms false", len(r.attempts())))
		r.refuse(nil)
		l := r.accept()
		l.want("OPEN")
		failed := len(r.attempts()) - 1
		shows("connected", fmt.Sprintf("OpenSent, %d failed, 0 routes, terms false", failed))
		l.say(hello)
		l.want("KEEPALIVE")
		shows("opened", fmt.Sprintf("OpenConfirm, %d failed, 0 routes, terms false", failed))
		l.say(keepalive)
		l.untilEndOfRIB()
		shows("up", "Established, 0 failed, 1 routes, terms true")
		r.refuse(errRefused)
		l.conn.Close()
		pass(time.Minute)
		if got := s.List()[0]; got.State != "Idle" || got.Attempts == 0 || got.Terms != nil {
			t.Errorf("down: %+v", got)
		}
	})
}

// While somebody reads what was sent and stops in the middle, the session goes on: it tells the router what is new, keeps it
// alive, and ends.
func TestASlowReaderKeepsNoSessionWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, manyRoutes(10_000))
		l := r.up(hello)
		l.untilEndOfRIB()
		synctest.Wait()
		next, stop := iter.Pull(s.List()[0].Routes())
		defer stop()
		for range 1500 {
			next()
		}
		s.Announce([]loadbalancer.Peer{leaf}, append(manyRoutes(10_000), routes("192.0.2.1/32")...))
		l.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2")
		pass(time.Minute)
		l.want("KEEPALIVE")
		l.say(keepalive)
		if got := s.List()[0]; !got.Up || got.Prefixes != 10_001 {
			t.Errorf("%+v", got)
		}
		s.Announce(nil, nil)
		l.want("KEEPALIVE", "NOTIFICATION 6/3")
		n := 1500
		for _, more := next(); more; _, more = next() {
			n++
		}
		if n != 10_001 { // as it was when the connection ended
			t.Errorf("%d routes were reported", n)
		}
	})
}

// A router that refuses what our OPEN offers gets one that offers little. What it offers itself is not agreed on then.
func TestWhatAReducedOpenDidNotOfferIsNotAgreedOn(t *testing.T) {
	six := leaf
	six.Addr = netip.MustParseAddr("2001:db8::1")
	// Both families, AS 64500, extended next hops, graceful restart.
	body := unhex("04 fbf4 005a 0a000001 20 021e 0104 00010001 0104 00020001 4104 0000fbf4 0506 0001 0001 0002 4002 0078")
	for reduced, want := range map[bool]string{
		false: "[IPv4 IPv6] 120 true",
		true:  "[IPv6] 0 false",
	} {
		terms, err := negotiate(six, body, reduced)
		if err != nil {
			t.Fatal(err)
		}
		shown := terms.shown()
		if got := fmt.Sprint(shown.Families, shown.RestartTime, " ", shown.ExtendedNextHop); got != want {
			t.Errorf("reduced %t: %s, want %s", reduced, got, want)
		}
	}
}

// What is allocated while 10,000 routes are read off the wire again for somebody, in bytes a route.
func BenchmarkReport10000Routes(b *testing.B) {
	l := benchLedger(b, manyRoutes(10_000))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range (Session{ledger: l}).Routes() {
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}
