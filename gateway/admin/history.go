package admin

import (
	"encoding/json"
	"math"
	"slices"
	"sync"
	"time"

	"unproxy/gateway/record"
)

// The history covers the last five minutes, and current rates shorter spans.
const (
	sampleEvery  = 5 * time.Second
	stepsKept    = 60 // differences between samples: one less than samples
	rateSpan     = 10 * time.Second
	quantileSpan = time.Minute
)

// Maybe is a number or none. None is NaN here and null in JSON. The zero value is
// the number 0.
type Maybe float64

// None returns the Maybe without a number.
func None() Maybe { return Maybe(math.NaN()) }

// IsNone reports whether m has no number.
func (m Maybe) IsNone() bool { return math.IsNaN(float64(m)) }

// MarshalJSON implements [json.Marshaler].
func (m Maybe) MarshalJSON() ([]byte, error) {
	if m.IsNone() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(m))
}

// UnmarshalJSON implements [json.Unmarshaler].
func (m *Maybe) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*m = None()
		return nil
	}
	return json.Unmarshal(b, (*float64)(m))
}

// History is the activity of the last minutes in steps of IntervalSeconds, the
// latest step last. All lists have the same length, at most 60.
type History struct {
	IntervalSeconds   float64   `json:"interval_seconds"`
	Active            []float64 `json:"active"` // at the end of the step
	AcceptedPerSecond []float64 `json:"accepted_per_second"`
	RefusedPerSecond  []float64 `json:"refused_per_second"`
	BytesInPerSecond  []float64 `json:"bytes_in_per_second"`
	BytesOutPerSecond []float64 `json:"bytes_out_per_second"`
	// Quantiles of the time from accept to the last byte of the header, and from
	// there until the backend accepted; none if the step had no such event.
	HeaderP50  []Maybe `json:"header_p50_seconds"`
	HeaderP99  []Maybe `json:"header_p99_seconds"`
	ConnectP50 []Maybe `json:"connect_p50_seconds"`
	ConnectP99 []Maybe `json:"connect_p99_seconds"`
}

// Rates is the current activity: means over the last ten seconds, and quantiles, as
// in [History], over the last minute.
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

// sample is the part of a tally that the history needs.
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

// refused returns the number of connections of a tally that were not served, without
// those with a LOCAL header.
func refused(t *record.Tally) (n uint64) {
	for _, o := range record.Outcomes() {
		if !o.Refused() {
			continue
		}
		for _, inPhase := range t.Closed[o] {
			n += inPhase
		}
		n -= t.Local[o]
	}
	return n
}

// recorder keeps the latest samples of each forward, and of all forwards together.
// The zero value is empty. Its methods may be called from any goroutine.
type recorder struct {
	mu    sync.Mutex
	times []time.Time
	// byForward holds a sample for each of times, the oldest first. The key is
	// a forward's name, or "" for all forwards together.
	byForward map[string][]sample
}

// add adds a sample of the tallies at a time.
func (r *recorder) add(at time.Time, tallies []*record.ForwardTally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byForward == nil {
		r.byForward = map[string][]sample{}
	}
	r.times = appendSample(r.times, at)
	for _, t := range tallies {
		r.byForward[t.Name] = appendSample(r.byForward[t.Name], sampleOf(t))
	}
	r.byForward[""] = appendSample(r.byForward[""], sampleOf(sum(tallies)))
}

// appendSample returns a copy of list with last appended, and without its first
// element if there are too many.
func appendSample[T any](list []T, last T) []T {
	kept := list[max(0, len(list)-stepsKept):]
	return append(slices.Clone(kept), last)
}

// sum adds tallies up.
func sum(tallies []*record.ForwardTally) *record.ForwardTally {
	var all record.ForwardTally
	for _, t := range tallies {
		all.Active += t.Active
		all.Add(&t.Tally)
	}
	return &all
}

// newHistory returns a history without steps: its lists are empty but not nil, so
// that they are lists in JSON.
func newHistory(capacity int) History {
	h := History{IntervalSeconds: sampleEvery.Seconds()}
	for _, list := range []*[]float64{
		&h.Active, &h.AcceptedPerSecond, &h.RefusedPerSecond, &h.BytesInPerSecond, &h.BytesOutPerSecond,
	} {
		*list = make([]float64, 0, capacity)
	}
	for _, list := range []*[]Maybe{&h.HeaderP50, &h.HeaderP99, &h.ConnectP50, &h.ConnectP99} {
		*list = make([]Maybe, 0, capacity)
	}
	return h
}

// history returns the history of a forward.
func (r *recorder) history(name string) History {
	r.mu.Lock()
	defer r.mu.Unlock()
	samples := r.byForward[name]
	h := newHistory(max(0, len(samples)-1))
	for i := 1; i < len(samples); i++ {
		step := ratesBetween(&samples[i-1], &samples[i], r.times[i].Sub(r.times[i-1]))
		h.Active = append(h.Active, float64(samples[i].active))
		h.AcceptedPerSecond = append(h.AcceptedPerSecond, step.AcceptedPerSecond)
		h.RefusedPerSecond = append(h.RefusedPerSecond, step.RefusedPerSecond)
		h.BytesInPerSecond = append(h.BytesInPerSecond, step.BytesInPerSecond)
		h.BytesOutPerSecond = append(h.BytesOutPerSecond, step.BytesOutPerSecond)
		h.HeaderP50, h.HeaderP99 = append(h.HeaderP50, step.HeaderP50), append(h.HeaderP99, step.HeaderP99)
		h.ConnectP50, h.ConnectP99 = append(h.ConnectP50, step.ConnectP50), append(h.ConnectP99, step.ConnectP99)
	}
	return h
}

// rates returns the current rates of a forward.
func (r *recorder) rates(name string) Rates {
	r.mu.Lock()
	defer r.mu.Unlock()
	samples := r.byForward[name]
	last := len(samples) - 1
	if last < 1 {
		return Rates{HeaderP50: None(), HeaderP99: None(), ConnectP50: None(), ConnectP99: None()}
	}
	over := func(span time.Duration) Rates {
		from := max(0, last-int(span/sampleEvery))
		return ratesBetween(&samples[from], &samples[last], r.times[last].Sub(r.times[from]))
	}
	now, quantiles := over(rateSpan), over(quantileSpan)
	now.HeaderP50, now.HeaderP99 = quantiles.HeaderP50, quantiles.HeaderP99
	now.ConnectP50, now.ConnectP99 = quantiles.ConnectP50, quantiles.ConnectP99
	return now
}

// ratesBetween returns the rates between two samples that are d apart.
func ratesBetween(a, b *sample, d time.Duration) Rates {
	perSecond := func(from, to uint64) float64 {
		if d <= 0 {
			return 0
		}
		return float64(to-from) / d.Seconds()
	}
	header, connect := difference(&a.header, &b.header), difference(&a.connect, &b.connect)
	return Rates{
		AcceptedPerSecond: perSecond(a.accepted, b.accepted),
		RefusedPerSecond:  perSecond(a.refused, b.refused),
		BytesInPerSecond:  perSecond(a.bytes[record.In], b.bytes[record.In]),
		BytesOutPerSecond: perSecond(a.bytes[record.Out], b.bytes[record.Out]),
		HeaderP50:         quantile(&header, 0.5), HeaderP99: quantile(&header, 0.99),
		ConnectP50: quantile(&connect, 0.5), ConnectP99: quantile(&connect, 0.99),
	}
}

// difference returns the events of b that a does not have.
func difference(a, b *record.Histogram) record.Histogram {
	d := *b
	for i := range d.Counts {
		d.Counts[i] -= a.Counts[i]
	}
	return d
}

// quantile estimates the quantile q of h in seconds, as Prometheus's
// histogram_quantile does: it interpolates linearly within a bucket, and returns
// the highest bound for the bucket beyond it. It returns none if h is empty.
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
