package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestAnArchiveHasTheProgramAndItsLicence(t *testing.T) {
	for _, system := range systems {
		p := platform{system: system, machine: "arm64"}
		archive, err := p.pack([]byte("program"), []byte("licence"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.pack([]byte("program"), []byte("licence"))
		if err != nil || !bytes.Equal(archive, again) {
			t.Errorf("%s: two archives of the same differ", system)
		}
		var names []string
		if system == "windows" {
			z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range z.File {
				names = append(names, f.Name)
			}
			if want := []string{"kubectl-metallb.exe", "LICENSE"}; !slices.Equal(names, want) {
				t.Errorf("%q", names)
			}
			continue
		}
		g, err := gzip.NewReader(bytes.NewReader(archive))
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(g); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			if h.Name == "kubectl-metallb" && h.Mode != 0o755 {
				t.Errorf("%s has mode %o", h.Name, h.Mode)
			}
		}
		if want := []string{"kubectl-metallb", "LICENSE", "kubectl_complete-metallb"}; !slices.Equal(names, want) {
			t.Errorf("%q", names)
		}
	}
}

func TestTheManifestNamesEveryArchive(t *testing.T) {
	var all []platform
	for _, system := range systems {
		for _, machine := range machines {
			all = append(all, platform{system, machine, strings.Repeat("0", 64)})
		}
	}
	var m struct {
		Metadata struct{ Name string }
		Spec     struct {
			Version          string
			ShortDescription string `yaml:"shortDescription"`
			Platforms        []struct {
				Selector struct {
					MatchLabels map[string]string `yaml:"matchLabels"`
				}
				URI    string
				SHA256 string
				Bin    string
				Files  []struct{ From, To string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(manifest("v1.2.3", "https://example.com/v1.2.3", all)), &m); err != nil {
		t.Fatal(err)
	}
	// Krew wants a description of at most 50 characters.
	if m.Metadata.Name != "metallb" || m.Spec.Version != "v1.2.3" || len(m.Spec.Platforms) != 6 || len(m.Spec.ShortDescription) > 50 {
		t.Fatalf("%+v", m)
	}
	for i, p := range m.Spec.Platforms {
		is := all[i]
		if p.URI != "https://example.com/v1.2.3/"+is.archive() || p.Selector.MatchLabels["os"] != is.system || p.Selector.MatchLabels["arch"] != is.machine ||
			len(p.SHA256) != 64 || p.Bin != is.program() || p.Files[0].From != p.Bin {
			t.Errorf("%+v", p)
		}
	}
}

func TestTheProgramIsLinkedAsTheMakefileLinksIt(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"STAMP := -X k8s.io/component-base/version.gitVersion=$(VERSION)\n", "LINK := -s -w $(STAMP)\n"} {
		if !strings.Contains(string(makefile), text) {
			t.Errorf("the Makefile has no line %q: change compile as well", text)
		}
	}
}
