package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
			nearest := slices.MinFunc(known, func(a, b string) int {
				return distance(strings.ToLower(name), strings.ToLower(a)) - distance(strings.ToLower(name), strings.ToLower(b))
			})
			all = append(all, fmt.Sprintf("annotation %s means nothing: the nearest that does is %s%s", Short(key), prefix, nearest))
		}
	}
	return all
}

// distance counts the letters that must be changed, added or removed to make one word of the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			before, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, before+cost)
		}
	}
	return row[len(b)]
}
