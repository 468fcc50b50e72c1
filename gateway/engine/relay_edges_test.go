package engine

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/record"
)

// A side whose reset is found by a write to it has its last bytes forwarded first: in either
// direction, whatever their number, as far as the other side takes them, and then a RST.
func TestLastBytesOfABrokenSide(t *testing.T) {
	for _, broken := range []int{peer, backend} {
		for _, n := range []int{0, 1, slotSize, slotSize + 1, 3*bufferSize + 1} {
			for _, room := range []int{1 << 30, 100, bufferSize + 1} {
				r := newForwardRig(t, plainForward(serverA))
				r.sendRoom = room
				ends := [2]*file{r.arrive(r.listenerSocket(0), lb), nil}
				ends[peer].deliver([]byte(header))
				r.settle()
				ends[backend] = r.backend()
				last := randomBytes(n)
				ends[broken].deliver(last)
				ends[broken].reset()
				ends[1-broken].deliver([]byte("more")) // its write fails
				r.settle()
				c := r.expectEnd(1, record.Reset, record.Relay, party(broken))
				got := ends[1-broken].received
				if !bytes.Equal(got, last[:min(n, room)]) || !ends[1-broken].gotRST {
					t.Errorf("side %d broken, room for %d: %d of %d bytes arrived, a RST: %v",
						broken, room, len(got), n, ends[1-broken].gotRST)
				}
				if counted := [2]int64{c.BytesIn, c.BytesOut}[broken]; counted != int64(len(got)) {
					t.Errorf("side %d broken: %d bytes are counted, %d arrived", broken, counted, len(got))
				}
				r.expectClean()
			}
		}
	}
}

// What a broken side sent before is forwarded within the budget of a turn, after one for its own
// event: others wait meanwhile.
func TestLastBytesAreBounded(t *testing.T) {
	r := newUnblockedRig(t, plainForward(serverA))
	from := r.open(header)
	r.backend().deliver(randomBytes(4 * relayBudget * bufferSize))
	r.backend().reset()
	from.deliver([]byte("more"))
	r.settle()
	r.expectEnd(1, record.Reset, record.Relay, record.Backend)
	if n := len(from.received); n < bufferSize || n > 2*relayBudget*bufferSize {
		t.Errorf("%d bytes arrived", n)
	}
	r.expectClean()
}

// A direction in bulk makes one move for each wake-up, of whatever a pipe holds.
func TestBulkMovesOncePerWakeUp(t *testing.T) {
	r := newUnblockedRig(t, plainForward(serverA))
	from := r.open(header)
	for range bulkAfter {
		from.deliver(randomBytes(bulkRead))
		r.settle()
	}
	before := r.splices
	from.deliver(randomBytes(1 << 20))
	from.deliver(randomBytes(7 << 20))
	r.turn()
	if n := r.splices - before; n < 2 || n > 4 { // into a pipe and out of it, by the event and the run queue
		t.Errorf("%d calls of splice in one turn", n)
	}
	r.settle()
	if n := len(r.backend().received); n != bulkAfter*bulkRead+8<<20 {
		t.Errorf("%d bytes arrived", n)
	}
	finishBoth(r, from)
	r.expectEnd(1, record.OK, record.Relay, record.Client)
	r.expectClean()
}

// The idle timeout counts from the last event of either side, and not from earlier ones of the
// connection.
func TestIdleTimeoutIsExact(t *testing.T) {
	f := plainForward(serverA)
	f.IdleTimeout = 10 * time.Second
	r := newForwardRig(t, f)
	r.plans[serverA] = []plan{{waits: 1}}
	from := r.open(header)
	r.advance(9 * time.Second)
	from.deliver([]byte("x"))
	r.settle()
	r.advance(10*time.Second - 100*time.Millisecond)
	if len(r.records) != 0 {
		t.Fatalf("ended %v after %v", r.records[0].Outcome, r.records[0].Duration)
	}
	r.advance(200 * time.Millisecond)
	r.expectEnd(1, record.IdleTimeout, record.Relay, record.Timeout)
	if !from.gotRST || !r.backend().gotRST {
		t.Errorf("RST to the client: %v, to the backend: %v", from.gotRST, r.backend().gotRST)
	}
	r.expectClean()
}

// Without a connect timeout each attempt but the last is limited, so that a silent backend does not
// hide another one.
func TestNoConnectTimeout(t *testing.T) {
	f := plainForward(serverA, serverB)
	f.ConnectTimeout = 0
	r := newForwardRig(t, f)
	r.plans[serverA], r.plans[serverB] = []plan{silent}, []plan{silent}
	from := r.open(header)
	r.advance(attemptLimit - 100*time.Millisecond)
	if len(r.dials) != 1 {
		t.Fatalf("%d dials before the limit of an attempt", len(r.dials))
	}
	r.advance(200 * time.Millisecond)
	if len(r.dials) != 2 || r.dials[1].to != serverB {
		t.Fatalf("dials %+v", r.dials)
	}
	r.advance(time.Hour)
	if len(r.dials) != 2 || len(r.records) != 0 || r.loop().wheel.count != 0 {
		t.Errorf("%d dials, %d records, %d timers", len(r.dials), len(r.records), r.loop().wheel.count)
	}
	from.reset()
	r.settle()
	r.expectEnd(1, record.Reset, record.Dial, record.Client)
	r.expectClean()
}

// A connect that fails in a call on this host is this host's fault; that of the next attempt is not.
func TestLocalFaultOfOneAttempt(t *testing.T) {
	for _, tt := range []struct {
		first   bool // the option fails for the first backend, else for the second
		outcome record.Outcome
		by      record.Party
	}{
		{true, record.BackendRefused, record.Backend},
		{false, record.Permission, record.Gateway},
	} {
		f := plainForward(serverA, serverB)
		f.Mark = 7
		r := newForwardRig(t, f)
		calls := 0
		r.optionError = func(_, name int) unix.Errno {
			if name != unix.SO_MARK {
				return 0
			}
			if calls++; (calls == 1) == tt.first {
				return unix.EPERM
			}
			return 0
		}
		r.plans[serverA], r.plans[serverB] = []plan{{errno: unix.ECONNREFUSED}}, []plan{{errno: unix.ECONNREFUSED}}
		r.open(header)
		r.expectEnd(1, tt.outcome, record.Dial, tt.by)
		r.expectClean()
	}
}

// A deadline that is reached exactly has passed: those of the header, the connect, the keep-alive
// and the idle connection.
func TestDeadlinesReachedExactly(t *testing.T) {
	f := plainForward(serverA)
	f.HeaderTimeout, f.ConnectTimeout, f.Keepalive, f.IdleTimeout = 8*time.Second, 8*time.Second, 16*time.Second, 24*time.Second
	r := newForwardRig(t, f)
	r.open(header[:10])
	r.advance(8 * time.Second)
	r.expectEnd(1, record.HeaderTimeout, record.Header, record.Timeout)
	r.plans[serverA] = []plan{silent, {}}
	r.open(header)
	r.advance(8 * time.Second)
	r.expectEnd(2, record.ConnectTimeout, record.Dial, record.Timeout)
	r.open(header)
	set := len(r.backend().options)
	r.advance(16 * time.Second)
	if n := len(r.backend().options); n <= set {
		t.Errorf("%d options at the keep-alive time, %d before", n, set)
	}
	r.advance(8 * time.Second)
	r.expectEnd(3, record.IdleTimeout, record.Relay, record.Timeout)
	r.expectClean()
}

// A side in bulk is copied when its moves become small, and in bulk again when they are large: each
// change takes three in a row, so that a stream of mixed sizes does not change all the time.
func TestBulkIsThreeInARow(t *testing.T) {
	d := &side{}
	read := func(n int) bool { d.noteRead(n, bulkRead); return d.bulk }
	move := func(n int) bool { d.countMove(n); return d.bulk }
	const large, small = 64 << 10, 16<<10 - 1
	for i, step := range []struct {
		of   func(int) bool
		n    int
		bulk bool
	}{
		{read, large, false}, {read, large, false}, {read, large - 1, false}, // a smaller one starts over
		{read, large, false}, {read, large, false}, {read, large, true},
		{move, small, true}, {move, small, true}, {move, small + 1, true},
		{move, small, true}, {move, small, true}, {move, small, false},
		{read, large, false}, {read, large, false}, {read, large, true},
	} {
		if got := step.of(step.n); got != step.bulk {
			t.Errorf("step %d of %d bytes: bulk %v", i, step.n, got)
		}
	}
	d = &side{unspliceable: true}
	for range 300 {
		if read(large) {
			t.Fatal("a socket that refuses splice(2) is in bulk")
		}
	}
}

// Both directions may be blocked at once, by readers that go on in any order.
func TestBothDirectionsBlocked(t *testing.T) {
	for _, first := range []int{peer, backend} {
		r := newForwardRig(t, plainForward(serverA))
		r.sendRoom = 100
		from := r.open(header)
		ends := [2]*file{from, r.backend()}
		up, down := randomBytes(1000), randomBytes(1001)
		from.deliver(up)
		r.backend().deliver(down)
		r.settle()
		for range 30 {
			ends[first].consume(100)
			r.settle()
			if n := len(ends[1-first].received); n > 100 {
				t.Fatalf("%d bytes were taken by an end that reads none", n)
			}
		}
		for range 30 {
			ends[1-first].consume(100)
			r.settle()
		}
		if !bytes.Equal(r.backend().received, up) || !bytes.Equal(from.received, down) {
			t.Errorf("%d of %d and %d of %d bytes arrived", len(r.backend().received), len(up), len(from.received), len(down))
		}
		finishBoth(r, from)
		r.expectEnd(1, record.OK, record.Relay, record.Client)
		r.expectClean()
	}
}

// A peer that does not close after the gateway has is closed after five seconds.
func TestCloseTimeout(t *testing.T) {
	f := plainForward(serverA)
	f.CloseLocal = true
	r := newForwardRig(t, f)
	from := r.open(local)
	r.advance(5*time.Second - oneTick)
	if !from.gotFIN || len(r.records) != 0 {
		t.Fatalf("a FIN: %v; %d records", from.gotFIN, len(r.records))
	}
	r.advance(oneTick)
	r.expectEnd(1, record.OK, record.Header, record.Gateway)
	r.expectClean()
}

// oneTick is the precision of deadlines.
const oneTick = time.Duration(tick)
