package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// A Namespace is a host of the network: it has interfaces, addresses, routes and ports of its own. The file system is everybody's.
type Namespace struct {
	Name string // as the lab calls it
	ID   string // as `ip netns` calls it

	network *Network
}

// Namespace adds a host with a loopback interface that is up. Its name is that of an interface too, and has 15 bytes at most.
func (n *Network) Namespace(name string) (*Namespace, error) {
	if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("namespace %q: interfaces to it are called the same, so its name needs 1 to %d bytes", name, unix.IFNAMSIZ-1)
	}
	ns := &Namespace{Name: name, ID: fmt.Sprintf("lab-%d-%d-%s", os.Getpid(), count.Add(1), name), network: n}
	// The janitor hears of it first: one that does not exist is no work.
	if _, err := fmt.Fprintln(n.alarm, ns.ID); err != nil {
		return nil, fmt.Errorf("namespace %s: its janitor is gone: %w", name, err)
	}
	if _, err := run("ip", "netns", "add", ns.ID); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.spaces = append(n.spaces, ns)
	n.mu.Unlock()
	// An IPv6 address could not be used for the second that looking for duplicates takes.
	if err := ns.Sysctl("net/ipv6/conf/default/accept_dad", "0"); err != nil {
		return nil, err
	}
	return ns, ns.IP("link", "set", "lo", "up")
}

// IP runs ip(8) inside.
func (ns *Namespace) IP(args ...string) error {
	_, err := run(append([]string{"ip", "-n", ns.ID}, args...)...)
	return err
}

// Addresses gives an interface addresses, each with the length of its network behind it, of either IP version.
func (ns *Namespace) Addresses(device string, addrs ...string) error {
	for _, text := range addrs {
		addr, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("namespace %s: %w", ns.Name, err)
		}
		args := []string{"addr", "add", addr.String(), "dev", device}
		if addr.Addr().Is6() {
			args = append(args, "nodad") // what looking for duplicates costs, see Namespace
		}
		if err := ns.IP(args...); err != nil {
			return err
		}
	}
	return nil
}

// Sysctl sets a kernel parameter below /proc/sys.
func (ns *Namespace) Sysctl(name, value string) error {
	return ns.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0) })
}

// Forward makes the kernel a router's.
func (ns *Namespace) Forward() error {
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := ns.Sysctl(name, "1"); err != nil {
			return err
		}
	}
	return nil
}

// Do calls f on a thread inside the namespace. Sockets that f makes belong there for good; goroutines that f starts do not.
func (ns *Namespace) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread stays out: where it is, there `ip netns pids` sees the whole process. While it is taken, another one
			// is found.
			err := ns.Do(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		// The thread is never unlocked, so it ends with this goroutine and nobody else gets to run in the namespace.
		done <- ns.enter(f)
	}()
	return <-done
}

func (ns *Namespace) enter(f func() error) error {
	file, err := os.Open(filepath.Join("/run/netns", ns.ID))
	if err != nil {
		return fmt.Errorf("namespace %s: %w", ns.Name, err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", ns.Name, err)
	}
	return f()
}

// Listen listens at a TCP address inside, for this process. The network's Close ends it.
func (ns *Namespace) Listen(addr string) (net.Listener, error) {
	var listener net.Listener
	err := ns.Do(func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", ns.Name, err)
	}
	ns.network.mu.Lock()
	ns.network.closers = append(ns.network.closers, listener)
	ns.network.mu.Unlock()
	return listener, nil
}

// Dial connects this process with an IP address and TCP port, from inside.
func (ns *Namespace) Dial(addr string) (conn net.Conn, err error) {
	err = ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	return conn, err
}

// Relay lets programs inside reach a server of the host, which listens on its loopback interface, at an address inside.
func (ns *Namespace) Relay(at, server string) error {
	listener, err := ns.Listen(at)
	if err != nil {
		return err
	}
	go func() {
		for {
			inside, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go relay(inside, server)
		}
	}()
	return nil
}

// relay copies in both directions until both sides have said all, or one is gone.
func relay(inside net.Conn, server string) {
	defer inside.Close()
	outside, err := net.Dial("tcp", server)
	if err != nil {
		return // whoever is inside sees a connection that ends, and would have seen a refused one
	}
	defer outside.Close()
	ended := make(chan error)
	forward := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(*net.TCPConn); ok && err == nil {
			err = half.CloseWrite()
		}
		ended <- err
	}
	go forward(outside, inside)
	go forward(inside, outside)
	if <-ended != nil {
		inside.Close()
		outside.Close()
	}
	<-ended
}

// Run runs a program inside to its end, and returns what it printed.
func (ns *Namespace) Run(ctx context.Context, args ...string) (string, error) {
	return runFor(ctx, append([]string{"ip", "netns", "exec", ns.ID}, args...)...)
}

// Start starts a program inside. The network's Close ends it.
func (ns *Namespace) Start(p kubernetes.Program) (*kubernetes.Process, error) {
	// ip becomes the program, so that it is the program that signals go to.
	enter := []string{"ip", "netns", "exec", ns.ID}
	if p.Alone {
		// ip would hide the control groups behind a new /sys.
		enter = []string{"nsenter", "--net=" + filepath.Join("/run/netns", ns.ID), "--"}
	}
	p.Args = slices.Concat(enter[1:], []string{p.Binary}, p.Args)
	p.Binary = enter[0]
	started, err := p.Start()
	if err != nil {
		return nil, err
	}
	ns.network.mu.Lock()
	ns.network.processes = append(ns.network.processes, started)
	ns.network.mu.Unlock()
	return started, nil
}

// Link lays a cable between two hosts. On each side the interface is called as the host on the other, and is up.
func (n *Network) Link(a, b *Namespace) error {
	if err := a.IP("link", "add", "name", b.Name, "type", "veth", "peer", "name", a.Name, "netns", b.ID); err != nil {
		return err
	}
	if err := b.IP("link", "set", "dev", a.Name, "up"); err != nil {
		return err
	}
	return a.IP("link", "set", "dev", b.Name, "up")
}

// A Switch connects all hosts that are plugged into it.
type Switch struct{ *Namespace }

const bridge = "bridge"

// Switch adds a switch.
func (n *Network) Switch(name string) (*Switch, error) {
	ns, err := n.Namespace(name)
	if err != nil {
		return nil, err
	}
	if err := ns.IP("link", "add", bridge, "type", "bridge"); err != nil {
		return nil, err
	}
	return &Switch{ns}, ns.IP("link", "set", bridge, "up")
}

// Plug connects a host to the switch, and gives it addresses on the interface, which is called as the switch.
func (s *Switch) Plug(ns *Namespace, addrs ...string) error {
	if err := s.network.Link(ns, s.Namespace); err != nil {
		return err
	}
	if err := s.IP("link", "set", "dev", ns.Name, "master", bridge); err != nil {
		return err
	}
	return ns.Addresses(s.Name, addrs...)
}

// Pull pulls the host's cable. The others' links stay up: they find out by silence.
func (s *Switch) Pull(ns *Namespace) error { return s.IP("link", "set", "dev", ns.Name, "down") }

// Replug puts the cable back.
func (s *Switch) Replug(ns *Namespace) error { return s.IP("link", "set", "dev", ns.Name, "up") }

// Host adds a host and plugs it in.
func (s *Switch) Host(name string, addrs ...string) (*Namespace, error) {
	ns, err := s.network.Namespace(name)
	if err != nil {
		return nil, err
	}
	return ns, s.Plug(ns, addrs...)
}
