package loadbalancer

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSelectorsFollowTheKubernetesAPI(t *testing.T) {
	const (
		rackOne = "{match-labels: {rack: one}}"
		in      = "{match-expressions: [{key: rack, operator: In, values: [one, two]}]}"
		notIn   = "{match-expressions: [{key: rack, operator: NotIn, values: [one, two]}]}"
		exists  = "{match-expressions: [{key: rack, operator: Exists}]}"
		absent  = "{match-expressions: [{key: rack, operator: DoesNotExist}]}"
		both    = "{match-labels: {rack: one}, match-expressions: [{key: gpu, operator: Exists}]}"
	)
	type labels = map[string]string
	tests := []struct {
		selectors string
		node      labels
		want      bool
	}{
		{rackOne, labels{"rack": "one"}, true},
		{rackOne, labels{"rack": "one", "row": "b"}, true},
		{rackOne, labels{"rack": "two"}, false},
		{rackOne, nil, false},
		{"{match-labels: {edge: ''}}", labels{"edge": ""}, true},
		{"{match-labels: {edge: ''}}", nil, false}, // an empty label is there
		{"{match-labels: {edge: }}", labels{"edge": ""}, true},
		{"{match-labels: {edge: }}", labels{"edge": "yes"}, false},
		{in, labels{"rack": "one"}, true},
		{in, labels{"rack": "two"}, true},
		{in, labels{"rack": "three"}, false},
		{in, nil, false},
		{notIn, labels{"rack": "one"}, false},
		{notIn, labels{"rack": "three"}, true},
		{notIn, nil, true}, // also without the label
		{exists, labels{"rack": ""}, true},
		{exists, labels{"row": "b"}, false},
		{absent, labels{"rack": ""}, false},
		{absent, labels{"row": "b"}, true},
		{both, labels{"rack": "one", "gpu": "4"}, true},
		{both, labels{"rack": "one"}, false},
		{both, labels{"gpu": "4"}, false},
		{rackOne + ", " + absent, labels{"rack": "one"}, true}, // one of them is enough
		{rackOne + ", " + absent, nil, true},
		{rackOne + ", " + absent, labels{"rack": "two"}, false},
		{"{}", nil, true},
		{"~", labels{"rack": "two"}, true},
		{"", nil, true},
	}
	for _, test := range tests {
		p := parse(t, peer("node-selectors: ["+test.selectors+"]")).Peers[0]
		if got := Selects(p.NodeSelectors, test.node); got != test.want {
			t.Errorf("[%s] selects %v: %v, want %v", test.selectors, test.node, got, test.want)
		}
	}
}

func TestLabelsAreWhatKubernetesTakes(t *testing.T) {
	long := strings.Repeat("x", 63)
	domain := strings.Repeat("a.", 126) + "a" // 253
	keys := map[string]bool{
		"rack": true, "Rack": true, "7": true, "a.b": true, "a_b": true, "a--b": true, "x-y_z.9": true, long: true,
		"example.com/rack": true, "a/b": true, "1.2/b": true, domain + "/rack": true, "kubernetes.io/hostname": true,
		"": false, "-a": false, "a-": false, ".a": false, "a.": false, "_a": false, "a b": false, "a:b": false, "é": false, long + "x": false,
		"/rack": false, "example.com/": false, "a/b/c": false, "Example.com/rack": false, "a..b/rack": false, ".a/rack": false,
		"a./rack": false, "-a/rack": false, "a-/rack": false, "a_b/rack": false, domain + "a/rack": false, "a\x10b": false, "a\nb": false, "rack\n": false,
	}
	for key, want := range keys {
		if got := isLabelKey(key); got != want {
			t.Errorf("the key %q: %v, want %v", key, got, want)
		}
	}
	values := map[string]bool{
		"": true, "a": true, "7": true, "A.b_c-D": true, long: true,
		"-": false, "-a": false, "a-": false, "a/b": false, "a b": false, " ": false, "a ": false, long + "x": false, "ä": false, "\xff": false,
	}
	for value, want := range values {
		if got := isLabelValue(value); got != want {
			t.Errorf("the value %q: %v, want %v", value, got, want)
		}
	}
	namespaces := map[string]bool{
		"shop": true, "a": true, "7": true, "kube-system": true, "a--b": true, long: true,
		"": false, "Shop": false, "shop.example": false, "-a": false, "a-": false, "a_b": false, long + "x": false, "shöp": false,
	}
	for name, want := range namespaces {
		if got := isNamespace(name); got != want {
			t.Errorf("the namespace %q: %v, want %v", name, got, want)
		}
	}
}

func TestSelectorsExcludeEachOtherExactlyIfNoNodeMatchesBoth(t *testing.T) {
	keys, values := []string{"rack", "row"}, []string{"one", "two", "three"}
	expressions := rapid.Custom(func(t *rapid.T) Expression {
		e := Expression{Key: rapid.SampledFrom(keys).Draw(t, "key"), Operator: rapid.SampledFrom(operators).Draw(t, "operator")}
		if e.Operator == "In" || e.Operator == "NotIn" {
			e.Values = rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, 3, rapid.ID).Draw(t, "values")
		}
		return e
	})
	selectors := rapid.Custom(func(t *rapid.T) Selector { return rapid.SliceOfN(expressions, 0, 5).Draw(t, "expressions") })
	// Every node there can be: each label absent, or one of the values, or one that nobody named.
	var nodes []map[string]string
	for _, rack := range append(values, "", "four") {
		for _, row := range append(values, "", "four") {
			node := map[string]string{"rack": rack, "row": row}
			for key, value := range node {
				if value == "" {
					delete(node, key)
				}
			}
			nodes = append(nodes, node)
		}
	}
	try(t, "rapid.checks", "5000")
	rapid.Check(t, func(t *rapid.T) {
		s, u := selectors.Draw(t, "one"), selectors.Draw(t, "other")
		together := false
		for _, node := range nodes {
			together = together || s.Matches(node) && u.Matches(node)
		}
		if s.excludes(u, new(int)) == together || u.excludes(s, new(int)) == together {
			t.Fatalf("%+v and %+v: some node matches both: %v", s, u, together)
		}
	})
}
