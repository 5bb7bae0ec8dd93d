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
		"apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n" +
			"users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-login, interactiveMode: Never}}}]\n": "kubectl metallb: the kubeconfig gives no credentials: exec: executable no-such-login not found\n",
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

func TestACommandThatIsWrittenWronglyIsToldHowToWriteIt(t *testing.T) {
	dump := filepath.Join(t.TempDir(), "dump")
	if err := cluster.Dump(readStory(t, "testdata/stories/01-announced.yaml").snapshot(), dump, "test"); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"why":                                             "write kubectl metallb why [NAMESPACE/]SERVICE [--node NODE]",
		"status all":                                      "write kubectl metallb status [-w]",
		"wait announced":                                  "write kubectl metallb wait announced [NAMESPACE/]SERVICE",
		"status --live --dump " + dump:                    "--dump shows what speakers said when it was written, and --live asks them: leave one of the two",
		"status --dump " + dump + "/x":                    dump + "/x does not exist",
		"why --dump /dev/null shop/web":                   "/dev/null is no dump: open /dev/null/dump.json: not a directory",
		"drain n1 --dump " + dump:                         "this command only tells what would happen: add --dry-run; to drain the node, run kubectl annotate node n1 metallb.universe.tf/drain=true",
		"routes 1.2.3 --dump " + dump:                     `"1.2.3" is neither a prefix nor an address`,
		"why web --dump " + dump:                          "there is no Service of type LoadBalancer named default/web: did you mean shop/web?",
		"status -o github --dump " + dump:                 "-o github: write json, yaml or wide",
		"status --config-namespace team-b --dump " + dump: dump + " is of the installation in namespace metallb-system: leave out --config-namespace",
		"pools defautl --dump " + dump:                    "there is no pool named defautl: did you mean default?",
		"routes --node m1 --dump " + dump:                 "there is no Node m1: did you mean n1?",
	} {
		if stdout, stderr, code := typed(t, line, ""); code != 3 || stdout != "" || stderr != "kubectl metallb: "+want+"\n" {
			t.Errorf("%s: exit %d: %s%s", line, code, stdout, stderr)
		}
	}
}

func TestEveryCommandIsOfAllNamespaces(t *testing.T) {
	dump := filepath.Join(t.TempDir(), "dump")
	if err := cluster.Dump(readStory(t, "testdata/stories/01-announced.yaml").snapshot(), dump, "test"); err != nil {
		t.Fatal(err)
	}
	without, _, _ := typed(t, "routes --dump "+dump, "")
	if with, stderr, code := typed(t, "routes -A --dump "+dump, ""); code != 0 || with != without || with == "" {
		t.Errorf("exit %d: %s%s", code, with, stderr)
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
