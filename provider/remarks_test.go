package provider

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

const asking = `
address-pools:
- name: gold
  cidr: [10.0.0.0/24]
  service-communities: [no-export, '64512:1']
  advertisements:
  - {aggregation-length: 31, localpref: 200, service-selectors: [{match-labels: {tier: gold}}]}
  - {aggregation-length: 31}
- {name: plain, cidr: [10.1.0.0/24], advertisements: [{aggregation-length: 24}]}
- {name: silent, cidr: [10.2.0.0/24], advertise: false, service-communities: [no-export]}
`

func TestServicesAreToldOnceWhyTheirRoutesAreNotAsTheyAsk(t *testing.T) {
	const (
		notAgreed = ` Warning PrefixNotAgreed the Services under 10.0.0.0/31 do not ask for the same, by their labels or by annotation communities: nobody's communities are added there, and the first advertisement in the text counts that selects one of them`
		notAllows = ` Warning CommunityNotAllowed annotation metallb.io/communities: pool "plain" does not let Services add no-export: ask for service-communities there, or remove it; what else the annotation names is sent`
	)
	parsed := func(text string) *loadbalancer.Config {
		config, _, err := loadbalancer.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	r := newRemarks()
	steps := []struct {
		then, service string // a minus: it is gone; empty: the configuration comes
		config        string
		want          string
	}{
		{then: "before there is a configuration", service: "shop/web shows=10.1.0.0 communities=no-export"},
		{then: "there is one", config: asking, want: "shop/web" + notAllows},
		{then: "it says the same again", config: asking},
		{then: "nothing changed", service: "shop/web shows=10.1.0.0 communities=no-export"},
		{then: "it asks no more", service: "shop/web shows=10.1.0.0"},
		{then: "and once more", service: "shop/web shows=10.1.0.0 communities=no-export", want: "shop/web" + notAllows},
		{then: "of what is allowed nothing is said", service: "shop/api shows=10.0.0.0 communities=no-export,64512:1"},
		{then: "a neighbor under another prefix", service: "shop/far shows=10.0.0.2"},
		{then: "a neighbor that asks for nothing: both are told", service: "blog/web shows=10.0.0.1", want: "blog/web" + notAgreed + "\nshop/api" + notAgreed},
		{then: "a third one: it alone is told", service: "blog/api shows=10.0.0.1 label=gold", want: "blog/api" + notAgreed},
		{then: "it goes, and the others still differ", service: "-blog/api"},
		{then: "the neighbor asks for the same", service: "blog/web shows=10.0.0.1 communities=64512:1,no-export"},
		{then: "its label changes, and another advertisement is for it", service: "blog/web shows=10.0.0.1 communities=64512:1,no-export label=gold", want: "blog/web" + notAgreed + "\nshop/api" + notAgreed},
		{then: "it is not to be announced", service: "blog/web shows=10.0.0.1 label=gold advertise=false"},
		{then: "nor that of a pool that others announce", service: "blog/api shows=10.2.0.1 communities=no-export"},
		{then: "it is announced", service: "blog/web shows=10.0.0.1 label=gold advertise=true", want: "blog/web" + notAgreed + "\nshop/api" + notAgreed},
		{then: "with longer prefixes they are no neighbors", config: strings.ReplaceAll(asking, "aggregation-length: 31", "aggregation-length: 32")},
		{then: "and are again", config: asking, want: "blog/web" + notAgreed + "\nshop/api" + notAgreed},
		{then: "true or false", service: "shop/far shows=10.0.0.2 advertise=perhaps", want: `shop/far Warning UnknownAnnotation annotation metallb.io/advertise: "perhaps" is neither true nor false: its addresses are announced`},
		{then: "four that are not allowed", service: "shop/far shows=10.0.0.2 communities=a,b,c,d",
			want: `shop/far Warning CommunityNotAllowed annotation metallb.io/communities: pool "gold" does not let Services add a, b, c: ask for service-communities there, or remove it; what else the annotation names is sent`},
	}
	for _, step := range steps {
		c := New(Options{})
		book := &eventbook{}
		c.record = book
		switch gone, isGone := strings.CutPrefix(step.service, "-"); {
		case step.config != "":
			var all []*corev1.Service
			for _, svc := range r.known {
				all = append(all, svc)
			}
			c.tell(r.configure(parsed(step.config), all))
		case isGone:
			c.tell(r.see(aService(t, gone).UID, nil))
		default:
			svc := aService(t, step.service)
			c.tell(r.see(svc.UID, svc))
		}
		same(t, step.then, sorted(book.take()), strings.FieldsFunc(step.want, func(r rune) bool { return r == '\n' }))
	}
	for uid := range r.known {
		r.see(uid, nil)
	}
	if len(r.known)+len(r.under)+len(r.told) > 0 {
		t.Errorf("of Services that are gone is left %v %v %v", r.known, r.under, r.told)
	}
}

// Where many share a prefix and agree, one more is looked at alone.
func BenchmarkRemarksOfOneOfTenThousand(b *testing.B) {
	config, _, err := loadbalancer.Parse([]byte("address-pools: [{name: big, cidr: [10.0.0.0/16], service-communities: [no-export], advertisements: [{aggregation-length: 16}]}]"))
	if err != nil {
		b.Fatal(err)
	}
	r := newRemarks()
	r.configure(config, nil)
	for i := range 10_000 {
		svc := aService(b, fmt.Sprintf("shop/web-%d shows=10.0.%d.%d", i, i/256, i%256))
		r.see(svc.UID, svc)
	}
	svc := aService(b, "shop/web-7 shows=10.0.0.7")
	for b.Loop() {
		r.see(svc.UID, svc)
	}
}
