package loadbalancer

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Reason is why a Service does not have all that it asks for. The zero Reason is none. It is a value that costs nothing to
// make and can be compared; String finds the words, which users read.
type Reason struct {
	Cause Cause
	// Addr is the address in question, of pool Pool; Other is another, of OtherPool.
	Addr, Other     netip.Addr
	Pool, OtherPool string
	Family          Family
	pools           string // some pools, in words
	withheld        int    // addresses that these or Pool would hand out, were they not in use by others
	reserved        int    // addresses of these or Pool that are kept for certain Services

	Namespace  string // of the Service, which has so many addresses of Pool and may have so many
	has, quota int

	// Holder is the Service that holds Addr, Port the one that both use.
	Holder string
	Port   Port
	// Foreign is set if the Holder is of another namespace than the Service, whose user may not know its name.
	Foreign bool

	// GivenUp is an address that the Service holds and that the operator took away from the pools.
	GivenUp netip.Addr
	text    string // of Invalid
}

// A Cause is the kind of a Reason: what is in the way and what to do, where words in braces stand for fields of the Reason.
type Cause string

// The causes that lie in the request and in the pools.
const (
	NoCause          Cause = ""
	Invalid          Cause = "{text}"
	OfNoPool         Cause = "no pool owns address {addr}: ask for an address of {pools}, or add it to a pool"
	OfOtherPool      Cause = "address {addr} belongs to pool {pool}, and the Service asks for pool {other pool}: change one of the two"
	OfTwoPools       Cause = "address {addr} belongs to pool {pool}, and {other} to pool {other pool}: ask for two of one pool"
	NotHandedOut     Cause = "pool {pool} does not hand out addresses that end in .0 or .255, such as {addr}: ask for another, or set avoid-buggy-ips to false"
	Excluded         Cause = "pool {pool} excludes address {addr}: ask for another, or take it out of exclude"
	Reserved         Cause = "pool {pool} reserves address {addr} for {holder}: ask for another"
	InHoldDown       Cause = "address {addr} was freed a short time ago, and hold-down of pool {pool} keeps it for {holder}: ask for another, or wait"
	OverQuota        Cause = "namespace {namespace} holds {has} of pool {pool}, which allows it {quota}: delete a Service, or ask for a larger quota"
	OfInfrastructure Cause = "address {addr} is in use by a router, a Node, or a Service that is not ours: ask for another"
	AddressNotFor    Cause = "address {addr} belongs to pool {pool}, which is not for this Service: ask for another, or change its namespaces or service-selectors"
	AddressOfOthers  Cause = "address {addr} belongs to a pool that is not for this Service: ask for another, or change its namespaces or service-selectors"
	PoolNotFor       Cause = "pool {pool} is not for this Service: ask for another, or change its namespaces or service-selectors"
	NoSuchPool       Cause = "no pool is named {pool}: ask for {pools}"
	NoPools          Cause = "no address pool is configured: add one to address-pools"
	OnRequestOnly    Cause = "no pool hands out addresses without request: annotate the Service with metallb.universe.tf/address-pool"
	NoPoolFor        Cause = "no pool is for this Service: change its labels, or let it into {pools} by namespaces or service-selectors"
	NoFamily         Cause = "there is no {family}address in {pools}: add some, or change spec.ipFamilies"
	NoneFree         Cause = "no free {family}address in {pools}{withheld}: add addresses, or delete a Service that holds one"
	PoolFull         Cause = "pool {pool} has no free {family}address{withheld}: add addresses to it, or delete a Service that holds one"
	NoPairFree       Cause = "no free IPv4 and IPv6 address in {pools}{withheld}: add addresses of both, or set spec.ipFamilyPolicy to PreferDualStack"
	NoneBeside       Cause = "pool {pool} has no free {family}address beside {addr}{withheld}: add some to it, or ask for another pool"
	NoPoolBeside     Cause = "no pool owns address {addr}, and so none has an {family}address beside it: add it to a pool that has both"
	CameWith         Cause = "the Service asks for pool {pool} and came with address {addr}, which is kept: to move it there, remove annotation metallb.universe.tf/address-pool and write it again"
)

// How what a Service holds may be at odds with reservations. It keeps that.
const (
	HoldsReserved Cause = "pool {pool} reserves address {addr} for {holder}: this Service had it before, and keeps it until it is deleted or asks for another"
	HoldsOther    Cause = "pool {pool} reserves address {addr} for this Service, which keeps {other}: ask for {addr}, or remove the reservation"
)

// The causes that lie in how a Service that asks for an address stands to one that holds it. Two that are excluded cannot use one
// address at once; the others could, and only those without a cause may.
const (
	BothAlone      Cause = held + ": ask for another, or delete that Service"                              // excluded
	SamePort       Cause = held + ", and both use {port}: use different ports, or ask for another address" // excluded
	RequestAlone   Cause = held + ", which shares it: ask for another, or annotate this Service with the same metallb.universe.tf/allow-shared-ip"
	HolderAlone    Cause = held + ", which does not share it: ask for another, or annotate that Service with the same metallb.universe.tf/allow-shared-ip"
	OtherKey       Cause = held + ", which shares it under another key: ask for another, or give both the same metallb.universe.tf/allow-shared-ip"
	OtherPolicy    Cause = held + ", whose externalTrafficPolicy is another: give both the same, or ask for another address"
	OtherSelector  Cause = held + ", whose selector is another: with externalTrafficPolicy Local, give both the same, or ask for another address"
	NoSelector     Cause = held + ", and with externalTrafficPolicy Local neither has a selector: ask for another, or give both the same selector"
	OtherReadiness Cause = held + ", whose publishNotReadyAddresses is another: give both the same, or ask for another address"
	OtherNamespace Cause = held + ": ask for another, or set share-across-namespaces of pool {pool}"

	held = "address {addr} is held by {holder}"
)

func (c Cause) excludes() bool { return c == BothAlone || c == SamePort }

// Same reports whether a user who knows one reason learns nothing from the other: that another Service holds the address by
// now is no news.
func (r Reason) Same(s Reason) bool {
	r.Holder, r.Foreign, s.Holder, s.Foreign = "", false, "", false
	return r == s
}

// None reports whether there is no reason.
func (r Reason) None() bool { return r.Cause == NoCause }

// String says what is in the way and what to do. It names no Service of another namespace.
func (r Reason) String() string {
	text := r.fill(string(r.Cause))
	if r.GivenUp.IsValid() {
		text = fmt.Sprintf("address %s belongs to no pool any more and is not announced: %s", r.GivenUp, text)
	}
	return text
}

// Apart says with whom the Service does not share, as a remark beside the address that it got.
func (r Reason) Apart() string {
	return r.fill("not shared with {holder}, because ") + map[Cause]string{
		OtherPolicy:   "its externalTrafficPolicy is another",
		OtherSelector: "with externalTrafficPolicy Local, its selector is another",
		NoSelector:    "with externalTrafficPolicy Local, neither has a selector",
	}[r.Cause]
}

// fill writes the fields of the Reason into a text.
func (r Reason) fill(text string) string {
	family, holder, withheld, has := "", "service "+r.Holder, "", fmt.Sprintf("%d addresses", r.has)
	if r.has == 1 {
		has = "1 address"
	}
	if r.Family != 0 {
		family = r.Family.String() + " "
	}
	if r.Foreign {
		holder = "a Service of another namespace"
	}
	if r.withheld > 0 {
		withheld = fmt.Sprintf(" (%d used by routers, Nodes or Services that are not ours)", r.withheld)
	}
	if r.reserved > 0 {
		withheld += fmt.Sprintf(" (%d reserved)", r.reserved)
	}
	return strings.NewReplacer(
		"{addr}", r.Addr.String(), "{pool}", strconv.Quote(show(r.Pool)), "{pools}", r.pools, "{withheld}", withheld, "{family}", family,
		"{namespace}", r.Namespace, "{has}", has, "{quota}", strconv.Itoa(r.quota),
		"{other}", r.Other.String(), "{other pool}", strconv.Quote(show(r.OtherPool)), "{text}", r.text,
		"{holder}", holder, "{port}", fmt.Sprintf("%s port %d", r.Port.Protocol, r.Port.Number),
	).Replace(text)
}

// someOf names pools for a text. It names a few only: the operator knows the others.
func someOf(pools []string) string {
	const most = 5
	var all []string
	for _, name := range pools[:min(len(pools), most)] {
		all = append(all, fmt.Sprintf("%q", show(name)))
	}
	switch {
	case len(pools) == 0:
		return "a pool that exists"
	case len(pools) == 1:
		return "pool " + all[0]
	case len(pools) > most:
		all = append(all, "…")
	}
	return "one of the pools " + strings.Join(all, ", ")
}
