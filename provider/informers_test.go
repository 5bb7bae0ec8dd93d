package provider

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

func TestTheCachedCopyHidesOurClassAndAnothersFinalizer(t *testing.T) {
	tests := []struct {
		name       string
		service    string
		class      string
		finalizers []string
	}{
		{name: "no class", service: "shop/web finalizer", finalizers: []string{"example.com/mine", servicehelper.LoadBalancerCleanupFinalizer}},
		{name: "our class", service: "shop/web finalizer class=" + loadbalancer.Class, finalizers: []string{"example.com/mine", servicehelper.LoadBalancerCleanupFinalizer}},
		{name: "another's class", service: "shop/web finalizer class=example.com/lb", class: "example.com/lb", finalizers: []string{"example.com/mine"}},
		{name: "another's class, without finalizers", service: "shop/web class=example.com/lb", class: "example.com/lb"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			svc := aService(t, test.service+" want=10.0.0.1 pool=vip shows=10.0.0.1 age=3 version=7")
			svc.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
			shared := svc.Finalizers // whoever holds the list must not see it change
			before := slices.Clone(shared)
			want := svc.DeepCopy()
			want.ManagedFields, want.Spec.LoadBalancerClass, want.Finalizers = nil, nil, test.finalizers
			if test.class != "" {
				want.Spec.LoadBalancerClass = &test.class
			}
			object, err := newTrimmer(false).trim(svc)
			if err != nil {
				t.Fatal(err)
			}
			got := object.(*corev1.Service)
			if !slices.Equal(got.Finalizers, test.finalizers) {
				t.Errorf("finalizers %q, want %q", got.Finalizers, test.finalizers)
			}
			if got.Finalizers = test.finalizers; !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if !slices.Equal(shared, before) {
				t.Errorf("the list of finalizers became %q", shared)
			}
			again, err := newTrimmer(false).trim(got)
			if err != nil || !reflect.DeepEqual(again, object) {
				t.Errorf("a second time gives %+v, %v", again, err)
			}
		})
	}
}

// Histories of one Service, each state with the version of it, and whether the service controller sees the finalizer.
func TestOnlyTheFinalizerThatWePutThereIsOurs(t *testing.T) {
	const ours, others, internal = "", " class=example.com/lb", " type=ClusterIP"
	for _, test := range []struct {
		name  string
		steps []string
		sees  []bool
	}{
		{"ours becomes internal", []string{ours + " finalizer", internal + " finalizer"}, []bool{true, true}},
		{"another's becomes internal", []string{others + " finalizer", internal + " finalizer"}, []bool{false, false}},
		{"ours becomes another's while we do not look, and then internal",
			[]string{ours + " finalizer", internal + " finalizer", others + " finalizer", internal + " finalizer"}, []bool{true, true, false, true}},
		{"ours becomes another's, which puts its own there",
			[]string{ours + " finalizer", internal, others, others + " finalizer", internal + " finalizer"}, []bool{true, false, false, false, false}},
		{"ours becomes another's, which replaces the finalizer",
			[]string{ours + " finalizer", others + " finalizer", others, others + " finalizer", internal + " finalizer"}, []bool{true, false, false, false, false}},
	} {
		trim := newTrimmer(false)
		for i, step := range test.steps {
			object := aService(t, fmt.Sprintf("shop/web uid=1 version=%d%s", i+1, step))
			for range 2 { // an informer may show the trimmer its own work once more
				got, err := trim.trim(object)
				if err != nil {
					t.Fatal(err)
				}
				object = got.(*corev1.Service)
				if sees := servicehelper.HasLBFinalizer(object); sees != test.sees[i] {
					t.Errorf("%s: after %q the controller sees the finalizer: %v, want %v", test.name, step, sees, test.sees[i])
				}
			}
		}
		trim.forget(aService(t, "shop/web uid=1"))
		if len(trim.left)+len(trim.seen) > 0 {
			t.Errorf("%s: %d and %d are remembered of a Service that is gone", test.name, len(trim.left), len(trim.seen))
		}
	}
}

func TestOtherObjectsLoseTheirManagedFieldsOnly(t *testing.T) {
	got, err := forgetManagers(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "config", Finalizers: []string{servicehelper.LoadBalancerCleanupFinalizer}, ManagedFields: []metav1.ManagedFieldsEntry{{}}},
		Data:       map[string]string{"config": "x"},
	})
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "config", Finalizers: []string{servicehelper.LoadBalancerCleanupFinalizer}},
		Data:       map[string]string{"config": "x"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := forgetManagers("no object at all"); got != "no object at all" || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

// A controlled cluster is the real service controller on a Cloud, with client-go's fake API server behind it. It belongs
// into synctest's bubble.
type controlled struct {
	t      *testing.T
	cloud  *Cloud
	book   *eventbook
	client *fake.Clientset // for everything but events
	events *fake.Clientset
}

func newControlled(t *testing.T, services ...string) *controlled {
	c := &controlled{t: t, cloud: New(Options{Namespace: "metallb-system", ConfigName: "config"}), book: &eventbook{}, client: fake.NewClientset(), events: fake.NewClientset()}
	for _, short := range services {
		c.create(short)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithTransform(c.cloud.trim.trim))
	c.cloud.record, c.cloud.freed = c.book, func() {}
	c.cloud.watch = &requeuer{ServiceInformer: factory.Core().V1().Services()}
	if _, err := factory.Core().V1().Services().Informer().AddEventHandler(c.cloud); err != nil {
		t.Fatal(err)
	}
	controller, err := servicecontroller.New(c.cloud, quietClient{c.client, c.events}, c.cloud.watch, oneNode{}, "kubernetes", utilfeature.DefaultFeatureGate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	listed, err := listAll(ctx, c.client, c.cloud.trim)
	if err != nil {
		t.Fatal(err)
	}
	c.cloud.begin()
	c.cloud.adopt(nil, nil, listed)
	var running sync.WaitGroup
	running.Go(func() {
		controller.Run(ctx, 2, controllersmetrics.NewControllerManagerMetrics("test"))
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		factory.Shutdown()
		synctest.Wait()
	})
	<-time.After(time.Second) // the controller looks every 100 ms whether the cache is filled
	synctest.Wait()
	return c
}

func (c *controlled) create(short string) {
	svc := aService(c.t, short)
	if _, err := c.client.CoreV1().Services(svc.Namespace).Create(c.t.Context(), svc, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *controlled) get(name string) *corev1.Service {
	namespace, name, _ := strings.Cut(name, "/")
	svc, err := c.client.CoreV1().Services(namespace).Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return svc
}

func (c *controlled) change(name string, how func(*corev1.Service)) {
	svc := c.get(name)
	how(svc)
	if _, err := c.client.CoreV1().Services(svc.Namespace).Update(c.t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// wrote returns the requests that changed something, "patch services/status shop/web …".
func wrote(client *fake.Clientset) (all []string) {
	for _, a := range client.Actions() {
		if verb := a.GetVerb(); verb != "get" && verb != "list" && verb != "watch" {
			kind := verb + " " + a.GetResource().Resource
			if a.GetSubresource() != "" {
				kind += "/" + a.GetSubresource()
			}
			if p, ok := a.(k8stesting.PatchAction); ok {
				kind = strings.Join([]string{kind, p.GetNamespace() + "/" + p.GetName(), string(p.GetPatch())}, " ")
			}
			all = append(all, kind)
		}
	}
	client.ClearActions()
	return all
}

// warnings returns the events that reached the API server.
func (c *controlled) warnings() (all []string) {
	list, err := c.events.CoreV1().Events(metav1.NamespaceAll).List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.Items {
		all = append(all, strings.Join([]string{e.InvolvedObject.Namespace + "/" + e.InvolvedObject.Name, e.Type, e.Reason, e.Message}, " "))
	}
	return all
}

func TestTheRealServiceControllerServesWhoWaitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t, "shop/web class="+loadbalancer.Class, "other/web finalizer class=example.com/lb shows=10.0.0.9")
		start := time.Now()
		if got := c.get("shop/web").Status.LoadBalancer.Ingress; got != nil {
			t.Fatalf("the status is %v before there is a configuration", got)
		}
		same(t, "events", c.warnings(), []string{
			"shop/web Warning SyncLoadBalancerFailed Error syncing load balancer: failed to ensure load balancer: no address pool is configured: add one to address-pools"})
		wrote(c.client)

		c.cloud.admit(nil, pools(t, "vip 10.0.0.0/31"), nil, loadbalancer.NoConsent)
		synctest.Wait()
		if got := service.Addresses(c.get("shop/web")); shown(got) != "10.0.0.0" {
			t.Errorf("the status shows %q", shown(got))
		}
		if class := c.get("shop/web").Spec.LoadBalancerClass; class == nil || *class != loadbalancer.Class {
			t.Error("the class is gone")
		}
		same(t, "wrote", wrote(c.client), []string{`patch services/status shop/web {"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.0","ipMode":"VIP"}]}}}`})
		if d := time.Since(start); d != 0 { // the controller would have retried after ten minutes
			t.Errorf("it took %s", d)
		}

		// Whatever happens to the status, it is mended.
		c.change("shop/web", func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
		synctest.Wait()
		if got := service.Addresses(c.get("shop/web")); shown(got) != "10.0.0.0" {
			t.Errorf("the wiped status shows %q", shown(got))
		}
		wrote(c.client)

		// Nodes are none of our business, neither now nor when the controller looks again.
		<-time.After(time.Hour)
		synctest.Wait()
		same(t, "wrote in an hour", wrote(c.client), nil)

		// Another's Service is deleted: nobody but the other removes its finalizer.
		c.change("other/web", func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		synctest.Wait()
		same(t, "wrote when another's went", wrote(c.client), []string{"update services"}) // our own, a line above
		if got := c.get("other/web").Finalizers; len(got) != 2 {
			t.Errorf("another's finalizers are %q", got)
		}
		if got := c.warnings(); len(got) != 1 {
			t.Errorf("events: %q", got)
		}
		same(t, "our events", c.book.take(), []string{"shop/web Normal IPAllocated assigned 10.0.0.0 from pool vip"})
	})
}

func TestAServiceCostsTwoWritesAndItsDeletionNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlled(t)
		c.cloud.admit(nil, pools(t, "vip 10.0.0.0/24"), nil, loadbalancer.NoConsent)
		c.create("shop/web")
		c.create("shop/blog pool=moon")
		synctest.Wait()
		same(t, "wrote", sorted(wrote(c.client)), []string{"create services", "create services",
			`patch services/status shop/blog {"metadata":{"finalizers":["service.kubernetes.io/load-balancer-cleanup"]}}`,
			`patch services/status shop/web {"metadata":{"finalizers":["service.kubernetes.io/load-balancer-cleanup"]}}`,
			`patch services/status shop/web {"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.0","ipMode":"VIP"}]}}}`})

		c.change("shop/blog", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
		synctest.Wait()
		same(t, "wrote when it became internal", wrote(c.client), []string{"update services",
			`patch services/status shop/blog {"metadata":{"finalizers":null}}`})

		// Somebody else removed the finalizer: the Service goes without a call.
		svc := c.get("shop/web")
		if err := c.client.CoreV1().Services("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		same(t, "wrote", wrote(c.client), []string{"delete services"})
		if status, held, err := c.cloud.GetLoadBalancer(t.Context(), "", svc); held || err != nil {
			t.Errorf("it is gone and holds %v, %v", status, err)
		}
	})
}

func sorted(all []string) []string { slices.Sort(all); return all }

func TestEveryWayToAddAHandlerIsWatched(t *testing.T) {
	ways := map[string]func(cache.SharedIndexInformer, cache.ResourceEventHandler) error{
		"AddEventHandler": func(i cache.SharedIndexInformer, h cache.ResourceEventHandler) error {
			_, err := i.AddEventHandler(h)
			return err
		},
		"AddEventHandlerWithResyncPeriod": func(i cache.SharedIndexInformer, h cache.ResourceEventHandler) error {
			_, err := i.AddEventHandlerWithResyncPeriod(h, time.Hour)
			return err
		},
		"AddEventHandlerWithOptions": func(i cache.SharedIndexInformer, h cache.ResourceEventHandler) error {
			_, err := i.AddEventHandlerWithOptions(h, cache.HandlerOptions{})
			return err
		},
	}
	// The interface may grow another.
	of := reflect.TypeFor[cache.SharedIndexInformer]()
	for i := range of.NumMethod() {
		if name := of.Method(i).Name; strings.HasPrefix(name, "AddEventHandler") && ways[name] == nil {
			t.Errorf("%s is not watched", name)
		}
	}
	for name, add := range ways {
		t.Run(name, func(t *testing.T) {
			r := &requeuer{ServiceInformer: informers.NewSharedInformerFactory(fake.NewClientset(), 0).Core().V1().Services()}
			r.Requeue(aService(t, "shop/early")) // nobody listens yet
			var added []string
			err := add(r.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: func(object any) { added = append(added, service.Name(object.(*corev1.Service))) }})
			if err != nil {
				t.Fatal(err)
			}
			r.Requeue(aService(t, "shop/web"))
			same(t, "requeued", added, []string{"shop/web"})
		})
	}
}

func TestTheOneNodeIsReadyAndAlone(t *testing.T) {
	list, err := oneNode{}.Lister().List(nil)
	if err != nil || len(list) != 1 {
		t.Fatalf("nodes %v, %v", list, err)
	}
	if got, err := (oneNode{}).Lister().Get(list[0].Name); got != list[0] || err != nil {
		t.Errorf("it is not found: %v, %v", got, err)
	}
	if _, err := (oneNode{}).Lister().Get("another"); err == nil {
		t.Error("another is found")
	}
	if !(oneNode{}).Informer().HasSynced() {
		t.Error("it waits for nodes")
	}
}
