package datacentre

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// What happens to others than the speaker: the API server goes away, the configuration breaks, a router is told to begin anew, and one
// of two peers changes.
func TestNothingMovesUnlessTheRouterItselfBeginsAnew(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	s := build(t)
	ctx := t.Context()
	frr, bird := s.frr(t, "frr", frrAddr, 100), s.bird(t, "bird", birdAddr, 200)
	want := s.exposeMany(t, 300)
	must(t, s.Admit(ctx, twoPeers(9*time.Second)))
	speaker := s.speak(t)
	history := map[network.Router]string{}
	for _, r := range []network.Router{frr, bird} {
		sends(t, r, want)
		history[r] = upAnew(t, r, network.Session{}).History
	}
	recorders := record(t, frr, bird)
	stays := func(meanwhile string, routers ...network.Router) {
		t.Helper()
		for _, r := range routers {
			if now := session(t, r).History; now != history[r] {
				t.Errorf("%s: the session with %s was %q and is %q", meanwhile, r, history[r], now)
			}
			for _, e := range events(t, recorders[r], 0) {
				t.Fatalf("%s: %s did %v", meanwhile, r, e)
			}
		}
	}
	said := func(what string) {
		t.Helper()
		eventually(t, "the speaker to say "+what, func(context.Context) error {
			if !strings.Contains(speaker.Output(), what) {
				return fmt.Errorf("it says\n%s", speaker.Output())
			}
			return nil
		})
	}

	must(t, s.Cluster.StopAPIServer())
	<-time.After(2 * 9 * time.Second) // longer than any session lasts of which one side is silent
	stays("the API server was away", frr, bird)
	must(t, s.Cluster.StartAPIServer(ctx))

	must(t, s.Admit(ctx, "peers: [{peer-address: tor.example.com}]\n"))
	said("Kept the previous configuration")
	stays("the admitted copy was broken", frr, bird)

	// A changed peer begins anew; the other does not notice.
	changed := strings.Replace(twoPeers(9*time.Second), "peer-asn: 200,", "peer-asn: 200, keepalive-time: 2s,", 1)
	must(t, s.Admit(ctx, changed))
	now := upAnew(t, bird, network.Session{History: history[bird]})
	sends(t, bird, want)
	stays("the other peer changed", frr)

	// A router that begins anew has everything again.
	before := session(t, frr)
	made(frr.Show(ctx, "clear bgp *"))(t)
	upAnew(t, frr, before)
	sends(t, frr, want)
	made(bird.Show(ctx, "restart", "node"))(t)
	upAnew(t, bird, now)
	sends(t, bird, want)
	s.forgiven = made(s.Cluster.Now(ctx))(t)
}
