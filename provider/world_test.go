package provider

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/cloud-provider/api"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"pgregory.net/rapid"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A world is an API server, an informer and a service controller around a Cloud. They behave as the real ones where it
// matters, and nothing happens in it unless a test lets it: the informer's cache lags behind the server, and the Cloud's
// handler behind that cache. A Service that has to wait is not retried, unless somebody requeues it.
type world struct {
	t     rapid.TB
	cloud *Cloud
	book  *eventbook

	config  *loadbalancer.Config // admitted
	server  map[string]*corev1.Service
	version int

	log     []change // what happened at the server
	read    int      // how much of the log is in the cache
	told    int      // how much of the log the Cloud's handler knows
	cache   map[string]*corev1.Service
	queue   []string                   // of the service controller
	known   map[string]*corev1.Service // to it
	answers map[types.UID]string       // the last error it got

	check func() // if not nil, what must hold after everything that happens

	questions, finalizers, statuses int // how often the service controller asked, and wrote
}

// A change is how an object was and is; nil before it was made and after it went.
type change struct{ before, after *corev1.Service }

func newWorld(t rapid.TB) *world {
	w := &world{t: t, server: map[string]*corev1.Service{}}
	w.restart()
	return w
}

// restart begins with another process, which has nothing but what the server stores.
func (w *world) restart() {
	w.book = &eventbook{}
	w.cloud = New(Options{})
	w.cloud.record = w.book
	w.cloud.freed = func() {}
	w.cloud.watch = &requeuer{}
	var handler cache.ResourceEventHandler = cache.ResourceEventHandlerFuncs{AddFunc: func(object any) { w.enqueue(object.(*corev1.Service)) }}
	w.cloud.watch.handler.Store(&handler)
	w.read, w.told = len(w.log), len(w.log)
	w.cache, w.known, w.queue, w.answers = maps.Clone(w.server), map[string]*corev1.Service{}, nil, map[types.UID]string{}
	for _, name := range slices.Sorted(maps.Keys(w.cache)) {
		if svc := w.cache[name]; wantsBalancer(svc) || needsCleanup(svc) {
			w.enqueue(svc)
		}
	}
	var listed []*corev1.Service
	for _, svc := range w.server {
		listed = append(listed, svc.DeepCopy())
	}
	w.cloud.begin()
	w.cloud.adopt(w.config, listed)
}

// put stores a Service. A nil one is gone.
func (w *world) put(name string, after *corev1.Service) {
	before := w.server[name]
	if after != nil {
		w.version++
		after.ResourceVersion = strconv.Itoa(w.version)
		if after.DeletionTimestamp != nil && len(after.Finalizers) == 0 {
			after = nil
		}
	}
	if after == nil {
		delete(w.server, name)
	} else {
		w.server[name] = after
	}
	if before != nil || after != nil {
		w.log = append(w.log, change{before, after})
	}
}

func (w *world) change(name string, how func(*corev1.Service)) bool {
	svc := w.server[name]
	if svc == nil {
		return false
	}
	svc = svc.DeepCopy()
	how(svc)
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{} // the API server empties it
	}
	w.put(name, svc)
	return true
}

func wantsBalancer(svc *corev1.Service) bool {
	return svc != nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil
}

func needsCleanup(svc *corev1.Service) bool {
	return svc != nil && servicehelper.HasLBFinalizer(svc) && (svc.DeletionTimestamp != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer)
}

func (w *world) enqueue(svc *corev1.Service) {
	if wantsBalancer(svc) || needsCleanup(svc) {
		w.add(nameOf(svc))
	}
}

func (w *world) add(name string) {
	if !slices.Contains(w.queue, name) {
		w.queue = append(w.queue, name)
	}
}

// observe brings one change into the cache, and the service controller reacts as the real one does: to type, address,
// annotations and UID, not to labels, families or status.
func (w *world) observe() bool {
	if w.read == len(w.log) {
		return false
	}
	c := w.log[w.read]
	w.read++
	if c.after == nil {
		delete(w.cache, nameOf(c.before))
		return true
	}
	name := nameOf(c.after)
	w.cache[name] = c.after
	before := c.before
	switch {
	case needsCleanup(c.after), before == nil && wantsBalancer(c.after):
		w.add(name)
	case before != nil && wantsBalancer(before) != wantsBalancer(c.after):
		w.add(name)
	case before != nil && wantsBalancer(c.after) && (before.UID != c.after.UID || before.Spec.LoadBalancerIP != c.after.Spec.LoadBalancerIP || !maps.Equal(before.Annotations, c.after.Annotations)):
		w.add(name)
	}
	return true
}

// tell brings one change that is in the cache to the Cloud.
func (w *world) tell() bool {
	if w.told == w.read {
		return false
	}
	c := w.log[w.told]
	w.told++
	switch {
	case c.after == nil:
		w.cloud.OnDelete(c.before)
	case c.before == nil:
		w.cloud.OnAdd(c.after, false)
	default:
		w.cloud.OnUpdate(c.before, c.after)
	}
	return true
}

// work lets the service controller do one round.
func (w *world) work() bool {
	if len(w.queue) == 0 {
		return false
	}
	name := w.queue[0]
	w.queue = w.queue[1:]
	if err := w.sync(name); err != nil {
		var wait *api.RetryError
		if !errors.As(err, &wait) {
			w.add(name)
		}
	}
	return true
}

var errNotFound = errors.New("not found")

func (w *world) sync(name string) error {
	ctx := context.Background()
	svc, known := w.cache[name], w.known[name]
	if svc == nil || known != nil && known.UID != svc.UID {
		if wantsBalancer(known) {
			w.cloud.EnsureLoadBalancerDeleted(ctx, "", known)
		}
		delete(w.known, name)
	}
	if svc == nil {
		return nil
	}
	w.known[name] = svc
	svc = svc.DeepCopy()
	status := &corev1.LoadBalancerStatus{}
	if !wantsBalancer(svc) || needsCleanup(svc) {
		if _, exists, _ := w.cloud.GetLoadBalancer(ctx, "", svc); exists {
			w.cloud.EnsureLoadBalancerDeleted(ctx, "", svc)
		}
		if servicehelper.HasLBFinalizer(svc) {
			w.finalizers++
			if !w.change(name, func(s *corev1.Service) { s.Finalizers = nil }) {
				return errNotFound
			}
		}
		delete(w.known, name)
	} else {
		if !servicehelper.HasLBFinalizer(svc) {
			w.finalizers++
			if !w.change(name, func(s *corev1.Service) {
				if s.DeletionTimestamp == nil {
					s.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
				}
			}) {
				return errNotFound
			}
		}
		w.questions++
		var err error
		status, err = w.cloud.EnsureLoadBalancer(ctx, "", svc, nil)
		w.answers[svc.UID] = words(err)
		if err != nil {
			return err
		}
	}
	if !servicehelper.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, status) {
		w.statuses++
		w.change(name, func(s *corev1.Service) { s.Status.LoadBalancer = *status.DeepCopy() })
	}
	return nil
}

// settle lets everything happen that has a reason to.
func (w *world) settle() {
	for range 10000 {
		busy := false
		for _, do := range []func() bool{w.observe, w.tell, w.work} {
			if do() {
				busy = true
				if w.check != nil {
					w.check()
				}
			}
		}
		if !busy {
			return
		}
	}
	w.t.Fatalf("the world never settles: queue %v", w.queue)
}

// wrong returns what is not as it should be once everything has settled.
func (w *world) wrong() error {
	l := w.cloud.ledger
	if err := l.inconsistency(); err != nil {
		return err
	}
	holders := map[types.UID]bool{}
	waiting := map[types.UID]bool{}
	for name, svc := range w.server {
		if svc.DeletionTimestamp != nil {
			return fmt.Errorf("%s is still being deleted", name)
		}
		if !wants(svc) {
			continue
		}
		held := l.allocator.Held(string(svc.UID))
		holders[svc.UID] = held.IsValid()
		if !shows(svc, held) {
			return fmt.Errorf("%s holds %q and shows %v", name, shown(held), svc.Status.LoadBalancer.Ingress)
		}
		r, err := requestOf(svc)
		if err == nil {
			err = l.allocator.Check(r)
		}
		waiting[svc.UID] = err != nil
		if got := w.answers[svc.UID]; got != words(err) {
			return fmt.Errorf("%s was told %q, and the reason is %q", name, got, words(err))
		}
		if err == nil && (!held.IsValid() || r.Addr.IsValid() && r.Addr != held) {
			return fmt.Errorf("%s could have %+v and has %q", name, r, shown(held))
		}
	}
	for _, h := range l.allocator.Holdings() {
		if holder, _ := l.allocator.Holder(h.Addr); !holders[types.UID(holder.UID)] {
			return fmt.Errorf("%s is held by %s, which is gone", h.Addr, holder.UID)
		}
	}
	for uid := range waiting {
		if _, waits := l.unserved[uid]; waits != waiting[uid] {
			return fmt.Errorf("%s waits: %t, and is known to wait: %t", uid, waiting[uid], waits)
		}
	}
	for uid := range l.entries {
		if _, ok := waiting[uid]; !ok {
			return fmt.Errorf("%s is gone and in the ledger", uid)
		}
	}
	return nil
}

func (w *world) held() map[string]netip.Addr {
	all := map[string]netip.Addr{}
	for _, h := range w.cloud.ledger.allocator.Holdings() {
		holder, _ := w.cloud.ledger.allocator.Holder(h.Addr)
		all[holder.UID] = h.Addr
	}
	return all
}

func TestWhateverHappensEverybodyKeepsAnAddressAndIsServed(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue { // a history takes 0.1 ms
		flag.Set("rapid.checks", "1000")
		defer flag.Set("rapid.checks", checks.DefValue)
	}
	configs := []*loadbalancer.Config{
		pools(t, "vip 10.0.0.0/31"),
		pools(t, "vip 10.0.0.0/30; sandbox 10.1.0.0/31 manual"),
		pools(t, "sandbox 10.0.0.0/29; moon 10.1.0.0/30"),
		pools(t, "other 172.16.0.0/30"),
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		name := func() string {
			return rapid.SampledFrom([]string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e"}).Draw(t, "name")
		}
		addr := func() string {
			return rapid.SampledFrom([]string{"10.0.0.0", "10.0.0.1", "10.0.0.3", "10.1.0.1", "192.0.2.1"}).Draw(t, "addr")
		}
		wish := func(svc *corev1.Service) {
			svc.Annotations, svc.Spec.LoadBalancerIP, svc.Spec.IPFamilyPolicy = nil, "", nil
			switch rapid.IntRange(0, 4).Draw(t, "wish") {
			case 0:
				svc.Spec.LoadBalancerIP = addr()
			case 1:
				svc.Annotations = map[string]string{"metallb.io/address-pool": rapid.SampledFrom([]string{"vip", "sandbox", "moon"}).Draw(t, "pool")}
			case 2:
				policy := corev1.IPFamilyPolicyRequireDualStack
				svc.Spec.IPFamilyPolicy = &policy
			}
		}
		// What is held, and whether anybody wished for something else since: the Cloud may learn of a wish long after it was
		// made. A Service that gave its address back, being internal for a while, may get another.
		type tenure struct {
			addr    netip.Addr
			wish    string
			another bool
		}
		before, internal := map[string]tenure{}, map[string]bool{}
		w.check = func() {
			now := map[string]tenure{}
			for uid, addr := range w.held() {
				r, err := requestOf(w.cloud.ledger.entries[types.UID(uid)].service)
				is := tenure{addr: addr, wish: fmt.Sprint(r, err)}
				if was, ok := before[uid]; ok {
					is.another = was.another || was.wish != is.wish
					if was.addr != addr && !is.another && !internal[uid] {
						t.Fatalf("%s had %s and now has %s, and nobody wished for it", uid, was.addr, addr)
					}
					is.another = is.another && (was.addr == addr || w.cloud.ledger.unserved[types.UID(uid)] != nil)
				}
				now[uid] = is
			}
			before = now
		}
		created := 0
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				name := name()
				if w.server[name] != nil {
					t.SkipNow()
				}
				created++
				svc := service(t, name+" uid="+strconv.Itoa(created)+" age="+strconv.Itoa(100-created))
				wish(svc)
				w.put(name, svc)
			},
			"wish": func(*rapid.T) { w.change(name(), wish) },
			"wipe": func(*rapid.T) {
				w.change(name(), func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
			},
			"forge": func(*rapid.T) {
				status := statusOf(netip.MustParseAddr(addr()))
				w.change(name(), func(s *corev1.Service) { s.Status.LoadBalancer = *status })
			},
			"label": func(*rapid.T) { w.change(name(), func(*corev1.Service) {}) },
			"type": func(*rapid.T) {
				w.change(name(), func(s *corev1.Service) {
					if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
						s.Spec.Type = corev1.ServiceTypeClusterIP
						internal[string(s.UID)] = true
					} else {
						s.Spec.Type = corev1.ServiceTypeLoadBalancer
					}
				})
			},
			"delete": func(*rapid.T) {
				w.change(name(), func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} })
			},
			"strip": func(*rapid.T) { // another cloud controller manager removes our finalizer
				w.change(name(), func(s *corev1.Service) {
					if s.DeletionTimestamp != nil {
						s.Finalizers = nil
					}
				})
			},
			"configure": func(t *rapid.T) {
				next := rapid.SampledFrom(configs).Draw(t, "config")
				if lost := w.cloud.admit(w.config, next); len(lost) == 0 {
					w.config = next
				}
			},
			"observe": func(*rapid.T) { w.observe() },
			"tell":    func(*rapid.T) { w.tell() },
			"work":    func(*rapid.T) { w.work() },
			"settle":  func(*rapid.T) { w.settle() },
			"restart": func(t *rapid.T) {
				w.settle()
				held := w.held()
				w.restart()
				for uid, addr := range held {
					if got := w.cloud.ledger.allocator.Held(uid); got != addr {
						t.Fatalf("%s had %s before the restart, and then %s", uid, addr, got)
					}
				}
				statuses := w.statuses
				w.settle()
				if w.statuses != statuses {
					t.Fatalf("the restart wrote %d statuses", w.statuses-statuses)
				}
				if events := strings.Join(w.book.take(), "\n"); strings.Contains(events, "IPAllocated") || strings.Contains(events, "AddressConflict") {
					t.Fatalf("the restart said %s", events)
				}
			},
			"": func(*rapid.T) { w.check() },
		})
		w.settle()
		if err := w.wrong(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestANewServiceCostsTwoPatchesAndOneQuestion(t *testing.T) {
	for _, order := range []string{"every event comes at once", "the Cloud hears of everything last"} {
		t.Run(order, func(t *testing.T) {
			w := newWorld(t)
			w.cloud.admit(nil, pools(t, "vip 10.0.0.0/24"))
			w.put("shop/web", service(t, "shop/web"))
			if order == "the Cloud hears of everything last" {
				for w.observe() || w.work() {
				}
			}
			w.settle()
			if w.questions != 1 || w.finalizers != 1 || w.statuses != 1 {
				t.Errorf("%d questions, finalizer written %d times, status %d times, want 1 of each", w.questions, w.finalizers, w.statuses)
			}
			same(t, "events", w.book.take(), []string{"shop/web Normal IPAllocated assigned 10.0.0.0 from pool vip"})
			if err := w.wrong(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAServiceDeletedWhileWeListedIsNotAdopted(t *testing.T) {
	w := newWorld(t)
	w.cloud = New(Options{})
	w.cloud.record, w.cloud.watch, w.cloud.freed = w.book, &requeuer{}, func() {}
	w.cloud.begin()
	list := listed(t, "shop/web shows=10.0.0.0; shop/api shows=10.0.0.1")
	w.cloud.OnDelete(cache.DeletedFinalStateUnknown{Key: "shop/web", Obj: list[0]})
	w.cloud.adopt(pools(t, "vip 10.0.0.0/30"), list)
	if got := fmt.Sprint(w.held()); got != "map[shop/api:10.0.0.1]" {
		t.Errorf("adopted %s", got)
	}
}

func TestADeletionThatOnlyAListRevealsFreesTheAddress(t *testing.T) {
	w := newWorld(t)
	w.cloud.admit(nil, pools(t, "vip 10.0.0.0/32"))
	w.put("shop/web", service(t, "shop/web"))
	w.settle()
	w.put("shop/api", service(t, "shop/api"))
	w.settle()
	w.cloud.OnDelete(cache.DeletedFinalStateUnknown{Key: "shop/web", Obj: w.server["shop/web"]})
	delete(w.server, "shop/web")
	w.settle()
	if got := fmt.Sprint(w.held()); got != "map[shop/api:10.0.0.0]" {
		t.Errorf("held: %s", got)
	}
}
