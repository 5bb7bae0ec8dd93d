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
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/cloud-provider/api"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"pgregory.net/rapid"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A world is an API server, an informer and a service controller around a Cloud. They behave as the real ones where it
// matters, and nothing happens in it unless a test lets it: the informer's cache lags behind the server, and the Cloud's
// handler behind that cache. A Service that has to wait is not retried, unless somebody requeues it.
type world struct {
	t     rapid.TB
	cloud *Cloud
	book  *eventbook

	config  *loadbalancer.Config // admitted
	givenUp *netipx.IPSet
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
	// meanwhile, if not nil, happens while the service controller works on a Service: before it asks, and before it writes.
	meanwhile func(name string)
	// listed, if not nil, happens between the list from the quorum and the informer's first.
	listed  func()
	missing map[types.UID]bool // at the last comparison
	clock   time.Time

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
	w.cloud.review = func() {}
	w.cloud.slice = time.Hour                                                           // this machine may stand still
	w.cloud.now = func() time.Time { w.clock = w.clock.Add(time.Hour); return w.clock } // nobody tires
	w.cloud.watch = &viewed{}
	w.cloud.lookup = func(namespace, name string) *corev1.Service { return w.cache[namespace+"/"+name] }
	w.cloud.watch.handler = cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.enqueue(object.(*corev1.Service)) },
		UpdateFunc: func(before, after any) { w.notice(before.(*corev1.Service), after.(*corev1.Service)) },
	}
	var listed []*corev1.Service
	for _, svc := range w.server {
		listed = append(listed, svc.DeepCopy())
	}
	if w.listed != nil {
		w.listed()
	}
	w.read, w.told = len(w.log), len(w.log)
	w.cache, w.known, w.queue, w.answers = maps.Clone(w.server), map[string]*corev1.Service{}, nil, map[types.UID]string{}
	w.cloud.begin()
	w.cloud.adopt(w.config, w.givenUp, listed)
	for _, name := range slices.Sorted(maps.Keys(w.cache)) {
		w.cloud.OnAdd(w.cache[name], true)
	}
}

// compare compares the ledger with the cache, as it happens every few minutes.
func (w *world) compare() { w.missing = w.cloud.compare(w.missing) }

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
		w.add(service.Name(svc))
	}
}

func (w *world) add(name string) {
	if !slices.Contains(w.queue, name) {
		w.queue = append(w.queue, name)
	}
}

// notice is how the service controller reacts to a change: as the real one does, to type, address, annotations, ports, policy,
// number of families and UID, not to labels, selector or status.
func (w *world) notice(before, after *corev1.Service) {
	switch {
	case needsCleanup(after), wantsBalancer(before) != wantsBalancer(after):
		w.add(service.Name(after))
	case wantsBalancer(after) && (before.UID != after.UID || before.Spec.LoadBalancerIP != after.Spec.LoadBalancerIP || !maps.Equal(before.Annotations, after.Annotations) ||
		!slices.Equal(before.Spec.Ports, after.Spec.Ports) || before.Spec.ExternalTrafficPolicy != after.Spec.ExternalTrafficPolicy || len(before.Spec.IPFamilies) != len(after.Spec.IPFamilies)):
		w.add(service.Name(after))
	}
}

// observe brings one change into the cache.
func (w *world) observe() bool {
	if w.read == len(w.log) {
		return false
	}
	c := w.log[w.read]
	w.read++
	if c.after == nil {
		delete(w.cache, service.Name(c.before))
	} else {
		w.cache[service.Name(c.after)] = c.after
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
	if svc != nil {
		svc = w.cloud.view.of(svc)
	}
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
			if !w.change(name, func(s *corev1.Service) { s.Finalizers, s.ManagedFields = nil, nil }) {
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
					s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: fieldManager, FieldsType: ofFinalizer}}
				}
			}) {
				return errNotFound
			}
		}
		w.interlude(name)
		w.questions++
		var err error
		status, err = w.cloud.EnsureLoadBalancer(ctx, "", svc, nil)
		w.answers[svc.UID] = words(err)
		if err != nil {
			return err
		}
	}
	w.interlude(name)
	if !servicehelper.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, status) {
		w.statuses++
		w.change(name, func(s *corev1.Service) { s.Status.LoadBalancer = *status.DeepCopy() })
	}
	return nil
}

func (w *world) interlude(name string) {
	if w.meanwhile != nil {
		w.meanwhile(name)
	}
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
		held := l.held(svc)
		holders[svc.UID] = len(held) > 0
		if !service.Shows(svc, held) {
			return fmt.Errorf("%s holds %q and shows %v", name, shown(held), svc.Status.LoadBalancer.Ingress)
		}
		r := service.Request(svc)
		g, same := l.allocator.Check(r)
		if !same {
			return fmt.Errorf("%s could have %q and has %q", name, shown(g.Addrs), shown(held))
		}
		waiting[svc.UID] = !g.Why.None() || g.More
		// Of several reasons to wait, the one that it was told may have become the second.
		if got := w.answers[svc.UID]; (got == "") != (g.Why.None()) {
			return fmt.Errorf("%s was told %q, and the reason is %q", name, got, g.Why.String())
		}
		for _, f := range r.Families {
			if r.AllFamilies && g.Why.None() && !slices.ContainsFunc(held, func(a netip.Addr) bool { return loadbalancer.FamilyOf(a) == f }) {
				return fmt.Errorf("%s has %q and no reason not to have %s", name, shown(held), f)
			}
		}
		for _, addr := range r.Addrs {
			if g.Why.None() && !slices.Contains(held, addr) {
				return fmt.Errorf("%s could have %s and has %q", name, addr, shown(held))
			}
		}
	}
	used := map[string]string{} // address, protocol and port
	for _, h := range l.allocator.Holdings() {
		all := l.allocator.Holders(h.Addr)
		for _, holder := range all {
			if !holders[types.UID(holder.UID)] {
				return fmt.Errorf("%s is held by %s, which is gone", h.Addr, holder.UID)
			}
		}
		e := l.entries[l.uidOf(h.Service)]
		if e == nil {
			return fmt.Errorf("%s is held by %s, which nobody knows", h.Addr, h.Service)
		}
		for _, p := range e.wanted.Ports {
			at := fmt.Sprint(h.Addr, p)
			if other, taken := used[at]; taken {
				return fmt.Errorf("%s and %s both use %s", other, h.Service, at)
			}
			used[at] = h.Service
		}
		keys := 0
		for _, holder := range all {
			if l.entries[types.UID(holder.UID)].wanted.Key != "" {
				keys++
			}
		}
		if len(all)-keys > 1 {
			return fmt.Errorf("%s is held by %v, and %d have no key", h.Addr, all, len(all)-keys)
		}
	}
	for uid := range waiting {
		if waits := l.allocator.Waits(string(uid)); waits != waiting[uid] {
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

func (l *ledger) uidOf(name string) types.UID {
	for uid, e := range l.entries {
		if service.Name(e.service) == name && len(l.held(e.service)) > 0 {
			return uid
		}
	}
	return ""
}

// held returns who holds which addresses, by UID.
func (w *world) held() map[string]string {
	all := map[string]string{}
	for uid := range w.cloud.ledger.entries {
		if addrs := w.cloud.ledger.allocator.Held(string(uid)); len(addrs) > 0 {
			all[string(uid)] = shown(addrs)
		}
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
		pools(t, "vip 10.0.0.0/30,fd00::/127; sandbox 10.1.0.0/31 manual"),
		pools(t, "vip 10.0.0.0/30,fd00::/127 exclude=10.0.0.2 quota=default:2; sandbox 10.1.0.0/31 manual reserve=shop/a:10.1.0.1"),
		pools(t, "sandbox 10.0.0.0/29,fd00::/126; moon 10.1.0.0/30 tier=gold"),
		pools(t, "other 172.16.0.0/30,fd01::/127; vip 10.0.0.0/32 namespace=shop"),
		pools(t, "other 172.16.0.0/29,fd01::/126,fd00::/127"),
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		name := func() string {
			return rapid.SampledFrom([]string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e", "farm/a", "farm/b"}).Draw(t, "name")
		}
		addr := func() string {
			return rapid.SampledFrom([]string{"10.0.0.0", "10.0.0.1", "10.0.0.3", "10.1.0.1", "192.0.2.1", "fd00::1"}).Draw(t, "addr")
		}
		wish := func(svc *corev1.Service) {
			svc.Annotations, svc.Spec.LoadBalancerIP = nil, ""
			switch rapid.IntRange(0, 6).Draw(t, "wish") {
			case 0:
				svc.Spec.LoadBalancerIP = addr()
			case 1:
				metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.io/address-pool", rapid.SampledFrom([]string{"vip", "sandbox", "moon"}).Draw(t, "pool"))
			case 2:
				metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.io/loadBalancerIPs", "10.0.0.1,fd00::1")
			case 3:
				metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.io/loadBalancerIPs", "junk")
			}
			if key := rapid.SampledFrom([]string{"", "", "k", "k", "l"}).Draw(t, "key"); key != "" {
				metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.universe.tf/allow-shared-ip", key)
			}
		}
		traffic := func(svc *corev1.Service) {
			svc.Spec.Ports = []corev1.ServicePort{{Port: rapid.Int32Range(1, 3).Draw(t, "port")}}
			svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector = corev1.ServiceExternalTrafficPolicyCluster, nil
			if app := rapid.SampledFrom([]string{"", "", "web", "api"}).Draw(t, "local"); app != "" {
				svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": app}
			}
		}
		families := func(svc *corev1.Service) {
			four, six := corev1.IPv4Protocol, corev1.IPv6Protocol
			svc.Spec.IPFamilies = rapid.SampledFrom([][]corev1.IPFamily{{four}, {four}, {six}, {four, six}, {six, four}}).Draw(t, "families")
			policy := corev1.IPFamilyPolicySingleStack
			if len(svc.Spec.IPFamilies) > 1 {
				policy = rapid.SampledFrom([]corev1.IPFamilyPolicy{corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicyPreferDualStack}).Draw(t, "policy")
			}
			svc.Spec.IPFamilyPolicy = &policy
		}
		// What is held, and whether somebody wished for something else and has not got it yet: the Cloud may learn of a wish long
		// after it was made, and the allocator later still, which moves the Service by the former wish meanwhile. A Service that gave
		// its address back, being internal for a while, may get another.
		type tenure struct {
			service *corev1.Service
			addrs   string
			wish    string
			another bool
		}
		before, internal, renumbered := map[string]tenure{}, map[string]bool{}, false
		unmet := func(uid string) bool {
			a := w.cloud.ledger.allocator
			g, same := a.Check(w.cloud.ledger.entries[types.UID(uid)].wanted)
			return !same || !g.Why.None() || g.More || a.Waits(uid)
		}
		w.check = func() {
			now := map[string]tenure{}
			for uid, addrs := range w.held() {
				svc := w.cloud.ledger.entries[types.UID(uid)].service
				r := service.Request(svc)
				r.Labels = nil
				is := tenure{service: svc, addrs: addrs, wish: fmt.Sprint(r)}
				was, ok := before[uid]
				is.another = was.another || was.wish != is.wish && (ok || unmet(uid)) // perhaps it wished again before it was served
				now[uid] = is
			}
			// Of two that share an address, the younger gives way once the older wants its port, or wanted it before it went.
			gaveWay := func(was tenure) bool {
				for uid, other := range before {
					if is, ok := now[uid]; older(other.service, was.service) < 0 && (!ok || is.another || is.addrs != other.addrs) && overlap(other.addrs, was.addrs) {
						return true
					}
				}
				return false
			}
			for uid, is := range now {
				// More is no loss.
				if was := before[uid]; !strings.Contains(is.addrs, was.addrs) && !is.another && !internal[uid] && !renumbered && !gaveWay(was) {
					t.Fatalf("%s had %s and now has %s, and nobody wished for it", uid, was.addrs, is.addrs)
				}
			}
			for uid, is := range now {
				is.another = is.another && (before[uid].addrs == is.addrs || unmet(uid))
				now[uid] = is
			}
			before = now
		}
		interludes := 0 // so that the world settles in the end
		w.meanwhile = func(name string) {
			if interludes++; interludes > 5 {
				return
			}
			for range rapid.IntRange(0, 3).Draw(t, "interlude") {
				w.check()
				switch rapid.IntRange(0, 5).Draw(t, "meanwhile") {
				case 0:
					w.change(name, func(s *corev1.Service) { s.Status.LoadBalancer = *service.Status(addrs(addr())) })
				case 1:
					w.change(name, func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
				case 2:
					w.change(name, wish)
				case 3:
					w.observe()
				case 5:
					w.put(name, nil)
				case 4:
					for w.observe() || w.tell() { // of two wishes, each counts
						w.check()
					}
				}
			}
		}
		created := 0
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				name := name()
				if w.server[name] != nil {
					t.SkipNow()
				}
				created++
				svc := aService(t, name+" uid="+strconv.Itoa(created)+" age="+strconv.Itoa(100-created))
				wish(svc)
				traffic(svc)
				families(svc)
				w.put(name, svc)
			},
			"wish":     func(*rapid.T) { w.change(name(), wish) },
			"traffic":  func(*rapid.T) { w.change(name(), traffic) },
			"families": func(*rapid.T) { w.change(name(), families) },
			"tier": func(*rapid.T) {
				w.change(name(), func(s *corev1.Service) {
					s.Labels = map[string]string{"tier": rapid.SampledFrom([]string{"gold", "tin"}).Draw(t, "tier")}
				})
			},
			"wipe": func(*rapid.T) {
				w.change(name(), func(s *corev1.Service) { s.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
			},
			"forge": func(*rapid.T) {
				status := service.Status(addrs(addr()))
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
				w.change(name(), func(s *corev1.Service) {
					s.DeletionTimestamp = &metav1.Time{}
					internal[string(s.UID)] = true // what becomes of it meanwhile is nobody's loss
				})
			},
			"vanish":  func(*rapid.T) { w.put(name(), nil) },
			"compare": func(*rapid.T) { w.compare() },
			"strip": func(*rapid.T) { // another cloud controller manager removes our finalizer
				w.change(name(), func(s *corev1.Service) {
					if s.DeletionTimestamp != nil {
						s.Finalizers, s.ManagedFields = nil, nil
					}
				})
			},
			"configure": func(t *rapid.T) {
				next := rapid.SampledFrom(configs).Draw(t, "config")
				var against loadbalancer.Verdict
				if against, w.givenUp = w.cloud.admit(w.config, next, w.givenUp, loadbalancer.NoConsent); against.Admits() {
					w.config = next
				}
			},
			"renumber": func(t *rapid.T) {
				renumbered = true
				next := rapid.SampledFrom(configs).Draw(t, "config")
				_, w.givenUp = w.cloud.admit(w.config, next, w.givenUp, loadbalancer.Renumber)
				w.config = next
			},
			"observe": func(*rapid.T) { w.observe() },
			"tell":    func(*rapid.T) { w.tell() },
			"work":    func(*rapid.T) { w.work() },
			"settle":  func(*rapid.T) { w.settle() },
			"restart": func(t *rapid.T) {
				meanwhile := w.meanwhile
				defer func() { w.meanwhile = meanwhile }()
				w.meanwhile = nil
				w.settle()
				w.compare()
				w.compare()
				w.settle()
				held := w.held()
				w.restart()
				statuses := w.statuses
				w.settle()
				if now := w.held(); !maps.Equal(now, held) {
					t.Fatalf("before the restart they had %v, and then %v", held, now)
				}
				if w.statuses != statuses {
					t.Fatalf("the restart wrote %d statuses", w.statuses-statuses)
				}
				if events := strings.Join(w.book.take(), "\n"); strings.Contains(events, "IPAllocated") || strings.Contains(events, "AddressConflict") {
					t.Fatalf("the restart said %s", events)
				}
			},
			"start over while some vanish": func(t *rapid.T) {
				meanwhile := w.meanwhile
				w.meanwhile = nil
				w.settle() // what somebody wrote into a status would be adopted
				w.meanwhile = meanwhile
				w.listed = func() {
					for _, name := range slices.Sorted(maps.Keys(w.server)) {
						if rapid.Bool().Draw(t, "vanishes") {
							w.put(name, nil)
						}
					}
				}
				w.restart()
				w.listed = nil
			},
			"": func(*rapid.T) { w.check() },
		})
		w.settle()
		w.compare()
		w.compare()
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
			w.cloud.admit(nil, pools(t, "vip 10.0.0.0/24"), nil, loadbalancer.NoConsent)
			w.put("shop/web", aService(t, "shop/web"))
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

// A Service may vanish at once, if another controller manager removes the finalizer, and nobody tells us of it: between our
// list and the informer's, between the service controller's finalizer and its question, and while we look at a snapshot.
func TestWhatVanishesWithoutAWordIsForgotten(t *testing.T) {
	for name, vanish := range map[string]func(*world){
		"between the two lists": func(w *world) {
			w.put("shop/web", aService(t, "shop/web"))
			w.settle()
			w.listed = func() { w.put("shop/web", nil) }
			w.restart()
		},
		"between finalizer and question": func(w *world) {
			w.meanwhile = func(string) {
				w.meanwhile = nil
				w.put("shop/web", nil)
				for w.observe() || w.tell() {
				}
			}
			w.put("shop/web", aService(t, "shop/web"))
		},
		"in a snapshot": func(w *world) {
			svc := aService(t, "shop/web")
			w.cloud.OnDelete(svc)
			w.cloud.OnAdd(svc, false)
			if len(w.cloud.ledger.entries) > 0 {
				t.Error("it is in the ledger")
			}
		},
		"after another's": func(w *world) {
			w.put("shop/web", aService(t, "shop/web class=example.com/lb shows=10.0.0.0"))
			w.settle()
			w.listed = func() { w.put("shop/web", nil) }
			w.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.config = pools(t, "vip 10.0.0.0/32")
			w.cloud.admit(nil, w.config, nil, loadbalancer.NoConsent)
			vanish(w)
			w.settle()
			w.compare()
			w.compare()
			w.put("shop/api", aService(t, "shop/api"))
			w.settle()
			if got := fmt.Sprint(w.held()); got != "map[shop/api:10.0.0.0]" {
				t.Errorf("held: %s", got)
			}
			if got := len(w.cloud.ledger.known()); got != 1 {
				t.Errorf("%d Services are remembered", got)
			}
			if err := w.wrong(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The informer's list may be older than ours: what it lacks once may be on its way.
func TestWhatTheInformerDoesNotHaveYetIsKept(t *testing.T) {
	w := newWorld(t)
	w.config = pools(t, "vip 10.0.0.0/31")
	w.put("shop/web", aService(t, "shop/web shows=10.0.0.1"))
	w.restart()
	late := w.cache
	w.cache = map[string]*corev1.Service{}
	w.compare()
	w.cache = late
	w.compare()
	if got := fmt.Sprint(w.held()); got != "map[shop/web:10.0.0.1]" {
		t.Errorf("held: %s", got)
	}
}

func TestAServiceDeletedWhileWeListedIsNotAdopted(t *testing.T) {
	w := newWorld(t)
	w.cloud = New(Options{})
	w.cloud.record, w.cloud.watch, w.cloud.review = w.book, &viewed{}, func() {}
	w.cloud.begin()
	list := listed(t, "shop/web shows=10.0.0.0; shop/api shows=10.0.0.1")
	w.cloud.OnDelete(cache.DeletedFinalStateUnknown{Key: "shop/web", Obj: list[0]})
	w.cloud.adopt(pools(t, "vip 10.0.0.0/30"), nil, list)
	if got := fmt.Sprint(w.held()); got != "map[shop/api:10.0.0.1]" {
		t.Errorf("adopted %s", got)
	}
}

func TestAStatusThatSomebodyWritesBeforeWeAreFirstAskedIsPutRight(t *testing.T) {
	w := newWorld(t)
	w.cloud.admit(nil, pools(t, "vip 10.0.0.0/32"), nil, loadbalancer.NoConsent)
	w.meanwhile = func(name string) { // the service controller has read it, and has not asked yet
		w.meanwhile = nil
		w.change(name, func(s *corev1.Service) { s.Status.LoadBalancer = *service.Status(addrs("10.0.0.0")) })
		for w.observe() || w.tell() {
		}
	}
	w.put("shop/web", aService(t, "shop/web want=10.9.9.9"))
	w.settle()
	if err := w.wrong(); err != nil {
		t.Error(err)
	}
}

func TestADeletionThatOnlyAListRevealsFreesTheAddress(t *testing.T) {
	w := newWorld(t)
	w.cloud.admit(nil, pools(t, "vip 10.0.0.0/32"), nil, loadbalancer.NoConsent)
	w.put("shop/web", aService(t, "shop/web"))
	w.settle()
	w.put("shop/api", aService(t, "shop/api"))
	w.settle()
	w.cloud.OnDelete(cache.DeletedFinalStateUnknown{Key: "shop/web", Obj: w.server["shop/web"]})
	delete(w.server, "shop/web")
	w.settle()
	if got := fmt.Sprint(w.held()); got != "map[shop/api:10.0.0.0]" {
		t.Errorf("held: %s", got)
	}
}

// Who loses an address because ports collide must not depend on whether somebody watched: the same edits, once seen as they
// happen, and once found at a start, come to the same end.
func TestWhoLosesAnAddressByAnEditDoesNotDependOnWhetherTheManagerWasUp(t *testing.T) {
	config := pools(t, "vip 10.0.0.0/32")
	rapid.Check(t, func(t *rapid.T) {
		up, down := newWorld(t), newWorld(t)
		for _, w := range []*world{up, down} {
			w.config = config
			w.cloud.admit(nil, w.config, nil, loadbalancer.NoConsent)
		}
		names := []string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e"}
		ages := rapid.Permutation([]int{1, 2, 3, 4, 4}).Draw(t, "ages")
		traffic := func() func(*corev1.Service) {
			var all []corev1.ServicePort
			for _, port := range rapid.SliceOfNDistinct(rapid.Int32Range(1, 6), 1, 3, rapid.ID).Draw(t, "ports") {
				all = append(all, corev1.ServicePort{Port: port})
			}
			local := rapid.SampledFrom([]string{"", "", "", "web"}).Draw(t, "local")
			return func(svc *corev1.Service) {
				svc.Spec.Ports = all
				svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector = corev1.ServiceExternalTrafficPolicyCluster, nil
				if local != "" {
					svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": local}
				}
			}
		}
		for i, name := range names {
			change := traffic()
			for _, w := range []*world{up, down} {
				svc := aService(t, fmt.Sprint(name, " share=k age=", ages[i]))
				change(svc)
				w.put(name, svc)
				w.settle()
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "edits") {
			name, change := rapid.SampledFrom(names).Draw(t, "name"), traffic()
			for _, w := range []*world{up, down} {
				w.change(name, change)
				if w == down {
					w.restart()
				}
				w.settle()
				if err := w.wrong(); err != nil {
					t.Fatal(err)
				}
			}
			if was, is := up.held(), down.held(); !maps.Equal(was, is) {
				t.Fatalf("with the manager up %v, found at its start %v", was, is)
			}
			for uid, why := range up.answers {
				if (why == "") != (down.answers[uid] == "") {
					t.Fatalf("%s was told %q, and at the start %q", uid, why, down.answers[uid])
				}
			}
		}
	})
}

// The story of it: web is older, and opens the port of mail.
func TestTheYoungerOfTwoThatCollideLosesTheAddress(t *testing.T) {
	for _, down := range []bool{false, true} {
		w := newWorld(t)
		w.config = pools(t, "vip 10.0.0.0/31")
		w.cloud.admit(nil, w.config, nil, loadbalancer.NoConsent)
		w.put("shop/web", aService(t, "shop/web share=k port=80 age=2"))
		w.put("shop/mail", aService(t, "shop/mail share=k port=25 age=1"))
		w.settle()
		w.book.take()
		w.change("shop/web", func(svc *corev1.Service) { svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Port: 25}) })
		if down {
			w.restart()
		}
		w.settle()
		if got := fmt.Sprint(w.held()); got != "map[shop/mail:10.0.0.1 shop/web:10.0.0.0]" {
			t.Errorf("down %t: held: %s", down, got)
		}
		events := strings.Join(w.book.take(), "\n")
		if !strings.Contains(events, "shop/mail Warning AddressConflict") || !strings.Contains(events, "shop/mail Normal IPAllocated assigned 10.0.0.1") || strings.Contains("\n"+events, "\nshop/web ") {
			t.Errorf("down %t: %s", down, events)
		}
		if err := w.wrong(); err != nil {
			t.Errorf("down %t: %v", down, err)
		}
	}
}

// overlap reports whether two lists of addresses have one in common.
func overlap(a, b string) bool {
	for one := range strings.FieldsFuncSeq(a, func(r rune) bool { return r == ',' || r == ' ' }) {
		if slices.Contains(strings.FieldsFunc(b, func(r rune) bool { return r == ',' || r == ' ' }), one) {
			return true
		}
	}
	return false
}
