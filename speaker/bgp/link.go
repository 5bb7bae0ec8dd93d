package bgp

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// writeTimeout is how long a router may take no data. Ours waits for at most 64 KiB at a time.
	writeTimeout = 30 * time.Second
	chunk        = 64 << 10
	// lingerTime is how long a router may take to close the connection after we did.
	lingerTime = time.Second
)

// A link is a connection to a router that its session can use without ever waiting: one goroutine only reads the socket,
// one only writes it. All methods are the session's.
type link struct {
	conn  net.Conn
	heard chan heard // what the router says
	wrote chan error // the chunk last handed out is written, or was not

	chunks chan []byte // from the session to the writer; has room whenever busy is false
	queue  []byte      // still to be handed out
	busy   bool

	ignore  context.CancelFunc // nobody listens to heard any more
	closed  chan struct{}      // the router closed its side
	helpers sync.WaitGroup
}

type heard struct {
	message
	err error // the last thing heard
}

func newLink(conn net.Conn) *link {
	ctx, ignore := context.WithCancel(context.Background())
	l := &link{
		conn: conn, ignore: ignore,
		heard: make(chan heard), wrote: make(chan error, 1), chunks: make(chan []byte, 1), closed: make(chan struct{}),
	}
	l.helpers.Go(func() { l.read(ctx.Done()) })
	l.helpers.Go(l.write)
	return l
}

func (l *link) read(ignored <-chan struct{}) {
	defer close(l.closed)
	r := bufio.NewReaderSize(l.conn, maxMessage)
	for {
		m, err := readMessage(r)
		select {
		case l.heard <- heard{m, err}:
		case <-ignored:
			err = context.Canceled
		}
		if err != nil {
			break
		}
	}
	// Closing a socket with unread data resets the connection, and the reset may overtake our NOTIFICATION.
	_, _ = io.Copy(io.Discard, r)
}

func (l *link) write() {
	for b := range l.chunks {
		_ = l.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only on a closed connection, as does Write
		_, err := l.conn.Write(b)
		l.wrote <- err
	}
}

// send queues b, which are whole messages.
func (l *link) send(b []byte) {
	l.queue = append(l.queue, b...)
	l.hand()
}

// hand hands the next chunk to the writer, if there is one and the writer is free.
func (l *link) hand() {
	if l.busy || len(l.queue) == 0 {
		return
	}
	n := min(len(l.queue), chunk)
	l.chunks <- l.queue[:n:n]
	l.queue = l.queue[n:]
	l.busy = true
	if len(l.queue) == 0 {
		l.queue = nil // what was written needs no memory any more
	}
}

// written notes that what wrote said was nil.
func (l *link) written() {
	l.busy = false
	l.hand()
}

// finish lets the router read all that was sent, and then close the connection, until ctx ends. Nothing is heard any more.
//
// It is the router that closes, after our NOTIFICATION. FRR looks at a connection that we closed before it looks at the
// messages that it has not worked through yet, forgets them, and takes us for a speaker that restarts without a word.
func (l *link) finish(ctx context.Context) {
	l.ignore()
	for l.busy {
		select {
		case err := <-l.wrote:
			if err != nil {
				return
			}
			l.written()
		case <-ctx.Done():
			return
		}
	}
	select {
	case <-l.closed:
		return
	case <-ctx.Done():
	}
	if tcp, ok := l.conn.(interface{ CloseWrite() error }); ok {
		_ = tcp.CloseWrite() // a router that has not understood until now may understand this
	}
	select {
	case <-l.closed:
	case <-time.After(lingerTime):
	}
}

// close closes the connection, whatever is still underway.
func (l *link) close() {
	l.ignore()
	_ = l.conn.Close() // there is nobody left to whom an error would matter
	close(l.chunks)
	l.helpers.Wait()
}
