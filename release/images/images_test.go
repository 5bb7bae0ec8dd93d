package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

const version = "v1.2.3-test.4"

// made is the folder with the archives of the work tree, which all tests look at.
var made string

func TestMain(m *testing.M) {
	made, _ = os.MkdirTemp("", "images-test-")
	code := m.Run()
	os.RemoveAll(made)
	os.Exit(code)
}

// Making them takes five minutes for each platform if nothing is in Go's cache, and else seconds.
var makeImages = sync.OnceValue(func() error {
	return run(context.Background(), []string{"--version", version, "--source", "../..", "--sbom", "--out", made})
})

func images(t *testing.T) string {
	t.Helper()
	if err := makeImages(); err != nil {
		t.Fatal(err)
	}
	return made
}

// Whatever folder and settings of Go they are made in.
func TestTheSameSourceGivesTheSameBytesInAnotherFolder(t *testing.T) {
	here := images(t)
	clone := filepath.Join(t.TempDir(), "a", "clone")
	shell(t, "../..", `git clone --quiet . "$0" && git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -cT - | tar -x -C "$0"`, clone)
	t.Setenv("GOAMD64", "v3")
	t.Setenv("GOFLAGS", "-tags=other")
	there := filepath.Join(t.TempDir(), "made")
	if err := run(t.Context(), []string{"--version", version, "--source", clone, "--sbom", "--out", there}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(here)
	if err != nil || len(files) != 2*len(programs) {
		t.Fatalf("%d files were made, want an archive and a bill of materials of each of %d programs: %v", len(files), len(programs), err)
	}
	for _, f := range files {
		if !bytes.Equal(read(t, filepath.Join(here, f.Name())), read(t, filepath.Join(there, f.Name()))) {
			t.Errorf("%s differs", f.Name())
		}
	}
}

func TestAnImageHoldsAStaticProgramAndLicencesAndIsNotRoot(t *testing.T) {
	machines := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
	for _, p := range programs {
		all := platforms(t, p.name)
		if got := slices.Sorted(maps.Keys(all)); !slices.Equal(got, slices.Sorted(maps.Keys(machines))) {
			t.Errorf("%s is for %q", p.name, got)
		}
		for platform, image := range all {
			at := p.name + " for " + platform
			config, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if c := config.Config; !slices.Equal(c.Entrypoint, []string{"/" + p.name}) || c.User != "65532:65532" || c.WorkingDir != "/" || c.Cmd != nil || c.Env != nil {
				t.Errorf("%s starts as %+v", at, c)
			}
			if config.Platform().String() != platform {
				t.Errorf("%s says that it is for %s", at, config.Platform())
			}
			manifest, err := image.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"title", "description", "source", "version", "revision", "licenses"} {
				key = "org.opencontainers.image." + key
				if text := config.Config.Labels[key]; text == "" || manifest.Annotations[key] != text {
					t.Errorf("%s: label %s is %q, and the annotation %q", at, key, text, manifest.Annotations[key])
				}
			}
			content, listing := files(t, image)
			want := []string{"-r--r--r-- 0:0 LICENSE", "-r--r--r-- 0:0 LICENSES-OF-OTHERS", "-r-xr-xr-x 0:0 " + p.name}
			if !slices.Equal(listing, want) {
				t.Errorf("%s holds %q, want %q", at, listing, want)
			}
			program, err := elf.NewFile(bytes.NewReader(content[p.name]))
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			if program.Machine != machines[platform] {
				t.Errorf("%s is a program for %s", at, program.Machine)
			}
			for _, part := range program.Progs {
				if part.Type == elf.PT_INTERP || part.Type == elf.PT_DYNAMIC {
					t.Errorf("%s is not static: it has %s", at, part.Type)
				}
			}
		}
	}
}

func TestTheProgramsSayTheirVersion(t *testing.T) {
	for _, p := range programs {
		content, _ := files(t, platforms(t, p.name)["linux/"+runtime.GOARCH])
		path := filepath.Join(t.TempDir(), p.name)
		if err := os.WriteFile(path, content[p.name], 0o755); err != nil {
			t.Fatal(err)
		}
		if said := shell(t, ".", `"$0" --version`, path); !strings.HasSuffix(strings.TrimSpace(said), " "+version) {
			t.Errorf("%s says %q", p.name, said)
		}
	}
}

// What is compiled into a program stands in its bill of materials and in its licences, on either platform.
func TestEveryModuleInAProgramIsListedAndHasItsLicence(t *testing.T) {
	for _, p := range programs {
		var bill struct {
			Components []struct{ Name, Version string }
		}
		if err := json.Unmarshal(read(t, filepath.Join(images(t), p.name+".cdx.json")), &bill); err != nil {
			t.Fatal(err)
		}
		listed := map[string]bool{}
		for _, c := range bill.Components {
			if c.Name != "std" {
				listed[c.Name+"@"+c.Version] = true
			}
		}
		for platform, image := range platforms(t, p.name) {
			content, _ := files(t, image)
			program, err := buildinfo.Read(bytes.NewReader(content[p.name]))
			if err != nil {
				t.Fatal(err)
			}
			licences := string(content["LICENSES-OF-OTHERS"])
			held := map[string]bool{}
			for _, module := range program.Deps {
				held[module.Path+"@"+module.Version] = true
				if !strings.Contains(licences, "\n===== "+module.Path+"@"+module.Version+"/") {
					t.Errorf("%s for %s has no licence of %s", p.name, platform, module.Path)
				}
			}
			if !maps.Equal(held, listed) || len(held) == 0 {
				t.Errorf("%s for %s holds the modules\n%q, and its bill of materials lists\n%q", p.name, platform,
					slices.Sorted(maps.Keys(held)), slices.Sorted(maps.Keys(listed)))
			}
			if strings.Contains(strings.ToUpper(licences), "GENERAL PUBLIC LICENSE\n") || !strings.Contains(licences, "===== Go/LICENSE\n") {
				t.Errorf("%s for %s: a licence of the GNU project, or none of Go", p.name, platform)
			}
		}
	}
}

func TestTheMakefileLinksInTheSameWay(t *testing.T) {
	want := "-ldflags '" + release{version: version}.link() + "'"
	if got := shell(t, "../..", `make -n build VERSION="$0"`, version); !strings.Contains(got, want) {
		t.Errorf("make build is\n%swant %s", got, want)
	}
}

func TestWhatCannotBeMadeSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		args []string
		err  string
	}{
		{nil, "use: images --version"},
		{[]string{"--version", "1.2.3", "--out", "x"}, `--version "1.2.3": use vX.Y.Z`},
		{[]string{"--version", "v1.2.3+4", "--out", "x"}, "use vX.Y.Z"},
		{[]string{"--version", version, "--out", t.TempDir(), "--source", "."}, "--source"},
		{[]string{"--version", version, "--out", t.TempDir(), "--source", "../..", "--platform", "linux/riscv64"}, "use linux/amd64 or linux/arm64"},
	} {
		if err := run(t.Context(), test.args); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: %v, want %q", test.args, err, test.err)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := newRelease(t.Context(), "../..", "r", version); err == nil {
		t.Error("yesterday is a time")
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	if r, err := newRelease(t.Context(), "../..", "r", version); err != nil || r.time.Unix() != 1000000000 {
		t.Errorf("SOURCE_DATE_EPOCH=1000000000 made %s: %v", r.time, err)
	}
}

// The release workflow's commands, against a registry of ours.
func TestAReleaseIsPushedWholeOrNotAtAllAndThenSigned(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	to := strings.TrimPrefix(server.URL, "http://") + "/metallb"

	work := t.TempDir()
	archives, chart := filepath.Join(work, "images"), filepath.Join(work, "chart")
	if err := os.CopyFS(archives, os.DirFS(images(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(chart, 0o755); err != nil {
		t.Fatal(err)
	}
	push := func(version, chartVersion string) (string, error) {
		text := fmt.Sprintf("apiVersion: v2\nname: metallb\nversion: %s\nappVersion: v%s\n", chartVersion, chartVersion)
		if err := os.WriteFile(filepath.Join(chart, "Chart.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", "../..", "push", "VERSION="+version, "REGISTRY="+to)
		cmd.Env = append(os.Environ(), "IMAGES="+archives, "CHART="+chart, "HOME="+work, "GOPATH="+goEnv(t, "GOPATH"), "GOCACHE="+goEnv(t, "GOCACHE"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, refused := range []struct{ version, chart, why string }{
		{"v1.2.4", "1.2.4", "metallb-cloud-controller-manager.tar is not of version v1.2.4"},
		{version, "1.2.4", "Chart.yaml does not say version: 1.2.3-test.4"},
	} {
		if out, err := push(refused.version, refused.chart); err == nil || !strings.Contains(out, refused.why) {
			t.Errorf("pushing %s with chart %s: %v\n%s", refused.version, refused.chart, err, out)
		}
	}
	if all, err := crane.Catalog(strings.TrimSuffix(to, "/metallb")); err != nil || len(all) != 0 {
		t.Fatalf("what was refused is there: %q, %v", all, err)
	}

	if out, err := push(version, version[1:]); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pushed := strings.Fields(string(read(t, filepath.Join(archives, "digests.txt"))))
	if len(pushed) != len(programs)+1 {
		t.Fatalf("digests.txt names %q, want %d images and a chart", pushed, len(programs))
	}
	for i, p := range programs {
		index := unpack(t, p.name)
		want, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		name := to + "/" + p.name
		if got, err := crane.Digest(name + ":" + version); err != nil || got != want.String() || pushed[i] != name+"@"+got {
			t.Errorf("%s has the digest %s, digests.txt says %s, and the archive %s: %v", name, got, pushed[i], want, err)
		}
		image, err := crane.Pull(name+":"+version, crane.WithPlatform(&v1.Platform{OS: "linux", Architecture: "arm64"}))
		if err != nil {
			t.Fatal(err)
		}
		if _, listing := files(t, image); len(listing) != 3 {
			t.Errorf("%s holds %q", name, listing)
		}
	}
	if got, err := crane.Digest(to + "/charts/metallb:" + version[1:]); err != nil || pushed[len(programs)] != to+"/charts/metallb@"+got {
		t.Errorf("the chart has the digest %s, and digests.txt says %s: %v", got, pushed[len(programs)], err)
	}

	// A second time changes nothing, and other content is refused.
	if out, err := push(version, version[1:]); err != nil {
		t.Errorf("the same once more: %v\n%s", err, out)
	}
	other, err := crane.Pull(to + "/metallb-speaker:" + version)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(other, to+"/metallb-speaker:"+version); err != nil {
		t.Fatal(err)
	}
	if out, err := push(version, version[1:]); err == nil || !strings.Contains(out, "choose a new version") {
		t.Errorf("other content under the same version: %v\n%s", err, out)
	}

	// Only cosign's arguments can be seen here: its signatures need Sigstore.
	cosign := "#!/bin/sh\necho \"$@\" >>" + filepath.Join(work, "signed") + "\n"
	if err := os.WriteFile(filepath.Join(work, "cosign"), []byte(cosign), 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, "..", `PATH=$0:$PATH IMAGES=$1 ./sign`, work, archives)
	want := ""
	for i, image := range pushed {
		want += "sign --yes --recursive " + image + "\n"
		if i < len(programs) {
			want += "attest --yes --type cyclonedx --predicate " + filepath.Join(archives, programs[i].name+".cdx.json") + " " + image + "\n"
		}
	}
	if got := string(read(t, filepath.Join(work, "signed"))); got != want {
		t.Errorf("cosign was called with\n%swant\n%s", got, want)
	}
}

// unpack returns what is in an archive.
func unpack(t *testing.T, name string) v1.ImageIndex {
	t.Helper()
	folder := t.TempDir()
	shell(t, ".", `tar -x -f "$0" -C "$1"`, filepath.Join(images(t), name+".tar"), folder)
	all, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := all.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%s.tar holds %d images: %v", name, len(manifest.Manifests), err)
	}
	want := "ghcr.io/metallb/cloud-provider-metallb/" + name + ":" + version
	if got := manifest.Manifests[0].Annotations["io.containerd.image.name"]; got != want {
		t.Errorf("containerd would name it %q, want %q", got, want)
	}
	index, err := all.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// platforms returns the images in an archive by the platform that the index says they are for.
func platforms(t *testing.T, name string) map[string]v1.Image {
	t.Helper()
	index := unpack(t, name)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]v1.Image{}
	for _, m := range manifest.Manifests {
		if all[m.Platform.String()], err = index.Image(m.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// files returns what is in an image's layers, and a list of it with modes and owners.
func files(t *testing.T, image v1.Image) (content map[string][]byte, listing []string) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content = map[string][]byte{}
	for _, layer := range layers {
		reader, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		for archive := tar.NewReader(reader); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			listing = append(listing, fmt.Sprintf("%s %d:%d %s", header.FileInfo().Mode(), header.Uid, header.Gid, header.Name))
			if content[header.Name], err = io.ReadAll(archive); err != nil {
				t.Fatal(err)
			}
		}
	}
	return content, listing
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(shell(t, ".", `go env "$0"`, name))
}

func shell(t *testing.T, folder, script string, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), folder, nil, "bash", append([]string{"-euo", "pipefail", "-c", script}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
