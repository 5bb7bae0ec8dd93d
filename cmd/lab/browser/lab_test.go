//go:build browser

package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/loopback"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// A hall is a lab with something to look at: two routers, of which one does not know node-2; node-4, which is drained; a Service that
// stays on its pods' nodes, one that no pod serves, and one that waits.
type hall struct {
	*loopback.Lab
	config string // in force
}

const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: checkout}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: checkout}, ports: [{port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: lonely}
spec: {type: LoadBalancer, selector: {app: lonely}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: late}
spec: {type: LoadBalancer, loadBalancerIP: 10.1.2.3, selector: {app: web}, ports: [{port: 80}]}
`

func newHall(t *testing.T) hall {
	t.Helper()
	ctx := t.Context()
	lab, err := loopback.Start(ctx, loopback.Options{Nodes: 5, Progress: t.Output()})
	must(t, err)
	t.Cleanup(func() {
		if err := lab.Stop(); err != nil {
			t.Error(err)
		}
	})
	var known []router.Peer
	for i, node := range lab.Nodes {
		if i != 1 {
			known = append(known, router.Peer{Addr: node.Addr, ASN: loopback.ClusterASN})
		}
	}
	second, err := router.Start(router.Options{Addr: netip.MustParseAddrPort("127.0.0.2:0"), ASN: loopback.RouterASN, Peers: known, GracefulRestart: true})
	must(t, err)
	t.Cleanup(second.Stop)
	_, err = lab.StartController(ctx)
	must(t, err)
	for _, node := range lab.Nodes {
		_, err := lab.StartSpeaker(node, nil, "--bind-address="+node.Addr.String())
		must(t, err)
		must(t, pretend(ctx, lab, node))
	}
	h := hall{Lab: lab, config: "peers:\n"}
	for name, addr := range map[string]netip.AddrPort{"leaf-a": lab.Router.Addr, "leaf-b": second.Addr} {
		h.config += fmt.Sprintf("- {name: %s, peer-address: %s, peer-port: %d, peer-asn: %d, my-asn: %d, source-address: node-ip}\n", name, addr.Addr(), addr.Port(), loopback.RouterASN, loopback.ClusterASN)
	}
	h.config += "address-pools:\n- {name: public, cidr: [198.51.100.0/30]}\n- {name: internal, cidr: [192.168.0.0/16, \"2001:db8::/64\"]}\n- {name: by-request, cidr: [203.0.113.0/28], auto-assign: false}\n"
	h.write(t, h.config)
	must(t, lab.Admitted(ctx, h.config))
	for i, node := range lab.Nodes[:3] {
		if i == 0 {
			out, err := lab.Kubectl(ctx, objects, "apply", "-f", "-")
			if err != nil {
				t.Fatal(out, err)
			}
		}
		must(t, lab.RunPod(ctx, "shop", "web-"+node.Name, map[string]string{"app": "web"}, node))
	}
	must(t, lab.RunPod(ctx, "shop", "checkout", map[string]string{"app": "checkout"}, lab.Nodes[0]))
	if out, err := lab.Kubectl(ctx, "", "annotate", "node", "node-4", "metallb.universe.tf/drain=true"); err != nil {
		t.Fatal(out, err)
	}
	return h
}

// pretend makes the Pod of a speaker that runs as a process: by it the plugin finds the port.
func pretend(ctx context.Context, lab *loopback.Lab, node loopback.Node) error {
	pods := lab.API.CoreV1().Pods("metallb-system")
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "metallb-speaker-" + node.Name, Labels: map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}},
		Spec: corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{{
			Name: "speaker", Image: "ghcr.io/metallb/cloud-provider-metallb/metallb-speaker:v0.1.0", Args: []string{"--secure-port=" + strconv.Itoa(lab.SpeakerPorts[node.Name])},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// write writes the user's ConfigMap.
func (h hall) write(t *testing.T, text string) {
	t.Helper()
	object, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]string{"namespace": "metallb-system", "name": "config"}, "data": map[string]string{"config": text}})
	must(t, err)
	if out, err := h.Kubectl(t.Context(), string(object), "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
}

// run runs a command as it was copied from the page: kubectl finds the plugin.
func (h hall) run(t *testing.T, command, stdin string) (out string, code int) {
	t.Helper()
	folder := t.TempDir()
	must(t, os.Symlink(h.Binaries.Path(kubernetes.Kubectl), filepath.Join(folder, "kubectl")))
	must(t, os.Symlink(program(t), filepath.Join(folder, "kubectl-metallb")))
	cmd := exec.Command("bash", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(stdin)
	text, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return string(text), ended.ExitCode()
	}
	must(t, err)
	return string(text), 0
}
