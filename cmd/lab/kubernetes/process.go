package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Program is something to start: the control plane's own programs, and those under test.
type Program struct {
	Name   string   // what errors call it
	Binary string   // path
	Args   []string // without the program's own name
	Env    []string // NAME=value, added to the lab's own environment
	Log    string   // file that its standard output and standard error are appended to
	// Alone gives it process and mount namespaces of its own, which needs root. All that it has started ends with it, and all mounts
	// are gone then, however it ends.
	Alone bool
}

// A Process is a program that was started. It never outlives the lab, however the lab ends. Its Start starts the program again, as
// another Process.
type Process struct {
	Program

	cmd   *exec.Cmd
	done  chan struct{}
	asked atomic.Bool // somebody here wanted it to end
}

// Start starts the program and does not wait for anything: Until does.
func (p Program) Start() (*Process, error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", p.Name, err)
	}
	defer log.Close() // the process has its own copy

	cmd := exec.Command(p.Binary, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if p.Alone {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	}
	if err := startAsOurs(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	started := &Process{Program: p, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // what it says is in cmd.ProcessState, where Err looks for it
		close(started.done)
	}()
	return started, nil
}

// startAsOurs starts a command which the kernel kills when the lab dies, also by SIGKILL, and which a Ctrl-C in the terminal
// does not reach: the lab alone decides in which order its processes end.
func startAsOurs(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	started := make(chan error)
	parent() <- func() { started <- cmd.Start() }
	return <-started
}

// parent runs functions on one thread that lives as long as the lab does: Linux sends Pdeathsig when the thread that started
// a process ends (prctl(2), PR_SET_PDEATHSIG), and Go ends threads as it likes.
var parent = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is what the process ended with; -1 while it runs, and when a signal ended it.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Err tells how the process ended and the last lines it wrote, if it has ended and nobody here had asked it to.
func (p *Process) Err() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	if p.asked.Load() {
		return nil
	}
	return fmt.Errorf("%s ended by itself (%s)%s", p.Name, p.cmd.ProcessState, p.lastWords())
}

// Signal sends a signal. Whoever sends one is expected to know what becomes of the process: Err is silent about it from now on.
func (p *Process) Signal(signal os.Signal) error {
	select {
	case <-p.done: // it ended before this signal, so Err shall keep its verdict
		return os.ErrProcessDone
	default:
	}
	p.asked.Store(true)
	return p.cmd.Process.Signal(signal)
}

// Stop asks the process to end with SIGTERM and waits. One that is still there after timeout is killed, which is an error;
// one that has already ended is none.
func (p *Process) Stop(timeout time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(timeout):
	}
	p.Kill()
	return fmt.Errorf("%s was killed: it had not ended %s after SIGTERM%s", p.Name, timeout, p.lastWords())
}

// Kill ends the process with SIGKILL, as a crash would, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // that it has ended already is what we want
	<-p.done
}

// Until returns as soon as answers does without error. It asks again and again, because a process that has just been started is not
// there yet, and gives up when ctx ends or the process does: then the error has the last answer and the last lines of the log.
func (p *Process) Until(ctx context.Context, what string, answers func(context.Context) error) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second) // a question that hangs is asked anew
		err := answers(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-p.done:
			return fmt.Errorf("%s ended (%s) before %s%s", p.Name, p.cmd.ProcessState, what, p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s: waited for %s: %w; last answer: %w%s", p.Name, what, context.Cause(ctx), err, p.lastWords())
		}
	}
}

// Until asks again and again until answers does without error, and gives up when ctx ends: then the error has the last answer before.
func Until(ctx context.Context, what string, answers func(context.Context) error) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	var last error
	for {
		err := answers(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // afterwards, everything fails
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, last)
		case <-again.C:
		}
	}
}

// Output is everything the process has written so far, or why that cannot be read.
func (p *Process) Output() string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// lastWords are the last lines of the log, as the end of an error.
func (p *Process) lastWords() string {
	const most = 15
	lines := strings.Split(strings.TrimSpace(p.Output()), "\n")
	return fmt.Sprintf("; last lines of its log:\n\t%s", strings.Join(lines[max(0, len(lines)-most):], "\n\t"))
}
