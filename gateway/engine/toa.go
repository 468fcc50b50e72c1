package engine

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
	"unproxy/transparent/toa"
)

const (
	// unreadTimeout is the TCP_USER_TIMEOUT of a backend's socket until the backend has acknowledged a
	// byte. A host that promised to read the client's address drops packets without it: an option that is
	// stripped after the handshake looks like silence. It allows for four retransmissions.
	unreadTimeout = 3 * time.Second
	// readPoll is how often a session checks whether that has happened.
	readPoll = time.Second
)

// clientOption says whether the backend must see a session's client, and how far the TCP option with it
// got, see package toa. Then each attempt to connect starts with noOption.
type clientOption uint8

const (
	notSeen    clientOption = iota // the backend need not see the client
	noOption                       // it must, and none is sent
	unattached                     // no program on this host takes the client
	offered                        // the backend's host has not promised
	promised                       // the backend has acknowledged nothing yet
	delivered                      // it has, or the format has no promise
)

// optionFor returns the first state of a session whose client the backend must see, or need not.
func optionFor(spoof bool) clientOption {
	if spoof {
		return noOption
	}
	return notSeen
}

// spoofs reports whether the backend must see the client's address.
func (s *session) spoofs() bool { return s.option != notSeen }

// bound returns the part of s.source that the backend's socket is bound to: all, unless the client's address
// is sent in an option.
func (s *session) bound() netip.AddrPort {
	if s.option > noOption {
		return netip.AddrPort{}
	}
	return s.source.unpack()
}

// offerClient gives the client to the programs on this host, which send the offer with the SYN. It
// withholds the ACK of the SYN-ACK (tcp_rcv_synsent_state_process): without a promise, the backend's
// program sees nothing of the connection.
func (s *session) offerClient(l *loop, fd int) syscall.Errno {
	format := s.listener.forward.TOA.Format
	if format == toa.Negotiated {
		if errno := l.kernel.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0); errno != 0 {
			return errno
		}
	}
	errno := toa.Set(l.kernel, fd, toa.Record{Client: s.source.unpack(), Format: format})
	switch {
	case errno == unix.ENOPROTOOPT:
		s.option = unattached
	case format != toa.Negotiated:
		s.option = delivered
	}
	return errno
}

// isPromised reports whether payload may be sent: the connection carries no client, or the backend's host
// has promised to read it. While the connection is not established, it returns false.
func (s *session) isPromised(l *loop) bool {
	if s.option != offered {
		return true
	}
	state, errno := toa.Progress(l.kernel, int(s.sides[backend].fd))
	if errno != 0 || !state.Promised {
		return false
	}
	s.option = promised
	if own := s.listener.forward.UserTimeout; own == 0 || own > unreadTimeout {
		s.setUserTimeout(l, unreadTimeout)
	}
	return true
}

// isPromisedFinally is isPromised for a connection that epoll has reported as established. The kernel
// sets the state before it reads the promise (tcp_finish_connect), both with the socket locked: setting
// an option waits for the lock.
func (s *session) isPromisedFinally(l *loop) bool {
	if s.isPromised(l) {
		return true
	}
	l.kernel.SetOption(int(s.sides[backend].fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
	return s.isPromised(l)
}

// notPromised gives up on a backend whose host has not promised to read the client's address, before the
// last ACK of the handshake.
func (s *session) notPromised(l *loop) {
	_, errno := toa.Progress(l.kernel, int(s.sides[backend].fd))
	s.resetSide(l, backend)
	s.endedBy = record.Gateway
	switch errno {
	case 0:
		s.outcome = record.TOAUnpromised
		s.setReason("the SYN-ACK has no promise")
		s.listener.route.Backends.Unpromised(s.backend, l.now)
	case unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EPROTO, unix.EPERM: // detached since the SYN
		s.outcome = record.TOAUnattached
		s.setReason("ask for the promise: " + errno.Error())
	default:
		s.unprepared("ask for the promise", errno)
	}
	s.attemptFailed(l, 0)
}

// confirmPromise sends the ACK of the SYN-ACK, which carries the client, unless payload is about to.
func (s *session) confirmPromise(l *loop) {
	if s.option == promised && len(s.sides[peer].held) == 0 && s.sides[peer].bytes == 0 {
		l.kernel.SetOption(int(s.sides[backend].fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	}
}

// awaitRead checks whether the backend has acknowledged a byte, once it is time, and returns the time to
// the next check; 0 if there is none.
func (s *session) awaitRead(l *loop) time.Duration {
	if s.option != promised {
		return 0
	}
	if left := time.Duration(s.connectedAt-l.now) + readPoll; left > 0 {
		return left
	}
	nothingSent := s.sides[peer].bytes == 0 && s.sides[backend].bytes == 0
	if nothingSent || s.isUnread(l) {
		return readPoll
	}
	s.option = delivered
	s.setUserTimeout(l, s.listener.forward.UserTimeout)
	return 0
}

// isUnread reports whether the backend has promised to read the client's address, and has acknowledged
// nothing since.
func (s *session) isUnread(l *loop) bool {
	if s.option != promised || s.sides[backend].bytes > 0 {
		return false
	}
	state, errno := toa.Progress(l.kernel, int(s.sides[backend].fd))
	return errno == 0 && !state.Acknowledged
}

// setUserTimeout sets TCP_USER_TIMEOUT; 0 is the system's. Errors are ignored, as in setBackendOptions.
func (s *session) setUserTimeout(l *loop, d time.Duration) {
	l.kernel.SetOption(int(s.sides[backend].fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}
