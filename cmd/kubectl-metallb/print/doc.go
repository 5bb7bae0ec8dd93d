// Package print shows answers to people: in tables and sentences for a terminal, as JSON or YAML for programs, and as annotations for
// GitHub's pages.
//
// Every line that was computed says intended, and every line that a speaker told says sent.
package print
