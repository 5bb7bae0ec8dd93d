package migrate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A Level says what a Remark means for whoever migrates.
type Level string

// The levels. What is Kept is the same afterwards.
const (
	Kept    Level = "kept"
	Differs Level = "differs"
	Unsaid  Level = "cannot be said"
	Refused Level = "refused"
)

// A Remark is what becomes of an object, or of one of its fields.
type Remark struct {
	Level  Level  `json:"level"`
	Object string `json:"object"`          // and where it stands
	Field  string `json:"field,omitempty"` // empty: the object as a whole
	Text   string `json:"text"`
	Do     string `json:"do,omitempty"`
}

// Options are what resources do not tell.
type Options struct {
	// Mode is MetalLB's METALLB_BGP_TYPE: native, frr or frr-k8s; empty: nobody knows.
	Mode string
	// Class is the loadBalancerClass that MetalLB was started for, by --lb-class; empty: none.
	Class string
	// From is MetalLB's namespace, and To is ours; empty: the usual one.
	From, To string
}

// A Result is what resources become.
type Result struct {
	// Text is the configuration; empty if something is refused.
	Text    string   `json:"config"`
	Remarks []Remark `json:"remarks"`
	// Commands copy the passwords, and have to be run before the text is in force.
	Commands []string `json:"commands,omitempty"`
	Options  Options  `json:"-"`

	metallb
}

// metallb is what MetalLB is told by the resources.
type metallb struct {
	peers       []*peer
	pools       []*pool
	communities map[string]string // what their names stand for
}

// A converter collects what becomes of resources.
type converter struct {
	Result
	objects  []*object
	profiles []*object
	aliases  map[string]*object // who defines a name of a community
	values   *yaml.Node         // the communities
}

// Convert makes a configuration of resources.
func Convert(sources []Source, o Options) *Result {
	c := &converter{Result: Result{Options: o}, aliases: map[string]*object{}, values: mapping()}
	var problems []Remark
	c.objects, problems = objects(sources)
	c.Remarks, c.communities = problems, map[string]string{}
	c.sort()
	if text, from := c.configMap(); text != nil {
		c.asItIs(text.text(), from)
	} else {
		c.convert()
	}
	c.options()
	sortRemarks(c.Remarks)
	return &c.Result
}

// sortRemarks puts what matters most first.
func sortRemarks(all []Remark) {
	order := []Level{Refused, Unsaid, Differs, Kept}
	slices.SortStableFunc(all, func(a, b Remark) int { return slices.Index(order, a.Level) - slices.Index(order, b.Level) })
}

// options adds what follows from how MetalLB was started.
func (c *converter) options() {
	add := func(text, do string) {
		c.Remarks = append(c.Remarks, Remark{Level: Differs, Object: "MetalLB", Text: text, Do: do})
	}
	if class := c.Options.Class; class != "" {
		add(fmt.Sprintf("serves Services of loadBalancerClass %s alone, which nobody can change on a Service", class),
			fmt.Sprintf("chart values controller.loadBalancerClasses: [%s] and controller.loadBalancerClassOnly: true, which --values writes", class))
	}
	if c.Options.Mode == "frr" {
		add("in FRR mode serves metrics on port 7473 of each node, where our speakers do", fmt.Sprintf("chart value speaker.port: %d, which --values writes", anotherPort))
	}
}

// anotherPort is for speakers that run on nodes where MetalLB's FRR has 7473: one that neither uses.
const anotherPort = 7477

// Has reports whether some remark is of that level.
func (r *Result) Has(level Level) bool {
	return slices.ContainsFunc(r.Remarks, func(m Remark) bool { return m.Level == level })
}

func (c *converter) remark(level Level, o *object, field, do, format string, args ...any) {
	c.Remarks = append(c.Remarks, Remark{level, o.origin(), field, fmt.Sprintf(format, args...), do})
}

// about is remark for a field.
func (c *converter) about(level Level, f field, do, format string, args ...any) {
	f.take()
	c.remark(level, f.of, f.path, do, format, args...)
}

// Kinds that only tell how things are, or belong to programs that stay or go with MetalLB.
var aside = map[string]string{
	"ServiceL2Status":     "tells how things are: nothing to take over",
	"ServiceBGPStatus":    "tells how things are: nothing to take over; kubectl metallb routes shows the same",
	"ConfigurationState":  "tells how things are: nothing to take over; kubectl metallb status shows the same",
	"NodeMonitor":         "belongs to frr-k8s, which is not needed any more",
	"FRRNodeState":        "belongs to frr-k8s, which is not needed any more",
	"BGPSessionState":     "belongs to frr-k8s, which is not needed any more; kubectl metallb peers shows the same",
	"BGPSessionStatus":    "belongs to frr-k8s, which is not needed any more; kubectl metallb peers shows the same",
	"FRRK8sConfiguration": "belongs to frr-k8s, which is not needed any more",
}

// versions are those whose fields this program knows.
var versions = map[string][]string{
	"IPAddressPool": {"v1beta1"}, "BGPPeer": {"v1beta1", "v1beta2"}, "BGPAdvertisement": {"v1beta1"}, "L2Advertisement": {"v1beta1"},
	"BFDProfile": {"v1beta1"}, "Community": {"v1beta1"}, "AddressPool": {"v1alpha1", "v1beta1"},
}

// sort finds out what the objects are, and leaves those that are converted.
func (c *converter) sort() {
	var left []*object
	seen, where := map[string]*object{}, map[string]*object{}
	for _, o := range c.objects {
		known, ours := versions[o.kind]
		switch {
		case o.group == "metallb.io" && ours && slices.Contains(known, o.version):
			if c.Options.From != "" && o.namespace != "" && o.namespace != c.Options.From {
				c.remark(Kept, o, "", "", "is in namespace %s: MetalLB, in %s, does not read it either", o.namespace, c.Options.From)
				continue
			}
			if other := seen[o.String()]; other != nil && other.namespace == o.namespace {
				c.remark(Refused, o, "", "keep one", "stands here twice, also in %s", other.origin())
				continue
			}
			seen[o.String()] = o
			if where[o.namespace] == nil && o.namespace != "" {
				where[o.namespace] = o
			}
			left = append(left, o)
		case o.group == "metallb.io" && ours:
			c.remark(Refused, o, "apiVersion", "use the plugin of a later version, or ask the API server for "+known[len(known)-1], "%q is a version that this program does not know", o.version)
		case o.kind == "FRRConfiguration":
			c.frrConfiguration(o)
		case aside[o.kind] != "" && strings.HasSuffix(o.group, "metallb.io"):
			c.remark(Kept, o, "", "", "%s", aside[o.kind])
		case o.kind == "DaemonSet" || o.kind == "Deployment":
			c.program(o)
		case o.kind == "ConfigMap" && o.group == "":
			left = append(left, o)
		case strings.HasSuffix(o.group, "metallb.io"):
			c.remark(Refused, o, "kind", "use the plugin of a later version, or leave the resource out", "%s of %s/%s is a kind that this program does not know", o.kind, o.group, o.version)
		default:
			c.remark(Unsaid, o, "", "leave it out", "is no resource of MetalLB")
		}
	}
	if len(where) > 1 {
		names := sortedKeys(where)
		o := where[names[1]]
		c.remark(Refused, o, "metadata.namespace", "name MetalLB's namespace by --metallb-namespace", "resources are in namespaces %s, and MetalLB reads those in its own", strings.Join(names, " and "))
	}
	c.objects = left
}

// program learns from a program of MetalLB how it was started.
func (c *converter) program(o *object) {
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			if class, ok := strings.CutPrefix(strings.TrimLeft(n.Value, "-"), "lb-class="); ok && class != "" {
				c.Options.Class = class
			}
		}
		if n.Kind == yaml.MappingNode {
			if f := (field{of: o, node: n}); f.at("name").is("METALLB_BGP_TYPE") && !f.at("value").absent() {
				c.Options.Mode = f.at("value").text()
			}
		}
		for _, child := range n.Content {
			walk(child)
		}
	}
	walk(o.root)
}

func (c *converter) frrConfiguration(o *object) {
	if strings.HasPrefix(o.name, "metallb-") {
		c.remark(Kept, o, "", "", "was written by MetalLB for frr-k8s from what is converted here")
		return
	}
	c.remark(Unsaid, o, "", "leave frr-k8s running for it, with routers of its own: a router has one session with a node; or configure it elsewhere",
		"is FRR's own configuration, which frr-k8s adds to MetalLB's")
}

// configMap returns the text of MetalLB before v0.13, if that is what there is.
func (c *converter) configMap() (f *field, from *object) {
	var others []*object
	for _, o := range c.objects {
		if o.kind != "ConfigMap" {
			others = append(others, o)
			continue
		}
		data := field{of: o, node: o.root}.at("data")
		switch {
		case !data.at("extras").absent():
			c.about(Unsaid, data.at("extras"), "find out what it is for: what routers ought to do can be said there", "is raw configuration of FRR, and there is no FRR here")
		case !data.at("config").absent() && f == nil:
			text := data.at("config")
			f, from = &text, o
		case !data.at("config").absent():
			c.remark(Refused, o, "data.config", "keep one", "is a second text, also in %s", from.origin())
		default:
			c.remark(Kept, o, "", "", "has no key config and no key extras: nothing to take over")
		}
	}
	if c.objects = others; f != nil && len(others) > 0 {
		c.remark(Refused, from, "data.config", "leave out whichever your version of MetalLB does not read: from v0.13 on it reads resources only", "is a text beside %s", others[0].origin())
		return nil, nil
	}
	return f, from
}

// asItIs takes over a text of MetalLB before v0.13.
func (c *converter) asItIs(text string, from *object) {
	text = "# from " + from.origin() + "\n" + strings.TrimRight(text, "\n") + "\n"
	if c.check(text) {
		c.Text = text
		c.remark(Kept, from, "data.config", "", "is accepted as it is, in a ConfigMap named config: docs/migration.md lists what differs from MetalLB before v0.13")
	}
}

// convert makes the text.
func (c *converter) convert() {
	if len(c.objects) == 0 {
		c.Remarks = append(c.Remarks, Remark{Refused, "everything", "", "there is no resource of MetalLB", "name files that have some, or ask the cluster by --live"})
		return
	}
	each := func(kind string, do func(*object)) {
		for _, o := range c.objects {
			if o.kind == kind {
				do(o)
			}
		}
	}
	each("BFDProfile", func(o *object) { c.profiles = append(c.profiles, o) })
	each("Community", c.community)
	each("BGPPeer", c.peer)
	each("IPAddressPool", c.pool)
	each("AddressPool", c.legacyPool)
	each("BGPAdvertisement", c.bgpAdvertisement)
	each("L2Advertisement", c.l2Advertisement)

	root := mapping()
	root.HeadComment = "Made by kubectl metallb migrate from the resources of MetalLB that stand beside each item."
	add := func(key string, list *yaml.Node) {
		if len(list.Content) > 0 {
			put(root, key, list)
		}
	}
	peers := sequence()
	for _, p := range c.peers {
		peers.Content = append(peers.Content, p.yaml)
	}
	add("peers", peers)
	profiles := sequence()
	for _, o := range c.profiles {
		profiles.Content = append(profiles.Content, c.profile(o))
	}
	add("bfd-profiles", profiles)
	add("communities", c.values)
	add("address-pools", c.poolsYAML())

	for _, o := range c.objects {
		field{of: o, node: o.root}.at("status").take()
		for _, f := range o.unread() {
			c.remark(Unsaid, o, f.path, "find out what it is for; a later version of this plugin may know it", "%q is a field that this program does not know, or not of this form", f.node.Value)
		}
	}
	c.otherFamily()
	text, err := write(root)
	if err != nil {
		c.Remarks = append(c.Remarks, Remark{Refused, "everything", "", err.Error(), "report this"})
		return
	}
	if c.check(text) && !c.Has(Refused) {
		c.Text = text
	}
}

// check reads the text as the controller manager does. What that refuses is said of the object from which it came.
func (c *converter) check(text string) bool {
	config, warnings, err := loadbalancer.Parse([]byte(text))
	var problems loadbalancer.Problems
	for _, w := range warnings {
		c.Remarks = append(c.Remarks, Remark{Differs, "the text", "", w.Error(), "see to it, or let it be"})
	}
	if err == nil {
		problems = (*loadbalancer.Config)(nil).Admit(config, loadbalancer.Facts{}).Unfit
	} else if !errors.As(err, &problems) {
		c.Remarks = append(c.Remarks, Remark{Refused, "the text", "", err.Error(), "report this"})
	}
	lines := strings.Split(text, "\n")
	for _, p := range problems {
		origin := "the text"
		for i := min(p.Line, len(lines)) - 1; i >= 0; i-- {
			if _, from, ok := strings.Cut(lines[i], "# from "); ok {
				origin = from
				break
			}
		}
		shown := ""
		if p.Line > 0 {
			shown = fmt.Sprintf("it would become %q", strings.TrimSpace(lines[p.Line-1]))
		}
		p.Line, p.Column = 0, 0 // of a text that nobody sees
		c.Remarks = append(c.Remarks, Remark{Refused, origin, "", p.Error(), shown})
	}
	return err == nil && len(problems) == 0
}

// from is the comment of an item.
func from(objects ...*object) string {
	var all []string
	for _, o := range objects {
		all = append(all, o.origin())
	}
	return "from " + strings.Join(all, ", ")
}
