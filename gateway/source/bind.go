package source

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
)

// Bind binds the socket fd to an address of this host. The kernel chooses the port at
// connect(2), when the backend is known (IP_BIND_ADDRESS_NO_PORT, ip(7)): connections
// to different backends can then share it. The socket must be of a's family.
//
// The kernel binds to an IPv6 address that only a local route covers, not an interface
// (AnyIP), if the socket has IPV6_FREEBIND (__inet6_bind). That is set for addresses in
// own, the host's; nil is none. IPv4 does not need it.
//
// EADDRNOTAVAIL means that a is not an address of this host, see [NotOwn]. From connect(2)
// it means that a has no free port towards the backend.
func Bind(k transparent.Sockets, fd int, a netip.Addr, own transparent.Addresses) syscall.Errno {
	if errno := k.SetOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); errno != 0 {
		return errno
	}
	errno := k.Bind(fd, netip.AddrPortFrom(a, 0))
	if errno != unix.EADDRNOTAVAIL || a.Is4() || own == nil || !own.Contains(a) {
		return errno
	}
	if errno := k.SetOption(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); errno != 0 {
		return errno
	}
	return k.Bind(fd, netip.AddrPortFrom(a, 0))
}

// NotOwn returns the reason that logs give if an address is not, or no longer, one of this
// host. errno is that of [Bind].
func NotOwn(a netip.Addr, errno syscall.Errno) string {
	return "the source address " + a.String() + " is not one of this host: " + errno.Error()
}
