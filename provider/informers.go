package provider

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A trimmer is the transform of the Services' informer. It makes the standard service controller, which serves only Services
// without a class, serve ours too, and keeps it from touching others: when such a Service is deleted or becomes internal, the
// controller would remove the finalizer of its implementation. The controller's patches never carry the spec, so that what is
// changed here stays here.
type trimmer struct {
	classOnly bool

	mu sync.Mutex
	// seen are the Services that named a class, and whether it is another's. One that becomes internal loses its class, and
	// one of ours has lost it if it comes by again.
	seen map[types.UID]bool
	// left are the Services with a finalizer that we put there, and their version when that was seen last. A Service that
	// becomes another's before we could take it away still has it, and nobody else may know what it is for.
	left map[types.UID]string
}

func newTrimmer(classOnly bool) *trimmer {
	return &trimmer{classOnly: classOnly, seen: map[types.UID]bool{}, left: map[types.UID]string{}}
}

// noClass stands in for the class of a Service without one, where those are not for us.
const noClass = "metallb.universe.tf/none"

func (t *trimmer) trim(object any) (any, error) {
	object, err := forgetManagers(object)
	svc, ok := object.(*corev1.Service)
	if !ok {
		return object, err
	}
	class := svc.Spec.LoadBalancerClass
	others, left := t.others(svc)
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if !others {
			svc.Spec.LoadBalancerClass = nil
		} else if none := noClass; class == nil {
			svc.Spec.LoadBalancerClass = &none
		}
	}
	if others && !(left && svc.Spec.Type != corev1.ServiceTypeLoadBalancer) {
		svc.Finalizers = slices.DeleteFunc(slices.Clone(svc.Finalizers), func(f string) bool {
			return f == servicehelper.LoadBalancerCleanupFinalizer
		})
	}
	return svc, nil
}

// others reports whether a Service is another implementation's, or was until it became internal; and whether it has a
// finalizer of ours all the same.
func (t *trimmer) others(svc *corev1.Service) (others, left bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	others, seen := t.seen[svc.UID]
	switch class := svc.Spec.LoadBalancerClass; {
	case class != nil:
		others = *class != loadbalancer.Class
		t.seen[svc.UID] = others
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer:
		if !others {
			delete(t.seen, svc.UID)
		}
	case t.classOnly:
		others = !seen || others
		t.seen[svc.UID] = others
	default:
		others = false
		delete(t.seen, svc.UID)
	}
	version, left := t.left[svc.UID]
	switch {
	case servicehelper.HasLBFinalizer(svc):
		if left = left || !others; left {
			t.left[svc.UID] = svc.ResourceVersion
		}
	case left && version == svc.ResourceVersion: // it comes by again, trimmed
	default:
		left = false
		delete(t.left, svc.UID)
	}
	return others, left
}

// forget is told of a Service that is gone.
func (t *trimmer) forget(svc *corev1.Service) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.seen, svc.UID)
	delete(t.left, svc.UID)
}

// forgetManagers drops what nobody here looks at.
func forgetManagers(object any) (any, error) {
	if m, err := metaOf(object); err == nil {
		m.SetManagedFields(nil)
	}
	return object, nil
}

func metaOf(object any) (metav1.Object, error) {
	accessor, ok := object.(metav1.ObjectMetaAccessor)
	if !ok {
		return nil, apierrors.NewBadRequest("not an object")
	}
	return accessor.GetObjectMeta(), nil
}

// A requeuer is a ServiceInformer that remembers the event handler of the service controller. Calling that handler puts a
// Service on the controller's own queue at once, without a write to the API server, even if the Service waits there for
// the end of a delay.
type requeuer struct {
	coreinformers.ServiceInformer
	handler atomic.Pointer[cache.ResourceEventHandler]
}

// Informer returns the informer with its ways to add a handler watched.
func (r *requeuer) Informer() cache.SharedIndexInformer {
	return &listeningInformer{r.ServiceInformer.Informer(), r}
}

// Requeue makes the service controller look at the Service again. Before the controller has registered, it will look at
// every Service by itself.
func (r *requeuer) Requeue(svc *corev1.Service) {
	if handler := r.handler.Load(); handler != nil {
		(*handler).OnAdd(svc, false)
	}
}

type listeningInformer struct {
	cache.SharedIndexInformer
	to *requeuer
}

func (i *listeningInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.to.handler.Store(&h)
	return i.SharedIndexInformer.AddEventHandler(h)
}

func (i *listeningInformer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	i.to.handler.Store(&h)
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(h, resync)
}

func (i *listeningInformer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	i.to.handler.Store(&h)
	return i.SharedIndexInformer.AddEventHandlerWithOptions(h, options)
}

// oneNode is the NodeInformer given to the service controller. On bare metal the nodes are the speakers' business, and the
// controller's own node sync would cost Services × Nodes² at start, so it sees one node that never changes. (Seeing none,
// it would warn on every Service.) It is written by hand because an informer over a fixed list never syncs: client-go
// waits for a bookmark.
type oneNode struct {
	coreinformers.NodeInformer
}

var theNode = &corev1.Node{
	ObjectMeta: metav1.ObjectMeta{Name: "every-node"},
	Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
}

func (oneNode) Informer() cache.SharedIndexInformer { return silentInformer{} }
func (oneNode) Lister() corelisters.NodeLister      { return oneNodeLister{} }

type silentInformer struct{ cache.SharedIndexInformer }

func (silentInformer) HasSynced() bool { return true }
func (silentInformer) AddEventHandlerWithResyncPeriod(cache.ResourceEventHandler, time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}

type oneNodeLister struct {
	corelisters.NodeListerExpansion
}

func (oneNodeLister) List(labels.Selector) ([]*corev1.Node, error) {
	return []*corev1.Node{theNode}, nil
}

func (oneNodeLister) Get(name string) (*corev1.Node, error) {
	if name != theNode.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	return theNode, nil
}

// oneConfigMap watches a single ConfigMap, so that the permission to read that one suffices.
func oneConfigMap(client kubernetes.Interface, namespace, name string) (informers.SharedInformerFactory, coreinformers.ConfigMapInformer) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace),
		informers.WithTransform(forgetManagers),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}))
	return factory, factory.Core().V1().ConfigMaps()
}
