package provider

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	componentbaseconfig "k8s.io/component-base/config"
)

// A doorplate is a lock that says who holds it, and counts how often it is read. While it is broken it says nothing.
type doorplate struct {
	mu     sync.Mutex
	holder string
	broken error
	reads  int
}

// lease is a lock that looks at the doorplate. Nobody but the election may use the lock's own way to read.
func (d *doorplate) lease() *lease {
	return &lease{Interface: d, lookAgain: 3 * time.Second, look: func(context.Context) (string, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.reads++
		return d.holder, d.broken
	}}
}

func (d *doorplate) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	panic("the lock would remember what it read")
}

func (d *doorplate) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return d.Update(ctx, r)
}

func (d *doorplate) Update(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken == nil {
		d.holder = r.HolderIdentity
	}
	return d.broken
}

// fail lets it break, or mends it.
func (d *doorplate) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}

func (d *doorplate) RecordEvent(string) {}
func (d *doorplate) Identity() string   { return "us" }
func (d *doorplate) Describe() string   { return "metallb-system/metallb-controller" }

func TestALeaseIsLookedAtOnceTheLastLookIsOld(t *testing.T) {
	us := resourcelock.LeaderElectionRecord{HolderIdentity: "us"}
	broken := errors.New("no route to host")
	steps := []struct {
		then   string
		take   bool // the Lease, for the first time
		renew  bool
		giveUp bool
		pass   time.Duration
		wall   time.Duration // by which the wall clock is set
		holder string        // somebody takes it
		broken error         // the API server's answer from now on
		reads  int           // that Confirm makes
		err    error
	}{
		{then: "it is ours", take: true},
		{then: "and still, two seconds later", pass: 2 * time.Second},
		{then: "after three seconds we look", pass: time.Second, reads: 1},
		{then: "a look is as good as a renewal", pass: 2 * time.Second},
		{then: "a renewal is as good as a look", renew: true, pass: 2900 * time.Millisecond},
		{then: "a renewal that fails is not", broken: broken, renew: true, pass: 200 * time.Millisecond, reads: 1, err: broken},
		{then: "the API server is back", broken: nil, reads: 1},
		{then: "the machine was asleep, and only the wall clock knows", wall: time.Minute, reads: 1},
		{then: "somebody sets the wall clock back", wall: -time.Minute, reads: 1},
		{then: "a moment is not worth a look", wall: time.Second},
		{then: "somebody else took it: for three seconds we may not know", holder: "them"},
		{then: "and then we do", pass: 3 * time.Second, reads: 1, err: errLost},
		{then: "it is ours again", take: true},
		{then: "we give it up, and know it at once", giveUp: true, reads: 1, err: errLost},
		{then: "it is ours again", take: true},
		{then: "we try to give it up and get no answer: it may be gone", broken: broken, giveUp: true, reads: 1, err: broken},
	}
	synctest.Test(t, func(t *testing.T) {
		plate := &doorplate{}
		l := plate.lease()
		if err := l.Confirm(t.Context()); !errors.Is(err, errLost) {
			t.Errorf("before it was taken: %v", err)
		}
		for _, s := range steps {
			if plate.fail(s.broken); s.holder != "" {
				plate.holder = s.holder
			}
			var err error
			switch {
			case s.take:
				err = l.Create(t.Context(), us)
			case s.renew:
				err = l.Update(t.Context(), us)
			case s.giveUp:
				err = l.Update(t.Context(), resourcelock.LeaderElectionRecord{})
			}
			if !errors.Is(err, s.broken) {
				t.Errorf("%s: %v", s.then, err)
			}
			<-time.After(s.pass)
			l.calendar = l.calendar.Add(-s.wall)
			plate.reads = 0
			if err := l.Confirm(t.Context()); !errors.Is(err, s.err) || plate.reads != s.reads {
				t.Errorf("%s: %v after %d reads, want %v after %d", s.then, err, plate.reads, s.err, s.reads)
			}
		}
	})
}

// A slow server answers when it is told to.
type slow struct{ arrived, answer chan struct{} }

func (s slow) RoundTrip(*http.Request) (*http.Response, error) {
	s.arrived <- struct{}{}
	<-s.answer
	return &http.Response{StatusCode: http.StatusOK}, nil
}

func TestAClosingFenceWaitsForWhatIsUnderWayAndRefusesTheRest(t *testing.T) {
	server := slow{make(chan struct{}), make(chan struct{})}
	f := &fence{next: server}
	answers := make(chan error)
	for range 2 {
		go func() {
			_, err := f.RoundTrip(nil)
			answers <- err
		}()
		<-server.arrived
	}
	closed := make(chan struct{})
	go func() { f.Close(); close(closed) }()
	for range 2 {
		select {
		case <-closed:
			t.Fatal("closed while a request is under way")
		case server.answer <- struct{}{}:
		}
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	<-closed
	if _, err := f.RoundTrip(nil); !errors.Is(err, errFenced) {
		t.Errorf("after the closing: %v", err)
	}
	f.Close() // once more does no harm
}

// A mortal is a lock that counts renewals, until it is killed.
type mortal struct {
	resourcelock.Interface
	killed   atomic.Bool
	renewals atomic.Int64
}

func (m *mortal) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if m.killed.Load() {
		return errors.New("it was killed")
	}
	m.renewals.Add(1)
	return m.Interface.Update(ctx, record)
}

// Whatever the chance that lets candidates look at different times: after the leader was killed, another leads within ten
// seconds, by the flags' defaults. Meanwhile the leader renews the Lease once a second, and not more often.
func TestAnotherLeadsWithinTenSecondsOfAKill(t *testing.T) {
	election := componentbaseconfig.LeaderElectionConfiguration{ResourceName: "metallb-controller"}
	election.LeaseDuration.Duration, election.RenewDeadline.Duration, election.RetryPeriod.Duration = 8*time.Second, 5*time.Second, time.Second
	client := fake.NewClientset()
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			lives := &mortal{}
			leads := map[string]chan struct{}{"first": make(chan struct{}), "second": make(chan struct{})}
			var running sync.WaitGroup
			ctx, end := context.WithCancel(t.Context())
			begin := func(name string) {
				lock, err := resourcelock.New(resourcelock.LeasesResourceLock, "metallb-system", election.ResourceName, nil, client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name})
				if err != nil {
					t.Fatal(err)
				}
				if name == "first" {
					lives.Interface, lock = lock, lives
				}
				elector, err := (&lease{Interface: lock}).elector(election, func(context.Context) { close(leads[name]) })
				if err != nil {
					t.Fatal(err)
				}
				running.Go(func() { elector.Run(ctx) })
				synctest.Wait()
			}
			begin("first")
			<-leads["first"]
			begin("second")
			<-time.After(10*time.Second + time.Duration(rand.Int64N(int64(time.Second))))
			if n := lives.renewals.Load(); n < 9 || n > 12 {
				t.Errorf("it was renewed %d times in ten seconds", n)
			}
			began := time.Now()
			lives.killed.Store(true)
			<-leads["second"]
			if took := time.Since(began); took > 10*time.Second || took < 7*time.Second {
				t.Errorf("another led after %s", took)
			}
			end()
			running.Wait()
			if err := client.CoordinationV1().Leases("metallb-system").Delete(context.Background(), election.ResourceName, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestNothingIsUnderWayWhenTheLeaseIsGivenUp(t *testing.T) {
	plate := &doorplate{holder: "us"}
	l, frozen := plate.lease(), 0
	l.freeze = func() {
		if frozen++; plate.holder != "us" {
			t.Errorf("the Lease is held by %q already", plate.holder)
		}
	}
	for _, holder := range []string{"us", ""} {
		if err := l.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: holder}); err != nil {
			t.Fatal(err)
		}
	}
	if plate.holder != "" || frozen != 1 {
		t.Errorf("the Lease is held by %q, after %d waits for what is under way", plate.holder, frozen)
	}
}
