package loadbalancer

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
)

// A span is one item of a pool's list of addresses, and where it stands.
type span struct {
	at   value
	pool int
	netipx.IPRange
	// shortest is the prefix length of the widest network within the range. An aggregate that is wider would draw
	// traffic to us for addresses that are not in the pool.
	shortest int
}

// pools adds the pools to the configuration.
func (r *reader) pools(config *Config, list value, communities map[string]string, peers map[string]value) {
	var all []span
	names := map[string]value{}
	for _, item := range r.items(list) {
		pool, spans := r.pool(item, len(config.Pools), names, communities, peers)
		if len(spans) > 0 {
			config.Pools = append(config.Pools, pool)
			all = append(all, spans...)
		}
	}
	r.apart(all)
	for _, p := range config.Pools {
		config.limits = config.limits || p.Quotas.any()
		for _, kept := range p.Reservations {
			if config.reserved == nil {
				config.reserved, config.reservations = map[netip.Addr]string{}, map[string][]netip.Addr{}
			}
			config.reservations[kept.Service] = kept.Addrs
			for _, addr := range kept.Addrs {
				config.reserved[addr] = kept.Service
			}
		}
	}
	for _, s := range all {
		config.owners = append(config.owners, owner{s.IPRange, s.pool})
		// The first that is said says enough.
		if i := slices.IndexFunc(special, func(n network) bool { return netipx.RangeOfPrefix(n.Prefix).Overlaps(s.IPRange) }); i >= 0 {
			r.doubt(s.at, "special", s.IPRange, "holds %s, which %s: take it out of the pool", special[i].Prefix, special[i].what)
		}
	}
}

func (r *reader) pool(v value, index int, names map[string]value, communities map[string]string, peers map[string]value) (Pool, []span) {
	f, ok := r.fields(v, poolKeys)
	if !ok {
		return Pool{}, nil
	}
	r.require(v, f, "name", "give the pool a name")
	r.require(v, f, "cidr", "list the pool's addresses, as in 192.168.10.0/24")
	p := Pool{
		Name:                  r.name(names, "pool", v, f["name"]),
		AutoAssign:            r.flag(f["auto-assign"], true),
		HoldDown:              r.seconds(f["hold-down"], holdDownPeriod, 0),
		AvoidBuggyIPs:         r.flag(f["avoid-buggy-ips"], false),
		Priority:              int(r.number(f["priority"], math.MinInt32, math.MaxInt32, 0)),
		Namespaces:            r.namespaces(f["namespaces"]),
		NamespaceSelectors:    r.selectors(f["namespace-selectors"]),
		ServiceSelectors:      r.selectors(f["service-selectors"]),
		ShareAcrossNamespaces: r.flag(f["share-across-namespaces"], false),
	}
	if protocol, ok := r.text(f["protocol"]); ok && protocol != "bgp" {
		r.wrong(f["protocol"], "is not spoken here: this provider speaks BGP only: use bgp, or remove the pool")
	}
	sound := len(r.problems)
	var spans []span
	var narrowest [2]span // of each family, the one that allows the least aggregation
	for item, text := range r.words(f["cidr"], rangeRule) {
		if addresses, ok := r.addresses(item, text); ok {
			s := span{item, index, addresses, widest(addresses)}
			if most := &narrowest[FamilyOf(s.From()).index()]; !most.IsValid() || s.shortest > most.shortest {
				*most = s
			}
			spans, p.Ranges = append(spans, s), append(p.Ranges, addresses)
		}
	}
	slices.SortFunc(p.Ranges, func(a, b netipx.IPRange) int { return a.From().Compare(b.From()) })
	if len(r.problems) == sound {
		p.Exclude = r.exclude(f["exclude"], p.Ranges)
		p.Reservations = r.reservations(f["reservations"], &p)
	}
	p.Quotas = r.quotas(f["quotas"])

	items := r.items(f["advertisements"])
	if len(items) > maxAdvertisements {
		r.problem(f["advertisements"], "has more than %d items: make fewer advertisements, or split the pool", maxAdvertisements)
		items = items[:maxAdvertisements]
	}
	if len(items) == 0 {
		items = []value{{}} // an address that nobody hears of helps nobody
	}
	sound = len(r.problems)
	for _, item := range items {
		p.Advertisements = append(p.Advertisements, r.advertisement(item, narrowest, communities, peers))
	}
	p.Unadvertised = !r.flag(f["advertise"], true)
	var allowed Route
	for name, numbers := range r.communityList(f["service-communities"], communities) {
		if p.ServiceCommunities == nil {
			p.ServiceCommunities = map[string][]uint32{}
		}
		p.ServiceCommunities[name] = numbers
		allowed.add(numbers)
	}
	most := 0 // with those that Services add
	for _, a := range p.Advertisements {
		most = max(most, a.Route.with(allowed).size())
	}
	if len(r.problems) == sound {
		r.fit(f["service-communities"], most)
	}
	if len(r.problems) == sound {
		r.consistent(p.Advertisements, items, narrowest)
	}
	return p, spans
}

// namespaces reads the names of those whose Services may use a pool.
func (r *reader) namespaces(v value) (names []string) {
	for item, name := range r.words(v, "write the name of a namespace") {
		r.kubernetes(item, isNamespace, "the name of a namespace: write "+namespaceRule)
		names = append(names, name)
	}
	return sorted(names)
}

// exclude reads those addresses of a pool's ranges that are never handed out.
func (r *reader) exclude(v value, ranges []netipx.IPRange) []netipx.IPRange {
	var all, out netipx.IPSetBuilder
	for _, span := range ranges {
		all.AddRange(span)
	}
	pool := ipSet(&all)
	for item, text := range r.words(v, excludeRule) {
		span, ok := netipx.IPRange{}, false
		if addr, err := netip.ParseAddr(text); err == nil && plain(addr) {
			span, ok = netipx.IPRangeFrom(addr, addr), true
		} else {
			span, ok = r.addresses(item, text)
		}
		switch {
		case !ok:
		case !pool.ContainsRange(span):
			r.wrong(item, "is not all of this pool: write addresses that its cidr holds")
		default:
			out.AddRange(span)
		}
	}
	excluded := ipSet(&out)
	if len(excluded.Ranges()) == 0 {
		return nil
	}
	if excluded.Equal(pool) {
		r.warn(v, "leaves nothing to hand out: take some addresses out of it, or remove the pool once nobody holds one of its addresses")
	}
	return excluded.Ranges()
}

// reservations reads which addresses of a pool are for certain Services.
func (r *reader) reservations(v value, p *Pool) (all []Reservation) {
	const serviceRule, addressRule = "write NAMESPACE/NAME, as kubectl names it", "is not an address: write one of the pool's"
	for _, item := range r.items(v) {
		f, ok := r.fields(item, reservationKeys)
		if !ok {
			continue
		}
		r.require(item, f, "service", serviceRule)
		r.require(item, f, "addresses", "list one address of the pool, or one of each IP version")
		var kept Reservation
		if kept.Service, ok = r.text(f["service"]); ok {
			namespace, name, _ := strings.Cut(kept.Service, "/")
			_, named := slices.BinarySearch(p.Namespaces, namespace)
			switch before, twice := r.reserved[kept.Service]; {
			case !isNamespace(namespace) || !isNamespace(name):
				r.wrong(f["service"], "is not a Service: %s", serviceRule)
			case twice:
				r.wrong(f["service"], "has a reservation already, %s: keep one", place(before))
			case len(p.Namespaces) > 0 && len(p.NamespaceSelectors) == 0 && !named:
				r.wrong(f["service"], "is of a namespace that the pool is not for: add that to its namespaces, or remove the reservation")
			}
			r.reserve(kept.Service, f["service"])
		}
		for one := range r.words(f["addresses"], "write an address of the pool") {
			addr, ok := r.address(one, plain, addressRule)
			if !ok {
				continue
			}
			_, owned := slices.BinarySearchFunc(p.Ranges, addr, compareRange)
			sameFamily := func(other netip.Addr) bool { return FamilyOf(other) == FamilyOf(addr) }
			switch before, twice := r.reserved[addr.String()]; {
			case !owned:
				r.wrong(one, "is not of this pool: write an address that its cidr holds")
			case twice:
				r.wrong(one, "is reserved already, by %s: let each address be for one Service", place(before))
			case !p.handsOut(addr):
				r.wrong(one, "is never handed out: take it out of exclude, or set avoid-buggy-ips to false, or reserve another")
			case slices.ContainsFunc(kept.Addrs, sameFamily):
				r.wrong(one, "is a second %s address: a Service has one of each IP version at most", FamilyOf(addr))
			default:
				kept.Addrs = append(kept.Addrs, addr)
			}
			r.reserve(addr.String(), one)
		}
		all = append(all, kept)
	}
	return all
}

// reserve notes where a Service or an address was first named in a reservation.
func (r *reader) reserve(what string, at value) {
	if r.reserved == nil {
		r.reserved = map[string]value{}
	}
	if _, twice := r.reserved[what]; !twice {
		r.reserved[what] = at
	}
}

// quotas reads how many addresses namespaces may hold.
func (r *reader) quotas(v value) (q Quotas) {
	entries, _ := r.entries(v, nil)
	for _, e := range entries {
		if n, ok := integer(e.value); ok && n == 0 {
			r.wrong(e.value, "would keep the namespace out of the pool: use at least 1, and say by namespaces who may use the pool")
			continue
		}
		n := int(r.number(e.value, 1, math.MaxInt32, 0))
		if e.key.node.Value == "default" {
			q.Default = n
			continue
		}
		r.kubernetes(e.key, isNamespace, "the name of a namespace: write default, or "+namespaceRule)
		if n > 0 {
			if q.Namespaces == nil {
				q.Namespaces = map[string]int{}
			}
			q.Namespaces[e.key.node.Value] = n
		}
	}
	return q
}

var holdDownPeriod = period{time.Second, 7 * 24 * time.Hour, true, "0 or at least 1s"}

const excludeRule = "write 192.168.10.7, 192.168.10.5-192.168.10.20 or 192.168.10.0/28"

const rangeRule = "write 192.168.10.0/24 or 192.168.10.5-192.168.10.20"

// addresses reads 192.168.10.0/24 or 192.168.10.5-192.168.10.20.
func (r *reader) addresses(v value, text string) (netipx.IPRange, bool) {
	span, ok := parseRange(text)
	single, err := netip.ParseAddr(text)
	plainly := frontZeros.ReplaceAllString(text, "$1$2")
	_, zeros := parseRange(plainly)
	switch {
	case err == nil && plain(single):
		r.wrong(v, "is a single address: write %s/%d", single, single.BitLen())
	case !ok && zeros:
		r.wrong(v, zeroInFront, plainly)
	case !ok:
		r.wrong(v, "is not a range of addresses: %s", rangeRule)
	case !span.IsValid():
		r.wrong(v, "ends before it begins: write the lower address first")
	default:
		first, _, isPrefix := strings.Cut(text, "/")
		if addr, err := netip.ParseAddr(strings.TrimSpace(first)); isPrefix && err == nil && addr != span.From() {
			r.warn(v, "%s is the network from %s to %s: %s is only one of its addresses", r.quote(v), span.From(), span.To(), addr)
		}
		return span, true
	}
	return span, false
}

func parseRange(text string) (netipx.IPRange, bool) {
	if first, last, ok := strings.Cut(text, "-"); ok {
		from, err1 := netip.ParseAddr(strings.TrimSpace(first))
		to, err2 := netip.ParseAddr(strings.TrimSpace(last))
		sound := err1 == nil && err2 == nil && from.Is4() == to.Is4() && plain(from) && plain(to)
		return netipx.IPRangeFrom(from, to), sound
	}
	address, length, _ := strings.Cut(text, "/")
	prefix, err := netip.ParsePrefix(strings.TrimSpace(address) + "/" + strings.TrimSpace(length))
	if err != nil || !plain(prefix.Addr()) {
		return netipx.IPRange{}, false
	}
	return netipx.RangeOfPrefix(prefix), true // without the host bits
}

func plain(addr netip.Addr) bool { return !addr.Is4In6() && addr.Zone() == "" }

// widest returns the prefix length of the widest network within a range. To list all its networks would take long for a text that
// has many ranges.
func widest(span netipx.IPRange) int {
	for length := 0; length < span.From().BitLen(); length++ {
		begin := netip.PrefixFrom(span.From(), length).Masked()
		if begin.Addr() != span.From() {
			// The next one of that length, unless there is none.
			begin = netip.PrefixFrom(netipx.PrefixLastIP(begin).Next(), length)
		}
		if begin.IsValid() && netipx.PrefixLastIP(begin).Compare(span.To()) <= 0 {
			return length
		}
	}
	return span.From().BitLen()
}

// apart sorts the spans by address and reports those that overlap, in one pool or in two.
func (r *reader) apart(spans []span) {
	slices.SortStableFunc(spans, func(a, b span) int { return a.From().Compare(b.From()) })
	var reach span // of those before, the one that ends last
	for i, s := range spans {
		if i > 0 && s.From().Compare(reach.To()) <= 0 && !r.deaf() {
			above, below := reach.at, s.at
			if cmp.Or(above.node.Line-below.node.Line, above.node.Column-below.node.Column) > 0 {
				above, below = below, above
			}
			r.wrong(below, "overlaps %s of %s: let each address be in one place", r.quote(above), place(above))
		}
		if i == 0 || s.To().Compare(reach.To()) > 0 {
			reach = s
		}
	}
}

// A network is one whose addresses routers do not forward to, or not to one host.
type network struct {
	netip.Prefix
	what string
}

// Source: IANA's registries of special-purpose and multicast addresses.
var special = []network{
	{netip.MustParsePrefix("0.0.0.0/8"), "stand for no host (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "are loopback addresses (RFC 1122)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "are link-local (RFC 3927)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "are multicast (RFC 5771)"},
	{netip.MustParsePrefix("255.255.255.255/32"), "is the broadcast address (RFC 919)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "are reserved (RFC 1112), so that hosts drop them"},
	{netip.MustParsePrefix("::/128"), "stands for no host (RFC 4291)"},
	{netip.MustParsePrefix("::1/128"), "is the loopback address (RFC 4291)"},
	{netip.MustParsePrefix("fe80::/10"), "are link-local (RFC 4291)"},
	{netip.MustParsePrefix("ff00::/8"), "are multicast (RFC 4291)"},
}
