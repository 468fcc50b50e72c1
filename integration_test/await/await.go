// Package await bounds how long tests wait, in one place. A bound ends a test
// that would hang; it is no assertion about time, so it is far beyond what a
// busy machine needs.
package await

import (
	"testing"
	"time"
)

// Patience bounds every single wait.
const Patience = 3 * time.Minute

// margin is what a test keeps of the test binary's time (-timeout) to report
// what it waited for. Without it the binary panics and names no cause.
const margin = 5 * time.Second

// Between two looks at a condition the time grows from the one to the other.
const shortestPause, longestPause = time.Millisecond, 32 * time.Millisecond

// Deadline returns when a wait that begins now must end: after [Patience], or
// shortly before the test binary's own deadline if that comes first.
func Deadline(t testing.TB) time.Time {
	end := time.Now().Add(Patience)
	// A benchmark and a fuzz target have no deadline.
	if limited, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if last, ok := limited.Deadline(); ok && last.Add(-margin).Before(end) {
			return last.Add(-margin)
		}
	}
	return end
}

// For polls until the condition holds, and reports whether it ever did.
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

// Until polls until the condition holds. If it never does the test fails, and
// what says which condition that was.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if !For(t, holds) {
		t.Fatalf("still not so after %v: %s", Patience, what)
	}
}

// Receive returns the next value of a channel, or its zero value once it is
// closed. If none comes the test fails, and what names the value.
func Receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Until(Deadline(t))):
		t.Fatalf("%s did not come within %v", what, Patience)
		panic("unreachable")
	}
}
