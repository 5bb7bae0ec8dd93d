package cluster

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

var (
	here = Installation{Namespace: "metallb-system", ConfigName: "config"}
	then = time.Unix(1_000_000, 0).UTC()
)

func objects() []runtime.Object {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "metallb-system", Name: name} }
	config := &corev1.ConfigMap{ObjectMeta: meta("config"), Data: map[string]string{"config": "peers:\n- password: hunter2\n"}}
	config.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "password: hunter2", "metallb.io/confirm": "abc"}
	pod := &corev1.Pod{ObjectMeta: meta("metallb-speaker-x")}
	pod.Labels = map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}
	pod.Spec.Containers = []corev1.Container{{Name: "speaker", Args: []string{"--v=0"}, Env: []corev1.EnvVar{{Name: "TOKEN", Value: "hunter2"}}}}
	return []runtime.Object{
		config,
		&corev1.ConfigMap{ObjectMeta: meta("config-admitted"), Data: map[string]string{"config": "peers:\n- password: hunter2\n", "hash": "0123456789abcdef"}},
		&corev1.Secret{ObjectMeta: meta("metallb-bgp-auth"), Data: map[string][]byte{"tor": []byte("hunter2"), "empty": nil}},
		pod,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"env": "prod"}, Annotations: map[string]string{"token": "hunter2"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "inner"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}},
	}
}

func TestASnapshotComesBackFromADumpAsItWas(t *testing.T) {
	s, err := Read(t.Context(), fake.NewClientset(objects()...), here, then, inspect.Kinds...)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Services) != 1 || len(s.Nodes) != 1 || len(s.Namespaces) != 1 || len(s.Pods) != 1 || !slices.Equal(s.Keys, []string{"tor"}) || len(s.Unread) != 0 {
		t.Fatalf("%+v", s)
	}
	folder := filepath.Join(t.TempDir(), "dump")
	if err := Dump(s, folder, "test"); err != nil {
		t.Fatal(err)
	}
	if err := Dump(s, folder, "test"); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("over another: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(files) != 10 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), "hunter2") {
			t.Errorf("%s has a password in it: %s %v", path, text, err)
		}
	}
	back, err := Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	if !back.Masked || back.Hash != s.Hash || back.User.Data["config"] != "peers:\n  - password: masked-1\n" || back.User.Annotations["metallb.io/confirm"] != "abc" {
		t.Errorf("%+v", back.User)
	}
	back.Masked, back.User, back.Admitted = s.Masked, s.User, s.Admitted
	if !reflect.DeepEqual(back, s) {
		t.Errorf("got  %+v\nwant %+v", back, s)
	}
}

func TestADumpThatIsCutOffIsSeenToBe(t *testing.T) {
	s, err := Read(t.Context(), fake.NewClientset(objects()...), here, then, inspect.Kinds...)
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(folder string) error{
		"is no complete dump: it has no dump.json":     func(f string) error { return os.Remove(filepath.Join(f, "dump.json")) },
		"is no complete dump: it has no services.json": func(f string) error { return os.Remove(filepath.Join(f, "services.json")) },
		"services.json is cut off or damaged":          func(f string) error { return os.Truncate(filepath.Join(f, "services.json"), 20) },
		"nodes.json is cut off or damaged: it has 0":   func(f string) error { return os.WriteFile(filepath.Join(f, "nodes.json"), []byte("[]"), 0o600) },
		"dump.json is cut off or damaged":              func(f string) error { return os.Truncate(filepath.Join(f, "dump.json"), 20) },
		"in format 7, and this program reads format 1": func(f string) error {
			return os.WriteFile(filepath.Join(f, "dump.json"), []byte(`{"format": 7, "program": "x"}`), 0o600)
		},
		"does not exist": os.RemoveAll,
	} {
		folder := filepath.Join(t.TempDir(), "dump")
		if err := Dump(s, folder, "test"); err != nil {
			t.Fatal(err)
		}
		if err := spoil(folder); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(folder); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWhatMayNotBeReadIsSaidWithTheVerb(t *testing.T) {
	client := fake.NewClientset(objects()...)
	client.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		resource := action.GetResource()
		if resource.Resource == "nodes" || resource.Resource == "secrets" || resource.Resource == "endpointslices" {
			return true, nil, apierrors.NewForbidden(resource.GroupResource(), "", errors.New("no"))
		}
		return false, nil, nil
	})
	s, err := Read(t.Context(), client, here, then, inspect.Kinds...)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range s.Unread {
		got = append(got, u.String())
	}
	want := []string{
		"cannot list endpointslices in the whole cluster: you are not allowed to",
		"cannot list nodes in the whole cluster: you are not allowed to",
		"cannot get secrets in namespace metallb-system: you are not allowed to",
	}
	if !slices.Equal(got, want) || len(s.Services) != 1 {
		t.Errorf("%q", got)
	}
}

func TestTheSecretIsReadOnlyWhereAKeyOfItIsNamed(t *testing.T) {
	for text, want := range map[string]bool{"peers: [{peer-address: 10.0.0.1}]": false, "peers: [{password-key: tor}]": true} {
		client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config"}, Data: map[string]string{"config": text}})
		read := false
		client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { read = true; return false, nil, nil })
		if _, err := Read(t.Context(), client, here, then, inspect.ConfigMaps, inspect.Pods); err != nil || read != want {
			t.Errorf("%s: read is %v, %v", text, read, err)
		}
	}
}

func TestAnInstallationElsewhereIsNamed(t *testing.T) {
	client := fake.NewClientset(
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team-b", Name: "config-admitted"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "config-admitted"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team-c", Name: "config"}})
	_, err := Read(t.Context(), client, here, then, inspect.Kinds...)
	if err == nil || !strings.HasSuffix(err.Error(), "; try --config-namespace team-a or team-b") {
		t.Error(err)
	}
	client = fake.NewClientset()
	client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { // as to whom docs/kubectl.md lets in
		return true, nil, apierrors.NewForbidden(corev1.Resource("secrets"), "", errors.New("no"))
	})
	_, err = Read(t.Context(), client, here, then, inspect.Kinds...)
	if err == nil || !strings.HasSuffix(err.Error(), "neither a configuration nor Pods of ours; name the namespace by --config-namespace") {
		t.Error(err)
	}
}

func TestAnAPIServerThatDoesNotAnswerIsNoAnswer(t *testing.T) {
	for want, err := range map[string]error{
		"the API server does not answer: connection refused":     &url.Error{Op: "Get", URL: "https://x", Err: errors.New("connection refused")},
		"the API server does not know who you are: log in again": apierrors.NewUnauthorized("no"),
		"the API server did not answer in time":                  context.DeadlineExceeded,
	} {
		client := fake.NewClientset()
		client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
		if _, got := Read(t.Context(), client, here, then, inspect.Kinds...); got == nil || got.Error() != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
