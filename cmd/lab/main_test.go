package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

func TestTheDemoTellsItsStoryAndLeavesNothingBehind(t *testing.T) {
	leavesNothing(t)
	var told bytes.Buffer
	if err := run(t.Context(), []string{"demo"}, io.MultiWriter(&told, t.Output())); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told.String(), "That is all.") {
		t.Error("the story has no end")
	}
}

// leavesNothing demands that nothing is left of the test's temporary files at its end.
func leavesNothing(t *testing.T) {
	t.Helper()
	// The name of a socket has no room for what t.TempDir makes of the name of a test.
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // routers that change their user have folders in it
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			left, _ := filepath.Glob(filepath.Join(dir, "*"))
			t.Errorf("it left %v: %v", left, err)
		}
	})
}

// A reader hands over what a lab has printed when it has said all.
type reader struct {
	told bytes.Buffer
	all  chan string
}

func (r *reader) Write(b []byte) (int, error) {
	r.told.Write(b)
	if _, commands, found := strings.Cut(r.told.String(), "In another terminal:\n"); found && strings.Contains(commands, "\n  ls ") {
		r.all <- commands
	}
	return len(b), nil
}

func TestTheDatacentrePrintsCommandsThatWorkAndLeavesNothingBehind(t *testing.T) {
	suite.Need(t, network.Missing())
	leavesNothing(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r := &reader{all: make(chan string, 1)}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"datacentre"}, io.MultiWriter(r, t.Output())) }()
	select {
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	case commands := <-r.all:
		// Each line is typed into a shell, in which the first has been before.
		lines := strings.Split(strings.TrimSpace(commands), "\n")
		for _, line := range lines {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
				continue
			}
			out, err := exec.CommandContext(ctx, "sh", "-c", lines[0]+"\n"+line).CombinedOutput()
			quiet := strings.HasPrefix(line, "export ") || strings.HasPrefix(line, "ip -n ") // they print nothing
			if err != nil || quiet != (len(out) == 0) {
				t.Errorf("%s: %v, and it prints %q", line, err, out)
			}
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestTheLabSaysWhatItCanDo(t *testing.T) {
	for _, args := range [][]string{nil, {"dmeo"}, {"demo", "now"}} {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), "lab demo, lab up, lab datacentre, lab build DIR, or lab floor KUBECONFIG") {
			t.Errorf("lab %v: %v", args, err)
		}
	}
}
