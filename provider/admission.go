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
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
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
	keyContested  = "contested"
	keyConfirmed  = service.KeyConfirmed
)

const (
	// rewriteAfter is how often what is noted beside a text in force may be written again, with the whole copy.
	rewriteAfter = 10 * time.Second
	// mostOfARefusal is how long it may be: the copy must fit into a ConfigMap.
	mostOfARefusal = 64 << 10
	// graceOfReading is how long after the start a text waits in silence for what a verdict needs to be read.
	graceOfReading = 10 * time.Second
)

// An admission decides which text is in force. It keeps the admitted copy, which speakers act on, equal to its decision.
type admission struct {
	cloud  *Cloud
	client kubernetes.Interface

	user   cache.SharedIndexInformer // of the user's ConfigMap
	copies cache.SharedIndexInformer // of the admitted copy
	facts  *facts
	looks  workqueue.TypedDelayingInterface[struct{}] // however often one is asked for, everything is looked at once

	// The rest belongs to whoever runs recall and run, one after the other.
	is      admittedCopy
	config  *loadbalancer.Config // of the text in force; nil until one is admitted
	parsed  parsed               // the user's text that is not in force
	told    map[string]bool      // warnings about the text in force that were told
	typos   string               // annotations of the user's ConfigMap that mean nothing
	missed  bool                 // the user's ConfigMap is gone, and we said so
	waits   bool                 // for what a verdict needs to be read, or for the copy to be written
	failure string               // why the copy could not be written, as it was said, and for which version of the user's text
	began   time.Time            // when we began to lead
	written time.Time            // when something was noted beside the text in force last
}

// An admittedCopy is what the copy says.
type admittedCopy struct {
	text, at string // in force, and since when; empty until one is
	// givenUp are addresses that the operator took away from Services on purpose. Those that hold one still are to move.
	givenUp  *netipx.IPSet
	used     []string         // confirmations that are used up
	refused  *service.Refusal // of the user's text, if it is not in force
	observed string           // version of the user's ConfigMap that was judged last
	// contested are the addresses of Services whose status somebody else writes again and again, as writeAddresses writes them.
	contested string
}

// parsed is a text and what became of it, so that it is parsed once.
type parsed struct {
	hash     string
	config   *loadbalancer.Config
	warnings loadbalancer.Problems
	problems loadbalancer.Problems
}

// newAdmission watches with one client, and tells of failures to read; it writes with the other.
func newAdmission(reader, writer kubernetes.Interface, c *Cloud, fails func(error)) (*admission, error) {
	a := &admission{cloud: c, client: writer, looks: workqueue.NewTypedDelayingQueue[struct{}]()}
	a.user = coreinformers.NewFilteredConfigMapInformer(reader, c.options.Namespace, 0, cache.Indexers{}, only(c.options.ConfigName))
	a.copies = coreinformers.NewFilteredConfigMapInformer(reader, c.options.Namespace, 0, cache.Indexers{}, only(a.copyName()))
	facts, err := newFacts(reader, c, a.ring)
	a.facts = facts
	return a, errors.Join(err, prepare(a.user, trim, whenever(a.ring), fails), prepare(a.copies, trim, whenever(a.ring), fails))
}

func (a *admission) copyName() string { return a.cloud.options.ConfigName + "-admitted" }

func (a *admission) ring() { a.looks.Add(struct{}{}) }

// start fills the caches. A standby's are filled too.
func (a *admission) start(ctx context.Context) {
	for _, informer := range []cache.SharedIndexInformer{a.user, a.copies, &a.facts.nodes, &a.facts.secret} {
		go informer.RunWithContext(ctx)
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
	a.is = readCopy(stored.Data)
	a.cloud.ledger.contested = readAddresses(a.is.contested)
	// What another version admitted is in force here too.
	if text, ok := stored.Data[keyConfig]; ok {
		if a.config, _, err = loadbalancer.ParseAdmitted([]byte(text)); err != nil {
			klog.ErrorS(err, "Cannot read the admitted configuration", "configmap", klog.KRef(stored.Namespace, stored.Name))
		}
	}
	switch {
	case a.config == nil:
		a.is.text, a.is.at = "", ""
	case a.is.at == "": // written by hand, or restored
		a.is.at = moment()
	}
	return a.config, nil
}

// begin reviews the configuration for the first time, so that Services find the first text in force.
func (a *admission) begin(ctx context.Context) {
	a.began = time.Now()
	if cache.WaitForCacheSync(ctx.Done(), a.user.HasSynced, a.copies.HasSynced) {
		a.look(ctx)
	}
}

// run reviews the configuration whenever something changes that it depends on.
func (a *admission) run(ctx context.Context) {
	defer context.AfterFunc(ctx, a.looks.ShutDown)()
	for {
		look, ends := a.looks.Get()
		if ends {
			return
		}
		a.look(ctx)
		a.looks.Done(look)
	}
}

// look reviews the configuration, and asks for another look where one is due though nothing changes.
func (a *admission) look(ctx context.Context) {
	updates.Inc()
	a.cloud.withhold(a.facts.now())
	again, err := a.review(ctx)
	unstored := err != nil && !overtaken(err)
	a.cloud.report(configState{loaded: a.config != nil, stale: a.is.refused != nil || a.missed || a.waits || unstored})
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		a.failure = ""
	default:
		updateErrors.Inc()
		again = time.Second
	}
	if unstored && a.failure != err.Error()+a.is.observed { // each text hears of it
		a.failure = err.Error() + a.is.observed
		klog.ErrorS(err, "Cannot keep the admitted configuration", "configmap", klog.KRef(a.cloud.options.Namespace, a.copyName()))
		if user := stored[corev1.ConfigMap](a.user, a.cloud.options.Namespace, a.cloud.options.ConfigName); user != nil {
			means := "speakers act on what it says now"
			if a.waits {
				means = "the text is not in force"
			}
			a.cloud.record.Eventf(user, corev1.EventTypeWarning, "ConfigNotStored", "ConfigMap %s cannot be written, so that %s: %s; if it is immutable, delete it", a.copyName(), means, err)
		}
	}
	if again > 0 {
		a.looks.AddAfter(struct{}{}, again)
	}
}

// overtaken reports whether somebody else wrote the copy a moment ago, perhaps we ourselves: the watch will bring what it is.
func overtaken(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// review decides about the user's text and repairs the admitted copy.
func (a *admission) review(ctx context.Context) (again time.Duration, err error) {
	user := stored[corev1.ConfigMap](a.user, a.cloud.options.Namespace, a.cloud.options.ConfigName)
	gone := user == nil && a.config != nil
	if gone && !a.missed {
		klog.InfoS("The configuration is gone: the admitted one stays in force", "configmap", klog.KRef(a.cloud.options.Namespace, a.cloud.options.ConfigName))
	}
	a.missed = gone
	if user == nil {
		a.is.refused, a.waits, a.is.observed = nil, false, ""
	} else if again, err = a.consider(ctx, user); err != nil {
		return 0, err
	}
	if a.is.givenUp != nil && !a.cloud.holdsAny(a.is.givenUp) {
		a.is.givenUp = nil
	}
	a.is.contested = a.cloud.fights()
	wait, err := a.store(ctx, a.is)
	return cmp.Or(again, wait), err
}

// consider admits the user's text or refuses it, and says so if that is new.
func (a *admission) consider(ctx context.Context, user *corev1.ConfigMap) (again time.Duration, err error) {
	judged := a.is.observed == user.ResourceVersion // perhaps before a restart
	a.waits, a.is.observed = false, user.ResourceVersion
	a.is.used = slices.DeleteFunc(slices.Clone(a.is.used), func(used string) bool {
		name, hash, _ := strings.Cut(used, "=")
		named, _, err := service.Annotation(user.Annotations, name)
		return err != nil || named != hash
	})
	text, ok := user.Data[keyConfig]
	known := a.facts.now()
	typos := service.UnknownOnConfig(user.Annotations)
	if typos != "" && typos != a.typos && !judged {
		a.cloud.record.Eventf(user, corev1.EventTypeWarning, "UnknownAnnotation", "%s", typos)
	}
	a.typos = typos
	if a.config != nil { // also while another text is refused
		a.warn(user, a.config.Admit(a.config, known).Warnings)
	}
	if ok && a.config != nil && text == a.is.text {
		if a.is.refused != nil {
			a.admitted(user, service.Hash(text), "in force again")
		}
		a.is.refused = nil
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
	known.Held, known.Labels = a.cloud.hold(), a.cloud.labels()
	defer a.cloud.resume()
	verdict := a.config.Admit(next.config, known)
	by, uses, problems := a.consent(user, next.hash)
	against := verdict.But(by)
	switch {
	case against.Admits():
		return 0, a.admit(ctx, user, text, next, verdict, uses)
	case len(against.Waits) == 0:
	case time.Since(a.began) < graceOfReading:
		a.waits = true
		return time.Second, nil
	default:
		again = watchIsWell
	}
	next.problems = problems
	a.refuse(user, next, against)
	return again, nil
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

// consent returns what the operator has consented to by naming the text, by which confirmations, as "confirm=0123456789abcdef",
// and what is wrong with the annotations if the text needs more.
func (a *admission) consent(user *corev1.ConfigMap, hash string) (by loadbalancer.Consent, uses []string, problems loadbalancer.Problems) {
	for _, level := range []struct {
		name    string
		consent loadbalancer.Consent
	}{{service.AnnotationConfirm, loadbalancer.Confirm}, {service.AnnotationRenumber, loadbalancer.Renumber}} {
		named, where, err := service.Annotation(user.Annotations, level.name)
		switch use := level.name + "=" + hash; {
		case err != nil:
			problems = append(problems, loadbalancer.Problem{Text: err.Error()})
		case named == "":
		case named != hash:
			problems = append(problems, loadbalancer.Problem{Text: fmt.Sprintf("annotation %s is %q, which names another text than this", where, service.Short(named))})
		case slices.Contains(a.is.used, use):
			problems = append(problems, loadbalancer.Problem{Text: fmt.Sprintf("annotation %s was used already, and counts once: remove it, and write it again", where)})
		default:
			by, uses = max(by, level.consent), append(uses, use)
		}
	}
	return by, uses, problems
}

// admit stores the user's text, and then puts it in force: speakers know every address that is given out.
func (a *admission) admit(ctx context.Context, user *corev1.ConfigMap, text string, next parsed, verdict loadbalancer.Verdict, uses []string) error {
	becomes := a.is
	becomes.text, becomes.at, becomes.refused = text, moment(), nil
	becomes.givenUp, becomes.used = with(a.is.givenUp, verdict.Lost), slices.Concat(a.is.used, uses)
	if _, err := a.store(ctx, becomes); err != nil {
		a.waits = true
		return err
	}
	first := a.config == nil
	a.config, a.is, a.parsed, a.told = next.config, becomes, parsed{}, map[string]bool{}
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
	r := &service.Refusal{Hash: next.hash, Time: moment()}
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
	if before := a.is.refused; before != nil && before.Hash == r.Hash && cmp.Or(before.Kinds, r.Kinds) == r.Kinds {
		return // it was refused then for the same, and said: its Services are those at the time it names
	}
	a.is.refused = r
	stays := "no configuration is in force"
	if a.config != nil {
		stays = "the configuration admitted at " + a.is.at + " stays in force"
	}
	why = service.Cut(why, mostOfAnEvent)
	klog.InfoS("Refused configuration", "configmap", klog.KObj(user), "hash", r.Hash, "why", why)
	a.cloud.record.Eventf(user, corev1.EventTypeWarning, "InvalidConfig", "%s: %s", stays, why)
}

func moment() string { return time.Now().UTC().Format(time.RFC3339) }

// readCopy reads what data writes.
func readCopy(data map[string]string) admittedCopy {
	is := admittedCopy{text: data[keyConfig], at: data[keyAdmittedAt], givenUp: service.ReadRanges(data[keyGivenUp]), refused: service.ReadRefusal(data[keyRefused]), observed: data[keyObserved], contested: data[keyContested]}
	if used := data[keyConfirmed]; used != "" {
		is.used = strings.Split(used, ",")
	}
	return is
}

// data returns what the copy should say.
func (is admittedCopy) data(ours service.Ours) map[string]string {
	want := map[string]string{}
	if is.at != "" {
		want = ours.Data()
		want[keyConfig], want[keyHash], want[keyAdmittedAt] = is.text, service.Hash(is.text), is.at
	}
	if is.givenUp != nil {
		want[keyGivenUp] = writeRanges(is.givenUp)
	}
	if len(is.used) > 0 {
		want[keyConfirmed] = strings.Join(is.used, ",")
	}
	if is.refused != nil {
		text, err := yaml.Marshal(is.refused)
		if err != nil { // strings only
			klog.ErrorS(err, "Cannot write down a refusal")
		}
		want[keyRefused] = string(text)
	}
	if is.contested != "" {
		want[keyContested] = is.contested
	}
	if len(want) > 0 && is.observed != "" {
		want[keyObserved] = is.observed
	}
	return want
}

// store writes the admitted copy if it is not what it should be and this process leads. What else is noted beside the same text in
// force waits its turn.
func (a *admission) store(ctx context.Context, is admittedCopy) (again time.Duration, err error) {
	want, found := is.data(a.cloud.options.Ours), stored[corev1.ConfigMap](a.copies, a.cloud.options.Namespace, a.copyName())
	missing := found == nil
	if missing {
		found = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: a.cloud.options.Namespace, Name: a.copyName()}}
	}
	if maps.Equal(found.Data, want) && len(found.BinaryData) == 0 {
		return 0, nil
	}
	notes, anew := false, false
	for _, key := range []string{keyRefused, keyContested} {
		if is, was := want[key], found.Data[key]; is != "" && is != was {
			notes, anew = true, anew || was != ""
		}
	}
	if age := time.Since(a.written); anew && age < rewriteAfter && found.Data[keyConfig] == want[keyConfig] && found.Data[keyHash] == want[keyHash] {
		return rewriteAfter - age, nil
	}
	if err := a.cloud.confirm(ctx); err != nil {
		return 0, err
	}
	// It carries the resourceVersion that we saw: two that write at once cannot both succeed.
	changed := found.DeepCopy()
	changed.Data, changed.BinaryData = want, nil
	if configMaps := a.client.CoreV1().ConfigMaps(changed.Namespace); missing {
		_, err = configMaps.Create(ctx, changed, metav1.CreateOptions{})
	} else {
		_, err = configMaps.Update(ctx, changed, metav1.UpdateOptions{})
	}
	if err == nil && notes {
		a.written = time.Now()
	}
	return 0, err
}

// writeRanges keeps the addresses that are given up over a restart, for service.ReadRanges.
func writeRanges(set *netipx.IPSet) string {
	var all []string
	for _, r := range set.Ranges() {
		all = append(all, r.String())
	}
	return joined(all, ",")
}

// writeAddresses keeps addresses over a restart, by the UIDs of their Services, for readAddresses.
func writeAddresses(of map[types.UID][]netip.Addr) string {
	var all []string
	for _, uid := range slices.Sorted(maps.Keys(of)) {
		line := string(uid)
		for _, addr := range of[uid] {
			line += " " + addr.String()
		}
		all = append(all, line)
	}
	return joined(all, "\n")
}

func readAddresses(text string) map[types.UID][]netip.Addr {
	all := map[types.UID][]netip.Addr{}
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		for i, word := range words {
			if addr, err := netip.ParseAddr(word); err == nil && i > 0 {
				all[types.UID(words[0])] = append(all[types.UID(words[0])], addr)
			}
		}
	}
	return all
}

// joined is what the copy keeps over a restart. What is too much is not forgotten as long as this process lives.
func joined(all []string, by string) string {
	const most = 200 << 10 // the copy must fit into a ConfigMap
	text := strings.Join(all, by)
	if len(text) > most {
		text = text[:strings.LastIndex(text[:most], by)]
	}
	return text
}

// with adds addresses that Services lose to a set, which may be nil.
func with(set *netipx.IPSet, lost []loadbalancer.Holding) *netipx.IPSet {
	var all []netipx.IPRange
	for _, h := range lost {
		all = append(all, netipx.IPRangeFrom(h.Addr, h.Addr))
	}
	return union(set, all)
}

func union(set *netipx.IPSet, more []netipx.IPRange) *netipx.IPSet {
	if len(more) == 0 {
		return set
	}
	var b netipx.IPSetBuilder
	if set != nil {
		b.AddSet(set)
	}
	for _, r := range more {
		b.AddRange(r)
	}
	all, err := b.IPSet()
	if err != nil { // only an invalid range is an error, and there is none
		klog.ErrorS(err, "Cannot give up addresses")
		return set
	}
	return all
}

// hold returns the addresses that Services hold, and lets nobody get another until resume: what is judged by them stays right.
func (c *Cloud) hold() []loadbalancer.Holding {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
	return c.ledger.allocator.Holdings()
}

// labels returns those of each Service that holds or wants an address, as they are now.
func (c *Cloud) labels() func(service string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]map[string]string{}
	for _, svc := range c.ledger.ours() {
		all[service.Name(svc)] = svc.Labels
	}
	return func(service string) map[string]string { return all[service] }
}

// withhold keeps the Nodes' own addresses from being handed out.
func (c *Cloud) withhold(known loadbalancer.Facts) {
	var nodes []netip.Addr
	for _, n := range known.Nodes {
		nodes = append(nodes, n.InternalIPs...)
	}
	if !known.NodesKnown || slices.Equal(nodes, c.ledger.nodes) { // nobody else writes them
		return
	}
	c.change(func() {
		c.ledger.nodes = nodes
		c.ledger.withhold()
	})
}

// resume ends a hold.
func (c *Cloud) resume() {
	c.change(func() {
		c.holding = false
		c.resumed.Broadcast()
	})
}

// enforce puts a configuration in force that is stored, once the hold ends. Addresses of givenUp are taken away from Services.
func (c *Cloud) enforce(config *loadbalancer.Config, givenUp *netipx.IPSet, first bool) {
	defer c.selects(config)
	c.mu.Lock()
	c.ledger.allocator.At(c.clock())
	before := c.ledger.misplaced()
	c.ledger.allocator.Configure(config, givenUp)
	after := c.ledger.misplaced()
	var strays []stray
	if first { // later texts lose no address
		strays = c.ledger.strays()
	}
	told := c.remarks.configure(config, c.ledger.ours())
	c.mu.Unlock()
	c.warnNotInPool(strays)
	c.tell(told)
	for svc, why := range after {
		if before[svc] != why {
			c.record.Eventf(svc, corev1.EventTypeWarning, "AddressReserved", "%s", why)
		}
	}
}

// holdsAny reports whether a Service still holds an address of the set that no pool owns.
func (c *Cloud) holdsAny(set *netipx.IPSet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.ledger.strays(), func(s stray) bool { return slices.ContainsFunc(s.addrs, set.Contains) })
}

// fights writes down the addresses that no status keeps.
func (c *Cloud) fights() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return writeAddresses(c.ledger.fights(c.now()))
}

// report takes note of the configuration's state, for the metrics.
func (c *Cloud) report(s configState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = s
}
