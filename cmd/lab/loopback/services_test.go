package loopback

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	ourClass   = "metallb.universe.tf/metallb"
	otherClass = "example.com/other"
	// finalizer is the same for every implementation that is built on the standard service controller.
	finalizer = "service.kubernetes.io/load-balancer-cleanup"
)

// A wish is what sets a Service apart from one of IPv4 that takes any address for its port 80.
type wish func(*corev1.Service)

func annotated(key, value string) wish {
	return func(svc *corev1.Service) {
		if svc.Annotations == nil {
			svc.Annotations = map[string]string{}
		}
		svc.Annotations["metallb.universe.tf/"+key] = value
	}
}

func fromPool(name string) wish { return annotated("address-pool", name) }

// sharing has a key and other ports.
func sharing(key string, ports ...int32) wish {
	return func(svc *corev1.Service) {
		annotated("allow-shared-ip", key)(svc)
		svc.Spec.Ports = nil
		for _, port := range ports {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", port), Port: port})
		}
	}
}

// dual wants addresses of both families, IPv4 first.
func dual(policy corev1.IPFamilyPolicy) wish {
	return func(svc *corev1.Service) {
		svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
}

func classed(name string) wish {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &name }
}

// local has externalTrafficPolicy Local, and selects pods of this app.
func local(app string) wish {
	return func(svc *corev1.Service) {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": app}
	}
}

// create makes a Service of type LoadBalancer, called namespace/name.
func (l *Lab) create(ctx context.Context, service string, wishes ...wish) (*corev1.Service, error) {
	namespace, name, _ := strings.Cut(service, "/")
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type:                          corev1.ServiceTypeLoadBalancer,
			Selector:                      map[string]string{"app": "web"},
			Ports:                         []corev1.ServicePort{{Port: 80}},
			AllocateLoadBalancerNodePorts: new(bool), // there are 2,768 in the cluster, and nobody here uses them
		},
	}
	for _, w := range wishes {
		w(svc)
	}
	return l.API.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
}

// change is a JSON merge patch, which unlike a strategic one replaces lists.
func (l *Lab) change(ctx context.Context, service, text string, subresource ...string) (*corev1.Service, error) {
	namespace, name, _ := strings.Cut(service, "/")
	return l.API.CoreV1().Services(namespace).Patch(ctx, name, types.MergePatchType, []byte(text), metav1.PatchOptions{}, subresource...)
}

func (l *Lab) service(ctx context.Context, service string) (*corev1.Service, error) {
	namespace, name, _ := strings.Cut(service, "/")
	return l.API.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l *Lab) delete(ctx context.Context, service string) error {
	namespace, name, _ := strings.Cut(service, "/")
	return l.API.CoreV1().Services(namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// shown is the status as one text: addresses with a comma in between. What a status of ours never has stands there too.
func shown(svc *corev1.Service) string {
	var all []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		text := ingress.IP
		if ingress.Hostname != "" || len(ingress.Ports) > 0 {
			text += "+" + ingress.Hostname
		}
		if ingress.IPMode == nil || *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
			text += "+mode"
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}

// shows waits until a Service's status is this text.
func (l *Lab) shows(ctx context.Context, service, want string) error {
	return Until(ctx, fmt.Sprintf("%s to show %q", service, want), func(ctx context.Context) error {
		svc, err := l.service(ctx, service)
		if err == nil && shown(svc) != want {
			err = fmt.Errorf("it shows %q", shown(svc))
		}
		return err
	})
}

// warned waits until a Service is told why it does not have what it asks for, in these words among others.
func (l *Lab) warned(ctx context.Context, service, text string) error {
	namespace, name, _ := strings.Cut(service, "/")
	_, err := l.Event(ctx, namespace, name, "SyncLoadBalancerFailed", text)
	return err
}

// clear deletes the Services of some namespaces, and waits until they are gone.
func (l *Lab) clear(ctx context.Context, namespaces ...string) error {
	for _, namespace := range namespaces {
		err := Until(ctx, "the Services of "+namespace+" to go", func(ctx context.Context) error {
			list, err := l.API.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name!=kubernetes"})
			if err != nil || len(list.Items) == 0 {
				return err
			}
			for _, svc := range list.Items {
				if svc.DeletionTimestamp != nil {
					continue
				}
				if err := l.delete(ctx, namespace+"/"+svc.Name); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
			}
			return fmt.Errorf("%d are there, such as %s", len(list.Items), list.Items[0].Name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) addNamespaces(ctx context.Context, names ...string) error {
	for _, name := range names {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := l.API.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// probePool is for probe.
const probePool = "- {name: probe, cidr: [198.51.100.0/30], auto-assign: false}\n"

// probe has a Service served and deletes it: there is a leader, and it has looked at what came before. Its namespace keeps what
// that costs apart from what else is written.
func (l *Lab) probe(ctx context.Context) error {
	if err := l.addNamespaces(ctx, "probe"); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if _, err := l.create(ctx, "probe/probe", fromPool("probe")); err != nil {
		return err
	}
	if err := Until(ctx, "the probe to be served", func(ctx context.Context) error {
		svc, err := l.service(ctx, "probe/probe")
		if err == nil && shown(svc) == "" {
			return fmt.Errorf("it has no address")
		}
		if err != nil {
			return err
		}
		// Events are written one after the other, behind statuses.
		events, err := l.API.CoreV1().Events("probe").List(ctx, metav1.ListOptions{FieldSelector: "reason=IPAllocated,involvedObject.uid=" + string(svc.UID)})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("nobody was told of its address")
		}
		return err
	}); err != nil {
		return err
	}
	return l.clear(ctx, "probe")
}

// leads returns who holds the Lease, and how often it changed hands; an error if nobody does.
func (l *Lab) leads(ctx context.Context) (holder string, transitions int32, err error) {
	lease, err := l.API.CoordinationV1().Leases("metallb-system").Get(ctx, "metallb-controller", metav1.GetOptions{})
	if err != nil {
		return "", 0, err
	}
	spec := lease.Spec
	if spec.HolderIdentity == nil || *spec.HolderIdentity == "" || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil ||
		time.Since(spec.RenewTime.Time) > time.Duration(*spec.LeaseDurationSeconds)*time.Second {
		return "", 0, fmt.Errorf("nobody holds the Lease")
	}
	if spec.LeaseTransitions != nil {
		transitions = *spec.LeaseTransitions
	}
	return *spec.HolderIdentity, transitions, nil
}

// takenOver waits until somebody else than before leads.
func (l *Lab) takenOver(ctx context.Context, from string) error {
	return Until(ctx, "another leader", func(ctx context.Context) error {
		holder, _, err := l.leads(ctx)
		if err == nil && holder == from {
			err = fmt.Errorf("%s leads", holder)
		}
		return err
	})
}

// parallel calls work for 0 to n-1, a few at a time, and returns the first error.
func parallel(n, writers int, work func(int) error) error {
	next, failed := make(chan int), make(chan error, writers)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range next {
				if err := work(i); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// chance returns a source of randomness whose seed LAB_SEED sets, to play something again, and how long to play: LAB_STEPS.
func chance(t *testing.T) (random *rand.Rand, steps int) {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("LAB_SEED"), strconv.FormatInt(time.Now().UnixNano(), 10)), 10, 64)
	must(t, err)
	steps, err = strconv.Atoi(cmp.Or(os.Getenv("LAB_STEPS"), "300"))
	must(t, err)
	t.Logf("LAB_SEED=%d LAB_STEPS=%d", seed, steps)
	return rand.New(rand.NewPCG(seed, 0)), steps
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
