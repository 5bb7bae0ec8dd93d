package main

import (
	"k8s.io/component-base/metrics"

	"github.com/metallb/cloud-provider-metallb/internal/agent"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd"
)

// The metrics have MetalLB's names where it has them. The label peer is the router's address, as BFD knows no other.
var (
	sessionUp   = agent.Desc("metallb_bfd_session_up", "1 if the BFD session with the router is up.", "peer")
	ups         = agent.Desc("metallb_bfd_session_up_events", "How often the session came up.", "peer")
	downs       = agent.Desc("metallb_bfd_session_down_events", "How often the session went down.", "peer")
	input       = agent.Desc("metallb_bfd_control_packet_input", "How many packets of the router were taken.", "peer")
	output      = agent.Desc("metallb_bfd_control_packet_output", "How many packets were sent to the router.", "peer")
	detection   = agent.Desc("metallb_bfd_detection_seconds", "How long after the router's last packet the session goes down; 0: it has sent none.", "peer")
	dropped     = agent.Desc("metallb_bfd_dropped_packets_total", "How many packets were not taken, by why.", "why")
	everyMetric = []*metrics.Desc{sessionUp, ups, downs, input, output, detection, dropped}
)

// A collector looks at the sessions when somebody asks for metrics.
type collector struct {
	sessions func() []bfd.Status
	dropped  func() map[string]uint64
}

func (c *collector) metrics() metrics.StableCollector { return agent.Collector(everyMetric, c.look) }

func (c *collector) look(give agent.Give) {
	for _, s := range oneByRouter(c.sessions()) {
		peer := s.Router.String()
		give(sessionUp, metrics.GaugeValue, agent.OneIf(s.State == bfd.Up), peer)
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
