package engine

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/transparent"
)

const (
	// diagnoseTime bounds the plain connect that tells why a transparent one
	// timed out.
	diagnoseTime = time.Second
	// verdictTime is how long its result holds for other connections.
	verdictTime = int64(5 * time.Second)
	maxVerdicts = 1024
)

// verdict is what a plain connect to a backend came to.
type verdict struct {
	answers bool
	until   int64
}

// targets lists where a session may be connected to, in the order in which to
// try. The list is the loop's own, good until the next call.
func (l *loop) targets(s *session) []Endpoint {
	l.candidates = s.listener.route.Targets(l.candidates[:0], s.caller())
	return l.candidates
}

func (s *session) caller() Caller {
	return Caller{Client: s.client.unpack(), Destination: s.destination.unpack(), Spoof: s.spoof}
}

// begin starts to connect to a backend. If that fails at once it notes why and
// returns false.
func (s *session) begin(l *loop, to Endpoint) bool {
	s.backend, s.source = to, address{}
	f := s.listener.forward
	if s.spoof {
		choice := f.Source.Choose(s.client.unpack(), to.Addr)
		if choice.Rejection != transparent.None {
			s.failure, s.failedBy = record.SourceDenied, record.Gateway
			s.because(choice.Reason)
			if choice.Rejection == transparent.FamilyMismatched {
				s.failure = record.FamilyMismatch
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
	if !l.watch(s, backend, interest|unix.EPOLLOUT) {
		s.dialError(unix.ENOMEM)
		s.hangUp(l)
		return false
	}
	s.sides[backend].watchesWrites = true
	return true
}

// beginPlain starts the plain connect of a diagnosis, to the backend that was
// dialled last.
func (s *session) beginPlain(l *loop) bool {
	errno, _ := s.connect(l, netip.AddrPort{})
	if errno != 0 || !l.watch(s, backend, interest|unix.EPOLLOUT) {
		return false
	}
	s.arm(l, diagnoseTime)
	return true
}

// connect opens a socket and starts to connect it to s.backend, from source if
// that is valid. again says that another source port may do.
func (s *session) connect(l *loop, source netip.AddrPort) (errno syscall.Errno, again bool) {
	s.hangUp(l)
	fd, errno := l.kernel.Socket(s.backend.family())
	if errno != 0 {
		return errno, false
	}
	s.sides[backend].fd, s.sides[backend].prompt = int32(fd), s.backend.IsUnix()
	if errno, again = s.prepare(l, fd, source); errno == 0 {
		errno = l.kernel.Connect(fd, s.backend)
		again = transparent.RetryConnect(errno)
	}
	switch errno {
	case 0, unix.EINPROGRESS, unix.EINTR: // interrupted, it goes on by itself (connect(2))
		return 0, false
	}
	s.hangUp(l)
	return errno, again
}

// prepare sets a socket's options and binds it.
func (s *session) prepare(l *loop, fd int, source netip.AddrPort) (errno syscall.Errno, again bool) {
	f := s.listener.forward
	if !s.backend.IsUnix() {
		if errno := setOptions(l.kernel, fd, f.options.first); errno != 0 {
			return errno, false
		}
	}
	if f.Mark != 0 && !s.backend.IsUnix() {
		if errno := l.kernel.SetOption(fd, unix.SOL_SOCKET, unix.SO_MARK, int(f.Mark)); errno != 0 {
			return errno, false
		}
	}
	if !source.IsValid() {
		return 0, false
	}
	errno = transparent.Bind(l.kernel, fd, source)
	return errno, transparent.RetryBind(errno)
}

func (e Endpoint) family() int {
	switch {
	case e.IsUnix():
		return unix.AF_UNIX
	case e.Addr.Addr().Is4():
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// dialError notes why a backend could not be connected to.
func (s *session) dialError(errno syscall.Errno) {
	s.failure, s.failedBy = DialOutcome(errno, s.source.isValid())
	s.because(errno.Error())
}

// armDial sets the deadline of one attempt: an equal share of what is left of
// the connect timeout, so that a backend that is silent leaves time for those
// behind it.
func (s *session) armDial(l *loop, behind int) {
	timeout := s.listener.forward.ConnectTimeout
	if timeout <= 0 {
		s.arm(l, 0) // the header's deadline is over
		return
	}
	left := max(0, s.headed+int64(timeout)-l.now)
	s.arm(l, max(1, time.Duration(left/int64(behind+1))))
}

// sendEarly offers the payload to a backend that is still being connected to.
// On the same host it is there already, which saves a wake-up. rest is what was
// not taken; joined says that the backend is connected, failed that it is not
// and will not be.
func (s *session) sendEarly(l *loop, payload []byte) (rest []byte, joined, failed bool) {
	if len(payload) == 0 {
		return nil, false, false
	}
	n, errno := l.kernel.Send(int(s.sides[backend].fd), payload)
	switch errno {
	case 0:
		s.carried(peer, n)
		return payload[n:], true, false
	case unix.EAGAIN, unix.EINTR, unix.ENOTCONN:
		return payload, false, false
	}
	s.dialError(errno)
	return payload, false, true
}

// learnPort asks from which port a connection was made that left it to the
// kernel: the backend's own log has it.
func (s *session) learnPort(l *loop) {
	if source, errno := l.kernel.LocalAddr(int(s.sides[backend].fd)); errno == 0 {
		s.source = pack(source)
	}
}

// hangUp closes the socket to a backend that will not be used.
func (s *session) hangUp(l *loop) {
	d := &s.sides[backend]
	if d.fd >= 0 {
		l.kernel.Close(int(d.fd))
	}
	*d = side{fd: -1}
}

// verdict returns what a recent plain connect to a backend came to.
func (l *loop) verdict(backend netip.AddrPort) (answers, known bool) {
	v, ok := l.verdicts[backend]
	return v.answers, ok && l.now < v.until
}

func (l *loop) learn(backend netip.AddrPort, answers bool) {
	if len(l.verdicts) >= maxVerdicts {
		clear(l.verdicts)
	}
	if _, known := l.verdict(backend); !known {
		l.verdicts[backend] = verdict{answers: answers, until: l.now + verdictTime}
	}
}
