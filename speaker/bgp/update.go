package bgp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// updateLen is the length of an UPDATE that says nothing: the header and the lengths of its two parts.
const updateLen = headerLen + 2 + 2

// maxPrefix is the length of the family's longest prefix in an UPDATE: a byte that says how many bits, then those.
func maxPrefix(family bgp.RouteFamily) int {
	if family == bgp.RF_IPv4_UC {
		return 1 + 4
	}
	return 1 + 16
}

// A ledger is what one session has told its router (RFC 4271's Adj-RIB-Out), and how: attributes differ with the peer, with our address in the
// session, and with what the router understands.
type ledger struct {
	peer  loadbalancer.Peer
	terms terms
	hops  hops

	mu   sync.Mutex                   // for told, which others than the session may read
	told map[netip.Prefix]*attributes // what has to differ before a prefix is sent again
	// spelled caches the attributes of routes as they go on the wire. Many routes have the same few.
	spelled map[string]spelling
	scratch []byte
}

// Attributes are the path attributes of a prefix as they go on the wire.
type attributes struct {
	// reach is the beginning of the MP_REACH_NLRI, up to the prefixes: family and next hop; or of the MP_UNREACH_NLRI. It is
	// empty where the prefixes stand at the end of the UPDATE and the next hop among the others; or where IPv4's are withdrawn.
	reach  string
	others string // empty: there are none, and the prefix is withdrawn
}

// withdrawn are what goes on the wire of prefixes that are withdrawn.
var withdrawn = map[bgp.RouteFamily]*attributes{
	bgp.RF_IPv4_UC: {},
	bgp.RF_IPv6_UC: {reach: string(family3(bgp.RF_IPv6_UC))},
}

// len is how much of an UPDATE the attributes take.
func (a attributes) len() int {
	if a.reach == "" {
		return len(a.others)
	}
	return 4 + len(a.reach) + len(a.others)
}

type spelling struct {
	attributes *attributes
	err        error
}

type change struct {
	prefix     netip.Prefix
	attributes *attributes
}

func newLedger(peer loadbalancer.Peer, t terms, h hops) *ledger {
	return &ledger{
		peer: peer, terms: t, hops: h,
		told: make(map[netip.Prefix]*attributes), spelled: make(map[string]spelling),
	}
}

// move changes the next hops.
func (l *ledger) move(h hops) {
	l.hops = h
	clear(l.spelled)
}

// wanted returns the route of a prefix that is for the router, or nil.
func (l *ledger) wanted(routes []loadbalancer.Route) *loadbalancer.Route {
	for i := range routes {
		if r := &routes[i]; r.For(l.peer.Name) && slices.Contains(l.terms.families, familyOf(r.Prefix)) {
			return r
		}
	}
	return nil
}

// update returns the UPDATE messages after which the router knows of the prefixes in news exactly those of their routes that are
// for it, and no other prefix if these are all; how many messages there are; and enters them in the ledger. Of the families in
// again, also what the router knows already is sent. The error says which route cannot be sent; all others are.
func (l *ledger) update(news map[netip.Prefix][]loadbalancer.Route, all bool, again ...bgp.RouteFamily) (messages []byte, n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spelled) > 2*len(l.told)+64 {
		clear(l.spelled) // mostly attributes of long ago
	}
	var changed []change
	var failed []netip.Prefix
	gone := func(prefix netip.Prefix) {
		delete(l.told, prefix)
		changed = append(changed, change{prefix, withdrawn[familyOf(prefix)]})
	}
	stay := 0
	for prefix, routes := range news {
		told, known := l.told[prefix]
		var attributes *attributes
		if r := l.wanted(routes); r != nil {
			var problem error
			attributes, problem = l.spell(r)
			if problem != nil {
				failed = append(failed, prefix)
			}
			if errors.Is(problem, errTooLong) {
				attributes = told // what the router knows is better than nothing
			}
		}
		switch {
		case attributes == nil && known:
			gone(prefix)
		case attributes == nil:
		case known && *told == *attributes && !slices.Contains(again, familyOf(prefix)):
			stay++
		default:
			stay++
			l.told[prefix] = attributes
			changed = append(changed, change{prefix, attributes})
		}
	}
	if all && len(l.told) > stay {
		for prefix := range l.told {
			if _, there := news[prefix]; !there {
				gone(prefix)
			}
		}
	}
	if len(failed) > 0 { // one stands for all, always the same
		_, err = l.spell(l.wanted(news[slices.MinFunc(failed, netip.Prefix.Compare)]))
	}

	// What is new goes first: when a pool's aggregate gives way to its parts, routers always know one of them.
	slices.SortFunc(changed, func(a, b change) int {
		x, y := a.attributes, b.attributes
		if (x.others == "") != (y.others == "") {
			return cmp.Compare(y.others, x.others) // withdrawn
		}
		return cmp.Or(cmp.Compare(x.reach, y.reach), cmp.Compare(x.others, y.others), a.prefix.Compare(b.prefix))
	})
	messages, n = appendUpdates(nil, changed)
	return messages, n, err
}

func familyOf(prefix netip.Prefix) bgp.RouteFamily {
	if prefix.Addr().Is4() {
		return bgp.RF_IPv4_UC
	}
	return bgp.RF_IPv6_UC
}

// errTooLong is what no configuration leads to that Parse accepts. Speakers also read those of other versions.
var errTooLong = errors.New("a BGP message")

// spell returns the path attributes of r as they go on the wire.
func (l *ledger) spell(r *loadbalancer.Route) (*attributes, error) {
	key := append(l.scratch[:0], byte(r.Prefix.Addr().BitLen()))
	if l.peer.IBGP() {
		key = binary.BigEndian.AppendUint32(key, r.LocalPref)
	} else {
		key = append(key, r.Prepend)
	}
	key = binary.BigEndian.AppendUint16(key, r.Weight)
	key = binary.BigEndian.AppendUint32(key, uint32(len(r.Communities)))
	for _, c := range r.Communities {
		key = binary.BigEndian.AppendUint32(key, uint32(c))
	}
	for _, c := range r.LargeCommunities {
		key = binary.BigEndian.AppendUint32(key, c.Global)
		key = binary.BigEndian.AppendUint32(key, c.Local1)
		key = binary.BigEndian.AppendUint32(key, c.Local2)
	}
	l.scratch = key
	s, ok := l.spelled[string(key)]
	if !ok {
		family := familyOf(r.Prefix)
		if hop := l.hops.of(family); hop.err != nil {
			s.err = hop.err
		} else if a, err := encodeAttributes(l.peer, l.terms.as4, family, hop.addr, r); err != nil {
			s.err = err
		} else if a.len() > maxMessage-updateLen-maxPrefix(family) {
			s.err = fmt.Errorf("its attributes take %d bytes, and %w has only %d: use fewer communities", a.len(), errTooLong, maxMessage)
		} else {
			s.attributes = &a
		}
		l.spelled[string(key)] = s
	}
	if s.err != nil {
		return nil, fmt.Errorf("%s cannot be announced: %w", r.Prefix, s.err)
	}
	return s.attributes, nil
}

func encodeAttributes(peer loadbalancer.Peer, as4 bool, family bgp.RouteFamily, nextHop netip.Addr, r *loadbalancer.Route) (attributes, error) {
	const sequence = bgp.BGP_ASPATH_ATTR_TYPE_SEQ
	var path []bgp.AsPathParamInterface
	var path4 []*bgp.As4PathParam
	if !peer.IBGP() {
		long := slices.Repeat([]uint32{peer.MyASN}, 1+int(r.Prepend))
		switch {
		case as4:
			path = append(path, bgp.NewAs4PathParam(sequence, long))
		default:
			path = append(path, bgp.NewAsPathParam(sequence, slices.Repeat([]uint16{asn16(peer.MyASN)}, len(long))))
			if peer.MyASN > 65535 {
				path4 = append(path4, bgp.NewAs4PathParam(sequence, long))
			}
		}
	}

	// In the order of their numbers, as RFC 4271 §5 wants it.
	all := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeAsPath(path),
	}
	var encoded attributes
	if family == bgp.RF_IPv4_UC && nextHop.Is4() {
		all = append(all, bgp.NewPathAttributeNextHop(nextHop.String()))
	} else {
		hop := nextHop.WithZone("").AsSlice()
		encoded.reach = string(slices.Concat(family3(family), []byte{byte(len(hop))}, hop, []byte{0}))
	}
	if peer.IBGP() {
		// Mandatory on iBGP (RFC 4271 §5.1.5): FRR withdraws a route without it, BIRD forgives. Never on eBGP.
		all = append(all, bgp.NewPathAttributeLocalPref(r.LocalPref))
	}
	if len(r.Communities) > 0 {
		var communities []uint32
		for _, c := range r.Communities {
			communities = append(communities, uint32(c))
		}
		all = append(all, bgp.NewPathAttributeCommunities(communities))
	}
	if r.Weight > 0 {
		all = append(all, bgp.NewPathAttributeExtendedCommunities([]bgp.ExtendedCommunityInterface{linkBandwidth(peer.MyASN, r.Weight)}))
	}
	if path4 != nil {
		all = append(all, bgp.NewPathAttributeAs4Path(path4))
	}
	large := r.LargeCommunities
	if r.Weight > 0 {
		large = weigh(peer.MyASN, r.Weight, large)
	}
	if len(large) > 0 {
		var communities []*bgp.LargeCommunity
		for _, c := range large {
			communities = append(communities, bgp.NewLargeCommunity(c.Global, c.Local1, c.Local2))
		}
		all = append(all, bgp.NewPathAttributeLargeCommunities(communities))
	}

	var b strings.Builder
	for _, a := range all {
		one, err := a.Serialize()
		if err != nil {
			return attributes{}, err
		}
		b.Write(one)
	}
	encoded.others = b.String()
	return encoded, nil
}

// shown reads the attributes of a prefix off the wire.
func (a *attributes) shown(prefix netip.Prefix) report.Route {
	r := report.Route{Prefix: prefix, ASPath: []uint32{}}
	if a.reach != "" {
		hop := []byte(a.reach[4:]) // after the family and its own length
		r.NextHop, _ = netip.AddrFromSlice(hop[:a.reach[3]])
	}
	for rest := []byte(a.others); len(rest) > 0; {
		one, err := bgp.GetPathAttribute(rest)
		if err != nil || one.DecodeFromBytes(rest) != nil {
			return r // nothing that was encoded here
		}
		rest = rest[one.Len():]
		switch one := one.(type) {
		case *bgp.PathAttributeOrigin:
			r.Origin = map[uint8]string{bgp.BGP_ORIGIN_ATTR_TYPE_IGP: "IGP"}[one.Value]
		case *bgp.PathAttributeAsPath:
			for _, p := range one.Value {
				r.ASPath = append(r.ASPath, p.GetAS()...)
			}
		case *bgp.PathAttributeAs4Path:
			for _, p := range one.Value {
				r.AS4Path = append(r.AS4Path, p.AS...)
			}
		case *bgp.PathAttributeNextHop:
			r.NextHop, _ = netip.AddrFromSlice(one.Value)
			r.NextHop = r.NextHop.Unmap()
		case *bgp.PathAttributeLocalPref:
			r.LocalPref = &one.Value
		case *bgp.PathAttributeCommunities:
			for _, c := range one.Value {
				r.Communities = append(r.Communities, loadbalancer.Community(c).String())
			}
		case *bgp.PathAttributeExtendedCommunities:
			for _, c := range one.Value { // only linkBandwidth's
				if b, err := c.Serialize(); err == nil {
					r.LinkBandwidth = math.Float32frombits(binary.BigEndian.Uint32(b[4:]))
				}
			}
		case *bgp.PathAttributeLargeCommunities:
			for _, c := range one.Values {
				r.LargeCommunities = append(r.LargeCommunities, c.String())
			}
		}
	}
	return r
}

// linkBandwidth is a weight as the extended community that FRR and others read (draft-ietf-idr-link-bandwidth), here as the
// transitive one, so that it goes on from leaf to spine. The bandwidth is in bytes per second; only the proportion between
// nodes counts, and 1 Mbit/s for each endpoint stays far from what routers keep in 32 bits.
func linkBandwidth(asn uint32, weight uint16) bgp.ExtendedCommunityInterface {
	const mbit = 1e6 / 8
	value := binary.BigEndian.AppendUint16([]byte{0x04}, asn16(asn))
	value = binary.BigEndian.AppendUint32(value, math.Float32bits(float32(weight)*mbit))
	return bgp.NewUnknownExtended(0x00, value)
}

const (
	// weightFunction is the first number of ours in the large community that tells a weight to routers which do not read
	// the extended one; its global administrator is our AS.
	weightFunction = 77
	mostWeight     = 256 // of BIRD's multipath
)

// weigh adds the weight to large communities, which stay sorted.
func weigh(asn uint32, weight uint16, large []loadbalancer.LargeCommunity) []loadbalancer.LargeCommunity {
	weighed := append(slices.Clone(large), loadbalancer.LargeCommunity{
		Global: asn, Local1: weightFunction, Local2: uint32(min(weight, mostWeight)),
	})
	slices.SortFunc(weighed, loadbalancer.LargeCommunity.Compare)
	return slices.Compact(weighed)
}

// reserve appends room for a length, to be written by patch once what it measures has been appended.
func reserve(b []byte) (longer []byte, at int) { return append(b, 0, 0), len(b) }

// patch writes how many bytes have followed what was reserved.
func patch(b []byte, at int) { binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2)) }

// optionalLong are the flags of an optional attribute whose length has two bytes.
const optionalLong = 0x80 | 0x10

// appendUpdates appends UPDATEs for all changes, which are sorted by attributes: one message for as many prefixes with the same
// attributes, or without any, as it holds.
func appendUpdates(b []byte, changed []change) ([]byte, int) {
	messages := 0
	for len(changed) > 0 {
		attributes := *changed[0].attributes
		start, longest := len(b), maxPrefix(familyOf(changed[0].prefix))
		// appendPrefixes appends as many as fit before what is still to come.
		appendPrefixes := func(toCome int) {
			for len(changed) > 0 && *changed[0].attributes == attributes && len(b)-start+longest+toCome <= maxMessage {
				b = appendPrefix(b, changed[0].prefix)
				changed = changed[1:]
			}
		}
		var gone, all, several int
		b, gone = reserve(appendHeader(b, bgp.BGP_MSG_UPDATE))
		if attributes.others == "" && attributes.reach == "" {
			appendPrefixes(2)
		}
		patch(b, gone)
		b, all = reserve(b)
		if attributes.reach != "" {
			// First of all attributes, as RFC 7606 §5.1 wants it.
			kind := bgp.BGP_ATTR_TYPE_MP_REACH_NLRI
			if attributes.others == "" {
				kind = bgp.BGP_ATTR_TYPE_MP_UNREACH_NLRI
			}
			b, several = reserve(append(b, optionalLong, byte(kind)))
			b = append(b, attributes.reach...)
			appendPrefixes(len(attributes.others))
			patch(b, several)
		}
		b = append(b, attributes.others...)
		patch(b, all)
		if attributes.reach == "" && attributes.others != "" {
			appendPrefixes(0)
		}
		setLength(b[start:])
		messages++
	}
	return b, messages
}

func appendPrefix(b []byte, prefix netip.Prefix) []byte {
	length := byte(prefix.Bits())
	octets := (prefix.Bits() + 7) / 8
	if prefix.Addr().Is4() {
		addr := prefix.Addr().As4()
		return append(append(b, length), addr[:octets]...)
	}
	addr := prefix.Addr().As16()
	return append(append(b, length), addr[:octets]...)
}

// family3 is a family as it begins an MP_REACH_NLRI: AFI and SAFI.
func family3(family bgp.RouteFamily) []byte {
	afi, safi := bgp.RouteFamilyToAfiSafi(family)
	return append(binary.BigEndian.AppendUint16(nil, afi), safi)
}

// endOfRIB says that the initial table of the family is complete (RFC 4724 §2): routers that kept routes from before a
// restart now forget those that were not in it.
func endOfRIB(family bgp.RouteFamily) []byte {
	b, all := reserve(append(appendHeader(nil, bgp.BGP_MSG_UPDATE), 0, 0))
	if family != bgp.RF_IPv4_UC {
		b = append(append(b, 0x80, byte(bgp.BGP_ATTR_TYPE_MP_UNREACH_NLRI), 3), family3(family)...)
	}
	patch(b, all)
	setLength(b)
	return b
}
