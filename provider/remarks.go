package provider

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// What may be said to the user of a Service about its routes.
const (
	badAnnotation = iota
	notAllowed
	notAgreed
)

// A remark is one of these, in words.
type remark struct {
	what int
	text string
}

// Remarks are what the users of Services are told of their routes, each once. Speakers decide about routes; that two Services under
// one prefix do not ask for the same, nobody sees better than who knows all of them. They only compute.
type remarks struct {
	config *loadbalancer.Config
	known  map[types.UID]*corev1.Service
	under  map[netip.Prefix]*neighbors
	told   map[types.UID][]remark
}

// Neighbors are the Services with an address under a prefix of a pool where they may ask for something, and what they ask for.
type neighbors struct {
	members map[types.UID]bool
	asks    map[loadbalancer.Asks]int
}

func (n *neighbors) differ() bool { return n != nil && len(n.asks) > 1 }

// News are the remarks that are new to a Service.
type news struct {
	service *corev1.Service
	remark
}

func newRemarks() *remarks {
	return &remarks{known: map[types.UID]*corev1.Service{}, under: map[netip.Prefix]*neighbors{}, told: map[types.UID][]remark{}}
}

// configure puts a configuration in force, for these Services.
func (r *remarks) configure(config *loadbalancer.Config, services []*corev1.Service) (all []news) {
	r.config, r.under, r.known = config, map[netip.Prefix]*neighbors{}, map[types.UID]*corev1.Service{}
	for _, svc := range services {
		r.known[svc.UID] = svc
		r.count(svc, 1)
	}
	for uid := range r.told {
		if r.known[uid] == nil {
			delete(r.told, uid)
		}
	}
	for _, svc := range services {
		all = append(all, r.tell(svc.UID)...)
	}
	return all
}

// see takes note of a Service; is is nil if it went, or is not ours any more.
func (r *remarks) see(uid types.UID, is *corev1.Service) (all []news) {
	was := r.known[uid]
	before := map[netip.Prefix]bool{}
	for _, svc := range []*corev1.Service{was, is} {
		for prefix := range r.asks(svc) {
			before[prefix] = r.under[prefix].differ()
		}
	}
	r.count(was, -1)
	r.count(is, 1)
	if r.known[uid] = is; is == nil {
		delete(r.known, uid)
		delete(r.told, uid)
	} else {
		all = r.tell(uid)
	}
	for prefix, differed := range before {
		if n := r.under[prefix]; n.differ() != differed {
			for _, neighbor := range slices.Sorted(maps.Keys(n.members)) {
				all = append(all, r.tell(neighbor)...)
			}
		}
	}
	return all
}

// asks returns what a Service asks for that is to be announced, by prefix.
func (r *remarks) asks(svc *corev1.Service) map[netip.Prefix]loadbalancer.Asks {
	if svc == nil || r.config == nil || svc.DeletionTimestamp != nil {
		return nil
	}
	all := map[netip.Prefix]loadbalancer.Asks{}
	yes, _, _ := service.Advertised(svc)
	communities, _, _ := service.Communities(svc)
	for _, addr := range service.Addresses(svc) {
		if pool := r.config.Pool(addr); pool != nil && yes && !pool.Unadvertised && pool.Listens() && pool.Selects(svc.Labels) {
			for i := range pool.Advertisements {
				all[pool.Advertisements[i].Prefix(addr)] = pool.Asks(svc.Labels, communities, false)
			}
		}
	}
	return all
}

func (r *remarks) count(svc *corev1.Service, by int) {
	for prefix, asks := range r.asks(svc) {
		n := r.under[prefix]
		if n == nil {
			n = &neighbors{map[types.UID]bool{}, map[loadbalancer.Asks]int{}}
			r.under[prefix] = n
		}
		if n.asks[asks] += by; n.asks[asks] == 0 {
			delete(n.asks, asks)
		}
		if n.members[svc.UID] = true; by < 0 {
			delete(n.members, svc.UID)
		}
		if len(n.members) == 0 {
			delete(r.under, prefix)
		}
	}
}

// tell returns what is to be said to the user of a Service and was not said last.
func (r *remarks) tell(uid types.UID) (all []news) {
	svc := r.known[uid]
	now := r.of(svc)
	for _, remark := range now {
		if !slices.Contains(r.told[uid], remark) {
			all = append(all, news{svc, remark})
		}
	}
	if r.told[uid] = now; now == nil {
		delete(r.told, uid)
	}
	return all
}

// of returns what is to be said of a Service.
func (r *remarks) of(svc *corev1.Service) (all []remark) {
	names, where, unclear := service.Communities(svc)
	_, _, unread := service.Advertised(svc)
	for _, err := range []error{unclear, unread} {
		if err != nil {
			all = append(all, remark{badAnnotation, err.Error()})
		}
	}
	if r.config == nil {
		return all
	}
	for _, addr := range service.Addresses(svc) {
		pool := r.config.Pool(addr)
		if pool == nil {
			continue
		}
		var not []string
		for _, name := range names {
			if pool.ServiceCommunities[name] == nil {
				not = append(not, service.Short(name))
			}
		}
		if is := (remark{notAllowed, fmt.Sprintf("annotation %s: pool %q does not let Services add %s: ask for service-communities there, or remove it; what else the annotation names is sent",
			where, pool.Name, strings.Join(not[:min(len(not), 3)], ", "))}); len(not) > 0 && !slices.Contains(all, is) {
			all = append(all, is)
		}
	}
	asks := r.asks(svc)
	for _, prefix := range slices.SortedFunc(maps.Keys(asks), netip.Prefix.Compare) {
		if r.under[prefix].differ() {
			all = append(all, remark{notAgreed, fmt.Sprintf("the Services under %s do not ask for the same, by their labels or by annotation communities: nobody's communities are added there, and the first advertisement in the text counts that selects one of them", prefix)})
		}
	}
	return all
}

// tell says it.
func (c *Cloud) tell(all []news) {
	for _, n := range all {
		switch n.what {
		case badAnnotation:
			c.record.Eventf(n.service, corev1.EventTypeWarning, "UnknownAnnotation", "%s", n.text)
		case notAllowed:
			c.record.Eventf(n.service, corev1.EventTypeWarning, "CommunityNotAllowed", "%s", n.text)
		case notAgreed:
			c.record.Eventf(n.service, corev1.EventTypeWarning, "PrefixNotAgreed", "%s", n.text)
		}
	}
}
