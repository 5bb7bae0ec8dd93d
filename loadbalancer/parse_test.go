package loadbalancer

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"
)

func TestTheBasicConfigurationParsesAsPrinted(t *testing.T) {
	var configMap struct {
		Data map[string]string `yaml:"data"`
	}
	if err := yaml.Unmarshal(sample(t, "admitted/v0.1/basic.yaml"), &configMap); err != nil {
		t.Fatal(err)
	}
	config := parse(t, configMap.Data["config"])

	want := &Config{
		Peers: []Peer{{
			Name:          "10.0.0.1",
			Addr:          netip.MustParseAddr("10.0.0.1"),
			Port:          179,
			ASN:           100,
			MyASN:         42,
			HoldTime:      90 * time.Second,
			KeepaliveTime: 30 * time.Second,
			ConnectTime:   15 * time.Second,
			RestartTime:   120 * time.Second,
		}},
		Pools: []Pool{{
			Name:           "default",
			Ranges:         spans("192.168.10.0-192.168.10.255"),
			AutoAssign:     true,
			Advertisements: []Advertisement{{AggregationLengths: [2]int{32, 128}, Route: Route{LocalPref: 100}}},
		}},
	}
	equal(t, config, owned(want))
}

func TestTheEcommerceConfigurationParsesAsPrinted(t *testing.T) {
	config := parse(t, string(sample(t, "admitted/v0.1/ecommerce.yaml")))

	want := &Config{
		Pools: []Pool{{
			Name:           "production",
			Ranges:         spans("42.176.25.64-42.176.25.67"),
			AutoAssign:     true,
			Advertisements: []Advertisement{{AggregationLengths: [2]int{32, 128}, Route: Route{LocalPref: 100}}},
		}, {
			Name:       "sandbox",
			Ranges:     spans("192.168.144.0-192.168.159.255"),
			AutoAssign: true,
			Advertisements: []Advertisement{{
				AggregationLengths: [2]int{32, 128},
				Route:              Route{LocalPref: 100, Communities: []Community{1234<<16 | 1}},
			}},
		}},
	}
	equal(t, config, owned(want))
}

func TestOldAndNewNamesOfKeysAreSynonyms(t *testing.T) {
	written := `
communities: {vpn: "1234:1"}
address-pools:
- name: a
  cidr: [10.1.0.0/16]
  advertisements:
  - communities: [vpn]
`
	renamed := strings.NewReplacer("communities: {", "bgp-communities: {", "cidr:", "addresses:", "  advertisements:", "  bgp-advertisements:").Replace(written)
	equal(t, parse(t, renamed), parse(t, written))
}

func TestEveryKeyOfAPeer(t *testing.T) {
	config := parse(t, `
peers:
- name: tor-a
  peer-address: " 10.0.0.1 "
  peer-asn: 4200000000
  my-asn: 42
  peer-port: 1179
  hold-time: 9
  keepalive-time: 2s
  connect-time: 1m
  router-id: 10.9.9.9
  source-address: 10.0.0.9
  ebgp-multihop: 3
  graceful-restart: {restart-time: 1m30s}
  node-selectors:
  - match-labels: {rack: one}
    match-expressions:
    - {key: gpu, operator: DoesNotExist}
  -
`)
	equal(t, config.Peers[0], Peer{
		Name:          "tor-a",
		Addr:          netip.MustParseAddr("10.0.0.1"),
		Port:          1179,
		ASN:           4200000000,
		MyASN:         42,
		HoldTime:      9 * time.Second,
		KeepaliveTime: 2 * time.Second,
		ConnectTime:   time.Minute,
		RouterID:      netip.MustParseAddr("10.9.9.9"),
		SourceAddress: netip.MustParseAddr("10.0.0.9"),
		TTL:           3,
		RestartTime:   90 * time.Second,
		NodeSelectors: []Selector{
			{{Key: "gpu", Operator: "DoesNotExist"}, {Key: "rack", Operator: "In", Values: []string{"one"}}},
			nil,
		},
	})
}

func TestEveryKeyOfAPool(t *testing.T) {
	config := parse(t, `
communities: {vpn: "1234:1"}
address-pools:
- name: web
  protocol: bgp
  cidr: ["2001:db8::/120", 10.1.0.0/24]
  auto-assign: false
  reservations:
  - {service: shop/web, addresses: [10.1.0.9, "2001:db8::9"]}
  - {service: blog/api-2, addresses: [10.1.0.10]}
  quotas: {default: 5, shop: 20}
  hold-down: 168h
  exclude: [10.1.0.7, 10.1.0.16/30, 10.1.0.19-10.1.0.21, "2001:db8::f"]
  avoid-buggy-ips: true
  namespaces: [shop, blog, shop]
  namespace-selectors: [{match-labels: {env: prod}}]
  service-selectors:
  - match-labels: {tier: front, example.com/public: }
    match-expressions:
    - {key: legacy, operator: DoesNotExist}
    - {key: team, operator: In, values: [b, a, b]}
  - match-labels: {tier: edge}
  priority: -3
  share-across-namespaces: true
  advertisements:
  - {aggregation-length: 24, aggregation-length-v6: 120, localpref: 7, communities: [vpn], as-path-prepend: 2}
`)
	equal(t, config.Pools[0], Pool{
		Name:               "web",
		Ranges:             spans("10.1.0.0-10.1.0.255", "2001:db8::-2001:db8::ff"),
		Exclude:            spans("10.1.0.7-10.1.0.7", "10.1.0.16-10.1.0.21", "2001:db8::f-2001:db8::f"),
		Reservations:       []Reservation{{"shop/web", addresses("10.1.0.9,2001:db8::9")}, {"blog/api-2", addresses("10.1.0.10")}},
		HoldDown:           168 * time.Hour,
		Quotas:             Quotas{5, map[string]int{"shop": 20}},
		AvoidBuggyIPs:      true,
		Priority:           -3,
		Namespaces:         []string{"blog", "shop"},
		NamespaceSelectors: []Selector{{{Key: "env", Operator: "In", Values: []string{"prod"}}}},
		ServiceSelectors: []Selector{
			{
				{Key: "example.com/public", Operator: "In", Values: []string{""}}, {Key: "legacy", Operator: "DoesNotExist"},
				{Key: "team", Operator: "In", Values: []string{"a", "b"}}, {Key: "tier", Operator: "In", Values: []string{"front"}},
			},
			{{Key: "tier", Operator: "In", Values: []string{"edge"}}},
		},
		ShareAcrossNamespaces: true,
		Advertisements:        []Advertisement{{AggregationLengths: [2]int{24, 120}, Route: Route{LocalPref: 7, Communities: []Community{1234<<16 | 1}, Prepend: 2}}},
	})
}

func TestAPoolServesTheNamespacesAndServicesThatItNames(t *testing.T) {
	type labels = map[string]string
	tests := []struct {
		lines     string
		namespace string
		service   labels
		want      bool
	}{
		{"", "shop", nil, true},
		{"namespaces: [shop, blog]", "shop", nil, true},
		{"namespaces: [shop, blog]", "blog", nil, true},
		{"namespaces: [shop, blog]", "wiki", nil, false},
		{"namespaces: [shop]", "", nil, false},
		{"service-selectors: [{match-labels: {tier: front}}]", "shop", labels{"tier": "front"}, true},
		{"service-selectors: [{match-labels: {tier: front}}]", "shop", nil, false},
		{"service-selectors: [{match-labels: {tier: front}}, {match-labels: {tier: edge}}]", "shop", labels{"tier": "edge"}, true},
		{"service-selectors: [{match-labels: {tier: front}}, {}]", "shop", nil, true},
		{"namespaces: [shop]\n  service-selectors: [{match-labels: {tier: front}}]", "shop", labels{"tier": "front"}, true},
		{"namespaces: [shop]\n  service-selectors: [{match-labels: {tier: front}}]", "blog", labels{"tier": "front"}, false},
		{"namespaces: [shop]\n  service-selectors: [{match-labels: {tier: front}}]", "shop", labels{"tier": "back"}, false}, // both must hold
	}
	for _, test := range tests {
		p := parse(t, pool(test.lines)).Pools[0]
		if got := p.Serves(test.namespace, nil, test.service); got != test.want {
			t.Errorf("%s serves %v in %q: %v, want %v", test.lines, test.service, test.namespace, got, test.want)
		}
	}
}

func TestPoolsOfBothIPVersions(t *testing.T) {
	config, warnings, err := Parse([]byte(`
address-pools:
- name: four
  cidr: [10.0.0.0/24]
- name: both
  cidr: [10.0.1.0/24, "2001:db8:1::/64"]
- name: six
  cidr: ["2001:db8::/64", "2001:db8:2::5-2001:db8:2::9"]
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Errorf("warned of %v", warnings)
	}
	equal(t, config.Pools[2].Ranges, spans("2001:db8::-2001:db8:0:0:ffff:ffff:ffff:ffff", "2001:db8:2::5-2001:db8:2::9"))
	for addr, want := range map[string]string{"10.0.1.7": "both", "2001:db8:1::7": "both", "2001:db8::7": "six", "2001:db8:2::7": "six", "2001:db8:2::a": ""} {
		got := ""
		if p := config.Pool(netip.MustParseAddr(addr)); p != nil {
			got = p.Name
		}
		if got != want {
			t.Errorf("%s belongs to pool %q, want %q", addr, got, want)
		}
	}
}

func TestWarningsPastTheFirstTwentyAreCounted(t *testing.T) {
	text := "peers:\n"
	for i := range 30 {
		text += fmt.Sprintf("- {peer-address: 10.0.0.%d, peer-asn: 100, my-asn: 42, password: x}\n", i)
	}
	_, warnings, err := Parse([]byte(text))
	if last := warnings[len(warnings)-1].Error(); err != nil || len(warnings) != 21 || last != "there are 10 more warnings" {
		t.Errorf("%d warnings, the last is %q, %v", len(warnings), last, err)
	}
}

// MetalLB's configurations have no names, and may have several sessions with one router.
func TestPeersOfOneAddressGetNamesOfTheirOwn(t *testing.T) {
	config := parse(t, `
peers:
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, node-selectors: [{match-labels: {rack: one}}]}
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 43, node-selectors: [{match-labels: {rack: two}}]}
- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, peer-port: 1179}
- {peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42}
- {name: 10.0.0.2, peer-address: 10.0.0.3, peer-asn: 100, my-asn: 42}
- {name: "10.0.0.1#2", peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, peer-port: 1180}
`)
	var names []string
	for _, p := range config.Peers {
		names = append(names, p.Name)
	}
	equal(t, names, []string{"10.0.0.1", "10.0.0.1#3", "10.0.0.1#4", "10.0.0.2#2", "10.0.0.2", "10.0.0.1#2"})
}

func TestPort0IsTheDefaultAsMetalLBReadIt(t *testing.T) {
	if port := parse(t, peer("peer-port: 0")).Peers[0].Port; port != 179 {
		t.Errorf("port %d", port)
	}
}

func TestSelectorsThatChooseNothingAreWarnedOf(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"an advertisement behind one for all", pool("advertisements:", "- localpref: 200", "- {service-selectors: [{match-labels: {tier: gold}}]}"),
			`line 6: address-pools[0].advertisements[1]: never counts: address-pools[0].advertisements[0] on line 5 stands before it, and sends the same prefixes of all Services to all peers: put this one first (column 5)`},
		{"an advertisement before one for all", pool("advertisements:", "- {service-selectors: [{match-labels: {tier: gold}}]}", "- localpref: 200"), ""},
		{"one for all, with other prefixes", pool("advertisements:", "- aggregation-length: 24", "- {service-selectors: [{match-labels: {tier: gold}}]}"), ""},
		{"one for all Services on some nodes", pool("advertisements:", "- {localpref: 200, node-selectors: [{match-labels: {rack: one}}]}", "- {service-selectors: [{match-labels: {tier: gold}}]}"), ""},
		{"conditions that contradict each other", pool("service-selectors:", "- {match-labels: {tier: gold}, match-expressions: [{key: tier, operator: DoesNotExist}]}"),
			`line 5: address-pools[0].service-selectors[0]: selects nothing: its conditions on one label contradict each other: correct one of them (column 5)`},
	}
	for _, test := range tests {
		_, warnings, err := Parse([]byte(test.text))
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got := warnings.Error(); len(warnings) == 0 && test.want != "" || len(warnings) > 0 && got != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
}

func TestASelectorThatSelectsNothingIsWarnedOf(t *testing.T) {
	_, warnings, err := Parse([]byte(pool("namespace-selectors:", "- match-labels: {env: prod}", "  match-expressions: [{key: env, operator: DoesNotExist}]")))
	equal(t, err, nil)
	equal(t, warnings.Error(), `line 5: address-pools[0].namespace-selectors[0]: selects nothing: its conditions on one label contradict each other: correct one of them (column 5)`)
}

func TestAPoolThatExcludesAllOfItselfIsWarnedOf(t *testing.T) {
	_, warnings, err := Parse([]byte(pool("exclude: [10.1.0.0/17, 10.1.128.0/17]")))
	equal(t, err, nil)
	equal(t, warnings.Error(), `line 4: address-pools[0].exclude: leaves nothing to hand out: take some addresses out of it, or remove the pool once nobody holds one of its addresses (column 12)`)
}

func TestHostBitsAreWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.168.100.200/28":  `line 4: address-pools[0].cidr[0]: "192.168.100.200/28" is the network from 192.168.100.192 to 192.168.100.207: 192.168.100.200 is only one of its addresses (column 5)`,
		"192.168.100.192/28":  "",
		"2001:db8:0::/64":     "",
		"2001:db8::1/64":      `line 4: address-pools[0].cidr[0]: "2001:db8::1/64" is the network from 2001:db8:: to 2001:db8::ffff:ffff:ffff:ffff: 2001:db8::1 is only one of its addresses (column 5)`,
		"10.0.0.1 - 10.0.0.7": "",
	} {
		_, warnings, err := Parse([]byte("address-pools:\n- name: a\n  cidr:\n  - " + text + "\n"))
		if err != nil || warnings.Error() != want {
			t.Errorf("%s: %v, warnings %q, want %q", text, err, warnings.Error(), want)
		}
	}
}

func TestValuesOfAPeerThatDependOnEachOther(t *testing.T) {
	tests := []struct {
		name, line string
		want       func(Peer) bool
	}{
		{"no hold-time, no keepalives", "hold-time: 0", func(p Peer) bool { return p.HoldTime == 0 && p.KeepaliveTime == 0 }},
		{"0s is 0", "hold-time: 0s", func(p Peer) bool { return p.HoldTime == 0 }},
		{"0 and 0 agree", "hold-time: 0\n  keepalive-time: 0", func(p Peer) bool { return p.HoldTime == 0 && p.KeepaliveTime == 0 }},
		{"keepalives are a third of the shortest hold-time", "hold-time: 3s", func(p Peer) bool { return p.KeepaliveTime == time.Second }},
		{"the longest hold-time", "hold-time: 65535", func(p Peer) bool { return p.HoldTime == 65535*time.Second }},
		{"keepalives as long as the hold-time", "keepalive-time: 90", func(p Peer) bool { return p.KeepaliveTime == 90*time.Second }},
		{"multihop", "ebgp-multihop: true", func(p Peer) bool { return p.TTL == 255 }},
		{"no multihop", "ebgp-multihop: false", func(p Peer) bool { return p.TTL == 1 }},
		{"multihop of null is as the system does", "ebgp-multihop:", func(p Peer) bool { return p.TTL == 0 }},
		{"iBGP is never limited to one hop", "ebgp-multihop: false\n  peer-asn: 42", func(p Peer) bool { return p.IBGP() && p.TTL == 0 }},
		{"no graceful restart", "graceful-restart: false", func(p Peer) bool { return p.RestartTime == 0 }},
		{"graceful restart", "graceful-restart: true", func(p Peer) bool { return p.RestartTime == 120*time.Second }},
		{"graceful restart of null", "graceful-restart: {restart-time: }", func(p Peer) bool { return p.RestartTime == 120*time.Second }},
		{"the longest restart-time", "graceful-restart: {restart-time: 4095}", func(p Peer) bool { return p.RestartTime == 4095*time.Second }},
		{"the node's own address", "source-address: node-ip", func(p Peer) bool { return p.SourceNodeIP && !p.SourceAddress.IsValid() }},
		{"a number for a name", "name: 7", func(p Peer) bool { return p.Name == "7" }},
		{"no selectors", "node-selectors: []", func(p Peer) bool { return p.NodeSelectors == nil }},
	}
	for _, test := range tests {
		text := peer(test.line)
		if strings.Contains(test.line, "peer-asn") {
			text = strings.Replace(text, "  peer-asn: 100\n", "", 1)
		}
		if p := parse(t, text).Peers[0]; !test.want(p) {
			t.Errorf("%s: %+v", test.name, p)
		}
	}
}

func TestAddressesAsOperatorsWriteThem(t *testing.T) {
	tests := []struct{ written, want string }{
		{"192.168.10.0/24", "192.168.10.0-192.168.10.255"},
		{"192.168.10.77/24", "192.168.10.0-192.168.10.255"}, // host bits do not count
		{" 192.168.10.0 / 31 ", "192.168.10.0-192.168.10.1"},
		{"10.0.0.7/32", "10.0.0.7-10.0.0.7"},
		{"10.0.0.5-10.0.0.9", "10.0.0.5-10.0.0.9"},
		{" 10.0.0.5 -  10.0.0.9 ", "10.0.0.5-10.0.0.9"},
		{"10.0.0.5-10.0.0.5", "10.0.0.5-10.0.0.5"},
		{"0.0.0.0/0", "0.0.0.0-255.255.255.255"},
		{"2001:db8::7/64", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff"},
		{"2001:DB8::5 - 2001:db8:0::9", "2001:db8::5-2001:db8::9"},
		{"::/0", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	}
	for _, test := range tests {
		config := parse(t, fmt.Sprintf("address-pools:\n- {name: a, cidr: [%q]}\n", test.written))
		if got := config.Pools[0].Ranges[0].String(); got != test.want {
			t.Errorf("%s: %s, want %s", test.written, got, test.want)
		}
	}

	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Uint32().Draw(t, "from")
		to := from + rapid.Uint32Range(0, min(math.MaxUint32-from, 1<<rapid.IntRange(0, 31).Draw(t, "size"))).Draw(t, "more")
		v4 := func(n uint32) netip.Addr {
			return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		}
		v6 := func(n uint32) netip.Addr {
			a := [16]byte{0: 0xff, 1: 0xff, 15: 0xff}
			copy(a[rapid.IntRange(2, 12).Draw(t, "at"):], v4(n).AsSlice())
			return netip.AddrFrom16(a)
		}
		for _, span := range []netipx.IPRange{netipx.IPRangeFrom(v4(from), v4(to)), netipx.IPRangeFrom(v6(from), v6(to))} {
			want := 128
			for _, network := range span.Prefixes() {
				want = min(want, network.Bits())
			}
			if got := widest(span); span.IsValid() && got != want {
				t.Fatalf("the widest network of %s has /%d, want /%d", span, got, want)
			}
		}
	})

	config := parse(t, "address-pools:\n- {name: a, cidr: [10.0.2.0/24, 10.0.0.0/24, 10.0.1.0/24]}\n")
	equal(t, config.Pools[0].Ranges, spans("10.0.0.0-10.0.0.255", "10.0.1.0-10.0.1.255", "10.0.2.0-10.0.2.255"))
}

func TestCommunitiesByNameAndByValue(t *testing.T) {
	tests := []struct{ defined, used, want string }{
		{"", "no-export", "65535:65281"},
		{"", "no-advertise", "65535:65282"},
		{"", "no-export-subconfed", "65535:65283"},
		{"", "no-peer", "65535:65284"},
		{"", "graceful-shutdown", "65535:0"},
		{"", "accept-own", "65535:1"},
		{"", "llgr-stale", "65535:6"},
		{"", "no-llgr", "65535:7"},
		{"", "blackhole", "65535:666"},
		{"", "64500:1", "64500:1"},
		{"", "'large:64500:1:4294967295'", "large:64500:1:4294967295"},
		{"vpn: 1234:1", "vpn", "1234:1"},
		{"vpn: large:1:2:3", "vpn", "large:1:2:3"},
		{"blackhole: 64500:666", "blackhole", "64500:666"}, // the operator knows better
		{"", "2:2, 1:1, no-export, 2:2, 'large:2:0:0', 'large:1:9:9', 'large:2:0:0'", "1:1 2:2 65535:65281 large:1:9:9 large:2:0:0"},
	}
	for _, test := range tests {
		text := fmt.Sprintf("communities:\n  %s\naddress-pools:\n- name: a\n  cidr: [10.0.0.0/32]\n  advertisements:\n  - communities: [%s]\n", test.defined, test.used)
		routes := parse(t, text).Routes(netip.MustParseAddr("10.0.0.0"), nil)
		if got, want := notation(routes), "10.0.0.0/32 pref 100 ["+test.want+"]"; got != want {
			t.Errorf("%s: %s, want %s", test.used, got, want)
		}
	}
}

func TestNothingIsAConfiguration(t *testing.T) {
	for _, text := range []string{"", "\n", "---\n", "# later\n", "{}", "null", "peers:\ncommunities:\naddress-pools:\n", "peers: []\naddress-pools: ~\n", "\ufeffpeers: []\n"} {
		equal(t, parse(t, text), &Config{})
	}
	config := parse(t, pool("advertisements:"))
	equal(t, config.Pools[0].Advertisements, parse(t, pool("advertisements:", "-")).Pools[0].Advertisements)
	equal(t, config.Pools[0].Advertisements, parse(t, pool("advertisements: [~]")).Pools[0].Advertisements)
	equal(t, config, parse(t, pool("advertisements: []", "auto-assign:", "avoid-buggy-ips: ~", "priority:", "protocol:")))
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	merged := parse(t, `
peers:
- &tor
  peer-address: 10.0.0.1
  peer-asn: 100
  my-asn: &mine 42
  node-selectors:
  - match-labels: &rack {rack: one, row: a}
- <<: *tor
  peer-address: 10.0.0.2
- <<: [{peer-address: 10.0.0.3, peer-asn: 300}, *tor]
  my-asn: *mine
  node-selectors:
  - match-labels: {<<: *rack, rack: two}
`)
	equal(t, merged, parse(t, `
peers:
- peer-address: 10.0.0.1
  peer-asn: 100
  my-asn: 42
  node-selectors: [{match-labels: {rack: one, row: a}}]
- peer-address: 10.0.0.2
  peer-asn: 100
  my-asn: 42
  node-selectors: [{match-labels: {rack: one, row: a}}]
- peer-address: 10.0.0.3
  peer-asn: 300
  my-asn: 42
  node-selectors: [{match-labels: {rack: two, row: a}}]
`))
}

// The table follows the keys of the configuration. Each row is one thing an operator may get wrong, and the whole text of
// what the operator then reads.
func TestEveryMistakeIsNamedWithItsPlaceAndRemedy(t *testing.T) {
	tests := []struct{ mistake, text, want string }{
		// the text as a whole
		{"a key misspelt", "adress-pools: []\n",
			`line 1: adress-pools: is not a key of this configuration: did you mean "address-pools"? (column 1: "adress-pools: []")`},
		{"a key like none of ours", "colour: blue\n",
			`line 1: colour: is not a key of this configuration: remove it (column 1)`},
		{"not a mapping", "- peers\n",
			`line 1: a list is not a mapping: write it as lines of "key: value" (column 1: "- peers")`},
		{"a tab", "peers:\n\t- peer-address: 10.0.0.1\n",
			"line 2: this is not YAML: found character that cannot start any token: indent with spaces instead of tabs, and put a value that begins with @, ` or % into quotes (\"- peer-address: 10.0.0.1\")"},
		{"no colon", "peers:\n- name\n  address: 10.0.0.1\n  x\n",
			`line 3: this is not YAML: mapping values are not allowed in this context: write each key with its colon on a line of its own, also above, and put a value that contains ": " into quotes ("address: 10.0.0.1")`},
		{"a quote that never ends", "peers:\n- name: \"a\n",
			`line 2: this is not YAML: found unexpected end of stream: close the quotes ("- name: \"a")`},
		{"a second document", "peers: []\n---\npeers: []\n",
			`line 2: a second YAML document begins here: keep one (column 1: "---")`},
		{"a second document that is not YAML", "peers: []\n---\npeers: [\n",
			`line 3: this is not YAML: did not find expected node content: write a value there, or complete or remove the bracket ("peers: [")`},
		{"not UTF-8", "peers:\n- name: caf\xe9\n",
			`line 2: this is not UTF-8 text: save the file as UTF-8 (column 12: "- name: caf�")`},
		{"a character that YAML forbids", "peers:\n- name: \"\x07\"\n",
			`line 2: the character U+0007 is not allowed in YAML: remove it (column 10: "- name: \"\a\"")`},
		{"an alias to nothing", "peers: *routers\n",
			`line 1: this is not YAML: an alias (*name) stands for nothing: put a value that begins with * into quotes ("peers: *routers")`},
		{"a merge of something else", "peers:\n- <<: 5\n  peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\n",
			`line 2: peers[0].<<: does not stand for a mapping: merge mappings only (column 7: "5")`},
		{"a mapping that merges itself", "peers:\n- &r\n  <<: *r\n  peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\n",
			`line 2: peers[0].<<: merges mappings that merge others, more than 16 deep: write out some of them (column 3: "&r")`},
		{"brackets without end", strings.Repeat("[", 20_000),
			"lists or mappings are nested too deep for a configuration: look for brackets or dashes without end"},
		{"a list for a key", "peers:\n- [a]: b\n  peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\n",
			`line 2: peers[0]: has a list for a key: write a single word (column 3: "[a]: b")`},
		{"a key twice", "peers: []\npeers: []\n",
			`line 2: peers: stands here twice, also as peers on line 1: keep one (column 1: "peers: []")`},
		{"both names of a key", "communities: {}\nbgp-communities: {}\n",
			`line 2: bgp-communities: stands here twice, also as communities on line 1: keep one (column 1: "bgp-communities: {}")`},
		{"a list that is none", "peers: 10.0.0.1\n",
			`line 1: peers: "10.0.0.1" is not a list: begin each item with "- " (column 8)`},
		{"drain is a word", "drain: maintenance\n",
			`line 1: drain: "maintenance" is not a mapping: write it as lines of "key: value" (column 8)`},
		{"drain's taint with another effect", "drain: {taints: [a:NoSchedule, \"b=c:NoRun\"]}\n",
			`line 1: drain.taints[1]: "b=c:NoRun" has an effect that no taint has: use NoSchedule, PreferNoSchedule or NoExecute (column 32)`},
		{"drain's taint without a key", "drain: {taints: [\"=c\"]}\n",
			`line 1: drain.taints[0]: "=c" cannot mark a node: write it as kubectl does, key, key=value, key:effect or key=value:effect (column 18)`},
		{"drain's label with an effect", "drain: {labels: [a:NoSchedule]}\n",
			`line 1: drain.labels[0]: "a:NoSchedule" cannot mark a node: write it as kubectl does, key or key=value (column 18)`},
		{"drain's empty label", "drain:\n  labels:\n  -\n",
			`line 3: drain.labels[0]: is empty: write the key of a taint or label (column 4: "-")`},
		{"drain's end too long", "drain: {withdraw-after: 24h}\n",
			`line 1: drain.withdraw-after: "24h" is too long: use at most 65535s (column 25)`},
		{"drain's end too short", "drain: {withdraw-after: -5}\n",
			`line 1: drain.withdraw-after: "-5" is too short: use 0, which is never, or 1s to 65535s (column 25)`},
		// peers
		{"a peer that is no mapping", "peers:\n- 10.0.0.1\n",
			`line 2: peers[0]: "10.0.0.1" is not a mapping: write it as lines of "key: value" (column 3)`},
		{"an empty item", "peers:\n-\n",
			`line 2: peers[0].peer-address: is missing: write the router's IP address (column 2: "-")` + "\n" +
				`line 2: peers[0].peer-asn: is missing: write the router's AS number (column 2: "-")` + "\n" +
				`line 2: peers[0].my-asn: is missing: write the AS number of your cluster (column 2: "-")`},
		{"a key misspelt", peer("hold-tme: 90s"),
			`line 5: peers[0].hold-tme: is not a key of this configuration: did you mean "hold-time"? (column 3: "hold-tme: 90s")`},
		{"name empty", peer(`name: ""`),
			`line 5: peers[0].name: is empty: write a name (column 9: "\"\"")`},
		{"name is a list", peer("name: [tor]"),
			`line 5: peers[0].name: a list does not belong here: write a single value (column 9: "[tor]")`},
		{"two of one name", "peers:\n- {name: tor, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}\n- {name: tor, peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42}\n",
			`line 3: peers[1]: peers[0] on line 2 is a peer named "tor" as well: give one of them another name (column 3: "{name: tor, peer-address: 10.0.0.2, peer-asn: 100, my-asn: 4…")`},
		{"one twice, without names", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}\n- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, hold-time: 90s}\n",
			`line 3: peers[1]: is the same peer as peers[0] on line 2: keep one (column 3: "{peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, hold-tim…")`},
		{"peer-address missing", "peers:\n- peer-asn: 100\n  my-asn: 42\n",
			`line 2: peers[0].peer-address: is missing: write the router's IP address (column 3: "peer-asn: 100")`},
		{"peer-address is a name", "peers:\n- {peer-address: tor.example.com, peer-asn: 100, my-asn: 42}\n",
			`line 2: peers[0].peer-address: "tor.example.com" is not an IP address that a router can have: write the router's own, and no name; or gateway or gateway-v6 (column 18)`},
		{"peer-address is everybody", "peers:\n- {peer-address: 0.0.0.0, peer-asn: 100, my-asn: 42}\n",
			`line 2: peers[0].peer-address: "0.0.0.0" is not an IP address that a router can have: write the router's own, and no name; or gateway or gateway-v6 (column 18)`},
		{"peer-address is a multicast group", "peers:\n- {peer-address: 224.0.0.5, peer-asn: 100, my-asn: 42}\n",
			`line 2: peers[0].peer-address: "224.0.0.5" is not an IP address that a router can have: write the router's own, and no name; or gateway or gateway-v6 (column 18)`},
		{"peer-address is a list", "peers:\n- {peer-address: [10.0.0.1], peer-asn: 100, my-asn: 42}\n",
			`line 2: peers[0].peer-address: a list does not belong here: write a single value (column 18: "[10.0.0.1], peer-asn: 100, my-asn: 42}")`},
		{"peer-address is link-local without interface", "peers:\n- {peer-address: \"fe80::1\", peer-asn: 100, my-asn: 42}\n",
			`line 2: peers[0].peer-address: "fe80::1" is link-local: add the interface, as in fe80::1%eth0 (column 18)`},
		{"peer-address is IPv4 as IPv6", "peers:\n- {peer-address: \"::ffff:10.0.0.1\", peer-asn: 100, my-asn: 42}\n",
			`line 2: peers[0].peer-address: "::ffff:10.0.0.1" is not an IP address that a router can have: write the router's own, and no name; or gateway or gateway-v6 (column 18)`},
		{"peer-asn missing", "peers:\n- {peer-address: 10.0.0.1, my-asn: 42}\n",
			`line 2: peers[0].peer-asn: is missing: write the router's AS number (column 3: "{peer-address: 10.0.0.1, my-asn: 42}")`},
		{"peer-asn 0", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 0, my-asn: 42}\n",
			`line 2: peers[0].peer-asn: "0" is not possible here: use a whole number from 1 to 4294967295, or external or internal (column 38)`},
		{"peer-asn too large", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 4294967296, my-asn: 42}\n",
			`line 2: peers[0].peer-asn: "4294967296" is not possible here: use a whole number from 1 to 4294967295, or external or internal (column 38)`},
		{"peer-asn in quotes", "peers:\n- {peer-address: 10.0.0.1, peer-asn: \"100\", my-asn: 42}\n",
			`line 2: peers[0].peer-asn: "100" is not possible here: write it without quotes (column 38)`},
		{"my-asn missing", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 100}\n",
			`line 2: peers[0].my-asn: is missing: write the AS number of your cluster (column 3: "{peer-address: 10.0.0.1, peer-asn: 100}")`},
		{"my-asn 0", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 0}\n",
			`line 2: peers[0].my-asn: "0" is not possible here: use a whole number from 1 to 4294967295, or node (column 51)`},
		{"my-asn is a word", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: AS42}\n",
			`line 2: peers[0].my-asn: "AS42" is not possible here: use a whole number from 1 to 4294967295, or node (column 51)`},
		{"peer-port too large", peer("peer-port: 65536"),
			`line 5: peers[0].peer-port: "65536" is not possible here: use a whole number from 0 to 65535 (column 14)`},
		{"hold-time too short", peer("hold-time: 1s"),
			`line 5: peers[0].hold-time: "1s" is too short: use 0 or at least 3s (column 14)`},
		{"hold-time too long", peer("hold-time: 65536s"),
			`line 5: peers[0].hold-time: "65536s" is too long: use at most 65535s (column 14)`},
		{"hold-time far too long", peer("hold-time: 99999999999999999"),
			`line 5: peers[0].hold-time: "99999999999999999" is too long: use at most 65535s (column 14)`},
		{"hold-time below zero", peer("hold-time: -3"),
			`line 5: peers[0].hold-time: "-3" is too short: use 0 or at least 3s (column 14)`},
		{"hold-time in fractions", peer("hold-time: 3500ms"),
			`line 5: peers[0].hold-time: "3500ms" is not in whole seconds: use 3s (column 14)`},
		{"hold-time is a word", peer("hold-time: long"),
			`line 5: peers[0].hold-time: "long" is not a duration such as 90s: use 0 or at least 3s (column 14)`},
		{"hold-time is a list", peer("hold-time: [90s]"),
			`line 5: peers[0].hold-time: a list is not a duration such as 90s: use 0 or at least 3s (column 14: "[90s]")`},
		{"keepalive-time above hold-time", peer("hold-time: 9s", "keepalive-time: 10s"),
			`line 6: peers[0].keepalive-time: "10s" is longer than the hold-time of 9s: use at most a third of it (column 19)`},
		{"keepalive-time above the default hold-time", peer("keepalive-time: 91"),
			`line 5: peers[0].keepalive-time: "91" is longer than the hold-time of 1m30s: use at most a third of it (column 19)`},
		{"keepalive-time 0", peer("keepalive-time: 0"),
			`line 5: peers[0].keepalive-time: "0" is too short: use 1s up to the hold-time (column 19)`},
		{"keepalive-time without hold-time", peer("hold-time: 0", "keepalive-time: 3s"),
			`line 6: peers[0].keepalive-time: "3s" has no meaning with hold-time 0: remove it (column 19)`},
		{"keepalive-time is a word", peer("keepalive-time: often"),
			`line 5: peers[0].keepalive-time: "often" is not a duration such as 90s: use 1s up to the hold-time (column 19)`},
		{"of a wrong hold-time only that is said", peer("hold-time: 1s", "keepalive-time: 100s"),
			`line 5: peers[0].hold-time: "1s" is too short: use 0 or at least 3s (column 14)`},
		{"connect-time 0", peer("connect-time: 0"),
			`line 5: peers[0].connect-time: "0" is too short: use 1s to 65535s (column 17)`},
		{"connect-time too long", peer("connect-time: 20h"),
			`line 5: peers[0].connect-time: "20h" is too long: use at most 65535s (column 17)`},
		{"router-id is IPv6", peer(`router-id: "2001:db8::1"`),
			`line 5: peers[0].router-id: "2001:db8::1" is not a router ID: write an IPv4 address other than 0.0.0.0, or node (column 14)`},
		{"router-id 0", peer("router-id: 0.0.0.0"),
			`line 5: peers[0].router-id: "0.0.0.0" is not a router ID: write an IPv4 address other than 0.0.0.0, or node (column 14)`},
		{"router-id is a number", peer("router-id: 7"),
			`line 5: peers[0].router-id: "7" is not a router ID: write an IPv4 address other than 0.0.0.0, or node (column 14)`},
		{"source-address is a name", peer("source-address: eth0"),
			`line 5: peers[0].source-address: "eth0" is not an address of a node: write an IP address or node-ip (column 19)`},
		{"source-address of the other version", peer(`source-address: "2001:db8::9"`),
			`line 5: peers[0].source-address: "2001:db8::9" is not of the same IP version as the peer-address 10.0.0.1: write an address of that version, or node-ip (column 19)`},
		{"password twice", peer("password: hunter2", "password-key: tor"),
			"line 6: peers[0].password-key: stands here as well as peers[0].password on line 5: keep one (column 17)"},
		{"password too long", peer("password: " + strings.Repeat("a", 81)),
			"line 5: peers[0].password: is longer than 80 bytes, which is the most that TCP MD5 takes: choose a shorter one (column 13)"},
		{"password is a list", peer("password: [a]"),
			"line 5: peers[0].password: a list does not belong here: write a single value (column 13)"},
		{"password-key that no Secret can have", peer("password-key: tor/one"),
			`line 5: peers[0].password-key: is not a key that a Secret can have: write letters, digits, "-", "_" and "." (column 17)`},
		{"ebgp-multihop 0", peer("ebgp-multihop: 0"),
			`line 5: peers[0].ebgp-multihop: "0" is not possible here: use true, false or a TTL from 1 to 255 (column 18)`},
		{"ebgp-multihop 256", peer("ebgp-multihop: 256"),
			`line 5: peers[0].ebgp-multihop: "256" is not possible here: use true, false or a TTL from 1 to 255 (column 18)`},
		{"ebgp-multihop is a word", peer("ebgp-multihop: far"),
			`line 5: peers[0].ebgp-multihop: "far" is not possible here: use true, false or a TTL from 1 to 255 (column 18)`},
		{"ebgp-multihop in quotes", peer(`ebgp-multihop: "true"`),
			`line 5: peers[0].ebgp-multihop: "true" is not possible here: write it without quotes (column 18)`},
		{"ebgp-multihop true for iBGP", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 42, my-asn: 42, ebgp-multihop: true}\n",
			`line 2: peers[0].ebgp-multihop: "true" is for eBGP, and peer-asn equals my-asn: remove it (column 69)`},
		{"ebgp-multihop 2 for iBGP", "peers:\n- {peer-address: 10.0.0.1, peer-asn: 42, my-asn: 42, ebgp-multihop: 2}\n",
			`line 2: peers[0].ebgp-multihop: "2" is for eBGP, and peer-asn equals my-asn: remove it (column 69)`},
		{"without AS numbers nobody speaks of iBGP", "peers:\n- {peer-address: 10.0.0.1, ebgp-multihop: true}\n",
			`line 2: peers[0].peer-asn: is missing: write the router's AS number (column 3: "{peer-address: 10.0.0.1, ebgp-multihop: true}")` + "\n" +
				`line 2: peers[0].my-asn: is missing: write the AS number of your cluster (column 3: "{peer-address: 10.0.0.1, ebgp-multihop: true}")`},
		{"ttl-security 0", peer("ttl-security: 0"),
			`line 5: peers[0].ttl-security: "0" is not possible here: use true, false or how many hops away the router is, from 1 to 254 (column 17)`},
		{"ttl-security 255", peer("ttl-security: 255"),
			`line 5: peers[0].ttl-security: "255" is not possible here: use true, false or how many hops away the router is, from 1 to 254 (column 17)`},
		{"ttl-security in quotes", peer(`ttl-security: "2"`),
			`line 5: peers[0].ttl-security: "2" is not possible here: write it without quotes (column 17)`},
		{"ttl-security with ebgp-multihop", peer("ttl-security: true", "ebgp-multihop: 2"),
			`line 6: peers[0].ebgp-multihop: contradicts peers[0].ttl-security on line 5: keep one (column 18: "2")`},
		{"graceful-restart is a word", peer("graceful-restart: slow"),
			`line 5: peers[0].graceful-restart: "slow" is not possible here: use true, false or {restart-time: 120s} (column 21)`},
		{"restart-time 0", peer("graceful-restart: {restart-time: 0}"),
			`line 5: peers[0].graceful-restart.restart-time: "0" is too short: use 1s to 4095s (column 36)`},
		{"restart-time has 12 bits", peer("graceful-restart: {restart-time: 4096s}"),
			`line 5: peers[0].graceful-restart.restart-time: "4096s" is too long: use at most 4095s (column 36)`},
		{"restart-time far too long", peer("graceful-restart: {restart-time: 70000}"),
			`line 5: peers[0].graceful-restart.restart-time: "70000" is too long: use at most 4095s (column 36)`},
		{"restart-time in fractions", peer("graceful-restart: {restart-time: 1500ms}"),
			`line 5: peers[0].graceful-restart.restart-time: "1500ms" is not in whole seconds: use 1s (column 36)`},
		{"graceful-restart misspelt", peer("graceful-restart: {restart_time: 9s}"),
			`line 5: peers[0].graceful-restart.restart_time: is not a key of this configuration: did you mean "restart-time"? (column 22: "restart_time: 9s}")`},
		{"node-selectors are no list", peer("node-selectors: {match-labels: {rack: one}}"),
			`line 5: peers[0].node-selectors: a mapping is not a list: begin each item with "- " (column 19: "{match-labels: {rack: one}}")`},
		{"a selector that is no mapping", peer("node-selectors: [rack]"),
			`line 5: peers[0].node-selectors[0]: "rack" is not a mapping: write it as lines of "key: value" (column 20)`},
		{"a selector misspelt", peer("node-selectors: [{match-label: {rack: one}}]"),
			`line 5: peers[0].node-selectors[0].match-label: is not a key of this configuration: did you mean "match-labels"? (column 21: "match-label: {rack: one}}]")`},
		{"match-labels are a list", peer("node-selectors: [{match-labels: [rack]}]"),
			`line 5: peers[0].node-selectors[0].match-labels: a list is not a mapping: write it as lines of "key: value" (column 35: "[rack]}]")`},
		{"a label twice", peer("node-selectors: [{match-labels: {rack: one, rack: two}}]"),
			`line 5: peers[0].node-selectors[0].match-labels.rack: stands here twice, also as peers[0].node-selectors[0].match-labels.rack on line 5: keep one (column 47: "rack: two}}]")`},
		{"a label's value is a list", peer("node-selectors: [{match-labels: {rack: [one]}}]"),
			`line 5: peers[0].node-selectors[0].match-labels.rack: a list does not belong here: write a single value (column 42: "[one]}}]")`},
		{"an expression that is no mapping", peer("node-selectors: [{match-expressions: [rack]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0]: "rack" is not a mapping: write it as lines of "key: value" (column 41)`},
		{"an expression without anything", peer("node-selectors: [{match-expressions: [{}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].key: is missing: write the label that the condition is about (column 41: "{}]}]")` + "\n" +
				`line 5: peers[0].node-selectors[0].match-expressions[0].operator: is missing: use one of In, NotIn, Exists, DoesNotExist (column 41: "{}]}]")`},
		{"an operator that is none", peer("node-selectors: [{match-expressions: [{key: rack, operator: Equals, values: [one]}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].operator: "Equals" is not an operator: use one of In, NotIn, Exists, DoesNotExist (column 63)`},
		{"In without values", peer("node-selectors: [{match-expressions: [{key: rack, operator: In}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].values: is missing: In needs at least one value (column 41: "{key: rack, operator: In}]}]")`},
		{"Exists with values", peer("node-selectors: [{match-expressions: [{key: rack, operator: Exists, values: [one]}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].values: Exists takes no values: remove them (column 79: "[one]}]}]")`},
		{"a label's key ends in a dash", peer("node-selectors: [{match-labels: {rack-: one}}]"),
			`line 5: peers[0].node-selectors[0].match-labels.rack-: "rack-" is not a key that a label can have: write ` + nameRule + `, perhaps after a domain, as in example.com/rack (column 36)`},
		{"a label's key is empty", peer("node-selectors: [{match-labels: {'': one}}]"),
			`line 5: peers[0].node-selectors[0].match-labels.: "" is not a key that a label can have: write ` + nameRule + `, perhaps after a domain, as in example.com/rack (column 36)`},
		{"a label's value has a space", peer("node-selectors:", "- match-labels:", "    rack: rack one"),
			`line 7: peers[0].node-selectors[0].match-labels.rack: "rack one" is not a value that a label can have: write ` + nameRule + `, or nothing (column 13)`},
		{"a label's value is too long", peer("node-selectors: [{match-labels: {rack: " + strings.Repeat("x", 64) + "}}]"),
			`line 5: peers[0].node-selectors[0].match-labels.rack: "` + strings.Repeat("x", 60) + `…" is not a value that a label can have: write ` + nameRule + `, or nothing (column 42)`},
		{"an expression's key has two slashes", peer("node-selectors: [{match-expressions: [{key: a/b/c, operator: Exists}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].key: "a/b/c" is not a key that a label can have: write ` + nameRule + `, perhaps after a domain, as in example.com/rack (column 47)`},
		{"an expression's value begins with a dot", peer("node-selectors: [{match-expressions: [{key: rack, operator: In, values: [one, .two]}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].values[1]: ".two" is not a value that a label can have: write ` + nameRule + `, or nothing (column 81)`},
		{"an expression's key is a list", peer("node-selectors: [{match-expressions: [{key: [a], operator: Exists}]}]"),
			`line 5: peers[0].node-selectors[0].match-expressions[0].key: a list does not belong here: write a single value (column 47: "[a], operator: Exists}]}]")`},
		// communities
		{"no mapping", "communities: [vpn]\n",
			`line 1: communities: a list is not a mapping: write it as lines of "key: value" (column 14: "[vpn]")`},
		{"empty", "communities:\n  vpn:\n",
			`line 2: communities.vpn: is empty: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 7: "vpn:")`},
		{"one number", "communities:\n  vpn: 1234\n",
			`line 2: communities.vpn: "1234" is not a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 8)`},
		{"more than 16 bits", "communities:\n  vpn: 65536:1\n",
			`line 2: communities.vpn: "65536:1" is not a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 8)`},
		{"a sign", "communities:\n  vpn: 1:-1\n",
			`line 2: communities.vpn: "1:-1" is not a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 8)`},
		{"large with two numbers", "communities:\n  vpn: large:1:2\n",
			`line 2: communities.vpn: "large:1:2" is not a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 8)`},
		{"large with more than 32 bits", "communities:\n  vpn: large:1:2:4294967296\n",
			`line 2: communities.vpn: "large:1:2:4294967296" is not a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 8)`},
		{"a list", "communities:\n  vpn: [1234:1]\n",
			`line 2: communities.vpn: a list does not belong here: write a single value (column 8: "[1234:1]")`},
		{"twice", "communities:\n  vpn: 1:1\n  vpn: 1:2\n",
			`line 3: communities.vpn: stands here twice, also as communities.vpn on line 2: keep one (column 3: "vpn: 1:2")`},
		// pools
		{"a pool that is no mapping", "address-pools:\n- default\n",
			`line 2: address-pools[0]: "default" is not a mapping: write it as lines of "key: value" (column 3)`},
		{"an empty item", "address-pools:\n-\n",
			`line 2: address-pools[0].name: is missing: give the pool a name (column 2: "-")` + "\n" +
				`line 2: address-pools[0].cidr: is missing: list the pool's addresses, as in 192.168.10.0/24 (column 2: "-")`},
		{"name missing", "address-pools:\n- cidr: [10.0.0.0/24]\n",
			`line 2: address-pools[0].name: is missing: give the pool a name (column 3: "cidr: [10.0.0.0/24]")`},
		{"name empty", "address-pools:\n- {name: '', cidr: [10.0.0.0/24]}\n",
			`line 2: address-pools[0].name: is empty: write a name (column 10: "'', cidr: [10.0.0.0/24]}")`},
		{"name is a mapping", "address-pools:\n- {name: {a: b}, cidr: [10.0.0.0/24]}\n",
			`line 2: address-pools[0].name: a mapping does not belong here: write a single value (column 10: "{a: b}, cidr: [10.0.0.0/24]}")`},
		{"two of one name", "address-pools:\n- {name: a, cidr: [10.0.0.0/24]}\n- {name: a, cidr: [10.0.1.0/24]}\n",
			`line 3: address-pools[1]: address-pools[0] on line 2 is a pool named "a" as well: give one of them another name (column 3: "{name: a, cidr: [10.0.1.0/24]}")`},
		{"cidr missing", "address-pools:\n- name: a\n",
			`line 2: address-pools[0].cidr: is missing: list the pool's addresses, as in 192.168.10.0/24 (column 3: "name: a")`},
		{"cidr empty", "address-pools:\n- {name: a, cidr: []}\n",
			`line 2: address-pools[0].cidr: is missing: list the pool's addresses, as in 192.168.10.0/24 (column 3: "{name: a, cidr: []}")`},
		{"cidr is no list", "address-pools:\n- {name: a, cidr: 10.0.0.0/24}\n",
			`line 2: address-pools[0].cidr: "10.0.0.0/24" is not a list: begin each item with "- " (column 19)`},
		{"cidr with an empty item", "address-pools:\n- name: a\n  cidr:\n  -\n",
			`line 4: address-pools[0].cidr[0]: is empty: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 4: "-")`},
		{"cidr is a word", "address-pools:\n- {name: a, cidr: [all]}\n",
			`line 2: address-pools[0].cidr[0]: "all" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 20)`},
		{"a single address", "address-pools:\n- {name: a, cidr: [10.0.0.7]}\n",
			`line 2: address-pools[0].cidr[0]: "10.0.0.7" is a single address: write 10.0.0.7/32 (column 20)`},
		{"a prefix too long", "address-pools:\n- {name: a, cidr: [10.0.0.0/33]}\n",
			`line 2: address-pools[0].cidr[0]: "10.0.0.0/33" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 20)`},
		{"a range that ends before it begins", "address-pools:\n- {name: a, cidr: [10.0.0.9-10.0.0.1]}\n",
			`line 2: address-pools[0].cidr[0]: "10.0.0.9-10.0.0.1" ends before it begins: write the lower address first (column 20)`},
		{"a range from IPv4 to IPv6", "address-pools:\n- {name: a, cidr: ['10.0.0.9-2001:db8::1']}\n",
			`line 2: address-pools[0].cidr[0]: "10.0.0.9-2001:db8::1" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 20)`},
		{"IPv6 with an interface", "address-pools:\n- {name: a, cidr: ['fe80::1%eth0-fe80::9%eth0']}\n",
			`line 2: address-pools[0].cidr[0]: "fe80::1%eth0-fe80::9%eth0" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 20)`},
		{"a single IPv6 address", "address-pools:\n- {name: a, cidr: ['2001:db8::7']}\n",
			`line 2: address-pools[0].cidr[0]: "2001:db8::7" is a single address: write 2001:db8::7/128 (column 20)`},
		{"an IPv6 range that ends before it begins", "address-pools:\n- {name: a, cidr: ['2001:db8::9-2001:db8::1']}\n",
			`line 2: address-pools[0].cidr[0]: "2001:db8::9-2001:db8::1" ends before it begins: write the lower address first (column 20)`},
		{"overlap in IPv6", "address-pools:\n- {name: a, cidr: ['2001:db8::/32', 10.0.0.0/8]}\n- {name: b, cidr: [11.0.0.0/8, '2001:db8:1::/48']}\n",
			`line 3: address-pools[1].cidr[1]: "2001:db8:1::/48" overlaps "2001:db8::/32" of address-pools[0].cidr[0] on line 2: let each address be in one place (column 32)`},
		{"IPv4 within IPv6", "address-pools:\n- {name: a, cidr: ['::ffff:10.0.0.0/120']}\n",
			`line 2: address-pools[0].cidr[0]: "::ffff:10.0.0.0/120" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 20)`},
		{"both names of cidr", "address-pools:\n- name: a\n  cidr: [10.0.0.0/24]\n  addresses: [10.0.1.0/24]\n",
			`line 4: address-pools[0].addresses: stands here twice, also as address-pools[0].cidr on line 3: keep one (column 3: "addresses: [10.0.1.0/24]")`},
		{"both names of advertisements", pool("advertisements: []", "bgp-advertisements: []"),
			`line 5: address-pools[0].bgp-advertisements: stands here twice, also as address-pools[0].advertisements on line 4: keep one (column 3: "bgp-advertisements: []")`},
		{"overlap within a pool", "address-pools:\n- name: a\n  cidr:\n  - 10.0.0.0/24\n  - 10.0.0.128-10.0.1.3\n",
			`line 5: address-pools[0].cidr[1]: "10.0.0.128-10.0.1.3" overlaps "10.0.0.0/24" of address-pools[0].cidr[0] on line 4: let each address be in one place (column 5)`},
		{"overlap between pools", "address-pools:\n- name: a\n  cidr:\n  - 10.0.0.0/8\n- name: b\n  cidr:\n  - 10.1.0.0/16\n  - 11.0.0.0/16\n  - 10.200.0.0/16\n",
			`line 7: address-pools[1].cidr[0]: "10.1.0.0/16" overlaps "10.0.0.0/8" of address-pools[0].cidr[0] on line 4: let each address be in one place (column 5)` + "\n" +
				`line 9: address-pools[1].cidr[2]: "10.200.0.0/16" overlaps "10.0.0.0/8" of address-pools[0].cidr[0] on line 4: let each address be in one place (column 5)`},
		{"overlap, the larger one last", "address-pools:\n- {name: a, cidr: [10.1.0.0/16]}\n- {name: b, cidr: [10.0.0.0/8]}\n",
			`line 3: address-pools[1].cidr[0]: "10.0.0.0/8" overlaps "10.1.0.0/16" of address-pools[0].cidr[0] on line 2: let each address be in one place (column 20)`},
		{"layer 2", pool("protocol: layer2"),
			`line 4: address-pools[0].protocol: "layer2" is not spoken here: this provider speaks BGP only: use bgp, or remove the pool (column 13)`},
		{"exclude is a word", pool("exclude: [all]"),
			`line 4: address-pools[0].exclude[0]: "all" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 13)`},
		{"exclude is no list", pool("exclude: 10.1.0.1"),
			`line 4: address-pools[0].exclude: "10.1.0.1" is not a list: begin each item with "- " (column 12)`},
		{"exclude is empty", pool("exclude: ['']"),
			`line 4: address-pools[0].exclude[0]: is empty: write 192.168.10.7, 192.168.10.5-192.168.10.20 or 192.168.10.0/28 (column 13: "'']")`},
		{"exclude of another pool's addresses", pool("exclude: [10.1.0.1, 10.2.0.0/24, 10.0.0.0/8]"),
			`line 4: address-pools[0].exclude[1]: "10.2.0.0/24" is not all of this pool: write addresses that its cidr holds (column 23)` + "\n" +
				`line 4: address-pools[0].exclude[2]: "10.0.0.0/8" is not all of this pool: write addresses that its cidr holds (column 36)`},
		{"reservations are no list", pool("reservations: {10.1.0.1: shop/web}"),
			`line 4: address-pools[0].reservations: a mapping is not a list: begin each item with "- " (column 17: "{10.1.0.1: shop/web}")`},
		{"a reservation of nothing for nobody", pool("reservations: [{}]"),
			`line 4: address-pools[0].reservations[0].service: is missing: write NAMESPACE/NAME, as kubectl names it (column 18: "{}]")` + "\n" +
				`line 4: address-pools[0].reservations[0].addresses: is missing: list one address of the pool, or one of each IP version (column 18: "{}]")`},
		{"a reservation misspelt", pool("reservations: [{service: shop/web, address: [10.1.0.1]}]"),
			`line 4: address-pools[0].reservations[0].addresses: is missing: list one address of the pool, or one of each IP version (column 18: "{service: shop/web, address: [10.1.0.1]}]")` + "\n" +
				`line 4: address-pools[0].reservations[0].address: is not a key of this configuration: did you mean "addresses"? (column 38: "address: [10.1.0.1]}]")`},
		{"a reservation for a Service without namespace", pool("reservations: [{service: web, addresses: [10.1.0.1]}]"),
			`line 4: address-pools[0].reservations[0].service: "web" is not a Service: write NAMESPACE/NAME, as kubectl names it (column 28)`},
		{"a reservation of a network", pool("reservations: [{service: shop/web, addresses: [10.1.0.0/30]}]"),
			`line 4: address-pools[0].reservations[0].addresses[0]: "10.1.0.0/30" is more than an address: write 10.1.0.0 (column 50)`},
		{"a reservation of a word", pool("reservations: [{service: shop/web, addresses: [any]}]"),
			`line 4: address-pools[0].reservations[0].addresses[0]: "any" is not an address: write one of the pool's (column 50)`},
		{"a reservation of no address", pool("reservations: [{service: shop/web, addresses: [~]}]"),
			`line 4: address-pools[0].reservations[0].addresses[0]: is empty: write an address of the pool (column 50: "~]}]")`},
		{"a reservation outside of the pool", pool("reservations: [{service: shop/web, addresses: [10.2.0.1]}]"),
			`line 4: address-pools[0].reservations[0].addresses[0]: "10.2.0.1" is not of this pool: write an address that its cidr holds (column 50)`},
		{"a reservation of two of one IP version", pool("reservations: [{service: shop/web, addresses: [10.1.0.1, 10.1.0.2]}]"),
			`line 4: address-pools[0].reservations[0].addresses[1]: "10.1.0.2" is a second IPv4 address: a Service has one of each IP version at most (column 60)`},
		{"a reservation for two Services", pool("reservations:", "- {service: shop/web, addresses: [10.1.0.1]}", "- {service: shop/api, addresses: [10.1.0.1]}"),
			`line 6: address-pools[0].reservations[1].addresses[0]: "10.1.0.1" is reserved already, by address-pools[0].reservations[0].addresses[0] on line 5: let each address be for one Service (column 37)`},
		{"two reservations for one Service", pool("reservations:", "- {service: shop/web, addresses: [10.1.0.1]}", "- {service: shop/web, addresses: [10.1.0.2]}"),
			`line 6: address-pools[0].reservations[1].service: "shop/web" has a reservation already, address-pools[0].reservations[0].service on line 5: keep one (column 15)`},
		{"a reservation of what is excluded", pool("exclude: [10.1.0.1]", "reservations: [{service: shop/web, addresses: [10.1.0.1]}]"),
			`line 5: address-pools[0].reservations[0].addresses[0]: "10.1.0.1" is never handed out: take it out of exclude, or set avoid-buggy-ips to false, or reserve another (column 50)`},
		{"a reservation for another namespace than the pool", pool("namespaces: [blog]", "reservations: [{service: shop/web, addresses: [10.1.0.1]}]"),
			`line 5: address-pools[0].reservations[0].service: "shop/web" is of a namespace that the pool is not for: add that to its namespaces, or remove the reservation (column 28)`},
		{"quotas are a number", pool("quotas: 5"),
			`line 4: address-pools[0].quotas: "5" is not a mapping: write it as lines of "key: value" (column 11)`},
		{"a quota of 0", pool("quotas: {shop: 0}"),
			`line 4: address-pools[0].quotas.shop: "0" would keep the namespace out of the pool: use at least 1, and say by namespaces who may use the pool (column 18)`},
		{"a quota below 0", pool("quotas: {default: -1}"),
			`line 4: address-pools[0].quotas.default: "-1" is not possible here: use a whole number from 1 to 2147483647 (column 21)`},
		{"a quota of the empty namespace", pool("quotas: {'': 5}"),
			`line 4: address-pools[0].quotas.: "" is not the name of a namespace: write default, or at most 63 small letters, digits and "-", with a letter or digit at both ends (column 12)`},
		{"a quota in capitals", pool("quotas: {Shop: 5}"),
			`line 4: address-pools[0].quotas.Shop: "Shop" is not the name of a namespace: write default, or at most 63 small letters, digits and "-", with a letter or digit at both ends (column 12)`},
		{"excludes misspelt", pool("excludes: [10.1.0.1]"),
			`line 4: address-pools[0].excludes: is not a key of this configuration: did you mean "exclude"? (column 3: "excludes: [10.1.0.1]")`},
		{"auto-assign is a word", pool("auto-assign: never"),
			`line 4: address-pools[0].auto-assign: "never" is neither true nor false: write one of the two (column 16)`},
		{"auto-assign in quotes", pool(`auto-assign: "false"`),
			`line 4: address-pools[0].auto-assign: "false" is neither true nor false: write it without quotes (column 16)`},
		{"avoid-buggy-ips is a number", pool("avoid-buggy-ips: 1"),
			`line 4: address-pools[0].avoid-buggy-ips: "1" is neither true nor false: write one of the two (column 20)`},
		{"namespaces are no list", pool("namespaces: shop"),
			`line 4: address-pools[0].namespaces: "shop" is not a list: begin each item with "- " (column 15)`},
		{"a namespace that is empty", pool("namespaces:", "- shop", "-"),
			`line 6: address-pools[0].namespaces[1]: is empty: write the name of a namespace (column 4: "-")`},
		{"a namespace without letters", pool("namespaces: ['']"),
			`line 4: address-pools[0].namespaces[0]: is empty: write the name of a namespace (column 16: "'']")`},
		{"a namespace in capitals", pool("namespaces: [blog, Shop]"),
			`line 4: address-pools[0].namespaces[1]: "Shop" is not the name of a namespace: write at most 63 small letters, digits and "-", with a letter or digit at both ends (column 22)`},
		{"a namespace with a dot", pool("namespaces: [shop.example]"),
			`line 4: address-pools[0].namespaces[0]: "shop.example" is not the name of a namespace: write at most 63 small letters, digits and "-", with a letter or digit at both ends (column 16)`},
		{"a namespace too long", pool("namespaces: [" + strings.Repeat("x", 64) + "]"),
			`line 4: address-pools[0].namespaces[0]: "` + strings.Repeat("x", 60) + `…" is not the name of a namespace: write at most 63 small letters, digits and "-", with a letter or digit at both ends (column 16)`},
		{"a namespace that is a mapping", pool("namespaces: [{name: shop}]"),
			`line 4: address-pools[0].namespaces[0]: a mapping does not belong here: write a single value (column 16: "{name: shop}]")`},
		{"service-selectors are no list", pool("service-selectors: {match-labels: {tier: front}}"),
			`line 4: address-pools[0].service-selectors: a mapping is not a list: begin each item with "- " (column 22: "{match-labels: {tier: front}}")`},
		{"service-selectors misspelt", pool("service-selectors: [{match_labels: {tier: front}}]"),
			`line 4: address-pools[0].service-selectors[0].match_labels: is not a key of this configuration: did you mean "match-labels"? (column 24: "match_labels: {tier: front}}]")`},
		{"a label of Services that cannot be", pool("service-selectors: [{match-labels: {tier: front end}}]"),
			`line 4: address-pools[0].service-selectors[0].match-labels.tier: "front end" is not a value that a label can have: write ` + nameRule + `, or nothing (column 45)`},
		{"a label of Services with a domain in capitals", pool("service-selectors: [{match-expressions: [{key: Example.com/tier, operator: Exists}]}]"),
			`line 4: address-pools[0].service-selectors[0].match-expressions[0].key: "Example.com/tier" is not a key that a label can have: write ` + nameRule + `, perhaps after a domain, as in example.com/rack (column 50)`},
		{"an operator of service-selectors in small letters", pool("service-selectors: [{match-expressions: [{key: tier, operator: in, values: [front]}]}]"),
			`line 4: address-pools[0].service-selectors[0].match-expressions[0].operator: "in" is not an operator: use one of In, NotIn, Exists, DoesNotExist (column 66)`},
		{"priority is a fraction", pool("priority: 1.5"),
			`line 4: address-pools[0].priority: "1.5" is not possible here: use a whole number from -2147483648 to 2147483647 (column 13)`},
		{"share-across-namespaces is a list", pool("share-across-namespaces: [shop, blog]"),
			`line 4: address-pools[0].share-across-namespaces: a list is neither true nor false: write one of the two (column 28: "[shop, blog]")`},
		{"share-across-namespaces in quotes", pool("share-across-namespaces: 'yes'"),
			`line 4: address-pools[0].share-across-namespaces: "yes" is neither true nor false: write it without quotes (column 28)`},
		{"share-across-namespace misspelt", pool("share-across-namespace: true"),
			`line 4: address-pools[0].share-across-namespace: is not a key of this configuration: did you mean "share-across-namespaces"? (column 3: "share-across-namespace: true")`},
		// advertisements
		{"a word", pool("advertisements: [all]"),
			`line 4: address-pools[0].advertisements[0]: "all" is not a mapping: write it as lines of "key: value" (column 20)`},
		{"a key misspelt", pool("advertisements: [{local-pref: 100}]"),
			`line 4: address-pools[0].advertisements[0].local-pref: is not a key of this configuration: did you mean "localpref"? (column 21: "local-pref: 100}]")`},
		{"aggregation-length too long", pool("advertisements: [{aggregation-length: 33}]"),
			`line 4: address-pools[0].advertisements[0].aggregation-length: "33" is not possible here: use a whole number from 0 to 32 (column 41)`},
		{"aggregation-length below zero", pool("advertisements: [{aggregation-length: -1}]"),
			`line 4: address-pools[0].advertisements[0].aggregation-length: "-1" is not possible here: use a whole number from 0 to 32 (column 41)`},
		{"aggregation-length beyond the pool", pool("advertisements: [{aggregation-length: 15}]"),
			`line 4: address-pools[0].advertisements[0].aggregation-length: "15" reaches beyond the pool's "10.1.0.0/16": use at least 16 (column 41)`},
		{"aggregation-length beyond one range of the pool", "address-pools:\n- name: a\n  cidr: [10.1.0.0/16, 10.2.0.4-10.2.0.9]\n  advertisements: [{aggregation-length: 24}]\n",
			`line 4: address-pools[0].advertisements[0].aggregation-length: "24" reaches beyond the pool's "10.2.0.4-10.2.0.9": use at least 30 (column 41)`},
		{"aggregation-length-v6 too long", pool("advertisements: [{aggregation-length-v6: 129}]"),
			`line 4: address-pools[0].advertisements[0].aggregation-length-v6: "129" is not possible here: use a whole number from 0 to 128 (column 44)`},
		{"aggregation-length-v6 beyond the pool", "address-pools:\n- name: a\n  cidr: [10.0.0.0/8, '2001:db8::/64', '2001:db8:1::/56']\n  advertisements: [{aggregation-length: 24, aggregation-length-v6: 60}]\n",
			`line 4: address-pools[0].advertisements[0].aggregation-length-v6: "60" reaches beyond the pool's "2001:db8::/64": use at least 64 (column 68)`},
		{"both lengths beyond the pool", "address-pools:\n- name: a\n  cidr: [10.0.0.0/24, '2001:db8::/64']\n  advertisements: [{aggregation-length-v6: 60, aggregation-length: 20}]\n",
			`line 4: address-pools[0].advertisements[0].aggregation-length-v6: "60" reaches beyond the pool's "2001:db8::/64": use at least 64 (column 44)` + "\n" +
				`line 4: address-pools[0].advertisements[0].aggregation-length: "20" reaches beyond the pool's "10.0.0.0/24": use at least 24 (column 68)`},
		{"localpref below zero", pool("advertisements: [{localpref: -1}]"),
			`line 4: address-pools[0].advertisements[0].localpref: "-1" is not possible here: use a whole number from 0 to 4294967295 (column 32)`},
		{"localpref too large", pool("advertisements: [{localpref: 4294967296}]"),
			`line 4: address-pools[0].advertisements[0].localpref: "4294967296" is not possible here: use a whole number from 0 to 4294967295 (column 32)`},
		{"a community nobody defined", "communities: {vpn-only: 1234:1}\naddress-pools:\n- name: a\n  cidr: [10.1.0.0/16]\n  advertisements: [{communities: [vpn_only]}]\n",
			`line 5: address-pools[0].advertisements[0].communities[0]: "vpn_only" is neither a name from communities nor a community: did you mean "vpn-only"? (column 35)`},
		{"a community that is none", pool("advertisements: [{communities: [64500:70000]}]"),
			`line 4: address-pools[0].advertisements[0].communities[0]: "64500:70000" is neither a name from communities nor a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 35)`},
		{"a community that is empty", pool("advertisements:", "- communities:", "  -"),
			`line 6: address-pools[0].advertisements[0].communities[0]: is empty: write two numbers up to 65535, as in 64500:1, or large:64500:1:2, or a name from communities (column 6: "-")`},
		{"a peer that is none", "peers:\n- name: tor-a\n  peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\naddress-pools:\n- name: a\n  cidr: [10.1.0.0/16]\n  advertisements: [{peers: [tor-b]}]\n",
			`line 9: address-pools[0].advertisements[0].peers[0]: "tor-b" is the name of no peer: did you mean "tor-a"? (column 29)`},
		{"a peer where there are none", pool("advertisements: [{peers: [spine]}]"),
			`line 4: address-pools[0].advertisements[0].peers[0]: "spine" is the name of no peer: write the name of one of peers (column 29)`},
		{"a peer that is empty", pool("advertisements:", "- peers:", "  -"),
			`line 6: address-pools[0].advertisements[0].peers[0]: is empty: write the name of a peer (column 6: "-")`},
		{"as-path-prepend too many", pool("advertisements: [{as-path-prepend: 11}]"),
			`line 4: address-pools[0].advertisements[0].as-path-prepend: "11" is not possible here: use a whole number from 0 to 10 (column 38)`},
		{"link-bandwidth is a number", pool("advertisements: [{link-bandwidth: 10}]"),
			`line 4: address-pools[0].advertisements[0].link-bandwidth: "10" is neither true nor false: write one of the two (column 37)`},
		{"an AS that is neither", "peers: [{peer-address: 10.0.0.1, peer-asn: extern, my-asn: Node}]\n",
			`line 1: peers[0].peer-asn: "extern" is not possible here: use a whole number from 1 to 4294967295, or external or internal (column 44)` + "\n" +
				`line 1: peers[0].my-asn: "Node" is not possible here: use a whole number from 1 to 4294967295, or node (column 60)`},
		{"several hops within our AS", "peers: [{peer-address: 10.0.0.1, peer-asn: internal, my-asn: node, ebgp-multihop: 2}]\n",
			`line 1: peers[0].ebgp-multihop: "2" is for eBGP, and peer-asn is internal: remove it (column 83)`},
		{"a source of the other IP version than the gateway", "peers: [{peer-address: gateway-v6, peer-asn: 1, my-asn: 2, source-address: 10.0.0.2}]\n",
			`line 1: peers[0].source-address: "10.0.0.2" is not of the same IP version as the peer-address gateway-v6: write an address of that version, or node-ip (column 76)`},
		{"the same gateway twice", "peers:\n- {peer-address: gateway, peer-asn: 1, my-asn: 2}\n- {peer-address: gateway, peer-asn: 1, my-asn: 2}\n",
			`line 3: peers[1]: is the same peer as peers[0] on line 2: keep one (column 3: "{peer-address: gateway, peer-asn: 1, my-asn: 2}")`},
		{"a community of Services that is none", pool("service-communities: [gold, no-exprt]"),
			`line 4: address-pools[0].service-communities[0]: "gold" is neither a name from communities nor a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 25)` + "\n" +
				`line 4: address-pools[0].service-communities[1]: "no-exprt" is neither a name from communities nor a community: did you mean "no-export"? (column 31)`},
		{"an empty community of Services", pool("service-communities: ['']"),
			`line 4: address-pools[0].service-communities[0]: is empty: write two numbers up to 65535, as in 64500:1, or large:64500:1:2, or a name from communities (column 25: "'']")`},
		{"communities of Services that find no room", pool("service-communities: [" + manyCommunities(961) + "]"),
			`line 4: address-pools[0].service-communities: these take 3844 bytes in a BGP message, and there is room for 3840: that is 960 communities, or 320 large ones (column 24)`},
		{"advertise: nothing", pool("advertise: never"),
			`line 4: address-pools[0].advertise: "never" is neither true nor false: write one of the two (column 14)`},
		{"service-selectors misspelt", pool("advertisements: [{service-selectors: [{match-labels: gold}]}]"),
			`line 4: address-pools[0].advertisements[0].service-selectors[0].match-labels: "gold" is not a mapping: write it as lines of "key: value" (column 56)`},
		{"service-selector without s", pool("advertisements: [{service-selector: [{}]}]"),
			`line 4: address-pools[0].advertisements[0].service-selector: is not a key of this configuration: did you mean "service-selectors"? (column 21: "service-selector: [{}]}]")`},
		{"more primaries than any router uses", pool("advertisements: [{primaries: 65}]"),
			`line 4: address-pools[0].advertisements[0].primaries: "65" is not possible here: use a whole number from 0 to 64 (column 32)`},
		{"primaries without a local preference to halve", pool("advertisements: [{primaries: 2, localpref: 1}]"),
			`line 4: address-pools[0].advertisements[0].localpref: "1" leaves nothing for spares, which announce half of it: use at least 2 (column 46)`},
		{"affinity without a local preference to halve", pool("advertisements: [{client-ip-affinity: true, localpref: 0}]"),
			`line 4: address-pools[0].advertisements[0].localpref: "0" leaves nothing for spares, which announce half of it: use at least 2 (column 58)`},
		{"affinity by name", pool("advertisements: [{client-ip-affinity: ClientIP}]"),
			`line 4: address-pools[0].advertisements[0].client-ip-affinity: "ClientIP" is neither true nor false: write one of the two (column 41)`},
		{"two that differ in their primaries alone", pool("advertisements:", "- {}", "- primaries: 2"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other attributes: give them different peers, node-selectors or aggregation lengths (column 5: "primaries: 2")`},
		{"two that differ in affinity alone", pool("advertisements:", "- client-ip-affinity: true", "-"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other attributes: give them different peers, node-selectors or aggregation lengths (column 4: "-")`},
		{"two that differ in weight alone", pool("advertisements:", "- {}", "- link-bandwidth: true"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other attributes: give them different peers, node-selectors or aggregation lengths (column 5: "link-bandwidth: true")`},
		{"hold-down of ten years", pool("hold-down: 87600h"),
			`line 4: address-pools[0].hold-down: "87600h" is too long: use at most 604800s (column 14)`},
		{"hold-down below zero", pool("hold-down: -1s"),
			`line 4: address-pools[0].hold-down: "-1s" is too short: use 0 or at least 1s (column 14)`},
		{"hold-down in halves", pool("hold-down: 1500ms"),
			`line 4: address-pools[0].hold-down: "1500ms" is not in whole seconds: use 1s (column 14)`},
		{"hold-down is a word", pool("hold-down: long"),
			`line 4: address-pools[0].hold-down: "long" is not a duration such as 90s: use 0 or at least 1s (column 14)`},
		{"holddown misspelt", pool("hold_down: 1h"),
			`line 4: address-pools[0].hold_down: is not a key of this configuration: did you mean "hold-down"? (column 3: "hold_down: 1h")`},
		{"namespace-selectors misspelt", pool("namespace-selector: [{match-labels: {env: prod}}]"),
			`line 4: address-pools[0].namespace-selector: is not a key of this configuration: did you mean "namespace-selectors"? (column 3: "namespace-selector: [{match-labels: {env: prod}}]")`},
		{"a label of namespaces that cannot be", pool("namespace-selectors: [{match-labels: {env: not good}}]"),
			`line 4: address-pools[0].namespace-selectors[0].match-labels.env: "not good" is not a value that a label can have: write ` + nameRule + `, or nothing (column 46)`},
		{"node-selectors misspelt", pool("advertisements: [{node-selectors: [{match-labels: rack}]}]"),
			`line 4: address-pools[0].advertisements[0].node-selectors[0].match-labels: "rack" is not a mapping: write it as lines of "key: value" (column 53)`},
		{"two that contradict each other", pool("advertisements:", "- {}", "- localpref: 200"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other attributes: give them different peers, node-selectors or aggregation lengths (column 5: "localpref: 200")`},
		{"two that contradict each other in their communities", pool("advertisements:", "- communities: [no-export]", "- communities: [no-advertise]", "- aggregation-length: 24"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other communities: put all communities into one item (column 5: "communities: [no-advertise]")`},
		{"two that contradict each other in large communities", pool("advertisements:", "- communities: ['large:1:2:3']", "-"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other communities: put all communities into one item (column 4: "-")`},
		{"two that contradict each other for IPv6 only", "address-pools:\n- name: a\n  cidr: [10.1.0.0/16, '2001:db8::/64']\n  advertisements:\n  - {aggregation-length: 24}\n  - {localpref: 200}\n",
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other attributes: give them different peers, node-selectors or aggregation lengths (column 5: "{localpref: 200}")`},
		{"two that contradict each other in prepends", pool("advertisements:", "- as-path-prepend: 1", "-"),
			`line 6: address-pools[0].advertisements[1]: sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other attributes: give them different peers, node-selectors or aggregation lengths (column 4: "-")`},
	}
	for _, test := range tests {
		t.Run(test.mistake, func(t *testing.T) {
			config, warnings, err := Parse([]byte(test.text))
			if err == nil {
				t.Fatalf("accepted:\n%s", test.text)
			}
			if err.Error() != test.want {
				t.Errorf("in the text\n%s\nthe error is\n%s\nwant\n%s", test.text, err, test.want)
			}
			if config != nil || warnings != nil {
				t.Error("a refused text has neither a Config nor warnings")
			}
		})
	}
}

func TestTextsThatAreNotYAMLAreWrongOnTheLineOfTheMistake(t *testing.T) {
	// The mistake of each text stands on the line with the arrow. Where something never ends, it is where that begins.
	texts := []string{`
peers:
- peer-address: 10.0.0.1
  peer-asn: 100
 my-asn: 42 # <-
- peer-address: 10.0.0.2
`, `
peers:
- peer-address: 10.0.0.1
    peer-asn: 100 # <-
`, `
peers:
- peer-address: 10.0.0.1
  peer-asn: 100
address-pools:
- name: a
  cidr: [10.0.0.0/24 # <-
  auto-assign: false
`, `
peers:
- peer-address: 10.0.0.1
  node-selectors: [{match-labels: {rack: one} # <-
  my-asn: 42]
`, `
address-pools:
- name: "a # <-
  cidr: [10.0.0.0/24]
`, `
address-pools:
- name: a
  cidr: [10.0.0.0/24]
 addresses: [10.0.1.0/24] # <-
  auto-assign: false
`, `peers: [ # <-`, `peers: ] # <-`, `a: b: c # <-`, `"a # <-`, `
peers:
- peer-address: 10.0.0.1
	peer-asn: 100 # <-
`, `
peers:
- name: *nobody # <-
`, `
peers:
- name: a
  # *nobody stands for nothing
  router-id: *nobody # <-
`, `
peers: []
... # the end
- # <-
`,
	}
	for _, text := range texts {
		before, _, _ := strings.Cut(text, "# <-")
		want := 1 + strings.Count(before, "\n")
		_, _, err := Parse([]byte(text))
		if err == nil || err.(Problems)[0].Line != want {
			t.Errorf("the text\n%s\nis refused with %v, want line %d", text, err, want)
		}
	}
}

func TestTextsThatAreNotYAMLAreToldARemedy(t *testing.T) {
	for text, remedy := range map[string]string{
		"peers: []\n...\n- x\n":            `did not find expected <document start>: the text ends above this line: remove it and what follows, or the mark that ends the text ("- x")`,
		"---\npeers: []\n... x\n":          "the text ends above this line",
		"{peers: []}}\n":                   "the text ends above this line",
		"peers: []\n---\n- x\n":            `a second YAML document begins here: keep one`,
		"peers: []\n%YAML\n":               "put the value into quotes, or remove the line",
		"%x\n---\npeers: []\n":             "put the value into quotes, or remove the line",
		"peers: {a, b: c: d}\n":            `did not find expected ',' or '}': put a comma between two values, and close each bracket`,
		"peers: [a, b\n":                   `did not find expected ',' or ']': put a comma between two values, and close each bracket`,
		"peers: [,]\n":                     "write a value there, or complete or remove the bracket",
		"peers: ]\n":                       "write a value there, or complete or remove the bracket",
		"a: b: c\n":                        `write each key with its colon on a line of its own, also above, and put a value that contains ": " into quotes`,
		"peers:\n- name: a\n  b\n  c: 1\n": `could not find expected ':': write a colon and a space after the key`,
		"peers: \"abc\n":                   "close the quotes",
		"peers: \"abc\n---\nb\"\n":         "close the quotes",
		"peers: *\n":                       "put the value into quotes",
		"peers: >x\n a\n":                  "put the value into quotes",
		"peers: \"\\q\"\n":                 "put the value into single quotes",
		"peers: \"\\xZZ\"\n":               "put the value into single quotes",
		"peers: !a!b c\n":                  "put the value into quotes",
	} {
		if got, _, _ := strings.Cut(said(text), "\n"); !strings.Contains(got, remedy) {
			t.Errorf("of\n%s\nis said\n%s\nwithout %q", text, got, remedy)
		}
	}
}

func TestAllMistakesAreReportedAtOnceInTheOrderOfTheText(t *testing.T) {
	_, _, err := Parse([]byte(`
address-pools:
- name: default
  cidr: [10.0.0.0/33, 10.0.1.0/24]
  auto-asign: false
  advertisements:
  - {localpref: -1, aggregation-length: 40, peers: [b]}
communities:
  vpn: 1234
peers:
- peer-address: a
  peer-asn: 100
  my-asn: 42
- peer-address: 10.0.0.1
  hold-time: 1s
`))
	want := trimmed(`
		line 4: address-pools[0].cidr[0]: "10.0.0.0/33" is not a range of addresses: write 192.168.10.0/24 or 192.168.10.5-192.168.10.20 (column 10)
		line 5: address-pools[0].auto-asign: is not a key of this configuration: did you mean "auto-assign"? (column 3: "auto-asign: false")
		line 7: address-pools[0].advertisements[0].localpref: "-1" is not possible here: use a whole number from 0 to 4294967295 (column 17)
		line 7: address-pools[0].advertisements[0].aggregation-length: "40" is not possible here: use a whole number from 0 to 32 (column 41)
		line 7: address-pools[0].advertisements[0].peers[0]: "b" is the name of no peer: write the name of one of peers (column 53)
		line 9: communities.vpn: "1234" is not a community: write two numbers up to 65535, as in 64500:1, or large:64500:1:2 (column 8)
		line 11: peers[0].peer-address: "a" is not an IP address that a router can have: write the router's own, and no name; or gateway or gateway-v6 (column 17)
		line 14: peers[1].peer-asn: is missing: write the router's AS number (column 3: "peer-address: 10.0.0.1")
		line 14: peers[1].my-asn: is missing: write the AS number of your cluster (column 3: "peer-address: 10.0.0.1")
		line 15: peers[1].hold-time: "1s" is too short: use 0 or at least 3s (column 14)`)
	if err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
	first := err.(Problems).First(2)
	if lines := strings.Split(first, "\n"); len(lines) != 3 || lines[2] != "and 8 more" {
		t.Errorf("the first two:\n%s", first)
	}
}

func TestAdvertisementsThatNeverMeetDoNotContradict(t *testing.T) {
	tests := []struct {
		name, one, other string
		accepted         bool
	}{
		{"everybody", "{}", "{localpref: 200}", false},
		{"equal ones", "{localpref: 200, communities: [no-export, '1:1']}", "{communities: ['1:1', no-export], localpref: 200}", true},
		{"other lengths", "{aggregation-length: 24}", "{localpref: 200}", true},
		{"other lengths of a family that the pool has not", "{aggregation-length-v6: 64}", "{localpref: 200}", false},
		{"other peers", "{peers: [a]}", "{peers: [b], localpref: 200}", true},
		{"a peer in common", "{peers: [a, b]}", "{peers: [c, b], localpref: 200}", false},
		{"one peer and all", "{peers: [a]}", "{localpref: 200}", false},
		{"other racks", "{node-selectors: [{match-labels: {rack: one}}]}", "{node-selectors: [{match-labels: {rack: two}}], localpref: 200}", true},
		{"a rack and a row", "{node-selectors: [{match-labels: {rack: one}}]}", "{node-selectors: [{match-labels: {row: two}}], localpref: 200}", false},
		{"a rack and all", "{node-selectors: [{match-labels: {rack: one}}]}", "{localpref: 200}", false},
		{"a rack and an empty item", "{node-selectors: [{match-labels: {rack: one}}]}", "{node-selectors: [{}], localpref: 200}", false},
		{"one of two items in common", "{node-selectors: [{match-labels: {rack: one}}, {match-labels: {rack: two}}]}", "{node-selectors: [{match-labels: {rack: two}}], localpref: 200}", false},
		{"gateways and the others", "{node-selectors: [{match-expressions: [{key: gateway, operator: Exists}]}]}", "{node-selectors: [{match-expressions: [{key: gateway, operator: DoesNotExist}]}], localpref: 200}", true},
		{"a rack and not that rack", "{node-selectors: [{match-labels: {rack: one}}]}", "{node-selectors: [{match-expressions: [{key: rack, operator: NotIn, values: [one]}]}], localpref: 200}", true},
	}
	const peers = `
peers:
- {name: a, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
- {name: b, peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42}
- {name: c, peer-address: 10.0.0.3, peer-asn: 100, my-asn: 42}
`
	for _, test := range tests {
		for _, order := range [][]string{{test.one, test.other}, {test.other, test.one}} {
			_, _, err := Parse([]byte(peers + pool("advertisements:", "- "+order[0], "- "+order[1])))
			if test.accepted && err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			if !test.accepted && (err == nil || !strings.Contains(err.Error(), "address-pools[0].advertisements[1]: sends the same prefixes")) {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
}

func TestPasswordsNeverStandInAnError(t *testing.T) {
	const secret = "hunter2"
	texts := []string{
		peer("password: hunter2"),
		peer("password: [hunter2]"),
		peer("password: {a: hunter2, hunter2: b}"),
		peer("password: |", "  hunter2"),
		peer("password: !!int hunter2"),
		peer("password: *hunter2"),
		peer("password: '*hunter2'", "name: *hunter2"),
		peer("password: @hunter2"),
		peer("password: %hunter2"),
		peer("password: 'hunter2"),
		peer("password: \"\\hunter2\""),
		peer("password hunter2"),
		peer("password:hunter2"),
		peer("password=hunter2: x"),
		peer("passwords: hunter2"),
		peer("Password: hunter2"),
		peer("bgp-password: hunter2"),
		peer("password: &p hunter2", "router-id: *p"),
		peer("password: &p hunter2", "hold-time: *p"),
		peer("password: &p hunter2", "ebgp-multihop: *p"),
		peer("password: &p hunter2", "source-address: *p", "peer-port: *p", "graceful-restart: *p"),
		peer("password: &p {a: hunter2}", "name: hunter2", "node-selectors: *p"),
		peer("name: &p hunter2", "password: *p") + "- {name: hunter2, peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42}\n",
		peer("name: &p hunter2", "password: *p") + pool("advertisements: [{peers: [hunter3]}]"),
		peer("password-key: hunter2", "peer-port: hunter2"),
		peer("hold-time: 90s password hunter2"),
		peer("hold-time: |", "  90s", "  password: hunter2"),
		"peers: [password hunter2]\n",
		"peers: password=hunter2\n",
		"password: hunter2\n",
		"password:\n- hunter2\n",
		"communities:\n  password: hunter2\n",
		"communities:\n  vpn: {password: hunter2}\n",
		"address-pools:\n- password: hunter2\n  name: a\n  cidr: [hunter2]\n",
		pool("password: hunter2", "advertisements: [{peers: [hunter2], communities: [hunter2]}]"),
		"peers:\n- name: x\n   password: hunter2\n",
		"{peers: [{password: hunter2}], password: hunter2",
		"{peers: [{password: foo\n hunter2, name:\n}]}",
		"peers:\n- {hold-tme: 9s, password: hunter2}\n",
		"peers:\n- hold-tme: [hunter2]\n  password: hunter2\n",
		"password:\n- \"hun\\x74er2\"\n- - hunter2\n",
		"peers:\n- password: |\n    foo\n    hunter2\n   x: hunter2\n",
		"peers:\n- password: 'foo\n    hunter2: x: hunter2\n",
		"peers:\n- password: foo\n    hunter2: hunter2\n",
		"peers:\n- password: \"foo\nhunter2\" hunter2: x\n",
		"a: [password: foo\nhunter2\n",
		peer("pasword: hunter2"),
		peer("passwrd: hunter2"),
		peer("psk: hunter2"),
		peer("pwd: hunter2", "md5: [hunter2]", "key: {hunter2: hunter2}"),
		"peers:\n- {peer-address: 10.0.0.1, secret: hunter2}\n",
		"peers:\n- {peer-address: 10.0.0.1, pasword: hunter2}\n",
		"peers:\n- {pasword: 'hunter2}\n",
		"peers:\n- passwrod: hunter2: x\n",
		"password:\n- hunter2\x07\n",
		"password: |\n foo\n hunter2\xff\n",
		peer("name: &p foo", "password: *p", "router-id: &p hunter2") + "- {password: *p, peer-address: x}\n",
		"peers:\n- name: &p hunter2: x\n  password: *p\n",
	}
	accepted := 0
	for _, text := range texts {
		config, warnings, err := Parse([]byte(text))
		if err == nil {
			accepted++
			said := fmt.Sprintf("%v %+v %#v", warnings, config.Peers, config.Peers)
			if name := config.Peers[0].Name; strings.Contains(strings.ReplaceAll(said, name, ""), secret) {
				t.Errorf("the text\n%s\nis accepted with\n%s", text, said)
			}
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("the text\n%s\nis refused with\n%v", text, err)
		}
		if _, _, err := ParseAdmitted([]byte(text)); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the text\n%s\nis not admitted with\n%v", text, err)
		}
	}
	if accepted != 3 {
		t.Errorf("%d texts are accepted, want 3: those that have a password and no mistake", accepted)
	}
}

// What YAML takes for a tag, an anchor, an alias, a comment or a list was meant as a password all the same.
func TestNoLineOfAPasswordIsShownWhateverYAMLMakesOfIt(t *testing.T) {
	texts := []string{
		"name: &l [hunter2]", "node-selectors: &l [{match-labels: &m {hunter2: hunter2!}}]\n  password: *m",
		"password: &hunter2 {}\n  <<: {<<: [*hunter2, x]}", "? &k password\n  : hunter2\n  name: {*k : [hunter2]}",
	}
	texts[0] += "\n  password: *l"
	for _, value := range []string{
		"!hunter2", "!!hunter2", "!<hunter2>", "! hunter2", "!hunter2 x", "!hunter2 {}", "!hunter2 []", "!hunter2\n  - x", "!hunter2\n    a: b",
		"&hunter2", "&hunter2 x", "&hunter2 []", "&hunter2 {}", "&hunter2\n  - x", "&hunter2\n    a: b", "&x !hunter2", "!x &hunter2", "&a\n    !hunter2",
		"*hunter2", "#hunter2", "# hunter2", "\n    # hunter2", "x # hunter2", "~ # hunter2", "[] # hunter2", "{} # hunter2", "'' # hunter2",
		"|", "|\n    hunter2", "|-\n    x\n    hunter2", "|hunter2", ">", ">\n    x\n    hunter2", ">hunter2", "| # hunter2\n    x", "!hunter2 |\n    x",
		"x\n    hunter2", "'x\n    hunter2'", "\"x\\\n    hunter2\"", "\n    hunter2",
		"[x,\n    hunter2]", "{x:\n    hunter2}", "{hunter2}", "[[hunter2]]", "- hunter2", "? hunter2", "hunter2: x", "%hunter2", "@hunter2", "`hunter2",
	} {
		for _, key := range []string{"password", "password-key", "pasword", "Password", "bgp-password"} {
			texts = append(texts, key+": "+value, key+": "+value+"\n  hold-tme: 9s", "hold-tme: 9s\n  "+key+": "+value)
		}
	}
	for i, text := range texts {
		texts[i] = peer(text)
	}
	for _, value := range []string{"hunter2", "!hunter2", "&hunter2 x", "&hunter2", "#hunter2\n", "# hunter2\n", "'x\n hunter2'", "!hunter2 ''", "&x\n !hunter2 ", "[hunter2]", "x hunter2"} {
		for _, word := range []string{"password", "password: ", "password, ", "password, x, ", "password : "} {
			for _, list := range []string{"peers: [%s%s]", "peers: [{%s%s}]", "peers: [{%s%s, name:\n}]", "peers: [{hold-tme: 9s, %s%s}]", "communities: {%s%s}", "communities: {vpn: [%s%s]}",
				"address-pools: [{name: a, cidr: [%s%s]}]", "[%s%s]", "{%s%s}"} {
				texts = append(texts, fmt.Sprintf(list, word, value))
			}
		}
	}
	texts = append(texts,
		"peers:\n- password\n- hunter2\n", "peers:\n- password\n-\n- !hunter2\n", "peers:\n- &p password\n- x\n- [*p, hunter2]\n- [*p , !hunter2 []]\n",
		"peers:\n- password\n- hunter2: x\n", "peers:\n- password:\n- hunter2\n", "peers:\n- password:\n  hunter2:\n", "communities: {password: hunter2, hunter2: x}\n",
		"password:\n---\nhunter2\n", "password:\n--- hunter2\n",
		"peers:\n- {hold-tme: 9s, secret: hunter2}\n", "peers:\n- {hold-tme: 9s, psk: !hunter2}\n", "peers:\n- {hold-tme: 9s, md5: &hunter2}\n",
	)
	for _, text := range texts {
		config, warnings, err := Parse([]byte(text))
		told := fmt.Sprintf("%v %v", err, warnings)
		if err == nil {
			v := (*Config)(nil).Admit(config, Facts{})
			told = fmt.Sprintf("%v %v %v", warnings, v.Unfit, v.Warnings)
		}
		if _, _, err := ParseAdmitted([]byte(text)); err != nil {
			told += fmt.Sprint(" ", err)
		}
		if strings.Contains(told, "hunter2") {
			t.Errorf("of\n%s\nis told\n%s", text, told)
		}
	}
}

// MetalLB took all of these for no password, and its configurations work here unedited.
func TestAnEmptyPasswordIsNoneAndAWarning(t *testing.T) {
	const inline = "line 5: peers[0].password: the password is empty, so the session has none: if yours begins with #, !, & or *, put it in quotes; else remove the key (column "
	for _, empty := range []string{``, ` ""`, ` ''`, ` ~`, ` null`, ` #hunter2`, ` &hunter2`, ` &hunter2 ""`, ` |`, ` >`} {
		config, warnings, err := Parse([]byte(peer("password:" + empty)))
		if err != nil || config.Peers[0].Password != "" || len(warnings) != 1 || !strings.HasPrefix(warnings[0].Error(), inline) {
			t.Errorf("password:%s: warnings %v, %v", empty, warnings, err)
		}
		config, warnings, err = Parse([]byte(peer("password-key:" + empty)))
		if err != nil || config.Peers[0].PasswordKey != "" || len(warnings) != 1 ||
			!strings.HasPrefix(warnings[0].Error(), "line 5: peers[0].password-key: names no key of Secret metallb-bgp-auth, so the session has no password: write the key, or remove this one (column ") {
			t.Errorf("password-key:%s: warnings %v, %v", empty, warnings, err)
		}
		config, warnings, err = Parse([]byte(peer("password:"+empty, "password-key: tor")))
		if err != nil || config.Peers[0].PasswordKey != "tor" || len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "peers[0].password: is empty, and password-key counts: remove this one") {
			t.Errorf("password:%s beside a password-key: warnings %v, %v", empty, warnings, err)
		}
	}
}

func TestAPasswordWithATagIsRefusedUnlessTheTextInForceHasOne(t *testing.T) {
	for _, tagged := range []string{"!hunter2", "!hunter2 x", "! hunter2", "!!hunter2 x", "!!null hunter2", "!!str hunter2", "&p !hunter2 x", "!hunter2 'x'", "!hunter2 |-\n    x"} {
		for key, column := range map[string]int{"password": 13, "password-key": 17} {
			text := peer(key + ": " + tagged)
			tells(t, text, fmt.Sprintf("line 5: peers[0].%s: begins with !, of which YAML makes a tag: put it in quotes (column %d)", key, column))
			inForce, _, err := ParseAdmitted([]byte(text))
			if err != nil {
				t.Errorf("%s, which an earlier release admitted: %v", text, err)
			} else if v := inForce.Admit(parse(t, text), Facts{NodesKnown: true}); !v.Admits() {
				t.Errorf("%s, which is in force: %s", text, against(v))
			}
		}
	}
	equal(t, said(peer("password: '!hunter2'")), "")
	tells(t, "peers:\n- name: &x !hunter2 tor\n  password: *x\n  peer-address: 10.0.0.1\n  peer-asn: 1\n  my-asn: 2\n", "of which YAML makes a tag")
}

func TestAnAdmittedTextOfALaterVersionLosesOnlyWhatThisOneDoesNotKnow(t *testing.T) {
	text := `
telemetry: {interval: 5s}
peers:
- {name: a, peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, password-key: tor, colour: blue}
- {name: b, peer-address: "2001:db8::1", peer-asn: 100, my-asn: 42}
address-pools:
- name: web
  cidr: [10.1.0.0/16, "2001:db8:1::/64"]
  namespaces: [shop]
  leases: {10.1.0.0: shop/web}
  advertisements:
  - {mood: sunny, peers: [a]}
  - {localpref: 200, peers: [b]}
- name: six
  cidr: ["2001:db8:2::/64"]
`
	if _, _, err := Parse([]byte(text)); err == nil {
		t.Fatal("the operator is not told")
	}
	config, ignored, err := ParseAdmitted([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	// telemetry, colour, leases, mood
	if ignored != 4 {
		t.Errorf("ignored %d, want 4", ignored)
	}
	if len(config.Peers) != 2 || len(config.Pools) != 2 {
		t.Errorf("peers %v, pools %v", config.Peers, config.Pools)
	}
	// What only peer b should hear reaches nobody else.
	got := notation(config.Routes(netip.MustParseAddr("10.1.2.3"), nil))
	want := "10.1.2.3/32 pref 100 to a\n10.1.2.3/32 pref 200 to b"
	if got != want {
		t.Errorf("routes:\n%s\nwant:\n%s", got, want)
	}

	apart := pool("advertisements:", "- {localpref: 200, hours: [day]}", "- {localpref: 100, hours: [night]}")
	if _, ignored, err := ParseAdmitted([]byte(apart)); err != nil || ignored != 2 {
		t.Errorf("what keeps advertisements apart may be unknown: %d ignored, %v", ignored, err)
	}
	twins := peer("hours: day") + "- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42, hours: night}\n"
	if config, ignored, err := ParseAdmitted([]byte(twins)); err != nil || ignored != 2 || len(config.Peers) != 2 || config.Peers[0].Name == config.Peers[1].Name {
		t.Errorf("what keeps peers apart may be unknown: %d ignored, %v, %+v", ignored, err, config)
	}
	if _, _, err := ParseAdmitted([]byte(peer("hold-time: 1s"))); err == nil {
		t.Error("a wrong value of a known key is wrong for speakers as well")
	}
}

// Earlier versions admitted labels that nothing can have. Such a text stays in force, and its selectors mean what they say.
func TestAdmittedLabelsThatNothingHasSelectAsWritten(t *testing.T) {
	type labels = map[string]string
	tests := []struct {
		selectors string
		node      labels
		want      bool
	}{
		{"{match-labels: {rack: rack one}}", labels{"rack": "one"}, false},
		{"{match-labels: {rack-: one}}", labels{"rack": "one"}, false},
		{"{match-labels: {'': one}}", nil, false},
		{"{match-expressions: [{key: rack, operator: In, values: [rack one, one]}]}", labels{"rack": "one"}, true},
		{"{match-expressions: [{key: rack, operator: NotIn, values: [rack one]}]}", labels{"rack": "one"}, true},
		{"{match-expressions: [{key: rack-, operator: Exists}]}", labels{"rack": "one"}, false},
		{"{match-expressions: [{key: a/b/c, operator: DoesNotExist}]}", labels{"rack": "one"}, true},
		{"{match-labels: {rack: rack one}}, {match-labels: {rack: two}}", labels{"rack": "two"}, true},
	}
	for _, test := range tests {
		text := peer("node-selectors: ["+test.selectors+"]") + pool("service-selectors: ["+test.selectors+"]", "namespaces: [Shop, shop, ~]", "advertisements: [{node-selectors: ["+test.selectors+"]}]")
		if _, _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: the operator is not told", test.selectors)
		}
		config, ignored, err := ParseAdmitted([]byte(text))
		if err != nil || ignored != 0 {
			t.Fatalf("%s: %d ignored, %v", test.selectors, ignored, err)
		}
		p := config.Pools[0]
		for _, got := range []bool{Selects(config.Peers[0].NodeSelectors, test.node), Selects(p.Advertisements[0].NodeSelectors, test.node), p.Serves("shop", nil, test.node)} {
			if got != test.want {
				t.Errorf("%s selects %v: %v, want %v", test.selectors, test.node, got, test.want)
			}
		}
		if p.Serves("blog", nil, test.node) {
			t.Errorf("%v serve blog", p.Namespaces)
		}
	}
	// One that is empty is not skipped, since none at all mean all.
	if config, _, err := ParseAdmitted([]byte(pool("namespaces: [~]"))); err != nil || config.Pools[0].Serves("shop", nil, nil) {
		t.Errorf("a pool for no namespace serves shop, %v", err)
	}
}

func TestATextThatIsTooLongIsRefusedForThatAlone(t *testing.T) {
	var pools strings.Builder
	pools.WriteString("address-pools:\n")
	for i := range 100_000 {
		fmt.Fprintf(&pools, "- {name: p%d, cidr: [10.%d.%d.%d/32]}\n", i, i>>16, i>>8&255, i&255)
	}
	texts := map[string]string{
		"600 KiB of comments":      peer("name: tor") + strings.Repeat("#\n", 300<<10),
		"600 KiB of anything":      strings.Repeat("\xff", 600<<10),
		"a hundred thousand pools": pools.String(),
	}
	for name, text := range texts {
		r := &reader{}
		r.config([]byte(text))
		if want := "the configuration is longer than 512 KiB: name ranges instead of single addresses"; r.all().Error() != want || r.values > 0 {
			t.Errorf("%s: %s, after %d values, want %s", name, r.all(), r.values, want)
		}
		if _, _, err := ParseAdmitted([]byte(text)); err == nil {
			t.Errorf("%s: admitted", name)
		}
	}
}

func TestTextsThatAreNotUTF8AreRefusedWhereTheyBeginToBe(t *testing.T) {
	tests := []struct{ text, want string }{
		{"\xff", `line 1: this is not UTF-8 text: save the file as UTF-8 (column 1: "�")`},
		{"peers:\n- name: \xc3\x28\n", `line 2: this is not UTF-8 text: save the file as UTF-8 (column 9: "- name: �(")`},
		{"# \xed\xa0\x80\n", `line 1: this is not UTF-8 text: save the file as UTF-8 (column 3: "# ���")`},             // half of a surrogate pair
		{"# é\xf8\x88\x80\x80\x80\n", `line 1: this is not UTF-8 text: save the file as UTF-8 (column 4: "# é�����")`}, // five bytes
		{"peers: []\n\xe2\x82", `line 2: this is not UTF-8 text: save the file as UTF-8 (column 1: "��")`},             // cut short
		{"\xff\xfep\x00", `line 1: this is not UTF-8 text: save the file as UTF-8 (column 1: "��p\x00")`},              // UTF-16
		{"peers:\n- name: \u0080\n", `line 2: the character U+0080 is not allowed in YAML: remove it (column 9: "- name: \u0080")`},
	}
	for _, test := range tests {
		if _, _, err := Parse([]byte(test.text)); err == nil || err.Error() != test.want {
			t.Errorf("%q: %v, want %s", test.text, err, test.want)
		}
		if _, _, err := ParseAdmitted([]byte(test.text)); err == nil || err.Error() != test.want {
			t.Errorf("%q, admitted: %v, want %s", test.text, err, test.want)
		}
	}
}

func TestATextOfTheLongestSizeIsReadAndOneByteMoreIsNot(t *testing.T) {
	text := peer("name: tor")
	text += "#" + strings.Repeat(" ", MaxSize-len(text)-1)
	parse(t, text)
	_, _, err := Parse([]byte(text + " "))
	if want := "the configuration is longer than 512 KiB: name ranges instead of single addresses"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Whoever may write the configuration may also write a hostile one. Each of these is as long as a text may be, and was
// chosen to make some part of the reader work for long: the test is that it ends, and that what it says is short.
func TestHostileTextsAreRefusedInBoundedWork(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const most = 1 << 10 // MiB that are allocated in all, most of them by the YAML library
	fill := func(begin, repeat, end string) string {
		return begin + strings.Repeat(repeat, (MaxSize-len(begin)-len(end))/len(repeat)) + end
	}
	long := strings.Repeat("x", MaxSize/2)
	dot := strings.Repeat("9", MaxSize/2)
	racks := func(n int, value string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "    - {match-labels: {r: %s%d}}\n", value, i)
		}
		return b.String()
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 9))
	}
	merges := "a: &a {x: 1}\n"
	for c := 'b'; c < 'k'; c++ {
		merges += fmt.Sprintf("%c: &%c {<<: [%s]}\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 9))
	}
	tests := map[string]string{
		"namespaces of aliases":                  bomb + "address-pools: [{name: a, cidr: [10.0.0.0/32], namespaces: *j}]\n",
		"many pools of many selectors":           fill("address-pools:\n- service-selectors: &k ["+strings.Repeat("{},", 1000)+"]\n  name: a\n  cidr: [10.0.0.0/32]\n", "- {name: b, cidr: [10.0.0.1/32], service-selectors: *k}\n", ""),
		"a long namespace, often":                fill("address-pools:\n- namespaces:\n  - &k "+long+"\n", "  - *k\n", ""),
		"a long label, often":                    fill("peers:\n- node-selectors:\n  - match-labels: {a: &k "+long+"}\n", "  - match-labels: {*k : *k}\n", ""),
		"one range of 254 networks, often":       fill("address-pools:\n- name: a\n  cidr: [&k '::1-7fff:ffff:ffff:ffff:ffff:ffff:ffff:fffe'", ",*k", "]\n"),
		"peers of one address":                   fill("peers:\n", "- {peer-address: 1.1.1.1, peer-asn: 1, my-asn: 2}\n", ""),
		"BFD, often":                             fill("peers: [", "{bfd-profile: },", "]"),
		"not UTF-8 at the end":                   fill("", "#\n", "\xff"),
		"aliases of aliases":                     bomb + "peers: *j\n",
		"merges of merges":                       merges + "peers: [*j]\n",
		"a list within itself":                   "peers: &p [*p, *p, *p]\n",
		"a selector list within itself":          "peers: [{node-selectors: &p [{match-labels: {<<: [*p, *p]}}]}]\n",
		"a long key, often":                      fill("? &k "+long+"\n: 1\n", "? *k\n: 1\n", ""),
		"a long value, often":                    fill("peers:\n- name: &k "+long+"\n", "- *k\n", ""),
		"a long address, often":                  fill("address-pools:\n- cidr:\n  - &k "+long+"-\n", "  - *k\n", ""),
		"a long number, often":                   fill("address-pools:\n- priority: &k "+dot+"\n", "- {priority: *k}\n", ""),
		"a long community, often":                fill("address-pools:\n- advertisements:\n  - communities:\n    - &k 1:"+dot+"\n", "    - *k\n", ""),
		"many long names":                        fill("address-pools:\n- name: &k "+long+"\n", "- {name: *k}\n", ""),
		"nothing but items":                      fill("peers:\n", "-\n", ""),
		"nothing but keys":                       fill("{", "a,", "a}"),
		"nothing but ranges":                     fill("address-pools:\n- name: a\n  cidr: [", "1.1.1.1/8,", "1.1.1.1/8]\n"),
		"nested lists":                           fill("", "[", ""),
		"nested mappings":                        fill("", "{a: ", ""),
		"nested items":                           fill("", "- ", ""),
		"comments":                               fill("", "#\n", ""),
		"a name near to many long ones":          fill("communities: {", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: 1:1,", "}") + "x: y",
		"pools of many advertisements":           fill("address-pools:\n- advertisements: &k ["+strings.Repeat("~,", 250)+"~]\n  name: a\n  cidr: [10.0.0.0/32]\n", "- {name: b, cidr: [10.0.0.1/32], advertisements: *k}\n", ""),
		"advertisements with selectors to match": "address-pools:\n- name: a\n  cidr: [10.0.0.0/8]\n  advertisements:\n  - node-selectors:\n" + racks(8000, "a") + "  - localpref: 2\n    node-selectors:\n" + racks(8000, "b"),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if len(text) > MaxSize {
				text = text[:MaxSize]
			}
			readers := []*reader{{}}
			if anyKey := []string{"nothing but keys", "namespaces of aliases", "peers of one address"}; slices.Contains(anyKey, name) {
				readers = append(readers, &reader{tolerant: true})
			}
			for _, r := range readers {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				r.config([]byte(text))
				problems := r.all()
				runtime.ReadMemStats(&after)
				allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
				t.Logf("tolerant %v: %d values, %d comparisons, %d MiB, %d problems: %s", r.tolerant, r.values, r.effort, allocated, len(problems), problems.First(1))
				if size := len(problems.Error()); size > 1<<20 {
					t.Errorf("%d bytes of problems", size)
				}
				if r.values > maxValues+MaxSize || r.effort > maxEffort+MaxSize {
					t.Errorf("%d values, %d comparisons", r.values, r.effort)
				}
				if allocated > most && !raced() {
					t.Errorf("%d MiB are allocated", allocated)
				}
				if len(problems) == 0 && name != "comments" && !r.tolerant {
					t.Error("accepted")
				}
			}
		})
	}
}

// raced reports whether the race detector runs, which throws away at random what could be used again.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

// A text of eight times the pools may take eight times as long, give or take; if the reader compared each with each, it
// would take 64 times as long.
func TestManyTinyPoolsCostAsMuchAsTheyAreMany(t *testing.T) {
	text := func(n int) []byte {
		var b strings.Builder
		b.WriteString("address-pools:\n")
		for i := range n {
			fmt.Fprintf(&b, "- {name: p%d, cidr: [10.%d.%d.%d/32]}\n", i, i>>16, i>>8&255, i&255)
		}
		return []byte(b.String())
	}
	most := 100_000
	for len(text(most)) > MaxSize {
		most -= most / 20
	}
	took := func(n int) time.Duration {
		shortest := time.Hour
		for range 2 {
			text := text(n)
			begin := time.Now()
			config, _, err := Parse(text)
			shortest = min(shortest, time.Since(begin))
			if err != nil || len(config.Pools) != n {
				t.Fatal(n, err)
			}
		}
		return shortest
	}
	few, many := took(most/8), took(most)
	t.Logf("%d pools in %v, %d pools in %v", most/8, few, most, many)
	if many > 40*few {
		t.Errorf("%d pools take %v, and %d pools %v", most/8, few, most, many)
	}
}

func TestProblemsPastTheFirstThousandAreCounted(t *testing.T) {
	_, _, err := Parse([]byte(strings.Repeat("a: b\n", 1200)))
	problems := err.(Problems)
	if last := problems[len(problems)-1].Error(); len(problems) != 1001 || last != "there are 200 more problems: solve these first" {
		t.Errorf("%d problems, the last is %q", len(problems), last)
	}
}

func TestASuggestionIsTheNearestKeyAndOnlyIfItIsNear(t *testing.T) {
	tests := []struct{ written, want string }{
		{"peer-adress", "peer-address"},
		{"holdtime", "hold-time"},
		{"hold_time", "hold-time"},
		{"peer-address ", "peer-address"},
		{"asn", ""},
		{"x", ""},
		{"", ""},
		{strings.Repeat("name", 100), ""},
	}
	for _, test := range tests {
		got := new(reader).suggest(test.written, maps.Keys(peerKeys), "remove it")
		want := fmt.Sprintf(": did you mean %q?", test.want)
		if test.want == "" {
			want = ": remove it"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", test.written, got, want)
		}
	}
}

// Helpers.

func sample(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func parse(t testing.TB, text string) *Config {
	t.Helper()
	config, _, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\nin the text\n%s", err, text)
	}
	return config
}

// peer is a configuration with one peer, to which further lines belong.
func peer(lines ...string) string {
	return "peers:\n- peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\n" + indented(lines)
}

// pool is a configuration with one pool, to which further lines belong.
func pool(lines ...string) string {
	return "address-pools:\n- name: a\n  cidr: [10.1.0.0/16]\n" + indented(lines)
}

func indented(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	return b.String()
}

func spans(all ...string) (ranges []netipx.IPRange) {
	for _, s := range all {
		ranges = append(ranges, netipx.MustParseIPRange(s))
	}
	return ranges
}

// owned adds to a Config written by hand what Parse adds.
func owned(config *Config) *Config {
	for i, p := range config.Pools {
		for _, r := range p.Ranges {
			config.owners = append(config.owners, owner{r, i})
		}
	}
	slices.SortFunc(config.owners, func(a, b owner) int { return a.From().Compare(b.From()) })
	return config
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func notation(routes []Route) string {
	var lines []string
	for _, r := range routes {
		lines = append(lines, r.String())
	}
	return strings.Join(lines, "\n")
}

// trimmed removes the indentation of a text in a table.
func trimmed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// manyCommunities is a list of so many different communities.
func manyCommunities(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("'64512:%d'", i))
	}
	return strings.Join(all, ", ")
}

func TestAsManyCommunitiesAsABGPMessageHoldsAreFine(t *testing.T) {
	text := func(n int) []byte {
		return []byte("address-pools: [{name: a, cidr: [10.0.0.0/24], advertisements: [{communities: [" + manyCommunities(n) + "]}]}]")
	}
	if _, _, err := Parse(text(960)); err != nil {
		t.Error(err)
	}
	_, _, err := Parse(text(961))
	const want = "line 1: address-pools[0].advertisements[0].communities: these take 3844 bytes in a BGP message, and there is room for 3840: that is 960 communities, or 320 large ones (column 79)"
	if err == nil || err.Error() != want {
		t.Errorf("one more: %v", err)
	}
	// What another version admitted is no reason for a speaker to lose every route.
	if _, _, err := ParseAdmitted(text(2000)); err != nil {
		t.Error(err)
	}
}

func TestTwoPeersThatAreOneRouterAreAWarningWhereTheTextShowsIt(t *testing.T) {
	const peer = "- {name: %s, peer-address: 10.0.0.1, peer-asn: 64500, my-asn: %d%s}\n"
	for _, c := range []struct {
		what, first, second string
		warned              bool
	}{
		{what: "both on every node", warned: true},
		{what: "one on every node", second: ", node-selectors: [{match-labels: {rack: a}}]", warned: true},
		{what: "one on every node, by an empty item", first: ", node-selectors: [{}]", second: ", node-selectors: [{match-labels: {rack: a}}]", warned: true},
		{what: "on the same nodes", first: ", node-selectors: [{match-labels: {rack: a}}]", second: ", node-selectors: [{match-labels: {rack: a}}]", warned: true},
		{what: "labels will tell", first: ", node-selectors: [{match-labels: {rack: a}}]", second: ", node-selectors: [{match-labels: {rack: b}}]"},
		{what: "another port", second: ", peer-port: 1790"},
		{what: "two neighbors to the router", first: ", source-address: 10.0.0.7", second: ", source-address: 10.0.0.8"},
		{what: "one source may be the kernel's choice", first: ", source-address: 10.0.0.7", warned: true},
	} {
		text := "peers:\n" + fmt.Sprintf(peer, "a", 64512, c.first) + fmt.Sprintf(peer, "b", 64513, c.second)
		_, warnings, err := Parse([]byte(text))
		var got []string
		for _, w := range warnings {
			got = append(got, w.Error())
		}
		want := []string(nil)
		if c.warned {
			want = []string{"line 3: peers[1]: is the same router as peers[0] on line 2: a node that has both speaks to the first only: keep one, or give them node-selectors that select different nodes (column 3)"}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", c.what, got, err, want)
		}
	}
}
