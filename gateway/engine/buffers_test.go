package engine

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/kernel"
	"unproxy/gateway/record"
	"unproxy/integration_test/await"
)

// blockedRig has connections whose backends have sent more than their peers take, and the peers.
// large are bytes that arrive at once; small ones are in slots of ioBatch.
func blockedRig(t *testing.T, c Config, connections, bytes int) (r *rig, peers []*file) {
	k := newScript(t, 0)
	k.sendRoom = 5000
	c.Forwards = []*forward.Forward{plainForward(serverA)}
	r = newRig(t, k, c)
	var backends []*file
	for range connections {
		peers = append(peers, r.open(header))
		backends = append(backends, r.backend())
	}
	for _, f := range backends {
		f.deliver(randomBytes(bytes))
	}
	r.settle()
	return r, peers
}

// drainAll lets the peers read everything, and checks that all of it arrives and that no connection
// ends but those that have.
func drainAll(t *testing.T, r *rig, peers []*file, size int) {
	t.Helper()
	ended := len(r.records)
	want := randomBytes(size)
	for range 2 * size / 1000 {
		for _, f := range peers {
			f.consume(1 << 20)
		}
		r.settle()
	}
	for i, f := range peers {
		if !bytes.Equal(f.received, want) {
			t.Fatalf("connection %d: %d of %d bytes arrived, or different ones", i, len(f.received), size)
		}
	}
	if len(r.records) != ended {
		t.Errorf("%d connections ended: %+v", len(r.records)-ended, r.records[ended])
	}
	r.engine.Cut()
	r.settle()
	r.expectClean()
}

// What slow readers do not take stays in the sockets that it comes from. The process holds at most
// the rest of a small read for each.
func TestBlockedReadersHoldLittle(t *testing.T) {
	for _, size := range []int{slotSize, slotSize + 1, 200 << 10, 1 << 20} {
		for _, connections := range []int{1, minBatch, 100} {
			r, peers := blockedRig(t, Config{}, connections, size)
			if held := r.engine.buffers.held.Load(); held > int64(connections)*slotSize || len(peers[0].received) != 5000 {
				t.Errorf("%d of %d bytes: %d are held", connections, size, held)
			}
			if r.lastTimeout == 0 {
				t.Error("the loop spins")
			}
			drainAll(t, r, peers, size)
		}
	}
}

// At the limit nothing more is held, no connection is reset, and everything arrives in the end. The small
// reads of one batch may exceed the limit.
func TestBufferLimit(t *testing.T) {
	const size, connections = 10_000, 200 // each read in a slot, half of it taken
	r, peers := blockedRig(t, Config{}, connections, size)
	if held := r.engine.buffers.held.Load(); held < 5000*connections {
		t.Fatalf("without a limit %d bytes are held: the test shows nothing", held)
	}
	drainAll(t, r, peers, size)
	const limit = 100_000
	r, peers = blockedRig(t, Config{MaxBuffer: limit}, connections, size)
	held := r.engine.buffers.held.Load()
	if held < limit || held > limit+batchSize*slotSize {
		t.Errorf("%d bytes are held, the limit is %d", held, limit)
	}
	// A newcomer is served at the limit.
	late := r.open(header)
	late.deliver([]byte("request"))
	r.settle()
	far := r.backend()
	far.deliver([]byte("response"))
	r.settle()
	if string(far.received) != "request" || string(late.received) != "response" {
		t.Errorf("a newcomer got %q and %q through", far.received, late.received)
	}
	late.reset()
	r.settle()
	drainAll(t, r, peers, size)
}

// A header that arrives at the limit is read in small parts, with all that it may have.
func TestHeaderAtTheBufferLimit(t *testing.T) {
	r, peers := blockedRig(t, Config{MaxBuffer: 1}, minBatch, 10_000)
	if !r.engine.buffers.full() {
		t.Fatal("the limit is not reached")
	}
	payload := randomBytes(3 * headerChunk)
	from := r.arrive(r.listenerSocket(0), lb)
	from.deliver([]byte(header[:30]))
	r.settle()
	from.deliver(append([]byte(header[30:]), payload...))
	r.settle()
	far := r.backend()
	for range 3*len(payload)/1000 + 10 {
		far.consume(1 << 20)
		r.settle()
	}
	if !bytes.Equal(far.received, payload) {
		t.Errorf("%d of %d bytes arrived", len(far.received), len(payload))
	}
	from.reset()
	r.settle()
	drainAll(t, r, peers, 10_000)
}

// Beyond the limit on pipes bulk streams are copied, and those that have a pipe keep it.
func TestPipeLimit(t *testing.T) {
	for _, limit := range []int{1, 3} {
		k := newScript(t, 0)
		k.sendRoom = 1 << 20
		r := newRig(t, k, Config{MaxPipes: limit, Forwards: []*forward.Forward{plainForward(serverA)}})
		data := randomBytes(4 << 20)
		var peers []*file
		for range 5 {
			peers = append(peers, r.open(header))
			r.backend().deliver(data)
			r.settle()
		}
		if n := r.leaked(pipeRead); n != limit || r.engine.Counters().Pipes != limit {
			t.Errorf("%d pipes, %d counted, want %d", n, r.engine.Counters().Pipes, limit)
		}
		for range 20 {
			for _, f := range peers {
				f.consume(1 << 20)
			}
			r.settle()
		}
		for i, f := range peers {
			if !bytes.Equal(f.received, data) {
				t.Errorf("connection %d: %d of %d bytes arrived", i, len(f.received), len(data))
			}
		}
		r.engine.Cut()
		r.settle()
		r.expectClean()
		if n := r.engine.Counters().Pipes; n != r.leaked(pipeRead) {
			t.Errorf("%d pipes are counted, %d are open", n, r.leaked(pipeRead))
		}
	}
}

// A blocked side waits for the other one to take more: bytes and errors that arrive meanwhile cause
// no read.
func TestBlockedSideDoesNotRead(t *testing.T) {
	r, peers := blockedRig(t, Config{}, 1, 100<<10)
	far := r.backend()
	before := far.peeks
	for range 100 {
		far.deliver([]byte("more"))
		r.settle()
	}
	if far.peeks != before {
		t.Errorf("%d reads while the other side is blocked", far.peeks-before)
	}
	peers[0].reset()
	r.settle()
	r.expectEnd(1, record.Reset, record.Relay, record.Client)
	r.expectClean()
}

// fixedBuffers is the real kernel. The buffers of its sockets do not grow, and segments are as long as
// those of Ethernet.
type fixedBuffers struct{ kernel.Kernel }

// What forty blocked connections hold then is 30 MB. Buffers that grow hold 250 MB. Beyond the middle value
// of net.ipv4.tcp_mem, 48 MB on a machine with 1 GB, the kernel drops segments. On Linux 7.3 the backend
// then tries again only after a time that doubles, up to two minutes, although nothing is left in the sockets
// between it and the reader. Windows of this size fit few of the segments of loopback, 64 KiB, and some kernels
// (6.1) fill them slowly.
const receiveBuffer, sendBuffer, segment = 128 << 10, 64 << 10, 1448

func (k fixedBuffers) Socket(family int) (int, syscall.Errno) {
	fd, errno := k.Kernel.Socket(family)
	if errno == 0 {
		k.fix(fd)
	}
	return fd, errno
}

func (k fixedBuffers) Accept(fd int) (int, netip.AddrPort, syscall.Errno) {
	conn, peer, errno := k.Kernel.Accept(fd)
	if errno == 0 {
		k.fix(conn)
	}
	return conn, peer, errno
}

func (k fixedBuffers) fix(fd int) {
	k.SetOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	k.SetOption(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	k.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)
}

// On real sockets: readers that stop for a while, over TCP and unix sockets.
func TestRealBlockedReaders(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			var ln net.Listener
			var to forward.Endpoint
			if network == "tcp" {
				ln, to = server(t)
			} else {
				path := filepath.Join(t.TempDir(), "backend")
				ln, to = listen(t, "unix", path), forward.Endpoint{Path: path}
			}
			f := loopback(to)
			if network == "unix" {
				f.Listeners[0].Endpoint = forward.Endpoint{Path: filepath.Join(t.TempDir(), "front")}
			}
			const connections = 40
			l := startRealWith(t, Config{Forwards: []*forward.Forward{f}, MaxPipes: 4, Kernel: fixedBuffers{kernel.System()}})
			data := randomBytes(6<<20 + 1)
			var clients []halfCloser
			for range connections {
				client := l.dial(0, header)
				client.(interface{ SetReadBuffer(int) error }).SetReadBuffer(receiveBuffer)
				clients = append(clients, client)
				backend := accept(t, ln)
				backend.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(sendBuffer)
				go func() {
					backend.Write(data)
					backend.CloseWrite()
					io.Copy(io.Discard, backend)
				}()
			}
			await.Until(t, "all readers are blocked", func() bool {
				h, err := l.Holdings(t.Context())
				return err == nil && h.Blocked == connections
			})
			if held := l.buffers.held.Load(); held > connections*slotSize {
				t.Errorf("%d bytes are held for %d connections", held, connections)
			}
			if n := l.Counters().Pipes; n > 4 {
				t.Errorf("%d pipes", n)
			}
			for i, client := range clients {
				got, err := io.ReadAll(client)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("connection %d: %d of %d bytes, %v", i, len(got), len(data), err)
				}
				client.CloseWrite()
			}
			for range connections {
				l.expectRecord(record.OK, record.Backend)
			}
		})
	}
}
