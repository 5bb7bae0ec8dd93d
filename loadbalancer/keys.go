package loadbalancer

import (
	"cmp"
	"maps"
	"strings"
)

// keys are those that a mapping may have, by how they are written.
type keys map[string]key

// A key has a name, which is also how it is written unless that is a synonym.
type key struct {
	name     string
	standing standing
}

type standing int

const (
	honoured standing = iota
	unused            // accepted from MetalLB's configurations and without effect
)

// keysOf makes keys of a list of names and, after an equals sign, synonyms.
func keysOf(list string) keys { return keys{}.and(honoured, list) }

func (ks keys) and(s standing, list string) keys {
	for one := range strings.FieldsSeq(list) {
		name, synonym, _ := strings.Cut(one, "=")
		ks[name], ks[cmp.Or(synonym, name)] = key{name, s}, key{name, s}
	}
	return ks
}

// The keys, by the mapping that may have them.
var (
	configKeys = keysOf("peers communities=bgp-communities address-pools drain bfd-profiles")
	peerKeys   = keysOf(`name peer-address peer-asn my-asn peer-port hold-time keepalive-time connect-time graceful-restart
		router-id source-address ebgp-multihop ttl-security password password-key node-selectors bfd-profile`)
	bfdProfileKeys = keysOf("name receive-interval transmit-interval detect-multiplier passive-mode minimum-ttl").and(unused, "echo-mode echo-interval")
	restartKeys    = keysOf("restart-time")
	selectorKeys   = keysOf("match-labels match-expressions")
	expressionKeys = keysOf("key operator values")
	poolKeys       = keysOf(`name protocol cidr=addresses exclude reservations quotas hold-down auto-assign avoid-buggy-ips namespaces namespace-selectors service-selectors priority
		share-across-namespaces advertisements=bgp-advertisements advertise service-communities`)
	reservationKeys   = keysOf("service addresses")
	advertisementKeys = keysOf(`aggregation-length aggregation-length-v6 localpref communities peers node-selectors
		as-path-prepend link-bandwidth primaries client-ip-affinity service-selectors`)
	drainKeys = keysOf("taints labels withdraw-after")
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
	"dynamicASN":             "write the router's AS number, external or internal as peer-asn",
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

// Where keys belong. Of several places, the last counts.
var places = []struct {
	keys
	what string
}{{peerKeys, "an item of peers"}, {poolKeys, "an item of address-pools"}, {advertisementKeys, "an item of advertisements"}}

// unknownKey reports a key that is none of those possible, with what to write instead, or where it belongs.
func (r *reader) unknownKey(e entry, possible keys) {
	if r.deaf() {
		return
	}
	written := e.key.node.Value
	const none = "remove it"
	advice := r.suggest(written, maps.Keys(possible), none)
	for _, p := range places {
		if possible.like(written).name == "" && p.like(written).name != "" {
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

// like returns the key that is the one written, however that is hyphenated, or none.
func (ks keys) like(written string) key {
	for k := range ks {
		if folded(k) == folded(written) {
			return ks[k]
		}
	}
	return key{}
}

// folded is how a name reads without hyphens and capitals: peerASN is peer-asn.
func folded(name string) string { return strings.ToLower(hyphens.Replace(name)) }

var hyphens = strings.NewReplacer("-", "", "_", "", " ", "")
