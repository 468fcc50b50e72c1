package datagram

import (
	"fmt"
	"testing"
	"unsafe"

	"unproxy/gateway/forward"
	"unproxy/integration_test/allocations"
)

// Forwarding a datagram of an existing flow, and its reply, does not allocate.
func TestDatagramsAllocateNothing(t *testing.T) {
	rows := []struct {
		name   string
		change func(*forward.Forward)
		first  string
		next   string
	}{
		{"every", func(*forward.Forward) {}, a + "hello", a + "hello"},
		{"first", first, a + "hello", "hello"},
		{"spp", simple, spp(clientA, dest4) + "hello", spp(clientA, dest4) + "hello"},
		{"passed", func(f *forward.Forward) { f.PassUntrusted, f.Trust = true, prefixes{} }, "hello", "hello"},
		{"transparent", transparently, a + "hello", a + "hello"},
	}
	for _, row := range rows {
		for _, n := range []int{1, 20} {
			t.Run(fmt.Sprint(row.name, " ", n), func(t *testing.T) {
				r := one(t, with(plain(server), row.change))
				r.from(lb, row.first)
				listener, back := r.listenerSocket(0), r.back()
				r.quiet = true
				w, h := r.worker(), r.hosts[0]
				exchange := func() {
					for range n {
						listener.queue = append(listener.queue, datagram{peer: lb, data: row.next})
						back.queue = append(back.queue, datagram{data: "reply"})
					}
					w.Event(h.watched[listener.fd], 1)
					for len(back.queue) > 0 {
						w.Event(h.watched[back.fd], 1)
						w.Rest()
					}
				}
				for range 10 {
					exchange()
				}
				if got := allocations.PerRun(200, exchange); got != 0 {
					t.Errorf("%v allocations for %d datagrams and their replies", got, n)
				}
				r.dropped(nil)
			})
		}
	}
}

// Forwarding datagrams of many flows in one I/O batch does not allocate.
func TestManyFlowsAllocateNothing(t *testing.T) {
	r := one(t, plain(server))
	const n = 100
	r.manyFlows(n)
	listener, backs := r.listenerSocket(0), r.backs()
	r.quiet = true
	w, h := r.worker(), r.hosts[0]
	arrivals, reply := make([]datagram, 0, n), datagram{data: "reply"}
	for i := range n {
		arrivals = append(arrivals, datagram{peer: lb, data: at(i) + "hello"})
	}
	exchange := func() {
		listener.queue = append(listener.queue, arrivals...)
		w.Event(h.watched[listener.fd], 1)
		for _, s := range backs {
			s.queue = append(s.queue, reply)
			w.Event(h.watched[s.fd], 1)
		}
		w.Rest()
	}
	for range 10 {
		exchange()
	}
	calls := r.calls["io_submit"]
	if got := allocations.PerRun(200, exchange); got != 0 {
		t.Errorf("%v allocations for a datagram and a reply of each of %d flows", got, n)
	}
	if r.calls["io_submit"] == calls {
		t.Error("no I/O batch was submitted")
	}
	r.dropped(nil)
}

func TestFlowSizeIsBounded(t *testing.T) {
	size := unsafe.Sizeof(flow{})
	t.Logf("a flow is %d bytes", size)
	if size > 640 {
		t.Errorf("a flow is %d bytes, want at most 640", size)
	}
}

// BenchmarkDatagram measures the relay alone: the scripted system calls cost nothing.
func BenchmarkDatagram(b *testing.B) {
	r := one(b, plain(server))
	r.from(lb, a+"hello")
	listener, back := r.listenerSocket(0), r.back()
	r.quiet = true
	w, h := r.worker(), r.hosts[0]
	data := a + "hello"
	b.ReportAllocs()
	for b.Loop() {
		listener.queue = append(listener.queue, datagram{peer: lb, data: data})
		back.queue = append(back.queue, datagram{data: "reply"})
		w.Event(h.watched[listener.fd], 1)
		w.Event(h.watched[back.fd], 1)
		w.Rest()
	}
}
