package engine

import (
	"fmt"
	"net/netip"
)

// Redirect is what the host's packet filter hands to a TProxy listener: the TCP
// connections to some ports of some addresses.
type Redirect struct {
	// Prefix holds the addresses, masked and never 4-in-6. The zero Prefix
	// stands for the host's own addresses, of both families.
	Prefix netip.Prefix
	// Low and High are the first and the last port, at least 1.
	Low, High uint16
}

// AllPorts reports whether r is of every port that there is.
func (r Redirect) AllPorts() bool { return r.Low <= 1 && r.High == 65535 }

// String returns r as it is written on the command line.
func (r Redirect) String() string {
	ports := fmt.Sprintf(":%d-%d", r.Low, r.High)
	switch {
	case r.Low == r.High:
		ports = fmt.Sprintf(":%d", r.Low)
	case r.AllPorts() && r.Prefix.IsValid():
		ports = ""
	}
	switch {
	case !r.Prefix.IsValid():
		return ports
	case r.Prefix.Addr().Is6():
		return "[" + r.Prefix.String() + "]" + ports
	}
	return r.Prefix.String() + ports
}

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
