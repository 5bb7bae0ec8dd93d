package migrate

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

var update = flag.Bool("update", false, "write what sets of resources become into testdata")

// Sets of resources as clusters have them, and what they become.
func TestWhatSetsOfResourcesBecome(t *testing.T) {
	paths, err := filepath.Glob("testdata/sets/*.yaml")
	if err != nil || len(paths) < 15 {
		t.Fatalf("%d sets %v", len(paths), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var o Options
			values := false
			set := flag.NewFlagSet("options", flag.ContinueOnError)
			set.StringVar(&o.Mode, "mode", "", "")
			set.StringVar(&o.Class, "lb-class", "", "")
			set.BoolVar(&values, "values", false, "")
			if _, line, ok := strings.Cut(string(content), "\n# options: "); ok {
				line, _, _ = strings.Cut(line, "\n")
				if err := set.Parse(strings.Fields(line)); err != nil {
					t.Fatal(err)
				}
			}
			r := Convert([]Source{{name + ".yaml", content}}, o)
			var out bytes.Buffer
			switch {
			case r.Text == "":
			case values:
				text, err := r.Values()
				if err != nil {
					t.Fatal(err)
				}
				out.WriteString(text)
			default:
				out.WriteString(r.Text)
			}
			out.WriteString("===\n")
			r.Report(&out, nil)
			sound(t, r)
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("%s: run with -update and look at what changed\ngot:\n%s\nwant:\n%s", golden, out.String(), want)
			}
		})
	}
}

// sound checks what holds of every result: there is a text or something is refused; the text is admitted, and has no password.
func sound(t *testing.T, r *Result) {
	t.Helper()
	if (r.Text == "") != r.Has(Refused) {
		t.Errorf("something is refused: %v, and there is a text: %v", r.Has(Refused), r.Text != "")
	}
	if r.Text == "" {
		return
	}
	config, _, err := loadbalancer.Parse([]byte(r.Text))
	if err != nil {
		t.Fatal(err)
	}
	if v := (*loadbalancer.Config)(nil).Admit(config, loadbalancer.Facts{}); !v.Admits() {
		t.Errorf("it is refused: %v", v.Reasons(""))
	}
	if strings.Contains(r.Text, "open-sesame") {
		t.Error("a password stands in the text")
	}
	text, err := r.ConfigMap("ns", "config")
	var object struct{ Data map[string]string }
	if err == nil {
		err = yaml.Unmarshal([]byte(text), &object)
	}
	if err != nil || object.Data["config"] != r.Text {
		t.Errorf("the ConfigMap has another text: %v\n%s", err, text)
	}
}

// base is a set in which each field can be tried. Every peer, pool and advertisement in it is announced.
func base(kind, version string, more map[string]any) []byte {
	objects := []map[string]any{}
	add := func(k, v, name string, spec map[string]any) {
		if k == kind {
			v = version
			if name == "p" || name == "x" || name == "of its own" {
				for key, value := range more {
					spec[key] = value
				}
			}
		}
		objects = append(objects, map[string]any{"apiVersion": "metallb.io/" + v, "kind": k, "metadata": map[string]any{"name": name, "namespace": "metallb-system"}, "spec": spec})
	}
	add("BGPPeer", "v1beta2", "p", map[string]any{"myASN": 64500, "peerASN": 64501, "peerAddress": "10.0.0.1"})
	add("BGPPeer", "v1beta2", "q", map[string]any{"myASN": 64500, "peerASN": 64500, "peerAddress": "10.0.0.2"})
	add("IPAddressPool", "v1beta1", "x", map[string]any{"addresses": []string{"192.0.2.0/24", "2001:db8::/64"}})
	add("IPAddressPool", "v1beta1", "y", map[string]any{"addresses": []string{"198.51.100.0/24"}})
	add("BGPAdvertisement", "v1beta1", "x", map[string]any{})
	add("BFDProfile", "v1beta1", "x", map[string]any{})
	switch kind {
	case "AddressPool", "L2Advertisement", "Community":
		add(kind, version, "of its own", map[string]any{})
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	for _, o := range objects {
		if err := encoder.Encode(o); err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

// Values that make a difference, by field; else one is made from the type.
var samples = map[string]any{
	"addresses": []string{"203.0.113.0/26"}, "autoAssign": false, "protocol": "layer2",
	"holdTime": "30s", "keepaliveTime": "7s", "connectTime": "9s", "peerAddress": "10.0.0.9", "sourceAddress": "10.0.0.8", "routerID": "10.0.0.7", "dynamicASN": "external",
	"bfdProfile": "x", "operator": "Exists", "communities": []string{"64500:9"}, "aggregationLength": 30, "aggregationLengthV6": 100, "peers": []string{"p"},
	"ipAddressPools": []string{"y"}, "value": "64500:8", "detectMultiplier": 9, "receiveInterval": 50, "transmitInterval": 60, "minimumTtl": 200, "echoInterval": 70,
	"asPathPrepend": 3, "weight": 5,
}

// what goes with a field, so that its object makes sense.
var company = map[string]map[string]any{
	"AddressPool": {"addresses": []string{"203.0.113.0/25", "2001:db8:1::/64"}, "protocol": "bgp"},
}

// nest makes a.b[].c of its value, with what an item of a list needs beside.
func nest(path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	key, list := strings.CutSuffix(path[0], "[]")
	inner := nest(path[1:], value)
	if list {
		m := inner.(map[string]any)
		switch key {
		case "matchExpressions":
			for k, v := range map[string]any{"key": "a", "operator": "In"} {
				if _, set := m[k]; !set {
					m[k] = v
				}
			}
			if _, set := m["values"]; !set && m["operator"] == "In" {
				m["values"] = []string{"b"}
			}
		case "communities":
			for k, v := range map[string]any{"name": "n", "value": "64500:7"} {
				if _, set := m[k]; !set {
					m[k] = v
				}
			}
		}
		inner = []any{m}
	}
	return map[string]any{key: inner}
}

// Every field of the published schemas makes a difference: in the text, or by a remark that names it.
func TestNoFieldOfAnySchemaIsDropped(t *testing.T) {
	content, err := os.ReadFile("testdata/schema.txt")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		var kind, version, path, form, in string
		if n, err := fmt.Sscan(lines.Text(), &kind, &version, &path, &form, &in); n != 5 {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		path, isSpec := strings.CutPrefix(path, "spec.")
		switch {
		case aside[kind] != "":
			r := Convert([]Source{{"f", []byte(fmt.Sprintf("apiVersion: metallb.io/%s\nkind: %s\nmetadata: {name: s}\n", version, kind))}}, Options{})
			if !slices.ContainsFunc(r.Remarks, func(m Remark) bool { return strings.HasPrefix(m.Object, kind+" s") }) {
				t.Errorf("%s is dropped", kind)
			}
			tried++
			continue
		case !isSpec: // status, which says how things are
			continue
		}
		tried++
		parts := strings.Split(path, ".")
		last := strings.TrimSuffix(parts[len(parts)-1], "[]")
		value, special := samples[last]
		if !special {
			switch form {
			case "integer":
				value = 7
			case "boolean":
				value = true
			case "string", "string:internal|external":
				value = "z"
			case "[]string":
				value = []string{"z"}
			case "map":
				value = map[string]any{"k": "v"}
			default:
				t.Fatalf("%s: a form that this test does not know: %s", lines.Text(), form)
			}
		}
		spec := map[string]any{}
		for key, value := range company[kind] {
			spec[key] = value
		}
		before := said(Convert([]Source{{"f", base(kind, version, spec)}}, Options{}))
		for key, value := range nest(parts, value).(map[string]any) {
			spec[key] = value
		}
		if last == "dynamicASN" {
			spec["peerASN"] = 0
		}
		if slices.Equal(before, said(Convert([]Source{{"f", base(kind, version, spec)}}, Options{}))) {
			t.Errorf("%s %s spec.%s makes no difference", kind, version, path)
		}
	}
	if tried < 100 {
		t.Errorf("only %d fields were tried", tried)
	}
}

// said is all that a result says, without where in the file it is from.
func said(r *Result) []string {
	all := []string{}
	for line := range strings.Lines(r.Text) {
		if !strings.Contains(line, "# from") {
			all = append(all, line)
		}
	}
	for _, m := range r.Remarks {
		object, _, _ := strings.Cut(m.Object, " (")
		all = append(all, fmt.Sprint(m.Level, object, m.Field, m.Text))
	}
	return all
}
