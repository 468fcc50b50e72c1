package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"unproxy/gateway/command/decode"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// probeEnd is how a probe's connection ended.
type probeEnd uint8

const (
	endClosed  probeEnd = iota // the other side sent a FIN
	endOpen                    // an answer came, then nothing more; we closed it
	endTimeout                 // nothing came for as long as the plan waits
	endReset                   // the other side sent an RST
	endFailed                  // there was no connection, or it broke otherwise
)

// probeResult is what a probe saw.
type probeResult struct {
	connected  bool
	local      string // our end; a unix socket's has no name
	header     []byte
	headerName string
	connect    time.Duration // until the connection stood
	firstByte  time.Duration // from there until the first byte came
	beginning  []byte        // of what came, at most usage.MaxQuoted bytes and one
	received   int64
	datagrams  int   // that came; 0 for a stream
	sent       int64 // of the payload
	end        probeEnd
	err        error // behind endReset and endFailed
}

// failed reports whether the connection came to nothing.
func (r *probeResult) failed() bool {
	switch r.end {
	case endClosed, endOpen:
		return false
	case endFailed:
		return true
	}
	return r.received == 0 && r.datagrams == 0
}

// stream is a connection of which one direction can be closed.
type stream interface {
	net.Conn
	CloseWrite() error
}

// run makes one connection and follows it to its end.
func (p *probePlan) run(ctx context.Context) *probeResult {
	if p.isDatagram() {
		return p.sendDatagram(ctx)
	}
	r := &probeResult{}
	start := time.Now()
	dialer := net.Dialer{Timeout: p.timeout}
	conn, err := dialer.DialContext(ctx, p.network, p.address)
	r.connect = time.Since(start)
	if err != nil {
		r.end, r.err = endFailed, err
		return r
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r.connected, r.local = true, conn.LocalAddr().String()
	if r.header, r.headerName, err = p.header(addrPort(conn.RemoteAddr())); err != nil {
		r.end, r.err = endFailed, err
		return r
	}
	sending := make(chan error, 1)
	var sent atomic.Int64
	go func() { sending <- p.send(conn.(stream), r.header, &sent) }()
	p.receive(conn, r, sending)
	conn.Close() // ends the sender, if it still sends
	r.sent = sent.Load()
	return r
}

// addrPort returns a TCP or UDP address; it is invalid for a unix socket.
func addrPort(a net.Addr) netip.AddrPort {
	ip, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	end := ip.AddrPort()
	return netip.AddrPortFrom(end.Addr().Unmap(), end.Port())
}

// send writes header and payload, together unless the header is split.
func (p *probePlan) send(conn stream, header []byte, sent *atomic.Int64) error {
	out := header
	for p.split > 0 && len(out) > 0 {
		n := min(p.split, len(out))
		if _, err := conn.Write(out[:n]); err != nil {
			return err
		}
		out = out[n:]
		time.Sleep(p.pause) // or the kernel may join the pieces
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

// receive reads until the connection ends, or an answer seems to be complete,
// or nothing has come for the plan's time-out.
func (p *probePlan) receive(conn net.Conn, r *probeResult, sending <-chan error) {
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
		switch {
		case err == nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded) && isSent && sendErr == nil && r.received > 0 && !p.halfClose:
			r.end = endOpen
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(last) < p.timeout:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			r.end = endTimeout
			return
		}
		r.end, r.err = endingOf(err, sendErr)
		return
	}
}

// take notes bytes that came.
func (r *probeResult) take(b []byte, since time.Duration) {
	if r.received == 0 {
		r.firstByte = since
	}
	room := usage.MaxQuoted + 1 - len(r.beginning)
	r.beginning = append(r.beginning, b[:min(room, len(b))]...)
	r.received += int64(len(b))
}

// endingOf tells how a connection ended from the errors of reading and
// writing. A reset that the writer met first is a mere end to the reader.
func endingOf(readErr, writeErr error) (probeEnd, error) {
	for _, err := range []error{readErr, writeErr} {
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			return endReset, err
		}
	}
	if readErr == io.EOF {
		return endClosed, nil
	}
	return endFailed, readErr
}

func (r *probeResult) print(w io.Writer, p *probePlan) {
	fmt.Fprintf(w, "to           %s %s\n", p.network, p.address)
	if !r.connected {
		fmt.Fprintf(w, "end          no connection after %v: %v\n", short(r.connect), r.err)
		r.printHint(w, p)
		return
	}
	if p.network != "unix" {
		fmt.Fprintf(w, "from         %s\n", r.local)
	}
	r.printHeader(w, p)
	if !p.isDatagram() {
		fmt.Fprintf(w, "connected    after %v\n", short(r.connect))
	}
	fmt.Fprintf(w, "sent         %d bytes of payload", r.sent)
	if len(p.payload) > 0 {
		fmt.Fprintf(w, " %s", usage.Quote(p.payload))
	}
	fmt.Fprintln(w)
	if p.isDatagram() {
		r.printDatagrams(w, p)
		r.printHint(w, p)
		return
	}
	if r.received > 0 {
		fmt.Fprintf(w, "first byte   after %v\n", short(r.firstByte))
		fmt.Fprintf(w, "received     %d bytes %s\n", r.received, usage.Quote(r.beginning))
	} else {
		fmt.Fprintf(w, "received     nothing\n")
	}
	fmt.Fprintf(w, "end          %s\n", r.ending(p))
	r.printHint(w, p)
}

func (r *probeResult) printHeader(w io.Writer, p *probePlan) {
	if len(r.header) == 0 {
		fmt.Fprintf(w, "header       none\n")
		return
	}
	fmt.Fprintf(w, "header       %s, %d bytes\n", r.headerName, len(r.header))
	if r.header[0] == 'P' {
		fmt.Fprintf(w, "bytes        %q\n", r.header)
		return
	}
	text := hex.EncodeToString(r.header[:min(len(r.header), usage.MaxQuoted)])
	if len(r.header) > usage.MaxQuoted {
		text += "…"
	}
	fmt.Fprintf(w, "bytes        %s\n", text)
	if p.kind == headerSimple {
		return
	}
	if h, err := proxyproto.Decode(r.header, &proxyproto.Options{Datagram: p.isDatagram()}); err == nil {
		for tlv := range proxyproto.All(h.TLVs) {
			decode.PrintTLV(w, tlv)
		}
		return
	}
	fmt.Fprintf(w, "note         the gateway should refuse this header, see unproxy decode --hex\n")
}

func (r *probeResult) ending(p *probePlan) string {
	switch r.end {
	case endClosed:
		return "closed by the other side (FIN)"
	case endOpen:
		return "closed by the probe: the answer seems complete"
	case endTimeout:
		return fmt.Sprintf("closed by the probe: nothing came for %v (timeout)", p.timeout)
	case endReset:
		return "reset by the other side (RST)"
	}
	return fmt.Sprintf("broken: %v", r.err)
}

// printHint says what the end probably means.
func (r *probeResult) printHint(w io.Writer, p *probePlan) {
	if hint := r.hint(p); hint != "" {
		fmt.Fprintf(w, "hint         %s\n", hint)
	}
}

func (r *probeResult) hint(p *probePlan) string {
	if p.isDatagram() {
		return r.hintOfDatagrams(p)
	}
	switch {
	case errors.Is(r.err, syscall.ECONNREFUSED):
		return "nothing listens there: is the gateway running?"
	case r.received > 0 || r.end == endOpen:
		return ""
	case r.end == endReset && p.kind == headerNone:
		return "a gateway resets a connection without a header, unless --untrusted pass takes this host as a client itself"
	case r.end == endReset:
		return "the gateway reset the connection: is this host" + fromHost(r.local) + " in its --trust? Its log names the outcome"
	case r.end == endTimeout:
		return "does the backend wait for the client to speak? In transparent mode: do its replies find their way back? See unproxy routes check"
	case r.end == endClosed && p.kind == headerV2Local:
		return "a gateway with --local close ends health checks so"
	}
	return ""
}

// fromHost names the address that the gateway sees as the peer's.
func fromHost(local string) string {
	if host, _, err := net.SplitHostPort(local); err == nil {
		return " (" + host + ")"
	}
	return ""
}

// short rounds a duration to what is worth reading.
func short(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}
