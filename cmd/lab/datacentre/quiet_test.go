package datacentre

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

var rewrite = flag.Bool("update", false, "write what exabgp decodes to testdata")

// exabgp decodes what we send by eBGP and by iBGP, and the text of it is kept: -update writes it anew. In an OPEN, exabgp calls
// graceful restart's R bit "forwarding" and its F bit "restart".
func TestAnotherDecoderReadsWhatWeMean(t *testing.T) {
	t.Parallel()
	s := build(t)
	ctx := t.Context()
	const ours = 4200000000
	kinds := []struct {
		name string
		asn  uint32
		addr netip.Addr
	}{
		{"ebgp", 100, netip.MustParseAddr("10.0.0.3")},
		{"ibgp", ours, netip.MustParseAddr("10.0.0.4")},
	}
	decoders := map[string]*network.ExaBGP{}
	text := "peers:\n"
	for _, k := range kinds {
		host := made(s.lan.Host(k.name, k.addr.String()+"/24", sixth(k.addr)+"/64"))(t)
		decoders[k.name] = made(host.ExaBGP(ctx, network.ExaBGPNeighbor{Local: k.addr, Remote: node4, LocalASN: k.asn, RemoteASN: ours}))(t)
		// Restart-time is short, so that the host has been up for longer, which is part of the OPEN.
		text += fmt.Sprintf("- {peer-address: %s, peer-asn: %d, my-asn: %d, hold-time: 30s, connect-time: 1s, graceful-restart: {restart-time: 20s}}\n",
			k.addr, k.asn, ours)
	}
	must(t, s.Admit(ctx, text+`
communities: {customer: "65000:1"}
address-pools:
- name: plain
  cidr: [192.168.10.0/24, "2001:db8:10::/64"]
- name: decorated
  cidr: [192.168.11.0/24]
  advertisements:
  - {communities: [customer, no-export, "large:4200000000:7:8"], as-path-prepend: 2}
  - {aggregation-length: 24, localpref: 200}
`))
	must(t, s.Expose(ctx,
		Service{Name: "web", Node: s.node, Addrs: []netip.Addr{netip.MustParseAddr("192.168.10.1"), netip.MustParseAddr("192.168.10.2"), netip.MustParseAddr("2001:db8:10::1")}},
		Service{Name: "api", Node: s.node, Addrs: []netip.Addr{netip.MustParseAddr("192.168.11.1")}}))
	s.speak(t)
	// until waits for the message that says this.
	until := func(name, said string) (messages []string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s at exabgp %s", said, name), func(context.Context) (err error) {
			messages, err = decoders[name].Messages()
			if text := strings.Join(messages, "\n"); err == nil && !strings.Contains(text, said) {
				err = fmt.Errorf("there are only\n%s", text)
			}
			return err
		})
		return messages
	}
	for _, k := range kinds {
		until(k.name, `"eor":{"afi":"ipv6"`)
	}
	must(t, s.API.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	for _, k := range kinds {
		got := strings.Join(until(k.name, `"withdraw":{"ipv6`), "\n") + "\n"
		file := "testdata/exabgp-" + k.name + ".want"
		if *rewrite {
			must(t, os.WriteFile(file, []byte(got), 0o644))
		}
		if want := string(made(os.ReadFile(file))(t)); got != want {
			t.Errorf("exabgp reads\n%s\nand %s is\n%s", got, file, want)
		}
	}
}

// What means nothing to routers is not told to them, nor to anybody else.
func TestAThousandChangesThatChangeNothingAreNotHeard(t *testing.T) {
	t.Parallel()
	s := build(t)
	ctx := t.Context()
	frr, bird := s.frr(t, "frr", frrAddr, 100), s.bird(t, "bird", birdAddr, 200)
	routers := []network.Router{frr, bird}
	want := s.exposeMany(t, 1000)
	must(t, s.Admit(ctx, twoPeers(patience)))
	speaker := s.speak(t)
	sessions := map[network.Router]network.Session{}
	for _, r := range routers {
		sends(t, r, want)
		sessions[r] = upAnew(t, r, network.Session{})
	}
	log := speaker.Output()
	recorders := record(t, routers...)

	services := made(s.API.CoreV1().Services("default").List(ctx, metav1.ListOptions{LabelSelector: "component!=apiserver"}))(t)
	slices := made(s.API.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{}))(t)
	const changes = 1000
	var workers sync.WaitGroup
	problems := make(chan error, changes)
	for worker := range 4 {
		workers.Go(func() {
			for i := worker; i < changes; i += 4 {
				note := fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/note":"%d"}}}`, i)
				var err error
				switch svc, slice := services.Items[i%len(services.Items)], slices.Items[i%len(slices.Items)]; i % 4 {
				case 0: // a note on a Service
					_, err = s.API.CoreV1().Services("default").Patch(ctx, svc.Name, types.StrategicMergePatchType, note, metav1.PatchOptions{})
				case 1: // a label on a Service
					_, err = s.API.CoreV1().Services("default").Patch(ctx, svc.Name, types.StrategicMergePatchType,
						fmt.Appendf(nil, `{"metadata":{"labels":{"tier":"t%d"}}}`, i), metav1.PatchOptions{})
				case 2: // a note on a slice
					_, err = s.API.DiscoveryV1().EndpointSlices("default").Patch(ctx, slice.Name, types.StrategicMergePatchType, note, metav1.PatchOptions{})
				default: // another endpoint, which is not ready, on another node
					pod := map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "10.244.1.%d", discoveryv1.AddressTypeIPv6: "fd00:244::1:%d"}[slice.AddressType]
					_, err = s.API.DiscoveryV1().EndpointSlices("default").Patch(ctx, slice.Name, types.JSONPatchType, fmt.Appendf(nil,
						`[{"op":"add","path":"/endpoints/1","value":{"addresses":["`+pod+`"],"nodeName":"other","conditions":{"ready":false}}}]`,
						i/4%250+1), metav1.PatchOptions{})
				}
				problems <- err
			}
		})
	}
	workers.Wait()
	close(problems)
	for err := range problems {
		must(t, err)
	}

	// Once routers hear of this one, the speaker has seen all.
	must(t, s.Expose(ctx, Service{Name: "last", Addrs: []netip.Addr{netip.MustParseAddr("10.100.200.1")}, Node: s.node}))
	last := netip.MustParsePrefix("10.100.200.1/32")
	want[last] = node4
	for _, r := range routers {
		sends(t, r, want)
		for _, e := range events(t, recorders[r], 0) {
			if e.Prefix != last {
				t.Errorf("%s: %s", r, e)
			}
		}
		now, before := session(t, r), sessions[r]
		if now.History != before.History {
			t.Errorf("the session with %s was %q and is %q", r, before.History, now.History)
		}
		t.Logf("%s: %d UPDATEs, %d changes of prefixes", r, now.Updates-before.Updates, now.Changes-before.Changes)
		if updates, changes := now.Updates-before.Updates, now.Changes-before.Changes; updates+changes != 1 {
			t.Errorf("%s got %d UPDATEs with %d prefixes for one", r, updates, changes)
		}
	}
	if now := speaker.Output(); now != log {
		t.Errorf("the speaker wrote\n%s", strings.TrimPrefix(now, log))
	}
	told := made(s.API.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{}))(t)
	for _, e := range told.Items {
		// The API server may have something to say about what is its own: Service default/kubernetes, the ServiceCIDR, and cluster IPs,
		// which it looks through when it starts.
		if e.InvolvedObject.Name == "kubernetes" || e.InvolvedObject.Kind == "ServiceCIDR" || strings.HasPrefix(e.Reason, "ClusterIP") {
			continue
		}
		t.Errorf("event %s about %s: %s", e.Reason, e.InvolvedObject.Name, e.Message)
	}
}
