package engine

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// event is where every event of a session's two sockets arrives.
func (s *session) event(l *loop, i int, events uint32) {
	d := &s.sides[i]
	d.readable = d.readable || events&^unix.EPOLLOUT != 0
	d.hungUp = d.hungUp || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	d.urgent = d.urgent || events&unix.EPOLLPRI != 0
	s.alive = l.now
	if events&unix.EPOLLERR == 0 && l.gather(s, i) {
		return
	}
	switch s.state {
	case reading:
		s.read(l)
		if events&unix.EPOLLERR != 0 && (s.state == dialling || s.state == relaying) {
			s.checkError(l, i)
		}
	case closing:
		s.discard(l)
	case dialling:
		s.dialEvent(l, i, events)
	case diagnosing:
		s.diagnosed(l, events&(unix.EPOLLERR|unix.EPOLLHUP) == 0)
	case relaying:
		s.relay(l)
		if events&unix.EPOLLERR != 0 && s.state == relaying {
			s.checkError(l, i)
		}
	}
}

// resume goes on where the budget of a wake-up was used up.
func (s *session) resume(l *loop) {
	switch s.state {
	case relaying:
		s.relay(l)
	case closing:
		s.discard(l)
	}
}

// timeout is where every deadline of a session arrives.
func (s *session) timeout(l *loop) {
	switch s.state {
	case reading:
		s.sample(s.sides[peer].held)
		s.failedBy = record.Timeout
		s.refuse(l, record.HeaderTimeout, record.Header)
	case closing:
		s.finish(l)
	case dialling:
		s.dialTimeout(l)
	case diagnosing:
		s.diagnosed(l, false)
	case relaying:
		s.armRelay(l)
	}
}

// refused ends a connection for its header.
func (s *session) refused(l *loop, b []byte, err error) {
	outcome := record.Malformed
	if e, ok := err.(*proxyproto.Error); ok {
		outcome = HeaderOutcome(e.Reason)
		s.because(e.Reason.String())
		s.explain().offset = e.Offset
	}
	s.sample(b)
	s.failedBy = record.Peer
	s.refuse(l, outcome, record.Header)
}

// readEnded is the end of the stream before the header was whole.
func (s *session) readEnded(l *loop) {
	held := s.sides[peer].held
	s.failedBy = record.Peer
	if len(held) == 0 && s.headers == 0 {
		s.end(l, record.Empty, record.Header)
		return
	}
	s.sample(held)
	s.refuse(l, record.Truncated, record.Header)
}

// readFailed is a connection that broke before the header was whole. Many
// health checks connect and reset.
func (s *session) readFailed(l *loop, errno syscall.Errno) {
	s.failedBy = record.Peer
	s.because(errno.Error())
	outcome := record.Reset
	if len(s.sides[peer].held) == 0 && s.headers == 0 {
		outcome = record.Empty
	}
	s.end(l, outcome, record.Header)
}

// decide acts on a whole header; payload is what came behind it.
func (s *session) decide(l *loop, h *proxyproto.Header, payload []byte) {
	f := s.listener.forward
	switch h.Result {
	case proxyproto.Proxy:
		s.client = pack(unmap(h.Source))
		s.destination = pack(unmap(h.Destination))
		s.spoof = f.Transparent
		if !s.admit(f) {
			s.refuse(l, record.Limit, record.Dial)
			return
		}
	case proxyproto.Local:
		if f.CloseLocal {
			s.close(l, record.OK, record.Header)
			return
		}
		s.client, s.destination = s.peer, pack(s.sentTo(l))
	default:
		if f.RejectUnknown {
			s.refuse(l, record.NoAddress, record.Dial)
			return
		}
		s.client, s.destination = s.peer, pack(s.sentTo(l))
	}
	s.dial(l, payload)
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// close sends a FIN and waits for the peer's, so that no unread byte turns
// ours into a RST.
func (s *session) close(l *loop, outcome record.Outcome, phase record.Phase) {
	s.state, s.failure, s.failedBy, s.ended = closing, outcome, record.Gateway, phase
	s.arm(l, closingTime)
	l.kernel.Shutdown(int(s.sides[peer].fd))
	s.discard(l)
}

// discard reads what nobody wants, up to the peer's FIN.
func (s *session) discard(l *loop) {
	d := &s.sides[peer]
	for range relayBudget {
		n, errno := l.kernel.Recv(int(d.fd), l.buffer)
		switch {
		case errno == unix.EAGAIN:
			return
		case errno == unix.EINTR:
			continue
		case errno != 0 || n == 0:
			s.finish(l)
			return
		}
	}
	l.later(s)
}

// dial is the dial phase: from here on the backends are tried in turn.
func (s *session) dial(l *loop, payload []byte) {
	s.state = dialling
	if s.headed == 0 {
		s.headed = s.began
	}
	s.tryNext(l, payload)
}

// tryNext dials the next backend that may do; payload is what must reach it
// first and is not held yet.
func (s *session) tryNext(l *loop, payload []byte) {
	for {
		targets := l.targets(s)
		if int(s.attempt) >= len(targets) {
			s.dialFailed(l)
			return
		}
		if !s.begin(l, targets[s.attempt]) {
			if s.failure == record.Limit && s.waitForRoom(l, payload) {
				return
			}
			s.attempt++
			continue
		}
		s.attempt++
		s.armDial(l, len(targets)-int(s.attempt))
		rest, joined, failed := s.sendEarly(l, payload)
		if failed {
			s.hangUp(l)
			continue
		}
		s.hold(l, peer, rest)
		if joined {
			s.join(l)
		}
		return
	}
}

// dialEvent is an event while the backend is dialled.
func (s *session) dialEvent(l *loop, i int, events uint32) {
	if i == peer {
		if events&unix.EPOLLERR != 0 { // EPOLLHUP alone is a unix peer that closed: its bytes are to go on
			s.failedBy = record.Client
			s.end(l, record.Reset, record.Dial)
		}
		return
	}
	if events&unix.EPOLLERR != 0 {
		s.dialError(l.kernel.SocketError(int(s.sides[backend].fd)))
		s.hangUp(l)
		s.tryNext(l, nil)
		return
	}
	if events&unix.EPOLLOUT != 0 { // with EPOLLHUP it is a unix backend that has spoken and closed
		s.join(l)
	}
}

// dialTimeout gives one backend up and turns to the next; or tries the same
// one again, for which there was no descriptor before.
func (s *session) dialTimeout(l *loop) {
	if s.sides[backend].fd >= 0 {
		s.dialError(unix.ETIMEDOUT)
		s.hangUp(l)
	}
	s.tryNext(l, nil)
}

// waitForRoom puts a dial off for which the system had no descriptor or no
// memory, until the connect timeout. Meanwhile nothing is accepted: newcomers
// would only take what those need that are here. Where sessions wait for each
// other's descriptors, one after the other gives its own up.
func (s *session) waitForRoom(l *loop, payload []byte) bool {
	timeout := int64(s.listener.forward.ConnectTimeout)
	if timeout > 0 && l.now-s.headed >= timeout || l.now-max(s.headed, l.released) >= int64(roomTime) {
		return false
	}
	s.hold(l, peer, payload)
	l.pauseAccept(s.listener, errors.New("socket: "+s.why().reason))
	s.arm(l, acceptPause)
	return true
}

// dialFailed ends a connection for which no backend was to be had. Where the
// last word was that a transparent connect timed out, the peer is sent away
// and a plain connect tells whether the replies only lacked a way back.
func (s *session) dialFailed(l *loop) {
	if s.failure == record.OK {
		var reason string
		s.failure, s.failedBy, reason = s.listener.route.NoTarget(s.caller())
		s.because(reason)
	}
	if s.failure == record.ConnectTimeout && s.source.isValid() {
		s.diagnose(l)
		return
	}
	s.refuse(l, s.failure, record.Dial)
}

// diagnose finds out why a transparent connect timed out.
func (s *session) diagnose(l *loop) {
	s.reset(l, peer)
	s.state = diagnosing
	if v, ok := l.verdict(s.backend.Addr); ok {
		s.diagnosed(l, v)
		return
	}
	if !s.beginPlain(l) {
		s.diagnosed(l, false)
	}
}

// diagnosed ends a connection whose transparent connect timed out; plain says
// that a plain one did not.
func (s *session) diagnosed(l *loop, plain bool) {
	l.learn(s.backend.Addr, plain)
	outcome := record.ConnectTimeout
	if plain {
		outcome = record.NoReturnPath
		s.because("the backend answers the gateway's own address, but its replies to the client are not routed here")
	}
	s.failedBy = record.Timeout
	s.refuse(l, outcome, record.Dial)
}

// join is the moment at which the backend is there: the relay phase.
func (s *session) join(l *loop) {
	s.state = relaying
	s.joined = l.kernel.Now()
	s.tally.ObserveConnect(time.Duration(s.joined - s.headed))
	s.alive = l.now
	if s.source.isValid() && s.source.port == 0 {
		s.learnPort(l)
	}
	s.failure, s.failedBy, s.refusal = record.OK, record.Gateway, nil
	s.armRelay(l)
	s.relay(l)
}

// relay moves what can be moved, both ways.
func (s *session) relay(l *loop) {
	for from := range s.sides {
		if broken, errno := s.pump(l, from); broken >= 0 {
			s.broken(l, broken, errno)
			return
		}
		s.noteEnd(from)
	}
	if s.done(peer) && s.done(backend) {
		s.failedBy = party(int(s.first) - 1)
		s.end(l, record.OK, record.Relay)
	}
}

// noteEnd notes which side finished first.
func (s *session) noteEnd(i int) {
	if s.sides[i].eof && s.first == 0 {
		s.first = uint8(i) + 1
	}
}

// checkError looks for the error that an event told of where neither reading
// nor writing met it: both may be waiting for the other side.
func (s *session) checkError(l *loop, i int) {
	if errno := l.kernel.SocketError(int(s.sides[i].fd)); errno != 0 {
		s.broken(l, i, errno)
	}
}

// broken ends a session of which one side was reset: the other is reset too,
// after what the first had still to say.
func (s *session) broken(l *loop, who int, errno syscall.Errno) {
	s.salvage(l, who)
	s.failedBy = party(who)
	s.because(errno.Error())
	if errno == unix.ETIMEDOUT {
		s.failedBy = record.Timeout
	}
	s.refuse(l, record.Reset, s.phase())
}

func party(side int) record.Party {
	if side == backend {
		return record.Backend
	}
	return record.Client
}

// armRelay sets the deadline of the relay phase: that of the keepalive options,
// which are set once the connection is old enough, or that of a session that
// moves nothing for too long, which it ends.
func (s *session) armRelay(l *loop) {
	f := s.listener.forward
	next := time.Duration(0)
	if f.IdleTimeout > 0 {
		if next = time.Duration(s.alive-l.now) + f.IdleTimeout; next <= 0 {
			s.failedBy = record.Timeout
			s.refuse(l, record.IdleTimeout, record.Relay)
			return
		}
	}
	if !s.kept {
		left := time.Duration(s.joined-l.now) + f.Keepalive
		switch {
		case f.Keepalive <= 0 || s.backend.IsUnix():
			s.kept = true
		case left <= 0:
			s.kept = true
			s.setLate(l, f.options.lasting)
		case next == 0 || left < next:
			next = left
		}
	}
	s.arm(l, next)
}

// cut ends a session at the end of the drain, whatever it is at.
func (s *session) cut(l *loop) {
	s.failedBy = record.Gateway
	s.refuse(l, record.Drained, s.phase())
}

// dismiss ends a session because an operator wishes so.
func (s *session) dismiss(l *loop) {
	s.failedBy = record.Gateway
	s.because("cut by the operator")
	s.refuse(l, record.Reset, s.phase())
}

func (s *session) phase() record.Phase {
	switch s.state {
	case reading, closing:
		return record.Header
	case dialling, diagnosing:
		return record.Dial
	}
	return record.Relay
}

// arm sets the session's deadline, after d; 0 is none.
func (s *session) arm(l *loop, d time.Duration) {
	if d <= 0 {
		l.wheel.disarm(&s.timer)
		return
	}
	l.wheel.arm(&s.timer, l.now+int64(d))
}
