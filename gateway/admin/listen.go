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

// socketMode is that of a unix socket: its owner alone may connect.
const socketMode = 0o600

// maxConnections is how many connections an endpoint serves at once; the next
// ones wait.
const maxConnections = 16

// Descriptors is how many file descriptors an endpoint may hold: they must be
// kept back from the data path.
const Descriptors = maxConnections + 2

// Listen opens the listener of an endpoint. A unix socket is there with mode
// 0600 or not at all; one that a crash left behind is replaced, one on which
// somebody listens is not. The error is a [*ListenError].
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

// AddressOf returns where a listener is bound.
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

// restrict sets the mode of a socket that is not bound yet, which the file gets
// with its name (unix_bind in net/unix/af_unix.c): it is never there with
// another.
func restrict(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), socketMode) })
	return errors.Join(err, os.NewSyscallError("fchmod", failed))
}

// isStale reports whether path is a socket on which nobody listens.
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

// ListenError says why the listener of an endpoint could not be opened.
type ListenError struct {
	Address Address
	Err     error
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("open the admin endpoint on %s: %v", e.Address, cause(e.Err))
}

// cause returns what is behind an error of package net, whose words name the
// address once more.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Unwrap returns the error behind it.
func (e *ListenError) Unwrap() error { return e.Err }

// Hint returns what may mend it, or "".
func (e *ListenError) Hint() string {
	isPath := e.Address.Path != "" && !strings.HasPrefix(e.Address.Path, "@")
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE) && isPath:
		return "another program listens there, or the file is not a socket: see ss -lxp"
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "another program listens there: see ss -ltnp"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return "the address is not one of this host's: see ip address"
	case isPath && (errors.Is(e.Err, syscall.EACCES) || errors.Is(e.Err, syscall.ENOENT)):
		return "the directory must be there and writable"
	}
	return ""
}

// narrow is a listener of which at most so many connections are open at once as
// its channel has room for.
type narrow struct {
	net.Listener
	open   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newNarrow(l net.Listener, most int) *narrow {
	return &narrow{Listener: l, open: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits until there is room for a connection, and for one.
func (n *narrow) Accept() (net.Conn, error) {
	select {
	case n.open <- struct{}{}:
	case <-n.closed:
		return nil, net.ErrClosed
	}
	c, err := n.Listener.Accept()
	if err != nil {
		<-n.open
		return nil, err
	}
	return &counted{Conn: c, leave: func() { <-n.open }}, nil
}

// Close closes the listener.
func (n *narrow) Close() error {
	n.once.Do(func() { close(n.closed) })
	return n.Listener.Close()
}

// counted is a connection that makes room when it is closed.
type counted struct {
	net.Conn
	leave func()
	once  sync.Once
}

// Close closes the connection.
func (c *counted) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
