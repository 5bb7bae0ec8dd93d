package loadbalancer

import (
	"iter"
	"strings"
)

// A key is one that a mapping may have.
type key struct {
	name, synonym string
	standing      standing
}

type standing int

const (
	honoured standing = iota
	later             // part of the configuration language, but not of this version
	unused            // accepted from MetalLB's configurations and without effect
)

// The keys, by the mapping that may have them.
var (
	configKeys = []key{
		{name: "peers"}, {name: "communities", synonym: "bgp-communities"}, {name: "address-pools"}, {name: "drain"},
		{name: "bfd-profiles"},
	}
	peerKeys = []key{
		{name: "name"}, {name: "peer-address"}, {name: "peer-asn"}, {name: "my-asn"}, {name: "peer-port"},
		{name: "hold-time"}, {name: "keepalive-time"}, {name: "connect-time"}, {name: "graceful-restart"},
		{name: "router-id"}, {name: "source-address"}, {name: "ebgp-multihop"}, {name: "ttl-security"},
		{name: "password"}, {name: "password-key"}, {name: "node-selectors"},
		{name: "bfd-profile"},
	}
	bfdProfileKeys = []key{
		{name: "name"}, {name: "receive-interval"}, {name: "transmit-interval"}, {name: "detect-multiplier"}, {name: "passive-mode"},
		{name: "minimum-ttl"}, {name: "echo-mode", standing: unused}, {name: "echo-interval", standing: unused},
	}
	restartKeys    = []key{{name: "restart-time"}}
	selectorKeys   = []key{{name: "match-labels"}, {name: "match-expressions"}}
	expressionKeys = []key{{name: "key"}, {name: "operator"}, {name: "values"}}
	poolKeys       = []key{
		{name: "name"}, {name: "protocol"}, {name: "cidr", synonym: "addresses"}, {name: "auto-assign"}, {name: "avoid-buggy-ips"},
		{name: "namespaces"}, {name: "service-selectors"}, {name: "priority"}, {name: "share-across-namespaces"},
		{name: "advertisements", synonym: "bgp-advertisements"},
		{name: "namespace-selectors", standing: later}, {name: "reservations", standing: later}, {name: "quotas", standing: later},
		{name: "hold-down", standing: later},
	}
	advertisementKeys = []key{
		{name: "aggregation-length"}, {name: "aggregation-length-v6"}, {name: "localpref"}, {name: "communities"}, {name: "peers"},
		{name: "node-selectors"}, {name: "as-path-prepend"}, {name: "link-bandwidth"},
	}
	drainKeys = []key{{name: "taints"}, {name: "labels"}, {name: "withdraw-after"}}
)

// Operators come with other texts in their clipboard. Of a mapping with one of these keys, only that is said.
var wrappings = map[string]string{
	"apiVersion":   wholeObject,
	"kind":         wholeObject,
	"data":         wholeObject,
	"config":       onlyBelow,
	"configInline": onlyBelow, // of MetalLB's Helm chart
}

const (
	wholeObject = "this is a whole object of Kubernetes: of a ConfigMap, keep only what stands under data.config; of another, write what it says as keys of this configuration"
	onlyBelow   = "is not a key of this configuration: keep only what stands under it"
)

// Fields of MetalLB's custom resources that are like no key of ours. Source: MetalLB's api, up to v0.15.
var foreign = map[string]string{
	// BGPPeer
	"passwordSecret":         "write the password under a key of Secret metallb-bgp-auth, and that key as password-key",
	"enableGracefulRestart":  "write graceful-restart",
	"dynamicASN":             "write the router's AS number as peer-asn",
	"interface":              "write the router's address as peer-address",
	"vrf":                    "remove it, since sessions are in the node's own network",
	"disableMP":              "remove it, since a session carries routes of both IP versions",
	"dualStackAddressFamily": "remove it, since a session carries routes of both IP versions",
	// IPAddressPool and the advertisements
	"serviceAllocation":      "write what stands under it into the pool, as priority, namespaces and service-selectors",
	"ipAddressPools":         "write pools as items of address-pools, and an advertisement into each that it is for",
	"ipAddressPoolSelectors": "write an advertisement into each of the address-pools that it is for",
	"interfaces":             "remove it, since this provider speaks BGP only",
	// objects
	"bgpPeers": "write peers",
	"metadata": "write its name here, as name",
	"spec":     "write what stands under it here, without spec",
}

// Where the keys of a table belong.
var places = []struct {
	keys []key
	what string
}{
	{peerKeys, "an item of peers"},
	{poolKeys, "an item of address-pools"},
	{advertisementKeys, "an item of advertisements"},
}

// unknownKey reports a key that is none of those possible, with what to write instead, or where it belongs.
func (r *reader) unknownKey(e entry, possible []key) {
	if r.deaf() {
		return
	}
	written := e.key.node.Value
	const none = "remove it"
	advice := r.suggest(written, names(possible), none)
	for _, p := range places {
		if like(possible, written) == "" && like(p.keys, written) != "" {
			advice = ": it belongs to " + p.what
		}
	}
	if remedy, ok := foreign[written]; ok {
		advice = ": " + remedy
	}
	if hidden, ok := unseen(written); ok {
		advice = ": it " + hidden
	}
	if advice == ": "+none || passwordWord.MatchString(advice) { // who knows what this is
		r.secretLines[e.value.node.Line] = true
	}
	r.problem(e.key, "is not a key of this configuration%s", advice)
}

func lookup(keys []key, written string) key {
	for _, k := range keys {
		if written == k.name || k.synonym != "" && written == k.synonym {
			return k
		}
	}
	return key{}
}

// like returns the key that is the one written, however that is hyphenated, or nothing.
func like(keys []key, written string) string {
	for name := range names(keys) {
		if folded(name) == folded(written) {
			return name
		}
	}
	return ""
}

// folded is how a name reads without hyphens and capitals: peerASN is peer-asn.
func folded(name string) string { return strings.ToLower(hyphens.Replace(name)) }

var hyphens = strings.NewReplacer("-", "", "_", "", " ", "")

func names(keys []key) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, k := range keys {
			if !yield(k.name) || k.synonym != "" && !yield(k.synonym) {
				return
			}
		}
	}
}
