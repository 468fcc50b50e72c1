package engine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/forward"
	"unproxy/gateway/record"
	"unproxy/integration_test/await"
	"unproxy/integration_test/leaks"
)

// realEngine is an engine with two loops on the real kernel.
type realEngine struct {
	*testing.T
	*Engine
	records chan record.Connection
}

// testTimeout bounds every wait. No test asserts how long a wait takes.
const testTimeout = await.Patience

// loopback is a forward from a free port of 127.0.0.1.
func loopback(backends ...forward.Endpoint) *forward.Forward {
	f := plainForward(backends...)
	f.Listeners[0].Endpoint = forward.Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:0")}
	f.Trust = anyAddress
	f.ConnectTimeout, f.HeaderTimeout = testTimeout, testTimeout
	return f
}

// startReal starts an engine. The end of the test closes it and checks that it leaves no descriptor
// and no goroutine.
func startReal(t *testing.T, forwards ...*forward.Forward) *realEngine {
	t.Helper()
	return startRealWith(t, Config{Forwards: forwards})
}

func startRealWith(t *testing.T, c Config) *realEngine {
	t.Helper()
	l := newRealWith(t, c)
	l.Start()
	t.Cleanup(l.Close)
	return l
}

// newReal is startReal without Start and Close.
func newReal(t *testing.T, forwards ...*forward.Forward) *realEngine {
	t.Helper()
	return newRealWith(t, Config{Forwards: forwards})
}

func newRealWith(t *testing.T, c Config) *realEngine {
	t.Helper()
	leaks.Check(t)
	l := &realEngine{T: t, records: make(chan record.Connection, 4096)}
	c.Loops, c.Report = 2, func(c *record.Connection) { l.records <- *c }
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l.Engine = e
	return l
}

// expectRecord waits for the next record.
func (l *realEngine) expectRecord(outcome record.Outcome, by record.Party) record.Connection {
	l.Helper()
	select {
	case c := <-l.records:
		if c.Outcome != outcome || c.By != by {
			l.Errorf("ended %v by %v (%s), want %v by %v", c.Outcome, c.By, c.Reason, outcome, by)
		}
		return c
	case <-time.After(testTimeout):
		l.Fatal("no connection ended")
	}
	return record.Connection{}
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// dial connects to the i-th listener and sends b at once.
func (l *realEngine) dial(i int, b string) halfCloser {
	l.Helper()
	network, to := "tcp", l.Bound()[i].Addr.String()
	if path := l.Bound()[i].Path; path != "" {
		network, to = "unix", path
	}
	return l.connect(network, to, b)
}

func (l *realEngine) connect(network, to, b string) halfCloser {
	l.Helper()
	conn, err := net.Dial(network, to)
	if err != nil {
		l.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(testTimeout))
	l.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, b); err != nil {
		l.Fatal(err)
	}
	return conn.(halfCloser)
}

func listen(t *testing.T, network, at string) net.Listener {
	t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(false) // MPTCP sockets do not have all options
	ln, err := c.Listen(t.Context(), network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// server is a backend on loopback.
func server(t *testing.T) (net.Listener, forward.Endpoint) {
	t.Helper()
	ln := listen(t, "tcp", "127.0.0.1:0")
	return ln, forward.Endpoint{Addr: ln.Addr().(*net.TCPAddr).AddrPort()}
}

func accept(t *testing.T, ln net.Listener) halfCloser {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(testTimeout))
	t.Cleanup(func() { conn.Close() })
	return conn.(halfCloser)
}

// connectedPair is a client and a backend that are connected through an engine.
func connectedPair(t *testing.T) (l *realEngine, client, backend halfCloser) {
	t.Helper()
	ln, to := server(t)
	l = startReal(t, loopback(to))
	client = l.dial(0, header)
	return l, client, accept(t, ln)
}

// sendAll writes b and a FIN. expectAll reads to the FIN and compares with b.
func sendAll(t *testing.T, conn halfCloser, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func expectAll(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	hash := sha256.New()
	n, err := io.Copy(hash, conn)
	if want := sha256.Sum256(b); err != nil || n != int64(len(b)) || !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Errorf("%d bytes of %d (%v), or different ones", n, len(b), err)
	}
}

// After a FIN in one direction, the other direction continues.
func TestRealHalfClose(t *testing.T) {
	for _, by := range []record.Party{record.Client, record.Backend} {
		l, first, second := connectedPair(t)
		if by == record.Backend {
			first, second = second, first
		}
		question, answer := randomBytes(1<<20), randomBytes(1<<20+1)
		go sendAll(t, first, question)
		expectAll(t, second, question)
		go sendAll(t, second, answer)
		expectAll(t, first, answer)
		c := l.expectRecord(record.OK, by)
		if c.BytesIn+c.BytesOut != int64(len(question)+len(answer)) {
			t.Errorf("counted %d and %d bytes", c.BytesIn, c.BytesOut)
		}
	}
}

func TestRealReset(t *testing.T) {
	for _, by := range []record.Party{record.Client, record.Backend} {
		l, first, second := connectedPair(t)
		// Until a byte of the backend has arrived, its RST means that it refused.
		io.WriteString(second, "!")
		io.ReadFull(first, make([]byte, 1))
		if by == record.Backend {
			first, second = second, first
		}
		first.(*net.TCPConn).SetLinger(0)
		first.Close()
		if _, err := second.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a RST by the %v arrived as %v", by, err)
		}
		l.expectRecord(record.Reset, by)
	}
}

// Bulk data in both directions to readers with small windows, so that writes block.
// With windows much smaller than these, loopback itself moves less than 1 MB a
// second on some kernels (6.1), because its segments have 64 KiB.
func TestRealBulk(t *testing.T) {
	l, client, backend := connectedPair(t)
	up, down := randomBytes(20<<20), randomBytes(20<<20+1)
	for _, c := range []halfCloser{client, backend} {
		c.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	var done sync.WaitGroup
	done.Go(func() { sendAll(t, client, up) })
	done.Go(func() { sendAll(t, backend, down) })
	done.Go(func() { expectAll(t, client, down) })
	done.Go(func() { expectAll(t, backend, up) })
	done.Wait()
	c := <-l.records
	if c.Outcome != record.OK || c.BytesIn != int64(len(up)) || c.BytesOut != int64(len(down)) {
		t.Errorf("ended %v after %d and %d bytes", c.Outcome, c.BytesIn, c.BytesOut)
	}
}

// The backend is connected when the header is complete, without waiting for payload.
func TestRealServerSpeaksFirst(t *testing.T) {
	l, client, backend := connectedPair(t)
	sendAll(t, backend, []byte("220 ready\r\n"))
	expectAll(t, client, []byte("220 ready\r\n"))
	sendAll(t, client, nil)
	expectAll(t, backend, nil)
	l.expectRecord(record.OK, record.Backend)
}

func TestRealPayloadWithHeader(t *testing.T) {
	ln, to := server(t)
	l := startReal(t, loopback(to))
	client := l.dial(0, header+"EHLO")
	backend := accept(t, ln)
	sendAll(t, client, []byte(" there\r\n"))
	expectAll(t, backend, []byte("EHLO there\r\n"))
	sendAll(t, backend, nil)
	l.expectRecord(record.OK, record.Client)
}

// An urgent byte stays in line.
func TestRealUrgentData(t *testing.T) {
	l, client, backend := connectedPair(t)
	write := func(b string, flags int) {
		raw, err := client.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Write(func(fd uintptr) bool {
			err = unix.Sendto(int(fd), []byte(b), flags, nil)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := ""
	for range 50 {
		write("before", 0)
		write("!", unix.MSG_OOB)
		write("after", 0)
		want += "before!after"
	}
	sendAll(t, client, nil)
	expectAll(t, backend, []byte(want))
	sendAll(t, backend, nil)
	l.expectRecord(record.OK, record.Client)
}

func TestRealRefusedBackend(t *testing.T) {
	ln, to := server(t)
	ln.Close()
	l := startReal(t, loopback(to))
	client := l.dial(0, header+"payload")
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	l.expectRecord(record.BackendRefused, record.Backend)
}

// Many short connections on both loops at the same time.
func TestRealManyConnections(t *testing.T) {
	ln, to := server(t)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				// Without splice(2): the Go runtime would keep the pipes until a garbage
				// collection.
				io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
				conn.Close()
			}()
		}
	}()
	l := startReal(t, loopback(to))
	const crowd, rounds = 16, 20
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() {
			for range rounds {
				data := randomBytes(100 << (i % 12))
				client := l.dial(0, header)
				go sendAll(t, client, data)
				expectAll(t, client, data)
			}
		})
	}
	all.Wait()
	for range crowd * rounds {
		l.expectRecord(record.OK, record.Client)
	}
}

// Long sessions are distributed evenly over the loops.
func TestRealBalance(t *testing.T) {
	ln, to := server(t)
	l := startReal(t, loopback(to))
	for range 64 {
		l.dial(0, header)
		accept(t, ln)
	}
	for i, n := range l.Counters().PerLoop {
		if n < 29 || n > 35 {
			t.Errorf("loop %d has %d of 64 sessions", i, n)
		}
	}
}

// Connections that are queued when the engine closes are accepted by one loop and distributed to
// both. All of them end, and no descriptor is left.
func TestRealCloseWithQueuedConnections(t *testing.T) {
	_, to := server(t)
	l := newReal(t, loopback(to))
	const queue = 300
	for range queue {
		l.dial(0, "")
	}
	l.Start()
	l.Close()
	for range queue {
		l.expectRecord(record.Drained, record.Gateway)
	}
	if n := l.Counters().Active; n != 0 {
		t.Errorf("%d connections are active", n)
	}
}
