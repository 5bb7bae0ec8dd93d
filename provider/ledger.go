package provider

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A ledger is what the leader decided about every Service that is ours, and why. It computes only, and is not safe for
// concurrent use.
type ledger struct {
	allocator *loadbalancer.Allocator
	entries   map[types.UID]*entry
	// unserved are the entries of Services that do not have what they ask for, so that a freed address costs work for
	// those only.
	unserved map[types.UID]*entry
	// queue has the unserved in the order in which they are served, unless unsorted is set. Who is served by now may still
	// stand in it.
	queue    []*entry
	unsorted bool
	// ignored are the Services that are not ours and whose status shows addresses. Whoever wrote that uses them: they are
	// taken, as far as no Service of ours holds them. Each is held under a UID of its own.
	ignored map[types.UID]*corev1.Service
	// disputed is set while one of ours holds what an ignored Service shows.
	disputed bool
	// selective is set if some pool is for Services with certain labels only.
	selective bool
}

// An entry is the ledger's line for one Service.
type entry struct {
	service *corev1.Service // the newest state that we know
	request loadbalancer.Request
	// why is the reason that the Service was told for not getting what it asks for; empty if it has that.
	why string
	// asked is set once the service controller asked about the Service: before, it will do so by itself.
	asked bool
	// shown is set once the status showed the decision: if it differs from then on, somebody else wrote it.
	shown bool
	// stale is what the status showed when the service controller was given the decision, which it is about to write.
	stale []corev1.LoadBalancerIngress
	// owed is set while the service controller mends the status, and is to ask again for the reason.
	owed bool
	// unknown are annotations that mean nothing, of which the user was told.
	unknown []string
	// told are the addresses that an event has announced, or that the Service had before we knew it.
	told []netip.Addr
	rank int // in the queue
	// conflict and renumbered say why the Service does not have the ones that it was told any more.
	conflict   error
	renumbered bool
}

func newLedger() *ledger {
	return &ledger{
		allocator: loadbalancer.NewAllocator(),
		entries:   map[types.UID]*entry{},
		unserved:  map[types.UID]*entry{},
		ignored:   map[types.UID]*corev1.Service{},
	}
}

func newEntry(svc *corev1.Service) *entry {
	return &entry{service: svc, request: service.Request(svc)}
}

// note keeps the Service's newest state, and returns false for an older one: what the API server listed for us, what the
// service controller hands in and what our own handler sees do not come in order. An older state asks for what its user may
// no longer want.
func (e *entry) note(svc *corev1.Service) bool {
	order, err := resourceversion.CompareResourceVersion(svc.ResourceVersion, e.service.ResourceVersion)
	if err == nil && order < 0 {
		return false
	}
	e.service, e.request = svc, service.Request(svc)
	return true
}

// A conflict is an address that two Services show, and that the younger loses.
type conflict struct {
	service *corev1.Service
	why     error
}

// adopt takes over a cluster as it is: every address stays where a status shows it; of two Services that show one and
// cannot share it, the older keeps it. Then Services that wait get what is there: first those that ask for one address, then
// the older. What the status of others shows is taken.
func (l *ledger) adopt(services, others []*corev1.Service) (conflicts []conflict) {
	services = slices.Clone(services)
	slices.SortFunc(services, older)
	for _, svc := range services {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		e := newEntry(svc)
		l.entries[svc.UID] = e
		if err := l.allocator.Adopt(e.request, service.Addresses(svc)); err != nil {
			conflicts = append(conflicts, conflict{svc, err})
		}
		e.unknown = service.UnknownOnService(svc.Annotations) // a start tells nobody
		e.told = l.held(svc)
		e.shown = len(e.told) > 0 && service.Shows(svc, e.told)
	}
	for _, svc := range others {
		l.ignore(svc)
	}
	for _, e := range l.entries {
		if wants(e.service) && len(l.held(e.service)) == 0 {
			l.wait(e)
		}
	}
	l.serve()
	return conflicts
}

// older puts Services in the order in which they are served: by creation, then name.
func older(a, b *corev1.Service) int {
	if by := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); by != 0 {
		return by
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// wants reports whether a Service in view should have an address.
func wants(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil
}

// ignore takes note of a Service that is not ours, or not any more, and reports whether that freed an address.
func (l *ledger) ignore(svc *corev1.Service) (freed bool) {
	var shows []netip.Addr
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		shows = service.Addresses(svc)
	}
	if before := l.ignored[svc.UID]; before != nil && slices.Equal(service.Addresses(before), shows) {
		return false
	}
	freed = len(l.forget(svc.UID)) > 0
	if len(shows) > 0 {
		l.ignored[svc.UID] = svc
		l.take(svc)
	}
	return freed
}

// take takes what an ignored Service shows.
func (l *ledger) take(svc *corev1.Service) {
	for _, addr := range service.Addresses(svc) {
		r := loadbalancer.Request{UID: ignoredUID(svc.UID, addr), Service: service.Name(svc), Namespace: svc.Namespace}
		if err := l.allocator.Adopt(r, []netip.Addr{addr}); err != nil {
			l.disputed = true
		}
	}
}

func ignoredUID(uid types.UID, addr netip.Addr) string { return string(uid) + "/" + addr.String() }

// known returns every Service that the ledger has something about.
func (l *ledger) known() []*corev1.Service {
	all := slices.Collect(maps.Values(l.ignored))
	for _, e := range l.entries {
		all = append(all, e.service)
	}
	return all
}

// holdings are the addresses that Services of ours hold.
func (l *ledger) holdings() []loadbalancer.Holding {
	others := map[loadbalancer.Holding]bool{}
	for _, svc := range l.ignored {
		for _, addr := range service.Addresses(svc) {
			if len(l.allocator.Held(ignoredUID(svc.UID, addr))) > 0 {
				others[loadbalancer.Holding{Service: service.Name(svc), Addr: addr}] = true
			}
		}
	}
	all := l.allocator.Holdings()
	if len(others) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(h loadbalancer.Holding) bool { return others[h] })
}

// held returns the addresses that the Service holds.
func (l *ledger) held(svc *corev1.Service) []netip.Addr { return l.allocator.Held(string(svc.UID)) }

// decide gives the Service what it asks for, if that is possible, and remembers the reason if not.
func (l *ledger) decide(e *entry) loadbalancer.Grant {
	before := l.held(e.service)
	g := l.allocator.Allocate(e.request)
	if !slices.Equal(g.Addrs, before) {
		e.shown = false
	}
	e.conflict = cmp.Or(g.Conflict, e.conflict)
	e.renumbered = e.renumbered || g.Renumbered
	e.why = ""
	if g.Why != nil {
		e.why = g.Why.Error()
	}
	if g.Why != nil || g.More {
		l.wait(e)
	} else {
		delete(l.unserved, e.service.UID)
	}
	return g
}

// wait enters a Service among those that do not have what they ask for, or puts it in another place there.
func (l *ledger) wait(e *entry) {
	if rank := l.rankOf(e); l.unserved[e.service.UID] != e || rank != e.rank {
		e.rank, l.unsorted = rank, true
	}
	l.unserved[e.service.UID] = e
}

// A decision is what the service controller, the cluster's users and the log hear of a Service.
type decision struct {
	addrs []netip.Addr // that the status is to show
	pool  string       // that owns them; empty if none does
	why   error        // the Service does not get what it asks for; it may hold addresses all the same
	news  bool         // nobody was told of all of these addresses yet
	was   []netip.Addr // what it was told before
	// conflict is why it lost an address; renumbered tells that the operator took it away. Both are told once.
	conflict   error
	renumbered bool
	eased      bool // others may now get what they wait for
	// again is set if the status is another one by now than the service controller believes, so that it writes nothing.
	again bool
}

// left returns the addresses that the Service was told and does not have any more.
func (d decision) left() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(d.was), func(addr netip.Addr) bool { return slices.Contains(d.addrs, addr) })
}

// answer is decide for the service controller, which writes the result into the status.
func (l *ledger) answer(svc *corev1.Service) decision {
	e := l.entries[svc.UID]
	if e == nil {
		e = newEntry(svc)
		l.entries[svc.UID] = e
	} else {
		e.note(svc)
	}
	g := l.decide(e)
	d := decision{addrs: g.Addrs, why: g.Why, was: e.told, conflict: e.conflict, renumbered: e.renumbered, eased: g.Eased}
	for _, addr := range g.Addrs {
		d.news = d.news || !slices.Contains(e.told, addr)
		if pool := l.allocator.Pool(addr); pool != nil {
			d.pool = pool.Name
		}
	}
	e.asked, e.owed = true, false
	e.told, e.conflict, e.renumbered = g.Addrs, nil, false
	if service.Shows(svc, d.addrs) {
		d.again = !service.Shows(e.service, d.addrs)
		e.shown = !d.again // nothing will be written
		return d
	}
	e.stale = svc.Status.LoadBalancer.Ingress
	if d.why != nil {
		// First the status must show what the Service keeps, or nothing; an error would leave it wrong. The change of the
		// status brings us back here.
		d.why, e.why, e.owed = nil, "", true
	}
	return d
}

// settled reports whether the answer for the Service is what its status shows already.
func (l *ledger) settled(svc *corev1.Service) bool {
	e, held := l.entries[svc.UID], l.held(svc)
	if e == nil || len(held) == 0 || !service.Shows(svc, held) {
		return false
	}
	e.note(svc)
	g, _ := l.allocator.Check(e.request)
	return slices.Equal(g.Addrs, held)
}

// see takes note of a Service as it is now, and reports whether the service controller should look at it again: because
// somebody changed the status, or because the answer would be another one than it got.
func (l *ledger) see(svc *corev1.Service) (again bool) {
	e := l.entries[svc.UID]
	switch {
	case e == nil && wants(svc):
		l.forget(svc.UID) // it was another's
		// The service controller is about to ask, perhaps about an older state than this.
		l.entries[svc.UID] = newEntry(svc)
		return false
	case e == nil:
		l.ignore(svc)
		return false
	case !e.note(svc):
		return false
	}
	held := l.held(svc)
	if !wants(svc) {
		// The service controller frees the addresses. Until then the Service gets no others.
		delete(l.unserved, svc.UID)
		if len(held) == 0 {
			l.forget(svc.UID)
		}
		return false
	}
	if l.unserved[svc.UID] == e {
		l.wait(e) // perhaps in another place
	}
	same := service.Shows(svc, held)
	// Before the decision was shown, the status may still be what it was then. Anything else is somebody's doing.
	forged := !same && (e.shown || e.asked && !service.SameStatus(svc.Status.LoadBalancer.Ingress, e.stale))
	if forged {
		e.shown, e.stale = false, svc.Status.LoadBalancer.Ingress
		return true
	}
	e.shown = same
	if !e.asked {
		return false
	}
	g, unchanged := l.allocator.Check(e.request)
	why := ""
	if g.Why != nil {
		why = g.Why.Error()
	}
	return e.owed || !unchanged || why != e.why
}

// typos returns the annotations of the Service that mean nothing, if they are others than it was told.
func (l *ledger) typos(svc *corev1.Service) []string {
	e := l.entries[svc.UID]
	if e == nil || e.service.ResourceVersion != svc.ResourceVersion {
		return nil
	}
	before := e.unknown
	if e.unknown = service.UnknownOnService(svc.Annotations); slices.Equal(before, e.unknown) {
		return nil
	}
	return e.unknown
}

// orphaned reports whether the Service has no claim to its addresses any more and nobody will free them: the service
// controller has not asked about it, and may have looked at it already, when it had none.
func (l *ledger) orphaned(svc *corev1.Service) bool {
	e := l.entries[svc.UID]
	return e != nil && !e.asked && !wants(e.service) && len(l.held(svc)) > 0
}

// forget drops a Service that has no claim to an address any more, and returns the addresses it held.
func (l *ledger) forget(uid types.UID) (left []netip.Addr) {
	delete(l.entries, uid)
	delete(l.unserved, uid)
	if svc := l.ignored[uid]; svc != nil {
		delete(l.ignored, uid)
		for _, addr := range service.Addresses(svc) {
			left = append(left, l.allocator.Release(ignoredUID(uid, addr))...)
		}
	}
	return append(left, l.allocator.Release(string(uid))...)
}

// configure puts other pools in force. No Service loses an address; those that hold one of givenUp, which the operator took
// away from the pools on purpose, get another as soon as there is one. Those for which the answer may be another are to be
// served.
func (l *ledger) configure(config *loadbalancer.Config, givenUp *netipx.IPSet) {
	l.allocator.Configure(config, givenUp)
	l.selective = slices.ContainsFunc(config.Pools, func(p loadbalancer.Pool) bool { return len(p.ServiceSelectors) > 0 })
	for _, e := range l.entries {
		if !wants(e.service) {
			continue
		}
		if g, same := l.allocator.Check(e.request); !same || g.More || g.Why != nil {
			l.wait(e)
		}
	}
}

// A stray is an address that a Service holds and no pool owns.
type stray struct {
	service *corev1.Service
	addr    netip.Addr
}

// strays returns all of them, the older Services first.
func (l *ledger) strays() (all []stray) {
	for _, e := range l.entries {
		for _, addr := range l.held(e.service) {
			if l.allocator.Pool(addr) == nil {
				all = append(all, stray{e.service, addr})
			}
		}
	}
	slices.SortFunc(all, func(a, b stray) int { return cmp.Or(older(a.service, b.service), a.addr.Compare(b.addr)) })
	return all
}

// serve gives Services that wait what there is for them now: first those that ask for one address, then the older, and last
// those that have one and would like another. It returns those for which the answer changed.
func (l *ledger) serve() (changed []*corev1.Service) {
	if l.disputed {
		l.disputed = false
		for _, svc := range l.ignored {
			l.take(svc)
		}
	}
	if l.unsorted || len(l.queue) > 2*len(l.unserved)+16 {
		l.queue = slices.SortedFunc(maps.Values(l.unserved), func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.rank, b.rank), older(a.service, b.service))
		})
		l.unsorted = false
	}
	eased := false
	failed := map[shape]string{}
	for _, e := range l.queue {
		if l.unserved[e.service.UID] != e {
			continue
		}
		held, why := l.held(e.service), e.why
		shape, plain := l.shapeOf(e.request)
		if plain = plain && len(held) == 0; plain && why != "" && failed[shape] == why {
			continue // as it was told, and as one before it was told now
		}
		g := l.decide(e)
		if e.asked && (!slices.Equal(held, g.Addrs) || e.why != why && !e.owed) {
			changed = append(changed, e.service)
		}
		eased = eased || g.Eased
		if plain {
			failed[shape] = e.why
		}
	}
	if eased { // there is something that one before may have waited for
		changed = append(changed, l.serve()...)
	}
	return changed
}

// A shape is what requests have in common that get the same answer if they get nothing.
type shape struct {
	namespace, pool string
	families        [2]loadbalancer.Family
	all             bool
}

// shapeOf returns the shape of a request, and false for one that is like no other.
func (l *ledger) shapeOf(r loadbalancer.Request) (shape, bool) {
	s := shape{namespace: r.Namespace, pool: r.Pool, all: r.AllFamilies}
	if copy(s.families[:], r.Families) < len(r.Families) || len(r.Addrs) > 0 || r.Key != "" || r.Invalid != nil {
		return shape{}, false
	}
	return s, len(r.Labels) == 0 || !l.selective
}

func (l *ledger) rankOf(e *entry) int {
	switch {
	case len(e.request.Addrs) > 0:
		return 0
	case len(l.held(e.service)) == 0 || e.why != "":
		return 1
	default:
		return 2
	}
}
