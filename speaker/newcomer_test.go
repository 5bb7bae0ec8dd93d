package speaker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/service"
)

func TestKubeProxyGetsAHeadStartWhereOthersServe(t *testing.T) {
	const route = "10.0.0.1/32 pref 100"
	for _, test := range []struct {
		name string
		// A line is the time in seconds, the Service's policy and endpoints, and whether node a announces, or waits until when.
		story string
	}{
		{"at the start, a pod may have been ready for long", `
			0: Local | a:ready b:ready -> announced
			1: Local | a:ready b:ready -> announced`},
		{"the first pod of a node", `
			0: Local | b:ready -> no
			10: Local | a:ready b:ready -> until 12
			11: Local | a:ready b:ready -> until 12
			12: Local | a:ready b:ready -> announced
			13: Local | a:ready a:ready b:ready -> announced`},
		{"nobody else serves", `
			0: Local | b:unready -> no
			10: Local | a:ready b:unready -> announced
			11: Local | a:ready b:ready -> announced`},
		{"nobody else serves any more", `
			0: Local | b:ready -> no
			10: Local | a:ready b:ready -> until 12
			11: Local | a:ready b:last -> announced`},
		{"all are new", `
			0: Local | a:unready b:unready -> no
			10: Local | a:ready b:ready -> announced
			11: Local | a:ready b:ready c:ready -> announced`},
		{"all are new but one, which goes on to serve", `
			0: Local | a:unready b:unready c:ready -> no
			10: Local | a:ready b:ready c:ready -> until 12
			11: Local | a:ready b:ready -> announced`},
		{"all are replaced at once by pods on other nodes", `
			0: Local | c:ready -> no
			10: Local | a:ready b:ready -> announced`},
		{"those that served before are gone when others have come", `
			0: Local | c:ready -> no
			10: Local | a:ready c:ready -> until 12
			11: Local | a:ready b:ready -> announced`},
		{"a new Service, and pods that have been ready for long", `
			0: absent -> no
			10: Local | a:ready b:ready -> announced`},
		{"a new Service whose pods all come a moment later", `
			0: absent -> no
			10: Local | -> no
			11: Local | a:ready b:ready -> announced`},
		{"an address for a Service that had none", `
			0: without -> no
			10: Local | a:ready b:ready -> announced`},
		{"a pod that fails again starts anew", `
			0: Local | b:ready -> no
			10: Local | a:ready b:ready -> until 12
			11: Local | a:unready b:ready -> no
			12: Local | a:ready b:ready -> until 14
			14: Local | a:ready b:ready -> announced`},
		{"with the policy Cluster, any node can serve", `
			0: | b:ready -> announced
			10: | a:ready b:ready -> announced`},
		{"the policy becomes Local", `
			0: | a:ready b:ready -> announced
			10: Local | a:ready b:ready -> announced`},
		{"one that serves while it terminates is no newcomer", `
			0: Local | a:ready b:ready -> announced
			10: Local | a:last b:last -> announced
			11: Local | a:last b:ready -> no`},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, on := parse(t, onePool), node(t, "a")
			var m memory
			for _, line := range lines(test.story) {
				var seconds int
				at, rest, _ := strings.Cut(line, ": ")
				short, want, _ := strings.Cut(rest, " -> ")
				if _, err := fmt.Sscan(at, &seconds); err != nil {
					t.Fatal(err)
				}
				services := []Service{svc(t, "shop/web 10.0.0.1 "+strings.TrimPrefix(short, "without"))}
				switch short {
				case "absent":
					services = nil
				case "without":
					services = []Service{svc(t, "shop/web Local | a:ready b:ready")}
				}
				now := paceStart.Add(time.Duration(seconds) * time.Second)
				routes, withheld, next, wake := m.announcements(now, config, service.Ours{}, on, services, "", time.Time{})
				m = next
				got := "no"
				switch {
				case len(routes) == 1 && notation(routes)[0] == route && wake.IsZero():
					got = "announced"
				case len(withheld) == 1 && withheld[0].Why == whyLate:
					got = fmt.Sprintf("until %v", wake.Sub(paceStart).Seconds())
				}
				if got != want {
					t.Errorf("%s: %s, want %s: %v, %v", line, got, want, notation(routes), withheld)
				}
			}
		})
	}
}
