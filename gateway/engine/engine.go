// Package engine is the data plane: it accepts connections, takes the PROXY
// headers off, connects to the backends and relays.
//
// There is one event loop per CPU, a goroutine locked to a thread, which owns
// an epoll instance and its sessions outright: on the data path there is no
// lock, no channel, no shared counter and no goroutine per connection.
//
//	accept ─▶ trust ─▶ header ─▶ dial ─▶ relay ─▶ record
//
// trust.go and session.go are that path, from top to bottom, and nothing else
// decides how a connection ended. kernel.go holds every system call but those that
// move the bytes of many sockets at once, which are in batch.go.
package engine

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/limit"
	"unproxy/gateway/record"
)

// Engine is the data plane. Its methods may be called from any goroutine.
type Engine struct {
	config    Config
	kernel    kernel.Kernel
	loops     []*loop
	forwards  []*forwardState
	byForward map[*forward.Forward]*forwardState
	listeners []*listener
	names     *resolver

	active       atomic.Int64 // connections of all loops
	guestActive  atomic.Int64 // what the guests hold
	limitReached atomic.Bool  // a listener waits for one of them to end
	closing      atomic.Bool
	idle         chan struct{} // closed when closing and no connection is left
	idleOnce     sync.Once
	running      sync.WaitGroup
	lifecycle    lifecycle
}

// forward is a Forward and what the engine counts for it.
type forwardState struct {
	*forward.Forward
	options options // of its TCP sockets
	index   int     // among the engine's forwards
	active  atomic.Int64
	clients limit.Clients
	counts  forward.HitCounter // Trust, if it counts
	rates   *limit.Rates       // nil: no limit
}

// trusts reports whether a peer is trusted. A set that counts hits is told
// which loop asks.
func (f *forwardState) trusts(peer netip.Addr, loop int) bool {
	if f.counts != nil {
		return f.counts.Admit(peer, loop)
	}
	return f.Trust.Contains(peer)
}

// Counters is how many connections there are; see [Engine.Tallies] for how many
// there were.
type Counters struct {
	// Active is the number of connections that have not ended.
	Active int
	// Waiting is how many of them wait for their header.
	Waiting int
	// PerLoop is the number of connections that each loop serves.
	PerLoop []int
}

// New opens the listeners and makes the loops; nothing is accepted before
// Start. The error is of the first listener that could not be opened, and
// everything is closed again.
func New(c Config) (*Engine, error) {
	e := &Engine{config: c, kernel: c.Kernel, byForward: map[*forward.Forward]*forwardState{}, idle: make(chan struct{})}
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

// open opens a forward's listeners and deals them out to the loops. Those of
// datagrams are the guests'.
func (e *Engine) openForward(f *forward.Forward) error {
	own := &forwardState{Forward: f, options: optionsOf(f), index: len(e.forwards), rates: limit.NewRates(f.AcceptRate)}
	own.counts, _ = f.Trust.(forward.HitCounter)
	e.forwards, e.byForward[f] = append(e.forwards, own), own
	for _, l := range e.loops {
		l.tallies = append(l.tallies, new(record.Tally))
	}
	if f.Datagrams {
		return nil
	}
	for i := range f.Listeners {
		ln := &listener{Listener: &f.Listeners[i], forward: own, fd: -1}
		if err := ln.open(e.kernel); err != nil {
			return &ListenError{Name: ln.Name, Err: err}
		}
		ln.route = newRoute(f, ln.Listener, e.names)
		ln.route.Bound = ln.bound
		ln.loop = e.loops[len(e.listeners)%len(e.loops)]
		ln.index = len(ln.loop.listeners)
		ln.loop.listeners = append(ln.loop.listeners, ln)
		e.listeners = append(e.listeners, ln)
	}
	return nil
}

// discard closes what New opened. Of a socket that came from elsewhere the file
// stays: whoever handed it over may go on without us.
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

// Start resolves the backends' names, once, and begins to accept.
func (e *Engine) Start() {
	e.names.start(context.Background())
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

// Bound returns the addresses that the listeners are bound to, in the order of
// the forwards and their listeners. Those of datagrams are not among them.
func (e *Engine) Bound() []forward.Endpoint {
	bound := make([]forward.Endpoint, len(e.listeners))
	for i, ln := range e.listeners {
		bound[i] = ln.bound
	}
	return bound
}

// StopAccepting accepts what the kernel had queued and closes the listeners.
// Sessions go on. The queue of a socket that is [Socket.Held] is left alone.
func (e *Engine) StopAccepting() { e.stopAccepting(false) }

// Release is StopAccepting after another process has got the sockets: their
// queues, and the files of unix sockets, are its own from now on.
func (e *Engine) Release() { e.stopAccepting(true) }

func (e *Engine) stopAccepting(handedOver bool) {
	parted := make(chan struct{}, len(e.loops))
	e.onLoops(func(l *loop) {
		for _, ln := range l.listeners {
			ln.held = ln.held || handedOver
		}
		l.closeGracefully(func() { parted <- struct{}{} })
		if l.guest != nil {
			l.guest.StopAccepting()
		}
	})
	// Only when all loops have closed their listeners can the number of
	// connections reach its last zero.
	e.running.Go(func() {
		for range e.loops {
			<-parted
		}
		e.closing.Store(true)
		e.checkIdle()
	})
}

// Idle is closed when StopAccepting has been called, the last connection has
// ended, and the guests hold nothing any more.
func (e *Engine) Idle() <-chan struct{} { return e.idle }

// Cut resets every connection that is left; they end as drained.
func (e *Engine) Cut() { e.onLoops((*loop).cutAll) }

// Close cuts what is left, ends the loops and waits for them. It may be called
// once, and the engine must have been started.
func (e *Engine) Close() {
	e.names.close()
	// A loop that ended would never see the connections that another one,
	// whose listeners are still open, hands over to it.
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

// Counters returns how many connections there are.
func (e *Engine) Counters() Counters {
	c := Counters{Active: int(e.active.Load())}
	for _, l := range e.loops {
		c.Waiting += int(l.waiting.count.Load())
		c.PerLoop = append(c.PerLoop, int(l.active.Load()))
	}
	return c
}

// room tells whether a listener may accept one more connection. If not, the
// listener is left alone until one has ended. The limits are exact for one
// listener; several on different loops may overstep them by one each.
func (e *Engine) hasCapacity(ln *listener) bool {
	if e.belowLimits(ln.forward) {
		return true
	}
	// A connection may end just now: look again once others know that
	// somebody waits, or nobody would ever tell.
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

// entered counts a connection, and left counts it out again.
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

// Alive is closed once every loop has come round. A loop that hangs keeps it
// open; so does one that has ended.
func (e *Engine) Alive() <-chan struct{} { return e.onLoops(func(*loop) {}) }
