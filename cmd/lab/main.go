// Command lab runs this project on one machine against a real Kubernetes control plane and a router.
//
//	lab demo         tells the usage page's story, and leaves nothing behind
//	lab up           brings the same cluster up and keeps it, for looking around
//	lab datacentre   brings up routers, nodes, pods and a client in network namespaces and keeps them; needs root
//	lab build DIR    compiles all that the lab's tests need: Kubernetes into the cache, and the rest into a folder; with a third word,
//	                 control-plane, that alone. The variable LAB_KUBERNETES names another version than go.mod has
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/datacentre"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/loopback"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

func main() {
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	// Whoever presses Ctrl-C has seen enough: that is no error, unless something is left behind.
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "demo":
		return within(ctx, out, demo)
	case len(args) == 1 && args[0] == "up":
		return within(ctx, out, up)
	case len(args) == 1 && args[0] == "datacentre":
		return hall(ctx, out)
	case len(args) == 2 && args[0] == "build":
		return datacentre.Make(ctx, args[1], out)
	case len(args) == 3 && args[0] == "build" && args[2] == "control-plane":
		_, err := kubernetes.Build(ctx, out, kubernetes.ControlPlane...)
		return err
	case len(args) == 2 && args[0] == "floor":
		return loopback.Floor(ctx, args[1])
	}
	return fmt.Errorf("say what to do: lab demo, lab up, lab datacentre, lab build DIR, or lab floor KUBECONFIG")
}

// within brings up a lab in which everything runs, and ends it.
func within(ctx context.Context, out io.Writer, what func(context.Context, *loopback.Lab, io.Writer) error) (err error) {
	fmt.Fprintln(out, "Starting a Kubernetes control plane, three nodes and a router. The first time, Kubernetes is compiled: that takes minutes.")
	lab, err := loopback.Start(ctx, loopback.Options{Progress: out})
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer func() { err = errors.Join(unlessEnded(ctx, err), lab.Stop()) }()
	if err := lab.StartAll(ctx); err != nil {
		return err
	}
	return what(ctx, lab, out)
}

// unlessEnded leaves out what failed only because a signal ended ctx.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func demo(ctx context.Context, lab *loopback.Lab, out io.Writer) error {
	teller := loopback.NewTeller(ctx, lab, out)
	for _, step := range loopback.Story {
		if err := teller.Tell(step); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "\nThat is all. \"make lab\" keeps such a cluster up for you to try things.")
	return nil
}

func up(ctx context.Context, lab *loopback.Lab, out io.Writer) error {
	if err := loopback.NewTeller(ctx, lab, out).Tell(loopback.Story[0]); err != nil {
		return err
	}
	fmt.Fprintf(out, `
The cluster is up until you press Ctrl-C. In another terminal:

  export KUBECONFIG=%s
  alias kubectl=%s
  kubectl get nodes
  ls %s            # the logs of every process

No pods run here: create Pod objects with a nodeName, and patch their status.
Press Enter to see the router's table.
`, kubernetes.Quoted(lab.Kubeconfig), kubernetes.Quoted(kubernetes.Quoted(lab.Binaries.Path(kubernetes.Kubectl))), kubernetes.Quoted(lab.Dir))
	enter := make(chan struct{})
	go listen(os.Stdin, enter)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-enter:
			if err := lab.Router.Print(out); err != nil {
				return err
			}
		}
	}
}

// hall brings up a datacentre, shows that it works, and keeps it until ctx ends.
func hall(ctx context.Context, out io.Writer) (err error) {
	if err := network.Missing(); err != nil {
		return err
	}
	fmt.Fprintln(out, "Starting a Kubernetes control plane, a client, two routers and three nodes.",
		"The first time, Kubernetes is compiled: that takes minutes.")
	h, err := datacentre.StartHall(ctx, out)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer func() { err = errors.Join(unlessEnded(ctx, err), h.Stop()) }()
	web, err := datacentre.Show(ctx, h, out)
	if err != nil {
		return err
	}
	fmt.Fprint(out, "\nIt is all up until you press Ctrl-C. In another terminal:\n\n")
	for _, hint := range h.Hints(web) {
		if hint.What != "" {
			fmt.Fprintf(out, "  # %s\n", hint.What)
		}
		fmt.Fprintf(out, "  %s\n", hint.Command)
	}
	<-ctx.Done()
	return nil
}

// listen tells of every line, until there are no more.
func listen(in io.Reader, enter chan<- struct{}) {
	buffer := make([]byte, 1)
	for {
		n, err := in.Read(buffer)
		if err != nil {
			return
		}
		if n == 1 && buffer[0] == '\n' {
			enter <- struct{}{}
		}
	}
}
