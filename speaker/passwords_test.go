package speaker

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/internal/watch"
	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// secret writes a Secret as key and value in turns.
func secret(data ...string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: SecretName}, Data: map[string][]byte{}}
	for i := 0; i < len(data); i += 2 {
		s.Data[data[i]] = []byte(data[i+1])
	}
	return s
}

func TestAPasswordThatWasOnceGoodStaysUntilABetterOneComes(t *testing.T) {
	const ref = "metallb-system/metallb-bgp-auth"
	long := strings.Repeat("x", 80)
	var known map[string]Password
	for _, step := range []struct {
		then   string
		secret *corev1.Secret
		value  string
		why    string
	}{
		{then: "there is none", why: `Secret metallb-system/metallb-bgp-auth does not exist: create it, with key "tor"`},
		{then: "without the key", secret: secret("spine", "other"), why: `Secret metallb-system/metallb-bgp-auth has no key "tor": add it`},
		{then: "empty", secret: secret("tor", "\n"), why: `key "tor" of Secret metallb-system/metallb-bgp-auth is empty: give it a value`},
		{then: "too long", secret: secret("tor", long+"y"), why: `key "tor" of Secret metallb-system/metallb-bgp-auth is longer than the 80 bytes that TCP MD5 allows`},
		{then: "the longest", secret: secret("tor", long+"\n"), value: long},
		{then: "a short one", secret: secret("tor", "hunter2"), value: "hunter2"},
		{then: "from a file", secret: secret("tor", "hunter3\n"), value: "hunter3"},
		{then: "from another system's file", secret: secret("tor", "hunter4\r\n"), value: "hunter4"},
		{then: "what is inside counts", secret: secret("tor", " a\nb \n\n"), value: " a\nb \n"},
		{then: "good again", secret: secret("tor", "hunter5"), value: "hunter5"},
		{then: "the key goes", secret: secret(), value: "hunter5", why: `Secret metallb-system/metallb-bgp-auth has no key "tor": add it`},
		{then: "it is spoilt", secret: secret("tor", ""), value: "hunter5", why: `key "tor" of Secret metallb-system/metallb-bgp-auth is empty: give it a value`},
		{then: "the Secret goes", value: "hunter5", why: `Secret metallb-system/metallb-bgp-auth does not exist: create it, with key "tor"`},
		{then: "and returns", secret: secret("tor", "hunter6"), value: "hunter6"},
	} {
		known = Passwords(known, []string{"tor"}, ref, step.secret)
		if got := known["tor"]; string(got.Value) != step.value || got.Why != step.why {
			t.Errorf("%s: the value is %q, because %q; want %q, %q", step.then, string(got.Value), got.Why, step.value, step.why)
		}
		if text := fmt.Sprintf("%v %+v %#v %s %q", known, known, known["tor"], known["tor"].Why, known["tor"].Value); step.value != "" && strings.Contains(text, step.value) {
			t.Errorf("%s: the value is printed: %s", step.then, text)
		}
	}
	if known = Passwords(known, nil, ref, nil); len(known) != 0 {
		t.Errorf("passwords that nobody needs are remembered: %v", slices.Collect(maps.Keys(known)))
	}
}

// withKeys returns a configuration with peers that have this password-key, or none.
func withKeys(t *testing.T, keys ...string) *loadbalancer.Config {
	text := "peers:\n"
	for i := range keys {
		text += fmt.Sprintf("- {name: p%d, peer-address: 10.9.0.%d, peer-asn: 64500, my-asn: 64512}\n", i, i+1)
	}
	config := parse(t, text+onePool)
	for i, key := range keys {
		config.Peers[i].PasswordKey = key
	}
	return config
}

func TestAPeerWithoutItsPasswordIsNotSpokenTo(t *testing.T) {
	config := withKeys(t, "", "good", "kept", "bad", "unread")
	peers, mute, problems := Peers(config, node(t, "a internal=10.0.0.1 internal=fd00::1 external=198.51.100.1 internal=10.0.0.2"), map[string]Password{
		"good": {Value: "one"}, "kept": {Value: "two", Why: "it is gone"}, "bad": {Why: "it is empty"}, "unread": {},
	}, nil, nil, nil)
	var got []string
	for _, p := range peers {
		got = append(got, p.Name+" "+string(p.Password))
		if want := "[10.0.0.1 fd00::1 10.0.0.2]"; fmt.Sprint(p.NodeIPs) != want {
			t.Errorf("%s: the node's addresses are %v, want %s", p.Name, p.NodeIPs, want)
		}
	}
	same(t, "peers", got, []string{"p0 ", "p1 one", "p2 two"})
	same(t, "problems", problems, []string{"peer p3: it is empty"})
	got = nil
	for _, p := range mute {
		got = append(got, p.Name)
	}
	same(t, "not spoken to", got, []string{"p3", "p4"})
	for _, p := range config.Peers {
		if p.Password != "" || p.NodeIPs != nil {
			t.Errorf("the configuration now holds %s's password or addresses", p.Name)
		}
	}
}

// What a session needs may go while it is up: then it goes on as it was. The router is the same under another name.
func TestASessionGoesOnAsItWasWhenWhatItNeedsIsMissing(t *testing.T) {
	const peer = "peers: [{%s, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}]\n"
	var before []loadbalancer.Peer
	for _, step := range []struct {
		then, text, node string
		known            map[string]Password
		peer, mute       string
		problem          string
	}{
		{then: "a password in the text", text: "name: tor, password: hunter2", node: "a internal=10.0.0.1", peer: "tor hunter2 from"},
		{then: "it moves to a Secret that has not been read", text: "name: tor, password-key: tor", node: "a internal=10.0.0.1",
			known: map[string]Password{"tor": {}}, peer: "tor hunter2 from"},
		{then: "and that does not exist", text: "name: tor, password-key: tor", node: "a internal=10.0.0.1",
			known: map[string]Password{"tor": {Why: "there is no Secret"}}, peer: "tor hunter2 from",
			problem: "peer tor: there is no Secret; its session goes on as it was"},
		{then: "under another name", text: "name: leaf, password-key: tor", node: "a internal=10.0.0.1",
			known: map[string]Password{"tor": {Why: "there is no Secret"}}, peer: "leaf hunter2 from",
			problem: "peer leaf: there is no Secret; its session goes on as it was"},
		{then: "now it does", text: "name: leaf, password-key: tor", node: "a internal=10.0.0.1",
			known: map[string]Password{"tor": {Value: "hunter3"}}, peer: "leaf hunter3 from"},
		{then: "from the node's address", text: "name: leaf, source-address: node-ip", node: "a internal=10.0.0.1", peer: "leaf  from 10.0.0.1"},
		{then: "which is no longer the first", text: "name: leaf, source-address: node-ip", node: "a internal=10.0.0.2 internal=10.0.0.1", peer: "leaf  from 10.0.0.1"},
		{then: "which goes", text: "name: leaf, source-address: node-ip", node: "a", peer: "leaf  from 10.0.0.1",
			problem: "peer leaf: source-address is node-ip, and node a has no InternalIP of the peer's IP version; its session goes on as it was"},
		{then: "a peer of other nodes", text: "name: leaf, password-key: tor, node-selectors: [{match-labels: {rack: b}}]", node: "a"},
		{then: "a peer whose session ended", text: "name: leaf, password-key: tor", node: "a",
			known: map[string]Password{"tor": {Why: "there is no Secret"}}, mute: "leaf", problem: "peer leaf: there is no Secret"},
	} {
		peers, mute, problems := Peers(parse(t, fmt.Sprintf(peer, step.text)), node(t, step.node), step.known, nil, before, nil)
		var got, silent []string
		for _, p := range peers {
			got = append(got, strings.TrimSpace(p.Name+" "+string(p.Password)+" from "+written(p.SourceAddress)))
		}
		for _, p := range mute {
			silent = append(silent, p.Name)
		}
		same(t, step.then+": spoken to", got, lines(step.peer))
		same(t, step.then+": not spoken to", silent, lines(step.mute))
		same(t, step.then+": problems", problems, lines(step.problem))
		before = peers
	}
}

func TestOneOfTwoNeighborsToARouterDoesNotGoOnAsTheOther(t *testing.T) {
	const config = `
peers:
- {name: left, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: 10.0.0.7}
- {name: right, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: 10.0.0.8, password-key: tor}
`
	before, _, _ := Peers(parse(t, config), node(t, "a"), nil, nil, nil, nil)
	peers, mute, _ := Peers(parse(t, config), node(t, "a"), nil, nil, before, nil)
	if len(peers) != 1 || peers[0].Name != "left" || len(mute) != 1 || mute[0].Name != "right" {
		t.Errorf("spoken to %v, and not to %v", peers, mute)
	}
}

func TestTheSecretIsReadFromWhenAPeerNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lists atomic.Int32 // of Secrets
		var fails atomic.Bool  // such lists
		r := &stage{t: t, client: fake.NewClientset(append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(onePeer+onePool))...), said: &notebook{}}
		r.client.PrependReactor("list", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
			lists.Add(1)
			return fails.Load(), nil, errors.New("forbidden")
		})
		r.begin(Options{})
		// The stage gives the configuration as it is read: the loop is asleep, and looks when its Node changes.
		with := func(config *loadbalancer.Config) {
			r.speaker.admitted.Config = config
			r.put(node(t, fmt.Sprintf("a look=%d", r.said.count())))
		}
		logged.Take()
		with(withKeys(t, ""))
		r.want("no peer has a key", "10.0.0.1/32 pref 100", "p0")
		if n := lists.Load(); n != 0 {
			t.Errorf("Secrets were listed %d times though nobody needs one", n)
		}

		// It cannot be read. The other peer does not care, and nothing is said before the API server had time to answer.
		fails.Store(true)
		with(withKeys(t, "", "tor"))
		r.want("one cannot be read", "10.0.0.1/32 pref 100", "p0")
		same(t, "log", withoutClient(logged.Take()), nil)
		<-time.After(secretPatience)
		synctest.Wait()
		same(t, "log", withoutClient(logged.Take()), []string{`"Cannot speak yet" why="peer p1: Secret metallb-system/metallb-bgp-auth has not been read yet: may this speaker list and watch it?"`})

		fails.Store(false)
		<-time.After(time.Hour) // the reflector has become patient
		synctest.Wait()
		r.want("there is none", "10.0.0.1/32 pref 100", "p0")
		same(t, "log", withoutClient(logged.Take()), []string{`"Cannot speak yet" why="peer p1: Secret metallb-system/metallb-bgp-auth does not exist: create it, with key \"tor\""`})
		selected := ""
		for _, a := range r.client.Actions() {
			if list, ok := a.(k8stesting.ListActionImpl); ok && list.GetResource().Resource == "secrets" {
				selected = list.GetNamespace() + "/" + list.ListOptions.FieldSelector
			}
		}
		if selected != "metallb-system/metadata.name=metallb-bgp-auth" {
			t.Errorf("listed %s", selected)
		}

		secrets := r.client.CoreV1().Secrets("metallb-system")
		if _, err := secrets.Create(t.Context(), secret("tor", "hunter2\n"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.want("there it is", "10.0.0.1/32 pref 100", "p0", "p1 hunter2")
		same(t, "log", logged.Take(), nil)
		if _, err := secrets.Update(t.Context(), secret("tor", "hunter3"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.want("another", "10.0.0.1/32 pref 100", "p0", "p1 hunter3")
		if err := secrets.Delete(t.Context(), SecretName, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.want("it is gone", "10.0.0.1/32 pref 100", "p0", "p1 hunter3")
		r.put(node(t, "a"))
		same(t, "log", logged.Take(), []string{`"Kept the previous password" why="Secret metallb-system/metallb-bgp-auth does not exist: create it, with key \"tor\""`})
	})
}

// withoutClient leaves out what client-go says about a list that fails.
func withoutClient(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "forbidden") })
}

func TestOfASecretOnlyItsValuesAreKept(t *testing.T) {
	given := secret("tor", "hunter2")
	given.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: "hunter2"}
	given.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	want := secret("tor", "hunter2")
	if key, got := watch.Whole[corev1.Secret](given); key != SecretName || !reflect.DeepEqual(got, want) {
		t.Errorf("got %s: %+v", key, got)
	}
}
