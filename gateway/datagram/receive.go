package datagram

import (
	"net/netip"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"

	"golang.org/x/sys/unix"
)

// receiveBudget limits the batches that are received from one listener for one
// event. Listeners are level-triggered, so the rest raises another event.
const receiveBudget = 4

// packet is a datagram from a peer.
type packet struct {
	listener *listenerSocket
	peer     netip.AddrPort
	from     address // of the peer, for replies
	class    peerClass
	data     []byte
}

// receive receives from a listener.
func (w *worker) receive(ls *listenerSocket) {
	w.readPending()
	ls.busy, ls.behind = true, false
	w.wakeAt(w.host.Now() + checkInterval)
	for range receiveBudget {
		w.lastPeer = classification{}
		n, errno := w.kernel.Receive(ls.fd, w.fromPeers.named())
		if errno != 0 {
			w.receiveFailed(ls, errno)
			return
		}
		w.receiveWorks(ls)
		for i := range n {
			w.received(ls, i)
		}
		w.flushToBackends()
		w.failoverAll()
		if n < batchSize {
			return
		}
	}
	ls.behind = true
}

// received handles the i-th received message: a datagram, or a GRO batch.
func (w *worker) received(ls *listenerSocket, i int) {
	m, name := &w.fromPeers.messages[i], &w.fromPeers.names[i]
	a := w.fromPeers.arrival(i)
	p := packet{listener: ls, peer: kernel.DecodeSockaddr(name), from: address{*name, m.Namelen, a.local}}
	p.class = w.classify(ls, p.peer.Addr())
	switch {
	case m.Flags&unix.MSG_TRUNC != 0:
		w.drop(&p, cause{TooBig, "larger than the largest datagram"})
		return
	case p.peer.Port() == 0: // the kernel would refuse the reply, and the whole batch with it
		w.drop(&p, cause{PeerUnreachable, "the peer sends from port 0"})
		return
	}
	rest := w.fromPeers.slot(i)[:m.Length]
	for {
		p.data = rest
		if a.segment > 0 && a.segment < len(rest) {
			p.data = rest[:a.segment]
		}
		w.relayPayload(&p)
		if rest = rest[len(p.data):]; len(rest) == 0 {
			return
		}
	}
}

// relayPayload finds or creates the flow of a datagram and queues its payload. The
// payloads of one receive call are sent together.
func (w *worker) relayPayload(p *packet) {
	f, payload := w.flowOf(p)
	if f == nil {
		return
	}
	now := w.host.Now()
	f.lastActive, f.lastReceived = now, now
	f.list.touch(f)
	f.reply = p.from
	if payload == nil {
		return
	}
	if !w.toBackend.room() {
		w.flushToBackends()
	}
	f.packetsIn++
	f.prove()
	f.bytesIn += int64(len(payload))
	w.traffic.packetsIn++
	w.traffic.bytesIn += uint64(len(payload))
	f.list.tally.Bytes[record.In] += uint64(len(payload))
	w.toBackend.add(f, payload)
}

// flowOf returns the flow and the payload of a datagram: a nil flow if the datagram
// is dropped, and a nil payload if there is nothing to forward. An empty payload
// is an empty datagram of the client.
func (w *worker) flowOf(p *packet) (*flow, []byte) {
	switch p.class {
	case healthPeer:
		w.drop(p, cause{Health, ""})
		return nil, nil
	case untrustedPeer:
		w.drop(p, cause{Untrusted, ""})
		return nil, nil
	case clientPeer:
		return w.flowOfHeader(p, &header{client: p.peer, payload: p.data})
	}
	if p.listener.Forward.DatagramHeader == forward.FirstDatagram {
		return w.flowOfFirst(p)
	}
	h, no := p.listener.reader.read(p.data)
	if no.drop != 0 {
		w.drop(p, no)
		return nil, nil
	}
	return w.flowOfHeader(p, &h)
}

// flowOfHeader is flowOf for senders that put a header into each datagram.
func (w *worker) flowOfHeader(p *packet, h *header) (*flow, []byte) {
	k := key{p.listener.number, endOf(p.peer), endOf(h.client), endOf(h.destination)}
	f := w.table.find(k)
	if f == nil {
		f = w.newFlow(p, k, h)
	}
	return f, h.payload
}

// flowOfFirst is flowOf for senders that put a header into the first datagram of a
// flow only: later datagrams from the same socket of the peer are payload.
//
// A later datagram that starts with a header comes from the sender if it started a
// new flow, or from a client that wants to pass for another one. A header that
// names the same client again is stripped, which does no harm. A header that names
// another client is accepted only after an idle time in which the sender must have
// forgotten the flow: half of our own timeout. Before that the two cases cannot be
// told apart, and the payload must not continue under the old client's name
// either, so the flow is ended.
//
// A header without payload only names the client: some senders, such as Xray, send
// the header as a datagram of its own. Forwarding it as an empty datagram would
// make some servers send a reply too many.
func (w *worker) flowOfFirst(p *packet) (*flow, []byte) {
	k := key{listener: p.listener.number, peer: endOf(p.peer)}
	f := w.table.find(k)
	if !startsWithHeader(p.data) {
		if f == nil {
			w.drop(p, cause{NoFlow, ""})
		}
		return f, p.data
	}
	h, no := p.listener.reader.read(p.data)
	if no.drop != 0 {
		w.drop(p, no)
		return nil, nil
	}
	if f != nil && !f.isOf(&h) {
		silent := w.host.Now() - f.lastReceived
		w.replace(f, "a header within the flow names another client")
		if silent < int64(p.listener.Forward.FlowTimeout)/2 {
			w.drop(p, cause{OtherClient, ""})
			return nil, nil
		}
		f = nil
	}
	if f == nil {
		f = w.newFlow(p, k, &h)
	}
	if len(h.payload) == 0 {
		return f, nil
	}
	return f, h.payload
}

// isOf reports whether a header names the flow's client and destination.
func (f *flow) isOf(h *header) bool {
	return f.client == h.client && f.destination == h.destination
}
