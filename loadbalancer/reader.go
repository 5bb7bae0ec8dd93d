package loadbalancer

import (
	"fmt"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
)

// A Problem is one thing wrong with a configuration, and where.
type Problem struct {
	Line, Column int    // 1 is the first; 0 means the text as a whole
	Key          string // peers[1].hold-time, or empty for the text as a whole
	Text         string // what is wrong with it and what to do
}

// Error writes the problem on one line: line 7: peers[1].hold-time: "1s" is too short: use 0 or at least 3s (column 16).
func (p Problem) Error() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Key != "" {
		fmt.Fprintf(&b, "%s: ", p.Key)
	}
	b.WriteString(p.Text)
	if p.Column > 0 {
		fmt.Fprintf(&b, " (column %d)", p.Column)
	}
	return b.String()
}

// Problems is everything wrong with a configuration, in the order of the text.
type Problems []Problem

// Error writes one problem a line.
func (p Problems) Error() string { return p.First(len(p)) }

// First writes the first n problems, one a line, and how many more there are.
func (p Problems) First(n int) string {
	var b strings.Builder
	for i, problem := range p {
		if i == n {
			fmt.Fprintf(&b, "\nand %d more", len(p)-n)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(problem.Error())
	}
	return b.String()
}

const (
	// maxValues bounds the work that YAML aliases can ask for; a text within MaxSize that uses none stays below it.
	maxValues = 600_000
	// maxMerges is how deep merge keys may refer to each other. They could also refer to themselves.
	maxMerges = 16
	// maxProblems bounds what we remember about a text that is something else than a configuration.
	maxProblems = 1000
	// maxShown is how much of what the operator wrote stands in an error, in characters.
	maxShown = 60
)

// A reader walks the nodes of a text and collects what is wrong with it.
type reader struct {
	tolerant bool // skip what this version does not know, and count it
	problems Problems
	unlisted int // problems past maxProblems
	warnings Problems
	doubts   []doubt
	ignored  int
	values   int             // visited so far
	overrun  bool            // visited too many: what is missing from here on may stand in the text after all
	secrets  map[string]bool // what stands under a key such as password, wherever that is: no error quotes it
	effort   int             // spent on comparing advertisements
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

// quote returns the value as written, short enough for an error.
func (r *reader) quote(v value) string {
	switch v.node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if r.secrets[v.node.Value] {
		return "a password"
	}
	return strconv.Quote(show(v.node.Value))
}

// quoteName is quote for a name that was read before.
func (r *reader) quoteName(name string) string {
	if r.secrets[name] {
		return strconv.Quote("…")
	}
	return strconv.Quote(show(name))
}

var passwordWord = regexp.MustCompile(`(?i)password(-key)?`)

// show returns the beginning of a text that goes into an error. What follows the word password in it may be one: the
// operator forgot a colon.
func show(text string) string {
	// Cut before anything looks at all of it: aliases can repeat a long text often.
	cut := len(text) > 4*maxShown
	if cut {
		text = text[:4*maxShown]
	}
	if strings.ContainsAny(text, "wW") { // the expression takes its time, and most keys have no such letter
		if at := passwordWord.FindStringIndex(text); at != nil && at[1] < len(text) {
			text, cut = text[:at[1]], true
		}
	}
	if len(text) > maxShown {
		if runes := []rune(text); len(runes) > maxShown {
			text, cut = string(runes[:maxShown]), true
		}
	}
	if cut {
		text += "…"
	}
	return text
}

// hide finds the secrets below a node. It does not follow aliases to lists and mappings, which are visited where they
// stand.
func (r *reader) hide(node *yaml.Node, secret bool) {
	switch node.Kind {
	case yaml.AliasNode:
		if secret && node.Alias.Kind == yaml.ScalarNode {
			r.hide(node.Alias, true)
		}
	case yaml.ScalarNode:
		if secret && node.Value != "" {
			if r.secrets == nil {
				r.secrets = map[string]bool{}
			}
			r.secrets[node.Value] = true
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			r.hide(key, secret)
			r.hide(node.Content[i+1], secret || passwordWord.MatchString(key.Value))
		}
	default:
		for _, child := range node.Content {
			r.hide(child, secret)
		}
	}
}

func (r *reader) problem(v value, format string, args ...any) {
	if r.overrun {
		return
	}
	if r.full() {
		r.unlisted++
		return
	}
	r.problems = append(r.problems, locate(v, format, args...))
}

// full reports whether further problems are counted only, so that nobody need find words for them.
func (r *reader) full() bool { return len(r.problems) == maxProblems }

func (r *reader) warn(v value, format string, args ...any) {
	r.warnings = append(r.warnings, locate(v, format, args...))
}

// doubt reports something that is refused unless the text in force has it, too; what says the same wherever it stands.
func (r *reader) doubt(v value, what string, span netipx.IPRange, format string, args ...any) {
	if len(r.doubts) < maxProblems {
		r.doubts = append(r.doubts, doubt{locate(v, format, args...), what, span})
	}
}

func locate(v value, format string, args ...any) Problem {
	p := Problem{Key: v.path, Text: fmt.Sprintf(format, args...)}
	if v.node != nil {
		p.Line, p.Column = v.node.Line, v.node.Column
	}
	return p
}

// place names another value in an error.
func place(v value) string { return v.path + " on line " + strconv.Itoa(v.node.Line) }

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

// A key is one that a mapping may have.
type key struct {
	name, synonym string
	standing      standing
}

type standing int

const (
	honoured standing = iota
	later             // part of the configuration language, but not of this version
	unused            // accepted from MetalLB's configurations and without effect
)

// fields returns the values of a mapping by their key's name, and reports keys that it does not know, that stand there
// twice, or that this version does not honour. It reports false for something else than a mapping.
func (r *reader) fields(v value, keys []key) (map[string]value, bool) {
	if v.absent() {
		return nil, true
	}
	if v.node.Kind != yaml.MappingNode {
		r.problem(v, "%s is not a mapping: write it as lines of \"key: value\"", r.quote(v))
		return nil, false
	}
	found := map[string]value{}
	first := map[string]pair{}
	for _, p := range r.pairs(v, v.node, 0) {
		at := value{p.key, join(v.path, p.key.Value)}
		k, ok := lookup(keys, p.key.Value)
		switch {
		case (!ok || k.standing == later) && r.tolerant:
			r.ignored++
			continue
		case !ok:
			r.problem(at, "is not a key of this configuration%s", r.suggest(p.key.Value, names(keys), "remove it"))
			continue
		}
		if before, twice := first[k.name]; twice {
			if !p.merged {
				r.problem(at, "stands here twice, also as %s: keep one", place(value{before.key, join(v.path, before.key.Value)}))
			}
			continue
		}
		first[k.name] = p
		switch k.standing {
		case later:
			r.problem(at, "is not supported by this version: remove it")
		case unused:
			r.warn(at, "has no effect: this version does not speak BFD; a short hold-time, such as 9s, finds a dead node as well")
		default:
			found[k.name] = value{p.value, at.path}
		}
	}
	return found, true
}

// A pair is one entry of a mapping.
type pair struct {
	key, value *yaml.Node
	merged     bool // comes with a merge key (<<), and gives way to an entry before it
}

// pairs returns the entries of a mapping: its own, then those that come with merge keys.
func (r *reader) pairs(v value, mapping *yaml.Node, depth int) []pair {
	var own []pair
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
		case key.Tag == "!!merge":
			merges = append(merges, node)
		default:
			own = append(own, pair{key, node, depth > 0})
		}
	}
	for _, merge := range merges {
		sources := []*yaml.Node{merge}
		if merge.Kind == yaml.SequenceNode {
			sources = merge.Content
		}
		for _, source := range sources {
			node, ok := r.visit(source)
			if !ok {
				return own
			}
			at := value{source, join(v.path, "<<")}
			switch {
			case node.Kind != yaml.MappingNode:
				r.problem(at, "does not stand for a mapping: merge mappings only")
			case depth == maxMerges:
				r.problem(at, "merges mappings that merge others, more than %d deep: write out some of them", maxMerges)
				return own
			default:
				own = append(own, r.pairs(v, node, depth+1)...)
			}
		}
	}
	return own
}

// items returns the values of a list.
func (r *reader) items(v value) []value {
	if v.absent() {
		return nil
	}
	if v.node.Kind != yaml.SequenceNode {
		r.problem(v, "%s is not a list: begin each item with \"- \"", r.quote(v))
		return nil
	}
	var all []value
	for i, item := range v.node.Content {
		node, ok := r.visit(item)
		if !ok {
			break
		}
		all = append(all, value{node, v.path + "[" + strconv.Itoa(i) + "]"})
	}
	return all
}

// entries returns the keys and values of a mapping whose keys the operator chooses, in the order of the text. Both go by the
// same path, and stand where they stand.
func (r *reader) entries(v value) (keys, values []value) {
	if v.absent() {
		return nil, nil
	}
	if v.node.Kind != yaml.MappingNode {
		r.problem(v, "%s is not a mapping: write it as lines of \"name: value\"", r.quote(v))
		return nil, nil
	}
	first := map[string]pair{}
	for _, p := range r.pairs(v, v.node, 0) {
		at := value{p.value, join(v.path, p.key.Value)}
		if before, twice := first[p.key.Value]; twice {
			if !p.merged {
				r.problem(value{p.key, at.path}, "stands here twice, also on line %d: keep one", before.key.Line)
			}
			continue
		}
		first[p.key.Value] = p
		keys, values = append(keys, value{p.key, at.path}), append(values, at)
	}
	return keys, values
}

// text returns a scalar as written. It reports false if there is none, or if it is not a scalar.
func (r *reader) text(v value) (string, bool) {
	if v.absent() {
		return "", false
	}
	if v.node.Kind != yaml.ScalarNode {
		r.problem(v, "%s does not belong here: write a single value", r.quote(v))
		return "", false
	}
	return v.node.Value, true
}

// label returns the value of a label as written, and null as the empty text, as MetalLB reads
// "node-role.kubernetes.io/worker:". To skip it would select more nodes than the operator wrote.
func (r *reader) label(v value) (string, bool) {
	if v.absent() {
		return "", true
	}
	text, ok := r.text(v)
	if ok && !isLabelValue(text) && !r.tolerant {
		r.problem(v, "%s is not a value that a label can have: write %s, or nothing", r.quote(v), nameRule)
	}
	return text, ok
}

// labelKey reports a key that no label can have.
func (r *reader) labelKey(v value) {
	if v.node.Kind == yaml.ScalarNode && !isLabelKey(v.node.Value) && !r.tolerant {
		r.problem(v, "%s is not a key that a label can have: write %s, perhaps after a domain, as in example.com/rack", r.quote(v), nameRule)
	}
}

// flag returns a boolean, or otherwise if there is none.
func (r *reader) flag(v value, otherwise bool) bool {
	if v.absent() {
		return otherwise
	}
	b, ok := boolean(v)
	if !ok {
		r.problem(v, "%s is neither true nor false: %s", r.quote(v), unquoted(v, boolean, "write one of the two"))
		return otherwise
	}
	return b
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
	if v.absent() {
		return otherwise
	}
	n, ok := integer(v)
	if !ok || n < least || n > most {
		r.problem(v, "%s is not possible here: %s", r.quote(v), unquoted(v, integer, fmt.Sprintf("use a whole number from %d to %d", least, most)))
		return otherwise
	}
	if digits := strings.TrimLeft(v.node.Value, "+-"); len(digits) > 1 && digits[0] == '0' && n != 0 {
		_, name := cutLast(v.path)
		r.doubt(v, name+" "+v.node.Value, netipx.IPRange{}, "%s begins with a zero, which some readers take for an octal number: write %d", r.quote(v), n)
	}
	return n
}

// cutLast cuts a path before its last key.
func cutLast(path string) (before, key string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}

func integer(v value) (n int64, ok bool) {
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" || len(v.node.Value) > maxShown {
		return 0, false
	}
	return n, v.node.Decode(&n) == nil
}

// unquoted returns the remedy for a value that only its quotes make wrong, and the other advice for any other.
func unquoted[T any](v value, read func(value) (T, bool), otherwise string) string {
	if v.node.Kind != yaml.ScalarNode || v.node.Style == 0 || len(v.node.Value) > maxShown {
		return otherwise
	}
	var plain yaml.Node
	if yaml.Unmarshal([]byte(v.node.Value), &plain) != nil || len(plain.Content) == 0 {
		return otherwise
	}
	if _, ok := read(value{node: plain.Content[0]}); !ok {
		return otherwise
	}
	return "write it without quotes"
}

func join(path, key string) string {
	if path == "" {
		return show(key)
	}
	return path + "." + show(key)
}

func lookup(keys []key, written string) (key, bool) {
	for _, k := range keys {
		if written == k.name || k.synonym != "" && written == k.synonym {
			return k, true
		}
	}
	return key{}, false
}

func names(keys []key) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, k := range keys {
			if !yield(k.name) || k.synonym != "" && !yield(k.synonym) {
				return
			}
		}
	}
}

// suggest names the known word that is nearest to the one written, the first by the alphabet of several; if none is near,
// it gives the other advice. Past the first problems nobody reads suggestions, and they cost time.
func (r *reader) suggest(written string, known iter.Seq[string], otherwise string) string {
	best, least := "", 1+len(written)/2
	if len(r.problems) < 50 && len(written) <= maxShown {
		for k := range known {
			if len(k) > maxShown || r.secrets[k] {
				continue
			}
			if d := distance(written, k); d < least || d == least && best != "" && k < best {
				best, least = k, d
			}
		}
	}
	if best == "" {
		return ": " + otherwise
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// distance is how many letters must be added, dropped or changed to turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
