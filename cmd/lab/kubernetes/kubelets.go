package kubernetes

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
)

// A Dial connects to a TCP address.
type Dial func(ctx context.Context, addr string) (net.Conn, error)

// KubeletClient is the user as whom the API server comes to kubelets, which ask it what that one may.
const KubeletClient = "kube-apiserver-kubelet-client"

// egressConfig lets the API server connect to nodes by way of a proxy, as it does where nodes are in another network than it is.
const egressConfig = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection: {proxyProtocol: HTTPConnect, transport: {uds: {udsName: %s}}}
`

// startEgress starts that proxy. Only this user can open its socket.
func (c *Cluster) startEgress() error {
	if c.dial == nil {
		return nil
	}
	socket := c.file("nodes.sock")
	if err := os.WriteFile(c.file("egress.yaml"), fmt.Appendf(nil, egressConfig, socket), 0o600); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	c.egress = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		node, err := c.dial(r.Context(), r.URL.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = node.Close()
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			_ = errors.Join(conn.Close(), node.Close()) // nobody is there any more
			return
		}
		Join(conn, node)
	})}
	go func() { _ = c.egress.Serve(listener) }() // until Stop
	return nil
}

// kubeletFlags are those by which the API server reaches kubelets.
func (c *Cluster) kubeletFlags() []string {
	if c.dial == nil {
		return nil
	}
	return []string{
		"--egress-selector-config-file=" + c.file("egress.yaml"),
		"--kubelet-certificate-authority=" + c.file("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + c.file(KubeletClient+".crt"), "--kubelet-client-key=" + c.file(KubeletClient+".key"),
	}
}

// KubeletFiles are what a kubelet at these addresses serves with, and the authority of those who come to it with a certificate.
func (c *Cluster) KubeletFiles(node string, addrs ...netip.Addr) (cert, key, authority string, err error) {
	name := "kubelet-" + node
	serves := &x509.Certificate{Subject: pkix.Name{CommonName: node}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, addr := range addrs {
		serves.IPAddresses = append(serves.IPAddresses, addr.AsSlice())
	}
	return c.file(name + ".crt"), c.file(name + ".key"), c.file("ca.crt"), c.issue(name, serves)
}

// Join copies in both directions until both sides have said all, or one is gone, and closes both.
func Join(a, b net.Conn) {
	defer func() { _ = errors.Join(a.Close(), b.Close()) }() // both have said all, or one is gone
	ended := make(chan error)
	forward := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		ended <- err
	}
	go forward(a, b)
	go forward(b, a)
	if <-ended != nil {
		_ = errors.Join(a.Close(), b.Close())
	}
	<-ended
}
