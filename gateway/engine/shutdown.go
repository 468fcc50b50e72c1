package engine

import "time"

// partingTime is how long handshakes that are under way when a listener is to be
// closed have to be completed: as long as the way to a load balancer and back.
const gracePeriod = 100 * time.Millisecond

// part closes the loop's listeners such that nobody whose connection the kernel
// has taken is reset, and calls done when all are closed. From now on the
// kernel answers no new handshake; whoever begins one is refused when it tries
// again, a second later. Those that are under way come to their end meanwhile.
// A socket that somebody else has open keeps its queue, which is theirs to serve.
func (l *loop) closeGracefully(done func()) {
	waits := false
	for _, ln := range l.listeners {
		if ln.fd < 0 || ln.held || ln.bound.IsUnix() {
			continue
		}
		// Where the kernel knows no such filter there is nothing to wait for.
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

// closeListeners closes the loop's listeners; what the kernel had queued for
// them is accepted first, or it would be reset.
func (l *loop) closeListeners() {
	l.wheel.disarm(&l.closeTimer)
	for _, ln := range l.listeners {
		for ln.fd >= 0 && !ln.held {
			fd, peer, errno := l.kernel.Accept(ln.fd)
			if isConnectionError(errno) {
				continue
			}
			if errno != 0 {
				break
			}
			l.assign(acceptedConn{ln, fd, peer})
		}
		l.closeListener(ln)
	}
	for _, done := range l.closeDone {
		done()
	}
	l.closeDone = nil
}
