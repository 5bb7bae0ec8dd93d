// Podserver is what runs in the pods that a kubelet starts. It answers HTTP as the pods do that the lab runs itself: in one line its
// pod's name, its node's (POD and NODE in its environment), and the address that it sees the client at. Called as `podserver wait`, it
// only waits: that keeps a pod's network namespace, as Kubernetes' pause image does.
package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first process of a container gets no signal that it does not ask for.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "podserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%q: say wait, or an address to serve at", args)
	}
	if args[0] == "wait" {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{Addr: args[0], Handler: http.HandlerFunc(answer)}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Shutdown(context.Background()) // kubelet sees to it that this ends with the grace period
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	host, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%s %s %s\n", cmp.Or(os.Getenv("POD"), host), cmp.Or(os.Getenv("NODE"), "unknown"), client.Addr().Unmap())
}
