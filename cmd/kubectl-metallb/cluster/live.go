package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// An Installation says where the product is.
type Installation struct {
	Namespace  string
	ConfigName string
}

const (
	// leaseName is the name of the Lease by which controller managers elect one.
	leaseName = "metallb-controller"
	// pageSize is how many objects are asked for at once, so that neither side needs much memory.
	pageSize = 1000
	// patience is how long one request may take.
	patience = 30 * time.Second
)

// ErrNoInstallation says that the product is not where it was looked for.
type ErrNoInstallation struct {
	Namespace string
	Elsewhere []string // namespaces where it is
}

func (e ErrNoInstallation) Error() string {
	text := fmt.Sprintf("there is no installation in namespace %s: it has neither a configuration nor Pods of ours", e.Namespace)
	if len(e.Elsewhere) == 0 {
		return text + "; name the namespace by --config-namespace"
	}
	for i, ns := range e.Elsewhere {
		if i == 0 {
			text += "; try --config-namespace " + ns
		} else {
			text += " or " + ns
		}
	}
	return text
}

// Read asks an API server. Of the kinds it reads those that are named; the Secret also where a configuration names a key of it, and
// else not: whoever may not get it shall not seem to try. An error means that nothing could be read at all,
// or, if it is ErrNoInstallation, nothing of ours.
func Read(ctx context.Context, client kubernetes.Interface, at Installation, now time.Time, kinds ...inspect.Kind) (*inspect.Snapshot, error) {
	s := &inspect.Snapshot{Taken: now, Namespace: at.Namespace, ConfigName: at.ConfigName}
	r := reader{ctx: ctx, client: client, at: at, into: s}
	var wait sync.WaitGroup
	for _, kind := range kinds {
		wait.Go(func() { r.read(kind) })
	}
	wait.Wait()
	for _, config := range []*corev1.ConfigMap{s.User, s.Admitted} {
		if config != nil && strings.Contains(config.Data[service.KeyConfig], "password-key") && !slices.Contains(kinds, inspect.Secrets) {
			r.read(inspect.Secrets)
			break
		}
	}
	if r.fatal != nil {
		return nil, r.fatal
	}
	slices.SortFunc(s.Unread, func(a, b inspect.Unread) int {
		return slices.Index(inspect.Kinds, a.Kind) - slices.Index(inspect.Kinds, b.Kind)
	})
	unknown := slices.ContainsFunc(s.Unread, func(u inspect.Unread) bool { return u.Kind == inspect.ConfigMaps || u.Kind == inspect.Pods })
	if slices.Contains(kinds, inspect.ConfigMaps) && slices.Contains(kinds, inspect.Pods) && !unknown && s.User == nil && s.Admitted == nil && len(s.Pods) == 0 {
		return s, ErrNoInstallation{at.Namespace, r.elsewhere()}
	}
	return s, nil
}

// A reader fills a snapshot.
type reader struct {
	ctx    context.Context
	client kubernetes.Interface
	at     Installation

	mu    sync.Mutex
	into  *inspect.Snapshot
	fatal error
}

// read reads one kind.
func (r *reader) read(kind inspect.Kind) {
	namespace, verb := "", "list"
	var err error
	core, ns := r.client.CoreV1(), r.at.Namespace
	switch kind {
	case inspect.ConfigMaps:
		namespace, verb = ns, "get"
		var user, admitted *corev1.ConfigMap
		if user, err = found(core.ConfigMaps(ns).Get(r.ctx, r.at.ConfigName, metav1.GetOptions{})); err == nil {
			admitted, err = found(core.ConfigMaps(ns).Get(r.ctx, r.at.ConfigName+"-admitted", metav1.GetOptions{}))
		}
		r.note(func(s *inspect.Snapshot) {
			s.User, s.Admitted = trimConfigMap(user), trimConfigMap(admitted)
			if s.User != nil {
				s.Hash = service.Hash(s.User.Data[service.KeyConfig])
			}
		})
	case inspect.Services:
		err = pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.type", string(corev1.ServiceTypeLoadBalancer)).String()
			list, err := core.Services("").List(r.ctx, o)
			if err != nil {
				return nil, err
			}
			r.note(func(s *inspect.Snapshot) {
				for i := range list.Items {
					if list.Items[i].Spec.Type == corev1.ServiceTypeLoadBalancer {
						s.Services = append(s.Services, trimService(&list.Items[i]))
					}
				}
			})
			return list, nil
		})
	case inspect.EndpointSlices:
		err = pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
			o.LabelSelector = discoveryv1.LabelServiceName
			list, err := r.client.DiscoveryV1().EndpointSlices("").List(r.ctx, o)
			if err != nil {
				return nil, err
			}
			r.note(func(s *inspect.Snapshot) {
				for i := range list.Items {
					s.Slices = append(s.Slices, trimSlice(&list.Items[i]))
				}
			})
			return list, nil
		})
	case inspect.Namespaces:
		err = pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
			list, err := core.Namespaces().List(r.ctx, o)
			if err != nil {
				return nil, err
			}
			r.note(func(s *inspect.Snapshot) {
				for i := range list.Items {
					s.Namespaces = append(s.Namespaces, trimNamespace(&list.Items[i]))
				}
			})
			return list, nil
		})
	case inspect.Nodes:
		err = pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
			list, err := core.Nodes().List(r.ctx, o)
			if err != nil {
				return nil, err
			}
			r.note(func(s *inspect.Snapshot) {
				for i := range list.Items {
					s.Nodes = append(s.Nodes, trimNode(&list.Items[i]))
				}
			})
			return list, nil
		})
	case inspect.Pods:
		namespace = ns
		err = pages(func(o metav1.ListOptions) (metav1.ListInterface, error) {
			o.LabelSelector = "app.kubernetes.io/name=metallb,app.kubernetes.io/component"
			list, err := core.Pods(ns).List(r.ctx, o)
			if err != nil {
				return nil, err
			}
			r.note(func(s *inspect.Snapshot) {
				for i := range list.Items {
					s.Pods = append(s.Pods, trimPod(&list.Items[i]))
				}
			})
			return list, nil
		})
	case inspect.Secrets:
		namespace, verb = ns, "get"
		secret, e := found(core.Secrets(ns).Get(r.ctx, speaker.SecretName, metav1.GetOptions{}))
		if err = e; secret != nil {
			keys := []string{}
			for key, value := range secret.Data {
				if _, err := loadbalancer.PasswordIn(value); err == nil {
					keys = append(keys, key)
				}
			}
			slices.Sort(keys)
			r.note(func(s *inspect.Snapshot) { s.Keys = keys })
		}
	case inspect.Leases:
		namespace, verb = ns, "get"
		lease, e := found(r.client.CoordinationV1().Leases(ns).Get(r.ctx, leaseName, metav1.GetOptions{}))
		if err = e; lease != nil {
			lease.ManagedFields = nil
			r.note(func(s *inspect.Snapshot) { s.Lease = lease })
		}
	}
	if err == nil {
		return
	}
	if lost := unreachable(err); lost != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.fatal = lost
		return
	}
	r.note(func(s *inspect.Snapshot) {
		s.Unread = append(s.Unread, inspect.Unread{Kind: kind, Verb: verb, Namespace: namespace, Why: reason(err)})
	})
}

func (r *reader) note(change func(*inspect.Snapshot)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r.into)
}

// found takes that there is no such object for an answer.
func found[T any](object *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return object, nil
}

// pages asks for one page after the other.
func pages(ask func(metav1.ListOptions) (metav1.ListInterface, error)) error {
	seconds := int64(patience / time.Second)
	for o := (metav1.ListOptions{Limit: pageSize, TimeoutSeconds: &seconds}); ; {
		list, err := ask(o)
		if err != nil {
			return err
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}

// unreachable returns what is wrong if the API server gave no answer at all, or does not know us.
func unreachable(err error) error {
	var network net.Error
	var address *url.Error
	switch {
	case apierrors.IsUnauthorized(err):
		return errors.New("the API server does not know who you are: log in again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errors.New("the API server did not answer in time")
	case errors.As(err, &address) && strings.HasPrefix(address.Err.Error(), "getting credentials: "): // client-go has no type for it
		why, _, _ := strings.Cut(strings.TrimPrefix(address.Err.Error(), "getting credentials: "), "\n")
		return fmt.Errorf("the kubeconfig gives no credentials: %s", why)
	case errors.As(err, &address):
		return fmt.Errorf("the API server does not answer: %w", address.Err)
	case errors.As(err, &network):
		return fmt.Errorf("the API server does not answer: %w", network)
	}
	return nil
}

func reason(err error) string {
	if apierrors.IsForbidden(err) {
		return "you are not allowed to"
	}
	return err.Error()
}

// elsewhere finds namespaces that have an admitted copy.
func (r *reader) elsewhere() (all []string) {
	list, err := r.client.CoreV1().ConfigMaps("").List(r.ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, r.at.ConfigName+"-admitted").String(),
	})
	if err != nil {
		return nil // it is a hint only
	}
	for _, c := range list.Items {
		if c.Name == r.at.ConfigName+"-admitted" {
			all = append(all, c.Namespace)
		}
	}
	slices.Sort(all)
	return all
}
