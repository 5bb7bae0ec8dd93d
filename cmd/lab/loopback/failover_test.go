package loopback

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// sights are all statuses that Services showed, by Service, in order.
type sights struct {
	mu  sync.Mutex
	all map[string][]sight
}

func (s *sights) note(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, before := shown(svc), s.all[svc.Name]
	if text != "" && svc.Namespace == "default" && (len(before) == 0 || before[len(before)-1].text != text) {
		s.all[svc.Name] = append(before, sight{time.Now(), text})
	}
}

// check reports Services that showed a second address, and addresses that two Services showed. What a leader that just awoke had
// begun to write may be seen (stale), if it was put right.
func (s *sights) check(t *testing.T, stale func(time.Time) bool) (served int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	holder := map[string]string{}
	for name, all := range s.all {
		last := all[len(all)-1].text
		for _, one := range all {
			switch {
			case one.text == last:
			case stale(one.at):
				t.Logf("%s showed %s for a moment: %v", name, one.text, all)
			default:
				t.Errorf("%s showed %v", name, all)
			}
		}
		if other, taken := holder[last]; taken {
			t.Errorf("%s and %s both have %s", other, name, last)
		}
		holder[last] = name
	}
	return len(s.all)
}

func TestTwoHundredFreezesGiveNoAddressAway(t *testing.T) {
	const freezes, batch = 200, 3
	ctx := t.Context()
	random, _ := chance(t)
	lab := start(t, Options{Nodes: 1})
	c := newCrew(t, lab, random)
	configure(t, lab, "address-pools:\n"+probePool+"- {name: p, cidr: [10.0.0.0/20]}\n")
	seen := &sights{all: map[string][]sight{}}
	follow(t, lab, seen.note)
	services := 0
	for c.freezes < freezes {
		// Both replicas at most are asleep: it goes on when something is served again.
		did := c.freeze()
		if services%60 == 0 {
			t.Logf("after %d Services: %s", services, did)
		}
		must(t, parallel(batch, batch, func(i int) error {
			_, err := lab.create(ctx, fmt.Sprintf("default/s%05d", services+i))
			return err
		}))
		services += batch
		c.fill(2)
		must(t, Until(ctx, "somebody to be awake", func(context.Context) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.frozen) == len(c.members) {
				return fmt.Errorf("all are asleep")
			}
			return nil
		}))
	}
	c.thawing.Wait()
	c.fill(2)
	must(t, Until(ctx, "all to be served", func(context.Context) error {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		if len(seen.all) < services {
			return fmt.Errorf("%d of %d are", len(seen.all), services)
		}
		return nil
	}))
	must(t, lab.probe(ctx))
	seen.check(t, c.stale)
	_, transitions, err := lab.leads(ctx)
	must(t, err)
	t.Logf("%d freezes, %d that may have outlived the Lease, %d changes of the leader, %d Services", c.freezes, len(c.woken), transitions, services)
	if transitions == 0 {
		t.Error("no leader slept long enough to lose the Lease: this test has shown nothing")
	}
}

func TestALeaderThatSleptThroughItsLeaseStepsDown(t *testing.T) {
	ctx := t.Context()
	random, _ := chance(t)
	lab := start(t, Options{Nodes: 1})
	sleeper, err := lab.StartController(ctx, quickElection...)
	must(t, err)
	configure(t, lab, "address-pools:\n"+probePool+"- {name: p, cidr: [10.0.0.0/24]}\n- {name: q, cidr: [10.0.1.0/24], auto-assign: false}\n")
	must(t, lab.probe(ctx))
	holder, _, err := lab.leads(ctx)
	must(t, err)
	_, err = lab.StartController(ctx, quickElection...)
	must(t, err)
	seen := &sights{all: map[string][]sight{}}
	follow(t, lab, seen.note)

	// It falls asleep in the middle of its work.
	const early, late = 40, 20
	asleep := random.IntN(early)
	for i := range early {
		_, err := lab.create(ctx, fmt.Sprintf("default/early-%02d", i))
		must(t, err)
		if i == asleep {
			must(t, sleeper.Signal(syscall.SIGSTOP))
		}
	}
	t.Cleanup(func() { _ = sleeper.Signal(syscall.SIGCONT) })
	must(t, lab.takenOver(ctx, holder))
	for i := range late {
		_, err := lab.create(ctx, fmt.Sprintf("default/late-%02d", i))
		must(t, err)
	}
	served := func(want int) {
		t.Helper()
		must(t, Until(ctx, fmt.Sprint(want, " Services to be served"), func(context.Context) error {
			if n := seen.check(t, func(time.Time) bool { return false }); n != want {
				return fmt.Errorf("%d are", n)
			}
			return nil
		}))
	}
	served(early + late)
	// All of this is news to the sleeper, which may have believed these addresses to be free.
	awake := time.Now()
	must(t, sleeper.Signal(syscall.SIGCONT))
	select {
	case <-sleeper.Done():
		t.Logf("it ended %s after it awoke, with code %d", time.Since(awake), sleeper.ExitCode())
	case <-time.After(patience):
		t.Fatalf("it goes on:\n%s", sleeper.Output())
	}
	must(t, lab.probe(ctx))
	seen.check(t, func(at time.Time) bool { return at.After(awake) && at.Sub(awake) < time.Second })
	if out := sleeper.Output(); strings.Count(out, `"Allocated address"`) > early {
		t.Errorf("it gave addresses away after it awoke:\n%s", out)
	}

	// The last PATCH of a leader may come late. Nothing can stop it, so it is mended.
	was, err := lab.service(ctx, "default/early-00")
	must(t, err)
	mine := shown(was)
	other, err := lab.service(ctx, "default/late-00")
	must(t, err)
	for _, stale := range []string{shown(other), "10.0.1.7"} {
		_, err = lab.change(ctx, "default/early-00", `{"status":{"loadBalancer":{"ingress":[{"ip":"`+stale+`","ipMode":"VIP"}]}}}`, "status")
		must(t, err)
		must(t, lab.shows(ctx, "default/early-00", mine))
		must(t, lab.shows(ctx, "default/late-00", shown(other)))
	}
}

func TestAWarmStandbyTakesOverAtOnce(t *testing.T) {
	ctx := t.Context()
	// Only a Lease that is given up can be taken within the time that this test has.
	slow := []string{"--leader-elect-lease-duration=15m", "--leader-elect-renew-deadline=10m", "--leader-elect-retry-period=500ms"}
	lab := start(t, Options{Nodes: 1})
	leader, err := lab.StartController(ctx, slow...)
	must(t, err)
	configure(t, lab, "address-pools:\n"+probePool+`- {name: p, cidr: [10.0.0.0/24, "fd00::/120"]}`+"\n")
	before := map[string]string{}
	for name, wishes := range map[string][]wish{
		"default/one": nil, "default/dual": {dual(corev1.IPFamilyPolicyRequireDualStack)},
		"default/k1": {sharing("k", 80), asking("10.0.0.77")}, "default/k2": {sharing("k", 81), asking("10.0.0.77")},
	} {
		_, err := lab.create(ctx, name, wishes...)
		must(t, err)
	}
	must(t, lab.probe(ctx))
	for _, name := range []string{"default/one", "default/dual", "default/k1", "default/k2"} {
		svc, err := lab.service(ctx, name)
		must(t, err)
		before[name] = shown(svc)
	}
	if before["default/k1"] != "10.0.0.77" || before["default/k2"] != "10.0.0.77" || !strings.Contains(before["default/dual"], ",fd00::") {
		t.Fatalf("they have %v", before)
	}
	for range 3 {
		holder, _, err := lab.leads(ctx)
		must(t, err)
		standby, err := lab.StartController(ctx, slow...)
		must(t, err)
		since, err := lab.Now(ctx)
		must(t, err)
		began := time.Now()
		must(t, leader.Stop(patience))
		stopped := time.Since(began)
		must(t, lab.takenOver(ctx, holder))
		handed := time.Since(began)
		must(t, lab.probe(ctx))
		t.Logf("SIGTERM: ended after %s, another leads after %s, a Service was served and deleted after %s", stopped, handed, time.Since(began))
		for name, text := range before {
			must(t, lab.shows(ctx, name, text))
		}
		writes, err := lab.Requests(ctx, since, func(r kubernetes.Request) bool {
			return r.User == controllerUser && r.Writes() && r.Resource != "leases" && r.Namespace == "default"
		})
		must(t, err)
		for _, w := range writes {
			t.Errorf("the takeover wrote %v", w)
		}
		leader = standby
	}
}

func TestServicesOfOthersKeepTheirFinalizer(t *testing.T) {
	for _, c := range []struct {
		when         string
		flags        []string
		theirs, mine []wish
	}{
		{"of another class", nil, []wish{classed(otherClass)}, nil},
		{"without a class, and we serve classes only", []string{"--load-balancer-class-only"}, nil, []wish{classed(ourClass)}},
		{"of another class, and we serve classes only", []string{"--load-balancer-class-only"}, []wish{classed(otherClass)}, []wish{classed(ourClass)}},
	} {
		t.Run(c.when, func(t *testing.T) {
			ctx := t.Context()
			lab := start(t, Options{Nodes: 1})
			_, err := lab.StartController(ctx, c.flags...)
			must(t, err)
			configure(t, lab, "address-pools: [{name: p, cidr: [10.0.0.0/24]}]")
			theirs := []string{"default/stays", "default/goes", "default/changes", "default/changes-back"}
			for _, name := range theirs {
				_, err := lab.create(ctx, name, append(c.theirs, func(svc *corev1.Service) { svc.Finalizers = []string{finalizer} })...)
				must(t, err)
				// Theirs shows an address that is also one of ours: it is taken.
				_, err = lab.change(ctx, name, `{"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.0"}]}}}`, "status")
				must(t, err)
			}
			must(t, lab.delete(ctx, "default/goes"))
			for _, name := range theirs[2:] {
				_, err = lab.change(ctx, name, `{"spec":{"type":"ClusterIP"}}`)
				must(t, err)
			}
			serve := func(name, addr string) { // and what came before is done with
				t.Helper()
				_, err := lab.create(ctx, name, c.mine...)
				must(t, err)
				must(t, lab.shows(ctx, name, addr))
			}
			serve("default/ours", "10.0.0.1")
			_, err = lab.change(ctx, "default/changes-back", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"`+otherClass+`"}}`)
			must(t, err)
			_, err = lab.change(ctx, "default/stays", `{"metadata":{"labels":{"a":"b"},"annotations":{"metallb.universe.tf/address-pool":"p"}}}`)
			must(t, err)
			serve("default/ours-too", "10.0.0.2")
			must(t, lab.delete(ctx, "default/changes"))
			serve("default/the-last", "10.0.0.3")
			writes, err := lab.Requests(ctx, 0, func(r kubernetes.Request) bool {
				return r.User == controllerUser && r.Writes() && (r.Resource == "services" && !strings.HasPrefix(r.Name, "ours") && !strings.HasPrefix(r.Name, "the"))
			})
			must(t, err)
			for _, w := range writes {
				t.Errorf("another implementation's Service was written: %v", w)
			}
			for _, name := range theirs {
				svc, err := lab.service(ctx, name)
				must(t, err)
				if len(svc.Finalizers) != 1 {
					t.Errorf("%s has the finalizers %v", name, svc.Finalizers)
				}
				if _, err := lab.change(ctx, name, `{"metadata":{"finalizers":null}}`); err != nil {
					t.Error(err) // the other implementation is gone, and the lab goes on
				}
			}
		})
	}
}

func TestRemovingItAsDocumentedLeavesNothingStuck(t *testing.T) {
	ctx := t.Context()
	lab := start(t, Options{Nodes: 1})
	must(t, lab.addNamespaces(ctx, "shop"))
	controller, err := lab.StartController(ctx)
	must(t, err)
	speaker, err := lab.StartSpeaker(lab.Nodes[0], nil)
	must(t, err)
	text := lab.Peers() + "address-pools:\n" + probePool + `- {name: p, cidr: [10.0.0.0/30, "fd00::/126"]}` + "\n"
	configure(t, lab, text)
	kinds := map[string][]wish{
		"plain": nil, "classed": {classed(ourClass)}, "dual": {dual(corev1.IPFamilyPolicyPreferDualStack)}, "waiting": {asking("10.9.9.9")},
		"k1": {sharing("k", 80)}, "k2": {sharing("k", 81)},
	}
	for _, namespace := range []string{"default", "shop"} {
		for name, wishes := range kinds {
			_, err := lab.create(ctx, namespace+"/"+name, wishes...)
			must(t, err)
		}
	}
	must(t, lab.probe(ctx))

	// The page's own commands are run, with a kubectl for this cluster.
	page, err := os.ReadFile(filepath.Join(lab.root, "docs/how-to.md"))
	must(t, err)
	_, section, found := strings.Cut(string(page), "\n## Removing it\n")
	section, _, _ = strings.Cut(section, "\n## ")
	commands := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !found || len(commands) != 3 || !strings.Contains(section, "`kubectl delete -f manifests/rbac.yaml`") {
		t.Fatalf("docs/how-to.md has changed: this test does what it said before\n%s", section)
	}
	shell := func(ctx context.Context, command string) (string, error) {
		sh := exec.CommandContext(ctx, "sh", "-c", command)
		sh.Dir = lab.root
		sh.Env = append(os.Environ(), "KUBECONFIG="+lab.Kubeconfig, "PATH="+lab.Binaries.Dir+":"+os.Getenv("PATH"))
		out, err := sh.CombinedOutput()
		return string(out), err
	}

	// 1. Some are deleted, and some change their type.
	for name := range kinds {
		must(t, lab.delete(ctx, "default/"+name))
		_, err := lab.change(ctx, "shop/"+name, `{"spec":{"type":"ClusterIP"}}`)
		must(t, err)
	}
	// 2. None has the finalizer any more.
	must(t, Until(ctx, "the page's command to print nothing", func(ctx context.Context) error {
		out, err := shell(ctx, commands[0][1])
		if err == nil && out != "" {
			err = fmt.Errorf("it prints %s", out)
		}
		return err
	}))
	list, err := lab.API.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name!=kubernetes"})
	must(t, err)
	if len(list.Items) != len(kinds) {
		t.Errorf("%d Services are left instead of %d", len(list.Items), len(kinds))
	}
	for _, svc := range list.Items {
		if len(svc.Finalizers) > 0 || shown(&svc) != "" {
			t.Errorf("%s has %v and shows %q", svc.Name, svc.Finalizers, shown(&svc))
		}
	}
	// This one is forgotten.
	_, err = lab.create(ctx, "default/forgotten")
	must(t, err)
	_, err = lab.Address(ctx, "default", "forgotten")
	must(t, err)
	// 3., of programs that do not run in Pods; commands[1] is for those that Helm installed.
	must(t, controller.Stop(patience))
	must(t, speaker.Stop(patience))
	out, err := shell(ctx, "kubectl delete -f manifests/rbac.yaml")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, Until(ctx, "the namespace to be gone", func(ctx context.Context) error {
		out, err := shell(ctx, "kubectl get namespace metallb-system --ignore-not-found --output=name")
		if err == nil && out != "" {
			err = fmt.Errorf("it is there")
		}
		return err
	}))
	// What was forgotten is stuck, until the page's last command.
	must(t, lab.delete(ctx, "default/forgotten"))
	if _, err := lab.service(ctx, "default/forgotten"); err != nil {
		t.Errorf("nothing held it, so that the page's last command is not needed: %v", err)
	}
	if out, err := shell(ctx, strings.Replace(commands[2][1], "NAME", "forgotten", 1)); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	must(t, lab.clear(ctx, "default", "shop"))
}
