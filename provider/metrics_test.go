package provider

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"
)

func TestMetricsHaveTheNamesThatDashboardsKnow(t *testing.T) {
	c, _ := newCloud(t, "vip 10.0.0.0/30,fd00::/64; sandbox 10.1.0.0/31 manual", "shop/web shows=10.0.0.0 share=k port=80; shop/mail shows=10.0.0.0 share=k port=25; shop/six families=6; shop/stray shows=192.0.2.1")
	ensure(t, c, "shop/late want=8.8.8.8")
	c.report(configState{loaded: true})
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&collector{cloud: c})
	same(t, "metrics", gathered(t, registry), []string{
		"metallb_allocator_addresses_in_use_total sandbox 0",
		"metallb_allocator_addresses_in_use_total vip 2",
		"metallb_allocator_addresses_total sandbox 2",
		"metallb_allocator_addresses_total vip 1.8446744073709552e+19",
		"metallb_allocator_assigned 10.0.0.0 vip shop/mail 1",
		"metallb_allocator_assigned 10.0.0.0 vip shop/web 1",
		"metallb_allocator_assigned 192.0.2.1  shop/stray 1",
		"metallb_allocator_assigned fd00:: vip shop/six 1",
		"metallb_allocator_ipv4_addresses_in_use_total sandbox 0",
		"metallb_allocator_ipv4_addresses_in_use_total vip 1",
		"metallb_allocator_ipv4_addresses_total sandbox 2",
		"metallb_allocator_ipv4_addresses_total vip 4",
		"metallb_allocator_ipv6_addresses_in_use_total vip 1",
		"metallb_allocator_ipv6_addresses_total vip 1.8446744073709552e+19",
		"metallb_allocator_namespace_addresses shop vip 2",
		"metallb_allocator_services_pending 1",
		"metallb_k8s_client_config_loaded_bool 1",
		"metallb_k8s_client_config_stale_bool 0",
	})

	c, _ = newCloud(t, "vip 10.0.0.0/30 quota=shop:3,blog:2", "shop/web shows=10.0.0.0; shop/api shows=10.0.0.1; farm/cow shows=10.0.0.2")
	registry = metrics.NewKubeRegistry()
	registry.CustomMustRegister(&collector{cloud: c})
	same(t, "metrics of namespaces", slices.DeleteFunc(gathered(t, registry), func(line string) bool { return !strings.Contains(line, "_namespace_") }), []string{
		"metallb_allocator_namespace_addresses blog vip 0",
		"metallb_allocator_namespace_addresses farm vip 1",
		"metallb_allocator_namespace_addresses shop vip 2",
		"metallb_allocator_namespace_quota blog vip 2",
		"metallb_allocator_namespace_quota shop vip 3",
	})

	standby := metrics.NewKubeRegistry()
	standby.CustomMustRegister(&collector{cloud: New(Options{})})
	// It knows nothing, and would look like a cluster without configuration.
	same(t, "metrics of a standby", gathered(t, standby), nil)
}

func TestAServiceThatWasDeletedAndMadeAgainDoesNotSpoilTheMetrics(t *testing.T) {
	c, _ := newCloud(t, "vip 10.0.0.0/30", "shop/web uid=1 shows=10.0.0.0 share=k port=80; shop/web uid=2 shows=10.0.0.0 share=k port=443")
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&collector{cloud: c})
	if got := gathered(t, registry); !slices.Contains(got, "metallb_allocator_assigned 10.0.0.0 vip shop/web 1") {
		t.Errorf("the metrics are %q", got)
	}
}

// gathered writes metrics as name, pool and value.
func gathered(t *testing.T, registry metrics.Gatherer) (all []string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				line += " " + l.GetValue()
			}
			all = append(all, fmt.Sprint(line, " ", m.GetGauge().GetValue()))
		}
	}
	return all
}

func TestTheWaitForAFirstAddressIsMeasured(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	registry.MustRegister(assignment)
	c, _ := newCloud(t, "vip 10.0.0.0/30", "")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	see := func(short string, after time.Duration) {
		svc := aService(t, short)
		c.lookup = func(string, string) *corev1.Service { return svc }
		c.now = func() time.Time { return at.Add(after) }
		c.OnUpdate(svc, svc)
	}
	see("shop/web", 0)
	see("shop/web finalizer", time.Second)
	see("shop/web shows=10.0.0.0", 3*time.Second)
	see("shop/web", 4*time.Second)                   // wiped, and
	see("shop/web shows=10.0.0.0", 5*time.Second)    // mended
	see("shop/internal type=ClusterIP", 0)           // never wants one
	see("shop/gone", 0)                              // does, and
	see("shop/gone type=ClusterIP", 100*time.Second) // no longer
	see("shop/old shows=10.0.0.1", 0)                // had it before we came
	var got []string
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		h := f.GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 2 || h.GetSampleSum() != 4 {
			t.Errorf("%s: %d waits of %g s in all, want 2 of 4 s", f.GetName(), h.GetSampleCount(), h.GetSampleSum())
		}
		got = append(got, f.GetName())
	}
	same(t, "metrics", got, []string{"metallb_allocator_assignment_seconds"})
	for uid, e := range c.ledger.entries {
		if !e.observed.empty.IsZero() {
			t.Errorf("still waiting: %s", uid)
		}
	}
}

func TestAProcessThatCannotReadForLongIsNotWell(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var w watches
	for _, step := range []struct {
		then  string
		after time.Duration
		fails bool
		well  bool
	}{
		{then: "nothing ever failed", well: true},
		{then: "one failure", after: time.Minute, fails: true, well: true},
		{then: "again and again", after: 2 * time.Minute, fails: true, well: true},
		{then: "again and again", after: 4 * time.Minute, fails: true, well: true},
		{then: "again and again", after: 6 * time.Minute, fails: true, well: true},
		{then: "for too long", after: 7 * time.Minute, fails: true},
		{then: "and it still does", after: 9 * time.Minute},
		{then: "no more", after: 10 * time.Minute, well: true},
		{then: "another failure is the first", after: 11 * time.Minute, fails: true, well: true},
	} {
		now := at.Add(step.after)
		if step.fails {
			w.fail(now)
		}
		if err := w.check(now); (err == nil) != step.well {
			t.Errorf("%s, at %s: %v", step.then, step.after, err)
		}
	}
}
