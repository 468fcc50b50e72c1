package engine

import (
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
)

// BenchmarkHandOver measures what a loop spends to accept a connection from the kernel's queue and to
// pass it to another loop: 64 at a time, when only the first wakes the other loop, and one at a time.
// The time for a whole connection divided by this is the number of loops from which the one that
// accepts is the limit.
func BenchmarkHandOver(b *testing.B) {
	for name, batch := range map[string]int{"64": maxAccepts, "1": 1} {
		b.Run(name, func(b *testing.B) { benchmarkHandOver(b, batch) })
	}
}

func benchmarkHandOver(b *testing.B, batch int) {
	e, err := New(Config{Loops: 2, Forwards: []*forward.Forward{loopback(serverA)}})
	if err != nil {
		b.Fatal(err)
	}
	defer e.closeAll()
	from, to := e.loops[0], e.loops[1]
	from.active.Store(1 << 40) // so that it keeps none
	for b.Loop() {
		b.StopTimer()
		clients := clientsOf(b, e.listeners[0], batch)
		b.StartTimer()
		from.accept(e.listeners[0])
		b.StopTimer()
		to.mail.unread.Store(false)
		if len(to.mail.conns) != batch {
			b.Fatalf("%d of %d connections were passed on", len(to.mail.conns), batch)
		}
		for i, a := range to.mail.conns {
			unix.Close(a.fd)
			unix.Close(clients[i])
		}
		to.mail.conns = to.mail.conns[:0]
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/connection")
}

// clientsOf returns n sockets that are connected to a listener of 127.0.0.1.
func clientsOf(b *testing.B, ln *listener, n int) (clients []int) {
	b.Helper()
	to := &unix.SockaddrInet4{Port: int(ln.bound.Addr.Port()), Addr: [4]byte{127, 0, 0, 1}}
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		reset := unix.Linger{Onoff: 1} // no port is left in TIME_WAIT
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &reset)
		if err := unix.Connect(fd, to); err != nil {
			b.Fatal(err)
		}
		clients = append(clients, fd)
	}
	return clients
}
