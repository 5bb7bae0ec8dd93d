package loopback

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Watcher is a reference for benchmarks of the speaker: it watches what a speaker on that node watches, as client-go does it by
// itself, and does nothing else.
func Watcher(ctx context.Context, kubeconfig, node string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	named := func(name string) func(*metav1.ListOptions) {
		return func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}
	}
	var synced []cache.InformerSynced
	for _, one := range []struct {
		narrow    func(*metav1.ListOptions)
		namespace string
		of        func(informers.SharedInformerFactory) cache.SharedIndexInformer
	}{
		{func(o *metav1.ListOptions) { o.FieldSelector = "spec.type=LoadBalancer" }, "",
			func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
				return f.Core().V1().Services().Informer()
			}},
		{func(o *metav1.ListOptions) {
			o.LabelSelector = discoveryv1.LabelServiceName + ",!" + corev1.IsHeadlessService
		}, "",
			func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
				return f.Discovery().V1().EndpointSlices().Informer()
			}},
		{named(node), "", func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().Nodes().Informer()
		}},
		{named("config-admitted"), "metallb-system", func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().ConfigMaps().Informer()
		}},
	} {
		f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(one.namespace), informers.WithTweakListOptions(one.narrow))
		synced = append(synced, one.of(f).HasSynced)
		f.Start(ctx.Done())
	}
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		fmt.Println("synced")
	}
	<-ctx.Done()
	return nil
}
