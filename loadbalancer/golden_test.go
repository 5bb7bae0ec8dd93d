package loadbalancer

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// Each sample has beside it, in a file that ends in .want, what it means: peers, pools and routes in words, or the
// problems. -update writes those files; review every change of one by hand, since operators rely on it.
var update = flag.Bool("update", false, "write what the samples in testdata mean")

// The configurations were written for these tests, in the words of each version of MetalLB.
func TestConfigurationsOfEveryVersionOfMetalLBMeanWhatTheyMeant(t *testing.T) {
	files := samples(t, "metallb")
	for _, version := range []string{"v0.2", "v0.3", "v0.4", "v0.5", "v0.6", "v0.7", "v0.8", "v0.9", "v0.10", "v0.11", "v0.12"} {
		if !slices.Contains(files, filepath.Join("metallb", version, "bgp.yaml")) {
			t.Errorf("no BGP configuration of %s", version)
		}
	}
	for _, file := range files {
		t.Run(strings.TrimPrefix(file, "metallb/"), func(t *testing.T) {
			text := configIn(t, sample(t, file))
			config, warnings, err := Parse(text)
			if means(t, file, config, warnings, err); err != nil {
				return
			}
			admitted, ignored, err := ParseAdmitted(text)
			if err != nil || ignored != 0 {
				t.Fatalf("ParseAdmitted: %d ignored, %v", ignored, err)
			}
			equal(t, admitted, config)
		})
	}
}

// What a release of ours admitted is in force in clusters that are upgraded: the folder of a release only ever grows.
func TestWhatAnEarlierReleaseAdmittedIsAdmittedStill(t *testing.T) {
	// These would be refused now. They stay in force until they are edited, since an unchanged text is not judged again.
	stricter := map[string]bool{"admitted/v0.1/labels-that-nothing-has.yaml": true}
	for _, file := range samples(t, "admitted") {
		t.Run(strings.TrimPrefix(file, "admitted/"), func(t *testing.T) {
			text := configIn(t, sample(t, file))
			admitted, ignored, err := ParseAdmitted(text)
			if err != nil || ignored != 0 {
				t.Fatalf("ParseAdmitted: %d ignored, %v", ignored, err)
			}
			config, warnings, err := Parse(text)
			means(t, file, admitted, warnings, err)
			if stricter[file] != (err != nil) {
				t.Errorf("Parse says %v", err)
			}
			if err == nil {
				equal(t, admitted, config)
			}
		})
	}
}

func samples(t testing.TB, folder string) (files []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no samples in", folder, err)
	}
	for _, path := range paths {
		files = append(files, strings.TrimPrefix(path, "testdata/"))
	}
	return files
}

// configIn returns the configuration in a ConfigMap, or the text itself if it is none.
func configIn(t testing.TB, text []byte) []byte {
	t.Helper()
	var configMap struct {
		Data map[string]string `yaml:"data"`
	}
	if err := yaml.Unmarshal(text, &configMap); err == nil && configMap.Data != nil {
		return []byte(configMap.Data["config"])
	}
	return text
}

// means compares what was made of a sample with what stands beside it.
func means(t *testing.T, file string, config *Config, warnings Problems, err error) {
	t.Helper()
	var b strings.Builder
	if config != nil {
		b.WriteString(inWords(config))
	}
	for _, w := range warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	if err != nil {
		for _, p := range err.(Problems) {
			fmt.Fprintf(&b, "refused: %s\n", p)
		}
	}
	got, path := b.String(), filepath.Join("testdata", strings.TrimSuffix(file, ".yaml")+".want")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s means\n%s\nwant\n%s", file, got, want)
	}
}

// inWords writes all of a configuration, so that two with the same words are the same.
func inWords(config *Config) string {
	var b strings.Builder
	for _, p := range config.Peers {
		fmt.Fprintf(&b, "peer %s: %s port %d, AS %s to our AS %d\n", p.Name, p.Address(), p.Port, p.AS(), p.MyASN)
		if p.MyASNFromNode {
			b.WriteString("  our AS as the Node says\n")
		}
		if p.RouterIDFromNode {
			b.WriteString("  router ID as the Node says\n")
		}
		fmt.Fprintf(&b, "  hold %s, keepalive %s, connect %s, restart %s\n", p.HoldTime, p.KeepaliveTime, p.ConnectTime, p.RestartTime)
		if p.RouterID.IsValid() {
			fmt.Fprintf(&b, "  router ID %s\n", p.RouterID)
		}
		if p.SourceAddress.IsValid() {
			fmt.Fprintf(&b, "  from %s\n", p.SourceAddress)
		}
		if p.SourceNodeIP {
			b.WriteString("  from the node's address\n")
		}
		if p.TTL > 0 {
			fmt.Fprintf(&b, "  TTL %d\n", p.TTL)
		}
		if p.MinTTL > 0 {
			fmt.Fprintf(&b, "  believes a TTL of at least %d\n", p.MinTTL)
		}
		if p.Password != "" {
			fmt.Fprintf(&b, "  with password %s\n", string(p.Password))
		}
		if p.PasswordKey != "" {
			fmt.Fprintf(&b, "  with the password in %s\n", p.PasswordKey)
		}
		if bfd, ok := config.ProfileOf(p); ok {
			fmt.Fprintf(&b, "  watched by BFD profile %+v\n", bfd)
		}
		selectorsInWords(&b, "  on nodes with", p.NodeSelectors)
	}
	for _, p := range config.Pools {
		fmt.Fprintf(&b, "pool %s:", p.Name)
		for _, r := range p.Ranges {
			fmt.Fprintf(&b, " %s", r)
		}
		b.WriteByte('\n')
		if !p.AutoAssign {
			b.WriteString("  on request only\n")
		}
		if len(p.Exclude) > 0 {
			fmt.Fprintf(&b, "  without %v\n", p.Exclude)
		}
		for _, kept := range p.Reservations {
			fmt.Fprintf(&b, "  %v reserved for %s\n", kept.Addrs, kept.Service)
		}
		if p.HoldDown > 0 {
			fmt.Fprintf(&b, "  a freed address is held down for %s\n", p.HoldDown)
		}
		if p.Quotas.any() {
			fmt.Fprintf(&b, "  at most %d for a namespace, or %v\n", p.Quotas.Default, p.Quotas.Namespaces)
		}
		if p.AvoidBuggyIPs {
			b.WriteString("  without .0 and .255\n")
		}
		if p.Priority != 0 {
			fmt.Fprintf(&b, "  priority %d\n", p.Priority)
		}
		if len(p.Namespaces) > 0 {
			fmt.Fprintf(&b, "  for namespaces %s\n", strings.Join(p.Namespaces, ", "))
		}
		selectorsInWords(&b, "  for namespaces with", p.NamespaceSelectors)
		selectorsInWords(&b, "  for Services with", p.ServiceSelectors)
		if p.ShareAcrossNamespaces {
			b.WriteString("  shared across namespaces\n")
		}
		if p.Unadvertised {
			b.WriteString("  announced by others\n")
		}
		for _, name := range slices.Sorted(maps.Keys(p.ServiceCommunities)) {
			fmt.Fprintf(&b, "  Services may add %s, %v\n", name, p.ServiceCommunities[name])
		}
		for _, a := range p.Advertisements {
			// As routers hear of the pool's first address. What the route does not show, the lengths, is there as well.
			alone := &Config{Pools: []Pool{p}, owners: []owner{{p.Ranges[0], 0}}}
			a, selectors := a, a.NodeSelectors
			chosen := a.ServiceSelectors
			a.NodeSelectors, a.ServiceSelectors = nil, nil
			alone.Pools[0].Advertisements = []Advertisement{a}
			fmt.Fprintf(&b, "  announced by /%d and /%d: %s\n", a.AggregationLengths[0], a.AggregationLengths[1], notation(alone.Routes(p.Ranges[0].From(), nil)))
			selectorsInWords(&b, "    from nodes with", selectors)
			selectorsInWords(&b, "    of Services with", chosen)
			if a.ClientIPAffinity {
				b.WriteString("    by one primary for Services with affinity\n")
			}
		}
	}
	if d := config.Drain; len(d.Taints)+len(d.Labels) > 0 || d.WithdrawAfter > 0 {
		fmt.Fprintf(&b, "drained by taints %v and labels %v, withdrawn after %s\n", d.Taints, d.Labels, d.WithdrawAfter)
	}
	return b.String()
}

func selectorsInWords(b *strings.Builder, begin string, selectors []Selector) {
	for i, s := range selectors {
		if i > 0 {
			begin = strings.Repeat(" ", len(begin)-len(strings.TrimLeft(begin, " "))) + "or with"
		}
		var all []string
		for _, e := range s {
			word := strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Key, e.Operator, strings.Join(e.Values, "|")))
			if e.Operator == "In" && len(e.Values) == 1 {
				word = e.Key + "=" + e.Values[0]
			}
			all = append(all, word)
		}
		if len(all) == 0 {
			all = []string{"anything"}
		}
		fmt.Fprintf(b, "%s %s\n", begin, strings.Join(all, ", "))
	}
}
