package inspect

import (
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// A Kind is a kind of object that answers depend on, as in a rule of Kubernetes' RBAC.
type Kind string

// The kinds. Of Secrets only the names of the keys are known that have a value.
const (
	Services       Kind = "services"
	EndpointSlices Kind = "endpointslices"
	Nodes          Kind = "nodes"
	Namespaces     Kind = "namespaces"
	Pods           Kind = "pods"
	ConfigMaps     Kind = "configmaps"
	Secrets        Kind = "secrets"
	Leases         Kind = "leases"
	// Tokens of the ServiceAccount by which speakers are asked, the way to them, and what they answer.
	Tokens Kind = "serviceaccounts/token"
	Ports  Kind = "pods/portforward"
	Told   Kind = "routes"
)

// Kinds are all of them.
var Kinds = []Kind{ConfigMaps, Services, EndpointSlices, Nodes, Namespaces, Pods, Secrets, Leases}

// A Snapshot is what the API server said of one installation, at one time.
type Snapshot struct {
	Taken time.Time
	// Namespace is where the installation is, and ConfigName the name of the user's ConfigMap in it.
	Namespace, ConfigName string

	// User is the user's ConfigMap, and Admitted the copy that the controller manager keeps; nil: there is none.
	User, Admitted *corev1.ConfigMap
	// Hash is of the text in User. Passwords in a text from a dump are masked, so that its hash would be another.
	Hash string
	// Masked is set if passwords in the texts are masked.
	Masked bool

	Services []*corev1.Service // of type LoadBalancer
	Slices   []*discoveryv1.EndpointSlice
	Nodes    []*corev1.Node
	// Namespaces have a name and labels.
	Namespaces []*corev1.Namespace
	Pods       []*corev1.Pod // of the installation
	Lease      *coordinationv1.Lease
	// Keys are those of the passwords' Secret that have a value.
	Keys []string

	// Asked is set if speakers were asked what they have sent, and Told are their answers.
	Asked bool
	Told  []*report.Document

	Unread []Unread
}

// Unread is a kind of object that could not be read.
type Unread struct {
	Kind Kind `json:"kind"`
	// Verb is what would have to be allowed, and Namespace where; empty: in the whole cluster.
	Verb      string `json:"verb"`
	Namespace string `json:"namespace,omitempty"`
	// Node is that of the speaker that did not answer.
	Node string `json:"node,omitempty"`
	Why  string `json:"why"`
}

// String says what could not be read, what for, and why.
func (u Unread) String() string {
	if u.Kind == Told {
		return fmt.Sprintf("the speaker on node %s does not answer: %s", u.Node, u.Why)
	}
	where := "in the whole cluster"
	if u.Namespace != "" {
		where = "in namespace " + u.Namespace
	}
	return fmt.Sprintf("cannot %s %s %s: %s", u.Verb, u.Kind, where, u.Why)
}

// lacks returns what could not be read of the kinds.
func (s *Snapshot) lacks(kinds ...Kind) (all []Unread) {
	for _, u := range s.Unread {
		if slices.Contains(kinds, u.Kind) {
			all = append(all, u)
		}
	}
	return all
}
