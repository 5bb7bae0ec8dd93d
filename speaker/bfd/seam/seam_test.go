package seam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	leaf  = netip.MustParseAddr("10.0.0.1")
	spine = netip.MustParseAddr("fe80::1%eth0")
)

// A responder has sessions, and tells of them.
type responder struct {
	*Server
	mu  sync.Mutex
	all []Word
}

func name(t *testing.T) string { return fmt.Sprintf("@metallb-bfd-%s-%d", t.Name(), os.Getpid()) }

// respond starts a responder with these sessions; it ends with stop, or the test.
func respond(t *testing.T, name string, all ...Word) (r *responder, stop func()) {
	t.Helper()
	r = &responder{all: all}
	var err error
	r.Server, err = NewServer(name, func() []Word {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.all
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { r.Serve(ctx); close(ended) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return r, stop
}

// listen starts a client, and returns what it hears.
func listen(t *testing.T, name string) (heard chan string) {
	t.Helper()
	heard = make(chan string, 1000)
	c := &Client{Name: name,
		Down:  func(router, local netip.Addr) { heard <- fmt.Sprint("down ", router, " ", local) },
		There: func(is bool) { heard <- fmt.Sprint("there ", is) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { c.Listen(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return heard
}

// next is what is heard next.
func next(t *testing.T, heard chan string, want string) {
	t.Helper()
	select {
	case got := <-heard:
		if got != want {
			t.Fatalf("it hears %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("it hears nothing, want %q", want)
	}
}

func TestADeathIsHeardOncePerLife(t *testing.T) {
	r, _ := respond(t, name(t), Word{Router: leaf, Up: true}, Word{Router: spine})
	heard := listen(t, name(t))
	next(t, heard, "there true")
	r.waitFor(t, 1)
	r.Tell(Word{Router: leaf})                   // dies
	r.Tell(Word{Router: leaf})                   // is dead
	r.Tell(Word{Router: spine})                  // never lived
	r.Tell(Word{Router: spine, Up: true})        // lives
	r.Tell(Word{Router: spine, AdminDown: true}) // leaves on purpose
	r.Tell(Word{Router: spine})                  // is still away
	r.Tell(Word{Router: leaf, Local: leaf})      // is another session
	r.Tell(Word{Router: spine, Up: true})        // lives
	r.Tell(Word{Router: spine, Up: false})       // dies
	next(t, heard, "down 10.0.0.1 invalid IP")
	next(t, heard, "down fe80::1%eth0 invalid IP")
	select {
	case got := <-heard:
		t.Errorf("it hears %q, too", got)
	default:
	}
}

func TestADeathFromBeforeIsHeardOnce(t *testing.T) {
	r, _ := respond(t, name(t), Word{Router: leaf, Died: true}, Word{Router: spine})
	heard := listen(t, name(t))
	next(t, heard, "there true")
	next(t, heard, "down 10.0.0.1 invalid IP")
	r.waitFor(t, 1)
	r.Tell(Word{Router: leaf, Died: true})  // is dead
	r.Tell(Word{Router: leaf, Up: true})    // lives
	r.Tell(Word{Router: spine, Up: true})   // lives
	r.Tell(Word{Router: spine, Died: true}) // dies
	next(t, heard, "down fe80::1%eth0 invalid IP")
	select {
	case got := <-heard:
		t.Errorf("it hears %q, too", got)
	default:
	}
}

// waitFor waits until so many listen.
func (s *Server) waitFor(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
		s.mu.Lock()
		now := len(s.listeners)
		s.mu.Unlock()
		if now == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d listen, want %d", now, n)
		}
	}
}

// A responder that is replaced begins with sessions that are down.
func TestARestartOfTheResponderIsNoDeath(t *testing.T) {
	_, stop := respond(t, name(t), Word{Router: leaf, Up: true})
	heard := listen(t, name(t))
	next(t, heard, "there true")
	stop()
	r, _ := respond(t, name(t), Word{Router: leaf})
	r.waitFor(t, 1)
	r.Tell(Word{Router: leaf})
	r.Tell(Word{Router: leaf, Up: true})
	r.Tell(Word{Router: leaf})
	next(t, heard, "down 10.0.0.1 invalid IP")
}

func TestAResponderThatIsGoneIsMissed(t *testing.T) {
	_, stop := respond(t, name(t))
	heard := listen(t, name(t))
	next(t, heard, "there true")
	stop()
	next(t, heard, "there false")
	respond(t, name(t))
	next(t, heard, "there true")
}

func TestAListenerThatDoesNotListenKeepsNobodyWaiting(t *testing.T) {
	r, _ := respond(t, name(t))
	conn, err := net.Dial("unix", name(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r.waitFor(t, 1)
	for range 1_000_000 {
		r.Tell(Word{Router: leaf, Up: true})
		r.Server.mu.Lock()
		gone := len(r.listeners) == 0
		r.Server.mu.Unlock()
		if gone {
			return
		}
	}
	t.Error("a million words wait for somebody")
}

func TestThereIsRoomForAFewOnly(t *testing.T) {
	r, _ := respond(t, name(t))
	for range 3 * mostListeners {
		conn, err := net.Dial("unix", name(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	r.waitFor(t, mostListeners)
}

// The other user is another process, which is this test again.
func TestAnotherUserIsNeitherBelievedNorTold(t *testing.T) {
	if socket := os.Getenv("SEAM_TEST_DIAL"); socket != "" {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			fmt.Println("dial:", err)
			return
		}
		n, _ := conn.Read(make([]byte, 100))
		fmt.Println("heard", n)
		return
	}
	if socket := os.Getenv("SEAM_TEST_LISTEN"); socket != "" {
		l, err := net.Listen("unix", socket)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("listening")
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(conn, "{\"router\":\"10.0.0.1\",\"up\":true}\n{\"router\":\"10.0.0.1\"}\n")
		}
	}
	if os.Geteuid() != 0 && os.Getenv("LAB_REQUIRE") == "" {
		t.Skip("only root can be somebody else")
	}
	self := copied(t)
	somebody := func(variable, socket string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, "-test.run", "^"+t.Name()+"$")
		cmd.Env = []string{variable + "=" + socket}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd
	}
	respond(t, name(t), Word{Router: leaf, Up: true})
	out, err := somebody("SEAM_TEST_DIAL", name(t)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "heard 0") {
		t.Errorf("somebody else %s %v", out, err)
	}

	server := somebody("SEAM_TEST_LISTEN", name(t)+"-false")
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	if line := make([]byte, 9); true {
		if _, err := stdout.Read(line); err != nil || string(line) != "listening" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	c := Client{Name: name(t) + "-false"}
	if conn, err := c.dial(t.Context()); err == nil {
		conn.Close()
		t.Error("it believes somebody else")
	}
}

// copied returns a copy of this test that everybody may run.
func copied(t *testing.T) string {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp("/tmp", "seam-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(file.Name()) })
	_, err = file.Write(self)
	if err := errors.Join(err, file.Chmod(0o755), file.Close()); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}
