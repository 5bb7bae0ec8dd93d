package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/cluster"
)

// A shown page is a browser without a screen.
type shown struct {
	client http.Client
	origin string
}

// page opens kubectl metallb ui.
func page(t *testing.T, flags ...string) shown {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	in, out := io.Pipe()
	p := newPlugin(genericiooptions.IOStreams{In: strings.NewReader(""), Out: out, ErrOut: io.Discard})
	p.now, p.version = func() time.Time { return storyTime }, "v0.1.0"
	ended := make(chan int, 1)
	go func() { ended <- p.run(ctx, append([]string{"ui"}, flags...)) }()
	lines := bufio.NewReader(in)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // what else is printed
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	b := shown{http.Client{Jar: jar}, "http://" + address.Host}
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		end()
		if code := <-ended; code != exitFine {
			t.Errorf("exit %d", code)
		}
		_ = in.Close() // it was only read
	})
	r, err := b.client.Get(address.String())
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 || !strings.Contains(string(text), "<h1>kubectl metallb</h1>") {
		t.Fatal(r.Status, err, string(text))
	}
	_ = r.Body.Close() // it was only read
	return b
}

// ask returns an answer, and the command that prints the same.
func (b shown) ask(t *testing.T, method, path, body string) (command, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.origin+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", b.origin)
	r.Header.Set("Content-Type", "application/yaml")
	response, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }() // it was only read
	var a struct {
		Command string          `json:"command"`
		Answer  json.RawMessage `json:"answer"`
		Error   string          `json:"error"`
	}
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if a.Error != "" {
		return "", a.Error
	}
	return a.Command, string(a.Answer)
}

// In every story, the command beside an answer prints that answer.
func TestThePageSaysWhatTheCommandsSay(t *testing.T) {
	paths, err := filepath.Glob("testdata/stories/*.yaml")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d stories %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			s := readStory(t, path)
			snapshot := s.snapshot()
			dump := filepath.Join(t.TempDir(), "dump")
			if err := cluster.Dump(snapshot, dump, "kubectl-metallb v0.1.0"); err != nil {
				t.Fatal(err)
			}
			b := page(t, "--dump="+dump)
			asked := 0
			compare := func(method, path, body string) {
				t.Helper()
				asked++
				command, answer := b.ask(t, method, path, body)
				line, ok := strings.CutPrefix(command, "kubectl metallb ")
				if !ok || !strings.Contains(command, "--dump="+dump) {
					t.Errorf("%s: %s %s", path, command, answer)
					return
				}
				stdout, _, _ := typed(t, line+" -o json", body)
				var want bytes.Buffer
				if err := json.Compact(&want, []byte(stdout)); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				// The page goes through lists, as other programs do.
				if method == "POST" && strings.Contains(answer, ":null") {
					t.Errorf("%s has no list where one belongs: %s", command, answer)
				}
				if answer != strings.TrimSpace(want.String()) {
					t.Errorf("%s:\n%s\n%s:\n%s", path, answer, command, want.String())
				}
			}
			compare("GET", "/api/status.json", "")
			compare("GET", "/api/nodes.json", "")
			compare("GET", "/api/pools.json", "")
			for _, svc := range snapshot.Services {
				compare("GET", "/api/why.json?q="+url.QueryEscape(svc.Namespace+"/"+svc.Name), "")
			}
			for _, text := range s.Files {
				compare("POST", "/api/plan.json", text)
			}
			compare("POST", "/api/plan.json", "peers: 7\n")
			var pools struct{ Pools []struct{ Name string } }
			_, answer := b.ask(t, "GET", "/api/pools.json", "")
			if err := json.Unmarshal([]byte(answer), &pools); err != nil {
				t.Fatal(err)
			}
			for _, pool := range pools.Pools {
				compare("GET", "/api/pool.json?name="+url.QueryEscape(pool.Name), "")
			}
			if asked < 4 {
				t.Error("this test looks at too little")
			}
		})
	}
}

// A token in the command line does not come into the page.
func TestThePageShowsNoCredentials(t *testing.T) {
	dump := filepath.Join(t.TempDir(), "dump")
	if err := cluster.Dump(readStory(t, "testdata/stories/01-announced.yaml").snapshot(), dump, "test"); err != nil {
		t.Fatal(err)
	}
	b := page(t, "--dump="+dump, "--token=hunter2", "--context=prod", "--live")
	for path, want := range map[string]string{
		"/api/status.json":            "kubectl metallb status --live --context=prod --dump=" + dump,
		"/api/why.json?q=shop/web":    "kubectl metallb why shop/web --live --context=prod --dump=" + dump,
		"/api/pools.json":             "kubectl metallb pools --context=prod --dump=" + dump,
		"/api/pool.json?name=default": "kubectl metallb pools default --context=prod --dump=" + dump,
	} {
		if command, _ := b.ask(t, "GET", path, ""); command != want {
			t.Errorf("%s: %s, want %s", path, command, want)
		}
	}
}

// Tabs of several clusters look alike.
func TestThePageNamesItsCluster(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: Config\ncurrent-context: prod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"--kubeconfig=" + path:                               "prod",
		"--kubeconfig=" + path + " --context=staging":        "staging",
		"--kubeconfig=" + path + " --dump=/tmp/of-yesterday": "/tmp/of-yesterday",
		"--kubeconfig=" + path + ".none":                     "",
	} {
		p := newPlugin(genericiooptions.NewTestIOStreamsDiscard())
		cmd := p.root()
		if err := cmd.ParseFlags(strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		if got := p.cluster(cmd).Name; got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestThePageIsNotServedOfAClusterThatNobodyNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	stdout, stderr, code := typed(t, "ui --kubeconfig "+path, "")
	if code != exitUnknown || stdout != "" || !strings.HasPrefix(stderr, "kubectl metallb: the kubeconfig ") {
		t.Error(code, stdout, stderr)
	}
}
