package suite

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// standstill is how long nothing may happen before it counts as the machine's fault. The tests' limits are longer.
const standstill = 3 * time.Second

// A stall is a time in which the machine did not do what takes no time.
type stall struct {
	what     string
	at       time.Time
	duration time.Duration
}

func (s stall) String() string {
	return fmt.Sprintf("%s for %v until %s", s.what, s.duration.Round(100*time.Millisecond), s.at.Format("15:04:05"))
}

// A watch does easy things again and again, and writes down which took long.
type watch struct {
	mu     sync.Mutex
	stalls []stall
}

// easy are things that take no time on a machine that works.
var easy = map[string]func() error{
	"this process did not get to run": func() error { return nil },
	"the kernel did not answer a question about its interfaces": func() error {
		_, err := net.Interfaces()
		return err
	},
}

var begin = sync.OnceValue(func() *watch {
	w := &watch{}
	for what, do := range easy {
		go w.repeat(what, do)
	}
	return w
})

const every = 100 * time.Millisecond

func (w *watch) repeat(what string, do func() error) {
	for {
		began := time.Now()
		time.Sleep(every)
		_ = do() // that it answers is enough
		w.note(stall{what, time.Now(), time.Since(began) - every})
	}
}

func (w *watch) note(s stall) {
	if s.duration < standstill {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalls = append(w.stalls, s)
}

// since are the stalls that reached into the time since then.
func (w *watch) since(then time.Time) (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.stalls {
		if s.at.After(then) {
			all = append(all, s.String())
		}
	}
	return all
}

// Watch makes a test that fails say so if the machine itself stood still meanwhile: then the test knows nothing about us.
func Watch(t testing.TB) {
	t.Helper()
	w, began := begin(), time.Now()
	t.Cleanup(func() {
		if stalls := w.since(began); t.Failed() && len(stalls) > 0 {
			t.Logf("THE MACHINE STOOD STILL while this test ran, which then says nothing about what it tests: %s", strings.Join(stalls, "; "))
		}
	})
}
