// Package speaker decides what one node tells its routers, and keeps them told.
//
// Announcements is the whole policy: a function of the admitted configuration, the node, and the Services with their
// endpoints. It returns the routes and, for each address that this node does not announce, the reason in words. It is made of
// two: offers says what one Service asks for and why not, and settle what becomes of all that is asked for under one prefix.
// Peers says to which routers the node speaks, and Successor what a SIGTERM means.
//
// What needs time is computed as well, for one Service or one prefix, from the time, what was before, and what should be now:
// how soon a changed weight is sent, how long kube-proxy gets to notice the first pod of a node, how long an address is kept
// that left its status without being released. Drained says whether the node is being drained, and a drain when its routes are
// withdrawn.
//
// A change costs what it changes: decisions keep the offers by Service and by prefix, and look again at those Services of
// which something was heard, at the prefixes of offers that are others now, and at what is due. Only another configuration and
// another node make them look at everything. What is kept of Services and EndpointSlices are small records.
//
// Speaker is the loop around them. It watches the API server, and hands the prefixes that changed to an Announcer.
package speaker
