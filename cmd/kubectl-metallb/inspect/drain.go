package inspect

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// A Drain is what the drain of a node would move.
type Drain struct {
	Node string `json:"node"`
	// Already is why the node is being drained, if it is.
	Already string   `json:"already,omitempty"`
	Moves   []Move   `json:"moves"`
	Unread  []Unread `json:"unread,omitempty"`
}

// A Move is a prefix that routers would send to other nodes.
type Move struct {
	Prefix   netip.Prefix `json:"prefix"`
	Services []string     `json:"services"`
	To       []string     `json:"to"` // nodes that announce it as well; none: there is no other path
	// Alone are the peers that hear it from no other node. They may learn another path from other routers.
	Alone []string `json:"alone"`
}

// Stranded are the prefixes that no other node announces.
func (d Drain) Stranded() (all []Move) {
	for _, m := range d.Moves {
		if len(m.To) == 0 {
			all = append(all, m)
		}
	}
	return all
}

// Drain tells what becomes of the routes of a node that is drained.
func (v *View) Drain(name string) (Drain, error) {
	node, err := v.node(name)
	if err != nil {
		return Drain{}, err
	}
	d := Drain{Node: name, Moves: []Move{}, Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, EndpointSlices, Nodes, Pods)...)}
	type path struct {
		prefix netip.Prefix
		router netip.AddrPort
	}
	o := v.now(node)
	d.Already = o.drained
	alone := map[path]string{} // by the names of their peers
	moves := map[netip.Prefix]*Move{}
	for _, p := range o.peers {
		for _, r := range o.hears(p) {
			alone[path{r.Prefix, routerOf(p)}] = p.Name
			moves[r.Prefix] = &Move{Prefix: r.Prefix, Services: []string{}, To: []string{}, Alone: []string{}}
		}
	}
	for other, o := range ahead(v.nodes, v.now) {
		if other == node || v.speakerOf(other.Name) == speakerNone && len(v.speakers) > 0 {
			continue
		}
		label := other.Name
		if o.drained != "" {
			label += " (drained as well)"
		}
		for _, p := range o.peers {
			for _, r := range o.hears(p) {
				delete(alone, path{r.Prefix, routerOf(p)})
				if m := moves[r.Prefix]; m != nil && !slices.Contains(m.To, label) {
					m.To = append(m.To, label)
				}
			}
		}
	}
	for at, peer := range alone {
		moves[at.prefix].Alone = append(moves[at.prefix].Alone, peer)
	}
	for _, svc := range v.services {
		if !v.Ours.Serves(svc.Service) {
			continue
		}
		for _, addr := range service.Addresses(svc.Service) {
			for _, r := range speaker.RoutesOf(v.config(), svc.Service, addr, node.Labels) {
				m := moves[r.Prefix]
				if m != nil && !slices.Contains(m.Services, service.Name(svc.Service)) && o.withheld[speaker.Announced{Service: service.Name(svc.Service), Addr: addr}] == "" {
					m.Services = append(m.Services, service.Name(svc.Service))
				}
			}
		}
	}
	for _, m := range moves {
		slices.Sort(m.Alone)
		d.Moves = append(d.Moves, *m)
	}
	slices.SortFunc(d.Moves, func(a, b Move) int { return comparePrefixes(a.Prefix, b.Prefix) })
	return d, nil
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func routerOf(p loadbalancer.Peer) netip.AddrPort { return netip.AddrPortFrom(p.Addr, p.Port) }
