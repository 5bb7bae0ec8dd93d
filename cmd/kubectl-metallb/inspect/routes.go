package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A Filter says which routes are asked for; the zero Filter asks for all.
type Filter struct {
	// Prefix asks for routes within it, or for those that cover it if it is narrower.
	Prefix  netip.Prefix
	Node    string
	Peer    string // its name or address
	Service string // namespace/name
}

// Routes are what routers are to hear.
type Routes struct {
	Routes []Route  `json:"routes"`
	Unread []Unread `json:"unread,omitempty"`
}

// A Route is one prefix as one peer is to hear it from one node.
type Route struct {
	Node   string       `json:"node"`
	Peer   string       `json:"peer"`
	Prefix netip.Prefix `json:"prefix"`
	// NextHop is what it will be unless the kernel chooses another address of the node for the session.
	NextHop netip.Addr `json:"nextHop"`
	// LocalPref is sent on iBGP sessions only.
	LocalPref   *uint32  `json:"localPref,omitempty"`
	ASPath      []uint32 `json:"asPath"`
	Communities []string `json:"communities,omitempty"`
	Weight      uint16   `json:"weight,omitempty"`
}

// Routes returns what the nodes are to tell their peers, in the order of nodes, peers and prefixes.
func (v *View) Routes(f Filter) (Routes, error) {
	all := Routes{Routes: []Route{}, Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, EndpointSlices, Nodes)...)}
	var addrs []netip.Addr
	if f.Service != "" {
		namespace, name, _ := strings.Cut(f.Service, "/")
		svc := v.find(namespace, name)
		if svc == nil {
			return all, unknown("Service of type LoadBalancer named", f.Service, v.ServiceNames())
		}
		addrs = service.Addresses(svc.Service)
	}
	nodes := v.nodes
	if f.Node != "" {
		node, err := v.node(f.Node)
		if err != nil {
			return all, err
		}
		nodes = []*corev1.Node{node}
	}
	if f.Peer != "" && !slices.ContainsFunc(v.config().Peers, func(p loadbalancer.Peer) bool { return names(f.Peer, p) }) {
		return all, unknown("peer named", f.Peer, v.PeerNames())
	}
	for _, node := range nodes {
		o := v.now(node)
		for _, p := range o.peers {
			if f.Peer != "" && !names(f.Peer, p) {
				continue
			}
			for _, r := range o.hears(p) {
				if f.takes(r.Prefix) && (f.Service == "" || slices.ContainsFunc(addrs, r.Prefix.Contains)) {
					all.Routes = append(all.Routes, wire(node.Name, p, r))
				}
			}
		}
	}
	return all, nil
}

// names reports whether the peer is named so, by name or by address.
func names(text string, p loadbalancer.Peer) bool { return text == p.Name || text == p.Addr.String() }

func (f Filter) takes(p netip.Prefix) bool { return !f.Prefix.IsValid() || f.Prefix.Overlaps(p) }

// wire is the route as it is to stand in an UPDATE.
func wire(node string, p loadbalancer.Peer, r loadbalancer.Route) Route {
	w := Route{Node: node, Peer: p.Name, Prefix: r.Prefix, Weight: r.Weight, ASPath: []uint32{}}
	if p.IBGP() {
		w.LocalPref = &r.LocalPref
	} else {
		for range 1 + int(r.Prepend) {
			w.ASPath = append(w.ASPath, p.MyASN)
		}
	}
	for _, c := range r.Communities {
		w.Communities = append(w.Communities, c.String())
	}
	for _, c := range r.LargeCommunities {
		w.Communities = append(w.Communities, c.String())
	}
	if p.SourceAddress.IsValid() && p.SourceAddress.Is4() == r.Prefix.Addr().Is4() {
		w.NextHop = p.SourceAddress
		return w
	}
	for _, addr := range p.NodeIPs {
		if addr.Is4() == r.Prefix.Addr().Is4() {
			w.NextHop = addr
			break
		}
	}
	return w
}

// Attributes writes what a router hears beside prefix and next hop.
func (r Route) Attributes() string {
	var all []string
	if r.LocalPref != nil {
		all = append(all, fmt.Sprintf("pref %d", *r.LocalPref))
	}
	if len(r.ASPath) > 0 {
		path := make([]string, len(r.ASPath))
		for i, asn := range r.ASPath {
			path[i] = fmt.Sprint(asn)
		}
		all = append(all, "path "+strings.Join(path, " "))
	}
	if len(r.Communities) > 0 {
		all = append(all, "["+strings.Join(r.Communities, " ")+"]")
	}
	if r.Weight > 0 {
		all = append(all, fmt.Sprintf("weight %d", r.Weight))
	}
	return strings.Join(all, " ")
}

// Peers are the sessions that nodes are to have.
type Peers struct {
	Sessions []Session `json:"sessions"`
	Unread   []Unread  `json:"unread,omitempty"`
}

// A Session is one that a node is to have with a router.
type Session struct {
	Node    string     `json:"node"`
	Peer    string     `json:"peer"`
	Address netip.Addr `json:"address"`
	ASN     uint32     `json:"asn"`
	MyASN   uint32     `json:"myASN"`
	// Prefixes is how many the router is to hear.
	Prefixes int `json:"prefixes"`
	// Problem is why the session cannot be, if so.
	Problem string `json:"problem,omitempty"`
}

// Peers returns the sessions of all nodes.
func (v *View) Peers() Peers {
	all := Peers{Sessions: []Session{}, Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, EndpointSlices, Nodes, Pods)...)}
	for _, node := range v.nodes {
		all.Sessions = append(all.Sessions, v.sessionsOf(v.now(node))...)
	}
	return all
}

func (v *View) sessionsOf(o *outlook) (all []Session) {
	missing := ""
	if v.speakers[o.node.Name] == nil && len(v.speakers) > 0 && len(v.lacks(Pods)) == 0 {
		missing = fmt.Sprintf("no speaker runs on node %s", o.node.Name)
	}
	add := func(p loadbalancer.Peer, problem string, prefixes int) {
		all = append(all, Session{Node: o.node.Name, Peer: p.Name, Address: p.Addr, ASN: p.ASN, MyASN: p.MyASN, Problem: problem, Prefixes: prefixes})
	}
	for _, p := range o.peers {
		add(p, missing, len(o.hears(p)))
	}
	for _, p := range o.mute {
		i := slices.IndexFunc(o.problems, func(text string) bool { return strings.HasPrefix(text, "peer "+p.Name+": ") })
		problem := "it lacks what it needs"
		if i >= 0 {
			problem = o.problems[i]
		}
		add(p, cmp.Or(missing, problem), 0)
	}
	slices.SortStableFunc(all, func(a, b Session) int { return v.place(a.Peer) - v.place(b.Peer) })
	return all
}

// place is where the peer stands in the text.
func (v *View) place(peer string) int {
	return slices.IndexFunc(v.config().Peers, func(p loadbalancer.Peer) bool { return p.Name == peer })
}
