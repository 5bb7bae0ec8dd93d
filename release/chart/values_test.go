package chart

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v3"
)

func TestWrongValuesAreRefusedWithAllThatIsWrong(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"controler: {replicas: 3}", "at '': additional properties 'controler' not allowed"},
		{"config: {peers: []}", "at '/config': got object, want string"},
		{"controller: null", "at '': missing property 'controller'"},
		{"controller: {replicas: 0}", "at '/controller/replicas': minimum: got 0, want 1"},
		{"controller: {replicas: two}", "at '/controller/replicas': got string, want integer"},
		{"controller: {resources: {limits: {memory: 256M}}}",
			"at '/controller/resources/limits/memory': '256M' does not match pattern '^[1-9][0-9]*(Mi|Gi)$'"},
		{"controller: {resources: {limits: {memory: 268435456}}}", "at '/controller/resources/limits/memory': got number, want string"},
		{"controller: {extraArgs: [-v=4]}", "at '/controller/extraArgs/0': '-v=4' does not match pattern '^--[a-z]'"},
		{"controller: {nodeSelector: {example.com/edge: true}}", "at '/controller/nodeSelector/example.com~1edge': got boolean, want string"},
		{"speaker: {tolerations: [{operator: exists}]}", "at '/speaker/tolerations/0/operator': value must be one of 'Exists', 'Equal', 'Lt', 'Gt'"},
		{"speaker: {onSIGTERM: stop}", "at '/speaker/onSIGTERM': value must be one of 'auto', 'keep', 'withdraw'"},
		{"speaker: {waitForURL: 127.0.0.1:10256}", "at '/speaker/waitForURL': '127.0.0.1:10256' does not match pattern '^(https?://.+)?$'"},
		{"speaker: {port: 70000}", "at '/speaker/port': maximum: got 70,000, want 65,535"},
		{"speaker: {maxUnavailable: 0}", "at '/speaker/maxUnavailable': minimum: got 0, want 1"},
		{"speaker: {maxUnavailable: 0%}", "at '/speaker/maxUnavailable': '0%' does not match pattern '^([1-9][0-9]?|100)%$'"},
		{"image: {registry: registry.example/}", `at '/image/registry': 'registry.example/' does not match pattern '^[^\\s]*[^\\s/]$'`},
		{"image: {tag: 1.0}", "at '/image/tag': got number, want string"},
		{"image: {pullPolicy: always}", "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"},
		{"imagePullSecrets: [registry]", "at '/imagePullSecrets/0': got string, want object"},
		{"flowSchema: {enabled: 'yes'}", "at '/flowSchema/enabled': got string, want boolean"},
		{"networkPolicy: {apiServerPorts: [https]}", "at '/networkPolicy/apiServerPorts/0': got string, want integer"},
		{"podMonitor: {interval: 30}", "at '/podMonitor/interval': got number, want string"},
		{"{podMonitor: {enabled: 1}, dashboard: true}", "at '/dashboard': got boolean, want object\n- at '/podMonitor/enabled': got number, want boolean"},
	} {
		_, err := render(t, helm, c.values)
		if got := violations(err); got != "- "+c.want {
			t.Errorf("%s is refused with\n%s\nwant\n- %s", c.values, got, c.want)
		}
	}
}

// At each level one key is too many, and Helm names them all at once.
func TestAMisspeltKeyIsRefusedAtEveryLevel(t *testing.T) {
	var levels []string
	var walk func(node map[string]any, at string) map[string]any
	walk = func(node map[string]any, at string) map[string]any {
		node = resolve(t, node)
		values := map[string]any{}
		if node["additionalProperties"] == false {
			levels = append(levels, at)
			values["misspelt"] = 1
		}
		properties, _ := node["properties"].(map[string]any)
		for key, below := range properties {
			below := resolve(t, below.(map[string]any))
			if items, ok := below["items"].(map[string]any); ok && resolve(t, items)["type"] == "object" {
				item := walk(items, at+"/"+key+"/0")
				item["name"] = "x"
				values[key] = []any{item}
			} else if below["type"] == "object" {
				values[key] = walk(below, at+"/"+key)
			}
		}
		return values
	}
	values, err := json.Marshal(walk(schema(t), ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(levels) != 21 {
		t.Errorf("%d levels with keys: is one open to misspellings?", len(levels))
	}
	_, err = render(t, helm, string(values))
	for _, at := range levels {
		if want := "- at '" + at + "': additional propert.* 'misspelt'"; !regexp.MustCompile(want).MatchString(violations(err)) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

// violations returns what Helm says of values that break the schema, in some order, without its heading.
func violations(err error) string {
	if err == nil {
		return ""
	}
	_, text, _ := strings.Cut(err.Error(), "of the schema(s) in the following chart(s):\nmetallb:\n")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestValuesSchemaAndReadmeAgree(t *testing.T) {
	want := map[string]any{}
	var walk func(node map[string]any, path string)
	walk = func(node map[string]any, path string) {
		properties, _ := node["properties"].(map[string]any)
		for key, below := range properties {
			below, key := resolve(t, below.(map[string]any)), strings.TrimPrefix(path+"."+key, ".")
			if value, ok := below["default"]; ok {
				want[key] = value
				if below["description"] == nil {
					t.Errorf("values.schema.json does not describe %s", key)
				}
			} else {
				walk(below, key)
			}
		}
	}
	walk(schema(t), "")

	var root yaml.Node
	if err := yaml.Unmarshal([]byte(read(t, chart+"/values.yaml")), &root); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	var collect func(node *yaml.Node, path, comment string)
	collect = func(node *yaml.Node, path, comment string) {
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			path := strings.TrimPrefix(path+"."+key.Value, ".")
			// What is said of a group is said of its first key.
			said := key.HeadComment
			if said == "" && i == 0 {
				said = comment
			}
			if said == "" {
				t.Errorf("values.yaml says nothing of %s", path)
			}
			if _, leaf := want[path]; !leaf && value.Kind == yaml.MappingNode {
				collect(value, path, said)
				continue
			}
			values[path] = decoded(t, value)
		}
	}
	collect(root.Content[0], "", "")

	table := map[string]any{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (?:`([^`]*)`)? *\\| [^|]+ \\|$").FindAllStringSubmatch(read(t, chart+"/README.md"), -1) {
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(m[2]), &node); err != nil {
			t.Fatalf("README.md: %s: %v", m[1], err)
		}
		table[m[1]] = ""
		if m[2] != "" {
			table[m[1]] = decoded(t, node.Content[0])
		}
	}
	for name, got := range map[string]map[string]any{"values.yaml": values, "README.md": table} {
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if value, ok := got[key]; !ok || !reflect.DeepEqual(value, want[key]) {
				t.Errorf("%s has %s: %#v; values.schema.json has %#v", name, key, value, want[key])
			}
		}
		for key := range got {
			if _, ok := want[key]; !ok {
				t.Errorf("%s has %s, which values.schema.json has not", name, key)
			}
		}
	}
}

// decoded makes of YAML what decoding JSON would.
func decoded(t *testing.T, node *yaml.Node) (value any) {
	t.Helper()
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(text, &value)
	}
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func schema(t *testing.T) (root map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, chart+"/values.schema.json")), &root); err != nil {
		t.Fatal(err)
	}
	return root
}

// resolve puts in place of a reference what it means.
func resolve(t *testing.T, node map[string]any) map[string]any {
	t.Helper()
	path, ok := node["$ref"].(string)
	if !ok {
		return node
	}
	found, ok := schema(t)["definitions"].(map[string]any)[strings.TrimPrefix(path, "#/definitions/")].(map[string]any)
	if !ok {
		t.Fatalf("values.schema.json: there is no %s", path)
	}
	maps.Copy(found, node)
	return found
}

func TestEachBlockOfValuesInTheDocumentationIsRendered(t *testing.T) {
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, path := range append(paths, "../../README.md", chart+"/README.md") {
		for _, m := range regexp.MustCompile("(?ms)^( *)```yaml values\n(.*?)^ *```$").FindAllStringSubmatch(read(t, path), -1) {
			looked++
			values := regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[2], "")
			if _, err := render(t, helm, values, operator...); err != nil {
				t.Errorf("%s: %v in\n%s", path, err, values)
			}
		}
	}
	if looked == 0 {
		t.Error("no page has any: this test looks at nothing")
	}
}

// A value that no case sets could do nothing, and nobody would see it.
func TestEachValueIsSetInSomeCase(t *testing.T) {
	set := map[string]bool{}
	var note func(values map[string]any, path string)
	note = func(values map[string]any, path string) {
		for key, value := range values {
			path := strings.TrimPrefix(path+"."+key, ".")
			set[path] = true
			if below, ok := value.(map[string]any); ok {
				note(below, path)
			}
		}
	}
	for _, c := range cases {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(c.values), &values); err != nil {
			t.Fatal(err)
		}
		note(values, "")
	}
	var walk func(node map[string]any, path string)
	walk = func(node map[string]any, path string) {
		properties, _ := node["properties"].(map[string]any)
		for key, below := range properties {
			below, path := resolve(t, below.(map[string]any)), strings.TrimPrefix(path+"."+key, ".")
			if _, leaf := below["default"]; !leaf {
				walk(below, path)
			} else if !set[path] {
				t.Errorf("no case sets %s", path)
			}
		}
	}
	walk(schema(t), "")
}

// On Artifact Hub and in the archive, the README stands alone.
func TestTheReadmesLinksWorkWithoutTheRepository(t *testing.T) {
	for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(read(t, chart+"/README.md"), -1) {
		if !strings.HasPrefix(m[1], "#") && !strings.HasPrefix(m[1], "https://") {
			t.Errorf("the link %s leads nowhere", m[1])
		}
	}
}

// Artifact Hub shows what stands here, and a release changes one place only.
func TestTheChartSaysWhereItsImagesAre(t *testing.T) {
	var about struct {
		AppVersion  string `yaml:"appVersion"`
		Icon        string
		Maintainers []struct{ Name, URL string }
		Annotations map[string]string
	}
	if err := yaml.Unmarshal([]byte(read(t, chart+"/Chart.yaml")), &about); err != nil {
		t.Fatal(err)
	}
	if about.Icon == "" || len(about.Maintainers) == 0 {
		t.Error("it has no icon, or no maintainers")
	}
	var images []struct{ Name, Image string }
	var links []struct{ Name, URL string }
	var changes []struct{ Kind, Description string }
	for key, into := range map[string]any{"images": &images, "links": &links, "changes": &changes} {
		if err := yaml.Unmarshal([]byte(about.Annotations["artifacthub.io/"+key]), into); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if len(images) != 3 || len(links) == 0 || len(changes) == 0 {
		t.Errorf("%d images, %d links, %d changes", len(images), len(links), len(changes))
	}
	for _, image := range images {
		if want := "ghcr.io/metallb/cloud-provider-metallb/" + image.Name + ":" + about.AppVersion; image.Image != want {
			t.Errorf("%s is said to be %s", want, image.Image)
		}
	}
}
