package suite

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestHeavyTestsOfAPackageTakeTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var running atomic.Int32
	t.Run("all", func(t *testing.T) {
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				alone(t, path)
				t.Cleanup(func() { running.Add(-1) })
				if n := running.Add(1); n != 1 {
					t.Errorf("%d run at once", n)
				}
				runtime.Gosched()
			})
		}
	})
}

// As the child, it holds the lock until it is killed.
func TestAHeavyTestWaitsForThoseOfOtherProcessesAndNotForDeadOnes(t *testing.T) {
	if path := os.Getenv("SUITE_LOCK"); path != "" {
		alone(t, path)
		fmt.Println("locked")
		_, _ = io.Copy(io.Discard, os.Stdin) // which nobody closes before
	}
	path := filepath.Join(t.TempDir(), "lock")
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), "SUITE_LOCK="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "locked" {
	}
	locked := make(chan bool)
	go func() {
		alone(t, path)
		close(locked)
	}()
	select {
	case <-locked:
		t.Error("two processes hold the lock")
	case <-time.After(200 * time.Millisecond):
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it says that it was killed
	<-locked
}

func TestAStallIsToldToThoseItReachedInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pass := func(d time.Duration) { <-time.After(d) } // in the test's own time
		w := &watch{}
		var slow atomic.Int64
		go w.repeat("the kernel did not answer", func() error {
			if slow.Load() < 0 {
				runtime.Goexit()
			}
			<-time.After(time.Duration(slow.Load()))
			return nil
		})
		early := time.Now()
		pass(time.Minute)
		if got := w.since(early); len(got) > 0 {
			t.Errorf("a machine that works stalled: %q", got)
		}
		slow.Store(int64(59 * time.Second))
		pass(time.Second)
		slow.Store(0)
		pass(2 * time.Minute)
		if got := w.since(early); len(got) != 1 || !strings.HasPrefix(got[0], "the kernel did not answer for 59s until ") {
			t.Errorf("a stall of 59 s is told as %q", got)
		}
		if got := w.since(time.Now()); len(got) > 0 {
			t.Errorf("who began after it hears of %q", got)
		}
		slow.Store(-1)
		pass(time.Second)
	})
}
