// Package bgp tells routers which prefixes this node wants traffic for, and nothing else: its BGP sessions only send.
//
// Update takes the peers and what has changed of the routes, and the sessions work out what each router has not heard
// yet. A session dials its router, opens, sends the complete table and End-of-RIB, and from then on only the differences,
// packed into few messages. It never listens, and what a router sends as routes is framed, counted and dropped without
// being looked at, so that neither memory nor safety depends on what routers say. When the process restarts, routers keep
// the routes (graceful restart, RFC 4724): Keep ends the sessions without a word, Withdraw ends them in so many words.
//
// A session is a goroutine that owns all its state. It shares only the desired table, which it reads by reference, a
// doorbell that says "look again", and the few figures that List shows.
//
// OPEN messages and path attributes are built and read with GoBGP's packet codec. Its server is not used here: it crashes
// on malformed messages of a configured router, keeps what routers send, and loses routes over a restart, because its end
// is always a Cease and it tells only the first router that it has restarted.
package bgp

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
	"golang.org/x/sys/unix"
)

// dialTimeout leaves room for a lost SYN, which the kernel repeats after a second. Of a router that is not there, the next
// attempt learns sooner that it is back than a SYN that is repeated after 3 and 7 s.
const dialTimeout = 3 * time.Second

// Sessions are the BGP sessions of this node. All methods may be called by any goroutine.
type Sessions struct {
	// uptime is how long the host has been up: how long its kernel has been forwarding.
	uptime func() time.Duration
	dial   func(context.Context, loadbalancer.Peer) (net.Conn, error)
	// Written, if set before the first announcement, is told when a session has written to its router what Update was given,
	// since when. Any session's goroutine calls it.
	Written func(peer string, since time.Time)
	card    func(netip.Addr) card

	// mu guards what follows, and the peers that sessions desire. Sessions only read, with a reader's lock.
	mu       sync.RWMutex
	table    table
	sessions []*session // in the order Update was given the peers
	// leaving are sessions that were told to end and may not have ended yet.
	leaving []*session
	// met remembers the routers that have been up since this process started: their sessions no longer say "restarting".
	met  map[netip.AddrPort]*atomic.Bool
	over bool // Keep or Withdraw was called
}

// A Session describes one session, as it was when List was called.
type Session struct {
	Peer string // the peer's name
	Addr netip.Addr
	Port uint16
	ASN  uint32 // the router's, last learned from its OPEN; 0 if it never was and is not configured

	Up    bool
	State string    // RFC 4271's
	Since time.Time // when the session last came up or went down, or was first asked for
	// LastError says why the session is down, or why a route cannot be sent while it is up; empty if all is well.
	LastError string
	Terms     *report.Terms // nil: the session is not up

	BFD bool // the peer has a bfd-profile

	Failures int // attempts that did not bring the session up
	Attempts int // of these, since it was last up
	Updates  int // UPDATE messages sent
	Prefixes int // prefixes announced now
	Dropped  int // UPDATE messages of the router that were dropped

	ledger *ledger // nil: the session is not up
}

// Routes are what the router knows now, by prefix, if the session is up, with the attributes that were on the wire. Anybody may
// call it, and take as long as it likes.
func (s Session) Routes() iter.Seq[report.Route] {
	return func(yield func(report.Route) bool) {
		if s.ledger == nil {
			return
		}
		same := func(a *attributes) *attributes { return a }
		for prefix, a := range report.InOrder(&s.ledger.mu, s.ledger.told, netip.Prefix.Compare, same) {
			if !yield(a.shown(prefix)) {
				return
			}
		}
	}
}

// Told adds to all the prefixes that the router knows now, if the session is up. Anybody may call it.
func (s Session) Told(all map[netip.Prefix]bool) {
	if s.ledger == nil {
		return
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for prefix := range s.ledger.told {
		all[prefix] = true
	}
}

// New returns Sessions without any peer. uptime says how long the host has been up; see HostUptime.
func New(uptime func() time.Duration) *Sessions {
	return &Sessions{uptime: uptime, dial: dial, card: cardOf, met: make(map[netip.AddrPort]*atomic.Bool), table: table{routes: make(map[netip.Prefix][]loadbalancer.Route)}}
}

// Update makes the sessions announce to exactly these peers what is in the table: of the prefixes in changed exactly these
// routes, of all others the same as before. It returns at once. Sessions of peers that did not change stay up, and hear only
// what is new to them; a new name or connect-time is no change. A peer of which something else changed gets a new
// connection, in its turn: where graceful restart is on, its router keeps the routes meanwhile. A peer that is gone is told
// so, and forgets our routes. since is when the change was first seen; see Written.
//
// Peers have a RouterID, and a SourceAddress where the operator asked for one; no two are one neighbor to a router. The caller must not change anything of it
// afterwards. If two routes of one prefix are for the same peer, the first counts.
func (s *Sessions) Update(peers []loadbalancer.Peer, changed map[netip.Prefix][]loadbalancer.Route, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.table.change(changed)

	s.leaving = slices.DeleteFunc(s.leaving, (*session).ended)
	left, sessions := slices.Clone(s.sessions), make([]*session, len(peers))
	for i, peer := range peers {
		if at := slices.IndexFunc(left, func(o *session) bool { return peer.SameNeighbor(*o.desired.Load()) }); at >= 0 {
			sessions[i] = left[at]
			left = slices.Delete(left, at, at+1)
		}
	}
	for _, o := range left {
		o.leave(deconfigured)
		s.leaving = append(s.leaving, o)
	}
	// New sessions start last, because each waits for those that are leaving the same router.
	for i, peer := range peers {
		if sessions[i] == nil {
			sessions[i] = s.start(peer)
		} else {
			sessions[i].want(peer, len(changed) > 0, since)
		}
	}
	s.sessions = sessions
}

// start starts the session of a new peer.
func (s *Sessions) start(peer loadbalancer.Peer) *session {
	router := netip.AddrPortFrom(peer.Addr, peer.Port)
	if s.met[router] == nil {
		s.met[router] = new(atomic.Bool)
	}
	o := newSession(peer, s)
	o.met = s.met[router]
	for _, l := range s.leaving {
		if old := l.desired.Load(); netip.AddrPortFrom(old.Addr, old.Port) == router {
			// Two connections to one router would collide, and it would close one (RFC 4271 §6.8).
			o.after = append(o.after, l.done)
		}
	}
	go o.run()
	return o
}

// List describes the session of every peer, in the order Update was given them.
func (s *Sessions) List() []Session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Session
	for _, o := range s.sessions {
		list = append(list, o.status())
	}
	return list
}

// Lost ends the sessions with a router that BFD takes for dead, without NOTIFICATION, and tries again. local is our address, or the
// zero Addr for any.
func (s *Sessions) Lost(router, local netip.Addr) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, o := range s.sessions {
		if p := o.desired.Load(); p.BFDProfile != "" && p.Addr == router && (!local.IsValid() || p.SourceAddress.WithZone("") == local) {
			knock(o.lost)
		}
	}
}

// LookAgain makes every session look for its next hops again.
func (s *Sessions) LookAgain() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, o := range s.sessions {
		o.look.Store(true)
		o.ring(time.Time{})
	}
}

// Keep ends every session without a NOTIFICATION, so that routers keep our routes until we are back (RFC 4724). Nothing is
// announced after that.
func (s *Sessions) Keep() {
	s.end(context.Background(), farewell{silent: true, why: "this speaker stops; the router keeps its routes until it is back"})
}

// Withdraw withdraws every route, then closes every session with an Administrative Shutdown that carries text to the
// router's operator (RFC 9003). It waits until routers have been told, or ctx ends. Nothing is announced after that.
func (s *Sessions) Withdraw(ctx context.Context, text string) {
	why := strings.TrimSuffix("this speaker withdrew its routes and stops: "+text, ": ")
	s.end(ctx, farewell{subcode: ceaseShutdown, text: text, withdraw: true, hurry: ctx, why: why})
}

// end says goodbye to all, and waits until they have ended, or ctx has.
func (s *Sessions) end(ctx context.Context, f farewell) {
	s.mu.Lock()
	s.over = true
	all := slices.Concat(s.sessions, s.leaving)
	s.mu.Unlock()
	for _, o := range all {
		o.leave(f)
	}
	for _, o := range all {
		select {
		case <-o.done:
		case <-ctx.Done():
		}
	}
}

// dial connects to the peer.
func dial(ctx context.Context, peer loadbalancer.Peer) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	if peer.SourceAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(peer.SourceAddress, 0))
	}
	// Before the connection exists, because already the SYN is signed and has a TTL.
	dialer.Control = func(network, _ string, socket syscall.RawConn) error {
		var failed error
		err := socket.Control(func(fd uintptr) { failed = prepare(int(fd), network == "tcp6", peer) })
		return cmp.Or(err, failed)
	}
	return dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(peer.Addr, peer.Port).String())
}

// internetControl is the mark of routing protocols' packets: the precedence that RFC 4271 appendix E wants, DSCP CS6 since
// RFC 2474. Where a link is full, networks let it go first.
const internetControl = 0xc0

// prepare sets what the peer asks of a socket: TTL, GTSM (RFC 5082) and TCP MD5 (RFC 2385).
func prepare(fd int, v6 bool, peer loadbalancer.Peer) error {
	level, class, ttl, minTTL := unix.IPPROTO_IP, unix.IP_TOS, unix.IP_TTL, unix.IP_MINTTL
	if v6 {
		level, class, ttl, minTTL = unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	}
	if err := unix.SetsockoptInt(fd, level, class, internetControl); err != nil {
		return fmt.Errorf("mark packets as CS6: %w", err)
	}
	if peer.TTL != 0 {
		if err := unix.SetsockoptInt(fd, level, ttl, int(peer.TTL)); err != nil {
			return fmt.Errorf("set the TTL: %w", err)
		}
	}
	if peer.MinTTL != 0 {
		if err := unix.SetsockoptInt(fd, level, minTTL, int(peer.MinTTL)); err != nil {
			return fmt.Errorf("ask for ttl-security: %w", err)
		}
	}
	if peer.Password == "" {
		return nil
	}
	key := unix.TCPMD5Sig{Keylen: uint16(len(peer.Password))}
	if len(peer.Password) > len(key.Key) {
		return fmt.Errorf("the password is longer than %d bytes", len(key.Key))
	}
	copy(key.Key[:], peer.Password)
	// The kernel keeps keys by the router's address, which is a struct sockaddr_in or sockaddr_in6 here.
	if v6 {
		key.Addr.Family = unix.AF_INET6
		copy(key.Addr.Data[6:], peer.Addr.AsSlice())
	} else {
		key.Addr.Family = unix.AF_INET
		copy(key.Addr.Data[2:], peer.Addr.AsSlice())
	}
	if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &key); err != nil {
		return fmt.Errorf("ask for TCP MD5: %w", err)
	}
	return nil
}

// HostUptime returns how long the host has been up, suspended time included; 0 if the kernel does not say. Unlike
// /proc/uptime it is the host's also in containers that have a /proc of their own.
func HostUptime() time.Duration {
	var info syscall.Sysinfo_t
	_ = syscall.Sysinfo(&info) // 0 is the safe answer: routers do not count on us having kept forwarding
	return time.Duration(info.Uptime) * time.Second
}
