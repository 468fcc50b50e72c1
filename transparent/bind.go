package transparent

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets are the system calls that [Bind] makes. [System] implements them with
// the kernel's.
type Sockets interface {
	// SetOption is setsockopt(2) with an int value.
	SetOption(fd, level, name, value int) syscall.Errno
	// Bind is bind(2). The socket must be of a's family.
	Bind(fd int, a netip.AddrPort) syscall.Errno
}

// Bind binds the socket fd to source, which need not be an address of this host.
// The socket must be of source's family, and source must not be IPv4-mapped;
// [Choice.Source] meets both conditions. Bind returns the errno of the first call
// that failed, or 0.
//
// If source has a port, SO_REUSEADDR lets connections to different backends share
// the address and port; without it the second bind(2) fails. Two connections to
// the same backend collide at connect(2); see [RetryConnect]. A socket that
// listens on every address has the port of foreign addresses as well, with
// SO_REUSEADDR or not. If that is a listener of this process that
// [SharePort] was called for, a second bind(2) with SO_REUSEPORT succeeds.
//
// If source's port is 0, the kernel chooses the port at connect(2), when the
// backend is known (IP_BIND_ADDRESS_NO_PORT, ip(7)). If it chose the port at
// bind(2), the connections of one client to all backends would share a single
// ephemeral port range. AF_INET6 sockets use the option of level IPPROTO_IP, too:
// ipv6_setsockopt passes SOL_IP to ip_setsockopt, and there is no IPv6 variant.
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
	errno := k.Bind(fd, source)
	if errno != unix.EADDRINUSE || source.Port() == 0 {
		return errno
	}
	if errno := SharePort(k, fd); errno != 0 {
		return errno
	}
	return k.Bind(fd, source)
}

// SharePort sets SO_REUSEPORT on the socket fd. If it is bound to every address, or
// listens there, sockets of the same user with that option can then be bound to
// foreign addresses with its port (inet_bind_conflict, udp_lib_lport_inuse). Call it
// after bind(2) and listen(2), so that these still fail if the address is in use.
//
// The kernel compares the users who opened the two sockets (sk_uid). It delivers
// nothing to a socket because of this option: the others have another address.
func SharePort(k Sockets, fd int) syscall.Errno {
	return k.SetOption(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// Enable sets IP_TRANSPARENT or IPV6_TRANSPARENT on the socket fd. The socket can
// then be bound to foreign addresses, and a listening socket accepts connections
// to any address that the packet filter's tproxy statement assigns to it
// (nf_tproxy_assign_sock accepts no other sockets). is4 tells AF_INET from
// AF_INET6; a dual-stack socket needs the IPv6 option alone. Call it before
// bind(2).
func Enable(k Sockets, fd int, is4 bool) syscall.Errno {
	if is4 {
		return k.SetOption(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	}
	return k.SetOption(fd, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
}

// RetryBind reports whether a [Bind] to the client's port that failed with errno
// can succeed with port 0 on a new socket.
//
//   - EADDRINUSE: another socket on this host is bound to the address and port
//     without SO_REUSEADDR, or listens there (inet_csk_get_port). A wildcard
//     listener of another user or without SO_REUSEPORT is the usual one.
//   - EACCES: the port is below net.ipv4.ip_unprivileged_port_start (1024 by
//     default) and CAP_NET_BIND_SERVICE is missing (__inet_bind).
//
// EADDRNOTAVAIL means that the address is foreign and IP_TRANSPARENT is not set;
// another port does not help.
func RetryBind(errno syscall.Errno) bool {
	return errno == syscall.EADDRINUSE || errno == syscall.EACCES
}

// RetryConnect reports whether a connect(2) from the client's port that failed
// with errno can succeed from port 0. That takes a new socket: the old one
// remains bound to its port.
//
// EADDRNOTAVAIL means that a connection with the same addresses and ports exists
// or is in TIME_WAIT (__inet_check_established). From port 0 it means that the
// client's address has no free port towards this backend. connect(2) documents
// EADDRINUSE for the same case.
func RetryConnect(errno syscall.Errno) bool {
	return errno == syscall.EADDRNOTAVAIL || errno == syscall.EADDRINUSE
}

// System implements [Sockets] with the system calls, which do not block.
type System struct{}

// SetOption implements [Sockets].
func (System) SetOption(fd, level, name, value int) syscall.Errno {
	return errnoOf(unix.SetsockoptInt(fd, level, name, value))
}

// Bind implements [Sockets].
func (System) Bind(fd int, a netip.AddrPort) syscall.Errno {
	return errnoOf(unix.Bind(fd, sockaddr(a)))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// errnoOf returns the errno in an error of package unix. These calls return no
// other errors; EINVAL stands in for any.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return syscall.EINVAL
}
