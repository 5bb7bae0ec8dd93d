package loadbalancer

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
)

// FuzzParse checks what everybody behind Parse relies on.
func FuzzParse(f *testing.F) {
	for _, file := range append(samples(f, "metallb"), samples(f, "admitted")...) {
		f.Add(configIn(f, sample(f, file)))
	}
	for _, text := range []string{
		"",
		"peers:\n- peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\naddress-pools:\n- name: default\n  cidr:\n  - 192.168.10.0/24\n",
		peer("name: tor", "hold-time: 9", "keepalive-time: 3s", "connect-time: 1m", "router-id: 1.2.3.4", "source-address: node-ip"),
		peer("ebgp-multihop: 3", "graceful-restart: {restart-time: 5m}", "bfd-profile: x", "bfd-profile: quick", "node-selectors: [{match-labels: {a: b}}]"),
		peer("node-selectors: [{match-expressions: [{key: a, operator: In, values: [b, c]}, {key: d, operator: Exists}]}, ~]"),
		"peers: [{peer-address: gateway, peer-asn: external, my-asn: 1, source-address: 10.0.0.2}, {peer-address: gateway-v6, peer-asn: 1, my-asn: node}, {peer-address: gateway, peer-asn: 1, my-asn: 3}]\n",
		"peers: [{peer-address: 10.0.0.1, peer-asn: external, my-asn: node, router-id: node}, {peer-address: 10.0.0.2, peer-asn: internal, my-asn: 1, ebgp-multihop: true}]\n",
		peer("password: hunter2", "ttl-security: true", "hold-time: 1s"),
		pool("advertisements: [{aggregation-length: 24, localpref: 200, communities: [no-export, '1:2', 'large:1:2:3'], as-path-prepend: 2}, ~]"),
		pool("advertisements: [{primaries: 3, client-ip-affinity: yes, localpref: 2}, {primaries: 65}]"),
		pool("advertise: no", "service-communities: [no-export, '1:2', 'large:1:2:3', '1:2']", "advertisements: [{service-selectors: [{match-labels: {a: b}}], peers: []}, {localpref: 7}, ~]"),
		pool("auto-assign: no", "avoid-buggy-ips: on", "priority: -7", "protocol: bgp"),
		pool("namespaces: [shop, blog, shop]", "service-selectors: [{match-labels: {tier: front}}, ~]", "share-across-namespaces: yes"),
		pool("namespaces: [Shop, '', ~]", "service-selectors: [{match-labels: {a-: -b}, match-expressions: [{key: x/y/z, operator: In, values: [é]}]}]"),
		"address-pools:\n- {name: a, cidr: ['2001:db8::/64', 10.0.0.0/30, '::1-::7'], advertisements: [{aggregation-length: 31, aggregation-length-v6: 126}]}\n",
		"address-pools:\n- {name: a, cidr: ['::/0']}\n- {name: b, cidr: ['ffff::/16', '0.0.0.0-255.255.255.255']}\n",
		"peers:\n- {peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2}\n- {peer-address: 10.0.0.1, peer-asn: 1, my-asn: 3}\n- {name: '10.0.0.1#2', peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2}\n",
		"address-pools:\n- {name: a, cidr: [10.0.0.0/8]}\n- {name: b, addresses: [10.1.0.0-10.2.0.0]}\n",
		"address-pools:\n- {name: a, cidr: [10.0.0.7-10.0.0.9, 10.0.0.0/30], advertisements: [{aggregation-length: 31}]}\n",
		"peers: &p [*p]\n",
		"peers:\n- &a {<<: *a}\n",
		"- - - -\n",
		"{[a]: b}",
		"a: \"\\xff\"\n---\n",
		"\xff",
		"peers:\r\n- name: a\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		config, warnings, err := Parse(text)
		located(t, text, warnings)
		if err != nil {
			problems, ok := err.(Problems)
			if !ok || len(problems) == 0 || config != nil {
				t.Fatalf("%T with %d problems, config %v", err, len(problems), config)
			}
			located(t, text, problems)
			admitted, _, err := ParseAdmitted(text)
			if err != nil {
				located(t, text, err.(Problems))
				return
			}
			for i, p := range admitted.Pools {
				if p.Name == "" || len(p.Advertisements) == 0 || len(p.Ranges) == 0 || admitted.Pool(p.Ranges[0].To()) != &admitted.Pools[i] {
					t.Fatalf("pool %+v", p)
				}
			}
			return
		}
		admitted, ignored, err := ParseAdmitted(text)
		if err != nil || ignored != 0 || !reflect.DeepEqual(admitted, config) {
			t.Fatalf("ParseAdmitted: %d ignored, %v\n%+v\nwant\n%+v", ignored, err, admitted, config)
		}
		sound(t, config)
	})
}

// located checks that problems stand where there is text, in its order, and each on one line of its own.
func located(t *testing.T, text []byte, problems Problems) {
	// What YAML takes for the end of a line.
	lines := strings.Count(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(string(text)), "\n") + 1
	before := Problem{}
	for i, p := range problems {
		if p.Line < 0 || p.Line > lines || p.Column < 0 || p.Text == "" {
			t.Fatalf("a problem on line %d of %d: %v", p.Line, lines, p)
		}
		if last := i == maxProblems; !last && (p.Line < before.Line || p.Line == before.Line && p.Column < before.Column) {
			t.Fatalf("%v\ncomes before\n%v", before, p)
		}
		if len(p.Error()) > 2000 {
			t.Fatalf("a problem of %d bytes", len(p.Error()))
		}
		before = p
	}
}

// sound checks the promises of Config's types.
func sound(t *testing.T, config *Config) {
	names := map[string]bool{}
	for _, p := range config.Peers {
		if p.Name == "" || names[p.Name] {
			t.Fatalf("the name of a peer: %q", p.Name)
		}
		names[p.Name] = true
		labelled(t, p.NodeSelectors)
		whole := func(d time.Duration) bool { return d%time.Second == 0 && d <= 65535*time.Second }
		switch {
		case p.Addr.IsValid() != (p.Gateway == 0) || p.Addr.Is4In6() || p.Port == 0 || (p.ASN == 0) != (p.Relation != Numbered) || (p.MyASN == 0) != p.MyASNFromNode || p.RouterIDFromNode && p.RouterID.IsValid():
			t.Fatalf("%+v", p)
		case p.HoldTime != 0 && p.HoldTime < 3*time.Second || !whole(p.HoldTime):
			t.Fatalf("hold time %s", p.HoldTime)
		case p.KeepaliveTime > p.HoldTime || (p.KeepaliveTime <= 0) != (p.HoldTime == 0):
			t.Fatalf("keepalive time %s of hold time %s", p.KeepaliveTime, p.HoldTime)
		case p.ConnectTime < time.Second || !whole(p.ConnectTime):
			t.Fatalf("connect time %s", p.ConnectTime)
		case p.RestartTime < 0 || p.RestartTime > 4095*time.Second || !whole(p.RestartTime):
			t.Fatalf("restart time %s", p.RestartTime)
		case p.RouterID.IsValid() && !p.RouterID.Is4():
			t.Fatalf("router ID %s", p.RouterID)
		case p.SourceAddress.IsValid() && (p.SourceNodeIP || FamilyOf(p.SourceAddress) != p.Family()):
			t.Fatalf("source address %s", p.SourceAddress)
		case p.IBGP() && p.TTL != 0 && p.MinTTL == 0:
			t.Fatalf("TTL %d for iBGP", p.TTL)
		case p.MinTTL != 0 && (p.TTL != 255 || p.MinTTL == 1):
			t.Fatalf("TTL %d, and at least %d", p.TTL, p.MinTTL)
		case len(p.Password) > 80 || p.Password != "" && p.PasswordKey != "":
			t.Fatalf("a password of %d bytes, and key %q", len(p.Password), p.PasswordKey)
		}
	}
	pools := map[string]bool{}
	var ranges []netipx.IPRange
	for i := range config.Pools {
		p := &config.Pools[i]
		if p.Name == "" || pools[p.Name] || len(p.Ranges) == 0 || len(p.Advertisements) == 0 {
			t.Fatalf("pool %+v", p)
		}
		pools[p.Name] = true
		once := slices.IsSorted(p.Namespaces) && len(slices.Compact(slices.Clone(p.Namespaces))) == len(p.Namespaces)
		if !once || !every(p.Namespaces, isNamespace) {
			t.Fatalf("namespaces %q", p.Namespaces)
		}
		labelled(t, p.ServiceSelectors)
		labelled(t, p.NamespaceSelectors)
		if !slices.IsSortedFunc(p.Ranges, func(a, b netipx.IPRange) int { return a.From().Compare(b.From()) }) {
			t.Fatalf("ranges %v", p.Ranges)
		}
		ranges = append(ranges, p.Ranges...)
		for _, kept := range p.Reservations {
			for _, addr := range kept.Addrs {
				if config.Pool(addr) != p || !p.handsOut(addr) || config.reserved[addr] != kept.Service {
					t.Fatalf("pool %q reserves %v", p.Name, kept)
				}
			}
			if len(kept.Addrs) == 0 || !slices.Equal(config.reservations[kept.Service], kept.Addrs) {
				t.Fatalf("pool %q reserves %v", p.Name, kept)
			}
		}
		if p.HoldDown < 0 || p.HoldDown > 7*24*time.Hour || p.HoldDown%time.Second != 0 {
			t.Fatalf("pool %q holds down for %s", p.Name, p.HoldDown)
		}
		for namespace, quota := range p.Quotas.Namespaces {
			if quota < 1 || !isNamespace(namespace) {
				t.Fatalf("pool %q has quotas %v", p.Name, p.Quotas)
			}
		}
		for _, r := range p.Exclude {
			if !r.IsValid() || config.Pool(r.From()) != p || config.Pool(r.To()) != p || p.handsOut(r.From()) {
				t.Fatalf("pool %q excludes %v", p.Name, r)
			}
		}
		for _, r := range p.Ranges {
			if !r.IsValid() || config.Pool(r.From()) != p || config.Pool(r.To()) != p {
				t.Fatalf("range %v of pool %q", r, p.Name)
			}
			for _, beside := range []netip.Addr{r.From().Prev(), r.To().Next()} {
				if beside.IsValid() && config.Pool(beside) == p && !ranged(p, beside) {
					t.Fatalf("pool %q owns %s", p.Name, beside)
				}
			}
			announced(t, config, p, r)
		}
		for _, a := range p.Advertisements {
			if v4, v6 := a.AggregationLengths[0], a.AggregationLengths[1]; v4 < 0 || v4 > 32 || v6 < 0 || v6 > 128 || a.Route.Prepend > 10 || a.Route.Primaries > 64 ||
				a.Route.LocalPref < 2 && (a.Route.Primaries > 0 || a.ClientIPAffinity) {
				t.Fatalf("advertisement %+v", a)
			}
			labelled(t, a.NodeSelectors)
			labelled(t, a.ServiceSelectors)
			for _, peer := range a.Route.Peers {
				if !names[peer] {
					t.Fatalf("an advertisement for %q", peer)
				}
			}
			route := a.Route
			once := slices.IsSorted(route.Communities) && slices.IsSortedFunc(route.LargeCommunities, LargeCommunity.Compare) && slices.IsSorted(route.Peers) &&
				len(slices.Compact(slices.Clone(route.Communities))) == len(route.Communities) &&
				len(slices.Compact(slices.Clone(route.LargeCommunities))) == len(route.LargeCommunities) &&
				len(slices.Compact(slices.Clone(route.Peers))) == len(route.Peers)
			if !once {
				t.Fatalf("advertisement %+v", a)
			}
		}
	}
	for i, r := range ranges {
		for _, other := range ranges[:min(i, 100)] {
			if r.Overlaps(other) {
				t.Fatalf("%v overlaps %v", r, other)
			}
		}
	}
}

// labelled checks that there can be objects with the labels that selectors name.
func labelled(t *testing.T, selectors []Selector) {
	for _, s := range selectors {
		for _, e := range s {
			if !isLabelKey(e.Key) || !slices.Contains(operators, e.Operator) || !every(e.Values, isLabelValue) {
				t.Fatalf("condition %+v", e)
			}
		}
	}
}

func every(list []string, holds func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !holds(s) })
}

func ranged(p *Pool, addr netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Contains(addr) })
}

// announced checks that no peer hears one prefix in two ways on a node without labels, and that no prefix is wider than
// the widest network of some range allows.
func announced(t *testing.T, config *Config, p *Pool, r netipx.IPRange) {
	shortest := r.From().BitLen()
	for _, prefix := range r.Prefixes() {
		shortest = min(shortest, prefix.Bits())
	}
	asks := []Asks{p.Asks(nil, slices.Collect(maps.Keys(p.ServiceCommunities)), true)}
	for _, a := range p.Advertisements {
		for _, s := range a.ServiceSelectors {
			labels := map[string]string{}
			for _, e := range s {
				labels[e.Key] = strings.Join(e.Values[:min(len(e.Values), 1)], "")
			}
			asks = append(asks, p.Asks(labels, nil, false))
		}
	}
	routes := config.Routes(r.From(), nil, asks...)
	for i, route := range routes {
		if route.Prefix.Bits() < shortest || !route.Prefix.Contains(r.From()) || route.Prefix != route.Prefix.Masked() {
			t.Fatalf("%s for %v", route, r)
		}
		for _, other := range routes[:i] {
			for _, peer := range config.Peers {
				if route.Prefix == other.Prefix && route.For(peer.Name) && other.For(peer.Name) && !sameAttributes(route, other) {
					t.Fatalf("%s hears both\n%s and\n%s", peer.Name, route, other)
				}
			}
		}
	}
}

func sameAttributes(a, b Route) bool {
	a.Peers, b.Peers = nil, nil
	return a.Equal(b)
}
