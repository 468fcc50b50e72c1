package engine

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// seeds is the number of random histories: -args -seeds 100000 runs more, and -run
// 'TestInterleavings/^123$' repeats one.
var seeds = flag.Uint64("seeds", 400, "random histories to play")

// scriptedConn is one connection of a random history, and what both ends send.
type scriptedConn struct {
	front, back *file // back is the socket of the last dial
	up, down    transcript
	prefix      int // length of the headers at the start of up
}

// transcript is what one end sends: some bytes, then a FIN, or a RST before that.
type transcript struct {
	data    []byte
	sent    int
	abortAt int // RST after so many bytes; -1: never
	aborted bool
}

// history is a random run of an engine with its clients and backends.
type history struct {
	*rig
	*rand.Rand
	corpus     []byte // every transcript is a part of it
	conns      []*scriptedConn
	total      int  // connections in all
	anyAccepts bool // some backend accepts
}

func newHistory(t *testing.T, corpus []byte, seed uint64) *history {
	h := &history{Rand: rand.New(rand.NewPCG(seed, 1)), corpus: corpus}
	k := newScript(t, seed+1)
	k.noBatches = seed%4 == 3
	k.sendRoom = []int{1, 100, 5000, 64 << 10, 1 << 20}[h.IntN(5)]
	f := plainForward([]forward.Endpoint{serverA, serverB, serverC}[:1+h.IntN(3)]...)
	f.Headers = 1 + h.IntN(3)
	f.Transparent = h.IntN(4) == 0
	h.total = []int{1, 2, 3, 4, 16}[h.IntN(5)]
	h.rig = newRig(t, k, Config{
		Forwards:  []*forward.Forward{f},
		MaxBuffer: []int64{0, 0, 1, 20 << 10}[h.IntN(4)],
		MaxPipes:  []int{0, 0, 1}[h.IntN(3)],
	})
	for _, b := range f.Listeners[0].Backends {
		p := []plan{{}, {}, {waits: 1 + h.IntN(5)}, unreachable, {result: unix.ECONNREFUSED},
			{waits: 1 + h.IntN(5), result: unix.ECONNREFUSED}}[h.IntN(6)]
		h.plans[b.Endpoint] = []plan{p}
		h.anyAccepts = h.anyAccepts || p.errno == 0 && p.result == 0
	}
	h.loop().flows.after = []int64{1, 300 << 10, lowWaterAfter}[h.IntN(3)]
	if h.IntN(2) == 0 {
		k.bindError = func(a netip.AddrPort) unix.Errno {
			if a.Port() != 0 && h.IntN(2) == 0 {
				return unix.EADDRINUSE
			}
			return 0
		}
	}
	if h.IntN(8) == 0 {
		k.pipeErrors = unix.EMFILE
	}
	k.onDial = h.dialled
	return h
}

// dialled finds the connection for which a backend was dialled.
func (h *history) dialled(f *file) {
	for s := range h.loop().sessions.live() {
		if int(s.sides[backend].fd) != f.fd {
			continue
		}
		for _, life := range h.conns {
			if life.front.fd == int(s.sides[peer].fd) {
				life.back = f
				return
			}
		}
	}
	h.Fatal("a backend was dialled for no known connection")
}

// size is the number of bytes that one end sends: mostly few, sometimes bulk, and limited for small
// send buffers so that a history ends soon.
func (h *history) size() int {
	n := 200
	switch h.IntN(16) {
	case 0:
		n = 1 << 20
	case 1, 2, 3:
		n = 50 << 10
	}
	return h.IntN(min(n, 300*h.sendRoom))
}

func (h *history) newTranscript(n int) transcript {
	t := transcript{data: h.corpus[h.IntN(len(h.corpus)-n):][:n], abortAt: -1}
	if h.IntN(6) == 0 {
		t.abortAt = h.IntN(n + 1)
	}
	return t
}

// arrive starts a connection. All of its headers name client4. The peer's port identifies the
// connection.
func (h *history) arrive() {
	from := netip.AddrPortFrom(lb.Addr(), uint16(40000+len(h.conns)))
	l := &scriptedConn{front: h.script.arrive(h.listenerSocket(0), from)}
	var headers []byte
	for i := range h.loop().listeners[0].forward.Headers {
		if h.IntN(2) == 0 {
			headers = proxyproto.AppendV1(headers, client4, dest4)
			continue
		}
		headers = append(headers, v2(client4, dest4,
			proxyproto.TLV{Type: 0xe0, Value: make([]byte, h.IntN(200)*(i+1))})...)
	}
	l.prefix = len(headers)
	l.up, l.down = h.newTranscript(h.size()), h.newTranscript(h.size())
	l.up.data = slices.Concat(headers, l.up.data)
	if l.up.abortAt >= 0 && h.IntN(4) > 0 {
		l.up.abortAt += l.prefix
	}
	h.conns = append(h.conns, l)
}

// sendSome makes one end send up to n more bytes, or its FIN or RST.
func (h *history) sendSome(f *file, t *transcript, n int) {
	if t.aborted || !f.isOpen {
		return
	}
	if t.abortAt >= 0 && t.sent >= t.abortAt {
		t.aborted = true
		f.reset()
		return
	}
	if t.sent == len(t.data) {
		f.sendFIN()
		return
	}
	n = 1 + h.IntN(min(n, len(t.data)-t.sent))
	f.deliver(t.data[t.sent:][:n])
	t.sent += n
}

// isRelaying reports whether the engine knows that l's backend is connected. Before that, a RST by
// the backend means that it refused.
func (h *history) isRelaying(l *scriptedConn) bool {
	for s := range h.loop().sessions.live() {
		if s.state == relaying && l.back != nil && int(s.sides[backend].fd) == l.back.fd {
			return true
		}
	}
	return false
}

// step does one random thing.
func (h *history) step() {
	if len(h.conns) < h.total && h.IntN(10) == 0 {
		h.arrive()
		return
	}
	if len(h.conns) == 0 {
		return
	}
	l := h.conns[h.IntN(len(h.conns))]
	chunk := []int{1, 100, 20 << 10, 1 << 20}[h.IntN(4)]
	switch h.IntN(7) {
	case 0, 1:
		h.sendSome(l.front, &l.up, chunk)
	case 2:
		if l.back != nil && l.back.connected && (l.down.abortAt < 0 || h.isRelaying(l)) {
			h.sendSome(l.back, &l.down, chunk)
		}
	case 3:
		l.front.consume(1 + h.IntN(chunk))
	case 4:
		if l.back != nil {
			l.back.consume(1 + h.IntN(chunk))
		}
	default:
		h.turn()
	}
}

// expectProgress checks, after the loops have settled, that everything that could be moved was
// moved.
func (h *history) expectProgress() {
	h.settle()
	for i, l := range h.conns {
		if !h.isRelaying(l) || l.front.wasReset || l.back.wasReset {
			if l.front.wasReset && h.isRelaying(l) || l.back != nil && l.back.wasReset && h.isRelaying(l) {
				h.Fatalf("connection %d: continues after a RST", i)
			}
			continue
		}
		h.expectDirection(i, l.front, l.back, l.up.data[l.prefix:max(l.prefix, l.up.sent)])
		h.expectDirection(i, l.back, l.front, l.down.data[:l.down.sent])
	}
}

func (h *history) expectDirection(i int, from, to *file, said []byte) {
	if !to.writeable() {
		return
	}
	if !bytes.Equal(to.received, said) {
		h.Fatalf("connection %d: %d of %d bytes arrived although there is room", i, len(to.received), len(said))
	}
	if from.finReceived && !to.gotFIN {
		h.Fatalf("connection %d: the FIN did not arrive", i)
	}
}

// finishAll lets both ends of each connection send everything and read everything.
func (h *history) finishAll() {
	for range 20000 {
		if len(h.records) == h.total {
			return
		}
		for len(h.conns) < h.total {
			h.arrive()
		}
		for _, l := range h.conns {
			h.sendSome(l.front, &l.up, 1<<20)
			l.front.consume(1 << 20)
			if l.back != nil && l.back.connected && (l.down.abortAt < 0 || h.isRelaying(l)) {
				h.sendSome(l.back, &l.down, 1<<20)
			}
			if l.back != nil {
				l.back.consume(1 << 20)
			}
		}
		h.turn()
	}
	h.Fatalf("%d of %d connections ended", len(h.records), h.total)
}

func TestInterleavings(t *testing.T) {
	corpus := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{}).Read(corpus)
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := newHistory(t, corpus, seed)
			for range 50 + h.IntN(400) {
				h.step()
				if h.IntN(64) == 0 {
					h.expectProgress()
				}
			}
			h.finishAll()
			h.settle()
			for _, c := range h.records {
				h.check(c, h.conns[c.Peer.Port()-lb.Port()])
			}
			h.expectClean()
			h.loop().pipes.close()
		})
	}
}

// check is the oracle: it compares a record with what both ends sent and received.
func (h *history) check(c record.Connection, l *scriptedConn) {
	if l.front.isOpen || l.back != nil && l.back.isOpen {
		h.Fatalf("%v: a socket is open", c.Outcome)
	}
	switch {
	case c.Phase == record.Relay:
		h.checkRelay(c, l)
		return
	case l.up.aborted && (c.Outcome == record.Reset || c.Outcome == record.Empty):
		if c.By == record.Gateway || l.back != nil && len(l.back.received) > 0 {
			h.Errorf("%v by %v, but the backend received %d bytes", c.Outcome, c.By, len(l.back.received))
		}
	case h.anyAccepts || c.Outcome != record.BackendRefused && c.Outcome != record.BackendUnreachable:
		h.Errorf("ended %v in %v: %s", c.Outcome, c.Phase, c.Reason)
	case !l.front.gotRST && !l.up.aborted:
		h.Error("the client got no RST")
	}
}

func (h *history) checkRelay(c record.Connection, l *scriptedConn) {
	up, down := l.up.data[l.prefix:], l.down.data
	if !bytes.HasPrefix(up, l.back.received) || !bytes.HasPrefix(down, l.front.received) {
		h.Errorf("%v by %v (%s): the bytes that arrived differ from those sent: %d of %d and %d of %d",
			c.Outcome, c.By, c.Reason, len(l.back.received), len(up), len(l.front.received), len(down))
	}
	if c.BytesIn != int64(len(l.back.received)) || c.BytesOut != int64(len(l.front.received)) {
		h.Errorf("counted %d and %d bytes, of %d and %d", c.BytesIn, c.BytesOut, len(l.back.received),
			len(l.front.received))
	}
	if c.Client != client4 || c.Transparent && c.Source.IsValid() &&
		c.Source != netip.AddrPortFrom(client4.Addr(), ephemeralPort) {
		h.Errorf("client %v from %v", c.Client, c.Source)
	}
	if c.Outcome == record.OK {
		h.checkOK(c, l)
		return
	}
	if c.Outcome != record.Reset || c.By == record.Client && !l.up.aborted ||
		c.By == record.Backend && !l.down.aborted {
		h.Errorf("ended %v by %v, client reset: %v, backend reset: %v", c.Outcome, c.By, l.up.aborted, l.down.aborted)
	}
	if !l.front.gotRST && !l.up.aborted || !l.back.gotRST && !l.down.aborted {
		h.Errorf("the RST did not reach the other side")
	}
}

func (h *history) checkOK(c record.Connection, l *scriptedConn) {
	if len(l.back.received) != len(l.up.data)-l.prefix || len(l.front.received) != len(l.down.data) {
		h.Errorf("ok, but only %d of %d and %d of %d bytes arrived",
			len(l.back.received), len(l.up.data)-l.prefix, len(l.front.received), len(l.down.data))
	}
	if l.front.gotRST || l.back.gotRST || !l.front.gotFIN && !l.front.wasReset || !l.back.gotFIN && !l.back.wasReset {
		h.Errorf("ok, but FINs %v and %v, RSTs %v and %v", l.front.gotFIN, l.back.gotFIN, l.front.gotRST, l.back.gotRST)
	}
	first := record.Client
	if l.back.eofOrder < l.front.eofOrder {
		first = record.Backend
	}
	if c.By != first {
		h.Errorf("ok by %v, but the %v finished first", c.By, first)
	}
}
