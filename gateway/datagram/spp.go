package datagram

import (
	"encoding/binary"
	"net/netip"
)

// The header of Cloudflare's Simple Proxy Protocol: magic number, client address,
// proxy address, client port, proxy port, in network order. IPv4 addresses are
// IPv4-mapped (Cloudflare Spectrum's documentation, "Simple Proxy Protocol").
const (
	SPPLength = 38
	sppMagic  = 0x56ec
)

// DecodeSPP decodes the header at the start of a datagram: the client, and the
// address that it sent to, both unmapped. ok is false if b is too short or starts
// with another magic number. It does not allocate.
func DecodeSPP(b []byte) (client, proxy netip.AddrPort, ok bool) {
	if len(b) < SPPLength || binary.BigEndian.Uint16(b) != sppMagic {
		return client, proxy, false
	}
	client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[2:])).Unmap(), binary.BigEndian.Uint16(b[34:]))
	proxy = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[18:])).Unmap(), binary.BigEndian.Uint16(b[36:]))
	return client, proxy, true
}

// AppendSPP appends the encoded header to b.
func AppendSPP(b []byte, client, proxy netip.AddrPort) []byte {
	b = binary.BigEndian.AppendUint16(b, sppMagic)
	for _, end := range [...]netip.AddrPort{client, proxy} {
		address := end.Addr().As16()
		b = append(b, address[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, proxy.Port())
}
