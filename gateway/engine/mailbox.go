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

// lifecycle is whether the loops run. While they do, nobody else may look at what is
// theirs.
type lifecycle struct {
	sync.Mutex
	running bool
	stopped chan struct{} // closed when they have ended
}

// onLoops has every loop run f, soon; the result is closed when all of them
// have. A loop that hangs, or has ended, never does.
func (e *Engine) onLoops(f func(*loop)) <-chan struct{} {
	return inSteps(e.loops, func(l *loop) (more bool) {
		f(l)
		return false
	})
}

// ask is inTurns for whoever waits for the answer. Where the loops do not run,
// before Start and after Close, ask runs f itself. f may be run again, from
// wherever it was, for a loop that ends meanwhile; and after ask has returned
// an error, which is that of ctx: then f must touch nothing that its caller
// still uses.
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

// inTurns has loops run f, each in its own time, until it says that there is no
// more to do; the result is closed when all of them have. Between two runs a
// loop serves its sessions: waking whoever waits takes far longer than a run,
// so it is done once.
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

// askResting runs f for each loop if none of them runs.
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

// adopt hands the loop a connection that another one accepted.
func (l *loop) post(a acceptedConn) {
	l.mail.Lock()
	l.mail.conns = append(l.mail.conns, a)
	l.mail.Unlock()
	l.wake()
}

// call runs f on the loop, some time soon; never on one that has ended.
func (l *loop) call(f func()) {
	l.mail.Lock()
	defer l.mail.Unlock()
	if l.mail.closed {
		return
	}
	l.mail.calls = append(l.mail.calls, f)
	l.wake()
}

// ring wakes the loop, unless that was done and it did not look since.
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

// arrival is an accepted connection on its way from the loop that accepted it
// to the one that will serve it.
type acceptedConn struct {
	listener *listener
	fd       int
	peer     netip.AddrPort
}
