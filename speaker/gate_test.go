package speaker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"
)

// answers are what a URL answers, one after another; the last again and again.
type answers struct {
	list  []string
	asked []time.Time
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := a.list[min(len(a.asked), len(a.list)-1)]
	a.asked = append(a.asked, time.Now())
	switch answer {
	case "refused":
		return nil, errors.New("connection refused")
	case "silence":
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	code := map[string]int{"200 OK": 200, "204 No Content": 204, "503 Service Unavailable": 503}[answer]
	return &http.Response{StatusCode: code, Status: answer, Body: http.NoBody}, nil
}

func TestTheGateOpensAtTheFirstSuccess(t *testing.T) {
	const url = "http://127.0.0.1:10256/healthz"
	for _, test := range []struct {
		name, url string
		answers   []string
		after     time.Duration
		log       []string
	}{
		{name: "no URL", answers: []string{"refused"}},
		{name: "success at once", url: url, answers: []string{"200 OK"}},
		{name: "any success", url: url, answers: []string{"204 No Content"}},
		{name: "success in the end", url: url, answers: []string{"refused", "503 Service Unavailable", "refused", "200 OK"}, after: 3 * time.Second,
			log: []string{
				`"Waiting before the first announcement" url="http://127.0.0.1:10256/healthz" why="Get \"http://127.0.0.1:10256/healthz\": connection refused"`,
				`"Waited long enough" url="http://127.0.0.1:10256/healthz"`}},
		{name: "a question that hangs is asked anew", url: url, answers: []string{"silence", "200 OK"}, after: 6 * time.Second,
			log: []string{
				`"Waiting before the first announcement" url="http://127.0.0.1:10256/healthz" why="Get \"http://127.0.0.1:10256/healthz\": context deadline exceeded"`,
				`"Waited long enough" url="http://127.0.0.1:10256/healthz"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logged.Take()
				s := &Speaker{options: Options{WaitForURL: test.url}}
				begin := time.Now()
				if !s.passGate(t.Context(), &http.Client{Transport: &answers{list: test.answers}}) {
					t.Error("it did not open")
				}
				if took := time.Since(begin); took != test.after {
					t.Errorf("it opened after %v, want %v", took, test.after)
				}
				if s.status.closed != "" {
					t.Errorf("an open gate is said to be closed: %s", s.status.closed)
				}
				same(t, "log", logged.Take(), test.log)
			})
		})
	}
}

func TestAClosedGateIsSaidToBeClosedAndEndsWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Speaker{options: Options{WaitForURL: "http://127.0.0.1:1/"}, status: status{synced: true}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() { done <- s.passGate(ctx, &http.Client{Transport: &answers{list: []string{"refused"}}}) }()
		<-time.After(time.Hour)
		if got := s.Status().Missing; got != "--wait-for-url does not answer with success" {
			t.Errorf("missing is %q", got)
		}
		cancel()
		if <-done {
			t.Error("it opened without an answer")
		}
		if n := len(logged.Take()); n != 1 {
			t.Errorf("%d lines in the log, want 1", n)
		}
	})
}

func TestOnlyAURLCanBeWaitedFor(t *testing.T) {
	for text, good := range map[string]bool{
		"http://127.0.0.1:10256/healthz": true, "https://[::1]/": true,
		"127.0.0.1:10256": false, "file:///etc/passwd": false, "http://": false, "http://%zz/": false,
	} {
		_, err := New(of(fake.NewClientset()), nil, Options{WaitForURL: text})
		if good {
			err = checkURL(text)
		}
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "--wait-for-url="+text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
