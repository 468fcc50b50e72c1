package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/transparent"
)

// adopt takes a socket that is open already. The forward's options are set on
// it, those that are off among them: whoever had it before may have set them.
func (ln *listener) inherit(k kernel.Kernel) error {
	ln.fd, ln.bound, ln.held = ln.Socket.FD, ln.Socket.Bound, ln.Socket.Held
	if !ln.bound.IsUnix() {
		return ln.inheritTCP(k)
	}
	if ln.held || isAbstract(ln.bound.Path) {
		return nil
	}
	if err := os.Chmod(ln.bound.Path, ln.forward.SocketMode); err != nil {
		return fmt.Errorf("set the mode of the socket: %w", err)
	}
	return nil
}

func (ln *listener) inheritTCP(k kernel.Kernel) error {
	if errno := setOptions(k, ln.fd, append(optionsOff(), ln.forward.options.all()...)); errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	if !ln.forward.TProxy {
		return nil
	}
	if errno := transparent.Enable(k, ln.fd, ln.bound.Addr.Addr().Is4()); errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// optionsOff are those that [optionsOf] leaves out where they are off.
func optionsOff() []socketOption {
	return []socketOption{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	}
}

// Sockets returns a copy of each listener's socket, to be handed to another
// process, in the order of [Engine.Bound]. The caller owns the descriptors. The
// engine must be running. A listener that closed for an error is left out.
func (e *Engine) Sockets() ([]forward.Socket, error) {
	c := e.copySockets()
	<-c.made
	return c.result()
}

// copies are the copies of the listeners' sockets, of which each loop makes
// those of its own listeners.
type socketCopies struct {
	engine  *Engine
	made    <-chan struct{}
	sockets []forward.Socket // each listener; FD is -1 where there is none
	errs    []error
}

func (e *Engine) copySockets() *socketCopies {
	c := &socketCopies{engine: e, sockets: make([]forward.Socket, len(e.listeners)), errs: make([]error, len(e.listeners))}
	c.made = e.onLoops(func(l *loop) {
		for i, ln := range e.listeners {
			if ln.loop == l {
				c.sockets[i], c.errs[i] = ln.duplicate(l.kernel)
			}
		}
	})
	return c
}

// sockets returns the copies that were made, or on any error none.
func (c *socketCopies) result() ([]forward.Socket, error) {
	open := slices.DeleteFunc(c.sockets, func(s forward.Socket) bool { return s.FD < 0 })
	if err := errors.Join(c.errs...); err != nil {
		for _, s := range open {
			c.engine.kernel.Close(s.FD)
		}
		return nil, err
	}
	return open, nil
}

// duplicate returns a copy of the listener's socket.
func (ln *listener) duplicate(k kernel.Kernel) (forward.Socket, error) {
	if ln.fd < 0 {
		return forward.Socket{FD: -1}, nil
	}
	fd, errno := k.Duplicate(ln.fd)
	if errno != 0 {
		return forward.Socket{FD: -1}, fmt.Errorf("hand over %s: %w", ln.Name, os.NewSyscallError("fcntl", errno))
	}
	return forward.Socket{Name: ln.SocketName(), FD: fd, Bound: ln.bound, Held: ln.held}, nil
}
