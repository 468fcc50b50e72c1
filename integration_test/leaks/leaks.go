// Package leaks finds descriptors and goroutines that a test leaves behind.
package leaks

import (
	"net"
	"os"
	"runtime"
	"testing"

	"unproxy/integration_test/await"
)

// Check counts the descriptors and goroutines of the process, and at the end of the test
// waits until there are no more than these. Clean-ups that are registered after Check
// run before. No other test may run at the same time.
func Check(t testing.TB) {
	t.Helper()
	useNetwork(t)
	before := count(t)
	t.Cleanup(func() {
		var now counts
		if !await.For(t, func() bool {
			now = count(t)
			return now.descriptors <= before.descriptors && now.goroutines <= before.goroutines
		}) {
			t.Errorf("%+v at the end, %+v at the beginning", now, before)
		}
	})
}

// useNetwork makes the runtime open its poller, which stays open.
func useNetwork(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

type counts struct{ descriptors, goroutines int }

func count(t testing.TB) counts {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return counts{descriptors: len(open), goroutines: runtime.NumGoroutine()}
}
