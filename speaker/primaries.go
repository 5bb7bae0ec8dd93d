package speaker

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Of the nodes that announce a prefix, an advertisement may want so many to announce it as it is, its primaries, and the others
// as spares, which routers use when they have nothing better. Each node finds out for itself which it is, by rendezvous hashing:
// for each prefix every node has a score of its own, and the greatest are the primaries. So a node that comes or goes makes a
// difference only to the prefixes of which it is a primary.

const (
	// sparePrepend is how much longer a spare's path is for eBGP routers, and firstPrepend that of the first spare: should a
	// primary die, one node takes its place and not all.
	sparePrepend, firstPrepend = 3, 1
	// unreadyFor is how long a node may be NotReady and go on as a primary: its kubelet may only be restarting.
	unreadyFor = 40 * time.Second
)

// A member is a node of the cluster, as it bears on who is a primary. Nobody changes one.
type member struct {
	name   string
	labels map[string]string
	id     uint32 // as endpoints have it
	hash   uint64
	may    bool // be a primary
}

// memberOf returns the node as a member, and when it is to be looked at again; zero if never.
func (w *world) memberOf(now time.Time, node *corev1.Node) (m *member, wake time.Time) {
	drained, _ := Drained(w.config, node)
	m = &member{name: node.Name, labels: node.Labels, id: id(node.Name), hash: hashOf([]byte(node.Name))}
	m.may = drained == "" && Unfit(node, w.ignoreLabel) == ""
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			if until := c.LastTransitionTime.Add(unreadyFor); now.Before(until) {
				wake = until
			} else {
				m.may = false
			}
		}
	}
	return m, wake
}

// equal reports whether it makes no difference which of both a node is.
func (m *member) equal(n *member) bool { return m.may == n.may && maps.Equal(m.labels, n.labels) }

// keptOf keeps of a Node what memberOf reads.
func keptOf(object any) (string, *corev1.Node) {
	node, kept := object.(*corev1.Node), &corev1.Node{}
	kept.Name, kept.Labels, kept.Spec.Taints = node.Name, node.Labels, node.Spec.Taints
	for _, key := range drainAnnotations {
		if text, ok := node.Annotations[key]; ok {
			metav1.SetMetaDataAnnotation(&kept.ObjectMeta, key, text)
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady || c.Type == corev1.NodeNetworkUnavailable {
			kept.Status.Conditions = append(kept.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime})
		}
	}
	return node.Name, kept
}

// A ranking is the nodes, the best first, that announce a route as it is, and the first spare behind them.
type ranking struct {
	primaries int // 0: all nodes are alike
	best      []*member
}

// spare returns the routes as this node announces them.
func (w *world) spare(routes []loadbalancer.Route, rankings []ranking) []loadbalancer.Route {
	if len(rankings) == 0 {
		return routes
	}
	routes = slices.Clone(routes)
	for i, ranking := range rankings {
		r := &routes[i]
		r.Primaries = 0
		at := slices.IndexFunc(ranking.best, func(m *member) bool { return m.name == w.node })
		switch {
		case ranking.primaries == 0 || at >= 0 && at < ranking.primaries:
		case at == ranking.primaries:
			r.LocalPref, r.Prepend = uint32(3*uint64(r.LocalPref)/4), r.Prepend+firstPrepend
		default:
			r.LocalPref, r.Prepend = r.LocalPref/2, r.Prepend+sparePrepend
		}
	}
	return routes
}

// rank ranks, for each of the routes that are wanted for a prefix, the nodes that may announce the same; none if all nodes are
// alike, also as long as the members are not known.
func (w *world) rank(prefix netip.Prefix, routes []loadbalancer.Route, offers []*offer, members []*member) (rankings []ranking) {
	if len(members) == 0 || !slices.ContainsFunc(routes, func(r loadbalancer.Route) bool { return r.Primaries > 0 }) {
		return nil
	}
	asks, everywhere, on := asked(offers), false, []uint32(nil)
	for _, o := range offers {
		everywhere = everywhere || o.live && o.nodes == nil
		if o.live {
			on = append(on, o.nodes...)
		}
	}
	slices.Sort(on)
	rankings = make([]ranking, len(routes))
	p := hashOfPrefix(prefix)
	for i, r := range routes {
		if r.Primaries == 0 {
			continue
		}
		tells := func(addr netip.Addr, labels map[string]string) bool {
			return slices.ContainsFunc(w.config.Routes(addr, labels, asks...), r.Equal)
		}
		origin := offers[slices.IndexFunc(offers, func(o *offer) bool { return o.why == "" && tells(o.Addr, w.labels) })]
		may := func(m *member) bool {
			_, here := slices.BinarySearch(on, m.id)
			return (everywhere || here) && tells(origin.Addr, m.labels) && slices.ContainsFunc(w.config.Peers, func(p loadbalancer.Peer) bool {
				return r.For(p.Name) && loadbalancer.Selects(p.NodeSelectors, m.labels)
			})
		}
		rankings[i] = ranking{int(r.Primaries), nil}
		for _, m := range members {
			if rankings[i].hasRoom(p, m) && may(m) {
				rankings[i].add(p, m)
			}
		}
	}
	return rankings
}

// hasRoom reports whether the node comes into the ranking if it announces the route.
func (r *ranking) hasRoom(prefix uint64, m *member) bool {
	return m.may && (len(r.best) <= r.primaries || m.before(prefix, r.best[r.primaries]))
}

func (r *ranking) add(prefix uint64, m *member) {
	i := slices.IndexFunc(r.best, func(n *member) bool { return m.before(prefix, n) })
	if i < 0 {
		i = len(r.best)
	}
	r.best = slices.Insert(r.best, i, m)
	r.best = r.best[:min(len(r.best), r.primaries+1)]
}

// before reports whether the node goes before another one for the prefix with a hash.
func (m *member) before(prefix uint64, n *member) bool {
	return cmp.Or(cmp.Compare(mix(n.hash^prefix), mix(m.hash^prefix)), cmp.Compare(m.name, n.name)) < 0
}

// A change is what a node was and is; nil: it is not there.
type change struct{ was, is *member }

// matters reports whether a change makes a difference to one of a prefix's rankings.
func (c change) matters(prefix netip.Prefix, rankings []ranking) bool {
	p := hashOfPrefix(prefix)
	return slices.ContainsFunc(rankings, func(r ranking) bool {
		return r.primaries > 0 && (c.was != nil && slices.Contains(r.best, c.was) || c.is != nil && r.hasRoom(p, c.is))
	})
}

// The hashes are the same on every node and in every release: all have to agree on who is a primary. This is FNV-1a, 64 bits.

func hashOf(text []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(text) // it never fails
	return h.Sum64()
}

func hashOfPrefix(prefix netip.Prefix) uint64 {
	addr := prefix.Addr().As16()
	high, low := binary.BigEndian.Uint64(addr[:8]), binary.BigEndian.Uint64(addr[8:])
	return mix(high^mix(low)) + uint64(prefix.Bits())
}

// mix makes each bit of the result depend on each of x, and no two results equal (the last step of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
