package engine

import "unproxy/gateway/record"

// accepted is the trust phase: what becomes of a connection follows from who
// the peer is, before a byte of it is read. Whoever could connect to a unix
// socket was admitted by the socket's mode.
func (s *session) accepted(l *loop) {
	f, from := s.listener.forward, s.peer.unpack().Addr()
	if f.Health != nil && from.IsValid() && f.Health.Contains(from) {
		if s.register(l) {
			s.close(l, record.Empty, record.Trust)
		}
		return
	}
	trusted := !from.IsValid() || f.trusts(from, l.index)
	switch {
	case !trusted && !f.PassUntrusted:
		s.refuse(l, record.Untrusted, record.Trust)
	case !f.rates.Allow(from, l.now):
		s.because("the peer connects more often than --accept-rate allows")
		s.refuse(l, record.Limit, record.Trust)
	case trusted:
		s.state = reading
		l.await(s)
		s.arm(l, f.HeaderTimeout)
		s.register(l)
	default:
		s.client, s.destination, s.spoof = s.peer, pack(s.sentTo(l)), f.Transparent
		if !s.admit(f) {
			s.refuse(l, record.Limit, record.Trust)
			return
		}
		if s.register(l) {
			s.dial(l, nil)
		}
	}
}

// register has the loop watch the peer's socket.
func (s *session) register(l *loop) bool {
	if l.watch(s, peer, interest) {
		return true
	}
	s.because("epoll_ctl failed")
	s.refuse(l, record.Internal, record.Accept)
	return false
}

// admit counts the connection against its client's limit.
func (s *session) admit(f *forwardState) bool {
	if f.MaxConnectionsPerClient <= 0 {
		return true
	}
	s.counted = f.clients.Enter(s.client.unpack().Addr(), f.MaxConnectionsPerClient)
	if !s.counted {
		s.because("the client has as many connections as it may")
	}
	return s.counted
}
