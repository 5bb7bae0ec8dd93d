// Command metallb-cloud-controller-manager gives addresses to Services of type LoadBalancer. It is the standard cloud
// controller manager with nothing but the standard service controller, and with this project as its cloud.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	ccmconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	ccmoptions "k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	baseversion "k8s.io/component-base/version"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/provider"
)

func main() {
	// The framework knows flags only. A word before them is a question about an installation.
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(ask(os.Args[1:]))
	}
	command, err := newCommand()
	if err != nil {
		fmt.Fprintln(os.Stderr, "metallb-cloud-controller-manager:", err)
		os.Exit(1)
	}
	os.Exit(cli.Run(command))
}

func newCommand() (*cobra.Command, error) {
	// Kubernetes' libraries take the version that the linker writes for their own: in v0.1, no feature of today would be on.
	if err := utilfeature.DefaultMutableFeatureGate.SetEmulationVersion(version.MustParse(baseversion.DefaultKubeBinaryVersion)); err != nil {
		return nil, fmt.Errorf("choose Kubernetes' features: %w", err)
	}
	options, err := ccmoptions.NewCloudControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("make the options: %w", err)
	}
	setDefaults(options)

	ours := provider.Options{Namespace: "metallb-system", ConfigName: "config"}
	var flags cliflag.NamedFlagSets
	fs := flags.FlagSet("metallb")
	fs.StringVar(&ours.Namespace, "config-namespace", ours.Namespace, "Namespace of the configuration's ConfigMap and of its admitted copy.")
	fs.StringVar(&ours.ConfigName, "config-name", ours.ConfigName, "Name of the configuration's ConfigMap; the admitted copy's is this with \"-admitted\" behind it.")
	fs.StringArrayVar(&ours.Ours.Classes, "load-balancer-class", nil, "Serve Services with this spec.loadBalancerClass, too, beside "+loadbalancer.Class+". Repeat the flag for more than one.")
	fs.BoolVar(&ours.Ours.ClassOnly, "load-balancer-class-only", false, "Serve only Services with a spec.loadBalancerClass that is ours, and leave those without a class to others.")

	// The framework returns as soon as stopped is closed, so that it is closed only after the Lease is given up.
	stopped := make(chan struct{})
	initialize := func(config *ccmconfig.CompletedConfig) cloudprovider.Interface {
		if name := config.ComponentConfig.KubeCloudShared.CloudProvider.Name; name != provider.Name {
			fmt.Fprintf(os.Stderr, "--cloud-provider=%s: this program has one only: use %s, or leave the flag out\n", name, provider.Name)
			os.Exit(1)
		}
		cloud := ours.Initialize(config)
		go stopOnSignal(cloud, stopped)
		return cloud
	}
	controllers := map[string]app.ControllerInitFuncConstructor{
		names.ServiceLBController: {
			InitContext: app.ControllerInitContext{ClientName: "service-controller"},
			Constructor: provider.Controller,
		},
	}
	command := app.NewCloudControllerManagerCommand(options, initialize, controllers, names.CCMControllerAliases(), flags, stopped)
	command.Use = "metallb-cloud-controller-manager"
	command.Flags().Lookup("help").Usage = "help for " + command.Use
	command.Long = "Gives addresses to Services of type LoadBalancer in clusters that have no cloud.\n\nWith validate, verify or test as its first word it answers the questions of the chart's hooks: see \"verify --help\"."
	return command, nil
}

// setDefaults changes the framework's defaults where they do not suit a cluster without a cloud. Every one is a flag still.
func setDefaults(o *ccmoptions.CloudControllerManagerOptions) {
	o.KubeCloudShared.CloudProvider.Name = provider.Name
	// The framework's Lease has the name that every other cloud controller manager uses.
	o.Generic.LeaderElection.ResourceNamespace = "metallb-system"
	o.Generic.LeaderElection.ResourceName = "metallb-controller"
	// A leader that is killed is followed within ten seconds.
	o.Generic.LeaderElection.LeaseDuration.Duration = 8 * time.Second
	o.Generic.LeaderElection.RenewDeadline.Duration = 5 * time.Second
	o.Generic.LeaderElection.RetryPeriod.Duration = time.Second
	// 20 requests a second would make 10,000 new Services take half an hour; the API server protects itself.
	o.Generic.ClientConnection.QPS = 1000
	o.Generic.ClientConnection.Burst = 1000
	o.ServiceController.ConcurrentServiceSyncs = 10
	o.Generic.Debugging.EnableProfiling = false
	// No webhooks: nothing listens that is not needed.
	o.Webhook, o.WebhookServing = nil, nil
}

func stopOnSignal(cloud *provider.Cloud, stopped chan<- struct{}) {
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	<-ctx.Done()
	forget() // a second signal ends the process at once
	cloud.Stop()
	close(stopped)
}
