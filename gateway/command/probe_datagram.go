package command

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
)

// sendDatagram sends header and payload in one datagram and takes what comes
// back until nothing more does.
func (p *probePlan) sendDatagram(ctx context.Context) *probeResult {
	r := &probeResult{}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, p.network, p.address)
	if err != nil {
		r.end, r.err = endFailed, err
		return r
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r.connected, r.local = true, conn.LocalAddr().String()
	if r.header, r.headerName, err = p.header(addrPort(conn.RemoteAddr())); err == nil {
		_, err = conn.Write(append(r.header[:len(r.header):len(r.header)], p.payload...))
	}
	if err != nil {
		r.end, r.err = endFailed, err
		return r
	}
	r.sent = int64(len(p.payload))
	p.receiveDatagrams(conn, r)
	return r
}

// receiveDatagrams reads until nothing has come for a while, or at all for the
// plan's time-out.
func (p *probePlan) receiveDatagrams(conn net.Conn, r *probeResult) {
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

// printDatagrams says what was sent and what came back.
func (r *probeResult) printDatagrams(w io.Writer, p *probePlan) {
	if r.datagrams == 0 {
		fmt.Fprintf(w, "received     nothing\n")
		fmt.Fprintf(w, "end          %s\n", r.endingOfDatagrams(p))
		return
	}
	fmt.Fprintf(w, "first one    after %v\n", short(r.firstByte))
	fmt.Fprintf(w, "received     %s, %d bytes %s\n", usage.Plural(r.datagrams, "datagram"), r.received, usage.Quote(r.beginning))
}

func (r *probeResult) endingOfDatagrams(p *probePlan) string {
	switch r.end {
	case endTimeout:
		return fmt.Sprintf("nothing came for %v (timeout)", p.timeout)
	case endReset:
		return "refused: nobody has this port (ICMP)"
	}
	return fmt.Sprintf("broken: %v", r.err)
}

// hintOfDatagrams says what it probably means that nothing came back.
func (r *probeResult) hintOfDatagrams(p *probePlan) string {
	switch {
	case r.end == endReset:
		return "nothing listens there: is the gateway running?"
	case r.end == endTimeout:
		return "a gateway drops without a word: is this host" + fromHost(r.local) + " in its --trust, and --udp-header what is sent here? " +
			"In transparent mode: do replies find their way back, and is the backend bound to its address? Its log counts what it drops"
	}
	return ""
}

// echoDatagrams sends back each datagram, until ctx is done or the count is
// reached.
func (s *echoServer) echoDatagrams(ctx context.Context) error {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Fprintf(s.out, "listening on %s\n", conn.LocalAddr())
	buffer := make([]byte, 64<<10)
	for served := 0; s.count == 0 || served < s.count; served++ {
		n, from, err := conn.(*net.UDPConn).ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		fmt.Fprintf(s.out, "datagram from %v, %d bytes\n", from, n)
		conn.(*net.UDPConn).WriteToUDPAddrPort(append(s.banner[:len(s.banner):len(s.banner)], buffer[:n]...), from)
	}
	return nil
}
