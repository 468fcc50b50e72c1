package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/transparent"
)

// backlog requests the longest queue that the kernel allows, net.core.somaxconn.
const backlog = 65535

// open opens the listening socket, or takes over an inherited one.
func (ln *listener) open(k kernel.Kernel) error {
	if ln.Socket != nil {
		return ln.inherit(k)
	}
	if ln.Activation != "" {
		return errors.New("systemd did not pass the socket")
	}
	if ln.Endpoint.IsUnix() {
		return ln.openUnix(k)
	}
	fd, errno := ln.openTCP(k, ln.Endpoint.Addr)
	if errno != 0 {
		return errno
	}
	bound, errno := k.LocalAddr(fd)
	if errno != 0 {
		k.Close(fd)
		return os.NewSyscallError("getsockname", errno)
	}
	ln.fd = fd
	// LocalAddr returns the dual-stack wildcard as [::].
	ln.bound = forward.Endpoint{Addr: bound}
	return nil
}

// openTCP opens a TCP socket that listens at an address. On a host without IPv6, a dual-stack
// listener falls back to the IPv4 wildcard address.
func (ln *listener) openTCP(k kernel.Kernel, at netip.AddrPort) (int, syscall.Errno) {
	fd, errno := k.Socket(family(forward.Endpoint{Addr: at}))
	if errno == 0 {
		if errno = ln.listenOn(k, fd, at); errno == 0 {
			return fd, 0
		}
		k.Close(fd)
	}
	if ln.DualStack && at.Addr().Is6() && kernel.NoIPv6(errno) {
		return ln.openTCP(k, netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
	}
	return -1, errno
}

// listenOn binds a TCP socket and makes it listen. Accepted sockets inherit the listener's options
// (inet_csk_clone_lock), which saves setting them on each.
func (ln *listener) listenOn(k kernel.Kernel, fd int, at netip.AddrPort) syscall.Errno {
	options := []socketOption{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if at.Addr().Is6() {
		options = append(options, socketOption{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, kernel.Bool(!ln.DualStack)})
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

// sharePort lets connections to backends use the listener's port as a client's, if any forward
// connects from those: otherwise a client whose port is a listener's own, as with syslog and SIP,
// could not keep it. A listener on one address leaves the ports of foreign addresses alone.
func (ln *listener) sharePort(k kernel.Kernel, forwards []*forward.Forward) syscall.Errno {
	uses := func(f *forward.Forward) bool { return !f.Datagrams && f.UsesClientPort() }
	if ln.bound.IsUnix() || !ln.bound.Addr.Addr().IsUnspecified() || !slices.ContainsFunc(forwards, uses) {
		return 0
	}
	return transparent.SharePort(k, ln.fd)
}

// openUnix opens a listening unix socket. Its mode decides who may connect, so it is set before the
// socket listens. The file of a socket that nothing listens on, left by a crash, is replaced.
func (ln *listener) openUnix(k kernel.Kernel) error {
	path := ln.Endpoint.Path
	fd, errno := k.Socket(unix.AF_UNIX)
	if errno != 0 {
		return os.NewSyscallError("socket", errno)
	}
	errno = k.BindPath(fd, path)
	if errno == unix.EADDRINUSE && isStale(k, path) {
		if err := os.Remove(path); err == nil {
			errno = k.BindPath(fd, path)
		}
	}
	if errno != 0 {
		k.Close(fd)
		return os.NewSyscallError("bind", errno)
	}
	ln.bound = ln.Endpoint
	if !isAbstract(path) {
		if err := kernel.ChmodSocket(path, ln.forward.SocketMode); err != nil {
			k.Close(fd)
			return fmt.Errorf("set the mode of the socket: %w", err)
		}
	}
	if errno := k.Listen(fd, backlog); errno != 0 {
		k.Close(fd)
		return os.NewSyscallError("listen", errno)
	}
	ln.fd = fd
	return nil
}

// isStale reports whether path is a socket file that refuses connections.
func isStale(k kernel.Kernel, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	fd, errno := k.Socket(unix.AF_UNIX)
	if errno != 0 {
		return false
	}
	defer k.Close(fd)
	return k.ConnectPath(fd, path) == unix.ECONNREFUSED
}

// removeSocket removes the file of a unix socket.
func removeSocket(e forward.Endpoint) {
	if e.IsUnix() && !isAbstract(e.Path) {
		os.Remove(e.Path) // best effort: the next start replaces a stale file
	}
}

func isAbstract(path string) bool { return strings.HasPrefix(path, "@") }

// ListenError is a listener that could not be opened.
type ListenError struct {
	Name string // as the operator wrote it
	// Address is where it was to listen; invalid for a unix socket, which has a Path.
	// Datagrams means UDP.
	Address   netip.AddrPort
	Path      string
	Datagrams bool
	Err       error
}

func (e *ListenError) Error() string { return fmt.Sprintf("listen on %s: %v", e.Name, e.Err) }

// Unwrap returns Err.
func (e *ListenError) Unwrap() error { return e.Err }

// Hint returns how to fix the error, or "".
func (e *ListenError) Hint() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE) && !e.Address.IsValid():
		return "another program listens there, or the file is not a socket: see ss -lxp"
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "the address is in use: find the socket that has the port, listening or connected, with ss -tuanp"
	case errors.Is(e.Err, syscall.EACCES):
		return "a port below 1024 needs CAP_NET_BIND_SERVICE; a unix socket needs a writable directory"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return "the address is not assigned to this host: see ip address"
	case errors.Is(e.Err, syscall.EAFNOSUPPORT):
		return "this host has no IPv6: listen on an IPv4 address, or on :PORT for the families that it has"
	}
	return ""
}
