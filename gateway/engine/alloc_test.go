package engine

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"unproxy/gateway/record"
	"unproxy/integration_test/allocations"
)

// An idle connection costs its session and little else.
func TestSizeOfASession(t *testing.T) {
	size := unsafe.Sizeof(session{})
	t.Logf("a session is %d bytes, of which a side is %d", size, unsafe.Sizeof(side{}))
	if size > 384 {
		t.Errorf("a session is %d bytes, want at most 384", size)
	}
	const page, small = 8 << 10, 32 << 10 // of the Go runtime
	if block := size * blockSize; block <= small || block%page != 0 {
		t.Errorf("a block of sessions is %d bytes, want whole pages and more than %d", block, small)
	}
}

// steady is a rig whose kernel does not allocate either, once it is warm.
func steady(t testing.TB, f *Forward) *rig { return steadyLoops(t, 1, f) }

func steadyLoops(t testing.TB, loops int, f *Forward) *rig {
	k := newScript(t, 0)
	k.recycle = true
	k.step = 1000
	r := newRig(t, k, Config{Loops: loops, MaxWaiting: 1000, Forwards: []*Forward{f}, Report: func(c *record.Connection) {
		if c.Outcome != record.OK {
			t.Errorf("ended %v: %s", c.Outcome, c.Reason)
		}
	}})
	r.dials = make([]dial, 0, 16)
	return r
}

// run turns the loop until it rests; settle would do, but allocates nothing
// only by chance.
func (r *rig) run() {
	for r.turn() {
	}
}

// exchange is a connection from accept to its end, with a request and an answer.
func (r *rig) exchange(first, second []byte) {
	r.dials = r.dials[:0]
	from := r.arrive(r.front(0), lb)
	from.source = destiny4 // as the packet filter has it, where it comes to a TProxy listener
	from.deliver(first)
	r.run()
	far := r.dials[0].far
	from.deliver(second)
	r.run()
	far.deliver(second)
	far.finish()
	r.run()
	from.finish()
	r.run()
}

func TestConnectionsAllocateNothing(t *testing.T) {
	rows := []struct {
		name    string
		setting func(*Forward)
		sends   string
	}{
		{"version 1", func(*Forward) {}, header},
		{"version 2, with payload", func(*Forward) {}, v2(client4, destiny4) + "payload"},
		{"IPv6", func(f *Forward) { f.Listeners[0].Backends[0].Endpoint = serverA6 }, v2(client6, destiny6)},
		{"LOCAL", func(*Forward) {}, v2(netip.AddrPort{}, netip.AddrPort{})},
		{"transparent", func(f *Forward) { f.Transparent = true }, header},
		{"with all deadlines and options", func(f *Forward) {
			f.IdleTimeout, f.Keepalive, f.UserTimeout = time.Minute, time.Minute, time.Minute
			f.MaxConnections, f.AcceptRate = 1000, Rate{PerSecond: 100_000, Burst: 100_000}
		}, header},
		{"LOCAL, to where it was sent", func(f *Forward) {
			f.TProxy, f.AllowDestination = true, everybody
			f.Listeners[0].Endpoint = Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:7000")}
			f.Listeners[0].Backends = []Backend{{FromHeader: true}}
		}, v2(netip.AddrPort{}, netip.AddrPort{})},
		{"two headers", func(f *Forward) { f.Headers = 2 }, header + v2(client4, destiny4)},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := plain(serverA)
			row.setting(f)
			r := steady(t, f)
			first, second := []byte(row.sends), []byte("GET / HTTP/1.0\r\n\r\n")
			r.exchange(first, second)
			if n := allocations.PerRun(200, func() { r.exchange(first, second) }); n != 0 {
				t.Errorf("%v allocations for a connection", n)
			}
		})
	}
}

// Nor does a connection that one loop accepts and another serves.
func TestHandOverAllocatesNothing(t *testing.T) {
	r := steadyLoops(t, 2, plain(serverA))
	for range 2 { // the first loop has one more, for good
		r.arrive(r.front(0), lb).deliver([]byte(header))
		r.run()
	}
	r.loop().active.Add(1)
	first, second := []byte(header), []byte("GET / HTTP/1.0\r\n\r\n")
	r.exchange(first, second)
	handed, connections := r.engine.loops[1].recorded, 0
	if n := allocations.PerRun(200, func() { r.exchange(first, second); connections++ }); n != 0 {
		t.Errorf("%v allocations for a connection", n)
	}
	if n := r.engine.loops[1].recorded - handed; int(n) != connections {
		t.Errorf("%d of %d connections were handed over", n, connections)
	}
}

// Relaying allocates nothing, in small pieces and in bulk.
func TestRelayingAllocatesNothing(t *testing.T) {
	for _, size := range []int{64, 4096, 3 * bufferSize} {
		r := steady(t, plain(serverA))
		r.sendRoom = 1 << 30
		from := r.arrive(r.front(0), lb)
		from.deliver([]byte(header))
		r.run()
		far := r.dials[0].far
		data := noise(size)
		ping := func() {
			for _, f := range []*file{from, far} {
				f.rx, f.read, f.got, f.taken = f.rx[:0], 0, f.got[:0], 0
				f.deliver(data)
			}
			r.run()
		}
		for range 10 {
			ping()
		}
		if n := allocations.PerRun(100, ping); n != 0 {
			t.Errorf("%d bytes: %v allocations for each way there and back", size, n)
		}
		if len(far.got) != size || len(from.got) != size {
			t.Errorf("%d and %d of %d bytes arrived", len(far.got), len(from.got), size)
		}
	}
}

// A write that blocks keeps the loop's buffer, which comes back.
func TestBlockedWritesReuseBuffers(t *testing.T) {
	r := steady(t, plain(serverA))
	from := r.arrive(r.front(0), lb)
	from.deliver([]byte(header))
	r.run()
	far := r.dials[0].far
	data := noise(r.sendRoom + smallHold + 100)
	ping := func() {
		from.rx, from.read, far.got, far.taken = from.rx[:0], 0, far.got[:0], 0
		from.deliver(data)
		r.run()
		far.take(len(data))
		r.run()
		far.take(len(data))
	}
	ping()
	if n := allocations.PerRun(100, ping); n != 0 {
		t.Errorf("%v allocations for a write that blocks", n)
	}
	if len(r.loop().spare) != 1 || len(far.got) != len(data) {
		t.Errorf("%d buffers in reserve, %d of %d bytes", len(r.loop().spare), len(far.got), len(data))
	}
}

// The figures of the engine alone, with system calls that cost nothing.
func BenchmarkConnection(b *testing.B) {
	r := steady(b, plain(serverA))
	first, second := []byte(v2(client4, destiny4)), make([]byte, 64)
	r.exchange(first, second)
	b.ReportAllocs()
	for b.Loop() {
		r.exchange(first, second)
	}
}

// A small message there and one back.
func BenchmarkRelay(b *testing.B) {
	r := steady(b, plain(serverA))
	from := r.arrive(r.front(0), lb)
	from.deliver([]byte(header))
	r.run()
	far := r.dials[0].far
	data := noise(64)
	b.ReportAllocs()
	for b.Loop() {
		for _, f := range []*file{from, far} {
			f.rx, f.read, f.got, f.taken = f.rx[:0], 0, f.got[:0], 0
			f.deliver(data)
		}
		r.run()
	}
}
