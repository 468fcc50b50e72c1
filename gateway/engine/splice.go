package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// splice moves bytes with splice(2).
func (s *session) splice(l *loop, from int) (flushed bool, broken int, errno syscall.Errno) {
	d := &s.sides[from]
	n, errno := l.kernel.Splice(int(d.fd), d.pipe.Write, d.pipe.Size)
	switch {
	case errno == unix.EAGAIN: // the pipe is empty, so the socket is
		d.readable = false
		l.flows.take(s, from).noteEmpty()
		return true, noSide, 0
	case errno == unix.EINTR:
		return true, noSide, 0
	case errno != 0 && s.refusesSplice(l, from, errno):
		return true, noSide, 0
	case errno != 0:
		return false, from, errno
	case n == 0:
		d.eof, d.readable = true, false
		return true, noSide, 0
	}
	d.pipe.n = n
	d.countMove(n)
	l.flows.take(s, from).noteMove(l, n)
	flushed, errno = s.drainPipe(l, from)
	return flushed, 1 - from, errno
}

// drainPipe moves the bytes in a side's pipe to the other side.
func (s *session) drainPipe(l *loop, from int) (flushed bool, errno syscall.Errno) {
	d, to := &s.sides[from], &s.sides[1-from]
	for d.pipe != nil && d.pipe.n > 0 {
		n, errno := l.kernel.Splice(d.pipe.Read, int(to.fd), d.pipe.n)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false, l.watchWrites(s, 1-from)
		default:
			if !d.copyFrom(errno) {
				return false, errno
			}
			return s.copyPipe(l, from) // fails, too, if the socket is broken
		}
		s.countForwarded(from, n)
		d.pipe.n -= n
	}
	return true, 0
}

// copyPipe is drainPipe by read(2) and send(2), for a socket that splice(2) refuses.
func (s *session) copyPipe(l *loop, from int) (flushed bool, errno syscall.Errno) {
	d := &s.sides[from]
	for d.pipe.n > 0 {
		n, errno := l.kernel.ReadPipe(d.pipe.Read, l.buffer)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return false, errno
		case n == 0:
			return false, unix.EIO // the pipe does not hold what was written to it
		}
		d.pipe.n -= n
		rest, errno := s.send(l, from, l.buffer[:n])
		if errno != 0 {
			return false, errno
		}
		if len(rest) > 0 {
			l.hold(d, rest)
			return false, 0
		}
	}
	return true, 0
}

// refusesSplice reports whether an error of splice(2) from a socket is about splicing rather than
// about the socket. If so, the side is copied from now on.
//
// A security module or a seccomp filter may return the same errors as a TCP socket that has timed
// out after an ICMP message (tcp_write_err, icmp_err_convert). The socket does not repeat its error,
// so refusesSplice calls splice(2) again, from the empty pipe: only a refusal fails in the same way.
func (s *session) refusesSplice(l *loop, from int, errno syscall.Errno) bool {
	d, to := &s.sides[from], &s.sides[1-from]
	if errno == unix.EACCES || errno == unix.EOPNOTSUPP {
		if _, again := l.kernel.Splice(d.pipe.Read, int(to.fd), 1); again != errno {
			return false
		}
	}
	return d.copyFrom(errno)
}

// copyFrom makes a side copy instead of splice, if an error of splice(2) may mean that it is
// refused: for the moment if memory is short, else for good.
func (d *side) copyFrom(errno syscall.Errno) bool {
	switch errno {
	case unix.ENOMEM, unix.ENOBUFS:
		d.bulk, d.streak = false, 0
	case unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP:
		d.bulk, d.unspliceable = false, true
	default:
		return false
	}
	return true
}

// takePipe takes a pipe for a side that has none. If none is available, copying continues.
func (s *session) takePipe(l *loop, d *side) bool {
	if d.pipe == nil {
		d.pipe = l.pipes.take()
	}
	if d.pipe == nil {
		d.bulk, d.streak = false, 1 // still large reads, see mayBlock
	}
	return d.pipe != nil
}

// returnPipe returns an empty pipe: an idle session holds none.
func (s *session) returnPipe(l *loop, d *side) {
	if d.pipe != nil && d.pipe.n == 0 {
		l.pipes.put(d.pipe)
		d.pipe = nil
	}
}
