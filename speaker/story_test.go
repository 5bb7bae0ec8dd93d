package speaker

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/metallb/cloud-provider-metallb/internal/logbook"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// svc writes a Service and its endpoints in short: "shop/web 10.0.0.1 Local | a:ready b:last | v6 a:ready". What follows
// a bar is one slice. An endpoint is its node and its state, see conditions; it may have no node. Behind an @ stands who it
// is: the UID of a pod, or an address. tier is a label; adds and advertise are annotations.
func svc(t testing.TB, short string) Service {
	t.Helper()
	parts := strings.Split(short, "|")
	words := strings.Fields(parts[0])
	namespace, name, ok := strings.Cut(words[0], "/")
	if !ok {
		t.Fatalf("service %q: want namespace/name", short)
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster},
	}
	for _, word := range words[1:] {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "tier":
			svc.Labels = map[string]string{key: value}
		case "adds":
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.io/communities", value)
		case "advertise":
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.io/advertise", value)
		case "Local":
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		case "ClientIP":
			svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		case "class":
			svc.Spec.LoadBalancerClass = &value
		case "uid":
			svc.UID = types.UID(value)
		case "families":
			for family := range strings.SplitSeq(value, ",") {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily(family))
			}
		case "type":
			svc.Spec.Type = corev1.ServiceType(value)
		case "deleted":
			svc.DeletionTimestamp = &metav1.Time{Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		case "host":
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: value})
		default:
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: word})
		}
	}
	s := Service{Service: svc}
	for i, part := range parts[1:] {
		s.Slices = append(s.Slices, slice(t, svc, string(rune('a'+i)), part))
	}
	return s
}

func slice(t testing.TB, svc *corev1.Service, suffix, short string) *discoveryv1.EndpointSlice {
	t.Helper()
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name + "-" + suffix,
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, word := range strings.Fields(short) {
		if word == "v6" {
			s.AddressType = discoveryv1.AddressTypeIPv6
			continue
		}
		node, state, ok := strings.Cut(word, ":")
		if !ok {
			t.Fatalf("endpoint %q: want node:state", word)
		}
		state, id, _ := strings.Cut(state, "@")
		e := discoveryv1.Endpoint{Conditions: conditions(t, state)}
		if _, err := netip.ParseAddr(id); err == nil {
			e.Addresses = []string{id}
		} else if id != "" {
			e.TargetRef = &corev1.ObjectReference{UID: types.UID(id)}
		}
		if node != "" {
			e.NodeName = &node
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// conditions are those of a pod that is ready, is not, is terminating and still serves (last), is terminating and does not
// serve any more (over), and of one of which some is not said.
func conditions(t testing.TB, state string) discoveryv1.EndpointConditions {
	t.Helper()
	yes, no := new(true), new(false)
	switch state {
	case "ready":
		return discoveryv1.EndpointConditions{Ready: yes, Serving: yes, Terminating: no}
	case "unready":
		return discoveryv1.EndpointConditions{Ready: no, Serving: no, Terminating: no}
	case "last":
		return discoveryv1.EndpointConditions{Ready: no, Serving: yes, Terminating: yes}
	case "over":
		return discoveryv1.EndpointConditions{Ready: no, Serving: no, Terminating: yes}
	case "unsaid":
		return discoveryv1.EndpointConditions{}
	case "unready-unsaid": // terminating is not said: it is not
		return discoveryv1.EndpointConditions{Ready: no}
	case "serving-unsaid": // serving is not said: it is
		return discoveryv1.EndpointConditions{Ready: no, Terminating: yes}
	case "published": // publishNotReadyAddresses: ready until the end
		return discoveryv1.EndpointConditions{Ready: yes, Serving: no, Terminating: yes}
	}
	t.Fatalf("endpoint state %q", state)
	return discoveryv1.EndpointConditions{}
}

// node writes a Node in short: its name, labels, annotations (@key=value), taints (!key=value:Effect), and what is the matter
// with it.
func node(t testing.TB, short string) *corev1.Node {
	t.Helper()
	words := strings.Fields(short)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: words[0], Labels: map[string]string{}}}
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, message string) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: kind, Status: status, Message: message})
	}
	for _, word := range words[1:] {
		switch key, value, isLabel := strings.Cut(word, "="); {
		case word[0] == '@':
			metav1.SetMetaDataAnnotation(&n.ObjectMeta, key[1:], value)
		case word[0] == '!':
			text, effect, _ := strings.Cut(word[1:], ":")
			key, value, _ := strings.Cut(text, "=")
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
		case key == "internal":
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: value})
		case key == "external":
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: value})
		case isLabel:
			n.Labels[key] = value
		case word == "network-unavailable":
			condition(corev1.NodeNetworkUnavailable, corev1.ConditionTrue, "")
		case word == "network-available":
			condition(corev1.NodeNetworkUnavailable, corev1.ConditionFalse, "")
		case word == "network-unknown":
			condition(corev1.NodeNetworkUnavailable, corev1.ConditionUnknown, "")
		case word == "not-ready":
			condition(corev1.NodeReady, corev1.ConditionFalse, "kubelet stopped posting node status")
		case word == "ready":
			condition(corev1.NodeReady, corev1.ConditionTrue, "kubelet is posting ready status")
		case word == "shutting-down":
			condition(corev1.NodeReady, corev1.ConditionFalse, "node is shutting down")
		case word == "cordoned":
			n.Spec.Unschedulable = true
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
		case word == "tainted":
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "example.com/broken", Effect: corev1.TaintEffectNoExecute},
				corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule},
				corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule})
		case word == "deleted":
			n.DeletionTimestamp = &metav1.Time{Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		default:
			t.Fatalf("node %q: what is %q?", short, word)
		}
	}
	return n
}

func parse(t testing.TB, text string) *loadbalancer.Config {
	t.Helper()
	config, _, err := loadbalancer.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// notation writes routes one a line, as operators do.
func notation(routes []loadbalancer.Route) []string {
	var lines []string
	for _, r := range routes {
		lines = append(lines, r.String())
	}
	return lines
}

// lines are those of a text in a table, without the indentation.
func lines(text string) (all []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func written(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// logged is everything the package logs.
var logged = logbook.Open()

func TestMain(m *testing.M) {
	// The handler behind the first slows everybody down who reports errors, by a clock that synctest's bubbles do not share.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}
