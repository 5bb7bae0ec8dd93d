package main

import (
	"net/netip"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/metallb/cloud-provider-metallb/internal/agent"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
)

// The metrics have MetalLB's names where it has them, so that dashboards and alerts go on working. So has the label peer,
// which is the router's address and port.
var (
	sessionUp      = agent.Desc("metallb_bgp_session_up", "1 if the session is up; 0 also if there can be none. Where peer-address is a gateway, peer is its name, and there is a series for each address.", "peer", "address")
	sessionAS      = agent.Desc("metallb_bgp_session_asn", "The router's AS number; 0 as long as it was not learned.", "peer")
	updatesTotal   = agent.Desc("metallb_bgp_updates_total", "How many UPDATE messages were sent to the router.", "peer")
	prefixes       = agent.Desc("metallb_bgp_announced_prefixes_total", "How many prefixes the router is told of now.", "peer")
	droppedTotal   = agent.Desc("metallb_bgp_dropped_updates_total", "How many UPDATE messages of the router were dropped unread, as all are.", "peer")
	failuresTotal  = agent.Desc("metallb_bgp_failed_attempts_total", "How many attempts did not bring the session up.", "peer")
	announcedBool  = agent.Desc("metallb_speaker_announced", "1 for each address of a Service that this node has told some router of, in a session that is up.", "service", "node", "ip")
	responderUp    = agent.Desc("metallb_speaker_bfd_responder_up", "1 if a BFD responder runs on this node; only where a peer has a bfd-profile.")
	nodeDrained    = agent.Desc("metallb_speaker_node_drained", "1 while the node is being drained on purpose.", "node")
	changesTotal   = agent.Desc("metallb_k8s_client_updates_total", "How many changes of Services, endpoints, the node and the configuration were seen.")
	errorsTotal    = agent.Desc("metallb_k8s_client_update_errors_total", "How many times a configuration could not be read, or a peer not be spoken to.")
	configLoaded   = agent.Desc("metallb_k8s_client_config_loaded_bool", "1 if a configuration is in force.")
	configStale    = agent.Desc("metallb_k8s_client_config_stale_bool", "1 if the configuration in force is not the admitted one.")
	everySingleOne = []*metrics.Desc{sessionUp, sessionAS, updatesTotal, prefixes, droppedTotal, failuresTotal, announcedBool, responderUp, nodeDrained,
		changesTotal, errorsTotal, configLoaded, configStale}
)

var updateSeconds = metrics.NewHistogram(&metrics.HistogramOpts{
	Name:           "metallb_speaker_update_seconds",
	Help:           "From when a change of a Service or its endpoints was seen until the UPDATE messages that it led to were written to a router.",
	Buckets:        []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
	StabilityLevel: metrics.ALPHA,
})

func written(_ string, since time.Time) { updateSeconds.Observe(time.Since(since).Seconds()) }

// A collector looks at the speaker and its sessions when somebody asks for metrics.
type collector struct {
	node      string
	status    func() speaker.Status
	announced func() []speaker.Announced
	sessions  func() []bgp.Session
	responder *responder
}

func (c *collector) metrics() metrics.StableCollector { return agent.Collector(everySingleOne, c.look) }

func (c *collector) look(give agent.Give) {
	status, sessions := c.status(), c.sessions()
	for _, p := range status.Mute { // a series for each router of the configuration, so that an alert can miss it
		if p.Addr.IsValid() {
			sessions = append(sessions, bgp.Session{Peer: p.Name, Addr: p.Addr, Port: p.Port, ASN: p.ASN, Gateway: p.Gateway != 0})
		} else {
			give(sessionUp, metrics.GaugeValue, 0, p.Name, "")
		}
	}
	for _, s := range byRouter(sessions) {
		peer := router(s).String()
		if s.Gateway {
			give(sessionUp, metrics.GaugeValue, agent.OneIf(s.Up), s.Peer, s.Addr.String())
		} else {
			give(sessionUp, metrics.GaugeValue, agent.OneIf(s.Up), peer, s.Addr.String())
		}
		give(sessionAS, metrics.GaugeValue, float64(s.ASN), peer)
		give(updatesTotal, metrics.CounterValue, float64(s.Updates), peer)
		give(prefixes, metrics.GaugeValue, float64(s.Prefixes), peer)
		give(droppedTotal, metrics.CounterValue, float64(s.Dropped), peer)
		give(failuresTotal, metrics.CounterValue, float64(s.Failures), peer)
	}
	for _, a := range c.announced() {
		give(announcedBool, metrics.GaugeValue, 1, a.Service, c.node, a.Addr.String())
	}
	if c.responder.wanted() {
		give(responderUp, metrics.GaugeValue, agent.OneIf(c.responder.there.Load()))
	}
	give(nodeDrained, metrics.GaugeValue, agent.OneIf(status.Drained), c.node)
	give(changesTotal, metrics.CounterValue, float64(status.Changes))
	give(errorsTotal, metrics.CounterValue, float64(status.Errors))
	give(configLoaded, metrics.GaugeValue, agent.OneIf(status.Loaded))
	give(configStale, metrics.GaugeValue, agent.OneIf(status.Stale))
}

func router(s bgp.Session) netip.AddrPort { return netip.AddrPortFrom(s.Addr, s.Port) }

// byRouter makes one of the sessions with one router, as several peers of the configuration may be: it is up if all are.
func byRouter(sessions []bgp.Session) (all []bgp.Session) {
	index := map[netip.AddrPort]int{}
	for _, s := range sessions {
		i, there := index[router(s)]
		if !there {
			index[router(s)] = len(all)
			all = append(all, s)
			continue
		}
		a := &all[i]
		a.Up = a.Up && s.Up
		a.Updates += s.Updates
		a.Prefixes += s.Prefixes
		a.Dropped += s.Dropped
		a.Failures += s.Failures
	}
	return all
}
