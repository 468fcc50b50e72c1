package forward

import "net/netip"

// Endpoint is where a socket listens or connects to: an address with a port, or
// the path of a unix socket. The zero value is neither.
type Endpoint struct {
	Addr netip.AddrPort
	// Path begins with "@" for an abstract name, see unix(7).
	Path string
}

// IsUnix reports whether e is a unix socket.
func (e Endpoint) IsUnix() bool { return e.Path != "" }

// String returns the endpoint as it is written on the command line.
func (e Endpoint) String() string {
	if e.IsUnix() {
		return "unix:" + e.Path
	}
	return e.Addr.String()
}
