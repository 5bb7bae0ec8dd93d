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
)

func TestNormalNoiseIsDroppedAndEverythingElsePasses(t *testing.T) {
	tests := []struct {
		kind, reason string
		passes       bool
	}{
		{"Normal", "EnsuringLoadBalancer", false},
		{"Normal", "EnsuredLoadBalancer", false},
		{"Normal", "DeletingLoadBalancer", false},
		{"Normal", "DeletedLoadBalancer", false},
		{"Normal", "UpdatedLoadBalancer", false},
		{"Normal", "LoadBalancerIP", true},
		{"Warning", "SyncLoadBalancerFailed", true},
		{"Warning", "UnAvailableLoadBalancer", true},
		{"Warning", "EnsuredLoadBalancer", true}, // nobody writes it; but a warning is never noise
	}
	for _, test := range tests {
		t.Run(test.kind+" "+test.reason, func(t *testing.T) {
			client, cloud := fake.NewClientset(), New(Options{})
			event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web.1"}, Type: test.kind, Reason: test.reason}
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
				if passes := len(cloud.events.queued) == 1; passes != test.passes {
					t.Errorf("%s: it passes: %t", name, passes)
				}
				clear(cloud.events.queued)
			}
			if n := len(client.Actions()); n != 0 {
				t.Errorf("%d requests of the client that writes statuses: an event would delay one", n)
			}
		})
	}
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
		all := strings.Join(written(), "\n")
		if !strings.Contains(all, "AddressNotInPool xxx") || strings.Contains(all, strings.Repeat("x", 1001)) {
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
