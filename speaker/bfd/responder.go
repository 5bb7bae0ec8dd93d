package bfd

import (
	"cmp"
	"container/heap"
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"k8s.io/klog/v2"
)

// The ports on which BFD is heard: of a neighbor on the same link (RFC 5881 §4), and of one behind other routers (RFC 5883 §5).
const (
	SingleHop uint16 = 3784
	Multihop  uint16 = 4784
)

// directTTL is the TTL of what nobody has forwarded (RFC 5881 §5).
const directTTL = 255

// A Peer is a router to watch. No two have both addresses in common.
type Peer struct {
	Name    string
	Router  netip.Addr // with the interface, if it is link-local
	Local   netip.Addr // our address; the zero Addr leaves it to the kernel
	Profile loadbalancer.BFDProfile
}

func (p Peer) key() key { return key{p.Router, p.Local} }

type key struct{ router, local netip.Addr }

// A Status describes one session, as it was when List was called.
type Status struct {
	Peer
	State      State
	Diagnostic Diagnostic // why it last went down
	Since      time.Time  // when it last came up or went down
	Interval   time.Duration
	Detection  time.Duration
	Port       uint16 // SingleHop or Multihop
	// AdminDown says that it is the router that took its side down.
	AdminDown bool
	// In and Out count packets, Ups and Downs how often it came up and went down.
	In, Out    uint64
	Ups, Downs uint64
	// LastError says why packets cannot be sent; empty if they can.
	LastError string
}

// A Responder has the sessions of this node. All methods may be called by any goroutine.
type Responder struct {
	// Changed, if set before Run, is told of each session that came up or went down. It must return at once, and ask nothing.
	Changed func(Status)

	net wire
	mu  sync.Mutex // guards what follows
	// sessions are found by their addresses while the router does not know our discriminator, else by that.
	sessions map[key]*watched
	byID     map[uint32]*watched
	due      wakeups
	// dropped counts packets that were not taken, in the order of reasons.
	dropped [6]uint64
	over    bool
}

// A wire is where packets come from and go to.
type wire interface {
	// hear returns packets as soon as there are any, and nothing at the time until (never, if that is zero) and when somebody
	// rings. What it returns is valid until the next call.
	hear(until time.Time) []datagram
	ring()
	close()
	// plug returns a way to the router, which needs nothing of it until something is sent.
	plug(router, local netip.Addr) way
	// near reports whether the router is on a link of ours.
	near(router netip.Addr) bool
}

// A way is how packets go to one router.
type way interface {
	// send never waits. A packet that does not get away is one that got lost.
	send(port uint16, payload []byte) error
	close()
}

// A datagram is what came by UDP.
type datagram struct {
	from, to netip.Addr // from with the interface, if it is link-local
	port     uint16     // where we heard it
	ttl      int
	payload  []byte
}

// A watched is the session with one router, and what the Responder keeps of it.
type watched struct {
	*Session
	Status
	way way
	// gone is when to forget it, once it was told to end.
	gone  time.Time
	at    time.Time // when to look at it; the order of wakeups
	index int       // in wakeups
}

// New returns a Responder without any session.
func New() (*Responder, error) {
	sockets, err := listen()
	if err != nil {
		return nil, err
	}
	return newResponder(sockets), nil
}

func newResponder(net wire) *Responder {
	return &Responder{net: net, sessions: map[key]*watched{}, byID: map[uint32]*watched{}}
}

// Update makes the sessions those with exactly these routers. A session that goes on keeps its state, and tells its router of timers
// that are others now; one that is no longer wanted first says that it is administratively down.
func (r *Responder) Update(peers []Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	now := time.Now()
	left := maps.Clone(r.sessions)
	for _, p := range peers {
		p.Local = p.Local.WithZone("") // as the kernel shows it
		w, there := left[p.key()]
		delete(left, p.key())
		if !there {
			r.watch(now, p)
			continue
		}
		w.Peer, w.gone = p, time.Time{}
		r.send(w, w.Configure(now, p.Profile))
		r.send(w, w.Enable(now))
		r.settle(now, w)
	}
	for _, w := range left {
		r.dismiss(now, w)
	}
	r.net.ring()
}

// watch begins a session.
func (r *Responder) watch(now time.Time, p Peer) {
	id := rand.Uint32()
	for id == 0 || r.byID[id] != nil {
		id = rand.Uint32()
	}
	w := &watched{
		Session: NewSession(p.Profile, id, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))),
		Status:  Status{Peer: p, Since: now},
		way:     r.net.plug(p.Router, p.Local),
	}
	w.aim(r.net)
	r.sessions[p.key()], r.byID[id] = w, w
	heap.Push(&r.due, w)
	r.settle(now, w)
}

// aim chooses the port by which a session begins. The router's own choice counts as soon as it is heard.
func (w *watched) aim(net wire) {
	if w.Port = Multihop; net.near(w.Router) {
		w.Port = SingleHop
	}
}

// dismiss tells a router that its session ends, for as long as it may take to hear that.
func (r *Responder) dismiss(now time.Time, w *watched) {
	if w.gone.IsZero() {
		r.send(w, w.Disable(now))
		w.gone = now.Add(w.Farewell())
	}
	r.settle(now, w)
}

// Run answers routers until ctx ends.
func (r *Responder) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, r.net.ring)()
	var wake time.Time
	for ctx.Err() == nil {
		came := r.net.hear(wake)
		r.mu.Lock()
		now := time.Now()
		for _, d := range came {
			if err := r.take(now, d); err != nil {
				r.dropped[slices.Index(reasons, err)]++
			}
		}
		wake = r.look(now)
		r.mu.Unlock()
	}
}

// Close gives the ports back, after Run.
func (r *Responder) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.sessions {
		w.way.close()
	}
	r.net.close()
}

// take hands a datagram to its session.
func (r *Responder) take(now time.Time, d datagram) error {
	if d.port == SingleHop && d.ttl != directTTL {
		return errTTL
	}
	p, err := read(d.payload)
	if err != nil {
		return err
	}
	w, err := r.find(p.Yours, d)
	if err != nil {
		return err
	}
	if d.port == Multihop && d.ttl < int(w.Profile.MinimumTTL) {
		return errTTL
	}
	if d.port != w.Port {
		// While there is a session, somebody who is several hops away must not be able to speak for a neighbor.
		if w.Session.State() != Down {
			return errPort
		}
		w.Port = d.port
	}
	w.In++
	r.send(w, w.Receive(now, p))
	r.settle(now, w)
	return nil
}

// find returns whose datagram it is: by our discriminator, or by the addresses where the router does not know that yet (RFC 5880
// §6.3). Either way it must come from that router.
func (r *Responder) find(yours uint32, d datagram) (*watched, error) {
	w := r.byID[yours]
	if yours == 0 {
		if w = r.sessions[key{d.from, d.to}]; w == nil {
			w = r.sessions[key{router: d.from}]
		}
	}
	switch {
	case w == nil:
		return nil, errUnknown
	case w.Router != d.from, w.Local.IsValid() && w.Local != d.to:
		return nil, errAddress
	}
	return w, nil
}

// look looks after all sessions whose time has come, and returns when the next one's does.
func (r *Responder) look(now time.Time) time.Time {
	for len(r.due) > 0 {
		w := r.due[0]
		if w.at.IsZero() || w.at.After(now) {
			return w.at
		}
		r.send(w, w.Look(now))
		r.settle(now, w)
	}
	return time.Time{}
}

// send sends, and remembers what went wrong; whether that was so before does not matter.
func (r *Responder) send(w *watched, packets []Packet) {
	for _, p := range packets {
		err := w.way.send(w.Port, write(p))
		if err == nil {
			w.Out++
			w.LastError = ""
			continue
		}
		if w.LastError != err.Error() {
			w.LastError = err.Error()
			klog.ErrorS(err, "Cannot send BFD packets", "peer", w.Name, "router", w.Router)
		}
	}
}

// settle notes what has become of a session, and when to look at it next.
func (r *Responder) settle(now time.Time, w *watched) {
	before, after := w.Status.State, w.Session.State()
	if w.Status = w.status(); before != after {
		r.tell(now, w, before)
	}
	w.at = w.WakeAt()
	if !w.gone.IsZero() && (w.at.IsZero() || w.at.After(w.gone)) {
		w.at = w.gone
	}
	if !w.gone.IsZero() && !now.Before(w.gone) {
		heap.Remove(&r.due, w.index)
		delete(r.sessions, w.key())
		delete(r.byID, w.mine)
		w.way.close()
		return
	}
	heap.Fix(&r.due, w.index)
}

// tell tells of a session that came up or went down.
func (r *Responder) tell(now time.Time, w *watched, before State) {
	switch {
	case w.Status.State == Up:
		w.Ups++
		klog.InfoS("BFD session is up", "peer", w.Name, "router", w.Router, "port", w.Port, "interval", w.Status.Interval, "detection", w.Status.Detection)
	case before == Up:
		if w.Status.State == Down {
			w.Downs++
			w.aim(r.net)
		}
		klog.InfoS("BFD session is down", "peer", w.Name, "router", w.Router, "why", w.Status.Diagnostic, "adminDown", w.AdminDown)
	default:
		return
	}
	if w.Since = now; r.Changed != nil {
		r.Changed(w.Status)
	}
}

// status is the status as the session has it now.
func (w *watched) status() Status {
	s := w.Status
	s.State, s.Diagnostic, s.AdminDown = w.Session.State(), w.Session.Diagnostic(), w.RouterSaysAdminDown()
	s.Interval, s.Detection = w.Session.Interval(), w.Session.Detection()
	return s
}

// List describes the sessions, in the order of their names.
func (r *Responder) List() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Status
	for _, w := range r.sessions {
		if w.gone.IsZero() {
			all = append(all, w.status())
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.Router.Compare(b.Router)) })
	return all
}

// Dropped returns how many packets were not taken, by why.
func (r *Responder) Dropped() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]uint64{}
	for i, why := range reasons {
		all[why.Error()] = r.dropped[i]
	}
	return all
}

// Dismiss tells all routers that their sessions are administratively down, and returns when they have had time to hear it, or ctx
// ends. Run must go on meanwhile. Nothing is watched after that.
func (r *Responder) Dismiss(ctx context.Context) {
	r.mu.Lock()
	r.over = true
	now := time.Now()
	end := now
	for _, w := range maps.Clone(r.sessions) {
		r.dismiss(now, w)
		if w.gone.After(end) {
			end = w.gone
		}
	}
	r.mu.Unlock()
	r.net.ring()
	select {
	case <-ctx.Done():
	case <-time.After(end.Sub(now)):
	}
}

// wakeups are sessions in the order in which to look at them: a heap. Those that nobody needs to look at are last.
type wakeups []*watched

func (h wakeups) Len() int { return len(h) }
func (h wakeups) Less(i, j int) bool {
	if h[i].at.IsZero() || h[j].at.IsZero() {
		return !h[i].at.IsZero()
	}
	return h[i].at.Before(h[j].at)
}
func (h wakeups) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *wakeups) Push(x any) {
	w := x.(*watched)
	w.index = len(*h)
	*h = append(*h, w)
}
func (h *wakeups) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return w
}
