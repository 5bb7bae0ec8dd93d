package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// said is what an operator reads about a text, while no other is in force: its problems, or what no text may bring.
func said(text string) string {
	config, _, err := Parse([]byte(text))
	if err != nil {
		return err.Error()
	}
	var none *Config
	return none.Admit(config, Facts{}).Unfit.Error()
}

// tells checks that each text leads to one problem that holds the words, and to nothing else.
func tells(t *testing.T, text string, words ...string) {
	t.Helper()
	got := said(text)
	for _, w := range words {
		if !strings.Contains(got, w) {
			t.Errorf("of\n%s\nis said\n%s\nwithout %q", text, got, w)
		}
	}
	if strings.Contains(got, "\n") {
		t.Errorf("of\n%s\nis said more than one sentence:\n%s", text, got)
	}
}

// YAML 1.1 and 1.2 differ in how they read numbers, and operators in what they know of it.
func TestNumbersThatSomeReadersOfYAMLReadOtherwiseAreRefused(t *testing.T) {
	keys := map[string]func(n string) string{
		"peer-port":    func(n string) string { return peer("peer-port: " + n) },
		"hold-time":    func(n string) string { return peer("hold-time: " + n) },
		"connect-time": func(n string) string { return peer("connect-time: " + n) },
		"keepalive-time": func(n string) string {
			return peer("hold-time: 65000", "keepalive-time: "+n)
		},
		"restart-time":  func(n string) string { return peer("graceful-restart: {restart-time: " + n + "}") },
		"ebgp-multihop": func(n string) string { return peer("ebgp-multihop: " + n) },
		"ttl-security":  func(n string) string { return peer("ttl-security: " + n) },
		"peer-asn":      func(n string) string { return "peers: [{peer-address: 10.0.0.1, my-asn: 1, peer-asn: " + n + "}]" },
		"my-asn":        func(n string) string { return "peers: [{peer-address: 10.0.0.1, peer-asn: 1, my-asn: " + n + "}]" },
		"priority":      func(n string) string { return pool("priority: " + n) },
		"localpref":     func(n string) string { return pool("advertisements: [{localpref: " + n + "}]") },
		"as-path-prepend": func(n string) string {
			return pool("advertisements: [{as-path-prepend: " + n + "}]")
		},
		"aggregation-length": func(n string) string {
			return strings.Replace(pool("advertisements: [{aggregation-length: "+n+"}]"), "10.1.0.0/16", "10.1.0.0/32", 1) + "\n"
		},
		"aggregation-length-v6": func(n string) string { return pool("advertisements: [{aggregation-length-v6: " + n + "}]") },
		"withdraw-after":        func(n string) string { return "drain: {withdraw-after: " + n + "}" },
	}
	for key, text := range keys {
		numbers := map[string]string{"011": "9", "0o11": "9", "0b1001": "9", "0x9": "9", "0_9": "", "+011": "9", "0011": "9", "0X9": "9", "9_": "9"}
		if key == "aggregation-length" {
			numbers = map[string]string{"040": "32", "0o40": "32", "0x20": "32", "3_2": "32"}
		}
		for n, read := range numbers {
			got := said(text(n))
			if !strings.Contains(got, fmt.Sprintf("%q is %s to some readers of YAML and something else to others: write the decimal number that you mean", n, read)) &&
				!(read == "" && strings.Contains(got, n)) {
				t.Errorf("%s: %s is told: %q", key, n, got)
			}
		}
		plain := "9"
		if key == "aggregation-length" {
			plain = "32"
		}
		if got := said(text(plain)); got != "" {
			t.Errorf("%s: %s is told: %q", key, plain, got)
		}
		for _, n := range []string{"09", "0179", "08"} {
			if key == "aggregation-length" && n == "0179" {
				continue
			}
			if got := said(text(n)); !strings.Contains(got, "write ") && !strings.Contains(got, "is 127 to some") && !strings.Contains(got, "use ") {
				t.Errorf("%s: %s is told: %q", key, n, got)
			}
		}
	}
	tells(t, peer("peer-port: 0179"), `"0179" is not possible here: write 179`)
	tells(t, peer("hold-time: 090"), `"090" is not a duration such as 90s: write 90`)
	tells(t, peer("hold-time: '010'"), `"010" is not a duration such as 90s: write 10`)
	tells(t, peer("peer-port: '0179'"), `"0179" is not possible here: write 179`)
	for written, plain := range map[string]string{"010.0.0.0/24": "10.0.0.0/24", "10.0.0.0/024": "10.0.0.0/24", "10.0.0.01 - 10.0.0.09": "10.0.0.1 - 10.0.0.9", "2001:db8::/032": "2001:db8::/32"} {
		tells(t, "address-pools: [{name: a, cidr: ['"+written+"']}]", fmt.Sprintf("%q has a number with a zero in front: write %s", written, plain))
	}
	// Two numbers are two mistakes.
	two := said("peers:\n- {peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, peer-port: 010}\n- {peer-address: 10.0.0.2, peer-asn: 1, my-asn: 2, peer-port: 010}\n")
	equal(t, strings.Count(two, "\n"), 1)
}

func TestCommunitiesWithZerosInFrontAreRefused(t *testing.T) {
	for written, plain := range map[string]string{"064500:1": "64500:1", "64500:01": "64500:1", "large:064500:1:002": "large:64500:1:2", "00:1": "0:1"} {
		want := fmt.Sprintf("%q has a number with a zero in front: write %s", written, plain)
		tells(t, pool("advertisements: [{communities: ['"+written+"']}]"), want)
		tells(t, "communities: {vpn: '"+written+"'}", want)
	}
	equal(t, said(pool("advertisements: [{communities: ['0:0', '64500:10', 'large:0:0:0']}]")), "")
}

func TestWhatATextInForceWroteOtherwiseIsAWarningInTheNext(t *testing.T) {
	for name, text := range map[string]string{
		"octal":           peer("peer-port: 010"),
		"hexadecimal":     peer("hold-time: 0x10"),
		"underscores":     pool("priority: 1_000"),
		"community":       pool("advertisements: [{communities: ['064500:1']}]"),
		"peer's name":     peer("name: \"tor\u00a0a\""),
		"pool's name":     strings.Replace(pool(), "name: a", "name: \"we\u200bb\"", 1),
		"community's":     "communities: {\"v\ufeffpn\": 1:1}",
		"blank at an end": peer("name: 'tor '"),
	} {
		inForce, ignored, err := ParseAdmitted([]byte(text))
		if err != nil || ignored != 0 {
			t.Errorf("%s: what an earlier release admitted is refused: %v", name, err)
			continue
		}
		moved := "# a line more\n" + text
		v := inForce.Admit(parse(t, moved), Facts{NodesKnown: true})
		if !v.Admits() || len(v.Warnings) != 1 {
			t.Errorf("%s: in force already, and %s", name, against(v))
		}
		if fresh := parse(t, "").Admit(parse(t, moved), Facts{NodesKnown: true}); len(fresh.Unfit) != 1 || fresh.But(Confirm).Admits() {
			t.Errorf("%s: new, and %s", name, against(fresh))
		}
	}
}

// What nobody sees in an editor, and who reads the error must be able to find.
func TestCharactersThatNobodySeesAreNamedWithTheirPlace(t *testing.T) {
	for blank, name := range map[string]string{
		"\u00a0": "U+00A0 (no-break space)", "\u202f": "U+202F (narrow no-break space)", "\u3000": "U+3000 (ideographic space)",
		"\u2003": "U+2003", "\u1680": "U+1680", "\u200b": "U+200B (zero-width space)", "\u200c": "U+200C", "\u200d": "U+200D",
		"\u200e": "U+200E", "\u2060": "U+2060 (word joiner)", "\ufeff": "U+FEFF (byte order mark)", "\u00ad": "U+00AD (soft hyphen)",
		"\u180e": "U+180E", "\u2800": "U+2800", "\u3164": "U+3164", "\u115f": "U+115F", "\ufe0f": "U+FE0F", "\u034f": "U+034F",
		"\\t": "U+0009 (tab)", "\\n": "U+000A (line break)", "\u202e": "U+202E",
	} {
		for place, text := range map[string]string{
			"a peer's name":        peer(`name: "tor` + blank + `a"`),
			"a pool's name":        strings.Replace(pool(), "name: a", `name: "web`+blank+`a"`, 1),
			"a community's":        `communities: {"vpn` + blank + `a": 1:1}`,
			"an unknown key":       `"foo` + blank + `bar": 1`,
			"a namespace":          pool(`namespaces: ["sho` + blank + `p"]`),
			"a label":              peer(`node-selectors: [{match-labels: {rack: "one` + blank + `x"}}]`),
			"a label's key":        peer(`node-selectors: [{match-labels: {"rac` + blank + `k": x}}]`),
			"an expression's key":  peer(`node-selectors: [{match-expressions: [{key: "rac` + blank + `k", operator: Exists}]}]`),
			"an operator":          peer(`node-selectors: [{match-expressions: [{key: rack, operator: "Exi` + blank + `sts"}]}]`),
			"a router":             `peers: [{peer-address: "10.` + blank + `0.0.1", peer-asn: 1, my-asn: 2}]`,
			"a range":              `address-pools: [{name: a, cidr: ["10.` + blank + `0.0.0/24"]}]`,
			"a peer that is none":  pool(`advertisements: [{peers: ["tor` + blank + `a"]}]`),
			"an unknown community": pool(`advertisements: [{communities: ["vpn` + blank + `a"]}]`),
			"a community":          pool(`advertisements: [{communities: ["100:` + blank + `1"]}]`),
			"a taint":              `drain: {taints: ["foo` + blank + `x"]}`,
			"a duration":           peer(`hold-time: "90` + blank + `s"`),
			"a number":             peer(`peer-port: "179` + blank + `1"`),
		} {
			at := 4
			if place == "a duration" {
				at = 3
			} else if place == "a community" {
				at = 5
			}
			tells(t, text, name, fmt.Sprintf("at place %d", at))
			if strings.Contains(said(text), "\u00a0") {
				t.Errorf("%s: the character itself stands in %s", place, said(text))
			}
		}
	}
	tells(t, peer("name: 'tor '"), "begins or ends with a space")
	tells(t, "peers:\n- name: tor\n \u00a0 peer-address: 10.0.0.1\n", "line 3: ", "U+00A0")
	tells(t, "peers:\n-\u00a0peer-address: 10.0.0.1\n  peer-asn: 100\n", "line 2: ", "U+00A0", "at place 2")
	// What can be seen is a name, in whatever language.
	equal(t, said(peer("name: Tür 東京 №1")), "")
	// A password is what the router has.
	equal(t, said(peer("password: \"a\u00a0b\"")), "")
}

func TestAWholeObjectUnderTheKeyGetsOneSentence(t *testing.T) {
	const config = "peers:\n    - my-asn: x\n    address-pools: 7\n"
	for _, text := range []string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: config\n  namespace: metallb-system\ndata:\n  config: |\n    " + config,
		"kind: ConfigMap\ndata: {}\n",
		"data:\n  config: |\n    " + config,
		`{"apiVersion": "v1", "data": {"config": "peers: []"}, "kind": "ConfigMap"}`,
		"apiVersion: v1\nkind: ConfigMap\ndata:\n  config: peers\n---\napiVersion: v1\nkind: Secret\n",
	} {
		tells(t, text, "this is a whole object of Kubernetes: of a ConfigMap, keep only what stands under data.config; of another")
	}
	for _, text := range []string{"config: |\n  peers: []\n", "config:\n  peers: []\n", "configInline:\n  peers: []\n", "config:\n  address-pools:\n  - x\npeers: 7\n"} {
		tells(t, text, "keep only what stands under it")
	}
	tells(t, "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [10.0.0.0/24]}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\n",
		`apiVersion: metallb.io`, "write what it says as keys of this configuration")
	tells(t, "peers:\n- apiVersion: metallb.io/v1beta2\n  kind: BGPPeer\n  metadata: {name: a}\n  spec: {peerASN: 1}\n",
		`peers[0]`, `apiVersion: metallb.io/v1beta2`, "object of Kubernetes")
}

func TestAKeyOfAnotherSpellingIsNotMissingAsWell(t *testing.T) {
	got := said("peers: [{peerAddress: 10.0.0.1, peerASN: x, myASN: 2}]")
	if strings.Contains(got, "is missing") {
		t.Errorf("of keys that are misspelt is said\n%s", got)
	}
	if !strings.Contains(got, `peerASN: "x" is not possible here`) {
		t.Errorf("the value of a misspelt key is not looked at:\n%s", got)
	}
}

// Every field of MetalLB's custom resources up to v0.15, and the key that it becomes, or words of the remedy.
func TestFieldsOfMetalLBsCustomResourcesAreToldTheirKeys(t *testing.T) {
	fields := map[string]map[string]string{
		"peers": {
			"myASN": "my-asn", "peerASN": "peer-asn", "peerAddress": "peer-address", "sourceAddress": "source-address", "peerPort": "peer-port",
			"holdTime": "hold-time", "keepaliveTime": "keepalive-time", "connectTime": "connect-time", "routerID": "router-id",
			"nodeSelectors": "node-selectors", "bfdProfile": "bfd-profile", "ebgpMultiHop": "ebgp-multihop",
			"passwordSecret": "password-key", "enableGracefulRestart": "graceful-restart", "dynamicASN": "peer-asn", "interface": "peer-address",
			"vrf": "remove it", "disableMP": "remove it", "dualStackAddressFamily": "remove it",
			"metadata": "as name", "spec": "without spec",
		},
		"address-pools": {
			"autoAssign": "auto-assign", "avoidBuggyIPs": "avoid-buggy-ips", "serviceAllocation": "priority, namespaces and service-selectors",
			"serviceSelectors": "service-selectors", "namespaceSelectors": "namespace-selectors", "bgpAdvertisements": "bgp-advertisements",
			"ipAddressPools": "address-pools", "interfaces": "BGP only",
		},
		"advertisements": {
			"aggregationLength": "aggregation-length", "aggregationLengthV6": "aggregation-length-v6", "localPref": "localpref",
			"ipAddressPools": "address-pools", "ipAddressPoolSelectors": "address-pools", "nodeSelectors": "node-selectors",
		},
		"selector": {"matchLabels": "match-labels", "matchExpressions": "match-expressions"},
		"": {
			"addressPools": "address-pools", "bgpCommunities": "bgp-communities", "bfdProfiles": "bfd-profiles", "ipAddressPools": "address-pools",
			"bgpPeers": "peers", "bgpAdvertisements": "an item of address-pools", "localPref": "an item of advertisements", "peerASN": "an item of peers",
			"autoAssign": "an item of address-pools", "bgppeers": "peers", "localpref": "an item of advertisements", "hold-time": "an item of peers",
		},
	}
	at := map[string]func(key string) string{
		"peers":          func(key string) string { return peer(key + ": x") },
		"address-pools":  func(key string) string { return pool(key + ": x") },
		"advertisements": func(key string) string { return pool("advertisements: [{" + key + ": x}]") },
		"selector":       func(key string) string { return peer("node-selectors: [{" + key + ": x}]") },
		"":               func(key string) string { return key + ": x\n" },
	}
	for place, keys := range fields {
		for key, remedy := range keys {
			got, _, _ := strings.Cut(said(at[place](key)), "\n") // the second line may be about the value
			if !strings.Contains(got, strings.ReplaceAll(key, "Secret", "…")+": is not a key of this configuration: ") || !strings.Contains(got, remedy) {
				t.Errorf("of %s in %q is said %q without %q", key, place, got, remedy)
			}
		}
	}
}

func TestEachErrorShowsWhatIsWritten(t *testing.T) {
	for text, want := range map[string]string{
		"adress-pools: []\n":  `(column 1: "adress-pools: []")`,
		peer("hold-tme: 90s"): `(column 3: "hold-tme: 90s")`,
		peer("name: [tor]"):   `(column 9: "[tor]")`,
		peer("node-selectors: {match-labels: {rack: one}}"):                `(column 19: "{match-labels: {rack: one}}")`,
		"peers:\n- peer-asn: 100\n  my-asn: 42\n":                          `(column 3: "peer-asn: 100")`,
		"address-pools:\n-\n":                                              `(column 2: "-")`,
		"communities: {}\nbgp-communities: {}\n":                           `(column 1: "bgp-communities: {}")`,
		"peers:\n- name: \"a\n":                                            `("- name: \"a")`,
		"peers:\n- peer-address: 10.0.0.1\n  peer-asn: 100\n my-asn: 42\n": `("my-asn: 42")`,
		peer("hold-time: 1s"):                                              `"1s" is too short: use 0 or at least 3s (column 14)`,
		"a: 1\r\npeers: [" + strings.Repeat("x", 100) + "]\r\n":            `"` + strings.Repeat("x", 60) + `…"`,
	} {
		if got := said(text); !strings.Contains(got, want) {
			t.Errorf("of\n%s\nis said\n%s\nwant %s", text, got, want)
		}
	}
}

func TestAnAddressWithSomethingBesideItIsToldTheAddress(t *testing.T) {
	for written, addr := range map[string]string{
		"10.0.0.7/32": "10.0.0.7", "10.0.0.7/24": "10.0.0.7", "10.0.0.7 / 32": "10.0.0.7", "10.0.0.7:179": "10.0.0.7", "010.0.0.07": "10.0.0.7",
		"2001:db8::7/128": "2001:db8::7", "[2001:db8::7]": "2001:db8::7", "[2001:db8::7]:179": "2001:db8::7",
	} {
		want := fmt.Sprintf("%q is more than an address: write %s", written, addr)
		tells(t, "peers: [{peer-address: '"+written+"', peer-asn: 1, my-asn: 2}]", "peer-address: "+want)
		if netip.MustParseAddr(addr).Is4() {
			tells(t, peer("source-address: '"+written+"'"), "source-address: "+want)
			tells(t, peer("router-id: '"+written+"'"), "router-id: "+want)
		}
	}
}

func TestTheSameMistakeInManyPlacesIsToldOnce(t *testing.T) {
	var lines []string
	for range 3 {
		lines = append(lines, "- communities: [vpn_only]")
	}
	text := "communities: {vpn-only: 1:1}\n" + pool(append([]string{"advertisements:"}, lines...)...)
	tells(t, text, `line 6: address-pools[0].advertisements[0].communities[0]: "vpn_only" is neither a name from communities nor a community: did you mean "vpn-only"?; this stands 3 times in all`)

	for range 20 {
		lines = append(lines, "- communities: [vpn_only]")
	}
	text = "communities: {vpn-only: 1:1}\n" + pool(append([]string{"advertisements:"}, lines...)...)
	tells(t, text, "this stands 23 times in all")

	tells(t, pool("advertisements:", "- peers: [spine]", "- peers: [spine]"), `"spine" is the name of no peer`, "this stands 2 times in all")
	// A definition that is wrong is told where it stands, and nowhere else.
	tells(t, "communities: {vpn: 1234}\n"+pool("advertisements: [{communities: [vpn]}]"), `line 1: communities.vpn: "1234" is not a community`)
	tells(t, "communities: {vpn: }\n"+pool("advertisements: [{communities: [vpn]}]"), `line 1: communities.vpn: is empty`)
	// Others are told in all their places.
	if got := strings.Count(said(pool("advertisements:", "- communities: [a_b]", "- communities: [b_c]")), "\n"); got != 1 {
		t.Errorf("two mistakes are told in %d lines", got+1)
	}
}

func TestAdvertisementsThatDifferInCommunitiesOnlyAreToldToBeOne(t *testing.T) {
	// The same community, wrong in the same way, is one mistake.
	tells(t, pool("advertisements:", "- communities: ['064500:1']", "- {communities: ['064500:1'], aggregation-length: 24}"), "write 64500:1; this stands 2 times in all")

	const want = "sends the same prefixes to the same peers as address-pools[0].advertisements[0] on line 5, with other communities: put all communities into one item"
	tells(t, pool("advertisements:", "- communities: [no-export]", "- communities: [no-advertise]"), want)
	tells(t, pool("advertisements:", "- communities: ['large:1:2:3']", "- {}"), want)
	tells(t, pool("advertisements:", "- communities: [no-export]", "- {communities: [no-advertise], localpref: 7}"), "with other attributes: give them different peers")
}
