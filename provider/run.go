package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	ccmconfig "k8s.io/cloud-provider/app/config"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	componentbaseconfig "k8s.io/component-base/config"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Initialize prepares a Cloud for the framework's command. It takes the leader election out of the framework's hands, whose
// own neither gives up the Lease nor can be asked whether it still holds it.
func (o Options) Initialize(config *ccmconfig.CompletedConfig) *Cloud {
	cloud := New(o)
	election := config.ComponentConfig.Generic.LeaderElection
	config.ComponentConfig.Generic.LeaderElection.LeaderElect = false
	cloud.election = election
	cloud.register()
	return cloud
}

// Controller constructs the standard service controller for the framework, with this Cloud's gate around it.
func Controller(_ app.ControllerInitContext, config *ccmconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
	return func(ctx context.Context, framework genericcontrollermanager.ControllerContext) (controller.Interface, bool, error) {
		c, ok := cloud.(*Cloud)
		if !ok {
			return nil, false, fmt.Errorf("cloud provider %q is not %q", cloud.ProviderName(), Name)
		}
		g, err := c.gate(config)
		if err != nil {
			return nil, false, err
		}
		go g.run(ctx, framework)
		return c, true, nil
	}
}

// A gate lets the service controller run once it may.
type gate struct {
	cloud      *Cloud
	config     *ccmconfig.CompletedConfig
	client     kubernetes.Interface // reads, and writes the admitted copy
	events     kubernetes.Interface // writes events
	controller *servicecontroller.Controller
	admission  *admission
	holdDowns  *holdDowns
}

func (c *Cloud) gate(config *ccmconfig.CompletedConfig) (*gate, error) {
	// Events have a client of their own, so that they never delay a status.
	telling := rest.AddUserAgent(config.Kubeconfig, "events")
	telling.Timeout = 10 * time.Second
	writing := rest.CopyConfig(config.Kubeconfig)
	writing.UserAgent = fieldManager + "/service-controller"
	writing.Timeout = 30 * time.Second // a hung API server must not hold up the stop
	if c.election.LeaderElect {
		writing.Timeout = min(writing.Timeout, fenceTime(c.election.LeaseDuration.Duration))
	}
	writing.Wrap(func(next http.RoundTripper) http.RoundTripper {
		c.fence.next = next
		return c.fence
	})
	client, failed1 := kubernetes.NewForConfig(config.Kubeconfig)
	events, failed2 := kubernetes.NewForConfig(telling)
	writer, failed3 := kubernetes.NewForConfig(writing)
	if err := errors.Join(failed1, failed2, failed3); err != nil {
		return nil, fmt.Errorf("make clients: %w", err)
	}

	g := &gate{cloud: c, config: config, client: client, events: events, holdDowns: &holdDowns{cloud: c, client: writer}}
	c.holdDowns = g.holdDowns
	services := coreinformers.NewServiceInformer(client, metav1.NamespaceAll, 0, cache.Indexers{})
	c.watch = &viewed{SharedIndexInformer: services, view: c.view}
	c.lookup = c.watch.stored
	if err := prepare(services, trim, c, c.watches.failed); err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	var err error
	g.controller, err = servicecontroller.New(c, quietClient{writer, c}, c.watch, oneNode{},
		config.ComponentConfig.KubeCloudShared.ClusterName, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, fmt.Errorf("make the service controller: %w", err)
	}
	if g.admission, err = newAdmission(client, writer, c, c.watches.failed); err != nil {
		return nil, fmt.Errorf("watch the configuration: %w", err)
	}
	metadata, err := metadata.NewForConfig(config.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	if g.admission.facts.namespaces, err = newNamespaces(metadata, c, g.admission.ring); err != nil {
		return nil, err
	}
	// A text that was refused because a Service would lose its address may be admitted once that is free.
	c.review = g.admission.ring
	return g, nil
}

// run is the start protocol. A standby waits in it with its caches filled.
func (g *gate) run(ctx context.Context, framework genericcontrollermanager.ControllerContext) {
	go g.cloud.watch.RunWithContext(ctx)
	g.admission.start(ctx)
	go g.cloud.events.run(ctx, g.events.CoreV1().Events(""))
	lead := func(ctx context.Context) {
		if err := g.lead(ctx, framework); err != nil && ctx.Err() == nil {
			stop(err)
		}
	}
	ctx, resign := context.WithCancel(ctx)
	g.cloud.mu.Lock()
	g.cloud.resign = resign
	g.cloud.mu.Unlock()
	defer close(g.cloud.resigned)
	if !g.cloud.election.LeaderElect {
		lead(ctx)
		<-ctx.Done()
		return
	}
	if err := g.elect(ctx, g.cloud.election, lead); err != nil {
		stop(err)
	}
	if ctx.Err() == nil {
		stop(errNotRenewed)
	}
}

// elect calls lead once this process is the leader, and returns when it no longer is, or when ctx ends, with the Lease
// given up.
func (g *gate) elect(ctx context.Context, election componentbaseconfig.LeaderElectionConfiguration, lead func(context.Context)) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this candidate: %w", err)
	}
	lock, err := resourcelock.NewFromKubeconfig(election.ResourceLock, election.ResourceNamespace, election.ResourceName,
		resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
		g.config.Kubeconfig, election.RenewDeadline.Duration)
	if err != nil {
		return fmt.Errorf("make the lock: %w", err)
	}
	g.cloud.lease = &lease{Interface: lock, freeze: g.cloud.freeze, lookAgain: min(lookAtLeast, fenceTime(election.LeaseDuration.Duration)), look: func(ctx context.Context) (string, error) {
		ctx, enough := context.WithTimeout(ctx, election.RenewDeadline.Duration)
		defer enough()
		found, err := g.client.CoordinationV1().Leases(election.ResourceNamespace).Get(ctx, election.ResourceName, metav1.GetOptions{})
		if err != nil || found.Spec.HolderIdentity == nil {
			return "", err
		}
		return *found.Spec.HolderIdentity, nil
	}}
	elector, err := g.cloud.lease.elector(election, lead)
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	g.cloud.watchdog.SetLeaderElection(elector)
	elector.Run(ctx)
	return nil
}

// lead adopts the cluster as it is and then runs the service controller.
func (g *gate) lead(ctx context.Context, framework genericcontrollermanager.ControllerContext) error {
	c := g.cloud
	var config *loadbalancer.Config
	var services []*corev1.Service
	c.begin()
	// An API server that does not answer yet is waited for: restarting would not make it answer sooner.
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		var err error
		if services, err = listAll(ctx, g.client); err != nil {
			klog.ErrorS(err, "Cannot read the Services yet")
			return false, nil
		}
		if config, err = g.admission.recall(ctx); err != nil {
			klog.ErrorS(err, "Cannot read the configuration yet")
			return false, nil
		}
		if c.ledger.recalled, err = g.holdDowns.recall(ctx); err != nil {
			klog.ErrorS(err, "Cannot read which addresses are held down")
			return apierrors.IsForbidden(err), nil // an update may come without the permission, and Services are served all the same
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	known := []cache.InformerSynced{g.admission.facts.nodes.HasSynced}
	namespaces := g.admission.facts.namespaces
	c.selects = func(config *loadbalancer.Config) { namespaces.needed(ctx, config) }
	if namespaces.needed(ctx, config) {
		known = append(known, namespaces.HasSynced)
	}
	// A Node's own address is not handed out. Without the permission to read Nodes, nobody waits for long, nor for labels.
	patience, enough := context.WithTimeout(ctx, 2*time.Second)
	cache.WaitForCacheSync(patience.Done(), known...)
	enough()
	c.withhold(g.admission.facts.now())
	c.adopt(config, g.admission.is.givenUp, services)
	if !c.catchUp(ctx) {
		return ctx.Err()
	}
	g.admission.begin(ctx)
	go g.admission.run(ctx)
	go g.holdDowns.run(ctx)
	var missing map[types.UID]bool
	go wait.UntilWithContext(ctx, func(context.Context) {
		missing = c.compare(missing)
		c.letGo()
	}, compareEvery)
	g.controller.Run(quiet(ctx), int(g.config.ComponentConfig.ServiceController.ConcurrentServiceSyncs), framework.ControllerManagerMetrics)
	return errors.New("the service controller ended")
}

// begin notes from now on which Services go, so that adopt knows which of those listed are no more.
func (c *Cloud) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = map[types.UID]bool{}
}

// adopt takes over the cluster as it was listed after begin. From then on, the ledger outranks what anybody says.
func (c *Cloud) adopt(config *loadbalancer.Config, givenUp *netipx.IPSet, services []*corev1.Service) {
	c.mu.Lock()
	c.ledger.allocator.At(c.clock())
	if config != nil {
		c.ledger.allocator.Configure(config, givenUp)
	}
	var ours, others []*corev1.Service
	for _, svc := range services {
		if c.gone[svc.UID] {
			continue
		}
		if seen := c.view.of(svc); seen != nil {
			ours = append(ours, seen)
		} else {
			others = append(others, svc)
		}
	}
	conflicts := c.ledger.adopt(ours, others, c.now())
	addresses := len(c.ledger.allocator.Holdings())
	var strays []stray
	if config != nil {
		strays = c.ledger.strays()
	}
	c.remarks.configure(config, ours) // who was there was told before
	c.gone = nil
	c.ready = true
	c.mu.Unlock()

	klog.InfoS("Adopted the cluster's addresses", "addresses", addresses, "configured", config != nil)
	for _, x := range conflicts {
		klog.InfoS("Found two Services on one address", "service", service.Name(x.service), "why", x.why)
		c.record.Eventf(x.service, corev1.EventTypeWarning, "AddressConflict", "%s. This Service showed it too, is younger, and loses it", x.why)
	}
	c.warnNotInPool(strays)
}

// catchUp takes note of what changed while the Services were listed, and lets the service controller look at all of them.
func (c *Cloud) catchUp(ctx context.Context) bool {
	if !cache.WaitForCacheSync(ctx.Done(), c.watch.HasSynced) {
		return false
	}
	for _, svc := range c.watch.GetStore().List() {
		c.OnAdd(svc, true)
	}
	return true
}

func (c *Cloud) warnNotInPool(strays []stray) {
	for _, x := range strays {
		c.record.Eventf(x.service, corev1.EventTypeWarning, "AddressNotInPool",
			"address %s belongs to no pool: it is kept, and not announced; add it to a pool, or delete the Service", service.InWords(x.addrs))
	}
}

// listAll reads every Service from a quorum of the storage, page by page. An informer's cache may lag behind, and an address
// forgotten is an address given twice.
func listAll(ctx context.Context, client kubernetes.Interface) (all []*corev1.Service, err error) {
	page := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Services(metav1.NamespaceAll).List(ctx, options)
	}
	err = pager.New(page).EachListItem(ctx, metav1.ListOptions{ResourceVersion: ""}, func(object runtime.Object) error {
		trimmed, err := trim(object)
		if svc, ok := trimmed.(*corev1.Service); ok {
			all = append(all, svc)
		}
		return err
	})
	return all, err
}
