package forward

import (
	"fmt"
	"strings"
)

// Listener is one listening socket of a forward, and its backends.
type Listener struct {
	// Name is the listener as the operator wrote it: the value of the log key
	// "forward".
	Name string
	// Endpoint is where it listens. Port 0 takes a free port.
	Endpoint Endpoint
	// DualStack lets an IPv6 wildcard accept IPv4 connections too. On a host
	// without IPv6 it listens on the IPv4 wildcard instead.
	DualStack bool
	// Activation is the name under which systemd passes the socket; "" for a
	// listener that opens its own.
	Activation string
	// Socket is an open listening socket; nil opens one at Endpoint. A listener
	// with an Activation must have one.
	Socket *Socket
	// Shared are the open sockets of a UDP listener: all that share its address, in
	// the order in which they were bound, by which the kernel distributes datagrams.
	// nil opens one for each loop.
	Shared []Socket
	// Backends are tried in order; [Forward.Transparent] says which of them.
	Backends []Backend
}

// SocketName identifies a listener's socket when it is handed to another
// process. Listeners of the same name can use each other's socket.
func (l *Listener) SocketName() string {
	switch {
	case l.Activation != "":
		return ActivationName(l.Activation)
	case l.DualStack:
		return "dual-stack " + l.Endpoint.String()
	}
	return l.Endpoint.String()
}

// SharedName is [Listener.SocketName] for the i-th socket of a UDP listener.
func (l *Listener) SharedName(i int) string { return fmt.Sprintf("udp://%s#%d", l.SocketName(), i) }

// BackendText lists the listener's backends in words, in order.
func (l *Listener) BackendText() string {
	all := make([]string, len(l.Backends))
	for i, b := range l.Backends {
		all[i] = b.String()
	}
	return strings.Join(all, ", else ")
}

// ActivationName returns the [Listener.SocketName] of the sockets that systemd
// passes under a name.
func ActivationName(name string) string { return "systemd:" + name }

// Bound is a listener that is open.
type Bound struct {
	Forward  *Forward
	Listener Listener
	// Addr is the address it is bound to: that of the listener, with the port
	// that a listener on port 0 got.
	Addr Endpoint
}

// Backend is a server to connect to. Exactly one of Endpoint, Host and
// FromHeader is set.
type Backend struct {
	// Endpoint is a fixed address or a unix socket.
	Endpoint Endpoint
	// Host is a DNS name, which is resolved in the background and kept fresh.
	Host string
	// Port goes with Host.
	Port uint16
	// FromHeader connects to the destination that the header names. Behind a
	// TProxy listener without such a header it is the connection's original
	// destination.
	FromHeader bool
}

// String returns the backend in words.
func (b Backend) String() string {
	switch {
	case b.FromHeader:
		return "the destination in the header"
	case b.Host != "":
		return fmt.Sprintf("%s:%d", b.Host, b.Port)
	}
	return b.Endpoint.String()
}

// Socket is a listening socket that this process inherited, from systemd or
// from the process that it replaces.
type Socket struct {
	// Name is the [Listener.SocketName] under which it was passed.
	Name string
	// FD is its file descriptor, non-blocking and close-on-exec. Creating the
	// engine takes ownership of it; if that fails it may stay open.
	FD int
	// Bound is the address that it listens on.
	Bound Endpoint
	// Held means that another process, such as systemd, keeps the socket open. The
	// gateway then leaves the queue, and the file of a unix socket, to that process.
	Held bool
}
