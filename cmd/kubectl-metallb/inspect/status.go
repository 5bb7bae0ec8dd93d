package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/metallb/cloud-provider-metallb/service"
	"github.com/metallb/cloud-provider-metallb/speaker"
)

// Status is an installation at a glance.
type Status struct {
	Namespace string       `json:"namespace"`
	Programs  []Program    `json:"programs"`
	Leader    string       `json:"leader,omitempty"`
	Config    ConfigStatus `json:"config"`
	Nodes     []NodeStatus `json:"nodes"`
	Pools     []Pool       `json:"pools"`
	Services  int          `json:"services"` // that are ours
	Waiting   []Waiting    `json:"waiting"`
	// Unannounced are addresses that Services show and no node announces.
	Unannounced []Unannounced `json:"unannounced"`
	Problems    []Problem     `json:"problems"`
	Unread      []Unread      `json:"unread,omitempty"`
}

// A Program is one version of one of the programs.
type Program struct {
	Component string `json:"component"`
	Version   string `json:"version"`
	Pods      int    `json:"pods"`
	Ready     int    `json:"ready"`
}

// ConfigStatus is which text is in force, and what became of the user's.
type ConfigStatus struct {
	Hash       string `json:"hash,omitempty"`
	AdmittedAt string `json:"admittedAt,omitempty"`
	Peers      int    `json:"peers"`
	Pools      int    `json:"pools"`
	// State of the user's text: in force, refused, not judged yet, or gone.
	State   string   `json:"state"`
	Refused *Refused `json:"refused,omitempty"`
}

// Refused is why the user's text is not in force.
type Refused struct {
	Hash     string   `json:"hash"`
	Time     string   `json:"time"`
	Problems []string `json:"problems"`
	Services []string `json:"services,omitempty"`
}

// The states of the user's text.
const (
	InForce   = "in force"
	IsRefused = "refused"
	Pending   = "not judged yet"
	Gone      = "gone"
	Missing   = "missing"
	// Unreadable is what may be any of these.
	Unreadable = "unknown"
)

// NodeStatus is one node at a glance.
type NodeStatus struct {
	Node     string `json:"node"`
	Speaker  string `json:"speaker"`      // running, not ready, none, or unknown
	Sessions int    `json:"sessions"`     // that it is to have
	Mute     int    `json:"mute"`         // that it should have and cannot
	Up       *int   `json:"up,omitempty"` // sessions that are up, if the speaker told
	Prefixes int    `json:"prefixes"`     // that it is to announce
	Drained  string `json:"drained,omitempty"`
	Unfit    string `json:"unfit,omitempty"`
}

// Unannounced is an address that no node announces.
type Unannounced struct {
	Service string     `json:"service"`
	Address netip.Addr `json:"address"`
	Why     string     `json:"why"`
}

// A Problem is what an operator should look at, and the command that tells more.
type Problem struct {
	Text string `json:"text"`
	Next string `json:"next"`
}

// Status describes the installation.
func (v *View) Status() Status {
	s := Status{
		Namespace: v.Namespace, Programs: v.Programs(), Config: v.ConfigStatus(), Waiting: v.waiting(), Nodes: []NodeStatus{},
		Pools: []Pool{}, Unannounced: []Unannounced{}, Problems: []Problem{}, Unread: v.lacks(needsOf(v.Config, ConfigMaps, Services, EndpointSlices, Nodes, Pods, Leases)...),
	}
	problem := func(next, format string, args ...any) {
		s.Problems = append(s.Problems, Problem{fmt.Sprintf(format, args...), next})
	}
	switch s.Config.State {
	case IsRefused:
		problem("kubectl metallb status -o yaml", "the text %s is refused: %s", s.Config.Refused.Hash, first(s.Config.Refused.Problems))
	case Pending:
		problem("kubectl metallb wait admitted", "the text %s has not been judged yet: does the controller manager run?", v.Hash)
	case Unreadable:
	case Missing:
		problem(fmt.Sprintf("kubectl -n %s create configmap %s --from-file=config=FILE", v.Namespace, v.ConfigName), "there is no ConfigMap %s/%s, and no configuration is in force", v.Namespace, v.ConfigName)
	case Gone:
		problem(fmt.Sprintf("kubectl -n %s get configmap %s", v.Namespace, v.ConfigName), "ConfigMap %s/%s is gone: the text %s stays in force", v.Namespace, v.ConfigName, s.Config.Hash)
	}
	if v.Broken != "" {
		problem("kubectl metallb status -o yaml", "the admitted configuration cannot be read: %s", v.Broken)
	}
	var led bool
	if s.Leader, led = v.leader(); !led && len(v.lacks(Leases)) == 0 {
		problem(fmt.Sprintf("kubectl -n %s get pods -l %s=%s", v.Namespace, componentLabel, controller), "no controller manager leads: no Service gets an address")
	}
	if usage, err := v.Pools(""); err == nil { // one pool may not exist; all of them do
		s.Pools = usage.Pools
	}
	for i := range s.Pools {
		s.Pools[i].Holders = nil
		for _, u := range s.Pools[i].Usage {
			if u.Free == 0 {
				problem("kubectl metallb pools "+s.Pools[i].Name, "pool %q has no free %s address", s.Pools[i].Name, u.Family)
			}
		}
	}
	for i, w := range s.Waiting {
		if len(w.Addresses) > 0 || i == mostProblems {
			if more := without(s.Waiting[i:]); more > 0 {
				problem("kubectl metallb pools", "%s for an address", more.wait("more Service"))
			}
			break
		}
		problem("kubectl metallb why "+w.Service, "Service %s waits for an address: %s", w.Service, w.Why)
	}
	v.lookAtNodes(&s, problem)
	for i, u := range s.Unannounced {
		if i == mostProblems {
			problem("kubectl metallb status -o yaml", "%d more addresses are announced by no node", len(s.Unannounced)-i)
			break
		}
		problem("kubectl metallb why "+u.Service, "no node announces %s of Service %s: %s", u.Address, u.Service, u.Why)
	}
	return s
}

// mostProblems of one kind are written out.
const mostProblems = 5

type number int

func (n number) wait(what string) string {
	if n == 1 {
		return "1 " + what + " waits"
	}
	return fmt.Sprintf("%d %ss wait", n, what)
}

func without(waiting []Waiting) (n number) {
	for _, w := range waiting {
		if len(w.Addresses) == 0 {
			n++
		}
	}
	return n
}

// lookAtNodes asks every node in turn, so that only few outlooks are in memory.
func (v *View) lookAtNodes(s *Status, problem func(next, format string, args ...any)) {
	type address struct {
		why   string
		nodes int // that withhold it
		told  bool
	}
	addresses := map[speaker.Announced]*address{}
	var order []speaker.Announced
	for _, svc := range v.services {
		if !v.Ours.Serves(svc.Service) {
			continue
		}
		s.Services++
		if svc.DeletionTimestamp != nil {
			continue
		}
		for _, addr := range service.Addresses(svc.Service) {
			a := speaker.Announced{Service: service.Name(svc.Service), Addr: addr}
			if addresses[a] == nil {
				order = append(order, a)
			}
			addresses[a] = &address{}
		}
	}
	var alone []string
	for node, o := range ahead(v.nodes, v.now) {
		n := NodeStatus{Node: node.Name, Speaker: v.speakerOf(node.Name), Sessions: len(o.peers), Mute: len(o.mute), Drained: o.drained, Unfit: speaker.Unfit(v.forgiven(node), false)}
		n.Prefixes = o.prefixes()
		s.Nodes = append(s.Nodes, n)
		switch {
		case n.Speaker == speakerNone && len(v.speakers) == 0: // perhaps they run elsewhere than in Pods
		case n.Speaker == speakerNone:
			alone = append(alone, node.Name)
			continue
		case n.Speaker == speakerNotReady:
			problem(fmt.Sprintf("kubectl -n %s logs %s", v.Namespace, v.speakers[node.Name].Name), "the speaker on node %s is not ready", node.Name)
		}
		if document := v.told[node.Name]; document != nil {
			up := 0
			for _, p := range o.peers {
				switch told := v.toldOf(node.Name, p.Name); {
				case told == nil:
				case told.State == established:
					up++
				default:
					problem("kubectl metallb peers --live", "node %s: %s", node.Name, downText(told))
				}
			}
			s.Nodes[len(s.Nodes)-1].Up = &up
			if stale := v.stale(document); stale != "" {
				problem(fmt.Sprintf("kubectl -n %s logs %s", v.Namespace, v.speakers[node.Name].Name), "%s", stale)
			}
		}
		for _, text := range o.problems {
			problem("kubectl metallb peers", "node %s: %s", node.Name, text)
		}
		for _, of := range order {
			a := addresses[of]
			if a.told {
				continue
			}
			why := o.withheld[of]
			if why == "" {
				if a.told = o.told(v, of); a.told {
					continue
				}
				why = fmt.Sprintf("node %s has no session with a peer that is to hear of it", node.Name)
			}
			if a.nodes++; a.why == "" {
				a.why = why
			}
		}
	}
	if len(v.lacks(EndpointSlices, Nodes)) > 0 {
		return // nobody knows who announces what
	}
	if len(v.speakers) == 0 && len(v.lacks(Pods)) == 0 {
		problem(fmt.Sprintf("kubectl -n %s get daemonsets", v.Namespace), "there is no Pod of a speaker in namespace %s", v.Namespace)
	}
	if len(alone) > 0 {
		problem(fmt.Sprintf("kubectl -n %s get pods -o wide -l %s=%s", v.Namespace, componentLabel, theSpeaker), "no speaker runs on node %s%s", alone[0], andMore(len(alone)-1))
	}
	for _, of := range order {
		a := addresses[of]
		if a.told {
			continue
		}
		why := cmp.Or(a.why, "no speaker runs")
		if a.nodes > 1 {
			why += fmt.Sprintf("; likewise, or for other reasons, on %s", count(a.nodes-1, "other node"))
		}
		s.Unannounced = append(s.Unannounced, Unannounced{of.Service, of.Addr, why})
	}
}

// What is known of a node's speaker.
const (
	speakerRuns     = "running"
	speakerNotReady = "not ready"
	speakerNone     = "none"
	speakerUnknown  = "unknown"
)

func (v *View) speakerOf(node string) string {
	switch pod := v.speakers[node]; {
	case len(v.lacks(Pods)) > 0:
		return speakerUnknown
	case pod == nil:
		return speakerNone
	case !ready(pod):
		return speakerNotReady
	}
	return speakerRuns
}

// Programs are the versions of the programs that run.
func (v *View) Programs() []Program {
	all := []Program{}
	for _, pod := range v.Pods {
		component := pod.Labels[componentLabel]
		if len(pod.Spec.Containers) == 0 {
			continue
		}
		version := Version(pod.Spec.Containers[0].Image)
		i := slices.IndexFunc(all, func(p Program) bool { return p.Component == component && p.Version == version })
		if i < 0 {
			i, all = len(all), append(all, Program{Component: component, Version: version})
		}
		if all[i].Pods++; ready(pod) {
			all[i].Ready++
		}
	}
	slices.SortFunc(all, func(a, b Program) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Version, b.Version))
	})
	return all
}

// Version is that of an image, by its tag.
func Version(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		return image[i+1:]
	}
	return "unknown"
}

// leader returns who leads, and whether anybody does.
func (v *View) leader() (who string, leads bool) {
	l := v.Lease
	if l == nil || l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" || l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return "", false
	}
	// A watch's delay is not the leader's death.
	const patience = 5 * time.Second
	end := l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second + patience)
	return *l.Spec.HolderIdentity, v.Taken.Before(end)
}

// ConfigStatus tells which text is in force.
func (v *View) ConfigStatus() ConfigStatus {
	c := ConfigStatus{State: Missing}
	if v.Admitted != nil {
		c.Hash, c.AdmittedAt = v.Admitted.Data[service.KeyHash], v.Admitted.Data[service.KeyAdmittedAt]
	}
	c.Peers, c.Pools = len(v.config().Peers), len(v.config().Pools)
	if r := v.Refusal; r != nil {
		c.Refused = &Refused{r.Hash, r.Time, r.Problems, r.Services}
	}
	switch {
	case len(v.lacks(ConfigMaps)) > 0:
		c.State = Unreadable
	case v.User == nil && c.Hash != "":
		c.State = Gone
	case v.User == nil:
	case v.Refusal != nil && (v.Refusal.Hash == v.Hash || v.Hash == ""):
		c.State = IsRefused
	case v.Hash == c.Hash:
		c.State = InForce
	default:
		c.State = Pending
	}
	return c
}

func first(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return strings.ReplaceAll(all[0], "\n", "; ") + andMore(len(all)-1)
}

func andMore(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}
