package ui

import (
	"crypto/rand"
	"crypto/subtle"
	"net"
	"net/http"
	"sync"
)

// A guard lets one browser through, and of its requests those only that the page itself makes.
type guard struct {
	host    string // with its port, as it must stand in every request
	cookie  string // its name has the port: browsers show one cookie to all ports of a host
	session string
	next    http.Handler

	mu    sync.Mutex
	token string // empty: it was exchanged
}

func newGuard(host, token string, next http.Handler) *guard {
	_, port, _ := net.SplitHostPort(host)
	return &guard{host: host, cookie: "metallb-" + port, session: rand.Text(), token: token, next: next}
}

// hardening is on every answer. The page has no inline script and no inline style, and loads nothing from elsewhere.
var hardening = map[string]string{
	"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Cache-Control":                "no-store",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range hardening {
		w.Header().Set(name, value)
	}
	own := "http://" + g.host
	site, entry := r.Header.Get("Sec-Fetch-Site"), r.URL.Path == "/"
	switch {
	case r.Host != g.host: // another name that leads here, as DNS rebinding has
		http.Error(w, "this is "+own, http.StatusMisdirectedRequest)
	case len(r.Header.Values("Origin")) > 0 && r.Header.Get("Origin") != own, r.Method == http.MethodPost && r.Header.Get("Origin") != own:
		http.Error(w, "only the page itself may ask", http.StatusForbidden)
	case !entry && site != "" && site != "same-origin" && site != "none": // also another port's page, to which SameSite is no obstacle
		http.Error(w, "only the page itself may ask", http.StatusForbidden)
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "this is read-only", http.StatusMethodNotAllowed)
	case entry && r.Method == http.MethodGet && r.URL.Query().Has("token"):
		g.exchange(w, r)
	case !g.knows(r):
		http.Error(w, "Open the URL that kubectl metallb ui has printed, in one browser. If you have just done so from another page, go to the address bar and press Enter.", http.StatusUnauthorized)
	default:
		g.next.ServeHTTP(w, r)
	}
}

// exchange takes the token, once, and gives the cookie for it.
func (g *guard) exchange(w http.ResponseWriter, r *http.Request) {
	if !g.knows(r) { // else the browser has come back to the URL that it had at first
		g.mu.Lock()
		good := g.token != "" && same(r.URL.Query().Get("token"), g.token)
		if good {
			g.token = ""
		}
		g.mu.Unlock()
		if !good {
			http.Error(w, "This URL is wrong, or was used before: end kubectl metallb ui, and start it again.", http.StatusForbidden)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: g.cookie, Value: g.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (g *guard) knows(r *http.Request) bool {
	cookie, err := r.Cookie(g.cookie)
	return err == nil && same(cookie.Value, g.session)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
