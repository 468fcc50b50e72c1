package datagram

import (
	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
)

const (
	// maxSorted is the capacity of a sorter in datagrams. One receive call
	// returns fewer, unless it returns GRO batches.
	maxSorted = 4 * batchSize
	// minTransfers is the number of transfers from which a batch is faster.
	minTransfers = 3
)

// sorter sorts the datagrams of one receive call by flow. The datagrams of a flow
// are sent together and in order, and one call serves many flows that have a single
// datagram.
type sorter struct {
	items       [maxSorted]item // in the order of arrival
	used        int
	runs        []run // one for each flow
	outbox      outbox
	singles     []kernel.Transfer
	singleFlows []*flow // the flows of singles
}

// item is a datagram in its receive buffer.
type item struct {
	payload []byte
	next    uint16 // index of the next item of the flow
}

// run is the datagrams of one flow.
type run struct {
	flow               *flow
	first, last, count uint16
}

// room reports whether another datagram fits.
func (s *sorter) room() bool { return s.used < maxSorted }

// add queues a datagram of a flow. The caller checks room first.
func (s *sorter) add(f *flow, payload []byte) {
	at := uint16(s.used)
	s.items[at] = item{payload: payload}
	s.used++
	if f.run == 0 {
		s.runs = append(s.runs, run{flow: f, first: at, last: at, count: 1})
		f.run = uint16(len(s.runs))
		return
	}
	r := &s.runs[f.run-1]
	s.items[r.last].next = at
	r.last = at
	r.count++
}

// flushToBackends sends all queued datagrams. It does not end flows; flows whose
// backend refuses are added to worker.failing.
func (w *worker) flushToBackends() {
	s := &w.toBackend
	s.singles, s.singleFlows = s.singles[:0], s.singleFlows[:0]
	for i := range s.runs {
		r := &s.runs[i]
		r.flow.run = 0
		if payload := s.items[r.first].payload; r.count == 1 && len(payload) > 0 {
			s.singles = append(s.singles, kernel.Transfer{FD: r.flow.fd, B: payload})
			s.singleFlows = append(s.singleFlows, r.flow)
			continue
		}
		s.sendMany(w.kernel, r)
	}
	w.sendSingles()
	s.runs, s.used = s.runs[:0], 0
}

// sendMany sends a run with as few messages as possible.
func (s *sorter) sendMany(k Kernel, r *run) {
	f, at := r.flow, r.first
	for range r.count {
		if !s.outbox.room() {
			s.outbox.flush(k, f.fd, f)
		}
		s.outbox.add(&address{}, nil, s.items[at].payload, 0, !f.noGSO)
		at = s.items[at].next
	}
	s.outbox.flush(k, f.fd, f)
}

// sendSingles sends the datagrams of flows that have only one.
func (w *worker) sendSingles() {
	s := &w.toBackend
	if w.batch != nil && len(s.singles) >= minTransfers {
		w.batch.Send(s.singles)
	} else {
		for i := range s.singles {
			t := &s.singles[i]
			t.Errno = w.kernel.Write(t.FD, t.B)
		}
	}
	for i := range s.singles {
		if s.singles[i].Errno != 0 {
			retrySend(w.kernel, &s.singles[i], s.singleFlows[i])
		}
	}
}

// retrySend handles a datagram whose send call failed: it retries once.
func retrySend(k Kernel, t *kernel.Transfer, f *flow) {
	for tried := false; t.Errno != 0; t.Errno = k.Write(t.FD, t.B) {
		switch {
		case t.Errno == unix.EINTR:
		case tried || queueFull(t.Errno):
			f.lost(t.Errno, 1, len(t.B))
			return
		default:
			tried = true
			f.pendingError(t.Errno)
		}
	}
}
