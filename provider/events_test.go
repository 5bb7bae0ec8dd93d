package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func TestTheServiceControllersOwnEventsAreDropped(t *testing.T) {
	client, cloud := fake.NewClientset(), New(Options{})
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web.1"}, Type: "Warning", Reason: "SyncLoadBalancerFailed"}
	// What the recorder calls.
	sink := typedcorev1.EventSinkImpl{Interface: quietClient{client, cloud}.CoreV1().Events("")}
	for name, call := range map[string]func() (*corev1.Event, error){
		"create": func() (*corev1.Event, error) { return sink.Create(event) },
		"patch":  func() (*corev1.Event, error) { return sink.Patch(event, []byte(`{"count":2}`)) },
		"update": func() (*corev1.Event, error) { return sink.Update(event) },
	} {
		if got, err := call(); err != nil || got.Reason != event.Reason {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if n := len(client.Actions()) + len(cloud.events.queued); n != 0 {
		t.Errorf("%d requests or events", n)
	}
}

// Somebody tries one address after the other: he hears of the last, by the real service controller, whose own broadcaster would
// have let 25 events through, with its noise.
func TestWhoEditsHisServiceManyTimesHearsOfTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t, "shop/web")
		c.cloud.record = c.cloud.events
		c.cloud.admit(nil, pools(t, "vip 10.0.0.0/30"), nil, loadbalancer.NoConsent)
		for i := range 40 {
			c.change("shop/web", func(s *corev1.Service) {
				s.Annotations = map[string]string{"metallb.universe.tf/loadBalancerIPs": fmt.Sprintf("172.30.0.%d", i)}
			})
			<-time.After(300 * time.Millisecond)
		}
		<-time.After(2 * eventsPace)
		const last = "Error syncing load balancer: failed to ensure load balancer: no pool owns address 172.30.0.39: ask for an address of pool \"vip\", or add it to a pool"
		if all := strings.Join(c.warnings(), "\n"); !strings.Contains(all, last) {
			t.Errorf("nobody hears of the last: %s", all)
		}
	})
}

// What the service controller cannot write is told, too.
func TestWhatCannotBeWrittenIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t)
		c.client.PrependReactor("patch", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(corev1.Resource("services"), "web", errors.New("no"))
		})
		c.create("shop/web")
		synctest.Wait()
		same(t, "events", c.book.take(), []string{`shop/web Warning SyncLoadBalancerFailed Error syncing load balancer: failed to write to the Service: services "web" is forbidden: no`})
	})
}

// A new leader finds the Services that wait. Their users heard why already, and the events are still there.
func TestTheNextLeaderRepeatsNoWarningThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		list := func() (all []string) {
			<-time.After(time.Second)
			synctest.Wait()
			events, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events.Items {
				all = append(all, fmt.Sprintf("%s %s ×%d", e.Reason, e.Message, e.Count))
			}
			slices.Sort(all)
			return all
		}
		lead := func() (*events, func()) {
			q, done := newEvents(), make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { q.run(ctx, client.CoreV1().Events("")); close(done) }()
			return q, func() { cancel(); <-done }
		}
		web, api := aService(t, "shop/web"), aService(t, "shop/api")
		q, end := lead()
		q.Eventf(web, "Warning", "SyncLoadBalancerFailed", "full")
		q.Eventf(api, "Normal", "IPAllocated", "assigned 10.0.0.1")
		list()
		end()
		q, end = lead()
		defer func() { end() }()
		q.Eventf(web, "Warning", "SyncLoadBalancerFailed", "full")
		q.Eventf(api, "Normal", "IPAllocated", "assigned 10.0.0.1")
		same(t, "at a start", list(), []string{"IPAllocated assigned 10.0.0.1 ×1", "IPAllocated assigned 10.0.0.1 ×1", "SyncLoadBalancerFailed full ×1"})
		q.Eventf(web, "Warning", "SyncLoadBalancerFailed", "full")
		q.Eventf(aService(t, "shop/web uid=another"), "Warning", "SyncLoadBalancerFailed", "full")
		same(t, "later, and of another Service of that name", list(), []string{"IPAllocated assigned 10.0.0.1 ×1", "IPAllocated assigned 10.0.0.1 ×1", "SyncLoadBalancerFailed full ×1", "SyncLoadBalancerFailed full ×2"})
		events, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items { // after an hour
			if err := client.CoreV1().Events("shop").Delete(t.Context(), e.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		q.Eventf(web, "Warning", "SyncLoadBalancerFailed", "full")
		same(t, "when it is there no more", list(), []string{"SyncLoadBalancerFailed full ×3"})
	})
}

// Users hear of everything that happened to their Service once, however much happens at one time and whatever the API server
// says meanwhile.
func TestNoEventIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, stored := fake.NewClientset(), map[string]*corev1.Event{} // the fake one takes milliseconds for each
		var refuses atomic.Bool
		var mu sync.Mutex
		client.PrependReactor("*", "events", func(a k8stesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			if refuses.Load() {
				return true, nil, errors.New("not now")
			}
			if create, ok := a.(k8stesting.CreateAction); ok {
				e := create.GetObject().(*corev1.Event)
				stored[e.Name] = e.DeepCopy()
				return true, e, nil
			}
			e := stored[a.(k8stesting.PatchAction).GetName()]
			return true, e, json.Unmarshal(a.(k8stesting.PatchAction).GetPatch(), e)
		})
		metrics.NewKubeRegistry().MustRegister(eventsDropped)
		q := newEvents()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { q.run(ctx, client.CoreV1().Events("")); close(done) }()
		defer func() { cancel(); <-done }()
		written := func() (all []string) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range stored {
				all = append(all, fmt.Sprintf("%s %s %s ×%d", e.InvolvedObject.Name, e.Reason, e.Message, e.Count))
			}
			slices.Sort(all)
			return all
		}
		for i := range 2000 { // an operator renumbers
			q.Eventf(aService(t, fmt.Sprintf("shop/web%d", i)), "Normal", "Renumbered", "10.0.0.1 became 10.9.0.1 of pool vip")
		}
		synctest.Wait()
		if got := len(written()); got != 2000 {
			t.Errorf("%d of 2000 are written", got)
		}

		web := aService(t, "farm/web")
		refuses.Store(true)
		q.Eventf(web, "Normal", "IPAllocated", "assigned 10.0.0.1 from pool vip")
		q.Eventf(web, "Warning", "AddressConflict", "another has it")
		synctest.Wait()
		q.Eventf(web, "Normal", "IPAllocated", "assigned 10.0.0.2 from pool vip")
		<-time.After(4 * time.Minute)
		refuses.Store(false)
		<-time.After(time.Minute)
		synctest.Wait()
		var got []string
		for _, e := range written() {
			if strings.HasPrefix(e, "web ") {
				got = append(got, e)
			}
		}
		same(t, "after four minutes", got, []string{"web AddressConflict another has it ×1", "web IPAllocated assigned 10.0.0.2 from pool vip ×1"})

		q.Eventf(web, "Warning", "AddressConflict", "another has it")
		synctest.Wait()
		if all := strings.Join(written(), "\n"); !strings.Contains(all, "web AddressConflict another has it ×2") {
			t.Error("the same once more is not counted")
		}

		dropped, err := testutil.GetCounterMetricValue(eventsDropped)
		if err != nil {
			t.Fatal(err)
		}
		refuses.Store(true)
		q.Eventf(web, "Warning", "StatusConflict", "too late")
		<-time.After(6 * time.Minute)
		synctest.Wait()
		if after, err := testutil.GetCounterMetricValue(eventsDropped); after != dropped+1 {
			t.Errorf("%v events are counted as dropped, %v", after-dropped, err)
		}

		refuses.Store(false)
		q.wrote()
		q.Eventf(web, "Warning", "AddressNotInPool", "%s", strings.Repeat("x", 200_000))
		synctest.Wait()
		if strings.Contains(strings.Join(written(), "\n"), "AddressNotInPool") {
			t.Error("the event did not wait behind statuses")
		}
		<-time.After(time.Second)
		synctest.Wait()
		all := written()[slices.IndexFunc(written(), func(e string) bool { return strings.Contains(e, "AddressNotInPool xxx") })]
		if !strings.Contains(all, "AddressNotInPool xxx") || len(all) > len("web AddressNotInPool  ×1")+1000 {
			t.Error("a long event is not there, or not cut")
		}
	})
}

// Somebody changes his Service, or his text, again and again. What is told last is what is so, however often it was another.
func TestTheLastEventOfManyIsTheOneThatCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var mu sync.Mutex
		writes, last := 0, ""
		client.PrependReactor("*", "events", func(a k8stesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			writes++
			if create, ok := a.(k8stesting.CreateAction); ok {
				e := create.GetObject().(*corev1.Event)
				last = e.Message
				return true, e, nil
			}
			e := &corev1.Event{}
			err := json.Unmarshal(a.(k8stesting.PatchAction).GetPatch(), e)
			last = e.Message
			return true, e, err
		})
		q, done := newEvents(), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { q.run(ctx, client.CoreV1().Events("")); close(done) }()
		for i := range 600 { // one a second
			q.Eventf(aService(t, "shop/web"), "Warning", "SyncLoadBalancerFailed", "no pool is named %d", i)
			<-time.After(time.Second)
		}
		<-time.After(2 * eventsPace)
		synctest.Wait()
		if !strings.HasSuffix(last, "no pool is named 599") {
			t.Errorf("the last that was heard is %q", last)
		}
		if most := eventsBurst + 600/10 + 5; writes > most {
			t.Errorf("they were told in %d writes, more than %d", writes, most)
		}
		cancel()
		<-done
	})
}

// A process that is told to end has said what was to be said, and ends all the same if nobody listens.
func TestEventsAreWrittenBeforeTheProcessEnds(t *testing.T) {
	for answer, within := range map[error]time.Duration{nil: statusesRest, errors.New("not now"): eventsFlush} {
		synctest.Test(t, func(t *testing.T) {
			client := fake.NewClientset()
			var written atomic.Int64
			client.PrependReactor("create", "events", func(a k8stesting.Action) (bool, runtime.Object, error) {
				written.Add(1)
				return true, a.(k8stesting.CreateAction).GetObject(), answer
			})
			q, done := newEvents(), make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { q.run(ctx, client.CoreV1().Events("")); close(done) }()
			go func() { // somebody writes statuses
				for ctx.Err() == nil {
					q.wrote()
					pause(ctx, statusesRest/10)
				}
			}()
			synctest.Wait()
			for i := range 100 {
				q.Eventf(aService(t, fmt.Sprintf("shop/web%d", i)), "Normal", "Renumbered", "10.0.0.2 became 10.9.0.2 of pool vip")
			}
			began := time.Now()
			if q.flush(); time.Since(began) > within || answer == nil && written.Load() != 100 {
				t.Errorf("where the answer is %v, %d of 100 events were written, and the end took %s", answer, written.Load(), time.Since(began))
			}
			cancel()
			<-done
		})
	}
}

func TestTheLogDoesNotRepeatEvents(t *testing.T) {
	for _, loud := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&said))))
			if !loud {
				ctx = quiet(ctx)
			}
			// What the service controller does.
			all := record.NewBroadcaster(record.WithContext(ctx))
			all.StartStructuredLogging(0)
			all.NewRecorder(scheme.Scheme, corev1.EventSource{}).Event(aService(t, "shop/web"), "Warning", "SyncLoadBalancerFailed", "no address pool is configured")
			synctest.Wait()
			klog.FromContext(ctx).Error(errors.New("no"), "Something broke")
			all.Shutdown()
			if text := said.String(); strings.Contains(text, "Event occurred") != loud || !strings.Contains(text, "Something broke") {
				t.Errorf("logged %s", text)
			}
		})
	}
}
