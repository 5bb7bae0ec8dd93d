package ui

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

//go:embed page
var page embed.FS

// types are those of the page's files: what the system thinks of their names may be anything.
var types = map[string]string{".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

const (
	// fresh is how long what was read is good for: so long, or so many times as long as reading and computing took, so that a large
	// cluster does not keep the API server and this machine busy.
	fresh = 3 * time.Second
	rests = 3
	// largestText is how much of a configuration is taken: the largest that can be admitted, and a ConfigMap around it.
	largestText = 1 << 20
	// longestQuery is longer than any name of a Service.
	longestQuery = 400
)

// A glass answers the page's questions.
type glass struct {
	ctx     context.Context
	cluster Cluster

	mu   sync.Mutex
	last *look
}

func newGlass(ctx context.Context, c Cluster) *glass { return &glass{ctx: ctx, cluster: c} }

// A look is one read of the cluster, which all share that ask while it is good.
type look struct {
	done chan struct{} // closed when the rest is set
	view *inspect.View
	err  error
	read time.Time // when it was

	mu    sync.Mutex
	spent time.Duration // on reading and computing

	// computing has one place: a view answers one question at a time, and an answer without arguments once.
	computing chan struct{}
	answers   map[string]json.RawMessage
}

// look returns what was read a moment ago, what is being read, or what it reads.
func (g *glass) look(ctx context.Context) (*look, error) {
	g.mu.Lock()
	l := g.last
	if l == nil || l.stale() {
		if err := g.ctx.Err(); err != nil {
			g.mu.Unlock()
			return nil, err
		}
		l = &look{done: make(chan struct{}), computing: make(chan struct{}, 1), answers: map[string]json.RawMessage{}}
		g.last = l
		go l.take(g.ctx, g.cluster) // for all: that one of them goes away does not end it
	}
	g.mu.Unlock()
	select {
	case <-l.done:
		return l, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *look) stale() bool {
	select {
	case <-l.done:
		l.mu.Lock()
		defer l.mu.Unlock()
		return time.Since(l.read) >= max(fresh, rests*l.spent)
	default:
		return false
	}
}

// since adds the time from then on to what was spent.
func (l *look) since(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spent += time.Since(began)
}

func (l *look) take(ctx context.Context, c Cluster) {
	defer close(l.done)
	began := time.Now()
	s, err := c.Read(ctx)
	if l.err = err; err == nil {
		l.view = inspect.Look(s)
	}
	l.since(began)
	l.read = time.Now()
}

// wait returns when nothing reads any more, or the context ends. The glass's own has ended before.
func (g *glass) wait(ctx context.Context) {
	g.mu.Lock()
	l := g.last
	g.mu.Unlock()
	if l == nil {
		return
	}
	select {
	case <-l.done:
	case <-ctx.Done(): // what helps kubectl to log in may wait for somebody
	}
}

// An answer is the value that a command prints, and what belongs to it.
type answer struct {
	// Command prints the same: the value itself with -o json.
	Command string    `json:"command,omitempty"`
	Cluster string    `json:"cluster,omitempty"`
	Taken   time.Time `json:"taken"`
	Remarks []string  `json:"remarks,omitempty"`
	// Found are the Services that a search has found. There is an answer if it is one.
	Found  []string        `json:"found,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// refusal is an error in words, and the status that it is answered with.
type refusal struct {
	status int
	error
}

// ask answers a question: with a value, the command that prints it, and perhaps what a search has found.
type ask func(v *inspect.View, r *http.Request) (value any, command, found []string, err error)

func (g *glass) handler() http.Handler {
	mux := http.NewServeMux()
	files, err := page.ReadDir("page")
	if err != nil {
		panic(err) // it was embedded
	}
	for _, file := range files {
		content, err := page.ReadFile("page/" + file.Name())
		if err != nil {
			panic(err) // it was embedded
		}
		path := "/" + file.Name()
		if path == "/index.html" {
			path = "/{$}"
		}
		kind := types[file.Name()[strings.LastIndex(file.Name(), "."):]]
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write(content) // the browser may have gone
		})
	}
	mux.HandleFunc("GET /api/status.json", g.answers(true, func(v *inspect.View, _ *http.Request) (any, []string, []string, error) {
		return v.Status(), slices.Concat([]string{"status"}, g.cluster.Asks), nil, nil
	}))
	mux.HandleFunc("GET /api/nodes.json", g.answers(true, func(v *inspect.View, _ *http.Request) (any, []string, []string, error) {
		return v.Peers(), slices.Concat([]string{"peers"}, g.cluster.Asks), nil, nil
	}))
	mux.HandleFunc("GET /api/pools.json", g.answers(true, func(v *inspect.View, _ *http.Request) (any, []string, []string, error) {
		pools, err := v.Pools("")
		return pools, []string{"pools"}, nil, err
	}))
	mux.HandleFunc("GET /api/pool.json", g.answers(false, func(v *inspect.View, r *http.Request) (any, []string, []string, error) {
		name, err := query(r, "name")
		if err != nil {
			return nil, nil, nil, err
		}
		pool, err := v.Pools(name)
		return pool, []string{"pools", name}, nil, err
	}))
	mux.HandleFunc("GET /api/why.json", g.answers(false, func(v *inspect.View, r *http.Request) (any, []string, []string, error) {
		text, err := query(r, "q")
		if err != nil {
			return nil, nil, nil, err
		}
		found, err := v.Search(text)
		if err != nil || len(found) > 1 {
			return nil, nil, found, err
		}
		namespace, name, _ := strings.Cut(found[0], "/")
		why, err := v.Why(namespace, name, "")
		return why, slices.Concat([]string{"why", found[0]}, g.cluster.Asks), found, err
	}))
	mux.HandleFunc("POST /api/plan.json", g.plan)
	return mux
}

// plan answers what a text would do. The text is read before the cluster is.
func (g *glass) plan(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != "application/yaml" { // no form of another page can send that
		refuse(w, refusal{http.StatusUnsupportedMediaType, errors.New("send the text as application/yaml")})
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestText))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, refusal{http.StatusRequestEntityTooLarge, errors.New("the text is larger than any configuration may be")})
		return
	case err != nil:
		refuse(w, refusal{http.StatusBadRequest, err})
		return
	}
	g.answers(false, func(v *inspect.View, _ *http.Request) (any, []string, []string, error) {
		text, err := inspect.Find(content, v.ConfigName)
		if err != nil {
			return nil, nil, nil, refusal{http.StatusBadRequest, err}
		}
		return v.PlanOf(text), []string{"plan", "-"}, nil, nil
	})(w, r)
}

// query returns an argument, which must be there and may not be longer than any name.
func query(r *http.Request, name string) (string, error) {
	text := strings.TrimSpace(r.URL.Query().Get(name))
	if text == "" || len(text) > longestQuery {
		return "", refusal{http.StatusBadRequest, errors.New("name something, in at most a line")}
	}
	return text, nil
}

// answers makes a handler of a question. What always has the same answer is computed once for each look.
func (g *glass) answers(once bool, ask ask) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		l, err := g.look(r.Context())
		if err != nil {
			refuse(w, refusal{http.StatusBadGateway, err})
			return
		}
		text, err := l.answer(r, once, ask, g.cluster)
		if err != nil {
			refuse(w, err)
			return
		}
		write(w, http.StatusOK, text)
	}
}

func (l *look) answer(r *http.Request, once bool, ask ask, c Cluster) (json.RawMessage, error) {
	select {
	case l.computing <- struct{}{}:
		defer func() { <-l.computing }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if text, ok := l.answers[r.URL.Path]; once && ok {
		return text, nil
	}
	defer l.since(time.Now())
	value, command, found, err := ask(l.view, r)
	if err != nil {
		return nil, err
	}
	a := answer{Cluster: c.Name, Taken: l.view.Taken, Remarks: c.Remarks(l.view), Found: found}
	if value != nil {
		a.Command = commandLine(command, c.Flags)
		if a.Answer, err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(a)
	if once && err == nil {
		l.answers[r.URL.Path] = text
	}
	return text, err
}

// refuse answers with an error in words.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var is refusal
	var unknown inspect.NoSuch
	switch {
	case errors.As(err, &is):
		status = is.status
	case errors.As(err, &unknown):
		status = http.StatusNotFound
	}
	text, err := json.Marshal(map[string]string{"error": err.Error()})
	if err != nil {
		panic(err) // it is a string
	}
	write(w, status, text)
}

func write(w http.ResponseWriter, status int, text json.RawMessage) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.Copy(w, bytes.NewReader(text)) // the browser may have gone
}

// commandLine writes a command as a shell takes it, whatever the names in it are.
func commandLine(command, flags []string) string {
	words := []string{"kubectl", "metallb"}
	for _, word := range slices.Concat(command, flags) {
		if !harmless.MatchString(word) {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

var harmless = regexp.MustCompile(`^[A-Za-z0-9._/:=@%+-]+$`)
