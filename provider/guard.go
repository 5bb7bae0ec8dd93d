package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// guarded is how the service controller writes to Services: with patches, which name neither the Service's UID nor its
// version. What it decided about a Service that was ours must not reach one that is another's by now, so that the newest
// state that we know must be in view, and be the one that the API server has.
type guarded struct {
	typedcorev1.ServiceInterface
	cloud     *Cloud
	namespace string
}

func (g guarded) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*corev1.Service, error) {
	var patch struct {
		Metadata map[string]any `json:"metadata,omitempty"`
		Status   map[string]any `json:"status,omitempty"`
	}
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, fmt.Errorf("read the patch of service %s/%s: %w", g.namespace, name, err)
	}
	if patch.Metadata == nil {
		patch.Metadata = map[string]any{}
	}
	options.FieldManager = fieldManager
	g.cloud.events.wrote()
	defer g.cloud.events.wrote()
	svc := g.newest(name)
	for {
		if svc == nil || g.cloud.view.of(svc) == nil {
			return &corev1.Service{}, nil // there is nothing left to do
		}
		patch.Metadata["uid"], patch.Metadata["resourceVersion"] = svc.UID, svc.ResourceVersion
		data, err := json.Marshal(patch)
		if err != nil {
			return nil, fmt.Errorf("write the patch of service %s/%s: %w", g.namespace, name, err)
		}
		written, err := g.ServiceInterface.Patch(ctx, name, kind, data, options, subresources...)
		if err == nil {
			is := *written
			if _, err := trim(&is); err != nil {
				return nil, err
			}
			g.cloud.wrote.Store(is.UID, &is)
		}
		if !apierrors.IsConflict(err) {
			if err != nil && !apierrors.IsNotFound(err) && !errors.Is(err, errFenced) {
				g.cloud.failed(svc, "write to the Service", err.Error())
			}
			return written, err
		}
		// It is listed because that is allowed anyway.
		list, err := g.List(ctx, metav1.ListOptions{FieldSelector: nameIs(name)})
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list.Items, func(now corev1.Service) bool { return now.UID == svc.UID })
		if svc = nil; i < 0 {
			continue
		}
		svc = &list.Items[i]
		if _, err := trim(svc); err != nil {
			return nil, err
		}
	}
}

// newest returns the Service as we wrote it last, if the informer has not seen that yet: its second patch follows its first at once.
func (g guarded) newest(name string) *corev1.Service {
	svc := g.cloud.lookup(g.namespace, name)
	if svc == nil {
		return nil
	}
	if is, ok := g.cloud.wrote.Load(svc.UID); ok && newer(is.(*corev1.Service), svc) {
		return is.(*corev1.Service)
	}
	return svc
}

func newer(a, b *corev1.Service) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order > 0
}
