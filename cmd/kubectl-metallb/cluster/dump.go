package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/kubectl-metallb/inspect"
	"github.com/metallb/cloud-provider-metallb/service"
)

// dumpFormat is raised when programs of before could misunderstand a dump.
const dumpFormat = 1

// A contents is the file of a dump that is written last: one without it is cut off.
type contents struct {
	Format     int              `json:"format"`
	Program    string           `json:"program"` // and its version, that wrote it
	Taken      time.Time        `json:"taken"`
	Namespace  string           `json:"namespace"`
	ConfigName string           `json:"configName"`
	Hash       string           `json:"hash"`
	Masked     bool             `json:"masked"`
	Keys       []string         `json:"keys"` // of the passwords' Secret
	Asked      bool             `json:"asked"`
	Unread     []inspect.Unread `json:"unread"`
	// Objects are how many there are of each kind.
	Objects map[string]int `json:"objects"`
}

const contentsFile = "dump.json"

// A part is one file of a dump.
type part struct {
	name  string
	count func() int
	data  any // a pointer to what it holds
}

func parts(s *inspect.Snapshot) []part {
	one := func(there bool) int {
		if there {
			return 1
		}
		return 0
	}
	return []part{
		{"config.json", func() int { return one(s.User != nil) }, &s.User},
		{"config-admitted.json", func() int { return one(s.Admitted != nil) }, &s.Admitted},
		{"lease.json", func() int { return one(s.Lease != nil) }, &s.Lease},
		{"services.json", func() int { return len(s.Services) }, &s.Services},
		{"endpointslices.json", func() int { return len(s.Slices) }, &s.Slices},
		{"nodes.json", func() int { return len(s.Nodes) }, &s.Nodes},
		{"namespaces.json", func() int { return len(s.Namespaces) }, &s.Namespaces},
		{"pods.json", func() int { return len(s.Pods) }, &s.Pods},
		{"told.json", func() int { return len(s.Told) }, &s.Told},
	}
}

// Dump writes a snapshot into a folder, which is made and must be empty. Passwords in the texts are masked. program names the
// program and its version.
func Dump(s *inspect.Snapshot, folder, program string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: name another folder", folder)
	}
	masked := *s
	masks := map[string]string{} // one for both texts: what is equal stays so
	for _, config := range []**corev1.ConfigMap{&masked.User, &masked.Admitted} {
		if *config == nil {
			continue
		}
		*config = trimConfigMap(*config)
		text, had := (*config).Data[service.KeyConfig]
		if !had {
			continue
		}
		without, changed := mask(text, masks)
		(*config).Data[service.KeyConfig] = without
		masked.Masked = masked.Masked || changed
	}
	about := contents{Format: dumpFormat, Program: program, Taken: s.Taken, Namespace: s.Namespace, ConfigName: s.ConfigName, Hash: s.Hash, Masked: masked.Masked,
		Keys: s.Keys, Asked: s.Asked, Unread: s.Unread, Objects: map[string]int{}}
	for _, p := range parts(&masked) {
		if err := write(filepath.Join(folder, p.name), p.data); err != nil {
			return err
		}
		about.Objects[p.name] = p.count()
	}
	return write(filepath.Join(folder, contentsFile), about)
}

func write(path string, data any) error {
	text, err := json.MarshalIndent(data, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// Load reads a dump.
func Load(folder string) (*inspect.Snapshot, error) {
	var about contents
	text, err := os.ReadFile(filepath.Join(folder, contentsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(folder); err != nil {
			return nil, fmt.Errorf("%s does not exist", folder)
		}
		return nil, fmt.Errorf("%s is no complete dump: it has no %s, which is written last", folder, contentsFile)
	case err != nil:
		return nil, fmt.Errorf("%s is no dump: %w", folder, err)
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return nil, fmt.Errorf("%s is cut off or damaged: %w", filepath.Join(folder, contentsFile), err)
	}
	if about.Format != dumpFormat {
		return nil, fmt.Errorf("%s was written by %s in format %d, and this program reads format %d: use that program", folder, about.Program, about.Format, dumpFormat)
	}
	s := &inspect.Snapshot{Taken: about.Taken, Namespace: about.Namespace, ConfigName: about.ConfigName, Hash: about.Hash, Masked: about.Masked, Keys: about.Keys, Asked: about.Asked, Unread: about.Unread}
	for _, p := range parts(s) {
		path := filepath.Join(folder, p.name)
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s is no complete dump: it has no %s", folder, p.name)
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		if err := decoder.Decode(p.data); err != nil {
			return nil, fmt.Errorf("%s is cut off or damaged: %w", path, err)
		}
		if n := p.count(); n != about.Objects[p.name] {
			return nil, fmt.Errorf("%s is cut off or damaged: it has %d objects, and %s says %d", path, n, contentsFile, about.Objects[p.name])
		}
	}
	return s, nil
}
