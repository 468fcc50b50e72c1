package engine

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EncodeSockaddr writes a as a sockaddr_in or sockaddr_in6, whichever its family is,
// and returns its length.
func EncodeSockaddr(raw *unix.RawSockaddrInet6, a netip.AddrPort) uintptr {
	port := a.Port()<<8 | a.Port()>>8 // network order; both architectures are little-endian
	if a.Addr().Is4() {
		raw4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		*raw4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	*raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}
	return unix.SizeofSockaddrInet6
}

// DecodeSockaddr is the inverse of [EncodeSockaddr]; an address of another family is invalid. This
// is the edge at which 4-in-6 addresses are unmapped.
func DecodeSockaddr(raw *unix.RawSockaddrInet6) netip.AddrPort {
	port := raw.Port<<8 | raw.Port>>8
	switch raw.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(raw)).Addr), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(raw.Addr).Unmap(), port)
	}
	return netip.AddrPort{}
}
