package datacentre

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// Sessions over IPv6, each with a node that has the addresses to be next hops, or has not.
func TestNextHopsOfSessionsOverIPv6(t *testing.T) {
	const frr = `
router bgp 100
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 2001:db8:1::11 remote-as 42
 neighbor 2001:db8:1::11 passive
 neighbor 2001:db8:1::11 capability extended-nexthop
 address-family ipv4 unicast
  neighbor 2001:db8:1::11 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 2001:db8:1::11 activate
 exit-address-family
`
	bird := func(local, neighbor, four string) string {
		return fmt.Sprintf(`
router id 10.0.0.1;
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
protocol bgp node {
	local %s as 100;
	neighbor %s as 42;
	passive on;
	ipv4 { import all; export none; %s };
	ipv6 { import all; export none; };
}
`, local, neighbor, four)
	}
	for _, c := range []struct {
		name     string
		config   string
		frr      bool
		peer     string       // how the node reaches the router, and from where
		session  string       // the node's address in the session
		nodeIPs  []netip.Addr // of the Node object
		via      string       // of IPv4 prefixes; empty: they are not announced
		complain string       // why not
	}{
		{
			name: "the node has addresses of both", config: frr, frr: true,
			peer: "peer-address: '2001:db8:1::1', ttl-security: true", session: "2001:db8:1::11",
			nodeIPs: []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("2001:db8:1::11")}, via: "10.0.0.11",
		},
		{
			name: "the node has IPv6 only, and the router takes that for IPv4", config: frr, frr: true,
			peer: "peer-address: '2001:db8:1::1'", session: "2001:db8:1::11",
			nodeIPs: []netip.Addr{netip.MustParseAddr("2001:db8:1::11")}, via: "2001:db8:1::11",
		},
		{
			name: "the same with BIRD", config: bird("2001:db8:1::1", "2001:db8:1::11", "extended next hop on;"),
			peer: "peer-address: '2001:db8:1::1', password: open-sesame, source-address: node-ip", session: "2001:db8:1::11",
			nodeIPs: []netip.Addr{netip.MustParseAddr("2001:db8:1::11")}, via: "2001:db8:1::11",
		},
		{
			name: "the node has IPv6 only, and the router does not take that for IPv4", config: bird("2001:db8:1::1", "2001:db8:1::11", ""),
			peer: "peer-address: '2001:db8:1::1'", session: "2001:db8:1::11",
			nodeIPs:  []netip.Addr{netip.MustParseAddr("2001:db8:1::11")},
			complain: "192.168.10.1/32 cannot be announced: the session is on interface lan, and the node has no IPv4 InternalIP there to be the next hop",
		},
		{
			name: "link-local", config: bird("fe80::1", "fe80::11%lan", ""),
			peer: "peer-address: 'fe80::1%lan', source-address: 'fe80::11%lan'", session: "fe80::11",
			nodeIPs: []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("2001:db8:1::11")}, via: "10.0.0.11",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := start(t)
			ctx := t.Context()
			lan := made(lab.Network.Switch("lan"))(t)
			tor := made(lan.Host("tor", "10.0.0.1/24", "2001:db8:1::1/64", "fe80::1/64"))(t)
			host := made(lan.Host("node", "10.0.0.11/24", "2001:db8:1::11/64", "fe80::11/64"))(t)
			var r network.Router
			if c.frr {
				config := c.config
				if strings.Contains(c.peer, "ttl-security") {
					const known = " neighbor 2001:db8:1::11 passive\n"
					config = strings.ReplaceAll(config, known, known+" neighbor 2001:db8:1::11 ttl-security hops 1\n")
				}
				r = made(tor.FRR(ctx, config))(t)
			} else {
				config := c.config
				if password := "open-sesame"; strings.Contains(c.peer, password) {
					config = strings.ReplaceAll(config, "passive on;", fmt.Sprintf("passive on; password %q;", password))
				}
				r = made(tor.BIRD(ctx, config))(t)
			}
			must(t, lab.Admit(ctx, fmt.Sprintf(`
peers: [{%s, peer-asn: 100, my-asn: 42, hold-time: 9s, connect-time: 1s}]
address-pools: [{name: default, cidr: [192.168.10.0/24, "2001:db8:10::/64"]}]
`, c.peer)))
			node := made(lab.AddNode(ctx, host, c.nodeIPs...))(t)
			must(t, lab.Expose(ctx, Service{Name: "web", Node: node,
				Addrs: []netip.Addr{netip.MustParseAddr("192.168.10.1"), netip.MustParseAddr("2001:db8:10::1")}}))
			speaker := made(lab.StartSpeaker(node, nil))(t)
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(speaker.Output())
				}
			})

			want := map[netip.Prefix]netip.Addr{netip.MustParsePrefix("2001:db8:10::1/128"): netip.MustParseAddr("2001:db8:1::11")}
			if c.via != "" {
				want[netip.MustParsePrefix("192.168.10.1/32")] = netip.MustParseAddr(c.via)
			}
			sends(t, r, want)
			if c.complain != "" {
				eventually(t, "the speaker to say why", func(context.Context) error {
					if !strings.Contains(speaker.Output(), c.complain) {
						return fmt.Errorf("it says\n%s", speaker.Output())
					}
					return nil
				})
				lab.speakerPod(t, node)
				lab.answers(t, question{host, "why web --direct --node node", 1, []string{"not announced: nothing was sent to", c.complain, "2001:db8:10::1/128 next hop 2001:db8:1::11"}})
			}
			if strings.Contains(speaker.Output(), "open-sesame") {
				t.Error("the speaker tells the password")
			}
		})
	}
}

// A node speaks to the router that its default route names, whatever its AS, and as soon as another one is named, to that as well. It
// leaves the first only when their session ends, and comes back if it is named again.
func TestANodeFollowsItsDefaultRouteToAnotherRouter(t *testing.T) {
	t.Parallel()
	s := build(t)
	ctx := t.Context()
	first, second := s.frr(t, "frr", frrAddr, 100), s.bird(t, "bird", birdAddr, 200)
	way := func(addr netip.Addr) addresses { return addrs(addr.String(), sixth(addr)) }
	must(t, s.Admit(ctx, fmt.Sprintf("peers: [{name: rack, peer-address: gateway, peer-asn: external, my-asn: %d, hold-time: 3s, connect-time: 1s}]\n", clusterASN)+pools("")))
	want := s.exposeMany(t, 10)
	speaker := s.speak(t)
	says := func(words ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("the speaker to say %q", words), func(context.Context) error {
			for line := range strings.Lines(speaker.Output()) {
				if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
					return nil
				}
			}
			return fmt.Errorf("it says\n%s", speaker.Output())
		})
	}
	says("Cannot speak yet", "peer rack: peer-address is gateway, and the node has no default route of IPv4")

	must(t, defaultRoutes(s.node.Host, []addresses{way(frrAddr)}))
	sends(t, first, want)
	says("Session is up", "rack", "asn=100")
	before, atFirst := session(t, first), record(t, first)

	must(t, defaultRoutes(s.node.Host, []addresses{way(birdAddr)}))
	changed := time.Now()
	sends(t, second, want)
	t.Logf("the second router had all routes after %v", time.Since(changed).Round(time.Millisecond))
	says("Session is up", "rack", "asn=200")
	atSecond := record(t, second)
	if now := session(t, first); now.History != before.History {
		t.Errorf("the session with the first router was %q and is %q", before.History, now.History)
	}
	quiet(t, atFirst, "another gateway")

	// peers waits until the node is to have sessions with exactly these routers.
	s.speakerPod(t, s.node)
	peers := func(routers ...netip.Addr) {
		t.Helper()
		eventually(t, fmt.Sprintf("sessions with %v only", routers), func(ctx context.Context) error {
			out, remarks, _, err := s.ask(ctx, s.node.Host, "peers", "--direct")
			if err != nil {
				return err
			}
			for _, addr := range []netip.Addr{frrAddr, birdAddr} {
				if slices.Contains(strings.Fields(out), addr.String()) != slices.Contains(routers, addr) {
					return fmt.Errorf("there are\n%s%s", out, remarks)
				}
			}
			return nil
		})
	}
	peers(frrAddr, birdAddr)
	must(t, s.lan.Pull(first.Namespace))
	peers(birdAddr)

	must(t, s.lan.Replug(first.Namespace))
	must(t, defaultRoutes(s.node.Host, []addresses{way(frrAddr), way(birdAddr)}))
	upAnew(t, first, before)
	sends(t, first, want)
	peers(frrAddr, birdAddr)
	quiet(t, atSecond, "the end and the return of the first router")
}
