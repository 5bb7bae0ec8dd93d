package service

import (
	"fmt"
	"strings"
	"testing"
)

func TestTyposUnderOurPrefixesAreFound(t *testing.T) {
	for key, want := range map[string]string{
		"metallb.universe.tf/address-pool":           "",
		"metallb.io/loadBalancerIPs":                 "",
		"metallb.universe.tf/allow-shared-ip":        "",
		"metallb.universe.tf/ip-allocated-from-pool": "", // MetalLB leaves it behind
		"metallb.io/ip-allocated-from-pool":          "",
		"example.com/adress-pool":                    "",
		"metallb.universe.tf/adress-pool":            "annotation metallb.universe.tf/adress-pool means nothing: the nearest that does is metallb.universe.tf/address-pool",
		"metallb.universe.tf/loadBalancerIP":         "annotation metallb.universe.tf/loadBalancerIP means nothing: the nearest that does is metallb.universe.tf/loadBalancerIPs",
		"metallb.io/loadbalancerips":                 "annotation metallb.io/loadbalancerips means nothing: the nearest that does is metallb.io/loadBalancerIPs",
		"metallb.universe.tf/allow-shared":           "annotation metallb.universe.tf/allow-shared means nothing: the nearest that does is metallb.universe.tf/allow-shared-ip",
		"metallb.io/drain":                           "annotation metallb.io/drain means nothing: the nearest that does is metallb.io/advertise",
	} {
		if got := UnknownOnService(map[string]string{key: "x"}); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	want := "annotation metallb.universe.tf/drained means nothing: the nearest that does is metallb.universe.tf/drain"
	if got := UnknownOnNode(map[string]string{"metallb.universe.tf/drained": "", "metallb.io/drain": "", "kubernetes.io/x": ""}); got != want {
		t.Errorf("on a Node: %q, want %q", got, want)
	}
	want = "annotation metallb.universe.tf/renumbr means nothing: the nearest that does is metallb.universe.tf/renumber"
	if got := UnknownOnConfig(map[string]string{"metallb.universe.tf/renumbr": "x", "metallb.io/confirm": "x"}); got != want {
		t.Errorf("on the ConfigMap: %q, want %q", got, want)
	}
	if got := UnknownOnService(nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// An event of more than 1,024 bytes is none: whoever misspells hundreds of annotations hears of the first ones.
func TestManyTyposFitIntoAnEvent(t *testing.T) {
	many := map[string]string{}
	for i := range 300 {
		many[fmt.Sprintf("metallb.universe.tf/%s%03d", strings.Repeat("x", 200), i)] = ""
	}
	if got := UnknownOnService(many); len(got) > 700 || !strings.HasSuffix(got, "; and 297 more") || strings.Count(got, "means nothing") != 3 {
		t.Errorf("it hears, in %d bytes, %s", len(got), got)
	}
}
