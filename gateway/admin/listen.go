package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
)

// socketMode is the file mode of a unix socket: only the owner may connect.
const socketMode = 0o600

// maxConnections is how many connections an endpoint serves at a time. Further
// ones wait in the kernel's queue.
const maxConnections = 16

// Descriptors is how many file descriptors an endpoint may hold: connections, the
// listener, and one for the accept in progress. The gateway reserves them.
const Descriptors = maxConnections + 2

// Listen opens the listener of an endpoint. The file of a unix socket has mode
// 0600 from the moment it exists. Listen replaces a socket that a crash left
// behind, but not one that a process listens on. The error is a [*ListenError].
func Listen(a Address) (net.Listener, error) {
	l, err := listen(a)
	if errors.Is(err, syscall.EADDRINUSE) && isStale(a.Path) && os.Remove(a.Path) == nil {
		l, err = listen(a)
	}
	if err != nil {
		return nil, &ListenError{Address: a, Err: err}
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

func listen(a Address) (net.Listener, error) {
	network, address := a.network()
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	if network == "unix" {
		config.Control = restrict
	}
	return config.Listen(context.Background(), network, address)
}

// restrict sets the mode of a socket before bind, which creates the file with that
// mode (unix_bind in net/unix/af_unix.c). The file never has another mode.
func restrict(_, _ string, raw syscall.RawConn) error {
	var chmodErr error
	err := raw.Control(func(fd uintptr) { chmodErr = syscall.Fchmod(int(fd), socketMode) })
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
	Address Address
	Err     error
}

// Error names the address once, and the cause.
func (e *ListenError) Error() string {
	return fmt.Sprintf("open the admin endpoint on %s: %v", e.Address, cause(e.Err))
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
	isPath := e.Address.Path != "" && !strings.HasPrefix(e.Address.Path, "@")
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

// limitListener is a listener with a limit on the number of open connections.
type limitListener struct {
	net.Listener
	open   chan struct{} // one value per open connection
	closed chan struct{}
	once   sync.Once
}

func newLimitListener(l net.Listener, limit int) *limitListener {
	return &limitListener{Listener: l, open: make(chan struct{}, limit), closed: make(chan struct{})}
}

// Accept waits until the number of open connections is below the limit, and then
// for a connection.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.open
		return nil, err
	}
	return &limitConn{Conn: c, release: func() { <-l.open }}, nil
}

// Close closes the listener. It does not close connections.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitConn is a connection of a limitListener.
type limitConn struct {
	net.Conn
	release func()
	once    sync.Once
}

// Close closes the connection.
func (c *limitConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}
