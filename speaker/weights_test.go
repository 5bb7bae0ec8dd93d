package speaker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// weighing asks for weights in all advertisements of the configuration, or of the pools that are named.
func weighing(config *loadbalancer.Config, pools ...string) *loadbalancer.Config {
	for i := range config.Pools {
		p := &config.Pools[i]
		for j := range p.Advertisements {
			if len(pools) == 0 || strings.Contains(strings.Join(pools, " "), p.Name) {
				p.Advertisements[j].Route.Weight = 1
			}
		}
	}
	return config
}

func TestWeightsCountTheReadyEndpointsBehindAPrefix(t *testing.T) {
	const both = `
address-pools:
- name: default
  cidr: [10.0.0.0/24]
  advertisements: [{aggregation-length: 24}, {}]
`
	const racks = `
address-pools:
- name: default
  cidr: [10.1.0.0-10.1.1.127]
  advertisements: [{aggregation-length: 24}]
- name: elsewhere
  cidr: [10.1.1.128-10.1.2.255]
  advertisements: [{aggregation-length: 24, node-selectors: [{match-labels: {rack: b}}]}]
`
	tests := []struct {
		name     string
		config   string // onePool if empty
		services []string
		onA, onB string
	}{
		{name: "each node its own pods", services: []string{"shop/web 10.0.0.1 Local | a:ready@1 a:ready@2 b:ready@3 a:unready@4 a:last@5"},
			onA: `10.0.0.1/32 pref 100 weight 2`, onB: `10.0.0.1/32 pref 100 weight 1`},
		{name: "what is not said is ready", services: []string{"shop/web 10.0.0.1 Local | a:unsaid@1 a:published@2 :ready@3"},
			onA: `10.0.0.1/32 pref 100 weight 2`},
		{name: "a pod in several slices counts once", services: []string{"shop/web 10.0.0.1 Local | a:ready@1 a:ready@2 | a:ready@2 b:ready@3 | a:ready@1 b:ready@3"},
			onA: `10.0.0.1/32 pref 100 weight 2`, onB: `10.0.0.1/32 pref 100 weight 1`},
		{name: "a pod that is ready in one slice and not in another is ready", services: []string{"shop/web 10.0.0.1 Local | a:unready@1 a:ready@2 | a:ready@1 a:over@2"},
			onA: `10.0.0.1/32 pref 100 weight 2`},
		{name: "without pods, addresses tell endpoints apart", services: []string{"shop/web 10.0.0.1 Local | a:ready@192.0.2.1 a:ready@192.0.2.2 | a:ready@192.0.2.2"},
			onA: `10.0.0.1/32 pref 100 weight 2`},
		{name: "the other IP version's slices do not count", services: []string{"shop/web 10.0.0.1 Local | a:ready@1 | v6 a:ready@1 a:ready@2"},
			onA: `10.0.0.1/32 pref 100 weight 1`},
		{name: "the last pods, which terminate, weigh 1", services: []string{"shop/web 10.0.0.1 Local | a:last@1 a:last@2 b:last@3"},
			onA: `10.0.0.1/32 pref 100 weight 1`, onB: `10.0.0.1/32 pref 100 weight 1`},

		{name: "Services that share an address add up, the same pod twice", services: []string{"shop/udp 10.0.0.1 Local | a:ready@1 b:ready@2", "shop/tcp 10.0.0.1 Local | a:ready@1 b:ready@2 b:ready@3"},
			onA: `10.0.0.1/32 pref 100 weight 2`, onB: `10.0.0.1/32 pref 100 weight 3`},
		{name: "an aggregate carries the pods of all Services under it, each address its own", config: both,
			services: []string{"shop/web 10.0.0.1 Local | a:ready@1 b:ready@2", "shop/api 10.0.0.2 Local | b:ready@3 b:ready@4"},
			onA: `
				10.0.0.0/24 pref 100 weight 1
				10.0.0.1/32 pref 100 weight 1`,
			onB: `
				10.0.0.0/24 pref 100 weight 3
				10.0.0.1/32 pref 100 weight 1
				10.0.0.2/32 pref 100 weight 2`},
		{name: "a Service with two addresses under an aggregate counts once", config: both, services: []string{"shop/web 10.0.0.1 10.0.0.2 Local | a:ready@1 a:ready@2"},
			onA: `
				10.0.0.0/24 pref 100 weight 2
				10.0.0.1/32 pref 100 weight 2
				10.0.0.2/32 pref 100 weight 2`},
		{name: "a Service that is being deleted does not count", config: both, services: []string{"shop/web 10.0.0.1 Local | a:ready@1", "shop/api 10.0.0.2 Local deleted | a:ready@2"},
			onA: `
				10.0.0.0/24 pref 100 weight 1
				10.0.0.1/32 pref 100 weight 1`},
		{name: "nor does another's", config: both, services: []string{"shop/web 10.0.0.1 Local | a:ready@1", "shop/api 10.0.0.2 class=example.com/lb | a:ready@2"},
			onA: `
				10.0.0.0/24 pref 100 weight 1
				10.0.0.1/32 pref 100 weight 1`},

		{name: "Cluster carries none", services: []string{"shop/web 10.0.0.1 | a:ready@1"}, onA: `10.0.0.1/32 pref 100`, onB: `10.0.0.1/32 pref 100`},
		{name: "one of the policy Cluster takes it from its aggregate, on all nodes", config: both,
			services: []string{"shop/web 10.0.0.1 Local | a:ready@1 b:ready@2", "shop/api 10.0.0.2 | c:last@3"},
			onA: `
				10.0.0.0/24 pref 100
				10.0.0.1/32 pref 100 weight 1
				10.0.0.2/32 pref 100`,
			onB: `
				10.0.0.0/24 pref 100
				10.0.0.1/32 pref 100 weight 1
				10.0.0.2/32 pref 100`},
		{name: "unless nobody can serve it", config: both, services: []string{"shop/web 10.0.0.1 Local | a:ready@1", "shop/api 10.0.0.2 | c:unready@3 | v6 c:ready@3"},
			onA: `
				10.0.0.0/24 pref 100 weight 1
				10.0.0.1/32 pref 100 weight 1`},
		{name: "or it is being deleted", config: both, services: []string{"shop/web 10.0.0.1 Local | a:ready@1", "shop/api 10.0.0.2 deleted | c:ready@3"},
			onA: `
				10.0.0.0/24 pref 100 weight 1
				10.0.0.1/32 pref 100 weight 1`},
		{name: "also from nodes that do not announce it: routers need a weight from all or none", config: racks,
			services: []string{"shop/web 10.1.1.1 Local | a:ready@1 b:ready@2", "shop/api 10.1.1.200 | c:ready@3"},
			onA:      `10.1.1.0/24 pref 100`, onB: `10.1.1.0/24 pref 100`},
		{name: "two pools under one aggregate add up", config: fmt.Sprintf(twoPools, "", "1", ""),
			services: []string{"shop/web 10.1.1.1 Local | a:ready@1 a:ready@2", "shop/api 10.1.1.200 Local | a:ready@3 b:ready@4"},
			onA:      `10.1.1.0/24 pref 100 [64512:1] weight 3`, onB: `10.1.1.0/24 pref 100 [64512:1] weight 1`},
		{name: "each peer hears the same weight", config: fmt.Sprintf(twoPools, "peers: [spine]", "2", "peers: [leaf]"),
			services: []string{"shop/web 10.1.1.1 Local | a:ready@1 a:ready@2", "shop/api 10.1.1.200 Local | a:ready@3"},
			onA: `
				10.1.1.0/24 pref 100 [64512:2] weight 3 to leaf
				10.1.1.0/24 pref 100 [64512:1] weight 3 to spine`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := test.config
			if text == "" {
				text = onePool
			}
			config := weighing(parse(t, text))
			var services []Service
			for _, short := range test.services {
				services = append(services, svc(t, short))
			}
			for range 10 {
				routes, _ := Announcements(config, service.Ours{}, node(t, "a rack=a"), nil, services)
				same(t, "announced by a", notation(routes), lines(test.onA))
				routes, _ = Announcements(config, service.Ours{}, node(t, "b rack=b"), nil, services)
				same(t, "announced by b", notation(routes), lines(test.onB))
				rand.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
			}
		})
	}
}

func TestAPoolThatAsksForWeightsAndOneThatDoesNotContradictEachOther(t *testing.T) {
	config := weighing(parse(t, fmt.Sprintf(twoPools, "", "1", "")), "first")
	services := []Service{svc(t, "shop/web 10.1.1.1 Local | a:ready@1 a:ready@2"), svc(t, "shop/api 10.1.1.200 Local | a:ready@3")}
	routes, withheld := Announcements(config, service.Ours{}, node(t, "a"), nil, services)
	same(t, "announced", notation(routes), []string{"10.1.1.0/24 pref 100 [64512:1]"})
	if len(withheld) != 1 || !strings.Contains(withheld[0].Why, "give the two pools the same") {
		t.Errorf("withheld %v", withheld)
	}
}

func TestAWeightHasAnEnd(t *testing.T) {
	short := "shop/web 10.0.0.1 Local |" + strings.Repeat(" a:ready", 70_000)
	routes, _ := Announcements(weighing(parse(t, onePool)), service.Ours{}, node(t, "a"), nil, []Service{svc(t, short)})
	same(t, "announced", notation(routes), []string{"10.0.0.1/32 pref 100 weight 256"})
}

// What weights cost in a cluster with 10,000 Services, against BenchmarkAnnouncements.
func BenchmarkAnnouncementsWithWeights(b *testing.B) {
	config := weighing(parse(b, "address-pools: [{name: big, cidr: [10.0.0.0/16]}]"))
	on, services := node(b, "a"), tenThousand(b)
	b.ReportAllocs()
	for b.Loop() {
		if routes, withheld := Announcements(config, service.Ours{}, on, nil, services); len(routes) != 10_000 || withheld != nil {
			b.Fatal(len(routes), len(withheld))
		}
	}
}
