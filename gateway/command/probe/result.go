package probe

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"unproxy/gateway/command/decode"
	"unproxy/gateway/command/usage"
	"unproxy/gateway/proxyproto"
)

// ending is how the connection of a probe ended.
type ending uint8

const (
	endClosed  ending = iota // the other side sent a FIN
	endOpen                  // an answer arrived, then no more data; the probe closed it
	endTimeout               // no data arrived before the timeout
	endReset                 // the other side sent an RST
	endFailed                // there was no connection, or it failed otherwise
)

// result is the result of a probe.
type result struct {
	connected  bool
	local      string // the probe's address; "" for a unix socket or if it is not known
	header     []byte
	headerName string
	connect    time.Duration // until the connection was established
	firstByte  time.Duration // from then until the first byte arrived
	beginning  []byte        // of the received data, at most usage.MaxQuoted+1 bytes
	received   int64         // bytes
	datagrams  int           // received; 0 for a stream
	sent       int64         // bytes of the payload
	end        ending
	err        error // for endReset and endFailed
}

// failed reports whether the probe failed: there was no connection, or it ended before
// an answer arrived.
func (r *result) failed() bool {
	switch r.end {
	case endClosed, endOpen:
		return false
	case endFailed:
		return true
	}
	return r.received == 0 && r.datagrams == 0
}

// fail sets the ending from the errors of reading and writing. If the writer got the
// reset, the reader gets a normal end.
func (r *result) fail(readErr, writeErr error) {
	for _, err := range []error{readErr, writeErr} {
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN) {
			r.end, r.err = endReset, err
			return
		}
	}
	if readErr == io.EOF {
		r.end = endClosed
		return
	}
	r.end, r.err = endFailed, readErr
}

// take records received bytes.
func (r *result) take(b []byte, since time.Duration) {
	if r.received == 0 {
		r.firstByte = since
	}
	room := usage.MaxQuoted + 1 - len(r.beginning)
	r.beginning = append(r.beginning, b[:min(room, len(b))]...)
	r.received += int64(len(b))
}

func (r *result) print(w io.Writer, p *plan) {
	fmt.Fprintf(w, "to           %s %s\n", p.network, p.address)
	if !r.connected {
		if r.end == endReset {
			fmt.Fprintf(w, "end          reset by the other side (RST) as soon as it accepted, after %v\n", short(r.connect))
		} else {
			fmt.Fprintf(w, "end          no connection after %v: %v\n", short(r.connect), r.err)
		}
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

func (r *result) printHeader(w io.Writer, p *plan) {
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

func (r *result) ending(p *plan) string {
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
	return fmt.Sprintf("failed: %v", r.err)
}

// printHint prints the probable cause of the ending.
func (r *result) printHint(w io.Writer, p *plan) {
	if hint := r.hint(p); hint != "" {
		fmt.Fprintf(w, "hint         %s\n", hint)
	}
}

func (r *result) hint(p *plan) string {
	if p.isDatagram() {
		return r.hintOfDatagrams(p)
	}
	switch {
	case errors.Is(r.err, syscall.ECONNREFUSED):
		return "nothing listens there: is the gateway running?"
	case r.received > 0 || r.end == endOpen:
		return ""
	case r.end == endReset && p.kind == headerNone:
		return "a gateway resets connections without a header, unless it has --untrusted pass and does not trust this host"
	case r.end == endReset:
		return "a gateway resets peers that it does not trust: " + r.trustHint() + " Clients that a rule, a ban or a limit refuses are reset, too. " +
			"The log of the gateway has the outcome"
	case r.end == endTimeout:
		return "does the backend wait for the client to send first? " +
			"In transparent mode: is there a return path for its replies? See unproxy routes check"
	case r.end == endClosed && p.kind == headerV2Local:
		return "a gateway with --local close ends health checks this way"
	}
	return ""
}

// trustHint asks whether the gateway trusts this host, and names its address.
func (r *result) trustHint() string {
	if host, _, err := net.SplitHostPort(r.local); err == nil {
		return "is this host (" + host + ") in its --trust?"
	}
	return "is this host in its --trust?"
}

// short rounds a duration for output.
func short(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}
