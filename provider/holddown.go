package provider

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

const (
	keyHeldDown = "addresses"
	// writeHeldDownEvery is the least time between two writes of what is held down.
	writeHeldDownEvery = time.Second
	// mostOfHeldDown is how long the text may be: it must fit into a ConfigMap.
	mostOfHeldDown = 800 << 10
)

// holdDowns keeps in a ConfigMap which addresses are held down, for the next leader.
type holdDowns struct {
	cloud  *Cloud
	client kubernetes.Interface

	mu    sync.Mutex
	wrote string // what the ConfigMap says
}

func (h *holdDowns) name() string { return h.cloud.options.ConfigName + "-held-down" }

// recall returns what the last leader wrote. A line that nobody can read is left out.
func (h *holdDowns) recall(ctx context.Context) ([]loadbalancer.HeldDown, error) {
	stored, err := h.client.CoreV1().ConfigMaps(h.cloud.options.Namespace).Get(ctx, h.name(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get configmap %s: %w", h.name(), err)
	}
	h.wrote = stored.Data[keyHeldDown]
	return readHeldDown(h.wrote), nil
}

func readHeldDown(text string) (all []loadbalancer.HeldDown) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue
		}
		addr, err1 := netip.ParseAddr(words[0])
		until, err2 := time.Parse(time.RFC3339Nano, words[2])
		if err1 == nil && err2 == nil {
			all = append(all, loadbalancer.HeldDown{Addr: addr, Service: words[1], Until: time.Duration(until.UnixNano())})
		}
	}
	return all
}

// writeHeldDown writes a line for each. Of very many, those that end last.
func writeHeldDown(all []loadbalancer.HeldDown) string {
	var lines []string
	size := 0
	for i := len(all) - 1; i >= 0; i-- {
		line := fmt.Sprintf("%s %s %s\n", all[i].Addr, all[i].Service, time.Unix(0, int64(all[i].Until)).UTC().Format(time.RFC3339Nano))
		if size += len(line); size > mostOfHeldDown {
			break
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// run writes what is held down whenever that changes, at most once a second.
func (h *holdDowns) run(ctx context.Context) {
	pause := time.NewTicker(writeHeldDownEvery)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		h.flush(ctx)
	}
}

// flush writes what is held down if the ConfigMap says something else.
func (h *holdDowns) flush(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cloud.mu.Lock()
	text := writeHeldDown(h.cloud.ledger.allocator.HeldDown())
	h.cloud.mu.Unlock()
	if text == h.wrote {
		return
	}
	if err := h.write(ctx, text); err != nil && ctx.Err() == nil {
		updateErrors.Inc()
		klog.ErrorS(err, "Cannot write which addresses are held down", "configmap", klog.KRef(h.cloud.options.Namespace, h.name()))
	}
}

func (h *holdDowns) write(ctx context.Context, text string) error {
	if err := h.cloud.confirm(ctx); err != nil {
		return err
	}
	configMaps := h.client.CoreV1().ConfigMaps(h.cloud.options.Namespace)
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: h.cloud.options.Namespace, Name: h.name()}, Data: map[string]string{keyHeldDown: text}}
	_, err := configMaps.Update(ctx, want, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, want, metav1.CreateOptions{})
	}
	if err == nil {
		h.wrote = text
	}
	return err
}

// clock is the time as the allocator counts it.
func (c *Cloud) clock() time.Duration { return time.Duration(c.now().UnixNano()) }

// alarm looks again when the next address ends to be held down. It is called with the mutex held.
func (c *Cloud) alarm() {
	next := c.ledger.allocator.NextEnd()
	if next == c.ends {
		return
	}
	if c.ends = next; c.timer != nil {
		c.timer.Stop()
	}
	if next > 0 {
		c.timer = time.AfterFunc(next-c.clock(), func() { c.change(func() { c.ends = 0 }) })
	}
}
