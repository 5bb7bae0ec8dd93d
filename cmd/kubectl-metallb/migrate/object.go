package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A Source is a file of resources, or what an API server said. Its name is empty for the latter: objects have names enough.
type Source struct {
	Name string
	Text []byte
}

// An object is one resource, and which of its fields were read.
type object struct {
	source                                string
	line                                  int
	group, version, kind, namespace, name string
	labels                                map[string]string
	root                                  *yaml.Node
	read                                  map[*yaml.Node]bool
}

func (o *object) String() string { return o.kind + " " + o.name }

// origin says where the object stands.
func (o *object) origin() string {
	if o.source == "" {
		return o.String()
	}
	return fmt.Sprintf("%s (%s:%d)", o, o.source, o.line)
}

// objects returns what the sources have, lists taken apart, in their order.
func objects(sources []Source) (all []*object, problems []Remark) {
	for _, s := range sources {
		for decoder := yaml.NewDecoder(bytes.NewReader(s.Text)); ; {
			var document yaml.Node
			if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				problems = append(problems, Remark{Level: Refused, Object: s.Name, Text: strings.TrimPrefix(err.Error(), "yaml: "), Do: "write resources as kubectl get -o yaml does"})
				break
			}
			if len(document.Content) > 0 {
				found, bad := resources(s.Name, document.Content[0])
				all, problems = append(all, found...), append(problems, bad...)
			}
		}
	}
	return all, problems
}

func resources(source string, node *yaml.Node) (all []*object, problems []Remark) {
	if node.Tag == "!!null" {
		return nil, nil
	}
	o := &object{source: source, line: node.Line, root: node, read: map[*yaml.Node]bool{}}
	root := field{of: o, node: node}
	if o.kind = root.at("kind").text(); o.kind == "" {
		return nil, []Remark{{Level: Refused, Object: fmt.Sprintf("%s:%d", source, node.Line), Text: "this is no resource: it has no kind", Do: "leave it out"}}
	}
	var grouped bool
	if o.group, o.version, grouped = strings.Cut(root.at("apiVersion").text(), "/"); !grouped {
		o.group, o.version = "", o.group
	}
	if items := root.at("items"); items.node != nil && strings.HasSuffix(o.kind, "List") {
		for _, item := range items.items() {
			// The items of a list that an API server sends may lack what the list says for all of them.
			if item.at("kind").absent() && o.kind != "List" && item.node.Kind == yaml.MappingNode {
				put(item.node, "kind", text(strings.TrimSuffix(o.kind, "List")))
				put(item.node, "apiVersion", text(strings.TrimPrefix(o.group+"/"+o.version, "/")))
			}
			found, bad := resources(source, item.node)
			all, problems = append(all, found...), append(problems, bad...)
		}
		return all, problems
	}
	meta := root.at("metadata")
	o.name, o.namespace = meta.at("name").text(), meta.at("namespace").text()
	o.labels = meta.at("labels").texts()
	if meta.take(); o.name == "" {
		problems = append(problems, Remark{Level: Refused, Object: fmt.Sprintf("%s (%s:%d)", o.kind, source, o.line), Field: "metadata.name", Text: "is missing", Do: "write the resource's name"})
	}
	return append(all, o), problems
}

// A field is a place in an object. One that is not there is absent.
type field struct {
	of   *object
	path string
	node *yaml.Node
}

func (o *object) spec(key string) field { return field{of: o, node: o.root}.at("spec").at(key) }

// at returns a field of a field.
func (f field) at(key string) field {
	path := strings.TrimPrefix(f.path+"."+key, ".")
	if f.node != nil && f.node.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(f.node.Content); i += 2 {
			if f.node.Content[i].Value == key {
				return field{f.of, path, f.node.Content[i+1]}
			}
		}
	}
	return field{of: f.of, path: path}
}

func (f field) absent() bool { return f.node == nil || f.node.Tag == "!!null" }

// take marks the field, and all in it, as read.
func (f field) take() {
	if f.node != nil {
		f.of.read[f.node] = true
	}
}

// text reads a scalar. Anything else stays unread, and is reported for that.
func (f field) text() string {
	if f.absent() || f.node.Kind != yaml.ScalarNode {
		return ""
	}
	f.take()
	return f.node.Value
}

func (f field) is(text string) bool { return f.text() == text }

// truth reads true or false, if the field is one of the two.
func (f field) truth() (is, ok bool) {
	if f.node == nil || f.node.Tag != "!!bool" {
		return false, false
	}
	f.take()
	return f.is("true"), true
}

func (f field) isTrue() bool { is, _ := f.truth(); return is }

// items returns those of a list.
func (f field) items() (all []field) {
	if f.node != nil && f.node.Kind == yaml.SequenceNode {
		for i, item := range f.node.Content {
			all = append(all, field{f.of, fmt.Sprintf("%s[%d]", f.path, i), item})
		}
	}
	return all
}

// list reads a list of scalars.
func (f field) list() (all []string) {
	for _, item := range f.items() {
		all = append(all, item.text())
	}
	return all
}

// texts reads a map of scalars.
func (f field) texts() map[string]string {
	all := map[string]string{}
	if f.node != nil && f.node.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(f.node.Content); i += 2 {
			key := f.node.Content[i].Value
			all[key] = f.at(key).text()
		}
	}
	return all
}

// number reads a whole number, if the field is one.
func (f field) number() (int64, bool) {
	n, err := strconv.ParseInt(f.text(), 10, 64)
	return n, err == nil
}

// selectors reads label selectors.
func (f field) selectors() (all []loadbalancer.Selector) {
	for _, item := range f.items() {
		s := loadbalancer.Selector{}
		labels := item.at("matchLabels").texts()
		for _, key := range sortedKeys(labels) {
			s = append(s, loadbalancer.Expression{Key: key, Operator: "In", Values: []string{labels[key]}})
		}
		for _, e := range item.at("matchExpressions").items() {
			s = append(s, loadbalancer.Expression{Key: e.at("key").text(), Operator: e.at("operator").text(), Values: e.at("values").list()})
		}
		all = append(all, s)
	}
	return all
}

// unread returns the paths of all that says something and was not read.
func (o *object) unread() (all []field) {
	var look func(f field)
	look = func(f field) {
		if f.absent() || o.read[f.node] {
			return
		}
		switch f.node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(f.node.Content); i += 2 {
				look(f.at(f.node.Content[i].Value))
			}
		case yaml.SequenceNode:
			for _, item := range f.items() {
				look(item)
			}
		default:
			all = append(all, f)
		}
	}
	look(field{of: o, node: o.root})
	return all
}

func sortedKeys[T any](m map[string]T) (all []string) {
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}
