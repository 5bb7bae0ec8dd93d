package speaker

import (
	"fmt"
	"testing"
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
		{name: "a node of rack 3 with several addresses", node: "a rack=3 external=198.51.100.1 internal=fd00::1 internal=10.0.0.3 internal=10.0.0.4",
			peers: `
				everybody from  as 10.0.0.3
				rack-2-or-3 from  as 10.0.0.3
				own-source from 10.0.0.3 as 10.0.0.3
				fixed from 192.0.2.5 as 192.0.2.7`},
		{name: "a node with IPv6 only", node: "node-six internal=fd00::1",
			peers: `
				everybody from  as 171.211.57.39
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
				peers, problems := Peers(parsed, node(t, test.node), nil)
				var got []string
				for _, p := range peers {
					got = append(got, fmt.Sprintf("%s from %s as %s", p.Name, shown(p.SourceAddress), shown(p.RouterID)))
				}
				same(t, "peers", got, lines(test.peers))
				same(t, "problems", problems, lines(test.problems))
			}
			for _, p := range parsed.Peers {
				if p.Name != "fixed" && (p.RouterID.IsValid() || p.SourceAddress.IsValid()) {
					t.Errorf("the configuration now says that %s is spoken to from %s as %s", p.Name, shown(p.SourceAddress), shown(p.RouterID))
				}
			}
		})
	}
}

func TestRouterIDsWithoutAnIPv4AddressDifferAndAreNeverZero(t *testing.T) {
	seen := map[string]string{}
	for i := range 1000 {
		name := fmt.Sprintf("node-%d", i)
		id := routerID(node(t, name))
		if !id.Is4() || id.IsUnspecified() {
			t.Fatalf("%s is %s", name, id)
		}
		if other := seen[id.String()]; other != "" {
			t.Fatalf("%s and %s are both %s", name, other, id)
		}
		seen[id.String()] = name
	}
}
