package loadbalancer

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
)

const (
	// maxAdvertisements bounds the work of comparing each advertisement of a pool with each other.
	maxAdvertisements = 256
	// maxEffort bounds the comparisons that one text can ask for: well under a second.
	maxEffort = 10_000_000
	// maxCommunities is how many bytes of communities always fit into an UPDATE: 4096 without the longest prefix and without
	// all other attributes, those included that a drained node and weights add.
	maxCommunities = 3840
)

// The names that routers know by themselves.
// Source: IANA, Border Gateway Protocol (BGP) Well-known Communities.
var wellKnown = map[string]string{
	"graceful-shutdown":   "65535:0",     // RFC 8326
	"accept-own":          "65535:1",     // RFC 7611
	"llgr-stale":          "65535:6",     // RFC 9494
	"no-llgr":             "65535:7",     // RFC 9494
	"blackhole":           "65535:666",   // RFC 7999
	"no-export":           "65535:65281", // RFC 1997
	"no-advertise":        "65535:65282", // RFC 1997
	"no-export-subconfed": "65535:65283", // RFC 1997
	"no-peer":             "65535:65284", // RFC 3765
}

const communityRule = "write two numbers up to 65535, as in 64500:1, or large:64500:1:2"

// communities returns what each name stands for: nothing, if its definition was reported.
func (r *reader) communities(v value) map[string]string {
	defined := maps.Clone(wellKnown)
	entries, _ := r.entries(v, nil)
	for _, e := range entries {
		r.named(e.key, "community")
		text, ok := r.text(e.value)
		if e.value.absent() {
			r.problem(e.value, "is empty: %s", communityRule)
		} else if ok && !r.isCommunity(e.value) {
			r.wrong(e.value, "is not a community: %s", communityRule)
			text = ""
		}
		defined[e.key.node.Value] = text
	}
	return defined
}

// isCommunity reports whether a community is written out, and notes zeros in front of its numbers.
func (r *reader) isCommunity(v value) bool {
	_, ok := parseCommunity(v.node.Value)
	if plain := frontZeros.ReplaceAllString(v.node.Value, "$1$2"); ok && plain != v.node.Value {
		if again := r.first(v, zeroInFront); again != nil {
			r.doubt(v, "community "+v.node.Value, netipx.IPRange{}, zeroInFront, plain).again = again
		}
	}
	return ok
}

// parseCommunity returns the two numbers of a community, or the three of a large one.
func parseCommunity(text string) (numbers []uint32, ok bool) {
	rest, large := strings.CutPrefix(text, "large:")
	count, bits := 2, 16
	if large {
		count, bits = 3, 32
	}
	for part := range strings.SplitSeq(rest, ":") {
		n, err := strconv.ParseUint(part, 10, bits)
		if err != nil || len(numbers) == count {
			return nil, false
		}
		numbers = append(numbers, uint32(n))
	}
	return numbers, len(numbers) == count
}

func (r *reader) advertisement(v value, narrowest [2]span, defined map[string]string, peers map[string]value) Advertisement {
	f, _ := r.fields(v, advertisementKeys)
	a := Advertisement{NodeSelectors: r.selectors(f["node-selectors"]), ServiceSelectors: r.selectors(f["service-selectors"])}
	for _, family := range []Family{IPv4, IPv6} {
		at, most := f["aggregation-length"], int64(32)
		if family == IPv6 {
			at, most = f["aggregation-length-v6"], 128
		}
		length := int(r.number(at, 0, most, most))
		if s := narrowest[family.index()]; length < s.shortest {
			r.wrong(at, "reaches beyond the pool's %s: use at least %d", r.quote(s.at), s.shortest)
		}
		a.AggregationLengths[family.index()] = length
	}
	route := &a.Route
	route.LocalPref = uint32(r.number(f["localpref"], 0, math.MaxUint32, 100))
	route.Prepend = uint8(r.number(f["as-path-prepend"], 0, 10, 0))
	if r.flag(f["link-bandwidth"], false) {
		route.Weight = 1
	}
	route.Primaries = uint8(r.number(f["primaries"], 0, 64, 0))
	a.ClientIPAffinity = r.flag(f["client-ip-affinity"], false)
	if (route.Primaries > 0 || a.ClientIPAffinity) && route.LocalPref < 2 {
		r.wrong(f["localpref"], "leaves nothing for spares, which announce half of it: use at least 2")
	}
	var written Route
	for _, numbers := range r.communityList(f["communities"], defined) {
		written.add(numbers)
	}
	*route = route.with(written)
	r.fit(f["communities"], route.size())
	for item, name := range r.words(f["peers"], "write the name of a peer") {
		if _, known := peers[name]; !known {
			r.stranger(item, "is the name of no peer", maps.Keys(peers), "write the name of one of peers")
		}
		route.Peers = append(route.Peers, name)
	}
	route.Peers = sorted(route.Peers)
	return a
}

// communityList reads a list of names and communities: each as it is written, and its numbers.
func (r *reader) communityList(list value, defined map[string]string) iter.Seq2[string, []uint32] {
	return func(yield func(string, []uint32) bool) {
		for item, text := range r.words(list, communityRule+", or a name from communities") {
			meaning, named := defined[text]
			if named && meaning == "" {
				continue // reported where it is defined
			}
			if !named && !r.isCommunity(item) {
				r.stranger(item, "is neither a name from communities nor a community", maps.Keys(defined), communityRule)
				continue
			}
			if numbers, _ := parseCommunity(cmp.Or(meaning, text)); !yield(text, numbers) {
				return
			}
		}
	}
}

// fit reports communities that do not fit into a message.
func (r *reader) fit(at value, size int) {
	if size > maxCommunities && !r.tolerant {
		r.problem(at, "these take %d bytes in a BGP message, and there is room for %d: that is %d communities, or %d large ones",
			size, maxCommunities, maxCommunities/4, maxCommunities/12)
	}
}

// sorted sorts a list, and leaves each value in it once.
func sorted[T cmp.Ordered](list []T) []T {
	slices.Sort(list)
	return slices.Compact(list)
}

// consistent reports advertisements of one pool with which some node would send one prefix to one peer with two sets of
// attributes.
func (r *reader) consistent(all []Advertisement, places []value, spans [2]span) {
	// A key that we skipped may be what keeps them apart, and to refuse the text would lose every route.
	if r.ignored > 0 || r.effort > maxEffort {
		return
	}
	for j, b := range all {
		for i, a := range all[:j] {
			if len(a.ServiceSelectors)+len(b.ServiceSelectors) > 0 {
				// Of those that select a Service, the first counts.
				if len(a.ServiceSelectors)+len(a.NodeSelectors)+len(a.Route.Peers) == 0 && a.AggregationLengths == b.AggregationLengths {
					r.warn(places[j], "never counts: %s stands before it, and sends the same prefixes of all Services to all peers: put this one first", place(places[i]))
				}
				continue
			}
			contradicts := a.contradicts(b, spans, &r.effort)
			if r.effort > maxEffort {
				r.problem(places[j], "is one too many to compare with those before it: write fewer advertisements, peers or node-selectors")
				return
			}
			if contradicts {
				remedy := "other attributes: give them different peers, node-selectors or aggregation lengths"
				but := b.Route
				if but.Communities, but.LargeCommunities = a.Route.Communities, a.Route.LargeCommunities; but.alike(a.Route) && a.ClientIPAffinity == b.ClientIPAffinity {
					remedy = "other communities: put all communities into one item"
				}
				r.problem(places[j], "sends the same prefixes to the same peers as %s, with %s", place(places[i]), remedy)
			}
		}
	}
}

func (a Advertisement) contradicts(b Advertisement, spans [2]span, effort *int) bool {
	*effort++
	samePrefix := slices.ContainsFunc(spans[:], func(s span) bool {
		return s.IsValid() && a.Prefix(s.From()) == b.Prefix(s.From())
	})
	return samePrefix && !(a.Route.alike(b.Route) && a.ClientIPAffinity == b.ClientIPAffinity) && shareName(a.Route.Peers, b.Route.Peers, effort) && !neverTogether(a.NodeSelectors, b.NodeSelectors, effort)
}

// shareName reports whether two sorted lists have a name in common, where no names at all mean all.
func shareName(a, b []string, effort *int) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	*effort += len(a)
	return slices.ContainsFunc(a, func(name string) bool {
		_, both := slices.BinarySearch(b, name)
		return both
	})
}
