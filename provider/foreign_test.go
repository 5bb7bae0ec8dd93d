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
	classed := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, new("example.com/lb")
	}
	// The other one takes what has its class: it needs the same finalizer, and writes the status.
	take := func(c *controlled) {
		c.changeAs(exampleLB, "shop/web", func(s *corev1.Service) {
			s.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
		})
	}
	ours := func(s *corev1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, nil }
	deleted := func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
	labelled := func(s *corev1.Service) { s.Annotations = map[string]string{"example.com/changed": time.Now().String()} }

	type step struct {
		then   string
		do     func(*controlled)
		writes string // of ours
	}
	change := func(then string, how func(*corev1.Service)) step {
		return step{then: then, do: func(c *controlled) { c.change("shop/web", how) }}
	}
	taken := step{then: "another's", do: func(c *controlled) { c.change("shop/web", classed); take(c) }}
	// The other one found our finalizer there, and does not remove what it did not put there.
	letGo := change("it is deleted", deleted)
	letGo.writes = `patch services/status shop/web {"metadata":{"finalizers":null}}`
	// again is deletion and creation at once, with nothing of the old one left.
	again := step{then: "recreated", do: func(c *controlled) {
		if err := c.client.CoreV1().Services("shop").Delete(c.t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			c.t.Fatal(err)
		}
		c.create("shop/web uid=again" + others)
		take(c)
	}}
	vip := pools(t, "vip 10.0.0.0/30")
	restart := step{then: "the controller manager starts again", do: func(c *controlled) { c.end(); c.start(vip) }}
	down := func(all ...step) step {
		return step{then: "much happens while nobody leads", do: func(c *controlled) {
			c.end()
			for _, s := range all {
				s.do(c)
			}
			c.start(vip)
		}}
	}
	internally, atOnce := change("internal", internal), step{then: "internal and another's before the service controller's turn", do: func(c *controlled) {
		c.change("shop/web", func(s *corev1.Service) { internal(s); classed(s) })
		take(c)
	}}
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
			taken, down(internally), change("it is deleted", deleted), restart}},
		"ours waits, becomes internal, and then another's": {begins: "shop/web want=192.0.2.1", before: []step{internally}, steps: []step{
			taken, change("somebody changes it", labelled), restart, change("it is deleted", deleted)}},
		"ours waits and is another's before we look": {begins: "shop/web want=192.0.2.1", steps: []step{
			atOnce, change("somebody changes it", labelled), restart, letGo, restart}},
		"ours is another's before we look, and becomes internal": {begins: "shop/web", steps: []step{
			atOnce, internally, change("somebody changes it", labelled), restart, letGo, restart}},
		"ours is another's and internal before we start again": {begins: "shop/web", steps: []step{
			down(internally, taken, internally), change("somebody changes it", labelled), letGo}},
		"ours becomes another's while nobody leads": {begins: "shop/web", steps: []step{down(internally, taken), letGo}},
		"ours waits and comes again as another's": {begins: "shop/web want=192.0.2.1", steps: []step{
			again, change("somebody changes it", labelled), restart, change("it is deleted", deleted)}},
		"ours has an address and comes again as another's": {begins: "shop/web", steps: []step{
			again, change("somebody changes it", labelled), change("it is deleted", deleted)}},
		"ours has an address, becomes internal, and then another's": {begins: "shop/web", before: []step{internally}, steps: []step{
			taken, internally, taken, change("it is deleted", deleted)}},
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
					<-time.After(patience)
					c.cloud.letGo()
					synctest.Wait()
					early := len(c.client.Actions())
					<-time.After(time.Hour)
					c.cloud.letGo()
					synctest.Wait()
					if s.writes != "" && early == len(c.client.Actions()) {
						t.Errorf("%s: nothing is written, or too early", s.then)
					}
					// What the test does itself makes it another's with the last request; before that, it was still ours.
					var writes []string
					for _, w := range c.wrote() {
						if writes = append(writes, w); !strings.HasPrefix(w, "patch") {
							writes = nil
						}
					}
					if got := strings.Join(writes, " "); got != s.writes {
						t.Errorf("%s: we write %q, not %q", s.then, got, s.writes)
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
		c.cloud.letGo()
		synctest.Wait()
		if got := c.get("shop/web").Finalizers; len(got) > 0 {
			t.Errorf("it still has %q", got)
		}
	})
}

// managed is what the API server notes of who put the finalizer there, or wrote the status: us, an implementation lb, or somebody
// with a file that has both.
func managed(what, by string) metav1.ManagedFieldsEntry {
	fields := `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`
	if what == ofFinalizer {
		fields = `{"f:metadata":{"f:finalizers":{".":{},"v:\"service.kubernetes.io/load-balancer-cleanup\"":{}}}}`
	}
	now := time.Now()
	e := metav1.ManagedFieldsEntry{Manager: by, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields), Time: &metav1.Time{Time: now}}
	switch by {
	case "lb before":
		e.Manager, e.Subresource, e.Time = "lb", "status", &metav1.Time{Time: now.Add(-time.Second)}
	case "us":
		e.Manager, e.Subresource = fieldManager, "status"
	case "lb":
		e.Subresource = "status"
	}
	return e
}

// What the service controller sees of a Service, by its state and by who wrote its finalizer and, last, its status: nothing, it, or
// it with the finalizer, which is then removed unless it is ours and lives.
func TestTheServiceControllerSeesWhatIsOursAndWhatWasOurs(t *testing.T) {
	const others, internal, late = " class=example.com/lb", " type=ClusterIP", " deleted-for=6m"
	none, named, classOnly := service.Ours{}, service.Ours{Classes: []string{"metallb"}}, service.Ours{ClassOnly: true}
	for _, test := range []struct {
		what                    string
		ours                    service.Ours
		state                   string
		finalizer, status, sees string
	}{
		{"ours", none, "", "", "", "it"},
		{"ours, with a finalizer", none, "", "us", "us", "finalizer"},
		{"ours, from a file", none, "", "file", "", "finalizer"},
		{"of our class", none, " class=" + loadbalancer.Class, "", "", "it"},
		{"of a class that the operator chose", named, " class=metallb", "", "", "it"},
		{"of another class", named, others, "", "", ""},
		{"internal", none, internal, "", "", ""},
		{"another's, with its finalizer", none, others, "lb", "lb", ""},
		{"and deleted long ago", none, others + late, "lb", "lb", ""},
		{"and internal", none, internal, "lb", "lb", ""},
		{"and deleted", none, internal + late, "lb", "lb", ""},
		{"another's, internal, which came to put the finalizer there", none, internal + late, "lb", "", ""},
		{"another's, from a file", none, others + late, "file", "lb", ""},
		{"and it waits", none, others + late, "file", "", ""},
		{"and internal", none, internal + late, "file", "lb", ""},

		{"ours becomes internal", none, internal, "us", "us", "finalizer"},
		{"and waited", none, internal, "us", "", "finalizer"},
		{"ours from a file becomes internal", none, internal, "file", "us", "finalizer"},
		{"and waited: perhaps somebody else cares", none, internal, "file", "", ""},
		{"but nobody did for long", none, internal + late, "file", "", "finalizer"},
		{"of which nothing is known", none, internal + late, "-", "", "finalizer"},
		{"ours becomes another's before we look: it is left alone", none, others, "us", "us", ""},
		{"and deleted: the other may need some time", none, others + " deleted", "us", "us", ""},
		{"which nobody does for long", none, others + late, "us", "us", "finalizer"},
		{"ours becomes another's, who takes it", none, others, "us", "lb", ""},
		{"and internal", none, internal, "us", "lb", ""},
		{"and deleted", none, internal + " deleted", "us", "lb", ""},
		{"and the other does nothing for long", none, internal + late, "us", "lb", "finalizer"},
		{"ours from a file becomes another's, who takes it", none, others + late, "file", "lb", ""},
		{"another's becomes ours, waits, and becomes internal", none, internal, "us", "lb before", "finalizer"},
		{"and is left to others", classOnly, " deleted", "us", "lb before", "finalizer"},

		{"without a class, left to others, and was ours", classOnly, "", "us", "us", ""},
		{"until it goes", classOnly, " deleted", "us", "us", "finalizer"},
		{"from a file", classOnly, " deleted", "file", "us", "finalizer"},
		{"where it waited", classOnly, " deleted", "us", "", "finalizer"},
		{"from a file, and it waited", classOnly, " deleted", "file", "", ""},
		{"for long", classOnly, late, "file", "", "finalizer"},
		{"and others took it over", classOnly, " deleted", "us", "lb", ""},
		{"who let it go", classOnly, " deleted", "lb", "lb", ""},
		{"and always were others'", classOnly, late, "lb", "lb", ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				svc := aService(t, "shop/web uid=1"+test.state)
				if test.finalizer != "" {
					svc.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
					svc.ManagedFields = append(svc.ManagedFields, managed(ofFinalizer, test.finalizer))
				}
				if test.finalizer == "-" {
					svc.ManagedFields = nil
				}
				if test.status != "" {
					svc.ManagedFields = append(svc.ManagedFields, managed(ofStatus, test.status))
				}
				before := svc.DeepCopy()
				for range 2 { // an informer may trim its own work once more
					if _, err := trim(svc); err != nil {
						t.Fatal(err)
					}
				}
				sees := ""
				if seen := (view{test.ours}).of(svc); seen != nil {
					if sees = "it"; servicehelper.HasLBFinalizer(seen) {
						sees = "finalizer"
					}
					if seen.Spec.LoadBalancerClass != nil && test.ours.Serves(svc) {
						t.Errorf("it sees the class %s", *seen.Spec.LoadBalancerClass)
					}
				}
				if sees != test.sees {
					t.Errorf("the controller sees %q, want %q", sees, test.sees)
				}
				if svc.ManagedFields = before.ManagedFields; !reflect.DeepEqual(svc, before) {
					t.Error("the informer's copy changed")
				}
			})
		})
	}
}

func TestOfManagedFieldsOnlyTheWritersOfStatusAndFinalizerAreKept(t *testing.T) {
	at := func(second int) *metav1.Time {
		return &metav1.Time{Time: time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC)}
	}
	svc := aService(t, "shop/web")
	svc.ManagedFields = []metav1.ManagedFieldsEntry{managed(ofFinalizer, "ours"), managed(ofStatus, "ours"), managed(ofStatus, "kubectl-edit"), {Manager: "kubectl",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:ports":{}}}`)}, {Manager: "none"}}
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

// A leader dies while it fights over a status. What that shows is somebody else's: the next leader knows the address all the same,
// gives it to nobody, and goes on where the first was.
func TestAFightOverAStatusOutlivesTheLeader(t *testing.T) {
	for writes, empty := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			vip := pools(t, "vip 10.0.0.0/30")
			c := newControlled(t, "shop/web age=1")
			c.cloud.admit(nil, vip, nil, loadbalancer.NoConsent)
			synctest.Wait()
			reviews := 0
			c.cloud.review = func() { reviews++ }
			forge := func() {
				c.changeAs(exampleLB, "shop/web", func(s *corev1.Service) {
					s.Status.LoadBalancer = *service.Status(addrs("10.0.0.3"))
					if empty {
						s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
					}
				})
				synctest.Wait()
			}
			if forge(); c.cloud.fights() != "" {
				t.Error("a single write is a fight")
			}
			forge()
			if c.contested = c.cloud.fights(); c.contested != "shop/web 10.0.0.0" || reviews != 1 {
				t.Errorf("to be kept are %q, and %d reviews were asked for", c.contested, reviews)
			}
			c.end()
			if writes == 0 {
				forge()
			}
			c.create("shop/thief want=10.0.0.0 age=2")
			c.start(vip)
			web, thief := shown(service.Addresses(c.get("shop/web"))), shown(service.Addresses(c.get("shop/thief")))
			if web != "10.0.0.0" || thief != "" {
				t.Errorf("with an empty status %t: web shows %q, and the thief %q", empty, web, thief)
			}
			c.book.take()
			forge()
			if events := strings.Join(c.book.take(), "\n"); !strings.Contains(events, "shop/web Warning StatusConflict") || c.cloud.fights() != c.contested {
				t.Errorf("events %q, and kept are %q", events, c.cloud.fights())
			}
			<-time.After(time.Hour)
			synctest.Wait()
			if web := shown(service.Addresses(c.get("shop/web"))); web != "10.0.0.0" || c.cloud.fights() != "" {
				t.Errorf("after an hour of peace web shows %q, and kept are %q", web, c.cloud.fights())
			}

			// What we wrote last is the address, whatever was noted before.
			c.change("shop/web", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.0.0.2" })
			synctest.Wait()
			c.end()
			c.start(vip)
			if web := shown(service.Addresses(c.get("shop/web"))); web != "10.0.0.2" {
				t.Errorf("it moved, and shows %q", web)
			}
		})
	}
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
