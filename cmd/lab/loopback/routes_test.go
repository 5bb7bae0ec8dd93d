package loopback

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeconfigWith writes a kubeconfig file with a token and nothing else.
func kubeconfigWith(t *testing.T, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: https://127.0.0.1}}]
users: [{name: x, user: {token: %q}}]
`, token), 0o600))
	return path
}

// A told is the answer to GET /routes, as the reference describes it: whoever changes the format sees this fail.
type told struct {
	Version  int
	Node     string
	Hash     string
	Problems []string
	Sessions []toldSession
	Withheld []withheld
}

type toldSession struct {
	Peer, Address, State, Reason string
	Port                         uint16
	ASN                          uint32
	Since                        time.Time
	Attempts                     int
	Terms                        *struct {
		Families                             []string
		HoldTime, KeepaliveTime, RestartTime int
		FourOctetAS, ExtendedNextHop         bool
	}
	Routes []struct {
		Prefix, NextHop, Origin       string
		ASPath, AS4Path               []uint32
		LocalPref                     *uint32
		Communities, LargeCommunities []string
		LinkBandwidth                 float32
	}
}

type withheld struct{ Service, Address, Why string }

// reported is what a node's speaker says it has sent.
func (l *Lab) reported(ctx context.Context, node Node, kubeconfig string) (d told, err error) {
	code, text, err := get(ctx, l.SpeakerPorts[node.Name], "/routes", kubeconfig)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("it answers %d %q", code, text)
	}
	if err == nil {
		strict := json.NewDecoder(strings.NewReader(text))
		strict.DisallowUnknownFields()
		err = strict.Decode(&d)
	}
	return d, err
}

// asTheRouterHasIt compares what a node's speaker says with what the router has of that node, attribute by attribute.
func (l *Lab) asTheRouterHasIt(node Node, s toldSession) error {
	const words = "%v via %v path %v pref %v communities %v large %v bandwidth %v"
	pref := func(n *uint32) string {
		if n == nil {
			return "none"
		}
		return fmt.Sprint(*n)
	}
	var has, says []string
	for _, p := range l.Router.Table() {
		if p.From == node.Addr {
			has = append(has, fmt.Sprintf(words, p.Prefix, p.NextHop, p.ASPath, pref(p.LocalPref), p.Communities, p.LargeCommunities, p.LinkBandwidth))
		}
	}
	for _, r := range s.Routes {
		says = append(says, fmt.Sprintf(words, r.Prefix, r.NextHop, r.ASPath, pref(r.LocalPref), r.Communities, r.LargeCommunities, r.LinkBandwidth))
	}
	slices.Sort(has)
	slices.Sort(says)
	if !slices.Equal(has, says) {
		return fmt.Errorf("the router has of %s\n\t%s\nand its speaker says\n\t%s", node.Name, strings.Join(has, "\n\t"), strings.Join(says, "\n\t"))
	}
	return nil
}

// What a speaker says that it has sent is what the router has; and only whom the API server lets get /routes hears it.
func TestASpeakerTellsWhatItHasSent(t *testing.T) {
	lab := start(t, Options{Nodes: 2})
	must(t, lab.StartAll(t.Context()))
	configure(t, lab, lab.Peers()+`
communities: {vpn-only: '1234:1'}
address-pools:
- name: plain
  cidr: [192.168.10.0/24]
- name: summed-up
  cidr: [192.168.20.0/24]
  advertisements:
  - {aggregation-length: 24, communities: [vpn-only, no-export, 'large:64500:2:1'], as-path-prepend: 2}
  - {link-bandwidth: true, localpref: 200}
`)
	must(t, lab.SessionsUp(t.Context()))
	for i, node := range lab.Nodes {
		must(t, lab.RunPod(t.Context(), "default", fmt.Sprint("web-", i), map[string]string{"app": "web"}, node))
	}
	local := func(svc *corev1.Service) {
		svc.Spec.LoadBalancerIP, svc.Spec.ExternalTrafficPolicy = "192.168.20.7", corev1.ServiceExternalTrafficPolicyLocal
	}
	expose(t, lab, "web", asking("192.168.10.8"))
	expose(t, lab, "shop", local)
	expose(t, lab, "nobody", func(svc *corev1.Service) { svc.Spec.Selector = map[string]string{"app": "none"} })
	hasAddress(t, lab, "nobody", "192.168.10.0")
	for _, prefix := range []string{"192.168.10.8/32", "192.168.20.0/24", "192.168.20.7/32"} {
		must(t, lab.Hops(t.Context(), prefix, lab.Nodes...))
	}

	token, err := lab.Kubectl(t.Context(), "", "create", "token", "metallb-viewer", "--namespace=metallb-system", "--duration=10m")
	must(t, err)
	viewer := kubeconfigWith(t, strings.TrimSpace(token))
	stored, err := lab.API.CoreV1().ConfigMaps("metallb-system").Get(t.Context(), "config-admitted", metav1.GetOptions{})
	must(t, err)
	for _, node := range lab.Nodes {
		must(t, Until(t.Context(), "what "+node.Name+" says to be what the router has", func(ctx context.Context) error {
			d, err := lab.reported(ctx, node, viewer)
			if err != nil {
				return err
			}
			if len(d.Sessions) != 1 || len(d.Sessions[0].Routes) != 3 {
				return fmt.Errorf("it says %+v", d)
			}
			for _, r := range d.Sessions[0].Routes {
				if r.Origin != "IGP" {
					return fmt.Errorf("%s has origin %q", r.Prefix, r.Origin)
				}
			}
			return lab.asTheRouterHasIt(node, d.Sessions[0])
		}))
		d, err := lab.reported(t.Context(), node, viewer)
		must(t, err)
		s := d.Sessions[0]
		if d.Version != 1 || d.Node != node.Name || d.Hash != stored.Data["hash"] || len(d.Problems) != 0 {
			t.Errorf("%s says version %d of node %s, hash %s, problems %q", node.Name, d.Version, d.Node, d.Hash, d.Problems)
		}
		if s.State != "Established" || s.Address != lab.Router.Addr.Addr().String() || s.Port != lab.Router.Addr.Port() || s.ASN != lab.Router.ASN || s.Since.IsZero() ||
			s.Terms == nil || !slices.Equal(s.Terms.Families, []string{"IPv4", "IPv6"}) || s.Terms.HoldTime != 90 || !s.Terms.FourOctetAS {
			t.Errorf("%s has session %+v with terms %+v", node.Name, s, s.Terms)
		}
		want := withheld{Service: "default/nobody", Address: "192.168.10.0", Why: "no endpoint of the Service can serve, on any node"}
		if !slices.Equal(d.Withheld, []withheld{want}) {
			t.Errorf("%s withholds %+v", node.Name, d.Withheld)
		}
	}

	// A speaker asks about five new tokens at once, so the other one answers the last two.
	for i, who := range []struct {
		name, path, kubeconfig string
		code                   int
	}{
		{"nobody", "/routes", "", http.StatusUnauthorized},
		{"somebody whom nobody knows", "/routes", kubeconfigWith(t, "stolen"), http.StatusUnauthorized},
		{"a speaker", "/routes", lab.KubeconfigOf(speakerUser), http.StatusForbidden},
		{"the controller manager", "/routes", lab.KubeconfigOf(controllerUser), http.StatusForbidden},
		{"the administrator", "/routes", lab.Kubeconfig, http.StatusOK},
		{"the viewer, who wants metrics", "/metrics", viewer, http.StatusForbidden},
	} {
		code, text, err := get(t.Context(), lab.SpeakerPorts[lab.Nodes[i/4].Name], who.path, who.kubeconfig)
		must(t, err)
		if code != who.code || code != http.StatusOK && strings.Contains(text, "192.168.") {
			t.Errorf("%s gets %d, want %d: %.200s", who.name, code, who.code, text)
		}
	}
}
