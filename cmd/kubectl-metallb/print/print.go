package print

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
)

// Formats that an answer can be asked for in.
const (
	Plain = ""
	Wide  = "wide"
	JSON  = "json"
	YAML  = "yaml"
)

// Data writes an answer for programs, and reports whether the format is one for them.
func Data(w io.Writer, format string, answer any) (bool, error) {
	switch format {
	case JSON:
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return true, encoder.Encode(answer)
	case YAML:
		text, err := yaml.Marshal(answer)
		if err == nil {
			_, err = w.Write(text)
		}
		return true, err
	}
	return false, nil
}

// A page collects what is written, and writes tables in columns.
type page struct{ io.Writer }

func (p page) line(format string, args ...any) { _, _ = fmt.Fprintf(p, format+"\n", args...) } // the writer's owner looks at its errors

// table writes rows, of which the first is the heading.
func (p page) table(rows [][]string) {
	t := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	_ = t.Flush()
}

// Unread says what could not be read, and what follows from that.
func Unread(w io.Writer, all []inspect.Unread) {
	p := page{w}
	for _, u := range all {
		p.line("%s", u)
	}
	if len(all) > 0 {
		p.line("What could not be read may change the answer.")
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func count(n int, what string) string { return countOf(n, "1 "+what, what+"s") }

func countOf(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// Why writes the chain of a Service. With one node, each of its links is a line.
func Why(w io.Writer, why inspect.Why, node string, wide bool) {
	p := page{w}
	verdict := why.Source + ": announced"
	if !why.Announced {
		verdict = why.Source + ": not announced: " + oneLine(why.Reason)
	}
	if len(why.Unread) > 0 {
		verdict += " (as far as could be read)"
	}
	p.line("Service %s", why.Service)
	p.line("%s", verdict)
	p.line("")
	rows := [][]string{{"ADDRESS", "NODE", "LINK", "STATE", "WHY"}}
	add := func(address, node string, l inspect.Link) {
		state := string(l.State)
		if l.State == inspect.Broken {
			state = "BROKEN"
		}
		rows = append(rows, []string{address, node, l.Name, state, oneLine(l.Text)})
	}
	for _, l := range why.Links {
		add("-", "-", l)
	}
	each := wide || node != ""
	broken := slices.ContainsFunc(why.Links, func(l inspect.Link) bool { return l.State == inspect.Broken })
	for _, a := range why.Addresses {
		add(a.Address.String(), "-", a.Pool)
		for _, n := range a.Nodes {
			if each {
				for _, l := range n.Links {
					add(a.Address.String(), n.Node, l)
				}
			}
		}
	}
	p.table(rows)
	if each || broken || len(why.Addresses) == 0 { // then it is the same on every node
		return
	}
	p.line("")
	rows = [][]string{{"ADDRESS", "NODE", "ANNOUNCED", "LINK", "WHY"}}
	for _, a := range why.Addresses {
		for _, n := range a.Nodes {
			row := []string{a.Address.String(), n.Node, "intended", "-", "-"}
			i := slices.IndexFunc(n.Links, func(l inspect.Link) bool { return l.State == inspect.Broken })
			switch {
			case n.Announces:
				row[4] = n.Links[0].Text
				if sent := n.Links[len(n.Links)-1]; sent.Told {
					row[2], row[4] = "sent", oneLine(sent.Text)
				}
				for _, l := range n.Links {
					if l.State == inspect.Remark {
						row[4] += "; " + oneLine(l.Text)
					}
				}
			case i >= 0:
				row[2], row[3], row[4] = "not intended", n.Links[i].Name, oneLine(n.Links[i].Text)
				if n.Links[i].Told {
					row[2] = "not sent"
				}
			default:
				row[2], row[4] = "not intended", oneLine(n.Reason)
			}
			rows = append(rows, row)
		}
	}
	p.table(rows)
}

// Routes writes what routers are to hear.
func Routes(w io.Writer, routes inspect.Routes) {
	p := page{w}
	rows := [][]string{{"NODE", "PEER", "PREFIX", "NEXT HOP", "ATTRIBUTES", "SOURCE", ""}}
	for _, r := range routes.Routes {
		hop := "-"
		if r.NextHop.IsValid() {
			hop = r.NextHop.String()
		}
		rows = append(rows, []string{r.Node, r.Peer, r.Prefix.String(), hop, orDash(r.Attributes()), source(r.Sent), differs(r.Differs)})
	}
	if len(rows) == 1 {
		p.line("intended: no route")
		return
	}
	p.table(rows)
}

func source(sent bool) string {
	if sent {
		return "sent"
	}
	return "intended"
}

func differs(in string) string {
	if in == "" {
		return ""
	}
	return "DIFFERS: " + in
}

// Peers writes the sessions.
func Peers(w io.Writer, peers inspect.Peers) {
	p := page{w}
	told := [][]string{{"NODE", "PEER", "ADDRESS", "STATE", "ATTEMPTS", "PREFIXES", "SOURCE", "LAST REASON"}}
	rows := [][]string{{"NODE", "PEER", "ADDRESS", "AS", "OUR AS", "PREFIXES", "SOURCE", "PROBLEM"}}
	for _, s := range peers.Sessions {
		if t := s.Told; t != nil {
			state := t.State
			if !t.Since.IsZero() {
				state += " since " + t.Since.UTC().Format(time.RFC3339)
			}
			told = append(told, []string{s.Node, s.Peer, s.Address.String(), state, fmt.Sprint(t.Attempts), fmt.Sprint(t.Prefixes), "sent", orDash(oneLine(t.Reason))})
		}
		rows = append(rows, []string{s.Node, s.Peer, s.Address.String(), s.AS, fmt.Sprint(s.MyASN), fmt.Sprint(s.Prefixes), "intended", orDash(oneLine(s.Problem))})
	}
	if len(rows) == 1 {
		p.line("intended: no session")
		return
	}
	p.table(rows)
	if len(told) > 1 {
		p.line("")
		p.table(told)
	}
}

// Pools writes the pools, and who waits. Of one pool it writes the holders.
func Pools(w io.Writer, pools inspect.Pools, one, wide bool) {
	p := page{w}
	p.table(usage(pools.Pools))
	if one || wide {
		for _, pool := range pools.Pools {
			if len(pool.Holders) == 0 {
				continue
			}
			p.line("")
			rows := [][]string{{"ADDRESS", "HOLDER"}}
			for _, h := range pool.Holders {
				rows = append(rows, []string{h.Address.String(), h.Service})
			}
			p.table(rows)
		}
	}
	waiting(p, pools.Waiting)
}

func usage(pools []inspect.Pool) [][]string {
	rows := [][]string{{"POOL", "FAMILY", "SIZE", "USED", "FREE", "AUTO-ASSIGN", "RANGES"}}
	for _, pool := range pools {
		for _, u := range pool.Usage {
			ranges := strings.Join(pool.Ranges[:min(3, len(pool.Ranges))], ",")
			if more := len(pool.Ranges) - 3; more > 0 {
				ranges += fmt.Sprintf(" and %d more", more)
			}
			rows = append(rows, []string{pool.Name, u.Family, fmt.Sprintf("%.6g", u.Size), fmt.Sprint(u.Used), fmt.Sprintf("%.6g", u.Free), fmt.Sprint(pool.AutoAssign), ranges})
		}
	}
	return rows
}

func waiting(p page, all []inspect.Waiting) {
	if len(all) == 0 {
		return
	}
	p.line("")
	rows := [][]string{{"WAITING", "KEEPS", "WHY"}}
	for _, w := range all {
		keeps := "-"
		if len(w.Addresses) > 0 {
			var texts []string
			for _, addr := range w.Addresses {
				texts = append(texts, addr.String())
			}
			keeps = strings.Join(texts, ",")
		}
		rows = append(rows, []string{w.Service, keeps, oneLine(w.Why)})
	}
	p.table(rows)
}

// Status writes an installation at a glance.
func Status(w io.Writer, s inspect.Status, wide bool) {
	p := page{w}
	leader := "nobody"
	if s.Leader != "" {
		leader = s.Leader
	}
	p.line("Installation in namespace %s; leader: %s", s.Namespace, leader)
	state := s.Config.State
	if s.Config.Refused != nil && state == inspect.IsRefused {
		state = fmt.Sprintf("%s (%s)", state, s.Config.Refused.Hash)
	}
	if s.Config.Hash == "" {
		p.line("Configuration: none in force; the text is %s", state)
	} else {
		p.line("Configuration %s in force since %s: %s, %s; the text is %s", s.Config.Hash, s.Config.AdmittedAt, count(s.Config.Peers, "peer"), count(s.Config.Pools, "pool"), state)
	}
	if len(s.Programs) > 0 {
		p.line("")
		rows := [][]string{{"PROGRAM", "VERSION", "PODS", "READY"}}
		for _, program := range s.Programs {
			rows = append(rows, []string{program.Component, program.Version, fmt.Sprint(program.Pods), fmt.Sprint(program.Ready)})
		}
		p.table(rows)
	}
	p.line("")
	rows := [][]string{{"NODE", "SPEAKER", "SESSIONS", "PREFIXES", "SOURCE", "MARK"}}
	for _, n := range s.Nodes {
		mark := n.Unfit
		if mark == "" && n.Drained != "" {
			mark = "drained: " + n.Drained
		}
		sessions := fmt.Sprint(n.Sessions)
		if n.Up != nil {
			sessions = fmt.Sprintf("%d, %d up (sent)", n.Sessions, *n.Up)
		}
		if n.Mute > 0 {
			sessions = fmt.Sprintf("%d, and %d that cannot be", n.Sessions, n.Mute)
		}
		rows = append(rows, []string{n.Node, n.Speaker, sessions, fmt.Sprint(n.Prefixes), "intended", orDash(mark)})
	}
	const most = 20
	if !wide && len(rows) > most+1 {
		dropped := len(rows) - 1 - most
		rows = append(rows[:most+1], []string{fmt.Sprintf("and %d more: -o wide shows them", dropped)})
	}
	p.table(rows)
	p.line("")
	p.table(usage(s.Pools))
	p.line("")
	p.line("%s of ours, of which %d wait; %s that no node announces (intended)", count(s.Services, "Service"), len(s.Waiting), countOf(len(s.Unannounced), "1 address", "addresses"))
	if s.Config.Refused != nil && s.Config.State == inspect.IsRefused && wide {
		p.line("")
		for _, problem := range s.Config.Refused.Problems {
			p.line("refused: %s", oneLine(problem))
		}
	}
	p.line("")
	if len(s.Problems) == 0 {
		p.line("No problems are known.")
		return
	}
	for _, problem := range s.Problems {
		p.line("PROBLEM  %s", oneLine(problem.Text))
		p.line("  try    %s", problem.Next)
	}
}

// Plan writes what a text would do.
func Plan(w io.Writer, plan inspect.Plan, wide bool) {
	p := page{w}
	verdict := "would be admitted"
	if !plan.Admitted {
		verdict = "would be REFUSED"
	}
	if len(plan.Unread) > 0 {
		verdict += ", as far as could be read"
	}
	p.line("The text %s %s (intended)", plan.Hash, verdict)
	for _, reason := range plan.Reasons {
		p.line("  %s", strings.ReplaceAll(reason, "\n", "\n  "))
	}
	for _, warning := range plan.Warnings {
		p.line("  warning: %s", oneLine(warning))
	}
	if plan.Confirm != "" {
		p.line("")
		p.line("To do it all the same, annotate the ConfigMap with %s; then:", plan.Confirm)
	}
	if !plan.Changes() {
		if plan.Admitted {
			p.line("")
			p.line("intended: nothing changes for Services, sessions and routes")
		}
		return
	}
	if len(plan.Services) > 0 {
		p.line("")
		rows := [][]string{{"SERVICE", "INTENDED", "FROM", "TO", "WHY"}}
		for _, c := range plan.Services {
			rows = append(rows, []string{c.Service, c.What, addresses(c.From), addresses(c.To), orDash(oneLine(c.Why))})
		}
		p.some(rows, wide)
	}
	if len(plan.Sessions) > 0 {
		p.line("")
		rows := [][]string{{"NODE", "PEER", "INTENDED", "WHY"}}
		for _, c := range plan.Sessions {
			rows = append(rows, []string{c.Node, c.Peer, c.What, orDash(c.Why)})
		}
		p.some(rows, wide)
	}
	if len(plan.Prefixes) > 0 {
		p.line("")
		rows := [][]string{{"PREFIX", "INTENDED"}}
		for _, c := range plan.Prefixes {
			var parts []string
			for _, part := range []struct {
				n    int
				what string
			}{{c.Announced, "announced"}, {c.Changed, "changed"}, {c.Withdrawn, "withdrawn"}} {
				if part.n == 1 {
					parts = append(parts, part.what+" by 1 node")
				} else if part.n > 1 {
					parts = append(parts, fmt.Sprintf("%s by %d nodes", part.what, part.n))
				}
			}
			rows = append(rows, []string{c.Prefix.String(), strings.Join(parts, ", ")})
		}
		p.some(rows, wide)
	}
}

// some writes the first rows of a table, and how many there are, or all of them.
func (p page) some(rows [][]string, all bool) {
	const most = 20
	if dropped := len(rows) - 1 - most; !all && dropped > 0 {
		rows = append(rows[:most+1:most+1], []string{fmt.Sprintf("and %d more: -o wide shows them", dropped)})
	}
	p.table(rows)
}

func addresses[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, addr := range all {
		texts[i] = addr.String()
	}
	return orDash(strings.Join(texts, ","))
}

// Drain writes what a drain would move.
func Drain(w io.Writer, d inspect.Drain, wide bool) {
	p := page{w}
	if d.Already != "" {
		p.line("Node %s is being drained already: %s", d.Node, d.Already)
	}
	if len(d.Moves) == 0 {
		p.line("intended: node %s announces nothing, so that nothing moves", d.Node)
		return
	}
	rows := [][]string{{"PREFIX", "INTENDED", "SERVICES", "ROUTERS THAT HEAR IT FROM NO OTHER NODE"}}
	for _, m := range d.Moves {
		to := "NO OTHER PATH: it stays here while the mark does"
		if len(m.To) > 0 {
			to = "moves to " + shortened(m.To)
		}
		rows = append(rows, []string{m.Prefix.String(), to, orDash(shortened(m.Services)), orDash(strings.Join(m.Alone, ","))})
	}
	p.some(rows, wide)
	if stranded := d.Stranded(); len(stranded) > 0 {
		p.line("")
		p.line("Without another path: %d of %s (intended)", len(stranded), countOf(len(d.Moves), "1 prefix", "prefixes"))
	}
}

func shortened(all []string) string {
	const most = 4
	text := strings.Join(all[:min(most, len(all))], ",")
	if more := len(all) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Findings writes what validate found, for compilers' readers or for GitHub.
func Findings(w io.Writer, all []inspect.Finding, github bool) {
	p := page{w}
	for _, f := range all {
		if !github {
			p.line("%s", f)
			continue
		}
		kind := "error"
		if f.Warning {
			kind = "warning"
		}
		where := "file=" + property.Replace(f.File)
		if f.Line > 0 {
			where += fmt.Sprintf(",line=%d", f.Line)
		}
		if f.Column > 0 {
			where += fmt.Sprintf(",col=%d", f.Column)
		}
		p.line("::%s %s::%s", kind, where, message.Replace(f.Text))
	}
}

// How GitHub wants what it takes for its own in commands of workflows.
var (
	message  = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)
