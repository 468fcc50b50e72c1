package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// TestVersionAndCommandByte sweeps the 13th byte (specification, section 2.2:
// "only values of 2 … receivers must drop … unexpected values").
func TestVersionAndCommandByte(t *testing.T) {
	b := mustV2(t, Message{Command: CommandProxy, Source: client4, Destination: service4})
	for value := range 256 {
		b[12] = byte(value)
		h, err := Decode(b, nil)
		switch value {
		case 0x20, 0x21:
			if want := []Result{Local, Proxy}[value&1]; err != nil || h.Result != want {
				t.Errorf("0x%02x: %v, %v, want %v", value, h.Result, err, want)
			}
			continue
		}
		want := "v2 version"
		if value>>4 == 2 {
			want = "v2 command"
		}
		if e := refusal(t, err); e.Offset != 13 || e.Reason.String() != want || e.Reason.Class() != Unsupported {
			t.Errorf("0x%02x: %v, want %s after 13", value, err, want)
		}
	}
}

// TestProtocolByte sweeps the 14th byte, with a block long enough for every
// family and with an empty block.
func TestProtocolByte(t *testing.T) {
	for _, datagram := range []bool{false, true} {
		for value := range 256 {
			long := append([]byte(Signature), 0x21, byte(value), 0, unixLength)
			long = append(long, make([]byte, unixLength)...)
			short := append([]byte(Signature), 0x21, byte(value), 0, 0)
			o := &Options{Datagram: datagram}
			wantLong, wantShort := protocolOracle(byte(value), datagram)
			if got := answer(Decode(long, o)); got != wantLong {
				t.Errorf("0x%02x datagram %v, long block: %s, want %s", value, datagram, got, wantLong)
			}
			if got := answer(Decode(short, o)); got != wantShort {
				t.Errorf("0x%02x datagram %v, empty block: %s, want %s", value, datagram, got, wantShort)
			}
			long[12], short[12] = 0x20, 0x20
			for _, b := range [][]byte{long, short} {
				if got := answer(Decode(b, o)); got != "local" {
					t.Errorf("LOCAL 0x%02x: %s", value, got)
				}
			}
		}
	}
}

// The values that this package exports are those of section 2.2 of the specification.
func TestNamedValues(t *testing.T) {
	for _, row := range []struct{ got, want int }{
		{int(CommandLocal), 0}, {int(CommandProxy), 1}, {int(ProtocolUnspec), 0},
		{int(ProtocolTCP4), 0x11}, {int(ProtocolUDP4), 0x12}, {int(ProtocolTCP6), 0x21}, {int(ProtocolUDP6), 0x22},
		{int(ProtocolUnixStream), 0x31}, {int(ProtocolUnixDgram), 0x32},
		{MaxV1, 107}, {MaxV2, 16 + 65535}, {MaxUniqueID, 128},
		{ClientTLS, 1}, {ClientCertConnection, 2}, {ClientCertSession, 4},
	} {
		if row.got != row.want {
			t.Errorf("%#x, want %#x", row.got, row.want)
		}
	}
}

// protocolOracle is section 2.2 of the specification as a list.
func protocolOracle(value byte, datagram bool) (long, short string) {
	const none = "length shorter than the address block"
	switch value {
	case 0x00, 0x01, 0x02, 0x10, 0x20, 0x30:
		return "unknown", "unknown"
	case 0x11, 0x21, 0x12, 0x22:
		if (value&0x0f == 2) == datagram {
			return "proxy", none
		}
		return "unknown", none
	case 0x31, 0x32:
		return "unknown", none
	}
	if value>>4 > 3 {
		return "v2 address family", "v2 address family"
	}
	return "v2 transport", "v2 transport"
}

func answer(h Header, err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason.String()
	}
	return h.Result.String()
}

// TestBitFlips flips each bit of a header with a checksum. The only flips that go
// unnoticed are those that no checksum can detect: they make the header opaque or
// incomplete, or change the type of the checksum itself.
func TestBitFlips(t *testing.T) {
	header := mustV2(t, Message{
		Command: CommandProxy, Source: client4, Destination: service4,
		TLVs: []TLV{authority}, Checksum: true,
	})
	sumType := len(header) - 7
	counts := map[string]int{}
	for bit := range len(header) * 8 {
		b := bytes.Clone(header)
		b[bit/8] ^= 1 << (bit % 8)
		got := answer(Decode(b, nil))
		switch {
		case bit/8 == sumType:
			if got != "proxy" {
				t.Errorf("bit %d of the checksum's type: %s", bit%8, got)
			}
			if got := answer(Decode(b, &Options{RequireChecksum: true})); got != "CRC32C missing" {
				t.Errorf("bit %d of the checksum's type, checksum required: %s", bit%8, got)
			}
		case got == "proxy":
			t.Errorf("bit %d of byte %d went unnoticed", bit%8, bit/8)
		}
		counts[got]++
	}
	for _, want := range []struct {
		answer string
		count  int
	}{{"proxy", 8}, {"local", 1}, {"unknown", 2}} {
		if counts[want.answer] != want.count {
			t.Errorf("%d flips give %q, want %d", counts[want.answer], want.answer, want.count)
		}
	}
}

func TestChecksumOfKnownBytes(t *testing.T) {
	// The check value of CRC-32C over "123456789" is E3069283. checksum must
	// take the four bytes at its index as zeros.
	b := append([]byte{9, 9, 9, 9}, "123456789"...)
	zeroed := append([]byte{0, 0, 0, 0}, "123456789"...)
	if got, want := checksum(b, 0), slowCRC32C(zeroed); got != want {
		t.Errorf("checksum = %08x, want %08x", got, want)
	}
	if got := slowCRC32C([]byte("123456789")); got != 0xe3069283 {
		t.Errorf("oracle = %08x", got)
	}
	if binary.BigEndian.Uint32(b) != 0x09090909 {
		t.Error("checksum modified its input")
	}
}

// slowCRC32C is CRC-32C bit by bit.
func slowCRC32C(b []byte) uint32 {
	sum := ^uint32(0)
	for _, c := range b {
		sum ^= uint32(c)
		for range 8 {
			sum = sum>>1 ^ 0x82f63b78*(sum&1)
		}
	}
	return ^sum
}
