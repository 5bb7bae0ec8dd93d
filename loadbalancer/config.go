package loadbalancer

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
)

// A Config is a configuration that Parse has checked.
type Config struct {
	// Peers have unique names, in the order the operator wrote them.
	Peers []Peer
	// Pools are in the order the operator wrote them, and no two own the same address: Parse sees to both.
	Pools []Pool
	// BFDProfiles have unique names, in the order the operator wrote them.
	BFDProfiles []BFDProfile
	// Drain says which marks of a node, besides the annotation, mean that it is being drained on purpose.
	Drain Drain

	owners []owner // in the order of the addresses
	// reserved has the Service for each address that is reserved, and reservations the addresses for each such Service.
	reserved     map[netip.Addr]string
	reservations map[string][]netip.Addr
	limits       bool // some pool has quotas
	doubts       []doubt
}

// A doubt is something in a text that is refused, unless the text in force has it, too: earlier releases admitted it.
type doubt struct {
	Problem
	what string
	netipx.IPRange
}

// has reports whether the text has the doubt, wherever that stands.
func (c *Config) has(d doubt) bool {
	return slices.ContainsFunc(c.doubts, func(e doubt) bool {
		return d.what == e.what && (!d.IsValid() || e.From().Compare(d.From()) <= 0 && d.To().Compare(e.To()) <= 0)
	})
}

// An owner is a range of addresses and the index of the pool that owns it.
type owner struct {
	netipx.IPRange
	pool int
}

// A Peer is a router to which speakers open a BGP session.
type Peer struct {
	// Name is unique within a Config. It defaults to the address.
	Name  string
	Addr  netip.Addr
	Port  uint16
	ASN   uint32 // the router's AS number; never 0
	MyASN uint32 // ours; never 0

	// HoldTime is 0 (the session never times out) or at least 3 s, in whole seconds (RFC 4271 §4.2).
	HoldTime time.Duration
	// KeepaliveTime is never longer than HoldTime, and 0 only if HoldTime is 0.
	KeepaliveTime time.Duration
	// ConnectTime is the longest pause between two attempts to connect; at least 1 s, in whole seconds. The first after a
	// stable session follows at once, the next ones after up to 1, 2, 4 s and so on.
	ConnectTime time.Duration

	// RouterID is an IPv4 address, or the zero Addr: then the speaker uses its node's first IPv4 InternalIP.
	RouterID netip.Addr
	// SourceAddress is the local address of the session, or the zero Addr: then the kernel chooses.
	SourceAddress netip.Addr
	// SourceNodeIP asks the speaker to use its node's InternalIP as SourceAddress.
	SourceNodeIP bool

	// TTL of the session's packets; 0 leaves it to the operating system.
	TTL uint8
	// MinTTL is the least TTL of packets that the session believes (GTSM, RFC 5082); 0 believes all.
	MinTTL uint8
	// Password signs the session's packets with TCP MD5 (RFC 2385); empty: they are not signed.
	Password Secret
	// PasswordKey is the key in the Secret where speakers find the Password, or empty.
	PasswordKey string
	// NodeIPs are the InternalIPs of the speaker's node, which the speaker fills in: next hops of the IP version that the
	// session itself does not have.
	NodeIPs []netip.Addr
	// RestartTime is how long the router keeps our routes while we restart (RFC 4724), in whole seconds; 0 disables
	// graceful restart.
	RestartTime time.Duration

	// BFDProfile names the profile by which BFD watches the router, one of the Config's; empty: BFD does not.
	BFDProfile string

	// NodeSelectors name the nodes that peer with this router; none means every node.
	NodeSelectors []Selector
}

// IBGP reports whether the router is in our own AS.
func (p Peer) IBGP() bool { return p.ASN == p.MyASN }

// SameRouter reports whether both are one router that would know us as one neighbor: two sessions with it would collide
// (RFC 4271 §6.8). Where one has no SourceAddress, the kernel may choose that of the other.
func (p Peer) SameRouter(q Peer) bool {
	return p.Addr == q.Addr && p.Port == q.Port &&
		(p.SourceAddress == q.SourceAddress || !p.SourceAddress.IsValid() || !q.SourceAddress.IsValid())
}

// A BFDProfile says how BFD watches a router (RFC 5880), and how it is to watch us.
type BFDProfile struct {
	// Name is unique within a Config.
	Name string
	// ReceiveInterval is the least time between two packets that we take, TransmitInterval that between two that we send; 10 ms
	// to 60 s.
	ReceiveInterval, TransmitInterval time.Duration
	// DetectMultiplier is how many of our packets the router misses until it takes us for dead; at least 2.
	DetectMultiplier uint8
	// Passive sessions say nothing before the router has.
	Passive bool
	// MinimumTTL is the least TTL of packets that came over several hops (RFC 5883 §6); at least 1.
	MinimumTTL uint8
}

// ProfileOf returns the profile by which BFD watches the router, or false.
func (c *Config) ProfileOf(p Peer) (BFDProfile, bool) {
	i := slices.IndexFunc(c.BFDProfiles, func(b BFDProfile) bool { return b.Name == p.BFDProfile && p.BFDProfile != "" })
	if i < 0 {
		return BFDProfile{}, false
	}
	return c.BFDProfiles[i], true
}

// SameSession reports whether one connection can serve both peers, as a speaker knows them. What only decides whether there is a
// session, where its password was found, or what a session can change while it is up, does not matter.
func (p Peer) SameSession(q Peer) bool {
	for _, r := range []*Peer{&p, &q} {
		r.Name, r.ConnectTime, r.NodeSelectors, r.SourceNodeIP, r.PasswordKey, r.NodeIPs, r.BFDProfile = "", 0, nil, false, "", nil, ""
	}
	return reflect.DeepEqual(p, q)
}

// SameNeighbor reports whether the router knows us as one neighbor by both.
func (p Peer) SameNeighbor(q Peer) bool {
	return p.Addr == q.Addr && p.Port == q.Port && p.SourceAddress == q.SourceAddress
}

// A Secret is a text that nothing prints.
type Secret string

// Format writes three dots instead of the secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) {
	if s != "" {
		_, _ = io.WriteString(f, "…") // as with fmt itself, the writer remembers what went wrong
	}
}

// MarshalText keeps the secret out of structured logs.
func (s Secret) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }

// PasswordIn returns the password that a value of a Kubernetes Secret is. An error says what is wrong with the value, and does
// not show it.
func PasswordIn(value []byte) (Secret, error) {
	// People make Secrets from files, and a file's last line ends.
	text := strings.TrimSuffix(strings.TrimSuffix(string(value), "\n"), "\r")
	switch {
	case text == "":
		return "", errors.New("is empty: give it a value")
	case len(text) > maxPassword:
		return "", fmt.Errorf("is longer than the %d bytes that TCP MD5 allows", maxPassword)
	}
	return Secret(text), nil
}

// A Drain says how an operator marks a node that is to lose its traffic.
type Drain struct {
	Taints []Mark
	Labels []Mark
	// WithdrawAfter is how long after the mark routes are withdrawn; 0 is never.
	WithdrawAfter time.Duration
}

// A Mark is a taint or a label of a node, written as kubectl does: key, key=value, key:effect or key=value:effect.
type Mark struct {
	Key    string
	Value  string
	Any    bool   // whatever the value
	Effect string // of a taint; empty is any
}

// String writes the mark as the configuration does.
func (m Mark) String() string {
	text := m.Key
	if !m.Any {
		text += "=" + m.Value
	}
	if m.Effect != "" {
		text += ":" + m.Effect
	}
	return text
}

// A Pool is a named set of addresses that Services may hold, and how routers hear about them.
type Pool struct {
	// Name is unique within a Config.
	Name string
	// Ranges are in the order of the addresses, IPv4 before IPv6. There is at least one, and none overlaps another of this
	// or any other pool.
	Ranges []netipx.IPRange
	// Exclude are those addresses of the Ranges that are never handed out, likewise in order; nothing overlaps.
	Exclude []netipx.IPRange
	// Reservations are in the order of the text. No address and no Service is in two of them, of this or any other pool, and the
	// pool hands out all that are.
	Reservations []Reservation
	// HoldDown is for how long a freed address is for nobody but who had it, in whole seconds; 0 is not at all.
	HoldDown time.Duration
	// Quotas are those of namespaces.
	Quotas Quotas
	// AutoAssign is false for a pool whose addresses are handed out on request only.
	AutoAssign bool
	// AvoidBuggyIPs keeps IPv4 addresses that end in .0 or .255 from being handed out: some clients mistake them for
	// the network's own or its broadcast address.
	AvoidBuggyIPs bool
	// Priority orders the pools that fit a Service, lower first.
	Priority int
	// Namespaces are those whose Services may be given the pool's addresses, sorted, each once.
	// NamespaceSelectors add those whose labels match; no names and no selectors means all.
	Namespaces         []string
	NamespaceSelectors []Selector
	// ServiceSelectors name the Services that may be given the pool's addresses; none means all.
	ServiceSelectors []Selector
	// ShareAcrossNamespaces lets Services of several namespaces share an address.
	ShareAcrossNamespaces bool
	// Advertisements is never empty: a pool without any has the default one.
	Advertisements []Advertisement
}

// handsOut reports whether a Service may be given the address, which the pool owns.
func (p *Pool) handsOut(addr netip.Addr) bool {
	if p.excludes(addr) {
		return false
	}
	if !p.AvoidBuggyIPs || !addr.Is4() {
		return true
	}
	last := addr.As4()[3]
	return last != 0 && last != 255
}

func (p *Pool) excludes(addr netip.Addr) bool {
	_, found := slices.BinarySearchFunc(p.Exclude, addr, compareRange)
	return found
}

// compareRange orders ranges that do not overlap, and finds the one that an address is in.
func compareRange(r netipx.IPRange, addr netip.Addr) int {
	if r.Contains(addr) {
		return 0
	}
	return r.From().Compare(addr)
}

// Serves reports whether Services that carry these labels, of the namespace that carries those, may be given the pool's addresses.
func (p *Pool) Serves(namespace string, its, labels map[string]string) bool {
	return p.isFor(namespace, its) && Selects(p.ServiceSelectors, labels)
}

// isFor is Serves for Services of the namespace with whatever labels.
func (p *Pool) isFor(namespace string, labels map[string]string) bool {
	_, named := slices.BinarySearch(p.Namespaces, namespace)
	return named || slices.ContainsFunc(p.NamespaceSelectors, func(s Selector) bool { return s.Matches(labels) }) ||
		len(p.Namespaces)+len(p.NamespaceSelectors) == 0
}

// SelectsNamespaces reports whether the labels of namespaces matter.
func (c *Config) SelectsNamespaces() bool {
	return slices.ContainsFunc(c.Pools, func(p Pool) bool { return len(p.NamespaceSelectors) > 0 })
}

// An Advertisement is one way to tell routers about a pool's addresses.
type Advertisement struct {
	// Route is what routers hear, but for the prefix. Its Weight is 1 if the routes are to carry one, the number of ready
	// endpoints behind them, and else 0.
	Route Route
	// AggregationLengths are the prefix lengths that addresses are announced with, of IPv4 and of IPv6.
	AggregationLengths [2]int
	// NodeSelectors name the nodes that announce it; none means every node.
	NodeSelectors []Selector
}

// Prefix is what the advertisement announces for an address of the pool.
func (a *Advertisement) Prefix(addr netip.Addr) netip.Prefix {
	return netip.PrefixFrom(addr, a.AggregationLengths[FamilyOf(addr).index()]).Masked()
}

// Pool returns the pool that owns addr, also if the pool would not hand it out, or nil.
func (c *Config) Pool(addr netip.Addr) *Pool {
	if i := c.index(addr); i >= 0 {
		return &c.Pools[i]
	}
	return nil
}

// index returns the index of the pool that owns addr, or -1.
func (c *Config) index(addr netip.Addr) int {
	i, ok := slices.BinarySearchFunc(c.owners, addr, func(o owner, addr netip.Addr) int { return compareRange(o.IPRange, addr) })
	if !ok {
		return -1
	}
	return c.owners[i].pool
}

// Routes returns what a node with these labels tells routers about addr: nothing if no pool owns the address or no
// advertisement of its pool selects the node. Two that say the same are one. Those that are to carry a weight have 1.
func (c *Config) Routes(addr netip.Addr, node map[string]string) []Route {
	pool := c.Pool(addr)
	if pool == nil {
		return nil
	}
	var routes []Route
	for _, a := range pool.Advertisements {
		if !Selects(a.NodeSelectors, node) {
			continue
		}
		route := a.Route
		route.Prefix = a.Prefix(addr)
		if !slices.ContainsFunc(routes, route.Equal) {
			routes = append(routes, route)
		}
	}
	return routes
}
