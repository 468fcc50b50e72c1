package engine

import (
	"syscall"

	"unproxy/gateway/kernel"

	"golang.org/x/sys/unix"
)

const (
	// exchangeSize is how many sockets are read, and how many written to,
	// together. Each has its own slot for it.
	exchangeSize = 32
	// slotSize is the room for one read. Whoever sends more at once is served
	// alone, through the loop's own buffer.
	slotSize = 16 << 10
	// slotStride keeps the beginnings of slots, which is all that small messages
	// fill, from having to share a few lines of the processor's cache.
	slotStride = slotSize + 192
	// fewErrands are not worth a batch.
	fewErrands = 3
)

// exchange is where the small reads and writes of one turn of a loop are
// gathered, to be made together: entering the kernel is a third of what a small
// message costs.
type exchange struct {
	batch  kernel.Batch // nil where there is none to be had
	room   []byte
	due    []errand
	reads  []kernel.Transfer
	writes []kernel.Transfer
	bound  []errand // whose the writes are
}

// errand is a socket of a session that is to be read from.
type errand struct {
	ticket
	side int
}

func newExchange(k kernel.Kernel) exchange {
	x := exchange{batch: k.Batch(exchangeSize)}
	if x.batch != nil {
		x.room = make([]byte, exchangeSize*slotStride)
	}
	return x
}

func (x *exchange) close() {
	if x.batch != nil {
		x.batch.Close()
	}
}

// slot returns the room of the i-th read.
func (x *exchange) slot(i int) []byte { return x.room[i*slotStride:][:slotSize:slotSize] }

// shared says that a read of this side may be made together with others: there is
// nothing that must go first.
func (s *session) shared(i int) bool {
	d := &s.sides[i]
	switch s.state {
	case reading:
		return d.readable
	case relaying:
		return d.readable && !d.eof && !d.bulk && !d.large && !d.urgent && s.flushed(i) && s.flushed(1-i)
	}
	return false
}

// gather puts a read off to the end of the turn, if it may be shared.
func (l *loop) gather(s *session, i int) bool {
	x := &l.exchange
	if x.batch == nil || !s.shared(i) {
		return false
	}
	x.due = append(x.due, errand{s.ticket(), i})
	if len(x.due) == exchangeSize {
		l.trade()
	}
	return true
}

// trade makes the reads that were gathered, and then the writes that follow from
// them. What came of a batch is noted for all of its sockets before anything is
// done about one: that may end a session, or move what another of its errands
// is about.
func (l *loop) trade() {
	x := &l.exchange
	due := x.due
	x.due = x.due[:0]
	if len(due) < fewErrands {
		for _, e := range due {
			if s := l.sessions.find(e.ticket); s != nil && s.shared(e.side) {
				s.readAlone(l)
			}
		}
		return
	}
	l.readTogether(due)
	for i, e := range x.bound {
		if s := l.sessions.find(e.ticket); s != nil {
			s.wasRead(l, e.side, &x.reads[i])
		}
	}
	l.writeTogether()
	for i, e := range x.bound {
		if s := l.sessions.find(e.ticket); s != nil {
			s.wasWritten(l, e.side, x.writes[i].Errno)
		}
	}
}

// readTogether reads for all errands that are still due.
func (l *loop) readTogether(due []errand) {
	x := &l.exchange
	x.bound, x.reads = x.bound[:0], x.reads[:0]
	for _, e := range due {
		if s := l.sessions.find(e.ticket); s != nil && s.shared(e.side) {
			x.reads = append(x.reads, kernel.Transfer{FD: int(s.sides[e.side].fd), B: x.slot(len(x.bound))})
			x.bound = append(x.bound, e)
		}
	}
	x.batch.Recv(x.reads)
	for i, e := range x.bound {
		s, t := l.sessions.find(e.ticket), &x.reads[i]
		if t.Errno != 0 || s.state != relaying {
			continue
		}
		d := &s.sides[e.side]
		d.noteRead(t.N, len(t.B))
		s.noteEnd(e.side)
		d.held = t.B[:t.N] // in the slot until the exchange is over
	}
}

// writeTogether writes what is held for all errands that have something.
func (l *loop) writeTogether() {
	x := &l.exchange
	bound := x.bound
	x.bound, x.writes = x.bound[:0], x.writes[:0]
	for _, e := range bound {
		s := l.sessions.find(e.ticket)
		if s == nil || s.state != relaying || len(s.sides[e.side].held) == 0 {
			continue
		}
		s.beforeWrite(l, e.side)
		x.writes = append(x.writes, kernel.Transfer{FD: int(s.sides[1-e.side].fd), B: s.sides[e.side].held})
		x.bound = append(x.bound, e)
	}
	x.batch.Send(x.writes)
	for i, e := range x.bound {
		s, t := l.sessions.find(e.ticket), &x.writes[i]
		s.carried(e.side, t.N)
		s.sides[e.side].held = t.B[t.N:]
	}
}

// wasRead acts on a read that was made together with others.
func (s *session) wasRead(l *loop, i int, t *kernel.Transfer) {
	switch {
	case t.Errno == unix.EINTR:
		s.readAlone(l)
	case s.state == reading:
		if s.readHeader(l, t.B[:t.N], t.Errno) && s.sides[i].readable {
			s.read(l)
		}
	case t.Errno == unix.EAGAIN:
		s.sides[i].readable = false
	case t.Errno != 0:
		s.broken(l, i, t.Errno)
	case t.N == 0:
		s.relay(l)
	}
}

// wasWritten acts on a write that was made together with others: what the other
// side did not take leaves the slot, and what more there is to read goes the
// ordinary way.
func (s *session) wasWritten(l *loop, i int, errno syscall.Errno) {
	d := &s.sides[i]
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		s.broken(l, 1-i, errno)
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
func (s *session) readAlone(l *loop) {
	if s.state == reading {
		s.read(l)
		return
	}
	s.relay(l)
}
