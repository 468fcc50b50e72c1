package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The oracle sorts.
func TestPercentilesMatchASortedList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, most := range []float64{50, 5e3, 1e6, 1e9, 2e11} {
		var h Histogram
		all := make([]time.Duration, 10_000)
		for i := range all {
			all[i] = time.Duration(math.Exp(random.Float64() * math.Log(most)))
			h.Add(all[i])
		}
		slices.Sort(all)
		for _, p := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := all[min(int(p*float64(len(all))), len(all)-1)]
			got := h.Percentile(p)
			if difference := (got - want).Abs().Seconds(); difference > want.Seconds()/100 {
				t.Errorf("up to %v: percentile %v is %v, not %v", time.Duration(most), 100*p, got, want)
			}
		}
	}
}

func TestHistogramEdges(t *testing.T) {
	var h Histogram
	if got := h.Percentile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	h.Add(-1)
	if got := h.Percentile(1); got != 0 {
		t.Errorf("of a negative duration: %v", got)
	}
	h.Add(math.MaxInt64)
	if got := h.Percentile(1); got < 4*time.Minute {
		t.Errorf("of a very long one: %v", got)
	}
}

// The middle of each bucket is counted in that bucket.
func TestMiddleOfABucketIsInIt(t *testing.T) {
	for i := range len(Histogram{}.counts) {
		if got := bucket(middle(i)); got != i {
			t.Fatalf("bucket %d has the middle %v, which is counted in %d", i, middle(i), got)
		}
	}
}
