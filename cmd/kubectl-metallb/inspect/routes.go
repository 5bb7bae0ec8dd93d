package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
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
	// LinkBandwidth is what was sent as a weight.
	LinkBandwidth float32 `json:"linkBandwidth,omitempty"`
	// Sent is set if a speaker told that it has sent this; else it is intended.
	Sent bool `json:"sent"`
	// Differs says what is not as intended, where speakers were asked.
	Differs string `json:"differs,omitempty"`

	fixedHop bool // the operator named the source address
}

// Differ reports whether something was sent otherwise than intended.
func (r Routes) Differ() bool {
	return slices.ContainsFunc(r.Routes, func(r Route) bool { return r.Differs != "" })
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
	for node, o := range ahead(nodes, v.now) {
		for _, p := range o.peers {
			if f.Peer != "" && !names(f.Peer, p) {
				continue
			}
			takes := func(prefix netip.Prefix) bool {
				return f.takes(prefix) && (f.Service == "" || slices.ContainsFunc(addrs, prefix.Contains))
			}
			var intended []Route
			for _, r := range o.hears(p) {
				if takes(r.Prefix) {
					intended = append(intended, wire(node.Name, p, r))
				}
			}
			all.Routes = append(all.Routes, v.compare(node.Name, p, intended, takes)...)
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
		w.NextHop, w.fixedHop = p.SourceAddress, true
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
	if r.LinkBandwidth > 0 {
		all = append(all, fmt.Sprintf("link bandwidth %g", r.LinkBandwidth))
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
	ASN     uint32     `json:"asn"` // 0: it is learned, and the speaker was not asked
	// AS is the same as the configuration says it.
	AS string `json:"as"`
	MyASN   uint32     `json:"myASN"`
	// Prefixes is how many the router is to hear.
	Prefixes int `json:"prefixes"`
	// Problem is why the session cannot be, or is not up, if so.
	Problem string `json:"problem,omitempty"`
	// Told is what the speaker says of the session, if it was asked: without its routes.
	Told *SessionTold `json:"sent,omitempty"`
}

// SessionTold is how a session is.
type SessionTold struct {
	State    string        `json:"state"`
	Since    time.Time     `json:"since,omitzero"`
	Attempts int           `json:"attempts"`
	Reason   string        `json:"reason,omitempty"`
	Terms    *report.Terms `json:"terms,omitempty"`
	Prefixes int           `json:"prefixes"`
}

// Peers returns the sessions of all nodes.
func (v *View) Peers() Peers {
	all := Peers{Sessions: []Session{}, Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, EndpointSlices, Nodes, Pods)...)}
	for _, o := range ahead(v.nodes, v.now) {
		all.Sessions = append(all.Sessions, v.sessionsOf(o)...)
	}
	return all
}

func (v *View) sessionsOf(o *outlook) (all []Session) {
	missing := ""
	if v.speakers[o.node.Name] == nil && len(v.speakers) > 0 && len(v.lacks(Pods)) == 0 {
		missing = fmt.Sprintf("no speaker runs on node %s", o.node.Name)
	}
	add := func(p loadbalancer.Peer, problem string, prefixes int) {
		s := Session{Node: o.node.Name, Peer: p.Name, Address: p.Addr, ASN: p.ASN, AS: p.AS(), MyASN: p.MyASN, Problem: problem, Prefixes: prefixes}
		if told := v.toldOf(o.node.Name, p.Name); told != nil {
			s.ASN = cmp.Or(told.ASN, s.ASN)
			s.Told = &SessionTold{told.State, told.Since, told.Attempts, told.Reason, told.Terms, len(told.Routes)}
			if told.State != established {
				s.Problem = cmp.Or(s.Problem, downText(told))
			}
		} else if v.told[o.node.Name] != nil {
			s.Problem = cmp.Or(s.Problem, "the speaker knows no such peer")
		}
		all = append(all, s)
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
