package inspect

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A Finding is one thing about a configuration, and where it stands in its file.
type Finding struct {
	File string `json:"file"`
	// Line and Column begin at 1; 0 means the file as a whole.
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Warning bool   `json:"warning"` // else the text would be refused
	Text    string `json:"text"`
}

// String writes it as compilers do.
func (f Finding) String() string {
	where := f.File
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", where, f.Line)
	}
	if f.Column > 0 {
		where = fmt.Sprintf("%s:%d", where, f.Column)
	}
	if f.Warning {
		where += ": warning"
	}
	return where + ": " + strings.ReplaceAll(f.Text, "\n", " ")
}

// A Text is a configuration as a file has it: alone, in a ConfigMap, or in the values of the Helm chart.
type Text struct {
	Text        string
	Annotations map[string]string // of the ConfigMap, if it is in one

	// In the file, the text begins after so many lines, and each of its lines after so many characters. With onOne, all of it is
	// on one line, and there is no telling where in it.
	line, column int
	onOne        bool
}

// Find returns the configuration in a file. name is that of the ConfigMap, should the file have several with a text.
func Find(content []byte, name string) (Text, error) {
	plain := Text{Text: string(content)}
	var texts []Text
	var objects, lists int
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var document yaml.Node
		if err := decoder.Decode(&document); err != nil {
			break // also what is not YAML: Parse says so, and where
		}
		if len(document.Content) == 0 {
			continue
		}
		root := document.Content[0]
		items := []*yaml.Node{root}
		if kind := child(root, "kind"); kind != nil && kind.Value == "List" && child(root, "items") != nil {
			items, lists = child(root, "items").Content, lists+1
		}
		for _, item := range items {
			kind := child(item, "kind")
			if kind == nil || child(item, "metadata") == nil && child(item, "apiVersion") == nil {
				if text := child(item, service.KeyConfig); text != nil {
					// The chart's values, or those of a chart that has ours as a part.
					if text.Kind != yaml.ScalarNode {
						return Text{}, errors.New("config is not a text: put a | behind it")
					}
					return embedded(content, text), nil
				}
				if text := child(child(item, "metallb"), service.KeyConfig); text != nil && text.Kind == yaml.ScalarNode {
					return embedded(content, text), nil
				}
				continue
			}
			objects++
			text := child(child(item, "data"), service.KeyConfig)
			if kind.Value != "ConfigMap" || text == nil || text.Kind != yaml.ScalarNode {
				continue
			}
			found := embedded(content, text)
			found.Annotations = map[string]string{}
			if annotations := child(child(item, "metadata"), "annotations"); annotations != nil {
				for i := 0; i+1 < len(annotations.Content); i += 2 {
					found.Annotations[annotations.Content[i].Value] = annotations.Content[i+1].Value
				}
			}
			if own := child(child(item, "metadata"), "name"); own != nil && own.Value == name {
				return found, nil
			}
			texts = append(texts, found)
		}
	}
	switch {
	case len(texts) == 1:
		return texts[0], nil
	case len(texts) > 1:
		return Text{}, fmt.Errorf("%d ConfigMaps have a key %q, and none of them is named %s: leave one", len(texts), service.KeyConfig, name)
	case objects+lists > 0:
		return Text{}, fmt.Errorf("no ConfigMap with a key %q is in it", service.KeyConfig)
	}
	return plain, nil
}

// child returns a value of a mapping, or nil.
func child(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// embedded finds where a text stands in the file that it is a value of.
func embedded(content []byte, node *yaml.Node) Text {
	t := Text{Text: node.Value, line: node.Line, onOne: true}
	if node.Style&yaml.LiteralStyle == 0 {
		return t
	}
	lines := strings.Split(strings.ReplaceAll(string(content), "\r\n", "\n"), "\n")
	own := strings.Split(node.Value, "\n")
	for i, text := range own {
		if node.Line+i >= len(lines) || !strings.HasSuffix(lines[node.Line+i], text) {
			return t
		}
		if text != "" {
			t.column = len(lines[node.Line+i]) - len(text)
		}
	}
	t.onOne = false
	return t
}

// Validate finds all that speaks against a configuration, and what its author may not mean.
func (t Text) Validate(file string) (all []Finding) {
	text := t.Text
	if !t.onOne {
		// Problems name other lines, too: let all be those of the file.
		text = strings.Repeat("\n", t.line) + text
	}
	add := func(p loadbalancer.Problem, warning bool) {
		f := Finding{File: file, Line: p.Line, Column: p.Column, Warning: warning}
		switch {
		case t.onOne:
			f.Line, f.Column = t.line, 0
			f.Text = p.Error()
		default:
			if f.Column > 0 {
				f.Column += t.column
			}
			p.Line, p.Column = 0, 0
			f.Text = p.Error()
		}
		all = append(all, f)
	}
	config, warnings, err := loadbalancer.Parse([]byte(text))
	var problems loadbalancer.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			add(p, false)
		}
	case err != nil:
		add(loadbalancer.Problem{Text: err.Error()}, false)
	default:
		for _, p := range (*loadbalancer.Config)(nil).Admit(config, loadbalancer.Facts{}).Unfit {
			add(p, false)
		}
		for _, p := range warnings {
			add(p, true)
		}
	}
	return all
}
