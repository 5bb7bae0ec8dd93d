package provider

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// newCloud returns a Cloud that leads, without election, over these Services.
func newCloud(t *testing.T, config string, services string) (*Cloud, *eventbook) {
	t.Helper()
	book := &eventbook{}
	c := New(Options{Namespace: "metallb-system", ConfigName: "config"})
	c.record, c.watch, c.review = book, &viewed{}, func() {}
	var list []*corev1.Service
	if services != "" {
		list = listed(t, services)
	}
	c.begin()
	c.adopt(pools(t, config), nil, list)
	return c, book
}

func ensure(t *testing.T, c *Cloud, short string) (string, error) {
	t.Helper()
	svc := aService(t, short)
	before := svc.DeepCopy()
	c.lookup = func(string, string) *corev1.Service { return svc }
	status, err := c.EnsureLoadBalancer(t.Context(), "kubernetes", svc, nil)
	if !service.Shows(before, service.Addresses(svc)) && len(before.Status.LoadBalancer.Ingress) > 0 {
		t.Errorf("%s: the Service that was handed in changed", short)
	}
	if err != nil {
		return "", err
	}
	return shown(service.Addresses(&corev1.Service{Status: corev1.ServiceStatus{LoadBalancer: *status}})), nil
}

func TestACloudOffersLoadBalancersOnly(t *testing.T) {
	c := New(Options{})
	_, balancer := c.LoadBalancer()
	_, instances := c.Instances()
	_, instancesV2 := c.InstancesV2()
	_, zones := c.Zones()
	_, clusters := c.Clusters()
	_, routes := c.Routes()
	if !balancer || instances || instancesV2 || zones || clusters || routes {
		t.Error("it offers something else, or nothing: a provider that knows instances makes Kubernetes delete Nodes")
	}
	if c.ProviderName() != "metallb" || !c.HasClusterID() || c.Name() != "service-lb-controller" {
		t.Errorf("it is %q, %t, %q", c.ProviderName(), c.HasClusterID(), c.Name())
	}
	if err := c.HealthChecker().Check(&http.Request{}); err != nil {
		t.Errorf("before an election it is not well: %v", err)
	}
	if c.GetLoadBalancerName(t.Context(), "", aService(t, "shop/web uid=4d5e")) == "" {
		t.Error("it has no name for a load balancer")
	}
}

func TestNodesAreNoneOfOurBusiness(t *testing.T) {
	c := New(Options{})
	// The service controller compares with ==.
	if err := c.UpdateLoadBalancer(t.Context(), "", aService(t, "shop/web"), nil); err != cloudprovider.ImplementedElsewhere {
		t.Errorf("got %v", err)
	}
}

func TestABalancerIsKnownByUIDWhenItsStatusIsGone(t *testing.T) {
	c, _ := newCloud(t, "vip 10.0.0.0/30", "shop/web shows=10.0.0.2")
	internal := aService(t, "shop/web type=ClusterIP") // the API server wiped the status
	status, exists, err := c.GetLoadBalancer(t.Context(), "", internal)
	if err != nil || !exists || status.Ingress[0].IP != "10.0.0.2" || *status.Ingress[0].IPMode != corev1.LoadBalancerIPModeVIP {
		t.Errorf("got %v, %t, %v", status, exists, err)
	}
	if _, exists, err := c.GetLoadBalancer(t.Context(), "", aService(t, "shop/web uid=another shows=10.0.0.2")); exists || err != nil {
		t.Errorf("another Service of that name has one: %v", err)
	}
	for range 2 {
		if err := c.EnsureLoadBalancerDeleted(t.Context(), "", internal); err != nil {
			t.Errorf("deleting fails: %v", err)
		}
	}
	if _, exists, err := c.GetLoadBalancer(t.Context(), "", internal); exists || err != nil {
		t.Errorf("it is still there: %v", err)
	}
	if addr, err := ensure(t, c, "shop/api want=10.0.0.2"); addr != "10.0.0.2" {
		t.Errorf("its address is not free: %v", err)
	}
	if err := c.EnsureLoadBalancerDeleted(t.Context(), "", aService(t, "other/web class=example.com/lb")); err != nil {
		t.Errorf("deleting what was never ours fails: %v", err)
	}
}

func TestAServiceThatWaitsIsRetriedSeldomAndInConstantWords(t *testing.T) {
	c, book := newCloud(t, "vip 10.0.0.0/32", "shop/web shows=10.0.0.0")
	var texts []string
	for range 2 {
		_, err := ensure(t, c, "shop/api")
		var retry *api.RetryError
		if !errors.As(err, &retry) || retry.RetryAfter() != 10*time.Minute {
			t.Fatalf("got %v", err)
		}
		texts = append(texts, err.Error())
	}
	if texts[0] != texts[1] || texts[0] != `no free address in pool "vip": add addresses, or delete a Service that holds one` {
		t.Errorf("it hears %q", texts)
	}
	event := "shop/api Warning SyncLoadBalancerFailed Error syncing load balancer: failed to ensure load balancer: " + texts[0]
	same(t, "events", book.take(), []string{event, event})
}

func TestStartingSaysWhatIsWrongWithAddresses(t *testing.T) {
	logged.take()
	_, book := newCloud(t, "vip 10.0.0.0/30", "shop/old shows=10.0.0.1 age=3; shop/young shows=10.0.0.1 age=2; shop/stray shows=192.0.2.1; shop/web shows=10.0.0.0; other/web shows=192.0.2.9 class=example.com/lb")
	same(t, "events", book.take(), []string{
		"shop/young Warning AddressConflict address 10.0.0.1 is held by service shop/old: ask for another, or delete that Service. This Service showed it too, is younger, and loses it",
		"shop/stray Warning AddressNotInPool address 192.0.2.1 belongs to no pool: it is kept, and not announced; add it to a pool, or delete the Service",
	})
	same(t, "log", logged.take(), []string{
		`"Adopted the cluster's addresses" addresses=4 configured=true`,
		`"Found two Services on one address" service="shop/young" why="address 10.0.0.1 is held by service shop/old: ask for another, or delete that Service"`,
	})
}

func TestTheFirstConfigurationTellsWhichAddressesItDoesNotKnow(t *testing.T) {
	c := New(Options{})
	book := &eventbook{}
	c.record, c.watch, c.review = book, &viewed{}, func() {}
	c.begin()
	c.adopt(nil, nil, listed(t, "shop/web shows=10.0.0.1; shop/stray shows=192.0.2.1"))
	same(t, "events without a configuration", book.take(), nil)
	first := pools(t, "vip 10.0.0.0/30")
	c.admit(nil, first, nil, loadbalancer.NoConsent)
	same(t, "events", book.take(), []string{
		"shop/stray Warning AddressNotInPool address 192.0.2.1 belongs to no pool: it is kept, and not announced; add it to a pool, or delete the Service"})
	c.admit(first, pools(t, "vip 10.0.0.0/29"), nil, loadbalancer.NoConsent)
	same(t, "events of the next", book.take(), nil)
}

func TestASilentLeaseMattersOnlyForNewAddresses(t *testing.T) {
	silent := errors.New("no route to host")
	c, _ := newCloud(t, "vip 10.0.0.0/30; other 10.1.0.0/30 manual", "shop/web shows=10.0.0.0")
	ensure(t, c, "shop/web shows=10.0.0.0") // from now on, asking for a pool moves it
	plate := &doorplate{holder: "us", broken: silent}
	c.lease = plate.lease()
	tests := []struct{ then, service, addr string }{
		{then: "a settled Service keeps its address", service: "shop/web shows=10.0.0.0", addr: "10.0.0.0"},
		{then: "also if it asks for it", service: "shop/web shows=10.0.0.0 want=10.0.0.0 pool=vip", addr: "10.0.0.0"},
		{then: "a new one gets none", service: "shop/api"},
		{then: "a wiped status is not written", service: "shop/web"},
		{then: "another address is not given", service: "shop/web shows=10.0.0.0 want=10.0.0.3"},
		{then: "nor one of another pool", service: "shop/web shows=10.0.0.0 pool=other"},
	}
	for _, test := range tests {
		addr, err := ensure(t, c, test.service)
		if addr != test.addr || (err == nil) != (addr != "") || err != nil && !errors.Is(err, silent) {
			t.Errorf("%s: %q, %v", test.then, addr, err)
		}
	}
	plate.fail(nil)
	if addr, err := ensure(t, c, "shop/web shows=10.0.0.0 want=10.0.0.3"); addr != "10.0.0.3" {
		t.Errorf("the Lease is ours: %v", err)
	}
}

// An exit is what happens instead of the end of the process.
type exit struct{ code int }

func TestALostLeaseEndsTheProcess(t *testing.T) {
	before := klog.OsExit
	klog.OsExit = func(code int) { panic(exit{code}) }
	defer func() {
		klog.OsExit = before
		if got := recover(); got != (exit{1}) {
			t.Errorf("it did not end: %v", got)
		}
	}()
	c, _ := newCloud(t, "vip 10.0.0.0/30", "")
	c.lease = (&doorplate{holder: "them"}).lease()
	ensure(t, c, "shop/web")
}

func TestWhoStopsGivesNothingAwayAndSaysNothing(t *testing.T) {
	c, book := newCloud(t, "vip 10.0.0.0/32", "shop/web shows=10.0.0.0")
	var requeued []string
	listen(c, &requeued)
	if _, err := ensure(t, c, "shop/api"); err == nil {
		t.Fatal("the pool is not full")
	}
	book.take()
	c.Stop() // before an election there is nothing to give up
	// The Lease is given up, and that is not the same as lost.
	c.lease = (&doorplate{holder: ""}).lease()
	for _, short := range []string{"shop/api", "shop/web shows=10.0.0.0", "shop/new"} {
		if _, err := c.EnsureLoadBalancer(t.Context(), "", aService(t, short), nil); err != cloudprovider.ImplementedElsewhere {
			t.Errorf("%s gets %v, which the service controller would tell", short, err)
		}
	}
	c.EnsureLoadBalancerDeleted(t.Context(), "", aService(t, "shop/web"))
	same(t, "requeued", requeued, nil)
	same(t, "events", book.take(), nil)
}

func TestStoppingGivesUpTheLeaseAfterWhatIsUnderWay(t *testing.T) {
	c, _ := newCloud(t, "vip 10.0.0.0/32", "")
	server := slow{make(chan struct{}), make(chan struct{})}
	c.fence = &fence{next: server}
	ctx, cancel := context.WithCancel(t.Context())
	c.resign = cancel
	go c.events.run(t.Context(), fake.NewClientset().CoreV1().Events(""))
	go func() { // the candidate
		<-ctx.Done()
		close(c.resigned)
	}()
	answered := make(chan error, 1)
	go func() {
		_, err := c.fence.RoundTrip(nil)
		answered <- err
	}()
	<-server.arrived
	stopped := make(chan struct{})
	go func() { c.Stop(); close(stopped) }()
	select {
	case <-ctx.Done():
		t.Error("the Lease was given up while a request was under way")
	case server.answer <- struct{}{}:
	}
	<-stopped
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if ctx.Err() == nil {
		t.Error("the Lease was not given up")
	}
}

// listen writes down the names of the Services that the service controller is to look at again.
func listen(c *Cloud, names *[]string) {
	var handler cache.ResourceEventHandler = cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { *names = append(*names, service.Name(object.(*corev1.Service))) },
	}
	c.watch.handler = handler
}

func TestWhoeverWaitsForAnAddressIsRequeuedWhenItIsFree(t *testing.T) {
	c, _ := newCloud(t, "vip 10.0.0.0/31; other 10.1.0.0/31 manual", "shop/web shows=10.0.0.0; shop/api shows=10.0.0.1")
	var requeued []string
	listen(c, &requeued)
	freed := 0
	c.review = func() { freed++ }
	for _, short := range []string{"shop/one age=2", "shop/two age=1"} {
		if _, err := ensure(t, c, short); err == nil {
			t.Fatalf("%s is served", short)
		}
	}
	ensure(t, c, "shop/web shows=10.0.0.0") // the allocator moves only who asks for another pool than before
	if _, err := ensure(t, c, "shop/web shows=10.0.0.0 pool=other"); err != nil {
		t.Fatal(err)
	}
	same(t, "requeued when web moved", requeued, []string{"shop/one"})
	c.OnDelete(aService(t, "shop/api"))
	same(t, "requeued when api went", requeued, []string{"shop/one", "shop/two", "shop/api"})
	if freed != 2 {
		t.Errorf("the admission heard of %d freed addresses, want 2", freed)
	}
	c.OnDelete("something else")
	c.OnUpdate(nil, "something else")
}

func TestAStandbyTakesNoNoteOfServices(t *testing.T) {
	c := New(Options{})
	c.watch, c.review = &viewed{}, func() {}
	c.OnAdd(aService(t, "shop/web shows=10.0.0.0"), true)
	c.OnUpdate(nil, aService(t, "shop/web"))
	c.OnDelete(aService(t, "shop/web"))
	if len(c.ledger.entries) != 0 || len(c.gone) != 0 {
		t.Errorf("it knows %v, and that %v went", c.ledger.entries, c.gone)
	}
}

func TestTheLogTellsOfAddressesAndOfNothingElse(t *testing.T) {
	c, _ := newCloud(t, "vip 10.0.0.0/31", "")
	logged.take()
	for range 3 {
		ensure(t, c, "shop/web")
		ensure(t, c, "shop/web want=8.8.8.8 shows=10.0.0.0")
	}
	c.OnDelete(aService(t, "shop/web"))
	c.OnDelete(aService(t, "shop/web"))
	same(t, "log", logged.take(), []string{
		`"Allocated address" service="shop/web" address="10.0.0.0" pool="vip"`,
		`"Released address" service="shop/web" address="10.0.0.0"`,
	})
}

func TestTyposUnderOurPrefixesAreToldWhenTheyAreMade(t *testing.T) {
	typo := func(svc *corev1.Service, version string) *corev1.Service {
		svc.Annotations = map[string]string{"metallb.universe.tf/adress-pool": "vip", "metallb.universe.tf/ip-allocated-from-pool": "vip"}
		svc.ResourceVersion = version
		return svc
	}
	c, book := newCloud(t, "vip 10.0.0.0/30", "")
	c.begin()
	c.adopt(pools(t, "vip 10.0.0.0/30"), nil, []*corev1.Service{typo(aService(t, "shop/old shows=10.0.0.0"), "1")})
	svc := typo(aService(t, "shop/old shows=10.0.0.0"), "1")
	c.lookup = func(string, string) *corev1.Service { return svc }
	c.OnAdd(svc, true)
	same(t, "at a start", book.take(), nil)
	svc = typo(aService(t, "shop/web"), "2")
	c.OnAdd(svc, false)
	c.OnUpdate(svc, svc)
	same(t, "once it is made", book.take(), []string{"shop/web Warning UnknownAnnotation annotation metallb.universe.tf/adress-pool means nothing: the nearest that does is metallb.universe.tf/address-pool"})
}

func TestWhoIsNotSharedWithIsToldWhy(t *testing.T) {
	c, book := newCloud(t, "vip 10.0.0.0/30", "shop/web shows=10.0.0.0 share=k port=80 local=web")
	if addr, err := ensure(t, c, "shop/mail share=k port=25 local=mail"); addr != "10.0.0.1" {
		t.Errorf("mail has %q, %v", addr, err)
	}
	same(t, "events", book.take(), []string{"shop/mail Normal IPAllocated assigned 10.0.0.1 from pool vip; not shared with service shop/web, because with externalTrafficPolicy Local, its selector is another"})
}
