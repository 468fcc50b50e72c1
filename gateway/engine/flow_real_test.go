package engine

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
)

// counting is the real kernel. It counts low-water marks, and limits receive buffers.
type counting struct {
	kernel.Kernel
	receiveBuffer int // 0: as it is
	marks         atomic.Int64
}

func (k *counting) SetOption(fd, level, name, value int) syscall.Errno {
	if level == unix.SOL_SOCKET && name == unix.SO_RCVLOWAT && value > 1 {
		k.marks.Add(1)
	}
	return k.Kernel.SetOption(fd, level, name, value)
}

func (k *counting) Accept(fd int) (int, netip.AddrPort, syscall.Errno) {
	conn, peer, errno := k.Kernel.Accept(fd)
	if errno == 0 && k.receiveBuffer > 0 {
		k.Kernel.SetOption(conn, unix.SOL_SOCKET, unix.SO_RCVBUF, k.receiveBuffer)
	}
	return conn, peer, errno
}

// No byte waits for more, whatever the sizes of the writes and whichever side pauses: the sender
// stops without a FIN, and goes on when all has arrived.
func TestRealBulkLeavesNoByte(t *testing.T) {
	const tlsRecord = 16<<10 + 22
	paths := []struct {
		name          string
		receiveBuffer int
		unix          bool
	}{{name: "TCP"}, {name: "TCP, small buffer", receiveBuffer: 128 << 10}, {name: "unix", unix: true}}
	streams := []struct {
		name    string
		burst   int // bytes until the sender pauses
		write   int // bytes of one write
		bursts  int
		both    bool // directions at once
		answers bool // the receiver answers each burst with as much
	}{
		{"stops in the middle of a megabyte", 5<<20 + 300<<10 + 1, 1 << 20, 3, false, false},
		{"messages of 300 KiB", 300 << 10, 300 << 10, 40, false, true},
		{"TLS records", 400 * tlsRecord, tlsRecord, 3, false, false},
		{"both ways", 5<<20 + 1, 256 << 10, 3, true, false},
	}
	for _, path := range paths {
		for _, s := range streams {
			t.Run(path.name+", "+s.name, func(t *testing.T) {
				t.Parallel()
				k := &counting{Kernel: kernel.System(), receiveBuffer: path.receiveBuffer}
				client, backend := pairOn(t, k, path.unix)
				data := randomBytes(s.burst)
				for range s.bursts {
					var all sync.WaitGroup
					all.Go(func() { writeIn(t, client, data, s.write) })
					if s.both {
						all.Go(func() { writeIn(t, backend, data, s.write) })
						all.Go(func() { expectNext(t, client, data) })
					}
					expectNext(t, backend, data)
					all.Wait()
					if s.answers {
						all.Go(func() { writeIn(t, backend, data, s.write) })
						expectNext(t, client, data)
						all.Wait()
					}
				}
				if path.unix && k.marks.Load() > 0 {
					t.Error("a unix socket got a low-water mark")
				}
				t.Logf("%d marks", k.marks.Load())
			})
		}
	}
}

// A stream in bulk gets a low-water mark.
func TestRealBulkSetsMark(t *testing.T) {
	k := &counting{Kernel: kernel.System()}
	client, backend := pairOn(t, k, false)
	go io.Copy(io.Discard, backend)
	b := randomBytes(1 << 20)
	for i := 0; k.marks.Load() == 0; i++ {
		if i == 20_000 {
			t.Fatal("20 GB without a mark")
		}
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
	}
}

// pairOn is a client and a backend that are connected through an engine, by TCP or unix sockets.
func pairOn(t *testing.T, k kernel.Kernel, byUnix bool) (client, backend halfCloser) {
	t.Helper()
	ln, to := server(t)
	f := loopback(to)
	if byUnix {
		f.Listeners[0].Endpoint = forward.Endpoint{Path: t.TempDir() + "/front"}
		path := t.TempDir() + "/back"
		ln = listen(t, "unix", path)
		f.Listeners[0].Backends[0].Endpoint = forward.Endpoint{Path: path}
	}
	l := startRealWith(t, Config{Forwards: []*forward.Forward{f}, Kernel: k})
	client = l.dial(0, header)
	return client, accept(t, ln)
}

// writeIn writes b in pieces of n bytes.
func writeIn(t *testing.T, to io.Writer, b []byte, n int) {
	for len(b) > 0 {
		piece := b[:min(n, len(b))]
		if _, err := to.Write(piece); err != nil {
			t.Error(err)
			return
		}
		b = b[len(piece):]
	}
}

// expectNext reads as many bytes as b has, and compares.
func expectNext(t *testing.T, from io.Reader, b []byte) {
	got := make([]byte, len(b))
	if n, err := io.ReadFull(from, got); err != nil {
		t.Errorf("%d of %d bytes: %v", n, len(b), err)
	} else if !bytes.Equal(got, b) {
		t.Error("different bytes arrived")
	}
}
