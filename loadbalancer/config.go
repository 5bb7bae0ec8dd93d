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
	// Drain says which marks of a node, besides the annotation, mean that it is being drained on purpose.
	Drain Drain

	owners []owner // in the order of the addresses
	doubts []doubt
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

// SameSession reports whether one connection can serve both peers, as a speaker knows them. What only decides whether there is a
// session, where its password was found, or what a session can change while it is up, does not matter.
func (p Peer) SameSession(q Peer) bool {
	for _, r := range []*Peer{&p, &q} {
		r.Name, r.ConnectTime, r.NodeSelectors, r.SourceNodeIP, r.PasswordKey, r.NodeIPs = "", 0, nil, false, "", nil
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
	// AutoAssign is false for a pool whose addresses are handed out on request only.
	AutoAssign bool
	// AvoidBuggyIPs keeps IPv4 addresses that end in .0 or .255 from being handed out: some clients mistake them for
	// the network's own or its broadcast address.
	AvoidBuggyIPs bool
	// Priority orders the pools that fit a Service, lower first.
	Priority int
	// Namespaces are those whose Services may be given the pool's addresses, sorted, each once; none means all.
	Namespaces []string
	// ServiceSelectors name the Services that may be given the pool's addresses; none means all.
	ServiceSelectors []Selector
	// ShareAcrossNamespaces lets Services of several namespaces share an address.
	ShareAcrossNamespaces bool
	// Advertisements is never empty: a pool without any has the default one.
	Advertisements []Advertisement
}

// handsOut reports whether a Service may be given the address, which the pool owns.
func (p *Pool) handsOut(addr netip.Addr) bool {
	if !p.AvoidBuggyIPs || !addr.Is4() {
		return true
	}
	last := addr.As4()[3]
	return last != 0 && last != 255
}

// Serves reports whether Services of the namespace that carry these labels may be given the pool's addresses.
func (p *Pool) Serves(namespace string, labels map[string]string) bool {
	if len(p.Namespaces) > 0 {
		if _, ok := slices.BinarySearch(p.Namespaces, namespace); !ok {
			return false
		}
	}
	return Selects(p.ServiceSelectors, labels)
}

// An Advertisement is one way to tell routers about a pool's addresses.
type Advertisement struct {
	// AggregationLength is the prefix length that IPv4 addresses are announced with, AggregationLengthV6 that of IPv6.
	AggregationLength   int
	AggregationLengthV6 int
	LocalPref           uint32
	Communities         []Community      // sorted, each once
	LargeCommunities    []LargeCommunity // sorted, each once
	// Prepend is how many more times than once our AS number stands in the AS_PATH on eBGP sessions; at most 10.
	Prepend uint8
	// Peers are names of the peers that hear it, sorted, each once; none means all.
	Peers []string
	// NodeSelectors name the nodes that announce it; none means every node.
	NodeSelectors []Selector
	// LinkBandwidth asks for routes that carry a weight, the number of ready endpoints behind them.
	LinkBandwidth bool
}

// Prefix is what the advertisement announces for an address of the pool.
func (a *Advertisement) Prefix(addr netip.Addr) netip.Prefix {
	length := a.AggregationLength
	if addr.Is6() {
		length = a.AggregationLengthV6
	}
	return netip.PrefixFrom(addr, length).Masked()
}

// Pool returns the pool that owns addr, also if the pool would not hand it out, or nil.
func (c *Config) Pool(addr netip.Addr) *Pool {
	if i, ok := c.index(addr); ok {
		return &c.Pools[i]
	}
	return nil
}

// index returns the index of the pool that owns addr.
func (c *Config) index(addr netip.Addr) (int, bool) {
	i, ok := slices.BinarySearchFunc(c.owners, addr, func(o owner, addr netip.Addr) int {
		if o.Contains(addr) {
			return 0
		}
		return o.From().Compare(addr)
	})
	if !ok {
		return 0, false
	}
	return c.owners[i].pool, true
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
		route := Route{
			Prefix:           a.Prefix(addr),
			LocalPref:        a.LocalPref,
			Communities:      a.Communities,
			LargeCommunities: a.LargeCommunities,
			Prepend:          a.Prepend,
			Peers:            a.Peers,
		}
		if a.LinkBandwidth {
			route.Weight = 1
		}
		if !slices.ContainsFunc(routes, route.Equal) {
			routes = append(routes, route)
		}
	}
	return routes
}
