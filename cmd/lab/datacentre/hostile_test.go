package datacentre

import (
	"bufio"
	"debug/buildinfo"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// Types of messages (RFC 4271 §4.1, RFC 2918).
const (
	open = iota + 1
	update
	notification
	keepalive
	refresh
)

// hostileASN is the AS of every hostile router.
const hostileASN = 666

// message is a well-formed header, and whatever behind it.
func message(kind byte, body ...byte) []byte {
	return sized(19+len(body), kind, body...)
}

// sized is a message that claims a length.
func sized(length int, kind byte, body ...byte) []byte {
	b := []byte(strings.Repeat("\xff", 16))
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	return append(append(b, kind), body...)
}

// hello is an OPEN: version, AS, hold time of 90 s, router ID, optional parameters.
func hello(change func(body []byte) []byte) []byte {
	body := binary.BigEndian.AppendUint16([]byte{4}, hostileASN)
	body = append(body, 0, 90, 10, 0, 0, 66)
	// One parameter with capabilities: IPv4 unicast, route refresh, the AS number in 4 bytes.
	capabilities := binary.BigEndian.AppendUint32([]byte{1, 4, 0, 1, 0, 1, 2, 0, 65, 4}, hostileASN)
	body = append(body, byte(len(capabilities)+2), 2, byte(len(capabilities)))
	body = append(body, capabilities...)
	if change != nil {
		body = change(body)
	}
	return message(open, body...)
}

// with replaces the optional parameters of an OPEN.
func with(parameters ...byte) func([]byte) []byte {
	return func(body []byte) []byte { return append(append(body[:9:9], byte(len(parameters))), parameters...) }
}

// at changes bytes.
func at(i int, values ...byte) func([]byte) []byte {
	return func(body []byte) []byte { copy(body[i:], values); return body }
}

// routes is an UPDATE that announces n prefixes of 24 bits, different ones for each i.
func routes(i, n int) []byte {
	attributes := []byte{
		0x40, 1, 1, 0, // ORIGIN IGP
		0x40, 2, 6, 2, 1, 0, 0, 2, 154, // AS_PATH 666
		0x40, 3, 4, 10, 0, 0, 66, // NEXT_HOP
	}
	body := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(attributes)))
	body = append(body, attributes...)
	for j := range n {
		body = append(body, 24, byte(20+i/256), byte(i), byte(j))
	}
	return message(update, body...)
}

// A wire is a connection of the speaker, seen from the hostile router.
type wire struct {
	*net.TCPConn
	r *bufio.Reader
}

func (w wire) say(messages ...[]byte) error {
	for _, m := range messages {
		if _, err := w.Write(m); err != nil {
			return err
		}
	}
	return nil
}

// next is the speaker's next message.
func (w wire) next() (kind byte, body []byte, err error) {
	header := make([]byte, 19)
	if _, err := io.ReadFull(w.r, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, int(binary.BigEndian.Uint16(header[16:]))-19)
	_, err = io.ReadFull(w.r, body)
	return header[18], body, err
}

// meet exchanges OPENs and KEEPALIVEs, and reads the table until End-of-RIB. It returns how many prefixes were in it.
func (w wire) meet() (prefixes int, err error) {
	if err := w.say(hello(nil), message(keepalive)); err != nil {
		return 0, err
	}
	for {
		kind, body, err := w.next()
		switch {
		case err != nil:
			return 0, fmt.Errorf("no table: %w", err)
		case kind == notification:
			return 0, fmt.Errorf("no table, but NOTIFICATION %d/%d", body[0], body[1])
		case kind == update && len(body) == 4:
			return prefixes, nil
		case kind == update:
			prefixes += (len(body) - 4 - int(binary.BigEndian.Uint16(body[2:]))) / 5 // /32 each
		}
	}
}

// refused reads until the speaker ends the session, and demands a NOTIFICATION. A subcode of 255 means any.
func (w wire) refused(code, subcode byte) error {
	for {
		kind, body, err := w.next()
		if err != nil {
			return fmt.Errorf("instead of NOTIFICATION %d/%d: %w", code, subcode, err)
		}
		if kind != notification {
			continue
		}
		if body[0] != code || body[1] != subcode && subcode != 255 {
			return fmt.Errorf("NOTIFICATION %d/%d instead of %d/%d", body[0], body[1], code, subcode)
		}
		if _, _, err := w.next(); err == nil {
			return errors.New("something came after the NOTIFICATION")
		}
		return nil
	}
}

// lives demands that the session is still there: it answers a ROUTE-REFRESH.
func (w wire) lives() error {
	if err := w.say(message(refresh, 0, 1, 0, 1)); err != nil {
		return err
	}
	for {
		kind, body, err := w.next()
		switch {
		case err != nil:
			return fmt.Errorf("the session ended: %w", err)
		case kind == notification:
			return fmt.Errorf("the session ended with NOTIFICATION %d/%d", body[0], body[1])
		case kind == update:
			return nil
		}
	}
}

// A crime is what a hostile router does.
type crime struct {
	what string
	// early: instead of an OPEN; else in a session that is up.
	early bool
	// hold is the session's hold time; empty: 90s.
	hold string
	// slow ones are not repeated.
	slow   bool
	commit func(wire) error
}

// answered is a crime that is answered with a NOTIFICATION.
func answered(what string, early bool, code, subcode byte, messages ...[]byte) crime {
	return crime{what: what, early: early, commit: func(w wire) error {
		if err := w.say(messages...); err != nil {
			return err
		}
		return w.refused(code, subcode)
	}}
}

// borne is a crime that a session outlives.
func borne(what string, commit func(wire) error) crime {
	return crime{what: what, commit: func(w wire) error { return errors.Join(commit(w), w.lives()) }}
}

// hangup is the end of a connection after these bytes, orderly or by a reset.
func hangup(what string, early bool, linger int, b []byte) crime {
	return crime{what: what, early: early, commit: func(w wire) error {
		return errors.Join(w.say(b), w.SetLinger(linger), w.Close())
	}}
}

func crimes() []crime {
	badOpen := func(what string, subcode byte, change func([]byte) []byte) crime {
		return answered(what, true, 2, subcode, hello(change))
	}
	noMarker := message(keepalive)
	noMarker[7] = 0
	text := append([]byte{6, 2, 200}, "\x1b[2J\nI0101 forged\r"...) // longer than it says it is, and meant for a terminal
	all := []crime{
		badOpen("OPEN of version 3", 1, at(0, 3)),
		badOpen("OPEN of another AS", 2, at(25, 0, 0, 2, 155)),
		badOpen("OPEN without a router ID", 3, at(5, 0, 0, 0, 0)),
		badOpen("OPEN with a hold time of 1 s", 6, at(3, 0, 1)),
		badOpen("OPEN with a hold time of 2 s", 6, at(3, 0, 2)),
		badOpen("OPEN with a parameter of unknown type", 4, with(1, 4, 0, 0, 0, 0)),
		badOpen("OPEN with fewer parameters than it says", 0, at(9, 200)),
		badOpen("OPEN with more parameters than it says", 0, at(9, 3)),
		badOpen("OPEN with a parameter that is cut off", 0, with(2, 50, 65, 4)),
		badOpen("OPEN with one byte of a parameter", 0, with(2)),
		badOpen("OPEN with a capability that is cut off", 0, with(2, 4, 65, 4, 0, 0)),
		badOpen("OPEN with a multiprotocol capability of 3 bytes", 0, with(2, 5, 1, 3, 0, 1, 0)),
		badOpen("OPEN with an AS number of 2 bytes", 0, with(2, 4, 65, 2, 2, 154)),
		badOpen("OPEN with only IPv6 flow specification", 7, with(2, 12, 1, 4, 0, 2, 0, 133, 65, 4, 0, 0, 2, 154)),
		answered("OPEN of 28 bytes", true, 1, 2, sized(28, open, hello(nil)[19:28]...)),
		answered("OPEN that claims 65535 bytes", true, 1, 2, sized(65535, open, 4)),
		answered("an unknown type first", true, 1, 3, message(0)),
		answered("type 255 first", true, 1, 3, message(255, 1, 2, 3)),
		answered("no marker first", true, 1, 1, []byte("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")),
		answered("a length of 18 first", true, 1, 2, sized(18, open)),
		answered("a length of 0 first", true, 1, 2, sized(0, open)),
		answered("KEEPALIVE instead of OPEN", true, 5, 255, message(keepalive)),
		answered("UPDATE instead of OPEN", true, 5, 255, routes(0, 3)),
		answered("ROUTE-REFRESH instead of OPEN", true, 5, 255, message(refresh, 0, 1, 0, 1)),
		answered("two OPENs", true, 5, 255, hello(nil), hello(nil)),
		answered("UPDATE instead of KEEPALIVE", true, 5, 255, hello(nil), routes(0, 3)),
		answered("NOTIFICATION of 20 bytes first", true, 1, 2, message(notification, 6)),
		hangup("a header that is cut off", true, -1, hello(nil)[:17]),
		hangup("OPEN that is cut off", true, -1, hello(nil)[:30]),
		hangup("reset after half an OPEN", true, 0, hello(nil)[:30]),
		hangup("NOTIFICATION with a forged text first", true, -1, message(notification, text...)),
		{what: "OPEN a byte at a time", early: true, commit: func(w wire) error {
			for _, b := range append(hello(nil), message(keepalive)...) {
				if err := w.say([]byte{b}); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
			return w.lives()
		}},
		{what: "silence after connecting", early: true, slow: true, commit: func(w wire) error { return w.refused(4, 0) }},
		{what: "silence after OPEN", early: true, slow: true, hold: "9s", commit: func(w wire) error {
			return errors.Join(w.say(hello(at(3, 0, 9))), w.refused(4, 0))
		}},

		answered("a second OPEN", false, 5, 255, hello(nil)),
		answered("an unknown type", false, 1, 3, message(77, 1, 2, 3)),
		answered("no marker", false, 1, 1, noMarker),
		answered("a length of 18", false, 1, 2, sized(18, update)),
		answered("a length of 4097", false, 1, 2, sized(4097, update, make([]byte, 4078)...)),
		answered("KEEPALIVE of 20 bytes", false, 1, 2, message(keepalive, 0)),
		answered("UPDATE of 22 bytes", false, 1, 2, message(update, 0, 0, 0)),
		answered("ROUTE-REFRESH of 22 bytes", false, 1, 2, message(refresh, 0, 1, 0)),
		answered("NOTIFICATION of 20 bytes", false, 1, 2, message(notification, 6)),
		hangup("NOTIFICATION with a forged text", false, -1, message(notification, text...)),
		hangup("reset after half an UPDATE", false, 0, routes(1, 100)[:200]),
		{what: "half an UPDATE, then silence", slow: true, hold: "9s", commit: func(w wire) error {
			return errors.Join(w.say(routes(1, 100)[:200]), w.refused(4, 0))
		}},
		borne("ROUTE-REFRESH of a family that was not agreed", func(w wire) error { return w.say(message(refresh, 0, 25, 0, 70)) }),
		borne("ROUTE-REFRESH of 4096 bytes", func(w wire) error { return w.say(message(refresh, make([]byte, 4077)...)) }),
		borne("malformed UPDATEs", func(w wire) error {
			random := rand.New(rand.NewPCG(1, 2))
			for range 2000 {
				body := make([]byte, 4+random.IntN(300))
				for i := range body {
					body[i] = byte(random.Uint32())
				}
				if err := w.say(message(update, body...)); err != nil {
					return err
				}
			}
			// The shortest of those that crash GoBGP's server: a transitive Prefix-SID that is malformed.
			return w.say(message(update, 0, 0, 0, 7, 0xc0, 40, 4, 1, 0, 7, 0))
		}),
		borne("100,000 routes", func(w wire) error {
			for i := range 500 {
				if err := w.say(routes(i, 200)); err != nil {
					return err
				}
			}
			return nil
		}),
		borne("a flood of KEEPALIVEs", func(w wire) error {
			many := strings.Repeat(string(message(keepalive)), 1000)
			for range 100 {
				if err := w.say([]byte(many)); err != nil {
					return err
				}
			}
			return nil
		}),
		{what: "a flood of ROUTE-REFRESHes", commit: func(w wire) error {
			wrote := make(chan error, 1)
			go func() {
				many := strings.Repeat(string(message(refresh, 0, 1, 0, 1)), 1000)
				for range 20 {
					if err := w.say([]byte(many)); err != nil {
						wrote <- err
						return
					}
				}
				wrote <- w.say(message(77)) // the end
			}()
			return errors.Join(w.refused(1, 3), <-wrote)
		}},
		// Whoever reads nothing is left alone: what is written to it ends in the kernel's buffers, and then in an error.
		{what: "a reader that stops", slow: true, hold: "0s", commit: func(w wire) error {
			if err := w.SetReadBuffer(4096); err != nil {
				return err
			}
			many := []byte(strings.Repeat(string(message(refresh, 0, 1, 0, 1)), 100))
			for {
				if _, err := w.Write(many); err != nil {
					return nil // the speaker has closed the connection
				}
				time.Sleep(time.Millisecond)
			}
		}},
	}
	for seed := range uint64(8) {
		all = append(all, crime{what: fmt.Sprintf("random damage %d", seed), early: true, commit: func(w wire) error {
			random := rand.New(rand.NewPCG(seed, seed))
			b := append(append(hello(nil), message(keepalive)...), append(routes(1, 50), message(refresh, 0, 1, 0, 1)...)...)
			for range 1 + random.IntN(4) {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
			_ = w.say(b) // some damage ends the session before all is said
			time.Sleep(100 * time.Millisecond)
			return w.Close()
		}})
	}
	return all
}

// A suspect is a hostile router at a port of its own.
type suspect struct {
	crime
	port     int
	listener net.Listener
	prefixes int // of the complete table

	mu   sync.Mutex
	todo bool
	held error // nil while the last session is up
	done error
}

// serve takes one connection after the other, until the listener is closed: it behaves, except once after it was told to misbehave.
func (s *suspect) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		tcp := conn.(*net.TCPConn)
		w := wire{tcp, bufio.NewReader(tcp)}
		s.mu.Lock()
		guilty := s.todo && s.early
		s.mu.Unlock()
		if guilty {
			s.note(s.commit(w))
			conn.Close()
			continue
		}
		n, err := w.meet()
		if err == nil && n != s.prefixes {
			err = fmt.Errorf("a table of %d prefixes instead of %d", n, s.prefixes)
		}
		s.mu.Lock()
		s.held = err
		s.mu.Unlock()
		if err == nil {
			err = s.behave(w)
		}
		s.mu.Lock()
		s.held = fmt.Errorf("the session ended: %w", err)
		s.mu.Unlock()
		conn.Close()
	}
}

var errTold = errors.New("it was told to misbehave")

// behave keeps a session up until it is told to misbehave, and does that.
func (s *suspect) behave(w wire) error {
	for {
		s.mu.Lock()
		guilty := s.todo
		s.mu.Unlock()
		if guilty && s.early {
			return errTold // with the next connection
		}
		if guilty {
			s.note(s.commit(w))
			return errTold
		}
		if err := w.say(message(keepalive)); err != nil {
			return err
		}
		// What the speaker says meanwhile is no news.
		if err := w.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return err
		}
		_, _, err := w.next()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := w.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
}

// note notes what came of the crime.
func (s *suspect) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo, s.held, s.done = false, errTold, err // and must come up anew
}

func (s *suspect) state() (todo bool, held, done error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.todo, s.held, s.done
}

func TestHostileRoutersHarmNobodyElse(t *testing.T) {
	t.Parallel()
	s := build(t)
	ctx := t.Context()
	frr := s.frr(t, "frr", frrAddr, 100)
	host := made(s.lan.Host("hostile", "10.0.0.66/24"))(t)
	want := s.exposeMany(t, 500)

	peers := fmt.Sprintf("peers:\n- {peer-address: %s, peer-asn: 100, my-asn: %d, connect-time: 1s}\n", frrAddr, clusterASN)
	var suspects []*suspect
	for i, c := range crimes() {
		suspect := &suspect{crime: c, port: 2000 + i, held: errors.New("no session yet")}
		for prefix := range want {
			if prefix.Addr().Is4() { // that is all it asks for
				suspect.prefixes++
			}
		}
		suspect.listener = made(host.Listen(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.66"), uint16(suspect.port)).String()))(t)
		suspects = append(suspects, suspect)
		hold := "90s"
		if c.hold != "" {
			hold = c.hold
		}
		peers += fmt.Sprintf("- {name: \"h%d\", peer-address: 10.0.0.66, peer-port: %d, peer-asn: %d, my-asn: %d, connect-time: 1s, hold-time: %s}\n",
			i, suspect.port, hostileASN, clusterASN, hold)
		go suspect.serve()
	}
	must(t, s.Admit(ctx, peers+pools("")))
	speaker := s.speak(t)
	sends(t, frr, want)
	allUp := func(what string) {
		t.Helper()
		deadline := time.Now().Add(2 * patience)
		for _, suspect := range suspects {
			for {
				todo, held, done := suspect.state()
				if !todo && held == nil {
					if done != nil {
						t.Errorf("%s: %v", suspect.what, done)
					}
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("%s, %s: todo %v, %v", what, suspect.what, todo, held)
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	allUp("before")
	before := upAnew(t, frr, network.Session{})
	recorders := record(t, frr)
	memory := rss(t, speaker)
	most := 8 << 10 // KB
	if raced(t, speaker) {
		most *= 8 // the race detector has a memory of its own
	}

	for round := range 2 {
		crimes := 0
		for _, suspect := range suspects {
			if round > 0 && suspect.slow {
				continue
			}
			crimes++
			suspect.mu.Lock()
			suspect.todo = true
			suspect.mu.Unlock()
		}
		began := time.Now()
		allUp(fmt.Sprintf("round %d", round+1))
		now := rss(t, speaker)
		t.Logf("round %d: %d crimes in %v; %d KB before, %d KB after", round+1, crimes, time.Since(began).Round(time.Millisecond), memory, now)
		if now-memory > most {
			t.Errorf("the speaker grew from %d to %d KB", memory, now)
		}
	}
	quiet(t, recorders, "hostile routers")
	if now := session(t, frr); now.History != before.History || now.Updates != before.Updates || !now.Up {
		t.Errorf("the session with FRR was %+v and is %+v", before, now)
	}
	select {
	case <-speaker.Done():
		t.Error("the speaker ended")
	default:
	}
	log := speaker.Output()
	if strings.Contains(log, "\x1b") || regexp.MustCompile(`(?m)^I0101 forged`).MatchString(log) {
		t.Error("a router's text got into the log as it was")
	}
	if !strings.Contains(log, "the router has read nothing for") {
		t.Error("the speaker did not notice the reader that stops")
	}
}

// raced reports whether a process was built with the race detector.
func raced(t *testing.T, p *kubernetes.Process) bool {
	t.Helper()
	info := made(buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", p.PID())))(t)
	return slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

// rss is the resident memory of a process in KB.
func rss(t *testing.T, p *kubernetes.Process) int {
	t.Helper()
	text := made(os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID())))(t)
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no VmRSS in\n%s", text)
	}
	return made(strconv.Atoi(string(m[1])))(t)
}
