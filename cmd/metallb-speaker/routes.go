package main

import (
	"iter"
	"net/http"
	"strings"

	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// A reporter answers what was sent and what was not. It looks at the speaker and its sessions page by page while it writes, so
// that whoever reads slowly keeps neither waiting.
type reporter struct {
	node     string
	status   func() speaker.Status
	sessions func() []bgp.Session
	bfd      func(bgp.Session) string // how BFD is with its router
	withheld func() iter.Seq[report.Withheld]
}

func (r *reporter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	status := r.status()
	w.Header().Set("Content-Type", "application/json")
	document := report.Document{Version: report.Version, Node: r.node, Hash: status.Hash, Problems: status.Problems}
	_ = report.Write(w, document, r.all(status), r.withheld()) // fails if whoever asked has gone away
}

// all are the sessions with their routes, and then those that the configuration wants and that cannot be.
func (r *reporter) all(status speaker.Status) iter.Seq2[report.Session, iter.Seq[report.Route]] {
	return func(yield func(report.Session, iter.Seq[report.Route]) bool) {
		for _, s := range r.sessions() {
			shown := report.Session{
				Peer: s.Peer, Address: s.Addr, Port: s.Port, ASN: s.ASN, State: s.State, Since: s.Since,
				Attempts: s.Attempts, Reason: s.LastError, Terms: s.Terms, BFD: r.bfd(s),
			}
			if !yield(shown, s.Routes()) {
				return
			}
		}
		for _, p := range status.Mute {
			shown := report.Session{Peer: p.Name, Address: p.Addr, Port: p.Port, ASN: p.ASN, State: "Idle"}
			for _, problem := range status.Problems {
				if why, its := strings.CutPrefix(problem, "peer "+p.Name+": "); its {
					shown.Reason = why
				}
			}
			if !yield(shown, bgp.Session{}.Routes()) {
				return
			}
		}
	}
}
