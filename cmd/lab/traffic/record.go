package traffic

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A Record is what became of some traffic.
type Record struct {
	From, To time.Time
	Attempts []Attempt // to open a new connection and get an answer, in the order in which they began
	Long     []Conversation
	Marks    []Mark
}

// An Attempt is a new connection, on which was asked once.
type Attempt struct {
	Began time.Time
	Took  time.Duration // until the answer, or the failure
	Answer
	Why   Class  // "": it was answered
	Error string // in words, if it failed
}

func (a Attempt) failed() bool { return a.Why != "" }

func (a Attempt) ended() time.Time { return a.Began.Add(a.Took) }

// A Conversation is a long-lived connection.
type Conversation struct {
	Began   time.Time     // when the first attempt was made to open it
	Opened  time.Time     // its first answer; zero: it never had one
	Last    time.Time     // its last answer
	Answers int           // how many it had
	Longest time.Duration // that it had to wait for an answer, after the first
	Broke   time.Time     // when that was noticed; zero: it did not
	Answer                // the first
	Why     Class         // it broke, or cannot be opened
	Error   string
}

// A Mark says what happened, and when.
type Mark struct {
	At   time.Time
	What string
}

// Failed are the attempts without an answer: the loss.
func (r *Record) Failed() []Attempt { return r.attempts(Attempt.failed) }

// Answered are the attempts with an answer.
func (r *Record) Answered() []Attempt {
	return r.attempts(func(a Attempt) bool { return !a.failed() })
}

func (r *Record) attempts(which func(Attempt) bool) []Attempt {
	var found []Attempt
	for _, a := range r.Attempts {
		if which(a) {
			found = append(found, a)
		}
	}
	return found
}

// Broken are the long-lived connections that broke.
func (r *Record) Broken() []Conversation {
	var broken []Conversation
	for _, c := range r.Long {
		if !c.Broke.IsZero() && within(c.Broke, r.From, r.To) {
			broken = append(broken, c)
		}
	}
	return broken
}

func within(at, from, to time.Time) bool { return !at.Before(from) && at.Before(to) }

// Between is a part of the record: the attempts that began and ended in it, its marks, and the long-lived connections that were there
// in it. Attempts under way at one of its ends are left out, since what made them fail may have happened on either side.
func (r *Record) Between(from, to time.Time) *Record {
	part := &Record{From: from, To: to}
	part.Attempts = r.attempts(func(a Attempt) bool { return !a.Began.Before(from) && !a.ended().After(to) })
	for _, c := range r.Long {
		if c.Began.Before(to) && (c.Broke.IsZero() || !c.Broke.Before(from)) {
			part.Long = append(part.Long, c)
		}
	}
	for _, m := range r.Marks {
		if within(m.At, from, to) {
			part.Marks = append(part.Marks, m)
		}
	}
	return part
}

// A Share is how many of the answers somebody gave.
type Share struct {
	Name        string
	Answers, Of int
}

func (s Share) String() string {
	return fmt.Sprintf("%s %.0f%%", s.Name, 100*float64(s.Answers)/float64(s.Of))
}

// Nodes are who answered, sorted by name.
func (r *Record) Nodes() []Share { return shares(r.Answered(), node) }

// Pods are who answered, sorted by name.
func (r *Record) Pods() []Share {
	return shares(r.Answered(), func(a Attempt) string { return a.Pod })
}

func node(a Attempt) string { return a.Node }

func shares(answered []Attempt, name func(Attempt) string) []Share {
	count := map[string]int{}
	for _, a := range answered {
		count[name(a)]++
	}
	var shares []Share
	for _, name := range slices.Sorted(maps.Keys(count)) {
		shares = append(shares, Share{name, count[name], len(answered)})
	}
	return shares
}

// Clients are the addresses that pods saw asking, each once, sorted.
func (r *Record) Clients() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, a := range r.Answered() {
		seen[a.Client] = true
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}

// Reasons are how many attempts failed for each.
func (r *Record) Reasons() map[Class]int {
	count := map[Class]int{}
	for _, a := range r.Failed() {
		count[a.Why]++
	}
	return count
}

// An Outage is a time in which attempts failed, though not necessarily all.
type Outage struct {
	First, Last time.Time // when the first of these attempts began, and the last
	Failed      int
}

// Outages are the times in which attempts failed. Two are distinct if no attempt that failed began for longer than apart in between.
func (r *Record) Outages(apart time.Duration) []Outage {
	var outages []Outage
	for _, a := range r.Failed() {
		if last := len(outages) - 1; last >= 0 && a.Began.Sub(outages[last].Last) <= apart {
			outages[last].Last = a.Began
			outages[last].Failed++
		} else {
			outages = append(outages, Outage{a.Began, a.Began, 1})
		}
	}
	return outages
}

// Recovery is the time from a mark until the last attempt that failed began, of those that began and ended after it and before the next
// mark; 0 if none failed. It is not over if no attempt that began later was answered.
func (r *Record) Recovery(mark Mark) (took time.Duration, over bool) {
	next := r.To
	for _, m := range slices.Backward(r.Marks) {
		if m.At.After(mark.At) {
			next = m.At
		}
	}
	return r.recovery(mark.At, next)
}

func (r *Record) recovery(from, to time.Time) (took time.Duration, over bool) {
	last, over := from, true
	for _, a := range r.Between(from, to).Attempts {
		if over = !a.failed(); !over {
			last = a.Began
		}
	}
	return last.Sub(from), over
}
