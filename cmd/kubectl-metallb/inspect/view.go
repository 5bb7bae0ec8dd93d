package inspect

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// A View is a Snapshot and what follows from it.
type View struct {
	*Snapshot
	// Config is the configuration in force; nil: none is, and Broken says why if there is a text.
	Config *loadbalancer.Config
	Broken string
	// Ignored counts the keys of the text in force that this program does not know.
	Ignored int
	Ours    service.Ours
	Refusal *service.Refusal

	services  []speaker.Service // by namespace and name
	nodes     []*corev1.Node    // by name
	speakers  map[string]*corev1.Pod
	told      map[string]*report.Document // by node
	allocator *loadbalancer.Allocator
	conflicts map[string]loadbalancer.Reason // by UID, of Services that show an address which another keeps
}

// Labels of the Pods of an installation, and what their component is.
const (
	componentLabel = "app.kubernetes.io/component"
	controller     = "controller"
	theSpeaker     = "speaker"
)

// Look finds out what follows from a snapshot.
func Look(s *Snapshot) *View {
	v := &View{Snapshot: s, speakers: s.Speakers(), told: map[string]*report.Document{}}
	var givenUp string
	if s.Admitted != nil {
		data := s.Admitted.Data
		v.Ours, v.Refusal, givenUp = service.FromData(data), service.ReadRefusal(data[service.KeyRefused]), data[service.KeyGivenUp]
		if text, ok := data[service.KeyConfig]; ok {
			config, ignored, err := loadbalancer.ParseAdmitted([]byte(text))
			if v.Config, v.Ignored = config, ignored; err != nil {
				v.Broken = err.Error()
			}
		}
	}
	v.nodes = slices.SortedFunc(slices.Values(s.Nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, document := range s.Told {
		v.told[document.Node] = document
	}
	v.services = withSlices(s.Services, s.Slices)
	v.allocator, v.conflicts = v.adopt()
	v.allocator.Configure(v.config(), service.ReadRanges(givenUp))
	return v
}

// Speakers are the Pods of speakers, by node. One that was evicted stays beside its successor for a while, and is none any more.
func (s *Snapshot) Speakers() map[string]*corev1.Pod {
	all := map[string]*corev1.Pod{}
	for _, pod := range s.Pods {
		ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
		if node := pod.Spec.NodeName; pod.Labels[componentLabel] == theSpeaker && node != "" && !ended && (all[node] == nil || ready(pod)) {
			all[node] = pod
		}
	}
	return all
}

// config returns the configuration in force, perhaps an empty one.
func (v *View) config() *loadbalancer.Config {
	if v.Config == nil {
		return &loadbalancer.Config{}
	}
	return v.Config
}

// withSlices returns the Services in their order, and where their pods are.
func withSlices(services []*corev1.Service, all []*discoveryv1.EndpointSlice) []speaker.Service {
	of := map[[2]string][]*discoveryv1.EndpointSlice{}
	for _, slice := range all {
		key := [2]string{slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]}
		of[key] = append(of[key], slice)
	}
	found := make([]speaker.Service, 0, len(services))
	for _, svc := range services {
		found = append(found, speaker.Service{Service: svc, Slices: of[[2]string{svc.Namespace, svc.Name}]})
	}
	slices.SortFunc(found, func(a, b speaker.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return found
}

// adopt takes over the cluster as it is, as a controller manager does that begins to lead: every address stays where a status
// shows it, and of two Services that show one and cannot share it, the older keeps it.
func (v *View) adopt() (*loadbalancer.Allocator, map[string]loadbalancer.Reason) {
	a, conflicts := loadbalancer.NewAllocator(), map[string]loadbalancer.Reason{}
	a.Configure(v.config(), nil)
	for _, namespace := range v.Namespaces {
		a.Label(namespace.Name, namespace.Labels)
	}
	taken := v.nodeAddresses()
	var ours []*corev1.Service
	for _, svc := range v.services {
		if v.Ours.Serves(svc.Service) {
			ours = append(ours, svc.Service)
		} else {
			taken = append(taken, service.Addresses(svc.Service)...)
		}
	}
	slices.SortStableFunc(ours, func(a, b *corev1.Service) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, svc := range ours {
		if why := a.Adopt(service.Request(svc), service.Addresses(svc)); !why.None() {
			conflicts[string(svc.UID)] = why
		}
	}
	a.Withhold(taken)
	for _, svc := range ours {
		switch {
		case svc.DeletionTimestamp != nil:
			a.Rest(string(svc.UID))
		case len(a.Held(string(svc.UID))) == 0:
			a.Wait(service.Request(svc))
		}
	}
	return a, conflicts
}

func (v *View) nodeAddresses() (all []netip.Addr) {
	for _, n := range v.facts().Nodes {
		all = append(all, n.InternalIPs...)
	}
	return all
}

// facts are what a text is judged by.
func (v *View) facts() loadbalancer.Facts {
	f := loadbalancer.Facts{NamespacesUnread: len(v.lacks(Namespaces)) > 0, NodesKnown: len(v.lacks(Nodes)) == 0, KeysKnown: len(v.lacks(Secrets)) == 0, Keys: map[string]bool{}}
	for _, node := range v.nodes {
		n := loadbalancer.Node{Name: node.Name, Labels: node.Labels, Annotations: node.Annotations}
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				n.InternalIPs = append(n.InternalIPs, addr.Unmap())
			}
		}
		f.Nodes = append(f.Nodes, n)
	}
	for _, key := range v.Keys {
		f.Keys[key] = true
	}
	if v.allocator != nil {
		f.Held = v.allocator.Holdings()
	}
	f.Labels = func(name string) map[string]string {
		namespace, name, _ := strings.Cut(name, "/")
		return v.find(namespace, name).Labels
	}
	return f
}

// An outlook is what a node is to tell its routers.
type outlook struct {
	node    *corev1.Node
	drained string // why, if it is
	// Sessions with mute routers cannot be, and problems say why.
	peers, mute []loadbalancer.Peer
	problems    []string
	routes      []loadbalancer.Route
	withheld    map[speaker.Announced]string
}

// outlook returns what the node is to tell its routers by a configuration, of these Services. before are the peers that it had.
func (v *View) outlook(config *loadbalancer.Config, node *corev1.Node, services []speaker.Service, before []loadbalancer.Peer) *outlook {
	o := &outlook{node: node, withheld: map[speaker.Announced]string{}}
	o.peers, o.mute, o.problems = speaker.Peers(config, node, v.passwords(config), v.gateways(node.Name), before, nil)
	routes, withheld := speaker.Announcements(config, v.Ours, v.forgiven(node), v.ranked(config), services)
	for _, w := range withheld {
		o.withheld[w.Announced] = w.Why
	}
	drained, since := speaker.Drained(config, node)
	switch after := config.Drain.WithdrawAfter; {
	case drained == "":
		o.routes = routes
	case after > 0 && !since.IsZero() && !v.Taken.Before(since.Add(after)):
		o.drained = fmt.Sprintf("node %s is drained: %s", node.Name, drained)
		for _, svc := range services {
			if v.Ours.Serves(svc.Service) {
				for _, addr := range service.Addresses(svc.Service) {
					o.withheld[speaker.Announced{Service: service.Name(svc.Service), Addr: addr}] = o.drained
				}
			}
		}
	default:
		o.drained, o.routes = drained, routes
	}
	return o
}

// gateways are those of a node, as far as its speaker says with which it has sessions; nil if it says nothing.
func (v *View) gateways(node string) speaker.Gateways {
	document := v.told[node]
	if document == nil {
		return nil
	}
	all := speaker.Gateways{}
	for _, p := range v.config().Peers {
		hops := all[p.Gateway]
		hops.Why = "its speaker has no session with any"
		for _, s := range document.Sessions {
			if s.Peer == p.Name && s.Address.IsValid() && !slices.Contains(hops.Addrs, s.Address) {
				hops.Addrs = append(hops.Addrs, s.Address)
			}
		}
		all[p.Gateway] = hops // of peers without one, nobody asks
	}
	return all
}

// ranked are all nodes, if a configuration ranks them.
func (v *View) ranked(config *loadbalancer.Config) (all []*corev1.Node) {
	if config.Ranks() {
		for _, n := range v.nodes {
			all = append(all, v.forgiven(n))
		}
	}
	return all
}

// now is outlook by what is in force.
func (v *View) now(node *corev1.Node) *outlook { return v.outlook(v.config(), node, v.services, nil) }

// ahead computes something of every node, in their order, and some of it ahead while its caller is busy: on as many cores as there
// are. The caller goes through all of it.
func ahead[T any](nodes []*corev1.Node, compute func(*corev1.Node) T) iter.Seq2[*corev1.Node, T] {
	return func(yield func(*corev1.Node, T) bool) {
		results := make(chan chan T, runtime.GOMAXPROCS(0)-1)
		go func() {
			defer close(results)
			for _, node := range nodes {
				result := make(chan T, 1)
				results <- result
				go func() { result <- compute(node) }()
			}
		}()
		for _, node := range nodes {
			if !yield(node, <-<-results) {
				panic("the rest is computed for nobody")
			}
		}
	}
}

// forgiven returns the node without the label that its speaker was told to ignore.
func (v *View) forgiven(node *corev1.Node) *corev1.Node {
	pod := v.speakers[node.Name]
	if _, labelled := node.Labels[corev1.LabelNodeExcludeBalancers]; !labelled || pod == nil || !hasFlag(pod, "--ignore-exclude-lb") {
		return node
	}
	node = node.DeepCopy()
	delete(node.Labels, corev1.LabelNodeExcludeBalancers)
	return node
}

func hasFlag(pod *corev1.Pod, flag string) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return slices.Contains(c.Args, flag) || slices.Contains(c.Args, flag+"=true")
	})
}

// passwords stand for those of the Secret: equal keys for equal passwords. What cannot be read is taken to be there.
func (v *View) passwords(config *loadbalancer.Config) map[string]speaker.Password {
	var keys []string
	for _, p := range config.Peers {
		if p.PasswordKey != "" {
			keys = append(keys, p.PasswordKey)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	var secret *corev1.Secret
	known := v.Keys
	if len(v.lacks(Secrets)) > 0 {
		known = keys
	}
	if known != nil {
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v.Namespace, Name: speaker.SecretName}, Data: map[string][]byte{}}
		for _, key := range known {
			secret.Data[key] = []byte(key)[:min(len(key), 80)]
		}
	}
	return speaker.Passwords(nil, keys, v.Namespace+"/"+speaker.SecretName, secret)
}

// needs are the kinds on which the sessions of a configuration depend.
func needsOf(config *loadbalancer.Config, kinds ...Kind) []Kind {
	kinds = append(kinds, Tokens, Ports, Told) // they are missing only if they were asked for
	if config != nil && slices.ContainsFunc(config.Peers, func(p loadbalancer.Peer) bool { return p.PasswordKey != "" }) {
		kinds = append(kinds, Secrets)
	}
	if config != nil && config.SelectsNamespaces() {
		kinds = append(kinds, Namespaces)
	}
	return kinds
}

// hears returns the route as the peer hears it, if it does.
func (o *outlook) hears(p loadbalancer.Peer) (all []loadbalancer.Route) {
	for _, r := range o.routes {
		if r.For(p.Name) {
			all = append(all, r)
		}
	}
	return all
}

// prefixes counts those that some peer hears. Routes are in the order of their prefixes.
func (o *outlook) prefixes() (n int) {
	var last netip.Prefix
	for _, r := range o.routes {
		if r.Prefix != last && slices.ContainsFunc(o.peers, func(p loadbalancer.Peer) bool { return r.For(p.Name) }) {
			n, last = n+1, r.Prefix
		}
	}
	return n
}

// told reports whether some peer hears a route for the address of which nothing is withheld.
func (o *outlook) told(v *View, of speaker.Announced) bool {
	namespace, name, _ := strings.Cut(of.Service, "/")
	for _, r := range speaker.RoutesOf(v.config(), v.find(namespace, name).Service, of.Addr, o.node.Labels) {
		if slices.ContainsFunc(o.peers, func(p loadbalancer.Peer) bool { return r.For(p.Name) }) {
			return true
		}
	}
	return false
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// find returns the Service of that name, or nil.
func (v *View) find(namespace, name string) *speaker.Service {
	i, ok := slices.BinarySearchFunc(v.services, [2]string{namespace, name}, func(s speaker.Service, key [2]string) int {
		return cmp.Or(cmp.Compare(s.Namespace, key[0]), cmp.Compare(s.Name, key[1]))
	})
	if !ok {
		return nil
	}
	return &v.services[i]
}

// A NoSuch is a name that nothing has.
type NoSuch struct {
	What, Name string
	Nearest    []string
}

func (u NoSuch) Error() string {
	text := fmt.Sprintf("there is no %s %s", u.What, u.Name)
	if len(u.Nearest) > 0 {
		text += ": did you mean " + strings.Join(u.Nearest, " or ") + "?"
	}
	return text
}

// unknown finds the nearest of the names that there are, at most three: those of other namespaces that are equal, and then those of
// few other letters. That its namespace is right makes a name no nearer.
func unknown(what, name string, known []string) NoSuch {
	u := NoSuch{What: what, Name: name}
	base := func(name string) string { return name[strings.LastIndex(name, "/")+1:] }
	own := len(base(name))
	left := slices.Clone(known)
	left = slices.DeleteFunc(left, func(s string) bool {
		equal := len(u.Nearest) < 3 && base(s) == base(name)
		if equal {
			u.Nearest = append(u.Nearest, s)
		}
		return equal
	})
	for len(u.Nearest) < 3 {
		best, letters := loadbalancer.Nearest(name, slices.Values(left))
		if best == "" || letters > 1+own/3 {
			break
		}
		u.Nearest = append(u.Nearest, best)
		left = slices.DeleteFunc(left, func(s string) bool { return s == best })
	}
	return u
}

// Node returns the Node of that name.
func (v *View) node(name string) (*corev1.Node, error) {
	for _, n := range v.nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, unknown("Node", name, v.NodeNames())
}

// NodeNames, ServiceNames, PoolNames and PeerNames are those that there are, sorted or in the order of the text.
func (v *View) NodeNames() (all []string) {
	for _, n := range v.nodes {
		all = append(all, n.Name)
	}
	return all
}

// ServiceNames are those of Services of type LoadBalancer, as namespace/name.
func (v *View) ServiceNames() (all []string) {
	for _, svc := range v.services {
		all = append(all, service.Name(svc.Service))
	}
	return all
}

// PoolNames are those of the pools in force.
func (v *View) PoolNames() (all []string) {
	for _, p := range v.config().Pools {
		all = append(all, p.Name)
	}
	return all
}

// PeerNames are those of the peers in force.
func (v *View) PeerNames() (all []string) {
	for _, p := range v.config().Peers {
		all = append(all, p.Name)
	}
	return all
}
