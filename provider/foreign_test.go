package provider

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	k8stesting "k8s.io/client-go/testing"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Another implementation's Service is never written to, neither its finalizers nor its status, whatever became of it and on
// whatever way it came to be another's. These are the paths of the real service controller, one after the other; after each
// step an hour goes by, so that whatever was to be tried again is.
func TestAnothersServicesAreNeverWrittenTo(t *testing.T) {
	const others = " class=example.com/lb"
	internal := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{} // the API server does that
	}
	// The other one takes it: it has its class, and the other's finalizer and status.
	taken := func(s *corev1.Service) {
		class := "example.com/lb"
		s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, &class
		s.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
		s.ManagedFields = managed("example-lb", "finalizer", "status")
	}
	ours := func(s *corev1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, nil }
	deleted := func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
	labelled := func(s *corev1.Service) { s.Annotations = map[string]string{"example.com/changed": time.Now().String()} }

	type step struct {
		then string
		do   func(*controlled)
	}
	change := func(then string, how func(*corev1.Service)) step {
		return step{then, func(c *controlled) { c.change("shop/web", how) }}
	}
	// again is deletion and creation at once, with nothing of the old one left.
	again := func(then string, how func(*corev1.Service)) step {
		return step{then, func(c *controlled) {
			if err := c.client.CoreV1().Services("shop").Delete(c.t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				c.t.Fatal(err)
			}
			svc := aService(c.t, "shop/web uid=again")
			how(svc)
			if _, err := c.client.CoreV1().Services("shop").Create(c.t.Context(), svc, metav1.CreateOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}}
	}
	vip := pools(t, "vip 10.0.0.0/30")
	restart := step{"the controller manager starts again", func(c *controlled) { c.end(); c.start(vip) }}
	for name, story := range map[string]struct {
		begins string
		steps  []step // from the first that makes it another's
		before []step // it is ours still
	}{
		"it was always another's": {begins: "shop/web finalizer shows-host=lb.example.com" + others, steps: []step{
			change("somebody changes it", labelled), restart, change("and again", labelled), change("it is deleted", deleted), restart}},
		"another's becomes internal": {begins: "shop/web finalizer shows-host=lb.example.com" + others, steps: []step{
			change("it becomes internal", internal), change("somebody changes it", labelled), change("it is deleted", deleted)}},
		"another's becomes internal while we are away": {begins: "shop/web", before: []step{change("it becomes internal", internal)}, steps: []step{
			change("another's", taken), {"it becomes internal, and we start", func(c *controlled) {
				c.end()
				c.change("shop/web", internal)
				c.start(vip)
			}}, change("it is deleted", deleted), restart}},
		"ours waits, becomes internal, and then another's": {begins: "shop/web want=192.0.2.1", before: []step{change("internal", internal)}, steps: []step{
			change("another's", taken), change("somebody changes it", labelled), restart, change("it is deleted", deleted)}},
		"ours waits and is another's before we look": {begins: "shop/web want=192.0.2.1", steps: []step{
			{"both at once", func(c *controlled) { c.change("shop/web", internal); c.change("shop/web", taken) }}, change("somebody changes it", labelled)}},
		"ours waits and comes again as another's": {begins: "shop/web want=192.0.2.1", steps: []step{
			again("recreated", taken), change("somebody changes it", labelled), restart, change("it is deleted", deleted)}},
		"ours has an address and comes again as another's": {begins: "shop/web", steps: []step{
			again("recreated", taken), change("somebody changes it", labelled), change("it is deleted", deleted)}},
		"ours has an address, becomes internal, and then another's": {begins: "shop/web", before: []step{change("internal", internal)}, steps: []step{
			change("another's", taken), change("internal", internal), change("another's again", taken), change("it is deleted", deleted)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newControlled(t, story.begins)
				c.cloud.admit(nil, vip, nil, loadbalancer.NoConsent)
				synctest.Wait()
				for _, s := range story.before {
					s.do(c)
					synctest.Wait()
				}
				c.wrote()
				told := len(c.warnings())
				for _, s := range story.steps {
					s.do(c)
					<-time.After(time.Hour)
					synctest.Wait()
					// What the test does itself makes it another's with the last request; before that, it was still ours.
					var writes []string
					for _, w := range c.wrote() {
						if writes = append(writes, w); !strings.HasPrefix(w, "patch") {
							writes = nil
						}
					}
					if len(writes) > 0 {
						t.Errorf("%s: %q", s.then, writes)
					}
				}
				if held := c.cloud.ledger.allocator.Holdings(); len(held) > 0 {
					t.Errorf("we hold %v", held)
				}
				if all := c.warnings(); len(all) > told {
					t.Errorf("events %q", all[told:])
				}
			})
		})
	}
	t.Run("and it becomes ours, who writes to it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newControlled(t, "shop/web finalizer shows-host=lb.example.com"+others)
			c.cloud.admit(nil, vip, nil, loadbalancer.NoConsent)
			c.change("shop/web", internal)
			c.change("shop/web", func(s *corev1.Service) { s.Finalizers = nil; ours(s) })
			synctest.Wait()
			if got := c.get("shop/web"); len(got.Finalizers) != 1 || len(got.Status.LoadBalancer.Ingress) != 1 {
				t.Errorf("finalizers %q, status %v", got.Finalizers, got.Status)
			}
		})
	})
}

// Somebody deletes a Service while our permissions are away. Once they are back, it goes within the minute in which we compare.
func TestAFinalizerThatCouldNotBeRemovedIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t, "shop/web")
		c.cloud.admit(nil, pools(t, "vip 10.0.0.0/30"), nil, loadbalancer.NoConsent)
		synctest.Wait()
		var forbidden atomic.Bool
		forbidden.Store(true)
		c.client.PrependReactor("patch", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
			return forbidden.Load(), nil, apierrors.NewForbidden(corev1.Resource("services"), "web", errors.New("no"))
		})
		c.change("shop/web", func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		<-time.After(20 * time.Minute) // the service controller waits for five minutes by now
		forbidden.Store(false)
		c.cloud.compare(nil)
		synctest.Wait()
		if got := c.get("shop/web").Finalizers; len(got) > 0 {
			t.Errorf("it still has %q", got)
		}
	})
}

// managed is what the API server notes of a writer, of the finalizer or the status.
func managed(manager string, what ...string) (all []metav1.ManagedFieldsEntry) {
	for _, w := range what {
		fields := `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`
		if w == "finalizer" {
			fields = `{"f:metadata":{"f:finalizers":{".":{},"v:\"service.kubernetes.io/load-balancer-cleanup\"":{}}}}`
		}
		all = append(all, metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1",
			Subresource: "status", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)})
	}
	return all
}

// What the service controller sees after each state of one Service: its finalizer, and whether it sees it at all.
func TestTheServiceControllerSeesWhatIsOursAndWhatWasOurs(t *testing.T) {
	const ours, others, internal = "", " class=example.com/lb", " type=ClusterIP"
	type step struct{ state, manager, sees string }
	for _, test := range []struct {
		name  string
		ours  service.Ours
		steps []step
	}{
		{name: "ours becomes internal", steps: []step{{ours + " finalizer", "", "finalizer"}, {internal + " finalizer", "", "finalizer"}, {internal, "", ""}}},
		{name: "ours with our class, and with one that the operator chose", ours: service.Ours{Classes: []string{"metallb"}},
			steps: []step{{" class=" + loadbalancer.Class, "", "it"}, {" class=metallb", "", "it"}, {others, "", ""}, {ours, "", "it"}}},
		{name: "another's becomes internal", steps: []step{{others + " finalizer", "", ""}, {internal + " finalizer", "", ""}}},
		{name: "ours becomes another's while we do not look, and then internal", steps: []step{{ours + " finalizer", "", "finalizer"}, {internal + " finalizer", "", "finalizer"},
			{others + " finalizer", "", ""}, {internal + " finalizer", "", "finalizer"}}},
		{name: "ours becomes another's, which puts its own there", steps: []step{{ours + " finalizer", "", "finalizer"}, {internal, "", ""}, {others, "", ""}, {others + " finalizer", "", ""}, {internal + " finalizer", "", ""}}},
		{name: "ours becomes another's, which replaces the finalizer", steps: []step{{ours + " finalizer", "", "finalizer"}, {others + " finalizer", "", ""}, {others, "", ""},
			{others + " finalizer", "", ""}, {internal + " finalizer", "", ""}}},
		{name: "we start, and it is internal already: we put the finalizer there", steps: []step{{internal + " finalizer", fieldManager, "finalizer"}, {internal, "", ""}}},
		{name: "we start, and it is internal already: somebody else put it there", steps: []step{{internal + " finalizer", "example-lb", ""}}},
		{name: "those without a class are left to others, and keep what we put there until they go", ours: service.Ours{ClassOnly: true},
			steps: []step{{ours + " finalizer shows=10.0.0.1", fieldManager, ""}, {ours + " finalizer shows=10.0.0.1 deleted", fieldManager, "finalizer"}}},
		{name: "one of our class becomes internal and comes back without a class", ours: service.Ours{ClassOnly: true},
			steps: []step{{" finalizer class=" + loadbalancer.Class, "", "finalizer"}, {internal + " finalizer", "", "finalizer"}, {ours + " finalizer", "", ""}}},
		{name: "and others who take them over let them go", ours: service.Ours{ClassOnly: true},
			steps: []step{{ours + " finalizer shows=10.0.0.1 deleted", "example-lb", ""}}},
	} {
		view := &view{ours: test.ours}
		for _, step := range test.steps {
			svc := aService(t, "shop/web uid=1"+step.state)
			svc.ManagedFields = managed(step.manager, "finalizer", "status")
			before := svc.DeepCopy()
			for range 2 { // an informer may trim its own work once more
				if _, err := trim(svc); err != nil {
					t.Fatal(err)
				}
			}
			sees := ""
			if seen := view.of(svc); seen != nil {
				if sees = "it"; servicehelper.HasLBFinalizer(seen) {
					sees = "finalizer"
				}
				if seen.Spec.LoadBalancerClass != nil {
					t.Errorf("%s: it sees the class %s", test.name, *seen.Spec.LoadBalancerClass)
				}
			}
			if sees != step.sees {
				t.Errorf("%s: after %q the controller sees %q, want %q", test.name, step.state, sees, step.sees)
			}
			if svc.ManagedFields = before.ManagedFields; !reflect.DeepEqual(svc, before) {
				t.Errorf("%s: the informer's copy changed", test.name)
			}
		}
		view.forget(aService(t, "shop/web uid=1"))
		if left := view.remembered(); len(left) > 0 {
			t.Errorf("%s: %d are remembered of a Service that is gone", test.name, len(left))
		}
	}
}

func TestOfManagedFieldsOnlyTheWritersOfStatusAndFinalizerAreKept(t *testing.T) {
	at := func(second int) *metav1.Time {
		return &metav1.Time{Time: time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC)}
	}
	svc := aService(t, "shop/web")
	svc.ManagedFields = append(managed("ours", "finalizer", "status"), append(managed("kubectl-edit", "status"), metav1.ManagedFieldsEntry{Manager: "kubectl",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:ports":{}}}`)}, metav1.ManagedFieldsEntry{Manager: "none"})...)
	svc.ManagedFields[1].Time, svc.ManagedFields[2].Time = at(1), at(2)
	for range 2 {
		if _, err := trim(svc); err != nil {
			t.Fatal(err)
		}
		same(t, "wrote the status", writersOf(svc, ofStatus), []string{"kubectl-edit", "ours"})
		same(t, "put the finalizer there", writersOf(svc, ofFinalizer), []string{"ours"})
		if len(svc.ManagedFields) != 3 {
			t.Errorf("kept %v", svc.ManagedFields)
		}
	}
	object, err := trim(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config", ManagedFields: []metav1.ManagedFieldsEntry{{}}}, Data: map[string]string{"config": "x"}})
	if want := (&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: map[string]string{"config": "x"}}); err != nil || !reflect.DeepEqual(object, want) {
		t.Errorf("got %+v, %v", object, err)
	}
	if got, err := trim("no object at all"); got != "no object at all" || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

// Another controller that puts back whatever it wants is fought for a while, then seldom, and its name is told.
func TestASecondWriterOfTheStatusIsFoughtLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t, "shop/web")
		c.cloud.admit(nil, pools(t, "vip 10.0.0.0/30"), nil, loadbalancer.NoConsent)
		synctest.Wait()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { // it looks thirty times a second
			defer close(done)
			for ctx.Err() == nil {
				if svc := c.get("shop/web"); shown(service.Addresses(svc)) != "192.0.2.1" {
					c.change("shop/web", func(s *corev1.Service) {
						s.Status.LoadBalancer = *service.Status(addrs("192.0.2.1"))
					})
				}
				<-time.After(time.Second / 30)
			}
		}()
		repairs := func(d time.Duration) (n int) {
			c.wrote()
			<-time.After(d)
			synctest.Wait()
			for _, w := range c.wrote() {
				if strings.HasPrefix(w, "patch") {
					n++
				}
			}
			return n
		}
		if n := repairs(10 * time.Second); n == 0 || n > 5 {
			t.Errorf("put right %d times in the first ten seconds", n)
		}
		<-time.After(2 * time.Minute)
		if n := repairs(10 * time.Minute); n < 8 || n > 11 {
			t.Errorf("put right %d times in ten minutes", n)
		}
		told := 0
		for _, e := range c.book.take() {
			if strings.HasPrefix(e, `shop/web Warning StatusConflict field manager "unknown" writes the status again and again`) {
				told++
			} else if strings.Contains(e, "StatusConflict") {
				t.Errorf("it hears %s", e)
			}
		}
		if told == 0 {
			t.Error("nobody is told")
		}
		stop()
		<-done
		<-time.After(10 * time.Minute)
		synctest.Wait()
		if got := shown(service.Addresses(c.get("shop/web"))); got != "10.0.0.0" {
			t.Errorf("it gave up, and the status shows %q", got)
		}
		c.change("shop/web", func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
		synctest.Wait()
		if got := shown(service.Addresses(c.get("shop/web"))); got != "10.0.0.0" {
			t.Errorf("a single wipe is not mended at once: %q", got)
		}
		same(t, "events of a single wipe", c.book.take(), nil)
	})
}

// An operator leaves Services without a class to others, and takes them back. The way there and back loses nothing, and keeps
// nobody from deleting what was ours.
func TestClassOnlyIsSwitchedOnAndOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vip := pools(t, "vip 10.0.0.0/31")
		c := newControlled(t, "shop/web", "shop/named class=metallb")
		c.ours = service.Ours{Classes: []string{"metallb"}}
		c.end()
		c.start(vip)
		c.manager = fieldManager
		show := func(name string) string { return shown(service.Addresses(c.get(name))) }
		if show("shop/web") == "" || show("shop/named") == "" {
			t.Fatalf("web shows %q, and named %q", show("shop/web"), show("shop/named"))
		}
		c.create("shop/waits")
		synctest.Wait()
		web := show("shop/web")
		c.wrote()

		c.ours.ClassOnly = true
		c.end()
		c.start(vip)
		c.create("shop/late class=metallb")
		synctest.Wait()
		<-time.After(time.Hour)
		synctest.Wait()
		if show("shop/web") != web || show("shop/late") != "" || show("shop/named") == "" {
			t.Errorf("web shows %q, late %q, and named %q", show("shop/web"), show("shop/late"), show("shop/named"))
		}
		for _, w := range c.wrote() {
			if strings.HasPrefix(w, "patch") && !strings.Contains(w, "shop/late") {
				t.Errorf("after the switch: %s", w)
			}
		}
		if held := c.cloud.ledger.allocator.Holdings(); len(held) != 1 { // what others show keeps no text from being admitted
			t.Errorf("ours hold %v", held)
		}

		// It is switched off again: what shows an address keeps it.
		c.ours.ClassOnly = false
		c.end()
		c.start(vip)
		if got := c.wrote(); len(got) > 0 || show("shop/web") != web {
			t.Errorf("back again, web shows %q, and we wrote %q", show("shop/web"), got)
		}

		// On again, and everybody decides: one is deleted, one that waited too.
		c.ours.ClassOnly = true
		c.end()
		c.start(vip)
		for _, name := range []string{"shop/web", "shop/waits"} {
			c.change(name, func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		}
		c.end()
		c.start(vip) // also after a restart
		for _, name := range []string{"shop/web", "shop/waits"} {
			if got := c.get(name).Finalizers; len(got) > 0 {
				t.Errorf("%s is Terminating for ever, by %q", name, got)
			}
			namespace, name, _ := strings.Cut(name, "/")
			if err := c.client.CoreV1().Services(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if show("shop/late") != web {
			t.Errorf("web's address is free, and late shows %q", show("shop/late"))
		}
	})
}

// The service controller is told late that a Service is another's: it lets go of what was ours, not of what the other shows.
func TestWhatAnotherShowsStaysTakenWhenOursIsLetGo(t *testing.T) {
	w := newWorld(t)
	config, _, err := loadbalancer.Parse([]byte("address-pools: [{name: a, cidr: [10.0.0.0/29]}]"))
	if err != nil {
		t.Fatal(err)
	}
	w.config = config
	w.restart()
	w.put("shop/s", aService(t, "shop/s uid=1"))
	w.settle()
	class, mode := "example.com/other", corev1.LoadBalancerIPModeVIP
	w.change("shop/s", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	w.change("shop/s", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, &class
	})
	w.change("shop/s", func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.5", IPMode: &mode}}
	})
	for w.observe() {
	}
	for w.tell() {
	}
	w.settle()
	w.put("shop/thief", aService(t, "shop/thief uid=2 want=10.0.0.5"))
	w.settle()
	if shown := w.server["shop/thief"].Status.LoadBalancer.Ingress; len(shown) > 0 {
		t.Errorf("10.0.0.5 is shown by another implementation's Service, and ours has %v", shown)
	}
}

// Between what the informer knows and what the API server has, a Service may have become another's: then it gets no address of ours.
func TestNothingIsAddedToAServiceThatBecameAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t, "shop/web")
		synctest.Wait()
		stale := c.get("shop/web").DeepCopy()
		c.change("shop/web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
		c.change("shop/web", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.LoadBalancerClass, s.Finalizers = corev1.ServiceTypeLoadBalancer, new("example.com/other"), nil
		})
		synctest.Wait()
		c.cloud.lookup = func(string, string) *corev1.Service { return stale }
		for _, patch := range []string{
			`{"metadata":{"finalizers":["service.kubernetes.io/load-balancer-cleanup"]}}`,
			`{"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.1","ipMode":"VIP"}]}}}`,
		} {
			g := guarded{c.client.CoreV1().Services("shop"), c.cloud, "shop"}
			if _, err := g.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
				t.Errorf("%s: %v", patch, err)
			}
		}
		if is := c.get("shop/web"); len(is.Finalizers) > 0 || len(is.Status.LoadBalancer.Ingress) > 0 {
			t.Errorf("another's Service has finalizers %q and shows %v", is.Finalizers, is.Status.LoadBalancer.Ingress)
		}
	})
}
