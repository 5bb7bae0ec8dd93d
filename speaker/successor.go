package speaker

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Successor reports whether another speaker will take this one's place on its node, so that routers may keep the routes,
// and in words why it believes so. What is nil could not be found.
//
// Only a Pod that Kubernetes is deleting while its DaemonSet and its node go on gets a successor. On a plain reboot every
// process gets SIGTERM and no Pod is deleted; on an uninstall the DaemonSet goes.
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
	}
	return true, "this speaker's Pod is being replaced"
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
