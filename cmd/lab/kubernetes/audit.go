package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// auditPolicy has the API server write down every request twice: when it arrives, before anything else is done with it, and when it
// has been answered. Tests are about the second line; the first is how settle knows that none of those is still to come.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules: [{level: Metadata}]
`

// A Request is one the API server has answered. Those of clients that it does not know (401) are not recorded.
type Request struct {
	At          time.Time // when it arrived
	User        string
	Verb        string // get, list, watch, create, update, patch, delete, deletecollection
	Resource    string // such as services; empty for what is no resource, such as /readyz
	Subresource string
	Namespace   string
	Name        string
	Code        int // HTTP status
}

// Writes tells whether the request was to change something.
func (r Request) Writes() bool {
	return r.Resource != "" && !slices.Contains([]string{"get", "list", "watch"}, r.Verb)
}

func (r Request) String() string {
	what := r.Resource
	if r.Subresource != "" {
		what += "/" + r.Subresource
	}
	return fmt.Sprintf("%s: %s %s %s/%s: %d", r.User, r.Verb, what, r.Namespace, r.Name, r.Code)
}

// A Moment is a point between two requests. The zero Moment is before all of them.
type Moment int

// Now is the moment after every request that has been answered by now.
func (c *Cluster) Now(ctx context.Context) (Moment, error) {
	requests, err := c.audit.settled(ctx)
	return Moment(len(requests)), err
}

// Requests are those answered since a moment for which filter (nil: any) is true, in the order of the answers. Every request whose
// answer a client has seen is among them: Requests waits for the API server to write it down. A watch is there when it has ended.
func (c *Cluster) Requests(ctx context.Context, since Moment, filter func(Request) bool) ([]Request, error) {
	requests, err := c.audit.settled(ctx)
	if err != nil {
		return nil, err
	}
	var chosen []Request
	for _, request := range requests[min(int(since), len(requests)):] {
		if filter == nil || filter(request) {
			chosen = append(chosen, request)
		}
	}
	return chosen, nil
}

// An auditLog reads what the API server writes, each line once.
type auditLog struct {
	path string

	mu       sync.Mutex
	read     int64             // bytes
	answered []Request         // only ever appended to
	open     map[string]string // requests without an answer by audit ID, except those that may go on for hours
}

// auditLine is what we need of audit.k8s.io/v1 Event.
type auditLine struct {
	AuditID                  string
	Stage                    string
	Verb                     string
	RequestURI               string
	RequestReceivedTimestamp time.Time
	User                     struct{ Username string }
	ObjectRef                struct{ Resource, Subresource, Namespace, Name string }
	ResponseStatus           struct{ Code int }
}

// lasts tells whether the request may go on for as long as its client likes.
func (l auditLine) lasts() bool {
	return l.Verb == "watch" || slices.Contains([]string{"attach", "exec", "log", "portforward", "proxy"}, l.ObjectRef.Subresource)
}

// settled waits until every request that has arrived by now is answered and written down. In blocking mode the API server writes
// the line of an answer while it sends it, so a client may well see the answer first; but it writes the line of the arrival before it
// does anything else.
func (l *auditLog) settled(ctx context.Context) ([]Request, error) {
	waiting, err := l.arrived()
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		open, err := l.arrived()
		if err != nil {
			return nil, err
		}
		for id := range waiting {
			if _, still := open[id]; !still {
				delete(waiting, id)
			}
		}
		if len(waiting) == 0 {
			l.mu.Lock()
			defer l.mu.Unlock()
			return slices.Clip(l.answered), nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("the API server has not answered all requests: %w: %v", context.Cause(ctx), waiting)
		}
	}
}

// arrived reads what is new in the log and returns a copy of the requests without an answer.
func (l *auditLog) arrived() (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the first request creates it
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(l.read, io.SeekStart); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	for {
		end := bytes.IndexByte(text, '\n')
		if end < 0 { // half a line, at most: next time
			break
		}
		var line auditLine
		if err := json.Unmarshal(text[:end], &line); err != nil {
			return nil, fmt.Errorf("audit log: %w in %s", err, text[:end])
		}
		l.add(line)
		text, l.read = text[end+1:], l.read+int64(end)+1
	}
	open := make(map[string]string, len(l.open))
	for id, request := range l.open {
		open[id] = request
	}
	return open, nil
}

func (l *auditLog) add(line auditLine) {
	switch line.Stage {
	case "RequestReceived":
		if !line.lasts() {
			l.open[line.AuditID] = line.User.Username + ": " + line.Verb + " " + line.RequestURI
		}
	case "ResponseComplete", "Panic":
		delete(l.open, line.AuditID)
		l.answered = append(l.answered, Request{
			At:          line.RequestReceivedTimestamp,
			User:        line.User.Username,
			Verb:        line.Verb,
			Resource:    line.ObjectRef.Resource,
			Subresource: line.ObjectRef.Subresource,
			Namespace:   line.ObjectRef.Namespace,
			Name:        line.ObjectRef.Name,
			Code:        line.ResponseStatus.Code,
		})
	}
}

// forget ends the wait for requests that a stopped API server left without an answer.
func (l *auditLog) forget() error {
	_, err := l.arrived()
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.open)
	return err
}
