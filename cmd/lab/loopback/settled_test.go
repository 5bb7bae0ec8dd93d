package loopback

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

func TestAThousandSettledServicesCostNothing(t *testing.T) {
	suite.Heavy(t)
	const services, writers = 1000, 16
	ctx := t.Context()
	lab := start(t, Options{Nodes: 1})
	must(t, lab.addNamespaces(ctx, "settled", "probe"))
	controller, err := lab.StartController(ctx, quickElection...)
	must(t, err)
	configure(t, lab, "address-pools:\n"+probePool+`- {name: big, cidr: [10.0.0.0/16, "fd00::/112"]}`+"\n")
	began := time.Now()
	must(t, parallel(services, writers, func(i int) error {
		var wishes []wish
		switch i % 5 {
		case 0: // pairs
			wishes = []wish{sharing(fmt.Sprint("pair", i/10), int32(1+i%10))}
		case 1:
			wishes = []wish{dual(corev1.IPFamilyPolicyRequireDualStack)}
		case 2:
			wishes = []wish{asking(fmt.Sprintf("10.0.%d.%d", 100+i/200, i%200))}
		}
		_, err := lab.create(ctx, fmt.Sprintf("settled/s%04d", i), wishes...)
		return err
	}))
	all := func(ctx context.Context) (map[string]string, error) {
		list, err := lab.API.CoreV1().Services("settled").List(ctx, metav1.ListOptions{})
		state := map[string]string{}
		for _, svc := range list.Items {
			state[svc.Name] = shown(&svc)
		}
		return state, err
	}
	var before map[string]string
	must(t, Until(ctx, "all to be served", func(ctx context.Context) (err error) {
		before, err = all(ctx)
		for name, text := range before {
			if text == "" {
				return fmt.Errorf("%s is not", name)
			}
		}
		return err
	}))
	t.Logf("%d Services were created and served in %s", services, time.Since(began))
	addresses := map[string]bool{}
	for _, text := range before {
		addresses[text] = true
	}
	if want := services - services/5/2; len(addresses) != want {
		t.Errorf("there are %d addresses or pairs of them, instead of %d: the sharers do not share", len(addresses), want)
	}

	// Nothing may be written but the Lease and what the probe costs.
	for _, c := range []struct {
		when string
		do   func() error
	}{
		{"a restart", func() error {
			must(t, controller.Stop(patience))
			controller, err = lab.StartController(ctx, quickElection...)
			return err
		}},
		{"a crash", func() error {
			controller.Kill()
			controller, err = lab.StartController(ctx, quickElection...)
			return err
		}},
		{"an update of each that changes nothing", func() error {
			return parallel(services, writers, func(i int) error {
				_, err := lab.change(ctx, fmt.Sprintf("settled/s%04d", i), `{"metadata":{"labels":{"turn":"two"}}}`)
				return err
			})
		}},
	} {
		must(t, lab.probe(ctx)) // also what was to be written about earlier things has been
		since, err := lab.Now(ctx)
		must(t, err)
		began := time.Now()
		must(t, c.do())
		// A start looks at the Services in any order, so the first one says only that it has begun.
		must(t, lab.probe(ctx))
		must(t, lab.probe(ctx))
		t.Logf("%s took %s", c.when, time.Since(began))
		writes, err := lab.Requests(ctx, since, func(r kubernetes.Request) bool {
			return r.User == controllerUser && r.Writes() && r.Resource != "leases" && r.Namespace != "probe"
		})
		must(t, err)
		for _, w := range writes[:min(10, len(writes))] {
			t.Errorf("%s caused a write, one of %d: %v", c.when, len(writes), w)
		}
	}
	after, err := all(ctx)
	must(t, err)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s had %s and has %s", name, text, after[name])
		}
	}
}

func TestAnythingWrittenIntoAStatusIsPutRight(t *testing.T) {
	ctx := t.Context()
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(ctx)
	must(t, err)
	configure(t, lab, `address-pools: [{name: p, cidr: [10.0.0.0/24, "fd00::/120"]}]`)
	services := []struct {
		name, addr string
		wishes     []wish
	}{
		{"default/single", "10.0.0.0", nil},
		{"default/shared-1", "10.0.0.1", []wish{sharing("k", 80)}},
		{"default/shared-2", "10.0.0.1", []wish{sharing("k", 81)}},
		{"default/dual", "10.0.0.2,fd00::", []wish{dual(corev1.IPFamilyPolicyRequireDualStack)}},
		{"default/preferring", "10.0.0.3,fd00::1", []wish{dual(corev1.IPFamilyPolicyPreferDualStack)}},
	}
	for _, ingress := range []string{
		`null`,
		`[{"ip":"10.0.0.9"}]`,
		`[{"ip":"203.0.113.9"}]`,
		`[{"ip":"10.0.0.0"}]`, // single's, and so right for that one
		`[{"ip":"10.0.0.2"}]`, // half of what dual has
		`[{"ip":"fd00::"},{"ip":"10.0.0.2"}]`,
		`[{"hostname":"lb.example.com"}]`,
		`[{"ip":"10.0.0.1"},{"hostname":"lb.example.com"}]`,
		`[{"ip":"10.0.0.1","ipMode":"Proxy"}]`,
		`[{"ip":"10.0.0.1","ports":[{"port":80,"protocol":"TCP"}]}]`,
	} {
		// Each is new, since who writes into one again and again is mended less and less often.
		for _, s := range services {
			_, err := lab.create(ctx, s.name, append(s.wishes, annotated("loadBalancerIPs", s.addr))...)
			must(t, err)
			must(t, lab.shows(ctx, s.name, s.addr))
		}
		began := time.Now()
		for _, s := range services {
			_, err := lab.change(ctx, s.name, `{"status":{"loadBalancer":{"ingress":`+ingress+`}}}`, "status")
			must(t, err)
		}
		for _, s := range services {
			must(t, lab.shows(ctx, s.name, s.addr))
		}
		t.Logf("%s on all of them: mended after %s", ingress, time.Since(began))
		must(t, lab.clear(ctx, "default"))
	}
}

// TestTheEndDoesNotDependOnTheOrderOfEvents creates the same Services in another order each time, by several writers, and has a
// controller manager begin with what it finds. While one runs, who comes first is served first, so that only a start has one
// right end: holders, explicit requests, creation time, name.
func TestTheEndDoesNotDependOnTheOrderOfEvents(t *testing.T) {
	ctx := t.Context()
	random, steps := chance(t)
	lab := start(t, Options{Nodes: 1})
	must(t, lab.addNamespaces(ctx, "mix"))
	// Without an election, one that was killed need not be waited for.
	first, err := lab.StartController(ctx, "--leader-elect=false")
	must(t, err)
	configure(t, lab, "address-pools:\n"+probePool+"- {name: p, cidr: [10.0.0.0-10.0.0.10]}\n")
	first.Kill()

	type input struct {
		name   string
		status string
		wishes []wish
	}
	inputs := []input{
		{"held-0", "10.0.0.0", nil}, {"held-2", "10.0.0.2", nil}, {"held-4", "10.0.0.4", []wish{asking("10.0.0.4")}},
		{"rival-a", "10.0.0.6", nil}, {"rival-b", "10.0.0.6", nil}, // the older keeps it
		{"shared-a", "10.0.0.8", []wish{sharing("k", 80)}}, {"shared-b", "10.0.0.8", []wish{sharing("k", 81)}},
		{"joins", "", []wish{sharing("k", 82), asking("10.0.0.8")}},
		{"asks-1", "", []wish{asking("10.0.0.1")}}, {"asks-3", "", []wish{asking("10.0.0.3")}},
		{"asks-held", "", []wish{asking("10.0.0.0")}},                                            // in vain
		{"asks-5a", "", []wish{asking("10.0.0.5")}}, {"asks-5b", "", []wish{asking("10.0.0.5")}}, // the older gets it
	}
	for i := range 10 {
		inputs = append(inputs, input{name: fmt.Sprint("waits-", i)})
	}
	for range steps / 20 {
		random.Shuffle(len(inputs), func(i, j int) { inputs[i], inputs[j] = inputs[j], inputs[i] })
		must(t, parallel(len(inputs), 8, func(i int) error {
			in := inputs[i]
			if _, err := lab.create(ctx, "mix/"+in.name, in.wishes...); err != nil || in.status == "" {
				return err
			}
			_, err := lab.change(ctx, "mix/"+in.name, `{"status":{"loadBalancer":{"ingress":[{"ip":"`+in.status+`"}]}}}`, "status")
			return err
		}))
		list, err := lab.API.CoreV1().Services("mix").List(ctx, metav1.ListOptions{})
		must(t, err)
		slices.SortFunc(list.Items, func(a, b corev1.Service) int {
			if by := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); by != 0 {
				return by
			}
			return strings.Compare(a.Name, b.Name)
		})
		rank := map[string]int{}
		for i, svc := range list.Items {
			rank[svc.Name] = i
		}
		older := func(a, b string) (string, string) {
			if rank[a] < rank[b] {
				return a, b
			}
			return b, a
		}
		keeps, loses := older("rival-a", "rival-b")
		gets, never := older("asks-5a", "asks-5b")
		want := map[string]string{"held-0": "10.0.0.0", "held-2": "10.0.0.2", "held-4": "10.0.0.4", keeps: "10.0.0.6", "shared-a": "10.0.0.8",
			"shared-b": "10.0.0.8", "joins": "10.0.0.8", "asks-1": "10.0.0.1", "asks-3": "10.0.0.3", gets: "10.0.0.5", never: "", "asks-held": ""}
		// These are left for those that take any.
		left := []string{"10.0.0.7", "10.0.0.9", "10.0.0.10"}
		for _, svc := range list.Items {
			if svc.Name != loses && !strings.HasPrefix(svc.Name, "waits-") {
				continue
			}
			want[svc.Name] = ""
			if len(left) > 0 {
				want[svc.Name], left = left[0], left[1:]
			}
		}

		controller, err := lab.StartController(ctx, "--leader-elect=false")
		must(t, err)
		must(t, lab.probe(ctx))
		for name, addr := range want {
			if err := lab.shows(ctx, "mix/"+name, addr); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if t.Failed() {
			for i, svc := range list.Items {
				t.Logf("%d: %s of %s", i, svc.Name, svc.CreationTimestamp)
			}
			return
		}
		must(t, lab.clear(ctx, "mix"))
		controller.Kill()
	}
}
