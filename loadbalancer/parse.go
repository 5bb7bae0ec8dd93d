package loadbalancer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// MaxSize is the longest configuration that Parse reads, in bytes: half of what fits into a ConfigMap, so that the
// admitted copy and its remarks fit into one as well.
const MaxSize = 512 << 10

// Parse reads the operator's text. The error is of type Problems and names everything wrong with the text, in its order.
// Warnings concern what was accepted and yet may not be what the operator thinks.
func Parse(text []byte) (config *Config, warnings Problems, err error) {
	r := &reader{}
	config = r.config(text)
	if len(r.problems) > 0 {
		return nil, nil, r.all()
	}
	return config, firstWarnings(inOrder(r.warnings)), nil
}

// ParseAdmitted reads a text that some version of Parse has accepted, perhaps an earlier or a later one than this. It skips
// keys that this version does not know, so that a rollback loses no other routes, and returns how many it skipped. Labels and
// namespaces that cannot exist, which earlier versions did not refuse, are read as written: nothing has them.
func ParseAdmitted(text []byte) (config *Config, ignored int, err error) {
	r := &reader{tolerant: true}
	config = r.config(text)
	if len(r.problems) > 0 {
		return nil, 0, r.all()
	}
	return config, r.ignored, nil
}

func (r *reader) config(text []byte) *Config {
	r.source, r.again = text, map[string]*int{}
	r.hidden, r.secrets, r.secretLines = map[*yaml.Node]bool{}, map[string]bool{}, map[int]bool{}
	if len(text) > MaxSize {
		r.problems = Problems{{Text: fmt.Sprintf("the configuration is longer than %d KiB: name ranges instead of single addresses", MaxSize>>10)}}
		return nil
	}
	if at, ok := unreadable(text); ok {
		at.Shown = r.restUnread(at.Line)
		r.problems = Problems{at}
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	document := r.document(decoder)
	if document == nil {
		return &Config{}
	}
	unfinished := r.hide(document, false)
	root, ok := r.visit(document.Content[0])
	if !ok {
		return nil
	}
	fields, ok := r.fields(value{node: root}, configKeys)
	if !ok {
		return nil
	}
	if second := r.document(decoder); second != nil {
		r.hide(second, unfinished)
		r.problem(value{node: second}, "a second YAML document begins here: keep one")
		return nil
	}
	config := &Config{Drain: r.drain(fields["drain"])}
	var profiles map[string]value
	config.BFDProfiles, profiles = r.bfdProfiles(fields["bfd-profiles"])
	peers := r.peers(config, fields["peers"], profiles)
	r.pools(config, fields["address-pools"], r.communities(fields["communities"]), peers)
	config.doubts = r.doubts
	return config
}

// document returns the next YAML document in the text, or nil if there is none.
func (r *reader) document(decoder *yaml.Decoder) *yaml.Node {
	var document yaml.Node
	if err := decoder.Decode(&document); err == nil {
		return &document
	} else if !errors.Is(err, io.EOF) {
		r.problems = append(r.problems, r.syntax(err))
	}
	return nil
}

// unreadable finds the first character that YAML does not allow. The YAML library does not say where it is.
func unreadable(text []byte) (p Problem, found bool) {
	p.Line = 1
	for i, c := range string(text) {
		p.Column++
		switch _, size := utf8.DecodeRune(text[i:]); {
		case c == '\n':
			p.Line, p.Column = p.Line+1, 0
		case c == utf8.RuneError && size == 1:
			p.Text = "this is not UTF-8 text: save the file as UTF-8"
			return p, true
		case c < ' ' && c != '\t' && c != '\r', c >= 0x7f && c < 0xa0 && c != 0x85, c == 0xfffe, c == 0xffff:
			p.Text = fmt.Sprintf("the character %U is not allowed in YAML: remove it", c)
			return p, true
		}
	}
	return Problem{}, false
}

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// What the YAML library says is wrong, by the first words, and what to do about it. The first that fits counts.
var remedies = []struct {
	what   string
	inside bool // the library only knows where the list or mapping begins in which the mistake is
	remedy string
}{
	{"found a tab", true, "indent with spaces"},
	{"found character that cannot start any token", false, "indent with spaces instead of tabs, and put a value that begins with @, ` or % into quotes"},
	{"did not find expected key", true, "align the line with those before it"},
	{"did not find expected '-'", true, "align the line with those before it"},
	{"did not find expected ','", true, "put a comma between two values, and close each bracket"},
	{"did not find expected node content", true, "write a value there, or complete or remove the bracket"},
	{"did not find expected <document start>", true, "the text ends above this line: remove it and what follows, or the mark that ends the text"},
	{"mapping values are not allowed", false, `write each key with its colon on a line of its own, also above, and put a value that contains ": " into quotes`},
	{"could not find expected ':'", false, "write a colon and a space after the key"},
	{"found unexpected", false, "close the quotes"},
	{"found unknown escape", false, "put the value into single quotes"},
	{"did not find expected hexdecimal", false, "put the value into single quotes"},
	{"found undefined", true, "put the value into quotes"},
	{"found duplicate", true, "remove the line"},
	{"found incompatible", true, "remove the line"},
	{"", false, "put the value into quotes, or remove the line"},
}

// syntax turns an error of the YAML library into one of ours.
func (r *reader) syntax(err error) Problem {
	what, line := strings.TrimPrefix(err.Error(), "yaml: "), 1 // the library does not mention the first line
	if m := yamlLine.FindStringSubmatch(what); m != nil {
		line, _ = strconv.Atoi(m[1]) // digits only
		what = what[len(m[0]):]
	}
	if strings.HasPrefix(what, "exceeded max depth") {
		return Problem{Text: "lists or mappings are nested too deep for a configuration: look for brackets or dashes without end"}
	}
	lines := strings.Split(strings.TrimRight(string(r.source), "\n"), "\n")
	if m := unknownAnchor.FindStringSubmatch(what); m != nil {
		// The library quotes the anchor, which may be a password that begins with an asterisk, and not its line.
		what = "an alias (*name) stands for nothing: put a value that begins with * into quotes"
		line = 1 + max(0, slices.IndexFunc(lines, func(line string) bool {
			line, _, _ = strings.Cut(line, "#")
			return strings.Contains(line, "*"+m[1])
		}))
	} else {
		i := 0
		for !strings.HasPrefix(what, remedies[i].what) {
			i++
		}
		known := remedies[i]
		if known.inside {
			line = lineOf(r.source, line)
		}
		what += ": " + known.remedy
	}
	line = min(line, len(lines)) // where the text ends too early, the library counts one line too many
	p := Problem{Line: line, Text: "this is not YAML: " + what}
	for _, near := range []int{line, max(1, line-1)} { // a dash with another space behind it is seen to be none on the next
		if hidden, ok := unseen(strings.NewReplacer("\t", " ", "\r", "").Replace(lines[near-1])); ok {
			p.Line, p.Text = near, "this is not YAML: the line "+hidden
			break
		}
	}
	p.Shown = r.restUnread(p.Line)
	return p
}

// lineOf finds the line of a mistake of which the library only knows, counted from 0, where the list or mapping around it
// begins: up to that line, and not including it, the text is YAML.
func lineOf(text []byte, begin int) int {
	const most = 64 << 10 // past that, the answer would cost more than it is worth
	if len(text) > most {
		return begin + 1
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		decoder := yaml.NewDecoder(bytes.NewReader(bytes.Join(lines[:i+1], nil)))
		var err error
		for err == nil {
			err = decoder.Decode(new(yaml.Node))
		}
		return !errors.Is(err, io.EOF)
	})
}
