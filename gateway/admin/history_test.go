package admin

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"unproxy/gateway/record"
)

// tallyAfter returns the tally after a number of steps. Each step accepts two
// connections, refuses one, and forwards 10 bytes in and 30 out.
func tallyAfter(name string, steps int) *record.ForwardTally {
	t := &record.ForwardTally{Name: name, Active: steps}
	n := uint64(steps)
	t.Accepted, t.Bytes = 2*n, [2]uint64{10 * n, 30 * n}
	t.Closed[record.Untrusted][record.Trust] = n
	t.Closed[record.OK][record.Relay] = 100 * n
	t.ConnectTime.Counts[3] = n // up to a millisecond
	return t
}

func TestHistory(t *testing.T) {
	var all recorder
	if h, r := all.history(""), all.rates(""); len(h.Active) != 0 || r.AcceptedPerSecond != 0 || !r.ConnectP99.IsNone() {
		t.Errorf("empty: %+v, %+v", h, r)
	}
	for i := range 100 {
		all.add(noon.Add(time.Duration(i)*sampleEvery), []*record.ForwardTally{tallyAfter("a", i), tallyAfter("b", 2*i)})
	}
	for name, factor := range map[string]float64{"a": 1, "b": 2, "": 3} {
		h, r := all.history(name), all.rates(name)
		for what, list := range map[string]struct {
			got  []float64
			want float64
		}{
			"accepted": {h.AcceptedPerSecond, 0.4}, "refused": {h.RefusedPerSecond, 0.2},
			"bytes in": {h.BytesInPerSecond, 2}, "bytes out": {h.BytesOutPerSecond, 6},
		} {
			if want := slices.Repeat([]float64{list.want * factor}, stepsKept); !about(list.got, want) {
				t.Errorf("%q %s: %v; want %v", name, what, list.got, want)
			}
		}
		if n := len(h.Active); n != stepsKept || h.Active[n-1] != 99*factor || h.Active[0] != 40*factor {
			t.Errorf("%q active: %v", name, h.Active)
		}
		if !about([]float64{r.AcceptedPerSecond, r.RefusedPerSecond, r.BytesInPerSecond, r.BytesOutPerSecond},
			[]float64{0.4 * factor, 0.2 * factor, 2 * factor, 6 * factor}) {
			t.Errorf("%q rates: %+v", name, r)
		}
		if p := float64(r.ConnectP50); p < 0.0005 || p > 0.001 || !r.HeaderP99.IsNone() ||
			len(h.ConnectP50) != stepsKept || len(h.HeaderP99) != stepsKept {
			t.Errorf("%q latencies: %+v", name, r)
		}
	}
	if h := all.history("none"); len(h.Active) != 0 {
		t.Errorf("history of an unknown forward: %+v", h)
	}
}

func about(got, want []float64) bool {
	return slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
}

// Rates are means over the last ten seconds, not since the start.
func TestRatesAreCurrent(t *testing.T) {
	var all recorder
	for i := range 20 {
		all.add(noon.Add(time.Duration(i)*sampleEvery), []*record.ForwardTally{tallyAfter("a", i*i)})
	}
	if r := all.rates("a"); !about([]float64{r.AcceptedPerSecond}, []float64{float64(2*(19*19-17*17)) / 10}) {
		t.Errorf("rates: %+v", r)
	}
}

// A quantile lies in the bucket of the exact quantile of the sorted values.
func TestQuantileAgainstSort(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bounds := record.ShortBounds()
	for range 300 {
		var h record.Histogram
		all := make([]time.Duration, 1+r.IntN(100))
		for i := range all {
			all[i] = time.Duration(math.Pow(10, r.Float64()*6)) * time.Microsecond
			bucket, _ := slices.BinarySearch(bounds, all[i])
			h.Counts[bucket]++
		}
		slices.Sort(all)
		for _, q := range []float64{0.01, 0.5, 0.99, 1} {
			exact := all[int(math.Ceil(q*float64(len(all))))-1]
			bucket, _ := slices.BinarySearch(bounds, exact)
			low, high := 0.0, bounds[min(bucket, len(bounds)-1)].Seconds()
			if bucket > 0 {
				low = bounds[bucket-1].Seconds()
			}
			if got := float64(quantile(&h, q)); got < low-1e-12 || got > high+1e-12 {
				t.Fatalf("quantile %v of %v is %v; want from %v to %v", q, all, got, low, high)
			}
		}
	}
	if !quantile(&record.Histogram{}, 0.5).IsNone() {
		t.Error("an empty histogram has a quantile")
	}
}

func TestMaybeInJSON(t *testing.T) {
	b, err := json.Marshal([]Maybe{1.5, None()})
	if err != nil || string(b) != "[1.5,null]" {
		t.Fatalf("%s, %v", b, err)
	}
	var back []Maybe
	if err := json.Unmarshal(b, &back); err != nil || back[0] != 1.5 || !back[1].IsNone() {
		t.Errorf("%v, %v", back, err)
	}
}
