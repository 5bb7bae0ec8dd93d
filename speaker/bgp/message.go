package bgp

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

const (
	headerLen  = bgp.BGP_HEADER_LENGTH
	maxMessage = bgp.BGP_MAX_MESSAGE_LENGTH
)

// A message is what a router sent: its type, and its body unless nobody reads that type's.
type message struct {
	kind uint8
	body []byte
}

// readMessage reads one message. An error is a *notification where the router broke the framing, else the reader's own.
//
// Memory does not depend on what the router claims: at most 4 KiB for a message, nothing for a KEEPALIVE or an UPDATE.
// The body of an UPDATE is skipped: we need no routes, and what is never parsed cannot crash us.
func readMessage(r *bufio.Reader) (message, error) {
	header, err := r.Peek(headerLen)
	if err != nil {
		return message{}, err
	}
	for _, b := range header[:16] {
		if b != 0xff {
			return message{}, &notification{code: 1, subcode: 1, why: "the router sent a message without the marker of 16 × 0xff"}
		}
	}
	length, kind := int(binary.BigEndian.Uint16(header[16:])), header[18]
	badLength := func() error {
		return &notification{code: 1, subcode: 2, data: binary.BigEndian.AppendUint16(nil, uint16(length)),
			why: fmt.Sprintf("the router sent a message of type %d and length %d", kind, length)}
	}
	if length < headerLen || length > maxMessage {
		return message{}, badLength()
	}
	switch {
	case kind < bgp.BGP_MSG_OPEN || kind > bgp.BGP_MSG_ROUTE_REFRESH:
		return message{}, &notification{code: 1, subcode: 3, data: []byte{kind},
			why: fmt.Sprintf("the router sent a message of unknown type %d", kind)}
	case kind == bgp.BGP_MSG_OPEN && length < 29,
		kind == bgp.BGP_MSG_UPDATE && length < 23,
		kind == bgp.BGP_MSG_NOTIFICATION && length < 21,
		kind == bgp.BGP_MSG_KEEPALIVE && length != headerLen,
		kind == bgp.BGP_MSG_ROUTE_REFRESH && length < 23:
		return message{}, badLength()
	case kind == bgp.BGP_MSG_UPDATE, kind == bgp.BGP_MSG_KEEPALIVE:
		_, err := r.Discard(length)
		return message{kind: kind}, err
	}
	whole := make([]byte, length)
	if _, err := io.ReadFull(r, whole); err != nil {
		return message{}, err
	}
	return message{kind: kind, body: whole[headerLen:]}, nil
}

// appendHeader begins a message, to be completed by setLength.
func appendHeader(b []byte, kind uint8) []byte {
	for range 16 {
		b = append(b, 0xff)
	}
	return append(b, 0, headerLen, kind)
}

// setLength writes into msg, a whole message, how long it is.
func setLength(msg []byte) { binary.BigEndian.PutUint16(msg[16:], uint16(len(msg))) }

var keepaliveMessage = appendHeader(nil, bgp.BGP_MSG_KEEPALIVE)

// A notification ends a session with a NOTIFICATION of ours: why says to our operator what code, subcode and data say to
// the router's.
type notification struct {
	code, subcode uint8
	data          []byte
	why           string
}

func (n *notification) Error() string { return n.why }

func (n *notification) message() []byte {
	b := append(appendHeader(nil, bgp.BGP_MSG_NOTIFICATION), n.code, n.subcode)
	b = append(b, n.data...)
	setLength(b)
	return b
}

// Subcodes of Cease (RFC 4486) that we send.
const (
	ceaseShutdown     = bgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN
	ceaseDeconfigured = bgp.BGP_ERROR_SUB_PEER_DECONFIGURED
	ceaseReconfigured = bgp.BGP_ERROR_SUB_OTHER_CONFIGURATION_CHANGE
)

// A refusal is a NOTIFICATION that the router sent (RFC 4271's NotifMsg).
type refusal struct {
	code, subcode uint8
	text          string // of the router's operator (RFC 9003), harmless to print; may be empty
}

// newRefusal reads a NOTIFICATION, of which readMessage has made sure that it has a code and a subcode.
func newRefusal(body []byte) *refusal {
	r := &refusal{code: body[0], subcode: body[1]}
	data := body[2:]
	shutdown := r.code == bgp.BGP_ERROR_CEASE &&
		(r.subcode == bgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN || r.subcode == bgp.BGP_ERROR_SUB_ADMINISTRATIVE_RESET)
	if shutdown && len(data) > 0 && int(data[0]) < len(data) {
		// Whoever runs the router chooses the text, so it must not be able to forge a log line or move a terminal's cursor.
		r.text = strings.Map(func(c rune) rune {
			if unicode.IsPrint(c) {
				return c
			}
			return utf8.RuneError
		}, string(data[1:1+int(data[0])]))
	}
	return r
}

// unsupported reports whether the router refused our OPEN because of what it offers.
func (r *refusal) unsupported() bool {
	return r.code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR &&
		(r.subcode == bgp.BGP_ERROR_SUB_UNSUPPORTED_OPTIONAL_PARAMETER || r.subcode == bgp.BGP_ERROR_SUB_UNSUPPORTED_CAPABILITY)
}

// unreadable reports whether the router could not read our OPEN.
func (r *refusal) unreadable() bool {
	return r.code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && r.subcode == 0
}

// shutdownData is the data of an Administrative Shutdown that carries text (RFC 9003).
func shutdownData(text string) []byte {
	// 255 bytes are allowed; 128 are what routers of before 2021 understand (RFC 8203).
	const most = 128
	text = strings.ToValidUTF8(text[:min(len(text), most)], "") // without half a character at the end
	return append([]byte{byte(len(text))}, text...)
}
