package datagram

import (
	"net/netip"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// header is the decoded header of a datagram. Its slices alias the datagram.
type header struct {
	// client and destination are unmapped. client is invalid if the header
	// names none: then the datagram is the peer's own.
	client, destination netip.AddrPort
	payload             []byte
	version             uint8 // of the PROXY header; 0 for none
	command             record.Command
	tlvs                []byte
	spp                 []byte // the header to put before replies
}

// cause is why a datagram is dropped; the zero value means that it is not.
type cause struct {
	drop Drop
	// reason adds detail, in a few words.
	reason string
}

// reader strips headers from datagrams by the rules of a forward. It has no state;
// the caller knows which datagrams carry a header.
type reader struct {
	options     proxyproto.Options
	headers     int
	simple      bool
	dropLocal   bool
	dropUnknown bool
}

func newReader(f *forward.Forward) reader {
	options := f.Header
	options.Datagram = true
	return reader{
		options: options, headers: max(1, f.Headers), simple: f.DatagramHeader == forward.SimpleProxy,
		dropLocal: f.CloseLocal, dropUnknown: f.RejectUnknown,
	}
}

// read strips the header from a datagram that must have one. The datagram must
// contain the whole header (specification, section 2). Of stacked headers, LOCAL
// is the last, as in the engine. It allocates only for errors.
func (r *reader) read(b []byte) (h header, no cause) {
	if r.simple {
		return readSimple(b)
	}
	for range r.headers {
		decoded, err := proxyproto.Decode(b, &r.options)
		if err != nil {
			return header{}, causeOf(err)
		}
		h.version, h.tlvs, h.payload = decoded.Version, decoded.TLVs, b[decoded.Length:]
		h.client, h.destination, no = netip.AddrPort{}, netip.AddrPort{}, cause{}
		switch decoded.Result {
		case proxyproto.Proxy:
			h.command = record.CommandProxy
			h.client, h.destination = kernel.Unmap(decoded.Source), kernel.Unmap(decoded.Destination)
		case proxyproto.Local:
			h.command = record.CommandLocal
			return h, r.rejectLocal()
		default:
			h.command = record.CommandUnknown
			no = r.rejectNameless()
		}
		b = h.payload
	}
	return h, no
}

func (r *reader) rejectLocal() cause {
	if r.dropLocal {
		return cause{Local, "a health check"}
	}
	return cause{}
}

func (r *reader) rejectNameless() cause {
	if r.dropUnknown {
		return cause{NoAddress, "the header names no client"}
	}
	return cause{}
}

func readSimple(b []byte) (h header, no cause) {
	client, proxy, ok := DecodeSPP(b)
	if !ok {
		return header{}, cause{NotProxy, "no Simple Proxy Protocol header"}
	}
	return header{client: client, destination: proxy, payload: b[SPPLength:], spp: b[:SPPLength]}, cause{}
}

// causeOf translates an error of package proxyproto.
func causeOf(err error) cause {
	e, ok := err.(*proxyproto.Error)
	if !ok {
		return cause{Malformed, ""}
	}
	return cause{dropFor(engine.HeaderOutcome(e.Reason)), e.Reason.String()}
}

// startsWithHeader reports whether a datagram starts like a version 2 header.
func startsWithHeader(b []byte) bool {
	return len(b) >= len(proxyproto.Signature) && string(b[:len(proxyproto.Signature)]) == proxyproto.Signature
}
