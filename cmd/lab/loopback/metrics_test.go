package loopback

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// metrics asks the controller manager for its metrics.
func (l *Lab) metrics(ctx context.Context, kubeconfig string) (code int, text string, err error) {
	return get(ctx, l.ControllerPort, "/metrics", kubeconfig)
}

// get asks a program of ours as the user whose kubeconfig that is; nobody if it is empty.
func get(ctx context.Context, port int, path, kubeconfig string) (code int, text string, err error) {
	config := &rest.Config{}
	if kubeconfig != "" {
		if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return 0, "", err
		}
	}
	// Its certificate is one that it made for itself.
	client, err := rest.HTTPClientFor(&rest.Config{BearerToken: config.BearerToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		return 0, "", err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", port, path), nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func TestMetricsAreForThoseWhomTheAPIServerLets(t *testing.T) {
	lab := start(t, Options{Nodes: 1})
	_, err := lab.StartController(t.Context())
	must(t, err)
	good := "address-pools: [{name: default, cidr: [192.168.10.0/31]}]"
	configure(t, lab, good)
	expose(t, lab, "web", nil)
	hasAddress(t, lab, "web", "192.168.10.0")
	expose(t, lab, "late", asking("10.1.2.3"))

	shows := func(what string, lines ...string) {
		t.Helper()
		must(t, Until(t.Context(), what, func(ctx context.Context) error {
			code, text, err := lab.metrics(ctx, lab.Kubeconfig)
			if err != nil {
				return err
			}
			for _, line := range lines {
				if code != http.StatusOK || !strings.Contains(text, "\n"+line+"\n") {
					return fmt.Errorf("%d, and not %q", code, line)
				}
			}
			return nil
		}))
	}
	shows("the figures of the pool",
		`metallb_allocator_addresses_total{pool="default"} 2`,
		`metallb_allocator_addresses_in_use_total{pool="default"} 1`,
		`metallb_allocator_assigned{ip="192.168.10.0",pool="default",service="default/web"} 1`,
		`metallb_allocator_services_pending 1`,
		`metallb_allocator_assignment_seconds_count 1`,
		`metallb_k8s_client_config_loaded_bool 1`,
		`metallb_k8s_client_config_stale_bool 0`)
	must(t, lab.write(t.Context(), "address-pools: ["))
	shows("a broken edit", `metallb_k8s_client_config_loaded_bool 1`, `metallb_k8s_client_config_stale_bool 1`)
	must(t, lab.write(t.Context(), good))
	shows("a good one", `metallb_k8s_client_config_stale_bool 0`)

	for who, kubeconfig := range map[string]string{"nobody": "", "a speaker": lab.KubeconfigOf(speakerUser)} {
		code, text, err := lab.metrics(t.Context(), kubeconfig)
		must(t, err)
		if code != http.StatusForbidden && code != http.StatusUnauthorized || strings.Contains(text, "metallb_") {
			t.Errorf("%s gets %d and %.200s", who, code, text)
		}
	}
}
