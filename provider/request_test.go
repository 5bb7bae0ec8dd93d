package provider

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func TestServicesAskInTheirSpecOrByAnnotation(t *testing.T) {
	dual, prefer := corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicyPreferDualStack
	tests := []struct {
		name        string
		annotations map[string]string
		field       string
		families    []corev1.IPFamily
		policy      *corev1.IPFamilyPolicy
		addr, pool  string
		err         string
	}{
		{name: "nothing in particular"},
		{name: "an address in the spec", field: "10.0.0.1", addr: "10.0.0.1"},
		{name: "an address by annotation", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1"}, addr: "10.0.0.1"},
		{name: "the later prefix", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1", "metallb.io/address-pool": "vip"}, addr: "10.0.0.1", pool: "vip"},
		{name: "a pool", annotations: map[string]string{"metallb.universe.tf/address-pool": "vip"}, pool: "vip"},
		{name: "spaces around it", annotations: map[string]string{"metallb.universe.tf/address-pool": " vip\n", "metallb.universe.tf/loadBalancerIPs": " 10.0.0.1 "}, addr: "10.0.0.1", pool: "vip"},
		{name: "an empty annotation asks for nothing", annotations: map[string]string{"metallb.universe.tf/address-pool": "", "metallb.io/loadBalancerIPs": " "}},
		{name: "both prefixes, one text", annotations: map[string]string{"metallb.universe.tf/address-pool": "vip", "metallb.io/address-pool": "vip "}, pool: "vip"},
		{name: "both prefixes, one of them empty", annotations: map[string]string{"metallb.universe.tf/address-pool": "", "metallb.io/address-pool": "vip"}, pool: "vip"},
		{name: "both prefixes, two texts", annotations: map[string]string{"metallb.universe.tf/address-pool": "vip", "metallb.io/address-pool": "sandbox"},
			err: "annotations metallb.universe.tf/address-pool and metallb.io/address-pool differ: remove one of the two"},
		{name: "both prefixes, two addresses", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1", "metallb.io/loadBalancerIPs": "10.0.0.2"},
			err: "annotations metallb.universe.tf/loadBalancerIPs and metallb.io/loadBalancerIPs differ: remove one of the two"},
		{name: "spec and annotation agree", field: "10.0.0.1", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1"}, addr: "10.0.0.1"},
		{name: "spec and annotation differ", field: "10.0.0.1", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.2"},
			err: "spec.loadBalancerIP asks for 10.0.0.1, and annotation metallb.universe.tf/loadBalancerIPs for 10.0.0.2: remove one of the two"},
		{name: "a mapped address is the address", field: "::ffff:10.0.0.1", addr: "10.0.0.1"},
		{name: "no address", field: "web.example.com", err: `spec.loadBalancerIP: "web.example.com" is not one IP address: write one, or remove it`},
		{name: "a network", field: "10.0.0.0/24", err: `spec.loadBalancerIP: "10.0.0.0/24" is not one IP address: write one, or remove it`},
		{name: "an address with a zone", field: "fe80::1%eth0", err: `spec.loadBalancerIP: "fe80::1%eth0" is not one IP address: write one, or remove it`},
		{name: "two addresses", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1,10.0.0.2"},
			err: `annotation metallb.universe.tf/loadBalancerIPs: "10.0.0.1,10.0.0.2" is not one IP address: write one, or remove it`},
		{name: "junk under the later prefix", annotations: map[string]string{"metallb.io/loadBalancerIPs": "any"},
			err: `annotation metallb.io/loadBalancerIPs: "any" is not one IP address: write one, or remove it`},
		{name: "spec and the later prefix differ", field: "10.0.0.1", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.2"},
			err: "spec.loadBalancerIP asks for 10.0.0.1, and annotation metallb.io/loadBalancerIPs for 10.0.0.2: remove one of the two"},
		{name: "IPv6", families: []corev1.IPFamily{corev1.IPv6Protocol}, err: "IPv6 is not supported by this version: set spec.ipFamilies to [IPv4]"},
		{name: "both IP versions", policy: &dual, families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			err: "RequireDualStack is not supported by this version: set spec.ipFamilyPolicy to SingleStack"},
		{name: "both IP versions, if possible", policy: &prefer, families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}},
		{name: "other annotations", annotations: map[string]string{"example.com/address-pool": "vip", "metallb.universe.tf/allow-shared-ip": "key"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			svc := service(t, "shop/web uid=1 want="+test.field)
			svc.Annotations = test.annotations
			svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = test.families, test.policy
			got, err := requestOf(svc)
			if words(err) != test.err {
				t.Errorf("error %q, want %q", words(err), test.err)
			}
			if err != nil {
				return
			}
			want := loadbalancer.Request{UID: "1", Service: "shop/web", Addr: got.Addr, Pool: test.pool}
			if got != want || shown(got.Addr) != test.addr {
				t.Errorf("got %+v, want %+v with address %q", got, want, test.addr)
			}
		})
	}
}

func TestStatusShowsOneAddressAsAVIPAndNothingElse(t *testing.T) {
	tests := []struct {
		name    string
		service string
		held    string
		want    bool
	}{
		{name: "the address", service: "shop/web shows=10.0.0.1", held: "10.0.0.1", want: true},
		{name: "another", service: "shop/web shows=10.0.0.2", held: "10.0.0.1"},
		{name: "none", service: "shop/web", held: "10.0.0.1"},
		{name: "the address without its mode", service: "shop/web shows-without-mode=10.0.0.1", held: "10.0.0.1"},
		{name: "nothing held, nothing shown", service: "shop/web", want: true},
		{name: "nothing held, something shown", service: "shop/web shows=10.0.0.1"},
		{name: "nothing held, a host shown", service: "shop/web shows-host=lb.example.com"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			held, _ := address("", test.held)
			if got := shows(service(t, test.service), held); got != test.want {
				t.Errorf("shows %t, want %t", got, test.want)
			}
		})
	}
}
