package loadbalancer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
)

// MaxSize is the longest configuration that Parse reads, in bytes: half of what fits into a ConfigMap, so that the
// admitted copy and its remarks fit into one as well.
const MaxSize = 512 << 10

// Parse reads the operator's text. The error is of type Problems and names everything wrong with the text, in its order.
// Warnings concern what was accepted and yet may not be what the operator thinks.
func Parse(text []byte) (config *Config, warnings Problems, err error) {
	r := &reader{}
	config = r.config(text)
	if len(r.problems) > 0 {
		return nil, nil, r.all()
	}
	return config, few(inOrder(r.warnings)), nil
}

// ParseAdmitted reads a text that some version of Parse has accepted, perhaps an earlier or a later one than this. It skips
// keys that this version does not know, so that a rollback loses no other routes, and returns how many it skipped. Labels and
// namespaces that cannot exist, which earlier versions did not refuse, are read as written: nothing has them.
func ParseAdmitted(text []byte) (config *Config, ignored int, err error) {
	r := &reader{tolerant: true}
	config = r.config(text)
	if len(r.problems) > 0 {
		return nil, 0, r.all()
	}
	return config, r.ignored, nil
}

func (r *reader) all() Problems {
	problems := inOrder(r.problems)
	if r.unlisted > 0 {
		problems = append(problems, Problem{Text: fmt.Sprintf("there are %d more problems: solve these first", r.unlisted)})
	}
	return problems
}

// few keeps the first warnings and counts the others: each becomes an event.
func few(warnings Problems) Problems {
	const most = 20
	if more := len(warnings) - most; more > 0 {
		warnings = append(warnings[:most:most], Problem{Text: fmt.Sprintf("there are %d more warnings", more)})
	}
	return warnings
}

func inOrder(problems Problems) Problems {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	return problems
}

var (
	configKeys = []key{
		{name: "peers"},
		{name: "communities", synonym: "bgp-communities"},
		{name: "address-pools"},
		{name: "drain"},
		{name: "bfd-profiles", standing: unused},
	}
	peerKeys = []key{
		{name: "name"},
		{name: "peer-address"},
		{name: "peer-asn"},
		{name: "my-asn"},
		{name: "peer-port"},
		{name: "hold-time"},
		{name: "keepalive-time"},
		{name: "connect-time"},
		{name: "router-id"},
		{name: "source-address"},
		{name: "password"},
		{name: "password-key"},
		{name: "ebgp-multihop"},
		{name: "ttl-security"},
		{name: "graceful-restart"},
		{name: "node-selectors"},
		{name: "bfd-profile", standing: unused},
	}
	poolKeys = []key{
		{name: "name"},
		{name: "protocol"},
		{name: "cidr", synonym: "addresses"},
		{name: "auto-assign"},
		{name: "avoid-buggy-ips"},
		{name: "namespaces"},
		{name: "service-selectors"},
		{name: "priority"},
		{name: "share-across-namespaces"},
		{name: "advertisements", synonym: "bgp-advertisements"},
		{name: "namespace-selectors", standing: later},
		{name: "reservations", standing: later},
		{name: "quotas", standing: later},
		{name: "hold-down", standing: later},
	}
	advertisementKeys = []key{
		{name: "aggregation-length"},
		{name: "aggregation-length-v6"},
		{name: "localpref"},
		{name: "communities"},
		{name: "peers"},
		{name: "node-selectors"},
		{name: "as-path-prepend"},
		{name: "link-bandwidth"},
	}
	drainKeys      = []key{{name: "taints"}, {name: "labels"}, {name: "withdraw-after"}}
	restartKeys    = []key{{name: "restart-time"}}
	selectorKeys   = []key{{name: "match-labels"}, {name: "match-expressions"}}
	expressionKeys = []key{{name: "key"}, {name: "operator"}, {name: "values"}}
)

func (r *reader) config(text []byte) *Config {
	root, ok := r.document(text)
	if !ok {
		return nil
	}
	fields, _ := r.fields(root, configKeys)
	config := &Config{Drain: r.drain(fields["drain"])}

	peers := r.peers(config, fields["peers"])
	defined := r.communities(fields["communities"])
	var entries []entry
	names := newNames("pool")
	for _, v := range r.items(fields["address-pools"]) {
		pool, ranges := r.pool(v, len(config.Pools), defined, peers)
		r.name(names, v, pool.Name)
		if len(ranges) > 0 {
			config.Pools = append(config.Pools, pool)
			entries = append(entries, ranges...)
		}
	}
	r.apart(entries)
	for _, e := range entries {
		config.owners = append(config.owners, owner{e.IPRange, e.pool})
		if special, what := specialIn(e.IPRange); special.IsValid() {
			r.doubt(e.at, "special", e.IPRange, "%s holds %s, which %s: take it out of the pool", r.quote(e.at), special, what)
		}
	}
	config.doubts = r.doubts
	return config
}

// document returns the root of the one YAML document in the text; an empty text is an empty mapping.
func (r *reader) document(text []byte) (value, bool) {
	if len(text) > MaxSize {
		r.problem(value{}, "the configuration is longer than %d KiB: name ranges instead of single addresses", MaxSize>>10)
		return value{}, false
	}
	if at, ok := unreadable(text); ok {
		r.problems = append(r.problems, at)
		return value{}, false
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return value{}, true
	} else if err != nil {
		r.problems = append(r.problems, syntax(text, err))
		return value{}, false
	}
	if err := decoder.Decode(&second); err == nil {
		r.problem(value{node: &second}, "a second YAML document begins here: keep one")
		return value{}, false
	} else if !errors.Is(err, io.EOF) {
		r.problems = append(r.problems, syntax(text, err))
		return value{}, false
	}
	r.hide(&document, false)
	root, ok := r.visit(document.Content[0])
	return value{node: root}, ok
}

// unreadable finds the first character that YAML does not allow. The YAML library does not say where it is.
func unreadable(text []byte) (Problem, bool) {
	line, column := 1, 1
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRune(text[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			return Problem{Line: line, Column: column, Text: "this is not UTF-8 text: save the file as UTF-8"}, true
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c >= 0x7f && c < 0xa0 && c != 0x85, c == 0xfffe, c == 0xffff:
			return Problem{Line: line, Column: column, Text: fmt.Sprintf("the character %U is not allowed in YAML: remove it", c)}, true
		case c == '\n':
			line, column = line+1, 0
		}
		i += size
		column++
	}
	return Problem{}, false
}

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	parserError   = regexp.MustCompile(`^(did not find expected (node content|key|',' or |'-' indicator|<)|found (undefined|duplicate|incompatible|a tab))`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntax turns an error of the YAML library into one of ours.
func syntax(text []byte, err error) Problem {
	what, line := strings.TrimPrefix(err.Error(), "yaml: "), 1 // the library does not mention the first line
	if m := yamlLine.FindStringSubmatch(what); m != nil {
		line, _ = strconv.Atoi(m[1]) // digits only
		what = what[len(m[0]):]
	}
	if parserError.MatchString(what) {
		line = lineOf(text, line)
	}
	if strings.HasPrefix(what, "exceeded max depth") {
		return Problem{Text: "lists or mappings are nested too deep for a configuration: look for brackets or dashes without end"}
	}
	if m := unknownAnchor.FindStringSubmatch(what); m != nil {
		// The library quotes the anchor, which may be a password that begins with an asterisk, and not its line.
		what = "an alias (*name) stands for nothing: put a value that begins with * into quotes"
		for i, one := range strings.Split(string(text), "\n") {
			one, _, _ = strings.Cut(one, "#")
			if strings.Contains(one, "*"+m[1]) {
				line = i + 1
				break
			}
		}
	}
	switch {
	case strings.HasPrefix(what, "found character that cannot start any token"):
		what += ": indent with spaces instead of tabs, and put a value that begins with @, ` or % into quotes"
	case strings.HasPrefix(what, "found a tab"):
		what += ": indent with spaces"
	case strings.HasPrefix(what, "did not find expected key"), strings.HasPrefix(what, "did not find expected '-'"):
		what += ": align the line with those before it"
	}
	// Where the text ends too early, the library counts one line too many.
	line = min(line, 1+bytes.Count(bytes.TrimRight(text, "\n"), []byte("\n")))
	return Problem{Line: line, Text: "this is not YAML: " + what}
}

// lineOf finds the line of a mistake of which the library only knows, counted from 0, where the list or mapping around it
// begins: up to that line, and not including it, the text is YAML.
func lineOf(text []byte, begin int) int {
	const most = 64 << 10 // past that, the answer would cost more than it is worth
	if len(text) > most {
		return begin + 1
	}
	ends := []int{}
	for i, c := range text {
		if c == '\n' || i == len(text)-1 {
			ends = append(ends, i+1)
		}
	}
	return 1 + sort.Search(len(ends)-1, func(i int) bool {
		decoder := yaml.NewDecoder(bytes.NewReader(text[:ends[i]]))
		for {
			var document yaml.Node
			if err := decoder.Decode(&document); err != nil {
				return !errors.Is(err, io.EOF)
			}
		}
	})
}

// A nameList finds names that stand twice.
type nameList struct {
	noun  string
	first map[string]value
}

func newNames(noun string) nameList { return nameList{noun, map[string]value{}} }

// name notes the name of an item. An empty one has been reported before.
func (r *reader) name(list nameList, at value, name string) {
	if name == "" {
		return
	}
	if before, twice := list.first[name]; twice {
		r.problem(at, "%s is a %s named %s as well: give one of them another name", place(before), list.noun, r.quoteName(name))
		return
	}
	list.first[name] = at
}

// peers adds the peers to the configuration and returns where each name stands.
func (r *reader) peers(config *Config, list value) map[string]value {
	names := newNames("peer")
	var places []value
	for _, v := range r.items(list) {
		peer := r.peer(v)
		r.name(names, v, peer.Name)
		places, config.Peers = append(places, v), append(config.Peers, peer)
	}
	first := map[netip.AddrPort]int{}
	for i, p := range config.Peers {
		router := netip.AddrPortFrom(p.Addr, p.Port)
		j, twice := first[router]
		if !twice {
			first[router] = i
		} else if p.Addr.IsValid() && p.SameRouter(config.Peers[j]) && overlap(p.NodeSelectors, config.Peers[j].NodeSelectors) {
			r.warn(places[i], "is the same router as %s: a node that has both speaks to the first only: keep one, or give them node-selectors that select different nodes", place(places[j]))
		}
	}
	// A name that somebody wrote goes before one that we make up.
	last, equals := map[netip.Addr]int{}, map[string]value{}
	for i, p := range config.Peers {
		if p.Name == "" && p.Addr.IsValid() {
			r.nameAfterAddress(&config.Peers[i], places[i], names, last, equals)
		}
	}
	return names.first
}

// overlap reports whether both select some node, as far as the text alone shows it: they are equal, or one selects every node.
func overlap(a, b []Selector) bool {
	return len(a) == 0 || len(b) == 0 || reflect.DeepEqual(a, b) ||
		slices.ContainsFunc(slices.Concat(a, b), func(s Selector) bool { return reflect.ValueOf(s).IsZero() })
}

// nameAfterAddress gives a peer without a name that of its address. MetalLB knows no names, and its configurations may have
// several sessions with one router, from different nodes or to different ports: 10.0.0.1, 10.0.0.1#2 and so on.
func (r *reader) nameAfterAddress(p *Peer, at value, names nameList, last map[netip.Addr]int, equals map[string]value) {
	written := fmt.Sprintf("%+v %s", *p, string(p.Password))
	if before, twice := equals[written]; twice && !r.tolerant { // a key that we skipped may be what differs
		r.problem(at, "is the same peer as %s: keep one", place(before))
		return
	}
	equals[written] = at
	taken := func(name string) bool { _, ok := names.first[name]; return ok }
	for p.Name = p.Addr.String(); taken(p.Name); p.Name = fmt.Sprintf("%s#%d", p.Addr, 1+last[p.Addr]) {
		last[p.Addr]++
	}
	names.first[p.Name] = at
}

// peer reads a peer. Its name is empty if the operator wrote none.
func (r *reader) peer(v value) (p Peer) {
	f, ok := r.fields(v, peerKeys)
	if !ok {
		return Peer{}
	}
	p = Peer{
		Addr:          r.peerAddress(v, f["peer-address"]),
		Port:          cmp.Or(uint16(r.number(f["peer-port"], 0, math.MaxUint16, 179)), 179), // 0 as in MetalLB
		ASN:           r.asn(v, f["peer-asn"], "peer-asn", "the router's AS number"),
		MyASN:         r.asn(v, f["my-asn"], "my-asn", "the AS number of your cluster"),
		ConnectTime:   r.seconds(f["connect-time"], time.Second, 15*time.Second, "1s to 65535s"),
		RouterID:      r.routerID(f["router-id"]),
		NodeSelectors: r.selectors(f["node-selectors"]),
		RestartTime:   r.gracefulRestart(f["graceful-restart"]),
	}
	name, named := r.text(f["name"])
	if named && name == "" {
		r.problem(f["name"], "is empty: write a name or remove the key")
	}
	p.Name = name
	p.HoldTime, p.KeepaliveTime = r.holdTimes(f["hold-time"], f["keepalive-time"])
	p.SourceAddress, p.SourceNodeIP = r.sourceAddress(f["source-address"], p.Addr)
	p.TTL = r.multihop(f["ebgp-multihop"], p.IBGP() && p.ASN != 0)
	if hops := r.ttlSecurity(f["ttl-security"]); hops > 0 {
		if at := f["ebgp-multihop"]; !at.absent() {
			r.problem(at, "contradicts %s: keep one", place(f["ttl-security"]))
		}
		p.TTL, p.MinTTL = math.MaxUint8, math.MaxUint8-(hops-1)
	}
	p.Password, p.PasswordKey = r.password(f["password"], f["password-key"])
	return p
}

// ttlSecurity returns how many hops away the router may be, or 0 if it may be anywhere.
func (r *reader) ttlSecurity(v value) uint8 {
	if v.absent() {
		return 0
	}
	on, isFlag := boolean(v)
	hops, isNumber := integer(v)
	switch {
	case !isFlag && !isNumber, isNumber && (hops < 1 || hops > 254):
		r.problem(v, "%s is not possible here: %s", r.quote(v), unquoted(v, boolean, unquoted(v, integer, "use true, false or how many hops away the router is, from 1 to 254")))
		return 0
	case isNumber:
		return uint8(hops)
	case on:
		return 1
	}
	return 0
}

// maxPassword is how long a password of TCP MD5 may be, in bytes: Linux's TCP_MD5SIG_MAXKEYLEN.
const maxPassword = 80

func (r *reader) password(inline, key value) (password Secret, passwordKey string) {
	if !inline.absent() && !key.absent() {
		r.problem(key, "stands here as well as %s: keep one", place(inline))
		return "", ""
	}
	if text, ok := r.text(inline); ok {
		switch {
		case text == "":
			r.problem(inline, "is empty: write the router's password or remove the key")
		case len(text) > maxPassword:
			r.problem(inline, "is longer than %d bytes, which is the most that TCP MD5 takes: choose a shorter one", maxPassword)
		default:
			r.warn(inline, "everybody who may read this ConfigMap can read it: put it into Secret metallb-bgp-auth, and name its key as password-key")
		}
		password = Secret(text)
	}
	if text, ok := r.text(key); ok {
		if text == "" || len(text) > 253 || strings.Trim(text, smallAndDigits+capitals+"-_.") != "" {
			r.problem(key, "is not a key that a Secret can have: write letters, digits, \"-\", \"_\" and \".\"")
		}
		passwordKey = text
	}
	return password, passwordKey
}

func (r *reader) drain(v value) (d Drain) {
	f, _ := r.fields(v, drainKeys)
	for _, item := range r.items(f["taints"]) {
		if mark, ok := r.mark(item, true); ok {
			d.Taints = append(d.Taints, mark)
		}
	}
	for _, item := range r.items(f["labels"]) {
		if mark, ok := r.mark(item, false); ok {
			d.Labels = append(d.Labels, mark)
		}
	}
	at := f["withdraw-after"]
	if after, ok := time.Duration(0), false; !at.absent() {
		// 0 says never, as does leaving it out.
		if after, ok = duration(at); !ok || after != 0 {
			d.WithdrawAfter = r.seconds(at, time.Second, 0, "0, which is never, or 1s to 65535s")
		}
	}
	return d
}

// mark reads a taint or a label as kubectl writes them.
func (r *reader) mark(v value, taint bool) (m Mark, ok bool) {
	text, ok := r.text(v)
	if !ok {
		if v.absent() {
			r.problem(v, "is empty: write the key of a taint or label")
		}
		return Mark{}, false
	}
	if taint {
		var effect bool
		if text, m.Effect, effect = strings.Cut(text, ":"); effect && !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, m.Effect) {
			r.problem(v, "%s has an effect that no taint has: use NoSchedule, PreferNoSchedule or NoExecute", r.quote(v))
			return Mark{}, false
		}
	}
	var valued bool
	m.Key, m.Value, valued = strings.Cut(text, "=")
	m.Any = !valued
	if !isLabelKey(m.Key) || !isLabelValue(m.Value) {
		form := "key or key=value"
		if taint {
			form = "key, key=value, key:effect or key=value:effect"
		}
		r.problem(v, "%s cannot mark a node: write it as kubectl does, %s", r.quote(v), form)
		return Mark{}, false
	}
	return m, true
}

func (r *reader) peerAddress(peer, v value) netip.Addr {
	text, ok := r.text(v)
	if !ok {
		if v.absent() {
			r.problem(value{peer.node, join(peer.path, "peer-address")}, "is missing: write the router's IP address")
		}
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(text))
	switch {
	case err != nil:
		r.problem(v, "%s is not an IP address: write the router's address, not its name", r.quote(v))
		return netip.Addr{}
	case addr.Is4In6() || addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		r.problem(v, "%s is not an address that a router can have: write the router's own", r.quote(v))
		return netip.Addr{}
	case addr.IsLinkLocalUnicast() && addr.Is6() && addr.Zone() == "":
		r.problem(v, "%s is link-local: add the interface, as in %s%%eth0", r.quote(v), addr)
	}
	return addr
}

func (r *reader) asn(peer, v value, key, what string) uint32 {
	if v.absent() {
		r.problem(value{peer.node, join(peer.path, key)}, "is missing: write %s", what)
		return 0
	}
	return uint32(r.number(v, 1, math.MaxUint32, 0))
}

// duration reads 90s, 1m30s or a bare integer, which means seconds.
func duration(v value) (time.Duration, bool) {
	if n, ok := integer(v); ok {
		const most = math.MaxUint16 + 1 // enough to be too long, and not so much that the product overflows
		return time.Duration(max(-1, min(n, most))) * time.Second, true
	}
	if v.node.Kind != yaml.ScalarNode || len(v.node.Value) > maxShown {
		return 0, false
	}
	d, err := time.ParseDuration(strings.TrimSpace(v.node.Value))
	return d, err == nil
}

// seconds returns a duration of whole seconds from least to 65535 s, or otherwise if there is none.
func (r *reader) seconds(v value, least, otherwise time.Duration, rule string) time.Duration {
	if v.absent() {
		return otherwise
	}
	d, ok := duration(v)
	switch {
	case !ok:
		r.problem(v, "%s is not a duration such as 90s: use %s", r.quote(v), rule)
	case d < least:
		r.problem(v, "%s is too short: use %s", r.quote(v), rule)
	case d > math.MaxUint16*time.Second:
		r.problem(v, "%s is too long: use at most 65535s", r.quote(v))
	case d%time.Second != 0:
		r.problem(v, "%s is not in whole seconds: use %s", r.quote(v), d.Truncate(time.Second))
	default:
		return d
	}
	return otherwise
}

func (r *reader) holdTimes(holdAt, keepaliveAt value) (hold, keepalive time.Duration) {
	hold, sound := 90*time.Second, true
	if !holdAt.absent() {
		var ok bool
		if hold, ok = duration(holdAt); !ok || hold != 0 {
			hold = r.seconds(holdAt, 3*time.Second, -1, "0 or at least 3s")
			sound = hold >= 0
		}
	}
	if hold == 0 {
		if !keepaliveAt.absent() {
			if d, ok := duration(keepaliveAt); !ok || d != 0 {
				r.problem(keepaliveAt, "%s has no meaning with hold-time 0: remove it", r.quote(keepaliveAt))
			}
		}
		return 0, 0
	}
	keepalive = r.seconds(keepaliveAt, time.Second, hold/3, "1s up to the hold-time")
	if sound && keepalive > hold {
		r.problem(keepaliveAt, "%s is longer than the hold-time of %s: use at most a third of it", r.quote(keepaliveAt), hold)
	}
	return hold, keepalive
}

func (r *reader) routerID(v value) netip.Addr {
	text, ok := r.text(v)
	if !ok {
		return netip.Addr{}
	}
	id, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil || !id.Is4() || id.IsUnspecified() {
		r.problem(v, "%s is not a router ID: write an IPv4 address other than 0.0.0.0", r.quote(v))
		return netip.Addr{}
	}
	return id
}

func (r *reader) sourceAddress(v value, peer netip.Addr) (addr netip.Addr, nodeIP bool) {
	text, ok := r.text(v)
	if !ok {
		return netip.Addr{}, false
	}
	text = strings.TrimSpace(text)
	if text == "node-ip" {
		return netip.Addr{}, true
	}
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil || addr.IsUnspecified() || addr.IsMulticast():
		r.problem(v, "%s is not an address of a node: write an IP address or node-ip", r.quote(v))
	case peer.IsValid() && addr.Is4() != peer.Is4():
		r.problem(v, "%s is not of the same IP version as the peer-address %s: write an address of that version, or node-ip", r.quote(v), peer)
	default:
		return addr, false
	}
	return netip.Addr{}, false
}

// multihop returns the TTL to send with; 0 leaves it to the operating system, as MetalLB does.
func (r *reader) multihop(v value, ibgp bool) uint8 {
	if v.absent() {
		return 0
	}
	allowed, isFlag := boolean(v)
	ttl, isNumber := integer(v)
	switch {
	case !isFlag && !isNumber, isNumber && (ttl < 1 || ttl > 255):
		r.problem(v, "%s is not possible here: %s", r.quote(v), unquoted(v, boolean, unquoted(v, integer, "use true, false or a TTL from 1 to 255")))
		return 0
	case isFlag && !allowed && ibgp:
		return 0
	case ibgp:
		r.problem(v, "%s is for eBGP, and peer-asn equals my-asn: remove it", r.quote(v))
		return 0
	case isNumber:
		return uint8(ttl)
	case allowed:
		return 255
	default:
		return 1
	}
}

func (r *reader) gracefulRestart(v value) time.Duration {
	const otherwise = 120 * time.Second
	if v.absent() {
		return otherwise
	}
	if v.node.Kind == yaml.MappingNode {
		f, _ := r.fields(v, restartKeys)
		at := f["restart-time"]
		const rule = "1s to 4095s" // the field has 12 bits (RFC 4724 §3)
		if !at.absent() {
			if d, ok := duration(at); ok && d > 4095*time.Second {
				r.problem(at, "%s is too long: use %s", r.quote(at), rule)
				return otherwise
			}
		}
		return r.seconds(at, time.Second, otherwise, rule)
	}
	on, ok := boolean(v)
	if !ok {
		r.problem(v, "%s is not possible here: %s", r.quote(v), unquoted(v, boolean, "use true, false or {restart-time: 120s}"))
	}
	if !on {
		return 0
	}
	return otherwise
}

func (r *reader) selectors(v value) []Selector {
	var all []Selector
	for _, item := range r.items(v) {
		f, _ := r.fields(item, selectorKeys)
		var s Selector
		labels, values := r.entries(f["match-labels"])
		for i, label := range labels {
			r.labelKey(label)
			if text, ok := r.label(values[i]); ok {
				if s.MatchLabels == nil {
					s.MatchLabels = map[string]string{}
				}
				s.MatchLabels[label.node.Value] = text
			}
		}
		for _, e := range r.items(f["match-expressions"]) {
			s.MatchExpressions = append(s.MatchExpressions, r.expression(e))
		}
		all = append(all, s)
	}
	return all
}

var operators = []string{"In", "NotIn", "Exists", "DoesNotExist"}

func (r *reader) expression(v value) Expression {
	f, ok := r.fields(v, expressionKeys)
	if !ok {
		return Expression{}
	}
	key, _ := r.text(f["key"])
	if key == "" && (f["key"].absent() || f["key"].node.Kind == yaml.ScalarNode) {
		r.problem(value{v.node, join(v.path, "key")}, "is missing: write the label that the condition is about")
	}
	if key != "" {
		r.labelKey(f["key"])
	}
	e := Expression{Key: key}
	for _, item := range r.items(f["values"]) {
		if text, ok := r.label(item); ok {
			e.Values = append(e.Values, text)
		}
	}
	slices.Sort(e.Values)
	e.Values = slices.Compact(e.Values)
	choice := "use one of " + strings.Join(operators, ", ")
	switch e.Operator, ok = r.text(f["operator"]); {
	case !ok && f["operator"].absent():
		r.problem(value{v.node, join(v.path, "operator")}, "is missing: %s", choice)
	case !ok:
	case !slices.Contains(operators, e.Operator):
		r.problem(f["operator"], "%s is not an operator: %s", r.quote(f["operator"]), choice)
	case e.Operator == "In" || e.Operator == "NotIn":
		if list := f["values"]; list.absent() || list.node.Kind == yaml.SequenceNode && len(list.node.Content) == 0 {
			r.problem(value{v.node, join(v.path, "values")}, "is missing: %s needs at least one value", e.Operator)
		}
	case len(e.Values) > 0:
		r.problem(f["values"], "%s takes no values: remove them", e.Operator)
	}
	return e
}

// A tag is a community of either kind.
type tag struct {
	community Community
	large     LargeCommunity
	isLarge   bool
}

// The names that routers know by themselves.
// Source: IANA, Border Gateway Protocol (BGP) Well-known Communities.
var wellKnown = map[string]tag{
	"graceful-shutdown":   {community: 0xffff0000}, // RFC 8326
	"accept-own":          {community: 0xffff0001}, // RFC 7611
	"llgr-stale":          {community: 0xffff0006}, // RFC 9494
	"no-llgr":             {community: 0xffff0007}, // RFC 9494
	"blackhole":           {community: 0xffff029a}, // RFC 7999
	"no-export":           {community: 0xffffff01}, // RFC 1997
	"no-advertise":        {community: 0xffffff02}, // RFC 1997
	"no-export-subconfed": {community: 0xffffff03}, // RFC 1997
	"no-peer":             {community: 0xffffff04}, // RFC 3765
}

const tagRule = "write two numbers up to 65535, as in 64500:1, or large:64500:1:2"

func (r *reader) communities(v value) map[string]tag {
	defined := map[string]tag{}
	maps.Copy(defined, wellKnown)
	keys, values := r.entries(v)
	for i, name := range keys {
		text, ok := r.text(values[i])
		if !ok {
			if values[i].absent() {
				r.problem(values[i], "is empty: %s", tagRule)
			}
			continue
		}
		t, ok := parseTag(text)
		if !ok {
			r.problem(values[i], "%s is not a community: %s", r.quote(values[i]), tagRule)
			continue
		}
		defined[name.node.Value] = t
	}
	return defined
}

func parseTag(text string) (tag, bool) {
	if rest, large := strings.CutPrefix(text, "large:"); large {
		n, ok := numbers(rest, 3, 32)
		if !ok {
			return tag{}, false
		}
		return tag{large: LargeCommunity{n[0], n[1], n[2]}, isLarge: true}, true
	}
	n, ok := numbers(text, 2, 16)
	if !ok {
		return tag{}, false
	}
	return tag{community: Community(n[0]<<16 | n[1])}, true
}

// numbers reads exactly count decimal numbers of so many bits, with colons between them.
func numbers(text string, count, bits int) ([]uint32, bool) {
	parts := strings.Split(text, ":")
	if len(parts) != count {
		return nil, false
	}
	var all []uint32
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, bits)
		if err != nil {
			return nil, false
		}
		all = append(all, uint32(n))
	}
	return all, true
}

// An entry is one item of a pool's list of addresses, and where it stands.
type entry struct {
	at   value
	pool int
	netipx.IPRange
	// shortest is the prefix length of the widest network within the range. An aggregate that is wider would draw
	// traffic to us for addresses that are not in the pool.
	shortest int
}

// maxAdvertisements bounds the work of comparing each advertisement of a pool with each other.
const maxAdvertisements = 256

func (r *reader) pool(v value, index int, defined map[string]tag, peers map[string]value) (Pool, []entry) {
	f, ok := r.fields(v, poolKeys)
	if !ok {
		return Pool{}, nil
	}
	p := Pool{
		AutoAssign:    r.flag(f["auto-assign"], true),
		AvoidBuggyIPs: r.flag(f["avoid-buggy-ips"], false),
		Priority:      int(r.number(f["priority"], math.MinInt32, math.MaxInt32, 0)),

		Namespaces:            r.namespaces(f["namespaces"]),
		ServiceSelectors:      r.selectors(f["service-selectors"]),
		ShareAcrossNamespaces: r.flag(f["share-across-namespaces"], false),
	}
	p.Name, ok = r.text(f["name"])
	if p.Name == "" && (ok || f["name"].absent()) {
		r.problem(value{v.node, join(v.path, "name")}, "is missing: give the pool a name")
	}
	if protocol, ok := r.text(f["protocol"]); ok && protocol != "bgp" {
		r.problem(f["protocol"], "%s: this provider speaks BGP only: use bgp, or remove the pool", r.quote(f["protocol"]))
	}
	entries := r.spans(v, f["cidr"], index)
	for _, e := range entries {
		p.Ranges = append(p.Ranges, e.IPRange)
	}
	slices.SortFunc(p.Ranges, func(a, b netipx.IPRange) int { return a.From().Compare(b.From()) })

	places := r.items(f["advertisements"])
	if len(places) > maxAdvertisements {
		r.problem(f["advertisements"], "has more than %d items: make fewer advertisements, or split the pool", maxAdvertisements)
		places = places[:maxAdvertisements]
	}
	if len(places) == 0 {
		places = []value{{}} // an address that nobody hears of helps nobody
	}
	narrowest, sound := narrowest(entries), len(r.problems)
	for _, item := range places {
		p.Advertisements = append(p.Advertisements, r.advertisement(item, narrowest, defined, peers))
	}
	if len(r.problems) == sound {
		r.consistent(p.Advertisements, places, narrowest)
	}
	return p, entries
}

// namespaces reads the names of those whose Services may use a pool.
func (r *reader) namespaces(v value) (names []string) {
	for _, item := range r.items(v) {
		name, ok := r.text(item)
		switch {
		case (item.absent() || ok && name == "") && !r.tolerant:
			// To skip it could leave none, which means all.
			r.problem(item, "is empty: write the name of a namespace")
		case ok && !isNamespace(name) && !r.tolerant:
			r.problem(item, "%s is not the name of a namespace: write %s", r.quote(item), namespaceRule)
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// spans reads a pool's list of addresses.
func (r *reader) spans(pool, v value, index int) (entries []entry) {
	for _, item := range r.items(v) {
		span, ok := r.addresses(item)
		if !ok {
			continue
		}
		entries = append(entries, entry{item, index, span, widest(span)})
	}
	if v.absent() || v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0 {
		r.problem(value{pool.node, join(pool.path, "cidr")}, "is missing: list the pool's addresses, as in 192.168.10.0/24")
	}
	return entries
}

// addresses reads 192.168.10.0/24 or 192.168.10.5-192.168.10.20.
func (r *reader) addresses(v value) (netipx.IPRange, bool) {
	const rule = "write 192.168.10.0/24 or 192.168.10.5-192.168.10.20"
	text, ok := r.text(v)
	if !ok {
		if v.absent() {
			r.problem(v, "is empty: %s", rule)
		}
		return netipx.IPRange{}, false
	}
	span, ok := parseRange(text)
	switch {
	case !ok:
		if addr, err := netip.ParseAddr(text); err == nil && plain(addr) {
			r.problem(v, "%s is a single address: write %s/%d", r.quote(v), addr, addr.BitLen())
			break
		}
		r.problem(v, "%s is not a range of addresses: %s", r.quote(v), rule)
	case !span.IsValid():
		r.problem(v, "%s ends before it begins: write the lower address first", r.quote(v))
	default:
		if first, _, isPrefix := strings.Cut(text, "/"); isPrefix && strings.TrimSpace(first) != span.From().String() {
			if addr, err := netip.ParseAddr(strings.TrimSpace(first)); err == nil && addr != span.From() {
				r.warn(v, "%s is the network from %s to %s: %s is only one of its addresses", r.quote(v), span.From(), span.To(), addr)
			}
		}
		return span, true
	}
	return netipx.IPRange{}, false
}

func parseRange(text string) (netipx.IPRange, bool) {
	if first, last, ok := strings.Cut(text, "-"); ok {
		from, err1 := netip.ParseAddr(strings.TrimSpace(first))
		to, err2 := netip.ParseAddr(strings.TrimSpace(last))
		sound := err1 == nil && err2 == nil && from.Is4() == to.Is4() && plain(from) && plain(to)
		return netipx.IPRangeFrom(from, to), sound
	}
	address, length, ok := strings.Cut(text, "/")
	prefix, err := netip.ParsePrefix(strings.TrimSpace(address) + "/" + strings.TrimSpace(length))
	if !ok || err != nil || !plain(prefix.Addr()) {
		return netipx.IPRange{}, false
	}
	return netipx.RangeOfPrefix(prefix), true // without the host bits
}

// widest returns the prefix length of the widest network within a range.
func widest(span netipx.IPRange) int {
	for length := 0; length < span.From().BitLen(); length++ {
		begin := netip.PrefixFrom(span.From(), length).Masked()
		if begin.Addr() != span.From() {
			// The next one of that length, unless there is none.
			begin = netip.PrefixFrom(netipx.PrefixLastIP(begin).Next(), length)
		}
		if begin.IsValid() && netipx.PrefixLastIP(begin).Compare(span.To()) <= 0 {
			return length
		}
	}
	return span.From().BitLen()
}

// What routers do not forward, or not to one host. Source: IANA's registries of special-purpose and multicast addresses.
var special = []struct {
	netip.Prefix
	what string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "stand for no host (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "are loopback addresses (RFC 1122)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "are link-local (RFC 3927)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "are multicast (RFC 5771)"},
	{netip.MustParsePrefix("255.255.255.255/32"), "is the broadcast address (RFC 919)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "are reserved (RFC 1112), so that hosts drop them"},
	{netip.MustParsePrefix("::/128"), "stands for no host (RFC 4291)"},
	{netip.MustParsePrefix("::1/128"), "is the loopback address (RFC 4291)"},
	{netip.MustParsePrefix("fe80::/10"), "are link-local (RFC 4291)"},
	{netip.MustParsePrefix("ff00::/8"), "are multicast (RFC 4291)"},
}

// specialIn returns the first network within reach of a range whose addresses no Service can have, and why not.
func specialIn(span netipx.IPRange) (netip.Prefix, string) {
	for _, s := range special {
		if netipx.RangeOfPrefix(s.Prefix).Overlaps(span) {
			return s.Prefix, s.what
		}
	}
	return netip.Prefix{}, ""
}

func plain(addr netip.Addr) bool { return !addr.Is4In6() && addr.Zone() == "" }

// apart sorts the entries by address and reports those that overlap, in one pool or in two.
func (r *reader) apart(entries []entry) {
	slices.SortStableFunc(entries, func(a, b entry) int { return a.From().Compare(b.From()) })
	var reach entry // of those before, the one that ends last
	for i, e := range entries {
		switch overlaps := i > 0 && e.From().Compare(reach.To()) <= 0; {
		case overlaps && r.full():
			r.unlisted++
		case overlaps:
			above, below := reach.at, e.at
			if cmp.Or(above.node.Line-below.node.Line, above.node.Column-below.node.Column) > 0 {
				above, below = below, above
			}
			r.problem(below, "%s overlaps %s of %s: let each address be in one place", r.quote(below), r.quote(above), place(above))
		}
		if i == 0 || e.To().Compare(reach.To()) > 0 {
			reach = e
		}
	}
}

// narrowest returns, for IPv4 and for IPv6, the entry that allows the least aggregation.
func narrowest(entries []entry) (all []entry) {
	byLength := map[int]entry{}
	for _, e := range entries {
		if most, ok := byLength[e.From().BitLen()]; !ok || e.shortest > most.shortest {
			byLength[e.From().BitLen()] = e
		}
	}
	for _, e := range byLength {
		all = append(all, e)
	}
	return all
}

func (r *reader) advertisement(v value, narrowest []entry, defined map[string]tag, peers map[string]value) Advertisement {
	f, _ := r.fields(v, advertisementKeys)
	a := Advertisement{
		AggregationLength:   int(r.number(f["aggregation-length"], 0, 32, 32)),
		AggregationLengthV6: int(r.number(f["aggregation-length-v6"], 0, 128, 128)),
		LocalPref:           uint32(r.number(f["localpref"], 0, math.MaxUint32, 100)),
		Prepend:             uint8(r.number(f["as-path-prepend"], 0, 10, 0)),
		NodeSelectors:       r.selectors(f["node-selectors"]),
		LinkBandwidth:       r.flag(f["link-bandwidth"], false),
	}
	for _, e := range narrowest {
		length, at := a.AggregationLength, f["aggregation-length"]
		if e.From().Is6() {
			length, at = a.AggregationLengthV6, f["aggregation-length-v6"]
		}
		if length < e.shortest {
			r.problem(at, "%s reaches beyond the pool's %s: use at least %d", r.quote(at), r.quote(e.at), e.shortest)
		}
	}
	for _, item := range r.items(f["communities"]) {
		text, ok := r.text(item)
		if !ok {
			if item.absent() {
				r.problem(item, "is empty: %s, or a name from communities", tagRule)
			}
			continue
		}
		t, known := defined[text]
		if !known {
			if t, known = parseTag(text); !known {
				r.problem(item, "%s is neither a name from communities nor a community%s", r.quote(item), r.suggest(text, maps.Keys(defined), tagRule))
				continue
			}
		}
		if t.isLarge {
			a.LargeCommunities = append(a.LargeCommunities, t.large)
		} else {
			a.Communities = append(a.Communities, t.community)
		}
	}
	slices.Sort(a.Communities)
	a.Communities = slices.Compact(a.Communities)
	slices.SortFunc(a.LargeCommunities, LargeCommunity.Compare)
	a.LargeCommunities = slices.Compact(a.LargeCommunities)
	if size := 4*len(a.Communities) + 12*len(a.LargeCommunities); size > maxCommunities && !r.tolerant {
		r.problem(f["communities"], "these take %d bytes in a BGP message, and there is room for %d: that is %d communities, or %d large ones",
			size, maxCommunities, maxCommunities/4, maxCommunities/12)
	}
	for _, item := range r.items(f["peers"]) {
		name, ok := r.text(item)
		if !ok {
			if item.absent() {
				// To skip it could leave none, which means all.
				r.problem(item, "is empty: write the name of a peer")
			}
			continue
		}
		if _, known := peers[name]; !known {
			r.problem(item, "no peer is named %s%s", r.quote(item), r.suggest(name, maps.Keys(peers), "write the name of one of peers"))
		}
		a.Peers = append(a.Peers, name)
	}
	slices.Sort(a.Peers)
	a.Peers = slices.Compact(a.Peers)
	return a
}

// maxCommunities is how many bytes of communities always fit into an UPDATE: 4096 without the longest prefix and without all
// other attributes, those included that a drained node and weights add.
const maxCommunities = 3840

// maxEffort bounds the comparisons that one text can ask for: well under a second.
const maxEffort = 10_000_000

// consistent reports advertisements of one pool with which some node would send one prefix to one peer with two sets of
// attributes.
func (r *reader) consistent(all []Advertisement, places []value, families []entry) {
	if r.effort > maxEffort {
		return // reported in a pool before
	}
	if r.ignored > 0 {
		return // a key that we skipped may be what keeps them apart, and to refuse the text would lose every route
	}
	for j := range all {
		for i := range j {
			contradicts := all[i].contradicts(all[j], families, &r.effort)
			if r.effort > maxEffort {
				r.problem(places[j], "is one too many to compare with those before it: write fewer advertisements, peers or node-selectors")
				return
			}
			if contradicts {
				r.problem(places[j], "sends the same prefixes to the same peers as %s, with other attributes: give them different peers, node-selectors or aggregation lengths", place(places[i]))
			}
		}
	}
}

func (a Advertisement) contradicts(b Advertisement, families []entry, effort *int) bool {
	*effort++
	samePrefix := slices.ContainsFunc(families, func(e entry) bool {
		if e.From().Is6() {
			return a.AggregationLengthV6 == b.AggregationLengthV6
		}
		return a.AggregationLength == b.AggregationLength
	})
	sameAttributes := a.LocalPref == b.LocalPref && a.Prepend == b.Prepend && a.LinkBandwidth == b.LinkBandwidth &&
		slices.Equal(a.Communities, b.Communities) && slices.Equal(a.LargeCommunities, b.LargeCommunities)
	return samePrefix && !sameAttributes && shareName(a.Peers, b.Peers, effort) && !neverTogether(a.NodeSelectors, b.NodeSelectors, effort)
}

// shareName reports whether two sorted lists have a name in common, where no names at all mean all.
func shareName(a, b []string, effort *int) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for len(a) > 0 && len(b) > 0 {
		*effort++
		switch order := cmp.Compare(a[0], b[0]); {
		case order < 0:
			a = a[1:]
		case order > 0:
			b = b[1:]
		default:
			return true
		}
	}
	return false
}

// neverTogether reports whether no node can be selected by both.
func neverTogether(a, b []Selector, effort *int) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	for _, s := range a {
		for _, t := range b {
			if *effort > maxEffort || !s.excludes(t, effort) {
				return false
			}
		}
	}
	return true
}
