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
	at := ln.Endpoint.Addr
	errno := ln.openTCP(k, at)
	if ln.DualStack && NoIPv6(errno) {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
		errno = ln.openTCP(k, at)
	}
	if errno != 0 {
		return errno
	}
	bound, errno := k.LocalAddr(ln.fd)
	if errno != 0 {
		return systemError("getsockname", errno)
	}
	// The kernel writes the dual-stack wildcard as [::]; LocalAddr leaves it so.
	ln.bound = Endpoint{Addr: bound}
	return nil
}

// NoIPv6 says of an error of socket(2) or bind(2) that the host has no IPv6 at all: the module is missing, or it is
// switched off for every interface.
func NoIPv6(errno syscall.Errno) bool {
	return errno == unix.EAFNOSUPPORT || errno == unix.EADDRNOTAVAIL
}

// openTCP opens a TCP listener.
func (ln *listener) openTCP(k Kernel, at netip.AddrPort) syscall.Errno {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, errno := k.Socket(family)
	if errno != 0 {
		return errno
	}
	if errno := ln.listenOn(k, fd, at); errno != 0 {
		k.Close(fd)
		return errno
	}
	ln.fd = fd
	return 0
}

// listenOn makes a TCP socket listen. The options of a listener are inherited by
// the sockets that it accepts (inet_csk_clone_lock), which saves setting them on
// each.
func (ln *listener) listenOn(k Kernel, fd int, at netip.AddrPort) syscall.Errno {
	options := []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if at.Addr().Is6() {
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, truth(!ln.DualStack)})
	}
	for _, o := range append(options, ln.forward.options.all()...) {
		if errno := k.SetOption(fd, o[0], o[1], o[2]); errno != 0 {
			return errno
		}
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
