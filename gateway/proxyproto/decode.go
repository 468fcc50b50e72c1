// Package proxyproto decodes and encodes headers of the PROXY protocol, versions
// 1 and 2, as HAProxy's doc/proxy-protocol.txt of 2026/04/27 ("the
// specification") defines them.
//
//	for {
//		h, err := proxyproto.Decode(received, nil)
//		if err != nil {
//			return err // an *Error: reason and offset
//		}
//		if h.Result != proxyproto.Incomplete {
//			break // the payload is received[h.Length:]
//		}
//		// read more into received
//	}
//
// The decoder is pure and incremental. It looks at the bytes received so far
// and accepts the header, refuses it at the first byte that violates the
// grammar, or asks for more. It does no I/O, keeps no state, and allocates only
// when it refuses. It accepts exactly the grammar of the specification; the
// caller decides whether to trust the peer and the addresses.
package proxyproto

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// Lengths of headers in bytes (specification, sections 2.1 and 2.2).
const (
	// MaxV1 is the length of the longest version 1 line, including its CRLF.
	MaxV1 = 107
	// MaxV2 is the length of the longest version 2 header that the format can
	// express.
	MaxV2 = fixedLength + math.MaxUint16
)

// Signature is the first 12 bytes of every version 2 header (specification,
// section 2.2).
const Signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	fixedLength = 16 // signature, version and command, protocol, length
	commandAt   = 12
	protocolAt  = 13
	lengthAt    = 14

	inetLength  = 12  // two IPv4 addresses and two ports
	inet6Length = 36  // two IPv6 addresses and two ports
	unixLength  = 216 // two paths of 108 bytes
)

// Options says which headers are accepted. The zero value accepts every header
// that the specification allows on a TCP connection.
type Options struct {
	// RefuseV1 and RefuseV2 refuse a version, at its first byte.
	RefuseV1, RefuseV2 bool
	// MaxLength is the maximum length of a version 2 header in bytes,
	// including its 16 fixed bytes. 0 means [MaxV2].
	MaxLength int
	// RequireChecksum refuses every header without a correct CRC32C: version 2
	// LOCAL headers too, and version 1 altogether, which cannot carry one.
	RequireChecksum bool
	// MixedFamilies accepts version 1 lines whose destination is of the other
	// address family than their source, which TCP4 or TCP6 names. The
	// specification forbids them, but nginx sends them.
	MixedFamilies bool
	// Datagram means that the input is one whole datagram. Version 1 and
	// incomplete headers are then refused, and headers with the transport
	// DGRAM carry usable addresses instead of those with STREAM.
	Datagram bool
}

// Result is what the bytes received so far are. The zero value is [Incomplete].
type Result uint8

// The results.
const (
	// Incomplete: the bytes so far are the beginning of a valid header.
	Incomplete Result = iota
	// Proxy: a header with usable addresses.
	Proxy
	// Local: a version 2 LOCAL header. The connection is the peer's own,
	// usually a health check.
	Local
	// Unknown: a valid header without usable addresses: version 1 UNKNOWN, or
	// version 2 with UNSPEC, unix sockets, or the other transport (see
	// [Options.Datagram]).
	Unknown
)

// String returns the result as a lower-case word, such as "proxy".
func (r Result) String() string {
	return [...]string{"incomplete", "proxy", "local", "unknown"}[r]
}

// Header is a decoded header.
type Header struct {
	Result Result
	// Version is 1 or 2; 0 while Result is [Incomplete].
	Version uint8
	// Protocol is the 14th byte of a version 2 header as received: the address
	// family in the high four bits, the transport in the low four. It is 0 for
	// version 1.
	Protocol byte
	// Checksum is true if the header has a CRC32C, which is correct. It is
	// false for LOCAL and UNSPEC, whose blocks are opaque, unless
	// [Options.RequireChecksum] had them searched.
	Checksum bool
	// Length is the length of the header in bytes: the payload begins at
	// b[Length]. It is 0 while Result is [Incomplete].
	Length int
	// Source and Destination are set only if Result is [Proxy]. They are as
	// received: 4-in-6 addresses are not unmapped, and port 0 is possible.
	Source, Destination netip.AddrPort
	// TLVs is the region of a version 2 header's TLVs. It aliases the input.
	// It is checked: [All] walks it to its end. It is nil for LOCAL and
	// UNSPEC, whose blocks are opaque.
	TLVs []byte
}

// Decode decodes the header at the beginning of b, which must hold everything
// received so far. A nil o means the zero [Options].
//
// If Result is [Incomplete] and the error is nil, call Decode again once b is
// longer. An error is always an [*Error], and final: no further byte can make
// the header valid. It is returned at the first byte that decides it, with two
// exceptions that the specification requires: the fields of a version 1 line
// are read only once its CRLF has arrived, and the block of a version 2 header
// only once it is complete. The way in which the bytes were split into segments
// never changes the result.
//
// Decode does not retain b, but Header.TLVs aliases it. It allocates only when
// it returns an error, and may be called from any number of goroutines.
func Decode(b []byte, o *Options) (h Header, err error) {
	if o == nil {
		o = &Options{}
	}
	if reason, offset := h.decode(b, o); reason != 0 {
		return Header{}, &Error{Reason: reason, Offset: offset}
	}
	return h, nil
}

// Missing returns the minimum number of bytes that must follow b before [Decode]
// can return a result other than [Incomplete]. It is at least 1. It is exact
// once b has the 16 fixed bytes of a version 2 header; for an empty b it is the
// length of the shortest header. b must be input that Decode found incomplete.
func Missing(b []byte) int {
	switch {
	case len(b) > 0 && b[0] == Signature[0]:
		if len(b) < fixedLength {
			return fixedLength - len(b)
		}
		return fixedLength + int(binary.BigEndian.Uint16(b[lengthAt:])) - len(b)
	case len(b) <= len("PROXY UNKNOWN"):
		return len("PROXY UNKNOWN\r\n") - len(b)
	case b[len(b)-1] == '\r':
		return 1
	}
	return len("\r\n")
}

// decode decodes b into h. Like all functions that it calls, it returns the
// reason for a refusal and the number of bytes that decided it, or 0, 0. It
// leaves h zero while the header is incomplete.
func (h *Header) decode(b []byte, o *Options) (Reason, int) {
	if o.Datagram {
		return h.decodeDatagram(b, o)
	}
	if len(b) == 0 {
		return 0, 0
	}
	switch b[0] {
	case Signature[0]:
		return h.decodeV2(b, o)
	case v1Signature[0]:
		return h.decodeV1(b, o)
	}
	return ReasonNoSignature, 1
}

// decodeDatagram decodes the header of a datagram, which must be complete.
func (h *Header) decodeDatagram(b []byte, o *Options) (Reason, int) {
	if n := matching(b, Signature); n < len(Signature) && n < len(b) {
		return ReasonDatagramSignature, n + 1
	}
	reason, offset := h.decodeV2(b, o)
	if reason == 0 && h.Result == Incomplete {
		return ReasonDatagramShort, len(b)
	}
	return reason, offset
}

func (h *Header) decodeV2(b []byte, o *Options) (Reason, int) {
	if o.RefuseV2 && len(b) > 0 {
		return ReasonV2NotAccepted, 1
	}
	if n := matching(b, Signature); n < len(Signature) {
		if n < len(b) {
			return ReasonV2Signature, n + 1
		}
		return 0, 0
	}
	if reason, offset := checkFixed(b, o); reason != 0 {
		return reason, offset
	}
	if len(b) < fixedLength {
		return 0, 0
	}
	length := fixedLength + int(binary.BigEndian.Uint16(b[lengthAt:]))
	if len(b) < length {
		return 0, 0
	}
	h.Version, h.Length, h.Protocol = 2, length, b[protocolAt]
	return h.readBlock(b[:length], o), length
}

// checkFixed checks as many of the bytes 13 to 16 as have arrived.
func checkFixed(b []byte, o *Options) (Reason, int) {
	if len(b) < 13 {
		return 0, 0
	}
	if b[commandAt]>>4 != 2 {
		return ReasonV2Version, 13
	}
	command := Command(b[commandAt] & 0x0f)
	if command > CommandProxy {
		return ReasonV2Command, 13
	}
	if len(b) < 14 {
		return 0, 0
	}
	// The family of LOCAL must be ignored, even an undefined one (section 2.2).
	if command == CommandProxy && b[protocolAt]>>4 > 3 {
		return ReasonV2Family, 14
	}
	if command == CommandProxy && b[protocolAt]&0x0f > 2 {
		return ReasonV2Transport, 14
	}
	if len(b) < fixedLength {
		return 0, 0
	}
	length := int(binary.BigEndian.Uint16(b[lengthAt:]))
	if o.MaxLength > 0 && fixedLength+length > o.MaxLength {
		return ReasonTooLong, fixedLength
	}
	if command == CommandProxy && length < addressLength(b[protocolAt]) {
		return ReasonV2ShortBlock, fixedLength
	}
	return 0, 0
}

// addressLength returns the length of the addresses of a defined protocol byte.
// It is 0 if family or transport is UNSPEC: the block is opaque then.
func addressLength(protocol byte) int {
	if protocol&0x0f == 0 {
		return 0
	}
	return familyLength(protocol)
}

// familyLength is addressLength by the family alone; 0 for an undefined one.
func familyLength(protocol byte) int {
	if protocol>>4 > 3 {
		return 0
	}
	return [...]int{0, inetLength, inet6Length, unixLength}[protocol>>4]
}

// readBlock reads the block of the complete header b: addresses and TLVs.
func (h *Header) readBlock(b []byte, o *Options) Reason {
	h.Result = Unknown
	if Command(b[commandAt]&0x0f) == CommandLocal {
		h.Result = Local
	}
	size := addressLength(h.Protocol)
	if h.Result == Local || size == 0 {
		if !o.RequireChecksum {
			return 0
		}
		_, reason := checkOpaque(b)
		h.Checksum = reason == 0
		return reason
	}
	h.TLVs = b[fixedLength+size:]
	if len(h.TLVs) > 0 || o.RequireChecksum {
		var reason Reason
		if h.Checksum, reason = checkTLVs(b, h.TLVs); reason != 0 {
			return reason
		}
		if o.RequireChecksum && !h.Checksum {
			return ReasonChecksumMissing
		}
	}
	usable := ProtocolTCP4 & 0x0f
	if o.Datagram {
		usable = ProtocolUDP4 & 0x0f
	}
	if h.Protocol&0x0f == usable {
		h.readAddresses(b[fixedLength : fixedLength+size])
	}
	return 0
}

func (h *Header) readAddresses(b []byte) {
	switch len(b) {
	case inetLength:
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[8:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), binary.BigEndian.Uint16(b[10:]))
	case inet6Length:
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), binary.BigEndian.Uint16(b[32:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[16:])), binary.BigEndian.Uint16(b[34:]))
	default:
		return
	}
	h.Result = Proxy
}

// matching returns the length of the common prefix of b and want.
func matching(b []byte, want string) int {
	if len(b) >= len(want) && string(b[:len(want)]) == want {
		return len(want)
	}
	n := 0
	for n < len(b) && n < len(want) && b[n] == want[n] {
		n++
	}
	return n
}
