package datagram

import (
	"syscall"

	"unproxy/gateway/record"
)

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
	if f := w.evictable(of, anyFlow); f != nil {
		w.endEvicted(f)
	}
}

func anyFlow(*flow) bool { return true }

// evictFor evicts a flow because newcomer has failed for lack of a resource: of any flow for
// a file descriptor or memory, and of one whose port newcomer could take for a source port.
// It returns false if there is none.
func (w *worker) evictFor(newcomer *flow, errno syscall.Errno) bool {
	lacksPort := newcomer.lacksPort(errno)
	f := w.evictable(nil, func(f *flow) bool {
		return f != newcomer && (!lacksPort || w.freesPort(f, newcomer))
	})
	if f == nil {
		return false
	}
	if f.source.IsValid() {
		newcomer.list.sources.Freed(f.source.Addr())
		f.list.sources.Freed(f.source.Addr())
	}
	w.endEvicted(f)
	return true
}

// freesPort reports whether newcomer, whose port the kernel chooses, may get the port of f.
// The backend does not matter: a UDP port belongs to a local address alone (udp_lib_get_port
// in net/ipv4/udp.c). A newcomer without an address needs a port that is free on all
// addresses of its family.
func (w *worker) freesPort(f, newcomer *flow) bool {
	is4 := newcomer.backend.Addr.Addr().Is4()
	if f.fd < 0 || f.backend.Addr.Addr().Is4() != is4 {
		return false
	}
	if ports := w.relay.config.Ephemeral; ports != nil && f.source.Port() != 0 && !ports.Contains(f.source.Port()) {
		return false // the client's own port, which the kernel does not choose
	}
	switch {
	case newcomer.spoof:
		return f.source.Addr() == newcomer.source.Addr()
	case newcomer.list.sources.Serves(is4):
		return newcomer.list.sources.Contains(f.source.Addr())
	}
	return true
}

func (w *worker) endEvicted(f *flow) {
	w.counters.evicted.Add(1)
	w.endAs(f, record.Limit, record.Gateway, "evicted by a newer flow")
}

// mostExamined limits the flows of a list that are examined for one that may be evicted.
const mostExamined = 1000

// oldest returns the least recently active flow of a forward, or of all forwards if
// of is nil, that may be evicted.
func (w *worker) oldest(of *forwardState, mayEvict func(*flow) bool) (oldest *flow) {
	for _, l := range w.lists {
		if of != nil && l.forwardState != of {
			continue
		}
		if f := l.idlest(mayEvict); f != nil && (oldest == nil || f.lastActive < oldest.lastActive) {
			oldest = f
		}
	}
	return oldest
}

// idlest returns the least recently active flow that may be evicted, nil if none of the
// first ones may.
func (l *lruList) idlest(mayEvict func(*flow) bool) *flow {
	f := l.first
	for range mostExamined {
		if f == nil || mayEvict(f) {
			return f
		}
		f = f.next
	}
	return nil
}
