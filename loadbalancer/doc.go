// Package loadbalancer knows which addresses exist, which Service holds each, and what routers should hear about them.
//
// It has three parts. Parse turns the operator's text into a Config whose types carry guarantees, so that nothing
// downstream validates again. Allocator is the one truth about which Service holds which address. Config.Routes says
// what routers should hear about an address.
//
// It only computes. It does not talk to Kubernetes or to routers, start goroutines, log, or look at the clock;
// packages provider and speaker do that, and agree with each other because both ask this one.
package loadbalancer

// Class is the spec.loadBalancerClass of Services that name this implementation among several.
const Class = "metallb.universe.tf/metallb"
