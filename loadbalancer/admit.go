package loadbalancer

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// A Node is what the verdict on a text needs to know of a Kubernetes Node.
type Node struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	InternalIPs []netip.Addr
}

// Facts are what a new text is judged by, beside the text in force.
type Facts struct {
	Nodes []Node
	// NodesKnown is false while Nodes cannot be read: then a text that changes peers or advertisements waits.
	NodesKnown bool
	// NamespacesUnread is set if the labels of Namespaces may not be read.
	NamespacesUnread bool
	// Held are the addresses in use.
	Held []Holding
	// Labels returns those of a Service; nil: they are not known, and every advertisement may select it.
	Labels func(service string) map[string]string
	// Keys are those of the passwords' Secret that have a value.
	Keys map[string]bool
	// KeysKnown is false while the Secret cannot be read: then a text waits that brings a new peer with a password-key.
	KeysKnown bool
}

// A Holding is an address that a Service holds.
type Holding struct {
	Service string // namespace/name
	Addr    netip.Addr
}

// A Verdict is what a text would take away, were it to take the place of the one in force. The labels of Nodes decide and
// never the state of sessions, so that the same text and cluster get the same verdict at any time.
type Verdict struct {
	// Lost are addresses in use that a pool owns now and none would.
	Lost []Holding
	// Unpeered are names of Nodes, sorted, that have a peer now and would have none.
	Unpeered []string
	// Untold are addresses in use that some Node tells some peer of now, and none would.
	Untold []Holding
	// Unsigned are the new or changed peers whose password-key has no value, for want of which Nodes are Unpeered or addresses Untold.
	Unsigned Problems
	// Unfit are values that no text may bring, unless the one in force has them; nobody can consent to them.
	Unfit Problems
	// Waits names what could not be read and is needed for a verdict; then Unpeered and Untold say nothing.
	Waits []Missing
	// Warnings concern the text as it meets this cluster, whether it is admitted or not.
	Warnings Problems
}

// Missing is a kind of object that could not be read, as in a rule of Kubernetes' RBAC.
type Missing string

// What a verdict may have to wait for.
const (
	MissingNodes  Missing = "nodes"
	MissingSecret Missing = "secrets"
)

// A Consent is what an operator has confirmed of one text, by an annotation with its hash.
type Consent uint8

// Renumber accepts that Services lose their addresses and get others; Confirm also that Nodes lose their peers and
// addresses their routes.
const (
	NoConsent Consent = iota
	Renumber
	Confirm
)

// Admit says what next would take away, were it to take the place of c. Of what a pool says, only ownership counts; the rest
// concerns new assignments. Without a text in force, nothing can be lost.
func (c *Config) Admit(next *Config, f Facts) (v Verdict) {
	v.Warnings = next.remarks(f)
	for _, d := range next.doubts {
		if c != nil && c.has(d) {
			v.Warnings = append(v.Warnings, d.Problem)
		} else {
			v.Unfit = append(v.Unfit, d.Problem)
		}
	}
	v.Unfit, v.Warnings = inOrder(v.Unfit), firstWarnings(v.Warnings)
	if c == nil {
		return v
	}
	for _, h := range f.Held {
		if c.Pool(h.Addr) != nil && next.Pool(h.Addr) == nil {
			v.Lost = append(v.Lost, h)
		}
	}
	tellsOtherwise := func(_ string, a, b *Pool) bool {
		return a.Unadvertised != b.Unadvertised || !reflect.DeepEqual(a.Advertisements, b.Advertisements)
	}
	if !f.NodesKnown && (!reflect.DeepEqual(c.Peers, next.Peers) || len(c.among(next, f.Held, tellsOtherwise)) > 0) {
		v.Waits = append(v.Waits, MissingNodes)
	}
	if !f.KeysKnown && slices.ContainsFunc(next.Peers, func(p Peer) bool { return p.PasswordKey != "" && c.sameSession(p) == nil }) {
		v.Waits = append(v.Waits, MissingSecret)
	}
	if len(v.Waits) > 0 || !f.NodesKnown {
		return v
	}
	// What is in force counts by labels alone: a session that is up outlives the value of its key.
	now := c.peering(f.Nodes, func(Peer, Node) bool { return true })
	signs := func(p Peer, n Node) bool {
		if same := c.sameSession(p); p.OfNode(n.Name, n.Annotations) != nil && (same == nil || !Selects(same.NodeSelectors, n.Labels)) {
			return false
		}
		if p.PasswordKey == "" || f.Keys[p.PasswordKey] {
			return true
		}
		same := c.sameSession(p)
		return same != nil && Selects(same.NodeSelectors, n.Labels)
	}
	then := next.peering(f.Nodes, signs)
	for i, n := range f.Nodes {
		if len(now[i]) > 0 && len(then[i]) == 0 {
			v.Unpeered = append(v.Unpeered, n.Name)
		}
	}
	slices.Sort(v.Unpeered)
	v.Untold = c.among(next, f.Held, func(service string, a, b *Pool) bool {
		return a.told(f.selects(service), f.Nodes, now) && !b.told(f.selects(service), f.Nodes, then)
	})
	untold := map[*Pool]string{}
	for _, h := range v.Untold {
		untold[next.Pool(h.Addr)] = h.Service
	}
	for i, p := range next.Peers {
		wanted := func(n Node) bool {
			if !Selects(p.NodeSelectors, n.Labels) || signs(p, n) {
				return false
			}
			_, unpeered := slices.BinarySearch(v.Unpeered, n.Name)
			for pool, service := range untold {
				unpeered = unpeered || pool.told(f.selects(service), []Node{n}, [][]string{{p.Name}})
			}
			return unpeered
		}
		if len(v.Unpeered)+len(untold) > 0 && slices.ContainsFunc(f.Nodes, wanted) {
			v.Unsigned = append(v.Unsigned, Problem{Key: fmt.Sprintf("peers[%d].password-key", i),
				Text: fmt.Sprintf("Secret metallb-bgp-auth has no value under key %q: write it first", p.PasswordKey)})
		}
	}
	return v
}

// selects returns whether an advertisement may be for the Service.
func (f Facts) selects(service string) func(Advertisement) bool {
	return func(a Advertisement) bool {
		return len(a.ServiceSelectors) == 0 || f.Labels == nil || Selects(a.ServiceSelectors, f.Labels(service))
	}
}

// among returns the addresses in use, owned by c and by next, between whose pools differs holds for their Service.
func (c *Config) among(next *Config, held []Holding, differs func(service string, now, then *Pool) bool) (all []Holding) {
	type question struct {
		pools   [2]*Pool
		service string
	}
	asked := map[question]bool{} // all addresses of a pool fare alike, unless labels decide
	for _, h := range held {
		q := question{pools: [2]*Pool{c.Pool(h.Addr), next.Pool(h.Addr)}}
		if q.pools[0] == nil || q.pools[1] == nil {
			continue
		}
		if q.pools[0].picks() || q.pools[1].picks() {
			q.service = h.Service
		}
		answer, known := asked[q]
		if !known {
			answer = differs(h.Service, q.pools[0], q.pools[1])
			asked[q] = answer
		}
		if answer {
			all = append(all, h)
		}
	}
	return all
}

// sameSession returns the peer of c that differs from p in its Nodes and BFD at most, or nil: the session of a Node that has both
// goes on as it is.
func (c *Config) sameSession(p Peer) *Peer {
	for i, q := range c.Peers {
		if q.Name != p.Name {
			continue
		}
		p.NodeSelectors, q.NodeSelectors = nil, nil
		p.BFDProfile, q.BFDProfile = "", ""
		if reflect.DeepEqual(p, q) {
			return &c.Peers[i]
		}
	}
	return nil
}

// peering returns the names of the peers that each Node has, of those that count.
func (c *Config) peering(nodes []Node, counts func(Peer, Node) bool) [][]string {
	all := make([][]string, len(nodes))
	for _, p := range c.Peers {
		for i, n := range nodes {
			if Selects(p.NodeSelectors, n.Labels) && counts(p, n) {
				all[i] = append(all[i], p.Name)
			}
		}
	}
	return all
}

// picks reports whether labels of Services decide about its advertisements.
func (p *Pool) picks() bool {
	return slices.ContainsFunc(p.Advertisements, func(a Advertisement) bool { return len(a.ServiceSelectors) > 0 })
}

// told reports whether some Node tells one of its peers of the pool's addresses, by those of its advertisements that count.
func (p *Pool) told(counts func(Advertisement) bool, nodes []Node, peers [][]string) bool {
	for _, a := range p.Advertisements {
		if p.Unadvertised || !counts(a) {
			continue
		}
		for i, n := range nodes {
			if slices.ContainsFunc(peers[i], a.Route.For) && Selects(a.NodeSelectors, n.Labels) {
				return true
			}
		}
	}
	return false
}

// remarks are warnings about a text as it meets the cluster.
func (c *Config) remarks(f Facts) (all Problems) {
	warn := func(index int, key, format string, args ...any) {
		all = append(all, Problem{Key: fmt.Sprintf(key, index), Text: fmt.Sprintf(format, args...)})
	}
	for i, p := range c.Peers {
		if f.KeysKnown && p.PasswordKey != "" && !f.Keys[p.PasswordKey] {
			warn(i, "peers[%d].password-key", "Secret metallb-bgp-auth has no value under this key: write the password there; until then no new session comes up")
		}
	}
	for i, p := range c.Pools {
		if f.NamespacesUnread && len(p.NamespaceSelectors) > 0 {
			warn(i, "address-pools[%d].namespace-selectors", "the controller manager may not read Namespaces, so that these select none: let it list and watch them")
		}
	}
	for i, p := range c.Peers {
		if pool := c.Pool(p.Addr); pool != nil {
			warn(i, "peers[%d].peer-address", "pool %q owns the router's own address %s: it is not handed out; take it out of the pool", show(pool.Name), p.Addr)
		}
	}
	for _, n := range f.Nodes {
		for _, addr := range n.InternalIPs {
			if i := c.index(addr); i >= 0 {
				warn(i, "address-pools[%d]", "pool %q owns %s, which is Node %s's own address: it is not handed out; take it out of the pool", show(c.Pools[i].Name), addr, n.Name)
			}
		}
	}
	return all
}

// But returns what is left of the verdict if the operator consents.
func (v Verdict) But(by Consent) Verdict {
	if by >= Renumber {
		v.Lost = nil
	}
	if by >= Confirm {
		v.Unpeered, v.Untold, v.Unsigned, v.Waits = nil, nil, nil, nil
	}
	return v
}

// Admits reports whether nothing speaks against the text.
func (v Verdict) Admits() bool {
	return len(v.Lost)+len(v.Unpeered)+len(v.Untold)+len(v.Waits)+len(v.Unfit) == 0
}

// Reasons say what speaks against the text of that hash, and what to do about it: one sentence each, the most harmful first.
func (v Verdict) Reasons(hash string) (all []string) {
	if len(v.Unsigned) > 0 {
		all = append(all, v.Unsigned.First(5))
	}
	if n := len(v.Unpeered); n > 0 {
		all = append(all, fmt.Sprintf("Node %s%s would have no peer: keep one whose node-selectors select it and whose password-key has a value, or annotate this ConfigMap with metallb.universe.tf/confirm: %s to let such Nodes announce nothing",
			v.Unpeered[0], andMore(n-1), hash))
	}
	if n := len(v.Untold); n > 0 {
		all = append(all, fmt.Sprintf("no peer would be told of the address of Service %s, %s%s: keep an advertisement for it whose peers and node-selectors fit a Node, or annotate this ConfigMap with metallb.universe.tf/confirm: %s to let such Services be unreachable",
			v.Untold[0].Service, v.Untold[0].Addr, andMore(n-1), hash))
	}
	if n := len(v.Lost); n > 0 {
		all = append(all, fmt.Sprintf("no pool would own the address of Service %s, %s%s: keep a pool that does, or delete the Service, or annotate this ConfigMap with metallb.universe.tf/renumber: %s to move such Services",
			v.Lost[0].Service, v.Lost[0].Addr, andMore(n-1), hash))
	}
	if len(v.Unfit) > 0 {
		all = append(all, v.Unfit.First(5))
	}
	for _, missing := range v.Waits {
		what := map[Missing]string{
			MissingNodes:  "changes peers or advertisements",
			MissingSecret: "has a new peer with a password-key",
		}[missing]
		all = append(all, fmt.Sprintf("the text %s, and nobody can tell what that does while the controller manager cannot read %s: let it list and watch them, or annotate this ConfigMap with metallb.universe.tf/confirm: %s", what, missing, hash))
	}
	return all
}

// Losers are the addresses in use that the text would take from their Services or from the routers, each once.
func (v Verdict) Losers() []Holding { return slices.Concat(v.Lost, v.Untold) }

func andMore(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}
