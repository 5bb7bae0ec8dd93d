package bgp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"k8s.io/klog/v2"
)

const (
	// openTime is how long a router may take to answer our OPEN. RFC 4271 suggests four minutes; but a router that accepts
	// a connection and then says nothing is broken or a firewall, and its operator should read that soon.
	openTime = 30 * time.Second
	// stableTime is how long a session must have been up before the next attempt follows at once, so that a
	// router that drops every session soon after it came up is not sent the whole table every few seconds.
	stableTime = 30 * time.Second
	// firstPause is the longest pause after the first attempt that failed; each is twice as long as the one before, up to
	// connect-time.
	firstPause = time.Second
	// turnTime is within how long a session whose peer was edited begins anew. Every node hears of an edit at once, and they
	// should not all leave a router in one moment.
	turnTime = 10 * time.Second
	// lookTime is after how long a session looks again for a next hop that it lacks: an address may still be to come.
	lookTime = 5 * time.Second
	// graceTime is how long the router's last message may lie in the socket when the hold time is over, because this process
	// did not run: a throttled pod is no dead router.
	graceTime = 100 * time.Millisecond
	// silentTime is how long the connection to a router that BFD takes for dead stays open, although nobody uses it. A router that
	// hears us, and is not heard, ends the session when our BFD says so; one that heard of the connection's end before that would
	// take us for a speaker that restarts, and keep the routes.
	silentTime = 5 * time.Second
	// partingTime is how long a router may take to read our last words.
	partingTime = 2 * time.Second
)

// A session keeps one router informed. Its goroutine is run, and owns everything but what says otherwise.
type session struct {
	peer     loadbalancer.Peer // as it was when the session last connected
	sessions *Sessions         // for what all sessions share: uptime, dial, card
	// met is shared with the session's successors: the router has been up since this process started.
	met *atomic.Bool
	// after are closed when the sessions that are to end before this one begins have ended.
	after []<-chan struct{}

	// desired is the peer that Update was given last; only it changes it. Its name and the table's routes belong together.
	desired atomic.Pointer[loadbalancer.Peer]
	// bell is a doorbell: however often the table changes, the session looks once, at all of it.
	bell chan struct{} // capacity 1
	// edited is another: a connection that was opened with peer does no longer do.
	edited chan struct{} // capacity 1
	// lost is a third: BFD takes the router for dead. Anybody may ring it.
	lost chan struct{} // capacity 1
	// look asks for another look for next hops. Anybody may set it.
	look atomic.Bool
	// ctx ends when the session is to end; the cause is a farewell.
	ctx   context.Context
	leave func(error)
	done  chan struct{}

	// reduced is set after a router refused what our OPEN offered, for the next OPEN only: a router that learns better
	// is offered everything again after its next restart.
	reduced bool
	// wide is how the next OPEN is written. The other way is tried after a router could not read one.
	wide bool
	// complaints are what was logged since the session was last up about its not coming up. Some routers fail in two ways
	// by turns; each is said once.
	complaints map[string]bool

	mu    sync.Mutex
	shown Session // guarded by mu
	// changed is when the first change was seen that the router has not been told of yet, or zero. Guarded by mu.
	changed time.Time
}

// A farewell says how a session is to end.
type farewell struct {
	silent   bool // without NOTIFICATION
	withdraw bool // withdraw all routes first
	subcode  uint8
	text     string
	hurry    context.Context // if set, how long the router may take to read it all; else partingTime
	why      string
}

func (f farewell) Error() string { return f.why }

var deconfigured = farewell{subcode: ceaseDeconfigured, why: "the configuration no longer has this peer for this node"}

func newSession(peer loadbalancer.Peer, s *Sessions) *session {
	ctx, leave := context.WithCancelCause(context.Background())
	o := &session{
		peer: peer, sessions: s, bell: make(chan struct{}, 1), edited: make(chan struct{}, 1), lost: make(chan struct{}, 1), ctx: ctx, leave: leave, done: make(chan struct{}),
		complaints: map[string]bool{},
		shown:      Session{Peer: peer.Name, Addr: peer.Addr, Port: peer.Port, ASN: peer.ASN, State: idle, Since: time.Now()},
	}
	o.desired.Store(&peer)
	return o
}

// want tells the session which peer is desired from now on, and whether the routes are others than before. Only Update calls it.
func (s *session) want(peer loadbalancer.Peer, changed bool, since time.Time) {
	before := s.desired.Load()
	s.desired.Store(&peer)
	if before.Name != peer.Name || before.AS() != peer.AS() {
		s.show(func(shown *Session) {
			if shown.Peer = peer.Name; before.AS() != peer.AS() {
				shown.ASN = peer.ASN
			}
		})
		changed = true
	}
	if !before.SameSession(peer) {
		knock(s.edited)
	}
	if changed || !slices.Equal(before.NodeIPs, peer.NodeIPs) {
		s.ring(since)
	}
}

// asn is the router's AS number; 0 as long as it was not learned. Anybody may call it.
func (s *session) asn() uint32 { return s.status().ASN }

// name is what the configuration calls the peer now. Anybody may call it.
func (s *session) name() string { return s.desired.Load().Name }

// knock rings a doorbell, unless it rings already.
func knock(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// ring tells the session that the table changed, because of something first seen at since. Anybody may call it.
func (s *session) ring(since time.Time) {
	s.mu.Lock()
	if s.changed.IsZero() {
		s.changed = since
	}
	s.mu.Unlock()
	knock(s.bell)
}

// ended reports whether the session has ended. Anybody may call it.
func (s *session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// status describes the session. Anybody may call it.
func (s *session) status() Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown.BFD = s.desired.Load().BFDProfile != ""
	return s.shown
}

func (s *session) show(change func(*Session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.shown)
}

// run connects, again and again, until the session is told to leave.
func (s *session) run() {
	defer close(s.done)
	for _, ended := range s.after {
		<-ended
	}
	for longest := firstPause; s.ctx.Err() == nil; {
		select {
		case <-s.edited: // before the look at what is desired: a later edit knocks again
		default:
		}
		now := *s.desired.Load()
		if !s.peer.SameSession(now) {
			clear(s.complaints) // whoever edited it wants to read whether that helped
		}
		s.peer = now
		up, err := s.connect()
		s.down(up > 0, err)
		switch {
		case isFarewell(err):
			continue // at once
		case up >= stableTime:
			longest = firstPause
			continue
		}
		// Full jitter: sessions that failed together come back spread over the whole pause.
		longest = min(longest, s.desired.Load().ConnectTime)
		pause := rand.N(longest)
		longest *= 2
		select {
		case <-s.ctx.Done():
		case <-s.edited:
		case <-time.After(pause):
		}
	}
}

// mostComplaints bounds what is logged, and kept, about a router that fails in a new way every time.
const mostComplaints = 10

// jitter shortens d by up to a quarter, so that what began at the same time does not go on in step (RFC 4271 §10).
func jitter(d time.Duration) time.Duration { return d - rand.N(d/4+1) }

// down notes why the session is down, and logs it unless it was logged before.
func (s *session) down(wasUp bool, err error) {
	why := err.Error()
	s.show(func(shown *Session) { shown.State = idle })
	switch {
	case wasUp:
		s.show(func(shown *Session) {
			shown.Up, shown.Since, shown.Prefixes, shown.LastError, shown.Terms, shown.ledger = false, time.Now(), 0, why, nil, nil
		})
		klog.InfoS("Session is down", "peer", s.name(), "asn", s.asn(), "why", why)
	case !isFarewell(err) && s.ctx.Err() == nil: // else it is we who gave up
		s.show(func(shown *Session) {
			shown.Failures, shown.Attempts, shown.LastError = shown.Failures+1, shown.Attempts+1, why
		})
		if !s.complaints[why] && len(s.complaints) < mostComplaints {
			klog.ErrorS(err, "Session does not come up", "peer", s.name(), "asn", s.asn())
			s.complaints[why] = true
		}
	}
}

// connect has one conversation with the router. It returns for how long the session was up, and why it no longer is.
func (s *session) connect() (up time.Duration, err error) {
	s.show(func(shown *Session) { shown.State = connecting })
	conn, err := s.sessions.dial(s.ctx, s.peer)
	if err != nil {
		return 0, s.dialError(err)
	}
	select {
	case <-s.lost: // an earlier connection's
	default:
	}
	c := &conversation{session: s, link: newLink(conn)}
	c.enter(openSent)
	err = c.run()
	c.end(err)
	if errors.Is(err, errLost) {
		time.AfterFunc(silentTime, c.link.close)
	} else {
		c.link.close()
	}
	if c.state == established {
		up = time.Since(c.since) + 1 // a session that ended at once was up, too
	}
	return up, c.inWords(err)
}

var errLost = errors.New("BFD says that the router is dead")

// A state is one of RFC 4271 §8.2.2, by the number that RFC 6608 gives it. Before there is a connection (Idle, Connect and
// Active there), there is no conversation.
type state uint8

const (
	openSent state = 1 + iota
	openConfirm
	established
)

// What sessions show of that, in RFC 4271's words.
const (
	idle       = "Idle" // also between two attempts
	connecting = "Connect"
)

var stateNames = map[state]string{openSent: "OpenSent", openConfirm: "OpenConfirm", established: "Established"}

func (c *conversation) enter(next state) {
	c.state = next
	c.show(func(shown *Session) { shown.State = stateNames[next] })
}

// A conversation is one connection of a session: what RFC 4271 calls an FSM.
type conversation struct {
	*session
	link  *link
	state state
	terms terms // from openConfirm on
	plain bool  // our OPEN was a reduced one

	// hold fires when the router has been silent for too long (HoldTimer); keepalive when we have (KeepaliveTimer).
	hold, keepalive *time.Timer

	// since, ledger and refresh are of the state established.
	since  time.Time
	ledger *ledger
	// version is that of the table which the router has been told; 0: none.
	version uint64
	// nodeIPs are those that the ledger's next hops were chosen from; relook fires when one is missing.
	nodeIPs []netip.Addr
	relook  *time.Timer
	// refresh are the families that the router wants to hear again.
	refresh []bgp.RouteFamily
	// due is since when what is being written has been due, or zero.
	due time.Time
}

// run opens the session and keeps the router informed, until something ends it.
func (c *conversation) run() error {
	opening, err := openMessage(c.peer, !c.met.Load(), c.sessions.uptime() > c.peer.RestartTime, c.reduced, c.wide)
	if err != nil {
		return err
	}
	c.plain, c.reduced = c.reduced, false
	c.link.send(opening)
	c.hold, c.keepalive, c.relook = time.NewTimer(openTime), time.NewTimer(openTime), time.NewTimer(openTime)
	c.keepalive.Stop()
	c.relook.Stop()

	var turn <-chan time.Time // our turn to begin anew
	for {
		// The table is compared only when all is written that was to be said before: however fast the table changes and
		// however slowly the router reads, no more than one table waits.
		var bell <-chan struct{}
		if c.state == established && !c.link.busy {
			if len(c.refresh) > 0 {
				c.tell(c.refresh...)
				c.refresh = nil
				continue
			}
			bell = c.bell
		}
		var err error
		select {
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case h := <-c.link.heard:
			if err = h.err; err == nil {
				err = c.hear(h.message)
			}
		case err = <-c.link.wrote:
			if err != nil {
				return c.lastWords(err)
			}
			c.link.written()
			if !c.link.busy {
				c.report()
			}
		case <-c.hold.C:
			err = c.silence()
		case <-c.keepalive.C:
			c.link.send(keepaliveMessage)
			c.startKeepaliveTimer()
		case <-bell:
			c.tell()
		case <-c.relook.C:
			c.look.Store(true)
			c.ring(time.Time{})
		case <-c.lost:
			// No NOTIFICATION: if it is our BFD that was starved, the router keeps the routes until we are back.
			return errLost
		case <-c.edited:
			if c.state != established {
				return farewell{silent: true, why: "the configuration of this peer changed"}
			}
			if turn == nil {
				turn = time.After(rand.N(turnTime))
			}
		case <-turn:
			turn = nil
			if !c.peer.SameSession(*c.desired.Load()) {
				// A router that keeps the routes over a restart must not be told: a NOTIFICATION makes it forget them.
				return farewell{silent: c.peer.RestartTime > 0, subcode: ceaseReconfigured, why: "the configuration of this peer changed"}
			}
		}
		if err != nil {
			return err
		}
	}
}

// nextHops finds where the router shall send traffic.
func (c *conversation) nextHops() hops {
	tcp, ok := c.link.conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		err := fmt.Errorf("our address %s is not one of TCP", c.link.conn.LocalAddr())
		return hops{hop{err: err}, hop{err: err}}
	}
	local := tcp.AddrPort().Addr().Unmap()
	return nextHops(local, c.nodeIPs, c.sessions.card(local), c.terms.extended)
}

// hear handles a message of the router. An error ends the conversation.
func (c *conversation) hear(m message) error {
	switch {
	case m.kind == bgp.BGP_MSG_NOTIFICATION:
		r := newRefusal(m.body)
		// Not only in openSent: the router's own OPEN may come before its answer to ours.
		c.reduced = c.state != established && r.unsupported()
		c.wide = c.wide != (c.state != established && r.unreadable())
		return r

	case c.state == openSent && m.kind == bgp.BGP_MSG_OPEN:
		var err error
		if c.terms, err = negotiate(c.peer, m.body, c.plain); err != nil {
			return err
		}
		c.enter(openConfirm)
		c.link.send(keepaliveMessage)
		c.startKeepaliveTimer()
		c.startHoldTimer()

	case c.state == openConfirm && m.kind == bgp.BGP_MSG_KEEPALIVE:
		c.establish()

	case c.state == established && m.kind == bgp.BGP_MSG_KEEPALIVE:
		c.startHoldTimer()

	case c.state == established && m.kind == bgp.BGP_MSG_UPDATE:
		c.startHoldTimer()
		c.show(func(shown *Session) { shown.Dropped++ })

	case c.state == established && m.kind == bgp.BGP_MSG_ROUTE_REFRESH:
		family := bgp.AfiSafiToRouteFamily(uint16(m.body[0])<<8|uint16(m.body[1]), m.body[3])
		// A family that was not negotiated is ignored (RFC 2918 §4).
		if slices.Contains(c.terms.families, family) && !slices.Contains(c.refresh, family) {
			c.refresh = append(c.refresh, family)
		}

	default:
		return &notification{code: bgp.BGP_ERROR_FSM_ERROR, subcode: uint8(c.state), why: fmt.Sprintf(
			"the router sent %s when it had to send %s", kindNames[m.kind], expected[c.state])}
	}
	return nil
}

// establish sends the complete table and End-of-RIB, without a pause: while a router waits for that after a restart, it
// keeps what we announced before.
func (c *conversation) establish() {
	c.enter(established)
	c.since = time.Now()
	c.met.Store(true)
	c.startHoldTimer()
	c.nodeIPs = c.desired.Load().NodeIPs
	c.ledger = newLedger(c.peer, c.terms, c.nextHops())
	failures, terms := 0, c.terms.shown()
	c.show(func(shown *Session) {
		failures = shown.Attempts
		shown.Up, shown.Since, shown.LastError, shown.Attempts, shown.Terms, shown.ledger = true, c.since, "", 0, terms, c.ledger
		shown.ASN = c.terms.asn
	})
	c.tell()
	c.due = time.Time{} // the initial table was due when the session was
	for _, family := range c.terms.families {
		c.link.send(endOfRIB(family))
	}
	c.show(func(shown *Session) { shown.Updates += len(c.terms.families) })

	args := []any{"peer", c.name(), "asn", c.terms.asn, "families", strings.Join(terms.Families, " "), "routes", len(c.ledger.told)}
	if failures > 0 {
		args = append(args, "failures", failures)
	}
	klog.InfoS("Session is up", args...)
	clear(c.complaints)
}

// tell sends what the router does not know yet of the table; of the families in again, all.
func (c *conversation) tell(again ...bgp.RouteFamily) {
	c.mu.Lock()
	changed := c.changed // before the table is read: later changes ring again
	c.changed = time.Time{}
	c.mu.Unlock()
	table := &c.sessions.table
	c.sessions.mu.RLock()
	now := c.desired.Load()
	news, all := table.since(c.version)
	if c.look.Swap(false) || !slices.Equal(now.NodeIPs, c.nodeIPs) {
		c.nodeIPs, all = now.NodeIPs, true
		c.ledger.move(c.nextHops())
	}
	if slices.ContainsFunc(c.terms.families, func(f bgp.RouteFamily) bool { return c.ledger.hops.of(f).err != nil }) {
		c.relook.Reset(lookTime)
	}
	// Also what could not be told before is looked at again.
	if all || len(again) > 0 || c.ledger.peer.Name != now.Name || c.status().LastError != "" {
		news, all = table.routes, true
	}
	c.ledger.peer.Name = now.Name
	messages, n, err := c.ledger.update(news, all, again...)
	c.version = table.version
	c.sessions.mu.RUnlock()
	c.link.send(messages)
	if n > 0 {
		c.due = changed
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	if before := c.status().LastError; err != nil && why != before {
		klog.ErrorS(err, "Cannot send a route", "peer", now.Name, "asn", c.terms.asn)
	}
	c.show(func(shown *Session) {
		shown.Updates, shown.Prefixes, shown.LastError = shown.Updates+n, len(c.ledger.told), why
	})
}

// report tells whoever measures it that what was due is written.
func (c *conversation) report() {
	if !c.due.IsZero() && c.sessions.Written != nil {
		c.sessions.Written(c.name(), c.due)
	}
	c.due = time.Time{}
}

// startKeepaliveTimer starts RFC 4271's KeepaliveTimer.
func (c *conversation) startKeepaliveTimer() {
	if c.terms.keepalive > 0 {
		c.keepalive.Reset(max(time.Second, jitter(c.terms.keepalive))) // at most one a second (RFC 4271 §4.4)
	}
}

// startHoldTimer starts RFC 4271's HoldTimer: how long the router may be silent.
func (c *conversation) startHoldTimer() {
	switch {
	case c.state != established && (c.terms.hold == 0 || c.terms.hold > openTime):
		c.hold.Reset(openTime)
	case c.terms.hold == 0:
		c.hold.Stop()
	default:
		c.hold.Reset(c.terms.hold)
	}
}

// silence handles that nothing was heard in time.
func (c *conversation) silence() error {
	select {
	case h := <-c.link.heard:
		if h.err != nil {
			return h.err
		}
		c.startHoldTimer()
		return c.hear(h.message)
	case <-time.After(graceTime):
	}
	why := fmt.Sprintf("the router was silent for %v, the hold time", c.terms.hold)
	if c.state != established {
		why = fmt.Sprintf("the router accepts connections, but sent no %s in time: does it know this node as a neighbor?",
			expected[c.state])
		if c.peer.MinTTL > 0 {
			why += " " + c.askTTL()
		}
	}
	return &notification{code: bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, why: why}
}

// lastWords returns why the connection broke when writing failed with err. A router that closes it with a NOTIFICATION
// makes writing fail first, and the NOTIFICATION is what its operator needs to know.
func (c *conversation) lastWords(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	late := time.After(lingerTime)
	for {
		select {
		case h := <-c.link.heard:
			if h.err != nil {
				return err
			}
			if h.kind == bgp.BGP_MSG_NOTIFICATION {
				return c.hear(h.message)
			}
		case <-late:
			return err
		}
	}
}

// end tells the router why the conversation ends, if it is we who end it.
func (c *conversation) end(why error) {
	ctx, cancel := context.WithTimeout(context.Background(), partingTime)
	defer cancel()
	var n *notification
	var f farewell
	switch {
	case errors.As(why, &n):
	case errors.As(why, &f) && !f.silent:
		n = &notification{code: bgp.BGP_ERROR_CEASE, subcode: f.subcode}
		if f.text != "" {
			n.data = shutdownData(f.text)
		}
		if f.hurry != nil {
			ctx = f.hurry
		}
		if f.withdraw && c.state == established {
			messages, count, _ := c.ledger.update(nil, true) // no route, no error
			c.link.send(messages)
			c.show(func(shown *Session) { shown.Updates += count })
		}
	default:
		return
	}
	c.link.send(n.message())
	c.link.finish(ctx)
}
