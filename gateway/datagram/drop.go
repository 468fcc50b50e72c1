package datagram

import "unproxy/gateway/record"

// Drop is the reason why a datagram was lost. The log, the metrics and the
// documentation all take their words from this list.
type Drop uint8

// The reasons, in the order of the data path. The zero value is no drop.
const (
	_ Drop = iota
	ReceiveQueueFull
	Untrusted
	Health
	NotProxy
	Malformed
	TooLong
	Unsupported
	BadChecksum
	NoFlow
	OtherClient
	Local
	NoAddress
	Draining
	ClientDenied
	Limit
	SourceDenied
	FamilyMismatch
	DestinationDenied
	SourcePortBusy
	Permission
	BackendUnreachable
	BackendRefused
	BackendBusy
	ReplyQueueFull
	PeerBusy
	PeerUnreachable
	TooBig
	Internal
	numDrops
)

var dropTable = [numDrops]struct{ word, meaning string }{
	ReceiveQueueFull:  {"receive_queue_full", "the receive queue of the listener was full: the gateway was too slow"},
	Untrusted:         {"untrusted", "the peer is not trusted"},
	Health:            {"health", "sent by a health source, which is never forwarded"},
	NotProxy:          {"not_proxy", "the datagram does not start with the expected header"},
	Malformed:         {"malformed", "the header violates the specification, or is longer than the datagram"},
	TooLong:           {"too_long", "the header is longer than allowed"},
	Unsupported:       {"unsupported", "a header version, command or family that is not accepted"},
	BadChecksum:       {"bad_checksum", "the CRC32C of the header is wrong, or required and missing"},
	NoFlow:            {"no_flow", "no header, and the peer has no flow (mode first)"},
	OtherClient:       {"other_client", "a header within a flow names another client; the flow is ended (mode first)"},
	Local:             {"local", "a LOCAL health check, which the configuration closes"},
	NoAddress:         {"no_address", "the header names no client, or no destination, and one is required"},
	Draining:          {"draining", "it would start a flow, and the gateway is draining"},
	ClientDenied:      {"client_denied", "the client is not allowed, or banned"},
	Limit:             {"limit", "a limit on flows is reached, or no file descriptor or port is left"},
	SourceDenied:      {"source_denied", "the header names a source that is not allowed"},
	FamilyMismatch:    {"family_mismatch", "client and backend are of different address families"},
	DestinationDenied: {"destination_denied", "the header names a destination that is not allowed"},
	SourcePortBusy: {"source_port_busy",
		"the client's address and port are in use, towards this backend or by a program that listens on every address"},
	Permission:         {"permission", "the system denied permission"},
	BackendUnreachable: {"backend_unreachable", "no route to the backend, or its name does not resolve"},
	BackendRefused:     {"backend_refused", "nothing listens on the port of the backend"},
	BackendBusy:        {"backend_busy", "the send queue to the backend was full"},
	ReplyQueueFull:     {"reply_queue_full", "the receive queue for replies was full: the gateway was too slow"},
	PeerBusy:           {"peer_busy", "the send queue to the peer was full"},
	PeerUnreachable:    {"peer_unreachable", "no route to the peer"},
	TooBig:             {"too_big", "larger than the largest datagram, the header of a reply included"},
	Internal:           {"internal", "an internal error of the gateway or its host"},
}

// String returns the word in logs and metrics.
func (d Drop) String() string { return dropTable[d].word }

// Meaning explains the reason in a short sentence.
func (d Drop) Meaning() string { return dropTable[d].meaning }

// Drops returns all reasons in order.
func Drops() []Drop {
	var all []Drop
	for d := Drop(1); d < numDrops; d++ {
		all = append(all, d)
	}
	return all
}

// dropFor returns the reason with the same word as an outcome, or Internal.
func dropFor(o record.Outcome) Drop {
	for d := Drop(1); d < numDrops; d++ {
		if dropTable[d].word == o.String() {
			return d
		}
	}
	return Internal
}
