package inspect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// A State is how a link of a chain is.
type State string

// The states of a link. What comes after a broken one may be good, and does not help.
const (
	OK      State = "ok"
	Broken  State = "broken"
	Remark  State = "remark" // it holds, and something is to be known
	Unknown State = "unknown"
)

// A Link is one condition of many that must hold until a router hears of an address.
type Link struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Text  string `json:"text"`
	// Told is set if the speaker said so; else it was computed.
	Told bool `json:"told,omitempty"`
}

// Why is the chain from a Service to the routers.
type Why struct {
	Service string `json:"service"`
	// Links are what does not depend on an address: class and request.
	Links     []Link       `json:"links"`
	Addresses []WhyAddress `json:"addresses"`
	// Announced is set if each of the addresses is announced by some node that was asked about; there is one at least.
	Announced bool `json:"announced"`
	// Source is "sent" if the speakers that matter told so, and "intended" if it was computed.
	Source string `json:"source"`
	// Reason is the first link that breaks, if not.
	Reason string   `json:"reason,omitempty"`
	Unread []Unread `json:"unread,omitempty"`
}

// WhyAddress is the chain of one address.
type WhyAddress struct {
	Address netip.Addr `json:"address"`
	Pool    Link       `json:"pool"`
	Nodes   []WhyNode  `json:"nodes"`
}

// WhyNode is the end of the chain, on one node.
type WhyNode struct {
	Node string `json:"node"`
	// Announces is set if nothing breaks the chain.
	Announces bool   `json:"announces"`
	Links     []Link `json:"links"` // advertisement, node, endpoints, session, sent
	// Reason is the first link that breaks, in the words of the speaker's log.
	Reason string `json:"reason,omitempty"`
}

// Why follows the chain of a Service, on one node or on all of them.
func (v *View) Why(namespace, name, node string) (Why, error) {
	svc := v.find(namespace, name)
	if svc == nil {
		return Why{}, unknown("Service of type LoadBalancer named", namespace+"/"+name, v.ServiceNames())
	}
	nodes := v.nodes
	if node != "" {
		one, err := v.node(node)
		if err != nil {
			return Why{}, err
		}
		nodes = []*corev1.Node{one}
	}
	w := Why{Service: service.Name(svc.Service), Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, EndpointSlices, Nodes, Pods)...)}
	w.Links = []Link{v.class(svc.Service), v.request(svc.Service)}
	w.Reason = firstBroken(w.Links)
	beside := v.beside(svc)
	var outlooks []*outlook
	for _, n := range nodes {
		outlooks = append(outlooks, v.outlook(v.config(), n, beside, nil))
	}
	w.Announced, w.Source = w.Reason == "", "intended"
	for _, addr := range service.Addresses(svc.Service) {
		a := WhyAddress{Address: addr, Pool: v.pool(addr)}
		some := false
		for _, o := range outlooks {
			n := v.end(svc, addr, o)
			n.Reason = firstBroken(slices.Concat(w.Links, []Link{a.Pool}, n.Links))
			// Where the speaker was asked, what it has sent counts, whatever is intended.
			if sent := n.Links[len(n.Links)-1]; n.Reason == "" || sent.State == OK || sent.State == Remark {
				n.Announces, n.Reason, some = true, "", true
			}
			if n.Links[len(n.Links)-1].Told {
				w.Source = "sent"
			}
			a.Nodes = append(a.Nodes, n)
		}
		if !some {
			w.Announced = false
			switch {
			case w.Reason != "":
			case a.Pool.State == Broken:
				w.Reason = a.Pool.Text
			case len(a.Nodes) > 0:
				w.Reason = reasonsOf(a.Nodes)
			default:
				w.Reason = "no Nodes are known"
			}
		}
		w.Addresses = append(w.Addresses, a)
	}
	if len(w.Addresses) == 0 {
		w.Announced = false
	}
	return w, nil
}

// reasonsOf is the one reason of all nodes, or the first and how many others there are.
func reasonsOf(nodes []WhyNode) string {
	reason, others := nodes[0].Reason, 0
	for _, n := range nodes[1:] {
		if strings.ReplaceAll(n.Reason, n.Node, "") != strings.ReplaceAll(reason, nodes[0].Node, "") {
			others++
		}
	}
	switch {
	case others > 0:
		return fmt.Sprintf("%s; %s for other reasons", reason, count(others, "other node"))
	case len(nodes) > 1:
		return fmt.Sprintf("%s; likewise on %s", reason, count(len(nodes)-1, "other node"))
	}
	return reason
}

func firstBroken(links []Link) string {
	for _, l := range links {
		if l.State == Broken {
			return l.Text
		}
	}
	return ""
}

// beside returns the Service and all that may have a part in a prefix of its own: only they can contradict it.
func (v *View) beside(svc *speaker.Service) (all []speaker.Service) {
	prefixes := map[netip.Prefix]bool{}
	under := func(s *speaker.Service, yield func(netip.Prefix)) {
		for _, addr := range service.Addresses(s.Service) {
			if pool := v.config().Pool(addr); pool != nil {
				for i := range pool.Advertisements {
					yield(pool.Advertisements[i].Prefix(addr))
				}
			}
		}
	}
	under(svc, func(p netip.Prefix) { prefixes[p] = true })
	for i := range v.services {
		shares := &v.services[i] == svc
		under(&v.services[i], func(p netip.Prefix) { shares = shares || prefixes[p] })
		if shares {
			all = append(all, v.services[i])
		}
	}
	return all
}

func (v *View) class(svc *corev1.Service) Link {
	l := Link{Name: "class", State: OK, Text: "it has no loadBalancerClass, and such Services are served"}
	if svc.Spec.LoadBalancerClass != nil {
		l.Text = fmt.Sprintf("loadBalancerClass %s is served", *svc.Spec.LoadBalancerClass)
	}
	switch {
	case !v.Ours.Serves(svc) && svc.Spec.LoadBalancerClass == nil:
		l.State, l.Text = Broken, "it has no loadBalancerClass, and the controller manager runs with --load-balancer-class-only: set spec.loadBalancerClass to "+loadbalancer.Class
	case !v.Ours.Serves(svc):
		l.State, l.Text = Broken, fmt.Sprintf("loadBalancerClass %s is another implementation's: ours is %s", *svc.Spec.LoadBalancerClass, loadbalancer.Class)
	case svc.DeletionTimestamp != nil:
		l.State, l.Text = Broken, "the Service is being deleted"
	}
	return l
}

// request tells what the Service asks for, and what came of that.
func (v *View) request(svc *corev1.Service) Link {
	l := Link{Name: "request", State: OK}
	if !v.Ours.Serves(svc) {
		return Link{Name: "request", State: Unknown, Text: "nobody here serves it"}
	}
	if v.Config == nil {
		l.State, l.Text = Broken, v.noConfig()
		return l
	}
	r := service.Request(svc)
	shown, asks := service.Addresses(svc), asksFor(r)
	why, grant := v.waitsFor(svc)
	if typos := service.UnknownOnService(svc.Annotations); typos != "" {
		asks += "; " + typos
	}
	switch conflict := v.conflicts[string(svc.UID)]; {
	case svc.DeletionTimestamp != nil:
		l.Text = "it asks for " + asks
	case !conflict.None():
		l.State, l.Text = Broken, conflict.String()
	case len(shown) == 0 && why != "":
		l.State, l.Text = Broken, why
	case len(shown) == 0:
		l.State, l.Text = Broken, fmt.Sprintf("it asks for %s, and %s would be given to it: does the controller manager run?", asks, service.InWords(grant))
	case why != "":
		l.State, l.Text = Remark, fmt.Sprintf("it keeps %s, and asks for more: %s", service.InWords(shown), why)
	case asks != asksFor(r):
		l.State, l.Text = Remark, fmt.Sprintf("it asks for %s", asks)
	default:
		l.Text = fmt.Sprintf("it asks for %s, and shows %s", asks, service.InWords(shown))
	}
	return l
}

func (v *View) noConfig() string {
	switch {
	case len(v.lacks(ConfigMaps)) > 0:
		return "the configuration could not be read"
	case v.Broken != "":
		return "the admitted configuration cannot be read: " + v.Broken
	case v.Refusal != nil && len(v.Refusal.Problems) > 0:
		return "no configuration is in force: " + v.Refusal.Problems[0]
	}
	return "no configuration is in force"
}

// waitsFor returns why the Service does not have all that it asks for, or what it would be given.
func (v *View) waitsFor(svc *corev1.Service) (why string, grant []netip.Addr) {
	g, _ := v.allocator.Check(service.Request(svc))
	return g.Why.String(), g.Addrs
}

func asksFor(r loadbalancer.Request) string {
	what := "any address"
	switch {
	case len(r.Addrs) > 0:
		what = service.InWords(r.Addrs)
	case r.Pool != "":
		what = "an address"
	case len(r.Families) > 1:
		what = "an address of each IP version"
	}
	if r.Pool != "" {
		what += fmt.Sprintf(" of pool %q", r.Pool)
	}
	if r.Key != "" {
		what += fmt.Sprintf(", shared under %q", r.Key)
	}
	return what
}

func (v *View) pool(addr netip.Addr) Link {
	pool := v.config().Pool(addr)
	if pool == nil {
		return Link{Name: "pool", State: Broken, Text: "the address belongs to no pool of the admitted configuration"}
	}
	l := Link{Name: "pool", State: OK, Text: fmt.Sprintf("pool %q owns it", pool.Name)}
	if holders := v.allocator.Holders(addr); len(holders) > 1 {
		var names []string
		for _, h := range holders {
			names = append(names, h.Service)
		}
		l.Text += fmt.Sprintf("; shared by %s", strings.Join(names, " and "))
	}
	return l
}

// anywhere is a configuration by which every node announces the address: what is withheld all the same is so for other reasons.
func anywhere(addr netip.Addr) *loadbalancer.Config {
	text := fmt.Sprintf("address-pools: [{name: any, cidr: [%s]}]", netip.PrefixFrom(addr, addr.BitLen()))
	config, _, err := loadbalancer.ParseAdmitted([]byte(text))
	if err != nil { // no address is refused that a status can show, as the answer would then be wrong without a word
		return &loadbalancer.Config{}
	}
	return config
}

// end follows the chain on one node.
func (v *View) end(svc *speaker.Service, addr netip.Addr, o *outlook) WhyNode {
	name := o.node.Name
	n := WhyNode{Node: name}
	withheld := o.withheld[speaker.Announced{Service: service.Name(svc.Service), Addr: addr}]

	advertisement := Link{Name: "advertisement", State: OK}
	routes := speaker.RoutesOf(v.config(), svc.Service, addr, o.node.Labels)
	var words []string
	for _, r := range routes {
		words = append(words, r.String())
	}
	for _, said := range o.routes { // as a primary or a spare, or as neighbors under the prefix ask for something else
		same := func(r loadbalancer.Route) bool {
			r.Weight = said.Weight
			return r.Equal(said) || o.drained != "" && r.Primaries == 0
		}
		beside := func(r loadbalancer.Route) bool { return r.Prefix == said.Prefix }
		if slices.ContainsFunc(routes, beside) && !slices.ContainsFunc(routes, same) {
			words = append(words, fmt.Sprintf("node %s: %s", name, said))
		}
	}
	advertisement.Text = strings.Join(words, "; ")
	switch pool := v.config().Pool(addr); {
	case pool == nil:
		advertisement.State, advertisement.Text = Unknown, "no pool, no advertisement"
	case len(routes) == 0:
		advertisement.State, advertisement.Text = Broken, fmt.Sprintf("no advertisement of pool %q selects node %s", pool.Name, name)
	}

	fit := Link{Name: "node", State: OK, Text: fmt.Sprintf("node %s may be sent traffic", name)}
	unfit := speaker.Unfit(v.forgiven(o.node), false)
	switch {
	case unfit != "":
		fit.State, fit.Text = Broken, unfit
	case o.drained != "" && o.routes == nil && withheld == o.drained:
		fit.State, fit.Text = Broken, o.drained
	case o.drained != "":
		fit.State, fit.Text = Remark, fmt.Sprintf("node %s is being drained: %s; routers with another path leave it", name, o.drained)
	}

	endpoints := Link{Name: "endpoints", State: OK, Text: endpointsInWords(svc, name)}
	unserved := v.unserved(svc, addr, name)
	switch {
	case len(v.lacks(EndpointSlices)) > 0:
		endpoints.State, endpoints.Text = Unknown, "EndpointSlices could not be read"
	case unserved != "":
		endpoints.State, endpoints.Text = Broken, unserved
	}
	if withheld != "" && advertisement.State != Unknown && fit.State != Broken && unserved == "" && svc.DeletionTimestamp == nil && v.Ours.Serves(svc.Service) {
		advertisement.State, advertisement.Text = Broken, withheld // in the speaker's words
	}
	n.Links = []Link{advertisement, fit, endpoints, v.session(routes, o), v.sent(svc, addr, routes, o)}
	return n
}

const notAsked = "the speaker was not asked"

// unserved returns why nobody on the node would answer, if so: what is left when all else is well.
func (v *View) unserved(svc *speaker.Service, addr netip.Addr, node string) string {
	alive := *svc.Service
	alive.DeletionTimestamp, alive.Annotations = nil, nil
	alive.Spec.LoadBalancerClass = nil
	alive.Status.LoadBalancer.Ingress = service.Status([]netip.Addr{addr}).Ingress
	fit := &corev1.Node{}
	fit.Name = node
	_, withheld := speaker.Announcements(anywhere(addr), service.Ours{}, fit, nil, []speaker.Service{{Service: &alive, Slices: svc.Slices}})
	for _, w := range withheld {
		return w.Why
	}
	return ""
}

// session tells to which routers the node speaks who are to hear the routes.
func (v *View) session(routes []loadbalancer.Route, o *outlook) Link {
	l := Link{Name: "session", State: Unknown}
	var names []string
	for _, p := range o.peers {
		if slices.ContainsFunc(routes, func(r loadbalancer.Route) bool { return r.For(p.Name) }) {
			names = append(names, fmt.Sprintf("%s (%s)", p.Name, p.Addr))
		}
	}
	pod := v.speakers[o.node.Name]
	switch {
	case len(v.lacks(Pods)) == 0 && len(v.speakers) > 0 && pod == nil:
		l.State, l.Text = Broken, fmt.Sprintf("no speaker runs on node %s", o.node.Name)
	case len(routes) == 0:
		l.Text = "nothing to announce"
	case len(names) > 0 && v.told[o.node.Name] != nil:
		return v.sessionTold(routes, o)
	case len(names) > 0:
		l.Text = fmt.Sprintf("to %s; %s whether it is up", strings.Join(names, " and "), notAsked)
	case len(o.mute) > 0:
		l.State, l.Text = Broken, strings.Join(o.problems, "; ")
	case len(o.peers) > 0:
		l.State, l.Text = Broken, fmt.Sprintf("node %s has no session with a peer that the advertisement names", o.node.Name)
	default:
		l.State, l.Text = Broken, fmt.Sprintf("no peer selects node %s", o.node.Name)
	}
	return l
}

// endpointsInWords counts the endpoints of a Service, on the node and in all.
func endpointsInWords(svc *speaker.Service, node string) string {
	ready, here, leaving := map[string]bool{}, map[string]bool{}, 0
	for _, slice := range svc.Slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			switch {
			case is(e.Conditions.Ready, true):
				id := idOf(e)
				ready[id] = true
				if e.NodeName != nil && *e.NodeName == node {
					here[id] = true
				}
			case is(e.Conditions.Serving, true) && is(e.Conditions.Terminating, false):
				leaving++
			}
		}
	}
	text := fmt.Sprintf("%d ready, %d of them on node %s; externalTrafficPolicy is %s", len(ready), len(here), node, policyOf(svc.Service))
	if leaving > 0 {
		text += fmt.Sprintf("; %d serve while they terminate", leaving)
	}
	return text
}

func idOf(e *discoveryv1.Endpoint) string {
	if e.TargetRef != nil && e.TargetRef.UID != "" {
		return string(e.TargetRef.UID)
	}
	return strings.Join(e.Addresses, ",")
}

func is(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}

func policyOf(svc *corev1.Service) string {
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return "Local"
	}
	return "Cluster"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
