package bgp

import (
	"bufio"
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func TestMemoryDoesNotDependOnWhatARouterClaims(t *testing.T) {
	updates := bytes.Repeat(msg(2, strings.Repeat("ff", 4077)), 100)
	in := bytes.NewReader(nil)
	r := bufio.NewReaderSize(in, maxMessage)
	allocations := testing.AllocsPerRun(10, func() {
		in.Reset(updates)
		r.Reset(in)
		for range 100 {
			if _, err := readMessage(r); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocations != 0 {
		t.Errorf("reading 100 UPDATEs allocates %v times", allocations)
	}
}

// FuzzFraming reads a stream as a session does, and all that is read of a message.
func FuzzFraming(f *testing.F) {
	f.Add(slices.Concat(hello, keepalive, msg(2, "0000 0000"), msg(5, "00010001"), msg(3, "0602 05 68656c6c6f")))
	f.Add(unhex(strings.Repeat("ff", 16) + "ffff 01"))
	f.Add(unhex(strings.Repeat("ff", 16) + "0013 06"))
	f.Add(msg(3, "0602 ff 00"))
	f.Add([]byte("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := bytes.NewReader(stream)
		r := bufio.NewReaderSize(in, maxMessage)
		for read := 0; ; {
			m, err := readMessage(r)
			if err != nil {
				var n *notification
				if errors.As(err, &n) && (n.code != 1 || len(n.message()) > maxMessage) {
					t.Errorf("%v is told to the router as %d/%d", err, n.code, n.subcode)
				}
				return
			}
			consumed := len(stream) - in.Len() - r.Buffered() - read
			read += consumed
			if consumed < headerLen || consumed > maxMessage || cap(m.body) > consumed {
				t.Errorf("a message of type %d took %d bytes and %d of memory", m.kind, consumed, cap(m.body))
			}
			switch m.kind {
			case 1:
				_, _ = negotiate(leaf, m.body, false) // FuzzOpen looks at the result
			case 3:
				if text := newRefusal(m.body).Error(); strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
					t.Errorf("%q could forge a log line", text)
				}
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(hello[19:])
	f.Add(helloInside[19:])
	f.Add(unhex("04 5ba0 001e 0a000001 0d 020b 4903 ff6162 4104 fa56ea01"))
	f.Add(unhex("04 fbf4 0000 0a000001 1a 0206 0104 00010001 0202 0200 0206 4104 0000fbf4 0204 4002 0078"))
	f.Add(unhex("04 fbf4 005a 0a000001 ff ff00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) < 10 || len(body) > maxMessage-headerLen {
			return // readMessage sees to that
		}
		for _, peer := range []loadbalancer.Peer{leaf, spine} {
			got, err := negotiate(peer, body, false)
			var n *notification
			switch {
			case err != nil && (!errors.As(err, &n) || n.code != 2):
				t.Errorf("%v is not told to the router as an error of its OPEN", err)
			case err == nil && (len(got.families) == 0 || got.hold > peer.HoldTime || got.hold != 0 && got.hold < 3*time.Second):
				t.Errorf("agreed on %+v", got)
			}
		}
	})
}

// FuzzSession says anything to a session, in any of its states.
func FuzzSession(f *testing.F) {
	f.Add(byte(0), []byte(hello))
	f.Add(byte(1), []byte(keepalive))
	f.Add(byte(2), slices.Concat(msg(2, "0000 0000"), msg(5, "00010001"), keepalive, hello))
	f.Add(byte(2), msg(3, "0602 05 68656c6c6f"))
	f.Fuzz(func(t *testing.T, state byte, say []byte) {
		synctest.Test(t, func(t *testing.T) {
			r := newRouter(t)
			s := speak(t, map[string]*router{"leaf": r})
			s.Announce([]loadbalancer.Peer{leaf}, routes("192.0.2.1/32"))
			l := r.accept()
			l.want("OPEN")
			first := [][]byte{nil, hello, slices.Concat(hello, keepalive)}[state%3]
			if _, err := l.conn.Write(slices.Concat(first, say)); err == nil {
				synctest.Wait()
			}
			l.conn.Close()
			r.up(hello).untilEndOfRIB()
			if got := s.List()[0]; !got.Up || got.Prefixes != 1 {
				t.Errorf("after %x the next session is %+v", say, got)
			}
		})
	})
}
