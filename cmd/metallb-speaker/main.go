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
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/version"
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
	kubeconfig string
	onSIGTERM  string
	agent.Serving
	speaker.Options
}

func main() { os.Exit(cli.Run(newCommand())) }

func newCommand() *cobra.Command {
	f := flags{onSIGTERM: auto, Serving: agent.Serving{Host: "metallb-speaker", Port: 7473}, Options: speaker.Options{
		NodeName: os.Getenv("NODE_NAME"), Namespace: "metallb-system", ConfigName: "config",
	}}
	logging := logs.NewOptions()
	command := &cobra.Command{
		Use:           "metallb-speaker",
		Short:         "Announces the addresses of Services from this node, over BGP.",
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
	fs.StringVar(&f.NodeName, "node-name", f.NodeName, "Name of the Node that this speaker runs on. The default is $NODE_NAME.")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "Path of a kubeconfig file. The default is the Pod's service account.")
	fs.StringVar(&f.Namespace, "config-namespace", f.Namespace, "Namespace of the configuration's ConfigMap and of its admitted copy.")
	fs.StringVar(&f.ConfigName, "config-name", f.ConfigName, "Name of the configuration's ConfigMap; this speaker reads the admitted copy, whose name is this with \"-admitted\" behind it.")
	fs.StringVar(&f.onSIGTERM, "on-sigterm", f.onSIGTERM, "What routers shall do with this node's routes when this process is told to end: keep them, withdraw them, or auto: keep them if another speaker is about to take its place, as $POD_NAME and $POD_NAMESPACE tell.")
	fs.BoolVar(&f.IgnoreExcludeLabel, "ignore-exclude-lb", false, "Announce also from nodes labelled "+corev1.LabelNodeExcludeBalancers+".")
	fs.StringVar(&f.WaitForURL, "wait-for-url", "", "URL that must answer with success before the first announcement, such as http://127.0.0.1:10256/healthz of kube-proxy.")
	f.AddFlags(fs)
	logsapi.AddFlags(logging, fs)
	return command
}

func run(f flags) error {
	if f.NodeName == "" {
		return fmt.Errorf("--node-name is missing: name the Node that this speaker runs on, or set NODE_NAME")
	}
	if !slices.Contains([]string{auto, keep, withdraw}, f.onSIGTERM) {
		return fmt.Errorf("--on-sigterm=%s: use %s, %s or %s", f.onSIGTERM, auto, keep, withdraw)
	}
	config, err := agent.Config(f.kubeconfig, "metallb-speaker")
	if err != nil {
		return err
	}
	server, err := agent.NewAPI(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}

	sessions := bgp.New(bgp.HostUptime)
	sessions.Written = written
	responder := &responder{sessions: sessions.List}
	gateways := gateway.New()
	f.Gateways, f.Up = gateways.Now, func(p loadbalancer.Peer) bool {
		return slices.ContainsFunc(sessions.List(), func(s bgp.Session) bool { return s.Up && s.Addr == p.Addr && s.Port == p.Port })
	}
	s, err := speaker.New(server.Cluster(f.Namespace), sessions, f.Options)
	if err != nil {
		return err
	}
	sessions.Down = s.LookAgain
	health := func() agent.Health {
		status := s.Status()
		return agent.Health{Missing: status.Missing, Busy: status.Busy}
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
		announced := func() []speaker.Announced {
			told := map[netip.Prefix]bool{}
			for _, session := range sessions.List() {
				session.Told(told)
			}
			return s.Announced(told)
		}
		(&collector{node: f.NodeName, status: s.Status, announced: announced, sessions: sessions.List, responder: responder}).register()
		stop, err := agent.Serve(f.Serving, health, asked.May, map[string]http.Handler{
			"/metrics":  legacyregistry.Handler(),
			report.Path: &reporter{node: f.NodeName, status: s.Status, sessions: sessions.List, withheld: s.Withheld},
		})
		if err != nil {
			return err
		}
		defer stop()
	}
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	go gateways.Follow(ctx, s.LookAgain)
	go func() {
		if err := sessions.WatchAddresses(ctx); err != nil {
			klog.ErrorS(err, "Missing next hops are looked for every few seconds only")
		}
	}()
	go responder.follow(ctx, seam.Name, sessions.Lost)
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
