package datacentre

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/traffic"
)

// An installation is a vacant hall, and a shell in which users work.
type installation struct {
	*Hall
	folder string // where the shell is: charts and manifests are there
	path   string // where it looks for programs
}

// vacate brings up a vacant hall whose nodes have imported our images, in both versions.
func vacate(t *testing.T) *installation {
	t.Helper()
	needNetwork(t)
	needKubelet(t)
	root := made(filepath.Abs("../../.."))(t)
	in := &installation{folder: t.TempDir()}
	first := made(chartVersion(root))(t)
	if tutorial := made(os.ReadFile(filepath.Join(root, "docs/tutorial.md")))(t); !strings.Contains(string(tutorial), "VERSION="+first+" make images\n") {
		t.Errorf("the tutorial makes other images than the chart's %s", first)
	}
	tools := filepath.Dir(made(thing(t.Context(), root, t.TempDir(), "helm"))(t))
	images := made(thing(t.Context(), root, t.TempDir(), "images"))(t)
	var archives []string
	for _, version := range []string{first, nextVersion} {
		out := filepath.Join(images, version)
		archives = append(archives, filepath.Join(out, "metallb-cloud-controller-manager.tar"), filepath.Join(out, "metallb-speaker.tar"))
	}
	archives = append(archives, filepath.Join(images, first, "metallb-bfd.tar")) // which no upgrade of the rest touches
	for _, name := range []string{"charts", "manifests"} {
		must(t, os.Symlink(filepath.Join(root, name), filepath.Join(in.folder, name)))
	}
	began := time.Now()
	in.Hall = made(StartVacantHall(t.Context(), t.Output(), archives...))(t)
	t.Logf("the hall came up in %v", time.Since(began).Round(time.Millisecond))
	plugin := filepath.Dir(made(in.built("kubectl-metallb"))(t))
	in.path = tools + ":" + plugin + ":" + in.Cluster.Binaries.Dir + ":" + os.Getenv("PATH")
	t.Cleanup(func() {
		if t.Failed() {
			in.testify(t)
		}
		nothingForbidden(t, in.Lab, speakerUser, controllerUser, responderUser)
		must(t, in.Stop())
	})
	return in
}

// testify shows what is known of our pods.
func (in *installation) testify(t *testing.T) {
	for _, command := range []string{
		"kubectl get pods --all-namespaces --output=wide", "kubectl describe pods --namespace=metallb-system | tail -n 60",
		"kubectl get events --all-namespaces | tail -n 40",
	} {
		out, err := in.try(context.Background(), command)
		t.Logf("%s: %v\n%s", command, err, out)
	}
	t.Logf("the logs of our pods:\n%s", in.logs(t))
}

// logs are those of all our pods, which kubelets keep where only they see them.
func (in *installation) logs(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, w := range in.Workers {
		files := made(filepath.Glob(fmt.Sprintf("/proc/%d/root/var/log/pods/metallb-system_*/*/*.log", w.Kubelet.PID())))(t)
		for _, file := range files {
			fmt.Fprintf(&all, "%s, %s:\n%s\n", w.Name, filepath.Base(filepath.Dir(filepath.Dir(file))), made(os.ReadFile(file))(t))
		}
	}
	return all.String()
}

// try runs a command as users type it. One that begins with curl is for the client.
func (in *installation) try(ctx context.Context, command string) (string, error) {
	if strings.HasPrefix(command, "curl ") {
		return in.Client.Namespace.Run(ctx, "bash", "-euc", command)
	}
	sh := exec.CommandContext(ctx, "bash", "-euc", command)
	sh.Dir = in.folder
	sh.Env = append(os.Environ(), "KUBECONFIG="+in.Cluster.Kubeconfig, "PATH="+in.path, "HOME="+in.folder)
	out, err := sh.CombinedOutput()
	return string(out), err
}

func (in *installation) shell(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	out, err := in.try(ctx, command)
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	t.Logf("$ %s\n%s", command, out)
	return out
}

// A passage is a block of a page, with what stands behind its backticks.
type passage struct{ word, text string }

// passages are the blocks of a section of a page, from one heading to another.
func passages(t *testing.T, page, from, to string) (all []passage) {
	t.Helper()
	text := string(made(os.ReadFile(filepath.Join("../../../docs", page)))(t))
	_, section, found := strings.Cut(text, "\n"+from+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", page, from)
	}
	section, _, _ = strings.Cut(section, "\n"+to)
	for _, m := range regexp.MustCompile("(?s) *```([^\n]*)\n(.*?)```").FindAllStringSubmatch(section, -1) {
		all = append(all, passage{m[1], strings.TrimSpace(m[2]) + "\n"})
	}
	if len(all) == 0 {
		t.Fatalf("%s shows nothing to run between %q and %q", page, from, to)
	}
	return all
}

// What the tutorial says works, on a cluster like users' own; and what the chart installs may be upgraded, watched and removed.
//
// It does not run beside the other halls of this package either: starting pods and programs is work enough for a machine that shall not lose packets.
func TestHelmInstallsItAndAClientReachesAService(t *testing.T) {
	suite.Heavy(t)
	in := vacate(t)
	ctx := t.Context()
	before := made(in.everything(ctx))(t)
	addr := netip.MustParseAddr("192.168.10.0")

	in.failsTruthfully(t)
	// One pass through the tutorial, block by block.
	for _, p := range passages(t, "tutorial.md", "### 1. Write down your four facts", "## ") {
		switch p.word {
		case "yaml values":
			must(t, os.WriteFile(filepath.Join(in.folder, "values.yaml"), []byte(p.text), 0o600))
		case "sh":
			for _, command := range strings.Split(strings.TrimSpace(p.text), "\n") {
				if !strings.HasPrefix(command, "curl ") {
					in.shell(t, command)
					continue
				}
				eventually(t, "the client to reach the Service", func(ctx context.Context) error {
					out, err := in.try(ctx, command)
					if err == nil && !strings.HasPrefix(out, "web-") {
						err = fmt.Errorf("who answers is %q", out)
					}
					return err
				})
			}
		}
	}
	in.hears(t, addr, in.Workers...)
	for _, name := range []string{"metallb", "metallb-leader-election"} {
		out := in.shell(t, "kubectl get --raw /metrics | grep '^apiserver_flowcontrol_dispatched_requests_total{flow_schema=\""+name+"\"'")
		if !strings.Contains(out, map[string]string{"metallb": "workload-high", "metallb-leader-election": "leader-election"}[name]) {
			t.Errorf("requests of FlowSchema %s have another priority: %s", name, out)
		}
	}

	// The log is for what changed or broke.
	logs := in.logs(t)
	for _, line := range []struct {
		text string
		want bool
	}{{"Allocated address", true}, {"Session is up", true}, {"Event occurred", false}} {
		if strings.Contains(logs, line.text) != line.want {
			t.Errorf("that our logs say %q is not %v:\n%s", line.text, line.want, logs)
		}
	}
	if out := in.shell(t, "helm test metallb --namespace=metallb-system"); !strings.Contains(out, "BGP sessions of 3 speakers are up") ||
		!strings.Contains(out, "got address 192.168.10.1") {
		t.Errorf("helm test does not say what it found:\n%s", out)
	}
	in.reachesKubelets(t)
	in.asks(t)
	in.refuses(t)
	in.goesOn(t)
	in.upgrades(t, addr)
	in.answersByBFD(t)
	in.watches(t)
	granted := made(in.granted(ctx))(t)
	removal := passages(t, "how-to.md", "## Removing it", "## ")
	if len(removal) != 3 || !strings.HasPrefix(removal[1].text, "helm uninstall") {
		t.Fatalf("docs/how-to.md has changed: this test does what it said before: %v", removal)
	}
	in.removes(t, removal[0].text, removal[1].text, addr)
	in.shell(t, "kubectl delete deployment web && kubectl delete -f crds.yaml && kubectl delete pods --all")
	in.hasOnly(t, before)

	// The same without Helm, and as Kubernetes 1.31 is in what watching needs: there, a watch does not begin with the list.
	must(t, in.Cluster.StopAPIServer())
	must(t, in.Cluster.StartAPIServer(ctx, "--feature-gates=WatchList=false"))
	in.forgive(t)
	facts := strings.TrimPrefix(string(made(os.ReadFile(filepath.Join(in.folder, "more.yaml")))(t)), "config: |\n")
	facts = regexp.MustCompile(`(?m)^  `).ReplaceAllString(facts, "")
	must(t, os.WriteFile(filepath.Join(in.folder, "FILE"), []byte(facts), 0o600))
	in.shell(t, passages(t, "how-to.md", "### With plain manifests", "### ")[0].text)
	in.shell(t, secret)
	in.shell(t, "kubectl rollout status daemonset/metallb-speaker --namespace=metallb-system")
	in.shell(t, "kubectl create service loadbalancer plain --tcp=80")
	made(in.API.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, KubeletPod(in.Workers[0], "plain", map[string]string{"app": "plain"}), metav1.CreateOptions{}))(t)
	in.hears(t, addr, in.Workers...)
	in.removes(t, removal[0].text, "kubectl delete -f manifests/metallb.yaml", addr)
	in.shell(t, "kubectl delete pods --all")
	in.hasOnly(t, before)
	in.uses(t, granted)
}

// forgive lets what was forbidden until now be of no matter.
func (in *installation) forgive(t *testing.T) {
	t.Helper()
	in.forgiven = made(in.Cluster.Now(t.Context()))(t)
}

// hasOnly waits until the API server has no other objects than these.
func (in *installation) hasOnly(t *testing.T, objects []string) {
	t.Helper()
	if len(objects) == 0 {
		t.Fatal("there were none before: this test looks at nothing")
	}
	eventually(t, "nothing to be left of it", func(ctx context.Context) error {
		now, err := in.everything(ctx)
		left := slices.DeleteFunc(now, func(object string) bool { return slices.Contains(objects, object) })
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("these are left: %s", strings.Join(left, ", "))
		}
		return err
	})
}

// everything are all objects that the API server has, but for those that come and go by themselves.
func (in *installation) everything(ctx context.Context) ([]string, error) {
	out, err := in.try(ctx, `kinds=$(kubectl api-resources --verbs=list --output=name | grep -v '^events\|^leases' | sort | paste --serial --delimiters=,)
kubectl get "$kinds" --all-namespaces --no-headers --output=custom-columns=:kind,:metadata.namespace,:metadata.name 2>/dev/null
kubectl get leases --namespace=metallb-system --ignore-not-found --output=name`)
	var all []string
	for line := range strings.Lines(out) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all, err
}

// hears waits until the router sends packets for an address to exactly these nodes.
func (in *installation) hears(t *testing.T, addr netip.Addr, workers ...*Worker) {
	t.Helper()
	eventually(t, fmt.Sprintf("the router to know %d ways to %s", len(workers), addr), func(ctx context.Context) error {
		routes, err := in.TorA.Routes(ctx)
		if err != nil {
			return err
		}
		var got, want []netip.Addr
		for _, hop := range routes[prefixOf(addr)] {
			got = append(got, hop.Via)
		}
		for _, w := range workers {
			want = append(want, w.Addrs.v4)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
}

// upgrade is the command that upgrades the release, with more behind it.
const upgrade = "helm upgrade metallb charts/metallb --namespace=metallb-system --reset-then-reuse-values"

// verifyUser is the account of the Job that waits for the configuration.
const verifyUser = "system:serviceaccount:metallb-system:metallb-verify"

// programs selects the Pods that stay.
const programs = "app.kubernetes.io/component in (controller, speaker, bfd)"

// secret makes the password of a peer.
const secret = "kubectl create secret generic metallb-bgp-auth --namespace=metallb-system --from-literal=spare=open-sesame"

// reachesKubelets demands that the API server reaches pods by kubelets, which let in nobody else.
func (in *installation) reachesKubelets(t *testing.T) {
	t.Helper()
	if out := in.shell(t, "kubectl logs --namespace=metallb-system daemonset/metallb-speaker"); !strings.Contains(out, "Began to announce") {
		t.Errorf("the log is another one: %s", out)
	}
	if out, err := in.try(t.Context(), "kubectl exec deployment/web -- /podserver"); err == nil || !strings.Contains(out, "say wait, or an address to serve at") {
		t.Errorf("the program in the pod says %q, %v", out, err)
	}
	port := made(kubernetes.FreePort())(t)
	if out := in.shell(t, fmt.Sprintf(`kubectl port-forward deployment/web %d:80 >forwarded &
trap 'kill $!' EXIT
until grep --quiet Forwarding forwarded; do kill -0 $!; sleep 0.1; done
curl --silent --fail --max-time 10 http://127.0.0.1:%[1]d/`, port)); !strings.HasPrefix(out, "web-") {
		t.Errorf("the port leads to %q", out)
	}
	ask := []string{"curl", "--silent", "--insecure", "--max-time", "10", fmt.Sprintf("https://%s:10250/pods", in.Workers[0].Addrs.v4)}
	if out := made(in.Workers[1].Host.Run(t.Context(), ask...))(t); out != "Unauthorized" {
		t.Errorf("a kubelet answers everybody: %s", out)
	}
}

// asks lets somebody ask speakers through the API server and kubelets who may do what docs/kubectl.md says, and nothing else.
func (in *installation) asks(t *testing.T) {
	t.Helper()
	says := func(command string, code int, words ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := in.try(ctx, "kubectl metallb --kubeconfig="+in.Cluster.KubeconfigOf(operatorUser)+" "+command)
		got := 0
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			got = ended.ExitCode()
		}
		t.Logf("$ kubectl metallb %s\n%sexit %d", command, out, got)
		for _, word := range words {
			if got != code || !strings.Contains(out, word) {
				t.Errorf("kubectl metallb %s: exit %d, want %d, and %q in it", command, got, code, word)
			}
		}
		return out
	}
	says("routes --live", 3, "cannot list services in the whole cluster: you are not allowed to")

	// Roles, and then one more.
	var roles []string
	for _, p := range passages(t, "kubectl.md", "## What it needs to read", "## ") {
		if p.word == "yaml" {
			name := fmt.Sprintf("operators-%d.yaml", len(roles)+1)
			roles = append(roles, name)
			must(t, os.WriteFile(filepath.Join(in.folder, name), []byte(p.text), 0o600))
		}
	}
	if len(roles) != 2 {
		t.Fatalf("docs/kubectl.md has changed: it shows %d blocks of roles", len(roles))
	}
	known := func(verb string) {
		t.Helper()
		eventually(t, "the API server to know what operators may", func(ctx context.Context) error {
			out, err := in.try(ctx, "kubectl auth can-i "+verb+" --namespace=metallb-system --as=operator --as-group="+operators)
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		})
	}
	in.shell(t, "kubectl apply -f "+roles[0])
	known("create serviceaccounts/metallb-viewer --subresource=token")
	says("routes --live", 3, "cannot get and create pods/portforward in namespace metallb-system: you are not allowed to; --direct does without")
	in.shell(t, "kubectl apply -f "+roles[1])
	known("create pods --subresource=portforward")
	before := made(in.Cluster.Now(t.Context()))(t)
	says("status --live", 0, "No problems are known")
	says("why web --live", 0, "sent: announced", "sent")
	says("peers --live", 0, "Established")
	text := says("routes --live -o json", 0, `"sent": true`)
	told := made(sent(text))(t)
	if len(told) != 1 {
		t.Fatalf("the tutorial has other peers: %v", told)
	}
	for peer, paths := range told {
		table := made(in.TorA.Table(t.Context()))(t)
		table = slices.DeleteFunc(table, func(p router.Path) bool { return slices.Contains(p.ASPath, clientASN) })
		if got, want := attributes(table, false), attributes(paths, false); !slices.Equal(got, want) || len(want) < len(in.Workers) {
			t.Errorf("%s has\n%s\nand was sent\n%s", peer, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	// No right is missing or for nothing. A WebSocket begins with a GET; the API server wants to see
	// that the user may create as well.
	used := map[string]bool{}
	for _, r := range made(in.Cluster.Requests(t.Context(), before, func(r kubernetes.Request) bool { return r.User == operatorUser }))(t) {
		used[strings.TrimSuffix(r.Verb+" "+r.Resource+"/"+r.Subresource, "/")] = true
		if r.Code >= 400 {
			t.Errorf("%v", r)
		}
	}
	want := []string{"create serviceaccounts/token", "get configmaps", "get leases", "get pods/portforward",
		"list endpointslices", "list namespaces", "list nodes", "list pods", "list services"}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) {
		t.Errorf("it did %q, want %q", got, want)
	}
	in.shell(t, "kubectl delete -f "+strings.Join(roles, " -f "))
}

// fails demands that a command fails, and says why in its own output.
func (in *installation) fails(t *testing.T, command string, why ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	out, err := in.try(ctx, command)
	if err == nil {
		t.Fatalf("%s succeeds:\n%s", command, out)
	}
	for _, words := range why {
		if !strings.Contains(out, words) {
			t.Errorf("%s does not say %q", command, words)
		}
	}
	t.Logf("$ %s\n%s", command, out)
}

// failsTruthfully installs with a text that cannot be read, and demands that helm install itself says what is wrong.
func (in *installation) failsTruthfully(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(in.folder, "broken"), []byte("peers: []\naddress-pools:\n- name: default\n  cidr: [192.168.10.0/33]\n"), 0o600))
	in.fails(t, "helm install metallb charts/metallb --namespace=metallb-system --create-namespace --set-file=config=broken --wait",
		"the configuration is refused, and nothing was changed", "line 4: address-pools[0].cidr[0]", "192.168.10.0/33")
	in.shell(t, "helm uninstall metallb --namespace=metallb-system")
}

// refuses demands that what cannot work is refused before anything is changed, in words that tell what to do.
func (in *installation) refuses(t *testing.T) {
	t.Helper()
	manifest := in.shell(t, "helm get manifest metallb --namespace=metallb-system")
	for flags, want := range map[string][]string{
		"--set=podMonitor.enabled=true":     {"podMonitor.enabled", "Prometheus operator"},
		"--set=prometheusRule.enabled=true": {"prometheusRule.enabled", "Prometheus operator"},
		"--set=speakers.port=7474":          {"speakers"},
	} {
		out, err := in.try(t.Context(), upgrade+" "+flags)
		if err == nil {
			t.Errorf("%s was accepted: %s", flags, out)
		}
		for _, words := range want {
			if !strings.Contains(out, words) {
				t.Errorf("%s: the answer does not name %s:\n%s", flags, words, out)
			}
		}
		t.Logf("%s: %s", flags, out)
	}
	if in.shell(t, "helm get manifest metallb --namespace=metallb-system") != manifest {
		t.Error("a refused upgrade has changed something")
	}

	// A text that cannot be read stops an upgrade before anything is changed.
	const written = "kubectl get configmap config --namespace=metallb-system --output=jsonpath='{.data}{.metadata.resourceVersion}'"
	before := in.shell(t, written)
	in.fails(t, upgrade+" --set-file=config=broken", "the configuration is refused, and nothing was changed", "line 4: address-pools[0].cidr[0]", "192.168.10.0/33")
	if in.shell(t, written) != before {
		t.Error("an upgrade to a broken text has changed something")
	}
	// Whether a text may be in force, only the controller manager knows, who has Services to think of.
	must(t, os.WriteFile(filepath.Join(in.folder, "elsewhere"), []byte("peers:\n- {peer-address: 10.0.0.1, peer-asn: 100, my-asn: 42}\n"+
		"address-pools:\n- name: default\n  cidr: [192.168.20.0/24]\n"), 0o600))
	in.fails(t, upgrade+" --set-file=config=elsewhere", "the configuration is refused: the text ", "stays in force", "default/web 192.168.10.0")
	in.shell(t, upgrade+" --values=values.yaml")
}

// crd makes the API server take objects of a kind, whatever they hold. The Prometheus operator's own definitions are on no registry that
// is reached from here; a test of module release holds our objects against its Go types.
func crd(kind, plural string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[2]s.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: %[1]s, plural: %[2]s, singular: %[3]s}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---`, kind, plural, strings.ToLower(kind))
}

// watches switches on what watches us, and demands that the account made for it may read metrics, and that every metric is there that
// our alerts and our dashboard name.
func (in *installation) watches(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(in.folder, "crds.yaml"), []byte(crd("PodMonitor", "podmonitors")+crd("PrometheusRule", "prometheusrules")), 0o600))
	in.shell(t, "kubectl apply -f crds.yaml && kubectl wait --for=condition=established crd --all")
	in.shell(t, upgrade+" --set=podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true")
	var token string
	eventually(t, "the token for metrics", func(ctx context.Context) (err error) {
		token, err = in.try(ctx, "kubectl get secret metallb-metrics-token --namespace=metallb-system --output=jsonpath='{.data.token}' | base64 --decode")
		return cmp.Or(err, map[bool]error{true: errors.New("it is empty")}[token == ""])
	})
	served := map[string]bool{}
	pods := made(in.API.CoreV1().Pods(configNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: programs}))(t)
	for _, pod := range pods.Items {
		url := fmt.Sprintf("https://%s:%d/metrics", pod.Status.PodIP, pod.Spec.Containers[0].Ports[0].ContainerPort)
		ask := func(more ...string) (string, error) {
			return in.Workers[0].Host.Run(t.Context(), append([]string{"curl", "--silent", "--insecure", "--max-time", "10", url}, more...)...)
		}
		eventually(t, pod.Name+" to show its metrics", func(context.Context) error { // the API server has just heard of the permission
			text, err := ask("--header", "Authorization: Bearer "+token)
			for line := range strings.Lines(text) {
				if name := regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`).FindString(line); name != "" {
					served[name] = true
				}
			}
			return cmp.Or(err, map[bool]error{true: fmt.Errorf("%s answers %s", url, text)}[!strings.Contains(text, "\nmetallb_")])
		})
		if text, err := ask(); err != nil || strings.Contains(text, "metallb_") {
			t.Errorf("%s shows metrics to everybody: %v", pod.Name, err)
		}
	}
	names := exec.CommandContext(t.Context(), made(thing(t.Context(), in.root, t.TempDir(), "names"))(t), filepath.Join(in.root, "charts/metallb/files"))
	wanted := strings.Fields(string(made(names.Output())(t)))
	if len(wanted) < 10 {
		t.Errorf("alerts and dashboard name only the metrics %v", wanted)
	}
	for _, name := range wanted {
		if !served[name] {
			t.Errorf("alerts or dashboard name the metric %s, which nobody serves", name)
		}
	}
}

// upgrades changes the image of both programs under traffic, and demands that no client and no router notices.
func (in *installation) upgrades(t *testing.T, addr netip.Addr) {
	t.Helper()
	ctx := t.Context()
	for i, w := range in.Workers[:2] {
		pod := KubeletPod(w, fmt.Sprintf("real-%d", i+1), map[string]string{"app": "real"})
		made(in.API.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod, metav1.CreateOptions{}))(t)
	}
	second := in.expose(t, "real", 1, func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = local })[0]
	in.hears(t, second, in.Workers[:2]...)
	targets := map[string]netip.Addr{"Cluster": addr, "Local": second}
	for policy, target := range targets {
		answers := 0
		eventually(t, fmt.Sprintf("the Service of the policy %s to answer", policy), func(ctx context.Context) error {
			for ; answers < 100; answers++ { // see Reachable
				if _, err := in.Get(ctx, tcp(target, 80)); err != nil {
					answers = 0
					return err
				}
			}
			return nil
		})
	}
	in.otherPorts(t)
	flows := map[string]*traffic.Traffic{}
	for policy, target := range targets {
		flows[policy] = made(traffic.Start(in.Client.Namespace, tcp(target, 80), traffic.Options{Rate: 50, Timeout: 3 * time.Second, Long: 5}))(t)
	}
	recorders := record(t, in.TorA, in.Client)
	in.shell(t, upgrade+" --set=image.tag="+nextVersion+" --wait --timeout=3m")
	for policy, flow := range flows {
		record := flow.Stop()
		if failed, broken := record.Failed(), record.Broken(); len(failed)+len(broken) > 0 || len(record.Attempts) < 500 {
			t.Errorf("policy %s: %d of %d new connections failed, %+v, and %d long ones broke", policy, len(failed), len(record.Attempts), failed, len(broken))
		}
		t.Logf("policy %s\n%s", policy, record.Table())
	}
	quiet(t, recorders, "the upgrade")

	pods := made(in.API.CoreV1().Pods(configNamespace).List(ctx, metav1.ListOptions{LabelSelector: programs}))(t)
	if len(pods.Items) != 5 {
		t.Errorf("there are %d Pods instead of two controllers and three speakers", len(pods.Items))
	}
	for _, pod := range pods.Items {
		container := pod.Status.ContainerStatuses[0]
		if !container.Ready || container.RestartCount > 0 || !strings.HasSuffix(container.Image, ":"+nextVersion) {
			t.Errorf("%s runs %s, ready %v, with %d restarts", pod.Name, container.Image, container.Ready, container.RestartCount)
		}
	}
}

// answersByBFD does what the how-to says of dead nodes, and demands that clients notice little of one, and responders nothing of an upgrade
// of the rest.
func (in *installation) answersByBFD(t *testing.T) {
	t.Helper()
	a, b := in.Workers[0], in.Workers[1]
	addr := in.serves(t, "real")
	for _, p := range passages(t, "how-to.md", "## Forget a dead node in under a second", "## ") {
		if p.word == "yaml config" { // with the other router and the other pool, too
			p.text = strings.Replace(p.text, "bfd-profiles:", "- {peer-address: 10.0.0.2, peer-asn: 100, my-asn: 42, hold-time: 9s, bfd-profile: usual}\nbfd-profiles:", 1)
			p.text = strings.Replace(p.text, "address-pools:\n", "address-pools:\n- {name: six, cidr: [\"2001:db8:10::/120\"]}\n", 1)
		}
		must(t, os.WriteFile(filepath.Join(in.folder, p.word), []byte(p.text), 0o600))
	}
	in.shell(t, upgrade+" --values='yaml values' --set-file=config='yaml config' --wait")
	in.shell(t, "kubectl rollout status daemonset/metallb-bfd --namespace=metallb-system")
	eventually(t, "routers and nodes to hear each other by BFD", in.watched)
	in.reaches(t, tcp(addr, 80), a, b)

	flow := made(traffic.Start(in.Client.Namespace, tcp(addr, 80), traffic.Options{Rate: 50, Timeout: 3 * time.Second, Long: 5}))(t)
	wait(time.Second)
	death := flow.Mark("a node dies")
	must(t, in.LAN.Pull(b.Host))
	eventually(t, "both routers to forget it", func(ctx context.Context) error { return in.RouteTo(ctx, addr, a) })
	forgotten := time.Since(death.At)
	wait(quietly)
	record := flow.Stop()
	took, over := record.Recovery(death)
	t.Logf("both routers forgot the node within %v\n%s", forgotten.Round(time.Millisecond), record.Table())
	if forgotten > 2*time.Second || took > 2*time.Second || !over {
		t.Errorf("a dead node was forgotten after %v, and connections failed for %v", forgotten, took)
	}
	must(t, in.LAN.Replug(b.Host))
	in.reaches(t, tcp(addr, 80), a, b)
	eventually(t, "routers and nodes to hear each other by BFD again", in.watched)

	const list = "kubectl get pods --namespace=metallb-system -l app.kubernetes.io/component=bfd --output=jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}'"
	before := in.shell(t, list)
	in.shell(t, upgrade+" --set=image.tag="+made(chartVersion(in.root))(t)+" --wait --timeout=3m")
	if after := in.shell(t, list); after != before || strings.Count(after, " 0\n") != len(in.Workers) {
		t.Errorf("an upgrade of the rest touched responders: they were\n%s and are\n%s", before, after)
	}
}

// serves is the address of a Service that there is.
func (in *installation) serves(t *testing.T, name string) netip.Addr {
	t.Helper()
	svc := made(in.API.CoreV1().Services(metav1.NamespaceDefault).Get(t.Context(), name, metav1.GetOptions{}))(t)
	return netip.MustParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
}

// rests lets an address of a pool for namespaces by label be freed, and rest for a second.
func (in *installation) rests(t *testing.T) {
	t.Helper()
	services := in.API.CoreV1().Services(metav1.NamespaceDefault)
	made(services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "short-lived", Annotations: map[string]string{"metallb.universe.tf/address-pool": "held"}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "the Service to have an address of the pool", func(ctx context.Context) error {
		svc, err := services.Get(ctx, "short-lived", metav1.GetOptions{})
		if err == nil && len(svc.Status.LoadBalancer.Ingress) == 0 {
			err = errors.New("it has none")
		}
		return err
	})
	must(t, services.Delete(t.Context(), "short-lived", metav1.DeleteOptions{}))
	eventually(t, "the address to rest, and to be free again", func(ctx context.Context) error {
		held, err := in.API.CoreV1().ConfigMaps(configNamespace).Get(ctx, "config-held-down", metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case held.Data["addresses"] != "":
			return errors.New("it rests")
		}
		return nil
	})
}

// goesOn gives the programs reason to use what else they may, and to serve what else they can: a peer with a password, a pool of IPv6,
// and an event that comes twice.
func (in *installation) goesOn(t *testing.T) {
	t.Helper()
	in.shell(t, secret)
	values := string(made(os.ReadFile(filepath.Join(in.folder, "values.yaml")))(t))
	values = strings.Replace(values, "  address-pools:\n", `  - {peer-address: 10.0.0.9, peer-asn: 100, my-asn: 42, password-key: spare}
  address-pools:
  - {name: six, cidr: ["2001:db8:10::/120"]}
  - {name: held, cidr: [192.0.2.8/29], auto-assign: false, hold-down: 1s, namespace-selectors: [{match-labels: {kubernetes.io/metadata.name: default}}]}
`, 1)
	must(t, os.WriteFile(filepath.Join(in.folder, "more.yaml"), []byte(values), 0o600))
	in.shell(t, upgrade+" --values=more.yaml")
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "impossible"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerIP: "192.0.2.1", Ports: []corev1.ServicePort{{Port: 80}},
		},
	}
	made(in.API.CoreV1().Services(metav1.NamespaceDefault).Create(t.Context(), svc, metav1.CreateOptions{}))(t)
	in.rests(t)
	for n := 1; n <= 2; n++ {
		in.shell(t, fmt.Sprintf("kubectl annotate service impossible --overwrite example.com/try=%d", n))
		eventually(t, "the event that says why", func(ctx context.Context) error {
			events, err := in.API.CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=impossible"})
			if err != nil {
				return err
			}
			var times int32
			for _, event := range events.Items {
				if event.Reason == "SyncLoadBalancerFailed" {
					times += event.Count
				}
			}
			if int(times) < n {
				err = fmt.Errorf("it was seen %d times", times)
			}
			return err
		})
	}
}

// removes deletes all Services, waits until the page's first command finds none that waits, and gives the second.
func (in *installation) removes(t *testing.T, waiting, remove string, addr netip.Addr) {
	t.Helper()
	in.shell(t, "kubectl delete services --field-selector=metadata.name!=kubernetes")
	eventually(t, "all Services to let go", func(ctx context.Context) error {
		out, err := in.try(ctx, waiting)
		if err == nil && out != "" {
			err = fmt.Errorf("%s do not", out)
		}
		return err
	})
	in.hears(t, addr)
	nothingForbidden(t, in.Lab, speakerUser, controllerUser, responderUser)
	in.shell(t, remove)
	eventually(t, "our pods to be gone", func(ctx context.Context) error {
		pods, err := in.API.CoreV1().Pods(configNamespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("there are %d", len(pods.Items))
		}
		return err
	})
	// Their permissions went before them: in the end, nobody tells them whether they have a successor, or that the Lease is given up.
	in.forgive(t)
}

// A permission is one verb on one resource, perhaps of one name only, that a role grants to one of our accounts.
type permission struct {
	account, role, namespace, verb, resource, name string
}

func (p permission) String() string {
	return fmt.Sprintf("%-20s %-45s %-7s %-30s %s", p.account, p.role, p.verb, p.resource, p.name)
}

// granted are all permissions of our accounts, but for those that every account has.
func (in *installation) granted(ctx context.Context) (all []permission, err error) {
	collect := func(namespace string, subjects []rbacv1.Subject, ref rbacv1.RoleRef) error {
		for _, subject := range subjects {
			if subject.Kind != rbacv1.ServiceAccountKind || subject.Namespace != configNamespace || subject.Name == "metallb-metrics" || subject.Name == "metallb-viewer" {
				continue
			}
			var rules []rbacv1.PolicyRule
			if ref.Kind == "Role" {
				role, err := in.API.RbacV1().Roles(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				rules = role.Rules
			} else {
				role, err := in.API.RbacV1().ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				rules = role.Rules
			}
			for _, rule := range rules {
				names := rule.ResourceNames
				if len(names) == 0 {
					names = []string{""}
				}
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range names {
							all = append(all, permission{subject.Name, ref.Kind + " " + ref.Name, namespace, verb, resource, name})
						}
					}
				}
			}
		}
		return nil
	}
	clusterwide, err := in.API.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, b := range clusterwide.Items {
		err = errors.Join(err, collect("", b.Subjects, b.RoleRef))
	}
	bindings, err2 := in.API.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err2 != nil {
		return nil, err2
	}
	for _, b := range bindings.Items {
		err = errors.Join(err, collect(b.Namespace, b.Subjects, b.RoleRef))
	}
	return all, err
}

// uses holds what was granted against what was used, as the API server has written it down.
func (in *installation) uses(t *testing.T, granted []permission) {
	t.Helper()
	requests := made(in.Cluster.Requests(t.Context(), 0, func(r kubernetes.Request) bool {
		return slices.Contains([]string{speakerUser, controllerUser, responderUser, verifyUser}, r.User)
	}))(t)
	var list strings.Builder
	for _, p := range granted {
		n := 0
		for _, r := range requests {
			resource := r.Resource
			if r.Subresource != "" {
				resource += "/" + r.Subresource
			}
			if strings.HasSuffix(r.User, ":"+p.account) && r.Verb == p.verb && resource == p.resource &&
				(p.namespace == "" || p.namespace == r.Namespace) && (p.name == "" || p.name == r.Name) {
				n++
			}
		}
		fmt.Fprintf(&list, "%s: %d\n", p, n)
		// Responders ran before an API server whose watches begin with the list.
		if n == 0 && (p.account != "metallb-bfd" || p.verb != "list") {
			t.Errorf("granted and never used: %s", p)
		}
	}
	if len(granted) < 20 {
		t.Errorf("our accounts have only %d permissions: this test looks at nothing", len(granted))
	}
	t.Logf("what our accounts may do, and how often they did:\n%s", list.String())
	report(t, "permissions.txt", "What the chart lets our accounts do, and how often they did in the lab's installation test:\n\n"+list.String())
}
