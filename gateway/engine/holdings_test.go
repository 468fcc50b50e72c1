package engine

import (
	"testing"
	"time"

	"unproxy/gateway/forward"
)

// A snapshot names the side that does not read and the one that has ended its stream, and what
// waits where. Holdings are the sums.
func TestHoldings(t *testing.T) {
	k := newScript(t, 0)
	k.sendRoom = 5000
	r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
	open := func() (from, far *file) { return r.open(header), r.backend() }
	r.open(header[:7]) // waits for the rest of its header
	open()
	_, far := open()
	far.deliver(randomBytes(10_000)) // as one of few reads: not in a slot
	from, _ := open()
	from.deliver(randomBytes(10_000))
	from, far = open()
	from.deliver(randomBytes(10_000))
	far.deliver(randomBytes(10_000))
	from, _ = open()
	from.sendFIN()
	_, far = open()
	far.sendFIN()
	r.settle()
	want := map[[2]string]int{{"", ""}: 2, {"client", ""}: 1, {"backend", ""}: 1, {"both", ""}: 1,
		{"", "client"}: 1, {"", "backend"}: 1}
	buffered := int64(0)
	for _, s := range r.sessions() {
		want[[2]string{s.Blocked, s.HalfClosed}]--
		buffered += s.Buffered
	}
	for what, n := range want {
		if n != 0 {
			t.Errorf("%d sessions too few are %q", n, what)
		}
	}
	if n := r.engine.Counters().Buffered; n != buffered || n < 7 {
		t.Errorf("%d bytes are counted as held, the sessions hold %d", n, buffered)
	}
	h, err := r.engine.Holdings(t.Context())
	if err != nil || h != (Holdings{Blocked: 3, HalfClosed: 2, Buffered: buffered}) {
		t.Errorf("%+v, %v", h, err)
	}
	r.clock += int64(time.Minute)
	if h, err = r.engine.Holdings(t.Context()); err != nil || h.Idle != 7 {
		t.Errorf("a minute later: %+v, %v", h, err)
	}
	r.engine.Cut()
	r.settle()
	if h, err = r.engine.Holdings(t.Context()); err != nil || h != (Holdings{}) {
		t.Errorf("in the end: %+v, %v", h, err)
	}
	r.expectClean()
}

// What waits in a pipe is not in the memory of the process.
func TestHoldingsInPipes(t *testing.T) {
	k := newScript(t, 0)
	k.sendRoom = 1 << 20
	r := newRig(t, k, Config{Forwards: []*forward.Forward{plainForward(serverA)}})
	from := r.open(header)
	far := r.backend()
	far.deliver(randomBytes(4 << 20))
	r.settle()
	h, err := r.engine.Holdings(t.Context())
	if want := int64(far.read - len(from.received)); err != nil || h != (Holdings{Blocked: 1, Piped: want}) || want == 0 {
		t.Errorf("%+v, %v; want %d bytes in a pipe", h, err, want)
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}
