package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/transparent"
)

// backlog asks for the longest queue that the kernel gives, net.core.somaxconn.
const backlog = 65535

// open opens a listening socket as the listener says.
func (ln *listener) open(k Kernel) error {
	if ln.Socket != nil {
		return ln.adopt(k)
	}
	if ln.Activation != "" {
		return errors.New("systemd did not hand the socket over")
	}
	if ln.Endpoint.IsUnix() {
		return ln.openUnix(k)
	}
	fd, errno := OpenSocket(k, ln.Endpoint.Addr, ln.DualStack, func(fd int, at netip.AddrPort) syscall.Errno {
		return ln.listenOn(k, fd, at)
	})
	if errno != 0 {
		return errno
	}
	ln.fd = fd
	bound, errno := k.LocalAddr(fd)
	if errno != 0 {
		return systemError("getsockname", errno)
	}
	// The kernel writes the dual-stack wildcard as [::]; LocalAddr leaves it so.
	ln.bound = Endpoint{Addr: bound}
	return nil
}

// NoIPv6 says of an error of socket(2) or bind(2) that the host has no IPv6 at all: the module is missing, or it is
// switched off for every interface.
func NoIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// Opener is the part of a [Kernel], or of one for datagrams, that opens sockets.
type Opener interface {
	// Socket opens a socket of a family, AF_INET or AF_INET6.
	Socket(family int) (int, syscall.Errno)
	// Close closes.
	Close(fd int)
}

// OpenSocket opens a socket of at's family, which bind is to bind to at, and
// closes it again where that fails. Where the host has no IPv6, a wildcard that
// is dualStack becomes the one of IPv4. The errno is that of the last call that
// failed; if it is 0 the caller owns the descriptor.
func OpenSocket(k Opener, at netip.AddrPort, dualStack bool, bind func(fd int, at netip.AddrPort) syscall.Errno) (int, syscall.Errno) {
	fd, errno := k.Socket(Endpoint{Addr: at}.family())
	if errno == 0 {
		if errno = bind(fd, at); errno == 0 {
			return fd, 0
		}
		k.Close(fd)
	}
	if dualStack && at.Addr().Is6() && NoIPv6(errno) {
		return OpenSocket(k, netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()), false, bind)
	}
	return -1, errno
}

// listenOn makes a TCP socket listen. The options of a listener are inherited by
// the sockets that it accepts (inet_csk_clone_lock), which saves setting them on
// each.
func (ln *listener) listenOn(k Kernel, fd int, at netip.AddrPort) syscall.Errno {
	options := []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if at.Addr().Is6() {
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, truth(!ln.DualStack)})
	}
	if errno := setOptions(k, fd, append(options, ln.forward.options.all()...)); errno != 0 {
		return errno
	}
	if ln.forward.TProxy {
		if errno := transparent.Enable(k, fd, at.Addr().Is4()); errno != 0 {
			return errno
		}
	}
	if errno := k.Bind(fd, at); errno != 0 {
		return errno
	}
	return k.Listen(fd, backlog)
}

// openUnix opens a listener on a unix socket. The socket's mode decides who may
// connect, so the mode is there before the socket listens. A socket that a
// crash left behind is replaced, one that somebody listens on is not.
func (ln *listener) openUnix(k Kernel) error {
	path := ln.Endpoint.Path
	fd, errno := k.Socket(unix.AF_UNIX)
	if errno != 0 {
		return systemError("socket", errno)
	}
	errno = k.BindPath(fd, path)
	if errno == unix.EADDRINUSE && isStale(k, path) {
		if err := os.Remove(path); err == nil {
			errno = k.BindPath(fd, path)
		}
	}
	if errno != 0 {
		k.Close(fd)
		return systemError("bind", errno)
	}
	ln.bound = ln.Endpoint
	if !isAbstract(path) {
		if err := os.Chmod(path, ln.forward.SocketMode); err != nil {
			k.Close(fd)
			return fmt.Errorf("set the mode of the socket: %w", err)
		}
	}
	if errno := k.Listen(fd, backlog); errno != 0 {
		k.Close(fd)
		return systemError("listen", errno)
	}
	ln.fd = fd
	return nil
}

// isStale reports whether path is a socket on which nobody listens.
func isStale(k Kernel, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	fd, errno := k.Socket(unix.AF_UNIX)
	if errno != 0 {
		return false
	}
	defer k.Close(fd)
	return k.Connect(fd, Endpoint{Path: path}) == unix.ECONNREFUSED
}

// removeSocket removes the file of a unix socket that was listened on.
func removeSocket(e Endpoint) {
	if e.IsUnix() && !isAbstract(e.Path) {
		os.Remove(e.Path) // best effort: the next start replaces a stale one
	}
}

func isAbstract(path string) bool { return strings.HasPrefix(path, "@") }

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
