// Package logbook keeps what klog is told, for tests.
package logbook

import (
	"slices"
	"strings"
	"sync"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// A Logbook is everything that was logged since it was last taken from: a line each, without time and place.
type Logbook struct {
	mu    sync.Mutex
	lines []string
}

// Open returns an empty logbook into which klog writes from now on, and nowhere else.
func Open() *Logbook {
	b := &Logbook{}
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(b))))
	return b
}

// Write is klog's.
func (b *Logbook) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, text, _ := strings.Cut(string(line), "] ")
	b.lines = append(b.lines, strings.TrimSpace(text))
	return len(line), nil
}

// Take returns what was logged since the last time.
func (b *Logbook) Take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := b.lines
	b.lines = nil
	return lines
}

// Lines returns the same, and leaves it there.
func (b *Logbook) Lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}
