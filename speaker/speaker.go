package speaker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/internal/watch"
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
	// Gateways returns the next hops of the node's default routes; Up reports whether the session with a peer is. When either
	// changes, LookAgain is to be called.
	Gateways func() Gateways
	Up       func(loadbalancer.Peer) bool
	// WaitForURL must answer with success before the first announcement, if it is not empty.
	WaitForURL string
}

// A Cluster has clients of what a Speaker watches; those of ConfigMaps and Secrets are of the configuration's namespace.
type Cluster struct {
	Services   watch.Lister[*corev1.ServiceList]
	Slices     watch.Lister[*discoveryv1.EndpointSliceList]
	Nodes      watch.Lister[*corev1.NodeList]
	ConfigMaps watch.Lister[*corev1.ConfigMapList]
	Secrets    watch.Lister[*corev1.SecretList]
	// Fake is client-go's fake of an API server, if it is one, which cannot stream lists.
	Fake any
}

// A Speaker keeps an Announcer up to date.
type Speaker struct {
	options Options
	to      Announcer
	// What is watched. The loop fetches from each what it has not seen yet.
	services *watch.Inbox[record]
	slices   *watch.Inbox[endpoints]
	nodes    *watch.Inbox[corev1.Node]
	configs  *watch.Inbox[corev1.ConfigMap]
	secrets  *watch.Inbox[corev1.Secret]
	cluster  *watch.Inbox[corev1.Node] // all nodes, once a configuration ranks them
	// bell is a doorbell: however often it rings, the loop looks once.
	bell chan struct{} // capacity 1
	// again asks for a look though nothing that is watched changed.
	again atomic.Bool
	// alarm makes it look again when what was decided is no longer right, though nothing changed.
	alarm  *time.Timer
	status status

	mu        sync.Mutex
	decisions *decisions // guarded by mu; only Run changes them

	// The rest belongs to Run.
	node     *corev1.Node      // nil: there is none
	stored   *corev1.ConfigMap // nil: there is none
	secret   secretWatch
	enroll   func() // begins to watch all nodes; nil: it has
	admitted watch.Admitted
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
	s.services = watch.NewInbox(cluster.Fake, cluster.Services, &corev1.Service{}, s.ring,
		func(o *metav1.ListOptions) { o.FieldSelector = "spec.type=LoadBalancer" },
		func(object any) (string, *record) {
			r := recordOf(object.(*corev1.Service))
			return r.name, r
		})
	s.slices = watch.NewInbox(cluster.Fake, cluster.Slices, &discoveryv1.EndpointSlice{}, s.ring,
		func(o *metav1.ListOptions) {
			o.LabelSelector = discoveryv1.LabelServiceName + ",!" + corev1.IsHeadlessService
		},
		func(object any) (string, *endpoints) {
			return endpointsOf(object.(*discoveryv1.EndpointSlice), options.NodeName)
		})
	s.nodes = watch.NewInbox(cluster.Fake, cluster.Nodes, &corev1.Node{}, s.ring, watch.Named(options.NodeName), watch.Whole[corev1.Node])
	s.configs = watch.NewInbox(cluster.Fake, cluster.ConfigMaps, &corev1.ConfigMap{}, s.ring, watch.Named(watch.AdmittedName(options.ConfigName)), watch.Whole[corev1.ConfigMap])
	s.secrets = watch.NewInbox(cluster.Fake, cluster.Secrets, &corev1.Secret{}, s.ring, watch.Named(SecretName), watch.Whole[corev1.Secret])
	s.cluster = watch.NewInbox(cluster.Fake, cluster.Nodes, &corev1.Node{}, s.ring, func(*metav1.ListOptions) {}, keptOf)
	return s, nil
}

// LookAgain makes the Speaker look at what Options told it of. Anybody may call it.
func (s *Speaker) LookAgain() {
	s.again.Store(true)
	s.ring()
}

func (s *Speaker) ring() { watch.Knock(s.bell) }

// Run announces until ctx ends. It first announces when everything is known: routers that kept our routes over a restart
// drop at the end of the initial table what is not in it.
func (s *Speaker) Run(ctx context.Context) {
	var readers sync.WaitGroup
	defer readers.Wait()
	for _, r := range []*cache.Reflector{s.services.Reflector, s.slices.Reflector, s.nodes.Reflector, s.configs.Reflector} {
		readers.Go(func() { r.RunWithContext(ctx) })
	}
	s.enroll = func() { readers.Go(func() { s.cluster.Reflector.RunWithContext(ctx) }) }
	s.secret.watch = func() { readers.Go(func() { s.secrets.Reflector.RunWithContext(ctx) }) }
	for !s.services.IsFull() || !s.slices.IsFull() || !s.nodes.IsFull() || !s.configs.IsFull() {
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
	for name, h := range s.services.Fetch(maps.Keys(s.decisions.services)) {
		s.decisions.setService(name, h.Object)
		seen.see(h.First)
	}
	for name, h := range s.slices.Fetch(maps.Keys(s.decisions.slices)) {
		// Most slices of a cluster belong to Services without an address.
		if s.decisions.setSlice(name, h.Object) {
			seen.see(h.First)
		}
	}
	fetchOne(&seen, s.nodes, s.options.NodeName, &s.node)
	fetchOne(&seen, s.configs, watch.AdmittedName(s.options.ConfigName), &s.stored)
	if s.secrets.IsFull() && !s.secret.read {
		s.secret.read, seen.concerns = true, true
	}
	seen.concerns = seen.concerns || s.again.Swap(false)
	fetchOne(&seen, s.secrets, SecretName, &s.secret.secret)
	for name, h := range s.cluster.Fetch(maps.Keys(s.decisions.nodes)) {
		if s.decisions.setNode(name, h.Object) {
			seen.see(time.Time{})
		}
	}
	return seen
}

// see counts a change that concerns us. Only those of what clients reach are due: how long routers take to hear of them is measured.
func (s *sight) see(due time.Time) {
	s.concerns, s.changes, s.due = true, s.changes+1, earlier(s.due, due)
}

// fetchOne is fetch for one object.
func fetchOne[T any](seen *sight, from *watch.Inbox[T], name string, object **T) {
	if h, ok := from.Fetch(slices.Values([]string{name}))[name]; ok {
		*object = h.Object
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
	if s.config.Ranks() && s.enroll != nil {
		s.enroll()
		s.enroll = nil
	}
	// What comes later corrects what was said, and routers drop at the end of the first table what is not in it. But a restart
	// would make every node a primary.
	if s.config.Ranks() && !s.cluster.IsFull() && !s.spoken {
		s.report([]string{"some advertisement has primaries, and the Nodes have not been read yet"})
		return
	}
	drained, since := Drained(s.config, s.node)
	drain, over, end := s.drain.look(now, s.config.Drain, s.node.Name, drained, since)
	unfit := cmp.Or(Unfit(s.node, s.options.IgnoreExcludeLabel), over)
	s.mu.Lock()
	s.decisions.wakeups.set(subject{}, end)
	o := s.decisions.look(now, world{s.config, s.ours, s.node.Name, s.node.Labels, unfit, drained != "", s.options.IgnoreExcludeLabel})
	wake := s.decisions.wakeups.first()
	s.mu.Unlock()
	var gateways Gateways
	if s.options.Gateways != nil {
		gateways = s.options.Gateways()
	}
	peers, mute, problems := Peers(s.config, s.node, s.passwords(), gateways, s.peers, s.options.Up)
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
	s.status.set(func(st *status) { st.spoken, st.shown.Mute, st.shown.Drained = true, mute, drained != "" })
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

// readConfig reads the admitted configuration if it changed. It reports whether that is not what is stored: the text cannot be
// read, or is gone.
func (s *Speaker) readConfig() (stale bool) {
	stale, failed := s.admitted.Read(s.stored)
	if failed {
		s.status.failed(1)
	}
	s.config, s.ours = s.admitted.Config, s.admitted.Ours
	s.status.set(func(st *status) { st.shown.Hash = s.admitted.Hash })
	return stale
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
