package speaker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Configurations of a cluster in which everything happens: pools that agree and that contradict each other about aggregates,
// weights, peers of their own, other nodes' advertisements, and drains that end.
var admittedTexts = []string{
	"address-pools: [{name: default, cidr: [10.0.1.0/28, '2001:db8::/124']}]",
	`
peers: [{name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}, {name: spine, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512}]
drain: {labels: [maintenance], withdraw-after: 30s}
address-pools:
- {name: one, cidr: [10.0.0.0-10.0.1.5], advertisements: [{aggregation-length: 24, link-bandwidth: true}, {peers: [leaf]}]}
- {name: two, cidr: [10.0.1.6-10.0.2.255], advertisements: [{aggregation-length: 24, link-bandwidth: true}]}
- {name: six, cidr: ['2001:db8::/124'], advertisements: [{link-bandwidth: true}]}
`, `
peers: [{name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}, {name: spine, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512}]
drain: {labels: [maintenance]}
address-pools:
- {name: one, cidr: [10.0.0.0-10.0.1.5], advertisements: [{aggregation-length: 24, localpref: 200, peers: [leaf]}, {aggregation-length: 24, localpref: 50, peers: [spine]}]}
- {name: two, cidr: [10.0.1.6-10.0.2.255], advertisements: [{aggregation-length: 24}, {aggregation-length: 32, link-bandwidth: true}]}
- {name: three, cidr: [10.0.3.0/24], advertisements: [{aggregation-length: 31, node-selectors: [{match-labels: {zone: east}}]}]}
`,
	`
peers: [{name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}, {name: spine, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, node-selectors: [{match-labels: {zone: east}}]}]
drain: {labels: [maintenance]}
address-pools:
- {name: one, cidr: [10.0.0.0-10.0.1.5], advertisements: [{aggregation-length: 31, primaries: 1, link-bandwidth: true}, {primaries: 2, peers: [spine], localpref: 50}]}
- {name: two, cidr: [10.0.1.6-10.0.2.255], advertisements: [{client-ip-affinity: true, aggregation-length: 30, node-selectors: [{match-labels: {zone: east}}]}]}
- {name: six, cidr: ['2001:db8::/124'], advertisements: [{primaries: 1, client-ip-affinity: true}]}
`,
	`
peers: [{name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}, {name: spine, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512}]
communities: {one: '64512:1', two: 'large:64512:0:2'}
address-pools:
- name: one
  cidr: [10.0.0.0-10.0.1.5]
  service-communities: [one, two]
  advertisements:
  - {aggregation-length: 31, service-selectors: [{match-labels: {tier: gold}}], localpref: 300, peers: [spine]}
  - {aggregation-length: 31, service-selectors: [{match-labels: {tier: silver}}], localpref: 200, link-bandwidth: true}
  - {aggregation-length: 31, client-ip-affinity: true}
- {name: two, cidr: [10.0.1.6-10.0.2.255], service-communities: [two], advertisements: [{aggregation-length: 29, service-selectors: [{match-labels: {tier: gold}}]}]}
- {name: three, cidr: [10.0.3.0/24], advertise: false}
- {name: six, cidr: ['2001:db8::/124'], service-communities: [one], advertisements: [{aggregation-length-v6: 126}]}
`,
	"address-pools: []",
	"address-pools: 7", // which nobody can read
}

// A chaos is a cluster where anything happens.
type chaos struct {
	t        *testing.T
	random   *rand.Rand
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	node     *corev1.Node
	nodes    map[string]*corev1.Node
	stored   *corev1.ConfigMap
	config   *loadbalancer.Config // the last that was stored and could be read
	ours     service.Ours
	speaker  *Speaker
	done     []string // for whoever reads of a failure
}

func (c *chaos) one(of ...string) string { return of[c.random.IntN(len(of))] }

func (c *chaos) rare(n int) bool { return c.random.IntN(n) == 0 }

// happen lets something happen, and tells the speaker of it as a reflector would.
func (c *chaos) happen() {
	name := fmt.Sprintf("%s/web-%d", c.one("a", "a-b"), c.random.IntN(6))
	pods := func() (short string) {
		for range c.random.IntN(4) {
			short += fmt.Sprintf(" %s:%s@%d", c.one("a", "a", "a", "b", "c", ""), c.one("ready", "ready", "ready", "ready", "unready", "last", "unsaid"), c.random.IntN(5))
		}
		return short
	}
	event := ""
	switch c.random.IntN(27) {
	case 0, 1, 2, 3, 4, 5, 6:
		event = name + c.one("", " uid=1", " uid=2") + c.one("", " Local", " Local") + c.one("", " ClientIP") + c.one("", " tier=gold", " tier=silver") + c.one("", " adds=one", " adds=two,one,no") + c.one("", "", "", " advertise=false") + c.one("", "", "", " class=example.com/lb") + c.one("", "", "", "", " deleted") + c.one("", "", " families=IPv4", " families=IPv4,IPv6")
		for range c.random.IntN(4) {
			event += c.one(" 10.0.1.", " 10.0.1.", " 10.0.1.", " 10.0.3.", " 2001:db8::", " 192.0.2.") + fmt.Sprint(1+c.random.IntN(11))
		}
		c.services[name] = svc(c.t, event).Service
		check(c.t, c.speaker.services.Update(c.services[name]))
	case 7, 8:
		if was := c.services[name]; was != nil && c.rare(2) {
			event = "wipe the status of " + name
			c.services[name] = was.DeepCopy()
			c.services[name].Status = corev1.ServiceStatus{}
			check(c.t, c.speaker.services.Update(c.services[name]))
		} else if was != nil {
			event = "delete " + name
			delete(c.services, name)
			check(c.t, c.speaker.services.Delete(was))
		}
	case 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19:
		event = name + " |" + c.one("", "", " v6") + pods()
		s := svc(c.t, event).Slices[0]
		s.Name += c.one("", "", "2")
		if c.rare(10) {
			s.Labels[discoveryv1.LabelServiceName] = "web-0"
		}
		event += " in " + s.Name + " of " + s.Labels[discoveryv1.LabelServiceName]
		c.slices[s.Namespace+"/"+s.Name] = s
		check(c.t, c.speaker.slices.Update(s))
	case 20:
		for key, was := range c.slices {
			event = "delete slice " + key
			delete(c.slices, key)
			check(c.t, c.speaker.slices.Delete(was))
			break
		}
	case 21:
		event = "a" + c.one("", "", " cordoned", " not-ready") + c.one("", " zone=east", " zone=east") + c.one("", "", " maintenance=") + c.one("", "", "", "", " network-unavailable") + c.one("", "", "", "", " @metallb.io/drain=")
		c.node = node(c.t, event)
		check(c.t, c.speaker.nodes.Update(c.node))
		c.nodes["a"] = c.node
		check(c.t, c.speaker.cluster.Update(c.node))
	case 24, 25:
		event = c.one("b", "c", "d") + c.one("", "", " ready") + c.one("", " zone=east", " zone=east") + c.one("", "", "", " maintenance=") + c.one("", "", "", " network-unavailable")
		n := node(c.t, event)
		if c.rare(4) {
			event += " not-ready"
			n = node(c.t, event)
			n.Status.Conditions[len(n.Status.Conditions)-1].LastTransitionTime.Time = time.Now()
		}
		c.nodes[n.Name] = n
		check(c.t, c.speaker.cluster.Update(n))
	case 26:
		for _, n := range c.nodes {
			if n.Name != "a" {
				event = n.Name + " is gone"
				delete(c.nodes, n.Name)
				check(c.t, c.speaker.cluster.Delete(n))
				break
			}
		}
	case 22:
		text := c.one(append(admittedTexts, admittedTexts[:5]...)...)
		event = text
		stored := admitted(text)
		stored.Data["class-only"], stored.Data["classes"] = c.one("true", "false", "false"), c.one("", "example.com/lb")
		c.stored = stored
		check(c.t, c.speaker.configs.Update(stored))
	case 23:
		if c.rare(4) {
			event = "the watches broke"
			var all, found []any
			for _, s := range c.services {
				all = append(all, s)
			}
			for _, s := range c.slices {
				found = append(found, s)
			}
			check(c.t, c.speaker.services.Replace(all, ""))
			check(c.t, c.speaker.slices.Replace(found, ""))
		}
	}
	c.done = append(c.done, event)
}

func plain(all []oracleService) (services []Service) {
	for _, svc := range all {
		services = append(services, svc.Service)
	}
	return services
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever happens, however much of it at once, and however much time passes: a loop that looks at what changed says what one
// says that looks at everything, withholds the same for the same reasons, and wakes at the same time.
func TestTheLoopSaysWhatOneSaysThatLooksAtEverything(t *testing.T) {
	events, told, contradictions, weights, keeps, newcomers, spares, added := 0, 0, 0, 0, 0, 0, 0, 0
	for seed := uint64(1); events < 10_000; seed++ {
		synctest.Test(t, func(t *testing.T) {
			c := &chaos{t: t, random: rand.New(rand.NewPCG(seed, 12)), services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}}
			said := &notebook{}
			var err error
			c.speaker, err = New(of(fake.NewClientset()), said, Options{NodeName: "a", Namespace: "metallb-system", ConfigName: "config"})
			check(t, err)
			c.node = node(t, "a")
			check(t, c.speaker.nodes.Update(c.node))
			c.nodes = map[string]*corev1.Node{"a": c.node}
			check(t, c.speaker.cluster.Replace([]any{c.node}, ""))
			c.stored = admitted(admittedTexts[1])
			check(t, c.speaker.configs.Update(c.stored))
			ctx, stop := context.WithCancel(t.Context())
			defer synctest.Wait()
			defer stop()
			go c.speaker.loop(ctx)
			var past oracle
			wake := time.Time{}
			compare := func() {
				t.Helper()
				synctest.Wait()
				if config, _, err := loadbalancer.ParseAdmitted([]byte(c.stored.Data["config"])); err == nil {
					c.config, c.ours = config, service.FromData(c.stored.Data)
				}
				var all []oracleService
				for name, svc := range c.services {
					with := oracleService{Service: Service{Service: svc}}
					for _, slice := range c.slices {
						if slice.Namespace+"/"+slice.Labels[discoveryv1.LabelServiceName] == name {
							with.Slices = append(with.Slices, slice)
						}
					}
					all = append(all, with)
				}
				nodes := slices.Collect(maps.Values(c.nodes))
				drained, since := Drained(c.config, c.node)
				var routes []loadbalancer.Route
				var withheld []Withheld
				var services []oracleService
				routes, withheld, services, past, wake = past.announcements(time.Now(), c.config, c.ours, c.node, nodes, all, drained, since)
				added += strings.Count(strings.Join(notation(routes), "\n"), "64512:1")
				spares += strings.Count(strings.Join(notation(routes), "\n"), "prepend 1")
				c.speaker.mu.Lock()
				defer c.speaker.mu.Unlock()
				folded, _ := Announcements(c.config, c.ours, c.node, nodes, plain(all))
				whole, _ := oracleAnnouncements(c.config, c.node, served(c.ours, all), Unfit(c.node, false), nil)
				whole, _, _ = oraclePace(time.Time{}, nil, whole)
				if whole, _ = oracleSpare(endOfTime, c.config, c.node, nodes, served(c.ours, all), whole); drained != "" {
					whole = shutDown(whole)
				}
				same(t, "announced without time", notation(folded), notation(whole))
				var got, want []string
				d := c.speaker.decisions
				gotRoutes, gotWithheld := d.all()
				for _, w := range gotWithheld {
					got = append(got, fmt.Sprint(w))
				}
				for _, w := range withheld {
					want = append(want, fmt.Sprint(w))
					if e := d.services[w.Service]; !slices.Contains(e.told, w) {
						t.Errorf("of %v it remembers %v", w, e.told)
					}
					contradictions += strings.Count(w.Why, "give the two pools the same")
					newcomers += strings.Count(w.Why, "only just")
				}
				for _, s := range services {
					keeps += len(s.kept)
				}
				weights += strings.Count(strings.Join(notation(routes), " "), "weight")
				told += len(routes)
				same(t, "announced", notation(gotRoutes), notation(routes))
				byText := slices.Sorted(slices.Values(notation(routes)))
				same(t, "what the announcer was told", slices.Sorted(slices.Values(said.routes)), byText)
				same(t, "withheld", got, want)
				if d.withheld != len(withheld) || d.routes != len(routes) {
					t.Errorf("it counts %d withheld and %d routes, not %d and %d", d.withheld, d.routes, len(withheld), len(routes))
				}
				if first := d.wakeups.first(); !first.Equal(wake) {
					t.Errorf("it wakes at %v, not at %v", first, wake)
				}
				if t.Failed() {
					t.Fatalf("seed %d, after\n\t%s", seed, strings.Join(c.done, "\n\t"))
				}
			}
			compare()
			for range 500 {
				c.speaker.mu.Lock() // what happens at once is fetched at once
				for range 1 + c.random.IntN(2)*c.random.IntN(4) {
					c.happen()
					events++
				}
				c.speaker.mu.Unlock()
				compare()
				pause := time.Duration(c.random.IntN(3000)) * time.Millisecond
				if c.rare(10) {
					pause *= 50
				}
				for end := time.Now().Add(pause); ; compare() {
					if wake.IsZero() || wake.After(end) {
						<-time.After(time.Until(end))
						break
					}
					<-time.After(time.Until(wake))
				}
			}
			if got := len(slices.Collect(maps.Keys(c.speaker.decisions.services))); got != len(c.services) {
				t.Errorf("it knows %d Services, not %d", got, len(c.services))
			}
		})
	}
	t.Logf("%d events: %d routes, %d with weights, %d contradictions, %d addresses kept, %d newcomers, %d first spares, %d communities of Services", events, told, weights, contradictions, keeps, newcomers, spares, added)
	if contradictions == 0 || weights == 0 || keeps == 0 || newcomers == 0 || spares == 0 || added == 0 {
		t.Error("something never happened")
	}
}
