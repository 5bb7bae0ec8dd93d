package loopback

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

// Floor is the least that can be done about Services, as a reference for benchmarks: it patches each status once, with the next
// address, by eight workers, and does nothing else.
func Floor(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS = -1 // no limit
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	queue := workqueue.NewTyped[cache.ObjectName]()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err = factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(object any) {
		if svc, ok := object.(*corev1.Service); ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && len(svc.Status.LoadBalancer.Ingress) == 0 {
			queue.Add(cache.MetaObjectToName(svc))
		}
	}})
	if err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	factory.Start(ctx.Done())
	var mu sync.Mutex
	next := netip.MustParseAddr("10.0.0.0")
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for name, ends := queue.Get(); !ends; name, ends = queue.Get() {
				mu.Lock()
				addr := next
				next = next.Next()
				mu.Unlock()
				patch, err := json.Marshal(corev1.Service{Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: addr.String()}}}}})
				if err == nil {
					_, err = client.CoreV1().Services(name.Namespace).Patch(ctx, name.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
				}
				if err != nil {
					fmt.Printf("%s: %v\n", name, err)
				}
				queue.Done(name)
			}
		})
	}
	workers.Wait()
	return nil
}
