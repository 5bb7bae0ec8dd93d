package loadbalancer

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
)

var (
	holdTime      = period{3 * time.Second, math.MaxUint16 * time.Second, true, "0 or at least 3s"}
	keepaliveTime = period{time.Second, math.MaxUint16 * time.Second, false, "1s up to the hold-time"}
	connectTime   = period{time.Second, math.MaxUint16 * time.Second, false, "1s to 65535s"}
	restartTime   = period{time.Second, 4095 * time.Second, false, "1s to 4095s"} // 12 bits (RFC 4724 §3)
)

// name reads the name of an item, and notes in names where it stands.
func (r *reader) name(names map[string]value, noun string, item, v value) string {
	name, ok := r.text(v)
	if ok && name == "" {
		r.problem(v, "is empty: write a name")
	}
	if name == "" {
		return ""
	}
	r.named(v, noun)
	if before, twice := names[name]; twice {
		r.problem(item, "%s is a %s named %s as well: give one of them another name", place(before), noun, r.quote(v))
		return name
	}
	names[name] = item
	return name
}

// peers adds the peers to the configuration and returns where each name stands.
func (r *reader) peers(config *Config, list value, profiles map[string]value) map[string]value {
	names := map[string]value{}
	items := r.items(list)
	for _, item := range items {
		config.Peers = append(config.Peers, r.peer(item, names, profiles))
	}
	first := map[netip.AddrPort]int{}
	for i, p := range config.Peers {
		router := netip.AddrPortFrom(p.Addr, p.Port)
		j, twice := first[router]
		if !twice {
			first[router] = i
		} else if p.Addr.IsValid() && p.SameRouter(config.Peers[j]) && overlap(p.NodeSelectors, config.Peers[j].NodeSelectors) {
			r.warn(items[i], "is the same router as %s: a node that has both speaks to the first only: keep one, or give them node-selectors that select different nodes", place(items[j]))
		}
	}
	r.nameAfterAddresses(config.Peers, items, names)
	return names
}

// nameAfterAddresses gives each peer without a name that of its address. MetalLB knows no names, and its configurations may have
// several sessions with one router, from different nodes or to different ports: 10.0.0.1, 10.0.0.1#2 and so on. A name that
// somebody wrote goes before one that we make up.
func (r *reader) nameAfterAddresses(peers []Peer, items []value, names map[string]value) {
	last, equals := map[netip.Addr]int{}, map[string]value{}
	for i := range peers {
		p := &peers[i]
		if p.Name != "" || !p.Addr.IsValid() {
			continue
		}
		written := fmt.Sprintf("%+v %s", *p, string(p.Password))
		if before, twice := equals[written]; twice && !r.tolerant { // a key that we skipped may be what differs
			r.problem(items[i], "is the same peer as %s: keep one", place(before))
			continue
		}
		equals[written] = items[i]
		taken := func(name string) bool { _, ok := names[name]; return ok }
		for p.Name = p.Addr.String(); taken(p.Name); p.Name = fmt.Sprintf("%s#%d", p.Addr, 1+last[p.Addr]) {
			last[p.Addr]++
		}
		names[p.Name] = items[i]
	}
}

// overlap reports whether both select some node, as far as the text alone shows it: they are equal, or one selects every node.
func overlap(a, b []Selector) bool {
	return len(a) == 0 || len(b) == 0 || reflect.DeepEqual(a, b) ||
		slices.ContainsFunc(slices.Concat(a, b), func(s Selector) bool { return len(s) == 0 })
}

// peer reads a peer. Its name is empty if the operator wrote none.
func (r *reader) peer(v value, names, profiles map[string]value) Peer {
	f, ok := r.fields(v, peerKeys)
	if !ok {
		return Peer{}
	}
	r.require(v, f, "peer-address", "write the router's IP address")
	r.require(v, f, "peer-asn", "write the router's AS number")
	r.require(v, f, "my-asn", "write the AS number of your cluster")
	p := Peer{
		Name:          r.name(names, "peer", v, f["name"]),
		Addr:          r.peerAddress(f["peer-address"]),
		Port:          cmp.Or(uint16(r.number(f["peer-port"], 0, math.MaxUint16, 179)), 179), // 0 as in MetalLB
		RouterID:      r.routerID(f["router-id"]),
		TTL:           r.flagOrNumber(f["ebgp-multihop"], 255, 1, 255, "a TTL"),
		RestartTime:   r.gracefulRestart(f["graceful-restart"]),
		BFDProfile:    r.bfdProfileOf(f["bfd-profile"], profiles),
		NodeSelectors: r.selectors(f["node-selectors"]),
	}
	var word string
	p.ASN, word = r.asn(f["peer-asn"], "external", "internal")
	p.Relation = map[string]Relation{"external": External, "internal": Internal}[word]
	p.MyASN, word = r.asn(f["my-asn"], fromNode)
	p.MyASNFromNode = word == fromNode
	p.RouterIDFromNode = says(f["router-id"], fromNode)
	p.ConnectTime = r.seconds(f["connect-time"], connectTime, 15*time.Second)
	p.HoldTime, p.KeepaliveTime = r.holdTimes(f["hold-time"], f["keepalive-time"])
	p.SourceAddress, p.SourceNodeIP = r.sourceAddress(f["source-address"], p.Addr)
	multihop := f["ebgp-multihop"]
	if p.TTL != 0 && p.IBGP() {
		if allowed, isFlag := boolean(multihop); allowed || !isFlag {
			r.wrong(multihop, "is for eBGP, and peer-asn %s: remove it", map[bool]string{false: "equals my-asn", true: "is internal"}[p.Relation == Internal])
		}
		p.TTL = 0
	}
	if hops := r.flagOrNumber(f["ttl-security"], 1, 0, 254, "how many hops away the router is,"); hops > 0 {
		if !multihop.absent() {
			r.problem(multihop, "contradicts %s: keep one", place(f["ttl-security"]))
		}
		p.TTL, p.MinTTL = math.MaxUint8, math.MaxUint8-(hops-1)
	}
	p.Password, p.PasswordKey = r.password(f["password"], f["password-key"])
	return p
}

func (r *reader) peerAddress(v value) netip.Addr {
	addr, ok := r.address(v, func(a netip.Addr) bool {
		return !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}, "is not an IP address that a router can have: write the router's own, and no name")
	if ok && addr.IsLinkLocalUnicast() && addr.Is6() && addr.Zone() == "" {
		r.wrong(v, "is link-local: add the interface, as in %s%%eth0", addr)
	}
	return addr
}

// fromNode is what stands for an annotation of the Node.
const fromNode = "node"

// says reports whether a value is this word.
func says(v value, word string) bool {
	return !v.absent() && v.node.Kind == yaml.ScalarNode && strings.TrimSpace(v.node.Value) == word
}

// asn reads an AS number, or one of some words instead.
func (r *reader) asn(v value, words ...string) (number uint32, word string) {
	for _, word := range words {
		if says(v, word) {
			return 0, word
		}
	}
	return read(r, v, func(v value) (uint32, bool) {
		n, ok := integer(v)
		return uint32(n), ok && 1 <= n && n <= math.MaxUint32
	}, "is not possible here", "use a whole number from 1 to 4294967295, or "+strings.Join(words, " or "), 0), ""
}

func (r *reader) routerID(v value) netip.Addr {
	if says(v, fromNode) {
		return netip.Addr{}
	}
	id, _ := r.address(v, isRouterID, "is not a router ID: write an IPv4 address other than 0.0.0.0, or node")
	return id
}

func isRouterID(a netip.Addr) bool { return a.Is4() && !a.IsUnspecified() }

func (r *reader) sourceAddress(v value, peer netip.Addr) (addr netip.Addr, nodeIP bool) {
	if !v.absent() && strings.TrimSpace(v.node.Value) == "node-ip" {
		return netip.Addr{}, true
	}
	addr, ok := r.address(v, func(a netip.Addr) bool { return !a.IsUnspecified() && !a.IsMulticast() },
		"is not an address of a node: write an IP address or node-ip")
	if ok && peer.IsValid() && addr.Is4() != peer.Is4() {
		r.wrong(v, "is not of the same IP version as the peer-address %s: write an address of that version, or node-ip", peer)
	}
	return addr, false
}

func (r *reader) holdTimes(holdAt, keepaliveAt value) (hold, keepalive time.Duration) {
	before := len(r.problems)
	hold = r.seconds(holdAt, holdTime, 90*time.Second)
	if hold == 0 {
		if !keepaliveAt.absent() {
			if d, ok := duration(keepaliveAt); !ok || d != 0 {
				r.wrong(keepaliveAt, "has no meaning with hold-time 0: remove it")
			}
		}
		return 0, 0
	}
	keepalive = r.seconds(keepaliveAt, keepaliveTime, hold/3)
	if len(r.problems) == before && keepalive > hold {
		r.wrong(keepaliveAt, "is longer than the hold-time of %s: use at most a third of it", hold)
	}
	return hold, keepalive
}

func (r *reader) gracefulRestart(v value) time.Duration {
	const usual = 120 * time.Second
	switch {
	case !v.absent() && v.node.Kind == yaml.MappingNode:
		f, _ := r.fields(v, restartKeys)
		return r.seconds(f["restart-time"], restartTime, usual)
	case read(r, v, boolean, "is not possible here", "use true, false or {restart-time: 120s}", true):
		return usual
	}
	return 0
}

var secretKey = regexp.MustCompile(`^[-_.A-Za-z0-9]+$`)

// maxPassword is how long a password of TCP MD5 may be, in bytes: Linux's TCP_MD5SIG_MAXKEYLEN.
const maxPassword = 80

// password reads the password of a peer, or where it is. An empty one is none, as in MetalLB: YAML may have made it of another.
func (r *reader) password(inline, key value) (password Secret, passwordKey string) {
	text, inlineOK := r.untagged(inline)
	passwordKey, keyOK := r.untagged(key)
	if text != "" && passwordKey != "" {
		r.problem(key, "stands here as well as %s: keep one", place(inline))
		return "", ""
	}
	switch {
	case len(text) > maxPassword:
		r.problem(inline, "is longer than %d bytes, which is the most that TCP MD5 takes: choose a shorter one", maxPassword)
	case text != "":
		r.warn(inline, "everybody who may read this ConfigMap can read it: put it into Secret metallb-bgp-auth, and name its key as password-key")
	case inlineOK && passwordKey != "":
		r.warn(inline, "is empty, and password-key counts: remove this one")
	case inlineOK:
		r.warn(inline, "the password is empty, so the session has none: if yours begins with #, !, & or *, put it in quotes; else remove the key")
	}
	switch {
	case passwordKey != "" && (len(passwordKey) > 253 || !secretKey.MatchString(passwordKey)):
		r.problem(key, "is not a key that a Secret can have: write letters, digits, \"-\", \"_\" and \".\"")
	case passwordKey == "" && keyOK && text == "":
		r.warn(key, "names no key of Secret metallb-bgp-auth, so the session has no password: write the key, or remove this one")
	}
	return Secret(text), passwordKey
}

// untagged reads a text that YAML may have made shorter than it was meant. It reports false if there is none or it is no text;
// null is one without letters.
func (r *reader) untagged(v value) (text string, ok bool) {
	if v.node == nil {
		return "", false
	}
	if v.node.Style&yaml.TaggedStyle != 0 || strings.HasPrefix(r.from(v.node.Line, v.node.Column), "!") {
		r.doubt(v, "tag of a password", netipx.IPRange{}, "").Text = "begins with !, of which YAML makes a tag: put it in quotes"
	}
	if v.absent() {
		return "", true
	}
	return r.text(v)
}
