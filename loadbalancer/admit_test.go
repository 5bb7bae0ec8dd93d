package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// against writes down what a verdict says: lost and untold Services, unpeered Nodes, what is missing, warnings.
func against(v Verdict) string {
	var all []string
	for _, h := range v.Lost {
		all = append(all, "lost "+h.Service)
	}
	for _, h := range v.Untold {
		all = append(all, "untold "+h.Service)
	}
	for _, n := range v.Unpeered {
		all = append(all, "unpeered "+n)
	}
	for _, u := range v.Unfit {
		all = append(all, "unfit "+u.Error())
	}
	for _, m := range v.Waits {
		all = append(all, "waits for "+string(m))
	}
	for _, w := range v.Warnings {
		all = append(all, "warning "+w.Error())
	}
	return strings.Join(all, "; ")
}

// inUse reads "service address" with commas between.
func inUse(short string) (all []Holding) {
	for one := range strings.SplitSeq(short, ", ") {
		service, addr, _ := strings.Cut(one, " ")
		all = append(all, Holding{service, netip.MustParseAddr(addr)})
	}
	return all
}

func TestATextIsAdmittedUnlessAServiceWouldLoseItsAddress(t *testing.T) {
	admitted := parse(t, "address-pools:\n- {name: a, cidr: [10.0.0.0/24]}\n- {name: b, cidr: [10.0.1.0/24]}\n")
	held := inUse("shop/web 10.0.0.7, shop/api 10.0.1.7, shop/old 172.16.0.7") // no pool ever owned the last
	tests := []struct{ name, next, want string }{
		{"unchanged", "address-pools:\n- {name: a, cidr: [10.0.0.0/24]}\n- {name: b, cidr: [10.0.1.0/24]}\n", ""},
		{"other pools own the addresses", "address-pools:\n- {name: c, cidr: [10.0.0.0/23], auto-assign: false, avoid-buggy-ips: true}\n", ""},
		{"only what is held must stay", "address-pools:\n- {name: a, cidr: [10.0.0.7/32, 10.0.1.7/32]}\n", ""},
		{"one is lost", "address-pools:\n- {name: a, cidr: [10.0.0.0/24]}\n", "lost shop/api"},
		{"all are lost", "", "lost shop/web; lost shop/api"},
	}
	for _, test := range tests {
		for _, facts := range []Facts{{Held: held}, {Held: held, NodesKnown: true, KeysKnown: true}} {
			equal(t, against(admitted.Admit(parse(t, test.next), facts)), test.want)
		}
	}
	var none *Config
	equal(t, against(none.Admit(parse(t, ""), Facts{Held: held})), "")
}

func TestATextIsAdmittedUnlessNoAdvertisementWouldBeForAService(t *testing.T) {
	const text = onePeerOnly + `address-pools: [{name: a, cidr: [10.0.0.0/24], advertisements: [{service-selectors: [{match-labels: {tier: gold}}]}, {service-selectors: [{match-labels: {tier: silver}}]}]}]`
	labels := func(service string) map[string]string { return map[string]string{"tier": strings.TrimPrefix(service, "shop/")} }
	held := inUse("shop/gold 10.0.0.1, shop/silver 10.0.0.2, shop/bronze 10.0.0.3, shop/gold 10.0.0.4")
	tests := []struct{ name, next, want string }{
		{"nothing changes", text, ""},
		{"another label", strings.Replace(text, "silver", "brass", 1), "untold shop/silver"},
		{"one of the two advertisements", strings.Replace(text, "gold}}]}", "gold}}], localpref: 7}", 1), ""},
		{"for all", strings.Replace(text, "service-selectors: [{match-labels: {tier: gold}}]", "", 1), ""},
		{"for nobody: who was not told loses nothing", strings.NewReplacer("gold", "tin", "silver", "brass").Replace(text), "untold shop/gold; untold shop/silver; untold shop/gold"},
		{"nobody announces the pool", strings.Replace(text, "name: a", "name: a, advertise: false", 1), "untold shop/gold; untold shop/silver; untold shop/gold"},
	}
	for _, test := range tests {
		facts := Facts{Held: held, Labels: labels, NodesKnown: true, KeysKnown: true, Nodes: []Node{{Name: "n1"}}}
		equal(t, test.name+": "+against(parse(t, text).Admit(parse(t, test.next), facts)), test.name+": "+test.want)
		facts.NodesKnown = false
		if waits := against(parse(t, text).Admit(parse(t, test.next), facts)); (test.next == text) != (waits == "") {
			t.Errorf("%s, and Nodes are not known: %q", test.name, waits)
		}
	}
}

func TestATextIsAdmittedUnlessANodeLacksItsOwnASNumber(t *testing.T) {
	const text = onePeerOnly + "address-pools: [{name: a, cidr: [10.0.0.0/24]}]"
	next := strings.Replace(text, "my-asn: 42", "my-asn: node, router-id: node", 1)
	n1 := Node{Name: "n1", Annotations: map[string]string{"metallb.io/my-asn": "65001", "metallb.universe.tf/router-id": "10.0.0.1"}}
	n2 := Node{Name: "n2", Annotations: map[string]string{"metallb.io/my-asn": "banana", "metallb.io/router-id": "10.0.0.2"}}
	for _, test := range []struct {
		admitted, next string
		nodes          []Node
		want           string
	}{
		{text, next, []Node{n1}, ""},
		{text, next, []Node{n1, n2}, "unpeered n2"},
		{text, next, []Node{n2}, "untold shop/web; unpeered n2"},
		{next, next, []Node{n2}, ""}, // a session that is there goes on
	} {
		facts := Facts{Held: inUse("shop/web 10.0.0.1"), NodesKnown: true, KeysKnown: true, Nodes: test.nodes}
		equal(t, against(parse(t, test.admitted).Admit(parse(t, test.next), facts)), test.want)
	}
}

const onePeerOnly = "peers: [{peer-address: 10.9.0.1, peer-asn: 100, my-asn: 42}]\n"

// Two racks, each with a router; spine-a is for all.
const twoRacks = `
peers:
- {name: tor-a, peer-address: 10.9.0.1, peer-asn: 100, my-asn: 42, node-selectors: [{match-labels: {rack: a}}]}
- {name: tor-b, peer-address: 10.9.0.2, peer-asn: 100, my-asn: 42, node-selectors: [{match-labels: {rack: b}}], password-key: tor-b}
address-pools:
- {name: all, cidr: [10.0.0.0/24]}
- {name: a-only, cidr: [10.0.1.0/24], advertisements: [{peers: [tor-a]}]}
- {name: b-only, cidr: [10.0.2.0/24], advertisements: [{node-selectors: [{match-labels: {rack: b}}]}]}
`

func TestATextIsAdmittedUnlessANodeWouldHaveNoPeerOrAnAddressNoRoute(t *testing.T) {
	nodes := []Node{
		{Name: "n2", Labels: map[string]string{"rack": "b"}, InternalIPs: []netip.Addr{netip.MustParseAddr("10.8.0.2")}},
		{Name: "n1", Labels: map[string]string{"rack": "a"}, InternalIPs: []netip.Addr{netip.MustParseAddr("10.8.0.1")}},
		{Name: "n3"}, // it has no peer, and cannot lose one
	}
	held := inUse("shop/web 10.0.0.1, shop/left 10.0.1.1, shop/right 10.0.2.1, shop/old 172.16.0.7")
	edit := func(from, to string) string {
		next := strings.ReplaceAll(twoRacks, from, to)
		if next == twoRacks {
			t.Fatalf("nothing says %s", from)
		}
		return next
	}
	const peersGone = "unpeered n1; unpeered n2"
	torB := edit(`, password-key: tor-b`, ``)
	tests := []struct {
		name, admitted, next string
		nodes                []Node // the three, if nil
		keys                 string // "-": the Secret cannot be read
		want                 string
	}{
		{name: "nothing changes", next: twoRacks, keys: "tor-b"},
		{name: "an unrelated edit while the key is gone: a session that is up goes on", next: edit("name: all", "name: everybody"),
			want: "warning peers[1].password-key: Secret metallb-bgp-auth has no value under this key: write the password there; until then no new session comes up"},
		{name: "the other peer is edited while the key is gone", next: edit("10.9.0.1", "10.9.0.9"), want: "warning peers[1]"},
		{name: "this peer is edited while the key is gone", next: edit("10.9.0.2", "10.9.0.9"), want: "untold shop/right; unpeered n2; warning peers[1]"},
		{name: "and while it is there", next: edit("10.9.0.2", "10.9.0.9"), keys: "tor-b"},
		{name: "the peer comes to a Node that had none, without its key", next: edit("node-selectors: [{match-labels: {rack: b}}], password-key", "password-key"), want: "warning peers[1]"},
		{name: "the inline password becomes a key before its Secret exists", admitted: edit("password-key: tor-b", "password: hunter2"), next: twoRacks, want: "untold shop/right; unpeered n2; warning peers[1]"},
		{name: "the Secret comes", admitted: edit("password-key: tor-b", "password: hunter2"), next: twoRacks, keys: "tor-b"},
		{name: "the key becomes another that has no value", next: edit("password-key: tor-b", "password-key: tor-2"), keys: "tor-b", want: "untold shop/right; unpeered n2; warning peers[1]"},
		{name: "the key goes", next: torB},

		{name: "no peers", admitted: torB, next: "peers: []\naddress-pools:\n- {name: all, cidr: [10.0.0.0/16]}\n", want: "untold shop/web; untold shop/left; untold shop/right; " + peersGone},
		{name: "peers of no Node", admitted: torB, next: strings.ReplaceAll(torB, "rack:", "shelf:"), want: "untold shop/web; untold shop/left; untold shop/right; " + peersGone},
		{name: "one of them", admitted: torB, next: strings.ReplaceAll(torB, "rack: a", "rack: c"), want: "untold shop/left; unpeered n1"},
		{name: "where that Node does not exist, nothing is lost", admitted: torB, next: strings.ReplaceAll(torB, "rack: a", "rack: c"), nodes: nodes[:1]},
		{name: "racks change places", admitted: torB, next: strings.NewReplacer("rack: a", "rack: b", "rack: b", "rack: a").Replace(torB)},
		{name: "a wrong number and address of a peer that still exists", admitted: torB, next: strings.NewReplacer("my-asn: 42", "my-asn: 43", "10.9.0.1", "10.9.0.77").Replace(torB)},
		{name: "a peer's name", admitted: torB, next: strings.ReplaceAll(torB, "tor-a", "tor-1")},
		{name: "advertisements for a peer that the Node does not have", admitted: torB, next: strings.ReplaceAll(torB, "{node-selectors: [{match-labels: {rack: b}}]}]", "{peers: [tor-a], node-selectors: [{match-labels: {rack: b}}]}]"), want: "untold shop/right"},
		{name: "advertisements for no Node", admitted: torB, next: strings.ReplaceAll(torB, "name: all, cidr: [10.0.0.0/24]", "name: all, cidr: [10.0.0.0/24], advertisements: [{node-selectors: [{match-labels: {rack: z}}]}]"), want: "untold shop/web"},
		{name: "fewer Nodes, but some", admitted: torB, next: strings.ReplaceAll(torB, "name: all, cidr: [10.0.0.0/24]", "name: all, cidr: [10.0.0.0/24], advertisements: [{peers: [tor-b]}]")},
		{name: "another pool comes to own the address", admitted: torB, next: strings.NewReplacer("[10.0.0.0/24]", "[10.0.0.0/24, 10.0.1.0/24]", "[10.0.1.0/24], ", "[10.0.3.0/24], ").Replace(torB)},
		{name: "what nobody was told of before is not guarded", admitted: "peers: []\naddress-pools:\n- {name: all, cidr: [10.0.0.0/16]}\n", next: "address-pools:\n- {name: all, cidr: [10.0.0.0/16], advertisements: [{node-selectors: [{match-labels: {rack: z}}]}]}\n"},
		{name: "an address that is lost is not untold as well", admitted: torB, next: strings.ReplaceAll(torB, "[10.0.1.0/24]", "[10.0.3.0/24]"), want: "lost shop/left"},

		{name: "without Nodes, an edit of peers waits", next: edit("10.9.0.1", "10.9.0.77"), nodes: []Node{}, keys: "tor-b", want: "waits for nodes"},
		{name: "one of advertisements too", next: edit("peers: [tor-a]", "localpref: 7"), nodes: []Node{}, keys: "tor-b", want: "waits for nodes"},
		{name: "an address is lost at any rate", next: edit("cidr: [10.0.1.0/24], advertisements: [{peers: [tor-a]}]", "cidr: [10.0.3.0/24]"), nodes: []Node{}, keys: "tor-b", want: "lost shop/left"},
		{name: "other edits do not wait", next: edit("name: all", "priority: 7, name: everybody"), nodes: []Node{}, keys: "tor-b"},
		{name: "a pool that is new does not", next: twoRacks + "- {name: new, cidr: [10.0.7.0/24], advertisements: [{localpref: 7}]}\n", nodes: []Node{}, keys: "tor-b"},
		{name: "without the Secret, a new peer with a key waits", next: edit("10.9.0.2", "10.9.0.77"), keys: "-", want: "waits for secrets"},
		{name: "one without a key does not", next: edit("10.9.0.1", "10.9.0.77"), keys: "-"},

		{name: "a Node in a pool", next: edit("cidr: [10.0.2.0/24]", "cidr: [10.0.2.0/24, 10.8.0.0/31]"), keys: "tor-b",
			want: `warning address-pools[2]: pool "b-only" owns 10.8.0.1, which is Node n1's own address: it is not handed out; take it out of the pool`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			admitted := twoRacks
			if test.admitted != "" {
				admitted = test.admitted
			}
			facts := Facts{Nodes: nodes, NodesKnown: true, Held: held, KeysKnown: test.keys != "-", Keys: map[string]bool{test.keys: true}}
			if test.nodes != nil {
				facts.Nodes, facts.NodesKnown = test.nodes, len(test.nodes) > 0
			}
			v := parse(t, admitted).Admit(parse(t, test.next), facts)
			if got := against(v); got != test.want && !(strings.HasSuffix(test.want, "warning peers[1]") && strings.HasPrefix(got, test.want) && len(v.Warnings) == 1) {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
			if v.Admits() != !strings.ContainsAny(strings.Split(";"+test.want, "warning")[0], "luw") {
				t.Errorf("admits: %t", v.Admits())
			}
			if left := v.But(Renumber); len(left.Lost) > 0 || len(left.Unpeered) != len(v.Unpeered) || len(left.Untold) != len(v.Untold) || len(left.Waits) != len(v.Waits) {
				t.Errorf("after consent to renumbering: %s", against(left))
			}
			if !v.But(Confirm).Admits() || len(v.But(NoConsent).Losers()) != len(v.Losers()) {
				t.Errorf("after confirmation: %s", against(v.But(Confirm)))
			}
			var none *Config
			if v := none.Admit(parse(t, test.next), facts); !v.Admits() {
				t.Errorf("as the first: %s", against(v))
			}
		})
	}
}

func TestWhatNoTextMayBringIsAWarningWhereTheTextInForceHasIt(t *testing.T) {
	const head = "address-pools:\n"
	one := func(span string) string { return head + "- {name: x, cidr: ['" + span + "']}\n" }
	problem := func(span, network, what string) string {
		return "line 2: address-pools[0].cidr[0]: \"" + span + "\" holds " + network + ", which " + what + ": take it out of the pool (column 20)"
	}
	for span, want := range map[string]string{
		"127.0.0.0/24":                  problem("127.0.0.0/24", "127.0.0.0/8", "are loopback addresses (RFC 1122)"),
		"0.0.0.0/8":                     problem("0.0.0.0/8", "0.0.0.0/8", "stand for no host (RFC 1122)"),
		"169.254.0.0/24":                problem("169.254.0.0/24", "169.254.0.0/16", "are link-local (RFC 3927)"),
		"224.0.0.0/24":                  problem("224.0.0.0/24", "224.0.0.0/4", "are multicast (RFC 5771)"),
		"255.255.255.255/32":            problem("255.255.255.255/32", "255.255.255.255/32", "is the broadcast address (RFC 919)"),
		"240.0.0.0/24":                  problem("240.0.0.0/24", "240.0.0.0/4", "are reserved (RFC 1112), so that hosts drop them"),
		"223.255.255.0-224.0.0.7":       problem("223.255.255.0-224.0.0.7", "224.0.0.0/4", "are multicast (RFC 5771)"),
		"::1/128":                       problem("::1/128", "::1/128", "is the loopback address (RFC 4291)"),
		"::/128":                        problem("::/128", "::/128", "stands for no host (RFC 4291)"),
		"fe80::/64":                     problem("fe80::/64", "fe80::/10", "are link-local (RFC 4291)"),
		"ff02::/64":                     problem("ff02::/64", "ff00::/8", "are multicast (RFC 4291)"),
		"223.255.255.0/24":              "",
		"126.255.255.0-126.255.255.255": "",
		"2001:db8::/64":                 "",
	} {
		var none *Config
		next, other := parse(t, one(span)), parse(t, one("10.0.0.0/24"))
		expect := func(said string) string {
			if want == "" {
				return ""
			}
			return said + " " + want
		}
		equal(t, against(none.Admit(next, Facts{})), expect("unfit"))
		equal(t, against(other.Admit(next, Facts{NodesKnown: true}).But(Confirm)), expect("unfit"))
		tolerated, _, err := ParseAdmitted([]byte(one(span)))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, against(tolerated.Admit(next, Facts{})), expect("warning"))
	}
	// Less of what was admitted is tolerated, and more is not.
	equal(t, len(parse(t, one("127.0.0.0/24")).Admit(parse(t, one("127.0.0.0/25")), Facts{}).Unfit), 0)
	equal(t, len(parse(t, one("127.0.0.0/25")).Admit(parse(t, one("127.0.0.0/24")), Facts{}).Unfit), 1)

	octal := func(n string) *Config { return parse(t, peer("peer-port: "+n)) }
	equal(t, against(octal("179").Admit(octal("010"), Facts{NodesKnown: true})),
		`unfit line 5: peers[0].peer-port: "010" is 8 to some readers of YAML and something else to others: write the decimal number that you mean (column 14)`)
	equal(t, octal("010").Admit(octal("010"), Facts{}).Admits(), true)
}

func TestAPoolThatHoldsARouterIsWarnedOf(t *testing.T) {
	next := parse(t, peer("peer-port: 179")+"address-pools:\n- {name: lan, cidr: [10.0.0.0/29]}\n")
	equal(t, against(next.Admit(next, Facts{NodesKnown: true})),
		`warning peers[0].peer-address: pool "lan" owns the router's own address 10.0.0.1: it is not handed out; take it out of the pool`)
}

func TestARefusalSaysWhoLosesWhatAndWhatToDo(t *testing.T) {
	tests := []struct {
		name string
		v    Verdict
		want []string
	}{
		{"nothing", Verdict{Warnings: Problems{{Text: "x"}}}, nil},
		{"one of each", Verdict{Lost: inUse("shop/web 10.0.0.1"), Unpeered: []string{"n1"}, Untold: inUse("shop/api 10.0.0.2")}, []string{
			"Node n1 would have no peer: keep one whose node-selectors select it and whose password-key has a value, or annotate this ConfigMap with metallb.universe.tf/confirm: 1234 to let such Nodes announce nothing",
			"no peer would be told of the address of Service shop/api, 10.0.0.2: keep an advertisement for it whose peers and node-selectors fit a Node, or annotate this ConfigMap with metallb.universe.tf/confirm: 1234 to let such Services be unreachable",
			"no pool would own the address of Service shop/web, 10.0.0.1: keep a pool that does, or delete the Service, or annotate this ConfigMap with metallb.universe.tf/renumber: 1234 to move such Services",
		}},
		{"many", Verdict{Lost: inUse("a/a 10.0.0.1, b/b 10.0.0.2, c/c 10.0.0.3"), Unpeered: []string{"n1", "n2"}}, []string{
			"Node n1 and 1 more would have no peer: keep one whose node-selectors select it and whose password-key has a value, or annotate this ConfigMap with metallb.universe.tf/confirm: 1234 to let such Nodes announce nothing",
			"no pool would own the address of Service a/a, 10.0.0.1 and 2 more: keep a pool that does, or delete the Service, or annotate this ConfigMap with metallb.universe.tf/renumber: 1234 to move such Services",
		}},
		{"it waits", Verdict{Waits: []Missing{MissingNodes, MissingSecret}}, []string{
			"the text changes peers or advertisements, and nobody can tell what that does while the controller manager cannot read nodes: let it list and watch them, or annotate this ConfigMap with metallb.universe.tf/confirm: 1234",
			"the text has a new peer with a password-key, and nobody can tell what that does while the controller manager cannot read secrets: let it list and watch them, or annotate this ConfigMap with metallb.universe.tf/confirm: 1234",
		}},
	}
	for _, test := range tests {
		if got := test.v.Reasons("1234"); !slices.Equal(got, test.want) {
			t.Errorf("%s:\n got %q\nwant %q", test.name, got, test.want)
		}
	}
}

func TestARefusalForWantOfAPasswordNamesThePeerAndTheKeyFirst(t *testing.T) {
	nodes := []Node{{Name: "n1", Labels: map[string]string{"rack": "a"}}, {Name: "n2", Labels: map[string]string{"rack": "b"}}}
	held := inUse("shop/left 10.0.1.1")
	keyA := strings.Replace(twoRacks, "rack: a}}]", "rack: a}}], password-key: tor-a", 1)
	spine := strings.Replace(twoRacks, "peers:\n", "peers:\n- {name: spine, peer-address: 10.9.0.3, peer-asn: 100, my-asn: 42}\n", 1)
	const lacks = `peers[%d].password-key: Secret metallb-bgp-auth has no value under key %q: write it first`
	for _, test := range []struct {
		then, admitted, next string
		want                 []string // the first reasons, and how the one after begins
	}{
		{"a peer comes to have a key", twoRacks, keyA, []string{fmt.Sprintf(lacks, 0, "tor-a"), "Node n1 would have no peer"}},
		{"its Node has another peer, and its pool none", spine, strings.Replace(spine, "rack: a}}]", "rack: a}}], password-key: tor-a", 1), []string{fmt.Sprintf(lacks, 1, "tor-a"), "no peer would be told"}},
		{"two peers", twoRacks, strings.NewReplacer("10.9.0.2", "10.9.0.9").Replace(keyA), []string{fmt.Sprintf(lacks, 0, "tor-a") + "\n" + fmt.Sprintf(lacks, 1, "tor-b"), "Node n1 and 1 more would have no peer"}},
		{"no key would help this Node", twoRacks, strings.Replace(twoRacks, "rack: a", "rack: c", 1), []string{"Node n1 would have no peer"}},
		{"nor this key", twoRacks, strings.NewReplacer("rack: a", "rack: c", "10.9.0.2", "10.9.0.9").Replace(twoRacks), []string{fmt.Sprintf(lacks, 1, "tor-b"), "Node n1 and 1 more would have no peer"}},
	} {
		v := parse(t, test.admitted).Admit(parse(t, test.next), Facts{Nodes: nodes, NodesKnown: true, Held: held, KeysKnown: true})
		got := v.Reasons("1234")
		if len(got) < len(test.want) {
			t.Fatalf("%s: %q", test.then, got)
		}
		for i, want := range test.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: reason %d is %q, want %q", test.then, i, got[i], want)
			}
		}
		if left := v.But(Confirm); len(left.Reasons("1234")) > 0 {
			t.Errorf("%s: after confirmation, %q", test.then, left.Reasons("1234"))
		}
	}
}

// The verdict is reached under the lock that allocates: a large cluster must not make it slow.
func BenchmarkAdmit(b *testing.B) {
	text := lengthy(100, 100)
	c, next := parse(b, string(text)), parse(b, strings.ReplaceAll(string(text), "rack: r", "shelf: r"))
	facts := Facts{NodesKnown: true, KeysKnown: true}
	for i := range 1000 {
		facts.Nodes = append(facts.Nodes, Node{Name: fmt.Sprint("n", i), Labels: map[string]string{"rack": fmt.Sprint("r", i)}})
	}
	for i := range 50_000 {
		facts.Held = append(facts.Held, Holding{"shop/web", netip.AddrFrom4([4]byte{10, byte(i % 100), byte(i % 100), byte(i / 100)})})
	}
	for b.Loop() {
		if v := c.Admit(next, facts); len(v.Unpeered) != 100 {
			b.Fatal(len(v.Unpeered))
		}
	}
}
