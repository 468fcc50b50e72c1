package proxyproto

import "encoding/binary"

const sslFixedLength = 5

// Bits of [SSL.Client] (specification, section 2.2.6).
const (
	// ClientTLS: the client connected over TLS.
	ClientTLS = 0x01
	// ClientCertConnection: it gave a certificate on this connection.
	ClientCertConnection = 0x02
	// ClientCertSession: it gave one at least once in this TLS session.
	ClientCertSession = 0x04
)

// SSL is the value of an SSL TLV.
type SSL struct {
	// Client is a set of the bits [ClientTLS], [ClientCertConnection] and
	// [ClientCertSession].
	Client byte
	// Verify is 0 if the client's certificate was verified. Alone it says
	// nothing: it is 0 too where there was no certificate.
	Verify uint32
	// TLVs is the region of the TLVs within; [All] walks it.
	TLVs []byte
}

// ParseSSL reads the value of an SSL TLV; ok is false if it is too short. The
// result aliases value.
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

// Authenticated reports whether the client gave a certificate and the peer
// verified it.
func (s SSL) Authenticated() bool {
	return s.Client&(ClientCertConnection|ClientCertSession) != 0 && s.Verify == 0
}

// AWSVPCEndpoint reads the id of the VPC endpoint from the value of an AWS
// TLV (subtype 1 and ASCII, by AWS's documentation of Network Load Balancers).
// The result aliases value.
func AWSVPCEndpoint(value []byte) (id []byte, ok bool) {
	if len(value) < 2 || value[0] != 1 {
		return nil, false
	}
	return value[1:], true
}

// AzureLinkID reads the LINKID of a private endpoint from the value of an
// Azure TLV (subtype 1 and 32 bits, little-endian, by the documentation of
// Azure Private Link).
func AzureLinkID(value []byte) (id uint32, ok bool) {
	if len(value) != 5 || value[0] != 1 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(value[1:]), true
}

// GCPConnectionID reads the connection id of Private Service Connect from the
// value of a GCP TLV (64 bits, big-endian, by Google Cloud's documentation).
func GCPConnectionID(value []byte) (id uint64, ok bool) {
	if len(value) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(value), true
}
