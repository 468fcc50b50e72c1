package proxyproto

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// Command is the low half of version 2's 13th byte.
type Command byte

// The commands.
const (
	// CommandLocal: the sender opened the connection for itself.
	CommandLocal Command = 0
	// CommandProxy: the sender opened it for somebody else.
	CommandProxy Command = 1
)

// Values of version 2's 14th byte that are in common use.
const (
	ProtocolUnspec     byte = 0x00
	ProtocolTCP4       byte = 0x11
	ProtocolUDP4       byte = 0x12
	ProtocolTCP6       byte = 0x21
	ProtocolUDP6       byte = 0x22
	ProtocolUnixStream byte = 0x31
	ProtocolUnixDgram  byte = 0x32
)

// AppendV1 appends a version 1 line to b: TCP4 if both addresses are IPv4,
// else TCP6, with an IPv4 address as 4-in-6. Without two valid addresses it
// is UNKNOWN.
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

// Message is what [AppendV2] writes. The zero value is a LOCAL header of 16
// bytes.
type Message struct {
	Command Command
	// Source and Destination make an INET header if both are IPv4, else an
	// INET6 one with an IPv4 address as 4-in-6. Without both of them the
	// family is UNSPEC.
	Source, Destination netip.AddrPort
	// Datagram makes the transport DGRAM instead of STREAM.
	Datagram bool
	// TLVs follow the addresses in this order.
	TLVs []TLV
	// Checksum adds a CRC32C behind all other TLVs.
	Checksum bool
}

// AppendV2 appends a version 2 header to b. It fails, and returns b as it
// was, if a TLV or the whole is longer than a length of 16 bits can say.
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
		b = append(b, byte(TypeCRC32C), 0, 4, 0, 0, 0, 0)
	}
	header := b[start:]
	length := len(header) - fixedLength
	if length > 65535 {
		return b[:start], fmt.Errorf("PROXY header of %d bytes after the fixed part: at most 65535", length)
	}
	binary.BigEndian.PutUint16(header[14:], uint16(length))
	if m.Checksum {
		at := len(header) - 4
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

// SSLTLV makes an SSL TLV of the fixed part of s, whose own TLVs are ignored,
// and the given ones within.
func SSLTLV(s SSL, within ...TLV) (TLV, error) {
	value := binary.BigEndian.AppendUint32([]byte{s.Client}, s.Verify)
	value, err := appendTLVs(value, within)
	return TLV{TypeSSL, value}, err
}

func appendTLVs(b []byte, tlvs []TLV) ([]byte, error) {
	for _, tlv := range tlvs {
		if len(tlv.Value) > 65535 {
			return b, fmt.Errorf("TLV of type 0x%02x with a value of %d bytes: at most 65535", byte(tlv.Type), len(tlv.Value))
		}
		b = append(b, byte(tlv.Type))
		b = binary.BigEndian.AppendUint16(b, uint16(len(tlv.Value)))
		b = append(b, tlv.Value...)
	}
	return b, nil
}
