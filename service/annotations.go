package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Annotations of the user's ConfigMap, after either prefix, that name a text which the operator wants in force whatever it takes
// away. Each is good for one admission: the copy keeps what was used until the annotation is gone or names another text.
const (
	AnnotationConfirm  = "confirm"  // Services lose their addresses, Nodes their peers, addresses their routes
	AnnotationRenumber = "renumber" // Services lose their addresses
)

// Annotations that mean something under our prefixes: of Services also what MetalLB writes there itself.
var (
	onServices = []string{AnnotationPool, AnnotationAddress, AnnotationShare, AnnotationCommunities, AnnotationAdvertise, "ip-allocated-from-pool"}
	onNodes    = []string{"drain", "my-asn", "router-id"}
	onConfigs  = []string{AnnotationConfirm, AnnotationRenumber}
)

// UnknownOnService says which annotations of a Service stand under one of our prefixes and mean nothing, if any: the first
// three, since an event is short.
func UnknownOnService(annotations map[string]string) string { return unknown(annotations, onServices) }

// UnknownOnNode is UnknownOnService for Nodes.
func UnknownOnNode(annotations map[string]string) string { return unknown(annotations, onNodes) }

// UnknownOnConfig is UnknownOnService for the user's ConfigMap.
func UnknownOnConfig(annotations map[string]string) string { return unknown(annotations, onConfigs) }

func unknown(annotations map[string]string, known []string) string {
	const most = 3
	var all []string
	n := 0
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		for _, prefix := range prefixes {
			name, ours := strings.CutPrefix(key, prefix)
			if !ours || slices.Contains(known, name) {
				continue
			}
			if n++; n <= most {
				nearest, _ := loadbalancer.Nearest(Short(name), slices.Values(known))
				all = append(all, fmt.Sprintf("annotation %s means nothing: the nearest that does is %s%s", Short(key), prefix, nearest))
			}
		}
	}
	if n > most {
		all = append(all, fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(all, "; ")
}
