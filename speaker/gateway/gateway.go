//go:build linux

// Package gateway finds the next hops of the node's default routes and follows them as they change. It asks the kernel by
// netlink, which needs no capability. The speaker and the BFD responder run it, each for itself.
package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

const (
	// tryAgain is the pause after the kernel refused an answer, or lost a word because there were too many.
	tryAgain = time.Second
	// linkTime is how long after a change of an interface the routes are read: many change at once.
	linkTime = 100 * time.Millisecond
	// lookTime is after how long they are read though nothing is known to have changed: some routes go without a word.
	lookTime = 30 * time.Second
)

// A Watcher knows the gateways.
type Watcher struct {
	mu  sync.Mutex
	now speaker.Gateways
}

// New returns a Watcher that knows the gateways of now.
func New() *Watcher {
	w := &Watcher{}
	w.look()
	return w
}

// Now returns the gateways. Anybody may call it; nobody changes what it returns.
func (w *Watcher) Now() speaker.Gateways {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Follow calls changed whenever the gateways are others than before, until ctx ends.
func (w *Watcher) Follow(ctx context.Context, changed func()) {
	for {
		err := w.listen(ctx, changed)
		if ctx.Err() != nil {
			return
		}
		klog.ErrorS(err, "Cannot follow the node's routes")
		select {
		case <-ctx.Done():
		case <-time.After(tryAgain):
		}
	}
}

// listen follows until ctx ends or the kernel's word is lost.
func (w *Watcher) listen(ctx context.Context, changed func()) error {
	routes, links, done, lost := make(chan netlink.RouteUpdate), make(chan netlink.LinkUpdate), make(chan struct{}), make(chan error, 1)
	failed := func(err error) {
		select {
		case lost <- err:
		default:
		}
	}
	defer close(done)
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: failed}); err != nil {
		return err
	}
	defer func() { // whoever writes is not to wait for ever
		go func() {
			for range routes {
			}
		}()
	}()
	// When an interface goes down, its routes of IPv4 go without a word.
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: failed}); err != nil {
		return err
	}
	defer func() {
		go func() {
			for range links {
			}
		}()
	}()
	look := time.NewTimer(0) // what changed before we listened
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-lost:
			return err
		case r := <-routes:
			if isDefault(r.Route) {
				look.Reset(0)
			}
		case <-links: // of pods, mostly
			look.Reset(linkTime)
		case <-look.C:
			if w.look() {
				changed()
			}
			look.Reset(lookTime)
		}
	}
}

// look asks the kernel, and reports whether the gateways are others than before.
func (w *Watcher) look() (changed bool) {
	now := speaker.Gateways{}
	for family, number := range map[loadbalancer.Family]int{loadbalancer.IPv4: netlink.FAMILY_V4, loadbalancer.IPv6: netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(number, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			now[family] = speaker.Hops{Why: fmt.Sprintf("the kernel does not tell its routes of %s: %v", family, err)}
			continue
		}
		now[family] = choose(family, routes, func(index int) string {
			if link, err := net.InterfaceByIndex(index); err == nil {
				return link.Name
			}
			return ""
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for family, hops := range now {
		was := w.now[family]
		changed = changed || hops.Why != was.Why || !slices.Equal(hops.Addrs, was.Addrs)
	}
	w.now = now
	return changed
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// choose returns the next hops of the default route with the lowest metric, all of an ECMP route; IPv6 has one route for each of
// them. name returns that of an interface.
func choose(family loadbalancer.Family, routes []netlink.Route, name func(index int) string) speaker.Hops {
	routes = slices.DeleteFunc(slices.Clone(routes), func(r netlink.Route) bool {
		return !isDefault(r) || r.Type != unix.RTN_UNICAST && r.Type != 0 || r.Flags&unix.RTNH_F_DEAD != 0
	})
	if len(routes) == 0 {
		return speaker.Hops{Why: fmt.Sprintf("the node has no default route of %s: add one, or write the router's address", family)}
	}
	lowest := slices.MinFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority }).Priority
	var hops speaker.Hops
	var without string // an interface
	add := func(gw net.IP, link int) {
		addr, ok := netip.AddrFromSlice(gw)
		if addr = addr.Unmap(); !ok || loadbalancer.FamilyOf(addr) != family {
			without = name(link)
			return
		}
		if addr.Is6() && addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(name(link))
		}
		hops.Addrs = append(hops.Addrs, addr)
	}
	for _, r := range routes {
		switch {
		case r.Priority != lowest:
		case len(r.MultiPath) == 0:
			add(r.Gw, r.LinkIndex)
		default:
			for _, hop := range r.MultiPath {
				if hop.Flags&unix.RTNH_F_DEAD == 0 {
					add(hop.Gw, hop.LinkIndex)
				}
			}
		}
	}
	slices.SortFunc(hops.Addrs, netip.Addr.Compare)
	hops.Addrs = slices.Compact(hops.Addrs)
	switch {
	case len(hops.Addrs) > 0:
	case without != "":
		hops.Why = fmt.Sprintf("the node's default route of %s leads to interface %s and names no next hop of that IP version: write the router's address", family, without)
	default:
		hops.Why = fmt.Sprintf("all next hops of the node's default route of %s are dead", family)
	}
	return hops
}
