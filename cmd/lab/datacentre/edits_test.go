package datacentre

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// What an operator edits of a peer whose router keeps routes over a restart moves no route in any kernel. A password is not among it: it
// has to be edited at the router as well, which begins anew then by itself.
func TestAnEditOfAPeerMovesNoRoute(t *testing.T) {
	t.Parallel()
	s := build(t)
	ctx := t.Context()
	routers := []network.Router{s.frr(t, "frr", frrAddr, 100), s.bird(t, "bird", birdAddr, 200)}
	want := s.exposeMany(t, 2000)
	const usual = "hold-time: 90s, keepalive-time: 30s, connect-time: 1s, router-id: 10.9.9.8, graceful-restart: {restart-time: 60s}"
	admit := func(keys string, names ...string) {
		t.Helper()
		text := "peers:\n"
		for i, r := range []struct {
			addr netip.Addr
			asn  int
		}{{frrAddr, 100}, {birdAddr, 200}} {
			text += fmt.Sprintf("- {name: %s, peer-address: %s, peer-asn: %d, my-asn: %d, %s}\n", names[i], r.addr, r.asn, clusterASN, keys)
		}
		must(t, s.Admit(ctx, text+pools("")))
	}
	admit(usual, "one", "two")
	s.speak(t)
	for _, r := range routers {
		sends(t, r, want)
	}
	recorders := record(t, routers...)
	for _, edit := range []struct {
		key, was, is string
		silent       bool // the router sees nothing at all
	}{
		{key: "name", silent: true},
		{key: "connect-time", was: "connect-time: 1s", is: "connect-time: 2s", silent: true},
		{key: "hold-time", was: "hold-time: 90s", is: "hold-time: 91s"},
		{key: "keepalive-time", was: "keepalive-time: 30s", is: "keepalive-time: 20s"},
		{key: "router-id", was: "10.9.9.8", is: "10.9.9.9"},
		{key: "restart-time", was: "restart-time: 60s", is: "restart-time: 50s"},
		{key: "ebgp-multihop", was: "hold-time", is: "ebgp-multihop: 2, hold-time"},
	} {
		before := map[network.Router]network.Session{}
		for _, r := range routers {
			before[r] = session(t, r)
		}
		edited := time.Now()
		admit(strings.Replace(usual, edit.was, edit.is, 1), edit.key+"-1", edit.key+"-2")
		for _, r := range routers {
			if !edit.silent {
				upAnew(t, r, before[r])
			}
		}
		quiet(t, recorders, edit.key)
		if edit.silent {
			continue
		}
		t.Logf("%s: no route moved; both routers had new sessions after %v", edit.key, time.Since(edited).Round(time.Millisecond))
		back := map[network.Router]network.Session{}
		for _, r := range routers {
			back[r] = session(t, r)
		}
		admit(usual, edit.key+"-1", edit.key+"-2")
		for _, r := range routers {
			upAnew(t, r, back[r])
		}
		quiet(t, recorders, edit.key+" as it was")
	}
	for _, r := range routers {
		sends(t, r, want)
	}
}

// FRR can be told to write its OPEN with lengths of two bytes (RFC 9072).
func TestARouterMayWriteExtendedOptionalParameters(t *testing.T) {
	t.Parallel()
	s := build(t)
	host := made(s.lan.Host("frr", frrAddr.String()+"/24", sixth(frrAddr)+"/64"))(t)
	frr := made(host.FRR(t.Context(), fmt.Sprintf(`
router bgp 100
 bgp router-id %s
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor K peer-group
 neighbor K remote-as %d
 neighbor K extended-optional-parameters
 bgp listen range 10.0.0.0/24 peer-group K
 address-family ipv4 unicast
  neighbor K activate
 exit-address-family
 address-family ipv6 unicast
  neighbor K activate
 exit-address-family
`, frrAddr, clusterASN)))(t)
	must(t, s.Admit(t.Context(), fmt.Sprintf("peers: [{peer-address: %s, peer-asn: 100, my-asn: %d, connect-time: 1s}]\n", frrAddr, clusterASN)+pools("")))
	want := s.exposeMany(t, 10)
	s.speak(t)
	sends(t, frr, want)
}

// A node whose IPv6 address comes after its session, as by SLAAC or after duplicate address detection, is announced with it then.
func TestANextHopThatComesLaterIsTold(t *testing.T) {
	t.Parallel()
	s := build(t)
	frr := s.frr(t, "frr", frrAddr, 100)
	must(t, s.node.Host.IP("addr", "del", node6.String()+"/64", "dev", "lan"))
	must(t, s.Admit(t.Context(), fmt.Sprintf("peers: [{peer-address: %s, peer-asn: 100, my-asn: %d, connect-time: 1s}]\n", frrAddr, clusterASN)+pools("")))
	want := s.exposeMany(t, 10)
	four := map[netip.Prefix]netip.Addr{}
	for prefix, via := range want {
		if prefix.Addr().Is4() {
			four[prefix] = via
		}
	}
	s.speak(t)
	sends(t, frr, four)
	came := time.Now()
	must(t, s.node.Host.Addresses("lan", node6.String()+"/64"))
	sends(t, frr, want)
	t.Logf("routes by way of the new address were there after %v", time.Since(came).Round(time.Millisecond))
}
