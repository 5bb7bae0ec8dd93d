package kubernetes

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell starts a shell script, which is over when the test is.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	process, err := Program{
		Name:   "script",
		Binary: "/bin/sh",
		Args:   []string{"-c", script},
		Env:    []string{"HOLDER=bird"},
		Log:    filepath.Join(t.TempDir(), "log"),
	}.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	return process
}

// says waits for what the script writes when it is under way.
func says(process *Process, text string) func(context.Context) error {
	return func(context.Context) error {
		if !strings.Contains(process.Output(), text) {
			return errors.New("not yet")
		}
		return nil
	}
}

func TestAProcessThatEndsByItselfIsNamedWithItsLastWords(t *testing.T) {
	process := shell(t, `echo "port 179 is taken by $HOLDER"; exit 3`)
	<-process.Done()
	want := "script ended by itself (exit status 3); last lines of its log:\n\tport 179 is taken by bird"
	if err := process.Err(); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if code := process.ExitCode(); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if err := process.Stop(time.Minute); err != nil {
		t.Errorf("there is nothing left to stop: %v", err)
	}
	if process.Err() == nil {
		t.Error("to stop it afterwards does not make its end an orderly one")
	}
}

func TestAProcessThatEndsBeforeItIsReadyIsNotWaitedForAnyLonger(t *testing.T) {
	process := shell(t, `echo no configuration; exit 1`)
	err := process.Until(t.Context(), "it is ready", says(process, "ready"))
	if err == nil || !strings.HasPrefix(err.Error(), "script ended (exit status 1) before it is ready") || !strings.Contains(err.Error(), "no configuration") {
		t.Errorf("%v", err)
	}
}

func TestAProcessThatIsNeverReadySaysWhatItLastAnswered(t *testing.T) {
	process := shell(t, `echo still reading; exec sleep 1000`)
	if err := process.Until(t.Context(), "it reads", says(process, "still reading")); err != nil {
		t.Fatal(err)
	}
	tooLong := errors.New("that takes too long")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, tooLong)
	defer cancel()
	notReady := errors.New("503")
	err := process.Until(ctx, "it is ready", func(context.Context) error { return notReady })
	if !errors.Is(err, tooLong) || !errors.Is(err, notReady) || !strings.Contains(err.Error(), "still reading") {
		t.Errorf("%v", err)
	}
}

func TestStopAsksFirst(t *testing.T) {
	process := shell(t, `trap 'echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	if err := process.Until(t.Context(), "it is ready", says(process, "ready")); err != nil {
		t.Fatal(err)
	}
	if err := process.Stop(time.Minute); err != nil {
		t.Error(err)
	}
	if output := process.Output(); output != "ready\ngoodbye\n" {
		t.Errorf("it said %q", output)
	}
	if err := process.Err(); err != nil {
		t.Errorf("it was asked to end: %v", err)
	}
}

func TestStopKillsWhoeverDoesNotListen(t *testing.T) {
	process := shell(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	if err := process.Until(t.Context(), "it is ready", says(process, "ready")); err != nil {
		t.Fatal(err)
	}
	if err := process.Stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "script was killed") {
		t.Errorf("%v", err)
	}
	<-process.Done()
}

// The test runs itself as a lab, which starts a process and is then killed. The process holds a pipe open for as long as it lives.
func TestNoProcessOutlivesALabThatCrashes(t *testing.T) {
	const variable = "LAB_THAT_CRASHES"
	if pipe := os.Getenv(variable); pipe != "" {
		process := shell(t, `exec >'`+pipe+`'; echo alive; while :; do sleep 0.01; done`)
		<-process.Done()
		return
	}

	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	lab := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	lab.Env = append(os.Environ(), variable+"="+pipe)
	if err := lab.Start(); err != nil {
		t.Fatal(err)
	}
	process, err := os.Open(pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	if _, err := io.ReadFull(process, make([]byte, len("alive\n"))); err != nil {
		t.Fatal(err)
	}
	if err := lab.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = lab.Wait() // killed, as it says
	// Nothing but the end of the process ends this.
	if _, err := io.ReadAll(process); err != nil {
		t.Error(err)
	}
}
