package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A State is one of a session (RFC 5880 §4.1).
type State uint8

const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string { return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3] }

// A Diagnostic says why a session changed its state (RFC 5880 §4.1).
type Diagnostic uint8

const (
	NoDiagnostic     Diagnostic = 0
	TimeExpired      Diagnostic = 1
	NeighborSaysDown Diagnostic = 3
	SaidToBeDown     Diagnostic = 7
)

func (d Diagnostic) String() string {
	switch d {
	case NoDiagnostic:
		return "no diagnostic"
	case TimeExpired:
		return "control detection time expired"
	case NeighborSaysDown:
		return "neighbor signaled session down"
	case SaidToBeDown:
		return "administratively down"
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

// A Packet is a BFD Control packet that RFC 5880 §6.8.6 lets a session without authentication see. Intervals are whole microseconds.
type Packet struct {
	Diagnostic   Diagnostic
	State        State
	Poll, Final  bool
	Demand       bool
	DetectMult   uint8
	Mine, Yours  uint32 // discriminators, of who sends and who receives
	DesiredMinTx time.Duration
	RequireMinRx time.Duration
}

// Why a packet is not taken. They are the values of a metric's label.
var (
	errMalformed      = errors.New("malformed")
	errAuthentication = errors.New("authentication")
	errTTL            = errors.New("ttl")
	errUnknown        = errors.New("unknown-session")
	errAddress        = errors.New("address")
	errPort           = errors.New("port")
	reasons           = []error{errMalformed, errAuthentication, errTTL, errUnknown, errAddress, errPort}
)

const (
	version = 1
	length  = 24 // without authentication
)

// The bits of the second byte, below the state (RFC 5880 §4.1). We neither say nor ask whether a router's BFD is independent of its
// control plane, bit C.
const (
	bitPoll, bitFinal, bitAuthentication, bitDemand, bitMultipoint = 1 << 5, 1 << 4, 1 << 2, 1 << 1, 1 << 0

	stateShift = 6
)

// read reads what UDP carried. It takes what RFC 5880 §6.8.6 lets pass before a session is looked for, and nothing authenticated,
// because no session of ours is.
func read(payload []byte) (Packet, error) {
	if len(payload) < length || payload[3] < length || int(payload[3]) > len(payload) {
		return Packet{}, errMalformed
	}
	flags := payload[1]
	number := func(at int) uint32 { return binary.BigEndian.Uint32(payload[at:]) }
	microseconds := func(at int) time.Duration { return time.Duration(number(at)) * time.Microsecond }
	p := Packet{
		Diagnostic: Diagnostic(payload[0] & 31), State: State(flags >> stateShift),
		Poll: flags&bitPoll != 0, Final: flags&bitFinal != 0, Demand: flags&bitDemand != 0,
		DetectMult: payload[2], Mine: number(4), Yours: number(8), DesiredMinTx: microseconds(12), RequireMinRx: microseconds(16),
	}
	switch {
	case payload[0]>>5 != version, flags&bitMultipoint != 0, p.DetectMult == 0, p.Mine == 0:
		return Packet{}, errMalformed
	case p.Yours == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, errMalformed
	case flags&bitAuthentication != 0:
		return Packet{}, errAuthentication
	}
	return p, nil
}

// write returns the payload of a packet. The last four bytes are the echo interval: we want no echo.
func write(p Packet) []byte {
	flags := byte(p.State) << stateShift
	if p.Poll {
		flags |= bitPoll
	}
	if p.Final {
		flags |= bitFinal
	}
	if p.Demand {
		flags |= bitDemand
	}
	b := append(make([]byte, 0, length), version<<5|byte(p.Diagnostic), flags, p.DetectMult, length)
	for _, n := range []uint32{p.Mine, p.Yours, uint32(p.DesiredMinTx.Microseconds()), uint32(p.RequireMinRx.Microseconds()), 0} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}
