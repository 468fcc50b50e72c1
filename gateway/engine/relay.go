package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// relayBudget is how many reads one direction may make for one wake-up
	// before others have their turn. One that splices makes a single move, of up
	// to a whole pipe: while others have their turn more comes together, and the
	// fewer and larger moves cost up to 0.6 of the processor time a byte.
	relayBudget = 8
	// A read of bulkRead is a sign of bulk data, bulkAfter of them in a row
	// turn splicing on, and as many moves below smallMove turn it off again:
	// between the two, copying costs less.
	bulkRead  = 64 << 10
	smallMove = 16 << 10
	bulkAfter = 3
	// A remainder of up to smallHold is copied, a larger one keeps the loop's
	// buffer.
	maxHeldCopy = slotSize
)

// side is one of a session's two sockets, and the bytes that were read from it.
type side struct {
	bytes int64

	// held is what was read from here and the other side did not take. It
	// lies in loan, a buffer of the loop's, or in memory of its own. While
	// there is something in held or pipe, nothing more is read.
	held     []byte
	borrowed *[bufferSize]byte
	pipe     *pipe // taken while data moves in bulk

	fd            int32 // -1 when there is none
	readable      bool  // an edge came, and the socket was not read dry since
	hungUp        bool  // a FIN or worse came with some edge: read on to the end of the stream
	urgent        bool  // urgent data came: reads stop at its mark, short of what is there
	eof           bool  // read to the end
	finSent       bool  // a FIN was sent to it
	watchesWrites bool  // it is registered with EPOLLOUT
	noDelaySet    bool  // it has TCP_NODELAY, or needs none
	unspliceable  bool  // splice(2) does not work on it
	filledSlot    bool  // the last read would have filled a slot of the exchange
	streak        uint8 // large reads in a row; small moves in a row when splicing
	bulk          bool  // splice
}

// none is pump's word for: neither side is broken.
const noSide = -1

// pump moves what can be moved from one side to the other, and sends the FIN on
// when all of it has gone. It returns which side is broken, and by what, or
// none.
func (s *session) pump(l *loop, from int) (broken int, errno syscall.Errno) {
	d, to := &s.sides[from], &s.sides[1-from]
	flushed, errno := s.flush(l, from)
	if errno != 0 {
		return 1 - from, errno
	}
	for moves := 0; flushed && d.readable && !d.eof; moves++ {
		if moves == relayBudget || moves > 0 && d.bulk {
			l.requeue(s)
			break
		}
		if flushed, broken, errno = s.move(l, from); errno != 0 {
			return broken, errno
		}
	}
	s.returnPipe(l, d)
	if d.eof && s.flushed(from) && !to.finSent && !s.done(1-from) {
		to.finSent = true
		l.kernel.Shutdown(int(to.fd))
	}
	return noSide, 0
}

// move reads once and writes what it read. flushed is false when the other side
// did not take all of it.
func (s *session) move(l *loop, from int) (flushed bool, broken int, errno syscall.Errno) {
	d := &s.sides[from]
	if d.bulk && !d.urgent && s.takePipe(l, d) {
		return s.splice(l, from)
	}
	n, errno := l.kernel.Recv(int(d.fd), l.buffer)
	switch {
	case errno == unix.EAGAIN:
		d.readable = false
		return true, noSide, 0
	case errno == unix.EINTR:
		return true, noSide, 0
	case errno != 0:
		return false, from, errno
	}
	if d.noteRead(n, len(l.buffer)); d.eof {
		return true, noSide, 0
	}
	rest, errno := s.send(l, from, l.buffer[:n])
	if errno == 0 {
		s.hold(l, from, rest)
	}
	return len(rest) == 0, 1 - from, errno
}

// noteRead notes that a read brought n bytes of those it had room for.
func (d *side) noteRead(n, room int) {
	if n == 0 {
		d.eof, d.readable = true, false
		return
	}
	// A short read means that the socket is dry, and what comes later raises
	// an edge. But not when the FIN's edge came already, or urgent data made
	// the read short.
	d.readable = n == room || d.hungUp || d.urgent
	d.filledSlot = n >= slotSize
	d.countRead(n)
}

// countRead turns splicing on for bulk data.
func (d *side) countRead(n int) {
	if n < bulkRead || d.unspliceable {
		d.streak = 0
		return
	}
	if d.streak++; d.streak >= bulkAfter {
		d.bulk, d.streak = true, 0
	}
}

// countMove turns it off again.
func (d *side) countMove(n int) {
	if n >= smallMove {
		d.streak = 0
		return
	}
	if d.streak++; d.streak >= bulkAfter {
		d.bulk, d.streak = false, 0
	}
}

// send writes b, which was read from one side, to the other, and returns what
// that did not take; then it will be told when it takes more.
func (s *session) send(l *loop, from int, b []byte) (rest []byte, errno syscall.Errno) {
	to := &s.sides[1-from]
	if len(b) > 0 {
		s.beforeWrite(l, from)
	}
	for len(b) > 0 {
		n, errno := l.kernel.Send(int(to.fd), b)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			l.watchWrites(s, 1-from)
			return b, 0
		default:
			return b, errno
		}
		s.countForwarded(from, n)
		b = b[n:]
	}
	return nil, 0
}

// beforeWrite sets the options that the second write needs.
func (s *session) beforeWrite(l *loop, from int) {
	if to := &s.sides[1-from]; !to.noDelaySet && s.sides[from].bytes > 0 {
		to.noDelaySet = true
		s.setBackendOptions(l, s.listener.forward.options.beforeSecondWrite)
	}
}

// carried counts n bytes that were read from a side and sent to the other.
func (s *session) countForwarded(from, n int) {
	s.sides[from].bytes += int64(n)
	s.tally.Bytes[from] += uint64(n)
}

// hold keeps b, which lies in the loop's buffer, until the other side takes it.
func (s *session) hold(l *loop, from int, b []byte) {
	if len(b) == 0 {
		return
	}
	d := &s.sides[from]
	if len(b) <= maxHeldCopy {
		d.held = append([]byte(nil), b...)
		return
	}
	d.held, d.borrowed = b, l.takeBuffer()
}

// flush writes what is held from one side to the other. flushed is false when
// there is still something left.
func (s *session) flush(l *loop, from int) (flushed bool, errno syscall.Errno) {
	d := &s.sides[from]
	if d.held, errno = s.send(l, from, d.held); len(d.held) > 0 {
		return false, errno
	}
	s.releaseHeld(l, d)
	return s.drainPipe(l, from)
}

// splice moves data through the kernel.
func (s *session) splice(l *loop, from int) (flushed bool, broken int, errno syscall.Errno) {
	d := &s.sides[from]
	n, errno := l.kernel.Splice(int(d.fd), d.pipe.Write, d.pipe.Size)
	switch {
	case errno == unix.EAGAIN: // the pipe is empty, so it is the socket
		d.readable = false
		return true, noSide, 0
	case errno == unix.EINTR:
		return true, noSide, 0
	case errno == unix.EINVAL:
		d.unspliceable, d.bulk = true, false
		return true, noSide, 0
	case errno != 0:
		return false, from, errno
	case n == 0:
		d.eof, d.readable = true, false
		return true, noSide, 0
	}
	d.pipe.n = n
	d.countMove(n)
	flushed, errno = s.drainPipe(l, from)
	return flushed, 1 - from, errno
}

// drainPipe empties a side's pipe into the other side.
func (s *session) drainPipe(l *loop, from int) (flushed bool, errno syscall.Errno) {
	d, to := &s.sides[from], &s.sides[1-from]
	for d.pipe != nil && d.pipe.n > 0 {
		n, errno := l.kernel.Splice(d.pipe.Read, int(to.fd), d.pipe.n)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			l.watchWrites(s, 1-from)
			return false, 0
		default:
			return false, errno
		}
		s.countForwarded(from, n)
		d.pipe.n -= n
	}
	return true, 0
}

// takePipe takes a pipe for a side that has none. Where there is none to be
// had, copying goes on.
func (s *session) takePipe(l *loop, d *side) bool {
	if d.pipe == nil {
		d.pipe = l.pipes.take()
	}
	if d.pipe == nil {
		d.bulk = false
	}
	return d.pipe != nil
}

// returnPipe gives an empty pipe back: nothing is held while idle.
func (s *session) returnPipe(l *loop, d *side) {
	if d.pipe != nil && d.pipe.n == 0 {
		l.pipes.put(d.pipe)
		d.pipe = nil
	}
}

func (s *session) releaseHeld(l *loop, d *side) {
	d.held = nil
	if d.borrowed != nil {
		l.returnBuffer(d.borrowed)
		d.borrowed = nil
	}
}

// flushed reports that nothing read from a side waits for the other.
func (s *session) flushed(from int) bool {
	d := &s.sides[from]
	return len(d.held) == 0 && (d.pipe == nil || d.pipe.n == 0)
}

// done reports that a side has sent its last byte and the other has taken it.
func (s *session) done(from int) bool { return s.sides[from].eof && s.flushed(from) }

// salvage hands on what a side that is broken sent before it broke: a server
// that answers and resets because it did not read all of the request, say.
func (s *session) forwardRemaining(l *loop, broken int) {
	d, to := &s.sides[broken], &s.sides[1-broken]
	if d.fd < 0 || to.fd < 0 || !s.flushed(broken) {
		return
	}
	for range relayBudget {
		n, errno := l.kernel.Recv(int(d.fd), l.buffer)
		if errno == unix.EINTR {
			continue
		}
		if n == 0 || errno != 0 {
			return
		}
		sent, errno := l.kernel.Send(int(to.fd), l.buffer[:n])
		if errno != 0 {
			return
		}
		s.countForwarded(broken, sent)
		if sent < n {
			return // what comes after a gap must not be sent
		}
	}
}
