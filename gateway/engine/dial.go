package engine

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/transparent"
)

// targets lists the backends of a session in the order in which to try them. The next call
// overwrites the list.
func (l *loop) targets(s *session) []forward.Endpoint {
	l.candidates = s.listener.route.Targets(l.candidates[:0], s.caller())
	return l.candidates
}

func (s *session) caller() Caller {
	return Caller{Client: s.client.unpack(), Destination: s.destination.unpack(), Spoof: s.spoof}
}

// startDial starts to connect to a backend. If that fails at once, it sets the session's outcome
// and returns false.
func (s *session) startDial(l *loop, to forward.Endpoint) bool {
	s.backend, s.source = to, address{}
	f := s.listener.forward
	if s.spoof {
		choice := f.Source.Choose(s.client.unpack(), to.Addr)
		if choice.Rejection != transparent.None {
			s.outcome, s.endedBy = record.SourceDenied, record.Gateway
			s.setReason(choice.Reason)
			if choice.Rejection == transparent.FamilyMismatched {
				s.outcome = record.FamilyMismatch
			}
			return false
		}
		s.source = pack(choice.Source)
	}
	errno, again := s.connect(l, s.source.unpack())
	if again && s.source.port != 0 && f.Source.SourcePort == transparent.Prefer {
		s.tally.PortFallbacks++
		s.source.port = 0
		errno, _ = s.connect(l, s.source.unpack())
	}
	if errno != 0 {
		s.dialError(errno)
		return false
	}
	if !l.watchSide(s, backend, interest|unix.EPOLLOUT) {
		s.dialError(unix.ENOMEM)
		s.closeBackend(l)
		return false
	}
	s.sides[backend].watchesWrites = true
	return true
}

// connect opens a socket and starts to connect it to s.backend, from source if that is valid. again
// reports whether another source port may succeed.
func (s *session) connect(l *loop, source netip.AddrPort) (errno syscall.Errno, again bool) {
	s.closeBackend(l)
	fd, errno := l.kernel.Socket(family(s.backend))
	if errno != 0 {
		return errno, false
	}
	s.sides[backend].fd, s.sides[backend].noDelaySet = int32(fd), s.backend.IsUnix()
	if errno, again = s.prepareSocket(l, fd, source); errno == 0 {
		errno = connectTo(l.kernel, fd, s.backend)
		again = transparent.RetryConnect(errno)
	}
	switch errno {
	case 0, unix.EINPROGRESS, unix.EINTR: // after EINTR the connect continues (connect(2))
		return 0, false
	}
	s.closeBackend(l)
	return errno, again
}

// prepareSocket sets the options of a backend socket and binds it to source if that is valid.
func (s *session) prepareSocket(l *loop, fd int, source netip.AddrPort) (errno syscall.Errno, again bool) {
	f := s.listener.forward
	if !s.backend.IsUnix() {
		if errno := setOptions(l.kernel, fd, f.options.beforeConnect); errno != 0 {
			return errno, false
		}
	}
	if f.Mark != 0 && !s.backend.IsUnix() {
		if errno := l.kernel.SetOption(fd, unix.SOL_SOCKET, unix.SO_MARK, int(f.Mark)); errno != 0 {
			return errno, false
		}
	}
	if s.state == probing || s.state == diagnosing {
		// Withholds the ACK of the SYN-ACK (tcp_rcv_synsent_state_process).
		if errno := l.kernel.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0); errno != 0 {
			return errno, false
		}
	}
	if !source.IsValid() {
		return 0, false
	}
	errno = transparent.Bind(l.kernel, fd, source)
	return errno, transparent.RetryBind(errno)
}

// connectTo starts to connect a socket to an endpoint.
func connectTo(k kernel.Kernel, fd int, e forward.Endpoint) syscall.Errno {
	if e.IsUnix() {
		return k.ConnectPath(fd, e.Path)
	}
	return k.Connect(fd, e.Addr)
}

// family returns the address family of an endpoint's sockets.
func family(e forward.Endpoint) int {
	switch {
	case e.IsUnix():
		return unix.AF_UNIX
	case e.Addr.Addr().Is4():
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// dialError sets the outcome that follows from a failed attempt.
func (s *session) dialError(errno syscall.Errno) {
	s.outcome, s.endedBy = DialOutcome(errno, s.source.isValid())
	s.setReason(errno.Error())
}

// armDial sets the deadline of one attempt: an equal share of the remaining connect timeout, so
// that an unresponsive backend leaves time for the remaining ones.
func (s *session) armDial(l *loop, behind int) {
	timeout := s.listener.forward.ConnectTimeout
	if timeout <= 0 {
		s.arm(l, 0) // ends the header deadline
		return
	}
	left := max(0, s.headerAt+int64(timeout)-l.now)
	s.arm(l, max(1, time.Duration(left/int64(behind+1))))
}

// sendEarly sends the payload before the connect has been reported. A backend on the same host is
// often connected already, which saves a wake-up. rest is what the socket did not take. connected
// means that the backend is connected, failed that the connect failed.
func (s *session) sendEarly(l *loop, payload []byte) (rest []byte, connected, failed bool) {
	if len(payload) == 0 {
		return nil, false, false
	}
	n, errno := l.kernel.Send(int(s.sides[backend].fd), payload)
	switch errno {
	case 0:
		s.countForwarded(peer, n)
		return payload[n:], true, false
	case unix.EAGAIN, unix.EINTR, unix.ENOTCONN:
		return payload, false, false
	}
	s.dialError(errno)
	return payload, false, true
}

// readSourcePort records the source port that the kernel chose, because the backend's own log shows
// it.
func (s *session) readSourcePort(l *loop) {
	if source, errno := l.kernel.LocalAddr(int(s.sides[backend].fd)); errno == 0 {
		s.source = pack(source)
	}
}

// closeBackend closes the socket to a backend that will not be used.
func (s *session) closeBackend(l *loop) {
	d := &s.sides[backend]
	if d.fd >= 0 {
		l.kernel.Close(int(d.fd))
	}
	*d = side{fd: -1}
}
