package provider

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
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
	keyConfig     = "config"
	keyHash       = "hash"
	keyAdmittedAt = "admitted-at"
	keyRefused    = "refused"
	keyGivenUp    = "given-up"
)

// annotationRenumber, after either prefix, names the text that the operator wants in force although Services lose their
// addresses by it.
const annotationRenumber = "renumber"

// An admission decides which text is in force. It keeps the admitted copy, which speakers act on, equal to its decision.
type admission struct {
	cloud  *Cloud
	client kubernetes.Interface

	factories []informers.SharedInformerFactory
	synced    []cache.InformerSynced
	user      corelisters.ConfigMapNamespaceLister
	copies    corelisters.ConfigMapNamespaceLister
	bell      chan struct{} // however often it rings, both ConfigMaps are looked at once

	// The rest belongs to whoever runs recall and run, one after the other.
	text       string
	config     *loadbalancer.Config // nil until one is admitted
	admittedAt string
	refused    *refusal
	// givenUp are addresses that the operator took away from Services on purpose. Those that hold one still are to move.
	givenUp *netipx.IPSet
	broken  string // hash of the user's text if this process could not parse it; another version may
	missed  bool   // the user's ConfigMap is gone, and we said so
}

// A refusal is why the user's text is not in force, as operators find it in the admitted copy.
type refusal struct {
	Hash     string   `yaml:"hash"`
	Time     string   `yaml:"time"`
	Problems []string `yaml:"problems"`
	// Services would lose their address.
	Services []string `yaml:"services,omitempty"`
}

// newAdmission watches with one client and writes with the other.
func newAdmission(reader, writer kubernetes.Interface, c *Cloud) (*admission, error) {
	a := &admission{cloud: c, client: writer, bell: make(chan struct{}, 1)}
	userFactory, user := oneConfigMap(reader, c.options.Namespace, c.options.ConfigName)
	copyFactory, copies := oneConfigMap(reader, c.options.Namespace, a.copyName())
	a.factories = []informers.SharedInformerFactory{userFactory, copyFactory}
	a.user, a.copies = user.Lister().ConfigMaps(c.options.Namespace), copies.Lister().ConfigMaps(c.options.Namespace)
	ring := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { a.ring() },
		UpdateFunc: func(any, any) { a.ring() },
		DeleteFunc: func(any) { a.ring() },
	}
	for _, informer := range []cache.SharedIndexInformer{user.Informer(), copies.Informer()} {
		if _, err := informer.AddEventHandler(ring); err != nil {
			return nil, fmt.Errorf("watch the configuration: %w", err)
		}
		a.synced = append(a.synced, informer.HasSynced)
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

// recall returns the configuration that is in force: the admitted one or, if there is none, the user's, if it parses. It is
// nil if neither is there.
func (a *admission) recall(ctx context.Context) (*loadbalancer.Config, error) {
	configMaps := a.client.CoreV1().ConfigMaps(a.cloud.options.Namespace)
	stored, err := configMaps.Get(ctx, a.copyName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get configmap %s: %w", a.copyName(), err)
	}
	if err == nil {
		a.refused = readRefusal(stored.Data[keyRefused])
		if text, ok := stored.Data[keyConfig]; ok {
			// What another version admitted is in force here too.
			if config, _, err := loadbalancer.ParseAdmitted([]byte(text)); err == nil {
				a.text, a.config, a.admittedAt = text, config, stored.Data[keyAdmittedAt]
				a.givenUp = readRanges(stored.Data[keyGivenUp])
				return config, nil
			} else {
				klog.ErrorS(err, "Cannot read the admitted configuration", "configmap", klog.KRef(stored.Namespace, stored.Name))
			}
		}
	}
	written, err := configMaps.Get(ctx, a.cloud.options.ConfigName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get configmap %s: %w", a.cloud.options.ConfigName, err)
	}
	if text, ok := written.Data[keyConfig]; ok {
		if config, warnings, err := loadbalancer.Parse([]byte(text)); err == nil {
			a.admit(written, config, warnings)
		}
	}
	return a.config, nil
}

// run reviews the configuration whenever one of the ConfigMaps changes.
func (a *admission) run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), a.synced...) {
		return
	}
	a.ring()
	var again <-chan time.Time // at most one, however often the API server says no
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.bell:
		case <-again:
		}
		again = nil
		updates.Inc()
		err := a.review(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		updateErrors.Inc()
		// Somebody else wrote the copy a moment ago, perhaps we ourselves: the watch will bring what it is now.
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			klog.ErrorS(err, "Cannot keep the admitted configuration", "configmap", klog.KRef(a.cloud.options.Namespace, a.copyName()))
		}
		again = time.After(time.Second)
	}
}

// review decides about the user's text and repairs the admitted copy.
func (a *admission) review(ctx context.Context) error {
	user, err := a.user.Get(a.cloud.options.ConfigName)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get configmap %s: %w", a.cloud.options.ConfigName, err)
	}
	if err == nil {
		a.consider(user)
	}
	if gone := err != nil && a.config != nil; gone != a.missed {
		a.missed = gone
		if gone {
			klog.InfoS("The configuration is gone: the admitted one stays in force", "configmap", klog.KRef(a.cloud.options.Namespace, a.cloud.options.ConfigName))
		}
	}
	if a.givenUp != nil && !a.cloud.holdsAny(a.givenUp) {
		a.givenUp = nil
	}
	a.cloud.report(configState{loaded: a.config != nil, stale: a.refused != nil || a.missed})
	return a.store(ctx)
}

// consider admits the user's text or refuses it, and says so if that is new.
func (a *admission) consider(user *corev1.ConfigMap) {
	text, ok := user.Data[keyConfig]
	if ok && a.config != nil && text == a.text {
		a.refused = nil
		return
	}
	if ok && a.refused != nil && a.broken == hashOf(text) {
		return // it does not parse, and will not
	}
	var problems loadbalancer.Problems
	var against loadbalancer.Verdict
	next, warnings, err := loadbalancer.Parse([]byte(text))
	switch {
	case !ok:
		problems = loadbalancer.Problems{{Text: fmt.Sprintf("the ConfigMap has no key %q: put the configuration there", keyConfig)}}
	case errors.As(err, &problems):
		a.broken = hashOf(text)
	default:
		var by loadbalancer.Consent
		by, problems = a.consent(user, text)
		if against, a.givenUp = a.cloud.admit(a.config, next, a.givenUp, by); against.Admits() {
			a.admit(user, next, warnings)
			return
		}
	}
	a.refuse(user, text, problems, against)
}

// consent returns what the operator has consented to by naming the text. A hash that names another text is a problem only if
// the text needs one.
func (a *admission) consent(user *corev1.ConfigMap, text string) (loadbalancer.Consent, loadbalancer.Problems) {
	hash, where, err := service.Annotation(user.Annotations, annotationRenumber)
	switch {
	case err != nil:
		return loadbalancer.NoConsent, loadbalancer.Problems{{Text: err.Error()}}
	case hash != "" && hash != hashOf(text):
		return loadbalancer.NoConsent, loadbalancer.Problems{{Text: fmt.Sprintf("annotation %s is %q, which names another text than this", where, service.Short(hash))}}
	case hash == "":
		return loadbalancer.NoConsent, nil
	}
	return loadbalancer.Renumber, nil
}

// admit puts the user's text in force.
func (a *admission) admit(user *corev1.ConfigMap, config *loadbalancer.Config, warnings loadbalancer.Problems) {
	a.text, a.config, a.admittedAt, a.refused = user.Data[keyConfig], config, time.Now().UTC().Format(time.RFC3339), nil
	klog.InfoS("Admitted configuration", "configmap", klog.KObj(user), "hash", hashOf(a.text), "pools", len(config.Pools), "peers", len(config.Peers))
	for _, w := range warnings {
		a.cloud.record.Event(user, corev1.EventTypeWarning, "ConfigWarning", w.Error())
	}
}

func (a *admission) refuse(user *corev1.ConfigMap, text string, problems loadbalancer.Problems, against loadbalancer.Verdict) {
	lost := against.Losers()
	const most = 100 // of either kind: the copy must fit into a ConfigMap
	r := &refusal{Hash: hashOf(text), Time: time.Now().UTC().Format(time.RFC3339)}
	for _, p := range problems[:min(most, len(problems))] {
		r.Problems = append(r.Problems, p.Error())
	}
	for _, h := range lost[:min(most, len(lost))] {
		r.Services = append(r.Services, fmt.Sprintf("%s %s", h.Service, h.Addr))
	}
	why := problems.First(5)
	if reasons := against.Reasons(r.Hash); len(reasons) > 0 {
		why = strings.Join(reasons, "; ")
		r.Problems = append(r.Problems, reasons...)
		if len(problems) > 0 {
			why += "; " + problems[0].Text
		}
	}
	before := a.refused
	a.refused = r
	if before != nil && before.Hash == r.Hash && (len(before.Services) == 0) == (len(lost) == 0) && (len(lost) == 0 || len(before.Problems) == len(r.Problems)) {
		r.Time = before.Time // it was refused then, and said; at most the list of Services is another
		return
	}
	stays := "no configuration is in force"
	if a.config != nil {
		stays = "the configuration admitted at " + a.admittedAt + " stays in force"
	}
	klog.InfoS("Refused configuration", "configmap", klog.KObj(user), "hash", r.Hash, "why", why)
	a.cloud.record.Event(user, corev1.EventTypeWarning, "InvalidConfig", service.Cut(stays+": "+why, mostOfAnEvent))
}

// mostOfAnEvent is how long the text of an event may be.
const mostOfAnEvent = 1000

// store writes the admitted copy if it is not what it should be and this process leads.
func (a *admission) store(ctx context.Context) error {
	want := map[string]string{}
	if a.config != nil {
		want[keyConfig], want[keyHash], want[keyAdmittedAt] = a.text, hashOf(a.text), a.admittedAt
	}
	if a.givenUp != nil {
		want[keyGivenUp] = writeRanges(a.givenUp)
	}
	if a.refused != nil {
		text, err := yaml.Marshal(a.refused)
		if err != nil {
			return fmt.Errorf("write down the refusal: %w", err)
		}
		want[keyRefused] = string(text)
	}
	stored, err := a.copies.Get(a.copyName())
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get configmap %s: %w", a.copyName(), err)
	}
	missing := err != nil
	if missing && len(want) == 0 || !missing && maps.Equal(stored.Data, want) {
		return nil
	}
	if err := a.cloud.confirm(ctx); err != nil {
		return err
	}
	configMaps := a.client.CoreV1().ConfigMaps(a.cloud.options.Namespace)
	if missing {
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: a.cloud.options.Namespace, Name: a.copyName()},
			Data:       want,
		}, metav1.CreateOptions{})
		return err
	}
	// It carries the resourceVersion that we saw: two that write at once cannot both succeed.
	changed := stored.DeepCopy()
	changed.Data, changed.BinaryData = want, nil
	_, err = configMaps.Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

func readRefusal(text string) *refusal {
	var r refusal
	if err := yaml.Unmarshal([]byte(text), &r); err != nil || r.Hash == "" {
		return nil
	}
	return &r
}

// hashOf names a text, short enough to be typed.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// writeRanges and readRanges keep the addresses that are given up over a restart. Nobody else reads them.
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

func readRanges(text string) *netipx.IPSet {
	if text == "" {
		return nil
	}
	var b netipx.IPSetBuilder
	for one := range strings.SplitSeq(text, ",") {
		if r, err := netipx.ParseIPRange(one); err == nil {
			b.AddRange(r)
		}
	}
	set, err := b.IPSet()
	if err != nil {
		klog.ErrorS(err, "Cannot read which addresses are given up")
		return nil
	}
	return set
}

// admit puts next in force unless that would take something away that the operator has not consented to, and returns what.
// Addresses that it may take from Services are given up, beside those that were before. All of it happens at one instant: no
// address is given away in between.
func (c *Cloud) admit(config, next *loadbalancer.Config, givenUp *netipx.IPSet, by loadbalancer.Consent) (loadbalancer.Verdict, *netipx.IPSet) {
	facts := loadbalancer.Facts{NodesKnown: true, KeysKnown: true, Keys: map[string]bool{}}
	for _, p := range next.Peers {
		facts.Keys[p.PasswordKey] = true
	}
	c.mu.Lock()
	facts.Held = c.ledger.holdings()
	v := config.Admit(next, facts)
	if against := v.But(by); !against.Admits() {
		c.mu.Unlock()
		return against, givenUp
	}
	givenUp = with(givenUp, v.Lost)
	c.ledger.configure(next, givenUp)
	var changed []*corev1.Service
	var strays []stray
	if !c.frozen {
		changed = c.ledger.serve()
	}
	if config == nil { // later texts lose no address
		strays = c.ledger.strays()
	}
	c.mu.Unlock()
	c.requeue(changed)
	c.warnNotInPool(strays)
	return loadbalancer.Verdict{}, givenUp
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
	return slices.ContainsFunc(c.ledger.holdings(), func(h loadbalancer.Holding) bool {
		return set.Contains(h.Addr) && c.ledger.allocator.Pool(h.Addr) == nil
	})
}

// report takes note of the configuration's state, for the metrics.
func (c *Cloud) report(s configState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = s
}
