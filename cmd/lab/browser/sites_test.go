//go:build browser

package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// attacks try to read or to drive a page of another origin in all the ways that a site has. What succeeds is in the answer.
const attacks = `(async (base) => {
  const got = [], limit = (promise) => Promise.race([promise, new Promise((_, no) => setTimeout(no, 5000))]);
  const tries = {
    "fetch": async () => (await fetch(base + "/api/status.json", { credentials: "include" })).text(),
    "a plan by fetch": async () => (await fetch(base + "/api/plan.json", { method: "POST", credentials: "include", headers: { "Content-Type": "application/yaml" }, body: "peers: []" })).text(),
    "a plan without asking first": async () => { const r = await fetch(base + "/api/plan.json", { method: "POST", mode: "no-cors", credentials: "include", body: "peers: []" }); if (r.type === "opaque") throw 0; },
    "XMLHttpRequest": () => new Promise((yes, no) => { const r = new XMLHttpRequest(); r.withCredentials = true; r.onload = yes; r.onerror = no; r.open("GET", base + "/api/status.json"); r.send(); }),
    "script": () => new Promise((yes, no) => document.head.append(Object.assign(document.createElement("script"), { src: base + "/rows.js", type: "module", crossOrigin: "use-credentials", onload: yes, onerror: no }))),
    "script without CORS": () => new Promise((yes, no) => document.head.append(Object.assign(document.createElement("script"), { src: base + "/page.js", onload: yes, onerror: no }))),
    "style sheet": () => new Promise((yes, no) => document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: base + "/page.css", onload: yes, onerror: no }))),
    "EventSource": () => new Promise((yes, no) => { const s = new EventSource(base + "/api/status.json", { withCredentials: true }); s.onopen = () => { s.close(); yes(); }; s.onerror = () => { s.close(); no(); }; }),
    "frame": () => new Promise((yes, no) => { const f = document.createElement("iframe"); f.src = base + "/"; addEventListener("message", yes, { once: true }); f.onload = () => setTimeout(no, 300); document.body.append(f); }),
    "form": () => new Promise((yes, no) => { const f = document.createElement("iframe"); f.name = "to"; document.body.append(f); addEventListener("message", yes, { once: true });
      const form = Object.assign(document.createElement("form"), { method: "post", action: base + "/api/plan.json", target: "to", enctype: "text/plain" }); document.body.append(form); form.submit(); setTimeout(no, 1000); }),
    "window": async () => { const w = open(base + "/"); await new Promise((then) => setTimeout(then, 500)); try { return w.document.body.innerText || no(); } finally { w.close(); } },
  };
  for (const [what, how] of Object.entries(tries)) await limit(how()).then(() => got.push(what), () => {});
  return got;
})(%q)`

// naive is a server that any site can read: on it, the attacks are seen to work.
func naive(out http.ResponseWriter, r *http.Request) {
	h := out.Header()
	h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Allow-Headers", "Content-Type")
	switch {
	case strings.HasSuffix(r.URL.Path, ".js"):
		h.Set("Content-Type", "text/javascript")
	case strings.HasSuffix(r.URL.Path, ".css"):
		h.Set("Content-Type", "text/css")
	case r.Header.Get("Accept") == "text/event-stream":
		h.Set("Content-Type", "text/event-stream")
	case r.URL.Path == "/" || r.Method == http.MethodPost:
		h.Set("Content-Type", "text/html")
		fmt.Fprint(out, `<script>parent.postMessage("here", "*")</script>`)
	}
}

func TestAnotherSitesPageNeitherReadsNorDrivesIt(t *testing.T) {
	dump := written(t, 20)
	w := newWitness(t)
	address, _ := serve(t, "--dump", dump)
	b := start(t, w).strict()
	opened(t, b, address)
	base := "http://" + address.Host

	sites := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Type", "text/html")
		fmt.Fprint(out, "<!doctype html><title>another site</title><body>")
	}))
	t.Cleanup(sites.Close)
	open := httptest.NewServer(http.HandlerFunc(naive))
	t.Cleanup(open.Close)
	foreign, _ := url.Parse(sites.URL)
	w.leads("evil.example", foreign.Host)

	for name, site := range map[string]string{
		"of another name": "http://evil.example",
		"of another port": sites.URL, // to which the browser shows the cookie, and which is the same site to SameSite
	} {
		t.Run("a site "+name, func(t *testing.T) {
			evil := browser{t, b.tab().ctx, nil}
			evil.do(chromedp.Navigate(site + "/"))
			before := len(w.visits(func(visit) bool { return true }))
			if got := eval[[]string](evil, fmt.Sprintf(attacks, base)); len(got) > 0 {
				t.Errorf("succeeds by %q", got)
			}
			var passed []visit
			for _, v := range w.visits(func(visit) bool { return true })[before:] {
				// To go there is no more than a link does: the site that sent the browser there sees nothing of it.
				if v.Host == address.Host && v.Origin != base && v.Site != "same-origin" && v.Status < 400 && (v.Path != "/" || v.Site == "cross-site") {
					passed = append(passed, v)
				}
			}
			if len(passed) > 0 {
				t.Errorf("these were answered: %+v", passed)
			}
			if got := eval[[]string](evil, fmt.Sprintf(attacks, open.URL)); len(got) < 8 {
				t.Errorf("on a server that lets everybody in, only these succeed: %q", got)
			}
		})
	}

	t.Run("a name that comes to lead here (DNS rebinding)", func(t *testing.T) {
		for _, name := range []string{"rebound.example", "localhost"} {
			host := name + ":" + address.Port()
			w.leads(host, address.Host)
			evil := browser{t, b.tab().ctx, nil}
			evil.do(chromedp.Navigate("http://" + host + "/"))
			if text := eval[string](evil, "document.body.innerText"); !strings.Contains(text, "this is "+base) {
				t.Errorf("%s shows %q", host, text)
			}
			for _, script := range []string{
				`fetch("/api/status.json").then((r) => r.status)`,
				`fetch("/api/plan.json", { method: "POST", headers: { "Content-Type": "application/yaml" }, body: "peers: []" }).then((r) => r.status)`,
			} {
				if status := eval[int](evil, script); status != http.StatusMisdirectedRequest {
					t.Errorf("%s: %s: %d", host, script, status)
				}
			}
		}
	})

	t.Run("another browser, without the cookie", func(t *testing.T) {
		other := browser{t, b.tab(chromedp.WithNewBrowserContext()).ctx, nil}
		for url, want := range map[string]string{
			base + "/":                "Open the URL that kubectl metallb ui has printed",
			base + "/api/status.json": "Open the URL that kubectl metallb ui has printed",
			address.String():          "This URL is wrong, or was used before",
		} {
			other.do(chromedp.Navigate(url))
			if text := eval[string](other, "document.body.innerText"); !strings.Contains(text, want) {
				t.Errorf("%s shows %q", url, text)
			}
		}
	})

	t.Run("the page itself cannot be made to ask elsewhere", func(t *testing.T) {
		page := browser{t, b.tab().ctx, nil}
		page.do(chromedp.Navigate(base + "/"))
		page.until("the page to be drawn", `document.querySelectorAll(".figure").length === 6`)
		for what, script := range map[string]string{
			"a fetch":          `fetch("http://evil.example/").then(() => true, () => false)`,
			"an image":         `new Promise((then) => { const i = new Image(); i.onload = () => then(true); i.onerror = () => then(false); i.src = "http://evil.example/x.png"; })`,
			"a script":         `new Promise((then) => { const s = document.createElement("script"); s.onload = () => then(true); s.onerror = () => then(false); s.src = "http://evil.example/x.js"; document.head.append(s); })`,
			"an inline script": `(() => { const s = document.createElement("script"); s.textContent = "window.ran = true"; document.head.append(s); return !!window.ran; })()`,
			"an inline style":  `(() => { document.body.insertAdjacentHTML("beforeend", "<p style='position: fixed' id=styled>"); return getComputedStyle(styled).position === "fixed"; })()`,
			"eval":             `new Promise((then) => setTimeout(() => { try { then(new Function("return true")()); } catch { then(false); } }))`,
		} {
			before := len(w.visits(func(v visit) bool { return v.Host == "evil.example" }))
			if eval[bool](page, script) {
				t.Errorf("%s is let through", what)
			}
			if after := len(w.visits(func(v visit) bool { return v.Host == "evil.example" })); after > before {
				t.Errorf("%s has left", what)
			}
		}
	})

	// After all that, the page goes on.
	b.do(chromedp.Click(chromedp.CSS("#refresh")))
	b.shows("figures", "20\nServices")
	if all := w.visits(func(v visit) bool { return v.Host == address.Host }); !slices.ContainsFunc(all, func(v visit) bool { return v.Status == 403 }) {
		t.Errorf("nothing was refused: %+v", all)
	}
}
