package loopback

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// A Step is one thing that a user does, and what comes of it.
type Step struct {
	Title string
	Run   func(*Teller) error
}

// A Teller does what the user would do, and shows it.
type Teller struct {
	ctx     context.Context
	lab     *Lab
	out     io.Writer
	colours bool
	// written is the ConfigMap as it was last written.
	written string
}

// NewTeller tells on out what happens in the lab.
func NewTeller(ctx context.Context, lab *Lab, out io.Writer) *Teller {
	file, ok := out.(*os.File)
	return &Teller{ctx: ctx, lab: lab, out: out, colours: ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == ""}
}

// What a terminal shows in which way (ECMA-48 §8.3.117).
const (
	bold  = "1"
	green = "32"
	cyan  = "36"
)

// show prints text on lines of its own, in colour where that is seen.
func (t *Teller) show(colour, text string) {
	if t.colours {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(t.out, "\n"+text)
}

// Tell does one step.
func (t *Teller) Tell(s Step) error {
	t.show(bold, fmt.Sprintf("━━━ %s %s", s.Title, strings.Repeat("━", max(0, 100-len(s.Title)))))
	if err := s.Run(t); err != nil {
		return fmt.Errorf("%s: %w", s.Title, err)
	}
	return nil
}

// say explains.
func (t *Teller) say(format string, args ...any) { t.show(cyan, fmt.Sprintf("# "+format, args...)) }

// kubectl shows a command and what it prints.
func (t *Teller) kubectl(args ...string) error {
	t.show(green, "$ kubectl "+kubernetes.Quoted(args...))
	out, err := t.lab.Kubectl(t.ctx, "", args...)
	t.indent(out)
	if err != nil {
		return fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// apply shows a YAML document and applies it.
func (t *Teller) apply(document string) error {
	t.show(green, "$ kubectl apply -f - <<'EOF'")
	fmt.Fprintln(t.out, strings.TrimRight(document, "\n")+"\nEOF") // not indented: so it can be pasted
	out, err := t.lab.Kubectl(t.ctx, document, "apply", "-f", "-")
	t.indent(out)
	if err != nil {
		return fmt.Errorf("kubectl apply: %w", err)
	}
	return nil
}

func (t *Teller) indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprint(t.out, "    "+strings.TrimRight(line, "\n")+"\n")
	}
}

// routes waits until a prefix has exactly these next hops, and shows the router's table.
func (t *Teller) routes(prefix string, nodes ...Node) error {
	if err := t.lab.Hops(t.ctx, prefix, nodes...); err != nil {
		return err
	}
	return t.table()
}

func (t *Teller) table() error {
	t.show(green, fmt.Sprintf("router %s (AS %d)> show routes", t.lab.Router.Addr.Addr(), t.lab.Router.ASN))
	var b strings.Builder
	err := router.Print(&b, t.lab.Router.Table())
	t.indent(b.String())
	return err
}

// address waits until a Service has this address, and shows it.
func (t *Teller) address(service, want string) error {
	got, err := t.lab.Address(t.ctx, "default", service)
	if err != nil {
		return err
	}
	if got.String() != want {
		return fmt.Errorf("service %s got %s instead of %s", service, got, want)
	}
	return t.kubectl("get", "service", service)
}

// event waits for an event and shows it.
func (t *Teller) event(namespace, kind, object, reason, containing string) error {
	if _, err := t.lab.Event(t.ctx, namespace, object, reason, containing); err != nil {
		return err
	}
	return t.kubectl("events", "--namespace="+namespace, "--for="+kind+"/"+object)
}

// peers are the lab's, with the hold time that the documentation recommends. Tests, which may be slow, have the default.
func (t *Teller) peers() string {
	return t.lab.Peers() + "  hold-time: 9s            # a node that dies is forgotten within nine seconds\n"
}

// configure puts a configuration in force: the text behind the lab's peers.
func (t *Teller) configure(text string) error {
	if err := t.edit(text); err != nil {
		return err
	}
	return t.lab.Admitted(t.ctx, t.peers()+text)
}

// edit writes the configuration. The first time it shows the whole ConfigMap, and then what changes in it.
func (t *Teller) edit(text string) error {
	document := t.lab.ConfigMap(t.peers() + text)
	if t.written == "" {
		t.written = document
		return t.apply(document)
	}
	t.show(green, "$ kubectl edit configmap config --namespace=metallb-system")
	t.indent(difference(t.written, document))
	t.written = document
	if out, err := t.lab.Kubectl(t.ctx, document, "apply", "-f", "-"); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}

// difference shows the lines that went and those that came, as diff does.
func difference(before, after string) string {
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	// common[i][j] is how many lines old[i:] and now[j:] have in common.
	common := make([][]int, len(old)+1)
	for i := range common {
		common[i] = make([]int, len(now)+1)
	}
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(now) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if old[i] == now[j] {
				common[i][j] = 1 + common[i+1][j+1]
			}
		}
	}
	var b strings.Builder
	for i, j := 0, 0; i < len(old) || j < len(now); {
		switch {
		case i < len(old) && j < len(now) && old[i] == now[j]:
			i, j = i+1, j+1
		case j == len(now) || i < len(old) && common[i+1][j] >= common[i][j+1]:
			b.WriteString("- " + old[i] + "\n")
			i++
		default:
			b.WriteString("+ " + now[j] + "\n")
			j++
		}
	}
	return b.String()
}

// ConfigMap is the user's ConfigMap with a configuration.
func (l *Lab) ConfigMap(text string) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  namespace: metallb-system\n  name: config\ndata:\n  config: |\n")
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}

const (
	basicPools = `address-pools:
- name: default
  cidr:
  - 192.168.10.0/24
  advertisements:
  - aggregation-length: 32
`
	publicPool = `- name: production-public-ips
  cidr:
  - 203.0.113.16/30
  auto-assign: false       # only for those who ask for it
`
	ecommerce = `communities:
  # Our datacenter routers understand a "VPN only" BGP community.
  # Announcements tagged with this community will only be propagated
  # through the corporate VPN tunnel back to developer offices.
  vpn-only: 1234:1
` + basicPools + publicPool + `- # Production services will go here. Public IPs are expensive, so we leased
  # just 4 of them.
  name: production
  cidr:
  - 42.176.25.64/30
  advertisements:
  - aggregation-length: 32

- # On the other hand, the sandbox environment uses private IP space,
  # which is free and plentiful. We give this address pool a ton of IPs,
  # so that developers can spin up as many sandboxes as they need.
  name: sandbox
  cidr:
  - 192.168.144.0/20
  advertisements:
  - communities:
    - vpn-only
`
)

// service is a Service of type LoadBalancer; more is appended to its metadata and its spec.
func service(name, app, metadata, spec string) string {
	return "apiVersion: v1\nkind: Service\nmetadata:\n  name: " + name + "\n" + metadata +
		"spec:\n  ports:\n  - port: 80\n    targetPort: 80\n  selector:\n    app: " + app + "\n  type: LoadBalancer\n" + spec
}

// Story is the seed document's usage page, in its order. It needs a lab with three nodes in which everything runs.
var Story = []Step{
	{"Configuration: a router, two AS numbers, an address range", func(t *Teller) error {
		t.say("Three nodes, a router, and no cloud. Four facts make a configuration: the router's address, its AS number,\n# ours, and a range. Two more keys are for this lab, where router and nodes share one machine.")
		if err := t.kubectl("get", "nodes", "-o", "wide"); err != nil {
			return err
		}
		if err := t.configure(basicPools); err != nil {
			return err
		}
		t.say("The controller manager checked it and wrote what is in force for the speakers:")
		if err := t.kubectl("get", "configmap", "config-admitted", "--namespace=metallb-system"); err != nil {
			return err
		}
		return t.lab.SessionsUp(t.ctx)
	}},
	{"Simple balancers: a Service gets an address that the network can reach", func(t *Teller) error {
		t.say("A pod of an application named nginx runs on each node.")
		for i, node := range t.lab.Nodes {
			if err := t.lab.RunPod(t.ctx, "default", fmt.Sprintf("nginx-%d", i+1), map[string]string{"app": "nginx"}, node); err != nil {
				return err
			}
		}
		if err := t.apply(service("simple", "nginx", "", "")); err != nil {
			return err
		}
		if err := t.address("simple", "192.168.10.0"); err != nil {
			return err
		}
		if err := t.event("default", "service", "simple", "IPAllocated", "assigned 192.168.10.0 from pool default"); err != nil {
			return err
		}
		t.say("Every node attracts the traffic:")
		return t.routes("192.168.10.0/32", t.lab.Nodes...)
	}},
	{"Requesting a specific address, and asking for one that is taken", func(t *Teller) error {
		if err := t.apply(service("specific", "nginx", "", "  loadBalancerIP: 192.168.10.77\n")); err != nil {
			return err
		}
		if err := t.address("specific", "192.168.10.77"); err != nil {
			return err
		}
		if err := t.apply(service("late", "nginx", "", "  loadBalancerIP: 192.168.10.77\n")); err != nil {
			return err
		}
		if err := t.event("default", "service", "late", "SyncLoadBalancerFailed", "address 192.168.10.77 is held by service default/specific"); err != nil {
			return err
		}
		t.say("It waits. When the address becomes free, it gets it at once:")
		if err := t.kubectl("delete", "service", "specific"); err != nil {
			return err
		}
		return t.address("late", "192.168.10.77")
	}},
	{"Requesting a pool by annotation", func(t *Teller) error {
		t.say("A second pool, for those who ask for it:")
		if err := t.configure(basicPools + publicPool); err != nil {
			return err
		}
		if err := t.apply(service("nginx", "nginx", "  annotations:\n    metallb.universe.tf/address-pool: production-public-ips\n", "")); err != nil {
			return err
		}
		if err := t.address("nginx", "203.0.113.16"); err != nil {
			return err
		}
		return t.routes("203.0.113.16/32", t.lab.Nodes...)
	}},
	{"Traffic policies: Cluster, then Local", func(t *Teller) error {
		one, two, three := t.lab.Nodes[0], t.lab.Nodes[1], t.lab.Nodes[2]
		t.say("An application named web has two pods on %s and one on %s; none on %s.", one.Name, two.Name, three.Name)
		for i, node := range []Node{one, one, two} {
			if err := t.lab.RunPod(t.ctx, "default", fmt.Sprintf("web-%d", i+1), map[string]string{"app": "web"}, node); err != nil {
				return err
			}
		}
		if err := t.apply(service("web", "web", "", "  externalTrafficPolicy: Cluster\n")); err != nil {
			return err
		}
		if err := t.address("web", "192.168.10.1"); err != nil {
			return err
		}
		t.say("Cluster: every node attracts traffic, also %s, which passes it on.", three.Name)
		if err := t.routes("192.168.10.1/32", one, two, three); err != nil {
			return err
		}
		if err := t.kubectl("patch", "service", "web", "--patch", `{"spec":{"externalTrafficPolicy":"Local"}}`); err != nil {
			return err
		}
		t.say("Local: only nodes that run a pod.")
		if err := t.routes("192.168.10.1/32", one, two); err != nil {
			return err
		}
		t.say("The pod on %s fails its readiness probe:", two.Name)
		if err := t.lab.SetReady(t.ctx, "default", "web-3", false); err != nil {
			return err
		}
		if err := t.routes("192.168.10.1/32", one); err != nil {
			return err
		}
		t.say("It recovers, and another pod starts on %s:", three.Name)
		if err := t.lab.SetReady(t.ctx, "default", "web-3", true); err != nil {
			return err
		}
		if err := t.lab.RunPod(t.ctx, "default", "web-4", map[string]string{"app": "web"}, three); err != nil {
			return err
		}
		return t.routes("192.168.10.1/32", one, two, three)
	}},
	{"Example: production and sandboxes of an e-commerce site", func(t *Teller) error {
		if err := t.configure(ecommerce); err != nil {
			return err
		}
		if err := t.apply(service("shop", "nginx", "", "  loadBalancerIP: 42.176.25.64\n")); err != nil {
			return err
		}
		if err := t.address("shop", "42.176.25.64"); err != nil {
			return err
		}
		if err := t.apply(service("alices-sandbox", "nginx", "  annotations:\n    metallb.universe.tf/address-pool: sandbox\n", "")); err != nil {
			return err
		}
		if err := t.address("alices-sandbox", "192.168.144.0"); err != nil {
			return err
		}
		if err := t.lab.Hops(t.ctx, "42.176.25.64/32", t.lab.Nodes...); err != nil {
			return err
		}
		t.say("The sandbox carries the community by which the routers keep it inside the VPN:")
		if err := t.routes("192.168.144.0/32", t.lab.Nodes...); err != nil {
			return err
		}
		return t.lab.communities("192.168.144.0/32", "1234:1")
	}},
	{"A mistake in the configuration is reported, and changes nothing", func(t *Teller) error {
		before := t.lab.Router.String()
		broken := strings.Replace(ecommerce, "  advertisements:\n  - communities:\n    - vpn-only\n", "  auto-asign: true\n  advertisements:\n  - communities:\n    - vpn-onyl\n", 1)
		if err := t.edit(broken); err != nil {
			return err
		}
		if err := t.event("metallb-system", "configmap", "config", "InvalidConfig", `did you mean "vpn-only"?`); err != nil {
			return err
		}
		if _, err := t.lab.Event(t.ctx, "metallb-system", "config", "InvalidConfig", `did you mean "auto-assign"?`); err != nil {
			return err
		}
		t.say("The speakers never saw it: every route is as before.")
		if after := t.lab.Router.String(); after != before {
			return fmt.Errorf("the routes changed from\n%s\nto\n%s", before, after)
		}
		if err := t.table(); err != nil {
			return err
		}
		t.say("The repaired text is in force again:")
		if err := t.configure(ecommerce); err != nil {
			return err
		}
		t.say("Nor does a text count that would take addresses from Services:")
		if err := t.edit(strings.Replace(ecommerce, "192.168.10.0/24", "192.168.10.64/26", 1)); err != nil {
			return err
		}
		if err := t.event("metallb-system", "configmap", "config", "InvalidConfig", "no pool would own the address of Service"); err != nil {
			return err
		}
		return t.configure(ecommerce)
	}},
	{"Deletion", func(t *Teller) error {
		if err := t.kubectl("delete", "service", "simple", "nginx", "late", "web", "shop", "alices-sandbox"); err != nil {
			return err
		}
		t.say("The routes are gone, and the addresses are free:")
		for _, prefix := range []string{"192.168.10.0/32", "192.168.10.1/32", "192.168.10.77/32", "203.0.113.16/32", "42.176.25.64/32", "192.168.144.0/32"} {
			if err := t.lab.Hops(t.ctx, prefix); err != nil {
				return err
			}
		}
		if err := t.table(); err != nil {
			return err
		}
		return t.kubectl("get", "services")
	}},
	{"And at the end: a speaker is killed and a node drained, and the router's table stays", func(t *Teller) error {
		if err := t.apply(service("steady", "nginx", "", "")); err != nil {
			return err
		}
		const prefix = "192.168.10.2/32"
		if err := t.address("steady", "192.168.10.2"); err != nil {
			return err
		}
		if err := t.routes(prefix, t.lab.Nodes...); err != nil {
			return err
		}
		one, two := t.lab.Nodes[0], t.lab.Nodes[1]
		speaker := t.lab.speakers[one.Name]
		t.say("The speaker of %s is killed. The router has lost the session, and keeps the routes: they are stale, and in use.", one.Name)
		t.show(green, fmt.Sprintf("$ kill -KILL %d", speaker.PID()))
		speaker.Kill()
		if err := t.lab.Router.Wait(t.ctx, "stale routes of "+one.Name, func(paths []router.Path) bool {
			return slices.ContainsFunc(paths, func(p router.Path) bool { return p.NextHop == one.Addr && p.Stale })
		}); err != nil {
			return err
		}
		if err := t.routes(prefix, t.lab.Nodes...); err != nil {
			return err
		}
		t.say("It comes back, as its DaemonSet would bring it, and the routes are fresh. The table never lacked one.")
		if _, err := t.lab.StartSpeaker(one, nil); err != nil {
			return err
		}
		if err := t.lab.Router.Wait(t.ctx, "fresh routes of all nodes", func(paths []router.Path) bool {
			return len(paths) == len(t.lab.Nodes) && !slices.ContainsFunc(paths, func(p router.Path) bool { return p.Stale })
		}); err != nil {
			return err
		}
		if err := t.routes(prefix, t.lab.Nodes...); err != nil {
			return err
		}
		t.say("%s is drained. It stays in the table, as the last choice: GRACEFUL_SHUTDOWN (65535:0) and a longer AS path.", two.Name)
		if err := t.kubectl("annotate", "node", two.Name, "metallb.universe.tf/drain=disk change, 14:00"); err != nil {
			return err
		}
		if err := t.lab.Router.Wait(t.ctx, two.Name+" to be the last choice", func(paths []router.Path) bool {
			return slices.ContainsFunc(paths, func(p router.Path) bool {
				return p.NextHop == two.Addr && slices.Contains(p.Communities, "65535:0")
			})
		}); err != nil {
			return err
		}
		return t.routes(prefix, t.lab.Nodes...)
	}},
}
