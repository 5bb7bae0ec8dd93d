package migrate

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// An advertisement is a BGPAdvertisement, or what several of them amount to.
type advertisement struct {
	objects     []*object
	lengths     [2]string // empty: of single addresses
	localpref   string    // empty: MetalLB's default
	prepend     string
	communities []string
	peers       []string // none: all
	nodes       []loadbalancer.Selector
	services    []loadbalancer.Selector
}

var aCommunity = regexp.MustCompile(`^(large:\d+:\d+:\d+|\d+:\d+)$`)

// read reads the fields that all kinds of advertisements have.
func (c *converter) read(o *object, f field) *advertisement {
	a := &advertisement{objects: []*object{o}, localpref: f.at("localPref").text()}
	a.lengths = [2]string{length(f.at("aggregationLength"), "32"), length(f.at("aggregationLengthV6"), "128")}
	if a.localpref == "0" {
		a.localpref = ""
	}
	for _, item := range f.at("communities").items() {
		name := item.text()
		if c.aliases[name] == nil && !aCommunity.MatchString(name) {
			c.about(Refused, item, "add a Community that defines it", "%q is defined by no Community, so that MetalLB refuses it", name)
		}
		a.communities = append(a.communities, name)
	}
	return a
}

func length(f field, usual string) string {
	if n := f.text(); n != usual {
		return n
	}
	return ""
}

func (c *converter) bgpAdvertisement(o *object) {
	a := c.read(o, field{of: o, node: o.root}.at("spec"))
	a.prepend = o.spec("asPathPrepend").text()
	a.nodes, a.services = o.spec("nodeSelectors").selectors(), o.spec("serviceSelectors").selectors()
	if len(a.services) > 0 && a.lengths != [2]string{} {
		c.remark(Refused, o, "spec.serviceSelectors", "leave the aggregation lengths out", "stands beside an aggregation length, which MetalLB refuses")
	}
	names := o.spec("peers")
	for _, item := range names.items() {
		name := item.text()
		if slices.ContainsFunc(c.peers, func(p *peer) bool { return p.name == name }) {
			a.peers = append(a.peers, name)
		} else {
			c.about(Kept, item, "", "%s is no BGPPeer, and without effect there as here", name)
		}
	}
	selected := c.selected(o)
	var chosen []string
	for _, p := range selected {
		chosen = append(chosen, p.name)
	}
	if len(names.items()) > 0 && len(a.peers) == 0 {
		c.remark(Kept, o, "", "", "tells no router: it is left out")
		return
	}
	for _, p := range selected {
		own := *a
		p.ads = append(p.ads, &own)
	}
	c.remark(Kept, o, "", "", "is an advertisement of %s", pools(chosen))
	if a.localpref == "" && c.Options.Mode == "" && c.heardByIBGP(a) {
		c.remark(Differs, o, "spec.localPref", "write localpref: 0 if MetalLB runs in native mode, or tell this command by --mode", "is not set: routers of our own AS hear LOCAL_PREF 0 in MetalLB's native mode, and 100 in its FRR modes and here")
	}
}

func (c *converter) heardByIBGP(a *advertisement) bool {
	return slices.ContainsFunc(c.peers, func(p *peer) bool { return p.ibgp && a.hears(p.name) })
}

func (a *advertisement) hears(peer string) bool {
	return len(a.peers) == 0 || slices.Contains(a.peers, peer)
}

// advertisement writes one of a pool.
func (c *converter) advertisement(p *pool, a *advertisement) *yaml.Node {
	m := mapping()
	m.HeadComment = from(a.objects...)
	if p.families[0] {
		put(m, "aggregation-length", number(a.lengths[0]))
	}
	if p.families[1] {
		put(m, "aggregation-length-v6", number(a.lengths[1]))
	}
	pref := number(a.localpref)
	if pref == nil && c.Options.Mode == "native" && c.heardByIBGP(a) {
		pref = plain(0)
	}
	put(m, "localpref", pref)
	put(m, "as-path-prepend", number(a.prepend))
	put(m, "communities", words(a.communities))
	put(m, "peers", words(a.peers))
	put(m, "node-selectors", selectors(a.nodes))
	put(m, "service-selectors", selectors(a.services))
	return m
}

func number(text string) *yaml.Node {
	if text == "" {
		return nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: text}
}

// same reports for each IP version that the pool has whether both announce the same prefixes.
func (p *pool) same(a, b *advertisement) (some, all bool) {
	all = true
	for f, has := range p.families {
		if has {
			some, all = some || a.lengths[f] == b.lengths[f], all && a.lengths[f] == b.lengths[f]
		}
	}
	return some, all
}

// meets reports whether some node tells some router the same prefix by both.
func (p *pool) meets(a, b *advertisement) bool {
	some, _ := p.same(a, b)
	peers := len(a.peers) == 0 || slices.ContainsFunc(a.peers, b.hears)
	return some && peers && len(both(or(a.nodes), or(b.nodes))) > 0 && len(both(or(a.services), or(b.services))) > 0
}

// unite returns the advertisements of a pool so that no router hears one prefix by two of them. Where MetalLB sends one prefix by
// several, routers hear the communities of all.
func (c *converter) unite(p *pool) (all []*advertisement) {
	left := p.ads
	for len(left) > 0 {
		group := []*advertisement{left[0]}
		left = left[1:]
		for i := 0; i < len(group); i++ {
			left = slices.DeleteFunc(slices.Clone(left), func(a *advertisement) bool {
				meets := !slices.Contains(group, a) && p.meets(group[i], a)
				if meets {
					group = append(group, a)
				}
				return meets
			})
		}
		if c.agree(p, group) {
			all = append(all, c.split(p, group)...)
		}
	}
	return all
}

// agree reports whether a group can be united.
func (c *converter) agree(p *pool, group []*advertisement) bool {
	for i, a := range group {
		for _, b := range group[:i] {
			if !p.meets(a, b) {
				continue
			}
			_, alike := p.same(a, b)
			switch o := a.objects[0]; {
			case a.localpref != b.localpref || a.prepend != b.prepend:
				c.remark(Refused, o, "spec.localPref", "decide for one, or give them other peers or nodes", "contradicts %s about pool %s: one router hears the same prefixes by both, with other attributes, which MetalLB refuses", b.objects[0], p.name)
				return false
			case !alike && !slices.Equal(a.communities, b.communities):
				c.remark(Refused, o, "spec.aggregationLength", "split the pool by IP versions, or give both the same communities", "and %s announce the same prefixes of one IP version of pool %s, and others of the other: their communities cannot be united", b.objects[0], p.name)
				return false
			}
		}
	}
	return true
}

// maxUnited bounds what the union of advertisements of one prefix may take: it has a part for each set of node selectors.
const maxUnited = 5

// split takes a group apart into advertisements that have no node and router in common, each with the communities of all that meet there.
func (c *converter) split(p *pool, group []*advertisement) []*advertisement {
	if len(group) == 1 {
		return group
	}
	var nodes [][]loadbalancer.Selector
	for _, a := range group {
		if !slices.ContainsFunc(nodes, func(n []loadbalancer.Selector) bool { return slices.EqualFunc(n, a.nodes, equal) }) {
			nodes = append(nodes, a.nodes)
		}
	}
	if len(nodes) > maxUnited || len(group) > 2*maxUnited {
		c.remark(Refused, group[0].objects[0], "spec.nodeSelectors", "write fewer advertisements", "and %d more announce the same prefixes of pool %s, with too many different nodeSelectors to unite them", len(group)-1, p.name)
		return nil
	}
	var all []*advertisement
	for set := 1; set < 1<<len(nodes); set++ {
		// The nodes that are selected by exactly these.
		where := []loadbalancer.Selector{{}}
		for i, n := range nodes {
			if set&(1<<i) != 0 {
				where = both(where, or(n))
			} else {
				where = both(where, not(n))
			}
		}
		if len(where) == 0 {
			continue
		}
		if len(where) == 1 && len(where[0]) == 0 {
			where = nil
		}
		var here []*advertisement
		for i, n := range nodes {
			for _, a := range group {
				if set&(1<<i) != 0 && slices.EqualFunc(n, a.nodes, equal) {
					here = append(here, a)
				}
			}
		}
		all = append(all, c.perPeer(here, where)...)
	}
	var names []string
	for _, a := range group {
		names = append(names, a.objects[0].name)
	}
	if c.Options.Mode == "native" {
		c.remark(Differs, p.object, "", "take away what routers are not to hear", "has several advertisements of one prefix, of which MetalLB's native mode sends any: %s. Here routers hear the communities of all", strings.Join(names, ", "))
	} else {
		c.remark(Kept, p.object, "", "", "has several advertisements of one prefix, whose communities routers hear together: %s. Here they are one for each set of nodes and routers", strings.Join(names, ", "))
	}
	return all
}

// perPeer unites advertisements that the same nodes send: one for the routers that hear the same of the same Services.
func (c *converter) perPeer(here []*advertisement, where []loadbalancer.Selector) (all []*advertisement) {
	names := []string{""} // without peers, nobody hears anything yet
	if len(c.peers) > 0 {
		names = nil
	}
	for _, p := range c.peers {
		names = append(names, p.name)
	}
	for _, name := range names {
		for _, one := range perService(slices.DeleteFunc(slices.Clone(here), func(a *advertisement) bool { return !a.hears(name) })) {
			if i := slices.IndexFunc(all, func(a *advertisement) bool { return slices.Equal(a.objects, one.objects) }); i >= 0 {
				all[i].peers = append(all[i].peers, name)
				continue
			}
			one.nodes, one.peers = where, []string{name}
			all = append(all, one)
		}
	}
	for _, a := range all {
		if len(a.peers) == len(names) {
			a.peers = nil
		}
	}
	// Of several that select a Service the first counts: those of the most advertisements come first.
	slices.SortStableFunc(all, func(a, b *advertisement) int { return len(b.objects) - len(a.objects) })
	return all
}

// perService unites advertisements that one node sends to one router: one for each set of selectors of Services.
func perService(here []*advertisement) (all []*advertisement) {
	var services [][]loadbalancer.Selector
	for _, a := range here {
		if !slices.ContainsFunc(services, func(s []loadbalancer.Selector) bool { return slices.EqualFunc(s, a.services, equal) }) {
			services = append(services, a.services)
		}
	}
	for set := 1<<len(services) - 1; set > 0; set-- {
		which := []loadbalancer.Selector{{}}
		one := &advertisement{}
		for i, s := range services {
			if set&(1<<i) == 0 {
				continue
			}
			which = both(which, or(s))
			for _, a := range here {
				if slices.EqualFunc(s, a.services, equal) {
					one.objects = append(one.objects, a.objects...)
					one.lengths, one.localpref, one.prepend, one.communities = a.lengths, a.localpref, a.prepend, append(one.communities, a.communities...)
				}
			}
		}
		if len(which) == 0 || slices.ContainsFunc(all, func(a *advertisement) bool { return slices.EqualFunc(or(a.services), which, equal) }) {
			continue // none, or those of a larger set
		}
		if len(which) > 1 || len(which[0]) > 0 {
			one.services = which
		}
		slices.Sort(one.communities)
		one.communities = slices.Compact(one.communities)
		all = append(all, one)
	}
	return all
}

// What follows computes with lists of selectors, of which an object needs to match one. No selectors at all select nothing here.

// or is a list where none means all.
func or(list []loadbalancer.Selector) []loadbalancer.Selector {
	if len(list) == 0 {
		return []loadbalancer.Selector{{}}
	}
	return list
}

// both returns what selects the objects that both select, without what selects none.
func both(a, b []loadbalancer.Selector) (all []loadbalancer.Selector) {
	for _, s := range a {
		for _, t := range b {
			if u := merge(s, t); possible(u) && !slices.ContainsFunc(all, func(v loadbalancer.Selector) bool { return equal(u, v) }) {
				all = append(all, u)
			}
		}
	}
	return all
}

// not returns what selects the objects that no selector of the list selects, where none means all.
func not(list []loadbalancer.Selector) []loadbalancer.Selector {
	opposite := map[string]string{"In": "NotIn", "NotIn": "In", "Exists": "DoesNotExist", "DoesNotExist": "Exists"}
	all := []loadbalancer.Selector{{}}
	for _, s := range or(list) {
		var other []loadbalancer.Selector
		for _, e := range s {
			e.Operator = opposite[e.Operator]
			other = append(other, loadbalancer.Selector{e})
		}
		all = both(all, other)
	}
	return all
}

func merge(s, t loadbalancer.Selector) loadbalancer.Selector {
	all := slices.Concat(s, t)
	slices.SortFunc(all, func(a, b loadbalancer.Expression) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Operator, b.Operator), slices.Compare(a.Values, b.Values))
	})
	return slices.CompactFunc(all, func(a, b loadbalancer.Expression) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
}

func equal(s, t loadbalancer.Selector) bool {
	return fmt.Sprint(merge(s, nil)) == fmt.Sprint(merge(t, nil))
}

// possible reports whether some object can match: whether each label can have a value, or be missing, by all that is said of it.
func possible(s loadbalancer.Selector) bool {
	byKey := map[string]loadbalancer.Selector{}
	for _, e := range s {
		byKey[e.Key] = append(byKey[e.Key], e)
	}
	for key, own := range byKey {
		values := []string{"\x00"} // one that nobody names
		for _, e := range own {
			values = append(values, e.Values...)
		}
		if !own.Matches(nil) && !slices.ContainsFunc(values, func(v string) bool { return own.Matches(map[string]string{key: v}) }) {
			return false
		}
	}
	return true
}
