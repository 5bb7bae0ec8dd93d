package provider

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"

	"github.com/metallb/cloud-provider-metallb/service"
)

// A view is what the standard service controller sees of the cluster's Services: ours, and what is left of those that were.
// Another implementation's do not exist for it, so that it cannot write to them. Of ours it does not see the class, because
// it serves only Services without one; its patches never carry the spec, so that what is changed here stays here. It depends
// on nothing but the Service, so that a restart changes nothing.
type view struct{ ours service.Ours }

// of returns the Service as the service controller may see it; nil if it must not.
func (v view) of(svc *corev1.Service) *corev1.Service {
	serves := v.ours.Serves(svc)
	switch {
	case serves && svc.Spec.LoadBalancerClass != nil:
		seen := *svc
		seen.Spec.LoadBalancerClass = nil
		return &seen
	case serves, servicehelper.HasLBFinalizer(svc) && letsGo(svc):
		return svc
	}
	return nil
}

// patience is how long whoever took over a Service of ours has, once it is being deleted, to remove the finalizer that it found
// there: the standard service controller pauses no longer between two attempts.
const patience = 5 * time.Minute

// letsGo reports whether the finalizer of a Service that is not ours, or not any more, is to be removed by us now. The API server
// knows who put it there. If it came with the Service, from a file, it is for whoever wrote the status; the API server still knows
// that when it has emptied it.
func letsGo(svc *corev1.Service) bool {
	var last metav1.Time // of what we wrote
	for _, e := range svc.ManagedFields {
		if at := ptr.Deref(e.Time, metav1.Time{}); e.Manager == fieldManager && last.Before(&at) {
			last = at
		}
	}
	served := slices.Contains(writersOf(svc, ofStatus), fieldManager)
	// Whoever wrote the status before us had it before us.
	others := svc.Spec.LoadBalancerClass != nil || slices.ContainsFunc(svc.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.FieldsType == ofStatus && e.Manager != fieldManager && !e.Time.Before(&last)
	})
	// Implementations put it there with the status.
	fromFile := !slices.ContainsFunc(svc.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.FieldsType == ofFinalizer && e.Subresource == "status"
	})
	mine := slices.Contains(writersOf(svc, ofFinalizer), fieldManager) || fromFile && served
	deleted := svc.DeletionTimestamp != nil
	if deleted && time.Since(svc.DeletionTimestamp.Time) > patience {
		return mine || fromFile && !others
	}
	return mine && !others && (deleted || svc.Spec.Type != corev1.ServiceTypeLoadBalancer)
}

// fieldManager is our name in managedFields.
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
	if m, err := meta.Accessor(object); err == nil {
		m.SetManagedFields(nil)
	}
	return object, nil
}

func writers(entries []metav1.ManagedFieldsEntry) (kept []metav1.ManagedFieldsEntry) {
	for what, sign := range signs {
		for _, entry := range entries {
			keptBefore := entry.FieldsType == what
			if keptBefore || entry.FieldsV1 != nil && strings.Contains(entry.FieldsV1.GetRawString(), sign) {
				kept = append(kept, metav1.ManagedFieldsEntry{Manager: entry.Manager, Time: entry.Time, Subresource: entry.Subresource, FieldsType: what})
			}
		}
	}
	slices.SortStableFunc(kept, func(a, b metav1.ManagedFieldsEntry) int {
		return ptr.Deref(b.Time, metav1.Time{}).Compare(ptr.Deref(a.Time, metav1.Time{}).Time)
	})
	return kept
}

// signs are how managedFields show what somebody wrote.
var signs = map[string]string{ofFinalizer: servicehelper.LoadBalancerCleanupFinalizer, ofStatus: `"f:loadBalancer"`}

// viewed is the ServiceInformer that the service controller gets: by its lister it sees the view. The handler that it adds is not
// told by the informer but by the Cloud, once that has taken note. Calling its OnAdd puts a Service on the controller's own queue
// at once, without a write to the API server, even if the Service waits there for the end of a delay.
type viewed struct {
	cache.SharedIndexInformer
	view    view
	handler cache.ResourceEventHandler // nil until the controller has added it
}

// stored returns the Service of that name, in view or not; nil if there is none.
func (v *viewed) stored(namespace, name string) *corev1.Service {
	return stored[corev1.Service](v, namespace, name)
}

// Requeue makes the service controller look at the Service again. Before the controller is there, it will look at every
// Service by itself.
func (v *viewed) Requeue(svc *corev1.Service) {
	if v.handler != nil {
		v.handler.OnAdd(svc, false)
	}
}

// changed tells the service controller how it sees a Service now and saw it before; nil is not at all.
func (v *viewed) changed(was, is *corev1.Service) {
	switch {
	case v.handler == nil:
	case is != nil && was != nil:
		v.handler.OnUpdate(was, is)
	case is != nil:
		v.handler.OnAdd(is, false)
	case was != nil:
		v.handler.OnAdd(was, false) // it will look for it, and not find it any more
	}
}

// Informer returns the informer itself.
func (v *viewed) Informer() cache.SharedIndexInformer { return v }

// AddEventHandler remembers the handler, as do the other ways to add one.
func (v *viewed) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	v.handler = h
	return nil, nil
}

// AddEventHandlerWithResyncPeriod is AddEventHandler: what the controller wants to look at again, it keeps in its queue.
func (v *viewed) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return v.AddEventHandler(h)
}

// AddEventHandlerWithOptions is AddEventHandler.
func (v *viewed) AddEventHandlerWithOptions(h cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return v.AddEventHandler(h)
}

// Lister returns the lister of what is in view.
func (v *viewed) Lister() corelisters.ServiceLister { return viewedLister{from: v} }

// A viewedLister can do what the service controller needs: to get one Service.
type viewedLister struct {
	corelisters.ServiceLister
	from *viewed
}

func (l viewedLister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return viewedNamespaceLister{from: l.from, namespace: namespace}
}

type viewedNamespaceLister struct {
	corelisters.ServiceNamespaceLister
	from      *viewed
	namespace string
}

func (l viewedNamespaceLister) Get(name string) (*corev1.Service, error) {
	if svc := l.from.stored(l.namespace, name); svc != nil {
		if svc = l.from.view.of(svc); svc != nil {
			return svc, nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("services"), name)
}
