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
	everywhere := corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}}
	of := func(spec corev1.PodSpec) *appsv1.DaemonSet {
		return &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}
	}
	set, goneSet := of(everywhere), &appsv1.DaemonSet{ObjectMeta: deleted}
	onLabel := of(corev1.PodSpec{NodeSelector: map[string]string{"speaker": "yes"}})
	affine := of(corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "rack", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}}},
	}}}})
	intolerant := of(corev1.PodSpec{})
	const unselected = "this speaker's DaemonSet does not select this node any more"
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
		{name: "a node that lost the label", pod: goes, set: onLabel, node: "a ready", why: unselected},
		{name: "a node that has the label", pod: goes, set: onLabel, node: "a ready speaker=yes", want: true, why: "this speaker's Pod is being replaced"},
		{name: "a node that affinity excludes", pod: goes, set: affine, node: "a ready rack=b", why: unselected},
		{name: "a node that affinity wants", pod: goes, set: affine, node: "a ready rack=a", want: true, why: "this speaker's Pod is being replaced"},
		{name: "a node with a new taint", pod: goes, set: intolerant, node: "a ready !example.com/broken:NoExecute", why: unselected},
		{name: "a taint that only discourages", pod: goes, set: intolerant, node: "a ready !example.com/slow:PreferNoSchedule", want: true, why: "this speaker's Pod is being replaced"},
		{name: "a cordoned node that is ill", pod: goes, set: intolerant, node: "a not-ready cordoned !node.kubernetes.io/unreachable:NoExecute", want: true, why: "this speaker's Pod is being replaced"},
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
