package network

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/router"
)

// BIRD is a router.
type BIRD struct {
	*Namespace
	dir  string
	bird *kubernetes.Process
}

// Kill ends BIRD at once.
func (b *BIRD) Kill() { b.bird.Kill() }

// birdBasics begin every configuration. Changes of state are counted in the log: the times of them that BIRD shows vary by
// microseconds.
const birdBasics = `
log stderr all;
timeformat base iso long us;
timeformat protocol iso long us;
timeformat route iso long us;
debug protocols { states };
protocol device {}
`

// netlinkBuffer is how many bytes of news about routes the kernel keeps for a router that is busy sending it more: enough for tens of
// thousands of routes. With the usual 200 KiB, which BIRD's own routes fill, the kernel gives up its processor after each route that it
// tells of while the buffer is more than half full (netlink_broadcast), and keeps the lock of all interfaces and routes of the machine.
// Beside busy programs that took a minute for 10,000 routes, in which nobody else got the lock.
const netlinkBuffer = "33554432"

var birdKernel = regexp.MustCompile(`protocol kernel[^{]*\{`)

// BIRD starts BIRD inside, and returns when it answers. `protocol device` is already there. Without `protocol kernel` nothing gets into
// the kernel; without `protocol direct` next hops of iBGP are unreachable; without `passive on` it dials speakers, who do not listen.
// After an error BIRD lets a neighbor wait for a minute and more, unless the configuration says otherwise (error wait time).
func (ns *Namespace) BIRD(ctx context.Context, config string) (*BIRD, error) {
	if err := ns.Forward(); err != nil {
		return nil, err
	}
	dir, err := ns.network.folder("bird-" + ns.Name)
	if err != nil {
		return nil, err
	}
	b := &BIRD{Namespace: ns, dir: dir}
	config = birdKernel.ReplaceAllString(config, "$0 netlink rx buffer "+netlinkBuffer+";")
	if err := os.WriteFile(b.file("bird.conf"), []byte(birdBasics+config), 0o600); err != nil {
		return nil, err
	}
	b.bird, err = ns.Start(kubernetes.Program{
		Name: "bird of " + ns.Name, Binary: bird,
		Args: []string{"-f", "-c", b.file("bird.conf"), "-s", b.file("bird.ctl"), "-P", b.file("bird.pid")},
		Log:  b.file("bird.log"),
	})
	if err != nil {
		return nil, err
	}
	return b, b.bird.Until(ctx, "it answers", func(ctx context.Context) error {
		_, err := b.Show(ctx, "show status")
		return err
	})
}

func (b *BIRD) file(name string) string { return filepath.Join(b.dir, name) }

// Show asks the router something, or tells it to do something: any command of birdc.
func (b *BIRD) Show(ctx context.Context, command ...string) (string, error) {
	out, err := runFor(ctx, append(b.Shell(), command...)...)
	if err != nil {
		return out, fmt.Errorf("router %s: %w", b.Name, err)
	}
	return out, nil
}

// Shell is the command line that opens the router's shell.
func (b *BIRD) Shell() []string { return []string{birdc, "-s", b.file("bird.ctl")} }

// As in `node       BGP        ---        up     2026-11-26 04:34:53.334983  Established`.
var birdProtocol = regexp.MustCompile(`^(\S+) +BGP +\S+ +\S+ +\S+ \S+ *(\S*)`)

// As in `      Import updates:           5000          0          0          0       5000`.
var birdChanges = regexp.MustCompile(`^ +Import (?:updates|withdraws): +(\d+)`)

// Session tells about the session with a neighbor.
func (b *BIRD) Session(ctx context.Context, neighbor netip.Addr) (Session, error) {
	out, err := b.Show(ctx, "show", "protocols", "all")
	if err != nil {
		return Session{}, err
	}
	for block := range strings.SplitSeq(out, "\n\n") {
		block = strings.TrimSpace(strings.TrimPrefix(block, "\n"))
		var s Session
		found, restarting := false, false
		for line := range strings.Lines(block) {
			if m := birdProtocol.FindStringSubmatch(line); m != nil {
				changes := strings.Count(b.bird.Output(), m[1]+": State changed to")
				s = Session{Up: m[2] == "Established", History: fmt.Sprintf("changed %d times", changes)}
			}
			if m := birdChanges.FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1]) // digits, as the expression says
				s.Changes += n
			}
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			found = found || key == "Neighbor address" && strings.TrimSpace(value) == neighbor.String()
			restarting = restarting || key == "Neighbor graceful restart active"
		}
		if found {
			s.Complete = s.Up && !restarting
			return s, nil
		}
	}
	return Session{}, fmt.Errorf("router %s has no neighbor %s", b.Name, neighbor)
}

// As in `10.1.0.0/32          unicast [node 2026-11-26 04:34:53.334983] * (100) [AS42i]`, or without a prefix where it is the same.
var birdRoute = regexp.MustCompile(`^(\S*) +[a-z]+ \[`)

// Table is everything that was learned by BGP.
func (b *BIRD) Table(ctx context.Context) ([]router.Path, error) {
	out, err := b.Show(ctx, "show", "route", "all")
	if err != nil {
		return nil, err
	}
	paths, err := parseBIRD(out)
	if err != nil {
		return nil, fmt.Errorf("router %s: %w", b.Name, err)
	}
	return paths, nil
}

func parseBIRD(text string) ([]router.Path, error) {
	var paths []router.Path
	var prefix netip.Prefix
	for line := range strings.Lines(text) {
		if m := birdRoute.FindStringSubmatch(line); m != nil {
			if m[1] != "" {
				var err error
				if prefix, err = netip.ParsePrefix(m[1]); err != nil {
					return nil, err
				}
			}
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "BGP.origin" { // the first attribute, and every route that was learned by BGP has it
			paths = append(paths, router.Path{Prefix: prefix})
		}
		if len(paths) == 0 {
			continue
		}
		if err := birdAttribute(&paths[len(paths)-1], key, value); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", prefix, strings.TrimSpace(line), err)
		}
	}
	sortTable(paths)
	return paths, nil
}

// As in `(65535,65281) (42,7)`, or with a space behind each comma.
var birdCommunity = regexp.MustCompile(`\([^)]*\)`)

// As in `(unknown 0x4, 42, 1206134784)`: a link bandwidth, our AS, and bytes per second, whose 32 bits are a float's.
var birdBandwidth = regexp.MustCompile(`\(unknown 0x4, \d+, (\d+)\)`)

func birdAttribute(path *router.Path, key, value string) error {
	communities := func() (all []string) {
		for _, c := range birdCommunity.FindAllString(value, -1) {
			all = append(all, strings.NewReplacer("(", "", ")", "", ", ", ":", ",", ":").Replace(c))
		}
		return all
	}
	number := func() (*uint32, error) {
		n, err := strconv.ParseUint(value, 10, 32)
		return new(uint32(n)), err
	}
	switch key {
	case "BGP.origin":
		path.Origin = map[string]string{"IGP": "IGP", "EGP": "EGP", "Incomplete": "incomplete"}[value]
	case "BGP.as_path":
		for _, text := range strings.Fields(value) {
			asn, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return err
			}
			path.ASPath = append(path.ASPath, uint32(asn))
		}
	case "BGP.next_hop":
		global, _, _ := strings.Cut(value, " ") // behind it an IPv6 next hop's link-local address
		var err error
		path.NextHop, err = netip.ParseAddr(global)
		return err
	case "BGP.local_pref":
		var err error
		path.LocalPref, err = number()
		return err
	case "BGP.med":
		var err error
		path.MED, err = number()
		return err
	case "BGP.ext_community":
		if m := birdBandwidth.FindStringSubmatch(value); m != nil {
			bits, err := strconv.ParseUint(m[1], 10, 32)
			path.LinkBandwidth = math.Float32frombits(uint32(bits))
			return err
		}
	case "BGP.community":
		path.Communities = communities()
	case "BGP.large_community":
		path.LargeCommunities = communities()
	}
	return nil
}

func (b *BIRD) String() string { return "BIRD " + b.Name }
