package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"unproxy/gateway/kernel"
)

// stream is a connection whose sending direction can be closed.
type stream interface {
	net.Conn
	CloseWrite() error
}

// run makes one connection and observes it until it ends.
func (p *plan) run(ctx context.Context) *result {
	if p.isDatagram() {
		return p.sendDatagram(ctx)
	}
	r := &result{}
	start := time.Now()
	conn, err := kernel.Dial(ctx, net.Dialer{Timeout: p.timeout}, p.network, p.address)
	r.connect = time.Since(start)
	if err != nil {
		if r.fail(err, nil); r.end == endReset && p.network == "tcp" {
			r.local = sourceOf(p.address)
		}
		return r
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r.connected, r.local = true, conn.LocalAddr().String()
	if r.header, r.headerName, err = p.header(addrPort(conn.RemoteAddr())); err != nil {
		r.fail(err, nil)
		return r
	}
	sending := make(chan error, 1)
	var sent atomic.Int64
	go func() { sending <- p.send(conn.(stream), r.header, &sent) }()
	p.receive(conn, r, sending)
	conn.Close() // ends the sender
	r.sent = sent.Load()
	return r
}

// addrPort returns a TCP or UDP address; it is not valid for a unix socket.
func addrPort(a net.Addr) netip.AddrPort {
	ip, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	end := ip.AddrPort()
	return netip.AddrPortFrom(end.Addr().Unmap(), end.Port())
}

// send writes header and payload, in one call unless the header is split.
func (p *plan) send(conn stream, header []byte, sent *atomic.Int64) error {
	out := header
	for p.split > 0 && len(out) > 0 {
		n := min(p.split, len(out))
		if _, err := conn.Write(out[:n]); err != nil {
			return err
		}
		out = out[n:]
		time.Sleep(p.pause) // or the kernel may merge the pieces
	}
	first := len(out)
	out = append(out[:first:first], p.payload...)
	n, err := conn.Write(out)
	sent.Store(int64(max(0, n-first)))
	if err != nil {
		return err
	}
	if p.halfClose {
		return conn.CloseWrite()
	}
	return nil
}

// receive reads until the connection ends, an answer seems complete, or nothing
// has arrived for the timeout.
func (p *plan) receive(conn net.Conn, r *result, sending <-chan error) {
	start := time.Now()
	last := start
	isSent := false
	var sendErr error
	buffer := make([]byte, 64<<10)
	for {
		conn.SetReadDeadline(time.Now().Add(min(p.quiet, p.timeout)))
		n, err := conn.Read(buffer)
		if n > 0 {
			last = time.Now()
			r.take(buffer[:n], last.Sub(start))
		}
		select {
		case sendErr = <-sending:
			isSent = true
		default:
		}
		isQuiet := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case err == nil:
		case isQuiet && isSent && sendErr == nil && r.received > 0 && !p.halfClose:
			r.end = endOpen
			return
		case isQuiet && time.Since(last) >= p.timeout:
			r.end = endTimeout
			return
		case !isQuiet:
			if !isSent {
				sendErr = p.await(sending)
			}
			r.fail(err, sendErr)
			return
		}
	}
}

// await returns the error of the sender. It does not wait for a blocked sender: the
// other side has closed its direction and may not read any more.
func (p *plan) await(sending <-chan error) error {
	select {
	case err := <-sending:
		return err
	case <-time.After(p.quiet):
		return nil
	}
}

// sourceOf returns the address from which this host connects to address, or "".
// It sends nothing: connect(2) on a UDP socket only looks up the route.
func sourceOf(address string) string {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}
