package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// guarded is how the service controller writes to Services: with patches, which name neither the Service's UID nor its
// version. What it decided about a Service that was ours must not reach one that is another's by now, so that the newest
// state that we know must be in view, and be the one that the API server has where it matters.
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
	g.cloud.events.wrote()
	defer g.cloud.events.wrote()
	takesAway := takesAway(patch.Metadata, patch.Status)
	svc := g.cloud.lookup(g.namespace, name)
	for {
		if svc == nil || g.cloud.view.of(svc) == nil {
			return &corev1.Service{}, nil // there is nothing left to do
		}
		patch.Metadata["uid"] = svc.UID
		if takesAway {
			patch.Metadata["resourceVersion"] = svc.ResourceVersion
		}
		data, err := json.Marshal(patch)
		if err != nil {
			return nil, fmt.Errorf("write the patch of service %s/%s: %w", g.namespace, name, err)
		}
		written, err := g.ServiceInterface.Patch(ctx, name, kind, data, options, subresources...)
		if !takesAway || !apierrors.IsConflict(err) {
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

// takesAway reports whether the patch removes a finalizer or an address. To add to what another has would do less harm.
func takesAway(metadata, status map[string]any) bool {
	if finalizers, ok := metadata["finalizers"]; ok && finalizers == nil || metadata["$deleteFromPrimitiveList/finalizers"] != nil {
		return true
	}
	if status == nil {
		return false
	}
	balancer, ok := status["loadBalancer"].(map[string]any)
	return !ok || balancer["ingress"] == nil
}
