package datacentre

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// needKubelet skips a test where kubelet cannot run.
func needKubelet(t *testing.T) {
	t.Helper()
	suite.Need(t, network.MissingKubelet())
}

func TestAKubeletRunsAPodThatAClientReaches(t *testing.T) {
	t.Parallel()
	needKubelet(t)
	var left func() error
	t.Cleanup(func() { // after the hall's
		if left == nil {
			return
		}
		if err := left(); err != nil {
			t.Error(err)
		}
	})
	h := startHall(t)
	w := h.Workers[0]
	t.Cleanup(func() {
		for _, w := range h.Workers {
			if t.Failed() && w.Kubelet != nil {
				lines := strings.Split(w.Kubelet.Output(), "\n")
				t.Logf("the end of the log of %s:\n%s", w.Kubelet.Name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	before := machine(t)
	var starts []func() error
	for _, w := range h.Workers {
		starts = append(starts, func() error { return h.StartKubelet(ctx, w) })
	}
	must(t, together(starts...))
	looksLikeNodes(t, h)
	if after := machine(t); after != before {
		t.Errorf("kubelet changed the machine from %s to %s", before, after)
	}

	pods := h.API.CoreV1().Pods(metav1.NamespaceDefault)
	made(pods.Create(t.Context(), KubeletPod(w, "real-1", map[string]string{"app": "real"}), metav1.CreateOptions{}))(t)
	addrs := h.expose(t, "real", 2, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })
	for i, addr := range addrs {
		h.reaches(t, tcp(addr, 80), w)
		own := clientOwn.v4
		if addr.Is6() {
			own = clientOwn.v6
		}
		want := Answer{Pod: "real-1", Node: w.Name, Client: own}
		for _, got := range h.visit(t, tcp(addr, 80), 20) {
			if got != want {
				t.Fatalf("%s: got %v, want %v", addr, got, want)
			}
		}
		if i > 0 {
			continue
		}
		pod := made(pods.Get(t.Context(), "real-1", metav1.GetOptions{}))(t)
		status := pod.Status.ContainerStatuses[0]
		if !status.Ready || !strings.HasPrefix(status.ContainerID, "containerd://") || len(pod.Status.PodIPs) != 2 {
			t.Errorf("the pod's status is %+v", pod.Status)
		}
	}

	left = nothingLeft(t, h, w)
	must(t, pods.Delete(t.Context(), "real-1", metav1.DeleteOptions{}))
	for _, addr := range addrs {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, h.RouteTo(ctx, addr))
	}
	eventually(t, "kubelet to end the pod", func(ctx context.Context) error {
		_, err := pods.Get(ctx, "real-1", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("the object is there"))
	})

	// Another is still there when all ends.
	made(pods.Create(t.Context(), KubeletPod(w, "real-2", map[string]string{"app": "real"}), metav1.CreateOptions{}))(t)
	for _, addr := range addrs {
		h.reaches(t, tcp(addr, 80), w)
	}
	left = nothingLeft(t, h, w)
	for _, w := range h.Workers {
		nothingForbidden(t, h.Lab, kubeletUser(w.Name))
	}
}

// looksLikeNodes demands that kubectl shows all nodes as users know them.
func looksLikeNodes(t *testing.T, h *Hall) {
	t.Helper()
	out := made(exec.CommandContext(t.Context(), h.Cluster.Binaries.Path(kubernetes.Kubectl), "--kubeconfig="+h.Cluster.Kubeconfig,
		"get", "nodes", "-o", "wide").Output())(t)
	t.Logf("kubectl get nodes -o wide:\n%s", out)
	for _, w := range h.Workers {
		line := regexp.MustCompile(`(?m)^` + w.Name + ` +Ready +<none> +\S+ +` + regexp.QuoteMeta(h.Cluster.Binaries.Version) + ` +` +
			regexp.QuoteMeta(w.Addrs.v4.String()) + ` +<none> +\S.* +containerd://\d`)
		if !line.Match(out) {
			t.Errorf("kubectl does not show %s as one knows a node", w.Name)
		}
		node := made(h.API.CoreV1().Nodes().Get(t.Context(), w.Name, metav1.GetOptions{}))(t)
		var addrs []string
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				addrs = append(addrs, a.Address)
			}
		}
		if want := []string{w.Addrs.v4.String(), w.Addrs.v6.String()}; !slices.Equal(addrs, want) {
			t.Errorf("the InternalIPs of %s are %v, want %v", w.Name, addrs, want)
		}
	}
}

// nothingLeft looks at what a node with a kubelet and a pod consists of, and returns what tells whether anything of it is left.
func nothingLeft(t *testing.T, h *Hall, w *Worker) func() error {
	t.Helper()
	mine := made(os.Readlink("/proc/self/ns/net"))(t)
	nets, names := map[string]bool{}, map[string]bool{}
	for _, pid := range processes(func(dir string) bool { return descends(dir, w.Kubelet.PID()) }) {
		name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if err != nil {
			continue // it has ended
		}
		names[strings.TrimSpace(string(name))] = true
		if net := link(filepath.Join("/proc", pid), "ns/net"); net != "" {
			nets[net] = true
		}
	}
	for _, name := range []string{"containerd", "kubelet", "podserver"} {
		if !names[name] {
			t.Errorf("no %s runs, but %v", name, slices.Sorted(maps.Keys(names)))
		}
	}
	if len(nets) != 2 || nets[mine] {
		t.Errorf("the network namespaces %v are in use instead of the node's and the pod's", slices.Collect(maps.Keys(nets)))
	}
	if groups := made(controlGroups(w.Host.ID))(t); len(groups) == 0 {
		t.Errorf("there is no control group %s", w.Host.ID)
	}
	return func() error {
		var problems []error
		for _, pid := range processes(func(dir string) bool { return nets[link(dir, "ns/net")] }) {
			text, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")) // whatever there is of it
			problems = append(problems, fmt.Errorf("process %s is left: %q", pid, text))
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		problems = append(problems, err)
		for line := range strings.Lines(string(mounts)) {
			for _, ours := range append(slices.Collect(maps.Keys(nets)), h.Network.Dir, "/run/netns/"+w.Host.ID) {
				if strings.Contains(line, ours) {
					problems = append(problems, fmt.Errorf("a mount is left: %s", line))
				}
			}
		}
		groups, err := controlGroups(w.Host.ID)
		problems = append(problems, err)
		if len(groups) > 0 {
			problems = append(problems, fmt.Errorf("the control groups %v are left", groups))
		}
		for _, path := range []string{h.Network.Dir, "/run/netns/" + w.Host.ID} {
			if _, err := os.Stat(path); err == nil {
				problems = append(problems, fmt.Errorf("%s is left", path))
			}
		}
		return errors.Join(problems...)
	}
}

// machine are the kernel parameters that kubelet sets.
func machine(t *testing.T) string {
	t.Helper()
	var all []string
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"} {
		value := made(os.ReadFile(filepath.Join("/proc/sys", name)))(t)
		all = append(all, fmt.Sprintf("%s=%s", name, strings.TrimSpace(string(value))))
	}
	return strings.Join(all, " ")
}

// processes are the numbers of those whose folder in /proc is as wanted.
func processes(wanted func(dir string) bool) (pids []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is a good one
	for _, dir := range dirs {
		if wanted(dir) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

// descends tells whether a process is another one, or has it among its ancestors.
func descends(dir string, from int) bool {
	for pid := filepath.Base(dir); pid != "0"; {
		if pid == fmt.Sprint(from) {
			return true
		}
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if err != nil {
			return false // it has ended
		}
		_, parent, _ := strings.Cut(string(status), "\nPPid:\t")
		pid, _, _ = strings.Cut(parent, "\n")
	}
	return false
}

// link is where a link in a folder leads; empty if there is none.
func link(dir, name string) string {
	to, _ := os.Readlink(filepath.Join(dir, name))
	return to
}

// controlGroups finds those called as a namespace, of either version of control groups.
func controlGroups(name string) ([]string, error) {
	one, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		return nil, err
	}
	two, err := filepath.Glob("/sys/fs/cgroup/" + name)
	return append(one, two...), err
}
