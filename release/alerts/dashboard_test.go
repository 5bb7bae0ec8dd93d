package alerts

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	sdk "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const boardFile = files + "/dashboard.json"

// bad is what a Prometheus reads of a cluster in which something of everything is wrong, every half minute of an hour.
const bad = `
	metallb_allocator_services_pending{job="metallb", instance="10.0.0.11:10258"}                                              2x120
	metallb_allocator_addresses_total{pool="default", job="metallb", instance="10.0.0.11:10258"}                               1.8e19x120
	metallb_allocator_addresses_in_use_total{pool="default", job="metallb", instance="10.0.0.11:10258"}                        3x120
	metallb_allocator_ipv4_addresses_total{pool="default", job="metallb", instance="10.0.0.11:10258"}                          4x120
	metallb_allocator_ipv4_addresses_in_use_total{pool="default", job="metallb", instance="10.0.0.11:10258"}                   2x120
	metallb_allocator_ipv6_addresses_total{pool="default", job="metallb", instance="10.0.0.11:10258"}                          1.8e19x120
	metallb_allocator_ipv6_addresses_in_use_total{pool="default", job="metallb", instance="10.0.0.11:10258"}                   1x120
	metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", job="metallb", instance="10.0.0.11:10258"} 1x120
	metallb_allocator_assigned{service="shop/api", pool="default", ip="fd00::1", job="metallb", instance="10.0.0.11:10258"}    1x120
	metallb_allocator_assignment_seconds_bucket{le="0.01", job="metallb", instance="10.0.0.11:10258"}                          0+1x120
	metallb_allocator_assignment_seconds_bucket{le="+Inf", job="metallb", instance="10.0.0.11:10258"}                          0+2x120
	metallb_k8s_client_config_stale_bool{job="metallb", instance="10.0.0.11:10258"}                                            1x120
	metallb_k8s_client_config_loaded_bool{job="metallb", instance="10.0.0.11:10258"}                                           1x120
	metallb_k8s_client_config_stale_bool{job="metallb", instance="10.0.0.1:7473"}                                              0x120
	metallb_k8s_client_config_loaded_bool{job="metallb", instance="10.0.0.1:7473"}                                             0x120
	metallb_k8s_client_updates_total{job="metallb", instance="10.0.0.1:7473"}                                                  0+3x120
	metallb_k8s_client_update_errors_total{job="metallb", instance="10.0.0.1:7473"}                                            0+1x120
	metallb_bgp_session_up{peer="10.0.0.254:179", job="metallb", instance="10.0.0.1:7473"}                                     1x120
	metallb_bgp_session_up{peer="10.0.0.253:179", job="metallb", instance="10.0.0.1:7473"}                                     0x120
	metallb_bgp_updates_total{peer="10.0.0.254:179", job="metallb", instance="10.0.0.1:7473"}                                  0+1x120
	metallb_bgp_announced_prefixes_total{peer="10.0.0.254:179", job="metallb", instance="10.0.0.1:7473"}                       1x120
	metallb_bgp_dropped_updates_total{peer="10.0.0.254:179", job="metallb", instance="10.0.0.1:7473"}                          0+1x120
	metallb_bgp_failed_attempts_total{peer="10.0.0.253:179", job="metallb", instance="10.0.0.1:7473"}                          0+1x120
	metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", job="metallb", instance="10.0.0.1:7473"}        1x120
	metallb_speaker_node_drained{node="a", job="metallb", instance="10.0.0.1:7473"}                                            1x120
	metallb_speaker_update_seconds_count{job="metallb", instance="10.0.0.1:7473"}                                              0+1x120
	metallb_speaker_update_seconds_bucket{le="0.001", job="metallb", instance="10.0.0.1:7473"}                                 0+1x120
	metallb_speaker_update_seconds_bucket{le="+Inf", job="metallb", instance="10.0.0.1:7473"}                                  0+1x120
	metallb_bfd_session_up{peer="10.0.0.254", job="metallb", instance="10.0.0.1:7475"}                                         0x120
	metallb_bfd_session_down_events{peer="10.0.0.254", job="metallb", instance="10.0.0.1:7475"}                                0+1x120
	metallb_bfd_dropped_packets_total{why="ttl", job="metallb", instance="10.0.0.1:7475"}                                      0+1x120
	process_start_time_seconds{job="metallb", instance="10.0.0.1:7473"}                                                        100x60 1900x59
	process_resident_memory_bytes{job="metallb", instance="10.0.0.1:7473"}                                                     5e7x120
	process_cpu_seconds_total{job="metallb", instance="10.0.0.1:7473"}                                                         0+0.5x120
	process_resident_memory_bytes{job="other", instance="10.0.0.1:9100"}                                                       9e9x120
`

func TestEveryPanelAsksForSomethingThatThereIs(t *testing.T) {
	known := metrics(t)
	for _, q := range Queries(board(t)) {
		exist(t, known, q.Of, q.Expr)
		if len(ask(t, bad, q.Expr)) == 0 {
			t.Errorf("%s shows nothing: %s", q.Of, q.Expr)
		}
		for _, m := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(q.Legend, -1) {
			if labels := resultLabels(t, known, q.Expr); !slices.Contains(labels, m[1]) {
				t.Errorf("%s: the legend shows the label %s, and the query returns %v", q.Of, m[1], labels)
			}
		}
	}
}

// fine is the same where all is well.
const fine = `
	metallb_allocator_services_pending{job="metallb", instance="10.0.0.11:10258"}                                              0x120
	metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", job="metallb", instance="10.0.0.11:10258"} 1x120
	metallb_k8s_client_config_stale_bool{job="metallb", instance="10.0.0.11:10258"}                                            0x120
	metallb_k8s_client_config_loaded_bool{job="metallb", instance="10.0.0.11:10258"}                                           1x120
	metallb_k8s_client_config_stale_bool{job="metallb", instance="10.0.0.1:7473"}                                              0x120
	metallb_k8s_client_config_loaded_bool{job="metallb", instance="10.0.0.1:7473"}                                             1x120
	metallb_bgp_session_up{peer="10.0.0.254:179", job="metallb", instance="10.0.0.1:7473"}                                     1x120
	metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", job="metallb", instance="10.0.0.1:7473"}        1x120
	metallb_speaker_node_drained{node="a", job="metallb", instance="10.0.0.1:7473"}                                            0x120
	metallb_speaker_update_seconds_count{job="metallb", instance="10.0.0.1:7473"}                                              0x120
`

func TestTheTopRowTellsWhatIsWrong(t *testing.T) {
	const nothing = "nothing"
	for _, test := range []struct {
		panel, bad, fine string
		unseen           string // where Prometheus sees nothing of us, which must not look as if all were well
	}{
		{"Sessions down", "1", "0", nothing},
		{"Services that wait", "2", "0", nothing},
		{"Addresses not announced", "1", "0", nothing},
		{"Configuration not in force", "2", "0", nothing},
		{"Leaders", "1", "1", "0"},
		{"Speakers", "1", "1", "0"},
		{"Drained nodes", "1", "0", nothing},
	} {
		i := slices.IndexFunc(Queries(board(t)), func(q Query) bool { return q.Of == test.panel })
		if i < 0 {
			t.Errorf("there is no panel %q", test.panel)
			continue
		}
		for series, want := range map[string]string{bad: test.bad, fine: test.fine, `up{job="other"} 1x120`: test.unseen} {
			got := nothing
			if values := ask(t, series, Queries(board(t))[i].Expr); len(values) > 0 {
				got = fmt.Sprint(values[0].F)
			}
			if got != want {
				t.Errorf("%s shows %s, want %s, of\n%s", test.panel, got, want, series)
			}
		}
	}
}

// ask puts a query to a Prometheus that has read series for an hour.
func ask(t *testing.T, series, expr string) promql.Vector {
	t.Helper()
	storage := promqltest.LoadedStorage(t, strings.Replace(load(series), "1m", "30s", 1))
	query, err := promqltest.NewTestEngine(t, false, 5*time.Minute, 100_000).NewInstantQuery(t.Context(), storage, nil, expr, time.Unix(3600, 0))
	if err != nil {
		t.Fatalf("%v in %s", err, expr)
	}
	result := query.Exec(t.Context())
	values, err := result.Vector()
	if err != nil || len(result.Warnings) > 0 {
		t.Fatalf("%v %v in %s", err, result.Warnings, expr)
	}
	return values
}

func TestEveryPanelSaysWhatItShows(t *testing.T) {
	titles, ids, variables := map[string]bool{}, map[uint32]bool{}, map[string]bool{}
	for _, v := range board(t).Templating.List {
		variables[v.Name] = true
	}
	for _, p := range Panels(board(t)) {
		if titles[*p.Title] || ids[*p.Id] {
			t.Errorf("there are two panels %q, or with its id", *p.Title)
		}
		titles[*p.Title], ids[*p.Id] = true, true
		if p.Description == nil || !strings.HasSuffix(*p.Description, ".") {
			t.Errorf("%s has no description", *p.Title)
		}
		if p.FieldConfig == nil || p.FieldConfig.Defaults.Unit == nil {
			t.Errorf("%s has no unit", *p.Title)
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", *p.Title)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			q, ok := target.(*sdk.Dataquery)
			if !ok || q.Datasource == nil || *q.Datasource.Uid != "${datasource}" || *p.Datasource.Uid != "${datasource}" {
				t.Errorf("%s asks another data source than the one that is chosen above", *p.Title)
				continue
			}
			if refs[*q.RefId] {
				t.Errorf("%s has two queries %s", *p.Title, *q.RefId)
			}
			refs[*q.RefId] = true
			for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !variables[m[1]] && m[1] != "__rate_interval" {
					t.Errorf("%s asks for the variable %s, which there is not", *p.Title, m[1])
				}
			}
			if selectors, err := Selectors(concrete(q.Expr)); err != nil || strings.Count(q.Expr, `cluster=~"$cluster"`) != len(selectors) {
				t.Errorf("%s does not heed the chosen cluster: %v", *p.Title, err)
			}
		}
	}
}

func TestNoTwoPanelsOverlap(t *testing.T) {
	taken := map[[2]uint32]string{}
	for _, p := range board(t).Panels {
		var title string
		var at dashboard.GridPos
		if p.Panel != nil {
			title, at = *p.Panel.Title, *p.Panel.GridPos
		} else {
			title, at = *p.RowPanel.Title, *p.RowPanel.GridPos
		}
		if at.X+at.W > 24 || at.W == 0 || at.H == 0 {
			t.Errorf("%s does not fit into the 24 columns", title)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other, is := taken[[2]uint32{x, y}]; is {
					t.Fatalf("%s lies over %s", title, other)
				}
				taken[[2]uint32{x, y}] = title
			}
		}
	}
}

// Strict decoding does not look into every corner: what Grafana's types know comes out again when they are written.
func TestGrafanaKnowsEveryKeyOfTheDashboard(t *testing.T) {
	text, err := json.Marshal(board(t))
	if err != nil {
		t.Fatal(err)
	}
	var written, understood any
	if err := json.Unmarshal([]byte(read(t, boardFile)), &written); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &understood); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, a, b any)
	walk = func(path string, a, b any) {
		switch a := a.(type) {
		case map[string]any:
			b, _ := b.(map[string]any)
			for key, value := range a {
				if list, is := value.([]any); is && len(list) == 0 {
					continue // which is left out
				}
				if _, ok := b[key]; !ok && value != nil {
					t.Errorf("Grafana does not know %s.%s", path, key)
					continue
				}
				walk(path+"."+key, value, b[key])
			}
		case []any:
			b, _ := b.([]any)
			if len(a) != len(b) {
				t.Errorf("Grafana sees %d items in %s, and not %d", len(b), path, len(a))
				return
			}
			for i := range a {
				walk(fmt.Sprintf("%s[%d]", path, i), a[i], b[i])
			}
		}
	}
	walk("dashboard", written, understood)
}

func TestTheDashboardHasItsOwnNameEverywhere(t *testing.T) {
	if b := board(t); b.Uid == nil || *b.Uid != "metallb" || b.Id != nil {
		t.Error("its uid is to be metallb, and its id that of no installation")
	}
}

func board(t *testing.T) dashboard.Dashboard {
	t.Helper()
	d, err := Dashboard(boardFile)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Whoever sees that something is wrong is one step away from what to do.
func TestPanelsThatNameAnAlertLinkToIt(t *testing.T) {
	looked := 0
	for _, p := range Panels(board(t)) {
		if p.Description == nil {
			continue
		}
		for _, alert := range regexp.MustCompile(`MetalLB[A-Za-z0-9]+`).FindAllString(*p.Description, -1) {
			looked++
			url := pageURL + "#" + strings.ToLower(alert)
			if !slices.ContainsFunc(p.Links, func(l dashboard.DashboardLink) bool { return l.Url != nil && *l.Url == url }) {
				t.Errorf("%s names %s, and does not link to %s", *p.Title, alert, url)
			}
		}
	}
	if looked < 5 {
		t.Errorf("panels name %d alerts: this test looks at nothing", looked)
	}
}
