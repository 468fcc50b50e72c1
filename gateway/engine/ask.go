package engine

import (
	"context"
	"sync"
)

// lifecycle is whether the loops run. While they do, nobody else may look at what is
// theirs.
type lifecycle struct {
	sync.Mutex
	running bool
	ended   chan struct{} // closed when they have ended
}

// ask has loops run f, each in its own time, until it says that there is no
// more to do, and waits for all of them. Between two runs a loop serves its
// sessions: waking whoever asked takes far longer than a run, so it is done
// once. Where the loops do not run, before Start and after Close, ask runs f
// itself. f may be run again, from wherever it was, for a loop that ends
// meanwhile; and after ask has returned an error, which is that of ctx: then f
// must touch nothing that its caller still uses.
func (e *Engine) ask(ctx context.Context, loops []*loop, f func(*loop) (more bool)) error {
	if e.askResting(loops, f) {
		return nil
	}
	answers := make(chan struct{}, len(loops))
	for _, l := range loops {
		var turn func()
		turn = func() {
			if f(l) {
				l.call(turn)
				return
			}
			answers <- struct{}{}
		}
		l.call(turn)
	}
	for range loops {
		select {
		case <-answers:
		case <-e.life.ended:
			e.askResting(loops, f)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// askResting runs f for each loop if none of them runs.
func (e *Engine) askResting(loops []*loop, f func(*loop) (more bool)) bool {
	e.life.Lock()
	defer e.life.Unlock()
	if e.life.running {
		return false
	}
	for _, l := range loops {
		for f(l) {
		}
	}
	return true
}
