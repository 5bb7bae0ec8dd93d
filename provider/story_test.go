package provider

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	"pgregory.net/rapid"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// aService writes a Service in short: "shop/web want=10.0.0.1 pool=vip shows=10.0.0.2 …". Its UID is its name unless it says
// otherwise.
func aService(t rapid.TB, short string) *corev1.Service {
	t.Helper()
	words := strings.Fields(short)
	namespace, name, ok := strings.Cut(words[0], "/")
	if !ok {
		t.Fatalf("service %q: want namespace/name", short)
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(words[0])},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, word := range words[1:] {
		switch key, text, _ := strings.Cut(word, "="); key {
		case "want":
			svc.Spec.LoadBalancerIP = text
		case "want-annotation":
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.universe.tf/loadBalancerIPs", text)
		case "pool":
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.universe.tf/address-pool", text)
		case "shows":
			svc.Status.LoadBalancer = *service.Status(addrs(text))
		case "shows-without-mode":
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: text}}
		case "shows-host":
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: text}}
		case "age": // in days
			var days int
			if _, err := fmt.Sscan(text, &days); err != nil {
				t.Fatalf("service %q: %v", short, err)
			}
			svc.CreationTimestamp = metav1.NewTime(time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC).AddDate(0, 0, -days))
		case "version":
			svc.ResourceVersion = text
		case "uid":
			svc.UID = types.UID(text)
		case "class":
			svc.Spec.LoadBalancerClass = &text
		case "type":
			svc.Spec.Type = corev1.ServiceType(text)
		case "deleted":
			svc.DeletionTimestamp = &metav1.Time{Time: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)}
		case "deleted-for":
			age, err := time.ParseDuration(text)
			if err != nil {
				t.Fatalf("service %q: %v", short, err)
			}
			svc.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(-age)}
		case "finalizer":
			svc.Finalizers = []string{"example.com/mine", servicehelper.LoadBalancerCleanupFinalizer}
		case "families": // 4, 6, 46 or 64, and one of them is SingleStack
			policy := corev1.IPFamilyPolicySingleStack
			svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = nil, &policy
			for _, f := range text {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily("IPv"+string(f)))
			}
		case "require", "prefer": // after families
			policy := map[string]corev1.IPFamilyPolicy{"require": corev1.IPFamilyPolicyRequireDualStack, "prefer": corev1.IPFamilyPolicyPreferDualStack}[key]
			svc.Spec.IPFamilyPolicy = &policy
		case "share":
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.universe.tf/allow-shared-ip", text)
		case "port":
			var port int32
			if _, err := fmt.Sscan(text, &port); err != nil {
				t.Fatalf("service %q: %v", short, err)
			}
			svc.Spec.Ports = []corev1.ServicePort{{Port: port}}
		case "local": // and what it selects
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			svc.Spec.Selector = map[string]string{"app": text}
		case "communities", "advertise":
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, "metallb.io/"+key, text)
		case "label":
			svc.Labels = map[string]string{"tier": text}
		default:
			t.Fatalf("service %q: what is %q?", short, word)
		}
	}
	return svc
}

// listed writes several Services in short, separated by semicolons.
func listed(t testing.TB, short string) (all []*corev1.Service) {
	t.Helper()
	for one := range strings.SplitSeq(short, ";") {
		all = append(all, aService(t, one))
	}
	return all
}

// text writes a configuration in short: "vip 10.0.0.0/30; sandbox 10.1.0.0/24".
func text(short string) string {
	text := "address-pools:\n"
	for one := range strings.SplitSeq(short, ";") {
		words := strings.Fields(one)
		text += fmt.Sprintf("- name: %s\n  cidr: ['%s']\n", words[0], strings.ReplaceAll(words[1], ",", "','"))
		for _, word := range words[2:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "manual":
				text += "  auto-assign: false\n"
			case "tier": // of the Services that may use it
				text += "  service-selectors: [{match-labels: {tier: " + value + "}}]\n"
			case "hold":
				text += "  hold-down: " + value + "\n"
			case "env": // of namespaces
				text += "  namespace-selectors: [{match-labels: {env: " + value + "}}]\n"
			case "exclude":
				text += "  exclude: ['" + strings.ReplaceAll(value, ",", "', '") + "']\n"
			case "reserve": // service:address+service:address
				text += "  reservations:\n"
				for _, one := range strings.Split(value, "+") {
					service, addr, _ := strings.Cut(one, ":")
					text += "  - {service: " + service + ", addresses: ['" + addr + "']}\n"
				}
			case "quota":
				text += "  quotas: {" + strings.ReplaceAll(strings.ReplaceAll(value, ":", ": "), ",", ", ") + "}\n"
			case "namespace":
				text += "  namespaces: [" + value + "]\n"
			default:
				panic("what is " + word + "?")
			}
		}
	}
	return text
}

func pools(t testing.TB, short string) *loadbalancer.Config {
	t.Helper()
	config, _, err := loadbalancer.Parse([]byte(text(short)))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// admit puts a text in force if nothing speaks against it, as an admission does.
func (c *Cloud) admit(config, next *loadbalancer.Config, givenUp *netipx.IPSet, by loadbalancer.Consent) (loadbalancer.Verdict, *netipx.IPSet) {
	facts := loadbalancer.Facts{NodesKnown: true, KeysKnown: true, Held: c.hold()}
	defer c.resume()
	v := config.Admit(next, facts)
	if against := v.But(by); !against.Admits() {
		return against, givenUp
	}
	givenUp = with(givenUp, v.Lost)
	c.enforce(next, givenUp, config == nil)
	return loadbalancer.Verdict{}, givenUp
}

func names(services []*corev1.Service) string {
	var all []string
	for _, svc := range services {
		all = append(all, service.Name(svc))
	}
	return strings.Join(all, " ")
}

// addrs reads addresses with commas between them, and shown writes them.
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

// An eventbook is an event recorder that writes down the events, "shop/web Warning AddressConflict …".
type eventbook struct {
	mu     sync.Mutex
	events []string
}

func (b *eventbook) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := "?"
	if m, err := meta.Accessor(object); err == nil {
		name = m.GetNamespace() + "/" + m.GetName()
	}
	b.events = append(b.events, strings.Join([]string{name, kind, reason, fmt.Sprintf(format, args...)}, " "))
}

// take returns what was written since the last time.
func (b *eventbook) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = nil
	return events
}

// logged is everything the package logs.
var logged logbook

type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (b *logbook) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, text, _ := strings.Cut(string(line), "] ")
	b.lines = append(b.lines, strings.TrimSpace(text))
	return len(line), nil
}

// take returns what was logged since the last time.
func (b *logbook) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := b.lines
	b.lines = nil
	return lines
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestMain(m *testing.M) {
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&logged))))
	// The handler behind the first slows everybody down who reports errors, by a clock that synctest's bubbles do not share.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}
