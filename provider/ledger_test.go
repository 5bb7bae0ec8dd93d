package provider

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A step of a story does one thing to a ledger, and says what comes of it.
type step struct {
	then string

	adopt     string // Services, separated by semicolons
	conflicts string // names of those that lose their address

	configure string // pools in short
	forget    string // the Service
	changed   string // names of the Services for which the answer changed

	ask   string // the service controller asks about the Service
	addr  string // that it holds then
	why   string // it does not get what it asks for
	news  bool
	moved string // the address that it left; those that wait are served

	see   string // an event about the Service
	again bool   // the service controller should look at it
}

// configure puts other pools in force.
func (l *ledger) configure(config *loadbalancer.Config, givenUp *netipx.IPSet) {
	l.allocator.Configure(config, givenUp)
}

// serve is serveWhile until nothing is left to do.
func (l *ledger) serve() []*corev1.Service {
	changed, _ := l.serveWhile(func() bool { return true })
	return changed
}

func tell(t *testing.T, story []step) {
	t.Helper()
	l := newLedger()
	for i, s := range story {
		switch {
		case s.adopt != "":
			var conflicts []string
			var ours, others []*corev1.Service
			for _, svc := range listed(t, s.adopt) {
				if seen := (&view{ours: service.Ours{}}).of(svc); seen != nil {
					ours = append(ours, seen)
				} else {
					others = append(others, svc)
				}
			}
			for _, c := range l.adopt(ours, others, time.Time{}) {
				conflicts = append(conflicts, service.Name(c.service))
			}
			if got := strings.Join(conflicts, " "); got != s.conflicts {
				t.Errorf("%s: conflicts %q, want %q", s.then, got, s.conflicts)
			}
		case s.configure != "":
			l.configure(pools(t, s.configure), nil)
			if got := names(l.serve()); got != s.changed {
				t.Errorf("%s: changed %q, want %q", s.then, got, s.changed)
			}
		case s.forget != "":
			l.forget(aService(t, s.forget).UID)
			if got := names(l.serve()); got != s.changed {
				t.Errorf("%s: changed %q, want %q", s.then, got, s.changed)
			}
		case s.ask != "":
			d := l.answer(aService(t, s.ask))
			if shown(d.Addrs) != s.addr || d.Why.String() != s.why || d.news != s.news || shown(d.left()) != s.moved {
				t.Errorf("%s: got %q, %q, news %t, moved from %q, want %q, %q, %t, %q",
					s.then, shown(d.Addrs), d.Why.String(), d.news, shown(d.left()), s.addr, s.why, s.news, s.moved)
			}
			if got := names(l.serve()); got != s.changed {
				t.Errorf("%s: changed %q, want %q", s.then, got, s.changed)
			}
		case s.see != "":
			if again := l.see(aService(t, s.see), time.Unix(0, 0).Add(time.Duration(i)*time.Hour)).again; again != s.again {
				t.Errorf("%s: again %t, want %t", s.then, again, s.again)
			}
		default:
			t.Fatalf("%s: nothing happens", s.then)
		}
		if err := l.inconsistency(); err != nil {
			t.Fatalf("%s: %v", s.then, err)
		}
	}
}

// inconsistency returns what of the ledger disagrees with itself.
func (l *ledger) inconsistency() error {
	for uid, e := range l.entries {
		g, _ := l.allocator.Check(e.wanted)
		waits := l.allocator.Waits(string(uid))
		switch {
		case waits && !wants(e.service):
			return fmt.Errorf("%s waits and wants nothing", uid)
		case waits && g.Why.None() && !g.More && e.told.why.None() && e.told.asked:
			return fmt.Errorf("%s waits, has no reason to and was told none", uid)
		case !e.told.why.None() && wants(e.service) && !waits:
			return fmt.Errorf("%s was told %q and does not wait", uid, e.told.why)
		}
	}
	for _, h := range l.allocator.Holdings() {
		for _, holder := range l.allocator.Holders(h.Addr) {
			if l.entries[types.UID(holder.UID)] == nil {
				return fmt.Errorf("%s is held by %s, which is not in the ledger", h.Addr, holder.UID)
			}
		}
	}
	return nil
}

func TestEveryAddressStaysWhereAStatusShowsIt(t *testing.T) {
	tell(t, []step{
		{then: "there are two pools", configure: "vip 10.0.0.0/30; manual 10.9.0.0/30 manual"},
		{then: "the cluster is as it is", adopt: "shop/web shows=10.0.0.3 age=1; shop/api shows=192.0.2.1 age=2; shop/new age=3; other/web shows=192.0.2.7 class=example.com/lb; shop/gone type=ClusterIP"},
		{then: "web keeps what it shows, and that is no news", ask: "shop/web shows=10.0.0.3", addr: "10.0.0.3"},
		{then: "api keeps an address that no pool owns", ask: "shop/api shows=192.0.2.1", addr: "192.0.2.1"},
		{then: "web's status is old: memory knows better", ask: "shop/web", addr: "10.0.0.3"},
		{then: "web's status shows another's: memory knows better", ask: "shop/web shows=10.0.0.1", addr: "10.0.0.3"},
		{then: "the new one was served at the start, and hears of it now", ask: "shop/new", addr: "10.0.0.0", news: true},
		{then: "once", ask: "shop/new shows=10.0.0.0", addr: "10.0.0.0"},
	})
}

func TestOfTwoOnOneAddressTheOlderKeepsIt(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "two show one address", adopt: "shop/young shows=10.0.0.1 age=1; shop/old shows=10.0.0.1 age=9", conflicts: "shop/young"},
		{then: "the older keeps it", ask: "shop/old shows=10.0.0.1", addr: "10.0.0.1"},
		{then: "the younger gets another", ask: "shop/young shows=10.0.0.1", addr: "10.0.0.0", news: true},
	})
	tell(t, []step{
		{then: "there is a pool of one", configure: "vip 10.0.0.1/32"},
		{then: "two show its address", adopt: "shop/young shows=10.0.0.1 age=1; shop/old shows=10.0.0.1 age=9", conflicts: "shop/young"},
		{then: "the younger must not show it any more", ask: "shop/young shows=10.0.0.1"},
		{then: "the empty status brings it back", see: "shop/young", again: true},
		{then: "and then it hears why", ask: "shop/young", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
		{then: "nothing happens", see: "shop/young"},
		{then: "the older goes", forget: "shop/old", changed: "shop/young"},
		{then: "and the younger gets it", ask: "shop/young", addr: "10.0.0.1", news: true},
	})
}

func TestAddressesAskedForByNameAreReservedFirst(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "an older one takes any, a younger one asks for the first", adopt: "shop/any age=9; shop/one want=10.0.0.0 age=1; shop/other want-annotation=10.0.0.1 age=2"},
		{then: "the older asks first", ask: "shop/any", addr: "10.0.0.2", news: true},
		{then: "and the younger has what it wants", ask: "shop/one want=10.0.0.0", addr: "10.0.0.0", news: true},
		{then: "so has the other", ask: "shop/other want-annotation=10.0.0.1", addr: "10.0.0.1", news: true},
	})
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "two ask for one address", adopt: "shop/young want=10.0.0.0 age=1; shop/old want=10.0.0.0 age=2"},
		{then: "the older gets it", ask: "shop/old want=10.0.0.0", addr: "10.0.0.0", news: true},
		{then: "the younger hears who has it", ask: "shop/young want=10.0.0.0",
			why: "address 10.0.0.0 is held by service shop/old: ask for another, or delete that Service"},
	})
}

func TestWhoWaitsIsServedInOrderAndOnlyAsManyAsFit(t *testing.T) {
	full := `no free address in pool "vip": add addresses, or delete a Service that holds one`
	tell(t, []step{
		{then: "nothing is configured", ask: "shop/a age=9", why: "no address pool is configured: add one to address-pools"},
		{then: "nor for the others", ask: "shop/b age=8", why: "no address pool is configured: add one to address-pools"},
		{then: "nor for those with a wish", ask: "shop/c age=7 want=10.0.0.0", why: "no pool owns address 10.0.0.0: ask for an address of a pool that exists, or add it to a pool"},
		{then: "the operator adds two addresses: one by name, one for the oldest, and the last hears another reason", configure: "vip 10.0.0.0/31", changed: "shop/c shop/a shop/b"},
		{then: "c has its wish", ask: "shop/c age=7 want=10.0.0.0", addr: "10.0.0.0", news: true},
		{then: "a has the other", ask: "shop/a age=9", addr: "10.0.0.1", news: true},
		{then: "b waits", ask: "shop/b age=8", why: full},
		{then: "so does d", ask: "shop/d age=6", why: full},
		{then: "the order of the questions does not matter", ask: "shop/e age=9", why: full},
		{then: "a goes, and the oldest is next", forget: "shop/a", changed: "shop/e"},
		{then: "it hears of it", ask: "shop/e age=9", addr: "10.0.0.1", news: true},
		{then: "a Service that waits goes, and nothing changes", forget: "shop/d"},
		{then: "c goes", forget: "shop/c", changed: "shop/b"},
		{then: "the first wait is over", ask: "shop/b age=8", addr: "10.0.0.0", news: true},
	})
}

func TestARequestThatCannotBeMetKeepsTheAddress(t *testing.T) {
	none := `no pool owns address 8.8.8.8: ask for an address of pool "vip", or add it to a pool`
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "web gets an address", ask: "shop/web", addr: "10.0.0.0", news: true},
		{then: "and shows it", see: "shop/web shows=10.0.0.0"},
		{then: "web asks for the impossible: the controller sees it too, but a label would do as well", see: "shop/web shows=10.0.0.0 want=8.8.8.8", again: true},
		{then: "it keeps the address, and hears why", ask: "shop/web shows=10.0.0.0 want=8.8.8.8", addr: "10.0.0.0", why: none},
		{then: "in the same words again", ask: "shop/web shows=10.0.0.0 want=8.8.8.8", addr: "10.0.0.0", why: none},
		{then: "an event changes nothing", see: "shop/web shows=10.0.0.0 want=8.8.8.8"},
		{then: "somebody wipes the status as well", see: "shop/web want=8.8.8.8", again: true},
		{then: "first the status is mended, which an error would prevent", ask: "shop/web want=8.8.8.8", addr: "10.0.0.0"},
		{then: "the mended status brings it back", see: "shop/web shows=10.0.0.0 want=8.8.8.8", again: true},
		{then: "then it hears why, again", ask: "shop/web shows=10.0.0.0 want=8.8.8.8", addr: "10.0.0.0", why: none},
		{then: "and it is quiet", see: "shop/web shows=10.0.0.0 want=8.8.8.8"},
		{then: "the wish becomes possible", configure: "vip 10.0.0.0/30; other 8.8.8.0/24", changed: "shop/web"},
		{then: "it is met", ask: "shop/web shows=10.0.0.0 want=8.8.8.8", addr: "8.8.8.8", news: true, moved: "10.0.0.0"},
		{then: "the old status is not somebody's doing", see: "shop/web shows=10.0.0.0 want=8.8.8.8"},
		{then: "the new one is as it should be", see: "shop/web shows=8.8.8.8 want=8.8.8.8"},
	})
}

func TestAnOfferOfAnotherPoolMovesOnlyWhoAsksForIt(t *testing.T) {
	tell(t, []step{
		{then: "there are two pools", configure: "vip 10.0.0.0/31; sandbox 10.1.0.0/31"},
		{then: "web takes any", ask: "shop/web", addr: "10.0.0.0", news: true},
		{then: "web asks for the other pool, and leaves its address", ask: "shop/web shows=10.0.0.0 pool=sandbox", addr: "10.1.0.0", news: true, moved: "10.0.0.0"},
		{then: "web asks for a pool that is not there, and keeps the address", ask: "shop/web shows=10.1.0.0 pool=moon", addr: "10.1.0.0",
			why: `no pool is named "moon": ask for one of the pools "vip", "sandbox"`},
		{then: "web takes it back", ask: "shop/web shows=10.1.0.0 pool=sandbox", addr: "10.1.0.0"},
		{then: "web wants what the pool cannot give, and keeps the address", ask: "shop/web shows=10.1.0.0 families=46 require", addr: "10.1.0.0",
			why: `pool "sandbox" has no free IPv6 address beside 10.1.0.0: add some to it, or ask for another pool`},
	})
}

func TestAnAddressThatAServiceLeavesServesWhoWaits(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool of one, and one on request", configure: "vip 10.0.0.0/32; rest 10.1.0.0/31 manual"},
		{then: "web has it", ask: "shop/web", addr: "10.0.0.0", news: true},
		{then: "api waits", ask: "shop/api", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
		{then: "web asks for another, and api is served", ask: "shop/web shows=10.0.0.0 want=10.1.0.0", addr: "10.1.0.0", news: true, moved: "10.0.0.0", changed: "shop/api"},
		{then: "api has it", ask: "shop/api", addr: "10.0.0.0", news: true},
	})
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/31"},
		{then: "a has one", ask: "shop/a age=9", addr: "10.0.0.0", news: true},
		{then: "b has the other", ask: "shop/b age=1", addr: "10.0.0.1", news: true},
		{then: "c, which is older than b, asks for b's", ask: "shop/c want=10.0.0.1 age=5",
			why: "address 10.0.0.1 is held by service shop/b: ask for another, or delete that Service"},
		{then: "b asks for a's", ask: "shop/b shows=10.0.0.1 want=10.0.0.0 age=1", addr: "10.0.0.1",
			why: "address 10.0.0.0 is held by service shop/a: ask for another, or delete that Service"},
		{then: "a goes: b moves, and what b left is c's", forget: "shop/a", changed: "shop/b shop/c"},
		{then: "b moved", ask: "shop/b shows=10.0.0.1 want=10.0.0.0", addr: "10.0.0.0", news: true, moved: "10.0.0.1"},
		{then: "c is served", ask: "shop/c want=10.0.0.1", addr: "10.0.0.1", news: true},
	})
}

func TestSharersStayTogetherOverARestartAndMakeRoomForEachOther(t *testing.T) {
	taken := `address 10.0.0.0 is held by service shop/web, and both use TCP port 80: use different ports, or ask for another address`
	full := `no free address in pool "vip": add addresses, or delete a Service that holds one`
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/31"},
		{then: "three show one address: the third uses web's port", adopt: "shop/web shows=10.0.0.0 share=k port=80 age=3; farm/mail shows=10.0.0.0 share=k port=25 age=2; shop/www shows=10.0.0.0 share=k port=80 age=1", conflicts: "shop/www"},
		{then: "web keeps it", ask: "shop/web shows=10.0.0.0 share=k port=80 age=3", addr: "10.0.0.0"},
		{then: "so does mail, of another namespace", ask: "farm/mail shows=10.0.0.0 share=k port=25 age=2", addr: "10.0.0.0"},
		{then: "www gets another", ask: "shop/www shows=10.0.0.0 share=k port=80 age=1", addr: "10.0.0.1", news: true},
		{then: "dns joins that, and not mail of the other namespace", ask: "shop/dns share=k port=53", addr: "10.0.0.1", news: true},
	})
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/31"},
		{then: "two share", adopt: "shop/web shows=10.0.0.0 share=k port=80 age=4; shop/mail shows=10.0.0.0 share=k port=25 age=3"},
		{then: "web keeps it", ask: "shop/web shows=10.0.0.0 share=k port=80 age=4", addr: "10.0.0.0"},
		{then: "so does mail", ask: "shop/mail shows=10.0.0.0 share=k port=25 age=3", addr: "10.0.0.0"},
		{then: "dns joins", ask: "shop/dns share=k port=53 age=2", addr: "10.0.0.0", news: true},
		{then: "www shares with nobody", ask: "shop/www port=80 age=1", addr: "10.0.0.1", news: true},
		{then: "api asks for a port that is taken", ask: "shop/api want=10.0.0.0 share=k port=80", why: taken},
		{then: "web takes another port, and api is served", ask: "shop/web shows=10.0.0.0 share=k port=81 age=4", addr: "10.0.0.0", changed: "shop/api"},
		{then: "api has it", ask: "shop/api want=10.0.0.0 share=k port=80", addr: "10.0.0.0", news: true},
		{then: "dns takes api's port, and must go where none is free", ask: "shop/dns shows=10.0.0.0 share=k port=80 age=2", moved: "10.0.0.0"},
		{then: "its status is empty", see: "shop/dns share=k port=80 age=2", again: true},
		{then: "and it hears why", ask: "shop/dns share=k port=80 age=2", why: full},
		{then: "mail drops its key, and stays with a remark", ask: "shop/mail shows=10.0.0.0 port=25 age=3", addr: "10.0.0.0", why: full},
		{then: "www goes, and dns is served, which has none: mail is older, and would only like one without company", forget: "shop/www", changed: "shop/dns"},
		{then: "dns has it", ask: "shop/dns share=k port=80 age=2", addr: "10.0.0.1", news: true},
		{then: "dns goes, and now mail is served", forget: "shop/dns", changed: "shop/mail"},
		{then: "it moves", ask: "shop/mail shows=10.0.0.0 port=25 age=3", addr: "10.0.0.1", news: true, moved: "10.0.0.0"},
	})
}

func TestASharersOtherPolicyCostsNobodyTheAddress(t *testing.T) {
	other := "address 10.0.0.0 is held by service shop/web, whose externalTrafficPolicy is another: give both the same, or ask for another address"
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "web has an address", ask: "shop/web age=9 share=k port=80 local=x", addr: "10.0.0.0", news: true},
		{then: "api shares it", ask: "shop/api age=1 share=k port=81 local=x", addr: "10.0.0.0", news: true},
		{then: "api's policy changes: it stays and hears of it", ask: "shop/api age=1 share=k port=81 shows=10.0.0.0", addr: "10.0.0.0", why: other},
		{then: "web is older, and hears nothing", ask: "shop/web age=9 share=k port=80 local=x shows=10.0.0.0", addr: "10.0.0.0"},
		{then: "web follows, and api is told", ask: "shop/web age=9 share=k port=80 shows=10.0.0.0", addr: "10.0.0.0", changed: "shop/api"},
		{then: "all is well", ask: "shop/api age=1 share=k port=81 shows=10.0.0.0", addr: "10.0.0.0"},
		{then: "web's is Local again, and api is told", ask: "shop/web age=9 share=k port=80 local=x shows=10.0.0.0", addr: "10.0.0.0", changed: "shop/api"},
		{then: "it hears of it", ask: "shop/api age=1 share=k port=81 shows=10.0.0.0", addr: "10.0.0.0", why: other},
		{then: "api's is, too, with other pods", ask: "shop/api age=1 share=k port=81 local=y shows=10.0.0.0", addr: "10.0.0.0",
			why: "address 10.0.0.0 is held by service shop/web, whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address"},
		{then: "a selector is nothing that the service controller looks at", see: "shop/api age=1 share=k port=81 local=x shows=10.0.0.0", again: true},
		{then: "api selects the same", ask: "shop/api age=1 share=k port=81 local=x shows=10.0.0.0", addr: "10.0.0.0"},
		{then: "all is well again", ask: "shop/web age=9 share=k port=80 local=x shows=10.0.0.0", addr: "10.0.0.0"},
	})
}

func TestTwoFamiliesComeFromOnePool(t *testing.T) {
	tell(t, []step{
		{then: "one pool has both", configure: "four 10.0.0.0/30; both 10.1.0.0/30,fd00::/127"},
		{then: "web needs both", ask: "shop/web families=46 require", addr: "10.1.0.0,fd00::", news: true},
		{then: "api would like both, IPv6 first", ask: "shop/api families=64 prefer", addr: "fd00::1,10.1.0.1", news: true},
		{then: "blog would like both, and gets what there is", ask: "shop/blog families=46 prefer", addr: "10.0.0.0", news: true},
		{then: "mail too, of that pool", ask: "shop/mail families=46 prefer pool=both", addr: "10.1.0.2", news: true},
		{then: "shop needs both", ask: "shop/shop families=46 require", why: `no free IPv4 and IPv6 address in one of the pools "four", "both": add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack`},
		{then: "six needs IPv6", ask: "shop/six families=6", why: `no free IPv6 address in one of the pools "four", "both": add addresses, or delete a Service that holds one`},
		{then: "shop is content with one after all, to which the service controller is deaf", see: "shop/shop families=46 prefer", again: true},
		{then: "and gets it", ask: "shop/shop families=46 prefer", addr: "10.0.0.1", news: true},
		{then: "web goes: six, which has nothing, comes before mail, which has one", forget: "shop/web", changed: "shop/six"},
		{then: "six has it", ask: "shop/six families=6", addr: "fd00::", news: true},
		{then: "api goes: the second address of its pool is mail's", forget: "shop/api", changed: "shop/mail"},
		{then: "mail has both", ask: "shop/mail families=46 prefer pool=both shows=10.1.0.2", addr: "10.1.0.2,fd00::1", news: true},
		{then: "mail needs only one", ask: "shop/mail families=4 pool=both shows=10.1.0.2,fd00::1", addr: "10.1.0.2", moved: "fd00::1"},
	})
}

func TestAPoolIsForThoseThatItsOperatorNamed(t *testing.T) {
	tell(t, []step{
		{then: "one pool is for gold, one for the farm", configure: "gold 10.0.0.0/30 tier=gold; farm 10.1.0.0/30 namespace=farm"},
		{then: "neither is for web", ask: "shop/web", why: `no pool is for this Service: change its labels, or let it into pool "gold" by namespaces or service-selectors`},
		{then: "also by name", ask: "shop/api pool=farm", why: `pool "farm" is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "also by address", ask: "shop/ftp want=10.1.0.1", why: `address 10.1.0.1 belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "the farm's own is served", ask: "farm/web", addr: "10.1.0.0", news: true},
		{then: "a label makes the difference", see: "shop/web label=gold", again: true},
		{then: "web is served", ask: "shop/web label=gold", addr: "10.0.0.0", news: true},
		{then: "it is there", see: "shop/web label=gold shows=10.0.0.0"},
		{then: "without the label it stays where it is", see: "shop/web shows=10.0.0.0"},
		{then: "asked again, too", ask: "shop/web shows=10.0.0.0", addr: "10.0.0.0"},
		{then: "the operator opens the farm", configure: "gold 10.0.0.0/30 tier=gold; farm 10.1.0.0/30", changed: "shop/ftp shop/api"},
		{then: "ftp has what it wants", ask: "shop/ftp want=10.1.0.1", addr: "10.1.0.1", news: true},
	})
}

// What pools there are for others is none of a tenant's business.
func TestTenantsLearnTheNamesOfTheirOwnPoolsOnly(t *testing.T) {
	const two = "farm 10.1.0.0/32 namespace=farm; barn 10.2.0.0/32 namespace=farm; shop 10.3.0.0/32 namespace=shop"
	tell(t, []step{
		{then: "two pools are the farm's, and one the shop's", configure: two},
		{then: "a pool that is not there", ask: "shop/a pool=moon", why: `no pool is named "moon": ask for pool "shop"`},
		{then: "the farm asks for it, too, and hears of its own", ask: "farm/a pool=moon", why: `no pool is named "moon": ask for one of the pools "farm", "barn"`},
		{then: "for a third there is none", ask: "zoo/a pool=moon", why: `no pool is named "moon": ask for a pool that exists`},
		{then: "an address of no pool", ask: "shop/b want=8.8.8.8", why: `no pool owns address 8.8.8.8: ask for an address of pool "shop", or add it to a pool`},
		{then: "an address of the farm's", ask: "shop/c want=10.1.0.0", why: `address 10.1.0.0 belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "and of its own pool besides", ask: "shop/d want=10.1.0.0 pool=shop", why: `address 10.1.0.0 belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors`},
		{then: "one of the shop's that is not the pool it asks for", ask: "shop/e want=10.3.0.0 pool=farm", why: `address 10.3.0.0 belongs to pool "shop", and the Service asks for pool "farm": change one of the two`},
		{then: "any address", ask: "zoo/b", why: `no pool is for this Service: change its labels, or let it into a pool that exists by namespaces or service-selectors`},
		{then: "the shop's, which one wanted that hears of it", ask: "shop/f", addr: "10.3.0.0", news: true, changed: "shop/e"},
		{then: "there is no more", ask: "shop/g", why: `no free address in pool "shop": add addresses, or delete a Service that holds one`},
		{then: "the farm's is drawn anew: who asked for that address hears so, and nobody else", configure: strings.Replace(two, "10.1.0.0/32", "10.1.0.2/32", 1), changed: "shop/c shop/d"},
		{then: "the shop's gets another name, and the shop hears it", configure: strings.Replace(two, "shop 10", "mall 10", 1), changed: "shop/b shop/c shop/d shop/a shop/g"},
		{then: "as it does", ask: "shop/a pool=moon", why: `no pool is named "moon": ask for pool "mall"`},
	})
}

func TestAChangedStatusIsSeenOnceItHadBeenShown(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "a new Service is seen before the controller asks", see: "shop/web"},
		{then: "its finalizer is", see: "shop/web finalizer"},
		{then: "it gets an address", ask: "shop/web finalizer", addr: "10.0.0.0", news: true},
		{then: "an event from before comes late", see: "shop/web finalizer"},
		{then: "the status is there", see: "shop/web finalizer shows=10.0.0.0"},
		{then: "somebody adds a label", see: "shop/web finalizer shows=10.0.0.0"},
		{then: "somebody wipes the status", see: "shop/web finalizer", again: true},
		{then: "another event, before it is mended", see: "shop/web finalizer"},
		{then: "the controller asks", ask: "shop/web finalizer", addr: "10.0.0.0"},
		{then: "it is mended", see: "shop/web finalizer shows=10.0.0.0"},
		{then: "somebody writes another address", see: "shop/web finalizer shows=10.0.0.3", again: true},
		{then: "the address stays", ask: "shop/web finalizer shows=10.0.0.3", addr: "10.0.0.0"},
		{then: "it is mended again", see: "shop/web finalizer shows=10.0.0.0"},
		{then: "somebody takes the mode away", see: "shop/web finalizer shows-without-mode=10.0.0.0", again: true},
	})
	tell(t, []step{
		{then: "there is a pool of one", configure: "vip 10.0.0.0/32"},
		{then: "it was shown before we came", adopt: "shop/web shows=10.0.0.0; shop/old shows-without-mode=192.0.2.1"},
		{then: "a wiped status is seen before the controller asks", see: "shop/web", again: true},
		{then: "one that was never as it should be is not news: the controller will ask", see: "shop/old shows-without-mode=192.0.2.1"},
		{then: "a Service waits", ask: "shop/late", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
		{then: "rightly without an address", see: "shop/late"},
		{then: "somebody writes one into its status", see: "shop/late shows=10.0.0.0", again: true},
		{then: "it goes first", ask: "shop/late shows=10.0.0.0"},
		{then: "the empty status brings it back", see: "shop/late", again: true},
		{then: "then it hears why", ask: "shop/late", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
	})
}

func TestAChangeOfTypeAndADeletionFreeTheAddress(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool of one", configure: "vip 10.0.0.0/32"},
		{then: "web has it", ask: "shop/web", addr: "10.0.0.0", news: true},
		{then: "api waits", ask: "shop/api want=10.0.0.0", why: "address 10.0.0.0 is held by service shop/web: ask for another, or delete that Service"},
		{then: "web becomes internal: the controller will call", see: "shop/web type=ClusterIP"},
		{then: "it calls", forget: "shop/web", changed: "shop/api"},
		{then: "api has it", ask: "shop/api want=10.0.0.0", addr: "10.0.0.0", news: true},
		{then: "web is back, and waits", ask: "shop/web", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
		{then: "api is being deleted: the controller will call", see: "shop/api want=10.0.0.0 deleted"},
		{then: "it calls", forget: "shop/api", changed: "shop/web"},
		{then: "web has it", ask: "shop/web", addr: "10.0.0.0", news: true},
		{then: "a new api is another Service", ask: "shop/api uid=2 want=10.0.0.0", why: "address 10.0.0.0 is held by service shop/web: ask for another, or delete that Service"},
		{then: "which is deleted while it waits", see: "shop/api uid=2 want=10.0.0.0 deleted"},
		{then: "so that nobody is served when web goes", forget: "shop/web"},
	})
}

func TestAServiceThatIsBeingDeletedGetsNoOtherAddress(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/31"},
		{then: "web has one", ask: "shop/web", addr: "10.0.0.0", news: true},
		{then: "api has the other", ask: "shop/api", addr: "10.0.0.1", news: true},
		{then: "web asks for api's", ask: "shop/web want=10.0.0.1 shows=10.0.0.0", addr: "10.0.0.0",
			why: "address 10.0.0.1 is held by service shop/api: ask for another, or delete that Service"},
		{then: "web is being deleted", see: "shop/web want=10.0.0.1 shows=10.0.0.0 deleted"},
		{then: "api goes first: web does not want it any more", forget: "shop/api"},
		{then: "and anybody may have it", ask: "shop/blog want=10.0.0.1", addr: "10.0.0.1", news: true},
	})
}

func TestAnOldStateNeverMovesAnAddress(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "the quorum has seen more than the informer", adopt: "shop/web shows=10.0.0.2 want=10.0.0.2 version=20"},
		{then: "which still shows the former wish", see: "shop/web shows=10.0.0.1 want=10.0.0.1 version=10"},
		{then: "and the controller asks about that", ask: "shop/web shows=10.0.0.1 want=10.0.0.1 version=10", addr: "10.0.0.2"},
		{then: "the informer comes closer", see: "shop/web version=11"},
		{then: "and is there", see: "shop/web shows=10.0.0.2 want=10.0.0.2 version=20"},
		{then: "the wish changes", ask: "shop/web shows=10.0.0.2 want=10.0.0.3 version=100", addr: "10.0.0.3", news: true, moved: "10.0.0.2"},
		{then: "our handler is behind", see: "shop/web shows=10.0.0.2 want=10.0.0.2 version=99"},
		{then: "and a free address is no reason to go back", configure: "vip 10.0.0.0/29"},
		{then: "it stays", ask: "shop/web shows=10.0.0.2 want=10.0.0.3 version=100", addr: "10.0.0.3"},
	})
	tell(t, []step{
		{then: "there is a pool of one", configure: "vip 10.0.0.0/32"},
		{then: "web has it", ask: "shop/web version=1", addr: "10.0.0.0", news: true},
		{then: "api, internal for a moment, asks again", ask: "shop/api version=9", why: `no free address in pool "vip": add addresses, or delete a Service that holds one`},
		{then: "our handler still sees the moment", see: "shop/api type=ClusterIP version=8"},
		{then: "api waits nevertheless", forget: "shop/web", changed: "shop/api"},
	})
}

func TestWhateverMadeAServiceWaitItIsAskedAboutAgain(t *testing.T) {
	tell(t, []step{
		{then: "there is a pool", configure: "vip 10.0.0.0/30"},
		{then: "web wants two addresses", ask: "shop/web families=46 require", why: `no free IPv4 and IPv6 address in pool "vip": add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack`},
		{then: "nothing changes", see: "shop/web families=46 require"},
		{then: "it wants something else, to which the service controller is deaf", see: "shop/web", again: true},
		{then: "it is served", ask: "shop/web", addr: "10.0.0.0", news: true},
	})
}

func TestWhoAsksBetweenTwoSlicesOvertakesNobody(t *testing.T) {
	const none = `no free address in pool "vip": add addresses, or delete a Service that holds one`
	l := newLedger()
	l.configure(pools(t, "vip 10.0.0.0/32"), nil)
	ask := func(short, addr, why string) (stirs bool) {
		t.Helper()
		d := l.answer(aService(t, short))
		if shown(d.Addrs) != addr || d.Why.String() != why {
			t.Errorf("%s: got %q, %q, want %q, %q", short, shown(d.Addrs), d.Why, addr, why)
		}
		return l.allocator.Stirs()
	}
	ask("shop/web", "10.0.0.0", "")
	ask("shop/old age=9", "", none)
	l.forget("shop/web")
	if !ask("shop/new age=1", "", "") {
		t.Error("nobody is to be served")
	}
	ask("shop/new age=1", "", "")
	if got := names(l.serve()); got != "shop/old shop/new" {
		t.Errorf("changed: %q", got)
	}
	ask("shop/old age=9", "10.0.0.0", "")
	ask("shop/new age=1", "", none)
	l.forget("shop/old")
	ask("shop/late age=0", "", "")
	ask("shop/new age=1", "10.0.0.0", "") // whose turn it is
	l.forget("shop/new")
	l.forget("shop/late")
	ask("shop/old age=9", "10.0.0.0", "")
	l.forget("shop/old")
	l.forget("shop/new")
	ask("shop/more", "10.0.0.0", "") // there is nobody to wait for
}

func TestWhatServicesOfOthersShowIsTaken(t *testing.T) {
	const other = "other/web class=example.com/lb"
	l := newLedger()
	l.configure(pools(t, "vip 10.0.0.0/30"), nil)
	l.adopt(listed(t, "shop/web shows=10.0.0.2"), listed(t, other+" shows=10.0.0.0,10.0.0.1,10.0.0.2,192.0.2.7; other/internal type=ClusterIP shows=10.0.0.3"), time.Time{})
	take := func(then, service, want string) {
		t.Helper()
		svc := aService(t, service)
		if d := l.answer(svc); shown(d.Addrs) != want {
			t.Errorf("%s: %s has %q, want %q", then, service, shown(d.Addrs), want)
		}
		for _, h := range l.allocator.Holdings() {
			if h.Service == "other/web" && len(l.ignored) > 0 {
				t.Errorf("%s: %v counts as ours", then, h)
			}
		}
	}
	take("two are taken, and one is web's", "shop/api", "10.0.0.3")
	take("web keeps what another shows", "shop/web shows=10.0.0.2", "10.0.0.2")
	take("there is no more", "shop/blog", "")
	l.forget("shop/web")
	l.serve()
	take("web goes, and the other still shows its address", "shop/blog", "")
	if l.ignore(aService(t, other+" shows=10.0.0.0,10.0.0.1,10.0.0.2,192.0.2.7")); l.allocator.Stirs() {
		t.Error("nothing changed, and something was freed")
	}
	if l.ignore(aService(t, other+" shows=10.0.0.0,10.0.0.1")); !l.allocator.Stirs() {
		t.Error("the other lets one go, and nothing is free")
	}
	l.serve()
	take("the other let one go", "shop/blog", "10.0.0.2")
	if l.see(aService(t, "other/web"), time.Time{}).again {
		t.Error("the service controller is about to ask, and is to ask again")
	}
	l.serve()
	take("the other becomes ours", "other/web", "10.0.0.0")
	take("what it showed is free", "shop/more", "10.0.0.1")
	if len(l.ignored) > 0 {
		t.Errorf("%d are ignored", len(l.ignored))
	}
}

func TestAdoptionDoesNotDependOnTheOrderOfTheList(t *testing.T) {
	services := listed(t, `shop/a shows=10.0.0.1 age=5; shop/b shows=10.0.0.1 age=5; shop/c shows=10.0.0.1 age=9; shop/d age=5;
		shop/e want=10.0.0.2 age=1; shop/f want=10.0.0.2 age=1; shop/g want=10.0.0.1 age=9; shop/h pool=vip age=7; shop/i age=7;
		dev/a age=5; dev/b shows=192.0.2.1; dev/c shows=192.0.2.1 deleted; dev/d shows=10.0.0.3 want=10.0.0.4 age=2`)
	const want = "shop/h 10.0.0.0, shop/c 10.0.0.1, shop/e 10.0.0.2, dev/d 10.0.0.3, shop/i 10.0.0.4, dev/b 192.0.2.1; conflicts shop/a, shop/b" // dev/c is being deleted
	for range 50 {
		rand.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
		l := newLedger()
		l.configure(pools(t, "vip 10.0.0.0-10.0.0.4"), nil)
		conflicts := l.adopt(services, nil, time.Now())
		if got := outcome(l, conflicts); got != want {
			t.Fatalf("got\n\t%s\nwant\n\t%s", got, want)
		}
		if err := l.inconsistency(); err != nil {
			t.Fatal(err)
		}
	}
}

func outcome(l *ledger, conflicts []conflict) string {
	var held, lost []string
	for _, h := range l.allocator.Holdings() {
		held = append(held, h.Service+" "+h.Addr.String())
	}
	for _, c := range conflicts {
		lost = append(lost, service.Name(c.service))
	}
	return strings.Join(held, ", ") + "; conflicts " + strings.Join(lost, ", ")
}

func TestWhoeverRepairsTires(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var r repairs
	for _, step := range []struct {
		then string
		at   time.Duration
		want action
	}{
		{"a single wipe is mended at once, without a word", 0, action{again: true}},
		{"the second waits a second", 10 * time.Millisecond, action{again: true, after: time.Second, contested: true}},
		{"what is written while one is due changes nothing", 500 * time.Millisecond, action{}},
		{"the third waits two", 1100 * time.Millisecond, action{again: true, after: 2 * time.Second, contested: true}},
		{"the fourth waits four", 4 * time.Second, action{again: true, after: 4 * time.Second, contested: true}},
		{"eight", 9 * time.Second, action{again: true, after: 8 * time.Second, contested: true}},
		{"sixteen", 18 * time.Second, action{again: true, after: 16 * time.Second, contested: true}},
		{"thirty-two", 40 * time.Second, action{again: true, after: 32 * time.Second, contested: true}},
		{"a minute", 80 * time.Second, action{again: true, after: time.Minute, contested: true}},
		{"and no more", 150 * time.Second, action{again: true, after: time.Minute, contested: true}},
		{"after some minutes of peace it begins anew", 10 * time.Minute, action{again: true}},
	} {
		if got := r.next(begin.Add(step.at)); !reflect.DeepEqual(got, step.want) {
			t.Errorf("%s: %+v, want %+v", step.then, got, step.want)
		}
	}
}

// What is done about a Service depends on what was told and observed of it, and on nothing else.
func TestWhatIsNext(t *testing.T) {
	held := addrs("10.0.0.0")
	full := loadbalancer.Reason{Cause: loadbalancer.NoneFree}
	ingress := func(shows string) []corev1.LoadBalancerIngress {
		if shows == "" {
			return nil
		}
		return service.Status(addrs(shows)).Ingress
	}
	for _, step := range []struct {
		then    string
		told    told
		shown   bool   // the decision was
		before  string // what the status showed when the decision was given
		shows   string // what it shows now
		why     loadbalancer.Reason
		changes bool // the answer would be another one
		again   bool
		shownBy bool // it counts as shown then
	}{
		{then: "the service controller has not asked yet, and will", shows: "", changes: true},
		{then: "it was given the decision, and writes it", told: told{asked: true}, shows: ""},
		{then: "the decision is there", told: told{asked: true}, shows: "10.0.0.0", shownBy: true},
		{then: "nothing is new", told: told{asked: true}, shown: true, shows: "10.0.0.0", shownBy: true},
		{then: "somebody wipes it", told: told{asked: true}, shown: true, shows: "", again: true},
		{then: "somebody writes another while ours is on its way", told: told{asked: true}, shows: "192.0.2.1", again: true},
		{then: "it shows what it did when the decision was given", told: told{asked: true}, before: "192.0.2.1", shows: "192.0.2.1"},
		{then: "it was adopted, and somebody wipes it", shown: true, shows: "", again: true},
		{then: "another answer is due", told: told{asked: true}, shown: true, shows: "10.0.0.0", changes: true, again: true, shownBy: true},
		{then: "the reason is owed", told: told{asked: true, why: full}, shows: "10.0.0.0", why: full, again: true, shownBy: true},
		{then: "it waits for something else than it was told", told: told{asked: true}, shown: true, shows: "10.0.0.0", why: full, again: true, shownBy: true},
		{then: "it waits for what it was told", told: told{asked: true, why: full}, shown: true, shows: "10.0.0.0", why: full, shownBy: true},
	} {
		svc := aService(t, "shop/web")
		svc.Status.LoadBalancer.Ingress = ingress(step.shows)
		e := entry{service: svc, told: step.told, observed: observed{shown: step.shown, before: ingress(step.before)}}
		do, is := e.next(held, loadbalancer.Grant{Addrs: held, Why: step.why}, !step.changes, time.Unix(1, 0))
		if want := (action{again: step.again}); !reflect.DeepEqual(do, want) || is.shown != step.shownBy {
			t.Errorf("%s: %+v, shown %t, want %+v, %t", step.then, do, is.shown, want, step.shownBy)
		}
	}
}
