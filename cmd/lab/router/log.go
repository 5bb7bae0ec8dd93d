package router

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v3/pkg/log"
)

// A logger writes down what GoBGP has to say, where somebody wants to know.
type logger struct {
	mu    sync.Mutex
	to    io.Writer // nil: nobody does
	level log.LogLevel
}

func (l *logger) line(level log.LogLevel, msg string, fields log.Fields) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s", time.Now().Format("15:04:05.000"), msg)
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(&text, " %s=%v", strings.ReplaceAll(key, " ", "-"), fields[key])
	}
	if l.to != nil && level <= l.level {
		fmt.Fprintln(l.to, text.String())
	}
	return text.String()
}

// GoBGP does not expect Panic and Fatal to return.
func (l *logger) Panic(msg string, fields log.Fields) { panic(l.line(log.PanicLevel, msg, fields)) }
func (l *logger) Fatal(msg string, fields log.Fields) { panic(l.line(log.FatalLevel, msg, fields)) }
func (l *logger) Error(msg string, fields log.Fields) { l.line(log.ErrorLevel, msg, fields) }
func (l *logger) Warn(msg string, fields log.Fields)  { l.line(log.WarnLevel, msg, fields) }
func (l *logger) Info(msg string, fields log.Fields)  { l.line(log.InfoLevel, msg, fields) }
func (l *logger) Debug(msg string, fields log.Fields) { l.line(log.DebugLevel, msg, fields) }

func (l *logger) SetLevel(level log.LogLevel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = level
}

func (l *logger) GetLevel() log.LogLevel {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level
}
