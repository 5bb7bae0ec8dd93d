package speaker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

var paceStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// weighted is a route of so many endpoints; 0: it carries no weight.
func weighted(prefix string, count int) loadbalancer.Route {
	return loadbalancer.Route{Prefix: netip.MustParsePrefix(prefix), LocalPref: 100, Weight: uint16(count)}
}

func TestWeightsAreExactWhenSmallAndCoarseWhenNot(t *testing.T) {
	var got []string
	last := uint16(0)
	for count := range uint16(heaviest + 1) {
		if q := quantise(count); q != last {
			last = q
			got = append(got, fmt.Sprint(q))
		}
	}
	same(t, "weights", got, strings.Fields("1 2 3 4 5 6 7 8 10 12 14 16 20 24 28 32 40 48 56 64 80 96 112 128 160 192 224 256"))
	for count := range uint16(heaviest) {
		count++
		if q := quantise(count); count > exact && !near(q, count) || q != quantise(q) || count > 1 && q < quantise(count-1) {
			t.Errorf("%d endpoints weigh %d", count, q)
		}
	}
}

func TestWeightsChangeSlowly(t *testing.T) {
	// Each line is a time in seconds, what is wanted then, what is sent, and when to look again.
	tests := []struct{ name, story string }{
		{"a new prefix is told its weight at once", `
			0: 3 -> 3
			1: 3 -> 3`},
		{"a weight is told when it was wanted for ten seconds", `
			0: 3 -> 3
			100: 4 -> 3 until 110
			109: 4 -> 3 until 110
			110: 4 -> 4
			111: 4 -> 4`},
		{"also if somebody looks late", `
			0: 3 -> 3
			100: 4 -> 3 until 110
			130: 4 -> 4`},
		{"a rolling update moves by one and back, and nobody hears of it", `
			0: 3 -> 3
			1: 4 -> 3 until 11
			8: 3 -> 3
			9: 2 -> 3 until 19
			15: 3 -> 3
			16: 4 -> 3 until 26
			24: 3 -> 3
			80: 4 -> 3 until 90
			85: 3 -> 3
			86: 4 -> 3 until 96`},
		{"each new weight starts the time anew", `
			0: 3 -> 3
			1: 4 -> 3 until 11
			6: 5 -> 3 until 16
			14: 6 -> 3 until 24
			24: 6 -> 6`},
		{"one that never settles is told after a minute", `
			0: 3 -> 3
			1: 4 -> 3 until 11
			10: 5 -> 3 until 20
			19: 6 -> 3 until 29
			28: 7 -> 3 until 38
			37: 6 -> 3 until 47
			46: 5 -> 3 until 56
			55: 7 -> 3 until 61
			60: 2 -> 3 until 61
			61: 2 -> 2
			62: 3 -> 2 until 72`},
		{"many endpoints may come and go", `
			0: 40 -> 40
			1: 45 -> 40
			100: 35 -> 40
			200: 46 -> 40 until 210
			205: 45 -> 40
			300: 46 -> 40 until 310
			310: 46 -> 48
			320: 44 -> 48
			400: 54 -> 48
			500: 55 -> 48 until 510
			510: 55 -> 56`},
		{"values that look the same in three bits are the same wish", `
			0: 40 -> 40
			1: 46 -> 40 until 11
			9: 50 -> 40 until 11
			11: 51 -> 48`},
		{"a weight that goes is gone at once, and so it returns", `
			0: 3 -> 3
			1: 4 -> 3 until 11
			2: 0 -> 0
			3: 5 -> 5
			4: 0 -> 0
			5: 5 -> 5`},
		{"a prefix that goes and returns is new", `
			0: 3 -> 3
			1: 4 -> 3 until 11
			2: gone
			3: 4 -> 4
			4: 3 -> 4 until 14`},
		{"there is a greatest weight", `
			0: 5000 -> 256
			1: 230 -> 256
			2: 10 -> 256 until 12
			12: 10 -> 10`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var state paced
			var got []string
			for _, line := range lines(test.story) {
				var at, count int
				var wanted []loadbalancer.Route
				if _, err := fmt.Sscanf(line, "%d: %d", &at, &count); err == nil {
					wanted = append(wanted, weighted("10.0.0.1/32", count))
				} else if _, err := fmt.Sscanf(line, "%d: gone", &at); err != nil {
					t.Fatal(err)
				}
				var send []loadbalancer.Route
				send, state = pace(paceStart.Add(time.Duration(at)*time.Second), state, wanted)
				wake := state.due()
				told := fmt.Sprintf("%d: gone", at)
				if len(send) > 0 {
					told = fmt.Sprintf("%d: %d -> %d", at, count, send[0].Weight)
				}
				if !wake.IsZero() {
					told += fmt.Sprintf(" until %.0f", wake.Sub(paceStart).Seconds())
				}
				got = append(got, told)
			}
			same(t, "story", got, lines(test.story))
		})
	}
}

func TestWhatIsPacedIsTheWeightAndNothingElse(t *testing.T) {
	wanted := []loadbalancer.Route{weighted("10.0.0.1/32", 3), weighted("10.0.0.1/32", 3), weighted("10.0.0.1/32", 0)}
	wanted[0].Peers, wanted[1].Peers, wanted[1].Prepend, wanted[2].Peers = []string{"leaf"}, []string{"spine"}, 2, []string{"third"}
	_, state := pace(paceStart, paced{}, wanted)
	wanted[0].Weight, wanted[1].Weight, wanted[0].LocalPref, wanted[2].LocalPref = 4, 4, 50, 60
	send, state := pace(paceStart.Add(time.Second), state, wanted)
	same(t, "sent", notation(send), []string{
		"10.0.0.1/32 pref 50 weight 3 to leaf",
		"10.0.0.1/32 pref 100 prepend 2 weight 3 to spine",
		"10.0.0.1/32 pref 60 to third",
	})
	if wanted[0].Weight != 4 || !state.due().Equal(paceStart.Add(11*time.Second)) {
		t.Errorf("wanted is now %v, the state %v", wanted, state)
	}
	if _, state := pace(paceStart.Add(2*time.Second), state, wanted[2:]); state != (paced{}) {
		t.Errorf("without weights, the state is %v", state)
	}
}

// Whatever happens to however many prefixes, and whoever looks however late.
func TestPacedWeightsKeepTheirPromises(t *testing.T) {
	prefixes := []string{"10.0.0.1/32", "10.0.0.2/32", "10.0.0.0/24"}
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.OneOf(rapid.IntRange(0, 4), rapid.IntRange(7, 20), rapid.IntRange(0, 300))
		now := paceStart
		wanted := make([]int, len(prefixes)) // -1: the prefix is not announced
		for i := range wanted {
			wanted[i] = -1
		}
		told := make([]int, len(prefixes))          // the weight that routers know, or 0
		changed := make([]time.Time, len(prefixes)) // when they were last told another
		differs := make([]time.Time, len(prefixes)) // since when their weight has not been good enough
		state := map[string]paced{}

		look := func() (wake time.Time) {
			var send []loadbalancer.Route
			for i, count := range wanted {
				var routes []loadbalancer.Route
				if count >= 0 {
					routes = append(routes, weighted(prefixes[i], count))
				}
				some, next := pace(now, state[prefixes[i]], routes)
				send, wake = append(send, some...), earlier(wake, next.due())
				if state[prefixes[i]] = next; next == (paced{}) {
					delete(state, prefixes[i])
				}
			}
			if !wake.IsZero() && !wake.After(now) {
				t.Fatalf("at %v it wants to be woken at %v", now, wake)
			}
			waits := false
			for i, prefix := range prefixes {
				weight := 0
				for _, r := range send {
					if r.Prefix.String() == prefix {
						weight = int(r.Weight)
					}
				}
				_, remembered := state[prefix]
				switch count := min(wanted[i], heaviest); {
				case (weight > 0) != (count > 0) || remembered != (count > 0):
					t.Fatalf("%s wants %d and is told %d; remembered: %v", prefix, count, weight, remembered)
				case weight > 0 && told[i] == 0 && weight != int(quantise(uint16(count))):
					t.Fatalf("%s is new with %d, and told %d", prefix, count, weight)
				case weight > 0 && told[i] > 0 && weight != told[i] && now.Sub(changed[i]) < settled:
					t.Fatalf("%s changed after %v", prefix, now.Sub(changed[i]))
				}
				if weight != told[i] {
					told[i], changed[i] = weight, now
				}
				count := uint16(min(max(wanted[i], 0), heaviest))
				if weight == 0 || weight == int(quantise(count)) || near(uint16(weight), count) {
					differs[i] = time.Time{}
					continue
				}
				waits = true
				if differs[i].IsZero() {
					differs[i] = now
				}
				if now.Sub(differs[i]) >= unsettled {
					t.Fatalf("%s wants %d and is told %d for %v", prefix, wanted[i], weight, now.Sub(differs[i]))
				}
			}
			if waits != !wake.IsZero() {
				t.Fatalf("something waits: %v; wake at %v", waits, wake)
			}
			return wake
		}

		// pass lets time go by, and looks when it should.
		wake := time.Time{}
		pass := func(d time.Duration) {
			end := now.Add(d)
			for !wake.IsZero() && !wake.After(end) {
				now = wake
				wake = look()
			}
			now = end
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			pass(time.Duration(rapid.IntRange(0, 15_000).Draw(t, "ms")) * time.Millisecond)
			i := rapid.IntRange(0, len(prefixes)-1).Draw(t, "prefix")
			if wanted[i] = counts.Draw(t, "count"); rapid.IntRange(0, 9).Draw(t, "gone") == 0 {
				wanted[i] = -1
			}
			wake = look()
		}
		pass(settled)
		if !wake.IsZero() {
			t.Fatalf("ten seconds after the last change something waits, until %v", wake)
		}
	})
}
