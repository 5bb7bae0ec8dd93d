package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	componentbaseconfig "k8s.io/component-base/config"
	"k8s.io/controller-manager/pkg/healthz"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Name is this provider's name, as in --cloud-provider=metallb.
const Name = "metallb"

// waitAtMost is how long a Service that cannot be served stays off the service controller's queue. Whatever could serve
// it earlier requeues it; the delay is for what we do not know of.
const waitAtMost = 10 * time.Minute

// Options say where a Cloud finds its configuration and how it is elected.
type Options struct {
	Namespace  string // of both ConfigMaps
	ConfigName string // of the user's ConfigMap; the admitted copy's is this with "-admitted" behind it
	// Ours says which Services are served. Others are left alone.
	Ours service.Ours
}

// Cloud is the cloud provider. It offers load balancers only: a provider that claims to know instances makes Kubernetes
// delete Nodes.
type Cloud struct {
	options Options
	view    view
	watch   *viewed
	// lookup returns the Service of that name as the informer's store has it; nil if it does not.
	lookup func(namespace, name string) *corev1.Service
	// wrote are Services, by UID, as we wrote them, until the informer has seen that.
	wrote  sync.Map
	events *events
	record recorder // writes into events
	review func()   // asks the admission to look again
	// selects watches the labels of Namespaces if the configuration needs them.
	selects func(*loadbalancer.Config)
	now     func() time.Time
	// slice is for how long the mutex is kept while Services that wait are served. Then others may have it.
	slice time.Duration

	mu      sync.Mutex // guards what follows, up to resign
	ledger  *ledger
	remarks *remarks
	frozen  bool
	// holding is set while a text is judged and stored: no address is given away that it may not know. resumed tells the end.
	holding bool
	resumed sync.Cond
	// serving is set while the rest of those that wait is to be served.
	serving bool
	// ready is set once every address in use is adopted. What the informers say before that is not news.
	ready     bool
	holdDowns *holdDowns // nil in tests that have no API server
	// ends is when the next address ends to be held down, and timer tells.
	ends  time.Duration
	timer *time.Timer
	// gone are the Services that were deleted after we began to list them, until ready: the list may still show them.
	gone   map[types.UID]bool
	config configState
	resign context.CancelFunc // ends the candidacy or the leadership

	election componentbaseconfig.LeaderElectionConfiguration
	lease    *lease // nil without leader election
	watchdog *leaderelection.HealthzAdaptor
	watches  watches
	resigned chan struct{} // closed once the Lease is given up
	fence    *fence        // around what the service controller writes
}

// New returns a Cloud that has read nothing yet.
func New(options Options) *Cloud {
	events := newEvents()
	c := &Cloud{
		options:  options,
		events:   events,
		record:   events,
		view:     view{ours: options.Ours},
		ledger:   newLedger(),
		remarks:  newRemarks(),
		watchdog: leaderelection.NewLeaderHealthzAdaptor(20 * time.Second),
		resigned: make(chan struct{}),
		fence:    &fence{},
	}
	c.resumed.L = &c.mu
	c.now, c.slice = time.Now, sliceOfServing
	c.selects = func(*loadbalancer.Config) {}
	return c
}

// A recorder tells users of an object.
type recorder interface {
	Eventf(object runtime.Object, kind, reason, format string, args ...any)
}

var (
	_ cloudprovider.Interface    = &Cloud{}
	_ cloudprovider.LoadBalancer = &Cloud{}
)

// Initialize does nothing: the clients come with the service controller (see Controller).
func (c *Cloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer returns the Cloud itself.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c, true }

// Instances is not offered.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 is not offered.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

// Zones is not offered.
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters is not offered.
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes is not offered.
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName returns "metallb".
func (c *Cloud) ProviderName() string { return Name }

// HasClusterID returns true: addresses need no mark of the cluster that uses them.
func (c *Cloud) HasClusterID() bool { return true }

// GetLoadBalancer reports whether the Service holds an address, from memory and by its UID: when a Service changes its
// type, the API server has emptied the status before we are asked. It never fails.
func (c *Cloud) GetLoadBalancer(_ context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.ledger.held(svc)
	if len(held) == 0 {
		return nil, false, nil
	}
	return service.Status(held), true, nil
}

// GetLoadBalancerName returns a name that is unique in the cluster. Nothing depends on it.
func (c *Cloud) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return cloudprovider.DefaultLoadBalancerName(svc)
}

// ensures is what the service controller does here, in its words.
const ensures = "ensure load balancer"

// EnsureLoadBalancer returns the status with the addresses that the Service holds from now on. An error is text for the
// user, who reads it in an event; the text stays the same for as long as the reason does.
func (c *Cloud) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, _ []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	d, changed, err := c.answer(ctx, svc)
	if err != nil {
		if err != cloudprovider.ImplementedElsewhere {
			c.failed(svc, ensures, err.Error())
		}
		return nil, err
	}
	left, addrs := d.left(), service.InWords(d.Addrs)
	if d.news {
		klog.InfoS("Allocated address", "service", service.Name(svc), "address", addrs, "pool", d.pool)
	}
	switch {
	case d.news && d.Renumbered && len(left) > 0:
		c.record.Eventf(svc, corev1.EventTypeNormal, "Renumbered", "%s became %s of pool %s", service.InWords(left), addrs, d.pool)
	case d.news && !d.Apart.None():
		c.record.Eventf(svc, corev1.EventTypeNormal, "IPAllocated", "assigned %s from pool %s; %s", addrs, d.pool, d.Apart.Apart())
	case d.news:
		c.record.Eventf(svc, corev1.EventTypeNormal, "IPAllocated", "assigned %s from pool %s", addrs, d.pool)
	}
	if d.news && !d.misplaced.None() {
		c.record.Eventf(svc, corev1.EventTypeWarning, "AddressReserved", "%s", d.misplaced)
	}
	if !d.Conflict.None() && len(left) > 0 {
		klog.InfoS("Found two Services on one address", "service", service.Name(svc), "address", service.InWords(left), "why", d.Conflict)
		c.record.Eventf(svc, corev1.EventTypeWarning, "AddressConflict", "%s. This Service had it too, and loses it", d.Conflict)
	}
	c.released(svc, left)
	c.requeue(changed)
	if !d.Why.None() {
		if d.Why.Foreign { // its user does not learn the name
			klog.InfoS("Waits for what a Service of another namespace holds", "service", service.Name(svc), "address", d.Why.Addr, "holder", d.Why.Holder)
		}
		why := d.Why.String()
		c.failed(svc, ensures, why)
		return nil, api.NewRetryError(why, waitAtMost)
	}
	return service.Status(d.Addrs), nil
}

// answer decides about the Service. If that would change its status, the Lease must be ours.
func (c *Cloud) answer(ctx context.Context, svc *corev1.Service) (d decision, changed []*corev1.Service, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := func() bool {
		for c.holding && !c.frozen && !c.ledger.settled(svc) {
			c.resumed.Wait()
		}
		return !c.frozen && !c.ledger.settled(svc)
	}
	if changes() {
		func() {
			c.mu.Unlock()
			defer c.mu.Lock()
			err = c.confirm(ctx)
		}()
		if err == nil {
			changes() // a text may be judged again
		}
	}
	if c.frozen {
		return d, nil, cloudprovider.ImplementedElsewhere // by the next leader; the service controller says nothing
	}
	if err != nil {
		return d, nil, err
	}
	if is := c.stored(svc); is == nil || c.view.of(is) == nil || !wants(is) {
		return d, nil, cloudprovider.ImplementedElsewhere // it went, or became another's: nothing is to be written
	}
	c.ledger.allocator.At(c.clock())
	d = c.ledger.answer(svc)
	changed = c.serve()
	if d.again {
		changed = append(changed, svc)
	}
	return d, changed, nil
}

// confirm returns nil if this process leads. It ends the process if another one does.
func (c *Cloud) confirm(ctx context.Context) error {
	if c.lease == nil {
		return nil
	}
	err := c.lease.Confirm(ctx)
	if errors.Is(err, errLost) {
		c.mu.Lock()
		stopping := c.frozen
		c.mu.Unlock()
		if !stopping { // else we gave it up ourselves
			stop(err)
		}
	}
	return err
}

// UpdateLoadBalancer has nothing to do when nodes change: announcing is the speakers' part. The service controller
// compares the error with ==, and is silent only on this one.
func (c *Cloud) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return cloudprovider.ImplementedElsewhere
}

// EnsureLoadBalancerDeleted frees the address that the Service holds, and serves who waits for one. It never fails.
func (c *Cloud) EnsureLoadBalancerDeleted(_ context.Context, _ string, svc *corev1.Service) error {
	// It may be another's by now: only what it held is forgotten.
	c.release(svc, c.ledger.forget)
	return nil
}

// release frees what the Service holds.
func (c *Cloud) release(svc *corev1.Service, forget func(types.UID) []netip.Addr) {
	var left []netip.Addr
	c.change(func() {
		if c.gone != nil {
			c.gone[svc.UID] = true
		}
		left = forget(svc.UID)
		c.remarks.see(svc.UID, nil) // who is left may agree: there is nothing to warn of
	})
	c.released(svc, left)
}

func (c *Cloud) released(svc *corev1.Service, addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	klog.InfoS("Released address", "service", service.Name(svc), "address", service.InWords(addrs))
	c.review()
}

// serve lets Services that wait have what is there for them, and returns those that are to be told. It is called with the mutex
// held, for a slice of time; the rest follows.
func (c *Cloud) serve() []*corev1.Service {
	if c.frozen || c.holding {
		return nil
	}
	began := time.Now()
	c.alarm()
	changed, more := c.ledger.serveWhile(func() bool { return time.Since(began) < c.slice })
	if more && !c.serving {
		c.serving = true
		go c.change(func() { c.serving = false })
	}
	return changed
}

// change does something with the mutex held, and serves whoever may get something by it.
func (c *Cloud) change(do func()) {
	c.mu.Lock()
	c.ledger.allocator.At(c.clock())
	do()
	changed := c.serve()
	c.mu.Unlock()
	c.requeue(changed)
}

// sliceOfServing is how long a slice is where no test says otherwise.
const sliceOfServing = 5 * time.Millisecond

func (c *Cloud) requeue(services []*corev1.Service) {
	for _, svc := range services {
		c.watch.Requeue(svc)
	}
}

// OnAdd takes note of a Service, and then the service controller hears of it. It is the handler of our informer, as are OnUpdate
// and OnDelete.
func (c *Cloud) OnAdd(object any, initially bool) {
	if svc, ok := object.(*corev1.Service); ok {
		c.see(nil, svc, initially)
	}
}

// OnUpdate takes note of a Service that changed, perhaps by somebody else's hand.
func (c *Cloud) OnUpdate(before, object any) {
	was, _ := before.(*corev1.Service)
	if svc, ok := object.(*corev1.Service); ok {
		c.see(was, svc, false)
	}
}

func (c *Cloud) see(before, svc *corev1.Service, initially bool) {
	updates.Inc()
	var was *corev1.Service
	if before != nil {
		was = c.view.of(before)
	}
	is := c.view.of(svc)
	if last, ok := c.wrote.Load(svc.UID); ok && !newer(last.(*corev1.Service), svc) {
		c.wrote.Delete(svc.UID)
	}
	c.mu.Lock()
	if !c.ready || c.stored(svc) == nil {
		c.mu.Unlock()
		return
	}
	c.ledger.allocator.At(c.clock())
	var do action
	if is != nil {
		do = c.ledger.see(is, c.now())
	} else {
		do = c.ledger.ignore(svc)
	}
	told := c.remarks.see(svc.UID, is)
	changed := c.serve()
	c.mu.Unlock()
	c.requeue(changed)
	c.released(svc, do.left)
	c.watch.changed(was, is)
	c.tell(told)
	typos := service.UnknownOnService(svc.Annotations)
	if is != nil && typos != "" && !initially && (before == nil || typos != service.UnknownOnService(before.Annotations)) {
		c.record.Eventf(is, corev1.EventTypeWarning, "UnknownAnnotation", "%s", typos)
	}
	if do.waited > 0 {
		assignment.Observe(do.waited.Seconds())
	}
	if do.contested {
		c.review() // the address is to be kept elsewhere
		c.record.Eventf(is, corev1.EventTypeWarning, "StatusConflict",
			"%s writes the status again and again, which is put right less and less often, every minute at last: keep it from this Service", writerOf(is))
	}
	switch {
	case do.again && do.after > 0: // if all is well by then, nothing is written
		time.AfterFunc(do.after, func() { c.watch.Requeue(is) })
	case do.again:
		c.watch.Requeue(is)
	}
}

// writerOf names who wrote the status last, beside us.
func writerOf(svc *corev1.Service) string {
	for _, manager := range writersOf(svc, ofStatus) {
		if manager != fieldManager {
			return fmt.Sprintf("field manager %q", service.Short(manager))
		}
	}
	return "somebody else"
}

// stored returns the Service as the informer's store has it; nil if it went, also if another came by its name. What comes late is
// about one that went meanwhile: noted then, it would stay for ever. Asked with the mutex held, the answer cannot become wrong
// before OnDelete, which needs the mutex, is told.
func (c *Cloud) stored(svc *corev1.Service) *corev1.Service {
	if is := c.lookup(svc.Namespace, svc.Name); is != nil && is.UID == svc.UID {
		return is
	}
	return nil
}

// compareEvery is how often the ledger is compared with what the informer's store has.
const compareEvery = time.Minute

// compare looks for Services that went without a word, and lets go of those that the store lacked the last time already: its
// list may be older than ours. It is given what it returned the last time.
func (c *Cloud) compare(before map[types.UID]bool) (missing map[types.UID]bool) {
	c.mu.Lock()
	known := c.ledger.known()
	c.mu.Unlock()
	missing = map[types.UID]bool{}
	for _, svc := range known {
		if c.stored(svc) != nil {
			continue
		}
		if missing[svc.UID] = true; before[svc.UID] {
			c.release(svc, c.ledger.gone)
		}
	}
	return missing
}

// letGo looks again at those whose finalizer is ours to remove: whoever deletes one need not wait for the end of the controller's
// back-off, and patience may have ended.
func (c *Cloud) letGo() {
	for _, object := range c.watch.GetStore().List() {
		if svc, ok := object.(*corev1.Service); ok && !wants(svc) && servicehelper.HasLBFinalizer(svc) && c.view.of(svc) != nil {
			c.watch.Requeue(svc)
		}
	}
}

// OnDelete frees the address of a Service that is gone. Normally the service controller has done so, but another
// implementation may have removed the finalizer that makes the Service wait for it.
func (c *Cloud) OnDelete(object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	if svc, ok := object.(*corev1.Service); ok {
		updates.Inc()
		was := c.view.of(svc)
		c.wrote.Delete(svc.UID)
		c.release(svc, c.ledger.gone)
		c.watch.changed(was, nil) // so that the service controller forgets it as well
	}
}

// stop ends the process at once, to start again. Another one leads, or may, and give away what this one believes to be free.
func stop(why error) {
	klog.ErrorS(why, "Stopped at once")
	klog.FlushAndExit(klog.ExitFlushTimeout, 1)
}

// freeze gives no address away any more, and returns when what is being written is written.
func (c *Cloud) freeze() {
	c.mu.Lock()
	c.frozen = true
	c.resumed.Broadcast()
	c.mu.Unlock()
	c.fence.Close()
}

// Stop lets another replica lead: no address is given away any more, what is being written is written, and the Lease is
// given up. It returns when that is done, and users were told what they were to hear.
func (c *Cloud) Stop() {
	c.freeze()
	if c.resign == nil {
		return
	}
	if c.holdDowns != nil {
		ctx, enough := context.WithTimeout(context.Background(), writeHeldDownEvery)
		c.holdDowns.flush(ctx)
		enough()
	}
	c.resign()
	<-c.resigned
	c.events.flush()
}

// Name is the controller's, in logs and on /healthz.
func (c *Cloud) Name() string { return "service-lb-controller" }

// HealthChecker reports a leader that cannot renew its Lease, and watches that fail again and again. It says nothing about
// the configuration: restarting would not mend that.
func (c *Cloud) HealthChecker() healthz.UnnamedHealthChecker { return c }

// Check is the HealthChecker's.
func (c *Cloud) Check(r *http.Request) error {
	return errors.Join(c.watchdog.Check(r), c.watches.check(time.Now()))
}
