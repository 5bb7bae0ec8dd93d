package service

import (
	"slices"
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
		"metallb.io/drain":                           "annotation metallb.io/drain means nothing: the nearest that does is metallb.io/address-pool",
	} {
		var all []string
		if want != "" {
			all = []string{want}
		}
		if got := UnknownOnService(map[string]string{key: "x"}); !slices.Equal(got, all) {
			t.Errorf("%s: %q, want %q", key, got, all)
		}
	}
	want := []string{"annotation metallb.universe.tf/drained means nothing: the nearest that does is metallb.universe.tf/drain"}
	if got := UnknownOnNode(map[string]string{"metallb.universe.tf/drained": "", "metallb.io/drain": "", "kubernetes.io/x": ""}); !slices.Equal(got, want) {
		t.Errorf("on a Node: %q, want %q", got, want)
	}
	want = []string{"annotation metallb.universe.tf/renumbr means nothing: the nearest that does is metallb.universe.tf/renumber"}
	if got := UnknownOnConfig(map[string]string{"metallb.universe.tf/renumbr": "x", "metallb.io/confirm": "x"}); !slices.Equal(got, want) {
		t.Errorf("on the ConfigMap: %q, want %q", got, want)
	}
	if got := UnknownOnService(nil); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}
