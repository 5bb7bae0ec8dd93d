package loadbalancer

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const twoProfiles = `
bfd-profiles:
- {name: quick, receive-interval: 100, transmit-interval: 150, detect-multiplier: 4, passive-mode: true, minimum-ttl: 250}
- name: usual
peers:
- {name: a, peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, bfd-profile: quick}
- {name: b, peer-address: 10.0.0.2, peer-asn: 1, my-asn: 2, bfd-profile: usual}
- {name: c, peer-address: 10.0.0.3, peer-asn: 1, my-asn: 2}
- {name: d, peer-address: 10.0.0.4, peer-asn: 1, my-asn: 2, bfd-profile: }
`

func TestAPeerHasTheBFDProfileThatItNames(t *testing.T) {
	config := parse(t, twoProfiles)
	want := map[string]BFDProfile{
		"a": {"quick", 100 * time.Millisecond, 150 * time.Millisecond, 4, true, 250},
		"b": {"usual", 300 * time.Millisecond, 300 * time.Millisecond, 3, false, 254},
	}
	for _, p := range config.Peers {
		got, has := config.ProfileOf(p)
		if expected, should := want[p.Name]; got != expected || has != should {
			t.Errorf("peer %s has %+v, %v, want %+v", p.Name, got, has, expected)
		}
	}
}

func TestWhatIsWrongWithABFDProfileIsSaidWhereItStands(t *testing.T) {
	for _, test := range []struct{ then, profiles, peer, want string }{
		{"no name", `[{receive-interval: 300}]`, "", "line 1: bfd-profiles[0].name: is missing: give the profile a name"},
		{"two of one name", `[{name: a}, {name: a}]`, "", `bfd-profiles[1]: bfd-profiles[0] on line 1 is a BFD profile named "a" as well`},
		{"too fast", `[{name: a, transmit-interval: 9}]`, "", `bfd-profiles[0].transmit-interval: "9" is not possible here: use a whole number from 10 to 60000`},
		{"too slow", `[{name: a, receive-interval: 60001}]`, "", `bfd-profiles[0].receive-interval: "60001" is not possible here: use a whole number from 10 to 60000`},
		{"a duration", `[{name: a, receive-interval: 300ms}]`, "", `bfd-profiles[0].receive-interval: "300ms" is not possible here`},
		{"one lost packet is death", `[{name: a, detect-multiplier: 1}]`, "", "use a whole number from 2 to 255"},
		{"no TTL", `[{name: a, minimum-ttl: 255}]`, "", "use a whole number from 1 to 254"},
		{"neither", `[{name: a, passive-mode: maybe}]`, "", "is neither true nor false"},
		{"misspelt", `[{name: a, detect-multiplyer: 3}]`, "", `did you mean "detect-multiplier"?`},
		{"a mapping", `{name: a}`, "", "is not a list"},
		{"a profile that is not there", `[{name: quick}, {name: slow}]`, "quik", `peers[0].bfd-profile: "quik" is the name of no item of bfd-profiles: did you mean "quick"?`},
		{"none is there", `[]`, "quick", `"quick" is the name of no item of bfd-profiles: write one that stands there, or remove the key`},
	} {
		text := fmt.Sprintf("bfd-profiles: %s\npeers: [{peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, bfd-profile: %s}]\n", test.profiles, test.peer)
		_, _, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.then, err, test.want)
		}
		// Earlier releases admitted all of it, and speakers must not lose the rest.
		config, ignored, err := ParseAdmitted([]byte(text))
		if err != nil || len(config.Peers) != 1 || ignored == 0 {
			t.Errorf("%s: admitted, it is %+v, %d ignored, %v", test.then, config, ignored, err)
		}
	}
}

func TestTheEchoFunctionIsWarnedOf(t *testing.T) {
	_, warnings, err := Parse([]byte("bfd-profiles: [{name: a, echo-mode: true, echo-interval: 50}]"))
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0].Error(), "bfd-profiles[0].echo-mode: has no effect: BFD is spoken in asynchronous mode") {
		t.Errorf("%v, %v", warnings, err)
	}
}
