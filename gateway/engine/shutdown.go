package engine

import "time"

// gracePeriod is the time that handshakes in progress have to complete when a listener closes:
// about one round trip to a distant load balancer.
const gracePeriod = 100 * time.Millisecond

// closeGracefully closes the loop's listeners without resetting connections that have completed the
// handshake, and calls done when all are closed. From now on the kernel refuses new handshakes.
// Handshakes in progress have gracePeriod to complete. The queue of a shared socket is left to its other owner.
func (l *loop) closeGracefully(done func()) {
	waits := false
	for _, ln := range l.listeners {
		if ln.fd < 0 || ln.held || ln.bound.IsUnix() {
			continue
		}
		// Where the kernel cannot refuse them, there is nothing to wait for.
		waits = l.kernel.RefuseHandshakes(ln.fd) == 0 || waits
	}
	l.closeDone = append(l.closeDone, done)
	if !waits {
		l.closeListeners()
		return
	}
	for _, ln := range l.listeners {
		if ln.held {
			l.closeListener(ln)
		}
	}
	l.wheel.arm(&l.closeTimer, l.now+int64(gracePeriod))
}

// closeListeners closes the loop's listeners. It first accepts the connections in their queues,
// which close(2) would reset.
func (l *loop) closeListeners() {
	l.wheel.disarm(&l.closeTimer)
	for _, ln := range l.listeners {
		for failures := 0; ln.fd >= 0 && !ln.held && failures < maxAccepts; {
			fd, peer, errno := l.kernel.Accept(ln.fd)
			if isConnectionError(errno) {
				failures++
				continue
			}
			if errno != 0 {
				break
			}
			failures = 0
			l.assign(acceptedConn{ln, fd, peer})
			l.makeRoom(0)
		}
		l.closeListener(ln)
	}
	for _, done := range l.closeDone {
		done()
	}
	l.closeDone = nil
}
