package kubernetes

import (
	"os/exec"
	"strings"
	"testing"
)

// What is printed for people to paste must mean what was run.
func TestWhatIsQuotedIsReadBackByAShell(t *testing.T) {
	for _, words := range [][]string{
		{"get", "service", "simple"}, {"patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`},
		{"annotate", "node", "n1", "metallb.universe.tf/drain=disk change, 14:00"}, {"it's", `"$HOME"`, "a  b", "", "*", "~", "a\\b", "jsonpath={.data.config}"},
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `printf '%s\n' `+Quoted(words...)).CombinedOutput()
		if want := strings.Join(words, "\n") + "\n"; err != nil || string(out) != want {
			t.Errorf("%s is read as %q: %v", Quoted(words...), out, err)
		}
	}
	if got := Quoted("kubectl", "get", "-o", "wide"); got != "kubectl get -o wide" {
		t.Errorf("needless quotes: %s", got)
	}
}
