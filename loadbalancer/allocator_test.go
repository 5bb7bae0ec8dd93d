package loadbalancer

import (
	"cmp"
	"container/list"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go4.org/netipx"
	"pgregory.net/rapid"
)

// A step is one thing that happens to an allocator, and what comes of it.
type step struct {
	then      string
	configure string // pools in short
	givenUp   string // prefixes that the operator took away on purpose, with that
	release   string // a Service
	adopt     string // a request in short, and what the status shows
	ask       string // a request in short
	lose      string // Services, younger than the one that asks, that lose an address
	serve     string // a Service that waits, and all others that do
	addrs     string // what the Service holds in the end, in the order of its families
	from      string // the pool that owns them, if it matters
	why       string // the error
	conflict  string // with whom it cannot share what it left
	also      string // what else the grant says: left and the addresses; renumbered; more
}

// tell plays a story. Who comes first in it is the oldest. Whatever happens, a question changes nothing and foretells the answer,
// asking once more changes nothing either, and no other Service's addresses change, except when all are served.
func tell(t *testing.T, story []step) {
	t.Helper()
	a := NewAllocator()
	born := map[string]int64{}
	read := func(short string) (Request, []netip.Addr) {
		r, shows := request(t, short)
		if born[r.UID] == 0 {
			born[r.UID] = int64(len(born)) + 1
		}
		r.Created = born[r.UID]
		return r, shows
	}
	for _, s := range story {
		var got, also string
		var why, conflict Reason
		before, of := holdingsOf(a), ""
		left := func() (left []netip.Addr) {
			for _, addr := range addresses(before[of]) {
				if !slices.Contains(a.Held(of), addr) {
					left = append(left, addr)
				}
			}
			return left
		}
		switch {
		case s.configure != "":
			a.Configure(pools(t, s.configure), set(t, s.givenUp))
		case s.release != "":
			of = s.release
			also = grantInWords(Grant{}, a.Release(of))
		case s.adopt != "":
			r, shows := read(s.adopt)
			of = r.UID
			why = a.Adopt(r, shows)
			got = shown(a.Held(of))
		case s.serve != "":
			changed, _ := a.Serve(func() bool { return true })
			for _, c := range changed {
				if of = c.UID; of == s.serve {
					why, conflict, also = c.Why, c.Conflict, grantInWords(c.Grant, left())
				}
				delete(before, of)
			}
			got = shown(a.Held(s.serve))
			for _, c := range changed {
				before[c.UID] = shown(a.Held(c.UID))
				if before[c.UID] == "" {
					delete(before, c.UID)
				}
			}
			of = ""
		default:
			r, _ := read(s.ask)
			of = r.UID
			foretold, same := a.Check(r)
			g := a.Allocate(r)
			if !reflect.DeepEqual(g, foretold) {
				t.Errorf("%s: got %+v, and the answer was to be %+v", s.then, g, foretold)
			}
			if now := holdingsOf(a); same && s.lose == "" && !maps.Equal(now, before) {
				t.Errorf("%s: nothing was to change, and they held %v and now %v", s.then, before, now)
			}
			if again, same := a.Check(r); !same || !slices.Equal(again.Addrs, g.Addrs) || words(again.Why) != words(g.Why) {
				t.Errorf("%s: got %+v, and asking again %+v", s.then, g, again)
			}
			if !slices.Equal(g.Addrs, a.Held(of)) {
				t.Errorf("%s: answered %s and noted %s", s.then, g.Addrs, a.Held(of))
			}
			got, also, why, conflict = shown(g.Addrs), grantInWords(g, left()), g.Why, g.Conflict
		}
		if got != s.addrs || words(why) != s.why || words(conflict) != s.conflict || also != s.also {
			t.Errorf("%s:\n got %q why %q conflict %q also %q\nwant %q why %q conflict %q also %q",
				s.then, got, words(why), words(conflict), also, s.addrs, s.why, s.conflict, s.also)
		}
		for _, addr := range a.Held(of) {
			if pool := a.Pool(addr); s.from != "" && (pool == nil || pool.Name != s.from) {
				t.Errorf("%s: %s is of pool %v, want %q", s.then, addr, pool, s.from)
			}
		}
		now := holdingsOf(a)
		delete(before, of)
		delete(now, of)
		for _, loser := range strings.Fields(s.lose) {
			if now[loser] == before[loser] {
				t.Errorf("%s: %s lost nothing", s.then, loser)
			}
			delete(before, loser)
			delete(now, loser)
		}
		if !maps.Equal(now, before) {
			t.Errorf("%s: others held %v and now %v", s.then, before, now)
		}
		if err := a.inconsistency(); err != nil {
			t.Fatalf("%s: %v", s.then, err)
		}
	}
}

func holdingsOf(a *Allocator) map[string]string {
	all := map[string]string{}
	for uid, t := range a.services {
		if len(t.addrs) > 0 {
			all[uid] = shown(t.addrs)
		}
	}
	return all
}

func grantInWords(g Grant, left []netip.Addr) string {
	var all []string
	for _, word := range []struct {
		text string
		is   bool
	}{
		{"left " + shown(left), len(left) > 0},
		{"renumbered", g.Renumbered},
		{"more", g.More},
	} {
		if word.is {
			all = append(all, word.text)
		}
	}
	return strings.Join(all, " ")
}

func words(r Reason) string { return r.String() }

func shown(addrs []netip.Addr) string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return strings.Join(all, ",")
}

// request reads a Service in short: "namespace/name [families=46] [require] [share=key] [ports=80,53/UDP] [local=app]
// [by-hand] [not-ready] [pool=name] [want=addresses] [tier=label] [invalid=text] [shows=addresses]".
func request(t testing.TB, short string) (r Request, shows []netip.Addr) {
	t.Helper()
	words := strings.Fields(short)
	r = Request{UID: words[0], Service: words[0], Families: []Family{IPv4}}
	r.Namespace, _, _ = strings.Cut(words[0], "/")
	for _, word := range words[1:] {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "families":
			r.Families = nil
			for _, f := range value {
				r.Families = append(r.Families, Family(f-'0'))
			}
		case "require":
			r.AllFamilies = true
		case "share":
			r.Key = value
		case "ports":
			r.Ports = ports(value)
		case "local":
			r.Backend = "pods app=" + value
		case "by-hand":
			r.Backend = UnknownPods
		case "not-ready":
			r.NotReady = true
		case "pool":
			r.Pool = value
		case "want":
			r.Addrs = addresses(value)
		case "tier":
			r.Labels = map[string]string{"tier": value}
		case "invalid":
			r.Invalid = fmt.Errorf("%s", value)
		case "shows":
			shows = addresses(value)
		default:
			t.Fatalf("request %q: what is %q?", short, word)
		}
	}
	return r, shows
}

func ports(short string) (all []Port) {
	for one := range strings.SplitSeq(short, ",") {
		number, protocol, _ := strings.Cut(one, "/")
		if protocol == "" {
			protocol = "TCP"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			panic(err)
		}
		all = append(all, Port{protocol, uint16(n)})
	}
	return all
}

func addresses(short string) (all []netip.Addr) {
	if short == "" {
		return nil
	}
	for one := range strings.SplitSeq(short, ",") {
		all = append(all, netip.MustParseAddr(one))
	}
	return all
}

// set reads prefixes with commas between them; an empty text is nil.
func set(t testing.TB, short string) *netipx.IPSet {
	t.Helper()
	if short == "" {
		return nil
	}
	var b netipx.IPSetBuilder
	for one := range strings.SplitSeq(short, ",") {
		b.AddPrefix(netip.MustParsePrefix(one))
	}
	s, err := b.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pools writes a configuration in short: "name ranges [manual] [avoid] [priority=n] [namespaces=a,b] [tier=label] [across]
// [hold=seconds] [exclude=addresses] [env=label of namespaces] [reserve=service:addresses+…] [quota=namespace:n,…]; …".
func pools(t testing.TB, short string) *Config {
	t.Helper()
	text := "address-pools:\n"
	for one := range strings.SplitSeq(short, ";") {
		words := strings.Fields(one)
		text += fmt.Sprintf("- name: %s\n  cidr: ['%s']\n", words[0], strings.ReplaceAll(words[1], ",", "', '"))
		for _, word := range words[2:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "manual":
				text += "  auto-assign: false\n"
			case "avoid":
				text += "  avoid-buggy-ips: true\n"
			case "exclude":
				text += "  exclude: ['" + strings.ReplaceAll(value, ",", "', '") + "']\n"
			case "hold":
				text += "  hold-down: " + value + "\n"
			case "env":
				text += "  namespace-selectors: [{match-labels: {env: " + value + "}}]\n"
			case "reserve":
				text += "  reservations:\n"
				for _, one := range strings.Split(value, "+") {
					service, addrs, _ := strings.Cut(one, ":")
					text += "  - {service: " + service + ", addresses: ['" + strings.ReplaceAll(addrs, ",", "', '") + "']}\n"
				}
			case "quota":
				text += "  quotas: {" + strings.ReplaceAll(strings.ReplaceAll(value, ":", ": "), ",", ", ") + "}\n"
			case "across":
				text += "  share-across-namespaces: true\n"
			case "priority":
				text += "  priority: " + value + "\n"
			case "namespaces":
				text += "  namespaces: [" + value + "]\n"
			case "tier":
				text += "  service-selectors: [{match-labels: {tier: " + value + "}}]\n"
			default:
				t.Fatalf("pools: %q", word)
			}
		}
	}
	return parse(t, text)
}

func TestServicesTakeKeepAndGiveBackAddresses(t *testing.T) {
	tell(t, []step{
		{then: "nothing is configured", ask: "shop/web", why: `no address pool is configured: add one to address-pools`},
		{then: "nor is a pool of that name", ask: "shop/web pool=production", why: `no pool is named "production": ask for a pool that exists`},

		{then: "the operator writes a pool of four", configure: "production 42.176.25.64/30"},
		{then: "web takes the first address", ask: "shop/web", addrs: "42.176.25.64", from: "production"},
		{then: "web asks again and keeps it", ask: "shop/web", addrs: "42.176.25.64", from: "production"},
		{then: "web asks for it by name and keeps it", ask: "shop/web want=42.176.25.64", addrs: "42.176.25.64", from: "production"},
		{then: "api may not take web's address", ask: "shop/api want=42.176.25.64",
			why: `address 42.176.25.64 is held by service shop/web: ask for another, or delete that Service`},
		{then: "api takes the last one on request", ask: "shop/api want=42.176.25.67", addrs: "42.176.25.67", from: "production"},
		{then: "cart takes the next one", ask: "shop/cart", addrs: "42.176.25.65", from: "production"},
		{then: "search takes the one after", ask: "shop/search", addrs: "42.176.25.66", from: "production"},
		{then: "blog finds the pool empty", ask: "shop/blog",
			why: `no free address in pool "production": add addresses, or delete a Service that holds one`},
		{then: "also if it asks for the pool", ask: "shop/blog pool=production",
			why: `pool "production" has no free address: add addresses to it, or delete a Service that holds one`},
		{then: "no pool has what blog asks for", ask: "shop/blog want=8.8.8.8",
			why: `no pool owns address 8.8.8.8: ask for an address of pool "production", or add it to a pool`},
		{then: "web asks for an address nobody has, and keeps its own", ask: "shop/web want=8.8.8.8", addrs: "42.176.25.64",
			why: `no pool owns address 8.8.8.8: ask for an address of pool "production", or add it to a pool`},
		{then: "web asks for api's address, and keeps its own", ask: "shop/web want=42.176.25.67", addrs: "42.176.25.64",
			why: `address 42.176.25.67 is held by service shop/api: ask for another, or delete that Service`},

		{then: "search goes away", release: "shop/search", also: "left 42.176.25.66"},
		{then: "search goes away once more", release: "shop/search"},
		{then: "api goes away", release: "shop/api", also: "left 42.176.25.67"},
		{then: "blog takes what was freed longest ago", ask: "shop/blog", addrs: "42.176.25.66", from: "production"},
		{then: "web moves to the address it asks for", ask: "shop/web want=42.176.25.67", addrs: "42.176.25.67", from: "production", also: "left 42.176.25.64"},
		{then: "api is back and finds web's old address", ask: "shop/api", addrs: "42.176.25.64", from: "production"},

		{then: "the operator adds a pool on request only, and one that comes first",
			configure: "production 42.176.25.64/30; vip 10.9.0.0/24 manual avoid; sandbox 192.168.144.0/20 priority=-1"},
		{then: "everybody keeps the address", ask: "shop/web", addrs: "42.176.25.67", from: "production"},
		{then: "the pool of lower priority goes first", ask: "dev/one", addrs: "192.168.144.0", from: "sandbox"},
		{then: "an address of the other only by name", ask: "dev/two pool=vip", addrs: "10.9.0.1", from: "vip"},
		{then: "or by address", ask: "dev/three want=10.9.0.7", addrs: "10.9.0.7", from: "vip"},
		{then: "but none that is avoided", ask: "dev/four want=10.9.0.255",
			why: `pool "vip" does not hand out addresses that end in .0 or .255, such as 10.9.0.255: ask for another, or set avoid-buggy-ips to false`},
		{then: "address and pool must agree", ask: "dev/four want=10.9.0.9 pool=sandbox",
			why: `address 10.9.0.9 belongs to pool "vip", and the Service asks for pool "sandbox": change one of the two`},
		{then: "and here they do", ask: "dev/four want=10.9.0.9 pool=vip", addrs: "10.9.0.9", from: "vip"},
		{then: "no pool has the name", ask: "dev/five pool=vips",
			why: `no pool is named "vips": ask for one of the pools "production", "vip", "sandbox"`},
		{then: "one asks for the other pool and moves", ask: "dev/one pool=vip", addrs: "10.9.0.2", from: "vip", also: "left 192.168.144.0"},
		{then: "one asks for a full pool and stays", ask: "dev/one pool=production", addrs: "10.9.0.2",
			why: `pool "production" has no free address: add addresses to it, or delete a Service that holds one`},
		{then: "one asks for nothing particular any more and stays", ask: "dev/one", addrs: "10.9.0.2", from: "vip"},

		{then: "the operator leaves only the pool on request", configure: "vip 10.9.0.0/24 manual"},
		{then: "a new Service finds nothing", ask: "dev/six",
			why: `no pool hands out addresses without request: annotate the Service with metallb.universe.tf/address-pool`},
		{then: "an old one keeps what no pool owns any more", ask: "shop/web", addrs: "42.176.25.67"},
		{then: "also by name", ask: "shop/web want=42.176.25.67", addrs: "42.176.25.67"},
		{then: "nobody else may have that", ask: "dev/six want=42.176.25.67",
			why: `address 42.176.25.67 is held by a Service of another namespace: ask for another, or delete that Service`},
		{then: "nor, once it is free, anybody", release: "shop/web", also: "left 42.176.25.67"},
		{then: "because no pool owns it", ask: "dev/six want=42.176.25.67",
			why: `no pool owns address 42.176.25.67: ask for an address of pool "vip", or add it to a pool`},

		{then: "a Service shows an address nobody knows", adopt: "legacy/mail shows=172.16.0.1", addrs: "172.16.0.1"},
		{then: "and keeps it although it asks for a pool: perhaps it always did", ask: "legacy/mail pool=vip", addrs: "172.16.0.1",
			why: `the Service asks for pool "vip" and came with address 172.16.0.1, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again`},
		{then: "another Service holds what it then wants", ask: "legacy/mail want=10.9.0.7", addrs: "172.16.0.1",
			why: `address 10.9.0.7 is held by a Service of another namespace: ask for another, or delete that Service`},
		{then: "another shows the same", adopt: "legacy/copy shows=172.16.0.1",
			why: `address 172.16.0.1 is held by service legacy/mail: ask for another, or delete that Service`},
		{then: "an address that was avoided before comes first now", ask: "dev/six pool=vip", addrs: "10.9.0.0", from: "vip"},
	})
}

func TestPoolsAreTriedByPriorityAndThenInTheOrderOfTheFile(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "c 10.0.3.0/31 priority=5; b 10.0.2.0/31; a 10.0.1.0/31; d 10.0.4.0/31 priority=-5; e 10.0.5.0/31 manual priority=-9"), nil)
	var got []string
	for i := range 8 {
		got = append(got, take(t, a, fmt.Sprint("shop/", i)))
	}
	want := "10.0.4.0 10.0.4.1 10.0.2.0 10.0.2.1 10.0.1.0 10.0.1.1 10.0.3.0 10.0.3.1"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	r, _ := request(t, "shop/late")
	if got, want := words(a.Allocate(r).Why), `no free address in one of the pools "c", "b", "a", "d": add addresses, or delete a Service that holds one`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// take asks for an address, in short, and returns what the Service gets.
func take(t testing.TB, a *Allocator, short string) string {
	t.Helper()
	r, _ := request(t, short)
	g := a.Allocate(r)
	if !g.Why.None() {
		t.Errorf("%s: %v", short, g.Why)
	}
	return shown(g.Addrs)
}

func TestAFreedAddressRestsAsLongAsPossible(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool of four", configure: "a 10.0.0.0/30"},
		{then: "one takes the first", ask: "shop/one", addrs: "10.0.0.0"},
		{then: "two takes the next", ask: "shop/two", addrs: "10.0.0.1"},
		{then: "two goes", release: "shop/two", also: "left 10.0.0.1"},
		{then: "one goes", release: "shop/one", also: "left 10.0.0.0"},
		{then: "three gets what was never used", ask: "shop/three", addrs: "10.0.0.2"},
		{then: "the operator draws two pools, which forgets neither what was used nor in which order",
			configure: "low 10.0.0.0-10.0.0.1; high 10.0.0.2-10.0.0.3 priority=-1"},
		{then: "four gets what was never used", ask: "shop/four", addrs: "10.0.0.3"},
		{then: "five gets what was freed first", ask: "shop/five", addrs: "10.0.0.1"},
		{then: "the operator draws another pool", configure: "other 10.1.0.0/32"},
		{then: "three goes while no pool owns its address", release: "shop/three", also: "left 10.0.0.2"},
		{then: "the first pool is back", configure: "a 10.0.0.0/30"},
		{then: "six gets what one had", ask: "shop/six", addrs: "10.0.0.0"},
		{then: "seven gets what three had", ask: "shop/seven", addrs: "10.0.0.2"},
	})
}

func TestAServiceMovesWhenItAsksForAnotherPoolAndNotWhenPoolsAreDrawnAnew(t *testing.T) {
	const kept = `the Service asks for pool "a" and came with address 10.0.0.0, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again`
	tell(t, []step{
		{then: "there are two pools", configure: "a 10.0.0.0/24; b 10.0.1.0/24"},
		{then: "web takes the first of one", ask: "shop/web pool=a", addrs: "10.0.0.0"},
		{then: "the operator draws them anew", configure: "a 10.0.0.128/25; c 10.0.0.0/25; b 10.0.1.0/24"},
		{then: "its address belongs to pool c now, and it did not ask for that", ask: "shop/web pool=a", addrs: "10.0.0.0", from: "c"},
		{then: "there is no pool d", ask: "shop/web pool=d", addrs: "10.0.0.0", why: `no pool is named "d": ask for one of the pools "a", "c", "b"`},
		{then: "it asks for what it was given", ask: "shop/web pool=a", addrs: "10.0.0.0"},
		{then: "it asks for another pool", ask: "shop/web pool=b", addrs: "10.0.1.0", also: "left 10.0.0.0"},
		{then: "and back", ask: "shop/web pool=a", addrs: "10.0.0.128", also: "left 10.0.1.0"},
	})
	tell(t, []step{
		{then: "after a restart nobody remembers what web asked for before", configure: "a 10.0.0.128/25; c 10.0.0.0/25; b 10.0.1.0/24"},
		{then: "it shows its address", adopt: "shop/web shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "it may have asked for that before pool a was drawn anew", ask: "shop/web pool=a", addrs: "10.0.0.0", why: kept},
		{then: "it asks for nothing particular", ask: "shop/web", addrs: "10.0.0.0"},
		{then: "it shows its address again", adopt: "shop/web shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "it asks for a pool, which it did not before, although it was adopted again between", ask: "shop/web pool=b", addrs: "10.0.1.0", also: "left 10.0.0.0"},
	})
}

func TestAvoidedAddressesAreNotHandedOutAgain(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool around a border", configure: "a 10.0.0.254-10.0.1.1"},
		{then: "one", ask: "shop/one", addrs: "10.0.0.254"},
		{then: "two", ask: "shop/two", addrs: "10.0.0.255"},
		{then: "three", ask: "shop/three", addrs: "10.0.1.0"},
		{then: "four", ask: "shop/four", addrs: "10.0.1.1"},
		{then: "the operator avoids two of them", configure: "a 10.0.0.254-10.0.1.1 avoid"},
		{then: "two holds one, and keeps it by name", ask: "shop/two want=10.0.0.255", addrs: "10.0.0.255"},
		{then: "all go", release: "shop/two", also: "left 10.0.0.255"},
		{then: "all go", release: "shop/three", also: "left 10.0.1.0"},
		{then: "all go", release: "shop/one", also: "left 10.0.0.254"},
		{then: "all go", release: "shop/four", also: "left 10.0.1.1"},
		{then: "three gets what is not avoided", ask: "shop/three", addrs: "10.0.0.254"},
		{then: "so does four", ask: "shop/four", addrs: "10.0.1.1"},
		{then: "and that was all", ask: "shop/five", why: `no free address in pool "a": add addresses, or delete a Service that holds one`},
		{then: "the operator avoids nothing any more", configure: "a 10.0.0.254-10.0.1.1"},
		{then: "five gets what was freed longest ago", ask: "shop/five", addrs: "10.0.0.255"},
	})
}

func TestExcludedAddressesAreNeverHandedOutAndWhoHoldsOneKeepsIt(t *testing.T) {
	const whole, excluding = "gold 10.0.0.0/29; six fd00::/64 manual", "gold 10.0.0.0/29 exclude=10.0.0.0/30,10.0.0.5; six fd00::/64 manual exclude=fd00::-fd00::ffff:ffff:ffff:fffe"
	tell(t, []step{
		{then: "a pool of eight", configure: whole},
		{then: "web takes the first", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "api takes the second", ask: "shop/api", addrs: "10.0.0.1"},
		{then: "the operator excludes five, two of them in use", configure: excluding},
		{then: "web keeps its own", ask: "shop/web share=k ports=80", addrs: "10.0.0.0", from: "gold"},
		{then: "also when all are looked at", serve: "shop/api", addrs: "10.0.0.1"},
		{then: "nobody comes to share it", ask: "shop/mail share=k ports=25", addrs: "10.0.0.4"},
		{then: "nor gets one by name", ask: "shop/late want=10.0.0.5",
			why: `pool "gold" excludes address 10.0.0.5: ask for another, or take it out of exclude`},
		{then: "the others are handed out", ask: "shop/late", addrs: "10.0.0.6"},
		{then: "up to the last", ask: "shop/last", addrs: "10.0.0.7"},
		{then: "and then there are none", ask: "shop/more", why: `no free address in pool "gold": add addresses, or delete a Service that holds one`},
		{then: "api goes", release: "shop/api", also: "left 10.0.0.1"},
		{then: "which helps nobody", serve: "shop/more", why: ""},
		{then: "late goes", release: "shop/late", also: "left 10.0.0.6"},
		{then: "which does", serve: "shop/more", addrs: "10.0.0.6"},
		{then: "of a huge pool one address is left, and found at once", ask: "shop/dns families=6 pool=six", addrs: "fd00::ffff:ffff:ffff:ffff"},
		{then: "the operator excludes nothing any more", configure: whole},
		{then: "those never used come first", ask: "shop/a", addrs: "10.0.0.2"},
		{ask: "shop/b", then: "", addrs: "10.0.0.3"},
		{ask: "shop/c", then: "", addrs: "10.0.0.5"},
		{then: "then the one that was freed", ask: "shop/d", addrs: "10.0.0.1"},
		{then: "an address of every pool is excluded", configure: "gold 10.0.0.0/29 exclude=10.0.0.0/29"},
		{then: "and a family with nothing to hand out is none", ask: "shop/e", why: `there is no IPv4 address in pool "gold": add some, or change spec.ipFamilies`},
	})
}

func TestAPoolIsForNamespacesByNameOrByLabel(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "gold 10.0.0.0/29 namespaces=blog env=prod"), nil)
	asks := func(service string) Grant {
		r, _ := request(t, service)
		return a.Allocate(r)
	}
	if g := asks("blog/web"); shown(g.Addrs) != "10.0.0.0" {
		t.Errorf("the namespace that is named gets %v", g)
	}
	for _, service := range []string{"shop/web", "shop/api", "farm/web"} {
		if g := asks(service); words(g.Why) != `no pool is for this Service: change its labels, or let it into a pool that exists by namespaces or service-selectors` {
			t.Errorf("%s gets %s, %s", service, g.Addrs, g.Why)
		}
	}
	a.Label("farm", map[string]string{"env": "test"})
	if changed, _ := a.Serve(func() bool { return true }); len(changed) > 0 {
		t.Errorf("another label serves %v", changed)
	}
	a.Label("shop", map[string]string{"env": "prod", "team": "a"})
	a.Serve(func() bool { return true })
	equal(t, holdingsOf(a), map[string]string{"blog/web": "10.0.0.0", "shop/web": "10.0.0.2", "shop/api": "10.0.0.1"})
	a.Label("shop", nil)
	if g := asks("shop/web"); shown(g.Addrs) != "10.0.0.2" || !g.Why.None() {
		t.Errorf("who has an address keeps it: %v", g)
	}
	if g := asks("shop/late want=10.0.0.7"); words(g.Why) != `address 10.0.0.7 belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors` {
		t.Errorf("without the label, nobody gets one: %s", g.Why)
	}
	if err := a.inconsistency(); err != nil {
		t.Error(err)
	}
}

func TestAReservedAddressIsForOneServiceAlone(t *testing.T) {
	const plain, reserving = "gold 10.0.0.0/30,fd00::/126", "gold 10.0.0.0/30,fd00::/126 reserve=shop/web:10.0.0.0,fd00::1+shop/mail:10.0.0.2"
	tell(t, []step{
		{then: "blog is there before", configure: plain},
		{then: "and has the first address", ask: "blog/old share=k ports=80", addrs: "10.0.0.0"},
		{then: "the operator reserves it and others", configure: reserving},
		{then: "blog keeps it", ask: "blog/old share=k ports=80", addrs: "10.0.0.0"},
		{then: "nobody else comes to share it", ask: "blog/new share=k ports=25", addrs: "10.0.0.1"},
		{then: "nor gets one by name, of a Service that does not exist", ask: "blog/third want=10.0.0.2",
			why: `pool "gold" reserves address 10.0.0.2 for a Service of another namespace: ask for another`},
		{then: "the namespace itself learns the name", ask: "shop/third want=10.0.0.2", why: `pool "gold" reserves address 10.0.0.2 for service shop/mail: ask for another`},
		{then: "the next gets what nobody reserves", ask: "blog/fourth", addrs: "10.0.0.3"},
		{then: "and then there is none", ask: "blog/fifth", why: `no free address in pool "gold" (2 reserved): add addresses, or delete a Service that holds one`},
		{then: "web waits for its own", ask: "shop/web", why: `address 10.0.0.0 is held by a Service of another namespace, which shares it: ask for another, or annotate this Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "blog goes", release: "blog/old", also: "left 10.0.0.0"},
		{then: "web gets it, though it came last", serve: "shop/web", addrs: "10.0.0.0"},
		{then: "and its IPv6 address when it wants one", ask: "shop/web families=46", addrs: "10.0.0.0,fd00::1"},
		{then: "mail gets its own unasked", ask: "shop/mail", addrs: "10.0.0.2"},
		{then: "and keeps it", release: "blog/fourth", also: "left 10.0.0.3"},
		{then: "unless it asks for another", ask: "shop/mail want=10.0.0.3", addrs: "10.0.0.3", also: "left 10.0.0.2"},
		{then: "then its own waits for it", ask: "blog/sixth want=10.0.0.2", why: `pool "gold" reserves address 10.0.0.2 for a Service of another namespace: ask for another`},
		{then: "with nothing reserved, it is for anybody", configure: plain},
		{then: "also who asked in vain", serve: "blog/third", addrs: "10.0.0.2"},
	})
}

func TestAFreedAddressIsForWhoHadItUntilHoldDownEnds(t *testing.T) {
	a, noon := NewAllocator(), 12*time.Hour
	gets := func(then, service, want, why string) {
		t.Helper()
		r, _ := request(t, service)
		if g := a.Allocate(r); shown(g.Addrs) != want || words(g.Why) != why {
			t.Errorf("%s: %s gets %q, %q; want %q, %q", then, service, shown(g.Addrs), g.Why, want, why)
		}
		if err := a.inconsistency(); err != nil {
			t.Fatal(err)
		}
	}
	const full = `no free address in pool "gold": add addresses, or delete a Service that holds one`
	a.At(noon)
	a.Configure(pools(t, "gold 10.0.0.0/31,fd00::/126 hold=60"), nil)
	gets("the first", "shop/web families=46", "10.0.0.0,fd00::", "")
	gets("the second", "shop/api", "10.0.0.1", "")
	a.Release("shop/web")
	gets("what was freed is for nobody else", "blog/late", "", full)
	gets("not by name either", "blog/named want=10.0.0.0", "",
		`address 10.0.0.0 was freed a short time ago, and hold-down of pool "gold" keeps it for a Service of another namespace: ask for another, or wait`)
	gets("a Service of the same namespace and name has both back", "shop/web families=46", "10.0.0.0,fd00::", "")
	a.Release("shop/web")
	if end := a.NextEnd(); end != noon+time.Minute {
		t.Errorf("it ends at %s", end)
	}
	a.At(noon + 59*time.Second)
	a.Serve(func() bool { return true })
	equal(t, holdingsOf(a), map[string]string{"shop/api": "10.0.0.1"})
	a.At(noon + time.Minute)
	a.Serve(func() bool { return true })
	equal(t, holdingsOf(a), map[string]string{"shop/api": "10.0.0.1", "blog/named": "10.0.0.0"})

	// A restart keeps what is left of the time; a shorter hold-down counts from now.
	a.Release("shop/api")
	b := NewAllocator()
	b.At(noon + 90*time.Second)
	b.Configure(pools(t, "gold 10.0.0.0/31 hold=60"), nil)
	b.HoldDown(a.HeldDown())
	equal(t, b.HeldDown(), []HeldDown{{netip.MustParseAddr("10.0.0.1"), "shop/api", noon + 2*time.Minute}})
	b.Configure(pools(t, "gold 10.0.0.0/31 hold=10"), nil)
	equal(t, b.NextEnd(), noon+100*time.Second)
	b.Configure(pools(t, "gold 10.0.0.0/31"), nil)
	equal(t, b.HeldDown(), []HeldDown(nil))
}

func TestANamespaceKeepsSixteenAddressesOrItsQuotaFromOthers(t *testing.T) {
	a := NewAllocator()
	a.At(0)
	a.Configure(pools(t, "gold 10.0.0.0/24 hold=60 quota=blog:20"), nil)
	for _, namespace := range []string{"shop", "blog"} {
		for i := range 20 {
			take(t, a, fmt.Sprint(namespace, "/", i))
		}
	}
	for i := range 20 {
		a.Release(fmt.Sprint("shop/", i))
		a.Release(fmt.Sprint("blog/", i))
	}
	held := map[string]int{}
	for _, d := range a.HeldDown() {
		namespace, _, _ := strings.Cut(d.Service, "/")
		held[namespace]++
	}
	equal(t, held, map[string]int{"shop": 16, "blog": 20})
	if d := a.down.by["shop/3"]; d != nil {
		t.Errorf("the oldest did not end first: %+v", d)
	}
	r, _ := request(t, "blog/more")
	if g := a.Allocate(r); words(g.Why) != `namespace blog holds 20 addresses of pool "gold", which allows it 20: delete a Service, or ask for a larger quota` {
		t.Errorf("what is held down counts: %s %s", g.Addrs, g.Why)
	}
	a.At(time.Minute)
	if g := a.Allocate(r); len(g.Addrs) != 1 {
		t.Errorf("and then does not: %s", g.Why)
	}
	if err := a.inconsistency(); err != nil {
		t.Error(err)
	}
}

func TestWhatAServiceHoldsIsComparedWithReservations(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "gold 10.0.0.0/30"), nil)
	take(t, a, "blog/old")
	take(t, a, "shop/web")
	a.Configure(pools(t, "gold 10.0.0.0/30 reserve=shop/web:10.0.0.0"), nil)
	for uid, want := range map[string]string{
		"blog/old": `pool "gold" reserves address 10.0.0.0 for a Service of another namespace: this Service had it before, and keeps it until it is deleted or asks for another`,
		"shop/web": `pool "gold" reserves address 10.0.0.0 for this Service, which keeps 10.0.0.1: ask for 10.0.0.0, or remove the reservation`,
		"shop/api": "",
	} {
		if got := words(a.Misplaced(uid)); got != want {
			t.Errorf("%s: %q, want %q", uid, got, want)
		}
	}
}

func TestANamespaceGetsAsManyAddressesAsItsQuotaAllows(t *testing.T) {
	const over = `namespace shop holds 2 addresses of pool "gold", which allows it 2: delete a Service, or ask for a larger quota`
	tell(t, []step{
		{then: "shop may hold two, others one", configure: "gold 10.0.0.0/29,fd00::/126 across quota=shop:2,default:1"},
		{then: "the first", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "one that shares it costs nothing", ask: "shop/api share=k ports=443", addrs: "10.0.0.0"},
		{then: "the second", ask: "shop/mail", addrs: "10.0.0.1"},
		{then: "the third waits", ask: "shop/dns", why: over},
		{then: "also for one by name", ask: "shop/ftp want=10.0.0.5", why: over},
		{then: "which is free for others", ask: "blog/a want=10.0.0.5", addrs: "10.0.0.5"},
		{then: "who share it", ask: "blog/b share=k ports=25", why: `namespace blog holds 1 address of pool "gold", which allows it 1: delete a Service, or ask for a larger quota`},
	})
	tell(t, []step{
		{then: "shop may hold two", configure: "gold 10.0.0.0/29,fd00::/126 quota=shop:2"},
		{then: "both families are two", ask: "shop/web families=46 require", addrs: "10.0.0.0,fd00::"},
		{then: "the third waits", ask: "shop/dns", why: over},
		{then: "at its quota, one may still move", ask: "shop/web families=46 require want=10.0.0.7", addrs: "10.0.0.7,fd00::", also: "left 10.0.0.0"},
		{then: "a Service goes", release: "shop/web", also: "left 10.0.0.7,fd00::"},
		{then: "which is room for the next", serve: "shop/dns", addrs: "10.0.0.1"},
		{then: "one family of two is better than none", ask: "shop/mail families=46", addrs: "10.0.0.2", also: "more"},
		{then: "the other comes with room for it", release: "shop/dns", also: "left 10.0.0.1"},
		{then: "so it does", serve: "shop/mail", addrs: "10.0.0.2,fd00::1"},
		{then: "the quota shrinks", configure: "gold 10.0.0.0/29,fd00::/126 quota=shop:1"},
		{then: "and takes nothing away", ask: "shop/mail families=46", addrs: "10.0.0.2,fd00::1"},
		{then: "nor does serving", serve: "shop/mail", addrs: "10.0.0.2,fd00::1"},
		{then: "a new one waits", ask: "shop/dns", why: `namespace shop holds 2 addresses of pool "gold", which allows it 1: delete a Service, or ask for a larger quota`},
		{then: "and is served when the quota grows", configure: "gold 10.0.0.0/29,fd00::/126 quota=shop:3"},
		{then: "at once", serve: "shop/dns", addrs: "10.0.0.3"},
	})
	tell(t, []step{
		{then: "shop may hold two", configure: "gold 10.0.0.0/29,fd00::/126 quota=shop:2"},
		{then: "the first", ask: "shop/web", addrs: "10.0.0.0"},
		{then: "the second", ask: "shop/api", addrs: "10.0.0.1"},
		{then: "at its quota, one may change its family", ask: "shop/api families=6", addrs: "fd00::", also: "left 10.0.0.1"},
	})
}

func TestWhoHoldsAnExcludedAddressWaitsForTheOtherFamily(t *testing.T) {
	tell(t, []step{
		{then: "a pool of both", configure: "gold 10.0.0.0/32,fd00::/126"},
		{then: "api has the only IPv4 address", ask: "shop/api", addrs: "10.0.0.0"},
		{then: "web has an IPv6 one, and would like the other", ask: "shop/web families=64", addrs: "fd00::", also: "more"},
		{then: "all of IPv6 is excluded", configure: "gold 10.0.0.0/32,fd00::/126 exclude=fd00::/126"},
		{then: "web keeps its own, and still would like the other", ask: "shop/web families=64", addrs: "fd00::", also: "more"},
		{then: "api goes", release: "shop/api", also: "left 10.0.0.0"},
		{then: "web has both", serve: "shop/web", addrs: "fd00::,10.0.0.0"},
	})
}

func TestAddressesOfRoutersAndNodesAreNotHandedOutWhileNobodyHoldsThem(t *testing.T) {
	a := NewAllocator()
	config := parse(t, peer("peer-port: 179")+"address-pools:\n- {name: lan, cidr: [10.0.0.0/29]}\n") // the router is 10.0.0.1
	a.Configure(config, nil)
	a.Withhold(addresses("10.0.0.2,192.0.2.1,10.0.0.2"))
	equal(t, take(t, a, "shop/web"), "10.0.0.0")
	equal(t, take(t, a, "shop/api"), "10.0.0.3")
	for _, addr := range []string{"10.0.0.1", "10.0.0.2"} {
		r, _ := request(t, "shop/want want="+addr)
		equal(t, words(a.Allocate(r).Why), "address "+addr+" is in use by a router, a Node, or a Service that is not ours: ask for another")
	}
	// A Node comes to show an address that a Service holds: the Service keeps it.
	a.Withhold(addresses("10.0.0.2,10.0.0.3"))
	a.Serve(func() bool { return true })
	equal(t, take(t, a, "shop/api"), "10.0.0.3")
	a.Release("shop/api")
	equal(t, take(t, a, "shop/dns"), "10.0.0.4")
	// The Nodes move away: who waits for one of their addresses gets it.
	a.Withhold(nil)
	changed, _ := a.Serve(func() bool { return true })
	equal(t, len(changed), 1)
	equal(t, shown(a.Held("shop/want")), "10.0.0.2")
	if err := a.inconsistency(); err != nil {
		t.Error(err)
	}
}

// An operator who counts the Services of a pool must see why it has no address left.
func TestWhoFindsAPoolEmptyIsToldWhatOthersUseOfIt(t *testing.T) {
	for _, story := range []struct{ pools, withheld, held, ask, why string }{
		{"lot 10.0.0.0/31; other 10.0.1.0/31 manual", "10.0.0.1,10.0.1.0,192.0.2.1", "shop/web", "shop/api",
			`no free address in pool "lot" (1 used by routers, Nodes or Services that are not ours): add addresses, or delete a Service that holds one`},
		{"lot 10.0.0.0/31; other 10.0.1.0/31", "10.0.0.1,10.0.1.0,10.0.1.1", "shop/web", "shop/api",
			`no free address in one of the pools "lot", "other" (3 used by routers, Nodes or Services that are not ours): add addresses, or delete a Service that holds one`},
		{"lot 10.0.0.0/31; other 10.0.1.0/31 manual", "10.0.1.0,10.0.1.1", "shop/web", "shop/api pool=other",
			`pool "other" has no free address (2 used by routers, Nodes or Services that are not ours): add addresses to it, or delete a Service that holds one`},
		{"lot 10.0.0.0/31,fd00::/128", "10.0.0.0,10.0.0.1,fd00::", "", "shop/api families=6",
			`no free IPv6 address in pool "lot" (1 used by routers, Nodes or Services that are not ours): add addresses, or delete a Service that holds one`},
		{"lot 10.0.0.0/31,fd00::/128", "10.0.0.0,fd00::", "", "shop/api families=46 require",
			`no free IPv4 and IPv6 address in pool "lot" (2 used by routers, Nodes or Services that are not ours): add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack`},
		{"lot 10.0.0.0/31,fd00::/128", "10.0.0.0,fd00::", "", "shop/api families=46 require want=10.0.0.1",
			`pool "lot" has no free IPv6 address beside 10.0.0.1 (1 used by routers, Nodes or Services that are not ours): add some to it, or ask for another pool`},
		{"lot 10.0.0.255-10.0.1.1 avoid", "10.0.0.255,10.0.1.0", "shop/web", "shop/api",
			`no free address in pool "lot": add addresses, or delete a Service that holds one`},
	} {
		a := NewAllocator()
		a.Configure(pools(t, story.pools), nil)
		a.Withhold(addresses(story.withheld))
		if story.held != "" {
			take(t, a, story.held)
		}
		r, _ := request(t, story.ask)
		equal(t, words(a.Allocate(r).Why), story.why)
	}
}

// Whether a Service was told meanwhile that it cannot have what it asks for does not matter for its turn.
func TestWhoHasAnAddressIsServedAfterWhoHasNone(t *testing.T) {
	for _, asked := range []bool{false, true} {
		a := NewAllocator()
		a.Configure(pools(t, "a 10.0.0.0/32; b 10.0.0.2/31 manual"), nil)
		take(t, a, "shop/1 pool=b")
		take(t, a, "shop/3 pool=a")
		for _, short := range []string{"shop/1 pool=a", "shop/2", "shop/3 pool=b"} {
			r, _ := request(t, short)
			if asked && short == "shop/1 pool=a" {
				a.Allocate(r)
			} else {
				a.Wait(r)
			}
		}
		a.Serve(func() bool { return true })
		equal(t, holdingsOf(a), map[string]string{"shop/1": "10.0.0.2", "shop/2": "10.0.0.0", "shop/3": "10.0.0.3"})
	}
}

// Somebody writes it into a status while nobody leads, or the Service had it. What it cannot use, it does not keep for want of another.
func TestAnAddressOfAFamilyThatTheServiceDoesNotHaveIsNotKept(t *testing.T) {
	const full = `no free address in pool "vip": add addresses, or delete a Service that holds one`
	tell(t, []step{
		{then: "there is a pool of one", configure: "vip 10.0.0.0/32,fd00::/127"},
		{then: "web has it", adopt: "shop/web shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "api shows one that it cannot use", adopt: "shop/api shows=fd00:1::1", addrs: "fd00:1::1"},
		{then: "and loses it", ask: "shop/api", why: full, also: "left fd00:1::1"},
		{then: "mail has one of two", ask: "shop/mail families=64 pool=vip", addrs: "fd00::", also: "more"},
		{then: "its user takes the version away that it has", ask: "shop/mail families=4 pool=vip", also: "left fd00::",
			why: `pool "vip" has no free address: add addresses to it, or delete a Service that holds one`},
		{then: "web becomes another, and asks for what is not there", ask: "shop/web families=6 want=fd00:2::1", also: "left 10.0.0.0",
			why: `no pool owns address fd00:2::1: ask for an address of pool "vip", or add it to a pool`},
		{then: "what it had goes to who waits", serve: "shop/api", addrs: "10.0.0.0"},
	})
}

// A Service wants no company any more, and its pool is gone. What it gets of the other family brings another address along.
func TestWhoGotSomethingAndStillWaitsIsServedAgain(t *testing.T) {
	for _, serve := range []bool{false, true} {
		a := NewAllocator()
		a.Configure(pools(t, "c 10.0.0.0/31"), nil)
		take(t, a, "shop/4 families=46 pool=c share=y ports=80")
		take(t, a, "shop/3 share=y ports=53")
		a.Configure(pools(t, "a 10.0.0.0/30,fd00::/126"), nil)
		r, _ := request(t, "shop/4 families=46 pool=c ports=80")
		if serve {
			a.Wait(r)
		} else {
			a.Allocate(r)
		}
		a.Serve(func() bool { return true })
		equal(t, shown(a.Held("shop/4")), "10.0.0.1,fd00::")
	}
}

// However often Serve is interrupted, it comes to the same end, and tells the same Services the same.
func TestServingInSlicesEndsAsServingAtOnce(t *testing.T) {
	for name, disturb := range map[string]func(*Allocator){
		"an address becomes free": func(a *Allocator) { a.Release("shop/link-0") },
		"other pools": func(a *Allocator) {
			a.Configure(pools(t, "new 10.1.0.0/29,fd01::/127; a 10.0.0.0/29,fd00::/126 tier=gold"), set(t, "10.0.0.0/30"))
		},
		"ports that collide": func(a *Allocator) {
			r, _ := request(t, "shop/share-0 share=k ports=1000,1001,1002 pool=many")
			a.Allocate(r)
		},
		"more room": func(a *Allocator) {
			a.Configure(pools(t, "a 10.0.0.0/26,fd00::/126; many 10.2.0.0/30 manual"), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			// outcome serves in slices of so many steps, and returns who holds what, who waits, what was told, and how many slices it took.
			outcome := func(steps int) (held map[string]string, waits, told []string, slicesDone int) {
				a := NewAllocator()
				a.Configure(pools(t, "a 10.0.0.0/29,fd00::/126; many 10.2.0.0/30 manual"), nil)
				ask := func(format string, args ...any) {
					r, _ := request(t, fmt.Sprintf(format, args...))
					a.Allocate(r)
				}
				for i := range 5 { // each waits for the address of the one before
					ask("shop/link-%d want=10.0.0.%d", i, i)
					if i > 0 {
						ask("shop/link-%d want=10.0.0.%d", i, i-1)
					}
				}
				for i := range 6 {
					ask("shop/any-%d", i)
					ask("shop/both-%d families=64", i)
					ask("shop/share-%d share=k ports=%d pool=many", i, 1000+i)
					ask("shop/same-%d share=k ports=80 pool=many", i)
				}
				for a.Stirs() {
					a.Serve(func() bool { return true })
				}
				disturb(a)
				news := map[string]string{}
				for more := true; more; slicesDone++ {
					left := steps
					var changed []Change
					changed, more = a.Serve(func() bool { left--; return left > 0 })
					if err := a.inconsistency(); err != nil {
						t.Fatal(err)
					}
					for _, c := range changed {
						news[c.UID] += fmt.Sprintf("%s %s %q %q; ", c.UID, shown(c.Addrs), words(c.Why), words(c.Conflict))
					}
				}
				for _, uid := range slices.Sorted(maps.Keys(a.services)) {
					if a.Waits(uid) {
						waits = append(waits, uid)
					}
				}
				return holdingsOf(a), waits, slices.Sorted(maps.Values(news)), slicesDone
			}
			held, waits, told, _ := outcome(1 << 30)
			if len(told) == 0 {
				t.Fatal("nothing happened")
			}
			for k := 1; ; k++ {
				h, w, n, slicesDone := outcome(k)
				equal(t, h, held)
				equal(t, w, waits)
				equal(t, n, told)
				if slicesDone == 1 {
					break
				}
			}
		})
	}
}

func TestHoldingsAreInTheOrderOfTheAddresses(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.8/29,fd00::/126"), nil)
	for _, short := range []string{"shop/12 shows=10.0.0.12", "shop/9 shows=10.0.0.9,fd00::3", "shop/10 share=x shows=10.0.0.10", "shop/1 share=x shows=10.0.0.10", "shop/200 shows=10.0.0.200"} {
		r, shows := request(t, short)
		if err := a.Adopt(r, shows); !err.None() {
			t.Fatal(err)
		}
	}
	equal(t, a.Holdings(), []Holding{
		{"shop/9", netip.MustParseAddr("10.0.0.9")},
		{"shop/1", netip.MustParseAddr("10.0.0.10")},
		{"shop/10", netip.MustParseAddr("10.0.0.10")},
		{"shop/12", netip.MustParseAddr("10.0.0.12")},
		{"shop/200", netip.MustParseAddr("10.0.0.200")},
		{"shop/9", netip.MustParseAddr("fd00::3")},
	})
	equal(t, a.Holders(netip.MustParseAddr("10.0.0.10")), []Holder{{"shop/1", "shop/1"}, {"shop/10", "shop/10"}})
	if h := a.Holders(netip.MustParseAddr("10.0.0.11")); len(h) > 0 {
		t.Errorf("holders %v of a free address", h)
	}
	if addrs := a.Release("shop/9"); shown(addrs) != "10.0.0.9,fd00::3" {
		t.Errorf("released %s", addrs)
	}
	if addrs := a.Release("shop/9"); len(addrs) > 0 {
		t.Errorf("released %s twice", addrs)
	}
}

// What Services hold and what they ask for by address must not depend on the order in which we hear of it.
func TestHoldersAndExplicitRequestsEndEqualInAnyOrder(t *testing.T) {
	config := pools(t, "a 10.0.0.0/28,fd00::/64; b 10.0.1.0/28 manual; c 10.0.4.0/30 across")
	steps := []func(*Allocator){}
	for i := range 12 {
		r, shows := request(t, fmt.Sprintf("shop/held-%d families=46 shows=10.0.%d.%d,fd00::%x", i, i%3, i, i))
		steps = append(steps, func(a *Allocator) { a.Adopt(r, shows) })
	}
	for i := range 4 {
		r, _ := request(t, fmt.Sprintf("shop/asks-%d want=10.0.1.%d", i, 14-i*3)) // 14, 11, 8, 5: none of the held ones
		steps = append(steps, func(a *Allocator) { a.Allocate(r) })
	}
	for i := range 4 { // all of one address
		r, shows := request(t, fmt.Sprintf("ns-%d/shares-%d share=x ports=%d shows=10.0.4.1", i%3, i, i))
		steps = append(steps, func(a *Allocator) { a.Adopt(r, shows) })
	}
	var first []Holding
	for round := range 200 {
		a := NewAllocator()
		a.Configure(config, nil)
		random := rand.New(rand.NewPCG(uint64(round), 0))
		random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		for _, step := range steps {
			step(a)
		}
		if err := a.inconsistency(); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			if first = a.Holdings(); len(first) != 12*2+4+4 {
				t.Fatalf("%d addresses are held: %v", len(first), first)
			}
		}
		equal(t, a.Holdings(), first)
		// And so the next one gets the same addresses.
		if got := take(t, a, "shop/new families=46"); got != "10.0.0.1,fd00::c" {
			t.Fatalf("round %d: %s", round, got)
		}
	}
}

func TestAPoolIsForSomeNamespacesAndServicesOnly(t *testing.T) {
	const notVIP = `pool "vip" is not for this Service: ask for another, or change its namespaces or service-selectors`
	tell(t, []step{
		{then: "one pool is for a namespace, one for some Services, one for both", configure: "vip 10.0.0.0/30 namespaces=shop,blog; gold 10.0.1.0/30 tier=gold; both 10.0.2.0/30 namespaces=shop tier=gold manual"},
		{then: "shop may use the first", ask: "shop/web", addrs: "10.0.0.0", from: "vip"},
		{then: "so may blog", ask: "blog/web", addrs: "10.0.0.1", from: "vip"},
		{then: "others get nothing", ask: "dev/web", why: `no pool is for this Service: change its labels, or let it into pool "gold" by namespaces or service-selectors`},
		{then: "unless they carry the label", ask: "dev/web tier=gold", addrs: "10.0.1.0", from: "gold"},
		{then: "a label of another value is none", ask: "dev/api tier=tin", why: `no pool is for this Service: change its labels, or let it into pool "gold" by namespaces or service-selectors`},
		{then: "nor does asking for the pool help", ask: "dev/api pool=vip", why: notVIP},
		{then: "nor for the address", ask: "dev/api want=10.0.0.2",
			why: `address 10.0.0.2 belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "namespace and label must both fit", ask: "shop/api pool=both", why: `pool "both" is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "also here", ask: "blog/api pool=both tier=gold", why: `pool "both" is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "and here they do", ask: "shop/api pool=both tier=gold", addrs: "10.0.2.0", from: "both"},
		{then: "also by address", ask: "shop/cart want=10.0.2.2 tier=gold", addrs: "10.0.2.2", from: "both"},

		{then: "web loses its label and keeps the address", ask: "dev/web", addrs: "10.0.1.0", from: "gold"},
		{then: "also when it asks for the pool", ask: "dev/web pool=gold", addrs: "10.0.1.0"},
		{then: "and for the address", ask: "dev/web want=10.0.1.0", addrs: "10.0.1.0"},
		{then: "but another of that pool it does not get", ask: "dev/web want=10.0.1.1", addrs: "10.0.1.0",
			why: `address 10.0.1.1 belongs to pool "gold", which is not for this Service: ask for another, or change its namespaces or service-selectors`},

		{then: "the operator takes blog from the first pool", configure: "vip 10.0.0.0/30 namespaces=shop; gold 10.0.1.0/30 tier=gold"},
		{then: "blog keeps what it has", ask: "blog/web", addrs: "10.0.0.1", from: "vip"},
		{then: "and gets no more of it", ask: "blog/api", why: `no pool is for this Service: change its labels, or let it into pool "gold" by namespaces or service-selectors`},
		{then: "the others have room for shop only", ask: "shop/one", addrs: "10.0.0.2"},
		{then: "and that ends", ask: "shop/two", addrs: "10.0.0.3"},
		{then: "a pool that is not for it is not among those that are full", ask: "shop/three", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
		{then: "with the label, the next pool serves it", ask: "shop/three tier=gold", addrs: "10.0.1.1", from: "gold"},
	})
}

func TestTheOperatorRenumbers(t *testing.T) {
	const full = `no free address in pool "new": add addresses, or delete a Service that holds one`
	tell(t, []step{
		{then: "there is a pool", configure: "old 10.0.0.0/29"},
		{then: "web", ask: "shop/web", addrs: "10.0.0.0"},
		{then: "api", ask: "shop/api", addrs: "10.0.0.1"},
		{then: "blog, by name", ask: "shop/blog want=10.0.0.2", addrs: "10.0.0.2"},
		{then: "mail, by pool", ask: "shop/mail pool=old", addrs: "10.0.0.3"},
		{then: "stray shows an address that no pool ever owned", adopt: "shop/stray shows=172.16.0.1", addrs: "172.16.0.1"},

		{then: "the operator takes it away and gives another with little room", configure: "new 10.1.0.0/32", givenUp: "10.0.0.0/29"},
		{then: "web moves", ask: "shop/web", addrs: "10.1.0.0", from: "new", also: "left 10.0.0.0 renumbered"},
		{then: "api finds no room and keeps what it has", ask: "shop/api", addrs: "10.0.0.1",
			why: "address 10.0.0.1 belongs to no pool any more and is not announced: " + full},
		{then: "blog does not accept another", ask: "shop/blog want=10.0.0.2", addrs: "10.0.0.2",
			why: `address 10.0.0.2 belongs to no pool any more and is not announced: no pool owns address 10.0.0.2: ask for an address of pool "new", or add it to a pool`},
		{then: "mail asks for a pool that is gone", ask: "shop/mail pool=old", addrs: "10.0.0.3",
			why: `address 10.0.0.3 belongs to no pool any more and is not announced: no pool is named "old": ask for pool "new"`},
		{then: "stray stays", ask: "shop/stray", addrs: "172.16.0.1"},
		{then: "nobody gets what web left", ask: "shop/late want=10.0.0.0", why: `no pool owns address 10.0.0.0: ask for an address of pool "new", or add it to a pool`},
		{then: "web goes", release: "shop/web", also: "left 10.1.0.0"},
		{then: "and now api moves", ask: "shop/api", addrs: "10.1.0.0", also: "left 10.0.0.1 renumbered"},

		{then: "a restart: blog shows its address", adopt: "shop/blog want=10.0.0.2 shows=10.0.0.2", addrs: "10.0.0.2"},
		{then: "mail shows its own", adopt: "shop/mail shows=10.0.0.3", addrs: "10.0.0.3"},
		{then: "blog does not ask by name any more, and there is no room", ask: "shop/blog", addrs: "10.0.0.2",
			why: "address 10.0.0.2 belongs to no pool any more and is not announced: " + full},
		{then: "the operator brings part of it back", configure: "new 10.1.0.0/31; old 10.0.0.2/32", givenUp: "10.0.0.0/29"},
		{then: "blog has an address of a pool again", ask: "shop/blog", addrs: "10.0.0.2", from: "old"},
		{then: "mail moves", ask: "shop/mail", addrs: "10.1.0.1", from: "new", also: "left 10.0.0.3 renumbered"},
		{then: "stray stays", ask: "shop/stray", addrs: "172.16.0.1"},
	})
	tell(t, []step{
		{then: "two share, and one has two addresses", configure: "old 10.0.0.0/29,fd00::/64"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "dns", ask: "shop/dns share=k ports=53", addrs: "10.0.0.0"},
		{then: "both", ask: "shop/both families=64", addrs: "fd00::,10.0.0.1"},
		{then: "the operator takes IPv4 away and gives other pools", configure: "old fd00::/64; new 10.1.0.0/29,fd01::/64", givenUp: "10.0.0.0/29"},
		{then: "dns moves", ask: "shop/dns share=k ports=53", addrs: "10.1.0.0", also: "left 10.0.0.0 renumbered"},
		{then: "web finds it there", ask: "shop/web share=k ports=80", addrs: "10.1.0.0", also: "left 10.0.0.0 renumbered"},
		{then: "what stays decides which pool the other is of, and that has none", ask: "shop/both families=64", addrs: "fd00::", also: "left 10.0.0.1 renumbered"},
		{then: "and later it has", configure: "old fd00::/64,10.2.0.0/29; new 10.1.0.0/29,fd01::/64", givenUp: "10.0.0.0/29"},
		{then: "both is complete again", ask: "shop/both families=64", addrs: "fd00::,10.2.0.0"},
	})
	tell(t, []step{
		{then: "both families are needed", configure: "old 10.0.0.0/29,fd00::/64"},
		{then: "web has them", ask: "shop/web families=46 require", addrs: "10.0.0.0,fd00::"},
		{then: "the operator takes IPv6 away", configure: "old 10.0.0.0/29; new 10.1.0.0/29,fd01::/64", givenUp: "fd00::/64"},
		{then: "web keeps both: an address never moves because of families", ask: "shop/web families=46 require", addrs: "10.0.0.0,fd00::",
			why: `address fd00:: belongs to no pool any more and is not announced: pool "old" has no free IPv6 address beside 10.0.0.0: add some to it, or ask for another pool`},
		{then: "it asks for the other pool", ask: "shop/web families=46 require pool=new", addrs: "10.1.0.0,fd01::", also: "left 10.0.0.0,fd00:: renumbered"},
	})
}

func TestLargePoolsCostNothing(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "a fd00::/8; b 2001:db8::/32,10.0.0.0/8 avoid"), nil)
	for i := range 1000 {
		take(t, a, fmt.Sprintf("shop/%d families=6", i))
		take(t, a, fmt.Sprintf("blog/%d families=64 pool=b", i))
	}
	if got := shown(a.Held("shop/999")); got != "fd00::3e7" {
		t.Errorf("got %s", got)
	}
	if got := shown(a.Held("blog/999")); got != "2001:db8::3e7,10.0.3.238" { // 10.0.0.0, .255, 10.0.1.0, …, 10.0.3.0 are avoided
		t.Errorf("got %s", got)
	}
	if err := a.inconsistency(); err != nil {
		t.Error(err)
	}
}

// However many addresses were freed, only so many are remembered; the others are not lost.
func TestTheMemoryOfFreedAddressesIsBounded(t *testing.T) {
	sound := func(a *Allocator) {
		t.Helper()
		if err := a.inconsistency(); err != nil {
			t.Fatal(err)
		}
	}
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.0/15"), nil)
	r := make([]Request, 2*mostFreed)
	for i := range r {
		r[i] = Request{UID: strconv.Itoa(i), Families: []Family{IPv4}}
		a.Allocate(r[i])
	}
	if g := a.Allocate(Request{UID: "late", Families: []Family{IPv4}}); g.Why.None() {
		t.Fatalf("%d of %d addresses are held, and the next is %s", len(a.inUse), len(r), g.Addrs)
	}
	for i := range r {
		a.Release(r[i].UID)
	}
	if len(a.stock.freed) != mostFreed {
		t.Errorf("%d addresses are remembered", len(a.stock.freed))
	}
	sound(a)
	// What is remembered rests longest ago first; then comes what was forgotten.
	for i := range r {
		want := netip.AddrFrom4([4]byte{10, byte(1 - i>>16), byte(i >> 8), byte(i)})
		if g := a.Allocate(r[i]); len(g.Addrs) != 1 || g.Addrs[0] != want {
			t.Fatalf("number %d gets %s, %v, want %s", i, g.Addrs, g.Why, want)
		}
	}
	sound(a)
	a.Release("7")
	if got := take(t, a, "shop/late"); got != "10.1.0.7" {
		t.Errorf("got %s", got)
	}

	// A pool that is large enough never hands one out twice, and yet forgets.
	a = NewAllocator()
	a.Configure(pools(t, "a fd00::/64"), nil)
	for range mostFreed + 1000 {
		a.Allocate(Request{UID: "web", Families: []Family{IPv6}})
		a.Release("web")
	}
	if len(a.stock.freed) != mostFreed {
		t.Errorf("%d addresses are remembered", len(a.stock.freed))
	}
	if got := take(t, a, "shop/web families=6"); got != "fd00::1:3e8" {
		t.Errorf("got %s", got)
	}
	sound(a)

	// Nor are those of no pool remembered for ever, and what is forgotten counts as never used when there is a pool.
	a = NewAllocator()
	for i := range mostFreed + 1000 {
		a.Adopt(Request{UID: "web"}, []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	a.Release("web")
	if len(a.stock.freed) != mostFreed {
		t.Errorf("%d addresses are remembered", len(a.stock.freed))
	}
	a.Configure(pools(t, "a 10.0.0.0/15"), nil)
	if got := take(t, a, "shop/web"); got != "10.0.0.0" {
		t.Errorf("got %s", got)
	}
	sound(a)
}

func TestUsage(t *testing.T) {
	a := NewAllocator()
	equal(t, a.Usage(), []Usage(nil))
	a.Configure(pools(t, "a 10.0.0.0/23,10.9.9.9/32,fd00::/120 avoid; b 10.1.0.254-10.1.2.0 avoid; c fd01::/64; d 10.2.0.255/32 avoid"), nil)
	for _, short := range []string{"shop/web families=46", "shop/api share=k ports=80", "shop/dns share=k ports=53", "shop/mail pool=b", "shop/huge pool=c families=6"} {
		take(t, a, short)
	}
	for _, short := range []string{"shop/stray shows=172.16.0.1", "shop/avoided shows=10.1.0.255", "shop/gone shows=10.0.0.77"} {
		r, shows := request(t, short)
		a.Adopt(r, shows)
	}
	a.Release("shop/gone")
	equal(t, a.Usage(), []Usage{
		{"a", IPv4, 512 - 4 + 1, 2},
		{"a", IPv6, 256, 1},
		{"b", IPv4, 259 - 4, 2}, // one of them is avoided now
		{"c", IPv6, 1 << 64, 1},
		{"d", IPv4, 0, 0},
	})
	a.Configure(pools(t, "e 10.0.0.0/31"), nil)
	equal(t, a.Usage(), []Usage{{"e", IPv4, 2, 1}})
	take(t, a, "shop/six pool=e") // 10.0.0.0 was avoided before, and never used
	a.Release("shop/api")
	equal(t, a.Usage(), []Usage{{"e", IPv4, 2, 2}})
	a.Release("shop/dns")
	equal(t, a.Usage(), []Usage{{"e", IPv4, 2, 2}})
}

// A model answers as an allocator should, by looking at everything each time. It has lists, and no counters, cursors or
// indices.
type model struct {
	config  *Config
	givenUp []netip.Prefix
	tenants []modelTenant
	freed   []netip.Addr                 // longest ago first
	waits   map[string]Request           // who does not have what it asks for
	stale   map[string]Request           // who was not looked at since the pools changed
	told    map[string]bool              // who was told a reason
	lost    map[string]bool              // who lost an address to an older one, and was not told
	labels  map[string]map[string]string // of namespaces
	now     time.Duration
	down    []HeldDown // in the order in which they were freed
}

// serve asks everybody who waits, in the order in which they are to be served, and begins anew whenever one gets something.
func (m *model) serve() {
	rank := func(r Request) int {
		switch {
		case len(r.Addrs) > 0:
			return 0
		case len(m.reservation(r)) > 0 && !slices.ContainsFunc(m.of(r.UID).addrs, func(addr netip.Addr) bool { return m.pool(addr) != nil }):
			return 0
		case slices.ContainsFunc(m.of(r.UID).addrs, func(addr netip.Addr) bool { return m.pool(addr) != nil }):
			return 2
		}
		return 1
	}
	try := func(r Request) (model, modelGrant) {
		then := *m
		then.tenants, then.freed = slices.Clone(m.tenants), slices.Clone(m.freed)
		then.waits, then.stale, then.told = maps.Clone(m.waits), maps.Clone(m.stale), maps.Clone(m.told)
		then.lost, then.down = maps.Clone(m.lost), slices.Clone(m.down)
		return then, then.allocate(r)
	}
	for uid, r := range m.stale {
		now := m.of(uid)
		if _, g := try(r); g.why || g.more || m.told[uid] || m.lost[uid] || len(now.addrs) > 0 && !now.Terms.equal(r.Terms) || !slices.Equal(g.addrs, now.addrs) {
			m.waits[uid] = r
			continue
		}
		for i := range m.tenants { // it has what it asks for by now
			if m.tenants[i].UID == uid {
				m.tenants[i].Request = r
			}
		}
	}
	clear(m.stale)
again:
	for _, r := range slices.SortedFunc(maps.Values(m.waits), func(r, s Request) int { return cmp.Or(rank(r)-rank(s), older(&r, &s)) }) {
		before := m.of(r.UID)
		then, _ := try(r)
		if !slices.Equal(before.addrs, then.of(r.UID).addrs) || len(before.addrs) > 0 && !before.Terms.equal(r.Terms) {
			*m = then
			goto again
		}
	}
}

// settle tells those who wait why, once nobody gets anything any more.
func (m *model) settle() {
	for uid, r := range maps.Clone(m.waits) {
		m.allocate(r)
		if len(m.of(uid).addrs) == 0 {
			m.told[uid] = true
		}
	}
}

type modelTenant struct {
	Request // as it last asked or was adopted
	addrs   []netip.Addr
	// What it asked for when it last got what it asked for, if it did since it was adopted.
	asked   bool
	forPool string
	forKey  string
}

type modelGrant struct {
	addrs                                   []netip.Addr
	failed, why, more, conflict, renumbered bool
}

func (m *model) of(uid string) modelTenant {
	for _, t := range m.tenants {
		if t.UID == uid {
			return t
		}
	}
	return modelTenant{}
}

// others are the Services that hold the address, but for one.
func (m *model) others(addr netip.Addr, uid string) (all []modelTenant) {
	for _, t := range m.tenants {
		if t.UID != uid && slices.Contains(t.addrs, addr) {
			all = append(all, t)
		}
	}
	return all
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

func (m *model) taken(addr netip.Addr) bool {
	for _, p := range m.givenUp {
		if p.Contains(addr) {
			return m.pool(addr) == nil
		}
	}
	return false
}

func (m *model) set(t modelTenant) {
	before, whose := m.of(t.UID).addrs, m.of(t.UID).Service
	m.tenants = slices.DeleteFunc(m.tenants, func(u modelTenant) bool { return u.UID == t.UID })
	if len(t.addrs) > 0 {
		m.tenants = append(m.tenants, t)
	}
	m.freed = slices.DeleteFunc(m.freed, func(addr netip.Addr) bool { return slices.Contains(t.addrs, addr) })
	for _, addr := range before {
		if !slices.Contains(t.addrs, addr) && len(m.others(addr, "")) == 0 {
			m.freed = append(m.freed, addr)
			if p := m.pool(addr); p != nil && p.HoldDown > 0 && m.offers(p, addr) {
				m.down = append(m.down, HeldDown{addr, whose, m.now + p.HoldDown})
			}
		}
	}
	m.down = slices.DeleteFunc(m.down, func(d HeldDown) bool { return len(m.others(d.Addr, "")) > 0 })
	m.notice()
}

// notice takes an address from those who cannot use it together with an older one, and lets those wait who lost one, or may not
// share one, because somebody else came or changed.
func (m *model) notice() {
	slices.SortFunc(m.tenants, func(t, u modelTenant) int { return older(&t.Request, &u.Request) })
	for i := range m.tenants {
		t := &m.tenants[i]
		kept := slices.DeleteFunc(slices.Clone(t.addrs), func(addr netip.Addr) bool { return m.collides(addr, t.Request) })
		_, waits := m.waits[t.UID]
		switch {
		case len(kept) < len(t.addrs):
			m.lost[t.UID] = true
			if !waits {
				m.waits[t.UID] = t.Request
			}
			delete(m.stale, t.UID)
			t.addrs = kept
		case !waits && slices.ContainsFunc(t.addrs, func(addr netip.Addr) bool { return m.differs(addr, t.Request) }):
			delete(m.stale, t.UID)
			m.waits[t.UID] = t.Request
		}
	}
	m.tenants = slices.DeleteFunc(m.tenants, func(t modelTenant) bool { return len(t.addrs) == 0 })
}

// blocks reports whether a Service that holds the address counts for one that asks for it, or holds it, too.
func (m *model) blocks(t modelTenant, addr netip.Addr, r Request) bool {
	return !slices.Contains(m.of(r.UID).addrs, addr) || older(&t.Request, &r) < 0
}

func (m *model) collides(addr netip.Addr, r Request) bool {
	for _, t := range m.others(addr, r.UID) {
		if m.blocks(t, addr, r) && collide(t.Terms, r.Terms) {
			return true
		}
	}
	return false
}

// differs reports whether the Service shares the address with an oldest one on other terms than that.
func (m *model) differs(addr netip.Addr, r Request) bool {
	oldest := modelTenant{Request: r}
	for _, t := range m.others(addr, r.UID) {
		if older(&t.Request, &oldest.Request) < 0 {
			oldest = t
		}
	}
	return oldest.UID != r.UID && differ(oldest.Terms, r.Terms)
}

func (m *model) adopt(r Request, addrs []netip.Addr) (refused bool) {
	now := m.of(r.UID)
	t := modelTenant{Request: r}
	known := true
	for _, addr := range addrs {
		if m.collides(addr, r) {
			refused = true
			continue
		}
		t.addrs = append(t.addrs, addr)
		known = known && slices.Contains(now.addrs, addr)
	}
	if len(t.addrs) == 0 {
		return refused
	}
	if known {
		t.asked, t.forPool, t.forKey = now.asked, now.forPool, now.forKey
	}
	m.set(t)
	_, waits := m.waits[r.UID]
	if _, stale := m.stale[r.UID]; waits || stale {
		delete(m.stale, r.UID)
		m.waits[r.UID] = r
	}
	return refused
}

func buggy(addr netip.Addr) bool {
	return addr.Is4() && (strings.HasSuffix(addr.String(), ".0") || strings.HasSuffix(addr.String(), ".255"))
}

// excluded looks through the ranges.
func excluded(p *Pool, addr netip.Addr) bool {
	return slices.ContainsFunc(p.Exclude, func(r netipx.IPRange) bool { return r.Contains(addr) })
}

func (m *model) serves(p *Pool, r Request) bool {
	labelled := slices.ContainsFunc(p.NamespaceSelectors, func(s Selector) bool { return s.Matches(m.labels[r.Namespace]) })
	if len(p.Namespaces)+len(p.NamespaceSelectors) > 0 && !slices.Contains(p.Namespaces, r.Namespace) && !labelled {
		return false
	}
	for _, s := range p.ServiceSelectors {
		if s.Matches(r.Labels) {
			return true
		}
	}
	return len(p.ServiceSelectors) == 0
}

// joins reports whether the Service may hold the address beside all who do.
func (m *model) joins(addr netip.Addr, r Request) bool {
	if excluded(m.pool(addr), addr) || !slices.Contains([]string{"", r.Service}, m.reservedFor(addr)) || !slices.Contains([]string{"", r.Service}, m.downFor(addr)) {
		return false
	}
	for _, t := range m.others(addr, r.UID) {
		if collide(t.Terms, r.Terms) || differ(t.Terms, r.Terms) || t.Namespace != r.Namespace && !m.pool(addr).ShareAcrossNamespaces {
			return false
		}
	}
	return true
}

// next returns what the pool gives the Service of one family: the lowest address that it may share with others, else one
// that was never used, else the one freed longest ago.
func (m *model) next(p *Pool, f Family, r Request) netip.Addr {
	var shared []netip.Addr
	for _, t := range m.tenants {
		for _, addr := range t.addrs {
			if t.UID != r.UID && FamilyOf(addr) == f && m.pool(addr) == p && m.joins(addr, r) && m.within(p, r, addr) {
				shared = append(shared, addr)
			}
		}
	}
	if len(shared) > 0 {
		return slices.MinFunc(shared, netip.Addr.Compare)
	}
	for _, span := range p.Ranges {
		if FamilyOf(span.From()) != f {
			continue
		}
		for addr := span.From(); addr.Compare(span.To()) <= 0; addr = addr.Next() {
			if len(m.others(addr, "")) == 0 && !slices.Contains(m.freed, addr) && m.offers(p, addr) {
				return addr
			}
		}
	}
	for _, addr := range m.freed {
		if FamilyOf(addr) == f && m.pool(addr) == p && m.offers(p, addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// offers reports whether the pool hands the address out.
func (m *model) offers(p *Pool, addr netip.Addr) bool {
	return !(p.AvoidBuggyIPs && buggy(addr)) && !excluded(p, addr) && m.reservedFor(addr) == "" && m.downFor(addr) == ""
}

// downFor returns the Service for which the address is held down.
func (m *model) downFor(addr netip.Addr) string {
	for _, d := range m.down {
		if d.Addr == addr {
			return d.Service
		}
	}
	return ""
}

// later lets time pass.
func (m *model) later(by time.Duration) {
	m.now += by
	slices.SortStableFunc(m.down, func(x, y HeldDown) int { return cmp.Or(cmp.Compare(x.Until, y.Until), x.Addr.Compare(y.Addr)) })
	for len(m.down) > 0 && m.down[0].Until <= m.now {
		m.last(m.down[0].Addr)
		m.down = m.down[1:]
	}
}

// last makes an address the one that was freed last.
func (m *model) last(addr netip.Addr) {
	m.freed = append(slices.DeleteFunc(m.freed, func(other netip.Addr) bool { return other == addr }), addr)
}

// configure changes the pools, and with them what is held down.
func (m *model) configure(config *Config, givenUp []netip.Prefix) {
	m.later(0)
	m.config, m.givenUp = config, givenUp
	before := m.down
	m.down = nil
	for _, d := range before {
		p := m.pool(d.Addr)
		if p == nil || p.HoldDown == 0 || !m.offers(p, d.Addr) {
			continue
		}
		d.Until = min(d.Until, m.now+p.HoldDown)
		m.last(d.Addr)
		m.down = append(m.down, d)
	}
}

// own returns what is held down for the Service, if it is for it, the last freed first.
func (m *model) own(r Request) (all []netip.Addr) {
	for _, f := range r.Families {
		for _, d := range slices.Backward(m.down) {
			p := m.pool(d.Addr)
			if d.Service == r.Service && FamilyOf(d.Addr) == f && (r.Pool == "" || r.Pool == p.Name) && m.serves(p, r) {
				all = append(all, d.Addr)
			}
		}
	}
	return all
}

// reservedFor returns the Service for which the address is reserved.
func (m *model) reservedFor(addr netip.Addr) string {
	for _, p := range m.config.Pools {
		for _, kept := range p.Reservations {
			if slices.Contains(kept.Addrs, addr) {
				return kept.Service
			}
		}
	}
	return ""
}

// reservation returns what is reserved for the Service, if it is for it.
func (m *model) reservation(r Request) (all []netip.Addr) {
	for _, p := range m.config.Pools {
		for _, kept := range p.Reservations {
			for _, addr := range kept.Addrs {
				if kept.Service == r.Service && slices.Contains(r.Families, FamilyOf(addr)) && (r.Pool == "" || r.Pool == p.Name) && m.serves(&p, r) && len(r.Addrs) == 0 {
					all = append(all, addr)
				}
			}
		}
	}
	return all
}

// within reports whether the namespace may hold these addresses of the pool, beside or instead of what the Service has.
func (m *model) within(p *Pool, r Request, addrs ...netip.Addr) bool {
	quota := p.Quotas.Default
	if n, ok := p.Quotas.Namespaces[r.Namespace]; ok {
		quota = n
	}
	has, more := map[netip.Addr]int{}, 0 // by how many Services
	for _, t := range m.tenants {
		for _, addr := range t.addrs {
			if t.Namespace == r.Namespace && m.pool(addr) == p {
				has[addr]++
			}
		}
	}
	for _, d := range m.down {
		if namespace, _, _ := strings.Cut(d.Service, "/"); namespace == r.Namespace && m.pool(d.Addr) == p {
			has[d.Addr]++
		}
	}
	for _, addr := range addrs {
		leaves := func(before netip.Addr) bool {
			return (FamilyOf(before) == FamilyOf(addr) || !slices.Contains(r.Families, FamilyOf(before))) && has[before] == 1 && p.HoldDown == 0
		}
		if m.pool(addr) == p && has[addr] == 0 && !slices.ContainsFunc(m.of(r.UID).addrs, leaves) {
			more++
		}
	}
	return quota == 0 || more == 0 || len(has)+more <= quota
}

func (m *model) allocate(r Request) (g modelGrant) {
	now := m.of(r.UID)
	t := modelTenant{Request: r, asked: true, forPool: r.Pool, forKey: r.Key}
	var met bool
	if t.addrs, met = m.choose(r, now); !met {
		t.asked, t.forPool, t.forKey = now.asked, now.forPool, now.forKey
	}
	if g.failed = len(t.addrs) == 0; g.failed {
		for _, addr := range now.addrs {
			if !m.collides(addr, r) && slices.Contains(r.Families, FamilyOf(addr)) {
				t.addrs = append(t.addrs, addr)
			}
		}
	}
	// In the order of the families.
	for i := range r.Families {
		for j, addr := range t.addrs {
			if FamilyOf(addr) == r.Families[len(r.Families)-1-i] {
				t.addrs = append([]netip.Addr{addr}, slices.Delete(slices.Clone(t.addrs), j, j+1)...)
			}
		}
	}
	g.addrs, g.why, g.conflict = t.addrs, !met, m.lost[r.UID]
	delete(m.lost, r.UID)
	for _, addr := range t.addrs {
		g.why = g.why || m.differs(addr, r)
	}
	for _, addr := range now.addrs {
		if !slices.Contains(t.addrs, addr) {
			g.conflict = g.conflict || m.collides(addr, r)
			g.renumbered = g.renumbered || m.taken(addr)
		}
	}
	if len(t.addrs) == 1 && len(r.Families) == 2 && !g.why {
		p := m.pool(t.addrs[0])
		g.more = p != nil && m.serves(p, r) && slices.ContainsFunc(without(p.Ranges, p.Exclude), func(s netipx.IPRange) bool { return FamilyOf(s.From()) != FamilyOf(t.addrs[0]) })
	}
	m.set(t)
	m.told[r.UID] = g.why
	delete(m.stale, r.UID)
	if delete(m.waits, r.UID); g.why || g.more {
		m.waits[r.UID] = r
	}
	return g
}

// choose returns the addresses that meet the request; met is false if it cannot be met, and
// then they are what the Service gets nevertheless; none if that is what it has.
func (m *model) choose(r Request, now modelTenant) (addrs []netip.Addr, met bool) {
	if r.Invalid != nil {
		return nil, false
	}
	ofPool := func(addr netip.Addr) bool { return r.Pool == "" || m.pool(addr) != nil && m.pool(addr).Name == r.Pool }
	named := func(f Family) (addr netip.Addr) {
		for _, want := range r.Addrs {
			if FamilyOf(want) == f {
				addr = want
			}
		}
		return addr
	}

	// What it has stays if it is what it asks for.
	var stay, disliked []netip.Addr
	for _, addr := range now.addrs {
		f := FamilyOf(addr)
		rightPool := ofPool(addr) || now.asked && r.Pool == now.forPool
		switch {
		case !slices.Contains(r.Families, f), m.taken(addr), m.collides(addr, r):
		case named(f).IsValid():
			if named(f) == addr && rightPool {
				stay = append(stay, addr)
			}
		case !now.asked && !ofPool(addr) && len(r.Addrs) == 0:
			return nil, false
		case now.asked && !rightPool:
		case now.asked && r.Key != now.forKey && slices.ContainsFunc(m.others(addr, r.UID), func(t modelTenant) bool { return differ(t.Terms, r.Terms) }) &&
			!slices.ContainsFunc(m.others(addr, r.UID), func(t modelTenant) bool { return collide(t.Terms, r.Terms) }): // those give way
			disliked = append(disliked, addr)
		default:
			stay = append(stay, addr)
		}
	}

	// It is better than none, though: then the Service gets what it would with its old key, and is told.
	chosen := m.find(r, stay)
	otherwise := m.find(r, append(slices.Clone(stay), disliked...))
	for _, addr := range disliked {
		if slices.Contains(otherwise, addr) && !slices.ContainsFunc(chosen, func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }) {
			return otherwise, false
		}
	}
	return chosen, len(chosen) > 0
}

func (m *model) find(r Request, stay []netip.Addr) []netip.Addr {
	if reserved := m.reservation(r); len(stay) == 0 && len(reserved) > 0 {
		r.Addrs = reserved
	}
	if len(r.Addrs) > 0 {
		all := true
		for _, want := range r.Addrs {
			if slices.Contains(stay, want) {
				continue
			}
			all = false
			p := m.pool(want)
			if p == nil || r.Pool != "" && p.Name != r.Pool || !m.serves(p, r) || !m.joins(want, r) {
				return nil
			}
			if len(m.others(want, "")) == 0 && m.reservedFor(want) != r.Service && m.downFor(want) != r.Service && !m.offers(p, want) {
				return nil
			}
		}
		if all {
			return m.fill(r, stay)
		}
		chosen, p := slices.Clone(r.Addrs), m.pool(r.Addrs[0])
		for _, want := range r.Addrs {
			if q := m.pool(want); p != nil && q != nil && p != q {
				return nil
			}
		}
		for _, want := range r.Addrs {
			if q := m.pool(want); q != nil && !m.within(q, r, r.Addrs...) {
				return nil
			}
		}
		for _, addr := range stay {
			if m.pool(addr) == p && !slices.Contains(chosen, addr) {
				chosen = append(chosen, addr)
			}
		}
		return m.fill(r, chosen)
	}
	if len(stay) > 0 {
		return m.fill(r, stay)
	}

	for _, addr := range m.own(r) {
		if p := m.pool(addr); m.joins(addr, r) && m.within(p, r, addr) {
			if chosen := m.fill(r, []netip.Addr{addr}); len(chosen) > 0 {
				return chosen
			}
		}
	}

	var pools []*Pool
	for i := range m.config.Pools {
		p := &m.config.Pools[i]
		if m.serves(p, r) && (r.Pool == "" && p.AutoAssign || r.Pool != "" && p.Name == r.Pool) {
			pools = append(pools, p)
		}
	}
	slices.SortStableFunc(pools, func(p, q *Pool) int { return p.Priority - q.Priority })
	// Company first; then a pool that has everything; then the more important family.
	for _, p := range pools {
		for _, f := range r.Families {
			if addr := m.next(p, f, r); addr.IsValid() && len(m.others(addr, r.UID)) > 0 {
				if chosen := m.fill(r, []netip.Addr{addr}); len(chosen) > 0 {
					return chosen
				}
			}
		}
	}
	for _, p := range pools {
		var chosen []netip.Addr
		for _, f := range r.Families {
			if addr := m.next(p, f, r); addr.IsValid() && m.within(p, r, append(slices.Clone(chosen), addr)...) {
				chosen = append(chosen, addr)
			}
		}
		if len(chosen) == len(r.Families) {
			return chosen
		}
	}
	for _, f := range r.Families {
		for _, p := range pools {
			if addr := m.next(p, f, r); addr.IsValid() && !r.AllFamilies && m.within(p, r, addr) {
				return []netip.Addr{addr}
			}
		}
	}
	return nil
}

// fill adds the family that is missing, from the pool of the other.
func (m *model) fill(r Request, chosen []netip.Addr) []netip.Addr {
	for _, f := range r.Families {
		if slices.ContainsFunc(chosen, func(addr netip.Addr) bool { return FamilyOf(addr) == f }) {
			continue
		}
		var addr netip.Addr
		if p := m.pool(chosen[0]); p != nil && m.serves(p, r) {
			addr = m.next(p, f, r)
			r := r
			r.Addrs = nil // what it asks for by name is of the other family, or not of this pool
			for _, own := range slices.Concat(m.reservation(r), m.own(r)) {
				if others := m.others(own, ""); FamilyOf(own) == f && m.pool(own) == p && m.joins(own, r) && (len(others) > 0 || !(p.AvoidBuggyIPs && buggy(own))) {
					addr = own
					break
				}
			}
			if addr.IsValid() && !m.within(p, r, append(slices.Clone(chosen), addr)...) {
				addr = netip.Addr{}
			}
		}
		if addr.IsValid() {
			chosen = append(chosen, addr)
		} else if r.AllFamilies {
			return nil
		}
	}
	return chosen
}

// A player makes up histories.
type player struct {
	*rapid.T
	configs  []*Config
	requests map[string]Request // what each Service asked for last
}

func newPlayer(t *testing.T) func(*rapid.T) *player {
	configs := []*Config{
		pools(t, "a 10.0.0.0/29"),
		pools(t, "a 10.0.0.0/29 avoid"),
		pools(t, "b 10.0.0.0/30; a 10.0.0.4/30 priority=-1"),
		pools(t, "a 10.0.0.0/30; b 10.0.0.4-10.0.0.6 manual"),
		pools(t, "a 10.0.0.3-10.0.0.5,10.0.0.0/32,10.0.0.254-10.0.1.2; b 10.0.2.0/30 avoid priority=1"),
		pools(t, "b 10.0.0.254-10.0.1.2 avoid; c 10.0.2.0/32"),
		pools(t, "c 10.0.2.0/32 avoid"),
		{},
		pools(t, "a 10.0.0.0/30,fd00::/126; b 10.0.0.4/31,fd00::4/127 across"),
		pools(t, "a 10.0.0.0/30,fd00::/126 across; b 10.0.0.4/31,fd00::4/127"),
		pools(t, "a fd00::/64; b 10.0.0.0/31,fd01::/127 namespaces=shop; c 10.0.0.2/31 tier=gold"),
		pools(t, "a 10.0.0.0/31,fd00::/127 tier=gold; b 10.0.0.2/31,fd01::/64 across namespaces=blog,shop priority=-1; c 10.0.2.0/30 manual"),
		pools(t, "a 10.0.0.0/32,fd00::/128; b 10.0.0.1/32,fd00::1/128"),
		pools(t, "b 10.0.0.0/32,fd00::1/128; a 10.0.0.1/32,fd00::/128"),
		pools(t, "c 10.0.0.0/31,fd00::/127; a 10.0.0.4/31"),
		pools(t, "a 10.0.0.0/29,fd00::/126 exclude=10.0.0.1-10.0.0.4,fd00::1; b 10.0.2.0/30 exclude=10.0.2.0/31"),
		pools(t, "a 10.0.0.0/30,fd00::/126 hold=10; b 10.0.0.4/31,fd00::4/127 across hold=4 priority=-1"),
		pools(t, "a 10.0.0.0/30,fd00::/126 across hold=5 quota=default:3 reserve=shop/1:10.0.0.1; c 10.0.2.0/30 manual hold=20 exclude=10.0.2.1"),
		pools(t, "a 10.0.0.0/30,fd00::/126 env=prod namespaces=blog; b 10.0.0.4/30,fd01::/127 env=test; c 10.0.2.0/31 manual env=prod reserve=shop/1:10.0.2.0"),
		pools(t, "a 10.0.0.0/29,fd00::/126 reserve=shop/1:10.0.0.1,fd00::1+blog/7:10.0.0.0+farm/11:fd00::; b 10.0.2.0/30 reserve=shop/2:10.0.2.1"),
		pools(t, "a 10.0.0.0/30,fd00::/126 quota=shop:2,default:1; b 10.0.0.4/30,fd01::/127 priority=-1 quota=blog:1"),
		pools(t, "a 10.0.0.0/30,fd00::/126 across quota=default:2 reserve=shop/1:10.0.0.1; b 10.0.0.4/30,fd00::4/126 quota=shop:3,blog:1"),
		pools(t, "a 10.0.0.0/29,fd00::/126 across exclude=10.0.0.0,10.0.0.5,fd00::/126; b fd01::/126 exclude=fd01::1"),
	}
	return func(t *rapid.T) *player { return &player{t, configs, map[string]Request{}} }
}

func pick[V any](p *player, what string, from ...V) V { return rapid.SampledFrom(from).Draw(p.T, what) }

func (p *player) uid() string {
	return pick(p, "Service", "shop/1", "shop/2", "shop/3", "shop/4", "shop/5", "shop/6", "blog/7", "blog/8", "blog/9", "farm/10")
}

func (p *player) config() *Config { return pick(p, "config", p.configs...) }

func (p *player) givenUp() []netip.Prefix {
	return pick(p, "given up", nil, nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("fd00::/127")},
		[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/23"), netip.MustParsePrefix("fd00::/16")}, []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd01::/64")})
}

func (p *player) addr(f Family) netip.Addr {
	if f == IPv6 {
		return netip.MustParseAddr(pick(p, "IPv6 address", "fd00::", "fd00::1", "fd00::3", "fd00::5", "fd01::", "fd01::1", "2001:db8::1"))
	}
	return netip.MustParseAddr(pick(p, "IPv4 address", "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.7", "10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.2", "10.0.2.0", "10.0.2.3", "172.16.0.1"))
}

// addrs returns at most one address of each family.
func (p *player) addrs() []netip.Addr {
	switch pick(p, "how many", 0, 0, 4, 4, 6, 46, 64) {
	case 4:
		return []netip.Addr{p.addr(IPv4)}
	case 6:
		return []netip.Addr{p.addr(IPv6)}
	case 46:
		return []netip.Addr{p.addr(IPv4), p.addr(IPv6)}
	case 64:
		return []netip.Addr{p.addr(IPv6), p.addr(IPv4)}
	}
	return nil
}

// request changes one or two of the things that the Service asked for last, or nothing.
func (p *player) request() Request {
	uid := p.uid()
	r, ok := p.requests[uid]
	if !ok {
		namespace, _, _ := strings.Cut(uid, "/")
		r = Request{UID: uid, Service: uid, Namespace: namespace, Families: []Family{IPv4}, Created: pick(p, "age", int64(1), 2, 3)}
	}
	r.Invalid = nil
	for range pick(p, "changes", 0, 1, 1, 2, 4) {
		switch pick(p, "change", "families", "key", "key", "ports", "ports", "backend", "pool", "addresses", "label", "invalid") {
		case "families":
			r.Families = pick(p, "families", []Family{IPv4}, []Family{IPv6}, []Family{IPv4, IPv6}, []Family{IPv6, IPv4})
			r.AllFamilies = len(r.Families) > 1 && pick(p, "require", true, false)
		case "key":
			r.Key = pick(p, "key", "", "x", "x", "y")
		case "ports":
			r.Ports = pick(p, "ports", nil, ports("80"), ports("443"), ports("80/UDP"), ports("25"), ports("80,443"), ports("25,80/UDP"))
		case "backend":
			r.Backend = pick(p, "backend", "", "", "pods app=web", "pods app=api", UnknownPods)
			r.NotReady = pick(p, "not ready", false, false, true)
		case "pool":
			r.Pool = pick(p, "pool", "", "", "a", "b", "c")
		case "addresses":
			r.Addrs = p.addrs()
		case "label":
			r.Labels = pick(p, "labels", nil, map[string]string{"tier": "gold"})
		case "invalid":
			r.Invalid = fmt.Errorf("nonsense")
		}
	}
	for _, addr := range r.Addrs {
		if !slices.Contains(r.Families, FamilyOf(addr)) {
			r.Invalid = fmt.Errorf("the Service has no %s", FamilyOf(addr))
		}
	}
	p.requests[uid] = r
	return r
}

func setOf(prefixes []netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		b.AddPrefix(p)
	}
	s, _ := b.IPSet()
	return s
}

// state writes down everything that an allocator knows and that matters for its answers.
func (a *Allocator) state() string {
	var all []string
	for _, uid := range slices.Sorted(maps.Keys(a.services)) {
		t := a.services[uid]
		all = append(all, fmt.Sprintf("%+v", []any{t.request, t.addrs, t.pool, t.asked, t.key, t.rests, t.why, t.lost, t.class != nil}))
	}
	for _, h := range a.Holdings() {
		all = append(all, fmt.Sprint(h.Addr, a.Holders(h.Addr)))
	}
	for i := range a.stock.stores {
		for f := range a.stock.stores[i] {
			all = append(all, freedIn(&a.stock.stores[i][f].freed), freedIn(&a.stock.stores[i][f].aside))
		}
	}
	return strings.Join(all, "\n")
}

func freedIn(l *list.List) (all string) {
	for e := l.Front(); e != nil; e = e.Next() {
		all += fmt.Sprint(e.Value, " ")
	}
	return all
}

func TestRandomHistoriesEndAsANaiveModelSays(t *testing.T) {
	// Long histories: what goes wrong needs several configurations and a full pool.
	try(t, "rapid.checks", "400")
	try(t, "rapid.steps", "120")
	play := newPlayer(t)
	rapid.Check(t, func(t *rapid.T) {
		p, a := play(t), NewAllocator()
		m := &model{config: &Config{}, waits: map[string]Request{}, stale: map[string]Request{}, told: map[string]bool{}, lost: map[string]bool{}, labels: map[string]map[string]string{}}
		// about does something about one Service, which must change nobody else's addresses, but for younger ones that cannot
		// use them any more.
		about := func(uid string, do func()) {
			before := holdingsOf(a)
			do()
			now := holdingsOf(a)
			delete(before, uid)
			delete(now, uid)
			for other := range before {
				if by, t := a.services[uid], a.services[other]; by != nil && byAge(by, t) < 0 && collide(by.request.Terms, t.request.Terms) {
					delete(before, other)
					delete(now, other)
				}
			}
			if !maps.Equal(now, before) {
				t.Fatalf("others than %s held %v and now %v", uid, before, now)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"allocate":      func(*rapid.T) { p.allocate(a, m, p.request(), about) },
			"allocate more": func(*rapid.T) { p.allocate(a, m, p.request(), about) },
			"allocate again": func(*rapid.T) {
				if r, ok := p.requests[p.uid()]; ok {
					p.allocate(a, m, r, about)
				}
			},
			"release": func(*rapid.T) {
				uid := p.uid()
				about(uid, func() {
					want := m.of(uid).addrs
					m.set(modelTenant{Request: Request{UID: uid}})
					delete(m.waits, uid)
					delete(m.stale, uid)
					delete(m.told, uid)
					delete(m.lost, uid)
					if got := a.Release(uid); !slices.Equal(got, want) {
						t.Fatalf("released %s, want %s", got, want)
					}
				})
			},
			"adopt": func(*rapid.T) {
				r, addrs := p.request(), p.addrs()
				about(r.UID, func() {
					refused := m.adopt(r, addrs)
					if why := a.Adopt(r, addrs); why.None() == refused {
						t.Fatalf("adopt %s by %+v: %v, want refused %t", addrs, r, why, refused)
					}
				})
			},
			"label": func(*rapid.T) {
				namespace, labels := pick(p, "namespace", "shop", "blog", "farm"), pick(p, "labels", nil, map[string]string{"env": "prod"}, map[string]string{"env": "test"})
				before := holdingsOf(a)
				a.Label(namespace, labels)
				m.labels[namespace] = labels
				if now := holdingsOf(a); !maps.Equal(now, before) {
					t.Fatalf("a label made of %v %v", before, now)
				}
			},
			"later": func(*rapid.T) {
				before := holdingsOf(a)
				m.later(time.Duration(pick(p, "seconds", 1, 2, 5, 20)) * time.Second)
				a.At(m.now)
				if now := holdingsOf(a); !maps.Equal(now, before) {
					t.Fatalf("time made of %v %v", before, now)
				}
			},
			"serve":      func(*rapid.T) { p.serve(a, m) },
			"serve more": func(*rapid.T) { p.serve(a, m) },
			"wait": func(*rapid.T) {
				r := p.request()
				about(r.UID, func() {
					a.Wait(r)
					m.waits[r.UID] = r
					delete(m.stale, r.UID)
					for i := range m.tenants { // what it holds, it holds on its new terms
						if m.tenants[i].UID == r.UID {
							m.tenants[i].Request = r
						}
					}
					m.notice()
				})
			},
			"configure": func(*rapid.T) {
				for _, t := range m.tenants {
					if _, known := m.stale[t.UID]; !known {
						m.stale[t.UID] = t.Request
					}
				}
				maps.Copy(m.stale, m.waits)
				clear(m.waits)
				before := holdingsOf(a)
				m.configure(p.config(), p.givenUp())
				a.Configure(m.config, setOf(m.givenUp))
				if now := holdingsOf(a); !maps.Equal(now, before) {
					t.Fatalf("a configuration made of %v %v", before, now)
				}
			},
			"": func(*rapid.T) {
				if err := a.inconsistency(); err != nil {
					t.Fatal(err)
				}
				if len(holdingsOf(a)) != len(m.tenants) {
					t.Fatalf("held: %v, want %v", a.Holdings(), m.tenants)
				}
				for _, want := range m.tenants {
					if got := a.Held(want.UID); !slices.Equal(got, want.addrs) {
						t.Fatalf("%s holds %s, want %s", want.UID, got, want.addrs)
					}
				}
			},
		})
	})
}

// serve serves who waits, in slices, and compares who holds what then with the model.
func (p *player) serve(a *Allocator, m *model) {
	before := a.state()
	m.serve()
	for steps, more := 0, true; more; steps++ {
		if _, more = a.Serve(func() bool { return false }); steps > 1000 {
			p.Fatalf("there is no end to it:\n%s", before)
		}
		if err := a.inconsistency(); err != nil {
			p.Fatalf("%v, after %d steps from\n%s", err, steps, before)
		}
	}
	m.settle()
	for _, want := range m.tenants {
		if got := a.Held(want.UID); !slices.Equal(got, want.addrs) {
			p.Fatalf("%s was served %s, want %s: from\n%s\nto\n%s", want.UID, got, want.addrs, before, a.state())
		}
	}
	for uid := range m.waits {
		if !a.Waits(uid) {
			p.Fatalf("%s does not wait", uid)
		}
	}
}

// allocate asks for addresses, and compares the answer with the model's, with what was foretold, and with itself.
func (p *player) allocate(a *Allocator, m *model, r Request, about func(string, func())) {
	before, state := a.Held(r.UID), a.state()
	foretold, same := a.Check(r)
	if now := a.state(); now != state {
		p.Fatalf("asking changed\n%s\nto\n%s", state, now)
	}
	var g Grant
	var want modelGrant
	about(r.UID, func() {
		want = m.allocate(r)
		g = a.Allocate(r)
	})
	got := modelGrant{g.Addrs, want.failed, !g.Why.None(), g.More, !g.Conflict.None(), g.Renumbered}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.Fatalf("%+v:\ngot  %+v, %v, %v\nwant %+v\nwho had %s, of\n%s", r, got, g.Why, g.Conflict, want, before, state)
	}
	if !reflect.DeepEqual(g, foretold) {
		p.Fatalf("%+v:\ngot  %+v\nforetold %+v", r, g, foretold)
	}
	if same && !slices.Equal(g.Addrs, before) {
		p.Fatalf("%+v: nothing was to change, and it had %s and has %+v", r, before, g)
	}
	if want.failed {
		for _, addr := range before {
			if !slices.Contains(g.Addrs, addr) && !m.collides(addr, r) && slices.Contains(r.Families, FamilyOf(addr)) {
				p.Fatalf("%+v: in vain, and %s is lost: %v", r, addr, g.Why)
			}
		}
	}
	if t := m.of(r.UID); t.asked && t.forKey != r.Key && len(g.Addrs) > len(before) {
		return // it waits for other company, and what it got beside may bring that along
	}
	again, same := a.Check(r)
	if !same || !slices.Equal(again.Addrs, g.Addrs) || again.Why.None() != g.Why.None() || again.More != g.More || !again.Conflict.None() || again.Renumbered {
		p.Fatalf("%+v:\ngot  %+v\nagain %t %+v", r, g, same, again)
	}
}

// Once everybody has what can be had, a restart changes no address, in whichever order it hears of the Services.
func TestARestartChangesNoAddress(t *testing.T) {
	try(t, "rapid.checks", "300")
	try(t, "rapid.steps", "60")
	play := newPlayer(t)
	rapid.Check(t, func(t *rapid.T) {
		p, a := play(t), NewAllocator()
		config, givenUp := &Config{}, &netipx.IPSet{}
		t.Repeat(map[string]func(*rapid.T){
			"allocate":      func(*rapid.T) { a.Allocate(p.request()) },
			"allocate more": func(*rapid.T) { a.Allocate(p.request()) },
			"allocate most": func(*rapid.T) { a.Allocate(p.request()) },
			"adopt":         func(*rapid.T) { a.Adopt(p.request(), p.addrs()) },
			"release": func(*rapid.T) {
				uid := p.uid()
				a.Release(uid)
				delete(p.requests, uid)
			},
			"configure": func(*rapid.T) {
				config, givenUp = p.config(), setOf(p.givenUp())
				a.Configure(config, givenUp)
			},
		})

		uids := slices.Sorted(maps.Keys(p.requests))
		for round, quiet := 0, false; !quiet; round++ {
			if round > 30 {
				t.Fatalf("there is no end to it: %v", holdingsOf(a))
			}
			before := a.state()
			for _, uid := range uids {
				a.Allocate(p.requests[uid])
			}
			quiet = a.state() == before
		}
		before := holdingsOf(a)
		for range 3 {
			b := NewAllocator()
			b.Configure(config, givenUp)
			for _, uid := range rapid.Permutation(uids).Draw(t, "adopted") {
				if why := b.Adopt(p.requests[uid], a.Held(uid)); !why.None() {
					t.Fatal(why)
				}
			}
			b.HoldDown(a.HeldDown())
			for _, uid := range rapid.Permutation(uids).Draw(t, "asked") {
				b.Allocate(p.requests[uid])
			}
			if err := b.inconsistency(); err != nil {
				t.Fatal(err)
			}
			if now := holdingsOf(b); !maps.Equal(now, before) {
				t.Fatalf("before the restart they had %v, and then %v", before, now)
			}
			a = b
		}
	})
}

// inconsistency returns what of the allocator's knowledge disagrees with itself.
func (a *Allocator) inconsistency() error {
	// Holders and tenants are each other's inverse.
	shared, waiting := map[company]map[netip.Addr]int{}, 0
	var inUse []Holding
	pairs := 0
	for uid, t := range a.services {
		if t.request.UID != uid || len(t.addrs) > 2 || len(t.addrs) == 2 && FamilyOf(t.addrs[0]) == FamilyOf(t.addrs[1]) {
			return fmt.Errorf("%s is known as %s and holds %s", t.request.UID, uid, t.addrs)
		}
		if len(t.addrs) == 0 && t.class == nil && !a.unchecked[t] {
			return fmt.Errorf("%s holds nothing and waits for nothing", uid)
		}
		if c := t.class; c != nil {
			if !c.more {
				waiting++
			}
			var from *fit
			if len(t.request.Addrs) == 0 && !c.more {
				from = a.fitOf(&t.request)
			}
			if a.classes[c.likeness] != c || !slices.Contains(c.members, t) || c.likeness != a.likeness(t, c.more, from) || c.rank != a.rank(t) || t.rests {
				return fmt.Errorf("%s waits with those of %s and should with those of %s", uid, c.likeness, a.likeness(t, c.more, from))
			}
			for _, key := range a.watches(t, from) {
				if !a.watched[key][c] {
					return fmt.Errorf("%s is not looked for at %v", uid, key)
				}
			}
			if !c.uneven && !t.why.Same(c.members[0].why) {
				return fmt.Errorf("%s was given another reason than others like it", uid)
			}
		}
		for _, addr := range t.addrs {
			pairs++
			inUse = append(inUse, Holding{t.request.Service, addr})
			if !slices.Contains(a.inUse[addr], t) {
				return fmt.Errorf("%s holds %s, which is held by others only", uid, addr)
			}
			if p := a.config.Pool(addr); t.request.Key != "" && p != nil {
				i := a.config.index(addr)
				in := company{circle{t.request.Namespace, t.request.Key}, spot{i, FamilyOf(addr)}}
				if p.ShareAcrossNamespaces {
					in.namespace = ""
				}
				if shared[in] == nil {
					shared[in] = map[netip.Addr]int{}
				}
				shared[in][addr]++
			}
		}
	}
	sorted := func(all []Holding) []Holding {
		slices.SortFunc(all, func(x, y Holding) int { return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Service, y.Service)) })
		return all
	}
	if got, want := sorted(a.InUse()), sorted(inUse); !slices.Equal(got, want) || a.Pending() != waiting {
		return fmt.Errorf("in use are %v, and should be %v; %d are pending, and should be %d", got, want, a.Pending(), waiting)
	}
	tally := map[share]int{}
	for i := range a.config.Pools {
		for addr, holders := range a.inUse {
			namespaces := map[string]bool{}
			for _, t := range holders {
				if a.config.index(addr) == i && !namespaces[t.request.Namespace] {
					namespaces[t.request.Namespace] = true
					tally[share{i, t.request.Namespace}]++
				}
			}
		}
	}
	for addr, d := range a.down.addrs {
		tally[d.share]++
		if a.inUse[addr] != nil || d.share.pool != a.config.index(addr) || a.down.ends[d.at] != d || !slices.Contains(a.down.by[d.Service], d) || !slices.Contains(a.down.by[d.share], d) || d.Until <= a.now {
			return fmt.Errorf("%s is held down, and should not be, or not so: %+v", addr, d)
		}
	}
	if len(a.down.ends) != len(a.down.addrs) {
		return fmt.Errorf("%d are to end, of %d", len(a.down.ends), len(a.down.addrs))
	}
	if !maps.Equal(a.tally, tally) {
		return fmt.Errorf("namespaces have %v, and should have %v", a.tally, tally)
	}
	if !reflect.DeepEqual(a.shared, shared) {
		return fmt.Errorf("shared are %v, and should be %v", a.shared, shared)
	}
	used := map[*store]int{}
	for addr, holders := range a.inUse {
		if len(holders) == 0 || a.stock.freed[addr] != nil {
			return fmt.Errorf("%s is held by %d, and free: %t", addr, len(holders), a.stock.freed[addr] != nil)
		}
		used[a.stock.storeOf(addr)]++
		if !slices.IsSortedFunc(holders, byAge) {
			return fmt.Errorf("%s is not held by the oldest first", addr)
		}
		for i, t := range holders {
			pairs--
			if a.services[t.request.UID] != t {
				return fmt.Errorf("%s is held by %s, which is not known", addr, t.request.UID)
			}
			for _, u := range holders[:i] {
				young := t
				if older(&t.request, &u.request) < 0 {
					young = u
				}
				if collide(t.request.Terms, u.request.Terms) && !young.rests {
					return fmt.Errorf("%s and %s cannot both use %s", u.request.UID, t.request.UID, addr)
				}
				if young.class == nil && !young.rests && !a.unchecked[young] && u == holders[0] && differ(t.request.Terms, u.request.Terms) {
					return fmt.Errorf("%s and %s share %s and differ, and nobody is told", u.request.UID, t.request.UID, addr)
				}
			}
		}
	}
	if pairs != 0 {
		return fmt.Errorf("of tenants and addresses, %d more belong together than of addresses and tenants", pairs)
	}
	for like, c := range a.classes {
		if c.likeness != like || len(c.members) == 0 || !slices.IsSortedFunc(c.members, byAge) || c.at >= 0 && a.queue[c.at] != c {
			return fmt.Errorf("the class of %s has %d members", c.likeness, len(c.members))
		}
	}
	if len(a.classes) == 0 && len(a.watched)+len(a.queue) > 0 {
		return fmt.Errorf("nobody waits, and %d places are watched", len(a.watched))
	}

	listed := 0
	lists := map[*list.List]*store{}
	for i := range a.stock.stores {
		for f := range a.stock.stores[i] {
			s := &a.stock.stores[i][f]
			lists[&s.freed], lists[&s.aside] = s, s
			if s.used != used[s] {
				return fmt.Errorf("%d addresses of pool number %d are in use, and %d are counted", used[s], i, s.used)
			}
			if i == 0 {
				continue
			}
			// Below the cursor nothing is left that was never used, except what was forgotten.
			pool := &a.config.Pools[i-1]
			for span, r := range s.ranges[:min(s.span+1, len(s.ranges))] {
				for addr := r.From(); r.Contains(addr) && (span < s.span || addr.Less(s.at)) && !s.forgotten; addr = addr.Next() {
					if a.stock.handsOut(pool, addr) && a.inUse[addr] == nil && a.stock.freed[addr] == nil {
						return fmt.Errorf("%s of pool %s was passed over", addr, pool.Name)
					}
				}
			}
		}
	}
	for l, s := range lists {
		last := uint64(0)
		for e := l.Front(); e != nil; e = e.Next() {
			f := e.Value.(freedAddr)
			at := a.stock.storeOf(f.addr)
			switch {
			case a.stock.freed[f.addr] != e:
				return fmt.Errorf("%s is in a list and not known as free", f.addr)
			case at != s, (l == &s.aside) != (a.config.Pool(f.addr) != nil && !a.stock.handsOut(a.config.Pool(f.addr), f.addr)):
				return fmt.Errorf("%s is in the wrong list", f.addr)
			case f.at <= last || f.at > a.stock.clock:
				return fmt.Errorf("%s was freed at %d, after %d, and it is %d", f.addr, f.at, last, a.stock.clock)
			}
			last = f.at
			listed++
		}
		if l.Len() > mostFreed {
			return fmt.Errorf("%d freed addresses are remembered", l.Len())
		}
	}
	if listed != len(a.stock.freed) {
		return fmt.Errorf("%d addresses are free and %d are in lists", len(a.stock.freed), listed)
	}
	return nil
}

// collide reports whether two Services cannot use one address at once.
func collide(x, y Terms) bool {
	for _, p := range x.Ports {
		if slices.Contains(y.Ports, p) {
			return true
		}
	}
	return x.Key == "" && y.Key == ""
}

// differ reports whether two Services may not share an address, although they could.
func differ(x, y Terms) bool {
	return x.Key == "" || x.Key != y.Key || x.Backend != y.Backend || x.Backend == UnknownPods || x.NotReady != y.NotReady
}

// try sets a flag of the rapid package for one test, unless the command line does.
func try(t *testing.T, name, value string) {
	t.Helper()
	if commanded()[name] {
		return
	}
	before := flag.Lookup(name).Value.String()
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flag.Set(name, before) })
}

// commanded tells which flags the command line sets.
var commanded = sync.OnceValue(func() map[string]bool {
	all := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { all[f.Name] = true })
	return all
})
