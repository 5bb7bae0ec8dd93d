package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A Service is a Kubernetes Service and where its pods are.
type Service struct {
	*corev1.Service
	Slices []*discoveryv1.EndpointSlice
}

// Announced is an address that a Service has.
type Announced struct {
	Service string // namespace/name
	Addr    netip.Addr
}

// A Withheld is an address that this node does not announce, and why.
type Withheld struct {
	Announced
	Why string
}

// A world is what concerns every Service alike.
type world struct {
	config  *loadbalancer.Config
	ours    service.Ours
	node    string
	labels  map[string]string // of the node
	unfit   string            // why nothing may be sent to the node, if so
	drained bool
	// ignoreLabel is as in Unfit.
	ignoreLabel bool
}

// serves reports whether the Service is ours.
func (w *world) serves(r *record) bool { return r.balanced && w.ours.ServesClass(r.class) }

// An offer is what a Service asks for one of its addresses.
type offer struct {
	Announced
	why    string               // why it asks for nothing, if so
	routes []loadbalancer.Route // what it asks for
	asks   loadbalancer.Asks
	// live says that some node announces the address, as far as all nodes see it alike, and nodes which of them may, if not all
	// and if that matters.
	live  bool
	nodes []uint32
	// under are the prefixes that the address may be announced with, by any node, and load is what the Service counts for their
	// weights.
	under []netip.Prefix
	load  load
	// refused are the prefixes where it contradicts an offer before it, as settle says.
	refused []netip.Prefix
}

// equal reports whether both ask for the same.
func (o *offer) equal(p *offer) bool {
	return o.Announced == p.Announced && o.why == p.why && o.load == p.load && o.live == p.live && o.asks == p.asks &&
		(o.nodes == nil) == (p.nodes == nil) && slices.Equal(o.nodes, p.nodes) &&
		slices.EqualFunc(o.routes, p.routes, loadbalancer.Route.Equal) && slices.Equal(o.under, p.under)
}

// withheld returns why the address is not announced, or not all of it, if so.
func (o *offer) withheld() string {
	why := o.why
	for _, r := range o.routes {
		if slices.Contains(o.refused, r.Prefix) {
			why = fmt.Sprintf("another Service's address announces %s as well, with other attributes: give the two pools the same", r.Prefix)
		}
	}
	return why
}

// Announcements decides what the node tells routers once everything has been as it is for a while: what needs time is not here.
// The routes are sorted by prefix, and no two of them send one prefix to one peer; withheld is by Services. The order of the services does not matter, nor
// are those looked at that are not ours.
//
// It is offers for every Service, and settle for every prefix that some offer has a part in. A Speaker calls these two for what
// changed only, and gets the same.
//
// nodes are all of the cluster, and matter only where a configuration Ranks them; without any, all are alike.
func Announcements(config *loadbalancer.Config, ours service.Ours, node *corev1.Node, nodes []*corev1.Node, services []Service) (routes []loadbalancer.Route, withheld []Withheld) {
	drained, _ := Drained(config, node)
	w := world{config, ours, node.Name, node.Labels, Unfit(node, false), drained != "", false}
	var members []*member
	if config.Ranks() {
		for _, n := range nodes {
			m, _ := w.memberOf(endOfTime, n)
			members = append(members, m)
		}
	}
	all := make([]offer, 0, len(services))
	for _, svc := range services {
		if r := recordOf(svc.Service); w.serves(r) {
			var found []*endpoints
			for _, slice := range svc.Slices {
				_, e := endpointsOf(slice, node.Name)
				found = append(found, e)
			}
			all = append(all, w.offers(r, found, nil, [2]bool{})...)
		}
	}
	byPrefix := make(map[netip.Prefix][]*offer, len(all))
	for i := range all {
		for _, prefix := range all[i].under {
			byPrefix[prefix] = append(byPrefix[prefix], &all[i])
		}
	}
	for prefix, offers := range byPrefix {
		slices.SortStableFunc(offers, func(a, b *offer) int { return cmp.Compare(a.Service, b.Service) })
		wanted, refused := w.settle(prefix, offers)
		send, _ := w.send(time.Time{}, paced{}, wanted, offers, w.rank(prefix, wanted, offers, members))
		routes = append(routes, send...)
		for _, o := range refused {
			o.refused = append(o.refused, prefix)
		}
	}
	slices.SortFunc(routes, func(a, b loadbalancer.Route) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), slices.Compare(a.Peers, b.Peers))
	})
	for i := range all {
		if why := all[i].withheld(); why != "" {
			withheld = append(withheld, Withheld{all[i].Announced, why})
		}
	}
	slices.SortStableFunc(withheld, func(a, b Withheld) int { return cmp.Compare(a.Service, b.Service) })
	return routes, withheld
}

// offers returns what a Service that is ours asks for on this node, and why not: one offer for each address that its status
// shows or that it keeps. late says of which IP versions it is a newcomer here.
func (w *world) offers(r *record, found []*endpoints, kept []netip.Addr, late [2]bool) []offer {
	all := make([]offer, 0, len(r.addrs)+len(kept))
	add := func(addr netip.Addr) {
		o := offer{Announced: Announced{r.name, addr}}
		pool, unserved := w.config.Pool(addr), unserved(found, familyOf(addr), r.local, w.node)
		if pool != nil {
			o.asks = pool.Asks(r.labels, r.communities, r.clientIP)
		}
		switch {
		case r.dying:
			o.why = "the Service is being deleted"
		case w.unfit != "":
			o.why = w.unfit
		case unserved != "":
			o.why = unserved
		case late[familyOf(addr)]:
			o.why = whyLate
		case pool == nil:
			o.why = "the address belongs to no pool of the admitted configuration"
		case pool.Unadvertised:
			o.why = fmt.Sprintf("pool %q says advertise: false: others announce its addresses", pool.Name)
		case r.silent != "":
			o.why = fmt.Sprintf("annotation %s of the Service is false", r.silent)
		case !pool.Selects(r.labels):
			o.why = fmt.Sprintf("no advertisement of pool %q is for the Service: their service-selectors do not select its labels", pool.Name)
		default:
			if o.routes = w.config.Routes(addr, w.labels, o.asks); len(o.routes) == 0 {
				o.why = fmt.Sprintf("no advertisement of pool %q selects node %s", pool.Name, w.node)
			}
		}
		if pool != nil {
			o.live = !r.dying && servedAnywhere(found, familyOf(addr)) && !pool.Unadvertised && r.silent == "" && pool.Selects(r.labels)
			if o.live && r.local && w.config.Ranks() {
				o.nodes = serving(found, familyOf(addr))
			}
			for i := range pool.Advertisements {
				if prefix := pool.Advertisements[i].Prefix(addr); !slices.Contains(o.under, prefix) {
					o.under = append(o.under, prefix)
				}
			}
		}
		switch {
		case r.dying:
		case r.local:
			o.load.ready = readyHere(found, familyOf(addr))
		default:
			o.load.even = unserved == ""
		}
		all = append(all, o)
	}
	for _, addr := range r.addrs {
		add(addr)
	}
	for _, addr := range kept {
		add(addr)
	}
	return all
}

// asked returns what the live offers of a prefix ask for, each once.
func asked(offers []*offer) (all []loadbalancer.Asks) {
	for _, o := range offers {
		if o.live && !slices.Contains(all, o.asks) {
			all = append(all, o.asks)
		}
	}
	return all
}

// settle decides what becomes of all the offers that have a part in a prefix, which are in the order of their Services: the
// routes, by the names of their peers, as they are without a weight, and the offers that contradict one before them.
func (w *world) settle(prefix netip.Prefix, offers []*offer) (routes []loadbalancer.Route, refused []*offer) {
	asks := asked(offers)
	var together map[*loadbalancer.Pool][]loadbalancer.Route // of Services that do not ask for the same
	if len(asks) > 1 {
		together = map[*loadbalancer.Pool][]loadbalancer.Route{}
	}
	for _, o := range offers {
		own := o.routes
		if together != nil && len(own) > 0 {
			pool := w.config.Pool(o.Addr)
			if together[pool] == nil {
				together[pool] = w.config.Routes(o.Addr, w.labels, asks...)
			}
			own = together[pool]
		}
		for i := range own {
			r := &own[i]
			switch {
			case r.Prefix != prefix:
			case routes == nil: // as nearly always
				routes = own[i : i+1 : i+1]
			case slices.ContainsFunc(routes, r.Equal): // an aggregate that another address has brought
			case slices.ContainsFunc(routes, func(s loadbalancer.Route) bool { return meet(r.Peers, s.Peers) }):
				refused = append(refused, o)
			default:
				routes = append(routes, *r)
			}
		}
	}
	if len(routes) > 1 {
		slices.SortFunc(routes, func(a, b loadbalancer.Route) int { return slices.Compare(a.Peers, b.Peers) })
	}
	return routes, refused
}

// send returns the wanted routes of a prefix as routers hear them now, and what to remember of their weight.
func (w *world) send(now time.Time, last paced, wanted []loadbalancer.Route, offers []*offer, rankings []ranking) (send []loadbalancer.Route, next paced) {
	send, next = pace(now, last, weigh(wanted, offers))
	if send = w.spare(send, rankings); w.drained {
		send = shutDown(send)
	}
	return send, next
}

// RoutesOf returns what a node with these labels would say of a Service's address, were it alone under its prefixes.
func RoutesOf(config *loadbalancer.Config, svc *corev1.Service, addr netip.Addr, node map[string]string) []loadbalancer.Route {
	pool, r := config.Pool(addr), recordOf(svc)
	if pool == nil || pool.Unadvertised || r.silent != "" {
		return nil
	}
	return config.Routes(addr, node, pool.Asks(r.labels, r.communities, r.clientIP))
}

// endOfTime is when everything has been as it is for long enough.
var endOfTime = time.Unix(1<<40, 0)

// meet reports whether some peer is in both lists, where no names mean all.
func meet(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// Unfit returns why no traffic from outside may be sent to the node, if so. Cordon, NotReady and taints are no reasons:
// they say that the node shall not get new pods, not that its pods do not serve. The label that excludes it may be ignored.
func Unfit(node *corev1.Node, ignoreLabel bool) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue {
			return fmt.Sprintf("node %s is NetworkUnavailable", node.Name)
		}
	}
	// As in the standard service controller, "false" takes the label's meaning away.
	if text, ok := node.Labels[corev1.LabelNodeExcludeBalancers]; ok && !ignoreLabel {
		if excluded, err := strconv.ParseBool(text); excluded || err != nil {
			return fmt.Sprintf("node %s is labelled %s", node.Name, corev1.LabelNodeExcludeBalancers)
		}
	}
	return ""
}

// servedAnywhere reports whether some endpoint of an IP version can serve, on any node.
func servedAnywhere(found []*endpoints, family int) bool {
	return slices.ContainsFunc(found, func(e *endpoints) bool { return int(e.family) == family && (e.ready || e.last) })
}

// unserved returns why nobody would answer what a router sends to this node for an IP version, if so.
//
// A pod that is ready in one slice and not in another is ready. A pod that is not ready is enough to withdraw, even while
// it still serves: kube-proxy keeps forwarding to it until it is gone, which is the time that routers need to stop sending
// here. Only when no pod is ready anywhere does kube-proxy use those that serve while they terminate, and so do we. Keep
// in step with kube-proxy's CategorizeEndpoints.
func unserved(found []*endpoints, family int, local bool, node string) string {
	var readyHere, readyAnywhere, lastHere, lastAnywhere, others bool
	for _, e := range found {
		if int(e.family) != family {
			others = others || e.ready || e.last
			continue
		}
		readyHere, readyAnywhere = readyHere || e.here > 0, readyAnywhere || e.ready
		lastHere, lastAnywhere = lastHere || e.lastIsOur, lastAnywhere || e.last
	}
	switch {
	case !readyAnywhere && !lastAnywhere && others:
		return fmt.Sprintf("no %s endpoint of the Service can serve, on any node, though its others can: do its pods have %[1]s addresses?", familyNames[family])
	case !readyAnywhere && !lastAnywhere:
		return "no endpoint of the Service can serve, on any node"
	case !local, readyHere, !readyAnywhere && lastHere:
		return ""
	default:
		return fmt.Sprintf("externalTrafficPolicy is Local, and no endpoint on node %s is ready", node)
	}
}
