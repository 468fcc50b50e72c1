package load

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"unproxy/gateway/proxyproto"
)

// Header selects the PROXY header of connections.
type Header uint8

// The headers.
const (
	NoHeader Header = iota
	V1
	V2
	// V2TLVs is a version 2 header with TLVs as from a large load balancer: ALPN, host
	// name, id, the endpoint of a private link, and a checksum.
	V2TLVs
)

// tlvs are the TLVs of V2TLVs.
var tlvs = []proxyproto.TLV{
	{Type: proxyproto.TypeALPN, Value: []byte("h2")},
	{Type: proxyproto.TypeAuthority, Value: []byte("mail.example.org")},
	{Type: proxyproto.TypeUniqueID, Value: []byte("7f3c9a52-1d0e-4b8a-9c61-5e2f80d4a713")},
	{Type: proxyproto.TypeAWS, Value: []byte("\x01vpce-08d2bf15fac5001c9")},
}

// appendHeader appends the header of a connection that a client made to a gateway.
func appendHeader(b []byte, h Header, client, gateway netip.AddrPort) []byte {
	switch h {
	case NoHeader:
		return b
	case V1:
		return proxyproto.AppendV1(b, client, gateway)
	}
	m := proxyproto.Message{Command: proxyproto.CommandProxy, Source: client, Destination: gateway}
	if h == V2TLVs {
		m.TLVs, m.Checksum = tlvs, true
	}
	b, err := proxyproto.AppendV2(b, &m)
	if err != nil {
		panic(fmt.Sprintf("the benchmark's own header: %v", err)) // its TLVs are short
	}
	return b
}

// Clients generates the client addresses in headers, from 198.18.0.0/15 (RFC 2544, for
// benchmarks). All are different: in transparent mode a closed connection stays in
// TIME_WAIT for a minute.
type Clients struct{ next uint64 }

// The numbers of addresses and ports. clientAddresses+1 is a prime. In each turn through
// all addresses the port of an address changes by it, so no pair repeats before every
// port was used, after eight billion connections.
const (
	clientAddresses = 131070
	clientPorts     = 64000
)

// ClientNetwork has the addresses of all [Clients].
var ClientNetwork = netip.MustParsePrefix("198.18.0.0/15")

// Next returns another client.
func (c *Clients) Next() netip.AddrPort {
	n := c.next
	c.next++
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], 198<<24|18<<16+uint32(1+n%clientAddresses))
	port := 1024 + (n+n/clientAddresses)%clientPorts
	return netip.AddrPortFrom(netip.AddrFrom4(address), uint16(port))
}
