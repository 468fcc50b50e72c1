// Package datagram is the gateway for UDP: it takes the headers off datagrams,
// passes the payload on to the backends, and the replies back.
//
//	peer ─▶ trust ─▶ header ─▶ flow ─▶ backend
//	peer ◀───────────────────── flow ◀─ backend
//
// A flow is the datagrams of one client by way of one of the peer's sockets, to
// one destination. It has a socket of its own to its backend, which is
// connected: so the kernel tells replies apart and reports ICMP errors.
//
// It lives on the engine's event loops, a [worker] on each, which owns its flows
// outright. With several loops each listener has a socket for each of them
// (SO_REUSEPORT): the kernel deals datagrams out by the peer's address and port,
// so what one socket of the peer sends stays on one loop and in order, and
// nothing is locked or handed over on the way. One socket that is dealt out by
// the gateway would cost a copy and a wake-up for most datagrams.
//
// Entering the kernel costs as much as most of what it does for a datagram: what
// comes with one call is sorted by flow and sent with as few, and the replies to
// many flows are read together.
//
// Nothing is allocated for a datagram, and nothing is kept of the room that it
// was received in.
package datagram

import (
	"sync/atomic"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/limit"
	"unproxy/gateway/record"
)

// Config is what a [Relay] needs. It is read once, by [New].
type Config struct {
	// MaxFlows is the number of flows, of all forwards together, at which the
	// one that was silent the longest gives way to the next. 0 is no limit.
	MaxFlows int
	// Report receives each finished flow, see [engine.Config]. nil is nobody.
	Report func(*record.Connection)
	// Notice receives what an operator should know of and what belongs to no
	// flow: events "datagrams_dropped". nil is nobody.
	Notice func(engine.Notice)
	// Kernel replaces the operating system in tests; nil is the real one.
	Kernel Kernel
}

// Relay is the gateway for UDP, of all loops together.
type Relay struct {
	config   Config
	forwards map[*forward.Forward]*forwardState
	bound    []forward.Endpoint // by listener
	workers  []*worker          // by loop
	flows    tally
	claims   claims
}

// forwardState is what the loops know of a forward together.
type forwardState struct {
	*forward.Forward
	flows   tally
	clients limit.Clients
	counts  forward.HitCounter // Trust, if it counts
}

// New makes a relay that serves nothing yet: the engine is to be given its
// [Relay.Guest].
func New(c Config) *Relay {
	if c.Kernel == nil {
		c.Kernel = linux{kernel.System()}
	}
	return &Relay{config: c, forwards: map[*forward.Forward]*forwardState{}}
}

// Guest is for [engine.Config]. It opens the listeners; the error is an
// [engine.ListenError].
func (r *Relay) Guest(h engine.Host, routes []*engine.Route) (engine.Guest, error) {
	if len(r.workers) == 0 {
		r.prepare(h.Loops(), routes)
	}
	w := newWorker(r, h)
	for i, route := range routes {
		if err := w.open(i, route); err != nil {
			w.Close()
			return nil, err
		}
	}
	r.workers = append(r.workers, w)
	return w, nil
}

// prepare makes what the loops share.
func (r *Relay) prepare(loops int, routes []*engine.Route) {
	r.flows = make(tally, loops)
	r.bound = make([]forward.Endpoint, len(routes))
	for _, route := range routes {
		if r.forwards[route.Forward] == nil {
			counts, _ := route.Forward.Trust.(forward.HitCounter)
			r.forwards[route.Forward] = &forwardState{Forward: route.Forward, flows: make(tally, loops), counts: counts}
		}
	}
}

// Bound returns the addresses that the listeners are bound to, in the order of
// the forwards of datagrams and their listeners.
func (r *Relay) Bound() []forward.Endpoint { return r.bound }

// tally counts something for each loop.
type tally []atomic.Int64

func (t tally) total() (n int) {
	for i := range t {
		n += int(t[i].Load())
	}
	return n
}

// most returns the loop with the most.
func (t tally) most() (loop int) {
	for i := range t {
		if t[i].Load() > t[loop].Load() {
			loop = i
		}
	}
	return loop
}
