package agent

import (
	"fmt"
	"maps"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/version"
)

// A Program is what every program of a node is told by its flags.
type Program struct {
	Name       string
	NodeName   string
	Kubeconfig string
	Namespace  string // of the configuration
	ConfigName string
	Serving
}

// Command returns the command line of a program, which serves on this port if it is told no other. The caller adds its own flags. run is
// called when all flags are read, and the program knows its node.
func (p *Program) Command(name, short string, port int, run func() error) *cobra.Command {
	p.Name, p.NodeName, p.Namespace, p.ConfigName = name, os.Getenv("NODE_NAME"), "metallb-system", "config"
	p.Serving = Serving{Host: name, Port: port}
	logging := logs.NewOptions()
	command := &cobra.Command{
		Use:           name,
		Short:         short,
		Version:       version.Get().GitVersion,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true, // cli.Run prints them
		RunE: func(*cobra.Command, []string) error {
			if err := logsapi.ValidateAndApply(logging, nil); err != nil {
				return err
			}
			if p.NodeName == "" {
				return fmt.Errorf("--node-name is missing: name the Node that this program runs on, or set NODE_NAME")
			}
			return run()
		},
	}
	fs := command.Flags()
	fs.StringVar(&p.NodeName, "node-name", p.NodeName, "Name of the Node that this program runs on. The default is $NODE_NAME.")
	fs.StringVar(&p.Kubeconfig, "kubeconfig", "", "Path of a kubeconfig file. The default is the Pod's service account.")
	fs.StringVar(&p.Namespace, "config-namespace", p.Namespace, "Namespace of the configuration's ConfigMap and of its admitted copy.")
	fs.StringVar(&p.ConfigName, "config-name", p.ConfigName, "Name of the configuration's ConfigMap; what is read is the admitted copy, whose name is this with \"-admitted\" behind it.")
	p.AddFlags(fs)
	logsapi.AddFlags(logging, fs)
	return command
}

// Connect returns clients for the API server that the flags name.
func (p *Program) Connect() (*API, error) {
	config, err := configOf(p.Kubeconfig, p.Name)
	if err != nil {
		return nil, err
	}
	return NewAPI(config)
}

// Answer answers probes and HTTPS, as the flags say, until the returned function is called: health, metrics, and more pages by their
// paths. The API server says who may get them.
func (p *Program) Answer(server *API, health func() Health, more map[string]http.Handler) (stop func(), err error) {
	var ends []func()
	end := func() {
		for _, e := range ends {
			e()
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	if p.ProbePort != 0 {
		stop, err := probe(p.Serving, health)
		if err != nil {
			return nil, err
		}
		ends = append(ends, stop)
	}
	if p.Port != 0 {
		asked, err := newReviews(server.config)
		if err != nil {
			return nil, err
		}
		pages := map[string]http.Handler{"/metrics": legacyregistry.Handler()}
		maps.Copy(pages, more)
		stop, err := serve(p.Serving, health, asked.May, pages)
		if err != nil {
			return nil, err
		}
		ends = append(ends, stop)
	}
	return end, nil
}
