package kubernetes

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// egressConfig sends what the API server asks of kubelets, such as logs, to Egress.
func (c *Cluster) egressConfig() (path string, err error) {
	path = c.file("egress.yaml")
	return path, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection: {proxyProtocol: HTTPConnect, transport: {uds: {udsName: %q}}}
`, c.file("egress.sock")), 0o600)
}

// Egress connects the API server with the nodes, which may be in networks that its process is not in. Without workloads it asks nodes for
// nothing. The listener is the caller's to close.
func (c *Cluster) Egress(dial func(addr string) (net.Conn, error)) (net.Listener, error) {
	listener, err := net.Listen("unix", c.file("egress.sock"))
	if err != nil {
		return nil, err
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there, err := dial(r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return // it has answered
		}
		defer here.Close()
		if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		ended := make(chan struct{}, 2)
		for _, way := range [][2]net.Conn{{here, there}, {there, here}} {
			go func() {
				_, _ = io.Copy(way[0], way[1]) // either side may hang up at any time
				ended <- struct{}{}
			}()
		}
		<-ended
	}))
	return listener, nil
}
