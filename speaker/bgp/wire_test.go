package bgp

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

func TestOpenByteForByte(t *testing.T) {
	restless := leaf
	restless.RestartTime = 0
	late := leaf
	late.RestartTime = 10_000 * time.Second
	big := leaf
	big.MyASN = 4_200_000_000
	six := restless
	six.Addr = netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		what                            string
		peer                            loadbalancer.Peer
		restarting, forwarding, reduced bool
		wide                            bool
		want                            string
	}{
		{
			what: "the first after a restart of the speaker", peer: leaf, restarting: true, forwarding: true,
			want: `
				ffffffffffffffffffffffffffffffff  marker
				003f 01                           63 bytes, OPEN
				04 fc00 005a 0a000002             version 4, AS 64512, hold time 90 s, router ID 10.0.0.2
				22                                34 bytes of optional parameters
				02 20                             capabilities, 32 bytes
				01 04 0001 00 01                  multiprotocol: IPv4 unicast
				01 04 0002 00 01                  multiprotocol: IPv6 unicast
				41 04 0000fc00                    4-byte AS number 64512
				02 00                             route refresh
				40 0a 8078 0001 01 80 0002 01 80  graceful restart: R, 120 s; IPv4 and IPv6 unicast: F`,
		},
		{
			what: "a later one, of a host that has just booted", peer: leaf,
			want: `
				ffffffffffffffffffffffffffffffff
				003f 01 04 fc00 005a 0a000002 22 02 20 01 04 0001 00 01 01 04 0002 00 01 41 04 0000fc00 02 00
				40 0a 0078 0001 01 00 0002 01 00  graceful restart: no R, 120 s; no F`,
		},
		{
			what: "graceful restart is off", peer: restless, restarting: true, forwarding: true,
			want: `
				ffffffffffffffffffffffffffffffff
				0033 01 04 fc00 005a 0a000002 16 02 14 01 04 0001 00 01 01 04 0002 00 01 41 04 0000fc00 02 00`,
		},
		{
			what: "a restart time that does not fit into 12 bits", peer: late, forwarding: true,
			want: `
				ffffffffffffffffffffffffffffffff
				003f 01 04 fc00 005a 0a000002 22 02 20 01 04 0001 00 01 01 04 0002 00 01 41 04 0000fc00 02 00
				40 0a 0fff 0001 01 80 0002 01 80  graceful restart: 4095 s`,
		},
		{
			what: "a session over IPv6", peer: six,
			want: `
				ffffffffffffffffffffffffffffffff
				003b 01 04 fc00 005a 0a000002 1e 02 1c 01 04 0001 00 01 01 04 0002 00 01 41 04 0000fc00 02 00
				05 06 0001 0001 0002              extended next hop: IPv4 unicast by IPv6`,
		},
		{
			what: "a session over IPv6 that offers little", peer: six, reduced: true,
			want: `
				ffffffffffffffffffffffffffffffff
				002b 01 04 fc00 005a 0a000002 0e 02 0c 01 04 0002 00 01 41 04 0000fc00`,
		},
		{
			what: "an AS number of 4 bytes", peer: big, restarting: true, forwarding: true, reduced: true,
			want: `
				ffffffffffffffffffffffffffffffff
				002b 01 04 5ba0 005a 0a000002     AS 23456, which means: see below
				0e 02 0c 01 04 0001 00 01
				41 04 fa56ea00                    4-byte AS number 4200000000`,
		},
		{
			what: "with lengths of two bytes", peer: leaf, reduced: true, wide: true,
			want: `
				ffffffffffffffffffffffffffffffff
				002f 01 04 fc00 005a 0a000002
				ff ff 000f                        extended optional parameters, 15 bytes
				02 000c                           capabilities, 12 bytes
				01 04 0001 00 01 41 04 0000fc00`,
		},
	} {
		got, err := openMessage(c.peer, c.restarting, c.forwarding, c.reduced, c.wide)
		if err != nil || hex.EncodeToString(got) != golden(c.want) {
			t.Errorf("%s:\n got %x, %v\nwant %s", c.what, got, err, golden(c.want))
		}
	}
}

func TestUpdateByteForByte(t *testing.T) {
	route := loadbalancer.Route{
		Prefix: netip.MustParsePrefix("192.0.2.1/32"), LocalPref: 100,
		Communities:      []loadbalancer.Community{64512<<16 | 1},
		LargeCommunities: []loadbalancer.LargeCommunity{{Global: 64512, Local1: 2, Local2: 3}},
	}
	plain := loadbalancer.Route{Prefix: netip.MustParsePrefix("198.51.100.0/22"), LocalPref: 100}
	longer := plain
	longer.Prepend = 2
	weighed, heavy := plain, plain
	weighed.Weight, heavy.Weight = 3, 1000
	six := loadbalancer.Route{Prefix: netip.MustParsePrefix("2001:db8:7::f0/124"), LocalPref: 100}
	big := leaf
	big.MyASN = 4_200_000_000
	for _, c := range []struct {
		what     string
		peer     loadbalancer.Peer
		as2      bool
		extended bool
		route    loadbalancer.Route
		want     string
	}{
		{
			what: "eBGP has no LOCAL_PREF", peer: leaf, route: route,
			want: `
				ffffffffffffffffffffffffffffffff  marker
				0046 02                           70 bytes, UPDATE
				0000                              nothing withdrawn
				002a                              42 bytes of attributes
				40 01 01 00                       ORIGIN IGP
				40 02 06 02 01 0000fc00           AS_PATH: a sequence of one, 64512
				40 03 04 0a000002                 NEXT_HOP 10.0.0.2
				c0 08 04 fc00 0001                COMMUNITIES 64512:1
				c0 20 0c 0000fc00 00000002 00000003  LARGE_COMMUNITY 64512:2:3
				20 c0000201                       192.0.2.1/32`,
		},
		{
			what: "iBGP has LOCAL_PREF and an empty AS_PATH, also where the route has prepends", peer: spine, route: longer,
			want: `
				ffffffffffffffffffffffffffffffff
				0030 02 0000 0015
				40 01 01 00                       ORIGIN IGP
				40 02 00                          AS_PATH: empty
				40 03 04 0a000002                 NEXT_HOP 10.0.0.2
				40 05 04 00000064                 LOCAL_PREF 100
				16 c63364                         198.51.100.0/22, in three bytes`,
		},
		{
			what: "prepends", peer: leaf, route: longer,
			want: `
				ffffffffffffffffffffffffffffffff
				0037 02 0000 001c
				40 01 01 00
				40 02 0e 02 03 0000fc00 0000fc00 0000fc00
				40 03 04 0a000002
				16 c63364`,
		},
		{
			what: "our AS number has 4 bytes", peer: big, route: plain,
			want: `
				ffffffffffffffffffffffffffffffff
				002f 02 0000 0014
				40 01 01 00
				40 02 06 02 01 fa56ea00
				40 03 04 0a000002
				16 c63364`,
		},
		{
			what: "our AS number has 4 bytes, and the router knows only 2", peer: big, as2: true, route: longer,
			want: `
				ffffffffffffffffffffffffffffffff
				0042 02 0000 0027
				40 01 01 00
				40 02 08 02 03 5ba0 5ba0 5ba0     AS_PATH: 23456, which means: see AS4_PATH
				40 03 04 0a000002
				c0 11 0e 02 03 fa56ea00 fa56ea00 fa56ea00  AS4_PATH
				16 c63364`,
		},
		{
			what: "a weight, as FRR and as BIRD's filter read it", peer: leaf, route: weighed,
			want: `
				ffffffffffffffffffffffffffffffff
				0049 02 0000 002e
				40 01 01 00
				40 02 06 02 01 0000fc00
				40 03 04 0a000002
				c0 10 08 00 04 fc00 48b71b00      EXTENDED COMMUNITIES: link bandwidth, AS 64512, 375000 byte/s
				c0 20 0c 0000fc00 0000004d 00000003  LARGE_COMMUNITY 64512:77:3
				16 c63364`,
		},
		{
			what: "a large weight of an AS number of 4 bytes", peer: big, route: heavy,
			want: `
				ffffffffffffffffffffffffffffffff
				0049 02 0000 002e
				40 01 01 00
				40 02 06 02 01 fa56ea00
				40 03 04 0a000002
				c0 10 08 00 04 5ba0 4cee6b28      AS 23456, 125000000 byte/s
				c0 20 0c fa56ea00 0000004d 00000100  4200000000:77:256
				16 c63364`,
		},
		{
			what: "an IPv6 prefix", peer: leaf, route: six,
			want: `
				ffffffffffffffffffffffffffffffff
				004e 02 0000 0037
				90 0e 0026 0002 01                MP_REACH_NLRI, 38 bytes: IPv6 unicast
				10 20010db8000000000000000000000002 00  next hop 2001:db8::2
				7c 20010db80007000000000000000000f0  2001:db8:7::f0/124
				40 01 01 00
				40 02 06 02 01 0000fc00`,
		},
		{
			what: "an IPv4 prefix by an IPv6 next hop", peer: leaf, extended: true, route: plain,
			want: `
				ffffffffffffffffffffffffffffffff
				0041 02 0000 002a
				90 0e 0019 0001 01
				10 20010db8000000000000000000000002 00
				16 c63364
				40 01 01 00
				40 02 06 02 01 0000fc00
				`,
		},
		{
			what: "the router knows only 2 bytes, which is enough", peer: leaf, as2: true, route: plain,
			want: `
				ffffffffffffffffffffffffffffffff
				002d 02 0000 0012
				40 01 01 00
				40 02 04 02 01 fc00
				40 03 04 0a000002
				16 c63364`,
		},
	} {
		hops := speakerHops
		if c.extended {
			hops.v4 = hops.v6
		}
		l := newLedger(c.peer, terms{as4: !c.as2, families: families}, hops)
		got, n, err := l.all([]loadbalancer.Route{c.route})
		if err != nil || n != 1 || hex.EncodeToString(got) != golden(c.want) {
			t.Errorf("%s:\n got %x, %d messages, %v\nwant %s", c.what, got, n, err, golden(c.want))
		}
	}
	for _, c := range []struct{ prefix, want string }{
		{"198.51.100.0/22", `
			ffffffffffffffffffffffffffffffff
			001b 02 0004 16 c63364 0000`},
		{"2001:db8:7::f0/124", `
			ffffffffffffffffffffffffffffffff
			002f 02 0000 0018
			90 0f 0014 0002 01                MP_UNREACH_NLRI, 20 bytes: IPv6 unicast
			7c 20010db80007000000000000000000f0`},
	} {
		l := newLedger(leaf, terms{as4: true, families: families}, speakerHops)
		if _, n, err := l.all(routes(c.prefix)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		got, n, err := l.all(nil)
		if err != nil || n != 1 || hex.EncodeToString(got) != golden(c.want) {
			t.Errorf("%s is withdrawn by\n     %x, %d messages, %v\nwant %s", c.prefix, got, n, err, golden(c.want))
		}
	}
	for family, want := range map[bgp.RouteFamily]string{
		bgp.RF_IPv4_UC: "ffffffffffffffffffffffffffffffff 0017 02 0000 0000",
		bgp.RF_IPv6_UC: "ffffffffffffffffffffffffffffffff 001d 02 0000 0006 80 0f 03 0002 01",
	} {
		if got := hex.EncodeToString(endOfRIB(family)); got != golden(want) {
			t.Errorf("End-of-RIB is %s, want %s", got, golden(want))
		}
	}
}

// golden takes the hex digits out of a commented dump: a word that is not hex ends what counts of its line.
func golden(dump string) string {
	var digits strings.Builder
	for line := range strings.Lines(dump) {
		code, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		digits.WriteString(strings.Join(strings.Fields(code), ""))
	}
	return digits.String()
}

func TestPacking(t *testing.T) {
	table := manyRoutes(10_000)
	for i := range table {
		table[i].LocalPref = uint32(100 + i%3)
	}
	l := newLedger(spine, terms{as4: true, families: families}, speakerHops)
	announced := make(map[string]string)
	check := func(what string, b []byte, n, most int) {
		t.Helper()
		frames := split(t, b)
		if len(frames) != n || n > most {
			t.Errorf("%s: %d messages, counted as %d, want at most %d", what, len(frames), n, most)
		}
		for _, f := range frames {
			if len(f.bytes) > 4096 {
				t.Fatalf("%s: a message of %d bytes", what, len(f.bytes))
			}
			u := readUpdate(f)
			for _, p := range u.withdrawn {
				delete(announced, p)
			}
			for _, p := range u.announced {
				announced[p] = u.String()
			}
		}
	}

	b, n, err := l.all(table)
	if err != nil {
		t.Fatal(err)
	}
	// 5 bytes a prefix, 4096 - 23 - 21 for prefixes in a message: 810, and each of three groups may leave one half full.
	check("10,000 announced", b, n, 15)
	for _, r := range table {
		if got, want := announced[r.Prefix.String()], fmt.Sprintf("path via 10.0.0.2 pref %d", r.LocalPref); got != want {
			t.Fatalf("the router hears %s with %q, want %q", r.Prefix, got, want)
		}
	}

	again, n, _ := newLedger(spine, terms{as4: true, families: families}, speakerHops).all(table)
	if string(again) != string(b) {
		t.Errorf("the same table is told in two ways, %d and %d bytes long", len(b), len(again))
	}
	check("10,000 announced once more", again, n, 15)

	b, n, _ = l.all(nil)
	check("10,000 withdrawn", b, n, 13)
	if len(announced) != 0 {
		t.Errorf("%d prefixes are left", len(announced))
	}
}

// split cuts a stream into messages.
func split(t *testing.T, b []byte) (frames []frame) {
	t.Helper()
	for len(b) > 0 {
		n := int(b[16])<<8 + int(b[17])
		if n < 19 || n > len(b) {
			t.Fatalf("a message says that it has %d bytes; %d are left", n, len(b))
		}
		frames = append(frames, frame{bytes: b[:n]})
		b = b[n:]
	}
	return frames
}

func TestOnlyDifferencesAreTold(t *testing.T) {
	l := newLedger(spine, terms{as4: true, families: families}, speakerHops)
	table := routes("192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32")
	preferred := routes("192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32")
	preferred[1].LocalPref = 200
	shuffled := []loadbalancer.Route{preferred[2], preferred[0], preferred[1]}
	doubled := append(routes("192.0.2.1/32"), preferred...)
	doubled = append(doubled, loadbalancer.Route{Prefix: preferred[1].Prefix, LocalPref: 300})
	elsewhere := routes("192.0.2.1/32", "192.0.2.2/32")
	elsewhere[1].Peers = []string{"leaf"}
	for _, step := range []struct {
		then  string
		table []loadbalancer.Route
		again []bgp.RouteFamily
		want  []string
	}{
		{then: "everything is new", table: table,
			want: []string{"announce 192.0.2.1/32,192.0.2.2/32,192.0.2.3/32 path via 10.0.0.2 pref 100"}},
		{then: "nothing changed", table: table},
		{then: "one is preferred", table: preferred, want: []string{"announce 192.0.2.2/32 path via 10.0.0.2 pref 200"}},
		{then: "order does not matter", table: shuffled},
		{then: "the first of two for one prefix counts", table: doubled},
		{then: "and goes on to count", table: doubled},
		{then: "the router asks for everything", table: preferred, again: []bgp.RouteFamily{bgp.RF_IPv4_UC}, want: []string{
			"announce 192.0.2.1/32,192.0.2.3/32 path via 10.0.0.2 pref 100",
			"announce 192.0.2.2/32 path via 10.0.0.2 pref 200"}},
		{then: "one of IPv6 comes", table: append(routes("2001:db8::1/128"), preferred...),
			want: []string{"announce 2001:db8::1/128 via 2001:db8::2 path pref 100"}},
		{then: "the router asks for all of IPv6", table: append(routes("2001:db8::1/128"), preferred...), again: []bgp.RouteFamily{bgp.RF_IPv6_UC},
			want: []string{"announce 2001:db8::1/128 via 2001:db8::2 path pref 100"}},
		{then: "and goes", table: preferred, want: []string{"withdraw 2001:db8::1/128"}},
		{then: "one is for another router now, one gone", table: elsewhere,
			want: []string{"withdraw 192.0.2.2/32,192.0.2.3/32"}},
		{then: "an aggregate comes before its part leaves", table: routes("192.0.2.0/24"), want: []string{
			"announce 192.0.2.0/24 path via 10.0.0.2 pref 100", "withdraw 192.0.2.1/32"}},
	} {
		b, n, err := l.all(step.table, step.again...)
		var got []string
		for _, f := range split(t, b) {
			got = append(got, tell(f))
		}
		if fmt.Sprint(got) != fmt.Sprint(step.want) || n != len(got) || err != nil {
			t.Errorf("%s: told %q (%d, %v), want %q", step.then, got, n, err, step.want)
		}
	}
}

func TestEveryAttributeThatARouterHearsCounts(t *testing.T) {
	a, b := []loadbalancer.Community{1, 2, 3}, []loadbalancer.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}
	for _, c := range []struct {
		what            string
		change          func(*loadbalancer.Route)
		inside, outside bool
	}{
		{"nothing", func(r *loadbalancer.Route) {}, false, false},
		{"local preference", func(r *loadbalancer.Route) { r.LocalPref++ }, true, false},
		{"prepends", func(r *loadbalancer.Route) { r.Prepend++ }, false, true},
		{"a community less", func(r *loadbalancer.Route) { r.Communities = a[:2] }, true, true},
		{"another community", func(r *loadbalancer.Route) { r.Communities = []loadbalancer.Community{1, 2, 4} }, true, true},
		{"large communities", func(r *loadbalancer.Route) { r.LargeCommunities = b }, true, true},
		{"large communities of the same numbers", func(r *loadbalancer.Route) { r.Communities, r.LargeCommunities = nil, b }, true, true},
	} {
		for peer, want := range map[*loadbalancer.Peer]bool{&spine: c.inside, &leaf: c.outside} {
			l := newLedger(*peer, terms{as4: true, families: families}, speakerHops)
			table := routes("192.0.2.1/32")
			table[0].Communities = a
			if _, n, err := l.all(table); n != 1 || err != nil {
				t.Fatalf("%d messages, %v", n, err)
			}
			c.change(&table[0])
			if _, n, _ := l.all(table); n == 1 != want {
				t.Errorf("%s to %s: %d messages", c.what, peer.Name, n)
			}
		}
	}
}

func TestRouteWithTooManyCommunitiesStaysAsItWas(t *testing.T) {
	l := newLedger(spine, terms{as4: true, families: families}, speakerHops)
	table := routes("192.0.2.1/32", "192.0.2.2/32")
	if _, _, err := l.all(table); err != nil {
		t.Fatal(err)
	}
	table = routes("192.0.2.1/32", "192.0.2.2/32")
	for i := range 20_000 { // so many that their length overflows 16 bits
		table[0].Communities = append(table[0].Communities, loadbalancer.Community(i))
	}
	b, _, err := l.all(table)
	if err == nil || !strings.HasPrefix(err.Error(), "192.0.2.1/32 cannot be announced: its attributes take ") {
		t.Errorf("error %v", err)
	}
	if len(b) != 0 {
		t.Errorf("told %x, want nothing", b)
	}
	if b, _, err = newLedger(spine, terms{as4: true, families: families}, speakerHops).all(table); err == nil || len(split(t, b)) != 1 {
		t.Errorf("a router that does not know it is told %x, %v", b, err)
	}

	// The most that fits: 4096 - 23 for the UPDATE, 5 for the prefix, 21 for the other attributes, 4 for the header.
	table[0].Communities = table[0].Communities[:(4096-23-5-21-4)/4]
	b, n, err := l.all(table)
	if frames := split(t, b); err != nil || n != 1 || len(frames) != 1 || len(frames[0].bytes) > 4096 {
		t.Errorf("%d messages, %d bytes, %v", n, len(b), err)
	}
	table[0].Communities = append(table[0].Communities, 1, 2)
	if _, _, err := l.all(table, families...); err == nil {
		t.Error("two more fit, too?")
	}
}

// related is leaf or spine, whose AS is learned.
func related(r loadbalancer.Relation) loadbalancer.Peer {
	p := map[loadbalancer.Relation]loadbalancer.Peer{loadbalancer.External: leaf, loadbalancer.Internal: spine}[r]
	p.ASN, p.Relation = 0, r
	return p
}

// What is wrong with a router's messages is told to it, by code and subcode, and to our operator, in words.
func TestMalformedMessages(t *testing.T) {
	marker := strings.Repeat("ff", 16)
	for _, c := range []struct {
		what string
		peer loadbalancer.Peer // leaf unless set
		// before is how far the session has come: "", "opened", "established".
		before string
		say    []byte
		want   string
		why    string
	}{
		{what: "bad marker", say: unhex("00" + marker[2:] + "0013 04"), want: "NOTIFICATION 1/1", why: "without the marker"},
		{what: "shorter than a header", say: unhex(marker + "0012 04"), want: "NOTIFICATION 1/2 0012", why: "type 4 and length 18"},
		{what: "longer than 4096", say: unhex(marker + "1001 02"), want: "NOTIFICATION 1/2 1001", why: "type 2 and length 4097"},
		{what: "as long as can be said", say: unhex(marker + "ffff 01"), want: "NOTIFICATION 1/2 ffff"},
		{what: "OPEN too short", say: unhex(marker + "001c 01"), want: "NOTIFICATION 1/2 001c"},
		{what: "UPDATE too short", before: "established", say: unhex(marker + "0016 02"), want: "NOTIFICATION 1/2 0016"},
		{what: "NOTIFICATION too short", say: unhex(marker + "0014 03"), want: "NOTIFICATION 1/2 0014"},
		{what: "KEEPALIVE too long", before: "opened", say: unhex(marker + "0014 04 00"), want: "NOTIFICATION 1/2 0014"},
		{what: "ROUTE-REFRESH too short", before: "established", say: unhex(marker + "0016 05"), want: "NOTIFICATION 1/2 0016"},
		{what: "unknown type before OPEN", say: unhex(marker + "0013 06"), want: "NOTIFICATION 1/3 06", why: "unknown type 6"},
		{what: "unknown type 0", before: "established", say: unhex(marker + "0013 00"), want: "NOTIFICATION 1/3 00"},

		{what: "version 3", say: msg(1, "03 fbf4 005a 0a000001 00"), want: "NOTIFICATION 2/1 0004", why: "version 3"},
		{what: "wrong AS", say: msg(1, "04 fde7 005a 0a000001 00"), want: "NOTIFICATION 2/2",
			why: "the router says that its AS number is 64999, but peer-asn is 64500"},
		{what: "wrong AS of 4 bytes", say: msg(1, "04 fbf4 005a 0a000001 08 0206 4104 00010000"), want: "NOTIFICATION 2/2",
			why: "the router says that its AS number is 65536, but peer-asn is 64500"},
		{what: "our own AS where it is to be another", peer: related(loadbalancer.External), say: msg(1, "04 fc00 005a 0a000001 00"), want: "NOTIFICATION 2/2",
			why: "the router says that its AS number is 64512, which is ours, but peer-asn is external: write internal, or correct the router"},
		{what: "another AS where it is to be ours", peer: related(loadbalancer.Internal), say: msg(1, "04 fbf4 005a 0a000001 00"), want: "NOTIFICATION 2/2",
			why: "the router says that its AS number is 64500, but peer-asn is internal, and ours is 64512: write external, or correct the router"},
		{what: "an AS to be learned that nobody has", peer: related(loadbalancer.External), say: msg(1, "04 fbf4 005a 0a000001 08 0206 4104 00000000"), want: "NOTIFICATION 2/2",
			why: "the router says that its AS number is 0, which no AS has (RFC 7607, RFC 6793): correct the router"},
		{what: "AS_TRANS without the number for which it stands", peer: related(loadbalancer.External), say: msg(1, "04 5ba0 005a 0a000001 00"), want: "NOTIFICATION 2/2"},
		{what: "AS 0", say: msg(1, "04 fbf4 005a 0a000001 08 0206 4104 00000000"), want: "NOTIFICATION 2/2"},
		{what: "router ID 0", say: msg(1, "04 fbf4 005a 00000000 00"), want: "NOTIFICATION 2/3", why: "no router ID"},
		{what: "our router ID on iBGP", peer: spine, say: msg(1, "04 fc00 005a 0a000002 00"), want: "NOTIFICATION 2/3",
			why: "the same router ID as we, 10.0.0.2"},
		{what: "hold time 1", say: msg(1, "04 fbf4 0001 0a000001 00"), want: "NOTIFICATION 2/6", why: "hold time of 1 s"},
		{what: "hold time 2", say: msg(1, "04 fbf4 0002 0a000001 00"), want: "NOTIFICATION 2/6"},
		{what: "authentication parameter", say: msg(1, "04 fbf4 005a 0a000001 03 0101ff"), want: "NOTIFICATION 2/4", why: "type 1"},
		{what: "parameter of type 0", say: msg(1, "04 fbf4 005a 0a000001 02 0000"), want: "NOTIFICATION 2/4"},
		{what: "fewer parameters than announced", say: msg(1, "04 fbf4 005a 0a000001 0a 0206 4104 0000fbf4"), want: "NOTIFICATION 2/0",
			why: "it announces 10 bytes of optional parameters and has 8"},
		{what: "more parameters than announced", say: msg(1, "04 fbf4 005a 0a000001 00 0206 4104 0000fbf4"), want: "NOTIFICATION 2/0"},
		{what: "a parameter of one byte", say: msg(1, "04 fbf4 005a 0a000001 01 02"), want: "NOTIFICATION 2/0"},
		{what: "a parameter that goes on after its end", say: msg(1, "04 fbf4 005a 0a000001 02 02ff"), want: "NOTIFICATION 2/0"},
		{what: "a capability of one byte", say: msg(1, "04 fbf4 005a 0a000001 03 020141"), want: "NOTIFICATION 2/0",
			why: "capability 65 is cut off"},
		{what: "a capability that goes on after its end", say: msg(1, "04 fbf4 005a 0a000001 06 0204 4104 0000"), want: "NOTIFICATION 2/0"},
		{what: "an AS number of 3 bytes", say: msg(1, "04 fbf4 005a 0a000001 07 0205 4103 00fbf4"), want: "NOTIFICATION 2/0"},
		{what: "an AS number of 5 bytes", say: msg(1, "04 fbf4 005a 0a000001 09 0207 4105 0000fbf400"), want: "NOTIFICATION 2/0"},
		{what: "an address family of 2 bytes", say: msg(1, "04 fbf4 005a 0a000001 06 0204 0102 0001"), want: "NOTIFICATION 2/0"},
		{what: "VPNs only", say: msg(1, "04 fbf4 005a 0a000001 08 0206 0104 00010080"), want: "NOTIFICATION 2/7 010400010001",
			why: "activate a family for this neighbor"},
		{what: "no room for an extended length", say: msg(1, "04 fbf4 005a 0a000001 02 ff00"), want: "NOTIFICATION 2/4"},
		{what: "fewer parameters than the extended length says", say: msg(1, "04 fbf4 005a 0a000001 ff ff000a 020006 4104 0000fbf4"), want: "NOTIFICATION 2/0",
			why: "it announces 10 bytes of optional parameters and has 9"},
		{what: "a parameter of extended length that is cut off", say: msg(1, "04 fbf4 005a 0a000001 ff ff0002 0200"), want: "NOTIFICATION 2/0"},
		{what: "a parameter of extended length that goes on after its end", say: msg(1, "04 fbf4 005a 0a000001 ff ff0009 020106 4104 0000fbf4"), want: "NOTIFICATION 2/0"},
		{what: "an extended length behind a length of 0", say: msg(1, "04 fbf4 005a 0a000001 00 ff0009 020006 4104 0000fbf4"), want: "NOTIFICATION 2/0"},
		{what: "extended next hops of 5 bytes", say: msg(1, "04 fbf4 005a 0a000001 09 0207 0505 0001000100"), want: "NOTIFICATION 2/0"},

		{what: "KEEPALIVE before OPEN", say: keepalive, want: "NOTIFICATION 5/1", why: "sent KEEPALIVE when it had to send OPEN"},
		{what: "UPDATE before OPEN", say: msg(2, "0000 0000"), want: "NOTIFICATION 5/1"},
		{what: "second OPEN", before: "opened", say: hello, want: "NOTIFICATION 5/2", why: "sent OPEN when it had to send KEEPALIVE"},
		{what: "UPDATE before KEEPALIVE", before: "opened", say: msg(2, "0000 0000"), want: "NOTIFICATION 5/2"},
		{what: "ROUTE-REFRESH before KEEPALIVE", before: "opened", say: msg(5, "00010001"), want: "NOTIFICATION 5/2"},
		{what: "OPEN in an established session", before: "established", say: hello, want: "NOTIFICATION 5/3"},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer := c.peer
				if peer.Name == "" {
					peer = leaf
				}
				r := newRouter(t)
				s := speak(t, map[string]*router{peer.Name: r})
				s.Announce([]loadbalancer.Peer{peer}, nil)
				l := r.accept()
				l.want("OPEN")
				if c.before != "" {
					l.say(hello)
					l.want("KEEPALIVE")
				}
				if c.before == "established" {
					l.say(keepalive)
					l.want("END-OF-RIB")
				}
				l.say(c.say)
				l.want(c.want, "closed")
				synctest.Wait()
				if why := s.List()[0].LastError; !strings.Contains(why, c.why) {
					t.Errorf("the operator reads %q, want …%s…", why, c.why)
				}
				r.up(map[string][]byte{"leaf": hello, "spine": helloInside}[peer.Name]).want("END-OF-RIB")
			})
		})
	}
}

// A router may send capabilities that mean nothing to us, some of them malformed, and must still be understood.
func TestCapabilitiesNobodyHereReadsDoNotMatter(t *testing.T) {
	// A host name that is longer than its capability, then the AS number.
	odd := msg(1, "04 5ba0 001e 0a000001 0d 020b 4903 ff6162 4104 fa56ea01")
	peer := leaf
	peer.ASN = 4_200_000_001
	got, err := negotiate(peer, odd[19:], false)
	if err != nil || !got.as4 || got.hold != 30*time.Second || got.keepalive != 10*time.Second || len(got.families) != 1 || got.extended {
		t.Errorf("agreed on %+v, %v", got, err)
	}
}

// FRR writes an OPEN like this with extended-optional-parameters, however short it is (RFC 9072).
func TestAnOpenMayHaveLengthsOfTwoBytes(t *testing.T) {
	for _, c := range []struct{ what, body string }{
		{"as FRR writes it", "04 fbf4 005a 0a000001 ff ff000b 020008 4104 0000fbf4 0200"},
		{"the length before it means nothing", "04 fbf4 005a 0a000001 07 ff0009 020006 4104 0000fbf4"},
		{"several parameters", "04 fbf4 005a 0a000001 ff ff0012 020006 0104 00010001 020006 4104 0000fbf4"},
		{"more than 255 bytes", "04 fbf4 005a 0a000001 ff ff010c 020109 4104 0000fbf4 fa ff" + strings.Repeat("00", 255) + "0200"},
		{"none", "04 fbf4 005a 0a000001 ff ff0000"},
	} {
		if got, err := negotiate(leaf, unhex(c.body), false); err != nil || got.as4 != (c.what != "none") || len(got.families) != 1 {
			t.Errorf("%s: agreed on %+v, %v", c.what, got, err)
		}
	}
}

func TestRefusalsReadWell(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{"0202", "the router sent NOTIFICATION 2/2 (Bad Peer AS)"},
		{"0605", "the router sent NOTIFICATION 6/5 (Cease: Connection Rejected)"},
		{"06ff", "the router sent NOTIFICATION 6/255 (Cease)"},
		{"ff01", "the router sent NOTIFICATION 255/1"},
		{"0602 05 68656c6c6f", `the router sent NOTIFICATION 6/2 (Cease: Administrative Shutdown): "hello"`},
		{"0604 05 68656c6c6f", `the router sent NOTIFICATION 6/4 (Cease: Administrative Reset): "hello"`},
		{"0602 05 610a1b5b62", `the router sent NOTIFICATION 6/2 (Cease: Administrative Shutdown): "a��[b"`},
		{"0602 02 ff61", `the router sent NOTIFICATION 6/2 (Cease: Administrative Shutdown): "�a"`},
		{"0602 09 6869", "the router sent NOTIFICATION 6/2 (Cease: Administrative Shutdown)"},
		{"0602 00", "the router sent NOTIFICATION 6/2 (Cease: Administrative Shutdown)"},
		{"0603 02 6869", "the router sent NOTIFICATION 6/3 (Cease: Peer De-configured)"},
	} {
		if got := newRefusal(unhex(c.body)).Error(); got != c.want {
			t.Errorf("%s: %s, want %s", c.body, got, c.want)
		}
	}
	if got, want := hex.EncodeToString(shutdownData("bye")), "03627965"; got != want {
		t.Errorf("bye is %s, want %s", got, want)
	}
	if got := shutdownData(strings.Repeat("é", 100)); len(got) != 1+128 || got[0] != 128 {
		t.Errorf("a long text is cut to %d bytes, said to be %d", len(got)-1, got[0])
	}
}
