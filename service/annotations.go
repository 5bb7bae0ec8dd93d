package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// Annotations that mean something under our prefixes: of Services also what MetalLB writes there itself.
var (
	onServices = []string{AnnotationPool, AnnotationAddress, AnnotationShare, "ip-allocated-from-pool"}
	onNodes    = []string{"drain"}
)

// UnknownOnService says which annotations of a Service stand under one of our prefixes and mean nothing, one a text.
func UnknownOnService(annotations map[string]string) []string {
	return unknown(annotations, onServices)
}

// UnknownOnNode is UnknownOnService for Nodes.
func UnknownOnNode(annotations map[string]string) []string { return unknown(annotations, onNodes) }

func unknown(annotations map[string]string, known []string) (all []string) {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		for _, prefix := range prefixes {
			name, ours := strings.CutPrefix(key, prefix)
			if !ours || slices.Contains(known, name) {
				continue
			}
			nearest, _ := loadbalancer.Nearest(Short(name), slices.Values(known))
			all = append(all, fmt.Sprintf("annotation %s means nothing: the nearest that does is %s%s", Short(key), prefix, nearest))
		}
	}
	return all
}
