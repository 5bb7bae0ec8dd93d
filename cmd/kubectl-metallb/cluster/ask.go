package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

const (
	// viewer is the ServiceAccount that may get report.Path and nothing else. A speaker is never shown the user's own credentials.
	viewer = "metallb-viewer"
	// tokenLasts is for how long its token is good: as short as the API server allows.
	tokenLasts = 10 * time.Minute
	// So many speakers are asked at once. One that says nothing for so long is given up, and one that is not done by then: it gives up
	// itself.
	askedAtOnce  = 10
	silentAtMost = 3 * time.Second
	longestTale  = 30 * time.Second
	// securePort is where a speaker answers, unless its flag --secure-port says otherwise.
	securePort = "7473"
)

// Speakers are asked what they have sent.
type Speakers struct {
	Client kubernetes.Interface
	Config *rest.Config
	// Direct dials the nodes, instead of forwarding a port through the API server.
	Direct bool
	// Keep says which routes are asked about; nil: all. Of the others there may be very many, so that they are only counted.
	Keep func(netip.Prefix) bool
}

// Ask asks the speaker of every node, or of one, and adds the answers to the snapshot. A speaker that does not answer is noted.
func (a Speakers) Ask(ctx context.Context, s *inspect.Snapshot, node string) {
	token, err := a.token(ctx, s.Namespace)
	if err != nil {
		s.Unread = append(s.Unread, inspect.Unread{Kind: inspect.Tokens, Verb: "create", Namespace: s.Namespace, Why: err.Error()})
		return
	}
	addresses := map[string]string{}
	for _, n := range s.Nodes {
		for _, address := range n.Status.Addresses {
			if address.Type == corev1.NodeInternalIP && addresses[n.Name] == "" {
				addresses[n.Name] = address.Address
			}
		}
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	forbidden := false
	slots := make(chan struct{}, askedAtOnce)
	for on, pod := range s.Speakers() {
		if node != "" && on != node {
			continue
		}
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, heard, end := listen(ctx)
			defer end()
			document, err := a.ask(ctx, pod, addresses[pod.Spec.NodeName], token, heard)
			if cause := context.Cause(ctx); err != nil && cause != nil {
				err = cause // whatever that broke first
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				s.Told = append(s.Told, document)
				return
			case apierrors.IsForbidden(err):
				forbidden = true // for all alike
				return
			}
			s.Unread = append(s.Unread, inspect.Unread{Kind: inspect.Told, Node: pod.Spec.NodeName, Why: err.Error()})
		})
	}
	wait.Wait()
	s.Asked = true
	// Whoever asks twice shall read the same.
	slices.SortFunc(s.Told, func(a, b *report.Document) int { return strings.Compare(a.Node, b.Node) })
	slices.SortStableFunc(s.Unread, func(a, b inspect.Unread) int { return strings.Compare(a.Node, b.Node) })
	if forbidden {
		s.Unread = append(s.Unread, inspect.Unread{Kind: inspect.Ports, Verb: "get and create", Namespace: s.Namespace, Why: "you are not allowed to; --direct does without"})
	}
}

// token returns one of the viewer.
func (a Speakers) token(ctx context.Context, namespace string) (string, error) {
	seconds := int64(tokenLasts / time.Second)
	request, err := a.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, viewer, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return "", fmt.Errorf("you are not allowed to, for ServiceAccount %s", viewer)
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("there is no ServiceAccount %s: the chart brings it", viewer)
	case err != nil:
		return "", err
	}
	return request.Status.Token, nil
}

// listen returns a context that ends when nothing was heard for too long, or all took too long, and says so.
func listen(ctx context.Context) (_ context.Context, heard func(), end func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, longestTale, fmt.Errorf("not within %s", longestTale))
	ctx, stop := context.WithCancelCause(ctx)
	silence := time.AfterFunc(silentAtMost, func() { stop(fmt.Errorf("not within %s", silentAtMost)) })
	return ctx, func() { silence.Reset(silentAtMost) }, func() { silence.Stop(); stop(nil); cancel() }
}

// A listener tells of everything that is read.
type listener struct {
	io.Reader
	heard func()
}

func (l listener) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	l.heard()
	return n, err
}

func (a Speakers) ask(ctx context.Context, pod *corev1.Pod, address, token string, heard func()) (*report.Document, error) {
	port := securePort
	for _, c := range pod.Spec.Containers {
		for _, arg := range c.Args {
			if p, ok := strings.CutPrefix(arg, "--secure-port="); ok {
				port = p
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("it has no --secure-port")
	}
	dial := func(ctx context.Context) (net.Conn, error) { return a.forward(ctx, pod, port) }
	if a.Direct {
		if _, err := netip.ParseAddr(address); err != nil {
			return nil, errors.New("its Node has no InternalIP")
		}
		dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, port))
		}
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			// A speaker makes its certificate itself. What it is shown is good for its routes only, and not for long.
			secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
			if err := secure.HandshakeContext(ctx); err != nil {
				_ = conn.Close() // the first error counts
				return nil, err
			}
			return secure, nil
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+pod.Name+report.Path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := client.Do(request)
	if err != nil {
		return nil, unwrapped(err)
	}
	defer func() { _ = answer.Body.Close() }() // it was only read
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("it does not know %s: it is of an older version", report.Path)
	default:
		text, err := io.ReadAll(io.LimitReader(answer.Body, 300))
		return nil, errors.Join(fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text))), err)
	}
	keep := a.Keep
	if keep == nil {
		keep = func(netip.Prefix) bool { return true }
	}
	document, err := report.Read(listener{answer.Body, heard}, keep)
	if err != nil {
		return nil, fmt.Errorf("its answer is cut off or damaged: %w", err)
	}
	if document.Version != report.Version {
		return nil, fmt.Errorf("it answers in version %d, and this program reads version %d", document.Version, report.Version)
	}
	if document.Node != pod.Spec.NodeName {
		return nil, fmt.Errorf("the speaker of node %s answered", document.Node)
	}
	return &document, nil
}

// unwrapped leaves out the URL, which nobody asked for.
func unwrapped(err error) error {
	var wrapped interface{ Unwrap() error }
	if errors.As(err, &wrapped) && wrapped.Unwrap() != nil {
		return wrapped.Unwrap()
	}
	return err
}

// forward connects to a port of the Pod through the API server, without a port on this machine that others could use.
func (a Speakers) forward(ctx context.Context, pod *corev1.Pod, port string) (net.Conn, error) {
	url := a.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(a.Config)
	if err != nil {
		return nil, err
	}
	sockets, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, a.Config)
	if err != nil {
		return nil, err
	}
	var refusal error // of the WebSocket; of the other protocol there is only a text
	dialer := portforward.NewFallbackDialerForStreaming(sockets, spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url), func(err error) bool {
		if failure := (*httpstream.UpgradeFailureError)(nil); errors.As(err, &failure) {
			refusal = failure.Cause
		}
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	type dialed struct {
		httpstream.Connection
		err error
	}
	done := make(chan dialed, 1)
	go func() {
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- dialed{conn, err}
	}()
	var conn httpstream.Connection
	select {
	case d := <-done:
		switch {
		case d.err != nil && apierrors.IsForbidden(refusal):
			return nil, refusal
		case d.err != nil:
			return nil, d.err
		}
		conn = d.Connection
	case <-ctx.Done():
		go func() {
			if d := <-done; d.err == nil {
				_ = d.Close() // nobody waits for it any more
			}
		}()
		return nil, ctx.Err()
	}
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, port)
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	trouble, err := conn.CreateStream(headers)
	if err != nil {
		_ = conn.Close() // the first error counts
		return nil, err
	}
	_ = trouble.Close() // we write nothing there
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		_ = conn.Close() // the first error counts
		return nil, err
	}
	return &forwarded{Stream: data, conn: conn, trouble: trouble}, nil
}

// forwarded is a connection to a port of a Pod. Its deadlines are those of the request, which closes it.
type forwarded struct {
	httpstream.Stream
	conn    httpstream.Connection
	trouble io.Reader
}

// Read returns what the kubelet says is wrong, where the connection ends for that.
func (f *forwarded) Read(b []byte) (int, error) {
	n, err := f.Stream.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		if text, _ := io.ReadAll(io.LimitReader(f.trouble, 300)); len(text) > 0 { // that it cannot be read says nothing
			return 0, errors.New(strings.TrimSpace(string(text)))
		}
	}
	return n, err
}

func (f *forwarded) Close() error                     { return f.conn.Close() }
func (f *forwarded) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (f *forwarded) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }
