// Package record describes finished connections: the outcome, the phase in
// which the connection ended, the party that ended it, and everything else that
// a log line reports. The access log, the metrics, the status page and docs/
// all take their words from here.
//
// The package does no I/O and imports no other package of the gateway.
package record

import (
	"net/netip"
	"time"
)

// Connection describes one finished connection, or one finished flow of
// datagrams.
//
// The event loop that reports a Connection owns it and reuses it afterwards: a
// receiver must copy what it keeps, [Connection.Details] included. Strings may
// be kept.
type Connection struct {
	// ID is unique among the connections of this process. See [AppendID].
	ID uint64
	// Datagram is true for a flow of datagrams (UDP).
	Datagram bool
	// Forward is the listener as the operator wrote it, "0.0.0.0:8443".
	Forward string
	// Peer opened the connection, usually the load balancer. It is invalid for
	// a peer on a unix socket.
	Peer netip.AddrPort
	// Client is the source that the header named, with 4-in-6 addresses
	// unmapped, or the peer if the connection was relayed although the header
	// named no source. It is invalid if the client was not known yet.
	Client netip.AddrPort
	// Destination is the address that the client connected to, as the header
	// says. On a TPROXY listener without such a header, it is the original
	// destination of the connection. Otherwise it is invalid.
	Destination netip.AddrPort
	// Backend is the server that was dialled last. It is invalid if none was
	// dialled, or if the last one is on a unix socket.
	Backend netip.AddrPort
	// BackendPath is the path of a backend on a unix socket, else empty.
	BackendPath string
	// Source is the address that a transparent connection was made from if it
	// is not Client itself: a different port, or a stand-in of the other
	// address family. Otherwise it is invalid.
	Source netip.AddrPort
	// Transparent is true if the backend saw the client's address or its
	// stand-in, see [Connection.Mapped].
	Transparent bool
	// TOA is true if its address was sent in a TCP option, or should have been.
	TOA bool
	// Version is the header's version, 1 or 2; 0 if no header was read.
	Version uint8
	// Command is the header's command; of stacked headers, that of the last one
	// that was read.
	Command Command

	// Outcome is how the connection ended, Phase how far it got, and By the
	// party that ended it.
	Outcome Outcome
	Phase   Phase
	By      Party
	// Reason adds detail to a refusal: the decoder's reason for a bad header,
	// the policy's for a denied source, the system's error for a failed dial.
	// It may be empty.
	Reason string
	// AnswersOthers is true if the outcome is [ConnectTimeout] and the backend
	// answered a test connection from another client's address: its replies to
	// that client return through the gateway.
	AnswersOthers bool
	// Action is a shell command that fixes the cause, or empty. The engine
	// leaves it empty; an observer may set it before the record is logged.
	Action string
	// Offset is the number of bytes after which the decoder refused the
	// header, or that had arrived of a header that is not complete. It is
	// counted from the first byte of that header, the second of two for example.
	// It is 0 if the header was not refused.
	Offset int
	// Sample is the beginning of a refused header, at most [MaxSample] bytes.
	// It may hold user data: log it at debug level only, and quoted.
	Sample string

	// BytesIn is the payload from client to backend and BytesOut the payload
	// from backend to client, in bytes. Neither includes the header.
	BytesIn, BytesOut int64
	// DatagramsIn and DatagramsOut count the datagrams of a flow in the same
	// directions. They are 0 for a stream.
	DatagramsIn, DatagramsOut int64

	// HeaderTime is the time from accept to the last byte of the header,
	// ConnectTime from there until the backend accepted, and Duration from
	// accept to the end. A time is 0 if the connection did not get that far.
	HeaderTime, ConnectTime, Duration time.Duration

	// Details holds what the header said beyond the addresses; nil if it said
	// nothing that is logged.
	Details *Details
}

// MaxSample is the maximum length of [Connection.Sample] in bytes.
const MaxSample = 32

// Severity returns the log level of the connection: that of its outcome, but [Debug]
// for the connections of a peer itself. A health check that gets its answer and resets
// the connection is no event.
func (c *Connection) Severity() Severity {
	if c.Command == CommandLocal && !c.Outcome.Refused() {
		return Debug
	}
	return c.Outcome.Severity()
}

// Mapped reports whether Source is a stand-in for the client's address because
// the backend has the other address family.
func (c *Connection) Mapped() bool {
	return c.Source.IsValid() && c.Source.Addr().Is4() != c.Client.Addr().Is4()
}

// Details holds the TLVs of a version 2 header that are logged (specification,
// section 2.2, and the documentation of the cloud providers). The
// load balancer wrote them and the client chose many of them: a string may hold
// any byte. Each string is cut at [MaxDetail] bytes. The zero value means that
// no TLV was given.
type Details struct {
	Authority, ALPN, UniqueID string
	TLSVersion                string
	// TLSCommonName is the name in the client's certificate. It proves nothing
	// unless TLSVerified is true: the load balancer verified the certificate.
	// TLSVerify is its error code for the verification (X509_V_ERR_… of
	// OpenSSL), or 0. HasTLSVerify is true if the load balancer reports a
	// certificate, a name or an error, so that TLSVerified means something.
	TLSCommonName             string
	TLSVerify                 uint32
	TLSVerified, HasTLSVerify bool
	// AWSVPCEndpoint is the ID of an AWS VPC endpoint, AzureLink the LINKID of
	// an Azure private endpoint, and GCPConnection the connection ID of Google
	// Cloud's Private Service Connect. They identify the tenant where the
	// addresses of different networks overlap.
	AWSVPCEndpoint string
	AzureLink      uint32
	GCPConnection  uint64
	// HasAzureLink and HasGCPConnection distinguish an ID of zero from none.
	HasAzureLink, HasGCPConnection bool
}

// MaxDetail is the maximum length of a string in [Details] in bytes.
const MaxDetail = 255

// Phase is how far a connection got. The zero value is [Accept].
type Phase uint8

// The phases, in the order in which a connection passes through them.
const (
	Accept Phase = iota
	Trust
	Header
	Dial
	Relay
)

// NumPhases is the number of phases: they are 0 to NumPhases-1.
const NumPhases = int(Relay) + 1

// String returns the phase's word in logs and metrics. It panics for a value
// that is not below [NumPhases].
func (p Phase) String() string { return phases[p] }

var phases = [...]string{Accept: "accept", Trust: "trust", Header: "header", Dial: "dial", Relay: "relay"}

// Party is who ended a connection. The zero value is [Gateway].
type Party uint8

// The four parties, and a timeout of the gateway.
const (
	Gateway Party = iota
	Client
	Backend
	Peer
	Timeout
)

// String returns the party's word in logs and metrics. It panics for an
// undefined party.
func (p Party) String() string { return parties[p] }

var parties = [...]string{Gateway: "gateway", Client: "client", Backend: "backend", Peer: "peer", Timeout: "timeout"}
