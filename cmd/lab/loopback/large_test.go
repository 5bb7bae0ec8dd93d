package loopback

import (
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// How long the plugin takes for its longest answer, and how much memory, where the cluster is a large one: 10,000 Services, a quarter of
// them of the policy Local, with three endpoints each, on 100 nodes. It reads from a real API server, and asks no speaker.
func BenchmarkStatusOfALargeCluster(b *testing.B) {
	const services, nodes = 10_000, 100
	ctx := b.Context()
	program := filepath.Join(b.TempDir(), "kubectl-metallb")
	lab := start(b, Options{Nodes: 1})
	if out, err := exec.Command("go", "build", "-C", lab.root, "-o", program, "./cmd/kubectl-metallb").CombinedOutput(); err != nil {
		b.Fatalf("build the plugin: %v\n%s", err, out)
	}
	core := lab.API.CoreV1()
	text := `peers:
- {name: a, peer-address: 10.9.0.1, peer-asn: 100, my-asn: 42}
- {name: b, peer-address: 10.9.0.2, peer-asn: 100, my-asn: 42}
- {name: c, peer-address: 10.9.0.3, peer-asn: 100, my-asn: 42}
address-pools: [{name: default, cidr: [10.100.0.0/16]}]
`
	must(b, lab.write(ctx, text))
	_, err := core.ConfigMaps("metallb-system").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "config-admitted"}, Data: map[string]string{"config": text, "hash": fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]},
	}, metav1.CreateOptions{})
	must(b, err)
	name := func(node int) string { return fmt.Sprintf("large-%d", node%nodes) }
	must(b, parallel(nodes, 16, func(i int) error {
		_, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name(i)}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		_, err = core.Pods("metallb-system").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "speaker-" + name(i), Labels: map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}},
			Spec:       corev1.PodSpec{NodeName: name(i), Containers: []corev1.Container{{Name: "speaker", Image: "none"}}},
		}, metav1.CreateOptions{})
		return err
	}))
	must(b, parallel(services, 16, func(i int) error {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%d", i), Labels: map[string]string{"app": "shop", "team": fmt.Sprint(i % 50)}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(bool), Ports: []corev1.ServicePort{{Port: 80}},
			},
		}
		if i%4 == 0 { // each takes one of the node ports, of which there are fewer than Services
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		created, err := core.Services("default").Create(ctx, svc, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		created.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("10.100.%d.%d", i/256, i%256)}}
		if _, err := core.Services("default").UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
			return err
		}
		ready, port := true, int32(8080)
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		}
		for j := range 3 {
			node := name(3*i + j)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 200+j, i/256, i%256)}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("pod-%d-%d", i, j), UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%06d%06d", i, j))},
			})
		}
		_, err = lab.API.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
		return err
	}))
	b.ResetTimer()
	for range b.N {
		cmd := exec.CommandContext(ctx, program, "--kubeconfig", lab.Kubeconfig, "status")
		began := time.Now()
		out, err := cmd.CombinedOutput()
		took := time.Since(began)
		if !strings.Contains(string(out), "10000 Services of ours") {
			b.Fatalf("%v\n%s", err, out)
		}
		used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		b.Logf("%v, of which %v of its own; %d MB", took, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), used.Maxrss>>10)
		b.ReportMetric(took.Seconds(), "s")
		b.ReportMetric(float64(used.Maxrss)/1024, "MB")
	}
}
