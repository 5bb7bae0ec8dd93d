package loadbalancer

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// A Selector says what must hold of the labels of an object: all of this, in the order of the labels. The empty Selector matches
// every object.
type Selector []Expression

// An Expression is one condition on one label.
type Expression struct {
	Key      string
	Operator string // In, NotIn, Exists or DoesNotExist, as in the Kubernetes API
	Values   []string
}

// Matches reports whether an object with these labels is selected.
func (s Selector) Matches(labels map[string]string) bool {
	for _, e := range s {
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
	byKey := map[string]Selector{}
	for _, e := range slices.Concat(s, t) {
		byKey[e.Key] = append(byKey[e.Key], e)
	}
	for key, conditions := range byKey {
		values := []string{"\x00"} // a value that no condition names
		for _, e := range conditions {
			values = append(values, e.Values...)
		}
		if *effort += (1 + len(values)) * (len(conditions) + len(values)); *effort > maxEffort {
			return false
		}
		if !conditions.Matches(nil) && !slices.ContainsFunc(values, func(v string) bool { return conditions.Matches(map[string]string{key: v}) }) {
			return true
		}
	}
	return false
}

// neverTogether reports whether no node can be selected by both.
func neverTogether(a, b []Selector, effort *int) bool {
	return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(s Selector) bool {
		return slices.ContainsFunc(b, func(t Selector) bool { return !s.excludes(t, effort) })
	})
}

var operators = []string{"In", "NotIn", "Exists", "DoesNotExist"}

func (r *reader) selectors(v value) (all []Selector) {
	for _, item := range r.items(v) {
		f, _ := r.fields(item, selectorKeys)
		var s Selector
		labels, _ := r.entries(f["match-labels"], nil)
		for _, e := range labels {
			r.labelKey(e.key)
			if text, ok := r.label(e.value); ok {
				s = append(s, Expression{e.key.node.Value, "In", []string{text}})
			}
		}
		for _, e := range r.items(f["match-expressions"]) {
			s = append(s, r.expression(e))
		}
		if effort := 0; s.excludes(nil, &effort) {
			r.warn(item, "selects nothing: its conditions contradict each other")
		}
		slices.SortStableFunc(s, func(a, b Expression) int { return cmp.Compare(a.Key, b.Key) })
		all = append(all, s)
	}
	return all
}

func (r *reader) expression(v value) (e Expression) {
	f, ok := r.fields(v, expressionKeys)
	if !ok {
		return Expression{}
	}
	choice := "use one of " + strings.Join(operators, ", ")
	r.require(v, f, "key", "write the label that the condition is about")
	r.require(v, f, "operator", choice)
	if e.Key, ok = r.text(f["key"]); ok {
		r.labelKey(f["key"])
	}
	for _, item := range r.items(f["values"]) {
		if text, ok := r.label(item); ok {
			e.Values = append(e.Values, text)
		}
	}
	e.Values = sorted(e.Values)
	switch e.Operator, ok = r.text(f["operator"]); {
	case !ok:
	case !slices.Contains(operators, e.Operator):
		r.wrong(f["operator"], "is not an operator: %s", choice)
	case strings.HasSuffix(e.Operator, "In"):
		r.require(v, f, "values", e.Operator+" needs at least one value")
	case len(e.Values) > 0:
		r.problem(f["values"], "%s takes no values: remove them", e.Operator)
	}
	return e
}

// label returns the value of a label as written, and null as the empty text, as MetalLB reads
// "node-role.kubernetes.io/worker:". To skip it would select more nodes than the operator wrote.
func (r *reader) label(v value) (string, bool) {
	text, ok := r.text(v)
	if ok {
		r.kubernetes(v, isLabelValue, "a value that a label can have: write "+nameRule+", or nothing")
	}
	return text, ok || v.absent()
}

func (r *reader) labelKey(v value) {
	r.kubernetes(v, isLabelKey, "a key that a label can have: write "+nameRule+", perhaps after a domain, as in example.com/rack")
}

// kubernetes reports what Kubernetes does not take. Earlier releases did.
func (r *reader) kubernetes(v value, takes func(string) bool, rule string) {
	if !r.tolerant && !takes(v.node.Value) {
		r.wrong(v, "is not %s", rule)
	}
}

// What Kubernetes takes for the key and the value of a label, and for the name of a namespace. See "Syntax and character
// set" in its page on labels, and RFC 1123 §2.1 for names.
const (
	nameRule      = `at most 63 letters, digits, "-", "_" and ".", with a letter or digit at both ends`
	namespaceRule = `at most 63 small letters, digits and "-", with a letter or digit at both ends`
)

var (
	labelKey     = regexp.MustCompile(`^(([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)
	isLabelValue = regexp.MustCompile(`^([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$`).MatchString
	isNamespace  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`).MatchString
)

func isLabelKey(text string) bool {
	return strings.IndexByte(text, '/') <= 253 && len(text) <= 253+1+63 && labelKey.MatchString(text)
}
