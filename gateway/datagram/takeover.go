package datagram

import (
	"cmp"
	"context"
	"math"
	"net/netip"
	"slices"
)

// Take takes the flows of a message from the previous process, and answers it. It
// owns fds, the sockets of the flows in order; there are fewer if this process is out
// of descriptors. The flows wait until [Relay.Serve]. Take may be called from any
// goroutine, but from one at a time, while the engine runs.
func (r *Relay) Take(message []byte, fds []int) (answer []byte) {
	answer = []byte{handoverVersion}
	if len(message) < 2 || message[0] != handoverVersion {
		r.closeAll(fds)
		return answer
	}
	switch message[1] {
	case beginMessage:
		r.begin()
	case flowsMessage:
		return append(answer, r.takeFlows(message[2:], fds)...)
	}
	r.closeAll(fds)
	return answer
}

// begin counts what the listeners' queues lose from now on. The previous process has
// counted earlier losses.
func (r *Relay) begin() {
	for _, w := range r.workers {
		w.host.Call(func() {
			for _, ls := range w.listeners {
				ls.overflown()
			}
		})
	}
}

func (r *Relay) closeAll(fds []int) {
	for _, fd := range fds {
		r.config.Kernel.Close(fd)
	}
}

// takenFlow is a flow of the previous process.
type takenFlow struct {
	state   flowState
	fd      int // -1: it did not arrive
	socket  *listenerSocket
	verdict verdict
}

// takeFlows takes the flows of a message and returns a verdict for each.
func (r *Relay) takeFlows(message []byte, fds []int) (verdicts []byte) {
	var all []takenFlow
	for len(message) > 0 && len(all) < mostFlowsAtOnce {
		t := takenFlow{fd: -1}
		if len(all) < len(fds) {
			t.fd = fds[len(all)]
		}
		var ok bool
		if t.state, message, ok = cutFlow(message); !ok {
			t.verdict = unreadable
		} else if t.fd < 0 {
			t.verdict = noDescriptor
		} else if t.socket = r.socketAt(t.state.bound, t.state.index); t.socket == nil {
			t.verdict = noListener
		}
		all = append(all, t)
	}
	for _, w := range r.workers {
		if slices.ContainsFunc(all, func(t takenFlow) bool { return t.socket != nil && t.socket.worker == w }) {
			// No error: this context is never done.
			ask(context.Background(), w, func() struct{} { w.takeFlows(all); return struct{}{} })
		}
	}
	for _, t := range all {
		verdicts = append(verdicts, byte(t.verdict))
		if t.verdict != taken && t.fd >= 0 {
			r.config.Kernel.Close(t.fd)
		}
	}
	r.closeAll(fds[min(len(all), len(fds)):])
	return verdicts
}

// socketAt returns the inherited socket of a listener, or nil.
func (r *Relay) socketAt(bound netip.AddrPort, index uint16) *listenerSocket {
	return r.inherited[inheritedSocket{bound, index}]
}

// inheritedSocket identifies a socket of the previous process.
type inheritedSocket struct {
	bound netip.AddrPort
	index uint16 // among those with the address
}

// takeFlows takes the flows that arrive at the worker's own sockets.
func (w *worker) takeFlows(all []takenFlow) {
	for i := range all {
		if t := &all[i]; t.socket != nil && t.socket.worker == w {
			t.verdict = w.takeFlow(t)
		}
	}
}

func (w *worker) takeFlow(t *takenFlow) verdict {
	ls, s := t.socket, &t.state
	l, k := ls.list, s.keyAt(ls.number)
	switch {
	case w.phase != waiting || w.table.find(k) != nil:
		return unreadable
	case s.mode != l.DatagramHeader:
		return otherHeader
	case s.spoof != (l.Transparent && s.client.IsValid()) || s.mark != l.Mark || !s.sharesSource(l):
		return otherSource
	}
	f := w.table.add(k, l)
	f.listener = ls
	f.restore(s, w.host.Now())
	f.prove()
	if s.claimed {
		before, ok := w.relay.claims.take(f.claim(), w.holder(f))
		if !ok || before.worker != nil { // the previous process had one flow for each claim
			w.relay.claims.release(f.claim(), w.holder(f))
			w.table.remove(f)
			return sourceTaken
		}
		f.claimed = true
	}
	f.fd, f.id = t.fd, w.host.NextID()
	if l.MaxConnectionsPerClient > 0 && f.client.IsValid() {
		f.counted = l.clients.Enter(f.client.Addr(), math.MaxInt)
	}
	w.enter(f)
	return taken
}

// Serve continues the flows that were taken, and starts to receive. The previous
// process must have left them.
func (r *Relay) Serve() {
	for _, w := range r.workers {
		w.host.Call(func() {
			if w.phase != waiting || w.closed {
				return
			}
			for _, l := range w.lists {
				l.sort()
			}
			w.resume()
		})
	}
}

// sort puts the flows, which arrived in any order, into that of their last activity.
func (l *lruList) sort() {
	var all []*flow
	for f := l.first; f != nil; f = f.next {
		all = append(all, f)
	}
	slices.SortStableFunc(all, func(a, b *flow) int { return cmp.Compare(a.lastActive, b.lastActive) })
	l.first, l.last = nil, nil
	for _, f := range all {
		l.append(f)
	}
}
