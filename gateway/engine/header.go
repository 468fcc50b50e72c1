package engine

import (
	"time"

	"golang.org/x/sys/unix"

	"unproxy/gateway/proxyproto"
	"unproxy/gateway/record"
)

// headerChunk is how much is read at once while the header is awaited: what
// follows it must be kept until the backend is there.
const headerChunk = 16 << 10

// read is the header phase.
func (s *session) read(l *loop) {
	d := &s.sides[peer]
	for d.readable {
		n, errno := l.kernel.Recv(d.fd, l.buffer[:headerChunk])
		switch {
		case errno == unix.EAGAIN:
			d.readable = false
			return
		case errno == unix.EINTR:
			continue
		case errno != 0:
			s.readFailed(l, errno)
			return
		case n == 0:
			s.readEnded(l)
			return
		}
		d.readable = n == headerChunk || d.hungUp || d.urgent
		b := l.buffer[:n]
		if len(d.held) > 0 {
			d.held = append(d.held, b...)
			b = d.held
		}
		if s.decode(l, b) {
			return
		}
	}
}

// decode takes the headers off the beginning of b, which is all that has come
// and was not decoded. It returns false when more is needed.
func (s *session) decode(l *loop, b []byte) bool {
	f := s.listener.forward
	for {
		h, err := proxyproto.Decode(b, &f.Header)
		if err != nil {
			s.refused(l, b, err)
			return true
		}
		if h.Result == proxyproto.Incomplete {
			if held := &s.sides[peer].held; len(*held) != len(b) {
				*held = append([]byte(nil), b...)
			}
			return false
		}
		s.headers++
		s.version = h.Version
		if int(s.headers) >= f.Headers {
			l.awaited()
			s.headed = l.kernel.Now()
			s.details = Details(h.TLVs)
			s.tally.Headers[kindOf(&h)]++
			s.tally.HeaderTime.observe(time.Duration(s.headed-s.began), &shortBounds)
			s.sides[peer].held = nil
			s.decide(l, &h, b[h.Length:])
			return true
		}
		b = b[h.Length:]
	}
}

// HeaderOutcome says how a connection ends whose header was refused for a reason.
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
