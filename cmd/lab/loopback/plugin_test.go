package loopback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// plugin runs kubectl metallb, and returns what it prints and how it ends.
func (l *Lab) plugin(ctx context.Context, args ...string) (text string, code int, err error) {
	binary := filepath.Join(cmp.Or(os.Getenv("LAB_BIN"), filepath.Join(l.root, "bin")), "kubectl-metallb")
	cmd := exec.CommandContext(ctx, binary, append([]string{"--kubeconfig", l.Kubeconfig}, args...)...)
	out, err := cmd.Output()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return string(out) + string(ended.Stderr), ended.ExitCode(), nil
	}
	return string(out), 0, err
}

// What the plugin computes from the API server is what routers hear, and what it says of an edit is what the edit does.
func TestThePluginSaysWhatRoutersHear(t *testing.T) {
	lab := start(t, Options{})
	must(t, lab.StartAll(t.Context()))
	says := func(code int, containing string, args ...string) string {
		t.Helper()
		text, got, err := lab.plugin(t.Context(), args...)
		must(t, err)
		if got != code || !strings.Contains(text, containing) {
			t.Errorf("kubectl metallb %s: exit %d, want %d, and %q in\n%s", strings.Join(args, " "), got, code, containing, text)
		}
		return text
	}
	text := lab.Peers() + "address-pools: [{name: default, cidr: [192.168.10.0/30]}]\n"
	must(t, lab.write(t.Context(), text))
	says(0, "is in force", "wait", "admitted")
	must(t, lab.SessionsUp(t.Context()))
	for _, node := range lab.Nodes[:2] {
		must(t, lab.RunPod(t.Context(), "default", "web-"+node.Name, map[string]string{"app": "web"}, node))
	}
	expose(t, lab, "web", nil)
	expose(t, lab, "near", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	expose(t, lab, "late", asking("10.1.2.3"))
	hasAddress(t, lab, "web", "192.168.10.0")
	hasAddress(t, lab, "near", "192.168.10.1")
	says(0, "intended: Service default/near is announced", "wait", "announced", "near")
	says(1, "no pool owns address 10.1.2.3", "why", "late")
	says(3, "did you mean default/web?", "why", "wbe")

	heard := func(what string) {
		t.Helper()
		must(t, Until(t.Context(), what, func(ctx context.Context) error {
			out, code, err := lab.plugin(ctx, "routes", "-o", "json")
			if err != nil || code != 0 {
				return fmt.Errorf("exit %d: %s %w", code, out, err)
			}
			var answer struct {
				Routes []struct{ Prefix, NextHop string }
			}
			if err := json.Unmarshal([]byte(out), &answer); err != nil {
				return err
			}
			var intended, table []string
			for _, r := range answer.Routes {
				intended = append(intended, r.Prefix+" "+r.NextHop)
			}
			for _, p := range lab.Router.Table() {
				table = append(table, p.Prefix.String()+" "+p.NextHop.String())
			}
			slices.Sort(intended)
			slices.Sort(table)
			if !slices.Equal(intended, table) || len(table) == 0 {
				return fmt.Errorf("intended %q, and the router heard %q", intended, table)
			}
			return nil
		}))
	}
	heard("the router to hear what the plugin says")

	next := filepath.Join(t.TempDir(), "next.yaml")
	moved := lab.Peers() + "address-pools: [{name: default, cidr: [192.168.10.1/32, 192.168.20.0/30]}]\n"
	must(t, os.WriteFile(next, []byte(moved), 0o600))
	says(1, "default/web  moves     192.168.10.0  192.168.20.0", "plan", next)
	must(t, lab.write(t.Context(), moved))
	says(1, "is refused:\nno pool would own the address of Service default/web, 192.168.10.0", "wait", "admitted")

	wider := lab.Peers() + "address-pools: [{name: default, cidr: [192.168.10.0/30, 10.1.2.3/32]}]\n"
	must(t, os.WriteFile(next, []byte(wider), 0o600))
	says(2, "default/late  is served  -     10.1.2.3", "plan", next)
	must(t, lab.write(t.Context(), wider))
	says(0, "is in force", "wait", "admitted")
	hasAddress(t, lab, "late", "10.1.2.3")
	heard("the router to hear of the new address as well")

	folder := filepath.Join(t.TempDir(), "dump")
	says(0, "3 Services", "dump", folder)
	if live, dumped := says(0, "10.1.2.3/32", "routes"), says(0, "10.1.2.3/32", "routes", "--dump", folder); live != dumped {
		t.Errorf("live:\n%s\nfrom the dump:\n%s", live, dumped)
	}
}
