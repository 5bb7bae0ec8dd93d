// Command plugin compiles the kubectl plugin for every system that has a kubectl, puts each with the licence into an archive, and
// writes the manifest by which Krew installs them.
//
// The same commit, version and Go give the same bytes.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

var systems = []string{"linux", "darwin", "windows"}

var machines = []string{"amd64", "arm64"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("plugin", flag.ExitOnError)
	version := fs.String("version", "", "what the program says it is: vX.Y.Z, with -SOMETHING behind it if you like")
	out := fs.String("out", "", "folder for the archives and the manifest")
	url := fs.String("url", "https://github.com/metallb/cloud-provider-metallb/releases/download", "where the archives will be, in a folder of the version's name")
	source := fs.String("source", "..", "this project's folder")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *version == "" || *out == "" || fs.NArg() != 0 {
		return fmt.Errorf("use: plugin --version vX.Y.Z --out FOLDER; --help lists every flag")
	}
	licence, err := os.ReadFile(filepath.Join(*source, "LICENSE"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "plugin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var platforms []platform
	for _, system := range systems {
		for _, machine := range machines {
			p := platform{system: system, machine: machine}
			program, err := compile(ctx, *source, work, *version, p)
			if err != nil {
				return err
			}
			archive, err := p.pack(program, licence)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(archive)
			p.sha256 = hex.EncodeToString(sum[:])
			if err := os.WriteFile(filepath.Join(*out, p.archive()), archive, 0o644); err != nil {
				return err
			}
			fmt.Printf("%s %s\n", p.sha256, p.archive())
			platforms = append(platforms, p)
		}
	}
	return os.WriteFile(filepath.Join(*out, "metallb.yaml"), []byte(manifest(*version, *url+"/"+*version, platforms)), 0o644)
}

// A platform is a system and a machine that the program is compiled for.
type platform struct{ system, machine, sha256 string }

func (p platform) program() string {
	if p.system == "windows" {
		return "kubectl-metallb.exe"
	}
	return "kubectl-metallb"
}

func (p platform) archive() string {
	end := ".tar.gz"
	if p.system == "windows" {
		end = ".zip"
	}
	return fmt.Sprintf("kubectl-metallb_%s_%s%s", p.system, p.machine, end)
}

// compile returns the program, static, without symbols and paths.
func compile(ctx context.Context, source, work, version string, p platform) ([]byte, error) {
	path := filepath.Join(work, p.system+"-"+p.machine)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion="+version, "-o", path, "./cmd/kubectl-metallb")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "GOOS="+p.system, "GOARCH="+p.machine, "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOWORK=off", "GOFIPS140=off", "GOFLAGS=-trimpath -buildvcs=false -mod=readonly")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, bytes.TrimSpace(text))
	}
	return os.ReadFile(path)
}

// epoch is the time of all files in archives: that of a build would make each another.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// completion is found by kubectl, which asks it for names: https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/.
const completion = "#!/bin/sh\nexec kubectl metallb __complete \"$@\"\n"

// pack makes the archive: a zip for Windows, where nothing else is at hand.
func (p platform) pack(program, licence []byte) ([]byte, error) {
	type file struct {
		name string
		mode os.FileMode
		data []byte
	}
	files := []file{{p.program(), 0o755, program}, {"LICENSE", 0o644, licence}}
	if p.system != "windows" {
		files = append(files, file{"kubectl_complete-metallb", 0o755, []byte(completion)})
	}
	var out bytes.Buffer
	if p.system == "windows" {
		z := zip.NewWriter(&out)
		for _, f := range files {
			header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: epoch}
			header.SetMode(f.mode)
			w, err := z.CreateHeader(header)
			if err != nil {
				return nil, err
			}
			if _, err := w.Write(f.data); err != nil {
				return nil, err
			}
		}
		err := z.Close()
		return out.Bytes(), err
	}
	g := gzip.NewWriter(&out)
	t := tar.NewWriter(g)
	for _, f := range files {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	err := g.Close()
	return out.Bytes(), err
}

// manifest is what Krew reads: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/.
func manifest(version, url string, platforms []platform) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: metallb
spec:
  version: %s
  homepage: https://github.com/metallb/cloud-provider-metallb
  shortDescription: Who announces which address, and why not
  description: |
    Tells which nodes announce the addresses of Services of type LoadBalancer over BGP, why a Service is not reachable, and
    what an edit of the configuration would do. It only reads.
  platforms:
`, version)
	for _, p := range platforms {
		fmt.Fprintf(&b, `  - selector:
      matchLabels: {os: %s, arch: %s}
    uri: %s/%s
    sha256: %s
    bin: %s
    files:
    - {from: %[6]s, to: .}
    - {from: LICENSE, to: .}
`, p.system, p.machine, url, p.archive(), p.sha256, p.program())
	}
	return b.String()
}
