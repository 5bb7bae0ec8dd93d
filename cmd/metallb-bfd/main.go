// Command metallb-bfd answers the routers of the node it runs on by BFD, and watches them. It is a process of its own, so that a
// restart of the speaker is not the death of the node.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/internal/agent"
	"github.com/metallb/cloud-provider-metallb/internal/watch"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd/seam"
	"github.com/metallb/cloud-provider-metallb/speaker/gateway"
)

// lastWords bounds how long routers get to hear that we stop: kubelet's own bound is 30 s.
const lastWords = 10 * time.Second

type flags struct {
	kubeconfig, node, namespace, config string
	agent.Serving
}

func main() { os.Exit(cli.Run(newCommand())) }

func newCommand() *cobra.Command {
	f := flags{Serving: agent.Serving{Host: "metallb-bfd", Port: 7475}, node: os.Getenv("NODE_NAME"), namespace: "metallb-system", config: "config"}
	logging := logs.NewOptions()
	command := &cobra.Command{
		Use:           "metallb-bfd",
		Short:         "Answers routers by BFD, and watches them, so that they and this node hear of each other's death in under a second.",
		Version:       version.Get().GitVersion,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true, // cli.Run prints them
		RunE: func(*cobra.Command, []string) error {
			if err := logsapi.ValidateAndApply(logging, nil); err != nil {
				return err
			}
			return run(f)
		},
	}
	fs := command.Flags()
	fs.StringVar(&f.node, "node-name", f.node, "Name of the Node that this program runs on. The default is $NODE_NAME.")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "Path of a kubeconfig file. The default is the Pod's service account.")
	fs.StringVar(&f.namespace, "config-namespace", f.namespace, "Namespace of the configuration's ConfigMap and of its admitted copy.")
	fs.StringVar(&f.config, "config-name", f.config, "Name of the configuration's ConfigMap; what is read is the admitted copy, whose name is this with \"-admitted\" behind it.")
	f.AddFlags(fs)
	logsapi.AddFlags(logging, fs)
	return command
}

func run(f flags) error {
	if f.node == "" {
		return fmt.Errorf("--node-name is missing: name the Node that this program runs on, or set NODE_NAME")
	}
	config, err := agent.Config(f.kubeconfig, "metallb-bfd")
	if err != nil {
		return err
	}
	server, err := agent.NewAPI(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	responder, err := bfd.New()
	if err != nil {
		return err
	}
	var configured atomic.Bool
	health := func() agent.Health {
		if configured.Load() {
			return agent.Health{}
		}
		return agent.Health{Missing: "there is no configuration yet, or no Node: does the API server answer, and is a configuration admitted?"}
	}
	if f.ProbePort != 0 {
		stop, err := agent.Probe(f.Serving, health)
		if err != nil {
			return err
		}
		defer stop()
	}
	if f.Port != 0 {
		asked, err := agent.NewReviews(config)
		if err != nil {
			return fmt.Errorf("make a client: %w", err)
		}
		(&collector{sessions: responder.List, dropped: responder.Dropped}).register()
		stop, err := agent.Serve(f.Serving, health, asked.May, map[string]http.Handler{"/metrics": legacyregistry.Handler()})
		if err != nil {
			return err
		}
		defer stop()
	}
	again := make(chan struct{}, 1)
	tellSpeakers(responder, again)
	go responder.Run(context.Background()) // until the end, to the last words
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	gateways := gateway.New()
	go gateways.Follow(ctx, func() { watch.Knock(again) })
	follower := follower{update: responder.Update, gateways: gateways.Now, up: func(p loadbalancer.Peer) bool {
		return slices.ContainsFunc(responder.List(), func(s bfd.Status) bool { return s.Router == p.Addr && s.State == bfd.Up })
	}}
	cluster := server.Cluster(f.namespace)
	watch.Follow(ctx, watch.Cluster{Nodes: cluster.Nodes, ConfigMaps: cluster.ConfigMaps, Again: again}, f.config, f.node, func(config *loadbalancer.Config, node *corev1.Node) {
		follower.look(config, node)
		configured.Store(true)
	})
	forget() // a second signal ends the process at once

	klog.InfoS("Stopping", "sessions", len(responder.List()))
	end, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	responder.Dismiss(end)
	return nil
}

// tellSpeakers makes the responder tell the node's speaker of what comes up and goes down. Where that is not possible, routers are
// answered all the same.
func tellSpeakers(responder *bfd.Responder, again chan struct{}) {
	word := func(s bfd.Status) seam.Word {
		w := seam.Word{Router: s.Router, Local: s.Local, Up: s.State == bfd.Up, AdminDown: s.State == bfd.AdminDown || s.AdminDown}
		w.Died = s.Downs > 0 && !w.Up && !w.AdminDown
		return w
	}
	server, err := seam.NewServer(seam.Name, func() (all []seam.Word) {
		for _, s := range responder.List() {
			all = append(all, word(s))
		}
		return all
	})
	if err != nil {
		klog.ErrorS(err, "Speakers do not hear of dead routers")
		return
	}
	responder.Changed = func(s bfd.Status) {
		server.Tell(word(s))
		watch.Knock(again) // a router may have stayed for as long as it was up
	}
	go server.Serve(context.Background()) // until the end
}
