// Package traffic is the client of the lab's networks: it sends steady traffic from inside a namespace and writes down what became of
// it, so that a test or a person sees what users of a Service would have noticed while something failed.
//
// There are two kinds of traffic. New connections begin at a steady pace, whatever becomes of those before, so that an outage is seen
// in its whole length; each asks once. Long-lived connections ask again and again, and are opened anew when they break.
//
// Nothing here judges. What happened is a Record, which answers questions (Failed, Nodes, Recovery, Outages), and can be shown to a
// person as a Table or a picture (SVG).
package traffic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// Options say how much traffic, and of what kind. What is zero is as the comment says.
type Options struct {
	Rate    int           // new connections per second: 200
	Timeout time.Duration // from the beginning of a new connection to its answer: 1 s
	Ask     Dialogue      // on a new connection: Get

	Long     int           // how many long-lived connections: none
	Pause    time.Duration // before each asks again: 100 ms
	Silence  time.Duration // how long each waits for an answer, before it counts as broken: 5 s
	AskAgain Dialogue      // on a long-lived connection, also the first time: GetAgain
}

// Traffic flows from Start to Stop.
type Traffic struct {
	namespace *network.Namespace
	target    netip.AddrPort
	options   Options
	stopping  context.Context
	stop      context.CancelFunc
	running   sync.WaitGroup

	mu       sync.Mutex
	from, to time.Time // to is zero until Stop
	attempts []Attempt // as they ended
	long     []*Conversation
	marks    []Mark
}

// Start begins to send traffic from a namespace to an address.
func Start(ns *network.Namespace, target netip.AddrPort, options Options) (*Traffic, error) {
	if !target.IsValid() || target.Addr().Zone() != "" {
		return nil, fmt.Errorf("traffic to %q: want an address without a zone, and a port", target)
	}
	if min(options.Rate, options.Long) < 0 || min(options.Timeout, options.Pause, options.Silence) < 0 {
		return nil, fmt.Errorf("traffic to %s: a rate, a number of connections or a time is below zero", target)
	}
	options.Rate = cmp.Or(options.Rate, 200)
	options.Timeout = cmp.Or(options.Timeout, time.Second)
	options.Pause = cmp.Or(options.Pause, 100*time.Millisecond)
	options.Silence = cmp.Or(options.Silence, 5*time.Second)
	if options.Ask == nil {
		options.Ask = Get
	}
	if options.AskAgain == nil {
		options.AskAgain = GetAgain
	}

	t := &Traffic{namespace: ns, target: target, options: options, from: time.Now()}
	t.stopping, t.stop = context.WithCancel(context.Background())
	entered := make(chan error, 2) // nil when inside, and how it ended
	t.running.Go(func() {
		entered <- ns.Do(func() error {
			entered <- nil
			t.pace()
			return nil
		})
	})
	if err := <-entered; err != nil {
		t.stop()
		return nil, fmt.Errorf("traffic to %s: %w", target, err)
	}
	for range options.Long {
		t.running.Go(t.converse)
	}
	return t, nil
}

// Mark writes down what happens now. Call it just before, so that nothing the event breaks seems to have broken earlier.
func (t *Traffic) Mark(what string) Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	mark := Mark{time.Now(), what}
	t.marks = append(t.marks, mark)
	return mark
}

// Stop ends the traffic, lets new connections that are under way come to their end, and returns the record of it all.
func (t *Traffic) Stop() *Record {
	t.stop()
	t.running.Wait()
	t.mu.Lock()
	if t.to.IsZero() {
		t.to = time.Now()
	}
	t.mu.Unlock()
	return t.Record()
}

// Record is what has been written down up to now, or to Stop. Attempts still under way are not in it.
func (t *Traffic) Record() *Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &Record{From: t.from, To: t.to, Attempts: slices.Clone(t.attempts), Marks: slices.Clone(t.marks)}
	if r.To.IsZero() {
		r.To = time.Now()
	}
	for _, c := range t.long {
		r.Long = append(r.Long, *c)
	}
	slices.SortStableFunc(r.Attempts, func(a, b Attempt) int { return a.Began.Compare(b.Began) })
	return r
}

// pace begins new connections until Stop. It runs on a thread inside the namespace and never waits for one of them: the sockets belong
// to the namespace for good, so that everything else can be done by ordinary goroutines.
func (t *Traffic) pace() {
	interval := time.Second / time.Duration(t.options.Rate)
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.stopping.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		conn, err := begin(t.target)
		t.running.Go(func() { t.attempt(began, conn, err) })
		// A machine that is too busy for the pace gets fewer connections, but never a burst of them to make up for it.
		if next = next.Add(interval); next.Before(began) {
			next = began
		}
		timer.Reset(time.Until(next))
	}
}

// attempt sees a new connection to its end.
func (t *Traffic) attempt(began time.Time, conn *os.File, err error) {
	a := Attempt{Began: began}
	if err == nil {
		a.Answer, err = t.ask(conn, began.Add(t.options.Timeout), t.options.Ask)
		conn.Close()
	}
	a.Took = time.Since(began)
	a.Why, a.Error = explain(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempts = append(t.attempts, a)
}

// ask waits until a connection is there, and has one dialogue.
func (t *Traffic) ask(conn *os.File, deadline time.Time, dialogue Dialogue) (Answer, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return Answer{}, err
	}
	if err := connected(conn); err != nil {
		return Answer{}, err
	}
	return dialogue(conn)
}

// converse keeps one long-lived connection open until Stop, and opens another when it breaks.
func (t *Traffic) converse() {
	for t.stopping.Err() == nil {
		c := &Conversation{Began: time.Now()}
		t.mu.Lock()
		t.long = append(t.long, c)
		t.mu.Unlock()
		conn := t.open(c)
		if conn == nil {
			return
		}
		closes := context.AfterFunc(t.stopping, func() { conn.Close() }) // Stop does not wait for those who are silent
		for t.rest() && t.exchange(c, conn, t.options.Silence) == nil {
		}
		closes()
		conn.Close()
		t.rest()
	}
}

// open tries until a connection has had its first answer. It returns nil after Stop.
func (t *Traffic) open(c *Conversation) *os.File {
	for {
		var conn *os.File
		err := t.namespace.Do(func() (err error) {
			conn, err = begin(t.target)
			return err
		})
		if err == nil {
			if err = t.exchange(c, conn, t.options.Timeout); err == nil {
				return conn
			}
			conn.Close()
		}
		t.mu.Lock()
		c.Why, c.Error = explain(err)
		t.mu.Unlock()
		if !t.rest() {
			return nil
		}
	}
}

// exchange asks on a long-lived connection and writes down the answer, or that the connection broke.
func (t *Traffic) exchange(c *Conversation, conn *os.File, patience time.Duration) error {
	asked := time.Now()
	answer, err := t.ask(conn, asked.Add(patience), t.options.AskAgain)
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.Answers > 0 {
		c.Longest = max(c.Longest, now.Sub(asked)) // also of what Stop cut short
	}
	switch {
	case err == nil:
		if c.Answers == 0 {
			c.Opened, c.Answer, c.Why, c.Error = now, answer, "", ""
		}
		c.Last = now
		c.Answers++
	case c.Answers > 0 && t.stopping.Err() == nil:
		c.Broke = now
		c.Why, c.Error = explain(err)
	}
	return err
}

// rest pauses, and tells whether the traffic goes on.
func (t *Traffic) rest() bool {
	timer := time.NewTimer(t.options.Pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.stopping.Done():
		return false
	}
}

// explain puts an error into a class.
func explain(err error) (Class, string) {
	if err == nil {
		return "", ""
	}
	for _, c := range classes {
		if errors.Is(err, c.of) {
			return c.class, err.Error()
		}
	}
	return Other, err.Error()
}
