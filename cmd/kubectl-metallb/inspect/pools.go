package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/metallb/cloud-provider-metallb/service"
)

// Pools are those in force, and who waits for an address.
type Pools struct {
	Pools   []Pool    `json:"pools"`
	Waiting []Waiting `json:"waiting"`
	Unread  []Unread  `json:"unread,omitempty"`
}

// A Pool is how much of a pool is used, by whom.
type Pool struct {
	Name       string   `json:"name"`
	Ranges     []string `json:"ranges"`
	AutoAssign bool     `json:"autoAssign"`
	Priority   int      `json:"priority"`
	Usage      []Usage  `json:"usage"`
	Holders    []Holder `json:"holders"`
}

// Usage counts the addresses of one family. An IPv6 pool may have more than any integer counts.
type Usage struct {
	Family string  `json:"family"`
	Size   float64 `json:"size"`
	Used   int     `json:"used"`
	Free   float64 `json:"free"`
}

// A Holder is a Service that holds an address.
type Holder struct {
	Address netip.Addr `json:"address"`
	Service string     `json:"service"`
}

// Waiting is a Service that does not have what it asks for. With an address, it keeps that meanwhile.
type Waiting struct {
	Service   string       `json:"service"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Why       string       `json:"why"`
}

// Pools describes one pool, or all.
func (v *View) Pools(name string) (Pools, error) {
	all := Pools{Pools: []Pool{}, Waiting: v.waiting(), Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, Nodes)...)}
	usage, holdings := v.allocator.Usage(), v.allocator.Holdings()
	for _, p := range v.config().Pools {
		if name != "" && p.Name != name {
			continue
		}
		pool := Pool{Name: p.Name, AutoAssign: p.AutoAssign, Priority: p.Priority, Ranges: []string{}, Holders: []Holder{}}
		for _, r := range p.Ranges {
			text := r.String()
			if prefix, ok := r.Prefix(); ok {
				text = prefix.String()
			}
			pool.Ranges = append(pool.Ranges, text)
		}
		for _, u := range usage {
			if u.Pool == p.Name {
				pool.Usage = append(pool.Usage, Usage{u.Family.String(), u.Total, u.InUse, max(0, u.Total-float64(u.InUse))})
			}
		}
		for _, h := range holdings {
			if owner := v.config().Pool(h.Addr); owner != nil && owner.Name == p.Name {
				pool.Holders = append(pool.Holders, Holder{h.Addr, h.Service})
			}
		}
		all.Pools = append(all.Pools, pool)
	}
	if name != "" && len(all.Pools) == 0 {
		return all, unknown("pool named", name, v.PoolNames())
	}
	return all, nil
}

// waiting returns the Services that lack what they ask for, those without any address first.
func (v *View) waiting() []Waiting {
	all := []Waiting{}
	for _, svc := range v.services {
		if !v.Ours.Serves(svc.Service) || svc.DeletionTimestamp != nil {
			continue
		}
		held := v.allocator.Held(string(svc.UID))
		why, grant := v.waitsFor(svc.Service)
		switch conflict := v.conflicts[string(svc.UID)]; {
		case v.Config == nil && len(held) == 0:
			why = v.noConfig()
		case !conflict.None():
			why = conflict.String()
		case why == "" && len(held) == 0:
			why = fmt.Sprintf("%s would be given to it: does the controller manager run?", service.InWords(grant))
		}
		if why != "" {
			all = append(all, Waiting{service.Name(svc.Service), held, why})
		}
	}
	slices.SortStableFunc(all, func(a, b Waiting) int { return cmp.Compare(min(1, len(a.Addresses)), min(1, len(b.Addresses))) })
	return all
}
