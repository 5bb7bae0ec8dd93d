package datacentre

import (
	"cmp"
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
