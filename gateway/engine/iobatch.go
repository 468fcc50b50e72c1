package engine

import (
	"syscall"

	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is the number of sockets that are read, or written to, with one system call. Each
	// has its own slot.
	batchSize = 32
	// slotSize is the size of one read. A socket that delivers more at once is read alone, into the
	// loop's own buffer.
	slotSize = 16 << 10
	// slotStride is the distance between slots. It is not a power of two, because small messages
	// fill only the first bytes of each slot, and these must not all map to the same few cache
	// lines.
	slotStride = slotSize + 192
	// minBatch is the number of reads below which a batch does not pay off.
	minBatch = 3
)

// ioBatch collects the small reads and writes of one turn, to make them with one system call each:
// entering the kernel is a third of the cost of a small message.
type ioBatch struct {
	kernel    kernel.Batch  // nil if the system offers none
	buffers   []byte        // batchSize slots
	pending   []pendingRead // reads to make at the end of the turn
	reads     []kernel.Transfer
	writes    []kernel.Transfer
	submitted []pendingRead // the pending reads that reads or writes belong to, by index
}

// pendingRead is a socket to read from.
type pendingRead struct {
	sessionRef
	side int
}

func newIOBatch(k kernel.Kernel) ioBatch {
	x := ioBatch{kernel: k.Batch(batchSize)}
	if x.kernel != nil {
		x.buffers = make([]byte, batchSize*slotStride)
	}
	return x
}

func (x *ioBatch) close() {
	if x.kernel != nil {
		x.kernel.Close()
	}
}

func (x *ioBatch) slot(i int) []byte { return x.buffers[i*slotStride:][:slotSize:slotSize] }

// batchable reports whether a side can be read in a batch: nothing else must come first.
func (s *session) batchable(i int) bool {
	d := &s.sides[i]
	switch s.state {
	case reading:
		return d.readable
	case relaying:
		return d.readable && !d.eof && !d.bulk && !d.filledSlot && !d.urgent && d.caution == 0 &&
			s.flushed(i) && s.flushed(1-i)
	}
	return false
}

// queueRead defers a read to the end of the turn if it is batchable, and reports whether it did.
func (l *loop) queueRead(s *session, i int) bool {
	x := &l.io
	if x.kernel == nil || !s.batchable(i) || l.engine.buffers.full() {
		return false
	}
	x.pending = append(x.pending, pendingRead{s.ref(), i})
	if len(x.pending) == batchSize {
		l.submitIO()
	}
	return true
}

// submitIO makes the pending reads, then the writes that follow from them. The results of a batch
// are stored for all sockets before any of them is acted on: an action may end a session or move
// bytes that another pending read of the same session refers to.
func (l *loop) submitIO() {
	x := &l.io
	pending := x.pending
	x.pending = x.pending[:0]
	if len(pending) < minBatch {
		for _, e := range pending {
			if s := l.sessions.find(e.sessionRef); s != nil && s.batchable(e.side) {
				s.readNow(l)
			}
		}
		return
	}
	l.submitReads(pending)
	for i, e := range x.submitted {
		if s := l.sessions.find(e.sessionRef); s != nil {
			s.readDone(l, e.side, &x.reads[i])
		}
	}
	l.submitWrites()
	for i, e := range x.submitted {
		if s := l.sessions.find(e.sessionRef); s != nil {
			s.writeDone(l, e.side, x.writes[i].Errno)
		}
	}
}

// submitReads reads for all pending reads that are still batchable.
func (l *loop) submitReads(pending []pendingRead) {
	x := &l.io
	x.submitted, x.reads = x.submitted[:0], x.reads[:0]
	for _, e := range pending {
		if s := l.sessions.find(e.sessionRef); s != nil && s.batchable(e.side) {
			x.reads = append(x.reads, kernel.Transfer{FD: int(s.sides[e.side].fd), B: x.slot(len(x.submitted))})
			x.submitted = append(x.submitted, e)
		}
	}
	x.kernel.Recv(x.reads)
	for i, e := range x.submitted {
		s, t := l.sessions.find(e.sessionRef), &x.reads[i]
		if t.Errno != 0 || s.state != relaying {
			continue
		}
		d := &s.sides[e.side]
		d.noteRead(t.N, len(t.B))
		s.noteEOF(e.side)
		d.held = t.B[:t.N] // in its slot until submitIO is done
	}
}

// submitWrites writes the bytes that the reads left in held.
func (l *loop) submitWrites() {
	x := &l.io
	submitted := x.submitted
	x.submitted, x.writes = x.submitted[:0], x.writes[:0]
	for _, e := range submitted {
		s := l.sessions.find(e.sessionRef)
		if s == nil || s.state != relaying || len(s.sides[e.side].held) == 0 {
			continue
		}
		s.beforeWrite(l, e.side)
		x.writes = append(x.writes, kernel.Transfer{FD: int(s.sides[1-e.side].fd), B: s.sides[e.side].held})
		x.submitted = append(x.submitted, e)
	}
	x.kernel.Send(x.writes)
	for i, e := range x.submitted {
		s, t := l.sessions.find(e.sessionRef), &x.writes[i]
		s.countForwarded(e.side, t.N)
		s.sides[e.side].held = t.B[t.N:]
	}
}

// readDone acts on the result of a batched read.
func (s *session) readDone(l *loop, i int, t *kernel.Transfer) {
	switch {
	case t.Errno == unix.EINTR:
		s.readNow(l)
	case s.state == reading:
		if s.headerRead(l, t.B[:t.N], t.Errno) && s.sides[i].readable {
			s.readHeader(l)
		}
	case t.Errno == unix.EAGAIN:
		s.sides[i].readable = false
	case t.Errno != 0:
		s.abort(l, i, t.Errno)
	case t.N == 0:
		s.relay(l)
	}
}

// writeDone acts on the result of a batched write. Bytes that the other side did not take are
// copied out of the slot; further reads are made without the batch.
func (s *session) writeDone(l *loop, i int, errno syscall.Errno) {
	d := &s.sides[i]
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		s.abort(l, 1-i, errno)
		return
	}
	if len(d.held) > 0 {
		l.hold(d, d.held)
		d.caution = max(d.caution, slotCaution)
	}
	if len(d.held) > 0 || d.readable {
		s.relay(l)
		return
	}
	d.held = nil
}

// readNow reads from a session without a batch.
func (s *session) readNow(l *loop) {
	if s.state == reading {
		s.readHeader(l)
		return
	}
	s.relay(l)
}
