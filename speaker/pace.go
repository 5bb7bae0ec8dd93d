package speaker

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
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

// pace returns the routes with the weights that routers should be told now, what to remember for the next time, and when
// that is at the latest, though nothing else changes; zero if never. The routes of one prefix want one weight, or none.
//
// A weight that is new, because the prefix is or because it had none, is sent at once, and so is its end: routers need a
// weight from every node or from none.
func pace(now time.Time, last map[netip.Prefix]paced, wanted []loadbalancer.Route) (send []loadbalancer.Route, next map[netip.Prefix]paced, wake time.Time) {
	send = wanted
	for i, r := range wanted {
		if r.Weight == 0 {
			continue
		}
		if next == nil {
			send, next = slices.Clone(wanted), make(map[netip.Prefix]paced, len(last))
		}
		p, ok := next[r.Prefix]
		if !ok {
			p = last[r.Prefix].want(now, min(r.Weight, heaviest))
			next[r.Prefix] = p
			wake = earlier(wake, p.due())
		}
		send[i].Weight = p.sent
	}
	return send, next, wake
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

// A memory is what of the past matters for what is announced now.
type memory struct {
	weights map[netip.Prefix]paced
	drain   drain
	places  map[place]standing // with the policy Local; nil at the start
	shown   map[holder][]shown
}

// announcements is Announcements with time: what routers should be told now, what to remember, the services with what each
// keeps, and when to look again at the latest; zero if only when something changes. drained and since are what Drained says.
func (m memory) announcements(now time.Time, config *loadbalancer.Config, ours service.Ours, node *corev1.Node, all []Service, drained string, since time.Time) (
	routes []loadbalancer.Route, withheld []Withheld, services []Service, next memory, wake time.Time) {
	next.drain = m.drain.next(now, drained, since)
	why, at := unfit(node), next.drain.withdrawal(config.Drain)
	if !at.IsZero() && !now.Before(at) {
		why, at = cmp.Or(why, fmt.Sprintf("node %s is drained: %s", node.Name, drained)), time.Time{}
	}
	all, shown, leave := keep(now, m.shown, config, ours, all)
	services = served(ours, all)
	young, places, late := newcomers(now, m.places, services, node.Name)
	next.shown, next.places = shown, places
	routes, withheld = announcements(config, node, services, why, young)
	routes, next.weights, wake = pace(now, m.weights, routes)
	if drained != "" {
		routes = shutDown(routes)
	}
	for _, t := range []time.Time{at, late, leave} {
		wake = earlier(wake, t)
	}
	return routes, withheld, services, next, wake
}
