package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"unproxy/gateway/kernel"
)

// Listen opens the listener of an endpoint. The file of a unix socket has the mode
// of its kind from the moment it exists. Listen replaces a socket that a crash left
// behind, but not one that a process listens on. The error is a [*ListenError].
func Listen(k Kind, a Address) (net.Listener, error) {
	l, err := listen(k, a)
	if errors.Is(err, syscall.EADDRINUSE) && isStale(a.Path) && os.Remove(a.Path) == nil {
		l, err = listen(k, a)
	}
	if err != nil {
		return nil, &ListenError{Kind: k, Address: a, Err: err}
	}
	if k == Probes && a.HasFile() {
		if err := kernel.ChmodSocket(a.Path, k.socketMode()); err != nil { // the umask has narrowed it
			l.Close()
			return nil, &ListenError{Kind: k, Address: a, Err: err}
		}
	}
	return l, nil
}

// AddressOf returns the address that a listener is bound to.
func AddressOf(l net.Listener) Address {
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		return Address{TCP: tcp.AddrPort()}
	}
	return Address{Path: l.Addr().String()}
}

func listen(k Kind, a Address) (net.Listener, error) {
	network, address := a.network()
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	if network == "unix" {
		config.Control = k.setMode
	}
	return config.Listen(context.Background(), network, address)
}

// setMode sets the mode of a socket before bind, which creates the file with that
// mode (unix_bind in net/unix/af_unix.c), as far as the umask allows. The file never
// has a wider mode.
func (k Kind) setMode(_, _ string, raw syscall.RawConn) error {
	var chmodErr error
	err := raw.Control(func(fd uintptr) { chmodErr = syscall.Fchmod(int(fd), uint32(k.socketMode())) })
	return errors.Join(err, os.NewSyscallError("fchmod", chmodErr))
}

// isStale reports whether path is a socket that no process listens on.
func isStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// ListenError means that the listener of an endpoint could not be opened.
type ListenError struct {
	Kind    Kind
	Address Address
	Err     error
}

// Error names the address once, and the cause.
func (e *ListenError) Error() string {
	return fmt.Sprintf("open the %s on %s: %v", e.Kind, e.Address, cause(e.Err))
}

// cause unwraps an error of package net, whose text would repeat the address.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// Hint says how to fix it, or is empty.
func (e *ListenError) Hint() string {
	isPath := e.Address.HasFile()
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE) && isPath:
		return "another program listens there, or the file is not a socket: see ss -lxp"
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "another socket has the port, listening or connected: see ss -tanp"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return "the address is not assigned to this host: see ip address"
	case isPath && (errors.Is(e.Err, syscall.EACCES) || errors.Is(e.Err, syscall.ENOENT)):
		return "the directory must exist and be writable"
	}
	return ""
}
