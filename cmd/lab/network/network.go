// Package network builds small networks out of Linux network namespaces, with real routers in them: FRR, BIRD, exabgp, and GoBGP's
// server. It needs root. A network is made of
//
//   - namespaces (Namespace), in each of which anything can run: a router, a speaker, a pod, or a function of this process (Do);
//   - cables between two of them (Link), and switches (Switch) into which any number plug, whose cables can be pulled;
//   - relays (Relay), by which a program in a namespace reaches a server on the host's loopback interface, such as the lab's API
//     server, at the address where the host finds it, so that kubeconfig files work unedited and no packet leaves this machine;
//   - what routers know (Table, Session), and what their kernels do: Routes tells where it would send packets now, and a Recorder
//     writes down every change of a route with the time of it.
//
// A namespace is called lab-PID-NUMBER-NAME, as `ip netns` shows it, so that labs do not meet, and `ip netns exec` shows a person what
// goes on inside while a test runs. Nothing outlives a lab, however it ends: each network has a janitor, a shell that waits for the lab
// to close a pipe, which Linux does for one that crashes, is killed, or gets a Ctrl-C; then it ends what still runs in the namespaces,
// and removes them. Should the janitor be gone too, the next network that starts anywhere on this machine cleans up.
//
// FRR's daemons change their user, and Linux forgets then that they were to die with the lab: the janitor is for them above all.
package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// The routers' programs, where Debian puts them.
const (
	zebra  = "/usr/lib/frr/zebra"
	bgpd   = "/usr/lib/frr/bgpd"
	bfdd   = "/usr/lib/frr/bfdd"
	vtysh  = "vtysh"
	bird   = "bird"
	birdc  = "birdc"
	exabgp = "exabgp"
)

// What kube-proxy and a person at the client call.
const (
	nft  = "nft"
	curl = "curl"
)

// What a node needs to run pods by itself.
const (
	containerd = "containerd"
	runc       = "runc"
	// CNI is where Debian puts network plugins.
	CNI = "/usr/lib/cni"
)

// MissingKubelet says what keeps kubelet and containerd from running in namespaces here; nil: nothing does.
func MissingKubelet() error {
	return missing("ip", "nsenter", "unshare", "bash", containerd, runc, filepath.Join(CNI, "ptp"), filepath.Join(CNI, "host-local"))
}

// Missing says what keeps networks with all kinds of routers and nodes from running here; nil: nothing does.
func Missing() error { return missing("ip", zebra, bgpd, vtysh, bird, birdc, exabgp, nft, curl) }

func missing(tools ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s missing: run make routers", strings.Join(missing, ", "))
	}
	return nil
}

// A Network is a set of namespaces, and what runs in them. It ends with Close.
type Network struct {
	Dir string // for the files of what runs in it; Close removes it

	alarm io.WriteCloser // the janitor cleans up when it is closed

	mu        sync.Mutex
	spaces    []*Namespace
	processes []*kubernetes.Process
	closers   []io.Closer
	routers   []*GoBGP
	files     int
}

// count is how many namespaces this process has made, in all its networks.
var count atomic.Int32

// Start makes a network without any namespace. It first removes those of labs that are dead.
func Start() (*Network, error) {
	if err := sweep(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "metallb-network-")
	if err != nil {
		return nil, err
	}
	// Routers that change their user have folders of their own in it.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	n := &Network{Dir: dir}
	if err := n.hireJanitor(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return n, nil
}

// removeGroups removes the control groups called as the namespace $ns, which are of what ran there, with all groups in them. What was
// killed is in them for another moment.
const removeGroups = `
	for attempt in $(seq 50); do
		groups=$(find /sys/fs/cgroup -maxdepth 4 -depth -type d \( -path "*/$ns" -o -path "*/$ns/*" \))
		[ -n "$groups" ] || break
		rmdir $groups || sleep 0.1
	done
`

// janitor is told the folder and the namespaces, a line each.
const janitor = `
read -r dir
while read -r ns; do all="$ns $all"; done
for ns in $all; do
	pids=$(ip netns pids "$ns") && kill -9 $pids
	ip netns del "$ns"
	` + removeGroups + `
done
rm -rf "$dir"
`

// hireJanitor starts the janitor, out of reach of a Ctrl-C and without what kills our other processes when we die.
func (n *Network) hireJanitor() error {
	cmd := exec.Command("sh", "-c", janitor)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a janitor: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	n.alarm = alarm{pipe, ended}
	_, err = fmt.Fprintln(n.alarm, n.Dir)
	return err
}

// An alarm is the pipe to a janitor. Close waits until the janitor has done its work.
type alarm struct {
	io.WriteCloser
	ended <-chan error
}

func (a alarm) Close() error {
	err := a.WriteCloser.Close()
	<-a.ended // of what we have removed ourselves, it finds nothing, which is no success
	return err
}

// sweep removes the namespaces of labs that have died together with their janitors.
func sweep() error {
	names, err := filepath.Glob("/run/netns/lab-*")
	if err != nil {
		return err
	}
	for _, path := range names {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, "lab-"), "-")
		if _, err := strconv.Atoi(pid); err != nil {
			continue // somebody else's
		}
		if _, err := os.Stat("/proc/" + pid); err == nil {
			continue
		}
		empty(name)
		if _, err := run("ip", "netns", "del", name); err != nil && !strings.Contains(err.Error(), "No such file") { // else another lab was faster
			return fmt.Errorf("remove what a lab left: %w", err)
		}
		if _, err := run("sh", "-c", "ns=$0; "+removeGroups, name); err != nil {
			return fmt.Errorf("remove what a lab left: %w", err)
		}
	}
	return nil
}

// empty kills everything in a namespace.
func empty(name string) {
	pids, err := run("ip", "netns", "pids", name)
	if err != nil {
		return // there is no such namespace
	}
	for _, text := range strings.Fields(pids) {
		if pid, err := strconv.Atoi(text); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // that it has ended meanwhile is what we want
		}
	}
}

// Close ends everything that runs in the network, the youngest first, and removes the namespaces. An error names what had ended by itself.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var problems []error
	for _, p := range n.processes {
		problems = append(problems, p.Err())
	}
	for i := len(n.processes) - 1; i >= 0; i-- {
		problems = append(problems, n.processes[i].Stop(20*time.Second))
	}
	for _, r := range n.routers {
		r.Router.Stop()
	}
	for _, c := range n.closers {
		_ = c.Close() // whoever asked for it may have closed it
	}
	for _, ns := range n.spaces {
		empty(ns.ID)
		_, err := run("ip", "netns", "del", ns.ID)
		problems = append(problems, err)
	}
	n.processes, n.routers, n.closers, n.spaces = nil, nil, nil, nil
	return errors.Join(append(problems, n.alarm.Close(), os.RemoveAll(n.Dir))...)
}

// folder makes a new folder for the files of a program.
func (n *Network) folder(name string) (string, error) {
	n.mu.Lock()
	n.files++
	dir := filepath.Join(n.Dir, fmt.Sprintf("%d-%s", n.files, name))
	n.mu.Unlock()
	return dir, os.Mkdir(dir, 0o700)
}

// run runs a program to its end and returns what it printed. The error has what it complained about.
func run(args ...string) (string, error) { return runFor(context.Background(), args...) }

func runFor(ctx context.Context, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
