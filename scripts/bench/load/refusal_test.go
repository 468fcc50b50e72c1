package load

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"unproxy/gateway/proxyproto"
	"unproxy/integration_test/await"
	"unproxy/integration_test/lab"
)

// accepting listens and lets serve end each connection.
func accepting(t *testing.T, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l := lab.Serve(t, "127.0.0.1:0", func(c net.Conn) { serve(c.(*net.TCPConn)) })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// A RST and a FIN are refusals, and each opens another connection.
func TestRefusalsAreCounted(t *testing.T) {
	for name, serve := range map[string]func(*net.TCPConn){
		"RST": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"FIN": func(c *net.TCPConn) { c.Close() },
	} {
		l, err := New(Config{Gateway: accepting(t, serve), Header: V2, Clients: &Clients{}}, Group{Untrusted, 4, 64})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Open(await.Patience); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		l.Reset()
		await.Until(t, name+": connections are refused", func() bool {
			if _, err := l.Run(10 * time.Millisecond); err != nil {
				t.Fatal(err)
			}
			return l.Counts()[0].Answers > 100
		})
		if n, err := l.Errors(); n > 0 {
			t.Errorf("%s: %d errors, the first: %v", name, n, err)
		}
	}
}

// A gateway that answers does not refuse, nor does one that no longer listens.
func TestAnAnswerIsNoRefusal(t *testing.T) {
	answering := accepting(t, func(c *net.TCPConn) { c.Write([]byte("x")); c.Close() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for at, want := range map[netip.AddrPort]string{
		answering:                             "an answer instead of a refusal",
		gone.Addr().(*net.TCPAddr).AddrPort(): "connection refused",
	} {
		l, err := New(Config{Gateway: at, Clients: &Clients{}}, Group{Untrusted, 4, 64})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Open(await.Patience); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open: %v, want %s", err, want)
		}
		if n := l.Counts()[0].Answers; n > 0 {
			t.Errorf("%s: %d refusals are counted", want, n)
		}
	}
}

// Untrusted peers have other addresses than the rest and send nothing. Denied clients have a header.
func TestWhoIsRefused(t *testing.T) {
	peers, heads := make(chan netip.Addr, 100), make(chan []byte, 100)
	at := accepting(t, func(c *net.TCPConn) {
		peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		head := make([]byte, 64)
		if Peers.Contains(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()) {
			n, _ := c.Read(head)
			heads <- head[:n]
		}
		c.SetLinger(0)
		c.Close()
	})
	l, err := New(Config{Gateway: at, Header: V2, Clients: &Clients{}}, Group{Untrusted, 1, 64}, Group{Denied, 1, 64})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Open(await.Patience); err != nil {
		t.Fatal(err)
	}
	if first, second := <-peers, <-peers; Peers.Contains(first) == Peers.Contains(second) {
		t.Errorf("the peers are %v and %v, one must be in %v", first, second, Peers)
	}
	h, err := proxyproto.Decode(<-heads, &proxyproto.Options{})
	if err != nil || !ClientNetwork.Contains(h.Source.Addr()) {
		t.Errorf("the header names %v, %v", h.Source, err)
	}
}
