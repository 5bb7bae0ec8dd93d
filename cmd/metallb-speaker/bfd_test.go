package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
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
		var profile atomic.Bool
		r := &responder{sessions: func() []bgp.Session { return []bgp.Session{{Peer: "leaf", BFD: profile.Load()}} }}
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
