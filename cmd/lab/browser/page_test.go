//go:build browser

package browser

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// helpers are what the tests ask the page, in its own world.
const helpers = `
window.nameOf = (e) => (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || e.id).trim().replace(/\s+/g, " ").slice(0, 70);
window.focused = () => {
  const e = document.activeElement;
  const around = e.closest(".editor") || e, style = getComputedStyle(around), box = around.getBoundingClientRect();
  const at = document.elementFromPoint(box.left + Math.min(box.width / 2, 40), box.top + Math.min(box.height / 2, 40));
  return { name: e === document.body ? "" : nameOf(e), ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, seen: !!at && (around.contains(at) || at.contains(around)) };
};
// faint are the texts with a contrast below 4.5 (WCAG 2.1, 1.4.3).
window.faint = () => {
  const parse = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
  const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
  const all = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let looked = 0;
  const look = (e, colour, text) => {
    looked++;
    const a = light(parse(colour)), b = light(behind(e)), contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) all.push(text.trim().slice(0, 40) + " " + contrast.toFixed(2));
  };
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, box = e.getBoundingClientRect();
    if (walk.currentNode.textContent.trim() && box.width > 0 && box.height > 0) look(e, getComputedStyle(e).color, walk.currentNode.textContent);
  }
  for (const e of document.querySelectorAll("[placeholder]")) look(e, getComputedStyle(e, "::placeholder").color, e.placeholder);
  return { looked, all };
};
true`

// chromiumsOwn are those that Chromium asks for versions and accounts, whatever page is open.
var chromiumsOwn = regexp.MustCompile(`\.(google|googleapis|gstatic)\.com(:443)?$`)

// A focus is where the keyboard is.
type focus struct {
	Name       string
	Ring, Seen bool
}

// tabTo presses Tab until a name has the focus. On the way, whatever has the focus must be seen to have it.
func (b browser) tabTo(name string) (way []string) {
	b.t.Helper()
	for range 80 {
		b.press(kb.Tab)
		f := eval[focus](b, "focused()")
		if f.Name == "" {
			continue // the browser's own
		}
		way = append(way, f.Name)
		if !f.Ring || !f.Seen {
			b.t.Errorf("%q has the focus, and nobody sees it: %+v", f.Name, f)
		}
		if strings.HasPrefix(f.Name, name) {
			return way
		}
	}
	b.t.Fatalf("Tab does not lead to %q but to %q", name, way)
	return nil
}

func opened(t testing.TB, b browser, address *url.URL) {
	t.Helper()
	b.do(chromedp.Navigate(address.String()))
	b.until("the page to be drawn", `document.querySelectorAll(".figure").length === 6`)
	if at := eval[string](b, "location.href"); strings.Contains(at, "token") {
		t.Errorf("the token stays in the address: %s", at)
	}
	eval[bool](b, helpers)
}

func TestThePageInABrowser(t *testing.T) {
	h := newHall(t)
	w := newWitness(t)
	address, end := serve(t, "--kubeconfig", h.Kubeconfig, "--direct")
	b := start(t, w).strict()
	b.size(1200, 820)
	b.scheme("light")
	opened(t, b, address)
	in := func(what string) func(t *testing.T, do func(b browser)) {
		return func(t *testing.T, do func(browser)) {
			t.Run(what, func(t *testing.T) { do(browser{t, b.ctx, b.requests}) })
		}
	}

	in("every part shows what is")(t, func(b browser) {
		b.shows("figures", "9 of 10\nsessions up")
		for id, texts := range map[string][]string{
			"where":   {"lab"},
			"force":   {"✓ in force", "leader "},
			"figures": {"✗", "5 of 5\nnodes can announce, 1 drained", "4\nServices", "✗ 1\nwaits for an address", "✗ 1\naddress unannounced"},
			"problems": {"node node-2: leaf-b (127.0.0.2) is ", "Service shop/late waits for an address: no pool owns address 10.1.2.3",
				"of Service shop/lonely: no endpoint of the Service can serve"},
			"grid":    {"leaf-a\nAS 100", "node-2", "▽ drained", "✗ Idle"},
			"pools":   {"IPv4: 3 of 4 used", "1 free", "by request only", "IPv6: 0 of 2^64 used"},
			"waiting": {"Services that wait: 1", "shop/late"},
		} {
			for _, text := range texts {
				b.shows(id, text)
			}
		}
		if n := eval[int](b, `document.querySelectorAll("#grid .cell").length`); n != 10 {
			b.t.Errorf("%d cells", n)
		}
	})

	in("a click opens what is behind it")(t, func(b browser) {
		for _, step := range []struct{ click, id, shows string }{
			{`[data-key="node-2 leaf-b"]`, "dialog", "✗ problem"},
			{`#close`, "", ""},
			{`[data-key="node-4 leaf-a"]`, "dialog", "▽ drained"},
			{`#close`, "", ""},
			{`[data-key="internal"]`, "dialog", "Nobody holds an address."},
			{`#close`, "", ""},
			{`[data-key="public"]`, "dialog", "Holders: 3"},
			{`#body .link`, "why", "✓ announced (sent)"},
			{`#waiting .link`, "why", "✗ not announced (intended)"},
			{`#problems li:last-child .link`, "why", "shop/lonely"},
			{`[data-key="only"]`, "grid", "2 of 5 shown"},
			{`[data-key="only"]`, "grid", "5 of 5 shown"},
		} {
			b.do(chromedp.Click(chromedp.CSS(step.click)))
			if step.id == "" {
				b.until("the dialog to close", `!document.getElementById("dialog").open`)
			} else {
				b.shows(step.id, step.shows)
			}
		}
		b.do(chromedp.NavigateBack())
		b.shows("why", "shop/late")
		b.do(chromedp.Reload())
		b.shows("why", "no pool owns address 10.1.2.3")
		eval[bool](b, helpers)
	})

	in("the keyboard alone is enough")(t, func(b browser) {
		b.press("/")
		if f := eval[focus](b, "focused()"); !strings.HasPrefix(f.Name, "Service, address or prefix") {
			b.t.Errorf("/ leads to %+v", f)
		}
		b.press(kb.Escape)
		b.until("the answer to go", `document.getElementById("why").childElementCount === 0 && location.hash === ""`)
		b.do(chromedp.KeyEvent("shop/"))
		b.press(kb.Enter)
		b.shows("why", "Services for shop/: 4")
		b.tabTo("Services for shop/: 4")
		b.press(kb.ArrowDown, kb.End, kb.Home, kb.Enter) // checkout, the first
		b.shows("why", "✓ announced (sent)")
		b.tabTo("node-1")
		b.press(kb.Enter)
		b.shows("dialog", "shop/checkout on node-1")
		b.press(kb.Escape)
		b.until("the dialog to close", `!document.getElementById("dialog").open`)
		if f := eval[focus](b, "focused()"); f.Name != "node-1" {
			b.t.Errorf("after Escape the focus is at %+v", f)
		}
		way := b.tabTo("node-2 and leaf-b")
		for _, passed := range []string{"node-5", "Copy", "why shop/late", "Only those in trouble: 2", "node-1 and leaf-a"} {
			if !slices.ContainsFunc(way, func(name string) bool { return strings.HasPrefix(name, passed) }) {
				b.t.Errorf("Tab does not pass %q but %q", passed, way)
			}
		}
		b.press(kb.Enter)
		b.shows("dialog", "last reason")
		b.press(kb.Escape)
		b.tabTo("public")
		b.press(kb.Enter)
		b.shows("dialog", "Holders: 3")
		b.press(kb.Escape)
		b.tabTo("The text, a ConfigMap")
		b.do(chromedp.KeyEvent("peers: 7")) // Tab leads on, and writes nothing
		b.tabTo("Plan")
		b.press(kb.Enter)
		b.shows("verdict", "✗ would be refused")
		b.tabTo("line 1")
		b.press(kb.Enter)
		if got := eval[string](b, `getSelection().toString()`); got != "peers: 7" {
			b.t.Errorf("the mistake leads to %q", got)
		}
		eval[bool](b, `document.getElementById("text").value = "", true`)
		b.do(chromedp.KeyEvent(strings.Replace(h.config, "198.51.100.0/30", "198.51.100.2/31", 1)))
		b.do(chromedp.KeyEvent(kb.Enter, chromedp.KeyModifiers(kb.ModifierCtrl)))
		b.shows("verdict", "metallb.universe.tf/renumber=")
		b.shows("verdict", "→ 2 Services move")
		// The way back from the last element is as well seen as the way there.
		for range 40 {
			b.do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(kb.ModifierShift)))
			if f := eval[focus](b, "focused()"); f.Name != "" && (!f.Ring || !f.Seen) {
				b.t.Errorf("on the way back, %q has the focus, and nobody sees it: %+v", f.Name, f)
			}
		}
	})

	in("each command runs as it is copied")(t, func(b browser) {
		eval[bool](b, `navigator.clipboard.writeText = async (text) => { (window.copied ||= []).push(text); }, true`)
		eval[bool](b, `document.querySelectorAll(".command button").forEach((button) => button.click()), true`)
		commands := eval[[]string](b, `window.copied`)
		slices.Sort(commands)
		commands = slices.Compact(commands)
		ran := 0
		for _, command := range commands {
			if !strings.HasPrefix(command, "kubectl ") {
				continue // the annotation
			}
			ran++
			if out, code := h.run(b.t.(*testing.T), command, h.config); code > 2 {
				b.t.Errorf("%s: exit %d\n%s", command, code, out)
			}
		}
		if ran < 4 {
			b.t.Errorf("only %q", commands)
		}
	})

	in("it can be read in light and dark")(t, func(b browser) {
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, open := range []string{"true", `document.querySelector('[data-key="node-2 leaf-b"]').click(), true`} {
				eval[bool](b, open)
				f := eval[struct {
					Looked int
					All    []string
				}](b, "faint()")
				if len(f.All) > 0 || f.Looked < 100 {
					b.t.Errorf("%s: of %d texts these are faint: %q", scheme, f.Looked, f.All)
				}
			}
			eval[bool](b, `document.getElementById("dialog").close(), true`)
		}
		if eval[bool](b, `document.documentElement.style.cssText = "--quiet: #666", faint().all.length === 0`) {
			b.t.Error("a faint colour is not found")
		}
		eval[bool](b, `document.documentElement.removeAttribute("style"), true`)
	})

	in("whoever does not see it has a name for everything")(t, func(b browser) {
		tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
		must(b.t, err)
		looked := 0
		for _, node := range tree.Nodes {
			if node.Ignored || node.Role == nil {
				continue
			}
			role := string(node.Role.Value)
			if slices.Contains([]string{`"button"`, `"textbox"`, `"searchbox"`, `"listbox"`, `"option"`, `"image"`, `"dialog"`, `"region"`}, role) {
				looked++
				if node.Name == nil || len(node.Name.Value) <= len(`""`) {
					b.t.Errorf("a %s without a name: %+v", role, node)
				}
			}
		}
		if looked < 40 {
			b.t.Errorf("only %d", looked)
		}
	})

	in("390 pixels are enough")(t, func(b browser) {
		b.scheme("dark")
		b.size(390, 844)
		// Nothing is wider than the screen but what scrolls in itself.
		wide := eval[[]string](b, `[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".wide, .editor, .skip")).map((e) => e.outerHTML.slice(0, 80))`)
		if scroll := eval[int](b, "document.documentElement.scrollWidth"); scroll > 390 || len(wide) > 0 {
			b.t.Errorf("%d pixels: %q", scroll, wide)
		}
		small := eval[[]string](b, `[...document.querySelectorAll("button, input")].filter((e) => e.getBoundingClientRect().height < 24 && e.getBoundingClientRect().height > 0).map(nameOf)`)
		if len(small) > 0 {
			b.t.Errorf("too small for a finger: %q", small)
		}
		for _, id := range []string{"q", "grid", "pools", "text", "verdict"} {
			if !eval[bool](b, fmt.Sprintf(`{ const e = document.getElementById(%q); e.scrollIntoView(); const box = e.getBoundingClientRect(); box.width > 250 && box.left >= 0 && box.right <= 390; }`, id)) {
				b.t.Errorf("#%s is not on the screen", id)
			}
		}
		eval[bool](b, `location.hash = "#why=shop/checkout", true`)
		b.shows("why", "✓ announced (sent)")
		eval[bool](b, `scrollTo(0, 0), document.activeElement.blur(), true`)
		b.picture("ui-narrow.png")
		b.size(1200, 820)
		b.scheme("light")
	})

	in("an answer follows what happens")(t, func(b browser) {
		eval[bool](b, `location.hash = "#why=shop/lonely", true`)
		b.shows("why", "✗ not announced")
		must(b.t, h.RunPod(b.ctx, "shop", "lonely", map[string]string{"app": "lonely"}, h.Nodes[0]))
		b.shows("why", "✓ announced (sent)")
	})

	in("it refreshes itself, and tells of a refused text where the mistakes are")(t, func(b browser) {
		h.write(b.t.(*testing.T), strings.Replace(h.config, "198.51.100.0/30", "198.51.100.0/33", 1)+"speed: 9\n")
		b.shows("refused", "line 5: address-pools[0].cidr[0]")
		b.shows("refused", "line 8: speed")
		b.shows("force", "✗ your text is refused")
		b.press("/", kb.Escape)
		b.size(1200, 850)
		eval[bool](b, `scrollTo(0, 0), document.activeElement.blur(), true`)
		b.picture("ui.png")
		h.write(b.t.(*testing.T), h.config)
		b.until("the strip to go", `document.getElementById("refused").hidden`)
	})

	in("long reads show how long they take")(t, func(b browser) {
		release := make(chan struct{})
		w.hold("/api/status.json", release)
		eval[bool](b, `document.getElementById("refresh").click(), true`)
		b.until("progress to be shown", `!document.getElementById("progress").hidden && /Reading the cluster: \d+ s/.test(document.getElementById("progress").innerText)`)
		close(release)
		b.until("progress to end", `document.getElementById("progress").hidden`)
	})

	in("it says when nobody answers any more")(t, func(b browser) {
		end()
		b.shows("trouble", "kubectl metallb ui does not answer: was it ended?")
		b.shows("grid", "node-5") // what was known stays
	})

	in("nothing was asked of another machine, or of anything else here")(t, func(b browser) {
		for _, asked := range b.asked() {
			if u, err := url.Parse(asked); err != nil || u.Host != address.Host && u.Scheme != "data" {
				b.t.Errorf("the page asked for %s", asked)
			}
		}
		for _, v := range w.visits(func(v visit) bool { return v.Host != address.Host }) {
			if !chromiumsOwn.MatchString(v.Host) {
				b.t.Errorf("%+v", v)
			}
		}
		if asked, seen := len(b.asked()), len(w.visits(func(v visit) bool { return v.Host == address.Host })); asked < 10 || seen < 10 {
			b.t.Errorf("the page asked for %d, and the witness saw %d", asked, seen)
		}
		// The browser would ask if a page wanted it to.
		other := b.tab()
		other.do(chromedp.Navigate("about:blank"))
		eval[bool](other, `fetch("http://elsewhere.example/").catch(() => {}).then(() => true)`)
		if len(w.visits(func(v visit) bool { return v.Host == "elsewhere.example" })) == 0 {
			b.t.Error("the witness sees nothing of other machines")
		}
	})
}
