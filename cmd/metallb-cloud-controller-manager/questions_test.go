package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

const (
	ourText = "peers: []\n"
	refusal = "hash: 0123456789abcdef\ntime: 2026-01-01T00:00:00Z\nproblems:\n- 'line 4: address-pools[0].cidr[0]: \"192.168.10.0/33\" is no range'\nservices:\n- shop/web 192.168.10.1\n"
)

// A controller manager writes the admitted copy at these moments; nil deletes it.
type moment struct {
	after time.Duration
	says  map[string]string
}

func TestVerifyWaitsUntilTheTextIsInForceAndPrintsWhyItIsNot(t *testing.T) {
	hash := service.Hash(ourText)
	forced := map[string]string{service.KeyHash: hash, service.KeyAdmittedAt: "2026-01-01T00:00:00Z"}
	other := map[string]string{service.KeyHash: "fedcba9876543210", service.KeyAdmittedAt: "2025-12-31T00:00:00Z"}
	with := func(data map[string]string, text string) map[string]string {
		refused := map[string]string{service.KeyRefused: strings.ReplaceAll(text, "0123456789abcdef", hash)}
		for k, v := range data {
			refused[k] = v
		}
		return refused
	}
	for _, c := range []struct {
		name    string
		history []moment
		within  time.Duration
		says    []string // nothing: it is in force
	}{
		{name: "it is in force already", history: []moment{{0, forced}}},
		{name: "it comes into force later", history: []moment{{0, other}, {30 * time.Second, forced}}, within: 31 * time.Second},
		{name: "the copy comes later", history: []moment{{10 * time.Second, forced}}, within: 11 * time.Second},
		{name: "it is refused", history: []moment{{0, other}, {3 * time.Second, with(other, refusal)}}, within: 10 * time.Second, says: []string{
			"the configuration is refused", "The text fedcba9876543210, admitted at 2025-12-31T00:00:00Z, stays in force.",
			`line 4: address-pools[0].cidr[0]: "192.168.10.0/33"`, "it would cost Service shop/web 192.168.10.1 its address",
		}},
		{name: "the first text is refused", history: []moment{{0, with(nil, refusal)}}, within: 10 * time.Second, says: []string{"No configuration is in force.", "line 4"}},
		{name: "it was refused before, and is admitted now", history: []moment{{0, with(other, refusal)}, {3 * time.Second, forced}}, within: 4 * time.Second},
		{name: "another text is refused, and ours is in force", history: []moment{{0, map[string]string{
			service.KeyHash: hash, service.KeyAdmittedAt: "2026-01-01T00:00:00Z", service.KeyRefused: refusal,
		}}}},
		{name: "nobody judges it", history: []moment{{0, other}}, within: 2 * time.Minute, says: []string{
			"after 2m0s, the text " + hash + " is not in force", "fedcba9876543210", "no controller manager has judged", "kubectl get pods,leases --namespace=load-balancing",
		}},
		{name: "there is no controller manager", within: 2 * time.Minute, says: []string{"there is no ConfigMap load-balancing/config-admitted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewSimpleClientset()
				go func() {
					began := time.Now()
					for _, m := range c.history {
						time.Sleep(m.after - time.Since(began))
						write(t, client, m.says)
					}
				}()
				synctest.Wait()
				began := time.Now()
				err := installation{namespace: "load-balancing", configName: "config", timeout: 2 * time.Minute}.verify(t.Context(), client, hash)
				if took := time.Since(began); took > c.within {
					t.Errorf("it took %s", took)
				}
				if (err == nil) != (len(c.says) == 0) {
					t.Fatalf("it says %v", err)
				}
				for _, words := range c.says {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("it does not say %q:\n%v", words, err)
					}
				}
			})
		})
	}
}

func write(t *testing.T, client *fake.Clientset, data map[string]string) {
	copies := client.CoreV1().ConfigMaps("load-balancing")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config-admitted"}, Data: data}
	_, err := copies.Update(t.Context(), object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = copies.Create(t.Context(), object, metav1.CreateOptions{})
	}
	if err != nil {
		t.Error(err)
	}
}

func TestValidatePrintsEachMistakeWithItsLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	for text, want := range map[string][]string{
		"peers: []\naddress-pools: []\n": nil,
		"peers: []\naddress-pools:\n- name: a\n  cidr: [192.168.10.0/33]\n  auto-asign: true\n": {"line 4: address-pools[0].cidr", "line 5: ", `"auto-assign"`},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := validate(path)
		if (err == nil) != (want == nil) {
			t.Errorf("%q: %v", text, err)
		}
		for _, words := range want {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("it does not say %q: %v", words, err)
			}
		}
	}
}

func TestAllSessionsMustBeUp(t *testing.T) {
	session := func(state, reason string) report.Session {
		return report.Session{Peer: "tor-a", Address: netip.MustParseAddr("10.0.0.1"), State: state, Reason: reason}
	}
	for _, c := range []struct {
		documents []report.Document
		says      string // nothing: they are up
	}{
		{[]report.Document{{Node: "a", Sessions: []report.Session{session("Established", "")}}, {Node: "b"}}, ""},
		{[]report.Document{{Node: "a", Sessions: []report.Session{session("Established", "")}}, {Node: "b", Sessions: []report.Session{session("Idle", "connection refused")}}},
			"node b: the session with router tor-a is Idle: connection refused"},
		{[]report.Document{{Node: "a", Problems: []string{"no password"}}}, "node a: no password"},
		{[]report.Document{{Node: "a"}, {Node: "b"}}, "none of 2 speakers has a session: do the peers' node-selectors match any node?"},
		{nil, "none of 0 speakers has a session: do the peers' node-selectors match any node?"},
	} {
		_, err := established(c.documents)
		if got := ""; err != nil {
			got = err.Error()
			if got != c.says {
				t.Errorf("it says %q, want %q", got, c.says)
			}
		} else if c.says != got {
			t.Errorf("it says nothing, want %q", c.says)
		}
	}
}

// A controller manager gives addresses, and takes its finalizer away from what is deleted.
func TestATrialMakesAServiceAndLeavesNone(t *testing.T) {
	for name, gives := range map[string]bool{"an address is given": true, "no pool has any": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewSimpleClientset()
				services := client.CoreV1().Services("load-balancing")
				ctx, cancel := context.WithCancel(t.Context())
				watch, err := services.Watch(ctx, metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					for event := range watch.ResultChan() {
						svc := event.Object.(*corev1.Service)
						if !gives || event.Type != "ADDED" {
							continue
						}
						svc = svc.DeepCopy()
						svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.168.10.0"}}
						if _, err := services.UpdateStatus(ctx, svc, metav1.UpdateOptions{}); err != nil {
							t.Error(err)
						}
					}
				}()
				if !gives {
					event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "why"}, InvolvedObject: corev1.ObjectReference{Name: trialService}, Message: "no pool has a free address"}
					if _, err := client.CoreV1().Events("load-balancing").Create(ctx, event, metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				err = trial{installation{namespace: "load-balancing", timeout: time.Minute}, client, false}.run(ctx)
				if gives != (err == nil) || !gives && !strings.Contains(err.Error(), "no pool has a free address") {
					t.Errorf("it says %v", err)
				}
				cancel()
				watch.Stop()
				left, err := services.List(t.Context(), metav1.ListOptions{})
				if err != nil || len(left.Items) > 0 {
					t.Errorf("%d Services are left: %v", len(left.Items), err)
				}
			})
		})
	}
}
