package migrate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A peer is a BGPPeer.
type peer struct {
	*object
	address  string
	asn      string // ours
	ibgp     bool
	both     bool // IP versions are announced
	selector []loadbalancer.Selector
	yaml     *yaml.Node
}

func (c *converter) peer(o *object) {
	p := &peer{object: o, yaml: mapping()}
	p.yaml.HeadComment = from(o)
	own := verbatim(o.spec("myASN"))
	if local := o.spec("localASN"); !local.absent() {
		own = verbatim(local)
		c.about(Kept, local, "", "is what the router sees instead of myASN, and so becomes my-asn")
	}
	theirs := verbatim(o.spec("peerASN"))
	if theirs != nil && theirs.Value == "0" {
		theirs = nil
	}
	dynamic := o.spec("dynamicASN")
	switch mode := dynamic.text(); {
	case mode == "":
	case theirs != nil:
		c.about(Refused, dynamic, "remove one of the two", "is there beside peerASN, which MetalLB refuses")
	default:
		theirs = text(mode)
	}
	p.address = o.spec("peerAddress").text()
	if own != nil {
		p.asn = own.Value
	}
	p.ibgp = own != nil && theirs != nil && (own.Value == theirs.Value || theirs.Value == "internal")
	p.selector = o.spec("nodeSelectors").selectors()
	if i := o.spec("interface"); !i.absent() {
		c.about(Refused, i, "give the router an address, and write it into peerAddress", "a session over interface %s, without an address, cannot be said", i.text())
	} else if p.address == "" {
		c.remark(Refused, o, "spec.peerAddress", "write the router's address", "is missing, which MetalLB refuses")
	}
	if v := o.spec("vrf"); !v.absent() && v.text() != "" {
		c.about(Refused, v, "let the router be reached from the node's main routing table, or leave this peer and what is announced to it with MetalLB", "a session in VRF %s cannot be said: a speaker uses the node's main routing table", v.text())
	}
	put(p.yaml, "name", text(o.name))
	put(p.yaml, "peer-address", optional(p.address))
	put(p.yaml, "peer-asn", theirs)
	put(p.yaml, "my-asn", own)
	if port := o.spec("peerPort"); !port.is("179") && !port.is("0") {
		put(p.yaml, "peer-port", verbatim(port))
	}
	c.timers(p)
	put(p.yaml, "connect-time", c.duration(o.spec("connectTime")))
	put(p.yaml, "router-id", optional(o.spec("routerID").text()))
	put(p.yaml, "source-address", optional(o.spec("sourceAddress").text()))
	if o.spec("ebgpMultiHop").isTrue() {
		put(p.yaml, "ebgp-multihop", plain(true))
		if c.Options.Mode != "frr" && c.Options.Mode != "frr-k8s" {
			c.remark(Differs, o, "spec.ebgpMultiHop", "nothing, if the router takes it", "is without effect in MetalLB's native mode, where the system's TTL counts, and is TTL 255 in its FRR modes and here")
		}
	}
	put(p.yaml, "password-key", c.password(p))
	put(p.yaml, "bfd-profile", c.profileOf(o.spec("bfdProfile")))
	put(p.yaml, "node-selectors", selectors(p.selector))
	if !o.spec("enableGracefulRestart").isTrue() {
		c.remark(Differs, o, "spec.enableGracefulRestart", "nothing, or write graceful-restart: false", "is not set: here, routers keep routes for two minutes while a speaker restarts")
	}
	p.both = o.spec("dualStackAddressFamily").isTrue()
	if f := o.spec("disableMP"); f.isTrue() {
		c.about(Differs, f, "let the router take one IP version of this session only", "keeps the other IP version out of this session: here, a session has both if the router takes them")
	}
	c.peers = append(c.peers, p)
	c.remark(Kept, o, "", "", "is the peer %s", o.name)
}

// timers converts hold time and keepalive time: of the two, MetalLB makes the one that is missing from the other.
func (c *converter) timers(p *peer) {
	hold, keepalive := p.spec("holdTime"), p.spec("keepaliveTime")
	switch {
	case !hold.absent():
		put(p.yaml, "hold-time", c.duration(hold))
	case !keepalive.absent():
		if d, err := time.ParseDuration(keepalive.text()); err == nil {
			put(p.yaml, "hold-time", text(seconds(3*d)))
		}
	case p.version == "v1beta1" || c.Options.Mode == "native":
		// 90 s there and here.
	case c.Options.Mode == "":
		c.remark(Differs, p.object, "spec.holdTime", "write hold-time: 9s, which is what this documentation recommends, or 180s, so that nothing changes", "is not set: MetalLB's native mode and this provider take 90 s, and its FRR modes FRR's 180 s")
	default:
		put(p.yaml, "hold-time", text("180s")) // FRR's own
	}
	put(p.yaml, "keepalive-time", c.duration(keepalive))
}

// duration converts one to whole seconds, as MetalLB rounds it.
func (c *converter) duration(f field) *yaml.Node {
	if f.absent() {
		return nil
	}
	d, err := time.ParseDuration(f.text())
	if err != nil {
		return text(f.text()) // to be refused in the words of the language
	}
	if whole := d.Truncate(time.Second); whole != d {
		c.about(Differs, f, "nothing", "%s has a fraction of a second, which BGP does not know: it becomes %s", d, whole)
		d = whole
	}
	return text(seconds(d))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d/time.Second)) }

// password returns the key under which the password will be. It stands in no text: a command copies it.
func (c *converter) password(p *peer) *yaml.Node {
	inline, secret := p.spec("password"), p.spec("passwordSecret").at("name")
	elsewhere := p.spec("passwordSecret").at("namespace")
	if elsewhere.text() != "" && elsewhere.text() != orDefault(c.Options.From) {
		c.about(Kept, elsewhere, "", "is without effect: MetalLB reads Secrets in its own namespace")
	}
	if inline.text() == "" && secret.text() == "" {
		return nil
	}
	if inline.text() != "" && secret.text() != "" {
		c.about(Refused, secret, "remove one of the two", "is there beside password, which MetalLB refuses")
		return nil
	}
	metallb, ours := orDefault(c.Options.From), orDefault(c.Options.To)
	if len(c.Commands) == 0 {
		c.Commands = append(c.Commands, "kubectl create secret generic metallb-bgp-auth --namespace="+ours)
	}
	get := fmt.Sprintf(`kubectl get secret %s --namespace=%s -o go-template='{"data":{"%s":"{{.data.password}}"}}'`, secret.text(), metallb, p.name)
	if inline.text() != "" {
		get = fmt.Sprintf(`kubectl get bgppeers.%s.metallb.io %s --namespace=%s -o go-template='{"stringData":{"%s":{{printf "%%q" .spec.password}}}}'`, p.version, p.name, metallb, p.name)
		c.about(Kept, inline, "", "moves into Secret metallb-bgp-auth, key %s, by the command below", p.name)
	} else {
		c.about(Kept, secret, "", "%s is copied into Secret metallb-bgp-auth, key %s, by the command below", secret.text(), p.name)
	}
	c.Commands = append(c.Commands, fmt.Sprintf("%s |\n  kubectl patch secret metallb-bgp-auth --namespace=%s --patch-file=/dev/stdin", get, ours))
	return text(p.name)
}

func orDefault(namespace string) string {
	if namespace == "" {
		return "metallb-system"
	}
	return namespace
}

// profileOf returns the profile's name.
func (c *converter) profileOf(f field) *yaml.Node {
	name := f.text()
	if name == "" {
		return nil
	}
	for _, o := range c.profiles {
		if o.name == name {
			c.about(Differs, f, "have them started: chart value bfd.enabled", "is watched by programs of their own, the BFD responders")
			return text(name)
		}
	}
	c.about(Refused, f, "add the BFDProfile, or remove the field", "%s is no BFDProfile, which MetalLB refuses", name)
	return nil
}

func (c *converter) profile(o *object) *yaml.Node {
	m := mapping()
	m.HeadComment = from(o)
	put(m, "name", text(o.name))
	for _, f := range [][2]string{{"receiveInterval", "receive-interval"}, {"transmitInterval", "transmit-interval"}, {"detectMultiplier", "detect-multiplier"}, {"passiveMode", "passive-mode"}, {"minimumTtl", "minimum-ttl"}} {
		put(m, f[1], verbatim(o.spec(f[0])))
	}
	for _, key := range []string{"echoMode", "echoInterval"} {
		if f := o.spec(key); !f.absent() && !f.is("false") {
			c.about(Unsaid, f, "nothing: asynchronous mode is as quick, and costs more packets", "BFD's echo function is not spoken here")
		}
	}
	c.remark(Kept, o, "", "", "is the BFD profile %s", o.name)
	return m
}

func (c *converter) community(o *object) {
	for _, item := range o.spec("communities").items() {
		name, value := item.at("name"), item.at("value")
		if before := c.aliases[name.text()]; before != nil {
			c.about(Refused, name, "keep one", "%s is defined twice, also in %s, which MetalLB refuses", name.text(), before.origin())
			continue
		}
		c.aliases[name.text()] = o
		c.communities[name.text()] = value.text()
		key := text(name.text())
		key.HeadComment = from(o)
		c.values.Content = append(c.values.Content, key, text(value.text()))
	}
	c.remark(Kept, o, "", "", "is among communities: %s", strings.Join(o.spec("communities").names(), ", "))
}

// names are those of the items of a list.
func (f field) names() (all []string) {
	for _, item := range f.items() {
		all = append(all, item.at("name").text())
	}
	return all
}

// otherFamily says which sessions will carry the other IP version too.
func (c *converter) otherFamily() {
	for _, p := range c.peers {
		other := 1
		if strings.Contains(p.address, ":") {
			other = 0
		}
		hears := slices.ContainsFunc(c.pools, func(pool *pool) bool {
			return pool.families[other] && slices.ContainsFunc(pool.ads, func(a *advertisement) bool { return a.hears(p.name) })
		})
		if hears && !p.both && !p.spec("disableMP").isTrue() {
			c.remark(Differs, p.object, "spec.dualStackAddressFamily", "let the router take one IP version of this session only, if that matters",
				"is not set: MetalLB from v0.15 on keeps %s out of this session, and here it has both IP versions if the router takes them", []string{"IPv4", "IPv6"}[other])
		}
	}
}
