package transparent

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets is what [Bind] asks of the kernel. [System] is the real one.
type Sockets interface {
	// SetOption is setsockopt(2) with an int as the value.
	SetOption(fd, level, name, value int) syscall.Errno
	// Bind is bind(2). a is of the socket's family.
	Bind(fd int, a netip.AddrPort) syscall.Errno
}

// Bind binds the socket fd to source, an address that need not be the host's.
// The socket must be of source's family, and source not 4-in-6; a [Choice]'s
// is right. The errno is that of the first call that failed, 0 if none did.
//
// With a port, SO_REUSEADDR lets several connections share address and port as
// long as they go to different backends; without it the second bind(2) would
// fail. Two to the same backend collide only at connect(2), see [RetryConnect].
//
// With port 0 the port is chosen at connect(2) (IP_BIND_ADDRESS_NO_PORT), when
// the backend is known: chosen at bind(2), a client's address had no more than
// the ephemeral range for all backends together. AF_INET6 sockets take that
// option at level IPPROTO_IP too, there is no other (ipv6_setsockopt hands
// SOL_IP on to ip_setsockopt).
func Bind(k Sockets, fd int, source netip.AddrPort) syscall.Errno {
	option := [2]int{unix.SOL_SOCKET, unix.SO_REUSEADDR}
	if source.Port() == 0 {
		option = [2]int{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}
	}
	if errno := k.SetOption(fd, option[0], option[1], 1); errno != 0 {
		return errno
	}
	if errno := Enable(k, fd, source.Addr().Is4()); errno != 0 {
		return errno
	}
	return k.Bind(fd, source)
}

// Enable lets the socket fd have addresses that are not the host's: it may be
// bound to one, and a listening socket takes the connections that the packet
// filter's tproxy statement hands to it, whatever they were sent to
// (nf_tproxy_assign_sock takes no other socket). is4 says that the socket is of
// AF_INET, else it is of AF_INET6; one of those that takes both families does so
// for both. It is to be called before bind(2).
func Enable(k Sockets, fd int, is4 bool) syscall.Errno {
	if is4 {
		return k.SetOption(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	}
	return k.SetOption(fd, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
}

// RetryBind reports whether a [Bind] to the client's port that failed with
// errno may succeed with port 0, on a new socket.
//
// EADDRINUSE: somebody on this host holds address and port without
// SO_REUSEADDR, or listens there (inet_csk_get_port). EACCES: the port is
// below net.ipv4.ip_unprivileged_port_start, as a rule 1024, and
// CAP_NET_BIND_SERVICE is missing (__inet_bind). EADDRNOTAVAIL is not among
// them: it says that the address is foreign and IP_TRANSPARENT did not take.
func RetryBind(errno syscall.Errno) bool {
	return errno == syscall.EADDRINUSE || errno == syscall.EACCES
}

// RetryConnect reports whether a connect(2) from the client's port that failed
// with errno may succeed from port 0, on a new socket: the old one keeps its
// port.
//
// EADDRNOTAVAIL: there is a connection with the same four addresses and ports
// already, be it one that closed less than a minute ago
// (__inet_check_established). From port 0 it says that the client's address
// has no port left towards this backend. EADDRINUSE is what connect(2) documents
// for the same case.
func RetryConnect(errno syscall.Errno) bool {
	return errno == syscall.EADDRNOTAVAIL || errno == syscall.EADDRINUSE
}

// System is the kernel itself. Its calls do not block and are made without
// telling the scheduler.
type System struct{}

// SetOption implements [Sockets].
func (System) SetOption(fd, level, name, value int) syscall.Errno {
	return number(unix.SetsockoptInt(fd, level, name, value))
}

// Bind implements [Sockets].
func (System) Bind(fd int, a netip.AddrPort) syscall.Errno {
	return number(unix.Bind(fd, sockaddr(a)))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// number returns the errno behind an error of package unix, which has no other
// errors for calls such as these; EINVAL stands for the impossible.
func number(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return syscall.EINVAL
}
