package bgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// pass lets time pass. The clock of these tests is synctest's: it runs when everybody waits, so hours pass in no time, and a
// pause is exactly as long as it says.
func pass(d time.Duration) { <-time.After(d) }

func TestRouterHearsTheTableThenEndOfRIBThenDifferences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, outside := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"spine": inside, "leaf": outside})
		table := routes("192.0.2.2/32", "192.0.2.1/32", "198.51.100.0/24")
		table[2].Peers = []string{"leaf"}
		s.Announce([]loadbalancer.Peer{spine, leaf}, table)
		in := inside.up(helloInside)
		in.want("announce 192.0.2.1/32,192.0.2.2/32 path via 10.0.0.2 pref 100", "END-OF-RIB")
		synctest.Wait()
		out := outside.up(hello)
		out.want("announce 192.0.2.1/32,192.0.2.2/32,198.51.100.0/24 path 64512 via 10.0.0.2", "END-OF-RIB")
		wantLogged(t,
			`"Session is up" peer="spine" asn=64512 families="IPv4" routes=2`,
			`"Session is up" peer="leaf" asn=64500 families="IPv4" routes=3`)

		s.Announce([]loadbalancer.Peer{spine, leaf}, slices.Clone(table))
		s.Announce([]loadbalancer.Peer{spine, leaf}, routes("192.0.2.2/32", "192.0.2.3/32"))
		in.want("announce 192.0.2.3/32 path via 10.0.0.2 pref 100", "withdraw 192.0.2.1/32")
		out.want("announce 192.0.2.3/32 path 64512 via 10.0.0.2", "withdraw 192.0.2.1/32,198.51.100.0/24")
		synctest.Wait()
		want := []Session{
			{Peer: "spine", Addr: spine.Addr, Port: spine.Port, ASN: 64512, Up: true, State: "Established", Since: time.Now(), Updates: 4, Prefixes: 2},
			{Peer: "leaf", Addr: leaf.Addr, Port: leaf.Port, ASN: 64500, Up: true, State: "Established", Since: time.Now(), Updates: 4, Prefixes: 2},
		}
		got := s.List()
		for i := range got {
			got[i].ledger, got[i].Terms = nil, nil
		}
		if !slices.Equal(got, want) {
			t.Errorf("List says\n\t%+v\nwant\n\t%+v", got, want)
		}
	})
}

func TestTheASNumberOfARouterIsLearnedFromItsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged.Take()
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{related(loadbalancer.External)}, nil)
		if asn := s.List()[0].ASN; asn != 0 {
			t.Errorf("AS %d, before the router said anything", asn)
		}
		l := r.up(hello)
		l.want("END-OF-RIB")
		synctest.Wait()
		if asn := s.List()[0].ASN; asn != 64500 {
			t.Errorf("AS %d, and the router said 64500", asn)
		}
		// Another router takes its place.
		l.say(msg(3, "0604"))
		l.want("closed")
		r.up(msg(1, "04 5ba0 005a 0a000001 08 0206 4104 fa56ea01")).want("END-OF-RIB")
		synctest.Wait()
		if asn := s.List()[0].ASN; asn != 4_200_000_001 {
			t.Errorf("AS %d, and the new router said 4200000001", asn)
		}
		said := strings.Join(logged.Take(), "\n")
		for _, line := range []string{`"Session is up" peer="leaf" asn=64500 `, `"Session is down" peer="leaf" asn=64500 `, `"Session is up" peer="leaf" asn=4200000001 `} {
			if !strings.Contains(said, line) {
				t.Errorf("logged\n%s\nwithout %s", said, line)
			}
		}
	})
}

func TestNobodyIsDialledBeforeThereIsATable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		pass(time.Hour)
		if len(r.attempts()) != 0 {
			t.Errorf("dialled at %v", r.attempts())
		}
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		r.up(hello).want("END-OF-RIB")
		if !slices.Equal(r.attempts(), []time.Duration{time.Hour}) {
			t.Errorf("dialled at %v", r.attempts())
		}
	})
}

func TestTableOf10000RoutesComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, manyRoutes(10_000))
		l := r.up(hello)
		known := make(map[string]bool)
		for _, f := range l.untilEndOfRIB() {
			for _, p := range readUpdate(f).announced {
				known[p] = true
			}
		}
		if len(known) != 10_000 {
			t.Errorf("the router knows %d prefixes", len(known))
		}
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		synctest.Wait()
		for len(known) > 0 {
			for _, p := range readUpdate(l.next()).withdrawn {
				delete(known, p)
			}
		}
	})
}

// restarting and forwarding read the R bit and the F bit out of an OPEN that has all capabilities.
func restarting(open frame) bool { return open.bytes[53]&0x80 != 0 }
func forwarding(open frame) bool { return open.bytes[58]&0x80 != 0 }

func TestOnlyTheFirstSessionToComeUpSaysThatItRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, other := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"leaf": r, "spine": other})
		s.Announce([]loadbalancer.Peer{leaf, spine}, nil)
		for i := range 4 {
			l := r.accept()
			if open := l.next(); !restarting(open) {
				t.Errorf("attempt %d, none of which came up: no R bit", i)
			}
			if i < 3 {
				l.conn.Close()
				continue
			}
			l.say(hello)
			l.say(keepalive)
			l.want("KEEPALIVE", "END-OF-RIB")
			l.conn.Close()
		}
		if open := r.accept().next(); restarting(open) {
			t.Error("the session was up, but still has the R bit")
		}
		changed := leaf
		changed.KeepaliveTime = time.Second
		s.Announce([]loadbalancer.Peer{changed, spine}, nil)
		pass(time.Second)
		if open := r.accept().next(); restarting(open) {
			t.Error("the session was up, but after a change of configuration has the R bit again")
		}
		if open := other.accept().next(); !restarting(open) {
			t.Error("another router's session was up, and this one lost its R bit")
		}
	})
}

func TestOnlyAHostThatWasUpAllTheTimeSaysThatItForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		uptime := 119 * time.Second
		s.uptime = func() time.Duration { return uptime }
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		l := r.accept()
		if forwarding(l.next()) {
			t.Error("the host booted within the restart time, and claims to have forwarded")
		}
		uptime = 121 * time.Second
		l.conn.Close()
		if !forwarding(r.accept().next()) {
			t.Error("the host has been up for longer than the restart time, and does not say so")
		}
	})
}

func TestTimersAreTheShorterOfBothSides(t *testing.T) {
	withHold := func(hold int) []byte { return msg(1, fmt.Sprintf("04 fbf4 %04x 0a000001 00", hold)) }
	for _, c := range []struct {
		what                    string
		ours, keepalive         time.Duration
		theirs                  int
		hold, shortest, longest time.Duration // hold 0: never
	}{
		{"ours", 90 * time.Second, 30 * time.Second, 180, 90 * time.Second, 22500 * time.Millisecond, 30 * time.Second},
		{"theirs", 90 * time.Second, 30 * time.Second, 9, 9 * time.Second, 2250 * time.Millisecond, 3 * time.Second},
		{"our own keepalive-time", 90 * time.Second, 10 * time.Second, 90, 90 * time.Second, 7500 * time.Millisecond, 10 * time.Second},
		{"never more than one a second", 3 * time.Second, time.Second, 90, 3 * time.Second, time.Second, time.Second},
		{"they want none", 90 * time.Second, 30 * time.Second, 0, 0, 0, 0},
		{"we want none", 0, 0, 90, 0, 0, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(t)
				peer := leaf
				peer.HoldTime, peer.KeepaliveTime = c.ours, c.keepalive
				s := speak(t, map[string]*router{"leaf": r})
				s.Announce([]loadbalancer.Peer{peer}, nil)
				l := r.up(withHold(c.theirs))
				l.want("END-OF-RIB")
				synctest.Wait()
				began := time.Now()
				if c.hold == 0 {
					pass(24 * time.Hour)
					if n := len(l.heard); n != 0 || !s.List()[0].Up {
						t.Errorf("without a hold time: %d messages, up: %v", n, s.List()[0].Up)
					}
					return
				}

				// While the router speaks, so does the speaker, and the session lives.
				last, seen := began, 0
				for range 50 {
					pass(c.hold * 2 / 3)
					l.say(keepalive)
					for len(l.heard) > 0 {
						f := l.next()
						if tell(f) != "KEEPALIVE" {
							t.Fatalf("the speaker says %s", tell(f))
						}
						// The first pause began with the session, which the router saw only in part.
						if pause := f.at.Sub(last); seen > 0 && (pause < c.shortest || pause > c.longest) {
							t.Errorf("a pause of %v between KEEPALIVEs, want %v to %v", pause, c.shortest, c.longest)
						}
						last, seen = f.at, seen+1
					}
				}
				if seen < 50 {
					t.Errorf("%d KEEPALIVEs in 50 times two thirds of the hold time", seen)
				}

				// A message that was there in time but is read late still counts.
				synctest.Wait()
				pass(c.hold + graceTime/2)
				l.say(keepalive)

				// When the router falls silent, it is told so after the hold time.
				synctest.Wait()
				for len(l.heard) > 0 {
					l.want("KEEPALIVE")
				}
				silent := time.Now()
				for {
					f := l.next()
					if tell(f) == "KEEPALIVE" {
						continue
					}
					if tell(f) != "NOTIFICATION 4/0" || f.at.Sub(silent) != c.hold+graceTime {
						t.Errorf("after %v of silence the speaker says %s, want NOTIFICATION 4/0 after %v", f.at.Sub(silent), tell(f), c.hold)
					}
					break
				}
				synctest.Wait()
				if got, want := s.List()[0].LastError, fmt.Sprintf("the router was silent for %v, the hold time", c.hold); got != want {
					t.Errorf("the operator reads %q, want %q", got, want)
				}
			})
		})
	}
}

func TestUpdatesOfARouterKeepTheSessionAliveAndAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		l := r.up(hello)
		l.untilEndOfRIB()
		// An attribute that crashes GoBGP's decoder (a malformed Prefix-SID), and then whatever may look like a message.
		garbage := msg(2, "0000 0007 c028 04 01000700"+strings.Repeat("ff", 4000))
		for range 1000 {
			l.say(garbage)
			pass(time.Second) // ten times the hold time in all, without a KEEPALIVE
		}
		synctest.Wait()
		if got := s.List()[0]; !got.Up || got.Dropped != 1000 || got.Prefixes != 1 {
			t.Errorf("after a flood of UPDATEs: %+v", got)
		}
	})
}

func TestARouterThatSaysNothingIsLeftAfterHalfAMinute(t *testing.T) {
	for _, before := range []string{"OPEN", "KEEPALIVE"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(t)
			s := speak(t, map[string]*router{"leaf": r})
			s.Announce([]loadbalancer.Peer{leaf}, nil)
			for range 3 {
				l := r.accept()
				l.want("OPEN")
				began := time.Now()
				if before == "KEEPALIVE" {
					l.say(hello)
					l.want("KEEPALIVE")
				}
				f := l.next()
				for tell(f) == "KEEPALIVE" {
					f = l.next()
				}
				if tell(f) != "NOTIFICATION 4/0" || f.at.Sub(began) != openTime+graceTime {
					t.Errorf("after %v without %s the speaker says %s", f.at.Sub(began), before, tell(f))
				}
			}
			wantLogged(t, `"Session does not come up" err="the router accepts connections, but sent no `+before+
				` in time: does it know this node as a neighbor?" peer="leaf" asn=64500`)
		})
	}
}

func TestARouterWhosePacketsTTLSecurityDropsSeemsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := speak(t, map[string]*router{"leaf": newRouter(t)})
		near := leaf
		near.TTL, near.MinTTL = 255, 255
		s.Announce([]loadbalancer.Peer{near}, nil)
		pass(time.Minute)
		if got := s.List()[0].LastError; !strings.Contains(got, "ttl-security drops its packets if they arrive with a TTL below 255") {
			t.Errorf("the operator reads %q", got)
		}
	})
}

func TestARouterThatStopsReadingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		r.deafAfter = 2 // OPEN and KEEPALIVE
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, manyRoutes(10_000))
		l := r.up(hello)
		began := time.Now()
		for range 2 {
			pass(14 * time.Second)
			l.say(keepalive) // it is alive otherwise
		}
		r.accept()
		if took := time.Since(began); took < writeTimeout || took > writeTimeout+firstPause {
			t.Errorf("the next attempt comes after %v", took)
		}
		wantLogged(t,
			`"Session is up" peer="leaf" asn=64500 families="IPv4" routes=10000`,
			`"Session is down" peer="leaf" asn=64500 why="the router has read nothing for 30s"`)
	})
}

func TestHoldTimeRunsOutWhileARouterDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		r.deafAfter = 2
		peer := leaf
		peer.HoldTime, peer.KeepaliveTime = 9*time.Second, 3*time.Second
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{peer}, manyRoutes(10_000))
		r.up(hello)
		pass(9*time.Second + graceTime + partingTime)
		wantLogged(t,
			`"Session is up" peer="leaf" asn=64500 families="IPv4" routes=10000`,
			`"Session is down" peer="leaf" asn=64500 why="the router was silent for 9s, the hold time"`)
	})
}

func TestASlowRouterHearsOnlyTheLatestTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		r.deafAfter = 2
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		l := r.up(hello)
		for i := range 200 {
			pass(100 * time.Millisecond)
			s.Announce([]loadbalancer.Peer{leaf}, routes(fmt.Sprintf("198.51.100.%d/32", i)))
			l.say(msg(5, "0001 00 01"))
		}
		close(l.ears)
		l.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2", "END-OF-RIB",
			"announce 198.51.100.199/32 path 64512 via 10.0.0.2", "withdraw 192.0.2.1/32")
	})
}

func TestRouteRefreshBringsTheWholeTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32", "192.0.2.2/32"))
		l := r.up(hello)
		l.untilEndOfRIB()
		l.say(msg(5, "0002 00 01")) // IPv6, of which we never spoke
		l.say(msg(5, "0001 00 01"))
		l.want("announce 192.0.2.1/32,192.0.2.2/32 path 64512 via 10.0.0.2", "KEEPALIVE")
	})
}

func TestAFailureIsLoggedOnceUntilItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		r.refuse(errRefused)
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		pass(time.Hour)
		synctest.Wait()
		refused := `"Session does not come up" err="10.0.0.1:179 refuses connections: does BGP run there, and does it know this node as a neighbor?" peer="leaf" asn=64500`
		wantLogged(t, refused)

		errSilent := fmt.Errorf("dial: %w", os.ErrDeadlineExceeded)
		r.refuse(errSilent)
		pass(time.Hour)
		synctest.Wait()
		silent := `"Session does not come up" err="10.0.0.1:179 does not answer: is there a route to it, and does no firewall drop packets to its port? And does it want a password?" peer="leaf" asn=64500`
		wantLogged(t, refused, silent)

		// A router that fails in two ways by turns is no news either.
		r.refuse(errRefused)
		pass(time.Hour)
		synctest.Wait()
		wantLogged(t, refused, silent)

		failures := len(r.attempts())
		if got := s.List()[0]; got.Failures != failures || failures < 100 || !strings.Contains(got.LastError, "refuses connections") || got.Up {
			t.Errorf("after %d attempts: %+v", failures, got)
		}
		r.refuse(nil)
		l := r.up(hello)
		l.untilEndOfRIB()
		up := fmt.Sprintf(`"Session is up" peer="leaf" asn=64500 families="IPv4" routes=1 failures=%d`, failures)
		wantLogged(t, refused, silent, up)

		// The same failure is news again after the session was up.
		r.refuse(errSilent)
		l.say(msg(3, "0604 05 68656c6c6f"))
		synctest.Wait()
		pass(time.Hour)
		wantLogged(t, refused, silent, up,
			`"Session is down" peer="leaf" asn=64500 why="the router sent NOTIFICATION 6/4 (Cease: Administrative Reset): \"hello\""`,
			silent)
	})
}

func TestASessionIsBackAtOnceAndThenMorePatientWithEachFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		patient := leaf
		patient.ConnectTime = 15 * time.Second
		r.refuse(errRefused)
		s.Announce([]loadbalancer.Peer{patient}, nil)
		// pauses checks those before the last attempts: at most so long.
		pauses := func(what string, longest ...time.Duration) {
			t.Helper()
			synctest.Wait()
			attempts := r.attempts()
			for i, most := range longest {
				at := len(attempts) - len(longest) + i
				if got := attempts[at] - attempts[at-1]; got > most {
					t.Errorf("%s: a pause of %v, want at most %v", what, got, most)
				}
			}
		}
		for len(r.attempts()) < 7 {
			pass(100 * time.Millisecond)
			// A changing table is no reason to hurry.
			s.Announce([]loadbalancer.Peer{patient}, routes(fmt.Sprintf("192.0.2.%d/32", time.Now().Second())))
		}
		pauses("nobody is there", 1*time.Second, 2*time.Second, 4*time.Second, 8*time.Second, 15*time.Second, 15*time.Second)

		// Full jitter: the pauses are spread over the whole time, so that a crowd that fell at once does not come back at once.
		for len(r.attempts()) < 400 {
			pass(time.Second)
		}
		var short, long int
		for attempts := r.attempts()[7:]; len(attempts) > 1; attempts = attempts[1:] {
			switch pause := attempts[1] - attempts[0]; {
			case pause > 15*time.Second:
				t.Fatalf("a pause of %v", pause)
			case pause < 5*time.Second:
				short++
			case pause > 10*time.Second:
				long++
			}
		}
		if short < 80 || long < 80 {
			t.Errorf("of 392 pauses up to 15s, %d are shorter than 5s and %d longer than 10s", short, long)
		}

		// A session that falls at once is no reason to hurry either: the next ones come as slowly.
		r.refuse(nil)
		began := len(r.attempts())
		for range 50 {
			l := r.up(hello)
			l.untilEndOfRIB()
			l.conn.Close()
		}
		r.up(hello).untilEndOfRIB()
		if attempts := r.attempts(); attempts[began+50]-attempts[began] < 3*time.Minute {
			t.Errorf("a session that always falls at once came up 51 times within %v", attempts[began+50]-attempts[began])
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		l := r.up(hello)
		l.untilEndOfRIB()
		pass(stableTime)
		last := time.Now()
		r.refuse(errRefused)
		l.conn.Close()
		pass(4*time.Second - 1) // what three pauses take at most, and a bit of the fourth
		attempts := r.attempts()
		if len(attempts) < 4 || r.start.Add(attempts[1]) != last {
			t.Errorf("after a stable session, which ended at %v, attempts were at %v", last.Sub(r.start), attempts)
		}
	})
}

// A router that was away for three minutes, and swallowed what was sent to it, has all its sessions back within 20 s, and is
// not stormed.
func TestThreeHundredSessionsAreBackWithin20SecondsOfTheirRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := New(func() time.Duration { return time.Hour })
		t.Cleanup(s.Keep)
		var away atomic.Bool
		var mu sync.Mutex
		var dialled []time.Duration
		s.dial = func(ctx context.Context, peer loadbalancer.Peer) (net.Conn, error) {
			mu.Lock()
			dialled = append(dialled, time.Since(r.start))
			mu.Unlock()
			if away.Load() {
				<-time.After(dialTimeout)
				return nil, fmt.Errorf("dial: %w", os.ErrDeadlineExceeded)
			}
			return r.connect()
		}
		var peers []loadbalancer.Peer
		for i := range 300 {
			p := leaf
			p.Name, p.Addr, p.ConnectTime = fmt.Sprint("node-", i), netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)}), 15*time.Second
			peers = append(peers, p)
		}
		s.Announce(peers, routes("192.0.2.1/32"))
		var lines []*line
		for range peers {
			l := r.up(hello)
			l.untilEndOfRIB()
			lines = append(lines, l)
		}
		for range 5 {
			pass(20 * time.Second)
			for _, l := range lines {
				l.say(keepalive)
			}
		}
		away.Store(true)
		for _, l := range lines {
			l.conn.Close()
		}
		pass(3 * time.Minute)
		away.Store(false)
		mu.Lock()
		dialled = nil
		mu.Unlock()
		back := time.Now()
		for range peers {
			r.up(hello).untilEndOfRIB()
		}
		if took := time.Since(back); took > 20*time.Second {
			t.Errorf("the last session was back after %v", took)
		}
		mu.Lock()
		defer mu.Unlock()
		busiest := 0
		for i, at := range dialled {
			j := i
			for j < len(dialled) && dialled[j] < at+time.Second {
				j++
			}
			busiest = max(busiest, j-i)
		}
		if busiest > 75 {
			t.Errorf("%d attempts within a second", busiest)
		}
	})
}

// edits are what an operator may change of a peer while its session is up, and whether the router notices.
var edits = []struct {
	key     string
	edit    func(*loadbalancer.Peer)
	noticed string // nothing, anew, or left
}{
	{"name", func(p *loadbalancer.Peer) { p.Name = "tor" }, "nothing"},
	{"connect-time", func(p *loadbalancer.Peer) { p.ConnectTime = time.Minute }, "nothing"},
	{"node-selectors", func(p *loadbalancer.Peer) { p.NodeSelectors = []loadbalancer.Selector{{}} }, "nothing"},
	{"password-key of the same password", func(p *loadbalancer.Peer) { p.PasswordKey = "tor" }, "nothing"},
	{"source-address of the same address", func(p *loadbalancer.Peer) { p.SourceNodeIP = true }, "nothing"},
	{"hold-time", func(p *loadbalancer.Peer) { p.HoldTime = 30 * time.Second }, "anew"},
	{"keepalive-time", func(p *loadbalancer.Peer) { p.KeepaliveTime = 10 * time.Second }, "anew"},
	{"restart-time", func(p *loadbalancer.Peer) { p.RestartTime = time.Minute }, "anew"},
	{"graceful-restart: false", func(p *loadbalancer.Peer) { p.RestartTime = 0 }, "anew"},
	{"password", func(p *loadbalancer.Peer) { p.Password = "hunter2" }, "anew"},
	{"router-id", func(p *loadbalancer.Peer) { p.RouterID = netip.MustParseAddr("10.0.0.77") }, "anew"},
	{"ebgp-multihop", func(p *loadbalancer.Peer) { p.TTL = 2 }, "anew"},
	{"ttl-security", func(p *loadbalancer.Peer) { p.TTL, p.MinTTL = 255, 255 }, "anew"},
	{"my-asn", func(p *loadbalancer.Peer) { p.MyASN = 64513 }, "anew"},
	{"source-address", func(p *loadbalancer.Peer) { p.SourceAddress = speakerAddr }, "left"},
	{"peer-port", func(p *loadbalancer.Peer) { p.Port = 1790 }, "left"},
}

func TestAnEditedPeerBeginsAnewInItsTurnWithoutAWord(t *testing.T) {
	for _, c := range edits {
		t.Run(c.key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(t)
				s := speak(t, map[string]*router{"leaf": r, "tor": r})
				table := routes("192.0.2.1/32")
				s.Announce([]loadbalancer.Peer{leaf}, table)
				l := r.up(hello)
				l.untilEndOfRIB()
				changed := leaf
				c.edit(&changed)
				edited := time.Now()
				s.Announce([]loadbalancer.Peer{changed}, table)
				synctest.Wait()
				switch c.noticed {
				case "nothing":
					pass(time.Second)
					if len(l.heard) != 0 || len(r.attempts()) != 1 {
						t.Errorf("the router hears %d messages, and was dialled at %v", len(l.heard), r.attempts())
					}
					if got := s.List()[0]; !got.Up || got.Peer != changed.Name {
						t.Errorf("the session is %+v", got)
					}
					return
				case "left":
					l.want("NOTIFICATION 6/3", "closed")
				case "anew":
					// Until its turn comes, the session goes on.
					s.Announce([]loadbalancer.Peer{changed}, routes("192.0.2.1/32", "192.0.2.2/32"))
					l.want("announce 192.0.2.2/32 path 64512 via 10.0.0.2", "closed")
				}
				l = r.accept()
				if took := time.Since(edited); took > turnTime {
					t.Errorf("it begins anew after %v", took)
				}
				if open := l.next(); c.noticed == "anew" && changed.RestartTime > 0 && restarting(open) {
					t.Error("it says that it restarted")
				}
				l.say(hello)
				l.say(keepalive)
				l.want("KEEPALIVE")
				if updates := l.untilEndOfRIB(); len(updates) != 1 {
					t.Errorf("the router is sent %d UPDATEs", len(updates))
				}
				if got := s.List()[0]; got.Failures != 0 || len(s.List()) != 1 {
					t.Errorf("the session is %+v", got)
				}
			})
		})
	}
}

func TestWithoutGracefulRestartAnEditIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		forgetful := leaf
		forgetful.RestartTime = 0
		s.Announce([]loadbalancer.Peer{forgetful}, nil)
		l := r.up(hello)
		l.untilEndOfRIB()
		forgetful.HoldTime = 30 * time.Second
		s.Announce([]loadbalancer.Peer{forgetful}, nil)
		l.want("NOTIFICATION 6/6", "closed")
		r.up(hello).untilEndOfRIB()
	})
}

func TestSessionsOfAnEditedPeerTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := New(func() time.Duration { return time.Hour })
		t.Cleanup(s.Keep)
		s.dial = func(context.Context, loadbalancer.Peer) (net.Conn, error) { return r.connect() }
		var peers, changed []loadbalancer.Peer
		for i := range 200 {
			p := leaf
			p.Name, p.Addr = fmt.Sprint("node-", i), netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			peers = append(peers, p)
			p.HoldTime = 30 * time.Second
			changed = append(changed, p)
		}
		s.Announce(peers, nil)
		for range peers {
			r.up(hello).untilEndOfRIB()
		}
		edited := time.Since(r.start)
		s.Announce(changed, nil)
		pass(turnTime / 2)
		s.Announce(peers, nil) // the operator thinks better of it: half of them need not begin anew
		pass(turnTime)
		var seconds [11]int
		for _, at := range r.attempts()[len(peers):] {
			seconds[(at-edited)/time.Second]++
		}
		for i, n := range seconds[:5] {
			if n < 4 || n > 45 {
				t.Errorf("in second %d, %d sessions of 200 begin anew", i, n)
			}
		}
	})
}

func TestAnEditOfAPeerThatIsNotUpIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		r.refuse(errRefused)
		slow := leaf
		slow.ConnectTime = time.Hour
		s.Announce([]loadbalancer.Peer{slow}, nil)
		pass(2 * time.Hour)
		if lines := logged.Lines(); len(lines) != 1 {
			t.Errorf("logged %q", lines)
		}
		slow.Password = "a wrong one"
		s.Announce([]loadbalancer.Peer{slow}, nil)
		synctest.Wait()
		if lines := logged.Lines(); len(lines) != 2 {
			t.Errorf("after an edit that did not help, logged %q", lines)
		}
		r.refuse(nil)
		before := time.Now()
		slow.Password = "the right one"
		s.Announce([]loadbalancer.Peer{slow}, nil)
		l := r.accept()
		l.want("OPEN")
		slow.Password = "one better"
		s.Announce([]loadbalancer.Peer{slow}, nil)
		l.want("closed")
		r.up(hello).want("END-OF-RIB")
		if took := time.Since(before); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAnotherNameGoesWithItsRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		table := routes("192.0.2.1/32", "192.0.2.2/32")
		table[0].Peers = []string{"leaf"}
		s.Announce([]loadbalancer.Peer{leaf}, table)
		l := r.up(hello)
		l.untilEndOfRIB()
		tor := leaf
		tor.Name = "tor"
		renamed := slices.Clone(table)
		renamed[0].Peers = []string{"tor"}
		s.Announce([]loadbalancer.Peer{tor}, renamed)
		s.Announce([]loadbalancer.Peer{tor}, append(renamed, routes("192.0.2.3/32")...))
		l.want("announce 192.0.2.3/32 path 64512 via 10.0.0.2")
		s.Announce([]loadbalancer.Peer{leaf}, renamed)
		l.want("withdraw 192.0.2.1/32,192.0.2.3/32")
	})
}

func TestAPeerThatGoesTouchesOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, outside := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"spine": inside, "leaf": outside})
		s.Announce([]loadbalancer.Peer{spine, leaf}, routes("192.0.2.1/32"))
		in := inside.up(helloInside)
		in.untilEndOfRIB()
		synctest.Wait()
		out := outside.up(hello)
		out.untilEndOfRIB()
		changed := leaf
		changed.HoldTime = 30 * time.Second
		s.Announce([]loadbalancer.Peer{spine, changed}, routes("192.0.2.1/32"))
		out.want("closed")
		out = outside.up(hello)
		out.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2", "END-OF-RIB")
		s.Announce([]loadbalancer.Peer{spine}, routes("192.0.2.1/32"))
		out.want("NOTIFICATION 6/3", "closed")
		synctest.Wait()
		if len(in.heard) != 0 || len(inside.attempts()) != 1 || len(s.List()) != 1 {
			t.Errorf("the other session heard %d messages and was dialled at %v", len(in.heard), inside.attempts())
		}
		wantLogged(t,
			`"Session is up" peer="spine" asn=64512 families="IPv4" routes=1`,
			`"Session is up" peer="leaf" asn=64500 families="IPv4" routes=1`,
			`"Session is down" peer="leaf" asn=64500 why="the configuration of this peer changed"`,
			`"Session is up" peer="leaf" asn=64500 families="IPv4" routes=1`,
			`"Session is down" peer="leaf" asn=64500 why="the configuration no longer has this peer for this node"`)
	})
}

func TestToldIsWhatSomeRouterKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, outside := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"spine": inside, "leaf": outside})
		table := routes("192.0.2.1/32", "192.0.2.2/32", "2001:db8::7/128")
		table[0].Peers, table[1].Peers = []string{"spine"}, []string{"leaf"}
		told := func(then string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			all := map[netip.Prefix]bool{}
			for _, session := range s.List() {
				session.Told(all)
			}
			for p := range all {
				got = append(got, p.String())
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", then, got, want)
			}
		}
		s.Announce([]loadbalancer.Peer{spine, leaf}, table)
		told("nobody is there yet")
		in := inside.up(helloInside)
		told("one router is up, which takes no IPv6", "192.0.2.1/32")
		out := outside.up(hello)
		told("both are up", "192.0.2.1/32", "192.0.2.2/32")
		s.Announce([]loadbalancer.Peer{spine, leaf}, table[1:])
		told("a route goes", "192.0.2.2/32")
		outside.refuse(errRefused)
		in.untilEndOfRIB()
		out.conn.Close()
		told("a router goes")
	})
}

func TestARouterNeverSeesTwoSessionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r, "tor": r})
		tor := leaf
		tor.Name, tor.SourceAddress = "tor", speakerAddr // the same router, to which we are another neighbor
		r.deafAfter = 3                                  // so that it takes its time to read the NOTIFICATION
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		l := r.up(hello)
		l.want("END-OF-RIB")
		s.Announce([]loadbalancer.Peer{tor}, nil)
		s.Announce(nil, nil)
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		synctest.Wait()
		if len(r.attempts()) != 1 {
			t.Error("the next session begins before the last one ended")
		}
		pass(time.Second)
		close(l.ears)
		l.want("NOTIFICATION 6/3", "closed")
		r.up(hello).want("END-OF-RIB")
		if !slices.Equal(r.attempts(), []time.Duration{0, time.Second}) {
			t.Errorf("dialled at %v", r.attempts())
		}
	})
}

func TestKeepSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, opening, refusing := newRouter(t), newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"leaf": up, "spine": opening, "third": refusing})
		third := leaf
		third.Name = "third"
		refusing.refuse(errRefused)
		s.Announce([]loadbalancer.Peer{leaf, spine, third}, routes("192.0.2.1/32"))
		l := up.up(hello)
		l.untilEndOfRIB()
		m := opening.accept()
		m.want("OPEN")
		s.Keep()
		l.want("closed")
		m.want("closed")
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.2/32"))
		pass(time.Hour)
		synctest.Wait()
		if len(up.attempts()) != 1 || len(opening.attempts()) != 1 {
			t.Error("sessions come back after Keep")
		}
		if got := s.List()[0]; got.Up || got.Prefixes != 0 {
			t.Errorf("after Keep: %+v", got)
		}
	})
}

func TestWithdrawWithdrawsThenSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, opening := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"leaf": up, "spine": opening})
		s.Announce([]loadbalancer.Peer{leaf, spine}, routes("192.0.2.1/32", "192.0.2.2/32"))
		l := up.up(hello)
		l.untilEndOfRIB()
		m := opening.accept()
		m.want("OPEN")
		s.Withdraw(t.Context(), "node 7 is going down")
		l.want("withdraw 192.0.2.1/32,192.0.2.2/32", "NOTIFICATION 6/2 14"+fmt.Sprintf("%x", "node 7 is going down"), "closed")
		m.want("NOTIFICATION 6/2 14"+fmt.Sprintf("%x", "node 7 is going down"), "closed")
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		pass(time.Hour)
		if len(up.attempts()) != 1 {
			t.Error("sessions come back after Withdraw")
		}
	})
}

func TestWithdrawDoesNotWaitForARouterThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		r.deafAfter = 3
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		l := r.up(hello)
		l.want("announce 192.0.2.1/32 path 64512 via 10.0.0.2")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		s.Withdraw(ctx, "")
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Withdraw took %v", took)
		}
	})
}

func TestARouterThatRefusesOurCapabilitiesIsOfferedFewer(t *testing.T) {
	for _, refusal := range []string{"0204", "0207"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(t)
			s := speak(t, map[string]*router{"leaf": r})
			s.Announce([]loadbalancer.Peer{leaf}, nil)
			all, _ := openMessage(leaf, true, true, false, false)
			few, _ := openMessage(leaf, true, true, true, false)
			l := r.accept()
			l.offered(all)
			if refusal == "0207" { // a router that says who it is before it listens
				l.say(hello)
				l.want("KEEPALIVE")
			}
			l.say(msg(3, refusal))
			l.conn.Close()
			r.refuse(errRefused)
			pass(time.Minute)
			r.refuse(nil)
			l = r.accept()
			l.offered(few)
			l.say(hello)
			l.say(keepalive)
			l.want("KEEPALIVE", "END-OF-RIB")
			l.conn.Close()
			all, _ = openMessage(leaf, false, true, false, false)
			r.accept().offered(all) // it may have learnt better
		})
	}
}

// offered checks that the next message is this OPEN.
func (l *line) offered(want []byte) {
	l.t.Helper()
	if got := l.next(); string(got.bytes) != string(want) {
		l.t.Errorf("offered\n\t%x, want\n\t%x", got.bytes, want)
	}
}

// FRR with extended-optional-parameters reads one byte more of an OPEN without them than there is.
func TestARouterThatCannotReadOurOpenGetsItWithLengthsOfTwoBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		narrow, _ := openMessage(leaf, true, true, false, false)
		wide, _ := openMessage(leaf, true, true, false, true)
		refuse := func(open []byte) {
			t.Helper()
			l := r.accept()
			l.offered(open)
			l.say(hello) // before it has read ours
			l.want("KEEPALIVE")
			l.say(msg(3, "0200"))
			l.conn.Close()
		}
		refuse(narrow)
		refuse(wide) // it cannot read that either
		refuse(narrow)
		restarting := wide
		for range 2 {
			l := r.accept()
			l.offered(restarting)
			l.say(hello)
			l.want("KEEPALIVE")
			l.say(keepalive)
			l.want("END-OF-RIB")
			l.conn.Close()
			restarting, _ = openMessage(leaf, false, true, false, true) // what it could read, it can read
		}
	})
}

func TestTheReasonForClosingOutlivesTheBrokenConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		s.dial = func(ctx context.Context, peer loadbalancer.Peer) (net.Conn, error) {
			conn, err := r.connect()
			return brokenPipe{conn}, err
		}
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		r.accept().say(msg(3, "0202"))
		synctest.Wait()
		if got := s.List()[0].LastError; got != "the router sent NOTIFICATION 2/2 (Bad Peer AS): my-asn is 64512, and it expects another AS number of this node" {
			t.Errorf("the operator reads %q", got)
		}
	})
}

// A brokenPipe can be read, but not written.
type brokenPipe struct{ net.Conn }

func (brokenPipe) Write([]byte) (int, error) { return 0, errRefused }

// If the router is alive, and only our BFD was starved, it must not hear a NOTIFICATION, which would make it forget the routes.
func TestARouterThatBFDTakesForDeadIsLeftWithoutAWordAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, other := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"leaf": r, "spine": other})
		watched := leaf
		watched.BFDProfile = "quick"
		s.Announce([]loadbalancer.Peer{watched, spine}, routes("192.0.2.1/32"))
		l := r.up(hello)
		l.untilEndOfRIB()
		other.up(helloInside).untilEndOfRIB()
		synctest.Wait()

		s.Lost(spine.Addr, netip.Addr{}) // has no profile: not ours to end
		s.Lost(leaf.Addr, netip.MustParseAddr("10.0.0.77"))
		synctest.Wait()
		if list := s.List(); !list[0].Up || !list[0].BFD || !list[1].Up || list[1].BFD {
			t.Fatalf("somebody else's end ends a session: %+v", list)
		}

		s.Lost(leaf.Addr, netip.Addr{})
		s.Lost(leaf.Addr, netip.Addr{}) // once more, which is no news
		synctest.Wait()
		if list := s.List(); list[0].Up || list[0].LastError != "BFD says that the router is dead" || !list[1].Up {
			t.Errorf("List says %+v", list)
		}
		if len(l.heard) > 0 {
			t.Errorf("the router hears %s", tell(l.next()))
		}
		r.up(hello).untilEndOfRIB()
		synctest.Wait()
		pass(time.Second)
		if !s.List()[0].Up {
			t.Error("the session that was begun anew is down")
		}
		pass(silentTime)
	})
}
