package engine

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"unproxy/gateway/kernel"
)

// SelfConnectTries is the number of attempts at a connect that ends at its own socket. The kernel
// chooses another port each time, unless very few are free.
const SelfConnectTries = 4

// Ports is a set of ports. Implementations must be safe for concurrent use and must not allocate.
type Ports interface {
	Contains(port uint16) bool
}

// connect opens a socket and starts to connect it to s.backend, from source if that is valid. again
// reports whether another source port may succeed. A socket that is connected to itself is closed
// and replaced. If all attempts end like that, nothing listens on the backend's port, and the error
// is ECONNREFUSED.
func (s *session) connect(l *loop, source netip.AddrPort) (errno syscall.Errno, again bool) {
	for range SelfConnectTries {
		errno, again = s.connectOnce(l, source)
		if errno != 0 || !s.isSelfConnected(l, source) {
			return errno, again
		}
		// A RST, because a FIN would leave TIME_WAIT, which keeps the backend from its port.
		s.resetSide(l, backend)
		s.sides[backend] = side{fd: -1}
	}
	return unix.ECONNREFUSED, false
}

// isSelfConnected reports whether the backend's socket is connected to itself. That can happen only
// if the kernel chooses the source port at connect(2) from a range that includes the backend's port.
// In all other cases the system call is saved.
func (s *session) isSelfConnected(l *loop, source netip.AddrPort) bool {
	ports := l.engine.config.Ephemeral
	if ports == nil || s.backend.IsUnix() || source.Port() != 0 || !ports.Contains(s.backend.Addr.Port()) {
		return false
	}
	local, errno := l.kernel.LocalAddr(int(s.sides[backend].fd))
	return errno == 0 && kernel.IsSelf(local, s.backend.Addr)
}
