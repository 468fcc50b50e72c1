package engine

import (
	"context"
	"net/netip"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

// Config is what an [Engine] needs. It is read once, by [New].
type Config struct {
	// Forwards are the ways through the gateway.
	Forwards []*forward.Forward
	// Loops is the number of event loops, at least 1.
	Loops int
	// Spin is how long after an event a loop looks for the next one without
	// sleeping, which keeps its processor busy for so long. It saves the time
	// that a sleeping processor takes to wake up, tens of microseconds. 0 is off.
	Spin time.Duration
	// MaxConnections is the number of connections at which the engine stops
	// accepting; later ones wait in the kernel's queue. 0 is no limit.
	MaxConnections int
	// MaxWaiting is the number of connections that may wait for their header at
	// once, shared out evenly over the loops; at the limit the one that has
	// waited longest is reset. 0 is no limit.
	MaxWaiting int
	// Lookup resolves a name to its addresses; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Guest makes what each loop does for the forwards of datagrams, whose
	// listeners it opens. It is called by New, once for each loop, in order;
	// never where there is no such forward. nil is none.
	Guest func(Host, []*Route) (Guest, error)
	// Report receives each finished connection. It is called on an event
	// loop, from several at once, and must neither block nor keep its
	// argument.
	Report func(*record.Connection)
	// Notice receives the rare events that an operator should know of and
	// that belong to no connection. It may be called from any goroutine.
	Notice func(Notice)
	// Kernel replaces the operating system in tests; nil is the real one.
	Kernel kernel.Kernel
}

// Notice is something that happened to the engine as a whole.
type Notice struct {
	// Event is a stable word: "accept_paused", "accept_resumed",
	// "accept_failed", "resolve_failed", "resolved".
	Event string
	// Forward is the listener concerned, if it is one.
	Forward string
	// Detail says more, in a sentence.
	Detail string
	// Err is the error behind it, if there is one.
	Err error
}
