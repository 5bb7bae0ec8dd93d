package cluster

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What follows keeps of each object what answers need. The rest takes memory, and may be nobody's business.

// trimMeta keeps labels, and annotations under our prefixes.
func trimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, Labels: m.Labels, CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp}
	for key, value := range m.Annotations {
		if strings.HasPrefix(key, "metallb.universe.tf/") || strings.HasPrefix(key, "metallb.io/") {
			if kept.Annotations == nil {
				kept.Annotations = map[string]string{}
			}
			kept.Annotations[key] = value
		}
	}
	return kept
}

func trimConfigMap(c *corev1.ConfigMap) *corev1.ConfigMap {
	if c == nil {
		return nil
	}
	return &corev1.ConfigMap{ObjectMeta: trimMeta(c.ObjectMeta), Data: maps.Clone(c.Data)}
}

func trimService(svc *corev1.Service) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: trimMeta(svc.ObjectMeta),
		Spec: corev1.ServiceSpec{
			Type: svc.Spec.Type, Ports: svc.Spec.Ports, Selector: svc.Spec.Selector, LoadBalancerIP: svc.Spec.LoadBalancerIP, LoadBalancerClass: svc.Spec.LoadBalancerClass,
			ExternalTrafficPolicy: svc.Spec.ExternalTrafficPolicy, IPFamilies: svc.Spec.IPFamilies, IPFamilyPolicy: svc.Spec.IPFamilyPolicy,
			PublishNotReadyAddresses: svc.Spec.PublishNotReadyAddresses, SessionAffinity: svc.Spec.SessionAffinity,
		},
		Status: corev1.ServiceStatus{LoadBalancer: svc.Status.LoadBalancer},
	}
}

func trimSlice(slice *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	kept := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: slice.Name, Namespace: slice.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: slice.Labels[discoveryv1.LabelServiceName]}},
		AddressType: slice.AddressType,
		Endpoints:   make([]discoveryv1.Endpoint, len(slice.Endpoints)),
	}
	for i, e := range slice.Endpoints {
		kept.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions, NodeName: e.NodeName}
		if e.TargetRef != nil {
			kept.Endpoints[i].TargetRef = &corev1.ObjectReference{UID: e.TargetRef.UID}
		}
	}
	return kept
}

func trimNode(node *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: trimMeta(node.ObjectMeta),
		Spec:       corev1.NodeSpec{Taints: node.Spec.Taints},
		Status: corev1.NodeStatus{
			Addresses: node.Status.Addresses,
			Conditions: slices.DeleteFunc(slices.Clone(node.Status.Conditions), func(c corev1.NodeCondition) bool {
				return c.Type != corev1.NodeNetworkUnavailable && c.Type != corev1.NodeReady
			}),
		},
	}
}

func trimNamespace(namespace *corev1.Namespace) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace.Name, Labels: namespace.Labels}}
}

// trimPod keeps the flags that a program was started with. It has no environment and no files.
func trimPod(pod *corev1.Pod) *corev1.Pod {
	kept := &corev1.Pod{
		ObjectMeta: trimMeta(pod.ObjectMeta),
		Spec:       corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{
			Phase:      pod.Status.Phase,
			Conditions: slices.DeleteFunc(slices.Clone(pod.Status.Conditions), func(c corev1.PodCondition) bool { return c.Type != corev1.PodReady }),
		},
	}
	for _, c := range pod.Spec.Containers {
		kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image, Args: c.Args, Ports: c.Ports})
	}
	return kept
}
