package alerts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

const (
	files     = "../../charts/metallb/files"
	alertFile = files + "/alerts.yaml"
)

// calm is what a cluster says that has a leader, a standby and two speakers with a session each, a value for each minute of two hours. _x9 is nine minutes
// without, 1x9 ten of 1.
const calm = unpeered + `
	metallb_bgp_session_up{job="metallb", instance="10.0.0.1:7473", peer="10.0.0.253:179"} 1x120
	metallb_bgp_session_up{job="metallb", instance="10.0.0.2:7473", peer="10.0.0.253:179"} 1x120
`

// unpeered is calm without the sessions.
const unpeered = `
	metallb_allocator_services_pending{job="metallb", instance="10.0.0.11:10258"}          0x120
	metallb_allocator_assignment_seconds_count{job="metallb", instance="10.0.0.11:10258"}  0x120
	metallb_allocator_assignment_seconds_count{job="metallb", instance="10.0.0.12:10258"}  0x120
` + speakers

const speakers = `
	metallb_speaker_update_seconds_count{job="metallb", instance="10.0.0.1:7473"}          0x120
	metallb_speaker_update_seconds_count{job="metallb", instance="10.0.0.2:7473"}          0x120
`

// A story is what Prometheus reads each minute, and what becomes of the alerts.
type story struct{ name, series, want string }

var stories = []story{
	{
		name:   "A cluster in which all is well, a node without peers among it",
		series: unpeered + `metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"} 1x120`,
	},

	// Sessions.
	{
		name:   "A session that goes down and stays down",
		series: calm + `metallb_bgp_session_up{instance="10.0.0.1:7473", pod="metallb-speaker-7", peer="10.0.0.254:179"} 1x9 0x9 1x100`,
		want: `
			10m pending MetalLBBGPSessionDown
			12m firing critical MetalLBBGPSessionDown: The BGP session of 10.0.0.1:7473 (metallb-speaker-7) with router 10.0.0.254:179 is down.
			20m resolved MetalLBBGPSessionDown`,
	},
	{
		name: "One of two routers, which a Prometheus without pods' names knows by an IPv6 address",
		series: calm + `
			metallb_bgp_session_up{instance="[fd00::1]:7473", peer="[fd00::fe]:179"} 0x120
			metallb_bgp_session_up{instance="[fd00::1]:7473", peer="[fd00::ff]:179"} 1x120`,
		want: `
			0m pending MetalLBBGPSessionDown
			2m firing critical MetalLBBGPSessionDown: The BGP session of [fd00::1]:7473 with router [fd00::fe]:179 is down.`,
	},
	{
		name:   "A router that is back after a minute",
		series: calm + `metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"} 1x9 0x0 1x100`,
		want: `
			10m pending MetalLBBGPSessionDown
			11m gone MetalLBBGPSessionDown`,
	},
	{
		name: "A rolling upgrade of the speakers: each pod is replaced by another on the same address, and needs a minute for its session",
		series: unpeered + `
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.11:10258"} 1x120
			metallb_bgp_session_up{instance="10.0.0.1:7473", pod="old-1", peer="10.0.0.254:179"}                          1x9 stale
			metallb_bgp_session_up{instance="10.0.0.1:7473", pod="new-1", peer="10.0.0.254:179"}                          _x11 0 1x100
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", instance="10.0.0.1:7473", pod="old-1"} 1x9 stale
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", instance="10.0.0.1:7473", pod="new-1"} _x13 1x100
			process_start_time_seconds{job="metallb", instance="10.0.0.1:7473", pod="old-1"}                              100x9 stale
			process_start_time_seconds{job="metallb", instance="10.0.0.1:7473", pod="new-1"}                              _x11 700x100
			metallb_k8s_client_updates_total{job="metallb", instance="10.0.0.1:7473", pod="old-1"}                        1x9 stale
			metallb_k8s_client_updates_total{job="metallb", instance="10.0.0.1:7473", pod="new-1"}                        _x11 1x100`,
		want: `
			10m pending MetalLBAddressNotAnnounced
			10m pending MetalLBNodeWithoutSession
			11m pending MetalLBBGPSessionDown
			12m gone MetalLBBGPSessionDown
			12m gone MetalLBNodeWithoutSession
			13m gone MetalLBAddressNotAnnounced`,
	},
	{
		name: "An edit, or a label, that leaves one of two nodes without a peer, for good",
		series: unpeered + `
			metallb_k8s_client_config_loaded_bool{instance="10.0.0.1:7473"}                                               1x120
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.11:10258"} 1x120
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"}                                       1x9 stale
			metallb_bgp_session_up{instance="10.0.0.2:7473", peer="10.0.0.254:179"}                                       1x120
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", instance="10.0.0.1:7473"}          1x9 stale
			metallb_speaker_announced{service="shop/web", node="b", ip="192.168.10.0", instance="10.0.0.2:7473"}          1x120`,
		want: `
			10m pending MetalLBNodeWithoutSession
			15m firing critical MetalLBNodeWithoutSession: The speaker at 10.0.0.1:7473 announced addresses, and now has no BGP session at all.
			69m resolved MetalLBNodeWithoutSession`,
	},
	{
		name: "A node all of whose sessions go down while others go on",
		series: unpeered + `
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.253:179"}                                       1x9 0x29 1x80
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"}                                       1x9 0x39 1x80
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", instance="10.0.0.1:7473"}          1x9 _x29 1x80`,
		want: `
			10m pending MetalLBBGPSessionDown
			10m pending MetalLBBGPSessionDown
			10m pending MetalLBNodeWithoutSession
			12m firing critical MetalLBBGPSessionDown: The BGP session of 10.0.0.1:7473 with router 10.0.0.253:179 is down.
			12m firing critical MetalLBBGPSessionDown: The BGP session of 10.0.0.1:7473 with router 10.0.0.254:179 is down.
			15m firing critical MetalLBNodeWithoutSession: The speaker at 10.0.0.1:7473 announced addresses, and now has no BGP session at all.
			40m resolved MetalLBBGPSessionDown
			40m resolved MetalLBNodeWithoutSession
			50m resolved MetalLBBGPSessionDown`,
	},
	{
		name: "An edit that takes every peer away: no series of a session is left, and yet three alerts fire",
		series: unpeered + `
			metallb_k8s_client_config_loaded_bool{instance="10.0.0.1:7473"}                                               1x120
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.11:10258"} 1x120
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"}                                       1x9 stale
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", instance="10.0.0.1:7473"}          1x9 stale`,
		want: `
			10m pending MetalLBAddressNotAnnounced
			10m pending MetalLBNoPeer
			10m pending MetalLBNodeWithoutSession
			15m firing critical MetalLBNoPeer: The configuration gives no node a router to speak to.
			15m firing critical MetalLBNodeWithoutSession: The speaker at 10.0.0.1:7473 announced addresses, and now has no BGP session at all.
			20m firing warning MetalLBAddressNotAnnounced: No node announces 192.168.10.0 of Service shop/web (pool default).
			69m resolved MetalLBNodeWithoutSession`,
	},
	{
		name: "A peer whose password-key has no value: its series stays, at 0",
		series: unpeered + `
			metallb_k8s_client_config_loaded_bool{instance="10.0.0.1:7473"}                                               1x120
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.11:10258"} 1x120
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"}                                       0x120`,
		want: `
			0m pending MetalLBAddressNotAnnounced
			0m pending MetalLBBGPSessionDown
			2m firing critical MetalLBBGPSessionDown: The BGP session of 10.0.0.1:7473 with router 10.0.0.254:179 is down.
			10m firing warning MetalLBAddressNotAnnounced: No node announces 192.168.10.0 of Service shop/web (pool default).`,
	},
	{
		name:   "A new cluster without peers and Services",
		series: unpeered + `metallb_k8s_client_config_loaded_bool{instance="10.0.0.1:7473"} 1x120`,
	},

	// The configuration.
	{
		name: "A refused configuration, while another controller manager takes over",
		series: calm + `
			metallb_k8s_client_config_stale_bool{instance="10.0.0.11:10258", pod="controller-a"} 0x9 1x9 stale
			metallb_k8s_client_config_stale_bool{instance="10.0.0.12:10258", pod="controller-b"} _x21 1x19 0x80`,
		want: `
			10m pending MetalLBStaleConfig
			15m firing warning MetalLBStaleConfig: The configuration that was written last is not in force at 10.0.0.11:10258 (controller-a).
			20m resolved MetalLBStaleConfig
			21m pending MetalLBStaleConfig
			26m firing warning MetalLBStaleConfig: The configuration that was written last is not in force at 10.0.0.12:10258 (controller-b).
			41m resolved MetalLBStaleConfig`,
	},
	{
		name:   "An edit that is refused and mended within three minutes",
		series: calm + `metallb_k8s_client_config_stale_bool{instance="10.0.0.11:10258"} 0x9 1x2 0x100`,
		want: `
			10m pending MetalLBStaleConfig
			13m gone MetalLBStaleConfig`,
	},
	{
		name:   "A speaker that has no configuration",
		series: calm + `metallb_k8s_client_config_loaded_bool{instance="10.0.0.1:7473"} 0x9 1x100`,
		want: `
			0m pending MetalLBConfigNotLoaded
			5m firing warning MetalLBConfigNotLoaded: No configuration is in force at 10.0.0.1:7473.
			10m resolved MetalLBConfigNotLoaded`,
	},

	// Pools.
	{
		name: "A pool that fills up: one alert at a time, until it has more addresses",
		series: calm + `
			metallb_allocator_ipv4_addresses_in_use_total{pool="default"} 75x9 76x19 86x19 96x19 100x50
			metallb_allocator_ipv4_addresses_total{pool="default"}        100x89 200x30`,
		want: `
			10m pending MetalLBAddressPoolUsage75Percent
			15m firing warning MetalLBAddressPoolUsage75Percent: 76 % of the IPv4 addresses of pool default are in use.
			30m pending MetalLBAddressPoolUsage85Percent
			35m firing warning MetalLBAddressPoolUsage85Percent: 86 % of the IPv4 addresses of pool default are in use.
			35m resolved MetalLBAddressPoolUsage75Percent
			50m pending MetalLBAddressPoolUsage95Percent
			55m firing warning MetalLBAddressPoolUsage95Percent: 96.0 % of the IPv4 addresses of pool default are in use.
			55m resolved MetalLBAddressPoolUsage85Percent
			70m pending MetalLBAddressPoolExhausted
			75m firing warning MetalLBAddressPoolExhausted: No IPv4 address of pool default is left.
			75m resolved MetalLBAddressPoolUsage95Percent
			95m resolved MetalLBAddressPoolExhausted`,
	},
	{
		name: "A pool without free IPv4 addresses that has 2^64 of IPv6",
		series: calm + `
			metallb_allocator_addresses_in_use_total{pool="default"}      5x120
			metallb_allocator_addresses_total{pool="default"}             1.8446744073709552e+19x120
			metallb_allocator_ipv4_addresses_in_use_total{pool="default"} 4x120
			metallb_allocator_ipv4_addresses_total{pool="default"}        4x120
			metallb_allocator_ipv6_addresses_in_use_total{pool="default"} 1x120
			metallb_allocator_ipv6_addresses_total{pool="default"}        1.8446744073709552e+19x120`,
		want: `
			0m pending MetalLBAddressPoolExhausted
			5m firing warning MetalLBAddressPoolExhausted: No IPv4 address of pool default is left.`,
	},
	{
		name: "A pool without free IPv6 addresses",
		series: calm + `
			metallb_allocator_ipv6_addresses_in_use_total{pool="six"} 16x120
			metallb_allocator_ipv6_addresses_total{pool="six"}        16x120`,
		want: `
			0m pending MetalLBAddressPoolExhausted
			5m firing warning MetalLBAddressPoolExhausted: No IPv6 address of pool six is left.`,
	},
	{
		name: "Pools that nobody uses, or that have no address to hand out, even if a Service kept one of them",
		series: calm + `
			metallb_allocator_ipv4_addresses_in_use_total{pool="unused"} 0x120
			metallb_allocator_ipv4_addresses_total{pool="unused"}        256x120
			metallb_allocator_ipv4_addresses_in_use_total{pool="empty"}  0x120
			metallb_allocator_ipv4_addresses_total{pool="empty"}         0x120
			metallb_allocator_ipv4_addresses_in_use_total{pool="buggy"}  1x120
			metallb_allocator_ipv4_addresses_total{pool="buggy"}         0x120`,
	},
	{
		name: "An exhausted pool while another controller manager takes over: one alert, without a break",
		series: calm + `
			metallb_allocator_ipv4_addresses_in_use_total{pool="default", instance="10.0.0.11:10258"} 4x19 stale
			metallb_allocator_ipv4_addresses_total{pool="default", instance="10.0.0.11:10258"}        4x19 stale
			metallb_allocator_ipv4_addresses_in_use_total{pool="default", instance="10.0.0.12:10258"} _x21 4x90
			metallb_allocator_ipv4_addresses_total{pool="default", instance="10.0.0.12:10258"}        _x21 4x90`,
		want: `
			0m pending MetalLBAddressPoolExhausted
			5m firing warning MetalLBAddressPoolExhausted: No IPv4 address of pool default is left.`,
	},

	// Services.
	{
		name:   "A Service that waits for three minutes",
		series: speakers + `metallb_allocator_services_pending{instance="10.0.0.11:10258"} 0x9 1x2 0x100`,
		want: `
			10m pending MetalLBServicePending
			13m gone MetalLBServicePending`,
	},
	{
		name: "Services that wait while another controller manager takes over: one alert, without a break",
		series: speakers + `
			metallb_allocator_services_pending{instance="10.0.0.11:10258"} 0x9 2x19 stale
			metallb_allocator_services_pending{instance="10.0.0.12:10258"} _x32 2x7 0x80`,
		want: `
			10m pending MetalLBServicePending
			15m firing warning MetalLBServicePending: Services of type LoadBalancer wait for an address, or for the one they ask for: 2.
			30m pending MetalLBNoLeader
			32m gone MetalLBNoLeader
			45m resolved MetalLBServicePending`,
	},

	// Announcements.
	{
		name: "Three addresses that no node announces: of no pool, the IPv6 one of two, one that is shared; for another there is one node left",
		series: calm + `
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.11:10258"} 1x120
			metallb_allocator_assigned{service="shop/web", pool="default", ip="fd00::1", instance="10.0.0.11:10258"}      1x120
			metallb_allocator_assigned{service="shop/api", pool="default", ip="192.168.10.1", instance="10.0.0.11:10258"} 1x120
			metallb_allocator_assigned{service="shop/api", pool="default", ip="fd00::2", instance="10.0.0.11:10258"}      1x120
			metallb_allocator_assigned{service="shop/mail", pool="default", ip="192.168.10.1", instance="10.0.0.11:10258"} 1x120
			metallb_allocator_assigned{service="shop/stray", ip="192.0.2.1", instance="10.0.0.11:10258"}                  1x49 stale
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0", instance="10.0.0.1:7473"}          1x19 stale
			metallb_speaker_announced{service="shop/web", node="b", ip="192.168.10.0", instance="10.0.0.2:7473"}          1x120
			metallb_speaker_announced{service="shop/web", node="b", ip="fd00::1", instance="10.0.0.2:7473"}               1x120
			metallb_speaker_announced{service="shop/api", node="b", ip="192.168.10.1", instance="10.0.0.2:7473"}          1x120
			metallb_speaker_announced{service="shop/mail", node="a", ip="192.168.10.1", instance="10.0.0.1:7473"}         1x19 stale
			metallb_speaker_announced{service="shop/mail", node="b", ip="192.168.10.1", instance="10.0.0.2:7473"}         _x39 1x80`,
		want: `
			0m pending MetalLBAddressNotAnnounced
			0m pending MetalLBAddressNotAnnounced
			10m firing warning MetalLBAddressNotAnnounced: No node announces 192.0.2.1 of Service shop/stray (of no pool).
			10m firing warning MetalLBAddressNotAnnounced: No node announces fd00::2 of Service shop/api (pool default).
			20m pending MetalLBAddressNotAnnounced
			30m firing warning MetalLBAddressNotAnnounced: No node announces 192.168.10.1 of Service shop/mail (pool default).
			44m resolved MetalLBAddressNotAnnounced
			55m resolved MetalLBAddressNotAnnounced`,
	},
	{
		name: "An address that no node announces while another controller manager takes over: one alert, without a break",
		series: calm + `
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.11:10258"} 1x19 stale
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0", instance="10.0.0.12:10258"} _x21 1x90`,
		want: `
			0m pending MetalLBAddressNotAnnounced
			10m firing warning MetalLBAddressNotAnnounced: No node announces 192.168.10.0 of Service shop/web (pool default).`,
	},
	{
		name: "A new Service whose pods need five minutes to get ready, and one that is deleted before any was",
		series: calm + `
			metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0"}         _x9 1x100
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0"}                _x14 1x100
			metallb_allocator_assigned{service="shop/mistake", pool="default", ip="192.168.10.1"}     _x9 1x4 stale`,
		want: `
			9m pending MetalLBAddressNotAnnounced
			9m pending MetalLBAddressNotAnnounced
			14m gone MetalLBAddressNotAnnounced
			14m gone MetalLBAddressNotAnnounced`,
	},
	{
		name: "No speaker that Prometheus sees: one alert, and not one for each address",
		series: `
			metallb_allocator_services_pending{instance="10.0.0.11:10258"}         0x120
			metallb_allocator_assignment_seconds_count{instance="10.0.0.11:10258"} 0x120
			metallb_speaker_update_seconds_count{instance="10.0.0.1:7473"}         0x9 stale
			metallb_allocator_assigned{service="shop/web", ip="192.168.10.0"}      1x120
			metallb_allocator_assigned{service="shop/api", ip="192.168.10.1"}      1x120
			metallb_speaker_announced{service="shop/web", node="a", ip="192.168.10.0"} 1x9 stale
			metallb_speaker_announced{service="shop/api", node="a", ip="192.168.10.1"} 1x9 stale`,
		want: `
			10m pending MetalLBNoSpeaker
			15m firing critical MetalLBNoSpeaker: Prometheus sees no speaker.`,
	},
	{
		name:   "No controller manager at all",
		series: speakers,
		want: `
			0m pending MetalLBNoLeader
			5m firing critical MetalLBNoLeader: Prometheus sees no controller manager that leads.`,
	},
	{
		name: "Controller managers of which none leads",
		series: speakers + `
			metallb_allocator_assignment_seconds_count{instance="10.0.0.11:10258"} 0x120
			metallb_allocator_assignment_seconds_count{instance="10.0.0.12:10258"} 0x120`,
		want: `
			0m pending MetalLBNoLeader
			5m firing critical MetalLBNoLeader: Prometheus sees no controller manager that leads.`,
	},
	{
		name:   "A Prometheus that sees nothing of us",
		series: `up{job="other"} 1x120`,
		want: `
			0m pending MetalLBNoLeader
			0m pending MetalLBNoSpeaker
			5m firing critical MetalLBNoLeader: Prometheus sees no controller manager that leads.
			5m firing critical MetalLBNoSpeaker: Prometheus sees no speaker.`,
	},
	{
		name: "Two clusters in one Prometheus, which use the same names and addresses: each has its own alerts",
		series: `
			metallb_allocator_services_pending{cluster="east"}                                        0x120
			metallb_allocator_assignment_seconds_count{cluster="east"}                                0x120
			metallb_speaker_update_seconds_count{cluster="east"}                                      0x120
			metallb_allocator_assigned{cluster="east", service="shop/web", pool="a", ip="10.0.0.1"}   1x120
			metallb_speaker_announced{cluster="east", service="shop/web", node="a", ip="10.0.0.1"}    1x120
			metallb_bgp_session_up{cluster="east", peer="10.0.0.254:179"}                             1x120
			metallb_allocator_ipv4_addresses_in_use_total{cluster="east", pool="a"}                   1x120
			metallb_allocator_ipv4_addresses_total{cluster="east", pool="a"}                          4x120
			metallb_allocator_services_pending{cluster="west"}                                        1x49 stale
			metallb_allocator_assignment_seconds_count{cluster="west"}                                0x49 stale
			metallb_speaker_update_seconds_count{cluster="west"}                                      0x120
			metallb_allocator_assigned{cluster="west", service="shop/web", pool="a", ip="10.0.0.1"}   1x49 stale
			metallb_allocator_ipv4_addresses_in_use_total{cluster="west", pool="a"}                   4x49 stale
			metallb_allocator_ipv4_addresses_total{cluster="west", pool="a"}                          4x49 stale
			metallb_allocator_services_pending{cluster="north"}                                       0x120
			metallb_allocator_assignment_seconds_count{cluster="north"}                               0x120`,
		want: `
			0m pending MetalLBAddressNotAnnounced west
			0m pending MetalLBAddressPoolExhausted west
			0m pending MetalLBNoSpeaker north
			0m pending MetalLBServicePending west
			5m firing critical MetalLBNoSpeaker north: Prometheus sees no speaker.
			5m firing warning MetalLBAddressPoolExhausted west: No IPv4 address of pool a is left.
			5m firing warning MetalLBServicePending west: Services of type LoadBalancer wait for an address, or for the one they ask for: 1.
			10m firing warning MetalLBAddressNotAnnounced west: No node announces 10.0.0.1 of Service shop/web (pool a).
			50m pending MetalLBNoLeader west
			55m firing critical MetalLBNoLeader west: Prometheus sees no controller manager that leads.
			55m resolved MetalLBAddressNotAnnounced west
			55m resolved MetalLBAddressPoolExhausted west
			55m resolved MetalLBServicePending west`,
	},

	// BFD.
	{
		name: "A node whose BFD responder is away for a minute while it is upgraded, and one that has none",
		series: calm + `
			metallb_speaker_bfd_responder_up{instance="10.0.0.1:7473", pod="metallb-speaker-7"} 1x9 0x0 1x100
			metallb_speaker_bfd_responder_up{instance="10.0.0.2:7473", pod="metallb-speaker-8"} 0x120`,
		want: `
			0m pending MetalLBBFDResponderMissing
			5m firing warning MetalLBBFDResponderMissing: No BFD responder runs on the node of 10.0.0.2:7473 (metallb-speaker-8), and a peer there has a bfd-profile.
			10m pending MetalLBBFDResponderMissing
			11m gone MetalLBBFDResponderMissing`,
	},
	{
		name: "A router that does not use BFD, one that comes back, one that is down by BGP, too, and one of which no speaker tells",
		series: calm + `
			metallb_bfd_session_up{instance="10.0.0.1:7475", pod="metallb-bfd-7", peer="10.0.0.253"} 0x20 1x100
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.253:1179"}                  1x120
			metallb_bfd_session_up{instance="10.0.0.2:7475", pod="metallb-bfd-8", peer="10.0.0.253"} 1x9 0x1 1x100
			metallb_bfd_session_up{instance="10.0.0.1:7475", pod="metallb-bfd-7", peer="10.0.0.254"} 1x9 0x9 1x100
			metallb_bgp_session_up{instance="10.0.0.1:7473", peer="10.0.0.254:179"}                   1x9 0x9 1x100
			metallb_bfd_session_up{instance="10.0.0.9:7475", pod="metallb-bfd-9", peer="10.0.0.254"} 0x120`,
		want: `
			0m pending MetalLBBFDDownWhileBGPUp
			5m firing warning MetalLBBFDDownWhileBGPUp: Router 10.0.0.253 and 10.0.0.1:7475 (metallb-bfd-7) have a BGP session and no BFD session.
			10m pending MetalLBBFDDownWhileBGPUp
			10m pending MetalLBBGPSessionDown
			12m firing critical MetalLBBGPSessionDown: The BGP session of 10.0.0.1:7473 with router 10.0.0.254:179 is down.
			12m gone MetalLBBFDDownWhileBGPUp
			20m resolved MetalLBBGPSessionDown
			21m resolved MetalLBBFDDownWhileBGPUp`,
	},
	{
		name: "The same in two clusters of one Prometheus, by IPv6, over an interface, and where instances have their nodes' names",
		series: calm + `
			metallb_bfd_session_up{cluster="west", instance="[fd00::1]:7475", peer="fd00::fe"}     0x120
			metallb_bgp_session_up{cluster="west", instance="[fd00::1]:7473", peer="[fd00::fe]:179"} 1x120
			metallb_bfd_session_up{cluster="east", instance="[fd00::1]:7475", peer="fd00::fe"}     0x120
			metallb_bgp_session_up{cluster="east", instance="[fd00::1]:7473", peer="[fd00::ff]:179"} 1x120
			metallb_bfd_session_up{cluster="east", instance="node-a", peer="fe80::1%eth0"}     0x120
			metallb_bgp_session_up{cluster="east", instance="node-a", peer="[fe80::1%eth0]:179"} 1x120`,
		want: `
			0m pending MetalLBBFDDownWhileBGPUp east
			0m pending MetalLBBFDDownWhileBGPUp west
			5m firing warning MetalLBBFDDownWhileBGPUp east: Router fe80::1%eth0 and node-a have a BGP session and no BFD session.
			5m firing warning MetalLBBFDDownWhileBGPUp west: Router fd00::fe and [fd00::1]:7475 have a BGP session and no BFD session.`,
	},
	{
		name:   "A BFD session that goes down once a minute for ten minutes",
		series: calm + `metallb_bfd_session_down_events{instance="10.0.0.1:7475", pod="metallb-bfd-7", peer="10.0.0.253"} 0x19 1+1x9 10x90`,
		want: `
			23m firing warning MetalLBBFDFlapping: The BFD session of 10.0.0.1:7475 (metallb-bfd-7) with router 10.0.0.253 goes up and down.
			41m resolved MetalLBBFDFlapping`,
	},

	// Restarts.
	{
		name: "A speaker that begins anew again and again, and is down when one looks",
		series: calm + `
			process_start_time_seconds{job="metallb", instance="10.0.0.1:7473", pod="metallb-speaker-7"}       100x9 700x4 _x4 1300x4 _x4 1900x4 stale
			metallb_k8s_client_updates_total{job="metallb", instance="10.0.0.1:7473", pod="metallb-speaker-7"} 5x14 _x4 5x4 _x4 5x4 stale
			process_start_time_seconds{job="metallb", instance="10.0.0.2:7473", pod="metallb-speaker-8"}       100x9 700x4 _x4 1300x4 _x4 1900x4 _x4 2500 stale
			metallb_k8s_client_updates_total{job="metallb", instance="10.0.0.2:7473", pod="metallb-speaker-8"} 5x14 _x4 5x4 _x4 5x4 _x4 5 stale`,
		want: `
			37m firing warning MetalLBRestartLoop: 10.0.0.2:7473 (metallb-speaker-8) began anew 4 times within an hour.
			69m resolved MetalLBRestartLoop`,
	},
	{
		name: "Other programs that begin anew all the time, one on our node and one in our job, where instances have their node's name",
		series: calm + `
			process_start_time_seconds{job="other", instance="node-a"}         100+60x120
			process_start_time_seconds{job="metallb", instance="node-b"}       100+60x120
			process_start_time_seconds{job="metallb", instance="node-a"}       100x120
			metallb_k8s_client_updates_total{job="metallb", instance="node-a"} 5x120`,
	},
}

func TestWhatBecomesOfTheAlerts(t *testing.T) {
	fired := map[string]bool{}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			got := play(t, s.series, func(a *rules.Alert) {
				fired[a.Labels.Get("alertname")] = true
				for _, text := range []string{a.Annotations.Get("summary"), a.Annotations.Get("description")} {
					if text == "" || strings.Contains(text, "<") || strings.Contains(text, "{{") {
						t.Errorf("%s reads %q", a.Labels.Get("alertname"), text)
					}
				}
			})
			if want := linesOf(s.want); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
	for _, rule := range ruleset(t) {
		if rule.Alert != "" && !fired[rule.Alert] {
			t.Errorf("%s fires in no story", rule.Alert)
		}
	}
}

// play evaluates the rules as Prometheus does, each minute of nearly two hours, and writes down what changes.
func play(t *testing.T, series string, fires func(*rules.Alert)) (lines []string) {
	t.Helper()
	storage := promqltest.LoadedStorage(t, load(series))
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 100_000)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, storage), AppendableV2: storage, Queryable: storage,
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
	})
	groups, problems := manager.LoadGroups(time.Minute, rules.FromMaps(), "", nil, false, alertFile)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	type alert struct {
		name  string // and cluster
		state rules.AlertState
	}
	before := map[string]alert{} // by labels
	for minute := range 110 {
		now, news := map[string]alert{}, []string{}
		say := func(what, about string) { news = append(news, fmt.Sprintf("%dm %s %s", minute, what, about)) }
		for _, group := range groups {
			group.Eval(t.Context(), time.Unix(0, 0).Add(time.Duration(minute)*time.Minute))
			for _, rule := range group.Rules() {
				if err := rule.LastError(); err != nil {
					t.Fatalf("%s: %v", rule.Name(), err)
				}
			}
			for _, rule := range group.AlertingRules() {
				for _, a := range rule.ActiveAlerts() {
					id, is := a.Labels.String(), alert{strings.TrimSpace(rule.Name() + " " + a.Labels.Get("cluster")), a.State}
					now[id] = is
					if is == before[id] {
						continue
					}
					if a.State == rules.StatePending {
						say("pending", is.name)
						continue
					}
					say("firing "+a.Labels.Get("severity"), is.name+": "+a.Annotations.Get("summary"))
					fires(a)
				}
			}
		}
		for id, was := range before {
			if _, still := now[id]; still {
				continue
			}
			if was.state == rules.StateFiring {
				say("resolved", was.name)
			} else {
				say("gone", was.name)
			}
		}
		slices.Sort(news)
		lines, before = append(lines, news...), now
	}
	return lines
}

// load writes series as promqltest reads them, where an empty line would be their end.
func load(series string) string { return "load 1m\n  " + strings.Join(linesOf(series), "\n  ") }

// linesOf returns those that are not empty.
func linesOf(text string) (all []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

func TestAnAlertSaysWhatToTypeFirst(t *testing.T) {
	var got string
	play(t, calm+`metallb_allocator_assigned{service="shop/web", pool="default", ip="192.168.10.0"} 1x120`, func(a *rules.Alert) {
		got = a.Annotations.Get("description")
	})
	want := "kubectl get endpointslices --namespace=shop -l kubernetes.io/service-name=web"
	if !strings.Contains(got, want) {
		t.Errorf("%q does not have %q", got, want)
	}
}
