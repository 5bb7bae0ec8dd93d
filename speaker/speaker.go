package speaker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// An Announcer tells routers. It shall tell exactly these peers, and of the prefixes in changed exactly these routes; what it
// was told of others stays. It shall return at once. since is when the change was first seen that led to them; zero if nobody
// waits for it. Nobody changes the routes afterwards.
type Announcer interface {
	Update(peers []loadbalancer.Peer, changed map[netip.Prefix][]loadbalancer.Route, since time.Time)
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

// A Cluster has clients of what a Speaker watches; those of ConfigMaps and Secrets are of the configuration's namespace.
type Cluster struct {
	Services   Lister[*corev1.ServiceList]
	Slices     Lister[*discoveryv1.EndpointSliceList]
	Nodes      Lister[*corev1.NodeList]
	ConfigMaps Lister[*corev1.ConfigMapList]
	Secrets    Lister[*corev1.SecretList]
	// Fake is client-go's fake of an API server, if it is one, which cannot stream lists.
	Fake any
}

// A Speaker keeps an Announcer up to date.
type Speaker struct {
	options Options
	to      Announcer
	// What is watched. The loop fetches from each what it has not seen yet.
	services *inbox[record]
	slices   *inbox[endpoints]
	nodes    *inbox[corev1.Node]
	configs  *inbox[corev1.ConfigMap]
	secrets  *inbox[corev1.Secret]
	// bell is a doorbell: however often it rings, the loop looks once.
	bell chan struct{} // capacity 1
	// alarm makes it look again when what was decided is no longer right, though nothing changed.
	alarm  *time.Timer
	status status

	mu        sync.Mutex
	decisions *decisions // guarded by mu; only Run changes them

	// The rest belongs to Run.
	node     *corev1.Node      // nil: there is none
	stored   *corev1.ConfigMap // nil: there is none
	secret   secretWatch
	text     string
	broken   bool // the text cannot be read
	config   *loadbalancer.Config
	ours     service.Ours
	drain    drain
	peers    []loadbalancer.Peer // to which the node speaks
	spoken   bool
	problems []string
}

// New returns a Speaker that watches as little as it needs: Services of type LoadBalancer, slices of Services that have an
// address of their own, one Node and one ConfigMap; and one Secret, once a configuration needs it.
func New(cluster Cluster, to Announcer, options Options) (*Speaker, error) {
	if options.WaitForURL != "" {
		if err := checkURL(options.WaitForURL); err != nil {
			return nil, err
		}
	}
	s := &Speaker{options: options, to: to, bell: make(chan struct{}, 1), alarm: time.NewTimer(0), decisions: newDecisions(),
		secret: secretWatch{ref: options.Namespace + "/" + SecretName}}
	s.alarm.Stop()
	s.services = newInbox(cluster.Fake, cluster.Services, &corev1.Service{}, s.ring,
		func(o *metav1.ListOptions) { o.FieldSelector = "spec.type=LoadBalancer" },
		func(object any) (string, *record) {
			r := recordOf(object.(*corev1.Service))
			return r.name, r
		})
	s.slices = newInbox(cluster.Fake, cluster.Slices, &discoveryv1.EndpointSlice{}, s.ring,
		func(o *metav1.ListOptions) {
			o.LabelSelector = discoveryv1.LabelServiceName + ",!" + corev1.IsHeadlessService
		},
		func(object any) (string, *endpoints) {
			return endpointsOf(object.(*discoveryv1.EndpointSlice), options.NodeName)
		})
	s.nodes = newInbox(cluster.Fake, cluster.Nodes, &corev1.Node{}, s.ring, named(options.NodeName), whole[corev1.Node])
	s.configs = newInbox(cluster.Fake, cluster.ConfigMaps, &corev1.ConfigMap{}, s.ring, named(options.ConfigName+"-admitted"), whole[corev1.ConfigMap])
	s.secrets = newInbox(cluster.Fake, cluster.Secrets, &corev1.Secret{}, s.ring, named(SecretName), whole[corev1.Secret])
	return s, nil
}

func named(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
}

// whole keeps an object as it is, but for what nobody here reads. An annotation of a Secret may hold its values once more.
func whole[T any](object any) (string, *T) {
	meta := object.(metav1.ObjectMetaAccessor).GetObjectMeta()
	meta.SetManagedFields(nil)
	if _, secret := object.(*corev1.Secret); secret {
		meta.SetAnnotations(nil)
	}
	return meta.GetName(), object.(*T)
}

// ring makes the loop look, unless it is about to.
func (s *Speaker) ring() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// Run announces until ctx ends. It first announces when everything is known: routers that kept our routes over a restart
// drop at the end of the initial table what is not in it.
func (s *Speaker) Run(ctx context.Context) {
	var readers sync.WaitGroup
	defer readers.Wait()
	for _, r := range []*cache.Reflector{s.services.reflector, s.slices.reflector, s.nodes.reflector, s.configs.reflector} {
		readers.Go(func() { r.RunWithContext(ctx) })
	}
	s.secret.watch = func() { readers.Go(func() { s.secrets.reflector.RunWithContext(ctx) }) }
	for !s.services.isFull() || !s.slices.isFull() || !s.nodes.isFull() || !s.configs.isFull() {
		select {
		case <-ctx.Done():
			return
		case <-s.bell:
		}
	}
	s.status.set(func(s *status) { s.synced = true })
	if !s.passGate(ctx, gateClient()) {
		return
	}
	s.ring()
	s.loop(ctx)
}

func (s *Speaker) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.bell:
			s.round(s.fetch())
		case <-s.alarm.C:
			s.round(sight{concerns: true})
		}
	}
}

// A sight is what the loop has fetched since the last round.
type sight struct {
	concerns bool // something on which routes or sessions depend
	changes  int
	due      time.Time // when the first change was seen that routers may have to hear of; zero if none
}

// fetch takes what the inboxes have.
func (s *Speaker) fetch() (seen sight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, h := range s.services.fetch(maps.Keys(s.decisions.services)) {
		s.decisions.setService(name, h.object)
		seen.see(h.first)
	}
	for name, h := range s.slices.fetch(maps.Keys(s.decisions.slices)) {
		// Most slices of a cluster belong to Services without an address.
		if s.decisions.setSlice(name, h.object) {
			seen.see(h.first)
		}
	}
	fetchOne(&seen, s.nodes, s.options.NodeName, &s.node)
	fetchOne(&seen, s.configs, s.options.ConfigName+"-admitted", &s.stored)
	if s.secrets.isFull() && !s.secret.read {
		s.secret.read, seen.concerns = true, true
	}
	fetchOne(&seen, s.secrets, SecretName, &s.secret.secret)
	return seen
}

// see counts a change that concerns us. Only those of what clients reach are due: how long routers take to hear of them is measured.
func (s *sight) see(due time.Time) {
	s.concerns, s.changes, s.due = true, s.changes+1, earlier(s.due, due)
}

// fetchOne is fetch for one object.
func fetchOne[T any](seen *sight, from *inbox[T], name string, object **T) {
	if h, ok := from.fetch(slices.Values([]string{name}))[name]; ok {
		*object = h.object
		seen.see(time.Time{})
	}
}

// round decides and announces, if something was seen that matters.
func (s *Speaker) round(seen sight) {
	if !seen.concerns && s.spoken {
		return
	}
	now := time.Now()
	s.status.set(func(st *status) { st.began, st.shown.Changes = now, st.shown.Changes+uint64(seen.changes) })
	defer s.status.set(func(st *status) { st.began = time.Time{} })
	stale := s.readConfig()
	s.status.set(func(st *status) { st.shown.Loaded, st.shown.Stale = s.config != nil, stale })
	switch {
	case s.config == nil:
		s.report([]string{fmt.Sprintf("no configuration is admitted yet: ConfigMap %s/%s-admitted", s.options.Namespace, s.options.ConfigName)})
		return
	case s.node == nil:
		s.report([]string{fmt.Sprintf("node %s does not exist", s.options.NodeName)})
		return
	}
	drained, since := Drained(s.config, s.node)
	drain, over, end := s.drain.look(now, s.config.Drain, s.node.Name, drained, since)
	unfit := cmp.Or(unfit(s.node, s.options.IgnoreExcludeLabel), over)
	s.mu.Lock()
	s.decisions.wakeups.set(subject{}, end)
	o := s.decisions.look(now, world{s.config, s.ours, s.node.Name, s.node.Labels, unfit, drained != ""})
	wake := s.decisions.wakeups.first()
	s.mu.Unlock()
	peers, mute, problems := Peers(s.config, s.node, s.passwords(), s.peers)
	wake = earlier(wake, s.secret.patience(now))
	if s.alarm.Stop(); !wake.IsZero() {
		s.alarm.Reset(wake.Sub(now))
	}
	s.report(problems)
	s.to.Update(peers, o.routes, seen.due)
	s.logDrain(s.drain, drain)
	s.drain, s.peers = drain, peers
	s.logChanges(o)
	s.spoken = true
	s.status.set(func(st *status) { st.spoken, st.shown.Mute = true, mute })
}

// report logs what keeps us from speaking to some or all peers, when it changes.
func (s *Speaker) report(problems []string) {
	if slices.Equal(problems, s.problems) {
		return
	}
	s.problems = problems
	s.status.set(func(st *status) { st.shown.Problems = problems })
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
	stored := s.stored
	if stored == nil {
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
	s.status.set(func(st *status) { st.shown.Hash = stored.Data["hash"] })
	klog.InfoS("Loaded configuration", "configmap", klog.KObj(stored), "hash", stored.Data["hash"], "ignored", ignored)
	return false
}

// logChanges says what is announced no longer, or not for the same reason, what is announced again, and what although its
// Service no longer shows it.
func (s *Speaker) logChanges(o outcome) {
	routes, withheld := s.decisions.routes, s.decisions.withheld
	if !s.spoken {
		klog.InfoS("Began to announce", "peers", len(s.peers), "routes", routes, "withheld", withheld)
	}
	const most = 20 // of many changes at once, the number says more
	for i, r := range o.remarks {
		if i == most {
			klog.InfoS("More changes", "changes", len(o.remarks)-most, "routes", routes, "withheld", withheld)
			return
		}
		switch r.what {
		case notAnnouncing:
			klog.InfoS("Not announcing", "service", r.Service, "address", r.Addr, "why", r.Why)
		case stillAnnouncing:
			klog.InfoS("Still announcing", "service", r.Service, "address", r.Addr, "why", r.Why)
		default:
			klog.InfoS("No longer withheld", "service", r.Service, "address", r.Addr)
		}
	}
}
