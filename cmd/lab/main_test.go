package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheDemoTellsItsStoryAndLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var told bytes.Buffer
	if err := run(t.Context(), []string{"demo"}, io.MultiWriter(&told, t.Output())); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told.String(), "That is all.") {
		t.Error("the story has no end")
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		t.Errorf("it left %s", path)
	}
}

func TestTheLabSaysWhatItCanDo(t *testing.T) {
	for _, args := range [][]string{nil, {"dmeo"}, {"demo", "now"}} {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), "lab demo, lab up, or lab datacentre") {
			t.Errorf("lab %v: %v", args, err)
		}
	}
}
