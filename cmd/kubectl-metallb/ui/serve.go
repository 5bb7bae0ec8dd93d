package ui

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

// A Cluster is what the page is about.
type Cluster struct {
	// Name is what its user calls it.
	Name string
	// Read takes a snapshot, of all kinds.
	Read func(context.Context) (*inspect.Snapshot, error)
	// Remarks say why what is intended may be something else.
	Remarks func(*inspect.View) []string
	// Flags choose the same cluster in the commands that are shown, and Asks are those by which some of them ask the speakers, too.
	Flags, Asks []string
}

const (
	// largestHeader, headerWithin and bodyWithin end requests that no browser makes.
	largestHeader = 16 << 10
	headerWithin  = 5 * time.Second
	bodyWithin    = 30 * time.Second
	// grace is how long answers may take that are under way at the end.
	grace = 3 * time.Second
)

// Serve prints where the page is, and serves it until the context ends.
func Serve(ctx context.Context, out, trouble io.Writer, c Cluster) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	token := rand.Text()
	g := newGlass(ctx, c)
	server := &http.Server{
		Handler:           newGuard(listener.Addr().String(), token, g.handler()),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerWithin,
		ReadTimeout:       bodyWithin,
		MaxHeaderBytes:    largestHeader,
		ErrorLog:          log.New(trouble, "kubectl metallb: ", 0),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	_, err = fmt.Fprintf(out, "http://%s/?token=%s\nOpen this in a browser on this machine. It is good once. Ctrl-C ends it.\n", listener.Addr(), token)
	if err == nil {
		select {
		case err = <-ended:
			ended <- nil
		case <-ctx.Done():
		}
	}
	cancel() // requests and the read under way
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer stop()
	if server.Shutdown(last) != nil {
		err = errors.Join(err, server.Close())
	}
	<-ended // it says that the server was closed
	g.wait(last)
	return err
}
