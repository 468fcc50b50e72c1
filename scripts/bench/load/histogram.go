package load

import (
	"math/bits"
	"time"
)

// Histogram counts durations in 64 buckets per power of two, so a percentile is accurate to
// 1 %. The zero value is empty.
type Histogram struct {
	counts [(histogramPowers + 1) * histogramSteps]uint32
	total  uint64
}

const (
	histogramSteps  = 64
	histogramPowers = 32 // up to 2^38 ns, four and a half minutes
)

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
}

// bucket returns the bucket of a duration.
func bucket(d time.Duration) int {
	n := uint64(max(d, 0))
	power := max(0, bits.Len64(n)-7)
	return min(power*histogramSteps+int(n>>power), (histogramPowers+1)*histogramSteps-1)
}

// Percentile returns the duration that a fraction p of all durations does not exceed, p
// from 0 to 1. It is 0 if nothing was counted.
func (h *Histogram) Percentile(p float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := min(uint64(p*float64(h.total)), h.total-1)
	var seen uint64
	for i, n := range h.counts {
		seen += uint64(n)
		if seen > rank {
			return middle(i)
		}
	}
	return 0
}

// middle returns the duration in the middle of a bucket.
func middle(i int) time.Duration {
	if i < 2*histogramSteps {
		return time.Duration(i)
	}
	power := i/histogramSteps - 1
	low := uint64(i-power*histogramSteps) << power
	return time.Duration(low + (1<<power)/2)
}
