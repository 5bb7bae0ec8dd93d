package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// A Serving says how the HTTPS server is reached, and the other for the kubelet's probes.
type Serving struct {
	Host      string // whose name the certificate has that a program makes for itself
	Address   string
	Port      int
	ProbePort int
	CertFile  string
	KeyFile   string
}

// AddFlags adds the flags of all that.
func (s *Serving) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&s.Address, "bind-address", "", "IP address on which HTTPS is served: health, and to those who may get them metrics and the like. The default is every address of the node.")
	fs.IntVar(&s.Port, "secure-port", s.Port, "Port on which health and metrics are served; 0 is none.")
	fs.IntVar(&s.ProbePort, "probe-port", 0, "Port of 127.0.0.1 on which the kubelet's probes are answered, by HTTP; 0 is none. Nobody on the network can keep the kubelet from that.")
	fs.StringVar(&s.CertFile, "tls-cert-file", "", "File with the certificate, and its chain if there is one. The default is one that this process makes for itself.")
	fs.StringVar(&s.KeyFile, "tls-private-key-file", "", "File with the certificate's key.")
}

// Health is what probes ask.
type Health struct {
	// Missing says in words what the program still waits for, without a name of anything in the cluster; empty if nothing.
	Missing string
	// Busy is for how long one look at the cluster has been going on; 0: none does.
	Busy time.Duration
}

// longestRound is how long one look at everything may take. With ten thousand Services it takes less than a second.
const longestRound = time.Minute

// probe answers the kubelet's probes on the loopback interface until the returned function is called. They have a listener of
// their own, so that nobody on the network can keep the kubelet from its answer: it would restart a speaker that is well.
func probe(at Serving, status func() Health) (stop func(), err error) {
	mux := http.NewServeMux()
	health(mux, status)
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(at.ProbePort)))
	if err != nil {
		return nil, fmt.Errorf("serve probes: %w: choose another --probe-port, or 0 for none", err)
	}
	server := patient(http.MaxBytesHandler(mux, 0))
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "Probes are no longer answered")
		}
	}()
	return func() { _ = server.Close() }, nil // the process ends next
}

// serve answers HTTPS until the returned function is called: health to everybody, and pages, by their paths, to those who may. A port
// that is in use is an error at once.
func serve(at Serving, status func() Health, may judge, pages map[string]http.Handler) (stop func(), err error) {
	certificate, err := at.certificate()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(at.Address, strconv.Itoa(at.Port)))
	if err != nil {
		return nil, fmt.Errorf("serve HTTPS: %w: choose another --secure-port, or 0 for none", err)
	}
	server := patient(newHandler(status, may, pages))
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate}
	crowd := &crowd{Listener: listener}
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if c, ok := conn.(*tls.Conn); ok {
			return context.WithValue(ctx, guestKey{}, c.NetConn())
		}
		return ctx
	}
	go func() {
		if err := server.ServeTLS(crowd, "", ""); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "HTTPS is no longer served")
		}
	}()
	return func() { _ = server.Close() }, nil // the process ends next
}

// patient returns a server for everybody on the network: a question has no body and few headers, and comes at once.
func patient(handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than the pauses of whoever collects metrics
		MaxHeaderBytes:    16 << 10,        // room for a long token
		// HTTP/2 would let one connection ask thousands of questions at once, and nobody needs more than one.
		Protocols: new(http.Protocols),
		// What goes wrong here is the client's own doing, for instance a port scan's.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server.Protocols.SetHTTP1(true)
	return server
}

// mostGuests bounds the connections that there are at once.
const mostGuests = 100

// A crowd is a listener that has room for mostGuests connections. For each more it closes another one: the oldest of those that
// were not let in, or if all were, the oldest. So whoever opens thousands keeps nobody else from being heard, who needs a
// moment only.
type crowd struct {
	net.Listener
	mu     sync.Mutex
	guests []*guest // the oldest first
}

// A guest is a connection.
type guest struct {
	net.Conn
	crowd *crowd
	let   bool // in: somebody who may get a page; guarded by crowd.mu
}

type guestKey struct{}

func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: conn, crowd: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.guests) >= mostGuests {
		i := max(0, slices.IndexFunc(c.guests, func(g *guest) bool { return !g.let }))
		_ = c.guests[i].Conn.Close() // its server notices
		c.guests = slices.Delete(c.guests, i, i+1)
	}
	c.guests = append(c.guests, g)
	return g, nil
}

func (g *guest) Close() error {
	g.crowd.mu.Lock()
	g.crowd.guests = slices.DeleteFunc(g.crowd.guests, func(o *guest) bool { return o == g })
	g.crowd.mu.Unlock()
	return g.Conn.Close()
}

// letIn notes that whoever asks may get a page, and keeps its connection.
func letIn(ctx context.Context) {
	if g, ok := ctx.Value(guestKey{}).(*guest); ok {
		g.crowd.mu.Lock()
		g.let = true
		g.crowd.mu.Unlock()
	}
}

// certificate returns what TLS asks for certificates: the operator's, or one of our own that is made when somebody first
// connects, because that takes a moment which routers should not have to wait for.
func (s Serving) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	own := sync.OnceValues(func() (*tls.Certificate, error) {
		cert, key, err := certutil.GenerateSelfSignedCertKeyWithOptions(certutil.SelfSignedCertKeyOptions{Host: s.Host, MaxAge: 10 * 365 * 24 * time.Hour})
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		return &pair, err
	})
	if s.CertFile == "" && s.KeyFile == "" {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() }, nil
	}
	if s.CertFile == "" || s.KeyFile == "" {
		return nil, fmt.Errorf("--tls-cert-file and --tls-private-key-file belong together: set both or neither")
	}
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read --tls-cert-file and --tls-private-key-file: %w", err)
	}
	// Whoever renews certificates writes the files anew, and tells nobody. Both are read again, and the last pair that fitted
	// counts: the two files may not change in one moment.
	var mu sync.Mutex
	read := time.Now()
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(read) >= certificateTime {
			read = now
			if again, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile); err == nil {
				pair = again
			}
		}
		shown := pair
		return &shown, nil
	}, nil
}

// certificateTime is for how long the certificate that was read is shown before the files are read again.
const certificateTime = 10 * time.Second

// A judge says whether whoever has the token may get the page at a path. from is where the question comes from.
type judge func(ctx context.Context, path, token, from string) (verdict, error)

// health answers probes, in words that name nothing in the cluster.
func health(mux *http.ServeMux, status func() Health) {
	// Alive is who still looks at changes. Nothing that others must do counts, for instance a configuration or an API
	// server: a restart would mend none, and lose what this process knows.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		say(w, map[bool]string{true: "one look at the cluster has gone on for more than " + longestRound.String()}[status().Busy > longestRound])
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { say(w, status().Missing) })
}

// newHandler answers health to everybody, and pages, by their paths, to those who may. Only their connections are kept.
func newHandler(status func() Health, may judge, pages map[string]http.Handler) http.Handler {
	mux := http.NewServeMux()
	health(mux, status)
	for path, page := range pages {
		mux.Handle("GET "+path, guarded(path, may, page))
	}
	return http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // unless it is somebody who will come again
		mux.ServeHTTP(w, r)
	}), 0) // nobody has to send a body
}

func say(w http.ResponseWriter, wrong string) {
	if wrong != "" {
		http.Error(w, wrong, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintln(w, "ok") // whoever asked is gone if that fails
}

func bearer(r *http.Request) (token string, ok bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// guarded answers a page to those who may get it.
func guarded(path string, may judge, page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := bearer(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, path+" is for those whom the API server knows: send a bearer token", http.StatusUnauthorized)
			return
		}
		switch verdict, err := may(r.Context(), path, token, r.RemoteAddr); {
		case errors.Is(err, errTooMany):
			http.Error(w, "too many new tokens come from where you are: ask again later", http.StatusTooManyRequests)
		case err != nil:
			http.Error(w, "the API server does not say who you are, or what you may: ask again later", http.StatusServiceUnavailable)
		case verdict == unknown:
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "the API server does not know this token", http.StatusUnauthorized)
		case verdict == forbidden:
			http.Error(w, fmt.Sprintf("you may not get %s: a ClusterRole with nonResourceURLs [%[1]s] and verbs [get] lets you", path), http.StatusForbidden)
		default:
			letIn(r.Context())
			w.Header().Del("Connection")
			page.ServeHTTP(w, r)
		}
	})
}
