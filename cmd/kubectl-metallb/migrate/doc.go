// Package migrate turns the custom resources of MetalLB into a configuration of ours, and tells what that changes.
//
// Resources go in, as files or an API server show them; a commented text comes out, and a remark for everything that is not the same
// afterwards. Nothing is dropped silently: whatever field nobody has read is a remark. The text is read again before it is handed out, so
// that it is one that the controller manager admits.
//
// It only computes: it reads no files, and asks nobody.
package migrate
