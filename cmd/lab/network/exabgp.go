package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
)

// ExaBGP is a decoder of what a peer says: it routes nothing.
type ExaBGP struct {
	*Namespace
	dir string
}

// An ExaBGPNeighbor is a peer that exabgp lets in.
type ExaBGPNeighbor struct {
	Local, Remote       netip.Addr
	LocalASN, RemoteASN uint32
}

// ExaBGP starts exabgp inside, and returns when it listens at the neighbor's local address.
func (ns *Namespace) ExaBGP(ctx context.Context, n ExaBGPNeighbor) (*ExaBGP, error) {
	dir, err := ns.network.folder("exabgp-" + ns.Name)
	if err != nil {
		return nil, err
	}
	e := &ExaBGP{Namespace: ns, dir: dir}
	for name, text := range map[string]string{
		// Its standard output must stay open: exabgp would take its end for that of the program.
		"tell": fmt.Sprintf("while IFS= read -r line; do printf '%%s\\n' \"$line\" >> %s; done\n", e.messages()),
		"exabgp.conf": fmt.Sprintf(`
process tell {
	run /bin/sh %s;
	encoder json;
}
neighbor %s {
	router-id 192.0.2.1;
	local-address %s;
	local-as %d;
	peer-as %d;
	passive true;
	family { ipv4 unicast; ipv6 unicast; }
	api {
		processes [ tell ];
		receive { parsed; open; update; notification; }
	}
}
`, filepath.Join(dir, "tell"), n.Remote, n.Local, n.LocalASN, n.RemoteASN),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	process, err := ns.Start(kubernetes.Program{
		Name: "exabgp of " + ns.Name, Binary: exabgp, Args: []string{filepath.Join(dir, "exabgp.conf")},
		Env: []string{
			"exabgp.daemon.user=root", "exabgp.daemon.drop=false", "exabgp.api.cli=false", "exabgp.log.destination=stdout",
			"exabgp.tcp.bind=" + n.Local.String(), "exabgp.tcp.port=179",
		},
		Log: filepath.Join(dir, "exabgp.log"),
	})
	if err != nil {
		return nil, err
	}
	listens := []byte("loaded new configuration successfully")
	return e, process.Until(ctx, "it has its configuration", func(context.Context) error {
		log, err := os.ReadFile(process.Log)
		if err == nil && !bytes.Contains(log, listens) {
			err = errors.New("not yet")
		}
		return err
	})
}

func (e *ExaBGP) messages() string { return filepath.Join(e.dir, "messages.json") }

// Messages are what the peer has said so far, as exabgp decoded it: JSON of what is in each message, without what differs from one run
// to the next.
func (e *ExaBGP) Messages() ([]string, error) {
	text, err := os.ReadFile(e.messages())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(text, '\n') + 1 // what follows is still being written
	var all []string
	for line := range bytes.Lines(text[:end]) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var message struct {
			Type     string
			Neighbor map[string]any
		}
		if err := json.Unmarshal(line, &message); err != nil {
			return nil, fmt.Errorf("exabgp wrote %s: %w", line, err)
		}
		if message.Neighbor == nil {
			continue // it is about exabgp itself
		}
		said, ok := message.Neighbor[message.Type]
		if !ok { // the UPDATE and End-of-RIB are one level further down
			said = message.Neighbor["message"]
		}
		compact, err := json.Marshal(map[string]any{message.Type: said})
		if err != nil {
			return nil, err
		}
		all = append(all, string(compact))
	}
	return all, nil
}
