//go:build browser

// Package browser opens the page of kubectl metallb ui in a real Chromium, as its user has it: keys and pixels, and other sites that are
// open beside it. It is compiled and run by make ui-browser only, because the browser is larger than everything else here together.
package browser

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A witness is the only way out that the browser has: a proxy that writes down what was asked for. It leads to this machine and no further.
type witness struct {
	url  string
	mu   sync.Mutex
	ways map[string]string // where a name with its port really is
	held map[string]<-chan struct{}
	seen []visit
}

// A visit is a request, and what it was answered. Status 0 is one that led away from this machine.
type visit struct {
	Host, Method, Path, Origin, Site string
	Status                           int
}

func newWitness(t testing.TB) *witness {
	w := &witness{ways: map[string]string{}, held: map[string]<-chan struct{}{}}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// leads makes a name lead to an address of this machine, as whoever owns a name can.
func (w *witness) leads(name, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ways[name] = to
}

// hold keeps back what is asked at a path from now on, until it is released.
func (w *witness) hold(path string, release <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[path] = release
}

func (w *witness) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	to, held := w.ways[r.URL.Host], w.held[r.URL.Path]
	w.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}
	if r.URL.Hostname() == "127.0.0.1" {
		to = r.URL.Host
	}
	v := visit{r.URL.Host, r.Method, r.URL.Path, r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site"), 0}
	note := func(status int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		v.Status = status
		w.seen = append(w.seen, v)
	}
	if to == "" || r.Method == http.MethodConnect {
		note(0)
		http.Error(out, "that is not on this machine", http.StatusBadGateway)
		return
	}
	(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", to, p.In.Host
		},
		ModifyResponse: func(response *http.Response) error {
			note(response.StatusCode)
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as if there were no proxy
	}).ServeHTTP(out, r)
}

// visits are those that the test is about.
func (w *witness) visits(which func(visit) bool) []visit {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.seen), func(v visit) bool { return !which(v) })
}

// patience is how long anything may take before it counts as broken, also where other work keeps the processors busy.
const patience = 4 * time.Minute

// A browser is a Chromium without a window.
type browser struct {
	t   testing.TB
	ctx context.Context
	*requests
}

// requests are the URLs that a tab has asked for.
type requests struct {
	mu  sync.Mutex
	all []string
}

func (r *requests) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

func start(t testing.TB, w *witness) browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("there is no chromium: run make ui-browser as root, which installs Debian's")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.ProxyServer(w.url), chromedp.Flag("proxy-bypass-list", "<-loopback>"),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-domain-reliability", true), chromedp.Flag("no-pings", true),
		// Browsers begin to ask their users before a site may reach this machine. The page may not rely on that.
		chromedp.Flag("disable-features", "Translate,OptimizationHints,MediaRouter,LocalNetworkAccessChecks"))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has none for root
	}
	ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	return browser{t: t, ctx: ctx}.tab()
}

// tab opens another one. other options are a browser's that knows no cookies of the first.
func (b browser) tab(options ...chromedp.ContextOption) browser {
	b.t.Helper()
	ctx, end := chromedp.NewContext(b.ctx, options...)
	b.t.Cleanup(end)
	must(b.t, chromedp.Do(ctx))
	r := &requests{}
	must(b.t, chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*network.EventRequestWillBeSent); ok {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.all = append(r.all, e.Request.URL)
		}
	}))
	return browser{b.t, ctx, r}
}

// strict makes every error of a script, and all that a policy forbids, an error of the test.
func (b browser) strict() browser {
	must(b.t, chromedp.Listen(b.ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.t.Errorf("script: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		case *log.EventEntryAdded:
			if e.Entry.Source != "network" { // those are answered with an error, which the page shows
				b.t.Errorf("console: %s %s", e.Entry.Source, e.Entry.Text)
			}
		}
	}))
	return b
}

func (b browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	must(b.t, chromedp.Do(b.ctx, steps...))
}

// eval returns what a script does.
func eval[T any](b browser, script string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%v in %s", err, script)
	}
	return value
}

// until waits until a script says true.
func (b browser) until(what, script string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	err := kubernetes.Until(ctx, what, func(ctx context.Context) error {
		done, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+script+")"))
		if err == nil && !done {
			err = errors.New("not yet")
		}
		return err
	})
	if err != nil {
		b.t.Fatalf("%v; the page has\n%s", err, eval[string](b, "document.body.innerText"))
	}
}

// shows waits until a part of the page has a text.
func (b browser) shows(id, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("#%s to show %q", id, text), fmt.Sprintf("document.getElementById(%q).innerText.includes(%q)", id, text))
}

// press presses keys, one after the other.
func (b browser) press(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		b.do(chromedp.KeyEvent(key))
	}
}

func (b browser) size(width, height int64) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1})
	must(b.t, err)
}

func (b browser) scheme(name string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
	must(b.t, err)
}

// picture writes what is seen into the folder PICTURES, if one is named.
func (b browser) picture(name string) {
	b.t.Helper()
	folder := os.Getenv("PICTURES")
	if folder == "" {
		return
	}
	r, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	must(b.t, err)
	seen, err := png.Decode(bytes.NewReader(r.Data))
	must(b.t, err)
	var small bytes.Buffer
	must(b.t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, fewColours(seen)))
	must(b.t, os.WriteFile(filepath.Join(folder, name), small.Bytes(), 0o644))
}

// fewColours draws a picture with its 256 most frequent colours, which halves its file. What else there is are edges of letters.
func fewColours(seen image.Image) image.Image {
	count, box := map[color.Color]int{}, seen.Bounds()
	for y := range box.Dy() {
		for x := range box.Dx() {
			count[seen.At(x, y)]++
		}
	}
	all := color.Palette(slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) }))
	drawn, index := image.NewPaletted(box, all[:min(256, len(all))]), map[color.Color]uint8{}
	for c := range count {
		index[c] = uint8(drawn.Palette.Index(c))
	}
	for y := range box.Dy() {
		for x := range box.Dx() {
			drawn.SetColorIndex(x, y, index[seen.At(x, y)])
		}
	}
	return drawn
}

func program(t testing.TB) string {
	t.Helper()
	root, err := kubernetes.Repository(t.Context())
	must(t, err)
	return filepath.Join(cmp.Or(os.Getenv("LAB_BIN"), filepath.Join(root, "bin")), "kubectl-metallb")
}

// serve runs kubectl metallb ui, and returns the URL that it prints and what ends it.
func serve(t testing.TB, args ...string) (address *url.URL, end func()) {
	t.Helper()
	cmd := exec.Command(program(t), append([]string{"ui"}, args...)...)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	end = sync.OnceFunc(func() {
		if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	address, err = url.Parse(strings.TrimSpace(line))
	must(t, err)
	return address, end
}
