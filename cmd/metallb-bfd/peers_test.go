package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd"
)

const text = `
bfd-profiles: [{name: quick, transmit-interval: 100}, {name: slow}]
peers:
- {name: leaf, peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, bfd-profile: quick, password-key: leaf}
- {name: its-other-port, peer-address: 10.0.0.1, peer-port: 1179, peer-asn: 1, my-asn: 2, bfd-profile: slow}
- {name: by-node-ip, peer-address: 10.0.0.2, peer-asn: 1, my-asn: 2, bfd-profile: slow, source-address: node-ip}
- {name: unwatched, peer-address: 10.0.0.3, peer-asn: 1, my-asn: 2}
- {name: elsewhere, peer-address: 10.0.0.4, peer-asn: 1, my-asn: 2, bfd-profile: quick, node-selectors: [{match-labels: {rack: two}}]}
- {name: six, peer-address: "fe80::1%eth0", peer-asn: 1, my-asn: 2, bfd-profile: quick}
- {name: no-such-address, peer-address: "2001:db8::1", peer-asn: 1, my-asn: 2, bfd-profile: quick, source-address: node-ip}
`

func TestTheRoutersOfThisNodeThatHaveAProfileAreWatched(t *testing.T) {
	config, _, err := loadbalancer.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "one"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.9"}}},
	}
	words := func(watched []bfd.Peer) (all []string) {
		for _, w := range watched {
			all = append(all, fmt.Sprintf("%s %s from %s %s", w.Name, w.Router, w.Local, w.Profile.Name))
		}
		return all
	}
	before, watched, problems := watchedBy(config, node, nil, nil, nil)
	want := []string{"leaf 10.0.0.1 from invalid IP quick", "by-node-ip 10.0.0.2 from 10.0.0.9 slow", "six fe80::1%eth0 from invalid IP quick"}
	if got := words(watched); !slices.Equal(got, want) {
		t.Errorf("watched are %q, want %q", got, want)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "peer no-such-address: source-address is node-ip") {
		t.Errorf("problems are %q", problems)
	}

	// Kubernetes promises no order of addresses, and a session keeps its own.
	node.Status.Addresses = append([]corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.8"}}, node.Status.Addresses...)
	if _, watched, _ := watchedBy(config, node, nil, before, nil); !slices.Equal(words(watched), want) {
		t.Errorf("with another address first, watched are %q", words(watched))
	}

	var updates int
	f := follower{update: func([]bfd.Peer) { updates++ }, gateways: func() speaker.Gateways { return nil }}
	for range 3 {
		f.look(config, node)
	}
	if updates != 1 {
		t.Errorf("what did not change is told %d times", updates)
	}
}

func TestARouterThatIsWatchedFromTwoAddressesIsUpIfBothAre(t *testing.T) {
	peer := func(state bfd.State, in uint64) bfd.Status {
		s := bfd.Status{State: state, In: in, Downs: 1}
		return s
	}
	got := oneByRouter([]bfd.Status{peer(bfd.Up, 1), peer(bfd.Down, 2)})
	if len(got) != 1 || got[0].State != bfd.Down || got[0].In != 3 || got[0].Downs != 2 {
		t.Errorf("together they are %+v", got)
	}
}
