package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"
)

// An office is an API server that knows the tokens of a few users, and lets those of group monitoring get /metrics.
type office struct {
	tokens map[string]authenticationv1.UserInfo
	closed bool
	asked  []string // the kinds of reviews
}

func (o *office) reviews() *reviews {
	client := fake.NewClientset()
	client.PrependReactor("create", "*", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if o.closed {
			return true, nil, errors.New("closed")
		}
		switch review := a.(k8stesting.CreateAction).GetObject().(type) {
		case *authenticationv1.TokenReview:
			o.asked = append(o.asked, "who")
			review = review.DeepCopy()
			review.Status.User, review.Status.Authenticated = o.tokens[review.Spec.Token], o.tokens[review.Spec.Token].Username != ""
			return true, review, nil
		case *authorizationv1.SubjectAccessReview:
			o.asked = append(o.asked, fmt.Sprintf("may %s %s %v %v %s %s", review.Spec.User, review.Spec.UID, review.Spec.Groups, review.Spec.Extra,
				review.Spec.NonResourceAttributes.Verb, review.Spec.NonResourceAttributes.Path))
			review = review.DeepCopy()
			review.Status.Allowed = slices.Contains(review.Spec.Groups, "monitoring")
			return true, review, nil
		}
		return false, nil, nil
	})
	c := clerk{client.AuthenticationV1().TokenReviews(), client.AuthorizationV1().SubjectAccessReviews()}
	return reviewsBy(c, c)
}

func TestTheAPIServerIsAskedWhoAndWhetherAndRememberedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &office{tokens: map[string]authenticationv1.UserInfo{
			"p": {Username: "prometheus", UID: "7", Groups: []string{"monitoring"}, Extra: map[string]authenticationv1.ExtraValue{"pod": {"p-0"}}},
			"e": {Username: "eve"},
		}}
		r := o.reviews()
		for _, step := range []struct {
			then, token string
			path        string // "/metrics" if empty
			after       time.Duration
			closed      bool
			want        verdict
			fails       bool
			asked       string
		}{
			{then: "one who may", token: "p", want: allowed, asked: "who; may prometheus 7 [monitoring] map[pod:[p-0]] get /metrics"},
			{then: "once more", token: "p", after: verdictTime - 1, want: allowed},
			{then: "even if the API server is gone", token: "p", closed: true, want: allowed},
			{then: "but not for long", token: "p", after: 1, closed: true, fails: true},
			{then: "a failure is not remembered", token: "p", want: allowed, asked: "who; may prometheus 7 [monitoring] map[pod:[p-0]] get /metrics"},
			{then: "another page is another question", token: "p", path: "/routes", want: allowed, asked: "who; may prometheus 7 [monitoring] map[pod:[p-0]] get /routes"},
			{then: "and another answer", token: "p", path: "/routes", closed: true, want: allowed},
			{then: "one who may not", token: "e", want: forbidden, asked: "who; may eve  [] map[] get /metrics"},
			{then: "once more", token: "e", want: forbidden},
			{then: "nobody", token: "x", want: unknown, asked: "who"},
			{then: "once more", token: "x", want: unknown},
			{then: "later", token: "x", after: verdictTime, want: unknown, asked: "who"},
		} {
			<-time.After(step.after)
			o.closed, o.asked = step.closed, nil
			got, err := r.May(t.Context(), cmp.Or(step.path, "/metrics"), step.token, "10.0.0.7:1234")
			if got != step.want || (err != nil) != step.fails {
				t.Errorf("%s: verdict %d, %v, want %d", step.then, got, err, step.want)
			}
			if asked := strings.Join(o.asked, "; "); asked != step.asked {
				t.Errorf("%s: asked %q, want %q", step.then, asked, step.asked)
			}
		}
	})
}

func TestWhoeverPlaysWithTokensUsesUpNoMemory(t *testing.T) {
	r := reviewsBy(clerk{}, clerk{})
	now := time.Now()
	for i := range 10 * mostVerdicts {
		r.remember(sha256.Sum256(fmt.Append(nil, i)), unknown, now)
		r.remember(sha256.Sum256(fmt.Append(nil, "good", i)), allowed, now)
		r.recall(sha256.Sum256(fmt.Append(nil, "new", i)), fmt.Sprintf("10.%d.%d.1:1", i>>8, i&0xff), now)
		if most := max(len(r.verdicts), len(r.good), len(r.places)); most > mostVerdicts {
			t.Fatalf("%d are remembered", most)
		}
	}
}

// Strangers come 300 times a second, each time with another token, for two minutes. The API server takes 50 ms to answer.
func TestStrangersDoNotKeepOthersFromBeingHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := tardy{tokens: map[string]bool{"p": true, "q": true}, takes: 50 * time.Millisecond}
		client, err := NewAPI(&rest.Config{Host: "http://api", Transport: &slow, QPS: 1000, Burst: 1000,
			ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
		if err != nil {
			t.Fatal(err)
		}
		r := reviewsBy(client.clerk(), client.clerk())
		scrape := func(then, token, from string) {
			t.Helper()
			began := time.Now()
			if v, err := r.May(t.Context(), "/metrics", token, from); v != allowed || err != nil || time.Since(began) > time.Second {
				t.Errorf("%s: verdict %d, %v after %v", then, v, err, time.Since(began))
			}
		}
		scrape("before they come", "p", "10.0.0.7:1")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				go func() { _, _ = r.May(ctx, "/metrics", fmt.Sprint("stranger-", i), "10.0.0.7:2") }()
				<-time.After(time.Second / 300)
			}
		}()
		for range 8 {
			<-time.After(verdictTime + time.Second)
			scrape("a token that was good before", "p", "10.0.0.7:3")
		}
		scrape("a new token from elsewhere", "q", "10.0.0.8:1")
		asked := slow.asked.Load()
		<-time.After(10 * time.Second)
		if more := slow.asked.Load() - asked; more > 12 {
			t.Errorf("strangers from one place made us ask %d times in 10 s", more)
		}
		cancel()
		<-time.After(time.Second)
	})
}

// A tardy API server knows some tokens.
type tardy struct {
	tokens map[string]bool
	takes  time.Duration
	asked  atomic.Int32
}

func (s *tardy) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	<-time.After(s.takes)
	var answer any
	if strings.HasSuffix(r.URL.Path, "tokenreviews") {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			return nil, err
		}
		review.Status.Authenticated = s.tokens[review.Spec.Token]
		answer = review
	} else {
		answer = authorizationv1.SubjectAccessReview{
			TypeMeta: metav1.TypeMeta{Kind: "SubjectAccessReview", APIVersion: "authorization.k8s.io/v1"},
			Status:   authorizationv1.SubjectAccessReviewStatus{Allowed: true},
		}
	}
	text, err := json.Marshal(answer)
	return &http.Response{StatusCode: http.StatusCreated, Header: http.Header{"Content-Type": {"application/json"}}, Request: r, Body: io.NopCloser(bytes.NewReader(text))}, err
}
