package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/cluster"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/migrate"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/print"
)

func (p *plugin) migrate() *cobra.Command {
	cmd := command("migrate", "A configuration from the resources of MetalLB, and what the change would do",
		`makes a configuration of what there is: of the resources of MetalLB, or of spec.externalIPs.`, cobra.NoArgs,
		func(*cobra.Command, []string) error { return errors.New("say from what: metallb, or external-ips") })
	for _, sub := range []*cobra.Command{p.migrateMetalLB(), p.migrateExternalIPs()} {
		sub.Long = strings.Replace(sub.Long, "kubectl metallb ", "kubectl metallb migrate ", 1)
		cmd.AddCommand(sub)
	}
	return cmd
}

// seen is what a cluster would see of a migration, for programs.
type seen struct {
	*migrate.Result
	*migrate.Comparison
	Unread []inspect.Unread `json:"unread,omitempty"`
}

func (p *plugin) migrateMetalLB() *cobra.Command {
	var o migrate.Options
	var live, values, configMap bool
	cmd := command("metallb [FILE...] [--live]", "A configuration from the resources of MetalLB",
		`makes a configuration of MetalLB's resources, from v0.13 on, or of its ConfigMap before that. Each item has the name of the resource that
it is from. The report, on the standard error, says what is kept, what differs, and what cannot be said here. With --live it reads
the resources from the cluster; with --live or --dump it says what becomes of each Service, and which prefixes each router would hear more,
fewer or otherwise. It ends with 0 if nothing is lost or differs, 2 if something does, and 1 if something is refused: then it prints no text.`,
		cobra.ArbitraryArgs, func(cmd *cobra.Command, args []string) error {
			switch {
			case live && p.dump != "":
				return errors.New("--live reads a cluster, and --dump a dump of one: leave one of the two")
			case !live && len(args) == 0:
				return errors.New("name files with resources, or read them from the cluster by --live")
			case values && configMap:
				return errors.New("--values and --configmap are two forms of one text: leave one of the two")
			case !slices.Contains([]string{"", "native", "frr", "frr-k8s"}, o.Mode):
				return fmt.Errorf("--mode %s: write native, frr or frr-k8s", o.Mode)
			}
			o.To = p.at.Namespace
			var unread []inspect.Unread
			sources, err := p.sources(args)
			if err == nil && live {
				var answers [][]byte
				if answers, unread, err = p.ask(cmd, func(client rest.Interface) ([][]byte, []inspect.Unread, error) {
					namespace := o.From
					if namespace == "" {
						namespace = "metallb-system"
					}
					return cluster.Resources(cmd.Context(), client, namespace)
				}); err == nil {
					sources = append(sources, named(answers)...)
				}
			}
			if err != nil {
				return err
			}
			r := migrate.Convert(sources, o)
			if len(unread) > 0 {
				r.Text = "" // half of the resources make another configuration
			}
			var c *migrate.Comparison
			if (live || p.dump != "") && r.Text != "" {
				s, err := p.snapshot(cmd.Context(), inspect.Services, inspect.EndpointSlices, inspect.Nodes, inspect.Namespaces)
				if err != nil {
					return err
				}
				if unread = append(unread, s.Unread...); len(unread) == 0 {
					c = r.Compare(s)
				}
			}
			if done, err := print.Data(p.Out, p.output, seen{r, c, unread}); err != nil {
				return err
			} else if !done {
				if err := p.configuration(r, values, configMap); err != nil {
					return err
				}
				r.Report(p.ErrOut, c)
			}
			print.Unread(p.ErrOut, unread)
			switch {
			case r.Has(migrate.Refused):
				return p.end(exitProblem)
			case len(unread) > 0:
				return p.end(exitUnknown)
			case r.Has(migrate.Unsaid), r.Has(migrate.Differs), c != nil && !c.Same():
				return p.end(exitChanges)
			}
			return nil
		})
	cmd.Flags().BoolVar(&live, "live", false, "Read MetalLB's resources, and the Services, from the cluster.")
	cmd.Flags().BoolVar(&values, "values", false, "Write values of the Helm chart.")
	cmd.Flags().BoolVar(&configMap, "configmap", false, "Write the ConfigMap.")
	cmd.Flags().StringVar(&o.Mode, "mode", "", "MetalLB's METALLB_BGP_TYPE: native, frr or frr-k8s. --live finds it out.")
	cmd.Flags().StringVar(&o.Class, "lb-class", "", "MetalLB's --lb-class, if it was started with one. --live finds it out.")
	cmd.Flags().StringVar(&o.From, "metallb-namespace", "", "MetalLB's namespace, if it is not metallb-system.")
	cmd.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	return cmd
}

// configuration prints the text, in the form that was asked for.
func (p *plugin) configuration(r *migrate.Result, values, configMap bool) (err error) {
	text := r.Text
	switch {
	case text == "":
	case values:
		text, err = r.Values()
	case configMap:
		text, err = r.ConfigMap(p.at.Namespace, p.at.ConfigName)
	}
	if err == nil {
		_, err = fmt.Fprint(p.Out, text)
	}
	return err
}

func (p *plugin) migrateExternalIPs() *cobra.Command {
	var live bool
	cmd := command("external-ips [FILE...] [--live]", "Addresses in spec.externalIPs as addresses of a LoadBalancer",
		`reads Services that use spec.externalIPs, which Kubernetes 1.36 deprecates, and Nodes. It writes the pool that has these addresses, and
commands that give each Service the same ones as LoadBalancer. It runs none of them. It ends with 0 if nothing is left over, 2 if
something has to be decided, and 1 if something is refused.`,
		cobra.ArbitraryArgs, func(cmd *cobra.Command, args []string) error {
			if !live && len(args) == 0 {
				return errors.New("name files with Services and Nodes, or read them from the cluster by --live")
			}
			sources, err := p.sources(args)
			if err == nil && live {
				var answers [][]byte
				if answers, _, err = p.ask(cmd, func(client rest.Interface) ([][]byte, []inspect.Unread, error) {
					answers, err := cluster.Lists(cmd.Context(), client, "/api/v1/services", "/api/v1/nodes")
					return answers, nil, err
				}); err == nil {
					sources = append(sources, named(answers)...)
				}
			}
			if err != nil {
				return err
			}
			x := migrate.ConvertExternalIPs(sources)
			if done, err := print.Data(p.Out, p.output, x); err != nil {
				return err
			} else if !done {
				if _, err := fmt.Fprint(p.Out, x); err != nil {
					return err
				}
				(&migrate.Result{Remarks: x.Remarks}).Report(p.ErrOut, nil)
			}
			switch {
			case x.Has(migrate.Refused):
				return p.end(exitProblem)
			case x.Has(migrate.Unsaid), x.Has(migrate.Differs):
				return p.end(exitChanges)
			}
			return nil
		})
	cmd.Flags().BoolVar(&live, "live", false, "Read Services and Nodes from the cluster.")
	cmd.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	return cmd
}

// ask asks an API server.
func (p *plugin) ask(cmd *cobra.Command, question func(rest.Interface) ([][]byte, []inspect.Unread, error)) ([][]byte, []inspect.Unread, error) {
	client, _, err := p.connect()
	if err != nil {
		return nil, nil, err
	}
	return question(client.CoreV1().RESTClient())
}

// sources reads files.
func (p *plugin) sources(names []string) (all []migrate.Source, err error) {
	for _, name := range names {
		content, err := p.file(name)
		if err != nil {
			return nil, err
		}
		all = append(all, migrate.Source{Name: name, Text: content})
	}
	return all, nil
}

// named are answers of an API server, whose objects have names enough.
func named(answers [][]byte) (all []migrate.Source) {
	for _, answer := range answers {
		all = append(all, migrate.Source{Text: answer})
	}
	return all
}
