package loopback

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestAWaitingServiceIsServedWhenWhatItWaitsForComes(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	must(t, lab.addNamespaces(t.Context(), "other"))
	type service struct {
		name   string
		wishes []wish
	}
	one := "- {name: p, cidr: [10.0.0.0/32]}\n"
	remove := func(lab *Lab, ctx context.Context) error { return lab.delete(ctx, "default/holder") }
	edit := func(service, text string) func(*Lab, context.Context) error {
		return func(lab *Lab, ctx context.Context) error {
			_, err := lab.change(ctx, service, text)
			return err
		}
	}
	write := func(text string) func(*Lab, context.Context) error {
		return func(lab *Lab, ctx context.Context) error { return lab.write(ctx, "address-pools:\n"+probePool+text) }
	}
	for _, c := range []struct {
		when, pools string
		there       []service // of which the last waits
		why         string    // in its Warning
		do          func(*Lab, context.Context) error
		then        string
	}{
		{"an address is freed", one, []service{{"default/holder", nil}, {"default/waits", nil}}, "no free address", remove, "10.0.0.0"},
		{"the address it names is freed", one, []service{{"default/holder", nil}, {"default/waits", []wish{asking("10.0.0.0")}}},
			"default/holder", remove, "10.0.0.0"},
		{"its holder changes its type", one, []service{{"default/holder", nil}, {"default/waits", nil}}, "no free address",
			edit("default/holder", `{"spec":{"type":"ClusterIP"}}`), "10.0.0.0"},
		{"a pool is added", one, []service{{"default/holder", nil}, {"default/waits", nil}}, "no free address",
			write(one + "- {name: q, cidr: [10.0.1.0/32]}\n"), "10.0.1.0"},
		{"a pool of its name is added", one, []service{{"default/waits", []wish{fromPool("q")}}}, `"q"`,
			write(one + "- {name: q, cidr: [10.0.1.0/32]}\n"), "10.0.1.0"},
		{"its labels make a selector match", "- {name: p, cidr: [10.0.0.0/32], service-selectors: [{match-labels: {tier: gold}}]}\n",
			[]service{{"default/waits", nil}}, "", edit("default/waits", `{"metadata":{"labels":{"tier":"gold"}}}`), "10.0.0.0"},
		{"the selectors become ones that match", "- {name: p, cidr: [10.0.0.0/32], service-selectors: [{match-labels: {tier: gold}}]}\n",
			[]service{{"default/waits", nil}}, "", write(one), "10.0.0.0"},
		{"its namespace is listed", "- {name: p, cidr: [10.0.0.0/32], namespaces: [default]}\n", []service{{"other/waits", nil}}, "",
			write("- {name: p, cidr: [10.0.0.0/32], namespaces: [default, other]}\n"), "10.0.0.0"},
		{"its namespace is listed, and it names the address", "- {name: p, cidr: [10.0.0.0/32], namespaces: [default]}\n",
			[]service{{"other/waits", []wish{asking("10.0.0.0")}}}, "", write("- {name: p, cidr: [10.0.0.0/32], namespaces: [default, other]}\n"), "10.0.0.0"},
		{"the pool is no longer for requests only", "- {name: p, cidr: [10.0.0.0/32], auto-assign: false}\n", []service{{"default/waits", nil}}, "", write(one), "10.0.0.0"},
		{"it no longer requires both families", one, []service{{"default/waits", []wish{dual(corev1.IPFamilyPolicyRequireDualStack)}}}, "",
			edit("default/waits", `{"spec":{"ipFamilyPolicy":"SingleStack"}}`), "10.0.0.0"},
		{"it prefers both families instead of requiring them", one, []service{{"default/waits", []wish{dual(corev1.IPFamilyPolicyRequireDualStack)}}}, "",
			edit("default/waits", `{"spec":{"ipFamilyPolicy":"PreferDualStack"}}`), "10.0.0.0"},
		{"the pool gets the family that it lacks", one, []service{{"default/waits", []wish{dual(corev1.IPFamilyPolicyRequireDualStack)}}}, "",
			write(`- {name: p, cidr: [10.0.0.0/32, "fd00::/120"]}` + "\n"), "10.0.0.0,fd00::"},
		{"a sharer stops using its port", one, []service{{"default/holder", []wish{sharing("k", 80)}}, {"default/waits", []wish{sharing("k", 80), asking("10.0.0.0")}}},
			"default/holder", edit("default/holder", `{"spec":{"ports":[{"port":81}]}}`), "10.0.0.0"},
		{"the other sharer goes", one, []service{{"default/holder", []wish{sharing("k", 80)}}, {"default/waits", []wish{sharing("k", 80)}}}, "no free address", remove, "10.0.0.0"},
		{"its own port no longer collides", one, []service{{"default/holder", []wish{sharing("k", 80)}}, {"default/waits", []wish{sharing("k", 80)}}},
			"no free address", edit("default/waits", `{"spec":{"ports":[{"port":81}]}}`), "10.0.0.0"},
		{"a sharer's key becomes equal", one, []service{{"default/holder", []wish{sharing("l", 80)}}, {"default/waits", []wish{sharing("k", 81)}}},
			"no free address", edit("default/holder", `{"metadata":{"annotations":{"metallb.universe.tf/allow-shared-ip":"k"}}}`), "10.0.0.0"},
		{"a sharer's policy becomes equal", one, []service{{"default/holder", []wish{sharing("k", 80), local("web")}}, {"default/waits", []wish{sharing("k", 81)}}},
			"no free address", edit("default/holder", `{"spec":{"externalTrafficPolicy":"Cluster"}}`), "10.0.0.0"},
		{"a Local sharer's selector becomes equal", one, []service{{"default/holder", []wish{sharing("k", 80), local("api")}}, {"default/waits", []wish{sharing("k", 81), local("web")}}},
			"no free address", edit("default/holder", `{"spec":{"selector":{"app":"web"}}}`), "10.0.0.0"},
		{"its own selector becomes equal", one, []service{{"default/holder", []wish{sharing("k", 80), local("api")}}, {"default/waits", []wish{sharing("k", 81), local("web")}}},
			"no free address", edit("default/waits", `{"spec":{"selector":{"app":"api"}}}`), "10.0.0.0"},
		{"the pool is shared across namespaces", one, []service{{"default/holder", []wish{sharing("k", 80)}}, {"other/waits", []wish{sharing("k", 81)}}},
			"no free address", write("- {name: p, cidr: [10.0.0.0/32], share-across-namespaces: true}\n"), "10.0.0.0"},
	} {
		t.Run(c.when, func(t *testing.T) {
			ctx := t.Context()
			must(t, lab.clear(ctx, "default", "other"))
			configure(t, lab, "address-pools:\n"+probePool+c.pools)
			for i, s := range c.there {
				_, err := lab.create(ctx, s.name, s.wishes...)
				must(t, err)
				if i < len(c.there)-1 {
					must(t, lab.shows(ctx, s.name, "10.0.0.0"))
				}
			}
			waits := c.there[len(c.there)-1].name
			must(t, lab.warned(ctx, waits, c.why))
			must(t, lab.shows(ctx, waits, ""))
			began := time.Now()
			must(t, c.do(lab, ctx))
			must(t, lab.shows(ctx, waits, c.then))
			t.Logf("served after %s", time.Since(began))
		})
	}

	t.Run("a refused configuration becomes admissible", func(t *testing.T) {
		ctx := t.Context()
		must(t, lab.clear(ctx, "default", "other"))
		configure(t, lab, "address-pools:\n"+probePool+one)
		_, err := lab.create(ctx, "default/holder")
		must(t, err)
		must(t, lab.shows(ctx, "default/holder", "10.0.0.0"))
		_, err = lab.create(ctx, "default/waits", fromPool("q"))
		must(t, err)
		must(t, lab.warned(ctx, "default/waits", `"q"`))
		next := "address-pools:\n" + probePool + "- {name: q, cidr: [10.0.1.0/32]}\n"
		must(t, lab.write(ctx, next))
		must(t, lab.refused(ctx, "default/holder 10.0.0.0"))
		began := time.Now()
		must(t, lab.delete(ctx, "default/holder"))
		must(t, lab.Admitted(ctx, next))
		must(t, lab.shows(ctx, "default/waits", "10.0.1.0"))
		t.Logf("served after %s", time.Since(began))
	})

	t.Run("only as many as there are addresses, the oldest first", func(t *testing.T) {
		ctx := t.Context()
		must(t, lab.clear(ctx, "default", "other"))
		configure(t, lab, "address-pools:\n"+probePool+one)
		for i, name := range []string{"holder", "w1", "w2", "w3", "w4"} {
			_, err := lab.create(ctx, "default/"+name)
			must(t, err)
			if i == 0 {
				must(t, lab.shows(ctx, "default/holder", "10.0.0.0"))
			} else {
				must(t, lab.warned(ctx, "default/"+name, "no free address"))
			}
		}
		must(t, remove(lab, ctx))
		must(t, lab.shows(ctx, "default/w1", "10.0.0.0"))
		configure(t, lab, "address-pools:\n"+probePool+one+"- {name: q, cidr: [10.0.2.0/31]}\n")
		must(t, lab.shows(ctx, "default/w2", "10.0.2.0"))
		must(t, lab.shows(ctx, "default/w3", "10.0.2.1"))
		must(t, lab.probe(ctx))
		must(t, lab.shows(ctx, "default/w4", ""))
	})
}

// refused waits until a text is refused, for this reason among others.
func (l *Lab) refused(ctx context.Context, text string) error {
	return Until(ctx, "a refusal that says "+text, func(ctx context.Context) error {
		_, refused, err := l.decided(ctx)
		if err == nil && !strings.Contains(refused, text) {
			err = fmt.Errorf("it says %q", refused)
		}
		return err
	})
}

func TestAnOperatorRenumbersByNamingTheHashOfTheRefusal(t *testing.T) {
	ctx := t.Context()
	lab := start(t, Options{Nodes: 1})
	controller, err := lab.StartController(ctx, quickElection...)
	must(t, err)
	configure(t, lab, "address-pools:\n"+probePool+`- {name: old, cidr: [192.168.10.0/29, "fd00:10::/120"]}`+"\n")
	for _, s := range []struct {
		name, addr string
		wishes     []wish
	}{
		{"default/a1", "192.168.10.0", []wish{sharing("k", 80)}},
		{"default/a2", "192.168.10.0", []wish{sharing("k", 81)}},
		{"default/b", "192.168.10.1,fd00:10::", []wish{dual(corev1.IPFamilyPolicyRequireDualStack)}},
		{"default/c", "192.168.10.2", nil},
		{"default/d", "192.168.10.5", []wish{asking("192.168.10.5")}},
	} {
		_, err := lab.create(ctx, s.name, s.wishes...)
		must(t, err)
		must(t, lab.shows(ctx, s.name, s.addr))
	}

	// The new pool has room for the sharers and the one with both families.
	next := "address-pools:\n" + probePool + `- {name: new, cidr: [10.0.0.0/31, "fd00:11::/120"]}` + "\n"
	must(t, lab.write(ctx, next))
	for _, service := range []string{"default/a1 192.168.10.0", "default/a2 192.168.10.0", "default/b ", "default/c 192.168.10.2", hash(next)} {
		must(t, lab.refused(ctx, service))
	}
	_, err = lab.Event(ctx, "metallb-system", "config", "InvalidConfig", hash(next))
	must(t, err)
	name := func(hash string) {
		_, err = lab.API.CoreV1().ConfigMaps("metallb-system").Patch(ctx, "config", types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"metallb.universe.tf/renumber":"`+hash+`"}}}`), metav1.PatchOptions{})
		must(t, err)
	}
	name("0123456789abcdef") // is not what the refusal says
	must(t, lab.probe(ctx))
	must(t, lab.shows(ctx, "default/c", "192.168.10.2"))

	began := time.Now()
	name(hash(next))
	must(t, lab.Admitted(ctx, next))
	must(t, lab.shows(ctx, "default/a1", "10.0.0.0"))
	must(t, lab.shows(ctx, "default/a2", "10.0.0.0"))
	must(t, lab.shows(ctx, "default/b", "10.0.0.1,fd00:11::"))
	t.Logf("moved after %s", time.Since(began))
	for service, text := range map[string]string{"a1": "192.168.10.0 became 10.0.0.0 of pool new", "b": "became"} {
		message, err := lab.Event(ctx, "default", service, "Renumbered", text)
		must(t, err)
		t.Log(message)
	}
	// These two keep what they have for as long as there is nothing else.
	stays := func() {
		t.Helper()
		must(t, lab.shows(ctx, "default/c", "192.168.10.2"))
		must(t, lab.shows(ctx, "default/d", "192.168.10.5"))
	}
	must(t, lab.warned(ctx, "default/c", ""))
	must(t, lab.warned(ctx, "default/d", "192.168.10.5"))
	stays()
	controller.Kill()
	_, err = lab.StartController(ctx, quickElection...)
	must(t, err)
	must(t, lab.probe(ctx))
	stays()

	began = time.Now()
	must(t, lab.delete(ctx, "default/b"))
	must(t, lab.shows(ctx, "default/c", "10.0.0.1"))
	t.Logf("moved after %s", time.Since(began))
	_, err = lab.Event(ctx, "default", "c", "Renumbered", "192.168.10.2 became 10.0.0.1 of pool new")
	must(t, err)
	_, err = lab.change(ctx, "default/d", `{"spec":{"loadBalancerIP":"10.0.0.0"},"metadata":{"annotations":{"metallb.universe.tf/allow-shared-ip":"k"}}}`)
	must(t, err)
	must(t, lab.warned(ctx, "default/d", "10.0.0.0")) // its port is a1's
	_, err = lab.change(ctx, "default/d", `{"spec":{"ports":[{"port":82}]}}`)
	must(t, err)
	must(t, lab.shows(ctx, "default/d", "10.0.0.0"))
}
