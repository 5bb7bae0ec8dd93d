package datacentre

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// From the API server's answer to a new status until the route is in the kernel of a BIRD, in clusters of LAB_SIZES Services.
func BenchmarkFromStatusToRoute(b *testing.B) {
	s := build(b)
	ctx := b.Context()
	bird := s.bird(b, "bird", birdAddr, 100)
	s.speak(b)
	must(b, s.Admit(ctx, fmt.Sprintf("peers: [{peer-address: %s, peer-asn: 100, my-asn: %d, connect-time: 1s}]\naddress-pools: [{name: p, cidr: [10.100.0.0/16, 10.200.0.0/16]}]\n", birdAddr, clusterASN)))
	upAnew(b, bird, network.Session{})
	there := 0
	for size := range splitSizes(cmp.Or(os.Getenv("LAB_SIZES"), "100 2000 10000")) {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var services []Service
			for i := there; i < size; i++ {
				services = append(services, Service{Name: fmt.Sprintf("s%05d", i), Node: s.node, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})}})
			}
			there = size
			must(b, s.Expose(ctx, services...))
			probe := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(size / 100), byte(i)}) }
			must(b, s.Expose(ctx, Service{Name: fmt.Sprintf("begin-%d", size), Node: s.node, Addrs: []netip.Addr{probe(255)}}))
			recorder := record(b, bird)[bird]
			const probes = 200
			answered := map[netip.Prefix]time.Time{}
			for i := range probes {
				must(b, s.Expose(ctx, Service{Name: fmt.Sprintf("probe-%d-%d", size, i), Node: s.node, Addrs: []netip.Addr{probe(i)}}))
				answered[netip.PrefixFrom(probe(i), 32)] = time.Now()
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(time.Second)
			var all []time.Duration
			for _, e := range events(b, recorder, 0) {
				if at, ok := answered[e.Prefix]; ok && !e.Gone {
					all = append(all, e.At.Sub(at))
					delete(answered, e.Prefix)
				}
			}
			if len(answered) > 0 {
				b.Errorf("%d of %d routes did not come", len(answered), probes)
			}
			slices.Sort(all)
			b.Logf("%d Services: p50 %v, p99 %v, longest %v", size, all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
			b.ReportMetric(float64(all[len(all)/2])/1e6, "ms-p50")
			b.ReportMetric(float64(all[len(all)*99/100])/1e6, "ms-p99")
		})
	}
}

// All routes of clusters of LAB_SIZES Services at once, from the configuration that announces them until a BIRD has the last, beside a BIRD
// that enables as many static routes. Neither has a kernel to write to.
func BenchmarkAllRoutesLive(b *testing.B) {
	s := build(b)
	ctx := b.Context()
	const counter, origin = "10.0.0.60", "10.0.0.61"
	const at = `ipv4 { import all; export none; }; error wait time 1, 2;`
	receiver := made(made(s.lan.Host("counter", counter+"/24"))(b).BIRD(ctx, fmt.Sprintf(`
router id %[1]s;
protocol direct { ipv4; }
protocol bgp node { local %[1]s as 100; neighbor %[2]s as %[3]d; passive on; %[4]s }
protocol bgp origin { local %[1]s as 100; neighbor %[5]s as %[3]d; passive on; %[4]s }
`, counter, node4, clusterASN, at, origin)))(b)
	has := func(from string, want int) time.Time {
		b.Helper()
		for began := time.Now(); ; {
			out := made(receiver.Show(ctx, "show", "route", "table", "master4", "protocol", from, "count"))(b)
			if now := time.Now(); strings.Contains(out, fmt.Sprintf("\n%d of ", want)) {
				return now
			} else if now.Sub(began) > patience {
				b.Fatalf("%d routes from %s are not there: %s", want, from, out)
			}
		}
	}
	s.speak(b)
	text := func(who string) string {
		return fmt.Sprintf("peers: [{peer-address: %s, peer-asn: 100, my-asn: %d, connect-time: 1s}]\naddress-pools: [{name: p, cidr: [10.100.0.0/16], advertisements: [{%s}]}]\n",
			counter, clusterASN, who)
	}
	const nobody = "node-selectors: [{match-labels: {of: nobody}}]"
	must(b, s.Admit(ctx, text(nobody)))
	there := 0
	for size := range splitSizes(cmp.Or(os.Getenv("LAB_SIZES"), "100 2000 10000")) {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var services []Service
			static := "router id " + origin + ";\nprotocol static many { ipv4; disabled;\n"
			for i := range size {
				addr := netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})
				static += fmt.Sprintf("route %s/32 blackhole;\n", addr)
				if i >= there {
					services = append(services, Service{Name: fmt.Sprintf("s%05d", i), Node: s.node, Addrs: []netip.Addr{addr}})
				}
			}
			there = size
			must(b, s.Expose(ctx, services...))
			host := made(s.lan.Host(fmt.Sprint("origin-", size), origin+"/24"))(b)
			bird := made(host.BIRD(ctx, static+fmt.Sprintf("}\nprotocol bgp receiver { local %s as %d; neighbor %s as 100; ipv4 { import none; export all; }; }\n", origin, clusterASN, counter)))(b)
			eventually(b, "a session between the BIRDs", func(ctx context.Context) error {
				session, err := bird.Session(ctx, netip.MustParseAddr(counter))
				if err == nil && !session.Up {
					err = fmt.Errorf("it is %+v", session)
				}
				return err
			})
			least := map[string]time.Duration{}
			for range 5 {
				for from, do := range map[string]func(bool){
					"node":   func(on bool) { must(b, s.Admit(ctx, text(map[bool]string{true: "", false: nobody}[on]))) },
					"origin": func(on bool) { made(bird.Show(ctx, map[bool]string{true: "enable", false: "disable"}[on], "many"))(b) },
				} {
					began := time.Now()
					do(true)
					took := has(from, size).Sub(began)
					do(false)
					has(from, 0)
					if least[from] == 0 || took < least[from] {
						least[from] = took
					}
				}
			}
			must(b, s.lan.Pull(host))
			b.Logf("%d routes: the speaker's after %v, BIRD's own after %v (shortest of 5): %.1f times", size, least["node"], least["origin"], float64(least["node"])/float64(least["origin"]))
			b.ReportMetric(float64(least["node"])/float64(least["origin"]), "times-BIRD")
		})
	}
}

func splitSizes(text string) func(func(int) bool) {
	return func(yield func(int) bool) {
		for size := range strings.FieldsSeq(text) {
			n, err := strconv.Atoi(size)
			if err != nil || !yield(n) {
				return
			}
		}
	}
}
