package main

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// A verdict is what the API server says of a token.
type verdict int

const (
	unknown verdict = iota
	forbidden
	allowed
)

const (
	// verdictTime is how long a verdict holds, as in Kubernetes' own components.
	verdictTime = 10 * time.Second
	// mostVerdicts bounds what is remembered, whatever is asked.
	mostVerdicts = 1000
	// reviewTimeout is how long the API server may take.
	reviewTimeout = 10 * time.Second
	// mostReviews bounds how many tokens the API server is asked about at once; others wait for their turn, or give up.
	mostReviews = 10
)

// Reviews ask the API server whether a token's user may get /metrics. Kubernetes' own authenticator and authorizer for that
// would more than double this program, with the languages in which API servers write policies.
type reviews struct {
	client kubernetes.Interface
	slots  chan struct{} // one for each review that goes on

	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]remembered // by token, which should not lie about in memory
}

type remembered struct {
	verdict
	until time.Time
}

// newReviews returns reviews with a client of their own: whoever asks in vain, again and again, must not use up the requests
// with which the speaker watches the cluster.
func newReviews(config *rest.Config) (*reviews, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 10, 20
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return reviewsBy(client), nil
}

func reviewsBy(client kubernetes.Interface) *reviews {
	return &reviews{client: client, slots: make(chan struct{}, mostReviews), verdicts: map[[sha256.Size]byte]remembered{}}
}

// may returns the verdict on a token.
func (r *reviews) may(ctx context.Context, token string) (verdict, error) {
	key := sha256.Sum256([]byte(token))
	if v, ok := r.recall(key, time.Now()); ok {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return unknown, ctx.Err()
	}
	v, err := r.review(ctx, token)
	if err == nil {
		r.remember(key, v, time.Now())
	}
	return v, err
}

func (r *reviews) recall(key [sha256.Size]byte, now time.Time) (verdict, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.verdicts[key]
	return known.verdict, ok && now.Before(known.until)
}

func (r *reviews) remember(key [sha256.Size]byte, v verdict, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.verdicts) >= mostVerdicts {
		clear(r.verdicts) // somebody plays with tokens; the others are asked about once more
	}
	r.verdicts[key] = remembered{v, now.Add(verdictTime)}
}

// review asks the API server.
func (r *reviews) review(ctx context.Context, token string) (verdict, error) {
	who, err := r.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil || !who.Status.Authenticated {
		return unknown, err
	}
	user := who.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	access, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return unknown, err
	}
	if !access.Status.Allowed {
		return forbidden, nil
	}
	return allowed, nil
}
