package agent

import "k8s.io/component-base/metrics"

// Desc describes a metric that a collector gives.
func Desc(name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc(name, help, labels, nil, metrics.ALPHA, "")
}

// Give gives the value of one metric, with its labels.
type Give func(d *metrics.Desc, kind metrics.ValueType, value float64, labels ...string)

// Collector returns what gives these metrics: it looks when somebody asks for them.
func Collector(all []*metrics.Desc, look func(Give)) metrics.StableCollector {
	return &collector{all: all, look: look}
}

type collector struct {
	metrics.BaseStableCollector
	all  []*metrics.Desc
	look func(Give)
}

func (c *collector) DescribeWithStability(to chan<- *metrics.Desc) {
	for _, d := range c.all {
		to <- d
	}
}

func (c *collector) CollectWithStability(to chan<- metrics.Metric) {
	c.look(func(d *metrics.Desc, kind metrics.ValueType, value float64, labels ...string) {
		to <- metrics.NewLazyConstMetric(d, kind, value, labels...)
	})
}

// OneIf is the value of a metric that says yes or no.
func OneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
