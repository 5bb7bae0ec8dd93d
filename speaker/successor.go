package speaker

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Successor reports whether another speaker will take this one's place on its node, so that routers may keep the routes,
// and in words why it believes so. What is nil could not be found.
//
// Only a Pod that Kubernetes is deleting while its DaemonSet goes on, and goes on to select its node, gets a successor. On a
// plain reboot every process gets SIGTERM and no Pod is deleted; on an uninstall the DaemonSet goes.
func Successor(pod *corev1.Pod, daemonSet *appsv1.DaemonSet, node *corev1.Node) (bool, string) {
	switch {
	case pod == nil:
		return false, "this speaker's Pod cannot be read"
	case pod.DeletionTimestamp == nil:
		return false, "this speaker's Pod is not being deleted: the host may be going down"
	case daemonSet == nil || daemonSet.DeletionTimestamp != nil:
		return false, "this speaker's DaemonSet is gone or being deleted"
	case node == nil || node.DeletionTimestamp != nil:
		return false, "this node is gone or being deleted"
	case shuttingDown(node):
		return false, "this node is shutting down"
	case !selects(daemonSet, node):
		return false, "this speaker's DaemonSet does not select this node any more"
	}
	return true, "this speaker's Pod is being replaced"
}

// selects reports whether the DaemonSet wants a Pod on the node, as its controller finds out: by node selector, required
// affinity, and taints.
func selects(daemonSet *appsv1.DaemonSet, node *corev1.Node) bool {
	spec := daemonSet.Spec.Template.Spec
	fits, err := nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity).Match(node)
	if err != nil || !fits {
		return false
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectNoSchedule && taint.Effect != corev1.TaintEffectNoExecute || slices.Contains(tolerated, taint.Key) {
			continue
		}
		if !slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, true) }) {
			return false
		}
	}
	return true
}

// tolerated are keys of taints that Pods of every DaemonSet tolerate; the last does on the node's network only, as ours is.
var tolerated = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeDiskPressure, corev1.TaintNodeMemoryPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable, corev1.TaintNodeNetworkUnavailable,
}

// shuttingDown reports what kubelet writes into the Ready condition during a graceful shutdown.
func shuttingDown(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue && strings.Contains(c.Message, "shutting down") {
			return true
		}
	}
	return false
}
