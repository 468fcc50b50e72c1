package engine

import "unproxy/gateway/record"

// accepted is the trust phase: what becomes of a connection follows from who
// the peer is, before a byte of it is read. Whoever could connect to a unix
// socket was admitted by the socket's mode.
func (s *session) checkTrust(l *loop) {
	f, from := s.listener.forward, s.peer.unpack().Addr()
	if f.Health != nil && from.IsValid() && f.Health.Contains(from) {
		if s.watchPeer(l) {
			s.closePeer(l, record.Empty, record.Trust)
		}
		return
	}
	trusted := !from.IsValid() || f.trusts(from, l.index)
	switch {
	case !trusted && !f.PassUntrusted:
		s.refuse(l, record.Untrusted, record.Trust)
	case !f.rates.Allow(from, l.now):
		s.setReason("peer exceeds its connection rate")
		s.refuse(l, record.Limit, record.Trust)
	case trusted:
		s.state = reading
		l.addWaiting(s)
		s.arm(l, f.HeaderTimeout)
		s.watchPeer(l)
	default:
		s.client, s.destination, s.spoof = s.peer, pack(s.sentTo(l)), f.Transparent
		if !s.admitClient(f) {
			s.refuse(l, record.Limit, record.Trust)
			return
		}
		if s.watchPeer(l) {
			s.dial(l, nil)
		}
	}
}

// register has the loop watch the peer's socket.
func (s *session) watchPeer(l *loop) bool {
	if l.watchSide(s, peer, interest) {
		return true
	}
	s.setReason("epoll_ctl failed")
	s.refuse(l, record.Internal, record.Accept)
	return false
}

// admit counts the connection against its client's limit.
func (s *session) admitClient(f *forwardState) bool {
	if f.MaxConnectionsPerClient <= 0 {
		return true
	}
	s.clientCounted = f.clients.Enter(s.client.unpack().Addr(), f.MaxConnectionsPerClient)
	if !s.clientCounted {
		s.setReason("client has reached its connection limit")
	}
	return s.clientCounted
}
