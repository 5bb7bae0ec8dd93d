// Command images makes container images of this project's programs without a container engine: it compiles each program for each
// platform, puts it with the licences into one layer, and writes the images of all platforms as an archive in the OCI layout.
//
// The same commit, version and Go give the same bytes, in every clone and folder: whoever doubts a published digest builds it again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("images", flag.ExitOnError)
	version := fs.String("version", "", "what the programs say they are, and the images' tag: vX.Y.Z, with -SOMETHING behind it if you like")
	out := fs.String("out", "", "folder for the archives, one NAME.tar each")
	platforms := fs.String("platform", "linux/amd64,linux/arm64", "platforms to build for")
	registry := fs.String("registry", "ghcr.io/metallb/cloud-provider-metallb", "what stands before the images' names")
	sbom := fs.Bool("sbom", false, "write NAME.cdx.json too: the modules in each program, as CycloneDX")
	source := fs.String("source", "..", "this project's folder")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || fs.NArg() != 0 {
		return fmt.Errorf("use: images --version vX.Y.Z --out FOLDER; --help lists every flag")
	}
	release, err := newRelease(ctx, *source, *registry, *version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	images := map[string][]v1.Image{}
	for platform := range strings.SplitSeq(*platforms, ",") {
		began := time.Now()
		fmt.Printf("%s: compiling, which takes minutes the first time\n", platform)
		built, err := release.build(ctx, platform, filepath.Join(work, platform))
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		for name, image := range built {
			images[name] = append(images[name], image)
		}
		fmt.Printf("%s: took %s\n", platform, time.Since(began).Round(time.Second))
	}
	for _, program := range programs {
		index, err := release.index(program, images[program.name])
		if err != nil {
			return fmt.Errorf("%s: %w", program.name, err)
		}
		path := filepath.Join(*out, program.name+".tar")
		if err := release.archive(index, program.name, filepath.Join(work, program.name), path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if *sbom {
			first, _, _ := strings.Cut(*platforms, ",")
			binary, list := filepath.Join(work, first, program.name), filepath.Join(*out, program.name+".cdx.json")
			if err := release.materials(ctx, binary, list); err != nil {
				return fmt.Errorf("%s: %w", list, err)
			}
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Printf("%s\n  %s  %s  %.1f MiB  %s\n", release.reference(program.name), digest, *platforms, float64(info.Size())/(1<<20), path)
	}
	return nil
}
