package bgp

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func benchLedger(b *testing.B, table []loadbalancer.Route) *ledger {
	l := newLedger(leaf, terms{as4: true, families: families}, speakerHops)
	if _, _, err := l.all(table); err != nil {
		b.Fatal(err)
	}
	return l
}

func BenchmarkEncode10000Routes(b *testing.B) {
	table := manyRoutes(10_000)
	b.ReportAllocs()
	for b.Loop() {
		benchLedger(b, table)
	}
}

func BenchmarkDiffNoChange10000(b *testing.B) {
	table := manyRoutes(10_000)
	l := benchLedger(b, table)
	b.ReportAllocs()
	for b.Loop() {
		if m, _, _ := l.all(table); len(m) != 0 {
			b.Fatal("something changed")
		}
	}
}

func BenchmarkDiffOneChange10000(b *testing.B) {
	table := manyRoutes(10_000)
	l := benchLedger(b, table)
	b.ReportAllocs()
	for b.Loop() {
		table[5000].Prepend ^= 1
		if _, n, _ := l.all(table); n != 1 {
			b.Fatal("not one message")
		}
	}
}

// What one changed prefix costs a session, and what everything does.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		all := table{routes: map[netip.Prefix][]loadbalancer.Route{}}
		all.change(tableOf(manyRoutes(n)))
		l := benchLedger(b, manyRoutes(n))
		one := manyRoutes(n)[n/2 : n/2+1]
		b.Run(fmt.Sprintf("known/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				one[0].Prepend ^= 1
				all.change(tableOf(one))
				if _, sent, _ := l.update(all.since(all.version - 1)); sent != 1 {
					b.Fatal("not one message")
				}
			}
		})
		b.Run(fmt.Sprintf("everything/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, sent, _ := l.update(all.routes, true); sent != 0 {
					b.Fatal("something changed")
				}
			}
		})
	}
}

// A session that knows the version before looks at what changed since; any other compares everything.
func TestATableKnowsWhatChangedLast(t *testing.T) {
	all := table{routes: map[netip.Prefix][]loadbalancer.Route{}}
	all.change(tableOf(routes("192.0.2.1/32", "192.0.2.2/32")))
	all.change(nil)
	all.change(map[netip.Prefix][]loadbalancer.Route{netip.MustParsePrefix("192.0.2.1/32"): nil})
	for version, want := range []string{0: "true [192.0.2.2/32]", 1: "false [192.0.2.1/32]", 2: "false []", 3: "true [192.0.2.2/32]"} {
		news, whole := all.since(uint64(version))
		if got := fmt.Sprint(whole, " ", slices.Collect(maps.Keys(news))); got != want {
			t.Errorf("since version %d: %s, want %s", version, got, want)
		}
	}
	if len(all.routes) != 1 {
		t.Errorf("the table is %v", all.routes)
	}
}

// However a table changes, and whichever changes a session misses: it tells what one tells that hears of the last table only.
func TestASessionThatLooksAtWhatChangedTellsTheWholeTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all := table{routes: map[netip.Prefix][]loadbalancer.Route{}}
	l, version, few := newLedger(leaf, terms{as4: true, families: families}, speakerHops), uint64(0), 0
	for range 5000 {
		changed := map[netip.Prefix][]loadbalancer.Route{}
		for range 1 + random.IntN(3) {
			one := manyRoutes(20)[random.IntN(20):][:1]
			one[0].Prepend = uint8(random.IntN(3))
			one[0].Peers = [][]string{nil, nil, {"leaf"}, {"spine"}}[random.IntN(4)]
			if changed[one[0].Prefix] = one; random.IntN(3) == 0 {
				changed[one[0].Prefix] = nil
			}
		}
		if all.change(changed); random.IntN(4) == 0 {
			continue // the session is busy
		}
		news, everything := all.since(version)
		if !everything {
			few++
		}
		if _, _, err := l.update(news, everything); err != nil {
			t.Fatal(err)
		}
		version = all.version
		whole := newLedger(leaf, terms{as4: true, families: families}, speakerHops)
		if _, _, err := whole.update(all.routes, true); err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(l.told, whole.told, func(a, b *attributes) bool { return *a == *b }) {
			t.Fatalf("the router knows %d prefixes, and should know %d", len(l.told), len(whole.told))
		}
	}
	if few < 1000 {
		t.Errorf("only %d times it looked at what changed", few)
	}
}
