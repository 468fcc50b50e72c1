package engine

import "net/netip"

// address is a netip.AddrPort without a zone, in 20 bytes instead of 32: a session holds four. The
// zero value is invalid. Addresses are comparable with ==.
type address struct {
	bytes [16]byte // IPv4 as 4-in-6
	port  uint16
	kind  addressKind
}

type addressKind uint8

const (
	invalid addressKind = iota
	ipv4
	ipv6
)

// pack converts a to an address and drops its zone.
func pack(a netip.AddrPort) address {
	switch {
	case !a.IsValid():
		return address{}
	case a.Addr().Is4():
		return address{a.Addr().As16(), a.Port(), ipv4}
	}
	return address{a.Addr().As16(), a.Port(), ipv6}
}

// unpack is the inverse of pack.
func (a *address) unpack() netip.AddrPort {
	switch a.kind {
	case invalid:
		return netip.AddrPort{}
	case ipv4:
		return netip.AddrPortFrom(netip.AddrFrom16(a.bytes).Unmap(), a.port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.bytes), a.port)
}

func (a *address) isValid() bool { return a.kind != invalid }
