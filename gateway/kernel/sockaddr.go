package kernel

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EncodeSockaddr encodes a as the sockaddr_in or sockaddr_in6 of its family and
// returns the length in bytes.
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

// DecodeSockaddr is the inverse of [EncodeSockaddr]. It unmaps IPv4-mapped
// addresses; an address of another family is invalid.
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

// Unmap returns a with its address unmapped if that is IPv4-mapped.
func Unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
