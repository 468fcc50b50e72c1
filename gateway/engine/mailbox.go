package engine

import (
	"context"
	"sync"
	"sync/atomic"
)

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
