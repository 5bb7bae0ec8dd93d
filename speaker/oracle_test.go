package speaker

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// An oracle decides as speakers did before they looked only at what changed: it goes through everything, every time, and
// knows nothing of records, offers and indexes. What it says must be what decisions say.
type oracle struct {
	weights map[netip.Prefix]paced
	drain   drain
	places  map[place]oracleStanding // with the policy Local; nil at the start
	shown   map[holder][]shown
}

// An oracleService is a Service with the addresses that it keeps.
type oracleService struct {
	Service
	kept []netip.Addr
}

func (s oracleService) addresses() (all []netip.Addr) {
	for _, addr := range append(service.Addresses(s.Service.Service), s.kept...) {
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

type holder struct {
	uid     types.UID
	service string
}

type place struct {
	namespace, name string
	family          discoveryv1.AddressType
}

func placeOf(svc *corev1.Service, family discoveryv1.AddressType) place {
	return place{svc.Namespace, svc.Name, family}
}

type oracleStanding struct {
	slices []*discoveryv1.EndpointSlice
	ready  bool
	until  time.Time
	before oracleService
}

func typeOf(addr netip.Addr) discoveryv1.AddressType {
	if addr.Is6() {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

func dying(svc *corev1.Service) string {
	if svc.DeletionTimestamp != nil {
		return "the Service is being deleted"
	}
	return ""
}

func (m oracle) announcements(now time.Time, config *loadbalancer.Config, ours service.Ours, node *corev1.Node, nodes []*corev1.Node, all []oracleService, drained string, since time.Time) (
	routes []loadbalancer.Route, withheld []Withheld, services []oracleService, next oracle, wake time.Time) {
	next.drain = m.drain.next(now, drained, since)
	why, at := Unfit(node, false), time.Time{}
	if next.drain.why != "" && config.Drain.WithdrawAfter > 0 {
		at = next.drain.since.Add(config.Drain.WithdrawAfter)
	}
	if !at.IsZero() && !now.Before(at) {
		why, at = cmp.Or(why, fmt.Sprintf("node %s is drained: %s", node.Name, drained)), time.Time{}
	}
	all, shown, leave := oracleKeep(now, m.shown, config, ours, all)
	services = served(ours, all)
	young, places, late := oracleNewcomers(now, m.places, services, node.Name)
	next.shown, next.places = shown, places
	routes, withheld = oracleAnnouncements(config, node, services, why, young)
	routes, next.weights, wake = oraclePace(now, m.weights, routes)
	routes, ready := oracleSpare(now, config, node, nodes, services, routes)
	wake = earlier(wake, ready)
	if drained != "" {
		routes = shutDown(routes)
	}
	for _, t := range []time.Time{at, late, leave} {
		wake = earlier(wake, t)
	}
	return routes, withheld, services, next, wake
}

func served(ours service.Ours, services []oracleService) (all []oracleService) {
	all = make([]oracleService, 0, len(services))
	for _, svc := range services {
		if ours.Serves(svc.Service.Service) {
			all = append(all, svc)
		}
	}
	slices.SortFunc(all, func(a, b oracleService) int {
		return cmp.Compare(service.Name(a.Service.Service), service.Name(b.Service.Service))
	})
	return all
}

func oracleAnnouncements(config *loadbalancer.Config, node *corev1.Node, services []oracleService, unfit string, young map[place]bool) (routes []loadbalancer.Route, withheld []Withheld) {
	byPrefix := make(map[netip.Prefix][]loadbalancer.Route, len(services))
	asks := oracleAsks(config, services)
	for _, svc := range services {
		for _, addr := range svc.addresses() {
			why := cmp.Or(dying(svc.Service.Service), unfit)
			if why == "" {
				why = svc.unserved(addr, node.Name)
			}
			if why == "" && young[placeOf(svc.Service.Service, typeOf(addr))] {
				why = whyLate
			}
			if why == "" {
				why = oracleAdd(byPrefix, config, addr, node, asks, svc.Service.Service)
			}
			if why != "" {
				withheld = append(withheld, Withheld{Announced{service.Name(svc.Service.Service), addr}, why})
			}
		}
	}
	routes = make([]loadbalancer.Route, 0, len(byPrefix))
	for _, some := range byPrefix {
		routes = append(routes, some...)
	}
	slices.SortFunc(routes, func(a, b loadbalancer.Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), slices.Compare(a.Peers, b.Peers))
	})
	oracleWeigh(routes, config, services, node.Name)
	return routes, withheld
}

// oracleAdd puts the routes of an address into the set, or returns why there is none.
func oracleAdd(byPrefix map[netip.Prefix][]loadbalancer.Route, config *loadbalancer.Config, addr netip.Addr, node *corev1.Node, asks map[netip.Prefix][]loadbalancer.Asks, svc *corev1.Service) (why string) {
	pool := config.Pool(addr)
	if pool == nil {
		return "the address belongs to no pool of the admitted configuration"
	}
	if pool.Unadvertised {
		return fmt.Sprintf("pool %q says advertise: false: others announce its addresses", pool.Name)
	}
	if yes, where, _ := service.Advertised(svc); !yes {
		return fmt.Sprintf("annotation %s of the Service is false", where)
	}
	if !pool.Selects(svc.Labels) {
		return fmt.Sprintf("no advertisement of pool %q is for the Service: their service-selectors do not select its labels", pool.Name)
	}
	// Together with others it may be announced more often than alone, but not on a node that would not announce it alone.
	routes := oracleRoutes(config, addr, node.Labels, asks)
	if len(config.Routes(addr, node.Labels, oracleAsk(pool, svc))) == 0 {
		return fmt.Sprintf("no advertisement of pool %q selects node %s", pool.Name, node.Name)
	}
	for i, r := range routes {
		there := byPrefix[r.Prefix]
		if there == nil { // as nearly always
			byPrefix[r.Prefix] = routes[i : i+1 : i+1]
			continue
		}
		if slices.ContainsFunc(there, r.Equal) {
			continue // an aggregate that another address has brought
		}
		if i := slices.IndexFunc(there, func(s loadbalancer.Route) bool { return meet(r.Peers, s.Peers) }); i >= 0 {
			why = fmt.Sprintf("another Service's address announces %s as well, with other attributes: give the two pools the same", r.Prefix)
			continue
		}
		byPrefix[r.Prefix] = append(there, r)
	}
	return why
}

func oracleAsk(pool *loadbalancer.Pool, svc *corev1.Service) loadbalancer.Asks {
	communities, _, _ := service.Communities(svc)
	return pool.Asks(svc.Labels, communities, svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP)
}

func oracleSilent(pool *loadbalancer.Pool, svc *corev1.Service) bool {
	yes, _, _ := service.Advertised(svc)
	return !yes || pool.Unadvertised || !pool.Selects(svc.Labels)
}

// oracleAsks are what all Services under a prefix ask for that some node announces.
func oracleAsks(config *loadbalancer.Config, services []oracleService) map[netip.Prefix][]loadbalancer.Asks {
	asks := map[netip.Prefix][]loadbalancer.Asks{}
	for _, svc := range services {
		for _, addr := range svc.addresses() {
			pool := config.Pool(addr)
			if pool == nil || oracleSilent(pool, svc.Service.Service) || dying(svc.Service.Service) != "" || strings.HasPrefix(svc.unserved(addr, ""), "no ") {
				continue
			}
			for i := range pool.Advertisements {
				prefix, ask := pool.Advertisements[i].Prefix(addr), oracleAsk(pool, svc.Service.Service)
				if !slices.Contains(asks[prefix], ask) {
					asks[prefix] = append(asks[prefix], ask)
				}
			}
		}
	}
	return asks
}

// oracleRoutes are what a node says of an address, where each prefix is as all under it ask for.
func oracleRoutes(config *loadbalancer.Config, addr netip.Addr, labels map[string]string, asks map[netip.Prefix][]loadbalancer.Asks) (all []loadbalancer.Route) {
	done := map[netip.Prefix]bool{}
	for i := range config.Pool(addr).Advertisements {
		prefix := config.Pool(addr).Advertisements[i].Prefix(addr)
		for _, r := range config.Routes(addr, labels, asks[prefix]...) {
			if r.Prefix == prefix && !done[prefix] {
				all = append(all, r)
			}
		}
		done[prefix] = true
	}
	return all
}

// oracleSpare makes spares of the routes of which the node is no primary: it sorts all nodes for each of them.
func oracleSpare(now time.Time, config *loadbalancer.Config, node *corev1.Node, nodes []*corev1.Node, services []oracleService, wanted []loadbalancer.Route) (send []loadbalancer.Route, wake time.Time) {
	send = slices.Clone(wanted)
	asks := oracleAsks(config, services)
	if !config.Ranks() || len(nodes) == 0 {
		return send, time.Time{}
	}
	may := map[string]bool{}
	for _, n := range nodes {
		drained, _ := Drained(config, n)
		may[n.Name] = drained == "" && Unfit(n, false) == ""
		for _, c := range n.Status.Conditions {
			if until := c.LastTransitionTime.Add(40 * time.Second); c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				if may[n.Name] = may[n.Name] && now.Before(until); now.Before(until) {
					wake = earlier(wake, until)
				}
			}
		}
	}
	for i, r := range wanted {
		if send[i].Primaries = 0; r.Primaries == 0 {
			continue
		}
		r.Weight = min(r.Weight, 1) // as it is before anybody is counted
		var all []string
		for _, n := range nodes {
			if !may[n.Name] || !slices.ContainsFunc(config.Peers, func(p loadbalancer.Peer) bool {
				return r.For(p.Name) && loadbalancer.Selects(p.NodeSelectors, n.Labels)
			}) {
				continue
			}
			if slices.ContainsFunc(services, func(svc oracleService) bool {
				return dying(svc.Service.Service) == "" && slices.ContainsFunc(svc.addresses(), func(addr netip.Addr) bool {
					return config.Pool(addr) != nil && !oracleSilent(config.Pool(addr), svc.Service.Service) && svc.unserved(addr, n.Name) == "" && slices.ContainsFunc(oracleRoutes(config, addr, n.Labels, asks), func(s loadbalancer.Route) bool {
						return s.Prefix == r.Prefix && s.LocalPref == r.LocalPref && slices.Equal(s.Peers, r.Peers)
					})
				})
			}) {
				all = append(all, n.Name)
			}
		}
		slices.SortFunc(all, func(a, b string) int {
			p := hashOfPrefix(r.Prefix)
			return cmp.Compare(mix(hashOf([]byte(b))^p), mix(hashOf([]byte(a))^p))
		})
		switch at := slices.Index(all, node.Name); {
		case at >= 0 && at < int(r.Primaries):
		case at == int(r.Primaries):
			send[i].LocalPref, send[i].Prepend = 3*r.LocalPref/4, r.Prepend+1
		default:
			send[i].LocalPref, send[i].Prepend = r.LocalPref/2, r.Prepend+3
		}
	}
	return send, wake
}

func (s oracleService) unserved(addr netip.Addr, node string) string {
	family := typeOf(addr)
	var readyHere, readyAnywhere, lastHere, lastAnywhere, others bool
	for _, slice := range s.Slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			here := e.NodeName != nil && *e.NodeName == node
			last := ptr.Deref(e.Conditions.Serving, true) && ptr.Deref(e.Conditions.Terminating, false)
			switch ready := ptr.Deref(e.Conditions.Ready, true); {
			case slice.AddressType != family:
				others = others || ready || last
			case ready:
				readyAnywhere = true
				readyHere = readyHere || here
			case last:
				lastAnywhere = true
				lastHere = lastHere || here
			}
		}
	}
	switch local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal; {
	case !readyAnywhere && !lastAnywhere && others:
		return fmt.Sprintf("no %s endpoint of the Service can serve, on any node, though its others can: do its pods have %[1]s addresses?", family)
	case !readyAnywhere && !lastAnywhere:
		return "no endpoint of the Service can serve, on any node"
	case !local, readyHere, !readyAnywhere && lastHere:
		return ""
	default:
		return fmt.Sprintf("externalTrafficPolicy is Local, and no endpoint on node %s is ready", node)
	}
}

func oracleKeep(now time.Time, last map[holder][]shown, config *loadbalancer.Config, ours service.Ours, services []oracleService) (
	kept []oracleService, next map[holder][]shown, wake time.Time) {
	kept, next = services, make(map[holder][]shown, len(services))
	var others map[netip.Addr]bool // what statuses show
	for i, svc := range services {
		if !ours.Serves(svc.Service.Service) || dying(svc.Service.Service) != "" {
			continue
		}
		var all []shown
		for _, addr := range service.Addresses(svc.Service.Service) {
			if config.Pool(addr) != nil {
				all = append(all, shown{addr: addr})
			}
		}
		id := holder{svc.UID, service.Name(svc.Service.Service)}
		for _, s := range last[id] {
			if slices.ContainsFunc(all, func(t shown) bool { return t.addr.Is4() == s.addr.Is4() }) || !names(svc.Service.Service, s.addr) || config.Pool(s.addr) == nil {
				continue
			}
			if s.left.IsZero() {
				s.left = now
			}
			if others == nil {
				others = make(map[netip.Addr]bool, len(services))
				for _, other := range services {
					for _, addr := range service.Addresses(other.Service.Service) {
						others[addr] = true
					}
				}
			}
			if until := s.left.Add(keptFor); now.Before(until) && !others[s.addr] {
				if len(kept) > 0 && &kept[0] == &services[0] {
					kept = slices.Clone(services)
				}
				kept[i].kept = append(kept[i].kept, s.addr)
				all = append(all, s)
				wake = earlier(wake, until)
			}
		}
		if all != nil {
			next[id] = all
		}
	}
	return kept, next, wake
}

func names(svc *corev1.Service, addr netip.Addr) bool {
	family := corev1.IPv6Protocol
	if addr.Is4() {
		family = corev1.IPv4Protocol
	}
	return len(svc.Spec.IPFamilies) == 0 || slices.Contains(svc.Spec.IPFamilies, family)
}

func oracleNewcomers(now time.Time, last map[place]oracleStanding, services []oracleService, node string) (young map[place]bool, next map[place]oracleStanding, wake time.Time) {
	next = make(map[place]oracleStanding, len(last))
	for _, svc := range services {
		if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		for _, addr := range svc.addresses() {
			at := placeOf(svc.Service.Service, typeOf(addr))
			if _, done := next[at]; done {
				continue
			}
			was, known := last[at]
			is := oracleStanding{slices: svc.Slices, ready: svc.ready(at.family, func(on string) bool { return on == node })}
			if is.ready && was.ready {
				is.until, is.before = was.until, was.before
			} else if is.ready && known {
				is.until, is.before = now.Add(headStart), oracleService{Service: Service{Slices: was.slices}}
			}
			// Is an endpoint ready on a node where one was ready before?
			if now.Before(is.until) && svc.ready(at.family, func(on string) bool {
				return is.before.ready(at.family, func(before string) bool { return before == on })
			}) {
				if young == nil {
					young = map[place]bool{}
				}
				young[at] = true
				wake = earlier(wake, is.until)
			} else {
				is.until, is.before = time.Time{}, oracleService{}
			}
			next[at] = is
		}
	}
	return young, next, wake
}

func (s oracleService) ready(family discoveryv1.AddressType, on func(node string) bool) bool {
	for _, slice := range s.Slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			node := ""
			if e.NodeName != nil {
				node = *e.NodeName
			}
			if slice.AddressType == family && ptr.Deref(e.Conditions.Ready, true) && on(node) {
				return true
			}
		}
	}
	return false
}

func oraclePace(now time.Time, last map[netip.Prefix]paced, wanted []loadbalancer.Route) (send []loadbalancer.Route, next map[netip.Prefix]paced, wake time.Time) {
	send = wanted
	for i, r := range wanted {
		if r.Weight == 0 {
			continue
		}
		if next == nil {
			send, next = slices.Clone(wanted), make(map[netip.Prefix]paced, len(last))
		}
		p, ok := next[r.Prefix]
		if !ok {
			p = last[r.Prefix].want(now, min(r.Weight, heaviest))
			next[r.Prefix] = p
			wake = earlier(wake, p.due())
		}
		send[i].Weight = p.sent
	}
	return send, next, wake
}

// An oracleLoad is what stands behind a prefix.
type oracleLoad struct {
	ready int  // endpoints on this node
	even  bool // all nodes are to get the same share
	// counted is the Service that was looked at last: several of its addresses may be under one aggregate.
	counted *corev1.Service
}

func oracleWeigh(routes []loadbalancer.Route, config *loadbalancer.Config, services []oracleService, node string) {
	loads := make(map[netip.Prefix]*oracleLoad)
	for _, r := range routes {
		if r.Weight > 0 {
			loads[r.Prefix] = &oracleLoad{}
		}
	}
	if len(loads) == 0 {
		return
	}
	seen := make(map[string]bool)
	for _, svc := range services {
		if dying(svc.Service.Service) != "" {
			continue
		}
		for _, addr := range svc.addresses() {
			pool := config.Pool(addr)
			if pool == nil {
				continue
			}
			for i := range pool.Advertisements {
				l := loads[pool.Advertisements[i].Prefix(addr)]
				if l == nil || l.counted == svc.Service.Service {
					continue
				}
				l.counted = svc.Service.Service
				if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
					l.ready += svc.readyOn(node, typeOf(addr), seen)
				} else {
					l.even = l.even || svc.unserved(addr, node) == ""
				}
			}
		}
	}
	for i := range routes {
		l := loads[routes[i].Prefix]
		switch {
		case routes[i].Weight == 0:
		case l.even:
			routes[i].Weight = 0
		default:
			routes[i].Weight = uint16(min(max(l.ready, 1), math.MaxUint16))
		}
	}
}

func (s oracleService) readyOn(node string, family discoveryv1.AddressType, seen map[string]bool) (n int) {
	clear(seen)
	for _, slice := range s.Slices {
		if slice.AddressType != family {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.NodeName == nil || *e.NodeName != node || !ptr.Deref(e.Conditions.Ready, true) {
				continue
			}
			id := oracleIdentity(e)
			if id == "" || !seen[id] {
				n++
			}
			seen[id] = true
		}
	}
	return n
}

func oracleIdentity(e *discoveryv1.Endpoint) string {
	switch {
	case e.TargetRef != nil && e.TargetRef.UID != "":
		return string(e.TargetRef.UID)
	case len(e.Addresses) > 0:
		return e.Addresses[0]
	}
	return ""
}

// A memory is what decisions remember, and sees to it that they hear of what has changed since the last look, as a Speaker does.
type memory struct {
	*decisions
	drain drain
}

func (m memory) announcements(now time.Time, config *loadbalancer.Config, ours service.Ours, node *corev1.Node, all []Service, drained string, since time.Time) (
	routes []loadbalancer.Route, withheld []Withheld, next memory, wake time.Time) {
	if next = m; next.decisions == nil {
		next.decisions = newDecisions()
	}
	d := next.decisions
	services, found := map[string]bool{}, map[string]bool{}
	for _, svc := range all {
		r := recordOf(svc.Service)
		services[r.name] = true
		d.setService(r.name, r)
		for _, slice := range svc.Slices {
			key, e := endpointsOf(slice, node.Name)
			found[key] = true
			d.setSlice(key, e)
		}
	}
	for name := range d.services {
		if !services[name] {
			d.setService(name, nil)
		}
	}
	for key := range d.slices {
		if !found[key] {
			d.setSlice(key, nil)
		}
	}
	var why string
	var end time.Time
	next.drain, why, end = m.drain.look(now, config.Drain, node.Name, drained, since)
	d.wakeups.set(subject{}, end)
	d.look(now, world{config, ours, node.Name, node.Labels, cmp.Or(Unfit(node, false), why), drained != "", false})
	routes, withheld = d.all()
	return routes, withheld, next, d.wakeups.first()
}

// all is what is announced and withheld now, as Announcements returns it.
func (d *decisions) all() (routes []loadbalancer.Route, withheld []Withheld) {
	for _, at := range d.prefixes {
		routes = append(routes, at.sent...)
	}
	slices.SortFunc(routes, func(a, b loadbalancer.Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), slices.Compare(a.Peers, b.Peers))
	})
	var entries []*entry
	for _, e := range d.services {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.name, b.name) })
	for _, e := range entries {
		for i := range e.offers {
			if why := e.offers[i].withheld(); why != "" {
				withheld = append(withheld, Withheld{e.offers[i].Announced, why})
			}
		}
	}
	return routes, withheld
}
