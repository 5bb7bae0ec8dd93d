// Package speaker decides what one node tells its routers, and keeps them told.
//
// Announcements is the whole policy: a function of the admitted configuration, the node, and the Services with their
// endpoints. It returns the routes and, for each address that this node does not announce, the reason in words. Peers says
// to which routers the node speaks, and Successor what a SIGTERM means.
//
// What needs time is computed as well, from the time, what routers were told, and what they should be told now: how soon a
// changed weight is sent, how long kube-proxy gets to notice the first pod of a node, how long an address is kept that left
// its status without being released, and when the routes of a node that is being drained are withdrawn. Drained says whether
// it is.
//
// Speaker is the loop around them. It watches the API server, and whenever something changes it hands the whole desired
// set to an Announcer, which finds the difference.
package speaker
