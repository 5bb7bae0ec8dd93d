package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/metallb/cloud-provider-metallb/internal/logbook"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
)

// Until now the time to forget a dead node silently became the hold time.
func TestAResponderThatAProfileNeedsIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := logbook.Open()
		var sessions []bgp.Session
		r := &responder{sessions: func() []bgp.Session { return sessions }}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go r.follow(ctx, fmt.Sprintf("@metallb-bfd-nobody-%d", os.Getpid()), nil)
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
			sessions = []bgp.Session{{Peer: "leaf", BFD: step.profile}}
			<-time.After(2 * responderTime)
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
