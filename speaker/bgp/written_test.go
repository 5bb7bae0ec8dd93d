package bgp

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// waits are what Written was told: the peer, and how long it took.
type waits struct {
	mu  sync.Mutex
	all []string
}

func (w *waits) note(peer string, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, fmt.Sprint(peer, " ", time.Since(since)))
}

func (w *waits) want(t *testing.T, then string, want ...string) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.all)
	if !slices.Equal(w.all, want) {
		t.Errorf("%s: written %q, want %q", then, w.all, want)
	}
	w.all = nil
}

func TestWhatIsDueIsReportedWhenItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newRouter(t), newRouter(t)
		s := speak(t, map[string]*router{"leaf": one, "spine": two})
		var w waits
		s.Written = w.note
		peers := []loadbalancer.Peer{leaf, spine}
		ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }

		s.AnnounceSince(peers, routes("192.0.2.1/32"), ago(time.Second))
		l := one.up(hello)
		l.untilEndOfRIB()
		two.up(helloInside)
		w.want(t, "the initial table, which waited for the session")
		s.AnnounceSince(peers, routes("192.0.2.1/32"), ago(time.Second))
		w.want(t, "nothing that routers have to hear")
		s.AnnounceSince(peers, routes("192.0.2.2/32"), ago(2*time.Second))
		w.want(t, "a change", "leaf 2s", "spine 2s")
		s.Announce(peers, routes("192.0.2.3/32"))
		w.want(t, "one for which nobody waits")
		pass(leaf.KeepaliveTime)
		w.want(t, "a KEEPALIVE")
		only := routes("192.0.2.3/32", "192.0.2.4/32")
		only[1].Peers = []string{"leaf"}
		s.AnnounceSince(peers, only, ago(3*time.Second))
		w.want(t, "a change for one router only", "leaf 3s")
		pass(time.Second)
		l.say(msg(5, "0001 00 01"))
		w.want(t, "a refresh, which the router asked for")
	})
}

func TestARouterThatReadsSlowlyIsSeenInWhatIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		r.deafAfter = 2 // OPEN and KEEPALIVE
		s := speak(t, map[string]*router{"leaf": r})
		var w waits
		s.Written = w.note
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		l := r.up(hello)
		synctest.Wait() // it is up
		s.AnnounceSince([]loadbalancer.Peer{leaf}, routes("192.0.2.2/32"), time.Now())
		pass(time.Second)
		s.AnnounceSince([]loadbalancer.Peer{leaf}, routes("192.0.2.3/32"), time.Now())
		pass(4 * time.Second)
		w.want(t, "it does not read")
		close(l.ears)
		w.want(t, "the first of the changes has waited for this long", "leaf 5s")
		l.untilEndOfRIB()
	})
}

func TestOnlyTheLastByteCountsAsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		r.deafAfter = 3 + 20 // OPEN, KEEPALIVE, End-of-RIB, and more UPDATE messages than are handed out at once
		s := speak(t, map[string]*router{"leaf": r})
		var w waits
		s.Written = w.note
		s.Announce([]loadbalancer.Peer{leaf}, nil)
		l := r.up(hello)
		synctest.Wait()
		s.AnnounceSince([]loadbalancer.Peer{leaf}, manyRoutes(60_000), time.Now())
		pass(5 * time.Second)
		w.want(t, "a part is written")
		close(l.ears)
		w.want(t, "all is", "leaf 5s")
	})
}

func TestWhatWasDueBeforeTheSessionIsUpIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t)
		s := speak(t, map[string]*router{"leaf": r})
		var w waits
		s.Written = w.note
		s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
		r.accept() // and says nothing
		s.AnnounceSince([]loadbalancer.Peer{leaf}, routes("192.0.2.2/32"), time.Now())
		l := r.up(hello)
		l.untilEndOfRIB()
		w.want(t, "the initial table")
		s.AnnounceSince([]loadbalancer.Peer{leaf}, routes("192.0.2.3/32"), time.Now())
		w.want(t, "a change afterwards", "leaf 0s")
	})
}
