package migrate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// A Comparison is what a cluster would see of the change.
type Comparison struct {
	Services []inspect.Takeover `json:"services"`
	Routers  []Router           `json:"routers"`
}

// A Router is what one router hears from one node: by MetalLB's resources, and by the configuration that they become.
type Router struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	// Equal counts prefixes that are announced alike. More are announced by us alone, Fewer by MetalLB alone, Otherwise with other
	// attributes.
	Equal     int      `json:"equal"`
	More      []string `json:"more,omitempty"`
	Fewer     []string `json:"fewer,omitempty"`
	Otherwise []string `json:"otherwise,omitempty"`
}

// Same reports whether the router hears the same.
func (r Router) Same() bool { return len(r.More)+len(r.Fewer)+len(r.Otherwise) == 0 }

// Same reports whether every Service keeps its address, and every router its routes.
func (c *Comparison) Same() bool {
	return !slices.ContainsFunc(c.Services, func(t inspect.Takeover) bool {
		return t.What == inspect.Moves || t.What == inspect.Waits && len(t.Has) > 0 || t.What == inspect.Keeps && t.Why != ""
	}) && !slices.ContainsFunc(c.Routers, func(r Router) bool { return !r.Same() })
}

// Compare tells what the configuration does to the cluster, and adds the remarks that only a cluster gives.
func (r *Result) Compare(s *inspect.Snapshot) *Comparison {
	ours := service.Ours{}
	if r.Options.Class != "" {
		ours = service.Ours{Classes: []string{r.Options.Class}, ClassOnly: true}
	}
	then := *s
	then.Admitted = &corev1.ConfigMap{Data: ours.Data()}
	then.Admitted.Data[service.KeyConfig] = r.Text
	then.Keys = []string{}
	for _, p := range r.peers {
		then.Keys = append(then.Keys, p.name) // the commands make them
	}
	v := inspect.Look(&then)
	c := &Comparison{Services: v.Takeovers(), Routers: []Router{}}
	heard := map[[2]string]map[netip.Prefix]string{}
	routes, err := v.Routes(inspect.Filter{})
	if err != nil { // only a filter can be wrong
		panic(err)
	}
	for _, route := range routes.Routes {
		key := [2]string{route.Node, route.Peer}
		if heard[key] == nil {
			heard[key] = map[netip.Prefix]string{}
		}
		heard[key][route.Prefix] = route.Attributes()
	}
	for _, node := range sortedNodes(s.Nodes) {
		for _, p := range r.peers {
			if len(p.selector) > 0 && !loadbalancer.Selects(p.selector, node.Labels) {
				continue
			}
			c.Routers = append(c.Routers, compare(node.Name, p.name, r.announced(s, node, p), heard[[2]string{node.Name, p.name}]))
		}
	}
	r.remarkServices(s, ours)
	return c
}

func sortedNodes(nodes []*corev1.Node) []*corev1.Node {
	return slices.SortedFunc(slices.Values(nodes), func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
}

func compare(node, peer string, before, after map[netip.Prefix]string) Router {
	r := Router{Node: node, Peer: peer}
	for prefix, was := range before {
		switch is, there := after[prefix]; {
		case !there:
			r.Fewer = append(r.Fewer, prefix.String())
		case is == was:
			r.Equal++
		default:
			r.Otherwise = append(r.Otherwise, fmt.Sprintf("%s: %s instead of %s", prefix, is, was))
		}
	}
	for prefix := range after {
		if _, there := before[prefix]; !there {
			r.More = append(r.More, prefix.String())
		}
	}
	for _, list := range [][]string{r.More, r.Fewer, r.Otherwise} {
		slices.Sort(list)
	}
	return r
}

// announced is what MetalLB's speaker on the node tells the router: by its own rules, which are not ours. Several advertisements of one
// prefix add their communities, as in its FRR modes.
func (r *Result) announced(s *inspect.Snapshot, node *corev1.Node, p *peer) map[netip.Prefix]string {
	type route struct {
		communities []string
		pref, path  string
	}
	all := map[netip.Prefix]*route{}
	if speaker.Unfit(node, false) != "" {
		return nil
	}
	for _, svc := range s.Services {
		if class := svc.Spec.LoadBalancerClass; class != nil && *class != r.Options.Class || class == nil && r.Options.Class != "" || !healthy(svc, s.Slices, node.Name) {
			continue
		}
		for _, addr := range service.Addresses(svc) {
			if other := strings.Contains(p.address, ":") != addr.Is6(); other && !p.both {
				continue
			}
			pool := r.poolOf(addr)
			if pool == nil {
				continue
			}
			for _, a := range pool.ads {
				if !a.hears(p.name) || !loadbalancer.Selects(a.nodes, node.Labels) || !loadbalancer.Selects(a.services, svc.Labels) {
					continue
				}
				prefix := a.prefix(addr)
				if all[prefix] == nil {
					all[prefix] = &route{}
				}
				one := all[prefix]
				if p.ibgp {
					one.pref = "pref " + r.localpref(a)
				} else {
					one.path = "path " + strings.Repeat(p.asn+" ", a.prepends()) + p.asn
				}
				for _, name := range a.communities {
					one.communities = append(one.communities, r.meaning(name))
				}
			}
		}
	}
	texts := map[netip.Prefix]string{}
	for prefix, one := range all {
		words := []string{one.pref, one.path}
		if len(one.communities) > 0 {
			words = append(words, "["+strings.Join(canonical(one.communities), " ")+"]")
		}
		texts[prefix] = strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
	}
	return texts
}

// healthy is MetalLB's rule for announcing: some endpoint that serves, with the policy Local one on the node.
func healthy(svc *corev1.Service, all []*discoveryv1.EndpointSlice, node string) bool {
	serves := map[string]bool{}
	for _, slice := range all {
		if slice.Namespace != svc.Namespace || slice.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, e := range slice.Endpoints {
			if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && (e.NodeName == nil || *e.NodeName != node) {
				continue
			}
			ok := e.Conditions.Ready == nil || *e.Conditions.Ready
			if e.Conditions.Serving != nil {
				ok = *e.Conditions.Serving
			}
			for _, addr := range e.Addresses {
				if before, seen := serves[addr]; !seen || before {
					serves[addr] = ok
				}
			}
		}
	}
	for _, ok := range serves {
		if ok {
			return true
		}
	}
	return false
}

func (m *metallb) poolOf(addr netip.Addr) *pool {
	for _, p := range m.pools {
		for _, text := range p.addresses {
			text = strings.ReplaceAll(text, " ", "")
			if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Contains(addr) {
				return p
			}
			if span, err := netipx.ParseIPRange(text); err == nil && span.Contains(addr) {
				return p
			}
		}
	}
	return nil
}

func (r *Result) localpref(a *advertisement) string {
	switch {
	case a.localpref != "":
		return a.localpref
	case r.Options.Mode == "native":
		return "0"
	}
	return "100"
}

func (a *advertisement) prefix(addr netip.Addr) netip.Prefix {
	bits, text := addr.BitLen(), a.lengths[0]
	if addr.Is6() {
		text = a.lengths[1]
	}
	if _, err := fmt.Sscan(text, &bits); err != nil && text != "" {
		bits = addr.BitLen()
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

func (a *advertisement) prepends() (n int) {
	if _, err := fmt.Sscan(a.prepend, &n); err != nil {
		return 0
	}
	return n
}

// meaning is what a name of a community stands for.
func (m *metallb) meaning(name string) string {
	if value, ok := m.communities[name]; ok {
		return value
	}
	return name
}

// canonical orders communities as our routes do: standard ones by number, and then large ones.
func canonical(all []string) []string {
	numbers := func(s string) (n [4]uint64) {
		rest, large := strings.CutPrefix(s, "large:")
		if large {
			n[0] = 1
		}
		for i, part := range strings.Split(rest, ":") {
			if _, err := fmt.Sscan(part, &n[1+i%3]); err != nil {
				return n
			}
		}
		return n
	}
	slices.SortFunc(all, func(a, b string) int {
		x, y := numbers(a), numbers(b)
		return slices.Compare(x[:], y[:])
	})
	return slices.Compact(all)
}

// remarkServices adds what Services show.
func (r *Result) remarkServices(s *inspect.Snapshot, ours service.Ours) {
	add := func(level Level, do, format string, args ...any) {
		r.Remarks = append(r.Remarks, Remark{level, "Services", "", fmt.Sprintf(format, args...), do})
	}
	written, sharers := 0, map[netip.Addr]map[string]bool{}
	for _, svc := range s.Services {
		for key := range svc.Annotations {
			if strings.HasSuffix(key, "/ip-allocated-from-pool") {
				written++
			}
		}
		for _, addr := range service.Addresses(svc) {
			if ours.Serves(svc) {
				if sharers[addr] == nil {
					sharers[addr] = map[string]bool{}
				}
				sharers[addr][svc.Namespace] = true
			}
		}
	}
	if written > 0 {
		add(Kept, "", "the annotation ip-allocated-from-pool, which MetalLB wrote on %d of them, stays and means nothing here", written)
	}
	for _, addr := range slices.SortedFunc(maps.Keys(sharers), netip.Addr.Compare) {
		if p := r.poolOf(addr); len(sharers[addr]) > 1 && p != nil {
			add(Differs, "write share-across-namespaces: true into the pool", "of namespaces %s share %s: they go on, but here others of another namespace may join them only if pool %s says so", strings.Join(sortedKeys(sharers[addr]), ", "), addr, p.name)
		}
	}
	sortRemarks(r.Remarks)
}
