package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"unproxy/gateway/command/usage"
	"unproxy/gateway/config/value"
	"unproxy/gateway/kernel"
)

// sendDatagram sends header and payload in one datagram, and receives answers until no
// more arrive.
func (p *plan) sendDatagram(ctx context.Context) *result {
	r := &result{}
	conn, err := kernel.Dial(ctx, net.Dialer{}, p.network, p.address)
	if err != nil {
		r.fail(err, nil)
		return r
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r.connected, r.local = true, conn.LocalAddr().String()
	if r.header, r.headerName, err = p.header(addrPort(conn.RemoteAddr())); err == nil {
		_, err = conn.Write(append(r.header[:len(r.header):len(r.header)], p.payload...))
	}
	if err != nil {
		r.fail(err, nil)
		return r
	}
	r.sent = int64(len(p.payload))
	p.receiveDatagrams(conn, r)
	return r
}

// receiveDatagrams reads until no more datagrams arrive, or until the timeout if
// none arrived.
func (p *plan) receiveDatagrams(conn net.Conn, r *result) {
	start := time.Now()
	buffer := make([]byte, 64<<10)
	for wait := p.timeout; ; wait = min(p.quiet, p.timeout) {
		conn.SetReadDeadline(time.Now().Add(wait))
		n, err := conn.Read(buffer)
		switch {
		case err == nil:
			if r.datagrams == 0 {
				r.firstByte = time.Since(start)
			}
			r.datagrams++
			r.take(buffer[:n], r.firstByte)
			continue
		case r.datagrams > 0:
			r.end = endOpen
		case errors.Is(err, os.ErrDeadlineExceeded):
			r.end = endTimeout
		case errors.Is(err, syscall.ECONNREFUSED):
			r.end, r.err = endReset, err
		default:
			r.end, r.err = endFailed, err
		}
		return
	}
}

// printDatagrams prints the answers.
func (r *result) printDatagrams(w io.Writer, p *plan) {
	if r.datagrams == 0 {
		fmt.Fprintf(w, "received     nothing\n")
		fmt.Fprintf(w, "end          %s\n", r.endingOfDatagrams(p))
		return
	}
	fmt.Fprintf(w, "first one    after %v\n", short(r.firstByte))
	count := value.Plural(r.datagrams, "datagram")
	fmt.Fprintf(w, "received     %s, %d bytes %s\n", count, r.received, usage.Quote(r.beginning))
}

func (r *result) endingOfDatagrams(p *plan) string {
	switch r.end {
	case endTimeout:
		return fmt.Sprintf("nothing came for %v (timeout)", p.timeout)
	case endReset:
		return "refused: the port is closed (ICMP)"
	}
	return fmt.Sprintf("failed: %v", r.err)
}

// hintOfDatagrams returns the probable reason why there was no answer.
func (r *result) hintOfDatagrams(p *plan) string {
	switch {
	case r.end == endReset:
		return "nothing listens there: is the gateway running?"
	case r.end == endTimeout:
		return "a gateway drops datagrams silently: " + r.trustHint() + " Does its --udp-header match? " +
			"In transparent mode: is there a return path, and is the backend bound to its own address? " +
			"The log of the gateway counts what it drops"
	}
	return ""
}

// echoDatagrams sends back each datagram until ctx is done or count is reached.
func (b *backend) echoDatagrams(ctx context.Context) error {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, b.network, b.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Fprintf(b.out, "listening on %s\n", conn.LocalAddr())
	buffer := make([]byte, 64<<10)
	for served := 0; b.count == 0 || served < b.count; served++ {
		n, from, err := conn.(*net.UDPConn).ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		fmt.Fprintf(b.out, "datagram from %v, %d bytes\n", from, n)
		conn.(*net.UDPConn).WriteToUDPAddrPort(append(b.banner[:len(b.banner):len(b.banner)], buffer[:n]...), from)
	}
	return nil
}
