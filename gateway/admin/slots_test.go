package admin

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"unproxy/integration_test/await"
)

// listeners are the addresses of the tests of slots: TCP, and a unix socket.
func listeners(t *testing.T) map[string]Address {
	return map[string]Address{
		"tcp":  {TCP: netip.MustParseAddrPort("127.0.0.1:0")},
		"unix": {Path: filepath.Join(t.TempDir(), "endpoint.sock")},
	}
}

// dial connects to an endpoint. Everything on the connection together is bounded.
func dial(t *testing.T, at Address) net.Conn {
	t.Helper()
	network, address := at.network()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(await.Deadline(t))
	return c
}

// exchange sends a request as it is and returns the first line of the answer.
func exchange(t *testing.T, c net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(c, line); err != nil {
		t.Fatalf("no answer to %q: %v", request, err)
	}
	return string(line)
}

// Clients that hold all slots of an endpoint and do nothing with them keep a probe from
// no answer: idle ones, ones with half a header, and ones that do not read.
func TestProbesHaveSlots(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: localhost\r\n"
	for _, tt := range []struct {
		name    string
		request string
		reads   string // "one": the first answer; "none": asks without end, and reads no answer
	}{
		{"idle", "GET /healthz" + host + "\r\n", "one"},
		{"silent", "", ""},
		{"half a header", "GET /healthz" + host, ""},
		{"half a second header", "GET /healthz" + host + "\r\nGET /healthz" + host, "one"},
		{"half a body", "POST /-/reload" + host + "Content-Length: 1000\r\n\r\nx", ""},
		{"slow readers", "GET /page/index.html" + host + "\r\n", "none"},
		{"many scrapes", strings.Repeat("GET /metrics"+host+"\r\n", 20), ""},
	} {
		for network, at := range listeners(t) {
			t.Run(tt.name+", "+network, func(t *testing.T) {
				t.Parallel()
				l, err := Listen(Control, at)
				if err != nil {
					t.Fatal(err)
				}
				at := AddressOf(l)
				s := newServer(quiet(), at)
				h := &s.http // without the time limits, which would let a probe in after a while
				h.ReadHeaderTimeout, h.ReadTimeout, h.WriteTimeout, h.IdleTimeout = time.Hour, time.Hour, time.Hour, time.Hour
				slots := newSlots(l, maxConnections)
				go h.Serve(slots)
				defer h.Close()
				for range maxConnections {
					c := dial(t, at)
					switch tt.reads {
					case "one":
						exchange(t, c, tt.request)
					case "none":
						c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4096)
						go func() {
							for err := error(nil); err == nil; {
								_, err = io.WriteString(c, tt.request)
							}
						}()
					default:
						io.WriteString(c, tt.request)
					}
				}
				if tt.reads == "none" {
					await.Until(t, "every answer is stuck", func() bool { return slots.stuck() == maxConnections })
				}
				for range 3 {
					for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
						c := dial(t, at)
						if got := exchange(t, c, "GET "+path+" HTTP/1.0\r\n\r\n"); got != "HTTP/1.0 200" {
							t.Errorf("%s: %s", path, got)
						}
						c.Close()
					}
				}
			})
		}
	}
}

// stuck returns how many connections wait until their client reads.
func (s *slots) stuck() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.writing > 0 && time.Since(c.since) > 100*time.Millisecond {
			n++
		}
	}
	return n
}

// Handlers that take long keep slots for probes, and are not cut short.
func TestWorkIsNotCutShort(t *testing.T) {
	c := quiet()
	begun, finish := make(chan struct{}, maxConnections), make(chan struct{})
	c.Drain = func() { begun <- struct{}{}; <-finish }
	l := open(t, Address{TCP: netip.MustParseAddrPort("127.0.0.1:0")})
	s := Serve(l, c)
	defer s.Close()
	const drain = "POST /-/drain HTTP/1.0\r\nHost: localhost\r\n\r\n"
	answers := make(chan string)
	for range maxWorking {
		conn := dial(t, AddressOf(l))
		io.WriteString(conn, drain)
		await.Receive(t, "a handler at work", begun)
		go func() {
			answer, err := io.ReadAll(conn)
			answers <- fmt.Sprintf("%.12s %v", answer, err)
		}()
	}
	if got := exchange(t, dial(t, AddressOf(l)), drain); got != "HTTP/1.0 503" {
		t.Errorf("one more than may be at work: %s", got)
	}
	for range 2 * maxConnections {
		if got := exchange(t, dial(t, AddressOf(l)), "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"); got != "HTTP/1.1 200" {
			t.Errorf("probe: %s", got)
		}
	}
	close(finish)
	for range maxWorking {
		if got := await.Receive(t, "the end of a handler", answers); got != "HTTP/1.0 202 <nil>" {
			t.Errorf("a handler at work was cut short: %s", got)
		}
	}
}

// At the limit a new connection waits while all others work. The one that has waited
// longest is closed, of the peer that has most.
func TestSlots(t *testing.T) {
	s := newSlots(open(t, Address{TCP: netip.MustParseAddrPort("127.0.0.1:0")}), 3)
	accepted := make(chan *conn)
	go func() {
		defer close(accepted)
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			accepted <- c.(*conn)
		}
	}()
	connect := func(from string) net.Conn {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(await.Deadline(t))
		return c
	}
	next := func(from string) (net.Conn, *conn) {
		t.Helper()
		c := connect(from)
		return c, await.Receive(t, "a connection", accepted)
	}
	wantClosed := func(c net.Conn) {
		t.Helper()
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read %d, %v; want the connection closed", n, err)
		}
	}
	_, other := next("127.0.0.9") // waits longest, but is the only one of its peer
	first, _ := next("127.0.0.1")
	_, second := next("127.0.0.1")
	_, third := next("127.0.0.1")
	wantClosed(first)

	for _, c := range []*conn{other, second, third} {
		if !c.begin(true) {
			t.Fatal("a probe was refused")
		}
	}
	connect("127.0.0.1")
	select {
	case <-accepted:
		t.Error("accepted a connection beyond the limit")
	default:
	}
	second.end() // it waits for its client from now on
	fourth := await.Receive(t, "the connection that waited", accepted)
	fourth.begin(true)
	connect("127.0.0.1")
	third.Close()
	third.Close() // has no effect
	await.Receive(t, "the next connection", accepted)
	if n := len(s.open); n != 3 {
		t.Errorf("%d connections are open; want 3", n)
	}
	s.Close()
	if _, more := <-accepted; more {
		t.Error("accepted a connection after Close")
	}
}

// A health endpoint serves probes and nothing else, to everyone.
func TestHealthServesProbesOnly(t *testing.T) {
	c := quiet()
	c.Kind, c.Profiles, c.Drain = Probes, true, func() { t.Error("drained") }
	s := newServer(c, Address{TCP: netip.MustParseAddrPort("127.0.0.1:9181")})
	for request, want := range map[string]int{
		"GET /healthz": 200, "GET /readyz": 200, "GET /metrics": 200, "HEAD /readyz": 200, "OPTIONS /readyz": 200,
		"POST /readyz": 405, "POST /-/drain": 404, "POST /-/reload": 404, "DELETE /connections/c0ffee-3": 404,
		"GET /": 404, "GET /status.json": 404, "GET /connections.json": 404, "GET /debug/pprof/": 404, "GET /page/app.js": 404,
	} {
		method, path, _ := strings.Cut(request, " ")
		if w := ask(s, method, path); w.Code != want { // its Host is example.com
			t.Errorf("%s: %d %s; want %d", request, w.Code, w.Body, want)
		}
	}
	if code := ask(newServer(quiet(), nearby), http.MethodOptions, "/healthz").Code; code != 200 {
		t.Errorf("OPTIONS /healthz of the admin endpoint: %d", code)
	}
}
