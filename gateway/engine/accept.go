package engine

import (
	"math"
	"net/netip"
	"os"
	"time"

	"unproxy/gateway/forward"

	"golang.org/x/sys/unix"
)

const (
	// maxAccepts is the number of connections accepted per event. Listeners are level-triggered, so
	// the remaining ones raise another event.
	maxAccepts = 64
	// acceptPause is how long accepting pauses when the system is out of descriptors or memory.
	// Existing sessions continue, and new connections wait in the kernel's queue.
	acceptPause = 100 * time.Millisecond
	// noticeInterval is the shortest time between two reports of a pause.
	noticeInterval = int64(5 * time.Second)
)

// listener is a listening socket. One loop accepts from it.
type listener struct {
	*forward.Listener
	forward  *forwardState
	route    *Route
	loop     *loop
	index    int // in loop.listeners
	fd       int // -1 once closed
	bound    forward.Endpoint
	held     bool // another process has the socket open, too
	watching bool // registered with epoll
	failures int  // errors of accept4(2) in a row, see acceptFailed
	failing  bool // accept_failed was reported, accept_recovered was not
}

// accept accepts connections from a listener's queue.
func (l *loop) accept(ln *listener) {
	for range maxAccepts {
		if ln.fd < 0 || !l.engine.hasCapacity(ln) || !l.mayAccept(ln) {
			return
		}
		fd, peer, errno := l.kernel.Accept(ln.fd)
		if errno != 0 {
			l.acceptFailed(ln, errno)
			return
		}
		l.acceptWorks(ln)
		l.assign(acceptedConn{ln, fd, peer})
	}
}

// assign passes a connection to the loop with the fewest sessions among those that have room for one
// that waits for its header. It keeps the connection if it has at most 1/16 more than that: passing
// it costs two context switches, and with long sessions the loops even out anyway.
func (l *loop) assign(a acceptedConn) {
	to, least := l, l.active.Load()
	least -= least >> 4
	if !l.waiting.hasRoom() {
		least = math.MaxInt64
	}
	for _, other := range l.engine.loops {
		if n := other.active.Load(); n < least && other.waiting.hasRoom() {
			to, least = other, n
		}
	}
	to.waiting.count.Add(1)
	l.tallies[a.listener.forward.index].Accepted++
	l.engine.connectionOpened(a.listener.forward)
	to.active.Add(1)
	if to == l {
		l.newSession(a).checkTrust(l)
		return
	}
	to.post(a)
}

// acceptFailed handles an error of accept4(2).
func (l *loop) acceptFailed(ln *listener, errno unix.Errno) {
	switch errno {
	case unix.EAGAIN:
		l.acceptWorks(ln)
		l.reportAcceptResumed(ln)
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		l.pauseAccept(ln, os.NewSyscallError("accept4", errno))
	case unix.EINVAL, unix.EBADF, unix.ENOTSOCK:
		l.listenerFailed(ln, os.NewSyscallError("accept4", errno))
	default:
		// Any other error is about one connection: ECONNABORTED, EINTR, or an error that was pending on
		// the new socket (accept(2)). The listener is level-triggered, so the rest of the queue raises
		// another event. An error that is none of these, as of a seccomp filter, comes again at once.
		if ln.failures++; ln.failures >= maxAccepts {
			ln.failures = 0
			l.pauseAccept(ln, os.NewSyscallError("accept4", errno))
		}
	}
}

// listenerFailed handles an error which says that ln does not listen. The error may be wrong, so ln
// stays open and is tried again after each pause. The loop's other listeners go on. The second error
// in a row is reported: then clients are refused, as after "ss -K" of the listener.
func (l *loop) listenerFailed(ln *listener, err error) {
	l.unwatchListener(ln)
	l.wheel.arm(&l.pauseTimer, l.now+int64(acceptPause))
	if ln.failures++; ln.failures < 2 || ln.failing {
		return
	}
	ln.failing = true
	l.engine.notice(Notice{
		Event: "accept_failed", Forward: ln.Name, Of: ln.forward.Forward, Err: err,
		Detail: "the listener is tried again every " + acceptPause.String(),
	})
}

// acceptWorks notes that accept4(2) returned a connection, or that the queue is empty.
func (l *loop) acceptWorks(ln *listener) {
	ln.failures = 0
	if ln.failing {
		ln.failing = false
		l.engine.notice(Notice{Event: "accept_recovered", Forward: ln.Name, Of: ln.forward.Forward})
	}
}

// pauseAccept pauses accepting on all listeners of the loop, because a call failed for lack of
// descriptors or memory. A loop without open listeners does nothing and reports nothing: it would
// not notice the end of the shortage.
func (l *loop) pauseAccept(ln *listener, err error) {
	open := false
	for _, other := range l.listeners {
		open = open || other.fd >= 0
		l.unwatchListener(other)
	}
	if !open {
		return
	}
	l.paused = true
	l.wheel.arm(&l.pauseTimer, l.now+int64(acceptPause))
	if l.shortage || l.lastNotice != 0 && l.now-l.lastNotice < noticeInterval {
		return
	}
	l.shortage, l.lastNotice = true, l.now
	l.engine.notice(Notice{
		Event: "accept_paused", Forward: ln.Name, Err: err,
		Detail: "new connections wait in the kernel's queue; existing connections continue",
	})
}

// retryAccept ends a pause. It tries all listeners, because an empty queue raises no event that
// would end the shortage, or show that a listener works again.
func (l *loop) retryAccept() {
	l.paused = false
	l.watchListeners()
	for _, ln := range l.listeners {
		if !l.paused && ln.watching {
			l.accept(ln)
		}
	}
}

// reportAcceptResumed reports the end of a shortage. It is called when a queue has been emptied.
func (l *loop) reportAcceptResumed(ln *listener) {
	if l.shortage {
		l.shortage = false
		l.engine.notice(Notice{Event: "accept_resumed", Forward: ln.Name})
	}
}

// watchListeners watches the loop's listeners again, unless accepting is paused.
func (l *loop) watchListeners() {
	if l.paused {
		return
	}
	for _, ln := range l.listeners {
		l.watchListener(ln)
	}
}

// watchListener registers a listener with epoll.
func (l *loop) watchListener(ln *listener) {
	if ln.fd < 0 || ln.watching {
		return
	}
	errno := l.kernel.Watch(l.poller, ln.fd, unix.EPOLLIN, uint64(newTag(tagListener, uint64(ln.index))))
	if errno != 0 {
		l.pauseAccept(ln, os.NewSyscallError("epoll_ctl", errno)) // to try again
		return
	}
	ln.watching = true
}

// unwatchListener removes a listener from epoll, so that waiting connections raise no events while
// the loop does not accept.
func (l *loop) unwatchListener(ln *listener) {
	if ln.fd < 0 || !ln.watching {
		return
	}
	ln.watching = false
	l.kernel.Unwatch(l.poller, ln.fd)
}

// isConnectionError reports whether an error of accept4(2) concerns only the connection that it
// removed from the queue, or is an interruption (accept(2), "Error handling").
func isConnectionError(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNABORTED, unix.EINTR, unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
		unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENONET:
		return true
	}
	return false
}

// closeListener closes a listener. It removes it from epoll explicitly, because closing a
// descriptor does not do that while another process has the socket open (epoll(7), "Will closing a
// file descriptor cause it to be removed").
func (l *loop) closeListener(ln *listener) {
	if ln.fd < 0 {
		return
	}
	l.unwatchListener(ln)
	l.kernel.Close(ln.fd)
	ln.fd = -1
	if !ln.held {
		removeSocket(ln.bound)
	}
}

// sentTo returns the address that the peer connected to. It is the destination of a connection
// whose header names none, on a TProxy listener only: the address of any other listener says
// nothing about where the client wanted to go.
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
