package datagram

import "unproxy/gateway/record"

// makeRoom has flows give way where there are as many as there may be. It goes
// by the loop that has the most of them, so that the flows of a loop that came
// first do not keep others out; with several loops there may be a few too many
// for a moment.
func (w *worker) makeRoom(l *lane) {
	if limit := w.relay.config.MaxFlows; limit > 0 && w.relay.flows.total() >= limit {
		w.relay.workers[w.relay.flows.most()].yieldOne(w, nil)
	}
	if limit := l.MaxFlows; limit > 0 && l.flows.total() >= limit {
		w.relay.workers[l.flows.most()].yieldOne(w, l.forwardState)
	}
}

// yieldOne ends the flow that was silent the longest, of a forward or of all.
// It is called by another loop, or by this one.
func (w *worker) yieldOne(caller *worker, of *forwardState) {
	if w == caller {
		w.evict(of)
		return
	}
	w.host.Call(func() { w.evict(of) })
}

func (w *worker) evict(of *forwardState) {
	w.collect()
	if f := w.oldest(of, nil); f != nil {
		w.yieldFor(f)
	}
}

// giveWay has a flow end for want of descriptors or ports, but not the one that
// needs them. It returns false if there is none.
func (w *worker) giveWay(newcomer *flow) bool {
	f := w.oldest(nil, newcomer)
	if f == nil {
		return false
	}
	w.yieldFor(f)
	return true
}

func (w *worker) yieldFor(f *flow) {
	w.counters.evicted.Add(1)
	w.endAs(f, record.Limit, record.Gateway, "gave way to a newer flow")
}

// oldest returns the flow that was silent the longest, of a forward or of all,
// but for one.
func (w *worker) oldest(of *forwardState, but *flow) (oldest *flow) {
	for _, l := range w.lanes {
		f := l.first
		if f != nil && f == but {
			f = f.next
		}
		if f != nil && (of == nil || l.forwardState == of) && (oldest == nil || f.alive < oldest.alive) {
			oldest = f
		}
	}
	return oldest
}
