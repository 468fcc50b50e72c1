package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/proxyproto"
)

// udpBatch is the number of datagrams per system call.
const udpBatch = 64

// datagrams sends datagrams to a gateway and counts the replies.
//
// Each flow has a source address in 127.0.0.0/8, so one socket acts as many peers and the
// load costs less than the gateway. At most window datagrams are in flight.
type datagrams struct {
	fd      int
	size    int
	window  int
	heads   [][]byte // the header of each flow
	in, out *batch
	gateway unix.RawSockaddrInet4

	next, outstanding int
}

// count is the result of a load.
type count struct {
	sent, received, lost uint64
	elapsed              time.Duration
}

func newDatagrams(r udpLoad, headers bool) (*datagrams, error) {
	fd, err := socket([4]byte{}, 0, unix.Timeval{Usec: 250000})
	if err != nil {
		return nil, err
	}
	return &datagrams{
		fd: fd, size: r.size, window: r.window(), heads: heads(r.flows, headers),
		in: newBatch(udpBatch, 2048), out: newBatch(udpBatch, 2048),
		gateway: rawAddress(gatewayAddress.Addr().As4(), gatewayAddress.Port()),
	}, nil
}

func (l *datagrams) close() { unix.Close(l.fd) }

// run sends for at least d and at least one datagram per flow.
func (l *datagrams) run(d time.Duration) (c count, err error) {
	start, first := time.Now(), l.next
	for ; ; c.elapsed = time.Since(start) {
		if c.elapsed >= d && l.next-first >= len(l.heads) {
			return c, nil
		}
		l.fill(&c)
		n, err := l.in.receive(l.fd)
		switch {
		case isTimeout(err):
			c.lost += uint64(l.outstanding)
			l.outstanding = 0
		case err != nil:
			return c, fmt.Errorf("receive replies: %w", err)
		}
		c.received += uint64(n)
		l.outstanding = max(0, l.outstanding-n)
	}
}

// fill sends datagrams until the window is full.
func (l *datagrams) fill(c *count) {
	for l.outstanding < l.window {
		n := min(udpBatch, l.window-l.outstanding)
		for i := range n {
			flow := l.next % len(l.heads)
			l.next++
			length := copy(l.out.slot(i), l.heads[flow])
			binary.LittleEndian.PutUint64(l.out.slot(i)[length:], uint64(l.next))
			l.out.vectors[i].SetLen(length + l.size)
			l.out.to(i, l.gateway, peerOf(flow))
		}
		l.out.send(l.fd, n)
		l.outstanding += n
		c.sent += uint64(n)
	}
}

// peerOf returns the peer's address of a flow.
func peerOf(flow int) [4]byte { return [4]byte{127, 1 + byte(flow>>16), byte(flow >> 8), byte(flow)} }

// heads returns the header of each flow, or empty ones without headers.
func heads(flows int, headers bool) [][]byte {
	heads := make([][]byte, flows)
	if !headers {
		return heads
	}
	for i := range heads {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 4711)
		heads[i], _ = proxyproto.AppendV2(nil, &proxyproto.Message{
			Command: proxyproto.CommandProxy, Source: client, Destination: netip.MustParseAddrPort("198.51.100.1:53"),
			Datagram: true,
		})
	}
	return heads
}

// echo is the backend: it sends back what it receives until stop is set.
func echo(fd int, stop *atomic.Bool) {
	runtime.LockOSThread()
	b := newBatch(udpBatch, 2048)
	for !stop.Load() {
		n, err := b.receive(fd)
		if err != nil && !isTimeout(err) {
			return
		}
		for i := range n {
			b.vectors[i].SetLen(int(b.headers[i].length))
			b.headers[i].Controllen = 0
		}
		if n > 0 {
			b.send(fd, n)
		}
	}
}
