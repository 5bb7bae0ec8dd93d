package provider

import (
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Whatever users write on a Service is either a request that the allocator understands, or has an error that fits into an
// event; and it never costs another Service its address.
func FuzzWhatServicesAskFor(f *testing.F) {
	f.Add("", "", "", "", "", "", uint8(0))
	f.Add("10.0.0.1", "10.0.0.1,fd00::1", "fd00::1", "vip", "", "key", uint8(3))
	f.Add("::ffff:10.0.0.1", " 10.0.0.1 ", "10.0.0.2", "", "moon", "", uint8(7))
	f.Add("fe80::1%eth0", "10.0.0.1,10.0.0.2", ",", "vip", "sandbox", "\x00", uint8(2))
	config := pools(f, "vip 10.0.0.0/30,fd00::/127; sandbox 10.1.0.0/31 manual")
	f.Fuzz(func(t *testing.T, field, addrs1, addrs2, pool1, pool2, key string, shape uint8) {
		svc := aService(t, "shop/web port=80")
		svc.Spec.LoadBalancerIP = field
		for name, text := range map[string]string{
			"metallb.universe.tf/loadBalancerIPs": addrs1, "metallb.io/loadBalancerIPs": addrs2,
			"metallb.universe.tf/address-pool": pool1, "metallb.io/address-pool": pool2,
			"metallb.io/allow-shared-ip": key,
		} {
			if text != "" {
				metav1.SetMetaDataAnnotation(&svc.ObjectMeta, name, text)
			}
		}
		four, six := corev1.IPv4Protocol, corev1.IPv6Protocol
		svc.Spec.IPFamilies = [][]corev1.IPFamily{{four}, {six}, {four, six}, {six, four}}[shape%4]
		if policy := corev1.IPFamilyPolicyRequireDualStack; shape&4 != 0 && len(svc.Spec.IPFamilies) > 1 {
			svc.Spec.IPFamilyPolicy = &policy
		}

		r := service.Request(svc)
		for _, err := range []error{r.Invalid} {
			if err != nil && (len(err.Error()) > mostOfAnEvent || utf8.ValidString(addrs1+addrs2+field) && !utf8.ValidString(err.Error())) {
				t.Fatalf("the error has %d bytes: %q", len(err.Error()), err)
			}
		}
		if r.Invalid == nil {
			for i, addr := range r.Addrs {
				if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() || i > 0 && loadbalancer.FamilyOf(addr) == loadbalancer.FamilyOf(r.Addrs[0]) {
					t.Fatalf("it asks for %v", r.Addrs)
				}
			}
		}

		a := loadbalancer.NewAllocator()
		a.Configure(config, nil)
		other := a.Allocate(service.Request(aService(t, "shop/other port=443 want=10.0.0.1")))
		foreseen, _ := a.Check(r)
		g := a.Allocate(r)
		if shown(foreseen.Addrs) != shown(g.Addrs) || foreseen.Why != g.Why {
			t.Fatalf("foreseen %v, and then %v", foreseen, g)
		}
		if got := a.Held("shop/other"); shown(got) != shown(other.Addrs) {
			t.Fatalf("the other Service has %v", got)
		}
		if g.Why.None() && len(g.Addrs) == 0 || r.AllFamilies && g.Why.None() && len(g.Addrs) != len(r.Families) {
			t.Fatalf("it has %v, and no reason", g.Addrs)
		}
		if again, same := a.Check(r); !same || shown(again.Addrs) != shown(g.Addrs) {
			t.Fatalf("asked again, %v became %v", g, again)
		}
		for _, addr := range g.Addrs {
			if a.Pool(addr) == nil {
				t.Fatalf("%s is of no pool", addr)
			}
		}
	})
}
