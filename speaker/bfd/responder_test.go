package bfd

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"k8s.io/klog/v2"
)

var (
	node = netip.MustParseAddr("10.0.0.2")
	leaf = netip.MustParseAddr("10.0.0.1")
	far  = netip.MustParseAddr("192.0.2.1")
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	m.Run()
}

// A cable is a wire to routers that are in this process. All but far are near.
type cable struct {
	in   chan datagram
	bell chan struct{}
	// out takes what is sent; it must not wait.
	out func(router netip.Addr, port uint16, payload []byte)
}

func newCable() *cable {
	return &cable{in: make(chan datagram, 1000), bell: make(chan struct{}, 1), out: func(netip.Addr, uint16, []byte) {}}
}

func (c *cable) hear(until time.Time) (all []datagram) {
	var timer <-chan time.Time
	if !until.IsZero() {
		timer = time.After(time.Until(until))
	}
	select {
	case d := <-c.in:
		return []datagram{d}
	case <-timer:
	case <-c.bell:
	}
	return nil
}

func (c *cable) ring() {
	select {
	case c.bell <- struct{}{}:
	default:
	}
}
func (c *cable) close()                           {}
func (c *cable) near(router netip.Addr) bool      { return router != far }
func (c *cable) plug(router, _ netip.Addr) way    { return strand{c, router} }
func (c *cable) says(from netip.Addr, p Packet)   { c.in <- c.datagram(from, p) }
func (c *cable) sends(d datagram)                 { c.in <- d }
func pass(d time.Duration)                        { <-time.After(d) }
func (s strand) close()                           {}
func (s strand) send(port uint16, b []byte) error { s.out(s.router, port, b); return nil }

type strand struct {
	*cable
	router netip.Addr
}

func (c *cable) datagram(from netip.Addr, p Packet) datagram {
	return datagram{from: from, to: node, port: SingleHop, ttl: 255, payload: write(p)}
}

// run runs a responder with these peers.
func run(t *testing.T, c *cable, peers ...Peer) *Responder {
	t.Helper()
	r := newResponder(c)
	r.Update(peers)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	t.Cleanup(func() { stop(); <-ended; r.Close() })
	return r
}

// connect connects responders, of which each watches the other.
func connect(t *testing.T, profile loadbalancer.BFDProfile) (a, b *Responder, cut func(bool)) {
	t.Helper()
	dead := make(chan bool, 1)
	dead <- false
	one, other := newCable(), newCable()
	lay := func(from netip.Addr, to netip.Addr, at *cable) func(netip.Addr, uint16, []byte) {
		return func(_ netip.Addr, port uint16, payload []byte) {
			is := <-dead
			dead <- is
			if !is {
				at.in <- datagram{from: from, to: to, port: port, ttl: 255, payload: payload}
			}
		}
	}
	one.out, other.out = lay(node, leaf, other), lay(leaf, node, one)
	a = run(t, one, Peer{Name: "leaf", Router: leaf, Profile: profile})
	b = run(t, other, Peer{Name: "node", Router: node, Profile: profile})
	return a, b, func(is bool) { <-dead; dead <- is }
}

func state(r *Responder) State { return r.List()[0].State }

func TestASilentRouterIsDownAfterTheDetectionTimeAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, cut := connect(t, quick)
		var told []string
		a.mu.Lock()
		a.Changed = func(s Status) { told = append(told, fmt.Sprint(s.State, " ", s.Diagnostic, " ", s.AdminDown)) }
		a.mu.Unlock()
		pass(3 * time.Second)
		if state(a) != Up || state(b) != Up {
			t.Fatalf("after 3 s the ends are %v and %v", state(a), state(b))
		}
		for range 20 {
			cut(true)
			pass(200*ms - 1)
			if state(a) != Up {
				t.Fatal("down although at most two packets are missing")
			}
			pass(100*ms + 1)
			if state(a) != Down || state(b) != Down {
				t.Fatalf("300 ms later the ends are %v and %v", state(a), state(b))
			}
			cut(false)
			pass(4 * time.Second)
			if state(a) != Up || state(b) != Up {
				t.Fatalf("with the cable again the ends are %v and %v", state(a), state(b))
			}
		}
		synctest.Wait()
		s := a.List()[0]
		if s.Ups != 21 || s.Downs != 20 || s.In == 0 || s.Out == 0 || s.Detection != 300*ms || s.Port != SingleHop {
			t.Errorf("it counts %+v", s)
		}
		if len(told) != 41 || told[1] != "Down control detection time expired false" {
			t.Errorf("it told of %q", told)
		}
	})
}

func TestARouterHearsThatAResponderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := connect(t, quick)
		pass(3 * time.Second)
		start := time.Now()
		b.Dismiss(t.Context())
		if took := time.Since(start); took != 3*time.Second { // a session that is not up sends once a second
			t.Errorf("it takes %v to go", took)
		}
		if s := a.List()[0]; s.State != Down || !s.AdminDown || s.Diagnostic != NeighborSaysDown {
			t.Errorf("the other end is %+v", s)
		}
		b.Update([]Peer{{Name: "node", Router: node, Profile: quick}})
		if len(b.List()) != 0 {
			t.Error("it begins anew after it was dismissed")
		}
	})
}

func TestAnEditChangesWhatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _ := connect(t, quick)
		pass(3 * time.Second)
		slower := quick
		slower.TransmitInterval, slower.DetectMultiplier = 500*ms, 5
		a.Update([]Peer{{Name: "renamed", Router: leaf, Profile: slower}})
		pass(3 * time.Second)
		if s := a.List()[0]; s.State != Up || s.Ups != 1 || s.Name != "renamed" || s.Interval != 500*ms {
			t.Errorf("after other timers it has %+v", s)
		}
		if s := b.List()[0]; s.Downs != 0 || s.Detection != 2500*ms {
			t.Errorf("the other end has %+v", s)
		}
		a.Update(nil)
		pass(ms)
		if s := b.List()[0]; s.State != Down || !s.AdminDown || len(a.List()) != 0 {
			t.Errorf("of a peer that is gone the other end has %+v", s)
		}
		a.Update([]Peer{{Name: "back", Router: leaf, Profile: quick}})
		pass(3 * time.Second)
		if s := a.List(); len(s) != 1 || s[0].State != Up {
			t.Errorf("of a peer that returned before it was gone it has %+v", s)
		}
		a.Update(nil)
		pass(time.Minute)
		if a.mu.Lock(); len(a.byID)+len(a.sessions)+len(a.due) != 0 {
			t.Error("it still has a session that ended")
		}
		a.mu.Unlock()
	})
}

// The router chooses the port; until it is heard, a router on our link is taken for a neighbor.
func TestTheRouterChoosesHowManyHopsThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable()
		ports := map[netip.Addr]uint16{}
		c.out = func(router netip.Addr, port uint16, _ []byte) { ports[router] = port }
		r := run(t, c, Peer{Name: "near", Router: leaf, Profile: quick}, Peer{Name: "far", Router: far, Profile: quick})
		pass(time.Second)
		synctest.Wait()
		if ports[leaf] != SingleHop || ports[far] != Multihop {
			t.Errorf("it begins at %v", ports)
		}
		for _, d := range []struct {
			then  string
			from  netip.Addr
			port  uint16
			ttl   int
			state State
		}{
			{"a neighbor that is no hop away", leaf, SingleHop, 254, Down},
			{"one that is too many", leaf, Multihop, 253, Down},
			{"the neighbor speaks as one that is several hops away", leaf, Multihop, 254, Init},
			{"somebody changes the port", leaf, SingleHop, 255, Init},
			{"one that is several hops away speaks as a neighbor", far, SingleHop, 255, Init},
		} {
			from := c.datagram(d.from, Packet{State: Down, DetectMult: 3, Mine: 5, DesiredMinTx: time.Second, RequireMinRx: 100 * ms})
			from.port, from.ttl = d.port, d.ttl
			c.sends(from)
			synctest.Wait()
			i := slices.IndexFunc(r.List(), func(s Status) bool { return s.Router == d.from })
			if s := r.List()[i]; s.State != d.state {
				t.Errorf("%s: %v, want %v", d.then, s.State, d.state)
			}
		}
		if got := r.Dropped(); got["ttl"] != 2 || got["port"] != 1 || ports[leaf] != Multihop || ports[far] != SingleHop {
			t.Errorf("dropped are %v, ports %v", got, ports)
		}
	})
}

func TestHostilePacketsAreCountedAndChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable()
		var last Packet
		sent := 0
		c.out = func(_ netip.Addr, _ uint16, payload []byte) { last, _ = read(payload); sent++ }
		r := run(t, c, Peer{Name: "leaf", Router: leaf, Profile: quick})
		synctest.Wait()
		mine := last.Mine
		up := Packet{State: Up, DetectMult: 3, Mine: 9, Yours: mine, DesiredMinTx: time.Hour, RequireMinRx: time.Hour}
		down := up
		down.State, down.Yours = Down, 0
		c.says(leaf, down)
		c.says(leaf, up)
		synctest.Wait()
		before := r.List()[0]
		if before.State != Up {
			t.Fatalf("the session is %v", before.State)
		}
		down.Yours = mine
		want := r.Dropped()
		said := sent
		for _, h := range []struct {
			then, why string
			change    func(*datagram, []byte)
		}{
			{"not version 1", "malformed", func(_ *datagram, b []byte) { b[0] ^= 0xe0 }},
			{"up without knowing us", "malformed", func(_ *datagram, b []byte) { b[1] |= 0xc0; copy(b[8:], make([]byte, 4)) }},
			{"authenticated", "authentication", func(_ *datagram, b []byte) { b[1] |= 0x04 }},
			{"multipoint", "malformed", func(_ *datagram, b []byte) { b[1] |= 0x01 }},
			{"no multiplier", "malformed", func(_ *datagram, b []byte) { b[2] = 0 }},
			{"too long", "malformed", func(_ *datagram, b []byte) { b[3] = 25 }},
			{"too short", "malformed", func(_ *datagram, b []byte) { b[3] = 23 }},
			{"cut off", "malformed", func(d *datagram, _ []byte) { d.payload = d.payload[:23] }},
			{"empty", "malformed", func(d *datagram, _ []byte) { d.payload = nil }},
			{"of nobody", "malformed", func(_ *datagram, b []byte) { copy(b[4:], make([]byte, 4)) }},
			{"for nobody", "unknown-session", func(_ *datagram, b []byte) { b[8] ^= 1 }},
			{"from elsewhere, with our discriminator", "address", func(d *datagram, _ []byte) { d.from = far }},
			{"from elsewhere, without", "unknown-session", func(d *datagram, b []byte) { d.from = far; copy(b[8:], make([]byte, 4)) }},
			{"from one hop away", "ttl", func(d *datagram, _ []byte) { d.ttl = 254 }},
			{"without a TTL", "ttl", func(d *datagram, _ []byte) { d.ttl = 0 }},
			{"from many hops away", "ttl", func(d *datagram, _ []byte) { d.port, d.ttl = Multihop, 253 }},
			{"as from several hops away", "port", func(d *datagram, _ []byte) { d.port = Multihop }},
		} {
			d := c.datagram(leaf, down)
			h.change(&d, d.payload)
			c.sends(d)
			synctest.Wait()
			want[h.why]++
			if got := r.Dropped(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: dropped are %v, want %v", h.then, got, want)
				want = got
			}
		}
		if after := r.List()[0]; after != before || sent != said {
			t.Errorf("it was\n%+v, is\n%+v, and answered %d times", before, after, sent-said)
		}
	})
}

func TestAFloodUsesUpNoMemory(t *testing.T) {
	c := newCable()
	r := newResponder(c)
	r.Update([]Peer{{Name: "leaf", Router: leaf, Profile: quick}})
	var before, after runtime.MemStats
	random := rand.New(rand.NewPCG(1, 1))
	flood := func(n int) {
		for range n {
			d := datagram{from: netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(256)), 1}), to: node, port: SingleHop, ttl: 255}
			var b [24]byte
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			b[0], b[1], b[3] = 0x20, b[1]&^0x05, 24
			d.payload = b[:]
			if err := r.take(time.Now(), d); err != nil {
				r.dropped[slices.Index(reasons, err)]++
			}
		}
	}
	flood(1000)
	runtime.GC()
	runtime.ReadMemStats(&before)
	flood(300_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<10 || len(r.byID) != 1 {
		t.Errorf("300,000 packets leave %d bytes and %d sessions", grown, len(r.byID))
	}
}

// A session with 1,000 routers: what a packet in and one out cost.
func BenchmarkAThousandSessions(b *testing.B) {
	c := newCable()
	r := newResponder(c)
	var peers []Peer
	for i := range 1000 {
		peers = append(peers, Peer{Name: fmt.Sprint(i), Router: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Profile: quick})
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r.Update(peers)
	runtime.GC()
	runtime.ReadMemStats(&after)
	var packets []datagram
	for _, w := range r.byID {
		packets = append(packets, c.datagram(w.Router, Packet{State: Init, DetectMult: 3, Mine: 1, Yours: w.mine, DesiredMinTx: 100 * ms, RequireMinRx: 100 * ms}))
	}
	sent := 0
	c.out = func(netip.Addr, uint16, []byte) { sent++ }
	b.ReportAllocs()
	now, i := time.Now(), 0
	for b.Loop() {
		now = now.Add(100 * time.Microsecond) // 1,000 routers, each every 100 ms
		if err := r.take(now, packets[i%len(packets)]); err != nil {
			b.Fatal(err)
		}
		r.look(now)
		i++
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1000, "B/session")
	b.ReportMetric(float64(sent)/float64(i), "sent/op")
}
