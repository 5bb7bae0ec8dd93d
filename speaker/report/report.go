// Package report is what a speaker answers to GET /routes: what it has told its routers, and what it has not.
//
// It is a format that programs of other versions read, also such as run on other systems than Linux, and no more: speakers
// fill it, and kubectl metallb reads it. New fields may come within a Version; what is there keeps its name and meaning.
package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// Path is where the document is, and the nonResourceURL that whoever asks must be allowed to get.
	Path = "/routes"
	// Version is that of the format. Another one means something else by the same names.
	Version = 1
)

// A Document is the whole answer.
type Document struct {
	Version int    `json:"version"`
	Node    string `json:"node"`
	// Hash is of the configuration in force, as the admitted copy has it; empty: none is.
	Hash string `json:"hash"`
	// Problems are why this node does not speak to some router, or to none, in the words of the log.
	Problems []string   `json:"problems,omitempty"`
	Sessions []Session  `json:"sessions,omitempty"`
	Withheld []Withheld `json:"withheld,omitempty"` // by Service
}

// A Session is one with a router that the configuration gives this node, whether it is up or not.
type Session struct {
	Peer    string     `json:"peer"` // the peer's name
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	ASN     uint32     `json:"asn"` // the router's
	// State is RFC 4271's: Idle (also between two attempts), Connect, OpenSent, OpenConfirm or Established.
	State string `json:"state"`
	// Since is when the session last came up or went down, or was first asked for.
	Since time.Time `json:"since,omitzero"`
	// Attempts have failed since the session was last up.
	Attempts int `json:"attempts"`
	// Reason says why the session is down, or why some route cannot be sent while it is up.
	Reason string  `json:"reason,omitempty"`
	Terms  *Terms  `json:"terms,omitempty"`  // while it is established
	BFD    string  `json:"bfd,omitempty"`    // how BFD is with the router; empty: the peer has no bfd-profile
	Routes []Route `json:"routes,omitempty"` // by prefix
	// Skipped counts the routes that Read did not keep.
	Skipped int `json:"-"`
}

// What BFD may be, in RFC 5880's names. AdminDown is what the router took down itself.
const (
	BFDUp        = "Up"
	BFDDown      = "Down"
	BFDAdminDown = "AdminDown"
	BFDUnknown   = "Unknown" // no responder of this node says
)

// Terms are what a speaker and a router have agreed on. Times are in seconds.
type Terms struct {
	Families []string `json:"families"` // IPv4, IPv6
	// HoldTime is after how much silence either gives the other up; 0: never.
	HoldTime      int `json:"holdTime"`
	KeepaliveTime int `json:"keepaliveTime"`
	// RestartTime is for how long the router keeps the routes when the speaker goes without a word; 0: it does not.
	RestartTime     int  `json:"restartTime"`
	FourOctetAS     bool `json:"fourOctetAS"`     // RFC 6793
	ExtendedNextHop bool `json:"extendedNextHop"` // IPv4 prefixes may have IPv6 next hops (RFC 8950)
}

// A Route is a prefix as it was last sent to the router, with the attributes that were on the wire.
type Route struct {
	Prefix  netip.Prefix `json:"prefix"`
	NextHop netip.Addr   `json:"nextHop"`
	Origin  string       `json:"origin"`
	ASPath  []uint32     `json:"asPath"`
	// AS4Path is for a router that knows only 2-byte AS numbers.
	AS4Path   []uint32 `json:"as4Path,omitempty"`
	LocalPref *uint32  `json:"localPref,omitempty"` // on iBGP
	// Communities are two numbers each, and LargeCommunities three.
	Communities      []string `json:"communities,omitempty"`
	LargeCommunities []string `json:"largeCommunities,omitempty"`
	// LinkBandwidth is in bytes per second, as in RFC 10005's extended community, which is the transitive one here.
	LinkBandwidth float32 `json:"linkBandwidth,omitempty"`
}

// A Withheld is an address of a Service that this node does not announce.
type Withheld struct {
	Service string     `json:"service"` // namespace/name
	Address netip.Addr `json:"address"`
	Why     string     `json:"why"` // in the words of the log
}

// Write writes a Document whose lists may be long: what is in them is asked for when what was before is written.
func Write(w io.Writer, d Document, sessions iter.Seq2[Session, iter.Seq[Route]], withheld iter.Seq[Withheld]) error {
	out := bufio.NewWriter(w) // remembers the first error
	if err := begin(out, d, "sessions"); err != nil {
		return err
	}
	comma := ""
	for session, routes := range sessions {
		_, _ = out.WriteString(comma)
		if err := begin(out, session, "routes"); err != nil {
			return err
		}
		if err := list(out, routes); err != nil {
			return err
		}
		comma = "}," // that of the session before
	}
	_, _ = out.WriteString(strings.TrimSuffix(comma, ",") + `],"withheld":[`)
	if err := list(out, withheld); err != nil {
		return err
	}
	_, _ = out.WriteString("}\n")
	return out.Flush()
}

// begin writes an object to which a list is added, but not what is in it.
func begin(out *bufio.Writer, object any, list string) error {
	b, err := json.Marshal(object)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, `%s,"%s":[`, b[:len(b)-1], list)
	return err
}

// list writes what is in a list, and its end.
func list[T any](out *bufio.Writer, all iter.Seq[T]) error {
	comma := ""
	for one := range all {
		b, err := json.Marshal(one)
		if err != nil {
			return err
		}
		if _, err := out.WriteString(comma + string(b)); err != nil {
			return err // nobody reads any more
		}
		comma = ","
	}
	return out.WriteByte(']')
}

// Read reads a Document, and keeps of its long lists only what is about prefixes of which keep says so: however long they are, no more
// is in memory than that.
func Read(r io.Reader, keep func(netip.Prefix) bool) (d Document, err error) {
	in := json.NewDecoder(r)
	err = object(in, &d, map[string]func() error{
		"sessions": func() error {
			var s Session
			var kept []Route
			skipped := 0
			err := object(in, &s, map[string]func() error{"routes": func() error {
				var r Route
				if err := in.Decode(&r); err != nil || !keep(r.Prefix) {
					skipped++
					return err
				}
				if len(kept) > 0 { // most routes of a session have the same attributes: one copy of them is enough
					r.share(kept[len(kept)-1])
				}
				kept = append(kept, r)
				return nil
			}})
			s.Routes, s.Skipped = kept, skipped
			d.Sessions = append(d.Sessions, s)
			return err
		},
		"withheld": func() error {
			var w Withheld
			if err := in.Decode(&w); err != nil || !keep(netip.PrefixFrom(w.Address, w.Address.BitLen())) {
				return err
			}
			d.Withheld = append(d.Withheld, w)
			return nil
		},
	})
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return d, err
}

// share lets the route have the other's lists where they are equal.
func (r *Route) share(other Route) {
	if slices.Equal(r.ASPath, other.ASPath) {
		r.ASPath = other.ASPath
	}
	if slices.Equal(r.Communities, other.Communities) {
		r.Communities = other.Communities
	}
	if slices.Equal(r.LargeCommunities, other.LargeCommunities) {
		r.LargeCommunities = other.LargeCommunities
	}
}

// object decodes an object, but for the elements of its long lists, which are left to others one by one.
func object(in *json.Decoder, into any, long map[string]func() error) error {
	if err := delimiter(in, '{'); err != nil {
		return err
	}
	short := map[string]json.RawMessage{}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string) // as all keys are
		element := long[name]
		if element == nil {
			var value json.RawMessage
			if err := in.Decode(&value); err != nil {
				return err
			}
			short[name] = value
			continue
		}
		if err := delimiter(in, '['); err != nil {
			return err
		}
		for in.More() {
			if err := element(); err != nil {
				return err
			}
		}
		if err := delimiter(in, ']'); err != nil {
			return err
		}
	}
	if err := delimiter(in, '}'); err != nil {
		return err
	}
	text, err := json.Marshal(short)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func delimiter(in *json.Decoder, want json.Delim) error {
	if got, err := in.Token(); err != nil {
		return err
	} else if got != want {
		return fmt.Errorf("%v stands where %v has to", got, want)
	}
	return nil
}

// page is how many entries of a map are looked at in one go.
const page = 1000

// InOrder goes through a map that others change meanwhile: pick takes of each entry what is wanted. The lock is held only while
// the next page is found, so that whoever takes long keeps nobody waiting, and memory does not depend on how large the map is.
// What comes or goes behind what was reached is missed. No key is the zero value.
func InOrder[K comparable, V, T any](lock sync.Locker, all map[K]V, compare func(a, b K) int, pick func(V) T) iter.Seq2[K, T] {
	type entry struct {
		key K
		is  T
	}
	next := func(after K) (some []entry) {
		lock.Lock()
		defer lock.Unlock()
		first := func() {
			slices.SortFunc(some, func(a, b entry) int { return compare(a.key, b.key) })
			some = some[:min(len(some), page)]
		}
		var bound *K // from which on there is no need to look
		for key, value := range all {
			if compare(key, after) <= 0 || bound != nil && compare(key, *bound) > 0 {
				continue
			}
			if some = append(some, entry{key, pick(value)}); len(some) == 2*page {
				first()
				last := some[page-1].key
				bound = &last
			}
		}
		first()
		return some
	}
	return func(yield func(K, T) bool) {
		var reached K
		for some := next(reached); len(some) > 0; some = next(reached) {
			for _, e := range some {
				if !yield(e.key, e.is) {
					return
				}
				reached = e.key
			}
		}
	}
}
