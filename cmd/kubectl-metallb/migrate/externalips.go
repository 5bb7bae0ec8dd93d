package migrate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// ExternalIPs are what gives Services with spec.externalIPs the same addresses as LoadBalancer.
type ExternalIPs struct {
	// Pool is an item of address-pools with all the addresses, and Patches are what to do with each Service.
	Pool    string   `json:"pool"`
	Patches []Patch  `json:"patches"`
	Remarks []Remark `json:"remarks"`
}

// A Patch gives a Service its addresses as LoadBalancer: the first command makes it one, the second takes spec.externalIPs away once
// the address is announced. Objects are Services to create beside it.
type Patch struct {
	Service  string `json:"service"`
	Begin    string `json:"begin,omitempty"`
	End      string `json:"end"`
	Manifest string `json:"manifest,omitempty"`
}

// external is a Service with spec.externalIPs.
type external struct {
	*object
	addrs  []netip.Addr
	ports  []string
	left   []string // those that no pool can have
	policy string   // what sharers must have in common
}

// ConvertExternalIPs looks for Services with spec.externalIPs, and for Nodes, whose own addresses no pool may have.
func ConvertExternalIPs(sources []Source) *ExternalIPs {
	x := &ExternalIPs{Patches: []Patch{}}
	all, problems := objects(sources)
	x.Remarks = problems
	nodes, used, claimed := map[netip.Addr]string{}, map[netip.Addr][]*external{}, map[netip.Addr]string{}
	var services []*external
	for _, o := range all {
		root := field{of: o, node: o.root}
		switch {
		case o.kind == "Node" && o.group == "":
			for _, a := range root.at("status").at("addresses").items() {
				if addr, err := netip.ParseAddr(a.at("address").text()); err == nil {
					nodes[addr] = o.name
				}
			}
		case o.kind == "Service" && o.group == "":
			for _, item := range root.at("status").at("loadBalancer").at("ingress").items() {
				if addr, err := netip.ParseAddr(item.at("ip").text()); err == nil {
					claimed[addr] = o.namespace + "/" + o.name
				}
			}
			if e := x.external(o); e != nil {
				services = append(services, e)
			}
		}
	}
	var set netipx.IPSetBuilder
	for _, e := range services {
		e.addrs = slices.DeleteFunc(e.addrs, func(addr netip.Addr) bool {
			own := e.namespace + "/" + e.name
			holder, held := claimed[addr]
			switch {
			case nodes[addr] != "":
				e.left = append(e.left, addr.String())
				x.add(Unsaid, e.object, "keep spec.externalIPs for it, or give clients another address", "%s is an address of node %s: no pool may have it, and routers know the way there already", addr, nodes[addr])
			case held && holder != own:
				x.add(Refused, e.object, "take it from one of the two", "%s is the address of Service %s of type LoadBalancer already", addr, holder)
			default:
				set.Add(addr)
				used[addr] = append(used[addr], e)
				return false
			}
			return true
		})
	}
	for _, e := range services {
		if len(e.addrs) > 0 {
			x.patch(e, used)
		}
	}
	if found, err := set.IPSet(); err == nil && len(found.Prefixes()) > 0 {
		var list []string
		for _, prefix := range found.Prefixes() {
			list = append(list, prefix.String())
		}
		m := mapping()
		put(m, "name", text("external-ips"))
		put(m, "addresses", words(list))
		// Only who asks for one gets it.
		put(m, "auto-assign", plain(false))
		root := mapping()
		put(root, "address-pools", sequence(m))
		if out, err := write(root); err == nil {
			x.Pool = out
		}
	}
	if x.Has(Refused) {
		x.Pool, x.Patches = "", []Patch{} // half of it would be worse than nothing
	} else if len(services) == 0 {
		x.Remarks = append(x.Remarks, Remark{Level: Kept, Object: "everything", Text: "no Service has spec.externalIPs: there is nothing to do"})
	}
	sortRemarks(x.Remarks)
	return x
}

func (x *ExternalIPs) add(level Level, o *object, do, format string, args ...any) {
	x.Remarks = append(x.Remarks, Remark{level, fmt.Sprintf("Service %s/%s", cmp.Or(o.namespace, "default"), o.name), "spec.externalIPs", fmt.Sprintf(format, args...), do})
}

// external reads a Service, if it has addresses there.
func (x *ExternalIPs) external(o *object) *external {
	if o.namespace == "" {
		o.namespace = "default"
	}
	items := o.spec("externalIPs").items()
	if len(items) == 0 {
		return nil
	}
	e, families := &external{object: o}, o.spec("ipFamilies").list()
	if e.policy = o.spec("externalTrafficPolicy").text(); e.policy == "Local" {
		e.policy += fmt.Sprint(o.spec("selector").texts())
	} else {
		e.policy = "Cluster"
	}
	for _, item := range items {
		addr, err := netip.ParseAddr(item.text())
		switch {
		case err != nil:
			x.add(Refused, o, "correct it", "%q is no IP address", item.text())
		case len(families) > 0 && !slices.Contains(families, familyOf(addr)):
			x.add(Kept, o, "", "%s has no effect: spec.ipFamilies of the Service is %s", addr, strings.Join(families, ", "))
		default:
			e.addrs = append(e.addrs, addr.Unmap())
		}
	}
	for _, port := range o.spec("ports").items() {
		e.ports = append(e.ports, cmp.Or(port.at("protocol").text(), "TCP")+"/"+port.at("port").text())
	}
	switch kind := o.spec("type").text(); {
	case o.spec("clusterIP").is("None"):
		x.add(Refused, o, "give it a clusterIP, by a Service anew", "it is headless, so that externalIPs have no effect, and a LoadBalancer needs a clusterIP")
		return nil
	case kind == "ExternalName":
		x.add(Refused, o, "remove them", "it is an ExternalName, on which externalIPs have no effect")
		return nil
	case kind == "LoadBalancer":
		x.add(Unsaid, o, "ask for the addresses by further Services", "it is a LoadBalancer already, with an address of its own")
		return nil
	}
	return e
}

func familyOf(addr netip.Addr) string { return loadbalancer.FamilyOf(addr.Unmap()).String() }

// patch says how a Service gets its addresses. One of each IP version is its own; for more, further Services are needed.
func (x *ExternalIPs) patch(e *external, used map[netip.Addr][]*external) {
	var own, more []netip.Addr
	for _, addr := range e.addrs {
		if slices.ContainsFunc(own, func(o netip.Addr) bool { return o.Is4() == addr.Is4() }) {
			more = append(more, addr)
		} else {
			own = append(own, addr)
		}
	}
	name := e.namespace + "/" + e.name
	annotations := func(addrs []netip.Addr) map[string]string {
		all, texts := map[string]string{}, []string{}
		shared := ""
		for _, addr := range addrs {
			texts = append(texts, addr.String())
			if others := used[addr]; len(others) > 1 {
				shared = "external-ip-" + strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
				for _, other := range others {
					if other != e && other.namespace != e.namespace {
						x.add(Unsaid, e.object, "write share-across-namespaces: true into the pool", "%s is shared with a Service of namespace %s", addr, other.namespace)
					}
					if other != e && other.policy != e.policy {
						x.add(Refused, e.object, "give both the same externalTrafficPolicy; with Local also the same selector", "%s is shared with Service %s/%s, whose externalTrafficPolicy or pods are others", addr, other.namespace, other.name)
					}
					if clash := slices.IndexFunc(e.ports, func(p string) bool { return slices.Contains(other.ports, p) }); other != e && clash >= 0 {
						x.add(Refused, e.object, "take the port from one of the two", "%s has port %s of Service %s/%s as well, and only one can have it", addr, e.ports[clash], other.namespace, other.name)
					}
				}
			}
		}
		all["metallb.io/loadBalancerIPs"] = strings.Join(texts, ",")
		if shared != "" {
			all["metallb.io/allow-shared-ip"] = shared
		}
		return all
	}
	written, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": annotations(own)},
		"spec":     map[string]any{"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false},
	})
	if err != nil {
		x.add(Refused, e.object, "report this", "%v", err)
		return
	}
	target := fmt.Sprintf("kubectl patch service %s --namespace=%s", e.name, e.namespace)
	end := `[{"op":"remove","path":"/spec/externalIPs"}]`
	if len(e.left) > 0 {
		end = fmt.Sprintf(`[{"op":"replace","path":"/spec/externalIPs","value":["%s"]}]`, strings.Join(e.left, `","`))
	}
	p := Patch{Service: name, Begin: fmt.Sprintf("%s --patch='%s'", target, written), End: fmt.Sprintf("%s --type=json --patch='%s'", target, end)}
	for i, addr := range more {
		m := mapping()
		put(m, "apiVersion", text("v1"))
		put(m, "kind", text("Service"))
		meta, spec := mapping(), mapping()
		put(meta, "namespace", text(e.namespace))
		put(meta, "name", text(fmt.Sprintf("%s-%d", e.name, i+2)))
		put(meta, "annotations", plain(annotations([]netip.Addr{addr})))
		put(m, "metadata", meta)
		put(spec, "type", text("LoadBalancer"))
		put(spec, "allocateLoadBalancerNodePorts", plain(false))
		for _, key := range []string{"selector", "ports", "externalTrafficPolicy", "sessionAffinity", "publishNotReadyAddresses"} {
			if f := e.spec(key); !f.absent() {
				put(spec, key, bare(f.node))
			}
		}
		put(spec, "ipFamilies", words([]string{familyOf(addr)}))
		put(m, "spec", spec)
		if out, err := write(m); err == nil {
			p.Manifest += "---\n" + out
		}
		x.add(Differs, e.object, "create the Service in the manifest", "%s is its second address of one IP version, and a Service has one of each: it becomes Service %s-%d with the same pods", addr, e.name, i+2)
	}
	x.Patches = append(x.Patches, p)
}

// bare is a copy without what the API server has filled in.
func bare(n *yaml.Node) *yaml.Node {
	c := *n
	c.Style, c.Content = 0, nil
	for i := 0; i < len(n.Content); i++ {
		if n.Kind == yaml.MappingNode && i%2 == 0 && n.Content[i].Value == "nodePort" {
			i++
			continue
		}
		c.Content = append(c.Content, bare(n.Content[i]))
	}
	return &c
}

// Has reports whether some remark is of that level.
func (x *ExternalIPs) Has(level Level) bool { return (&Result{Remarks: x.Remarks}).Has(level) }

// String writes for people, as comments and commands that a shell reads.
func (x *ExternalIPs) String() string {
	var b strings.Builder
	if x.Pool != "" {
		fmt.Fprintf(&b, "# 1. Add this pool to the configuration.\n%s", indent(x.Pool))
		b.WriteString("\n# 2. Make each Service a LoadBalancer. It keeps its spec.externalIPs meanwhile.\n")
		for _, p := range x.Patches {
			fmt.Fprintln(&b, p.Begin)
			if p.Manifest != "" {
				fmt.Fprintf(&b, "kubectl apply -f - <<'EOF'\n%sEOF\n", p.Manifest)
			}
		}
		b.WriteString("\n# 3. Wait until the address is announced, and stop announcing it by other means. Then take spec.externalIPs away.\n")
		for _, p := range x.Patches {
			fmt.Fprintf(&b, "kubectl metallb wait announced %s && %s\n", p.Service, p.End)
		}
	}
	return b.String()
}

func indent(s string) string {
	return "#   " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n#   ") + "\n"
}
