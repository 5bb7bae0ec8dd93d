package watch

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func peers(n int) string {
	text := "peers:\n"
	for i := range n {
		text += fmt.Sprintf("- {peer-address: 10.0.0.%d, peer-asn: 1, my-asn: 2}\n", i+1)
	}
	return text
}

func TestWhatWasOnceInForceStaysWhateverBecomesOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		configs, nodes := client.CoreV1().ConfigMaps("metallb-system"), client.CoreV1().Nodes()
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		admitted := func(text string) *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config-admitted"}, Data: map[string]string{"config": text}}
		}
		var looks []string
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			Follow(ctx, Cluster{Nodes: nodes, ConfigMaps: configs, Fake: client}, "config", "n1", func(c *loadbalancer.Config, n *corev1.Node) {
				looks = append(looks, fmt.Sprintf("%d peers, rack %s", len(c.Peers), n.Labels["rack"]))
			})
		}()
		for _, step := range []struct {
			then string
			do   func() error
			want []string
		}{
			{"nothing is there", func() error { return nil }, nil},
			{"a configuration is there, and no node", func() error { _, err := configs.Create(ctx, admitted(peers(1)), metav1.CreateOptions{}); return err }, nil},
			{"both are", func() error { _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); return err }, []string{"1 peers, rack "}},
			{"another text", func() error { _, err := configs.Update(ctx, admitted(peers(2)), metav1.UpdateOptions{}); return err }, []string{"2 peers, rack "}},
			{"nobody can read it", func() error { _, err := configs.Update(ctx, admitted("peers: ["), metav1.UpdateOptions{}); return err }, []string{"2 peers, rack "}},
			{"it is gone", func() error { return configs.Delete(ctx, "config-admitted", metav1.DeleteOptions{}) }, []string{"2 peers, rack "}},
			{"the node is gone", func() error { return nodes.Delete(ctx, "n1", metav1.DeleteOptions{}) }, nil},
			{"it comes back", func() error {
				node.Labels = map[string]string{"rack": "two"}
				_, err := nodes.Create(ctx, node, metav1.CreateOptions{})
				return err
			}, []string{"2 peers, rack two"}},
		} {
			looks = nil
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			if synctest.Wait(); !slices.Equal(looks, step.want) {
				t.Errorf("%s: %q, want %q", step.then, looks, step.want)
			}
		}
		stop()
		<-ended
	})
}
