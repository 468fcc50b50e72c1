package engine

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// bulkRig is a session with a stream in bulk from the backend to the peer. The test moves the
// clock: pass runs the loop without doing that.
type bulkRig struct {
	*rig
	client, server *file
	sent           []byte // by the backend
}

// pass turns the loop until only time brings more.
func (r *bulkRig) pass() {
	for r.turn() {
	}
}

// stream makes the backend send n bytes, which the client reads.
func (r *bulkRig) stream(n int) {
	b := randomBytes(n)
	r.sent = append(r.sent, b...)
	r.server.deliver(b)
	r.pass()
	r.client.consume(len(r.client.received))
	r.pass()
}

func (r *bulkRig) expectArrived(what string) {
	r.Helper()
	if !bytes.Equal(r.client.received, r.sent) {
		r.Errorf("%s: %d of %d bytes arrived, or different ones", what, len(r.client.received), len(r.sent))
	}
}

// expectWaits checks that a part of what was sent has not arrived.
func (r *bulkRig) expectWaits(what string) {
	r.Helper()
	if len(r.client.received) >= len(r.sent) {
		r.Errorf("%s: all %d bytes arrived at once: no mark is set", what, len(r.sent))
	}
}

// expectMark checks the low-water mark of the backend's socket; 1 is the default.
func (r *bulkRig) expectMark(n int) {
	r.Helper()
	if got := max(1, r.server.lowat); got != n {
		r.Errorf("the low-water mark is %d, want %d", got, n)
	}
}

// newBulkRig is a session that has moved more than lowWaterAfter.
func newBulkRig(t *testing.T, change ...func(*bulkRig)) *bulkRig {
	t.Helper()
	k := newScript(t, 0)
	k.sendRoom = 64 << 20
	r := &bulkRig{rig: newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})}
	r.client = r.open(header)
	r.server = r.backend()
	for _, f := range change {
		f(r)
	}
	for range 8 {
		r.stream(lowWater)
	}
	return r
}

// In bulk a socket reports only lowWater bytes. What stays below that is read after lowWaterDelay,
// and not before.
func TestTailIsReadAfterDelay(t *testing.T) {
	r := newBulkRig(t)
	r.expectArrived("full marks")
	r.expectMark(lowWater)
	r.stream(lowWater - 1)
	r.expectWaits("a tail")
	if r.lastTimeout <= 0 || r.lastTimeout > time.Duration(lowWaterDelay) {
		t.Errorf("the loop sleeps %v", r.lastTimeout)
	}
	r.clock += int64(r.lastTimeout) - 1
	r.pass()
	r.expectWaits("before the delay")
	r.clock++
	r.pass()
	r.expectArrived("after the delay")
	r.stream(1)
	r.expectWaits("the second tail")
	r.clock += lowWaterDelay
	r.pass()
	r.expectArrived("the second tail")
}

// A stream that reaches the mark is not delayed.
func TestMarkReached(t *testing.T) {
	r := newBulkRig(t)
	r.stream(lowWater / 2)
	r.expectWaits("half of the mark")
	r.stream(lowWater / 2)
	r.expectArrived("the mark")
	r.stream(5 * lowWater)
	r.expectArrived("five marks")
}

// A stream that pauses has no mark when it goes on, and the loop sleeps without limit.
func TestPauseRemovesMark(t *testing.T) {
	for _, tail := range []int{0, 1000} {
		r := newBulkRig(t)
		r.stream(tail)
		for range 3 {
			r.clock += lowWaterDelay
			r.pass()
		}
		r.expectMark(1)
		if r.lastTimeout >= 0 {
			t.Errorf("the loop of an idle session sleeps %v", r.lastTimeout)
		}
		r.stream(1000)
		r.expectArrived("after a pause")
	}
}

// The mark is removed when bulk ends, and what is there is not forgotten.
func TestMarkEndsWithBulk(t *testing.T) {
	t.Run("small moves", func(t *testing.T) {
		r := newBulkRig(t)
		for range bulkAfter {
			r.stream(100)
			r.clock += lowWaterDelay
			r.pass()
		}
		r.expectMark(1)
		r.stream(100)
		r.expectArrived("after small moves")
	})
	t.Run("no pipe", func(t *testing.T) {
		r := newBulkRig(t)
		for _, p := range r.loop().pipes.idle {
			r.loop().pipes.closePipe(p)
		}
		r.loop().pipes.idle = nil
		r.pipeErrors = unix.EMFILE
		r.stream(lowWater + 5)
		r.expectMark(1)
		r.stream(100)
		r.expectArrived("without a pipe")
	})
	t.Run("splice(2) is refused", func(t *testing.T) {
		r := newBulkRig(t)
		r.spliceError = unix.EINVAL
		r.stream(lowWater + 5)
		r.expectMark(1)
		r.stream(100)
		r.expectArrived("without splice")
	})
	t.Run("urgent data", func(t *testing.T) {
		r := newBulkRig(t)
		r.sent = append(r.sent, "abc"...)
		r.server.deliverUrgent([]byte("abc"))
		r.pass()
		r.expectMark(1)
		r.stream(100)
		if len(r.client.received) < len(r.sent)-1 { // the kernel keeps the urgent byte
			t.Errorf("%d of %d bytes arrived", len(r.client.received), len(r.sent))
		}
	})
}

// A FIN is forwarded with the tail before it, without a delay. The other direction continues.
func TestMarkAndHalfClose(t *testing.T) {
	r := newBulkRig(t)
	b := randomBytes(1000)
	r.sent = append(r.sent, b...)
	r.server.deliver(b)
	r.server.sendFIN()
	r.pass()
	r.expectArrived("before the FIN")
	if !r.client.gotFIN {
		t.Error("the FIN has not arrived")
	}
	r.turn()
	if r.lastTimeout >= 0 {
		t.Errorf("the loop sleeps %v", r.lastTimeout)
	}
	r.client.deliver([]byte("more"))
	r.pass()
	if got := string(r.server.received); got != "more" {
		t.Errorf("the backend got %q", got)
	}
	r.client.sendFIN()
	r.pass()
	r.expectEnd(1, record.OK, record.Relay, record.Backend)
	r.expectClean()
}

// The FIN of the receiver does not end the delay of tails.
func TestMarkAfterReceiversFIN(t *testing.T) {
	r := newBulkRig(t)
	r.client.sendFIN()
	r.pass()
	r.stream(1000)
	r.clock += lowWaterDelay
	r.pass()
	r.expectArrived("after the FIN of the receiver")
}

// A drain cuts sessions whose tail waits, and a reset ends them.
func TestMarkedSessionEnds(t *testing.T) {
	for name, end := range map[string]func(*bulkRig){
		"cut":              func(r *bulkRig) { r.loop().cutting = true },
		"reset by backend": func(r *bulkRig) { r.server.reset() },
		"reset by peer":    func(r *bulkRig) { r.client.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newBulkRig(t)
			r.stream(1000)
			end(r)
			r.pass()
			r.lastRecord(1)
			r.expectClean()
		})
	}
}

// A window that is smaller than the mark wakes the loop when it is full. A kernel without the
// option, and unix sockets, go on without.
func TestMarkIsNotReachable(t *testing.T) {
	t.Run("small window", func(t *testing.T) {
		r := newBulkRig(t, func(r *bulkRig) { r.server.window = 200 << 10 })
		r.stream(100 << 10)
		r.expectArrived("half a window")
	})
	t.Run("refused", func(t *testing.T) {
		asked := 0
		r := newBulkRig(t, func(r *bulkRig) {
			r.optionError = func(_, name int) unix.Errno {
				if name != unix.SO_RCVLOWAT {
					return 0
				}
				asked++
				return unix.EOPNOTSUPP
			}
		})
		r.stream(1000)
		r.expectArrived("without the option")
		if asked != 1 {
			t.Errorf("the option was tried %d times", asked)
		}
	})
	t.Run("unix", func(t *testing.T) {
		r := newRig(t, newScript(t, 0), Config{Forwards: []*forward.Forward{plainForward(serverUnix)}})
		r.sendRoom = 64 << 20
		client := r.open(header)
		sent := randomBytes(8 << 20)
		for i := 0; i < len(sent); i += lowWater / 2 { // the script fails the test if a mark is set
			r.backend().deliver(sent[i:][:lowWater/2])
			for r.turn() {
				client.consume(len(client.received))
			}
		}
		client.consume(len(client.received))
		r.settle()
		if !bytes.Equal(client.received, sent) {
			t.Errorf("%d of %d bytes arrived", len(client.received), len(sent))
		}
	})
}

// When a tail has delayed an answer, the mark is removed. It is tried again after eight times as
// many bytes, so that requests and responses are delayed rarely.
func TestMarkBacksOff(t *testing.T) {
	const message = 300 << 10
	r := newBulkRig(t)
	delays := 0
	const messages = 16 * lowWaterAfter / message // until after the second attempt
	for i := range messages {
		r.stream(message)
		for len(r.client.received) < len(r.sent) {
			delays++
			r.clock += lowWaterDelay
			r.pass()
		}
		r.client.deliver([]byte{byte(i)})
		r.pass()
	}
	if delays > 2 {
		t.Errorf("%d of %d messages were delayed", delays, messages)
	}
	r.expectArrived("messages")
}

// A stream that does not reach the mark within the delay goes on without.
func TestMarkOfSlowStream(t *testing.T) {
	r := newBulkRig(t)
	for range maxTails {
		r.stream(64 << 10)
		r.clock += lowWaterDelay
		r.pass()
	}
	r.expectMark(1)
	r.stream(64 << 10)
	r.expectArrived("a slow stream")
}
