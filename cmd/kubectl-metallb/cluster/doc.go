// Package cluster takes snapshots of an installation: live, from an API server, or from a folder that an earlier one was kept in.
//
// A snapshot has what answers need, and no more: no Secret, no password, nothing that a Pod was started with but its flags. What
// may not be read is noted in it, with the verb that would have to be allowed, and does not keep the rest from being read.
package cluster
