package datagram

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// isTransparent reports whether the backend sees the client's address or its stand-in.
func (f *flow) isTransparent() bool { return f.spoof && f.source.IsValid() }

// dialFrom connects the socket of a flow: in transparent mode from f.source, else from the
// next of the forward's own addresses that has a free port, to which it sets f.source.
// Without one the kernel chooses. again is that of dial. If no address serves, the error is
// that of one without a free port, if there is one.
func (w *worker) dialFrom(f *flow) (errno syscall.Errno, again bool) {
	pool, is4 := f.list.sources, f.backend.Addr.Addr().Is4()
	if f.spoof || !pool.Serves(is4) {
		return w.dial(f)
	}
	var lacksPort syscall.Errno
	turn := pool.Begin(is4, w.host.Now())
	for a, ok := turn.Next(); ok; a, ok = turn.Next() {
		f.source = netip.AddrPortFrom(a, 0)
		errno, again = w.dial(f)
		switch {
		case f.lacksPort(errno):
			lacksPort = errno
		case errno != unix.EADDRNOTAVAIL:
			turn.Succeeded()
			return errno, again
		}
		turn.Failed()
	}
	if lacksPort != 0 {
		errno = lacksPort
	}
	return errno, false
}

// sharesSource reports whether a flow of another process comes from an address that a new
// one of l could come from.
func (s *flowState) sharesSource(l *lruList) bool {
	switch {
	case s.spoof:
		return true
	case s.source.IsValid():
		return l.sources.Contains(s.source.Addr())
	}
	return !l.sources.Serves(s.backend.Addr().Is4())
}
