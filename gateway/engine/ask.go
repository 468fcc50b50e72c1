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

// ask has loops run f, each in its own time, and waits for all of them. Where
// they do not run, before Start and after Close, it runs f itself. f may be run
// once more for a loop that ends meanwhile, and after ask has returned an
// error, which is that of ctx: then f must touch nothing that its caller still
// uses.
func (e *Engine) ask(ctx context.Context, loops []*loop, f func(*loop)) error {
	if e.askResting(loops, f) {
		return nil
	}
	answers := make(chan struct{}, len(loops))
	for _, l := range loops {
		l.call(func() {
			f(l)
			answers <- struct{}{}
		})
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
func (e *Engine) askResting(loops []*loop, f func(*loop)) bool {
	e.life.Lock()
	defer e.life.Unlock()
	if e.life.running {
		return false
	}
	for _, l := range loops {
		f(l)
	}
	return true
}
