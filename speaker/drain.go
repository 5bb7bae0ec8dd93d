package speaker

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

const (
	// gracefulShutdown asks routers to use another path if there is one (RFC 8326).
	gracefulShutdown = loadbalancer.Community(0xffff0000)
	// drainPrepend is how much longer the path becomes for eBGP routers that do not know gracefulShutdown.
	drainPrepend = 3
)

// drainAnnotations on a Node say that it is being drained. They mean the same.
var drainAnnotations = []string{"metallb.universe.tf/drain", "metallb.io/drain"}

// Drained returns in words why the node is being drained on purpose, or nothing if it is not, and since when, as far as
// Kubernetes tells: only some taints carry a time, and of several marks the one that was set first counts.
func Drained(config *loadbalancer.Config, node *corev1.Node) (why string, since time.Time) {
	for _, key := range drainAnnotations {
		// As with the exclude label, "false" takes the annotation's meaning away, and any other text does not.
		if text, ok := node.Annotations[key]; ok {
			if drained, err := strconv.ParseBool(text); drained || err != nil {
				why = cmp.Or(why, "it is annotated "+key)
			}
		}
	}
	for _, t := range node.Spec.Taints {
		if slices.ContainsFunc(config.Drain.Taints, func(m loadbalancer.Mark) bool {
			return matches(m, t.Key, t.Value) && (m.Effect == "" || m.Effect == string(t.Effect))
		}) {
			why = cmp.Or(why, "it is tainted "+t.ToString())
			if t.TimeAdded != nil {
				since = earlier(since, t.TimeAdded.Time)
			}
		}
	}
	for _, m := range config.Drain.Labels {
		if value, ok := node.Labels[m.Key]; ok && matches(m, m.Key, value) {
			why = cmp.Or(why, fmt.Sprintf("it is labelled %s=%s", m.Key, value))
		}
	}
	return why, since
}

func matches(m loadbalancer.Mark, key, value string) bool {
	return m.Key == key && (m.Any || m.Value == value)
}

// ShutDown returns the routes as a node announces them that is being drained: still there for routers that have no other
// path, and the last choice of those that have one.
func ShutDown(routes []loadbalancer.Route) []loadbalancer.Route {
	routes = slices.Clone(routes)
	for i := range routes {
		r := &routes[i]
		if at, known := slices.BinarySearch(r.Communities, gracefulShutdown); !known {
			r.Communities = slices.Insert(slices.Clone(r.Communities), at, gracefulShutdown)
		}
		r.LocalPref = 0
		r.Prepend += drainPrepend
	}
	return routes
}

// A drain is what a speaker remembers of one.
type drain struct {
	why   string // empty: there is none
	since time.Time
}

// next is what becomes of d. What Kubernetes says of the time counts when the drain begins: whether a mark that comes
// later has been there for longer makes no difference to routers.
func (d drain) next(now time.Time, why string, since time.Time) drain {
	switch {
	case why == "":
		return drain{}
	case d.why != "":
		return drain{why, d.since}
	case since.IsZero() || since.After(now):
		return drain{why, now}
	}
	// Counted from now, so that a clock that is set meanwhile makes no difference.
	return drain{why, now.Add(-now.Sub(since))}
}

// withdrawal is when the node's routes are to be withdrawn; zero if never.
func (d drain) withdrawal(o loadbalancer.Drain) time.Time {
	if d.why == "" || o.WithdrawAfter == 0 {
		return time.Time{}
	}
	return d.since.Add(o.WithdrawAfter)
}

// look is what becomes of d, why no traffic from outside may be sent to the node, if so, and when that is so because it will
// have been drained for long enough; zero if never.
func (d drain) look(now time.Time, config *loadbalancer.Config, node *corev1.Node, drained string, since time.Time) (next drain, why string, end time.Time) {
	next, why = d.next(now, drained, since), Unfit(node)
	if end = next.withdrawal(config.Drain); !end.IsZero() && !now.Before(end) {
		return next, cmp.Or(why, fmt.Sprintf("node %s is drained: %s", node.Name, drained)), time.Time{}
	}
	return next, why, end
}

func (s *Speaker) logDrain(before, now drain) {
	switch {
	case before.why == "" && now.why != "":
		klog.InfoS("Began to drain", "node", s.options.NodeName, "why", now.why)
	case before.why != "" && now.why == "":
		klog.InfoS("Drain is over", "node", s.options.NodeName, "was", before.why)
	}
}
