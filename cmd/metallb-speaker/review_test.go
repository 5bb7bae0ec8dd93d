package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
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
	return reviewsBy(client)
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
			{then: "one who may not", token: "e", want: forbidden, asked: "who; may eve  [] map[] get /metrics"},
			{then: "once more", token: "e", want: forbidden},
			{then: "nobody", token: "x", want: unknown, asked: "who"},
			{then: "once more", token: "x", want: unknown},
			{then: "later", token: "x", after: verdictTime, want: unknown, asked: "who"},
		} {
			<-time.After(step.after)
			o.closed, o.asked = step.closed, nil
			got, err := r.may(t.Context(), step.token)
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
	r := reviewsBy(nil)
	now := time.Now()
	for i := range 10 * mostVerdicts {
		r.remember(sha256.Sum256(fmt.Append(nil, i)), unknown, now)
		if len(r.verdicts) > mostVerdicts {
			t.Fatalf("%d are remembered", len(r.verdicts))
		}
	}
}
