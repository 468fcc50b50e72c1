package command

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/admin"
	"unproxy/gateway/supervise"
)

// The admin endpoint is handed over with the listeners: whoever asks finds the
// process that serves, and the address is never taken twice.

// adminSocketName is what its socket is handed over as.
func (s *server) adminSocketName() string { return "admin " + s.admin.address.String() }

// listenAdmin returns the endpoint's listener, from the process before or a new
// one.
func (s *server) listenAdmin() (net.Listener, error) {
	in, ok := s.takeSpare(s.adminSocketName())
	if !ok {
		l, err := admin.Listen(s.admin.address)
		if err != nil {
			return nil, err
		}
		s.adminGate = newGate(l.(listener), nil)
		return s.adminGate, nil
	}
	f := os.NewFile(uintptr(in.FD), in.Name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the admin endpoint on %s: %w", s.admin.address, err)
	}
	s.adminGate = newGate(l.(listener), s.serving)
	return s.adminGate, nil
}

// adminSocket returns a copy of the endpoint's socket, if there is one.
func (s *server) adminSocket() ([]supervise.Socket, error) {
	if s.adminGate == nil {
		return nil, nil
	}
	fd, err := s.adminGate.duplicate()
	if err != nil {
		return nil, fmt.Errorf("hand over the admin endpoint: %w", err)
	}
	return []supervise.Socket{{Name: s.adminSocketName(), FD: fd}}, nil
}

// ownAdmin has this process remove the file of the endpoint's unix socket in
// the end.
func (s *server) ownAdmin() {
	if s.adminGate != nil {
		s.adminGate.own(true)
	}
}

// leaveAdmin leaves the endpoint to the process that takes over. What was asked
// of this one is still answered: package http drops requests that it is reading
// when it is told to stop.
func (s *server) leaveAdmin() {
	if s.adminGate != nil {
		s.adminGate.leave()
	}
}

// listener is what listeners of TCP and of unix sockets are.
type listener interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// gate is a listener that accepts nothing before the process before has left,
// and nothing more once this one has: a monitoring must not hear of a process
// that does not serve.
type gate struct {
	listener
	open     <-chan struct{} // nil: from the start
	left     chan struct{}
	closed   chan struct{}
	leaving  sync.Once
	shutting sync.Once
}

func newGate(l listener, open <-chan struct{}) *gate {
	return &gate{listener: l, open: open, left: make(chan struct{}), closed: make(chan struct{})}
}

// Accept waits until the gate is open, and for a connection.
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
	g.shutting.Do(func() { close(g.closed) })
	return g.listener.Close()
}

// lingers is how long requests that were accepted before have.
const lingers = 200 * time.Millisecond

// leave stops accepting and returns when what was accepted has been read. The
// file of a unix socket stays.
func (g *gate) leave() {
	g.leaving.Do(func() {
		g.own(false)
		close(g.left)
		g.listener.SetDeadline(time.Unix(1, 0)) // which ends the Accept that waits; it fails on a closed one alone
		time.Sleep(lingers)
	})
}

// own says whether the file of a unix socket is removed with the listener.
func (g *gate) own(is bool) {
	if u, ok := g.listener.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(is)
	}
}

// duplicate returns a copy of the socket's descriptor.
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
