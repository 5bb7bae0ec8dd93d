package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

func none[T any](func(T) bool) {}

// sessionsOf goes through sessions and their routes as a speaker does.
func sessionsOf(all []report.Session) iter.Seq2[report.Session, iter.Seq[report.Route]] {
	return func(yield func(report.Session, iter.Seq[report.Route]) bool) {
		for _, s := range all {
			known := s.Routes
			if s.Routes = nil; !yield(s, slices.Values(known)) {
				return
			}
		}
	}
}

func TestWhoeverReadsADocumentReadsWhatWasWritten(t *testing.T) {
	up := report.Session{Peer: "leaf", Address: netip.MustParseAddr("fe80::1%eth0"), Port: 179, ASN: 64500, State: "Established",
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Terms: &report.Terms{Families: []string{"IPv4"}, HoldTime: 9, KeepaliveTime: 3, RestartTime: 120, FourOctetAS: true}, BFD: report.BFDUp,
		Routes: []report.Route{
			{Prefix: netip.MustParsePrefix("10.0.0.1/32"), NextHop: netip.MustParseAddr("10.9.0.2"), Origin: "IGP", ASPath: []uint32{}, LocalPref: new(uint32(0)), Communities: []string{"65535:0"}},
			{Prefix: netip.MustParsePrefix("10.0.0.2/32"), NextHop: netip.MustParseAddr("10.9.0.2"), Origin: "IGP", ASPath: []uint32{64512}, LinkBandwidth: 375000},
		}}
	down := report.Session{Peer: "spine", Address: netip.MustParseAddr("10.9.0.2"), Port: 1790, ASN: 64501, State: "Idle", Attempts: 3, Reason: `the router said "no"`, Routes: []report.Route{}}
	withheld := []report.Withheld{{Service: "shop/web", Address: netip.MustParseAddr("10.0.0.3"), Why: "no endpoint of the Service can serve, on any node"}}
	for _, test := range []struct {
		name     string
		sessions []report.Session
		withheld []report.Withheld
	}{
		{"nothing", []report.Session{}, []report.Withheld{}},
		{"one session without a route", []report.Session{down}, []report.Withheld{}},
		{"several of each", []report.Session{up, down, up}, append(withheld, withheld...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := report.Document{Version: report.Version, Node: "a", Hash: "abc", Problems: []string{"peer spine: it has no password"}}
			var b bytes.Buffer
			if err := report.Write(&b, want, sessionsOf(test.sessions), slices.Values(test.withheld)); err != nil {
				t.Fatal(err)
			}
			want.Sessions, want.Withheld = test.sessions, test.withheld
			var got report.Document
			if err := json.Unmarshal(b.Bytes(), &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: %s", err, b.Bytes())
			}
			for n := range b.Bytes() {
				if _, err := report.Read(bytes.NewReader(b.Bytes()[:n]), all); err == nil && n < b.Len()-1 {
					t.Fatalf("cut off after %d bytes, it counts as whole: %s", n, b.Bytes()[:n])
				}
			}
			got, err := report.Read(&b, all)
			for _, s := range []*report.Document{&got, &want} { // no list and an empty one are alike
				s.Withheld = slices.Clip(append([]report.Withheld{}, s.Withheld...))
				s.Sessions = slices.Clip(append([]report.Session{}, s.Sessions...))
				for i := range s.Sessions {
					s.Sessions[i].Routes = append([]report.Route{}, s.Sessions[i].Routes...)
				}
			}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: got %+v, want %+v", err, got, want)
			}
		})
	}
}

func all(netip.Prefix) bool { return true }

// Who asks about one address has of the rest only the number.
func TestWhatNobodyAsksAboutIsCounted(t *testing.T) {
	const text = `{"version": 1, "new": {"routes": [1]}, "node": "a", "hash": "abc",
"sessions": [
 {"peer": "leaf", "state": "Established", "routes": [{"prefix": "10.0.0.1/32", "asPath": [7]}, {"prefix": "10.0.0.0/24", "asPath": [7], "communities": ["7:1"]}, {"prefix": "10.0.1.1/32"}], "new": 1},
 {"peer": "spine", "state": "Idle", "routes": []}],
"withheld": [{"service": "shop/web", "address": "10.0.0.1", "why": "x"}, {"service": "shop/api", "address": "10.0.0.2", "why": "y"}]}`
	wanted := netip.MustParseAddr("10.0.0.1")
	got, err := report.Read(strings.NewReader(text), func(p netip.Prefix) bool { return p.Contains(wanted) })
	if err != nil {
		t.Fatal(err)
	}
	leaf, spine := got.Sessions[0], got.Sessions[1]
	if len(leaf.Routes) != 2 || leaf.Skipped != 1 || leaf.Routes[1].Communities[0] != "7:1" || leaf.Peer != "leaf" || spine.State != "Idle" || got.Hash != "abc" {
		t.Errorf("%+v", got)
	}
	if len(got.Withheld) != 1 || got.Withheld[0].Why != "x" {
		t.Errorf("%+v", got.Withheld)
	}
}

func TestNobodyIsAskedForMoreWhenNobodyReadsAnyMore(t *testing.T) {
	r, w := io.Pipe()
	gone := errors.New("gone")
	asked := 0
	endless := func(yield func(report.Withheld) bool) {
		for yield(report.Withheld{Service: strings.Repeat("x", 100)}) {
			asked++
		}
	}
	go func() {
		_, _ = io.ReadFull(r, make([]byte, 10_000))
		_ = r.CloseWithError(gone)
	}()
	if err := report.Write(w, report.Document{}, func(func(report.Session, iter.Seq[report.Route]) bool) {}, endless); !errors.Is(err, gone) {
		t.Error(err)
	}
	if asked > 1000 {
		t.Errorf("asked for %d", asked)
	}
}

// However large a map is and whatever happens to it meanwhile: what stays is seen once, in order.
func TestAMapIsSeenInOrderWhileItChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 999, 1000, 1001, 1999, 2000, 2001, 10_000} {
		var mu sync.Mutex
		all, stay := map[int]string{}, map[int]string{}
		for len(all) < n {
			key := 1 + random.IntN(1_000_000)
			all[key] = fmt.Sprint(key)
			if random.IntN(2) == 0 {
				stay[key] = all[key]
			}
		}
		last, seen := 0, map[int]string{}
		for key, value := range report.InOrder(&mu, all, func(a, b int) int { return a - b }, func(v string) string { return v }) {
			if key <= last {
				t.Fatalf("of %d, %d comes after %d", n, key, last)
			}
			seen[key], last = value, key
			mu.Lock() // nobody holds it while somebody looks
			for other := range all {
				if stay[other] == "" {
					delete(all, other)
				}
				break
			}
			mu.Unlock()
		}
		for key := range stay {
			if seen[key] != stay[key] {
				t.Errorf("of %d, %d is missed", n, key)
			}
		}
	}
}

// Ten thousand routes to each of three peers, or a fifth of them: the memory that is live while they are written is the same.
func TestMemoryDoesNotDependOnHowMuchIsWritten(t *testing.T) {
	most := func(n int) (live uint64) {
		var mu sync.Mutex
		known := map[netip.Prefix]int{}
		for i := range n {
			known[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)] = i
		}
		sessions := func(yield func(report.Session, iter.Seq[report.Route]) bool) {
			for range 3 {
				yield(report.Session{}, func(yield func(report.Route) bool) {
					for prefix := range report.InOrder(&mu, known, netip.Prefix.Compare, func(i int) int { return i }) {
						if !yield(report.Route{Prefix: prefix, ASPath: []uint32{64512}}) {
							return
						}
					}
				})
			}
		}
		before := heap()
		w := &prober{}
		if err := report.Write(w, report.Document{}, sessions, none[report.Withheld]); err != nil {
			t.Fatal(err)
		}
		runtime.KeepAlive(known)
		if w.bytes < 3*n*50 {
			t.Errorf("only %d bytes were written", w.bytes)
		}
		return w.most - min(before, w.most)
	}
	few, many := most(2_000), most(10_000)
	t.Logf("%d bytes more while 3 × 2,000 routes are written, %d while 3 × 10,000 are", few, many)
	if bound := uint64(1 << 20); few > bound || many > bound {
		t.Errorf("%d and %d bytes more are live, want %d at most", few, many, bound)
	}
}

// What a reader keeps of ten thousand routes to each of three peers, if nobody asks about them, is no more than of a fifth of them.
func TestMemoryDoesNotDependOnHowMuchIsRead(t *testing.T) {
	most := func(n int) uint64 {
		r, w := io.Pipe()
		sessions := func(yield func(report.Session, iter.Seq[report.Route]) bool) {
			for range 3 {
				yield(report.Session{Peer: "leaf"}, func(yield func(report.Route) bool) {
					for i := range n {
						prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
						if !yield(report.Route{Prefix: prefix, ASPath: []uint32{64512}, Communities: []string{"64512:1"}}) {
							return
						}
					}
				})
			}
		}
		p := &prober{}
		before := heap()
		go func() {
			w.CloseWithError(report.Write(io.MultiWriter(w, p), report.Document{}, sessions, none[report.Withheld]))
		}()
		d, err := report.Read(r, func(netip.Prefix) bool { return false })
		if err != nil || len(d.Sessions) != 3 || d.Sessions[2].Skipped != n {
			t.Fatal(err, d)
		}
		return p.most - min(before, p.most)
	}
	few, many := most(2_000), most(10_000)
	t.Logf("%d bytes more while 3 × 2,000 routes are read, %d while 3 × 10,000 are", few, many)
	if bound := uint64(1 << 20); few > bound || many > bound {
		t.Errorf("%d and %d bytes more are live, want %d at most", few, many, bound)
	}
}

// A prober is a reader that looks how much memory is live, now and then.
type prober struct {
	writes, bytes int
	most          uint64
}

func (p *prober) Write(b []byte) (int, error) {
	if p.writes++; p.writes%50 == 0 {
		p.most = max(p.most, heap())
	}
	p.bytes += len(b)
	return len(b), nil
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
