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

	"unproxy/gateway/record"
	"unproxy/integration_test/await"
	"unproxy/integration_test/leaks"
)

// live is an engine of two loops on the real kernel, on loopback.
type live struct {
	*testing.T
	*Engine
	records chan record.Connection
}

// patience bounds every wait; nothing is asserted about how long one takes.
const patience = await.Patience

// loopback is a forward from a free port of 127.0.0.1.
func loopback(backends ...Endpoint) *Forward {
	f := plain(backends...)
	f.Listeners[0].Endpoint = Endpoint{Addr: netip.MustParseAddrPort("127.0.0.1:0")}
	f.Trust = everybody
	f.ConnectTimeout, f.HeaderTimeout = patience, patience
	return f
}

// start starts an engine, which is closed with the test and leaves nothing.
func start(t *testing.T, forwards ...*Forward) *live {
	t.Helper()
	return startWith(t, Config{Forwards: forwards})
}

// startWith is start with more settings than the forwards.
func startWith(t *testing.T, c Config) *live {
	t.Helper()
	l := readyWith(t, c)
	l.Start()
	t.Cleanup(l.Close)
	return l
}

// ready is an engine that was not started.
func ready(t *testing.T, forwards ...*Forward) *live {
	t.Helper()
	return readyWith(t, Config{Forwards: forwards})
}

// readyWith is ready with more settings than the forwards.
func readyWith(t *testing.T, c Config) *live {
	t.Helper()
	leaks.Check(t)
	l := &live{T: t, records: make(chan record.Connection, 4096)}
	c.Loops, c.Report = 2, func(c *record.Connection) { l.records <- *c }
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l.Engine = e
	return l
}

// next is the next connection that ended.
func (l *live) next(outcome record.Outcome, by record.Party) record.Connection {
	l.Helper()
	select {
	case c := <-l.records:
		if c.Outcome != outcome || c.By != by {
			l.Errorf("ended %v by %v (%s), want %v by %v", c.Outcome, c.By, c.Reason, outcome, by)
		}
		return c
	case <-time.After(patience):
		l.Fatal("no connection ended")
	}
	return record.Connection{}
}

// half is a connection one direction of which can be closed.
type half interface {
	net.Conn
	CloseWrite() error
}

// dial connects to an engine's listener and sends b at once.
func (l *live) dial(i int, b string) half {
	l.Helper()
	network, to := "tcp", l.Bound()[i].Addr.String()
	if path := l.Bound()[i].Path; path != "" {
		network, to = "unix", path
	}
	return l.connect(network, to, b)
}

func (l *live) connect(network, to, b string) half {
	l.Helper()
	conn, err := net.Dial(network, to)
	if err != nil {
		l.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	l.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, b); err != nil {
		l.Fatal(err)
	}
	return conn.(half)
}

func listen(t *testing.T, network, at string) net.Listener {
	t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(false) // not all options can be set on such a socket
	ln, err := c.Listen(t.Context(), network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// server is a backend on loopback, and its endpoint.
func server(t *testing.T) (net.Listener, Endpoint) {
	t.Helper()
	ln := listen(t, "tcp", "127.0.0.1:0")
	return ln, Endpoint{Addr: ln.Addr().(*net.TCPAddr).AddrPort()}
}

// accept is the next connection to a backend.
func accept(t *testing.T, ln net.Listener) half {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn.(half)
}

// pair is a client and a backend with an engine between them.
func pair(t *testing.T) (l *live, client, backend half) {
	t.Helper()
	ln, to := server(t)
	l = start(t, loopback(to))
	client = l.dial(0, header)
	return l, client, accept(t, ln)
}

// says writes b and a FIN, and hears reads to the FIN and compares with b.
func says(t *testing.T, conn half, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func hears(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	hash := sha256.New()
	n, err := io.Copy(hash, conn)
	if want := sha256.Sum256(b); err != nil || n != int64(len(b)) || !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Errorf("%d bytes of %d (%v), or not the same ones", n, len(b), err)
	}
}

// After a FIN one way, bytes go on the other way.
func TestRealHalfClose(t *testing.T) {
	for _, by := range []record.Party{record.Client, record.Backend} {
		l, first, second := pair(t)
		if by == record.Backend {
			first, second = second, first
		}
		question, answer := noise(1<<20), noise(1<<20+1)
		go says(t, first, question)
		hears(t, second, question)
		go says(t, second, answer)
		hears(t, first, answer)
		c := l.next(record.OK, by)
		if c.BytesIn+c.BytesOut != int64(len(question)+len(answer)) {
			t.Errorf("counted %d and %d bytes", c.BytesIn, c.BytesOut)
		}
	}
}

func TestRealReset(t *testing.T) {
	for _, by := range []record.Party{record.Client, record.Backend} {
		l, first, second := pair(t)
		// Until a byte of the backend's arrived, its RST is a refusal.
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
		l.next(record.Reset, by)
	}
}

// Bulk both ways at once, to readers with small windows, so that every write
// blocks now and then. With windows much smaller than these, loopback itself moves
// less than 1 MB a second on some kernels (6.1), as its segments have 64 KiB.
func TestRealBulk(t *testing.T) {
	l, client, backend := pair(t)
	up, down := noise(20<<20), noise(20<<20+1)
	for _, c := range []half{client, backend} {
		c.(*net.TCPConn).SetReadBuffer(64 << 10)
	}
	var done sync.WaitGroup
	done.Go(func() { says(t, client, up) })
	done.Go(func() { says(t, backend, down) })
	done.Go(func() { hears(t, client, down) })
	done.Go(func() { hears(t, backend, up) })
	done.Wait()
	c := <-l.records
	if c.Outcome != record.OK || c.BytesIn != int64(len(up)) || c.BytesOut != int64(len(down)) {
		t.Errorf("ended %v after %d and %d bytes", c.Outcome, c.BytesIn, c.BytesOut)
	}
}

// A server that speaks first is connected to as soon as the header is there.
func TestRealServerSpeaksFirst(t *testing.T) {
	l, client, backend := pair(t)
	says(t, backend, []byte("220 ready\r\n"))
	hears(t, client, []byte("220 ready\r\n"))
	says(t, client, nil)
	hears(t, backend, nil)
	l.next(record.OK, record.Backend)
}

func TestRealPayloadInTheHeadersSegment(t *testing.T) {
	ln, to := server(t)
	l := start(t, loopback(to))
	client := l.dial(0, header+"EHLO")
	backend := accept(t, ln)
	says(t, client, []byte(" there\r\n"))
	hears(t, backend, []byte("EHLO there\r\n"))
	says(t, backend, nil)
	l.next(record.OK, record.Client)
}

// An urgent byte stays in line and in its place.
func TestRealUrgentData(t *testing.T) {
	l, client, backend := pair(t)
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
	says(t, client, nil)
	hears(t, backend, []byte(want))
	says(t, backend, nil)
	l.next(record.OK, record.Client)
}

func TestRealRefusedBackend(t *testing.T) {
	ln, to := server(t)
	ln.Close()
	l := start(t, loopback(to))
	client := l.dial(0, header+"payload")
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	l.next(record.BackendRefused, record.Backend)
}

// Many short connections on both loops at once, with every kind of end.
func TestRealCrowd(t *testing.T) {
	ln, to := server(t)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				// Not spliced: the runtime would keep the pipes until some collection.
				io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
				conn.Close()
			}()
		}
	}()
	l := start(t, loopback(to))
	const crowd, rounds = 16, 20
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() {
			for range rounds {
				data := noise(100 << (i % 12))
				client := l.dial(0, header)
				go says(t, client, data)
				hears(t, client, data)
			}
		})
	}
	all.Wait()
	for range crowd * rounds {
		l.next(record.OK, record.Client)
	}
}

// Long sessions end up even over the loops.
func TestRealBalance(t *testing.T) {
	ln, to := server(t)
	l := start(t, loopback(to))
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

// Connections that wait when the engine is closed are accepted by one loop and
// dealt out to both. All of them end, and no descriptor is left.
func TestRealCloseWithAFullQueue(t *testing.T) {
	_, to := server(t)
	l := ready(t, loopback(to))
	const queue = 300
	for range queue {
		l.dial(0, "")
	}
	l.Start()
	l.Close()
	for range queue {
		l.next(record.Drained, record.Gateway)
	}
	if n := l.Counters().Active; n != 0 {
		t.Errorf("%d connections are active", n)
	}
}
