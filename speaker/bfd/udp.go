package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// longest is more than any BFD Control packet has: its length is one byte.
	longest = 256
	// most is how many datagrams of a socket are read before the time is looked at.
	most = 512
	// internetControl marks routing protocols' packets: DSCP CS6.
	internetControl = 0xc0
	// firstPort to 65535 are what packets of BFD may come from (RFC 5881 §4).
	firstPort = 49152
)

// sockets are the wire of a real node: raw file descriptors and one poll(2), so that one goroutine hears everything there is before
// it looks at the time.
type sockets struct {
	heard []listener
	bell  int // an eventfd
	polls []unix.PollFd
	// What hear returns.
	datagrams []datagram
	payloads  [][longest]byte
	control   [128]byte
}

type listener struct {
	fd   int
	port uint16
}

// listen opens the four sockets that BFD is heard on. A host without IPv6 has two.
func listen() (*sockets, error) {
	s := &sockets{}
	bell, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	s.bell, s.polls = bell, []unix.PollFd{{Fd: int32(bell), Events: unix.POLLIN}}
	for _, v6 := range []bool{false, true} {
		for _, port := range []uint16{SingleHop, Multihop} {
			fd, err := listenOn(v6, port)
			if v6 && errors.Is(err, unix.EAFNOSUPPORT) {
				continue
			}
			if errors.Is(err, unix.EADDRINUSE) {
				err = fmt.Errorf("%w: another program of this node, such as a router's bfdd, has the port: stop it, or do without BFD here", err)
			}
			if err != nil {
				s.close()
				return nil, fmt.Errorf("hear BFD on UDP port %d: %w", port, err)
			}
			s.heard = append(s.heard, listener{fd, port})
			s.polls = append(s.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	return s, nil
}

func (s *sockets) close() {
	for _, l := range s.heard {
		_ = unix.Close(l.fd) // nothing was written
	}
	_ = unix.Close(s.bell)
}

// socket makes a UDP socket whose packets nobody between has forwarded, as the TTL tells, and that never waits.
func socket(v6 bool) (int, error) {
	family, level, ttl, class := unix.AF_INET, unix.IPPROTO_IP, unix.IP_TTL, unix.IP_TOS
	if v6 {
		family, level, ttl, class = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_TCLASS
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, err
	}
	err = errors.Join(unix.SetsockoptInt(fd, level, ttl, directTTL), unix.SetsockoptInt(fd, level, class, internetControl))
	if v6 {
		err = errors.Join(err, unix.SetsockoptInt(fd, level, unix.IPV6_V6ONLY, 1))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func listenOn(v6 bool, port uint16) (int, error) {
	fd, err := socket(v6)
	if err != nil {
		return -1, err
	}
	if v6 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1), unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}))
	} else {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1), unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}))
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *sockets) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(s.bell, one[:]) // fails only if it rings already, four billion times over
}

func (s *sockets) hear(until time.Time) []datagram {
	var wait *unix.Timespec
	if !until.IsZero() {
		at := unix.NsecToTimespec(int64(max(0, time.Until(until))))
		wait = &at
	}
	if _, err := unix.Ppoll(s.polls, wait, nil); err != nil {
		return nil // a signal: look at the time
	}
	if s.polls[0].Revents != 0 {
		var rung [8]byte
		_, _ = unix.Read(s.bell, rung[:]) // somebody else's ring is as good
	}
	s.datagrams = s.datagrams[:0]
	for _, l := range s.heard {
		for range most {
			if !s.read(l) {
				break
			}
		}
	}
	return s.datagrams
}

// read reads one datagram, and reports whether there may be more.
func (s *sockets) read(l listener) bool {
	at := len(s.datagrams)
	if at == len(s.payloads) {
		s.payloads = append(s.payloads, [longest]byte{})
	}
	n, oobn, _, from, err := unix.Recvmsg(l.fd, s.payloads[at][:], s.control[:], unix.MSG_DONTWAIT)
	if err != nil {
		return errors.Is(err, unix.EINTR)
	}
	d := datagram{port: l.port, payload: s.payloads[at][:n:n]}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		d.from = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		d.from = netip.AddrFrom16(from.Addr)
		if from.ZoneId != 0 {
			d.from = d.from.WithZone(zone(l.fd, from.ZoneId))
		}
	}
	d.readControl(s.control[:oobn])
	s.datagrams = append(s.datagrams, d)
	return true
}

// readControl reads what the kernel says of a datagram. What it does not say is a TTL that nobody takes.
func (d *datagram) readControl(oob []byte) {
	for len(oob) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		switch oob = rest; {
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_TTL && len(data) >= 4,
			header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			d.ttl = int(binary.NativeEndian.Uint32(data))
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			d.to = netip.AddrFrom4([4]byte(data[8:12]))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			d.to = netip.AddrFrom16([16]byte(data[:16]))
		}
	}
}

// zone is how the configuration names an interface. Asking by a socket costs no dump of all interfaces, once a packet.
func zone(fd int, index uint32) string {
	i, err := unix.NewIfreq("")
	if err == nil {
		i.SetUint32(index)
		err = unix.IoctlIfreq(fd, unix.SIOCGIFNAME, i)
	}
	if err != nil {
		return strconv.Itoa(int(index))
	}
	return i.Name()
}

// near reports whether the router is in the network of one of our interfaces.
func (s *sockets) near(router netip.Addr) bool {
	if router.IsLinkLocalUnicast() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // as most routers are
	}
	for _, a := range all {
		if network, err := netip.ParsePrefix(a.String()); err == nil && network.Contains(router) {
			return true
		}
	}
	return false
}

func (s *sockets) plug(router, local netip.Addr) way {
	return &plug{router: router, local: local, fd: -1}
}

// A plug is the socket of one session, from whose port all its packets come (RFC 5881 §4).
type plug struct {
	router, local netip.Addr
	fd            int // -1: none yet
}

func (p *plug) send(port uint16, payload []byte) error {
	if p.fd < 0 {
		if err := p.open(); err != nil {
			return fmt.Errorf("open a socket: %w", err)
		}
	}
	to, err := address(p.fd, p.router, int(port))
	if err != nil {
		return err
	}
	err = unix.Sendto(p.fd, payload, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, to)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) { // a link that is full loses packets
		return fmt.Errorf("send to %s: %w", p.router, err)
	}
	return nil
}

func (p *plug) open() error {
	fd, err := socket(p.router.Is6())
	if err != nil {
		return err
	}
	// Nobody has reason to send anything to this port, and it shall cost no memory: a filter that takes nothing.
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	if err == nil {
		err = p.bind(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	p.fd = fd
	return nil
}

// bind takes a port that is free.
func (p *plug) bind(fd int) error {
	local := p.local
	if !local.IsValid() {
		local = netip.IPv4Unspecified()
		if p.router.Is6() {
			local = netip.IPv6Unspecified()
		}
	}
	if local.Is6() && local.IsLinkLocalUnicast() {
		local = local.WithZone(p.router.Zone())
	}
	first := rand.IntN(1<<16 - firstPort)
	for i := range 1<<16 - firstPort {
		at, err := address(fd, local, firstPort+(first+i)%(1<<16-firstPort))
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, at); !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return unix.EADDRINUSE
}

func (p *plug) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

// address is an address as the kernel takes it.
func address(fd int, addr netip.Addr, port int) (unix.Sockaddr, error) {
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: addr.As4()}, nil
	}
	at := &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
	if addr.Zone() == "" {
		return at, nil
	}
	i, err := unix.NewIfreq(addr.Zone())
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, i)
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", addr.Zone(), err)
	}
	at.ZoneId = i.Uint32()
	return at, nil
}
