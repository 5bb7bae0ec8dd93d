//go:build linux

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

func inWords(h speaker.Hops) string {
	if len(h.Addrs) > 0 {
		return strings.Trim(fmt.Sprint(h.Addrs), "[]")
	}
	return h.Why
}

func TestTheGatewaysAreTheNextHopsOfTheBestDefaultRoute(t *testing.T) {
	_, all4, _ := net.ParseCIDR("0.0.0.0/0")
	_, all6, _ := net.ParseCIDR("::/0")
	_, some, _ := net.ParseCIDR("10.0.0.0/8")
	ip := net.ParseIP
	tests := []struct {
		name   string
		family loadbalancer.Family
		routes []netlink.Route
		want   string
	}{
		{"none", loadbalancer.IPv4, []netlink.Route{{Dst: some, Gw: ip("10.0.0.9")}}, "the node has no default route of IPv4: add one, or write the router's address"},
		{"one", loadbalancer.IPv4, []netlink.Route{{Dst: some, Gw: ip("10.0.0.9")}, {Dst: all4, Gw: ip("10.0.0.1")}}, "10.0.0.1"},
		{"one, as older kernels tell it", loadbalancer.IPv4, []netlink.Route{{Gw: ip("10.0.0.1")}}, "10.0.0.1"},
		{"the lowest metric of several", loadbalancer.IPv4, []netlink.Route{{Dst: all4, Gw: ip("10.0.0.1"), Priority: 200}, {Dst: all4, Gw: ip("10.0.0.2"), Priority: 100}}, "10.0.0.2"},
		{"all of an ECMP route, but for a dead one", loadbalancer.IPv4, []netlink.Route{{Dst: all4, MultiPath: []*netlink.NexthopInfo{
			{Gw: ip("10.0.0.2")}, {Gw: ip("10.0.0.1")}, {Gw: ip("10.0.0.3"), Flags: unix.RTNH_F_DEAD}}}}, "10.0.0.1 10.0.0.2"},
		{"all of them dead", loadbalancer.IPv4, []netlink.Route{{Dst: all4, MultiPath: []*netlink.NexthopInfo{{Gw: ip("10.0.0.3"), Flags: unix.RTNH_F_DEAD}}}}, "all next hops of the node's default route of IPv4 are dead"},
		{"an interface", loadbalancer.IPv4, []netlink.Route{{Dst: all4, LinkIndex: 7}},
			"the node's default route of IPv4 leads to interface eth7 and names no next hop of that IP version: write the router's address"},
		{"unreachable", loadbalancer.IPv4, []netlink.Route{{Dst: all4, Type: unix.RTN_UNREACHABLE}}, "the node has no default route of IPv4: add one, or write the router's address"},
		{"IPv6: a route for each next hop, one of them link-local", loadbalancer.IPv6, []netlink.Route{
			{Dst: all6, Gw: ip("fe80::1"), LinkIndex: 2, Priority: 1024}, {Dst: all6, Gw: ip("2001:db8::1"), LinkIndex: 2, Priority: 1024}}, "2001:db8::1 fe80::1%eth2"},
	}
	for _, test := range tests {
		if got := inWords(choose(test.family, test.routes, func(i int) string { return fmt.Sprintf("eth%d", i) })); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// In a network of its own, with a kernel's routes.
func TestAWatcherFollowsTheKernel(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its network with it
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) && os.Getenv("LAB_REQUIRE") == "" {
		t.Skip("only root may make a network")
	} else if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan"}, PeerName: "wall"}
	must(netlink.LinkAdd(link))
	for _, name := range []string{"lan", "wall"} {
		end, err := netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetUp(end))
	}
	lan, err := netlink.LinkByName("lan")
	must(err)
	for _, text := range []string{"10.0.0.11/24", "2001:db8:1::11/64"} {
		addr, err := netlink.ParseAddr(text)
		must(err)
		addr.Flags = unix.IFA_F_NODAD
		must(netlink.AddrAdd(lan, addr))
	}

	w := New()
	want := func(then, v4, v6 string) {
		t.Helper()
		if got := inWords(w.Now()[loadbalancer.IPv4]); !strings.HasPrefix(got, v4) {
			t.Errorf("%s: the gateways of IPv4 are %q, want %q", then, got, v4)
		}
		if got := inWords(w.Now()[loadbalancer.IPv6]); !strings.HasPrefix(got, v6) {
			t.Errorf("%s: the gateways of IPv6 are %q, want %q", then, got, v6)
		}
	}
	const none4, none6 = "the node has no default route of IPv4", "the node has no default route of IPv6"
	want("nothing", none4, none6)

	// Sockets are of the network of the thread that opens them.
	network, err := os.Open("/proc/thread-self/ns/net")
	must(err)
	defer network.Close()
	changed := make(chan struct{}, 100)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	defer func() {
		stop()
		<-done
	}()
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		w.Follow(ctx, func() { changed <- struct{}{} })
	}()
	// told waits until the gateways are these.
	told := func(then, v4, v6 string) {
		t.Helper()
		late := time.After(10 * time.Second)
		for !strings.HasPrefix(inWords(w.Now()[loadbalancer.IPv4]), v4) || !strings.HasPrefix(inWords(w.Now()[loadbalancer.IPv6]), v6) {
			select {
			case <-changed:
			case <-late:
				want(then, v4, v6)
				return
			}
		}
	}
	// ip adds, replaces or deletes a default route, with these next hops.
	ip := func(do func(*netlink.Route) error, metric int, hops ...string) {
		t.Helper()
		r := &netlink.Route{LinkIndex: lan.Attrs().Index, Priority: metric}
		for _, hop := range hops {
			if r.Gw = net.ParseIP(hop); len(hops) > 1 {
				r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: lan.Attrs().Index, Gw: r.Gw})
			}
			r.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
			if r.Gw.To4() == nil {
				r.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
			}
		}
		if len(hops) > 1 {
			r.Gw = nil
		}
		must(do(r))
	}
	ip(netlink.RouteAdd, 200, "10.0.0.9")
	told("a default route", "10.0.0.9", none6)
	ip(netlink.RouteAdd, 100, "10.0.0.1", "10.0.0.2")
	told("a better one over two routers", "10.0.0.1 10.0.0.2", none6)
	ip(netlink.RouteReplace, 100, "10.0.0.3", "10.0.0.2")
	told("one is replaced", "10.0.0.2 10.0.0.3", none6)
	ip(netlink.RouteAdd, 1024, "fe80::1")
	told("IPv6", "10.0.0.2 10.0.0.3", "fe80::1%lan")
	ip(netlink.RouteDel, 100, "10.0.0.3", "10.0.0.2")
	told("the better one goes", "10.0.0.9", "fe80::1%lan")
	must(netlink.LinkSetDown(lan)) // routes of IPv4 go without a word
	told("the interface goes down", none4, none6)
}
