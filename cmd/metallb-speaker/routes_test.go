package main

import (
	"encoding/json"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

func TestRoutesNameEverySessionThatShouldBeAndNoPassword(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	withheld := []report.Withheld{{Service: "shop/api", Address: netip.MustParseAddr("10.0.0.2"), Why: "no endpoint of the Service can serve, on any node"}}
	r := &reporter{
		node: "a",
		status: func() speaker.Status {
			return speaker.Status{Hash: "abc", Problems: []string{`peer tor: Secret metallb-system/metallb-bgp-auth has no key "tor": add it`},
				Mute: []loadbalancer.Peer{
					{Name: "tor", Addr: netip.MustParseAddr("10.9.0.3"), Port: 1790, ASN: 64501, Password: "swordfish"},
					{Name: "torus", Addr: netip.MustParseAddr("10.9.0.4"), Port: 179, ASN: 64502}, // nothing is known of its password yet
				}}
		},
		sessions: func() []bgp.Session {
			return []bgp.Session{
				{Peer: "leaf", Addr: netip.MustParseAddr("10.9.0.1"), Port: 179, ASN: 64500, Up: true, State: "Established", Since: since, Terms: &report.Terms{Families: []string{"IPv4"}, HoldTime: 9}},
				{Peer: "spine", Addr: netip.MustParseAddr("10.9.0.2"), Port: 179, ASN: 64500, State: "Connect", Since: since, Attempts: 2, LastError: "10.9.0.2:179 does not answer"},
			}
		},
		bfd:      func(s bgp.Session) string { return map[string]string{"leaf": report.BFDUp}[s.Peer] },
		withheld: func() iter.Seq[report.Withheld] { return slices.Values(withheld) },
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/routes", nil))
	if strings.Contains(w.Body.String(), "swordfish") {
		t.Error("it tells a password")
	}
	var got report.Document
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if kind := w.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("it is %s", kind)
	}
	none := []report.Route{}
	want := report.Document{
		Version: 1, Node: "a", Hash: "abc", Problems: r.status().Problems,
		Sessions: []report.Session{
			{Peer: "leaf", Address: netip.MustParseAddr("10.9.0.1"), Port: 179, ASN: 64500, State: "Established", Since: since, Terms: &report.Terms{Families: []string{"IPv4"}, HoldTime: 9}, BFD: "Up", Routes: none},
			{Peer: "spine", Address: netip.MustParseAddr("10.9.0.2"), Port: 179, ASN: 64500, State: "Connect", Since: since, Attempts: 2, Reason: "10.9.0.2:179 does not answer", Routes: none},
			{Peer: "tor", Address: netip.MustParseAddr("10.9.0.3"), Port: 1790, ASN: 64501, State: "Idle", Reason: `Secret metallb-system/metallb-bgp-auth has no key "tor": add it`, Routes: none},
			{Peer: "torus", Address: netip.MustParseAddr("10.9.0.4"), Port: 179, ASN: 64502, State: "Idle", Routes: none},
		},
		Withheld: withheld,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it answers\n%s\nwant\n%+v", w.Body, want)
	}
}
