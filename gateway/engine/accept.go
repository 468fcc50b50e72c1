package engine

import (
	"net/netip"
	"os"
	"time"

	"unproxy/gateway/forward"

	"golang.org/x/sys/unix"
)

const (
	// acceptBatch is how many connections are accepted for one event; a
	// listener is level-triggered, so that the rest raises another.
	maxAccepts = 64
	// acceptPause is how long accepting rests when the system is out of
	// descriptors or memory. Sessions go on meanwhile, and newcomers wait in
	// the kernel's queue.
	acceptPause = 100 * time.Millisecond
	// noticeEvery is how often at most an operator is told of it.
	noticeInterval = int64(5 * time.Second)
)

// listener is a listening socket and the loop that accepts from it.
type listener struct {
	*forward.Listener
	forward  *forwardState
	route    *Route
	loop     *loop
	index    int // among the loop's listeners
	fd       int // -1 once closed
	bound    forward.Endpoint
	held     bool // somebody else has the socket open, too
	watching bool
}

// accept takes what waits in a listener's queue.
func (l *loop) accept(ln *listener) {
	for range maxAccepts {
		if ln.fd < 0 || !l.engine.hasCapacity(ln) {
			return
		}
		fd, peer, errno := l.kernel.Accept(ln.fd)
		if errno != 0 {
			l.acceptFailed(ln, errno)
			return
		}
		l.assign(acceptedConn{ln, fd, peer})
	}
}

// handOver gives a connection to the loop with the fewest sessions, to this
// one if it has hardly more: a hand-over costs two context switches, and
// long sessions end up even all the same.
func (l *loop) assign(a acceptedConn) {
	to, least := l, l.active.Load()
	least -= least >> 4
	for _, other := range l.engine.loops {
		if n := other.active.Load(); n < least {
			to, least = other, n
		}
	}
	l.tallies[a.listener.forward.index].Accepted++
	l.engine.connectionOpened(a.listener.forward)
	to.active.Add(1)
	if to == l {
		l.newSession(a).checkTrust(l)
		return
	}
	to.post(a)
}

// acceptFailed deals with accept4(2)'s errors.
func (l *loop) acceptFailed(ln *listener, errno unix.Errno) {
	switch errno {
	case unix.EAGAIN:
		l.reportAcceptResumed(ln)
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		l.pauseAccept(ln, os.NewSyscallError("accept4", errno))
	case unix.EINVAL, unix.EBADF:
		l.engine.notice(Notice{Event: "accept_failed", Forward: ln.Name, Err: os.NewSyscallError("accept4", errno)})
		l.closeListener(ln)
	}
	// Everything else is one connection's own fault, ECONNABORTED or an error
	// that was pending on the new socket (accept(2)), or EINTR. The listener
	// is level-triggered: the rest of the queue raises another event.
}

// pauseAccept stops accepting for a moment on all of the loop's listeners,
// because a call failed for lack of descriptors or memory. A loop without
// listeners has nothing to pause, nor to tell: it would never see the end.
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

// retryAccept looks whether accepting works again, on an empty queue too.
func (l *loop) retryAccept() {
	l.paused = false
	l.watchListeners()
	for _, ln := range l.listeners {
		if !l.paused && ln.watching {
			l.accept(ln)
		}
	}
}

// acceptRecovered tells of the end of a shortage once a queue was emptied.
func (l *loop) reportAcceptResumed(ln *listener) {
	if l.shortage {
		l.shortage = false
		l.engine.notice(Notice{Event: "accept_resumed", Forward: ln.Name})
	}
}

// heedAll watches the loop's listeners again, unless accepting rests.
func (l *loop) watchListeners() {
	if l.paused {
		return
	}
	for _, ln := range l.listeners {
		l.watchListener(ln)
	}
}

// heed watches a listener, and ignore stops that, so that what waits in its
// queue does not raise events in vain.
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

func (l *loop) unwatchListener(ln *listener) {
	if ln.fd < 0 || !ln.watching {
		return
	}
	ln.watching = false
	l.kernel.Unwatch(l.poller, ln.fd)
}

// ofOneConnection says that an error of accept4(2) is the fault of one
// connection, which is taken off the queue with it, or an interruption
// (accept(2), "Error handling").
func isConnectionError(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNABORTED, unix.EINTR, unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
		unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENONET:
		return true
	}
	return false
}

// closeListener closes a listener. It is taken out of epoll by hand: where
// somebody else has the socket open, closing it would not (epoll(7), "Will
// closing a file descriptor cause it to be removed").
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
