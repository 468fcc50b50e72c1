package record

import "time"

// numBounds is the number of bounds of a histogram.
const numBounds = 14

// Headers and backends take a network round trip, or seconds when something is
// wrong. Connections last from microseconds to days.
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

// ShortBounds returns the inclusive upper bounds of [Tally.HeaderTime] and
// [Tally.ConnectTime], in ascending order.
func ShortBounds() []time.Duration { return shortBounds[:len(shortBounds):len(shortBounds)] }

// LongBounds returns the inclusive upper bounds of [Tally.Duration], in
// ascending order.
func LongBounds() []time.Duration { return longBounds[:len(longBounds):len(longBounds)] }

// Histogram counts durations by size. The zero value is ready to use.
type Histogram struct {
	// Counts[i] is the number of durations above bound i-1 and up to bound i;
	// the last element counts those above all bounds. It is not cumulative.
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
