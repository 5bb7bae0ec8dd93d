// Package loopback is the lab's first shape: a whole cluster on this machine's loopback interface, without root. The
// control plane and the router are real, and so are our programs, which run as processes with the permissions that
// manifests/rbac.yaml gives them. Nodes are pretended: each is a Node object with an address of 127.0.0.0/8, and a speaker
// that opens its sessions from there. Pods are pretended too: nobody sends traffic in this shape.
//
// The package also holds the story that the demo tells (Story), which is a test as well.
package loopback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// The AS numbers of the seed document.
const (
	RouterASN  = 100
	ClusterASN = 42
)

// The identities that our programs have in a real cluster.
const (
	controllerUser = "system:serviceaccount:metallb-system:metallb-controller"
	speakerUser    = "system:serviceaccount:metallb-system:metallb-speaker"
)

// patience is how long anything may take before it counts as broken. It is not a measure of anything: these machines are
// slow at times.
const patience = 90 * time.Second

// A Node is a pretended node.
type Node struct {
	Name string
	Addr netip.Addr // its InternalIP, from which its speaker dials, and so the next hop of its routes
}

// Options describe a lab.
type Options struct {
	Nodes    int       // 0: three
	IBGP     bool      // the router is in the cluster's own AS
	Progress io.Writer // how far a first start is; nil: nothing
}

// A Lab is a cluster with a router.
type Lab struct {
	*kubernetes.Cluster
	API    clientset.Interface
	Router *router.Router
	Nodes  []Node

	// ControllerPort is where the controller manager that was started last serves /healthz and /metrics.
	ControllerPort int
	// SpeakerPorts are where the speakers that were started last serve health and metrics, by their node's name.
	SpeakerPorts map[string]int

	speakers  map[string]*kubernetes.Process // those that were started last, by their node's name
	root      string                         // of the repository
	processes []*kubernetes.Process
	count     atomic.Int32
	pods      atomic.Int32
}

// Start brings up the control plane, the nodes and the router. Our programs are started by StartController and
// StartSpeaker, or all at once by StartAll.
func Start(ctx context.Context, o Options) (lab *Lab, err error) {
	l := &Lab{SpeakerPorts: map[string]int{}, speakers: map[string]*kubernetes.Process{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Stop())
		}
	}()
	if l.root, err = kubernetes.Repository(ctx); err != nil {
		return nil, err
	}
	binaries, err := kubernetes.Build(ctx, o.Progress, kubernetes.ControlPlane...)
	if err != nil {
		return nil, err
	}
	l.Cluster, err = kubernetes.Start(ctx, kubernetes.Options{Binaries: binaries, Users: []kubernetes.User{
		{Name: controllerUser, Groups: serviceAccountGroups},
		{Name: speakerUser, Groups: serviceAccountGroups},
	}})
	if err != nil {
		return nil, err
	}
	l.API = l.Client()
	if out, err := l.Kubectl(ctx, "", "apply", "-f", filepath.Join(l.root, "manifests/rbac.yaml")); err != nil {
		return nil, fmt.Errorf("apply our permissions: %w\n%s", err, out)
	}
	var neighbours []router.Peer
	for i := range cmp.Or(o.Nodes, 3) {
		node := Node{fmt.Sprintf("node-%d", i+1), netip.AddrFrom4([4]byte{127, 0, 0, byte(11 + i)})}
		if err := l.addNode(ctx, node); err != nil {
			return nil, err
		}
		l.Nodes = append(l.Nodes, node)
		neighbours = append(neighbours, router.Peer{Addr: node.Addr, ASN: ClusterASN})
	}
	asn := uint32(RouterASN)
	if o.IBGP {
		asn = ClusterASN
	}
	l.Router, err = router.Start(router.Options{
		Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 0),
		ASN:  asn, Peers: neighbours, GracefulRestart: true,
	})
	return l, err
}

// serviceAccountGroups are the groups that the API server puts service accounts of metallb-system in.
var serviceAccountGroups = []string{"system:serviceaccounts", "system:serviceaccounts:metallb-system", "system:authenticated"}

// Stop ends everything that the lab started.
func (l *Lab) Stop() error {
	var errs []error
	for _, p := range l.processes {
		errs = append(errs, p.Err(), p.Stop(20*time.Second))
	}
	l.processes = nil
	if l.Router != nil {
		l.Router.Stop()
	}
	if l.Cluster != nil {
		errs = append(errs, l.Cluster.Stop())
	}
	return errors.Join(errs...)
}

// StartAll starts one controller manager and a speaker on every node.
func (l *Lab) StartAll(ctx context.Context) error {
	if _, err := l.StartController(ctx); err != nil {
		return err
	}
	for _, node := range l.Nodes {
		if _, err := l.StartSpeaker(node, nil); err != nil {
			return err
		}
	}
	return nil
}

// StartController starts a controller manager, and returns when it serves /healthz.
func (l *Lab) StartController(ctx context.Context, more ...string) (*kubernetes.Process, error) {
	port, err := kubernetes.FreePort()
	if err != nil {
		return nil, err
	}
	l.ControllerPort = port
	p, err := l.start("metallb-cloud-controller-manager", nil, append(ControllerArgs(l.KubeconfigOf(controllerUser), port), more...)...)
	if err != nil {
		return nil, err
	}
	return p, p.Until(ctx, "serve /healthz", func(ctx context.Context) error { return dial(ctx, port) })
}

// ControllerArgs are the arguments of a controller manager that serves at a port of the host's loopback interface.
func ControllerArgs(kubeconfig string, port int) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		// The framework waits this long before it starts its controllers, of which there is one.
		"--controller-start-interval=0s",
	}
}

func dial(ctx context.Context, port int) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

// StartSpeaker starts the speaker of a node. env is added to its environment, as NAME=value.
func (l *Lab) StartSpeaker(node Node, env []string, more ...string) (*kubernetes.Process, error) {
	port, err := kubernetes.FreePort() // all speakers share this machine
	if err != nil {
		return nil, err
	}
	l.SpeakerPorts[node.Name] = port
	args := append([]string{
		"--kubeconfig=" + l.KubeconfigOf(speakerUser),
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
	}, more...)
	speaker, err := l.start("metallb-speaker", append([]string{"NODE_NAME=" + node.Name}, env...), args...)
	if err == nil {
		l.speakers[node.Name] = speaker
	}
	return speaker, err
}

func (l *Lab) start(program string, env []string, args ...string) (*kubernetes.Process, error) {
	name := fmt.Sprintf("%s-%d", program, l.count.Add(1))
	binary := filepath.Join(cmp.Or(os.Getenv("LAB_BIN"), filepath.Join(l.root, "bin")), program)
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("%s is not built: run make build", program)
	}
	p, err := kubernetes.Program{Name: name, Binary: binary, Args: args, Env: env, Log: filepath.Join(l.Dir, name+".log")}.Start()
	if err == nil {
		l.processes = append(l.processes, p)
	}
	return p, err
}

// Peers are the "peers" of the seed's basic configuration, for this lab's router.
func (l *Lab) Peers() string {
	return fmt.Sprintf(`peers:
- peer-address: %s
  peer-asn: %d
  my-asn: %d
  peer-port: %d            # the lab's router needs no root
  source-address: node-ip  # the lab's nodes share one machine
`, l.Router.Addr.Addr(), l.Router.ASN, ClusterASN, l.Router.Addr.Port())
}

// Kubectl runs kubectl as the administrator, and returns everything it printed.
func (l *Lab) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, l.Binaries.Path(kubernetes.Kubectl), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+l.Kubeconfig)
	command.Stdin = strings.NewReader(stdin)
	out, err := command.CombinedOutput()
	return string(out), err
}

func (l *Lab) addNode(ctx context.Context, node Node) error {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: map[string]string{corev1.LabelHostname: node.Name}}}
	created, err := l.API.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("pretend %s: %w", node.Name, err)
	}
	created.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: node.Addr.String()}}
	created.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := l.API.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("pretend %s: %w", node.Name, err)
	}
	return nil
}

// RunPod pretends a pod that runs on the node and is ready.
func (l *Lab) RunPod(ctx context.Context, namespace, name string, labels map[string]string, node Node) error {
	// Without a kubelet, a pod that is deleted terminates for as long as this: it goes on serving meanwhile.
	grace := int64(3600)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName:                      node.Name,
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "server", Image: "none"}},
		},
	}
	created, err := l.API.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("pretend pod %s: %w", name, err)
	}
	n := l.pods.Add(1)
	ip := netip.AddrFrom4([4]byte{10, 244, byte(n / 250), byte(1 + n%250)}).String()
	created.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if _, err := l.API.CoreV1().Pods(namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("pretend pod %s: %w", name, err)
	}
	return nil
}

// SetReady pretends that the pod passes or fails its readiness probe.
func (l *Lab) SetReady(ctx context.Context, namespace, name string, ready bool) error {
	pod, err := l.API.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("find pod %s: %w", name, err)
	}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if _, err := l.API.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("change pod %s: %w", name, err)
	}
	return nil
}

// Until asks again and again until answers does without error, and gives up when ctx ends or patience does.
func Until(ctx context.Context, what string, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return kubernetes.Until(ctx, what, answers)
}

// Address waits until the Service shows an address, and returns it.
func (l *Lab) Address(ctx context.Context, namespace, name string) (netip.Addr, error) {
	var addr netip.Addr
	err := Until(ctx, "an address of Service "+name, func(ctx context.Context) error {
		svc, err := l.API.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(svc.Status.LoadBalancer.Ingress) != 1 {
			return fmt.Errorf("the status shows %v", svc.Status.LoadBalancer.Ingress)
		}
		addr, err = netip.ParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
		return err
	})
	return addr, err
}

// Event waits for an event about an object, and returns its message.
func (l *Lab) Event(ctx context.Context, namespace, object, reason, containing string) (string, error) {
	var message string
	err := Until(ctx, fmt.Sprintf("an event %s about %s that says %q", reason, object, containing), func(ctx context.Context) error {
		events, err := l.API.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, containing) {
				message = e.Message
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are only %q", seen)
	})
	return message, err
}

// Hops waits until the router may send traffic for a prefix to exactly these nodes.
func (l *Lab) Hops(ctx context.Context, prefix string, nodes ...Node) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var want, names []string
	for _, n := range nodes {
		want, names = append(want, n.Addr.String()), append(names, n.Name)
	}
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return err
	}
	return l.Router.Wait(ctx, fmt.Sprintf("%s by way of %v", prefix, names), func(paths []router.Path) bool {
		var have []string
		for _, hop := range router.NextHops(paths, p) {
			have = append(have, hop.String())
		}
		return strings.Join(have, " ") == strings.Join(want, " ")
	})
}

// SessionsUp waits until the router has a session with every node.
func (l *Lab) SessionsUp(ctx context.Context) error {
	return Until(ctx, "a session with every node", func(context.Context) error {
		up := l.Router.Sessions()
		for _, node := range l.Nodes {
			if !up[node.Addr] {
				return fmt.Errorf("%s has none", node.Name)
			}
		}
		return nil
	})
}

// Admitted waits until a text is in force.
func (l *Lab) Admitted(ctx context.Context, text string) error {
	return Until(ctx, "the configuration to be admitted", func(ctx context.Context) error {
		stored, err := l.API.CoreV1().ConfigMaps("metallb-system").Get(ctx, "config-admitted", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if stored.Data["config"] != text {
			return fmt.Errorf("in force is\n%s\nrefused is %s", stored.Data["config"], stored.Data["refused"])
		}
		return nil
	})
}

// communities checks what the router heard with a prefix.
func (l *Lab) communities(prefix, want string) error {
	for _, path := range l.Router.Table() {
		if path.Prefix.String() == prefix && strings.Join(path.Communities, " ") != want {
			return fmt.Errorf("%s carries the communities %v instead of %s", prefix, path.Communities, want)
		}
	}
	return nil
}
