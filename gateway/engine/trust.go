package engine

import "unproxy/gateway/record"

// checkTrust is the trust phase. It decides what happens to a connection by the peer's address,
// before a byte is read. On a unix socket every peer is trusted: the socket's mode decided who may
// connect.
func (s *session) checkTrust(l *loop) {
	f, from := s.listener.forward, s.peer.unpack().Addr()
	if f.Health != nil && from.IsValid() && f.Health.Contains(from) {
		if s.watchPeer(l) {
			l.removeWaiting()
			s.closePeer(l, record.Empty, record.Trust)
		}
		return
	}
	direct := from.IsValid() && f.IsDirect(from)
	trusted := !direct && (!from.IsValid() || f.trusts(from, l.index))
	switch {
	case !trusted && !direct && !f.PassUntrusted:
		s.refuse(l, record.Untrusted, record.Trust)
	case !f.rates.Allow(from, l.now):
		s.setReason("peer exceeds the accept-rate limit")
		s.refuse(l, record.Limit, record.Trust)
	case trusted:
		l.addWaiting(s)
		s.arm(l, f.HeaderTimeout)
		if s.watchPeer(l) && l.waiting.isOver() {
			s.readWaiting(l)
			l.makeRoom(minSilence)
		}
	default:
		s.client, s.destination, s.option = s.peer, pack(s.sentTo(l)), optionFor(f.Transparent)
		if !s.admitClient(l, record.Trust) {
			return
		}
		if s.watchPeer(l) {
			l.removeWaiting()
			s.dial(l, nil)
		}
	}
}

// watchPeer registers the peer's socket. If that fails, it ends the session.
func (s *session) watchPeer(l *loop) bool {
	if !s.peer.isValid() {
		keepUrgentInLine(l.kernel, int(s.sides[peer].fd))
	}
	errno := l.watchSide(s, peer, interest)
	if errno == 0 {
		return true
	}
	s.setReason("epoll_ctl: " + errno.Error())
	s.refuse(l, record.Internal, record.Accept)
	return false
}

// admitClient decides whether the client may be served, and counts the connection against its
// limits. If not, it refuses the connection.
func (s *session) admitClient(l *loop, phase record.Phase) bool {
	f, client := s.listener.forward, s.client.unpack().Addr()
	if outcome, reason := f.policy.Check(client, l.index, l.now); outcome != record.OK {
		s.setReason(reason)
		s.refuse(l, outcome, phase)
		return false
	}
	if f.MaxConnectionsPerClient <= 0 {
		return true
	}
	if s.clientCounted = f.clients.Enter(client, f.MaxConnectionsPerClient); !s.clientCounted {
		s.setReason("client has reached its connection limit")
		s.refuse(l, record.Limit, phase)
	}
	return s.clientCounted
}

// admitUnnamed is admitClient for a header that names no client.
func (s *session) admitUnnamed(l *loop) bool {
	outcome, reason := s.listener.forward.policy.CheckUnnamed()
	if outcome == record.OK {
		return true
	}
	s.setReason(reason)
	s.refuse(l, outcome, record.Dial)
	return false
}
