package leaks

import (
	"os"
	"testing"
	"time"
)

// brief is a test without time left, so Check does not wait.
type brief struct {
	*testing.T
	cleanups []func()
	failed   bool
}

func (b *brief) Deadline() (time.Time, bool)    { return time.Now(), true }
func (b *brief) Cleanup(f func())               { b.cleanups = append(b.cleanups, f) }
func (b *brief) Errorf(format string, _ ...any) { b.failed = true }

func (b *brief) end() {
	for _, f := range b.cleanups {
		f()
	}
}

func TestCheck(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	for _, row := range []struct {
		name  string
		leave func(t *testing.T)
		fails bool
	}{
		{"nothing", func(*testing.T) {}, false},
		{"a descriptor", func(t *testing.T) {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
		}, true},
		{"a goroutine", func(*testing.T) { go func() { <-stop }() }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := &brief{T: t}
			Check(b)
			row.leave(t)
			b.end()
			if b.failed != row.fails {
				t.Errorf("found a leak: %v, want %v", b.failed, row.fails)
			}
		})
	}
}
