package engine

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// headerChunk is the size of one read while the header is incomplete. What follows the header must
// be kept until the backend is connected.
const headerChunk = slotSize

// leastHeaderChunk is the size if memory is short, see buffers.
const leastHeaderChunk = 1 << 10

// headerRoom returns the size of the next read of a header.
func (l *loop) headerRoom() int {
	if l.engine.buffers.full() {
		return leastHeaderChunk
	}
	return headerChunk
}

// readHeader reads until the header is complete, the connection ends or the socket is empty.
func (s *session) readHeader(l *loop) {
	for s.sides[peer].readable {
		room := l.headerRoom()
		b := l.buffer[:room:room]
		n, errno := l.kernel.Recv(int(s.sides[peer].fd), b)
		if errno != unix.EINTR && !s.headerRead(l, b[:n], errno) {
			return
		}
	}
}

// headerRead handles the result of a read of up to cap(b) bytes, and reports whether to read on.
func (s *session) headerRead(l *loop, b []byte, errno syscall.Errno) bool {
	d := &s.sides[peer]
	switch {
	case errno == unix.EAGAIN:
		d.readable = false
		return false
	case errno != 0:
		s.headerReadFailed(l, errno)
		return false
	case len(b) == 0:
		s.headerEOF(l)
		return false
	}
	d.readable = d.mayHoldMore(len(b) < cap(b))
	if len(d.held) > 0 {
		d.held = append(d.held, b...)
		l.charge(d)
		b = d.held
	}
	return !s.decodeHeader(l, b)
}

// decodeHeader strips the headers from b, which is everything that was received and not decoded
// yet. It returns false if more bytes are needed. Of stacked headers, LOCAL is the last: its sender
// opened the connection for itself, so nothing that it relays follows.
func (s *session) decodeHeader(l *loop, b []byte) bool {
	f := s.listener.forward
	for {
		h, err := proxyproto.Decode(b, &f.Header)
		if err != nil {
			s.rejectHeader(l, b, err)
			return true
		}
		if h.Result == proxyproto.Incomplete {
			if d := &s.sides[peer]; len(d.held) != len(b) {
				l.release(d)
				l.hold(d, b)
			}
			l.heardWaiting(s)
			return false
		}
		s.headers++
		kind := kindOf(&h)
		s.version, s.command = h.Version, kind.Command()
		if int(s.headers) >= f.Headers || h.Result == proxyproto.Local {
			l.removeWaiting()
			s.headerAt = l.kernel.Now()
			s.details = Details(h.TLVs)
			s.tally.Headers[kind]++
			s.tally.ObserveHeader(time.Duration(s.headerAt - s.acceptedAt))
			l.release(&s.sides[peer])
			s.applyHeader(l, &h, b[h.Length:])
			return true
		}
		b = b[h.Length:]
	}
}

// HeaderOutcome returns the outcome of a connection whose header was rejected for a reason.
func HeaderOutcome(r proxyproto.Reason) record.Outcome {
	switch r.Class() {
	case proxyproto.NotProxy:
		return record.NotProxy
	case proxyproto.TooLong:
		return record.TooLong
	case proxyproto.Unsupported:
		return record.Unsupported
	case proxyproto.BadChecksum:
		return record.BadChecksum
	}
	return record.Malformed
}

func kindOf(h *proxyproto.Header) record.HeaderKind {
	switch {
	case h.Version == 1 && h.Result == proxyproto.Proxy:
		return record.V1Proxy
	case h.Version == 1:
		return record.V1Unknown
	case h.Result == proxyproto.Proxy:
		return record.V2Proxy
	case h.Result == proxyproto.Local:
		return record.V2Local
	}
	return record.V2Unknown
}
