package migrate

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

// ConfigMap returns the configuration in the ConfigMap where the controller manager reads it.
func (r *Result) ConfigMap(namespace, name string) (string, error) {
	meta, data, m := mapping(), mapping(), mapping()
	put(meta, "namespace", text(namespace))
	put(meta, "name", text(name))
	put(data, "config", literal(r.Text))
	put(m, "apiVersion", text("v1"))
	put(m, "kind", text("ConfigMap"))
	put(m, "metadata", meta)
	put(m, "data", data)
	return write(m)
}

// Values returns the configuration as values of the Helm chart, with those that follow from how MetalLB was started.
func (r *Result) Values() (string, error) {
	m := mapping()
	put(m, "config", literal(r.Text))
	if class := r.Options.Class; class != "" {
		controller := mapping()
		put(controller, "loadBalancerClasses", words([]string{class}))
		put(controller, "loadBalancerClassOnly", plain(true))
		put(m, "controller", controller)
	}
	if r.Options.Mode == "frr" {
		speaker := mapping()
		put(speaker, "port", plain(anotherPort))
		put(m, "speaker", speaker)
	}
	for _, p := range r.peers {
		if !p.spec("bfdProfile").absent() {
			bfd := mapping()
			put(bfd, "enabled", plain(true))
			put(m, "bfd", bfd)
			break
		}
	}
	return write(m)
}

func literal(s string) *yaml.Node {
	n := text(s)
	n.Style = yaml.LiteralStyle
	return n
}

// Report writes for people what becomes of everything.
func (r *Result) Report(w io.Writer, c *Comparison) {
	p := page{w}
	var last Level
	for _, m := range r.Remarks {
		if m.Level != last {
			last = m.Level
			p.line("%s:", last)
		}
		where := m.Object
		if m.Field != "" {
			where += " " + m.Field
		}
		p.line("- %s: %s", where, strings.ReplaceAll(m.Text, "\n", " "))
		if m.Do != "" {
			p.line("  -> %s", m.Do)
		}
	}
	if len(r.Commands) > 0 {
		p.line("before the configuration is in force, copy the passwords:")
		for _, command := range r.Commands {
			p.line("  %s", strings.ReplaceAll(command, "\n", "\n  "))
		}
	}
	if c != nil {
		c.report(p)
	}
}

func (c *Comparison) report(p page) {
	rows := [][]string{{"SERVICE", "ADDRESS", "WHY"}}
	for _, t := range c.Services {
		what := map[string]string{
			inspect.Keeps: "keeps " + addresses(t.Gets), inspect.Moves: fmt.Sprintf("would move from %s to %s", addresses(t.Has), addresses(t.Gets)),
			inspect.Waits: "would wait", inspect.Served: "would get " + addresses(t.Gets), inspect.Left: t.What,
		}[t.What]
		if t.What == inspect.Waits && len(t.Has) > 0 {
			what = "would lose " + addresses(t.Has)
		}
		rows = append(rows, []string{t.Service, what, t.Why})
	}
	p.table(rows)
	p.line("")
	rows = [][]string{{"NODE", "PEER", "EQUAL", "MORE", "FEWER", "OTHERWISE"}}
	for _, r := range c.Routers {
		rows = append(rows, []string{r.Node, r.Peer, fmt.Sprint(r.Equal), some(r.More), some(r.Fewer), some(r.Otherwise)})
	}
	p.table(rows)
}

func addresses(all []netip.Addr) string {
	var texts []string
	for _, addr := range all {
		texts = append(texts, addr.String())
	}
	return strings.Join(texts, " and ")
}

// some writes the first few, and how many more there are.
func some(all []string) string {
	const most = 3
	switch {
	case len(all) == 0:
		return "-"
	case len(all) <= most:
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

// A page writes lines, and tables in columns.
type page struct{ io.Writer }

func (p page) line(format string, args ...any) { _, _ = fmt.Fprintf(p, format+"\n", args...) } // the writer's owner looks at its errors

func (p page) table(rows [][]string) {
	t := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	_ = t.Flush()
}
