package datagram

import (
	"net/netip"
	"sync"
)

// claims are the addresses that flows speak to backends from, where that is the
// client's address and port. The kernel lets several sockets have the same two
// ends, and gives what comes to the last of them: so it is settled here who has
// a pair. Its methods may be called from any goroutine; none is called but at
// the beginning and the end of a transparent flow.
type claims struct {
	mu   sync.Mutex
	held map[claim]holder
}

// claim is a pair of ends.
type claim struct{ source, backend netip.AddrPort }

// holder is the flow that has one.
type holder struct {
	worker            *worker
	index, generation uint32
	conversation      conversation
}

// conversation is what two flows have in common if they are the same client's
// words, come through different sockets of the peer.
type conversation struct {
	listener            uint32
	client, destination netip.AddrPort
}

// take gives a claim to a flow. If another has it the claim is not given, unless
// both are of one conversation: then it goes to the newer flow, and the older
// one is returned, which has to be ended.
func (c *claims) take(what claim, by holder) (before holder, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[claim]holder{}
	}
	before, taken := c.held[what]
	if taken && before.conversation != by.conversation {
		return holder{}, false
	}
	c.held[what] = by
	return before, true
}

// release ends a claim, if it is still by's.
func (c *claims) release(what claim, by holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[what] == by {
		delete(c.held, what)
	}
}

func (f *flow) claim() claim { return claim{f.source, f.backend.Addr} }

func (w *worker) holder(f *flow) holder {
	return holder{w, f.index, f.generation, conversation{f.front.number, f.client, f.destination}}
}

// claim takes a flow's source towards its backend. A balancer that has
// forgotten a client sooner than this side did sends its next datagram from
// another port: the client must still be seen at its own. So the flow that it
// had before gives way, rather than the port.
func (w *worker) claim(f *flow) bool {
	before, ok := w.relay.claims.take(f.claim(), w.holder(f))
	if !ok {
		return false
	}
	f.claimed = true
	switch before.worker {
	case nil:
	case w:
		before.yield()
	default:
		before.worker.host.Call(before.yield)
	}
	return true
}

// yield ends the flow of a holder, on its loop.
func (h holder) yield() {
	f := h.worker.table.at(h.index, h.generation)
	if f == nil {
		return
	}
	f.alternatives = false // it is to end, not to look for another backend
	h.worker.answerAlone(f)
	h.worker.replaced(f, "the client came by way of another of the peer's sockets")
}
