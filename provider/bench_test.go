package provider

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"

	"github.com/metallb/cloud-provider-metallb/service"
)

const many = 10_000

// settledCluster is a ledger with many settled Services.
func settledCluster(b *testing.B) (*ledger, []*corev1.Service) {
	b.Helper()
	services := unsettled(b)
	l := newLedger()
	l.configure(pools(b, "big 10.0.0.0/16"), nil)
	l.adopt(services, nil, time.Now())
	for _, svc := range services {
		d := l.answer(svc)
		svc.Status.LoadBalancer = *service.Status(d.Addrs)
		l.see(svc, time.Time{})
	}
	return l, services
}

func unsettled(b *testing.B) (services []*corev1.Service) {
	for i := range many {
		services = append(services, aService(b, fmt.Sprintf("shop/web-%d age=%d version=%d", i, i%100, i+1)))
	}
	return services
}

func BenchmarkAnswerOfASettledService(b *testing.B) {
	l, services := settledCluster(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if d := l.answer(services[i%many]); d.news || !d.Why.None() {
			b.Fatal(d)
		}
		i++
	}
}

func BenchmarkSeeASettledService(b *testing.B) {
	l, services := settledCluster(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if l.see(services[i%many], time.Time{}).again {
			b.Fatal("it is not settled")
		}
		i++
	}
}

// An operation is the start of a controller manager beside 10,000 Services.
func BenchmarkAdopt(b *testing.B) {
	_, services := settledCluster(b)
	config := pools(b, "big 10.0.0.0/16")
	b.ReportAllocs()
	for b.Loop() {
		l := newLedger()
		l.configure(config, nil)
		if l.adopt(slices.Clone(services), nil, time.Now()) != nil || l.allocator.Pending() > 0 {
			b.Fatal("the cluster is not as it was")
		}
	}
}

// An operation is one address that becomes free while 10,000 Services wait.
func BenchmarkServeWhoWaits(b *testing.B) {
	l := newLedger()
	l.configure(pools(b, "small 10.0.0.0/30"), nil)
	for _, svc := range unsettled(b) {
		l.answer(svc)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.serve()
	}
}

// leader is a Cloud that leads beside 10,000 Services.
func leader(b *testing.B) *Cloud {
	c := New(Options{})
	c.ledger, _ = settledCluster(b)
	c.ready = true
	return c
}

// An operation is what nobody else can decide anything during.
func BenchmarkFigures(b *testing.B) {
	c := leader(b)
	b.ReportAllocs()
	for b.Loop() {
		if f, _ := c.figures(); len(f.assigned) != many {
			b.Fatal(len(f.assigned))
		}
	}
}

// An operation is everything that a scrape costs but writing it down.
func BenchmarkMetrics(b *testing.B) {
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&collector{cloud: leader(b)})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
