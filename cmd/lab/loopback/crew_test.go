package loopback

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// A crew is the replicas of the controller manager, to which things happen.
type crew struct {
	t       *testing.T
	lab     *Lab
	random  *rand.Rand
	members []*kubernetes.Process

	mu      sync.Mutex
	thawing sync.WaitGroup
	frozen  map[*kubernetes.Process]bool
	woken   []time.Time // ends of those freezes that may have outlived the Lease
	freezes int
}

// newCrew starts two.
func newCrew(t *testing.T, lab *Lab, random *rand.Rand) *crew {
	t.Helper()
	c := &crew{t: t, lab: lab, random: random, frozen: map[*kubernetes.Process]bool{}}
	t.Cleanup(c.thawing.Wait) // else the lab would wait for one that is asleep
	c.fill(2)
	return c
}

// fill replaces those that ended. A leader that was frozen for too long ends by itself, as it should; one that crashes must not.
func (c *crew) fill(n int) {
	c.t.Helper()
	c.members = slices.DeleteFunc(c.members, func(p *kubernetes.Process) bool {
		select {
		case <-p.Done():
		default:
			return false
		}
		if strings.Contains(p.Output(), "panic: ") {
			c.t.Fatalf("%s crashed:\n%s", p.Name, p.Output())
		}
		return true
	})
	for len(c.members) < n {
		p, err := c.lab.StartController(c.t.Context(), quickElection...)
		must(c.t, err)
		// A signal without effect says that this process may end at any time.
		must(c.t, p.Signal(syscall.SIGCONT))
		c.members = append(c.members, p)
	}
}

// dismiss counts on a replica no longer, which was told to end and may take a moment.
func (c *crew) dismiss(p *kubernetes.Process) {
	c.members = slices.DeleteFunc(c.members, func(member *kubernetes.Process) bool { return member == p })
}

// one is a replica that runs, or at least did a moment ago; nil if there is none.
func (c *crew) one() *kubernetes.Process {
	if len(c.members) == 0 {
		return nil
	}
	return c.members[c.random.IntN(len(c.members))]
}

// freeze stops one replica in a moment, and lets it go on after a while: mostly soon, sometimes when its Lease is long over. It
// does not wait for either.
func (c *crew) freeze() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	awake := slices.DeleteFunc(slices.Clone(c.members), func(p *kubernetes.Process) bool { return c.frozen[p] })
	if len(awake) == 0 {
		return "nobody to freeze"
	}
	c.freezes++
	p := awake[c.random.IntN(len(awake))]
	long := c.freezes%20 == 10
	if leading := slices.IndexFunc(awake, leads); long && leading >= 0 {
		p = awake[leading] // nothing is lost by a standby that sleeps
	}
	c.frozen[p] = true
	const lease = 3 * time.Second // as quickElection has it
	wait, length := time.Duration(c.random.IntN(40))*time.Millisecond, time.Duration(5+c.random.IntN(250))*time.Millisecond
	if long {
		length = lease + time.Duration(1000+c.random.IntN(2000))*time.Millisecond
	}
	c.thawing.Add(1)
	time.AfterFunc(wait, func() {
		_ = p.Signal(syscall.SIGSTOP) // it may have ended
		time.AfterFunc(length, func() {
			c.mu.Lock()
			if length > lease/2 { // the last renewal was some time ago
				c.woken = append(c.woken, time.Now())
			}
			delete(c.frozen, p)
			c.mu.Unlock()
			_ = p.Signal(syscall.SIGCONT)
			c.thawing.Done()
		})
	})
	return fmt.Sprintf("freeze %s for %s", p.Name, length)
}

// leads tells whether a replica that runs has become the leader: it is one until it ends.
func leads(p *kubernetes.Process) bool {
	return strings.Contains(p.Output(), "Adopted the cluster's addresses")
}

// stale tells whether something that was seen at this time may have been written by a leader that just awoke: what it had begun to
// send cannot be fenced off, and the new leader mends it.
func (c *crew) stale(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.woken, func(woken time.Time) bool { return at.After(woken) && at.Sub(woken) < time.Second })
}

// follow calls note with every state of every Service from now on, in order, until the test ends.
func follow(t *testing.T, lab *Lab, note func(*corev1.Service)) {
	t.Helper()
	services := lab.API.CoreV1().Services(metav1.NamespaceAll)
	list, err := services.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for i := range list.Items {
		note(&list.Items[i])
	}
	w, err := watchtools.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return services.Watch(ctx, o)
		},
	})
	must(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { w.Stop(); wg.Wait() })
	wg.Go(func() {
		for event := range w.ResultChan() {
			if svc, ok := event.Object.(*corev1.Service); ok {
				note(svc)
			}
		}
	})
}
