package inspect

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/service"
)

// A Takeover is what becomes of a Service once a controller manager begins to serve it by the configuration in force.
type Takeover struct {
	Service string       `json:"service"`
	What    string       `json:"what"` // keeps, moves, waits, is served or is left alone
	Has     []netip.Addr `json:"has"`
	Gets    []netip.Addr `json:"gets"`
	Why     string       `json:"why,omitempty"`
}

// What else becomes of a Service.
const (
	Keeps = "keeps"
	Waits = "waits"
	Left  = "is left alone"
)

// Takeovers tells it of every Service, by the controller manager's own steps: it adopts what statuses show, and then answers the
// requests, the oldest first.
func (v *View) Takeovers() (all []Takeover) {
	allocator, conflicts := v.adopt()
	var ours []*corev1.Service
	for _, svc := range v.services {
		if v.Ours.Serves(svc.Service) && svc.DeletionTimestamp == nil {
			ours = append(ours, svc.Service)
		}
	}
	slices.SortStableFunc(ours, func(a, b *corev1.Service) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	why := map[string]string{}
	for _, svc := range ours {
		why[string(svc.UID)] = allocator.Allocate(service.Request(svc)).Why.String()
	}
	settle(allocator)
	for _, svc := range v.services {
		t := Takeover{Service: service.Name(svc.Service), What: Keeps, Has: append([]netip.Addr{}, service.Addresses(svc.Service)...), Gets: []netip.Addr{}}
		if !v.Ours.Serves(svc.Service) {
			t.What, t.Why = Left, "it has no class, and only Services with one are served"
			if class := svc.Spec.LoadBalancerClass; class != nil {
				t.Why = "its loadBalancerClass is " + *class
			}
			all = append(all, t)
			continue
		}
		uid := string(svc.UID)
		t.Gets, t.Why = append(t.Gets, allocator.Held(uid)...), why[uid]
		if clash := conflicts[uid]; t.Why == "" && !clash.None() {
			t.Why = clash.String()
		}
		lost := slices.ContainsFunc(t.Has, func(addr netip.Addr) bool { return !slices.Contains(t.Gets, addr) })
		switch {
		case len(t.Gets) == 0:
			t.What = Waits
		case lost:
			t.What = Moves
		case len(t.Gets) > len(t.Has):
			t.What = Served
		case slices.ContainsFunc(t.Gets, func(addr netip.Addr) bool { return v.config().Pool(addr) == nil }):
			t.Why = "no pool has it, so that nobody announces it"
		}
		all = append(all, t)
	}
	return all
}
