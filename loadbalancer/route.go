package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Route is one prefix as routers should hear it.
type Route struct {
	Prefix netip.Prefix
	// LocalPref is sent on iBGP sessions, always, and never on eBGP.
	LocalPref        uint32
	Communities      []Community      // sorted, each once
	LargeCommunities []LargeCommunity // sorted, each once
	// Prepend is how many more times than once our AS number stands in the AS_PATH on eBGP sessions; at most 10.
	Prepend uint8
	// Weight is this node's share of the traffic, in proportion to what other nodes announce; 0: the route carries none.
	Weight uint16
	// Primaries is how many nodes are to announce the route as it is, the others as a spare; 0: all nodes alike, as in every
	// route that a router hears.
	Primaries uint8
	// Peers are names of the peers that hear the route, sorted; none means all.
	Peers []string
}

// String writes the route as an operator would: prefix, local preference, communities, prepends, weight, primaries, peers.
func (r Route) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s pref %d", r.Prefix, r.LocalPref)
	if len(r.Communities)+len(r.LargeCommunities) > 0 {
		var all []string
		for _, c := range r.Communities {
			all = append(all, c.String())
		}
		for _, c := range r.LargeCommunities {
			all = append(all, c.String())
		}
		fmt.Fprintf(&b, " [%s]", strings.Join(all, " "))
	}
	if r.Prepend > 0 {
		fmt.Fprintf(&b, " prepend %d", r.Prepend)
	}
	if r.Weight > 0 {
		fmt.Fprintf(&b, " weight %d", r.Weight)
	}
	if r.Primaries > 0 {
		fmt.Fprintf(&b, " primaries %d", r.Primaries)
	}
	if len(r.Peers) > 0 {
		fmt.Fprintf(&b, " to %s", strings.Join(r.Peers, ","))
	}
	return b.String()
}

// with returns the route with the communities of another one added.
func (r Route) with(s Route) Route {
	if len(s.Communities) > 0 {
		r.Communities = sorted(slices.Concat(r.Communities, s.Communities))
	}
	if len(s.LargeCommunities) > 0 {
		r.LargeCommunities = slices.Concat(r.LargeCommunities, s.LargeCommunities)
		slices.SortFunc(r.LargeCommunities, LargeCommunity.Compare)
		r.LargeCommunities = slices.Compact(r.LargeCommunities)
	}
	return r
}

// add adds the two numbers of a community, or the three of a large one.
func (r *Route) add(numbers []uint32) {
	switch len(numbers) {
	case 2:
		r.Communities = append(r.Communities, Community(numbers[0]<<16|numbers[1]))
	case 3:
		r.LargeCommunities = append(r.LargeCommunities, LargeCommunity{numbers[0], numbers[1], numbers[2]})
	}
}

// size is how many bytes the communities take in a BGP message.
func (r Route) size() int { return 4*len(r.Communities) + 12*len(r.LargeCommunities) }

// Equal reports whether routers hear the same from both.
func (r Route) Equal(s Route) bool {
	return r.Prefix == s.Prefix && r.LocalPref == s.LocalPref && r.Prepend == s.Prepend && r.Weight == s.Weight && r.Primaries == s.Primaries &&
		slices.Equal(r.Communities, s.Communities) && slices.Equal(r.LargeCommunities, s.LargeCommunities) &&
		slices.Equal(r.Peers, s.Peers)
}

// alike reports whether both have the same attributes, whoever hears them.
func (r Route) alike(s Route) bool {
	s.Prefix, s.Peers = r.Prefix, r.Peers
	return r.Equal(s)
}

// For reports whether the peer with that name hears the route.
func (r Route) For(peer string) bool {
	return len(r.Peers) == 0 || slices.Contains(r.Peers, peer)
}

// A Community is a BGP community (RFC 1997).
type Community uint32

// String writes the community as two 16-bit numbers, 65535:65281.
func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xffff) }

// A LargeCommunity is a BGP large community (RFC 8092).
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

// String writes the community as the configuration does, large:64500:1:2.
func (c LargeCommunity) String() string {
	return fmt.Sprintf("large:%d:%d:%d", c.Global, c.Local1, c.Local2)
}

// Compare orders by the three numbers in turn.
func (c LargeCommunity) Compare(d LargeCommunity) int {
	return cmp.Or(cmp.Compare(c.Global, d.Global), cmp.Compare(c.Local1, d.Local1), cmp.Compare(c.Local2, d.Local2))
}
