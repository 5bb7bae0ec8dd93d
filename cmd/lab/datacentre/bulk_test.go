package datacentre

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// A neighbor is a router of the test of many routes.
type neighbor struct {
	network.Router
	asn  uint32
	bird bool
}

func (n neighbor) ibgp() bool { return n.asn == clusterASN }

// path is what the neighbor makes of a route.
func (n neighbor) path(prefix netip.Prefix, hop netip.Addr, communities []string) router.Path {
	path := router.Path{Prefix: prefix, NextHop: hop, Communities: communities}
	pref := uint32(100)
	if n.ibgp() || n.bird { // BIRD gives every route one; that eBGP carries none, exabgp's test sees
		path.LocalPref = &pref
	}
	if !n.ibgp() {
		path.ASPath = []uint32{clusterASN}
	}
	return path
}

func TestTenThousandRoutesComeChangeAndGoAtOnce(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	s := build(t)
	ctx := t.Context()
	var neighbors []neighbor
	var peers strings.Builder
	peers.WriteString("peers:\n")
	for i, asn := range []uint32{100, clusterASN} {
		frr, bird := netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + 2*i)}), netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + 2*i)})
		neighbors = append(neighbors,
			neighbor{s.frr(t, fmt.Sprintf("frr-%d", asn), frr, asn), asn, false},
			neighbor{s.bird(t, fmt.Sprintf("bird-%d", asn), bird, asn), asn, true})
		for _, addr := range []netip.Addr{frr, bird} {
			fmt.Fprintf(&peers, "- {peer-address: %s, peer-asn: %d, my-asn: %d, connect-time: 1s}\n", addr, asn, clusterASN)
		}
	}
	s.speak(t)
	must(t, s.Admit(ctx, peers.String()))
	var sessions []network.Session
	for _, n := range neighbors {
		sessions = append(sessions, upAnew(t, n, network.Session{}))
	}
	const addresses = 10_000
	most := 0 // UPDATEs in which they all have room
	for _, f := range families {
		most += addresses/f.room + 1
	}
	want := s.exposeMany(t, addresses)
	prefixes := sorted(want)

	for _, step := range []struct {
		then        string
		do          func() error
		communities []string
		gone        bool
	}{
		{then: "all come", do: func() error { return s.Admit(ctx, peers.String()+pools("")) }},
		{
			then: "all change", communities: []string{"65000:77"},
			do: func() error {
				return s.Admit(ctx, peers.String()+pools(`, advertisements: [{communities: ["65000:77"]}]`))
			},
		},
		{
			then: "all go", gone: true,
			do: func() error {
				_, err := s.API.CoreV1().Nodes().Patch(ctx, s.node.Name, types.StrategicMergePatchType,
					fmt.Appendf(nil, `{"metadata":{"labels":{%q:""}}}`, corev1.LabelNodeExcludeBalancers), metav1.PatchOptions{})
				return err
			},
		},
	} {
		began := time.Now()
		must(t, step.do())
		for i, n := range neighbors {
			var paths []router.Path
			kernel := want
			if step.gone {
				kernel = nil
			} else {
				for _, prefix := range prefixes {
					paths = append(paths, n.path(prefix, want[prefix], step.communities))
				}
			}
			knows(t, n, paths)
			sends(t, n, kernel)
			now := session(t, n)
			if now.History != sessions[i].History {
				t.Errorf("%s: the session with %s was %q and is %q", step.then, n, sessions[i].History, now.History)
			}
			updates, changes := now.Updates-sessions[i].Updates, now.Changes-sessions[i].Changes
			t.Logf("%s: %s after at most %v; %d UPDATEs, %d changes", step.then, n, time.Since(began).Round(10*time.Millisecond), updates, changes)
			if updates > most {
				t.Errorf("%s: %s was sent %d UPDATEs for %d prefixes: more than %d", step.then, n, updates, len(want), most)
			}
			if n.bird && changes != len(want) {
				t.Errorf("%s: %s was told %d prefixes instead of %d", step.then, n, changes, len(want))
			}
			sessions[i] = now
		}
	}
}
