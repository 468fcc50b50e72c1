// Package proxyproto reads and writes the headers of the PROXY protocol,
// versions 1 and 2, as HAProxy's doc/proxy-protocol.txt of 2026/04/27 defines
// them.
//
// The decoder is pure and incremental: it looks at the bytes received so far
// and either accepts a header, refuses it at the first byte that makes it
// impossible, or asks for more. It does no I/O, keeps no state and does not
// allocate unless it refuses. What it accepts is exactly the grammar of the
// specification; whether an address may be used is for others to decide.
package proxyproto

import (
	"encoding/binary"
	"net/netip"
)

// Sizes of headers in bytes (specification, sections 2.1 and 2.2).
const (
	// MaxV1 is the longest version 1 line with its CRLF.
	MaxV1 = 107
	// MaxV2 is the longest version 2 header that the format can express.
	MaxV2 = fixedLength + 65535
)

// Signature begins every version 2 header (specification, section 2.2).
const Signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	fixedLength = 16

	inetLength  = 12  // two IPv4 addresses and two ports
	inet6Length = 36  // two IPv6 addresses and two ports
	unixLength  = 216 // two paths of 108 bytes
)

// Options says which headers are taken. The zero value takes every header
// that the specification allows on a TCP connection.
type Options struct {
	// RefuseV1 and RefuseV2 refuse a version, at its first byte.
	RefuseV1, RefuseV2 bool
	// MaxLength is the longest version 2 header taken, in bytes with its 16
	// fixed ones. 0 is [MaxV2].
	MaxLength int
	// RequireChecksum refuses version 2 PROXY headers that bear no CRC32C
	// that could be verified. LOCAL and version 1 are not affected.
	RequireChecksum bool
	// IPv4InTCP6 takes plain IPv4 addresses, one or both, on a version 1
	// TCP6 line. The specification forbids them; nginx can send them.
	IPv4InTCP6 bool
	// Datagram says that the input is one whole datagram. Version 1 is then
	// refused, a header that is not whole is an error, and the addresses of
	// datagram transports are the usable ones instead of those of streams.
	Datagram bool
}

// Result is what the bytes received so far amount to.
type Result uint8

// The results.
const (
	// Incomplete: every byte so far is possible, more are needed.
	Incomplete Result = iota
	// Proxy: a header with addresses that can be used.
	Proxy
	// Local: a version 2 LOCAL header. The connection is the peer's own,
	// normally a health check.
	Local
	// Unknown: a valid header without usable addresses: version 1 UNKNOWN;
	// version 2 UNSPEC, unix sockets, or a transport other than ours.
	Unknown
)

// String returns the result's word, in lower case.
func (r Result) String() string {
	return [...]string{"incomplete", "proxy", "local", "unknown"}[r]
}

// Header is a decoded header.
type Header struct {
	Result Result
	// Version is 1 or 2; 0 while Result is [Incomplete].
	Version uint8
	// Protocol is version 2's 14th byte as it came: address family in the
	// high half, transport in the low one. 0 for version 1.
	Protocol byte
	// Length is the number of input bytes that are the header; the payload
	// begins there. 0 while Result is [Incomplete].
	Length int
	// Source and Destination are set only if Result is [Proxy]. They are as
	// they came: 4-in-6 addresses are kept, port 0 is possible.
	Source, Destination netip.AddrPort
	// TLVs is the region of version 2's type-length-values. It aliases the
	// input, and was checked: [All] walks it to its end. It is nil for LOCAL
	// and UNSPEC, whose blocks are opaque.
	TLVs []byte
}

// Decode decodes the header at the beginning of b, which holds everything
// received so far. A nil o is the zero [Options].
//
// With Result [Incomplete] and a nil error call it again once b is longer.
// The error is always an [*Error] and final: no further byte can mend it. It
// comes at the first byte that decides it, with two exceptions that the
// specification asks for: the fields of a version 1 line are read only when
// its CRLF is there, and the block of a version 2 header only when it is
// whole. How the bytes were cut into pieces never changes the answer.
//
// Decode allocates nothing unless it returns an error.
func Decode(b []byte, o *Options) (h Header, err error) {
	if o == nil {
		o = &Options{}
	}
	if reason, offset := h.decode(b, o); reason != 0 {
		return Header{}, &Error{Reason: reason, Offset: offset}
	}
	return h, nil
}

// Missing returns the least number of bytes that must follow b before [Decode]
// can answer anything but [Incomplete]: exact once the 16 fixed bytes of a
// version 2 header are there, and for an empty b that of the shortest header.
// It is for input that Decode found incomplete.
func Missing(b []byte) int {
	switch {
	case len(b) > 0 && b[0] == Signature[0]:
		if len(b) < fixedLength {
			return fixedLength - len(b)
		}
		return fixedLength + int(binary.BigEndian.Uint16(b[14:])) - len(b)
	case len(b) <= len("PROXY UNKNOWN"):
		return len("PROXY UNKNOWN\r\n") - len(b)
	case b[len(b)-1] == '\r':
		return 1
	}
	return len("\r\n")
}

// decode, like all that it calls, returns the reason of a refusal and the
// number of bytes that it took, and leaves h zero as long as the header is
// incomplete.
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

// decodeDatagram decodes a header of which nothing more will come.
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
	length := fixedLength + int(binary.BigEndian.Uint16(b[14:]))
	if len(b) < length {
		return 0, 0
	}
	h.Version, h.Length, h.Protocol = 2, length, b[13]
	return h.readBlock(b[:length], o), length
}

// checkFixed checks as much of bytes 13 to 16 as is there.
func checkFixed(b []byte, o *Options) (Reason, int) {
	if len(b) < 13 {
		return 0, 0
	}
	if b[12]>>4 != 2 {
		return ReasonV2Version, 13
	}
	command := Command(b[12] & 0x0f)
	if command > CommandProxy {
		return ReasonV2Command, 13
	}
	if len(b) < 14 {
		return 0, 0
	}
	// The family of LOCAL is ignored, even where it is not defined.
	if command == CommandProxy && b[13]>>4 > 3 {
		return ReasonV2Family, 14
	}
	if command == CommandProxy && b[13]&0x0f > 2 {
		return ReasonV2Transport, 14
	}
	if len(b) < fixedLength {
		return 0, 0
	}
	length := int(binary.BigEndian.Uint16(b[14:]))
	if o.MaxLength > 0 && fixedLength+length > o.MaxLength {
		return ReasonTooLong, fixedLength
	}
	if command == CommandProxy && length < addressLength(b[13]) {
		return ReasonV2ShortBlock, fixedLength
	}
	return 0, 0
}

// addressLength returns the size of the addresses of a protocol byte with
// defined halves. Nothing is known of the block if either half is UNSPEC.
func addressLength(protocol byte) int {
	if protocol&0x0f == 0 {
		return 0
	}
	return [...]int{0, inetLength, inet6Length, unixLength}[protocol>>4&3]
}

// readBlock reads what follows the fixed part of the whole header b.
func (h *Header) readBlock(b []byte, o *Options) Reason {
	if Command(b[12]&0x0f) == CommandLocal {
		h.Result = Local
		return 0
	}
	h.Result = Unknown
	size := addressLength(h.Protocol)
	if size == 0 {
		if o.RequireChecksum {
			return ReasonChecksumMissing
		}
		return 0
	}
	h.TLVs = b[fixedLength+size:]
	if len(h.TLVs) > 0 || o.RequireChecksum {
		if reason := checkTLVs(b, h.TLVs, o.RequireChecksum); reason != 0 {
			return reason
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

// matching returns how many bytes b and want have in common at their start.
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
