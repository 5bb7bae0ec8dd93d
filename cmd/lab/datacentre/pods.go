package datacentre

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// PodPort is where pods serve.
const PodPort = 8080

// A Pod is an object in the namespace default, and a host that serves HTTP, in one line: its name, its node's, and the address that it
// sees the client at. A connection may ask again and again; at /lines it is a conversation, in which each line is answered by this one.
type Pod struct {
	Name   string
	Worker *Worker
	Host   *network.Namespace
	Addrs  addresses

	hall   *Hall
	server *http.Server
}

// RunPod starts a pod, which is ready.
func (h *Hall) RunPod(ctx context.Context, w *Worker, name string, labels map[string]string) (*Pod, error) {
	if w.Kubelet != nil {
		return nil, fmt.Errorf("pod %s: node %s has a kubelet, which would run it too: create only the object", name, w.Name)
	}
	pod := &Pod{Name: name, Worker: w, hall: h}
	w.mu.Lock()
	w.started++
	pod.Addrs = w.pod(1 + w.started) // the first is the node's own
	w.pods = append(w.pods, pod)
	w.mu.Unlock()
	if err := pod.plug(); err != nil {
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	listener, err := pod.Host.Listen(fmt.Sprintf(":%d", PodPort))
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	pod.server = &http.Server{Handler: pod.handler()}
	go pod.server.Serve(listener) // until Remove, or the network closes the listener

	// Without a kubelet, a pod that is deleted terminates for as long as this, unless Remove comes before.
	grace := int64(3600)
	object, err := h.API.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: w.Name, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "server", Image: "none", Ports: []corev1.ContainerPort{{ContainerPort: PodPort}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: w.Addrs.v4.String(), PodIP: pod.Addrs.v4.String(),
		PodIPs:     []corev1.PodIP{{IP: pod.Addrs.v4.String()}, {IP: pod.Addrs.v6.String()}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if _, err := h.API.CoreV1().Pods(metav1.NamespaceDefault).UpdateStatus(ctx, object, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	return pod, nil
}

// plug connects the pod to its node, as network plugins do: a cable, and routes on both ends of it.
func (p *Pod) plug() (err error) {
	if p.Host, err = p.hall.Network.Namespace(p.Name); err != nil {
		return err
	}
	node, gateway := p.Worker.Host, p.Worker.pod(1)
	if err := p.hall.Network.Link(node, p.Host); err != nil {
		return err
	}
	if err := errors.Join(node.Addresses(p.Name, gateway.on(32, 128)...), p.Host.Addresses(node.Name, p.Addrs.on(32, 128)...)); err != nil {
		return err
	}
	for _, way := range []struct{ pod, gateway netip.Addr }{{p.Addrs.v4, gateway.v4}, {p.Addrs.v6, gateway.v6}} {
		if err := errors.Join(
			node.IP("route", "add", way.pod.String(), "dev", p.Name),
			p.Host.IP("route", "add", way.gateway.String(), "dev", node.Name),
			p.Host.IP("route", "add", "default", "via", way.gateway.String(), "dev", node.Name),
		); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pod) handler() http.Handler {
	line := func(r *http.Request) string {
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s %s %s\n", p.Name, p.Worker.Name, client.Addr().Unmap())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, line(r)) })
	mux.HandleFunc("/lines", func(w http.ResponseWriter, r *http.Request) {
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		answer := line(r)
		fmt.Fprint(both, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
		for {
			if both.Flush() != nil {
				return // the client is gone
			}
			if _, err := both.ReadString('\n'); err != nil {
				return
			}
			fmt.Fprint(both, answer)
		}
	})
	return mux
}

// SetReady lets the pod pass or fail its readiness probe. It serves all the same.
func (p *Pod) SetReady(ctx context.Context, ready bool) error {
	pods := p.hall.API.CoreV1().Pods(metav1.NamespaceDefault)
	object, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("find pod %s: %w", p.Name, err)
	}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	object.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if _, err := pods.UpdateStatus(ctx, object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("change pod %s: %w", p.Name, err)
	}
	return nil
}

// Delete tells the pod to end: it is terminating, and serves until Remove.
func (p *Pod) Delete(ctx context.Context) error {
	return p.hall.API.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, p.Name, metav1.DeleteOptions{})
}

// Crash ends the server at once, and all connections to it. Kubernetes knows nothing of it.
func (p *Pod) Crash() error { return p.server.Close() }

// Remove ends the pod, its host and its object, as kubelet does when the pod has ended.
func (p *Pod) Remove(ctx context.Context) error {
	if err := errors.Join(p.Crash(), p.Worker.Host.IP("link", "del", p.Name)); err != nil {
		return err
	}
	p.Worker.mu.Lock()
	p.Worker.pods = slices.DeleteFunc(p.Worker.pods, func(other *Pod) bool { return other == p })
	p.Worker.mu.Unlock()
	err := p.hall.API.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, p.Name, *metav1.NewDeleteOptions(0))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// An Answer is what a pod says.
type Answer struct {
	Pod, Node string
	Client    netip.Addr // as the pod sees it
}

// Get asks an address from the client, over a new connection.
func (h *Hall) Get(ctx context.Context, target netip.AddrPort) (Answer, error) {
	return get(ctx, h.client, target)
}

func get(ctx context.Context, from *http.Client, target netip.AddrPort) (Answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/", target), nil)
	if err != nil {
		return Answer{}, err
	}
	response, err := from.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(string(text))
}

func parseAnswer(line string) (Answer, error) {
	words := strings.Fields(line)
	if len(words) != 3 {
		return Answer{}, fmt.Errorf("no pod answers %q", line)
	}
	client, err := netip.ParseAddr(words[2])
	return Answer{words[0], words[1], client}, err
}

// A Conversation is a connection that stays open.
type Conversation struct {
	conn net.Conn
	from *bufio.Reader
}

// Converse opens a conversation with one of the pods behind an address.
func (h *Hall) Converse(ctx context.Context, target netip.AddrPort) (*Conversation, error) {
	var conn net.Conn
	err := h.Client.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", target.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &Conversation{conn, bufio.NewReader(conn)}
	fmt.Fprintf(conn, "GET /lines HTTP/1.1\r\nHost: %s\r\n\r\n", target)
	for {
		switch line, err := c.from.ReadString('\n'); {
		case err != nil:
			return nil, errors.Join(err, conn.Close())
		case line == "\r\n":
			return c, nil
		}
	}
}

// Ask says a line, and waits for the answer.
func (c *Conversation) Ask(patience time.Duration) (Answer, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return Answer{}, err
	}
	if _, err := fmt.Fprintln(c.conn, "who is there?"); err != nil {
		return Answer{}, err
	}
	line, err := c.from.ReadString('\n')
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(line)
}

// Close ends the conversation.
func (c *Conversation) Close() error { return c.conn.Close() }
