package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"unproxy/integration_test/await"
)

// V1 returns a version 1 header with the addresses.
func V1(source, destination netip.AddrPort) []byte {
	family := "TCP4"
	if source.Addr().Is6() {
		family = "TCP6"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family,
		source.Addr(), destination.Addr(), source.Port(), destination.Port())
}

// V2 returns a version 2 header of a stream with the addresses, which must be of the
// same family, and the TLVs, which are already encoded.
func V2(source, destination netip.AddrPort, tlvs ...byte) []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11")
	if source.Addr().Is6() {
		b[13] = 0x21
	}
	var addresses []byte
	addresses = append(addresses, source.Addr().AsSlice()...)
	addresses = append(addresses, destination.Addr().AsSlice()...)
	addresses = binary.BigEndian.AppendUint16(addresses, source.Port())
	addresses = binary.BigEndian.AppendUint16(addresses, destination.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(len(addresses)+len(tlvs)))
	return append(append(b, addresses...), tlvs...)
}

// Local returns the version 2 header of a LOCAL connection or datagram.
func Local() []byte { return []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00") }

// Dial opens a TCP connection that is closed with the test. A deadline bounds all
// reads and writes.
func Dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, await.Patience)
	if err != nil {
		t.Fatal(err)
	}
	return adopt(t, c)
}

// Send dials address and writes each piece with one call.
func Send(t testing.TB, address string, pieces ...[]byte) *net.TCPConn {
	t.Helper()
	c := Dial(t, address)
	for _, p := range pieces {
		if _, err := c.Write(p); err != nil {
			t.Fatalf("write to %s: %v", address, err)
		}
	}
	return c
}

func adopt(t testing.TB, c net.Conn) *net.TCPConn {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(await.Deadline(t)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// Backend is a TCP server in the test itself.
type Backend struct {
	Addr string // it listens here

	mu       sync.Mutex
	accepted int
	conns    chan *net.TCPConn
}

// Listen starts a backend on address. The test gets its connections from Next.
func Listen(t testing.TB, address string) *Backend {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{Addr: l.Addr().String(), conns: make(chan *net.TCPConn, 1024)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.accept(l)
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
		close(b.conns)
		for c := range b.conns {
			c.Close()
		}
	})
	return b
}

func (b *Backend) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.accepted++
		b.mu.Unlock()
		b.conns <- c.(*net.TCPConn)
	}
}

// Next waits for the next connection and returns it. It is closed with the test.
func (b *Backend) Next(t testing.TB) *net.TCPConn {
	t.Helper()
	return adopt(t, await.Receive(t, "a connection to the backend "+b.Addr, b.conns))
}

// Accepted returns the number of connections accepted so far.
func (b *Backend) Accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted
}

// Echo starts a TCP server that sends back what it receives, and returns its address.
func Echo(t testing.TB, address string) string {
	t.Helper()
	return Serve(t, address, func(c net.Conn) {
		// Hidden from io.Copy, which would keep two pipes for each pair of TCP
		// connections.
		io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	}).Addr().String()
}

// Serve starts a TCP server and returns its listener, which is closed with the test.
// handle is called for each connection, in a goroutine of its own; the connection is
// closed when it returns.
func Serve(t testing.TB, address string, handle func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return ServeOn(t, l, handle)
}

// ServeOn is [Serve] on a listener, which it returns.
func ServeOn(t testing.TB, l net.Listener, handle func(net.Conn)) net.Listener {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l
}

// Peer returns the remote address of c, unmapped.
func Peer(c net.Conn) netip.AddrPort {
	a := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Exchange sends a megabyte each way, enough for the bulk path.
func Exchange(t testing.TB, a, b net.Conn) {
	t.Helper()
	data := strings.Repeat("0123456789abcdef", 1<<16)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(pair[0], data)
			sent <- err
		}()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(pair[1], got); err != nil || string(got) != data {
			t.Fatalf("received other data than was sent: %v", err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
}
