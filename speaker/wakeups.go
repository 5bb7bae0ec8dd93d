package speaker

import (
	"net/netip"
	"slices"
	"time"
)

// A wakeup is when something is to be looked at again though nothing changed: a Service, a prefix, a node of the cluster, or, without
// any of them, our own.
type wakeup struct {
	at time.Time
	subject
}

type subject struct {
	service string
	prefix  netip.Prefix
	node    string
}

// Wakeups are one for each subject at most. The zero value is ready to use.
type wakeups struct {
	queue []wakeup // the earliest first; some are no longer right
	right map[subject]time.Time
}

// set says when a subject is to be looked at again; zero: never.
func (w *wakeups) set(s subject, at time.Time) {
	switch was := w.right[s]; {
	case at.Equal(was):
	case at.IsZero():
		delete(w.right, s)
	default:
		if w.right == nil {
			w.right = map[subject]time.Time{}
		}
		w.right[s] = at
		// Nearly always the last: what begins to wait later waits longer.
		i, _ := slices.BinarySearchFunc(w.queue, at, func(u wakeup, at time.Time) int { return u.at.Compare(at) })
		w.queue = slices.Insert(w.queue, i, wakeup{at, s})
	}
}

// first returns when the first wakeup is; zero if there is none.
func (w *wakeups) first() time.Time {
	for ; len(w.queue) > 0; w.queue = w.queue[1:] {
		if u := w.queue[0]; u.at.Equal(w.right[u.subject]) {
			return u.at
		}
	}
	return time.Time{}
}

// due takes off the subjects whose time has come.
func (w *wakeups) due(now time.Time) (all []subject) {
	for at := w.first(); !at.IsZero() && !now.Before(at); at = w.first() {
		all = append(all, w.queue[0].subject)
		delete(w.right, w.queue[0].subject)
	}
	return all
}
