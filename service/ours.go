package service

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Keys of the admitted copy of the configuration that say which Services are ours. The controller manager has flags for
// both; speakers read them here. Without the keys, the zero Ours holds.
const (
	KeyClasses   = "classes"
	KeyClassOnly = "class-only"
)

// Ours says which Services are for this project. The zero value serves loadbalancer.Class and Services without a class.
type Ours struct {
	// Classes of Services are served beside loadbalancer.Class.
	Classes []string
	// ClassOnly leaves Services without a class to others.
	ClassOnly bool
}

// Serves reports whether the Service is of type LoadBalancer and of a class that is ours. It may be about to be deleted.
func (o Ours) Serves(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && o.ServesClass(svc.Spec.LoadBalancerClass)
}

// ServesClass is Serves for a Service of type LoadBalancer.
func (o Ours) ServesClass(class *string) bool {
	if class == nil {
		return !o.ClassOnly
	}
	return *class == loadbalancer.Class || slices.Contains(o.Classes, *class)
}

// Equal reports whether both serve the same Services.
func (o Ours) Equal(p Ours) bool { return o.ClassOnly == p.ClassOnly && o.classes() == p.classes() }

// classes lists all of them, each once, in an order that depends on nothing.
func (o Ours) classes() string {
	all := append([]string{loadbalancer.Class}, o.Classes...)
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ",")
}

// Data returns the keys of the admitted copy that say the same.
func (o Ours) Data() map[string]string {
	return map[string]string{KeyClasses: o.classes(), KeyClassOnly: strconv.FormatBool(o.ClassOnly)}
}

// FromData reads the keys of the admitted copy. What is not there, or cannot be read, is as in the zero value.
func FromData(data map[string]string) (o Ours) {
	for class := range strings.SplitSeq(data[KeyClasses], ",") {
		if class = strings.TrimSpace(class); class != "" && class != loadbalancer.Class {
			o.Classes = append(o.Classes, class)
		}
	}
	only, err := strconv.ParseBool(strings.TrimSpace(data[KeyClassOnly]))
	o.ClassOnly = only && err == nil
	return o
}
