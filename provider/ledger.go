package provider

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A ledger is what the leader decided about every Service that is ours, and why. It computes only, and is not safe for
// concurrent use.
type ledger struct {
	allocator *loadbalancer.Allocator
	entries   map[types.UID]*entry
	// unserved are the entries of Services that do not have what they ask for, so that a freed address costs work for
	// those only.
	unserved map[types.UID]*entry
}

// An entry is the ledger's line for one Service.
type entry struct {
	service *corev1.Service // the newest state that we know
	// why is the reason that the Service was told for not getting what it asks for; empty if it has that.
	why string
	// asked is set once the service controller asked about the Service: before, it will do so by itself.
	asked bool
	// shown is set once the status showed the decision: if it differs from then on, somebody else wrote it.
	shown bool
	// owed is set while the service controller mends the status, and is to ask again for the reason.
	owed bool
	// told is the address that an event has announced, or that the Service had before we knew it.
	told netip.Addr
}

func newLedger() *ledger {
	return &ledger{
		allocator: loadbalancer.NewAllocator(),
		entries:   map[types.UID]*entry{},
		unserved:  map[types.UID]*entry{},
	}
}

// note keeps the Service's newest state, and returns false for an older one: what the API server listed for us, what the
// service controller hands in and what our own handler sees do not come in order. An older state asks for what its user may
// no longer want.
func (e *entry) note(svc *corev1.Service) bool {
	if e.service != nil {
		order, err := resourceversion.CompareResourceVersion(svc.ResourceVersion, e.service.ResourceVersion)
		if err == nil && order < 0 {
			return false
		}
	}
	e.service = svc
	return true
}

// A conflict is an address that two Services show, and that the younger loses.
type conflict struct {
	service *corev1.Service
	addr    netip.Addr
	reason  string
}

// adopt takes over a cluster as it is: every address stays where a status shows it; of two Services that show one, the
// older keeps it. Then Services that wait get what is there: first those that ask for one address, then the older.
func (l *ledger) adopt(services []*corev1.Service) (conflicts []conflict) {
	services = slices.Clone(services)
	slices.SortFunc(services, older)
	for _, svc := range services {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.LoadBalancerClass != nil {
			continue
		}
		e := &entry{service: svc}
		l.entries[svc.UID] = e
		addr := statusAddress(svc)
		if !addr.IsValid() {
			continue
		}
		if err := l.allocator.Adopt(string(svc.UID), nameOf(svc), addr); err != nil {
			conflicts = append(conflicts, conflict{svc, addr, err.Error()})
			continue
		}
		e.told = addr
		e.shown = shows(svc, addr)
	}
	for uid, e := range l.entries {
		if wants(e.service) && !l.allocator.Held(string(uid)).IsValid() {
			l.unserved[uid] = e
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

// A decision is what a Service gets.
type decision struct {
	addr netip.Addr // what it holds; the zero Addr if nothing
	pool string     // that owns the address; empty if none does
	why  error      // why it does not get what it asks for; it may hold another address all the same
	left netip.Addr // what it held before and gave up for addr: others may want it; the zero Addr if nothing
	news bool       // nobody was told of this address yet
}

// decide gives the Service what it asks for, if that is possible, and remembers the reason if not.
func (l *ledger) decide(svc *corev1.Service) decision {
	e := l.entries[svc.UID]
	if e == nil {
		e = &entry{}
		l.entries[svc.UID] = e
	}
	e.note(svc)
	before := l.allocator.Held(string(svc.UID))
	request, err := requestOf(e.service)
	if err == nil {
		_, _, err = l.allocator.Allocate(request)
	}
	d := decision{addr: l.allocator.Held(string(svc.UID)), why: err}
	if pool := l.allocator.Pool(d.addr); pool != nil {
		d.pool = pool.Name
	}
	if d.addr != before {
		e.shown = false
		d.left = before
	}
	e.why = ""
	delete(l.unserved, svc.UID)
	if err != nil {
		e.why = err.Error()
		l.unserved[svc.UID] = e
	}
	return d
}

// answer is decide for the service controller, which writes the result into the status.
func (l *ledger) answer(svc *corev1.Service) decision {
	d := l.decide(svc)
	e := l.entries[svc.UID]
	e.asked, e.owed = true, false
	d.news = d.addr.IsValid() && d.addr != e.told
	e.told = d.addr
	if shows(svc, d.addr) {
		e.shown = true // nothing will be written
	} else if d.why != nil {
		// First the status must show the address that the Service keeps, or none; an error would leave it wrong. The change
		// of the status brings us back here.
		d.why, e.why, e.owed = nil, "", true
	}
	return d
}

// settled reports whether the answer for the Service is what its status shows already.
func (l *ledger) settled(svc *corev1.Service) bool {
	held := l.allocator.Held(string(svc.UID))
	if !held.IsValid() || !shows(svc, held) {
		return false
	}
	e := l.entries[svc.UID]
	e.note(svc)
	r, err := requestOf(e.service)
	if err != nil {
		return true // it keeps what it has
	}
	pool := l.allocator.Pool(held)
	return (!r.Addr.IsValid() || r.Addr == held) && (r.Pool == "" || pool != nil && pool.Name == r.Pool)
}

// see takes note of a Service as it is now, and reports whether the service controller should look at it again: because
// somebody changed the status, or because the answer would be another one than it got.
func (l *ledger) see(svc *corev1.Service) (again bool) {
	e := l.entries[svc.UID]
	if e == nil || !e.note(svc) {
		return false
	}
	held := l.allocator.Held(string(svc.UID))
	if !wants(svc) {
		// The service controller frees the address. Until then the Service gets no other.
		delete(l.unserved, svc.UID)
		if !held.IsValid() {
			l.forget(svc.UID)
		}
		return false
	}
	same := shows(svc, held)
	if e.shown && !same {
		e.shown = false
		return true
	}
	e.shown = same
	if !e.asked {
		return false
	}
	request, err := requestOf(svc)
	if err == nil {
		err = l.allocator.Check(request)
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	return e.owed || why != e.why
}

// forget drops a Service that has no claim to an address any more, and returns the address it held.
func (l *ledger) forget(uid types.UID) netip.Addr {
	delete(l.entries, uid)
	delete(l.unserved, uid)
	return l.allocator.Release(string(uid))
}

// configure puts other pools in force. No Service loses an address.
func (l *ledger) configure(config *loadbalancer.Config) { l.allocator.Configure(config) }

// A stray is an address that a Service holds and no pool owns.
type stray struct {
	service *corev1.Service
	addr    netip.Addr
}

// strays returns all of them, the older Services first.
func (l *ledger) strays() (all []stray) {
	for uid, e := range l.entries {
		if addr := l.allocator.Held(string(uid)); addr.IsValid() && l.allocator.Pool(addr) == nil {
			all = append(all, stray{e.service, addr})
		}
	}
	slices.SortFunc(all, func(a, b stray) int { return older(a.service, b.service) })
	return all
}

// serve gives Services that wait what there is for them now: first those that ask for one address, then the older. It
// returns those for which the answer changed.
func (l *ledger) serve() (changed []*corev1.Service) {
	type turn struct {
		*entry
		rank int
	}
	waiting := make([]turn, 0, len(l.unserved))
	for _, e := range l.unserved {
		waiting = append(waiting, turn{e, rank(e.service)})
	}
	slices.SortFunc(waiting, func(a, b turn) int {
		if a.rank != b.rank {
			return cmp.Compare(a.rank, b.rank)
		}
		return older(a.service, b.service)
	})
	moved := false
	for _, e := range waiting {
		before := e.why
		d := l.decide(e.service)
		if e.asked && (d.why == nil || e.why != before) {
			changed = append(changed, e.service)
		}
		moved = moved || d.left.IsValid()
	}
	if moved { // and left an address that somebody before it may have waited for
		changed = append(changed, l.serve()...)
	}
	return changed
}

// rank puts Services that ask for one address before those that take any.
func rank(svc *corev1.Service) int {
	if r, err := requestOf(svc); err == nil && r.Addr.IsValid() {
		return 0
	}
	return 1
}
