package datagram

import (
	"context"
	"net/netip"

	"unproxy/gateway/record"
)

// CutClients ends the flows of the clients for which match returns true, and returns how many. The
// loops run match. The peer's own flows stay. The error is the cause of ctx; some flows may have
// ended. The engine must be running.
func (r *Relay) CutClients(ctx context.Context, match func(netip.Addr) bool) (cut int, err error) {
	for _, w := range r.workers {
		for next := 0; next >= 0; {
			step, err := ask(ctx, w, func() cutStep { return w.cutFrom(next, match) })
			if err != nil {
				return cut, err
			}
			cut, next = cut+step.cut, step.next
		}
	}
	return cut, nil
}

// cutStep is the result of one turn of a loop.
type cutStep struct{ cut, next int }

// cutFrom ends the matching flows among some, from a number on.
func (w *worker) cutFrom(number int, match func(netip.Addr) bool) (step cutStep) {
	if w.closed || w.phase == left || w.phase == waiting {
		return cutStep{next: -1}
	}
	w.readPending()
	step.next = w.someFlows(number, func(f *flow) {
		if f.client.IsValid() && match(f.client.Addr()) {
			w.endAs(f, record.ClientDenied, record.Gateway, "the client was banned")
			step.cut++
		}
	})
	return step
}
