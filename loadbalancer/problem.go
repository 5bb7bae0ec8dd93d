package loadbalancer

import (
	"cmp"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
)

// A Problem is one thing wrong with a configuration, and where.
type Problem struct {
	Line, Column int    // 1 is the first; 0 means the text as a whole
	Key          string // peers[1].hold-time, or empty for the text as a whole
	Text         string // what is wrong with it and what to do
	Shown        string // the rest of the line, where Text does not quote what is wrong; never a password

	again *int // in how many more places the same mistake is
}

// Error writes the problem on one line: line 7: peers[1].hold-time: "1s" is too short: use 0 or at least 3s (column 14).
func (p Problem) Error() string {
	text := p.Text
	if p.Key != "" {
		text = p.Key + ": " + text
	}
	if p.Line > 0 {
		text = fmt.Sprintf("line %d: %s", p.Line, text)
	}
	if p.again != nil && *p.again > 0 {
		text += fmt.Sprintf("; this stands %d times in all", 1+*p.again)
	}
	var where []string
	if p.Column > 0 {
		where = append(where, fmt.Sprint("column ", p.Column))
	}
	if p.Shown != "" {
		where = append(where, strconv.Quote(p.Shown))
	}
	if len(where) > 0 {
		text += " (" + strings.Join(where, ": ") + ")"
	}
	return text
}

// Problems is everything wrong with a configuration, in the order of the text.
type Problems []Problem

// Error writes one problem a line.
func (p Problems) Error() string { return p.First(len(p)) }

// First writes the first n problems, one a line, and how many more there are.
func (p Problems) First(n int) string {
	var lines []string
	for _, problem := range p[:min(n, len(p))] {
		lines = append(lines, problem.Error())
	}
	if more := len(p) - n; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

func inOrder(problems Problems) Problems {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	return problems
}

// firstWarnings leaves out all but the first, and counts them: each becomes an event.
func firstWarnings(warnings Problems) Problems {
	const most = 20
	if more := len(warnings) - most; more > 0 {
		warnings = append(warnings[:most:most], Problem{Text: fmt.Sprintf("there are %d more warnings", more)})
	}
	return warnings
}

const (
	// maxProblems bounds what we remember about a text that is something else than a configuration.
	maxProblems = 1000
	// maxShown is how much of what the operator wrote stands in an error, in characters.
	maxShown = 60
)

// problem reports what is wrong at a place, and shows the rest of its line.
func (r *reader) problem(at value, format string, args ...any) *Problem {
	if r.deaf() {
		return &Problem{}
	}
	p := problemAt(at, format, args...)
	p.Shown = r.rest(p.Line, p.Column)
	r.problems = append(r.problems, p)
	return &r.problems[len(r.problems)-1]
}

// wrong reports a value, which stands before what is said of it. If a character in it cannot be seen, that is said instead.
func (r *reader) wrong(v value, format string, args ...any) *Problem {
	what := fmt.Sprintf(format, args...)
	if hidden, ok := unseen(v.node.Value); ok && !r.secret(v.node) {
		what = hidden
	}
	p := r.problem(v, "%s %s", r.quote(v), what)
	if v.node.Kind == yaml.ScalarNode { // of others, the quote says little
		p.Shown = ""
	}
	return p
}

// deaf reports whether a further problem is counted at most, so that nobody need find words for it.
func (r *reader) deaf() bool {
	full := len(r.problems) == maxProblems
	if full && !r.overrun {
		r.unlisted++
	}
	return full || r.overrun
}

// require reports a key that a mapping needs and does not have.
func (r *reader) require(mapping value, fields map[string]value, key, remedy string) {
	if fields[key].empty() {
		r.problem(value{mapping.node, join(mapping.path, key)}, "is missing: %s", remedy)
	}
}

// stranger reports a name that stands for nothing among those that are known, once.
func (r *reader) stranger(v value, what string, known iter.Seq[string], remedy string) {
	if again := r.first(v, what); again != nil {
		r.wrong(v, "%s%s", what, r.suggest(v.node.Value, known, remedy)).again = again
	}
}

// first returns a new count of the places where the same is said of the same value, or nil if this is not the first.
func (r *reader) first(v value, what string) *int {
	again, repeated := r.again[what+v.node.Value]
	if repeated {
		*again++
		return nil
	}
	again = new(int)
	r.again[what+v.node.Value] = again
	return again
}

// all returns the problems in the order of the text.
func (r *reader) all() Problems {
	problems := inOrder(r.problems)
	if r.unlisted > 0 {
		problems = append(problems, Problem{Text: fmt.Sprintf("there are %d more problems: solve these first", r.unlisted)})
	}
	return problems
}

func (r *reader) warn(v value, format string, args ...any) {
	r.warnings = append(r.warnings, problemAt(v, format, args...))
}

// doubt reports something that is refused unless the text in force has it, too; what says the same wherever it stands.
func (r *reader) doubt(v value, what string, span netipx.IPRange, format string, args ...any) *Problem {
	if len(r.doubts) == maxProblems {
		return &Problem{}
	}
	p := problemAt(v, format, args...)
	p.Text = r.quote(v) + " " + p.Text
	r.doubts = append(r.doubts, doubt{p, what, span})
	return &r.doubts[len(r.doubts)-1].Problem
}

func problemAt(v value, format string, args ...any) Problem {
	p := Problem{Key: v.path, Text: fmt.Sprintf(format, args...)}
	if v.node != nil {
		p.Line, p.Column = v.node.Line, v.node.Column
	}
	return p
}

// place names another value in an error.
func place(v value) string { return v.path + " on line " + strconv.Itoa(v.node.Line) }

// quote returns the value as written, short enough for an error.
func (r *reader) quote(v value) string {
	switch v.node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if r.secret(v.node) {
		return "a password"
	}
	return strconv.Quote(show(v.node.Value))
}

// secret reports whether a scalar is a password or equal to one.
func (r *reader) secret(node *yaml.Node) bool { return r.hidden[node] || r.secrets[node.Value] }

// What YAML takes for the end of a line.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

// rest returns what stands on a line from a column on, or on all of it if that is nothing. It returns nothing where a password
// begins, and if any stands in it.
func (r *reader) rest(line, column int) string {
	rest := r.from(line, column)
	if r.secretLines[line] || len(r.secrets) > maxShown {
		return ""
	}
	if rest == "" && len(r.secretLines) == 0 {
		rest = r.from(line, 1)
	}
	for secret := range r.secrets {
		if strings.Contains(rest, secret) {
			return ""
		}
	}
	return show(rest)
}

// from returns what is written on a line from a column on, secret or not.
func (r *reader) from(line, column int) string {
	if r.lines == nil {
		r.lines = strings.Split(lineEnds.Replace(string(r.source)), "\n")
	}
	const most = 4 << 10 // characters: to look through more for each problem would take long
	if line < 1 || line > len(r.lines) || len(r.lines[line-1]) > most {
		return ""
	}
	all := []rune(r.lines[line-1])
	return strings.Trim(string(all[max(0, min(column-1, len(all))):]), " \t")
}

// restUnread returns a line of a text that is not YAML. Nobody knows what is a password in it: one may go on for several lines,
// or stand elsewhere as an alias.
func (r *reader) restUnread(line int) string {
	rest := r.rest(line, 1)
	if known := r.lines[:min(line, len(r.lines))]; secretWord.MatchString(strings.Join(known, "\n")) || strings.Contains(rest, "&") {
		return ""
	}
	return rest
}

var passwordWord = regexp.MustCompile(`(?i)password(-key)?|pa?s+w(or|ro|o|r)?d?|pwd`) // as it is misspelt, too

// secretWord also finds what else operators call a password.
var secretWord = regexp.MustCompile(passwordWord.String() + "|secret|psk|md5")

// show returns the beginning of a text that goes into an error. What follows the word password in it may be one: the
// operator forgot a colon.
func show(text string) string {
	shown := text[:min(len(text), 4*maxShown)] // before anything looks at all of it: aliases can repeat a long text often
	if strings.ContainsAny(shown, "wW") {      // the expression takes its time, and most keys have no such letter
		if at := passwordWord.FindStringIndex(shown); at != nil {
			shown = shown[:at[1]]
		}
	}
	if runes := []rune(shown); len(runes) > maxShown {
		shown = string(runes[:maxShown])
	}
	if len(shown) < len(text) {
		shown += "…"
	}
	return shown
}

// hide finds the secrets below a node, and their lines: what stands under a key such as password, whatever YAML makes of it, or
// follows that word in a list or among keys without values. It reports whether what follows the node itself would be a secret.
func (r *reader) hide(node *yaml.Node, secret bool) (next bool) {
	if secret && r.hidden[node] { // an alias has led here
		return true
	}
	if secret {
		r.hidden[node], r.secretLines[node.Line] = true, true
		if node.Anchor != "" {
			r.secrets["*"+node.Anchor] = true
		}
		if node.Kind == yaml.AliasNode {
			r.hide(node.Alias, true)
		} else if node.Value != "" {
			r.secrets[node.Value] = true
		}
	}
	for i := 0; i < len(node.Content); i++ {
		if node.Kind != yaml.MappingNode {
			next = r.hide(node.Content[i], secret || next) || next || isSecretWord(node.Content[i])
			continue
		}
		key, val := node.Content[i], node.Content[i+1]
		i++
		bare := val.Tag == "!!null" && val.Value == ""
		named := r.hide(key, secret || next && bare) || isSecretWord(key)
		if named {
			r.secretLines[key.Line] = true
		}
		r.hide(val, secret || named)
		next = bare && (named || next)
	}
	return next
}

// isSecretWord looks for a letter or digit of each word first: the expression takes its time, and addresses have none.
func isSecretWord(node *yaml.Node) bool {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node.Kind == yaml.ScalarNode && len(node.Value) < 4*maxShown && strings.ContainsAny(node.Value, "wWtTkK5") && secretWord.MatchString(node.Value)
}

// The names of characters that editors put into a text and do not show.
var unseenNames = map[rune]string{
	'\t': "tab", '\n': "line break", '\u00a0': "no-break space", '\u00ad': "soft hyphen", '\u200b': "zero-width space", '\u200c': "zero-width non-joiner",
	'\u200d': "zero-width joiner", '\u202f': "narrow no-break space", '\u2060': "word joiner", '\u3000': "ideographic space", '\ufeff': "byte order mark",
}

// unseen names the first character of a text that nobody sees, or takes for a space, and its place.
func unseen(text string) (what string, found bool) {
	if len(text) > 4<<10 { // aliases can repeat a long text often
		return "", false
	}
	place := 0
	for _, c := range text {
		place++
		if ' ' <= c && c <= '~' || unicode.IsPrint(c) && !unicode.In(c, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) && c != '\u2800' {
			continue
		}
		return fmt.Sprintf("has the character %U (%s) at place %d, which cannot be seen for what it is: write a plain space or nothing there",
			c, cmp.Or(unseenNames[c], "invisible, or an unusual space"), place), true
	}
	return "", false
}

// remedy returns what to do about a value that cannot be read, if only its quotes or a zero in front are in the way, and the
// other advice for any other.
func remedy[T any](v value, read func(value) (T, bool), otherwise string) string {
	readable := func(text string) bool {
		var plain yaml.Node
		if yaml.Unmarshal([]byte(text), &plain) != nil || len(plain.Content) == 0 {
			return false
		}
		_, ok := read(value{node: plain.Content[0]})
		return ok
	}
	text := v.node.Value
	plain := frontZeros.ReplaceAllString(text, "$1$2")
	switch {
	case v.node.Kind != yaml.ScalarNode || len(text) > maxShown:
	case plain != text && readable(plain):
		return "write " + plain
	case v.node.Style != 0 && readable(text):
		return "write it without quotes"
	}
	return otherwise
}

// suggest names the known word that is nearest to the one written, however either is hyphenated, the first by the alphabet of
// several; if none is near, it gives the other advice. Past the first problems nobody reads suggestions, and they cost time.
func (r *reader) suggest(written string, known iter.Seq[string], otherwise string) string {
	if len(r.problems) < 50 && len(written) <= maxShown {
		if best, letters := Nearest(written, known); best != "" && letters <= len(written)/2 && !r.secrets[best] {
			return fmt.Sprintf(": did you mean %q?", best)
		}
	}
	return ": " + otherwise
}

// Nearest returns the known word that is nearest to the one written, however either is hyphenated or capitalised, the first by
// the alphabet of several, and how many letters apart they are. Without known words it returns none.
func Nearest(written string, known iter.Seq[string]) (best string, letters int) {
	for k := range known {
		if len(k) > maxShown { // nobody means that
			continue
		}
		if d := distance(folded(written), folded(k)); best == "" || d < letters || d == letters && k < best {
			best, letters = k, d
		}
	}
	return best, letters
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
