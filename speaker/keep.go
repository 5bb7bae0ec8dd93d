package speaker

import (
	"net/netip"
	"slices"
	"time"
)

// keptFor is how long an address is announced that left the status of its Service for no reason: longer than the controller
// manager waits before it writes the status again which another controller overwrites time after time.
const keptFor = 2 * time.Minute

// A shown is an address of our pools that a status shows, or showed.
type shown struct {
	addr netip.Addr
	left time.Time // when the status showed it no more; zero while it does
}

// keep returns the addresses that a Service keeps, what to remember of it, and when the first of the kept has been kept for
// long enough; zero if none is. last is what was remembered of the same Service, by its UID, and others reports whether
// the status of some Service shows an address.
//
// Whoever wipes a status must not be able to take routes away, so an address that left it is kept while nobody has released
// it: the Service exists, is ours and not being deleted, its status shows no other address of that family from our pools,
// its ipFamilies still name the family, and no other Service shows the address.
func (w *world) keep(now time.Time, last []shown, r *record, others func(netip.Addr) bool) (kept []netip.Addr, next []shown, wake time.Time) {
	if !w.serves(r) || r.dying {
		return nil, nil, wake
	}
	for _, addr := range r.addrs {
		if w.config.Pool(addr) != nil {
			next = append(next, shown{addr: addr})
		}
	}
	for _, s := range last {
		if slices.ContainsFunc(next, func(t shown) bool { return t.addr.Is4() == s.addr.Is4() }) ||
			!r.wants[familyOf(s.addr)] || w.config.Pool(s.addr) == nil || others(s.addr) {
			continue
		}
		if s.left.IsZero() {
			s.left = now
		}
		if until := s.left.Add(keptFor); now.Before(until) {
			kept, next = append(kept, s.addr), append(next, s)
			wake = earlier(wake, until)
		}
	}
	return kept, next, wake
}
