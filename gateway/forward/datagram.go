package forward

// DatagramHeader says which of a peer's datagrams carry a header, and of which
// kind. The bytes never decide it.
type DatagramHeader uint8

// The kinds of sender.
const (
	// EveryDatagram: a PROXY header of version 2 in each datagram, as section 2
	// of the specification says.
	EveryDatagram DatagramHeader = iota
	// FirstDatagram: a PROXY header of version 2 in the first datagram of a
	// flow only. A peer's address and port identify the flow.
	FirstDatagram
	// SimpleProxy: the 38 bytes of Cloudflare's Simple Proxy Protocol in each
	// datagram, and before each reply.
	SimpleProxy
)

var datagramHeaders = [...]string{EveryDatagram: "every", FirstDatagram: "first", SimpleProxy: "spp"}

// String returns the value of the flag --udp-header.
func (h DatagramHeader) String() string { return datagramHeaders[h] }
