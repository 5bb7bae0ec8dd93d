// Command metallb-bfd answers the routers of the node it runs on by BFD, and watches them. It is a process of its own, so that a
// restart of the speaker is not the death of the node.
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/metrics/legacyregistry"
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

func main() {
	var program agent.Program
	os.Exit(cli.Run(program.Command("metallb-bfd", "Answers routers by BFD, and watches them, so that they and this node hear of each other's death in under a second.", 7475,
		func() error { return run(&program) })))
}

func run(program *agent.Program) error {
	server, err := program.Connect()
	if err != nil {
		return err
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
	legacyregistry.CustomMustRegister((&collector{sessions: responder.List, dropped: responder.Dropped}).metrics())
	stop, err := program.Answer(server, health, nil)
	if err != nil {
		return err
	}
	defer stop()
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
	cluster := server.Cluster(program.Namespace)
	watch.Follow(ctx, watch.Cluster{Nodes: cluster.Nodes, ConfigMaps: cluster.ConfigMaps, Again: again}, program.ConfigName, program.NodeName, func(config *loadbalancer.Config, node *corev1.Node) {
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
