package provider

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func metaOf(object any) (metav1.Object, error) {
	accessor, ok := object.(metav1.ObjectMetaAccessor)
	if !ok {
		return nil, apierrors.NewBadRequest("not an object")
	}
	return accessor.GetObjectMeta(), nil
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

// oneObject watches a single object of some kind, so that the permission to read that one suffices.
func oneObject(client kubernetes.Interface, namespace, name string, trim cache.TransformFunc) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace),
		informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}))
}
