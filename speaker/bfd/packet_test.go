package bfd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

func unhex(text string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "").Replace(text))
	if err != nil {
		panic(err)
	}
	return b
}

// An up is RFC 5880 §4.1's figure with state Up, multiplier 3, discriminators 1 and 2, and 100 ms and 200 ms.
const up = "20 c0 03 18 00000001 00000002 000186a0 00030d40 00000000"

func TestPacketsAreReadAsRFC5880WritesThem(t *testing.T) {
	for _, row := range []struct {
		then, bytes string
		want        Packet
		err         error
	}{
		{then: "up", bytes: up, want: Packet{State: Up, DetectMult: 3, Mine: 1, Yours: 2, DesiredMinTx: 100 * ms, RequireMinRx: 200 * ms}},
		{then: "all flags that a session may see, and a diagnostic",
			bytes: "23 7a ff 18 ffffffff 00000002 ffffffff 00000000 00000001",
			want: Packet{Diagnostic: NeighborSaysDown, State: Down, Poll: true, Final: true, Demand: true, DetectMult: 255,
				Mine: 0xffffffff, Yours: 2, DesiredMinTx: 0xffffffff * time.Microsecond}},
		{then: "it knows nobody, and is down", bytes: "20 40 03 18 00000001 00000000 000f4240 00030d40 00000000",
			want: Packet{State: Down, DetectMult: 3, Mine: 1, DesiredMinTx: time.Second, RequireMinRx: 200 * ms}},
		{then: "it knows nobody, and is administratively down", bytes: "27 00 03 18 00000001 00000000 000f4240 00030d40 00000000",
			want: Packet{Diagnostic: SaidToBeDown, State: AdminDown, DetectMult: 3, Mine: 1, DesiredMinTx: time.Second, RequireMinRx: 200 * ms}},
		{then: "a diagnostic that nobody has defined", bytes: strings.Replace(up, "20", "3f", 1),
			want: Packet{Diagnostic: 31, State: Up, DetectMult: 3, Mine: 1, Yours: 2, DesiredMinTx: 100 * ms, RequireMinRx: 200 * ms}},
		{then: "UDP carries more than the packet", bytes: up + " 00000000 ff",
			want: Packet{State: Up, DetectMult: 3, Mine: 1, Yours: 2, DesiredMinTx: 100 * ms, RequireMinRx: 200 * ms}},

		{then: "nothing", bytes: "", err: errMalformed},
		{then: "a byte is missing", bytes: up[:len(up)-2], err: errMalformed},
		{then: "the length is less than a packet has", bytes: strings.Replace(up, " 18 ", " 17 ", 1), err: errMalformed},
		{then: "the length is more than there is", bytes: strings.Replace(up, " 18 ", " 19 ", 1), err: errMalformed},
		{then: "version 0", bytes: "00" + up[2:], err: errMalformed},
		{then: "version 2", bytes: "40" + up[2:], err: errMalformed},
		{then: "multipoint", bytes: strings.Replace(up, "c0", "c1", 1), err: errMalformed},
		{then: "a multiplier of 0", bytes: strings.Replace(up, "c0 03", "c0 00", 1), err: errMalformed},
		{then: "no discriminator", bytes: strings.Replace(up, "00000001", "00000000", 1), err: errMalformed},
		{then: "it knows nobody, and is up", bytes: strings.Replace(up, "00000002", "00000000", 1), err: errMalformed},
		{then: "it knows nobody, and is coming up", bytes: "20 80 03 18 00000001 00000000 000186a0 00030d40 00000000", err: errMalformed},
		{then: "authenticated, without room for it", bytes: strings.Replace(up, "c0", "c4", 1), err: errAuthentication},
		{then: "authenticated by a password", bytes: "20 c4 03 21 00000001 00000002 000186a0 00030d40 00000000 01 09 01 736563726574", err: errAuthentication},
		{then: "authenticated by MD5, cut short", bytes: "20 c4 03 1b 00000001 00000002 000186a0 00030d40 00000000 02 18 01", err: errAuthentication},
	} {
		got, err := read(unhex(row.bytes))
		if !errors.Is(err, row.err) || got != row.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", row.then, got, err, row.want, row.err)
		}
	}
}

// What FRR 8.4.4 and BIRD 2.0.12 sent to our responder, and it to them.
func TestPacketsOfOtherRoutersAreReadAndWritten(t *testing.T) {
	p := func(state State, mine, yours uint32, tx time.Duration) Packet {
		return Packet{State: state, DetectMult: 3, Mine: mine, Yours: yours, DesiredMinTx: tx, RequireMinRx: 100 * ms}
	}
	frr, bird := p(Init, 0x21174357, 0x5648c8eb, time.Second), p(Down, 0x84014a29, 0x36b79147, time.Second)
	frr.RequireMinRx, bird.Diagnostic, bird.Poll = time.Second, NeighborSaysDown, true
	gone := p(AdminDown, 0x36b79147, 0x84014a29, time.Second)
	gone.Diagnostic, gone.Poll = SaidToBeDown, true
	for _, row := range []struct {
		then, bytes string
		want        Packet
		ours        bool
	}{
		{"FRR comes up", "20800318 21174357 5648c8eb 000f4240 000f4240 0000c350", frr, false},
		{"FRR polls", "20e00318 21174357 5648c8eb 000186a0 000186a0 0000c350", polled(p(Up, 0x21174357, 0x5648c8eb, 100*ms)), false},
		{"FRR answers our poll", "20d00318 21174357 5648c8eb 000186a0 000186a0 0000c350", final(p(Up, 0x21174357, 0x5648c8eb, 100*ms)), false},
		{"BIRD polls", "20e00318 84014a29 36b79147 000186a0 000186a0 00000000", polled(p(Up, 0x84014a29, 0x36b79147, 100*ms)), false},
		{"BIRD heard that we stop", "23600318 84014a29 36b79147 000f4240 000186a0 00000000", bird, false},
		{"we begin", "20400318 5648c8eb 00000000 000f4240 000186a0 00000000", p(Down, 0x5648c8eb, 0, time.Second), true},
		{"we poll", "20e00318 5648c8eb 21174357 000186a0 000186a0 00000000", polled(p(Up, 0x5648c8eb, 0x21174357, 100*ms)), true},
		{"we answer a poll", "20d00318 5648c8eb 21174357 000186a0 000186a0 00000000", final(p(Up, 0x5648c8eb, 0x21174357, 100*ms)), true},
		{"we stop", "27200318 36b79147 84014a29 000f4240 000186a0 00000000", gone, true},
	} {
		got, err := read(unhex(row.bytes))
		if err != nil || got != row.want {
			t.Errorf("%s: %+v, %v; want %+v", row.then, got, err, row.want)
		}
		if b := write(row.want); row.ours && !bytes.Equal(b, unhex(row.bytes)) {
			t.Errorf("%s: we write %x, want %s", row.then, b, row.bytes)
		}
	}
}

// FuzzPacket reads anything. What it takes, it writes as it was, but for what we do not say: the C bit and the echo interval.
func FuzzPacket(f *testing.F) {
	f.Add(unhex(up))
	f.Add(unhex("20 c4 03 21 00000001 00000002 000186a0 00030d40 00000000 01 09 01 736563726574"))
	f.Add(unhex("23 7a ff 18 ffffffff 00000002 ffffffff 00000000 00000001"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := read(payload)
		if err != nil {
			if p != (Packet{}) {
				t.Errorf("%v: it has %+v all the same", err, p)
			}
			return
		}
		if p.DetectMult == 0 || p.Mine == 0 || p.Yours == 0 && p.State > Down {
			t.Errorf("it takes %+v", p)
		}
		want := bytes.Clone(payload[:24])
		want[1] &^= 0x08
		want[3] = 24
		binary.BigEndian.PutUint32(want[20:], 0)
		if got := write(p); !bytes.Equal(got, want) {
			t.Errorf("it writes\n%x as\n%x", payload, got)
		}
	})
}
