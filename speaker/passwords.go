package speaker

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
)

// SecretName is the Secret where a peer's password-key is looked up, in the configuration's namespace.
const SecretName = "metallb-bgp-auth"

// secretPatience is how long the Secret may take to be read before that is worth a word.
const secretPatience = 5 * time.Second

// A Password is what a speaker knows of one key of the Secret.
type Password struct {
	// Value is the last that was good, or empty. It stays when the Secret goes: a session that is up needs nobody's help.
	Value loadbalancer.Secret
	// Why says what is wrong with the key now, or is empty.
	Why string
}

// Passwords returns what is known of each key after a look at the Secret: nil if there is none. ref is its namespace/name.
func Passwords(before map[string]Password, keys []string, ref string, secret *corev1.Secret) map[string]Password {
	after := make(map[string]Password, len(keys))
	for _, key := range keys {
		p := Password{Value: before[key].Value}
		value, there := []byte(nil), false
		if secret != nil {
			value, there = secret.Data[key]
		}
		password, err := loadbalancer.PasswordIn(value)
		switch {
		case secret == nil:
			p.Why = fmt.Sprintf("Secret %s does not exist: create it, with key %q", ref, key)
		case !there:
			p.Why = fmt.Sprintf("Secret %s has no key %q: add it", ref, key)
		case err != nil:
			p.Why = fmt.Sprintf("key %q of Secret %s %v", key, ref, err)
		default:
			p.Value = password
		}
		after[key] = p
	}
	return after
}

// A secretWatch reads the one Secret, from when a configuration first needs it: a Secret that cannot be read is nobody's
// concern whose peers have no password. It is the loop's.
type secretWatch struct {
	ref    string // namespace/name
	watch  func() // begins to read
	asked  time.Time
	read   bool           // it has been, or there is none
	secret *corev1.Secret // nil: there is none
	known  map[string]Password
}

// passwords returns what is known of the keys that the node's peers need.
func (s *Speaker) passwords() map[string]Password {
	var keys []string
	for _, p := range s.config.Peers {
		if p.PasswordKey != "" && loadbalancer.Selects(p.NodeSelectors, s.node.Labels) && !slices.Contains(keys, p.PasswordKey) {
			keys = append(keys, p.PasswordKey)
		}
	}
	if len(keys) > 0 && s.secret.asked.IsZero() {
		s.secret.asked = time.Now()
		s.secret.watch()
	}
	return s.secret.look(keys)
}

// patience is when it is worth a word that the Secret has not been read; zero: never.
func (w *secretWatch) patience(now time.Time) time.Time {
	if at := w.asked.Add(secretPatience); !w.asked.IsZero() && !w.read && now.Before(at) {
		return at
	}
	return time.Time{}
}

// look returns what is known of these keys now, and remembers it.
func (w *secretWatch) look(keys []string) map[string]Password {
	before := w.known
	if len(keys) > 0 && !w.read {
		w.known = make(map[string]Password, len(keys))
		for _, key := range keys {
			p := before[key]
			if time.Since(w.asked) >= secretPatience {
				p.Why = fmt.Sprintf("Secret %s has not been read yet: may this speaker list and watch it?", w.ref)
			}
			w.known[key] = p
		}
		return w.known
	}
	w.known = Passwords(before, keys, w.ref, w.secret)
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		if p := w.known[key]; p.Value != "" && p.Why != "" && p.Why != before[key].Why {
			klog.InfoS("Kept the previous password", "why", p.Why)
		}
	}
	return w.known
}
