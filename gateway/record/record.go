// Package record is the vocabulary in which the gateway speaks of finished
// connections: one word for how each ended, the phase it ended in, who ended
// it, and everything else that is worth a line in a log. The access log, the
// metrics and the status page all use these words and no others.
//
// It imports nothing of the gateway and does no I/O.
package record

import (
	"net/netip"
	"time"
)

// Connection is all that is known of one finished connection.
//
// The engine owns it and reuses it: whoever receives one must copy what it
// wants to keep.
type Connection struct {
	// ID is unique among the connections of this process.
	ID uint64
	// Datagram says that this was a flow of datagrams, and not a stream.
	Datagram bool
	// Forward is the listener as the operator wrote it, "0.0.0.0:8443".
	Forward string
	// Peer is who opened the connection, usually the load balancer. It is
	// invalid for a peer on a unix socket.
	Peer netip.AddrPort
	// Client is the source that the header named, unmapped; or the peer,
	// where the header named none but the connection was relayed. Invalid
	// when it never came to that.
	Client netip.AddrPort
	// Destination is where the client wanted to go, as the header says; or
	// where the connection was sent to, where it came to a TPROXY listener
	// without such a header.
	Destination netip.AddrPort
	// Backend is the server that was dialled last; Backend.IsValid is false
	// when none was, or when it is a unix socket.
	Backend netip.AddrPort
	// BackendPath is the path of a backend on a unix socket.
	BackendPath string
	// Source is the address that a transparent connection was made from when
	// it is not Client itself: another port, or a stand-in of the other family.
	Source netip.AddrPort
	// Transparent says that the backend saw the client's address, or its
	// stand-in: see Mapped.
	Transparent bool
	// Version is the header's version, 1 or 2; 0 when none was read.
	Version uint8

	Outcome Outcome
	Phase   Phase
	By      Party
	// Reason says more of a refusal: the codec's reason for a bad header, the
	// policy's for a denied source, the system's error for a failed dial.
	Reason string
	// Action is the command that mends it, where somebody knows one. The
	// engine does not.
	Action string
	// Offset is the number of bytes after which a bad header was refused.
	Offset int
	// Sample is the beginning of a refused header, at most 32 bytes. It may
	// be a user's data: log it at debug level only, quoted.
	Sample string

	// BytesIn went from client to backend, BytesOut the other way. Neither
	// counts the header.
	BytesIn, BytesOut int64
	// DatagramsIn and DatagramsOut count the datagrams of a flow likewise.
	DatagramsIn, DatagramsOut int64

	// HeaderTime is from accept to the header's last byte, ConnectTime from
	// there to the backend's acceptance, Duration from accept to the end.
	HeaderTime, ConnectTime, Duration time.Duration

	// Details holds what the header said beyond the addresses; nil when it
	// said nothing of interest.
	Details *Details
}

// Mapped reports whether Source is a stand-in for the client's address, which is
// of another family than the backend's.
func (c *Connection) Mapped() bool {
	return c.Source.IsValid() && c.Source.Addr().Is4() != c.Client.Addr().Is4()
}

// Details is the part of a version 2 header's TLVs that is worth a line. All
// of it was written by the load balancer and much of it is chosen by the
// client: it may hold any byte. Each value is cut at [MaxDetail] bytes.
type Details struct {
	Authority, ALPN, UniqueID string
	TLSVersion, TLSCommonName string
	// AWSVPCEndpoint is the id of an AWS VPC endpoint, AzureLink the link id
	// of an Azure private endpoint, GCPConnection the connection id of Google
	// Cloud's Private Service Connect: who the tenant is, where addresses of
	// different networks may overlap.
	AWSVPCEndpoint string
	AzureLink      uint32
	GCPConnection  uint64
	// HasAzureLink and HasGCPConnection tell an id of zero from none.
	HasAzureLink, HasGCPConnection bool
}

// MaxDetail is the length at which a value of [Details] is cut.
const MaxDetail = 255

// Phase is how far a connection came.
type Phase uint8

// The phases, in the order in which a connection goes through them.
const (
	Accept Phase = iota
	Trust
	Header
	Dial
	Relay
)

// NumPhases is the number of phases: they are 0 to NumPhases-1.
const NumPhases = int(Relay) + 1

// String returns the phase's word in logs and metrics.
func (p Phase) String() string { return phases[p] }

var phases = [...]string{Accept: "accept", Trust: "trust", Header: "header", Dial: "dial", Relay: "relay"}

// Party is who ended a connection.
type Party uint8

// The four parties, and the clock.
const (
	Gateway Party = iota
	Client
	Backend
	Peer
	Timeout
)

// String returns the party's word in logs and metrics.
func (p Party) String() string { return parties[p] }

var parties = [...]string{Gateway: "gateway", Client: "client", Backend: "backend", Peer: "peer", Timeout: "timeout"}
