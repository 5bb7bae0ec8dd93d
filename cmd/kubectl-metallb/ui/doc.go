// Package ui is the looking glass: a page in the browser of whoever runs the plugin, on what the commands print.
//
// It serves on 127.0.0.1 only, and only to the browser that came first with the one-time token of the printed URL. Every answer is
// the value that a command prints with -o json, with that command beside it; nothing here decides or writes anything. However many
// requests come, the cluster is read once at a time, and what was read is good for a few seconds.
package ui
