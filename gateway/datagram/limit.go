package datagram

import "unproxy/gateway/record"

// makeRoom evicts flows where a limit is reached. It evicts on the loop with the
// most flows, so that the flows of one loop cannot starve the others. With several
// loops the limit may be exceeded by a few flows for a moment.
func (w *worker) makeRoom(l *lruList) {
	if limit := w.relay.config.MaxFlows; limit > 0 && w.relay.flows.total() >= limit {
		w.relay.workers[w.relay.flows.most()].evictOn(w, nil)
	}
	if limit := l.MaxFlows; limit > 0 && l.flows.total() >= limit {
		w.relay.workers[l.flows.most()].evictOn(w, l.forwardState)
	}
}

// evictOn evicts the flow that is to make room, of a forward, or of all forwards if
// of is nil. caller may be the worker of another loop.
func (w *worker) evictOn(caller *worker, of *forwardState) {
	if w == caller {
		w.evict(of)
		return
	}
	w.host.Call(func() { w.evict(of) })
}

func (w *worker) evict(of *forwardState) {
	w.readPending()
	if f := w.evictable(of, nil); f != nil {
		w.endEvicted(f)
	}
}

// evictFor evicts a flow because newcomer needs a file descriptor or a port. It
// returns false if there is no other flow.
func (w *worker) evictFor(newcomer *flow) bool {
	f := w.evictable(nil, newcomer)
	if f == nil {
		return false
	}
	if !f.spoof {
		f.list.sources.Freed(f.source.Addr())
	}
	w.endEvicted(f)
	return true
}

func (w *worker) endEvicted(f *flow) {
	w.counters.evicted.Add(1)
	w.endAs(f, record.Limit, record.Gateway, "evicted by a newer flow")
}

// oldest returns the least recently active flow of a forward, or of all forwards if
// of is nil, except for but.
func (w *worker) oldest(of *forwardState, but *flow) (oldest *flow) {
	for _, l := range w.lists {
		f := l.first
		if f != nil && f == but {
			f = f.next
		}
		if f != nil && (of == nil || l.forwardState == of) && (oldest == nil || f.lastActive < oldest.lastActive) {
			oldest = f
		}
	}
	return oldest
}
