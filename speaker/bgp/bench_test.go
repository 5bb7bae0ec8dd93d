package bgp

import (
	"slices"
	"testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func benchLedger(b *testing.B, table []loadbalancer.Route) *ledger {
	l := newLedger(leaf, terms{as4: true, families: families}, speakerHops)
	if _, _, err := l.update(table); err != nil {
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
		if m, _, _ := l.update(table); len(m) != 0 {
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
		if _, n, _ := l.update(table); n != 1 {
			b.Fatal("not one message")
		}
	}
}

// The call that a speaker makes after every event: another slice with the same content.
func BenchmarkAnnounceNoChange10000(b *testing.B) {
	s := New(HostUptime)
	table := manyRoutes(10_000)
	again := slices.Clone(table)
	s.Announce(nil, table)
	b.ReportAllocs()
	for b.Loop() {
		s.Announce(nil, again)
	}
}
