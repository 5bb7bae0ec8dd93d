//go:build browser

package browser

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const inForce = `peers:
- {name: leaf-a, peer-address: 10.0.0.254, peer-asn: 64500, my-asn: 64512}
- {name: leaf-b, peer-address: 10.0.0.253, peer-asn: 64500, my-asn: 64512}
address-pools:
- {name: default, cidr: [172.16.0.0/16]}
`

// written is a dump of a cluster with 100 nodes and as many Services as are wanted, each with three pods. Every hundredth waits.
func written(t testing.TB, services int) (folder string) {
	t.Helper()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	var all []corev1.Service
	var slicesOf []discoveryv1.EndpointSlice
	var nodes []corev1.Node
	var pods []corev1.Pod
	yes, mode, single := true, corev1.LoadBalancerIPModeVIP, corev1.IPFamilyPolicySingleStack
	for i := range 100 {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i+1)}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.1.%d", i+1)}}
		nodes = append(nodes, node)
		pods = append(pods, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "metallb-speaker-" + node.Name, Labels: map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}},
			Spec:       corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{{Name: "speaker", Image: "ghcr.io/metallb/cloud-provider-metallb/metallb-speaker:v0.1.0"}}},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		})
	}
	addr := netip.MustParseAddr("172.16.0.0")
	for i := range services {
		svc := corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("web-%05d", i), UID: types.UID(fmt.Sprint(i)), CreationTimestamp: metav1.NewTime(at.Add(-time.Hour))},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": fmt.Sprint(i)}, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
				IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster},
		}
		if i%100 == 99 {
			svc.Spec.LoadBalancerIP = "10.1.2.3"
		} else {
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr.String(), IPMode: &mode}}
			addr = addr.Next()
		}
		slice := discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}, AddressType: discoveryv1.AddressTypeIPv4}
		for j := range 3 {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", j, i%250)}, NodeName: &nodes[(i+j)%100].Name, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}})
		}
		all, slicesOf = append(all, svc), append(slicesOf, slice)
	}
	configMap := func(name string, data map[string]string) corev1.ConfigMap {
		return corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: name}, Data: data}
	}
	const hash = "0000000000000001"
	counts := map[string]int{"config.json": 1, "config-admitted.json": 1, "services.json": len(all), "endpointslices.json": len(slicesOf), "nodes.json": len(nodes), "pods.json": len(pods)}
	folder = filepath.Join(t.TempDir(), "dump")
	must(t, os.Mkdir(folder, 0o700))
	for name, value := range map[string]any{
		"config.json":          configMap("config", map[string]string{"config": inForce}),
		"config-admitted.json": configMap("config-admitted", map[string]string{"config": inForce, "hash": hash, "admitted-at": at.Add(-time.Hour).Format(time.RFC3339)}),
		"lease.json":           nil, "services.json": all, "endpointslices.json": slicesOf, "nodes.json": nodes, "pods.json": pods, "told.json": nil,
		"dump.json": map[string]any{"format": 1, "program": "a test", "taken": at, "namespace": "metallb-system", "configName": "config", "hash": hash, "objects": counts},
	} {
		text, err := json.Marshal(value)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(folder, name), text, 0o600))
	}
	return folder
}

func TestTenThousandServicesScrollQuickly(t *testing.T) {
	dump := written(t, 10_000)
	w := newWitness(t)
	address, _ := serve(t, "--dump", dump)
	b := start(t, w).strict()
	b.size(1200, 820)
	began := time.Now()
	opened(t, b, address)
	b.shows("figures", "10000\nServices")
	t.Logf("drawn after %v", time.Since(began).Round(10*time.Millisecond))

	for _, list := range []struct {
		what, open, label, last string
		rows                    int
	}{
		{"a search", `document.getElementById("q").value = "shop/", document.getElementById("search").requestSubmit(), true`, "Services for shop/: 10000", "shop/web-09999", 10_000},
		{"those that wait", `true`, "Services that wait: 100", "shop/web-09999", 100},
		{"a pool's holders", `document.querySelector('[data-key="default"]').click(), true`, "Holders of default: 9900", "shop/web-09998", 9_900},
	} {
		t.Run(list.what, func(t *testing.T) {
			b := browser{t, b.ctx, b.requests}
			eval[bool](b, list.open)
			find := fmt.Sprintf(`document.querySelector('.list[aria-label^=%q]')`, list.label)
			b.until(list.label, find)
			// While it is scrolled through, a frame takes as long as 60 Hz let it, and only those rows exist that are seen.
			frames := eval[struct {
				Draws []float64
				Most  int
			}](b, `(async () => {
				const list = `+find+`, draws = [];
				let most = 0;
				list.scrollIntoView();
				for (let i = 1; i <= 200; i++) {
					await new Promise(requestAnimationFrame);
					const began = performance.now();
					list.scrollTop = i * (list.scrollHeight - list.clientHeight) / 200;
					list.dispatchEvent(new Event("scroll"));
					list.getBoundingClientRect();
					draws.push(performance.now() - began);
					most = Math.max(most, list.querySelectorAll("[role=option]").length);
				}
				return { draws, most };
			})()`)
			slices.Sort(frames.Draws)
			quick, median, worst := frames.Draws[50], frames.Draws[100], frames.Draws[199]
			t.Logf("%d rows: %d exist; a step takes %.2f ms, the slowest %.2f ms", list.rows, frames.Most, median, worst)
			if frames.Most > 40 || quick > 16 { // a quarter of the steps: other work on the machine only adds
				t.Errorf("%d rows exist, and a step takes %.1f ms", frames.Most, quick)
			}
			eval[bool](b, find+`.focus(), true`)
			b.press(kb.Home, kb.PageDown, kb.End)
			chosen := fmt.Sprintf(`document.getElementById(%s.getAttribute("aria-activedescendant")).innerText`, find)
			if got := eval[string](b, chosen); len(got) < len(list.last) || got[:len(list.last)] != list.last {
				t.Errorf("End leads to %q", got)
			}
			b.press(kb.Enter)
			b.shows("why", list.last)
			b.do(chromedp.KeyEvent(kb.Escape))
		})
	}

	t.Run("a refresh leaves everything where it is", func(t *testing.T) {
		b := browser{t, b.ctx, b.requests}
		for _, at := range []struct{ part, scrolls, focus string }{
			{"grid", ".tall", `[data-key="node-50 leaf-a"]`},
			{"grid", ".tall", ".command button"},
			{"problems", "", ".command button"},
			{"waiting", ".list", ".list"},
		} {
			stays := fmt.Sprintf(`(() => {
				const box = document.getElementById(%q), scrolls = box.querySelector(%q);
				return [scrolls && Math.round(scrolls.scrollTop), document.activeElement === box.querySelector(%q), box.querySelector("[aria-selected=true]")?.textContent].join(" ");
			})()`, at.part, cmp.Or(at.scrolls, "none"), at.focus)
			eval[bool](b, fmt.Sprintf(`(() => {
				const box = document.getElementById(%q), scrolls = box.querySelector(%q);
				box.querySelector(%q).focus();
				if (scrolls) scrolls.scrollTop = 300;
				return true;
			})()`, at.part, cmp.Or(at.scrolls, "none"), at.focus))
			if at.focus == ".list" {
				b.press(kb.PageDown)
			}
			before := eval[string](b, stays)
			eval[bool](b, fmt.Sprintf(`document.getElementById(%q).dataset.shown = "other", document.getElementById("refresh").click(), true`, at.part))
			b.until("the part to be drawn again", fmt.Sprintf(`document.getElementById(%q).dataset.shown !== "other"`, at.part))
			if after := eval[string](b, stays); after != before || !strings.Contains(before, "true") {
				t.Errorf("%+v: %q, and then %q", at, before, after)
			}
		}
	})

	t.Run("a plan that moves them all", func(t *testing.T) {
		b := browser{t, b.ctx, b.requests}
		began := time.Now()
		eval[bool](b, fmt.Sprintf(`document.getElementById("text").value = %q, document.getElementById("plan").requestSubmit(), true`, "peers: []\naddress-pools: [{name: default, cidr: [172.20.0.0/16]}]\n"))
		b.shows("verdict", "Services: 9")
		t.Logf("planned after %v", time.Since(began).Round(10*time.Millisecond))
		if n := eval[int](b, `document.querySelectorAll("*").length`); n > 6000 {
			t.Errorf("the page has %d elements", n)
		}
	})
}

// Nothing that could not be read is called good, or bad.
func TestWhatCouldNotBeReadIsNotJudged(t *testing.T) {
	rest := []string{"configmaps", "services", "endpointslices", "nodes", "leases"}
	for _, test := range []struct {
		what   string
		unread []string
		signs  string // that may not be there
	}{
		{"all", append(rest, "pods"), "✓✗!"},
		{"what runs, and who leads", []string{"pods", "leases"}, "✗"},
	} {
		t.Run(test.what, func(t *testing.T) {
			dump := written(t, 3)
			var contents map[string]any
			text, err := os.ReadFile(filepath.Join(dump, "dump.json"))
			must(t, err)
			must(t, json.Unmarshal(text, &contents))
			contents["unread"] = []map[string]string{}
			for _, kind := range test.unread {
				contents["unread"] = append(contents["unread"].([]map[string]string), map[string]string{"kind": kind, "verb": "list", "why": "you are not allowed to"})
				files := map[string][]string{"configmaps": {"config.json", "config-admitted.json"}, "leases": nil}
				if _, ok := files[kind]; !ok {
					files[kind] = []string{kind + ".json"}
				}
				for _, name := range files[kind] {
					must(t, os.WriteFile(filepath.Join(dump, name), []byte("null"), 0o600))
					delete(contents["objects"].(map[string]any), name)
				}
			}
			text, err = json.Marshal(contents)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dump, "dump.json"), text, 0o600))
			address, _ := serve(t, "--dump", dump)
			b := start(t, newWitness(t)).strict()
			opened(t, b, address)
			b.shows("trouble", "cannot list pods in the whole cluster: you are not allowed to")
			for _, id := range []string{"figures", "problems", "grid", "pools"} {
				if text := eval[string](b, fmt.Sprintf("document.getElementById(%q).innerText", id)); strings.ContainsAny(text, test.signs) {
					t.Errorf("#%s shows %q", id, text)
				}
			}
			if text := eval[string](b, `document.getElementById("force").innerText`); len(test.unread) > 2 && text != "? configuration not read" {
				t.Errorf("the top shows %q", text)
			}
		})
	}
}
