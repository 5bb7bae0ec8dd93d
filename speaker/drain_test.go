package speaker

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// mark reads a mark as kubectl writes taints and labels.
func mark(text string) loadbalancer.Mark {
	text, effect, _ := strings.Cut(text, ":")
	key, value, given := strings.Cut(text, "=")
	return loadbalancer.Mark{Key: key, Value: value, Any: !given, Effect: effect}
}

func draining(config *loadbalancer.Config, taints, labels string, after time.Duration) *loadbalancer.Config {
	config.Drain = loadbalancer.Drain{WithdrawAfter: after}
	for _, text := range strings.Fields(taints) {
		config.Drain.Taints = append(config.Drain.Taints, mark(text))
	}
	for _, text := range strings.Fields(labels) {
		config.Drain.Labels = append(config.Drain.Labels, mark(text))
	}
	return config
}

func TestANodeIsDrainedByItsMarks(t *testing.T) {
	tests := []struct{ name, node, taints, labels, why string }{
		{name: "no mark", node: "a"},
		{name: "the annotation", node: "a @metallb.universe.tf/drain=true", why: "it is annotated metallb.universe.tf/drain"},
		{name: "its synonym", node: "a @metallb.io/drain=", why: "it is annotated metallb.io/drain"},
		{name: "the annotation with a reason", node: "a @metallb.universe.tf/drain=new-disk", why: "it is annotated metallb.universe.tf/drain"},
		{name: "the annotation says no", node: "a @metallb.universe.tf/drain=false"},
		{name: "its synonym says no, in short", node: "a @metallb.io/drain=F"},
		{name: "one says no, the other yes", node: "a @metallb.universe.tf/drain=false @metallb.io/drain=1", why: "it is annotated metallb.io/drain"},

		{name: "marks that nobody asked for", node: "a cordoned tainted not-ready !maintenance=now:NoExecute maintenance=now"},
		{name: "a taint by its key", node: "a !maintenance=now:NoSchedule", taints: "other maintenance", why: "it is tainted maintenance=now:NoSchedule"},
		{name: "a taint by key and value", node: "a !maintenance=now:NoSchedule", taints: "maintenance=now", why: "it is tainted maintenance=now:NoSchedule"},
		{name: "a taint of another value", node: "a !maintenance=soon:NoSchedule", taints: "maintenance=now"},
		{name: "a taint with no value is not one with any", node: "a !maintenance=soon:NoSchedule", taints: "maintenance="},
		{name: "a taint with no value", node: "a !maintenance:NoSchedule", taints: "maintenance=", why: "it is tainted maintenance:NoSchedule"},
		{name: "a taint by key and effect", node: "a !maintenance=now:NoExecute", taints: "maintenance:NoExecute", why: "it is tainted maintenance=now:NoExecute"},
		{name: "a taint of another effect", node: "a !maintenance=now:NoSchedule", taints: "maintenance:NoExecute"},
		{name: "a taint by everything", node: "a !maintenance=now:NoExecute", taints: "maintenance=now:NoExecute", why: "it is tainted maintenance=now:NoExecute"},
		{name: "the cordon, if the operator says so", node: "a cordoned", taints: "node.kubernetes.io/unschedulable", why: "it is tainted node.kubernetes.io/unschedulable:NoSchedule"},
		{name: "a taint is not a label", node: "a !maintenance=now:NoExecute maintenance-done=", labels: "maintenance"},

		{name: "a label by its key", node: "a maintenance=soon", labels: "maintenance", why: "it is labelled maintenance=soon"},
		{name: "a label by key and value", node: "a maintenance=now", labels: "maintenance=soon maintenance=now", why: "it is labelled maintenance=now"},
		{name: "a label of another value", node: "a maintenance=soon", labels: "maintenance=now"},
		{name: "a label is not a taint", node: "a maintenance=now", taints: "maintenance"},
		{name: "a label that another says no to", node: "a maintenance=now @metallb.universe.tf/drain=false", labels: "maintenance", why: "it is labelled maintenance=now"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			why, since := Drained(draining(&loadbalancer.Config{}, test.taints, test.labels, 0), node(t, test.node))
			if why != test.why || !since.IsZero() {
				t.Errorf("%q since %v, want %q", why, since, test.why)
			}
		})
	}
}

func TestTheTimeOfADrainIsThatOfItsFirstTaint(t *testing.T) {
	config := draining(&loadbalancer.Config{}, "one two three", "", 0)
	on := node(t, "a @metallb.io/drain= !one:NoSchedule !two:NoExecute !three:NoExecute !four:NoExecute")
	for i, minutes := range []time.Duration{0, 9, 5, 1} {
		if minutes > 0 {
			on.Spec.Taints[i].TimeAdded = &metav1.Time{Time: paceStart.Add(minutes * time.Minute)}
		}
	}
	if why, since := Drained(config, on); why != "it is annotated metallb.io/drain" || !since.Equal(paceStart.Add(5*time.Minute)) {
		t.Errorf("%q since %v", why, since)
	}
}

func TestDrainedRoutesAreTheLastChoice(t *testing.T) {
	routes := func() []loadbalancer.Route {
		some := []loadbalancer.Route{weighted("10.0.0.1/32", 0), weighted("10.0.0.2/32", 3), weighted("10.0.0.3/32", 0)}
		some[1].Communities = append(make([]loadbalancer.Community, 0, 8), 1234<<16+1, 0xffffff01)
		some[1].LargeCommunities = []loadbalancer.LargeCommunity{{Global: 64500, Local1: 2, Local2: 1}}
		some[1].Prepend, some[1].Peers = 10, []string{"leaf"}
		some[2].Communities = []loadbalancer.Community{gracefulShutdown}
		return some
	}
	before := routes()
	same(t, "drained", notation(ShutDown(before)), []string{
		"10.0.0.1/32 pref 0 [65535:0] prepend 3",
		"10.0.0.2/32 pref 0 [1234:1 65535:0 65535:65281 large:64500:2:1] prepend 13 weight 3 to leaf",
		"10.0.0.3/32 pref 0 [65535:0] prepend 3",
	})
	if !slices.EqualFunc(before, routes(), loadbalancer.Route.Equal) {
		t.Errorf("the routes themselves changed: %v", before)
	}
}

func TestADrainedNodeStaysTheLastChoiceUntilItsTimeIsOver(t *testing.T) {
	const drained = "10.0.0.1/32 pref 0 [65535:0] prepend 3"
	const gone = "shop/web 10.0.0.1: node a is drained: it is tainted maintenance:NoExecute"
	services := []Service{svc(t, "shop/web 10.0.0.1 | a:ready")}
	on := node(t, "a")
	config := draining(parse(t, onePool), "maintenance", "", 0)
	var m memory
	look := func(at time.Duration, route, withheld string, until time.Duration) {
		t.Helper()
		now := paceStart.Add(at)
		why, since := Drained(config, on)
		routes, kept, next, wake := m.announcements(now, config, service.Ours{}, on, services, why, since)
		m = next
		same(t, "announced", notation(routes), lines(route))
		var got []string
		for _, w := range kept {
			got = append(got, w.Service+" "+w.Addr.String()+": "+w.Why)
		}
		same(t, "withheld", got, lines(withheld))
		if until == 0 && !wake.IsZero() || until != 0 && !wake.Equal(paceStart.Add(until)) {
			t.Errorf("wake at %v", wake.Sub(paceStart))
		}
	}
	const minute = time.Minute
	look(0, "10.0.0.1/32 pref 100", "", 0)
	on = node(t, "a !maintenance:NoExecute")
	look(1*minute, drained, "", 0)
	look(9*minute, drained, "", 0)

	// The operator sets a time, which counts from when the mark was first seen, and changes it.
	config.Drain.WithdrawAfter = 10 * minute
	look(10*minute, drained, "", 11*minute)
	look(11*minute-1, drained, "", 11*minute)
	look(11*minute, "", gone, 0)
	config.Drain.WithdrawAfter = 20 * minute
	look(12*minute, drained, "", 21*minute)
	on = node(t, "a @metallb.io/drain= maintenance=")
	look(13*minute, drained, "", 21*minute) // another mark, the same drain
	on = node(t, "a !maintenance:NoExecute")
	look(25*minute, "", gone, 0)
	on = node(t, "a !maintenance:NoExecute network-unavailable")
	look(26*minute, "", "shop/web 10.0.0.1: node a is NetworkUnavailable", 0)
	on = node(t, "a")
	look(30*minute, "10.0.0.1/32 pref 100", "", 0)

	// A taint with a time began then, also for a speaker that started later.
	on = node(t, "a !maintenance:NoExecute")
	on.Spec.Taints[0].TimeAdded = &metav1.Time{Time: paceStart.Add(25 * minute)}
	look(31*minute, drained, "", 45*minute)
	m = memory{}
	look(32*minute, drained, "", 45*minute)
	m = memory{}
	look(45*minute, "", gone, 0)
	on = node(t, "a")
	look(46*minute, "10.0.0.1/32 pref 100", "", 0)
	// A clock that runs ahead of ours prolongs nothing.
	on = node(t, "a !maintenance:NoExecute")
	on.Spec.Taints[0].TimeAdded = &metav1.Time{Time: paceStart.Add(100 * minute)}
	look(50*minute, drained, "", 70*minute)
}

func TestWeightsGoOnThroughADrain(t *testing.T) {
	config, on := weighing(parse(t, onePool)), node(t, "a")
	var m memory
	look := func(at time.Duration, ready int, drained, want string) {
		t.Helper()
		services := []Service{svc(t, "shop/web 10.0.0.1 Local | "+strings.Repeat("a:ready ", ready))}
		var routes []loadbalancer.Route
		routes, _, m, _ = m.announcements(paceStart.Add(at), config, service.Ours{}, on, services, drained, time.Time{})
		same(t, "announced", notation(routes), []string{want})
	}
	look(0, 3, "", "10.0.0.1/32 pref 100 weight 3")
	look(time.Second, 4, "", "10.0.0.1/32 pref 100 weight 3")
	look(2*time.Second, 4, "why not", "10.0.0.1/32 pref 0 [65535:0] prepend 3 weight 3")
	look(11*time.Second, 4, "why not", "10.0.0.1/32 pref 0 [65535:0] prepend 3 weight 4")
	look(12*time.Second, 4, "", "10.0.0.1/32 pref 100 weight 4")
}

func TestTheLoopDrainsAndWithdrawsAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(append(objects(t, "shop/web 10.0.0.1 | a:ready"), objects(t, "shop/api 10.0.0.2 | a:unready")...), node(t, "a"), admitted(onePeer+onePool))...)
		logged.Take()
		const drained = "10.0.0.1/32 pref 0 [65535:0] prepend 3"
		on := node(t, "a @metallb.universe.tf/drain=true")
		s.put(on)
		s.want("annotated", drained, "leaf")
		same(t, "log", logged.Take(), []string{`"Began to drain" node="a" why="it is annotated metallb.universe.tf/drain"`})
		times := s.said.count()
		<-time.After(24 * time.Hour)
		s.want("a day later", drained, "leaf")
		if s.said.count() != times {
			t.Errorf("looked %d times at nothing", s.said.count()-times)
		}
		s.put(node(t, "a cordoned"))
		s.want("it is over", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), []string{`"Drain is over" node="a" was="it is annotated metallb.universe.tf/drain"`})

		// With a time, which this stage gives the configuration as it is read: its loop is asleep.
		draining(s.speaker.config, "", "maintenance", 10*time.Minute)
		s.put(node(t, "a maintenance="))
		s.want("labelled", drained, "leaf")
		<-time.After(10*time.Minute - time.Nanosecond)
		synctest.Wait()
		s.want("ten minutes later", drained, "leaf")
		logged.Take()
		times = s.said.count()
		<-time.After(time.Nanosecond)
		synctest.Wait()
		s.want("the time is over", "", "leaf")
		same(t, "log", logged.Take(), []string{
			`"Not announcing" service="shop/api" address="10.0.0.2" why="node a is drained: it is labelled maintenance="`,
			`"Not announcing" service="shop/web" address="10.0.0.1" why="node a is drained: it is labelled maintenance="`})
		<-time.After(24 * time.Hour)
		if s.said.count() != times+1 {
			t.Errorf("looked %d times, want 1", s.said.count()-times)
		}
		s.put(node(t, "a"))
		s.want("all is back", "10.0.0.1/32 pref 100", "leaf")
		drains := logged.Take()
		s.put(node(t, "a maintenance="))
		s.put(node(t, "a"))
		times = s.said.count()
		<-time.After(24 * time.Hour)
		if s.said.count() != times {
			t.Errorf("looked %d times when a drain that is over would have ended", s.said.count()-times)
		}
		same(t, "log", drains, []string{
			`"Drain is over" node="a" was="it is labelled maintenance="`,
			`"Not announcing" service="shop/api" address="10.0.0.2" why="no endpoint of the Service can serve, on any node"`,
			`"No longer withheld" service="shop/web" address="10.0.0.1"`})
	})
}

func TestTheLoopSendsAWeightWhenItHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 Local | a:ready@1 b:ready@2"), node(t, "a"), admitted(onePeer+onePool+"  advertisements: [{link-bandwidth: true}]\n"))...)
		pods := func(short string) { s.put(svc(t, "shop/web 10.0.0.1 Local |"+short).Slices[0]) }
		pods("a:ready@1 b:ready@2")
		s.want("the start", "10.0.0.1/32 pref 100 weight 1", "leaf")
		pods("a:ready@1 a:ready@3 b:ready@2")
		s.want("one more", "10.0.0.1/32 pref 100 weight 1", "leaf")
		<-time.After(5 * time.Second)
		pods("a:ready@1 b:ready@2")
		<-time.After(time.Hour)
		s.want("and back", "10.0.0.1/32 pref 100 weight 1", "leaf")
		pods("a:ready@1 a:ready@3 b:ready@2")
		times := s.said.count()
		<-time.After(settled - time.Nanosecond)
		synctest.Wait()
		s.want("not yet", "10.0.0.1/32 pref 100 weight 1", "leaf")
		<-time.After(time.Nanosecond)
		synctest.Wait()
		s.want("settled", "10.0.0.1/32 pref 100 weight 2", "leaf")
		<-time.After(time.Hour)
		if s.said.count() != times+1 {
			t.Errorf("looked %d times, want 1", s.said.count()-times)
		}
		pods("a:last@1 a:unready@3 b:ready@2")
		s.want("no pod", "", "leaf")
		pods("a:last@1 a:ready@3 a:ready@4 b:ready@2")
		s.want("pods again, which kube-proxy has not noticed yet", "", "leaf")
		<-time.After(headStart)
		synctest.Wait()
		s.want("pods again", "10.0.0.1/32 pref 100 weight 2", "leaf")
	})
}

func TestASpeakerThatStartsOnADrainedNodeSaysSoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a @metallb.io/drain="), admitted(onePeer+onePool))...)
		s.want("the first table", "10.0.0.1/32 pref 0 [65535:0] prepend 3", "leaf")
		if s.said.count() != 1 {
			t.Errorf("announced %d times", s.said.count())
		}
	})
}

func TestADrainedNodeMayBeMarkedByTheLabelThatTheSpeakerIgnores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		excluded := node(t, "a "+corev1.LabelNodeExcludeBalancers+"=")
		s := enact(t, Options{IgnoreExcludeLabel: true}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(onePeer+onePool))...)
		draining(s.speaker.config, "", corev1.LabelNodeExcludeBalancers, 0)
		s.put(excluded)
		s.want("drained, not excluded", "10.0.0.1/32 pref 0 [65535:0] prepend 3", "leaf")
	})
}
