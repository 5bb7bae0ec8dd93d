package alerts

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	reference = "../../docs/reference.md"
	page      = "../../docs/alerts.md"
	pageURL   = "https://github.com/metallb/cloud-provider-metallb/blob/main/docs/alerts.md"
)

// ofProcesses are the metrics without labels of their own that every program in Go has.
var ofProcesses = []string{"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}

// ofTargets are the labels that Prometheus adds.
var ofTargets = []string{"cluster", "job", "instance", "namespace", "pod"}

func TestEveryAlertHasASectionThatTellsWhatToDo(t *testing.T) {
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^## (MetalLB\w+)$`).FindAllStringSubmatch(read(t, page), -1) {
		sections = append(sections, m[1])
	}
	var alerts []string
	for _, rule := range ruleset(t) {
		if rule.Alert == "" {
			continue
		}
		alerts = append(alerts, rule.Alert)
		if !slices.Contains([]string{"warning", "critical"}, rule.Labels["severity"]) {
			t.Errorf("%s has severity %q, which nobody routes", rule.Alert, rule.Labels["severity"])
		}
		if want := pageURL + "#" + strings.ToLower(rule.Alert); rule.Annotations["runbook_url"] != want {
			t.Errorf("%s sends people to %s, want %s", rule.Alert, rule.Annotations["runbook_url"], want)
		}
		row := regexp.MustCompile(`(?m)^\| \[` + rule.Alert + `\]\(#` + strings.ToLower(rule.Alert) + `\) \| ` + rule.Labels["severity"] + ` \| ` +
			minutes(rule.For) + ` \|`)
		if !row.MatchString(read(t, page)) {
			t.Errorf("the table of %s has no row that matches %s", page, row)
		}
	}
	slices.Sort(sections)
	slices.Sort(alerts)
	if !slices.Equal(sections, alerts) {
		t.Errorf("the sections are %v, and the alerts %v", sections, alerts)
	}
}

// minutes writes a duration as the page does.
func minutes(d model.Duration) string {
	if d == 0 {
		return "at once"
	}
	return strings.TrimSuffix(d.String(), "m") + " min"
}

func TestRulesNameOnlyMetricsAndLabelsThatThereAre(t *testing.T) {
	known := metrics(t)
	for _, rule := range ruleset(t) {
		if rule.Record != "" {
			known[rule.Record] = append(labelsOf(t, rule.Expr), "family")
		}
	}
	for _, rule := range ruleset(t) {
		exist(t, known, rule.Alert+rule.Record, rule.Expr)
		for _, text := range rule.Annotations {
			for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if !slices.Contains(resultLabels(t, known, rule.Expr), m[1]) {
					t.Errorf("%s tells of the label %s, which its query does not return", rule.Alert, m[1])
				}
			}
		}
	}
}

func TestTheNamesThatTheLabLooksForAreThoseOfAlertsAndDashboard(t *testing.T) {
	got, err := Needed(files)
	if err != nil {
		t.Fatal(err)
	}
	known := metrics(t)
	for _, name := range got { // also not those that the rules make
		if _, ok := known[name]; !ok {
			t.Errorf("%s is none of our metrics", name)
		}
	}
	for where, name := range map[string]string{"alerts": "metallb_speaker_update_seconds_count", "dashboard": "metallb_speaker_update_seconds_bucket"} {
		if !slices.Contains(got, name) {
			t.Errorf("%s of the %s is not among %v", name, where, got)
		}
	}
	if _, err := Names(`{job="metallb"}`); err == nil {
		t.Error("a query that names no metric passes")
	}
}

// exist checks that a query's metrics are there, that each has the labels it is selected by, and that the labels by which the
// query aggregates and joins are those of its metrics or of targets.
func exist(t *testing.T, known map[string][]string, of, expr string) {
	t.Helper()
	selectors, err := Selectors(expr)
	if err != nil {
		t.Errorf("%s: %v", of, err)
		return
	}
	all := slices.Clone(ofTargets)
	for _, s := range selectors {
		labels, ok := known[s.Name]
		if !ok {
			t.Errorf("%s names %s, which %s does not list", of, s.Name, reference)
		}
		all = append(all, labels...)
		for _, m := range s.LabelMatchers {
			if m.Name != model.MetricNameLabel && !slices.Contains(labels, m.Name) && !slices.Contains(ofTargets, m.Name) {
				t.Errorf("%s selects %s by %s, a label that it does not have", of, s.Name, m.Name)
			}
		}
	}
	made, from := labelsMade(t, expr)
	all = append(all, made...)
	for _, label := range append(labelsOf(t, expr), from...) {
		if !slices.Contains(all, label) {
			t.Errorf("%s aggregates or joins by %s, which none of its metrics has", of, label)
		}
	}
}

// labelsOf returns the labels by which a query aggregates and joins.
func labelsOf(t *testing.T, expr string) (all []string) {
	t.Helper()
	tree, err := queryParser.ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			all = append(all, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				all = append(all, n.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	return all
}

// labelsMade returns the labels that a query makes by label_replace, and those that it makes them from.
func labelsMade(t *testing.T, expr string) (made, from []string) {
	t.Helper()
	tree, err := queryParser.ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if call, ok := n.(*parser.Call); ok && call.Func.Name == "label_replace" {
			made = append(made, call.Args[1].(*parser.StringLiteral).Val)
			from = append(from, call.Args[3].(*parser.StringLiteral).Val)
		}
		return nil
	})
	return made, from
}

// resultLabels returns the labels that what a query returns may have: those of the leftmost aggregation or metric.
func resultLabels(t *testing.T, known map[string][]string, expr string) []string {
	t.Helper()
	tree, err := queryParser.ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	for {
		switch n := tree.(type) {
		case *parser.AggregateExpr:
			return n.Grouping
		case *parser.BinaryExpr:
			tree = n.LHS
			if _, number := n.LHS.(*parser.NumberLiteral); number {
				tree = n.RHS
			}
		case *parser.ParenExpr:
			tree = n.Expr
		case *parser.Call:
			tree = n.Args[len(n.Args)-1]
			if n.Func.Name == "label_replace" {
				tree = n.Args[0]
			}
		case *parser.MatrixSelector:
			tree = n.VectorSelector
		case *parser.VectorSelector:
			return append(slices.Clone(known[n.Name]), ofTargets...)
		default:
			return nil
		}
	}
}

// metrics returns the labels of every metric that there is. The table of the reference, which a test holds to the sources, has ours.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, name := range ofProcesses {
		all[name] = nil
	}
	_, section, _ := strings.Cut(read(t, reference), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	span := regexp.MustCompile("`(metallb_[a-z0-9_]+)(?:\\{([a-z,]+)\\})?`")
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range span.FindAllStringSubmatch(cells[1], -1) {
			var labels []string
			if m[2] != "" {
				labels = strings.Split(m[2], ",")
			}
			all[m[1]] = labels
			if strings.TrimSpace(cells[2]) == "histogram" {
				delete(all, m[1])
				all[m[1]+"_bucket"], all[m[1]+"_count"], all[m[1]+"_sum"] = append(slices.Clone(labels), "le"), labels, labels
			}
		}
	}
	if len(all) < 20 {
		t.Fatalf("%s lists only %d metrics", reference, len(all))
	}
	return all
}

func ruleset(t *testing.T) []rulefmt.Rule {
	t.Helper()
	all, err := Rules(alertFile)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
