package network

import (
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// GoBGP is GoBGP's server, which runs in this process and listens in a namespace. It routes nothing.
type GoBGP struct {
	*Namespace
	Router *router.Router
}

// GoBGP starts GoBGP's server inside. One thread stays in the namespace for as long as this process lives, because the server's main
// loop never ends.
func (ns *Namespace) GoBGP(o router.Options) (*GoBGP, error) {
	o.Serve = func(serve func()) {
		go func() {
			_ = ns.Do(func() error { serve(); return nil })
		}()
	}
	r, err := router.Start(o)
	if err != nil {
		return nil, err
	}
	g := &GoBGP{Namespace: ns, Router: r}
	ns.network.mu.Lock()
	ns.network.routers = append(ns.network.routers, g)
	ns.network.mu.Unlock()
	return g, nil
}
