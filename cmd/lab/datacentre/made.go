package datacentre

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// The lab compiles more than programs: what its pods run, what its users type, and the images that it installs. LAB_MADE names a folder
// in which Make has left all of it beforehand, so that nothing compiles while a test with a time limit runs. Without, each is made when
// it is asked for.

// nextVersion is what the lab upgrades to. The first is the chart's own, whose images the tutorial has users make.
const nextVersion = "v9.9.9-lab.1"

// What there is in the folder, and how it is made.
var things = map[string]func(ctx context.Context, root, path string) error{
	"podserver": func(ctx context.Context, root, path string) error {
		return compile(ctx, root, "cmd/lab", path, "./podserver")
	},
	"helm": func(ctx context.Context, root, path string) error {
		return compile(ctx, root, "release", path, "helm.sh/helm/v4/cmd/helm")
	},
	"names": func(ctx context.Context, root, path string) error {
		return compile(ctx, root, "release", path, "./alerts/names")
	},
	"images": func(ctx context.Context, root, path string) error {
		first, err := chartVersion(root)
		if err != nil {
			return err
		}
		for _, version := range []string{first, nextVersion} {
			if err := golang(ctx, root, "release", "run", "./images", "--version", version, "--platform", "linux/"+runtime.GOARCH,
				"--out", filepath.Join(path, version)); err != nil {
				return err
			}
		}
		return nil
	},
}

// Make compiles all that tests need which can run here: Kubernetes into the cache, and the things into a folder for LAB_MADE.
func Make(ctx context.Context, folder string, progress io.Writer) error {
	programs := kubernetes.ControlPlane
	if network.Missing() == nil {
		programs = slices.Concat(programs, []string{kubernetes.Scheduler, kubernetes.Proxy, kubernetes.Kubelet})
	}
	if _, err := kubernetes.Build(ctx, progress, programs...); err != nil || network.MissingKubelet() != nil {
		return err
	}
	root, err := kubernetes.Repository(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(things)) {
		fmt.Fprintf(progress, "building %s\n", name)
		path := filepath.Join(folder, name)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := things[name](ctx, root, path); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	return nil
}

// thing returns where one of the things is. It is made in a folder of the caller's if nobody has done so beforehand.
func thing(ctx context.Context, root, folder, name string) (string, error) {
	if made := os.Getenv("LAB_MADE"); made != "" {
		return filepath.Join(made, name), nil
	}
	path := filepath.Join(folder, name)
	return path, things[name](ctx, root, path)
}

// chartVersion is the version of our programs that the chart installs.
func chartVersion(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "charts/metallb/Chart.yaml"))
	if err != nil {
		return "", err
	}
	found := regexp.MustCompile(`(?m)^appVersion: (\S+)$`).FindSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("the chart names no appVersion")
	}
	return string(found[1]), nil
}

func compile(ctx context.Context, root, module, path, pkg string) error {
	return golang(ctx, root, module, "build", "-trimpath", "-ldflags=-s -w", "-o", path, pkg)
}

// golang runs a go command in one of the repository's modules.
func golang(ctx context.Context, root, module string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(root, module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}
