package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What GitHub would run is at least well-formed, and takes nobody else's code but what is named by its commit.
func TestWorkflowsAreSoundAndPinWhatTheyUse(t *testing.T) {
	paths, err := filepath.Glob("../.github/workflows/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no workflows", err)
	}
	args := append([]string{"tool", "actionlint"}, paths...)
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("actionlint: %v\n%s", err, out)
	}
	pinned := regexp.MustCompile(`uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^permissions:( \{\}|$)`).Match(text) {
			t.Errorf("%s: no line permissions: on top, so that every job could do everything", path)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, "uses:") && !pinned.MatchString(line) {
				t.Errorf("%s:%d: %s: name the commit, and its version behind it", path, i+1, strings.TrimSpace(line))
			}
		}
	}
}
