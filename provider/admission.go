package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// Keys of the two ConfigMaps.
const (
	keyConfig     = service.KeyConfig
	keyHash       = service.KeyHash
	keyAdmittedAt = service.KeyAdmittedAt
	keyRefused    = service.KeyRefused
	keyGivenUp    = service.KeyGivenUp
	keyObserved   = "observed-resource-version"
	keyConfirmed  = service.KeyConfirmed
)

const (
	// rewriteRefusalAfter is how often a refusal may be written again, with the whole copy, while a text in force stays.
	rewriteRefusalAfter = 10 * time.Second
	// mostOfARefusal is how long it may be: the copy must fit into a ConfigMap.
	mostOfARefusal = 64 << 10
	// graceOfReading is how long after the start a text waits in silence for what a verdict needs to be read.
	graceOfReading = 10 * time.Second
)

// An admission decides which text is in force. It keeps the admitted copy, which speakers act on, equal to its decision.
type admission struct {
	cloud  *Cloud
	client kubernetes.Interface

	informers []cache.SharedIndexInformer
	factories []informers.SharedInformerFactory
	synced    []cache.InformerSynced // of the ConfigMaps, without which nothing can be decided
	user      corelisters.ConfigMapNamespaceLister
	copies    corelisters.ConfigMapNamespaceLister
	facts     *facts
	bell      chan struct{} // however often it rings, everything is looked at once

	// The rest belongs to whoever runs recall and run, one after the other.
	inForce  state
	config   *loadbalancer.Config // of the text in force; nil until one is admitted
	refused  *service.Refusal
	observed string          // version of the user's ConfigMap that was judged last
	used     []string        // confirmations that are used up
	parsed   parsed          // the user's text that is not in force
	told     map[string]bool // warnings about the text in force that were told
	typos    []string        // annotations of the user's ConfigMap that mean nothing
	missed   bool            // the user's ConfigMap is gone, and we said so
	waits    bool            // for what a verdict needs to be read, or for the copy to be written
	failure  string          // why the copy could not be written, as it was said
	began    time.Time       // when we began to lead
	written  time.Time       // when a refusal was written last
}

// A state is what the copy says of the text in force.
type state struct {
	text, admittedAt string
	// givenUp are addresses that the operator took away from Services on purpose. Those that hold one still are to move.
	givenUp *netipx.IPSet
}

// parsed is a text and what became of it, so that it is parsed once.
type parsed struct {
	hash     string
	config   *loadbalancer.Config
	warnings loadbalancer.Problems
	problems loadbalancer.Problems
}

// newAdmission watches with one client and writes with the other.
func newAdmission(reader, writer kubernetes.Interface, c *Cloud) (*admission, error) {
	a := &admission{cloud: c, client: writer, bell: make(chan struct{}, 1)}
	namespace := c.options.Namespace
	userFactory := oneObject(reader, namespace, c.options.ConfigName, trim)
	copyFactory := oneObject(reader, namespace, a.copyName(), trim)
	user, copies := userFactory.Core().V1().ConfigMaps(), copyFactory.Core().V1().ConfigMaps()
	a.user, a.copies = user.Lister().ConfigMaps(namespace), copies.Lister().ConfigMaps(namespace)
	a.synced = []cache.InformerSynced{user.Informer().HasSynced, copies.Informer().HasSynced}
	facts, err := newFacts(reader, namespace, c, a.ring)
	if err != nil {
		return nil, err
	}
	a.facts = facts
	a.factories = append(facts.factories, userFactory, copyFactory)
	a.informers = []cache.SharedIndexInformer{user.Informer(), copies.Informer()}
	ring := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { a.ring() },
		UpdateFunc: func(any, any) { a.ring() },
		DeleteFunc: func(any) { a.ring() },
	}
	for _, informer := range a.informers {
		if _, err := informer.AddEventHandler(ring); err != nil {
			return nil, fmt.Errorf("watch the configuration: %w", err)
		}
	}
	return a, nil
}

func (a *admission) copyName() string { return a.cloud.options.ConfigName + "-admitted" }

func (a *admission) ring() {
	select {
	case a.bell <- struct{}{}:
	default:
	}
}

// start fills the caches. A standby's are filled too.
func (a *admission) start(ctx context.Context) {
	for _, f := range a.factories {
		f.Start(ctx.Done())
	}
}

// recall returns the configuration that was admitted; nil if there is none.
func (a *admission) recall(ctx context.Context) (*loadbalancer.Config, error) {
	stored, err := a.client.CoreV1().ConfigMaps(a.cloud.options.Namespace).Get(ctx, a.copyName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get configmap %s: %w", a.copyName(), err)
	}
	a.refused, a.observed = service.ReadRefusal(stored.Data[keyRefused]), stored.Data[keyObserved]
	text, ok := stored.Data[keyConfig]
	if !ok {
		return nil, nil
	}
	// What another version admitted is in force here too.
	config, _, err := loadbalancer.ParseAdmitted([]byte(text))
	if err != nil {
		klog.ErrorS(err, "Cannot read the admitted configuration", "configmap", klog.KRef(stored.Namespace, stored.Name))
		return nil, nil
	}
	a.config, a.inForce = config, state{text, stored.Data[keyAdmittedAt], service.ReadRanges(stored.Data[keyGivenUp])}
	if used := stored.Data[keyConfirmed]; used != "" {
		a.used = strings.Split(used, ",")
	}
	return config, nil
}

// begin reviews the configuration for the first time, so that Services find the first text in force.
func (a *admission) begin(ctx context.Context) {
	a.began = time.Now()
	if cache.WaitForCacheSync(ctx.Done(), a.synced...) {
		if a.look(ctx) > 0 {
			a.ring()
		}
	}
}

// run reviews the configuration whenever something changes that it depends on.
func (a *admission) run(ctx context.Context) {
	again := a.again(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.bell:
		case <-again:
		}
		again = a.again(a.look(ctx))
	}
}

// again returns a channel for the next look; zero is none. There is at most one, however often the API server says no.
func (a *admission) again(after time.Duration) <-chan time.Time {
	if after == 0 {
		return nil
	}
	return time.After(after)
}

// look reviews the configuration, and returns after which time it is to be looked at again though nothing changes.
func (a *admission) look(ctx context.Context) (again time.Duration) {
	updates.Inc()
	a.cloud.withhold(a.facts.now())
	again, err := a.review(ctx)
	if err == nil || ctx.Err() != nil {
		a.failure = ""
		return again
	}
	updateErrors.Inc()
	if text := err.Error(); !overtaken(err) && text != a.failure {
		a.failure = text
		klog.ErrorS(err, "Cannot keep the admitted configuration", "configmap", klog.KRef(a.cloud.options.Namespace, a.copyName()))
		if user, err := a.user.Get(a.cloud.options.ConfigName); err == nil {
			means := "speakers act on what it says now"
			if a.waits {
				means = "the text is not in force"
			}
			a.cloud.record.Eventf(user, corev1.EventTypeWarning, "ConfigNotStored", "ConfigMap %s cannot be written, so that %s: %s; if it is immutable, delete it", a.copyName(), means, text)
		}
	}
	return time.Second
}

// overtaken reports whether somebody else wrote the copy a moment ago, perhaps we ourselves: the watch will bring what it is.
func overtaken(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// review decides about the user's text and repairs the admitted copy.
func (a *admission) review(ctx context.Context) (again time.Duration, err error) {
	defer func() {
		unstored := err != nil && !overtaken(err)
		a.cloud.report(configState{loaded: a.config != nil, stale: a.refused != nil || a.missed || a.waits || unstored})
	}()
	user, err := a.user.Get(a.cloud.options.ConfigName)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("get configmap %s: %w", a.cloud.options.ConfigName, err)
	}
	gone := err != nil && a.config != nil
	if gone && !a.missed {
		klog.InfoS("The configuration is gone: the admitted one stays in force", "configmap", klog.KRef(a.cloud.options.Namespace, a.cloud.options.ConfigName))
	}
	a.missed = gone
	if err != nil {
		a.refused, a.waits, a.observed = nil, false, ""
	} else if again, err = a.consider(ctx, user); err != nil {
		return 0, err
	}
	if a.inForce.givenUp != nil && !a.cloud.holdsAny(a.inForce.givenUp) {
		a.inForce.givenUp = nil
	}
	wait, err := a.store(ctx, a.want(a.inForce))
	return cmp.Or(again, wait), err
}

// consider admits the user's text or refuses it, and says so if that is new.
func (a *admission) consider(ctx context.Context, user *corev1.ConfigMap) (again time.Duration, err error) {
	judged := a.observed == user.ResourceVersion // perhaps before a restart
	a.waits, a.observed = false, user.ResourceVersion
	a.used = slices.DeleteFunc(a.used, func(used string) bool { return !slices.Contains(confirmations(user), used) })
	text, ok := user.Data[keyConfig]
	known := a.facts.now()
	if typos := service.UnknownOnConfig(user.Annotations); !slices.Equal(typos, a.typos) {
		if a.typos = typos; len(typos) > 0 && !judged {
			a.cloud.record.Eventf(user, corev1.EventTypeWarning, "UnknownAnnotation", "%s", strings.Join(typos, "; "))
		}
	}
	if ok && a.config != nil && text == a.inForce.text {
		if a.refused != nil {
			a.admitted(user, service.Hash(text), "in force again")
		}
		a.refused = nil
		a.warn(user, a.config.Admit(a.config, known).Warnings)
		return 0, nil
	}
	if a.parsed.hash != service.Hash(text) {
		a.parsed = parse(text)
	}
	next := a.parsed
	if !ok {
		next = parsed{hash: service.Hash(""), problems: loadbalancer.Problems{{Text: noText(user)}}}
	}
	if len(next.problems) > 0 {
		a.refuse(user, next, loadbalancer.Verdict{})
		return 0, nil
	}
	known.Held = a.cloud.hold()
	defer a.cloud.resume()
	verdict := a.config.Admit(next.config, known)
	by, problems := a.consent(user, next.hash)
	if against := verdict.But(by); !against.Admits() {
		if len(against.Waits) > 0 && time.Since(a.began) < graceOfReading {
			a.waits = true
			return time.Second, nil
		}
		next.problems = problems
		a.refuse(user, next, against)
		if len(against.Waits) > 0 {
			return watchIsWell, nil
		}
		return 0, nil
	}
	return 0, a.admit(ctx, user, text, next, verdict)
}

func parse(text string) parsed {
	config, warnings, err := loadbalancer.Parse([]byte(text))
	p := parsed{hash: service.Hash(text), config: config, warnings: warnings}
	if err != nil && !errors.As(err, &p.problems) {
		p.problems = loadbalancer.Problems{{Text: err.Error()}}
	}
	return p
}

// noText says what is wrong with a ConfigMap without a text.
func noText(user *corev1.ConfigMap) string {
	if _, binary := user.BinaryData[keyConfig]; binary {
		return fmt.Sprintf("the key %q is in binaryData, since the file is not UTF-8 text, perhaps UTF-16: save it as UTF-8, and write it again", keyConfig)
	}
	return fmt.Sprintf("the ConfigMap has no key %q: put the configuration there", keyConfig)
}

// confirmations are what the ConfigMap's annotations confirm, as "confirm=0123456789abcdef".
func confirmations(user *corev1.ConfigMap) (all []string) {
	for _, name := range []string{service.AnnotationConfirm, service.AnnotationRenumber} {
		if hash, _, err := service.Annotation(user.Annotations, name); err == nil && hash != "" {
			all = append(all, name+"="+hash)
		}
	}
	return all
}

// consent returns what the operator has consented to by naming the text, and what is wrong with the annotations if the text
// needs more.
func (a *admission) consent(user *corev1.ConfigMap, hash string) (by loadbalancer.Consent, problems loadbalancer.Problems) {
	for _, level := range []struct {
		name    string
		consent loadbalancer.Consent
	}{{service.AnnotationConfirm, loadbalancer.Confirm}, {service.AnnotationRenumber, loadbalancer.Renumber}} {
		named, where, err := service.Annotation(user.Annotations, level.name)
		switch {
		case err != nil:
			problems = append(problems, loadbalancer.Problem{Text: err.Error()})
		case named == "":
		case named != hash:
			problems = append(problems, loadbalancer.Problem{Text: fmt.Sprintf("annotation %s is %q, which names another text than this", where, service.Short(named))})
		case slices.Contains(a.used, level.name+"="+hash):
			problems = append(problems, loadbalancer.Problem{Text: fmt.Sprintf("annotation %s was used already, and counts once: remove it, and write it again", where)})
		default:
			by = max(by, level.consent)
		}
	}
	return by, problems
}

// admit stores the user's text, and then puts it in force: speakers know every address that is given out.
func (a *admission) admit(ctx context.Context, user *corev1.ConfigMap, text string, next parsed, verdict loadbalancer.Verdict) error {
	becomes := state{text, time.Now().UTC().Format(time.RFC3339), with(a.inForce.givenUp, verdict.Lost)}
	before, used := a.refused, a.used
	a.refused = nil
	for _, c := range confirmations(user) {
		if strings.HasSuffix(c, "="+next.hash) && !slices.Contains(a.used, c) {
			a.used = append(slices.Clone(a.used), c)
		}
	}
	if _, err := a.store(ctx, a.want(becomes)); err != nil {
		a.refused, a.used, a.waits = before, used, true
		return err
	}
	first := a.config == nil
	a.config, a.inForce, a.parsed, a.told = next.config, becomes, parsed{}, map[string]bool{}
	a.cloud.enforce(a.config, becomes.givenUp, first)
	klog.InfoS("Admitted configuration", "configmap", klog.KObj(user), "hash", next.hash, "pools", len(a.config.Pools), "peers", len(a.config.Peers))
	a.admitted(user, next.hash, "in force")
	a.warn(user, append(next.warnings, verdict.Warnings...))
	return nil
}

func (a *admission) admitted(user *corev1.ConfigMap, hash, state string) {
	a.cloud.record.Eventf(user, corev1.EventTypeNormal, "ConfigAdmitted", "the text %s is %s: %s, %s", hash, state, count(len(a.config.Pools), "pool"), count(len(a.config.Peers), "peer"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// warn tells what is new of the warnings about the text in force. What there was at a start is not new.
func (a *admission) warn(user *corev1.ConfigMap, warnings loadbalancer.Problems) {
	starts := a.told == nil
	var fresh loadbalancer.Problems
	told := map[string]bool{}
	for _, w := range warnings {
		if told[w.Error()] = true; !a.told[w.Error()] {
			fresh = append(fresh, w)
		}
	}
	if a.told = told; len(fresh) > 0 && !starts {
		a.cloud.record.Eventf(user, corev1.EventTypeWarning, "ConfigWarning", "%s", fresh.First(5))
	}
}

func (a *admission) refuse(user *corev1.ConfigMap, next parsed, against loadbalancer.Verdict) {
	r := &service.Refusal{Hash: next.hash, Time: time.Now().UTC().Format(time.RFC3339)}
	r.Kinds = fmt.Sprintf("unpeered %t untold %t lost %t waits %v", len(against.Unpeered) > 0, len(against.Untold) > 0, len(against.Lost) > 0, against.Waits) + against.Unsigned.First(5) + against.Unfit.First(5)
	size := 0
	note := func(list *[]string, text string) {
		const most = 100 // of either kind
		text = service.Cut(text, mostOfAnEvent)
		if size += len(text) + 10; len(*list) < most && size < mostOfARefusal-1000 {
			*list = append(*list, text)
		}
	}
	for _, p := range next.problems {
		r.Kinds += "\n" + service.Cut(p.Error(), mostOfAnEvent)
		note(&r.Problems, p.Error())
	}
	r.Kinds = service.Hash(r.Kinds)
	why := next.problems.First(5)
	if reasons := against.Reasons(r.Hash); len(reasons) > 0 {
		for _, reason := range reasons {
			note(&r.Problems, reason)
		}
		why = strings.Join(reasons, "; ")
		if len(next.problems) > 0 {
			why += "; " + next.problems[0].Text
		}
	}
	for _, h := range against.Losers() {
		note(&r.Services, fmt.Sprintf("%s %s", h.Service, h.Addr))
	}
	if before := a.refused; before != nil && before.Hash == r.Hash && cmp.Or(before.Kinds, r.Kinds) == r.Kinds {
		return // it was refused then for the same, and said: its Services are those at the time it names
	}
	a.refused = r
	stays := "no configuration is in force"
	if a.config != nil {
		stays = "the configuration admitted at " + a.inForce.admittedAt + " stays in force"
	}
	why = service.Cut(why, mostOfAnEvent)
	klog.InfoS("Refused configuration", "configmap", klog.KObj(user), "hash", r.Hash, "why", why)
	a.cloud.record.Eventf(user, corev1.EventTypeWarning, "InvalidConfig", "%s: %s", stays, why)
}

// want returns what the copy should say.
func (a *admission) want(s state) map[string]string {
	want := map[string]string{}
	if s.admittedAt != "" {
		want = a.cloud.options.Ours.Data()
		want[keyConfig], want[keyHash], want[keyAdmittedAt] = s.text, service.Hash(s.text), s.admittedAt
	}
	if s.givenUp != nil {
		want[keyGivenUp] = writeRanges(s.givenUp)
	}
	if len(a.used) > 0 {
		want[keyConfirmed] = strings.Join(a.used, ",")
	}
	if a.refused != nil {
		text, err := yaml.Marshal(a.refused)
		if err != nil { // strings only
			klog.ErrorS(err, "Cannot write down a refusal")
		}
		want[keyRefused] = string(text)
	}
	if len(want) > 0 && a.observed != "" {
		want[keyObserved] = a.observed
	}
	return want
}

// store writes the admitted copy if it is not what it should be and this process leads. Other refusals of one text in force
// wait their turn.
func (a *admission) store(ctx context.Context, want map[string]string) (again time.Duration, err error) {
	stored, err := a.copies.Get(a.copyName())
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("get configmap %s: %w", a.copyName(), err)
	}
	missing := err != nil
	if missing && len(want) == 0 || !missing && maps.Equal(stored.Data, want) && len(stored.BinaryData) == 0 {
		return 0, nil
	}
	if !missing && want[keyRefused] != "" && stored.Data[keyRefused] != "" && stored.Data[keyRefused] != want[keyRefused] {
		if age := time.Since(a.written); age < rewriteRefusalAfter && stored.Data[keyConfig] == want[keyConfig] && stored.Data[keyHash] == want[keyHash] {
			return rewriteRefusalAfter - age, nil
		}
	}
	if err := a.cloud.confirm(ctx); err != nil {
		return 0, err
	}
	configMaps := a.client.CoreV1().ConfigMaps(a.cloud.options.Namespace)
	if missing {
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: a.cloud.options.Namespace, Name: a.copyName()},
			Data:       want,
		}, metav1.CreateOptions{})
	} else {
		// It carries the resourceVersion that we saw: two that write at once cannot both succeed.
		changed := stored.DeepCopy()
		changed.Data, changed.BinaryData = want, nil
		_, err = configMaps.Update(ctx, changed, metav1.UpdateOptions{})
	}
	if err == nil && want[keyRefused] != "" && (missing || stored.Data[keyRefused] != want[keyRefused]) {
		a.written = time.Now()
	}
	return 0, err
}

// writeRanges keeps the addresses that are given up over a restart, for service.ReadRanges.
func writeRanges(set *netipx.IPSet) string {
	const most = 200 << 10 // the copy must fit into a ConfigMap
	var all []string
	size := 0
	for _, r := range set.Ranges() {
		text := r.String()
		if size += len(text) + 1; size > most {
			break // those are not forgotten as long as this process lives
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}

// hold returns the addresses that Services hold, and lets nobody get another until resume: what is judged by them stays right.
func (c *Cloud) hold() []loadbalancer.Holding {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
	return c.ledger.allocator.Holdings()
}

// withhold keeps the Nodes' own addresses from being handed out.
func (c *Cloud) withhold(known loadbalancer.Facts) {
	var nodes []netip.Addr
	for _, n := range known.Nodes {
		nodes = append(nodes, n.InternalIPs...)
	}
	if !known.NodesKnown || slices.Equal(nodes, c.withheld) {
		return
	}
	c.withheld = nodes
	c.mu.Lock()
	c.ledger.nodes = nodes
	c.ledger.withhold()
	changed := c.serve()
	c.mu.Unlock()
	c.requeue(changed)
}

// resume ends a hold.
func (c *Cloud) resume() {
	c.mu.Lock()
	var changed []*corev1.Service
	if c.holding {
		c.holding = false
		changed = c.serve()
		c.resumed.Broadcast()
	}
	c.mu.Unlock()
	c.requeue(changed)
}

// enforce puts a configuration in force that is stored. Addresses of givenUp are taken away from Services.
func (c *Cloud) enforce(config *loadbalancer.Config, givenUp *netipx.IPSet, first bool) {
	c.mu.Lock()
	c.ledger.configure(config, givenUp)
	c.holding = false
	changed := c.serve()
	c.resumed.Broadcast()
	var strays []stray
	if first { // later texts lose no address
		strays = c.ledger.strays()
	}
	c.mu.Unlock()
	c.requeue(changed)
	c.warnNotInPool(strays)
}

// with adds addresses to a set, which may be nil.
func with(set *netipx.IPSet, more []loadbalancer.Holding) *netipx.IPSet {
	if len(more) == 0 {
		return set
	}
	var b netipx.IPSetBuilder
	if set != nil {
		b.AddSet(set)
	}
	for _, h := range more {
		b.Add(h.Addr)
	}
	all, err := b.IPSet()
	if err != nil { // only an invalid address is an error, and nobody holds one
		klog.ErrorS(err, "Cannot give up addresses")
		return set
	}
	return all
}

// holdsAny reports whether a Service still holds an address of the set that no pool owns.
func (c *Cloud) holdsAny(set *netipx.IPSet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.ledger.allocator.Holdings(), func(h loadbalancer.Holding) bool {
		return set.Contains(h.Addr) && c.ledger.allocator.Pool(h.Addr) == nil
	})
}

// report takes note of the configuration's state, for the metrics.
func (c *Cloud) report(s configState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = s
}
