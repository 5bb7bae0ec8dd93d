package cluster

import (
	"strings"
	"testing"
)

func TestNoPasswordStandsInADump(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no password", "peers:\n- {peer-address: 10.0.0.1} # the first\n", "peers:\n- {peer-address: 10.0.0.1} # the first\n"},
		{"the name of a key is none", "peers:\n- {password-key: tor}\n", "peers:\n- {password-key: tor}\n"},
		{"a name that sounds like one", "communities: {md5-peers: '64500:1'}\n", "communities: {md5-peers: '64500:1'}\n"},
		{"passwords", "peers:\n- password: hunter2\n- password: 'hunter2'\n- password: other\n", "peers:\n  - password: masked-1\n  - password: masked-1\n  - password: masked-2\n"},
		{"a number, which YAML would make of it", "peers:\n- password: 0123\n", "peers:\n  - password: masked-1\n"},
		{"an anchor", "peers:\n- password: &p hunter2\n- password: *p\n", "peers:\n  - password: &p masked-1\n  - password: *p\n"},
		{"several lines", "peers:\n- password: |\n    hunter2\n    hunter2\n", "peers:\n  - password: masked-1\n"},
		{"misspelt", "peers:\n- pasword: hunter2\n", "peers:\n  - pasword: masked-1\n"},
		{"in a comment", "peers: [] # password was hunter2\n", "peers: []\n"},
		{"without a colon", "peers:\n- password hunter2\n", "peers:\n  - masked-1\n"},
		{"not YAML", "peers: [\npassword: hunter2\n", "# The text is not YAML, and may have a password in it: it was left out.\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, changed := mask(test.text, map[string]string{})
			if got != test.want || changed != (test.text != test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("the password is in it")
			}
		})
	}
}
