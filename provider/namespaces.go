package provider

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// namespaces are the labels of Namespaces, and nothing else of them. They are watched from when a configuration has
// namespace-selectors.
type namespaces struct {
	readable
	begun sync.Once
}

// newNamespaces tells the Cloud of labels, and rings when we may read them again, or may not any more.
func newNamespaces(client metadata.Interface, c *Cloud, ring func()) (*namespaces, error) {
	n := &namespaces{}
	n.SharedIndexInformer = metadatainformer.NewFilteredMetadataInformer(client, corev1.SchemeGroupVersion.WithResource("namespaces"), "", 0, cache.Indexers{}, nil).Informer()
	see := func(object any, gone bool) {
		if n.read() {
			ring()
		}
		if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = last.Obj
		}
		is, ok := object.(*metav1.PartialObjectMetadata)
		if !ok {
			return
		}
		labels := is.Labels
		if gone {
			labels = nil
		}
		c.change(func() { c.ledger.allocator.Label(is.Name, labels) })
	}
	err := prepare(n, trimNamespace, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { see(object, false) },
		UpdateFunc: func(_, object any) { see(object, false) },
		DeleteFunc: func(object any) { see(object, true) },
	}, func(err error) {
		if before := n.refused.Load(); before == 0 {
			defer ring()
		}
		n.failed(err)
	})
	if err != nil {
		return nil, fmt.Errorf("watch namespaces: %w", err)
	}
	return n, nil
}

// trimNamespace keeps the labels.
func trimNamespace(object any) (any, error) {
	is, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	return &metav1.PartialObjectMetadata{TypeMeta: is.TypeMeta, ObjectMeta: metav1.ObjectMeta{Name: is.Name, UID: is.UID, ResourceVersion: is.ResourceVersion, Labels: is.Labels}}, nil
}

// needed begins to watch if the configuration asks for that.
func (n *namespaces) needed(ctx context.Context, config *loadbalancer.Config) bool {
	if config == nil || !config.SelectsNamespaces() {
		return false
	}
	n.begun.Do(func() { go n.RunWithContext(ctx) })
	return true
}
