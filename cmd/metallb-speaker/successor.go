package main

import (
	"context"
	"os"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/internal/agent"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

const (
	// firstAnswer is how long the API server may take to answer anything: routers wait for our withdrawal meanwhile, and most
	// often an API server that says nothing at all is one that we cannot reach.
	firstAnswer = time.Second
	// lastAnswer is how long it may take for the rest, once it has answered something.
	lastAnswer = 5 * time.Second
)

const tooLate = "the API server does not answer in time"

// successor looks for evidence that another speaker will take this one's place. Without an answer there is none.
func successor(ctx context.Context, server *agent.API, nodeName string) (bool, string) {
	name, namespace := os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
	if name == "" || namespace == "" {
		return false, "POD_NAME and POD_NAMESPACE are not set"
	}
	ctx, cancel := context.WithTimeout(ctx, firstAnswer+lastAnswer)
	defer cancel()
	set := func(name string) chan answer[appsv1.DaemonSet] {
		return ask(func() (*appsv1.DaemonSet, error) {
			return server.DaemonSet(ctx, namespace, name)
		})
	}
	// All questions go out at once. Which DaemonSet it is, only the Pod says; but its name is most likely the beginning of the
	// Pod's.
	guess := name[:max(0, strings.LastIndex(name, "-"))]
	pods := ask(func() (*corev1.Pod, error) {
		return server.Pod(ctx, namespace, name)
	})
	sets := set(guess)
	nodes := ask(func() (*corev1.Node, error) { return server.Node(ctx, nodeName) })

	var pod *corev1.Pod
	var daemonSet *appsv1.DaemonSet
	var node *corev1.Node
	late := time.After(firstAnswer)
	for answers := range 3 {
		var err error
		select {
		case a := <-pods:
			pod, err = a.object, a.err
		case a := <-sets:
			daemonSet, err = a.object, a.err
		case a := <-nodes:
			node, err = a.object, a.err
		case <-late:
			return false, tooLate
		}
		if err != nil {
			return false, err.Error()
		}
		if answers == 0 {
			late = time.After(lastAnswer)
		}
	}
	var owner metav1.OwnerReference
	if pod != nil && metav1.GetControllerOf(pod) != nil {
		owner = *metav1.GetControllerOf(pod)
	}
	switch {
	case owner.Kind != "DaemonSet":
		daemonSet = nil
	case owner.Name != guess:
		select {
		case a := <-set(owner.Name):
			if daemonSet = a.object; a.err != nil {
				return false, a.err.Error()
			}
		case <-late:
			return false, tooLate
		}
	}
	return speaker.Successor(pod, daemonSet, node)
}

// An answer is an object, or nil if there is none.
type answer[T any] struct {
	object *T
	err    error
}

// ask asks in the background.
func ask[T any](question func() (*T, error)) chan answer[T] {
	to := make(chan answer[T], 1)
	go func() {
		object, err := question()
		if apierrors.IsNotFound(err) {
			object, err = nil, nil
		}
		to <- answer[T]{object, err}
	}()
	return to
}
