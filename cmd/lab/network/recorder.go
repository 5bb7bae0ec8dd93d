package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Recorder writes down how the routes of a namespace change, as `ip monitor route` does. It has a buffer of its own because that
// of ip overflows when a busy machine gets thousands of routes at once.
type Recorder struct {
	ns *Namespace

	mu      sync.Mutex
	events  []Event
	heard   int // the last mark
	marked  int
	failure error
}

// An Event is one change of a route that a routing daemon made.
type Event struct {
	At     time.Time
	Prefix netip.Prefix
	Gone   bool  // the route was removed; else it was added, or replaced
	Hops   []Hop // of the route that came, or went
}

func (e Event) String() string {
	what := "added or replaced"
	if e.Gone {
		what = "removed"
	}
	return fmt.Sprintf("%s %s by way of %v %s", e.At.Format("15:04:05.000000"), e.Prefix, e.Hops, what)
}

// mark is the route by which a recorder sees that it has heard everything before. It is nobody's (RFC 5737).
var mark = netip.MustParsePrefix("192.0.2.255/32")

// Record begins to record, until the network's Close. Everything is heard that happens from now on.
func (ns *Namespace) Record() (*Recorder, error) {
	r := &Recorder{ns: ns}
	var file *os.File
	if err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "routes of "+ns.Name)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20),
			unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE}))
	}); err != nil {
		if file != nil {
			file.Close()
		}
		return nil, fmt.Errorf("record the routes of namespace %s: %w", ns.Name, err)
	}
	ns.network.mu.Lock()
	ns.network.closers = append(ns.network.closers, file)
	ns.network.mu.Unlock()
	go r.listen(file)
	return r, nil
}

// listen ends when the file is closed.
func (r *Recorder) listen(file *os.File) {
	b := make([]byte, 64<<10)
	for {
		n, err := file.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil {
			err = r.hear(b[:n])
		}
		if err != nil {
			r.mu.Lock()
			r.failure = errors.Join(r.failure, err)
			r.mu.Unlock()
			if !errors.Is(err, syscall.ENOBUFS) { // the buffer ran over
				return
			}
		}
	}
}

// Protocols of routes, as in linux/rtnetlink.h and Debian's /etc/iproute2/rt_protos.
var daemonNumbers = []uint8{unix.RTPROT_BIRD, unix.RTPROT_BGP}

func (r *Recorder) hear(b []byte) error {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return err
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range messages {
		m := &messages[i]
		gone := m.Header.Type == unix.RTM_DELROUTE
		if !gone && m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return err
		}
		// The first bytes of a struct rtmsg: family, length of the prefix, of the source; TOS, table, protocol.
		family, bits, protocol := m.Data[0], m.Data[1], m.Data[5]
		addr := netip.IPv4Unspecified()
		if family == unix.AF_INET6 {
			addr = netip.IPv6Unspecified()
		}
		event := Event{At: now, Gone: gone}
		metric := 0
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.RTA_DST:
				addr, _ = netip.AddrFromSlice(a.Value)
			case unix.RTA_PRIORITY:
				metric = int(binary.NativeEndian.Uint32(a.Value))
			case unix.RTA_MULTIPATH:
				event.Hops = append(event.Hops, hops(a.Value)...)
			default:
				if via, ok := gateway(a.Attr.Type, a.Value); ok {
					event.Hops = append(event.Hops, Hop{via, 1})
				}
			}
		}
		event.Prefix = netip.PrefixFrom(addr, int(bits))
		switch {
		case event.Prefix == mark && !gone:
			r.heard = metric
		case slices.Contains(daemonNumbers, protocol):
			r.events = append(r.events, event)
		}
	}
	return nil
}

// gateway reads an attribute that says where a way leads.
func gateway(kind uint16, value []byte) (netip.Addr, bool) {
	switch kind {
	case unix.RTA_GATEWAY:
		return netip.AddrFromSlice(value)
	case unix.RTA_VIA: // an address of the other IP version (RFC 8950), behind two bytes that say which
		return netip.AddrFromSlice(value[2:])
	}
	return netip.Addr{}, false
}

// hops reads the ways of a route with several: a struct rtnexthop each, which is 2 bytes of length, flags, weight-1 and 4 bytes of
// interface, and attributes.
func hops(b []byte) (found []Hop) {
	const header = 8
	for len(b) >= header {
		length := int(binary.NativeEndian.Uint16(b))
		if length < header || length > len(b) {
			return found
		}
		for rest := b[header:length]; len(rest) >= 4; {
			size, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
			if size < 4 || size > len(rest) {
				break
			}
			if via, ok := gateway(kind, rest[4:size]); ok {
				found = append(found, Hop{via, int(b[3]) + 1})
			}
			rest = rest[min(len(rest), (size+3)&^3):]
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	slices.SortFunc(found, func(a, b Hop) int { return a.Via.Compare(b.Via) })
	return found
}

// Events are all changes since the recorder began, in order. It is an error if the recorder missed some.
func (r *Recorder) Events(ctx context.Context) ([]Event, error) {
	r.mu.Lock()
	r.marked++
	marked := r.marked
	r.mu.Unlock()
	route := []string{"blackhole", mark.String(), "metric", fmt.Sprint(marked)}
	if err := r.ns.IP(append([]string{"route", "add"}, route...)...); err != nil {
		return nil, err
	}
	if err := r.ns.IP(append([]string{"route", "del"}, route...)...); err != nil {
		return nil, err
	}
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		r.mu.Lock()
		events, heard, failure := r.events[:len(r.events):len(r.events)], r.heard >= marked, r.failure
		r.mu.Unlock()
		switch {
		case failure != nil:
			return nil, fmt.Errorf("the recorder of namespace %s missed something: %w", r.ns.Name, failure)
		case heard:
			return events, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("the recorder of namespace %s does not listen: %w", r.ns.Name, context.Cause(ctx))
		}
	}
}
