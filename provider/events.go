package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/metallb/cloud-provider-metallb/service"
)

// quietClient is the client given to the service controller. Its events are dropped, and its Services are guarded.
type quietClient struct {
	kubernetes.Interface
	cloud *Cloud
}

func (c quietClient) CoreV1() typedcorev1.CoreV1Interface {
	return quietCore{c.Interface.CoreV1(), c.cloud}
}

type quietCore struct {
	typedcorev1.CoreV1Interface
	cloud *Cloud
}

func (c quietCore) Services(namespace string) typedcorev1.ServiceInterface {
	return guarded{c.CoreV1Interface.Services(namespace), c.cloud, namespace}
}

func (c quietCore) Events(string) typedcorev1.EventInterface {
	return noEvents{}
}

// noEvents drops the service controller's events. It writes Normal ones on every sync of every Service, EnsuringLoadBalancer,
// EnsuredLoadBalancer and the like, which say nothing; and its broadcaster lets through 25 about one Service in five minutes, the
// noise among them, so that the failures that count would get lost. Those we tell ourselves.
type noEvents struct {
	typedcorev1.EventInterface // nil: the service controller calls no other method
}

// CreateWithEventNamespace drops an event.
func (noEvents) CreateWithEventNamespace(e *corev1.Event) (*corev1.Event, error) { return e, nil }

// UpdateWithEventNamespace drops an event.
func (noEvents) UpdateWithEventNamespace(e *corev1.Event) (*corev1.Event, error) { return e, nil }

// PatchWithEventNamespace drops an event.
func (noEvents) PatchWithEventNamespace(e *corev1.Event, _ []byte) (*corev1.Event, error) {
	return e, nil
}

// failed tells a Service's users what the service controller cannot do for it, in its words.
func (c *Cloud) failed(svc *corev1.Service, what, why string) {
	c.record.Eventf(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to %s: %s", what, why)
}

// quiet returns a context for the service controller, which logs every event, the noise too: they are in the cluster.
func quiet(ctx context.Context) context.Context {
	return klog.NewContext(ctx, klog.FromContext(ctx).V(5))
}

// mostOfAnEvent is how long the text of an event may be.
const mostOfAnEvent = 1000

const (
	// eventsLast is for how long an event is tried: later, nobody looks for it any more.
	eventsLast = 5 * time.Minute
	// eventsRetry is the pause after an attempt that failed.
	eventsRetry = 5 * time.Second
	// Events wait until no status was written for this long, since users wait for those, but not longer than that.
	statusesRest     = 100 * time.Millisecond
	eventsWaitAtMost = 30 * time.Second
	// After so many events about one object, each other waits its turn, and gives way to a later one of its reason.
	eventsBurst = 25
	eventsPace  = 10 * time.Second
	// eventsFlush is how long the end of the process waits for them. Kubernetes kills it after half a minute.
	eventsFlush = 10 * time.Second
)

// events are what users are to hear: one event of each reason about each object, since of two the later counts. The recorder
// of client-go has room for a thousand, and drops the rest.
type events struct {
	source corev1.EventSource
	status atomic.Int64 // when a status was written last, in nanoseconds
	names  atomic.Int64 // makes names of events differ that are made at one time
	ending atomic.Bool  // there will be no later time to write them
	queue  *workqueue.Typed[about]
	ended  chan struct{} // closed when nobody writes any more

	mu     sync.Mutex // guards the rest
	queued map[about]*queued
}

// about is what one event is kept of.
type about struct {
	uid    types.UID
	name   string // namespace/name: not every object has a UID
	reason string
}

type queued struct {
	event *corev1.Event
	since time.Time
	// result is what the correlator made of it, which counts every question; nil before the first attempt.
	result *record.EventCorrelateResult
}

func newEvents() *events {
	return &events{source: corev1.EventSource{Component: "metallb-controller"}, queue: workqueue.NewTyped[about](), ended: make(chan struct{}), queued: map[about]*queued{}}
}

// Eventf tells of an object.
func (q *events) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	ref, err := reference.GetReference(scheme.Scheme, object)
	if err != nil {
		klog.ErrorS(err, "Cannot tell of an object", "reason", reason)
		return
	}
	now, text := metav1.Now(), service.Cut(fmt.Sprintf(format, args...), mostOfAnEvent)
	name := fmt.Sprintf("%s.%x", ref.Name, now.UnixNano()+q.names.Add(1))
	if kind == corev1.EventTypeWarning { // one that is there already is not told again by the next leader
		name = ref.Name + "." + service.Hash(string(ref.UID)+reason+text)
	}
	key := about{ref.UID, ref.Namespace + "/" + ref.Name, reason}
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: cmp.Or(ref.Namespace, metav1.NamespaceDefault), Name: name},
		InvolvedObject: *ref, Type: kind, Reason: reason, Message: text,
		FirstTimestamp: now, LastTimestamp: now, Count: 1, Source: q.source, ReportingController: q.source.Component,
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	since := now.Time
	if earlier := q.queued[key]; earlier != nil {
		since = earlier.since
	}
	q.queued[key] = &queued{event: e, since: since}
	q.queue.Add(key)
}

// wrote takes note of a status that is being written.
func (q *events) wrote() { q.status.Store(time.Now().UnixNano()) }

// run writes events until ctx ends.
func (q *events) run(ctx context.Context, sink typedcorev1.EventInterface) {
	defer close(q.ended)
	defer context.AfterFunc(ctx, q.queue.ShutDown)()
	correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{Clock: clock.RealClock{}, BurstSize: eventsBurst, QPS: float32(1 / eventsPace.Seconds())})
	for {
		key, ends := q.queue.Get()
		if ends {
			return
		}
		q.mu.Lock()
		x := q.queued[key]
		delete(q.queued, key)
		q.mu.Unlock()
		if x == nil { // it was written meanwhile
			q.queue.Done(key)
			continue
		}
		for ctx.Err() == nil && !q.ending.Load() && time.Since(x.since) < eventsWaitAtMost && time.Since(time.Unix(0, q.status.Load())) < statusesRest {
			pause(ctx, statusesRest)
		}
		switch err := write(ctx, sink, correlator, x); {
		case errors.Is(err, errTooMany):
			q.again(key, x, eventsPace)
		case err != nil:
			klog.V(2).InfoS("Cannot write an event yet", "object", key.name, "reason", key.reason, "why", err)
			q.again(key, x, eventsRetry)
			pause(ctx, eventsRetry)
		}
		q.queue.Done(key)
	}
}

// again puts an event back for later, unless it is too old or a later one is there.
func (q *events) again(key about, x *queued, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.queued[key] != nil:
	case time.Since(x.since) > eventsLast:
		eventsDropped.Inc()
	default:
		q.queued[key] = x
		time.AfterFunc(after, func() { q.queue.Add(key) })
	}
}

// flush waits until everything in the queue is written, now that the process ends, but not for ever.
func (q *events) flush() {
	q.ending.Store(true)
	q.queue.ShutDown()
	select {
	case <-q.ended:
	case <-time.After(eventsFlush):
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// errTooMany says that an object has had many events.
var errTooMany = errors.New("too many events about one object")

// write writes one event, or counts it where it repeats another. That it cannot be written anywhere, as where the namespace
// is going, is no error.
func write(ctx context.Context, sink typedcorev1.EventInterface, correlator *record.EventCorrelator, x *queued) (err error) {
	if x.result == nil {
		if x.result, err = correlator.EventCorrelate(x.event); err != nil {
			return err
		}
	}
	result := x.result
	if result.Skip {
		x.result = nil
		return errTooMany
	}
	var written *corev1.Event
	if len(result.Patch) > 0 {
		written, err = sink.PatchWithEventNamespaceWithContext(ctx, result.Event, result.Patch)
	}
	if len(result.Patch) == 0 || apierrors.IsNotFound(err) { // it was there for an hour
		result.Event.ResourceVersion = ""
		written, err = sink.CreateWithEventNamespaceWithContext(ctx, result.Event)
	}
	if err == nil {
		correlator.UpdateState(written)
	} else if apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
		err = nil
	}
	return err
}
