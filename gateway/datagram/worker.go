package datagram

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"unproxy/gateway/engine"
	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
)

// worker is a relay's part on one loop. Nobody else touches it, but for the
// counters.
type worker struct {
	relay  *Relay
	host   engine.Host
	kernel Kernel
	batch  kernel.Batch // nil where there is none to be had

	fronts []*front // by listener
	lanes  []*lane
	table  table

	received *inbox // from peers, for the length of one call
	answers  *inbox // from backends, until the loop rests
	forth    sorter // to backends, for the length of one call
	back     outbox // to peers, from the socket of returns
	returns  *front
	refused  []ticket // flows that are to look for another backend
	gathered collector

	targets  []forward.Endpoint
	report   record.Connection
	verdict  verdict
	draining bool
	closed   bool
	alarm    int64 // when it is set for; 0 is never

	counted  traffic // since the loop rested
	counters counters
	complaint
}

func newWorker(r *Relay, h engine.Host) *worker {
	return &worker{
		relay: r, host: h, kernel: r.config.Kernel, batch: r.config.Kernel.Batch(batchSize), table: newTable(),
		received: newInbox(), answers: newInbox(),
	}
}

// keyBits is how many of the bits of an event's key are a number: first those
// of the listeners from 1, then those of the flows, whose generation is in the
// bits above.
const keyBits = 30

func (w *worker) keyOf(f *flow) uint64 {
	return uint64(f.generation)<<keyBits | uint64(f.index) + uint64(len(w.fronts)) + 1
}

// Start begins to receive.
func (w *worker) Start() {
	for i, fr := range w.fronts {
		if errno := w.host.Watch(fr.fd, unix.EPOLLIN, uint64(i)+1); errno != 0 {
			w.notice(engine.Notice{Event: "receive_failed", Forward: fr.Listener.Name, Err: systemError("epoll_ctl", errno)})
		}
	}
}

// Event serves a listener's socket or a flow's.
func (w *worker) Event(key uint64, _ uint32) {
	number := uint32(key&(1<<keyBits-1)) - 1
	if int(number) < len(w.fronts) {
		w.receive(w.fronts[number])
		return
	}
	if f := w.table.at(number-uint32(len(w.fronts)), uint32(key>>keyBits)); f != nil {
		w.answer(f)
	}
}

// Rest sends the replies that came in this turn of the loop.
func (w *worker) Rest() {
	w.collect()
	w.sendBack()
	if w.counted != (traffic{}) {
		w.counters.add(&w.counted)
		w.counted = traffic{}
	}
}

// Alarm ends the flows whose time is over, and tells of drops.
func (w *worker) Alarm() {
	w.collect()
	w.alarm = 0
	w.watchFronts()
	w.tellDrops()
	for _, l := range w.lanes {
		w.expire(l)
	}
}

// expireBudget is how many flows of a forward end at once: closing thousands of
// sockets would keep everybody else waiting.
const expireBudget = 512

// expire ends the flows of a lane that were silent for too long.
func (w *worker) expire(l *lane) {
	timeout := w.timeout(l)
	for range expireBudget {
		f := l.first
		if f == nil || f.alive+timeout > w.host.Now() {
			break
		}
		w.end(f, record.Timeout)
	}
	if l.first != nil {
		w.wakeAt(max(l.first.alive+timeout, w.host.Now()+1))
	}
}

// drainTimeout is how long a flow may be silent while the gateway is about to
// end, if its forward grants it longer otherwise.
const drainTimeout = int64(5e9)

func (w *worker) timeout(l *lane) int64 {
	if w.draining {
		return min(int64(l.FlowTimeout), drainTimeout)
	}
	return int64(l.FlowTimeout)
}

// wakeAt has the alarm go off at a time, if it does not do so earlier.
func (w *worker) wakeAt(at int64) {
	if w.alarm == 0 || at < w.alarm {
		w.alarm = at
		w.host.Alarm(at)
	}
}

// StopAccepting begins no more flows. Those that there are go on until they
// are silent, so the listeners stay open.
func (w *worker) StopAccepting() {
	if w.draining {
		return
	}
	w.draining = true
	w.wakeAt(w.host.Now() + 1)
}

// Cut ends every flow.
func (w *worker) Cut() {
	w.collect()
	for _, l := range w.lanes {
		for l.first != nil {
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
	w.watchFronts()
	w.tellDrops()
	for _, fr := range w.fronts {
		w.kernel.Close(fr.fd)
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

// verdict is what becomes of the datagrams of a peer. It is kept from one
// datagram to the next of the same call, most of which are of one peer.
type verdict struct {
	front    *front
	peer     netip.Addr
	standing standing
}

// standing is who a peer is.
type standing uint8

const (
	stranger standing = iota
	balancer          // may name a client
	checker           // sends health checks
	passed            // is a client itself
)

// judge says who a peer is, before anything is read of its datagram.
func (w *worker) judge(fr *front, peer netip.Addr) standing {
	if w.verdict.front == fr && w.verdict.peer == peer {
		return w.verdict.standing
	}
	s := stranger
	switch {
	case fr.Forward.Health != nil && fr.Forward.Health.Contains(peer):
		s = checker
	case fr.Forward.Trust.Contains(peer):
		s = balancer
	case fr.Forward.PassUntrusted:
		s = passed
	}
	w.verdict = verdict{fr, peer, s}
	return s
}
