package proxyproto

import "encoding/binary"

const sslFixedLength = 5 // the bits, and 32 bits of verification

// Bits of [SSL.Client] (specification, section 2.2.6).
const (
	// ClientTLS: the client connected over TLS.
	ClientTLS = 0x01
	// ClientCertConnection: the client sent a certificate on this connection.
	ClientCertConnection = 0x02
	// ClientCertSession: the client sent a certificate at least once in this
	// TLS session.
	ClientCertSession = 0x04
)

// SSL is the value of an SSL TLV (specification, section 2.2.6).
type SSL struct {
	// Client is a set of the bits [ClientTLS], [ClientCertConnection] and
	// [ClientCertSession].
	Client byte
	// Verify is 0 if the client's certificate was verified. It is also 0 if
	// the client sent none: use [SSL.Authenticated].
	Verify uint32
	// TLVs is the region of the TLVs within, for [All].
	TLVs []byte
}

// ParseSSL parses the value of an SSL TLV. ok is false if value is too short.
// The result aliases value.
func ParseSSL(value []byte) (s SSL, ok bool) {
	if len(value) < sslFixedLength {
		return SSL{}, false
	}
	return SSL{
		Client: value[0],
		Verify: binary.BigEndian.Uint32(value[1:]),
		TLVs:   value[sslFixedLength:],
	}, true
}

// HasCertificate reports whether the client sent a certificate.
func (s SSL) HasCertificate() bool { return s.Client&(ClientCertConnection|ClientCertSession) != 0 }

// Authenticated reports whether the client sent a certificate and the peer
// verified it.
func (s SSL) Authenticated() bool { return s.HasCertificate() && s.Verify == 0 }

// AWSVPCEndpoint returns the ID of the VPC endpoint in the value of an AWS TLV:
// subtype 1, then ASCII (AWS documentation of Network Load Balancers, "Proxy
// protocol"). ok is false for other values. The result aliases value.
func AWSVPCEndpoint(value []byte) (id []byte, ok bool) {
	if len(value) < 2 || value[0] != 1 {
		return nil, false
	}
	return value[1:], true
}

// AzureLinkID returns the LINKID of the private endpoint in the value of an Azure
// TLV: subtype 1, then 32 bits in little-endian order (documentation of Azure
// Private Link). ok is false for other values.
func AzureLinkID(value []byte) (id uint32, ok bool) {
	if len(value) != 5 || value[0] != 1 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(value[1:]), true
}

// GCPConnectionID returns the connection ID of Private Service Connect in the
// value of a GCP TLV: 64 bits in big-endian order (Google Cloud documentation).
// ok is false for other values.
func GCPConnectionID(value []byte) (id uint64, ok bool) {
	if len(value) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(value), true
}
