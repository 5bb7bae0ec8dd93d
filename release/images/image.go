package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

type program struct{ name, title, description string }

var programs = []program{
	{"metallb-cloud-controller-manager", "MetalLB cloud controller manager", "Gives addresses to Services of type LoadBalancer in clusters that have no cloud."},
	{"metallb-speaker", "MetalLB speaker", "Announces the addresses of Services from the node it runs on, over BGP."},
	{"metallb-bfd", "MetalLB BFD responder", "Answers routers by BFD for the node it runs on, so that a dead node is forgotten in under a second."},
}

// A release is all that decides what the images are, apart from Go itself.
type release struct {
	source   string // the project's folder
	registry string
	version  string
	revision string // the commit, with -dirty behind it if files differ from it; empty outside of a clone
	time     v1.Time
}

// Kubernetes' metrics library refuses to start with a version of another form; the rest is what a tag may hold.
var versions = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[\w.-]+)?$`)

func newRelease(ctx context.Context, source, registry, version string) (release, error) {
	if !versions.MatchString(version) || len(version) > 128 {
		return release{}, fmt.Errorf("--version %q: use vX.Y.Z, or vX.Y.Z-SOMETHING of letters, digits, dots and dashes", version)
	}
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(source, "cmd", p.name)); err != nil {
			return release{}, fmt.Errorf("%w: start from the folder release, or name the project's folder with --source", err)
		}
	}
	r := release{source: source, registry: strings.TrimSuffix(registry, "/"), version: version, time: v1.Time{Time: time.Unix(0, 0).UTC()}}

	// The commit's time is the same in every clone. Without a clone, as in an unpacked archive, there is none to ask for.
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if _, err := os.Stat(filepath.Join(source, ".git")); err == nil {
		commit, err := command(ctx, source, nil, "git", "log", "-1", "--format=%H %ct")
		if err != nil {
			return release{}, err
		}
		changed, err := command(ctx, source, nil, "git", "status", "--porcelain")
		if err != nil {
			return release{}, err
		}
		revision, committed, _ := strings.Cut(strings.TrimSpace(string(commit)), " ")
		r.revision = revision
		if len(changed) != 0 {
			r.revision += "-dirty"
		}
		if seconds == "" {
			seconds = committed
		}
	}
	if seconds != "" {
		n, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil {
			return release{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q: use the seconds since 1970, or leave it out", seconds)
		}
		r.time.Time = time.Unix(n, 0).UTC()
	}
	return r, nil
}

func (r release) reference(name string) string { return r.registry + "/" + name + ":" + r.version }

// build returns the image of each program for a platform. It compiles them into the folder.
func (r release) build(ctx context.Context, platform, folder string) (map[string]v1.Image, error) {
	system, machine, _ := strings.Cut(platform, "/")
	environment, ok := environments[platform]
	if !ok {
		return nil, fmt.Errorf("not a platform that images are made for: use linux/amd64 or linux/arm64")
	}
	if err := r.compile(ctx, environment, folder); err != nil {
		return nil, err
	}
	own, err := os.ReadFile(filepath.Join(r.source, "LICENSE"))
	if err != nil {
		return nil, err
	}
	images := map[string]v1.Image{}
	for _, p := range programs {
		binary, err := os.ReadFile(filepath.Join(folder, p.name))
		if err != nil {
			return nil, err
		}
		others, err := r.licences(ctx, environment, p.name)
		if err != nil {
			return nil, fmt.Errorf("licences of %s: %w", p.name, err)
		}
		layer, err := r.layer([]file{{"LICENSE", 0o444, own}, {"LICENSES-OF-OTHERS", 0o444, others}, {p.name, 0o555, binary}})
		if err != nil {
			return nil, err
		}
		if images[p.name], err = r.image(p, layer, v1.Platform{OS: system, Architecture: machine}); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// A file of an image.
type file struct {
	name string
	mode int64
	text []byte
}

func (r release) layer(files []file) (v1.Layer, error) {
	var all bytes.Buffer
	archive := tar.NewWriter(&all)
	for _, f := range files {
		// Owner and group are 0: who runs the program cannot change it.
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: r.time.Time}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.text); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(all.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

func (r release) image(p program, layer v1.Layer, platform v1.Platform) (v1.Image, error) {
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{
		Created: r.time, CreatedBy: "release/images of " + home,
	}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture, config.Created = platform.OS, platform.Architecture, r.time
	config.Config = v1.Config{
		Entrypoint: []string{"/" + p.name},
		User:       "65532:65532", // a number: kubelet cannot tell that a name is not root
		WorkingDir: "/",
		Labels:     r.labels(p),
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	image = mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return mutate.Annotations(image, r.labels(p)).(v1.Image), nil
}

func (r release) index(p program, images []v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return mutate.Annotations(index, r.labels(p)).(v1.ImageIndex), nil
}

const home = "https://github.com/metallb/cloud-provider-metallb"

func (r release) labels(p program) map[string]string {
	all := map[string]string{
		"org.opencontainers.image.title":       p.title,
		"org.opencontainers.image.description": p.description,
		"org.opencontainers.image.source":      home,
		"org.opencontainers.image.version":     r.version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
	if r.revision != "" {
		all["org.opencontainers.image.revision"] = r.revision
	}
	return all
}

// archive writes an index as a tar of the OCI layout, by way of an empty folder.
func (r release) archive(index v1.ImageIndex, name, folder, path string) error {
	all, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	// containerd names what it imports by the first, and tools of OCI layouts by the second.
	if err := all.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          r.reference(name),
		"org.opencontainers.image.ref.name": r.version,
	})); err != nil {
		return err
	}
	// The archive is whole or not there.
	partial, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".partial-")
	if err != nil {
		return err
	}
	defer os.Remove(partial.Name())
	defer partial.Close()
	archive := tar.NewWriter(partial)
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error { // in the order of the names
		if err != nil || entry.IsDir() {
			return err
		}
		inside, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: inside, Mode: 0o644, Size: int64(len(content)), ModTime: r.time.Time}); err != nil {
			return err
		}
		_, err = archive.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	if err := partial.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(partial.Name(), path)
}
