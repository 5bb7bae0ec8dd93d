package speaker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func TestANodeSpeaksToThePeersThatSelectIt(t *testing.T) {
	const config = `
peers:
- {name: everybody, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}
- {name: rack-1, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, node-selectors: [{match-labels: {rack: '1'}}]}
- {name: rack-2-or-3, peer-address: 10.9.0.3, peer-asn: 64500, my-asn: 64512, node-selectors: [{match-labels: {rack: '2'}}, {match-labels: {rack: '3'}}]}
- {name: own-source, peer-address: 10.9.0.4, peer-asn: 64500, my-asn: 64512, source-address: node-ip}
- {name: fixed, peer-address: 10.9.0.5, peer-asn: 64500, my-asn: 64512, source-address: 192.0.2.5, router-id: 192.0.2.7}
`
	tests := []struct {
		name, node      string
		peers, problems string
	}{
		{name: "a node of rack 1", node: "a rack=1 internal=10.0.0.1",
			peers: `
				everybody from  as 10.0.0.1
				rack-1 from  as 10.0.0.1
				own-source from 10.0.0.1 as 10.0.0.1
				fixed from 192.0.2.5 as 192.0.2.7`},
		{name: "a node of rack 3 with several addresses", node: "a rack=3 external=198.51.100.1 internal=fd00::1 internal=10.0.0.30 internal=10.0.0.4",
			peers: `
				everybody from  as 10.0.0.4
				rack-2-or-3 from  as 10.0.0.4
				own-source from 10.0.0.30 as 10.0.0.4
				fixed from 192.0.2.5 as 192.0.2.7`},
		{name: "a node with IPv6 only", node: "node-six internal=fd00::1",
			peers: `
				everybody from  as 45.211.57.39
				fixed from 192.0.2.5 as 192.0.2.7`,
			problems: `peer own-source: source-address is node-ip, and node node-six has no InternalIP of the peer's IP version`},
		{name: "a node whose kubelet did not say its addresses yet", node: "b internal=pending external=198.51.100.1",
			peers: `
				everybody from  as 63.35.232.22
				fixed from 192.0.2.5 as 192.0.2.7`,
			problems: `peer own-source: source-address is node-ip, and node b has no InternalIP of the peer's IP version`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			parsed := parse(t, config)
			for range 2 { // what was filled in for one node must not stay for the next
				peers, _, problems := Peers(parsed, node(t, test.node), nil, nil)
				var got []string
				for _, p := range peers {
					got = append(got, fmt.Sprintf("%s from %s as %s", p.Name, written(p.SourceAddress), written(p.RouterID)))
				}
				same(t, "peers", got, lines(test.peers))
				same(t, "problems", problems, lines(test.problems))
			}
			for _, p := range parsed.Peers {
				if p.Name != "fixed" && (p.RouterID.IsValid() || p.SourceAddress.IsValid()) {
					t.Errorf("the configuration now says that %s is spoken to from %s as %s", p.Name, written(p.SourceAddress), written(p.RouterID))
				}
			}
		})
	}
}

// Where the text says node, an annotation of the Node does; what is missing or wrong there concerns that peer alone.
func TestANodeSaysItsOwnASNumberAndRouterID(t *testing.T) {
	const config = `
peers:
- {name: tor, peer-address: 10.9.0.1, peer-asn: external, my-asn: node, router-id: node}
- {name: spine, peer-address: 10.9.0.2, peer-asn: internal, my-asn: 64512}
`
	const spine = "spine of internal as 64512 10.0.0.1"
	tests := []struct{ then, node, peers, problems string }{
		{then: "no annotation: the other peer is spoken to", node: "a internal=10.0.0.1", peers: spine,
			problems: `peer tor: my-asn is node, and node a has no annotation metallb.io/my-asn: write its AS number there`},
		{then: "one of two", node: "a internal=10.0.0.1 @metallb.io/my-asn=65001", peers: spine,
			problems: `peer tor: router-id is node, and node a has no annotation metallb.io/router-id: write an IPv4 address there`},
		{then: "a fruit", node: "a internal=10.0.0.1 @metallb.io/my-asn=banana", peers: spine,
			problems: `peer tor: annotation metallb.io/my-asn of node a: "banana" is not an AS number: write one from 1 to 4294967295`},
		{then: "AS 0", node: "a internal=10.0.0.1 @metallb.io/my-asn=0", peers: spine,
			problems: `peer tor: annotation metallb.io/my-asn of node a: "0" is not an AS number: write one from 1 to 4294967295`},
		{then: "a router ID of IPv6", node: "a internal=10.0.0.1 @metallb.io/my-asn=65001 @metallb.io/router-id=::1", peers: spine,
			problems: `peer tor: annotation metallb.io/router-id of node a: "::1" is not a router ID: write an IPv4 address other than 0.0.0.0`},
		{then: "both prefixes, two numbers", node: "a internal=10.0.0.1 @metallb.io/my-asn=65001 @metallb.universe.tf/my-asn=65002", peers: spine,
			problems: `peer tor: node a: annotations metallb.io/my-asn and metallb.universe.tf/my-asn differ: remove one of the two`},
		{then: "all is well", node: "a internal=10.0.0.1 @metallb.io/my-asn=4200000001 @metallb.universe.tf/router-id=10.1.1.1", peers: `
			tor of external as 4200000001 10.1.1.1
			` + spine},
		{then: "an annotation goes: the session goes on as it was", node: "a internal=10.0.0.1 @metallb.universe.tf/router-id=10.1.1.1", peers: `
			tor of external as 4200000001 10.1.1.1
			` + spine, problems: `peer tor: my-asn is node, and node a has no annotation metallb.io/my-asn: write its AS number there; its session goes on as it was`},
		{then: "another number", node: "a internal=10.0.0.1 @metallb.io/my-asn=4200000002 @metallb.universe.tf/router-id=10.1.1.1", peers: `
			tor of external as 4200000002 10.1.1.1
			` + spine},
	}
	var before []loadbalancer.Peer
	for _, test := range tests {
		peers, _, problems := Peers(parse(t, config), node(t, test.node), nil, before)
		var got []string
		for i, p := range peers {
			got = append(got, fmt.Sprintf("%s of %s as %d %s", p.Name, p.AS(), p.MyASN, written(p.RouterID)))
			if was := slices.IndexFunc(before, p.SameNeighbor); was >= 0 && p.SameSession(before[was]) != (p.MyASN == before[was].MyASN) {
				t.Errorf("%s: a new connection to %s is not for a new number", test.then, peers[i].Name)
			}
		}
		same(t, test.then+": peers", got, lines(test.peers))
		same(t, test.then+": problems", problems, lines(test.problems))
		before = peers
	}
}

func TestRouterIDsWithoutAnIPv4AddressDifferAndLookLikeHosts(t *testing.T) {
	seen := map[string]string{}
	for i := range 1000 {
		name := fmt.Sprintf("node-%d", i)
		id := routerID(node(t, name))
		if first := id.As4()[0]; first < 1 || first > 126 {
			t.Fatalf("%s is %s", name, id)
		}
		if other := seen[id.String()]; other != "" {
			t.Fatalf("%s and %s are both %s", name, other, id)
		}
		seen[id.String()] = name
	}
}

func TestTheRouterIDDoesNotDependOnTheOrderOfAddresses(t *testing.T) {
	for _, order := range []string{"internal=10.0.0.9 internal=10.0.0.10", "internal=10.0.0.10 internal=fd00::1 internal=10.0.0.9"} {
		if got := routerID(node(t, "a "+order)).String(); got != "10.0.0.9" {
			t.Errorf("%s: %s", order, got)
		}
	}
}

func TestOfTwoPeersThatAreOneRouterForANodeTheFirstCounts(t *testing.T) {
	const config = `
peers:
- {name: rack, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512, node-selectors: [{match-labels: {rack: '1'}}]}
- {name: everybody, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64513}
- {name: other-port, peer-address: 10.9.0.1, peer-port: 1790, peer-asn: 64500, my-asn: 64513}
- {name: left, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: 10.0.0.7}
- {name: right, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: 10.0.0.8}
- {name: secret, peer-address: 10.9.0.3, peer-asn: 64500, my-asn: 64512, password-key: tor}
- {name: open, peer-address: 10.9.0.3, peer-asn: 64500, my-asn: 64512}
`
	for _, c := range []struct{ node, peers, problems string }{
		{"a rack=1", "rack other-port left right", `
			peer everybody: for node a it is the same router as peer rack, which counts: keep one, or give them node-selectors that select different nodes
			peer open: for node a it is the same router as peer secret, which counts: keep one, or give them node-selectors that select different nodes`},
		{"b", "everybody other-port left right", `
			peer open: for node b it is the same router as peer secret, which counts: keep one, or give them node-selectors that select different nodes`},
	} {
		peers, _, problems := Peers(parse(t, config), node(t, c.node), nil, nil)
		var got []string
		for _, p := range peers {
			got = append(got, p.Name)
		}
		same(t, c.node, got, strings.Fields(c.peers))
		same(t, c.node, problems, lines(c.problems))
	}
}
