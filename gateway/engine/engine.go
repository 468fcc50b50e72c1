// Package engine is the TCP data plane: it accepts connections, validates and strips their PROXY
// headers, connects to the backends and forwards the plain streams.
//
// There is one event loop per CPU: a goroutine locked to its thread, which owns an epoll instance
// and its sessions. The data path has no lock, no channel, no shared counter and no goroutine per
// connection.
//
// A connection passes these steps; each names its file:
//
//	accept  accept.go   accept from the kernel's queue and choose a loop
//	trust   trust.go    decide by the peer's address, before reading a byte
//	header  header.go   read and decode the PROXY header
//	dial    dial.go     choose a backend and connect to it
//	relay   relay.go    forward in both directions, by copying or splice(2)
//	record  end.go      close, count and report
//
// states.go is the state machine that connects these steps: it handles every event and deadline of
// a session. trust.go and states.go decide the outcome of a connection. Besides, waiting.go ends
// those that wait too long for their header, and reload.go those of peers that lost trust.
//
// loop.go is the event loop, mailbox.go how other goroutines reach it, wheel.go its timers, and
// iobatch.go its batches of small reads and writes. All system calls go through package kernel.
package engine

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"unproxy/gateway/clients"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/limit"
	"unproxy/gateway/record"
	"unproxy/gateway/source"
)

// Engine is the data plane. Its methods are safe for concurrent use.
type Engine struct {
	config    Config
	kernel    kernel.Kernel
	loops     []*loop
	forwards  []*forwardState
	byForward map[*forward.Forward]*forwardState
	listeners []*listener
	names     *resolver
	checks    checks
	buffers   buffers

	active       atomic.Int64 // connections of all loops
	guestActive  atomic.Int64 // what guests hold, see Host.Hold
	limitReached atomic.Bool  // a listener waits for a connection to end
	closing      atomic.Bool
	idle         chan struct{} // closed when closing is set and nothing is active
	idleOnce     sync.Once
	running      sync.WaitGroup
	lifecycle    lifecycle
}

// forwardState is a Forward with the engine's state for it.
type forwardState struct {
	*forward.Forward
	options options // of its TCP sockets
	index   int     // in Engine.forwards
	active  atomic.Int64
	clients limit.Clients
	policy  *clients.Policy
	counts  forward.HitCounter // Trust, if that counts hits
	rates   *limit.Rates       // nil: no limit

	backends *Backends
}

// trusts reports whether a peer is trusted. loop is the index of the calling loop, for a set that
// counts hits.
func (f *forwardState) trusts(peer netip.Addr, loop int) bool {
	if f.counts != nil {
		return f.counts.Admit(peer, loop)
	}
	return f.Trust.Contains(peer)
}

// Counters counts current connections. [Engine.Tallies] counts past ones.
type Counters struct {
	// Active is the number of open connections.
	Active int
	// Waiting is how many of them wait for their header.
	Waiting int
	// PerLoop is the number of connections of each loop.
	PerLoop []int
	// PerForward is the number of connections and flows of each forward, in the order of the
	// configuration.
	PerForward []int
	// Sessions is the number of connections for which there is memory, those in use included.
	Sessions int
	// Pipes is the number of open pipes, those that are idle included.
	Pipes int
	// Buffered is the memory, in bytes, for what was read and not yet taken by the other side.
	Buffered int64
}

// New opens the listeners and creates the loops. Nothing is accepted before Start. On an error it
// closes everything again; the error is a [*ListenError] if a listener could not be opened.
func New(c Config) (*Engine, error) {
	e := &Engine{
		config: c, kernel: c.Kernel,
		byForward: map[*forward.Forward]*forwardState{}, idle: make(chan struct{}),
	}
	e.buffers.limit = c.MaxBuffer
	e.lifecycle.stopped = make(chan struct{})
	if e.kernel == nil {
		e.kernel = kernel.System()
	}
	for i := range max(1, c.Loops) {
		l, err := newLoop(e, i)
		if err != nil {
			e.closeAll()
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	e.names = newResolver(c.Lookup, e.notice)
	e.checks = checks{connect: c.Connect, now: e.kernel.Now, stop: func() {}}
	if c.Connect == nil {
		e.checks.connect = connectOwn
	}
	for _, f := range c.Forwards {
		if err := e.openForward(f); err != nil {
			e.closeAll()
			return nil, err
		}
	}
	if err := e.createGuests(); err != nil {
		e.closeAll()
		return nil, err
	}
	return e, nil
}

// openForward opens a forward's listeners and distributes them over the loops. The guests open
// those of a datagram forward.
func (e *Engine) openForward(f *forward.Forward) error {
	own := &forwardState{Forward: f, options: optionsOf(f), index: len(e.forwards), rates: limit.NewRates(f.AcceptRate)}
	own.policy = clients.New(f, e.config.Banned)
	own.backends = NewBackends(f, e.notice)
	own.counts, _ = f.Trust.(forward.HitCounter)
	e.forwards, e.byForward[f] = append(e.forwards, own), own
	for _, l := range e.loops {
		l.tallies = append(l.tallies, new(record.Tally))
		l.sources = append(l.sources, source.NewPool(f.SourceAddresses, l.index))
	}
	if f.Datagrams {
		return nil
	}
	for i := range f.Listeners {
		ln := &listener{Listener: &f.Listeners[i], forward: own, fd: -1}
		if err := ln.open(e.kernel); err != nil {
			return &ListenError{Name: ln.Name, Address: ln.Endpoint.Addr, Path: ln.Endpoint.Path, Err: err}
		}
		ln.route = newRoute(own, ln.Listener, e.names)
		ln.route.Bound = ln.bound
		ln.loop = e.loops[len(e.listeners)%len(e.loops)]
		ln.index = len(ln.loop.listeners)
		ln.loop.listeners = append(ln.loop.listeners, ln)
		e.listeners = append(e.listeners, ln)
		if errno := ln.sharePort(e.kernel, e.config.Forwards); errno != 0 {
			return &ListenError{Name: ln.Name, Err: os.NewSyscallError("setsockopt SO_REUSEPORT", errno)}
		}
	}
	return nil
}

// closeAll closes what New opened. It leaves the file of an inherited unix socket: its previous
// owner may still serve it.
func (e *Engine) closeAll() {
	for _, l := range e.loops {
		if l.guest != nil {
			l.guest.Close()
		}
		for _, ln := range l.listeners {
			ln.held = ln.held || ln.Socket != nil
			l.closeListener(ln)
		}
		l.close()
	}
}

// Backends returns the state of the backends, in the order of the forwards. Those that headers name
// are not among them.
func (e *Engine) Backends() []BackendState {
	var all []BackendState
	for _, f := range e.forwards {
		for _, b := range f.backends.list() {
			b.Index = f.index
			all = append(all, b)
		}
	}
	return all
}

// WithoutBackend returns the forwards with [forward.Forward.BackendCheck] none of whose backends
// answers, as their numbers in [Config.Forwards]: several may have the same label. A forward that
// leads to what the header names is never among them.
func (e *Engine) WithoutBackend() []int {
	var all []int
	for _, f := range e.forwards {
		if f.BackendCheck > 0 && !f.Datagrams && !f.HasHeaderBackend() && !f.backends.anyUp() {
			all = append(all, f.index)
		}
	}
	return all
}

// Start resolves the backends' names and starts to accept. It may be called once.
func (e *Engine) Start() {
	e.names.start(context.Background())
	e.checks.start(e.forwards)
	e.lifecycle.Lock()
	defer e.lifecycle.Unlock()
	e.lifecycle.running = true
	for _, l := range e.loops {
		for _, ln := range l.listeners {
			l.watchListener(ln)
		}
		if l.guest != nil {
			l.guest.Start()
		}
		e.running.Go(l.run)
	}
}

// Bound returns the addresses that the listeners are bound to, in the order of the forwards and
// their listeners, without those of datagram forwards.
func (e *Engine) Bound() []forward.Endpoint {
	bound := make([]forward.Endpoint, len(e.listeners))
	for i, ln := range e.listeners {
		bound[i] = ln.bound
	}
	return bound
}

// StopAccepting closes the listeners. Connections in their queues are accepted first, existing ones
// continue. The queue of a socket with [forward.Socket.Held] is left alone.
func (e *Engine) StopAccepting() { e.stopAccepting(false) }

// Release is StopAccepting after another process has taken over the sockets: their queues, and the
// files of unix sockets, are that process's.
func (e *Engine) Release() { e.stopAccepting(true) }

func (e *Engine) stopAccepting(handedOver bool) {
	e.checks.stop()
	closed := make(chan struct{}, len(e.loops))
	e.onLoops(func(l *loop) {
		for _, ln := range l.listeners {
			ln.held = ln.held || handedOver
		}
		l.closeGracefully(func() { closed <- struct{}{} })
		if l.guest != nil {
			l.guest.StopAccepting()
		}
	})
	// A loop that still has a listener open may accept more connections after the count has reached 0.
	e.running.Go(func() {
		for range e.loops {
			<-closed
		}
		e.closing.Store(true)
		e.checkIdle()
	})
}

// Idle returns a channel that is closed when StopAccepting has been called, the last connection has
// ended, and the guests hold nothing.
func (e *Engine) Idle() <-chan struct{} { return e.idle }

// Cut resets all remaining connections; their outcome is drained. Those that end by what their
// sockets already hold are not affected.
func (e *Engine) Cut() { e.onLoops(func(l *loop) { l.cutting = true }) }

// Close resets the remaining connections, ends the loops and waits for them. It may be called once,
// after Start.
func (e *Engine) Close() {
	e.names.close()
	e.checks.close()
	// All listeners close before the first loop ends: a loop that has ended would not serve the
	// connections that another one passes to it.
	<-e.onLoops((*loop).closeListeners)
	e.onLoops(func(l *loop) { l.quit = true })
	e.running.Wait()
	for _, l := range e.loops {
		l.close()
	}
	e.lifecycle.Lock()
	defer e.lifecycle.Unlock()
	e.lifecycle.running = false
	close(e.lifecycle.stopped)
}

// Counters returns the numbers of current connections.
func (e *Engine) Counters() Counters {
	c := Counters{Active: int(e.active.Load()), Buffered: e.buffers.held.Load()}
	for _, l := range e.loops {
		c.Pipes += int(l.pipes.open.Load())
		c.Sessions += int(l.sessions.allocated.Load())
		c.Waiting += int(l.waiting.count.Load())
		c.PerLoop = append(c.PerLoop, int(l.active.Load()))
	}
	for _, f := range e.forwards {
		c.PerForward = append(c.PerForward, int(f.active.Load()))
	}
	return c
}

// hasCapacity reports whether a listener may accept one more connection. If not, the loop ignores
// the listener until a connection has ended. The limits are exact for one listener; listeners on
// different loops may exceed them by one each.
func (e *Engine) hasCapacity(ln *listener) bool {
	if e.belowLimits(ln.forward) {
		return true
	}
	// A connection may have ended since: check again after setting limitReached, or its end would
	// go unnoticed.
	e.limitReached.Store(true)
	if e.belowLimits(ln.forward) {
		return true
	}
	ln.loop.unwatchListener(ln)
	return false
}

func (e *Engine) belowLimits(f *forwardState) bool {
	if limit := e.config.MaxConnections; limit > 0 && e.active.Load() >= int64(limit) {
		return false
	}
	return f.MaxConnections <= 0 || f.active.Load() < int64(f.MaxConnections)
}

// connectionOpened counts a connection, connectionClosed its end.
func (e *Engine) connectionOpened(f *forwardState) {
	e.active.Add(1)
	f.active.Add(1)
}

func (e *Engine) connectionClosed(f *forwardState) {
	f.active.Add(-1)
	e.active.Add(-1)
	if e.limitReached.Load() && e.limitReached.CompareAndSwap(true, false) {
		for _, l := range e.loops {
			l.call(l.watchListeners)
		}
	}
	if e.closing.Load() {
		e.checkIdle()
	}
}

func (e *Engine) checkIdle() {
	if e.active.Load() == 0 && e.guestActive.Load() == 0 {
		e.idleOnce.Do(func() { close(e.idle) })
	}
}

func (e *Engine) notice(n Notice) {
	if e.config.Notice != nil {
		e.config.Notice(n)
	}
}

func (l *loop) cutAll() {
	for s := range l.sessions.live() {
		s.cut(l)
	}
	if l.guest != nil {
		l.guest.Cut()
	}
}

// Alive returns a channel that is closed when every loop has handled a call. It stays open while a
// loop is stalled, and after Close.
func (e *Engine) Alive() <-chan struct{} { return e.onLoops(func(*loop) {}) }
