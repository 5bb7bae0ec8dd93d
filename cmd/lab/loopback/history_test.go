package loopback

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// TestARandomHistoryBreaksNoPromise lets everything happen that users, operators and machines do to Services, and looks whenever all
// is quiet whether every promise is kept. LAB_SEED plays much the same again; our programs and the clock still do as they like.
func TestARandomHistoryBreaksNoPromise(t *testing.T) {
	random, steps := chance(t)
	lab := start(t, Options{Nodes: 1})
	must(t, lab.addNamespaces(t.Context(), quarters...))
	h := &history{t: t, lab: lab, random: random, records: map[string]*record{}, plans: map[string]plan{},
		told: map[types.UID]bool{}, came: map[types.UID]bool{}, strays: map[netip.Addr]bool{netip.MustParseAddr(nowhere): true}}
	h.plan = plan{{v4: span{0, 3}, v6: span{0, 2}}, {v4: span{0, 2}, priority: 1, namespaces: quarters[:2]}, {v4: span{0, 2}, v6: span{0, 2}, gold: true, across: true}}
	h.user = h.plan.text()
	h.plans[h.user] = h.plan
	h.crew = newCrew(t, lab, random)
	configure(t, lab, h.user)
	follow(t, lab, h.note)
	h.quiet()

	for i := range steps {
		h.log = append(h.log, fmt.Sprintf("%d: %s", i, h.step()))
		if random.IntN(10) == 0 {
			h.quiet()
		}
	}
	h.quiet()
	t.Logf("%d steps, %d quiet points, %d Services, %d freezes; at quiet points, Services had what they asked for %d times, waited for others to give it up %d times, and asked for the impossible %d times",
		steps, h.epoch, h.count, h.crew.freezes, h.content, h.waiting, h.hopeless)
	if steps >= 2000 && h.crew.freezes < 200 {
		t.Errorf("there were %d freezes only: the history is not what it claims to be", h.crew.freezes)
	}
	for _, s := range slices.Clone(h.subjects) {
		h.delete(s)
	}
	h.quiet()
	must(t, lab.clear(t.Context(), quarters...))
}

var quarters = []string{"red", "green", "blue"}

// nowhere is an address that no pool ever owns.
const nowhere = "203.0.113.9"

// A history does things at random, and writes down what may come of them.
type history struct {
	t      *testing.T
	lab    *Lab
	random *rand.Rand
	crew   *crew
	log    []string // the steps so far

	subjects []*subject
	count    int
	user     string          // the configuration as last written; empty: deleted
	plan     plan            // what it was made from
	plans    map[string]plan // all texts that parse
	named    string          // the text that the operator wants although Services lose their address

	mu      sync.Mutex // guards records
	records map[string]*record

	// An epoch lasts from one quiet point to the next.
	epoch       int
	transitions int32
	tookOver    int    // the last epoch in which another leader began
	admitted    string // when it began
	configured  bool   // the operator did something in this epoch
	renumbered  []plan // in this epoch
	since       kubernetes.Moment
	// How many Services had what they asked for, over all quiet points; how many would have had it if they had been alone; and
	// how many not even then.
	content, waiting, hopeless int
	told                       map[types.UID]bool
	came                       map[types.UID]bool // who was told that it came with its address
	strays                     map[netip.Addr]bool
	others                     map[netip.Addr]string // what Services of another implementation show
}

// A subject is a Service that the history may do something to.
type subject struct {
	name    string
	foreign bool // of another implementation; those called f… always were
	idle    bool // of type ClusterIP
}

// A record is what happened to one Service since the last quiet point.
type record struct {
	shown   []sight // its statuses, beginning with the one of then
	version string
	created time.Time
	written []string // statuses that the history wrote
	touched bool     // its user changed anything
	edited  bool     // and something on which its address depends
	wished  int      // the epoch in which that happened last
	settled bool     // then, it had what it asked for, or nothing
	// borrowed is set since it was another's with a finalizer, perhaps one that was left from when it was ours.
	borrowed bool
}

type sight struct {
	at   time.Time
	text string
}

func (h *history) record(name string) *record {
	r := h.records[name]
	if r == nil {
		r = &record{settled: true, shown: []sight{{}}, wished: h.epoch}
		h.records[name] = r
	}
	return r
}

// note is called by the watch.
func (h *history) note(svc *corev1.Service) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.record(svc.Namespace + "/" + svc.Name)
	r.version, r.created = svc.ResourceVersion, svc.CreationTimestamp.Time
	theirs := svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass == otherClass
	r.borrowed = len(svc.Finalizers) > 0 && (r.borrowed || theirs)
	if text := shown(svc); text != r.shown[len(r.shown)-1].text {
		r.shown = append(r.shown, sight{time.Now(), text})
	}
}

// An edit is a JSON merge patch in the making.
type edit struct{ Annotations, Labels, Spec map[string]any }

func newEdit() edit { return edit{map[string]any{}, map[string]any{}, map[string]any{}} }

func (e edit) String() string {
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": e.Annotations, "labels": e.Labels}, "spec": e.Spec})
	if err != nil {
		panic(err) // there are only maps, texts and numbers
	}
	return string(text)
}

func oneOf[T any](h *history, all ...T) T { return all[h.random.IntN(len(all))] }

// annotate uses either prefix; nil removes both.
func (h *history) annotate(e edit, name string, value any) {
	prefixes := []string{"metallb.universe.tf/", "metallb.io/"}
	e.Annotations[prefixes[0]+name], e.Annotations[prefixes[1]+name] = nil, nil
	e.Annotations[oneOf(h, prefixes...)+name] = value
}

func (h *history) address() (v4, v6 string) {
	k, n := h.random.IntN(len(h.plan)), h.random.IntN(4)
	return fmt.Sprintf("10.0.%d.%d", k, n), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", k, n)).String()
}

func (h *history) request(e edit) {
	v4, v6 := h.address()
	other, _ := h.address()
	var field, list any
	switch h.random.IntN(20) {
	case 0, 1, 2, 3:
		field = v4
	case 4:
		field = v6
	case 5, 6:
		list = v4
	case 7:
		list = v4 + "," + v6
	case 8:
		list, field = v4+","+v6, v4
	case 9:
		field = "ten"
	case 10:
		list, field = v4, other
	}
	e.Spec["loadBalancerIP"] = field
	h.annotate(e, "loadBalancerIPs", list)
}

func (h *history) pool(e edit) {
	h.annotate(e, "address-pool", oneOf[any](h, nil, nil, nil, nil, nil, nil, "lot-0", "lot-1", "lot-2", "lot-2", "lot-3"))
}

func (h *history) key(e edit) {
	h.annotate(e, "allow-shared-ip", oneOf[any](h, nil, nil, "k", "k", "k", "l"))
}

func (h *history) ports(e edit) {
	port := func(number int, protocol string) any {
		return map[string]any{"name": fmt.Sprintf("%d-%s", number, strings.ToLower(protocol)), "port": number, "protocol": protocol}
	}
	e.Spec["ports"] = oneOf(h, []any{port(80, "TCP")}, []any{port(80, "TCP")}, []any{port(80, "UDP")}, []any{port(443, "TCP")},
		[]any{port(80, "TCP"), port(443, "TCP")}, []any{port(53, "UDP"), port(53, "TCP")})
}

func (h *history) families(e edit) {
	e.Spec["ipFamilyPolicy"] = oneOf(h, "SingleStack", "PreferDualStack", "RequireDualStack")
}

func (h *history) policy(e edit) {
	e.Spec["externalTrafficPolicy"] = oneOf(h, "Cluster", "Cluster", "Cluster", "Local")
	e.Spec["selector"] = map[string]any{"app": oneOf(h, "web", "web", "api")}
}

func (h *history) label(e edit) { e.Labels["tier"] = oneOf[any](h, nil, "gold", "gold", "tin") }

// class makes a Service, which is of type ClusterIP until then or new, one of a class.
func (h *history) class(e edit, s *subject) {
	e.Spec["type"], e.Spec["allocateLoadBalancerNodePorts"] = "LoadBalancer", false
	if s.foreign || s.idle && h.random.IntN(6) == 0 {
		e.Spec["loadBalancerClass"], s.foreign = otherClass, true
	} else if h.random.IntN(3) == 0 {
		e.Spec["loadBalancerClass"] = ourClass
	}
}

// step does one thing, and tells which.
func (h *history) step() string {
	// Edits on which a Service's address depends are told from those on which it does not.
	change := func(decides bool, what func(edit)) func() string {
		return func() string {
			s := h.pick(func(s *subject) bool { return !s.idle })
			if s == nil {
				return "nobody to edit"
			}
			e := newEdit()
			what(e)
			return h.edit(s, e, decides)
		}
	}
	moves := []struct {
		weight int
		do     func() string
	}{
		{24, h.create}, {8, func() string { return h.delete(h.pick(nil)) }}, {9, h.retype},
		{11, change(true, h.request)}, {5, change(true, h.pool)}, {6, change(true, h.key)}, {5, change(true, h.ports)}, {6, change(true, h.families)},
		{4, change(false, h.policy)}, {4, change(false, h.label)},
		{8, h.reconfigure}, {3, h.renumber}, {7, h.tamper},
		{22, h.crew.freeze}, {1, h.kill}, {2, h.stop}, {2, func() string { h.crew.fill(1 + h.random.IntN(2)); return "start what is missing" }},
	}
	total := 0
	for _, m := range moves {
		total += m.weight
	}
	n := h.random.IntN(total)
	for _, m := range moves {
		if n -= m.weight; n < 0 {
			return m.do()
		}
	}
	panic("unreachable")
}

func (h *history) pick(which func(*subject) bool) *subject {
	some := slices.DeleteFunc(slices.Clone(h.subjects), func(s *subject) bool { return which != nil && !which(s) })
	if len(some) == 0 {
		return nil
	}
	return oneOf(h, some...)
}

func (h *history) create() string {
	if len(h.subjects) > 30 {
		return h.delete(h.pick(nil))
	}
	h.count++
	s := &subject{foreign: h.random.IntN(8) == 0}
	kind := "s"
	if s.foreign {
		kind = "f"
	}
	s.name = fmt.Sprintf("%s/%s%03d", oneOf(h, quarters...), kind, h.count)
	e := newEdit()
	for _, what := range []func(edit){h.request, h.pool, h.key, h.ports, h.families, h.policy, h.label} {
		what(e)
	}
	if h.random.IntN(3) > 0 { // most wish for nothing in particular
		e.Spec["loadBalancerIP"] = nil
		h.annotate(e, "loadBalancerIPs", nil)
	}
	families := oneOf(h, []string{"IPv4"}, []string{"IPv4"}, []string{"IPv6"})
	if e.Spec["ipFamilyPolicy"] != "SingleStack" {
		families = oneOf(h, []string{"IPv4", "IPv6"}, []string{"IPv6", "IPv4"})
	}
	e.Spec["ipFamilies"] = families
	h.class(e, s)
	var svc corev1.Service
	must(h.t, json.Unmarshal([]byte(e.String()), &svc))
	svc.Namespace, svc.Name, _ = strings.Cut(s.name, "/")
	if s.foreign {
		svc.Finalizers = []string{finalizer}
	}
	h.mu.Lock()
	h.record(s.name).wished = h.epoch
	h.mu.Unlock()
	_, err := h.lab.API.CoreV1().Services(svc.Namespace).Create(h.t.Context(), &svc, metav1.CreateOptions{})
	must(h.t, err)
	h.subjects = append(h.subjects, s)
	return "create " + s.name + " " + e.String()
}

func (h *history) delete(s *subject) string {
	if s == nil {
		return "nobody to delete"
	}
	h.subjects = slices.DeleteFunc(h.subjects, func(other *subject) bool { return other == s })
	must(h.t, h.lab.delete(h.t.Context(), s.name))
	return "delete " + s.name
}

func (h *history) edit(s *subject, e edit, decides bool) string {
	h.mu.Lock()
	r := h.record(s.name)
	if r.touched = true; decides {
		r.edited, r.wished = true, h.epoch
	}
	h.mu.Unlock()
	if _, err := h.lab.change(h.t.Context(), s.name, e.String()); err != nil {
		h.t.Fatalf("edit %s: %s: %v", s.name, e, err)
	}
	return "edit " + s.name + " " + e.String()
}

func (h *history) retype() string {
	s := h.pick(func(s *subject) bool { return s.idle })
	if s == nil || h.random.IntN(3) == 0 { // not too many have no use for an address
		s = h.pick(nil)
	}
	if s == nil {
		return "nobody to change"
	}
	e := newEdit()
	if s.idle {
		h.class(e, s)
		s.idle = false
	} else {
		e.Spec["type"] = "ClusterIP"
		s.idle = true
		s.foreign = strings.Contains(s.name, "/f")
	}
	return h.edit(s, e, true)
}

// tamper writes into a status, as other programs and people with kubectl do.
func (h *history) tamper() string {
	s := h.pick(func(s *subject) bool { return !s.idle })
	if s == nil {
		return "nobody to tamper with"
	}
	v4, v6 := h.address()
	if h.plan.owner(netip.MustParseAddr(v4)) < 0 {
		v4 = nowhere
	}
	text := oneOf(h, "null", `[{"ip":"`+nowhere+`"}]`, `[{"ip":"`+v4+`"}]`, `[{"ip":"`+v6+`"}]`,
		`[{"ip":"`+v4+`"},{"hostname":"lb.example.com"}]`, `[{"ip":"`+v4+`","ipMode":"Proxy"}]`)
	h.mu.Lock()
	defer h.mu.Unlock()
	svc, err := h.lab.change(h.t.Context(), s.name, `{"status":{"loadBalancer":{"ingress":`+text+`}}}`, "status")
	must(h.t, err)
	r := h.record(s.name)
	r.written = append(r.written, shown(svc))
	return "write status of " + s.name + " " + text
}

func (h *history) reconfigure() string {
	h.configured = true
	next := h.plan
	l := &next[h.random.IntN(len(next))]
	switch h.random.IntN(13) {
	case 0:
		h.user, h.named = h.plan.text()+oneOf(h, "address-pool: []\n", "  - {\n", "- {name: probe, cidr: [10.9.0.0/24]}\n"), ""
		must(h.t, h.lab.write(h.t.Context(), h.user))
		return "write junk " + h.user
	case 1:
		err := h.lab.API.CoreV1().ConfigMaps("metallb-system").Delete(h.t.Context(), "config", metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			h.t.Fatal(err)
		}
		h.user, h.named = "", ""
		return "delete the configuration"
	case 2:
		l.closed = h.random.IntN(3) == 0
	case 3:
		l.priority = h.random.IntN(3)
	case 4:
		l.namespaces = oneOf(h, nil, nil, quarters[:1], quarters[:2], quarters[1:])
	case 5:
		l.gold = h.random.IntN(2) == 0
	case 6:
		l.across = !l.across
	case 10:
		l.exclude = !l.exclude
	case 11:
		l.reserve = !l.reserve
	case 12:
		l.quota = h.random.IntN(3)
	case 7: // most often refused, and then renumbered
		l.v4, l.v6 = span{h.random.IntN(3), h.random.IntN(3)}, span{h.random.IntN(2), h.random.IntN(3)}
	default:
		l.v4, l.v6 = span{0, 1 + h.random.IntN(3)}, span{0, h.random.IntN(3)}
	}
	h.plan, h.user, h.named = next, next.text(), ""
	h.plans[h.user] = next
	must(h.t, h.lab.write(h.t.Context(), h.user))
	return "write " + h.user
}

var refusedHash = regexp.MustCompile(`(?m)^hash: "?([0-9a-f]{16})"?$`)

// renumber does what the refusal of a configuration says, if there is one.
func (h *history) renumber() string {
	_, refused, err := h.lab.decided(h.t.Context())
	must(h.t, err)
	found := refusedHash.FindStringSubmatch(refused)
	if found == nil || !strings.Contains(refused, "services:") || found[1] != hash(h.user) {
		return "nothing to renumber"
	}
	key := oneOf(h, "metallb.universe.tf/renumber", "metallb.io/renumber")
	_, err = h.lab.API.CoreV1().ConfigMaps("metallb-system").Patch(h.t.Context(), "config", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"`+key+`":"`+found[1]+`"}}}`), metav1.PatchOptions{})
	must(h.t, err)
	h.named = h.user
	h.renumbered = append(h.renumbered, h.plans[h.user])
	return "renumber to " + h.user
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:8])
}

// decided returns the text in force, and why another is refused.
func (l *Lab) decided(ctx context.Context) (admitted, refused string, err error) {
	stored, err := l.API.CoreV1().ConfigMaps("metallb-system").Get(ctx, "config-admitted", metav1.GetOptions{})
	if err != nil {
		return "", "", err
	}
	return stored.Data["config"], stored.Data["refused"], nil
}

func (h *history) kill() string {
	if p := h.crew.one(); p != nil {
		p.Kill()
		return "kill " + p.Name
	}
	return "nobody to kill"
}

func (h *history) stop() string {
	if p := h.crew.one(); p != nil {
		_ = p.Signal(syscall.SIGTERM) // it may have ended
		h.crew.dismiss(p)
		return "stop " + p.Name
	}
	return "nobody to stop"
}

// quiet waits until nothing happens any more, and ends the epoch: all must be as the oracle says.
func (h *history) quiet() {
	h.t.Helper()
	h.crew.thawing.Wait()
	var before string
	var clients []*client
	err := Until(h.t.Context(), "a quiet point", func(ctx context.Context) error {
		h.crew.fill(2) // each time: one that slept for too long may not have ended yet
		for {
			state, faults, err := h.judge(ctx, &clients)
			if err != nil {
				return err
			}
			if len(faults) > 0 {
				return errors.New(strings.Join(faults, "\n"))
			}
			if state == before {
				return nil
			}
			// The service controller takes its work in order: it has done with what is there when this one is served.
			if err := h.lab.probe(ctx); err != nil {
				return err
			}
			before = state
		}
	})
	if err != nil {
		admitted, refused, _ := h.lab.decided(context.Background())
		for _, c := range clients {
			h.t.Log(c)
		}
		h.t.Logf("Services of others show %v", h.others)
		h.t.Fatalf("%v\n\nThe last steps:\n%s\n\nIn force is\n%s\nwritten was\n%s\nrefused is\n%s\n(takeover in epoch %d of %d)",
			err, strings.Join(h.log[max(0, len(h.log)-30):], "\n"), admitted, h.user, refused, h.tookOver, h.epoch)
	}
	h.log = append(h.log, "quiet")
	h.begin(clients)
}

// judge tells what is wrong with the cluster as it is, and its state, which is another one after every change.
func (h *history) judge(ctx context.Context, clients *[]*client) (state string, faults []string, err error) {
	_, transitions, err := h.lab.leads(ctx)
	if err != nil {
		return "", nil, err
	}
	if transitions != h.transitions {
		h.transitions, h.tookOver = transitions, h.epoch
	}
	admitted, refused, err := h.lab.decided(ctx)
	if err != nil {
		return "", nil, err
	}
	list, err := h.lab.API.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	state, *clients, h.others = fmt.Sprint(transitions, admitted, refused), nil, map[netip.Addr]string{}
	for i := range list.Items {
		svc := &list.Items[i]
		c := readClient(svc)
		theirs := svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass == otherClass || strings.HasPrefix(svc.Name, "f")
		if !slices.Contains(quarters, svc.Namespace) {
			continue
		}
		r := h.record(c.name())
		state += " " + svc.ResourceVersion
		switch {
		case r.version != svc.ResourceVersion:
			return "", nil, errors.New("the watch has not caught up")
		case theirs:
			if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
				for _, ingress := range svc.Status.LoadBalancer.Ingress {
					if addr, err := netip.ParseAddr(ingress.IP); err == nil {
						h.others[addr] = c.name()
					}
				}
			}
		case svc.DeletionTimestamp != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer:
			// Whoever took it, or wrote its status after us, may count on the finalizer.
			if len(svc.Finalizers) > 0 && !r.borrowed && len(r.written) == 0 && !overwritten(svc) || shown(svc) != "" {
				faults = append(faults, fmt.Sprintf("has finalizers %v and wants no address: %v", svc.Finalizers, c))
			}
		default:
			*clients = append(*clients, c)
			if what := h.moved(r); what != "" {
				faults = append(faults, what+": "+c.String())
			}
			for _, addr := range c.has {
				if h.tookOver == h.epoch && len(r.written) > 0 && h.plans[admitted].owner(addr) < 0 {
					h.strays[addr] = true // the new leader found it there
				}
			}
		}
	}
	w := h.world(admitted, *clients)
	if !h.configured && admitted == h.admitted { // else who knows under which configuration it was given
		for _, c := range *clients {
			faults = append(faults, h.intrusions(w, c)...)
		}
	}
	events, err := h.lab.API.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "reason=SyncLoadBalancerFailed"})
	if err != nil {
		return "", nil, err
	}
	for _, e := range events.Items {
		h.told[e.InvolvedObject.UID] = true
		if strings.Contains(e.Message, "came with address") {
			h.came[e.InvolvedObject.UID] = true
		}
	}
	return state, append(append(faults, w.faults()...), h.admission(w, admitted, refused)...), nil
}

// overwritten reports whether the API server knows of somebody else who wrote the status, and not before our last write.
func overwritten(svc *corev1.Service) bool {
	var ours, others time.Time
	for _, e := range svc.ManagedFields {
		switch {
		case e.Subresource != "status" || e.Time == nil:
		case e.Manager == "metallb-cloud-controller-manager":
			ours = e.Time.Time
		case e.Time.After(others):
			others = e.Time.Time
		}
	}
	return !others.IsZero() && !others.Before(ours)
}

// intrusions tells what the Service was given since the last quiet point, and should not have been.
func (h *history) intrusions(w *world, c *client) (faults []string) {
	untouched := func(c *client) bool {
		r := h.records[c.name()]
		return !r.touched && len(r.written) == 0
	}
	for family, addr := range c.has {
		owner := w.plan.owner(addr)
		if owner < 0 || !untouched(c) || strings.Contains(h.records[c.name()].shown[0].text, addr.String()) {
			continue
		}
		if !w.admits(owner, c) {
			faults = append(faults, "got what is not for it: "+c.String())
		}
		if w.plan[owner].kept(owner, addr) {
			faults = append(faults, "got what is excluded, or reserved for another: "+c.String())
		}
		shared := slices.ContainsFunc(w.clients, func(other *client) bool {
			return other != c && other.Namespace == c.Namespace && other.has[family] == addr
		})
		if quota, has := w.plan[owner].quota, len(w.holdings(owner, c.Namespace)); quota > 0 && has > quota && !shared {
			faults = append(faults, fmt.Sprintf("got number %d of a quota of %d: %v", has, quota, c))
		}
		for _, other := range w.clients {
			if other != c && other.has[family] == addr && untouched(other) && !w.mayJoin(owner, c, other) {
				faults = append(faults, fmt.Sprintf("share without a right to:\n\t%v\n\t%v", c, other))
			}
		}
	}
	return faults
}

func (h *history) world(admitted string, clients []*client) *world {
	return &world{
		plan: h.plans[admitted], clients: clients,
		warned: func(c *client) bool { return h.told[c.UID] }, others: h.others,
		stray: func(addr netip.Addr) bool { return h.strays[addr] },
		// A new leader cannot know whether it was the user who changed the pool or the operator, and keeps the address.
		excused: func(c *client) bool {
			return h.came[c.UID] || c.pool != "" && len(c.has) > 0 && h.records[c.name()].wished <= h.tookOver
		},
	}
}

// admission tells what is wrong with the configuration in force.
func (h *history) admission(w *world, admitted, refused string) (faults []string) {
	if _, known := h.plans[admitted]; !known {
		return []string{"a text is in force that nobody wrote"}
	}
	if h.user == "" || h.user == admitted {
		return nil
	}
	next, good := h.plans[h.user]
	lost := false
	for _, c := range w.clients {
		for _, addr := range c.has {
			lost = lost || w.plan.owner(addr) >= 0 && next.owner(addr) < 0
		}
	}
	if good && (!lost || h.named == h.user) {
		faults = append(faults, "the text could be admitted")
	}
	if !strings.Contains(refused, hash(h.user)) {
		faults = append(faults, "nobody says that the text is refused")
	}
	return faults
}

// moved tells how the Service's address changed, if it may not have.
func (h *history) moved(r *record) string {
	if r.edited || !r.settled {
		return "" // its user
	}
	for _, next := range h.renumbered {
		if slices.ContainsFunc(r.addresses(), func(addr netip.Addr) bool { return next.owner(addr) < 0 }) {
			return "" // the operator
		}
	}
	tookOver := h.tookOver == h.epoch
	if tookOver && len(r.written) > 0 {
		return ""
	}
	for _, other := range h.records {
		// A new leader believes what the statuses show, and what the Services on one address say about their right to it. And of two
		// that collide by an edit the younger loses the address.
		if other != r && (tookOver && (other.edited || len(other.written) > 0) || other.edited && !other.created.After(r.created)) &&
			slices.ContainsFunc(r.addresses(), func(addr netip.Addr) bool { return slices.Contains(other.addresses(), addr) }) {
			return ""
		}
	}
	before := r.shown[0].text
	for i, s := range r.shown {
		if i+1 < len(r.shown) && (slices.Contains(r.written, s.text) || h.crew.stale(s.at)) {
			continue // and what comes after it is checked
		}
		for _, addr := range strings.Split(before, ",") {
			if !slices.Contains(strings.Split(s.text, ","), addr) && addr != "" {
				return fmt.Sprintf("changed without a cause: %v (written by others: %v)", r.shown, r.written)
			}
		}
		before = s.text
	}
	return ""
}

// addresses are all that the Service showed since the last quiet point, by whosever hand.
func (r *record) addresses() (all []netip.Addr) {
	texts := slices.Clone(r.written)
	for _, s := range r.shown {
		texts = append(texts, s.text)
	}
	for _, text := range texts {
		for _, part := range strings.Split(text, ",") {
			if addr, err := netip.ParseAddr(part); err == nil {
				all = append(all, addr)
			}
		}
	}
	return all
}

// begin starts an epoch at a quiet point.
func (h *history) begin(clients []*client) {
	h.t.Helper()
	ctx := h.t.Context()
	writes, err := h.lab.Requests(ctx, h.since, func(r kubernetes.Request) bool {
		return r.User == controllerUser && r.Writes() && r.Resource == "services" && strings.HasPrefix(r.Name, "f")
	})
	must(h.t, err)
	for _, w := range writes {
		h.t.Errorf("another implementation's Service was written: %v\nThe last steps:\n%s", w, strings.Join(h.log[max(0, len(h.log)-30):], "\n"))
	}
	// The other implementation does its part now.
	list, err := h.lab.API.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	must(h.t, err)
	for _, svc := range list.Items {
		if len(svc.Finalizers) > 0 && (svc.DeletionTimestamp != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer) {
			_, err := h.lab.change(ctx, svc.Namespace+"/"+svc.Name, `{"metadata":{"finalizers":null}}`)
			must(h.t, err)
		}
	}
	h.since, err = h.lab.Now(ctx)
	must(h.t, err)
	admitted, _, err := h.lab.decided(ctx)
	must(h.t, err)

	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	h.renumbered, h.admitted, h.configured = nil, admitted, false
	w := h.world(admitted, clients)
	for name, r := range h.records {
		if !slices.ContainsFunc(h.subjects, func(s *subject) bool { return s.name == name }) {
			delete(h.records, name)
			continue
		}
		r.shown, r.written, r.touched, r.edited, r.settled = r.shown[len(r.shown)-1:], nil, false, false, true
	}
	for _, c := range clients {
		lacks, _ := w.lacks(c)
		r := h.records[c.name()]
		r.settled = lacks == "" || len(c.has) == 0
		alone := h.world(admitted, []*client{c})
		switch {
		case lacks == "":
			h.content++
		case alone.could(c, false):
			h.waiting++
		default:
			h.hopeless++
		}
		for _, other := range clients { // one whose key changed may move when it can
			shared := maps.Clone(c.has)
			maps.DeleteFunc(shared, func(family corev1.IPFamily, addr netip.Addr) bool { return other.has[family] != addr })
			if other != c && len(shared) > 0 && c.key != other.key {
				r.settled = false
			}
		}
	}
}
