package speaker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/metallb/cloud-provider-metallb/service"
)

// A line is the time in seconds, all Services (between semicolons), and what is announced, or kept until when.
func TestAnAddressThatLeftAStatusIsKeptWhileNobodyReleasedIt(t *testing.T) {
	for _, test := range []struct{ name, story string }{
		{"somebody wipes the status, and it is mended", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web -> 10.0.0.1 until 130
			11: web 10.0.0.1 -> 10.0.0.1`},
		{"again and again", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web -> 10.0.0.1 until 130
			70: web 10.0.0.1 -> 10.0.0.1
			71: web -> 10.0.0.1 until 191
			129: web -> 10.0.0.1 until 191`},
		{"nobody mends it", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web -> 10.0.0.1 until 130
			129: web -> 10.0.0.1 until 130
			130: web -> nothing
			140: web -> nothing
			150: web 10.0.0.1 -> 10.0.0.1`},
		{"another controller writes an address of its own", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web 192.0.2.1 -> 10.0.0.1 until 130`},
		{"or a name", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web host=lb.example.com -> 10.0.0.1 until 130`},
		{"the Service moves", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web 10.0.0.2 -> 10.0.0.2`},
		{"the Service moves after somebody wiped its status", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web -> 10.0.0.1 until 130
			11: web 10.0.0.2 -> 10.0.0.2
			12: web -> 10.0.0.2 until 132`},
		{"an address of the other IP version is no move", `
			0: web 10.0.0.1 families=IPv4,IPv6 -> 10.0.0.1
			10: web 2001:db8::1 families=IPv4,IPv6 -> 10.0.0.1 2001:db8::1 until 130`},
		{"a dual-stack Service loses both", `
			0: web 10.0.0.1 2001:db8::1 families=IPv4,IPv6 -> 10.0.0.1 2001:db8::1
			10: web families=IPv4,IPv6 -> 10.0.0.1 2001:db8::1 until 130`},
		{"it becomes single-stack", `
			0: web 10.0.0.1 2001:db8::1 families=IPv4,IPv6 -> 10.0.0.1 2001:db8::1
			10: web 10.0.0.1 families=IPv4 -> 10.0.0.1`},
		{"it is of another family now", `
			0: web 10.0.0.1 families=IPv4 -> 10.0.0.1
			10: web families=IPv6 -> nothing`},
		{"it is deleted", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web deleted -> nothing`},
		{"it is gone, and comes back as another", `
			0: web uid=1 10.0.0.1 -> 10.0.0.1
			10: web uid=2 -> nothing`},
		{"it is gone for a moment", `
			0: web uid=1 10.0.0.1 -> 10.0.0.1
			10: -> nothing
			11: web uid=1 -> nothing`},
		{"its type changes", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web type=NodePort -> nothing`},
		{"its class changes", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web class=example.com/lb -> nothing`},
		{"another Service has the address", `
			0: web 10.0.0.1 ; api -> 10.0.0.1
			10: web ; api 10.0.0.1 -> 10.0.0.1
			20: web ; api -> 10.0.0.1 until 140`},
		{"another Service gets it later", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web -> 10.0.0.1 until 130
			20: web ; api 10.0.0.1 -> 10.0.0.1
			21: web ; api 10.0.0.1 deleted -> nothing`},
		{"even one that is not ours", `
			0: web 10.0.0.1 -> 10.0.0.1
			10: web ; other 10.0.0.1 class=example.com/lb -> nothing`},
		{"nobody knows what was there before the start", `
			0: web -> nothing`},
		{"two are fought for at different times", `
			0: web 10.0.0.1 ; api 10.0.0.2 -> 10.0.0.1 10.0.0.2
			10: web ; api 10.0.0.2 -> 10.0.0.1 10.0.0.2 until 130
			40: web ; api -> 10.0.0.1 10.0.0.2 until 130
			130: web ; api -> 10.0.0.2 until 160`},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, on := parse(t, "address-pools: [{name: default, cidr: [10.0.0.0/24, '2001:db8::/120']}]"), node(t, "a")
			var m memory
			for _, line := range lines(test.story) {
				var seconds int
				at, rest, _ := strings.Cut(line, ": ")
				all, want, _ := strings.Cut(rest, "-> ")
				if _, err := fmt.Sscan(at, &seconds); err != nil {
					t.Fatal(err)
				}
				var services []Service
				for one := range strings.SplitSeq(all, ";") {
					if one = strings.TrimSpace(one); one != "" {
						services = append(services, svc(t, "shop/"+one+" | a:ready | v6 a:ready"))
					}
				}
				now := paceStart.Add(time.Duration(seconds) * time.Second)
				routes, _, next, wake := m.announcements(now, config, service.Ours{}, on, services, "", time.Time{})
				m = next
				got := "nothing"
				if len(routes) > 0 {
					got = ""
				}
				for _, r := range routes {
					got = strings.TrimSpace(got + " " + r.Prefix.Addr().String())
				}
				if !wake.IsZero() {
					got += fmt.Sprintf(" until %v", wake.Sub(paceStart).Seconds())
				}
				if got != want {
					t.Errorf("%s: %s", line, got)
				}
			}
		})
	}
}
