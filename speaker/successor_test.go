package speaker

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOnlyAReplacedPodHasASuccessor(t *testing.T) {
	deleted := metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	runs, goes := &corev1.Pod{}, &corev1.Pod{ObjectMeta: deleted}
	set, goneSet := &appsv1.DaemonSet{}, &appsv1.DaemonSet{ObjectMeta: deleted}
	tests := []struct {
		name string
		pod  *corev1.Pod
		set  *appsv1.DaemonSet
		node string
		want bool
		why  string
	}{
		{name: "an upgrade", pod: goes, set: set, node: "a ready", want: true, why: "this speaker's Pod is being replaced"},
		{name: "an upgrade on a drained node", pod: goes, set: set, node: "a ready cordoned tainted", want: true, why: "this speaker's Pod is being replaced"},
		{name: "an upgrade while the kubelet is ill", pod: goes, set: set, node: "a not-ready", want: true, why: "this speaker's Pod is being replaced"},
		{name: "the Pod is gone or the API server forgot it", set: set, node: "a ready", why: "this speaker's Pod cannot be read"},
		{name: "a reboot", pod: runs, set: set, node: "a ready", why: "this speaker's Pod is not being deleted: the host may be going down"},
		{name: "an uninstall", pod: goes, set: goneSet, node: "a ready", why: "this speaker's DaemonSet is gone or being deleted"},
		{name: "an uninstall that is over, or a Pod of its own", pod: goes, node: "a ready", why: "this speaker's DaemonSet is gone or being deleted"},
		{name: "the node is removed", pod: goes, set: set, node: "a ready deleted", why: "this node is gone or being deleted"},
		{name: "the node was removed", pod: goes, set: set, why: "this node is gone or being deleted"},
		{name: "kubelet shuts the node down", pod: goes, set: set, node: "a shutting-down", why: "this node is shutting down"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var on *corev1.Node
			if test.node != "" {
				on = node(t, test.node)
			}
			if got, why := Successor(test.pod, test.set, on); got != test.want || why != test.why {
				t.Errorf("got %t, %q, want %t, %q", got, why, test.want, test.why)
			}
		})
	}
}
