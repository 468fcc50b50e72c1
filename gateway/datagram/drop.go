package datagram

import "unproxy/gateway/record"

// Drop is why a datagram did not arrive. The list is closed: logs, metrics and
// documentation all take their words from it.
type Drop uint8

// The reasons, in the order in which a datagram meets them. The zero value is
// none.
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
	drops
)

var dropTable = [drops]struct{ word, meaning string }{
	ReceiveQueueFull:   {"receive_queue_full", "the kernel had no room for what peers sent: the gateway was too slow"},
	Untrusted:          {"untrusted", "the peer is not trusted"},
	Health:             {"health", "from a health source, which is not forwarded"},
	NotProxy:           {"not_proxy", "it does not begin with the header that is expected"},
	Malformed:          {"malformed", "the header breaks the specification, or does not fit its datagram"},
	TooLong:            {"too_long", "the header is longer than allowed"},
	Unsupported:        {"unsupported", "a header version, command or family that is not taken"},
	BadChecksum:        {"bad_checksum", "the header's CRC32C is wrong, or missing where it is required"},
	NoFlow:             {"no_flow", "without a header, and the peer has no flow (mode first)"},
	OtherClient:        {"other_client", "a header amid a flow names somebody else; the flow is ended (mode first)"},
	Local:              {"local", "a LOCAL health check, which is not to be relayed"},
	NoAddress:          {"no_address", "the header names no client, or no destination, and one is needed"},
	Draining:           {"draining", "it would begin a flow, and the gateway is about to end"},
	Limit:              {"limit", "a limit on flows, or the host's descriptors or ports, are used up"},
	SourceDenied:       {"source_denied", "the header names a source that it may not name"},
	FamilyMismatch:     {"family_mismatch", "client and backend are of different address families"},
	DestinationDenied:  {"destination_denied", "the header names a destination that it may not name"},
	SourcePortBusy:     {"source_port_busy", "the client's address and port are in use towards this backend"},
	Permission:         {"permission", "the system forbade it"},
	BackendUnreachable: {"backend_unreachable", "there is no way to the backend, or its name does not resolve"},
	BackendRefused:     {"backend_refused", "nobody listens at the backend's port"},
	BackendBusy:        {"backend_busy", "the way to the backend had no room"},
	ReplyQueueFull:     {"reply_queue_full", "the kernel had no room for what a backend sent: the gateway was too slow"},
	PeerBusy:           {"peer_busy", "the way to the peer had no room"},
	PeerUnreachable:    {"peer_unreachable", "there is no way to the peer"},
	TooBig:             {"too_big", "larger than a datagram can be, with the header of the reply"},
	Internal:           {"internal", "a fault of the gateway or its host"},
}

// String returns the reason's word in logs and metrics.
func (d Drop) String() string { return dropTable[d].word }

// Meaning returns the reason in a short sentence.
func (d Drop) Meaning() string { return dropTable[d].meaning }

// Drops returns every reason, in the order of the table.
func Drops() []Drop {
	var all []Drop
	for d := Drop(1); d < drops; d++ {
		all = append(all, d)
	}
	return all
}

// dropOf is the reason that goes by the word of an outcome.
func dropOf(o record.Outcome) Drop {
	for d := Drop(1); d < drops; d++ {
		if dropTable[d].word == o.String() {
			return d
		}
	}
	return Internal
}
