package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// streamless is for a program that is looked at, and not run.
var streamless genericiooptions.IOStreams

// pages are those of the documentation, by their paths.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatal("there are no pages", err)
	}
	all := map[string]string{}
	for _, path := range append(paths, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	}
	return all
}

// What the documentation shows of the plugin, the plugin prints.
func TestTheDocumentationShowsWhatTheCommandsPrint(t *testing.T) {
	paths, err := filepath.Glob("testdata/stories/*.golden")
	if err != nil || len(paths) == 0 {
		t.Fatal(err)
	}
	var printed strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		printed.Write(text)
	}
	looked := 0
	for path, text := range pages(t) {
		for _, m := range regexp.MustCompile("(?s)```text\n(\\$ kubectl metallb.*?)\n```").FindAllStringSubmatch(text, -1) {
			if looked++; !strings.Contains(printed.String(), m[1]+"\n") {
				t.Errorf("%s shows what no story prints:\n%s", path, m[1])
			}
		}
	}
	if looked == 0 {
		t.Error("no page shows an answer: this test looks at nothing")
	}
}

// Commands that the documentation names exist, with the flags that it gives them; and it names all of them.
func TestTheDocumentationNamesTheCommandsThatThereAre(t *testing.T) {
	named := map[string]bool{}
	for path, text := range pages(t) {
		for _, m := range regexp.MustCompile("kubectl metallb( [^`|\n;]*)?").FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			if len(words) == 0 || !regexp.MustCompile(`^[a-z-]+$`).MatchString(words[0]) {
				continue // prose that goes on
			}
			root := newPlugin(streamless).root()
			root.InitDefaultHelpFlag()
			command, rest, err := root.Find(words)
			if err != nil || command == root {
				t.Errorf("%s: %s: %v", path, m[0], err)
				continue
			}
			named[command.CommandPath()] = true
			if err := command.ParseFlags(rest); err != nil {
				t.Errorf("%s: %s: %v", path, m[0], err)
			}
		}
	}
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if look(sub); !sub.HasSubCommands() && !named[sub.CommandPath()] {
				t.Errorf("no page names %s", sub.CommandPath())
			}
		}
	}
	look(newPlugin(streamless).root())
}

// The page of the plugin lists every command, in the order of the program's help or its own.
func TestThePageListsEveryCommand(t *testing.T) {
	text := pages(t)["../../docs/kubectl.md"]
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `kubectl metallb ([a-z]+)").FindAllStringSubmatch(text, -1) {
		rows = append(rows, m[1])
	}
	for _, c := range newPlugin(streamless).root().Commands() {
		if !slices.Contains(rows, c.Name()) {
			t.Errorf("docs/kubectl.md does not list %s", c.Name())
		}
	}
}
