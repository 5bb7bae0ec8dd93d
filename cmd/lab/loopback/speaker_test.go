package loopback

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// answers waits until a node's speaker answers a question of nobody with this code and text.
func (l *Lab) answers(ctx context.Context, node Node, path string, code int, text string) error {
	return Until(ctx, fmt.Sprintf("%s of %s to answer %d %q", path, node.Name, code, text), func(ctx context.Context) error {
		gotCode, gotText, err := get(ctx, l.SpeakerPorts[node.Name], path, "")
		if err == nil && (gotCode != code || !strings.Contains(gotText, text)) {
			err = fmt.Errorf("it answers %d %q", gotCode, gotText)
		}
		return err
	})
}

// figures waits until a node's speaker shows these lines among its metrics.
func (l *Lab) figures(ctx context.Context, node Node, lines ...string) error {
	return Until(ctx, "the figures of "+node.Name, func(ctx context.Context) error {
		code, text, err := get(ctx, l.SpeakerPorts[node.Name], "/metrics", l.Kubeconfig)
		if err != nil {
			return err
		}
		all := strings.Split(text, "\n")
		for _, line := range lines {
			if code != http.StatusOK || !slices.Contains(all, line) {
				ours := slices.DeleteFunc(all, func(line string) bool { return !strings.HasPrefix(line, "metallb_") })
				return fmt.Errorf("%d, and not %q but\n%s", code, line, strings.Join(ours, "\n"))
			}
		}
		return nil
	})
}

func TestASpeakerTellsHowItIsAndWhatItDoes(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	node := lab.Nodes[0]
	speaker, err := lab.StartSpeaker(node, nil)
	must(t, err)
	must(t, lab.answers(t.Context(), node, "/healthz", 200, "ok"))
	must(t, lab.answers(t.Context(), node, "/readyz", 503, "no configuration is loaded"))
	must(t, lab.figures(t.Context(), node, `metallb_k8s_client_config_loaded_bool 0`, `metallb_k8s_client_config_stale_bool 0`))

	configure(t, lab, lab.Peers()+basicPools)
	must(t, lab.answers(t.Context(), node, "/readyz", 200, "ok"))
	must(t, lab.SessionsUp(t.Context()))
	peer := lab.Router.Addr.String()
	must(t, lab.figures(t.Context(), node,
		`metallb_k8s_client_config_loaded_bool 1`,
		`metallb_k8s_client_config_stale_bool 0`,
		`metallb_k8s_client_update_errors_total 0`,
		sessionUp(peer)+" 1",
		`metallb_bgp_announced_prefixes_total{peer="`+peer+`"} 0`,
		`metallb_speaker_update_seconds_count 0`))

	_, text, err := get(t.Context(), lab.SpeakerPorts[node.Name], "/metrics", lab.Kubeconfig)
	must(t, err)
	var updates int // End-of-RIB, once for each IP version
	_, after, _ := strings.Cut(text, "\n"+`metallb_bgp_updates_total{peer="`+peer+`"}`)
	if _, err := fmt.Sscan(after, &updates); err != nil || updates == 0 {
		t.Fatalf("%d UPDATE messages, %v", updates, err)
	}

	// What the router has is what the figures show.
	must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, node))
	expose(t, lab, "web", nil)
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", node))
	expose(t, lab, "shop", nil)
	must(t, lab.Hops(t.Context(), "192.168.10.1/32", node))
	must(t, lab.figures(t.Context(), node,
		sessionUp(peer)+" 1",
		fmt.Sprintf(`metallb_bgp_updates_total{peer="%s"} %d`, peer, updates+2),
		`metallb_bgp_announced_prefixes_total{peer="`+peer+`"} 2`,
		`metallb_speaker_announced{ip="192.168.10.0",node="node-1",service="default/web"} 1`,
		`metallb_speaker_announced{ip="192.168.10.1",node="node-1",service="default/shop"} 1`,
		`metallb_speaker_update_seconds_count 2`))
	must(t, lab.SetReady(t.Context(), "default", "web-1", false))
	must(t, lab.Hops(t.Context(), "192.168.10.0/32"))
	must(t, lab.Hops(t.Context(), "192.168.10.1/32"))
	must(t, lab.figures(t.Context(), node, `metallb_bgp_announced_prefixes_total{peer="`+peer+`"} 0`))
	if _, text, err := get(t.Context(), lab.SpeakerPorts[node.Name], "/metrics", lab.Kubeconfig); err != nil || strings.Contains(text, "\nmetallb_speaker_announced{") {
		t.Errorf("nothing is announced, and the figures are %v\n%s", err, text)
	}

	for who, kubeconfig := range map[string]string{"nobody": "", "a speaker": lab.KubeconfigOf(speakerUser), "the controller manager": lab.KubeconfigOf(controllerUser)} {
		code, text, err := get(t.Context(), lab.SpeakerPorts[node.Name], "/metrics", kubeconfig)
		must(t, err)
		want := http.StatusForbidden
		if kubeconfig == "" {
			want = http.StatusUnauthorized
		}
		if code != want || strings.Contains(text, "metallb_") {
			t.Errorf("%s gets %d and %.200s", who, code, text)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/configz", "/flagz"} {
		if code, text, err := get(t.Context(), lab.SpeakerPorts[node.Name], path, lab.Kubeconfig); err != nil || code != http.StatusNotFound {
			t.Errorf("%s: %d %v %.200s", path, code, err, text)
		}
	}
	must(t, lab.answers(t.Context(), node, "/readyz", 200, "ok"))
	if n := listeners(t, speaker.PID()); n != 1 {
		t.Errorf("it listens on %d ports, want 1", n)
	}
}

// listeners counts the TCP ports on which a process listens.
func listeners(t *testing.T, pid int) (n int) {
	t.Helper()
	own := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil { // else it is closed meanwhile
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	if len(own) == 0 {
		t.Fatalf("process %d has no open files: this looks at nothing", pid)
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		must(t, err)
		for line := range strings.Lines(string(text)) {
			const stateAt, inodeAt, listen = 3, 9, "0A" // proc(5)
			if f := strings.Fields(line); len(f) > inodeAt && f[stateAt] == listen && own[f[inodeAt]] {
				n++
			}
		}
	}
	return n
}

func TestASpeakerMayListenNowhere(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	speaker, err := lab.StartSpeaker(lab.Nodes[0], nil, "--secure-port=0")
	must(t, err)
	configure(t, lab, lab.Peers()+basicPools)
	must(t, lab.SessionsUp(t.Context()))
	if n := listeners(t, speaker.PID()); n != 0 {
		t.Errorf("it listens on %d ports", n)
	}
}

func TestNothingIsAnnouncedBeforeTheGateOpens(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	configure(t, lab, lab.Peers()+basicPools)
	node := lab.Nodes[0]
	must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, node))
	expose(t, lab, "web", nil)
	hasAddress(t, lab, "web", "192.168.10.0")

	var asked atomic.Int32
	var open atomic.Bool
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if !open.Load() {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	}))
	defer proxy.Close()
	speaker, err := lab.StartSpeaker(node, nil, "--wait-for-url="+proxy.URL+"/healthz")
	must(t, err)
	must(t, lab.answers(t.Context(), node, "/readyz", 503, "--wait-for-url does not answer with success"))
	must(t, lab.answers(t.Context(), node, "/healthz", 200, "ok"))
	// It has asked a second time: whatever it does not wait with, it has done.
	must(t, Until(t.Context(), "the gate to be asked again", func(context.Context) error {
		if n := asked.Load(); n < 3 {
			return fmt.Errorf("it was asked %d times", n)
		}
		return nil
	}))
	if up := lab.Router.Sessions()[node.Addr]; up {
		t.Error("there is a session before the gate opens")
	}
	open.Store(true)
	must(t, lab.Hops(t.Context(), "192.168.10.0/32", node))
	must(t, lab.answers(t.Context(), node, "/readyz", 200, "ok"))

	// It is asked at the start only.
	open.Store(false)
	before := asked.Load()
	expose(t, lab, "shop", nil)
	must(t, lab.Hops(t.Context(), "192.168.10.1/32", node))
	if now := asked.Load(); now != before {
		t.Errorf("it was asked %d times more after it had opened", now-before)
	}
	for _, line := range []string{`"Waiting before the first announcement"`, `"Waited long enough"`} {
		if n := strings.Count(speaker.Output(), line); n != 1 {
			t.Errorf("%s stands %d times in the log", line, n)
		}
	}
}

func TestAPeerWithAPasswordKeyWaitsForTheSecretAndNobodyElseDoes(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	node := lab.Nodes[0]
	speaker, err := lab.StartSpeaker(node, nil)
	must(t, err)
	configure(t, lab, lab.Peers()+basicPools)
	must(t, lab.SessionsUp(t.Context()))
	// asked returns what the speaker wanted of Secrets. A watch is on record when it ends, so the speaker ends first.
	asked := func() (all []string) {
		t.Helper()
		must(t, speaker.Stop(patience))
		requests, err := lab.Requests(t.Context(), 0, func(r kubernetes.Request) bool { return r.User == speakerUser && r.Resource == "secrets" })
		must(t, err)
		for _, r := range requests {
			all = append(all, fmt.Sprintf("%s %s/%s %d", r.Verb, r.Namespace, r.Name, r.Code))
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	if all := asked(); len(all) != 0 {
		t.Errorf("nobody needs a Secret, and the speaker asked for %v", all)
	}
	speaker, err = lab.StartSpeaker(node, nil)
	must(t, err)

	// Nobody listens there: GoBGP's server, the router here, cannot sign.
	port, err := kubernetes.FreePort()
	must(t, err)
	signed := fmt.Sprintf("127.0.0.1:%d", port)
	more := fmt.Sprintf("- {name: signed, peer-address: 127.0.0.1, peer-port: %d, peer-asn: %d, my-asn: %d, source-address: node-ip, connect-time: 1s, password-key: tor}\n",
		port, RouterASN, ClusterASN)
	configure(t, lab, lab.Peers()+more+basicPools)
	says := func(line string) {
		t.Helper()
		must(t, Until(t.Context(), "the log to say "+line, func(context.Context) error {
			if n := strings.Count(speaker.Output(), line); n != 1 {
				return fmt.Errorf("it does so %d times", n)
			}
			return nil
		}))
	}
	says(`"Cannot speak yet" why="peer signed: Secret metallb-system/metallb-bgp-auth does not exist: create it, with key \"tor\""`)
	// A peer that the configuration gives this node has its figures, also before there can be a session.
	must(t, lab.figures(t.Context(), node, sessionUp(lab.Router.Addr.String())+" 1",
		sessionUp(signed)+" 0", `metallb_bgp_failed_attempts_total{peer="`+signed+`"} 0`))

	_, err = lab.Kubectl(t.Context(), "", "-n", "metallb-system", "create", "secret", "generic", "metallb-bgp-auth", "--from-literal=tor=hunter2")
	must(t, err)
	says(`"Session does not come up" err="` + signed)
	must(t, lab.figures(t.Context(), node, sessionUp(signed)+" 0", sessionUp(lab.Router.Addr.String())+" 1"))

	_, err = lab.Kubectl(t.Context(), "", "-n", "metallb-system", "delete", "secret", "metallb-bgp-auth")
	must(t, err)
	says(`"Kept the previous password" why="Secret metallb-system/metallb-bgp-auth does not exist: create it, with key \"tor\""`)
	must(t, lab.figures(t.Context(), node, sessionUp(signed)+" 0"))
	if strings.Contains(speaker.Output(), "hunter2") || strings.Contains(speaker.Output(), "Session is down") {
		t.Error("the log shows the password, or a session that ended")
	}
	if all := asked(); !slices.Equal(all, []string{"watch metallb-system/metallb-bgp-auth 200"}) {
		t.Errorf("the speaker asked for %q", all)
	}
}

// sessionUp is the series of a router, which is an address and a port.
func sessionUp(peer string) string {
	host, _, _ := strings.Cut(peer, ":")
	return fmt.Sprintf("metallb_bgp_session_up{address=%q,peer=%q}", host, peer)
}
