package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// relayBudget is the number of reads in one direction per wake-up, before other sessions get
	// their turn. A direction that splices makes one move, of up to a whole pipe: more bytes arrive
	// while others have their turn, and fewer but larger moves cost as little as 0.6 of the CPU
	// time per byte.
	relayBudget = 8
	// Splicing starts after bulkAfter reads of at least bulkRead in a row, and stops after
	// bulkAfter moves of less than smallMove in a row. Below that, copying costs less.
	bulkRead  = 64 << 10
	smallMove = 16 << 10
	bulkAfter = 3
)

// side is one of a session's two sockets, and the bytes that were read from it.
type side struct {
	bytes int64 // that the other side took

	// held is what was read from this side and not yet taken by the other, in memory of its own. Nothing is
	// read while held or pipe contains bytes.
	held []byte
	pipe *pipe // only while splicing moves bytes

	fd            int32  // -1: none
	charged       uint32 // of Engine.buffers, for held
	readable      bool   // there was an edge, and no read has emptied the socket since
	hungUp        bool   // an event reported a FIN or an error: read until the end of the stream
	urgent        bool   // urgent data arrived: a short read does not mean that the socket is empty
	eof           bool   // read to the end of the stream
	finSent       bool
	watchesWrites bool  // registered with EPOLLOUT
	noDelaySet    bool  // or not needed
	unspliceable  bool  // splice(2) is refused
	filledSlot    bool  // the last read was at least as large as a slot of ioBatch
	streak        uint8 // large reads in a row, or small moves while bulk is set
	bulk          bool  // splice instead of copying
	shortReads    bool  // a unix socket: a short read does not mean that the socket is empty
	blocked       bool  // the other side took less than a read returned: wait until it takes more
	caution       uint8 // how often the size of a read is halved, see side.room
}

// mayHoldMore reports whether the socket may hold more after a read that was short (n < room) or
// not. After a short read it is empty, and new bytes raise an edge, with these exceptions: the edge
// of the FIN has come already; urgent data made the read short; or it is a unix socket, where a read
// also ends after the bytes that a descriptor was passed along with (unix_stream_read_generic).
func (d *side) mayHoldMore(short bool) bool {
	return !short || d.hungUp || d.urgent || d.shortReads
}

// noSide is returned by pump if neither side is broken.
const noSide = -1

// pump moves the available bytes from one side to the other. After the last one, it sends the FIN.
// It returns the side that is broken, with its error, or noSide.
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
	if s.flows != 0 {
		if errno = l.flows.of(s, from).update(l); errno != 0 {
			return from, errno
		}
	}
	if d.eof && s.flushed(from) && !to.finSent && !s.done(1-from) {
		if errno = s.sendFIN(l, 1-from); errno != 0 {
			return 1 - from, errno
		}
	}
	return noSide, 0
}

// sendFIN sends a FIN to one side. A session whose FIN cannot be sent must not wait for the answer.
//
// ENOTCONN means that the connection has been reset or has timed out (inet_shutdown). What it received
// before is read first, as without the call. It may end with a FIN, else with the error.
func (s *session) sendFIN(l *loop, to int) (errno syscall.Errno) {
	d := &s.sides[to]
	for errno = unix.EINTR; errno == unix.EINTR; {
		errno = l.kernel.Shutdown(int(d.fd))
	}
	if errno != unix.ENOTCONN {
		d.finSent = errno == 0
		return errno
	}
	switch _, why := l.kernel.Peek(int(d.fd), l.buffer[:1]); why {
	case unix.EAGAIN:
		return errno // no connection that ended
	case 0, unix.EINTR:
		d.readable, d.hungUp = true, true
		if s.flushed(to) {
			l.requeue(s)
		}
		return 0
	default:
		return why
	}
}

// move reads once and writes the result. flushed is false if the other side did not take
// everything.
func (s *session) move(l *loop, from int) (flushed bool, broken int, errno syscall.Errno) {
	d := &s.sides[from]
	if d.bulk && !d.urgent && s.takePipe(l, d) {
		return s.splice(l, from)
	}
	return s.copy(l, from)
}

// noteRead updates the side after a read of n bytes into a buffer with room for more.
func (d *side) noteRead(n, room int) {
	if n == 0 {
		d.eof, d.readable = true, false
		return
	}
	d.readable = d.mayHoldMore(n < room)
	d.filledSlot = n >= slotSize
	d.countRead(n)
}

// countRead starts splicing when the data is bulk.
func (d *side) countRead(n int) {
	switch {
	case n < bulkRead:
		d.streak = 0
	case d.streak+1 < bulkAfter || d.unspliceable:
		d.streak = min(d.streak+1, bulkAfter)
	default:
		d.bulk, d.streak = true, 0
	}
}

// countMove stops splicing when the moves are small.
func (d *side) countMove(n int) {
	if n >= smallMove {
		d.streak = 0
		return
	}
	if d.streak++; d.streak >= bulkAfter {
		d.bulk, d.streak = false, 0
	}
}

// send writes b, which was read from one side, to the other. It returns what that did not take;
// EPOLLOUT reports when it takes more.
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
			return b, l.watchWrites(s, 1-from)
		default:
			return b, errno
		}
		s.countForwarded(from, n)
		b = b[n:]
	}
	return nil, 0
}

// beforeWrite sets the socket options that matter from the second write on.
func (s *session) beforeWrite(l *loop, from int) {
	if to := &s.sides[1-from]; !to.noDelaySet && s.sides[from].bytes > 0 {
		to.noDelaySet = true
		s.setBackendOptions(l, s.listener.forward.options.beforeSecondWrite)
	}
}

// countForwarded counts n bytes that were read from a side and taken by the other.
func (s *session) countForwarded(from, n int) {
	s.sides[from].bytes += int64(n)
	s.tally.Bytes[from] += uint64(n)
}

// flush writes the held bytes of one side to the other. flushed is false if some remain.
func (s *session) flush(l *loop, from int) (flushed bool, errno syscall.Errno) {
	d := &s.sides[from]
	if d.blocked {
		return false, 0
	}
	if d.held, errno = s.send(l, from, d.held); len(d.held) > 0 {
		return false, errno
	}
	l.release(d)
	return s.drainPipe(l, from)
}

// flushed reports whether the other side has taken everything that was read from this one.
func (s *session) flushed(from int) bool {
	d := &s.sides[from]
	return !d.blocked && len(d.held) == 0 && (d.pipe == nil || d.pipe.n == 0)
}

// done reports whether a side has ended its stream and the other has taken all of it.
func (s *session) done(from int) bool { return s.sides[from].eof && s.flushed(from) }

// forwardRemaining forwards what a broken side sent before it failed. For example, a server may
// answer and then reset because it has not read the whole request.
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
			return // bytes after a gap must not be sent
		}
	}
}
