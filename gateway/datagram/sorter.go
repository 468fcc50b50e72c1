package datagram

import (
	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
)

const (
	// maxSorted is how many datagrams a sorter holds. It is more than come with
	// one call, unless they come as trains.
	maxSorted = 4 * batchSize
	// fewTransfers are not worth a batch.
	fewTransfers = 3
)

// sorter holds the datagrams for backends that came with one call, sorted by
// flow: so that each flow's are sent together, and in order whatever way they
// go, and one call serves many flows that have a single one each.
type sorter struct {
	items [maxSorted]item // in the order in which they came
	used  int
	runs  []run // one for each flow
	many  outbox
	alone []kernel.Transfer
	whose []*flow // the datagrams of alone are
}

// item is a datagram, in the room that it was received in.
type item struct {
	payload []byte
	next    uint16 // of the same flow
}

// run is the datagrams of a flow.
type run struct {
	flow               *flow
	first, last, count uint16
}

// room reports whether one more datagram can be added.
func (s *sorter) room() bool { return s.used < maxSorted }

// add puts a datagram of a flow down. There must be room.
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

// sendForth sends what was put down to its backends. It ends no flow: those that
// are refused are noted.
func (w *worker) sendForth() {
	s := &w.forth
	s.alone, s.whose = s.alone[:0], s.whose[:0]
	for i := range s.runs {
		r := &s.runs[i]
		r.flow.run = 0
		if payload := s.items[r.first].payload; r.count == 1 && len(payload) > 0 {
			s.alone = append(s.alone, kernel.Transfer{FD: r.flow.fd, B: payload})
			s.whose = append(s.whose, r.flow)
			continue
		}
		s.sendMany(w.kernel, r)
	}
	w.sendAlone()
	s.runs, s.used = s.runs[:0], 0
}

// sendMany sends a run in as few messages as it takes.
func (s *sorter) sendMany(k Kernel, r *run) {
	f, at := r.flow, r.first
	for range r.count {
		if !s.many.room() {
			s.many.flush(k, f.fd, f)
		}
		s.many.add(&address{}, nil, s.items[at].payload, 0, !f.noTrains)
		at = s.items[at].next
	}
	s.many.flush(k, f.fd, f)
}

// sendAlone sends the datagrams that are the only ones of their flows.
func (w *worker) sendAlone() {
	s := &w.forth
	if w.batch != nil && len(s.alone) >= fewTransfers {
		w.batch.Send(s.alone)
	} else {
		for i := range s.alone {
			t := &s.alone[i]
			t.Errno = w.kernel.Write(t.FD, t.B)
		}
	}
	for i := range s.alone {
		if s.alone[i].Errno != 0 {
			sendAgain(w.kernel, &s.alone[i], s.whose[i])
		}
	}
}

// sendAgain is for a datagram that met an error.
func sendAgain(k Kernel, t *kernel.Transfer, f *flow) {
	for tried := false; t.Errno != 0; t.Errno = k.Write(t.FD, t.B) {
		switch {
		case t.Errno == unix.EINTR:
		case tried || noRoom(t.Errno):
			f.lost(t.Errno, 1, len(t.B))
			return
		default:
			tried = true
			f.told(t.Errno)
		}
	}
}
