package loopback

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// A burst is how long so many Services took to get an address, all together and each, and what it cost who gave it to them.
type burst struct {
	took     time.Duration
	waits    []time.Duration // of each, in order
	each     time.Duration   // processor time
	resident int             // KiB
}

func (b burst) String() string {
	return fmt.Sprintf("%.2f s, p50 %v, p99 %v, %v of CPU each, %d MB", b.took.Seconds(), b.waits[len(b.waits)/2], b.waits[len(b.waits)*99/100], b.each, b.resident>>10)
}

// burst creates Services by sixteen writers and waits until all have an address from a process.
func (l *Lab) burst(ctx context.Context, services int, by *kubernetes.Process) (b burst, err error) {
	// Statuses are seen as anybody sees them who watches.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	w, err := l.API.CoreV1().Services("burst").Watch(watching, metav1.ListOptions{})
	if err != nil {
		return burst{}, err
	}
	before, err := processorTime(by)
	if err != nil {
		return burst{}, err
	}
	began := time.Now()
	created := make(chan error, 1)
	go func() {
		created <- parallel(services, 16, func(i int) error {
			_, err := l.create(ctx, fmt.Sprintf("burst/s%04d", i))
			return err
		})
	}()
	seen := map[string]time.Time{}
	for len(b.waits) < services {
		select {
		case <-ctx.Done():
			return burst{}, fmt.Errorf("%d of %d have an address: %w", len(b.waits), services, ctx.Err())
		case event, ok := <-w.ResultChan():
			svc, isService := event.Object.(*corev1.Service)
			if !ok || !isService {
				return burst{}, fmt.Errorf("the watch ended: %v", event)
			}
			since, again := seen[svc.Name]
			switch {
			case !again:
				seen[svc.Name] = time.Now()
			case !since.IsZero() && len(svc.Status.LoadBalancer.Ingress) > 0:
				b.waits = append(b.waits, time.Since(since))
				seen[svc.Name] = time.Time{}
			}
		}
	}
	b.took = time.Since(began)
	slices.Sort(b.waits)
	if err := <-created; err != nil {
		return burst{}, err
	}
	after, err := processorTime(by)
	if err != nil {
		return burst{}, err
	}
	b.each = (after - before) / time.Duration(services)
	b.resident, err = residentMemory(by)
	return b, err
}

// processorTime returns what a process has used so far, in steps of 10 ms.
func processorTime(p *kubernetes.Process) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

func residentMemory(p *kubernetes.Process) (kib int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", p.PID())
}

// A burst of Services is compared with the floor, which patches each status once and does nothing else, in turns.
func BenchmarkABurstOfServices(b *testing.B) {
	const services = 1000
	ctx := b.Context()
	program := filepath.Join(b.TempDir(), "lab")
	if out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput(); err != nil {
		b.Fatalf("build the reference: %v\n%s", err, out)
	}
	lab := start(b, Options{Nodes: 1})
	must(b, lab.addNamespaces(ctx, "burst"))
	for range b.N {
		var bursts [2]burst
		for i, begin := range []func() (*kubernetes.Process, error){
			func() (*kubernetes.Process, error) {
				return kubernetes.Program{Name: "floor", Binary: program, Args: []string{"floor", lab.KubeconfigOf(controllerUser)}, Log: filepath.Join(lab.Dir, "floor.log")}.Start()
			},
			func() (*kubernetes.Process, error) {
				p, err := lab.StartController(ctx)
				if err == nil {
					err = lab.write(ctx, "address-pools:\n"+probePool+"- {name: big, cidr: [10.0.0.0/16]}\n")
				}
				if err == nil {
					err = lab.probe(ctx)
				}
				return p, err
			},
		} {
			p, err := begin()
			must(b, err)
			bursts[i], err = lab.burst(ctx, services, p)
			must(b, err)
			if i == 0 {
				must(b, p.Stop(patience))
				must(b, lab.clear(ctx, "burst"))
			} else {
				must(b, lab.clear(ctx, "burst")) // which takes off our finalizers
				must(b, p.Stop(patience))
			}
		}
		floor, ours := bursts[0], bursts[1]
		b.Logf("%d Services\nfloor: %v\nours:  %v", services, floor, ours)
		b.ReportMetric(ours.took.Seconds()/floor.took.Seconds(), "times-the-floor")
		b.ReportMetric(float64(ours.each)/float64(floor.each), "times-its-CPU")
	}
}

// How long nobody gives out addresses after the leader was killed, by the flags' defaults, beside a warm standby.
func BenchmarkTakeoverAfterAKill(b *testing.B) {
	ctx := b.Context()
	lab := start(b, Options{Nodes: 1})
	leader, err := lab.StartController(ctx)
	must(b, err)
	must(b, lab.write(ctx, "address-pools:\n"+probePool))
	must(b, lab.probe(ctx))
	var all []time.Duration
	for range b.N {
		standby, err := lab.StartController(ctx)
		must(b, err)
		time.Sleep(3 * time.Second) // which fills its caches and looks at the Lease
		began := time.Now()
		leader.Kill()
		must(b, lab.probe(ctx))
		all = append(all, time.Since(began))
		leader = standby
	}
	slices.Sort(all)
	b.Logf("a Service was served after %v", all)
	b.ReportMetric(all[len(all)/2].Seconds(), "s-median")
	b.ReportMetric(all[len(all)-1].Seconds(), "s-longest")
}

// How often a leader loses its Lease, by the flags' defaults, while both cores have other work.
func BenchmarkALeaderUnderLoad(b *testing.B) {
	ctx := b.Context()
	lab := start(b, Options{Nodes: 1})
	_, err := lab.StartController(ctx)
	must(b, err)
	must(b, lab.write(ctx, "address-pools:\n"+probePool))
	must(b, lab.probe(ctx))
	before, changes, err := lab.leads(ctx)
	must(b, err)
	for range 4 {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		must(b, busy.Start())
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	}
	began := time.Now()
	for range b.N { // a minute each
		time.Sleep(time.Minute)
	}
	after, more, err := lab.leads(ctx)
	must(b, err)
	b.Logf("in %v the Lease changed hands %d times, from %s to %s", time.Since(began), more-changes, before, after)
	b.ReportMetric(float64(more-changes), "losses")
}
