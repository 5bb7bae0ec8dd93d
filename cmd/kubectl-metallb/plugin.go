package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/version"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/cluster"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/print"
)

// How a command ends. What could not be read and might change the answer outweighs the answer.
const (
	exitFine    = 0
	exitProblem = 1
	exitChanges = 2
	exitUnknown = 3
)

// A plugin is what its commands have in common.
type plugin struct {
	genericiooptions.IOStreams
	flags  *genericclioptions.ConfigFlags
	at     cluster.Installation
	dump   string // the folder to read instead of a cluster
	output string
	// live asks the speakers as well, and direct dials their nodes.
	live, direct bool
	node         string // the one that is asked about; empty: all
	// about says which routes of speakers an answer depends on; nil: on all.
	about func(*inspect.Snapshot) func(netip.Prefix) bool

	now     func() time.Time
	version string
}

// A result is how a command ended that said all there is to say.
type result int

func (r result) Error() string { return fmt.Sprintf("exit %d", int(r)) }

func newPlugin(streams genericiooptions.IOStreams) *plugin {
	return &plugin{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true), now: time.Now, version: version.Get().GitVersion}
}

func (p *plugin) run(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(args)
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.ErrOut)
	err := root.ExecuteContext(ctx)
	var is result
	switch {
	case err == nil:
		return exitFine
	case errors.As(err, &is):
		return int(is)
	}
	_, _ = fmt.Fprintln(p.ErrOut, "kubectl metallb:", err) // there is nobody left to tell
	return exitUnknown
}

// snapshot reads the kinds from a dump or a cluster.
func (p *plugin) snapshot(ctx context.Context, kinds ...inspect.Kind) (*inspect.Snapshot, error) {
	if p.dump != "" {
		s, err := cluster.Load(p.dump)
		if err == nil && slices.Contains(kinds, inspect.ConfigMaps) && p.at.Namespace != usualNamespace && p.at.Namespace != s.Namespace {
			err = fmt.Errorf("%s is of the installation in namespace %s: leave out --config-namespace", p.dump, s.Namespace)
		}
		return s, err
	}
	client, config, err := p.connect()
	if err != nil {
		return nil, err
	}
	s, err := cluster.Read(ctx, client, p.at, p.now(), kinds...)
	if err == nil && (p.live || p.direct) {
		ask := cluster.Speakers{Client: client, Config: config, Direct: p.direct}
		if p.about != nil {
			ask.Keep = p.about(s)
		}
		ask.Ask(ctx, s, p.node)
	}
	return s, err
}

func (p *plugin) connect() (kubernetes.Interface, *rest.Config, error) {
	config, err := p.flags.ToRESTConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("the kubeconfig cannot be used: %w", err)
	}
	// What kubectl falls back to. Nobody has that by intention.
	if config.Host == "http://localhost:8080" {
		return nil, nil, errors.New("the kubeconfig names no cluster: set KUBECONFIG, or use --kubeconfig and --context")
	}
	config = rest.CopyConfig(config)
	// A large list is read in pages, one after the other: nothing here needs to be held back.
	config.QPS, config.Burst = -1, 0
	config.UserAgent = "kubectl-metallb/" + p.version
	config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	return client, config, err
}

// look takes a snapshot, and hands what follows from it to answer, which returns how the command ends and what it lacks.
func (p *plugin) look(cmd *cobra.Command, kinds []inspect.Kind, answer func(*inspect.View) (int, []inspect.Unread, error)) error {
	if p.dump != "" && (p.live || p.direct) {
		return errors.New("--dump shows what speakers said when it was written, and --live asks them: leave one of the two")
	}
	s, err := p.snapshot(cmd.Context(), kinds...)
	if err != nil {
		return err
	}
	v := inspect.Look(s)
	code, unread, err := answer(v)
	if err != nil {
		return err
	}
	return p.end(p.reserve(code, v, unread))
}

// reserve says what might change an answer, and returns how the command ends then.
func (p *plugin) reserve(code int, v *inspect.View, unread []inspect.Unread) int {
	print.Unread(p.ErrOut, unread)
	mismatches := p.mismatches(v)
	for _, text := range mismatches {
		_, _ = fmt.Fprintln(p.ErrOut, text) // as all that is said beside an answer
	}
	if len(unread)+len(mismatches) > 0 {
		return exitUnknown
	}
	return code
}

func (p *plugin) end(code int) error {
	if code == exitFine {
		return nil
	}
	return result(code)
}

// mismatches say why this program may decide otherwise than the installation. One minor version makes no difference.
func (p *plugin) mismatches(v *inspect.View) (all []string) {
	own, known := minor(p.version)
	for _, program := range v.Programs() {
		if theirs, ok := minor(program.Version); known && ok && (theirs > own+1 || theirs < own-1) {
			all = append(all, fmt.Sprintf("This plugin is of version %s, and the %s of %s: what is intended may be something else. Use the plugin of that version.", p.version, program.Component, program.Version))
		}
	}
	if v.Ignored > 0 {
		all = append(all, fmt.Sprintf("The configuration in force has %d keys that this plugin, of version %s, does not know: what is intended may be something else. Use the plugin of the controller manager's version.", v.Ignored, p.version))
	}
	return all
}

// minor returns the first two numbers of a version as one.
func minor(version string) (n int, ok bool) {
	var major, second int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &major, &second); err != nil || major == 0 && second == 0 {
		return 0, false
	}
	return 1000*major + second, true
}

// show prints an answer in the format that was asked for; plain prints it for people.
func (p *plugin) show(answer any, plain func()) error {
	if done, err := print.Data(p.Out, p.output, answer); done {
		return err
	}
	plain()
	return nil
}

// namespace is where Services are looked for that are named without theirs.
func (p *plugin) namespace() string {
	if p.dump != "" && (p.flags.Namespace == nil || *p.flags.Namespace == "") {
		return "default"
	}
	namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil || namespace == "" {
		return "default" // as kubectl does; a kubeconfig that is broken is told of when it is used
	}
	return namespace
}

// qualified splits a Service's name, with its namespace or without.
func (p *plugin) qualified(name string) (namespace, short string) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "service/"), "svc/")
	if namespace, short, ok := strings.Cut(name, "/"); ok {
		return namespace, short
	}
	return p.namespace(), name
}

// asks gives a command the flags by which speakers are asked.
func (p *plugin) asks(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.live, "live", false, "Ask the speakers what they have sent, through the API server.")
	cmd.Flags().BoolVar(&p.direct, "direct", false, "Ask them on their nodes' addresses instead.")
}

// counting is for answers that only say how many routes there are.
func counting(*inspect.Snapshot) func(netip.Prefix) bool {
	return func(netip.Prefix) bool { return false }
}

// matching is for answers about those that a filter takes.
func matching(f inspect.Filter) func(*inspect.Snapshot) func(netip.Prefix) bool {
	return func(s *inspect.Snapshot) func(netip.Prefix) bool { return s.About(f) }
}

// complete offers names for an argument.
func (p *plugin) complete(names func(*inspect.View) []string, kinds ...inspect.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := p.snapshot(cmd.Context(), kinds...)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		all := names(inspect.Look(s))
		slices.Sort(all)
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// serviceNames offers Services as they may be written: those of the namespace without it, too.
func (p *plugin) serviceNames(v *inspect.View) []string {
	all := v.ServiceNames()
	for _, name := range all {
		if short, ok := strings.CutPrefix(name, p.namespace()+"/"); ok {
			all = append(all, short)
		}
	}
	return all
}
