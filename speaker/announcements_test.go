package speaker

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/metallb/cloud-provider-metallb/service"
)

const (
	onePool = `
address-pools:
- name: default
  cidr: [10.0.0.0/24]
`
	// Two pools that meet within 10.1.1.0/24.
	twoPools = `
peers:
- {name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}
- {name: spine, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512}
address-pools:
- name: first
  cidr: [10.1.0.0-10.1.1.127]
  advertisements:
  - {aggregation-length: 24, communities: ['64512:1'], %s}
- name: second
  cidr: [10.1.1.128-10.1.2.255]
  advertisements:
  - {aggregation-length: 24, communities: ['64512:%s'], %s}
`
	byLabel = `
address-pools:
- name: default
  cidr: [10.0.0.0/24]
  advertisements:
  - node-selectors:
    - match-labels: {zone: east}
    - match-labels: {zone: west}
  - aggregation-length: 24
    localpref: 50
    node-selectors:
    - match-expressions: [{key: spare, operator: Exists}]
`
	aggregated = `
communities: {vpn-only: '1234:1'}
address-pools:
- name: production
  cidr: [42.176.25.64/30]
  advertisements:
  - aggregation-length: 32
- name: sandbox
  cidr: [192.168.144.0/20]
  advertisements:
  - aggregation-length: 24
    communities: [vpn-only]
  - aggregation-length: 32
    localpref: 200
    as-path-prepend: 2
`
)

// Which advertisements are for a Service, and what it may add to them.
const byService = `
peers:
- {name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}
- {name: spine, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512}
communities: {vip: '64512:1', paid: '64512:2', far: 'large:64512:0:3'}
address-pools:
- name: default
  cidr: [10.0.0.0/24]
  service-communities: [paid, far, no-export]
  advertisements:
  - {aggregation-length: 31, communities: [vip], localpref: 300, peers: [spine], service-selectors: [{match-labels: {tier: gold}}]}
  - {aggregation-length: 31, localpref: 200, service-selectors: [{match-labels: {tier: gold}}, {match-labels: {tier: silver}}]}
  - {aggregation-length: 31}
- {name: elsewhere, cidr: [10.1.0.0/24], advertise: false}
- {name: gold-only, cidr: [10.2.0.0/24], advertisements: [{service-selectors: [{match-labels: {tier: gold}}]}]}
`

// announcing is a case of TestTheRules.
type announcing struct {
	name     string
	config   string // onePool if empty
	node     string // "a" if empty
	services []string
	routes   string
	withheld string // service, address: why
}

var rules = []announcing{
	// The policy Cluster.
	{name: "Cluster: a ready pod anywhere is enough", services: []string{"shop/web 10.0.0.1 | b:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "Cluster: also one that no node is known of", services: []string{"shop/web 10.0.0.1 | :ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "Cluster: also one that serves while it terminates", services: []string{"shop/web 10.0.0.1 | b:last c:unready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "Cluster: without slices", services: []string{"shop/web 10.0.0.1"},
		withheld: `shop/web 10.0.0.1: no endpoint of the Service can serve, on any node`},
	{name: "Cluster: without endpoints", services: []string{"shop/web 10.0.0.1 |"},
		withheld: `shop/web 10.0.0.1: no endpoint of the Service can serve, on any node`},
	{name: "Cluster: without one that serves", services: []string{"shop/web 10.0.0.1 | a:unready b:over c:unready-unsaid"},
		withheld: `shop/web 10.0.0.1: no endpoint of the Service can serve, on any node`},

	// The policy Local.
	{name: "Local: a ready pod here", services: []string{"shop/web 10.0.0.1 Local | a:ready b:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "Local: a ready pod elsewhere", services: []string{"shop/web 10.0.0.1 Local | b:ready"},
		withheld: `shop/web 10.0.0.1: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "Local: a ready pod nobody knows where", services: []string{"shop/web 10.0.0.1 Local | :ready"},
		withheld: `shop/web 10.0.0.1: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "Local: the pod here terminates, and another is ready: kube-proxy drains it while routers leave", services: []string{"shop/web 10.0.0.1 Local | a:last b:ready"},
		withheld: `shop/web 10.0.0.1: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "Local: the pod here terminates, and none is ready anywhere", services: []string{"shop/web 10.0.0.1 Local | a:last b:last c:unready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "Local: the last pods are elsewhere", services: []string{"shop/web 10.0.0.1 Local | a:over b:last"},
		withheld: `shop/web 10.0.0.1: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "Local: the pod here is not ready, though it serves as far as one knows", services: []string{"shop/web 10.0.0.1 Local | a:unready b:last"},
		withheld: `shop/web 10.0.0.1: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "Local: no pod serves", services: []string{"shop/web 10.0.0.1 Local | a:unready b:over"},
		withheld: `shop/web 10.0.0.1: no endpoint of the Service can serve, on any node`},

	// What is not said, and several slices.
	{name: "nothing said means ready", services: []string{"shop/web 10.0.0.1 Local | a:unsaid"}, routes: `10.0.0.1/32 pref 100`},
	{name: "serving not said means serving", services: []string{"shop/web 10.0.0.1 Local | a:serving-unsaid"}, routes: `10.0.0.1/32 pref 100`},
	{name: "ready is ready, also if it terminates", services: []string{"shop/web 10.0.0.1 Local | a:published"}, routes: `10.0.0.1/32 pref 100`},
	{name: "ready in one slice and not in another", services: []string{"shop/web 10.0.0.1 Local | a:unready | a:ready | a:over"}, routes: `10.0.0.1/32 pref 100`},
	{name: "ready elsewhere in another slice", services: []string{"shop/web 10.0.0.1 Local | a:last | b:ready"},
		withheld: `shop/web 10.0.0.1: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "only the other IP version's pods are ready", services: []string{"shop/web 10.0.0.1 | v6 a:ready | a:unready"},
		withheld: `shop/web 10.0.0.1: no IPv4 endpoint of the Service can serve, on any node, though its others can: do its pods have IPv4 addresses?`},
	{name: "the other IP version's ready pods do not keep the last one from announcing", services: []string{"shop/web 10.0.0.1 Local | a:last | v6 b:ready"}, routes: `10.0.0.1/32 pref 100`},

	// The node.
	{name: "the node's network is down", node: "a network-unavailable", services: []string{"shop/web 10.0.0.1 Local | a:ready"},
		withheld: `shop/web 10.0.0.1: node a is NetworkUnavailable`},
	{name: "the node's network is up", node: "a network-available", services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "nobody knows about the node's network", node: "a network-unknown", services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "the node is excluded", node: "a node.kubernetes.io/exclude-from-external-load-balancers=true", services: []string{"shop/web 10.0.0.1 | a:ready"},
		withheld: `shop/web 10.0.0.1: node a is labelled node.kubernetes.io/exclude-from-external-load-balancers`},
	{name: "the node is excluded by an empty label", node: "a node.kubernetes.io/exclude-from-external-load-balancers=", services: []string{"shop/web 10.0.0.1 | a:ready"},
		withheld: `shop/web 10.0.0.1: node a is labelled node.kubernetes.io/exclude-from-external-load-balancers`},
	{name: "the node is excluded in odd words", node: "a node.kubernetes.io/exclude-from-external-load-balancers=nope", services: []string{"shop/web 10.0.0.1 | a:ready"},
		withheld: `shop/web 10.0.0.1: node a is labelled node.kubernetes.io/exclude-from-external-load-balancers`},
	{name: "the label says that it is not", node: "a node.kubernetes.io/exclude-from-external-load-balancers=false", services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "cordon, NotReady and taints are no reasons", node: "a cordoned not-ready tainted deleted", services: []string{"shop/web 10.0.0.1 Local | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "a role is no reason", node: "a node-role.kubernetes.io/control-plane= node-role.kubernetes.io/master=", services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.1/32 pref 100`},

	// The Service.
	{name: "a Service that is being deleted", services: []string{"shop/web 10.0.0.1 deleted | a:ready"},
		withheld: `shop/web 10.0.0.1: the Service is being deleted`},
	{name: "a Service of our class", services: []string{"shop/web 10.0.0.1 class=metallb.universe.tf/metallb | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "another's Service is not even withheld", services: []string{"shop/web 10.0.0.1 class=example.com/lb | a:ready"}},
	{name: "an internal Service", services: []string{"shop/web 10.0.0.1 type=ClusterIP | a:ready"}},
	{name: "a Service without an address", services: []string{"shop/web | a:ready"}},
	{name: "a Service with a name instead of an address", services: []string{"shop/web host=lb.example.com | a:ready"}},
	{name: "an address of no pool", services: []string{"shop/web 192.0.2.1 | a:ready"},
		withheld: `shop/web 192.0.2.1: the address belongs to no pool of the admitted configuration`},
	{name: "an IPv6 address", config: "address-pools:\n- {name: default, cidr: [10.0.0.0/24, '2001:db8::/64']}\n", services: []string{"shop/web 10.0.0.1 2001:db8::1 | a:ready | v6 a:ready"},
		routes: `
			10.0.0.1/32 pref 100
			2001:db8::1/128 pref 100`},
	{name: "one IP version of it has no pod", config: "address-pools:\n- {name: default, cidr: [10.0.0.0/24, '2001:db8::/64'], advertisements: [{aggregation-length-v6: 64}]}\n",
		services: []string{"shop/web 10.0.0.1 2001:db8::1 | v6 a:ready"},
		routes:   `2001:db8::/64 pref 100`, withheld: "shop/web 10.0.0.1: no IPv4 endpoint of the Service can serve, on any node, though its others can: do its pods have IPv4 addresses?"},
	{name: "the Service is asked before the pool", services: []string{"shop/web 192.0.2.1 | a:unready"},
		withheld: `shop/web 192.0.2.1: no endpoint of the Service can serve, on any node`},
	{name: "each address counts for itself", services: []string{"shop/web 10.0.0.1 192.0.2.1 ::ffff:10.0.0.2 | a:ready"},
		routes: `
			10.0.0.1/32 pref 100
			10.0.0.2/32 pref 100`,
		withheld: `shop/web 192.0.2.1: the address belongs to no pool of the admitted configuration`},
	{name: "a shared address while one of the sharers can serve", services: []string{"shop/web 10.0.0.1 | a:unready", "shop/mail 10.0.0.1 | a:ready"},
		routes: `10.0.0.1/32 pref 100`, withheld: `shop/web 10.0.0.1: no endpoint of the Service can serve, on any node`},

	// The configuration.
	{name: "no advertisement selects the node", config: byLabel, node: "a zone=north", services: []string{"shop/web 10.0.0.1 | a:ready"},
		withheld: `shop/web 10.0.0.1: no advertisement of pool "default" selects node a`},
	{name: "one does", config: byLabel, node: "a zone=west", services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "another does", config: byLabel, node: "a spare=", services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.0/24 pref 50`},
	{name: "both do", config: byLabel, node: "a zone=east spare=", services: []string{"shop/web 10.0.0.1 | a:ready"},
		routes: `
			10.0.0.0/24 pref 50
			10.0.0.1/32 pref 100`},
	{name: "an aggregate stays while any Service under it is announced", config: aggregated,
		services: []string{"dev/one 192.168.144.1 | a:unready", "dev/two 192.168.144.2 | a:ready", "dev/three 192.168.144.3 | a:ready", "dev/four 192.168.145.1 | b:ready", "shop/web 42.176.25.65 | a:ready"},
		routes: `
			42.176.25.65/32 pref 100
			192.168.144.0/24 pref 100 [1234:1]
			192.168.144.2/32 pref 200 prepend 2
			192.168.144.3/32 pref 200 prepend 2
			192.168.145.0/24 pref 100 [1234:1]
			192.168.145.1/32 pref 200 prepend 2`,
		withheld: `dev/one 192.168.144.1: no endpoint of the Service can serve, on any node`},
	{name: "an aggregate goes with the last", config: aggregated, services: []string{"dev/one 192.168.144.1 Local | b:ready", "dev/two 192.168.144.2 | a:unready"},
		withheld: `
			dev/one 192.168.144.1: externalTrafficPolicy is Local, and no endpoint on node a is ready
			dev/two 192.168.144.2: no endpoint of the Service can serve, on any node`},
	{name: "two pools agree about an aggregate", config: fmt.Sprintf(twoPools, "", "1", ""), services: []string{"shop/web 10.1.1.1 | a:ready", "shop/api 10.1.1.200 | a:ready"},
		routes: `10.1.1.0/24 pref 100 [64512:1]`},
	{name: "two pools contradict each other", config: fmt.Sprintf(twoPools, "", "2", ""), services: []string{"shop/web 10.1.1.1 | a:ready", "shop/api 10.1.1.200 | a:ready"},
		routes:   `10.1.1.0/24 pref 100 [64512:2]`,
		withheld: `shop/web 10.1.1.1: another Service's address announces 10.1.1.0/24 as well, with other attributes: give the two pools the same`},
	{name: "two pools tell one peer each", config: fmt.Sprintf(twoPools, "peers: [spine]", "2", "peers: [leaf]"), services: []string{"shop/web 10.1.1.1 | a:ready", "shop/api 10.1.1.200 | a:ready"},
		routes: `
			10.1.1.0/24 pref 100 [64512:2] to leaf
			10.1.1.0/24 pref 100 [64512:1] to spine`},
	{name: "two pools contradict each other towards one peer", config: fmt.Sprintf(twoPools, "peers: [spine, leaf]", "2", "peers: [leaf]"), services: []string{"shop/web 10.1.1.1 | a:ready", "shop/api 10.1.1.200 | a:ready"},
		routes:   `10.1.1.0/24 pref 100 [64512:2] to leaf`,
		withheld: `shop/web 10.1.1.1: another Service's address announces 10.1.1.0/24 as well, with other attributes: give the two pools the same`},
	{name: "one pool tells all peers, and contradicts", config: fmt.Sprintf(twoPools, "", "2", "peers: [leaf]"), services: []string{"shop/web 10.1.1.1 | a:ready", "shop/api 10.1.1.200 | a:ready"},
		routes:   `10.1.1.0/24 pref 100 [64512:2] to leaf`,
		withheld: `shop/web 10.1.1.1: another Service's address announces 10.1.1.0/24 as well, with other attributes: give the two pools the same`},
	{name: "without the other Service there is no contradiction", config: fmt.Sprintf(twoPools, "", "2", ""), services: []string{"shop/web 10.1.1.1 | a:ready", "shop/api 10.1.1.200 | a:unready"},
		routes: `10.1.1.0/24 pref 100 [64512:1]`, withheld: `shop/api 10.1.1.200: no endpoint of the Service can serve, on any node`},
	{name: "a configuration without pools", config: "peers: []", services: []string{"shop/web 10.0.0.1 | a:ready"},
		withheld: `shop/web 10.0.0.1: the address belongs to no pool of the admitted configuration`},
	{name: "nothing at all"},

	// Labels choose advertisements, of several the first for each peer.
	{name: "no label: the advertisement for all", config: byService, services: []string{"shop/web 10.0.0.1 | a:ready"}, routes: `10.0.0.0/31 pref 100`},
	{name: "a label: the first that selects it", config: byService, services: []string{"shop/web 10.0.0.1 tier=silver | a:ready"}, routes: `10.0.0.0/31 pref 200`},
	{name: "the first is for some peers: the next counts for the others", config: byService, services: []string{"shop/web 10.0.0.1 tier=gold | a:ready"}, routes: `
		10.0.0.0/31 pref 200 to leaf
		10.0.0.0/31 pref 300 [64512:1] to spine`},
	{name: "two that ask alike", config: byService, services: []string{"shop/web 10.0.0.0 tier=silver adds=paid | a:ready", "shop/api 10.0.0.1 tier=silver adds=paid | a:ready"}, routes: `10.0.0.0/31 pref 200 [64512:2]`},
	{name: "two that do not: the first in the text that is for one of them, and no communities of theirs", config: byService,
		services: []string{"shop/web 10.0.0.0 tier=silver adds=paid | a:ready", "shop/api 10.0.0.1 adds=paid | a:ready"}, routes: `10.0.0.0/31 pref 200`},
	{name: "one of them announced on another node only: all nodes decide alike", config: byService,
		services: []string{"shop/web 10.0.0.0 tier=silver Local | b:ready", "shop/api 10.0.0.1 adds=paid | a:ready"}, routes: `10.0.0.0/31 pref 200`,
		withheld: `shop/web 10.0.0.0: externalTrafficPolicy is Local, and no endpoint on node a is ready`},
	{name: "one of them that nothing serves has no say", config: byService,
		services: []string{"shop/web 10.0.0.0 tier=silver | b:unready", "shop/api 10.0.0.1 adds=paid | a:ready"}, routes: `10.0.0.0/31 pref 100 [64512:2]`,
		withheld: `shop/web 10.0.0.0: no endpoint of the Service can serve, on any node`},
	{name: "one of them that is not to be announced has no say", config: byService,
		services: []string{"shop/web 10.0.0.0 tier=silver advertise=false | b:ready", "shop/api 10.0.0.1 | a:ready"}, routes: `10.0.0.0/31 pref 100`,
		withheld: `shop/web 10.0.0.0: annotation metallb.io/advertise of the Service is false`},
	{name: "neighbors under another prefix have no say", config: byService,
		services: []string{"shop/web 10.0.0.0 tier=silver | a:ready", "shop/api 10.0.0.2 adds=paid | a:ready"}, routes: `
		10.0.0.0/31 pref 200
		10.0.0.2/31 pref 100 [64512:2]`},
	{name: "a shared address: both must ask", config: byService,
		services: []string{"shop/web 10.0.0.1 adds=paid | a:ready", "shop/api 10.0.0.1 adds=far | a:ready"}, routes: `10.0.0.0/31 pref 100`},
	{name: "no advertisement is for it", config: byService, services: []string{"shop/web 10.2.0.1 tier=silver | a:ready"},
		withheld: `shop/web 10.2.0.1: no advertisement of pool "gold-only" is for the Service: their service-selectors do not select its labels`},

	// What a Service adds, and what it withholds.
	{name: "communities in any order", config: byService, services: []string{"shop/web 10.0.0.1 adds=no-export,paid,,far,paid | a:ready"}, routes: `10.0.0.0/31 pref 100 [64512:2 65535:65281 large:64512:0:3]`},
	{name: "one that is not allowed: the others are sent", config: byService, services: []string{"shop/web 10.0.0.1 adds=vip,paid | a:ready"}, routes: `10.0.0.0/31 pref 100 [64512:2]`},
	{name: "a pool that allows none", services: []string{"shop/web 10.0.0.1 adds=no-export | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "advertise: false", services: []string{"shop/web 10.0.0.1 advertise=false | a:ready"},
		withheld: `shop/web 10.0.0.1: annotation metallb.io/advertise of the Service is false`},
	{name: "advertise: true", services: []string{"shop/web 10.0.0.1 advertise=true | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "advertise: who knows", services: []string{"shop/web 10.0.0.1 advertise=never | a:ready"}, routes: `10.0.0.1/32 pref 100`},
	{name: "a pool that others announce", config: byService, services: []string{"shop/web 10.1.0.1 | a:ready"},
		withheld: `shop/web 10.1.0.1: pool "elsewhere" says advertise: false: others announce its addresses`},
}

func TestTheRules(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			config, on := parse(t, cmp.Or(r.config, onePool)), node(t, cmp.Or(r.node, "a"))
			var services []Service
			var before []runtime.Object
			for _, short := range r.services {
				services = append(services, svc(t, short))
			}
			for _, s := range services {
				before = append(before, s.Service.DeepCopy())
			}
			for range 10 {
				routes, withheld := Announcements(config, service.Ours{}, on, nil, services)
				same(t, "announced", notation(routes), lines(r.routes))
				var got []string
				for _, w := range withheld {
					got = append(got, fmt.Sprintf("%s %s: %s", w.Service, w.Addr, w.Why))
				}
				same(t, "withheld", got, lines(r.withheld))
				if t.Failed() {
					break
				}
				for i := range services {
					if !reflect.DeepEqual(services[i].Service, before[i]) {
						t.Fatal("a Service changed, or the order of the list")
					}
				}
				rand.Shuffle(len(services), func(i, j int) {
					services[i], services[j] = services[j], services[i]
					before[i], before[j] = before[j], before[i]
				})
			}
		})
	}
}

// tenThousand are Services with three endpoints in one slice each, one in three of them Local.
func tenThousand(b *testing.B) []Service {
	var services []Service
	for i := range 10_000 {
		policy := ""
		if i%3 == 0 {
			policy = "Local"
		}
		services = append(services, svc(b, fmt.Sprintf("shop/web-%05d 10.0.%d.%d %s | a:ready@a%[1]d b:ready@b%[1]d c:unready@c%[1]d", i, i/256, i%256, policy)))
	}
	rand.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
	return services
}

// An operation is what a node computes whenever something changes in a cluster with 10,000 Services.
func BenchmarkAnnouncements(b *testing.B) {
	config := parse(b, "address-pools: [{name: big, cidr: [10.0.0.0/16]}]")
	on, services := node(b, "a"), tenThousand(b)
	b.ReportAllocs()
	for b.Loop() {
		if routes, withheld := Announcements(config, service.Ours{}, on, nil, services); len(routes) != 10_000 || withheld != nil {
			b.Fatal(len(routes), len(withheld))
		}
	}
}

// The same where a node has none of the endpoints of most Services, and one aggregate covers the others.
func BenchmarkAnnouncementsOfAnAggregate(b *testing.B) {
	config := parse(b, "address-pools: [{name: big, cidr: [10.0.0.0/16], advertisements: [{aggregation-length: 16}]}]")
	on, services := node(b, "d"), tenThousand(b)
	b.ReportAllocs()
	for b.Loop() {
		if routes, withheld := Announcements(config, service.Ours{}, on, nil, services); len(routes) != 1 || len(withheld) != 3334 {
			b.Fatal(len(routes), len(withheld))
		}
	}
}
