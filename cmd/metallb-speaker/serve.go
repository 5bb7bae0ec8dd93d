package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/speaker"
)

// How the HTTPS server is reached.
type serving struct {
	address  string
	port     int
	certFile string
	keyFile  string
}

// longestRound is how long one look at everything may take. With ten thousand Services it takes less than a second.
const longestRound = time.Minute

// serve answers HTTPS until the returned function is called. A port that is in use is an error at once.
func serve(at serving, status func() speaker.Status, may func(ctx context.Context, token string) (verdict, error), metrics http.Handler) (stop func(), err error) {
	certificate, err := at.certificate()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(at.address, strconv.Itoa(at.port)))
	if err != nil {
		return nil, fmt.Errorf("serve health and metrics: %w: choose another --secure-port, or 0 for none", err)
	}
	server := &http.Server{
		Handler:   newHandler(status, may, metrics),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate},
		// Everybody on the network may connect. A question has no body and few headers, and comes at once.
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
	go func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "Health and metrics are no longer served")
		}
	}()
	return func() { _ = server.Close() }, nil // the process ends next
}

// certificate returns what TLS asks for certificates: the operator's, or one of our own that is made when somebody first
// connects, because that takes a moment which routers should not have to wait for.
func (s serving) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	own := sync.OnceValues(func() (*tls.Certificate, error) {
		cert, key, err := certutil.GenerateSelfSignedCertKeyWithOptions(certutil.SelfSignedCertKeyOptions{Host: "metallb-speaker", MaxAge: 10 * 365 * 24 * time.Hour})
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		return &pair, err
	})
	if s.certFile == "" && s.keyFile == "" {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own() }, nil
	}
	if s.certFile == "" || s.keyFile == "" {
		return nil, fmt.Errorf("--tls-cert-file and --tls-private-key-file belong together: set both or neither")
	}
	pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read --tls-cert-file and --tls-private-key-file: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }, nil
}

// newHandler answers health to everybody, in words that name nothing in the cluster, and metrics to those who may.
func newHandler(status func() speaker.Status, may func(ctx context.Context, token string) (verdict, error), metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	// Alive is who still looks at changes. Nothing that others must do counts, for instance a configuration or an API
	// server: a restart would mend none, and lose what this process knows.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		say(w, map[bool]string{true: "one look at the cluster has gone on for more than " + longestRound.String()}[status().Busy > longestRound])
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { say(w, status().Missing) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		token, ok := bearer(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "metrics are for those whom the API server knows: send a bearer token", http.StatusUnauthorized)
			return
		}
		switch verdict, err := may(r.Context(), token); {
		case err != nil:
			http.Error(w, "the API server does not say who you are, or what you may: ask again later", http.StatusServiceUnavailable)
		case verdict == unknown:
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "the API server does not know this token", http.StatusUnauthorized)
		case verdict == forbidden:
			http.Error(w, "you may not get /metrics: a ClusterRole with nonResourceURLs [/metrics] and verbs [get] lets you", http.StatusForbidden)
		default:
			metrics.ServeHTTP(w, r)
		}
	})
	return http.MaxBytesHandler(mux, 0) // nobody has to send a body
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
