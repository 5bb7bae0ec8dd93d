package loopback

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var bothFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// A lot is a pool as the oracle knows it. Lot k owns a span of 10.0.k.0-9 and one of fd00:k::0-9, so that an address tells its lot
// under every configuration: no text moves an address from one pool to another, which would leave open what a Service asked for.
type lot struct {
	v4, v6     span
	closed     bool // auto-assign: false
	priority   int
	namespaces []string // none: all
	gold       bool     // for Services labelled tier: gold
	across     bool     // share-across-namespaces
	exclude    bool     // its address number 1
	reserve    bool     // its address number 0, for a Service that does not exist
	quota      int      // of each namespace; 0: none
}

// kept tells whether lot k gives the address to nobody.
func (l lot) kept(k int, addr netip.Addr) bool {
	number := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", k, i)) }
	return l.exclude && addr == number(1) || l.reserve && addr == number(0)
}

// tenancy is what the lot says of that, as far as it has the addresses.
func (l lot) tenancy(k int) (text string) {
	for _, addr := range l.addresses(k, corev1.IPv4Protocol) {
		switch number := addr.As4()[3]; {
		case l.exclude && number == 1:
			text += fmt.Sprintf(", exclude: [%s]", addr)
		case l.reserve && number == 0 && len(l.namespaces) == 0:
			text += fmt.Sprintf(", reservations: [{service: nowhere/nobody, addresses: [%s]}]", addr)
		case l.reserve && number == 0:
			text += fmt.Sprintf(", reservations: [{service: %s/nobody, addresses: [%s]}]", l.namespaces[0], addr)
		}
	}
	if l.quota > 0 {
		text += fmt.Sprintf(", quotas: {default: %d}", l.quota)
	}
	return text
}

type span struct{ first, n int }

// A plan is a configuration as the oracle knows it. An empty lot stands for a pool that is not there.
type plan [3]lot

func (l lot) addresses(k int, family corev1.IPFamily) (all []netip.Addr) {
	format, s := "10.0.%d.%d", l.v4
	if family == corev1.IPv6Protocol {
		format, s = "fd00:%d::%d", l.v6
	}
	for i := range s.n {
		all = append(all, netip.MustParseAddr(fmt.Sprintf(format, k, s.first+i)))
	}
	return all
}

// text is the plan as an operator would write it.
func (p plan) text() string {
	text := "address-pools:\n" + probePool
	for k, l := range p {
		var cidr []string
		for _, family := range bothFamilies {
			if all := l.addresses(k, family); len(all) > 0 {
				cidr = append(cidr, fmt.Sprintf("%q", all[0].String()+"-"+all[len(all)-1].String()))
			}
		}
		if len(cidr) == 0 {
			continue
		}
		selectors := ""
		if l.gold {
			selectors = "{match-labels: {tier: gold}}"
		}
		text += fmt.Sprintf("- {name: lot-%d, cidr: [%s], auto-assign: %t, priority: %d, namespaces: [%s], service-selectors: [%s], share-across-namespaces: %t%s}\n",
			k, strings.Join(cidr, ", "), !l.closed, l.priority, strings.Join(l.namespaces, ", "), selectors, l.across, l.tenancy(k))
	}
	return text
}

// owner is the number of the lot that has the address; -1 if none does.
func (p plan) owner(addr netip.Addr) int {
	for k, l := range p {
		if slices.Contains(l.addresses(k, familyOf(addr)), addr) {
			return k
		}
	}
	return -1
}

// A client is a Service of ours as the oracle reads it.
type client struct {
	*corev1.Service
	has, asks  map[corev1.IPFamily]netip.Addr
	pool, key  string
	impossible bool // what it asks for contradicts itself
	malformed  bool // its status is none that we write
	alien      bool // it shows an address of a family that it does not have
}

func note(svc *corev1.Service, name string) string {
	for _, prefix := range []string{"metallb.universe.tf/", "metallb.io/"} {
		if text := svc.Annotations[prefix+name]; text != "" {
			return text
		}
	}
	return ""
}

func readClient(svc *corev1.Service) *client {
	c := &client{Service: svc, has: map[corev1.IPFamily]netip.Addr{}, asks: map[corev1.IPFamily]netip.Addr{}}
	c.pool, c.key = note(svc, "address-pool"), note(svc, "allow-shared-ip")
	last := -1
	for _, text := range strings.Split(shown(svc), ",") {
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			c.malformed = true
			continue
		}
		// One of each family that it has, in their order.
		at := slices.Index(svc.Spec.IPFamilies, familyOf(addr))
		c.alien = c.alien || at < 0
		if at < 0 {
			at = len(svc.Spec.IPFamilies)
		}
		c.malformed = c.malformed || at <= last
		last, c.has[familyOf(addr)] = at, addr
	}
	list, field := note(svc, "loadBalancerIPs"), svc.Spec.LoadBalancerIP
	for _, text := range strings.Split(list, ",") {
		if text != "" {
			c.ask(text)
		}
	}
	if field != "" && list == "" {
		c.ask(field)
	} else if field != "" && !slices.Contains(strings.Split(list, ","), field) {
		c.impossible = true
	}
	return c
}

func (c *client) ask(text string) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !slices.Contains(c.Spec.IPFamilies, familyOf(addr)) || c.asks[familyOf(addr)].IsValid() {
		c.impossible = true
		return
	}
	c.asks[familyOf(addr)] = addr
}

func (c *client) name() string { return c.Namespace + "/" + c.Name }

func (c *client) String() string {
	policy := ""
	if c.Spec.IPFamilyPolicy != nil {
		policy = string(*c.Spec.IPFamilyPolicy)
	}
	var ports []string
	for _, p := range c.Spec.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return fmt.Sprintf("%s shows %q; %s %v, IP %q, annotations %v, ports %v, %s, selector %v, labels %v, created %s", c.name(), shown(c.Service),
		policy, c.Spec.IPFamilies, c.Spec.LoadBalancerIP, c.Annotations, ports, c.Spec.ExternalTrafficPolicy, c.Spec.Selector, c.Labels, c.CreationTimestamp.Format("15:04:05"))
}

func (c *client) preferDual() bool {
	return c.Spec.IPFamilyPolicy != nil && *c.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack && len(c.Spec.IPFamilies) == 2
}

// collide tells whether two Services cannot be behind one address.
func collide(a, b *client) bool {
	for _, p := range a.Spec.Ports {
		for _, q := range b.Spec.Ports {
			if p.Port == q.Port && p.Protocol == q.Protocol {
				return true
			}
		}
	}
	return a.key == "" && b.key == ""
}

// differ tells whether two Services behind one address, which may stay there, would not be put there.
func differ(a, b *client) bool {
	return a.key == "" || a.key != b.key || a.Spec.ExternalTrafficPolicy != b.Spec.ExternalTrafficPolicy ||
		a.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !maps.Equal(a.Spec.Selector, b.Spec.Selector)
}

// A world is a cluster at rest. Its oracle is naive on purpose: it reads what the contract says, address by address.
type world struct {
	plan    plan // in force
	clients []*client
	warned  func(*client) bool
	// excused are Services of which the contract does not say whether they get what they ask for.
	excused func(*client) bool
	// stray tells of an address that a Service keeps although no pool ever owned it.
	stray func(netip.Addr) bool
	// others are addresses that Services of another implementation show: they are taken.
	others map[netip.Addr]string
}

// faults are all the ways in which the world is not as it should be.
func (w *world) faults() (all []string) {
	for i, c := range w.clients {
		if c.malformed {
			all = append(all, "is not what we write: "+c.String())
		}
		for _, other := range w.clients[:i] {
			for family, addr := range c.has {
				switch {
				case other.has[family] != addr:
				case collide(c, other):
					all = append(all, fmt.Sprintf("collide on %s:\n\t%v\n\t%v", addr, c, other))
				case differ(c, other) && !w.warned(c) && !w.warned(other):
					all = append(all, fmt.Sprintf("differ on %s, and neither was told:\n\t%v\n\t%v", addr, c, other))
				}
			}
		}
		lacks, second := w.lacks(c)
		if c.alien {
			all = append(all, "is not of the Service's families: "+c.String())
		}
		if (lacks != "" || second) && w.could(c, lacks == "") && !w.excused(c) {
			all = append(all, fmt.Sprintf("could be served, and lacks %s (or a second address: %t): %v", lacks, second, c))
		}
		if lacks != "" && !w.warned(c) {
			all = append(all, fmt.Sprintf("was not told that it lacks %s: %v", lacks, c))
		}
	}
	return all
}

// lacks names what the Service asks for and does not have; second is set if all that is missing is the second of two families
// that it prefers to have.
func (w *world) lacks(c *client) (what string, second bool) {
	if c.impossible {
		return "a request that can be met", false
	}
	for family, addr := range c.asks {
		if c.has[family] != addr {
			return "the address it asks for", false
		}
	}
	for _, addr := range c.has {
		owner := w.plan.owner(addr)
		if owner < 0 && !w.stray(addr) {
			return "an address that a pool owns", false
		}
		if c.pool != "" && c.pool != fmt.Sprint("lot-", owner) {
			return "an address of the pool it asks for", false
		}
	}
	missing := 0
	for _, family := range c.Spec.IPFamilies {
		if !c.has[family].IsValid() {
			missing++
		}
	}
	if missing > 0 && !(c.preferDual() && missing == 1) {
		return "an address", false
	}
	return "", missing > 0
}

// could tells whether the Service's request can be met as things are; all means with as many families as it may have.
func (w *world) could(c *client, all bool) bool {
	need := len(c.Spec.IPFamilies)
	if c.preferDual() && !all {
		need = max(1, len(c.asks))
	}
	for k := range w.plan {
		if !c.impossible && w.serves(k, c) && w.within(k, c) >= need {
			return true
		}
	}
	return false
}

// admits tells whether the Service may use the lot at all.
func (w *world) admits(k int, c *client) bool {
	l := w.plan[k]
	return (len(l.namespaces) == 0 || slices.Contains(l.namespaces, c.Namespace)) && (!l.gold || c.Labels["tier"] == "gold")
}

// serves tells whether the lot is for a Service with such a request.
func (w *world) serves(k int, c *client) bool {
	if c.pool != "" {
		return c.pool == fmt.Sprint("lot-", k) && w.admits(k, c)
	}
	return (!w.plan[k].closed || len(c.asks) > 0) && w.admits(k, c)
}

// within counts the families of which the lot has an address for the Service; it is 0 if the Service would have to give up an
// address that suits it, or cannot have one that it names.
func (w *world) within(k int, c *client) (found int) {
	fresh := 0 // of these, it does not have yet
	for _, family := range c.Spec.IPFamilies {
		asked, has := c.asks[family], c.has[family]
		owner := -1
		if has.IsValid() {
			owner = w.plan.owner(has)
		}
		if has.IsValid() && owner < 0 && w.stray(has) && !asked.IsValid() && c.pool == "" {
			return 0 // it keeps what no pool owns, and no pool has anything beside that
		}
		if owner >= 0 && (!asked.IsValid() || asked == has) && (c.pool == "" || c.pool == fmt.Sprint("lot-", owner)) {
			if owner != k {
				return 0
			}
			found++ // it keeps this one
			continue
		}
		ok := slices.ContainsFunc(w.plan[k].addresses(k, family), func(addr netip.Addr) bool {
			return (!asked.IsValid() || asked == addr) && w.free(k, c, addr) && w.allows(k, c, addr, fresh)
		})
		if ok {
			found, fresh = found+1, fresh+1
		} else if asked.IsValid() {
			return 0
		}
	}
	return found
}

// allows tells whether the quota allows the Service the address, after so many others that it does not have yet.
func (w *world) allows(k int, c *client, addr netip.Addr, others int) bool {
	quota, has := w.plan[k].quota, w.holdings(k, c.Namespace)
	return quota == 0 || has[addr] || len(has)+others+1 <= quota
}

// holdings are the addresses of the lot that the namespace has.
func (w *world) holdings(k int, namespace string) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, c := range w.clients {
		for _, addr := range c.has {
			if c.Namespace == namespace && w.plan.owner(addr) == k {
				all[addr] = true
			}
		}
	}
	return all
}

// free tells whether nobody holds the address, or only Services that this one may join.
func (w *world) free(k int, c *client, addr netip.Addr) bool {
	return w.others[addr] == "" && !w.plan[k].kept(k, addr) && !slices.ContainsFunc(w.clients, func(other *client) bool {
		return other.UID != c.UID && other.has[familyOf(addr)] == addr && !w.mayJoin(k, c, other)
	})
}

// mayJoin tells whether two Services may share an address of the lot.
func (w *world) mayJoin(k int, a, b *client) bool {
	return !collide(a, b) && !differ(a, b) && (a.Namespace == b.Namespace || w.plan[k].across)
}

// The oracle judges everybody else, so somebody has to look at the oracle.
func TestTheOracleSeesEachKindOfFault(t *testing.T) {
	type wishes = []wish
	both := dual(corev1.IPFamilyPolicyRequireDualStack)
	prefer := dual(corev1.IPFamilyPolicyPreferDualStack)
	ip := func(addr string) wish { return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = addr } }
	for _, c := range []struct {
		name, fault string
		all         []wishes // the Services, and what each shows
		show        []string
		others      string // what another implementation's Service shows
	}{
		{"two that hold one each", "", []wishes{nil, nil}, []string{"10.0.0.0", "10.0.0.1"}, ""},
		{"two on one port", "collide", []wishes{nil, nil}, []string{"10.0.0.0", "10.0.0.0"}, ""},
		{"two that share", "", []wishes{{sharing("k", 1)}, {sharing("k", 2)}}, []string{"10.0.0.0", "10.0.0.0"}, ""},
		{"two with other keys", "differ", []wishes{{sharing("k", 1)}, {sharing("l", 2)}}, []string{"10.0.0.0", "10.0.0.0"}, ""},
		{"a third in a full pool", "not told", []wishes{nil, nil, nil}, []string{"10.0.0.0", "10.0.0.1", ""}, ""},
		{"one too many, though it could join", "could be served", []wishes{nil, {sharing("k", 1)}, {sharing("k", 2)}}, []string{"10.0.0.0", "10.0.0.1", ""}, ""},
		{"one without, though there is one", "could be served", []wishes{nil}, []string{""}, ""},
		{"one that asks for what is free", "could be served", []wishes{{ip("10.0.0.1")}}, []string{"10.0.0.0"}, ""},
		{"one that asks for what no pool owns", "not told", []wishes{{ip("10.0.0.9")}}, []string{"10.0.0.0"}, ""},
		{"both families", "", []wishes{{both}}, []string{"10.0.0.0,fd00::"}, ""},
		{"the wrong order", "not what we write", []wishes{{both}}, []string{"fd00::,10.0.0.0"}, ""},
		{"one of two", "could be served", []wishes{{both}}, []string{"10.0.0.0"}, ""},
		{"one of two that are preferred", "could be served", []wishes{{prefer}}, []string{"10.0.0.0"}, ""},
		{"another's family", "families", []wishes{nil}, []string{"fd00::"}, ""},
		{"another's family beside its own", "families", []wishes{nil}, []string{"10.0.0.0,fd00::"}, ""},
		{"both families, and a stray that it keeps", "not told", []wishes{{both}}, []string{"203.0.113.9"}, ""},
		{"a pool that is not for it", "not told", []wishes{{fromPool("lot-1")}}, []string{""}, ""},
		{"one without, as another implementation shows what is left", "not told", []wishes{nil, nil}, []string{"10.0.0.0", ""}, "10.0.0.1"},
		{"one without, though another implementation leaves one", "could be served", []wishes{nil}, []string{""}, "10.0.0.1"},
	} {
		w := &world{
			plan:    plan{{v4: span{0, 2}, v6: span{0, 1}}, {v4: span{0, 1}, namespaces: []string{"elsewhere"}}},
			warned:  func(*client) bool { return false },
			excused: func(*client) bool { return false },
			stray:   func(addr netip.Addr) bool { return addr.String() == nowhere },
			others:  map[netip.Addr]string{},
		}
		if c.others != "" {
			w.others[netip.MustParseAddr(c.others)] = "others"
		}
		for i, wishes := range c.all {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i))}}
			svc.Spec.IPFamilies, svc.Spec.Ports = bothFamilies[:1], []corev1.ServicePort{{Port: 80}}
			for _, w := range wishes {
				w(svc)
			}
			mode := corev1.LoadBalancerIPModeVIP
			for _, addr := range strings.Split(c.show[i], ",") {
				if addr != "" {
					svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr, IPMode: &mode})
				}
			}
			w.clients = append(w.clients, readClient(svc))
		}
		faults := strings.Join(w.faults(), "\n")
		if (c.fault == "") != (faults == "") || !strings.Contains(faults, c.fault) {
			t.Errorf("%s: %q instead of %q", c.name, faults, c.fault)
		}
	}
}
