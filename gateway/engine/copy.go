package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxCaution is the highest side.caution: reads of 4 KiB.
	maxCaution = 6
	// slotCaution is the caution after the other side did not take what a slot of ioBatch held.
	slotCaution = 4
	// provenBytes is how much a side must have sent before small reads of it are made without a peek.
	provenBytes = 1 << 20
)

// copy reads once and writes the result. flushed is false if the other side did not take
// everything. What it did not take of a peek stays in the socket, so that slow readers take up no
// memory of the process, and the sender is slowed down by its own window.
func (s *session) copy(l *loop, from int) (flushed bool, broken int, errno syscall.Errno) {
	d := &s.sides[from]
	peeks := d.mayBlock(l)
	n, room, errno := d.receive(l, peeks)
	switch {
	case errno == unix.EAGAIN:
		d.readable = false
		return true, noSide, 0
	case errno == unix.EINTR:
		return true, noSide, 0
	case errno != 0:
		return false, from, errno
	}
	rest, errno := s.send(l, from, l.buffer[:n])
	if errno != 0 {
		return false, 1 - from, errno
	}
	if peeks {
		if errno := d.discard(l, n-len(rest)); errno != 0 {
			d.blocked = true // a further read would return the same bytes, see forwardRemaining
			return false, from, errno
		}
	}
	switch {
	case len(rest) == 0:
		d.caution = max(d.caution, 1) - 1
		d.noteRead(n, room)
	case peeks:
		d.blocked = true
		d.noteRefused(n - len(rest))
	default:
		d.noteRead(n, room)
		d.noteRefused(n - len(rest))
		l.hold(d, rest)
	}
	return len(rest) == 0, noSide, 0
}

// receive reads into the loop's buffer, at most room bytes. A peek leaves them in the socket.
func (d *side) receive(l *loop, peeks bool) (n, room int, errno syscall.Errno) {
	if !peeks {
		n, errno = l.kernel.Recv(int(d.fd), l.buffer[:bulkRead])
		return n, bulkRead, errno
	}
	n, errno = l.kernel.Peek(int(d.fd), l.buffer[:d.room()])
	return n, d.room(), errno
}

// mayBlock reports whether the other side may take less than the next read returns, or whether
// memory is short: then the read is a peek. A peek costs one more system call, little if the read is
// large. Otherwise the other side has taken everything lately, and the reads are small.
func (d *side) mayBlock(l *loop) bool {
	return d.caution > 0 || d.streak > 0 || d.bytes < provenBytes || l.engine.buffers.full()
}

// discard takes n bytes, which the other side has taken, out of the socket.
func (d *side) discard(l *loop, n int) syscall.Errno {
	for n > 0 {
		m, errno := l.kernel.Discard(int(d.fd), l.buffer[:n])
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case m == 0:
			return unix.EIO // the socket does not hold what it returned
		}
		n -= m
	}
	return 0
}

// unblock acts on an event of the other side: it may take more bytes of this one, or return an
// error. unblocked reports whether this side was blocked.
func (s *session) unblock(i int, events uint32) (unblocked bool) {
	d := &s.sides[i]
	if !d.blocked || events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return false
	}
	d.blocked = false
	return true
}

// room returns the size of the next peek. It is halved when the other side takes less than half of
// one, and doubled when it takes all: what the other side does not take is copied for nothing.
func (d *side) room() int { return bufferSize >> d.caution }

// noteRefused updates the side after the other one took n bytes of a read and no more.
func (d *side) noteRefused(n int) {
	d.streak = 0
	if n < d.room()/2 {
		d.caution = min(d.caution+1, maxCaution)
	}
}
