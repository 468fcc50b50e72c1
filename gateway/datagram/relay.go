// Package datagram is the UDP data plane: it strips the headers from datagrams,
// forwards the payload to the backends, and sends the replies to the peer.
//
//	peer ─▶ trust ─▶ header ─▶ flow ─▶ backend
//	peer ◀───────────────────── flow ◀─ backend
//
// A flow is the datagrams of one client, through one socket of the peer, to one
// destination. It has its own connected socket to the backend, so the kernel
// assigns replies to flows and reports ICMP errors.
//
// The relay runs on the engine's event loops. Each loop has one worker, which
// owns its flows. With several loops each listener has one socket for each loop
// (SO_REUSEPORT). The kernel distributes datagrams by the peer's address and
// port, so all datagrams of one peer socket stay on one loop and in order, and
// nothing is locked or handed over. A single socket with distribution in the
// gateway would cost a copy and a wake-up for most datagrams.
//
// Entering the kernel costs about as much as the work that it does for one
// datagram. Therefore the datagrams of one receive call are sorted by flow and
// sent with few calls, and the replies to many flows are read together.
//
// The data path allocates nothing for a datagram, and keeps no reference to the
// buffer that it was received in.
package datagram

import (
	"sync/atomic"

	"unproxy/gateway/clients"
	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/limit"
	"unproxy/gateway/record"
)

// Config configures a [Relay]. [New] reads it once.
type Config struct {
	// MaxFlows limits the flows of all forwards together; at the limit a new
	// flow evicts the least recently active one. 0 is no limit.
	MaxFlows int
	// Banned are the clients that are banned at run time; nil is none.
	Banned forward.Addresses
	// Ephemeral are the ports that the kernel assigns, as [engine.Config]
	// describes.
	Ephemeral engine.Ports
	// Report receives each finished flow, as [engine.Config] describes. It may
	// be nil.
	Report func(*record.Connection)
	// Notice receives events that belong to no flow: "datagrams_dropped",
	// "receive_failed" and "receive_recovered". It may be nil.
	Notice func(engine.Notice)
	// Kernel replaces the system calls in tests; nil uses the real ones.
	Kernel Kernel
}

// Relay is the UDP data plane of all loops. Its methods are safe for concurrent
// use once the engine has been created, except Guest.
type Relay struct {
	config    Config
	forwards  map[*forward.Forward]*forwardState
	bound     []forward.Endpoint // by listener number
	inherited map[inheritedSocket]*listenerSocket
	workers   []*worker // by loop
	flows     perLoop
	claims    claims
	// clientPorts: a forward connects from the clients' ports.
	clientPorts bool
}

// forwardState is the state of one forward that all loops share.
type forwardState struct {
	*forward.Forward
	flows   perLoop
	clients limit.Clients
	policy  *clients.Policy
	counts  forward.HitCounter // Trust, if it counts
	rates   *limit.Rates       // nil: no limit
}

// New returns a relay without listeners. Pass its [Relay.Guest] to
// [engine.Config]: the engine then creates the workers.
func New(c Config) *Relay {
	if c.Kernel == nil {
		c.Kernel = linux{kernel.System()}
	}
	return &Relay{config: c, forwards: map[*forward.Forward]*forwardState{}}
}

// Guest opens the listeners of one loop and returns its worker. The engine calls
// it for each loop in order. The error is an [*engine.ListenError].
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

// prepare creates the state that the loops share.
func (r *Relay) prepare(loops int, routes []*engine.Route) {
	r.flows = make(perLoop, loops)
	r.bound = make([]forward.Endpoint, len(routes))
	r.inherited = map[inheritedSocket]*listenerSocket{}
	for _, route := range routes {
		r.clientPorts = r.clientPorts || route.Forward.UsesClientPort()
		if r.forwards[route.Forward] == nil {
			counts, _ := route.Forward.Trust.(forward.HitCounter)
			r.forwards[route.Forward] = &forwardState{
				Forward: route.Forward, flows: make(perLoop, loops), counts: counts,
				rates:  limit.NewRates(route.Forward.AcceptRate),
				policy: clients.New(route.Forward, r.config.Banned),
			}
		}
	}
}

// Bound returns the addresses of the listeners, in the order of the UDP forwards
// and their listeners.
func (r *Relay) Bound() []forward.Endpoint { return r.bound }

// perLoop is one counter for each loop.
type perLoop []atomic.Int64

func (t perLoop) total() (n int) {
	for i := range t {
		n += int(t[i].Load())
	}
	return n
}

// most returns the loop with the highest count.
func (t perLoop) most() (loop int) {
	for i := range t {
		if t[i].Load() > t[loop].Load() {
			loop = i
		}
	}
	return loop
}
