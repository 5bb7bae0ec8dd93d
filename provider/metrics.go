package provider

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// The metrics have MetalLB's names where it has them, so that dashboards and alerts go on working.
var (
	updates = metrics.NewCounter(&metrics.CounterOpts{
		Name: "metallb_k8s_client_updates_total",
		Help: "How many changes of Services and configurations were looked at.",
	})
	updateErrors = metrics.NewCounter(&metrics.CounterOpts{
		Name: "metallb_k8s_client_update_errors_total",
		Help: "How many of these could not be dealt with, and were tried again.",
	})
	eventsDropped = metrics.NewCounter(&metrics.CounterOpts{
		Name: "metallb_controller_events_dropped_total",
		Help: "How many events the API server did not take for five minutes.",
	})
	assignment = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:    "metallb_allocator_assignment_seconds",
		Help:    "From when the controller manager saw a Service without an address until the Service's status showed one.",
		Buckets: metrics.ExponentialBuckets(0.01, 2, 16), // 10 ms to 5 minutes
	})
)

func gauge(name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc(name, help, labels, nil, metrics.ALPHA, "")
}

var (
	addressesTotal = gauge("metallb_allocator_addresses_total", "How many addresses the pool may hand out.", "pool")
	addressesInUse = gauge("metallb_allocator_addresses_in_use_total", "How many addresses of the pool are in use. One that Services share counts once.", "pool")
	byFamily       = map[loadbalancer.Family][]*metrics.Desc{
		loadbalancer.IPv4: {
			gauge("metallb_allocator_ipv4_addresses_total", "How many IPv4 addresses the pool may hand out.", "pool"),
			gauge("metallb_allocator_ipv4_addresses_in_use_total", "How many IPv4 addresses of the pool are in use.", "pool"),
		},
		loadbalancer.IPv6: {
			gauge("metallb_allocator_ipv6_addresses_total", "How many IPv6 addresses the pool may hand out.", "pool"),
			gauge("metallb_allocator_ipv6_addresses_in_use_total", "How many IPv6 addresses of the pool are in use.", "pool"),
		},
	}
	assigned           = gauge("metallb_allocator_assigned", "1 for each address that a Service holds. Without a pool, no pool owns it.", "service", "pool", "ip")
	namespaceAddresses = gauge("metallb_allocator_namespace_addresses", "How many addresses of the pool the namespace holds. One that its Services share counts once.", "pool", "namespace")
	namespaceQuota     = gauge("metallb_allocator_namespace_quota", "How many addresses of the pool the namespace may hold. Without a quota, there is none.", "pool", "namespace")
	servicesPending    = gauge("metallb_allocator_services_pending", "How many Services do not have what they ask for.")
	configLoaded       = gauge("metallb_k8s_client_config_loaded_bool", "1 if a configuration is in force.")
	configStale        = gauge("metallb_k8s_client_config_stale_bool", "1 if the configuration in force is not what the operator wrote last.")
)

// register offers the Cloud's metrics where the framework serves its own.
func (c *Cloud) register() {
	legacyregistry.MustRegister(updates, updateErrors, eventsDropped, assignment)
	legacyregistry.CustomMustRegister(&collector{cloud: c})
}

// A collector looks at the Cloud when somebody asks for metrics. A standby has none to give.
type collector struct {
	metrics.BaseStableCollector
	cloud *Cloud
}

func (k *collector) DescribeWithStability(to chan<- *metrics.Desc) {
	all := []*metrics.Desc{addressesTotal, addressesInUse, assigned, namespaceAddresses, namespaceQuota, servicesPending, configLoaded, configStale}
	for _, d := range slices.Concat(all, byFamily[loadbalancer.IPv4], byFamily[loadbalancer.IPv6]) {
		to <- d
	}
}

func (k *collector) CollectWithStability(to chan<- metrics.Metric) {
	f, leads := k.cloud.figures()
	if !leads {
		return
	}
	give := func(d *metrics.Desc, value float64, labels ...string) {
		to <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, value, labels...)
	}
	total, inUse := map[string]float64{}, map[string]float64{}
	for _, u := range f.usage {
		total[u.Pool] += u.Total
		inUse[u.Pool] += float64(u.InUse)
		give(byFamily[u.Family][0], u.Total, u.Pool)
		give(byFamily[u.Family][1], float64(u.InUse), u.Pool)
	}
	for pool := range total {
		give(addressesTotal, total[pool], pool)
		give(addressesInUse, inUse[pool], pool)
	}
	for _, h := range f.assigned {
		pool := ""
		if owner := f.pools.Pool(h.Addr); owner != nil {
			pool = owner.Name
		}
		give(assigned, 1, h.Service, pool, h.Addr.String())
	}
	for _, n := range f.namespaces {
		give(namespaceAddresses, float64(n.Addresses), n.Pool, n.Namespace)
		if n.Quota > 0 {
			give(namespaceQuota, float64(n.Quota), n.Pool, n.Namespace)
		}
	}
	give(servicesPending, float64(f.pending))
	give(configLoaded, oneIf(f.config.loaded))
	give(configStale, oneIf(f.config.stale))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// A configState is what metrics say about the configuration.
type configState struct{ loaded, stale bool }

// figures are what the metrics show of a leader.
type figures struct {
	usage      []loadbalancer.Usage
	namespaces []loadbalancer.NamespaceUsage
	assigned   []loadbalancer.Holding
	pools      *loadbalancer.Config
	pending    int
	config     configState
}

// figures returns false for a standby. What takes longer than a copy is done after the lock.
func (c *Cloud) figures() (f figures, leads bool) {
	c.mu.Lock()
	if !c.ready || c.frozen {
		c.mu.Unlock()
		return figures{}, false
	}
	a := c.ledger.allocator
	f = figures{usage: a.Usage(), namespaces: a.Namespaces(), assigned: a.InUse(), pools: a.Config(), pending: a.Pending(), config: c.config}
	c.mu.Unlock()
	// A Service that was deleted and made again is two for a moment, and one metric given twice would fail the scrape.
	slices.SortFunc(f.assigned, func(x, y loadbalancer.Holding) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Service, y.Service))
	})
	f.assigned = slices.Compact(f.assigned)
	return f, true
}

// watches know since when reading from the API server fails.
type watches struct {
	mu           sync.Mutex
	since, until time.Time
}

const (
	// A reflector that fails tries again within a minute. After twice that without a failure, it is well.
	watchIsWell = 2 * time.Minute
	// watchIsLost is how long failures may go on until the process is better started again.
	watchIsLost = 5 * time.Minute
)

// failed takes note of a failure to read.
func (w *watches) failed(error) { w.fail(time.Now()) }

func (w *watches) fail(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.until) > watchIsWell {
		w.since = now
	}
	w.until = now
}

// check returns an error if reading has failed for long, and still does.
func (w *watches) check(now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.until) <= watchIsWell && w.until.Sub(w.since) > watchIsLost {
		return fmt.Errorf("reading from the API server has failed since %s", w.since.UTC().Format(time.RFC3339))
	}
	return nil
}
