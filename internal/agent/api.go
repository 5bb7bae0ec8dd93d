// Package agent is what the programs of a node have in common besides their work: clients of the API groups that they use, and HTTPS
// and probes for whoever asks how they are.
package agent

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/metallb/cloud-provider-metallb/speaker"
)

// An API has clients of the API groups that a speaker uses. Those of package kubernetes know all groups, and take half of the
// program's code and much of its memory.
type API struct {
	scheme                                            *runtime.Scheme
	core, discovery, apps, authentication, authorizes rest.Interface
}

// NewAPI returns clients for the API server of the configuration.
func NewAPI(config *rest.Config) (*API, error) {
	a := &API{scheme: runtime.NewScheme()}
	codecs := serializer.NewCodecFactory(a.scheme)
	connections, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	for _, group := range []struct {
		client  *rest.Interface
		path    string
		version schema.GroupVersion
		add     func(*runtime.Scheme) error
	}{
		{&a.core, "/api", corev1.SchemeGroupVersion, corev1.AddToScheme},
		{&a.discovery, "/apis", discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
		{&a.apps, "/apis", appsv1.SchemeGroupVersion, appsv1.AddToScheme},
		{&a.authentication, "/apis", authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
		{&a.authorizes, "/apis", authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme},
	} {
		if err := group.add(a.scheme); err != nil {
			return nil, err
		}
		config := rest.CopyConfig(config)
		config.APIPath, config.GroupVersion, config.NegotiatedSerializer = group.path, &group.version, codecs.WithoutConversion()
		if *group.client, err = rest.RESTClientForConfigAndClient(config, connections); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Cluster is what a Speaker watches.
func (a *API) Cluster(namespace string) speaker.Cluster {
	codec := runtime.NewParameterCodec(a.scheme)
	return speaker.Cluster{
		Services: gentype.NewClientWithList("services", a.core, codec, "",
			func() *corev1.Service { return &corev1.Service{} }, func() *corev1.ServiceList { return &corev1.ServiceList{} }),
		Slices: gentype.NewClientWithList("endpointslices", a.discovery, codec, "",
			func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} }, func() *discoveryv1.EndpointSliceList { return &discoveryv1.EndpointSliceList{} }),
		Nodes: gentype.NewClientWithList("nodes", a.core, codec, "",
			func() *corev1.Node { return &corev1.Node{} }, func() *corev1.NodeList { return &corev1.NodeList{} }),
		ConfigMaps: gentype.NewClientWithList("configmaps", a.core, codec, namespace,
			func() *corev1.ConfigMap { return &corev1.ConfigMap{} }, func() *corev1.ConfigMapList { return &corev1.ConfigMapList{} }),
		Secrets: gentype.NewClientWithList("secrets", a.core, codec, namespace,
			func() *corev1.Secret { return &corev1.Secret{} }, func() *corev1.SecretList { return &corev1.SecretList{} }),
	}
}

// Pods returns a client of Pods.
func (a *API) Pods(namespace string) *gentype.Client[*corev1.Pod] {
	return gentype.NewClient("pods", a.core, runtime.NewParameterCodec(a.scheme), namespace, func() *corev1.Pod { return &corev1.Pod{} })
}

// Nodes returns a client of Nodes.
func (a *API) Nodes() *gentype.Client[*corev1.Node] {
	return gentype.NewClient("nodes", a.core, runtime.NewParameterCodec(a.scheme), "", func() *corev1.Node { return &corev1.Node{} })
}

// DaemonSets returns a client of DaemonSets.
func (a *API) DaemonSets(namespace string) *gentype.Client[*appsv1.DaemonSet] {
	return gentype.NewClient("daemonsets", a.apps, runtime.NewParameterCodec(a.scheme), namespace, func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} })
}

func (a *API) clerk() clerk {
	codec := runtime.NewParameterCodec(a.scheme)
	return clerk{
		tokens: gentype.NewClient("tokenreviews", a.authentication, codec, "", func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} }),
		accesses: gentype.NewClient("subjectaccessreviews", a.authorizes, codec, "",
			func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} }),
	}
}

// Config returns how the API server is reached: as the kubeconfig file says, or if that is none, as the Pod's service account.
func Config(kubeconfig, program string) (config *rest.Config, err error) {
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
