package imports_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/metallb/cloud-provider-metallb"
	gobgp  = "github.com/osrg/gobgp/"
)

// A rule says what the files of a package, tests aside, may import from outside the standard library. A path that ends in
// a slash stands for all packages below it.
type rule struct {
	pkg string
	may []string
	// deep holds the same of everything that the package's imports import in turn.
	deep bool
}

var rules = []rule{
	{pkg: "loadbalancer", may: []string{"gopkg.in/yaml.v3", "go4.org/netipx"}, deep: true},
	{pkg: "service", may: []string{module + "/loadbalancer", "k8s.io/api/core/v1", "gopkg.in/yaml.v3", "go4.org/netipx"}},
	{pkg: "cmd/kubectl-metallb/inspect", may: []string{module + "/loadbalancer", module + "/service", module + "/speaker", module + "/speaker/report", "k8s.io/api/", "k8s.io/apimachinery/pkg/apis/meta/v1", "gopkg.in/yaml.v3", "go4.org/netipx"}},
	{pkg: "cmd/kubectl-metallb/migrate", may: []string{module + "/cmd/kubectl-metallb/inspect", module + "/loadbalancer", module + "/service", module + "/speaker", "k8s.io/api/", "gopkg.in/yaml.v3", "go4.org/netipx"}},
	{pkg: "cmd/kubectl-metallb/print", may: []string{module + "/cmd/kubectl-metallb/inspect", "sigs.k8s.io/yaml"}},
	{pkg: "cmd/kubectl-metallb/ui", may: []string{module + "/cmd/kubectl-metallb/inspect"}},
	{pkg: "cmd/kubectl-metallb/cluster", may: []string{module + "/cmd/kubectl-metallb/inspect", module + "/loadbalancer", module + "/service", module + "/speaker", module + "/speaker/report", "k8s.io/api/", "k8s.io/apimachinery/", "k8s.io/client-go/", "k8s.io/streaming/pkg/httpstream", "gopkg.in/yaml.v3"}},
	{pkg: "speaker/bfd", may: []string{module + "/loadbalancer", "k8s.io/klog/v2", "golang.org/x/sys/"}},
	{pkg: "speaker/bfd/seam", may: []string{"golang.org/x/sys/"}},
	{pkg: "speaker/report", deep: true},
	{pkg: "speaker/gateway", may: []string{module + "/loadbalancer", module + "/speaker", "github.com/vishvananda/netlink", "k8s.io/klog/v2", "golang.org/x/sys/"}},
	{pkg: "speaker/bgp", may: []string{module + "/loadbalancer", module + "/speaker/report", gobgp + "v3/pkg/packet/bgp", "k8s.io/klog/v2", "golang.org/x/sys/"}},
}

func TestEachPackageImportsOnlyWhatItMay(t *testing.T) {
	for _, rule := range rules {
		all := needs(t, rule.pkg)
		p := all[module+"/"+rule.pkg]
		imports := p.Imports
		if rule.deep {
			imports = slices.Collect(maps.Keys(all))
		}
		for _, path := range slices.Sorted(slices.Values(imports)) {
			if path == p.ImportPath || all[path].Standard || rule.allows(path) {
				continue
			}
			if rule.deep && slices.ContainsFunc(rule.may, func(may string) bool { return all[may].needs(path) }) {
				continue
			}
			t.Errorf("package %s imports %s", rule.pkg, path)
		}
	}
}

// The two halves agree because both ask the domain, and fail apart because they do not know each other.
func TestSpeakerAndProviderNeverMeet(t *testing.T) {
	for pkg, other := range map[string]string{"speaker": "provider", "speaker/bgp": "provider", "speaker/bfd": "provider", "provider": "speaker"} {
		for path := range needs(t, pkg) {
			if path == module+"/"+other || strings.HasPrefix(path, module+"/"+other+"/") {
				t.Errorf("package %s needs %s", pkg, path)
			}
		}
	}
}

// The plugin runs on workstations, whose users may build it on any of these systems.
func TestThePluginLinksNothingOfTheDaemonsAndBuildsOnEverySystem(t *testing.T) {
	for _, system := range []string{"linux", "darwin", "windows"} {
		t.Setenv("GOOS", system)
		t.Setenv("CGO_ENABLED", "0")
		for path, p := range needs(t, "cmd/kubectl-metallb") {
			if p.Incomplete {
				t.Errorf("it does not build on %s: %s", system, path)
			}
			for _, not := range []string{module + "/provider", module + "/speaker/bgp", module + "/speaker/gateway", gobgp, "k8s.io/cloud-provider", "k8s.io/apiserver"} {
				if path == not || strings.HasPrefix(path, strings.TrimSuffix(not, "/")+"/") {
					t.Errorf("on %s it links %s", system, path)
				}
			}
		}
	}
}

// Whoever runs the demo compiles the programs and Kubernetes: what both need in one version is compiled once.
func TestTheLabHasTheVersionsThatTheProgramsHave(t *testing.T) {
	modules := func(folder string, args ...string) map[string]string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
		cmd.Dir = folder
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		versions := map[string]string{}
		for line := range strings.Lines(string(out)) {
			if path, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				versions[path] = version
			}
		}
		return versions
	}
	ours := modules(".", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", "./cmd/...")
	theirs := modules("cmd/lab", "-m", "-f", "{{.Path}} {{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}", "all")
	both := 0
	for path, version := range ours {
		if other, ok := theirs[path]; ok && version != "" {
			if both++; other != version {
				t.Errorf("%s is %s here, and %s in cmd/lab: run go get %[1]s@%[2]s there", path, version, other)
			}
		}
	}
	if both < 20 {
		t.Errorf("only %d modules are in both: this test looks at nothing", both)
	}
}

// What inspect and migrate answer must not depend on when it is asked, or on where.
func TestThePluginComputesWithoutClockAndFiles(t *testing.T) {
	for _, name := range []string{"inspect", "migrate"} {
		path := "cmd/kubectl-metallb/" + name
		imports := needs(t, path)[module+"/"+path].Imports
		for _, not := range []string{"os", "net", "net/http", "context", "sync", "io/fs", "math/rand/v2"} {
			if slices.Contains(imports, not) {
				t.Errorf("package %s imports %s", name, not)
			}
		}
	}
}

// Half of a speaker's code would be API groups that it does not use, and memory on every node.
func TestSpeakersLinkNoAPIGroupThatTheyDoNotUse(t *testing.T) {
	used := []string{"apps/v1", "authentication/v1", "authorization/v1", "core/v1", "discovery/v1"}
	for _, program := range []string{"cmd/metallb-speaker", "cmd/metallb-bfd"} {
		for path := range needs(t, program) {
			if group, ok := strings.CutPrefix(path, "k8s.io/api/"); ok && !slices.Contains(used, group) {
				t.Errorf("%s links %s", program, path)
			}
		}
	}
}

// What a program for workstations needs of the speaker, it must find on other systems than Linux.
func TestWhatWorkstationsUseBuildsThere(t *testing.T) {
	for _, system := range []string{"windows", "darwin"} {
		t.Setenv("GOOS", system)
		for _, name := range []string{"loadbalancer", "service", "speaker", "speaker/report"} {
			for path, p := range needs(t, name) {
				if p.Error != nil || path == "golang.org/x/sys/unix" && system == "windows" || path == module+"/speaker/bgp" || path == module+"/speaker/gateway" {
					t.Errorf("on %s, package %s needs %s: %v", system, name, path, p.Error)
				}
			}
		}
	}
}

func TestOnlySpeakerBGPImportsGoBGP(t *testing.T) {
	found := false
	for path, p := range list(t, "./...") {
		uses := slices.ContainsFunc(p.Imports, func(path string) bool { return strings.HasPrefix(path, gobgp) })
		switch {
		case path == module+"/speaker/bgp":
			found = uses
		case uses:
			t.Errorf("package %s imports GoBGP", path)
		}
	}
	if !found {
		t.Error("package speaker/bgp does not import GoBGP: this test looks at nothing")
	}
}

// The domain only computes: equal questions have equal answers, whenever they are asked.
func TestTheDomainHasNeitherClockNorGoroutines(t *testing.T) {
	files, err := filepath.Glob("loadbalancer/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("package loadbalancer has no files", err)
	}
	// What of package time computes only; the rest asks a clock or waits for one.
	pure := []string{"Duration", "ParseDuration", "Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour"}
	looked := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		looked++
		fset := token.NewFileSet()
		syntax, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range syntax.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); slices.Contains([]string{"time", "sync", "context", "os", "net", "log", "log/slog", "math/rand", "math/rand/v2"}, path) && (path != "time" || spec.Name != nil) {
				t.Errorf("%s: imports %s", fset.Position(spec.Pos()), spec.Path.Value)
			}
		}
		ast.Inspect(syntax, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: starts a goroutine", fset.Position(node.Pos()))
			case *ast.SelectorExpr:
				if pkg, ok := node.X.(*ast.Ident); ok && pkg.Name == "time" && !slices.Contains(pure, node.Sel.Name) {
					t.Errorf("%s: uses time.%s", fset.Position(node.Pos()), node.Sel.Name)
				}
			}
			return true
		})
	}
	if looked == 0 {
		t.Error("package loadbalancer has test files only")
	}
}

func (r rule) allows(path string) bool {
	return slices.ContainsFunc(r.may, func(may string) bool {
		return path == may || strings.HasSuffix(may, "/") && strings.HasPrefix(path, may)
	})
}

// A pkg is what the go command knows about a package.
type pkg struct {
	ImportPath string
	Standard   bool
	GoFiles    []string
	Imports    []string
	Deps       []string
	Error      *struct{ Err string }
	Incomplete bool // it, or what it imports, cannot be built
}

// needs returns a package of this module, which must exist, and everything that it imports, also by way of others.
func needs(t *testing.T, name string) map[string]pkg {
	t.Helper()
	all := list(t, "-deps", "./"+name)
	if len(all[module+"/"+name].GoFiles) == 0 {
		t.Fatalf("package %s is missing", name)
	}
	return all
}

func (p pkg) needs(path string) bool { return slices.Contains(p.Deps, path) }

func list(t *testing.T, args ...string) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-json=ImportPath,Standard,GoFiles,Imports,Deps,Error,Incomplete"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.Bytes())
	}
	packages := map[string]pkg{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}
