package engine

import (
	"syscall"

	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

const (
	// exchangeSize is how many sockets are read, and how many written to,
	// together. Each has its own slot for it.
	batchSize = 32
	// slotSize is the room for one read. Whoever sends more at once is served
	// alone, through the loop's own buffer.
	slotSize = 16 << 10
	// slotStride keeps the beginnings of slots, which is all that small messages
	// fill, from having to share a few lines of the processor's cache.
	slotStride = slotSize + 192
	// fewErrands are not worth a batch.
	minBatch = 3
)

// exchange is where the small reads and writes of one turn of a loop are
// gathered, to be made together: entering the kernel is a third of what a small
// message costs.
type ioBatch struct {
	kernel    kernel.Batch // nil where there is none to be had
	buffers   []byte
	pending   []pendingRead
	reads     []kernel.Transfer
	writes    []kernel.Transfer
	submitted []pendingRead // whose the writes are
}

// errand is a socket of a session that is to be read from.
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

// slot returns the room of the i-th read.
func (x *ioBatch) slot(i int) []byte { return x.buffers[i*slotStride:][:slotSize:slotSize] }

// shared says that a read of this side may be made together with others: there is
// nothing that must go first.
func (s *session) batchable(i int) bool {
	d := &s.sides[i]
	switch s.state {
	case reading:
		return d.readable
	case relaying:
		return d.readable && !d.eof && !d.bulk && !d.filledSlot && !d.urgent && s.flushed(i) && s.flushed(1-i)
	}
	return false
}

// gather puts a read off to the end of the turn, if it may be shared.
func (l *loop) queueRead(s *session, i int) bool {
	x := &l.io
	if x.kernel == nil || !s.batchable(i) {
		return false
	}
	x.pending = append(x.pending, pendingRead{s.ref(), i})
	if len(x.pending) == batchSize {
		l.submitIO()
	}
	return true
}

// trade makes the reads that were gathered, and then the writes that follow from
// them. What came of a batch is noted for all of its sockets before anything is
// done about one: that may end a session, or move what another of its errands
// is about.
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

// readTogether reads for all errands that are still due.
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
		d.held = t.B[:t.N] // in the slot until the exchange is over
	}
}

// writeTogether writes what is held for all errands that have something.
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

// wasRead acts on a read that was made together with others.
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

// wasWritten acts on a write that was made together with others: what the other
// side did not take leaves the slot, and what more there is to read goes the
// ordinary way.
func (s *session) writeDone(l *loop, i int, errno syscall.Errno) {
	d := &s.sides[i]
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		s.abort(l, 1-i, errno)
		return
	}
	if len(d.held) > 0 {
		d.held = append([]byte(nil), d.held...)
	}
	if len(d.held) > 0 || d.readable {
		s.relay(l)
		return
	}
	d.held = nil
}

// readAlone is what an event leads to where nothing is shared.
func (s *session) readNow(l *loop) {
	if s.state == reading {
		s.readHeader(l)
		return
	}
	s.relay(l)
}
