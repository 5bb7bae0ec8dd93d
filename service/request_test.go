package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func TestServicesAskInTheirSpecOrByAnnotation(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		service     string // what else stands in it, in short
		field       string
		addrs, pool string
		families    string // IPv4 if empty
		key         string
		err         string
	}{
		{name: "nothing in particular"},
		{name: "an address in the spec", field: "10.0.0.1", addrs: "10.0.0.1"},
		{name: "an address by annotation", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1"}, addrs: "10.0.0.1"},
		{name: "the later prefix", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1", "metallb.io/address-pool": "vip"}, addrs: "10.0.0.1", pool: "vip"},
		{name: "a pool", annotations: map[string]string{"metallb.universe.tf/address-pool": "vip"}, pool: "vip"},
		{name: "spaces around it", annotations: map[string]string{"metallb.universe.tf/address-pool": " vip\n", "metallb.universe.tf/loadBalancerIPs": " 10.0.0.1 "}, addrs: "10.0.0.1", pool: "vip"},
		{name: "an empty annotation asks for nothing", annotations: map[string]string{"metallb.universe.tf/address-pool": "", "metallb.io/loadBalancerIPs": " "}},
		{name: "both prefixes, one text", annotations: map[string]string{"metallb.universe.tf/address-pool": "vip", "metallb.io/address-pool": "vip "}, pool: "vip"},
		{name: "both prefixes, one of them empty", annotations: map[string]string{"metallb.universe.tf/address-pool": "", "metallb.io/address-pool": "vip"}, pool: "vip"},
		{name: "both prefixes, two texts", annotations: map[string]string{"metallb.universe.tf/address-pool": "vip", "metallb.io/address-pool": "sandbox"},
			err: "annotations metallb.universe.tf/address-pool and metallb.io/address-pool differ: remove one of the two"},
		{name: "both prefixes, two addresses", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1", "metallb.io/loadBalancerIPs": "10.0.0.2"},
			err: "annotations metallb.universe.tf/loadBalancerIPs and metallb.io/loadBalancerIPs differ: remove one of the two"},
		{name: "spec and annotation agree", field: "10.0.0.1", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1"}, addrs: "10.0.0.1"},
		{name: "spec and annotation differ", field: "10.0.0.1", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.2"},
			err: "spec.loadBalancerIP asks for 10.0.0.1, and annotation metallb.universe.tf/loadBalancerIPs for 10.0.0.2: remove one of the two"},
		{name: "a mapped address is the address", field: "::ffff:10.0.0.1", addrs: "10.0.0.1"},
		{name: "no address", field: "web.example.com", err: `spec.loadBalancerIP: "web.example.com" is not one IP address: write one, or remove it`},
		{name: "a network", field: "10.0.0.0/24", err: `spec.loadBalancerIP: "10.0.0.0/24" is not one IP address: write one, or remove it`},
		{name: "an address with a zone", field: "fe80::1%eth0", err: `spec.loadBalancerIP: "fe80::1%eth0" is not one IP address: write one, or remove it`},
		{name: "two addresses", annotations: map[string]string{"metallb.universe.tf/loadBalancerIPs": "10.0.0.1,10.0.0.2"},
			err: `annotation metallb.universe.tf/loadBalancerIPs: "10.0.0.1,10.0.0.2" has two addresses of one IP version: write one of each at most`},
		{name: "two addresses, one of each version", service: "families=46 require", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1, fd00::1"}, addrs: "10.0.0.1,fd00::1", families: "[IPv4 IPv6]"},
		{name: "one of them in the spec as well", service: "families=64 prefer", field: "fd00::1", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1,fd00::1"}, addrs: "10.0.0.1,fd00::1", families: "[IPv6 IPv4]"},
		{name: "neither of them in the spec", service: "families=46 require", field: "10.0.0.2", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1,fd00::1"},
			err: "spec.loadBalancerIP asks for 10.0.0.2, and annotation metallb.io/loadBalancerIPs for 10.0.0.1,fd00::1: remove one of the two"},
		{name: "nothing between commas", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1,"},
			err: `annotation metallb.io/loadBalancerIPs: a comma has no IP address beside it: write one there, or remove the comma`},
		{name: "a novel of two addresses", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1,10.0.0.2" + strings.Repeat(" ", 100_000)},
			err: `annotation metallb.io/loadBalancerIPs: "10.0.0.1,10.0.0.2" has two addresses of one IP version: write one of each at most`},
		{name: "a novel of two addresses, spread wide", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.1," + strings.Repeat(" ", 100_000) + "10.0.0.2"},
			err: `annotation metallb.io/loadBalancerIPs: "10.0.0.1,` + strings.Repeat(" ", 48) + `…" has two addresses of one IP version: write one of each at most`},
		{name: "a novel", annotations: map[string]string{"metallb.io/loadBalancerIPs": strings.Repeat("x", 100_000)},
			err: `annotation metallb.io/loadBalancerIPs: "` + strings.Repeat("x", 57) + `…" is not one IP address: write one, or remove it`},
		{name: "an address of a version that the Service does not have", field: "fd00::1",
			err: "the Service asks for fd00::1, which is IPv6, and spec.ipFamilies is [IPv4]: change one of the two"},
		{name: "to share", annotations: map[string]string{"metallb.universe.tf/allow-shared-ip": "web and mail"}, key: "web and mail"},
		{name: "to share under two keys", annotations: map[string]string{"metallb.universe.tf/allow-shared-ip": "a", "metallb.io/allow-shared-ip": "b"},
			err: "annotations metallb.universe.tf/allow-shared-ip and metallb.io/allow-shared-ip differ: remove one of the two"},
		{name: "junk under the later prefix", annotations: map[string]string{"metallb.io/loadBalancerIPs": "any"},
			err: `annotation metallb.io/loadBalancerIPs: "any" is not one IP address: write one, or remove it`},
		{name: "spec and the later prefix differ", field: "10.0.0.1", annotations: map[string]string{"metallb.io/loadBalancerIPs": "10.0.0.2"},
			err: "spec.loadBalancerIP asks for 10.0.0.1, and annotation metallb.io/loadBalancerIPs for 10.0.0.2: remove one of the two"},
		{name: "IPv6", service: "families=6", families: "[IPv6]"},
		{name: "both IP versions, if possible", service: "families=46 prefer", families: "[IPv4 IPv6]"},
		{name: "other annotations", annotations: map[string]string{"example.com/address-pool": "vip", "metallb.universe.tf/protocol": "bgp"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			svc := aService(t, "shop/web uid=1 label=gold port=80 want="+test.field+" "+test.service)
			svc.Annotations = test.annotations
			got := Request(svc)
			if words(got.Invalid) != test.err {
				t.Errorf("error %q, want %q", words(got.Invalid), test.err)
			}
			if got.Invalid != nil {
				return
			}
			want := loadbalancer.Request{
				Created: svc.CreationTimestamp.Unix(),
				UID:     "1", Service: "shop/web", Namespace: "shop", Labels: map[string]string{"tier": "gold"}, Pool: test.pool,
				Families: got.Families, AllFamilies: strings.Contains(test.service, "require"), Addrs: got.Addrs,
				Terms: loadbalancer.Terms{Key: test.key, Ports: []loadbalancer.Port{{Protocol: "TCP", Number: 80}}},
			}
			if !reflect.DeepEqual(got, want) || shown(got.Addrs) != test.addrs || fmt.Sprint(got.Families) != cmp.Or(test.families, "[IPv4]") {
				t.Errorf("got %+v, want %+v with addresses %q", got, want, test.addrs)
			}
		})
	}
}

func TestWhatServicesShareDependsOnTheirPortsAndWhereTheirTrafficMayGo(t *testing.T) {
	svc := aService(t, "shop/web share=k")
	svc.Spec.Ports = []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}, {Port: 53}, {Port: 53, Protocol: corev1.ProtocolTCP}}
	svc.Spec.Selector = map[string]string{"b": "2", "a": "1"}
	want := loadbalancer.Terms{Key: "k", Ports: []loadbalancer.Port{{Protocol: "UDP", Number: 53}, {Protocol: "TCP", Number: 53}}}
	if got := Request(svc).Terms; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	want.Backend = "pods map[a:1 b:2]"
	if got := Request(svc).Terms; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
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
		{name: "two addresses", service: "shop/web shows=10.0.0.1,fd00::1", held: "10.0.0.1,fd00::1", want: true},
		{name: "two addresses in another order", service: "shop/web shows=fd00::1,10.0.0.1", held: "10.0.0.1,fd00::1"},
		{name: "one of two", service: "shop/web shows=10.0.0.1", held: "10.0.0.1,fd00::1"},
		{name: "nothing held, nothing shown", service: "shop/web", want: true},
		{name: "nothing held, something shown", service: "shop/web shows=10.0.0.1"},
		{name: "nothing held, a host shown", service: "shop/web shows-host=lb.example.com"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var held []netip.Addr
			if test.held != "" {
				held = addrs(test.held)
			}
			if got := Shows(aService(t, test.service), held); got != test.want {
				t.Errorf("shows %t, want %t", got, test.want)
			}
		})
	}
}

func TestClassesSayWhichServicesAreOurs(t *testing.T) {
	const none, own, chosen, another = "shop/web", "shop/web class=" + loadbalancer.Class, "shop/web class=metallb", "shop/web class=example.com/lb"
	for _, test := range []struct {
		then   string
		ours   Ours
		serves string // of these four
	}{
		{then: "without flags, our own class and none", serves: "none own"},
		{then: "another name is added", ours: Ours{Classes: []string{"metallb"}}, serves: "none own chosen"},
		{then: "those without a class are left to others", ours: Ours{ClassOnly: true}, serves: "own"},
		{then: "both", ours: Ours{Classes: []string{"metallb"}, ClassOnly: true}, serves: "own chosen"},
	} {
		// Speakers read what the controller manager wrote down.
		for _, ours := range []Ours{test.ours, FromData(test.ours.Data())} {
			var serves []string
			for _, x := range []struct{ name, short string }{{"none", none}, {"own", own}, {"chosen", chosen}, {"another", another}} {
				svc := aService(t, x.short)
				if ours.Serves(svc) {
					serves = append(serves, x.name)
				}
				if svc.Spec.Type = corev1.ServiceTypeClusterIP; ours.Serves(svc) {
					t.Errorf("%s: %s is served without being a LoadBalancer", test.then, x.name)
				}
			}
			if got := strings.Join(serves, " "); got != test.serves || !ours.Equal(test.ours) {
				t.Errorf("%s: %+v serves %q, want %q", test.then, ours, got, test.serves)
			}
		}
	}
}

func TestWhatTheAdmittedCopyDoesNotSayIsAsItEverWas(t *testing.T) {
	for _, data := range []map[string]string{nil, {"config": "peers: []"}, {KeyClasses: "", KeyClassOnly: ""}, {KeyClasses: " , ", KeyClassOnly: "perhaps"}} {
		if got := FromData(data); !got.Equal(Ours{}) || got.Classes != nil {
			t.Errorf("%q is read as %+v", data, got)
		}
	}
	same := Ours{Classes: []string{"b", "a", "b", loadbalancer.Class}}
	if want := "a,b," + loadbalancer.Class; same.Data()[KeyClasses] != want || !same.Equal(Ours{Classes: []string{"a", "b"}}) {
		t.Errorf("wrote %q, want %q", same.Data()[KeyClasses], want)
	}
}

func TestATextIsCutBetweenItsCharacters(t *testing.T) {
	for text, want := range map[string]string{"short": "short", "abcdefgh": "abc…", "abäefg": "ab…"} {
		if got := Cut(text, 6); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// aService writes a Service in short: "shop/web want=10.0.0.1 shows=10.0.0.2 …".
func aService(t *testing.T, short string) *corev1.Service {
	t.Helper()
	words := strings.Fields(short)
	svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}}
	svc.Namespace, svc.Name, _ = strings.Cut(words[0], "/")
	for _, word := range words[1:] {
		switch key, text, _ := strings.Cut(word, "="); key {
		case "uid":
			svc.UID = types.UID(text)
		case "class":
			svc.Spec.LoadBalancerClass = &text
		case "want":
			svc.Spec.LoadBalancerIP = text
		case "share":
			svc.Annotations = map[string]string{"metallb.universe.tf/allow-shared-ip": text}
		case "label":
			svc.Labels = map[string]string{"tier": text}
		case "port":
			svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
		case "families":
			svc.Spec.IPFamilies = nil
			for _, f := range text {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily("IPv"+string(f)))
			}
		case "require", "prefer":
			policy := map[string]corev1.IPFamilyPolicy{"require": corev1.IPFamilyPolicyRequireDualStack, "prefer": corev1.IPFamilyPolicyPreferDualStack}[key]
			svc.Spec.IPFamilyPolicy = &policy
		case "shows":
			svc.Status.LoadBalancer = *Status(addrs(text))
		case "shows-without-mode":
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: text}}
		case "shows-host":
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: text}}
		default:
			t.Fatalf("service %q: what is %q?", short, word)
		}
	}
	return svc
}

func addrs(text string) (all []netip.Addr) {
	for one := range strings.SplitSeq(text, ",") {
		all = append(all, netip.MustParseAddr(one))
	}
	return all
}

func shown(addrs []netip.Addr) string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return strings.Join(all, ",")
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
