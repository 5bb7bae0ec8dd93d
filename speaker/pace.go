package speaker

import (
	"math/bits"
	"slices"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Every change of a weight moves flows to other nodes, where nobody knows them. So weights are coarse, and change slowly.
const (
	// settled is how long a weight must have been wanted, without a break, before routers hear it. At most one change of a
	// prefix in that time follows. A rolling update, which takes a pod away and brings another, is over sooner.
	settled = 10 * time.Second
	// unsettled is after how long the latest wanted weight is sent though it never settled: what routers know may be far off.
	unsettled = time.Minute
	// exact weights are small ones: from 1 to 2 pods, a node's traffic doubles.
	exact = 8
	// heaviest is the greatest weight that routers are told; BIRD knows no greater one.
	heaviest = 256
)

// A paced weight is what routers were told about a prefix, and what they may soon be told.
type paced struct {
	sent   uint16    // 0: nothing yet
	wanted uint16    // what waits to be sent; 0: nothing does
	since  time.Time // when wanted became so
	// differs is since when something else than what was sent has been wanted, whatever it was.
	differs time.Time
}

// pace returns the routes of one prefix with the weight that routers should be told now, and what to remember for the next
// time; the zero value if they carry none. All want one weight, or none.
//
// A weight that is new, because the prefix is or because it had none, is sent at once, and so is its end: routers need a
// weight from every node or from none.
func pace(now time.Time, last paced, wanted []loadbalancer.Route) (send []loadbalancer.Route, next paced) {
	send = wanted
	for i, r := range wanted {
		if r.Weight == 0 {
			continue
		}
		if next == (paced{}) {
			send, next = slices.Clone(wanted), last.want(now, min(r.Weight, heaviest))
		}
		send[i].Weight = next.sent
	}
	return send, next
}

// want returns what becomes of p when there are so many endpoints.
func (p paced) want(now time.Time, count uint16) paced {
	wanted := quantise(count)
	switch {
	case p.sent == 0:
		return paced{sent: wanted}
	case wanted == p.sent || near(p.sent, count):
		return paced{sent: p.sent}
	case p.wanted == 0:
		p.differs = now
	}
	if p.wanted != wanted {
		p.wanted, p.since = wanted, now
	}
	if !now.Before(p.due()) {
		return paced{sent: wanted}
	}
	return p
}

// due is when what waits is sent; zero if nothing does.
func (p paced) due() time.Time {
	if p.wanted == 0 {
		return time.Time{}
	}
	return earlier(p.since.Add(settled), p.differs.Add(unsettled))
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// quantise rounds a number of endpoints, at most heaviest, to three significant bits: 10, 12, 14, 16, 20, 24, 28, 32, 40 and
// so on.
func quantise(count uint16) uint16 {
	if count <= exact {
		return count
	}
	unit := uint16(1) << (bits.Len16(count) - 3)
	return (count + unit/2) / unit * unit
}

// near reports whether a weight that was sent is still good enough for so many endpoints. What quantise returns always is.
func near(sent, count uint16) bool {
	off := int(count) - int(sent)
	return sent > exact && 8*max(off, -off) <= int(sent)
}
