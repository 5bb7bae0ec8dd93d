package provider

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// waiting is a cluster in which many Services wait, and what frees one address in it: free undoes what the serving did.
type waiting struct {
	name string
	make func(b *testing.B, n int) (l *ledger, free func())
}

var crowds = []waiting{
	{"plain", func(b *testing.B, n int) (*ledger, func()) {
		l := newLedger()
		l.configure(pools(b, "small 10.0.0.0/30"), nil)
		return l, crowd(b, l, n, "shop/web-%d version=1", 4)
	}},
	{"one key and one port", func(b *testing.B, n int) (*ledger, func()) {
		l := newLedger()
		l.configure(pools(b, "small 10.0.0.0/22"), nil)
		return l, crowd(b, l, n, "shop/web-%d share=k port=80 version=1", 1024)
	}},
	{"1000 full selective pools", func(b *testing.B, n int) (*ledger, func()) {
		l := newLedger()
		var text strings.Builder
		text.WriteString("address-pools:\n")
		for i := range 1000 {
			fmt.Fprintf(&text, "- {name: p%d, cidr: [10.0.%d.%d/32], service-selectors: [{match-labels: {tier: gold}}]}\n", i, i/256, i%256)
		}
		config, _, err := loadbalancer.Parse([]byte(text.String()))
		if err != nil {
			b.Fatal(err)
		}
		l.configure(config, nil)
		return l, crowd(b, l, n, "shop/web-%d label=gold version=1", 1000)
	}},
}

// crowd lets so many Services hold and then n wait, all after one pattern. The function that it returns frees the address of
// the one that was served last, and lets that wait again.
func crowd(b *testing.B, l *ledger, n int, pattern string, hold int) func() {
	var all []*corev1.Service
	for i := range hold + n {
		svc := aService(b, fmt.Sprintf(strings.Replace(pattern, "version", "age="+strconv.Itoa(100000-i)+" version", 1), i))
		all = append(all, svc)
		l.answer(svc)
	}
	at := 0
	return func() {
		l.forget(all[at].UID)
		at++
		if at == len(all) {
			b.Fatal("nobody is left")
		}
	}
}

// An operation is one address that becomes free while others wait.
func BenchmarkServe(b *testing.B) {
	for _, c := range crowds {
		for _, n := range []int{1000, 10_000, 50_000} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				l, free := c.make(b, n)
				b.ResetTimer()
				for i := 0; i < b.N; i++ {
					free()
					if len(l.serve()) != 1 {
						b.Fatal("nobody was served")
					}
				}
			})
		}
	}
}

// An operation is a chain of Services of which each waits for the next one's address.
func BenchmarkServeChain(b *testing.B) {
	for _, n := range []int{1000, 10_000, 50_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.StopTimer()
			for i := 0; i < b.N; i++ {
				l := newLedger()
				l.configure(pools(b, "big 10.0.0.0/15"), nil)
				addr := netip.MustParseAddr("10.0.0.0")
				var first *corev1.Service
				for i := range n {
					svc := aService(b, fmt.Sprintf("shop/web-%d age=%d want=%s version=1", i, i, addr))
					l.answer(svc)
					if first == nil {
						first = svc
					}
					addr = addr.Next()
				}
				addr = netip.MustParseAddr("10.0.0.0")
				for i := range n - 1 { // each wants the address of the one before
					if i > 0 {
						addr = addr.Next()
					}
					l.answer(aService(b, fmt.Sprintf("shop/web-%d age=%d want=%s version=2", i+1, i+1, addr)))
				}
				b.StartTimer()
				l.forget(first.UID)
				if got := len(l.serve()); got != n-1 {
					b.Fatal(got)
				}
				b.StopTimer()
			}
		})
	}
}

// An operation is the start of a controller manager beside 50,000 Services.
func BenchmarkStart50000(b *testing.B) {
	var services []*corev1.Service
	addr := netip.MustParseAddr("10.0.0.0")
	for i := range 50_000 {
		services = append(services, aService(b, fmt.Sprintf("shop/web-%d age=%d version=1 shows=%s", i, i%1000, addr)))
		addr = addr.Next()
	}
	config := pools(b, "big 10.0.0.0/15")
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		l := newLedger()
		l.configure(config, nil)
		if l.adopt(services, nil, time.Now()) != nil {
			b.Fatal("conflicts")
		}
		l.serve()
	}
}
