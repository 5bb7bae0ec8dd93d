// Package chart tests the Helm chart charts/metallb as users meet it: by Helm's command line. It also makes the plain
// manifests from it.
package chart

import (
	"bytes"
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
var operator = []string{"--api-versions=monitoring.coreos.com/v1/PodMonitor", "--api-versions=monitoring.coreos.com/v1/PrometheusRule"}

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
global: {imageRegistry: not used}
image: {registry: "registry.example:5000/metallb", tag: v0.2.0, pullPolicy: Always}
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
speaker:
  onSIGTERM: withdraw
  ignoreExcludeLB: true
  waitForURL: "http://127.0.0.1:10256/healthz"
  port: 17473
  probePort: 17474
  maxUnavailable: 10%
  verbosity: 2
  extraArgs: [--logging-format=json]
  resources: {limits: {memory: 100Mi}}
  nodeSelector: {example.com/edge: "true"}
  tolerations: []
  priorityClassName: important
bfd:
  enabled: true
  tag: v0.1.7
  port: 17475
  probePort: 17476
  verbosity: 1
  extraArgs: [--logging-format=json]
  nodeSelector: {example.com/edge: "true"}
  tolerations: []
  priorityClassName: important
networkPolicy: {apiServerPorts: [443, 6443]}
podMonitor: {enabled: true, interval: 1m, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true, labels: {grafana_folder: network}}
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
	for value, kind := range map[string]string{"podMonitor": "PodMonitor", "prometheusRule": "PrometheusRule"} {
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
		if want := 2 + strings.Count(c.values, "bfd:"); len(pods) != want {
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
	if s.HostPID || s.HostIPC || s.ShareProcessNamespace != nil || s.Volumes != nil || len(s.InitContainers)+len(s.EphemeralContainers) > 0 {
		t.Errorf("%s: a Pod that asks for more than it needs: %v", at, s)
	}
	if onNodes := s.ServiceAccountName != "metallb-controller"; s.HostNetwork != onNodes {
		t.Errorf("%s: the Pod of %s has hostNetwork %t", at, s.ServiceAccountName, s.HostNetwork)
	}
	if s.AutomountServiceAccountToken == nil || !*s.AutomountServiceAccountToken {
		t.Errorf("%s: the Pod has no token", at)
	}
	for _, c := range s.Containers {
		want := &corev1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
		if !reflect.DeepEqual(c.SecurityContext, want) {
			t.Errorf("%s: container %s has the security context %v", at, c.Name, c.SecurityContext)
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
			if err := kubeyaml.UnmarshalStrict([]byte(read(t, chart+"/files/alerts.yaml")), &want); err != nil || !reflect.DeepEqual(o.Spec, want) {
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
	for path, indent := range map[string]string{"files/alerts.yaml": "  ", "files/dashboard.json": "    "} {
		text := strings.TrimSuffix(read(t, chart+"/"+path), "\n")
		rendered = strings.ReplaceAll(rendered, indent+strings.ReplaceAll(text, "\n", "\n"+indent), indent+"# "+path)
	}
	return rendered
}

// tight leaves out the empty lines between documents, of which each version of Helm has its own number.
func tight(rendered string) string {
	return regexp.MustCompile(`\n+---\n`).ReplaceAllString(rendered, "\n---\n")
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
