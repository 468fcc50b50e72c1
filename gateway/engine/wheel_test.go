package engine

import (
	"math/rand/v2"
	"testing"
	"time"
)

const (
	level1  = int64(slots) * tick
	level2  = int64(slots) * level1
	horizon = int64(maxTicks) * tick
)

// wheelOracle is a wheel and a plain list of the same deadlines, in ticks.
type wheelOracle struct {
	testing.TB
	*wheel
	timers    []timer
	deadlines map[*timer]int64
	clock     int64
}

func newWheelOracle(t testing.TB, timers int) *wheelOracle {
	start := int64(3*time.Hour) + 12345
	return &wheelOracle{TB: t, wheel: newWheel(start), timers: make([]timer, timers),
		deadlines: map[*timer]int64{}, clock: start}
}

func (w *wheelOracle) arm(t *timer, deadline int64) {
	w.wheel.arm(t, deadline)
	now := w.clock / tick
	w.deadlines[t] = min(max((deadline+tick-1)/tick, now+1), now+maxTicks)
}

func (w *wheelOracle) disarm(t *timer) {
	w.wheel.disarm(t)
	delete(w.deadlines, t)
}

// pass moves the clock and checks that exactly the due timers fire, in order.
func (w *wheelOracle) pass(d int64) {
	w.Helper()
	w.clock += d
	last := int64(0)
	w.advance(w.clock, func(t *timer) {
		due, ok := w.deadlines[t]
		if !ok || due > w.clock/tick || due < last {
			w.Fatalf("a timer for tick %d (armed: %v) fired at %d, after one for %d", due, ok, w.clock/tick, last)
		}
		if t.armed() {
			w.Fatal("a firing timer is armed")
		}
		last = due
		delete(w.deadlines, t)
	})
	for _, due := range w.deadlines {
		if due <= w.clock/tick {
			w.Fatalf("the timer for tick %d did not fire by %d", due, w.clock/tick)
		}
	}
	w.check()
}

// check compares the wheel's own figures with the list.
func (w *wheelOracle) check() {
	w.Helper()
	if w.count != len(w.deadlines) {
		w.Fatalf("%d timers are counted, %d are armed", w.count, len(w.deadlines))
	}
	sleep := w.wait(w.clock)
	if len(w.deadlines) == 0 {
		if sleep != noDeadline {
			w.Fatalf("sleeps %d ms without a timer", sleep)
		}
		return
	}
	next := int64(1) << 62
	for _, due := range w.deadlines {
		next = min(next, due*tick)
	}
	// Rounded up to the millisecond, because epoll_wait(2) rounds down.
	if woken := w.clock + int64(sleep)*int64(time.Millisecond); sleep < 0 || woken >= next+int64(time.Millisecond) {
		w.Fatalf("sleeps %d ms, the next deadline is in %v", sleep, time.Duration(next-w.clock))
	}
}

// nearBoundary is a duration near a boundary between levels.
func nearBoundary(r *rand.Rand) int64 {
	base := []int64{0, tick, level1, 2 * level1, level2, 3 * level2, horizon, horizon + level2}[r.IntN(8)]
	return max(0, base+r.Int64N(5*tick)-2*tick)
}

func TestWheelAgainstList(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWheelOracle(t, 40)
		for range 4000 {
			timer := &w.timers[r.IntN(len(w.timers))]
			switch r.IntN(6) {
			case 0:
				w.disarm(timer)
			case 1:
				w.arm(timer, w.clock+nearBoundary(r))
			case 2:
				w.arm(timer, w.clock+r.Int64N(20*level1))
			case 3:
				w.pass(r.Int64N(3 * tick))
			case 4:
				w.pass(r.Int64N(level1))
			case 5:
				if r.IntN(40) == 0 {
					w.pass(r.Int64N(3 * level2))
				}
			}
			w.check()
		}
	}
}

// A loop that sleeps as long as wait says wakes up at most once per level for each deadline.
func TestWheelWakeUps(t *testing.T) {
	for _, ahead := range []int64{1, tick, level1 - 1, level1, level1 + 1, level2, level2 + tick, 5*level2 + 7,
		horizon} {
		w := newWheelOracle(t, 1)
		w.arm(&w.timers[0], w.clock+ahead)
		wakes := 0
		for ; len(w.deadlines) > 0; wakes++ {
			w.pass(int64(w.wait(w.clock)) * int64(time.Millisecond))
		}
		if wakes > levels {
			t.Errorf("%v ahead: %d wake-ups", time.Duration(ahead), wakes)
		}
	}
}

// After a long time without timers, deadlines count from now.
func TestWheelAfterLongIdleTime(t *testing.T) {
	w := newWheelOracle(t, 2)
	w.clock += 3 * horizon
	w.skip(w.clock)
	w.arm(&w.timers[0], w.clock+int64(5*time.Second))
	w.pass(int64(4 * time.Second))
	if len(w.deadlines) != 1 {
		t.Error("fired a second early")
	}
	w.pass(int64(2 * time.Second))
	w.pass(3 * horizon)
	w.arm(&w.timers[1], w.clock-horizon) // long past
	w.pass(tick)
	if len(w.deadlines) != 0 {
		t.Error("a deadline in the past was not served at the next tick")
	}
}

// A timer that fires may arm itself and others, and disarm others that are due in the same tick.
func TestWheelTimersArmAndDisarm(t *testing.T) {
	w := newWheel(0)
	var timers [4]timer
	for i := range timers {
		w.arm(&timers[i], tick)
	}
	fired := 0
	for now := tick; now < 3*level1; now += tick / 2 {
		w.advance(now, func(t *timer) {
			fired++
			for i := range timers {
				w.disarm(&timers[i])
			}
			w.arm(t, now) // now, but not in this tick
		})
	}
	if want := int(3*level1/tick) - 1; fired != want {
		t.Errorf("fired %d times, want %d", fired, want)
	}
}

func BenchmarkWheelWait(b *testing.B) {
	for _, row := range []struct {
		name  string
		ahead time.Duration
	}{{"soon", 100 * time.Millisecond}, {"five seconds", 5 * time.Second}, {"ten minutes", 10 * time.Minute}} {
		b.Run(row.name, func(b *testing.B) {
			w := newWheel(0)
			var t timer
			w.arm(&t, int64(row.ahead))
			for b.Loop() {
				w.wait(0)
			}
		})
	}
}

func BenchmarkWheelArm(b *testing.B) {
	w := newWheel(0)
	var t timer
	for b.Loop() {
		w.arm(&t, int64(5*time.Second))
	}
}
