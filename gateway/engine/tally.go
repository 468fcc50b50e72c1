package engine

import (
	"context"
	"time"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// Tally is what was counted of one forward since the engine was made. Each loop
// has one for each forward and is the only one to write to it, with plain
// stores; they are added up when somebody asks.
type Tally struct {
	// Accepted is the number of connections that were accepted.
	Accepted uint64
	// Closed is the number of those that ended, by how and where.
	Closed [record.NumOutcomes][record.NumPhases]uint64
	// Headers is the number of whole headers that named the client, or would
	// have; of stacked ones the last.
	Headers [NumHeaderKinds]uint64
	// Bytes is the number of bytes from client to backend, at [In], and back,
	// at [Out], of connections that go on, too. Headers are not counted.
	Bytes [2]uint64
	// PortFallbacks is how many transparent connections were made from
	// another port because the client's could not be had.
	PortFallbacks uint64
	// HeaderTime is from accept to a header's last byte, ConnectTime from
	// there to the backend's acceptance: both are counted when it happens.
	// Duration is from accept to the end.
	HeaderTime, ConnectTime, Duration Histogram
}

// The directions of [Tally.Bytes]: which side they were read from.
const (
	In  = peer
	Out = backend
)

// Ended counts the end of a connection.
func (t *Tally) Ended(outcome record.Outcome, phase record.Phase, lasted time.Duration) {
	t.Closed[outcome][phase]++
	t.Duration.observe(lasted, &longBounds)
}

// Add adds another tally to t.
func (t *Tally) Add(o *Tally) {
	t.Accepted += o.Accepted
	for outcome := range t.Closed {
		for phase := range t.Closed[outcome] {
			t.Closed[outcome][phase] += o.Closed[outcome][phase]
		}
	}
	for kind := range t.Headers {
		t.Headers[kind] += o.Headers[kind]
	}
	t.Bytes[In] += o.Bytes[In]
	t.Bytes[Out] += o.Bytes[Out]
	t.PortFallbacks += o.PortFallbacks
	t.HeaderTime.add(&o.HeaderTime)
	t.ConnectTime.add(&o.ConnectTime)
	t.Duration.add(&o.Duration)
}

// HeaderKind is what a header may be: its version and its command.
type HeaderKind uint8

// The kinds of header.
const (
	V1Proxy HeaderKind = iota
	V1Unknown
	V2Proxy
	V2Local
	V2Unknown
	NumHeaderKinds
)

// kindOf returns the kind of a whole header.
func kindOf(h *proxyproto.Header) HeaderKind {
	switch {
	case h.Version == 1 && h.Result == proxyproto.Proxy:
		return V1Proxy
	case h.Version == 1:
		return V1Unknown
	case h.Result == proxyproto.Proxy:
		return V2Proxy
	case h.Result == proxyproto.Local:
		return V2Local
	}
	return V2Unknown
}

// Version returns "1" or "2".
func (k HeaderKind) Version() string {
	if k <= V1Unknown {
		return "1"
	}
	return "2"
}

// Command returns "proxy", "local" or "unknown": a header that names no usable
// client.
func (k HeaderKind) Command() string {
	return [...]string{V1Proxy: "proxy", V1Unknown: "unknown", V2Proxy: "proxy", V2Local: "local", V2Unknown: "unknown"}[k]
}

// numBounds is the number of a histogram's bounds.
const numBounds = 14

// The bounds of histograms. Headers and backends answer within a network's
// round trip or not for seconds; connections last from nothing to days.
var (
	shortBounds = [numBounds]time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
		10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 5 * time.Second,
	}
	longBounds = [numBounds]time.Duration{
		time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
		time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	}
)

// ShortBounds returns the bounds of [Tally.HeaderTime] and [Tally.ConnectTime],
// each the longest duration that is counted below it.
func ShortBounds() []time.Duration { return shortBounds[:len(shortBounds):len(shortBounds)] }

// LongBounds returns the bounds of [Tally.Duration].
func LongBounds() []time.Duration { return longBounds[:len(longBounds):len(longBounds)] }

// Histogram counts durations by their size.
type Histogram struct {
	// Counts has the number of durations up to each bound that are beyond
	// the one before; the last is for those beyond all bounds.
	Counts [numBounds + 1]uint64
	// Seconds is the sum of all durations.
	Seconds float64
}

func (h *Histogram) observe(d time.Duration, bounds *[numBounds]time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.Counts[i]++
	h.Seconds += d.Seconds()
}

func (h *Histogram) add(o *Histogram) {
	for i := range h.Counts {
		h.Counts[i] += o.Counts[i]
	}
	h.Seconds += o.Seconds
}

// ForwardTally is the tally of a forward, of all loops together.
type ForwardTally struct {
	// Name is that of the forward.
	Name string
	// Active is the number of its connections that have not ended.
	Active int
	Tally
}

// Tallies returns what was counted of each forward, in the order of the
// configuration; a flow of datagrams counts as a connection. The loops hand their counts over in their own time, so that
// those of different loops are not of the same instant. The error is of ctx.
func (e *Engine) Tallies(ctx context.Context) ([]ForwardTally, error) {
	ofLoops := make([][]Tally, len(e.loops))
	for i := range ofLoops {
		ofLoops[i] = make([]Tally, len(e.forwards))
	}
	if err := e.ask(ctx, e.loops, func(l *loop) (more bool) {
		for i, t := range l.tallies {
			ofLoops[l.index][i] = *t
		}
		return false
	}); err != nil {
		return nil, err
	}
	all := make([]ForwardTally, len(e.forwards))
	for i, f := range e.forwards {
		all[i].Name, all[i].Active = f.Label(), int(f.active.Load())
		for _, of := range ofLoops {
			all[i].Add(&of[i])
		}
	}
	return all, nil
}
