package loadbalancer

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

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
	Name string
	// Addr is the router's; the zero Addr where Gateway is set.
	Addr netip.Addr
	// Gateway asks the speaker for sessions with the next hops of its node's default route of an IP version; 0: it does not.
	Gateway Family
	Port    uint16
	// ASN is the router's AS number; 0 if Relation says that it is learned from the router's OPEN.
	ASN uint32
	// Relation says which AS numbers the router may have where ASN is 0.
	Relation Relation
	// MyASN is our AS number; 0 if MyASNFromNode says that the speaker takes it from an annotation of its Node.
	MyASN         uint32
	MyASNFromNode bool

	// HoldTime is 0 (the session never times out) or at least 3 s, in whole seconds (RFC 4271 §4.2).
	HoldTime time.Duration
	// KeepaliveTime is never longer than HoldTime, and 0 only if HoldTime is 0.
	KeepaliveTime time.Duration
	// ConnectTime is the longest pause between two attempts to connect; at least 1 s, in whole seconds. The first after a
	// stable session follows at once, the next ones after up to 1, 2, 4 s and so on.
	ConnectTime time.Duration

	// RouterID is an IPv4 address, or the zero Addr: then the speaker uses its node's first IPv4 InternalIP, or if
	// RouterIDFromNode says so, an annotation of its Node.
	RouterID         netip.Addr
	RouterIDFromNode bool
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

// The words for a node's default gateways.
var gatewayWords = map[Family]string{IPv4: "gateway", IPv6: "gateway-v6"}

// Address is the router's address, or the word for it.
func (p Peer) Address() string {
	if p.Gateway != 0 && !p.Addr.IsValid() {
		return gatewayWords[p.Gateway]
	}
	return p.Addr.String()
}

// Family is the IP version of the session's packets.
func (p Peer) Family() Family {
	if p.Gateway != 0 {
		return p.Gateway
	}
	return FamilyOf(p.Addr)
}

// IBGP reports whether the router is in our own AS.
func (p Peer) IBGP() bool {
	return p.Relation == Internal || p.Relation == Numbered && p.ASN == p.MyASN && p.MyASN != 0
}

// ExpectsASN returns what is wrong with the AS number of the router's OPEN, if something is.
func (p Peer) ExpectsASN(asn uint32) error {
	const asTrans = 23456 // stands for numbers of four bytes (RFC 6793), and is nobody's own
	switch {
	case p.Relation == Numbered && asn != p.ASN:
		return fmt.Errorf("the router says that its AS number is %d, but peer-asn is %d", asn, p.ASN)
	case p.Relation == Internal && asn != p.MyASN:
		return fmt.Errorf("the router says that its AS number is %d, but peer-asn is internal, and ours is %d: write external, or correct the router", asn, p.MyASN)
	case p.Relation == External && asn == p.MyASN:
		return fmt.Errorf("the router says that its AS number is %d, which is ours, but peer-asn is external: write internal, or correct the router", asn)
	case p.Relation != Numbered && (asn == 0 || asn == asTrans):
		return fmt.Errorf("the router says that its AS number is %d, which no AS has (RFC 7607, RFC 6793): correct the router", asn)
	}
	return nil
}

// AS returns the router's AS number as the operator wrote it.
func (p Peer) AS() string {
	return map[Relation]string{Numbered: fmt.Sprint(p.ASN), External: "external", Internal: "internal"}[p.Relation]
}

// A Relation is one of a router's AS to ours.
type Relation uint8

// A router's AS is that of a number, any but ours, or ours.
const (
	Numbered Relation = iota
	External
	Internal
)

// OfNode fills in what the peer takes from annotations of the speaker's Node. The error says what is missing or wrong there.
func (p *Peer) OfNode(node string, annotations map[string]string) error {
	if p.MyASNFromNode {
		text, where, err := annotation(node, annotations, "my-asn", "its AS number")
		if err != nil {
			return err
		}
		asn, err := strconv.ParseUint(text, 10, 32)
		if err != nil || asn == 0 {
			return fmt.Errorf("annotation %s of node %s: %q is not an AS number: write one from 1 to 4294967295", where, node, show(text))
		}
		p.MyASN = uint32(asn)
	}
	if p.RouterIDFromNode {
		text, where, err := annotation(node, annotations, "router-id", "an IPv4 address")
		if err != nil {
			return err
		}
		if p.RouterID, err = netip.ParseAddr(text); err != nil || !isRouterID(p.RouterID) {
			return fmt.Errorf("annotation %s of node %s: %q is not a router ID: write an IPv4 address other than 0.0.0.0", where, node, show(text))
		}
	}
	return nil
}

// annotation returns a Node's annotation under one of our prefixes.
func annotation(node string, annotations map[string]string, name, what string) (text, where string, err error) {
	for _, prefix := range []string{"metallb.io/", "metallb.universe.tf/"} {
		switch found := strings.TrimSpace(annotations[prefix+name]); {
		case found == "":
		case text != "" && text != found:
			return "", "", fmt.Errorf("node %s: annotations %s and %s%s differ: remove one of the two", node, where, prefix, name)
		default:
			text, where = found, prefix+name
		}
	}
	if text == "" {
		return "", "", fmt.Errorf("%s is node, and node %s has no annotation metallb.io/%[1]s: write %[3]s there", name, node, what)
	}
	return text, where, nil
}

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
		r.MyASNFromNode, r.RouterIDFromNode, r.Gateway = false, false, 0
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
	// Unadvertised is set if nobody here announces the pool's addresses.
	Unadvertised bool
	// ServiceCommunities are those that a Service may add, by name, as the two numbers of a community or the three of a large one.
	ServiceCommunities map[string][]uint32
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
	// ServiceSelectors name the Services whose addresses it announces; none means every Service.
	ServiceSelectors []Selector
	// ClientIPAffinity gives Services one primary whose sessionAffinity is ClientIP.
	ClientIPAffinity bool
	// NodeSelectors name the nodes that announce it; none means every node.
	NodeSelectors []Selector
}

// Asks are what a Service asks of the routes of its addresses. Equal ones ask for the same. The zero value asks for nothing.
type Asks struct{ unique.Handle[asked] }

type asked struct {
	pool        string // whose advertisements and communities these are
	selected    string // the indexes of advertisements that select it by its labels, a byte each
	communities string // names, sorted, with commas between them
	clientIP    bool   // for one primary
}

// Asks returns what a Service asks for that holds an address of the pool: by its labels, by the names of communities, those that
// the pool does not allow apart, and by its sessionAffinity, if that is ClientIP.
func (p *Pool) Asks(labels map[string]string, communities []string, clientIP bool) Asks {
	var asks asked
	for i, a := range p.Advertisements {
		if len(a.ServiceSelectors) > 0 && Selects(a.ServiceSelectors, labels) {
			asks.selected += string([]byte{byte(i)})
		}
		asks.clientIP = asks.clientIP || clientIP && a.ClientIPAffinity
	}
	allowed := slices.DeleteFunc(slices.Clone(communities), func(name string) bool { return p.ServiceCommunities[name] == nil })
	if asks.communities = strings.Join(sorted(allowed), ","); asks == (asked{}) {
		return Asks{}
	}
	asks.pool = p.Name
	return Asks{unique.Make(asks)}
}

// Differ reports whether both ask for other advertisements or communities: then nobody's communities count where they are announced
// together.
func (a Asks) Differ(b Asks) bool {
	x, y := a.value(), b.value()
	if x.clientIP = y.clientIP; x.selected+x.communities+y.selected+y.communities == "" {
		return false // of whatever pools
	}
	return x != y
}

func (a Asks) value() asked {
	if a == (Asks{}) {
		return asked{}
	}
	return a.Value()
}

// selects reports whether an advertisement of the pool is for a Service that asks so.
func (a Asks) selects(p *Pool, index int) bool {
	asks := a.value()
	return asks.pool == p.Name && strings.IndexByte(asks.selected, byte(index)) >= 0
}

// Listens reports whether Services can ask for anything but affinity where the pool is concerned.
func (p *Pool) Listens() bool { return len(p.ServiceCommunities) > 0 || p.picks() }

// Selects reports whether some advertisement of the pool is for Services with these labels.
func (p *Pool) Selects(labels map[string]string) bool {
	return slices.ContainsFunc(p.Advertisements, func(a Advertisement) bool { return Selects(a.ServiceSelectors, labels) })
}

// Ranks reports whether routes depend on which of all nodes announce them.
func (c *Config) Ranks() bool {
	return slices.ContainsFunc(c.Pools, func(p Pool) bool {
		return slices.ContainsFunc(p.Advertisements, func(a Advertisement) bool { return a.Route.Primaries > 0 || a.ClientIPAffinity })
	})
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
//
// services are what those ask for that announce a prefix together. An advertisement counts that is for one of them, and of several
// that would send one prefix to one peer the first. Their communities count only if all ask for the same: nobody decides for his
// neighbors. One of them is enough for one primary: connections are lost without, and spread is only less with it.
func (c *Config) Routes(addr netip.Addr, node map[string]string, services ...Asks) []Route {
	pool := c.Pool(addr)
	if pool == nil {
		return nil
	}
	var added Route
	if len(services) > 0 && !slices.ContainsFunc(services, services[0].Differ) {
		if asks := services[0].value(); asks.pool == pool.Name && asks.communities != "" {
			for name := range strings.SplitSeq(asks.communities, ",") {
				added.add(pool.ServiceCommunities[name])
			}
		}
	}
	var routes []Route
	for i, a := range pool.Advertisements {
		if !Selects(a.NodeSelectors, node) || len(a.ServiceSelectors) > 0 && !slices.ContainsFunc(services, func(s Asks) bool { return s.selects(pool, i) }) {
			continue
		}
		route := a.Route.with(added)
		route.Prefix = a.Prefix(addr)
		if a.ClientIPAffinity && slices.ContainsFunc(services, func(s Asks) bool { return s.value().clientIP }) {
			route.Primaries = 1
		}
		if !slices.ContainsFunc(routes, route.Equal) && c.isNew(&route, routes) {
			routes = append(routes, route)
		}
	}
	return routes
}

// isNew takes from the route the peers that hear its prefix by one of those before, and reports whether some are left.
func (c *Config) isNew(route *Route, before []Route) bool {
	heard := func(peer string) bool {
		return slices.ContainsFunc(before, func(b Route) bool { return b.Prefix == route.Prefix && b.For(peer) })
	}
	if !slices.ContainsFunc(before, func(b Route) bool { return b.Prefix == route.Prefix }) {
		return true // as nearly always
	}
	if len(route.Peers) > 0 && !slices.ContainsFunc(route.Peers, heard) {
		return true
	}
	peers := route.Peers
	if len(peers) == 0 {
		for _, p := range c.Peers {
			peers = append(peers, p.Name)
		}
	}
	route.Peers = sorted(slices.DeleteFunc(slices.Clone(peers), heard))
	return len(route.Peers) > 0
}
