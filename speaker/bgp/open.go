package bgp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// families are what we announce.
var families = []bgp.RouteFamily{bgp.RF_IPv4_UC, bgp.RF_IPv6_UC}

// ownFamily is that of the session's own packets, the one that an OPEN which offers little offers.
func ownFamily(peer loadbalancer.Peer) bgp.RouteFamily {
	return familyOf(netip.PrefixFrom(peer.Addr, 0))
}

// offered are the families that an OPEN offers.
func offered(peer loadbalancer.Peer, reduced bool) []bgp.RouteFamily {
	if reduced {
		return []bgp.RouteFamily{ownFamily(peer)}
	}
	return families
}

// openMessage returns our OPEN. restarting says that the router has not been up since our process started, forwarding that
// the host kept forwarding meanwhile (RFC 4724's R and F bits). A reduced OPEN offers only what no router refuses. In a wide
// one, the lengths of the optional parameters have two bytes (RFC 9072).
//
// Not offered: our host name (routers show it to everybody), messages of more than 4096 bytes (the codec refuses them), and
// the N bit (RFC 8538: with it a dead node's routes would outlive the hold time).
func openMessage(peer loadbalancer.Peer, restarting, forwarding, reduced, wide bool) ([]byte, error) {
	families := offered(peer, reduced)
	var capabilities []bgp.ParameterCapabilityInterface
	for _, family := range families {
		capabilities = append(capabilities, bgp.NewCapMultiProtocol(family))
	}
	capabilities = append(capabilities, bgp.NewCapFourOctetASNumber(peer.MyASN))
	if !reduced {
		capabilities = append(capabilities, bgp.NewCapRouteRefresh())
	}
	if !reduced && peer.Addr.Is6() {
		// IPv4 prefixes whose next hop is our address in this session (RFC 8950).
		capabilities = append(capabilities, bgp.NewCapExtendedNexthop(
			[]*bgp.CapExtendedNexthopTuple{bgp.NewCapExtendedNexthopTuple(bgp.RF_IPv4_UC, bgp.AFI_IP6)}))
	}
	if !reduced && peer.RestartTime > 0 {
		var kept []*bgp.CapGracefulRestartTuple
		for _, family := range families {
			kept = append(kept, bgp.NewCapGracefulRestartTuple(family, forwarding))
		}
		capabilities = append(capabilities, bgp.NewCapGracefulRestart(restarting, false, uint16(restartTime(peer)/time.Second), kept))
	}
	b, err := bgp.NewBGPOpenMessage(asn16(peer.MyASN), uint16(peer.HoldTime/time.Second), peer.RouterID.String(),
		[]bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(capabilities)}).Serialize()
	if err != nil || !wide {
		return b, err
	}
	const paramsAt = headerLen + 9 // their length, then the one parameter: type, length, value
	list := b[paramsAt+3:]
	b, all := reserve(append(slices.Clone(b[:paramsAt]), extendedLength, extendedLength))
	b, one := reserve(append(b, bgp.BGP_OPT_CAPABILITY))
	b = append(b, list...)
	patch(b, one)
	patch(b, all)
	setLength(b)
	return b, nil
}

// restartTime is what the router is told, in whole seconds, of which 12 bits count.
func restartTime(peer loadbalancer.Peer) time.Duration {
	return min(peer.RestartTime.Truncate(time.Second), 4095*time.Second)
}

// asn16 is asn where only 2 bytes are left for it (RFC 6793).
func asn16(asn uint32) uint16 {
	if asn > 65535 {
		return bgp.AS_TRANS
	}
	return uint16(asn)
}

// Terms are what we and a router agree on.
type terms struct {
	asn      uint32 // the router's
	as4      bool // AS_PATH has 4 bytes a number
	families []bgp.RouteFamily
	extended bool          // IPv4 prefixes may have IPv6 next hops
	hold     time.Duration // 0: no timers
	// keepalive is the pause between two KEEPALIVEs, before jitter.
	keepalive time.Duration
	restart   time.Duration // for which the router keeps the routes when we go without a word; 0: it does not
}

// shown are the terms as others are shown them.
func (t terms) shown() *report.Terms {
	all := &report.Terms{
		HoldTime: int(t.hold / time.Second), KeepaliveTime: int(t.keepalive / time.Second), RestartTime: int(t.restart / time.Second),
		FourOctetAS: t.as4, ExtendedNextHop: t.extended,
	}
	for _, family := range t.families {
		all.Families = append(all.Families, map[bgp.RouteFamily]string{bgp.RF_IPv4_UC: "IPv4", bgp.RF_IPv6_UC: "IPv6"}[family])
	}
	return all
}

// badOpen refuses the router's OPEN.
func badOpen(subcode uint8, data []byte, format string, args ...any) *notification {
	return &notification{code: bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, subcode: subcode, data: data, why: fmt.Sprintf(format, args...)}
}

func malformedOpen(format string, args ...any) *notification {
	return badOpen(0, nil, "the router's OPEN is malformed: "+format, args...)
}

// negotiate reads the body of the router's OPEN, of which readMessage has made sure that it has at least 10 bytes. It
// returns a *notification if there can be no session. What a reduced OPEN of ours did not offer is not agreed on.
func negotiate(peer loadbalancer.Peer, body []byte, reduced bool) (terms, error) {
	if body[0] != 4 {
		return terms{}, badOpen(bgp.BGP_ERROR_SUB_UNSUPPORTED_VERSION_NUMBER, []byte{0, 4},
			"the router speaks version %d of BGP", body[0])
	}
	theirs, err := readCapabilities(body[9:])
	if err != nil {
		return terms{}, err
	}
	asn, hold, id := uint32(binary.BigEndian.Uint16(body[1:])), binary.BigEndian.Uint16(body[3:]), netip.AddrFrom4([4]byte(body[5:]))
	if theirs.asn != nil {
		asn = *theirs.asn
	}
	if err := peer.ExpectsASN(asn); err != nil {
		return terms{}, badOpen(bgp.BGP_ERROR_SUB_BAD_PEER_AS, nil, "%v", err)
	}
	if id.IsUnspecified() {
		return terms{}, badOpen(bgp.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER, nil, "the router has no router ID")
	}
	if peer.IBGP() && id == peer.RouterID {
		return terms{}, badOpen(bgp.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER, nil, "the router has the same router ID as we, %s", id)
	}
	if hold == 1 || hold == 2 {
		return terms{}, badOpen(bgp.BGP_ERROR_SUB_UNACCEPTABLE_HOLD_TIME, nil,
			"the router offers a hold time of %d s: BGP allows 0, or at least 3 s", hold)
	}

	t := terms{asn: asn, as4: theirs.asn != nil, extended: theirs.extended && peer.Addr.Is6() && !reduced, hold: min(peer.HoldTime, time.Duration(hold)*time.Second)}
	t.keepalive = min(peer.KeepaliveTime, t.hold/3)
	if theirs.keeps && !reduced {
		t.restart = restartTime(peer)
	}
	for _, family := range offered(peer, reduced) {
		// A router that says nothing about families speaks IPv4 (RFC 4760 §8).
		if slices.Contains(theirs.families, family) || len(theirs.families) == 0 && family == bgp.RF_IPv4_UC {
			t.families = append(t.families, family)
		}
	}
	if len(t.families) == 0 {
		// The data say which capability is missing (RFC 5492 §5): multiprotocol, in the session's own family.
		afi, safi := bgp.RouteFamilyToAfiSafi(ownFamily(peer))
		return terms{}, badOpen(bgp.BGP_ERROR_SUB_UNSUPPORTED_CAPABILITY, []byte{1, 4, byte(afi >> 8), byte(afi), 0, safi},
			"the router offers neither IPv4 unicast nor IPv6 unicast: activate a family for this neighbor")
	}
	return t, nil
}

// extendedLength in the place of the first parameter's type says that lengths have two bytes (RFC 9072). FRR writes so if it is
// told to, also where one byte would do; the length before it then means nothing, as long as it is not 0.
const extendedLength = 255

// Capabilities are those of a router that matter to us.
type capabilities struct {
	asn      *uint32 // nil if the router knows only 2-byte AS numbers
	families []bgp.RouteFamily
	extended bool // IPv6 next hops of IPv4 prefixes
	keeps    bool // routes of a speaker that restarts (RFC 4724)
}

// readCapabilities reads the optional parameters of an OPEN, from the byte with their length on.
//
// GoBGP's codec stops without an error at the first capability it cannot read, and misses the AS number if that comes later.
// So all bounds are checked here, and what matters is read here.
func readCapabilities(b []byte) (capabilities, error) {
	var c capabilities
	length, params, wide := int(b[0]), b[1:], false
	if length > 0 && len(params) > 2 && params[0] == extendedLength {
		length, params, wide = int(binary.BigEndian.Uint16(params[1:])), params[3:], true
	}
	if length != len(params) {
		return c, malformedOpen("it announces %d bytes of optional parameters and has %d", length, len(params))
	}
	for len(params) > 0 {
		kind, list, rest, ok := cut(params, wide)
		if !ok {
			return c, malformedOpen("an optional parameter is cut off")
		}
		params = rest
		if kind != bgp.BGP_OPT_CAPABILITY {
			return c, badOpen(bgp.BGP_ERROR_SUB_UNSUPPORTED_OPTIONAL_PARAMETER, nil,
				"the router's OPEN has an optional parameter of unknown type %d", kind)
		}
		for len(list) > 0 {
			code, value, rest, ok := cut(list, false)
			if !ok {
				return c, malformedOpen("capability %d is cut off", list[0])
			}
			list = rest
			switch bgp.BGPCapabilityCode(code) {
			case bgp.BGP_CAP_MULTIPROTOCOL:
				if len(value) != 4 {
					return c, malformedOpen("its multiprotocol capability has %d bytes", len(value))
				}
				c.families = append(c.families, bgp.AfiSafiToRouteFamily(binary.BigEndian.Uint16(value), value[3]))
			case bgp.BGP_CAP_FOUR_OCTET_AS_NUMBER:
				if len(value) != 4 {
					return c, malformedOpen("its capability for 4-byte AS numbers has %d bytes", len(value))
				}
				asn := binary.BigEndian.Uint32(value)
				c.asn = &asn
			case bgp.BGP_CAP_GRACEFUL_RESTART:
				c.keeps = true
			case bgp.BGP_CAP_EXTENDED_NEXTHOP:
				if len(value)%6 != 0 {
					return c, malformedOpen("its capability for extended next hops has %d bytes", len(value))
				}
				// The family has 2 bytes each for AFI and SAFI here, then comes the AFI of the next hop.
				for ; len(value) > 0; value = value[6:] {
					c.extended = c.extended || [6]byte(value) == [6]byte{0, bgp.AFI_IP, 0, bgp.SAFI_UNICAST, 0, bgp.AFI_IP6}
				}
			}
		}
	}
	return c, nil
}

// cut takes the first element off a list of elements that are type, length, value each. A wide length has two bytes.
func cut(b []byte, wide bool) (kind uint8, value, rest []byte, ok bool) {
	header, length := 2, 0
	switch {
	case wide && len(b) >= 3:
		header, length = 3, int(binary.BigEndian.Uint16(b[1:]))
	case !wide && len(b) >= 2:
		length = int(b[1])
	default:
		return 0, nil, nil, false
	}
	if len(b) < header+length {
		return 0, nil, nil, false
	}
	return b[0], b[header : header+length], b[header+length:], true
}
