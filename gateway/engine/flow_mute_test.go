package engine

import (
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// While the receiver takes nothing, what arrives raises no events. Everything arrives when it reads
// again.
func TestBlockedStreamIsMuted(t *testing.T) {
	for _, marked := range []bool{false, true} {
		r := newBulkRig(t, func(r *bulkRig) {
			r.sendRoom = 64 << 20
			if !marked {
				r.optionError = func(_, name int) unix.Errno {
					if name == unix.SO_RCVLOWAT {
						return unix.EOPNOTSUPP
					}
					return 0
				}
			}
		})
		r.client.room = 1000
		send := func(n int) {
			b := randomBytes(n)
			r.sent = append(r.sent, b...)
			r.server.deliver(b)
		}
		for range 3 { // the first blocks, the second is told
			send(lowWater)
			r.pass()
		}
		send(lowWater)
		if r.server.ready {
			t.Error("more input wakes the loop")
		}
		for range 4 * lowWater / 500 {
			r.client.consume(1000)
			r.settle()
		}
		r.expectArrived("after the blockage")
		r.client.room = 64 << 20
		r.stream(100)
		r.settle()
		r.expectArrived("and then")
	}
}

// A muted side still reports its end and its errors.
func TestMutedSideEnds(t *testing.T) {
	for _, row := range []struct {
		name    string
		end     func(*bulkRig)
		outcome record.Outcome
	}{
		{"FIN", func(r *bulkRig) { r.server.sendFIN() }, record.OK},
		{"reset", func(r *bulkRig) { r.server.reset() }, record.Reset},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newBulkRig(t)
			r.client.room = 1000
			for range 3 {
				r.server.deliver(randomBytes(lowWater))
				r.pass()
			}
			row.end(r)
			r.settle()
			r.client.room = 64 << 20
			r.client.consume(len(r.client.received))
			r.settle()
			r.client.sendFIN()
			r.settle()
			if c := r.lastRecord(1); c.Outcome != row.outcome {
				t.Errorf("ended %v, want %v", c.Outcome, row.outcome)
			}
			r.expectClean()
		})
	}
}

// newUnsteadyRig is a session whose stream was too slow for the mark, so it is not steady.
func newUnsteadyRig(t *testing.T) *bulkRig {
	t.Helper()
	r := newBulkRig(t)
	for range maxTails {
		r.stream(bulkRead)
		r.clock += lowWaterDelay
		r.pass()
	}
	r.expectMark(1)
	return r
}

// block makes the client take nothing, and the backend send until the gateway holds bytes.
func (r *bulkRig) block() {
	r.client.consume(len(r.client.received))
	r.client.room = 1000
	r.send(lowWater)
	r.pass()
}

func (r *bulkRig) send(n int) {
	b := randomBytes(n)
	r.sent = append(r.sent, b...)
	r.server.deliver(b)
}

// The socket of a stream that is not steady is muted after maxVain events in a row that moved nothing.
func TestVainEventsMute(t *testing.T) {
	r := newUnsteadyRig(t)
	r.block()
	for i := range maxVain {
		r.send(1)
		if !r.server.ready {
			t.Fatalf("after %d events in vain input does not wake the loop", i)
		}
		r.pass()
	}
	r.send(1)
	if r.server.ready {
		t.Error("more input wakes the loop")
	}
	r.client.room = 64 << 20
	r.client.consume(len(r.client.received))
	r.settle()
	r.expectArrived("after the blockage")
	r.stream(100)
	r.expectArrived("and then")
}

// An event with which the receiver takes something is not in vain, although no EPOLLOUT has come.
func TestEventsThatMoveBytesDoNotMute(t *testing.T) {
	r := newUnsteadyRig(t)
	r.block()
	for i := range 4 * maxVain {
		r.client.consumed += 100 // less than what raises EPOLLOUT
		r.send(1)
		if !r.server.ready {
			t.Fatalf("after %d events that moved bytes input does not wake the loop", i)
		}
		r.pass()
	}
	r.client.room = 64 << 20
	r.client.consume(len(r.client.received))
	r.settle()
	r.expectArrived("after the blockage")
}
