package bgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/internal/logbook"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// The routers of these tests read and write the wire with their own code, so that they do not share our mistakes.

// A router accepts sessions and remembers what it is told.
type router struct {
	t     *testing.T
	start time.Time
	lines chan *line
	// deafAfter is after how many messages the router stops reading; 0: never.
	deafAfter int
	over      chan struct{} // closed with the test
	// patience is how long the test waits for something to happen.
	patience time.Duration

	mu      sync.Mutex
	dialled []time.Duration // when somebody connected, since the test began
	refusal error           // what connecting fails with, if anything
}

// A line is one connection, seen from the router.
type line struct {
	t        *testing.T
	conn     net.Conn
	patience time.Duration
	// heard is closed when the speaker closes the connection.
	heard chan frame
	// ears: a router that went deaf hears again when it is closed.
	ears chan struct{}
}

// A frame is one message of the speaker: all its bytes, and when it came.
type frame struct {
	bytes []byte
	at    time.Time
}

func (f frame) kind() byte   { return f.bytes[18] }
func (f frame) body() []byte { return f.bytes[19:] }

// speakerAddr is our address in sessions that run over pipes.
var speakerAddr = netip.MustParseAddr("10.0.0.2")

// speakerHops are next hops of both IP versions.
var speakerHops = hops{v4: hop{addr: speakerAddr}, v6: hop{addr: netip.MustParseAddr("2001:db8::2")}}

// A pipeEnd is the speaker's end of a pipe, which claims to be a TCP connection.
type pipeEnd struct{ net.Conn }

func (pipeEnd) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(speakerAddr, 34567))
}

func newRouter(t *testing.T) *router {
	r := &router{t: t, start: time.Now(), lines: make(chan *line, 1000), over: make(chan struct{}), patience: time.Hour}
	t.Cleanup(func() { close(r.over) })
	return r
}

// refuse makes connecting fail; nil makes it work again.
func (r *router) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = err
}

// attempts returns when somebody connected, since the test began.
func (r *router) attempts() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.dialled)
}

// connect is what dialling the router does.
func (r *router) connect() (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialled = append(r.dialled, time.Since(r.start))
	if r.refusal != nil {
		return nil, r.refusal
	}
	ours, theirs := net.Pipe()
	r.pick(theirs)
	return pipeEnd{ours}, nil
}

// pick takes a new connection.
func (r *router) pick(conn net.Conn) {
	l := &line{t: r.t, conn: conn, patience: r.patience, heard: make(chan frame, 100_000), ears: make(chan struct{})}
	go l.listen(r.deafAfter, r.over)
	r.lines <- l
}

func (l *line) listen(deafAfter int, over <-chan struct{}) {
	defer close(l.heard)
	for n := 1; ; n++ {
		header := make([]byte, 19)
		if _, err := io.ReadFull(l.conn, header); err != nil {
			return
		}
		rest := make([]byte, int(header[16])<<8+int(header[17])-19)
		if _, err := io.ReadFull(l.conn, rest); err != nil {
			return
		}
		l.heard <- frame{append(header, rest...), time.Now()}
		if header[18] == 3 {
			l.conn.Close() // as routers do after a NOTIFICATION
			return
		}
		if n == deafAfter {
			select {
			case <-l.ears:
			case <-over:
			}
		}
	}
}

// listenTCP makes the router a real one, with an address of its own, and returns the peer that is found there.
func (r *router) listenTCP(t *testing.T, loopback string) loadbalancer.Peer {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	r.patience = 10 * time.Second
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.pick(conn)
		}
	}()
	peer := leaf
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	peer.Addr, peer.Port = at.Addr(), at.Port()
	return peer
}

// accept waits for the next connection.
func (r *router) accept() *line {
	r.t.Helper()
	select {
	case l := <-r.lines:
		return l
	case <-time.After(r.patience):
		r.t.Fatal("nobody connects")
		return nil
	}
}

// up accepts the next connection, opens the session, and returns when the speaker has confirmed it.
func (r *router) up(hello []byte) *line {
	r.t.Helper()
	l := r.accept()
	l.want("OPEN")
	l.say(hello)
	l.want("KEEPALIVE")
	l.say(keepalive)
	return l
}

// say sends bytes to the speaker.
func (l *line) say(b []byte) {
	l.t.Helper()
	if _, err := l.conn.Write(b); err != nil {
		l.t.Fatalf("the speaker does not listen: %v", err)
	}
}

// next waits for the next message; its bytes are nil when the connection is closed.
func (l *line) next() frame {
	l.t.Helper()
	select {
	case f := <-l.heard:
		return f
	case <-time.After(l.patience):
		l.t.Fatal("the speaker says nothing")
		return frame{}
	}
}

// want checks that the next messages are these, in the notation of tell.
func (l *line) want(messages ...string) {
	l.t.Helper()
	for _, want := range messages {
		if got := tell(l.next()); got != want {
			l.t.Fatalf("the speaker says\n\t%s\nwant\n\t%s", got, want)
		}
	}
}

// untilEndOfRIB returns the UPDATEs up to and without End-of-RIB.
func (l *line) untilEndOfRIB() []frame {
	l.t.Helper()
	var updates []frame
	for {
		switch f := l.next(); tell(f) {
		case "END-OF-RIB":
			return updates
		case "KEEPALIVE":
		case "closed":
			l.t.Fatal("the speaker hangs up before End-of-RIB")
		default:
			updates = append(updates, f)
		}
	}
}

// tell says a message as an operator would.
func tell(f frame) string {
	if f.bytes == nil {
		return "closed"
	}
	b := f.body()
	switch f.kind() {
	case 1:
		return "OPEN"
	case 2:
		u := readUpdate(f)
		switch {
		case len(u.withdrawn)+len(u.attributes)+len(u.announced) == 0:
			return "END-OF-RIB"
		case bytes.Equal(u.attributes, unhex("80 0f 03 0002 01")):
			return "END-OF-RIB IPv6"
		}
		var parts []string
		if len(u.withdrawn) > 0 {
			parts = append(parts, "withdraw "+strings.Join(u.withdrawn, ","))
		}
		if len(u.announced) > 0 {
			parts = append(parts, "announce "+strings.Join(u.announced, ",")+" "+u.String())
		}
		return strings.Join(parts, "; ")
	case 3:
		text := fmt.Sprintf("NOTIFICATION %d/%d", b[0], b[1])
		if len(b) > 2 {
			text += " " + hex.EncodeToString(b[2:])
		}
		return text
	case 4:
		return "KEEPALIVE"
	case 5:
		return "ROUTE-REFRESH"
	}
	return fmt.Sprintf("message of type %d", f.kind())
}

// An update is an UPDATE, taken apart.
type update struct {
	withdrawn, announced []string
	attributes           []byte
}

func readUpdate(f frame) (u update) {
	b := f.body()
	withdrawn := b[2 : 2+int(b[0])<<8+int(b[1])]
	b = b[2+len(withdrawn):]
	u.attributes = b[2 : 2+int(b[0])<<8+int(b[1])]
	u.withdrawn, u.announced = prefixes(withdrawn, 1), prefixes(b[2+len(u.attributes):], 1)
	for kind, value := range u.all() {
		switch kind {
		case 14:
			u.announced = append(u.announced, prefixes(value[5+value[3]:], value[1])...)
		case 15:
			u.withdrawn = append(u.withdrawn, prefixes(value[3:], value[1])...)
		}
	}
	return u
}

// prefixes reads the prefixes of an address family.
func prefixes(b []byte, afi byte) []string {
	var list []string
	for len(b) > 0 {
		var addr [16]byte
		n := copy(addr[:], b[1:1+(int(b[0])+7)/8])
		prefix := netip.PrefixFrom(netip.AddrFrom16(addr), int(b[0]))
		if afi == 1 {
			prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte(addr[:])), int(b[0]))
		}
		list = append(list, prefix.String())
		b = b[1+n:]
	}
	return list
}

// all are the attributes, by their type.
func (u update) all() iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for b := u.attributes; len(b) > 0; {
			flags, kind, length, value := b[0], b[1], int(b[2]), b[3:]
			if flags&0x10 != 0 {
				length, value = length<<8+int(b[3]), b[4:]
			}
			value, b = value[:length], value[length:]
			if !yield(kind, value) {
				return
			}
		}
	}
}

// String writes the attributes as "path 64512 via 10.0.0.2 pref 100 [64512:1]".
func (u update) String() string {
	var words []string
	for kind, value := range u.all() {
		length := len(value)
		switch kind {
		case 1:
			if value[0] != 0 {
				words = append(words, "origin not IGP")
			}
		case 2, 17:
			words = append(words, map[byte]string{2: "path", 17: "path4"}[kind])
			if len(value) == 0 {
				break
			}
			size := (length - 2) / int(value[1])
			for i := range int(value[1]) {
				asn := slices.Concat(make([]byte, 4-size), value[2+i*size:2+(i+1)*size])
				words = append(words, fmt.Sprint(binary.BigEndian.Uint32(asn)))
			}
		case 3:
			words = append(words, "via", netip.AddrFrom4([4]byte(value)).String())
		case 5:
			words = append(words, "pref", fmt.Sprint(binary.BigEndian.Uint32(value)))
		case 8:
			for i := 0; i < length; i += 4 {
				words = append(words, fmt.Sprintf("[%d:%d]", binary.BigEndian.Uint16(value[i:]), binary.BigEndian.Uint16(value[i+2:])))
			}
		case 14:
			hop, _ := netip.AddrFromSlice(value[4 : 4+value[3]])
			words = append(words, "via", hop.String())
		case 16:
			words = append(words, fmt.Sprintf("[%x]", value))
		case 32:
			for i := 0; i < length; i += 12 {
				words = append(words, fmt.Sprintf("[%d:%d:%d]", binary.BigEndian.Uint32(value[i:]),
					binary.BigEndian.Uint32(value[i+4:]), binary.BigEndian.Uint32(value[i+8:])))
			}
		default:
			words = append(words, fmt.Sprintf("attribute %d", kind))
		}
	}
	return strings.Join(words, " ")
}

// msg is a message of a router: its body is hex, where spaces do not matter.
func msg(kind byte, body string) []byte {
	b := unhex(body)
	header := append(bytes.Repeat([]byte{0xff}, 16), byte((19+len(b))>>8), byte(19+len(b)), kind)
	return append(header, b...)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

var (
	keepalive = msg(4, "")
	// hello is the OPEN of a router of AS 64500, hold time 90 s, 10.0.0.1, that knows IPv4 unicast and 4-byte AS numbers.
	hello = msg(1, "04 fbf4 005a 0a000001 0e 020c 0104 00010001 4104 0000fbf4")
	// helloInside is that of a router of our own AS 64512.
	helloInside = msg(1, "04 fc00 005a 0a000001 0e 020c 0104 00010001 4104 0000fc00")
)

// leaf is a router in another AS, spine one in ours.
var (
	leaf = loadbalancer.Peer{
		Name: "leaf", Addr: netip.MustParseAddr("10.0.0.1"), Port: 179, ASN: 64500, MyASN: 64512,
		HoldTime: 90 * time.Second, KeepaliveTime: 30 * time.Second, ConnectTime: 5 * time.Second,
		RouterID: speakerAddr, RestartTime: 120 * time.Second,
	}
	spine = func() loadbalancer.Peer {
		p := leaf
		p.Name, p.Addr, p.ASN = "spine", netip.MustParseAddr("10.0.0.11"), 64512
		return p
	}()
)

// speak returns sessions that find these routers, and ends them with the test.
func speak(t *testing.T, routers map[string]*router) *Sessions {
	s := New(func() time.Duration { return time.Hour })
	s.dial = func(_ context.Context, peer loadbalancer.Peer) (net.Conn, error) {
		return routers[peer.Name].connect()
	}
	s.card = func(netip.Addr) card {
		return card{name: "eth0", addrs: []netip.Addr{speakerHops.v4.addr, speakerHops.v6.addr}}
	}
	t.Cleanup(s.Keep)
	logged.Take()
	return s
}

// Announce makes the sessions announce exactly these routes to exactly these peers.
func (s *Sessions) Announce(peers []loadbalancer.Peer, routes []loadbalancer.Route) {
	s.AnnounceSince(peers, routes, time.Time{})
}

func (s *Sessions) AnnounceSince(peers []loadbalancer.Peer, routes []loadbalancer.Route, since time.Time) {
	changed := map[netip.Prefix][]loadbalancer.Route{}
	s.mu.RLock()
	for prefix := range s.table.routes {
		changed[prefix] = nil
	}
	for prefix, some := range tableOf(routes) {
		if changed[prefix] = some; slices.EqualFunc(some, s.table.routes[prefix], loadbalancer.Route.Equal) {
			delete(changed, prefix)
		}
	}
	s.mu.RUnlock()
	s.Update(peers, changed, since)
}

func tableOf(routes []loadbalancer.Route) map[netip.Prefix][]loadbalancer.Route {
	table := map[netip.Prefix][]loadbalancer.Route{}
	for _, r := range routes {
		table[r.Prefix] = append(table[r.Prefix], r)
	}
	return table
}

// all is update with all of a table.
func (l *ledger) all(routes []loadbalancer.Route, again ...bgp.RouteFamily) ([]byte, int, error) {
	table := tableOf(routes)
	return l.update(table, true, again...)
}

// routes makes routes of prefixes, all with local preference 100.
func routes(prefixes ...string) []loadbalancer.Route {
	var list []loadbalancer.Route
	for _, p := range prefixes {
		list = append(list, loadbalancer.Route{Prefix: netip.MustParsePrefix(p), LocalPref: 100})
	}
	return list
}

// manyRoutes makes n routes of single addresses, from 10.1.0.0 on.
func manyRoutes(n int) []loadbalancer.Route {
	list := make([]loadbalancer.Route, n)
	for i := range list {
		addr := netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
		list[i] = loadbalancer.Route{Prefix: netip.PrefixFrom(addr, 32), LocalPref: 100}
	}
	return list
}

// errRefused is what the kernel answers for a port nobody listens on.
var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

// logged is everything the package logs.
var logged = logbook.Open()

// wantLogged checks what has been logged once nothing moves any more.
func wantLogged(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := logged.Lines(); !slices.Equal(got, want) {
		t.Errorf("logged\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
