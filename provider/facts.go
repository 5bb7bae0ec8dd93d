package provider

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// passwordSecret is where speakers find the passwords of peers with a password-key.
const passwordSecret = "metallb-bgp-auth"

// facts are what a text is judged by beside the addresses in use: the Nodes, and which keys of the Secret have a value. Of
// either the process keeps no more than that.
type facts struct {
	cloud  *Cloud
	nodes  readable
	secret readable
	// namespaces is nil where nobody watches them.
	namespaces *namespaces
}

// A readable knows whether we may read what its informer has.
type readable struct {
	cache.SharedIndexInformer
	refused atomic.Int64 // when that was refused last, in nanoseconds; 0 if it was read since
}

// failed takes note of a failure to read.
func (r *readable) failed(err error) {
	if apierrors.IsForbidden(err) {
		r.refused.Store(time.Now().UnixNano())
	}
}

// read is told of everything that was read, and reports whether that had been refused.
func (r *readable) read() (again bool) { return r.refused.Swap(0) != 0 }

// known reports whether the informer has what there is. If nothing is there to be read, that shows in that nobody refuses it.
func (r *readable) known() bool {
	return r.HasSynced() && time.Since(time.Unix(0, r.refused.Load())) > watchIsWell
}

// newFacts rings when a verdict may be another one.
func newFacts(client kubernetes.Interface, c *Cloud, ring func()) (*facts, error) {
	f := &facts{cloud: c}
	f.nodes.SharedIndexInformer = coreinformers.NewNodeInformer(client, 0, cache.Indexers{})
	f.secret.SharedIndexInformer = coreinformers.NewFilteredSecretInformer(client, c.options.Namespace, 0, cache.Indexers{}, only(passwordSecret))
	nodes := cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(object any, initially bool) {
			f.nodes.read()
			if node, ok := object.(*corev1.Node); ok && !initially { // a start tells nobody
				f.seeNode(&corev1.Node{}, node)
			}
			ring()
		},
		UpdateFunc: func(before, object any) {
			was, wasNode := before.(*corev1.Node)
			is, isNode := object.(*corev1.Node)
			if again := f.nodes.read(); !wasNode || !isNode || !again && maps.Equal(was.Labels, is.Labels) && maps.Equal(was.Annotations, is.Annotations) && slices.Equal(was.Status.Addresses, is.Status.Addresses) {
				return // most of the time it only says that it is alive
			}
			f.seeNode(was, is)
			ring()
		},
		DeleteFunc: func(any) { ring() },
	}
	secret := whenever(func() {
		f.secret.read()
		ring()
	})
	return f, errors.Join(prepare(&f.nodes, trimNode, nodes, f.nodes.failed), prepare(&f.secret, trimSecret, secret, f.secret.failed))
}

// trimNode keeps what a verdict needs.
func trimNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	kept := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Labels: node.Labels, Annotations: node.Annotations}}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			kept.Status.Addresses = append(kept.Status.Addresses, a)
		}
	}
	return kept, nil
}

// trimSecret keeps which keys have a value that can be a password, and no value.
func trimSecret(object any) (any, error) {
	secret, ok := object.(*corev1.Secret)
	if !ok {
		return object, nil
	}
	kept := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: secret.Namespace, Name: secret.Name, UID: secret.UID, ResourceVersion: secret.ResourceVersion}, Data: map[string][]byte{}}
	for key, value := range secret.Data {
		if _, err := loadbalancer.PasswordIn(value); err == nil {
			kept.Data[key] = []byte{1}
		}
	}
	return kept, nil
}

// now returns the facts as they are known.
func (f *facts) now() loadbalancer.Facts {
	unread := f.namespaces != nil && f.namespaces.refused.Load() != 0
	known := loadbalancer.Facts{NamespacesUnread: unread, NodesKnown: f.nodes.known(), KeysKnown: f.secret.known(), Keys: map[string]bool{}}
	for _, object := range f.nodes.GetStore().List() {
		if node, ok := object.(*corev1.Node); ok {
			known.Nodes = append(known.Nodes, loadbalancer.Node{Name: node.Name, Labels: node.Labels, Annotations: node.Annotations, InternalIPs: addressesOf(node)})
		}
	}
	slices.SortFunc(known.Nodes, func(a, b loadbalancer.Node) int { return cmp.Compare(a.Name, b.Name) })
	if secret := stored[corev1.Secret](&f.secret, f.cloud.options.Namespace, passwordSecret); secret != nil {
		for key := range secret.Data {
			known.Keys[key] = true
		}
	}
	return known
}

func addressesOf(node *corev1.Node) (all []netip.Addr) {
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			all = append(all, addr.Unmap())
		}
	}
	return all
}

// seeNode warns where a Node comes to have an annotation that means nothing, or to show an address that a Service holds. The
// Service keeps it: any kubelet can claim one.
func (f *facts) seeNode(was, node *corev1.Node) {
	if typos := service.UnknownOnNode(node.Annotations); typos != "" && typos != service.UnknownOnNode(was.Annotations) && f.cloud.leads() {
		f.cloud.record.Eventf(node, corev1.EventTypeWarning, "UnknownAnnotation", "%s", typos)
	}
	for _, addr := range addressesOf(node) {
		if slices.Contains(addressesOf(was), addr) {
			continue
		}
		for _, svc := range f.cloud.holdersOf(addr) {
			f.cloud.record.Eventf(svc, corev1.EventTypeWarning, "AddressConflict",
				"%s is Node %s's own address, too: this Service keeps it; give the Node another, or take it out of the pool and renumber", addr, node.Name)
		}
	}
}

// leads reports whether this process decides.
func (c *Cloud) leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready && !c.frozen
}

// holdersOf returns the Services of ours that hold an address.
func (c *Cloud) holdersOf(addr netip.Addr) (all []*corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready || c.frozen {
		return nil
	}
	for _, h := range c.ledger.allocator.Holders(addr) {
		if e := c.ledger.entries[types.UID(h.UID)]; e != nil {
			all = append(all, e.service)
		}
	}
	return all
}
