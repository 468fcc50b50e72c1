package datagram

import (
	"net/netip"
	"sync"
)

// claims records which flow uses which client address and port towards which
// backend. The kernel would let several UDP sockets use the same pair of addresses
// and deliver all replies to the last of them. It is safe for concurrent use, and
// used only when a transparent flow starts or ends.
type claims struct {
	mu   sync.Mutex
	held map[claim]holder
}

// claim is a source and a backend.
type claim struct{ source, backend netip.AddrPort }

// holder is the flow that has a claim.
type holder struct {
	worker            *worker
	index, generation uint32
	conversation      conversation
}

// conversation is equal for two flows of the same client that arrive through
// different sockets of the peer.
type conversation struct {
	listener            uint32
	client, destination netip.AddrPort
}

// take assigns a claim to a flow. It fails if another flow has the claim, unless
// both belong to the same conversation: then the claim moves to the newer flow, and
// the older one is returned, which the caller must end.
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

// release removes a claim if the flow still has it.
func (c *claims) release(what claim, by holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[what] == by {
		delete(c.held, what)
	}
}

func (f *flow) claim() claim { return claim{f.source, f.backend.Addr} }

func (w *worker) holder(f *flow) holder {
	return holder{w, f.index, f.generation, conversation{f.listener.number, f.client, f.destination}}
}

// claim claims the source of a flow towards its backend. A load balancer that
// forgets a client earlier than we do sends the next datagram from another port.
// The backend must still see the client at its own port, so the older flow ends.
func (w *worker) claim(f *flow) bool {
	before, ok := w.relay.claims.take(f.claim(), w.holder(f))
	if !ok {
		return false
	}
	f.claimed = true
	switch before.worker {
	case nil:
	case w:
		before.endFlow()
	default:
		before.worker.host.Call(before.endFlow)
	}
	return true
}

// endFlow ends the flow of a holder. It runs on the flow's loop.
func (h holder) endFlow() {
	f := h.worker.table.at(h.index, h.generation)
	if f == nil {
		return
	}
	f.alternatives = false // it ends and must not fail over
	h.worker.readReplies(f)
	h.worker.replace(f, "the client moved to another socket of the peer")
}
