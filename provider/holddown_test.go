package provider

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

func TestARecreatedServiceHasItsAddressBackAlsoFromTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const holding = "vip 10.0.0.0/30 hold=60"
		client := fake.NewClientset(configMap("config", map[string]string{"config": text(holding)}))
		lead := func(services string) (*council, *holdDowns, func()) {
			c := convene(t, client, services)
			h := &holdDowns{cloud: c.cloud, client: client}
			return c, h, c.end
		}
		first, h, end := lead("shop/web uid=1 shows=10.0.0.0; shop/api shows=10.0.0.1")
		if _, err := h.recall(t.Context()); err != nil {
			t.Fatal(err)
		}
		go h.run(t.Context())
		client.ClearActions()
		for _, name := range []string{"shop/web uid=1", "shop/api"} {
			first.cloud.EnsureLoadBalancerDeleted(t.Context(), "", aService(t, name))
		}
		<-time.After(1100 * time.Millisecond)
		synctest.Wait()
		stored, err := client.CoreV1().ConfigMaps("metallb-system").Get(t.Context(), "config-held-down", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		written := 0
		for _, action := range client.Actions() {
			if update, ok := action.(kubetesting.CreateAction); ok && action.Matches("create", "configmaps") && update.GetObject().(*corev1.ConfigMap).Name == "config-held-down" {
				written++
			}
		}
		if lines := strings.Fields(stored.Data["addresses"]); written != 1 || len(lines) != 6 || !strings.Contains(stored.Data["addresses"], "10.0.0.0 shop/web 2000-01-01T00:01:0") {
			t.Errorf("%d writes, and it says\n%s", written, stored.Data["addresses"])
		}
		end() // as after a kill -9: nothing else is written

		// The next leader finds one Service made anew, and one that nobody made.
		c := New(Options{Namespace: "metallb-system", ConfigName: "config"})
		c.record, c.watch, c.review = &eventbook{}, &viewed{}, func() {}
		if c.ledger.recalled, err = (&holdDowns{cloud: c, client: client}).recall(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.begin()
		c.adopt(pools(t, holding), nil, listed(t, "shop/dns shows=10.0.0.2; farm/last shows=10.0.0.3"))
		if addr, err := ensure(t, c, "shop/late"); err == nil {
			t.Errorf("somebody else gets %s", addr)
		}
		if addr, err := ensure(t, c, "shop/web uid=2"); addr != "10.0.0.0" {
			t.Errorf("web gets %q, %v", addr, err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if got := shown(c.ledger.held(aService(t, "shop/late"))); got != "10.0.0.1" {
			t.Errorf("hold-down is over, and late has %q", got)
		}
	})
}

func TestAServiceThatWentWhileNobodyLedHasItsAddressBack(t *testing.T) {
	c := New(Options{})
	c.record, c.watch, c.review = &eventbook{}, &viewed{}, func() {}
	c.begin()
	gone := aService(t, "shop/web uid=1 shows=10.0.0.0")
	gone.DeletionTimestamp, gone.Finalizers = &metav1.Time{Time: time.Now()}, []string{"service.kubernetes.io/load-balancer-cleanup"}
	c.adopt(pools(t, "vip 10.0.0.0/31 hold=60"), nil, append(listed(t, "shop/first"), gone))
	for service, want := range map[string]string{"shop/first": "10.0.0.1", "shop/web uid=2": "10.0.0.0"} {
		if addr, err := ensure(t, c, service); addr != want {
			t.Errorf("%s gets %q, %v; want %s", service, addr, err, want)
		}
	}
}

func TestWhatIsHeldDownIsReadAsItWasWrittenAndFitsIntoAConfigMap(t *testing.T) {
	var all []loadbalancer.HeldDown
	for i := range 20_000 {
		all = append(all, loadbalancer.HeldDown{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Service: fmt.Sprint(strings.Repeat("n", 63), "/web-", i), Until: time.Duration(i)*time.Second + 7})
	}
	written := writeHeldDown(all)
	read := readHeldDown(written + "10.0.0.1 shop/web\nnonsense shop/web 2000-01-01T00:00:00Z\n")
	if len(written) > mostOfHeldDown || len(read) < 5000 || read[0] != all[len(all)-1] {
		t.Errorf("%d bytes, and %d are read back, first %v", len(written), len(read), read[0])
	}
}
