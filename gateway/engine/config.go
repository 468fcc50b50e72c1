package engine

import (
	"context"
	"net/netip"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// Config configures an [Engine]. [New] reads it once.
type Config struct {
	// Forwards are served in this order, which [Engine.Bound] and [Engine.Tallies] keep.
	Forwards []*forward.Forward
	// Loops is the number of event loops, at least 1.
	Loops int
	// Spin is how long a loop polls for further events after an event before it sleeps. Polling
	// keeps a CPU busy and saves the time that a sleeping CPU takes to wake up, tens of
	// microseconds. 0 disables it.
	Spin time.Duration
	// MaxConnections is the number of connections at which the engine stops accepting; further ones
	// wait in the kernel's queue. 0 means no limit.
	MaxConnections int
	// MaxWaiting is the number of connections that may wait for their header at the same time. The
	// loops share it evenly. Beyond that, the connection that was silent longest is reset. 0 means
	// no limit.
	MaxWaiting int
	// MaxPipes is the number of pipes for splicing. The loops share it evenly, each at least one.
	// Beyond it, sessions copy. 0 means no limit.
	MaxPipes int
	// MaxBuffer is the memory, in bytes, for what sessions have read and the other side has not
	// taken. At the limit the bytes stay in the sockets that they come from. Each loop may exceed it
	// by one batch of reads, 512 KiB. 0 means no limit.
	MaxBuffer int64
	// Banned are the clients that are banned at run time. nil means none.
	Banned forward.Addresses
	// Ephemeral are the ports that the kernel assigns to sockets that connect. On a backend's port
	// among them the engine notices if a socket is connected to itself. nil means none.
	Ephemeral Ports
	// Lookup resolves a host name to its addresses. nil uses the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Connect connects to a backend from an address of this host and closes the connection. nil uses
	// the system's sockets.
	Connect func(ctx context.Context, to forward.Endpoint, from Origin) error
	// Guest returns the [Guest] of a loop, which serves the listeners of the datagram forwards. New
	// calls it once per loop, in order, if there is such a forward. It may be nil.
	Guest func(Host, []*Route) (Guest, error)
	// Report receives each finished connection. Event loops call it, several at the same time. It
	// must not block and must not keep its argument.
	Report func(*record.Connection)
	// Notice receives events that concern the engine rather than one connection. Any goroutine may
	// call it.
	Notice func(Notice)
	// Kernel replaces the operating system in tests. nil uses the real one.
	Kernel kernel.Kernel
}

// Origin is where a connection of the gateway's own comes from.
type Origin struct {
	// Address is an address of this host; if it is invalid, the kernel chooses.
	Address netip.Addr
	// Own are the host's addresses, see [source.Bind].
	Own transparent.Addresses
	// Mark is the SO_MARK of the socket; 0 sets none.
	Mark uint32
	// TOA says whether and how to offer a client in a TCP option. Without a promise, the
	// connection has failed.
	TOA forward.TOA
}

// Notice is an event that belongs to no connection.
type Notice struct {
	// Event is one of "accept_paused", "accept_resumed", "accept_failed", "accept_recovered",
	// "receive_failed", "receive_recovered", "resolve_failed", "resolved", "backend_down" and
	// "backend_up".
	Event string
	// Forward is the name of the listener, for a backend that of the forward, or "" if the event
	// belongs to neither.
	Forward string
	// Of is the forward of a listener that failed or recovered, else nil.
	Of *forward.Forward
	// Detail is an explanation, the host name that was resolved or the backend; it may be "".
	Detail string
	// Err is the cause, or nil.
	Err error
}
