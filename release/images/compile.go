package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Every variable that changes what Go compiles is set, and not to nothing: for those, the go command would ask the user's settings
// (go env -w).
var environments = map[string][]string{
	"linux/amd64": append([]string{"GOARCH=amd64", "GOAMD64=v1"}, common...),
	"linux/arm64": append([]string{"GOARCH=arm64", "GOARM64=v8.0"}, common...),
}

var common = []string{"GOOS=linux", "CGO_ENABLED=0", "GO111MODULE=on", "GOWORK=off", "GOFIPS140=off", goflags}

const goflags = "GOFLAGS=-trimpath -buildvcs=false -mod=readonly"

// link is as in the Makefile, which a test sees to.
func (r release) link() string {
	return "-s -w -X k8s.io/component-base/version.gitVersion=" + r.version
}

// compile makes the programs static, without symbols and paths.
func (r release) compile(ctx context.Context, environment []string, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	into, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	// There is no word for "none but the usual experiments".
	experiments, err := command(ctx, r.source, environment, "go", "env", "GOEXPERIMENT")
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(experiments)); text != "" {
		return fmt.Errorf("GOEXPERIMENT=%s makes other programs: unset it, or go env -u GOEXPERIMENT", text)
	}
	args := []string{"build", "-ldflags", r.link(), "-o", into + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p.name)
	}
	_, err = command(ctx, r.source, environment, "go", args...)
	return err
}

// materials writes which modules are in a compiled program, as CycloneDX. That is the same on both platforms, the hashes aside.
func (r release) materials(ctx context.Context, binary, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	// The tool writes down its own hash too, so it is compiled in one way as well, for the machine that this is.
	environment := []string{"CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOWORK=off", "GOFIPS140=off", goflags}
	_, err = command(ctx, filepath.Join(r.source, "release"), environment, "go", "tool", "cyclonedx-gomod", "bin",
		"-json", "-std", "-noserial", "-notimestamp", "-version", r.version, "-output", path, binary)
	return err
}

var licenceNames = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|copyright|patents)([.-].*)?$`)

// licences returns the licences and notices of all that is compiled into a program, which go where the program goes: those that stand
// in the folder of a package, or in one above it up to its module's.
func (r release) licences(ctx context.Context, environment []string, name string) ([]byte, error) {
	root, err := command(ctx, r.source, environment, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	out, err := command(ctx, r.source, environment, "go", "list", "-deps", "-json=Dir,Standard,Module", "./cmd/"+name)
	if err != nil {
		return nil, err
	}
	texts := map[string][]byte{}
	golang, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "LICENSE"))
	if err != nil {
		return nil, fmt.Errorf("this Go has no licence with it: use one from https://go.dev/dl: %w", err)
	}
	texts["Go/LICENSE"] = golang
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Version, Dir string
				Main               bool
			}
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if pkg.Standard || pkg.Module.Main {
			continue
		}
		found := false
		for dir := pkg.Dir; strings.HasPrefix(dir, pkg.Module.Dir); dir = filepath.Dir(dir) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return nil, err
			}
			for _, entry := range entries {
				if entry.IsDir() || !licenceNames.MatchString(entry.Name()) {
					continue
				}
				text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
				if err != nil {
					return nil, err
				}
				inside := strings.TrimPrefix(dir, pkg.Module.Dir)
				texts[pkg.Module.Path+"@"+pkg.Module.Version+inside+"/"+entry.Name()] = text
				found = true
			}
		}
		if !found {
			return nil, fmt.Errorf("module %s has none in %s: do not depend on it", pkg.Module.Path, pkg.Module.Dir)
		}
	}
	var all bytes.Buffer
	for _, place := range slices.Sorted(maps.Keys(texts)) {
		fmt.Fprintf(&all, "===== %s\n\n%s\n", place, texts[place])
	}
	return all.Bytes(), nil
}

// command runs a program in a folder and returns what it prints. An error ends with what it complained of.
func command(ctx context.Context, folder string, environment []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), environment...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
