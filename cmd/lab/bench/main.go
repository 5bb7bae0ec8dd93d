// Command bench measures what a speaker costs in clusters of several sizes, against a process that does nothing but watch the
// same objects, before the same real API server: absolute figures are this machine's, ratios within one run say more.
//
//	bench SPEAKER...   measures these programs, one after another
//
// LAB_SIZES are the numbers of Services ("2000 10000"), LAB_ENDPOINTS the endpoints of each (3).
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

const (
	nodeName = "a"
	// changes is how many slices change while CPU time is measured, and pace how many in a second.
	changes = 1000
	pace    = 50
	writers = 16
	// calm is how long a program may take to give back what it needed at the start.
	calm = 10 * time.Second
)

func main() {
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "watch":
		err = watchOnly(ctx, os.Args[2], os.Args[3])
	case len(os.Args) > 1:
		err = bench(ctx, os.Args[1:])
	default:
		err = errors.New("say which speakers to measure")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, speakers []string) (err error) {
	binaries, err := kubernetes.Build(ctx, os.Stderr, kubernetes.ControlPlane...)
	if err != nil {
		return err
	}
	cluster, err := kubernetes.Start(ctx, kubernetes.Options{Binaries: binaries})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	if err := prepare(ctx, cluster.Client()); err != nil {
		return err
	}
	endpoints, err := strconv.Atoi(cmp.Or(os.Getenv("LAB_ENDPOINTS"), "3"))
	if err != nil {
		return err
	}
	fmt.Println("| Services | program | start, s | read at start, MB | resident, MB | at most | of it files | read a change, bytes | CPU a change, ms | core at 50/s |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	have := 0
	for size := range strings.FieldsSeq(cmp.Or(os.Getenv("LAB_SIZES"), "0 2000 10000")) {
		n, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		if err := fill(ctx, cluster.Client(), have, n, endpoints); err != nil {
			return err
		}
		have = n
		for _, speaker := range append([]string{"reference"}, speakers...) {
			if err := measure(ctx, cluster, speaker, n, endpoints); err != nil {
				return fmt.Errorf("%s with %d Services: %w", speaker, n, err)
			}
		}
	}
	return nil
}

// prepare makes what a speaker needs beside Services.
func prepare(ctx context.Context, client clientset.Interface) error {
	_, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "metallb-system"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err = client.CoreV1().ConfigMaps("metallb-system").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "config-admitted"},
		Data:       map[string]string{"config": "address-pools: [{name: big, cidr: [100.64.0.0/15]}]", "hash": "bench"},
	}, metav1.CreateOptions{})
	return err
}

// fill makes Services from one number to another, each with an address and a slice.
func fill(ctx context.Context, client clientset.Interface, from, to, endpoints int) error {
	var next atomic.Int64
	next.Store(int64(from))
	failures := make(chan error, writers)
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for i := int(next.Add(1) - 1); i < to; i = int(next.Add(1) - 1) {
				if err := add(ctx, client, i, endpoints); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failures)
	return <-failures
}

func name(i int) string { return fmt.Sprintf("recommendations-%05d", i) }

func add(ctx context.Context, client clientset.Interface, i, endpoints int) error {
	services := client.CoreV1().Services("default")
	svc, err := services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"app.kubernetes.io/name": name(i), "app.kubernetes.io/part-of": "shop"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(false),
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "https", Port: 443}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("100.64.%d.%d", i>>8, i&255), IPMode: new(corev1.LoadBalancerIPModeVIP)}}
	if _, err = services.UpdateStatus(ctx, svc, metav1.UpdateOptions{}); err != nil {
		return err
	}
	_, err = client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice(i, endpoints, true), metav1.CreateOptions{})
	return err
}

// slice is that of a Service, as Kubernetes' controller writes it. Its pods are on as many nodes, the first on ours.
func slice(i, endpoints int, ready bool) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name(i) + "-x7k2p", Labels: map[string]string{
			discoveryv1.LabelServiceName: name(i), discoveryv1.LabelManagedBy: "bench.example.com", "app.kubernetes.io/name": name(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}, {Name: new("https"), Port: new(int32(8443))}},
	}
	for e := range endpoints {
		node := fmt.Sprintf("node-%03d", (i+e)%500)
		if e == 0 {
			node = nodeName
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.244.%d.%d", (i+e)>>8&255, 1+(i+e)&127)},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: new(false)},
			NodeName:   &node,
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-5d7c9b7f6d-%05d", name(i), e), UID: types.UID(fmt.Sprintf("5d7c9b7f-6d00-4000-8000-%06d%06d", i, e))},
		})
	}
	return s
}

// measure starts a program, and tells what it costs to start it, to have it, and to change something.
func measure(ctx context.Context, cluster *kubernetes.Cluster, program string, n, endpoints int) (err error) {
	port, err := kubernetes.FreePort()
	if err != nil {
		return err
	}
	probe := fmt.Sprintf("http://127.0.0.1:%d/readyz", port)
	cmd := exec.CommandContext(ctx, program, "--node-name="+nodeName, "--kubeconfig="+cluster.Kubeconfig, "--secure-port=0", fmt.Sprintf("--probe-port=%d", port), "--on-sigterm=keep")
	if program == "reference" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		cmd = exec.CommandContext(ctx, self, "watch", cluster.Kubeconfig, fmt.Sprintf("127.0.0.1:%d", port))
	}
	cmd.Env = append(os.Environ(), "GOMEMLIMIT=100MiB")
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait() // it was told to end
	}()
	if err := kubernetes.Until(ctx, program, func(ctx context.Context) error {
		response, err := http.Get(probe)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	}); err != nil {
		return err
	}
	start, read := time.Since(began), figure(cmd, "io", "rchar:")
	select {
	case <-time.After(calm):
	case <-ctx.Done():
		return ctx.Err()
	}
	before, heard := cpu(cmd), figure(cmd, "io", "rchar:")
	if n > 0 {
		if err := change(ctx, cluster.Client(), n, endpoints); err != nil {
			return err
		}
	}
	used := cpu(cmd) - before
	each, bytes := used.Seconds()*1000/changes, (figure(cmd, "io", "rchar:")-heard)/changes
	fmt.Printf("| %d × %d | %s | %.1f | %.2f | %.1f | %.1f | %.1f | %d | %.2f | %.1f %% |\n", n, endpoints, filepath.Base(program), start.Seconds(), float64(read)/1e6,
		float64(figure(cmd, "status", "VmRSS:"))/1000, float64(figure(cmd, "status", "VmHWM:"))/1000, float64(figure(cmd, "status", "RssFile:"))/1000, bytes, each, each*pace/10)
	return nil
}

// change changes slices at the pace, each to unready or back.
func change(ctx context.Context, client clientset.Interface, n, endpoints int) error {
	tick := time.NewTicker(time.Second / pace)
	defer tick.Stop()
	for i := range changes {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		at := i / 2 * 7919 % n // each goes and returns
		if _, err := client.DiscoveryV1().EndpointSlices("default").Update(ctx, slice(at, endpoints, i%2 == 1), metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// figure reads a number of the kernel's about the process.
func figure(cmd *exec.Cmd, file, key string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, file))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == key {
			n, err := strconv.Atoi(words[1])
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}

// cpu is how much time of processors the process has used.
func cpu(cmd *exec.Cmd) time.Duration {
	var all time.Duration
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", cmd.Process.Pid))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if words := strings.Fields(string(text)); err == nil && len(words) > 0 {
			n, _ := strconv.ParseInt(words[0], 10, 64)
			all += time.Duration(n)
		}
	}
	return all
}

// A sink takes what a reflector hears, and forgets it.
type sink struct{ full atomic.Bool }

func (s *sink) Add(any) error               { return nil }
func (s *sink) Update(any) error            { return nil }
func (s *sink) Delete(any) error            { return nil }
func (s *sink) Resync() error               { return nil }
func (s *sink) Replace([]any, string) error { s.full.Store(true); return nil }
func (s *sink) Transformer() cache.TransformFunc {
	return func(any) (any, error) { return struct{}{}, nil }
}

// watchOnly is the reference: it watches what a speaker does, keeps nothing, and says when it has read everything.
func watchOnly(ctx context.Context, kubeconfig, address string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return err
	}
	var services, slices sink
	go cache.NewReflector(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = "spec.type=LoadBalancer"
			return client.CoreV1().Services("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = "spec.type=LoadBalancer"
			return client.CoreV1().Services("").Watch(ctx, o)
		},
	}, &corev1.Service{}, &services, 0).RunWithContext(ctx)
	go cache.NewReflector(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = discoveryv1.LabelServiceName
			return client.DiscoveryV1().EndpointSlices("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = discoveryv1.LabelServiceName
			return client.DiscoveryV1().EndpointSlices("").Watch(ctx, o)
		},
	}, &discoveryv1.EndpointSlice{}, &slices, 0).RunWithContext(ctx)
	server := &http.Server{Addr: address, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !services.full.Load() || !slices.full.Load() {
			http.Error(w, "still reading", http.StatusServiceUnavailable)
		}
	})}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
