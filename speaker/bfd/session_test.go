package bfd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

const ms = time.Millisecond

var quick = loadbalancer.BFDProfile{Name: "quick", ReceiveInterval: 100 * ms, TransmitInterval: 100 * ms, DetectMultiplier: 3, MinimumTTL: 254}

// began is when tests begin.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func session(profile loadbalancer.BFDProfile) *Session {
	return NewSession(profile, 7, rand.New(rand.NewPCG(1, 2)))
}

// router is a packet of the router, which knows our discriminator unless it is down.
func router(state State) Packet {
	p := Packet{State: state, DetectMult: 3, Mine: 9, Yours: 7, DesiredMinTx: 100 * ms, RequireMinRx: 100 * ms}
	if state == Down || state == AdminDown {
		p.Yours = 0
	}
	return p
}

// in brings a session into a state, by nothing but packets.
func in(t *testing.T, state State) *Session {
	t.Helper()
	s := session(quick)
	s.Look(began)
	switch state {
	case AdminDown:
		s.Disable(began)
	case Init:
		s.Receive(began, router(Down))
	case Up:
		s.Receive(began, router(Init))
	}
	if s.State() != state {
		t.Fatalf("the session is %v, want %v", s.State(), state)
	}
	return s
}

// The state machine of RFC 5880 §6.2, a row for each arrow of its figure, and §6.8.6 and §6.8.16 for AdminDown, which the figure leaves out.
func TestTheStateMachineIsTheOneOfRFC5880(t *testing.T) {
	const timer = State(100) // the detection time passes
	for _, row := range []struct {
		state, hears, becomes State
		why                   Diagnostic
	}{
		{Down, AdminDown, Down, NoDiagnostic},
		{Down, Down, Init, NoDiagnostic},
		{Down, Init, Up, NoDiagnostic},
		{Down, Up, Down, NoDiagnostic},
		{Down, timer, Down, NoDiagnostic},
		{Init, AdminDown, Down, NeighborSaysDown},
		{Init, Down, Init, NoDiagnostic},
		{Init, Init, Up, NoDiagnostic},
		{Init, Up, Up, NoDiagnostic},
		{Init, timer, Down, TimeExpired},
		{Up, AdminDown, Down, NeighborSaysDown},
		{Up, Down, Down, NeighborSaysDown},
		{Up, Init, Up, NoDiagnostic},
		{Up, Up, Up, NoDiagnostic},
		{Up, timer, Down, TimeExpired},
		{AdminDown, AdminDown, AdminDown, SaidToBeDown},
		{AdminDown, Down, AdminDown, SaidToBeDown},
		{AdminDown, Init, AdminDown, SaidToBeDown},
		{AdminDown, Up, AdminDown, SaidToBeDown},
		{AdminDown, timer, AdminDown, SaidToBeDown},
	} {
		name := fmt.Sprintf("%v hears %v", row.state, row.hears)
		s := in(t, row.state)
		if row.hears == timer {
			name = fmt.Sprintf("%v hears nothing", row.state)
			s.Look(began.Add(time.Hour))
		} else {
			s.Receive(began, router(row.hears))
		}
		if s.State() != row.becomes || s.Diagnostic() != row.why {
			t.Errorf("%s: %v, %v; want %v, %v", name, s.State(), s.Diagnostic(), row.becomes, row.why)
		}
	}
}

// A said is a packet and when it is sent.
type said struct {
	at time.Duration
	Packet
}

func (s said) String() string {
	flags := ""
	if s.Poll {
		flags += " P"
	}
	if s.Final {
		flags += " F"
	}
	return fmt.Sprintf("%v %v%s tx %v rx %v you %d", s.at.Round(ms), s.State, flags, s.DesiredMinTx, s.RequireMinRx, s.Yours)
}

// play looks at a session whenever it asks for that, and lets the router speak at its times, and returns what the session said.
func play(s *Session, until time.Duration, router ...said) (all []said) {
	now := began
	for {
		wake := s.WakeAt()
		next := began.Add(until)
		if len(router) > 0 && router[0].at < until {
			next = began.Add(router[0].at)
		}
		var packets []Packet
		switch {
		case !wake.IsZero() && wake.Before(next):
			if wake.After(now) {
				now = wake
			}
			packets = s.Look(now)
		case len(router) > 0 && router[0].at < until:
			now = next
			packets, router = s.Receive(now, router[0].Packet), router[1:]
		default:
			return all
		}
		for _, p := range packets {
			all = append(all, said{now.Sub(began), p})
		}
	}
}

// every repeats a packet.
func every(interval, from, until time.Duration, p Packet) (all []said) {
	for at := from; at < until; at += interval {
		all = append(all, said{at, p})
	}
	return all
}

func TestASessionThatIsNotUpSaysSoOnceASecond(t *testing.T) {
	all := play(session(quick), 100*time.Second)
	if len(all) < 100 || len(all) > 134 {
		t.Errorf("%d packets in 100 s", len(all))
	}
	for _, p := range all {
		if p.State != Down || p.DesiredMinTx != time.Second || p.RequireMinRx != 100*ms || p.Yours != 0 || p.Poll {
			t.Errorf("it says %v", p)
		}
	}
}

func TestPacketsComeAQuarterEarlierAtMost(t *testing.T) {
	for multiplier, most := range map[uint8]time.Duration{3: 100 * ms, 1: 90 * ms} {
		profile := quick
		profile.DetectMultiplier = multiplier
		s := session(profile)
		s.Receive(began, router(Init))
		var shortest, longest time.Duration = time.Hour, 0
		all := play(s, 200*time.Second, append([]said{{ms, final(router(Up))}}, every(50*ms, 2*ms, 200*time.Second, router(Up))...)...)
		for i := 20; i < len(all); i++ {
			pause := all[i].at - all[i-1].at
			shortest, longest = min(shortest, pause), max(longest, pause)
		}
		if shortest < 75*ms || shortest > 77*ms || longest > most || longest < most-2*ms {
			t.Errorf("with multiplier %d pauses are from %v to %v, want 75 ms to %v", multiplier, shortest, longest, most)
		}
	}
}

func final(p Packet) Packet  { p.Final = true; return p }
func polled(p Packet) Packet { p.Poll = true; return p }

func TestBothEndsAgreeOnTheSlowerInterval(t *testing.T) {
	for _, row := range []struct {
		then                 string
		minTx, minRx         time.Duration
		mult                 uint8
		detection, intervals time.Duration
	}{
		{"the router is as we are", 100 * ms, 100 * ms, 3, 300 * ms, 100 * ms},
		{"the router sends more slowly", 500 * ms, 100 * ms, 3, 1500 * ms, 100 * ms},
		{"the router sends faster than we take", 10 * ms, 100 * ms, 5, 500 * ms, 100 * ms},
		{"the router takes less than we send", 100 * ms, time.Second, 2, 200 * ms, time.Second},
	} {
		s := in(t, Up)
		p := router(Up)
		p.DesiredMinTx, p.RequireMinRx, p.DetectMult = row.minTx, row.minRx, row.mult
		s.Receive(began, p)
		if s.Detection() != row.detection || s.Interval() != row.intervals {
			t.Errorf("%s: detection %v, interval %v, want %v, %v", row.then, s.Detection(), s.Interval(), row.detection, row.intervals)
		}
		if s.Look(began.Add(row.detection - 1)); s.State() != Up {
			t.Errorf("%s: down before its detection time", row.then)
		}
		if s.Look(began.Add(row.detection)); s.State() != Down || s.Diagnostic() != TimeExpired {
			t.Errorf("%s: %v, %v after its detection time", row.then, s.State(), s.Diagnostic())
		}
	}
}

func TestASessionSpeedsUpByAPollSequenceOnceItIsUp(t *testing.T) {
	first := said{100 * ms, router(Init)}
	all := play(session(quick), 400*ms, append([]said{first, {190 * ms, final(router(Up))}}, every(50*ms, 201*ms, time.Second, router(Up))...)...)
	want := `
0s Down tx 1s rx 100ms you 0
100ms Up P tx 100ms rx 100ms you 9
187ms Up P tx 100ms rx 100ms you 9
274ms Up tx 100ms rx 100ms you 9
360ms Up tx 100ms rx 100ms you 9
`
	if got := lines(all); got != want {
		t.Errorf("it said%swant%s", got, want)
	}
}

func lines(all []said) string {
	var text strings.Builder
	text.WriteByte('\n')
	for _, p := range all {
		fmt.Fprintln(&text, p)
	}
	return text.String()
}

// settled is a session that is up and has no poll sequence.
func settled(t *testing.T) *Session {
	t.Helper()
	s := in(t, Up)
	s.Receive(began, final(router(Up)))
	s.Receive(began, router(Up))
	if s.poll != idle {
		t.Fatal("a poll sequence does not end")
	}
	return s
}

func TestOtherTimersCountWhenTheRouterKnowsThem(t *testing.T) {
	type timers struct{ tx, rx, interval, detection time.Duration }
	for _, row := range []struct {
		then          string
		tx, rx        time.Duration
		before, after timers
	}{
		{"we send more slowly: only when the router waits for longer", 500 * ms, 100 * ms,
			timers{500 * ms, 100 * ms, 100 * ms, 300 * ms}, timers{500 * ms, 100 * ms, 500 * ms, 300 * ms}},
		{"we send faster: at once", 50 * ms, 100 * ms, // the router takes one each 20 ms
			timers{50 * ms, 100 * ms, 50 * ms, 300 * ms}, timers{50 * ms, 100 * ms, 50 * ms, 300 * ms}},
		{"we take fewer: we wait for longer at once", 100 * ms, 400 * ms,
			timers{100 * ms, 400 * ms, 100 * ms, 1200 * ms}, timers{100 * ms, 400 * ms, 100 * ms, 1200 * ms}},
		{"we take more: only when the router sends them", 100 * ms, 20 * ms,
			timers{100 * ms, 20 * ms, 100 * ms, 300 * ms}, timers{100 * ms, 20 * ms, 100 * ms, 60 * ms}},
	} {
		s := settled(t)
		p := router(Up)
		p.DesiredMinTx, p.RequireMinRx = 20*ms, 20*ms
		s.Receive(began, p)
		profile := quick
		profile.TransmitInterval, profile.ReceiveInterval = row.tx, row.rx
		packets := s.Configure(began, profile)
		got := timers{s.said.tx, s.said.rx, s.Interval(), s.Detection()}
		if len(packets) != 1 || !packets[0].Poll || packets[0].DesiredMinTx != row.tx || packets[0].RequireMinRx != row.rx || got != row.before {
			t.Errorf("%s: at first %v, timers %+v, want %+v", row.then, packets, got, row.before)
		}
		s.Receive(began, final(p))
		if got := (timers{s.said.tx, s.said.rx, s.Interval(), s.Detection()}); got != row.after {
			t.Errorf("%s: in the end timers %+v, want %+v", row.then, got, row.after)
		}
		if p := s.packet(); s.poll == polling || p.Poll {
			t.Errorf("%s: the poll sequence goes on", row.then)
		}
	}
}

func TestThePollOfASecondChangeWaitsUntilTheFirstIsOver(t *testing.T) {
	s := settled(t)
	profile := quick
	profile.TransmitInterval = 200 * ms
	s.Configure(began, profile)
	profile.TransmitInterval = 300 * ms
	if sent := s.Configure(began, profile); len(sent) != 0 {
		t.Errorf("it tells of the second change at once: %v", sent)
	}
	if sent := s.Receive(began, final(router(Up))); len(sent) != 0 || s.said.tx != 200*ms || s.used.tx != 200*ms {
		t.Errorf("after the answer it sends %v, says %v and uses %v", sent, s.said.tx, s.used.tx)
	}
	if sent := s.Receive(began, final(router(Up))); len(sent) != 0 {
		t.Errorf("an answer that came late begins the second sequence: %v", sent)
	}
	if sent := s.Receive(began, router(Up)); len(sent) != 1 || !sent[0].Poll || sent[0].DesiredMinTx != 300*ms || s.used.tx != 200*ms {
		t.Errorf("after a packet that is no answer it sends %v and uses %v", sent, s.used.tx)
	}
}

func TestARoutersPollIsAnsweredAtOnceInEachState(t *testing.T) {
	for state, want := range map[State]int{Down: 1, Init: 1, Up: 1, AdminDown: 0} { // §6.8.6 discards in AdminDown before it looks at P
		s := in(t, state)
		sent := s.Receive(began, polled(router(Down)))
		if len(sent) != want {
			t.Errorf("%v: %d packets", state, len(sent))
		}
		for _, p := range sent {
			if !p.Final || p.Poll || p.State != s.State() || p.Yours != 9 {
				t.Errorf("%v: it answers %+v", state, p)
			}
		}
	}
}

func TestARouterIsSentWhatItAsksFor(t *testing.T) {
	s := settled(t)
	p := router(Up)
	p.RequireMinRx = 10 * time.Second
	s.Receive(began, p)
	if wait := s.due().Sub(s.sent); wait < 7500*ms {
		t.Errorf("a router that asks for 10 s gets the next packet in %v", wait)
	}
	p.RequireMinRx = 100 * ms
	if s.Receive(began.Add(5*time.Second), p); s.due().After(began.Add(5 * time.Second)) {
		t.Error("a router that asks for more again has to wait")
	}
	p.RequireMinRx = 0
	if s.Receive(began, p); !s.due().IsZero() {
		t.Error("a router that asks for nothing gets packets")
	}
	p.RequireMinRx, p.Demand = 100*ms, true
	if s.Receive(began, p); !s.due().IsZero() {
		t.Error("a router in demand mode gets periodic packets")
	}
	if sent := s.Receive(began, polled(p)); len(sent) != 1 || !sent[0].Final {
		t.Errorf("a router in demand mode that polls gets %v", sent)
	}
	profile := quick
	profile.ReceiveInterval = 200 * ms
	if sent := s.Configure(began, profile); len(sent) != 1 || !sent[0].Poll || s.due().IsZero() {
		t.Errorf("with a router in demand mode, other timers lead to %v", sent)
	}
}

func TestAPassiveSessionSaysNothingBeforeTheRouterHas(t *testing.T) {
	profile := quick
	profile.Passive = true
	s := session(profile)
	if all := play(s, time.Hour); len(all) != 0 {
		t.Errorf("it said %v", all)
	}
	if sent := s.Receive(began, router(Down)); len(sent) != 1 || sent[0].State != Init {
		t.Errorf("when spoken to it sends %v", sent)
	}
	if s.Look(began.Add(time.Hour)); s.State() != Down || len(play(s, time.Hour)) != 0 {
		t.Error("it speaks to a router that fell silent")
	}
}

func TestARouterThatFellSilentIsAnUnknownOneWhenItReturns(t *testing.T) {
	s := settled(t)
	sent := s.Look(began.Add(300 * ms))
	if len(sent) != 1 || sent[0].Yours != 0 || sent[0].Diagnostic != TimeExpired || sent[0].DesiredMinTx != time.Second {
		t.Errorf("it says %+v", sent)
	}
	again := router(Down)
	again.Mine = 77
	if sent := s.Receive(began.Add(time.Minute), again); len(sent) != 1 || sent[0].Yours != 77 || sent[0].State != Init {
		t.Errorf("to the one that returned it says %+v", sent)
	}
}

func TestAdminDownIsToldAtOnceAndThenOnceASecond(t *testing.T) {
	s := settled(t)
	all := []said{{0, s.Disable(began)[0]}}
	all = append(all, play(s, s.Farewell(), every(50*ms, 0, time.Minute, router(Up))...)...)
	if len(all) < 3 || len(all) > 5 {
		t.Errorf("in a detection time it says %v", all)
	}
	for _, p := range all {
		if p.State != AdminDown || p.Diagnostic != SaidToBeDown || p.Final {
			t.Errorf("it says %v", p)
		}
	}
	if sent := s.Enable(began.Add(time.Minute)); s.State() != Down || len(sent) != 1 || sent[0].State != Down {
		t.Errorf("when it may go on it sends %v", sent)
	}
}

// Two sessions find each other whatever gets lost, and whoever begins.
func TestTwoSessionsComeUpWhateverGetsLost(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		ends := []*Session{NewSession(quick, 1, random), NewSession(quick, 2, random)}
		ends[1].profile.Passive = seed%2 == 0
		now, lossy := began, began.Add(20*time.Second)
		type flight struct {
			to int
			at time.Time
			Packet
		}
		var underway []flight
		for now.Before(began.Add(40 * time.Second)) {
			at := now.Add(time.Second)
			for _, s := range ends {
				if w := s.WakeAt(); !w.IsZero() && w.Before(at) {
					at = w
				}
			}
			for _, f := range underway {
				if f.at.Before(at) {
					at = f.at
				}
			}
			if at.After(now) {
				now = at
			}
			deliver := func(from int, packets []Packet) {
				for _, p := range packets {
					if now.After(lossy) || random.IntN(3) > 0 {
						underway = append(underway, flight{1 - from, now.Add(time.Duration(random.IntN(5)) * ms), p})
					}
				}
			}
			landed := slices.Clone(underway)
			underway = slices.DeleteFunc(underway, func(f flight) bool { return !f.at.After(now) })
			for _, f := range landed {
				if !f.at.After(now) {
					deliver(f.to, ends[f.to].Receive(now, f.Packet))
				}
			}
			for i, s := range ends {
				deliver(i, s.Look(now))
			}
		}
		for _, s := range ends {
			if s.State() != Up || s.Interval() != 100*ms || s.Detection() != 300*ms || s.poll != idle {
				t.Fatalf("seed %d: an end is %v at %v, detects in %v, poll %d", seed, s.State(), s.Interval(), s.Detection(), s.poll)
			}
		}
	}
}
