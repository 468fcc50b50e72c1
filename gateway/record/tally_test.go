package record

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Second, 5 * time.Second, 5*time.Second + 1, time.Hour} {
		h.observe(d, &shortBounds)
	}
	want := Histogram{Seconds: h.Seconds}
	want.Counts[0], want.Counts[1], want.Counts[12], want.Counts[13], want.Counts[14] = 2, 1, 1, 1, 2
	if h != want {
		t.Errorf("counted %v; want %v: a bound counts what is equal to it", h.Counts, want.Counts)
	}
	if h.Seconds < 3611.0002 || h.Seconds > 3611.0003 {
		t.Errorf("sum %v", h.Seconds)
	}
}

// The bounds rise; Prometheus refuses others.
func TestBounds(t *testing.T) {
	for _, bounds := range [][]time.Duration{ShortBounds(), LongBounds()} {
		for i := 1; i < len(bounds); i++ {
			if bounds[i] <= bounds[i-1] {
				t.Errorf("%v after %v", bounds[i], bounds[i-1])
			}
		}
	}
}
