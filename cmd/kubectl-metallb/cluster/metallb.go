package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

// ErrNoMetalLB says that the cluster does not know MetalLB's resources.
var ErrNoMetalLB = errors.New("the cluster has no resources of metallb.io: MetalLB v0.13 and later bring them; of an older one, convert the ConfigMap as a file")

// Resources asks an API server for all that MetalLB in the namespace is told, and how it was started: each answer as it came. What
// could not be read is noted.
func Resources(ctx context.Context, client rest.Interface, namespace string) (answers [][]byte, unread []inspect.Unread, err error) {
	get := func(kind, where, path string) []byte {
		answer, e := client.Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(ctx)
		switch {
		case e == nil:
			return answer
		case apierrors.IsNotFound(e):
		case unreachable(e) != nil:
			err = unreachable(e)
		default:
			unread = append(unread, inspect.Unread{Kind: inspect.Kind(kind), Verb: "list", Namespace: where, Why: reason(e)})
		}
		return nil
	}
	for _, name := range []string{"metallb.io", "frrk8s.metallb.io"} {
		var group metav1.APIGroup
		answer := get(name, "", "/apis/"+name)
		if err != nil {
			return nil, nil, err
		}
		if answer == nil {
			if name == "metallb.io" && len(unread) == 0 {
				return nil, nil, ErrNoMetalLB
			}
			continue
		}
		if err := json.Unmarshal(answer, &group); err != nil {
			return nil, nil, fmt.Errorf("/apis/%s: %w", name, err)
		}
		// Of a resource with several versions, the last has all the fields.
		slices.SortFunc(group.Versions, func(a, b metav1.GroupVersionForDiscovery) int { return -compareVersions(a.Version, b.Version) })
		seen := map[string]bool{}
		for _, version := range group.Versions {
			var list metav1.APIResourceList
			path := "/apis/" + version.GroupVersion
			if err := json.Unmarshal(get(version.GroupVersion, "", path), &list); err != nil {
				continue // it is noted
			}
			for _, r := range list.APIResources {
				if seen[r.Name] || !slices.Contains(r.Verbs, "list") {
					continue
				}
				seen[r.Name] = true
				at, where := path, ""
				if r.Namespaced && name == "metallb.io" {
					at, where = path+"/namespaces/"+namespace, namespace
				}
				if answer := get(r.Name+"."+name, where, at+"/"+r.Name); answer != nil {
					answers = append(answers, answer)
				}
			}
		}
	}
	for _, r := range [][3]string{
		{"configmaps", namespace, "/api/v1/namespaces/" + namespace + "/configmaps/bgpextras"},
		{"daemonsets", namespace, "/apis/apps/v1/namespaces/" + namespace + "/daemonsets"},
		{"deployments", namespace, "/apis/apps/v1/namespaces/" + namespace + "/deployments"},
	} {
		if answer := get(r[0], r[1], r[2]); answer != nil {
			answers = append(answers, answer)
		}
	}
	return answers, unread, err
}

// compareVersions orders v1alpha1, v1beta1, v1beta2 and v1.
func compareVersions(a, b string) int {
	stable := func(v string) int {
		if len(v) > 2 {
			return 0
		}
		return 1
	}
	if n := stable(a) - stable(b); n != 0 {
		return n
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Lists asks an API server for everything of these paths.
func Lists(ctx context.Context, client rest.Interface, paths ...string) (answers [][]byte, err error) {
	for _, path := range paths {
		for next := ""; ; {
			answer, err := client.Get().AbsPath(path).Param("limit", fmt.Sprint(pageSize)).Param("continue", next).SetHeader("Accept", "application/json").DoRaw(ctx)
			if err != nil {
				if lost := unreachable(err); lost != nil {
					return nil, lost
				}
				return nil, fmt.Errorf("cannot list %s: %s", path, reason(err))
			}
			answers = append(answers, answer)
			var list struct {
				Metadata metav1.ListMeta `json:"metadata"`
			}
			if err := json.Unmarshal(answer, &list); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			if next = list.Metadata.Continue; next == "" {
				break
			}
		}
	}
	return answers, nil
}
