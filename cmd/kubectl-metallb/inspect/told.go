package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// established is RFC 4271's name of the state in which routes are sent.
const established = "Established"

// sessionTold tells how the sessions are that are to hear the routes.
func (v *View) sessionTold(routes []loadbalancer.Route, o *outlook) Link {
	l := Link{Name: "session", State: OK, Told: true}
	var up, down []string
	unwatched := false
	for _, p := range o.peers {
		if !slices.ContainsFunc(routes, func(r loadbalancer.Route) bool { return r.For(p.Name) }) {
			continue
		}
		switch s := v.toldOf(o.node.Name, p); {
		case s == nil:
			down = append(down, fmt.Sprintf("%s (%s): %s", p.Name, p.Address(), v.unknownTo(o.node.Name)))
		case s.State == established:
			up = append(up, fmt.Sprintf("%s (%s) since %s%s", p.Name, p.Address(), s.Since.UTC().Format(time.RFC3339), bfdText(s)))
			unwatched = unwatched || s.BFD != "" && s.BFD != report.BFDUp
		default:
			down = append(down, downText(s))
		}
	}
	switch {
	case len(up) == 0:
		l.State, l.Text = Broken, "no session is up: "+strings.Join(down, "; ")
	case len(down) > 0:
		l.State, l.Text = Remark, "up: "+strings.Join(up, " and ")+"; down: "+strings.Join(down, "; ")
	default:
		l.Text = "up: " + strings.Join(up, " and ")
	}
	if l.State == OK && unwatched {
		l.State = Remark
	}
	return l
}

// bfdText says how BFD is with the router of a session that is up, and what that means for a node that dies.
func bfdText(s *report.Session) string {
	switch s.BFD {
	case "":
		return ""
	case report.BFDUp:
		return " with BFD Up"
	case report.BFDUnknown:
		return " with BFD Unknown: no BFD responder runs on the node"
	}
	return fmt.Sprintf(" with BFD %s: a dead node is noticed at the end of the hold time only", s.BFD)
}

func downText(s *report.Session) string {
	text := fmt.Sprintf("%s (%s) is %s", s.Peer, s.Address, s.State)
	if s.Attempts > 0 {
		text += fmt.Sprintf(" after %s", count(s.Attempts, "attempt"))
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// noSpeaker says that there is no speaker on the node, if that is known. Where none is seen at all, they may be called otherwise.
func (v *View) noSpeaker(node string) string {
	if v.speakers[node] != nil || len(v.speakers) == 0 || len(v.lacks(Pods)) > 0 {
		return ""
	}
	return fmt.Sprintf("no speaker runs on node %s", node)
}

// unknownTo says why a speaker has no session with a peer of the configuration in force, as far as it has said.
func (v *View) unknownTo(node string) string {
	text := "the speaker knows no such peer"
	for _, problem := range v.told[node].Problems {
		if !strings.HasPrefix(problem, "peer ") { // of which there would be a session
			text += ": " + problem
		}
	}
	return text
}

// toldOf returns what the node's speaker says of a session, or nil.
func (v *View) toldOf(node string, peer loadbalancer.Peer) *report.Session {
	if document := v.told[node]; document != nil {
		for i := range document.Sessions {
			if s := &document.Sessions[i]; s.Peer == peer.Name && (peer.Gateway == 0 || s.Address == peer.Addr) {
				return &document.Sessions[i]
			}
		}
	}
	return nil
}

// sent tells what the speaker has sent for the address.
func (v *View) sent(svc *speaker.Service, addr netip.Addr, routes []loadbalancer.Route, o *outlook) Link {
	document := v.told[o.node.Name]
	if document == nil {
		return Link{Name: "sent", State: Unknown, Text: v.unheard()}
	}
	prefixes := map[netip.Prefix]bool{}
	for _, r := range routes {
		prefixes[r.Prefix] = true
	}
	if pool := v.config().Pool(addr); pool != nil {
		for i := range pool.Advertisements {
			prefixes[pool.Advertisements[i].Prefix(addr)] = true
		}
	}
	for _, w := range document.Withheld {
		if w.Service == service.Name(svc.Service) && w.Address == addr {
			return Link{Name: "sent", State: Broken, Text: "withheld: " + w.Why, Told: true}
		}
	}
	var texts, reasons []string
	for i := range document.Sessions {
		s := &document.Sessions[i]
		if s.State == established && s.Reason != "" { // it cannot send some route
			reasons = append(reasons, fmt.Sprintf("nothing was sent to %s: %s", s.Peer, s.Reason))
		}
		for _, r := range s.Routes {
			if prefixes[r.Prefix] {
				texts = append(texts, fmt.Sprintf("to %s: %s next hop %s %s", s.Peer, r.Prefix, r.NextHop, routeTold(o.node.Name, s.Peer, r).Attributes()))
			}
		}
	}
	switch stale := v.stale(document); {
	case len(texts) > 0 && stale != "":
		return Link{Name: "sent", State: Remark, Text: strings.Join(texts, "; ") + "; " + stale, Told: true}
	case len(texts) > 0:
		return Link{Name: "sent", State: OK, Text: strings.Join(texts, "; "), Told: true}
	case stale != "":
		return Link{Name: "sent", State: Broken, Text: "nothing was sent: " + stale, Told: true}
	}
	return Link{Name: "sent", State: Broken, Text: cmp.Or(strings.Join(reasons, "; "), "nothing was sent"), Told: true}
}

// stale says that a speaker acts on another configuration than the one in force, if so.
func (v *View) stale(document *report.Document) string {
	if v.Admitted == nil || document.Hash == v.Admitted.Data[service.KeyHash] {
		return ""
	}
	if document.Hash == "" {
		return fmt.Sprintf("the speaker on node %s has no configuration", document.Node)
	}
	return fmt.Sprintf("the speaker on node %s acts on configuration %s, and %s is in force", document.Node, document.Hash, v.Admitted.Data[service.KeyHash])
}

// routeTold is a route as the speaker says that it was sent.
func routeTold(node, peer string, r report.Route) Route {
	told := Route{Node: node, Peer: peer, Prefix: r.Prefix, NextHop: r.NextHop, Origin: r.Origin, LocalPref: r.LocalPref, ASPath: r.ASPath, Communities: slices.Clone(r.Communities), LinkBandwidth: r.LinkBandwidth, Sent: true}
	if len(r.AS4Path) > 0 {
		told.ASPath = r.AS4Path
	}
	for _, c := range r.LargeCommunities {
		told.Communities = append(told.Communities, "large:"+c)
	}
	return told
}

// weighs finds the large community that says the same as a link bandwidth: <our AS>:77:<weight>.
func weighs(community string) bool {
	return strings.HasPrefix(community, "large:") && strings.Contains(community, ":77:")
}

// differs says in what a route was sent otherwise than intended. Its next hop is the kernel's choice where the operator named no
// source address, and a weight takes its time to follow.
func differs(intended, sent Route) string {
	var all []string
	if intended.fixedHop && intended.NextHop != sent.NextHop {
		all = append(all, "next hop")
	}
	if intended.Origin != sent.Origin {
		all = append(all, "origin")
	}
	if (intended.LocalPref == nil) != (sent.LocalPref == nil) || intended.LocalPref != nil && *intended.LocalPref != *sent.LocalPref {
		all = append(all, "local preference")
	}
	if !slices.Equal(intended.ASPath, sent.ASPath) {
		all = append(all, "AS path")
	}
	named := func(r Route) []string {
		return slices.Sorted(slices.Values(slices.DeleteFunc(slices.Clone(r.Communities), weighs)))
	}
	if !slices.Equal(named(intended), named(sent)) {
		all = append(all, "communities")
	}
	if (intended.Weight > 0) != (sent.LinkBandwidth > 0) {
		all = append(all, "weight")
	}
	return strings.Join(all, ", ")
}

// compare marks intended routes that were sent, and adds those that were sent and are not intended. Routes are of one node and one
// peer.
func (v *View) compare(node string, p loadbalancer.Peer, intended []Route, takes func(netip.Prefix) bool) (all []Route) {
	session := v.toldOf(node, p)
	if v.told[node] == nil {
		if missing := v.noSpeaker(node); v.Asked && missing != "" {
			for i := range intended {
				intended[i].Differs = "not sent: " + missing
			}
		}
		return intended
	}
	sent := map[netip.Prefix]Route{}
	if session != nil {
		for _, r := range session.Routes {
			if takes(r.Prefix) {
				sent[r.Prefix] = routeTold(node, p.Name, r)
			}
		}
	}
	for _, r := range intended {
		is, ok := sent[r.Prefix]
		delete(sent, r.Prefix)
		switch {
		case !ok:
			r.Differs = "not sent"
			all = append(all, r)
		default:
			if is.Differs = differs(r, is); is.Differs != "" {
				all = append(all, r)
			}
			all = append(all, is)
		}
	}
	for _, is := range sent {
		is.Differs = "not intended"
		all = append(all, is)
	}
	slices.SortStableFunc(all, func(a, b Route) int { return comparePrefixes(a.Prefix, b.Prefix) })
	return all
}
