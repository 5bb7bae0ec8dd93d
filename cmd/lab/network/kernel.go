package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Hop is one of the ways that a kernel has for packets to a prefix.
type Hop struct {
	Via    netip.Addr
	Weight int // 1 unless the route says more
}

func (h Hop) String() string { return fmt.Sprintf("%s*%d", h.Via, h.Weight) }

// Routes are those that routing daemons have put into the kernel, each with its ways, sorted.
func (ns *Namespace) Routes(ctx context.Context) (map[netip.Prefix][]Hop, error) {
	routes := map[netip.Prefix][]Hop{}
	for _, family := range []string{"-4", "-6"} {
		text, err := runFor(ctx, "ip", "-n", ns.ID, family, "-json", "route", "show")
		if err != nil {
			return nil, err
		}
		if err := parseRoutes(routes, []byte(text)); err != nil {
			return nil, fmt.Errorf("routes of namespace %s: %w", ns.Name, err)
		}
	}
	return routes, nil
}

// daemons are the protocols of routes that routing daemons install, as /etc/iproute2/rt_protos calls them.
var daemons = []string{"bgp", "bird"}

// A way is what ip says about one.
type way struct {
	Gateway string
	Via     struct{ Host string } // of the other IP version (RFC 8950)
	Weight  int
}

func parseRoutes(into map[netip.Prefix][]Hop, text []byte) error {
	var routes []struct {
		way
		Dst, Protocol string
		NextHops      []way
	}
	if err := json.Unmarshal(text, &routes); err != nil {
		return err
	}
	for _, r := range routes {
		if !slices.Contains(daemons, r.Protocol) {
			continue
		}
		prefix, err := parsePrefix(r.Dst)
		if err != nil {
			return err
		}
		ways := r.NextHops
		if len(ways) == 0 {
			ways = []way{r.way}
		}
		for _, w := range ways {
			via, err := netip.ParseAddr(w.Gateway + w.Via.Host)
			if err != nil {
				return fmt.Errorf("route to %s: %w", r.Dst, err)
			}
			into[prefix] = append(into[prefix], Hop{via, max(w.Weight, 1)})
		}
		slices.SortFunc(into[prefix], func(a, b Hop) int { return a.Via.Compare(b.Via) })
	}
	return nil
}

// parsePrefix reads a prefix as ip prints it: without its length if it is one address.
func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	return netip.PrefixFrom(addr, addr.BitLen()), err
}
