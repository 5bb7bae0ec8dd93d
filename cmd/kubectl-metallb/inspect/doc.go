// Package inspect answers an operator's questions about one installation: who announces what, why not, and what an edit would do.
//
// It only computes, from a Snapshot of what the API server says to values with their reasons. The decisions are those of the
// controller manager and the speakers themselves: it calls the same functions for every node. So an answer says what is intended;
// what a speaker has really sent only that speaker can tell.
//
// It reads nothing, writes nothing, and does not look at the clock: package cluster takes snapshots, package print shows answers.
package inspect
