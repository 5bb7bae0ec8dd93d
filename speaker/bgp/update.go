package bgp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

const (
	// updateLen is the length of an UPDATE that says nothing: the header and the lengths of its two parts.
	updateLen = headerLen + 2 + 2
	// maxPrefix is the length of the longest prefix in an UPDATE: a byte that says how many bits, then those.
	maxPrefix = 1 + 4
)

// A ledger is what one session has told its router, and how: attributes differ with the peer, with our address in the
// session, and with what the router understands.
type ledger struct {
	peer    loadbalancer.Peer
	terms   terms
	nextHop netip.Addr

	told map[netip.Prefix]*entry
	// round counts the comparisons with the table.
	round uint64
	// spelled caches the attributes of routes as they go on the wire. Many routes have the same few.
	spelled map[string]spelling
	scratch []byte
}

// An entry is what the router was told about one prefix.
type entry struct {
	attributes string // as they went on the wire, which is what has to differ before a prefix is sent again
	round      uint64 // when the prefix was last seen in the table
}

type spelling struct {
	attributes string
	err        error
}

type change struct {
	prefix     netip.Prefix
	attributes string
}

func newLedger(peer loadbalancer.Peer, t terms, nextHop netip.Addr) *ledger {
	return &ledger{
		peer: peer, terms: t, nextHop: nextHop,
		told: make(map[netip.Prefix]*entry), spelled: make(map[string]spelling),
	}
}

// update returns the UPDATE messages after which the router knows exactly those routes that are for it, how many there
// are, and enters them in the ledger. With again, also what the router knows already is sent. The error says which route
// cannot be sent; all others are.
func (l *ledger) update(routes []loadbalancer.Route, again bool) (messages []byte, n int, err error) {
	l.round++
	if len(l.spelled) > 2*len(l.told)+64 {
		clear(l.spelled) // mostly attributes of long ago
	}
	var changed []change
	for i := range routes {
		r := &routes[i]
		if !slices.Contains(l.terms.families, familyOf(r.Prefix)) || !r.For(l.peer.Name) {
			continue
		}
		attributes, problem := l.spell(r)
		if problem != nil {
			err = problem
			continue
		}
		e := l.told[r.Prefix]
		switch {
		case e == nil:
			l.told[r.Prefix] = &entry{attributes, l.round}
		case e.round == l.round:
			continue // a second route of the same prefix
		case e.attributes == attributes && !again:
			e.round = l.round
			continue
		default:
			e.attributes, e.round = attributes, l.round
		}
		changed = append(changed, change{r.Prefix, attributes})
	}
	var gone []netip.Prefix
	for prefix, e := range l.told {
		if e.round != l.round {
			gone = append(gone, prefix)
			delete(l.told, prefix)
		}
	}

	slices.SortFunc(changed, func(a, b change) int {
		return cmp.Or(strings.Compare(a.attributes, b.attributes), a.prefix.Compare(b.prefix))
	})
	slices.SortFunc(gone, netip.Prefix.Compare)
	// What is new goes first: when a pool's aggregate gives way to its parts, routers always know one of them.
	messages, n = appendAnnouncements(nil, changed)
	messages, withdrawals := appendWithdrawals(messages, gone)
	return messages, n + withdrawals, err
}

func familyOf(prefix netip.Prefix) bgp.RouteFamily {
	if prefix.Addr().Is4() {
		return bgp.RF_IPv4_UC
	}
	return bgp.RF_IPv6_UC
}

// spell returns the path attributes of r as they go on the wire.
func (l *ledger) spell(r *loadbalancer.Route) (string, error) {
	key := l.scratch[:0]
	if l.peer.IBGP() {
		key = binary.BigEndian.AppendUint32(key, r.LocalPref)
	} else {
		key = append(key, r.Prepend)
	}
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
		s.attributes, s.err = encodeAttributes(l.peer, l.terms.as4, l.nextHop, r)
		if len(s.attributes) > maxMessage-updateLen-maxPrefix {
			s.err = fmt.Errorf("its attributes take %d bytes, and a BGP message has only %d: use fewer communities",
				len(s.attributes), maxMessage)
		}
		l.spelled[string(key)] = s
	}
	if s.err != nil {
		return "", fmt.Errorf("%s cannot be announced: %w", r.Prefix, s.err)
	}
	return s.attributes, nil
}

func encodeAttributes(peer loadbalancer.Peer, as4 bool, nextHop netip.Addr, r *loadbalancer.Route) (string, error) {
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
	attributes := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeAsPath(path),
		bgp.NewPathAttributeNextHop(nextHop.String()),
	}
	if peer.IBGP() {
		// Mandatory on iBGP (RFC 4271 §5.1.5): FRR withdraws a route without it, BIRD forgives. Never on eBGP.
		attributes = append(attributes, bgp.NewPathAttributeLocalPref(r.LocalPref))
	}
	if len(r.Communities) > 0 {
		var communities []uint32
		for _, c := range r.Communities {
			communities = append(communities, uint32(c))
		}
		attributes = append(attributes, bgp.NewPathAttributeCommunities(communities))
	}
	if path4 != nil {
		attributes = append(attributes, bgp.NewPathAttributeAs4Path(path4))
	}
	if len(r.LargeCommunities) > 0 {
		var communities []*bgp.LargeCommunity
		for _, c := range r.LargeCommunities {
			communities = append(communities, bgp.NewLargeCommunity(c.Global, c.Local1, c.Local2))
		}
		attributes = append(attributes, bgp.NewPathAttributeLargeCommunities(communities))
	}

	var b strings.Builder
	for _, a := range attributes {
		encoded, err := a.Serialize()
		if err != nil {
			return "", err
		}
		b.Write(encoded)
	}
	return b.String(), nil
}

// appendAnnouncements appends UPDATEs for all changes, which are sorted by attributes: one message for as many prefixes
// with the same attributes as it holds.
func appendAnnouncements(b []byte, changed []change) ([]byte, int) {
	messages := 0
	for len(changed) > 0 {
		attributes := changed[0].attributes
		start := len(b)
		b = append(appendHeader(b, bgp.BGP_MSG_UPDATE), 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(attributes)))
		b = append(b, attributes...)
		for len(changed) > 0 && changed[0].attributes == attributes && len(b)-start+maxPrefix <= maxMessage {
			b = appendPrefix(b, changed[0].prefix)
			changed = changed[1:]
		}
		setLength(b[start:])
		messages++
	}
	return b, messages
}

// appendWithdrawals appends as few UPDATEs as withdraw all these prefixes.
func appendWithdrawals(b []byte, gone []netip.Prefix) ([]byte, int) {
	messages := 0
	for len(gone) > 0 {
		start := len(b)
		b = append(appendHeader(b, bgp.BGP_MSG_UPDATE), 0, 0)
		// Two bytes are still to come, for the length of no attributes.
		for len(gone) > 0 && len(b)-start+maxPrefix+2 <= maxMessage {
			b = appendPrefix(b, gone[0])
			gone = gone[1:]
		}
		binary.BigEndian.PutUint16(b[start+headerLen:], uint16(len(b)-start-headerLen-2))
		b = append(b, 0, 0)
		setLength(b[start:])
		messages++
	}
	return b, messages
}

func appendPrefix(b []byte, prefix netip.Prefix) []byte {
	addr := prefix.Addr().As4()
	b = append(b, byte(prefix.Bits()))
	return append(b, addr[:(prefix.Bits()+7)/8]...)
}

// endOfRIB says that the initial table of IPv4 unicast is complete (RFC 4724 §2): routers that kept routes from before a
// restart now forget those that were not in it.
var endOfRIB = func() []byte {
	b := append(appendHeader(nil, bgp.BGP_MSG_UPDATE), 0, 0, 0, 0)
	setLength(b)
	return b
}()
