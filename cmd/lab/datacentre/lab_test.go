package datacentre

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// patience is how long anything may take before it counts as broken. It is not a measure of anything: these machines are slow at times.
const patience = 90 * time.Second

// needNetwork skips a test where no network can be had.
func needNetwork(t testing.TB) {
	t.Helper()
	suite.Need(t, network.Missing())
}

// start brings up a lab for one test. At its end, nothing that a speaker asked for may have been forbidden, and none may have crashed.
func start(t testing.TB) *Lab {
	t.Helper()
	needNetwork(t)
	lab := made(Start(t.Context(), t.Output()))(t)
	t.Cleanup(func() {
		nothingForbidden(t, lab, speakerUser)
		if err := lab.Stop(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// nothingForbidden demands that these users were allowed everything that they asked for.
func nothingForbidden(t testing.TB, lab *Lab, users ...string) {
	t.Helper()
	forbidden, err := lab.Cluster.Requests(context.Background(), lab.forgiven, func(r kubernetes.Request) bool {
		return r.Code == 403 && slices.Contains(users, r.User)
	})
	if err != nil {
		t.Error(err)
	}
	for _, r := range forbidden {
		t.Errorf("forbidden: %v", r)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is what a test needs and cannot do without.
func made[T any](made T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return made
	}
}

// eventually waits until there is no problem any more.
func eventually(t testing.TB, what string, problem func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, kubernetes.Until(ctx, what, problem))
}

// Every site has one LAN. The node's speaker announces from these addresses.
var (
	frrAddr  = netip.MustParseAddr("10.0.0.1")
	birdAddr = netip.MustParseAddr("10.0.0.2")
	node4    = netip.MustParseAddr("10.0.0.11")
	node6    = netip.MustParseAddr("fd00::11")
)

// A site is a lab with a switch, into which a node is plugged.
type site struct {
	*Lab
	lan      *network.Switch
	node     *Node
	speakers []*kubernetes.Process
}

func build(t testing.TB) *site {
	t.Helper()
	lab := start(t)
	s := &site{Lab: lab, lan: made(lab.Network.Switch("lan"))(t)}
	host := made(s.lan.Host("node", node4.String()+"/24", node6.String()+"/64"))(t)
	s.node = made(lab.AddNode(t.Context(), host, node4, node6))(t)
	t.Cleanup(func() {
		for _, p := range s.speakers {
			for _, bad := range []string{"DATA RACE", "panic: "} {
				if strings.Contains(p.Output(), bad) {
					t.Errorf("%s: %s", p.Name, bad)
				}
			}
			if t.Failed() {
				lines := strings.Split(p.Output(), "\n")
				t.Logf("the end of the log of %s:\n%s", p.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
			}
		}
	})
	return s
}

func (s *site) speak(t testing.TB, env ...string) *kubernetes.Process {
	t.Helper()
	p := made(s.StartSpeaker(s.node, env))(t)
	s.speakers = append(s.speakers, p)
	return p
}

// frr plugs in a FRR, which lets the node in.
func (s *site) frr(t testing.TB, name string, addr netip.Addr, asn uint32) *network.FRR {
	t.Helper()
	host := made(s.lan.Host(name, addr.String()+"/24", sixth(addr)+"/64"))(t)
	return made(host.FRR(t.Context(), fmt.Sprintf(`
router bgp %d
 bgp router-id %s
 no bgp ebgp-requires-policy
 neighbor %s remote-as %d
 neighbor %[3]s passive
 address-family ipv4 unicast
  maximum-paths 8
  maximum-paths ibgp 8
 exit-address-family
 address-family ipv6 unicast
  neighbor %[3]s activate
  maximum-paths 8
  maximum-paths ibgp 8
 exit-address-family
`, asn, addr, node4, clusterASN)))(t)
}

// bird plugs in a BIRD, which lets the node in.
func (s *site) bird(t testing.TB, name string, addr netip.Addr, asn uint32) *network.BIRD {
	t.Helper()
	host := made(s.lan.Host(name, addr.String()+"/24", sixth(addr)+"/64"))(t)
	return made(host.BIRD(t.Context(), fmt.Sprintf(`
router id %s;
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; merge paths on limit 8; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; merge paths on limit 8; }
protocol bgp node {
	local %[1]s as %d;
	neighbor %s as %d;
	passive on;
	error wait time 1, 2;
	ipv4 { import all; export none; };
	ipv6 { import all; export none; };
}
`, addr, asn, node4, clusterASN)))(t)
}

// sixth is a host's IPv6 address on the LAN.
func sixth(addr netip.Addr) string {
	b := addr.As4()
	return fmt.Sprintf("fd00::%d", b[3])
}

// A family is an IP version with a pool of addresses. The tests of many routes do the same for each that speakers announce.
type family struct {
	name string
	pool string     // CIDR
	hop  netip.Addr // where routers shall send packets to
	room int        // for how many prefixes an UPDATE has room, at least
}

var families = []family{
	{"IPv4", "10.100.0.0/16", node4, 780},
	{"IPv6", "fd00:100::/64", node6, 225},
}

// pools are the address-pools of a configuration.
func pools(more string) string {
	var text strings.Builder
	text.WriteString("address-pools:\n")
	for _, f := range families {
		fmt.Fprintf(&text, "- {name: %s, cidr: [\"%s\"]%s}\n", strings.ToLower(f.name), f.pool, more)
	}
	return text.String()
}

// exposeMany creates Services with so many addresses of each family in all, and returns where routers shall send packets to.
func (s *site) exposeMany(t testing.TB, addresses int) map[netip.Prefix]netip.Addr {
	t.Helper()
	const each = 100
	want := map[netip.Prefix]netip.Addr{}
	var services []Service
	for _, f := range families {
		addr := netip.MustParsePrefix(f.pool).Addr()
		for i := range addresses {
			if i%each == 0 {
				services = append(services, Service{Name: fmt.Sprintf("%s-%d", strings.ToLower(f.name), i/each), Node: s.node})
			}
			service := &services[len(services)-1]
			service.Addrs = append(service.Addrs, addr)
			want[netip.PrefixFrom(addr, addr.BitLen())] = f.hop
			addr = addr.Next()
		}
	}
	must(t, s.Expose(t.Context(), services...))
	return want
}

// sends waits until a router's kernel sends packets exactly there.
func sends(t testing.TB, r network.Router, want map[netip.Prefix]netip.Addr) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to have %d routes", r, len(want)), func(ctx context.Context) error {
		got, err := r.Routes(ctx)
		if err != nil {
			return err
		}
		for prefix, hops := range got {
			if len(hops) != 1 || hops[0].Via != want[prefix] {
				return fmt.Errorf("it sends %s by way of %v instead of %v", prefix, hops, want[prefix])
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("its kernel has %d routes", len(got))
		}
		return nil
	})
}

// upAnew waits until a session is up, another one than before, and has told everything.
func upAnew(t testing.TB, r network.Router, before network.Session) network.Session {
	t.Helper()
	var now network.Session
	eventually(t, fmt.Sprintf("a session with %s after %q", r, before.History), func(ctx context.Context) (err error) {
		now, err = r.Session(ctx, node4)
		if err == nil && (!now.Complete || now.History == before.History) {
			err = fmt.Errorf("it is %+v", now)
		}
		return err
	})
	return now
}

// session is as it is now.
func session(t testing.TB, r network.Router) network.Session {
	t.Helper()
	return made(r.Session(t.Context(), node4))(t)
}

// lines prints paths so that they can be compared.
func lines(paths []router.Path) []string {
	var all []string
	for _, p := range paths {
		pref := "-"
		if p.LocalPref != nil {
			pref = fmt.Sprint(*p.LocalPref)
		}
		line := fmt.Sprintf("%s via %s path %v pref %s %v", p.Prefix, p.NextHop, p.ASPath, pref, append(p.Communities, p.LargeCommunities...))
		if p.Stale {
			line += " stale"
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

// knows waits until a router's table is as wanted.
func knows(t testing.TB, r network.Router, want []router.Path) {
	t.Helper()
	wanted := lines(want)
	eventually(t, fmt.Sprintf("%s to know %d routes", r, len(want)), func(ctx context.Context) error {
		paths, err := r.Table(ctx)
		if err != nil {
			return err
		}
		if got := lines(paths); !slices.Equal(got, wanted) {
			return fmt.Errorf("it has %d routes, %s", len(got), difference(got, wanted))
		}
		return nil
	})
}

// difference names one line that only one side has.
func difference(got, want []string) string {
	for _, line := range got {
		if _, ok := slices.BinarySearch(want, line); !ok {
			return "unwanted " + line
		}
	}
	for _, line := range want {
		if _, ok := slices.BinarySearch(got, line); !ok {
			return "without " + line
		}
	}
	return "some twice"
}

// sorted is the keys of a map of prefixes.
func sorted[T any](m map[netip.Prefix]T) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), netip.Prefix.Compare)
}

// record records the routes of routers.
func record(t testing.TB, routers ...network.Router) map[network.Router]*network.Recorder {
	t.Helper()
	recorders := map[network.Router]*network.Recorder{}
	for _, r := range routers {
		recorders[r] = made(r.Record())(t)
	}
	return recorders
}

// events are those from the n-th on.
func events(t testing.TB, r *network.Recorder, n int) []network.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return made(r.Events(ctx))(t)[n:]
}

// quiet demands that nothing happened to the routes of routers.
func quiet(t testing.TB, recorders map[network.Router]*network.Recorder, meanwhile string) {
	t.Helper()
	for r, recorder := range recorders {
		if all := events(t, recorder, 0); len(all) > 0 {
			t.Errorf("%s: %s changed %d routes, first %s", meanwhile, r, len(all), all[0])
		}
	}
}

// ended waits until a process has ended.
func ended(t testing.TB, p *kubernetes.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal(errors.New(p.Name + " does not end"))
	}
}
