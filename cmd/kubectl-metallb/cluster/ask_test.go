package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

// crew starts speakers, each on a node of its own at 127.0.0.1, that answer as they are told to.
func crew(t *testing.T, answers ...http.HandlerFunc) *inspect.Snapshot {
	s := &inspect.Snapshot{Namespace: "metallb-system"}
	for i, answer := range answers {
		server := httptest.NewTLSServer(answer)
		t.Cleanup(server.Close)
		_, port, err := net.SplitHostPort(server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("n%d", i)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
		s.Nodes = append(s.Nodes, node)
		s.Pods = append(s.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "metallb-speaker-" + name, Labels: map[string]string{"app.kubernetes.io/component": "speaker"}},
			Spec:       corev1.PodSpec{NodeName: name, Containers: []corev1.Container{{Args: []string{"--secure-port=" + port}}}},
		})
	}
	return s
}

// tokens gives out tokens for the viewer.
func tokens(asked *authenticationv1.TokenRequest) *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateActionImpl).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		*asked = *request
		request.Status.Token = "of-the-viewer"
		return true, request, nil
	})
	return client
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/routes" || r.Header.Get("Authorization") != "Bearer of-the-viewer" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(text)) // to a client in this process
	}
}

func TestSpeakersAreAskedWithATokenOfTheViewer(t *testing.T) {
	s := crew(t,
		says(`{"version": 1, "node": "n0", "hash": "abc", "sessions": [{"peer": "tor1", "address": "10.0.0.254", "state": "Established", "routes": [{"prefix": "192.168.10.0/32", "nextHop": "10.0.0.1", "asPath": [64512]}]}]}`),
		says(`{"version": 1, "node": "n1", "sessions": [`),
		says(`{"version": 2, "node": "n2"}`),
		says(`{"version": 1, "node": "n7"}`),
		func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "you may not get /routes", http.StatusForbidden)
		},
		http.NotFound,
	)
	s.Pods[5].Spec.Containers[0].Args = append(s.Pods[5].Spec.Containers[0].Args, "--v=0")
	var asked authenticationv1.TokenRequest
	Speakers{Client: tokens(&asked), Direct: true}.Ask(t.Context(), s, "")
	if !s.Asked || len(s.Told) != 1 || s.Told[0].Node != "n0" || s.Told[0].Sessions[0].Routes[0].Prefix.String() != "192.168.10.0/32" {
		t.Errorf("%+v", s.Told)
	}
	if asked.Spec.ExpirationSeconds == nil || *asked.Spec.ExpirationSeconds != 600 {
		t.Errorf("asked for %v", asked.Spec)
	}
	var got []string
	for _, u := range s.Unread {
		got = append(got, u.String())
	}
	want := []string{
		"the speaker on node n1 does not answer: its answer is cut off or damaged: unexpected EOF",
		"the speaker on node n2 does not answer: it answers in version 2, and this program reads version 1",
		"the speaker on node n3 does not answer: the speaker of node n7 answered",
		"the speaker on node n4 does not answer: 403 Forbidden: you may not get /routes",
		"the speaker on node n5 does not answer: it does not know /routes: it is of an older version",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// An evicted Pod has the node's name, and lies about for a while.
func TestAPodThatHasEndedIsNotAsked(t *testing.T) {
	s := crew(t, says(`{"version": 1, "node": "n0"}`), func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })
	evicted := s.Pods[1]
	evicted.Spec.NodeName, evicted.Status.Phase = "n0", corev1.PodFailed
	var asked authenticationv1.TokenRequest
	Speakers{Client: tokens(&asked), Direct: true}.Ask(t.Context(), s, "")
	if len(s.Told) != 1 || len(s.Unread) != 0 {
		t.Errorf("%v %v", s.Told, s.Unread)
	}
}

func TestOneSpeakerIsAskedIfOneIsWanted(t *testing.T) {
	var count atomic.Int32
	answer := func(w http.ResponseWriter, _ *http.Request) { count.Add(1) }
	s := crew(t, answer, answer, answer)
	var asked authenticationv1.TokenRequest
	Speakers{Client: tokens(&asked), Direct: true}.Ask(t.Context(), s, "n1")
	if count.Load() != 1 || len(s.Unread) != 1 || s.Unread[0].Node != "n1" {
		t.Errorf("%d were asked: %v", count.Load(), s.Unread)
	}
}

func TestASpeakerThatIsSilentKeepsNobodyWaitingForLong(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := crew(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	var asked authenticationv1.TokenRequest
	Speakers{Client: tokens(&asked), Direct: true}.Ask(ctx, s, "")
	if len(s.Unread) != 1 || !strings.Contains(s.Unread[0].Why, "canceled") {
		t.Errorf("%v", s.Unread)
	}
}

// How long it takes to tell ten thousand routes is no silence.
func TestASpeakerIsGivenUpWhenItIsSilentAndNotWhileItTells(t *testing.T) {
	for want, tells := range map[string]int{"not within 3s": 10, "not within 30s": 100} {
		synctest.Test(t, func(t *testing.T) {
			ctx, heard, end := listen(t.Context())
			defer end()
			began := time.Now()
			for range tells {
				time.Sleep(2 * time.Second)
				if ctx.Err() == nil {
					heard()
				}
			}
			<-ctx.Done()
			if cause := context.Cause(ctx); cause == nil || cause.Error() != want || time.Since(began) < 20*time.Second {
				t.Errorf("after %v: %v, want %s", time.Since(began), cause, want)
			}
		})
	}
}

func TestWithoutATokenNobodyIsAsked(t *testing.T) {
	for want, refusal := range map[string]error{
		"cannot create serviceaccounts/token in namespace metallb-system: you are not allowed to, for ServiceAccount metallb-viewer":      apierrors.NewForbidden(corev1.Resource("serviceaccounts"), viewer, nil),
		"cannot create serviceaccounts/token in namespace metallb-system: there is no ServiceAccount metallb-viewer: the chart brings it": apierrors.NewNotFound(corev1.Resource("serviceaccounts"), viewer),
	} {
		client := fake.NewClientset()
		client.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refusal })
		s := crew(t, func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })
		Speakers{Client: client, Direct: true}.Ask(t.Context(), s, "")
		if len(s.Unread) != 1 || s.Unread[0].String() != want {
			t.Errorf("%v", s.Unread)
		}
	}
}
