package loadbalancer

import (
	"net/netip"
	"testing"
)

func TestRoutesSayWhatRoutersShouldHear(t *testing.T) {
	config := parse(t, `
peers:
- {name: tor-a, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
- {name: tor-b, peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42}
- {name: spine, peer-address: 10.0.0.3, peer-asn: 42, my-asn: 42}
communities:
  vpn-only: 1234:1
address-pools:
- name: plain
  cidr: [42.176.25.64/30]
- name: aggregated
  cidr: [192.168.144.0/20]
  advertisements:
  - aggregation-length: 24
    localpref: 0
    communities: [vpn-only, no-export, 'large:64500:2:1']
- name: twice
  cidr: [10.1.0.0/16]
  advertisements:
  - {localpref: 200, as-path-prepend: 2}
  - {aggregation-length: 16}
- name: duplicates
  cidr: [10.2.0.0/16]
  advertisements:
  - {communities: [vpn-only, no-export]}
  - {communities: [no-export, '1234:1', no-export]}
- name: peers
  cidr: [10.3.0.0/16]
  advertisements:
  - {peers: [tor-b, tor-a, tor-b]}
  - {peers: [spine], localpref: 300}
- name: racks
  cidr: [10.4.0.0/16]
  advertisements:
  - node-selectors: [{match-labels: {rack: one}}]
    localpref: 200
  - node-selectors: [{match-labels: {rack: two}}]
    localpref: 50
- name: everything
  cidr: [0.0.0.0/5]
  advertisements: [{aggregation-length: 5}]
`)
	tests := []struct{ name, addr, rack, want string }{
		{name: "without advertisements, one route an address", addr: "42.176.25.65", want: `
			42.176.25.65/32 pref 100`},
		{name: "an aggregate", addr: "192.168.150.7", want: `
			192.168.150.0/24 pref 0 [1234:1 65535:65281 large:64500:2:1]`},
		{name: "the same aggregate for its neighbour", addr: "192.168.150.255", want: `
			192.168.150.0/24 pref 0 [1234:1 65535:65281 large:64500:2:1]`},
		{name: "two routes", addr: "10.1.2.3", want: `
			10.1.2.3/32 pref 200 prepend 2
			10.1.0.0/16 pref 100`},
		{name: "two that say the same are one", addr: "10.2.0.9", want: `
			10.2.0.9/32 pref 100 [1234:1 65535:65281]`},
		{name: "each peer its own", addr: "10.3.0.9", want: `
			10.3.0.9/32 pref 100 to tor-a,tor-b
			10.3.0.9/32 pref 300 to spine`},
		{name: "rack one", addr: "10.4.0.9", rack: "one", want: `
			10.4.0.9/32 pref 200`},
		{name: "rack two", addr: "10.4.0.9", rack: "two", want: `
			10.4.0.9/32 pref 50`},
		{name: "rack three announces nothing", addr: "10.4.0.9", rack: "three"},
		{name: "an aggregate of everything the pool has", addr: "7.7.7.7", want: `
			0.0.0.0/5 pref 100`},
		{name: "an address no pool owns", addr: "172.16.0.1"},
		{name: "the address after a pool's last", addr: "42.176.25.68"},
		{name: "the address before a pool's first", addr: "42.176.25.63"},
		{name: "an address of the other family", addr: "2001:db8::1"},
	}
	for _, test := range tests {
		routes := config.Routes(netip.MustParseAddr(test.addr), map[string]string{"rack": test.rack})
		if got, want := notation(routes), trimmed(test.want); got != want {
			t.Errorf("%s:\n%s\nwant:\n%s", test.name, got, want)
		}
	}

	routes := config.Routes(netip.MustParseAddr("10.3.0.9"), nil)
	for peer, want := range map[string][2]bool{"tor-a": {true, false}, "tor-b": {true, false}, "spine": {false, true}} {
		if got := [2]bool{routes[0].For(peer), routes[1].For(peer)}; got != want {
			t.Errorf("%s hears %v, want %v", peer, got, want)
		}
	}
	if everybody := config.Routes(netip.MustParseAddr("42.176.25.65"), nil)[0]; !everybody.For("tor-a") {
		t.Error("a route without names is for every peer")
	}
}

func TestAPoolIsFoundByItsAddresses(t *testing.T) {
	config := parse(t, `
address-pools:
- name: b
  cidr: [10.0.2.0/24, 10.0.0.0/24]
- name: a
  cidr: [10.0.1.0/25, 10.0.1.200-10.0.1.255]
`)
	for addr, want := range map[string]string{
		"9.255.255.255": "",
		"10.0.0.0":      "b",
		"10.0.0.255":    "b",
		"10.0.1.0":      "a",
		"10.0.1.127":    "a",
		"10.0.1.128":    "",
		"10.0.1.199":    "",
		"10.0.1.200":    "a",
		"10.0.1.255":    "a",
		"10.0.2.0":      "b",
		"10.0.2.255":    "b",
		"10.0.3.0":      "",
		"::":            "",
	} {
		got := ""
		if pool := config.Pool(netip.MustParseAddr(addr)); pool != nil {
			got = pool.Name
		}
		if got != want {
			t.Errorf("%s belongs to pool %q, want %q", addr, got, want)
		}
	}
}
