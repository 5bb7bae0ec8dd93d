package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

const (
	onePrimary = "address-pools: [{name: default, cidr: [10.0.0.0/24], advertisements: [{primaries: 1}]}]\n"
	affinity   = "address-pools: [{name: default, cidr: [10.0.0.0/24], advertisements: [{client-ip-affinity: true}]}]\n"
)

// Each case is a cluster, and what its nodes tell their routers, one line a node. Who is a primary follows from names and prefixes alone,
// and must stay the same in every release: nodes of two releases have to agree.
func TestOfTheNodesThatAnnounceAPrefixSomeArePrimariesAndOneIsTheFirstSpare(t *testing.T) {
	tests := []struct {
		name, config string
		nodes        string // one a line; by default a, b, c and d
		services     []string
		want         string
	}{
		{name: "one primary, one first spare, and the rest", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			b: 10.0.0.1/32 pref 100
			c: 10.0.0.1/32 pref 75 prepend 1
			d: 10.0.0.1/32 pref 50 prepend 3`},
		{name: "another prefix has another primary", services: []string{"shop/web 10.0.0.7 | a:ready"}, want: `
			a: 10.0.0.7/32 pref 75 prepend 1
			b: 10.0.0.7/32 pref 50 prepend 3
			c: 10.0.0.7/32 pref 50 prepend 3
			d: 10.0.0.7/32 pref 100`},
		{name: "the primary is drained: the first spare takes its place, and the next is the first", nodes: "a\nb @metallb.io/drain=\nc\nd", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			b: 10.0.0.1/32 pref 0 [65535:0] prepend 6
			c: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "the primary's network is down", nodes: "a\nb network-unavailable\nc\nd", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			c: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "the primary is excluded", nodes: "a\nb node.kubernetes.io/exclude-from-external-load-balancers=\nc\nd", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			c: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "the primary is not ready, and announces as a spare", nodes: "a ready\nb not-ready\nc\nd", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			b: 10.0.0.1/32 pref 50 prepend 3
			c: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "nobody is ready: all are spares, and alike", nodes: "a not-ready\nb not-ready", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			b: 10.0.0.1/32 pref 50 prepend 3`},
		{name: "fewer nodes than primaries", config: strings.Replace(onePrimary, "primaries: 1", "primaries: 3", 1), nodes: "a\nb", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 100
			b: 10.0.0.1/32 pref 100`},
		{name: "Local: of the nodes with a ready pod", services: []string{"shop/web 10.0.0.1 Local | b:ready d:ready c:unready"}, want: `
			b: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "Local: of the nodes whose pods serve while they terminate, if none is ready", services: []string{"shop/web 10.0.0.1 Local | b:last d:last c:unready"}, want: `
			b: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "a node without a peer is no primary", config: `
peers: [{name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512, node-selectors: [{match-labels: {rack: one}}]}]
` + onePrimary, nodes: "a rack=one\nb\nc rack=one\nd rack=one", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 50 prepend 3
			b: 10.0.0.1/32 pref 50 prepend 3
			c: 10.0.0.1/32 pref 100
			d: 10.0.0.1/32 pref 75 prepend 1`},
		{name: "each advertisement has primaries of its own", config: `
address-pools:
- name: default
  cidr: [10.0.0.0/24]
  advertisements:
  - {primaries: 1, node-selectors: [{match-labels: {rack: one}}]}
  - {primaries: 1, localpref: 30, node-selectors: [{match-labels: {rack: two}}]}
`, nodes: "a rack=one\nb rack=one\nc rack=two\nd rack=two", services: []string{"shop/web 10.0.0.1 | a:ready"}, want: `
			a: 10.0.0.1/32 pref 75 prepend 1
			b: 10.0.0.1/32 pref 100
			c: 10.0.0.1/32 pref 30
			d: 10.0.0.1/32 pref 22 prepend 1`},
		{name: "an aggregate has the primaries of all nodes that announce some of it", config: `
address-pools: [{name: default, cidr: [10.0.0.0/24], advertisements: [{primaries: 1, aggregation-length: 24}]}]
`, services: []string{"shop/web 10.0.0.1 Local | b:ready", "shop/api 10.0.0.2 Local | d:ready"}, want: `
			b: 10.0.0.0/24 pref 100
			d: 10.0.0.0/24 pref 75 prepend 1`},
		{name: "ClientIP: one primary", config: affinity, services: []string{"shop/web 10.0.0.1 ClientIP | a:ready", "shop/api 10.0.0.2 | a:ready"}, nodes: "a\nb", want: `
			a: 10.0.0.1/32 pref 75 prepend 1
			a: 10.0.0.2/32 pref 100
			b: 10.0.0.1/32 pref 100
			b: 10.0.0.2/32 pref 100`},
		{name: "ClientIP, where nothing serves: its neighbor is as it was", config: strings.Replace(affinity, "true", "true, aggregation-length: 24", 1),
			services: []string{"shop/web 10.0.0.1 ClientIP | a:unready", "shop/api 10.0.0.2 | a:ready"}, nodes: "a\nb", want: `
			a: 10.0.0.0/24 pref 100
			b: 10.0.0.0/24 pref 100`},
		{name: "ClientIP under an aggregate: one primary for all of it", config: strings.Replace(affinity, "true", "true, aggregation-length: 24", 1),
			services: []string{"shop/web 10.0.0.1 ClientIP Local | b:ready", "shop/api 10.0.0.2 | a:ready"}, nodes: "a\nb", want: `
			a: 10.0.0.0/24 pref 100
			b: 10.0.0.0/24 pref 75 prepend 1`},
		{name: "ClientIP without the key: all alike", config: onePool, services: []string{"shop/web 10.0.0.1 ClientIP | a:ready"}, nodes: "a\nb", want: `
			a: 10.0.0.1/32 pref 100
			b: 10.0.0.1/32 pref 100`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := test.config
			if text == "" {
				text = onePrimary
			}
			if !strings.Contains(text, "peers:") {
				text = onePeer + text
			}
			config, nodes := parse(t, text), cluster(t, test.nodes)
			var services []Service
			for _, short := range test.services {
				services = append(services, svc(t, short))
			}
			var got []string
			for _, n := range nodes {
				routes, _ := Announcements(config, service.Ours{}, n, nodes, services)
				for _, r := range notation(routes) {
					got = append(got, n.Name+": "+r)
				}
			}
			same(t, "announced", got, lines(test.want))
		})
	}
}

func cluster(t testing.TB, short string) (all []*corev1.Node) {
	if short == "" {
		short = "a\nb\nc\nd"
	}
	for _, line := range lines(short) {
		all = append(all, node(t, line))
	}
	return all
}

// A node that comes or goes makes a difference to its share of the prefixes, and to no other node's.
func TestANodeThatGoesMovesItsOwnPrefixesOnly(t *testing.T) {
	const nodes, prefixes, primaries = 20, 2000, 2
	d := ranked(t, nodes, prefixes, primaries)
	before := map[netip.Prefix][]string{}
	of := func(prefix netip.Prefix) (names []string) {
		for _, m := range d.prefixes[prefix].rankings[0].best[:primaries] {
			names = append(names, m.name)
		}
		return names
	}
	for prefix := range d.prefixes {
		before[prefix] = of(prefix)
	}
	d.setNode("node-7", nil)
	o := d.look(time.Now(), d.world)
	moved := 0
	for prefix, was := range before {
		is := of(prefix)
		if at := slices.Index(was, "node-7"); at >= 0 {
			moved++
			if was = slices.Delete(slices.Clone(was), at, at+1); is[0] != was[0] {
				t.Errorf("%s was announced by %s and is by %s", prefix, was, is)
			}
		} else if !slices.Equal(was, is) {
			t.Errorf("%s had nothing to do with it, was announced by %s and is by %s", prefix, was, is)
		}
	}
	if want := prefixes * primaries / nodes; moved < want*3/4 || moved > want*5/4 {
		t.Errorf("%d of %d prefixes moved, want about %d", moved, prefixes, want)
	}
	// It was a primary of a tenth of them; we have become the first spare or a primary of a few.
	if len(o.routes) > prefixes/nodes {
		t.Errorf("our own routers hear of %d prefixes", len(o.routes))
	}
	d.setNode("node-7", node(t, "node-7"))
	d.look(time.Now(), d.world)
	for prefix, was := range before {
		if is := of(prefix); !slices.Equal(was, is) {
			t.Errorf("it is back, and %s, which was announced by %s, is by %s", prefix, was, is)
		}
	}
}

// ranked are the decisions of node-0 in a cluster of so many nodes and Services.
func ranked(t testing.TB, nodes, services, primaries int) *decisions {
	config := parse(t, onePeer+fmt.Sprintf("address-pools: [{name: default, cidr: [10.0.0.0/16], advertisements: [{primaries: %d}]}]\n", primaries))
	d := newDecisions()
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		d.setNode(name, node(t, name))
	}
	for i := range services {
		s := svc(t, fmt.Sprintf("shop/web-%d 10.0.%d.%d | node-0:ready", i, i/256, i%256))
		r := recordOf(s.Service)
		d.setService(r.name, r)
		d.setSlice(endpointsOf(s.Slices[0], "node-0"))
	}
	d.look(time.Now(), world{config: config, node: "node-0"})
	return d
}

// An operation is a node that goes and one that comes back, in a cluster of 1,000 nodes with 10,000 Services and primaries.
func BenchmarkANodeGoesAndComesBack(b *testing.B) {
	d, n := ranked(b, 1000, 10_000, 4), node(b, "node-7")
	b.ReportAllocs()
	for b.Loop() {
		d.setNode("node-7", nil)
		d.look(time.Now(), d.world)
		d.setNode("node-7", n)
		d.look(time.Now(), d.world)
	}
}

func TestASpeakerWatchesAllNodesOnceATextNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []runtime.Object
		for _, n := range cluster(t, "a\nb") {
			all = append(all, n)
		}
		s := enact(t, Options{}, append(append(all, objects(t, "shop/web 10.0.0.1 | a:ready")...), admitted(onePeer+onePool))...)
		lists := func() (n int) {
			for _, a := range s.client.Actions() {
				if list, ok := a.(k8stesting.ListAction); ok && a.GetResource().Resource == "nodes" && list.GetListRestrictions().Fields.Empty() {
					n++
				}
			}
			return n
		}
		if s.want("all alike", "10.0.0.1/32 pref 100", "leaf"); lists() != 0 {
			t.Error("it reads all nodes without need")
		}
		s.put(admitted(onePeer + onePrimary))
		<-time.After(time.Second)
		synctest.Wait()
		if s.want("b is the primary", "10.0.0.1/32 pref 75 prepend 1", "leaf"); lists() != 1 {
			t.Errorf("it read all nodes %d times", lists())
		}
		s.put(node(t, "b ready"))
		said := s.said.count()
		s.put(node(t, "b ready internal=10.8.0.2 @example.com/novel=long"))
		if s.said.count() != said {
			t.Error("it announces again for what does not matter")
		}
		unready := node(t, "b not-ready")
		unready.Status.Conditions[0].LastTransitionTime.Time = time.Now()
		s.put(unready)
		<-time.After(unreadyFor - time.Second)
		synctest.Wait()
		s.want("it may only be restarting", "10.0.0.1/32 pref 75 prepend 1", "leaf")
		<-time.After(time.Second)
		synctest.Wait()
		s.want("it is not", "10.0.0.1/32 pref 100", "leaf")
		s.put(node(t, "b ready"))
		s.want("it is back", "10.0.0.1/32 pref 75 prepend 1", "leaf")
		s.put(node(t, "b @metallb.universe.tf/drain= ready"))
		s.want("it is drained", "10.0.0.1/32 pref 100", "leaf")
		s.put(node(t, "b ready"))
		check(t, s.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("nodes"), "", "b"))
		synctest.Wait()
		s.want("it is gone", "10.0.0.1/32 pref 100", "leaf")
		s.put(admitted(onePeer + onePool))
		s.want("all alike again", "10.0.0.1/32 pref 100", "leaf")
	})
}

// Under an aggregate, a Service that every node may announce makes a primary of any; when it goes, only of nodes with endpoints.
func TestWhoMayBeAPrimaryFollowsTheServicesUnderThePrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := append(objects(t, "shop/web 10.0.0.1 | b:ready"), node(t, "a"), node(t, "b"),
			admitted(onePeer+strings.Replace(onePrimary, "primaries: 1", "primaries: 1, aggregation-length: 30", 1)))
		s := enact(t, Options{}, all...)
		<-time.After(time.Second)
		synctest.Wait()
		s.want("b is the primary", "10.0.0.0/30 pref 75 prepend 1", "leaf")
		for _, object := range objects(t, "shop/api 10.0.0.2 Local | a:ready") {
			s.put(object)
		}
		s.want("a Local one on this node", "10.0.0.0/30 pref 75 prepend 1", "leaf")
		s.put(slice(t, svc(t, "shop/web").Service, "a", "b:unready"))
		s.want("only that is left", "10.0.0.0/30 pref 100", "leaf")
		s.put(slice(t, svc(t, "shop/web").Service, "a", "b:ready"))
		s.want("the other is back", "10.0.0.0/30 pref 75 prepend 1", "leaf")
	})
}

func TestASpeakerFollowsItsGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = "peers: [{name: rack, peer-address: gateway, peer-asn: external, my-asn: 64512}]\n" + onePool
		var hops atomic.Pointer[Hops]
		hops.Store(&Hops{Why: "the node has no default route of IPv4"})
		var up atomic.Bool
		s := enact(t, Options{Gateways: func() Gateways { return Gateways{loadbalancer.IPv4: *hops.Load()} }, Up: func(loadbalancer.Peer) bool { return up.Load() }},
			append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(text))...)
		s.want("no gateway", "10.0.0.1/32 pref 100")
		if mute := s.speaker.Status().Mute; len(mute) != 1 || mute[0].Name != "rack" {
			t.Errorf("it cannot speak to %v", mute)
		}
		hops.Store(&Hops{Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.1")}})
		s.speaker.LookAgain()
		synctest.Wait()
		s.want("a gateway", "10.0.0.1/32 pref 100", "rack")
		up.Store(true)
		hops.Store(&Hops{Why: "the node has no default route of IPv4"})
		s.speaker.LookAgain()
		synctest.Wait()
		s.want("the route is gone, and the session up", "10.0.0.1/32 pref 100", "rack")
		up.Store(false)
		s.speaker.LookAgain()
		synctest.Wait()
		s.want("the session is down", "10.0.0.1/32 pref 100")
	})
}

// Were a speaker that starts to take all nodes for alike, every one would be a primary for a while.
func TestASpeakerThatStartsWaitsForTheNodesThatItRanks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), node(t, "b"), admitted(onePeer+onePrimary))
		s := &stage{t: t, client: fake.NewClientset(all...), said: &notebook{}}
		var known atomic.Bool
		s.client.PrependReactor("list", "nodes", func(a k8stesting.Action) (bool, runtime.Object, error) {
			return !known.Load() && a.(k8stesting.ListAction).GetListRestrictions().Fields.Empty(), nil, errors.New("not now")
		})
		s.begin(Options{})
		<-time.After(time.Hour)
		if s.said.times != 0 {
			t.Errorf("announced %q without knowing the nodes", s.said.routes)
		}
		same(t, "why", s.speaker.Status().Problems, []string{"some advertisement has primaries, and the Nodes have not been read yet"})
		known.Store(true)
		<-time.After(time.Hour) // the informer has become patient
		synctest.Wait()
		s.want("everything is known", "10.0.0.1/32 pref 75 prepend 1", "leaf")
	})
}

func TestOfANodeOnlyThatIsKeptThatBearsOnPrimaries(t *testing.T) {
	full := node(t, "b rack=one @metallb.io/drain=false @metallb.universe.tf/drain= @example.com/novel=long !a=b:NoSchedule internal=10.0.0.1 ready network-available")
	full.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	full.Status.Conditions = append(full.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure})
	full.Status.Conditions[0].LastHeartbeatTime.Time = time.Unix(1, 0)
	name, kept := keptOf(full)
	want := node(t, "b rack=one @metallb.io/drain=false @metallb.universe.tf/drain= !a=b:NoSchedule ready network-available")
	for i := range want.Status.Conditions {
		want.Status.Conditions[i].Message = ""
	}
	if name != "b" || !reflect.DeepEqual(kept, want) {
		t.Errorf("kept %+v, want %+v", kept, want)
	}
}
