package allocations

import (
	"sync"
	"testing"
)

var sink any

func TestPerRun(t *testing.T) {
	calls, pool := 0, sync.Pool{New: func() any { return new([4]int) }}
	for _, row := range []struct {
		name string
		f    func()
		want float64
	}{
		{"nothing", func() {}, 0},
		{"one each time", func() { sink = new(int) }, 1},
		{"three each time", func() { sink, sink, sink = new(int), new([2]int), new([3]int) }, 3},
		{"a pool, which the race detector empties at random", func() { pool.Put(pool.Get()) }, 0},
		{"growing at first", func() {
			if calls++; calls < 50 {
				sink, sink, sink, sink = new(int), new(int), new(int), new(int)
			}
		}, 0},
	} {
		if got := PerRun(100, row.f); got != row.want {
			t.Errorf("%s: %v allocations, want %v", row.name, got, row.want)
		}
	}
}

// The control: the allocations of others show in a single measurement, and not in PerRun.
func TestPerRunIgnoresOtherGoroutines(t *testing.T) {
	disturb := true
	quiet := func() {
		if disturb { // as another goroutine would during the call
			for range 200 {
				sink = new(int)
			}
		}
	}
	if got := testing.AllocsPerRun(100, quiet); got < 100 {
		t.Fatalf("the disturbance does not show: %v allocations", got)
	}
	measurements := 0
	got := PerRun(100, func() {
		measurements++
		disturb = measurements < 5*101 // AllocsPerRun calls once more, to warm up
		quiet()
	})
	if got != 0 {
		t.Errorf("%v allocations beside others, want 0", got)
	}
}
