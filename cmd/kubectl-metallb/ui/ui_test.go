package ui

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

const (
	here  = "127.0.0.1:40000"
	own   = "http://" + here
	token = "THE-TOKEN"
)

// cluster is one with two Services, which is read at once.
func cluster() Cluster {
	s := &inspect.Snapshot{Taken: time.Unix(1_000_000, 0), Namespace: "metallb-system", ConfigName: "config"}
	for _, name := range []string{"web", "api"} {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: map[string]string{"web": "192.0.2.1", "api": "192.0.2.2"}[name]}}
		s.Services = append(s.Services, svc)
	}
	return Cluster{
		Read:    func(context.Context) (*inspect.Snapshot, error) { return s, nil },
		Remarks: func(*inspect.View) []string { return nil },
	}
}

// A browser sends requests as browsers do, and some as they do not.
type browser struct {
	http.Handler
	cookie *http.Cookie
}

func (b *browser) send(method, path, body string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = here
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	for _, cookie := range w.Result().Cookies() {
		b.cookie = cookie
	}
	return w.Result()
}

func said(t *testing.T, r *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// opened is a browser that has exchanged the token.
func opened(t *testing.T, c Cluster) *browser {
	t.Helper()
	b := &browser{Handler: newGuard(here, token, newGlass(t.Context(), c).handler())}
	if r := b.send("GET", "/?token="+token, ""); r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/" || b.cookie == nil {
		t.Fatal(r.Status, r.Header)
	}
	return b
}

func TestTheTokenIsGoodOnceAndTheCookieAfterIt(t *testing.T) {
	first := &browser{Handler: newGuard(here, token, newGlass(t.Context(), cluster()).handler())}
	other := &browser{Handler: first.Handler}
	steps := []struct {
		then string
		by   *browser
		path string
		want int
	}{
		{"without anything there is no page", first, "/", 401},
		{"nor an answer", first, "/api/status.json", 401},
		{"nor a style sheet", first, "/page.css", 401},
		{"a wrong token is no token", first, "/?token=wrong", 403},
		{"an empty one neither", first, "/?token=", 403},
		{"the token is good elsewhere than at the entry for nothing", first, "/api/status.json?token=" + token, 401},
		{"the token gives the cookie, and a clean URL", first, "/?token=" + token, 303},
		{"with which the page comes", first, "/", 200},
		{"and answers", first, "/api/status.json", 200},
		{"another browser comes too late", other, "/?token=" + token, 403},
		{"also with an empty token", other, "/?token=", 403},
		{"and has no page", other, "/", 401},
		{"the first may go back to where it came from", first, "/?token=" + token, 303},
		{"and sees the page still", first, "/", 200},
	}
	for _, step := range steps {
		if r := step.by.send("GET", step.path, ""); r.StatusCode != step.want {
			t.Errorf("%s: %s: %s", step.then, step.path, r.Status)
		}
	}
	if c := first.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Value == token || len(c.Value) < 20 || c.Name != "metallb-40000" {
		t.Errorf("%+v", c)
	}
	other.cookie = &http.Cookie{Name: first.cookie.Name, Value: "guessed"}
	if r := other.send("GET", "/", ""); r.StatusCode != 401 {
		t.Error(r.Status)
	}
}

func TestOnlyThePageItselfMayAsk(t *testing.T) {
	b := opened(t, cluster())
	yaml := []string{"Content-Type", "application/yaml"}
	for _, test := range []struct {
		who, method, path string
		header            []string
		want              int
	}{
		{"the page", "GET", "/api/status.json", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"the page, with its origin", "GET", "/api/status.json", []string{"Origin", own}, 200},
		{"a name that leads here (DNS rebinding)", "GET", "/api/status.json", []string{"Host", "evil.example:40000"}, 421},
		{"the same at the entry", "GET", "/", []string{"Host", "evil.example:40000"}, 421},
		{"localhost, which is another origin", "GET", "/", []string{"Host", "localhost:40000"}, 421},
		{"the host without its port", "GET", "/", []string{"Host", "127.0.0.1"}, 421},
		{"another port", "GET", "/", []string{"Host", "127.0.0.1:40001"}, 421},
		{"another site", "GET", "/api/status.json", []string{"Origin", "http://evil.example"}, 403},
		{"another site, at the entry", "GET", "/", []string{"Origin", "http://evil.example"}, 403},
		{"a sandboxed frame", "GET", "/api/status.json", []string{"Origin", "null"}, 403},
		{"no origin, and yet one", "GET", "/api/status.json", []string{"Origin", ""}, 403},
		{"another port's page", "GET", "/api/status.json", []string{"Origin", "http://127.0.0.1:40001"}, 403},
		{"another port's page, by a script element", "GET", "/api/status.json", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"another site, by an image", "GET", "/page.css", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a link from another site", "GET", "/", []string{"Sec-Fetch-Site", "cross-site"}, 200},
		{"the page plans", "POST", "/api/plan.json", append(yaml, "Origin", own), 200},
		{"somebody without origin plans", "POST", "/api/plan.json", yaml, 403},
		{"another site plans", "POST", "/api/plan.json", append(yaml, "Origin", "http://evil.example"), 403},
		{"a form plans", "POST", "/api/plan.json", []string{"Origin", own, "Content-Type", "text/plain"}, 415},
		{"plan by GET", "GET", "/api/plan.json", nil, 405},
		{"status by POST", "POST", "/api/status.json", []string{"Origin", own}, 405},
		{"PUT", "PUT", "/api/plan.json", []string{"Origin", own}, 405},
		{"DELETE", "DELETE", "/", nil, 405},
		{"PATCH", "PATCH", "/", nil, 405},
		{"HEAD", "HEAD", "/", nil, 405},
		{"OPTIONS, before another site's request", "OPTIONS", "/api/status.json", nil, 405},
		{"a file that there is not", "GET", "/page/page.js", nil, 404},
		{"a file of the machine", "GET", "/..%2f..%2fetc/passwd", nil, 404},
	} {
		r := b.send(test.method, test.path, "", test.header...)
		if r.StatusCode != test.want {
			t.Errorf("%s: %s %s: %s", test.who, test.method, test.path, r.Status)
		}
		// Whatever the answer is.
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options":  "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY",
			"Access-Control-Allow-Origin": "",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", test.who, name, got)
			}
		}
	}
}

func TestThePlanTakesNoMoreThanAConfiguration(t *testing.T) {
	b := opened(t, cluster())
	for size, want := range map[int]int{largestText: 200, largestText + 1: 413} {
		text := "# " + strings.Repeat("x", size-2)
		r := b.send("POST", "/api/plan.json", text, "Origin", own, "Content-Type", "application/yaml")
		if r.StatusCode != want {
			t.Errorf("%d bytes: %s", size, r.Status)
		}
	}
}

func TestWhatIsWrongIsSaidInWords(t *testing.T) {
	b := opened(t, cluster())
	for path, want := range map[string]string{
		"/api/why.json?q=shop/wev":     `404 {"error":"there is no Service of type LoadBalancer named shop/wev: did you mean shop/web?"}`,
		"/api/why.json?q=10.9.9.9":     `404 {"error":"there is no Service that shows or asks for an address in 10.9.9.9/32"}`,
		"/api/why.json":                `400 {"error":"name something, in at most a line"}`,
		"/api/why.json?q=" + long(401): `400 {"error":"name something, in at most a line"}`,
		"/api/pool.json?name=gone":     `404 {"error":"there is no pool named gone"}`,
	} {
		if r := b.send("GET", path, ""); fmt.Sprintf("%d %s", r.StatusCode, said(t, r)) != want {
			t.Errorf("%s: %s, want %s", path, r.Status, want)
		}
	}
	broken := cluster()
	broken.Read = func(context.Context) (*inspect.Snapshot, error) {
		return nil, errors.New("the API server does not answer")
	}
	b = opened(t, broken)
	if r := b.send("GET", "/api/status.json", ""); r.StatusCode != 502 || said(t, r) != `{"error":"the API server does not answer"}` {
		t.Error(r.Status)
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func TestASearchAnswersWithTheServiceOrThoseToChooseFrom(t *testing.T) {
	b := opened(t, cluster())
	for q, want := range map[string]string{
		"shop/web":     "[shop/web] kubectl metallb why shop/web",
		"web":          "[shop/web] kubectl metallb why shop/web",
		"192.0.2.2":    "[shop/api] kubectl metallb why shop/api",
		"shop/":        "[shop/api shop/web] ",
		"192.0.2.0/24": "[shop/api shop/web] ",
	} {
		var a answer
		if err := json.Unmarshal([]byte(said(t, b.send("GET", "/api/why.json?q="+url.QueryEscape(q), ""))), &a); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(a.Found, " ", a.Command); got != want || (a.Answer == nil) != (len(a.Found) > 1) {
			t.Errorf("%s: %s, want %s", q, got, want)
		}
	}
}

func TestCommandsCanBePastedWhateverIsInTheirNames(t *testing.T) {
	for want, in := range map[string][]string{
		"kubectl metallb pools default --context=prod":                        {"pools", "default", "--context=prod"},
		"kubectl metallb pools '$(reboot); `x`'":                              {"pools", "$(reboot); `x`"},
		`kubectl metallb pools 'it'\''s' '--kubeconfig=/home/a b/kubeconfig'`: {"pools", "it's", "--kubeconfig=/home/a b/kubeconfig"},
		"kubectl metallb pools ''":                                            {"pools", ""},
		"kubectl metallb pools 'a\nb'":                                        {"pools", "a\nb"},
	} {
		if got := commandLine(in, nil); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// files are the page's, by the paths that they are served at.
func files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := page.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := page.ReadFile("page/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		all["/"+entry.Name()] = string(text)
	}
	return all
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	b, all, looked := opened(t, cluster()), files(t), 0
	for name, text := range all {
		if m := regexp.MustCompile(`https?://|["'(]//|@import|url\(|eval\(|innerHTML|insertAdjacentHTML|document\.write|localStorage`).FindString(text); m != "" {
			t.Errorf("%s has %q", name, m)
		}
		for _, m := range regexp.MustCompile(`(?:src=|href=|from )"(/[^"]*)"`).FindAllStringSubmatch(text, -1) {
			looked++
			if _, ok := all[m[1]]; !ok {
				t.Errorf("%s refers to %s, which there is not", name, m[1])
			}
			if r := b.send("GET", m[1], ""); r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/") {
				t.Errorf("%s: %s %s", m[1], r.Status, r.Header.Get("Content-Type"))
			}
		}
	}
	if looked < 3 {
		t.Errorf("%d references: this test looks at too little", looked)
	}
	// The policy forbids them, so that they would do nothing.
	if m := regexp.MustCompile(`(?i)<style|<script>| style=| on[a-z]+=`).FindString(all["/index.html"]); m != "" {
		t.Errorf("index.html has %q", m)
	}
	// What the scripts look for by its id is in the page.
	for _, m := range regexp.MustCompile(`\$\("([a-z-]+)"\)|(?:strip|draw)\("([a-z-]+)"`).FindAllStringSubmatch(all["/page.js"], -1) {
		if id := m[1] + m[2]; !strings.Contains(all["/index.html"], `id="`+id+`"`) {
			t.Errorf("page.js looks for %s", id)
		}
	}
}

// WCAG 2.1 asks for a contrast of 4.5 between text and what is behind it, in either scheme.
func TestColoursCanBeReadInLightAndDark(t *testing.T) {
	schemes := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(files(t)["/page.css"], -1)
	if len(schemes) != 2 {
		t.Fatalf("%d schemes", len(schemes))
	}
	for i, scheme := range schemes {
		light := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]+)`).FindAllStringSubmatch(scheme[1], -1) {
			light[m[1]] = luminance(t, m[2])
		}
		for _, pair := range []string{"ink ground", "ink raised", "quiet ground", "quiet raised", "accent ground", "good good-ground", "good ground", "bad bad-ground", "bad ground", "mark mark-ground", "mark ground", "on-accent accent"} {
			text, behind, _ := strings.Cut(pair, " ")
			a, b := light[text], light[behind]
			if contrast := (max(a, b) + 0.05) / (min(a, b) + 0.05); contrast < 4.5 {
				t.Errorf("scheme %d: %s: %.1f", i, pair, contrast)
			}
		}
	}
}

// luminance is WCAG's, of a colour as the style sheet writes it.
func luminance(t *testing.T, hex string) (sum float64) {
	t.Helper()
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		v := float64(n) / 255
		if v <= 0.04045 {
			v /= 12.92
		} else {
			v = math.Pow((v+0.055)/1.055, 2.4)
		}
		sum += weight * v
	}
	return sum
}

func TestASlowReadIsOneForAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		slow := make(chan struct{})
		c := cluster()
		read := c.Read
		c.Read = func(ctx context.Context) (*inspect.Snapshot, error) {
			reads.Add(1)
			select {
			case <-slow:
				return read(ctx)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		b := opened(t, c)
		impatient, leave := context.WithCancel(t.Context())
		gone := httptest.NewRequestWithContext(impatient, "GET", "/api/status.json", nil)
		gone.Host = here
		gone.AddCookie(b.cookie)
		go b.ServeHTTP(httptest.NewRecorder(), gone)
		synctest.Wait()
		answers := make(chan int, 50)
		for i := range cap(answers) {
			path := []string{"/api/status.json", "/api/nodes.json", "/api/pools.json", "/api/why.json?q=web"}[i%4]
			go func() { answers <- b.send("GET", path, "").StatusCode }()
		}
		synctest.Wait()
		leave() // who came first goes away, and the others have their answer all the same
		synctest.Wait()
		close(slow)
		for range cap(answers) {
			if code := <-answers; code != 200 {
				t.Error(code)
			}
		}
		if n := reads.Load(); n != 1 {
			t.Errorf("%d reads", n)
		}
	})
}

func TestWhatWasReadIsGoodForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes, computes, reads := time.Duration(0), time.Duration(0), 0
		c := cluster()
		read := c.Read
		c.Read = func(ctx context.Context) (*inspect.Snapshot, error) {
			reads++
			time.Sleep(takes) // the bubble's clock
			return read(ctx)
		}
		c.Remarks = func(*inspect.View) []string {
			time.Sleep(computes)
			return nil
		}
		b := opened(t, c)
		for _, step := range []struct {
			after, takes, computes time.Duration
			reads                  int
			then                   string
		}{
			{0, 0, 0, 1, "the first reads"},
			{2 * time.Second, 0, 0, 1, "two seconds later that is good still"},
			{time.Second, 10 * time.Second, 0, 2, "a second later it is not, and a long read follows"},
			{29 * time.Second, 0, 0, 2, "which rests for three times as long"},
			{time.Second, time.Second, 9 * time.Second, 3, "and no longer; now a long computation follows a short read"},
			{20 * time.Second, 0, 0, 3, "which rests for three times as long as both took, counted from the read"},
			{time.Second, 0, 0, 4, "and no longer"},
		} {
			time.Sleep(step.after)
			takes, computes = step.takes, step.computes
			if b.send("GET", "/api/status.json", ""); reads != step.reads {
				t.Errorf("%s: %d reads", step.then, reads)
			}
		}
	})
}

// started serves, and returns the URL that is printed first, how it is ended, and how it has ended.
func started(t *testing.T, c Cluster) (address *url.URL, end func(), ended chan error) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	in, out := io.Pipe()
	ended = make(chan error, 1)
	go func() { ended <- Serve(ctx, out, io.Discard, c) }()
	lines := bufio.NewReader(in)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // what else is printed
	if address, err = url.Parse(strings.TrimSpace(line)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() }) // it was only read
	return address, end, ended
}

func TestItListensOn127001Only(t *testing.T) {
	address, end, ended := started(t, cluster())
	if address.Hostname() != "127.0.0.1" || len(address.Query().Get("token")) < 20 {
		t.Error(address)
	}
	for _, other := range []string{"127.0.0.2", "::1"} {
		if conn, err := net.DialTimeout("tcp", net.JoinHostPort(other, address.Port()), 5*time.Second); err == nil {
			t.Errorf("it answers on %s", conn.RemoteAddr())
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNothingGoesOnAfterTheEnd(t *testing.T) {
	c := cluster()
	reading, release := make(chan struct{}), make(chan struct{})
	c.Read = func(ctx context.Context) (*inspect.Snapshot, error) {
		close(reading)
		<-ctx.Done()
		<-release
		return nil, ctx.Err()
	}
	address, end, ended := started(t, c)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	r, err := client.Get(address.String())
	if err != nil || r.StatusCode != 303 || len(r.Cookies()) != 1 {
		t.Fatal(r, err)
	}
	_ = r.Body.Close() // it is empty
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address.Host+"/api/status.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.AddCookie(r.Cookies()[0])
	answered := make(chan error, 1)
	go func() {
		r, err := client.Do(request)
		if err == nil {
			err = r.Body.Close()
		}
		answered <- err
	}()
	<-reading
	end()
	<-answered // with whatever
	for goes := func() bool { return strings.Contains(stacks(t), "ui.(*glass).wait") }; !goes(); runtime.Gosched() {
		select {
		case err := <-ended:
			t.Fatal("it did not wait for the read under way", err)
		default:
		}
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, goes := range []string{"ui.Serve", "ui.(*glass)", "ui.(*look)", "ui.(*guard)"} {
		if all := stacks(t); strings.Contains(all, goes) {
			t.Errorf("%s goes on:\n%s", goes, all)
		}
	}
}

// stacks are those of all goroutines.
func stacks(t *testing.T) string {
	t.Helper()
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
		t.Fatal(err)
	}
	return all.String()
}
