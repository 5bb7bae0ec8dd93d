package provider

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// prepare lets an informer keep of each object what trim leaves, tell of what it reads, and tell of failures to read.
func prepare(informer cache.SharedIndexInformer, trim cache.TransformFunc, tell cache.ResourceEventHandler, failed func(error)) error {
	_, err := informer.AddEventHandler(tell)
	return errors.Join(err, informer.SetTransform(trim), informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		failed(err)
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}))
}

// whenever returns a handler that does the same whatever happens.
func whenever(do func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: func(any) { do() }, UpdateFunc: func(any, any) { do() }, DeleteFunc: func(any) { do() }}
}

// only selects a single object, so that the permission to read that one suffices.
func only(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) { o.FieldSelector = nameIs(name) }
}

func nameIs(name string) string {
	return fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
}

// stored returns an object as the informer's store has it; nil if it does not.
func stored[T any](informer cache.SharedIndexInformer, namespace, name string) *T {
	object, _, err := informer.GetStore().GetByKey(namespace + "/" + name)
	if found, ok := object.(*T); ok && err == nil {
		return found
	}
	return nil
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
func (oneNode) Lister() corelisters.NodeLister {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	utilruntime.Must(nodes.Add(theNode))
	return corelisters.NewNodeLister(nodes)
}

type silentInformer struct{ cache.SharedIndexInformer }

func (silentInformer) HasSynced() bool { return true }
func (silentInformer) AddEventHandlerWithResyncPeriod(cache.ResourceEventHandler, time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}
