package service

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"go4.org/netipx"
	"gopkg.in/yaml.v3"
)

// Keys of the admitted copy of the configuration, beside those of Ours. The user's ConfigMap has the first.
const (
	KeyConfig     = "config"
	KeyHash       = "hash"
	KeyAdmittedAt = "admitted-at"
	KeyRefused    = "refused"
	KeyGivenUp    = "given-up"
	KeyConfirmed  = "confirmed"
)

// A Refusal is why the user's text is not in force, as operators find it in the admitted copy.
type Refusal struct {
	Hash     string   `yaml:"hash"`
	Time     string   `yaml:"time"`
	Problems []string `yaml:"problems"`
	// Services would lose their address, or their routes, at the time.
	Services []string `yaml:"services,omitempty"`
	// Kinds tell whether a later refusal of the same text is another one.
	Kinds string `yaml:"kinds,omitempty"`
}

// ReadRefusal reads what the admitted copy has under KeyRefused; nil if that is no refusal.
func ReadRefusal(text string) *Refusal {
	var r Refusal
	if err := yaml.Unmarshal([]byte(text), &r); err != nil || r.Hash == "" {
		return nil
	}
	return &r
}

// Hash names a text, short enough to be typed.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// ReadRanges reads what the admitted copy has under KeyGivenUp; nil if that is nothing.
func ReadRanges(text string) *netipx.IPSet {
	if text == "" {
		return nil
	}
	var b netipx.IPSetBuilder
	for one := range strings.SplitSeq(text, ",") {
		if r, err := netipx.ParseIPRange(one); err == nil {
			b.AddRange(r)
		}
	}
	set, err := b.IPSet()
	if err != nil { // only an invalid range is an error, and none was added
		return nil
	}
	return set
}
