package main

import (
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/metallb/cloud-provider-metallb/speaker/bfd"
)

func desc(name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc(name, help, labels, nil, metrics.ALPHA, "")
}

// The metrics have MetalLB's names where it has them. The label peer is the router's address, as BFD knows no other.
var (
	sessionUp   = desc("metallb_bfd_session_up", "1 if the BFD session with the router is up.", "peer")
	ups         = desc("metallb_bfd_session_up_events", "How often the session came up.", "peer")
	downs       = desc("metallb_bfd_session_down_events", "How often the session went down.", "peer")
	input       = desc("metallb_bfd_control_packet_input", "How many packets of the router were taken.", "peer")
	output      = desc("metallb_bfd_control_packet_output", "How many packets were sent to the router.", "peer")
	detection   = desc("metallb_bfd_detection_seconds", "How long after the router's last packet the session goes down; 0: it has sent none.", "peer")
	dropped     = desc("metallb_bfd_dropped_packets_total", "How many packets were not taken, by why.", "why")
	everyMetric = []*metrics.Desc{sessionUp, ups, downs, input, output, detection, dropped}
)

// A collector looks at the sessions when somebody asks for metrics.
type collector struct {
	metrics.BaseStableCollector
	sessions func() []bfd.Status
	dropped  func() map[string]uint64
}

func (c *collector) register() { legacyregistry.CustomMustRegister(c) }

func (c *collector) DescribeWithStability(to chan<- *metrics.Desc) {
	for _, d := range everyMetric {
		to <- d
	}
}

func (c *collector) CollectWithStability(to chan<- metrics.Metric) {
	give := func(d *metrics.Desc, kind metrics.ValueType, value float64, label string) {
		to <- metrics.NewLazyConstMetric(d, kind, value, label)
	}
	for _, s := range oneByRouter(c.sessions()) {
		peer, up := s.Router.String(), 0.0
		if s.State == bfd.Up {
			up = 1
		}
		give(sessionUp, metrics.GaugeValue, up, peer)
		give(ups, metrics.CounterValue, float64(s.Ups), peer)
		give(downs, metrics.CounterValue, float64(s.Downs), peer)
		give(input, metrics.CounterValue, float64(s.In), peer)
		give(output, metrics.CounterValue, float64(s.Out), peer)
		give(detection, metrics.GaugeValue, s.Detection.Seconds(), peer)
	}
	for why, n := range c.dropped() {
		give(dropped, metrics.CounterValue, float64(n), why)
	}
}

// oneByRouter makes one of the sessions with one router, as there are from several addresses of the node: it is up if all are.
func oneByRouter(sessions []bfd.Status) (all []bfd.Status) {
	for _, s := range sessions {
		i := 0
		for i < len(all) && all[i].Router != s.Router {
			i++
		}
		if i == len(all) {
			all = append(all, s)
			continue
		}
		a := &all[i]
		if s.State != bfd.Up {
			a.State = s.State
		}
		a.Ups, a.Downs, a.In, a.Out = a.Ups+s.Ups, a.Downs+s.Downs, a.In+s.In, a.Out+s.Out
		a.Detection = max(a.Detection, s.Detection)
	}
	return all
}
