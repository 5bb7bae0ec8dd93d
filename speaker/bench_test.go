package speaker

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// wide are pools that any of the sizes below fits into: one route an address, or one for all.
const (
	wide       = "address-pools: [{name: big, cidr: [10.0.0.0/15]}]"
	aggregates = "address-pools: [{name: big, cidr: [10.0.0.0/15], advertisements: [{aggregation-length: 15}]}]"
)

// A deaf announcer counts what it is told.
type deaf struct{ prefixes int }

func (d *deaf) Update(_ []loadbalancer.Peer, changed map[netip.Prefix][]loadbalancer.Route, _ time.Time) {
	d.prefixes += len(changed)
}

// A crowd is a speaker on node a that knows n Services with three endpoints in one slice each, one of them on node a, and has
// announced them. Nobody runs its loop.
type crowd struct {
	*Speaker
	to *deaf
	// of Service i, ready and not
	with, without func(i int) *discoveryv1.EndpointSlice
}

func gather(tb testing.TB, config string, n int) *crowd {
	c := &crowd{to: &deaf{}}
	var err error
	c.Speaker, err = New(of(fake.NewClientset()), c.to, Options{NodeName: "a", Namespace: "metallb-system", ConfigName: "config"})
	check(tb, err)
	one := func(i int, state string) Service {
		return svc(tb, fmt.Sprintf("shop/web-%05d 10.%d.%d.%d | a:%s@a%[1]d b:%[5]s@b%[1]d c:unready@c%[1]d", i, i>>16, i>>8&255, i&255, state))
	}
	c.with = func(i int) *discoveryv1.EndpointSlice { return one(i, "ready").Slices[0] }
	c.without = func(i int) *discoveryv1.EndpointSlice { return one(i, "unready").Slices[0] }
	var services, slices []any
	for i := range n {
		s := one(i, "ready")
		services, slices = append(services, s.Service), append(slices, s.Slices[0])
	}
	check(tb, c.services.Replace(services, ""))
	check(tb, c.slices.Replace(slices, ""))
	check(tb, c.nodes.Replace([]any{node(tb, "a")}, ""))
	check(tb, c.configs.Replace([]any{admitted(config)}, ""))
	c.round(c.fetch())
	return c
}

// What one changed slice costs the loop: a Service can be served no longer, or again.
func BenchmarkOneChangedSlice(b *testing.B) {
	for _, config := range []struct{ name, text string }{{"routes", wide}, {"aggregate", aggregates}} {
		for _, n := range []int{1_000, 10_000, 50_000} {
			b.Run(fmt.Sprintf("%s/%d", config.name, n), func(b *testing.B) {
				c := gather(b, config.text, n)
				with, without := c.with(n/2), c.without(n/2)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					s := with
					if i%2 == 0 {
						s = without
					}
					check(b, c.slices.Update(s))
					c.round(c.fetch())
				}
			})
		}
	}
}

// What it costs to look at everything, as after an edit of the configuration or of the node's labels.
func BenchmarkEverything(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := gather(b, wide, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				on := node(b, "a")
				if i%2 == 0 {
					on = node(b, "a zone=east")
				}
				check(b, c.nodes.Update(on))
				c.round(c.fetch())
			}
		})
	}
}

// A heartbeat of the Node costs nothing.
func BenchmarkHeartbeat10000(b *testing.B) {
	c := gather(b, wide, 10_000)
	on := []*corev1.Node{node(b, "a ready"), node(b, "a not-ready")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		check(b, c.nodes.Update(on[i%2]))
		c.round(c.fetch())
	}
}

// Whatever a round costs that a changed slice leads to, it is the same in a large cluster and in a small one.
func TestAChangedSliceCostsTheSameHoweverManyServicesThereAre(t *testing.T) {
	for _, config := range []string{wide, aggregates} {
		allocations := func(n int) float64 {
			c := gather(t, config, n)
			slices, i := []*discoveryv1.EndpointSlice{c.without(n / 2), c.with(n / 2)}, 0
			return testing.AllocsPerRun(100, func() {
				check(t, c.slices.Update(slices[i%2]))
				c.round(c.fetch())
				i++
			})
		}
		if few, many := allocations(10), allocations(2000); many > 1.5*few {
			t.Errorf("a round allocates %v times with 10 Services and %v times with 2000", few, many)
		}
	}
}

// Most slices of a cluster belong to Services without an address, and a speaker keeps them all.
func TestASliceWhoseServiceHasNoAddressTakesLittleMemory(t *testing.T) {
	const n, most = 20_000, 150
	d := newDecisions()
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	for i := range n {
		s := slice(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("recommendations-%05d", i)}}, "x7k2p", "b:ready@1 c:ready@2 d:ready@3")
		d.setSlice(endpointsOf(s, "a"))
	}
	each := (live() - before) / n
	runtime.KeepAlive(d)
	if t.Logf("%d bytes a slice", each); each > most {
		t.Errorf("a slice takes %d bytes, want %d at most", each, most)
	}
}
