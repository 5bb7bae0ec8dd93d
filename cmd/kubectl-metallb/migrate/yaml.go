package migrate

import (
	"bytes"
	"fmt"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// What follows builds the text. It is written by the YAML library, which knows what has to be quoted.

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// plain is a number or a truth value.
func plain(value any) *yaml.Node {
	n := &yaml.Node{}
	if err := n.Encode(value); err != nil {
		panic(err) // of a number
	}
	return n
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

func sequence(items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: items}
}

// put adds a key to a mapping, unless there is nothing to say.
func put(m *yaml.Node, key string, value *yaml.Node) {
	if value != nil {
		m.Content = append(m.Content, text(key), value)
	}
}

// words is a list on one line; nil, if it has no items.
func words(all []string) *yaml.Node {
	if len(all) == 0 {
		return nil
	}
	list := sequence()
	list.Style = yaml.FlowStyle
	for _, s := range all {
		list.Content = append(list.Content, text(s))
	}
	return list
}

// optional is a text, or nil if it is empty.
func optional(s string) *yaml.Node {
	if s == "" {
		return nil
	}
	return text(s)
}

// verbatim is a value as the resource has it, or nil if it has none.
func verbatim(f field) *yaml.Node {
	if f.absent() || f.node.Kind != yaml.ScalarNode {
		return nil
	}
	f.take()
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: f.node.Tag, Value: f.node.Value}
}

// selectors writes them, or nil if there are none.
func selectors(all []loadbalancer.Selector) *yaml.Node {
	if len(all) == 0 {
		return nil
	}
	list := sequence()
	for _, s := range all {
		item, labels, expressions, had := mapping(), mapping(), sequence(), map[string]bool{}
		for _, e := range s {
			if e.Operator == "In" && len(e.Values) == 1 && !had[e.Key] {
				had[e.Key] = true
				put(labels, e.Key, text(e.Values[0]))
				continue
			}
			x := mapping()
			put(x, "key", text(e.Key))
			put(x, "operator", text(e.Operator))
			put(x, "values", words(e.Values))
			x.Style = yaml.FlowStyle
			expressions.Content = append(expressions.Content, x)
		}
		if len(labels.Content) > 0 {
			labels.Style = yaml.FlowStyle
			put(item, "match-labels", labels)
		}
		if len(expressions.Content) > 0 {
			put(item, "match-expressions", expressions)
		}
		if len(item.Content) == 0 {
			item.Style = yaml.FlowStyle
		}
		list.Content = append(list.Content, item)
	}
	return list
}

// write returns the text of a document.
func write(node *yaml.Node) (string, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(node); err != nil {
		return "", fmt.Errorf("write YAML: %w", err)
	}
	return out.String(), encoder.Close()
}
