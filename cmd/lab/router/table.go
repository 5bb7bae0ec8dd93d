package router

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

var (
	ipv4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	ipv6 = &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
)

// A Path is one way to a prefix, as one peer announced it.
type Path struct {
	Prefix           netip.Prefix
	NextHop          netip.Addr
	From             netip.Addr // the peer
	Origin           string     // IGP, EGP or incomplete
	ASPath           []uint32
	LocalPref        *uint32  // nil: the peer sent none
	MED              *uint32  // nil: the peer sent none
	Communities      []string // such as 65535:65281
	LargeCommunities []string // such as 64500:1:2
	LinkBandwidth    float32  // in bytes per second; 0: the peer sent none
	Stale            bool     // kept for a peer that is gone (graceful restart)
}

// Table is everything the router knows, best paths and others, sorted by prefix, next hop and peer. It is empty after Stop.
func (r *Router) Table() []Path {
	var paths []Path
	for _, family := range []*api.Family{ipv4, ipv6} {
		request := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: family}
		_ = r.server.ListPath(context.Background(), request, func(destination *api.Destination) { // fails only after Stop
			for _, path := range destination.Paths {
				paths = append(paths, parse(destination.Prefix, path))
			}
		})
	}
	slices.SortFunc(paths, func(a, b Path) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), a.NextHop.Compare(b.NextHop), a.From.Compare(b.From))
	})
	return paths
}

// parse panics at what GoBGP cannot have let in: the lab would rather stop than show a table that is not the router's.
func parse(prefix string, from *api.Path) Path {
	path := Path{Prefix: netip.MustParsePrefix(prefix), Stale: from.Stale}
	path.From, _ = netip.ParseAddr(from.NeighborIp) // invalid for a route of the router's own
	attributes, err := apiutil.GetNativePathAttributes(from)
	if err != nil {
		panic(err)
	}
	for _, attribute := range attributes {
		switch a := attribute.(type) {
		case *bgp.PathAttributeNextHop:
			path.NextHop = toAddr(a.Value)
		case *bgp.PathAttributeMpReachNLRI:
			path.NextHop = toAddr(a.Nexthop)
		case *bgp.PathAttributeOrigin:
			path.Origin = []string{"IGP", "EGP", "incomplete"}[a.Value]
		case *bgp.PathAttributeMultiExitDisc:
			path.MED = &a.Value
		case *bgp.PathAttributeAsPath:
			for _, segment := range a.Value {
				path.ASPath = append(path.ASPath, segment.GetAS()...)
			}
		case *bgp.PathAttributeLocalPref:
			path.LocalPref = &a.Value
		case *bgp.PathAttributeCommunities:
			for _, community := range a.Value {
				path.Communities = append(path.Communities, fmt.Sprintf("%d:%d", community>>16, community&0xffff))
			}
		case *bgp.PathAttributeExtendedCommunities:
			for _, c := range a.Value {
				// GoBGP has several types for it.
				if b, err := c.Serialize(); err == nil && bgp.ExtendedCommunityAttrSubType(b[1]) == bgp.EC_SUBTYPE_LINK_BANDWIDTH {
					path.LinkBandwidth = math.Float32frombits(binary.BigEndian.Uint32(b[4:]))
				}
			}
		case *bgp.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				path.LargeCommunities = append(path.LargeCommunities, fmt.Sprintf("%d:%d:%d", c.ASN, c.LocalData1, c.LocalData2))
			}
		}
	}
	return path
}

func toAddr(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// NextHops are the routers, here: the nodes, that the router may send traffic for a prefix to, sorted, each once.
func (r *Router) NextHops(prefix netip.Prefix) []netip.Addr {
	return NextHops(r.Table(), prefix)
}

// NextHops are those of a prefix in a table, sorted, each once: what a condition of Wait asks for most.
func NextHops(paths []Path, prefix netip.Prefix) []netip.Addr {
	found := map[netip.Addr]bool{}
	for _, path := range paths {
		if path.Prefix == prefix {
			found[path.NextHop] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), netip.Addr.Compare)
}

// Print shows the sessions and the table to a person.
func (r *Router) Print(w io.Writer) error {
	sessions := r.Sessions()
	var up, down []string
	for _, addr := range slices.SortedFunc(maps.Keys(sessions), netip.Addr.Compare) {
		if sessions[addr] {
			up = append(up, addr.String())
		} else {
			down = append(down, addr.String())
		}
	}
	if _, err := fmt.Fprintf(w, "sessions up: %s; down: %s\n", list(up, ", "), list(down, ", ")); err != nil {
		return err
	}
	return Print(w, r.Table())
}

// String is what Print prints.
func (r *Router) String() string {
	var text strings.Builder
	_ = r.Print(&text) // a strings.Builder takes everything
	return text.String()
}

// Print shows a sorted table, with paths that differ only in their next hop on one line.
func Print(w io.Writer, paths []Path) error {
	type line struct{ prefix, asPath, pref, communities string }
	var lines []line
	nextHops := map[line][]string{}
	for _, path := range paths {
		l := line{prefix: path.Prefix.String(), pref: "-"}
		asPath := make([]string, 0, len(path.ASPath))
		for _, asn := range path.ASPath {
			asPath = append(asPath, fmt.Sprint(asn))
		}
		l.asPath = list(asPath, " ")
		if path.LocalPref != nil {
			l.pref = fmt.Sprint(*path.LocalPref)
		}
		l.communities = list(slices.Concat(path.Communities, path.LargeCommunities), " ")
		if _, known := nextHops[l]; !known {
			lines = append(lines, l)
		}
		hop := path.NextHop.String()
		if path.Stale {
			hop += " (stale)"
		}
		nextHops[l] = append(nextHops[l], hop)
	}
	columns := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(columns, "PREFIX\tNEXT HOPS\tAS PATH\tLOCAL PREF\tCOMMUNITIES")
	for _, l := range lines {
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%s\n", l.prefix, list(nextHops[l], ", "), l.asPath, l.pref, l.communities)
	}
	return columns.Flush()
}

// list is a dash when there is nothing to list.
func list(items []string, separator string) string {
	if len(items) == 0 {
		return "-"
	}
	return strings.Join(items, separator)
}
