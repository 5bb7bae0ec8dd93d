package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	componentbaseconfig "k8s.io/component-base/config"
)

// fenceTime is how old the last look at the Lease may be when a new address is given away, and how long a write of a status
// may take. Together they are half of the lease at most, so that a process that was frozen meanwhile has written before
// another can lead.
func fenceTime(lease time.Duration) time.Duration { return lease / 4 }

// lookAtLeast is how old the last look may be however long the Lease is.
const lookAtLeast = 3 * time.Second

// A lease is the lock of the leader election, which remembers when the API server last confirmed that it is ours.
type lease struct {
	resourcelock.Interface
	// look asks the API server who holds the Lease. The lock's own Get will not do: it remembers the version that it saw, and
	// with that of another holder, our next renewal would take the Lease from them.
	look func(context.Context) (holder string, err error)
	// freeze returns when nothing is under way any more that only a leader may do. It is called before the Lease is given up,
	// which the elector does by itself when it cannot renew it.
	freeze func()
	// lookAgain is how old the last look may be.
	lookAgain time.Duration
	// renewAgain is how old the last renewal is before the next.
	renewAgain time.Duration
	renewed    time.Time // belongs to the elector

	mu        sync.Mutex
	confirmed time.Time // with the monotonic clock's reading
	calendar  time.Time // the same moment without it
}

// looksPerRenewal is how often candidates look while the leader renews the Lease once. The elector has one period for both,
// and lets candidates pause for up to 2.2 times as long: they would see twice that late that nobody leads.
const looksPerRenewal = 3

// Update renews the Lease, takes it, or gives it up.
func (l *lease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	asked := time.Now()
	if record.HolderIdentity != l.Identity() {
		if l.freeze != nil {
			l.freeze()
		}
		l.note(time.Time{}) // from now on somebody else may hold it, whether or not we get an answer
	} else if asked.Sub(l.renewed) < l.renewAgain {
		return nil
	}
	err := l.Interface.Update(ctx, record)
	if err == nil && record.HolderIdentity == l.Identity() {
		l.renewed = asked
		l.note(asked)
	}
	return err
}

// Create takes the Lease for the first time.
func (l *lease) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	asked := time.Now()
	err := l.Interface.Create(ctx, record)
	if err == nil && record.HolderIdentity == l.Identity() {
		l.note(asked)
	}
	return err
}

// elector returns who calls lead once the Lease is ours.
func (l *lease) elector(election componentbaseconfig.LeaderElectionConfiguration, lead func(context.Context)) (*leaderelection.LeaderElector, error) {
	period := election.RetryPeriod.Duration / looksPerRenewal
	l.renewAgain = election.RetryPeriod.Duration - period/2
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            l,
		LeaseDuration:   election.LeaseDuration.Duration,
		RenewDeadline:   election.RenewDeadline.Duration,
		RetryPeriod:     period,
		ReleaseOnCancel: true,
		Name:            election.ResourceName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: lead,
			OnStoppedLeading: func() {},
		},
	})
}

// errLost says that another process is the leader now.
var errLost = errors.New("the lease belongs to another controller manager")

// errNotRenewed says that another process may lead by now.
var errNotRenewed = errors.New("the lease could not be renewed in time")

// Confirm returns nil if the Lease is ours, as seen no longer than a few seconds ago. It asks the API server if need be.
func (l *lease) Confirm(ctx context.Context) error {
	l.mu.Lock()
	age, wall := time.Since(l.confirmed), time.Now().Round(0).Sub(l.calendar)
	l.mu.Unlock()
	// The monotonic clock stands still while the machine is suspended, and the wall clock can be set: believe the worse.
	if age < l.lookAgain && wall < l.lookAgain && wall > -l.lookAgain {
		return nil
	}
	asked := time.Now()
	holder, err := l.look(ctx)
	if err != nil {
		return fmt.Errorf("ask who holds the lease: %w", err)
	}
	if holder != l.Identity() {
		return errLost
	}
	l.note(asked)
	return nil
}

// note takes note of when the Lease was ours.
func (l *lease) note(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.confirmed, l.calendar = at, at.Round(0)
}

// A fence lets requests through until it is closed. Closing it waits for those that are under way: after that, nothing
// that this process decided can reach the API server, and another may lead.
type fence struct {
	next   http.RoundTripper
	mu     sync.RWMutex
	closed bool
}

var errFenced = errors.New("this controller manager is stopping")

// RoundTrip sends the request unless the fence is closed.
func (f *fence) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return nil, errFenced
	}
	return f.next.RoundTrip(r)
}

// Close returns once no request is under way any more, and lets none through from then on.
func (f *fence) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}
