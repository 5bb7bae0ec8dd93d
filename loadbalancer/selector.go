package loadbalancer

import (
	"slices"
	"strings"
)

// A Selector says which labels an object must carry. The zero Selector matches every object.
type Selector struct {
	// MatchLabels must all be present with these values.
	MatchLabels map[string]string
	// MatchExpressions must all hold.
	MatchExpressions []Expression
}

// An Expression is one condition on one label.
type Expression struct {
	Key      string
	Operator string // In, NotIn, Exists or DoesNotExist, as in the Kubernetes API
	Values   []string
}

// Matches reports whether an object with these labels is selected.
func (s Selector) Matches(labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		if !e.holds(labels) {
			return false
		}
	}
	return true
}

// holds follows the Kubernetes API: NotIn is also true for an object without the label.
func (e Expression) holds(labels map[string]string) bool {
	value, present := labels[e.Key]
	switch e.Operator {
	case "In":
		return present && slices.Contains(e.Values, value)
	case "NotIn":
		return !present || !slices.Contains(e.Values, value)
	case "Exists":
		return present
	default: // DoesNotExist; Parse admits no other
		return !present
	}
}

// Selects reports whether one of the selectors matches. No selectors at all select everything.
func Selects(selectors []Selector, labels map[string]string) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s Selector) bool { return s.Matches(labels) })
}

// excludes reports whether no object can match both. That is so if all conditions on some label leave it nothing to be:
// not absent, not one of the values that they name, and not any other.
func (s Selector) excludes(t Selector, effort *int) bool {
	byKey := map[string][]Expression{}
	for _, e := range append(s.conditions(), t.conditions()...) {
		byKey[e.Key] = append(byKey[e.Key], e)
	}
	for key, conditions := range byKey {
		const other = "\x00" // a value that no condition names
		values := []string{other}
		for _, e := range conditions {
			*effort += 10 + len(e.Values)
			values = append(values, e.Values...)
		}
		possible := allHold(conditions, nil, effort) || slices.ContainsFunc(values, func(v string) bool {
			return allHold(conditions, map[string]string{key: v}, effort)
		})
		if !possible {
			return true
		}
	}
	return false
}

func allHold(conditions []Expression, labels map[string]string, effort *int) bool {
	for _, e := range conditions {
		*effort += 1 + len(e.Values)
		if *effort > maxEffort {
			return true
		}
		if !e.holds(labels) {
			return false
		}
	}
	return true
}

// conditions returns all of the selector's conditions as expressions.
func (s Selector) conditions() []Expression {
	all := slices.Clone(s.MatchExpressions)
	for key, want := range s.MatchLabels {
		all = append(all, Expression{Key: key, Operator: "In", Values: []string{want}})
	}
	return all
}

// What Kubernetes takes for the key and the value of a label, and for the name of a namespace. See "Syntax and character
// set" in its page on labels, and RFC 1123 §2.1 for names.
const (
	nameRule      = `at most 63 letters, digits, "-", "_" and ".", with a letter or digit at both ends`
	namespaceRule = `at most 63 small letters, digits and "-", with a letter or digit at both ends`
)

func isLabelKey(text string) bool {
	domain, name, found := strings.Cut(text, "/")
	if !found {
		domain, name = "a", text
	}
	return name != "" && isLabelValue(name) && len(domain) <= 253 && !slices.ContainsFunc(strings.Split(domain, "."), func(part string) bool {
		return !isWord(part, smallAndDigits, "-")
	})
}

func isLabelValue(text string) bool {
	return text == "" || len(text) <= 63 && isWord(text, smallAndDigits+capitals, "-_.")
}

func isNamespace(text string) bool { return len(text) <= 63 && isWord(text, smallAndDigits, "-") }

const (
	smallAndDigits = "abcdefghijklmnopqrstuvwxyz0123456789"
	capitals       = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// isWord reports whether a text begins and ends with an outer character, and has only those and inner ones between.
func isWord(text, outer, inner string) bool {
	return text != "" && strings.Contains(outer, text[:1]) && strings.Contains(outer, text[len(text)-1:]) &&
		strings.Trim(text, outer+inner) == ""
}
