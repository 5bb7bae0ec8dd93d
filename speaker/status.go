package speaker

import (
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// A Status is what a Speaker tells others about itself.
type Status struct {
	// Missing says in words what must still happen before routers hear from this node, without a name of anything in the
	// cluster. Once there is nothing it stays empty: whatever happens then, routers have been told what was last right.
	Missing string
	// Busy is for how long the round that goes on has been going on; 0: none does.
	Busy time.Duration

	Loaded bool   // a configuration is in force
	Hash   string // its hash, as the admitted copy says it
	Stale  bool   // what is stored as admitted now is not in force

	Drained bool // the node is being drained on purpose

	Changes uint64 // of the cluster that were seen
	Errors  uint64 // configurations that cannot be read, and peers that cannot be spoken to

	// Problems are why some peers, or all, cannot be spoken to, as the log says it.
	Problems []string
	// Mute are routers to which the configuration wants sessions from this node, and none can be.
	Mute []loadbalancer.Peer
}

// status is a Status in the making. Unlike the rest of a Speaker, it may be touched by anybody.
type status struct {
	mu     sync.Mutex
	shown  Status // but for Missing and Busy
	synced bool   // everything was read once
	closed string // why the start gate is closed, in words; empty if it is open
	spoken bool   // the first table is handed over
	began  time.Time
}

func (s *status) set(change func(*status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// failed counts what could not be dealt with.
func (s *status) failed(n int) { s.set(func(s *status) { s.shown.Errors += uint64(n) }) }

// Status describes the Speaker. Anybody may call it.
func (s *Speaker) Status() Status {
	now := &s.status
	now.mu.Lock()
	defer now.mu.Unlock()
	all := now.shown
	if !now.began.IsZero() {
		all.Busy = time.Since(now.began)
	}
	switch {
	case now.spoken:
	case !now.synced:
		all.Missing = "the cluster has not been read yet: does the API server answer?"
	case now.closed != "":
		all.Missing = now.closed
	case !all.Loaded:
		all.Missing = "no configuration is loaded: none is admitted, or it cannot be read"
	default:
		all.Missing = "no routes have been handed to the sessions: does this speaker's Node exist?"
	}
	return all
}

// Announced returns which addresses this node has told some router of: those whose prefixes are among told. Anybody may call
// it; the loop waits meanwhile, for less than a microsecond an address.
func (s *Speaker) Announced(told map[netip.Prefix]bool) (all []Announced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.decisions.services {
		for i := range e.offers {
			o := &e.offers[i]
			if o.withheld() == "" && slices.ContainsFunc(o.routes, func(r loadbalancer.Route) bool { return told[r.Prefix] }) {
				all = append(all, o.Announced)
			}
		}
	}
	return all
}

// Withheld are the addresses that this node does not announce, by Service, and why. Anybody may call it, and take as long as it
// likes.
func (s *Speaker) Withheld() iter.Seq[report.Withheld] {
	return func(yield func(report.Withheld) bool) {
		told := func(e *entry) []Withheld { return e.told }
		for _, all := range report.InOrder(&s.mu, s.decisions.services, strings.Compare, told) {
			for _, w := range all {
				if !yield(report.Withheld{Service: w.Service, Address: w.Addr, Why: w.Why}) {
					return
				}
			}
		}
	}
}
