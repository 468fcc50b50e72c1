package engine

import (
	"io"
	"runtime"
	"testing"
	"time"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

func newSpinningRig(t *testing.T, d time.Duration) *rig {
	f := plainForward(serverA)
	f.HeaderTimeout = 100 * time.Millisecond
	return newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{f}, Spin: d})
}

// A loop polls until the time to spin has passed since the last event, then sleeps. It does not
// spin before the first event, nor if spinning is off.
func TestSpin(t *testing.T) {
	const us = time.Microsecond
	for _, tt := range []struct {
		name   string
		spin   time.Duration
		passes []time.Duration // before each poll
		sleeps []bool          // at each poll
	}{
		{"off", 0, []time.Duration{0, us}, []bool{true, true}},
		{"for the time set", 50 * us, []time.Duration{0, 49 * us, 1 * us, 0}, []bool{false, false, false, true}},
		{"no longer than that", 50 * us, []time.Duration{50 * us, 0}, []bool{false, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newSpinningRig(t, tt.spin)
			r.turn()
			if r.lastTimeout == 0 {
				t.Error("spins before the first event")
			}
			from := r.arrive(r.listenerSocket(0), lb)
			for range 2 { // the connection, then some bytes on it
				r.turn()
				for i, pass := range tt.passes {
					r.clock += int64(pass)
					if r.turn(); (r.lastTimeout != 0) != tt.sleeps[i] {
						t.Errorf("poll %d after an event: sleeps %v, want %v", i, r.lastTimeout != 0, tt.sleeps[i])
					}
				}
				from.deliver([]byte("P"))
			}
		})
	}
}

func TestSpinServesTimersAndMailbox(t *testing.T) {
	r := newSpinningRig(t, 10*time.Millisecond)
	from := r.arrive(r.listenerSocket(0), lb)
	r.settle()
	r.clock += int64(95 * time.Millisecond)
	from.deliver([]byte("PROXY"))
	r.settle()
	polls, called := 0, false
	for ; len(r.records) == 0 && polls < 100; polls++ {
		r.clock += int64(100 * time.Microsecond)
		r.turn()
		if r.lastTimeout != 0 {
			t.Fatalf("sleeps after %d polls, before the deadline", polls)
		}
	}
	r.expectEnd(1, record.HeaderTimeout, record.Header, record.Timeout)
	if polls < 2 {
		t.Errorf("%d polls: the loop did not spin", polls)
	}
	r.expectClean()

	r.loop().call(func() { called = true })
	if r.turn(); !called || r.lastTimeout != 0 {
		t.Errorf("called %v, slept %v", called, r.lastTimeout)
	}
}

// Spinning loops share one processor of the Go runtime with each other, with other goroutines and
// with the garbage collector, and nothing starves.
func TestRealSpin(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	ln, to := server(t)
	l := startRealWith(t, Config{Forwards: []*forward.Forward{loopback(to)}, Spin: 10 * time.Millisecond})
	var clients, backends [2]halfCloser
	for i := range clients {
		clients[i] = l.dial(0, header)
		backends[i] = accept(t, ln)
	}
	b := make([]byte, 4)
	for range 10 {
		for i := range clients {
			for _, way := range [][2]halfCloser{{clients[i], backends[i]}, {backends[i], clients[i]}} {
				if _, err := io.WriteString(way[0], "ball"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(way[1], b); err != nil {
					t.Fatal(err)
				}
			}
		}
		runtime.GC()
	}
}
