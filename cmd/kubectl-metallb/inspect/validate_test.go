package inspect

import "testing"

func TestMistakesAreLocatedInTheFileThatHasTheText(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"the text alone", "peers:\n- peer-address: 10.0.0.1\n  my-asn: 64500\n  peer-asn: 0\n", `f:4:13: peers[0].peer-asn: "0" is not possible here: use a whole number from 1 to 4294967295`},
		{"in a ConfigMap", "kind: ConfigMap\nmetadata: {name: config}\ndata:\n  config: |\n    peers:\n    - peer-address: 10.0.0.1\n      my-asn: 64500\n      peer-asn: 0\n",
			`f:8:17: peers[0].peer-asn: "0" is not possible here: use a whole number from 1 to 4294967295`},
		{"in the second object of a file", "kind: Namespace\nmetadata: {name: metallb-system}\n---\nkind: ConfigMap\nmetadata: {name: config}\ndata:\n  config: |-\n\n    peers:\n    - my-asn: 64500\n      peer-asn: 0\n      peer-address: 10.0.0.1\n",
			`f:11:17: peers[0].peer-asn: "0" is not possible here: use a whole number from 1 to 4294967295`},
		{"in Helm's values", "speaker: {}\nconfig: |\n  address-pools:\n  - name: a\n    cidr: [10.0.0.0/24]\n  - name: b\n    cidr: [10.0.0.0/25]\n",
			`f:7:12: address-pools[1].cidr[0]: "10.0.0.0/25" overlaps "10.0.0.0/24" of address-pools[0].cidr[0] on line 5: `},
		{"quoted, with line breaks written out", "config: \"peers:\\n- 7\\n\"\n", "f:1: line 2: peers[0]: "},
		{"a warning", "config: |\n  peers:\n  - {peer-address: 10.0.0.1, peer-asn: 1, my-asn: 2, password: hunter2}\n",
			"f:3:64: warning: peers[0].password: everybody who may read this ConfigMap can read it: put it into Secret metallb-bgp-auth, and name its key as password-key"},
		{"an address that no pool may have", "address-pools: [{name: a, cidr: [127.0.0.0/8]}]\n", `f:1:34: address-pools[0].cidr[0]: "127.0.0.0/8" holds 127.0.0.0/8`},
		{"nothing wrong", "config: |\n  peers: []\n", ""},
		{"what is not YAML", "peers: [\n", "f:1: this is not YAML: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, err := Find([]byte(test.file), "config")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range text.Validate("f") {
				got = append(got, f.String())
			}
			if test.want == "" {
				if len(got) > 0 {
					t.Errorf("%q", got)
				}
				return
			}
			if len(got) != 1 || len(got[0]) < len(test.want) || got[0][:len(test.want)] != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestAFileMustSayWhichTextIsMeant(t *testing.T) {
	for file, want := range map[string]string{
		"kind: Pod\nmetadata: {name: a}\n": `no ConfigMap with a key "config" is in it`,
		"config: {peers: []}\n":            "config is not a text: put a | behind it",
		"kind: ConfigMap\nmetadata: {name: a}\ndata: {config: a}\n---\nkind: ConfigMap\nmetadata: {name: b}\ndata: {config: b}\n": `2 ConfigMaps have a key "config", and none of them is named config: leave one`,
	} {
		if _, err := Find([]byte(file), "config"); err == nil || err.Error() != want {
			t.Errorf("%q: %v", file, err)
		}
	}
	text, err := Find([]byte("kind: List\nmetadata: {}\nitems:\n- kind: ConfigMap\n  metadata: {name: x, annotations: {metallb.io/confirm: abc}}\n  data: {config: 'peers: []'}\n"), "config")
	if err != nil || text.Text != "peers: []" || text.Annotations["metallb.io/confirm"] != "abc" {
		t.Error(text, err)
	}
}
