package watch

import (
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Admitted is the admitted configuration that is in force here: whatever becomes of the ConfigMap, what was once in force stays.
type Admitted struct {
	Config *loadbalancer.Config // nil: none was admitted yet
	Ours   service.Ours
	Hash   string // as the copy says it
	text   string
	broken bool // the text cannot be read
}

// AdmittedName is the name of the ConfigMap with the admitted copy of a configuration.
func AdmittedName(config string) string { return config + "-admitted" }

// Read reads the ConfigMap, nil if there is none, if its text changed. It reports whether what is in force is not what is stored:
// the text cannot be read, or is gone; and whether it found that just now.
func (a *Admitted) Read(stored *corev1.ConfigMap) (stale, failed bool) {
	if stored == nil {
		return a.Config != nil, false
	}
	text, ok := stored.Data["config"]
	if !ok {
		return a.Config != nil, false
	}
	ours := service.FromData(stored.Data)
	if text == a.text && (ours.Equal(a.Ours) || a.broken) {
		return a.broken, false
	}
	a.text = text
	config, ignored, err := loadbalancer.ParseAdmitted([]byte(text))
	a.broken = err != nil
	if err != nil {
		klog.ErrorS(err, "Kept the previous configuration", "configmap", klog.KObj(stored))
		return true, true
	}
	a.Config, a.Ours, a.Hash = config, ours, stored.Data["hash"]
	klog.InfoS("Loaded configuration", "configmap", klog.KObj(stored), "hash", stored.Data["hash"], "ignored", ignored)
	return false, false
}

// A Cluster has clients of what Follow watches; that of ConfigMaps is of the configuration's namespace.
type Cluster struct {
	Nodes      Lister[*corev1.NodeList]
	ConfigMaps Lister[*corev1.ConfigMapList]
	Fake       any // as in NewInbox
	// Again, if there is one, asks for another look.
	Again <-chan struct{}
}

// Follow calls look with the configuration that is in force and the node whenever something of them changed, until ctx ends; not
// before both are known, and from then on whatever becomes of the API server.
func Follow(ctx context.Context, cluster Cluster, config, node string, look func(*loadbalancer.Config, *corev1.Node)) {
	bell := make(chan struct{}, 1)
	ring := func() { Knock(bell) }
	configs := NewInbox(cluster.Fake, cluster.ConfigMaps, &corev1.ConfigMap{}, ring, Named(AdmittedName(config)), Whole[corev1.ConfigMap])
	nodes := NewInbox(cluster.Fake, cluster.Nodes, &corev1.Node{}, ring, Named(node), Whole[corev1.Node])
	var readers sync.WaitGroup
	defer readers.Wait()
	for _, r := range []*cache.Reflector{configs.Reflector, nodes.Reflector} {
		readers.Go(func() { r.RunWithContext(ctx) })
	}
	var admitted Admitted
	var stored *corev1.ConfigMap
	var known *corev1.Node
	for {
		select {
		case <-ctx.Done():
			return
		case <-bell:
		case <-cluster.Again:
		}
		fetchOne(configs, AdmittedName(config), &stored)
		// A Node that is gone is one whose kubelet registers it anew, or about to be switched off: either way its sessions stay.
		if fetchOne(nodes, node, &known); known == nil {
			continue
		}
		if admitted.Read(stored); admitted.Config != nil {
			look(admitted.Config, known)
		}
	}
}

// fetchOne fetches one object, if something was heard of it.
func fetchOne[T any](from *Inbox[T], name string, object **T) {
	if h, ok := from.Fetch(slices.Values([]string{name}))[name]; ok {
		*object = h.Object
	}
}

// Knock rings a doorbell, unless it rings already.
func Knock(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
