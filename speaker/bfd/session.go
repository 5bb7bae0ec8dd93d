package bfd

import (
	"math/rand/v2"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// slow is the least interval at which a session that is not up sends (RFC 5880 §6.8.3).
const slow = time.Second

// A Session is one end of a BFD session, with the variables of RFC 5880 §6.8.1. Whoever owns it hands it the packets that are
// for it (Receive), looks at it at WakeAt at the latest (Look), and sends what it returns.
type Session struct {
	profile loadbalancer.BFDProfile
	random  *rand.Rand

	state      State
	diagnostic Diagnostic
	mine       uint32 // our discriminator; never 0
	remote     remote

	// said are the intervals that our packets tell the router, used those that count here: they differ during a poll sequence.
	said, used intervals
	poll       poll

	heard time.Time // the last packet of the router; zero if its silence means nothing
	sent  time.Time // our last packet but for answers; zero if there is none
	last  Packet    // as it was
	// share of the interval is how long after sent the next packet is due: the jitter of §6.8.7.
	share float64
}

// A remote is what the router has told; newRemote is what RFC 5880 has us take for true of one that has told nothing.
type remote struct {
	discriminator uint32
	state         State
	demand        bool
	detectMult    uint8
	minTx, minRx  time.Duration
}

var newRemote = remote{state: Down, minRx: time.Microsecond}

// intervals are bfd.DesiredMinTxInterval and bfd.RequiredMinRxInterval.
type intervals struct{ tx, rx time.Duration }

// A poll is where a poll sequence is. Of intervals that change while one goes on, the router could not tell which its answer is for.
// So the next begins after it has sent a packet that is no answer (RFC 5880 §6.8.3, the third way).
type poll uint8

const (
	idle     poll = iota
	polling       // our packets have the P bit
	answered      // the next packet without F bit ends it
)

// NewSession returns a session that is down, with a discriminator that no other session of this system has.
func NewSession(profile loadbalancer.BFDProfile, discriminator uint32, random *rand.Rand) *Session {
	s := &Session{profile: profile, random: random, state: Down, mine: discriminator, remote: newRemote}
	s.said = s.wanted()
	s.used = s.said
	return s
}

// State tells the state of the session.
func (s *Session) State() State { return s.state }

// Diagnostic tells why the session last went down.
func (s *Session) Diagnostic() Diagnostic { return s.diagnostic }

// RouterSaysAdminDown reports whether the router has last told that its side is administratively down.
func (s *Session) RouterSaysAdminDown() bool { return s.remote.state == AdminDown }

// Detection is how long after the router's last packet the session goes down (RFC 5880 §6.8.4); 0 if it has sent none.
func (s *Session) Detection() time.Duration {
	return time.Duration(s.remote.detectMult) * max(s.used.rx, s.remote.minTx)
}

// Interval is how often we send, but for jitter (RFC 5880 §6.8.2).
func (s *Session) Interval() time.Duration { return max(s.used.tx, s.remote.minRx) }

// Farewell is how long the router has to hear that the session is administratively down: its detection time. One that has not
// spoken needs none.
func (s *Session) Farewell() time.Duration {
	if s.remote.discriminator == 0 {
		return 0
	}
	return time.Duration(s.profile.DetectMultiplier) * max(s.said.tx, s.remote.minRx)
}

// Receive takes a packet of the router, and returns what to send at once (RFC 5880 §6.8.6).
func (s *Session) Receive(now time.Time, p Packet) []Packet {
	s.remote = remote{discriminator: p.Mine, state: p.State, demand: p.Demand, detectMult: p.DetectMult, minTx: p.DesiredMinTx, minRx: p.RequireMinRx}
	switch {
	case s.poll == polling && p.Final:
		s.poll, s.used = answered, s.said
	case s.poll == answered && !p.Final:
		s.poll = idle
	}
	if s.heard = now; s.state == AdminDown {
		return nil
	}
	s.become(next(s.state, p.State))
	if p.Poll {
		answer := s.packet()
		answer.Final = true
		s.last = s.packet() // the answer tells what has changed
		return []Packet{answer}
	}
	return s.sendIfChanged(now)
}

// next is the state machine of RFC 5880 §6.2 for a packet of the router, as §6.8.6 writes it out; the diagnostic is that of a session that goes down.
func next(state, heard State) (State, Diagnostic) {
	switch {
	case heard == AdminDown && state != Down, heard == Down && state == Up:
		return Down, NeighborSaysDown
	case heard == Down && state == Down:
		return Init, NoDiagnostic
	case heard == Init && state != Up, heard == Up && state == Init:
		return Up, NoDiagnostic
	}
	return state, NoDiagnostic
}

// become takes on a state and what follows from it.
func (s *Session) become(state State, why Diagnostic) {
	if s.state != state && (state == Down || state == AdminDown) {
		s.diagnostic = why
	}
	if s.state != state && state == Up {
		s.diagnostic = NoDiagnostic
	}
	s.state = state
	s.renew()
}

// wanted are the intervals that the profile asks for, in this state.
func (s *Session) wanted() intervals {
	w := intervals{tx: s.profile.TransmitInterval, rx: s.profile.ReceiveInterval}
	if s.state != Up {
		w.tx = max(w.tx, slow)
	}
	return w
}

// renew begins to tell the router of intervals that have changed (RFC 5880 §6.8.3). While the session is up, what could make one side
// wait for less than the other sends counts only once the router has answered.
func (s *Session) renew() {
	want := s.wanted()
	switch {
	case s.said == want:
		return
	case s.state != Up: // at once: nobody's detection time depends on it
		s.said, s.used, s.poll = want, want, polling
	case s.poll == idle:
		s.used = intervals{tx: min(s.used.tx, want.tx), rx: max(s.used.rx, want.rx)}
		s.said, s.poll = want, polling
	}
}

// Look looks at the time, and returns what to send.
func (s *Session) Look(now time.Time) []Packet {
	if !s.heard.IsZero() && !now.Before(s.heard.Add(s.Detection())) {
		// §6.8.1: the router may come back as another, which does not know its discriminator of now.
		s.heard, s.remote = time.Time{}, newRemote
		if s.state == Init || s.state == Up {
			s.become(Down, TimeExpired)
		}
	}
	if due := s.due(); !due.IsZero() && !now.Before(due) {
		return s.send(now)
	}
	return s.sendIfChanged(now)
}

// WakeAt is when to Look next; zero is never.
func (s *Session) WakeAt() time.Time {
	at := s.due()
	if s.heard.IsZero() {
		return at
	}
	if end := s.heard.Add(s.Detection()); at.IsZero() || end.Before(at) {
		return end
	}
	return at
}

// due is when the next periodic packet is to be sent (RFC 5880 §6.8.7); zero if none is.
func (s *Session) due() time.Time {
	if s.quiet() {
		return time.Time{}
	}
	if s.sent.IsZero() {
		return time.Unix(0, 0) // at once
	}
	return s.sent.Add(time.Duration(s.share * float64(s.Interval())))
}

// quiet reports whether nothing may be sent but answers: we are passive and the router has not spoken, or it wants to hear nothing.
func (s *Session) quiet() bool {
	demand := s.remote.demand && s.state == Up && s.remote.state == Up && s.poll != polling
	return s.profile.Passive && s.remote.discriminator == 0 || s.remote.minRx == 0 || demand
}

// sendIfChanged returns a packet between periodic ones if it says something new (RFC 5880 §6.8.7).
func (s *Session) sendIfChanged(now time.Time) []Packet {
	if s.quiet() || s.packet() == s.last {
		return nil
	}
	return s.send(now)
}

// send returns a periodic packet, and decides when the next is due: a quarter of the interval earlier at most, and where one
// lost packet is silence, at least a tenth.
func (s *Session) send(now time.Time) []Packet {
	s.sent, s.last = now, s.packet()
	s.share = 0.75 + 0.25*s.random.Float64()
	if s.profile.DetectMultiplier == 1 {
		s.share = 0.75 + 0.15*s.random.Float64()
	}
	p := s.last
	p.Poll = s.poll == polling
	return []Packet{p}
}

// packet is what there is to tell.
func (s *Session) packet() Packet {
	return Packet{
		Diagnostic: s.diagnostic, State: s.state, DetectMult: s.profile.DetectMultiplier, Mine: s.mine, Yours: s.remote.discriminator,
		DesiredMinTx: s.said.tx, RequireMinRx: s.said.rx,
	}
}

// Configure takes on another profile, and returns what to send at once.
func (s *Session) Configure(now time.Time, profile loadbalancer.BFDProfile) []Packet {
	s.profile = profile
	s.renew()
	return s.sendIfChanged(now)
}

// Disable makes the session administratively down, which tells the router that its end is no fault of the network (RFC 5880 §6.8.16).
func (s *Session) Disable(now time.Time) []Packet {
	s.become(AdminDown, SaidToBeDown)
	return s.sendIfChanged(now)
}

// Enable takes Disable back.
func (s *Session) Enable(now time.Time) []Packet {
	if s.state == AdminDown {
		s.become(Down, NoDiagnostic)
	}
	return s.sendIfChanged(now)
}
