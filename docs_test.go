package imports_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// Documentation is tested like code: what it shows must work, and what it lists must be there, all of it and nothing else.

const (
	reference  = "docs/reference.md"
	repository = "https://github.com/metallb/cloud-provider-metallb/blob/main/"
)

func TestEveryYAMLBlockIsWhatItSays(t *testing.T) {
	for _, page := range pages(t) {
		for _, b := range page.blocks {
			at := fmt.Sprintf("%s:%d", page.path, b.line)
			switch b.info {
			case "yaml":
				for _, err := range checkObjects(b.text) {
					t.Errorf("%s: %v", at, err)
				}
			case "yaml config":
				if _, _, err := loadbalancer.Parse([]byte(b.text)); err != nil {
					t.Errorf("%s: %v", at, err)
				}
			case "yaml config refused":
				_, _, err := loadbalancer.Parse([]byte(b.text))
				var problems loadbalancer.Problems
				if !errors.As(err, &problems) {
					t.Errorf("%s: this configuration is not refused", at)
				}
				for _, p := range problems {
					if !strings.Contains(page.text, p.Error()) {
						t.Errorf("%s: the page does not show the problem\n%s", at, p.Error())
					}
				}
			case "yaml values": // the tests of the chart render them
				var values struct{ Config string }
				if err := yaml.Unmarshal([]byte(b.text), &values); err != nil {
					t.Errorf("%s: %v", at, err)
				}
				if _, _, err := loadbalancer.Parse([]byte(values.Config)); err != nil {
					t.Errorf("%s: %v", at, err)
				}
			case "yaml object refused":
				if len(checkObjects(b.text)) == 0 {
					t.Errorf("%s: Kubernetes accepts this", at)
				}
			case "yaml pipeline":
				var pipeline map[string]any
				if err := yaml.Unmarshal([]byte(b.text), &pipeline); err != nil || len(pipeline) == 0 {
					t.Errorf("%s: %v", at, err)
				}
			case "sh", "text", "mermaid", "frr", "bird", "frr bfd", "bird bfd":
			default:
				t.Errorf("%s: a block marked %q: see docs/CONTRIBUTING.md for the words there are", at, b.info)
			}
		}
	}
}

func TestEveryManifestIsWhatKubernetesExpects(t *testing.T) {
	paths, err := filepath.Glob("manifests/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no manifests", err)
	}
	for _, path := range paths {
		for _, err := range checkObjects(read(t, path)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestTheReadmeShowsTheDemoAndTheTests(t *testing.T) {
	var commands []string
	for _, b := range readPage(t, "README.md").blocks {
		if b.info == "sh" {
			commands = append(commands, strings.Split(strings.TrimSpace(b.text), "\n")...)
		}
	}
	if want := []string{"make demo", "make test"}; !slices.Equal(commands, want) {
		t.Errorf("the README's commands are %q, want %q", commands, want)
	}
	if !strings.Contains(read(t, ".ci/run"), "\nmake test\n") {
		t.Error("CI does not run make test")
	}
}

func TestEveryMakeTargetInTheDocumentationExists(t *testing.T) {
	makefile := read(t, "Makefile")
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9-]+):`).FindAllStringSubmatch(makefile, -1) {
		targets[m[1]] = true
	}
	looked := 0
	for _, page := range pages(t) {
		code := page.spans
		for _, b := range page.blocks {
			if b.info == "sh" {
				code = append(code, strings.Split(b.text, "\n")...)
			}
		}
		for _, c := range code {
			target, ok := strings.CutPrefix(strings.TrimSpace(c), "make ")
			if !ok {
				continue
			}
			looked++
			target, _, _ = strings.Cut(target, " ")
			if !targets[target] {
				t.Errorf("%s: there is no make target %q", page.path, target)
			}
		}
	}
	if looked == 0 {
		t.Error("no page mentions make: this test looks at nothing")
	}
}

func TestEveryLinkInTheDocumentationLeadsSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(page.prose, -1) {
			target, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %v", page.path, err)
				continue
			}
			path := page.path
			if own, ok := strings.CutPrefix(m[1], repository); ok { // the chart's, which is read elsewhere
				path, _, _ = strings.Cut(own, "#")
			} else if target.IsAbs() {
				continue
			} else if target.Path != "" {
				path = filepath.Join(filepath.Dir(page.path), target.Path)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: link %s: %v", page.path, m[1], err)
				continue
			}
			if target.Fragment != "" && !slices.Contains(readPage(t, path).anchors, target.Fragment) {
				t.Errorf("%s: link %s: %s has no such heading", page.path, m[1], path)
			}
		}
	}
}

// What the tables of the reference say about a key must be how Parse behaves.
func TestTheReferenceKnowsTheKeysThatParseKnows(t *testing.T) {
	page := readPage(t, reference)
	keys := parserKeys(t)
	base, withProfile := mustParse(t, smallest(t)), mustParse(t, with(t, profiles+"[].name", "quick"))
	documented := map[string]bool{}
	for _, row := range page.rows("Configuration keys") {
		written := codeSpans(row.cells[0])
		if len(written) == 0 {
			t.Errorf("%s:%d: no key in the first column", reference, row.line)
			continue
		}
		for _, name := range written {
			path := name
			if row.heading != "The configuration" && row.heading != "Ignored" {
				path = strings.Trim(row.heading, "`") + "." + name
			}
			documented[path] = true
			if !keys[path] {
				t.Errorf("%s:%d: Parse has no key %s", reference, row.line, path)
				continue
			}
			want := "honoured"
			if row.heading == "Ignored" {
				want = strings.ToLower(row.heading)
			}
			if got := standing(t, path); got != want {
				t.Errorf("%s:%d: %s is listed as %s, and Parse says %s", reference, row.line, path, want, got)
			}
			// A default that the table shows as code means the same when it is written down.
			if want != "honoured" || len(row.cells) < 3 {
				continue
			}
			if value, ok := strings.CutPrefix(row.cells[2], "`"); ok {
				value, ok = strings.CutSuffix(value, "`")
				want := base
				if strings.HasPrefix(path, profiles) {
					want = withProfile
				}
				if config := mustParse(t, with(t, path, value)); !ok || !reflect.DeepEqual(config, want) {
					t.Errorf("%s:%d: %s is not the default of %s", reference, row.line, row.cells[2], path)
				}
			}
		}
	}
	for path := range keys {
		if !documented[path] {
			t.Errorf("%s does not list %s", reference, path)
		}
	}
}

// The reference says that labels and namespaces are those that Kubernetes allows. Parse has rules of its own, since the
// domain does not know Kubernetes.
func TestParseTakesTheLabelsAndNamespacesThatKubernetesTakes(t *testing.T) {
	texts := []string{""}
	for i := 0; len(texts[i]) < 3; i++ {
		for _, c := range []string{"a", "Z", "0", "-", "_", ".", "/", " ", "é"} {
			texts = append(texts, texts[i]+c)
		}
	}
	for _, n := range []int{62, 63, 64, 252, 253, 254} {
		long := strings.Repeat("a", n)
		dotted := strings.Repeat("a.", n)[:n-1] + "a"
		texts = append(texts, long, "x/"+long, long+"/x", dotted, "x/"+dotted, dotted+"/x", long+"."+long+"/x")
	}
	places := map[string]struct {
		config string
		rule   func(string) []string
	}{
		"key":       {"peers: [{peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, node-selectors: [{match-labels: {%q: x}}]}]", validation.IsQualifiedName},
		"value":     {"peers: [{peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, node-selectors: [{match-labels: {x: %q}}]}]", validation.IsValidLabelValue},
		"namespace": {"address-pools: [{name: a, cidr: [10.0.0.0/24], namespaces: [%q]}]", validation.IsDNS1123Label},
	}
	for noun, place := range places {
		for _, text := range texts {
			_, _, err := loadbalancer.Parse(fmt.Appendf(nil, place.config, text))
			if why := place.rule(text); (err == nil) != (len(why) == 0) {
				t.Errorf("the %s %q: Parse says %v, and Kubernetes %v", noun, text, err, why)
			}
		}
	}
}

// Operators who come from some version of MetalLB find it, and every message that its configurations lead to.
func TestTheMigrationPageKnowsEveryVersionAndMessage(t *testing.T) {
	const path, samples = "docs/migration.md", "loadbalancer/testdata/metallb"
	page := readPage(t, path)
	listed := map[string]bool{}
	for _, row := range page.rows("A ConfigMap of v0.2 to v0.12") {
		listed[row.cells[0]] = true
	}
	folders, err := os.ReadDir(samples)
	if err != nil || len(folders) == 0 {
		t.Fatal("there are no samples", err)
	}
	for _, folder := range folders {
		if !listed[folder.Name()] {
			t.Errorf("%s does not list %s", path, folder.Name())
		}
		delete(listed, folder.Name())
	}
	for version := range listed {
		t.Errorf("%s lists %s, of which there are no samples", path, version)
	}
	// The same message of another place, line and value.
	text := func(s string) string {
		s = regexp.MustCompile(` \(column \d+(: "(\\.|[^"\\])*")?\)`).ReplaceAllString(s, "")
		s = regexp.MustCompile(`"[^"\n]*"`).ReplaceAllString(s, `"…"`)
		s = regexp.MustCompile(`(also|peers?) as [^ ]+ on line \d+`).ReplaceAllStringFunc(s, func(s string) string { return strings.Fields(s)[0] + " as …" })
		return s
	}
	told := text(page.text)
	wants, err := filepath.Glob(samples + "/*/*.want")
	if err != nil || len(wants) == 0 {
		t.Fatal("there are no expectations", err)
	}
	looked := 0
	for _, want := range wants {
		for line := range strings.Lines(read(t, want)) {
			problem, ok := strings.CutPrefix(strings.TrimSpace(line), "refused: ")
			if !ok {
				continue
			}
			looked++
			_, what, _ := strings.Cut(problem, ": ") // the line
			_, what, _ = strings.Cut(what, ": ")     // the key
			if !strings.Contains(told, text(what)) {
				t.Errorf("%s does not show what %s leads to:\n%s", path, want, text(what))
			}
		}
	}
	if looked == 0 {
		t.Error("no sample is refused: this test looks at nothing")
	}
}

func TestTheExampleUsesEveryHonouredKey(t *testing.T) {
	var object corev1.ConfigMap
	decode(t, read(t, "manifests/example-config.yaml"), &object)
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(object.Data["config"]), &root); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	var walk func(*yaml.Node, string)
	walk = func(n *yaml.Node, path string) {
		switch n.Kind {
		case yaml.DocumentNode:
			walk(n.Content[0], path)
		case yaml.SequenceNode:
			for _, item := range n.Content {
				walk(item, path+"[]")
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				below := strings.TrimPrefix(path+"."+n.Content[i].Value, ".")
				used[below] = true
				walk(n.Content[i+1], below)
			}
		}
	}
	walk(&root, "")
	synonyms := map[string]string{"bgp-communities": "communities", "addresses": "cidr", "bgp-advertisements": "advertisements"}
	for path := range parserKeys(t) {
		if standing(t, path) != "honoured" || used[path] {
			continue
		}
		place, name := path[:strings.LastIndex(path, ".")+1], path[strings.LastIndex(path, ".")+1:]
		if !used[place+synonyms[name]] {
			t.Errorf("manifests/example-config.yaml does not use %s", path)
		}
	}
}

func TestTheReferenceKnowsTheFlagsThatTheProgramsHave(t *testing.T) {
	for program, complete := range map[string]bool{"metallb-speaker": true, "metallb-bfd": true, "metallb-cloud-controller-manager": false} {
		help := help(t, program)
		documented := map[string]bool{}
		for _, row := range readPage(t, reference).rows("Flags") {
			if row.heading != "`"+program+"`" {
				continue
			}
			flag := strings.Trim(row.cells[0], "`")
			documented[flag] = true
			says, ok := help[flag]
			if !ok {
				t.Errorf("%s:%d: %s has no flag %s", reference, row.line, program, flag)
				continue
			}
			want := strings.Trim(row.cells[1], "`")
			_, got, _ := strings.Cut(says, "(default ")
			if got = strings.Trim(got, `)"`); got != want {
				t.Errorf("%s:%d: the default of %s is %q, not %q", reference, row.line, flag, got, want)
			}
		}
		for flag, says := range help {
			// The framework's flags, and those of logging, are Kubernetes' own.
			theirs := strings.Contains(flag, "log") || flag == "--v" || flag == "--vmodule" || flag == "--help"
			if own := complete && !theirs || strings.HasPrefix(flag, "--config-n"); own && !documented[flag] {
				t.Errorf("%s does not list %s's flag %s: %s", reference, program, flag, says)
			}
		}
	}
	// Flags that other text mentions exist as well, in some program.
	all := help(t, "metallb-speaker")
	maps.Copy(all, help(t, "metallb-bfd"))
	maps.Copy(all, help(t, "metallb-cloud-controller-manager"))
	for _, span := range readPage(t, reference).spans {
		if flag, ok := strings.CutPrefix(span, "--"); ok && flag != "help" && all["--"+flag] == "" {
			t.Errorf("%s mentions --%s, which no program has", reference, flag)
		}
	}
}

func TestTheReferenceKnowsTheLogLinesAndEvents(t *testing.T) {
	messages := map[string]bool{}
	others := map[string]bool{}
	reasons := map[string]bool{"SyncLoadBalancerFailed": true} // the standard service controller's
	for _, folder := range []string{"provider", "speaker", "speaker/bgp", "speaker/bfd", "speaker/gateway", "internal/agent", "internal/watch", "cmd/metallb-speaker", "cmd/metallb-bfd", "cmd/metallb-cloud-controller-manager"} {
		for path, file := range sources(t, folder) {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				name, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				argument := map[string]int{"InfoS": 0, "ErrorS": 1, "Event": 2, "Eventf": 2}
				i, ok := argument[name.Sel.Name]
				if !ok || i >= len(call.Args) {
					return true
				}
				text, ok := call.Args[i].(*ast.BasicLit)
				switch {
				case !ok:
					others[path] = true
				case i == 2:
					reasons[strings.Trim(text.Value, `"`)] = true
				default:
					messages[strings.Trim(text.Value, `"`)] = true
				}
				return true
			})
		}
	}
	for path := range others {
		t.Errorf("%s: a log line or event whose message is not a constant", path)
	}
	same(t, "log line", messages, column(t, "Log lines", 0))
	same(t, "event", reasons, column(t, "Events", 2))
}

func TestEveryRowOfTheFailureTableNamesATestThatThereIs(t *testing.T) {
	tests := map[string]bool{}
	paths, err := filepath.Glob("cmd/lab/*/*_test.go")
	if err != nil || len(paths) == 0 {
		t.Fatal("the lab has no tests", err)
	}
	for _, path := range paths {
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(read(t, path), -1) {
			tests[m[1]] = true
		}
	}
	rows := readPage(t, reference).rows("Stop and fail")
	if len(rows) == 0 {
		t.Fatal("there is no such table")
	}
	for _, r := range rows {
		named := codeSpans(r.cells[len(r.cells)-1])
		if len(named) == 0 {
			t.Errorf("%s:%d: a row without a test", reference, r.line)
		}
		for _, name := range named {
			if !tests[name] {
				t.Errorf("%s:%d: the lab has no %s", reference, r.line, name)
			}
		}
	}
}

func TestTheReferenceKnowsTheMetrics(t *testing.T) {
	names := map[string]bool{}
	for _, folder := range []string{"provider", "cmd/metallb-speaker", "cmd/metallb-bfd"} {
		for _, file := range sources(t, folder) {
			ast.Inspect(file, func(n ast.Node) bool {
				if text, ok := n.(*ast.BasicLit); ok && strings.HasPrefix(text.Value, `"metallb_`) {
					names[strings.Trim(text.Value, `"`)] = true
				}
				return true
			})
		}
	}
	documented := map[string]bool{}
	for text := range column(t, "Metrics", 0) {
		name, _, _ := strings.Cut(text, "{")
		documented[name] = true
	}
	same(t, "metric", names, documented)
}

// Whoever reads /routes has nothing else to go by. A field in brackets is left out where it is empty.
func TestTheReferenceKnowsTheFieldsOfRoutes(t *testing.T) {
	fields := map[string]bool{}
	var walk func(from reflect.Type, path string)
	walk = func(from reflect.Type, path string) {
		for i := range from.NumField() {
			name, more, _ := strings.Cut(from.Field(i).Tag.Get("json"), ",")
			if name == "-" {
				continue // a reader's own
			}
			name = path + name
			of, list := from.Field(i).Type, false
			for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
				list = of.Kind() == reflect.Slice
				of = of.Elem()
			}
			ours := of.PkgPath() == reflect.TypeFor[report.Document]().PkgPath()
			if more != "" && !(ours && list) { // lists of ours are streamed, and always there
				fields["["+name+"]"] = true
			} else {
				fields[name] = true
			}
			if ours && list {
				name += "[]"
			}
			if ours {
				walk(of, name+".")
			}
		}
	}
	walk(reflect.TypeFor[report.Document](), "")
	same(t, "field", fields, column(t, "What a speaker has sent", 0))
}

// same reports what stands on one side only.
func same(t *testing.T, noun string, code, documented map[string]bool) {
	t.Helper()
	for text := range code {
		if !documented[text] {
			t.Errorf("%s does not list the %s %q", reference, noun, text)
		}
	}
	for text := range documented {
		if !code[text] {
			t.Errorf("%s lists the %s %q, which no code has", reference, noun, text)
		}
	}
}

// column returns what stands as code in a column of the reference's tables under a heading.
func column(t *testing.T, heading string, i int) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, row := range readPage(t, reference).rows(heading) {
		for _, text := range codeSpans(row.cells[i]) {
			all[text] = true
		}
	}
	return all
}

// checkObjects decodes Kubernetes objects as an API server that is asked to be strict, and reads configurations in them.
func checkObjects(text string) (errs []error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for n := 0; ; n++ {
		var document any
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			if n == 0 {
				errs = append(errs, errors.New("nothing stands here"))
			}
			return errs
		} else if err != nil {
			return append(errs, err)
		}
		one, err := yaml.Marshal(document)
		if err != nil {
			return append(errs, err)
		}
		object, _, err := strict.Decode(one, nil, nil)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if configMap, ok := object.(*corev1.ConfigMap); ok {
			if config, ok := configMap.Data["config"]; ok {
				if _, _, err := loadbalancer.Parse([]byte(config)); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
}

var strict = serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

func decode(t *testing.T, text string, into runtime.Object) {
	t.Helper()
	if _, _, err := strict.Decode([]byte(text), nil, into); err != nil {
		t.Fatal(err)
	}
}

// parserKeys returns the path of every key that stands in the parser's tables, synonyms too.
func parserKeys(t *testing.T) map[string]bool {
	t.Helper()
	places := map[string]string{
		"configKeys":        "",
		"peerKeys":          "peers[].",
		"restartKeys":       "peers[].graceful-restart.",
		"bfdProfileKeys":    "bfd-profiles[].",
		"selectorKeys":      "peers[].node-selectors[].",
		"expressionKeys":    "peers[].node-selectors[].match-expressions[].",
		"poolKeys":          "address-pools[].",
		"reservationKeys":   "address-pools[].reservations[].",
		"advertisementKeys": "address-pools[].advertisements[].",
		"drainKeys":         "drain.",
	}
	all := map[string]bool{}
	for _, file := range sources(t, "loadbalancer") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || len(spec.Names) != 1 {
				return true
			}
			made := false
			var words []string
			ast.Inspect(spec.Values[0], func(n ast.Node) bool {
				if name, ok := n.(*ast.Ident); ok && name.Name == "keysOf" {
					made = true
				}
				if list, ok := n.(*ast.BasicLit); ok && list.Kind == token.STRING {
					words = append(words, strings.FieldsFunc(list.Value, func(c rune) bool { return strings.ContainsRune("`\"= \t\n", c) })...)
				}
				return true
			})
			if !made {
				return true
			}
			place, ok := places[spec.Names[0].Name]
			if !ok {
				t.Fatalf("table %s of the parser's keys: where do they stand?", spec.Names[0].Name)
			}
			delete(places, spec.Names[0].Name)
			for _, word := range words {
				all[place+word] = true
			}
			return false
		})
	}
	for name := range places {
		t.Fatalf("package loadbalancer has no table %s: this test looks at nothing", name)
	}
	return all
}

// smallest is the configuration of the README.
func smallest(t *testing.T) string {
	t.Helper()
	for _, b := range readPage(t, "README.md").blocks {
		if b.info == "yaml" {
			var object corev1.ConfigMap
			decode(t, b.text, &object)
			// What it is worth to add is a default without it.
			return strings.Replace(object.Data["config"], "  hold-time: 9s\n", "", 1)
		}
	}
	t.Fatal("the README shows no configuration")
	return ""
}

// standing asks Parse about a key, with no value, in an otherwise sound configuration.
func standing(t *testing.T, path string) string {
	t.Helper()
	_, warnings, err := loadbalancer.Parse([]byte(with(t, path, "")))
	var problems loadbalancer.Problems
	errors.As(err, &problems)
	at := strings.ReplaceAll(path, "[]", "[0]")
	for _, p := range problems {
		switch {
		case p.Key == at && strings.Contains(p.Text, "is not a key"):
			return "unknown"
		}
	}
	for _, w := range warnings {
		if w.Key == at && strings.Contains(w.Text, "has no effect") {
			return "ignored"
		}
	}
	return "honoured"
}

const profiles = "bfd-profiles"

// with returns the smallest configuration with a key set, in the first item of each list.
func with(t *testing.T, path, text string) string {
	t.Helper()
	var root map[string]any
	if err := yaml.Unmarshal([]byte(smallest(t)), &root); err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	at := root
	steps := strings.Split(path, ".")
	for _, step := range steps[:len(steps)-1] {
		name, isList := strings.CutSuffix(step, "[]")
		if isList {
			if list, ok := at[name].([]any); !ok || len(list) == 0 {
				item := map[string]any{}
				if name == profiles {
					item["name"] = "quick" // required, and the smallest configuration has none
				}
				at[name] = []any{item}
			}
			at, _ = at[name].([]any)[0].(map[string]any)
			continue
		}
		if _, ok := at[name].(map[string]any); !ok {
			at[name] = map[string]any{}
		}
		at, _ = at[name].(map[string]any)
	}
	at[steps[len(steps)-1]] = value
	out, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func mustParse(t *testing.T, text string) *loadbalancer.Config {
	t.Helper()
	config, _, err := loadbalancer.Parse([]byte(text))
	if err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	return config
}

// sources parses the files of a package, tests aside.
func sources(t *testing.T, folder string) map[string]*ast.File {
	t.Helper()
	paths, err := filepath.Glob(folder + "/*.go")
	if err != nil || len(paths) == 0 {
		t.Fatalf("package %s has no files: %v", folder, err)
	}
	files := map[string]*ast.File{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, read(t, path), parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = file
	}
	return files
}

// help returns what a program's --help says about each flag. The go command keeps what it built: the second time costs
// nothing, unless the program changed.
func help(t *testing.T, program string) map[string]string {
	t.Helper()
	sources(t, "cmd/"+program) // so that the test's cached result does not outlive a change of the flags
	// Built as the Makefile builds it, so that the packages are compiled once.
	cmd := exec.CommandContext(t.Context(), "go", "run", "-trimpath", "-ldflags", "-s -w", "./cmd/"+program, "--help")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "NODE_NAME=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.Bytes())
	}
	flags := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z0-9-]+)(.*)$`).FindAllStringSubmatch(string(out), -1) {
		flags[m[1]] = strings.TrimSpace(m[2])
	}
	return flags
}

// A page is a file of Markdown, taken apart.
type page struct {
	path, text string
	blocks     []block  // fenced
	prose      string   // the rest
	spans      []string // of code, in the prose
	anchors    []string // of the headings
	tables     []row    // without their headings
}

type block struct {
	line int
	info string // the words behind the backticks
	text string
}

type row struct {
	line    int
	section string // the last heading of the second level
	heading string // the last heading
	cells   []string
}

// rows returns the rows of the tables in a section.
func (p page) rows(section string) (all []row) {
	for _, r := range p.tables {
		if r.section == section {
			all = append(all, r)
		}
	}
	return all
}

// pages returns both READMEs and every page in docs.
func pages(t *testing.T) []page {
	t.Helper()
	paths, err := filepath.Glob("docs/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no pages in docs", err)
	}
	all := []page{readPage(t, "README.md"), readPage(t, "charts/metallb/README.md")}
	for _, path := range paths {
		all = append(all, readPage(t, path))
	}
	return all
}

func readPage(t *testing.T, path string) page {
	t.Helper()
	p := page{path: path, text: read(t, path)}
	var prose strings.Builder
	var open *block
	var section, heading string
	inTable, indent := false, ""
	for i, line := range strings.Split(p.text, "\n") {
		trimmed := strings.TrimSpace(line)
		if info, fence := strings.CutPrefix(trimmed, "```"); fence {
			if open == nil {
				open, indent = &block{line: i + 1, info: info}, line[:strings.Index(line, "`")]
			} else {
				p.blocks = append(p.blocks, *open)
				open = nil
			}
			continue
		}
		if open != nil {
			open.text += strings.TrimPrefix(line, indent) + "\n"
			continue
		}
		prose.WriteString(line + "\n")
		if level, text, ok := strings.Cut(line, " "); ok && level != "" && strings.Trim(level, "#") == "" {
			heading = text
			if level == "##" {
				section = text
			}
			p.anchors = append(p.anchors, anchor(text))
		}
		// The first row of a table is its heading, the second a rule.
		isRow := strings.HasPrefix(trimmed, "|")
		if isRow && inTable && !strings.HasPrefix(trimmed, "|--") {
			var cells []string
			for _, cell := range strings.Split(strings.Trim(trimmed, "|"), "|") {
				cells = append(cells, strings.TrimSpace(cell))
			}
			p.tables = append(p.tables, row{i + 1, section, heading, cells})
		}
		inTable = isRow
	}
	if open != nil {
		t.Fatalf("%s:%d: this block does not end", path, open.line)
	}
	p.prose = prose.String()
	p.spans = codeSpans(p.prose)
	return p
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

func codeSpans(text string) (all []string) {
	for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	kept := strings.Map(func(c rune) rune {
		switch {
		case c == ' ':
			return '-'
		case strings.ContainsRune("`[]().,:?!'\"/", c):
			return -1
		}
		return c
	}, heading)
	return strings.ToLower(kept)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
