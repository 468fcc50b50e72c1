package daemon

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is what TCP and unix listeners have in common.
type listener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// gate is a listener that accepts only while this process is in charge: two
// processes share the socket during an upgrade, and monitoring must reach the one
// that serves.
type gate struct {
	listener
	open    <-chan struct{} // it accepts once this is closed; nil is at once
	left    chan struct{}   // closed when it accepts nothing more
	closed  chan struct{}
	leaving sync.Once
	closing sync.Once
}

func newGate(l listener, open <-chan struct{}) *gate {
	return &gate{listener: l, open: open, left: make(chan struct{}), closed: make(chan struct{})}
}

// Accept waits until the gate is open and then for a connection. After
// [gate.leave] it waits until the gate is closed: net/http takes an error for the
// end of the listener.
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

// readGrace is how long requests on accepted connections have to arrive.
const readGrace = 200 * time.Millisecond

// leave stops accepting and returns when requests that were under way have been
// read. The file of a unix socket stays.
func (g *gate) leave() {
	g.leaving.Do(func() {
		g.own(false)
		close(g.left)
		g.listener.SetDeadline(time.Unix(1, 0)) // ends the Accept that waits; fails only on a closed listener
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
