package loadbalancer

import "testing"

func TestServicesShareAnAddressIfTheyAgree(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "a 10.0.0.0/28"},
		{then: "web is the first of its key", ask: "shop/web share=k ports=80,443", addrs: "10.0.0.0"},
		{then: "cart wants an address for itself", ask: "shop/cart ports=8080", addrs: "10.0.0.1"},
		{then: "mail finds web: company comes first", ask: "shop/mail share=k ports=25", addrs: "10.0.0.0"},
		{then: "the same port of another protocol is another port", ask: "shop/quic share=k ports=443/UDP", addrs: "10.0.0.0"},
		{then: "a Service without ports is in nobody's way", ask: "shop/none share=k", addrs: "10.0.0.0"},

		{then: "one port in common is too much", ask: "shop/api share=k ports=8080,443", addrs: "10.0.0.2"},
		{then: "by name one reads why", ask: "shop/api share=k ports=8080,443 want=10.0.0.0", addrs: "10.0.0.2",
			why: `address 10.0.0.0 is held by service shop/web, and both use TCP port 443: use different ports, or ask for another address`},
		{then: "the next goes to the lowest address where there is room", ask: "shop/low share=k ports=9000", addrs: "10.0.0.0"},
		{then: "or to the one after", ask: "shop/next share=k ports=80", addrs: "10.0.0.2"},
		{then: "or to one of its own", ask: "shop/own share=k ports=443", addrs: "10.0.0.3"},
		{then: "the key is another", ask: "shop/other share=l ports=1", addrs: "10.0.0.4"},
		{then: "by name one reads why", ask: "shop/other share=l ports=1 want=10.0.0.0", addrs: "10.0.0.4",
			why: `address 10.0.0.0 is held by service shop/web, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip`},
		{then: "a Service without a key shares with nobody", ask: "shop/alone want=10.0.0.0 ports=1",
			why: `address 10.0.0.0 is held by service shop/web, which shares it: ask for another, or annotate this Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "and nobody with it", ask: "shop/hopes share=k ports=1 want=10.0.0.1",
			why: `address 10.0.0.1 is held by service shop/cart, which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "two without a key never share", ask: "shop/alone want=10.0.0.1 ports=1",
			why: `address 10.0.0.1 is held by service shop/cart: ask for another, or delete that Service`},

		{then: "the policy is another", ask: "shop/local share=k ports=1 local=web want=10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/web, whose externalTrafficPolicy is another: give both the same, or ask for another address`},
		{then: "so it gets an address of its own", ask: "shop/local share=k ports=1 local=web", addrs: "10.0.0.5"},
		{then: "which one with the same pods may share", ask: "shop/local-udp share=k ports=1/UDP local=web", addrs: "10.0.0.5"},
		{then: "and one with others may not", ask: "shop/local-api share=k ports=2 local=api want=10.0.0.5",
			why: `address 10.0.0.5 is held by service shop/local, whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address`},
		{then: "it gets its own, too", ask: "shop/local-api share=k ports=2 local=api", addrs: "10.0.0.6"},

		{then: "another namespace has keys of its own", ask: "blog/web share=k ports=1", addrs: "10.0.0.7"},
		{then: "also by name", ask: "blog/api share=k ports=1 want=10.0.0.0",
			why: `address 10.0.0.0 is held by a Service of another namespace: ask for another, or set share-across-namespaces of pool "a"`},

		{then: "web goes, and the address is still in use", release: "shop/web", also: "left 10.0.0.0"},
		{then: "its ports are free", ask: "shop/api share=k ports=8080,443 want=10.0.0.0", addrs: "10.0.0.0", also: "left 10.0.0.2"},
		{then: "all others go", release: "shop/mail", also: "left 10.0.0.0"},
		{then: "all others go", release: "shop/quic", also: "left 10.0.0.0"},
		{then: "all others go", release: "shop/none", also: "left 10.0.0.0"},
		{then: "all others go", release: "shop/low", also: "left 10.0.0.0"},
		{then: "all others go", release: "shop/api", also: "left 10.0.0.0"},
		{then: "now anybody may have it", ask: "shop/alone want=10.0.0.0", addrs: "10.0.0.0"},
		{then: "and nobody joins", ask: "shop/again share=k ports=10", addrs: "10.0.0.2"},
	})
}

func TestServicesThatWouldAttractEachOthersTrafficNeverShare(t *testing.T) {
	const byHand = `address 10.0.0.0 is held by service shop/x1, and with externalTrafficPolicy Local neither has a selector: ask for another, or give both the same selector`
	const readiness = `address 10.0.0.2 is held by service shop/web, whose publishNotReadyAddresses is another: give both the same, or ask for another address`
	tell(t, []step{
		{then: "there is a pool", configure: "a 10.0.0.0/29"},
		{then: "x1 is Local and has no selector", ask: "shop/x1 share=k ports=80 by-hand", addrs: "10.0.0.0"},
		{then: "nor has x2: nobody knows whether the same nodes have their endpoints", ask: "shop/x2 share=k ports=443 by-hand", addrs: "10.0.0.1"},
		{then: "by name it reads why", ask: "shop/x3 share=k ports=444 by-hand want=10.0.0.0", why: byHand},
		{then: "one with a selector does not join either", ask: "shop/x4 share=k ports=444 local=x want=10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/x1, whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address`},
		{then: "they were found on one address: both stay, and the second is told", adopt: "shop/x5 share=k ports=445 by-hand shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "told", ask: "shop/x5 share=k ports=445 by-hand", addrs: "10.0.0.0", why: byHand},

		{then: "web counts ready pods", ask: "shop/web share=r ports=80", addrs: "10.0.0.2"},
		{then: "api counts others as well", ask: "shop/api share=r ports=81 not-ready", addrs: "10.0.0.3"},
		{then: "by name it reads why", ask: "shop/dns share=r ports=53 not-ready want=10.0.0.2", why: readiness},
		{then: "one like it joins", ask: "shop/ntp share=r ports=123 not-ready", addrs: "10.0.0.3"},
		{then: "web does so, too, and stays alone", ask: "shop/web share=r ports=80 not-ready", addrs: "10.0.0.2"},
		{then: "then it may be joined", ask: "shop/dns share=r ports=53 not-ready want=10.0.0.2", addrs: "10.0.0.2"},
	})
}

func TestWhoGetsAnAddressOfItsOwnReadsWhy(t *testing.T) {
	a := NewAllocator()
	a.Configure(pools(t, "a 10.0.0.0/29; wide 10.0.1.0/29 across manual"), nil)
	for _, s := range []struct{ ask, apart string }{
		{"shop/a1 share=t4 ports=80 local=t", ""},
		{"shop/a5 share=t4 ports=25 local=other", "not shared with service shop/a1, because with externalTrafficPolicy Local, its selector is another"},
		{"shop/a6 share=t4 ports=26", "not shared with service shop/a1, because its externalTrafficPolicy is another"},
		{"shop/a5 share=t4 ports=25 local=other", ""}, // it has it
		{"shop/a2 share=t4 ports=80 local=t", ""},     // its port is the reason
		{"shop/a3 share=t4 ports=81 local=t", ""},     // it shares
		{"shop/b1 share=u ports=80 local=t", ""},
		{"blog/a1 share=t4 ports=99 local=x", ""},
		{"shop/w1 share=t4 ports=80 local=t pool=wide", ""},
		{"blog/w2 share=t4 ports=81 local=x pool=wide", "not shared with a Service of another namespace, because with externalTrafficPolicy Local, its selector is another"},
	} {
		r, _ := request(t, s.ask)
		got := ""
		if g := a.Allocate(r); !g.Apart.None() {
			got = g.Apart.Apart()
		}
		if got != s.apart {
			t.Errorf("%s: %q, want %q", s.ask, got, s.apart)
		}
	}
	for _, uid := range []string{"shop/a1", "shop/a2", "shop/a3", "shop/a5", "shop/a6", "shop/b1", "blog/a1", "shop/w1", "blog/w2"} {
		a.Release(uid)
	}
	if len(a.shared) > 0 {
		t.Errorf("%d keys are left", len(a.shared))
	}
}

func TestCompanyIsFoundInTheRightPoolsOnly(t *testing.T) {
	tell(t, []step{
		{then: "there are four pools", configure: "a 10.0.0.0/32; b 10.0.1.0/30; vip 10.0.2.0/30 manual; mine 10.0.3.0/30 namespaces=blog priority=-1"},
		{then: "one is in the pool on request", ask: "shop/one share=k ports=1 pool=vip", addrs: "10.0.2.0"},
		{then: "who does not ask for that does not go there", ask: "shop/two share=k ports=2", addrs: "10.0.0.0"},
		{then: "who does goes", ask: "shop/three share=k ports=3 pool=vip", addrs: "10.0.2.0"},
		{then: "also by name", ask: "shop/four share=k ports=4 want=10.0.2.0", addrs: "10.0.2.0"},
		{then: "company is better than a pool that comes first", ask: "shop/five share=k ports=5", addrs: "10.0.0.0"},
		{then: "here none can be had, and the next pool has a free one", ask: "shop/six share=k ports=5", addrs: "10.0.1.0"},
		{then: "a pool that is for others is not looked at", ask: "blog/one share=k ports=1", addrs: "10.0.3.0"},
		{then: "the operator takes that from blog", configure: "a 10.0.0.0/32; b 10.0.1.0/30; vip 10.0.2.0/30 manual; mine 10.0.3.0/30 namespaces=farm priority=-1"},
		{then: "blog's next does not find its company there", ask: "blog/two share=k ports=2", addrs: "10.0.1.1"},
		{then: "nor by name", ask: "blog/three share=k ports=3 want=10.0.3.0",
			why: `address 10.0.3.0 belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "an address that is avoided can be joined while somebody holds it", configure: "a 10.0.0.0/32 avoid; b 10.0.1.0/30 avoid"},
		{then: "so it is, also without asking for it", ask: "shop/seven share=k ports=7", addrs: "10.0.0.0"},
		{then: "joined by name", ask: "shop/joins share=k ports=77 want=10.0.0.0", addrs: "10.0.0.0"},
		{then: "under another key it is not", ask: "blog/four share=m ports=1 want=10.0.1.0",
			why: `address 10.0.1.0 is held by a Service of another namespace, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip`},
		{then: "no pool owns what the first have", ask: "shop/eight share=k ports=8 want=10.0.2.0",
			why: `address 10.0.2.0 is held by service shop/one: ask for another, or delete that Service`},
		{then: "and so it is not company either", ask: "shop/nine share=k ports=2", addrs: "10.0.1.0"},
	})
	tell(t, []step{
		{then: "the first pool has room", configure: "a 10.0.0.0/30,fd00::/126; b 10.0.1.0/30"},
		{then: "the first of a key is in the other", ask: "shop/one share=k ports=1 pool=b", addrs: "10.0.1.0"},
		{then: "company comes first nevertheless", ask: "shop/two share=k ports=2", addrs: "10.0.1.0"},
		{then: "also before a second family", ask: "shop/three share=k ports=3 families=46", addrs: "10.0.1.0"},
		{then: "unless that is needed", ask: "shop/four share=k ports=4 families=46 require", addrs: "10.0.0.0,fd00::"},
		{then: "of two pools with company, the first", ask: "shop/five share=k ports=5", addrs: "10.0.0.0"},
	})
}

func TestPoolsMayBeSharedAcrossNamespaces(t *testing.T) {
	tell(t, []step{
		{then: "one of two pools is shared across namespaces", configure: "a 10.0.0.0/31; wide 10.0.1.0/31 across"},
		{then: "shop is in the first", ask: "shop/web share=k ports=1", addrs: "10.0.0.0"},
		{then: "blog does not join it", ask: "blog/web share=k ports=2", addrs: "10.0.0.1"},
		{then: "in the wide pool", ask: "shop/api share=k ports=1 pool=wide", addrs: "10.0.1.0"},
		{then: "it does", ask: "blog/api share=k ports=2 pool=wide", addrs: "10.0.1.0"},
		{then: "if the ports differ", ask: "farm/api share=k ports=2 pool=wide", addrs: "10.0.1.1"},
		{then: "and the keys do not", ask: "farm/other share=l ports=3 pool=wide", why: `pool "wide" has no free address: add addresses to it, or delete a Service that holds one`},
		{then: "the operator changes both", configure: "a 10.0.0.0/31 across; wide 10.0.1.0/31"},
		{then: "sharers stay, without a word", ask: "shop/api share=k ports=1 pool=wide", addrs: "10.0.1.0"},
		{then: "of whichever namespace", ask: "blog/api share=k ports=2 pool=wide", addrs: "10.0.1.0"},
		{then: "but no other namespace joins", ask: "farm/more share=k ports=9 pool=wide", addrs: "10.0.1.1"},
		{then: "nor one of those two: there is always one of another", ask: "shop/more share=k ports=9 want=10.0.1.0",
			why: `address 10.0.1.0 is held by a Service of another namespace: ask for another, or set share-across-namespaces of pool "wide"`},
		{then: "the other pool is wide now", ask: "farm/web share=k ports=3", addrs: "10.0.0.0"},
	})
}

// Of two that cannot use an address at once the younger loses it, whichever of them changed.
func TestOfSharersWhosePortsCollideTheYoungerLosesTheAddress(t *testing.T) {
	const web = `address 10.0.0.0 is held by service shop/web, and both use TCP port 80: use different ports, or ask for another address`
	const full = `no free address in pool "a": add addresses, or delete a Service that holds one`
	tell(t, []step{
		{then: "there is a pool of two", configure: "a 10.0.0.0/31"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "mail", ask: "shop/mail share=k ports=25", addrs: "10.0.0.0"},
		{then: "dns, by name", ask: "shop/dns share=k ports=53 want=10.0.0.0", addrs: "10.0.0.0"},
		{then: "mail opens a port that nobody has", ask: "shop/mail share=k ports=25,465", addrs: "10.0.0.0"},
		{then: "and web's: it gets another address", ask: "shop/mail share=k ports=25,80", addrs: "10.0.0.1", also: "left 10.0.0.0", conflict: web},
		{then: "dns does, and accepts no other", ask: "shop/dns share=k ports=80 want=10.0.0.0", why: web, conflict: web, also: "left 10.0.0.0"},
		{then: "web keeps what it has", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "dns is the old one again", ask: "shop/dns share=k ports=53 want=10.0.0.0", addrs: "10.0.0.0"},
		{then: "web opens the port of dns, and keeps its address", ask: "shop/web share=k ports=80,53", addrs: "10.0.0.0", lose: "shop/dns"},
		{then: "dns is younger, and hears why", serve: "shop/dns",
			why:      `address 10.0.0.0 is held by service shop/web, and both use TCP port 53: use different ports, or ask for another address`,
			conflict: `address 10.0.0.0 is held by service shop/web, and both use TCP port 53: use different ports, or ask for another address`},
		{then: "web closes it", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "dns has waited for that", serve: "shop/dns", addrs: "10.0.0.0"},
		{then: "mail takes the port back, and stays where it is now", ask: "shop/mail share=k ports=25", addrs: "10.0.0.1"},
		{then: "api joins web", ask: "shop/api share=k ports=8080", addrs: "10.0.0.0"},
		{then: "and opens its port: it moves to mail", ask: "shop/api share=k ports=80", addrs: "10.0.0.1", also: "left 10.0.0.0", conflict: web},
		{then: "mail does so, too, and stays", ask: "shop/mail share=k ports=25,80", addrs: "10.0.0.1", lose: "shop/api"},
		{then: "api is younger, and there is no third", serve: "shop/api", why: full,
			conflict: `address 10.0.0.1 is held by service shop/mail, and both use TCP port 80: use different ports, or ask for another address`},
		{then: "it waits", ask: "shop/api share=k ports=80", why: full},
		{then: "mail goes", release: "shop/mail", also: "left 10.0.0.1"},
		{then: "it is served", serve: "shop/api", addrs: "10.0.0.1"},
		{then: "a Service that asks for nonsense at the same time loses the address nevertheless", ask: "shop/dns share=k ports=80 invalid=nonsense",
			why: "nonsense", conflict: web, also: "left 10.0.0.0"},
	})
}

func TestWhoTakesItsKeyAwayMovesOrStays(t *testing.T) {
	const notShared = `address 10.0.0.1 is held by service shop/mail, which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip`
	const full = `no free address in pool "a": add addresses, or delete a Service that holds one`
	tell(t, []step{
		{then: "there is a pool of two", configure: "a 10.0.0.0/31"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "mail", ask: "shop/mail share=k ports=25", addrs: "10.0.0.0"},
		{then: "dns", ask: "shop/dns share=k ports=53", addrs: "10.0.0.0"},
		{then: "mail wants other company: there is another address", ask: "shop/mail share=l ports=25", addrs: "10.0.0.1", also: "left 10.0.0.0"},
		{then: "dns as well, and finds mail", ask: "shop/dns share=l ports=53", addrs: "10.0.0.1", also: "left 10.0.0.0"},
		{then: "mail wants to be alone, and there is nowhere to go: it stays, and may be joined by nobody", ask: "shop/mail ports=25", addrs: "10.0.0.1", why: full},
		{then: "it says so again", ask: "shop/mail ports=25", addrs: "10.0.0.1", why: full},
		{then: "dns came later, and hears of it", serve: "shop/dns", addrs: "10.0.0.1", why: notShared},
		{then: "dns wants to be alone, too: both at once cannot be", ask: "shop/dns ports=53", why: full, also: "left 10.0.0.1",
			conflict: `address 10.0.0.1 is held by service shop/mail: ask for another, or delete that Service`},
		{then: "mail is alone now, as it wished", ask: "shop/mail ports=25", addrs: "10.0.0.1"},
		{then: "web goes", release: "shop/web", also: "left 10.0.0.0"},
		{then: "dns is served", ask: "shop/dns ports=53", addrs: "10.0.0.0"},
		{then: "alone, it may take any key", ask: "shop/dns share=m ports=53", addrs: "10.0.0.0"},
		{then: "and is joined under that", ask: "shop/ntp share=m ports=123", addrs: "10.0.0.0"},
	})
	tell(t, []step{
		{then: "who waits for another address gets it when there is one", configure: "a 10.0.0.0/31"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "mail", ask: "shop/mail share=k ports=25", addrs: "10.0.0.0"},
		{then: "big", ask: "shop/big", addrs: "10.0.0.1"},
		{then: "mail changes its key", ask: "shop/mail share=l ports=25", addrs: "10.0.0.0", why: full},
		{then: "big goes", release: "shop/big", also: "left 10.0.0.1"},
		{then: "mail moves", ask: "shop/mail share=l ports=25", addrs: "10.0.0.1", also: "left 10.0.0.0"},
	})
	tell(t, []step{
		{then: "who asks by name stays", configure: "a 10.0.0.0/30"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "mail", ask: "shop/mail share=k ports=25 want=10.0.0.0", addrs: "10.0.0.0"},
		{then: "mail changes its key", ask: "shop/mail share=l ports=25 want=10.0.0.0", addrs: "10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/web, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip`},
		{then: "mail has none any more", ask: "shop/mail ports=25 want=10.0.0.0", addrs: "10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/web, which shares it: ask for another, or annotate this Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "web is innocent", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "nobody joins such a pair by name", ask: "shop/dns share=k ports=53 want=10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/mail, which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "nor without", ask: "shop/dns share=k ports=53", addrs: "10.0.0.1"},
		{then: "mail gives it up by name for dns's", ask: "shop/mail share=k ports=25 want=10.0.0.1", addrs: "10.0.0.1", also: "left 10.0.0.0"},
		{then: "and does not insist on the name any more", ask: "shop/mail share=k ports=25", addrs: "10.0.0.1"},
	})
	tell(t, []step{
		{then: "a family more is no reason to stay where one asks for another pool's address", configure: "a 10.0.0.0/30; b fd01::/126"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "mail", ask: "shop/mail share=k ports=25", addrs: "10.0.0.0"},
		{then: "mail wants to be alone, and by name in another pool", ask: "shop/mail ports=25 families=46 want=fd01::3", addrs: "fd01::3", also: "left 10.0.0.0"},
	})
	tell(t, []step{
		{then: "of two families, both move or none", configure: "a 10.0.0.0/32,fd00::/126; b 10.0.1.0/30"},
		{then: "web", ask: "shop/web share=k ports=80 families=46", addrs: "10.0.0.0,fd00::"},
		{then: "mail", ask: "shop/mail share=k ports=25 families=46", addrs: "10.0.0.0,fd00::"},
		{then: "mail changes its key, and would lose a family", ask: "shop/mail share=l ports=25 families=46", addrs: "10.0.0.0,fd00::",
			why: `address fd00:: is held by service shop/web, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip`},
		{then: "web goes", release: "shop/web", also: "left 10.0.0.0,fd00::"},
		{then: "mail has no company any more that it does not like", ask: "shop/mail share=l ports=25 families=46", addrs: "10.0.0.0,fd00::"},
	})
}

// The terms of the oldest count: so it is after a restart, which cannot know who changed.
func TestWhoSharesOnOtherTermsThanTheOldestStaysAndIsToldSo(t *testing.T) {
	const policy = `address 10.0.0.0 is held by service shop/web, whose externalTrafficPolicy is another: give both the same, or ask for another address`
	const selector = `address 10.0.0.0 is held by service shop/web, whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address`
	tell(t, []step{
		{then: "there is room", configure: "a 10.0.0.0/29"},
		{then: "web", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "mail", ask: "shop/mail share=k ports=25", addrs: "10.0.0.0"},
		{then: "mail changes its policy", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: policy},
		{then: "mail is told again", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: policy},
		{then: "web is innocent", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "whoever looks first", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: policy},
		{then: "nobody joins", ask: "shop/dns share=k ports=53", addrs: "10.0.0.1"},
		{then: "with neither policy", ask: "shop/ntp share=k ports=123 local=x", addrs: "10.0.0.2"},
		{then: "web follows: now both agree", ask: "shop/web share=k ports=80 local=x", addrs: "10.0.0.0"},
		{then: "mail is content", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0"},
		{then: "web, the oldest, changes its selector", ask: "shop/web share=k ports=80 local=y", addrs: "10.0.0.0"},
		{then: "mail is told", serve: "shop/mail", addrs: "10.0.0.0", why: selector},
		{then: "once", serve: "shop/mail", addrs: "10.0.0.0"},
		{then: "and in the same words when it asks", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: selector},
		{then: "mail goes", release: "shop/mail", also: "left 10.0.0.0"},
		{then: "web is alone, and content", ask: "shop/web share=k ports=80 local=y", addrs: "10.0.0.0"},
		{then: "mail joins it on its terms", ask: "shop/mail share=k ports=25 local=y", addrs: "10.0.0.0"},

		{then: "mail changes its selector", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: selector},
		{then: "a restart: mail is adopted again", adopt: "shop/mail share=k ports=25 local=x shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "and web", adopt: "shop/web share=k ports=80 local=y shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "web is innocent still", ask: "shop/web share=k ports=80 local=y", addrs: "10.0.0.0"},
		{then: "mail is told", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: selector},
		{then: "it changes its key: now it wants other company", ask: "shop/mail share=l ports=25 local=x", addrs: "10.0.0.3", also: "left 10.0.0.0"},
	})
	tell(t, []step{
		{then: "after a restart the younger is told", configure: "a 10.0.0.0/29"},
		{then: "web is older", adopt: "shop/web share=k ports=80 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "mail has another policy", adopt: "shop/mail share=k ports=25 local=x shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "dns has web's", adopt: "shop/dns share=k ports=53 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "ntp has another key", adopt: "shop/ntp share=l ports=123 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "alone has none", adopt: "shop/alone ports=1 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "far is of another namespace", adopt: "blog/far share=k ports=2 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "alone is told first", ask: "shop/alone ports=1", addrs: "10.0.0.0", why: `address 10.0.0.0 is held by service shop/web, which shares it: ask for another, or annotate this Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "ntp is told", ask: "shop/ntp share=l ports=123", addrs: "10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/web, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip`},
		{then: "far is welcome", ask: "blog/far share=k ports=2", addrs: "10.0.0.0"},
		{then: "dns is innocent", ask: "shop/dns share=k ports=53", addrs: "10.0.0.0"},
		{then: "mail is told", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0", why: policy},
		{then: "web is innocent", ask: "shop/web share=k ports=80", addrs: "10.0.0.0"},
		{then: "web goes", release: "shop/web", also: "left 10.0.0.0"},
		{then: "mail is the oldest now", ask: "shop/mail share=k ports=25 local=x", addrs: "10.0.0.0"},
		{then: "and dns is told about that", serve: "shop/dns", addrs: "10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/mail, whose externalTrafficPolicy is another: give both the same, or ask for another address`},
		{then: "dns goes", release: "shop/dns", also: "left 10.0.0.0"},
		{then: "far goes", release: "blog/far", also: "left 10.0.0.0"},
		{then: "and ntp is told about that", ask: "shop/ntp share=l ports=123", addrs: "10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/mail, which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip`},
	})
}

func TestAdoptedSharersThatCollideAreSeparated(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "a 10.0.0.0/30,fd00::/126"},
		{then: "web is the oldest", adopt: "shop/web share=k ports=80 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "api uses its port", adopt: "shop/api share=k ports=80 shows=10.0.0.0",
			why: `address 10.0.0.0 is held by service shop/web, and both use TCP port 80: use different ports, or ask for another address`},
		{then: "mail is of another namespace, and comes through", adopt: "blog/mail share=k ports=25 shows=10.0.0.0", addrs: "10.0.0.0"},
		{then: "dns collides with mail only", adopt: "shop/dns share=k ports=53,25 shows=10.0.0.0",
			why: `address 10.0.0.0 is held by a Service of another namespace, and both use TCP port 25: use different ports, or ask for another address`},
		{then: "one has no key", adopt: "shop/one ports=1 shows=10.0.0.1", addrs: "10.0.0.1"},
		{then: "nor has two", adopt: "shop/two ports=2 shows=10.0.0.1", why: `address 10.0.0.1 is held by service shop/one: ask for another, or delete that Service`},
		{then: "three has, and stays", adopt: "shop/three share=k ports=3 shows=10.0.0.1", addrs: "10.0.0.1"},
		{then: "it does not share as it should", ask: "shop/three share=k ports=3", addrs: "10.0.0.1",
			why: `address 10.0.0.1 is held by service shop/one, which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip`},
		{then: "api gets another", ask: "shop/api share=k ports=80", addrs: "10.0.0.2"},
		{then: "of two addresses, one may be in use", adopt: "shop/both families=64 shows=fd00::3,10.0.0.1", addrs: "fd00::3",
			why: `address 10.0.0.1 is held by service shop/one: ask for another, or delete that Service`},
		{then: "it gets another beside", ask: "shop/both families=64", addrs: "fd00::3,10.0.0.3"},
		{then: "of two in one family, the first counts", adopt: "shop/many families=46 shows=fd00::1,fd00::2", addrs: "fd00::1"},
		{then: "who shows nothing keeps what it has", adopt: "shop/one ports=1", addrs: "10.0.0.1"},
		{then: "and so does who shows what another has", adopt: "shop/one ports=1 shows=10.0.0.3", addrs: "10.0.0.1",
			why: `address 10.0.0.3 is held by service shop/both: ask for another, or delete that Service`},
	})
}

func TestServicesHaveOneAddressOfEachFamilyTheyWant(t *testing.T) {
	const noIPv6 = `pool "a" has no free IPv6 address beside 10.0.0.0: add some to it, or ask for another pool`
	tell(t, []step{
		{then: "three pools have one family, or both", configure: "a 10.0.0.0/31; b fd01::/127; c 10.0.2.0/31,fd02::/127"},
		{then: "IPv4", ask: "shop/four", addrs: "10.0.0.0", from: "a"},
		{then: "IPv6", ask: "shop/six families=6", addrs: "fd01::", from: "b"},
		{then: "both come from one pool", ask: "shop/both families=46 require", addrs: "10.0.2.0,fd02::", from: "c"},
		{then: "in the order of the Service", ask: "shop/both families=64 require", addrs: "fd02::,10.0.2.0", from: "c"},
		{then: "also if as many as there are will do", ask: "shop/prefers families=64", addrs: "fd02::1,10.0.2.1", from: "c"},
		{then: "no pool has both any more", ask: "shop/needs families=46 require",
			why: `no free IPv4 and IPv6 address in one of the pools "a", "b", "c": add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack`},
		{then: "who needs not gets the first of its families", ask: "shop/one families=64", addrs: "fd01::1", from: "b"},
		{then: "the other one otherwise", ask: "shop/two families=64", addrs: "10.0.0.1", from: "a"},
		{then: "no IPv6 is left", ask: "shop/late families=6",
			why: `no free IPv6 address in one of the pools "a", "b", "c": add addresses, or delete a Service that holds one`},
		{then: "nor anything", ask: "shop/late families=46",
			why: `no free address in one of the pools "a", "b", "c": add addresses, or delete a Service that holds one`},
		{then: "a pool has none at all", ask: "shop/late families=6 pool=a", why: `there is no IPv6 address in pool "a": add some, or change spec.ipFamilies`},
		{then: "another has none left", ask: "shop/late families=6 pool=b", why: `pool "b" has no free IPv6 address: add addresses to it, or delete a Service that holds one`},
		{then: "and the third", ask: "shop/late families=46 require pool=c",
			why: `no free IPv4 and IPv6 address in pool "c": add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack`},

		{then: "both goes", release: "shop/both", also: "left fd02::,10.0.2.0"},
		{then: "an address that is held does not move: one keeps its own, although there is a pool with both", ask: "shop/one families=64", addrs: "fd01::1"},
		{then: "who asks for that pool gets them", ask: "shop/one families=64 pool=c", addrs: "fd02::,10.0.2.0", also: "left fd01::1"},
		{then: "prefers wants one family only", ask: "shop/prefers families=4", addrs: "10.0.2.1", also: "left fd02::1"},
		{then: "and both again", ask: "shop/prefers families=46", addrs: "10.0.2.1,fd02::1"},
		{then: "one wants the other family instead", ask: "shop/one families=4 pool=c", addrs: "10.0.2.0", also: "left fd02::"},
		{then: "four wants IPv6 instead, which is elsewhere", ask: "shop/four families=6", addrs: "fd01::1", from: "b", also: "left 10.0.0.0"},
	})
	tell(t, []step{
		{then: "a pool has IPv4 only", configure: "a 10.0.0.0/30; b 10.0.1.0/30,fd01::/126"},
		{then: "web is there", ask: "shop/web", addrs: "10.0.0.0"},
		{then: "it wants both, and its pool has no other", ask: "shop/web families=46", addrs: "10.0.0.0"},
		{then: "it insists", ask: "shop/web families=46 require", addrs: "10.0.0.0", why: noIPv6},
		{then: "the pool gets some, which another takes", configure: "a 10.0.0.0/30,fd00::/128; b 10.0.1.0/30,fd01::/126"},
		{then: "taken", ask: "shop/six families=6", addrs: "fd00::"},
		{then: "it still has none free", ask: "shop/web families=46 require", addrs: "10.0.0.0", why: noIPv6},
		{then: "but could have one later", ask: "shop/web families=46", addrs: "10.0.0.0", also: "more"},
		{then: "six goes", release: "shop/six", also: "left fd00::"},
		{then: "web is complete", ask: "shop/web families=46 require", addrs: "10.0.0.0,fd00::"},
		{then: "it needs less", ask: "shop/web families=46", addrs: "10.0.0.0,fd00::"},
		{then: "the other first", ask: "shop/web families=64", addrs: "fd00::,10.0.0.0"},
		{then: "an impossible request moves nothing", ask: "shop/web families=46 pool=d", addrs: "10.0.0.0,fd00::",
			why: `no pool is named "d": ask for one of the pools "a", "b"`},
		{then: "but what it needs no more", ask: "shop/web families=6 pool=d", addrs: "fd00::", also: "left 10.0.0.0",
			why: `no pool is named "d": ask for one of the pools "a", "b"`},
		{then: "it needs both again", ask: "shop/web families=46 want=10.0.0.0", addrs: "10.0.0.0,fd00::"},
		{then: "the operator draws the pools anew", configure: "b 10.0.0.0/30; a fd00::/126"},
		{then: "both stay, of two pools", ask: "shop/web families=46 require", addrs: "10.0.0.0,fd00::"},
		{then: "also by name", ask: "shop/web families=46 require want=10.0.0.0", addrs: "10.0.0.0,fd00::"},
		{then: "and the other", ask: "shop/web families=46 require want=fd00::", addrs: "10.0.0.0,fd00::"},
		{then: "and both", ask: "shop/web families=46 require want=10.0.0.0,fd00::", addrs: "10.0.0.0,fd00::"},
		{then: "also after a restart", adopt: "shop/web families=46 require want=10.0.0.0,fd00:: shows=10.0.0.0,fd00::", addrs: "10.0.0.0,fd00::"},
		{then: "they stay", ask: "shop/web families=46 require want=10.0.0.0", addrs: "10.0.0.0,fd00::"},
		{then: "no pool owns what it holds", configure: "other 10.9.0.0/30,fd09::/126"},
		{then: "it stays nevertheless", ask: "shop/web families=46 require want=10.0.0.0", addrs: "10.0.0.0,fd00::"},
		{then: "if it gives one up", ask: "shop/web families=4", addrs: "10.0.0.0", also: "left fd00::"},
		{then: "none comes in its place", ask: "shop/web families=46", addrs: "10.0.0.0"},
		{then: "and it is told so", ask: "shop/web families=46 require", addrs: "10.0.0.0",
			why: `no pool owns address 10.0.0.0, and so none has an IPv6 address beside it: add it to a pool that has both`},
		{then: "a pool owns it that is for others", configure: "a 10.0.0.0/30,fd00::/126 namespaces=blog"},
		{then: "it gets no other of that", ask: "shop/web families=46 require", addrs: "10.0.0.0",
			why: `pool "a" is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "and would not get one if there were more", ask: "shop/web families=46", addrs: "10.0.0.0"},
	})
}

func TestServicesAskForAddressesOfBothFamilies(t *testing.T) {
	tell(t, []step{
		{then: "there are two pools", configure: "a 10.0.0.0/30,fd00::/126; b 10.0.1.0/30,fd01::/126; four 10.0.2.0/30"},
		{then: "both by name, in the order of the families", ask: "shop/web families=46 want=fd00::2,10.0.0.2", addrs: "10.0.0.2,fd00::2"},
		{then: "one by name, the other from its pool", ask: "shop/api families=64 want=10.0.1.2", addrs: "fd01::,10.0.1.2", from: "b"},
		{then: "two pools will not do", ask: "shop/cart families=46 want=10.0.0.3,fd01::3",
			why: `address 10.0.0.3 belongs to pool "a", and fd01::3 to pool "b": ask for two of one pool`},
		{then: "one of them is in use", ask: "shop/cart families=46 want=10.0.0.3,fd00::2",
			why: `address fd00::2 is held by service shop/web: ask for another, or delete that Service`},
		{then: "the pool has no other family", ask: "shop/cart families=46 want=10.0.2.3", addrs: "10.0.2.3"},
		{then: "which it must", ask: "shop/cart families=46 require want=10.0.2.3", addrs: "10.0.2.3",
			why: `pool "four" has no free IPv6 address beside 10.0.2.3: add some to it, or ask for another pool`},
		{then: "nor does it give anything to one that is new", ask: "shop/mail families=46 require want=10.0.2.1",
			why: `pool "four" has no free IPv6 address beside 10.0.2.1: add some to it, or ask for another pool`},
		{then: "api asks for another of the same pool: the other stays", ask: "shop/api families=64 want=10.0.1.3", addrs: "fd01::,10.0.1.3", also: "left 10.0.1.2"},
		{then: "for one of another pool: both move", ask: "shop/api families=64 want=10.0.0.0", addrs: "fd00::,10.0.0.0", also: "left fd01::,10.0.1.3"},
		{then: "for one of a pool that has no other", ask: "shop/api families=64 require want=10.0.2.0", addrs: "fd00::,10.0.0.0",
			why: `pool "four" has no free IPv6 address beside 10.0.2.0: add some to it, or ask for another pool`},
		{then: "for the one it has", ask: "shop/api families=64 want=fd00::", addrs: "fd00::,10.0.0.0"},
		{then: "and pool and address must agree", ask: "shop/mail families=46 want=fd00::3 pool=b",
			why: `address fd00::3 belongs to pool "a", and the Service asks for pool "b": change one of the two`},
		{then: "as they do here", ask: "shop/mail families=46 want=fd01::3 pool=b", addrs: "10.0.1.0,fd01::3"},
	})
}

func TestSharersOfBothFamilies(t *testing.T) {
	tell(t, []step{
		{then: "there are two pools", configure: "four 10.0.1.0/30; a 10.0.0.0/31,fd00::/127"},
		{then: "web has both", ask: "shop/web share=k ports=80 families=46", addrs: "10.0.0.0,fd00::"},
		{then: "mail joins both", ask: "shop/mail share=k ports=25 families=64", addrs: "fd00::,10.0.0.0"},
		{then: "dns joins one", ask: "shop/dns share=k ports=53 families=6", addrs: "fd00::"},
		{then: "which makes its port a hindrance there only", ask: "shop/dns-too share=k ports=53 families=46", addrs: "10.0.0.0,fd00::1"},
		{then: "company in one family brings the other along", ask: "shop/more share=k ports=54 families=46 require", addrs: "10.0.0.0,fd00::"},
		{then: "more opens a port that web and mail use", ask: "shop/more share=k ports=80,25 families=46", addrs: "10.0.0.1,fd00::1", also: "left 10.0.0.0,fd00::",
			conflict: `address 10.0.0.0 is held by service shop/web, and both use TCP port 80: use different ports, or ask for another address`},
		{then: "mail opens the port of dns, which is younger, and keeps both", ask: "shop/mail share=k ports=53 families=64", addrs: "fd00::,10.0.0.0", lose: "shop/dns shop/dns-too"},
		{then: "dns has nowhere to go", serve: "shop/dns",
			why:      `no free IPv6 address in one of the pools "four", "a": add addresses, or delete a Service that holds one`,
			conflict: `address fd00:: is held by service shop/mail, and both use TCP port 53: use different ports, or ask for another address`},
	})
}
