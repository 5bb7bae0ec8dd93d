package loadbalancer

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
)

const (
	// maxValues bounds the work that YAML aliases can ask for; a text within MaxSize that uses none stays below it.
	maxValues = 600_000
	// maxMerges is how deep merge keys may refer to each other. They could also refer to themselves.
	maxMerges = 16
)

// A reader walks the nodes of a text and collects what is wrong with it.
type reader struct {
	source   []byte
	lines    []string // of the text, once a problem shows one
	tolerant bool     // skip what this version does not know, and count it

	problems Problems
	unlisted int             // problems past maxProblems
	again    map[string]*int // in how many more places the same is wrong
	warnings Problems
	doubts   []doubt

	reserved map[string]value // Services and addresses, by where a reservation named them first

	ignored int
	values  int  // visited so far
	overrun bool // visited too many: what is missing from here on may stand in the text after all
	effort  int  // spent on comparing advertisements

	// What stands under a key such as password, wherever that is, and on which lines: no error quotes it.
	hidden      map[*yaml.Node]bool
	secrets     map[string]bool
	secretLines map[int]bool
}

// A value is one node of the text and how an operator would name it. The zero value is a key that is not there.
type value struct {
	node *yaml.Node
	path string
}

// absent is also true of null: "peers:" without a list means none.
func (v value) absent() bool {
	return v.node == nil || v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!null"
}

// empty is also true of a list without items.
func (v value) empty() bool {
	return v.absent() || v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0
}

// visit follows an alias to what it stands for. It reports false once the text has used up its budget.
func (r *reader) visit(node *yaml.Node) (*yaml.Node, bool) {
	at := node
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	r.values += 1 + len(node.Value)/64 // a long text costs time as well
	if r.values > maxValues {
		r.problem(value{node: at}, "the aliases up to here expand to more than %d values: write fewer", maxValues)
		r.overrun = true
		return nil, false
	}
	return node, true
}

// fields returns the values of a mapping by their key's name, and reports keys that it does not know, that stand there
// twice, or that this version does not honour. It reports false for something else than a mapping.
func (r *reader) fields(v value, keys keys) (map[string]value, bool) {
	found, before := map[string]value{}, len(r.problems)
	entries, ok := r.entries(v, keys)
	for _, e := range entries {
		wrapping, wrapped := wrappings[e.key.node.Value]
		switch k := e.known; {
		case k.name == "" && r.tolerant:
			r.ignored++
			r.secretLines[e.value.node.Line] = true
		case wrapped && k.name == "":
			r.problems = r.problems[:before]
			r.problem(e.key, "%s", wrapping)
			return nil, false
		case k.name == "":
			r.unknownKey(e, keys)
			if meant := keys.like(e.key.node.Value).name; meant != "" && found[meant].absent() {
				found[meant] = e.value // which may be wrong as well, and is not missing
			}
		case k.standing == unused:
			r.warn(e.key, "has no effect: BFD is spoken in asynchronous mode, without the echo function")
		default:
			found[k.name] = e.value
		}
	}
	return found, ok
}

// An entry is one of a mapping. Both its halves go by the same path, and stand where they stand.
type entry struct {
	key, value value
	merged     bool // comes with a merge key (<<), and gives way to an entry before it
	known      key  // of a mapping that may have certain keys only
}

// entries returns the entries of a mapping in the order of the text. Of two with one key, or with a key and its synonym, it
// reports the second. Without keys, they are the operator's choice.
func (r *reader) entries(v value, keys keys) (all []entry, ok bool) {
	if v.absent() {
		return nil, true
	}
	if v.node.Kind != yaml.MappingNode {
		r.wrong(v, `is not a mapping: write it as lines of "key: value"`)
		return nil, false
	}
	first := map[string]value{}
	for _, e := range r.pairs(v, v.node, 0) {
		e.known = keys[e.key.node.Value]
		name := cmp.Or(e.known.name, e.key.node.Value)
		if before, twice := first[name]; !twice {
			first[name] = e.key
			all = append(all, e)
		} else if !e.merged {
			r.problem(e.key, "stands here twice, also as %s: keep one", place(before))
		}
	}
	return all, true
}

// pairs returns the entries of a mapping: its own, then those that come with merge keys.
func (r *reader) pairs(v value, mapping *yaml.Node, depth int) (all []entry) {
	var merges []*yaml.Node
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, ok := r.visit(mapping.Content[i])
		if !ok {
			break
		}
		node, ok := r.visit(mapping.Content[i+1])
		if !ok {
			break
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			r.problem(value{key, v.path}, "has %s for a key: write a single word", r.quote(value{node: key}))
		case key.Tag == "!!merge" && node.Kind == yaml.SequenceNode:
			merges = append(merges, node.Content...)
		case key.Tag == "!!merge":
			merges = append(merges, node)
		default:
			path := join(v.path, key.Value)
			if r.secret(key) {
				path = join(v.path, "…")
			}
			all = append(all, entry{key: value{key, path}, value: value{node, path}, merged: depth > 0})
		}
	}
	for _, source := range merges {
		at := value{source, join(v.path, "<<")}
		node, ok := r.visit(source)
		switch {
		case !ok:
			return all
		case node.Kind != yaml.MappingNode:
			r.problem(at, "does not stand for a mapping: merge mappings only")
		case depth == maxMerges:
			r.problem(at, "merges mappings that merge others, more than %d deep: write out some of them", maxMerges)
			return all
		default:
			all = append(all, r.pairs(v, node, depth+1)...)
		}
	}
	return all
}

func join(path, key string) string {
	key = show(key)
	if _, hidden := unseen(key); hidden {
		key = strconv.QuoteToASCII(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// items returns the values of a list.
func (r *reader) items(v value) (all []value) {
	if v.absent() {
		return nil
	}
	if v.node.Kind != yaml.SequenceNode {
		r.wrong(v, "is not a list: begin each item with \"- \"")
		return nil
	}
	for i, item := range v.node.Content {
		node, ok := r.visit(item)
		if !ok {
			break
		}
		all = append(all, value{node, v.path + "[" + strconv.Itoa(i) + "]"})
	}
	return all
}

// words returns the items of a list of texts, and their texts. It reports an empty one: to skip it could leave none, which
// means all.
func (r *reader) words(list value, rule string) iter.Seq2[value, string] {
	return func(yield func(value, string) bool) {
		for _, item := range r.items(list) {
			text, ok := r.text(item)
			if text == "" && (ok || item.absent()) && !r.tolerant {
				r.problem(item, "is empty: %s", rule)
			} else if (ok || item.absent()) && !yield(item, text) {
				return
			}
		}
	}
}

// text returns a scalar as written. It reports false if there is none, or if it is not a scalar.
func (r *reader) text(v value) (string, bool) {
	if v.absent() {
		return "", false
	}
	if v.node.Kind != yaml.ScalarNode {
		r.wrong(v, "does not belong here: write a single value")
		return "", false
	}
	return v.node.Value, true
}

// named notes what looks like another name, or like none: earlier releases admitted it.
func (r *reader) named(v value, noun string) {
	name := v.node.Value
	what, found := unseen(name)
	if !found && name != strings.TrimSpace(name) {
		what, found = "begins or ends with a space: write it without", true
	}
	if found {
		r.doubt(v, noun+" "+name, netipx.IPRange{}, "%s", what)
	}
}

// read returns what is made of a value, or otherwise if there is none or it cannot be read.
func read[T any](r *reader, v value, parse func(value) (T, bool), what, rule string, otherwise T) T {
	if v.absent() {
		return otherwise
	}
	got, ok := parse(v)
	if !ok {
		r.wrong(v, "%s: %s", what, remedy(v, parse, rule))
		return otherwise
	}
	// A number that is not written as a decimal one: YAML 1.1, YAML 1.2 and JSON differ in how they read it.
	if n, ok := integer(v); ok && strings.TrimPrefix(v.node.Value, "+") != strconv.FormatInt(n, 10) {
		key := v.path[strings.LastIndexByte(v.path, '.')+1:]
		r.doubt(v, key+" "+v.node.Value, netipx.IPRange{}, "is %d to some readers of YAML and something else to others: write the decimal number that you mean", n)
	}
	return got
}

func (r *reader) flag(v value, otherwise bool) bool {
	return read(r, v, boolean, "is neither true nor false", "write one of the two", otherwise)
}

// boolean also reads the words of YAML 1.1, which MetalLB's configurations may use.
func boolean(v value) (b, ok bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.Tag == "!!str" && v.node.Style != 0 {
		return false, false
	}
	switch v.node.Value {
	case "true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y", "on", "On", "ON":
		return true, true
	case "false", "False", "FALSE", "no", "No", "NO", "n", "N", "off", "Off", "OFF":
		return false, true
	}
	return false, false
}

// number returns a whole number from least to most, or otherwise if there is none or it is not such a number.
func (r *reader) number(v value, least, most, otherwise int64) int64 {
	return read(r, v, func(v value) (int64, bool) {
		n, ok := integer(v)
		return n, ok && least <= n && n <= most
	}, "is not possible here", fmt.Sprintf("use a whole number from %d to %d", least, most), otherwise)
}

// flagOrNumber returns a number from 1 to most, which also yes and no stand for, or 0 if there is none.
func (r *reader) flagOrNumber(v value, yes, no uint8, most int64, noun string) uint8 {
	return read(r, v, func(v value) (uint8, bool) {
		on, isFlag := boolean(v)
		n, ok := integer(v)
		switch {
		case on:
			return yes, true
		case isFlag:
			return no, true
		}
		return uint8(n), ok && 1 <= n && n <= most
	}, "is not possible here", fmt.Sprintf("use true, false or %s from 1 to %d", noun, most), 0)
}

func integer(v value) (n int64, ok bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" || len(v.node.Value) > maxShown {
		return 0, false
	}
	return n, v.node.Decode(&n) == nil
}

// frontZeros finds the zeros before each number in a text.
var frontZeros = regexp.MustCompile(`(^|[-./: ])0+([0-9])`)

const zeroInFront = "has a number with a zero in front: write %s"

// A period is what a duration of whole seconds may be.
type period struct {
	least, most time.Duration
	orZero      bool
	rule        string
}

// seconds returns a duration, or otherwise if there is none or it is not possible.
func (r *reader) seconds(v value, p period, otherwise time.Duration) time.Duration {
	d := read(r, v, duration, "is not a duration such as 90s", "use "+p.rule, otherwise)
	switch {
	case d == otherwise, d == 0 && p.orZero:
		return d
	case d < p.least:
		r.wrong(v, "is too short: use %s", p.rule)
	case d > p.most:
		r.wrong(v, "is too long: use at most %ds", p.most/time.Second)
	case d%time.Second != 0:
		r.wrong(v, "is not in whole seconds: use %s", d.Truncate(time.Second))
	default:
		return d
	}
	return otherwise
}

// duration reads 90s, 1m30s or a bare integer, which means seconds.
func duration(v value) (time.Duration, bool) {
	if n, ok := integer(v); ok {
		const most = 1 << 30 // enough to be too long, and not so much that the product overflows
		return time.Duration(max(-1, min(n, most))) * time.Second, true
	}
	if v.node.Kind != yaml.ScalarNode || len(v.node.Value) > maxShown {
		return 0, false
	}
	d, err := time.ParseDuration(strings.TrimSpace(v.node.Value))
	return d, err == nil
}

// address reads an IP address of the right sort.
func (r *reader) address(v value, fits func(netip.Addr) bool, rule string) (netip.Addr, bool) {
	text, ok := r.text(v)
	if !ok {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(text))
	if err == nil && fits(addr) {
		return addr, true
	}
	if addr, ok := within(text); err != nil && ok {
		rule = "is more than an address: write " + addr.String()
	}
	r.wrong(v, "%s", rule)
	return netip.Addr{}, false
}

// within returns the address in 10.0.0.1/32, 10.0.0.1:179, [2001:db8::1] or 010.0.0.1.
func within(text string) (netip.Addr, bool) {
	text, _, _ = strings.Cut(text[:min(len(text), maxShown)], "/")
	text = frontZeros.ReplaceAllString(strings.TrimSpace(text), "$1$2")
	if with, err := netip.ParseAddrPort(text); err == nil {
		return with.Addr(), true
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return addr, err == nil
}
