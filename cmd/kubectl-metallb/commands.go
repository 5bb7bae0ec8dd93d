package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/cluster"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/print"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/ui"
)

const usualNamespace = "metallb-system"

// root is the program with its flags.
func (p *plugin) root() *cobra.Command {
	root := p.commands()
	flags := root.PersistentFlags()
	p.flags.AddFlags(flags)
	flags.StringVar(&p.dump, "dump", "", "Read this folder, which kubectl metallb dump has written, instead of a cluster.")
	flags.StringVar(&p.at.Namespace, "config-namespace", usualNamespace, "The namespace of the installation.")
	flags.StringVar(&p.at.ConfigName, "config-name", "config", "The name of the ConfigMap with the configuration.")
	flags.BoolP("all-namespaces", "A", true, "Services of all namespaces, as every command does anyhow.")
	flags.StringVarP(&p.output, "output", "o", "", "json, yaml or wide.")
	return root
}

// github is the format of validate in which GitHub Actions show what is wrong beside the text.
const github = "github"

// commands is the table of commands.
func (p *plugin) commands() *cobra.Command {
	root := &cobra.Command{
		Use:         "kubectl-metallb",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl metallb"},
		Short:       "kubectl metallb tells who announces what, why not, and what an edit would do",
		Long: `kubectl metallb tells who announces which address, why not, and what an edit of the configuration would do.

It only reads. What it computes, with the functions of the controller manager and the speakers, it calls intended; what a speaker has told
it calls sent.

It ends with 0 if all is well, 1 if something is wrong or refused, 2 if something would change, and 3 if it cannot tell.`,
		Version:      p.version,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{print.Plain, print.Wide, print.JSON, print.YAML}, p.output) && !(p.output == github && cmd.Name() == "validate") {
				return fmt.Errorf("-o %s: write json, yaml or wide", p.output)
			}
			return nil
		},
	}
	root.AddCommand(p.status(), p.why(), p.routes(), p.peers(), p.pools(), p.validate(), p.plan(), p.drain(), p.wait(), p.dumpCommand(), p.ui(), p.migrate())
	return root
}

// command makes one. Its long text begins with how it is called.
func command(use, short, long string, args cobra.PositionalArgs, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	name, _, _ := strings.Cut(use, " ")
	counted := func(cmd *cobra.Command, all []string) error {
		if args(cmd, all) != nil { // whose text counts arguments, and does not name them
			return fmt.Errorf("write %s", cmd.UseLine())
		}
		return nil
	}
	return &cobra.Command{Use: use, Short: short, Long: "kubectl metallb " + name + " " + long, Args: counted, RunE: run, DisableFlagsInUseLine: true}
}

func (p *plugin) status() *cobra.Command {
	var watch, shown bool
	once := func(cmd *cobra.Command) error {
		p.about = counting
		return p.look(cmd, []inspect.Kind{inspect.ConfigMaps, inspect.Services, inspect.EndpointSlices, inspect.Nodes, inspect.Namespaces, inspect.Pods, inspect.Leases},
			func(v *inspect.View) (int, []inspect.Unread, error) {
				s := v.Status()
				shown = true
				code := exitFine
				if len(s.Problems) > 0 {
					code = exitProblem
				}
				return code, s.Unread, p.show(s, func() { print.Status(p.Out, s, p.output == print.Wide) })
			})
	}
	cmd := command("status [-w]", "The installation at a glance, its problems, and the next command for each",
		`shows programs and versions, who leads, which configuration is in force or why it is refused, what each node is to announce, pools,
Services that wait, addresses that no node announces, and drained nodes. For each problem it names the command that tells more.`,
		cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
			for {
				err := once(cmd)
				var is result
				switch {
				case !watch || err != nil && !errors.As(err, &is) && !shown:
					return err
				case err != nil && !errors.As(err, &is): // an outage, perhaps, which is what is watched for
					_, _ = fmt.Fprintln(p.ErrOut, "kubectl metallb:", err)
				}
				select {
				case <-cmd.Context().Done():
					return err
				case <-time.After(2 * time.Second):
					_, _ = fmt.Fprintln(p.Out, "---")
				}
			}
		})
	p.asks(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "Show it again every two seconds.")
	return cmd
}

// reachable are the kinds that tell whether an address is announced.
var reachable = []inspect.Kind{inspect.ConfigMaps, inspect.Services, inspect.EndpointSlices, inspect.Nodes, inspect.Namespaces, inspect.Pods}

func (p *plugin) why() *cobra.Command {
	cmd := command("why [NAMESPACE/]SERVICE [--node NODE]", "Why a Service is reachable, or not",
		`follows the chain from a Service to the routers, for each of its addresses and on each node: class, request, pool, advertisement, node,
endpoints, session, sent. The first link that breaks is the reason, in the words of the events and of the speaker's log.`,
		cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
			namespace, name := p.qualified(args[0])
			p.about = matching(inspect.Filter{Service: namespace + "/" + name})
			return p.look(cmd, reachable, func(v *inspect.View) (int, []inspect.Unread, error) {
				why, err := v.Why(namespace, name, p.node)
				if err != nil {
					return 0, nil, err
				}
				code := exitFine
				if !why.Announced {
					code = exitProblem
				}
				return code, why.Unread, p.show(why, func() { print.Why(p.Out, why, p.node, p.output == print.Wide) })
			})
		})
	p.asks(cmd)
	cmd.Flags().StringVar(&p.node, "node", "", "Show each link of the chain on this node.")
	cmd.ValidArgsFunction = p.complete(p.serviceNames, inspect.Services)
	p.completeFlag(cmd, "node", (*inspect.View).NodeNames, inspect.Nodes)
	return cmd
}

// completeFlag offers names for a flag.
func (p *plugin) completeFlag(cmd *cobra.Command, flag string, names func(*inspect.View) []string, kinds ...inspect.Kind) {
	offer := p.complete(names, kinds...)
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return offer(cmd, nil, typed)
	})
	if err != nil {
		panic(err) // the flag is not there: a mistake in this file
	}
}

func (p *plugin) routes() *cobra.Command {
	var f inspect.Filter
	cmd := command("routes [PREFIX] [--node NODE] [--peer PEER] [--service SERVICE]", "What routers are to hear, route by route",
		`lists what each node is to tell each of its peers: prefix, next hop, attributes. With a prefix or an address, it lists those that have to
do with it. With --live, what was sent stands beside it where it differs.`,
		cobra.MaximumNArgs(1), func(cmd *cobra.Command, args []string) error {
			f := f
			f.Node = p.node
			if len(args) > 0 {
				prefix, err := inspect.ParsePrefix(args[0])
				if err != nil {
					return err
				}
				f.Prefix = prefix
			}
			if f.Service != "" {
				namespace, name := p.qualified(f.Service)
				f.Service = namespace + "/" + name
			}
			p.about = matching(f)
			return p.look(cmd, reachable, func(v *inspect.View) (int, []inspect.Unread, error) {
				routes, err := v.Routes(f)
				if err != nil {
					return 0, nil, err
				}
				code := exitFine
				if routes.Differ() {
					code = exitChanges
				}
				return code, routes.Unread, p.show(routes, func() { print.Routes(p.Out, routes) })
			})
		})
	p.asks(cmd)
	cmd.Flags().StringVar(&p.node, "node", "", "Only of this node.")
	cmd.Flags().StringVar(&f.Peer, "peer", "", "Only to this peer, by its name or address.")
	cmd.Flags().StringVar(&f.Service, "service", "", "Only for the addresses of this Service.")
	p.completeFlag(cmd, "node", (*inspect.View).NodeNames, inspect.Nodes)
	p.completeFlag(cmd, "peer", (*inspect.View).PeerNames, inspect.ConfigMaps)
	p.completeFlag(cmd, "service", p.serviceNames, inspect.Services)
	return cmd
}

func (p *plugin) peers() *cobra.Command {
	cmd := command("peers", "The sessions that nodes are to have", `lists the sessions that each node is to have with its routers, and why one cannot be or, with --live, is not up.`,
		cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
			p.about = counting
			return p.look(cmd, reachable, func(v *inspect.View) (int, []inspect.Unread, error) {
				peers := v.Peers()
				code := exitFine
				if slices.ContainsFunc(peers.Sessions, func(s inspect.Session) bool { return s.Problem != "" }) {
					code = exitProblem
				}
				return code, peers.Unread, p.show(peers, func() { print.Peers(p.Out, peers) })
			})
		})
	p.asks(cmd)
	return cmd
}

func (p *plugin) pools() *cobra.Command {
	cmd := command("pools [POOL]", "How much of the pools is used, by whom, and who waits",
		`shows how many addresses each pool has and how many of them are used, and the Services that wait for one. Of one pool it also lists who
holds what.`,
		cobra.MaximumNArgs(1), func(cmd *cobra.Command, args []string) error {
			return p.look(cmd, []inspect.Kind{inspect.ConfigMaps, inspect.Services, inspect.Nodes, inspect.Namespaces, inspect.Pods}, func(v *inspect.View) (int, []inspect.Unread, error) {
				pools, err := v.Pools(strings.Join(args, ""))
				if err != nil {
					return 0, nil, err
				}
				code := exitFine
				if slices.ContainsFunc(pools.Waiting, func(w inspect.Waiting) bool { return len(w.Addresses) == 0 }) {
					code = exitProblem
				}
				return code, pools.Unread, p.show(pools, func() { print.Pools(p.Out, pools, len(args) > 0, p.output == print.Wide) })
			})
		})
	cmd.ValidArgsFunction = p.complete((*inspect.View).PoolNames, inspect.ConfigMaps)
	return cmd
}

func (p *plugin) validate() *cobra.Command {
	cmd := command("validate FILE...", "Check a configuration, without a cluster",
		`checks configurations and needs no cluster. A FILE has the text alone, a ConfigMap, or values of the Helm chart; - is the standard input.
Mistakes are located in the file. -o github writes them as annotations of a workflow.`,
		cobra.MinimumNArgs(1), func(_ *cobra.Command, args []string) error {
			all := []inspect.Finding{}
			for _, name := range args {
				text, err := p.text(name)
				if err != nil {
					return err
				}
				all = append(all, text.Validate(name)...)
			}
			if done, err := print.Data(p.Out, p.output, all); err != nil {
				return err
			} else if !done {
				print.Findings(p.Out, all, p.output == github)
			}
			if slices.ContainsFunc(all, func(f inspect.Finding) bool { return !f.Warning }) {
				return p.end(exitProblem)
			}
			return nil
		})
	cmd.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	return cmd
}

// file reads a file; - is the standard input.
func (p *plugin) file(name string) ([]byte, error) {
	const most = 16 << 20 // of a file that is something else
	if name == "-" {
		return io.ReadAll(io.LimitReader(p.In, most))
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(file, most))
}

// text reads a configuration from a file.
func (p *plugin) text(name string) (inspect.Text, error) {
	content, err := p.file(name)
	if err != nil {
		return inspect.Text{}, err
	}
	text, err := inspect.Find(content, p.at.ConfigName)
	if err != nil {
		return inspect.Text{}, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

func (p *plugin) plan() *cobra.Command {
	cmd := command("plan FILE", "What a configuration would do to the cluster",
		`says whether the controller manager would admit the configuration in FILE, which Services would lose, change or get addresses, which
sessions would begin, end or be made anew, and which prefixes would change on how many nodes. Where the text needs to be confirmed, it
prints the annotation. It ends with 0 if nothing would change, 2 if something would, and 1 if the text would be refused.`,
		cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
			text, err := p.text(args[0])
			if err != nil {
				return err
			}
			kinds := reachable
			if strings.Contains(text.Text, "password-key") {
				kinds = append(slices.Clone(kinds), inspect.Secrets)
			}
			return p.look(cmd, kinds, func(v *inspect.View) (int, []inspect.Unread, error) {
				plan := v.PlanOf(text)
				code := exitFine
				switch {
				case !plan.Admitted:
					code = exitProblem
				case plan.Changes():
					code = exitChanges
				}
				return code, plan.Unread, p.show(plan, func() { print.Plan(p.Out, plan, p.output == print.Wide) })
			})
		})
	cmd.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	return cmd
}

func (p *plugin) drain() *cobra.Command {
	var dryRun bool
	cmd := command("drain NODE --dry-run", "What the drain of a node would move",
		`says which prefixes routers would send elsewhere, to which nodes, and which have no other path. It ends with 2 if some have none. It drains
nothing: to do that, annotate the Node with metallb.universe.tf/drain.`,
		cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
			if !dryRun {
				return fmt.Errorf("this command only tells what would happen: add --dry-run; to drain the node, run kubectl annotate node %s metallb.universe.tf/drain=true", args[0])
			}
			return p.look(cmd, reachable, func(v *inspect.View) (int, []inspect.Unread, error) {
				drain, err := v.Drain(args[0])
				if err != nil {
					return 0, nil, err
				}
				code := exitFine
				if len(drain.Stranded()) > 0 {
					code = exitChanges
				}
				return code, drain.Unread, p.show(drain, func() { print.Drain(p.Out, drain, p.output == print.Wide) })
			})
		})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Say so, and change nothing.")
	cmd.ValidArgsFunction = p.complete((*inspect.View).NodeNames, inspect.Nodes)
	return cmd
}

func (p *plugin) wait() *cobra.Command {
	var timeout time.Duration
	cmd := command("wait", "Wait until a configuration is admitted, or a Service announced", `waits, for pipelines. It ends with 1 if that does not happen in time.`, cobra.NoArgs,
		func(cmd *cobra.Command, _ []string) error {
			return errors.New("say what to wait for: admitted, or announced SERVICE")
		})
	cmd.PersistentFlags().DurationVar(&timeout, "timeout", time.Minute, "How long to wait at most.")
	admitted := command("admitted", "Wait until the configuration in the ConfigMap is in force",
		`waits until the text in the user's ConfigMap is in force. It ends at once, with 1 and the problems, if that is refused.`,
		cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
			return p.until(cmd, timeout, []inspect.Kind{inspect.ConfigMaps, inspect.Pods}, func(v *inspect.View) (done bool, code int, now string, unread []inspect.Unread) {
				c := v.ConfigStatus()
				switch c.State {
				case inspect.InForce:
					return true, exitFine, fmt.Sprintf("the text %s is in force", c.Hash), nil
				case inspect.IsRefused:
					return true, exitProblem, fmt.Sprintf("the text %s is refused:\n%s", c.Refused.Hash, strings.Join(c.Refused.Problems, "\n")), nil
				}
				return false, exitProblem, "the text is " + c.State, v.Unread
			})
		})
	announced := command("announced [NAMESPACE/]SERVICE", "Wait until a Service is announced",
		`waits until some node is to announce each address of the Service, which has one at least.`,
		cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
			namespace, name := p.qualified(args[0])
			p.about = matching(inspect.Filter{Service: namespace + "/" + name})
			return p.until(cmd, timeout, reachable, func(v *inspect.View) (done bool, code int, now string, unread []inspect.Unread) {
				why, err := v.Why(namespace, name, "")
				switch {
				case err != nil:
					return false, exitProblem, err.Error(), v.Unread
				case why.Announced:
					return true, exitFine, fmt.Sprintf("%s: Service %s is announced", why.Source, why.Service), why.Unread
				}
				return false, exitProblem, fmt.Sprintf("%s: Service %s is not announced: %s", why.Source, why.Service, why.Reason), why.Unread
			})
		})
	p.asks(announced)
	announced.ValidArgsFunction = p.complete(p.serviceNames, inspect.Services)
	admitted.Long = strings.Replace(admitted.Long, "kubectl metallb ", "kubectl metallb wait ", 1)
	announced.Long = strings.Replace(announced.Long, "kubectl metallb ", "kubectl metallb wait ", 1)
	cmd.AddCommand(admitted, announced)
	return cmd
}

// until looks once a second until it is done, and all could be read that this depends on, or the time is over.
func (p *plugin) until(cmd *cobra.Command, timeout time.Duration, kinds []inspect.Kind, look func(*inspect.View) (done bool, code int, now string, unread []inspect.Unread)) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	last, unread := "nothing could be read", []inspect.Unread(nil)
	for {
		s, err := p.snapshot(ctx, kinds...)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil:
			v := inspect.Look(s)
			done, code, now, lacks := look(v)
			last, unread = now, lacks
			if done && len(lacks) == 0 {
				_, _ = fmt.Fprintln(p.Out, now)
				return p.end(p.reserve(code, v, nil))
			}
		}
		if p.dump == "" { // a dump does not change
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				continue
			}
		}
		if len(unread) > 0 {
			_, _ = fmt.Fprintf(p.Out, "not certain within %s: %s\n", timeout, last)
			print.Unread(p.ErrOut, unread)
			return p.end(exitUnknown)
		}
		_, _ = fmt.Fprintf(p.Out, "not within %s: %s\n", timeout, last)
		return p.end(exitProblem)
	}
}

func (p *plugin) dumpCommand() *cobra.Command {
	cmd := command("dump FOLDER", "Write down all that the other commands need",
		`writes all that the other commands need into a folder, which must be empty or new: no Secret, and no password. Every other command reads
it with --dump FOLDER.`,
		cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
			if p.dump != "" {
				return errors.New("--dump reads a dump, and this command writes one: leave one of the two")
			}
			s, err := p.snapshot(cmd.Context(), inspect.Kinds...)
			var absent cluster.ErrNoInstallation
			if errors.As(err, &absent) {
				_, _ = fmt.Fprintln(p.ErrOut, err) // it is written all the same, for those who are about to install
			} else if err != nil {
				return err
			}
			if err := cluster.Dump(s, args[0], "kubectl-metallb "+p.version); err != nil {
				return err
			}
			_, _ = fmt.Fprintf(p.Out, "%s: %d Services, %d EndpointSlices, %d Nodes\n", args[0], len(s.Services), len(s.Slices), len(s.Nodes))
			if print.Unread(p.ErrOut, s.Unread); len(s.Unread) > 0 {
				return p.end(exitUnknown)
			}
			return nil
		})
	p.asks(cmd)
	return cmd
}

func (p *plugin) ui() *cobra.Command {
	cmd := command("ui", "A page in the browser that shows the same, and refreshes itself",
		`serves a page on 127.0.0.1, for one browser on this machine, and prints its URL: sessions of nodes with routers, pools, why a Service is
reachable or not, and what a configuration would do. It installs nothing and changes nothing.`,
		cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
			if p.dump == "" {
				if _, _, err := p.connect(); err != nil {
					return err // now, and not in the browser
				}
			}
			return ui.Serve(cmd.Context(), p.Out, p.ErrOut, p.cluster(cmd))
		})
	p.asks(cmd)
	return cmd
}

// cluster is what a page shows that the command was started for.
func (p *plugin) cluster(cmd *cobra.Command) ui.Cluster {
	c := ui.Cluster{
		Read:    func(ctx context.Context) (*inspect.Snapshot, error) { return p.snapshot(ctx, inspect.Kinds...) },
		Remarks: p.mismatches,
	}
	// A browser shows several clusters in tabs that look alike.
	if config, err := p.flags.ToRawKubeConfigLoader().RawConfig(); p.dump != "" {
		c.Name = p.dump
	} else if err == nil {
		c.Name = cmp.Or(*p.flags.Context, config.CurrentContext)
	}
	// Not all flags: a token or a password has no business in a page.
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains([]string{"kubeconfig", "context", "cluster", "user", "server", "as", "dump", "config-namespace", "config-name"}, f.Name) {
			c.Flags = append(c.Flags, "--"+f.Name+"="+f.Value.String())
		}
	})
	switch {
	case p.direct:
		c.Asks = []string{"--direct"}
	case p.live:
		c.Asks = []string{"--live"}
	}
	return c
}
