package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/netip"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// mostReviews bounds how many tokens of a kind the API server is asked about at once; others wait for their turn, or give up.
	mostReviews = 5
	// reviewPause and reviewBurst bound how often strangers from one place may make us ask: so often, and so many at once.
	reviewPause = time.Second
	reviewBurst = 5
)

// reviews ask the API server whether a token's user may get a page. Kubernetes' own authenticator and authorizer for that
// would more than double this program, with the languages in which API servers write policies.
//
// Whoever comes with new tokens all the time must not keep others from being heard. So those whose token was good before have
// slots and requests of their own, and strangers have a budget for each place that they come from.
type reviews struct {
	regulars, strangers desk

	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]remembered // by path and token, which should not lie about in memory
	good     map[[sha256.Size]byte]bool       // of these, those that were allowed when they were asked about last
	places   map[netip.Prefix]budget
}

// A desk is a client of its own: whoever asks in vain, again and again, must not use up the requests with which the speaker
// watches the cluster, nor those for others.
type desk struct {
	clerk
	slots chan struct{} // one for each review that goes on
}

// A clerk answers reviews.
type clerk struct {
	tokens   creator[*authenticationv1.TokenReview]
	accesses creator[*authorizationv1.SubjectAccessReview]
}

type creator[T any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
}

type remembered struct {
	verdict
	until time.Time
}

// A budget is how many reviews strangers from one place may still ask for, and when that was so.
type budget struct {
	left float64
	at   time.Time
}

// newReviews returns reviews with clients of their own.
func newReviews(config *rest.Config) (*reviews, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 20, 20
	regulars, err := NewAPI(config)
	if err != nil {
		return nil, err
	}
	strangers, err := NewAPI(config)
	if err != nil {
		return nil, err
	}
	return reviewsBy(regulars.clerk(), strangers.clerk()), nil
}

func reviewsBy(regulars, strangers clerk) *reviews {
	return &reviews{
		regulars:  desk{regulars, make(chan struct{}, mostReviews)},
		strangers: desk{strangers, make(chan struct{}, mostReviews)},
		verdicts:  map[[sha256.Size]byte]remembered{}, good: map[[sha256.Size]byte]bool{}, places: map[netip.Prefix]budget{},
	}
}

var errTooMany = errors.New("too many new tokens")

// May returns the verdict on a token that comes from an address and wants the page at a path.
func (r *reviews) May(ctx context.Context, path, token, from string) (verdict, error) {
	key := sha256.Sum256([]byte(path + " " + token))
	at, v, known := r.recall(key, from, time.Now())
	if known {
		return v, nil
	}
	if at == nil {
		return unknown, errTooMany
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case at.slots <- struct{}{}:
		defer func() { <-at.slots }()
	case <-ctx.Done():
		return unknown, ctx.Err()
	}
	v, err := review(ctx, at.clerk, path, token)
	if err == nil {
		r.remember(key, v, time.Now())
	}
	return v, err
}

// recall returns the verdict if it is known, or where to ask; nil if whoever asks has asked for too much.
func (r *reviews) recall(key [sha256.Size]byte, from string, now time.Time) (at *desk, v verdict, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.verdicts[key]; ok && now.Before(v.until) {
		return nil, v.verdict, true
	}
	if r.good[key] {
		return &r.regulars, unknown, false
	}
	place := placeOf(from)
	b, seen := r.places[place]
	if b.left = min(reviewBurst, b.left+now.Sub(b.at).Seconds()/reviewPause.Seconds()); !seen {
		b.left = reviewBurst
	}
	b.at = now
	if b.left >= 1 {
		b.left--
		at = &r.strangers
	}
	if len(r.places) >= mostVerdicts {
		clear(r.places)
	}
	r.places[place] = b
	return at, unknown, false
}

// placeOf is the network that one client has: an address of IPv4, a /64 of IPv6.
func placeOf(from string) netip.Prefix {
	at, err := netip.ParseAddrPort(from)
	if err != nil {
		return netip.Prefix{}
	}
	addr := at.Addr().Unmap().WithZone("")
	place, _ := addr.Prefix(min(64, addr.BitLen())) // no such length is wrong
	return place
}

func (r *reviews) remember(key [sha256.Size]byte, v verdict, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.verdicts) >= mostVerdicts {
		clear(r.verdicts) // somebody plays with tokens; the others are asked about once more
	}
	r.verdicts[key] = remembered{v, now.Add(verdictTime)}
	if len(r.good) >= mostVerdicts {
		clear(r.good)
	}
	if delete(r.good, key); v == allowed {
		r.good[key] = true
	}
}

// review asks the API server.
func review(ctx context.Context, at clerk, path, token string) (verdict, error) {
	who, err := at.tokens.Create(ctx, &authenticationv1.TokenReview{
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
	access, err := at.accesses.Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
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
