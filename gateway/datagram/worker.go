package datagram

import (
	"net/netip"
	"time"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

// worker is the part of a relay that runs on one loop. Only that loop accesses
// it, except for the counters.
type worker struct {
	relay  *Relay
	host   engine.Host
	kernel Kernel
	batch  kernel.Batch // nil if the system does not offer it

	listeners []*listenerSocket // by listener
	lists     []*lruList
	table     table

	fromPeers    *inbox // from peers, for one receive call
	replies      *inbox // from backends, until the end of the turn
	toBackend    sorter // to backends, for one receive call
	toPeer       outbox // to peers, through replySocket
	replySocket  *listenerSocket
	failing      []flowRef // flows that must fail over, or are broken
	connected    bool      // the last attempt to connect got as far as connect(2)
	pendingReads readBatch

	targets  []forward.Endpoint
	record   record.Connection
	lastPeer classification
	draining bool
	closed   bool
	phase    phase
	walks    uint32 // over all flows that have begun, see eachFlow
	alarm    int64  // deadline that is set; 0 is none
	behind   int    // alarms in a row that were postponed

	traffic  traffic // since the last turn
	counters counters
	dropReport
}

func newWorker(r *Relay, h engine.Host) *worker {
	return &worker{
		relay: r, host: h, kernel: r.config.Kernel, batch: r.config.Kernel.Batch(batchSize), table: newTable(),
		fromPeers: newInbox(), replies: newInbox(),
	}
}

// keyBits is the number of low bits of an event's key that hold a number: 1 and up
// for the listeners, and the numbers after those for the flows. The bits above
// hold the generation of the flow.
const keyBits = 30

func (w *worker) keyOf(f *flow) uint64 {
	return uint64(f.generation)<<keyBits | uint64(f.index) + uint64(len(w.listeners)) + 1
}

// Start starts receiving. With sockets of the previous process it waits for
// [Relay.Serve].
func (w *worker) Start() {
	if len(w.relay.inherited) > 0 {
		w.phase = waiting
		return
	}
	w.watchListeners()
}

// Event serves the socket of a listener or a flow.
func (w *worker) Event(key uint64, _ uint32) {
	number := uint32(key&(1<<keyBits-1)) - 1
	if int(number) < len(w.listeners) {
		w.receive(w.listeners[number])
		return
	}
	if f := w.table.at(number-uint32(len(w.listeners)), uint32(key>>keyBits)); f != nil {
		w.readOrDefer(f)
	}
}

// Rest sends the replies that arrived in this turn of the loop.
func (w *worker) Rest() {
	w.readPending()
	w.flushReplies()
	if w.traffic != (traffic{}) {
		w.counters.add(&w.traffic)
		w.traffic = traffic{}
	}
}

// Alarm ends idle flows and reports drops.
func (w *worker) Alarm() {
	w.readPending()
	w.alarm = 0
	if w.phase == suspended || w.phase == waiting {
		return
	}
	if w.postpone() {
		w.wakeAt(w.host.Now() + 1)
		return
	}
	w.checkListeners()
	w.reportDrops()
	if w.phase == left {
		return
	}
	w.rewatchListeners()
	for _, l := range w.lists {
		w.expire(l)
	}
}

// mostPostponed limits the alarms in a row that are postponed. It is enough to empty a queue of
// queueSize bytes.
const mostPostponed = 64

// postpone reports whether an alarm must wait because the queue of a listener may hold datagrams
// of flows that seem idle: after a pause they count before a timeout that passed meanwhile.
func (w *worker) postpone() bool {
	for _, ls := range w.listeners {
		if ls.behind && w.behind < mostPostponed {
			w.behind++
			return true
		}
	}
	w.behind = 0
	return false
}

// expireBudget limits the flows of a forward that end in one turn: closing
// thousands of sockets would delay all other flows.
const expireBudget = 512

// expire ends the idle flows of a list.
func (w *worker) expire(l *lruList) {
	timeout := w.timeout(l)
	for range expireBudget {
		f := l.first
		if f == nil || f.lastActive+timeout > w.host.Now() {
			break
		}
		w.endIdle(f)
	}
	if l.first != nil {
		w.wakeAt(max(l.first.lastActive+timeout, w.host.Now()+1))
	}
}

// drainTimeout limits the idle time of flows while the gateway drains.
const drainTimeout = 5 * time.Second

func (w *worker) timeout(l *lruList) int64 {
	if w.draining {
		return int64(min(l.FlowTimeout, drainTimeout))
	}
	return int64(l.FlowTimeout)
}

// wakeAt sets the alarm to a time, unless it is set to an earlier one.
func (w *worker) wakeAt(at int64) {
	if w.alarm == 0 || at < w.alarm {
		w.alarm = at
		w.host.Alarm(at)
	}
}

// StopAccepting refuses new flows. Existing flows continue until they are idle,
// so the listeners stay open.
func (w *worker) StopAccepting() {
	if w.draining {
		return
	}
	w.draining = true
	w.wakeAt(w.host.Now() + 1)
}

// Cut ends every flow. Those that another process goes on with are forgotten.
func (w *worker) Cut() {
	w.readPending()
	for _, l := range w.lists {
		for l.first != nil {
			if w.phase == left || w.phase == waiting {
				w.leave(l.first)
				continue
			}
			w.endAs(l.first, record.Drained, record.Gateway, "")
		}
	}
}

// Close ends every flow and closes the listeners.
func (w *worker) Close() {
	if w.closed {
		return
	}
	w.closed = true
	w.Cut()
	w.Rest()
	w.checkListeners()
	w.reportDrops()
	for _, ls := range w.listeners {
		w.closeListener(ls)
	}
	if w.batch != nil {
		w.batch.Close()
	}
}

func (w *worker) notice(n engine.Notice) {
	if w.relay.config.Notice != nil {
		w.relay.config.Notice(n)
	}
}

// classification caches the class of the last peer. Most datagrams of one receive
// call are from the same peer.
type classification struct {
	listener *listenerSocket
	peer     netip.Addr
	class    peerClass
}

// peerClass is what a peer may do.
type peerClass uint8

const (
	untrustedPeer peerClass = iota
	trustedPeer             // may name a client
	healthPeer              // sends health checks
	clientPeer              // is the client itself
)

// classify returns the class of a peer, by its address alone.
func (w *worker) classify(ls *listenerSocket, peer netip.Addr) peerClass {
	if w.lastPeer.listener == ls && w.lastPeer.peer == peer {
		return w.lastPeer.class
	}
	s := untrustedPeer
	switch {
	case ls.Forward.Health != nil && ls.Forward.Health.Contains(peer):
		s = healthPeer
	case ls.Forward.IsDirect(peer):
		s = clientPeer
	case ls.Forward.Trust.Contains(peer):
		s = trustedPeer
	case ls.Forward.PassUntrusted:
		s = clientPeer
	}
	w.lastPeer = classification{ls, peer, s}
	return s
}
