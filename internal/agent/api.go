// Package agent is what the programs of a node have in common besides their work: their command line, clients of the API groups that
// they use, and HTTPS, probes and metrics for whoever asks how they are.
package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/metallb/cloud-provider-metallb/speaker"
)

// An API has clients of the API groups that a speaker uses. Those of package kubernetes know all groups, and take half of the
// program's code and much of its memory.
type API struct {
	config                                            *rest.Config
	core, discovery, apps, authentication, authorizes rest.Interface
}

// known are the kinds that we read and write, by their API groups, and how requests about them are written.
var known = sync.OnceValues(func() (*runtime.Scheme, runtime.ParameterCodec) {
	scheme := runtime.NewScheme()
	for version, kinds := range map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion: {&corev1.Service{}, &corev1.ServiceList{}, &corev1.Node{}, &corev1.NodeList{}, &corev1.Pod{},
			&corev1.ConfigMap{}, &corev1.ConfigMapList{}, &corev1.Secret{}, &corev1.SecretList{}},
		discoveryv1.SchemeGroupVersion:      {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
		appsv1.SchemeGroupVersion:           {&appsv1.DaemonSet{}},
		authenticationv1.SchemeGroupVersion: {&authenticationv1.TokenReview{}},
		authorizationv1.SchemeGroupVersion:  {&authorizationv1.SubjectAccessReview{}},
	} {
		scheme.AddKnownTypes(version, kinds...)
		metav1.AddToGroupVersion(scheme, version)
	}
	return scheme, runtime.NewParameterCodec(scheme)
})

// NewAPI returns clients for the API server of the configuration.
func NewAPI(config *rest.Config) (*API, error) {
	a := &API{config: config}
	scheme, _ := known()
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	connections, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	for _, group := range []struct {
		client  *rest.Interface
		path    string
		version schema.GroupVersion
	}{
		{&a.core, "/api", corev1.SchemeGroupVersion},
		{&a.discovery, "/apis", discoveryv1.SchemeGroupVersion},
		{&a.apps, "/apis", appsv1.SchemeGroupVersion},
		{&a.authentication, "/apis", authenticationv1.SchemeGroupVersion},
		{&a.authorizes, "/apis", authorizationv1.SchemeGroupVersion},
	} {
		config := rest.CopyConfig(config)
		config.APIPath, config.GroupVersion, config.NegotiatedSerializer = group.path, &group.version, codecs
		if *group.client, err = rest.RESTClientForConfigAndClient(config, connections); err != nil {
			return nil, fmt.Errorf("make a client: %w", err)
		}
	}
	return a, nil
}

// A kind is a client of the objects of one kind, or of lists of them, as T says: of a namespace, or without one of all, or of what is in
// none. Package gentype has the same, and links a fake of an API server with it, which takes a megabyte of each program.
type kind[T any, Object interface {
	*T
	runtime.Object
}] struct {
	server          rest.Interface
	name, namespace string
}

// about is what all requests have in common.
func (k kind[T, Object]) about(request *rest.Request, options runtime.Object) *rest.Request {
	_, codec := known()
	return request.NamespaceIfScoped(k.namespace, k.namespace != "").Resource(k.name).VersionedParams(options, codec)
}

// within is the time that the options leave the API server; zero leaves it any.
func within(o metav1.ListOptions) time.Duration {
	if o.TimeoutSeconds == nil {
		return 0
	}
	return time.Duration(*o.TimeoutSeconds) * time.Second
}

func (k kind[T, Object]) List(ctx context.Context, o metav1.ListOptions) (Object, error) {
	list := Object(new(T))
	return list, k.about(k.server.Get(), &o).Timeout(within(o)).Do(ctx).Into(list)
}

func (k kind[T, Object]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return k.about(k.server.Get(), &o).Timeout(within(o)).Watch(ctx)
}

func (k kind[T, Object]) Get(ctx context.Context, name string, o metav1.GetOptions) (Object, error) {
	object := Object(new(T))
	return object, k.about(k.server.Get(), &o).Name(name).Do(ctx).Into(object)
}

func (k kind[T, Object]) Create(ctx context.Context, object Object, o metav1.CreateOptions) (Object, error) {
	answer := Object(new(T))
	return answer, k.about(k.server.Post(), &o).Body(object).Do(ctx).Into(answer)
}

// Cluster is what a Speaker watches.
func (a *API) Cluster(namespace string) speaker.Cluster {
	return speaker.Cluster{
		Services:   kind[corev1.ServiceList, *corev1.ServiceList]{a.core, "services", ""},
		Slices:     kind[discoveryv1.EndpointSliceList, *discoveryv1.EndpointSliceList]{a.discovery, "endpointslices", ""},
		Nodes:      kind[corev1.NodeList, *corev1.NodeList]{a.core, "nodes", ""},
		ConfigMaps: kind[corev1.ConfigMapList, *corev1.ConfigMapList]{a.core, "configmaps", namespace},
		Secrets:    kind[corev1.SecretList, *corev1.SecretList]{a.core, "secrets", namespace},
	}
}

// Pod, Node and DaemonSet return an object as it is now.
func (a *API) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return kind[corev1.Pod, *corev1.Pod]{a.core, "pods", namespace}.Get(ctx, name, metav1.GetOptions{})
}

func (a *API) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return kind[corev1.Node, *corev1.Node]{a.core, "nodes", ""}.Get(ctx, name, metav1.GetOptions{})
}

func (a *API) DaemonSet(ctx context.Context, namespace, name string) (*appsv1.DaemonSet, error) {
	return kind[appsv1.DaemonSet, *appsv1.DaemonSet]{a.apps, "daemonsets", namespace}.Get(ctx, name, metav1.GetOptions{})
}

func (a *API) clerk() clerk {
	return clerk{
		tokens:   kind[authenticationv1.TokenReview, *authenticationv1.TokenReview]{a.authentication, "tokenreviews", ""},
		accesses: kind[authorizationv1.SubjectAccessReview, *authorizationv1.SubjectAccessReview]{a.authorizes, "subjectaccessreviews", ""},
	}
}

// configOf returns how the API server is reached: as the kubeconfig file says, or if that is none, as the Pod's service account.
func configOf(kubeconfig, program string) (config *rest.Config, err error) {
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.UserAgent = program
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config, nil
}
