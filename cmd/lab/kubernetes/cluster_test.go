package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	reader   = "system:serviceaccount:shop:reader"
	stranger = "system:serviceaccount:shop/stranger" // no account can be called that, but a file could not either
)

// start starts a control plane for one test, and checks at its end that nothing of it is left.
func start(t *testing.T) *Cluster {
	t.Helper()
	binaries, err := Build(t.Context(), os.Stderr, ControlPlane...)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c, err := Start(t.Context(), Options{
		Binaries: binaries,
		Users:    []User{{Name: reader, Groups: []string{"system:serviceaccounts", "readers"}}, {Name: stranger}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the control plane came up in %s", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		processes := []*Process{c.etcd, c.api, c.manager}
		began := time.Now()
		for range 2 { // it may be called again
			if err := c.Stop(); err != nil {
				t.Error(err)
			}
		}
		t.Logf("it ended in %s", time.Since(began).Round(time.Millisecond))
		for _, p := range processes {
			if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("%s is left: %v", p.Name, err)
			}
		}
		if _, err := os.Stat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", c.Dir, err)
		}
	})
	return c
}

// eventually waits until there is no problem any more.
func eventually(t *testing.T, problem func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		last = problem(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
}

// must makes what a test needs and cannot do without.
func must[T any](t *testing.T) func(made T, err error) T {
	return func(made T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
}

func TestCluster(t *testing.T) {
	c := start(t)
	ctx, client := t.Context(), c.Client()

	version := must[string](t)(func() (string, error) {
		v, err := client.Discovery().ServerVersion()
		return v.GitVersion, err
	}())
	if version != c.Binaries.Version {
		t.Errorf("the API server calls itself %s, not %s", version, c.Binaries.Version)
	}
	must[*corev1.Namespace](t)(client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}))

	t.Run("a pretended pod becomes a ready endpoint of its Service", func(t *testing.T) { podBecomesEndpoint(t, client) })
	t.Run("users may do what RBAC says and no more", func(t *testing.T) { usersNeedPermission(t, c) })
	t.Run("a client the API server does not know is turned away", func(t *testing.T) { tokensAreChecked(t, c) })
	t.Run("the audit log counts what clients have done", func(t *testing.T) { auditLogCounts(t, c) })
	t.Run("an outage of the API server loses nothing", func(t *testing.T) { outageLosesNothing(t, c) })
	t.Run("a deleted namespace takes everything in it along", func(t *testing.T) { namespaceIsEmptied(t, client) })
}

func podBecomesEndpoint(t *testing.T, client clientset.Interface) {
	ctx := t.Context()
	node := must[*corev1.Node](t)(client.CoreV1().Nodes().Create(ctx,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}, metav1.CreateOptions{}))
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.11"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	must[*corev1.Node](t)(client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}))

	must[*corev1.Service](t)(client.CoreV1().Services("shop").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeLoadBalancer,
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{}))

	pod := must[*corev1.Pod](t)(client.CoreV1().Pods("shop").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}, metav1.CreateOptions{}))
	pod.Status = corev1.PodStatus{
		Phase:      corev1.PodRunning,
		PodIP:      "10.244.1.10",
		PodIPs:     []corev1.PodIP{{IP: "10.244.1.10"}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	must[*corev1.Pod](t)(client.CoreV1().Pods("shop").UpdateStatus(ctx, pod, metav1.UpdateOptions{}))

	want := "10.244.1.10 on node-a, ready"
	eventually(t, func(ctx context.Context) error {
		got, err := endpoints(ctx, client, "shop", "web")
		if err != nil {
			return err
		}
		if !slices.Equal(got, []string{want}) {
			return fmt.Errorf("endpoints %q, want %q", got, want)
		}
		return nil
	})
}

// endpoints of a Service, as its EndpointSlices have them.
func endpoints(ctx context.Context, client clientset.Interface, namespace, service string) ([]string, error) {
	list, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service,
	})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			ready := "not ready"
			if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				ready = "ready"
			}
			found = append(found, fmt.Sprintf("%s on %s, %s", endpoint.Addresses[0], *endpoint.NodeName, ready))
		}
	}
	return found, nil
}

func usersNeedPermission(t *testing.T, c *Cluster) {
	ctx, rbac := t.Context(), c.Client().RbacV1()
	must[*rbacv1.Role](t)(rbac.Roles("shop").Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{}))
	must[*rbacv1.RoleBinding](t)(rbac.RoleBindings("shop").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "readers"}},
	}, metav1.CreateOptions{}))

	permitted := must[clientset.Interface](t)(c.ClientOf(reader))
	eventually(t, func(ctx context.Context) error { // the API server learns of a binding a moment after it is made
		_, err := permitted.CoreV1().Services("shop").List(ctx, metav1.ListOptions{})
		return err
	})
	if _, err := permitted.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("reader lists pods, which nobody allowed: %v", err)
	}
	unknown := must[clientset.Interface](t)(c.ClientOf(stranger))
	if _, err := unknown.CoreV1().Services("shop").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("stranger lists services, which nobody allowed: %v", err)
	}
}

func tokensAreChecked(t *testing.T, c *Cluster) {
	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigOf(reader))
	if err != nil {
		t.Fatal(err)
	}
	config.BearerToken = "invented"
	client := must[*clientset.Clientset](t)(clientset.NewForConfig(config))
	if _, err := client.CoreV1().Services("shop").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("an invented token: %v", err)
	}
	config.CAData = nil
	client = must[*clientset.Clientset](t)(clientset.NewForConfig(config))
	if _, err := client.CoreV1().Services("shop").List(t.Context(), metav1.ListOptions{}); err == nil || apierrors.IsUnauthorized(err) {
		t.Errorf("a client without the cluster's certificate authority talks to the API server: %v", err)
	}
}

func auditLogCounts(t *testing.T, c *Cluster) {
	const clients, each = 4, 25
	ctx := t.Context()
	before := must[Moment](t)(c.Now(ctx))
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for i := range each {
				note := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("note-%d-%d", n, i)}}
				if _, err := c.Client().CoreV1().ConfigMaps("shop").Create(ctx, note, metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	notes := func(r Request) bool { return r.Resource == "configmaps" && r.Writes() }
	requests := must[[]Request](t)(c.Requests(ctx, before, notes))
	if len(requests) != clients*each {
		t.Errorf("%d writes in the audit log, not %d: %v", len(requests), clients*each, requests)
	}

	after := must[Moment](t)(c.Now(ctx))
	if requests := must[[]Request](t)(c.Requests(ctx, after, notes)); len(requests) != 0 {
		t.Errorf("after the last write: %v", requests)
	}
	unknown := must[clientset.Interface](t)(c.ClientOf(stranger))
	_ = unknown.CoreV1().Services("shop").Delete(ctx, "web", metav1.DeleteOptions{}) // forbidden
	requests = must[[]Request](t)(c.Requests(ctx, after, func(r Request) bool { return r.User == stranger }))
	if len(requests) != 1 || requests[0].String() != stranger+": delete services shop/web: 403" {
		t.Errorf("what a stranger did: %v", requests)
	}
}

func outageLosesNothing(t *testing.T, c *Cluster) {
	ctx := t.Context()
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client().CoreV1().Services("shop").Get(ctx, "web", metav1.GetOptions{}); err == nil {
		t.Error("a stopped API server answers")
	}
	if _, err := c.Now(ctx); err != nil {
		t.Errorf("the audit log cannot be read while the API server is down: %v", err)
	}
	if err := c.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	pod := must[*corev1.Pod](t)(c.Client().CoreV1().Pods("shop").Get(ctx, "web-1", metav1.GetOptions{}))
	pod.Status.Conditions[0].Status = corev1.ConditionFalse
	must[*corev1.Pod](t)(c.Client().CoreV1().Pods("shop").UpdateStatus(ctx, pod, metav1.UpdateOptions{}))
	want := "10.244.1.10 on node-a, not ready"
	eventually(t, func(ctx context.Context) error { // by the controller manager that was there before
		got, err := endpoints(ctx, c.Client(), "shop", "web")
		if err != nil {
			return err
		}
		if !slices.Equal(got, []string{want}) {
			return fmt.Errorf("endpoints %q, want %q", got, want)
		}
		return nil
	})
}

func namespaceIsEmptied(t *testing.T, client clientset.Interface) {
	ctx := t.Context()
	// No kubelet is there to confirm the end of a pod.
	now := int64(0)
	if err := client.CoreV1().Pods("shop").Delete(ctx, "web-1", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Namespaces().Delete(ctx, "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		namespace, err := client.CoreV1().Namespaces().Get(ctx, "shop", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v is still there: %v", namespace, err)
	})
}

func TestTwoClustersRunSideBySide(t *testing.T) {
	var clusters [2]*Cluster
	for i := range clusters {
		clusters[i] = start(t)
	}
	ctx := t.Context()
	must[*corev1.Namespace](t)(clusters[0].Client().CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}))
	if _, err := clusters[1].Client().CoreV1().Namespaces().Get(ctx, "shop", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the second cluster has the first one's namespace: %v", err)
	}
}

func TestAStartThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	binaries, err := Build(t.Context(), os.Stderr, ControlPlane...)
	if err != nil {
		t.Fatal(err)
	}
	wrong := t.TempDir()
	for program, is := range map[string]string{
		Etcd: Etcd, ControllerManager: ControllerManager,
		APIServer: Kubectl, // ends at once, and complains about its flags
	} {
		if err := os.Symlink(binaries.Path(is), filepath.Join(wrong, program)); err != nil {
			t.Fatal(err)
		}
	}
	binaries.Dir = wrong
	if _, err = Start(t.Context(), Options{Binaries: binaries}); err == nil {
		t.Fatal("an API server that ended was good enough")
	}
	t.Log(err)
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
