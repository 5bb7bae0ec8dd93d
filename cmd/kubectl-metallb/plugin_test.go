package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/cluster"
)

func TestHelpBeginsWithHowTheCommandIsCalled(t *testing.T) {
	var look func(path []string, c *cobra.Command)
	look = func(path []string, c *cobra.Command) {
		stdout, _, code := typed(t, strings.Join(append(slices.Clone(path), "--help"), " "), "")
		if want := strings.Join(append([]string{"kubectl metallb"}, path...), " "); code != 0 || !strings.HasPrefix(stdout, want+" ") {
			t.Errorf("%s: exit %d: %s", want, code, stdout)
		}
		for _, sub := range c.Commands() {
			look(append(slices.Clone(path), sub.Name()), sub)
		}
	}
	look(nil, (&plugin{flags: nil}).commands())
}

func TestAKubeconfigThatIsBrokenIsToldOfInASentence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	for text, want := range map[string]string{
		"not: [yaml": "kubectl metallb: the kubeconfig cannot be used: ",
		"apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: gone, user: u}}]\n":                                                              "kubectl metallb: the kubeconfig names no cluster: ",
		"apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n": "kubectl metallb: the API server does not answer: ",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := typed(t, "status --kubeconfig "+path, "")
		if code != 3 || stdout != "" || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d: %s%s", text, code, stdout, stderr)
		}
	}
}

func TestValidateReadsTheStandardInput(t *testing.T) {
	stdout, _, code := typed(t, "validate -", "peers: 7\n")
	if code != 1 || !strings.HasPrefix(stdout, "-:1:8: peers: ") {
		t.Error(code, stdout)
	}
	if stdout, stderr, code := typed(t, "validate -", "peers: []\n"); code != 0 || stdout+stderr != "" {
		t.Error(code, stdout, stderr)
	}
}

func TestNamesAreCompleted(t *testing.T) {
	dump := filepath.Join(t.TempDir(), "dump")
	if err := cluster.Dump(readStory(t, "testdata/stories/01-announced.yaml").snapshot(), dump, "test"); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"why sh":                "shop/web",
		"pools d":               "default",
		"drain n":               "n1 n2 n3",
		"routes --peer t":       "tor1 tor2",
		"routes --service s":    "shop/web",
		"why shop/web --node n": "n1 n2 n3",
		"wait announced s":      "shop/web",
		"-n shop why w":         "shop/web web", // the shell leaves those that begin so
	} {
		stdout, _, _ := typed(t, "__complete --dump "+dump+" "+line, "")
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		if got := strings.Join(lines[:len(lines)-1], " "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
