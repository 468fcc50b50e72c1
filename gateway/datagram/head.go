package datagram

import (
	"net/netip"

	"unproxy/gateway/engine"
	"unproxy/gateway/proxyproto"
)

// head is what a datagram says of itself. Its slices alias the datagram.
type head struct {
	// client and destination are unmapped. The client is invalid where the
	// header names none: the datagram is then the peer's own.
	client, destination netip.AddrPort
	payload             []byte
	version             uint8 // of the PROXY header; 0 for none
	tlvs                []byte
	spp                 []byte // the header to be put before replies
}

// refusal is why a datagram is not taken; the zero value is no refusal.
type refusal struct {
	drop Drop
	// reason says more of it, in a few constant words.
	reason string
}

// reader takes headers off datagrams, as a forward wants them. It keeps no
// state: whether one has to be there is for others to know.
type reader struct {
	options      proxyproto.Options
	headers      int
	simple       bool
	dropLocal    bool
	dropNameless bool
}

func newReader(f *engine.Forward) reader {
	options := f.Header
	options.Datagram = true
	return reader{
		options: options, headers: max(1, f.Headers), simple: f.DatagramHeader == engine.SimpleProxy,
		dropLocal: f.CloseLocal, dropNameless: f.RejectUnknown,
	}
}

// read takes the header off a datagram, which must have one. All of it must be
// in this datagram (specification, section 2). It allocates only to refuse.
func (r *reader) read(b []byte) (h head, no refusal) {
	if r.simple {
		return readSimple(b)
	}
	for range r.headers {
		decoded, err := proxyproto.Decode(b, &r.options)
		if err != nil {
			return head{}, refusalOf(err)
		}
		h.version, h.tlvs, h.payload = decoded.Version, decoded.TLVs, b[decoded.Length:]
		h.client, h.destination, no = netip.AddrPort{}, netip.AddrPort{}, refusal{}
		switch decoded.Result {
		case proxyproto.Proxy:
			h.client, h.destination = unmap(decoded.Source), unmap(decoded.Destination)
		case proxyproto.Local:
			no = r.refuseLocal()
		default:
			no = r.refuseNameless()
		}
		b = h.payload
	}
	return h, no
}

func (r *reader) refuseLocal() refusal {
	if r.dropLocal {
		return refusal{Local, "a health check"}
	}
	return refusal{}
}

func (r *reader) refuseNameless() refusal {
	if r.dropNameless {
		return refusal{NoAddress, "the header names no client"}
	}
	return refusal{}
}

func readSimple(b []byte) (h head, no refusal) {
	client, proxy, ok := DecodeSPP(b)
	if !ok {
		return head{}, refusal{NotProxy, "no Simple Proxy Protocol header"}
	}
	return head{client: client, destination: proxy, payload: b[SPPLength:], spp: b[:SPPLength]}, refusal{}
}

// refusalOf is the refusal for an error of package proxyproto.
func refusalOf(err error) refusal {
	e, ok := err.(*proxyproto.Error)
	if !ok {
		return refusal{Malformed, ""}
	}
	return refusal{dropOf(engine.HeaderOutcome(e.Reason)), e.Reason.String()}
}

const signature = proxyproto.Signature

// beginsHeader reports whether a datagram begins like a PROXY header.
func beginsHeader(b []byte) bool {
	return len(b) >= len(signature) && string(b[:len(signature)]) == signature
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
