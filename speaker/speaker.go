package speaker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// An Announcer tells routers. It shall tell exactly these routes to exactly these peers, and return at once. since is when
// the change was first seen that led to them; zero if nobody waits for it.
type Announcer interface {
	AnnounceSince(peers []loadbalancer.Peer, routes []loadbalancer.Route, since time.Time)
}

// Options say for which node a Speaker speaks.
type Options struct {
	NodeName   string
	Namespace  string // of the admitted configuration
	ConfigName string // of the user's ConfigMap; the admitted copy's is this with "-admitted" behind it
	// IgnoreExcludeLabel makes nodes announce that are labelled node.kubernetes.io/exclude-from-external-load-balancers.
	IgnoreExcludeLabel bool
	// WaitForURL must answer with success before the first announcement, if it is not empty.
	WaitForURL string
}

// A Speaker keeps an Announcer up to date.
type Speaker struct {
	options   Options
	to        Announcer
	factories []informers.SharedInformerFactory
	services  cache.Store
	slices    cache.Indexer
	nodes     cache.Store
	configs   cache.Store
	synced    []cache.InformerSynced
	// dirty is a doorbell: however often it rings, the loop looks once, at everything.
	dirty chan struct{}
	// alarm makes it look again when what was decided is no longer right, though nothing changed.
	alarm  *time.Timer
	status status

	// The rest belongs to Run.
	secret   secretWatch
	text     string
	broken   bool // the text cannot be read
	config   *loadbalancer.Config
	ours     service.Ours
	memory   memory
	peers    []loadbalancer.Peer  // to which the node speaks
	withheld map[Announced]string // why, by what is not announced; nil before the first round
	kept     map[Announced]bool
	problems []string
}

// byService is the index of EndpointSlices by the namespace/name of their Service.
const byService = "service"

// New returns a Speaker that watches as little as it needs: Services of type LoadBalancer, slices of Services that have an
// address of their own, one Node and one ConfigMap.
func New(client kubernetes.Interface, to Announcer, options Options) (*Speaker, error) {
	if options.WaitForURL != "" {
		if err := checkURL(options.WaitForURL); err != nil {
			return nil, err
		}
	}
	s := &Speaker{options: options, to: to, dirty: make(chan struct{}, 1), alarm: time.NewTimer(0)}
	s.alarm.Stop()

	services := s.watch(client, metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = "spec.type=LoadBalancer" })
	endpoints := s.watch(client, metav1.NamespaceAll, func(o *metav1.ListOptions) {
		o.LabelSelector = discoveryv1.LabelServiceName + ",!" + corev1.IsHeadlessService
	})
	nodes := s.watch(client, metav1.NamespaceAll, named(options.NodeName))
	configs := s.watch(client, options.Namespace, named(options.ConfigName+"-admitted"))

	serviceInformer := services.Core().V1().Services().Informer()
	sliceInformer := endpoints.Discovery().V1().EndpointSlices().Informer()
	nodeInformer := nodes.Core().V1().Nodes().Informer()
	configInformer := configs.Core().V1().ConfigMaps().Informer()
	s.services, s.slices, s.nodes, s.configs = serviceInformer.GetStore(), sliceInformer.GetIndexer(), nodeInformer.GetStore(), configInformer.GetStore()

	err := errors.Join(
		sliceInformer.AddIndexers(cache.Indexers{byService: func(object any) ([]string, error) { return []string{serviceOf(object)}, nil }}),
		s.watchSecret(client),
		s.listen(serviceInformer, urgent, func(any) bool { return true }),
		// Most slices of a cluster belong to Services without an address.
		s.listen(sliceInformer, urgent, func(object any) bool {
			_, concerned, err := s.services.GetByKey(serviceOf(object))
			return concerned || err != nil
		}),
		s.listen(nodeInformer, !urgent, func(any) bool { return true }),
		s.listen(configInformer, !urgent, func(any) bool { return true }),
	)
	if err != nil {
		return nil, fmt.Errorf("watch the cluster: %w", err)
	}
	return s, nil
}

func named(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
}

func (s *Speaker) watch(client kubernetes.Interface, namespace string, narrow func(*metav1.ListOptions)) informers.SharedInformerFactory {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace), informers.WithTransform(s.trim), informers.WithTweakListOptions(narrow))
	s.factories = append(s.factories, f)
	return f
}

// trim drops what a speaker never looks at: most of a slice. Which pod an endpoint is matters on our own node only.
func (s *Speaker) trim(object any) (any, error) {
	if m, ok := object.(metav1.ObjectMetaAccessor); ok {
		m.GetObjectMeta().SetManagedFields(nil)
	}
	if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
		slice.Ports = nil
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			kept := discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName}
			if e.NodeName != nil && *e.NodeName == s.options.NodeName {
				kept.TargetRef = &corev1.ObjectReference{UID: types.UID(identity(e))}
			}
			*e = kept
		}
	}
	return object, nil
}

func serviceOf(object any) string {
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return ""
	}
	return slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
}

// urgent are changes of what clients reach: how long routers take to hear of them is measured.
const urgent = true

// listen rings the bell for objects that concern us.
func (s *Speaker) listen(informer cache.SharedIndexInformer, urgent bool, concerns func(any) bool) error {
	ring := func(objects ...any) {
		if slices.ContainsFunc(objects, concerns) {
			s.status.saw(urgent, time.Now())
			s.ring()
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { ring(object) },
		UpdateFunc: func(before, object any) { ring(before, object) }, // a slice may have been another Service's
		DeleteFunc: func(object any) {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			ring(object)
		},
	})
	if err != nil {
		return err
	}
	s.synced = append(s.synced, registration.HasSynced)
	return nil
}

func (s *Speaker) ring() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Run announces until ctx ends. It first announces when everything is known: routers that kept our routes over a restart
// drop at the end of the initial table what is not in it.
func (s *Speaker) Run(ctx context.Context) {
	for _, f := range s.factories {
		f.Start(ctx.Done())
	}
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return
	}
	s.status.set(func(s *status) { s.synced = true })
	if !s.passGate(ctx, gateClient()) {
		return
	}
	s.ring()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
		case <-s.alarm.C:
		}
		s.round(ctx)
	}
}

// round looks at everything once.
func (s *Speaker) round(ctx context.Context) {
	due := s.status.begin(time.Now())
	defer s.status.end()
	stale := s.readConfig()
	s.status.set(func(st *status) { st.loaded, st.stale = s.config != nil, stale })
	node := s.node()
	if s.config == nil || node == nil {
		s.report([]string{waitingFor(s.config, node, s.options)})
		return
	}
	now := time.Now()
	drained, since := Drained(s.config, node)
	node = s.forgive(node)
	routes, withheld, services, next, wake := s.memory.announcements(now, s.config, s.ours, node, s.known(), drained, since)
	if s.alarm.Stop(); !wake.IsZero() {
		s.alarm.Reset(wake.Sub(now))
	}
	peers, mute, problems := Peers(s.config, node, s.passwords(ctx, node), s.peers)
	s.report(problems)
	s.to.AnnounceSince(peers, routes, due)
	s.logDrain(s.memory.drain, next.drain)
	s.memory, s.peers = next, peers
	s.logChanges(len(routes), services, withheld)
	s.status.set(func(st *status) {
		st.spoken, st.config, st.labels, st.services, st.withheld, st.mute = true, s.config, node.Labels, services, s.withheld, mute
	})
}

func waitingFor(config *loadbalancer.Config, node *corev1.Node, o Options) string {
	if config == nil {
		return fmt.Sprintf("no configuration is admitted yet: ConfigMap %s/%s-admitted", o.Namespace, o.ConfigName)
	}
	return fmt.Sprintf("node %s does not exist", o.NodeName)
}

// report logs what keeps us from speaking to some or all peers, when it changes.
func (s *Speaker) report(problems []string) {
	if slices.Equal(problems, s.problems) {
		return
	}
	s.problems = problems
	if s.config != nil {
		s.status.failed(len(problems))
	}
	for _, p := range problems {
		klog.InfoS("Cannot speak yet", "why", p)
	}
}

// readConfig parses the admitted configuration if it changed. Whatever happens to it, what was once in force stays. It
// reports whether that is not what is stored: the text cannot be read, or is gone.
func (s *Speaker) readConfig() (stale bool) {
	object, _, err := s.configs.GetByKey(s.options.Namespace + "/" + s.options.ConfigName + "-admitted")
	stored, ok := object.(*corev1.ConfigMap)
	if err != nil || !ok {
		return s.config != nil
	}
	text, ok := stored.Data["config"]
	if !ok {
		return s.config != nil
	}
	ours := service.FromData(stored.Data)
	if text == s.text && (ours.Equal(s.ours) || s.broken) {
		return s.broken
	}
	s.text = text
	config, ignored, err := loadbalancer.ParseAdmitted([]byte(text))
	s.broken = err != nil
	if err != nil {
		klog.ErrorS(err, "Kept the previous configuration", "configmap", klog.KObj(stored))
		s.status.failed(1)
		return true
	}
	s.config, s.ours = config, ours
	klog.InfoS("Loaded configuration", "configmap", klog.KObj(stored), "hash", stored.Data["hash"], "ignored", ignored)
	return false
}

// node returns our Node, or nil.
func (s *Speaker) node() *corev1.Node {
	object, ok, err := s.nodes.GetByKey(s.options.NodeName)
	node, isNode := object.(*corev1.Node)
	if err != nil || !ok || !isNode {
		return nil
	}
	return node
}

// forgive returns the node without the label that the operator told us to ignore.
func (s *Speaker) forgive(node *corev1.Node) *corev1.Node {
	if s.options.IgnoreExcludeLabel {
		node = node.DeepCopy()
		delete(node.Labels, corev1.LabelNodeExcludeBalancers)
	}
	return node
}

// known returns every Service with its slices.
func (s *Speaker) known() []Service {
	objects := s.services.List()
	all := make([]Service, 0, len(objects))
	for _, object := range objects {
		svc, ok := object.(*corev1.Service)
		if !ok {
			continue
		}
		found, err := s.slices.ByIndex(byService, svc.Namespace+"/"+svc.Name)
		if err != nil {
			continue // only a missing index is an error, and New has added it
		}
		with := Service{Service: svc}
		for _, object := range found {
			if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
				with.Slices = append(with.Slices, slice)
			}
		}
		all = append(all, with)
	}
	return all
}

// logChanges says what is announced no longer, or not for the same reason, what is announced again, and what although its
// Service no longer shows it.
func (s *Speaker) logChanges(routes int, services []Service, withheld []Withheld) {
	now, kept := make(map[Announced]string, len(withheld)), map[Announced]bool{}
	for _, w := range withheld {
		now[w.Announced] = w.Why
	}
	before := s.withheld
	s.withheld = now
	if before == nil {
		klog.InfoS("Began to announce", "peers", len(s.peers), "routes", routes, "withheld", len(withheld))
	}
	const most = 20 // of many changes at once, the number says more
	changed := 0
	worthwhile := func() bool { changed++; return changed <= most }
	for _, w := range withheld {
		if before[w.Announced] != w.Why && worthwhile() {
			klog.InfoS("Not announcing", "service", w.Service, "address", w.Addr, "why", w.Why)
		}
	}
	for a := range before {
		if _, still := now[a]; !still && worthwhile() {
			klog.InfoS("No longer withheld", "service", a.Service, "address", a.Addr)
		}
	}
	for _, svc := range services {
		for _, addr := range svc.Kept {
			a := Announced{service.Name(svc.Service), addr}
			if kept[a] = true; !s.kept[a] && worthwhile() {
				klog.InfoS("Still announcing", "service", a.Service, "address", a.Addr, "why", "it left the status of its Service, and nobody released it: at most "+keptFor.String())
			}
		}
	}
	s.kept = kept
	if changed > most {
		klog.InfoS("More changes", "changes", changed-most, "routes", routes, "withheld", len(withheld))
	}
}
