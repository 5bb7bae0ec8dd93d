package provider

import (
	"context"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/klog/v2"
)

// noise are the Normal events that the service controller writes on every sync of every Service. They say nothing, and
// would bury what operators look for.
var noise = map[string]bool{
	"EnsuringLoadBalancer": true,
	"EnsuredLoadBalancer":  true,
	"DeletingLoadBalancer": true,
	"DeletedLoadBalancer":  true,
	"UpdatedLoadBalancer":  true,
}

// quietClient is the client given to the service controller. Its events lose the noise and go through another client, so
// that they never wait for, or delay, the write of a status. Its Services are guarded.
type quietClient struct {
	kubernetes.Interface
	events kubernetes.Interface
	cloud  *Cloud
}

func (c quietClient) CoreV1() typedcorev1.CoreV1Interface {
	return quietCore{c.Interface.CoreV1(), c.events.CoreV1(), c.cloud}
}

type quietCore struct {
	typedcorev1.CoreV1Interface
	events typedcorev1.CoreV1Interface
	cloud  *Cloud
}

func (c quietCore) Services(namespace string) typedcorev1.ServiceInterface {
	return guarded{c.CoreV1Interface.Services(namespace), c.cloud, namespace}
}

func (c quietCore) Events(namespace string) typedcorev1.EventInterface {
	return quietEvents{c.events.Events(namespace)}
}

type quietEvents struct{ typedcorev1.EventInterface }

func isNoise(e *corev1.Event) bool { return e.Type == corev1.EventTypeNormal && noise[e.Reason] }

func (q quietEvents) CreateWithEventNamespace(e *corev1.Event) (*corev1.Event, error) {
	return q.CreateWithEventNamespaceWithContext(context.Background(), e)
}

func (q quietEvents) CreateWithEventNamespaceWithContext(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	if isNoise(e) {
		return e, nil
	}
	return q.EventInterface.CreateWithEventNamespaceWithContext(ctx, e)
}

func (q quietEvents) UpdateWithEventNamespace(e *corev1.Event) (*corev1.Event, error) {
	return q.UpdateWithEventNamespaceWithContext(context.Background(), e)
}

func (q quietEvents) UpdateWithEventNamespaceWithContext(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	if isNoise(e) {
		return e, nil
	}
	return q.EventInterface.UpdateWithEventNamespaceWithContext(ctx, e)
}

func (q quietEvents) PatchWithEventNamespace(e *corev1.Event, patch []byte) (*corev1.Event, error) {
	return q.PatchWithEventNamespaceWithContext(context.Background(), e, patch)
}

func (q quietEvents) PatchWithEventNamespaceWithContext(ctx context.Context, e *corev1.Event, patch []byte) (*corev1.Event, error) {
	if isNoise(e) {
		return e, nil
	}
	return q.EventInterface.PatchWithEventNamespaceWithContext(ctx, e, patch)
}

// quiet returns a logger without the lines in which the events package repeats each event: they are in the cluster.
func quiet(logger klog.Logger) klog.Logger {
	sink := logger.GetSink()
	if deep, ok := sink.(logr.CallDepthLogSink); ok {
		sink = deep.WithCallDepth(1) // ours is one more call between the line and the sink
	}
	return logger.WithSink(withoutEvents{sink})
}

type withoutEvents struct{ logr.LogSink }

func (w withoutEvents) Info(level int, message string, keysAndValues ...any) {
	if message != "Event occurred" {
		w.LogSink.Info(level, message, keysAndValues...)
	}
}
