package datagram

import (
	"net/netip"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"

	"golang.org/x/sys/unix"
)

// receiveBudget is how many batches of one listener are served for one event. A
// listener is level-triggered, so that the rest raises another.
const receiveBudget = 4

// packet is one datagram of a peer.
type packet struct {
	front    *front
	peer     netip.AddrPort
	from     address // of the peer, for replies
	standing standing
	data     []byte
}

// receive takes what peers sent to a listener.
func (w *worker) receive(fr *front) {
	w.collect()
	fr.busy = true
	w.wakeAt(w.host.Now() + watchEvery)
	for range receiveBudget {
		w.verdict = verdict{}
		n, errno := w.kernel.Receive(fr.fd, w.received.named())
		if errno != 0 {
			return // nothing is there, or the call was interrupted: the event comes again
		}
		for i := range n {
			w.arrived(fr, i)
		}
		w.sendForth()
		w.moveRefused()
		if n < batchSize {
			return
		}
	}
}

// arrived takes the i-th message that was received: a datagram, or a train of
// them.
func (w *worker) arrived(fr *front, i int) {
	m, name := &w.received.messages[i], &w.received.names[i]
	a := w.received.arrival(i)
	p := packet{front: fr, peer: kernel.DecodeSockaddr(name), from: address{*name, m.Namelen, a.local}}
	p.standing = w.judge(fr, p.peer.Addr())
	switch {
	case m.Flags&unix.MSG_TRUNC != 0:
		w.drop(&p, refusal{TooBig, "larger than a datagram can be"})
		return
	case p.peer.Port() == 0: // the kernel would refuse the reply, and all that are sent with it
		w.drop(&p, refusal{PeerUnreachable, "it sends from port 0"})
		return
	}
	rest := w.received.slot(i)[:m.Length]
	for {
		p.data = rest
		if a.segment > 0 && a.segment < len(rest) {
			p.data = rest[:a.segment]
		}
		w.passOn(&p)
		if rest = rest[len(p.data):]; len(rest) == 0 {
			return
		}
	}
}

// passOn finds or begins the flow of a datagram and puts the payload down to be
// sent, together with all that came with the same call.
func (w *worker) passOn(p *packet) {
	f, payload := w.flowOf(p)
	if f == nil {
		return
	}
	if !w.forth.room() {
		w.sendForth()
	}
	now := w.host.Now()
	f.alive, f.heard = now, now
	f.lane.touch(f)
	f.reply = p.from
	f.packetsIn++
	f.bytesIn += int64(len(payload))
	w.counted.packetsIn++
	w.counted.bytesIn += uint64(len(payload))
	f.lane.tally.Bytes[record.In] += uint64(len(payload))
	w.forth.add(f, payload)
}

// flowOf returns the flow of a datagram and what is to be passed on; no flow if
// the datagram is dropped.
func (w *worker) flowOf(p *packet) (*flow, []byte) {
	switch p.standing {
	case checker:
		w.drop(p, refusal{Health, ""})
		return nil, nil
	case stranger:
		w.drop(p, refusal{Untrusted, ""})
		return nil, nil
	case passed:
		return w.flowOfHead(p, &head{client: p.peer, payload: p.data})
	}
	if p.front.Forward.DatagramHeader == forward.FirstDatagram {
		return w.flowOfFirst(p)
	}
	h, no := p.front.reader.read(p.data)
	if no.drop != 0 {
		w.drop(p, no)
		return nil, nil
	}
	return w.flowOfHead(p, &h)
}

// flowOfHead is flowOf where each datagram says whose it is.
func (w *worker) flowOfHead(p *packet, h *head) (*flow, []byte) {
	k := key{p.front.number, endOf(p.peer), endOf(h.client), endOf(h.destination)}
	f := w.table.find(k)
	if f == nil {
		f = w.begin(p, k, h)
	}
	return f, h.payload
}

// flowOfFirst is flowOf where only the first datagram of a flow says so: what
// comes from the same socket of the peer after it is payload.
//
// What begins like a header amid a flow is the sender's if it began the flow
// anew, and the client's if it is out to be taken for somebody else. It is
// taken off where it names the same client again, which does no harm. Naming
// another, it is believed only after a silence in which the sender must have
// forgotten the flow: half the time that this side remembers it. Before that
// nobody can tell, and nothing may go on under the old client's name either: the
// flow is ended.
func (w *worker) flowOfFirst(p *packet) (*flow, []byte) {
	k := key{listener: p.front.number, peer: endOf(p.peer)}
	f := w.table.find(k)
	if !beginsHeader(p.data) {
		if f == nil {
			w.drop(p, refusal{NoFlow, ""})
		}
		return f, p.data
	}
	h, no := p.front.reader.read(p.data)
	if no.drop != 0 {
		w.drop(p, no)
		return nil, nil
	}
	if f != nil && !f.isOf(&h) {
		silent := w.host.Now() - f.heard
		w.replaced(f, "a header amid the flow names another client")
		if silent < int64(p.front.Forward.FlowTimeout)/2 {
			w.drop(p, refusal{OtherClient, ""})
			return nil, nil
		}
		f = nil
	}
	if f == nil {
		f = w.begin(p, k, &h)
	}
	return f, h.payload
}

// isOf reports whether a header names the flow's client.
func (f *flow) isOf(h *head) bool {
	return f.client == h.client && f.destination == h.destination
}
