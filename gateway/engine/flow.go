package engine

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lowWater is the low-water mark of a bulk side. Half of it costs up to a fifth more CPU time per
	// byte. The kernel reduces it to half of the receive buffer (tcp_set_rcvlowat).
	lowWater = 512 << 10
	// lowWaterDelay is how long fewer bytes may wait.
	lowWaterDelay = int64(time.Millisecond)
	// lowWaterAfter is the number of bytes in bulk before the mark is set. Each time that the mark
	// turns out to cost more than it gains, the number grows eightfold, up to 512 MiB.
	lowWaterAfter = 1 << 20
	maxBackOff    = 3
	// maxTails is the number of reads in a row by lowWaterDelay after which the stream is too slow
	// for the mark.
	maxTails = 4
	// maxVain is the number of events of input in a row, with nothing taken by the other side, after
	// which more of them are in vain for any stream.
	maxVain = 4
)

// flow is the state of one direction of a session in bulk. It saves wake-ups that move few bytes.
//
// A low-water mark (SO_RCVLOWAT) on the socket that the bytes come from makes epoll report it only
// when that many are there, the window is nearly full, or the stream has ended (tcp_epollin_ready,
// tcp_poll). Nothing reports a tail that is smaller, so the loop reads it after lowWaterDelay. The
// mark is removed when that delays a response, or when bulk ends.
//
// While the other side does not take what was read, the socket is muted: it is registered without
// EPOLLIN, because each segment that arrives would wake the loop in vain.
type flow struct {
	next, prev *flow // in flowPool.tails
	due        int64 // when the loop reads the tail, on the kernel's clock

	session *session
	from    int
	moved   int64 // bytes in bulk since the mark was found to cost time
	answers int64 // bytes of the other direction when the last tail was read
	taken   int64 // side.bytes at the last event of input that found the other side blocked
	vain    uint8 // such events in a row with the same side.bytes
	tails   uint8 // read in a row
	backOff uint8 // how often the mark was found to cost time, up to maxBackOff

	marked  bool
	refused bool // SO_RCVLOWAT is not supported
	late    bool // this read is for a tail
	muted   bool
}

// flowPool has the flows of one loop, and a list of those that may have a tail, by time.
type flowPool struct {
	pairs []*[2]flow // both directions of a session; session.flows is an index + 1
	free  []uint32
	tails flow  // the head of the list
	after int64 // lowWaterAfter; tests set less
}

func (p *flowPool) init() {
	p.after = lowWaterAfter
	p.tails.next, p.tails.prev = &p.tails, &p.tails
}

// of returns a direction of a session that has flows.
func (p *flowPool) of(s *session, from int) *flow { return &p.pairs[s.flows-1][from] }

// take returns a direction of a session, and makes its flows if it has none.
func (p *flowPool) take(s *session, from int) *flow {
	if s.flows != 0 {
		return p.of(s, from)
	}
	if last := len(p.free) - 1; last >= 0 {
		s.flows, p.free = p.free[last], p.free[:last]
	} else {
		p.pairs = append(p.pairs, new([2]flow))
		s.flows = uint32(len(p.pairs))
	}
	for i := range s.sides {
		*p.of(s, i) = flow{session: s, from: i}
	}
	return p.of(s, from)
}

// release returns the flows of a session that ends.
func (p *flowPool) release(s *session) {
	if s.flows == 0 {
		return
	}
	for i := range s.sides {
		p.of(s, i).expectNoTail()
	}
	p.free, s.flows = append(p.free, s.flows), 0
}

// first returns the flow whose tail is due first, or nil.
func (p *flowPool) first() *flow {
	if p.tails.next == &p.tails {
		return nil
	}
	return p.tails.next
}

// expectTail makes the loop read at a time, which is not before that of any other flow.
func (p *flowPool) expectTail(f *flow, due int64) {
	f.due, f.next, f.prev = due, &p.tails, p.tails.prev
	f.prev.next, p.tails.prev = f, f
}

func (f *flow) expectNoTail() {
	if f.next != nil {
		f.prev.next, f.next.prev = f.next, f.prev
		f.next, f.prev = nil, nil
	}
}

// readTails reads the tails that are due.
func (l *loop) readTails() {
	for f := l.flows.first(); f != nil && f.due <= l.now; f = l.flows.first() {
		f.expectNoTail()
		f.late = true
		f.session.sides[f.from].readable = true
		f.session.relay(l)
	}
}

// noteMove is called when n bytes have been read in bulk. A short read of a marked side ends the
// reading: what is left raises an event or is a tail.
func (f *flow) noteMove(l *loop, n int) {
	d, answers := &f.session.sides[f.from], f.session.sides[1-f.from].bytes
	f.expectNoTail()
	if f.tails > 0 && answers != f.answers {
		f.markCostTime() // the receiver answered only after the tail
	}
	f.moved += int64(n)
	switch {
	case !f.late || n >= lowWater:
		f.tails = 0
	case f.tails+1 == maxTails:
		f.markCostTime()
	default:
		f.tails, f.answers = f.tails+1, answers
	}
	if f.late {
		f.session.lastActive, f.late = l.now, false
	}
	if f.marked {
		d.readable = d.mayHoldMore(n < d.pipe.Size)
	}
}

// noteEmpty is called when nothing was there to read.
func (f *flow) noteEmpty() {
	f.expectNoTail()
	if !f.late {
		return
	}
	f.late = false
	if f.tails > 0 {
		f.markCostTime()
	}
	f.moved = 0 // the stream pauses
}

func (f *flow) markCostTime() {
	f.moved, f.tails = 0, 0
	f.backOff = min(f.backOff+1, maxBackOff)
}

// steady reports whether the stream has been in bulk for long, and no delay has cost time since.
func (f *flow) steady(after int64) bool {
	if f.moved >= after<<(3*maxBackOff) {
		f.backOff = 0
	}
	return f.session.sides[f.from].bulk && f.moved >= after<<(3*f.backOff)
}

// wantsMark reports whether the mark pays off.
func (f *flow) wantsMark(after int64) bool {
	d := &f.session.sides[f.from]
	return f.steady(after) && !d.urgent && !d.shortReads && !f.refused
}

// update is called after the session has moved what it could: it sets or removes the mark, and
// watches for input again if there is room for it.
//
// The error is that of watching again: without it, no event would come.
func (f *flow) update(l *loop) syscall.Errno {
	s, d := f.session, &f.session.sides[f.from]
	if d.eof {
		f.expectNoTail()
		return 0
	}
	emptied := !d.readable && s.flushed(f.from)
	switch wants := f.wantsMark(l.flows.after); {
	case f.marked && !wants:
		f.marked, f.late = false, false
		f.expectNoTail()
		f.setMark(l, 1) // raises an event if bytes are there
	case !f.marked && wants && emptied:
		f.marked = f.setMark(l, lowWater)
		f.refused = !f.marked
	}
	if f.muted && emptied {
		f.muted = false
		if errno := l.rewatch(s, f.from); errno != 0 {
			return errno
		}
	}
	if f.marked && emptied && f.next == nil {
		l.flows.expectTail(f, l.kernel.Now()+lowWaterDelay)
	}
	return 0
}

func (f *flow) setMark(l *loop, n int) bool {
	return l.kernel.SetOption(int(f.session.sides[f.from].fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, n) == 0
}

// muteIfBlocked is called for an event of input. It mutes the socket if the other side has not taken
// what was read before: that of a steady stream at once, others after maxVain events. For them an
// event is a chance to write before EPOLLOUT, which comes only when a third of the send buffer is
// free (sk_stream_is_writeable).
func (f *flow) muteIfBlocked(l *loop) {
	d := &f.session.sides[f.from]
	if f.muted || d.hungUp || f.session.flushed(f.from) {
		return
	}
	if f.taken != d.bytes {
		f.taken, f.vain = d.bytes, 0
	}
	if f.vain++; f.vain >= maxVain || f.steady(l.flows.after) {
		f.muted = true
		f.muted = l.rewatch(f.session, f.from) == 0
	}
}

// rewatch changes the events that a session's socket is registered for.
func (l *loop) rewatch(s *session, side int) syscall.Errno {
	d, events := &s.sides[side], uint32(interest)
	if s.flows != 0 && l.flows.of(s, side).muted {
		events &^= unix.EPOLLIN | unix.EPOLLPRI
	}
	if d.watchesWrites {
		events |= unix.EPOLLOUT
	}
	return l.kernel.Rewatch(l.poller, int(d.fd), events, uint64(s.tag(side)))
}
