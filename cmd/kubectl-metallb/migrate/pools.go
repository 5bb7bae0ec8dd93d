package migrate

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A pool is an IPAddressPool, or an AddressPool of v0.13.
type pool struct {
	*object
	addresses []string
	auto      bool
	families  [2]bool // IPv4, IPv6
	ads       []*advertisement
	layer2    []*object // the L2Advertisements that select it
	// pinned pools, which say whom they are for, are tried before the others. Of those, one without a priority is tried last.
	pinned   bool
	priority int64
	yaml     *yaml.Node
}

// start begins a pool with what all kinds of it have.
func (c *converter) start(o *object) *pool {
	p := &pool{object: o, yaml: mapping(), addresses: o.spec("addresses").list()}
	p.yaml.HeadComment = from(o)
	automatic, said := o.spec("autoAssign").truth()
	p.auto = automatic || !said
	for _, a := range p.addresses {
		if strings.Contains(a, ":") {
			p.families[1] = true
		} else {
			p.families[0] = true
		}
	}
	put(p.yaml, "name", text(o.name))
	put(p.yaml, "addresses", words(p.addresses))
	if !p.auto {
		put(p.yaml, "auto-assign", plain(false))
	}
	c.pools = append(c.pools, p)
	return p
}

func (c *converter) pool(o *object) {
	p := c.start(o)
	if o.spec("avoidBuggyIPs").isTrue() {
		put(p.yaml, "avoid-buggy-ips", plain(true))
	}
	allocation := o.spec("serviceAllocation")
	p.pinned = !allocation.absent()
	if n, ok := allocation.at("priority").number(); ok {
		p.priority = n
	}
	put(p.yaml, "namespaces", words(allocation.at("namespaces").list()))
	put(p.yaml, "namespace-selectors", selectors(allocation.at("namespaceSelectors").selectors()))
	put(p.yaml, "service-selectors", selectors(allocation.at("serviceSelectors").selectors()))
	if nobody := len(allocation.at("namespaces").items())+len(allocation.at("namespaceSelectors").items())+len(allocation.at("serviceSelectors").items()) == 0; p.pinned && nobody && p.auto {
		// MetalLB gives such a pool's addresses to those only who ask for them.
		p.auto = false
		put(p.yaml, "auto-assign", plain(false))
		c.about(Kept, allocation, "", "says nobody whom the pool is for: its addresses are for Services that ask for them, here by auto-assign: false")
	}
}

// prioritize writes priorities by which pools are tried in MetalLB's order: those that say whom they are for by their priority, then
// those of them that have none, then the others.
func (c *converter) prioritize(pools []*pool) {
	var most int64
	unranked := false
	for _, p := range pools {
		most = max(most, p.priority)
		unranked = unranked || p.pinned && p.priority == 0 && p.auto
	}
	random := map[int64]*pool{}
	for _, p := range pools {
		rank := p.priority
		switch {
		case p.pinned && p.priority == 0:
			if rank = most + 1; most == 0 {
				rank = 0
			}
			if f := p.spec("serviceAllocation").at("priority"); !f.absent() {
				c.about(Kept, f, "", "0 is last in MetalLB and first here: it becomes %d", rank)
			}
		case !p.pinned && unranked:
			rank = most + 2
		case !p.pinned && most > 0:
			rank = most + 1
		}
		if rank != 0 && (p.auto || p.priority != 0) {
			put(p.yaml, "priority", plain(rank))
		}
		if other := random[rank]; !p.auto {
			continue
		} else if other != nil {
			c.remark(Differs, p.object, "", "give one of them another priority, if it matters", "is tried by MetalLB in no particular order with %s, and here in the order of the text", other)
		}
		random[rank] = p
	}
}

// poolsYAML returns the pools that are announced by BGP, or by nobody.
func (c *converter) poolsYAML() *yaml.Node {
	list := sequence()
	var here []*pool
	for _, p := range c.pools {
		switch {
		case len(p.ads) > 0:
			here = append(here, p)
		case len(p.layer2) > 0 || p.spec("protocol").is("layer2"):
			c.remark(Unsaid, p.object, "", "keep MetalLB for it, as docs/how-to.md says under Services of layer 2; or announce it by BGP", "is announced by layer 2, which is not spoken here: it is left out")
			p.yaml = nil
		default:
			put(p.yaml, "advertise", plain(false))
			c.remark(Kept, p.object, "", "", "is selected by no advertisement, so that nobody announces it: advertise: false")
			here = append(here, p)
		}
	}
	c.prioritize(here)
	for _, p := range here {
		ads := sequence()
		united := c.unite(p)
		for _, a := range united {
			ads.Content = append(ads.Content, c.advertisement(p, a))
		}
		if len(united) > 0 {
			put(p.yaml, "advertisements", ads)
		}
		list.Content = append(list.Content, p.yaml)
		c.remark(Kept, p.object, "", "", "is the pool %s: %s", p.name, strings.Join(p.addresses, ", "))
	}
	return list
}

// legacyPool converts an AddressPool, which v0.13 still had, with the advertisements in it.
func (c *converter) legacyPool(o *object) {
	p := c.start(o)
	if p.spec("protocol").text() == "layer2" {
		return
	}
	for _, item := range o.spec("bgpAdvertisements").items() {
		p.ads = append(p.ads, c.read(o, item))
	}
	if len(p.ads) == 0 {
		p.ads = []*advertisement{{objects: []*object{o}}}
	}
}

func (c *converter) l2Advertisement(o *object) {
	for _, key := range []string{"nodeSelectors", "interfaces", "serviceSelectors", "preferredNodeSelectors"} {
		if f := o.spec(key); !f.absent() {
			c.about(Unsaid, f, "nothing", "stays with MetalLB, as all of layer 2")
		}
	}
	names := map[string]bool{}
	for _, p := range c.selected(o) {
		p.layer2 = append(p.layer2, o)
		names[p.name] = true
	}
	c.remark(Unsaid, o, "", "keep MetalLB for these pools, as docs/how-to.md says under Services of layer 2; or announce them by BGP",
		"layer 2 is not spoken here: it stays with MetalLB, for %s", pools(sortedKeys(names)))
}

func pools(names []string) string {
	switch len(names) {
	case 0:
		return "no pool"
	case 1:
		return "pool " + names[0]
	}
	return fmt.Sprintf("pools %s", strings.Join(names, ", "))
}

// selected returns the pools that an advertisement is for: without any selection, all.
func (c *converter) selected(o *object) (all []*pool) {
	named, labelled := o.spec("ipAddressPools"), o.spec("ipAddressPoolSelectors")
	names, chosen := named.list(), labelled.selectors()
	for _, p := range c.pools {
		if p.kind == "AddressPool" {
			continue // it has its own
		}
		if len(names)+len(chosen) == 0 || slices.Contains(names, p.name) || len(chosen) > 0 && loadbalancer.Selects(chosen, p.labels) {
			all = append(all, p)
		}
	}
	for i, name := range names {
		if !slices.ContainsFunc(c.pools, func(p *pool) bool { return p.name == name && p.kind == "IPAddressPool" }) {
			c.about(Kept, named.items()[i], "", "%s is no IPAddressPool, and without effect there as here", name)
		}
	}
	return all
}
