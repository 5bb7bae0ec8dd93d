package network

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// A Session is what a router knows about a session of its own.
type Session struct {
	Up bool
	// Complete: the peer has sent End-of-RIB, so that nothing is left from before a restart of the peer.
	Complete bool
	// History is another one after the session came up or went down.
	History string
	// Updates counts the UPDATE messages that the peer has sent, in all sessions. BIRD does not count them.
	Updates int
	// Changes counts the announcements and withdrawals of prefixes in them since the session came up. FRR does not count them.
	Changes int
}

// A Router is FRR or BIRD, started in a namespace.
type Router interface {
	// Session tells about the session with a neighbor. One that the router does not know is an error.
	Session(ctx context.Context, neighbor netip.Addr) (Session, error)
	// Table is everything that was learned by BGP, best paths and others, sorted by prefix and next hop; From is unknown. FRR's has its
	// own routes as well.
	Table(ctx context.Context) ([]router.Path, error)
	// Routes are those that the router has put into the kernel.
	Routes(ctx context.Context) (map[netip.Prefix][]Hop, error)
	// Record records how those change.
	Record() (*Recorder, error)
	fmt.Stringer
}

func sortTable(paths []router.Path) {
	slices.SortFunc(paths, func(a, b router.Path) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), a.NextHop.Compare(b.NextHop))
	})
}
