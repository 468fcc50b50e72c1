package engine

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
)

// A RST that arrives together with the header raises no other event. It is handled at once, even if
// the bytes before it wait for the backend.
func TestResetWithHeader(t *testing.T) {
	for _, answer := range []plan{{}, silent} {
		r := newForwardRig(t, plainForward(serverA))
		r.sendRoom = 10
		r.plans[serverA] = []plan{answer}
		from := r.arrive(r.listenerSocket(0), lb)
		from.deliver([]byte(header + "more than ten bytes"))
		from.reset()
		r.settle()
		phase := record.Relay
		if answer == silent {
			phase = record.Dial
		}
		r.expectEnd(1, record.Reset, phase, record.Client)
		r.expectClean()
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// newUnblockedRig is a rig whose send buffers never fill.
func newUnblockedRig(t *testing.T, f *forward.Forward) *rig {
	r := newForwardRig(t, f)
	r.sendRoom = 1 << 30
	return r
}

// All bytes arrive before the first turn, so no further edge is raised for what is left when the
// budget of a turn is used up. The run queue must move it.
func TestBulkAfterOneEdge(t *testing.T) {
	for _, pipes := range []unix.Errno{0, unix.EMFILE} { // spliced, and copied
		r := newUnblockedRig(t, plainForward(serverA))
		r.pipeErrors = pipes
		up, down := randomBytes(3*relayBudget*bufferSize+1), randomBytes(2*relayBudget*bufferSize+3)
		from := r.open(header)
		from.deliver(up)
		r.backend().deliver(down)
		r.settle()
		if !bytes.Equal(r.backend().received, up) || !bytes.Equal(from.received, down) {
			t.Errorf("%d of %d and %d of %d bytes moved", len(r.backend().received), len(up),
				len(from.received), len(down))
		}
		finishBoth(r, from)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		r.expectClean()
	}
}

// A bulk stream does not delay others: it moves at most its budget in one turn.
func TestRelayBudget(t *testing.T) {
	r := newUnblockedRig(t, plainForward(serverA))
	r.pipeErrors = unix.EMFILE
	bulk, small := r.open(header), r.open(header)
	bulk.deliver(randomBytes(4 * relayBudget * bufferSize))
	small.deliver([]byte("ping"))
	r.turn()
	// An edge and the run queue: twice the budget in one turn.
	if n := len(r.dials[0].far.received); n == 0 || n > 2*relayBudget*bufferSize {
		t.Errorf("%d bytes in one turn", n)
	}
	if got := string(r.dials[1].far.received); got != "ping" {
		t.Errorf("the small stream got %q", got)
	}
}

// A FIN together with the last bytes raises one edge for both. The read that takes the bytes is
// short, but more must be read.
func TestFINWithLastBytes(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header)
	from.deliver([]byte("bye"))
	from.sendFIN()
	r.settle()
	if got := string(r.backend().received); got != "bye" || !r.backend().gotFIN {
		t.Errorf("the backend got %q, a FIN: %v", got, r.backend().gotFIN)
	}
	if from.gotFIN {
		t.Error("the client got a FIN before the backend sent one")
	}
	r.backend().deliver([]byte("still here"))
	r.settle()
	r.backend().sendFIN()
	r.settle()
	if got := string(from.received); got != "still here" || !from.gotFIN || r.shutdowns != 1 {
		t.Errorf("the client got %q, a FIN: %v; %d shutdowns, want 1: close sends the last FIN", got,
			from.gotFIN, r.shutdowns)
	}
	r.expectEnd(1, record.OK, record.Relay, record.Client)
}

// A FIN is sent after all held bytes.
func TestFINAfterHeldBytes(t *testing.T) {
	for _, n := range []int{100, slotSize + 1, 200 << 10} { // from a slot, by a large read, through a pipe
		r := newForwardRig(t, plainForward(serverA))
		r.sendRoom = 64
		data := randomBytes(n)
		from := r.open(header)
		from.deliver(data)
		from.sendFIN()
		r.settle()
		for len(r.backend().received) < n {
			if r.backend().gotFIN {
				t.Fatalf("a FIN after %d of %d bytes", len(r.backend().received), n)
			}
			r.backend().consume(64)
			r.settle()
		}
		if !bytes.Equal(r.backend().received, data) || !r.backend().gotFIN {
			t.Errorf("%d bytes arrived, of %d, and a FIN: %v", len(r.backend().received), n, r.backend().gotFIN)
		}
		r.backend().sendFIN()
		r.settle()
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		r.expectClean()
	}
}

// A slow reader delays only its own direction, and at most a pipe of its bytes is taken out of the
// kernel.
func TestSlowReader(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header)
	r.backend().deliver(randomBytes(8 << 20))
	r.settle()
	if taken := r.backend().read - len(from.received); taken > pipeSize || len(from.received) != r.sendRoom {
		t.Errorf("%d bytes are held, %d were sent", taken, len(from.received))
	}
	from.deliver([]byte("ping"))
	r.settle()
	if got := string(r.backend().received); got != "ping" {
		t.Errorf("the backend got %q", got)
	}
	if r.lastTimeout == 0 {
		t.Error("the loop spins")
	}
}

// EPOLLOUT is registered for a peer only after a write to it has blocked.
func TestEPOLLOUTAfterBlockedWrite(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header)
	if from.mask&unix.EPOLLOUT != 0 || r.backend().mask&unix.EPOLLOUT == 0 {
		t.Error("EPOLLOUT is registered for the peer, or not for the backend")
	}
	r.backend().deliver(randomBytes(100 << 10))
	r.settle()
	if from.mask&unix.EPOLLOUT == 0 {
		t.Error("EPOLLOUT is not registered")
	}
}

// Urgent data stays in its place: the kernel ends a read before it, and a splice does not move it
// at all (tcp_read_sock).
func TestUrgentData(t *testing.T) {
	for _, before := range []int{0, 5, 4 * bulkRead, 8 * bufferSize} {
		r := newUnblockedRig(t, plainForward(serverA))
		data := append(randomBytes(before), "!after"...)
		from := r.open(header)
		from.deliver(data[:before/2])
		r.settle()
		from.deliverUrgent(data[before/2 : before+1])
		from.deliver(data[before+1:])
		r.settle()
		if !bytes.Equal(r.backend().received, data) {
			t.Errorf("%d bytes before: %d of %d arrived", before, len(r.backend().received), len(data))
		}
	}
	r := newForwardRig(t, plainForward(serverA))
	from := r.arrive(r.listenerSocket(0), lb)
	from.deliverUrgent([]byte(header[:10]))
	from.deliver([]byte(header[10:] + "payload"))
	r.settle()
	if got := string(r.backend().received); got != "payload" {
		t.Errorf("with urgent data in the header: payload %q", got)
	}
}

// sessionOf returns the session of a peer's socket.
func sessionOf(r *rig, from *file) *session {
	r.Helper()
	for s := range r.loop().sessions.live() {
		if int(s.sides[peer].fd) == from.fd {
			return s
		}
	}
	r.Fatal("no session has this socket")
	return nil
}

// Splicing starts after a few large reads in a row and stops after a few small moves. A pipe is
// held only while there is data.
func TestSplicingStartsAndStops(t *testing.T) {
	r := newUnblockedRig(t, plainForward(serverA))
	from := r.open(header)
	d := &sessionOf(r, from).sides[peer]
	send := func(n int) {
		from.deliver(randomBytes(n))
		r.settle()
	}
	for range bulkAfter - 1 {
		send(bulkRead)
	}
	send(bulkRead - 1)
	for range bulkAfter - 1 {
		send(bulkRead)
	}
	if d.bulk {
		t.Fatal("spliced too early")
	}
	send(bulkRead)
	if !d.bulk || r.leaked(pipeRead) != 0 {
		t.Fatalf("bulk %v, %d pipes before there is data for one", d.bulk, r.leaked(pipeRead))
	}
	send(bulkRead)
	if r.leaked(pipeRead) != 1 || d.pipe != nil || len(r.loop().pipes.idle) != 1 {
		t.Errorf("%d pipes, one of them held: %v", r.leaked(pipeRead), d.pipe != nil)
	}
	send(smallMove - 1)
	send(smallMove)
	for range bulkAfter - 1 {
		send(smallMove - 1)
	}
	if !d.bulk {
		t.Error("stopped splicing too early")
	}
	send(smallMove - 1)
	if d.bulk {
		t.Error("small moves are spliced")
	}
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// If splicing fails, copying continues, and no byte is lost.
func TestSplicingFails(t *testing.T) {
	rows := []struct {
		name  string
		spoil func(*script)
		pipes int
	}{
		{"EINVAL: not for this socket", func(k *script) { k.spliceError = unix.EINVAL }, 1},
		{"EMFILE: no pipe", func(k *script) { k.pipeErrors = unix.EMFILE }, 0},
		{"a small pipe: fs.pipe-user-pages-soft", func(k *script) { k.pipeRoom = 4096 }, 0},
	}
	for _, row := range rows {
		r := newUnblockedRig(t, plainForward(serverA))
		from := r.open(header)
		row.spoil(r.script)
		data := randomBytes(20 * bufferSize)
		from.deliver(data)
		r.settle()
		if !bytes.Equal(r.backend().received, data) {
			t.Errorf("%s: %d of %d bytes arrived", row.name, len(r.backend().received), len(data))
		}
		if n := r.leaked(pipeRead); n != row.pipes || r.splices != row.pipes {
			t.Errorf("%s: %d pipes, splicing was tried %d times", row.name, n, r.splices)
		}
		finishBoth(r, from)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		r.expectClean()
	}
}

// A pipe that holds bytes of a session that ended is never used again.
func TestPipeOfResetSessionIsClosed(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	r.sendRoom = 1 << 20 // enough for the reads that start splicing, but not for all
	from := r.open(header)
	from.deliver(randomBytes(4 << 20))
	r.settle()
	if n := r.leaked(pipeRead); n != 1 {
		t.Fatalf("%d pipes", n)
	}
	from.reset()
	r.settle()
	r.expectEnd(1, record.Reset, record.Relay, record.Client)
	if n := r.leaked(pipeRead, pipeWrite); n != 0 {
		t.Errorf("%d ends of the pipe are open", n)
	}
	r.expectClean()
}

// What a backend sent before it reset reaches the client before the RST: for example the answer to
// a request that it did not read completely.
func TestBytesBeforeResetAreForwarded(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header + "POST")
	r.backend().deliver([]byte("HTTP/1.0 413 too large\r\n"))
	r.backend().reset()
	r.settle()
	c := r.expectEnd(1, record.Reset, record.Relay, record.Backend)
	if got := string(from.received); got != "HTTP/1.0 413 too large\r\n" || !from.gotRST ||
		c.BytesOut != int64(len(got)) {
		t.Errorf("the client got %q, a RST: %v", got, from.gotRST)
	}
}

// A RST while both directions are blocked is detected by EPOLLERR alone.
func TestResetWhileBothSidesBlock(t *testing.T) {
	for _, who := range []record.Party{record.Client, record.Backend} {
		r := newForwardRig(t, plainForward(serverA))
		from := r.open(header)
		far := r.backend()
		from.deliver(randomBytes(200 << 10))
		far.deliver(randomBytes(200 << 10))
		r.settle()
		broken := far
		if who == record.Client {
			broken = from
		}
		broken.reset()
		r.settle()
		r.expectEnd(1, record.Reset, record.Relay, who)
		r.expectClean()
	}
}

// SO_ERROR is EPIPE for a RST after a FIN that was forwarded (tcp_reset in TCP_CLOSE_WAIT).
func TestResetAfterFIN(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header + "request")
	from.sendFIN()
	r.settle()
	from.reset()
	r.settle()
	c := r.expectEnd(1, record.Reset, record.Relay, record.Client)
	if c.Reason != "broken pipe" || !r.backend().gotRST {
		t.Errorf("reason %q, the backend got a RST: %v", c.Reason, r.backend().gotRST)
	}
}

// Bytes in either direction postpone the idle deadline.
func TestIdleDeadlineMovesWithTraffic(t *testing.T) {
	f := plainForward(serverA)
	f.IdleTimeout = 10 * time.Second
	r := newForwardRig(t, f)
	from := r.open(header)
	for i := range 6 {
		r.advance(7 * time.Second)
		if i%2 == 0 {
			from.deliver([]byte("x"))
		} else {
			r.backend().deliver([]byte("y"))
		}
		r.settle()
	}
	if len(r.records) != 0 {
		t.Fatalf("ended %v", r.records[0].Outcome)
	}
	r.advance(11 * time.Second)
	c := r.expectEnd(1, record.IdleTimeout, record.Relay, record.Timeout)
	if c.Duration < 52*time.Second || c.Duration > 54*time.Second {
		t.Errorf("after %v, want 52s", c.Duration)
	}
}

// An event of a session that ended earlier in the same batch does not reach the session that reuses
// its slot.
func TestStaleEvent(t *testing.T) {
	r := newForwardRig(t, plainForward(serverA))
	from := r.open(header)
	l := r.loop()
	old := sessionOf(r, from)
	_, key := tag(from.tag).split()
	finishBoth(r, from)
	r.open("") // reuses the slot
	if old.state != reading || old.sides[peer].readable {
		t.Fatalf("state %d: the slot was not reused", old.state)
	}
	l.dispatch(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR, newTag(tagPeer, key))
	l.dispatch(unix.EPOLLOUT, newTag(tagBackend, key))
	if old.state != reading || old.sides[peer].hungUp || len(r.records) != 1 {
		t.Error("the event reached another session")
	}
}
