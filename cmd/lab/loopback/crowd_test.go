package loopback

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// A tap lets one program reach the API server, and counts the bytes that it is sent.
type tap struct {
	net.Listener
	bytes atomic.Int64
}

// tapped returns a tap and the kubeconfig of a user who goes through it.
func (l *Lab) tapped(b *testing.B, user string) (*tap, string) {
	text, err := os.ReadFile(l.KubeconfigOf(user))
	must(b, err)
	server := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(string(text))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	b.Cleanup(func() { listener.Close() })
	t := &tap{Listener: listener}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(upstream, client)
				upstream.Close()
			}()
			go func() {
				_, _ = io.Copy(client, io.TeeReader(upstream, t))
				client.Close()
			}()
		}
	}()
	name := filepath.Join(b.TempDir(), "kubeconfig")
	must(b, os.WriteFile(name, []byte(strings.ReplaceAll(string(text), server, listener.Addr().String())), 0o600))
	return t, name
}

func (t *tap) Write(p []byte) (int, error) {
	t.bytes.Add(int64(len(p)))
	return len(p), nil
}

// crowd adds Services with an address and a slice of so many endpoints, from the first to the last.
func (l *Lab) crowd(ctx context.Context, first, last, endpoints int) error {
	return parallel(last-first, 16, func(i int) error {
		i += first
		name := fmt.Sprintf("crowd/s%05d", i)
		// Without a selector, nobody else writes slices for it.
		if _, err := l.create(ctx, name, func(svc *corev1.Service) { svc.Spec.Selector = nil }); err != nil {
			return err
		}
		if _, err := l.change(ctx, name, fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"VIP"}]}}}`, crowdAddress(i)), "status"); err != nil {
			return err
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "crowd", Name: fmt.Sprintf("s%05d-abcde", i), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%05d", i), discoveryv1.LabelManagedBy: "lab.metallb.universe.tf"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		}
		for e := range endpoints {
			addr := netip.AddrFrom4([4]byte{10, byte(128 + e), byte(i >> 8), byte(i)})
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{addr.String()},
				Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
				NodeName:   new(fmt.Sprintf("node-%d", 1+e)),
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "crowd", Name: fmt.Sprintf("s%05d-5d4f8c7b9-%05d", i, e), UID: types.UID(fmt.Sprintf("6f1a3d5e-7b92-4c68-9d0e-%06x%06x", i, e))},
			})
		}
		_, err := l.API.DiscoveryV1().EndpointSlices("crowd").Create(ctx, slice, metav1.CreateOptions{})
		return err
	})
}

func crowdAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}) }

// A figure is what a program cost from one moment to another.
type figure struct {
	name  string
	start time.Duration // processor time until it had read everything
	read  int64         // bytes until then
	rss   int           // KiB, some time later
	each  time.Duration // processor time of one changed slice
	bytes int64         // of one changed slice
	load  float64       // of a processor meanwhile
}

// The speaker in clusters of some sizes, beside a reference that watches the same objects and does nothing else, at the same time.
// LAB_SIZES has the numbers of Services, and LAB_ENDPOINTS how many each has.
func BenchmarkASpeakerInACrowd(b *testing.B) {
	ctx := b.Context()
	program := filepath.Join(b.TempDir(), "lab")
	if out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput(); err != nil {
		b.Fatalf("build the reference: %v\n%s", err, out)
	}
	endpoints, err := strconv.Atoi(cmp.Or(os.Getenv("LAB_ENDPOINTS"), "3"))
	must(b, err)
	lab := start(b, Options{Nodes: 1})
	must(b, lab.addNamespaces(ctx, "crowd"))
	text := lab.Peers() + "address-pools: [{name: crowd, cidr: [172.16.0.0/16]}]\n"
	_, err = lab.API.CoreV1().ConfigMaps("metallb-system").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config-admitted"},
		Data:       map[string]string{"config": text, "hash": "0123456789abcdef", "admitted-at": "2026-01-01T00:00:00Z"},
	}, metav1.CreateOptions{})
	must(b, err)
	node := lab.Nodes[0].Name
	there := 0
	for size := range strings.SplitSeq(cmp.Or(os.Getenv("LAB_SIZES"), "0,1000,10000"), ",") {
		n, err := strconv.Atoi(size)
		must(b, err)
		b.Run(size, func(b *testing.B) {
			must(b, lab.crowd(ctx, there, n, endpoints))
			there = n
			ours, reference := &figure{name: "speaker"}, &figure{name: "watcher"}
			taps, processes := map[*figure]*tap{}, map[*figure]*kubernetes.Process{}
			var kubeconfig string

			taps[reference], kubeconfig = lab.tapped(b, speakerUser)
			p, err := kubernetes.Program{Name: "watcher", Binary: program, Args: []string{"watcher", kubeconfig, node}, Log: filepath.Join(b.TempDir(), "watcher.log")}.Start()
			must(b, err)
			processes[reference] = p
			must(b, p.Until(ctx, "read everything", func(context.Context) error {
				if !strings.Contains(p.Output(), "synced") {
					return fmt.Errorf("it has not")
				}
				return nil
			}))
			reference.start, err = processorTime(p)
			must(b, err)
			reference.read = taps[reference].bytes.Load()

			taps[ours], kubeconfig = lab.tapped(b, speakerUser)
			port, err := kubernetes.FreePort()
			must(b, err)
			p, err = lab.start("metallb-speaker", []string{"NODE_NAME=" + node}, "--kubeconfig="+kubeconfig, "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(port))
			must(b, err)
			processes[ours] = p
			soon, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			must(b, lab.Router.Wait(soon, "every route", func(paths []router.Path) bool { return len(paths) >= n }))
			must(b, lab.SessionsUp(ctx))
			ours.start, err = processorTime(p)
			must(b, err)
			ours.read = taps[ours].bytes.Load()

			const changes, pause = 1000, 20 * time.Millisecond
			time.Sleep(5 * time.Second) // garbage of the start is collected
			before := map[*figure]figure{}
			for f, p := range processes {
				used, err := processorTime(p)
				must(b, err)
				before[f] = figure{start: used, read: taps[f].bytes.Load()}
			}
			began := time.Now()
			if n > 0 {
				ticks := time.NewTicker(pause)
				defer ticks.Stop()
				for i := range changes {
					<-ticks.C
					_, err := lab.API.DiscoveryV1().EndpointSlices("crowd").Patch(ctx, fmt.Sprintf("s%05d-abcde", i*7919%n), types.JSONPatchType,
						fmt.Appendf(nil, `[{"op":"replace","path":"/endpoints/1/conditions/ready","value":%t}]`, i*7919/n%2 == 1), metav1.PatchOptions{})
					must(b, err)
				}
			} else {
				time.Sleep(changes * pause)
			}
			time.Sleep(time.Second)
			took := time.Since(began)
			for f, p := range processes {
				used, err := processorTime(p)
				must(b, err)
				f.each = (used - before[f].start) / changes
				f.bytes = (taps[f].bytes.Load() - before[f].read) / changes
				f.load = (used - before[f].start).Seconds() / took.Seconds()
				f.rss, err = residentMemory(p)
				must(b, err)
			}
			for _, f := range []*figure{reference, ours} {
				b.Logf("%6d Services × %d: %s: start %v of CPU, %.2f MB read; %d MB resident; a changed slice %v of CPU and %d bytes; %.1f %% of a core at %.0f a second",
					n, endpoints, f.name, f.start, float64(f.read)/1e6, f.rss>>10, f.each, f.bytes, 100*f.load, changes/took.Seconds())
			}
			b.ReportMetric(float64(ours.rss)/1024, "MB")
			b.ReportMetric(float64(ours.rss)/float64(reference.rss), "times-its-memory")
			b.ReportMetric(float64(ours.each)/1e6, "ms/change")
			if reference.each > 0 {
				b.ReportMetric(float64(ours.each)/float64(reference.each), "times-its-CPU")
			}
			must(b, processes[reference].Stop(patience))
			must(b, p.Stop(patience))
		})
	}
}
