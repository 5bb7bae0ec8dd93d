package network

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// FRR is a router: zebra, which speaks to the kernel, and bgpd.
type FRR struct {
	*Namespace
	dir string
	bgp *kubernetes.Process
	bfd *kubernetes.Process // nil: there is none
	// more are flags of bgpd.
	more []string
}

// frrUser is whom FRR's daemons run as. zebra insists on a member of the group frrvty.
const frrUser = "frr"

// FRR starts FRR inside, and returns when it answers. The configuration is bgpd's; without `no bgp ebgp-requires-policy` FRR takes no
// routes from other ASes, and without `neighbor X passive` it dials speakers, who do not listen.
//
// There is a bfdd if there is a configuration for it.
func (ns *Namespace) FRR(ctx context.Context, config string, bfd ...string) (*FRR, error) {
	return ns.frr(ctx, config, bfd)
}

// SpeakerFRR starts FRR as a node has it, to announce: its bgpd dials routers, and listens to nobody.
func (ns *Namespace) SpeakerFRR(ctx context.Context, config string) (*FRR, error) {
	return ns.frr(ctx, config, nil, "-p", "0")
}

func (ns *Namespace) frr(ctx context.Context, config string, bfd []string, more ...string) (*FRR, error) {
	if err := ns.Forward(); err != nil {
		return nil, err
	}
	dir, err := ns.network.folder("frr-" + ns.Name)
	if err != nil {
		return nil, err
	}
	f := &FRR{Namespace: ns, dir: dir, more: more}
	// vtysh.conf is empty, but vtysh complains where there is none.
	for name, text := range map[string]string{"zebra.conf": "", "bgpd.conf": config, "vtysh.conf": "", "bfdd.conf": strings.Join(bfd, "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if err := give(dir, frrUser); err != nil {
		return nil, err
	}
	kernel, err := f.daemon("zebra", zebra, "--nl-bufsize", netlinkBuffer)
	if err != nil {
		return nil, err
	}
	// bgpd looks for zebra once at its start, and then only after a long pause.
	if err := kernel.Until(ctx, "it answers", func(context.Context) error {
		_, err := os.Stat(f.zserv())
		return err
	}); err != nil {
		return nil, err
	}
	if len(bfd) > 0 {
		f.bfd, err = f.daemon("bfdd", bfdd, "--bfdctl", filepath.Join(dir, "bfdd.sock"))
		if err != nil {
			return nil, err
		}
		if err := f.bfd.Until(ctx, "it answers", func(ctx context.Context) error {
			_, err := f.Show(ctx, "show bfd peers brief json")
			return err
		}); err != nil {
			return nil, err
		}
	}
	return f, f.StartBGP(ctx)
}

// StartBGP starts bgpd, again after KillBGP, and returns when it answers.
func (f *FRR) StartBGP(ctx context.Context) (err error) {
	if f.bgp, err = f.daemon("bgpd", bgpd, f.more...); err != nil {
		return err
	}
	return f.bgp.Until(ctx, "it answers", func(ctx context.Context) error {
		_, err := f.Show(ctx, "show bgp summary json")
		return err
	})
}

// KillBGP kills bgpd, as a kubelet does with all in a container whose first process has ended.
func (f *FRR) KillBGP() { f.bgp.Kill() }

func (f *FRR) daemon(name, binary string, more ...string) (*kubernetes.Process, error) {
	file := func(end string) string { return filepath.Join(f.dir, name+end) }
	return f.Start(kubernetes.Program{
		Name: name + " of " + f.Name, Binary: binary,
		Args: append([]string{
			"-f", file(".conf"), "-z", f.zserv(), "-i", file(".pid"), "--vty_socket", f.dir,
			"-P", "0", // no telnet
			"-u", frrUser, "-g", frrUser, "--log", "stdout",
		}, more...),
		Log: file(".log"),
	})
}

// BFDLog is what bfdd has logged.
func (f *FRR) BFDLog() (string, error) {
	text, err := os.ReadFile(filepath.Join(f.dir, "bfdd.log"))
	return string(text), err
}

func (f *FRR) zserv() string { return filepath.Join(f.dir, "zserv.api") }

// give makes a folder and all in it a user's.
func give(dir, name string) error {
	owner, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, uid, gid))
	})
}

// Show asks the router something, or tells it to do something: any command of vtysh, several as several lines.
func (f *FRR) Show(ctx context.Context, commands ...string) (string, error) {
	args := f.Shell()
	for _, command := range commands {
		args = append(args, "-c", command)
	}
	out, err := runFor(ctx, args...)
	if err != nil {
		return out, fmt.Errorf("router %s: %w%s", f.Name, err, out) // vtysh complains on its standard output
	}
	return out, nil
}

// Shell is the command line that opens the router's shell.
func (f *FRR) Shell() []string { return []string{vtysh, "--vty_socket", f.dir, "--config_dir", f.dir} }

// show asks for JSON.
func (f *FRR) show(ctx context.Context, into any, command string) error {
	out, err := f.Show(ctx, command)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("router %s: %s: %w", f.Name, command, err)
	}
	return nil
}

// Session tells about the session with a neighbor.
func (f *FRR) Session(ctx context.Context, neighbor netip.Addr) (Session, error) {
	var known map[string]json.RawMessage
	if err := f.show(ctx, &known, fmt.Sprintf("show bgp neighbors %s json", neighbor)); err != nil {
		return Session{}, err
	}
	if known[neighbor.String()] == nil {
		return Session{}, fmt.Errorf("router %s has no neighbor %s", f.Name, neighbor)
	}
	var n struct {
		BGPState                                   string
		ConnectionsEstablished, ConnectionsDropped int
		MessageStats                               struct{ UpdatesRecv int }
		GracefulRestartInfo                        struct{ EndOfRIBRecv map[string]bool }
		NeighborCapabilities                       struct {
			MultiprotocolExtensions map[string]struct{ AdvertisedAndReceived bool }
		}
	}
	if err := json.Unmarshal(known[neighbor.String()], &n); err != nil {
		return Session{}, fmt.Errorf("router %s: neighbor %s: %w", f.Name, neighbor, err)
	}
	s := Session{
		Up:      n.BGPState == "Established",
		History: fmt.Sprintf("established %d times, dropped %d times", n.ConnectionsEstablished, n.ConnectionsDropped),
		Updates: n.MessageStats.UpdatesRecv,
	}
	s.Complete = s.Up
	for family, agreed := range n.NeighborCapabilities.MultiprotocolExtensions {
		s.Complete = s.Complete && (!agreed.AdvertisedAndReceived || n.GracefulRestartInfo.EndOfRIBRecv[family])
	}
	return s, nil
}

// Table is everything that was learned by BGP.
func (f *FRR) Table(ctx context.Context) ([]router.Path, error) {
	var paths []router.Path
	for _, family := range []string{"ipv4", "ipv6"} {
		var table struct {
			Routes map[string]json.RawMessage
		}
		if err := f.show(ctx, &table, "show bgp "+family+" unicast json detail"); err != nil {
			return nil, err
		}
		for text, route := range table.Routes {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("router %s: %w", f.Name, err)
			}
			some, err := frrPaths(prefix, route)
			if err != nil {
				return nil, fmt.Errorf("router %s: %s: %w", f.Name, prefix, err)
			}
			paths = append(paths, some...)
		}
	}
	sortTable(paths)
	return paths, nil
}

// frrCommunities are those that FRR calls by name.
var frrCommunities = map[string]string{
	"graceful-shutdown": "65535:0", "accept-own": "65535:1", "llgr-stale": "65535:6", "no-llgr": "65535:7",
	"blackhole": "65535:666", "no-export": "65535:65281", "no-advertise": "65535:65282", "local-AS": "65535:65283", "no-peer": "65535:65284",
}

// As in `LB:42:125000 (1.000 Mbps)`: the AS, and bytes per second.
var frrBandwidth = regexp.MustCompile(`\bLB:\d+:(\d+)`)

func frrPaths(prefix netip.Prefix, text []byte) ([]router.Path, error) {
	type list struct{ String string }
	var known []struct {
		ASPath struct {
			Segments []struct{ List []uint32 }
		}
		Origin            string
		LocPrf, MED       *uint32
		Community         list
		LargeCommunity    list
		ExtendedCommunity list
		Stale             bool
		NextHops          []struct{ IP, Scope string }
	}
	if err := json.Unmarshal(text, &known); err != nil {
		return nil, err
	}
	var paths []router.Path
	for _, k := range known {
		if len(k.NextHops) == 0 {
			continue // the first element of the list is about the prefix
		}
		path := router.Path{
			Prefix: prefix, Origin: k.Origin, LocalPref: k.LocPrf, MED: k.MED, Stale: k.Stale,
			Communities: strings.Fields(k.Community.String), LargeCommunities: strings.Fields(k.LargeCommunity.String),
		}
		if m := frrBandwidth.FindStringSubmatch(k.ExtendedCommunity.String); m != nil {
			bytes, err := strconv.ParseFloat(m[1], 32)
			if err != nil {
				return nil, err
			}
			path.LinkBandwidth = float32(bytes)
		}
		for i, name := range path.Communities {
			path.Communities[i] = cmp.Or(frrCommunities[name], name)
		}
		for _, segment := range k.ASPath.Segments {
			path.ASPath = append(path.ASPath, segment.List...)
		}
		for _, hop := range k.NextHops {
			if hop.Scope == "link-local" && path.NextHop.IsValid() {
				continue // the second address of an IPv6 next hop
			}
			var err error
			if path.NextHop, err = netip.ParseAddr(hop.IP); err != nil {
				return nil, err
			}
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func (f *FRR) String() string { return "FRR " + f.Name }
