package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"
)

// A hop is where a router shall send traffic for the prefixes of one IP version, or why nobody can tell it.
type hop struct {
	addr netip.Addr
	err  error
}

// hops are the next hops of a session by the IP version of the prefix.
type hops struct{ v4, v6 hop }

func (h hops) of(family bgp.RouteFamily) hop {
	if family == bgp.RF_IPv4_UC {
		return h.v4
	}
	return h.v6
}

// nextHops finds the next hops of a session. For its own IP version that is our address in it, which the router reaches
// certainly. For the other it is an address that the node has on the same interface, because the router's network there
// leads to it: the node's InternalIP. IPv4 prefixes can also have an IPv6 next hop, if the router understands that (extended,
// RFC 8950). A session between link-local addresses has no address that other routers know, so the interface's global one
// takes its place.
func nextHops(local netip.Addr, nodeIPs []netip.Addr, card card, extended bool) hops {
	if local.Is4() {
		return hops{v4: hop{addr: local}, v6: card.nodes(nodeIPs, false)}
	}
	h := hops{v4: card.nodes(nodeIPs, true), v6: hop{addr: local}}
	if local.IsLinkLocalUnicast() {
		if h.v6 = card.nodes(nodeIPs, false); h.v6.err != nil && card.err == nil {
			h.v6 = card.global()
		}
	}
	if h.v4.err != nil && extended && h.v6.err == nil {
		h.v4 = h.v6
	}
	return h
}

// A card is a network interface.
type card struct {
	name  string
	addrs []netip.Addr
	err   error // why it cannot be found
}

// cardOf returns the interface that has the address.
func cardOf(addr netip.Addr) card {
	all, err := net.Interfaces()
	if err != nil {
		return card{err: fmt.Errorf("list this node's network interfaces: %w", err)}
	}
	for _, i := range all {
		if addr.Zone() != "" && addr.Zone() != i.Name {
			continue
		}
		c := card{name: i.Name}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has just gone away
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(n.IP); ok {
					c.addrs = append(c.addrs, a.Unmap())
				}
			}
		}
		if slices.Contains(c.addrs, addr.WithZone("")) {
			return c
		}
	}
	return card{err: fmt.Errorf("our address in the session, %s, is on none of this node's network interfaces", addr)}
}

// nodes returns the node's first InternalIP of the IP version that is on the card.
func (c card) nodes(nodeIPs []netip.Addr, is4 bool) hop {
	if c.err != nil {
		return hop{err: c.err}
	}
	version := map[bool]string{true: "IPv4", false: "IPv6"}[is4]
	for _, addr := range nodeIPs {
		if addr.Is4() == is4 && slices.Contains(c.addrs, addr) {
			return hop{addr: addr}
		}
	}
	return hop{err: fmt.Errorf("the session is on interface %s, and the node has no %s InternalIP there to be the next hop", c.name, version)}
}

// global returns the first IPv6 address that other routers can know, of a card that was found.
func (c card) global() hop {
	for _, addr := range c.addrs {
		if addr.Is6() && addr.IsGlobalUnicast() {
			return hop{addr: addr}
		}
	}
	return hop{err: fmt.Errorf("interface %s has only link-local addresses of IPv6, and none of them can be a next hop for others: give it a global one", c.name)}
}

// WatchAddresses makes the sessions look for their next hops again whenever an address of this host comes, goes or is found
// to be nobody else's (duplicate address detection), until ctx ends. Without it they do so only while one is missing.
func (s *Sessions) WatchAddresses(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch this node's addresses: %w", err)
	}
	events := os.NewFile(uintptr(fd), "netlink")
	defer events.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR}); err != nil {
		return fmt.Errorf("watch this node's addresses: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = events.Close() })() // ends the Read below
	const pause = time.Second                                     // addresses come in swarms: each pod brings one
	for buffer := make([]byte, 64<<10); ; {
		// What an event says does not matter, nor that some were lost because there were too many.
		_, err := events.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch this node's addresses: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		for err = nil; err == nil || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR); {
			_, _, err = unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		}
		s.LookAgain()
	}
}
