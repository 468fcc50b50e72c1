package toa

import (
	"encoding/binary"
	"net/netip"
)

// The numbers of the options.
const (
	// Kind is the kind of the options: experiment 2 of RFC 4727, section 5, shared as in RFC 6994.
	Kind = 254
	// ExID is the experiment identifier.
	ExID = 0x5550

	// OfferSize, IPv4Size and IPv6Size are the lengths of the options, without padding.
	OfferSize = 4
	IPv4Size  = 10
	IPv6Size  = 22

	// legacyKind6 is the other kind of the legacy format for IPv6, experiment 1.
	legacyKind6     = 253
	legacyIPv4Size  = 8
	legacyIPv6Size  = 20
	endOfOptions    = 0
	noOperation     = 1
	leastOptionSize = 2
)

// Format is how the client's address travels. The zero value is [Negotiated].
type Format uint32

// The formats. Their values are those of mode in the programs.
const (
	// Negotiated offers, and sends the address after the promise only.
	Negotiated Format = iota
	// Unasked sends the address in the format of [Negotiated], without an offer. Tests use it: no
	// gateway does.
	Unasked
	// Legacy sends the address in the format of the TOA kernel modules. There is no promise: a backend
	// whose host does not read the option sees the gateway.
	Legacy
)

var formats = [...]string{Negotiated: "negotiated", Unasked: "unasked", Legacy: "legacy"}

// String returns the value of the flag --toa-format.
func (f Format) String() string {
	if int(f) < len(formats) {
		return formats[f]
	}
	return "invalid"
}

// AppendOffer appends the option of the SYN and of the SYN-ACK.
func AppendOffer(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(b, Kind, OfferSize), ExID)
}

// Append appends the option that carries a client in a format, without padding. The client must be
// valid; it is unmapped, and a zone is dropped.
func Append(b []byte, client netip.AddrPort, f Format) []byte {
	address := client.Addr().Unmap()
	switch {
	case f == Legacy && address.Is4():
		b = append(b, Kind, legacyIPv4Size)
	case f == Legacy:
		b = append(b, legacyKind6, legacyIPv6Size)
	case address.Is4():
		b = binary.BigEndian.AppendUint16(append(b, Kind, IPv4Size), ExID)
	default:
		b = binary.BigEndian.AppendUint16(append(b, Kind, IPv6Size), ExID)
	}
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return append(b, address.AsSlice()...)
}

// Find returns the client that the options of a TCP header carry, as the programs on the backend's host
// read them. found is false if there is none. The address is as it was sent: it may be IPv4-mapped, or
// one that no client has.
//
// The first option with [Kind] and [ExID] counts, and only if it has one of the two lengths. If it does
// not count and legacy is true, the first option in a legacy format does. The options end at the first
// that is malformed, and an option of [Kind] that is too short for an identifier ends the search for ours
// (bpf_search_tcp_opt).
func Find(options []byte, legacy bool) (client netip.AddrPort, found bool) {
	own, old := find(options)
	switch {
	case len(own) == IPv4Size || len(own) == IPv6Size:
		return decode(own[4:]), true
	case legacy && old != nil:
		return decode(old[2:]), true
	}
	return netip.AddrPort{}, false
}

// find returns the first option with the experiment identifier, or too short for one, and the first one in
// a legacy format; nil if there is none.
func find(options []byte) (own, old []byte) {
	for len(options) > 0 && options[0] != endOfOptions {
		if options[0] == noOperation {
			options = options[1:]
			continue
		}
		if len(options) < leastOptionSize || options[1] < leastOptionSize || int(options[1]) > len(options) {
			break
		}
		option := options[:options[1]]
		options = options[len(option):]
		if own == nil && option[0] == Kind && (len(option) < OfferSize || binary.BigEndian.Uint16(option[2:]) == ExID) {
			own = option
		}
		if old == nil && isLegacy(option) {
			old = option
		}
	}
	return own, old
}

// isLegacy reports whether an option has one of the formats of the TOA kernel modules.
func isLegacy(option []byte) bool {
	switch option[0] {
	case Kind:
		return len(option) == legacyIPv4Size || len(option) == legacyIPv6Size
	case legacyKind6:
		return len(option) == legacyIPv6Size
	}
	return false
}

// decode reads a port and an address of 4 or 16 bytes.
func decode(b []byte) netip.AddrPort {
	address, _ := netip.AddrFromSlice(b[2:])
	return netip.AddrPortFrom(address, binary.BigEndian.Uint16(b))
}
