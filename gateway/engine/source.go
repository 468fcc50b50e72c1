package engine

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/source"
	"unproxy/transparent"
)

// isTransparent reports whether the backend sees the client's address or its stand-in.
func (s *session) isTransparent() bool { return s.spoofs() && s.source.isValid() }

// connectsAsClient reports whether the backend's socket is bound to the client's address or its
// stand-in.
func (s *session) connectsAsClient() bool { return s.isTransparent() && s.option == noOption }

// connectFrom starts to connect to s.backend. A connection whose client the backend must see comes
// from s.source, unless an option carries the client. Any other one comes from the next of the
// forward's own addresses that has a free port, except for one without a client if the forward has
// TOA, see [forward.Forward.SourceAddresses]. That address becomes s.source, unless an option carries
// the client. Without one the kernel chooses. again means that another source port may succeed, for
// the forward's own addresses that all of them lack a port.
func (s *session) connectFrom(l *loop) (errno syscall.Errno, again bool) {
	pool := l.sources[s.listener.forward.index]
	is4 := s.backend.Addr.Addr().Is4()
	fromOwn := s.option > noOption || s.option == notSeen && !s.listener.forward.TOA.On
	if !fromOwn || s.backend.IsUnix() || !pool.Serves(is4) {
		return s.connect(l, s.bound())
	}
	lacksPort := false
	turn := pool.Begin(is4, l.now)
	for a, ok := turn.Next(); ok; a, ok = turn.Next() {
		from := netip.AddrPortFrom(a, 0)
		if !s.spoofs() {
			s.source = pack(from)
		}
		errno, again = s.connect(l, from)
		if errno != unix.EADDRNOTAVAIL && errno != unix.EADDRINUSE {
			turn.Succeeded()
			return errno, again
		}
		turn.Failed()
		lacksPort = lacksPort || again
	}
	return errno, lacksPort
}

// bind binds a backend's socket to the client's address or one of the forward's own. again reports
// whether another source port may succeed.
func (s *session) bind(l *loop, fd int, from netip.AddrPort) (errno syscall.Errno, again bool) {
	if !s.connectsAsClient() {
		return source.Bind(l.kernel, fd, from.Addr(), s.listener.forward.Source.Own), false
	}
	errno = transparent.Bind(l.kernel, fd, from)
	return errno, transparent.RetryBind(errno)
}
