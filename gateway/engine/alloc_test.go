package engine

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

func TestSessionSize(t *testing.T) {
	size := unsafe.Sizeof(session{})
	t.Logf("a session is %d bytes, of which a side is %d", size, unsafe.Sizeof(side{}))
	if size > SessionSize {
		t.Errorf("a session is %d bytes, want at most %d", size, SessionSize)
	}
	const page, small = 8 << 10, 32 << 10 // sizes of the Go runtime
	if block := size * blockSize; block <= small || block%page != 0 {
		t.Errorf("a block of sessions is %d bytes, want whole pages and more than %d", block, small)
	}
}

// newSteadyRig is a rig whose kernel does not allocate either, once it is warmed up.
func newSteadyRig(t testing.TB, f *forward.Forward) *rig { return newSteadyRigWith(t, 1, f) }

func newSteadyRigWith(t testing.TB, loops int, f *forward.Forward) *rig {
	k := newScript(t, 0)
	k.recycle = true
	k.step = 1000
	report := func(c *record.Connection) {
		if c.Outcome != record.OK {
			t.Errorf("ended %v: %s", c.Outcome, c.Reason)
		}
	}
	r := newRig(t, k, Config{Loops: loops, MaxWaiting: 1000, Forwards: []*forward.Forward{f}, Report: report})
	r.dials = make([]dial, 0, 16)
	return r
}

// runUntilIdle is settle without its Helper call, which may allocate.
func (r *rig) runUntilIdle() {
	for r.turn() || r.awaitTail() {
	}
}

// roundTrip is a whole connection with a request and an answer.
func (r *rig) roundTrip(first, second []byte) {
	r.dials = r.dials[:0]
	from := r.arrive(r.listenerSocket(0), lb)
	from.source = dest4 // as a packet filter redirects it to a TProxy listener
	from.deliver(first)
	r.runUntilIdle()
	far := r.dials[0].far
	from.deliver(second)
	r.runUntilIdle()
	far.deliver(second)
	far.sendFIN()
	r.runUntilIdle()
	from.sendFIN()
	r.runUntilIdle()
}

func TestConnectionsAllocateNothing(t *testing.T) {
	rows := []struct {
		name    string
		setting func(*forward.Forward)
		sends   string
	}{
		{"version 1", func(*forward.Forward) {}, header},
		{"version 2, with payload", func(*forward.Forward) {}, v2(client4, dest4) + "payload"},
		{"IPv6", func(f *forward.Forward) { f.Listeners[0].Backends[0].Endpoint = serverA6 }, v2(client6, dest6)},
		{"LOCAL", func(*forward.Forward) {}, v2(netip.AddrPort{}, netip.AddrPort{})},
		{"transparent", func(f *forward.Forward) { f.Transparent = true }, header},
		{"with all deadlines and options", func(f *forward.Forward) {
			f.IdleTimeout, f.Keepalive, f.UserTimeout = time.Minute, time.Minute, time.Minute
			f.MaxConnections, f.AcceptRate = 1000, forward.Rate{PerSecond: 100_000, Burst: 100_000}
		}, header},
		{"LOCAL, to the original destination", func(f *forward.Forward) {
			f.TProxy, f.AllowDestination = true, anyAddress
			f.Listeners[0].Endpoint = forward.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:7000")}
			f.Listeners[0].Backends = []forward.Backend{{FromHeader: true}}
		}, v2(netip.AddrPort{}, netip.AddrPort{})},
		{"two headers", func(f *forward.Forward) { f.Headers = 2 }, header + v2(client4, dest4)},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plainForward(serverA)
			row.setting(f)
			r := newSteadyRig(t, f)
			first, second := []byte(row.sends), []byte("GET / HTTP/1.0\r\n\r\n")
			r.roundTrip(first, second)
			if n := allocations.PerRun(200, func() { r.roundTrip(first, second) }); n != 0 {
				t.Errorf("%v allocations for a connection", n)
			}
		})
	}
}

// A connection that one loop accepts and another serves does not allocate.
func TestHandOverAllocatesNothing(t *testing.T) {
	r := newSteadyRigWith(t, 2, plainForward(serverA))
	for range 2 { // so that the first loop has one more session
		r.arrive(r.listenerSocket(0), lb).deliver([]byte(header))
		r.runUntilIdle()
	}
	r.loop().active.Add(1)
	first, second := []byte(header), []byte("GET / HTTP/1.0\r\n\r\n")
	r.roundTrip(first, second)
	handed, connections := r.engine.loops[1].issued, 0
	if n := allocations.PerRun(200, func() { r.roundTrip(first, second); connections++ }); n != 0 {
		t.Errorf("%v allocations for a connection", n)
	}
	if n := r.engine.loops[1].issued - handed; int(n) != connections {
		t.Errorf("%d of %d connections were passed to the other loop", n, connections)
	}
}

// Relaying small and bulk data does not allocate.
func TestRelayingAllocatesNothing(t *testing.T) {
	for _, size := range []int{64, 4096, 3 * bufferSize} {
		r := newSteadyRig(t, plainForward(serverA))
		r.sendRoom = 1 << 30
		from := r.arrive(r.listenerSocket(0), lb)
		from.deliver([]byte(header))
		r.runUntilIdle()
		far := r.dials[0].far
		data := randomBytes(size)
		ping := func() {
			for _, f := range []*file{from, far} {
				f.rx, f.read, f.received, f.consumed = f.rx[:0], 0, f.received[:0], 0
				f.deliver(data)
			}
			r.runUntilIdle()
		}
		for range 10 {
			ping()
		}
		if n := allocations.PerRun(100, ping); n != 0 {
			t.Errorf("%d bytes: %v allocations per round trip", size, n)
		}
		if len(far.received) != size || len(from.received) != size {
			t.Errorf("%d and %d of %d bytes arrived", len(far.received), len(from.received), size)
		}
	}
}

// A large read whose bytes the other side does not take allocates nothing: they stay in the socket.
func TestBlockedWritesAllocateNothing(t *testing.T) {
	r := newSteadyRig(t, plainForward(serverA))
	from := r.arrive(r.listenerSocket(0), lb)
	from.deliver([]byte(header))
	r.runUntilIdle()
	far := r.dials[0].far
	data := randomBytes(r.sendRoom + slotSize + 100)
	ping := func() {
		from.rx, from.read, far.received, far.consumed = from.rx[:0], 0, far.received[:0], 0
		from.deliver(data)
		r.runUntilIdle()
		far.consume(len(data))
		r.runUntilIdle()
		far.consume(len(data))
	}
	ping()
	if n := allocations.PerRun(100, ping); n != 0 {
		t.Errorf("%v allocations for a blocked write", n)
	}
	if len(far.received) != len(data) {
		t.Errorf("%d of %d bytes arrived", len(far.received), len(data))
	}
}

// BenchmarkConnection and BenchmarkRelay measure the engine alone: the scripted system calls cost
// almost nothing.
func BenchmarkConnection(b *testing.B) {
	r := newSteadyRig(b, plainForward(serverA))
	first, second := []byte(v2(client4, dest4)), make([]byte, 64)
	r.roundTrip(first, second)
	b.ReportAllocs()
	for b.Loop() {
		r.roundTrip(first, second)
	}
}

func BenchmarkRelay(b *testing.B) {
	r := newSteadyRig(b, plainForward(serverA))
	from := r.arrive(r.listenerSocket(0), lb)
	from.deliver([]byte(header))
	r.runUntilIdle()
	far := r.dials[0].far
	data := randomBytes(64)
	b.ReportAllocs()
	for b.Loop() {
		for _, f := range []*file{from, far} {
			f.rx, f.read, f.received, f.consumed = f.rx[:0], 0, f.received[:0], 0
			f.deliver(data)
		}
		r.runUntilIdle()
	}
}
