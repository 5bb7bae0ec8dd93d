package speaker

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// keptFor is how long an address is announced that left the status of its Service for no reason: longer than the controller
// manager waits before it writes the status again which another controller overwrites time after time.
const keptFor = 2 * time.Minute

// A holder is a Service. One that is created anew under its name is another.
type holder struct {
	uid     types.UID
	service string
}

// A shown is an address of our pools that a status shows, or showed.
type shown struct {
	addr netip.Addr
	left time.Time // when the status showed it no more; zero while it does
}

// keep returns the services with the addresses that each keeps, what to remember, and when the first of those has been kept
// for long enough; zero if none is kept. services are all that there are, in any order.
//
// Whoever wipes a status must not be able to take routes away, so an address that left it is kept while nobody has released
// it: the Service exists, is ours and not being deleted, its status shows no other address of that family from our pools,
// its ipFamilies still name the family, and no other Service shows the address.
func keep(now time.Time, last map[holder][]shown, config *loadbalancer.Config, ours service.Ours, services []Service) (
	kept []Service, next map[holder][]shown, wake time.Time) {
	kept, next = services, make(map[holder][]shown, len(services))
	var others map[netip.Addr]bool // what statuses show
	for i, svc := range services {
		if !ours.Serves(svc.Service) || dying(svc.Service) != "" {
			continue
		}
		var all []shown
		for _, addr := range service.Addresses(svc.Service) {
			if config.Pool(addr) != nil {
				all = append(all, shown{addr: addr})
			}
		}
		id := holder{svc.UID, service.Name(svc.Service)}
		for _, s := range last[id] {
			if slices.ContainsFunc(all, func(t shown) bool { return t.addr.Is4() == s.addr.Is4() }) || !names(svc.Service, s.addr) || config.Pool(s.addr) == nil {
				continue
			}
			if s.left.IsZero() {
				s.left = now
			}
			if others == nil {
				others = make(map[netip.Addr]bool, len(services))
				for _, other := range services {
					for _, addr := range service.Addresses(other.Service) {
						others[addr] = true
					}
				}
			}
			if until := s.left.Add(keptFor); now.Before(until) && !others[s.addr] {
				if len(kept) > 0 && &kept[0] == &services[0] {
					kept = slices.Clone(services)
				}
				kept[i].Kept = append(kept[i].Kept, s.addr)
				all = append(all, s)
				wake = earlier(wake, until)
			}
		}
		if all != nil {
			next[id] = all
		}
	}
	return kept, next, wake
}

// names reports whether the Service wants the address's family. The API server fills in the families of every Service.
func names(svc *corev1.Service, addr netip.Addr) bool {
	family := corev1.IPv6Protocol
	if addr.Is4() {
		family = corev1.IPv4Protocol
	}
	return len(svc.Spec.IPFamilies) == 0 || slices.Contains(svc.Spec.IPFamilies, family)
}
