// Package kubernetes runs a real Kubernetes control plane on this machine, for the demo and the end-to-end tests: etcd, the API server
// and the controller manager, built from the Go modules that the lab's go.mod names. Nothing needs root, and nothing is left behind.
//
// There are no nodes and no kubelets. Whoever needs a node or a pod creates the object and writes its status, which is all that the
// rest of Kubernetes ever sees of one; the EndpointSlices then come from the real controller. For those who bring kubelets, there is
// Options.Workloads.
//
// The package knows nothing about MetalLB. Program and Process, which start and end the control plane, serve for other programs too.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const loopback = "127.0.0.1"

const (
	serviceNetworks = "10.96.0.0/16,fd00:10:96::/112"
	// That of Service default/kubernetes, where pods look for the API server.
	serviceAddr = "10.96.0.1"
)

// The control plane has this much time to come up; it takes a few seconds where nothing else runs.
const startTimeout = 3 * time.Minute

// Options say what a cluster consists of.
type Options struct {
	Binaries Binaries
	Users    []User // besides the administrator
	// Workloads lets Deployments and DaemonSets become pods on nodes with kubelets: pods are scheduled, and have service accounts by which
	// they reach the API server. That needs Scheduler among the Binaries.
	Workloads bool
}

// A Cluster is a running control plane.
type Cluster struct {
	Dir        string // everything the cluster has on disk; others may add files; Stop removes it
	Kubeconfig string // of the administrator, who may do everything
	Binaries   Binaries

	workloads   bool
	kubeconfigs map[string]string // by user
	client      clientset.Interface
	apiPort     int
	managerPort int
	audit       *auditLog

	mu        sync.Mutex // held while processes are started and stopped
	etcd      *Process
	api       *Process
	manager   *Process
	scheduler *Process // nil without Workloads
	stopped   bool
}

// Start brings up a control plane and returns when it serves: the API takes Services, the controllers run. ctx bounds the start only;
// the cluster runs until Stop.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the control plane is not up after %s", startTimeout))
	defer cancel()
	dir, err := os.MkdirTemp("", "metallb-lab-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Dir: dir, Binaries: options.Binaries, workloads: options.Workloads}
	if err := c.start(ctx, options.Users); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, users []User) error {
	c.audit = &auditLog{path: c.file("audit.log"), open: map[string]string{}}
	var err error
	if c.apiPort, err = FreePort(); err != nil {
		return err
	}
	if c.managerPort, err = FreePort(); err != nil {
		return err
	}
	if err := c.writeCertificates(); err != nil {
		return err
	}
	if err := c.writeUsers(users); err != nil {
		return err
	}
	if err := os.WriteFile(c.file("audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	c.Kubeconfig = c.KubeconfigOf(admin)
	if c.client, err = c.ClientOf(admin); err != nil {
		return err
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	if err := c.startControllerManager(ctx); err != nil || !c.workloads {
		return err
	}
	return c.startScheduler()
}

// startEtcd gives etcd sockets in our folder instead of ports: it asks nobody who they are, and nobody else can open those.
func (c *Cluster) startEtcd(ctx context.Context) error {
	client, peers := "unix://"+c.file("etcd.sock"), "unix://"+c.file("etcd-peers.sock")
	etcd, err := Program{
		Name:   "etcd",
		Binary: c.Binaries.Path(Etcd),
		Args: []string{
			"--data-dir=" + c.file("etcd"),
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
			"--unsafe-no-fsync", // what it loses in a power cut, nobody misses
		},
		Log: c.file("etcd.log"),
	}.Start()
	if err != nil {
		return err
	}
	c.etcd = etcd
	dialer := net.Dialer{}
	health := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", c.file("etcd.sock"))
		},
	}}
	return etcd.Until(ctx, "it is healthy", func(ctx context.Context) error {
		return get(ctx, &health, "http://etcd/health")
	})
}

// StartAPIServer starts the API server again after StopAPIServer, at the same address and with all that was in it, and returns when it
// serves. It may have more flags.
func (c *Cluster) StartAPIServer(ctx context.Context, more ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return errors.New("the cluster is stopped")
	}
	if c.api != nil {
		select {
		case <-c.api.Done():
		default:
			return nil // it runs
		}
	}
	// What one that crashed was asked will not be answered any more.
	if err := c.audit.forget(); err != nil {
		return err
	}
	program := Program{
		Name:   "kube-apiserver",
		Binary: c.Binaries.Path(APIServer),
		Args: []string{
			"--etcd-servers=unix://" + c.file("etcd.sock"),
			"--bind-address=" + loopback, "--secure-port=" + strconv.Itoa(c.apiPort),
			"--tls-cert-file=" + c.file("server.crt"), "--tls-private-key-file=" + c.file("server.key"),
			// It shall not publish its loopback address as the endpoint of Service default/kubernetes: that is not a
			// valid endpoint, and none is needed where no pod runs. 192.0.2.1 is nobody's (RFC 5737).
			"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
			"--service-cluster-ip-range=" + serviceNetworks, // of both families, for Services of both

			"--token-auth-file=" + c.file("tokens.csv"),
			"--authorization-mode=RBAC",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.file("service-accounts.key"),
			"--service-account-signing-key-file=" + c.file("service-accounts.key"),
			// Nobody has a client certificate. These two are for programs which, like ours, serve metrics to whom the API server
			// knows: they read here by which authorities it knows them, and want an answer.
			"--client-ca-file=" + c.file("ca.crt"),
			"--requestheader-client-ca-file=" + c.file("ca.crt"), "--requestheader-allowed-names=front-proxy",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",

			// Without it, a server that is to stop waits a minute for those who watch something to go away by themselves.
			"--shutdown-watch-termination-grace-period=1s",

			"--audit-policy-file=" + c.file("audit-policy.yaml"),
			"--audit-log-path=" + c.audit.path,
			"--audit-log-mode=blocking",
			"--audit-log-maxsize=1000000", // MB: one file, so that an offset in it stays one
		},
		Log: c.file("kube-apiserver.log"),
	}
	program.Args = append(program.Args, more...)
	if !c.workloads {
		// Pods need no service account: no kubelet would mount its token.
		program.Args = append(program.Args, "--disable-admission-plugins=ServiceAccount")
	} else {
		egress, err := c.egressConfig()
		if err != nil {
			return err
		}
		program.Args = append(program.Args, "--egress-selector-config-file="+egress, "--kubelet-preferred-address-types=InternalIP")
	}
	api, err := program.Start()
	if err != nil {
		return err
	}
	c.api = api
	if err := api.Until(ctx, "it is ready", func(ctx context.Context) error {
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}); err != nil {
		return err
	}
	// Ready is a little less than useful: only then does it create the namespaces and the ranges that Services get their
	// cluster addresses from. One dry run asks for both.
	both := corev1.IPFamilyPolicyRequireDualStack
	probe := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "probe"},
		Spec:       corev1.ServiceSpec{IPFamilyPolicy: &both, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	return api.Until(ctx, "it takes Services", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
}

// controllers are those that the lab's stories need. Others would only add requests to the audit log, or worse: the node lifecycle
// controller taints every node without a kubelet as unreachable, and pod garbage collection deletes the pods on it.
var controllers = []string{
	"endpointslice-controller",     // what speakers act on
	"garbage-collector-controller", // removes the slices of a Service that is gone
	"namespace-controller",         // empties a namespace that is deleted
}

// workloadControllers are what makes pods of Deployments and DaemonSets, and gives them service accounts.
var workloadControllers = []string{
	"daemonset-controller", "deployment-controller", "replicaset-controller", "disruption-controller", "job-controller",
	"node-lifecycle-controller",                // takes the taint off new nodes that keeps pods away
	"serviceaccount-controller",                // the account default of each namespace
	"serviceaccount-token-controller",          // Secrets with a token
	"root-ca-certificate-publisher-controller", // by which pods know the API server
}

// startScheduler starts the scheduler, and does not wait for it: whoever waits for a pod does.
func (c *Cluster) startScheduler() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scheduler, err = Program{
		Name:   "kube-scheduler",
		Binary: c.Binaries.Path(Scheduler),
		Args:   []string{"--kubeconfig=" + c.KubeconfigOf(scheduler), "--secure-port=0", "--leader-elect=false"},
		Log:    c.file("kube-scheduler.log"),
	}.Start()
	return err
}

func (c *Cluster) startControllerManager(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	run := controllers
	if c.workloads {
		run = slices.Concat(controllers, workloadControllers)
	}
	manager, err := Program{
		Name:   "kube-controller-manager",
		Binary: c.Binaries.Path(ControllerManager),
		Args: []string{
			"--kubeconfig=" + c.KubeconfigOf(controllerManager),
			"--bind-address=" + loopback, "--secure-port=" + strconv.Itoa(c.managerPort),
			"--tls-cert-file=" + c.file("server.crt"), "--tls-private-key-file=" + c.file("server.key"),
			"--controllers=" + strings.Join(run, ","),
			"--service-account-private-key-file=" + c.file("service-accounts.key"), "--root-ca-file=" + c.file("ca.crt"),
			// As installers do: each controller has an account of its own, to which the API server's built-in roles are bound.
			"--use-service-account-credentials",
			"--leader-elect=false", // it is alone, and one that loses its lease while the API server is down would exit
			// The default of 20 requests a second would be slower than what the lab is to measure.
			"--kube-api-qps=1000", "--kube-api-burst=2000",
		},
		Log: c.file("kube-controller-manager.log"),
	}.Start()
	if err != nil {
		return err
	}
	c.manager = manager
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	health, err := rest.HTTPClientFor(config) // trusts the cluster's certificates
	if err != nil {
		return err
	}
	defer health.CloseIdleConnections()
	if err := manager.Until(ctx, "it is healthy", func(ctx context.Context) error {
		return get(ctx, health, fmt.Sprintf("https://%s:%d/healthz", loopback, c.managerPort))
	}); err != nil {
		return err
	}
	// It is healthy before its controllers start, each of which first makes itself an account.
	return manager.Until(ctx, "its controllers run", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Get(ctx, "endpointslice-controller", metav1.GetOptions{})
		return err
	})
}

// StopAPIServer ends the API server alone, as an outage would look to everybody else. The controller manager waits for it to return.
func (c *Cluster) StopAPIServer() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.api == nil {
		return nil
	}
	err := c.api.Stop(stopTimeout)
	return errors.Join(err, c.audit.forget())
}

// A process that takes longer than this to end is killed. The API server may take a minute over requests that do not end.
const stopTimeout = 90 * time.Second

// Stop ends everything and removes the folder. It may be called again, and after a failed start.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	c.stopped = true
	// In this order each can say goodbye to the one it depends on: an API server whose etcd is gone lingers for a minute.
	var problems []error
	for _, process := range []*Process{c.scheduler, c.manager, c.api, c.etcd} {
		if process != nil {
			problems = append(problems, process.Err(), process.Stop(stopTimeout))
		}
	}
	return errors.Join(append(problems, os.RemoveAll(c.Dir))...)
}

// Err names the first process of the control plane that ended although nobody here had asked it to, with its last lines.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range []*Process{c.etcd, c.api, c.manager, c.scheduler} {
		if process != nil {
			if err := process.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Client acts as the administrator, without a limit of its own on requests per second.
func (c *Cluster) Client() clientset.Interface { return c.client }

// KubeconfigOf is the path of a user's kubeconfig file. It panics for a user that Options do not name.
func (c *Cluster) KubeconfigOf(user string) string {
	path, ok := c.kubeconfigs[user]
	if !ok {
		panic(fmt.Sprintf("the cluster was started without a user %q", user))
	}
	return path
}

// ClientOf acts as a user, without a limit of its own on requests per second.
func (c *Cluster) ClientOf(user string) (clientset.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigOf(user))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return clientset.NewForConfig(config)
}

func (c *Cluster) file(name string) string { return filepath.Join(c.Dir, name) }

func (c *Cluster) url() string { return fmt.Sprintf("https://%s:%d", loopback, c.apiPort) }

// get is an error unless the answer is 200.
func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, response.Status, text)
	}
	return nil
}

// FreePort finds a port that nobody listens at, below those that Linux hands to outgoing connections and Kubernetes to node ports: the
// API server must find it free again after an outage, too.
func FreePort() (int, error) {
	for range 100 {
		port := 20000 + rand.IntN(10000)
		listener, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("a hundred ports of %s between 20000 and 30000 are taken", loopback)
}
