// Package await sets one bound for all waits of tests. The bound ends tests that hang. It
// is not an assertion about time, so it is much longer than a busy machine needs.
package await

import (
	"testing"
	"time"
)

// Patience is the bound of each wait.
const Patience = 3 * time.Minute

// margin is the time before the timeout of the test binary (-timeout) in which a test
// reports what it waited for. After the timeout the binary panics without that.
const margin = 5 * time.Second

// The pause between two checks of a condition grows from the first to the second.
const shortestPause, longestPause = time.Millisecond, 32 * time.Millisecond

// Deadline returns the end of a wait that begins now: after [Patience], or shortly before
// the timeout of the test binary if that is earlier.
func Deadline(t testing.TB) time.Time {
	end := time.Now().Add(Patience)
	// Benchmarks and fuzz targets have no timeout.
	if limited, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if last, ok := limited.Deadline(); ok && last.Add(-margin).Before(end) {
			return last.Add(-margin)
		}
	}
	return end
}

// For polls until the condition holds, and reports whether it did.
func For(t testing.TB, holds func() bool) bool {
	end := Deadline(t)
	for pause := shortestPause; !holds(); pause = min(2*pause, longestPause) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Until polls until the condition holds, and fails the test if it does not. what describes
// the condition.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if !For(t, holds) {
		t.Fatalf("not true after %v: %s", Patience, what)
	}
}

// Receive returns the next value from a channel, or the zero value if it is closed. It
// fails the test if there is none. what describes the value.
func Receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Until(Deadline(t))):
		t.Fatalf("not received within %v: %s", Patience, what)
		panic("unreachable")
	}
}
