package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

// byName gives the verdict that the token names.
func byName(_ context.Context, path, token, _ string) (verdict, error) {
	switch token {
	case "allowed", "allowed " + path:
		return allowed, nil
	case "forbidden", "allowed /metrics", "allowed /routes":
		return forbidden, nil
	case "one too many":
		return unknown, errTooMany
	case "nobody answers":
		return unknown, errors.New("connection refused by 10.0.0.1")
	}
	return unknown, nil
}

var figures = map[string]http.Handler{
	"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metallb_figures 1\n") }),
	"/routes":  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metallb_figures 2\n") }),
}

func TestHealthIsForEverybodyAndEachPageForThoseWhoMay(t *testing.T) {
	var status Health
	handler := newHandler(func() Health { return status }, byName, figures)
	for _, test := range []struct {
		name, ask, token string
		body             string
		status           Health
		code             int
		says             string
	}{
		{name: "alive", ask: "GET /healthz", code: 200, says: "ok\n"},
		{name: "alive, and not ready", ask: "GET /healthz", status: Health{Missing: "no configuration is loaded"}, code: 200, says: "ok\n"},
		{name: "at work", ask: "GET /healthz", status: Health{Busy: longestRound}, code: 200, says: "ok\n"},
		{name: "stuck", ask: "GET /healthz", status: Health{Busy: longestRound + 1}, code: 503, says: "one look at the cluster has gone on for more than 1m0s\n"},
		{name: "ready", ask: "GET /readyz", code: 200, says: "ok\n"},
		{name: "not ready", ask: "GET /readyz", status: Health{Missing: "no configuration is loaded"}, code: 503, says: "no configuration is loaded\n"},
		{name: "nobody", ask: "GET /metrics", code: 401, says: "send a bearer token"},
		{name: "an unknown token", ask: "GET /metrics", token: "Bearer stolen", code: 401, says: "does not know this token"},
		{name: "another scheme", ask: "GET /metrics", token: "Basic allowed", code: 401, says: "send a bearer token"},
		{name: "no token", ask: "GET /metrics", token: "Bearer ", code: 401, says: "send a bearer token"},
		{name: "somebody else", ask: "GET /metrics", token: "Bearer forbidden", code: 403, says: "nonResourceURLs [/metrics]"},
		{name: "the API server is down", ask: "GET /metrics", token: "Bearer nobody answers", code: 503, says: "ask again later"},
		{name: "one of too many", ask: "GET /metrics", token: "Bearer one too many", code: 429, says: "ask again later"},
		{name: "one who may", ask: "GET /metrics", token: "Bearer allowed", code: 200, says: "metallb_figures 1\n"},
		{name: "one who may, in small letters", ask: "GET /metrics", token: "bearer allowed", code: 200, says: "metallb_figures 1\n"},
		{name: "routes for nobody", ask: "GET /routes", code: 401, says: "/routes is for those whom the API server knows"},
		{name: "routes for an unknown token", ask: "GET /routes", token: "Bearer stolen", code: 401, says: "does not know this token"},
		{name: "routes for one who may get metrics only", ask: "GET /routes", token: "Bearer allowed /metrics", code: 403, says: "nonResourceURLs [/routes]"},
		{name: "routes for one who may", ask: "GET /routes", token: "Bearer allowed /routes", code: 200, says: "metallb_figures 2\n"},
		{name: "no metrics for one who may get routes only", ask: "GET /metrics", token: "Bearer allowed /routes", code: 403, says: "nonResourceURLs [/metrics]"},
		{name: "nothing below routes", ask: "GET /routes/leaf", token: "Bearer allowed", code: 404},
		{name: "one who may write", ask: "POST /metrics", token: "Bearer allowed", code: 405},
		{name: "no profiles", ask: "GET /debug/pprof/", token: "Bearer allowed", code: 404},
		{name: "nothing at the root", ask: "GET /", code: 404},
		{name: "nothing below", ask: "GET /healthz/ping", code: 404},
		{name: "a body that nobody reads", ask: "GET /healthz", body: strings.Repeat("x", 1<<20), code: 200, says: "ok\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status = test.status
			method, path, _ := strings.Cut(test.ask, " ")
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(test.body))
			if test.token != "" {
				r.Header.Set("Authorization", test.token)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != test.code || !strings.Contains(w.Body.String(), test.says) {
				t.Errorf("it answers %d %q, want %d %q", w.Code, w.Body, test.code, test.says)
			}
			for _, leaked := range []string{"10.0.0.1", "stolen", "metallb_figures"} {
				if test.code != 200 && strings.Contains(w.Body.String(), leaked) {
					t.Errorf("it tells %q to somebody who may not know: %s", leaked, w.Body)
				}
			}
			if want := test.code == 401; (w.Header().Get("WWW-Authenticate") != "") != want {
				t.Errorf("it asks who that is: %t, want %t", !want, want)
			}
		})
	}
}

// listening serves on a free port, and returns a client that believes the certificate, whatever it is, and the URL.
func listening(t *testing.T, at Serving) (*http.Client, string) {
	t.Helper()
	at.Address = "127.0.0.1"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at.Port = l.Addr().(*net.TCPAddr).Port
	if _, err := serve(at, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "--secure-port") {
		t.Errorf("a port in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	stop, err := serve(at, func() Health { return Health{} }, byName, figures)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}, fmt.Sprintf("https://127.0.0.1:%d", at.Port)
}

func TestWithoutACertificateTheServerMakesOne(t *testing.T) {
	client, url := listening(t, Serving{Host: "metallb-speaker"})
	response, err := client.Get(url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	cert := response.TLS.PeerCertificates[0]
	if err := cert.VerifyHostname("metallb-speaker"); err != nil || time.Until(cert.NotAfter) < 5*365*24*time.Hour {
		t.Errorf("it is for %v, until %v", cert.DNSNames, cert.NotAfter)
	}
	if response.StatusCode != 200 || response.ProtoMajor != 1 || response.TLS.Version < tls.VersionTLS12 {
		t.Errorf("it answers %s by HTTP/%d and TLS %#x", response.Status, response.ProtoMajor, response.TLS.Version)
	}

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.Repeat("x", 64<<10))
	response, err = client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of headers are answered with %s", response.Status)
	}
}

func TestTheOperatorsCertificateIsShown(t *testing.T) {
	cert, key, err := certutil.GenerateSelfSignedCertKey("speaker.example.com", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	at := Serving{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	for path, text := range map[string][]byte{at.CertFile: cert, at.KeyFile: key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, url := listening(t, at)
	response, err := client.Get(url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := response.TLS.PeerCertificates[0].VerifyHostname("speaker.example.com"); err != nil {
		t.Error(err)
	}
	for _, bad := range []Serving{{CertFile: at.CertFile}, {KeyFile: at.KeyFile}, {CertFile: at.KeyFile, KeyFile: at.CertFile}} {
		if _, err := serve(bad, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "--tls-private-key-file") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestProbesAreAnsweredOnTheLoopbackInterfaceOnly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := Serving{ProbePort: l.Addr().(*net.TCPAddr).Port}
	if _, err := probe(at, nil); err == nil || !strings.Contains(err.Error(), "--probe-port") {
		t.Errorf("a port in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	stop, err := probe(at, func() Health { return Health{Missing: "no configuration is loaded"} })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 404} {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", at.ProbePort, path))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s is answered with %s, want %d", path, response.Status, want)
		}
	}
}

// heap is what lives in memory now.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse)
}

func TestThousandsOfIdleConnectionsCostLittleAndKeepNobodyOut(t *testing.T) {
	client, url := listening(t, Serving{Host: "metallb-speaker"})
	scrape := func(then string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer allowed")
		response, err := client.Do(request)
		if err != nil {
			t.Fatalf("%s: %v", then, err)
		}
		defer response.Body.Close()
		if text, err := io.ReadAll(response.Body); err != nil || response.StatusCode != 200 || string(text) != "metallb_figures 1\n" {
			t.Errorf("%s: %s %q %v", then, response.Status, text, err)
		}
	}
	scrape("at first")
	before := heap()
	var idle []net.Conn
	for range 5000 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			break // this process may open so many files only
		}
		idle = append(idle, conn)
	}
	defer func() {
		for _, conn := range idle {
			conn.Close()
		}
	}()
	scrape("on the connection that was let in")
	client.CloseIdleConnections()
	scrape("on another one")
	// What the test itself holds of each connection counts as well.
	more := heap() - before
	t.Logf("%d idle connections: %.1f MB more", len(idle), float64(more)/1e6)
	if len(idle) < 1000 || more > 10e6 {
		t.Errorf("%d idle connections cost %d bytes", len(idle), more)
	}
}

func TestOnlyConnectionsOfThoseWhoMayAreKept(t *testing.T) {
	client, url := listening(t, Serving{Host: "metallb-speaker"})
	for token, kept := range map[string]bool{"": false, "stolen": false, "forbidden": false, "allowed": true} {
		var reused []bool
		for range 2 {
			request, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GotConn: func(i httptrace.GotConnInfo) { reused = append(reused, i.Reused) },
			}), http.MethodGet, url+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if reused[1] != kept {
			t.Errorf("the connection of %q is kept: %t, want %t", token, reused[1], kept)
		}
		client.CloseIdleConnections()
	}
}

func TestACertificateThatIsRenewedIsShown(t *testing.T) {
	dir := t.TempDir()
	at := Serving{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	write := func(host string) {
		t.Helper()
		cert, key, err := certutil.GenerateSelfSignedCertKey(host, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string][]byte{at.CertFile: cert, at.KeyFile: key} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("first.example.com")
	synctest.Test(t, func(t *testing.T) {
		certificate, err := at.certificate()
		if err != nil {
			t.Fatal(err)
		}
		shown := func(then, want string) {
			t.Helper()
			pair, err := certificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := x509.ParseCertificate(pair.Certificate[0]); err != nil || got.VerifyHostname(want) != nil {
				t.Errorf("%s: it is for %v, %v, want %s", then, got.DNSNames, err, want)
			}
		}
		shown("at first", "first.example.com")
		write("second.example.com")
		<-time.After(certificateTime)
		shown("renewed", "second.example.com")
		if err := os.WriteFile(at.KeyFile, []byte("half a key"), 0o600); err != nil {
			t.Fatal(err)
		}
		<-time.After(certificateTime)
		shown("half written", "second.example.com")
	})
}
