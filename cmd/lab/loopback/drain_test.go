package loopback

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

func TestADrainedNodeIsTheRoutersLastChoiceAndReturns(t *testing.T) {
	const pools = `address-pools:
- name: default
  cidr: [192.168.10.0/24]
  advertisements:
  - {localpref: 200, communities: ['42:1']}
`
	for _, c := range []struct {
		name           string
		ibgp           bool
		normal, drains string // what the router hears: AS path, local preference, communities
	}{
		{name: "eBGP", normal: "[42] - [42:1]", drains: "[42 42 42 42] - [42:1 65535:0]"},
		{name: "iBGP", ibgp: true, normal: "[] 200 [42:1]", drains: "[] 0 [42:1 65535:0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := start(t, Options{IBGP: c.ibgp, Nodes: 2})
			must(t, lab.StartAll(t.Context()))
			configure(t, lab, lab.Peers()+pools)
			one, two := lab.Nodes[0], lab.Nodes[1]
			must(t, lab.RunPod(t.Context(), "default", "web-1", map[string]string{"app": "web"}, one))
			expose(t, lab, "one", nil)
			expose(t, lab, "two", nil)
			hears := func(then, fromOne string) {
				t.Helper()
				t.Log(then)
				var want []string
				for _, prefix := range []string{"192.168.10.0/32", "192.168.10.1/32"} {
					want = append(want, fmt.Sprintf("%s by %s %s", prefix, one.Addr, fromOne), fmt.Sprintf("%s by %s %s", prefix, two.Addr, c.normal))
				}
				must(t, lab.Router.Wait(t.Context(), then, func(paths []router.Path) bool {
					var have []string
					for _, p := range paths {
						pref := "-"
						if p.LocalPref != nil {
							pref = fmt.Sprint(*p.LocalPref)
						}
						have = append(have, fmt.Sprintf("%s by %s %v %s %v", p.Prefix, p.NextHop, p.ASPath, pref, p.Communities))
					}
					return slices.Equal(have, want)
				}))
			}
			annotate := func(key, value string) {
				t.Helper()
				patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
				_, err := lab.API.CoreV1().Nodes().Patch(t.Context(), one.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
				must(t, err)
			}
			hears("all is well", c.normal)
			annotate("metallb.universe.tf/drain", `"true"`)
			hears("the node is drained", c.drains)
			annotate("metallb.universe.tf/drain", `"false"`)
			hears("it is not, says the annotation", c.normal)
			annotate("metallb.io/drain", `"disk change, 14:00"`)
			hears("it is, says its synonym", c.drains)
			annotate("metallb.io/drain", `null`)
			hears("the annotation is gone", c.normal)

			for _, p := range lab.processes {
				log := p.Output()
				if up := strings.Count(log, "Session is up"); strings.HasPrefix(p.Name, "metallb-speaker") && (up != 1 || strings.Contains(log, "Session is down")) {
					t.Errorf("%s: the session came up %d times, or went down", p.Name, up)
				}
			}
			// The first speaker is that of the drained node. What it logs last, it logs after the router was told.
			must(t, Until(t.Context(), "the speaker to log both drains", func(context.Context) error {
				for _, annotation := range []string{"metallb.universe.tf/drain", "metallb.io/drain"} {
					for _, line := range []string{`"Began to drain" node="node-1" why="it is annotated %s"`, `"Drain is over" node="node-1" was="it is annotated %s"`} {
						line = fmt.Sprintf(line, annotation)
						if n := strings.Count(lab.processes[1].Output(), line); n != 1 {
							return fmt.Errorf("%d times: %s", n, line)
						}
					}
				}
				return nil
			}))
		})
	}
}
