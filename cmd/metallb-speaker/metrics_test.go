package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
)

func TestMetricsHaveTheNamesAndLabelsThatDashboardsKnow(t *testing.T) {
	tor, six := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00::1")
	c := &collector{
		node: "a",
		status: func() speaker.Status {
			return speaker.Status{Loaded: true, Drained: true, Changes: 12, Errors: 3, Mute: []loadbalancer.Peer{{Addr: netip.MustParseAddr("10.9.0.9"), Port: 179}, {Name: "way out", Gateway: loadbalancer.IPv6, Port: 179}}}
		},
		announced: func() []speaker.Announced {
			return []speaker.Announced{{Service: "shop/web", Addr: netip.MustParseAddr("192.0.2.1")}, {Service: "shop/api", Addr: netip.MustParseAddr("192.0.2.1")}}
		},
		sessions: func() []bgp.Session {
			return []bgp.Session{
				{Peer: "tor", Addr: tor, Port: 179, Up: true, Updates: 7, Prefixes: 2, Dropped: 100, Failures: 4},
				{Peer: "rack", Addr: netip.MustParseAddr("10.9.0.2"), Port: 179, ASN: 65001, Up: true, Gateway: true},
				{Peer: "six", Addr: six, Port: 1790, BFD: true},
				{Peer: "tor in another AS", Addr: tor, Port: 179, Updates: 1, Failures: 5},
			}
		},
	}
	c.responder = &responder{sessions: c.sessions}
	c.responder.there.Store(true)
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(c.metrics())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			got = append(got, fmt.Sprint(f.GetName(), "{", strings.Join(labels, ","), "} ", m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"metallb_bgp_announced_prefixes_total{peer=10.9.0.1:179} 2",
		"metallb_bgp_announced_prefixes_total{peer=10.9.0.2:179} 0",
		"metallb_bgp_announced_prefixes_total{peer=10.9.0.9:179} 0",
		"metallb_bgp_announced_prefixes_total{peer=[fd00::1]:1790} 0",
		"metallb_bgp_dropped_updates_total{peer=10.9.0.1:179} 100",
		"metallb_bgp_dropped_updates_total{peer=10.9.0.2:179} 0",
		"metallb_bgp_dropped_updates_total{peer=10.9.0.9:179} 0",
		"metallb_bgp_dropped_updates_total{peer=[fd00::1]:1790} 0",
		"metallb_bgp_failed_attempts_total{peer=10.9.0.1:179} 9",
		"metallb_bgp_failed_attempts_total{peer=10.9.0.2:179} 0",
		"metallb_bgp_failed_attempts_total{peer=10.9.0.9:179} 0",
		"metallb_bgp_failed_attempts_total{peer=[fd00::1]:1790} 0",
		"metallb_bgp_session_asn{peer=10.9.0.1:179} 0",
		"metallb_bgp_session_asn{peer=10.9.0.2:179} 65001",
		"metallb_bgp_session_asn{peer=10.9.0.9:179} 0",
		"metallb_bgp_session_asn{peer=[fd00::1]:1790} 0",
		"metallb_bgp_session_up{address=,peer=way out} 0",
		"metallb_bgp_session_up{address=10.9.0.1,peer=10.9.0.1:179} 0",
		"metallb_bgp_session_up{address=10.9.0.2,peer=rack} 1",
		"metallb_bgp_session_up{address=10.9.0.9,peer=10.9.0.9:179} 0",
		"metallb_bgp_session_up{address=fd00::1,peer=[fd00::1]:1790} 0",
		"metallb_bgp_updates_total{peer=10.9.0.1:179} 8",
		"metallb_bgp_updates_total{peer=10.9.0.2:179} 0",
		"metallb_bgp_updates_total{peer=10.9.0.9:179} 0",
		"metallb_bgp_updates_total{peer=[fd00::1]:1790} 0",
		"metallb_k8s_client_config_loaded_bool{} 1",
		"metallb_k8s_client_config_stale_bool{} 0",
		"metallb_k8s_client_update_errors_total{} 3",
		"metallb_k8s_client_updates_total{} 12",
		"metallb_speaker_announced{ip=192.0.2.1,node=a,service=shop/api} 1",
		"metallb_speaker_announced{ip=192.0.2.1,node=a,service=shop/web} 1",
		"metallb_speaker_bfd_responder_up{} 1",
		"metallb_speaker_node_drained{node=a} 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("metrics:\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestTheTimeToAnUpdateIsMeasured(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	registry.MustRegister(updateSeconds)
	observed := func() (uint64, float64) {
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			t.Fatal(families, err)
		}
		h := families[0].GetMetric()[0].GetHistogram()
		if first, last := h.GetBucket()[0].GetUpperBound(), h.GetBucket()[14].GetUpperBound(); first != 0.001 || last != 60 {
			t.Errorf("the buckets go from %g to %g s", first, last)
		}
		return h.GetSampleCount(), h.GetSampleSum()
	}
	n, sum := observed()
	written("tor", time.Now().Add(-3*time.Second))
	if m, more := observed(); m != n+1 || more < sum+3 {
		t.Errorf("%d values of %g s in all became %d of %g s", n, sum, m, more)
	}
}
