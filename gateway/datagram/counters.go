package datagram

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"unproxy/gateway/engine"
)

// Counters are the counts of a relay since it was created.
type Counters struct {
	// Flows is the number of active flows.
	Flows int
	// Opened is the number of flows started, and Evicted the number of those
	// that were ended to make room for newer ones.
	Opened, Evicted uint64
	// PortFallbacks is the number of transparent flows that had to use another
	// source port than the client's.
	PortFallbacks uint64
	// In is from peers to backends, Out the other direction. Bytes do not
	// include headers. Datagrams that could not be sent count here and in
	// Dropped.
	DatagramsIn, DatagramsOut, BytesIn, BytesOut uint64
	// Dropped is the number of lost datagrams by [Drop]. An error reported by
	// a backend counts as one.
	Dropped [numDrops]uint64
}

// traffic is what a loop counts during one turn.
type traffic struct {
	packetsIn, packetsOut, bytesIn, bytesOut uint64
}

// counters are the counts of one loop.
type counters struct {
	opened, evicted, portFallbacks           atomic.Uint64
	packetsIn, packetsOut, bytesIn, bytesOut atomic.Uint64
	dropped                                  [numDrops]atomic.Uint64
}

func (c *counters) add(t *traffic) {
	c.packetsIn.Add(t.packetsIn)
	c.packetsOut.Add(t.packetsOut)
	c.bytesIn.Add(t.bytesIn)
	c.bytesOut.Add(t.bytesOut)
}

// Counters returns the current counts. It is safe for concurrent use once the
// engine has been created.
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

// dropReport collects drops for the log. One line reports the drops of several
// seconds: with a line for each datagram an attacker could fill the disk.
type dropReport struct {
	lastNotice int64 // time of the last report; 0 is never
	dropped    [numDrops]uint64
	pending    bool
	forward    string // of the last drop
	peer       netip.AddrPort
	reason     string
}

// noticeInterval is the minimum time between two reports of drops.
const noticeInterval = int64(10 * time.Second)

// due returns the earliest time of the next report.
func (c *dropReport) due(now int64) int64 {
	if c.lastNotice == 0 {
		return now + 1
	}
	return max(now+1, c.lastNotice+noticeInterval)
}

// quiet reports whether a drop is expected and not worth a line.
func (d Drop) quiet() bool { return d == Health || d == Local || d == Draining }

// drop counts a datagram that is not forwarded.
func (w *worker) drop(p *packet, no cause) {
	w.count(p.listener, no, 1)
	w.peer = p.peer
}

// count counts lost datagrams and schedules a report.
func (w *worker) count(ls *listenerSocket, no cause, n int) {
	if n <= 0 {
		return
	}
	w.counters.dropped[no.drop].Add(uint64(n))
	if no.drop.quiet() {
		return
	}
	w.dropped[no.drop] += uint64(n)
	w.forward, w.reason, w.peer = ls.Listener.Name, no.reason, netip.AddrPort{}
	if !w.pending {
		w.pending = true
		w.wakeAt(w.due(w.host.Now()))
	}
}

// reportDrops reports the drops since the last report.
func (w *worker) reportDrops() {
	now := w.host.Now()
	if !w.pending {
		return
	}
	if at := w.due(now); at > now+1 && !w.closed {
		w.wakeAt(at)
		return
	}
	w.notice(engine.Notice{Event: "datagrams_dropped", Forward: w.forward, Detail: w.describe()})
	w.dropReport = dropReport{lastNotice: now}
}

// describe returns the number of drops by reason, and what is known of the last
// one.
func (c *dropReport) describe() string {
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
