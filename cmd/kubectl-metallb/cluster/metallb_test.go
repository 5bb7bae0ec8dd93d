package cluster

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// answering is a client of an API server that has these answers, and refuses what is forbidden.
func answering(t *testing.T, answers map[string]string, forbidden ...string) rest.Interface {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, ok := answers[r.URL.Path]
		switch {
		case slices.Contains(forbidden, r.URL.Path):
			w.WriteHeader(http.StatusForbidden)
			answer = `{"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}`
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			answer = `{"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}`
		case r.URL.Query().Get("continue") != "":
			answer = strings.ReplaceAll(answer, `"continue": "more"`, `"continue": ""`)
		}
		_, _ = w.Write([]byte(answer)) // to a client in this process
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return client.CoreV1().RESTClient()
}

// group is what an API server says of MetalLB's resources, as of v0.15.
func group() map[string]string {
	resources := func(version string, names ...string) string {
		var all []string
		for _, name := range names {
			all = append(all, fmt.Sprintf(`{"name": %q, "namespaced": true, "kind": "X", "verbs": ["get", "list"]}`, name))
		}
		return fmt.Sprintf(`{"kind": "APIResourceList", "groupVersion": "metallb.io/%s", "resources": [%s, {"name": "bgppeers/status", "namespaced": true, "kind": "X", "verbs": ["get"]}]}`, version, strings.Join(all, ","))
	}
	const at = "/apis/metallb.io/v1beta1/namespaces/m/"
	return map[string]string{
		"/apis/metallb.io":                               `{"kind": "APIGroup", "name": "metallb.io", "versions": [{"groupVersion": "metallb.io/v1beta1", "version": "v1beta1"}, {"groupVersion": "metallb.io/v1beta2", "version": "v1beta2"}]}`,
		"/apis/metallb.io/v1beta1":                       resources("v1beta1", "bgppeers", "ipaddresspools", "futures"),
		"/apis/metallb.io/v1beta2":                       resources("v1beta2", "bgppeers"),
		at + "bgppeers":                                  "old peers",
		"/apis/metallb.io/v1beta2/namespaces/m/bgppeers": "peers",
		at + "ipaddresspools":                            "pools",
		at + "futures":                                   "futures",
		"/api/v1/namespaces/m/configmaps/bgpextras":      "extras",
		"/apis/apps/v1/namespaces/m/daemonsets":          "daemonsets",
		"/apis/apps/v1/namespaces/m/deployments":         "deployments",
	}
}

func texts(answers [][]byte) (all []string) {
	for _, a := range answers {
		all = append(all, string(a))
	}
	return all
}

// Of a resource with several versions the newest is read, and of those that this program does not know each is read all the same.
func TestAllOfMetalLBIsRead(t *testing.T) {
	answers, unread, err := Resources(t.Context(), answering(t, group()), "m")
	want := []string{"peers", "pools", "futures", "extras", "daemonsets", "deployments"}
	if got := texts(answers); err != nil || len(unread) > 0 || !slices.Equal(got, want) {
		t.Errorf("%q, unread %v, %v", got, unread, err)
	}
}

func TestWhatMayNotBeReadOfMetalLBIsNamed(t *testing.T) {
	answers, unread, err := Resources(t.Context(), answering(t, group(), "/apis/metallb.io/v1beta1/namespaces/m/ipaddresspools", "/apis/apps/v1/namespaces/m/daemonsets"), "m")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range unread {
		got = append(got, u.String())
	}
	want := []string{"cannot list ipaddresspools.metallb.io in namespace m: you are not allowed to", "cannot list daemonsets in namespace m: you are not allowed to"}
	if !slices.Equal(got, want) || slices.Contains(texts(answers), "pools") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAClusterWithoutMetalLBSaysSo(t *testing.T) {
	if _, _, err := Resources(t.Context(), answering(t, nil), "m"); err != ErrNoMetalLB {
		t.Errorf("%v", err)
	}
}

func TestListsAreReadPageByPage(t *testing.T) {
	client := answering(t, map[string]string{"/api/v1/services": `{"metadata": {"continue": "more"}, "items": []}`, "/api/v1/nodes": `{"metadata": {}}`}, "/api/v1/pods")
	if answers, err := Lists(t.Context(), client, "/api/v1/services", "/api/v1/nodes"); err != nil || len(answers) != 3 {
		t.Errorf("%q %v", texts(answers), err)
	}
	if _, err := Lists(t.Context(), client, "/api/v1/pods"); err == nil || err.Error() != "cannot list /api/v1/pods: you are not allowed to" {
		t.Errorf("%v", err)
	}
}
