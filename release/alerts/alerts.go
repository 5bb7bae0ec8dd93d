// Package alerts reads the alerts and the dashboard that the chart ships, for the tests that play them with Prometheus' own engine, and
// for whoever wants to know which metrics they need.
package alerts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	sdk "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

var queryParser = parser.NewParser(parser.Options{})

// Rules reads a rule file of Prometheus. An unknown key, a query that does not parse and a template that does not are errors.
func Rules(path string) ([]rulefmt.Rule, error) {
	file, problems := rulefmt.ParseFile(path, false, model.LegacyValidation, queryParser, promslog.NewNopLogger())
	if len(problems) > 0 {
		return nil, fmt.Errorf("%v", problems)
	}
	var all []rulefmt.Rule
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all, nil
}

// Dashboard reads a dashboard of Grafana. A key that Grafana does not know is an error.
func Dashboard(path string) (d dashboard.Dashboard, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	plugins.RegisterDefaultPlugins()
	// Strict decoding finds problems, and where there are none returns an empty list, which is not nil, and leaves out the queries.
	var strict dashboard.Dashboard
	var problems cog.BuildErrors
	if err := strict.UnmarshalJSONStrict(text); err != nil && (!errors.As(err, &problems) || len(problems) > 0) {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	return d, d.Validate()
}

// A Query is one of a panel or a variable of a dashboard, in PromQL: with values in the place of Grafana's variables.
type Query struct {
	Of     string // the panel's title, or the variable's name
	Expr   string
	Legend string
}

// Queries returns what a dashboard asks Prometheus.
func Queries(d dashboard.Dashboard) (all []Query) {
	for _, v := range d.Templating.List {
		// label_values(selector, label)
		if v.Query != nil && v.Query.String != nil && strings.HasPrefix(*v.Query.String, "label_values(") {
			selector := strings.TrimPrefix(*v.Query.String, "label_values(")
			all = append(all, Query{Of: v.Name, Expr: concrete(selector[:strings.LastIndex(selector, ",")])})
		}
	}
	for _, p := range Panels(d) {
		for _, target := range p.Targets {
			if q, ok := target.(*sdk.Dataquery); ok {
				query := Query{Of: *p.Title, Expr: concrete(q.Expr)}
				if q.LegendFormat != nil {
					query.Legend = *q.LegendFormat
				}
				all = append(all, query)
			}
		}
	}
	return all
}

// Panels returns a dashboard's panels, without the rows that they stand in.
func Panels(d dashboard.Dashboard) (all []dashboard.Panel) {
	for _, p := range d.Panels {
		if p.Panel != nil {
			all = append(all, *p.Panel)
		}
	}
	return all
}

// concrete puts values in the place of Grafana's variables, as they are when nothing is selected.
func concrete(expr string) string {
	expr = strings.NewReplacer("$__rate_interval", "2m", "$__range", "1h", "$__interval", "1m").Replace(expr)
	return regexp.MustCompile(`\$\{?\w+(:\w+)?\}?`).ReplaceAllString(expr, ".*")
}

// Selectors returns what a query selects of the metrics.
func Selectors(expr string) (all []*parser.VectorSelector, err error) {
	tree, err := queryParser.ParseExpr(expr)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, expr)
	}
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			all = append(all, s)
		}
		return nil
	})
	return all, nil
}

// Names returns the metrics that a query names, each once.
func Names(expr string) (names []string, err error) {
	selectors, err := Selectors(expr)
	if err != nil {
		return nil, err
	}
	for _, s := range selectors {
		i := slices.IndexFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual })
		if i < 0 {
			return nil, fmt.Errorf("%s does not name its metric: write the name in front of the braces", s)
		}
		names = append(names, s.LabelMatchers[i].Value)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Needed returns the metrics that alerts.yaml and dashboard.json of a folder name, without those that the rules make themselves.
func Needed(folder string) (names []string, err error) {
	rules, err := Rules(filepath.Join(folder, "alerts.yaml"))
	if err != nil {
		return nil, err
	}
	board, err := Dashboard(filepath.Join(folder, "dashboard.json"))
	if err != nil {
		return nil, err
	}
	var exprs, made []string
	for _, r := range rules {
		exprs, made = append(exprs, r.Expr), append(made, r.Record)
	}
	for _, q := range Queries(board) {
		exprs = append(exprs, q.Expr)
	}
	for _, expr := range exprs {
		of, err := Names(expr)
		if err != nil {
			return nil, err
		}
		names = append(names, of...)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return slices.Contains(made, name) }), nil
}
