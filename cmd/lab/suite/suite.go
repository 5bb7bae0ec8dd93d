// Package suite is what the tests of all the lab's packages agree on. They share a machine, often a small one, and each package's tests
// are a process of their own.
package suite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"
)

// Need skips a test that lacks something, and says what. Where nothing may be skipped (LAB_REQUIRE=all), the test fails instead.
func Need(t testing.TB, missing error) {
	t.Helper()
	if missing == nil {
		return
	}
	if os.Getenv("LAB_REQUIRE") == "all" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}

// Heavy keeps a test from running beside another heavy one, whatever package that is of and whoever runs it on this machine: one that moves
// thousands of routes, that measures how long something takes to be noticed, or that installs. Call it after t.Parallel and before
// anything is started. The kernel gives the lock back if the process dies.
func Heavy(t testing.TB) {
	t.Helper()
	alone(t, "/tmp/cloud-provider-metallb.heavy") // not in TMPDIR, which is not everybody's
	Watch(t)
}

// alone holds the lock of a file until the test's end.
func alone(t testing.TB, path string) {
	t.Helper()
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for {
		if err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		t.Fatal(fmt.Errorf("lock %s: %w", path, err))
	}
	t.Cleanup(func() { file.Close() })
	if waited := time.Since(began); waited > time.Second {
		t.Logf("waited %v for another heavy test", waited.Round(time.Second))
	}
}
