package engine

import (
	"context"

	"unproxy/gateway/record"
)

// Tallies returns the counters of each forward since New, in the order of the
// configuration. UDP flows count as connections. The loops report one after the
// other, so the counts of different loops are not from the same instant. The
// error is the cause of ctx. Tallies is safe for concurrent use.
func (e *Engine) Tallies(ctx context.Context) ([]record.ForwardTally, error) {
	perLoop := make([][]record.Tally, len(e.loops))
	for i := range perLoop {
		perLoop[i] = make([]record.Tally, len(e.forwards))
	}
	if err := e.askLoops(ctx, e.loops, func(l *loop) (more bool) {
		for i, t := range l.tallies {
			perLoop[l.index][i] = *t
		}
		return false
	}); err != nil {
		return nil, err
	}
	all := make([]record.ForwardTally, len(e.forwards))
	for i, f := range e.forwards {
		all[i].Name, all[i].Active = f.Label(), int(f.active.Load())
		for _, tallies := range perLoop {
			all[i].Add(&tallies[i])
		}
	}
	return all, nil
}
