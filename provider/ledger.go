package provider

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A ledger is what the leader decided about every Service that is ours, and why. It computes only, and is not safe for
// concurrent use.
type ledger struct {
	allocator *loadbalancer.Allocator
	entries   map[types.UID]*entry
	// ignored are the Services that are not ours and whose status shows addresses. Whoever wrote that uses them: they are not
	// handed out, and neither are those of nodes.
	ignored map[types.UID]*corev1.Service
	nodes   []netip.Addr
	// contested are the addresses of Services whose status somebody else writes again and again, so that it is no memory; at first
	// as the last leader noted them.
	contested map[types.UID][]netip.Addr
	// recalled is what the last leader held down.
	recalled []loadbalancer.HeldDown
}

// An entry is the ledger's line for one Service: what its user wants, what was told, and what was observed.
type entry struct {
	service  *corev1.Service      // the newest state that we know
	wanted   loadbalancer.Request // by that state
	told     told
	observed observed
}

// told is what the service controller and users have heard of a Service, and what they are to hear.
type told struct {
	// asked is set once the service controller asked about the Service: before, it will do so by itself.
	asked bool
	// why is the reason that it was given for the Service not having what it asks for.
	why loadbalancer.Reason
	// addrs are the addresses that an event has announced, or that the Service had before we knew it. conflict and renumbered
	// say why it does not have them any more, and are to be told.
	addrs      []netip.Addr
	conflict   loadbalancer.Reason
	renumbered bool
}

// observed is what the API server showed.
type observed struct {
	// shown is set once the status showed the decision: if it differs from then on, somebody else wrote it.
	shown bool
	// before is what the status showed when the service controller was given the decision, which it is about to write.
	before []corev1.LoadBalancerIngress
	// repairs tell how often somebody else wrote the status.
	repairs repairs
	// empty is since when it shows nothing; zero if it does.
	empty time.Time
}

// An action is what is to be done about a Service that was looked at.
type action struct {
	again     bool          // the service controller should look at it again
	after     time.Duration // but not before
	contested bool          // somebody else writes the status again and again
	left      []netip.Addr  // are free: it has no claim to them any more
	waited    time.Duration // for the address that it shows from now on
}

// next says what is to be done about a Service whose newest state is noted, and what is observed of it by then. It holds these
// addresses, and would get that grant if it were asked about now; settled says that nothing would change by it.
func (e entry) next(held []netip.Addr, would loadbalancer.Grant, settled bool, now time.Time) (action, observed) {
	is, status := e.observed, e.service.Status.LoadBalancer.Ingress
	same := service.Shows(e.service, held)
	// Before the decision was shown, the status may still be what it was then. Anything else is somebody's doing.
	if !same && (is.shown || e.told.asked && !service.SameStatus(status, is.before)) {
		is.shown, is.before = false, status
		return is.repairs.next(now), is
	}
	// An answer that changed the status came without the reason, if there is one.
	owed := same && !is.shown && !would.Why.None()
	is.shown = same
	return action{again: e.told.asked && (owed || !settled || !would.Why.Same(e.told.why))}, is
}

func newLedger() *ledger {
	return &ledger{
		allocator: loadbalancer.NewAllocator(),
		entries:   map[types.UID]*entry{},
		ignored:   map[types.UID]*corev1.Service{},
		contested: map[types.UID][]netip.Addr{},
	}
}

func newEntry(svc *corev1.Service) *entry {
	return &entry{service: svc, wanted: service.Request(svc)}
}

// note keeps the Service's newest state, and returns false for an older one: what the API server listed for us, what the
// service controller hands in and what our own handler sees do not come in order. An older state asks for what its user may
// no longer want.
func (e *entry) note(svc *corev1.Service) bool {
	if e.outdates(svc) {
		return false
	}
	e.service, e.wanted = svc, service.Request(svc)
	return true
}

// outdates reports whether a newer state than this is noted.
func (e *entry) outdates(svc *corev1.Service) bool {
	return newer(e.service, svc)
}

// A conflict is an address that two Services show, and that the younger loses.
type conflict struct {
	service *corev1.Service
	why     loadbalancer.Reason
}

// fights brings contested up to date, and returns it.
func (l *ledger) fights(now time.Time) map[types.UID][]netip.Addr {
	for uid := range l.contested {
		l.contested[uid] = l.allocator.Held(string(uid))
		if e := l.entries[uid]; e == nil || len(l.contested[uid]) == 0 || !e.observed.repairs.goesOn(now) {
			delete(l.contested, uid)
		}
	}
	return l.contested
}

// adopt takes over a cluster as it is: every address stays where a status shows it, or the last leader kept it if somebody else
// wrote that status last; of two Services that have one and cannot share it, the older keeps it. Then Services that wait get what
// is there: first those that ask for one address, then the older. What the status of others shows is taken.
func (l *ledger) adopt(services, others []*corev1.Service, now time.Time) (conflicts []conflict) {
	services = slices.Clone(services)
	slices.SortFunc(services, older)
	for _, svc := range services {
		if !wants(svc) {
			continue
		}
		e := newEntry(svc)
		l.entries[svc.UID] = e
		has := service.Addresses(svc)
		if kept := l.contested[svc.UID]; kept != nil && (len(has) == 0 || !slices.Contains(writersOf(svc, ofStatus), fieldManager)) {
			has, e.observed.repairs = kept, repairs{count: 2, last: now}
		}
		if why := l.allocator.Adopt(e.wanted, has); !why.None() {
			conflicts = append(conflicts, conflict{svc, why})
		}
		e.told.addrs = l.held(svc)
		e.observed.shown = len(e.told.addrs) > 0 && service.Shows(svc, e.told.addrs)
	}
	for _, svc := range others {
		if shows(svc) != nil {
			l.ignored[svc.UID] = svc
		}
	}
	l.withhold()
	l.allocator.HoldDown(l.recalled)
	for _, svc := range services {
		if !wants(svc) { // it went while nobody led
			l.allocator.Left(service.Name(svc), service.Addresses(svc))
		}
	}
	for _, e := range l.entries {
		if len(l.held(e.service)) == 0 {
			l.allocator.Wait(e.wanted)
		}
	}
	l.serveWhile(func() bool { return true })
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

// ignore takes note of a Service that is not ours, or not any more.
func (l *ledger) ignore(svc *corev1.Service) (do action) {
	if e := l.entries[svc.UID]; e != nil && e.outdates(svc) {
		return action{} // it came back meanwhile
	}
	if before := l.ignored[svc.UID]; before != nil && slices.Equal(shows(before), shows(svc)) {
		return action{}
	}
	do.left = l.gone(svc.UID)
	if shows(svc) != nil {
		l.ignored[svc.UID] = svc
		l.withhold()
	}
	return do
}

// shows returns the addresses that a Service of somebody else uses.
func shows(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	return service.Addresses(svc)
}

// withhold keeps from being handed out what others use.
func (l *ledger) withhold() {
	all := slices.Clone(l.nodes)
	for _, svc := range l.ignored {
		all = append(all, shows(svc)...)
	}
	l.allocator.Withhold(all)
}

// known returns every Service that the ledger has something about.
func (l *ledger) known() []*corev1.Service {
	return append(slices.Collect(maps.Values(l.ignored)), l.ours()...)
}

// ours returns every Service that is.
func (l *ledger) ours() (all []*corev1.Service) {
	for _, e := range l.entries {
		all = append(all, e.service)
	}
	return all
}

// held returns the addresses that the Service holds.
func (l *ledger) held(svc *corev1.Service) []netip.Addr { return l.allocator.Held(string(svc.UID)) }

// decide gives the Service what it asks for, if that is possible; if not, it waits. While others are being served it waits for
// its turn, and hears of nothing new: it must not overtake them between two slices.
func (l *ledger) decide(e *entry) loadbalancer.Grant {
	before := l.held(e.service)
	if l.allocator.Yields(e.wanted) {
		if _, same := l.allocator.Check(e.wanted); !same {
			l.allocator.Wait(e.wanted)
			return loadbalancer.Grant{Addrs: before, Why: e.told.why}
		}
	}
	g := l.allocator.Allocate(e.wanted)
	e.take(g, !slices.Equal(g.Addrs, before))
	return g
}

// take notes what the Service was granted.
func (e *entry) take(g loadbalancer.Grant, moved bool) {
	if moved {
		e.observed.shown = false
	}
	if e.told.conflict.None() {
		e.told.conflict = g.Conflict
	}
	e.told.renumbered = e.told.renumbered || g.Renumbered
	e.told.why = g.Why
}

// A decision is what the service controller, the cluster's users and the log hear of a Service. Its conflicts and renumberings
// are those since the last.
type decision struct {
	loadbalancer.Grant
	pool string // that owns the addresses; empty if none does
	// misplaced is how they are at odds with reservations, if they are.
	misplaced loadbalancer.Reason
	news      bool         // nobody was told of all of these addresses yet
	was       []netip.Addr // what it was told before
	// again is set if the status is another one by now than the service controller believes.
	again bool
}

// left returns the addresses that the Service was told and does not have any more.
func (d decision) left() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(d.was), func(addr netip.Addr) bool { return slices.Contains(d.Addrs, addr) })
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
	d := decision{Grant: l.decide(e), was: e.told.addrs}
	d.Conflict, d.Renumbered = e.told.conflict, e.told.renumbered
	for _, addr := range d.Addrs {
		d.news = d.news || !slices.Contains(e.told.addrs, addr)
		if pool := l.allocator.Pool(addr); pool != nil {
			d.pool = pool.Name
		}
	}
	d.misplaced = l.allocator.Misplaced(e.wanted.UID)
	e.told.asked, e.told.addrs, e.told.conflict, e.told.renumbered = true, d.Addrs, loadbalancer.Reason{}, false
	believes, is := service.Shows(svc, d.Addrs), service.Shows(e.service, d.Addrs)
	d.again, e.observed.shown = believes != is, is
	if !believes {
		// First the status must show what the Service keeps, or nothing; an error would leave it wrong. The change of the status
		// brings us back here, for the reason.
		e.observed.before, d.Why = svc.Status.LoadBalancer.Ingress, loadbalancer.Reason{}
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
	g, _ := l.allocator.Check(e.wanted)
	return slices.Equal(g.Addrs, held)
}

// see takes note of a Service as it is now. The service controller should look at it again if somebody changed the status, or
// if the answer would be another one than it got.
func (l *ledger) see(svc *corev1.Service, now time.Time) action {
	e := l.entries[svc.UID]
	switch {
	case e == nil && wants(svc):
		l.gone(svc.UID) // it was another's
		// The service controller is about to ask, perhaps about an older state than this.
		e = newEntry(svc)
		l.entries[svc.UID] = e
		e.clock(now)
		return action{}
	case e == nil:
		return l.ignore(svc)
	case !e.note(svc):
		return action{}
	}
	if !wants(svc) {
		return action{left: l.forget(svc.UID)}
	}
	if l.allocator.Waits(string(svc.UID)) {
		l.allocator.Wait(e.wanted) // perhaps for something else
	}
	g, settled := l.allocator.Check(e.wanted)
	do, is := e.next(l.held(svc), g, settled, now)
	e.observed = is
	if do.contested {
		l.contested[svc.UID] = nil
	}
	do.waited = e.clock(now)
	return do
}

// clock measures how long the Service's status has been empty, once it is not any more.
func (e *entry) clock(now time.Time) (waited time.Duration) {
	since := e.observed.empty
	switch empty := len(e.service.Status.LoadBalancer.Ingress) == 0; {
	case empty && since.IsZero():
		e.observed.empty = now
	case !empty && !since.IsZero():
		e.observed.empty, waited = time.Time{}, now.Sub(since)
	}
	return waited
}

// repairs are how often a status was put right that somebody else wrote. Two who each put right what the other wrote would go
// on for ever, and routers hear of every round: whoever fights must tire.
type repairs struct {
	count int
	last  time.Time // when the last one was due
}

const (
	longestPause = time.Minute
	// calm is for how long nobody must have written it until the next time counts as the first.
	calm = 5 * time.Minute
)

// goesOn reports whether there were several, and are.
func (r repairs) goesOn(now time.Time) bool { return r.count > 1 && now.Sub(r.last) <= calm }

// next decides about another one: the first happens at once, and nobody hears of it; then the pause begins with a second and
// doubles.
func (r *repairs) next(now time.Time) action {
	if now.Before(r.last) {
		return action{} // one is due already
	}
	if now.Sub(r.last) > calm {
		r.count = 0
	}
	var pause time.Duration
	if r.count > 0 {
		pause = min(time.Second<<min(r.count-1, 10), longestPause)
	}
	r.count++
	r.last = now.Add(pause)
	return action{again: true, after: pause, contested: r.count > 1}
}

// forget drops a Service of ours that has no claim to an address any more, and returns the addresses it held. What it shows as
// another's stays taken.
func (l *ledger) forget(uid types.UID) (left []netip.Addr) {
	delete(l.entries, uid)
	return l.allocator.Release(string(uid))
}

// gone is forget for a Service that is no more, or becomes ours, or another's, only now.
func (l *ledger) gone(uid types.UID) (left []netip.Addr) {
	if l.ignored[uid] != nil {
		delete(l.ignored, uid)
		l.withhold()
	}
	return l.forget(uid)
}

// A stray is a Service that holds addresses that no pool owns.
type stray struct {
	service *corev1.Service
	addrs   []netip.Addr
}

// strays returns all of them, the older first.
func (l *ledger) strays() (all []stray) {
	for _, e := range l.entries {
		owned := func(addr netip.Addr) bool { return l.allocator.Pool(addr) != nil }
		if addrs := slices.DeleteFunc(slices.Clone(l.held(e.service)), owned); len(addrs) > 0 {
			all = append(all, stray{e.service, addrs})
		}
	}
	slices.SortFunc(all, func(a, b stray) int { return older(a.service, b.service) })
	return all
}

// misplaced returns the Services whose addresses are at odds with reservations, and how.
func (l *ledger) misplaced() map[*corev1.Service]loadbalancer.Reason {
	all := map[*corev1.Service]loadbalancer.Reason{}
	for uid, e := range l.entries {
		if why := l.allocator.Misplaced(string(uid)); !why.None() {
			all[e.service] = why
		}
	}
	return all
}

// serveWhile gives Services that wait what there is for them now, and returns those for which the answer changed. It goes on
// while it may, and reports whether there is more to do.
func (l *ledger) serveWhile(may func() bool) (changed []*corev1.Service, more bool) {
	answers, more := l.allocator.Serve(may)
	for _, a := range answers {
		e := l.entries[types.UID(a.UID)]
		if e.told.asked && (a.Moved || !a.Why.Same(e.told.why) && e.observed.shown) {
			changed = append(changed, e.service)
		}
		e.take(a.Grant, a.Moved)
	}
	return changed, more
}
