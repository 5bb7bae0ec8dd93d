package bgp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// What operators read when there is no session: the same cause always in the same words.

// isFarewell reports whether it was we who ended the session, on purpose.
func isFarewell(err error) bool { return errors.As(err, new(farewell)) }

var kindNames = map[uint8]string{
	bgp.BGP_MSG_OPEN: "OPEN", bgp.BGP_MSG_UPDATE: "UPDATE", bgp.BGP_MSG_NOTIFICATION: "NOTIFICATION",
	bgp.BGP_MSG_KEEPALIVE: "KEEPALIVE", bgp.BGP_MSG_ROUTE_REFRESH: "ROUTE-REFRESH",
}

var expected = map[state]string{openSent: "OPEN", openConfirm: "KEEPALIVE", established: "UPDATE or KEEPALIVE"}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the router sent NOTIFICATION %d/%d", r.code, r.subcode)
	if name, ok := notificationNames[[2]uint8{r.code, r.subcode}]; ok {
		text += " (" + name + ")"
	} else if name, ok := notificationNames[[2]uint8{r.code}]; ok {
		text += " (" + name + ")"
	}
	if r.text != "" {
		text += `: "` + r.text + `"`
	}
	return text
}

// notificationNames are IANA's names of codes and subcodes; those of GoBGP's codec end at Cease/8.
var notificationNames = map[[2]uint8]string{
	{1, 0}: "Message Header Error", {1, 1}: "Connection Not Synchronized", {1, 2}: "Bad Message Length",
	{1, 3}: "Bad Message Type",
	{2, 0}: "OPEN Message Error", {2, 1}: "Unsupported Version Number", {2, 2}: "Bad Peer AS",
	{2, 3}: "Bad BGP Identifier", {2, 4}: "Unsupported Optional Parameter", {2, 6}: "Unacceptable Hold Time",
	{2, 7}: "Unsupported Capability", {2, 11}: "Role Mismatch",
	{3, 0}: "UPDATE Message Error", {3, 1}: "Malformed Attribute List", {3, 2}: "Unrecognized Well-known Attribute",
	{3, 3}: "Missing Well-known Attribute", {3, 4}: "Attribute Flags Error", {3, 5}: "Attribute Length Error",
	{3, 6}: "Invalid ORIGIN Attribute", {3, 8}: "Invalid NEXT_HOP Attribute", {3, 9}: "Optional Attribute Error",
	{3, 10}: "Invalid Network Field", {3, 11}: "Malformed AS_PATH",
	{4, 0}: "Hold Timer Expired",
	{5, 0}: "Finite State Machine Error", {5, 1}: "Unexpected Message in OpenSent State",
	{5, 2}: "Unexpected Message in OpenConfirm State", {5, 3}: "Unexpected Message in Established State",
	{6, 0}: "Cease", {6, 1}: "Cease: Maximum Number of Prefixes Reached", {6, 2}: "Cease: Administrative Shutdown",
	{6, 3}: "Cease: Peer De-configured", {6, 4}: "Cease: Administrative Reset", {6, 5}: "Cease: Connection Rejected",
	{6, 6}: "Cease: Other Configuration Change", {6, 7}: "Cease: Connection Collision Resolution",
	{6, 8}: "Cease: Out of Resources", {6, 9}: "Cease: Hard Reset", {6, 10}: "Cease: BFD Down",
	{7, 0}: "ROUTE-REFRESH Message Error", {7, 1}: "Invalid Message Length",
	{8, 0}: "Send Hold Timer Expired",
}

// inWords says why a conversation ended, so that the same cause always reads the same: the errors of package net name the
// port on our side, which is another one every time.
func (c *conversation) inWords(err error) error {
	hint := ""
	if c.state == openSent {
		hint = " in answer to our OPEN: does it know this node as a neighbor, with AS number " + fmt.Sprint(c.peer.MyASN) + "?"
	}
	var r *refusal
	switch {
	case errors.As(err, &r) && r.code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && r.subcode == bgp.BGP_ERROR_SUB_BAD_PEER_AS:
		return fmt.Errorf("%w: my-asn is %d, and it expects another AS number of this node", r, c.peer.MyASN)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe):
		return errors.New("the router closed the connection" + hint)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("the router reset the connection" + hint)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the router has read nothing for %v", writeTimeout)
	}
	return plain(err)
}

// dialError says why there is no connection.
func (s *session) dialError(err error) error {
	router := netip.AddrPortFrom(s.peer.Addr, s.peer.Port)
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s refuses connections: does BGP run there, and does it know this node as a neighbor?", router)
	case errors.Is(err, syscall.EADDRNOTAVAIL) && s.peer.SourceAddress.IsValid():
		return fmt.Errorf("source-address %s is not an address of this node", s.peer.SourceAddress)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s does not answer: %s", router, s.whySilent())
	}
	return fmt.Errorf("%s cannot be reached: %w", router, plain(err))
}

// whySilent says what may keep a router from answering. It drops packets that are signed with another password than its
// own, or should be signed and are not, and so does our kernel: neither tells anybody.
func (s *session) whySilent() string {
	ask := "is there a route to it, and does no firewall drop packets to its port?"
	switch {
	case s.peer.Password != "":
		ask += " And is its password for this node the same as ours? Packets with another one are dropped without a word."
	default:
		ask += " And does it want a password?"
	}
	if s.peer.MinTTL > 0 {
		ask += " " + s.askTTL()
	}
	return ask
}

func (s *session) askTTL() string {
	return fmt.Sprintf("ttl-security drops its packets if they arrive with a TTL below %d: does it send with 255, and is it no further away?", s.peer.MinTTL)
}

// plain returns what the kernel said, without the addresses around it.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
