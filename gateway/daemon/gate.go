package daemon

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a TCP or unix listener.
type listener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// gate is a listener that accepts only while this process is in charge. During an
// upgrade two processes share the socket, and requests must reach the one that
// serves.
type gate struct {
	listener
	open    <-chan struct{} // closed when the gate may accept; nil is open
	left    chan struct{}   // closed when the gate stops accepting
	closed  chan struct{}
	leaving sync.Once
	closing sync.Once
}

func newGate(l listener, open <-chan struct{}) *gate {
	return &gate{listener: l, open: open, left: make(chan struct{}), closed: make(chan struct{})}
}

// Accept waits until the gate is open, then accepts a connection. After [gate.leave]
// it blocks until the gate is closed, because net/http stops serving on an error.
func (g *gate) Accept() (net.Conn, error) {
	if g.open != nil {
		select {
		case <-g.open:
		case <-g.closed:
			return nil, net.ErrClosed
		}
	}
	c, err := g.listener.Accept()
	select {
	case <-g.left:
	default:
		return c, err
	}
	if err == nil {
		return c, nil
	}
	<-g.closed
	return nil, net.ErrClosed
}

// Close closes the listener.
func (g *gate) Close() error {
	g.closing.Do(func() { close(g.closed) })
	return g.listener.Close()
}

// readGrace is the time that requests on accepted connections have to arrive.
const readGrace = 200 * time.Millisecond

// leave stops accepting, and waits until pending requests have been read. It leaves
// the file of a unix socket.
func (g *gate) leave() {
	g.leaving.Do(func() {
		g.own(false)
		close(g.left)
		g.listener.SetDeadline(time.Unix(1, 0)) // ends a waiting Accept; fails only on a closed listener
		time.Sleep(readGrace)
	})
}

// own sets whether the file of a unix socket is removed when the listener closes.
func (g *gate) own(remove bool) {
	if u, ok := g.listener.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(remove)
	}
}

// duplicate returns a copy of the socket's descriptor, which the caller owns.
func (g *gate) duplicate() (fd int, err error) {
	raw, err := g.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = raw.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = os.NewSyscallError("fcntl", failed)
	}
	return fd, err
}
