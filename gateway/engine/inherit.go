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

// inherit takes over an open socket. It sets all of the forward's options, including those that are
// off, because the previous owner may have set them.
func (ln *listener) inherit(k kernel.Kernel) error {
	ln.fd, ln.bound, ln.held = ln.Socket.FD, ln.Socket.Bound, ln.Socket.Held
	if !ln.bound.IsUnix() {
		return ln.inheritTCP(k)
	}
	if ln.held || isAbstract(ln.bound.Path) {
		return nil
	}
	if err := kernel.ChmodSocket(ln.bound.Path, ln.forward.SocketMode); err != nil {
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

// optionsOff returns the options that [optionsOf] omits when they are off.
func optionsOff() []socketOption {
	return []socketOption{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	}
}

// Sockets returns a duplicate of each listener's socket for another process, in the order of
// [Engine.Bound]. The caller owns the descriptors. Listeners that closed after an error are
// omitted. The engine must be running.
func (e *Engine) Sockets() ([]forward.Socket, error) {
	c := e.copySockets()
	<-c.made
	return c.result()
}

// socketCopies are duplicates of the listeners' sockets. Each loop duplicates its own.
type socketCopies struct {
	engine  *Engine
	made    <-chan struct{}
	sockets []forward.Socket // by listener; FD is -1 if the listener is closed
	errs    []error
}

func (e *Engine) copySockets() *socketCopies {
	n := len(e.listeners)
	c := &socketCopies{engine: e, sockets: make([]forward.Socket, n), errs: make([]error, n)}
	c.made = e.onLoops(func(l *loop) {
		for i, ln := range e.listeners {
			if ln.loop == l {
				c.sockets[i], c.errs[i] = ln.duplicate(l.kernel)
			}
		}
	})
	return c
}

// result returns the duplicates. If any failed, it closes all and returns the errors.
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
