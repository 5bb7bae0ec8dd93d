package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/cluster"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

var update = flag.Bool("update", false, "write what the commands print into testdata")

// A story is a cluster in a few lines, and commands that look at it.
type story struct {
	About  string `json:"about"`
	Config string `json:"config"` // in force
	// User is the text in the user's ConfigMap: the one in force, if there is none here.
	User        string            `json:"user"`
	Annotations map[string]string `json:"annotations"` // of the user's ConfigMap
	Refused     []string          `json:"refused"`     // what is wrong with User
	Version     string            `json:"version"`     // of controller manager and speakers
	Leaderless  bool              `json:"leaderless"`
	ClassOnly   bool              `json:"class-only"`
	Keys        []string          `json:"keys"` // of the passwords' Secret
	Nodes       []storyNode       `json:"nodes"`
	Services    []storyService    `json:"services"`
	// Told is what speakers say, if they are Asked; Silent are nodes whose speakers do not answer.
	Asked  bool              `json:"asked"`
	Told   []report.Document `json:"told"`
	Silent map[string]string `json:"silent"`
	// Unread are kinds that may not be read.
	Unread []inspect.Kind `json:"unread"`
	// Files are what commands name.
	Files map[string]string `json:"files"`
	// Resources are files too, with objects that are no configuration.
	Resources map[string]string `json:"resources"`
	Commands  []string          `json:"commands"`
}

type storyNode struct {
	Name        string            `json:"name"`
	IPs         []string          `json:"ips"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Taints      []corev1.Taint    `json:"taints"`
	Unavailable bool              `json:"unavailable"`
	Speaker     string            `json:"speaker"` // running, if empty; none or unready
	Args        []string          `json:"args"`    // of the speaker
}

type storyService struct {
	Name        string            `json:"name"`
	Shows       []string          `json:"shows"`
	Asks        string            `json:"asks"`
	Class       *string           `json:"class"`
	Policy      string            `json:"policy"`
	Families    []string          `json:"families"`
	Require     bool              `json:"require"` // dual stack
	Port        int32             `json:"port"`
	Labels      map[string]string `json:"labels"`
	Selector    map[string]string `json:"selector"`
	Annotations map[string]string `json:"annotations"`
	Deleted     bool              `json:"deleted"`
	Pods        map[string]string `json:"pods"` // by node: ready, leaving or unready
}

var storyTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// snapshot is the story's cluster.
func (s story) snapshot() *inspect.Snapshot {
	version := s.Version
	if version == "" {
		version = "v0.1.0"
	}
	out := &inspect.Snapshot{Taken: storyTime, Namespace: "metallb-system", ConfigName: "config", Keys: s.Keys}
	admitted := map[string]string{}
	if s.Config != "" {
		admitted = service.Ours{ClassOnly: s.ClassOnly}.Data()
		admitted[service.KeyConfig], admitted[service.KeyHash], admitted[service.KeyAdmittedAt] = s.Config, service.Hash(s.Config), "2026-11-28T11:00:00Z"
	}
	text := s.Config
	if s.User != "" {
		text = s.User
	}
	if len(s.Refused) > 0 {
		refusal, err := yaml.Marshal(map[string]any{"hash": service.Hash(text), "time": "2026-11-28T11:30:00Z", "problems": s.Refused})
		if err != nil {
			panic(err)
		}
		admitted[service.KeyRefused] = string(refusal)
	}
	if len(admitted) > 0 {
		out.Admitted = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config-admitted"}, Data: admitted}
	}
	if text != "" {
		out.User = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config", Annotations: s.Annotations}, Data: map[string]string{service.KeyConfig: text}}
		out.Hash = service.Hash(text)
	}
	pod := func(name, component, node, program string, ready bool, args []string) {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: name, Labels: map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": component}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: component, Image: "ghcr.io/metallb/cloud-provider-metallb/" + program + ":" + version, Args: args}}},
		}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		out.Pods = append(out.Pods, p)
	}
	pod("metallb-controller-0", "controller", "", "metallb-cloud-controller-manager", true, nil)
	if !s.Leaderless {
		seconds, holder := int32(8), "metallb-controller-0"
		renewed := metav1.NewMicroTime(storyTime.Add(-time.Second))
		out.Lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "metallb-controller"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
	}
	for _, n := range s.Nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, Annotations: n.Annotations}, Spec: corev1.NodeSpec{Taints: n.Taints}}
		for _, ip := range n.IPs {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		if n.Unavailable {
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}
		}
		out.Nodes = append(out.Nodes, node)
		if n.Speaker != "none" {
			pod("metallb-speaker-"+n.Name, "speaker", n.Name, "metallb-speaker", n.Speaker != "unready", n.Args)
		}
	}
	for i, svc := range s.Services {
		svc.add(out, i)
	}
	out.Asked = s.Asked
	for _, document := range s.Told {
		document.Version = report.Version
		if document.Hash == "" {
			document.Hash = service.Hash(s.Config)
		}
		out.Asked, out.Told = true, append(out.Told, &document)
	}
	for _, node := range sortedKeys(s.Silent) {
		out.Asked, out.Unread = true, append(out.Unread, inspect.Unread{Kind: inspect.Told, Node: node, Why: s.Silent[node]})
	}
	for _, kind := range s.Unread {
		u := inspect.Unread{Kind: kind, Verb: "list", Why: "you are not allowed to"}
		switch kind {
		case inspect.Services:
			out.Services = nil
		case inspect.EndpointSlices:
			out.Slices = nil
		case inspect.Nodes:
			out.Nodes = nil
		case inspect.Pods:
			out.Pods, u.Namespace = nil, out.Namespace
		case inspect.ConfigMaps:
			out.User, out.Admitted, out.Hash, u.Verb, u.Namespace = nil, nil, "", "get", out.Namespace
		case inspect.Secrets:
			out.Keys, u.Verb, u.Namespace = nil, "get", out.Namespace
		case inspect.Ports:
			u.Verb, u.Namespace = "get and create", out.Namespace
		case inspect.Leases:
			out.Lease, u.Verb, u.Namespace = nil, "get", out.Namespace
		}
		out.Unread = append(out.Unread, u)
	}
	return out
}

func (s storyService) add(out *inspect.Snapshot, i int) {
	namespace, name, _ := strings.Cut(s.Name, "/")
	families := s.Families
	if families == nil {
		families = []string{"IPv4"}
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(s.Name), Labels: s.Labels, Annotations: s.Annotations, CreationTimestamp: metav1.NewTime(storyTime.Add(time.Duration(i-1000) * time.Minute))},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: s.Class, LoadBalancerIP: s.Asks, Selector: s.Selector,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicy(s.Policy), Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: max(s.Port, 80)}},
		},
	}
	if svc.Spec.Selector == nil {
		svc.Spec.Selector = map[string]string{"app": name}
	}
	if s.Deleted {
		svc.DeletionTimestamp = &metav1.Time{Time: storyTime}
	}
	for _, f := range families {
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily(f))
	}
	policy := corev1.IPFamilyPolicySingleStack
	if len(families) > 1 {
		policy = corev1.IPFamilyPolicyPreferDualStack
	}
	if s.Require {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	svc.Spec.IPFamilyPolicy = &policy
	mode := corev1.LoadBalancerIPModeVIP
	for _, ip := range s.Shows {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip, IPMode: &mode})
	}
	out.Services = append(out.Services, svc)
	for f, family := range families {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%s", name, strings.ToLower(family)), Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressType(family),
		}
		for j, node := range sortedKeys(s.Pods) {
			yes, no := true, false
			e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 240+f, i, j)}, NodeName: &node, TargetRef: &corev1.ObjectReference{UID: types.UID(fmt.Sprintf("%s-%d", s.Name, j))}}
			switch s.Pods[node] {
			case "ready":
				e.Conditions = discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
			case "leaving":
				e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
			default:
				e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &no}
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		out.Slices = append(out.Slices, slice)
	}
}

func sortedKeys(m map[string]string) (all []string) {
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func readStory(t testing.TB, path string) story {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s story
	if err := yaml.UnmarshalStrict(text, &s); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return s
}

// typed runs a command as its user would type it.
func typed(t testing.TB, line string, in string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	p := newPlugin(genericiooptions.IOStreams{In: strings.NewReader(in), Out: &out, ErrOut: &errOut})
	p.now, p.version = func() time.Time { return storyTime }, "v0.1.0"
	code = p.run(context.Background(), strings.Fields(line))
	return out.String(), errOut.String(), code
}

// Each story is written into a dump, and every command reads that.
func TestWhatTheCommandsSayInEveryStory(t *testing.T) {
	paths, err := filepath.Glob("testdata/stories/*.yaml")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d stories %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			s := readStory(t, path)
			folder := t.TempDir()
			dump := filepath.Join(folder, "dump")
			if err := cluster.Dump(s.snapshot(), dump, "kubectl-metallb v0.1.0"); err != nil {
				t.Fatal(err)
			}
			files := maps.Clone(s.Resources)
			if files == nil {
				files = map[string]string{}
			}
			maps.Copy(files, s.Files)
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var golden strings.Builder
			fmt.Fprintf(&golden, "# %s\n", s.About)
			for _, line := range s.Commands {
				fmt.Fprintf(&golden, "\n$ kubectl metallb %s\n", line)
				real := line
				for name := range files {
					real = strings.ReplaceAll(real, name, filepath.Join(folder, name))
				}
				stdout, stderr, code := typed(t, real+" --dump "+dump, "")
				golden.WriteString(strings.ReplaceAll(stdout, folder+"/", ""))
				if stderr != "" {
					for line := range strings.Lines(strings.ReplaceAll(stderr, folder+"/", "")) {
						golden.WriteString("stderr: " + line)
					}
				}
				fmt.Fprintf(&golden, "exit %d\n", code)
			}
			file := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(file, []byte(golden.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if golden.String() != string(want) {
				t.Errorf("%s: run with -update and look at what changed\ngot:\n%s\nwant:\n%s", file, golden.String(), want)
			}
		})
	}
}
