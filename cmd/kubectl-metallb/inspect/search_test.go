package inspect

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestASearchFindsServicesByNameOrAddress(t *testing.T) {
	s := &Snapshot{}
	for _, svc := range []struct{ namespace, name, shows, asks string }{
		{"shop", "web", "192.0.2.1", ""},
		{"shop", "webhook", "192.0.2.2", ""},
		{"blog", "web", "2001:db8::1", ""},
		{"blog", "feed", "", "192.0.2.1"},
	} {
		object := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: svc.namespace, Name: svc.name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerIP: svc.asks}}
		if svc.shows != "" {
			object.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: svc.shows}}
		}
		s.Services = append(s.Services, object)
	}
	v := Look(s)
	for _, test := range []struct{ then, text, want string }{
		{"the whole name is one Service", "shop/web", "[shop/web] <nil>"},
		{"a name without namespace is all that are named so", "web", "[blog/web shop/web] <nil>"},
		{"a part finds all that have it", "hook", "[shop/webhook] <nil>"},
		{"also of the namespace", "shop/", "[shop/web shop/webhook] <nil>"},
		{"an address is whose it is, and who waits for it", "192.0.2.1", "[blog/feed shop/web] <nil>"},
		{"a prefix is all in it", "192.0.2.0/24", "[blog/feed shop/web shop/webhook] <nil>"},
		{"with host bits, too", "192.0.2.7/24", "[blog/feed shop/web shop/webhook] <nil>"},
		{"IPv6, written otherwise", "2001:DB8:0::1", "[blog/web] <nil>"},
		{"nobody has this one", "192.0.2.9", "[] there is no Service that shows or asks for an address in 192.0.2.9/32"},
		{"a mistake is answered with the nearest", "shop/wev", "[] there is no Service of type LoadBalancer named shop/wev: did you mean shop/web?"},
	} {
		all, err := v.Search(test.text)
		if got := fmt.Sprint(all, " ", err); got != test.want {
			t.Errorf("%s: %s, want %s", test.then, got, test.want)
		}
	}
}
