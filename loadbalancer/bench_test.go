package loadbalancer

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// A filled allocator has these pools, and so many Services hold an address of the family.
func filled(b testing.TB, short string, family Family, held int) *Allocator {
	a := NewAllocator()
	a.Configure(pools(b, short), nil)
	for i := range held {
		if g := a.Allocate(Request{UID: strconv.Itoa(i), Service: "shop/web", Families: []Family{family}}); !g.Why.None() {
			b.Fatal(g.Why)
		}
	}
	return a
}

const (
	slash16 = "large 10.1.0.0/16"
	slash64 = "large fd00::/64"
)

func allocateRelease(b *testing.B, a *Allocator, r Request) {
	b.ReportAllocs()
	for b.Loop() {
		if g := a.Allocate(r); !g.Why.None() {
			b.Fatal(g.Why)
		}
		a.Release(r.UID)
	}
}

// The cost must not depend on how many addresses are in use, nor on how many there are: compare these.
func BenchmarkAllocateRelease(b *testing.B) {
	four, six := Request{UID: "new", Service: "shop/new", Families: []Family{IPv4}}, Request{UID: "new", Service: "shop/new", Families: []Family{IPv6}}
	both := Request{UID: "new", Service: "shop/new", Families: []Family{IPv4, IPv6}, AllFamilies: true}
	b.Run("empty", func(b *testing.B) { allocateRelease(b, filled(b, slash16, IPv4, 0), four) })
	b.Run("nearly full", func(b *testing.B) { allocateRelease(b, filled(b, slash16, IPv4, 1<<16-10), four) })
	b.Run("IPv6, empty", func(b *testing.B) { allocateRelease(b, filled(b, slash64, IPv6, 0), six) })
	b.Run("IPv6, 65526 in use", func(b *testing.B) { allocateRelease(b, filled(b, slash64, IPv6, 1<<16-10), six) })
	b.Run("two families", func(b *testing.B) { allocateRelease(b, filled(b, "large 10.1.0.0/16,fd00::/64", IPv4, 1000), both) })
}

// A group of a thousand Services has one key: on one address, or, because all use the same port, on a thousand.
func group1000(b testing.TB, port func(i int) uint16) *Allocator {
	a := NewAllocator()
	a.Configure(pools(b, slash16), nil)
	for i := range 1000 {
		r := Request{UID: strconv.Itoa(i), Service: "shop/web", Namespace: "shop", Families: []Family{IPv4}}
		r.Key, r.Ports = "k", []Port{{"TCP", port(i)}}
		if g := a.Allocate(r); !g.Why.None() {
			b.Fatal(g.Why)
		}
	}
	return a
}

// A Service that shares looks at those of its key, and at no others.
func BenchmarkShare(b *testing.B) {
	r := Request{UID: "new", Service: "shop/new", Namespace: "shop", Families: []Family{IPv4}}
	r.Key, r.Ports = "k", []Port{{"TCP", 10000}}
	one := group1000(b, func(i int) uint16 { return uint16(i) })
	many := group1000(b, func(int) uint16 { return 80 })
	if len(one.inUse) != 1 || len(many.inUse) != 1000 {
		b.Fatalf("%d and %d addresses are in use", len(one.inUse), len(many.inUse))
	}
	alone := r
	alone.Key = "l"
	b.Run("first of its key", func(b *testing.B) { allocateRelease(b, one, alone) })
	b.Run("1000 on one address", func(b *testing.B) { allocateRelease(b, one, r) })
	b.Run("1000 on as many", func(b *testing.B) { allocateRelease(b, many, r) })
	r.Ports = []Port{{"TCP", 80}}
	b.Run("1000 on as many, none with room", func(b *testing.B) { allocateRelease(b, many, r) })
}

// A Service that is not served asks again and again.
func BenchmarkAllocateFromAFullPool(b *testing.B) {
	a := filled(b, slash16, IPv4, 1<<16)
	for b.Loop() {
		if g := a.Allocate(Request{UID: "late", Families: []Family{IPv4}}); g.Why.None() {
			b.Fatal("the pool is not full")
		}
	}
}

// The same without a clock, so that a busy machine changes nothing: the cursor passes each address of a pool at most once,
// and once it is through, allocating looks at no address but the one it returns.
func TestAllocatingLooksAtEachAddressOnce(t *testing.T) {
	a := filled(t, slash16, IPv4, 1<<16)
	for i := range 1 << 16 {
		a.Release(strconv.Itoa(i))
	}
	a.Allocate(Request{UID: "first", Families: []Family{IPv4}})
	at := a.stock.store(0, IPv4)
	end := at.at
	if at.span != 1 {
		t.Fatalf("all addresses were used and the cursor is at %s", at.at)
	}
	for i := range 1000 {
		if g := a.Allocate(Request{UID: strconv.Itoa(i), Families: []Family{IPv4}}); !g.Why.None() {
			t.Fatal(g.Why)
		}
	}
	if at.span != 1 || at.at != end {
		t.Errorf("the cursor went back to %s", at.at)
	}
}

// The ratio of the times within one run, the best of several each, by turns: the machine may be busy for a while.
func TestAllocatingTakesNoLongerInANearlyFullOrAHugePool(t *testing.T) {
	type pool struct {
		*Allocator
		family   Family
		shortest time.Duration
	}
	empty := &pool{filled(t, slash16, IPv4, 0), IPv4, time.Hour}
	full := &pool{filled(t, slash16, IPv4, 1<<16-10), IPv4, time.Hour}
	huge := &pool{filled(t, slash64, IPv6, 1<<16), IPv6, time.Hour}
	for range 40 {
		for _, p := range []*pool{empty, full, huge} {
			begin := time.Now()
			for range 2500 {
				if g := p.Allocate(Request{UID: "new", Families: []Family{p.family}}); !g.Why.None() {
					t.Fatal(g.Why)
				}
				p.Release("new")
			}
			p.shortest = min(p.shortest, time.Since(begin))
		}
	}
	said := fmt.Sprintf("2500 times in an empty /16 %v, in a nearly full one %v, in a /64 %v", empty.shortest, full.shortest, huge.shortest)
	if t.Log(said); full.shortest > 5*empty.shortest || huge.shortest > 5*empty.shortest {
		t.Error("it takes longer")
	}
}

func lengthy(peers, pools int) []byte {
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
		text := lengthy(size[0], size[1])
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
	config := parse(b, string(lengthy(100, 1000)))
	node := map[string]string{"rack": "r7", "kubernetes.io/hostname": "n7"}
	addr := netip.MustParseAddr("10.3.77.9")
	b.ReportAllocs()
	for b.Loop() {
		if routes := config.Routes(addr, node); len(routes) != 2 {
			b.Fatal(notation(routes))
		}
	}
}

// A thousand pools, 10,000 Services of 200 namespaces, and each namespace has a quota in every pool: the ratio to the same without,
// within one run, the best of several, by turns.
func TestAssigningCostsWithQuotasWhatItCostsWithout(t *testing.T) {
	type fleet struct {
		*Allocator
		shortest time.Duration
	}
	fleetOf := func(tenancy string) *fleet {
		text := "address-pools:\n"
		for i := range 1000 {
			text += fmt.Sprintf("- {name: pool-%d, cidr: [10.%d.%d.0/27], namespace-selectors: [{match-labels: {tenant: t%d}}]%s}\n", i, i>>8, i&255, i%200, tenancy)
		}
		f := &fleet{NewAllocator(), time.Hour}
		for i := range 200 {
			f.Label(fmt.Sprint("ns-", i), map[string]string{"tenant": fmt.Sprint("t", i)})
		}
		f.Configure(parse(t, text), nil)
		for i := range 10_000 {
			if g := f.Allocate(ofFleet(i)); !g.Why.None() {
				t.Fatal(g.Why)
			}
		}
		return f
	}
	plain, limited := fleetOf(""), fleetOf(", quotas: {default: 31}")
	for range 20 {
		for _, f := range []*fleet{plain, limited} {
			begin := time.Now()
			for i := range 400 {
				r := ofFleet(i)
				r.UID, r.Service = "new", r.Namespace+"/new"
				if g := f.Allocate(r); !g.Why.None() {
					t.Fatal(g.Why)
				}
				f.Release("new")
			}
			f.shortest = min(f.shortest, time.Since(begin))
		}
	}
	said := fmt.Sprintf("400 assignments among 1,000 pools and 10,000 Services of 200 namespaces took %v, with quotas %v", plain.shortest, limited.shortest)
	if t.Log(said); limited.shortest > 3*plain.shortest/2 {
		t.Error("it takes longer")
	}
}

// ofFleet is Service number i, of namespace number i modulo 200.
func ofFleet(i int) Request {
	namespace := fmt.Sprint("ns-", i%200)
	return Request{UID: strconv.Itoa(i), Service: fmt.Sprint(namespace, "/web-", i), Namespace: namespace, Created: int64(i), Families: []Family{IPv4}}
}
