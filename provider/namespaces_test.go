package provider

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func namespace(name string, labels map[string]string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func TestANamespaceThatGetsTheLabelIsServedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain, selecting := text("vip 10.0.0.0/30 namespace=blog"), text("vip 10.0.0.0/30 namespace=blog env=prod")
		c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": plain})), "shop/web")
		defer c.end()
		scheme := runtime.NewScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		client := metadatafake.NewSimpleMetadataClient(scheme, namespace("shop", nil), namespace("blog", nil))
		n, err := newNamespaces(client, c.cloud, func() {})
		if err != nil {
			t.Fatal(err)
		}
		c.cloud.selects = func(config *loadbalancer.Config) { n.needed(t.Context(), config) }
		label := func(labels map[string]string) {
			t.Helper()
			namespaces, ok := client.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).(metadatafake.MetadataClient)
			if !ok {
				t.Fatal("this is no fake client")
			}
			if _, err := namespaces.UpdateFake(namespace("shop", labels), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
			synctest.Wait()
		}
		holds := func(then, want string) {
			t.Helper()
			if got := shown(c.cloud.ledger.held(aService(t, "shop/web"))); got != want {
				t.Errorf("%s: web has %q, want %q", then, got, want)
			}
		}
		const why = "no pool is for this Service: change its labels, or let it into a pool that exists by namespaces or service-selectors"
		if _, err := ensure(t, c.cloud, "shop/web"); err == nil || err.Error() != why {
			t.Errorf("without a selector: %v", err)
		}
		label(map[string]string{"env": "prod"})
		if len(client.Actions()) > 1 {
			t.Errorf("nobody needs labels, and they were read: %v", client.Actions())
		}
		holds("the label does not matter yet", "")
		label(nil)
		c.write(selecting)
		<-time.After(time.Second)
		synctest.Wait()
		holds("there is no label", "")
		label(map[string]string{"env": "prod", "team": "a"})
		holds("there is one", "10.0.0.0")
		label(map[string]string{"env": "test"})
		holds("who has an address keeps it", "10.0.0.0")
	})
}
