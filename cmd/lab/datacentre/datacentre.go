// Package datacentre is the lab's second shape: a real control plane, and a network of namespaces in which the nodes are, and real
// routers. The speakers are our own program, with the permissions that manifests/rbac.yaml gives them, and each runs in the namespace
// of its node. It needs root.
//
// The package's tests ask what real routers make of a speaker: when it restarts, dies, or has a lot to say, and when a router among
// them is hostile. For that they write themselves what the controller manager writes, the admitted configuration and the addresses of
// Services: it is not part of the question, and a Service may so have a hundred addresses.
//
// A Hall is all of it in one: a client, two routers, three nodes with kube-proxy, pods that answer, and our controller manager. Its
// tests ask what a user of an address sees. Its nodes can have a kubelet (StartKubelet), which then runs their pods, in containers.
// A vacant hall has nothing of ours: its tests ask what becomes of a cluster into which users install us.
package datacentre

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// Who speakers, our controller manager, BFD responders and kube-proxy are in a real cluster.
const (
	speakerUser    = "system:serviceaccount:metallb-system:metallb-speaker"
	controllerUser = "system:serviceaccount:metallb-system:metallb-controller"
	responderUser  = "system:serviceaccount:metallb-system:metallb-bfd"
	proxyUser      = "system:kube-proxy" // Kubernetes itself binds it to system:node-proxier
)

// A user and its group, who may do only what a test lets them.
const (
	operatorUser = "operator"
	operators    = "network-operators" // as in docs/kubectl.md
)

// A Lab is a cluster whose nodes are in a network.
type Lab struct {
	Cluster *kubernetes.Cluster
	Network *network.Network
	API     clientset.Interface // as the administrator

	progress io.Writer    // may be nil
	root     string       // of the repository
	server   string       // where the API server listens on the host's loopback interface
	started  atomic.Int32 // how many programs there have ever been on nodes
	hosts    sync.Map     // network.Namespace by netip.Addr: nodes
	// forgiven is until when nobody minds what was forbidden: an API server that has just started does not know yet who may what.
	forgiven kubernetes.Moment
}

// A Node is a node of the cluster. Its namespace is its host.
type Node struct {
	Name string
	Host *network.Namespace
}

// Start brings up the control plane, in which our programs may do what they need, and a network without any host. ctx bounds the start
// only. progress is where a first start says how far it is; it may be nil.
func Start(ctx context.Context, progress io.Writer) (*Lab, error) {
	l, err := begin(ctx, progress, false)
	if err != nil {
		return nil, err
	}
	apply := exec.CommandContext(ctx, l.Cluster.Binaries.Path(kubernetes.Kubectl), "--kubeconfig="+l.Cluster.Kubeconfig,
		"apply", "-f", filepath.Join(l.root, "manifests/rbac.yaml"))
	if out, err := apply.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("apply our permissions: %w\n%s", err, out), l.Stop())
	}
	return l, nil
}

// begin brings up the control plane and a network, with nothing of ours in them. With workloads, Deployments and DaemonSets work.
func begin(ctx context.Context, progress io.Writer, workloads bool) (lab *Lab, err error) {
	l := &Lab{progress: progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Stop())
		}
	}()
	if l.root, err = kubernetes.Repository(ctx); err != nil {
		return nil, err
	}
	programs := kubernetes.ControlPlane
	if workloads {
		programs = append(slices.Clone(programs), kubernetes.Scheduler)
	}
	binaries, err := kubernetes.Build(ctx, progress, programs...)
	if err != nil {
		return nil, err
	}
	if l.Network, err = network.Start(); err != nil {
		return nil, err
	}
	users := []kubernetes.User{{Name: proxyUser}, {Name: operatorUser, Groups: []string{operators, "system:authenticated"}}}
	for i := range 3 {
		users = append(users, kubernetes.User{Name: kubeletUser(workerName(i + 1)), Groups: []string{kubelets, "system:authenticated"}})
	}
	account := []string{"system:serviceaccounts", "system:serviceaccounts:metallb-system", "system:authenticated"}
	l.Cluster, err = kubernetes.Start(ctx, kubernetes.Options{Binaries: binaries, Workloads: workloads, Dial: l.dial, Users: append(users,
		kubernetes.User{Name: speakerUser, Groups: account}, kubernetes.User{Name: controllerUser, Groups: account},
	)})
	if err != nil {
		return nil, err
	}
	l.API = l.Cluster.Client()
	config, err := clientcmd.BuildConfigFromFlags("", l.Cluster.Kubeconfig)
	if err != nil {
		return nil, err
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	l.server = server.Host
	return l, nil
}

// dial connects to a node from inside it: the API server reaches nodes, as they reach it, whatever becomes of the cables of the LAN.
func (l *Lab) dial(ctx context.Context, addr string) (net.Conn, error) {
	node, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	host, ok := l.hosts.Load(node.Addr())
	if !ok {
		return nil, fmt.Errorf("no node has the address %s", node.Addr())
	}
	return host.(*network.Namespace).Dial(ctx, addr)
}

// Stop ends everything, those that talk to the API server before it.
func (l *Lab) Stop() error {
	var errs []error
	if l.Network != nil {
		errs = append(errs, l.Network.Close())
	}
	if l.Cluster != nil {
		errs = append(errs, l.Cluster.Err(), l.Cluster.Stop())
	}
	return errors.Join(errs...)
}

// AddNode makes a host a node of the cluster with these InternalIPs. What runs there reaches the API server with the kubeconfig files
// of the lab.
func (l *Lab) AddNode(ctx context.Context, host *network.Namespace, addrs ...netip.Addr) (*Node, error) {
	if err := host.Relay(l.server, l.server); err != nil {
		return nil, err
	}
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: host.Name, Labels: map[string]string{corev1.LabelHostname: host.Name}}}
	if _, err := l.API.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("node %s: %w", host.Name, err)
	}
	status := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	for _, addr := range addrs {
		l.hosts.Store(addr, host)
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	// Not an update: a controller may have changed the Node meanwhile.
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return nil, err
	}
	if _, err := l.API.CoreV1().Nodes().Patch(ctx, host.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return nil, fmt.Errorf("node %s: %w", host.Name, err)
	}
	return &Node{host.Name, host}, nil
}

// StartSpeaker starts the speaker of a node. env is added to its environment, as NAME=value.
func (l *Lab) StartSpeaker(node *Node, env []string, more ...string) (*kubernetes.Process, error) {
	return l.startOn(node, "metallb-speaker", env, more...)
}

// StartResponder starts the BFD responder of a node. Its permissions are some of the speaker's.
func (l *Lab) StartResponder(node *Node) (*kubernetes.Process, error) {
	return l.startOn(node, "metallb-bfd", nil, "--secure-port=0")
}

func (l *Lab) startOn(node *Node, program string, env []string, more ...string) (*kubernetes.Process, error) {
	binary, err := l.built(program)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s-%d", program, l.started.Add(1))
	return node.Host.Start(kubernetes.Program{
		Name: name, Binary: binary,
		Args: append([]string{"--kubeconfig=" + l.Cluster.KubeconfigOf(speakerUser)}, more...),
		Env:  append([]string{"NODE_NAME=" + node.Name}, env...),
		Log:  filepath.Join(l.Network.Dir, name+".log"),
	})
}

// build is the path of one more program of Kubernetes.
func (l *Lab) build(ctx context.Context, program string) (string, error) {
	binaries, err := kubernetes.Build(ctx, l.progress, program)
	return binaries.Path(program), err
}

// built is the path of one of our own programs.
func (l *Lab) built(program string) (string, error) {
	binary := filepath.Join(cmp.Or(os.Getenv("LAB_BIN"), filepath.Join(l.root, "bin")), program)
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("%s is not built: run make build", program)
	}
	return binary, nil
}

// documented is the configuration that docs/routers.md shows for a router, frr or bird, or for its BFD, with these lines of the page more
// for the nodes.
func (l *Lab) documented(word string, more ...string) (string, error) {
	const name = "docs/routers.md"
	page, err := os.ReadFile(filepath.Join(l.root, name))
	if err != nil {
		return "", err
	}
	_, block, found := strings.Cut(string(page), "```"+word+"\n")
	block, _, closed := strings.Cut(block, "\n```")
	if !found || !closed {
		return "", fmt.Errorf("%s shows no configuration for %s", name, word)
	}
	block = strings.Replace(block, "protocol device {}\n", "", 1) + "\n" // the lab's BIRD has one already
	before := map[string]string{"frr": " address-family ipv4 unicast\n", "bird": "  ipv4 { import filter"}[word]
	for _, line := range more {
		if !strings.Contains(string(page), "`"+line+"`") {
			return "", fmt.Errorf("%s does not show %s", name, line)
		}
		block = strings.Replace(block, before, " "+line+"\n"+before, 1)
	}
	return block, nil
}

// Admit puts a configuration in force, without asking anybody.
func (l *Lab) Admit(ctx context.Context, text string) error {
	configMaps := l.API.CoreV1().ConfigMaps("metallb-system")
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config-admitted"},
		Data:       map[string]string{"config": text},
	}
	_, err := configMaps.Update(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
	}
	return err
}

// A Service is one of type LoadBalancer with addresses that nobody allocated, and with one ready endpoint, which is no pod, on a node.
type Service struct {
	Name  string
	Addrs []netip.Addr
	Node  *Node
}

// Expose creates Services, several at once. The addresses come last, so that speakers announce each from its beginning.
func (l *Lab) Expose(ctx context.Context, services ...Service) error {
	waiting := make(chan Service, len(services))
	for _, service := range services {
		waiting <- service
	}
	close(waiting)
	var mu sync.Mutex
	var errs []error
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for service := range waiting {
				if err := l.expose(ctx, service); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("service %s: %w", service.Name, err))
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

func (l *Lab) expose(ctx context.Context, service Service) error {
	const namespace = metav1.NamespaceDefault
	families := map[corev1.IPFamily]discoveryv1.AddressType{}
	for _, addr := range service.Addrs {
		if addr.Is4() {
			families[corev1.IPv4Protocol] = discoveryv1.AddressTypeIPv4
		} else {
			families[corev1.IPv6Protocol] = discoveryv1.AddressTypeIPv6
		}
	}
	endpoint := map[corev1.IPFamily]string{corev1.IPv4Protocol: "10.244.0.1", corev1.IPv6Protocol: "fd00:244::1"}
	ready, port := true, int32(80)
	object := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: service.Name},
		// There are 2,768 node ports in the cluster, and nobody here uses them.
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: port}}, AllocateLoadBalancerNodePorts: new(bool)},
	}
	for family, kind := range families {
		object.Spec.IPFamilies = append(object.Spec.IPFamilies, family)
		if _, err := l.API.DiscoveryV1().EndpointSlices(namespace).Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name:   service.Name + "-" + strings.ToLower(string(kind)),
				Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
			},
			AddressType: kind,
			Endpoints: []discoveryv1.Endpoint{{
				Addresses: []string{endpoint[family]}, NodeName: &service.Node.Name, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			}},
			Ports: []discoveryv1.EndpointPort{{Port: &port}},
		}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if len(families) == 2 {
		both := corev1.IPFamilyPolicyRequireDualStack
		object.Spec.IPFamilyPolicy = &both
	}
	created, err := l.API.CoreV1().Services(namespace).Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	vip := corev1.LoadBalancerIPModeVIP
	for _, addr := range service.Addrs {
		created.Status.LoadBalancer.Ingress = append(created.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &vip})
	}
	_, err = l.API.CoreV1().Services(namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}
