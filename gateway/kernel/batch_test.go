package kernel

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/integration_test/allocations"
)

// pairOf returns two connected non-blocking sockets.
func pairOf(t *testing.T, domain int) [2]int {
	t.Helper()
	var fds [2]int
	if domain == unix.AF_UNIX {
		var err error
		if fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC,
			0); err != nil {
			t.Fatal(err)
		}
	} else {
		fds = tcpPair(t)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds
}

func tcpPair(t *testing.T) (fds [2]int) {
	t.Helper()
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ln)
	if err := unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(ln, 1); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(ln)
	if err != nil {
		t.Fatal(err)
	}
	if fds[0], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fds[0], at); err != nil {
		t.Fatal(err)
	}
	if fds[1], _, err = unix.Accept4(ln, unix.SOCK_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	return fds
}

// situations are states of a socket, the first of a pair. Each is set up for two pairs: one for the
// batch, one for the oracle.
var situations = []struct {
	name string
	make func(t *testing.T, fds [2]int)
}{
	{"nothing", func(*testing.T, [2]int) {}},
	{"data", func(t *testing.T, fds [2]int) { write(t, fds[1], 100) }},
	{"more data than buffer", func(t *testing.T, fds [2]int) { write(t, fds[1], 5000) }},
	{"end of the stream", func(_ *testing.T, fds [2]int) { unix.Shutdown(fds[1], unix.SHUT_WR) }},
	{"data and end of the stream", func(t *testing.T,
		fds [2]int) {
		write(t, fds[1], 10)
		unix.Shutdown(fds[1], unix.SHUT_WR)
	}},
	{"no room to write", func(t *testing.T, fds [2]int) {
		if isUnix(fds[0]) { // TCP continues to send what it has buffered
			fill(fds[0])
		}
	}},
	{"reset", func(t *testing.T, fds [2]int) {
		unix.SetsockoptLinger(fds[1], unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Shutdown(fds[1], unix.SHUT_RDWR)
		writeTwice(fds[0])
	}},
	{"shut for writing", func(_ *testing.T, fds [2]int) { unix.Shutdown(fds[0], unix.SHUT_WR) }},
}

func write(t *testing.T, fd, n int) {
	t.Helper()
	if _, err := unix.Write(fd, bytes.Repeat([]byte("x"), n)); err != nil {
		t.Fatal(err)
	}
}

func isUnix(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && domain == unix.AF_UNIX
}

// writeTwice writes twice to a socket that does not read: a RST answers the first write.
func writeTwice(fd int) {
	for range 2 {
		unix.SendmsgN(fd, []byte("x"), nil, nil, unix.MSG_NOSIGNAL)
	}
}

func fill(fd int) {
	b := make([]byte, 1<<20)
	for {
		if _, err := unix.Write(fd, b); err != nil {
			return
		}
	}
}

// A batch has the same results as one call per transfer, for every state of a socket, any number of
// transfers, and an invalid descriptor.
func TestBatchAgainstSingleCalls(t *testing.T) {
	k := linux{}
	for _, size := range []int{1, 4, 64} {
		batch := k.Batch(size)
		if batch == nil {
			t.Fatal("io_setup(2) fails on this host")
		}
		for _, writes := range []bool{false, true} {
			var together, alone []Transfer
			var names []string
			add := func(name string, a, b int) {
				names = append(names, name)
				together = append(together, Transfer{FD: a, B: bytes.Repeat([]byte("t"), 1000)})
				alone = append(alone, Transfer{FD: b, B: bytes.Repeat([]byte("t"), 1000)})
			}
			for _, domain := range []int{unix.AF_UNIX, unix.AF_INET} {
				for _, s := range situations {
					a, b := pairOf(t, domain), pairOf(t, domain)
					s.make(t, a)
					s.make(t, b)
					add(fmt.Sprintf("%s, family %d", s.name, domain), a[0], b[0])
				}
				add("no descriptor", -1, -1)
			}
			for i := range alone {
				if s := &alone[i]; writes {
					s.N, s.Errno = k.Send(s.FD, s.B)
				} else {
					s.N, s.Errno = k.Recv(s.FD, s.B)
				}
			}
			if writes {
				batch.Send(together)
			} else {
				batch.Recv(together)
			}
			for i, got := range together {
				if want := alone[i]; got.N != want.N || got.Errno != want.Errno || !bytes.Equal(got.B, want.B) {
					t.Errorf("batch of %d, writes %v, %s: %d bytes, %v; want %d, %v", size, writes,
						names[i], got.N, got.Errno, want.N, want.Errno)
				}
			}
		}
		batch.Close()
	}
}

// The ring of results wraps many times, and nothing is allocated.
func TestBatchReusesRing(t *testing.T) {
	fds := pairOf(t, unix.AF_UNIX)
	batch := linux{}.Batch(8)
	if batch == nil {
		t.Fatal("io_setup(2) fails on this host")
	}
	defer batch.Close()
	out, in := make([]Transfer, 3), make([]Transfer, 3)
	for i := range out {
		out[i] = Transfer{FD: fds[0], B: []byte{byte(i), byte(i)}}
		in[i] = Transfer{FD: fds[1], B: make([]byte, 2)}
	}
	if n := allocations.PerRun(2000, func() {
		batch.Send(out)
		batch.Recv(in)
		for i := range in {
			if out[i].N != 2 || in[i].N != 2 || in[i].B[0] != byte(i) {
				t.Fatalf("transfer %d: %d bytes sent, %d received, %v", i, out[i].N, in[i].N, in[i].B)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A batch of datagrams has the same results as single calls: one transfer is one datagram of any
// size, and errors are reported per socket.
func TestBatchOfDatagrams(t *testing.T) {
	k := linux{}
	batch := k.Batch(64)
	if batch == nil {
		t.Fatal("io_setup(2) fails on this host")
	}
	defer batch.Close()
	rows := []struct {
		name string
		size int // of the datagram sent
		make func(fd, far int)
	}{
		{"nothing", 100, func(int, int) {}},
		{"two datagrams", 100, func(_, far int) { writeTwice(far); unix.Write(far, []byte("second")) }},
		{"an empty datagram", 100, func(_, far int) { unix.Write(far, nil) }},
		{"larger than the buffer", 100, func(_, far int) { unix.Write(far, make([]byte, 3000)) }},
		{"port unreachable", 100, func(fd, far int) {
			unix.Connect(far, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}}) // accept from no other address
			unix.Write(fd, []byte("x"))
		}},
		{"too large", 65508, func(int, int) {}},
		{"the largest", 65507, func(int, int) {}},
		{"shut", 100, func(fd, _ int) { unix.Shutdown(fd, unix.SHUT_RDWR) }},
	}
	for _, row := range rows {
		a, b := datagramPair(t), datagramPair(t)
		row.make(a[0], a[1])
		row.make(b[0], b[1])
		for round := range 3 {
			for _, writes := range []bool{true, false} {
				together := []Transfer{{FD: a[0], B: make([]byte, 1000)}}
				if writes {
					together[0].B = bytes.Repeat([]byte("w"), row.size)
				}
				alone := Transfer{FD: b[0], B: bytes.Clone(together[0].B)}
				if writes {
					batch.Send(together)
					alone.N, alone.Errno = k.Send(alone.FD, alone.B)
				} else {
					batch.Recv(together)
					alone.N, alone.Errno = k.Recv(alone.FD, alone.B)
				}
				if got := together[0]; got.N != alone.N || got.Errno != alone.Errno || !bytes.Equal(got.B, alone.B) {
					t.Errorf("%s, round %d, writes %v: %d bytes, %v; want %d, %v", row.name, round,
						writes, got.N, got.Errno, alone.N, alone.Errno)
				}
			}
		}
	}
}

// datagramPair returns two UDP sockets on loopback that are connected to each other.
func datagramPair(t *testing.T) (fds [2]int) {
	t.Helper()
	var at [2]unix.Sockaddr
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		if at[i], err = unix.Getsockname(fd); err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
	}
	for i, fd := range fds {
		if err := unix.Connect(fd, at[1-i]); err != nil {
			t.Fatal(err)
		}
	}
	return fds
}
