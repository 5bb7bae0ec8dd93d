package speaker

import (
	"slices"
	"time"
)

// headStart is what kube-proxy gets before routers send here: twice the pause that it makes between two writes of its
// rules. We hear of a pod at the same time as kube-proxy on this node, and routers are faster than its next write. Packets
// that arrive before it are lost, and the connections with them: the kernel has begun to track them as not for us.
const headStart = 2 * time.Second

// whyLate is why an address is withheld meanwhile.
const whyLate = "externalTrafficPolicy is Local, and a pod on this node has only just become ready: kube-proxy gets 2s to notice, as other nodes have one"

// A standing is what the endpoints of a Service and an IP version were like when the speaker last looked at them.
type standing struct {
	found []*endpoints
	here  bool // one is ready on this node
	// until is when the Service is no newcomer here any more, or zero; before is what it was like until it became one.
	until  time.Time
	before []*endpoints
}

// next is what becomes of s, which is nil if the Service was not there before, with the policy Local and such an address. A
// Service whose first pod on the node has only just become ready is a newcomer, while other nodes go on to serve that did
// before. Where nobody else has served until now, nothing is gained by waiting. What was not there before is no newcomer:
// nobody knows since when its pods are ready.
func (s *standing) next(now time.Time, found []*endpoints, family int) *standing {
	is := &standing{found: found, here: readyHere(found, family) > 0}
	if is.here && s != nil {
		if is.until, is.before = s.until, s.before; !s.here {
			is.until, is.before = now.Add(headStart), s.found
		}
	}
	// Is an endpoint ready on a node where one was ready before?
	if !now.Before(is.until) || !slices.ContainsFunc(found, func(e *endpoints) bool {
		return int(e.family) == family && slices.ContainsFunc(is.before, func(b *endpoints) bool { return b.family == e.family && b.meets(e) })
	}) {
		is.until, is.before = time.Time{}, nil
	}
	return is
}
