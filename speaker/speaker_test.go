package speaker

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// A notebook is an announcer that writes down what it was told last, and how often it was told something.
type notebook struct {
	mu     sync.Mutex
	peers  []string
	table  map[netip.Prefix][]loadbalancer.Route
	routes []string
	since  time.Time
	times  int
}

func (n *notebook) Update(peers []loadbalancer.Peer, changed map[netip.Prefix][]loadbalancer.Route, since time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.table == nil {
		n.table = map[netip.Prefix][]loadbalancer.Route{}
	}
	maps.Copy(n.table, changed)
	n.times++
	n.routes, n.peers, n.since = nil, nil, since
	for _, prefix := range slices.SortedFunc(maps.Keys(n.table), netip.Prefix.Compare) {
		n.routes = append(n.routes, notation(n.table[prefix])...)
	}
	for _, p := range peers {
		n.peers = append(n.peers, strings.TrimSpace(p.Name+" "+string(p.Password)))
	}
}

// count returns how often it was told something.
func (n *notebook) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.times
}

// A stage is a speaker at work on node a, on client-go's fake API server. It belongs into synctest's bubble.
type stage struct {
	t       *testing.T
	client  *fake.Clientset
	speaker *Speaker
	said    *notebook
}

func enact(t *testing.T, options Options, objects ...runtime.Object) *stage {
	s := &stage{t: t, client: fake.NewClientset(objects...), said: &notebook{}}
	s.begin(options)
	return s
}

func (s *stage) begin(options Options) {
	logged.Take()
	options.NodeName, options.Namespace, options.ConfigName = "a", "metallb-system", "config"
	var err error
	if s.speaker, err = New(of(s.client), s.said, options); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { s.speaker.Run(ctx); close(done) }()
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
	<-time.After(time.Second) // the caches are looked at every 100 ms
	synctest.Wait()
}

// of is the fake API server as a Speaker sees it.
func of(client *fake.Clientset) Cluster {
	return Cluster{client.CoreV1().Services(""), client.DiscoveryV1().EndpointSlices(""), client.CoreV1().Nodes(),
		client.CoreV1().ConfigMaps("metallb-system"), client.CoreV1().Secrets("metallb-system"), client}
}

const onePeer = "peers: [{name: leaf, peer-address: 10.9.0.1, peer-asn: 64500, my-asn: 64512}]\n"

func admitted(text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config-admitted"},
		Data:       map[string]string{"config": text, "hash": "abc"},
	}
}

// put writes an object, and waits until nothing moves any more.
func (s *stage) put(object runtime.Object) {
	s.t.Helper()
	tracker := s.client.Tracker()
	kinds := map[reflect.Type]string{
		reflect.TypeFor[*corev1.Service](): "services", reflect.TypeFor[*corev1.Node](): "nodes",
		reflect.TypeFor[*corev1.ConfigMap](): "configmaps", reflect.TypeFor[*discoveryv1.EndpointSlice](): "endpointslices",
	}
	resource := corev1.SchemeGroupVersion.WithResource(kinds[reflect.TypeOf(object)])
	if resource.Resource == "endpointslices" {
		resource = discoveryv1.SchemeGroupVersion.WithResource(resource.Resource)
	}
	namespace := object.(metav1.ObjectMetaAccessor).GetObjectMeta().GetNamespace()
	if tracker.Update(resource, object, namespace) != nil {
		if err := tracker.Create(resource, object, namespace); err != nil {
			s.t.Fatal(err)
		}
	}
	synctest.Wait()
}

func (s *stage) want(then string, routes string, peers ...string) {
	s.t.Helper()
	s.said.mu.Lock()
	defer s.said.mu.Unlock()
	same(s.t, then+": announced", s.said.routes, lines(routes))
	same(s.t, then+": to", s.said.peers, peers)
}

// objects are a Service and its slices.
func objects(t *testing.T, short string) []runtime.Object {
	s := svc(t, short)
	all := []runtime.Object{s.Service}
	for _, slice := range s.Slices {
		all = append(all, slice)
	}
	return all
}

func TestNothingIsAnnouncedBeforeEverythingIsKnown(t *testing.T) {
	for _, late := range []string{"services", "endpointslices", "nodes", "configmaps"} {
		t.Run(late, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(onePeer+onePool))
				s := &stage{t: t, client: fake.NewClientset(all...), said: &notebook{}}
				var known atomic.Bool
				s.client.PrependReactor("list", late, func(k8stesting.Action) (bool, runtime.Object, error) {
					return !known.Load(), nil, errors.New("not now")
				})
				s.begin(Options{})
				<-time.After(time.Hour)
				if s.said.times != 0 {
					t.Errorf("announced %q without knowing the %s", s.said.routes, late)
				}
				known.Store(true)
				<-time.After(time.Hour) // the informer has become patient
				synctest.Wait()
				s.want("everything is known", "10.0.0.1/32 pref 100", "leaf")
			})
		})
	}
}

func TestASpeakerWaitsForItsConfigurationAndItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, objects(t, "shop/web 10.0.0.1 | a:ready")...)
		s.put(node(t, "a"))
		s.put(node(t, "a cordoned"))
		if s.said.times != 0 {
			t.Errorf("announced %q to %q without a configuration", s.said.routes, s.said.peers)
		}
		same(t, "log", logged.Take(), []string{`"Cannot speak yet" why="no configuration is admitted yet: ConfigMap metallb-system/config-admitted"`})
		refused := admitted("")
		refused.Data = map[string]string{"refused": "hash: abc"}
		s.put(refused)
		if s.said.times != 0 {
			t.Error("announced on a refusal")
		}
		s.put(admitted(onePeer + onePool))
		s.want("there it is", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), []string{
			`"Loaded configuration" configmap="metallb-system/config-admitted" hash="abc" ignored=0`,
			`"Began to announce" peers=1 routes=1 withheld=0`})
	})
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), admitted(onePeer+onePool), node(t, "b"))...)
		if s.said.times != 0 {
			t.Error("announced for a node that does not exist")
		}
		s.put(node(t, "a"))
		s.want("there it is", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), []string{
			`"Loaded configuration" configmap="metallb-system/config-admitted" hash="abc" ignored=0`,
			`"Cannot speak yet" why="node a does not exist"`,
			`"Began to announce" peers=1 routes=1 withheld=0`})
	})
}

func TestWhateverHappensToTheCopyTheConfigurationStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(onePeer+onePool))...)
		logged.Take()
		s.put(admitted("address-pools: 7"))
		s.want("broken", "10.0.0.1/32 pref 100", "leaf")
		if log := logged.Take(); len(log) != 1 || !strings.HasPrefix(log[0], `"Kept the previous configuration"`) {
			t.Errorf("log %q", log)
		}
		s.put(node(t, "a cordoned"))
		same(t, "log of the same text", logged.Take(), nil)
		empty := admitted("")
		empty.Data = nil
		s.put(empty)
		s.want("empty", "10.0.0.1/32 pref 100", "leaf")
		if err := s.client.CoreV1().ConfigMaps("metallb-system").Delete(t.Context(), "config-admitted", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.want("deleted", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), nil)
		s.put(admitted(onePeer + onePool + "  colour: blue\n"))
		s.want("of a later version", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), []string{`"Loaded configuration" configmap="metallb-system/config-admitted" hash="abc" ignored=1`})
		s.put(admitted("address-pools: []"))
		s.want("of another operator", "")
	})
}

func TestTheUsersOwnConfigMapMeansNothingToSpeakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users := admitted("address-pools: []")
		users.Name = "config"
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(onePeer+onePool), users)...)
		s.want("only the copy counts", "10.0.0.1/32 pref 100", "leaf")
	})
}

func TestOnlyWhatConcernsAnAddressRingsTheBell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 Local | a:ready"), node(t, "a"), admitted(onePeer+onePool))...)
		s.want("the start", "10.0.0.1/32 pref 100", "leaf")
		times := s.said.times
		for range 3 {
			internal := svc(t, "shop/internal type=ClusterIP | a:ready")
			s.put(internal.Slices[0])
			s.put(svc(t, "shop/internal type=ClusterIP | a:unready").Slices[0])
		}
		if s.said.times != times {
			t.Errorf("the slices of an internal Service made it look %d times", s.said.times-times)
		}
		s.put(svc(t, "shop/web 10.0.0.1 Local | a:last b:ready").Slices[0])
		s.want("the pod terminates", "", "leaf")
		s.put(svc(t, "shop/web 10.0.0.1 Local | a:ready b:ready").Slices[0])
		<-time.After(headStart)
		synctest.Wait()
		s.want("it is back", "10.0.0.1/32 pref 100", "leaf")
		moved := svc(t, "shop/web 10.0.0.1 Local | a:ready").Slices[0]
		moved.Labels[discoveryv1.LabelServiceName] = "internal"
		s.put(moved)
		s.want("the slice is another Service's now", "", "leaf")
		if err := s.client.CoreV1().Services("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		times = s.said.times
		// First the slice, then its Service.
		late := svc(t, "shop/late 10.0.0.2 | b:ready")
		s.put(late.Slices[0])
		s.put(late.Service)
		s.want("a new Service", "10.0.0.2/32 pref 100", "leaf")
		if s.said.times != times+1 {
			t.Errorf("looked %d times", s.said.times-times)
		}
	})
}

func TestAChangeWithoutConsequencesSaysTheSameAgainAndLogsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(append(objects(t, "shop/web 10.0.0.1 | a:ready b:ready"), objects(t, "shop/api 10.0.0.2 | a:unready")...), node(t, "a"), admitted(onePeer+onePool))...)
		same(t, "log", logged.Take()[1:], []string{
			`"Began to announce" peers=1 routes=1 withheld=1`,
			`"Not announcing" service="shop/api" address="10.0.0.2" why="no endpoint of the Service can serve, on any node"`})
		times := s.said.times
		s.put(node(t, "a cordoned not-ready"))
		s.put(svc(t, "shop/web 10.0.0.1 | a:ready b:unready").Slices[0])
		refused := admitted(onePeer + onePool)
		refused.Data["refused"] = "hash: def"
		s.put(refused)
		if s.said.times != times+3 {
			t.Errorf("looked %d times, want 3", s.said.times-times)
		}
		s.want("the same", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), nil)
		s.put(node(t, "a network-unavailable"))
		s.want("nothing more", "", "leaf")
		same(t, "log", logged.Take(), []string{
			`"Not announcing" service="shop/api" address="10.0.0.2" why="node a is NetworkUnavailable"`,
			`"Not announcing" service="shop/web" address="10.0.0.1" why="node a is NetworkUnavailable"`})
		s.put(node(t, "a network-available"))
		s.want("all again", "10.0.0.1/32 pref 100", "leaf")
		same(t, "log", logged.Take(), []string{
			`"Not announcing" service="shop/api" address="10.0.0.2" why="no endpoint of the Service can serve, on any node"`,
			`"No longer withheld" service="shop/web" address="10.0.0.1"`})
	})
}

func TestAStatusThatSomebodyWipesTakesNoRouteAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(onePeer+onePool))...)
		logged.Take()
		s.put(svc(t, "shop/web").Service)
		s.want("it is wiped", "10.0.0.1/32 pref 100", "leaf")
		s.put(svc(t, "shop/web 10.0.0.1").Service)
		s.put(svc(t, "shop/web").Service)
		s.want("again", "10.0.0.1/32 pref 100", "leaf")
		const still = `"Still announcing" service="shop/web" address="10.0.0.1" why="it left the status of its Service, and nobody released it: at most 2m0s"`
		same(t, "log", logged.Take(), []string{still, still})
		<-time.After(keptFor)
		synctest.Wait()
		s.want("nobody mends it", "", "leaf")
		s.put(svc(t, "shop/web 10.0.0.1").Service)
		s.put(svc(t, "shop/web deleted").Service)
		s.want("it is released", "", "leaf")
	})
}

func TestOfManyChangesAtOnceTheLogTellsTheNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []runtime.Object{node(t, "a"), admitted(onePeer + onePool)}
		for i := range 50 {
			all = append(all, objects(t, "shop/web-"+string(rune('A'+i))+" 10.0.0.1 | a:ready")...)
		}
		s := enact(t, Options{}, all...)
		logged.Take()
		s.put(node(t, "a network-unavailable"))
		log := logged.Take()
		if len(log) != 21 || log[20] != `"More changes" changes=30 routes=0 withheld=50` {
			t.Errorf("%d lines, at last %q", len(log), log[len(log)-1:])
		}
	})
}

func TestAnExcludedNodeMaySpeakIfTheOperatorSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		excluded := node(t, "a node.kubernetes.io/exclude-from-external-load-balancers=")
		all := append(objects(t, "shop/web 10.0.0.1 | a:ready"), excluded, admitted(onePeer+onePool))
		enact(t, Options{}, all...).want("excluded", "", "leaf")
		s := enact(t, Options{IgnoreExcludeLabel: true}, all...)
		s.want("never mind", "10.0.0.1/32 pref 100", "leaf")
		if _, ok := s.speaker.node.Labels[corev1.LabelNodeExcludeBalancers]; !ok {
			t.Error("the label is gone from what is known")
		}
	})
}

func TestAPeerThatCannotBeSpokenToIsNamedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := strings.Replace(onePeer, "}]", "}, {name: own, peer-address: 10.9.0.2, peer-asn: 64500, my-asn: 64512, source-address: node-ip}]", 1)
		s := enact(t, Options{}, append(objects(t, "shop/web 10.0.0.1 | a:ready"), node(t, "a"), admitted(config+onePool))...)
		s.want("without an address", "10.0.0.1/32 pref 100", "leaf")
		s.put(node(t, "a cordoned"))
		const why = `"Cannot speak yet" why="peer own: source-address is node-ip, and node a has no InternalIP of the peer's IP version"`
		if log := logged.Take(); !slices.Contains(log, why) || len(log) != 3 {
			t.Errorf("log %q", log)
		}
		s.put(node(t, "a internal=10.0.0.7"))
		s.want("with one", "10.0.0.1/32 pref 100", "leaf", "own")
		same(t, "log", logged.Take(), nil)
	})
}

func TestASpeakerAsksForAsLittleAsItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := enact(t, Options{}, node(t, "a"))
		got := map[string]string{}
		for _, a := range s.client.Actions() {
			if list, ok := a.(k8stesting.ListActionImpl); ok {
				got[list.GetNamespace()+"/"+list.GetResource().Resource] = list.ListOptions.FieldSelector + list.ListOptions.LabelSelector
			}
		}
		want := map[string]string{
			"/services":                 "spec.type=LoadBalancer",
			"/endpointslices":           "kubernetes.io/service-name,!service.kubernetes.io/headless",
			"/nodes":                    "metadata.name=a",
			"metallb-system/configmaps": "metadata.name=config-admitted",
		}
		if !maps.Equal(got, want) {
			t.Errorf("listed %q, want %q", got, want)
		}
	})
}
