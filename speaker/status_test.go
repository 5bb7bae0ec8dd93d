package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestASpeakerIsReadyWhenTheFirstTableIsHandedOverAndStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, client: fake.NewClientset(objects(t, "shop/web 10.0.0.1 | a:ready")...), said: &notebook{}}
		if got := (&Speaker{}).Status().Missing; got != "the cluster has not been read yet: does the API server answer?" {
			t.Errorf("before the start: %q", got)
		}
		missing := func(then, want string) {
			t.Helper()
			if got := s.speaker.Status().Missing; got != want {
				t.Errorf("%s: missing is %q, want %q", then, got, want)
			}
		}
		s.begin(Options{})
		missing("at first", "no configuration is loaded: none is admitted, or it cannot be read")
		s.put(admitted("address-pools: 7"))
		missing("a broken copy", "no configuration is loaded: none is admitted, or it cannot be read")
		s.put(admitted(onePeer + onePool))
		missing("a configuration", "no routes have been handed to the sessions: does this speaker's Node exist?")
		s.put(node(t, "a"))
		missing("everything", "")
		s.put(admitted("address-pools: 7"))
		if err := s.client.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		missing("whatever happens", "")
	})
}

func TestAConfigurationIsStaleWhenTheStoredOneIsNotInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, node(t, "a"))
		state := func(then string, loaded, stale bool, errors uint64) {
			t.Helper()
			if got := s.speaker.Status(); got.Loaded != loaded || got.Stale != stale || got.Errors != errors {
				t.Errorf("%s: loaded %t, stale %t, %d errors, want %t, %t, %d", then, got.Loaded, got.Stale, got.Errors, loaded, stale, errors)
			}
		}
		good, broken, empty := admitted(onePeer+onePool), admitted("address-pools: 7"), admitted("")
		empty.Data = nil
		state("nothing is stored", false, false, 0)
		s.put(broken)
		state("a broken one comes first", false, true, 1)
		s.put(good)
		state("a good one", true, false, 1)
		refused := good.DeepCopy()
		refused.Data["refused"] = "hash: def"
		s.put(refused)
		state("the user's text is refused, which is the controller manager's to tell", true, false, 1)
		s.put(broken)
		state("a broken one", true, true, 2)
		s.put(node(t, "a cordoned"))
		state("it is still broken", true, true, 2)
		s.put(good)
		state("the good one again", true, false, 2)
		s.put(empty)
		state("an empty one", true, true, 2)
		s.put(good)
		state("the good one again", true, false, 2)
		if err := s.client.CoreV1().ConfigMaps("metallb-system").Delete(t.Context(), "config-admitted", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		state("none", true, true, 2)
		s.put(good)
		state("the good one again", true, false, 2)
	})
}

func TestWhatIsAnnouncedIsKnownByServiceAndAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := append(objects(t, "shop/web 10.0.0.1 10.0.0.1 | a:ready"), objects(t, "shop/api 10.0.0.1 | b:ready")...)
		all = append(all, objects(t, "shop/two 10.0.0.2 192.0.2.1 | a:ready")...) // the second belongs to no pool
		all = append(all, objects(t, "shop/local 10.0.0.3 Local | b:ready")...)
		all = append(all, objects(t, "shop/other 10.0.0.4 class=example.com/lb | a:ready")...)
		all = append(all, objects(t, "shop/new | a:ready")...)
		s := enact(t, Options{}, append(all, node(t, "a"), admitted(onePeer+onePool))...)
		told := map[netip.Prefix]bool{}
		for i := range byte(5) {
			told[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 32)] = true
		}
		announced := func(then string, want ...string) {
			t.Helper()
			var got []string
			for _, a := range s.speaker.Announced(told) {
				got = append(got, fmt.Sprint(a.Service, " ", a.Addr))
			}
			slices.Sort(got)
			same(t, then, got, want)
		}
		announced("at first", "shop/api 10.0.0.1", "shop/two 10.0.0.2", "shop/web 10.0.0.1")
		before := s.speaker.Status().Changes
		s.put(svc(t, "shop/local 10.0.0.3 Local | a:ready").Slices[0])
		announced("one more", "shop/api 10.0.0.1", "shop/local 10.0.0.3", "shop/two 10.0.0.2", "shop/web 10.0.0.1")
		if now := s.speaker.Status().Changes; now != before+1 {
			t.Errorf("%d changes were counted, want 1", now-before)
		}
		delete(told, netip.MustParsePrefix("10.0.0.1/32"))
		announced("a route that no router takes", "shop/local 10.0.0.3", "shop/two 10.0.0.2")
		told = nil
		announced("no session is up")
		s.put(node(t, "a network-unavailable"))
		announced("nothing more")
	})
}

func TestARouterThatShouldBeSpokenToAndCannotBeIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const peers = `
peers:
- {name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}
- {name: own, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: node-ip}
- {name: secret, peer-address: 10.9.0.3, peer-port: 1790, peer-asn: 64500, my-asn: 64512, password-key: tor}
- {name: elsewhere, peer-address: 10.9.0.4, peer-asn: 64500, my-asn: 64512, node-selectors: [{match-labels: {rack: b}}]}
`
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(peers+onePool))...)
		mute := func(then, want string) {
			t.Helper()
			var routers []string
			for _, p := range s.speaker.Status().Mute {
				routers = append(routers, fmt.Sprint(netip.AddrPortFrom(p.Addr, p.Port)))
			}
			if got := strings.Join(routers, " "); got != want {
				t.Errorf("%s: %s, want %s", then, got, want)
			}
		}
		mute("at first", "10.9.0.2:179 10.9.0.3:1790")
		s.put(node(t, "a internal=10.0.0.7"))
		mute("with an address", "10.9.0.3:1790")
		s.put(admitted(onePeer + onePool))
		mute("without peers that lack something", "")
	})
}

// What is withheld is told in the words of the log, by Service, with what the node does not speak to, and why.
func TestWhatIsWithheldIsKnownWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := append(objects(t, "shop/web 10.0.0.1 192.0.2.1 | a:ready"), objects(t, "shop/api 10.0.0.2 Local | b:ready")...)
		all = append(all, objects(t, "shop/other 10.0.0.4 class=example.com/lb | a:ready")...)
		s := enact(t, Options{}, append(all, node(t, "a"), admitted(onePeer+onePool))...)
		withheld := func(then string, want ...string) {
			t.Helper()
			var got []string
			for w := range s.speaker.Withheld() {
				got = append(got, fmt.Sprintf("%s %s: %s", w.Service, w.Address, w.Why))
			}
			same(t, then, got, want)
		}
		const local, stranger = "shop/api 10.0.0.2: externalTrafficPolicy is Local, and no endpoint on node a is ready", "shop/web 192.0.2.1: the address belongs to no pool of the admitted configuration"
		withheld("at first", local, stranger)
		s.put(svc(t, "shop/api 10.0.0.2 Local | a:ready").Slices[0])
		withheld("a pod comes", stranger)
		if got := s.speaker.Status(); got.Hash != "abc" || len(got.Problems) != 0 {
			t.Errorf("the status is %+v", got)
		}
		s.put(admitted("peers: [{name: own, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: node-ip}]\n" + onePool))
		same(t, "problems", s.speaker.Status().Problems, []string{"peer own: source-address is node-ip, and node a has no InternalIP of the peer's IP version"})
	})
}

// A reader that stops in the middle does not keep the loop from looking at what changes.
func TestASlowReaderDoesNotKeepTheLoopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(append(objects(t, "shop/api 10.0.0.2 Local | b:ready"), objects(t, "shop/web 10.0.0.1 Local | b:ready")...), node(t, "a"), admitted(onePeer+onePool))...)
		for w := range s.speaker.Withheld() {
			if w.Service == "shop/api" {
				s.put(svc(t, "shop/web 10.0.0.1 Local | a:ready").Slices[0])
				<-time.After(headStart)
				synctest.Wait()
				same(t, "announced", s.said.routes, []string{"10.0.0.1/32 pref 100"})
			}
		}
	})
}

func TestSpeakersAnnounceTheClassesThatTheAdmittedCopyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := append(objects(t, "shop/web 10.0.0.1 | a:ready"), objects(t, "shop/ours 10.0.0.2 class=metallb.universe.tf/metallb | a:ready")...)
		all = append(all, objects(t, "shop/named 10.0.0.3 class=example.com/lb | a:ready")...)
		s := enact(t, Options{}, append(all, node(t, "a"), admitted(onePeer+onePool))...)
		const first, second, third = "10.0.0.1/32 pref 100\n", "10.0.0.2/32 pref 100\n", "10.0.0.3/32 pref 100\n"
		s.want("without a word", first+second, "leaf")
		with := admitted(onePeer + onePool)
		with.Data["classes"], with.Data["class-only"] = "metallb.universe.tf/metallb,example.com/lb", "true"
		s.put(with)
		s.want("another class, and no Services without one", second+third, "leaf")
		with = with.DeepCopy()
		with.Data["class-only"] = "perhaps"
		s.put(with)
		s.want("what cannot be read is as if it were not there", first+second+third, "leaf")
		broken := with.DeepCopy()
		broken.Data["config"], broken.Data["class-only"] = "address-pools: 7", "true"
		s.put(broken)
		s.want("with a text that cannot be read, all stays as it was", first+second+third, "leaf")
	})
}

func TestTheFirstUrgentChangeSinceTheLastLookCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 Local | a:ready"), node(t, "a"), admitted(onePeer+onePool))...)
		due := func(then string, want time.Time) {
			t.Helper()
			if got := s.said.since; !got.Equal(want) {
				t.Errorf("%s: due since %v, want %v", then, got, want)
			}
		}
		<-time.After(time.Minute)
		s.put(svc(t, "shop/web 10.0.0.1 Local | b:ready").Slices[0])
		due("an endpoint moves", time.Now())
		<-time.After(time.Minute)
		s.put(node(t, "a cordoned"))
		due("nobody waits for the node's marks", time.Time{})
		s.put(svc(t, "shop/web 10.0.0.2 Local | b:ready").Service)
		due("an address changes", time.Now())

		began := time.Now()
		s.speaker.status.set(func(s *status) { s.began = began })
		<-time.After(2 * time.Minute)
		if got := s.speaker.Status().Busy; got != 2*time.Minute {
			t.Errorf("busy for %v", got)
		}
		s.speaker.status.set(func(s *status) { s.began = time.Time{} })
		if got := s.speaker.Status().Busy; got != 0 {
			t.Errorf("busy for %v after the end", got)
		}
	})
}
