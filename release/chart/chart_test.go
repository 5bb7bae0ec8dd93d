// Package chart tests the Helm chart charts/metallb as users meet it: by Helm's command line. It also makes the plain
// manifests from it.
package chart

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

const chart = "../../charts/metallb"

var (
	update = flag.Bool("update", false, "rewrite testdata and manifests with what the chart makes now")
	helm   string // the program
	helm3  string // the same of Helm v3
)

func TestMain(m *testing.M) {
	utilruntime.Must(monitoringv1.AddToScheme(scheme.Scheme))
	os.Exit(withHelm(m))
}

// withHelm links both versions of Helm into a folder of its own: the go command's word for where a program is (go tool -n, go run -exec=echo)
// is a folder that is gone when it says so, whenever it had to link the program first.
func withHelm(m *testing.M) int {
	folder, err := os.MkdirTemp("", "helm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	for program, version := range map[*string]string{&helm: "v4", &helm3: "v3"} {
		*program = filepath.Join(folder, "helm-"+version)
		// As make helm builds it, so that its packages are compiled once.
		command := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", *program, "helm.sh/helm/"+version+"/cmd/helm")
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n%s", command, err, out)
			return 1
		}
	}
	return m.Run()
}

// operator makes helm template believe that the cluster has the Prometheus operator's kinds.
var operator = []string{"--api-versions=monitoring.coreos.com/v1/PodMonitor", "--api-versions=monitoring.coreos.com/v1/ServiceMonitor", "--api-versions=monitoring.coreos.com/v1/PrometheusRule"}

// Each case is rendered into testdata/NAME.yaml and, as far as NOTES do not need the operator's kinds, testdata/NAME.txt.
var cases = []struct {
	name, namespace, values string
	args                    []string
}{
	{name: "default", namespace: "metallb-system"},
	{name: "configured", namespace: "metallb-system", values: `
config: |
  peers:
  - {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}
  address-pools:
  - name: default
    cidr: [192.168.10.0/24]  # {{ no template }}
`},
	{name: "nothing-optional", namespace: "load-balancing", values: `
controller: {replicas: 1, resources: null, nodeSelector: null, tolerations: null}
speaker: {resources: null, nodeSelector: null, tolerations: null}
flowSchema: {enabled: false}
networkPolicy: {enabled: false}
`},
	{name: "everything", namespace: "metallb-system", args: operator, values: `
global: {imageRegistry: "mirror.example", imagePullSecrets: [{name: mirror}], theirs: {any: thing}}
fullnameOverride: edge-lb
image:
  registry: "registry.example:5000/metallb"
  tag: v0.2.0
  pullPolicy: Always
  digests:
    controller: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    speaker: sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    bfd: sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
imagePullSecrets: [{name: registry}]
controller:
  replicas: 3
  loadBalancerClasses: [metallb]
  loadBalancerClassOnly: true
  verbosity: 4
  extraArgs: [--concurrent-service-syncs=20, --logging-format=json]
  resources: {requests: {cpu: 1}, limits: {memory: 1Gi, ephemeral-storage: 1Gi}}
  nodeSelector: {example.com/role: infrastructure}
  tolerations: [{key: example.com/role, value: infrastructure}]
  priorityClassName: important
  podLabels: {example.com/team: network}
  podAnnotations: {example.com/scanned: "false"}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: example.com/rack, operator: Exists}]}]}}}
  extraEnv: [{name: GODEBUG, value: netdns=go}]
  extraVolumes: [{name: tls, secret: {secretName: metrics-tls}}]
  extraVolumeMounts: [{name: tls, mountPath: /tls, readOnly: true}]
  topologySpreadConstraints: [{topologyKey: topology.kubernetes.io/zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app.kubernetes.io/component: controller}}}]
  updateStrategy: {type: Recreate}
speaker:
  onSIGTERM: withdraw
  ignoreExcludeLB: true
  waitForURL: "http://127.0.0.1:10256/healthz"
  port: 17473
  probePort: 17474
  maxUnavailable: 10%
  verbosity: 2
  extraArgs: [--logging-format=json, --tls-cert-file=/tls/tls.crt, --tls-private-key-file=/tls/tls.key]
  resources: {limits: {memory: 100Mi}}
  nodeSelector: {example.com/edge: "true"}
  tolerations: []
  priorityClassName: important
  podLabels: {example.com/team: network}
  podAnnotations: {example.com/scanned: "false"}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: example.com/rack, operator: Exists}]}]}}}
  extraEnv: [{name: GODEBUG, value: netdns=go}]
  extraVolumes: [{name: tls, secret: {secretName: metrics-tls}}]
  extraVolumeMounts: [{name: tls, mountPath: /tls, readOnly: true}]
  updateStrategy: {type: OnDelete}
bfd:
  enabled: true
  tag: v0.1.7
  port: 17475
  probePort: 17476
  verbosity: 1
  extraArgs: [--logging-format=json]
  resources: {requests: {cpu: 300m, memory: 64Mi}, limits: {cpu: 300m, memory: 64Mi}}
  nodeSelector: {example.com/edge: "true"}
  tolerations: []
  priorityClassName: important
  podLabels: {example.com/team: network}
  podAnnotations: {example.com/scanned: "false"}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: example.com/rack, operator: Exists}]}]}}}
  extraEnv: [{name: GODEBUG, value: netdns=go}]
  extraVolumes: [{name: tls, secret: {secretName: metrics-tls}}]
  extraVolumeMounts: [{name: tls, mountPath: /tls, readOnly: true}]
  updateStrategy: {type: OnDelete}
networkPolicy: {apiServerPorts: [443, 6443]}
podMonitor:
  enabled: true
  interval: 1m
  labels: {release: prometheus}
  relabelings: [{action: replace, targetLabel: cluster, replacement: berlin}]
  metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: go_.*}]
prometheusRule:
  enabled: true
  labels: {release: prometheus}
  disabled: [MetalLBAddressPoolUsage75Percent]
  severities: {MetalLBServicePending: critical}
dashboard: {enabled: true, labels: {grafana_folder: network}}
extraObjects:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: more, namespace: "{{ .Release.Namespace }}", labels: {app.kubernetes.io/name: metallb}}}
- |
  apiVersion: v1
  kind: ConfigMap
  metadata: {name: and-more, namespace: {{ .Release.Namespace }}, labels: {app.kubernetes.io/name: metallb}}
`},
	{name: "the-cni-announces", namespace: "load-balancing", args: operator, values: `
config: "address-pools: []"
nameOverride: addresses
verify: {timeout: 30s}
speaker: {enabled: false}
serviceMonitor:
  enabled: true
  interval: 1m
  labels: {release: prometheus}
  relabelings: [{action: replace, targetLabel: cluster, replacement: berlin}]
  metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: go_.*}]
prometheusRule: {enabled: true}
`},
	{name: "unverified", namespace: "metallb-system", values: `
config: "peers: []"
verify: {enabled: false}
`},
}

func TestEachCaseIsRenderedAsKept(t *testing.T) {
	for _, c := range cases {
		args := append([]string{"--namespace=" + c.namespace, "--kube-version=1.31.0"}, c.args...)
		out, err := render(t, helm, c.values, args...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		keep(t, "testdata/"+c.name+".yaml", withoutFiles(t, tight(out)))
		if old, err := render(t, helm3, c.values, args...); err != nil || tight(old) != tight(out) {
			t.Errorf("%s: Helm v3 renders something else: %v\n%s", c.name, err, old)
		}
	}
}

func TestNotesSayWhatToDoNext(t *testing.T) {
	for _, c := range cases {
		if c.args != nil {
			continue
		}
		out, err := run(t, helm, "install", "metallb", chart, "--dry-run=client", "--namespace="+c.namespace, "--values="+file(t, c.values))
		_, notes, ok := strings.Cut(out, "\nNOTES:\n")
		if err != nil || !ok {
			t.Errorf("%s: %v\n%s", c.name, err, out)
			continue
		}
		keep(t, "testdata/"+c.name+".txt", notes)
	}
}

func TestLintFindsNothing(t *testing.T) {
	if out, err := run(t, helm, "lint", "--strict", chart); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestKubernetesIsNewEnough(t *testing.T) {
	for version, want := range map[string]string{
		"1.30.0":        "chart requires kubeVersion: >=1.31.0-0 which is incompatible with Kubernetes v1.30.0",
		"1.30.14-gke.1": "chart requires kubeVersion: >=1.31.0-0 which is incompatible with Kubernetes v1.30.14-gke.1",
		"1.31.0":        "",
		"1.31.4-gke.1":  "",
		"1.37.2":        "",
	} {
		_, err := render(t, helm, "", "--kube-version="+version)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", version, err, want)
		}
	}
}

func TestKindsThatTheClusterDoesNotKnowAreRefused(t *testing.T) {
	for value, kind := range map[string]string{"podMonitor": "PodMonitor", "serviceMonitor": "ServiceMonitor", "prometheusRule": "PrometheusRule"} {
		values := value + ": {enabled: true}"
		want := fmt.Sprintf("%s.enabled is true, but this cluster does not know monitoring.coreos.com/v1/%s: "+
			"install the Prometheus operator first, or set %s.enabled to false", value, kind, value)
		if _, err := render(t, helm, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if _, err := render(t, helm, values, "--api-versions=monitoring.coreos.com/v1/"+kind); err != nil {
			t.Error(err)
		}
	}
}

func TestTheConfigurationArrivesByteForByte(t *testing.T) {
	for _, text := range []string{
		"peers: []", "peers: []\n", "peers: []\n\n\n", "\n\npeers: []", "  peers: []\n", "peers: []  \n  \n\t\n", "\tpeers:\t[]\n",
		"# {{ .Values.image }} {{ fail }}\npeers: []\n", "peers: []\r\naddress-pools: []\r\n", "---\npeers: []\n---\n", "|\n", "'\"\\n\n",
		"# 漢字 ü \u2028 \ufeff \U0001F600\n", " ", "\n", "~", "true", "1e3", "#", "- \n-\n", "a: b\n\n  \nc: d", "a\n # b\n  ", "%YAML 1.2\n",
	} {
		out, err := run(t, helm, "template", "metallb", chart, "--show-only=templates/config.yaml", "--set-file=config="+file(t, text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		configMap, _ := objects(t, out)[0].(*corev1.ConfigMap)
		if configMap == nil || configMap.Name != "config" || configMap.Data["config"] != text {
			t.Errorf("%q became %q", text, configMap.Data)
		}
	}
	_, err := render(t, helm, `config: "peers: []\u0085"`)
	if err == nil || !strings.Contains(err.Error(), "config: it has a character U+0085 in it") {
		t.Errorf("a character that YAML would swallow: %v", err)
	}
}

func TestEachObjectIsWhatKubernetesAndTheOperatorExpect(t *testing.T) {
	for _, c := range cases {
		out, err := render(t, helm, c.values, append([]string{"--namespace=" + c.namespace}, c.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		all := objects(t, out)
		var pods []corev1.PodTemplateSpec
		for _, object := range all {
			o, err := meta.Accessor(object)
			if err != nil {
				t.Fatal(err)
			}
			at := fmt.Sprintf("%s: %T %s", c.name, object, o.GetName())
			if o.GetLabels()["app.kubernetes.io/name"] != "metallb" {
				t.Errorf("%s: it has not the chart's label", at)
			}
			for key := range o.GetLabels() {
				if strings.Contains(key, "helm.sh") || strings.HasSuffix(key, "/managed-by") {
					t.Errorf("%s: label %s is Helm's to set", at, key)
				}
			}
			if n := o.GetNamespace(); n != c.namespace && n != "kube-system" && !clusterWide(object) {
				t.Errorf("%s: it is in namespace %q", at, n)
			}
			switch o := object.(type) {
			case *batchv1.Job:
				mustBeHarmless(t, at, o.Spec.Template)
			case *corev1.Pod:
				mustBeHarmless(t, at, corev1.PodTemplateSpec{Spec: o.Spec})
			case *appsv1.Deployment:
				pods = append(pods, o.Spec.Template)
				matches(t, at, o.Spec.Selector, o.Spec.Template)
				matches(t, at, o.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector, o.Spec.Template)
			case *appsv1.DaemonSet:
				pods = append(pods, o.Spec.Template)
				matches(t, at, o.Spec.Selector, o.Spec.Template)
			case *corev1.ServiceAccount:
				if o.AutomountServiceAccountToken == nil || *o.AutomountServiceAccountToken {
					t.Errorf("%s: any Pod with it has its token", at)
				}
			}
		}
		want := 2
		switch c.name {
		case "everything":
			want = 3
		case "the-cni-announces":
			want = 1
		}
		if len(pods) != want {
			t.Fatalf("%s: %d kinds of Pods", c.name, len(pods))
		}
		for _, pod := range pods {
			mustBeHarmless(t, c.name, pod)
			mustHaveKnownFlags(t, c.name, pod)
		}
		component := func(name string) corev1.PodTemplateSpec {
			return pods[slices.IndexFunc(pods, func(p corev1.PodTemplateSpec) bool { return p.Labels["app.kubernetes.io/component"] == name })]
		}
		for _, object := range all {
			switch o := object.(type) {
			case *policyv1.PodDisruptionBudget:
				matches(t, o.Name, o.Spec.Selector, component("controller"))
			case *networkingv1.NetworkPolicy:
				matches(t, o.Name, &o.Spec.PodSelector, component("controller"))
			case *monitoringv1.PodMonitor:
				pod := component(o.Labels["app.kubernetes.io/component"])
				matches(t, o.Name, &o.Spec.Selector, pod)
				if want := pod.Spec.Containers[0].Ports[0].Name; *o.Spec.PodMetricsEndpoints[0].Port != want {
					t.Errorf("%s: there is no such port", o.Name)
				}
			case *monitoringv1.ServiceMonitor:
				i := slices.IndexFunc(all, func(object runtime.Object) bool {
					svc, ok := object.(*corev1.Service)
					return ok && svc.Labels["app.kubernetes.io/component"] == o.Labels["app.kubernetes.io/component"]
				})
				if i < 0 {
					t.Fatalf("%s: it selects no Service", o.Name)
				}
				svc := all[i].(*corev1.Service)
				matches(t, o.Name, &o.Spec.Selector, corev1.PodTemplateSpec{ObjectMeta: svc.ObjectMeta})
				matches(t, svc.Name, &metav1.LabelSelector{MatchLabels: svc.Spec.Selector}, component(svc.Labels["app.kubernetes.io/component"]))
				if svc.Spec.Ports[0].Name != o.Spec.Endpoints[0].Port {
					t.Errorf("%s: there is no such port", o.Name)
				}
			}
		}
	}
}

// Whoever may make a token for metallb-viewer shows it to speakers: it must be worth nothing anywhere else.
func TestTheViewerMayGetRoutesAndNothingElse(t *testing.T) {
	for _, c := range cases {
		out, err := render(t, helm, c.values, append([]string{"--namespace=" + c.namespace}, c.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		accounts, granted := 0, []string{}
		roles := map[string][]rbacv1.PolicyRule{}
		all := objects(t, out)
		for _, object := range all {
			switch o := object.(type) {
			case *corev1.ServiceAccount:
				if o.Name == "metallb-viewer" {
					accounts++
				}
			case *rbacv1.ClusterRole:
				roles["ClusterRole "+o.Name] = o.Rules
			case *rbacv1.Role:
				roles["Role "+o.Name] = o.Rules
			}
		}
		grant := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
			for _, subject := range subjects {
				if subject == (rbacv1.Subject{Kind: "ServiceAccount", Namespace: c.namespace, Name: "metallb-viewer"}) {
					granted = append(granted, fmt.Sprintf("%+v", roles[ref.Kind+" "+ref.Name]))
				} else if subject.Name == "metallb-viewer" {
					t.Errorf("%s: %+v is not the account", c.name, subject)
				}
			}
		}
		for _, object := range all {
			switch o := object.(type) {
			case *rbacv1.ClusterRoleBinding:
				grant(o.RoleRef, o.Subjects)
			case *rbacv1.RoleBinding:
				grant(o.RoleRef, o.Subjects)
			}
		}
		want := fmt.Sprintf("%+v", []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/routes"}}})
		if c.name == "the-cni-announces" {
			if accounts != 0 || len(granted) > 0 {
				t.Errorf("%s: an account to ask nobody", c.name)
			}
			continue
		}
		if accounts != 1 || !slices.Equal(granted, []string{want}) {
			t.Errorf("%s: %d accounts, which may %s, want %s", c.name, accounts, granted, want)
		}
	}
}

func clusterWide(object runtime.Object) bool {
	switch object.(type) {
	case *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *corev1.Namespace:
		return true
	}
	return strings.HasSuffix(fmt.Sprintf("%T", object), ".FlowSchema")
}

func matches(t *testing.T, at string, selector *metav1.LabelSelector, pod corev1.PodTemplateSpec) {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || s.Empty() || !s.Matches(labels.Set(pod.Labels)) {
		t.Errorf("%s selects %s, which its Pods do not match: %v", at, s, err)
	}
}

// mustBeHarmless walks through all that a Pod could ask for, and lets through what we need.
func mustBeHarmless(t *testing.T, at string, pod corev1.PodTemplateSpec) {
	t.Helper()
	yes, no, id := true, false, int64(65532)
	s := pod.Spec
	want := &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &id, RunAsGroup: &id,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	if !reflect.DeepEqual(s.SecurityContext, want) {
		t.Errorf("%s: a Pod with the security context %v", at, s.SecurityContext)
	}
	for _, v := range s.Volumes { // what a value or a hook brings
		if v.Secret == nil && v.ConfigMap == nil {
			t.Errorf("%s: a Pod with the volume %v", at, v)
		}
	}
	if s.HostPID || s.HostIPC || s.ShareProcessNamespace != nil || len(s.InitContainers)+len(s.EphemeralContainers) > 0 {
		t.Errorf("%s: a Pod that asks for more than it needs: %v", at, s)
	}
	runs := s.RestartPolicy == ""
	if onNodes := runs && !strings.HasSuffix(s.ServiceAccountName, "-controller"); s.HostNetwork != onNodes {
		t.Errorf("%s: the Pod of %s has hostNetwork %t", at, s.ServiceAccountName, s.HostNetwork)
	}
	// One that asks nobody has no account.
	if has := s.ServiceAccountName != ""; s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken != has {
		t.Errorf("%s: the Pod of %s has a token: %v", at, s.ServiceAccountName, s.AutomountServiceAccountToken)
	}
	for _, c := range s.Containers {
		want := &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
		if !reflect.DeepEqual(c.SecurityContext, want) {
			t.Errorf("%s: container %s has the security context %v", at, c.Name, c.SecurityContext)
		}
		if !runs {
			continue
		}
		for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe} {
			// The network reaches what answers by HTTPS; without it, nobody but the node itself may.
			for _, p := range c.Ports {
				if probe == nil || probe.HTTPGet.Port.StrVal != p.Name {
					continue
				}
				if local := p.HostIP == "127.0.0.1" && probe.HTTPGet.Host == p.HostIP; local == (probe.HTTPGet.Scheme == corev1.URISchemeHTTPS) {
					t.Errorf("%s: container %s has the probe %v of port %v", at, c.Name, probe, p)
				}
			}
			if probe == nil || !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == probe.HTTPGet.Port.StrVal }) {
				t.Errorf("%s: container %s has the probe %v, of none of its ports", at, c.Name, probe)
			}
		}
		limit := c.Resources.Limits.Memory().Value() >> 20
		i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
		if (limit > 0) != (i >= 0) {
			t.Errorf("%s: container %s may have %d MiB, and GOMEMLIMIT is set: %t", at, c.Name, limit, i >= 0)
		} else if want := fmt.Sprint(limit*9/10, "MiB"); i >= 0 && c.Env[i].Value != want {
			t.Errorf("%s: container %s has GOMEMLIMIT %s, want %s", at, c.Name, c.Env[i].Value, want)
		}
	}
}

// mustHaveKnownFlags finds each flag in the reference, whose tables another test compares with the programs.
func mustHaveKnownFlags(t *testing.T, at string, pod corev1.PodTemplateSpec) {
	t.Helper()
	reference := read(t, "../../docs/reference.md")
	for _, c := range pod.Spec.Containers {
		for _, arg := range c.Args {
			if flag, _, _ := strings.Cut(arg, "="); !strings.Contains(reference, "`"+flag+"`") {
				t.Errorf("%s: container %s has the flag %s, which docs/reference.md does not know", at, c.Name, flag)
			}
		}
	}
}

// A restart of the BFD responders costs sessions.
func TestAnUpgradeOfTheRestLeavesTheBFDRespondersAlone(t *testing.T) {
	responders := func(values string) *appsv1.DaemonSet {
		out, err := render(t, helm, values, "--namespace=metallb-system")
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range objects(t, out) {
			if d, ok := object.(*appsv1.DaemonSet); ok && d.Name == "metallb-bfd" {
				return d
			}
		}
		t.Fatal("there are none")
		return nil
	}
	before := responders("bfd: {enabled: true}")
	after := responders("bfd: {enabled: true}\nimage: {tag: v0.9.0}\nconfig: \"peers: []\"\nspeaker: {verbosity: 5, port: 1234}\n")
	if !reflect.DeepEqual(before, after) {
		t.Errorf("they were\n%v\nand are\n%v", before, after)
	}
	c := before.Spec.Template.Spec.Containers[0]
	if !reflect.DeepEqual(c.Resources.Limits, c.Resources.Requests) {
		t.Errorf("their class of service is not the best: %v", c.Resources)
	}
	if next := responders("bfd: {enabled: true, tag: v0.2.0}"); reflect.DeepEqual(before, next) {
		t.Error("another tag changes nothing")
	}
}

func TestAlertsAndDashboardArriveAsTheyAre(t *testing.T) {
	out, err := render(t, helm, "prometheusRule: {enabled: true}\ndashboard: {enabled: true}", operator...)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, object := range objects(t, out) {
		switch o := object.(type) {
		case *monitoringv1.PrometheusRule:
			var want monitoringv1.PrometheusRuleSpec
			alerts := strings.ReplaceAll(read(t, chart+"/files/alerts.yaml"), "--namespace=metallb-system", "--namespace=default")
			if err := kubeyaml.UnmarshalStrict([]byte(alerts), &want); err != nil || !reflect.DeepEqual(o.Spec, want) {
				t.Errorf("the rules differ from files/alerts.yaml: %v", err)
			}
			found++
		case *corev1.ConfigMap:
			if got, want := strings.TrimSpace(o.Data["metallb.json"]), strings.TrimSpace(read(t, chart+"/files/dashboard.json")); got != want {
				t.Errorf("the dashboard differs from files/dashboard.json:\n%s", got)
			}
			found++
		}
	}
	if found != 2 {
		t.Errorf("%d of 2 objects", found)
	}
}

// withoutFiles leaves the alerts and the dashboard out, which are others' to change.
func withoutFiles(t *testing.T, rendered string) string {
	t.Helper()
	text := strings.TrimSuffix(read(t, chart+"/files/dashboard.json"), "\n")
	rendered = strings.ReplaceAll(rendered, "    "+strings.ReplaceAll(text, "\n", "\n    "), "    # files/dashboard.json")
	return regexp.MustCompile(`(?ms)(^kind: PrometheusRule\n.*?^spec:\n).*?(^---|\z)`).ReplaceAllString(rendered, "$1  # files/alerts.yaml\n$2")
}

// ruleset renders the PrometheusRule into namespace load-balancing.
func ruleset(t *testing.T, values string) (all []monitoringv1.Rule) {
	t.Helper()
	out, err := render(t, helm, values, append([]string{"--namespace=load-balancing"}, operator...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects(t, out) {
		if o, ok := object.(*monitoringv1.PrometheusRule); ok {
			for _, group := range o.Spec.Groups {
				all = append(all, group.Rules...)
			}
		}
	}
	return all
}

func TestAlertsNameTheReleasesNamespaceAndCanBeLeftOutOrRouted(t *testing.T) {
	all, fewer := ruleset(t, "prometheusRule: {enabled: true}"), ruleset(t, `prometheusRule: {enabled: true, disabled: [MetalLBNoLeader], severities: {MetalLBServicePending: page}}`)
	named := 0
	for _, rule := range all {
		for _, text := range rule.Annotations {
			named += strings.Count(text, "--namespace=load-balancing")
			if strings.Contains(text, "metallb-system") {
				t.Errorf("%s names another namespace than the release's: %s", rule.Alert, text)
			}
		}
	}
	if named == 0 || len(fewer) != len(all)-1 {
		t.Errorf("the namespace is named %d times, and %d of %d rules are left", named, len(fewer), len(all))
	}
	for _, rule := range fewer {
		if rule.Alert == "MetalLBNoLeader" || rule.Alert == "MetalLBServicePending" && rule.Labels["severity"] != "page" {
			t.Errorf("%s with severity %s", rule.Alert, rule.Labels["severity"])
		}
	}
	for _, rule := range ruleset(t, "prometheusRule: {enabled: true}\nspeaker: {enabled: false}") {
		if rule.Alert == "MetalLBNoSpeaker" {
			t.Error("an alert says that there is no speaker, where none shall be")
		}
	}
	for _, values := range []string{"disabled: [MetalLBTypo]", "severities: {MetalLBTypo: page}"} {
		if _, err := render(t, helm, "prometheusRule: {enabled: true, "+values+"}", operator...); err == nil || !strings.Contains(err.Error(), "there is no alert MetalLBTypo") {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// The last of two flags would win, and the chart would say another thing than the program does.
func TestFlagsThatTheChartSetsAreRefusedInExtraArgs(t *testing.T) {
	out, err := render(t, helm, "{bfd: {enabled: true}, controller: {loadBalancerClasses: [x], loadBalancerClassOnly: true}, speaker: {ignoreExcludeLB: true, waitForURL: 'http://x'}}")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, object := range objects(t, out) {
		var pod corev1.PodTemplateSpec
		var component string
		switch o := object.(type) {
		case *appsv1.Deployment:
			pod, component = o.Spec.Template, o.Labels["app.kubernetes.io/component"]
		case *appsv1.DaemonSet:
			pod, component = o.Spec.Template, o.Labels["app.kubernetes.io/component"]
		default:
			continue
		}
		for _, arg := range pod.Spec.Containers[0].Args {
			looked++
			flag, _, _ := strings.Cut(arg, "=")
			values := fmt.Sprintf("{bfd: {enabled: true}, %s: {extraArgs: [%s=x]}}", component, flag)
			if component == "bfd" {
				values = fmt.Sprintf("{bfd: {enabled: true, extraArgs: [%s=x]}}", flag)
			}
			want := fmt.Sprintf("%s.extraArgs: %s is the chart's to set: ", component, flag)
			if _, err := render(t, helm, values); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", values, err, want)
			}
		}
	}
	if looked < 10 {
		t.Errorf("only %d flags: this test looks at nothing", looked)
	}
}

func TestWhatContradictsItselfIsRefused(t *testing.T) {
	for values, want := range map[string]string{
		"{podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}": "all would be read twice",
		"{bfd: {enabled: true}, speaker: {enabled: false}}":              "BFD watches over the sessions of speakers",
	} {
		if _, err := render(t, helm, values, operator...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", values, err, want)
		}
	}
}

// The Jobs ask for the text that the ConfigMap has, and neither is in the plain manifests.
func TestTheVerifyingJobsAskForTheTextThatIsInstalled(t *testing.T) {
	const text = "peers: []\n# {{ no template }}\n"
	out, err := run(t, helm, "template", "metallb", chart, "--show-only=templates/verify.yaml", "--set-file=config="+file(t, text))
	if err != nil {
		t.Fatal(err)
	}
	jobs := map[string][]string{}
	for _, object := range objects(t, out) {
		switch o := object.(type) {
		case *corev1.ConfigMap:
			if o.Data["config"] != text {
				t.Errorf("the text to validate is %q", o.Data["config"])
			}
		case *batchv1.Job:
			jobs[o.Annotations["helm.sh/hook"]] = o.Spec.Template.Spec.Containers[0].Args
		case *rbacv1.Role:
			if want := []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"config-admitted"}}}; !reflect.DeepEqual(o.Rules, want) {
				t.Errorf("the account may %v", o.Rules)
			}
		}
	}
	want := map[string][]string{
		"pre-install,pre-upgrade":                 {"validate", "/text/config"},
		"post-install,post-upgrade,post-rollback": {"verify", "--config-namespace=default", fmt.Sprintf("--hash=%.8x", sha256.Sum256([]byte(text))), "--timeout=120s"},
	}
	if !reflect.DeepEqual(jobs, want) {
		t.Errorf("the Jobs are %q, want %q", jobs, want)
	}
	for _, manifest := range []string{"metallb.yaml", "rbac.yaml"} {
		if strings.Contains(read(t, "../../manifests/"+manifest), "hook") {
			t.Errorf("%s has a hook, which without Helm is not one", manifest)
		}
	}
}

// tight leaves out the empty lines behind documents, of which each version of Helm has its own number.
func tight(rendered string) string {
	return strings.TrimRight(regexp.MustCompile(`\n+---\n`).ReplaceAllString(rendered, "\n---\n"), "\n") + "\n"
}

// render runs helm template on the chart, with a file of values, and returns what it prints.
func render(t *testing.T, program, values string, args ...string) (string, error) {
	t.Helper()
	return run(t, program, append([]string{"template", "metallb", chart, "--values=" + file(t, values)}, args...)...)
}

// run runs a program that can neither see nor change what belongs to the user, or to a cluster.
func run(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, args...)
	home := t.TempDir()
	command.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+home+"/none")
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.String(), err
}

// objects decodes as an API server that is asked to be strict.
func objects(t *testing.T, text string) (all []runtime.Object) {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := kubeyaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(text)))
	defer documents.Close()
	for document := make([]byte, len(text)); ; {
		n, err := documents.Read(document)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^[^#\s-]`).Find(document[:n]) == nil {
			continue // nothing but comments
		}
		object, _, err := decoder.Decode(document[:n], nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, document[:n])
		}
		all = append(all, object)
	}
}

// keep compares with a file, or rewrites it if the tests were told to.
func keep(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, path); text != want {
		t.Errorf("%s is not what the chart makes now: to change it, say go test ./chart -update in release\n%s", path, text)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
