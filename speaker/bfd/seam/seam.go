// Package seam is where a speaker hears from the BFD responder of its node that a router is dead.
//
// The two are processes of their own, which are upgraded and fail apart from each other. The responder listens on an abstract Unix
// socket, which belongs to the node's network namespace, as both programs do; each believes the other only if it runs as the same
// user. A line of JSON is one session and its state: first all there are, then each that comes up or goes down.
//
// Whatever goes wrong here, the speaker works as without BFD. So what it was told counts as long as the connection does: a responder
// that crashes and returns begins with sessions that are down, and that is no news of any router.
package seam

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Name is the abstract socket of a node.
const Name = "@metallb-bfd"

// A Word is what the responder says of a session.
type Word struct {
	Router netip.Addr `json:"router"`
	Local  netip.Addr `json:"local"` // our address, or the zero Addr: any
	Up     bool       `json:"up"`
	// AdminDown says that the router took its side down on purpose: it is not dead.
	AdminDown bool `json:"adminDown,omitempty"`
	// Died says that it was up since the responder runs, and is down, not on purpose: news for a speaker that has just begun to listen.
	Died bool `json:"died,omitempty"`
}

const (
	// mostListeners are one speaker, one that is about to take its place, and somebody who looks.
	mostListeners = 4
	// backlog is how many words may wait for a speaker that has no time to listen. One that needs more connects again.
	backlog = 4096
	// again is how soon a speaker looks again for a responder.
	again = time.Second
	// longestWord bounds a line.
	longestWord = 1024
	// writeTime is how long a speaker may take no words at all.
	writeTime = 10 * time.Second
)

// A Server tells speakers of sessions.
type Server struct {
	listener *net.UnixListener
	// all returns a word on each session.
	all func() []Word

	mu        sync.Mutex
	listeners map[*net.UnixConn]chan Word
}

// NewServer opens the socket. all returns a word on each session there is.
func NewServer(name string, all func() []Word) (*Server, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for speakers: %w", err)
	}
	return &Server{listener: listener, all: all, listeners: map[*net.UnixConn]chan Word{}}, nil
}

// Tell tells every speaker of a session that came up or went down. It never waits.
func (s *Server) Tell(w Word) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, words := range s.listeners {
		select {
		case words <- w:
		default:
			_ = conn.Close() // it connects again, and hears how things are then
			delete(s.listeners, conn)
		}
	}
}

// Serve speaks to speakers until ctx ends.
func (s *Server) Serve(ctx context.Context) {
	defer s.listener.Close()
	defer context.AfterFunc(ctx, func() { _ = s.listener.Close() })()
	var speaking sync.WaitGroup
	defer speaking.Wait()
	for {
		conn, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil {
			select { // too many open files, perhaps
			case <-time.After(again):
			case <-ctx.Done():
			}
			continue
		}
		speaking.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			s.speak(conn)
		})
	}
}

// speak speaks to one speaker.
func (s *Server) speak(conn *net.UnixConn) {
	defer conn.Close()
	if !sameUser(conn) {
		return
	}
	words := make(chan Word, backlog)
	s.mu.Lock()
	full := len(s.listeners) >= mostListeners
	if !full {
		s.listeners[conn] = words
	}
	s.mu.Unlock()
	if full {
		return
	}
	gone := make(chan struct{})
	defer func() {
		s.mu.Lock()
		delete(s.listeners, conn)
		s.mu.Unlock()
		<-gone
	}()
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1)) // speakers say nothing: whatever comes, or that it ends, is the end
		_ = conn.Close()
	}()
	out := json.NewEncoder(conn)
	tell := func(w Word) error {
		if err := conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		return out.Encode(w)
	}
	for _, w := range s.all() { // after it is in listeners: a change meanwhile is said twice, and not lost
		if tell(w) != nil {
			_ = conn.Close()
			return
		}
	}
	for {
		select {
		case w := <-words:
			if tell(w) != nil {
				_ = conn.Close()
				return
			}
		case <-gone:
			return
		}
	}
}

// A Client hears words.
type Client struct {
	Name string
	// Down is told of a router whose session went down, not on purpose, once each time that the session was up before; also if that
	// was before we listened.
	Down func(router, local netip.Addr)
	// There is told whether there is a responder, when that changes; at first there is none.
	There func(bool)

	mu sync.Mutex
	// said is the last word on each session, while somebody speaks.
	said map[session]Word
}

type session struct{ router, local netip.Addr }

// Last returns the last word on a session. There is none while no responder speaks, or if it has no such session.
func (c *Client) Last(router, local netip.Addr) (Word, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, known := c.said[session{router, local}]
	return w, known
}

// Listen listens until ctx ends.
func (c *Client) Listen(ctx context.Context) {
	for there := false; ctx.Err() == nil; {
		conn, err := c.dial(ctx)
		if err == nil {
			if !there {
				c.There(true)
			}
			there = true
			c.hear(ctx, conn)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
		// One that restarts within a moment was there all the time.
		if err != nil && there {
			there = false
			c.There(false)
		}
	}
}

func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Name)
	if err != nil {
		return nil, err
	}
	if u := conn.(*net.UnixConn); sameUser(u) {
		return u, nil
	}
	return nil, errors.Join(errors.New("somebody else listens on the responder's socket"), conn.Close())
}

func (c *Client) hear(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	forget := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.said = map[session]Word{}
	}
	forget()
	defer forget()
	in := bufio.NewScanner(conn)
	in.Buffer(make([]byte, 0, longestWord), longestWord)
	for in.Scan() {
		var w Word
		if json.Unmarshal(in.Bytes(), &w) != nil {
			return
		}
		before, known := c.Last(w.Router, w.Local)
		if !w.Up && !w.AdminDown && (before.Up || w.Died && !known) {
			c.Down(w.Router, w.Local)
		}
		c.mu.Lock()
		c.said[session{w.Router, w.Local}] = w
		c.mu.Unlock()
	}
}

// sameUser reports whether the other end runs as we do.
func sameUser(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		same = err == nil && peer.Uid == uint32(os.Geteuid())
	})
	return err == nil && same
}
