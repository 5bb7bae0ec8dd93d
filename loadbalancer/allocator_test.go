package loadbalancer

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestServicesTakeKeepAndGiveBackAddresses(t *testing.T) {
	a := NewAllocator()
	steps := []struct {
		then      string
		configure string // pools in short: name ranges, and words of a pool
		adopt     string // service
		release   string // service
		service   string
		want      string // the address it asks for, or shows when it is adopted
		pool      string // the pool it asks for
		addr      string // what it has in the end
		from      string // the pool that owns it
		err       string
	}{
		{then: "nothing is configured", service: "shop/web", err: `no address pool is configured: add one to address-pools`},
		{then: "nor is a pool of that name", service: "shop/web", pool: "production", err: `no pool is named "production": ask for a pool that exists`},

		{then: "the operator writes a pool of four", configure: "production 42.176.25.64/30"},
		{then: "web takes the first address", service: "shop/web", addr: "42.176.25.64", from: "production"},
		{then: "web asks again and keeps it", service: "shop/web", addr: "42.176.25.64", from: "production"},
		{then: "web asks for it by name and keeps it", service: "shop/web", want: "42.176.25.64", addr: "42.176.25.64", from: "production"},
		{then: "api may not take web's address", service: "shop/api", want: "42.176.25.64",
			err: `address 42.176.25.64 is held by service shop/web: ask for another, or delete that Service`},
		{then: "api takes the last one on request", service: "shop/api", want: "42.176.25.67", addr: "42.176.25.67", from: "production"},
		{then: "cart takes the next one", service: "shop/cart", addr: "42.176.25.65", from: "production"},
		{then: "search takes the one after", service: "shop/search", addr: "42.176.25.66", from: "production"},
		{then: "blog finds the pool empty", service: "shop/blog",
			err: `no free address in pool "production": add addresses, or delete a Service that holds one`},
		{then: "also if it asks for the pool", service: "shop/blog", pool: "production",
			err: `pool "production" has no free address: add addresses to it, or delete a Service that holds one`},
		{then: "no pool has what blog asks for", service: "shop/blog", want: "8.8.8.8",
			err: `no pool owns address 8.8.8.8: ask for an address of pool "production", or add it to a pool`},
		{then: "web asks for an address nobody has, and keeps its own", service: "shop/web", want: "8.8.8.8", addr: "42.176.25.64",
			err: `no pool owns address 8.8.8.8: ask for an address of pool "production", or add it to a pool`},
		{then: "web asks for api's address, and keeps its own", service: "shop/web", want: "42.176.25.67", addr: "42.176.25.64",
			err: `address 42.176.25.67 is held by service shop/api: ask for another, or delete that Service`},

		{then: "search goes away", release: "shop/search"},
		{then: "search goes away once more", release: "shop/search"},
		{then: "api goes away", release: "shop/api"},
		{then: "blog takes what was freed longest ago", service: "shop/blog", addr: "42.176.25.66", from: "production"},
		{then: "web moves to the address it asks for", service: "shop/web", want: "42.176.25.67", addr: "42.176.25.67", from: "production"},
		{then: "api is back and finds web's old address", service: "shop/api", addr: "42.176.25.64", from: "production"},

		{then: "the operator adds a pool on request only, and one that comes first",
			configure: "production 42.176.25.64/30; vip 10.9.0.0/24 manual avoid; sandbox 192.168.144.0/20 priority=-1"},
		{then: "everybody keeps the address", service: "shop/web", addr: "42.176.25.67", from: "production"},
		{then: "the pool of lower priority goes first", service: "dev/one", addr: "192.168.144.0", from: "sandbox"},
		{then: "an address of the other only by name", service: "dev/two", pool: "vip", addr: "10.9.0.1", from: "vip"},
		{then: "or by address", service: "dev/three", want: "10.9.0.7", addr: "10.9.0.7", from: "vip"},
		{then: "but none that is avoided", service: "dev/four", want: "10.9.0.255",
			err: `pool "vip" does not hand out addresses that end in .0 or .255, such as 10.9.0.255: ask for another, or set avoid-buggy-ips to false`},
		{then: "address and pool must agree", service: "dev/four", want: "10.9.0.9", pool: "sandbox",
			err: `address 10.9.0.9 belongs to pool "vip", and the Service asks for pool "sandbox": change one of the two`},
		{then: "and here they do", service: "dev/four", want: "10.9.0.9", pool: "vip", addr: "10.9.0.9", from: "vip"},
		{then: "no pool has the name", service: "dev/five", pool: "vips",
			err: `no pool is named "vips": ask for one of the pools "production", "vip", "sandbox"`},
		{then: "one asks for the other pool and moves", service: "dev/one", pool: "vip", addr: "10.9.0.2", from: "vip"},
		{then: "one asks for a full pool and stays", service: "dev/one", pool: "production", addr: "10.9.0.2",
			err: `pool "production" has no free address: add addresses to it, or delete a Service that holds one`},
		{then: "one asks for nothing particular any more and stays", service: "dev/one", addr: "10.9.0.2", from: "vip"},

		{then: "the operator leaves only the pool on request", configure: "vip 10.9.0.0/24 manual"},
		{then: "a new Service finds nothing", service: "dev/six",
			err: `no pool hands out addresses without request: annotate the Service with metallb.universe.tf/address-pool`},
		{then: "an old one keeps what no pool owns any more", service: "shop/web", addr: "42.176.25.67"},
		{then: "also by name", service: "shop/web", want: "42.176.25.67", addr: "42.176.25.67"},
		{then: "nobody else may have that", service: "dev/six", want: "42.176.25.67",
			err: `address 42.176.25.67 is held by service shop/web: ask for another, or delete that Service`},
		{then: "nor, once it is free, anybody", release: "shop/web"},
		{then: "because no pool owns it", service: "dev/six", want: "42.176.25.67",
			err: `no pool owns address 42.176.25.67: ask for an address of pool "vip", or add it to a pool`},

		{then: "a Service shows an address nobody knows", adopt: "legacy/mail", want: "172.16.0.1", addr: "172.16.0.1"},
		{then: "and keeps it although it asks for a pool: perhaps it always did", service: "legacy/mail", pool: "vip", addr: "172.16.0.1",
			err: `the Service asks for pool "vip" and came with address 172.16.0.1, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again`},
		{then: "another Service holds what it then wants", service: "legacy/mail", want: "10.9.0.7", addr: "172.16.0.1",
			err: `address 10.9.0.7 is held by service dev/three: ask for another, or delete that Service`},
		{then: "another shows the same", adopt: "legacy/copy", want: "172.16.0.1", err: `address 172.16.0.1 is held by service legacy/mail`},
		{then: "an address that was avoided before comes first now", service: "dev/six", pool: "vip", addr: "10.9.0.0", from: "vip"},
	}
	for _, step := range steps {
		var got string
		var err error
		switch {
		case step.configure != "":
			a.Configure(pools(t, step.configure))
		case step.release != "":
			a.Release(step.release)
		case step.adopt != "":
			err = a.Adopt(step.adopt, step.adopt, netip.MustParseAddr(step.want))
			got = shown(a.Held(step.adopt))
		default:
			r := Request{UID: step.service, Service: step.service, Pool: step.pool}
			if step.want != "" {
				r.Addr = netip.MustParseAddr(step.want)
			}
			var addr netip.Addr
			var from *Pool
			addr, from, err = a.Allocate(r)
			got = shown(a.Held(step.service))
			if err == nil && addr != a.Held(step.service) {
				t.Errorf("%s: answered %s and noted %s", step.then, addr, got)
			}
			name := ""
			if from != nil {
				name = from.Name
			}
			if name != step.from {
				t.Errorf("%s: from pool %q, want %q", step.then, name, step.from)
			}
		}
		said := ""
		if err != nil {
			said = err.Error()
		}
		if got != step.addr || said != step.err {
			t.Errorf("%s: %s %q, want %s %q", step.then, got, said, step.addr, step.err)
		}
		if err := a.inconsistency(); err != nil {
			t.Fatalf("%s: %v", step.then, err)
		}
	}
}

func TestPoolsAreTriedByPriorityAndThenInTheOrderOfTheFile(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "c 10.0.3.0/31 priority=5; b 10.0.2.0/31; a 10.0.1.0/31; d 10.0.4.0/31 priority=-5; e 10.0.5.0/31 manual priority=-9"))
	var got []string
	for i := range 8 {
		addr, _, err := a.Allocate(Request{UID: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, addr.String())
	}
	want := "10.0.4.0 10.0.4.1 10.0.2.0 10.0.2.1 10.0.1.0 10.0.1.1 10.0.3.0 10.0.3.1"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	_, _, err := a.Allocate(Request{UID: "late"})
	if want := `no free address in one of the pools "c", "b", "a", "d": add addresses, or delete a Service that holds one`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAFreedAddressRestsAsLongAsPossible(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.0/30"))
	take := func(service, want string) {
		t.Helper()
		addr, _, err := a.Allocate(Request{UID: service})
		if err != nil || addr.String() != want {
			t.Errorf("%s takes %s, %v, want %s", service, addr, err, want)
		}
	}
	take("one", "10.0.0.0")
	take("two", "10.0.0.1")
	a.Release("two")
	a.Release("one")
	take("three", "10.0.0.2")

	// A new configuration forgets neither what was used nor in which order.
	a.Configure(pools(t, "low 10.0.0.0-10.0.0.1; high 10.0.0.2-10.0.0.3 priority=-1"))
	take("four", "10.0.0.3")
	take("five", "10.0.0.1")
	a.Configure(pools(t, "other 10.1.0.0/32"))
	a.Release("three")
	a.Configure(pools(t, "a 10.0.0.0/30"))
	take("six", "10.0.0.0")
	take("seven", "10.0.0.2") // freed while no pool owned it
	if err := a.inconsistency(); err != nil {
		t.Error(err)
	}
}

func TestAServiceMovesWhenItAsksForAnotherPoolAndNotWhenPoolsAreDrawnAnew(t *testing.T) {
	ask := func(a *Allocator, pool, want, because string) {
		t.Helper()
		a.Allocate(Request{UID: "web", Service: "shop/web", Pool: pool})
		if got := a.Held("web").String(); got != want {
			t.Errorf("web holds %s, want %s: %s", got, want, because)
		}
	}
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.0/24; b 10.0.1.0/24"))
	ask(a, "a", "10.0.0.0", "it takes the first")
	a.Configure(pools(t, "a 10.0.0.128/25; c 10.0.0.0/25; b 10.0.1.0/24"))
	ask(a, "a", "10.0.0.0", "its address belongs to pool c now, and it did not ask for that")
	ask(a, "d", "10.0.0.0", "there is no pool d")
	ask(a, "a", "10.0.0.0", "it asks for what it was given")
	ask(a, "b", "10.0.1.0", "it asks for another pool")
	ask(a, "a", "10.0.0.128", "and back")

	// After a restart nobody remembers what web asked for before.
	a = NewAllocator()
	a.Configure(pools(t, "a 10.0.0.128/25; c 10.0.0.0/25; b 10.0.1.0/24"))
	if err := a.Adopt("web", "shop/web", netip.MustParseAddr("10.0.0.0")); err != nil {
		t.Fatal(err)
	}
	ask(a, "a", "10.0.0.0", "it was adopted, and may have asked for that before pool a was drawn anew")
	ask(a, "", "10.0.0.0", "it asks for nothing particular")
	if err := a.Adopt("web", "shop/web", netip.MustParseAddr("10.0.0.0")); err != nil {
		t.Fatal(err)
	}
	ask(a, "b", "10.0.1.0", "it asks for a pool, which it did not before, although it was adopted again between")
}

func TestAvoidedAddressesAreNotHandedOutAgain(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.254-10.0.1.1"))
	for _, service := range []string{"one", "two", "three", "four"} {
		a.Allocate(Request{UID: service})
	}
	a.Configure(pools(t, "a 10.0.0.254-10.0.1.1 avoid"))
	if addr, _, err := a.Allocate(Request{UID: "two", Addr: netip.MustParseAddr("10.0.0.255")}); err != nil {
		t.Errorf("two holds %s, and loses it: %v", addr, err)
	}
	for _, service := range []string{"two", "three", "one", "four"} { // .255, .0, .254, .1
		a.Release(service)
	}
	for _, want := range []string{"10.0.0.254", "10.0.1.1"} {
		if addr, _, err := a.Allocate(Request{UID: want}); err != nil || addr.String() != want {
			t.Errorf("got %s, %v, want %s", addr, err, want)
		}
	}
	if addr, _, err := a.Allocate(Request{UID: "five"}); err == nil {
		t.Errorf("got %s", addr)
	}
	a.Configure(pools(t, "a 10.0.0.254-10.0.1.1"))
	if addr, _, err := a.Allocate(Request{UID: "five"}); err != nil || addr.String() != "10.0.0.255" {
		t.Errorf("got %s, %v, want what was freed longest ago", addr, err)
	}
}

func TestHoldingsAreInTheOrderOfTheAddresses(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.8/29"))
	for _, last := range []int{12, 9, 10, 200} {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(last)})
		if err := a.Adopt(fmt.Sprint(last), fmt.Sprintf("shop/%d", last), addr); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, a.Holdings(), []Holding{
		{"shop/9", netip.MustParseAddr("10.0.0.9")},
		{"shop/10", netip.MustParseAddr("10.0.0.10")},
		{"shop/12", netip.MustParseAddr("10.0.0.12")},
		{"shop/200", netip.MustParseAddr("10.0.0.200")},
	})
	if h, ok := a.Holder(netip.MustParseAddr("10.0.0.10")); !ok || h != (Holder{"10", "shop/10"}) {
		t.Errorf("holder %v %v", h, ok)
	}
	if h, ok := a.Holder(netip.MustParseAddr("10.0.0.11")); ok {
		t.Errorf("holder %v of a free address", h)
	}
	if addr := a.Release("9"); addr.String() != "10.0.0.9" {
		t.Errorf("released %s", addr)
	}
	if addr := a.Release("9"); addr.IsValid() {
		t.Errorf("released %s twice", addr)
	}
}

// What Services hold and what they ask for by address must not depend on the order in which we hear of it.
func TestHoldersAndExplicitRequestsEndEqualInAnyOrder(t *testing.T) {
	config := pools(t, "a 10.0.0.0/28; b 10.0.1.0/28 manual")
	steps := []func(*Allocator){}
	for i := range 12 {
		uid := fmt.Sprintf("held-%d", i)
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i % 3), byte(i)})
		steps = append(steps, func(a *Allocator) { a.Adopt(uid, uid, addr) })
	}
	for i := range 4 {
		uid := fmt.Sprintf("asks-%d", i)
		addr := netip.AddrFrom4([4]byte{10, 0, 1, byte(14 - i*3)}) // 14, 11, 8, 5: none of the held ones
		steps = append(steps, func(a *Allocator) { a.Allocate(Request{UID: uid, Service: uid, Addr: addr}) })
	}
	var first []Holding
	for round := range 200 {
		a := NewAllocator()
		a.Configure(config)
		random := rand.New(rand.NewPCG(uint64(round), 0))
		random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		for _, step := range steps {
			step(a)
		}
		if err := a.inconsistency(); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			if first = a.Holdings(); len(first) != len(steps) {
				t.Fatalf("%d of %d hold an address", len(first), len(steps))
			}
		}
		equal(t, a.Holdings(), first)
		// And so the next one gets the same address.
		if addr, _, err := a.Allocate(Request{UID: "new"}); err != nil || addr.String() != "10.0.0.1" {
			t.Fatalf("round %d: %s, %v", round, addr, err)
		}
	}
}

// A model answers as an allocator should, by looking at everything each time.
type model struct {
	config *Config
	held   []modelHolding
	freed  []netip.Addr // longest ago first
}

type modelHolding struct {
	uid, service string
	addr         netip.Addr
	pool         string
	asked        bool
}

func (m *model) of(uid string) *modelHolding {
	for i := range m.held {
		if m.held[i].uid == uid {
			return &m.held[i]
		}
	}
	return nil
}

func (m *model) holder(addr netip.Addr) *modelHolding {
	for i := range m.held {
		if m.held[i].addr == addr {
			return &m.held[i]
		}
	}
	return nil
}

func (m *model) pool(addr netip.Addr) *Pool {
	for i, p := range m.config.Pools {
		for _, r := range p.Ranges {
			if r.Contains(addr) {
				return &m.config.Pools[i]
			}
		}
	}
	return nil
}

func (m *model) release(uid string) netip.Addr {
	for i, h := range m.held {
		if h.uid == uid {
			m.held = slices.Delete(m.held, i, i+1)
			m.freed = append(m.freed, h.addr)
			return h.addr
		}
	}
	return netip.Addr{}
}

func (m *model) hold(h modelHolding) {
	if before := m.of(h.uid); before != nil && before.addr == h.addr {
		*before = h
		return
	}
	m.release(h.uid)
	m.freed = slices.DeleteFunc(m.freed, func(addr netip.Addr) bool { return addr == h.addr })
	m.held = append(m.held, h)
}

func (m *model) adopt(uid, service string, addr netip.Addr) (refused bool) {
	if h := m.holder(addr); h != nil {
		if h.uid == uid {
			h.service = service
			return false
		}
		return true
	}
	m.hold(modelHolding{uid: uid, service: service, addr: addr})
	return false
}

func buggy(addr netip.Addr) bool {
	return strings.HasSuffix(addr.String(), ".0") || strings.HasSuffix(addr.String(), ".255")
}

// first returns what a pool hands out next.
func (m *model) first(p Pool) netip.Addr {
	for _, r := range p.Ranges {
		for addr := r.From(); addr.Compare(r.To()) <= 0; addr = addr.Next() {
			if m.holder(addr) == nil && !slices.Contains(m.freed, addr) && !(p.AvoidBuggyIPs && buggy(addr)) {
				return addr
			}
		}
	}
	for _, addr := range m.freed {
		for _, r := range p.Ranges {
			if r.Contains(addr) && !(p.AvoidBuggyIPs && buggy(addr)) {
				return addr
			}
		}
	}
	return netip.Addr{}
}

func (m *model) allocate(r Request) netip.Addr {
	addr := m.choose(r)
	if addr.IsValid() {
		m.hold(modelHolding{r.UID, r.Service, addr, r.Pool, true})
	}
	return addr
}

func (m *model) choose(r Request) netip.Addr {
	if h := m.of(r.UID); h != nil && (r.Addr == h.addr || !r.Addr.IsValid()) {
		owner := m.pool(h.addr)
		if r.Pool == "" || h.asked && r.Pool == h.pool || owner != nil && owner.Name == r.Pool {
			return h.addr
		}
	}
	if r.Addr.IsValid() {
		p := m.pool(r.Addr)
		if m.holder(r.Addr) != nil || p == nil || r.Pool != "" && p.Name != r.Pool || p.AvoidBuggyIPs && buggy(r.Addr) {
			return netip.Addr{}
		}
		return r.Addr
	}
	if h := m.of(r.UID); h != nil && !h.asked {
		return netip.Addr{}
	}
	pools := slices.Clone(m.config.Pools)
	slices.SortStableFunc(pools, func(a, b Pool) int { return a.Priority - b.Priority })
	for _, p := range pools {
		if r.Pool == "" && p.AutoAssign || r.Pool != "" && p.Name == r.Pool {
			if addr := m.first(p); addr.IsValid() {
				return addr
			}
		}
	}
	return netip.Addr{}
}

func TestRandomHistoriesEndAsANaiveModelSays(t *testing.T) {
	configs := []*Config{
		pools(t, "a 10.0.0.0/29"),
		pools(t, "a 10.0.0.0/29 avoid"),
		pools(t, "b 10.0.0.0/30; a 10.0.0.4/30 priority=-1"),
		pools(t, "a 10.0.0.0/30; b 10.0.0.4-10.0.0.6 manual"),
		pools(t, "a 10.0.0.3-10.0.0.5,10.0.0.0/32,10.0.0.254-10.0.1.2; b 10.0.2.0/30 avoid priority=1"),
		pools(t, "b 10.0.0.254-10.0.1.2 avoid; c 10.0.2.0/32"),
		pools(t, "c 10.0.2.0/32 avoid"),
		{},
	}
	var addrs []netip.Addr
	for _, text := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.7", "10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.2", "10.0.2.0", "10.0.2.3", "172.16.0.1", "2001:db8::1"} {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	// Long histories: what goes wrong needs several configurations and a full pool.
	try(t, "rapid.checks", "400")
	try(t, "rapid.steps", "120")
	uids := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}

	rapid.Check(t, func(t *rapid.T) {
		a, m := NewAllocator(), &model{config: &Config{}}
		uid := func() string { return rapid.SampledFrom(uids).Draw(t, "uid") }
		addr := func() netip.Addr { return rapid.SampledFrom(addrs).Draw(t, "addr") }
		pool := func() string { return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "pool") }
		allocate := func(r Request) {
			r.Service = "shop/" + r.UID
			got, from, err := a.Allocate(r)
			if want := m.allocate(r); got != want || (err == nil) != want.IsValid() {
				t.Fatalf("%+v: got %s, %v, want %s", r, got, err, want)
			}
			if err == nil && from != m.config.Pool(got) {
				t.Fatalf("%s is of pool %v, want %v", got, from, m.config.Pool(got))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate":                  func(*rapid.T) { allocate(Request{UID: uid()}) },
			"allocate again":            func(*rapid.T) { allocate(Request{UID: uid()}) },
			"allocate by address":       func(*rapid.T) { allocate(Request{UID: uid(), Addr: addr()}) },
			"allocate by pool":          func(*rapid.T) { allocate(Request{UID: uid(), Pool: pool()}) },
			"allocate by address, pool": func(*rapid.T) { allocate(Request{UID: uid(), Addr: addr(), Pool: pool()}) },
			"release": func(*rapid.T) {
				uid := uid()
				if got, want := a.Release(uid), m.release(uid); got != want {
					t.Fatalf("released %s, want %s", got, want)
				}
			},
			"adopt": func(*rapid.T) {
				uid, addr := uid(), addr()
				if err, refused := a.Adopt(uid, "shop/"+uid, addr), m.adopt(uid, "shop/"+uid, addr); (err != nil) != refused {
					t.Fatalf("adopt %s by %s: %v, want refused %v", addr, uid, err, refused)
				}
			},
			"configure": func(*rapid.T) {
				m.config = rapid.SampledFrom(configs).Draw(t, "config")
				a.Configure(m.config)
			},
			"": func(*rapid.T) {
				if err := a.inconsistency(); err != nil {
					t.Fatal(err)
				}
				if len(a.Holdings()) != len(m.held) {
					t.Fatalf("held: %v, want %v", a.Holdings(), m.held)
				}
				for _, h := range m.held {
					if got, _ := a.Holder(h.addr); got != (Holder{h.uid, h.service}) || a.Held(h.uid) != h.addr {
						t.Fatalf("%s is held by %v, and %s holds %s, want %+v", h.addr, got, h.uid, a.Held(h.uid), h)
					}
				}
			},
		})
	})
}

// inconsistency returns what of the allocator's knowledge disagrees with itself.
func (a *Allocator) inconsistency() error {
	if len(a.holders) != len(a.held) {
		return fmt.Errorf("%d addresses are held by %d Services", len(a.holders), len(a.held))
	}
	for addr, h := range a.holders {
		if a.held[h.UID].addr != addr {
			return fmt.Errorf("%s is held by %s, which holds %s", addr, h.UID, a.held[h.UID].addr)
		}
		if _, free := a.freed[addr]; free {
			return fmt.Errorf("%s is held and free", addr)
		}
	}
	listed := 0
	lists := append([]store{{freed: a.withheld}}, a.stores...)
	for i, s := range lists {
		last := uint64(0)
		for e := s.freed.Front(); e != nil; e = e.Next() {
			f := e.Value.(freedAddr)
			if a.freed[f.addr] != e {
				return fmt.Errorf("%s is in list %d and not known as free", f.addr, i)
			}
			if a.listOf(f.addr) != s.freed {
				return fmt.Errorf("%s is in the wrong list %d", f.addr, i)
			}
			if f.at <= last || f.at > a.clock {
				return fmt.Errorf("%s was freed at %d, after %d, and it is %d", f.addr, f.at, last, a.clock)
			}
			last = f.at
			listed++
		}
	}
	if listed != len(a.freed) {
		return fmt.Errorf("%d addresses are free and %d are in lists", len(a.freed), listed)
	}
	for i, s := range a.stores {
		// Below the cursor nothing is left that was never used.
		pool := &a.config.Pools[i]
		for span, r := range pool.Ranges[:min(s.span+1, len(pool.Ranges))] {
			for addr := r.From(); r.Contains(addr) && (span < s.span || addr.Less(s.next)); addr = addr.Next() {
				if pool.handsOut(addr) && !a.used(addr) {
					return fmt.Errorf("%s of pool %s was passed over", addr, pool.Name)
				}
			}
		}
	}
	return nil
}

// try sets a flag of the rapid package for one test.
func try(t *testing.T, name, value string) {
	t.Helper()
	before := flag.Lookup(name).Value.String()
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flag.Set(name, before) })
}

// pools writes a configuration in short: "name ranges [manual] [avoid] [priority=n]; …".
func pools(t testing.TB, short string) *Config {
	t.Helper()
	text := "address-pools:\n"
	for one := range strings.SplitSeq(short, ";") {
		words := strings.Fields(one)
		text += fmt.Sprintf("- name: %s\n  cidr: [%s]\n", words[0], words[1])
		for _, word := range words[2:] {
			switch key, n, _ := strings.Cut(word, "="); key {
			case "manual":
				text += "  auto-assign: false\n"
			case "avoid":
				text += "  avoid-buggy-ips: true\n"
			case "priority":
				text += "  priority: " + n + "\n"
			default:
				t.Fatalf("pools: %q", word)
			}
		}
	}
	return parse(t, text)
}

func shown(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}
