package admin

import (
	"encoding/json"
	"math"
	"slices"
	"sync"
	"time"

	"unproxy/gateway/record"
)

// How the last minutes are remembered.
const (
	sampleEvery = 5 * time.Second
	samplesKept = 60 // and one more, from which the first differs
)

// Maybe is a number, or none: NaN, which is null in JSON.
type Maybe float64

// None is the Maybe that is no number.
func None() Maybe { return Maybe(math.NaN()) }

// IsNone reports whether m is no number.
func (m Maybe) IsNone() bool { return math.IsNaN(float64(m)) }

// MarshalJSON writes the number, or null.
func (m Maybe) MarshalJSON() ([]byte, error) {
	if m.IsNone() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(m))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (m *Maybe) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*m = None()
		return nil
	}
	return json.Unmarshal(b, (*float64)(m))
}

// History is what happened in the last minutes, in steps of IntervalSeconds, the
// latest last. All lists are of one length.
type History struct {
	IntervalSeconds   float64   `json:"interval_seconds"`
	Active            []float64 `json:"active"` // at the end of the step
	AcceptedPerSecond []float64 `json:"accepted_per_second"`
	RefusedPerSecond  []float64 `json:"refused_per_second"`
	BytesInPerSecond  []float64 `json:"bytes_in_per_second"`
	BytesOutPerSecond []float64 `json:"bytes_out_per_second"`
	// Of a hundred connections that got so far in the step 50, or 99, did within:
	HeaderP50  []Maybe `json:"header_p50_seconds"`
	HeaderP99  []Maybe `json:"header_p99_seconds"`
	ConnectP50 []Maybe `json:"connect_p50_seconds"`
	ConnectP99 []Maybe `json:"connect_p99_seconds"`
}

// Rates are what happens now: the mean of the last ten seconds, and quantiles of
// the last minute.
type Rates struct {
	AcceptedPerSecond float64 `json:"accepted_per_second"`
	RefusedPerSecond  float64 `json:"refused_per_second"`
	BytesInPerSecond  float64 `json:"bytes_in_per_second"`
	BytesOutPerSecond float64 `json:"bytes_out_per_second"`
	HeaderP50         Maybe   `json:"header_p50_seconds"`
	HeaderP99         Maybe   `json:"header_p99_seconds"`
	ConnectP50        Maybe   `json:"connect_p50_seconds"`
	ConnectP99        Maybe   `json:"connect_p99_seconds"`
}

// sample is the part of a tally that is remembered.
type sample struct {
	active            int
	accepted, refused uint64
	bytes             [2]uint64
	header, connect   record.Histogram
}

func sampleOf(t *record.ForwardTally) sample {
	return sample{
		active: t.Active, accepted: t.Accepted, refused: refused(&t.Tally), bytes: t.Bytes,
		header: t.HeaderTime, connect: t.ConnectTime,
	}
}

// refused is how many connections of a tally were not served.
func refused(t *record.Tally) (n uint64) {
	for _, o := range record.Outcomes() {
		if !o.Refused() {
			continue
		}
		for _, inPhase := range t.Closed[o] {
			n += inPhase
		}
	}
	return n
}

// memory remembers samples of each forward, by name, and of all together. Its
// methods may be called from any goroutine.
type memory struct {
	mu    sync.Mutex
	times []time.Time
	of    map[string][]sample // of one length with times, the oldest first; "" is all together
}

// add takes in what was counted by a moment.
func (m *memory) add(at time.Time, tallies []*record.ForwardTally) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[string][]sample{}
	}
	m.times = pushed(m.times, at)
	for _, t := range tallies {
		m.of[t.Name] = pushed(m.of[t.Name], sampleOf(t))
	}
	m.of[""] = pushed(m.of[""], sampleOf(together(tallies)))
}

// pushed returns a list with one more at its end, and without the first where
// that makes too many.
func pushed[T any](list []T, last T) []T {
	kept := list[max(0, len(list)-samplesKept):]
	return append(slices.Clone(kept), last)
}

// together adds tallies up.
func together(tallies []*record.ForwardTally) *record.ForwardTally {
	var all record.ForwardTally
	for _, t := range tallies {
		all.Active += t.Active
		all.Add(&t.Tally)
	}
	return &all
}

// history returns the last minutes of a forward.
func (m *memory) history(name string) History {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := History{IntervalSeconds: sampleEvery.Seconds()}
	steps := max(0, len(m.times)-1)
	for _, list := range []*[]float64{&h.Active, &h.AcceptedPerSecond, &h.RefusedPerSecond, &h.BytesInPerSecond, &h.BytesOutPerSecond} {
		*list = make([]float64, 0, steps)
	}
	for _, list := range []*[]Maybe{&h.HeaderP50, &h.HeaderP99, &h.ConnectP50, &h.ConnectP99} {
		*list = make([]Maybe, 0, steps)
	}
	samples := m.of[name]
	for i := 1; i < len(samples); i++ {
		r := ratesBetween(&samples[i-1], &samples[i], m.times[i].Sub(m.times[i-1]))
		h.Active = append(h.Active, float64(samples[i].active))
		h.AcceptedPerSecond = append(h.AcceptedPerSecond, r.AcceptedPerSecond)
		h.RefusedPerSecond = append(h.RefusedPerSecond, r.RefusedPerSecond)
		h.BytesInPerSecond = append(h.BytesInPerSecond, r.BytesInPerSecond)
		h.BytesOutPerSecond = append(h.BytesOutPerSecond, r.BytesOutPerSecond)
		h.HeaderP50, h.HeaderP99 = append(h.HeaderP50, r.HeaderP50), append(h.HeaderP99, r.HeaderP99)
		h.ConnectP50, h.ConnectP99 = append(h.ConnectP50, r.ConnectP50), append(h.ConnectP99, r.ConnectP99)
	}
	return h
}

// rates returns what a forward does now.
func (m *memory) rates(name string) Rates {
	m.mu.Lock()
	defer m.mu.Unlock()
	samples := m.of[name]
	last := len(samples) - 1
	if last < 1 {
		return Rates{HeaderP50: None(), HeaderP99: None(), ConnectP50: None(), ConnectP99: None()}
	}
	between := func(span time.Duration) Rates {
		from := max(0, last-int(span/sampleEvery))
		return ratesBetween(&samples[from], &samples[last], m.times[last].Sub(m.times[from]))
	}
	r, minute := between(10*time.Second), between(time.Minute)
	r.HeaderP50, r.HeaderP99 = minute.HeaderP50, minute.HeaderP99
	r.ConnectP50, r.ConnectP99 = minute.ConnectP50, minute.ConnectP99
	return r
}

// ratesBetween returns what happened from a to b.
func ratesBetween(a, b *sample, d time.Duration) Rates {
	perSecond := func(from, to uint64) float64 {
		if d <= 0 {
			return 0
		}
		return float64(to-from) / d.Seconds()
	}
	header, connect := since(&a.header, &b.header), since(&a.connect, &b.connect)
	return Rates{
		AcceptedPerSecond: perSecond(a.accepted, b.accepted),
		RefusedPerSecond:  perSecond(a.refused, b.refused),
		BytesInPerSecond:  perSecond(a.bytes[record.In], b.bytes[record.In]),
		BytesOutPerSecond: perSecond(a.bytes[record.Out], b.bytes[record.Out]),
		HeaderP50:         quantile(&header, 0.5), HeaderP99: quantile(&header, 0.99),
		ConnectP50: quantile(&connect, 0.5), ConnectP99: quantile(&connect, 0.99),
	}
}

// since returns what was counted after a and up to b.
func since(a, b *record.Histogram) record.Histogram {
	d := *b
	for i := range d.Counts {
		d.Counts[i] -= a.Counts[i]
	}
	return d
}

// quantile returns the duration in seconds within which the part q of those in h
// were, as Prometheus's histogram_quantile does: evenly spread between two
// bounds, and the last bound for what is beyond all.
func quantile(h *record.Histogram, q float64) Maybe {
	var total uint64
	for _, n := range h.Counts {
		total += n
	}
	if total == 0 {
		return None()
	}
	bounds := record.ShortBounds()
	rank, below := q*float64(total), 0.0
	for i, bound := range bounds {
		n := float64(h.Counts[i])
		if below+n < rank {
			below += n
			continue
		}
		lower := 0.0
		if i > 0 {
			lower = bounds[i-1].Seconds()
		}
		return Maybe(lower + (bound.Seconds()-lower)*(rank-below)/n)
	}
	return Maybe(bounds[len(bounds)-1].Seconds())
}
