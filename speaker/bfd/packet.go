package bfd

import (
	"errors"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
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
	return layers.BFDDiagnostic(d).String()
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

const version = 1

// read reads what UDP carried. It takes what RFC 5880 §6.8.6 lets pass before a session is looked for, and nothing authenticated,
// because no session of ours is.
func read(payload []byte) (Packet, error) {
	var on layers.BFD
	if err := on.DecodeFromBytes(payload, gopacket.NilDecodeFeedback); err != nil {
		return Packet{}, errMalformed
	}
	p := Packet{
		Diagnostic: Diagnostic(on.Diagnostic), State: State(on.State), Poll: on.Poll, Final: on.Final, Demand: on.Demand,
		DetectMult: uint8(on.DetectMultiplier), Mine: uint32(on.MyDiscriminator), Yours: uint32(on.YourDiscriminator),
		DesiredMinTx: microseconds(on.DesiredMinTxInterval), RequireMinRx: microseconds(on.RequiredMinRxInterval),
	}
	switch {
	case on.Version != version, on.Multipoint, p.DetectMult == 0, p.Mine == 0:
		return Packet{}, errMalformed
	case p.Yours == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, errMalformed
	case on.AuthPresent:
		return Packet{}, errAuthentication
	}
	return p, nil
}

// A writer makes payloads of packets, each valid until the next.
type writer struct{ buffer gopacket.SerializeBuffer }

func (w *writer) write(p Packet) []byte {
	if w.buffer == nil {
		w.buffer = gopacket.NewSerializeBuffer()
	}
	on := layers.BFD{
		Version: version, Diagnostic: layers.BFDDiagnostic(p.Diagnostic), State: layers.BFDState(p.State), Poll: p.Poll, Final: p.Final, Demand: p.Demand,
		DetectMultiplier: layers.BFDDetectMultiplier(p.DetectMult),
		MyDiscriminator:  layers.BFDDiscriminator(p.Mine), YourDiscriminator: layers.BFDDiscriminator(p.Yours),
		DesiredMinTxInterval: layers.BFDTimeInterval(p.DesiredMinTx.Microseconds()), RequiredMinRxInterval: layers.BFDTimeInterval(p.RequireMinRx.Microseconds()),
	}
	_ = w.buffer.Clear()                                      // fails never
	_ = on.SerializeTo(w.buffer, gopacket.SerializeOptions{}) // fails only with authentication
	return w.buffer.Bytes()
}

func microseconds(n layers.BFDTimeInterval) time.Duration { return time.Duration(n) * time.Microsecond }
