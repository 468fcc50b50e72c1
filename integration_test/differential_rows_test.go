package integration_test

import (
	"errors"
	"slices"

	"unproxy/gateway/proxyproto"
)

// difference is an input on which a receiver disagrees with the gateway.
type difference struct {
	receiver     string
	input        []byte
	ours, theirs verdict
}

// explanation is a difference that is known, of Debian 12's HAProxy 2.6 and nginx 1.22. The sections
// are those of proxy-protocol.txt.
type explanation struct {
	receiver, why string
	holds         func(d difference) bool
}

// explanations begins with headers that the gateway alone refuses, by its reasons.
var explanations = []explanation{
	{receiverHAProxy, "it reads other numbers as well; 2.1 has no heading zeroes, and octets and ports in range",
		refusedFor(proxyproto.ReasonIPv4Octet, proxyproto.ReasonIPv4Syntax, proxyproto.ReasonPort)},
	{receiverHAProxy, "it ignores what follows the ports; a line that does not exactly match 2.1 must be discarded",
		refusedFor(proxyproto.ReasonV1Fields)},
	{receiverHAProxy, "it does not look into the SSL TLV; 2.2.6 has five bytes and then TLVs that end with it",
		refusedFor(proxyproto.ReasonSSLShort, proxyproto.ReasonTLVOverrun)},
	{receiverNginx, "it reads heading zeroes; 2.1 has none, which avoids confusion with octal numbers",
		refusedFor(proxyproto.ReasonIPv4Octet, proxyproto.ReasonPort)},
	{receiverNginx, "it takes a line whose address it cannot read for the peer's own; 2.1: it must be discarded",
		all(theyTakeThePeer, refusedFor(proxyproto.ReasonIPv4Syntax, proxyproto.ReasonIPv4Octet,
			proxyproto.ReasonIPv6Charset, proxyproto.ReasonIPv6DoubleColon, proxyproto.ReasonIPv6Group,
			proxyproto.ReasonIPv6Groups, proxyproto.ReasonIPv6TooManyGroups))},
	{receiverNginx, "it reads either family after TCP4 and TCP6; 2.1: the protocol dictates the format",
		refusedFor(proxyproto.ReasonIPv4Syntax, proxyproto.ReasonIPv4InTCP6)},
	{receiverNginx, "it takes other words that begin with UNKNOWN; 2.1 has this word alone",
		all(theyTakeThePeer, refusedFor(proxyproto.ReasonV1Protocol))},
	{receiverNginx, "it reads past a CR or an LF alone to the CRLF; 2.1: a receiver must not tolerate either alone",
		refusedFor(proxyproto.ReasonBareCR, proxyproto.ReasonBareLF)},
	{receiverNginx, "it takes undefined commands, families and transports for LOCAL; 2.2: they must be refused",
		all(theyTakeThePeer, refusedFor(proxyproto.ReasonV2Command, proxyproto.ReasonV2Family,
			proxyproto.ReasonV2Transport))},
	{receiverNginx, "it takes a short block of addresses that it does not need; 2.2 has their length",
		all(theyTakeThePeer, refusedFor(proxyproto.ReasonV2ShortBlock))},
	{receiverNginx, "it does not read the TLVs; 2.2 has TLVs to the end of the header",
		refusedFor(proxyproto.ReasonStrayBytes, proxyproto.ReasonTLVOverrun, proxyproto.ReasonSSLShort,
			proxyproto.ReasonUniqueID)},
	{receiverNginx, "it does not verify the checksum; 2.2.3: a mismatch must be treated as an error",
		refusedFor(proxyproto.ReasonChecksumLength, proxyproto.ReasonChecksumWrong, proxyproto.ReasonChecksumTwice)},

	{receiverHAProxy, "it refuses text after UNKNOWN; 2.1: anything before the CRLF must be ignored",
		theyRefuse(func(h proxyproto.Header) bool { return h.Version == 1 && h.Result == proxyproto.Unknown })},
	{receiverHAProxy, "it refuses blocks without TCP addresses; 2.2: they count as UNSPEC, which it may accept or refuse",
		theyRefuse(func(h proxyproto.Header) bool { return h.Version == 2 && h.Result == proxyproto.Unknown })},
	{receiverHAProxy, "the header does not fit its buffer of 16384 bytes; 2.2 has 16 bits for the length",
		theyRefuse(func(h proxyproto.Header) bool { return h.Length > 16384 })},
	{receiverNginx, "it reads at most 107 bytes; 2.2 has 16 bits for the length",
		theyRefuse(func(h proxyproto.Header) bool { return h.Version == 2 && h.Length > 107 })},

	{receiverNginx, "it cannot read 255.255.255.255, which inet_addr(3) returns for an error; 2.1 and 2.2 have it",
		func(d difference) bool {
			h, err := proxyproto.Decode(d.input, nil)
			return err == nil && theyTakeThePeer(d) && h.Source.Addr().String() == "255.255.255.255"
		}},
}

// explain returns the first explanation of a difference, or nil.
func explain(d difference) *explanation {
	for i, e := range explanations {
		if e.receiver == d.receiver && e.holds(d) {
			return &explanations[i]
		}
	}
	return nil
}

// refusedFor means that the gateway alone refuses, for one of these reasons.
func refusedFor(reasons ...proxyproto.Reason) func(difference) bool {
	return func(d difference) bool {
		_, err := proxyproto.Decode(d.input, nil)
		refusal, ok := errors.AsType[*proxyproto.Error](err)
		return ok && !d.ours.accepted && d.theirs.accepted && slices.Contains(reasons, refusal.Reason)
	}
}

// theyRefuse means that the receiver alone refuses, and that the header is of a kind.
func theyRefuse(kind func(proxyproto.Header) bool) func(difference) bool {
	return func(d difference) bool {
		h, err := proxyproto.Decode(d.input, nil)
		return err == nil && d.ours.accepted && !d.theirs.accepted && kind(h)
	}
}

// theyTakeThePeer means that to the receiver the peer is the client.
func theyTakeThePeer(d difference) bool { return d.theirs.accepted && d.theirs.client == "peer" }

func all(conditions ...func(difference) bool) func(difference) bool {
	return func(d difference) bool {
		return !slices.ContainsFunc(conditions, func(holds func(difference) bool) bool { return !holds(d) })
	}
}
