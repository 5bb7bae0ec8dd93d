package provider

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/metallb/cloud-provider-metallb/service"
)

// A view is what the standard service controller sees of the cluster's Services: ours, and what is left of those that were.
// Another implementation's do not exist for it, so that it cannot write to them. Of ours it does not see the class, because
// it serves only Services without one; its patches never carry the spec, so that what is changed here stays here.
type view struct {
	ours service.Ours

	mu sync.Mutex
	// left are the Services that were ours when they had the finalizer last: it is ours to remove. (The API server knows too,
	// but not if somebody restored the Service from a file.)
	left map[types.UID]*corev1.Service
}

func newView(ours service.Ours) *view {
	return &view{ours: ours, left: map[types.UID]*corev1.Service{}}
}

// of returns the Service as the service controller may see it; nil if it must not.
func (v *view) of(svc *corev1.Service) *corev1.Service {
	serves, finalizer := v.ours.Serves(svc), servicehelper.HasLBFinalizer(svc)
	v.mu.Lock()
	switch {
	case !finalizer:
		delete(v.left, svc.UID)
	case serves:
		v.left[svc.UID] = svc
	}
	left := v.left[svc.UID] != nil || finalizer && slices.Contains(writersOf(svc, ofFinalizer), fieldManager)
	v.mu.Unlock()
	switch {
	case serves && svc.Spec.LoadBalancerClass == nil:
		return svc
	case serves:
		seen := *svc
		seen.Spec.LoadBalancerClass = nil
		return &seen
	case !left:
		return nil
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer:
		return svc
	case svc.Spec.LoadBalancerClass != nil:
		return nil // whoever serves it now may count on the finalizer
	}
	// It has no class, and we serve only those with one. It may have been ours before: then nobody else lets it go.
	others := slices.ContainsFunc(writersOf(svc, ofStatus), func(m string) bool { return m != fieldManager })
	if svc.DeletionTimestamp == nil || others {
		return nil
	}
	return svc
}

// forget is told of a Service that is gone.
func (v *view) forget(svc *corev1.Service) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.left, svc.UID)
}

// remembered returns what forget is to be told of.
func (v *view) remembered() []*corev1.Service {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Values(v.left))
}

// fieldManager is our name in managedFields. The API server takes it from the user agent.
const fieldManager = "metallb-cloud-controller-manager"

// What we keep of managedFields, in place of the type of the fields' format: whose the finalizer is, and who wrote the status.
const (
	ofFinalizer = "finalizer"
	ofStatus    = "status"
)

// writersOf returns the field managers, the last first.
func writersOf(svc *corev1.Service, what string) (all []string) {
	for _, entry := range svc.ManagedFields {
		if entry.FieldsType == what {
			all = append(all, entry.Manager)
		}
	}
	return all
}

// trim is the transform of informers: it drops what nobody here looks at.
func trim(object any) (any, error) {
	if svc, ok := object.(*corev1.Service); ok {
		svc.ManagedFields = writers(svc.ManagedFields)
		return svc, nil
	}
	if m, err := metaOf(object); err == nil {
		m.SetManagedFields(nil)
	}
	return object, nil
}

func writers(entries []metav1.ManagedFieldsEntry) (kept []metav1.ManagedFieldsEntry) {
	keep := func(what string, of metav1.ManagedFieldsEntry) {
		kept = append(kept, metav1.ManagedFieldsEntry{Manager: of.Manager, Time: of.Time, FieldsType: what})
	}
	for _, entry := range entries {
		switch {
		case entry.FieldsType == ofFinalizer || entry.FieldsType == ofStatus: // kept before
			keep(entry.FieldsType, entry)
		case entry.FieldsV1 == nil:
		default:
			if strings.Contains(entry.FieldsV1.GetRawString(), servicehelper.LoadBalancerCleanupFinalizer) {
				keep(ofFinalizer, entry)
			}
			if strings.Contains(entry.FieldsV1.GetRawString(), `"f:loadBalancer"`) {
				keep(ofStatus, entry)
			}
		}
	}
	at := func(entry metav1.ManagedFieldsEntry) time.Time {
		if entry.Time == nil {
			return time.Time{}
		}
		return entry.Time.Time
	}
	slices.SortStableFunc(kept, func(a, b metav1.ManagedFieldsEntry) int { return at(b).Compare(at(a)) })
	return kept
}

// viewed is the ServiceInformer that the service controller gets: by its handler and its lister it sees the view. It
// remembers the handler. Calling that puts a Service on the controller's own queue at once, without a write to the API
// server, even if the Service waits there for the end of a delay.
type viewed struct {
	coreinformers.ServiceInformer
	view *view

	mu      sync.Mutex
	handler cache.ResourceEventHandler // nil until the controller has registered
}

// Requeue makes the service controller look at the Service again. Before the controller has registered, it will look at
// every Service by itself.
func (v *viewed) Requeue(svc *corev1.Service) {
	v.mu.Lock()
	handler := v.handler
	v.mu.Unlock()
	if handler != nil {
		handler.OnAdd(svc, false)
	}
}

// Lister returns the lister of what is in view.
func (v *viewed) Lister() corelisters.ServiceLister { return viewedLister{from: v} }

// Informer returns the informer with its ways to add a handler watched.
func (v *viewed) Informer() cache.SharedIndexInformer {
	return &viewedInformer{v.ServiceInformer.Informer(), v}
}

// behind puts the handler behind the view.
func (v *viewed) behind(h cache.ResourceEventHandler) cache.ResourceEventHandler {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.handler = h
	return viewedHandler{h, v.view}
}

type viewedInformer struct {
	cache.SharedIndexInformer
	to *viewed
}

func (i *viewedInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandler(i.to.behind(h))
}

func (i *viewedInformer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(i.to.behind(h), resync)
}

func (i *viewedInformer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithOptions(i.to.behind(h), options)
}

// A viewedHandler hears of what is in view, and of what leaves it.
type viewedHandler struct {
	to   cache.ResourceEventHandler
	view *view
}

func (h viewedHandler) of(object any) *corev1.Service {
	if svc, ok := object.(*corev1.Service); ok {
		return h.view.of(svc)
	}
	return nil
}

func (h viewedHandler) OnAdd(object any, initially bool) {
	if svc := h.of(object); svc != nil {
		h.to.OnAdd(svc, initially)
	}
}

func (h viewedHandler) OnUpdate(before, after any) {
	was, is := h.of(before), h.of(after)
	switch {
	case is != nil && was != nil:
		h.to.OnUpdate(was, is)
	case is != nil:
		h.to.OnAdd(is, false)
	case was != nil:
		h.to.OnAdd(was, false) // it will look for it, and not find it any more
	}
}

func (h viewedHandler) OnDelete(object any) { h.to.OnDelete(object) }

// A viewedLister can do what the service controller needs: to get one Service.
type viewedLister struct {
	corelisters.ServiceLister
	from *viewed
}

func (l viewedLister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return viewedNamespaceLister{all: l.from.ServiceInformer.Lister().Services(namespace), view: l.from.view}
}

type viewedNamespaceLister struct {
	corelisters.ServiceNamespaceLister
	all  corelisters.ServiceNamespaceLister
	view *view
}

func (l viewedNamespaceLister) Get(name string) (*corev1.Service, error) {
	svc, err := l.all.Get(name)
	if err != nil {
		return nil, err
	}
	if svc = l.view.of(svc); svc == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("services"), name)
	}
	return svc, nil
}
