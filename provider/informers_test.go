package provider

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A controlled cluster is the real service controller on a Cloud, with client-go's fake API server behind it. It belongs
// into synctest's bubble.
type controlled struct {
	t       *testing.T
	cloud   *Cloud
	book    *eventbook
	client  *fake.Clientset // for everything but events
	events  *fake.Clientset
	refused sync.Map // patches that came too late
	ours    service.Ours
	writers sync.Map // of the statuses that the API server emptied
	// contested is what the admitted copy would keep over a restart.
	contested string
	end       func() // of the controller manager
}

func newControlled(t *testing.T, services ...string) *controlled {
	c := &controlled{t: t, client: fake.NewClientset(), events: fake.NewClientset()}
	// What the fake API server lacks: a version for each change, and patches that insist on one.
	version := 0
	change := func(a k8stesting.Action) (bool, runtime.Object, error) {
		version++
		a.(k8stesting.UpdateAction).GetObject().(*corev1.Service).ResourceVersion = strconv.Itoa(version)
		return false, nil, nil
	}
	c.client.PrependReactor("create", "services", change)
	c.client.PrependReactor("update", "services", change)
	c.client.PrependReactor("patch", "services", func(a k8stesting.Action) (bool, runtime.Object, error) {
		p := a.(k8stesting.PatchActionImpl)
		is, err := c.client.Tracker().Get(p.GetResource(), p.GetNamespace(), p.GetName())
		if err != nil {
			return true, nil, err
		}
		for _, must := range regexp.MustCompile(`"resourceVersion":"(\d+)"`).FindAllStringSubmatch(string(p.GetPatch()), -1) {
			if version := is.(*corev1.Service).ResourceVersion; version != must[1] {
				c.refused.Store(string(p.GetPatch()), true)
				return true, nil, apierrors.NewConflict(corev1.Resource("services"), p.GetName(), fmt.Errorf("it is %s by now", version))
			}
			version++
			p.Patch = bytes.Replace(p.Patch, []byte(must[0]), fmt.Appendf(nil, `"resourceVersion":"%d"`, version), 1)
		}
		return k8stesting.ObjectReaction(c.client.Tracker())(p)
	})
	for _, short := range services {
		c.create(short)
	}
	c.start(nil)
	t.Cleanup(func() { c.end() })
	return c
}

// start begins with another process, which knows what the API server stores.
func (c *controlled) start(config *loadbalancer.Config) {
	t := c.t
	c.cloud, c.book = New(Options{Namespace: "metallb-system", ConfigName: "config", Ours: c.ours}), &eventbook{}
	services := coreinformers.NewServiceInformer(c.client, metav1.NamespaceAll, 0, cache.Indexers{})
	err := prepare(services, func(object any) (any, error) {
		object, err := trim(object)
		c.correct(object)
		return object, err
	}, c.cloud, c.cloud.watches.failed)
	if err != nil {
		t.Fatal(err)
	}
	c.cloud.record, c.cloud.review = c.book, func() {}
	c.cloud.watch = &viewed{SharedIndexInformer: services, view: c.cloud.view}
	c.cloud.lookup = c.cloud.watch.stored
	controller, err := servicecontroller.New(c.cloud, quietClient{c.client, c.cloud}, c.cloud.watch, oneNode{}, "kubernetes", utilfeature.DefaultFeatureGate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { services.RunWithContext(ctx) })
	running.Go(func() { c.cloud.events.run(ctx, c.events.CoreV1().Events("")) })
	listed, err := listAll(ctx, c.client)
	if err != nil {
		t.Fatal(err)
	}
	for _, svc := range listed {
		c.correct(svc)
	}
	c.cloud.begin()
	c.cloud.ledger.contested = readAddresses(c.contested)
	c.cloud.adopt(config, nil, listed)
	running.Go(func() { c.cloud.catchUp(ctx) })
	running.Go(func() {
		controller.Run(ctx, 2, controllersmetrics.NewControllerManagerMetrics("test"))
	})
	c.end = func() {
		cancel()
		running.Wait()
		synctest.Wait()
	}
	<-time.After(time.Second) // the controller looks every 100 ms whether the cache is filled
	synctest.Wait()
}

// correct writes managedFields as the real API server does: the fake one does not note that implementations come through the
// subresource, and forgets who wrote a status when the type of the Service empties it.
func (c *controlled) correct(object any) {
	svc, ok := object.(*corev1.Service)
	if !ok {
		return
	}
	var status []metav1.ManagedFieldsEntry
	for i, e := range svc.ManagedFields {
		if e.Manager == fieldManager || e.Manager == exampleLB {
			svc.ManagedFields[i].Subresource = "status"
		}
		if e.FieldsType == ofStatus {
			status = append(status, svc.ManagedFields[i])
		}
	}
	if len(status) > 0 {
		c.writers.Store(svc.UID, status)
	} else if before, ok := c.writers.Load(svc.UID); ok {
		svc.ManagedFields = append(svc.ManagedFields, before.([]metav1.ManagedFieldsEntry)...)
	}
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

// exampleLB is the field manager of another implementation.
const exampleLB = "example-lb"

func (c *controlled) change(name string, how func(*corev1.Service)) { c.changeAs("", name, how) }

func (c *controlled) changeAs(manager, name string, how func(*corev1.Service)) {
	svc := c.get(name)
	how(svc)
	svc, err := c.client.CoreV1().Services(svc.Namespace).Update(c.t.Context(), svc, metav1.UpdateOptions{FieldManager: manager})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := trim(svc); err != nil {
		c.t.Fatal(err)
	}
	c.correct(svc)
}

// wrote returns the requests that changed something, "patch services/status shop/web …", without what guards them.
func (c *controlled) wrote() (all []string) {
	for _, a := range c.client.Actions() {
		if verb := a.GetVerb(); verb != "get" && verb != "list" && verb != "watch" {
			kind := verb + " " + a.GetResource().Resource
			if a.GetSubresource() != "" {
				kind += "/" + a.GetSubresource()
			}
			if p, ok := a.(k8stesting.PatchAction); ok {
				if _, refused := c.refused.LoadAndDelete(string(p.GetPatch())); refused {
					continue
				}
				kind = strings.Join([]string{kind, p.GetNamespace() + "/" + p.GetName(), string(p.GetPatch())}, " ")
				kind = strings.Replace(regexp.MustCompile(`"resourceVersion":"\d+",?|,?"uid":"[^"]*"`).ReplaceAllString(kind, ""), `"metadata":{},`, "", 1)
				kind = strings.ReplaceAll(kind, `,}`, `}`)
			}
			all = append(all, kind)
		}
	}
	c.client.ClearActions()
	return all
}

// warnings returns the events that reached the API server.
func (c *controlled) warnings() (all []string) {
	<-time.After(time.Second) // they wait behind statuses
	synctest.Wait()
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
		if got := c.get("shop/web").Status.LoadBalancer.Ingress; got != nil {
			t.Fatalf("the status is %v before there is a configuration", got)
		}
		same(t, "events", slices.Compact(c.book.take()), []string{
			"shop/web Warning SyncLoadBalancerFailed Error syncing load balancer: failed to ensure load balancer: no address pool is configured: add one to address-pools"})
		c.wrote()

		start := time.Now()
		c.cloud.admit(nil, pools(t, "vip 10.0.0.0/31"), nil, loadbalancer.NoConsent)
		synctest.Wait()
		if got := service.Addresses(c.get("shop/web")); shown(got) != "10.0.0.0" {
			t.Errorf("the status shows %q", shown(got))
		}
		if class := c.get("shop/web").Spec.LoadBalancerClass; class == nil || *class != loadbalancer.Class {
			t.Error("the class is gone")
		}
		same(t, "wrote", c.wrote(), []string{`patch services/status shop/web {"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.0","ipMode":"VIP"}]}}}`})
		if d := time.Since(start); d != 0 { // the controller would have retried after ten minutes
			t.Errorf("it took %s", d)
		}

		// Whatever happens to the status, it is mended.
		c.change("shop/web", func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
		synctest.Wait()
		if got := service.Addresses(c.get("shop/web")); shown(got) != "10.0.0.0" {
			t.Errorf("the wiped status shows %q", shown(got))
		}
		c.wrote()

		// Nodes are none of our business, neither now nor when the controller looks again.
		<-time.After(time.Hour)
		synctest.Wait()
		same(t, "wrote in an hour", c.wrote(), nil)

		// Another's Service is deleted: nobody but the other removes its finalizer.
		c.change("other/web", func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		synctest.Wait()
		same(t, "wrote when another's went", c.wrote(), []string{"update services"}) // our own, a line above
		if got := c.get("other/web").Finalizers; len(got) != 2 {
			t.Errorf("another's finalizers are %q", got)
		}
		same(t, "the service controller's events", c.warnings(), nil)
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
		same(t, "wrote", sorted(c.wrote()), []string{"create services", "create services",
			`patch services/status shop/blog {"metadata":{"finalizers":["service.kubernetes.io/load-balancer-cleanup"]}}`,
			`patch services/status shop/web {"metadata":{"finalizers":["service.kubernetes.io/load-balancer-cleanup"]}}`,
			`patch services/status shop/web {"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.0","ipMode":"VIP"}]}}}`})

		c.change("shop/blog", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
		synctest.Wait()
		same(t, "wrote when it became internal", c.wrote(), []string{"update services",
			`patch services/status shop/blog {"metadata":{"finalizers":null}}`})

		// Somebody else removed the finalizer: the Service goes without a call.
		svc := c.get("shop/web")
		if err := c.client.CoreV1().Services("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		same(t, "wrote", c.wrote(), []string{"delete services"})
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
			r := &viewed{SharedIndexInformer: coreinformers.NewServiceInformer(fake.NewClientset(), "", 0, cache.Indexers{})}
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
	list, err := oneNode{}.Lister().List(labels.Everything())
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
