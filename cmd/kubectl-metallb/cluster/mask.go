package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"

	"gopkg.in/yaml.v3"
)

// secretWord finds a word behind which a password may stand, however it is spelt.
var secretWord = regexp.MustCompile(`(?i)pa?s+w(or|ro|o|r)?d?|pwd|secret|psk|md5`)

// A line with such a word in a list, and something behind it, lacks its colon.
var bareSecret = regexp.MustCompile(`(` + secretWord.String() + `)\S*\s+\S`)

const (
	// notSecret is the key whose value is the name of a key.
	notSecret = "password-key"
	// Below these, names are the operator's own.
	communities, bgpCommunities, labels = "communities", "bgp-communities", "match-labels"
)

// mask returns the text with a mask in place of each password, and whether there was one. Equal passwords have equal masks. A
// text that is not YAML, or has a password where nobody looks for one, is left out: who knows what is one.
func mask(text string, masks map[string]string) (without string, changed bool) {
	if !secretWord.MatchString(text) {
		return text, false
	}
	var documents []*yaml.Node
	for decoder := yaml.NewDecoder(bytes.NewReader([]byte(text))); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "# The text is not YAML, and may have a password in it: it was left out.\n", true
		}
		documents = append(documents, &document)
	}
	m := masker{masks: masks, done: map[*yaml.Node]bool{}}
	for _, d := range documents {
		m.walk(d, false)
	}
	if m.hidden == 0 && !m.commented {
		return text, false
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	for _, d := range documents {
		if err := encoder.Encode(d); err != nil {
			return "# The text cannot be written without its passwords: it was left out.\n", true
		}
	}
	return out.String(), true
}

type masker struct {
	masks     map[string]string
	done      map[*yaml.Node]bool // scalars that are masked
	hidden    int
	commented bool
}

// walk masks what is below a node; all of it, if it is secret.
func (m *masker) walk(node *yaml.Node, secret bool) {
	for _, comment := range []*string{&node.HeadComment, &node.LineComment, &node.FootComment} {
		if *comment != "" && secretWord.MatchString(*comment) {
			*comment, m.commented = "", true
		}
	}
	switch node.Kind {
	case yaml.ScalarNode:
		if secret && node.Value != "" && node.Tag != "!!null" && !m.done[node] {
			m.done[node] = true
			if m.masks[node.Value] == "" {
				m.masks[node.Value] = fmt.Sprintf("masked-%d", len(m.masks)+1)
			}
			node.Value, node.Tag, node.Style = m.masks[node.Value], "!!str", 0
			m.hidden++
		}
	case yaml.AliasNode:
		if secret {
			m.walk(node.Alias, true)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Value == communities || key.Value == bgpCommunities || key.Value == labels {
				continue
			}
			named := key.Kind == yaml.ScalarNode && key.Value != notSecret && secretWord.MatchString(key.Value)
			m.walk(key, secret || bareSecret.MatchString(key.Value))
			m.walk(node.Content[i+1], secret || named)
		}
	default:
		for _, item := range node.Content {
			m.walk(item, secret || item.Kind == yaml.ScalarNode && bareSecret.MatchString(item.Value))
		}
	}
}
