package engine

import (
	"cmp"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/gateway/source"
	"unproxy/transparent"
)

// attemptLimit bounds an attempt without a connect timeout if there are other backends.
const attemptLimit = 5 * time.Second

// nextTarget returns the backend to try next, and how many are left after it. ok is false if all
// have been tried. Those that failed lately come last.
func (l *loop) nextTarget(s *session) (next forward.Endpoint, behind int, ok bool) {
	route := s.listener.route
	l.candidates = route.Targets(l.candidates[:0], s.caller())
	all := l.candidates
	if f := s.failure; f != nil {
		all = slices.DeleteFunc(all, func(e forward.Endpoint) bool { return slices.Contains(f.tried, e) })
	}
	if len(all) == 0 {
		return forward.Endpoint{}, 0, false
	}
	route.Backends.Prefer(all, l.now)
	return all[0], len(all) - 1, true
}

// attemptFailed records that a backend could not be connected to, and closes the socket. errno is 0
// if that is not due to the backend.
func (s *session) attemptFailed(l *loop, errno syscall.Errno) {
	s.closeBackend(l)
	f := s.ensureFailure()
	f.tried = append(f.tried, s.backend)
	f.began, f.ended = cmp.Or(f.ended, s.headerAt), l.now
	if errno != 0 {
		s.listener.route.Backends.Failed(s.backend, errno, l.now, s.connectsAsClient())
	}
}

func (s *session) caller() Caller {
	return Caller{Client: s.client.unpack(), Destination: s.destination.unpack(), Spoof: s.spoofs()}
}

// startDial starts to connect to a backend. If that fails at once, it sets the session's outcome
// and started is false. errno is the error of the connect, or 0 if something else is the cause.
func (s *session) startDial(l *loop, to forward.Endpoint) (started bool, errno syscall.Errno) {
	s.backend, s.source = to, address{}
	if s.spoofs() {
		s.option = noOption
		if !s.chooseSource(to.Addr) {
			return false, 0
		}
	}
	errno, again := s.connectFrom(l)
	if again && s.bound().Port() != 0 && s.listener.forward.Source.SourcePort == transparent.Prefer {
		s.tally.PortFallbacks++
		s.source.port = 0
		errno, again = s.connect(l, s.source.unpack())
	}
	if errno != 0 {
		s.dialError(errno)
		s.explain(l, errno, again)
		return false, errno
	}
	if s.bound().IsValid() && !s.verifySource(l) {
		s.source = address{}
		s.resetSide(l, backend)
		return false, 0
	}
	if errno := l.watchSide(s, backend, interest|unix.EPOLLOUT); errno != 0 {
		s.unprepared("epoll_ctl", errno)
		s.closeBackend(l)
		return false, errno
	}
	s.sides[backend].watchesWrites = true
	return true, 0
}

// chooseSource sets the source of a transparent connection. It returns false, and sets the outcome,
// if the policy rejects the client.
func (s *session) chooseSource(to netip.AddrPort) bool {
	f := s.listener.forward
	choice := f.Source.Choose(s.client.unpack(), to)
	if choice.Rejection == transparent.None {
		s.source = pack(choice.Source)
		if f.TOA.On && choice.Transparent {
			s.option, s.source.port = offered, s.client.port
		}
		return true
	}
	s.denySource(choice.Reason)
	if choice.Rejection == transparent.FamilyMismatched {
		s.outcome = record.FamilyMismatch
	}
	return false
}

func (s *session) denySource(reason string) {
	s.outcome, s.endedBy = record.SourceDenied, record.Gateway
	s.setReason(reason)
}

// explain handles the errors that do not say what they mean: no source port is left, an address of
// the forward's is no longer one of this host, or the queue of a unix socket is full
// (unix_stream_connect). again is what connect returned.
func (s *session) explain(l *loop, errno syscall.Errno, again bool) {
	switch {
	case again && s.lacksPort(l, errno):
		s.outcome, s.endedBy = record.Limit, record.Gateway
		s.setReason("no source port is left towards the backend: " + errno.Error())
	case errno == unix.EADDRNOTAVAIL && s.option > noOption:
		s.setReason("no address of --toa-source is one of this host: " + errno.Error())
	case errno == unix.EADDRNOTAVAIL && s.source.isValid() && !s.spoofs():
		s.setReason(source.NotOwn(s.source.unpack().Addr(), errno))
	case errno == unix.EAGAIN && s.backend.IsUnix():
		s.setReason("the backend's queue of connections is full: " + errno.Error())
	}
}

// lacksPort reports whether a connect failed because no source port is left towards the backend. On
// IPv6 the error is the same if the host has no address to connect from (ip6_route_get_saddr).
func (s *session) lacksPort(l *loop, errno syscall.Errno) bool {
	if s.bound().Port() != 0 || errno != unix.EADDRNOTAVAIL && errno != unix.EADDRINUSE {
		return false
	}
	return s.bound().IsValid() || s.backend.Addr.Addr().Is4() || l.kernel.HasSource(s.backend.Addr)
}

// connectOnce is connect without the check for a socket that is connected to itself.
func (s *session) connectOnce(l *loop, source netip.AddrPort) (errno syscall.Errno, again bool) {
	s.closeBackend(l)
	s.noteLocal(false)
	fd, errno := l.kernel.Socket(family(s.backend))
	if errno != 0 {
		s.noteLocal(true)
		return errno, false
	}
	d := &s.sides[backend]
	d.fd, d.noDelaySet, d.shortReads = int32(fd), s.backend.IsUnix(), s.backend.IsUnix()
	if errno, again = s.prepareSocket(l, fd, source); errno != 0 {
		s.noteLocal(true)
		s.closeBackend(l)
		return errno, again
	}
	errno = connectTo(l.kernel, fd, s.backend)
	switch errno {
	case 0, unix.EINPROGRESS, unix.EINTR: // after EINTR the connect continues (connect(2))
		return 0, false
	}
	s.closeBackend(l)
	return errno, transparent.RetryConnect(errno)
}

// prepareSocket sets the options of a backend socket and binds it to source if that is valid.
func (s *session) prepareSocket(l *loop, fd int, source netip.AddrPort) (errno syscall.Errno, again bool) {
	f := s.listener.forward
	if s.backend.IsUnix() {
		keepUrgentInLine(l.kernel, fd)
	} else if errno := setOptions(l.kernel, fd, f.options.beforeConnect); errno != 0 {
		return errno, false
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
	if source.IsValid() {
		if errno, again = s.bind(l, fd, source); errno != 0 {
			return errno, again
		}
	}
	if s.option > noOption {
		return s.offerClient(l, fd), false
	}
	return 0, false
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
	outcomeOf := DialOutcome
	if s.failureDetails().local {
		outcomeOf = LocalOutcome
	}
	s.outcome, s.endedBy = outcomeOf(errno, s.bound().Port() != 0)
	switch {
	case s.option == unattached:
		s.outcome = record.TOAUnattached
	case errno == unix.EAGAIN && !s.backend.IsUnix(): // the host is short of ports or routes (connect(2))
		s.endedBy = record.Gateway
	}
	s.setReason(errno.Error())
}

// unprepared is dialError for a call that does not involve the backend.
func (s *session) unprepared(call string, errno syscall.Errno) {
	s.noteLocal(true)
	s.dialError(errno)
	s.setReason(call + ": " + errno.Error())
}

// noteLocal records whether an attempt failed in a call that does not involve the backend.
func (s *session) noteLocal(local bool) {
	if local || s.failure != nil {
		s.ensureFailure().local = local
	}
}

// armDial sets the deadline of one attempt: an equal share of the remaining connect timeout, so
// that an unresponsive backend leaves time for the remaining ones, whose number is behind. Without a
// connect timeout only the last attempt is unlimited.
func (s *session) armDial(l *loop, behind int) {
	timeout := s.listener.forward.ConnectTimeout
	switch {
	case timeout <= 0 && behind > 0:
		s.arm(l, attemptLimit)
		return
	case timeout <= 0:
		s.arm(l, 0) // ends the header deadline
		return
	}
	left := max(0, s.headerAt+int64(timeout)-l.now)
	s.arm(l, max(1, time.Duration(left/int64(behind+1))))
}

// sendEarly sends the payload before the connect has been reported. A backend on the same host is
// often connected already, which saves a wake-up. rest is what the socket did not take. connected
// means that the backend is connected; failed is the error if the connect failed.
func (s *session) sendEarly(l *loop, payload []byte) (rest []byte, connected bool, failed syscall.Errno) {
	if len(payload) == 0 {
		return nil, false, 0
	}
	n, errno := l.kernel.Send(int(s.sides[backend].fd), payload)
	switch errno {
	case 0:
		s.countForwarded(peer, n)
		return payload[n:], true, 0
	case unix.EAGAIN, unix.EINTR, unix.ENOTCONN:
		return payload, false, 0
	}
	s.dialError(errno)
	return payload, false, errno
}

// verifySource reports whether the kernel connects from the address that the socket was bound to. If
// not, or if that is not known, it sets the outcome. The kernel
// replaces addresses of some types, such as broadcast addresses, with one of the host's own
// (__inet_bind), of which the policy may not know all. connect(2) sets the address before it sends
// the SYN, so no payload has been sent yet. verifySource also records the source port, which the
// kernel may have chosen, because the backend's own log shows it.
func (s *session) verifySource(l *loop) bool {
	source, errno := l.kernel.LocalAddr(int(s.sides[backend].fd))
	switch {
	case errno != 0:
		s.unprepared("getsockname", errno)
		return false
	case source.Addr() != s.source.unpack().Addr():
		s.denySource("the kernel connects from another address")
		return false
	}
	s.source = pack(source)
	return true
}

// closeBackend closes the socket to a backend that will not be used.
func (s *session) closeBackend(l *loop) {
	d := &s.sides[backend]
	if d.fd >= 0 {
		l.kernel.Close(int(d.fd))
	}
	*d = side{fd: -1}
}
