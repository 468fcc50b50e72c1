package engine

import "net/netip"

// sentTo returns where the peer's connection was sent to, for one of which no
// header names a destination. It is known of a TProxy listener alone: that the
// others are connected to by their own address says nothing of where a client
// wanted to go.
func (s *session) sentTo(l *loop) netip.AddrPort {
	if !s.listener.forward.TProxy {
		return netip.AddrPort{}
	}
	to, errno := l.kernel.LocalAddr(s.sides[peer].fd)
	if errno != 0 {
		return netip.AddrPort{}
	}
	return to
}

// forbidden returns why the backend "header" may not lead to the session's
// destination; "" if it may.
func (s *session) forbidden() string {
	f, to := s.listener.forward, s.destination
	switch {
	case f.AllowDestination == nil || !f.AllowDestination.Contains(to.Addr()):
		return "not in --allow-destination"
	case to.Addr().IsUnspecified() || to.Port() == 0:
		return "not an address to connect to" // connect(2) takes 0.0.0.0 for this host
	case s.listener.takes(to):
		return "leads back to this listener"
	}
	return ""
}

// takes reports whether a connection to a arrives at the listener by itself,
// without a packet filter.
func (ln *listener) takes(a netip.AddrPort) bool {
	at := ln.bound.Addr
	if !at.IsValid() || a.Port() != at.Port() {
		return false
	}
	if !at.Addr().IsUnspecified() {
		return a.Addr() == at.Addr()
	}
	own := ln.forward.Source.Own
	return (ln.DualStack || a.Addr().Is4() == at.Addr().Is4()) &&
		(a.Addr().IsLoopback() || own != nil && own.Contains(a.Addr()))
}
