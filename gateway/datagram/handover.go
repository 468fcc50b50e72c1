package datagram

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// Exchange sends a message with descriptors to the process that takes over, and
// returns its answer. The descriptors stay the caller's.
type Exchange func(message []byte, fds []int) (answer []byte, err error)

// Handover holds the flows that another process has taken. They stay here, suspended,
// until [Handover.Leave] or [Handover.Resume], one of which must follow.
type Handover struct {
	// Taken is the number of flows that the other process continues.
	Taken int
	// Refused is the number of the others, by the reason. They end at Leave.
	Refused map[string]int

	relay       *Relay
	unsupported bool // the other process does not support our messages
	refused     []sentFlow
}

// sentFlow refers to a flow that was sent to the other process.
type sentFlow struct {
	worker            *worker
	index, generation uint32
	why               verdict
}

// phase is what a worker does with its sockets. In all phases but serving it does not
// receive, so datagrams and replies wait in the kernel's queues, and no flow times out.
type phase uint8

const (
	serving   phase = iota
	suspended       // another process is taking the flows
	left            // it has taken them
	waiting         // this process is taking them, until Relay.Serve
)

// Sockets returns copies of the listeners' sockets for another process, with their
// [forward.Listener.SharedName]. The caller owns the descriptors. The engine must be
// running.
func (r *Relay) Sockets() ([]forward.Socket, error) {
	var all []forward.Socket
	var errs []error
	for _, w := range r.workers {
		copied, err := ask(context.Background(), w, w.copySockets)
		all = append(all, copied.sockets...)
		errs = append(errs, err, copied.err)
	}
	if err := errors.Join(errs...); err != nil {
		for _, s := range all {
			r.config.Kernel.Close(s.FD)
		}
		return nil, err
	}
	return all, nil
}

// copiedSockets are the result of copySockets.
type copiedSockets struct {
	sockets []forward.Socket
	err     error
}

func (w *worker) copySockets() (c copiedSockets) {
	var errs []error
	for _, ls := range w.listeners {
		fd, errno := w.kernel.Duplicate(ls.fd)
		if errno != 0 {
			errs = append(errs, fmt.Errorf("hand over %s: %w", ls.Listener.Name, os.NewSyscallError("fcntl", errno)))
			continue
		}
		c.sockets = append(c.sockets, forward.Socket{Name: ls.Listener.SharedName(int(ls.index)), FD: fd})
	}
	c.err = errors.Join(errs...)
	return c
}

// HandOver stops receiving, which leaves datagrams in the kernel's queues, and passes
// all flows to another process, which must have been started with [Relay.Sockets].
// After an error everything goes on as before. Loops serve their connections
// meanwhile. The engine must be running.
func (r *Relay) HandOver(ctx context.Context, exchange Exchange) (*Handover, error) {
	h := &Handover{relay: r, Refused: map[string]int{}}
	if len(r.workers) == 0 {
		return h, nil
	}
	if err := h.send(ctx, exchange); err != nil {
		h.Resume()
		return nil, err
	}
	return h, nil
}

func (h *Handover) send(ctx context.Context, exchange Exchange) error {
	if err := h.relay.suspend(ctx); err != nil {
		return err
	}
	answer, err := exchange([]byte{handoverVersion, beginMessage}, nil)
	if err != nil {
		return err
	}
	_, ok := answerVerdicts(answer)
	h.unsupported = !ok
	for _, w := range h.relay.workers {
		for next := 0; next >= 0; {
			b, err := ask(ctx, w, func() flowBatch { return w.batchFrom(next) })
			if err != nil {
				return err
			}
			if err := h.sendBatch(w, &b, exchange); err != nil {
				return err
			}
			next = b.next
		}
	}
	return nil
}

// suspend stops all loops from receiving: first from peers, so that no flow begins
// and none ends one of another loop, then from backends.
func (r *Relay) suspend(ctx context.Context) error {
	for _, w := range r.workers {
		if _, err := ask(ctx, w, w.suspend); err != nil {
			return err
		}
	}
	for _, w := range r.workers {
		for next := 0; next >= 0; {
			var err error
			if next, err = ask(ctx, w, func() int { return w.unwatchFrom(next) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *Handover) sendBatch(w *worker, b *flowBatch, exchange Exchange) error {
	if len(b.fds) == 0 {
		return nil
	}
	var verdicts []byte
	if !h.unsupported {
		answer, err := exchange(b.message, b.fds)
		if err != nil {
			return err
		}
		verdicts, _ = answerVerdicts(answer)
	}
	for i, f := range b.flows {
		f.why = unreadable
		if i < len(verdicts) {
			f.why = verdict(verdicts[i])
		}
		if f.why == taken {
			h.Taken++
			continue
		}
		f.worker = w
		h.refused = append(h.refused, f)
		h.Refused[f.why.reason()]++
	}
	return nil
}

// Leave leaves the flows to the other process. Those that it did not take end.
func (h *Handover) Leave() {
	for _, w := range h.relay.workers {
		w.host.Call(func() {
			w.phase = left
			for _, f := range h.refused {
				if f.worker == w {
					w.endRefused(f)
				}
			}
			for _, ls := range w.listeners {
				w.closeListener(ls)
			}
			w.eachFlow((*worker).leave, func() {})
		})
	}
}

// Resume continues the flows in this process, because the other one has failed.
func (h *Handover) Resume() {
	for _, w := range h.relay.workers {
		w.host.Call(func() {
			if w.phase == suspended && !w.closed {
				w.resume()
			}
		})
	}
}

// flowBatch is the flows of one message.
type flowBatch struct {
	message []byte
	fds     []int
	flows   []sentFlow // in the same order
	next    int        // where the next batch begins, or -1
}

// batchFrom encodes flows from a number on, as many as a message may have.
func (w *worker) batchFrom(number int) flowBatch {
	b := flowBatch{message: []byte{handoverVersion, flowsMessage}}
	for ; number < len(w.table.flows); number++ {
		f := w.table.flows[number]
		if f.list == nil || f.fd < 0 {
			continue
		}
		if len(b.fds) == mostFlowsAtOnce {
			b.next = number
			return b
		}
		s := w.stateOf(f)
		longer := appendFlow(b.message, &s)
		if len(longer) > mostHandoverBytes {
			b.next = number
			return b
		}
		b.message = longer
		b.fds = append(b.fds, f.fd)
		b.flows = append(b.flows, sentFlow{index: f.index, generation: f.generation})
	}
	b.next = -1
	return b
}

// suspend stops receiving from peers.
func (w *worker) suspend() struct{} {
	w.Rest()
	w.checkListeners()
	w.phase = suspended
	w.walks++
	for _, ls := range w.listeners {
		w.host.Unwatch(ls.fd)
	}
	return struct{}{}
}

// unwatchFrom stops receiving from the backends of some flows, from a number on. It
// returns the number to go on with, or -1.
func (w *worker) unwatchFrom(number int) (next int) {
	w.Rest() // a failover that is pending would register its flow again
	return w.someFlows(number, func(f *flow) { w.host.Unwatch(f.fd) })
}

// resume receives again.
func (w *worker) resume() {
	w.eachFlow((*worker).watchFlow, func() {
		w.phase = serving
		w.watchListeners()
		w.Alarm()
	})
}

// watchFlow receives from the backend of a flow.
func (w *worker) watchFlow(f *flow) {
	if errno := w.host.Watch(f.fd, unix.EPOLLIN, w.keyOf(f)); errno != 0 && errno != unix.EEXIST {
		w.endAs(f, record.Limit, record.Gateway, os.NewSyscallError("epoll_ctl", errno).Error())
	}
}

// endRefused ends a flow that the other process did not take.
func (w *worker) endRefused(f sentFlow) {
	if f := w.table.at(f.index, f.generation); f != nil {
		w.readReplies(f)
		w.Rest()
	}
	if at := w.table.at(f.index, f.generation); at != nil {
		w.endAs(at, record.Drained, record.Gateway, f.why.reason())
	}
}

// stepFlows is how many flows are worked on in one turn of a loop: more would delay
// its connections.
const stepFlows = 512

// someFlows calls visit for flows from a number on. It returns the number to go on
// with, or -1. Between two turns the table may have become empty and been replaced.
func (w *worker) someFlows(number int, visit func(*flow)) (next int) {
	if number >= len(w.table.flows) {
		return -1
	}
	end := min(number+stepFlows, len(w.table.flows))
	for _, f := range w.table.flows[number:end] {
		if f.list != nil && f.fd >= 0 {
			visit(f)
		}
	}
	if end == len(w.table.flows) {
		return -1
	}
	return end
}

// eachFlow calls visit for every flow, in several turns of the loop, and then done. It
// stops when another walk begins, the flows are suspended, or the worker closes.
func (w *worker) eachFlow(visit func(*worker, *flow), done func()) {
	w.walks++
	walk := w.walks
	var step func(int)
	step = func(number int) {
		if w.closed || w.walks != walk {
			return
		}
		next := w.someFlows(number, func(f *flow) { visit(w, f) })
		if next < 0 {
			done()
			return
		}
		w.host.Call(func() { step(next) })
	}
	step(0)
}

// ask runs f on the worker's loop and returns its result. After an error f may still
// run.
func ask[T any](ctx context.Context, w *worker, f func() T) (T, error) {
	answer := make(chan T, 1)
	w.host.Call(func() { answer <- f() })
	select {
	case v := <-answer:
		return v, nil
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
