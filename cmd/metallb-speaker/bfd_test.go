package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/internal/logbook"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd/seam"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// Until now the time to forget a dead node silently became the hold time.
func TestAResponderThatAProfileNeedsIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := logbook.Open()
		var profile atomic.Bool
		r := newResponder(fmt.Sprintf("@metallb-bfd-nobody-%d", os.Getpid()),
			func() []bgp.Session { return []bgp.Session{{Peer: "leaf", BFD: profile.Load()}} }, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go r.follow(ctx)
		for _, step := range []struct {
			then    string
			profile bool
			want    []string
		}{
			{then: "no peer has a profile"},
			{then: "one has", profile: true, want: []string{"No BFD responder runs on this node"}},
			{then: "it still has", profile: true},
			{then: "no longer", want: []string{"A BFD responder runs on this node, or none is needed any more"}},
		} {
			profile.Store(step.profile)
			<-time.After(2*responderTime + time.Second)
			synctest.Wait()
			var got []string
			for _, line := range logged.Take() {
				got = append(got, strings.SplitN(line, `"`, 3)[1])
			}
			if !slices.Equal(got, step.want) {
				t.Errorf("%s: log %q, want %q", step.then, got, step.want)
			}
		}
	})
}

// The answer to GET /routes says how BFD is with each router that has a profile, and nothing where nobody says so any more.
func TestTheReportSaysHowBFDIs(t *testing.T) {
	leaf, spine, node := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.9")
	sessions := []bgp.Session{
		{Peer: "leaf", Addr: leaf, BFD: true}, {Peer: "leaf-from-node-ip", Addr: leaf, Source: node, BFD: true},
		{Peer: "spine", Addr: spine, BFD: true}, {Peer: "unwatched", Addr: spine}, {Peer: "unheard-of", Addr: node, BFD: true},
	}
	socket := fmt.Sprintf("@metallb-bfd-%s-%d", t.Name(), os.Getpid())
	server, err := seam.NewServer(socket, func() []seam.Word {
		return []seam.Word{{Router: leaf, Up: true}, {Router: leaf, Local: node}, {Router: spine, AdminDown: true}}
	})
	if err != nil {
		t.Fatal(err)
	}
	serving, end := context.WithCancel(t.Context())
	defer end()
	go server.Serve(serving)
	r := newResponder(socket, func() []bgp.Session { return sessions }, func(_, _ netip.Addr) {})
	go r.follow(t.Context())
	states := func() (all []string) {
		page := httptest.NewRecorder()
		reporter := &reporter{status: func() (none speaker.Status) { return none }, sessions: r.sessions, bfd: r.state,
			withheld: func() iter.Seq[report.Withheld] { return slices.Values([]report.Withheld{}) }}
		reporter.ServeHTTP(page, httptest.NewRequestWithContext(t.Context(), http.MethodGet, report.Path, nil))
		var d report.Document
		if err := json.Unmarshal(page.Body.Bytes(), &d); err != nil {
			t.Fatal(err)
		}
		for _, s := range d.Sessions {
			all = append(all, s.Peer+" "+s.BFD)
		}
		return all
	}
	is := func(want ...string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !slices.Equal(states(), want); <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it says %q, want %q", states(), want)
			}
		}
	}
	is("leaf Up", "leaf-from-node-ip Down", "spine AdminDown", "unwatched ", "unheard-of Unknown")
	server.Tell(seam.Word{Router: leaf})
	is("leaf Down", "leaf-from-node-ip Down", "spine AdminDown", "unwatched ", "unheard-of Unknown")
	end()
	is("leaf Unknown", "leaf-from-node-ip Unknown", "spine Unknown", "unwatched ", "unheard-of Unknown")
}
