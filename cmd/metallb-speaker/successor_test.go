package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/metallb/cloud-provider-metallb/internal/agent"
)

// A slowcoach is an API server that takes its time to answer, by the last part of the path; or never does.
type slowcoach struct {
	objects map[string]any
	takes   map[string]time.Duration
	refuses map[string]bool
}

func (d slowcoach) RoundTrip(r *http.Request) (*http.Response, error) {
	path := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	select {
	case <-time.After(d.takes[path]):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if d.refuses[path] {
		return nil, errors.New("connection refused")
	}
	object, code := d.objects[path], http.StatusOK
	if object == nil {
		object, code = metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404}, http.StatusNotFound
	}
	text, err := json.Marshal(object)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Request: r, Body: io.NopCloser(bytes.NewReader(text)),
	}, err
}

func TestTheAPIServerGetsASecondToAnswerAtAllAndFiveForTheRest(t *testing.T) {
	t.Setenv("POD_NAME", "metallb-speaker-x7k2p")
	t.Setenv("POD_NAMESPACE", "metallb-system")
	pod := func(owner string) *corev1.Pod {
		return &corev1.Pod{
			TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: "metallb-speaker-x7k2p", DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)},
				OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet", Name: owner, Controller: new(true)}}},
		}
	}
	set := &appsv1.DaemonSet{TypeMeta: metav1.TypeMeta{Kind: "DaemonSet", APIVersion: "apps/v1"}}
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}}
	usual := map[string]any{"metallb-speaker-x7k2p": pod("metallb-speaker"), "metallb-speaker": set, "a": node}
	const podName, never = "metallb-speaker-x7k2p", time.Hour
	for _, c := range []struct {
		what    string
		objects map[string]any
		takes   map[string]time.Duration
		refuses map[string]bool
		want    bool
		why     string
		after   time.Duration
	}{
		{what: "all at once", want: true, why: "this speaker's Pod is being replaced"},
		{what: "an API server behind a black hole", takes: map[string]time.Duration{podName: never, "metallb-speaker": never, "a": never},
			why: tooLate, after: time.Second},
		{what: "answers that come 2 s after the first", takes: map[string]time.Duration{podName: 2900 * time.Millisecond, "metallb-speaker": 2900 * time.Millisecond, "a": 900 * time.Millisecond},
			want: true, why: "this speaker's Pod is being replaced", after: 2900 * time.Millisecond},
		{what: "questions do not wait for each other", takes: map[string]time.Duration{podName: 900 * time.Millisecond, "metallb-speaker": 900 * time.Millisecond, "a": 900 * time.Millisecond},
			want: true, why: "this speaker's Pod is being replaced", after: 900 * time.Millisecond},
		{what: "one answer does not come", takes: map[string]time.Duration{podName: 500 * time.Millisecond, "a": never}, why: tooLate, after: 5 * time.Second},
		{what: "no API server", refuses: map[string]bool{podName: true, "metallb-speaker": true, "a": true}, why: "connection refused"},
		{what: "the DaemonSet is gone", objects: map[string]any{podName: pod("metallb-speaker"), "a": node}, why: "this speaker's DaemonSet is gone or being deleted"},
		{what: "the DaemonSet has another name than its Pods", objects: map[string]any{podName: pod("speakers"), "speakers": set, "a": node},
			takes: map[string]time.Duration{podName: time.Millisecond, "speakers": 2 * time.Second}, want: true, why: "this speaker's Pod is being replaced", after: 2001 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			objects := c.objects
			if objects == nil {
				objects = usual
			}
			client, err := agent.NewAPI(&rest.Config{Host: "http://api", Transport: slowcoach{objects, c.takes, c.refuses}})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			got, why := successor(t.Context(), client, "a")
			if took := time.Since(began); got != c.want || !strings.Contains(why, c.why) || took != c.after {
				t.Errorf("%s: %t, %q after %v, want %t, %q after %v", c.what, got, why, took, c.want, c.why, c.after)
			}
			synctest.Wait()
		})
	}
}
