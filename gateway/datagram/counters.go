package datagram

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"unproxy/gateway/engine"
)

// Counters is what a relay has counted since it was made.
type Counters struct {
	// Flows is the number of flows that have not ended.
	Flows int
	// Opened is the number of flows ever begun, and Evicted how many of them
	// gave way to newer ones.
	Opened, Evicted uint64
	// PortFallbacks is how many transparent flows go by another port because
	// the client's could not be had.
	PortFallbacks uint64
	// In is from peers to backends, Out the other way. Bytes are without
	// headers. Those that came to nothing on the way out count here and in
	// Dropped.
	DatagramsIn, DatagramsOut, BytesIn, BytesOut uint64
	// Dropped is how many datagrams did not arrive, by [Drop]. A backend's
	// errors count one each.
	Dropped [drops]uint64
}

// traffic is what a loop counts in passing.
type traffic struct {
	packetsIn, packetsOut, bytesIn, bytesOut uint64
}

// counters are one loop's; they are summed when somebody asks.
type counters struct {
	opened, evicted, portFallbacks           atomic.Uint64
	packetsIn, packetsOut, bytesIn, bytesOut atomic.Uint64
	dropped                                  [drops]atomic.Uint64
}

func (c *counters) add(t *traffic) {
	c.packetsIn.Add(t.packetsIn)
	c.packetsOut.Add(t.packetsOut)
	c.bytesIn.Add(t.bytesIn)
	c.bytesOut.Add(t.bytesOut)
}

// Counters returns what was counted so far. It may be called from any
// goroutine once the engine is made.
func (r *Relay) Counters() Counters {
	c := Counters{Flows: r.flows.total()}
	for _, w := range r.workers {
		c.Opened += w.counters.opened.Load()
		c.Evicted += w.counters.evicted.Load()
		c.PortFallbacks += w.counters.portFallbacks.Load()
		c.DatagramsIn += w.counters.packetsIn.Load()
		c.DatagramsOut += w.counters.packetsOut.Load()
		c.BytesIn += w.counters.bytesIn.Load()
		c.BytesOut += w.counters.bytesOut.Load()
		for d := range c.Dropped {
			c.Dropped[d] += w.counters.dropped[d].Load()
		}
	}
	return c
}

// complaint is what there is to tell of drops. One line tells of all of some
// seconds: a line for each datagram could be made to fill a disk.
type complaint struct {
	told    int64 // when; 0 is never
	dropped [drops]uint64
	any     bool
	forward string // of the last one
	peer    netip.AddrPort
	reason  string
}

// tellEvery is how often drops are told of at most.
const tellEvery = int64(10 * time.Second)

// due returns when drops may be told of, if there are any now.
func (c *complaint) due(now int64) int64 {
	if c.told == 0 {
		return now + 1
	}
	return max(now+1, c.told+tellEvery)
}

// quiet says that a drop is as it was configured, or a matter of course.
func (d Drop) quiet() bool { return d == Health || d == Local || d == Draining }

// drop counts a datagram of a peer that is not passed on.
func (w *worker) drop(p *packet, no refusal) {
	w.count(p.front, no, 1)
	w.peer = p.peer
}

// count counts datagrams that did not arrive, and has that told soon.
func (w *worker) count(fr *front, no refusal, n int) {
	if n <= 0 {
		return
	}
	w.counters.dropped[no.drop].Add(uint64(n))
	if no.drop.quiet() {
		return
	}
	w.dropped[no.drop] += uint64(n)
	w.forward, w.reason, w.peer = fr.Listener.Name, no.reason, netip.AddrPort{}
	if !w.any {
		w.any = true
		w.wakeAt(w.due(w.host.Now()))
	}
}

// tellDrops tells of what was dropped since that was told last.
func (w *worker) tellDrops() {
	now := w.host.Now()
	if !w.any {
		return
	}
	if at := w.due(now); at > now+1 && !w.closed {
		w.wakeAt(at)
		return
	}
	w.notice(engine.Notice{Event: "datagrams_dropped", Forward: w.forward, Detail: w.describe()})
	w.complaint = complaint{told: now}
}

// describe says how many datagrams were dropped, why, and what is known of the
// last one.
func (c *complaint) describe() string {
	var b strings.Builder
	for d, n := range c.dropped {
		if n > 0 {
			fmt.Fprintf(&b, "%s %d, ", Drop(d), n)
		}
	}
	text := strings.TrimSuffix(b.String(), ", ")
	if c.peer.IsValid() {
		text += "; last from " + c.peer.String()
	}
	if c.reason != "" {
		text += "; last reason: " + c.reason
	}
	return text
}
