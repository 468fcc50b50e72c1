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
	to, errno := l.kernel.LocalAddr(int(s.sides[peer].fd))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return to
}
