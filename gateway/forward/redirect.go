package forward

import (
	"fmt"
	"net/netip"
)

// Redirect is a set of TCP destinations that the host's packet filter redirects
// to a TProxy listener.
type Redirect struct {
	// Prefix holds the addresses, masked and never IPv4-mapped. The zero Prefix
	// stands for the host's own addresses of both families.
	Prefix netip.Prefix
	// Low and High are the first and the last port, at least 1.
	Low, High uint16
}

// AllPorts reports whether r covers every port.
func (r Redirect) AllPorts() bool { return r.Low <= 1 && r.High == 65535 }

// String returns r as it is written on the command line.
func (r Redirect) String() string {
	ports := fmt.Sprintf(":%d-%d", r.Low, r.High)
	switch {
	case r.Low == r.High:
		ports = fmt.Sprintf(":%d", r.Low)
	case r.AllPorts() && r.Prefix.IsValid():
		ports = ""
	}
	switch {
	case !r.Prefix.IsValid():
		return ports
	case r.Prefix.Addr().Is6():
		return "[" + r.Prefix.String() + "]" + ports
	}
	return r.Prefix.String() + ports
}
