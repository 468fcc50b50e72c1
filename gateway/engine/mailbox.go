package engine

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
)

// mailbox holds what other goroutines send to a loop.
type mailbox struct {
	sync.Mutex
	conns  []acceptedConn
	calls  []func()
	closed bool        // the loop has ended
	unread atomic.Bool // the loop was woken and has not read the mailbox since
}

// acceptedConn is an accepted connection that has no session yet.
type acceptedConn struct {
	listener *listener
	fd       int
	peer     netip.AddrPort
}

// post passes a connection that another loop accepted to this loop.
func (l *loop) post(a acceptedConn) {
	l.mail.Lock()
	l.mail.conns = append(l.mail.conns, a)
	l.mail.Unlock()
	l.wake()
}

// call makes the loop run f soon. If the loop has ended, f never runs.
func (l *loop) call(f func()) {
	l.mail.Lock()
	defer l.mail.Unlock()
	if l.mail.closed {
		return
	}
	l.mail.calls = append(l.mail.calls, f)
	l.wake()
}

// wake wakes the loop, unless it has been woken and has not read its mailbox since.
func (l *loop) wake() {
	if !l.mail.unread.Swap(true) {
		l.kernel.Wake(l.waker)
	}
}

func (l *loop) readMail() {
	l.mail.unread.Store(false)
	l.mail.Lock()
	conns, calls := l.mail.conns, l.mail.calls
	l.mail.conns, l.mail.calls = l.received[:0], nil
	l.mail.Unlock()
	for _, a := range conns {
		l.newSession(a).checkTrust(l)
	}
	l.received = conns
	for _, f := range calls {
		f()
	}
}

// lifecycle tells whether the loops run. While they do, only they may access their state.
type lifecycle struct {
	sync.Mutex
	running bool
	stopped chan struct{} // closed when the loops have ended
}

// onLoops makes every loop run f soon. The result is closed when all of them have. A loop that is
// stalled or has ended never runs f.
func (e *Engine) onLoops(f func(*loop)) <-chan struct{} {
	return inSteps(e.loops, func(l *loop) (more bool) {
		f(l)
		return false
	})
}

// askLoops makes loops run f until f returns false, and waits for that. If the loops are not
// running, before Start and after Close, it runs f itself. If a loop ends meanwhile, f may run
// again from where it was. The error is the cause of ctx; after an error f may still run, so it
// must not access anything that the caller still uses.
func (e *Engine) askLoops(ctx context.Context, loops []*loop, f func(*loop) (more bool)) error {
	if e.askStopped(loops, f) {
		return nil
	}
	select {
	case <-inSteps(loops, f):
	case <-e.lifecycle.stopped:
		e.askStopped(loops, f)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// inSteps makes each loop run f until f returns false. Between two runs a loop serves its sessions.
// The result is closed when all loops are done. It is signalled once for all loops, because waking
// the receiver takes far longer than one run of f.
func inSteps(loops []*loop, f func(*loop) (more bool)) <-chan struct{} {
	done := make(chan struct{})
	var left atomic.Int64
	left.Store(int64(len(loops)))
	for _, l := range loops {
		var turn func()
		turn = func() {
			switch {
			case f(l):
				l.call(turn)
			case left.Add(-1) == 0:
				close(done)
			}
		}
		l.call(turn)
	}
	return done
}

// askStopped runs f for each loop if the loops are not running, and reports whether it did.
func (e *Engine) askStopped(loops []*loop, f func(*loop) (more bool)) bool {
	e.lifecycle.Lock()
	defer e.lifecycle.Unlock()
	if e.lifecycle.running {
		return false
	}
	for _, l := range loops {
		for f(l) {
		}
	}
	return true
}
