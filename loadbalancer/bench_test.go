package loadbalancer

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// A filled allocator has one /16, of which so many addresses are held.
func filled(b testing.TB, held int) *Allocator {
	a := NewAllocator()
	a.Configure(pools(b, "big 10.1.0.0/16"))
	for i := range held {
		if _, _, err := a.Allocate(Request{UID: strconv.Itoa(i), Service: "shop/web"}); err != nil {
			b.Fatal(err)
		}
	}
	return a
}

func allocateRelease(b *testing.B, held int) {
	a := filled(b, held)
	r := Request{UID: "new", Service: "shop/new"}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, _, err := a.Allocate(r); err != nil {
			b.Fatal(err)
		}
		a.Release(r.UID)
	}
}

// The cost must not depend on how many addresses are in use: compare the two.
func BenchmarkAllocateRelease(b *testing.B) {
	b.Run("empty", func(b *testing.B) { allocateRelease(b, 0) })
	b.Run("nearly full", func(b *testing.B) { allocateRelease(b, 1<<16-10) })
}

// A Service that is not served asks again and again.
func BenchmarkAllocateFromAFullPool(b *testing.B) {
	a := filled(b, 1<<16)
	for b.Loop() {
		if _, _, err := a.Allocate(Request{UID: "late"}); err == nil {
			b.Fatal("the pool is not full")
		}
	}
}

// The same without a clock, so that a busy machine changes nothing: the cursor passes each address of a pool at most once,
// and once it is through, allocating looks at no address but the one it returns.
func TestAllocatingLooksAtEachAddressOnce(t *testing.T) {
	a := filled(t, 1<<16)
	for i := range 1 << 16 {
		a.Release(strconv.Itoa(i))
	}
	a.Allocate(Request{UID: "first"})
	end := a.stores[0]
	if end.span != 1 {
		t.Fatalf("all addresses were used and the cursor is at %s", end.next)
	}
	for i := range 1000 {
		if _, _, err := a.Allocate(Request{UID: strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if a.stores[0] != end {
		t.Errorf("the cursor went back to %s", a.stores[0].next)
	}
}

// The ratio of the two within one run, the best of several each: the bound is generous because the machine may be busy.
func TestAllocatingTakesNoLongerInANearlyFullPool(t *testing.T) {
	best := func(held int) time.Duration {
		a := filled(t, held)
		shortest := time.Hour
		for range 20 {
			begin := time.Now()
			for range 5000 {
				if _, _, err := a.Allocate(Request{UID: "new"}); err != nil {
					t.Fatal(err)
				}
				a.Release("new")
			}
			shortest = min(shortest, time.Since(begin))
		}
		return shortest
	}
	empty, full := best(0), best(1<<16-10)
	t.Logf("5000 times in an empty /16 %v, in a nearly full one %v", empty, full)
	if full > 5*empty {
		t.Errorf("5000 times in an empty /16 take %v, in a nearly full one %v", empty, full)
	}
}

func big(peers, pools int) []byte {
	text := "peers:\n"
	for i := range peers {
		text += fmt.Sprintf("- name: tor-%d\n  peer-address: 10.0.%d.%d\n  peer-asn: %d\n  my-asn: 64500\n  node-selectors:\n  - match-labels: {rack: r%d}\n", i, i>>8, i&255, 64512+i, i)
	}
	text += "communities:\n  vpn-only: 1234:1\naddress-pools:\n"
	for i := range pools {
		text += fmt.Sprintf("- name: pool-%d\n  cidr:\n  - 10.%d.%d.0/25\n  - 10.%d.%d.128-10.%d.%d.255\n  advertisements:\n  - localpref: 200\n    communities: [vpn-only, no-export]\n  - aggregation-length: 25\n    peers: [tor-0]\n",
			i, 1+i>>8, i&255, 1+i>>8, i&255, 1+i>>8, i&255)
	}
	return []byte(text)
}

func BenchmarkParse(b *testing.B) {
	for _, size := range [][2]int{{2, 2}, {100, 1000}} {
		text := big(size[0], size[1])
		b.Run(fmt.Sprintf("%d peers, %d pools", size[0], size[1]), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Parse(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRoutes(b *testing.B) {
	config := parse(b, string(big(100, 1000)))
	node := map[string]string{"rack": "r7", "kubernetes.io/hostname": "n7"}
	addr := netip.MustParseAddr("10.3.77.9")
	b.ReportAllocs()
	for b.Loop() {
		if routes := config.Routes(addr, node); len(routes) != 2 {
			b.Fatal(notation(routes))
		}
	}
}
