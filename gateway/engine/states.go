package engine

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// handleEvent handles every event of a session's two sockets.
func (s *session) handleEvent(l *loop, i int, events uint32) {
	d := &s.sides[i]
	d.readable = d.readable || events&^unix.EPOLLOUT != 0
	d.hungUp = d.hungUp || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	d.urgent = d.urgent || events&unix.EPOLLPRI != 0
	if s.state != reading { // else heardWaiting sets it
		s.lastActive = l.now
	}
	if unblocked := s.unblock(1-i, events); !unblocked && events&unix.EPOLLERR == 0 && l.queueRead(s, i) {
		return
	}
	if s.flows != 0 && events&(unix.EPOLLIN|unix.EPOLLPRI) != 0 {
		l.flows.of(s, i).muteIfBlocked(l)
	}
	switch s.state {
	case reading:
		s.readHeader(l)
		if events&unix.EPOLLERR != 0 && (s.state == dialling || s.state == relaying) {
			s.checkError(l, i)
		}
	case closing:
		s.discardInput(l)
	case dialling:
		s.dialEvent(l, i, events)
	case probing, diagnosing:
		s.diagnosisEvent(l, events)
	case relaying:
		s.relay(l)
		if events&unix.EPOLLERR != 0 && s.state == relaying {
			s.checkError(l, i)
		}
	}
}

// resume continues a session that used up its budget.
func (s *session) resume(l *loop) {
	switch s.state {
	case relaying:
		s.relay(l)
	case closing:
		s.discardInput(l)
	}
}

// handleTimeout handles every deadline of a session.
func (s *session) handleTimeout(l *loop) {
	switch s.state {
	case reading:
		s.setPartial(s.sides[peer].held)
		s.endedBy = record.Timeout
		s.refuse(l, record.HeaderTimeout, record.Header)
	case closing:
		s.finish(l)
	case dialling:
		s.dialTimeout(l)
	case probing, diagnosing:
		s.diagnosisTimeout(l)
	case relaying:
		s.armRelay(l)
	}
}

// rejectHeader ends a session because its header is invalid.
func (s *session) rejectHeader(l *loop, b []byte, err error) {
	outcome := record.Malformed
	if e, ok := err.(*proxyproto.Error); ok {
		outcome = HeaderOutcome(e.Reason)
		s.setReason(e.Reason.String())
		s.ensureFailure().offset = e.Offset
	}
	s.setSample(b)
	s.endedBy = record.Peer
	s.refuse(l, outcome, record.Header)
}

// headerEOF handles the end of the stream before the header is complete.
func (s *session) headerEOF(l *loop) {
	held := s.sides[peer].held
	s.endedBy = record.Peer
	if len(held) == 0 && s.headers == 0 {
		s.end(l, record.Empty, record.Header)
		return
	}
	s.setPartial(held)
	s.refuse(l, record.Truncated, record.Header)
}

// headerReadFailed handles a read error before the header is complete. Many health checks connect
// and reset.
func (s *session) headerReadFailed(l *loop, errno syscall.Errno) {
	s.setReason(errno.Error())
	var outcome record.Outcome
	outcome, s.endedBy = brokenOutcome(errno, record.Peer)
	if outcome != record.Reset {
		s.refuse(l, outcome, record.Header)
		return
	}
	if s.endedBy = record.Peer; len(s.sides[peer].held) == 0 && s.headers == 0 {
		outcome = record.Empty
	}
	s.end(l, outcome, record.Header)
}

// applyHeader acts on a complete header. payload is what followed it.
func (s *session) applyHeader(l *loop, h *proxyproto.Header, payload []byte) {
	f := s.listener.forward
	switch h.Result {
	case proxyproto.Proxy:
		s.client = pack(kernel.Unmap(h.Source))
		s.destination = pack(kernel.Unmap(h.Destination))
		s.option = optionFor(f.Transparent)
		if !s.admitClient(l, record.Dial) {
			return
		}
	case proxyproto.Local:
		if f.CloseLocal {
			s.closePeer(l, record.OK, record.Header)
			return
		}
		s.client, s.destination = s.peer, pack(s.sentTo(l))
	default:
		if f.RejectUnknown {
			s.refuse(l, record.NoAddress, record.Dial)
			return
		}
		if !s.admitUnnamed(l) {
			return
		}
		s.client, s.destination = s.peer, pack(s.sentTo(l))
	}
	s.dial(l, payload)
}

// closePeer sends a FIN and waits for the peer's. Closing with unread bytes would send a RST
// instead. If it cannot be sent, the close after closeTimeout sends it.
func (s *session) closePeer(l *loop, outcome record.Outcome, phase record.Phase) {
	s.state, s.outcome, s.endedBy, s.endPhase = closing, outcome, record.Gateway, phase
	s.arm(l, closeTimeout)
	l.kernel.Shutdown(int(s.sides[peer].fd))
	s.discardInput(l)
}

// discardInput reads and discards until the peer's FIN.
func (s *session) discardInput(l *loop) {
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
	l.requeue(s)
}

// dial starts the dial phase: the backends are tried in turn.
func (s *session) dial(l *loop, payload []byte) {
	s.state = dialling
	if s.headerAt == 0 {
		s.headerAt = s.acceptedAt
	}
	s.dialNext(l, payload)
}

// dialNext dials the next possible backend. payload is what follows the header, as far as it is not
// held yet.
func (s *session) dialNext(l *loop, payload []byte) {
	for {
		to, behind, ok := l.nextTarget(s)
		if !ok {
			s.dialFailed(l)
			return
		}
		if started, errno := s.startDial(l, to); !started {
			if lacksResources(errno) && s.waitForResources(l, payload) {
				return
			}
			s.attemptFailed(l, errno)
			continue
		}
		s.armDial(l, behind)
		if !s.isPromised(l) {
			l.hold(&s.sides[peer], payload)
			return
		}
		rest, connected, failed := s.sendEarly(l, payload)
		if failed != 0 {
			s.attemptFailed(l, failed)
			continue
		}
		l.hold(&s.sides[peer], rest)
		if connected {
			s.connected(l)
		}
		return
	}
}

// dialEvent handles an event during the dial phase.
func (s *session) dialEvent(l *loop, i int, events uint32) {
	if i == peer {
		if events&unix.EPOLLERR != 0 { // EPOLLHUP alone is a unix peer that closed: forward its bytes
			s.endedBy = record.Client
			s.end(l, record.Reset, record.Dial)
		}
		return
	}
	if events&unix.EPOLLERR != 0 {
		errno := l.kernel.SocketError(int(s.sides[backend].fd))
		s.dialError(errno)
		s.attemptFailed(l, errno)
		s.dialNext(l, nil)
		return
	}
	if events&unix.EPOLLOUT != 0 { // with EPOLLHUP: a unix backend has sent something and closed
		if !s.isPromisedFinally(l) {
			s.notPromised(l)
			s.dialNext(l, nil)
			return
		}
		s.connected(l)
	}
}

// dialTimeout gives up on a backend and tries the next. Without a socket, it retries the one for
// which no descriptor was free.
func (s *session) dialTimeout(l *loop) {
	if s.sides[backend].fd >= 0 {
		s.dialError(unix.ETIMEDOUT)
		s.attemptFailed(l, unix.ETIMEDOUT)
	}
	s.dialNext(l, nil)
}

// waitForResources postpones a dial that lacks a descriptor or memory, until the connect timeout,
// and reports whether it did. Meanwhile the loop accepts nothing, because new connections would
// take the descriptors that existing ones need. Sessions that hold each other's descriptors end one
// by one, see resourceTimeout.
func (s *session) waitForResources(l *loop, payload []byte) bool {
	timeout := int64(s.listener.forward.ConnectTimeout)
	if timeout > 0 && l.now-s.headerAt >= timeout || l.now-max(s.headerAt, l.lastRelease) >= int64(resourceTimeout) {
		return false
	}
	l.hold(&s.sides[peer], payload)
	l.pauseAccept(s.listener, errors.New("socket: "+s.failureDetails().reason))
	s.arm(l, acceptPause)
	return true
}

// dialFailed ends a session that found no backend. If the last attempt was a transparent connect
// that timed out, the peer is reset, and test connections find out why, see diagnose.go.
func (s *session) dialFailed(l *loop) {
	if s.outcome == record.OK {
		var reason string
		s.outcome, s.endedBy, reason = s.listener.route.NoTarget(s.caller())
		s.setReason(reason)
	}
	if s.outcome == record.ConnectTimeout && s.connectsAsClient() {
		s.diagnose(l)
		return
	}
	s.refuse(l, s.outcome, record.Dial)
}

// connected starts the relay phase: the backend is connected.
func (s *session) connected(l *loop) {
	s.state = relaying
	s.listener.route.Backends.Succeeded(s.backend, l.now)
	s.connectedAt = l.kernel.Now()
	s.tally.ObserveConnect(time.Duration(s.connectedAt - s.headerAt))
	s.lastActive = l.now
	s.outcome, s.endedBy, s.failure = record.OK, record.Gateway, nil
	s.confirmPromise(l)
	s.armRelay(l)
	s.relay(l)
}

// relay moves the available bytes in both directions.
func (s *session) relay(l *loop) {
	for from := range s.sides {
		if broken, errno := s.pump(l, from); broken >= 0 {
			s.abort(l, broken, errno)
			return
		}
		s.noteEOF(from)
	}
	if s.done(peer) && s.done(backend) {
		s.endedBy = party(int(s.firstEOF) - 1)
		s.end(l, record.OK, record.Relay)
	}
}

// noteEOF records which side finished first.
func (s *session) noteEOF(i int) {
	if s.sides[i].eof && s.firstEOF == 0 {
		s.firstEOF = uint8(i) + 1
	}
}

// checkError looks for the error behind an EPOLLERR that neither a read nor a write has returned,
// because both directions wait for the other side.
func (s *session) checkError(l *loop, i int) {
	if errno := l.kernel.SocketError(int(s.sides[i].fd)); errno != 0 {
		s.abort(l, i, errno)
	}
}

// abort ends a session after an error on one side. It forwards what that side sent before, then
// resets the other.
func (s *session) abort(l *loop, who int, errno syscall.Errno) {
	s.forwardRemaining(l, who)
	s.setReason(errno.Error())
	var outcome record.Outcome
	outcome, s.endedBy = brokenOutcome(errno, party(who))
	if errno == unix.ETIMEDOUT && who == backend && s.isUnread(l) {
		outcome = record.TOAUnread
	}
	s.refuse(l, outcome, s.phase())
}

func party(side int) record.Party {
	if side == backend {
		return record.Backend
	}
	return record.Client
}

// armRelay sets the deadline of the relay phase: the time to set the keepalive options, to check whether
// the backend reads a client's option, or the idle timeout. It acts on those that are due.
func (s *session) armRelay(l *loop) {
	f := s.listener.forward
	next := time.Duration(0)
	if f.IdleTimeout > 0 {
		if next = time.Duration(s.lastActive-l.now) + f.IdleTimeout; next <= 0 {
			s.endedBy = record.Timeout
			s.refuse(l, record.IdleTimeout, record.Relay)
			return
		}
	}
	if !s.keepaliveSet {
		left := time.Duration(s.connectedAt-l.now) + f.Keepalive
		switch {
		case f.Keepalive <= 0 || s.backend.IsUnix():
			s.keepaliveSet = true
		case left <= 0:
			s.keepaliveSet = true
			s.setBackendOptions(l, f.options.keepalive)
		case next == 0 || left < next:
			next = left
		}
	}
	if left := s.awaitRead(l); left > 0 && (next == 0 || left < next) {
		next = left
	}
	s.arm(l, next)
}

// cut ends a session at the end of the drain, in any state.
func (s *session) cut(l *loop) {
	s.endedBy = record.Gateway
	s.refuse(l, record.Drained, s.phase())
}

func (s *session) resetByOperator(l *loop) {
	s.endedBy = record.Gateway
	s.setReason("cut by the operator")
	s.refuse(l, record.Reset, s.phase())
}

func (s *session) phase() record.Phase {
	switch s.state {
	case reading, closing:
		return record.Header
	case dialling, probing, diagnosing:
		return record.Dial
	}
	return record.Relay
}

// arm sets the session's deadline to d from now; 0 clears it.
func (s *session) arm(l *loop, d time.Duration) {
	if d <= 0 {
		l.wheel.disarm(&s.timer)
		return
	}
	l.wheel.arm(&s.timer, l.now+int64(d))
}
