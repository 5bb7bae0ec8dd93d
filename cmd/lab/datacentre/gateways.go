package datacentre

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

const (
	pingEvery = 500 * time.Millisecond
	// A router that has not answered for as long is gone: the hold time that the client has.
	pingPatience = 3 * time.Second
)

// gateways gives a node default routes by way of those routers that answer to pings, until ctx ends. That stands in for what a real
// node has, which is one default router that does not die (VRRP), or a routing daemon of its own.
func (h *Hall) gateways(ctx context.Context, host *network.Namespace) error {
	if err := defaultRoutes(host, torLAN); err != nil {
		return err
	}
	// Nobody may ping by default, not even root.
	if err := host.Sysctl("net/ipv4/ping_group_range", "0 0"); err != nil {
		return err
	}
	var pingers []*pinger
	for _, tor := range torLAN {
		p, err := ping(host, tor.v4)
		if err != nil {
			return err
		}
		pingers = append(pingers, p)
	}
	h.pings.Go(func() {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		used := torLAN
		for {
			var alive []addresses
			for i, p := range pingers {
				if p.answered() {
					alive = append(alive, torLAN[i])
				}
			}
			// Without any router, one route is as good as another. One that could not be changed is tried again.
			if len(alive) > 0 && !slices.Equal(alive, used) && defaultRoutes(host, alive) == nil {
				used = alive
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				for _, p := range pingers {
					p.socket.Close()
				}
				return
			}
		}
	})
	return nil
}

// defaultRoutes lets a host send everything by way of these routers.
func defaultRoutes(host *network.Namespace, routers []addresses) error {
	four, six := []string{"route", "replace", "default"}, []string{"-6", "route", "replace", "default"}
	for _, r := range routers {
		four = append(four, "nexthop", "via", r.v4.String())
		six = append(six, "nexthop", "via", r.v6.String())
	}
	return errors.Join(host.IP(four...), host.IP(six...))
}

// A pinger asks an address whether it is there.
type pinger struct {
	socket *os.File
	heard  atomic.Pointer[time.Time]
}

// ping makes a pinger inside a namespace.
func ping(host *network.Namespace, addr netip.Addr) (*pinger, error) {
	p := &pinger{}
	now := time.Now()
	p.heard.Store(&now)
	if err := host.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		p.socket = os.NewFile(uintptr(fd), "ping of "+addr.String())
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.As4()})
	}); err != nil {
		if p.socket != nil {
			p.socket.Close()
		}
		return nil, err
	}
	go func() {
		for answer := make([]byte, 64); ; {
			_, err := p.socket.Read(answer)
			switch {
			case errors.Is(err, os.ErrClosed):
				return
			case err == nil:
				now := time.Now()
				p.heard.Store(&now)
			}
		}
	}()
	return p, nil
}

// answered asks, and tells whether anything was heard lately.
func (p *pinger) answered() bool {
	// An echo request; Linux fills in the checksum and who asks. What cannot be sent will not be answered.
	_, _ = p.socket.Write([]byte{8, 0, 0, 0, 0, 0, 0, 0})
	return time.Since(*p.heard.Load()) < pingPatience
}
