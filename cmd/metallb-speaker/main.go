// Command metallb-speaker announces the addresses of Services from the node it runs on, over BGP.
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/internal/agent"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker"
	"github.com/metallb/cloud-provider-metallb/speaker/bfd/seam"
	"github.com/metallb/cloud-provider-metallb/speaker/bgp"
	"github.com/metallb/cloud-provider-metallb/speaker/gateway"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// What --on-sigterm may be.
const (
	auto     = "auto"
	keep     = "keep"
	withdraw = "withdraw"
)

// lastWords bounds how long the end of the process may take: kubelet's own bound is 30 s.
const lastWords = 10 * time.Second

type flags struct {
	agent.Program
	onSIGTERM          string
	ignoreExcludeLabel bool
	waitForURL         string
}

func main() { os.Exit(cli.Run(newCommand())) }

func newCommand() *cobra.Command {
	var f flags
	command := f.Command("metallb-speaker", "Announces the addresses of Services from this node, over BGP.", 7473, func() error { return run(f) })
	fs := command.Flags()
	fs.StringVar(&f.onSIGTERM, "on-sigterm", auto, "What routers shall do with this node's routes when this process is told to end: keep them, withdraw them, or auto: keep them if another speaker is about to take its place, as $POD_NAME and $POD_NAMESPACE tell.")
	fs.BoolVar(&f.ignoreExcludeLabel, "ignore-exclude-lb", false, "Announce also from nodes labelled "+corev1.LabelNodeExcludeBalancers+".")
	fs.StringVar(&f.waitForURL, "wait-for-url", "", "URL that must answer with success before the first announcement, such as http://127.0.0.1:10256/healthz of kube-proxy.")
	return command
}

func run(f flags) error {
	if !slices.Contains([]string{auto, keep, withdraw}, f.onSIGTERM) {
		return fmt.Errorf("--on-sigterm=%s: use %s, %s or %s", f.onSIGTERM, auto, keep, withdraw)
	}
	server, err := f.Connect()
	if err != nil {
		return err
	}
	sessions := bgp.New(bgp.HostUptime)
	sessions.Written = written
	responder := newResponder(seam.Name, sessions.List, sessions.Lost)
	gateways := gateway.New()
	s, err := speaker.New(server.Cluster(f.Namespace), sessions, speaker.Options{
		NodeName: f.NodeName, Namespace: f.Namespace, ConfigName: f.ConfigName,
		IgnoreExcludeLabel: f.ignoreExcludeLabel, WaitForURL: f.waitForURL,
		Gateways: gateways.Now, Up: func(p loadbalancer.Peer) bool {
			return slices.ContainsFunc(sessions.List(), func(s bgp.Session) bool { return s.Up && s.Addr == p.Addr && s.Port == p.Port })
		},
	})
	if err != nil {
		return err
	}
	sessions.Down = s.LookAgain
	health := func() agent.Health {
		status := s.Status()
		return agent.Health{Missing: status.Missing, Busy: status.Busy}
	}
	announced := func() []speaker.Announced {
		told := map[netip.Prefix]bool{}
		for _, session := range sessions.List() {
			session.Told(told)
		}
		return s.Announced(told)
	}
	legacyregistry.MustRegister(updateSeconds)
	legacyregistry.CustomMustRegister((&collector{node: f.NodeName, status: s.Status, announced: announced, sessions: sessions.List, responder: responder}).metrics())
	stop, err := f.Answer(server, health, map[string]http.Handler{
		report.Path: &reporter{node: f.NodeName, status: s.Status, sessions: sessions.List, bfd: responder.state, withheld: s.Withheld},
	})
	if err != nil {
		return err
	}
	defer stop()
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	go gateways.Follow(ctx, s.LookAgain)
	go func() {
		if err := sessions.WatchAddresses(ctx); err != nil {
			klog.ErrorS(err, "Missing next hops are looked for every few seconds only")
		}
	}()
	go responder.follow(ctx)
	s.Run(ctx)
	forget() // a second signal ends the process at once

	end, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	kept, why := f.onSIGTERM == keep, "--on-sigterm="+f.onSIGTERM
	if f.onSIGTERM == auto {
		kept, why = successor(end, server, f.NodeName)
	}
	klog.InfoS("Stopping", "routes", map[bool]string{true: keep, false: withdraw}[kept], "why", why)
	if kept {
		sessions.Keep()
	} else {
		sessions.Withdraw(end, "speaker stopped: "+why)
	}
	return nil
}
