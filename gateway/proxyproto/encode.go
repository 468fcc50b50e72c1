package proxyproto

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"strconv"
)

// Command is the low four bits of the 13th byte of a version 2 header
// (specification, section 2.2).
type Command byte

// The commands. Other values are refused.
const (
	// CommandLocal: the sender opened the connection for itself.
	CommandLocal Command = 0
	// CommandProxy: the sender opened the connection on behalf of a client.
	CommandProxy Command = 1
)

// Values of the 14th byte of a version 2 header: address family and transport
// (specification, section 2.2).
const (
	ProtocolUnspec     byte = 0x00
	ProtocolTCP4       byte = 0x11
	ProtocolUDP4       byte = 0x12
	ProtocolTCP6       byte = 0x21
	ProtocolUDP6       byte = 0x22
	ProtocolUnixStream byte = 0x31
	ProtocolUnixDgram  byte = 0x32
)

// AppendV1 appends a version 1 line to b: TCP4 if both addresses are IPv4, else
// TCP6, with IPv4 addresses as 4-in-6. If an address is invalid, the line is
// UNKNOWN. Zones are dropped.
func AppendV1(b []byte, source, destination netip.AddrPort) []byte {
	if !source.IsValid() || !destination.IsValid() {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	from, to := source.Addr().WithZone(""), destination.Addr().WithZone("")
	if from.Is4() && to.Is4() {
		b = append(b, "PROXY TCP4 "...)
	} else {
		b = append(b, "PROXY TCP6 "...)
		from, to = netip.AddrFrom16(from.As16()), netip.AddrFrom16(to.As16())
	}
	b = append(from.AppendTo(b), ' ')
	b = append(to.AppendTo(b), ' ')
	b = strconv.AppendUint(b, uint64(source.Port()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(destination.Port()), 10)
	return append(b, "\r\n"...)
}

// Message is a version 2 header to encode. The zero value is a LOCAL header of
// 16 bytes.
type Message struct {
	Command Command
	// Source and Destination are encoded as INET if both are IPv4, else as
	// INET6 with IPv4 addresses as 4-in-6. If one of them is invalid, the
	// family is UNSPEC and no address is encoded.
	Source, Destination netip.AddrPort
	// Datagram sets the transport DGRAM instead of STREAM.
	Datagram bool
	// TLVs follow the addresses, in this order.
	TLVs []TLV
	// Checksum appends a CRC32C after all other TLVs.
	Checksum bool
}

// AppendV2 appends a version 2 header to b. If a TLV or the whole block is too
// long for its 16-bit length field, it returns b unchanged and an error. It does
// not retain m.
func AppendV2(b []byte, m *Message) ([]byte, error) {
	start := len(b)
	b = append(b, Signature...)
	b = append(b, 0x20|byte(m.Command), m.protocol(), 0, 0)
	b = m.appendAddresses(b)
	b, err := appendTLVs(b, m.TLVs)
	if err != nil {
		return b[:start], err
	}
	if m.Checksum {
		b = append(b, byte(TypeCRC32C), 0, checksumLength, 0, 0, 0, 0)
	}
	header := b[start:]
	length := len(header) - fixedLength
	if length > math.MaxUint16 {
		return b[:start], fmt.Errorf("encode a PROXY header: block has %d bytes, at most %d fit", length, math.MaxUint16)
	}
	binary.BigEndian.PutUint16(header[14:], uint16(length))
	if m.Checksum {
		at := len(header) - checksumLength
		binary.BigEndian.PutUint32(header[at:], checksum(header, at))
	}
	return b, nil
}

func (m *Message) protocol() byte {
	switch {
	case !m.Source.IsValid() || !m.Destination.IsValid():
		return ProtocolUnspec
	case m.isIPv4() && m.Datagram:
		return ProtocolUDP4
	case m.isIPv4():
		return ProtocolTCP4
	case m.Datagram:
		return ProtocolUDP6
	}
	return ProtocolTCP6
}

func (m *Message) isIPv4() bool {
	return m.Source.Addr().Is4() && m.Destination.Addr().Is4()
}

func (m *Message) appendAddresses(b []byte) []byte {
	if m.protocol() == ProtocolUnspec {
		return b
	}
	for _, end := range [...]netip.AddrPort{m.Source, m.Destination} {
		if m.isIPv4() {
			address := end.Addr().As4()
			b = append(b, address[:]...)
			continue
		}
		address := end.Addr().As16()
		b = append(b, address[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, m.Source.Port())
	return binary.BigEndian.AppendUint16(b, m.Destination.Port())
}

// SSLTLV returns an SSL TLV with the fixed part of s and the given TLVs within.
// It ignores s.TLVs. It returns an error if a TLV within is too long.
func SSLTLV(s SSL, within ...TLV) (TLV, error) {
	value := binary.BigEndian.AppendUint32([]byte{s.Client}, s.Verify)
	value, err := appendTLVs(value, within)
	return TLV{TypeSSL, value}, err
}

func appendTLVs(b []byte, tlvs []TLV) ([]byte, error) {
	for _, tlv := range tlvs {
		if len(tlv.Value) > math.MaxUint16 {
			return b, fmt.Errorf("encode a TLV of type 0x%02x: value has %d bytes, at most %d fit",
				byte(tlv.Type), len(tlv.Value), math.MaxUint16)
		}
		b = append(b, byte(tlv.Type))
		b = binary.BigEndian.AppendUint16(b, uint16(len(tlv.Value)))
		b = append(b, tlv.Value...)
	}
	return b, nil
}
