package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A council is an admission at work on client-go's fake API server. It belongs into synctest's bubble, in which it is
// 2000-01-01.
type council struct {
	t         *testing.T
	client    *fake.Clientset
	cloud     *Cloud
	book      *eventbook
	admission *admission
	gone      bool // is the user's ConfigMap
	end       func()
}

// convene starts an admission where these Services have addresses, of a leader who was elected if there is a doorplate.
func convene(t *testing.T, client *fake.Clientset, services string, plates ...*doorplate) *council {
	logged.take()
	c := &council{t: t, client: client, cloud: New(Options{Namespace: "metallb-system", ConfigName: "config"}), book: &eventbook{}}
	c.cloud.record, c.cloud.watch = c.book, &viewed{}
	for _, plate := range plates {
		c.cloud.lease = plate.lease()
	}
	var err error
	if c.admission, err = newAdmission(client, client, c.cloud, c.cloud.watches.failed); err != nil {
		t.Fatal(err)
	}
	c.cloud.review = c.admission.ring
	ctx, cancel := context.WithCancel(t.Context())
	c.admission.start(ctx)
	config, err := c.admission.recall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var list []*corev1.Service
	if services != "" {
		list = listed(t, services)
	}
	c.cloud.begin()
	c.cloud.adopt(config, c.admission.is.givenUp, list)
	done := make(chan struct{})
	go func() {
		c.admission.begin(ctx)
		c.admission.run(ctx)
		close(done)
	}()
	c.end = func() {
		cancel()
		<-done
		synctest.Wait()
	}
	<-time.After(time.Second) // the caches are looked at every 100 ms
	synctest.Wait()
	return c
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: name, ResourceVersion: "41"}, Data: data}
}

// put writes a ConfigMap, and waits until nothing moves any more.
func (c *council) put(name string, data map[string]string) {
	c.t.Helper()
	configMaps := c.client.CoreV1().ConfigMaps("metallb-system")
	_, err := configMaps.Update(c.t.Context(), configMap(name, data), metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(c.t.Context(), configMap(name, data), metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

func (c *council) write(text string) {
	c.t.Helper()
	c.put("config", map[string]string{"config": text})
}

func (c *council) remove(name string) {
	c.t.Helper()
	if err := c.client.CoreV1().ConfigMaps("metallb-system").Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// stale is what the metric says.
func (c *council) stale() bool {
	c.cloud.mu.Lock()
	defer c.cloud.mu.Unlock()
	return c.cloud.config.stale
}

// stored returns what the admitted copy says; nil if it does not exist.
func (c *council) stored() map[string]string {
	c.t.Helper()
	copied, err := c.client.CoreV1().ConfigMaps("metallb-system").Get(c.t.Context(), "config-admitted", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return copied.Data
}

// want checks the admitted copy: the text in force, and what of the refusal stands in it.
func (c *council) want(then, config string, refused ...string) {
	c.t.Helper()
	stored := c.stored()
	want := []string{"admitted-at", "class-only", "classes", "config", "hash", "observed-resource-version"}
	if c.gone {
		want = want[:5]
	}
	if config == "" {
		want = nil
		if len(refused) > 0 {
			want = []string{"observed-resource-version"}
		}
	}
	if len(refused) > 0 {
		want = append(want, "refused")
	}
	if got := slices.Sorted(maps.Keys(stored)); !slices.Equal(got, want) {
		c.t.Errorf("%s: the copy has keys %q, want %q", then, got, want)
	}
	if stored["config"] != config || config != "" && stored["hash"] != service.Hash(config) {
		c.t.Errorf("%s: in force is\n%s\nwith hash %s", then, stored["config"], stored["hash"])
	}
	for _, some := range refused {
		if !strings.Contains(stored["refused"], some) {
			c.t.Errorf("%s: the refusal is\n%s\nand should say %q", then, stored["refused"], some)
		}
	}
}

func TestATextIsAdmittedOrRefusedAndTheCopyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := convene(t, fake.NewClientset(), "")
		defer c.end()
		c.want("nothing is written", "")
		if c.stored() != nil {
			t.Error("there is a copy of nothing")
		}

		c.write("address-pools: 7")
		c.want("the first text does not parse", "", "hash: "+service.Hash("address-pools: 7"), `time: "2000-01-01T00:00:01Z"`, "address-pools")
		same(t, "events", c.book.take(), []string{
			"metallb-system/config Warning InvalidConfig no configuration is in force: line 1: address-pools: \"7\" is not a list: begin each item with \"- \" (column 16)"})

		first := text("vip 10.0.0.0/30")
		c.write(first)
		c.want("the second does", first)
		if got := c.stored()["admitted-at"]; got != "2000-01-01T00:00:01Z" {
			t.Errorf("admitted at %s", got)
		}
		if addr, err := ensure(t, c.cloud, "shop/web"); addr != "10.0.0.0" {
			t.Errorf("it is not in force: %v", err)
		}
		same(t, "events", c.book.take(), []string{"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(first) + " is in force: 1 pool, 0 peers", "shop/web Normal IPAllocated assigned 10.0.0.0 from pool vip"})

		broken := first + "peers:\n- peer-address: 10.0.0.300\n"
		c.write(broken)
		c.want("a broken edit", first, "hash: "+service.Hash(broken), "peers[0]")
		if events := c.book.take(); len(events) != 1 || !strings.HasPrefix(events[0],
			"metallb-system/config Warning InvalidConfig the configuration admitted at 2000-01-01T00:00:01Z stays in force: line 5: peers[0]") {
			t.Errorf("events %q", events)
		}
		<-time.After(time.Hour)
		before := c.stored()["refused"]
		c.admission.ring()
		c.put("config", map[string]string{"config": broken, "other": "key"})
		if c.stored()["refused"] != before || c.book.take() != nil {
			t.Error("the same text is refused a second time")
		}
		c.write(first)
		c.want("the edit is taken back", first)
		c.book.take()
		c.write(broken)
		if len(c.book.take()) != 1 {
			t.Error("the broken text came back, and nobody hears of it")
		}

		c.put("config", map[string]string{"confg": first})
		<-time.After(10 * time.Second) // a refusal is not rewritten more often than that
		synctest.Wait()
		c.want("the key is misspelt", first, `the ConfigMap has no key "config": put the configuration there`)
		same(t, "events", c.book.take(), []string{
			`metallb-system/config Warning InvalidConfig the configuration admitted at 2000-01-01T00:00:01Z stays in force: the ConfigMap has no key "config": put the configuration there`})
		same(t, "log", kinds(logged.take()), []string{"Adopted the cluster's addresses", "Refused configuration", "Admitted configuration", "Allocated address", "Refused configuration", "Refused configuration", "Refused configuration"})
	})
}

// kinds returns the messages of log lines.
func kinds(lines []string) (all []string) {
	for _, line := range lines {
		_, line, _ = strings.Cut(line, `"`)
		line, _, _ = strings.Cut(line, `"`)
		all = append(all, line)
	}
	return all
}

func TestATextThatTakesAddressesAwayWaitsUntilTheyAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, next := text("vip 10.0.0.0/30"), text("vip 10.0.0.2/31")
		c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": first})),
			"shop/web shows=10.0.0.0; shop/api shows=10.0.0.1; shop/blog shows=10.0.0.3; shop/stray shows=192.0.2.1")
		defer c.end()
		c.book.take()
		c.want("the user's text is the first", first)
		c.write(next)
		c.want("two would lose their address", first, "hash: "+service.Hash(next), "- shop/web 10.0.0.0\n", "- shop/api 10.0.0.1\n", "no pool would own the address of Service shop/web, 10.0.0.0 and 1 more")
		if strings.Contains(c.stored()["refused"], "blog") || strings.Contains(c.stored()["refused"], "stray") {
			t.Errorf("others would not: %s", c.stored()["refused"])
		}
		same(t, "events", c.book.take(), []string{
			"metallb-system/config Warning InvalidConfig the configuration admitted at 2000-01-01T00:00:00Z stays in force: no pool would own the address of Service shop/web, 10.0.0.0 and 1 more: keep a pool that does, or delete the Service, or annotate this ConfigMap with metallb.universe.tf/renumber: " + service.Hash(next) + " to move such Services"})
		refusedAt := `time: "2000-01-01T00:00:01Z"`
		<-time.After(time.Hour)

		c.cloud.EnsureLoadBalancerDeleted(t.Context(), "", aService(t, "shop/web"))
		synctest.Wait()
		c.want("one of them goes, and the refusal tells of its time", first, refusedAt, "no pool would own the address of Service shop/web, 10.0.0.0 and 1 more", "- shop/web 10.0.0.0\n")
		same(t, "events of the same text", c.book.take(), nil)

		c.cloud.OnDelete(aService(t, "shop/api"))
		synctest.Wait()
		c.want("the other goes too", next)
		if addr, err := ensure(t, c.cloud, "shop/new"); addr != "10.0.0.2" {
			t.Errorf("the new text is not in force: %v", err)
		}
	})
}

func TestExclusionsReservationsAndQuotasTakeNoAddressFromAService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/29")
		next := text("vip 10.0.0.0/29 exclude=10.0.0.0 reserve=blog/web:10.0.0.1+shop/old:10.0.0.5 quota=shop:1")
		c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": first})),
			"shop/web shows=10.0.0.0; shop/api shows=10.0.0.1; shop/old shows=10.0.0.3")
		defer c.end()
		c.book.take()
		c.write(next)
		c.want("nobody loses anything", next)
		told := c.book.take()
		slices.Sort(told)
		same(t, "events", told, []string{
			"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(next) + " is in force: 1 pool, 0 peers",
			`shop/api Warning AddressReserved pool "vip" reserves address 10.0.0.1 for a Service of another namespace: this Service had it before, and keeps it until it is deleted or asks for another`,
			`shop/old Warning AddressReserved pool "vip" reserves address 10.0.0.5 for this Service, which keeps 10.0.0.3: ask for 10.0.0.5, or remove the reservation`,
		})
		for service, want := range map[string]string{"shop/web shows=10.0.0.0": "10.0.0.0", "shop/api shows=10.0.0.1": "10.0.0.1", "shop/old shows=10.0.0.3": "10.0.0.3"} {
			if addr, err := ensure(t, c.cloud, service); addr != want {
				t.Errorf("%s has %s, %v", service, addr, err)
			}
		}
		c.write(next + "# the same once more\n")
		same(t, "events of the same reservations", c.book.take(), []string{"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(next+"# the same once more\n") + " is in force: 1 pool, 0 peers"})
	})
}

func TestAnOperatorWhoNamesTheTextRenumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, next := text("vip 10.0.0.0/30"), text("vip 10.0.0.2/31")
		client := fake.NewClientset(configMap("config", map[string]string{"config": first}))
		c := convene(t, client, "shop/web shows=10.0.0.0 age=3; shop/api shows=10.0.0.1 age=2; shop/blog shows=10.0.0.3; shop/stray shows=192.0.2.1")
		for _, short := range []string{"shop/web shows=10.0.0.0 age=3", "shop/api shows=10.0.0.1 age=2", "shop/blog shows=10.0.0.3"} {
			ensure(t, c.cloud, short)
		}
		c.book.take()
		named := func(hash string) {
			object := configMap("config", map[string]string{"config": next})
			object.Annotations = map[string]string{"metallb.io/renumber": hash}
			if _, err := client.CoreV1().ConfigMaps("metallb-system").Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		refused := "metallb-system/config Warning InvalidConfig the configuration admitted at 2000-01-01T00:00:00Z stays in force: no pool would own the address of Service shop/web, 10.0.0.0 and 1 more: keep a pool that does, or delete the Service, or annotate this ConfigMap with metallb.universe.tf/renumber: " + service.Hash(next) + " to move such Services"
		c.write(next)
		same(t, "events", c.book.take(), []string{refused})
		named("0123456789abcdef")
		same(t, "events of another text's name", c.book.take(), []string{refused + `; annotation metallb.io/renumber is "0123456789abcdef", which names another text than this`})
		<-time.After(10 * time.Second)
		synctest.Wait()
		c.want("another text is named", first, "which names another text")

		named(service.Hash(next))
		if c.stored()["config"] != next {
			t.Errorf("the text is named, and not in force: %s", c.stored()["refused"])
		}
		if got := c.stored()["given-up"]; got != "10.0.0.0-10.0.0.1" {
			t.Errorf("given up: %q", got)
		}
		if addr, err := ensure(t, c.cloud, "shop/web shows=10.0.0.0 age=3"); addr != "10.0.0.2" {
			t.Errorf("web has %q, %v", addr, err)
		}
		waits := `address 10.0.0.1 belongs to no pool any more and is not announced: no free address in pool "vip": add addresses, or delete a Service that holds one`
		if _, err := ensure(t, c.cloud, "shop/api shows=10.0.0.1 age=2"); words(err) != waits {
			t.Errorf("api hears %v", err)
		}
		same(t, "events of moving", c.book.take(), []string{"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(next) + " is in force: 1 pool, 0 peers", "shop/web Normal Renumbered 10.0.0.0 became 10.0.0.2 of pool vip",
			"shop/api Warning SyncLoadBalancerFailed Error syncing load balancer: failed to ensure load balancer: " + waits})
		c.end()

		// The rest follows when there is room, also after a restart.
		c = convene(t, client, "shop/web shows=10.0.0.2 age=3; shop/api shows=10.0.0.1 age=2; shop/blog shows=10.0.0.3; shop/stray shows=192.0.2.1")
		defer c.end()
		c.book.take()
		c.write(text("vip 10.0.0.2/31; more 10.9.0.0/30"))
		if addr, err := ensure(t, c.cloud, "shop/api shows=10.0.0.1 age=2"); addr != "10.9.0.0" {
			t.Errorf("api has %q, %v", addr, err)
		}
		same(t, "events after the restart", c.book.take()[1:], []string{"shop/api Normal Renumbered 10.0.0.1 became 10.9.0.0 of pool more"})
		synctest.Wait()
		if got, ok := c.stored()["given-up"]; ok {
			t.Errorf("still given up: %q", got)
		}
		if addr, err := ensure(t, c.cloud, "shop/stray shows=192.0.2.1"); addr != "192.0.2.1" {
			t.Errorf("nobody gave up the address that no pool ever owned: %q, %v", addr, err)
		}
	})
}

// What an edit would take away is not admitted without a word: a Node without a peer, an address that nobody is told of.
func TestAnEditThatCutsNodesOffIsRefusedUntilItIsConfirmedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := func(more string) string {
			return text("vip 10.0.0.0/30") + "peers:\n- {peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64501" + more + "}\n"
		}
		first, cut := peer(""), peer(", node-selectors: [{match-labels: {rack: a}}]")
		node := func(name, rack string) *corev1.Node {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"rack": rack}}}
		}
		client := fake.NewClientset(configMap("config", map[string]string{"config": first}), node("n1", "a"), node("n2", "b"))
		c := convene(t, client, "shop/web shows=10.0.0.1")
		defer func() { c.end() }()
		c.book.take()
		for then, broken := range map[string]string{"no peers": text("vip 10.0.0.0/30") + "peers: []\n", "a key without a value": peer(", password-key: later")} {
			c.write(broken)
			if events := strings.Join(c.book.take(), "\n"); c.stored()["config"] != first || !strings.Contains(events, "Node n1 and 1 more would have no peer") {
				t.Errorf("%s: in force is\n%s\nand the events are\n%s", then, c.stored()["config"], events)
			}
		}
		c.write(cut)
		same(t, "events of a selector", c.book.take(), []string{
			"metallb-system/config Warning InvalidConfig the configuration admitted at 2000-01-01T00:00:00Z stays in force: Node n2 would have no peer: keep one whose node-selectors select it and whose password-key has a value, or annotate this ConfigMap with metallb.universe.tf/confirm: " + service.Hash(cut) + " to let such Nodes announce nothing"})

		named := func(text, annotation, hash string) {
			object := configMap("config", map[string]string{"config": text})
			object.Annotations = map[string]string{"metallb.universe.tf/" + annotation: hash}
			if _, err := client.CoreV1().ConfigMaps("metallb-system").Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		named(cut, "renumber", service.Hash(cut))
		if c.stored()["config"] != first {
			t.Error("renumber is for addresses, and takes peers away")
		}
		named(cut, "confirm", service.Hash(cut))
		if c.stored()["config"] != cut || c.stored()["confirmed"] != "confirm="+service.Hash(cut) {
			t.Errorf("it is confirmed, and the copy says %q", c.stored())
		}
		named(first, "confirm", service.Hash(cut))
		c.book.take()
		c.end()
		c = convene(t, client, "shop/web shows=10.0.0.1")
		c.book.take()
		named(cut, "confirm", service.Hash(cut))
		if events := strings.Join(c.book.take(), "\n"); c.stored()["config"] != first || !strings.Contains(events, "was used already, and counts once: remove it, and write it again") {
			t.Errorf("the confirmation counts twice: %s", events)
		}
		c.write(cut)
		named(cut, "confirm", service.Hash(cut))
		if c.stored()["config"] != cut {
			t.Error("it was removed and written again, and does not count")
		}

		// A refused text is judged again when Nodes change.
		c.write(text("vip 10.0.0.0/30") + "peers:\n- {peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64501, node-selectors: [{match-labels: {rack: c}}]}\n")
		refused := c.stored()["refused"]
		if _, err := client.CoreV1().Nodes().Update(t.Context(), node("n1", "c"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if refused == "" || c.stored()["refused"] != "" {
			t.Errorf("before the label it was refused for %q, and after for %q", refused, c.stored()["refused"])
		}
	})
}

func TestWhatAVerdictNeedsAndCannotReadLetsATextWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/30") + "peers:\n- {peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64501}\n"
		client := fake.NewClientset(configMap("config", map[string]string{"config": first}), configMap("config-admitted", map[string]string{"config": first, "hash": service.Hash(first), "admitted-at": "1999-12-31T23:00:00Z"}))
		forbidden := func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("no"))
		}
		client.PrependReactor("list", "nodes", forbidden)
		client.PrependWatchReactor("nodes", func(k8stesting.Action) (bool, watch.Interface, error) {
			return true, nil, apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("no"))
		})
		c := convene(t, client, "")
		defer c.end()
		more := strings.Replace(first, "10.0.0.0/30", "10.0.0.0/29", 1)
		c.write(more)
		if c.stored()["config"] != more {
			t.Error("a text waits that changes neither peers nor advertisements")
		}
		other := more + "- {peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64501}\n"
		c.book.take()
		c.write(other)
		same(t, "at first, in silence", c.book.take(), nil)
		if !c.stale() {
			t.Error("and stale is 0")
		}
		<-time.After(graceOfReading)
		synctest.Wait()
		if events := strings.Join(c.book.take(), "\n"); !strings.Contains(events, "cannot read nodes: let it list and watch them") || c.stored()["config"] != more {
			t.Errorf("events %s", events)
		}
	})
}

// The permission to read Nodes goes while we run, and comes back.
func TestATextWaitsWhileNodesCannotBeReadAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/30") + "peers:\n- {peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64501}\n"
		client := fake.NewClientset(configMap("config", map[string]string{"config": first}), configMap("config-admitted", map[string]string{"config": first, "hash": service.Hash(first), "admitted-at": "1999-12-31T23:00:00Z"}),
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		var refused atomic.Bool
		var current atomic.Pointer[watch.FakeWatcher]
		no := apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("no"))
		client.PrependReactor("list", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) { return refused.Load(), nil, no })
		client.PrependWatchReactor("nodes", func(k8stesting.Action) (bool, watch.Interface, error) {
			if refused.Load() {
				return true, nil, no
			}
			w := watch.NewFake()
			current.Store(w)
			return true, w, nil
		})
		c := convene(t, client, "")
		defer c.end()
		<-time.After(graceOfReading)

		refused.Store(true)
		current.Load().Stop()
		<-time.After(time.Minute)
		other := first + "- {peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64501}\n"
		c.write(other)
		if events := strings.Join(c.book.take(), "\n"); !strings.Contains(events, "cannot read nodes: let it list and watch them") || c.stored()["config"] != first || !c.stale() {
			t.Errorf("events %s", events)
		}
		refused.Store(false)
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if c.stored()["config"] != other {
			t.Error("Nodes can be read again, and the text still waits")
		}
	})
}

// Any kubelet can write into its Node's status: what it claims is not handed out, and not taken from who has it.
func TestANodesOwnAddressIsNotHandedOutAndNotTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := func(name string, annotations map[string]string, addrs ...string) *corev1.Node {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}
			for _, addr := range addrs {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr}, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "10.0.0.3"})
			}
			return n
		}
		client := fake.NewClientset(node("n1", map[string]string{"metallb.io/drained": ""}, "10.0.0.0"))
		c := convene(t, client, "shop/web shows=10.0.0.1")
		defer c.end()
		vip := text("vip 10.0.0.0/30")
		c.write(vip)
		same(t, "events", c.book.take(), []string{
			"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(vip) + " is in force: 1 pool, 0 peers",
			`metallb-system/config Warning ConfigWarning address-pools[0]: pool "vip" owns 10.0.0.0, which is Node n1's own address: it is not handed out; take it out of the pool`})
		if addr, err := ensure(t, c.cloud, "shop/api"); addr != "10.0.0.2" {
			t.Errorf("api has %q, %v", addr, err)
		}
		c.book.take()
		if _, err := client.CoreV1().Nodes().Create(t.Context(), node("n2", map[string]string{"metallb.io/drian": ""}, "10.0.0.1"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		same(t, "events of a claim", sorted(c.book.take()), []string{
			"/n2 Warning UnknownAnnotation annotation metallb.io/drian means nothing: the nearest that does is metallb.io/drain",
			`metallb-system/config Warning ConfigWarning address-pools[0]: pool "vip" owns 10.0.0.1, which is Node n2's own address: it is not handed out; take it out of the pool`,
			"shop/web Warning AddressConflict 10.0.0.1 is Node n2's own address, too: this Service keeps it; give the Node another, or take it out of the pool and renumber"})
		if addr, err := ensure(t, c.cloud, "shop/web shows=10.0.0.1"); addr != "10.0.0.1" {
			t.Errorf("web has %q, %v", addr, err)
		}
		c.cloud.OnDelete(aService(t, "shop/web"))
		if addr, err := ensure(t, c.cloud, "shop/blog"); addr != "10.0.0.3" {
			t.Errorf("blog has %q, %v", addr, err)
		}
		if err := client.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if addr, err := ensure(t, c.cloud, "shop/late"); addr != "10.0.0.1" {
			t.Errorf("n2 is gone, and late has %q, %v", addr, err)
		}
	})
}

func TestAPasswordWithoutAValueIsAWarningAndNoValueIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := func(value string) *corev1.Secret {
			return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: passwordSecret}, Data: map[string][]byte{"tor": []byte(value)}}
		}
		client := fake.NewClientset(secret("hunter2"))
		c := convene(t, client, "")
		defer c.end()
		c.write(text("vip 10.0.0.0/30") + "peers:\n- {peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64501, password-key: tor}\n")
		if events := strings.Join(c.book.take(), "\n"); strings.Contains(events, "Warning") {
			t.Errorf("events %s", events)
		}
		for _, object := range c.admission.facts.secret.GetStore().List() {
			if strings.Contains(fmt.Sprint(object), "hunter2") || strings.Contains(fmt.Sprint(object), fmt.Sprint([]byte("hunter2"))) {
				t.Errorf("the process keeps %v", object)
			}
		}
		const warning = "metallb-system/config Warning ConfigWarning peers[0].password-key: Secret metallb-bgp-auth has no value under this key: write the password there; until then no new session comes up"
		// It is about the text in force, also while another is refused.
		for _, text := range []string{"", "junk"} {
			if text != "" {
				c.write(text)
			}
			// What the kernel cannot sign with is no value.
			for _, value := range []string{strings.Repeat("y", 81), "hunter2"} {
				c.book.take()
				if _, err := client.CoreV1().Secrets("metallb-system").Update(t.Context(), secret(value), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				var want []string
				if value != "hunter2" {
					want = []string{warning}
				}
				same(t, fmt.Sprintf("events of the value %.7s beside the text %q", value, text), c.book.take(), want)
			}
		}
	})
}

// What no status keeps, the copy keeps, until nobody fights any more.
func TestTheAddressOfAContestedServiceIsKeptInTheCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/30")}))
		c := convene(t, client, "shop/web shows=10.0.0.0")
		ensure(t, c.cloud, "shop/web shows=10.0.0.0")
		is := aService(t, "shop/web shows=10.0.0.0")
		for _, forged := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
			was := is
			is = aService(t, "shop/web shows="+forged)
			c.cloud.lookup = func(string, string) *corev1.Service { return is }
			if kept := c.stored()["contested"]; (kept != "") != (forged == "192.0.2.3") {
				t.Errorf("before %s is written, %q is kept", forged, kept)
			}
			c.cloud.OnUpdate(was, is)
			synctest.Wait()
		}
		c.end()
		c = convene(t, client, "shop/web shows=192.0.2.3 age=1; shop/thief want=10.0.0.0 age=2")
		if addr, err := ensure(t, c.cloud, "shop/web shows=192.0.2.3 age=1"); addr != "10.0.0.0" {
			t.Errorf("the next leader gives it %q, %v", addr, err)
		}
		if kept := c.stored()["contested"]; kept != "shop/web 10.0.0.0" {
			t.Errorf("kept is %q", kept)
		}
		<-time.After(2 * calm)
		c.write(text("vip 10.0.0.0/30"))
		if kept, there := c.stored()["contested"]; there {
			t.Errorf("after a while %q is kept", kept)
		}
		c.end()
	})
}

// What speakers do not know is not given out.
func TestATextThatCannotBeStoredIsNotInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/31")}))
		c := convene(t, client, "shop/web shows=10.0.0.0")
		defer c.end()
		c.book.take()
		var immutable atomic.Bool
		immutable.Store(true)
		client.PrependReactor("update", "configmaps", func(a k8stesting.Action) (bool, runtime.Object, error) {
			name := a.(k8stesting.UpdateAction).GetObject().(*corev1.ConfigMap).Name
			return name == "config-admitted" && immutable.Load(), nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("ConfigMap").GroupKind(), name, nil)
		})
		next := text("vip 10.0.0.0/31; more 10.9.0.0/30")
		c.write(next)
		<-time.After(10 * time.Second)
		synctest.Wait()
		const refused = `metallb-system/config Warning ConfigNotStored ConfigMap config-admitted cannot be written, so that %s: ConfigMap "config-admitted" is invalid; if it is immutable, delete it`
		same(t, "events", c.book.take(), []string{fmt.Sprintf(refused, "the text is not in force")})
		if _, err := ensure(t, c.cloud, "shop/api pool=more"); err == nil {
			t.Error("an address of the new pool is given out")
		}
		if !c.stale() {
			t.Error("stale is 0")
		}
		c.book.take()
		for version, text := range []string{text("vip 10.0.0.0/31"), next} {
			user := configMap("config", map[string]string{"config": text})
			user.ResourceVersion = fmt.Sprint(42 + version)
			if _, err := client.CoreV1().ConfigMaps("metallb-system").Update(t.Context(), user, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * time.Second)
		}
		synctest.Wait()
		same(t, "events of trying again", c.book.take(), []string{fmt.Sprintf(refused, "speakers act on what it says now"), fmt.Sprintf(refused, "the text is not in force")})
		immutable.Store(false)
		<-time.After(time.Second)
		synctest.Wait()
		if addr, err := ensure(t, c.cloud, "shop/api pool=more"); addr != "10.9.0.0" || c.stale() {
			t.Errorf("it can be stored, and api has %q, %v", addr, err)
		}
	})
}

func TestACopyThatIsGoneAndCannotBeWrittenIsToldAndStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/31")}))
		c := convene(t, client, "")
		defer c.end()
		c.book.take()
		var forbidden atomic.Bool
		forbidden.Store(true)
		client.PrependReactor("create", "configmaps", func(k8stesting.Action) (bool, runtime.Object, error) {
			return forbidden.Load(), nil, apierrors.NewForbidden(corev1.Resource("configmaps"), "config-admitted", errors.New("no"))
		})
		c.remove("config-admitted")
		<-time.After(10 * time.Second)
		synctest.Wait()
		events := c.book.take()
		if len(events) != 1 || !strings.Contains(events[0], "Warning ConfigNotStored ConfigMap config-admitted cannot be written, so that speakers act on what it says now: ") || !c.stale() {
			t.Errorf("stale %t, events %q", c.stale(), events)
		}
		forbidden.Store(false)
		<-time.After(time.Second)
		synctest.Wait()
		if c.stored()["config"] == "" || c.stale() {
			t.Errorf("it can be written again, and says %v; stale %t", c.stored(), c.stale())
		}
	})
}

func TestATextThatIsTakenBackIsToldToBeInForceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/31")
		c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": first})), "")
		defer c.end()
		c.write(first + "colour: blue\n")
		c.book.take()
		c.write(first)
		same(t, "events", c.book.take(), []string{"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(first) + " is in force again: 1 pool, 0 peers"})
		c.write(first)
		same(t, "events of a touch", c.book.take(), nil)
	})
}

func TestAMisspeltAnnotationOfTheConfigMapIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/31")})), "")
		defer c.end()
		c.book.take()
		for range 2 {
			user := configMap("config", map[string]string{"config": text("vip 10.0.0.0/31")})
			user.ResourceVersion = "42"
			user.Annotations = map[string]string{"metallb.universe.tf/renumbr": "0123456789abcdef"}
			if _, err := c.client.CoreV1().ConfigMaps("metallb-system").Update(t.Context(), user, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		same(t, "events", c.book.take(), []string{"metallb-system/config Warning UnknownAnnotation annotation metallb.universe.tf/renumbr means nothing: the nearest that does is metallb.universe.tf/renumber"})
	})
}

func TestARefusalIsWrittenOnceWhateverHappensToTheServicesItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var services []string
		for i := range 200 {
			services = append(services, fmt.Sprintf("shop/web%d shows=10.0.1.%d", i, i))
		}
		broken := text("vip 10.0.0.0/23") + "colour: blue\n"
		client := fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/23")}))
		c := convene(t, client, strings.Join(services, ";"))
		defer c.end()
		next := text("vip 10.0.0.0/24")
		c.write(next)
		client.ClearActions()
		for i := range 199 {
			c.cloud.OnDelete(aService(t, fmt.Sprintf("shop/web%d", i)))
			synctest.Wait()
			<-time.After(100 * time.Millisecond)
		}
		writes := func() (n int) {
			for _, a := range client.Actions() {
				if u, ok := a.(k8stesting.UpdateAction); ok && a.GetVerb() == "update" && u.GetObject().(*corev1.ConfigMap).Name == "config-admitted" {
					n++
				}
			}
			return n
		}
		if n := writes(); n != 0 {
			t.Errorf("199 deletions rewrote the copy %d times", n)
		}
		// A broken, B refused, A broken again: the copy tells of what is there.
		for range 2 {
			c.write(broken)
			<-time.After(10 * time.Second)
			synctest.Wait()
			c.want("a broken text", text("vip 10.0.0.0/23"), "hash: "+service.Hash(broken))
			c.write(next)
			<-time.After(10 * time.Second)
			synctest.Wait()
			c.want("one that takes an address away", text("vip 10.0.0.0/23"), "hash: "+service.Hash(next))
		}
		c.remove("config")
		if refused := c.stored()["refused"]; refused != "" {
			t.Errorf("the refused text is gone, and the copy says %q", refused)
		}
		long := "peers:\n" + strings.Repeat("- peer-address: "+strings.Repeat("x", 50_000)+"\n", 9)
		c.write(long)
		if n := len(c.stored()["refused"]); n == 0 || n > mostOfARefusal {
			t.Errorf("the refusal has %d bytes", n)
		}
	})
}

func TestADeletedConfigMapChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/30")
		client := fake.NewClientset(configMap("config", map[string]string{"config": first}))
		c := convene(t, client, "")
		logged.take()
		c.book.take()
		c.remove("config")
		c.gone = true
		c.want("it is deleted", first)
		c.admission.ring()
		synctest.Wait()
		same(t, "log", logged.take(), []string{`"The configuration is gone: the admitted one stays in force" configmap="metallb-system/config"`})
		same(t, "events", c.book.take(), nil)
		c.end()

		c = convene(t, client, "")
		defer c.end()
		c.gone = true
		c.want("the controller restarts", first)
		if addr, err := ensure(t, c.cloud, "shop/web"); addr != "10.0.0.0" {
			t.Errorf("it is not in force: %v", err)
		}
	})
}

func TestTheCopyIsRepairedWhateverIsDoneToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/30")
		c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": first})), "")
		defer c.end()
		admitted := c.stored()
		c.book.take()
		for then, data := range map[string]map[string]string{
			"another text":    {"config": text("vip 10.9.0.0/30"), "hash": admitted["hash"], "admitted-at": admitted["admitted-at"]},
			"another hash":    {"config": first, "hash": "0", "admitted-at": admitted["admitted-at"]},
			"a key too much":  {"config": first, "hash": admitted["hash"], "admitted-at": admitted["admitted-at"], "refused": "x"},
			"nothing is left": {},
		} {
			c.put("config-admitted", data)
			if !maps.Equal(c.stored(), admitted) {
				t.Errorf("%s: the copy is %q", then, c.stored())
			}
		}
		// The last write carried the version that had been seen.
		for _, a := range slices.Backward(c.client.Actions()) {
			if update, ok := a.(k8stesting.UpdateAction); ok {
				if got := update.GetObject().(*corev1.ConfigMap).ResourceVersion; got != "41" {
					t.Errorf("written whatever it was meanwhile: version %q", got)
				}
				break
			}
		}
		c.remove("config-admitted")
		if !maps.Equal(c.stored(), admitted) {
			t.Errorf("deleted: the copy is %q", c.stored())
		}
		same(t, "events", c.book.take(), nil)
	})
}

func TestWhatALaterVersionAdmittedIsInForceHereToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		later := text("vip 10.0.0.0/30") + "  colour: blue\nteapots: [1, 2]\n"
		client := fake.NewClientset(
			configMap("config", map[string]string{"config": later}),
			configMap("config-admitted", map[string]string{"config": later, "hash": service.Hash(later), "admitted-at": "1999-12-31T23:00:00Z"}))
		c := convene(t, client, "shop/web shows=10.0.0.3")
		defer c.end()
		c.want("after a rollback", later)
		if got := c.stored()["admitted-at"]; got != "1999-12-31T23:00:00Z" {
			t.Errorf("admitted anew at %s", got)
		}
		same(t, "events", c.book.take(), nil)
		if addr, err := ensure(t, c.cloud, "shop/api"); addr != "10.0.0.0" {
			t.Errorf("it is not in force: %v", err)
		}
	})
}

func TestWhatAnEarlierVersionRefusedMayBeAdmittedNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, next := text("vip 10.0.0.0/30"), text("vip 10.0.0.0/29")
		client := fake.NewClientset(
			configMap("config", map[string]string{"config": next}),
			configMap("config-admitted", map[string]string{"config": first, "hash": service.Hash(first), "admitted-at": "1999-12-31T23:00:00Z",
				"refused": "hash: " + service.Hash(next) + "\ntime: \"1999-12-31T23:30:00Z\"\nproblems: ['line 2: not supported by this version']\n"}))
		c := convene(t, client, "")
		defer c.end()
		c.want("after an upgrade", next)
		same(t, "events", c.book.take(), []string{"metallb-system/config Normal ConfigAdmitted the text " + service.Hash(next) + " is in force: 1 pool, 0 peers"})
	})
}

func TestARestartDoesNotRepeatARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("config", map[string]string{"config": "address-pools: 7"}))
		c := convene(t, client, "")
		if len(c.book.take()) != 1 {
			t.Error("nobody heard of the refusal")
		}
		before := c.stored()
		c.end()
		<-time.After(time.Hour)
		c = convene(t, client, "")
		defer c.end()
		same(t, "events", c.book.take(), nil)
		if !maps.Equal(c.stored(), before) {
			t.Errorf("the copy is %q, and was %q", c.stored(), before)
		}
	})
}

func TestABrokenCopyIsReplacedByTheUsersText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := text("vip 10.0.0.0/30")
		for name, data := range map[string]map[string]string{
			"junk":    {"config": "address-pools: 7"},
			"no text": {"refused": "junk: [", "hash": "1"},
		} {
			c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": first}), configMap("config-admitted", data)), "")
			c.want(name, first)
			c.end()
		}
	})
}

func TestAHashNamesAText(t *testing.T) {
	for text, want := range map[string]string{"": "e3b0c44298fc1c14", "peers: []\n": service.Hash("peers: []\n")} {
		if got := service.Hash(text); got != want || len(got) != 16 {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if service.Hash("a") == service.Hash("b") {
		t.Error("two texts have one hash")
	}
}

func TestASecretIsNeverRepeated(t *testing.T) {
	const peer = "peers:\n- peer-address: 10.0.0.1\n  peer-asn: 100\n  my-asn: 42\n"
	for name, text := range map[string]string{
		"where it belongs":  peer + "  password: hunter2\n",
		"quoted":            peer + "  password: \"hunter2\"\n",
		"as a list":         peer + "  password: [hunter2]\n",
		"as a mapping":      peer + "  password: {hunter2: hunter2}\n",
		"misspelt key":      peer + "  pasword: hunter2\n",
		"bad indentation":   peer + "   password: hunter2\n",
		"without a colon":   peer + "  password hunter2\n",
		"unfinished quote":  peer + "  password: \"hunter2\n",
		"at the top":        "password: hunter2\n" + peer,
		"an anchor":         peer + "  password: &p hunter2\n  name: *p\n",
		"twice":             peer + "  password: hunter2\n  password: hunter2\n",
		"with other errors": peer + "  password: hunter2\n  hold-time: 1s\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := "address-pools: [{name: vip, cidr: [10.0.0.0/30]}]"
				c := convene(t, fake.NewClientset(configMap("config", map[string]string{"config": first})), "")
				defer c.end()
				c.write(text)
				told := strings.Join(append(append(c.book.take(), logged.take()...), c.stored()["refused"]), "\n")
				if c.stored()["config"] == first && c.stored()["refused"] == "" {
					t.Error("it is neither admitted nor refused")
				}
				if strings.Contains(told, "hunter2") {
					t.Errorf("everybody can read\n%s", told)
				}
			})
		})
	}
}

func TestManyProblemsFitIntoAnEventAndTheCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := convene(t, fake.NewClientset(), "")
		defer c.end()
		c.write("peers:\n" + strings.Repeat("- peer-address: "+strings.Repeat("x", 200)+"\n", 500))
		events := c.book.take()
		if len(events) != 1 || len(events[0]) > 1024 {
			t.Errorf("%d events, the first of %d bytes: the API server takes 1024", len(events), len(events[0]))
		}
		if got := c.stored()["refused"]; strings.Count(got, "\n- ")+strings.Count(got, "\n    - ") != 100 || len(got) > 100<<10 {
			t.Errorf("the refusal has %d bytes:\n%.500s", len(got), got)
		}
	})
}

func TestAnAPIServerThatSaysNoIsAskedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/30")}))
		var asked atomic.Int32
		var answer atomic.Pointer[apierrors.StatusError]
		answer.Store(apierrors.NewForbidden(corev1.Resource("configmaps"), "config-admitted", errors.New("no")))
		client.PrependReactor("create", "configmaps", func(k8stesting.Action) (bool, runtime.Object, error) {
			asked.Add(1)
			if no := answer.Load(); no != nil {
				return true, nil, no
			}
			return false, nil, nil
		})
		c := convene(t, client, "")
		defer c.end()
		for range 20 { // much happens at once
			c.admission.ring()
			synctest.Wait()
		}
		asked.Store(0)
		<-time.After(10 * time.Second)
		synctest.Wait()
		if got := asked.Load(); got != 10 {
			t.Errorf("asked %d times in ten seconds", got)
		}
		logged.take()
		answer.Store(apierrors.NewAlreadyExists(corev1.Resource("configmaps"), "config-admitted"))
		<-time.After(time.Second)
		synctest.Wait()
		same(t, "log of a conflict", logged.take(), nil)
		answer.Store(nil)
		<-time.After(time.Second)
		synctest.Wait()
		c.want("it says yes", text("vip 10.0.0.0/30"))
	})
}

func TestOnlyTheLeaderWritesTheCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plate := &doorplate{holder: "us", broken: errors.New("no route to host")}
		c := convene(t, fake.NewClientset(), "", plate)
		defer c.end()
		c.write(text("vip 10.0.0.0/30"))
		if c.stored() != nil {
			t.Error("it writes without knowing whether it leads")
		}
		plate.fail(nil)
		<-time.After(time.Second)
		synctest.Wait()
		c.want("the Lease is ours", text("vip 10.0.0.0/30"))
	})
}

func TestAnAPIServerThatFailsAtTheStartIsNotTakenForAnEmptyOne(t *testing.T) {
	for _, name := range []string{"config-admitted"} {
		client := fake.NewClientset(configMap("config", map[string]string{"config": text("vip 10.0.0.0/30")}))
		client.PrependReactor("get", "configmaps", func(a k8stesting.Action) (bool, runtime.Object, error) {
			return a.(k8stesting.GetAction).GetName() == name, nil, fmt.Errorf("not now")
		})
		c := New(Options{Namespace: "metallb-system", ConfigName: "config"})
		a, err := newAdmission(client, client, c, c.watches.failed)
		if err != nil {
			t.Fatal(err)
		}
		if config, err := a.recall(t.Context()); err == nil {
			t.Errorf("%s cannot be read, and recall says %v", name, config)
		}
	}
}

func TestEveryServiceIsListedPageByPage(t *testing.T) {
	client := fake.NewClientset(aService(t, "shop/web class="+loadbalancer.Class), aService(t, "shop/api"), aService(t, "other/web finalizer class=example.com/lb"))
	all, err := listAll(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, svc := range all {
		got[service.Name(svc)] = (&view{ours: service.Ours{}}).of(svc) != nil
	}
	if want := map[string]bool{"shop/web": true, "shop/api": true, "other/web": false}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, a := range client.Actions() {
		if list, ok := a.(k8stesting.ListActionImpl); ok && (list.ListOptions.ResourceVersion != "" || list.ListOptions.Limit == 0) {
			t.Errorf("listed with %+v", list.ListOptions)
		}
	}
}

// Somebody restored the copy, or wrote it by hand.
func TestACopyWithoutItsTimeKeepsTheText(t *testing.T) {
	const text = "peers:\n- {peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2}\naddress-pools:\n- {name: a, cidr: [10.1.0.0/29]}\n"
	for _, user := range []string{text, "junk: 1\n"} {
		synctest.Test(t, func(t *testing.T) {
			client := fake.NewClientset()
			for name, is := range map[string]string{"config-admitted": text, "config": user} {
				if _, err := client.CoreV1().ConfigMaps("metallb-system").Create(t.Context(), configMap(name, map[string]string{"config": is}), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			c := convene(t, client, "")
			<-time.After(time.Minute)
			synctest.Wait()
			if is := c.stored(); is["config"] != text || is["admitted-at"] == "" || is["hash"] == "" {
				t.Errorf("user %q: the copy says %q", user, is)
			}
			c.end()
		})
	}
}
